//! Who looks at the console: whoever signed in with a token, or anybody at this machine while there is none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Form;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use maud::html;
use serde::Deserialize;
use state::Role;

use super::{Told, page};
use crate::api::Api;
use crate::auth::{is_local_name, is_set_up, token_of};
use crate::problem::{Answered, Problem};

const COOKIE: &str = "bridgehead_session";
/// A session that nobody used for so long is over.
const IDLE: Duration = Duration::from_hours(8);
/// Most sessions; the one unused for longest goes for a new one.
const MOST: usize = 1_000;

/// Who looks at a page.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(super) name: String,
    pub(super) role: Role,
    /// What the forms of this session carry.
    pub(super) csrf: String,
    pub(super) signed_in: bool,
}

struct Session {
    token: i64,
    csrf: String,
    used: Instant,
}

/// The sessions, and what forms carry while nobody has to sign in.
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    csrf: String,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        // Where there are no random numbers it is empty, and no form is good.
        Self { open: Mutex::default(), csrf: state::new_secret().unwrap_or_default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, session| session.used.elapsed() < IDLE);
        open
    }

    fn begin(&self, token: i64) -> Answered<String> {
        let (id, csrf) = (state::new_secret()?, state::new_secret()?);
        let mut open = self.open();
        if open.len() >= MOST {
            let oldest = open.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| id.clone());
            oldest.map(|id| open.remove(&id));
        }
        open.insert(id.clone(), Session { token, csrf, used: Instant::now() });
        Ok(id)
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.to_owned())
}

/// Returns who sent a request; `None` for somebody who has to sign in.
pub(super) fn visitor(api: &Api, request: &Request) -> Answered<Option<Visitor>> {
    if api.is_local && !is_local_name(request.headers()) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the console is for this machine"));
    }
    let tokens = api.store.tokens()?;
    if !is_set_up(&tokens) {
        let csrf = api.sessions.csrf.clone();
        let local = Visitor { name: "local".to_owned(), role: Role::Admin, csrf, signed_in: false };
        return Ok(api.is_local.then_some(local));
    }
    let mut open = api.sessions.open();
    let Some(session) = cookie(request.headers()).and_then(|id| open.get_mut(&id)) else { return Ok(None) };
    session.used = Instant::now();
    // A token that was taken back takes its sessions with it.
    let token = tokens.into_iter().find(|token| token.id == session.token);
    let token = token.filter(|token| is_set_up(std::slice::from_ref(token)));
    let csrf = session.csrf.clone();
    Ok(token.map(|token| Visitor { name: token.name, role: token.role, csrf, signed_in: true }))
}

/// What a sign-in form sends.
#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
}

fn asked(wrong: Option<&str>) -> Html<String> {
    let body = html! {
        h1 { "Sign in" }
        p { "Ask whoever runs this Bridgehead for a token: " code { "bridgehead token make NAME" } " makes one." }
        @if let Some(wrong) = wrong { p class="bad" role="alert" { "\u{26a0} " (wrong) } }
        form class="card" method="post" action="/sign-in" {
            p { label for="token" { "Token" } }
            p { input id="token" name="token" type="password" autocomplete="current-password" required autofocus; }
            button { "Sign in" }
        }
    };
    Html(page("Sign in", None, "", false, &body).into_string())
}

pub(super) async fn form() -> Html<String> {
    asked(None)
}

pub(super) async fn sign_in(State(api): State<Arc<Api>>, Form(SignIn { token }): Form<SignIn>) -> Response {
    let begun = token_of(&api, &token).and_then(|token| {
        let told = serde_json::json!({"signed_in": token.id, "name": token.name});
        api.store.acting_as(&token.name).audit(state::Happened::Access, None, None, &told)?;
        api.sessions.begin(token.id)
    });
    match begun {
        Ok(id) => {
            let secure = if api.is_local { "" } else { "; Secure" };
            let value = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict{secure}");
            let mut response = Redirect::to("/").into_response();
            match HeaderValue::from_str(&value) {
                Ok(value) => drop(response.headers_mut().insert(header::SET_COOKIE, value)),
                Err(_) => {
                    return Told(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no session could be made"))
                        .into_response();
                }
            }
            response
        }
        Err(problem) => (problem.status(), asked(Some(problem.detail()))).into_response(),
    }
}

/// What a form without fields of its own sends.
#[derive(Deserialize)]
pub(super) struct Empty {
    csrf: String,
}

pub(super) async fn sign_out(State(api): State<Arc<Api>>, headers: HeaderMap, Form(form): Form<Empty>) -> Response {
    if let Some(id) = cookie(&headers) {
        let mut open = api.sessions.open();
        if open.get(&id).is_some_and(|session| session.csrf == form.csrf) {
            open.remove(&id);
        }
    }
    Redirect::to("/sign-in").into_response()
}
