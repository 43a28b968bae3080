//! What came of comparing both sides of a sync.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use engine::{Difference, Kind, Reconciliation};
use maud::{Markup, html};

use super::pages::{grouped, in_path, page_of, time};
use super::{Looking, Shown, page};
use crate::api::Api;
use crate::problem::Problem;

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Extra => "extra",
        Kind::Different => "different",
    }
}

fn samples(samples: &[Difference]) -> Markup {
    let value = |value: &Option<String>| {
        html! { @match value { Some(text) => { (text) } None => { span class="soft" { "empty" } } } }
    };
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr { th scope="col" { "Record" } th scope="col" { "How" } th scope="col" { "Field" } th scope="col" { "The source says" } th scope="col" { "The target holds" } } }
            tbody { @for one in samples {
                @if one.fields.is_empty() {
                    tr { th scope="row" { a href={ "/records?q=" (in_path(&one.record)) } { (one.key) } } td { (kind(one.kind)) } td {} td {} td {} }
                }
                @for (at, field) in one.fields.iter().enumerate() {
                    tr {
                        @if at == 0 { th scope="row" rowspan=(one.fields.len()) { a href={ "/records?q=" (in_path(&one.record)) } { (one.key) } } td rowspan=(one.fields.len()) { (kind(one.kind)) } }
                        td { (field.field) } td class="free" { (value(&field.source)) } td class="free" { (value(&field.target)) }
                    }
                }
            } }
        } }
    }
}

pub(super) async fn comparison(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<String>,
) -> Shown {
    page_of(move || {
        let none = || Problem::none(format!("there is no comparison {id:?}"));
        let number: i64 = id.parse().map_err(|_| none())?;
        let found = api.store.reconciliation(number)?.ok_or_else(none)?;
        let told: Reconciliation = serde_json::from_str(&found.body).map_err(|_| none())?;
        let body = html! {
            h1 { "Comparison of " a href={ "/syncs/" (in_path(&found.sync)) } { (found.sync) } }
            p {
                @if found.agrees { span class="state good" { "\u{2713} both sides agree" } } @else { span class="state bad" { "\u{2717} they differ" } }
                " \u{b7} began " (time(&found.at)) " \u{b7} took " (told.took_ms / 1_000) " s \u{b7} " (grouped(told.calls)) " API calls"
            }
            dl class="numbers card" {
                @for (name, count) in [("read of the source", told.source_rows), ("read of the target", told.target_rows)] { div { dt { (name) } dd { (grouped(count)) } } }
                @for (name, count) in [("missing", told.missing), ("extra", told.extra), ("different", told.different)] {
                    div { dt { (name) } dd class=[(count > 0).then_some("bad")] { (grouped(count)) } }
                }
                @for (name, count) in [("not of this sync", told.unlinked), ("refused by the mapping", told.refused), ("with a key of another", told.duplicates), ("passing", told.passing), ("only counted", told.not_looked_at)] {
                    @if count > 0 { div { dt { (name) } dd { (grouped(count)) } } }
                }
            }
            @if let Some(repair) = &told.repair {
                p { "Put right by " a href={ "/runs/" (repair.run) } { "run " (repair.run) } ": " (grouped(repair.counts.created)) " made, " (grouped(repair.counts.updated)) " changed, " (grouped(repair.counts.deleted)) " taken away." }
            } @else if !found.agrees {
                p class="soft" { code { "bridgehead reconcile " (found.sync) " --repair" } " writes what is missing or different, and nothing else." }
            }
            @if !told.fields.is_empty() {
                h2 { "By field" }
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "Field" } th scope="col" class="number" { "Records in which it is different" } } }
                    tbody { @for (field, count) in &told.fields { tr { th scope="row" { (field) } td class="number" { (grouped(*count)) } } } }
                } }
            }
            @if !told.samples.is_empty() { h2 { "Some of them" } (samples(&told.samples)) }
        };
        Ok(page(&format!("Comparison {id}"), Some(&visitor), "", false, &body))
    })
    .await
}
