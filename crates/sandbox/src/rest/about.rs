//! What the org says of itself: versions, resources, limits, what was used last, layouts in outline.

use serde_json::{Map, Value, json};

use super::{Answer, Call};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::{Field, Object};
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
                crate::store::quoted(&object.name),
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
        of_user.retain(|(_, known)| known != id);
        of_user.insert(0, (object.to_owned(), id.to_owned()));
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
        let of_user = {
            let recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            recent.get(&call.caller.user_id).cloned().unwrap_or_default()
        };
        let wanted = of_user.into_iter().filter(|(object, _)| only.is_none_or(|only| only == object));
        wanted
            .filter_map(|(object, id)| {
                let object = call.caller.schema.object(&object)?;
                let name = object.fields.iter().find(|field| field.name_field)?;
                let soql = format!("SELECT Id, {} FROM {} WHERE Id='{id}'", name.name, object.name);
                self.select(call, version, &soql, false).ok()?.pop()
            })
            .collect()
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

    /// Answers the parts of a describe that are about pages and not about data.
    pub(super) fn object_outline(
        &self,
        call: &Call,
        version: &str,
        object: &Object,
        part: &str,
        rest: &[&str],
    ) -> Answered<Answer> {
        let base = format!("/services/data/{version}/sobjects/{}", object.name);
        let shown: Vec<&Field> = object.fields.iter().filter(|field| field.compound.is_none()).collect();
        let master = "012000000000000AAA";
        let body = match (part, rest) {
            ("layouts", ["describe", "layouts"]) if object.record_types.is_empty() => layout(object, &shown),
            ("layouts", ["describe", "layouts"]) => json!({
                "layouts": [layout(object, &shown)],
                "recordTypeMappings": object.record_types.iter().map(|kind| json!({
                    "active": kind.active, "available": true, "defaultRecordTypeMapping": false, "developerName": kind.developer_name,
                    "layoutId": null, "master": false, "name": kind.label, "picklistsForRecordType": [], "recordTypeId": kind.id,
                    "urls": {"layout": format!("{base}/describe/layouts/{}", kind.id)}})).collect::<Vec<_>>(),
                "recordTypeSelectorRequired": [false]}),
            ("layouts", ["describe", "layouts", id]) => {
                let id = crate::id::normal(id).ok_or_else(ApiError::not_found)?;
                if id != master && !object.record_types.iter().any(|kind| kind.id == id) {
                    return Err(ApiError::not_found());
                }
                layout(object, &shown)
            }
            ("compactLayouts", _) => {
                json!({"compactLayouts": [], "defaultCompactLayoutId": null, "recordTypeCompactLayoutMappings": [
                {"available": true, "compactLayoutId": null, "compactLayoutName": "SYSTEM", "recordTypeId": master, "recordTypeName": "Master",
                 "urls": {}}], "urls": {"primary": format!("{base}/describe/compactLayouts/primary")}})
            }
            ("defaultValues", _) => json!({}),
            ("approvalLayouts", _) => json!({"approvalLayouts": []}),
            ("listviews", _) => {
                json!({"done": true, "listviews": [], "nextRecordsUrl": null, "size": 0, "sobjectType": object.name})
            }
            ("quickActions", _) => json!([]),
            _ => return Err(ApiError::not_found()),
        };
        let _ = call;
        Ok(Answer::json(200, &body))
    }

    /// Answers resources that tell of the user interface, which the sandbox has none of.
    pub(super) fn outline(&self, call: &Call, version: &str, rest: &[&str]) -> Answered<Answer> {
        let names = |key: &str| -> Vec<String> {
            call.query
                .get(key)
                .into_iter()
                .flat_map(|names| names.split(','))
                .map(|name| name.trim().to_owned())
                .collect()
        };
        let body = match rest {
            ["tabs"] => call
                .caller
                .schema
                .objects()
                .filter(|object| !object.setup)
                .map(|object| {
                    json!({"colors": [], "custom": object.custom, "iconUrl": null, "icons": [], "label": object.plural,
                           "miniIconUrl": null, "name": object.name, "sobjectName": object.name, "url": null})
                })
                .collect(),
            ["theme"] => json!({"themeItems": []}),
            ["process", "rules"] => json!({"rules": {}}),
            ["process", "approvals"] => json!({"approvals": {}}),
            ["appMenu", ..] => json!({"appMenuItems": []}),
            ["quickActions"] => json!([]),
            ["compactLayouts"] => {
                let layouts = names("q").into_iter().map(|name| (name, json!({"fieldItems": [], "label": "System Default"})));
                Value::Object(layouts.collect())
            }
            ["search", "layout"] => names("q")
                .iter()
                .filter_map(|name| call.caller.schema.object(name))
                .map(|object| {
                    let name = object.fields.iter().find(|field| field.name_field).map(|field| field.name.as_str());
                    json!({"errorMsg": null, "label": object.plural, "limitRows": 25, "objectType": object.name,
                           "searchColumns": [{"field": name, "format": null, "label": name, "name": name}]})
                })
                .collect(),
            ["search", "scopeOrder"] => call
                .caller
                .schema
                .objects()
                .filter(|object| object.is_searchable())
                .map(|object| json!({"type": object.name, "url": format!("/services/data/{version}/sobjects/{}/describe", object.name)}))
                .collect(),
            ["search", "suggestions"] => return self.suggestions(call, version),
            ["chatter" | "connect", "organization"] => json!({"orgId": self.org_id, "name": "Sandbox"}),
            ["chatter" | "connect", "users", "me"] => json!({"id": call.caller.user_id, "username": call.caller.username}),
            ["support" | "licensing" | "knowledgeManagement"] => json!({}),
            _ => return Err(ApiError::not_found()),
        };
        Ok(Answer::json(200, &body))
    }

    /// Answers `search/suggestions`: records whose name begins with the text.
    fn suggestions(&self, call: &Call, version: &str) -> Answered<Answer> {
        let text = call.query.get("q").cloned().unwrap_or_default();
        let name = call.query.get("sobject").map(String::as_str).unwrap_or_default();
        let object = call.caller.schema.object(name).ok_or_else(ApiError::not_found)?;
        let field = object.fields.iter().find(|field| field.name_field).ok_or_else(ApiError::not_found)?;
        let limit = call.query.get("limit").and_then(|text| text.parse::<usize>().ok()).unwrap_or(5).min(200);
        let pattern = soql::quote(&format!("{text}%"));
        let soql = format!(
            "SELECT Id, {0} FROM {1} WHERE {0} LIKE {pattern} ORDER BY {0} LIMIT {2}",
            field.name,
            object.name,
            limit + 1
        );
        let mut records = self.select(call, version, &soql, false)?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok(Answer::json(200, &json!({"autoSuggestResults": records, "hasMoreResults": more})))
    }
}

/// One section with all fields, in two columns as a page has them.
fn layout(object: &Object, shown: &[&Field]) -> Value {
    let item = |field: &&Field| {
        json!({"editableForNew": field.createable, "editableForUpdate": field.updateable, "label": field.label,
               "layoutComponents": [{"displayLines": 1, "tabOrder": 1, "type": "Field", "value": field.name}],
               "placeholder": false, "required": field.required()})
    };
    let rows: Vec<Value> = shown
        .chunks(2)
        .map(|pair| json!({"numItems": pair.len(), "layoutItems": pair.iter().map(item).collect::<Vec<_>>()}))
        .collect();
    let section = json!([{"columns": 2, "heading": object.label, "layoutRows": rows, "rows": rows.len(),
                          "useCollapsibleSection": false, "useHeading": true}]);
    json!({"buttonLayoutSection": {"detailButtons": []}, "detailLayoutSections": section, "editLayoutSections": section,
           "feedView": null, "highlightsPanelLayoutSection": null, "id": null, "multirowEditLayoutSections": [],
           "offlineLinks": [], "relatedContent": null, "relatedLists": [], "saveOptions": []})
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
    entries.insert("identity".to_owned(), json!(format!("{}/id/{}/{}", org.url(), org.org_id, org.system.user_id)));
    Value::Object(entries)
}
