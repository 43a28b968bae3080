//! The one place that sends: it knows the session, the version, and what the org says of its allowance.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use outbound::{Request, Response};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::auth::{Credentials, Session, Sessions};
use crate::describe::{GlobalObject, Object};
use crate::error::{self, Error};

/// How a client speaks to its org.
#[derive(Debug, Clone)]
pub struct Settings {
    /// API version, such as `66.0`.
    pub version: String,
    /// Timeouts and repetitions.
    pub http: outbound::Settings,
    /// How often a running job is asked for its state.
    pub poll_interval: std::time::Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: crate::DEFAULT_VERSION.to_owned(),
            http: outbound::Settings::default(),
            poll_interval: std::time::Duration::from_secs(2),
        }
    }
}

/// The org's own count of API calls over the last 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Calls spent, by everybody.
    pub used: u64,
    /// Calls allowed.
    pub allowed: u64,
}

impl Usage {
    /// Reads `api-usage=18/5000`. Source: REST API guide, "API Usage Header".
    fn parse(header: &str) -> Option<Self> {
        let part = header.split([';', ',']).find_map(|part| part.trim().strip_prefix("api-usage="))?;
        let (used, allowed) = part.split_once('/')?;
        Some(Self { used: used.trim().parse().ok()?, allowed: allowed.trim().parse().ok()? })
    }

    /// Returns what is left.
    pub fn left(self) -> u64 {
        self.allowed.saturating_sub(self.used)
    }
}

#[derive(Debug, Default)]
struct Seen {
    usage: Option<Usage>,
    /// The org's clock less ours, in seconds, from the newest answer.
    clock_ahead: i64,
    objects: HashMap<String, (String, Arc<Object>)>,
    global: Option<(String, Arc<Vec<GlobalObject>>)>,
}

/// A client of one org; clones share its session, its counts and its descriptions.
#[derive(Debug, Clone)]
pub struct Client {
    sessions: Sessions,
    http: outbound::Client,
    settings: Arc<Settings>,
    calls: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    /// Returns a client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When TLS can't be set up.
    pub fn new(credentials: Credentials, settings: Settings) -> Result<Self, Error> {
        let http = outbound::Client::new(settings.http.clone())?;
        Ok(Self {
            sessions: Sessions::new(credentials, http.clone()),
            http,
            settings: Arc::new(settings),
            calls: Arc::default(),
            seen: Arc::default(),
        })
    }

    /// Returns how the client speaks.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the path of a resource under the client's version.
    pub fn path(&self, rest: &str) -> String {
        format!("/services/data/v{}/{rest}", self.settings.version)
    }

    /// Returns the number of API calls that this client has made.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the org's own count, as of its newest answer.
    pub fn usage(&self) -> Option<Usage> {
        self.seen().usage
    }

    /// Returns the time by the org's clock, as of its newest answer.
    pub fn org_time(&self) -> DateTime<Utc> {
        Utc::now() + chrono::TimeDelta::seconds(self.seen().clock_ahead)
    }

    /// Returns the open session, opening one if there is none.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        self.sessions.current().await
    }

    /// Returns a session newer than one that was refused.
    pub(crate) async fn renewed(&self, stale: &Session) -> Result<Session, Error> {
        self.sessions.renew(stale).await
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request whose address is a path of the org, and returns its answer if it is none of refusal.
    /// An expired session is renewed once.
    ///
    /// # Errors
    ///
    /// No answer, no session, or the org's refusal.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        let mut session = self.sessions.current().await?;
        let mut renewed = false;
        loop {
            let mut whole =
                request.clone().header("authorization", format!("Bearer {}", session.token.expose_secret()));
            whole.url = format!("{}{}", session.instance_url, request.url);
            let response = self.sent(&whole).await?;
            let status = response.status();
            if status < 300 || status == 304 {
                return Ok(response);
            }
            let source = error::read(status, &response.bytes().await?);
            if status == 401 && !renewed {
                renewed = true;
                session = self.sessions.renew(&session).await?;
                continue;
            }
            return Err(Error::Refused { what: format!("{} {}", request.method, short(&request.url)), status, source });
        }
    }

    /// Sends a request as it is, counts it, and notes what the answer tells of the org.
    pub(crate) async fn sent(&self, whole: &Request) -> Result<Response, Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let response = self.http.send(whole).await?;
        self.note(&response);
        Ok(response)
    }

    fn note(&self, response: &Response) {
        let usage = response.header("sforce-limit-info").and_then(Usage::parse);
        let time = response.header("date").and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let mut seen = self.seen();
        seen.usage = usage.or(seen.usage);
        if let Some(time) = time {
            seen.clock_ahead = time.signed_duration_since(Utc::now()).num_seconds();
        }
    }

    /// Sends a request and reads its answer as JSON.
    pub async fn json<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        let body = self.send(request).await?.bytes().await?;
        read_json(request, &body)
    }

    /// Returns the versions that the org speaks, such as `66.0`, oldest first.
    pub async fn versions(&self) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let versions: Vec<Version> = self.json(&Request::get("/services/data")).await?;
        Ok(versions.into_iter().map(|version| version.version).collect())
    }

    /// Returns the org's limits by name, as it answers them.
    pub async fn limits(&self) -> Result<serde_json::Map<String, Value>, Error> {
        self.json(&Request::get(self.path("limits"))).await
    }

    /// Returns a line for each object that the session's user can see; asks whether the list changed, and reads it
    /// again only then.
    pub async fn objects(&self) -> Result<Arc<Vec<GlobalObject>>, Error> {
        #[derive(Deserialize)]
        struct Global {
            sobjects: Vec<GlobalObject>,
        }
        let known = self.seen().global.clone();
        let request = Request::get(self.path("sobjects"));
        let read = |body: &[u8]| Ok(Arc::new(read_json::<Global>(&request, body)?.sobjects));
        let (global, modified) = self.if_modified(&request, known, read).await?;
        if let Some(modified) = modified {
            self.seen().global = Some((modified, Arc::clone(&global)));
        }
        Ok(global)
    }

    /// Reads a resource unless it is as it was when `known` was read; returns it with the time of its last change.
    async fn if_modified<T: Clone>(
        &self,
        request: &Request,
        known: Option<(String, T)>,
        read: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<(T, Option<String>), Error> {
        let mut conditional = request.clone();
        if let Some((modified, _)) = &known {
            conditional = conditional.header("if-modified-since", modified.clone());
        }
        let response = self.send(&conditional).await?;
        if let (304, Some((modified, value))) = (response.status(), known) {
            return Ok((value, Some(modified)));
        }
        let modified = response.header("last-modified").map(str::to_owned);
        Ok((read(&response.bytes().await?)?, modified))
    }

    /// Returns the description of an object; asks whether it changed, and reads it again only then.
    pub async fn describe(&self, object: &str) -> Result<Arc<Object>, Error> {
        let path = format!(
            "sobjects/{}/describe",
            percent_encoding::utf8_percent_encode(object, percent_encoding::NON_ALPHANUMERIC)
        );
        let path = path.replace("%5F", "_");
        let known = self.seen().objects.get(object).cloned();
        let request = Request::get(self.path(&path));
        let read = |body: &[u8]| Ok(Arc::new(read_json(&request, body)?));
        let (described, modified) = self.if_modified(&request, known, read).await?;
        if let Some(modified) = modified {
            self.seen().objects.insert(object.to_owned(), (modified, Arc::clone(&described)));
        }
        Ok(described)
    }

    /// Reads a record by id, with the named fields.
    pub async fn retrieve(
        &self,
        object: &str,
        id: &str,
        fields: &[&str],
    ) -> Result<serde_json::Map<String, Value>, Error> {
        self.json(&Request::get(self.path(&format!("sobjects/{object}/{id}?fields={}", fields.join(","))))).await
    }

    /// Creates a record and returns its id.
    pub async fn create(&self, object: &str, fields: &Value) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Created {
            id: String,
        }
        let request = Request::new("POST", self.path(&format!("sobjects/{object}"))).json(fields);
        Ok(self.json::<Created>(&request).await?.id)
    }

    /// Changes the given fields of a record.
    pub async fn update(&self, object: &str, id: &str, fields: &Value) -> Result<(), Error> {
        let request = Request::new("PATCH", self.path(&format!("sobjects/{object}/{id}"))).json(fields).idempotent();
        self.send(&request).await.map(drop)
    }

    /// Deletes a record.
    pub async fn delete(&self, object: &str, id: &str) -> Result<(), Error> {
        self.send(&Request::new("DELETE", self.path(&format!("sobjects/{object}/{id}")))).await.map(drop)
    }
}

/// The path without its query, which may hold values.
fn short(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

pub(crate) fn read_json<T: DeserializeOwned>(request: &Request, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::BadAnswer {
        what: format!("{} {}", request.method, short(&request.url)),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_header_is_read() {
        let usage = Usage::parse("api-usage=18/5000; per-app-api-usage=17/250(appName=x)");
        assert_eq!(usage, Some(Usage { used: 18, allowed: 5000 }));
        assert_eq!(Usage::parse("nothing"), None);
    }
}
