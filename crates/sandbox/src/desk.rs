//! The sandbox's own face: the page at `/`, and the admin API below `/sandbox` that page and command line use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::chaos::Rule;
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::schema::{Object, Schema};
use crate::store::quoted;
use crate::xml::escape;

/// Records on a page.
const PAGE: u64 = 50;
/// Columns of a list of records besides the id.
const COLUMNS: usize = 5;

impl Org {
    /// Answers what is no API of Salesforce.
    pub(crate) fn desk(self: &Arc<Self>, call: &Call, steps: &[&str]) -> Answer {
        // A page of another site could lead a name of its own here.
        let host = call.header("host").unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if !["127.0.0.1", "localhost", "[::1]", ""].contains(&name) {
            return ApiError::new(403, "FORBIDDEN", "the sandbox's own pages are for this machine").into();
        }
        if call.method != "GET" && call.method != "HEAD" {
            // No form of another site can send this type without asking first.
            if !call.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
                return ApiError::new(415, "UNSUPPORTED_MEDIA_TYPE", "the admin API takes application/json").into();
            }
            return self.administer(call, steps).unwrap_or_else(Answer::from);
        }
        let page = match steps {
            [] => self.overview(),
            ["sandbox", "page.js"] => {
                Ok(Answer::bytes(200, "text/javascript", include_bytes!("../data/page.js").to_vec()))
            }
            ["sandbox", "page.css"] => Ok(Answer::bytes(200, "text/css", include_bytes!("../data/page.css").to_vec())),
            ["sandbox", "objects", name] => self.object_page(call, name),
            ["sandbox", "records", id] => self.record_page(id),
            ["sandbox", "calls", number] => self.call_page(number),
            ["sandbox", "api", "chaos"] => Ok(Answer::json(200, &json!(self.chaos.list()))),
            ["sandbox", "api", "messages"] => self.messages().map(|messages| Answer::json(200, &messages)),
            ["sandbox", "api", "status"] => self.counts(&self.schema()).map(|counts| {
                let objects: Vec<Value> =
                    counts.iter().map(|(object, count)| json!({"name": object.name, "count": count})).collect();
                Answer::json(
                    200,
                    &json!({"org_id": self.org_id, "now": crate::value::json_time(self.now()),
                    "api_calls": self.calls(), "allowance": self.faults.allowance(), "objects": objects}),
                )
            }),
            _ => Err(ApiError::not_found()),
        };
        page.unwrap_or_else(Answer::from)
    }

    fn administer(self: &Arc<Self>, call: &Call, steps: &[&str]) -> Answered<Answer> {
        let wrong = |message: String| ApiError::new(400, "INVALID_INPUT", message);
        let body = if call.body.is_empty() { Value::Null } else { call.json()? };
        let done = Answer::empty(204);
        let path = |name: &str| -> Answered<PathBuf> {
            let text = body[name].as_str().ok_or_else(|| wrong(format!("{name} is missing")))?;
            Ok(PathBuf::from(text))
        };
        match (call.method.as_str(), steps) {
            ("POST", ["sandbox", "api", "chaos"]) => {
                if let Some(seed) = body["seed"].as_u64() {
                    self.chaos.seed(seed);
                }
                if body["fault"].is_null() {
                    return Ok(done);
                }
                let mut rule = body.clone();
                if let Some(rule) = rule.as_object_mut() {
                    rule.remove("seed");
                }
                let rule: Rule = serde_json::from_value(rule).map_err(|error| wrong(format!("the rule: {error}")))?;
                if !(0.0..=1.0).contains(&rule.probability) {
                    return Err(wrong("the rule: probability is a number from 0 to 1".to_owned()));
                }
                Ok(Answer::json(201, &json!({"id": self.chaos.add(rule)})))
            }
            ("DELETE", ["sandbox", "api", "chaos"]) => {
                self.chaos.remove(None);
                Ok(done)
            }
            ("DELETE", ["sandbox", "api", "chaos", id]) => {
                let id = id.parse().map_err(|_| ApiError::not_found())?;
                if self.chaos.remove(Some(id)) { Ok(done) } else { Err(ApiError::not_found()) }
            }
            ("POST", ["sandbox", "api", "clock"]) => {
                match (&body["at"], &body["seconds"]) {
                    (Value::String(text), _) => {
                        let at = crate::value::parse_datetime(text)
                            .ok_or_else(|| wrong(format!("{text} is not a date and time")))?;
                        self.move_clock((at - chrono::Utc::now()).num_seconds());
                    }
                    (_, Value::Number(seconds)) => self.move_clock(seconds.as_i64().unwrap_or_default()),
                    _ => return Err(wrong("give `at`, a date and time, or `seconds`".to_owned())),
                }
                Ok(Answer::json(200, &json!({"now": crate::value::json_time(self.now())})))
            }
            ("POST", ["sandbox", "api", "allowance"]) => {
                let calls = body["calls"].as_u64().ok_or_else(|| wrong("calls is missing".to_owned()))?;
                self.faults.allow(calls);
                Ok(done)
            }
            ("POST", ["sandbox", "api", "expire-sessions"]) => {
                match body["user"].as_str() {
                    Some(user) => self.expire_sessions_of(user),
                    None => self.expire_sessions(),
                }
                Ok(done)
            }
            ("POST", ["sandbox", "api", "messages"]) => {
                self.send_again()?;
                Ok(done)
            }
            ("POST", ["sandbox", "api", "snapshot"]) => {
                self.snapshot(&path("path")?)?;
                Ok(done)
            }
            ("POST", ["sandbox", "api", "restore"]) => {
                self.restore(&path("path")?)?;
                Ok(done)
            }
            ("POST", ["sandbox", "api", "seed"]) => {
                let records = body["records"].as_u64().ok_or_else(|| wrong("records is missing".to_owned()))?;
                let made = self.plant(records, body["seed"].as_u64().unwrap_or(1))?;
                Ok(Answer::json(200, &json!({"records": made})))
            }
            ("POST", ["sandbox", "api", "merge"]) => {
                let winner = body["winner"].as_str().ok_or_else(|| wrong("winner is missing".to_owned()))?;
                let losers: Vec<&str> =
                    body["losers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                self.write(&self.system(), |store| store.merge(winner, &losers))?;
                Ok(done)
            }
            ("POST", ["sandbox", "api", "undelete" | "purge"]) => {
                let ids: Vec<&str> = body["ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                self.write(&self.system(), |store| {
                    ids.iter().try_for_each(|id| if steps[2] == "purge" { store.purge(id) } else { store.undelete(id) })
                })?;
                Ok(done)
            }
            _ => Err(ApiError::not_found()),
        }
    }

    /// Returns the objects that hold records, most first.
    fn counts<'s>(&self, schema: &'s Schema) -> Answered<Vec<(&'s Object, u64)>> {
        self.read(|connection| {
            let mut counts = Vec::new();
            for object in schema.objects() {
                let alive = if object.setup { "" } else { " WHERE \"IsDeleted\"=0" };
                let sql = format!("SELECT COUNT(*) FROM {}{alive}", quoted(&object.name));
                counts.push((object, connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned()));
            }
            counts.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.name.cmp(&right.0.name)));
            Ok(counts)
        })
    }

    /// Copies the whole org into a file.
    pub(crate) fn snapshot(&self, to: &Path) -> Answered<()> {
        let text = to.to_str().ok_or_else(|| ApiError::new(400, "INVALID_INPUT", "the path is not UTF-8"))?;
        if to.exists() {
            return Err(ApiError::new(400, "INVALID_INPUT", format!("{text} is there already")));
        }
        self.with_writer(|connection| {
            connection.execute("VACUUM INTO ?", [text])?;
            Ok(())
        })
    }

    fn overview(&self) -> Answered<Answer> {
        let schema = self.schema();
        let counts = self.counts(&schema)?;
        let objects: String = counts
            .iter()
            .filter(|(object, count)| *count > 0 || object.custom)
            .map(|(object, count)| {
                format!(
                    "<tr><td><a href=\"/sandbox/objects/{0}\">{0}</a></td><td>{1}</td><td class=\"n\">{2}</td></tr>",
                    escape(&object.name),
                    escape(&object.label),
                    count
                )
            })
            .collect();
        let calls: String = self
            .journal
            .newest(30)
            .iter()
            .map(|entry| {
                let class = if entry.status >= 400 { " class=\"bad\"" } else { "" };
                format!(
                    "<tr{class}><td class=\"n\">{}</td><td>{}</td><td class=\"long\"><a href=\"/sandbox/calls/{}\">{}</a></td><td class=\"n\">{} ms</td><td>{}</td></tr>",
                    entry.status,
                    escape(&entry.method),
                    entry.number,
                    escape(&entry.target.chars().take(120).collect::<String>()),
                    entry.took.as_millis(),
                    escape(&entry.user)
                )
            })
            .collect();
        let rules: String = self
            .chaos
            .list()
            .iter()
            .map(|rule| {
                let shown = serde_json::to_string(&rule.fault).unwrap_or_default();
                let left = rule.count.map_or_else(|| "no end".to_owned(), |count| count.to_string());
                format!(
                    "<tr><td class=\"long\"><code>{}</code></td><td class=\"n\">{}</td><td>{left}</td><td class=\"n\">{}</td>\
                     <td><button data-delete=\"/sandbox/api/chaos/{}\">Remove</button></td></tr>",
                    escape(&shown),
                    rule.probability,
                    rule.hits,
                    rule.id
                )
            })
            .collect();
        let faults = [
            ("throttle", "Throttle (403)"),
            ("status", "Unavailable (503)"),
            ("latency", "Latency (2 s)"),
            ("lock", "Row locks"),
            ("expire_session", "Session ends"),
            ("drop", "Connection drops"),
            ("truncate", "Body breaks off"),
            ("partial_failure", "Rows fail"),
            ("stuck_job", "Jobs hang"),
            ("failed_job", "Jobs fail"),
        ];
        let options: String =
            faults.iter().map(|(value, label)| format!("<option value=\"{value}\">{label}</option>")).collect();
        let (used, of) = (self.calls(), self.faults.allowance());
        let body = format!(
            "<section><h2>Limits</h2><p>{used} of {of} API calls today. <progress max=\"{of}\" value=\"{used}\"></progress></p>\
             <p>The org's clock says {}.</p></section>\
             <section><h2>Objects</h2><div class=\"wide\"><table><thead><tr><th>Object</th><th>Label</th><th class=\"n\">Records</th></tr></thead><tbody>{objects}</tbody></table></div></section>\
             <section><h2>Misbehaviour</h2><form id=\"chaos\"><label>What <select name=\"kind\">{options}</select></label>\
             <label>How likely <input name=\"probability\" type=\"number\" min=\"0\" max=\"1\" step=\"0.05\" value=\"1\"></label>\
             <label>How often <input name=\"count\" type=\"number\" min=\"1\" placeholder=\"no end\"></label>\
             <label>Path has <input name=\"path\" placeholder=\"any\"></label><button>Add</button></form>\
             <p id=\"said\" role=\"status\"></p>\
             <div class=\"wide\"><table><thead><tr><th>Fault</th><th class=\"n\">Likely</th><th>Left</th><th class=\"n\">Hits</th><th></th></tr></thead><tbody>{}</tbody></table></div></section>\
             <section><h2>Last calls</h2><div class=\"wide\"><table><thead><tr><th class=\"n\">Status</th><th>Method</th><th>Call</th><th class=\"n\">Took</th><th>User</th></tr></thead><tbody>{}</tbody></table></div></section>",
            crate::value::json_time(self.now()),
            or_nothing(&rules, 5, "Everything goes well."),
            or_nothing(&calls, 5, "No calls yet."),
        );
        Ok(page("Salesforce sandbox", &body))
    }

    fn object_page(&self, call: &Call, name: &str) -> Answered<Answer> {
        let schema = self.schema();
        let object = schema.object(name).ok_or_else(ApiError::not_found)?;
        let from: u64 = call.query.get("from").and_then(|text| text.parse().ok()).unwrap_or_default();
        let names: Vec<&str> = object
            .stored()
            .filter(|field| !matches!(field.name.as_str(), "Id" | "IsDeleted") && !field.name.ends_with("ById"))
            .filter(|field| field.name_field || field.createable)
            .take(COLUMNS)
            .map(|field| field.name.as_str())
            .collect();
        let columns: Vec<String> = std::iter::once("Id").chain(names.iter().copied()).map(quoted).collect();
        let alive = if object.setup { "" } else { " WHERE \"IsDeleted\"=0" };
        let sql = format!(
            "SELECT {} FROM {}{alive} ORDER BY _rid LIMIT {} OFFSET {from}",
            columns.join(","),
            quoted(&object.name),
            PAGE + 1
        );
        let rows: Vec<Vec<String>> = self.read(|connection| {
            let mut statement = connection.prepare(&sql)?;
            let rows =
                statement.query_map([], |row| (0..columns.len()).map(|at| Ok(shown(row.get_ref(at)?))).collect())?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        let head: String = names.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
        let lines: String = rows
            .iter()
            .take(PAGE as usize)
            .map(|row| {
                let cells: String =
                    row[1..].iter().map(|cell| format!("<td>{}</td>", escape(&clipped(cell)))).collect();
                format!("<tr><td><a href=\"/sandbox/records/{0}\">{0}</a></td>{cells}</tr>", escape(&row[0]))
            })
            .collect();
        let mut links = String::new();
        if from > 0 {
            links.push_str(&format!("<a href=\"?from={}\">Earlier</a> ", from.saturating_sub(PAGE)));
        }
        if rows.len() as u64 > PAGE {
            links.push_str(&format!("<a href=\"?from={}\">Later</a>", from + PAGE));
        }
        let table = or_nothing(&lines, columns.len(), "No records.");
        let body = format!(
            "<div class=\"wide\"><table><thead><tr><th>Id</th>{head}</tr></thead><tbody>{table}</tbody></table></div><p>{links}</p>"
        );
        Ok(page(&object.plural, &body))
    }

    fn record_page(&self, id: &str) -> Answered<Answer> {
        let id = crate::id::normal(id).ok_or_else(ApiError::not_found)?;
        let schema = self.schema();
        let object = schema.by_id(&id).ok_or_else(ApiError::not_found)?;
        let fields: Vec<_> = object.stored().collect();
        let columns: Vec<String> = fields.iter().map(|field| quoted(&field.name)).collect();
        let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", columns.join(","), quoted(&object.name));
        let values: Option<Vec<String>> = self.read(|connection| {
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([&id])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let values = (0..columns.len()).map(|at| Ok(shown(row.get_ref(at)?))).collect::<rusqlite::Result<_>>()?;
            Ok(Some(values))
        })?;
        let values = values.ok_or_else(ApiError::not_found)?;
        let lines: String = fields
            .iter()
            .zip(&values)
            .filter(|(_, value)| !value.is_empty())
            .map(|(field, value)| {
                let value = if field.targets.is_empty() {
                    escape(value)
                } else {
                    format!("<a href=\"/sandbox/records/{0}\">{0}</a>", escape(value))
                };
                format!("<tr><th>{}</th><td>{value}</td></tr>", escape(&field.name))
            })
            .collect();
        Ok(page(
            &format!("{} {id}", object.label),
            &format!("<div class=\"wide\"><table><tbody>{lines}</tbody></table></div>"),
        ))
    }

    fn call_page(&self, number: &str) -> Answered<Answer> {
        let entry = number.parse().ok().and_then(|number| self.journal.find(number)).ok_or_else(ApiError::not_found)?;
        let body = format!(
            "<p>{} by {} with {}, {} ms, answered {}.</p><p><code>{}</code></p><h2>Request</h2><pre>{}</pre><h2>Answer</h2><pre>{}</pre>",
            escape(&entry.method),
            escape(&entry.user),
            escape(&entry.client),
            entry.took.as_millis(),
            entry.status,
            escape(&entry.target),
            escape(&pretty(&entry.request)),
            escape(&pretty(&entry.answer))
        );
        Ok(page(&format!("Call {}", entry.number), &body))
    }
}

fn pretty(text: &str) -> String {
    let value: Option<Value> = serde_json::from_str(text).ok();
    value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| text.to_owned())
}

fn clipped(text: &str) -> String {
    if text.chars().count() > 60 { text.chars().take(59).chain(['\u{2026}']).collect() } else { text.to_owned() }
}

fn shown(value: rusqlite::types::ValueRef<'_>) -> String {
    match value {
        rusqlite::types::ValueRef::Null | rusqlite::types::ValueRef::Blob(_) => String::new(),
        rusqlite::types::ValueRef::Integer(number) => number.to_string(),
        rusqlite::types::ValueRef::Real(number) => number.to_string(),
        rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

fn or_nothing(rows: &str, columns: usize, text: &str) -> String {
    if rows.is_empty() { format!("<tr><td colspan=\"{columns}\">{text}</td></tr>") } else { rows.to_owned() }
}

fn page(title: &str, body: &str) -> Answer {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><link rel=\"stylesheet\" href=\"/sandbox/page.css\"><script src=\"/sandbox/page.js\" defer></script></head>\
         <body><header><a href=\"/\">Sandbox</a></header><main><h1>{0}</h1>{body}</main></body></html>",
        escape(title)
    );
    Answer::bytes(200, "text/html;charset=UTF-8", html.into_bytes())
        .with("content-security-policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'")
        .with("x-frame-options", "DENY")
}
