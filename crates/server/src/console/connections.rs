//! The connections of the project, and whether they answer.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, State};
use maud::{Markup, html};
use serde::Deserialize;
use state::Role;

use super::pages::{grouped, in_path, page_of};
use super::{Looking, Shown, Visitor, may, page, token};
use crate::api::Api;
use crate::look::{Answer, MappedEntity};
use crate::problem::Answered;

/// Which connection is asked.
#[derive(Deserialize)]
pub(super) struct Which {
    csrf: String,
    name: String,
}

/// An entity that mappings name: whether it is as it was, and what it has.
fn entity(mapped: &MappedEntity) -> Markup {
    let drifts = mapped.syncs.iter().flat_map(|(sync, drift)| drift.iter().map(move |line| (sync, line)));
    let drifts: Vec<(&String, &String)> = drifts.collect();
    html! {
        h3 { (mapped.name) }
        @match &mapped.entity {
            Err(why) => p class="bad" { "\u{2717} " (why) },
            Ok(entity) => {
                @if drifts.is_empty() {
                    p { span class="state good" { "\u{2713} as at the last good run" } span class="soft" { " of " (mapped.syncs.iter().map(|(sync, _)| sync.as_str()).collect::<Vec<_>>().join(", ")) } }
                } @else {
                    p class="state wait" { "\u{26a0} It is another than at the last good run" }
                    ul { @for (sync, line) in drifts { li { a href={ "/syncs/" (in_path(sync)) } { (sync) } ": " (line) } } }
                    p { a href="/runbooks/drift" { "What to do" } }
                }
                details class="card" {
                    summary { (entity.fields.len()) " fields, key " (entity.key.join(", ")) }
                    div class="wide" tabindex="0" { table {
                        thead { tr { th scope="col" { "Field" } th scope="col" { "Type" } th scope="col" { "There" } th scope="col" { "May be empty" } th scope="col" { "Written" } } }
                        tbody { @for field in &entity.fields { tr {
                            th scope="row" { (field.name) }
                            td { (field.kind.to_string()) @if let Some(length) = field.length { " (" (length) ")" } }
                            td { (field.native) }
                            td { @if field.nillable { "yes" } @else { "no" } }
                            td { @if field.createable || field.updateable { "yes" } @else { "no" } }
                        } } }
                    } }
                }
            }
        }
    }
}

/// A connection that was asked, and what it said.
type Said = (String, Result<Answer, String>);

fn shown(api: &Api, visitor: &Visitor, asked: Option<&Said>) -> Answered<Markup> {
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
                            Some((_, Ok(said))) => {
                                span class="state good" { "\u{2713} it has " (said.entities) " entities" }
                                @if let Some(left) = said.calls_left { ", and " (grouped(left)) " API calls are left" }
                            }
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
            @if let Some((name, Ok(said))) = asked {
                h2 { "What mappings name of " (name) }
                @if said.mapped.is_empty() { p class="soft" { "Nothing." } }
                @for mapped in &said.mapped { (entity(mapped)) }
            }
        }
    };
    Ok(page("Connections", Some(visitor), "/connections", false, &body))
}

pub(super) async fn connections(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || shown(&api, &visitor, None)).await
}

pub(super) async fn ask(State(api): State<Arc<Api>>, Extension(visitor): Looking, Form(asked): Form<Which>) -> Shown {
    may(&visitor, &asked.csrf, Role::Operator)?;
    page_of(move || {
        let said = api.work()?.try_connection(&asked.name).map_err(|refused| refused.text);
        shown(&api, &visitor, Some(&(asked.name, said)))
    })
    .await
}
