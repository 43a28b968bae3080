//! What happened and who did it, who may do what, and what people are told of.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use state::{Role, Verdict, Wanted};

use super::{Api, Asking, Sent, Shared, blocking, body, number, page, parsed, part, senseless};
use crate::auth::Caller;
use crate::problem::{Answered, Problem};

pub(super) async fn alerts(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || {
        let configured = api.work()?.alerts()?;
        let (to, has_rules) = (configured.channels(), !configured.is_empty());
        Ok(Json(json!({"alerts": api.store.alerts()?, "to": to, "has_rules": has_rules})))
    })
    .await
}

/// Where people are told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Channel {
    /// Its name in `alerts.to`.
    to: String,
}

pub(super) async fn test_alert(State(api): Shared, sent: Sent<Channel>) -> Answered<Json<Value>> {
    let to = body(sent)?.to;
    try_channel(&api, &to).await?;
    Ok(Json(json!({"to": to, "state": "told"})))
}

/// Sends a message that says it is a test.
pub(crate) async fn try_channel(api: &Api, to: &str) -> Answered<()> {
    let alerts = api.work()?.alerts()?;
    if !alerts.channels().contains(&to) {
        return Err(Problem::none(format!("there is no {to:?} in `alerts.to`")));
    }
    let untold = |why: String| Problem::new(StatusCode::BAD_GATEWAY, format!("{to} was not told: {why}"));
    alerts.test(to).await.map_err(untold)
}

pub(super) async fn audit(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
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

pub(super) async fn export(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let after = part(query)?.after.unwrap_or_default();
    blocking(move || {
        let entries = api.store.audit_after(after)?;
        let next = entries.last().map(|entry| json!({"after": entry.id}));
        Ok(Json(json!({"entries": entries, "next": next})))
    })
    .await
}

/// Looks at the whole chain; nobody else does at the same time.
pub(crate) async fn verified(api: std::sync::Arc<Api>, head: Option<String>) -> Answered<Value> {
    let alone = std::sync::Arc::clone(&api);
    let _alone = alone.verifying.lock().await;
    blocking(move || {
        Ok(match api.store.verify_audit()? {
            Verdict::Broken { id, what } => json!({"whole": false, "entry": id, "what": what}),
            Verdict::Whole(verified) => {
                let mut told = json!({"whole": true, "entries": verified.entries, "first": verified.first,
                                      "last": verified.last, "head": verified.head});
                if let Some(head) = head {
                    told["has_head"] = (head == verified.head || api.store.has_audit_hash(&head)?).into();
                }
                told
            }
        })
    })
    .await
}

pub(super) async fn verify(State(api): Shared, query: Asking) -> Answered<Json<Value>> {
    let head = part(query)?.head;
    verified(api, head).await.map(Json)
}

/// What is removed of the audit chain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pruning {
    /// Entries written before this date, such as 2026-01-31, or time in UTC.
    before: String,
}

pub(super) async fn prune(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    sent: Sent<Pruning>,
) -> Answered<Json<Value>> {
    let before = body(sent)?.before;
    let wrong = || senseless(&format!("{before:?} is no date; write it as 2026-01-31 or 2026-01-31T12:00:00Z"));
    let time = match chrono::NaiveDate::parse_from_str(&before, "%Y-%m-%d") {
        Ok(day) => day.and_time(chrono::NaiveTime::MIN).and_utc(),
        Err(_) => chrono::DateTime::parse_from_rfc3339(&before).map_err(|_| wrong())?.to_utc(),
    };
    blocking(move || {
        let removed = api.store.acting_as(&caller.name).prune_audit(&time.to_rfc3339())?;
        Ok(Json(json!({"removed": removed})))
    })
    .await
}

pub(super) async fn tokens(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"tokens": api.store.tokens()?})))).await
}

/// A token that is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// Whose it is; the audit chain names them so.
    #[schemars(length(min = 1, max = 100))]
    pub(crate) name: String,
    /// What they may do.
    #[schemars(with = "RoleWord")]
    pub(crate) role: Role,
    /// Days until it ends.
    #[schemars(range(min = 1, max = 3_650))]
    pub(crate) days: u32,
}

/// The names of roles, for the description.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "only described")]
enum RoleWord {
    Viewer,
    Operator,
    Admin,
}

/// Makes a token; returns its number, what its holder sends, and when it ends, in RFC 3339.
pub(crate) fn make_token(api: &Api, actor: &str, wanted: &NewToken) -> Answered<(i64, String, String)> {
    if wanted.name.trim().is_empty() || wanted.name.chars().count() > 100 {
        return Err(senseless("`name` has 1 to 100 characters"));
    }
    if !(1..=3_650).contains(&wanted.days) {
        return Err(senseless("`days` goes from 1 to 3650"));
    }
    let secret = state::new_secret()?;
    let ends = chrono::Utc::now() + chrono::TimeDelta::days(wanted.days.into());
    let id = api.store.acting_as(actor).keep_token(wanted.name.trim(), wanted.role, &secret, ends)?;
    Ok((id, secret, ends.to_rfc3339()))
}

pub(super) async fn new_token(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    sent: Sent<NewToken>,
) -> Answered<Response> {
    let wanted = body(sent)?;
    blocking(move || {
        let (id, secret, ends) = make_token(&api, &caller.name, &wanted)?;
        Ok((StatusCode::CREATED, Json(json!({"id": id, "token": secret, "ends": ends}))).into_response())
    })
    .await
}

pub(super) async fn sessions(State(api): Shared) -> Answered<Json<Value>> {
    blocking(move || Ok(Json(json!({"sessions": api.store.sessions(chrono::Utc::now())?})))).await
}

pub(super) async fn sign_out(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(session): Path<String>,
) -> Answered<StatusCode> {
    blocking(move || {
        if api.store.acting_as(&caller.name).sign_out(&session)? {
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(Problem::none(format!("there is no session {session:?}")))
        }
    })
    .await
}

pub(super) async fn revoke(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered<StatusCode> {
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
