//! The console: pages for people, made here and readable without a script. A script of ours tells times in the reader's zone and
//! keeps pages up to date.

mod alerts;
mod audit;
mod comparison;
mod conflicts;
mod connections;
mod letters;
mod mappings;
mod pages;
mod record;
mod session;
mod settings;
mod versions;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use maud::{DOCTYPE, Markup, html};
use state::Role;

use crate::api::{Api, TEXT_BYTES};
use crate::oidc::CALLBACK;
use crate::problem::Problem;

use session::Visitor;

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");
/// Most bytes of a form with a text: every byte of it may take three, and the text before comes along.
const FORM_BYTES: usize = 6 * TEXT_BYTES;
/// The pages of the head, in their order.
const PAGES: [(&str, &str); 10] = [
    ("/", "Overview"),
    ("/records", "Records"),
    ("/dead-letters", "Dead letters"),
    ("/conflicts", "Conflicts"),
    ("/alerts", "Alerts"),
    ("/connections", "Connections"),
    ("/mappings", "Mappings"),
    ("/versions", "Versions"),
    ("/audit", "Audit"),
    ("/settings", "Settings"),
];

pub(crate) fn router(api: &Arc<Api>) -> Router<Arc<Api>> {
    let pages = Router::new()
        .route("/", get(pages::overview))
        .route("/syncs/{sync}", get(pages::sync))
        .route("/syncs/{sync}/{act}", post(pages::act))
        .route("/syncs/{sync}/plan", get(pages::plan))
        .route("/runs/{id}", get(pages::run))
        .route("/runs/{id}/undo", post(pages::undo_run))
        .route("/comparisons/{id}", get(comparison::comparison))
        .route("/records", get(record::record))
        .route("/dead-letters", get(letters::letters))
        .route("/dead-letters/chosen", post(letters::chosen))
        .route("/dead-letters/all", post(letters::all))
        .route("/dead-letters/{id}", get(letters::letter))
        .route("/dead-letters/{id}/edit", post(letters::edit))
        .route("/connections", get(connections::connections).post(connections::ask))
        .route("/mappings", get(mappings::mappings))
        .route("/mappings/{mapping}", get(mappings::mapping))
        .route("/mappings/{mapping}/try", post(mappings::try_it).layer(DefaultBodyLimit::max(FORM_BYTES)))
        .route("/mappings/{mapping}/keep", post(mappings::keep).layer(DefaultBodyLimit::max(FORM_BYTES)))
        .route("/settings", get(settings::settings))
        .route("/settings/tokens", post(settings::make))
        .route("/settings/sessions/{session}/end", post(settings::sign_out))
        .route("/settings/tokens/{id}/revoke", post(settings::revoke))
        .route("/conflicts", get(conflicts::conflicts))
        .route("/conflicts/chosen", post(conflicts::chosen))
        .route("/conflicts/{id}/resolve", post(conflicts::resolve))
        .route("/alerts", get(alerts::alerts))
        .route("/alerts/test", post(alerts::test))
        .route("/runbooks/{name}", get(alerts::runbook))
        .route("/versions", get(versions::versions))
        .route("/versions/{id}", get(versions::version))
        .route("/versions/{id}/promote", post(versions::promote))
        .route("/audit", get(audit::audit))
        .route("/audit/verify", post(audit::verify))
        .route("/audit/export", get(audit::export))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(api), visitor));
    Router::new()
        .merge(pages)
        .route("/sign-in", get(session::form).post(session::sign_in))
        .route("/sign-in/oidc", get(session::leave))
        .route(CALLBACK, get(session::back))
        .route("/sign-out", post(session::sign_out))
        .route("/console.css", get(async || ([(header::CONTENT_TYPE, "text/css")], STYLE)))
        .route("/console.js", get(async || ([(header::CONTENT_TYPE, "text/javascript")], SCRIPT)))
        .layer(axum::middleware::map_response(guarded))
}

/// Lets pages load nothing from elsewhere, and nobody show them inside of theirs.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Finds out who looks; whoever has not signed in is asked to.
async fn visitor(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    match session::visitor(&api, &request) {
        Ok(Some(visitor)) => {
            request.extensions_mut().insert(visitor);
            next.run(request).await
        }
        Ok(None) => Redirect::to("/sign-in").into_response(),
        Err(problem) => Told(problem).into_response(),
    }
}

/// What is wrong, shown as a page.
struct Told(Problem);

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let body = html! {
            h1 { "That did not work" }
            p { (self.0.detail()) "." }
            p { a href="/" { "Back to the overview" } }
        };
        (self.0.status(), Html(page("That did not work", None, "", false, &body).into_string())).into_response()
    }
}

/// A page with its head; `live` pages keep themselves up to date.
fn page(title: &str, visitor: Option<&Visitor>, at: &str, live: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " \u{b7} Bridgehead" }
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body {
                a class="skip" href="#main" { "To the content" }
                header {
                    div class="row" {
                        strong { "Bridgehead" }
                        @if let Some(visitor) = visitor {
                            nav aria-label="Pages" {
                                @for (path, name) in PAGES {
                                    a href=(path) aria-current=[(path == at).then_some("page")] { (name) }
                                }
                            }
                            @if visitor.signed_in {
                                form class="inline" method="post" action="/sign-out" {
                                    (token(visitor))
                                    span class="soft" { (visitor.name) ", " (visitor.role.word()) }
                                    button { "Sign out" }
                                }
                            }
                        }
                    }
                }
                main id="main" tabindex="-1" data-live[live] { (body) }
            }
        }
    }
}

/// What proves that a form is one of ours.
fn token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="csrf" value=(visitor.csrf); }
}

/// An answer of a page.
type Shown = Result<Html<String>, Told>;

/// Lets nobody pass whose role is less, or whose form is not ours.
fn may(visitor: &Visitor, csrf: &str, role: Role) -> Result<(), Told> {
    // Without random numbers there is none, and no form is good.
    if visitor.csrf.is_empty() || visitor.csrf != csrf {
        return Err(Told(Problem::new(StatusCode::FORBIDDEN, "this form is too old; load the page again")));
    }
    if visitor.role < role {
        let detail = format!("this needs the role {}; yours is {}", role.word(), visitor.role.word());
        return Err(Told(Problem::new(StatusCode::FORBIDDEN, detail)));
    }
    Ok(())
}

type Looking = Extension<Visitor>;
