//! Syncs, their runs, and what comparing both sides found.

use std::ops::Bound;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use state::{Reconciled, Run};

use super::{
    Api, Asking, Sent, SentMaybe, Shared, blocking, body, body_or_default, number, page, parsed, part, senseless,
};
use crate::auth::Caller;
use crate::problem::{Answered, Problem};
use crate::scheduler::{COMPARISON, Planned};
use crate::work::{Asked, CompareWanted, RunWanted, Undoing};

fn no_sync(name: &str) -> Problem {
    Problem::none(format!("there is no sync {name:?}"))
}

/// True where there is a sync of this name.
fn is_known(api: &Api, name: &str) -> bool {
    let has = |sync: &String| sync == name;
    api.planned_of(name).is_some()
        || api.work().is_ok_and(|work| work.mappings().iter().any(|mapped| mapped.syncs.iter().any(has)))
}

/// Answers `GET /api/v1/streams`: what the streams of followed syncs do, or did last, by sync and side.
pub(super) async fn streams(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || {
        let streams = engine::streams(&api.store, chrono::Utc::now())?;
        Ok(Json(json!({"streams": streams})))
    })
    .await
}

fn shown_run(run: &Run) -> Value {
    json!({"id": run.id, "sync": run.sync, "started": run.started, "ended": run.ended, "outcome": run.outcome,
           "report": parsed(&run.body)})
}

pub(super) async fn syncs(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let (last, letters, held) = (api.store.last_runs()?, api.store.letters_by_sync()?, api.store.held_by_sync()?);
        let from = part.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let planned = api.planned();
        let shown: Vec<(&String, &Planned)> = planned.range((from, Bound::Unbounded)).take(limit as usize).collect();
        let more = shown.last().filter(|_| shown.len() == limit as usize).map(|(sync, _)| json!({"behind": sync}));
        let syncs = shown.into_iter().map(|(sync, planned)| {
            let (dead, parked) = letters.get(sync).copied().unwrap_or_default();
            json!({"sync": sync, "planned": planned, "last_run": last.get(sync).map(shown_run), "dead_letters": dead,
                   "parked": parked, "conflicts_held": held.get(sync).copied().unwrap_or_default()})
        });
        Ok(Json(json!({"syncs": syncs.collect::<Vec<_>>(), "next": more})))
    })
    .await
}

pub(super) async fn sync(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || {
        let planned = api.planned_of(&name).ok_or_else(|| no_sync(&name))?;
        let runs: Vec<Value> = api.store.runs(Some(&name), i64::MAX, 10)?.iter().map(shown_run).collect();
        let comparing = api.planned_of(&format!("{name}{COMPARISON}"));
        let progress = api.work().ok().and_then(|work| work.progress_of(&name));
        let progress = progress.map(|(rows, of)| json!({"rows": rows, "of": of}));
        Ok(Json(json!({"sync": name, "planned": planned, "comparing": comparing, "progress": progress, "runs": runs})))
    })
    .await
}

pub(super) async fn plan(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || {
        if !is_known(&api, &name) {
            return Err(no_sync(&name));
        }
        Ok(Json(json!({"sync": name, "forecast": api.work()?.forecast(&name)?})))
    })
    .await
}

pub(super) async fn run_now(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: SentMaybe<RunWanted>,
) -> Answered<Response> {
    let run = body_or_default(sent)?;
    if let Some(mistake) = run.mistake() {
        return Err(senseless(mistake));
    }
    if !api.scheduler()?.run(&name, Asked { actor: Some(caller.name), run, ..Asked::default() }) {
        return Err(no_sync(&name));
    }
    Ok((StatusCode::ACCEPTED, Json(json!({"sync": name, "state": "waiting"}))).into_response())
}

/// Lets both sides of a sync be compared.
pub(crate) fn compare(api: &Api, sync: &str, compare: CompareWanted, actor: &str) -> Answered<()> {
    let asked = Asked { actor: Some(actor.to_owned()), compare, ..Asked::default() };
    let asked = api.scheduler()?.run(&format!("{}{COMPARISON}", sync.trim_end_matches(COMPARISON)), asked);
    if asked { Ok(()) } else { Err(no_sync(sync)) }
}

pub(super) async fn compare_now(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: SentMaybe<CompareWanted>,
) -> Answered<Response> {
    let wanted = body_or_default(sent)?;
    if wanted.tolerance.values().any(|by| !by.is_finite() || *by < 0.0) {
        return Err(senseless("`tolerance` has a number below zero"));
    }
    compare(&api, &name, wanted, &caller.name)?;
    Ok((StatusCode::ACCEPTED, Json(json!({"sync": name, "state": "waiting"}))).into_response())
}

/// Why a sync is paused.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    why: String,
}

pub(super) async fn pause(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: Sent<Why>,
) -> Answered<Json<Value>> {
    let why = body(sent)?.why;
    blocking(move || {
        if !is_known(&api, &name) {
            return Err(no_sync(&name));
        }
        match api.scheduler() {
            Ok(scheduler) => scheduler.pause(&caller.name, &name, &why)?,
            // Whoever serves finds it in the store.
            Err(_) => api.store.acting_as(&caller.name).pause(&name, &why)?,
        }
        Ok(Json(json!({"sync": name, "state": "paused", "why": why})))
    })
    .await
}

pub(super) async fn resume(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered<Json<Value>> {
    blocking(move || {
        let was_paused = match api.scheduler() {
            Ok(scheduler) => scheduler.resume(&caller.name, &name)?,
            Err(_) => api.store.acting_as(&caller.name).resume(&name)?,
        };
        if !was_paused {
            return Err(Problem::new(StatusCode::CONFLICT, format!("{name:?} is not paused")));
        }
        Ok(Json(json!({"sync": name, "state": "scheduled"})))
    })
    .await
}

pub(super) async fn captures(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"captures": api.work()?.captures()})))).await
}

pub(super) async fn drop_capture(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered<Json<Value>> {
    blocking(move || {
        if !is_known(&api, &name) {
            return Err(no_sync(&name));
        }
        let gone = api.work()?.drop_capture(&name, &caller.name)?;
        let gone = gone.ok_or_else(|| Problem::none(format!("nothing notes the changes of {name}")))?;
        Ok(Json(json!({"sync": name, "removed": gone})))
    })
    .await
}

pub(super) async fn runs(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let runs = api.store.runs(part.sync.as_deref(), part.before.unwrap_or(i64::MAX), limit)?;
        Ok(page("runs", runs.iter().map(shown_run).collect(), limit, "before", runs.last().map(|run| run.id)))
    })
    .await
}

pub(super) async fn one_run(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let run = api.store.run(id)?.ok_or_else(|| Problem::none(format!("there is no run {id}")))?;
        Ok(Json(shown_run(&run)))
    })
    .await
}

/// Undoes a run; returns what came of it.
pub(crate) fn undo(api: &Api, run: i64, how: Undoing, actor: &str) -> Answered<engine::Report> {
    if api.store.run(run)?.is_none() {
        return Err(Problem::none(format!("there is no run {run}; see `bridgehead runs`")));
    }
    Ok(api.work()?.undo(run, how, actor)?)
}

/// Returns what an undo did, as a sentence without its end.
pub(crate) fn undone(report: &engine::Report) -> String {
    let counts = report.counts;
    let who = if report.run == 0 { "it would".to_owned() } else { format!("run {} did", report.run) };
    format!(
        "{who} put back {} records, make {} again, take {} away, and leave {} as they are, since they were changed since",
        counts.updated, counts.created, counts.deleted, report.left
    )
}

pub(super) async fn undo_run(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: SentMaybe<Undoing>,
) -> Answered<Json<Value>> {
    let (id, how) = (number(&id)?, body_or_default(sent)?);
    blocking(move || {
        let report = undo(&api, id, how, &caller.name)?;
        Ok(Json(json!({"run": id, "what": undone(&report), "report": report})))
    })
    .await
}

pub(super) async fn reconciliations(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let found = api.store.reconciliations(part.sync.as_deref(), part.before.unwrap_or(i64::MAX), limit)?;
        let last = found.last().map(|one| one.id);
        Ok(page("reconciliations", found.iter().map(shown_comparison).collect(), limit, "before", last))
    })
    .await
}

fn shown_comparison(one: &Reconciled) -> Value {
    json!({"id": one.id, "sync": one.sync, "at": one.at, "agrees": one.agrees, "report": parsed(&one.body)})
}

pub(super) async fn reconciliation(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let found =
            api.store.reconciliation(id)?.ok_or_else(|| Problem::none(format!("there is no comparison {id}")))?;
        Ok(Json(shown_comparison(&found)))
    })
    .await
}
