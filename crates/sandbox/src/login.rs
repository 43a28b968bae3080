//! The pages of signing in: who are you, and may this app act for you.

use std::collections::HashMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::definition::{App, Flow};
use crate::oauth::{Code, Refusal, allowed_scopes};
use crate::org::Org;
use crate::rest::{Answer, Call, form};
use crate::xml::escape;

/// All but what stands for itself everywhere in a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns text as a URL takes it.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Returns a whole page; `body` is HTML.
fn page(status: u16, title: &str, body: &str) -> Answer {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>",
        title = escape(title),
    );
    Answer::bytes(status, "text/html;charset=UTF-8", html.into_bytes())
        // Where a form leads is decided by the callback of the app, so that it can't be listed here.
        .with("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
        .with("x-frame-options", "DENY")
}

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;display:grid;place-items:center;\
min-height:90vh;margin:1rem}main{width:min(24rem,100%)}h1{font-size:1.25rem}label{display:block;margin:.75rem 0}\
input{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.5rem;margin-top:.25rem}button{font:inherit;\
padding:.5rem 1rem;margin:.5rem .5rem 0 0}.wrong{color:#b3261e}@media(prefers-color-scheme:dark){.wrong{color:#ff8a80}}";

/// What an app asks for at the authorize page.
struct Request<'a> {
    app: &'a App,
    redirect: String,
    scopes: Vec<String>,
    token_in_fragment: bool,
}

impl Org {
    /// Answers `/services/oauth2/authorize`.
    pub(crate) fn authorize(&self, call: &Call) -> Answer {
        let mut parameters = call.query.clone();
        let posted = if call.method == "POST" { form(&String::from_utf8_lossy(&call.body)) } else { HashMap::new() };
        parameters.extend(posted.clone());
        let request = match self.asked(&parameters) {
            Ok(request) => request,
            // Whom not to trust with a redirect is told on the page.
            Err((None, refusal)) => {
                let text =
                    format!("<p class=\"wrong\">{}: {}</p>", escape(refusal.error), escape(&refusal.description));
                return page(400, "This app cannot sign in", &text);
            }
            Err((Some(redirect), refusal)) => return back(&redirect, &parameters, &refusal),
        };
        let cookie = cookie(call, "sandbox_login");
        let fresh = parameters.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "login"));
        let known = cookie.as_deref().and_then(|cookie| self.browser(cookie));
        match posted.get("step").map(String::as_str) {
            Some("login") => self.log_in(&parameters, &request),
            Some("consent") => match (known, cookie) {
                (Some(user), Some(cookie)) if posted.get("proof").is_some_and(|proof| *proof == proof_of(&cookie)) => {
                    self.decide(&parameters, &request, &user, posted.contains_key("allow"))
                }
                _ => self.login_page(&parameters, &request, None),
            },
            _ => match (known, cookie) {
                (Some(user), Some(cookie)) if !fresh => consent_page(&parameters, &request, &user, &cookie),
                _ => self.login_page(&parameters, &request, None),
            },
        }
    }

    fn asked(&self, parameters: &HashMap<String, String>) -> Result<Request<'_>, (Option<String>, Refusal)> {
        let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
        let app = self
            .sign_in
            .app(get("client_id"))
            .ok_or_else(|| (None, Refusal::new("invalid_client_id", "client identifier invalid")))?;
        let redirect = get("redirect_uri").to_owned();
        if !app.callbacks.contains(&redirect) {
            return Err((None, Refusal::new("redirect_uri_mismatch", "redirect_uri must match configuration")));
        }
        let refused = |refusal: Refusal| (Some(redirect.clone()), refusal);
        let token_in_fragment = match get("response_type") {
            "code" => false,
            "token" => true,
            _ => return Err(refused(Refusal::new("unsupported_response_type", "response type not supported"))),
        };
        let flow = if token_in_fragment { Flow::UserAgent } else { Flow::AuthorizationCode };
        if !app.flows.contains(&flow) {
            return Err(refused(Refusal::new("unsupported_response_type", "response type not supported")));
        }
        if app.blocked {
            return Err(refused(Refusal::new("OAUTH_APP_BLOCKED", "this app is blocked by admin")));
        }
        let challenge = get("code_challenge");
        if app.pkce_required && challenge.is_empty() {
            return Err(refused(Refusal::new("invalid_request", "missing required code challenge")));
        }
        if !challenge.is_empty() && !matches!(get("code_challenge_method"), "" | "S256") {
            return Err(refused(Refusal::new("invalid_request", "invalid code challenge method")));
        }
        let scopes = allowed_scopes(app, get("scope")).map_err(refused)?;
        Ok(Request { app, redirect, scopes, token_in_fragment })
    }

    fn login_page(&self, parameters: &HashMap<String, String>, request: &Request<'_>, wrong: Option<&str>) -> Answer {
        let hint = parameters.get("login_hint").or_else(|| parameters.get("username")).map_or("", String::as_str);
        let wrong =
            wrong.map_or_else(String::new, |text| format!("<p class=\"wrong\" role=\"alert\">{}</p>", escape(text)));
        let body = format!(
            "<p>{} wants to sign in.</p>{wrong}<form method=\"post\">{}<input type=\"hidden\" name=\"step\" value=\"login\">\
             <label>Username<input name=\"username\" autocomplete=\"username\" required autofocus value=\"{}\"></label>\
             <label>Password<input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>\
             <button>Log in</button></form>",
            escape(&request.app.name),
            hidden(parameters),
            escape(hint)
        );
        page(if wrong.is_empty() { 200 } else { 401 }, "Log in to the sandbox", &body)
    }

    fn log_in(&self, parameters: &HashMap<String, String>, request: &Request<'_>) -> Answer {
        let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
        match self.check_password(get("username"), get("password")) {
            Err(_) => {
                let text = "Please check your username and password.";
                self.login_page(parameters, request, Some(text))
            }
            Ok(caller) => {
                let cookie = self.remember_browser(&caller.username);
                consent_page(parameters, request, &caller.username, &cookie)
                    .with("set-cookie", format!("sandbox_login={cookie}; HttpOnly; SameSite=Lax; Path=/"))
            }
        }
    }

    fn decide(&self, parameters: &HashMap<String, String>, request: &Request<'_>, user: &str, allowed: bool) -> Answer {
        if !allowed {
            return back(
                &request.redirect,
                parameters,
                &Refusal::new("access_denied", "end-user denied authorization"),
            );
        }
        let approved = self.caller(user).and_then(|caller| self.check_approval(request.app, &caller).map(|()| caller));
        let caller = match approved {
            Ok(caller) => caller,
            Err(refusal) => return back(&request.redirect, parameters, &refusal),
        };
        let get = |name: &str| parameters.get(name).filter(|text| !text.is_empty()).cloned();
        let state = get("state").map_or_else(String::new, |state| format!("&state={}", encoded(&state)));
        if request.token_in_fragment {
            let issue = self.first_refresh_token(request.app, user, &request.scopes);
            let granted = self.granted(request.app, caller, request.scopes.clone(), issue);
            let pairs: Vec<String> = granted
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", encoded(value.as_str().unwrap_or_default())))
                .collect();
            return redirect(&format!("{}#{}{state}", request.redirect, pairs.join("&")));
        }
        let code = self.make_code(Code {
            client_id: request.app.client_id.clone(),
            redirect: request.redirect.clone(),
            username: user.to_owned(),
            scopes: request.scopes.clone(),
            challenge: get("code_challenge"),
            nonce: get("nonce"),
            at: self.now(),
        });
        let joint = if request.redirect.contains('?') { '&' } else { '?' };
        redirect(&format!("{}{joint}code={}{state}", request.redirect, encoded(&code)))
    }

    /// Answers `/services/oauth2/singleaccess` with an address that opens the org's page once.
    pub(crate) fn single_access(&self, username: &str) -> Value {
        let cookie = self.remember_browser(username);
        serde_json::json!({"frontdoor_uri": format!("{}/secur/frontdoor.jsp?otp={cookie}", self.url())})
    }

    /// Answers `/secur/frontdoor.jsp`: a session opens the org's page in a browser.
    pub(crate) fn front_door(&self, call: &Call) -> Answer {
        let user = match (call.query.get("sid"), call.query.get("otp")) {
            (Some(token), _) => self.session(token).map(|session| session.caller.username.clone()),
            (None, Some(once)) => self.browser(once),
            (None, None) => None,
        };
        match user {
            Some(user) => {
                let cookie = self.remember_browser(&user);
                redirect("/").with("set-cookie", format!("sandbox_login={cookie}; HttpOnly; SameSite=Lax; Path=/"))
            }
            None => page(401, "The session has ended", "<p>Log in again.</p>"),
        }
    }
}

fn consent_page(parameters: &HashMap<String, String>, request: &Request<'_>, user: &str, cookie: &str) -> Answer {
    let scopes: String =
        request.scopes.iter().map(|scope| format!("<li><code>{}</code></li>", escape(scope))).collect();
    let body = format!(
        "<p><strong>{}</strong> asks to act for {} with these scopes:</p><ul>{scopes}</ul><form method=\"post\">{}\
         <input type=\"hidden\" name=\"step\" value=\"consent\"><input type=\"hidden\" name=\"proof\" value=\"{}\">\
         <button name=\"allow\" value=\"1\">Allow</button><button name=\"deny\" value=\"1\">Deny</button></form>",
        escape(&request.app.name),
        escape(user),
        hidden(parameters),
        escape(&proof_of(cookie)),
    );
    page(200, "Allow access?", &body)
}

/// Shows that a form came from our own page: nobody else can tell it, since it follows from the cookie.
fn proof_of(cookie: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("consent {cookie}").as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, hash)
}

/// Carries the request from page to page.
fn hidden(parameters: &HashMap<String, String>) -> String {
    let carried = [
        "client_id",
        "redirect_uri",
        "response_type",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
        "nonce",
    ];
    carried
        .iter()
        .filter_map(|name| Some((name, parameters.get(*name)?)))
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value)))
        .collect()
}

fn redirect(to: &str) -> Answer {
    Answer::empty(302).with("location", to)
}

/// Sends a refusal back to the app.
fn back(to: &str, parameters: &HashMap<String, String>, refusal: &Refusal) -> Answer {
    let mark = match (parameters.get("response_type").map(String::as_str), to.contains('?')) {
        (Some("token"), _) => '#',
        (_, true) => '&',
        (_, false) => '?',
    };
    let state = parameters.get("state").map_or_else(String::new, |state| format!("&state={}", encoded(state)));
    redirect(&format!(
        "{to}{mark}error={}&error_description={}{state}",
        encoded(refusal.error),
        encoded(&refusal.description)
    ))
}

/// Returns a cookie of a call.
pub(crate) fn cookie(call: &Call, name: &str) -> Option<String> {
    call.header("cookie")?.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}
