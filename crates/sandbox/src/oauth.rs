//! Signing in: the token endpoint, and what a token opens. The pages are in [`crate::login`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::access;
use crate::caller::Caller;
use crate::definition::{App, Flow, Permissions};
use crate::org::Org;
use crate::rest::Answer;
use crate::schema::Schema;

/// Minutes for which an authorization code is good. Source: OAuth web server flow (unverified).
const CODE_MINUTES: i64 = 15;

/// A session: what an access token opens.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) caller: Arc<Caller>,
    pub(crate) scopes: Vec<String>,
    /// Consumer key of the app; of none for a token that was there from the start.
    client_id: String,
    /// Minutes without use after which it ends.
    minutes: i64,
    issued: DateTime<Utc>,
    used: DateTime<Utc>,
    /// The refresh tokens that it came from.
    family: Option<String>,
}

/// An authorization code that was not used yet.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) client_id: String,
    pub(crate) redirect: String,
    pub(crate) username: String,
    pub(crate) scopes: Vec<String>,
    /// What the proof key must hash to.
    pub(crate) challenge: Option<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) at: DateTime<Utc>,
}

/// A refresh token.
#[derive(Debug, Clone)]
struct RefreshToken {
    client_id: String,
    username: String,
    scopes: Vec<String>,
    family: String,
    /// False once it was replaced.
    live: bool,
    first: DateTime<Utc>,
    used: DateTime<Utc>,
}

/// What an access token comes with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Issue {
    pub(crate) refresh: Option<String>,
    family: Option<String>,
    nonce: Option<String>,
    /// True for flows that say who the user is.
    identifies: bool,
}

/// What signing in remembers.
#[derive(Default)]
struct Memory {
    sessions: HashMap<String, Session>,
    codes: HashMap<String, Code>,
    refresh: HashMap<String, RefreshToken>,
    /// User id to password.
    passwords: HashMap<String, String>,
    /// Names of permissions to the schema that they leave.
    schemas: HashMap<Vec<String>, Arc<Schema>>,
    /// Cookie of a browser to the user who signed in there.
    browsers: HashMap<String, String>,
}

/// Everything about signing in.
pub(crate) struct SignIn {
    pub(crate) apps: Vec<App>,
    memory: Mutex<Memory>,
    /// Signs id tokens; made when it is first needed, since that takes a moment.
    key: OnceLock<Option<KeyPair>>,
}

impl SignIn {
    pub(crate) fn new(apps: Vec<App>) -> Self {
        Self { apps, memory: Mutex::default(), key: OnceLock::new() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn app(&self, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.client_id == client_id)
    }

    /// Returns the key that signs id tokens; `None` if none can be made.
    pub(crate) fn key(&self) -> Option<&KeyPair> {
        self.key.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).ok()).as_ref()
    }
}

/// A refusal of the token endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) error: &'static str,
    pub(crate) description: String,
}

impl Refusal {
    pub(crate) fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: 400, error, description: description.into() }
    }

    fn grant(description: &str) -> Self {
        Self::new("invalid_grant", description)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let body = json!({"error": refusal.error, "error_description": refusal.description});
        Self::json(refusal.status, &body).with("pragma", "no-cache")
    }
}

type Granted<T> = Result<T, Refusal>;

/// Returns random text for tokens.
pub(crate) fn random(bytes: usize) -> String {
    let mut noise = vec![0; bytes];
    // The system's generator fails only where there is none; then every token is refused.
    if rand::fill(&mut noise).is_err() {
        tracing::error!("no randomness for tokens");
    }
    URL_SAFE_NO_PAD.encode(noise)
}

/// Reads a range of addresses, or one address.
pub(crate) fn ip_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}

impl Org {
    /// Opens a session with a token that is known from elsewhere.
    pub(crate) fn open_session(&self, token: String, caller: Arc<Caller>) {
        let now = self.now();
        let session = Session {
            caller,
            scopes: vec!["full".to_owned()],
            client_id: String::new(),
            minutes: i64::MAX / 60_000_000,
            issued: now,
            used: now,
            family: None,
        };
        self.sign_in.memory().sessions.insert(token, session);
    }

    /// Lets a refresh token be used that is known from elsewhere.
    pub(crate) fn know_refresh_token(&self, token: String, client_id: &str) {
        let now = self.now();
        let known = RefreshToken {
            client_id: client_id.to_owned(),
            username: self.system().username.clone(),
            scopes: vec!["api".to_owned(), "refresh_token".to_owned()],
            family: random(12),
            live: true,
            first: now,
            used: now,
        };
        self.sign_in.memory().refresh.insert(token, known);
    }

    /// Finds the user of a session and moves the session's end.
    pub(crate) fn session(&self, token: &str) -> Option<Session> {
        let now = self.now();
        let mut memory = self.sign_in.memory();
        let session = memory.sessions.get_mut(token)?;
        if now - session.used > TimeDelta::minutes(session.minutes) {
            memory.sessions.remove(token);
            return None;
        }
        session.used = now;
        Some(session.clone())
    }

    /// Lets those who are signed in see what there is now.
    pub(crate) fn renew_callers(&self) {
        let mut memory = self.sign_in.memory();
        memory.schemas.clear();
        let users: HashSet<String> = memory.sessions.values().map(|session| session.caller.username.clone()).collect();
        drop(memory);
        for user in users {
            let Ok(caller) = self.caller(&user) else { continue };
            let mut memory = self.sign_in.memory();
            for session in memory.sessions.values_mut().filter(|session| session.caller.username == user) {
                session.caller = caller.clone();
            }
        }
    }

    /// Ends every session.
    pub(crate) fn expire_sessions(&self) {
        self.sign_in.memory().sessions.clear();
    }

    /// Ends the sessions of one user.
    pub(crate) fn expire_sessions_of(&self, username: &str) {
        self.sign_in.memory().sessions.retain(|_, session| session.caller.username != username);
    }

    pub(crate) fn set_password(&self, user_id: &str, password: &str) {
        self.sign_in.memory().passwords.insert(user_id.to_owned(), password.to_owned());
    }

    /// Returns the user as a caller.
    ///
    /// # Errors
    ///
    /// When there is no such user or it is inactive.
    pub(crate) fn caller(&self, username: &str) -> Granted<Arc<Caller>> {
        if username.eq_ignore_ascii_case(&self.system().username) {
            return Ok(self.system());
        }
        let found = self.read(|connection| {
            let sql = "SELECT u.Id, u.Username, u.IsActive, u.TimeZoneSidKey, p.Name FROM User u \
                       LEFT JOIN Profile p ON p.Id=u.ProfileId WHERE u.Username=?";
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([username])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let text = |at: usize| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
            let sql = "SELECT s.Name FROM PermissionSetAssignment a JOIN PermissionSet s ON s.Id=a.PermissionSetId \
                       WHERE a.AssigneeId=?";
            let mut assigned = connection.prepare(sql)?;
            let sets = assigned.query_map([text(0)?], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            Ok(Some((text(0)?, text(1)?, row.get::<_, bool>(2)?, text(3)?, text(4)?, sets)))
        });
        let Ok(Some((user_id, username, active, zone, profile, assigned))) = found else {
            return Err(Refusal::grant("authentication failure"));
        };
        if !active {
            return Err(Refusal::new("inactive_user", "user is inactive"));
        }
        let definition = &self.config.definition;
        let user = definition.users.iter().find(|user| user.username.eq_ignore_ascii_case(&username));
        let sets = user.map_or(&[][..], |user| user.permission_sets.as_slice());
        let mut names: Vec<String> = std::iter::once(profile.clone()).chain(sets.iter().cloned()).collect();
        names.extend(assigned.into_iter().filter(|name| !sets.contains(name)));
        let setup = self.setup();
        let given = given(&setup.permissions, &names);
        let administrates = profile == "System Administrator";
        let admin = administrates || access::allows(&given, "ModifyAllData");
        let hard_delete = access::allows(&given, "BulkApiHardDelete");
        let views_all = access::allows(&given, "ViewAllData");
        let all = setup.schema.clone();
        let schema = if admin {
            all.clone()
        } else {
            let known = self.sign_in.memory().schemas.get(&names).cloned();
            known.unwrap_or_else(|| {
                let seen = Arc::new(access::visible(&all, &given));
                self.sign_in.memory().schemas.insert(names, seen.clone());
                seen
            })
        };
        Ok(Arc::new(Caller {
            user_id,
            username,
            zone: zone.parse().unwrap_or(chrono_tz::Tz::UTC),
            schema,
            all,
            admin,
            views_all,
            hard_delete: hard_delete || administrates,
        }))
    }

    /// Checks a password; the answer does not tell whether the user exists.
    pub(crate) fn check_password(&self, username: &str, password: &str) -> Granted<Arc<Caller>> {
        let caller = self.caller(username)?;
        let known = self.sign_in.memory().passwords.get(&caller.user_id).cloned();
        match known {
            Some(known) if !password.is_empty() && known == password => Ok(caller),
            _ => Err(Refusal::grant("authentication failure")),
        }
    }

    /// Checks that a user may use an app.
    pub(crate) fn check_approval(&self, app: &App, caller: &Caller) -> Granted<()> {
        if app.blocked {
            return Err(Refusal::new("OAUTH_APP_BLOCKED", "this app is blocked by admin"));
        }
        let Some(approved) = &app.approved else { return Ok(()) };
        let user =
            self.config.definition.users.iter().find(|user| user.username.eq_ignore_ascii_case(&caller.username));
        let profile = user.map_or("System Administrator", |user| user.profile.as_str());
        let sets = user.map_or(&[][..], |user| user.permission_sets.as_slice());
        if approved.iter().any(|name| name == profile || sets.contains(name)) {
            return Ok(());
        }
        Err(Refusal::new("invalid_app_access", "user is not admin approved to access this app"))
    }

    /// Answers `POST /services/oauth2/token`.
    pub(crate) fn token(
        &self,
        form: &HashMap<String, String>,
        basic: Option<(String, String)>,
        from: IpAddr,
    ) -> Answer {
        match self.grant(form, basic, from) {
            Ok(body) => match form.get("format").map(String::as_str) {
                Some("urlencoded") => {
                    let pairs = body.as_object().into_iter().flatten().map(|(name, value)| {
                        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        format!("{name}={}", crate::login::encoded(&text))
                    });
                    let text = pairs.collect::<Vec<_>>().join("&");
                    Answer::bytes(200, "application/x-www-form-urlencoded;charset=UTF-8", text.into_bytes())
                }
                Some("xml") => {
                    Answer::bytes(200, "application/xml;charset=UTF-8", crate::xml::render("OAuth", &body).into_bytes())
                }
                _ => Answer::json(200, &body),
            },
            Err(refusal) => refusal.into(),
        }
    }

    /// Finds the app that a form speaks for, and checks its secret.
    fn client(&self, form: &HashMap<String, String>, basic: Option<&(String, String)>) -> Granted<&App> {
        let get = |name: &str| form.get(name).map(String::as_str);
        let (id, secret) = match basic {
            Some((id, secret)) => (Some(id.as_str()), Some(secret.as_str())),
            None => (get("client_id"), get("client_secret")),
        };
        let app = id
            .and_then(|id| self.sign_in.app(id))
            .ok_or_else(|| Refusal::new("invalid_client_id", "client identifier invalid"))?;
        if get("client_assertion_type").is_some() {
            self.check_assertion(app, get("client_assertion").unwrap_or_default())
                .map_err(|_| Refusal::new("invalid_client", "invalid client credentials"))?;
            return Ok(app);
        }
        let grant = get("grant_type").unwrap_or_default();
        // A client with a proof key, and one that refreshes, may be a public one.
        let needed = app.secret_required || !matches!(grant, "authorization_code" | "refresh_token");
        match secret {
            Some(secret) if secret == app.client_secret => Ok(app),
            None if !needed => Ok(app),
            _ => Err(Refusal::new("invalid_client", "invalid client credentials")),
        }
    }

    fn grant(&self, form: &HashMap<String, String>, basic: Option<(String, String)>, from: IpAddr) -> Granted<Value> {
        let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let flow = match get("grant_type") {
            "authorization_code" => Flow::AuthorizationCode,
            "refresh_token" | "hybrid_refresh" => Flow::RefreshToken,
            "client_credentials" => Flow::ClientCredentials,
            "password" => Flow::Password,
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => Flow::JwtBearer,
            "urn:ietf:params:oauth:grant-type:token-exchange" => Flow::TokenExchange,
            _ => return Err(Refusal::new("unsupported_grant_type", "grant type not supported")),
        };
        let app = match flow {
            // The assertion itself is signed by the app.
            Flow::JwtBearer => self.issuer(get("assertion"))?,
            _ => self.client(form, basic.as_ref())?,
        };
        let on = app.flows.contains(&flow);
        if !on && flow == Flow::ClientCredentials {
            return Err(Refusal::new("invalid_request", "client credentials flow not enabled"));
        }
        if !on || flow == Flow::Password && !self.config.definition.organization.password_flow {
            let text = if flow == Flow::Password { "authentication failure" } else { "grant type not supported" };
            let error = if flow == Flow::Password { "invalid_grant" } else { "unsupported_grant_type" };
            return Err(Refusal::new(error, text));
        }
        let ranges: Vec<_> = app.ip_ranges.iter().filter_map(|range| ip_range(range)).collect();
        if !ranges.is_empty() && !ranges.iter().any(|(first, last)| (*first..=*last).contains(&from)) {
            return Err(Refusal::grant("ip restricted"));
        }
        match flow {
            Flow::ClientCredentials => {
                let user = app.run_as.as_deref().ok_or_else(|| Refusal::grant("no client credentials user enabled"))?;
                let caller = self.caller(user)?;
                let scopes = app.scopes.iter().filter(|scope| *scope != "refresh_token").cloned().collect();
                Ok(self.granted(app, caller, scopes, Issue::default()))
            }
            Flow::JwtBearer => {
                let username = self.check_assertion(app, get("assertion"))?;
                let caller =
                    self.caller(&username).map_err(|_| Refusal::grant("user hasn't approved this consumer"))?;
                self.check_approval(app, &caller)?;
                let scopes = app.scopes.iter().filter(|scope| *scope != "refresh_token").cloned().collect();
                Ok(self.granted(app, caller, scopes, Issue::default()))
            }
            Flow::Password => {
                let caller = self.check_password(get("username"), get("password"))?;
                self.check_approval(app, &caller)?;
                Ok(self.granted(app, caller, vec!["api".to_owned(), "id".to_owned()], Issue::default()))
            }
            Flow::TokenExchange => self.exchanged(app, get("subject_token"), get("scope")),
            Flow::RefreshToken => self.refreshed(app, get("refresh_token")),
            Flow::AuthorizationCode => self.redeemed(app, form),
            Flow::UserAgent => Err(Refusal::new("unsupported_grant_type", "grant type not supported")),
        }
    }

    /// Makes an authorization code.
    pub(crate) fn make_code(&self, code: Code) -> String {
        let text = format!("aPrx{}", random(40));
        self.sign_in.memory().codes.insert(text.clone(), code);
        text
    }

    fn redeemed(&self, app: &App, form: &HashMap<String, String>) -> Granted<Value> {
        let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let code = self.sign_in.memory().codes.remove(get("code"));
        let code = code
            .filter(|code| code.client_id == app.client_id)
            .ok_or_else(|| Refusal::grant("invalid authorization code"))?;
        if self.now() - code.at > TimeDelta::minutes(CODE_MINUTES) {
            return Err(Refusal::grant("expired authorization code"));
        }
        if code.redirect != get("redirect_uri") {
            return Err(Refusal::new("redirect_uri_mismatch", "redirect_uri must match configuration"));
        }
        if let Some(challenge) = &code.challenge {
            let hash = digest::digest(&digest::SHA256, get("code_verifier").as_bytes());
            if URL_SAFE_NO_PAD.encode(hash) != *challenge {
                return Err(Refusal::grant("invalid code verifier"));
            }
        }
        let caller = self.caller(&code.username)?;
        let issue = Issue {
            nonce: code.nonce,
            identifies: true,
            ..self.first_refresh_token(app, &code.username, &code.scopes)
        };
        Ok(self.granted(app, caller, code.scopes, issue))
    }

    /// Makes the first refresh token of a family, if the scopes ask for one.
    pub(crate) fn first_refresh_token(&self, app: &App, username: &str, scopes: &[String]) -> Issue {
        let wanted = scopes.iter().any(|scope| scope == "refresh_token" || scope == "offline_access");
        if !wanted || !app.flows.contains(&Flow::RefreshToken) {
            return Issue::default();
        }
        let (token, family, now) = (format!("5Aep{}", random(48)), random(12), self.now());
        let made = RefreshToken {
            client_id: app.client_id.clone(),
            username: username.to_owned(),
            scopes: scopes.to_vec(),
            family: family.clone(),
            live: true,
            first: now,
            used: now,
        };
        self.sign_in.memory().refresh.insert(token.clone(), made);
        Issue { refresh: Some(token), family: Some(family), ..Issue::default() }
    }

    /// With rotation each refresh token is good once; showing an old one again ends its whole family.
    fn refreshed(&self, app: &App, token: &str) -> Granted<Value> {
        let ended = || Refusal::grant("expired access/refresh token");
        let now = self.now();
        let (known, next) = {
            let mut memory = self.sign_in.memory();
            let known = memory.refresh.get(token).filter(|known| known.client_id == app.client_id).cloned();
            let known = known.ok_or_else(ended)?;
            let idle = app.refresh.idle_minutes.is_some_and(|minutes| now - known.used > TimeDelta::minutes(minutes));
            let old =
                app.refresh.lifetime_minutes.is_some_and(|minutes| now - known.first > TimeDelta::minutes(minutes));
            if !known.live || idle || old {
                memory.refresh.retain(|_, other| other.family != known.family);
                memory.sessions.retain(|_, session| session.family.as_ref() != Some(&known.family));
                return Err(ended());
            }
            let mut next = None;
            if app.refresh.rotation {
                let text = format!("5Aep{}", random(48));
                let successor = RefreshToken { used: now, ..known.clone() };
                memory.refresh.insert(text.clone(), successor);
                next = Some(text);
            }
            if let Some(known) = memory.refresh.get_mut(token) {
                (known.live, known.used) = (!app.refresh.rotation, now);
            }
            (known, next)
        };
        let caller = self.caller(&known.username)?;
        let issue = Issue { refresh: next, family: Some(known.family), ..Issue::default() };
        Ok(self.granted(app, caller, known.scopes, issue))
    }

    /// Takes a token of another issuer for the user that its subject names. The handler that would check it is Apex;
    /// here nobody does.
    fn exchanged(&self, app: &App, token: &str, scope: &str) -> Granted<Value> {
        let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Value = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let subject = claims["sub"].as_str().ok_or_else(|| Refusal::grant("invalid assertion"))?;
        let caller = self.caller(subject).map_err(|_| Refusal::grant("user hasn't approved this consumer"))?;
        self.check_approval(app, &caller)?;
        let scopes = allowed_scopes(app, scope)?;
        let mut body = self.granted(app, caller, scopes, Issue { identifies: true, ..Issue::default() });
        body["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
        Ok(body)
    }

    /// Returns the app that an assertion says it comes from.
    fn issuer(&self, assertion: &str) -> Granted<&App> {
        let claims = assertion.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Value = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let issuer = claims["iss"].as_str().ok_or_else(|| Refusal::grant("invalid assertion"))?;
        self.sign_in.app(issuer).ok_or_else(|| Refusal::new("invalid_client_id", "client identifier invalid"))
    }

    /// Checks a signed assertion and returns the user that it names.
    fn check_assertion(&self, app: &App, assertion: &str) -> Granted<String> {
        let key = app.public_key.as_deref().ok_or_else(|| Refusal::grant("user hasn't approved this consumer"))?;
        let invalid = || Refusal::grant("invalid assertion");
        let key = jsonwebtoken::DecodingKey::from_rsa_pem(key.as_bytes()).map_err(|_| invalid())?;
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        // The org's clock may have been moved: the time is checked below.
        rules.validate_exp = false;
        rules.set_audience(&["https://login.salesforce.com", "https://test.salesforce.com", self.url()]);
        rules.set_issuer(&[&app.client_id]);
        let claims = jsonwebtoken::decode::<Value>(assertion, &key, &rules).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidAudience => Refusal::grant("audience is invalid"),
            jsonwebtoken::errors::ErrorKind::InvalidIssuer => Refusal::grant("client identifier invalid"),
            _ => invalid(),
        })?;
        let end = claims.claims["exp"].as_f64().ok_or_else(invalid)?;
        if (self.now().timestamp() as f64) > end + 30.0 {
            return Err(invalid());
        }
        claims.claims["sub"].as_str().map(str::to_owned).ok_or_else(invalid)
    }

    /// Opens a session and returns the answer that tells of it.
    pub(crate) fn granted(&self, app: &App, caller: Arc<Caller>, scopes: Vec<String>, issue: Issue) -> Value {
        let token = format!("{}!{}", &self.org_id[..15], random(66));
        let now = self.now();
        let identity = self.identity(&caller);
        let issued = now.timestamp_millis().to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, app.client_secret.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, format!("{identity}{issued}").as_bytes()));
        let mut body = json!({
            "access_token": token, "signature": signature, "scope": scopes.join(" "), "instance_url": self.url(),
            "id": identity, "token_type": "Bearer", "issued_at": issued,
        });
        if let Some(refresh) = &issue.refresh {
            body["refresh_token"] = json!(refresh);
        }
        if issue.identifies && scopes.iter().any(|scope| scope == "openid") {
            body["id_token"] = json!(self.id_token(app, &caller, &identity, issue.nonce));
        }
        let session = Session {
            caller,
            scopes,
            client_id: app.client_id.clone(),
            minutes: app.session_minutes,
            issued: now,
            used: now,
            family: issue.family,
        };
        self.sign_in.memory().sessions.insert(token, session);
        body
    }

    /// Ends a session, or a refresh token with all that came of it.
    pub(crate) fn revoke(&self, token: &str) -> Answer {
        let mut memory = self.sign_in.memory();
        if memory.sessions.remove(token).is_some() {
            return Answer::empty(200);
        }
        match memory.refresh.get(token).cloned() {
            Some(known) => {
                memory.refresh.retain(|_, other| other.family != known.family);
                memory.sessions.retain(|_, session| session.family.as_ref() != Some(&known.family));
                Answer::empty(200)
            }
            None => Refusal::new("unsupported_token_type", "invalid token").into(),
        }
    }

    /// Answers `POST /services/oauth2/introspect`.
    pub(crate) fn introspect(&self, form: &HashMap<String, String>, basic: Option<(String, String)>) -> Answer {
        let app = match self.client(form, basic.as_ref()) {
            Ok(app) => app,
            Err(refusal) => return Refusal { status: 401, ..refusal }.into(),
        };
        let token = form.get("token").map(String::as_str).unwrap_or_default();
        let own = |client_id: &str| app.introspect_all || client_id == app.client_id;
        let memory = self.sign_in.memory();
        let session = memory.sessions.get(token).filter(|session| own(&session.client_id));
        if let Some(session) =
            session.filter(|session| self.now() - session.used <= TimeDelta::minutes(session.minutes))
        {
            let issued = session.issued.timestamp();
            return Answer::json(
                200,
                &json!({"active": true, "scope": session.scopes.join(" "), "client_id": session.client_id,
                        "username": session.caller.username, "sub": self.identity(&session.caller),
                        "token_type": "access_token", "exp": (session.used + TimeDelta::minutes(session.minutes)).timestamp(),
                        "iat": issued, "nbf": issued}),
            );
        }
        if let Some(known) = memory.refresh.get(token).filter(|known| known.live && own(&known.client_id)) {
            return Answer::json(
                200,
                &json!({"active": true, "scope": known.scopes.join(" "), "client_id": known.client_id,
                        "username": known.username, "token_type": "refresh_token", "iat": known.first.timestamp()}),
            );
        }
        Answer::json(200, &json!({"active": false}))
    }

    /// Remembers that a user signed in with a browser; returns its cookie.
    pub(crate) fn remember_browser(&self, username: &str) -> String {
        let cookie = random(24);
        self.sign_in.memory().browsers.insert(cookie.clone(), username.to_owned());
        cookie
    }

    /// Returns who signed in with a browser.
    pub(crate) fn browser(&self, cookie: &str) -> Option<String> {
        self.sign_in.memory().browsers.get(cookie).cloned()
    }
}

/// Returns the scopes that an app is given of those it asks for; all that it may have if it asks for none.
pub(crate) fn allowed_scopes(app: &App, asked: &str) -> Granted<Vec<String>> {
    if asked.trim().is_empty() {
        return Ok(app.scopes.clone());
    }
    let known = |scope: &str| {
        let name = if scope == "offline_access" { "refresh_token" } else { scope };
        app.scopes.iter().any(|allowed| allowed == name || allowed == "full" && name != "refresh_token")
    };
    let scopes: Vec<String> = asked.split_whitespace().map(str::to_owned).collect();
    if scopes.iter().all(|scope| known(scope)) {
        Ok(scopes)
    } else {
        Err(Refusal::new("invalid_scope", "the requested scope is not allowed"))
    }
}

/// Returns the permissions of these names.
fn given<'p>(permissions: &'p BTreeMap<String, Permissions>, names: &[String]) -> Vec<&'p Permissions> {
    names.iter().filter_map(|name| permissions.get(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_of_the_app() {
        let app = App { scopes: vec!["api".to_owned(), "refresh_token".to_owned()], ..App::default() };
        assert_eq!(allowed_scopes(&app, "api offline_access"), Ok(vec!["api".to_owned(), "offline_access".to_owned()]));
        assert_eq!(allowed_scopes(&app, "").map(|scopes| scopes.len()), Ok(2));
        assert_eq!(allowed_scopes(&app, "api web").map_err(|refusal| refusal.error), Err("invalid_scope"));
    }

    #[test]
    fn ranges_of_addresses_are_read() {
        assert!(ip_range("10.0.0.1-10.0.0.9").is_some_and(|(from, to)| from < to));
        assert!(ip_range("127.0.0.1").is_some());
        assert!(ip_range("here").is_none());
    }
}
