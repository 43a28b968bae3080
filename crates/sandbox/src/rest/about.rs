//! What the org says of itself: versions, resources, limits, what was used last, layouts in outline.

use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::{Answer, Call};
use crate::error::{Answered, ApiError};
use crate::org::{Org, Viewed};
use crate::query;
use crate::schema::Object;
use crate::value::{json_time, parse_datetime, stamp};

/// Oldest and newest version that is answered. Source: API end-of-life policy; 21 to 30 ended Summer '25.
pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 31..=66;
/// How far back replication looks. Source: REST API guide, "sObject Get Deleted".
const REPLICATION_DAYS: i64 = 30;
/// Most records used last that are kept for a user. Source: REST API guide, "Recently Viewed Items".
const RECENT: usize = 200;

/// Names and allowances of `/limits`. Source: recorded answers of a Developer Edition org.
const LIMITS: &str = include_str!("../../data/limits.txt");

impl Org {
    /// Answers `updated` and `deleted`: what changed in a window of time.
    pub(super) fn replicated(&self, call: &Call, object: &Object, deleted: bool) -> Answered<Answer> {
        let time = |name: &str| {
            call.query.get(name).and_then(|text| parse_datetime(text)).ok_or_else(|| {
                ApiError::new(400, "INVALID_REPLICATION_DATE", format!("{name} is missing or not a date and time"))
            })
        };
        let (start, end) = (time("start")?, time("end")?);
        if end <= start {
            return Err(ApiError::new(400, "INVALID_REPLICATION_DATE", "startDate before endDate"));
        }
        if start < self.now() - chrono::TimeDelta::days(REPLICATION_DAYS) {
            let message = "startDate before org replication enabled date";
            return Err(ApiError::new(400, "INVALID_REPLICATION_DATE", message));
        }
        if object.setup && deleted {
            return Err(ApiError::new(400, "INVALID_TYPE", format!("{} is not replicateable", object.name)));
        }
        let covered = json_time(end.min(self.now()));
        let rows: Vec<(String, String)> = self.read(|connection| {
            let sql = format!(
                "SELECT \"Id\", \"SystemModstamp\" FROM {} WHERE {}=?1 AND \"SystemModstamp\">=?2 \
                 AND \"SystemModstamp\"<?3 ORDER BY \"SystemModstamp\", _rid",
                crate::sharing::table(&call.caller.all, object, call.caller.bound().seeing),
                if object.setup { "0" } else { "\"IsDeleted\"" }
            );
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map(rusqlite::params![deleted, stamp(start), stamp(end)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        let body = if deleted {
            let records: Vec<Value> = rows
                .iter()
                .map(|(id, time)| json!({"deletedDate": crate::value::rest_datetime(time), "id": id}))
                .collect();
            json!({"deletedRecords": records, "earliestDateAvailable": json_time(self.started), "latestDateCovered": covered})
        } else {
            json!({"ids": rows.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), "latestDateCovered": covered})
        };
        Ok(Answer::json(200, &body))
    }

    /// Descriptions change only with the schema, which is fixed while the sandbox runs.
    pub(super) fn described(&self, call: &Call, describe: impl FnOnce(&Self) -> Answered<Value>) -> Answered<Answer> {
        let modified = self.started.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let since = call.headers.get("if-modified-since");
        let since = since.and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        if since.is_some_and(|since| since.timestamp() >= self.started.timestamp()) {
            return Ok(Answer::empty(304).with("last-modified", modified));
        }
        Ok(Answer::json(200, &describe(self)?).with("last-modified", modified))
    }

    pub(super) fn record_count(&self, call: &Call) -> Answered<Answer> {
        let wanted = call.query.get("sObjects").map(String::as_str).unwrap_or_default();
        let names: Vec<&Object> = if wanted.is_empty() {
            call.caller.schema.objects().collect()
        } else {
            wanted.split(',').filter_map(|name| call.caller.schema.object(name.trim())).collect()
        };
        let mut counts = Vec::new();
        self.read(|connection| {
            for object in names {
                let sql = format!("SELECT COUNT(*) FROM {}", crate::store::quoted(&object.name));
                let count: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
                if count > 0 {
                    counts.push(json!({"count": count, "name": object.name}));
                }
            }
            Ok(())
        })?;
        Ok(Answer::json(200, &json!({"sObjects": counts})))
    }

    /// Answers `/limits`.
    pub(super) fn limits(&self) -> Value {
        let mut limits = Map::new();
        for line in LIMITS.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, max)) = line.split_once(' ') else { continue };
            let max: u64 = max.trim().parse().unwrap_or_default();
            let (max, used) = match name {
                "DailyApiRequests" => (self.faults.allowance(), self.calls()),
                "DailyBulkV2QueryJobs" => (max, self.jobs.count("query")),
                "DailyBulkApiBatches" => (max, self.jobs.batches()),
                _ => (max, 0),
            };
            limits.insert(name.to_owned(), json!({"Max": max, "Remaining": max.saturating_sub(used)}));
        }
        Value::Object(limits)
    }

    /// Notes that a caller looked at a record.
    pub(super) fn note_viewed(&self, call: &Call, object: &str, id: &str) {
        let mut recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let of_user = recent.entry(call.caller.user_id.clone()).or_default();
        of_user.retain(|known| known.id != id);
        of_user.insert(0, Viewed { object: object.to_owned(), id: id.to_owned(), at: stamp(self.now()) });
        of_user.truncate(RECENT);
    }

    /// Notes it for writes that ask for it.
    pub(super) fn note_used(&self, call: &Call, object: &Object, id: &str) {
        let header = call.header("sforce-mru").unwrap_or_default().to_ascii_lowercase();
        if header.replace(' ', "").contains("updatemru=true") {
            self.note_viewed(call, &object.name, id);
        }
    }

    /// Returns what a caller used last, of one object or all.
    pub(super) fn recent_items(&self, call: &Call, version: &str, only: Option<&str>) -> Vec<Value> {
        let wanted = self.viewed_by(call).into_iter().filter(|item| only.is_none_or(|only| only == item.object));
        wanted
            .filter_map(|item| {
                let object = call.caller.schema.object(&item.object)?;
                let name = object.fields.iter().find(|field| field.name_field)?;
                let soql = format!("SELECT Id, {} FROM {} WHERE Id='{}'", name.name, object.name, item.id);
                self.select(call, version, &soql, false).ok()?.pop()
            })
            .collect()
    }

    fn viewed_by(&self, call: &Call) -> Vec<Viewed> {
        let recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        recent.get(&call.caller.user_id).cloned().unwrap_or_default()
    }

    /// Lets a connection have the records of `RecentlyViewed`, which each user has others of, for as long as what this
    /// returns is kept; `None` if the query does not name them.
    pub(super) fn recall<'c>(
        &self,
        call: &Call,
        version: &str,
        connection: &'c Connection,
        soql: &str,
    ) -> Answered<Option<Recalled<'c>>> {
        if !soql.to_ascii_lowercase().contains("recentlyviewed") {
            return Ok(None);
        }
        let mut found = Vec::new();
        for item in self.viewed_by(call) {
            let Some(object) = call.caller.schema.object(&item.object) else { continue };
            let Some(name) = object.fields.iter().find(|field| field.name_field) else { continue };
            let soql = format!("SELECT {} FROM {} WHERE Id='{}'", name.name, object.name, item.id);
            let context = self.context(&call.caller, connection, version, false);
            let plan = query::compile(context, &soql)?;
            if let Some(record) = plan.records(context, &plan.rows(connection)?)?.pop() {
                found.push((item, record[&name.name].as_str().map(str::to_owned)));
            }
        }
        let recalled = Recalled::new(connection)?;
        let mut insert = connection.prepare(
            "INSERT INTO temp.\"RecentlyViewed\" (_rid, \"Id\", \"Name\", \"Type\", \"LastViewedDate\", \
             \"LastReferencedDate\") VALUES (?1,?2,?3,?4,?5,?5)",
        )?;
        for (at, (item, name)) in (1_i64..).zip(&found) {
            insert.execute(rusqlite::params![at, item.id, name, item.object, item.at])?;
        }
        Ok(Some(recalled))
    }

    /// Answers `/recent`.
    pub(super) fn recent(&self, call: &Call, version: &str) -> Answered<Answer> {
        let limit = call.query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(RECENT);
        let mut items = self.recent_items(call, version, None);
        items.truncate(limit);
        Ok(Answer::json(200, &Value::Array(items)))
    }

    /// Answers `sobjects/User/{id}/password`.
    pub(super) fn password(&self, call: &Call, method: &str, id: &str) -> Answered<Answer> {
        let user = call.caller.schema.object("User").ok_or_else(ApiError::not_found)?;
        self.record(call, "v66.0", user, id)?;
        if !call.caller.admin && call.caller.user_id != id {
            let message = "insufficient access rights on object id";
            return Err(ApiError::new(403, "INSUFFICIENT_ACCESS", message));
        }
        match method {
            "GET" => Ok(Answer::json(200, &json!({"isExpired": false}))),
            "POST" | "PUT" => {
                let body = call.json()?;
                let text = body["NewPassword"].as_str().ok_or_else(|| {
                    ApiError::new(400, "JSON_PARSER_ERROR", "NewPassword is missing at [line:1, column:1]")
                })?;
                if text.chars().count() < 8 {
                    let message = "Your password must be at least 8 characters long.";
                    return Err(ApiError::new(400, "INVALID_NEW_PASSWORD", message));
                }
                self.set_password(id, text);
                Ok(Answer::empty(204))
            }
            "DELETE" => {
                let fresh = crate::oauth::random(9);
                self.set_password(id, &fresh);
                Ok(Answer::json(200, &json!({"NewPassword": fresh})))
            }
            _ => Err(super::not_allowed(method, "DELETE,GET,HEAD,POST")),
        }
    }
}

/// Records that a connection keeps for itself until this is dropped.
pub(super) struct Recalled<'c> {
    connection: &'c Connection,
    /// True for a connection that otherwise only reads.
    reader: bool,
}

impl<'c> Recalled<'c> {
    fn new(connection: &'c Connection) -> Answered<Self> {
        let reader = connection.query_row("PRAGMA query_only", [], |row| row.get(0))?;
        connection.execute_batch(
            "PRAGMA query_only=0; CREATE TEMP TABLE \"RecentlyViewed\" AS SELECT * FROM main.\"RecentlyViewed\" WHERE 0",
        )?;
        Ok(Self { connection, reader })
    }
}

impl Drop for Recalled<'_> {
    fn drop(&mut self) {
        // It fails only when the connection is of no more use.
        let _ = self.connection.execute_batch("DROP TABLE temp.\"RecentlyViewed\"");
        let _ = self.connection.pragma_update(None, "query_only", self.reader);
    }
}

pub(super) fn check_version(version: &str) -> Answered<()> {
    let number = version.strip_prefix('v').and_then(|text| text.strip_suffix(".0")?.parse::<u32>().ok());
    match number {
        Some(number) if VERSIONS.contains(&number) => Ok(()),
        Some(number) if number < *VERSIONS.start() => {
            Err(ApiError::new(410, "GONE", format!("API version {number}.0 is no longer available")))
        }
        _ => Err(ApiError::not_found()),
    }
}

/// Returns the list of versions, oldest first.
pub(crate) fn versions() -> Value {
    let label = |number: u32| {
        // Three releases a year; 58 was Summer '23.
        let season = ["Spring", "Summer", "Winter"][(number % 3) as usize];
        let year = 2023 + (number + 2).saturating_sub(59) / 3;
        format!("{season} '{:02}", year % 100)
    };
    VERSIONS
        .map(|number| {
            json!({"label": label(number), "url": format!("/services/data/v{number}.0"), "version": format!("{number}.0")})
        })
        .collect()
}

/// Returns the resources of a version.
pub(super) fn resources(org: &Org, version: &str) -> Value {
    let names = [
        "actions",
        "appMenu",
        "chatter",
        "compactLayouts",
        "composite",
        "connect",
        "jobs",
        "knowledgeManagement",
        "licensing",
        "limits",
        "parameterizedSearch",
        "query",
        "queryAll",
        "quickActions",
        "recent",
        "search",
        "sobjects",
        "support",
        "tabs",
        "theme",
        "tooling",
    ];
    let mut entries: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!(format!("/services/data/{version}/{name}")))).collect();
    entries.insert("identity".to_owned(), json!(format!("{}/id/{}/{}", org.url(), org.org_id, org.system().user_id)));
    Value::Object(entries)
}
