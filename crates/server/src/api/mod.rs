//! The admin API: its routes, and what their answers share. What the console shows and the command line does goes through the
//! same functions.

mod project;
mod queues;
mod syncs;
mod trust;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use state::{Role, Store};

use crate::auth::{Caller, Callers, Wrong, is_good, known};
use crate::budget::Known;
use crate::console;
use crate::metrics::metrics;
use crate::oidc::Oidc;
use crate::openapi::{self, Call};
use crate::problem::{Answered, Problem};
use crate::scheduler::{Handle, Planned};
use crate::work::{CompareWanted, RunWanted, Undoing, Work};

pub(crate) use project::{put_to_work, roll_back};
pub(crate) use queues::{mended, replay};
pub(crate) use syncs::{compare, undo, undone};
pub(crate) use trust::{NewToken, make_token, try_channel, verified};

/// Most bytes of a body: what most calls send are a few words.
const BODY_BYTES: usize = 64 << 10;
/// Most bytes of a text of a mapping.
pub(crate) const TEXT_BYTES: usize = 1 << 20;
/// Most bytes of a project: a thousand mappings of 30 KB.
const PROJECT_BYTES: usize = 32 << 20;
/// Entries of a page, and most of them.
const PAGE: u32 = 50;
const MOST: u32 = 500;

/// What answers stand on.
pub(crate) struct Api {
    pub(crate) store: Store,
    work: Option<Arc<dyn Work>>,
    scheduler: Option<Handle>,
    /// True when only this machine can reach it.
    pub(crate) is_local: bool,
    pub(crate) wrong: Wrong,
    /// Who vouches for people, where somebody does.
    oidc: RwLock<Option<Arc<Oidc>>>,
    /// What forms carry while nobody has to sign in. Where there are no random numbers it is empty, and no form is good.
    pub(crate) proof: String,
    pub(crate) budgets: Known,
    pub(crate) callers: Callers,
    /// Held while the audit chain is looked at, which reads all of it.
    verifying: tokio::sync::Mutex<()>,
}

impl Api {
    pub(crate) fn new(
        store: Store,
        work: Option<Arc<dyn Work>>,
        scheduler: Option<Handle>,
        is_local: bool,
        oidc: Option<Oidc>,
    ) -> Self {
        let proof = state::new_secret().unwrap_or_default();
        Self {
            store,
            work,
            scheduler,
            is_local,
            wrong: Wrong::default(),
            oidc: RwLock::new(oidc.map(Arc::new)),
            proof,
            budgets: Known::default(),
            callers: Callers::new(),
            verifying: tokio::sync::Mutex::default(),
        }
    }

    /// True when people have to say who they are: somebody vouches for them, or there is a token that is good.
    pub(crate) fn is_set_up(&self) -> Answered<bool> {
        Ok(self.oidc().is_some() || self.store.tokens()?.iter().any(is_good))
    }

    /// True where browsers reach it by HTTPS alone.
    pub(crate) fn is_secure(&self) -> bool {
        self.oidc().map_or(!self.is_local, |oidc| oidc.is_secure())
    }

    /// Returns who vouches for people, where somebody does.
    pub(crate) fn oidc(&self) -> Option<Arc<Oidc>> {
        self.oidc.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets somebody else vouch for people from now on, or nobody: whoever signed in by another's word signs in anew.
    pub(crate) fn vouch(&self, oidc: Option<Oidc>) {
        *self.oidc.write().unwrap_or_else(PoisonError::into_inner) = oidc.map(Arc::new);
    }

    /// Returns what the scheduler knows of each sync.
    pub(crate) fn planned(&self) -> BTreeMap<String, Planned> {
        self.scheduler.as_ref().map(Handle::planned).unwrap_or_default()
    }

    /// Returns what the scheduler knows of one sync.
    pub(crate) fn planned_of(&self, sync: &str) -> Option<Planned> {
        self.scheduler.as_ref()?.planned_of(sync)
    }

    /// Returns whoever knows the project.
    pub(crate) fn work(&self) -> Answered<Arc<dyn Work>> {
        let missing = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no project is served here");
        self.work.clone().ok_or_else(missing)
    }

    pub(crate) fn scheduler(&self) -> Answered<&Handle> {
        let missing = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nothing runs syncs here");
        self.scheduler.as_ref().ok_or_else(missing)
    }
}

type Shared = State<Arc<Api>>;
/// The body of a call, as it came.
type Sent<T> = Result<Json<T>, JsonRejection>;
/// The body of a call that may have none.
type SentMaybe<T> = Result<Option<Json<T>>, JsonRejection>;
type Asking = Result<Query<Part>, QueryRejection>;

/// The calls, each with what answers it.
fn calls() -> Vec<(Call, MethodRouter<Arc<Api>>)> {
    /// What a call answers besides what any may: there is no such thing, the project is at fault, a system behind it is, or nothing
    /// runs syncs.
    const NONE: &[u16] = &[404];
    const SYNC: &[u16] = &[404, 503];
    const WORK: &[u16] = &[404, 409, 422, 502, 503];
    let of_project = DefaultBodyLimit::max(PROJECT_BYTES);
    let of_mapping = DefaultBodyLimit::max(2 * TEXT_BYTES);
    vec![
        (Call::get("/api/v1/streams", "What the streams of followed syncs do, or did last"), get(syncs::streams)),
        (
            Call::get("/api/v1/syncs", "What each sync does now, and did last, by name").with(&["behind", "limit"]),
            get(syncs::syncs),
        ),
        (Call::get("/api/v1/syncs/{sync}", "One sync with its last runs").answers(200, NONE), get(syncs::sync)),
        (
            Call::get("/api/v1/syncs/{sync}/plan", "What a run would do; it reads both systems, and writes nothing")
                .needs(Some(Role::Operator))
                .answers(200, WORK),
            get(syncs::plan),
        ),
        (
            Call::post(
                "/api/v1/syncs/{sync}/run",
                "Lets a sync run as soon as its turn comes: what changed, unless told otherwise",
            )
            .may_send::<RunWanted>()
            .answers(202, SYNC),
            post(syncs::run_now),
        ),
        (
            Call::post(
                "/api/v1/syncs/{sync}/compare",
                "Compares both sides of a sync as soon as its turn comes, besides as `bridgehead.yaml` says",
            )
            .may_send::<CompareWanted>()
            .answers(202, SYNC),
            post(syncs::compare_now),
        ),
        (
            Call::post("/api/v1/syncs/{sync}/pause", "Pauses a sync, with the reason")
                .sends::<syncs::Why>()
                .answers(200, SYNC),
            post(syncs::pause),
        ),
        (
            Call::post("/api/v1/syncs/{sync}/resume", "Lets a paused sync go on").answers(200, &[404, 409, 503]),
            post(syncs::resume),
        ),
        (
            Call::get("/api/v1/captures", "How the changes of syncs are noted outside")
                .needs(Some(Role::Operator))
                .answers(200, &[503]),
            get(syncs::captures),
        ),
        (
            Call::delete(
                "/api/v1/captures/{sync}",
                "Removes what notes the changes of a sync; its next run makes it again, and reads everything",
            )
            .answers(200, WORK),
            delete(syncs::drop_capture),
        ),
        (Call::get("/api/v1/runs", "Runs, newest first").with(&["sync", "before", "limit"]), get(syncs::runs)),
        (Call::get("/api/v1/runs/{id}", "One run").answers(200, NONE), get(syncs::one_run)),
        (
            Call::post(
                "/api/v1/runs/{id}/undo",
                "Puts back what a run of a two-way sync wrote, but for what was changed since",
            )
            .may_send::<Undoing>()
            .answers(200, WORK),
            post(syncs::undo_run),
        ),
        (
            Call::get("/api/v1/dead-letters", "Changes that could not be applied, oldest first")
                .with(&["sync", "state", "code", "after", "limit"]),
            get(queues::letters),
        ),
        (Call::get("/api/v1/dead-letters/{id}", "One of them").answers(200, NONE), get(queues::letter)),
        (
            Call::delete("/api/v1/dead-letters/{id}", "Forgets one for good").answers(204, NONE),
            delete(queues::drop_letter),
        ),
        (
            Call::post("/api/v1/dead-letters/{id}/mend", "Gives its record other values")
                .sends::<queues::Mending>()
                .answers(200, &[404, 409]),
            post(queues::mend_letter),
        ),
        (
            Call::post("/api/v1/dead-letters/{id}/replay", "Lets its sync run and try it again").answers(202, SYNC),
            post(queues::replay_letter),
        ),
        (
            Call::get(
                "/api/v1/records",
                "The links of a record, by its key on either side, with what was written to it; what both systems hold now, too",
            )
            .with(&["key", "now"]),
            get(queues::records),
        ),
        (
            Call::get("/api/v1/conflicts", "What both sides changed, oldest first")
                .with(&["sync", "state", "after", "limit"]),
            get(queues::conflicts),
        ),
        (Call::get("/api/v1/conflicts/{id}", "One of them").answers(200, NONE), get(queues::conflict)),
        (
            Call::post("/api/v1/conflicts/{id}/resolve", "Decides one: the next run writes the winner's value")
                .sends::<queues::Decision>()
                .answers(200, &[404, 409]),
            post(queues::resolve),
        ),
        (Call::get("/api/v1/connections", "The connections, each with its syncs"), get(project::connections)),
        (
            Call::post(
                "/api/v1/connections/{connection}/try",
                "Asks a connection what it has, and whether what mappings name of it is as it was",
            )
            .answers(200, WORK),
            post(project::try_connection),
        ),
        (
            Call::get("/api/v1/connections/{connection}/entities", "The names of its entities")
                .needs(Some(Role::Operator))
                .answers(200, WORK),
            get(project::entities),
        ),
        (
            Call::get("/api/v1/connections/{connection}/entities/{entity}", "One of them, with its fields")
                .needs(Some(Role::Operator))
                .answers(200, WORK),
            get(project::entity),
        ),
        (
            Call::get(
                "/api/v1/budgets",
                "The API calls of each org: left, spent today, and foreseen until midnight, UTC",
            ),
            get(project::calls_left),
        ),
        (Call::get("/api/v1/settings", "How the project is set up; nothing secret"), get(project::settings)),
        (Call::get("/api/v1/mappings", "What is mapped onto what, and by which syncs"), get(project::mappings)),
        (
            Call::get("/api/v1/mappings/{mapping}", "The text of a mapping, as it is at work").answers(200, NONE),
            get(project::mapping),
        ),
        (
            Call::post(
                "/api/v1/mappings/{mapping}/try",
                "Checks another text of a mapping, and says what it makes of some records",
            )
            .sends::<project::Text>()
            .answers(200, WORK),
            post(project::try_mapping).layer(of_mapping),
        ),
        (
            Call::post(
                "/api/v1/mappings/{mapping}/keep",
                "Keeps the configuration with another text of a mapping as a version",
            )
            .needs(Some(Role::Admin))
            .sends::<project::Kept>()
            .answers(201, WORK),
            post(project::keep_mapping).layer(of_mapping),
        ),
        (
            Call::get("/api/v1/versions", "Versions of the configuration, newest first").with(&["before", "limit"]),
            get(project::versions),
        ),
        (
            Call::post("/api/v1/versions", "Checks a configuration, keeps it as a version, and puts that to work")
                .needs(Some(Role::Admin))
                .sends::<project::Deploy>()
                .answers(200, WORK),
            post(project::deploy).layer(of_project),
        ),
        (Call::get("/api/v1/versions/{id}", "One of them, with its files").answers(200, NONE), get(project::version)),
        (
            Call::post("/api/v1/versions/{id}/promote", "Checks a version, and puts it to work")
                .needs(Some(Role::Admin))
                .sends::<project::Reason>()
                .answers(200, WORK),
            post(project::promote),
        ),
        (
            Call::post(
                "/api/v1/rollback",
                "Puts an earlier version to work again: the one before, if none is named; with what was written since put back, where \
                 that is asked",
            )
            .needs(Some(Role::Admin))
            .sends::<project::Rollback>()
            .answers(200, WORK),
            post(project::rollback),
        ),
        (
            Call::get("/api/v1/reconciliations", "What came of comparisons, newest first")
                .with(&["sync", "before", "limit"]),
            get(syncs::reconciliations),
        ),
        (Call::get("/api/v1/reconciliations/{id}", "One of them").answers(200, NONE), get(syncs::reconciliation)),
        (
            Call::get("/api/v1/alerts", "The alerts that hold, oldest first, and where people are told")
                .answers(200, &[422, 503]),
            get(trust::alerts),
        ),
        (
            Call::post("/api/v1/alerts/test", "Sends a message that says it is a test")
                .sends::<trust::Channel>()
                .answers(200, &[404, 502, 503]),
            post(trust::test_alert),
        ),
        (
            Call::get("/api/v1/audit", "The audit chain, newest first")
                .with(&["sync", "run", "what", "before", "limit"]),
            get(trust::audit),
        ),
        (
            Call::get("/api/v1/audit/export", "The audit chain, oldest first, with all that its hashes are made of")
                .with(&["after"]),
            get(trust::export),
        ),
        (
            Call::get(
                "/api/v1/audit/verify",
                "Looks at every entry, and says whether the chain is whole, and has an entry with the hash `head`",
            )
            .with(&["head"]),
            get(trust::verify),
        ),
        (
            Call::post("/api/v1/audit/prune", "Removes old entries; an entry tells which they were")
                .needs(Some(Role::Admin))
                .sends::<trust::Pruning>(),
            post(trust::prune),
        ),
        (Call::get("/api/v1/tokens", "Tokens, without what is secret").needs(Some(Role::Admin)), get(trust::tokens)),
        (
            Call::post("/api/v1/tokens", "Makes a token; its secret is told this once")
                .needs(Some(Role::Admin))
                .sends::<NewToken>()
                .answers(201, &[]),
            post(trust::new_token),
        ),
        (
            Call::delete("/api/v1/tokens/{id}", "Takes a token back").needs(Some(Role::Admin)).answers(204, NONE),
            delete(trust::revoke),
        ),
        (
            Call::get("/api/v1/sessions", "Who is signed in to the console").needs(Some(Role::Admin)),
            get(trust::sessions),
        ),
        (
            Call::delete("/api/v1/sessions/{session}", "Signs somebody out")
                .needs(Some(Role::Admin))
                .answers(204, NONE),
            delete(trust::sign_out),
        ),
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

/// The calls alone, for whoever is known already: each answers those alone whom its description names.
pub(crate) fn calls_router() -> Router<Arc<Api>> {
    calls().into_iter().fold(Router::new(), |router, (call, answer)| {
        let role = call.role.unwrap_or(Role::Admin);
        router.route(call.path, answer.route_layer(from_fn_with_state(role, needs)))
    })
}

/// Lets nobody pass whose role is less.
async fn needs(
    State(role): State<Role>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller.needs(role) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .merge(calls_router().layer(from_fn_with_state(Arc::clone(&api), known)))
        .merge(console::router(&api))
        .merge(open_calls().into_iter().fold(Router::new(), |router, (call, answer)| router.route(call.path, answer)))
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
    code: Option<String>,
    head: Option<String>,
    /// Entries behind this name, in the order of names.
    behind: Option<String>,
    now: Option<bool>,
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

fn part(query: Asking) -> Answered<Part> {
    let wrong = |error: QueryRejection| Problem::new(StatusCode::BAD_REQUEST, error.body_text());
    query.map(|Query(part)| part).map_err(wrong)
}

fn number(text: &str) -> Answered<i64> {
    text.parse().map_err(|_| Problem::none(format!("{text:?} is no number of anything")))
}

fn body<T>(sent: Sent<T>) -> Answered<T> {
    sent.map(|Json(body)| body).map_err(|error| Problem::new(error.status(), error.body_text()))
}

fn body_or_default<T: Default>(sent: SentMaybe<T>) -> Answered<T> {
    let unreadable = |error: JsonRejection| Problem::new(error.status(), error.body_text());
    Ok(sent.map_err(unreadable)?.map(|Json(body)| body).unwrap_or_default())
}

/// What makes no sense though it can be read.
fn senseless(why: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)
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
