//! The routes of the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use state::{Reconciled, Role, Run, Store, Wanted};

use crate::auth::{Caller, Callers, Wrong, is_good, known};
use crate::budget::{Known, budgets};
use crate::console;
use crate::metrics::metrics;
use crate::oidc::Oidc;
use crate::openapi::{self, Call};
use crate::problem::{Answered, Problem};
use crate::scheduler::{Handle, Planned, Work};

/// Most bytes of a body: all that is sent are a few words.
const BODY_BYTES: usize = 64 << 10;
/// Most bytes of a text of a mapping.
pub(crate) const TEXT_BYTES: usize = 1 << 20;
/// Entries of a page, and most of them.
const PAGE: u32 = 50;
const MOST: u32 = 500;

/// What answers stand on.
pub(crate) struct Api {
    pub(crate) store: Store,
    scheduler: Option<Handle>,
    /// True when only this machine can reach it.
    pub(crate) is_local: bool,
    pub(crate) wrong: Wrong,
    /// Who vouches for people, where somebody does.
    pub(crate) oidc: Option<Oidc>,
    /// What forms carry while nobody has to sign in. Where there are no random numbers it is empty, and no form is good.
    pub(crate) proof: String,
    pub(crate) budgets: Known,
    pub(crate) callers: Callers,
}

impl Api {
    pub(crate) fn new(store: Store, scheduler: Option<Handle>, is_local: bool, oidc: Option<Oidc>) -> Self {
        let proof = state::new_secret().unwrap_or_default();
        Self {
            store,
            scheduler,
            is_local,
            wrong: Wrong::default(),
            oidc,
            proof,
            budgets: Known::default(),
            callers: Callers::new(),
        }
    }

    /// True when people have to say who they are: somebody vouches for them, or there is a token that is good.
    pub(crate) fn is_set_up(&self) -> Answered<bool> {
        Ok(self.oidc.is_some() || self.store.tokens()?.iter().any(is_good))
    }

    /// True where browsers reach it by HTTPS alone.
    pub(crate) fn is_secure(&self) -> bool {
        self.oidc.as_ref().map_or(!self.is_local, Oidc::is_secure)
    }

    /// Returns what the scheduler knows of each sync.
    pub(crate) fn planned(&self) -> BTreeMap<String, Planned> {
        self.scheduler.as_ref().map(Handle::planned).unwrap_or_default()
    }

    /// Returns whoever runs syncs, where somebody does.
    pub(crate) fn work(&self) -> Option<Arc<dyn Work>> {
        self.scheduler.as_ref().map(Handle::work)
    }

    pub(crate) fn scheduler(&self) -> Answered<&Handle> {
        let missing = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nothing runs syncs here");
        self.scheduler.as_ref().ok_or_else(missing)
    }
}

type Shared = State<Arc<Api>>;

/// The calls, each with what answers it.
fn calls() -> Vec<(Call, MethodRouter<Arc<Api>>)> {
    const SYNC: &[u16] = &[404, 503];
    vec![
        (Call::get("/api/v1/streams", "What the streams of followed syncs do, or did last"), get(streams)),
        (Call::get("/api/v1/syncs", "What each sync does now, and did last"), get(syncs)),
        (Call::get("/api/v1/syncs/{sync}", "One sync with its last runs").answers(200, &[404]), get(sync)),
        (
            Call::post("/api/v1/syncs/{sync}/run", "Lets a sync run as soon as its turn comes").answers(202, SYNC),
            post(run_now),
        ),
        (
            Call::post("/api/v1/syncs/{sync}/pause", "Pauses a sync, with the reason")
                .sends(&[("why", &[])])
                .answers(200, SYNC),
            post(pause),
        ),
        (
            Call::post("/api/v1/syncs/{sync}/resume", "Lets a paused sync go on").answers(200, &[404, 409, 503]),
            post(resume),
        ),
        (Call::get("/api/v1/runs", "Runs, newest first").with(&["sync", "before", "limit"]), get(runs)),
        (Call::get("/api/v1/runs/{id}", "One run").answers(200, &[404]), get(one_run)),
        (
            Call::post(
                "/api/v1/runs/{id}/undo",
                "Puts back what a run of a two-way sync wrote, but for what was changed since",
            )
            .answers(200, &[404, 409, 503]),
            post(undo_run),
        ),
        (
            Call::get("/api/v1/dead-letters", "Changes that could not be applied, oldest first")
                .with(&["sync", "state", "after", "limit"]),
            get(letters),
        ),
        (Call::get("/api/v1/dead-letters/{id}", "One of them").answers(200, &[404]), get(letter)),
        (Call::delete("/api/v1/dead-letters/{id}", "Forgets one for good"), delete(drop_letter)),
        (
            Call::post("/api/v1/dead-letters/{id}/replay", "Lets its sync run and try it again")
                .answers(202, &[404, 503]),
            post(replay_letter),
        ),
        (
            Call::get(
                "/api/v1/records",
                "The links of a record, by its key on either side, with what was written to it",
            )
            .with(&["key"]),
            get(records),
        ),
        (Call::get("/api/v1/connections", "The connections, each with its syncs"), get(connections)),
        (
            Call::get(
                "/api/v1/budgets",
                "The API calls of each org: left, spent today, and foreseen until midnight, UTC",
            ),
            get(calls_left),
        ),
        (Call::get("/api/v1/mappings", "What is mapped onto what, and by which syncs"), get(mappings)),
        (
            Call::get("/api/v1/mappings/{mapping}", "The text of a mapping, as it is at work").answers(200, &[404]),
            get(mapping),
        ),
        (
            Call::post(
                "/api/v1/mappings/{mapping}/try",
                "Checks another text of a mapping, and says what it makes of some records",
            )
            .sends(&[("text", &[])])
            .answers(200, &[404, 503]),
            post(try_mapping).layer(DefaultBodyLimit::max(2 * TEXT_BYTES)),
        ),
        (
            Call::post(
                "/api/v1/mappings/{mapping}/keep",
                "Keeps the configuration with another text of a mapping as a version",
            )
            .needs(Some(Role::Admin))
            .sends(&[("text", &[]), ("reason", &[])])
            .answers(201, &[404, 503]),
            post(keep_mapping).layer(DefaultBodyLimit::max(2 * TEXT_BYTES)),
        ),
        (
            Call::get("/api/v1/conflicts", "What both sides changed, oldest first")
                .with(&["sync", "state", "after", "limit"]),
            get(conflicts),
        ),
        (Call::get("/api/v1/conflicts/{id}", "One of them").answers(200, &[404]), get(conflict)),
        (
            Call::post("/api/v1/conflicts/{id}/resolve", "Decides one: the next run writes the winner's value")
                .sends(&[("winner", &["salesforce", "external"])])
                .answers(200, &[404, 409]),
            post(resolve),
        ),
        (
            Call::get("/api/v1/reconciliations", "What came of comparisons, newest first").with(&["sync", "limit"]),
            get(reconciliations),
        ),
        (Call::get("/api/v1/reconciliations/{id}", "One of them").answers(200, &[404]), get(reconciliation)),
        (Call::get("/api/v1/alerts", "The alerts that hold, oldest first"), get(alerts)),
        (Call::get("/api/v1/versions", "Versions of the configuration, newest first").with(&["limit"]), get(versions)),
        (Call::get("/api/v1/versions/{id}", "One of them, with its files").answers(200, &[404]), get(version)),
        (
            Call::post("/api/v1/versions/{id}/promote", "Checks a version, and puts it to work")
                .needs(Some(Role::Admin))
                .sends(&[("reason", &[])])
                .answers(200, &[404, 503]),
            post(promote),
        ),
        (
            Call::get("/api/v1/audit", "The audit chain, newest first")
                .with(&["sync", "run", "what", "before", "limit"]),
            get(audit),
        ),
        (Call::get("/api/v1/tokens", "Tokens, without what is secret").needs(Some(Role::Admin)), get(tokens)),
        (
            Call::post("/api/v1/tokens", "Makes a token; its secret is told this once")
                .needs(Some(Role::Admin))
                .sends(&[("name", &[]), ("role", &["viewer", "operator", "admin"]), ("days", &[])])
                .answers(201, &[]),
            post(new_token),
        ),
        (Call::get("/api/v1/sessions", "Who is signed in to the console").needs(Some(Role::Admin)), get(sessions)),
        (Call::delete("/api/v1/tokens/{id}", "Takes a token back").needs(Some(Role::Admin)), delete(revoke)),
        (Call::get("/metrics", "Metrics for Prometheus"), get(metrics)),
    ]
}

/// The calls that need no token.
fn open_calls() -> Vec<(Call, MethodRouter<Arc<Api>>)> {
    vec![
        (Call::get("/health", "Says that it is there").needs(None), get(async || Json(json!({"status": "alive"})))),
        (Call::get("/ready", "Says that the state can be used").needs(None).answers(200, &[503]), get(ready)),
        (Call::get("/api/v1/openapi.json", "This description").needs(None), get(async || Json(description()))),
    ]
}

/// Returns the OpenAPI description of the calls.
fn description() -> Value {
    let calls: Vec<Call> = calls().into_iter().chain(open_calls()).map(|(call, _)| call).collect();
    openapi::describe(&calls)
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    let routed = |calls: Vec<(Call, MethodRouter<Arc<Api>>)>| {
        calls.into_iter().fold(Router::new(), |router, (call, answer)| router.route(call.path, answer))
    };
    Router::new()
        .merge(routed(calls()).layer(axum::middleware::from_fn_with_state(Arc::clone(&api), known)))
        .merge(console::router(&api))
        .merge(routed(open_calls()))
        .fallback(async || Problem::none("there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "nothing answers this method at this address")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api)
}

/// Does what waits for the disk where nobody else waits for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Answered<T> + Send + 'static) -> Answered<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer ended badly");
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer ended badly; the log says why"))
    })
}

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    sync: Option<String>,
    state: Option<String>,
    what: Option<String>,
    run: Option<i64>,
    key: Option<String>,
    /// Entries behind this number, where the oldest comes first.
    after: Option<i64>,
    /// Entries before this number, where the newest comes first.
    before: Option<i64>,
    limit: Option<u32>,
}

impl Part {
    fn limit(&self) -> Answered<u32> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit) if (1..=MOST).contains(&limit) => Ok(limit),
            Some(limit) => {
                Err(Problem::new(StatusCode::BAD_REQUEST, format!("`limit` is {limit}, and goes from 1 to {MOST}")))
            }
        }
    }
}

fn part(query: Result<Query<Part>, QueryRejection>) -> Answered<Part> {
    let wrong = |error: QueryRejection| Problem::new(StatusCode::BAD_REQUEST, error.body_text());
    query.map(|Query(part)| part).map_err(wrong)
}

fn number(text: &str) -> Answered<i64> {
    text.parse().map_err(|_| Problem::none(format!("{text:?} is no number of anything")))
}

/// A page of a list; `next` is what continues it.
fn page(name: &str, entries: Vec<Value>, limit: u32, next: &str, last: Option<i64>) -> Json<Value> {
    let more = (entries.len() >= limit as usize).then_some(last).flatten();
    Json(json!({name: entries, "next": more.map(|last| json!({next: last}))}))
}

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_default()
}

async fn ready(State(api): Shared) -> Response {
    match blocking(move || Ok(api.store.id()?)).await {
        Ok(_) => Json(json!({"status": "ready"})).into_response(),
        Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the state cannot be used").into_response(),
    }
}

/// Answers `GET /api/v1/streams`: what the streams of followed syncs do, or did last, by sync and side.
async fn streams(State(api): Shared) -> Answered<Json<Value>> {
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

async fn syncs(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || {
        let (last, letters, held) = (api.store.last_runs()?, api.store.letters_by_sync()?, api.store.held_by_sync()?);
        let syncs = api.planned().into_iter().map(|(sync, planned)| {
            let (dead, parked) = letters.get(&sync).copied().unwrap_or_default();
            json!({"sync": sync, "planned": planned, "last_run": last.get(&sync).map(shown_run), "dead_letters": dead,
                   "parked": parked, "conflicts_held": held.get(&sync).copied().unwrap_or_default()})
        });
        Ok(Json(json!({"syncs": syncs.collect::<Vec<_>>()})))
    })
    .await
}

async fn sync(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    let planned = api.planned().remove(&name).ok_or_else(|| Problem::none(format!("there is no sync {name:?}")))?;
    blocking(move || {
        let runs: Vec<Value> = api.store.runs(Some(&name), i64::MAX, 10)?.iter().map(shown_run).collect();
        Ok(Json(json!({"sync": name, "planned": planned, "runs": runs})))
    })
    .await
}

async fn run_now(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered<Response> {
    caller.needs(Role::Operator)?;
    if !api.scheduler()?.run(&name) {
        return Err(Problem::none(format!("there is no sync {name:?}")));
    }
    Ok((StatusCode::ACCEPTED, Json(json!({"sync": name, "state": "waiting"}))).into_response())
}

/// Why a sync is paused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    why: String,
}

fn body<T>(body: Result<Json<T>, JsonRejection>) -> Answered<T> {
    body.map(|Json(body)| body).map_err(|error| Problem::new(error.status(), error.body_text()))
}

async fn pause(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    why: Result<Json<Why>, JsonRejection>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Operator)?;
    let why = body(why)?.why;
    if !api.planned().contains_key(&name) {
        return Err(Problem::none(format!("there is no sync {name:?}")));
    }
    blocking(move || {
        api.scheduler()?.pause(&caller.name, &name, &why)?;
        Ok(Json(json!({"sync": name, "state": "paused", "why": why})))
    })
    .await
}

async fn resume(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Operator)?;
    blocking(move || {
        if !api.scheduler()?.resume(&caller.name, &name)? {
            return Err(Problem::new(StatusCode::CONFLICT, format!("{name:?} is not paused")));
        }
        Ok(Json(json!({"sync": name, "state": "scheduled"})))
    })
    .await
}

async fn runs(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let runs = api.store.runs(part.sync.as_deref(), part.before.unwrap_or(i64::MAX), limit)?;
        Ok(page("runs", runs.iter().map(shown_run).collect(), limit, "before", runs.last().map(|run| run.id)))
    })
    .await
}

async fn one_run(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let run = api.store.run(id)?.ok_or_else(|| Problem::none(format!("there is no run {id}")))?;
        Ok(Json(shown_run(&run)))
    })
    .await
}

/// Undoes a run; returns what came of it.
pub(crate) fn undo(api: &Api, run: i64, actor: &str) -> Answered<String> {
    if api.store.run(run)?.is_none() {
        return Err(Problem::none(format!("there is no run {run}")));
    }
    api.scheduler()?.work().undo(run, actor).map_err(|why| Problem::new(StatusCode::CONFLICT, why))
}

async fn undo_run(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Operator)?;
    let id = number(&id)?;
    blocking(move || Ok(Json(json!({"undid": id, "what": undo(&api, id, &caller.name)?})))).await
}

async fn letters(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let (sync, state) = (part.sync.as_deref(), part.state.as_deref());
        let letters = api.store.dead_letters(sync, state, part.after.unwrap_or_default(), limit as usize)?;
        let last = letters.last().map(|letter| letter.id);
        Ok(page("dead_letters", letters.iter().map(|letter| json!(letter)).collect(), limit, "after", last))
    })
    .await
}

async fn letter(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let letter = api.store.dead_letter(id)?;
        Ok(Json(json!(letter.ok_or_else(|| Problem::none(format!("there is no dead letter {id}")))?)))
    })
    .await
}

async fn drop_letter(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<StatusCode> {
    caller.needs(Role::Operator)?;
    let id = number(&id)?;
    blocking(move || {
        // Two may have had it before them: the second is told that it is gone.
        if api.store.acting_as(&caller.name).drop_dead_letter(id)? {
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(Problem::none(format!("there is no dead letter {id}")))
        }
    })
    .await
}

async fn replay_letter(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<Response> {
    caller.needs(Role::Operator)?;
    let id = number(&id)?;
    blocking(move || {
        let letter = api.store.dead_letter(id)?;
        let letter = letter.ok_or_else(|| Problem::none(format!("there is no dead letter {id}")))?;
        if !api.scheduler()?.replay(&letter.sync, [id].into()) {
            return Err(Problem::none(format!("there is no sync {:?}", letter.sync)));
        }
        Ok((StatusCode::ACCEPTED, Json(json!({"sync": letter.sync, "state": "waiting"}))).into_response())
    })
    .await
}

async fn records(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let key = part(query)?.key.unwrap_or_default();
    blocking(move || {
        let mut records = Vec::new();
        for mapped in api.work().map(|work| work.mappings()).unwrap_or_default() {
            for link in api.store.links_of(&mapped.mapping, &key)? {
                records.push(json!({"mapping": mapped.mapping, "syncs": mapped.syncs, "salesforce": link.salesforce,
                                    "external": link.external, "written_last": link.side,
                                    "history": api.store.history(&link, MOST)?}));
            }
        }
        Ok(Json(json!({"records": records})))
    })
    .await
}

async fn connections(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"connections": api.work().map(|work| work.connections()).unwrap_or_default()}))))
        .await
}

async fn calls_left(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"budgets": *budgets(&api)?})))).await
}

async fn mappings(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"mappings": api.work().map(|work| work.mappings()).unwrap_or_default()})))).await
}

fn mapping_text(api: &Api, mapping: &str) -> Answered<String> {
    let text = api.work().and_then(|work| work.mapping_text(mapping));
    text.ok_or_else(|| Problem::none(format!("there is no mapping {mapping:?}")))
}

/// What is wrong with a configuration.
fn wrong(what: Vec<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what.join("\n"))
}

async fn mapping(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"mapping": name, "text": mapping_text(&api, &name)?})))).await
}

/// Another text of a mapping.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    text: String,
}

async fn try_mapping(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: Result<Json<Text>, JsonRejection>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Operator)?;
    let text = body(sent)?.text;
    blocking(move || {
        mapping_text(&api, &name)?;
        let tried = api.scheduler()?.work().try_mapping(&name, &text).map_err(wrong)?;
        Ok(Json(json!({"mapping": name, "tried": tried})))
    })
    .await
}

/// Another text of a mapping, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    text: String,
    reason: String,
}

async fn keep_mapping(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: Result<Json<Kept>, JsonRejection>,
) -> Answered<Response> {
    caller.needs(Role::Admin)?;
    let Kept { text, reason } = body(sent)?;
    blocking(move || {
        mapping_text(&api, &name)?;
        let version = api.scheduler()?.work().keep_mapping(&name, &text, &caller.name, &reason).map_err(wrong)?;
        Ok((StatusCode::CREATED, Json(json!({"version": version}))).into_response())
    })
    .await
}

/// Why something is done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: String,
}

/// Puts a version to work that was kept.
pub(crate) fn put_to_work(api: &Api, version: i64, author: &str, reason: &str) -> Answered<()> {
    let put = api.scheduler()?.work().put_to_work(version, author, reason).map_err(wrong)?;
    if put { Ok(()) } else { Err(Problem::none(format!("there is no version {version}"))) }
}

async fn promote(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Result<Json<Reason>, JsonRejection>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Admin)?;
    let (id, reason) = (number(&id)?, body(sent)?.reason);
    blocking(move || {
        put_to_work(&api, id, &caller.name, &reason)?;
        Ok(Json(json!({"version": id, "state": "at work"})))
    })
    .await
}

async fn conflicts(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let (sync, state) = (part.sync.as_deref(), part.state.as_deref());
        let conflicts = api.store.conflicts(sync, state, part.after.unwrap_or_default(), limit as usize)?;
        let last = conflicts.last().map(|conflict| conflict.id);
        Ok(page("conflicts", conflicts.iter().map(|conflict| json!(conflict)).collect(), limit, "after", last))
    })
    .await
}

async fn conflict(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let conflict = api.store.conflict(id)?;
        Ok(Json(json!(conflict.ok_or_else(|| Problem::none(format!("there is no conflict {id}")))?)))
    })
    .await
}

/// Who wins a conflict.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    winner: Winner,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Winner {
    Salesforce,
    External,
}

async fn resolve(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    decision: Result<Json<Decision>, JsonRejection>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Operator)?;
    let (id, winner) = (number(&id)?, body(decision)?.winner);
    let side = match winner {
        Winner::Salesforce => model::Side::Salesforce,
        Winner::External => model::Side::External,
    };
    blocking(move || {
        if !api.store.acting_as(&caller.name).resolve(id, side)? {
            return Err(match api.store.conflict(id)? {
                Some(known) => {
                    Problem::new(StatusCode::CONFLICT, format!("conflict {id} is {} and waits for nobody", known.state))
                }
                None => Problem::none(format!("there is no conflict {id}")),
            });
        }
        Ok(Json(json!(api.store.conflict(id)?)))
    })
    .await
}

async fn reconciliations(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let found = api.store.reconciliations(part.sync.as_deref(), limit)?;
        Ok(Json(json!({"reconciliations": found.iter().map(shown_comparison).collect::<Vec<_>>()})))
    })
    .await
}

fn shown_comparison(one: &Reconciled) -> Value {
    json!({"id": one.id, "sync": one.sync, "at": one.at, "agrees": one.agrees, "report": parsed(&one.body)})
}

async fn reconciliation(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let found =
            api.store.reconciliation(id)?.ok_or_else(|| Problem::none(format!("there is no comparison {id}")))?;
        Ok(Json(shown_comparison(&found)))
    })
    .await
}

async fn alerts(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"alerts": api.store.alerts()?})))).await
}

async fn versions(State(api): Shared, query: Result<Query<Part>, QueryRejection>) -> Answered<Json<Value>> {
    let limit = part(query)?.limit()?;
    blocking(move || Ok(Json(json!({"versions": api.store.versions(limit)?})))).await
}

async fn version(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let found = api.store.version(id)?.ok_or_else(|| Problem::none(format!("there is no version {id}")))?;
        Ok(Json(json!({"version": found.0, "files": found.1})))
    })
    .await
}

async fn audit(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Part>, QueryRejection>,
) -> Answered<Json<Value>> {
    caller.needs(Role::Viewer)?;
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let wanted = Wanted { sync: part.sync.as_deref(), what: part.what.as_deref(), run: part.run };
        let entries = api.store.audit_entries(wanted, part.before.unwrap_or(i64::MAX), limit)?;
        let last = entries.last().map(|entry| entry.id);
        let shown = entries.iter().map(|entry| {
            json!({"id": entry.id, "at": entry.at, "actor": entry.actor, "what": entry.what, "sync": entry.sync,
                   "run": entry.run, "more": parsed(&entry.body), "hash": entry.hash})
        });
        Ok(page("entries", shown.collect(), limit, "before", last))
    })
    .await
}

async fn tokens(State(api): Shared, Extension(caller): Extension<Caller>) -> Answered<Json<Value>> {
    caller.needs(Role::Admin)?;
    blocking(move || Ok(Json(json!({"tokens": api.store.tokens()?})))).await
}

/// A token that is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Days until it ends.
    pub(crate) days: u32,
}

/// Makes a token; returns its number and what its holder sends.
pub(crate) fn make_token(api: &Api, actor: &str, wanted: &NewToken) -> Answered<(i64, String)> {
    let bad = |why: &str| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why));
    if wanted.name.trim().is_empty() || wanted.name.len() > 100 {
        return bad("`name` has 1 to 100 characters");
    }
    if !(1..=3_650).contains(&wanted.days) {
        return bad("`days` goes from 1 to 3650");
    }
    let secret = state::new_secret()?;
    let ends = chrono::Utc::now() + chrono::TimeDelta::days(wanted.days.into());
    let id = api.store.acting_as(actor).keep_token(wanted.name.trim(), wanted.role, &secret, ends)?;
    Ok((id, secret))
}

async fn new_token(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    sent: Result<Json<NewToken>, JsonRejection>,
) -> Answered<Response> {
    caller.needs(Role::Admin)?;
    let wanted = body(sent)?;
    blocking(move || {
        let (id, secret) = make_token(&api, &caller.name, &wanted)?;
        Ok((StatusCode::CREATED, Json(json!({"id": id, "token": secret}))).into_response())
    })
    .await
}

async fn sessions(State(api): Shared, Extension(caller): Extension<Caller>) -> Answered<Json<Value>> {
    caller.needs(Role::Admin)?;
    blocking(move || Ok(Json(json!({"sessions": api.store.sessions(chrono::Utc::now())?})))).await
}

async fn revoke(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<StatusCode> {
    caller.needs(Role::Admin)?;
    let id = number(&id)?;
    blocking(move || {
        if api.store.acting_as(&caller.name).revoke_token(id)? {
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(Problem::none(format!("there is no token {id} that could be taken back")))
        }
    })
    .await
}
