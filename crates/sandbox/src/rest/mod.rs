//! The REST resources: from a call to an answer.

mod about;
mod blob;
mod outline;
mod query;
mod rows;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

pub(crate) use self::about::versions;
pub(crate) use self::blob::{disposition, multipart, parts};

use crate::caller::Caller;
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::schema::Object;
use crate::store::Options;

/// A call, its body read whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Path segments, decoded.
    pub(crate) path: Vec<String>,
    /// Parameters; of one that is repeated the last.
    pub(crate) query: HashMap<String, String>,
    /// All parameters in order.
    pub(crate) pairs: Vec<(String, String)>,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whose session it is; nobody until that is checked.
    pub(crate) caller: Arc<Caller>,
}

impl Call {
    /// Reads method and target, such as `GET /services/data/v66.0/query?q=...`.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = pairs(query);
        Self {
            method: method.to_uppercase(),
            path: path.split('/').filter(|step| !step.is_empty()).map(decoded).collect(),
            query: pairs.iter().cloned().collect(),
            pairs,
            ..Self::default()
        }
    }

    /// Returns every value of a parameter.
    pub(crate) fn repeated(&self, name: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Returns a header; its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Reads the body as JSON, or as XML if it says so.
    pub(crate) fn json(&self) -> Answered<Value> {
        if self.body.is_empty() {
            return Err(ApiError::new(
                400,
                "JSON_PARSER_ERROR",
                "The HTTP entity body is required, but this request has no entity body.",
            ));
        }
        let kind = self.header("content-type").unwrap_or("application/json");
        match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" | "" => serde_json::from_slice(&self.body).map_err(|error| {
                let place = format!("[line:{}, column:{}]", error.line(), error.column());
                ApiError::new(400, "JSON_PARSER_ERROR", format!("{error} at {place}"))
            }),
            "application/xml" | "text/xml" => crate::xml::value(&String::from_utf8_lossy(&self.body))
                .map_err(|error| ApiError::new(400, "XML_PARSER_ERROR", error)),
            _ => {
                let message = format!("Content-Type header specified in HTTP request is not supported: {kind}");
                Err(ApiError::new(415, "UNSUPPORTED_MEDIA_TYPE", message))
            }
        }
    }

    /// Returns how the call wants its records written.
    pub(crate) fn options(&self) -> Options {
        let flag = |name: &str| {
            let header = self.header("sforce-duplicate-rule-header").unwrap_or_default();
            header.split([',', ';']).any(|part| {
                part.split_once('=').is_some_and(|(key, value)| {
                    key.trim().eq_ignore_ascii_case(name) && value.trim().eq_ignore_ascii_case("true")
                })
            })
        };
        Options {
            allow_duplicates: flag("allowSave"),
            duplicate_details: flag("includeRecordDetails"),
            // Of SOAP alone.
            truncate: self.header("sforce-allow-field-truncation") == Some("true"),
            // Source: REST API developer guide, "Assignment Rule Header".
            assign: self.header("sforce-auto-assign").is_none_or(|wish| !wish.trim().eq_ignore_ascii_case("false")),
        }
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// Reads `a=1&b=2`.
pub(crate) fn form(text: &str) -> HashMap<String, String> {
    pairs(text).into_iter().collect()
}

/// Part of a file.
#[derive(Debug, Clone)]
pub(crate) struct FilePart {
    pub(crate) path: PathBuf,
    pub(crate) from: u64,
    pub(crate) length: u64,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Follows the body; it is streamed.
    pub(crate) file: Option<FilePart>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::bytes(status, "application/json;charset=UTF-8", body.to_string().into_bytes())
    }

    pub(crate) fn bytes(status: u16, kind: &str, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("content-type", kind.to_owned())], body, file: None }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), file: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Returns the body as JSON, null if it is none.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
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
        about::check_version(version)?;
        let method = call.method.as_str();
        // The Tooling API has the same resources and some objects more, which who administers the org may read.
        let mut tooling;
        let (call, resource) = match resource {
            ["tooling", rest @ ..] if call.caller.admin => {
                let all = self.setup().tooling.clone();
                tooling = call.clone();
                tooling.caller = Arc::new(Caller { schema: all.clone(), all, ..(*call.caller).clone() });
                (&tooling, rest)
            }
            ["tooling", rest @ ..] => (call, rest),
            _ => (call, resource),
        };
        match (method, resource) {
            ("GET", []) => Ok(Answer::json(200, &about::resources(self, version))),
            ("GET", ["limits"]) => Ok(Answer::json(200, &self.limits())),
            ("GET", ["limits", "recordCount"]) => self.record_count(call),
            ("GET", ["sobjects"]) => self.described(call, |org| Ok(org.describe_global(call, version))),
            ("GET", ["query"]) => self.query(call, version, false),
            ("GET", ["queryAll"]) => self.query(call, version, true),
            ("GET", ["query" | "queryAll", locator]) => self.next_page(call, version, locator),
            ("GET", ["search"]) => {
                let text = call.query.get("q").map(String::as_str).unwrap_or_default();
                self.sosl(call, version, text)
            }
            ("GET" | "POST", ["parameterizedSearch"]) => self.parameterized(call, version),
            ("GET", ["recent"]) => self.recent(call, version),
            (_, ["composite", rest @ ..]) => self.composite(call, version, rest),
            (_, ["jobs", kind @ ("ingest" | "query"), rest @ ..]) => self.jobs(call, version, kind, rest),
            (_, ["actions", rest @ ..]) => self.actions(call, version, rest),
            (_, ["sobjects", name, rest @ ..]) => {
                let object = call.caller.schema.object(name).ok_or_else(ApiError::not_found)?;
                self.sobject(call, method, version, object, rest)
            }
            (_, ["query" | "queryAll" | "limits" | "sobjects" | "search" | "recent"]) => {
                Err(not_allowed(method, "GET,HEAD"))
            }
            (_, ["quickActions", rest @ ..]) => self.quick_action(call, version, None, rest),
            (_, ["metadata", rest @ ..]) => self.metadata_rest(call, method, rest),
            ("POST", ["process", "approvals"]) => self.approve(call),
            ("GET", ["executeAnonymous"]) => Ok(Answer::json(200, &outline::no_apex())),
            ("GET", rest) => self.outline(call, version, rest),
            _ => Err(ApiError::not_found()),
        }
    }
}

pub(crate) fn not_allowed(method: &str, allowed: &str) -> ApiError {
    let message = format!("HTTP Method '{method}' not allowed. Allowed are {allowed}");
    ApiError::new(405, "METHOD_NOT_ALLOWED", message)
}

pub(crate) fn version_number(version: &str) -> u32 {
    version.trim_start_matches('v').split('.').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The entry of an object in the global describe.
pub(crate) fn describe_entry(object: &Object, version: &str) -> Value {
    crate::describe::entry(object, version)
}

/// Returns the path of a record.
pub(crate) fn link(version: &str, object: &Object, id: &str) -> String {
    format!("/services/data/{version}/sobjects/{}/{id}", object.name)
}
