//! `/metrics`, in the text format of Prometheus. Source: Prometheus documentation, "Text-based format".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::DateTime;

use crate::api::{Api, blocking};
use crate::problem::Answered;

/// The names, each with what it says.
pub const NAMES: [(&str, &str); 11] = [
    (RUNNING, "1 while the sync runs"),
    (WAITING, "1 while the sync is due and waits for its turn"),
    (PAUSED, "1 while the sync is paused"),
    (NEXT, "When the sync runs next, in seconds since 1970"),
    (LAST, "When the newest run of the sync ended, in seconds since 1970"),
    (GREEN, "1 if no row was missing in the newest run that ended, else 0"),
    (DEAD, "Changes that could not be applied and wait for a person"),
    (PARKED, "Changes that wait for a parent or a lock"),
    (HELD, "Conflicts that wait for a person"),
    (ALERTS, "Alerts that hold"),
    (LEFT, "API calls that the org had left after the newest run of the sync"),
];
const RUNNING: &str = "bridgehead_sync_running";
const WAITING: &str = "bridgehead_sync_waiting";
const PAUSED: &str = "bridgehead_sync_paused";
const NEXT: &str = "bridgehead_sync_next_run_timestamp_seconds";
const LAST: &str = "bridgehead_sync_last_run_timestamp_seconds";
const GREEN: &str = "bridgehead_sync_last_run_green";
const DEAD: &str = "bridgehead_dead_letters";
const PARKED: &str = "bridgehead_parked_changes";
const HELD: &str = "bridgehead_conflicts_held";
const ALERTS: &str = "bridgehead_alerts_firing";
const LEFT: &str = "bridgehead_api_calls_left";

/// Answers `GET /metrics`.
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> Answered<Response> {
    let text = blocking(move || text(&api)).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

fn text(api: &Api) -> Answered<String> {
    let mut values: Vec<(&str, String, f64)> = Vec::new();
    for (sync, planned) in api.planned() {
        values.push((RUNNING, sync.clone(), f64::from(u8::from(planned.running_since.is_some()))));
        values.push((WAITING, sync.clone(), f64::from(u8::from(planned.waiting_since.is_some()))));
        values.push((PAUSED, sync.clone(), f64::from(u8::from(planned.paused.is_some()))));
        values.extend(planned.next.map(|next| (NEXT, sync, next.timestamp_millis() as f64 / 1e3)));
    }
    for (sync, run) in api.store.last_runs()? {
        let ended = run.ended.as_deref().and_then(|ended| DateTime::parse_from_rfc3339(ended).ok());
        if let Some(ended) = ended {
            values.push((LAST, sync.clone(), ended.timestamp_millis() as f64 / 1e3));
            let report: serde_json::Value = serde_json::from_str(&run.body).unwrap_or_default();
            values.extend(report["calls_left"].as_f64().map(|left| (LEFT, sync.clone(), left)));
            values.push((GREEN, sync, f64::from(u8::from(run.outcome == "green"))));
        }
    }
    for (sync, (dead, parked)) in api.store.letters_by_sync()? {
        values.push((DEAD, sync.clone(), dead as f64));
        values.push((PARKED, sync, parked as f64));
    }
    for (sync, held) in api.store.held_by_sync()? {
        values.push((HELD, sync, held as f64));
    }
    let mut firing: BTreeMap<String, f64> = BTreeMap::new();
    for alert in api.store.alerts()? {
        *firing.entry(alert.sync).or_default() += 1.0;
    }
    values.extend(firing.into_iter().map(|(sync, count)| (ALERTS, sync, count)));
    let mut text = String::new();
    for (name, help) in NAMES {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (_, sync, value) in values.iter().filter(|(of, _, _)| *of == name) {
            let sync = sync.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(text, "{name}{{sync=\"{sync}\"}} {value}");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn page_and_dashboard_name_the_metrics_that_there_are() {
        let dashboard = include_str!("../../../deploy/grafana.json");
        let named = dashboard.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let named: Vec<&str> = named.filter(|word| word.starts_with("bridgehead_")).collect();
        assert!(named.len() >= 8, "{named:?}");
        for name in named {
            assert!(NAMES.iter().any(|(known, _)| *known == name), "the dashboard names {name}");
        }
        let page = include_str!("../../../docs/serve.md");
        for (name, _) in NAMES {
            let short = name.trim_start_matches("bridgehead_sync");
            assert!(page.contains(name) || page.contains(&format!("`{short}`")), "docs/serve.md names {name}");
        }
    }
}
