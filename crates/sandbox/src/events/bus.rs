//! What was published: kept for three days by the org's clock, in the order of its numbers.

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::Answered;
use crate::org::Org;
use crate::schema::Schema;

/// How long an event can be had. Source: Pub/Sub API guide, event retention.
const RETENTION_HOURS: i64 = 72;
/// Events after which old ones are looked for, about.
const SWEEP: i64 = 1_000;

/// Makes the table of events, if it is not there.
pub(crate) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _event (replay INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
                                            at INTEGER NOT NULL, uuid TEXT NOT NULL, schema TEXT NOT NULL, payload TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS _event_topic ON _event (topic, replay)",
    )
}

/// Tells those who listen that something was published.
#[derive(Debug)]
pub(crate) struct Bus {
    newest: watch::Sender<i64>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { newest: watch::Sender::new(0) }
    }
}

impl Bus {
    /// Says that everything up to this number is there.
    pub(crate) fn tell(&self, newest: i64) {
        self.newest.send_if_modified(|known| {
            let later = newest > *known;
            *known = newest.max(*known);
            later
        });
    }

    pub(crate) fn listen(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }
}

/// What a channel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topics {
    /// All change events.
    Changes,
    /// One event.
    One(String),
}

/// Returns what a channel carries; `None` where this user knows no such channel.
pub(crate) fn topics(channel: &str, seen: &Schema) -> Option<Topics> {
    if channel.eq_ignore_ascii_case("/data/ChangeEvents") {
        return Some(Topics::Changes);
    }
    if let Some(name) = channel.strip_prefix("/data/") {
        let object = match name.strip_suffix("__ChangeEvent") {
            Some(stem) => seen.object(&format!("{stem}__c")),
            None => seen.object(name.strip_suffix("ChangeEvent")?),
        }?;
        return (!object.setup && !object.is_event()).then(|| Topics::One(object.change_event()));
    }
    let object = seen.object(channel.strip_prefix("/event/")?)?;
    object.is_event().then(|| Topics::One(object.name.clone()))
}

/// An event as it was published.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) replay: i64,
    pub(crate) uuid: String,
    pub(crate) schema: String,
    pub(crate) payload: Value,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Newest,
    Oldest,
    Behind(i64),
}

impl Org {
    fn oldest_moment(&self) -> i64 {
        (self.now() - chrono::TimeDelta::hours(RETENTION_HOURS)).timestamp_millis()
    }

    /// Returns the number behind which a subscription begins; `None` for one that is no event that can still be had.
    pub(crate) fn start(&self, from: From) -> Answered<Option<i64>> {
        let oldest = self.oldest_moment();
        self.read(|connection| {
            let known: Option<i64> = connection
                .query_row("SELECT seq FROM sqlite_sequence WHERE name='_event'", [], |row| row.get(0))
                .optional()?;
            let newest = known.unwrap_or(0);
            let sql = "SELECT min(replay) FROM _event WHERE at >= ?";
            let first: Option<i64> = connection.query_row(sql, [oldest], |row| row.get(0))?;
            let before_first = first.map_or(newest, |first| first - 1);
            Ok(match from {
                From::Newest => Some(newest),
                From::Oldest => Some(before_first),
                From::Behind(number) => (before_first..=newest).contains(&number).then_some(number),
            })
        })
    }

    /// Returns at most `limit` events of these topics behind a number, in order.
    pub(crate) fn published(&self, topics: &Topics, behind: i64, limit: usize) -> Answered<Vec<Event>> {
        let oldest = self.oldest_moment();
        self.read(|connection| {
            let (condition, topic) = match topics {
                Topics::Changes => ("topic LIKE '%ChangeEvent' AND ?1 = ''", ""),
                Topics::One(topic) => ("topic = ?1", topic.as_str()),
            };
            let sql = format!(
                "SELECT replay, uuid, schema, payload FROM _event WHERE {condition} AND replay > ?2 AND at >= ?3
                 ORDER BY replay LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_map(rusqlite::params![topic, behind, oldest, limit as i64], |row| {
                let payload: String = row.get(3)?;
                Ok(Event {
                    replay: row.get(0)?,
                    uuid: row.get(1)?,
                    schema: row.get(2)?,
                    payload: serde_json::from_str(&payload).unwrap_or(json!({})),
                })
            })?;
            Ok(found.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Forgets now and then what can't be had any more.
    pub(crate) fn sweep_events(&self, connection: &Connection, newest: i64) -> rusqlite::Result<()> {
        if newest % SWEEP < 20 {
            connection.execute("DELETE FROM _event WHERE at < ?", [self.oldest_moment()])?;
        }
        Ok(())
    }
}
