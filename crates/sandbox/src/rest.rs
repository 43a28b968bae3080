//! The REST resources: from a call to an answer.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::{Cursor, Org, entries};
use crate::query::{self, Context};
use crate::schema::{Field, Kind, Object};
use crate::store::malformed_id;
use crate::value::{json_time, parse_datetime, stamp};

/// Oldest and newest version that is answered. Source: API end-of-life policy; 21 to 30 ended Summer '25.
pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 31..=66;
/// Records on a page unless the client asks for fewer. Source: REST API guide, query options.
const PAGE: usize = 2000;

/// A call, its body read whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Path segments, decoded.
    pub(crate) path: Vec<String>,
    pub(crate) query: HashMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// Reads method and target, such as `GET /services/data/v66.0/query?q=...`.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Self {
            method: method.to_uppercase(),
            path: path.split('/').filter(|step| !step.is_empty()).map(decoded).collect(),
            query: form(query),
            ..Self::default()
        }
    }

    /// Reads the body as JSON.
    pub(crate) fn json(&self) -> Answered<Value> {
        if self.body.is_empty() {
            return Err(ApiError::new(
                400,
                "JSON_PARSER_ERROR",
                "The HTTP entity body is required, but this request has no entity body.",
            ));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = format!("[line:{}, column:{}]", error.line(), error.column());
            ApiError::new(400, "JSON_PARSER_ERROR", format!("{error} at {place}"))
        })
    }
}

/// Reads `a=1&b=2`.
pub(crate) fn form(text: &str) -> HashMap<String, String> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json;charset=UTF-8".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        Self::json(error.status, &json!([error.entry()]))
    }
}

impl Org {
    /// Answers a call below `/services/data`; the session has been checked.
    pub(crate) fn data(&self, call: &Call) -> Answer {
        self.route(call).unwrap_or_else(Answer::from)
    }

    fn route(&self, call: &Call) -> Answered<Answer> {
        let steps: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let [version, resource @ ..] = steps.get(2..).unwrap_or_default() else {
            return Ok(Answer::json(200, &versions()));
        };
        check_version(version)?;
        let head = call.method == "HEAD";
        let method = if head { "GET" } else { call.method.as_str() };
        match (method, resource) {
            ("GET", []) => Ok(Answer::json(200, &resources(version))),
            ("GET", ["limits"]) => Ok(Answer::json(200, &self.limits())),
            ("GET", ["limits", "recordCount"]) => self.record_count(call),
            ("GET", ["sobjects"]) => self.described(call, |org| Ok(org.describe_global(version))),
            ("GET", ["query"]) => self.query(call, version, false),
            ("GET", ["queryAll"]) => self.query(call, version, true),
            ("GET", ["query" | "queryAll", locator]) => self.next_page(call, version, locator),
            ("GET", ["recent"]) => Ok(Answer::json(200, &json!([]))),
            (_, ["composite", rest @ ..]) => self.composite(call, version, rest),
            (_, ["jobs", kind @ ("ingest" | "query"), rest @ ..]) => self.jobs(call, version, kind, rest),
            (_, ["sobjects", name, rest @ ..]) => {
                let object = self.schema.object(name).ok_or_else(ApiError::not_found)?;
                self.sobject(call, method, version, object, rest)
            }
            (_, ["query" | "queryAll" | "limits" | "sobjects"]) => Err(not_allowed(method, "GET,HEAD")),
            _ => Err(ApiError::not_found()),
        }
    }

    fn sobject(&self, call: &Call, method: &str, version: &str, object: &Object, rest: &[&str]) -> Answered<Answer> {
        match (method, rest) {
            ("GET", []) => {
                Ok(Answer::json(200, &json!({"objectDescribe": describe_entry(object, version), "recentItems": []})))
            }
            ("POST", []) => {
                let values = entries(call.json()?)?;
                let id = self.write(|store| store.insert(object, &values))?;
                let link = format!("/services/data/{version}/sobjects/{}/{id}", object.name);
                Ok(Answer::json(201, &json!({"id": id, "success": true, "errors": []})).with("location", link))
            }
            ("GET", ["describe"]) => self.described(call, |org| Ok(org.describe(object, version))),
            ("GET", ["updated"]) => self.replicated(call, object, false),
            ("GET", ["deleted"]) => self.replicated(call, object, true),
            ("GET", [id]) => self.record(call, version, object, &self.existing_id(object, id)?),
            ("PATCH", [id]) => {
                let mut values = entries(call.json()?)?;
                values.remove("attributes");
                if values.keys().any(|name| name.eq_ignore_ascii_case("id")) {
                    let message = "The Id field should not be specified in the sobject data.";
                    return Err(ApiError::new(400, "INVALID_FIELD", message));
                }
                self.write(|store| store.update(object, id, &values))?;
                Ok(Answer::empty(204))
            }
            ("DELETE", [id]) => {
                self.write(|store| store.delete(object, id, false))?;
                Ok(Answer::empty(204))
            }
            (_, []) => Err(not_allowed(method, "GET,HEAD,POST")),
            (_, [key, value]) => match object.field(key) {
                Some(field) if field.id_lookup => self.by_key(call, method, version, object, field, value),
                None if id::normal(key).is_some() && method == "GET" => self.related(call, version, object, key, value),
                _ => Err(ApiError::not_found()),
            },
            _ => Err(not_allowed(method, "DELETE,GET,HEAD,PATCH")),
        }
    }

    fn existing_id(&self, object: &Object, id: &str) -> Answered<String> {
        id::normal(id).filter(|id| id.starts_with(&object.prefix)).ok_or_else(|| malformed_id(id))
    }

    fn by_key(
        &self,
        call: &Call,
        method: &str,
        version: &str,
        object: &Object,
        field: &Field,
        value: &str,
    ) -> Answered<Answer> {
        let value = Value::String(value.to_owned());
        let found = self.write(|store| store.find_by_key(object, field, &value))?;
        let link = |id: &String| format!("/services/data/{version}/sobjects/{}/{id}", object.name);
        if found.len() > 1 {
            return Ok(Answer::json(300, &found.iter().map(link).collect()));
        }
        let modern = version_number(version) >= 46;
        match (method, found.first()) {
            ("PATCH" | "POST", _) => {
                let values = entries(call.json()?)?;
                if values.keys().any(|name| name.eq_ignore_ascii_case(&field.name)) && field.kind != Kind::Id {
                    let message = format!("The {} field should not be specified in the sobject data.", field.name);
                    return Err(ApiError::new(400, "INVALID_FIELD", message));
                }
                if found.is_empty() && call.query.get("updateOnly").is_some_and(|only| only == "true") {
                    return Err(ApiError::not_found());
                }
                let (id, created) = self.write(|store| store.upsert(object, field, &value, &values))?;
                if !created && !modern {
                    return Ok(Answer::empty(204));
                }
                let mut body = json!({"id": id, "success": true, "errors": []});
                if modern {
                    body["created"] = Value::Bool(created);
                }
                let answer = Answer::json(if created { 201 } else { 200 }, &body);
                Ok(if created { answer.with("location", link(&id)) } else { answer })
            }
            ("GET", Some(id)) => self.record(call, version, object, id),
            ("DELETE", Some(id)) => {
                self.write(|store| store.delete(object, id, false))?;
                Ok(Answer::empty(204))
            }
            _ => Err(ApiError::not_found()),
        }
    }

    /// Answers with one record: the fields asked for, or all.
    fn record(&self, call: &Call, version: &str, object: &Object, id: &str) -> Answered<Answer> {
        let fields = match call.query.get("fields") {
            Some(fields) => fields.clone(),
            None => object.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(","),
        };
        let soql = format!("SELECT {fields} FROM {} WHERE Id='{id}'", object.name);
        let mut records = self.select(version, &soql, true).map_err(|mut error| {
            // Single calls tell no place in a query that the caller did not write.
            error.message = error.message.rsplit('\n').next().unwrap_or_default().to_owned();
            error
        })?;
        let record = records.pop().ok_or_else(ApiError::not_found)?;
        if record["IsDeleted"] == true {
            return Err(ApiError::new(404, "ENTITY_IS_DELETED", "entity is deleted"));
        }
        Ok(Answer::json(200, &record))
    }

    /// Follows a relationship from a record: to its parent, or to its children.
    fn related(&self, call: &Call, version: &str, object: &Object, id: &str, step: &str) -> Answered<Answer> {
        let id = self.existing_id(object, id)?;
        if let Some(field) = object.parent(step) {
            let soql = format!("SELECT {} FROM {} WHERE Id='{id}'", field.name, object.name);
            let records = self.select(version, &soql, false)?;
            let parent =
                records.first().and_then(|record| record[&field.name].as_str()).ok_or_else(ApiError::not_found)?;
            let target = self.schema.by_id(parent).ok_or_else(ApiError::not_found)?;
            return self.record(call, version, target, parent);
        }
        let (child, field) = self.schema.child(&object.name, step).ok_or_else(ApiError::not_found)?;
        let fields = child.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(",");
        let soql = format!("SELECT {fields} FROM {} WHERE {}='{id}'", child.name, field.name);
        let call = Call { query: HashMap::from([("q".to_owned(), soql)]), ..call.clone() };
        self.query(&call, version, false)
    }

    /// Returns all records of a query, for our own use.
    pub(crate) fn select(&self, version: &str, soql: &str, deleted: bool) -> Answered<Vec<Value>> {
        self.read(|connection| {
            let context = Context { schema: &self.schema, connection, now: self.now(), version, deleted };
            let plan = query::compile(context, soql)?;
            let rows = plan.rows(connection)?;
            plan.records(context, &rows)
        })
    }

    fn query(&self, call: &Call, version: &str, deleted: bool) -> Answered<Answer> {
        if let Some(text) = call.query.get("explain") {
            return self.explain(version, text);
        }
        let text = call.query.get("q").map(String::as_str).unwrap_or_default();
        let size = page_size(call);
        let mut answer = None;
        let cursor = self.read(|connection| {
            let context = Context { schema: &self.schema, connection, now: self.now(), version, deleted };
            let plan = query::compile(context, text)?;
            if let Some(count) = plan.count(connection)? {
                answer = Some(json!({"totalSize": count, "done": true, "records": []}));
                return Ok(None);
            }
            if plan.is_aggregate() {
                let records = plan.groups(connection)?;
                answer = Some(json!({"totalSize": records.len(), "done": true, "records": records}));
                return Ok(None);
            }
            let rows = plan.rows(connection)?;
            let records = plan.records(context, &rows[..rows.len().min(size)])?;
            answer = Some(json!({"totalSize": rows.len(), "done": rows.len() <= size, "records": records}));
            Ok((rows.len() > size).then_some(Cursor { plan, rows, deleted }))
        })?;
        let mut body = answer.unwrap_or_default();
        if let Some(cursor) = cursor {
            let id = self.keep_cursor(cursor);
            let records = body["records"].take();
            body["nextRecordsUrl"] = Value::String(format!("/services/data/{version}/query/{id}-{size}"));
            // Keys in the platform's order.
            if let Some(body) = body.as_object_mut() {
                body.remove("records");
                body.insert("records".to_owned(), records);
            }
        }
        Ok(Answer::json(200, &body))
    }

    fn explain(&self, version: &str, text: &str) -> Answered<Answer> {
        let (object, rows) = self.read(|connection| {
            let context = Context { schema: &self.schema, connection, now: self.now(), version, deleted: false };
            let plan = query::compile(context, text)?;
            let rows = if plan.is_aggregate() { 0 } else { plan.rows(connection)?.len() };
            Ok((plan.object().to_owned(), rows))
        })?;
        Ok(Answer::json(
            200,
            &json!({"plans": [{"cardinality": rows, "fields": [], "leadingOperationType": "TableScan", "notes": [],
                    "relativeCost": 1.0, "sobjectCardinality": rows, "sobjectType": object}], "sourceQuery": text}),
        ))
    }

    fn next_page(&self, call: &Call, version: &str, locator: &str) -> Answered<Answer> {
        let invalid = || ApiError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
        let (id, offset) = locator.split_once('-').ok_or_else(invalid)?;
        let offset: usize = offset.parse().map_err(|_| invalid())?;
        let size = page_size(call);
        self.with_cursor(id, |cursor| {
            let rest = cursor.rows.get(offset..).ok_or_else(invalid)?;
            let page = &rest[..rest.len().min(size)];
            let records = self.read(|connection| {
                let deleted = cursor.deleted;
                let context = Context { schema: &self.schema, connection, now: self.now(), version, deleted };
                cursor.plan.records(context, page)
            })?;
            let mut body = json!({"totalSize": cursor.rows.len(), "done": rest.len() <= size});
            if rest.len() > size {
                let next = format!("/services/data/{version}/query/{id}-{}", offset + size);
                body["nextRecordsUrl"] = Value::String(next);
            }
            body["records"] = Value::Array(records);
            Ok(Answer::json(200, &body))
        })
    }

    /// Answers `updated` and `deleted`: what changed in a window of time.
    fn replicated(&self, call: &Call, object: &Object, deleted: bool) -> Answered<Answer> {
        let time = |name: &str| {
            call.query.get(name).and_then(|text| parse_datetime(text)).ok_or_else(|| {
                ApiError::new(400, "INVALID_REPLICATION_DATE", format!("{name} is missing or not a date and time"))
            })
        };
        let (start, end) = (time("start")?, time("end")?);
        if end <= start {
            return Err(ApiError::new(400, "INVALID_REPLICATION_DATE", "startDate before endDate"));
        }
        let covered = json_time(end.min(self.now()));
        let rows: Vec<(String, String)> = self.read(|connection| {
            let sql = format!(
                "SELECT \"Id\", \"SystemModstamp\" FROM {} WHERE \"IsDeleted\"=?1 AND \"SystemModstamp\">=?2 \
                 AND \"SystemModstamp\"<?3 ORDER BY \"SystemModstamp\", _rid",
                crate::store::quoted(&object.name)
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
    fn described(&self, call: &Call, describe: impl FnOnce(&Self) -> Answered<Value>) -> Answered<Answer> {
        let modified = self.started.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let since = call.headers.get("if-modified-since");
        let since = since.and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        if since.is_some_and(|since| since.timestamp() >= self.started.timestamp()) {
            return Ok(Answer::empty(304).with("last-modified", modified));
        }
        Ok(Answer::json(200, &describe(self)?).with("last-modified", modified))
    }

    fn record_count(&self, call: &Call) -> Answered<Answer> {
        let wanted = call.query.get("sObjects").map(String::as_str).unwrap_or_default();
        let names: Vec<&Object> = if wanted.is_empty() {
            self.schema.objects().collect()
        } else {
            wanted.split(',').filter_map(|name| self.schema.object(name)).collect()
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

    fn limits(&self) -> Value {
        let pair = |max: u64, used: u64| json!({"Max": max, "Remaining": max.saturating_sub(used)});
        json!({
            "DailyApiRequests": pair(self.faults.allowance(), self.calls()),
            "DailyBulkApiBatches": pair(15_000, 0),
            "DailyBulkV2QueryJobs": pair(10_000, self.jobs.count("query")),
            "DailyBulkV2QueryFileStorageMB": pair(976_562, 0),
            "DailyAsyncApexExecutions": pair(250_000, 0),
            "HourlyPublishedPlatformEvents": pair(50_000, 0),
            "DataStorageMB": pair(5_120, 0),
            "FileStorageMB": pair(20_480, 0),
        })
    }
}

pub(crate) fn not_allowed(method: &str, allowed: &str) -> ApiError {
    let message = format!("HTTP Method '{method}' not allowed. Allowed are {allowed}");
    ApiError::new(405, "METHOD_NOT_ALLOWED", message)
}

fn page_size(call: &Call) -> usize {
    let options = call.headers.get("sforce-query-options").map(String::as_str).unwrap_or_default();
    let asked = options.split([',', ';']).find_map(|option| option.trim().strip_prefix("batchSize=")?.parse().ok());
    asked.map_or(PAGE, |size: usize| size.clamp(200, PAGE))
}

pub(crate) fn version_number(version: &str) -> u32 {
    version.trim_start_matches('v').split('.').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn check_version(version: &str) -> Answered<()> {
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

fn resources(version: &str) -> Value {
    let names = ["sobjects", "query", "queryAll", "composite", "limits", "recent", "jobs"];
    let entries = names.iter().map(|name| ((*name).to_owned(), json!(format!("/services/data/{version}/{name}"))));
    Value::Object(Map::from_iter(entries))
}

/// The entry of an object in the global describe.
pub(crate) fn describe_entry(object: &Object, version: &str) -> Value {
    crate::describe::entry(object, version)
}
