//! What holds, and what to do about it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use maud::{Markup, PreEscaped, html};
use state::Alert;

use super::pages::{in_path, page_of, time};
use super::{Looking, Shown, page};
use crate::alerts::When;
use crate::api::Api;
use crate::problem::Problem;

/// The alerts in a list; nothing where there are none.
pub(super) fn list(alerts: &[Alert]) -> Markup {
    html! {
        @for alert in alerts {
            div class="card" {
                p { span class="state bad" { "\u{2717} " (alert.rule.replace('_', " ")) } " "
                    a href={ "/syncs/" (in_path(&alert.sync)) } { (alert.sync) } ": " (alert.text) }
                p class="soft" { "since " (time(&alert.since)) @if !alert.told { ", not told to anybody yet" }
                    " \u{b7} " a href={ "/runbooks/" (alert.rule) } { "What to do" } }
            }
        }
    }
}

pub(super) async fn alerts(State(api): State<Arc<Api>>, Extension(visitor): Looking) -> Shown {
    page_of(move || {
        let alerts = api.store.alerts()?;
        let body = html! {
            h1 { "Alerts" }
            @if alerts.is_empty() {
                div class="card empty" { p { "\u{2713} No alert holds." } p { "Rules under " code { "alerts" } " in " code { "bridgehead.yaml" } " say what people are told of, and where." } }
            } @else { (list(&alerts)) }
            h2 { "Runbooks" }
            ul { @for when in When::ALL { li { a href={ "/runbooks/" (when.word()) } { (when.word().replace('_', " ")) } } } }
        };
        Ok(page("Alerts", Some(&visitor), "/alerts", true, &body))
    })
    .await
}

pub(super) async fn runbook(Extension(visitor): Looking, Path(name): Path<String>) -> Shown {
    page_of(move || {
        let when = When::ALL.into_iter().find(|when| when.word() == name);
        let when = when.ok_or_else(|| Problem::none(format!("there is no runbook {name:?}")))?;
        let mut body = String::new();
        // The text is one of ours.
        pulldown_cmark::html::push_html(&mut body, pulldown_cmark::Parser::new(when.runbook()));
        Ok(page(&format!("Runbook: {name}"), Some(&visitor), "/alerts", false, &PreEscaped(body)))
    })
    .await
}
