//! The project that is served: its connections, its mappings, its versions.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use state::Files;

use super::{Api, Asking, Sent, Shared, blocking, body, number, page, part, senseless};
use crate::auth::Caller;
use crate::budget::budgets;
use crate::problem::{Answered, Problem};
use crate::work::{Deployed, Deploying, TakenBack};

pub(super) async fn connections(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"connections": api.work().map(|work| work.connections()).unwrap_or_default()}))))
        .await
}

/// Turns whoever names a connection away that there is none of.
fn connection(api: &Api, name: &str) -> Answered<()> {
    let known: Vec<String> = api.work()?.connections().into_iter().map(|known| known.name).collect();
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    Err(Problem::none(format!("there is no connection {name:?}; there are {}", known.join(", "))))
}

pub(super) async fn try_connection(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || {
        connection(&api, &name)?;
        Ok(Json(json!({"connection": name, "answer": api.work()?.try_connection(&name)?})))
    })
    .await
}

pub(super) async fn entities(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || {
        connection(&api, &name)?;
        Ok(Json(json!({"entities": api.work()?.entities(&name)?})))
    })
    .await
}

pub(super) async fn entity(State(api): Shared, Path((name, entity)): Path<(String, String)>) -> Answered<Json<Value>> {
    blocking(move || {
        connection(&api, &name)?;
        Ok(Json(json!({"entity": api.work()?.entity(&name, &entity)?})))
    })
    .await
}

pub(super) async fn calls_left(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"budgets": *budgets(&api)?})))).await
}

pub(super) async fn settings(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || {
        let settings = api.work().map(|work| work.settings()).unwrap_or_default();
        let settings: Vec<Value> =
            settings.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        Ok(Json(json!({"version": env!("CARGO_PKG_VERSION"), "settings": settings})))
    })
    .await
}

pub(super) async fn mappings(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"mappings": api.work().map(|work| work.mappings()).unwrap_or_default()})))).await
}

fn mapping_text(api: &Api, mapping: &str) -> Answered<String> {
    let text = api.work().ok().and_then(|work| work.mapping_text(mapping));
    text.ok_or_else(|| Problem::none(format!("there is no mapping {mapping:?}")))
}

pub(super) async fn mapping(State(api): Shared, Path(name): Path<String>) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"mapping": name, "text": mapping_text(&api, &name)?})))).await
}

/// Another text of a mapping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    text: String,
}

pub(super) async fn try_mapping(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    sent: Sent<Text>,
) -> Answered<Json<Value>> {
    let text = body(sent)?.text;
    blocking(move || {
        mapping_text(&api, &name)?;
        Ok(Json(json!({"mapping": name, "tried": api.work()?.try_mapping(&name, &text)?})))
    })
    .await
}

/// Another text of a mapping, and why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    text: String,
    reason: String,
}

pub(super) async fn keep_mapping(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    sent: Sent<Kept>,
) -> Answered<Response> {
    let Kept { text, reason } = body(sent)?;
    blocking(move || {
        mapping_text(&api, &name)?;
        let version = api.work()?.keep_mapping(&name, &text, &caller.name, &reason)?;
        Ok((StatusCode::CREATED, Json(json!({"version": version}))).into_response())
    })
    .await
}

pub(super) async fn versions(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let versions = api.store.versions(part.before.unwrap_or(i64::MAX), limit)?;
        let last = versions.last().map(|version| version.id);
        let Json(mut page) = page("versions", versions.iter().map(|one| json!(one)).collect(), limit, "before", last);
        page["at_work"] = json!(api.store.version_at_work()?);
        Ok(Json(page))
    })
    .await
}

pub(super) async fn version(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let found = api.store.version(id)?.ok_or_else(|| unknown(id))?;
        Ok(Json(json!({"version": found.0, "files": found.1})))
    })
    .await
}

fn unknown(version: i64) -> Problem {
    Problem::none(format!("there is no version {version}; `bridgehead versions` lists them"))
}

/// A configuration that is to be put to work.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deploy {
    /// Its files: the text of each by its path in the project, such as `bridgehead.yaml` and `mappings/orders.yaml`.
    files: Files,
    /// Why, for others to read.
    reason: String,
    /// Who it is from; the caller, if nobody is named.
    #[serde(default)]
    author: Option<String>,
    /// Only keep it: `promote` puts it to work.
    #[serde(default)]
    staged: bool,
    /// Only check it, and say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Turns away what is no file of a project.
fn are_files(files: &Files) -> Answered<()> {
    let is_file = |path: &str| match path.split_once('/') {
        None => path == "bridgehead.yaml",
        Some((folder, name)) => {
            let stem = name.strip_suffix(".yaml").unwrap_or_default();
            ["mappings", "environments"].contains(&folder) && !stem.is_empty() && !stem.contains(['/', '\\'])
        }
    };
    match files.keys().find(|path| !is_file(path)) {
        Some(path) => Err(senseless(&format!(
            "{path:?} is no file of a project: there are bridgehead.yaml, mappings/NAME.yaml and environments/NAME.yaml"
        ))),
        None if !files.contains_key("bridgehead.yaml") => Err(senseless("bridgehead.yaml is missing")),
        None => Ok(()),
    }
}

pub(super) async fn deploy(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    sent: Sent<Deploy>,
) -> Answered<Json<Value>> {
    let Deploy { files, reason, author, staged, dry_run } = body(sent)?;
    are_files(&files)?;
    let deploying = match (dry_run, staged) {
        (true, _) => Deploying::Check,
        (false, true) => Deploying::Stage,
        (false, false) => Deploying::Work,
    };
    blocking(move || {
        // Whoever deploys for another is named, too: by what the audit chain calls the actor.
        let author = author.unwrap_or_else(|| caller.name.clone());
        Ok(Json(json!(api.work()?.deploy(files, &caller.name, &author, &reason, deploying)?)))
    })
    .await
}

/// Why something is done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    reason: String,
    /// Who decided; the caller, if nobody is named.
    #[serde(default)]
    author: Option<String>,
    /// Only check it, and say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Puts a version to work that was kept, unless it is only to be checked.
pub(crate) fn put_to_work(
    api: &Api,
    version: i64,
    [actor, author, reason]: [&str; 3],
    deploying: Deploying,
) -> Answered<Deployed> {
    api.work()?.put_to_work(version, actor, author, reason, deploying)?.ok_or_else(|| unknown(version))
}

/// Returns what becomes of what is good.
fn deploying(dry_run: bool) -> Deploying {
    if dry_run { Deploying::Check } else { Deploying::Work }
}

pub(super) async fn promote(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Sent<Reason>,
) -> Answered<Json<Value>> {
    let (id, Reason { reason, author, dry_run }) = (number(&id)?, body(sent)?);
    blocking(move || {
        let author = author.as_deref().unwrap_or(&caller.name);
        Ok(Json(json!(put_to_work(&api, id, [&caller.name, author, &reason], deploying(dry_run))?)))
    })
    .await
}

/// What is taken back, and why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    reason: String,
    /// Who decided; the caller, if nobody is named.
    #[serde(default)]
    author: Option<String>,
    /// The version that is to be at work; the one that was at work before, if none is named.
    #[serde(default)]
    version: Option<i64>,
    /// Put back, too, what two-way syncs wrote since the present version was put to work.
    #[serde(default)]
    undo: bool,
    /// Only say what would change, and be put back.
    #[serde(default)]
    dry_run: bool,
}

/// Puts an earlier version to work: the one before, if none is named. With `data` what two-way syncs wrote since is put back first,
/// by the mappings that wrote it.
pub(crate) fn roll_back(
    api: &Api,
    version: Option<i64>,
    data: bool,
    by: [&str; 3],
    deploying: Deploying,
) -> Answered<(Deployed, TakenBack)> {
    let version = version.map_or_else(|| api.store.version_before(), |id| Ok(Some(id)))?;
    let version = version.ok_or_else(|| Problem::none("no other version was at work before"))?;
    // It is good before anything is put back.
    let mut deployed = put_to_work(api, version, by, Deploying::Check)?;
    let taken = if data { api.work()?.take_back(by[0], deploying == Deploying::Check)? } else { TakenBack::default() };
    if deploying != Deploying::Check {
        deployed = put_to_work(api, version, by, deploying)?;
    }
    Ok((deployed, taken))
}

pub(super) async fn rollback(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    sent: Sent<Rollback>,
) -> Answered<Json<Value>> {
    let Rollback { reason, author, version, undo, dry_run } = body(sent)?;
    blocking(move || {
        let by = [&caller.name, author.as_deref().unwrap_or(&caller.name), &reason];
        let (deployed, taken) = roll_back(&api, version, undo, by, deploying(dry_run))?;
        Ok(Json(json!({"version": deployed.version, "changes": deployed.changes, "conversions": deployed.conversions,
                       "undone": taken.undone, "left": taken.left})))
    })
    .await
}
