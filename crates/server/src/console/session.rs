//! Who looks at the console: whoever signed in with a token or by a provider's word, or anybody at this machine while neither is
//! set up.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use chrono::Utc;
use maud::html;
use serde::Deserialize;
use state::{Role, Vouched};

use super::{Told, page};
use crate::api::Api;
use crate::auth::{is_good, leads_here, token_of};
use crate::oidc::{CALLBACK, Oidc, Refused};
use crate::problem::{Answered, Problem};

const COOKIE: &str = "bridgehead_session";
/// What a browser holds while its user is at the provider's.
const LEAVING: &str = "bridgehead_signing_in";

/// Who looks at a page.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(super) name: String,
    pub(super) role: Role,
    /// What the forms of this session carry.
    pub(super) csrf: String,
    pub(super) signed_in: bool,
}

/// Begins a session; returns what its browser is to hold.
fn begin(api: &Api, name: &str, role: Role, by: &Vouched) -> Answered<String> {
    let secret = state::new_secret()?;
    api.store.begin_session(name, role, by, &secret)?;
    Ok(secret)
}

fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

/// Returns an answer with a cookie; `more` are its attributes besides those of all cookies.
fn with_cookie(mut response: Response, api: &Api, name: &str, value: &str, more: &str) -> Response {
    let secure = if api.is_secure() { "; Secure" } else { "" };
    match HeaderValue::from_str(&format!("{name}={value}; HttpOnly; {more}{secure}")) {
        Ok(value) => {
            response.headers_mut().append(header::SET_COOKIE, value);
            response
        }
        Err(_) => Told(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no session could be made")).into_response(),
    }
}

/// Returns who sent a request; `None` for somebody who has to sign in.
pub(super) fn visitor(api: &Api, request: &Request) -> Answered<Option<Visitor>> {
    if !leads_here(api, request.headers()) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the console is for this machine"));
    }
    if !api.is_set_up()? {
        let csrf = api.proof.clone();
        let local = Visitor { name: "local".to_owned(), role: Role::Admin, csrf, signed_in: false };
        return Ok(api.is_local.then_some(local));
    }
    let Some(secret) = cookie(request.headers(), COOKIE) else { return Ok(None) };
    let Some(session) = api.store.session(&secret, Utc::now())? else { return Ok(None) };
    let csrf = state::form_proof(&secret);
    let visitor = |name, role| Some(Visitor { name, role, csrf, signed_in: true });
    Ok(match session.token {
        // A token that was taken back takes its sessions with it.
        Some(token) => {
            let token = api.store.tokens()?.into_iter().find(|known| known.id == token).filter(is_good);
            token.and_then(|token| visitor(token.name, token.role))
        }
        // Somebody else vouches for people by now, or gives other roles, or nobody does.
        None if session.voucher.is_none() || session.voucher != api.oidc().map(|oidc| oidc.voucher()) => None,
        None => visitor(session.name, session.role),
    })
}

/// What a sign-in form sends.
#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
}

fn asked(api: &Api, wrong: Option<&str>) -> Html<String> {
    let body = html! {
        h1 { "Sign in" }
        @if let Some(oidc) = api.oidc() {
            p { a class="button" href="/sign-in/oidc" { "Sign in by " (oidc.name()) } }
            h2 { "Or with a token" }
        }
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

pub(super) async fn form(State(api): State<Arc<Api>>) -> Html<String> {
    asked(&api, None)
}

pub(super) async fn sign_in(State(api): State<Arc<Api>>, Form(SignIn { token }): Form<SignIn>) -> Response {
    let begun =
        token_of(&api, &token).and_then(|token| begin(&api, &token.name, token.role, &Vouched::Token(token.id)));
    match begun {
        Ok(id) => with_cookie(Redirect::to("/").into_response(), &api, COOKIE, &id, "Path=/; SameSite=Strict"),
        Err(problem) => (problem.status(), asked(&api, Some(problem.detail()))).into_response(),
    }
}

fn refused(api: &Api, oidc: &Oidc, refused: Refused) -> Response {
    let (status, why) = match refused {
        Refused::Provider(why) => (StatusCode::BAD_GATEWAY, why),
        Refused::Stale => {
            (StatusCode::BAD_REQUEST, "this sign-in took too long, or began in another browser; begin again".to_owned())
        }
        Refused::NoRole(name) => (
            StatusCode::FORBIDDEN,
            format!("{} knows you as {name}, and `oidc.roles` of this project gives that nobody a role", oidc.name()),
        ),
    };
    tracing::warn!(%status, why, "somebody could not sign in");
    (status, asked(api, Some(&why))).into_response()
}

/// Leads a browser to the provider.
pub(super) async fn leave(State(api): State<Arc<Api>>) -> Response {
    let Some(oidc) = api.oidc() else { return Redirect::to("/sign-in").into_response() };
    let Ok(browser) = state::new_secret() else {
        return Told(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "there are no random numbers")).into_response();
    };
    match oidc.begin(&browser).await {
        // It comes back from elsewhere, and has to bring this along.
        Ok(address) => {
            let more = format!("Path={CALLBACK}; SameSite=Lax; Max-Age=600");
            with_cookie(Redirect::to(&address).into_response(), &api, LEAVING, &browser, &more)
        }
        Err(why) => refused(&api, &oidc, why),
    }
}

/// What a browser brings back from the provider.
#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    error: Option<String>,
}

/// Takes a browser back from the provider.
pub(super) async fn back(State(api): State<Arc<Api>>, headers: HeaderMap, Query(back): Query<Back>) -> Response {
    let Some(oidc) = api.oidc() else { return Redirect::to("/sign-in").into_response() };
    if let Some(error) = back.error {
        return refused(&api, &oidc, Refused::Provider(format!("{} says: {error}", oidc.name())));
    }
    let browser = cookie(&headers, LEAVING).unwrap_or_default();
    let person = match oidc.end(&browser, &back.state, &back.code).await {
        Ok(person) => person,
        Err(why) => return refused(&api, &oidc, why),
    };
    match begin(&api, &person.name, person.role, &Vouched::By(oidc.voucher())) {
        Ok(id) => {
            // What leads from elsewhere sends no strict cookie, not even behind a redirect: this page leads on by itself.
            let body = html! {
                h1 { "Signed in" }
                meta http-equiv="refresh" content="0; url=/";
                p { a href="/" { "To the overview" } }
            };
            let response = Html(page("Signed in", None, "", false, &body).into_string()).into_response();
            let response =
                with_cookie(response, &api, LEAVING, "", &format!("Path={CALLBACK}; SameSite=Lax; Max-Age=0"));
            with_cookie(response, &api, COOKIE, &id, "Path=/; SameSite=Strict")
        }
        Err(problem) => Told(problem).into_response(),
    }
}

/// What a form without fields of its own sends.
#[derive(Deserialize)]
pub(super) struct Empty {
    pub(super) csrf: String,
}

pub(super) async fn sign_out(State(api): State<Arc<Api>>, headers: HeaderMap, Form(form): Form<Empty>) -> Response {
    if let Some(secret) = cookie(&headers, COOKIE).filter(|secret| state::form_proof(secret) == form.csrf)
        && let Err(error) = api.store.end_session(&secret)
    {
        return Told(error.into()).into_response();
    }
    Redirect::to("/sign-in").into_response()
}
