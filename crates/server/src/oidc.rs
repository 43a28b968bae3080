//! Signing in to the console by somebody else's word: the authorization code flow with PKCE. Source: OpenID Connect Core 1.0,
//! sections 3.1 and 3.1.3.7; Discovery 1.0; RFC 7636.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use outbound::{Client, Request, Settings};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use state::Role;

use crate::alerts::Resolve;

/// Where the provider leads back to, below the address of the console.
pub(crate) const CALLBACK: &str = "/sign-in/oidc/callback";
/// How long somebody may take at the provider's.
const PATIENCE: Duration = Duration::from_mins(10);
/// Most sign-ins under way; the oldest goes for a new one.
const MOST: usize = 1_000;
/// How a provider may sign: by a key whose other half only it has.
const SIGNED: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Who vouches for people, as it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The provider's address, as its ID tokens name it: `.well-known/openid-configuration` is found below.
    issuer: String,
    /// What the provider knows this console by.
    client_id: String,
    /// The secret of that client, where it has one: a reference.
    #[serde(default)]
    client_secret: Option<String>,
    /// The address of the console as browsers reach it, where that is not the one it listens on: the provider leads back to
    /// `/sign-in/oidc/callback` below it.
    #[serde(default)]
    console: Option<String>,
    /// What is asked for besides `openid`.
    #[serde(default = "OidcConfig::default_scopes")]
    scopes: Vec<String>,
    /// The claim of the ID token that decides what somebody may do: a text, or a list of them.
    #[serde(default = "OidcConfig::default_claim")]
    claim: String,
    /// Values of the claim, by the role that they give; of several the highest counts. Whoever has none may not look.
    roles: BTreeMap<RoleWord, Vec<String>>,
}

/// A role, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RoleWord {
    /// Look.
    Viewer,
    /// Run, pause, decide, replay.
    Operator,
    /// Everything.
    Admin,
}

impl RoleWord {
    fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
        }
    }
}

impl OidcConfig {
    fn default_scopes() -> Vec<String> {
        vec!["profile".to_owned(), "email".to_owned()]
    }

    fn default_claim() -> String {
        "groups".to_owned()
    }

    /// Makes it ready; `resolve` follows references to what is secret.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence about it.
    pub fn open(&self, resolve: &Resolve<'_>) -> Result<Oidc, String> {
        let addresses = [("issuer", Some(&self.issuer)), ("console", self.console.as_ref())];
        for (name, address) in addresses.into_iter().filter_map(|(name, address)| Some((name, address?))) {
            let near = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
            if !address.starts_with("https://") && !near.iter().any(|near| address.starts_with(near)) {
                return Err(format!("`{name}: {address}` has to begin with https://"));
            }
        }
        if self.roles.values().all(Vec::is_empty) {
            return Err(
                "`roles` gives nobody a role; name values of the claim below viewer, operator or admin".to_owned()
            );
        }
        let secret = self.client_secret.as_deref().map(resolve).transpose()?;
        let client = Client::new(Settings { retries: 1, ..Settings::default() }).map_err(|error| error.to_string())?;
        let console = self.console.clone().unwrap_or_default();
        Ok(Oidc { config: self.clone(), console, secret, client, waiting: Mutex::default() })
    }
}

/// Who vouches for people.
pub struct Oidc {
    config: OidcConfig,
    /// The address of the console.
    console: String,
    secret: Option<SecretString>,
    client: Client,
    /// Sign-ins under way, by their state.
    waiting: Mutex<HashMap<String, Waiting>>,
}

impl std::fmt::Debug for Oidc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oidc").field("issuer", &self.config.issuer).finish_non_exhaustive()
    }
}

/// Somebody who is at the provider's.
struct Waiting {
    begun: Instant,
    /// What the browser holds that they left with.
    browser: String,
    nonce: String,
    verifier: String,
}

/// Where the provider's parts are.
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Whom the provider vouches for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// Why somebody is not signed in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The provider can't be used, or what it says is not to be believed.
    Provider(String),
    /// It took too long, or was begun elsewhere.
    Stale,
    /// They are who they are, and have no role.
    NoRole(String),
}

fn text(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

impl Oidc {
    /// The same, for a console that listens here.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        if self.console.is_empty() {
            self.console = format!("http://{address}");
        }
        self
    }

    /// Returns what the provider is called on a button: its host.
    pub(crate) fn name(&self) -> &str {
        host_of(&self.config.issuer)
    }

    /// Returns what tells it, and whom it gives which role, from others.
    pub(crate) fn voucher(&self) -> String {
        let OidcConfig { issuer, client_id, claim, roles, .. } = &self.config;
        URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("{:?}", (issuer, client_id, claim, roles)).as_bytes()))
    }

    /// Returns the host of the console, with its port where it has one of its own.
    pub(crate) fn console(&self) -> &str {
        host_of(&self.console)
    }

    fn callback(&self) -> String {
        format!("{}{CALLBACK}", self.console.trim_end_matches('/'))
    }

    /// True where the console is reached by HTTPS.
    pub(crate) fn is_secure(&self) -> bool {
        self.console.starts_with("https://")
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, one| one.begun.elapsed() < PATIENCE);
        waiting
    }

    async fn asked<T: serde::de::DeserializeOwned>(&self, what: &str, request: &Request) -> Result<T, Refused> {
        let cannot = |why: String| Refused::Provider(format!("{what} of {} can't be had: {why}", self.name()));
        let response = self.client.send(request).await.map_err(|error| cannot(error.to_string()))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| cannot(error.to_string()))?;
        if status != 200 {
            let told: Value = serde_json::from_slice(&body).unwrap_or_default();
            let why = told["error"].as_str().map(|error| format!(", {error}")).unwrap_or_default();
            return Err(cannot(format!("it answered with {status}{why}")));
        }
        serde_json::from_slice(&body).map_err(|_| cannot("its answer can't be read".to_owned()))
    }

    async fn provider(&self) -> Result<Provider, Refused> {
        let address = format!("{}/.well-known/openid-configuration", self.config.issuer.trim_end_matches('/'));
        let provider: Provider = self.asked("the description", &Request::get(address)).await?;
        if provider.issuer != self.config.issuer {
            let why = format!("it calls itself {}, and `issuer` is {}", provider.issuer, self.config.issuer);
            return Err(Refused::Provider(why));
        }
        Ok(provider)
    }

    /// Begins a sign-in of a browser that holds this; returns where it goes.
    pub(crate) async fn begin(&self, browser: &str) -> Result<String, Refused> {
        let provider = self.provider().await?;
        let random = || state::new_secret().map_err(|error| Refused::Provider(error.to_string()));
        let (state, nonce, verifier) = (random()?, random()?, random()?);
        let scopes: Vec<&str> =
            std::iter::once("openid").chain(self.config.scopes.iter().map(String::as_str)).collect();
        let parameters = [
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &self.callback()),
            ("scope", &scopes.join(" ")),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge(&verifier)),
            ("code_challenge_method", "S256"),
        ];
        let parameters = parameters.map(|(name, value)| format!("{name}={}", text(value)));
        let mut waiting = self.waiting();
        if waiting.len() >= MOST {
            let oldest = waiting.iter().min_by_key(|(_, one)| one.begun).map(|(state, _)| state.clone());
            oldest.map(|state| waiting.remove(&state));
        }
        waiting.insert(state, Waiting { begun: Instant::now(), browser: browser.to_owned(), nonce, verifier });
        let mark = if provider.authorization_endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{}{mark}{}", provider.authorization_endpoint, parameters.join("&")))
    }

    /// Ends a sign-in with what the browser brings back.
    pub(crate) async fn end(&self, browser: &str, state: &str, code: &str) -> Result<Person, Refused> {
        let known = self.waiting().remove(state).filter(|one| one.browser == browser);
        let Waiting { nonce, verifier, .. } = known.ok_or(Refused::Stale)?;
        let provider = self.provider().await?;
        let callback = self.callback();
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &callback),
            ("code_verifier", &verifier),
            ("client_id", &self.config.client_id),
        ];
        let methods = provider.token_endpoint_auth_methods_supported.as_deref();
        let basic = methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"));
        let secret = self.secret.as_ref().map(SecretString::expose_secret);
        if let (Some(secret), false) = (secret, basic) {
            form.push(("client_secret", secret));
        }
        let mut request =
            Request::new("POST", &provider.token_endpoint).form(&form).header("accept", "application/json");
        if let (Some(secret), true) = (secret, basic) {
            let pair = STANDARD.encode(format!("{}:{}", text(&self.config.client_id), text(secret)));
            request = request.header("authorization", format!("Basic {pair}"));
        }
        let granted: Value = self.asked("a token", &request).await?;
        let keys: JwkSet = self.asked("the keys", &Request::get(&provider.jwks_uri)).await?;
        let token = granted["id_token"].as_str().unwrap_or_default();
        let claims = self.believed(token, &keys, &nonce).map_err(Refused::Provider)?;
        self.person(&claims)
    }

    /// Returns what an ID token claims, if it is the provider's, for this console, and of this sign-in.
    fn believed(&self, token: &str, keys: &JwkSet, nonce: &str) -> Result<Value, String> {
        let wrong = |why: String| format!("the ID token of {} is not to be believed: {why}", self.name());
        let header = decode_header(token).map_err(|error| wrong(error.to_string()))?;
        if !SIGNED.contains(&header.alg) {
            return Err(wrong(format!("it is signed by {:?}", header.alg)));
        }
        let key = match &header.kid {
            Some(name) => keys.find(name),
            None if keys.keys.len() == 1 => keys.keys.first(),
            None => None,
        };
        let key = key.ok_or_else(|| wrong("it is signed by a key that is not known".to_owned()))?;
        let key = DecodingKey::from_jwk(key).map_err(|error| wrong(error.to_string()))?;
        let mut rules = Validation::new(header.alg);
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_audience(&[&self.config.client_id]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Value>(token, &key, &rules).map_err(|error| wrong(error.to_string()))?.claims;
        if claims["nonce"].as_str() != Some(nonce) {
            return Err(wrong("it is not of this sign-in".to_owned()));
        }
        // Where it is for several, it says who asked for it.
        let others = claims["aud"].as_array().is_some_and(|all| all.len() > 1);
        if claims["azp"].as_str().map_or(others, |asked| asked != self.config.client_id) {
            return Err(wrong("somebody else asked for it".to_owned()));
        }
        Ok(claims)
    }

    fn person(&self, claims: &Value) -> Result<Person, Refused> {
        let names = ["preferred_username", "email", "sub"];
        let name = names.iter().find_map(|name| claims[*name].as_str().filter(|text| !text.is_empty()));
        let name = name.unwrap_or_default().to_owned();
        let has = |value: &String| match &claims[&self.config.claim] {
            Value::String(text) => text == value,
            Value::Array(all) => all.iter().any(|one| one.as_str() == Some(value)),
            _ => false,
        };
        let given = self.config.roles.iter().rev().find(|(_, values)| values.iter().any(has));
        match given {
            Some((role, _)) => Ok(Person { name, role: role.role() }),
            None => Err(Refused::NoRole(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    fn oidc() -> Oidc {
        let config = json!({"issuer": "https://login.example", "client_id": "console", "console": "https://bh.example",
                            "roles": {"viewer": ["staff"], "admin": ["integration"]}});
        let config: OidcConfig = serde_json::from_value(config).unwrap();
        config.open(&|_| Err("none".to_owned())).unwrap()
    }

    #[test]
    fn the_highest_role_of_the_claim_counts_and_without_one_nobody_looks() {
        let person = |groups: Value| oidc().person(&json!({"sub": "1", "email": "ada@example", "groups": groups}));
        let ada = |role| Ok(Person { name: "ada@example".to_owned(), role });
        assert_eq!(person(json!(["staff", "integration"])), ada(Role::Admin));
        assert_eq!(person(json!("staff")), ada(Role::Viewer));
        assert_eq!(person(json!(["sales"])), Err(Refused::NoRole("ada@example".to_owned())));
        assert_eq!(person(Value::Null), Err(Refused::NoRole("ada@example".to_owned())));
    }

    #[test]
    fn a_token_of_another_console_sign_in_issuer_or_time_is_not_believed() {
        // The crypto of the whole program, as `main` installs it, is not needed: what is tried here is signed by a secret, which no
        // provider may do, or fails before its signature is looked at.
        let claims = json!({"iss": "https://login.example", "aud": "console", "sub": "1", "exp": 1, "nonce": "n"});
        let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(b"console")).unwrap();
        let keys = JwkSet { keys: Vec::new() };
        let why = oidc().believed(&token, &keys, "n").unwrap_err();
        assert!(why.contains("signed by HS256"), "{why}");
        assert!(oidc().believed("none.of.it", &keys, "n").is_err());
    }

    #[tokio::test]
    async fn what_was_begun_in_another_browser_or_long_ago_is_stale() {
        let oidc = oidc();
        let one = || Waiting {
            begun: Instant::now(),
            browser: "a".to_owned(),
            nonce: "n".to_owned(),
            verifier: "v".to_owned(),
        };
        oidc.waiting().insert("s".to_owned(), one());
        assert_eq!(oidc.end("b", "s", "code").await, Err(Refused::Stale));
        assert_eq!(oidc.end("a", "s", "code").await, Err(Refused::Stale), "a state is good once");
    }

    #[test]
    fn addresses_that_others_can_listen_in_on_are_refused() {
        let config = json!({"issuer": "http://login.example", "client_id": "c", "console": "https://bh.example", "roles": {"viewer": ["x"]}});
        let config: OidcConfig = serde_json::from_value(config).unwrap();
        assert!(config.open(&|_| Err(String::new())).unwrap_err().contains("https://"));
    }
}
