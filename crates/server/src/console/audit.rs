//! The audit chain: looked through, proven whole, taken along.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Form, Query, State};
use axum::http::header;
use axum::response::{Html, IntoResponse as _, Response};
use maud::{Markup, html};
use serde::Deserialize;
use state::Wanted;

use super::pages::{PAGE, in_path, page_of, time};
use super::session::Empty;
use super::{Looking, Shown, Told, may, page, token};
use crate::api::{Api, blocking, verified};
use state::Role;

/// Which entries are looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    sync: String,
    what: String,
    run: String,
    before: Option<i64>,
}

impl Filter {
    /// Returns a text that was given.
    fn given(text: &str) -> Option<&str> {
        Some(text.trim()).filter(|text| !text.is_empty())
    }

    fn wanted(&self) -> Wanted<'_> {
        // A run that is no number is one that there is none of.
        let run = Self::given(&self.run).map(|run| run.parse().unwrap_or(-1));
        Wanted { sync: Self::given(&self.sync), what: Self::given(&self.what), run }
    }
}

pub(super) fn rows(entries: &[state::AuditEntry]) -> Markup {
    html! {
        @if entries.is_empty() {
            div class="card empty" { p { "Nothing is noted here." } }
        } @else {
            div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "Number" } th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Sync" } th scope="col" { "Run" } th scope="col" { "More" } } }
                tbody { @for entry in entries { tr {
                    th scope="row" { (entry.id) }
                    td { (time(&entry.at)) }
                    td { (entry.actor) }
                    td { (entry.what.replace('_', " ")) }
                    td { @if let Some(sync) = &entry.sync { a href={ "/syncs/" (in_path(sync)) } { (sync) } } }
                    td { @if let Some(run) = entry.run { a href={ "/runs/" (run) } { (run) } } }
                    td class="free" { @if entry.body != "{}" { code { (entry.body) } } }
                } } }
            } }
        }
    }
}

pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Query(filter): Query<Filter>,
) -> Shown {
    page_of(move || {
        let entries = api.store.audit_entries(filter.wanted(), filter.before.unwrap_or(i64::MAX), PAGE as u32)?;
        let more = entries.last().filter(|_| entries.len() == PAGE).map(|entry| entry.id);
        let query = format!("sync={}&what={}&run={}", in_path(&filter.sync), in_path(&filter.what), in_path(&filter.run));
        let body = html! {
            h1 { "Audit" }
            p class="soft" { "Who did what. Every entry carries the hash of the one before, so that nothing can be changed or removed unseen." }
            div class="card acts" {
                form class="inline" method="post" action="/audit/verify" { (token(&visitor)) button { "Verify the chain" } }
                a class="button" href="/audit/export" download="audit.ndjson" { "Export it" }
            }
            form class="inline card" method="get" action="/audit" {
                span class="field" { label for="sync" { "Sync" } input id="sync" name="sync" value=(filter.sync); }
                span class="field" { label for="what" { "What" } select id="what" name="what" {
                    option value="" { "anything" }
                    @for what in state::Happened::ALL { option value=(what.word()) selected[what.word() == filter.what] { (what.word().replace('_', " ")) } }
                } }
                span class="field" { label for="run" { "Run" } input id="run" name="run" inputmode="numeric" value=(filter.run); }
                button { "Show" }
            }
            (rows(&entries))
            @if let Some(last) = more { p { a href={ "/audit?before=" (last) "&" (query) } { "More" } } }
        };
        Ok(page("Audit", Some(&visitor), "/audit", filter.before.is_none(), &body))
    })
    .await
}

pub(super) async fn verify(State(api): State<Arc<Api>>, Extension(visitor): Looking, Form(form): Form<Empty>) -> Shown {
    may(&visitor, &form.csrf, Role::Viewer)?;
    let told = verified(api, None).await.map_err(Told)?;
    let body = html! {
        h1 { "The audit chain" }
        @if told["whole"] == true {
            p role="status" class="state good" { "\u{2713} It is whole: " (told["entries"]) " entries, " (told["first"]) " to " (told["last"]) }
            p { "Its head is " code { (told["head"].as_str().unwrap_or_default()) } }
            p class="soft" { "Keep that elsewhere: " code { "bridgehead audit verify --head \u{2026}" } " tells a chain that was made anew." }
        } @else {
            p role="alert" class="state bad" { "\u{2717} It is broken at entry " (told["entry"]) ": " (told["what"].as_str().unwrap_or_default()) }
            p { "Keep a copy of the state file as it is, and find out who could write it." }
        }
        p { a href="/audit" { "Back to the chain" } }
    };
    Ok(Html(page("The audit chain", Some(&visitor), "/audit", false, &body).into_string()))
}

/// Sends the whole chain, oldest first, an object a line, a page of the store at a time.
pub(super) async fn export(State(api): State<Arc<Api>>) -> Response {
    let lines = futures::stream::try_unfold(0, move |after| {
        let api = Arc::clone(&api);
        async move {
            let page = blocking(move || Ok(api.store.audit_after(after)?)).await;
            let page = page.map_err(|problem| std::io::Error::other(problem.detail().to_owned()))?;
            let Some(last) = page.last().map(|entry| entry.id) else { return Ok::<_, std::io::Error>(None) };
            let lines: String = page.iter().map(|entry| format!("{}\n", serde_json::json!(entry))).collect();
            Ok(Some((lines, last)))
        }
    });
    let named = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"audit.ndjson\""),
    ];
    (named, Body::from_stream(lines)).into_response()
}
