//! What holds, and what to do about it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, State};
use axum::response::Html;
use maud::{Markup, PreEscaped, html};
use serde::Deserialize;
use state::{Alert, Role};

use super::pages::{in_path, page_of, time};
use super::{Looking, Shown, Told, may, page, token};
use crate::alerts::When;
use crate::api::{Api, try_channel};
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
            h2 { "Who is told" }
            @let configured = api.work().ok().and_then(|work| work.alerts().ok());
            @let channels = configured.as_ref().map(|alerts| alerts.channels()).unwrap_or_default();
            @if channels.is_empty() {
                p class="soft" { "Nobody: " code { "alerts.to" } " in " code { "bridgehead.yaml" } " has no place yet." }
            } @else {
                ul class="plain" { @for name in channels { li {
                    (name) " "
                    @if visitor.role >= Role::Operator {
                        form class="inline" method="post" action="/alerts/test" {
                            (token(&visitor)) input type="hidden" name="to" value=(name);
                            button aria-label={ "Send a test to " (name) } { "Send a test" }
                        }
                    }
                } } }
            }
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

/// Who is told that it is a test.
#[derive(Deserialize)]
pub(super) struct Test {
    csrf: String,
    to: String,
}

pub(super) async fn test(State(api): State<Arc<Api>>, Extension(visitor): Looking, Form(test): Form<Test>) -> Shown {
    may(&visitor, &test.csrf, Role::Operator)?;
    try_channel(&api, &test.to).await.map_err(Told)?;
    let body = html! {
        h1 { "Told" }
        p role="status" class="state good" { "\u{2713} " (test.to) " took a message that says it is a test" }
        p { a href="/alerts" { "Back to the alerts" } }
    };
    Ok(Html(page("Told", Some(&visitor), "/alerts", false, &body).into_string()))
}
