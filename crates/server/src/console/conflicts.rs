//! Conflicts that wait for a person: decided one by one, or many at once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Redirect;
use maud::{Markup, html};
use model::Side;
use state::{Conflict, Role};

use super::letters::{Fields, ids, one};
use super::pages::{PAGE, Part, in_path, next, page_of};
use super::{Looking, Shown, Told, Visitor, may, page, token};
use crate::api::{Api, blocking};
use crate::problem::{Answered, Problem};

/// The buttons of a decision; `about` is what they are about, for those who do not see where they stand.
fn decide(address: &str, about: &str) -> Markup {
    html! {
        button formaction=(address) name="winner" value="salesforce" aria-label={ (about) ": Salesforce" } { "Salesforce" }
        " " button formaction=(address) name="winner" value="external" aria-label={ (about) ": outside" } { "Outside" }
    }
}

fn rows(visitor: &Visitor, held: &[Conflict]) -> Markup {
    let value =
        |text: &Option<String>| html! { @if let Some(text) = text { (text) } @else { span class="soft" { "empty" } } };
    let decides = visitor.role >= Role::Operator;
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "Number" } th scope="col" { "Record" } th scope="col" { "Field" } th scope="col" { "Before" }
                th scope="col" { "Salesforce" } th scope="col" { "Outside" } @if decides { th scope="col" { "Whose stays?" } }
            } }
            tbody { @for one in held { tr {
                th scope="row" {
                    @if decides { label { input type="checkbox" name="id" value=(one.id); " " (one.id) } } @else { (one.id) }
                }
                td { a href={ "/records?q=" (in_path(&one.external)) } { code { (one.salesforce) } br; code { (one.external) } } br; a href={ "/syncs/" (in_path(&one.sync)) } { (one.sync) } }
                td { @if one.field.is_empty() { "the record: one side deleted it" } @else { (one.field) } }
                td class="free" { (value(&one.base)) }
                td class="free" { (value(&one.salesforce_value)) }
                td class="free" { (value(&one.external_value)) }
                @if decides { td { (decide(&format!("/conflicts/{}/resolve", one.id), &format!("Conflict {}", one.id))) } }
            } } }
        } }
    }
}

pub(super) async fn conflicts(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Query(part): Query<Part>,
) -> Shown {
    page_of(move || {
        let held = api.store.conflicts(part.sync.as_deref(), Some("held"), part.after.unwrap_or_default(), PAGE)?;
        let mut syncs: Vec<String> = api.store.held_by_sync()?.into_keys().chain(part.sync.clone()).collect();
        syncs.sort();
        syncs.dedup();
        let body = html! {
            h1 { "Conflicts" }
            p class="soft" { "Both sides changed the same field, and the sync leaves it to people. The next run carries a decision out; nothing else of the record waits." }
            @if syncs.len() > 1 || part.sync.is_some() {
                form class="inline card" method="get" action="/conflicts" {
                    span class="field" { label for="sync" { "Sync" } select id="sync" name="sync" {
                        @for sync in &syncs { option value=(sync) selected[part.sync.as_ref() == Some(sync)] { (sync) } }
                    } }
                    button { "Show" } a href="/conflicts" { "Show all" }
                }
            }
            @if held.is_empty() {
                div class="card empty" { p { "\u{2713} Nothing waits for a decision." } p { "Syncs with " code { "conflicts: manual" } " ask here." } }
            } @else {
                form method="post" action="/conflicts/chosen" {
                    (token(&visitor))
                    (rows(&visitor, &held))
                    @if visitor.role >= Role::Operator {
                        p class="acts" { "Of the chosen, this value stays: " (decide("/conflicts/chosen", "The chosen")) }
                    }
                }
                (next("/conflicts", &part, "after", held.last().map(|one| one.id), held.len() == PAGE))
            }
        };
        Ok(page("Conflicts", Some(&visitor), "/conflicts", true, &body))
    })
    .await
}

fn winner(form: &[(String, String)]) -> Result<Side, Problem> {
    match one(form, "winner") {
        "salesforce" => Ok(Side::Salesforce),
        "external" => Ok(Side::External),
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "say whose value stays")),
    }
}

/// Decides one; whoever comes second is told, and overwrites nothing.
fn decided(api: &Api, actor: &str, id: &str, winner: Side) -> Answered<()> {
    let none = || Problem::none(format!("there is no conflict {id}"));
    let id: i64 = id.parse().map_err(|_| none())?;
    let known = api.store.conflict(id)?.ok_or_else(none)?;
    if known.state != "held" || !api.store.acting_as(actor).resolve(id, winner)? {
        let detail = format!("conflict {id} waits for nobody any more: it is {}", known.state);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(())
}

pub(super) async fn resolve(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<String>,
    Form(form): Fields,
) -> Result<Redirect, Told> {
    may(&visitor, one(&form, "csrf"), Role::Operator)?;
    let winner = winner(&form).map_err(Told)?;
    blocking(move || decided(&api, &visitor.name, &id, winner)).await.map_err(Told)?;
    Ok(Redirect::to("/conflicts"))
}

/// Decides what was chosen. What somebody else decided before is told, and the rest is decided all the same.
pub(super) async fn chosen(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Form(form): Fields,
) -> Result<Redirect, Told> {
    may(&visitor, one(&form, "csrf"), Role::Operator)?;
    let winner = winner(&form).map_err(Told)?;
    let done = blocking(move || {
        let ids = ids(&form)?;
        let all = ids.len();
        let late: Vec<Problem> =
            ids.into_iter().filter_map(|id| decided(&api, &visitor.name, id, winner).err()).collect();
        let Some(first) = late.first() else { return Ok(()) };
        let detail = format!("{} of {all} are decided; {}", all - late.len(), first.detail());
        Err(Problem::new(first.status(), detail))
    });
    done.await.map_err(Told)?;
    Ok(Redirect::to("/conflicts"))
}
