//! The connections of the project, and whether they answer.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, State};
use maud::html;
use serde::Deserialize;
use state::Role;

use super::pages::{in_path, page_of};
use super::{Looking, Shown, Visitor, may, page, token};
use crate::api::Api;
use crate::problem::Answered;

/// Which connection is asked.
#[derive(Deserialize)]
pub(super) struct Asked {
    csrf: String,
    name: String,
}

fn shown(api: &Api, visitor: &Visitor, asked: Option<&(String, Result<String, String>)>) -> Answered<maud::Markup> {
    let connections = api.work().map(|work| work.connections()).unwrap_or_default();
    let body = html! {
        h1 { "Connections" }
        @if connections.is_empty() {
            div class="card empty" { p { "There are none." } p { "They are named below " code { "connections:" } " in " code { "bridgehead.yaml" } "." } }
        } @else {
            div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "Connection" } th scope="col" { "Kind" } th scope="col" { "Syncs" } th scope="col" { "Does it answer?" } } }
                tbody { @for connection in &connections { tr {
                    th scope="row" { (connection.name) }
                    td { (connection.kind) }
                    td class="free" { @for sync in &connection.syncs { a href={ "/syncs/" (in_path(sync)) } { (sync) } " " } }
                    td class="free" {
                        @match asked.filter(|(name, _)| *name == connection.name) {
                            Some((_, Ok(said))) => { span class="state good" { "\u{2713} " (said) } }
                            Some((_, Err(why))) => { span class="state bad" { "\u{2717} no" } ": " (why) }
                            None => {}
                        }
                        @if visitor.role >= Role::Operator {
                            " " form class="inline" method="post" action="/connections" {
                                (token(visitor)) input type="hidden" name="name" value=(connection.name);
                                button aria-label={ "Ask " (connection.name) } { "Ask" }
                            }
                        }
                    }
                } } }
            } }
        }
    };
    Ok(page("Connections", Some(visitor), "/connections", false, &body))
}

pub(super) async fn connections(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || shown(&api, &visitor, None)).await
}

pub(super) async fn ask(State(api): State<Arc<Api>>, Extension(visitor): Looking, Form(asked): Form<Asked>) -> Shown {
    may(&visitor, &asked.csrf, Role::Operator)?;
    page_of(move || {
        let said = api.scheduler()?.work().try_connection(&asked.name);
        shown(&api, &visitor, Some(&(asked.name, said)))
    })
    .await
}
