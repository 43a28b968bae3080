//! Webhooks that others send: kept in a file before they are answered, and taken from there as from any queue.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::post;
use chrono::Utc;
use endpoint::{Endpoint, Error, Kind, Result, Setup, configuration};
use model::{Class, RecordError};
use rusqlite::{Connection, params};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{OnceCell, watch};

use super::notifications;
use super::signature::{Key, Refused, Scheme};
use super::{Broker, Deliveries, Delivery, Described, Envelope, Message, Queues};

/// Webhooks that others send, as a kind of connection.
pub const KIND: Kind = Kind::new::<InboxConfig>("inbox", "Webhooks that others send to us.", |value, setup| {
    configuration::<InboxConfig>(value)?.open(setup)
});

/// Largest request, in bytes.
const LARGEST: usize = 1 << 20;
/// How long is remembered what was sent, in milliseconds: senders try again for days.
const REMEMBERED: i64 = 7 * 24 * 3_600_000;
/// Messages that are read from the file at a time.
const PART: i64 = 500;

/// Webhooks that others send to `/hooks/ENTITY`, as JSON or as a form, and outbound messages of Salesforce. They are received
/// while a sync of this connection runs or is followed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    /// Where to listen. Addresses that other machines reach need `secrets`, and a proxy in front that encrypts.
    #[serde(default = "InboxConfig::default_listen")]
    pub listen: SocketAddr,
    /// What requests are signed with, by reference. While one takes the place of another, both.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// How requests are signed.
    #[serde(default)]
    pub signature: Scheme,
    /// The id of the org whose outbound messages are taken; those of any, where there is none. They are not signed: what
    /// stands in front checks the org's certificate.
    #[serde(default)]
    pub organization: Option<String>,
    /// What requests hold; others are refused.
    pub entities: BTreeMap<String, Described>,
}

impl InboxConfig {
    fn default_listen() -> SocketAddr {
        ([127, 0, 0, 1], 8085).into()
    }

    fn open(self, setup: &Setup<'_>) -> Result<Arc<dyn Endpoint>> {
        let secrets: Vec<SecretString> =
            self.secrets.iter().map(|text| setup.references.secret(text)).collect::<Result<_>>()?;
        let keys: Vec<Key> = secrets.iter().map(|secret| self.signature.key(secret)).collect::<Result<_>>()?;
        if keys.is_empty() && !self.listen.ip().is_loopback() {
            let message = format!(
                "{} is reached by other machines, and anybody could send: name the `secrets` that requests are signed with",
                self.listen
            );
            return Err(Error::new(Class::Mapping, message));
        }
        let path = setup.state.join(format!("inbox-{}.db", setup.name));
        let known = OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(&path).and_then(Weak::upgrade);
        // Another sync of this connection may have it open.
        let inbox = if let Some(inbox) = known {
            inbox
        } else {
            let (news, _) = watch::channel(0);
            let spool = Arc::new(Spool { file: Mutex::new(open(&path)?), news });
            let names = self.entities.keys().cloned().collect();
            let organization = self.organization.map(|id| id.chars().take(15).collect());
            let gate = Gate { spool, keys, scheme: self.signature, organization, names };
            let inbox = Arc::new(Inbox { gate: Arc::new(gate), listen: self.listen, serving: OnceCell::new() });
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path, Arc::downgrade(&inbox));
            inbox
        };
        Ok(Arc::new(Queues::new(Shared(inbox), setup.name, Envelope::None, &self.entities)?))
    }
}

/// Inboxes that are open in this process, by their files: one server is enough for all syncs of a connection.
static OPEN: std::sync::LazyLock<Mutex<HashMap<PathBuf, Weak<Inbox>>>> = std::sync::LazyLock::new(Mutex::default);

struct Shared(Arc<Inbox>);

struct Inbox {
    gate: Arc<Gate>,
    listen: SocketAddr,
    /// The server, which ends with us.
    serving: OnceCell<Serving>,
}

struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What every request passes.
struct Gate {
    spool: Arc<Spool>,
    keys: Vec<Key>,
    scheme: Scheme,
    /// The id of the org that may send messages, of 15 characters.
    organization: Option<String>,
    names: Vec<String>,
}

/// What was received and has no outcome yet.
struct Spool {
    file: Mutex<Connection>,
    /// The number of the newest message.
    news: watch::Sender<i64>,
}

fn failed(error: rusqlite::Error) -> Error {
    // A disk that is full, or another process that writes.
    Error::new(Class::Transient { after: None }, "the file of received webhooks cannot be used").caused_by(error)
}

fn open(path: &FilePath) -> Result<Connection> {
    let make = || {
        let file = Connection::open(path)?;
        file.execute_batch(
            "PRAGMA busy_timeout=10000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY AUTOINCREMENT, entity TEXT NOT NULL,
                                                 headers TEXT NOT NULL, body BLOB NOT NULL, at INTEGER NOT NULL);
             CREATE INDEX IF NOT EXISTS message_entity ON message (entity, seq);
             CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS seen_at ON seen (at)",
        )?;
        Ok(file)
    };
    make().map_err(failed)
}

/// A request on its way into the file.
struct Received {
    entity: String,
    headers: Vec<(String, String)>,
    /// What was sent, in parts that are known by an id: one that was taken before is not taken again.
    parts: Vec<(Option<String>, Vec<Vec<u8>>)>,
}

impl Spool {
    fn file(&self) -> MutexGuard<'_, Connection> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was received, all of it or nothing; what was sent before is not kept again.
    fn keep(&self, received: &Received) -> rusqlite::Result<()> {
        let now = Utc::now().timestamp_millis();
        let mut file = self.file();
        let transaction = file.transaction()?;
        transaction.execute("DELETE FROM seen WHERE at < ?", [now - REMEMBERED])?;
        let headers = serde_json::to_string(&received.headers).unwrap_or_default();
        for (id, bodies) in &received.parts {
            if let Some(id) = id {
                let key = format!("{}\n{id}", received.entity);
                let sql = "INSERT OR IGNORE INTO seen (id, at) VALUES (?, ?)";
                if transaction.prepare_cached(sql)?.execute(params![key, now])? == 0 {
                    continue;
                }
            }
            for body in bodies {
                let sql = "INSERT INTO message (entity, headers, body, at) VALUES (?, ?, ?, ?)";
                transaction.prepare_cached(sql)?.execute(params![received.entity, headers, body, now])?;
            }
        }
        let newest = transaction.last_insert_rowid();
        transaction.commit()?;
        drop(file);
        self.news.send_replace(newest);
        Ok(())
    }

    fn read(&self, entity: &str, behind: i64) -> rusqlite::Result<Vec<(i64, Delivery)>> {
        let file = self.file();
        let sql = "SELECT seq, headers, body, at FROM message WHERE entity = ? AND seq > ? ORDER BY seq LIMIT ?";
        let mut statement = file.prepare_cached(sql)?;
        let rows = statement.query_map(params![entity, behind, PART], |row| {
            let (seq, headers): (i64, String) = (row.get(0)?, row.get(1)?);
            let delivery = Delivery {
                key: None,
                headers: serde_json::from_str(&headers).unwrap_or_default(),
                body: row.get::<_, Vec<u8>>(2)?.into(),
                at: Some(row.get::<_, i64>(3)? * 1_000),
                place: format!("webhook {seq} of {entity}"),
            };
            Ok((seq, delivery))
        })?;
        rows.collect()
    }
}

/// Splits a body into those of its records: a list holds several, and a form is one.
fn bodies(kind: &str, body: &[u8]) -> Vec<Vec<u8>> {
    // Some call a form what is none.
    let is_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    if !is_json && kind.starts_with("application/x-www-form-urlencoded") {
        let fields: serde_json::Map<_, _> = url::form_urlencoded::parse(body)
            .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
            .collect();
        return vec![serde_json::Value::Object(fields).to_string().into_bytes()];
    }
    match serde_json::from_slice::<Vec<Box<RawValue>>>(body) {
        Ok(records) => records.into_iter().map(|record| record.get().as_bytes().to_vec()).collect(),
        // What it is, whoever reads it says.
        Err(_) => vec![body.to_vec()],
    }
}

type Answer = (StatusCode, [(HeaderName, &'static str); 1], &'static str);

async fn receive(State(gate): State<Arc<Gate>>, Path(entity): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let plain = |status, text| (status, [(CONTENT_TYPE, "text/plain")], text);
    if !gate.names.contains(&entity) {
        return plain(StatusCode::NOT_FOUND, "nobody reads this\n");
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if !gate.keys.is_empty() {
        match gate.scheme.check(&gate.keys, header, &body, Utc::now().timestamp()) {
            Ok(()) => {}
            Err(Refused::Signature) => return plain(StatusCode::UNAUTHORIZED, "the signature is missing or wrong\n"),
            Err(Refused::Time) => return plain(StatusCode::UNAUTHORIZED, "webhook-timestamp is not the time of now\n"),
        }
    }
    let kept = headers.iter().filter_map(|(name, value)| {
        let is_ours = name.as_str().starts_with("ce-") || name.as_str().starts_with("bridgehead-");
        Some((name.to_string(), value.to_str().ok()?.to_owned())).filter(|_| is_ours)
    });
    let kind = header("content-type").unwrap_or_default();
    let is_message = kind.starts_with("text/xml");
    let parts = if is_message {
        let Some(message) = notifications::read(&body) else {
            return plain(StatusCode::BAD_REQUEST, "this is no outbound message of Salesforce\n");
        };
        let is_theirs = |id: &String| message.organization.get(..15) == Some(id);
        if !gate.organization.as_ref().is_none_or(is_theirs) {
            return plain(StatusCode::UNAUTHORIZED, "the messages of this org are not taken\n");
        }
        message.records.into_iter().map(|(id, body)| (Some(id), vec![body])).collect()
    } else {
        vec![(gate.scheme.id(header).map(str::to_owned), bodies(kind, &body))]
    };
    let received = Received { entity, headers: kept.collect(), parts };
    let spool = Arc::clone(&gate.spool);
    match tokio::task::spawn_blocking(move || spool.keep(&received)).await {
        Ok(Ok(())) if is_message => (StatusCode::OK, [(CONTENT_TYPE, "text/xml")], notifications::TAKEN),
        Ok(Ok(())) => plain(StatusCode::ACCEPTED, ""),
        other => {
            tracing::error!(error = ?other, "a webhook could not be kept");
            plain(StatusCode::SERVICE_UNAVAILABLE, "it can't be kept now; send it again\n")
        }
    }
}

impl Inbox {
    /// Listens, if nobody does so yet.
    async fn serve(&self) -> Result<()> {
        let serve = async || {
            let listener = tokio::net::TcpListener::bind(self.listen).await.map_err(|error| {
                let message = format!("cannot listen on {}: does another process receive these webhooks?", self.listen);
                Error::new(Class::Transient { after: None }, message).caused_by(error)
            })?;
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "receiving webhooks");
            }
            let routes = Router::new()
                .route("/hooks/{entity}", post(receive))
                .layer(DefaultBodyLimit::max(LARGEST))
                .with_state(Arc::clone(&self.gate));
            Ok(Serving(tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, routes).await {
                    tracing::error!(%error, "webhooks are received no more");
                }
            })))
        };
        self.serving.get_or_try_init(serve).await.map(drop)
    }
}

#[async_trait]
impl Broker for Shared {
    async fn publish(&self, entity: &str, _: Vec<Message>) -> Result<Vec<std::result::Result<(), RecordError>>> {
        let message = format!("{entity} is an inbox: others write to it; send webhooks with `kind: webhook`");
        Err(Error::new(Class::Mapping, message))
    }

    async fn create(&self, entity: &str) -> Result<()> {
        self.publish(entity, Vec::new()).await.map(drop)
    }

    async fn waiting(&self, entity: &str) -> Result<u64> {
        let file = self.0.gate.spool.file();
        let sql = "SELECT count(*) FROM message WHERE entity = ?";
        let count: i64 = file.query_row(sql, [entity], |row| row.get(0)).map_err(failed)?;
        Ok(count.cast_unsigned())
    }

    async fn consume(&self, entity: &str) -> Result<Box<dyn Deliveries>> {
        self.0.serve().await?;
        let news = self.0.gate.spool.news.subscribe();
        let inbox = Arc::clone(&self.0);
        Ok(Box::new(Taken {
            inbox,
            entity: entity.to_owned(),
            news,
            ready: Vec::new(),
            behind: 0,
            pending: Vec::new(),
        }))
    }
}

struct Taken {
    inbox: Arc<Inbox>,
    entity: String,
    news: watch::Receiver<i64>,
    /// What was read from the file, the next one last.
    ready: Vec<(i64, Delivery)>,
    /// The number of what was read last.
    behind: i64,
    /// Numbers of messages without an outcome, in the order in which they came.
    pending: Vec<i64>,
}

#[async_trait]
impl Deliveries for Taken {
    async fn next(&mut self) -> Result<Delivery> {
        loop {
            if let Some((seq, delivery)) = self.ready.pop() {
                self.pending.push(seq);
                return Ok(delivery);
            }
            self.news.borrow_and_update();
            let mut ready = self.inbox.gate.spool.read(&self.entity, self.behind).map_err(failed)?;
            if let Some((last, _)) = ready.last() {
                self.behind = *last;
                ready.reverse();
                self.ready = ready;
            } else if self.news.changed().await.is_err() {
                return Err(Error::new(Class::Internal, "the inbox is closed"));
            }
        }
    }

    async fn settle(&mut self, count: usize) -> Result<()> {
        let settled: Vec<i64> = self.pending.drain(..count.min(self.pending.len())).collect();
        let Some(last) = settled.last() else { return Ok(()) };
        let file = self.inbox.gate.spool.file();
        let sql = "DELETE FROM message WHERE entity = ? AND seq <= ?";
        file.execute(sql, params![self.entity, last]).map(drop).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_several_records_and_a_form_is_one() {
        let texts = |kind: &str, body: &str| -> Vec<String> {
            bodies(kind, body.as_bytes()).into_iter().map(|body| String::from_utf8_lossy(&body).into_owned()).collect()
        };
        assert_eq!(texts("application/json", r#"[{"a":1.10}, {"a":2}]"#), [r#"{"a":1.10}"#, r#"{"a":2}"#]);
        assert_eq!(texts("application/json", "[]"), Vec::<String>::new());
        assert_eq!(texts("", "{\"a\":1}"), ["{\"a\":1}"]);
        assert_eq!(texts("", "no json"), ["no json"]);
        assert_eq!(texts("application/x-www-form-urlencoded", " [{\"a\":1}]"), ["{\"a\":1}"], "as curl sends it");
        let form = texts("application/x-www-form-urlencoded; charset=utf-8", "first=J%C3%B6rg&last=A+B");
        assert_eq!(form, [r#"{"first":"Jörg","last":"A B"}"#]);
    }
}
