//! A record: where it is on both sides, what was written to it, by what rule and by which run.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use model::Side;
use serde::Deserialize;
use serde_json::{Map, Value};
use state::{Link, Written};

use super::pages::{in_path, page_of, time};
use super::{Looking, Shown, page};
use crate::api::Api;
use crate::look::{FieldPair, Fields, Mapped};

/// Writes and conflicts of a record that are shown.
const SHOWN: u32 = 50;

/// What is looked for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    q: String,
    /// Whether both systems are asked what they hold now.
    #[serde(default)]
    now: bool,
}

pub(super) fn side_name(side: Side) -> &'static str {
    match side {
        Side::Salesforce => "Salesforce",
        Side::External => "outside",
    }
}

/// How the value of a pair gets to either side.
fn way(pair: &FieldPair) -> Markup {
    html! {
        @if let Some(text) = &pair.to_external { div { "outside = " code { (text) } } }
        @if let Some(text) = &pair.to_salesforce { div { "Salesforce = " code { (text) } } }
        @if let Some(text) = &pair.lookup { div { "the key of its parent in " (text) } }
        @if pair.to_external.is_none() && pair.to_salesforce.is_none() && pair.lookup.is_none() { "as it is" }
    }
}

/// The pairs of fields of a mapping; with the values that both systems hold, where they were asked.
pub(super) fn pairs(mapped: &Mapped, now: Option<&[Result<Fields, String>; 2]>) -> Markup {
    let value = |side: usize, name: &Option<String>| {
        let fields = now.and_then(|now| now[side].as_ref().ok()).and_then(Option::as_ref);
        let value = name.as_ref().and_then(|name| fields.and_then(|fields| fields.get(name)));
        html! { @match value { Some(Some(text)) => { (text) } Some(None) => { span class="soft" { "empty" } } None => {} } }
    };
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "Salesforce" } @if now.is_some() { th scope="col" { "holds" } }
                th scope="col" { "Outside" } @if now.is_some() { th scope="col" { "holds" } }
                th scope="col" { "How" } th scope="col" { "Owner" }
            } }
            tbody { @for pair in &mapped.fields { tr {
                td { (pair.salesforce.as_deref().unwrap_or("\u{2014}")) } @if now.is_some() { td class="free" { (value(0, &pair.salesforce)) } }
                td { (pair.external.as_deref().unwrap_or("\u{2014}")) } @if now.is_some() { td class="free" { (value(1, &pair.external)) } }
                td class="free" { (way(pair)) }
                td { @if let Some(owner) = pair.owner { (side_name(owner)) } }
            } } }
        } }
    }
}

/// The fields that a write changed, before and after.
fn changes(written: &Written) -> Markup {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (before, after) = (read(&written.before), read(&written.after));
    let shown = |value: Option<&Value>| {
        html! { @match value { Some(Value::String(text)) => { (text) } Some(_) => { span class="soft" { "empty" } } None => { span class="soft" { "not known" } } } }
    };
    let changed: BTreeMap<&String, Option<&Value>> = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, _)| (name, before.get(name)))
        .collect();
    html! {
        @if written.op == "delete" { "the record" }
        @for (name, old) in changed { div {
            strong { (name) } ": " @if written.op != "insert" { (shown(old)) " \u{2192} " } (shown(after.get(name)))
        } }
    }
}

fn history(writes: &[Written]) -> Markup {
    html! {
        @if writes.is_empty() {
            div class="card empty" { p { "No write is kept." } p { "Two-way syncs keep theirs for 30 days; those that go one way do with " code { "history: values" } "." } }
        } @else {
            div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "Run" } th scope="col" { "When" } th scope="col" { "By" } th scope="col" { "Side" } th scope="col" { "What" } th scope="col" { "Fields" } } }
                tbody { @for written in writes { tr {
                    th scope="row" { a href={ "/runs/" (written.run) } { (written.run) } }
                    td { (time(&written.at)) }
                    td { a href={ "/syncs/" (in_path(&written.sync)) } { (written.sync) }
                        @if let Some(version) = written.version { br; a href={ "/versions/" (version) } { "version " (version) } } }
                    td { (side_name(written.side)) }
                    td { (written.op) }
                    td class="free" { (changes(written)) }
                } } }
            } }
        }
    }
}

/// All that is known of one link.
fn shown(api: &Api, mapped: &Mapped, link: &Link, wanted: &Wanted) -> crate::problem::Answered<Markup> {
    let writes = api.store.history(link, SHOWN)?;
    let conflicts = api.store.conflicts_of(link, SHOWN)?;
    let mut letters = Vec::new();
    for sync in &mapped.syncs {
        let outside = format!("external:{}", link.external);
        letters.extend(api.store.letters_of(sync, &[&link.salesforce, &link.external, &outside])?);
    }
    let now = if wanted.now { api.work().ok().map(|work| work.record(&mapped.mapping, link)) } else { None };
    Ok(html! {
        h2 { code { (link.salesforce) } " \u{2194} " code { (link.external) } }
        dl class="numbers card" {
            div { dt { "Mapping" } dd { (mapped.mapping) } }
            div { dt { "Salesforce" } dd { (mapped.salesforce[1]) " in " (mapped.salesforce[0]) } }
            div { dt { "Outside" } dd { (mapped.external[1]) " in " (mapped.external[0]) } }
            div { dt { "Written last" } dd { (side_name(link.side)) } }
            div { dt { "Syncs" } dd { @for sync in &mapped.syncs { a href={ "/syncs/" (in_path(sync)) } { (sync) } " " } } }
        }
        @if let Some(now) = &now {
            @for (side, told) in [Side::Salesforce, Side::External].into_iter().zip(now) {
                @match told {
                    Ok(None) => { p class="state bad" { "\u{2717} " (side_name(side)) ": the record is not there" } }
                    Err(why) => { p class="state wait" { "\u{26a0} " (side_name(side)) " can't say: " (why) } }
                    Ok(Some(_)) => {}
                }
            }
        } @else {
            p { a href={ "/records?now=true&q=" (in_path(&wanted.q)) } { "Ask both systems what they hold now" } }
        }
        h3 { "Fields, and where their values come from" }
        (pairs(mapped, now.as_ref()))
        h3 { "What was written" }
        (history(&writes))
        @if !conflicts.is_empty() {
            h3 { "Conflicts" }
            ul { @for conflict in &conflicts { li {
                a href={ "/runs/" (conflict.run) } { "run " (conflict.run) } ": " (if conflict.field.is_empty() { "the record" } else { &conflict.field }) ", " (conflict.state)
                @if let Some(winner) = &conflict.winner { ", " (winner) " won" }
            } } }
        }
        @if !letters.is_empty() {
            h3 { "Dead letters" }
            ul { @for letter in &letters { li { a href={ "/dead-letters/" (letter.id) } { (letter.id) } " " (letter.code) ": " (letter.message) } } }
        }
    })
}

pub(super) async fn record(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Query(mut wanted): Query<Wanted>,
) -> Shown {
    page_of(move || {
        wanted.q = wanted.q.trim().trim_start_matches("external:").to_owned();
        let mut found = Vec::new();
        let mut letters = Vec::new();
        if !wanted.q.is_empty() {
            for mapped in api.work().map(|work| work.mappings()).unwrap_or_default() {
                for link in api.store.links_of(&mapped.mapping, &wanted.q)? {
                    found.push(shown(&api, &mapped, &link, &wanted)?);
                }
                for sync in &mapped.syncs {
                    letters.extend(api.store.letters_of(sync, &[&wanted.q, &format!("external:{}", wanted.q)])?);
                }
            }
        }
        let body = html! {
            h1 { "Records" }
            form class="inline card" method="get" action="/records" role="search" {
                label for="q" { "Salesforce id or external key" }
                input id="q" name="q" value=(wanted.q) required maxlength="255";
                button { "Find" }
            }
            @if wanted.q.is_empty() {
                div class="card empty" { p { "Find a record by its key on either side." } p { "Its page says where it is, what was written to it, and by which rule and run." } }
            } @else if found.is_empty() && letters.is_empty() {
                div class="card empty" { p { "No sync knows " (wanted.q) "." } p { "It may not have been read yet, or a filter of its mapping leaves it out." } }
            } @else if found.is_empty() {
                p { "It is not linked; its changes could not be applied:" }
                ul { @for letter in &letters { li { a href={ "/dead-letters/" (letter.id) } { (letter.id) } " " (letter.code) ": " (letter.message) } } }
            }
            @for one in &found { (one) }
        };
        Ok(page("Records", Some(&visitor), "/records", false, &body))
    })
    .await
}
