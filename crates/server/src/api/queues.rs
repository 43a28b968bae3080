//! What waits for people, and the records that it is about.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use model::Side;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use state::{DeadLetter, Role, Unedited, WantedLetters};

use super::{Api, Asking, MOST, Sent, Shared, blocking, body, number, page, part, senseless};
use crate::auth::Caller;
use crate::problem::{Answered, Problem};
use crate::work::Asked;

pub(super) async fn letters(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let part = part(query)?;
    let limit = part.limit()?;
    blocking(move || {
        let sync = part.sync.as_deref();
        let wanted = WantedLetters { sync, state: part.state.as_deref(), code: part.code.as_deref() };
        let letters = api.store.dead_letters(wanted, part.after.unwrap_or_default(), limit as usize)?;
        let last = letters.last().map(|letter| letter.id);
        let Json(mut page) =
            page("dead_letters", letters.iter().map(|letter| json!(letter)).collect(), limit, "after", last);
        let (dead, parked) = api.store.count_dead_letters(sync)?;
        page["dead"] = dead.into();
        page["parked"] = parked.into();
        Ok(Json(page))
    })
    .await
}

/// Returns a dead letter, if nobody had it before whoever asks.
fn found(api: &Api, id: i64) -> Answered<DeadLetter> {
    api.store.dead_letter(id)?.ok_or_else(|| Problem::none(format!("there is no dead letter {id}")))
}

pub(super) async fn letter(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || Ok(Json(json!(found(&api, id)?)))).await
}

pub(super) async fn drop_letter(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<StatusCode> {
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

/// What becomes of the record of a dead letter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Mending {
    /// The values that are other ones now, each by the name of its field; null empties one. The others stay.
    fields: BTreeMap<String, Option<String>>,
    /// The record as it was looked at: if it is another by now, nothing is changed.
    #[serde(default)]
    known: Option<String>,
}

/// Gives a dead letter another record, if it still has the one that was looked at.
pub(crate) fn mended(api: &Api, id: i64, known: &str, record: &str, actor: &str) -> Answered<()> {
    let gone = || Problem::none(format!("dead letter {id} is gone: somebody else may have had it before you"));
    match api.store.acting_as(actor).edit_dead_letter(id, known, record)? {
        Ok(()) => Ok(()),
        Err(Unedited::Gone) => Err(gone()),
        Err(Unedited::Moved) => {
            let detail = format!("dead letter {id} was changed by somebody else since you opened it; look at it again");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        Err(Unedited::Misshapen(what)) => Err(senseless(&what)),
    }
}

pub(super) async fn mend_letter(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Sent<Mending>,
) -> Answered<Json<Value>> {
    let (id, Mending { fields, known }) = (number(&id)?, body(sent)?);
    blocking(move || {
        let letter = found(&api, id)?;
        let mut record: Map<String, Value> = serde_json::from_str(&letter.record).unwrap_or_default();
        for (name, value) in fields {
            record.insert(name, value.map_or(Value::Null, Value::from));
        }
        let known = known.unwrap_or(letter.record);
        mended(&api, id, &known, &Value::Object(record).to_string(), &caller.name)?;
        Ok(Json(json!(found(&api, id)?)))
    })
    .await
}

/// Lets runs try dead letters again, each of its sync.
pub(crate) fn replay(api: &Api, letters: &[DeadLetter], actor: &str) -> Answered<()> {
    let scheduler = api.scheduler()?;
    let syncs: BTreeSet<&str> = letters.iter().map(|letter| letter.sync.as_str()).collect();
    for sync in syncs {
        let letters = letters.iter().filter(|letter| letter.sync == sync).map(|letter| letter.id).collect();
        if !scheduler.run(sync, Asked { actor: Some(actor.to_owned()), letters, ..Asked::default() }) {
            return Err(Problem::none(format!("there is no sync {sync:?} any more")));
        }
    }
    Ok(())
}

pub(super) async fn replay_letter(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<Response> {
    let id = number(&id)?;
    blocking(move || {
        let letter = found(&api, id)?;
        replay(&api, std::slice::from_ref(&letter), &caller.name)?;
        Ok((StatusCode::ACCEPTED, Json(json!({"sync": letter.sync, "state": "waiting"}))).into_response())
    })
    .await
}

pub(super) async fn records(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    query: Asking,
) -> Answered<Json<Value>> {
    let part = part(query)?;
    let (key, now) = (part.key.unwrap_or_default(), part.now.unwrap_or_default());
    if now {
        // Both systems are asked for it.
        caller.needs(Role::Operator)?;
    }
    blocking(move || {
        let mut records = Vec::new();
        let Ok(work) = api.work() else { return Ok(Json(json!({"records": records}))) };
        for mapped in work.mappings() {
            for link in api.store.links_of(&mapped.mapping, &key)? {
                let mut record = json!({"mapping": mapped.mapping, "syncs": mapped.syncs, "salesforce": link.salesforce,
                                        "external": link.external, "written_last": link.side,
                                        "history": api.store.history(&link, MOST)?});
                if now {
                    let [salesforce, external] = work.record(&mapped.mapping, &link).map(|side| match side {
                        Ok(fields) => json!({"fields": fields}),
                        Err(why) => json!({"failed": why}),
                    });
                    record["now"] = json!({"salesforce": salesforce, "external": external});
                }
                records.push(record);
            }
        }
        Ok(Json(json!({"records": records})))
    })
    .await
}

pub(super) async fn conflicts(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
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

pub(super) async fn conflict(State(api): Shared, Path(id): Path<String>) -> Answered<Json<Value>> {
    let id = number(&id)?;
    blocking(move || {
        let conflict = api.store.conflict(id)?;
        Ok(Json(json!(conflict.ok_or_else(|| Problem::none(format!("there is no conflict {id}")))?)))
    })
    .await
}

/// Who wins a conflict.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    winner: Winner,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Winner {
    Salesforce,
    External,
}

pub(super) async fn resolve(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Sent<Decision>,
) -> Answered<Json<Value>> {
    let (id, winner) = (number(&id)?, body(sent)?.winner);
    let side = match winner {
        Winner::Salesforce => Side::Salesforce,
        Winner::External => Side::External,
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
