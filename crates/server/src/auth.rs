//! Who calls, and what they may do.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use state::{Role, Token};

use crate::api::Api;
use crate::problem::{Answered, Problem};

/// Names that this machine has for itself.
const LOCAL: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];
/// Wrong tokens that are answered in [`WRONG_SPAN`]; more have to wait.
const WRONG: usize = 20;
const WRONG_SPAN: Duration = Duration::from_mins(1);

/// Calls that one caller may make at once, and in each second from then on.
const BURST: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// Callers that are remembered; more are looked through for those that have rested.
const CALLERS: usize = 1_000;

/// How often each caller called of late.
pub(crate) struct Callers(DefaultKeyedRateLimiter<String>);

impl Callers {
    pub(crate) fn new() -> Self {
        Self(RateLimiter::hashmap(Quota::per_second(PER_SECOND).allow_burst(BURST)))
    }

    /// Lets nobody pass who calls too often.
    fn take(&self, name: &str) -> Answered<()> {
        if self.0.len() > CALLERS {
            self.0.retain_recent();
        }
        self.0.check_key(&name.to_owned()).map_err(|_| {
            let detail = format!("{name} calls more than {PER_SECOND} times a second; try again in a second");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).after(1)
        })
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) role: Role,
}

impl Caller {
    /// Lets nobody pass whose role is less.
    pub(crate) fn needs(&self, role: Role) -> Answered<()> {
        if self.role >= role {
            return Ok(());
        }
        let detail = format!("this needs the role {}; this token has {}", role.word(), self.role.word());
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }
}

/// Wrong tokens of late.
#[derive(Debug, Default)]
pub(crate) struct Wrong(Mutex<VecDeque<Instant>>);

impl Wrong {
    fn are_too_many(&self) -> bool {
        let mut wrong = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while wrong.front().is_some_and(|first| first.elapsed() > WRONG_SPAN) {
            wrong.pop_front();
        }
        wrong.len() >= WRONG
    }

    fn add(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
    }
}

/// True for a token that was not taken back and has not ended.
pub(crate) fn is_good(token: &Token) -> bool {
    let ends = DateTime::parse_from_rfc3339(&token.expires).ok();
    !token.revoked && ends.is_some_and(|ends| ends > Utc::now())
}

fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Finds out who calls. Pages of other sites are turned away, which could lead a name of their own here, or let the browser of
/// somebody who is at this machine call.
pub(crate) async fn known(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match caller(&api, &request) {
        Ok(caller) => {
            if let Err(problem) = api.callers.take(&caller.name) {
                return problem.into_response();
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// True for a call by a name that leads here: where only this machine can call, one that it has for itself, or that of the console.
pub(crate) fn leads_here(api: &Api, headers: &HeaderMap) -> bool {
    let name = name_of(text(headers, &header::HOST));
    !api.is_local || LOCAL.contains(&name) || api.oidc().is_some_and(|oidc| name_of(oidc.console()) == name)
}

/// Returns the token with this secret; whoever guesses has to wait.
pub(crate) fn token_of(api: &Api, secret: &str) -> Answered<Token> {
    // Nobody who guesses keeps those out who have one.
    if let Some(token) = api.store.token_of(secret.trim(), Utc::now())? {
        return Ok(token);
    }
    if api.wrong.are_too_many() {
        let detail = "too many wrong tokens of late; try again in a minute";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).after(60));
    }
    api.wrong.add();
    Err(Problem::new(StatusCode::UNAUTHORIZED, "this token is not known, has expired, or was taken back"))
}

fn caller(api: &Api, request: &Request) -> Answered<Caller> {
    let headers = request.headers();
    if !leads_here(api, headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the API is for this machine"));
    }
    let (host, origin) = (text(headers, &header::HOST), text(headers, &header::ORIGIN));
    let foreign = !origin.is_empty() && origin.split_once("://").is_none_or(|(_, from)| from != host);
    if foreign && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::new(StatusCode::FORBIDDEN, format!("pages of {origin} may not change anything here")));
    }
    let secret = text(headers, &header::AUTHORIZATION);
    if secret.is_empty() && api.is_local && !api.is_set_up()? {
        return Ok(Caller { name: "local".to_owned(), role: Role::Admin });
    }
    let Some(secret) = secret.strip_prefix("Bearer ") else {
        let detail = "send a token as `Authorization: Bearer ...`; `bridgehead token make` makes one";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    };
    let token = token_of(api, secret)?;
    Ok(Caller { name: token.name, role: token.role })
}
