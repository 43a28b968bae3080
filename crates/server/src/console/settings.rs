//! How this Bridgehead is set up, and who may use it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use chrono::Utc;
use maud::{Markup, html};
use serde::Deserialize;
use state::{Role, Token};

use super::pages::{page_of, time};
use super::session::Empty;
use super::{Looking, Shown, Told, Visitor, may, page, token};
use crate::api::{Api, NewToken, blocking, make_token};
use crate::auth::is_good;
use crate::problem::{Answered, Problem};

const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

/// A token that was just made: its name, and what its holder sends.
type Made = Option<(String, String)>;

fn tokens(visitor: &Visitor, all: &[Token]) -> Markup {
    let state = |token: &Token| {
        html! {
            @if token.revoked { span class="soft" { "taken back" } }
            @else if is_good(token) { span class="state good" { "\u{2713} good" } }
            @else { span class="soft" { "ended" } }
        }
    };
    html! {
        @if all.is_empty() {
            div class="card empty" { p { "There are none: whoever is at this machine may do everything." } p { "As soon as there is one, everybody has to sign in." } }
        } @else {
            div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "Token" } th scope="col" { "Role" } th scope="col" { "Made" } th scope="col" { "Ends" } th scope="col" { "State" } th scope="col" { "Do" } } }
                tbody { @for one in all { tr {
                    th scope="row" { (one.name) }
                    td { (one.role.word()) } td { (time(&one.made)) } td { (time(&one.expires)) } td { (state(one)) }
                    td { @if !one.revoked { form class="inline" method="post" action={ "/settings/tokens/" (one.id) "/revoke" } {
                        (token(visitor)) button aria-label={ "Take back " (one.name) } { "Take back" } } } }
                } } }
            } }
        }
        form class="inline card" method="post" action="/settings/tokens" {
            (token(visitor))
            span class="field" { label for="name" { "Name" } input id="name" name="name" required maxlength="100"; }
            span class="field" { label for="role" { "Role" } select id="role" name="role" { @for role in ROLES { option value=(role.word()) { (role.word()) } } } }
            span class="field" { label for="days" { "Days" } input id="days" name="days" type="number" min="1" max="3650" value="90" required; }
            button { "Make a token" }
        }
    }
}

fn shown(api: &Api, visitor: &Visitor, made: &Made) -> Answered<Markup> {
    let settings = api.work().map(|work| work.settings()).unwrap_or_default();
    let body = html! {
        h1 { "Settings" }
        @if let Some((name, secret)) = made {
            div class="card" role="status" {
                p { "The token of " (name) ". It is not shown again:" }
                p { code class="secret" { (secret) } }
                @if !visitor.signed_in { p { a href="/sign-in" { "Sign in with it" } " or another one: from now on everybody has to." } }
            }
        }
        h2 { "At work" }
        dl class="pairs card" {
            div { dt { "Bridgehead" } dd { (env!("CARGO_PKG_VERSION")) } }
            @for (name, value) in &settings { div { dt { (name) } dd { (value) } } }
        }
        p class="soft" { "They are written in " code { "bridgehead.yaml" } ", and change with the next version that is put to work." }
        h2 { "Who may use it" }
        p { @if let Some(oidc) = api.oidc() { "People sign in by " (oidc.name()) ", or with a token." } @else { "People sign in with a token." } }
        @if visitor.role >= Role::Admin {
            h2 { "Signed in" }
            @let sessions = api.store.sessions(Utc::now())?;
            @if sessions.is_empty() { p class="soft" { "Nobody." } } @else {
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "Who" } th scope="col" { "Role" } th scope="col" { "How" } th scope="col" { "Since" } th scope="col" { "Last seen" } th scope="col" { "Do" } } }
                    tbody { @for session in &sessions { tr {
                        th scope="row" { (session.name) } td { (session.role.word()) }
                        td { @match session.token { Some(id) => { "token " (id) } None => { "OpenID Connect" } } }
                        td { (time(&session.began)) } td { (time(&session.used)) }
                        td { form class="inline" method="post" action={ "/settings/sessions/" (session.id) "/end" } {
                            (token(visitor)) button aria-label={ "Sign " (session.name) " out" } { "Sign out" } } }
                    } } }
                } }
            }
            h2 { "Tokens" }
            (tokens(visitor, &api.store.tokens()?))
        } @else {
            p class="soft" { "Who is signed in, and which tokens there are, is for the role admin." }
        }
    };
    Ok(page("Settings", Some(visitor), "/settings", false, &body))
}

pub(super) async fn settings(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || shown(&api, &visitor, &None)).await
}

/// What the form of a new token sends.
#[derive(Deserialize)]
pub(super) struct Wanted {
    csrf: String,
    name: String,
    role: Role,
    days: u32,
}

pub(super) async fn make(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Form(wanted): Form<Wanted>,
) -> Result<Response, Told> {
    may(&visitor, &wanted.csrf, Role::Admin)?;
    let made = blocking(move || {
        let Wanted { name, role, days, .. } = wanted;
        let (_, secret, _) = make_token(&api, &visitor.name, &NewToken { name: name.clone(), role, days })?;
        shown(&api, &visitor, &Some((name, secret)))
    });
    Ok(Html(made.await.map_err(Told)?.into_string()).into_response())
}

pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<i64>,
    Form(form): Form<Empty>,
) -> Result<Redirect, Told> {
    may(&visitor, &form.csrf, Role::Admin)?;
    let revoked = blocking(move || {
        let gone = api.store.acting_as(&visitor.name).revoke_token(id)?;
        if gone { Ok(()) } else { Err(Problem::none(format!("there is no token {id} that could be taken back"))) }
    });
    revoked.await.map_err(Told)?;
    Ok(Redirect::to("/settings"))
}

pub(super) async fn sign_out(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(session): Path<String>,
    Form(form): Form<Empty>,
) -> Result<Redirect, Told> {
    may(&visitor, &form.csrf, Role::Admin)?;
    let ended = blocking(move || {
        let gone = api.store.acting_as(&visitor.name).sign_out(&session)?;
        if gone { Ok(()) } else { Err(Problem::none("this session is over already")) }
    });
    ended.await.map_err(Told)?;
    Ok(Redirect::to("/settings"))
}
