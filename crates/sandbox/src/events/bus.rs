//! What was published: kept for three days by the org's clock, in the order of its numbers.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::changes::{path_of, uuid_of};
use super::filters::Filter;
use super::schemas::{EventSchema, HEADER, NAMING};
use crate::caller::Caller;
use crate::chaos::{Fault, Subject};
use crate::definition::ManagedSubscription;
use crate::error::Answered;
use crate::org::Org;
use crate::schema::{Object, Schema};

/// How long an event can be had. Source: Pub/Sub API guide, event retention.
const RETENTION_HOURS: i64 = 72;
/// The same of generic events and `PushTopic`s. Source: Streaming API guide.
const OLDER_RETENTION_HOURS: i64 = 24;
/// Events after which old ones are looked for, about.
const SWEEP: i64 = 1_000;

/// Makes the table of events, if it is not there.
pub(crate) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _event (replay INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
                                            at INTEGER NOT NULL, uuid TEXT NOT NULL, schema TEXT NOT NULL, payload TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS _event_topic ON _event (topic, replay);
         CREATE TABLE IF NOT EXISTS _event_schema (id TEXT PRIMARY KEY, json TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS _managed (name TEXT PRIMARY KEY, replay INTEGER NOT NULL)",
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
    /// The events of a channel of one's own.
    Several(Arc<Channel>),
    /// Generic events, or those of a `PushTopic`.
    Older(String),
}

/// A channel of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Its name, which ends with `__chn`.
    pub(crate) name: String,
    /// What it carries, in the order of their names.
    pub(crate) members: Vec<Member>,
}

/// An event that a channel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name, such as `AccountChangeEvent`.
    pub(crate) event: String,
    /// Fields that it always has there, with their values.
    pub(crate) enriched: Vec<String>,
    /// Which of them it carries.
    pub(crate) filter: Option<Filter>,
}

/// Where a change event holds, besides what it tells, fields that channels add.
pub(crate) const ENRICHED: &str = "~enriched";

/// Adds to an event what its channel adds, and takes away what is meant for others; `None` where the channel does not carry it.
fn enrich(mut event: Event, topics: &Topics) -> Option<Event> {
    let added = event.payload.as_object_mut().and_then(|fields| fields.remove(ENRICHED));
    let Topics::Several(channel) = topics else { return Some(event) };
    let member = channel.members.iter().find(|member| member.event == event.topic)?;
    let Value::Object(fields) = &mut event.payload else { return None };
    let added = added.as_ref().and_then(Value::as_object).into_iter().flatten();
    for (path, value) in added.filter(|(path, _)| member.enriched.contains(path)) {
        let value = value.clone();
        match path.split_once('.') {
            None => drop(fields.entry(path.clone()).or_insert(value)),
            Some((whole, part)) => {
                if let Value::Object(parts) = fields.entry(whole).or_insert_with(|| json!({})) {
                    parts.entry(part).or_insert(value);
                }
            }
        }
    }
    member.filter.as_ref().is_none_or(|filter| filter.lets_pass(&event.payload)).then_some(event)
}

/// Returns what a channel carries; `None` where this user knows no such channel.
pub(crate) fn topics(channel: &str, seen: &Schema, own: &[Arc<Channel>]) -> Option<Topics> {
    if channel.eq_ignore_ascii_case("/data/ChangeEvents") {
        return Some(Topics::Changes);
    }
    if let Some((kind, name)) = channel.rsplit_once('/').filter(|(_, name)| name.ends_with("__chn")) {
        let known = own.iter().find(|known| known.name.eq_ignore_ascii_case(name))?;
        let of_changes = known.members.iter().all(|member| member.event.ends_with("ChangeEvent"));
        return (kind == if of_changes { "/data" } else { "/event" }).then(|| Topics::Several(Arc::clone(known)));
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
    pub(crate) topic: String,
    pub(crate) replay: i64,
    pub(crate) uuid: String,
    pub(crate) schema: String,
    pub(crate) payload: Value,
}

/// Returns an event as a caller may see it: without fields that are hidden from him.
fn visible(mut event: Event, caller: &Caller) -> Option<Event> {
    if event.topic.starts_with('/') {
        // A generic event may be meant for some.
        let users = event.payload.as_object_mut()?.remove("users");
        let users = users.as_ref().and_then(Value::as_array).filter(|users| !users.is_empty());
        if users.is_some_and(|users| !users.iter().any(|user| *user == caller.user_id)) {
            return None;
        }
        // A record by a query: as far as the caller sees its object.
        let object = event.payload.as_object_mut()?.remove("object");
        if let Some(object) = object.as_ref().and_then(Value::as_str)
            && let Some(Value::Object(fields)) = event.payload.get_mut("sobject")
        {
            let object = caller.schema.object(object)?;
            fields.retain(|name, _| object.field(name).is_some());
        }
        return Some(event);
    }
    if caller.admin {
        return Some(event);
    }
    let Some(entity) = event.payload[HEADER]["entityName"].as_str().map(str::to_owned) else {
        let object = caller.schema.object(&event.topic)?;
        if let Value::Object(fields) = &mut event.payload {
            fields.retain(|name, _| name.starts_with("Created") || object.field(name).is_some());
        }
        return Some(event);
    };
    let object = caller.schema.object(&entity)?;
    let paths: HashSet<String> = object
        .stored()
        .map(|field| match path_of(object, field) {
            (Some(whole), part) => format!("{whole}.{part}"),
            (None, name) => name,
        })
        .collect();
    for (name, value) in event.payload.as_object_mut()? {
        match value {
            Value::Object(parts) if name == HEADER => {
                for naming in NAMING {
                    if let Some(Value::Array(names)) = parts.get_mut(naming) {
                        names.retain(|name| name.as_str().is_some_and(|name| paths.contains(name)));
                    }
                }
            }
            Value::Object(parts) => parts.retain(|part, _| paths.contains(&format!("{name}.{part}"))),
            value if !paths.contains(name) => *value = Value::Null,
            _ => {}
        }
    }
    if let Value::Object(fields) = &mut event.payload {
        fields.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|parts| !parts.is_empty()));
    }
    Some(event)
}

/// True when two changes are of different transactions and of different records, so that their order tells nothing.
fn apart(left: &Event, right: &Event) -> bool {
    let (left, right) = (&left.payload[HEADER], &right.payload[HEADER]);
    let ids = |header: &Value| header["recordIds"].as_array().cloned().unwrap_or_default();
    let shared = ids(left).iter().any(|id| ids(right).contains(id));
    left["transactionKey"] != right["transactionKey"] && !shared
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

    /// Returns at most `limit` events of these topics behind a number, in order, as far as the caller may see them, and
    /// the number that they bring a subscription to; `None` where there are none.
    pub(crate) fn published(
        &self,
        caller: &Caller,
        topics: &Topics,
        behind: i64,
        limit: usize,
    ) -> Answered<(Vec<Event>, Option<i64>)> {
        let events = self.kept(topics, behind, limit)?;
        let last = events.last().map(|event| event.replay);
        let seen = events.into_iter().filter_map(|event| visible(enrich(event, topics)?, caller));
        Ok((self.disturbed(seen), last))
    }

    /// Lets events go wrong on their way, where chaos wants it.
    fn disturbed(&self, events: impl Iterator<Item = Event>) -> Vec<Event> {
        let strikes = |event: &Event, fault: &Fault| {
            let object = event.payload[HEADER]["entityName"].as_str().unwrap_or_default();
            self.chaos.strike(Subject { object, ..Subject::default() }, |one| one == fault).is_some()
        };
        let mut told: Vec<Event> = Vec::new();
        for event in events.filter(|event| !strikes(event, &Fault::EventLost)) {
            if strikes(&event, &Fault::EventDoubled) {
                told.push(event.clone());
            }
            let place = told.len();
            let passes = place > 0 && apart(&told[place - 1], &event) && strikes(&event, &Fault::EventReordered);
            told.insert(if passes { place - 1 } else { place }, event);
        }
        told
    }

    /// Returns the schema of an id, if anything was ever published by it or may be.
    pub(crate) fn event_schema_by_id(&self, id: &str) -> Answered<Option<Arc<EventSchema>>> {
        if let Some(known) = self.schemas.by_id(id) {
            return Ok(Some(known));
        }
        let json: Option<String> = self.read(|connection| {
            let sql = "SELECT json FROM _event_schema WHERE id=?";
            Ok(connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?)
        })?;
        json.map(|json| self.schemas.keep(&json)).transpose()
    }

    /// Returns the number of a platform event that was published.
    pub(crate) fn replay_of(&self, object: &Object, id: &str) -> Answered<i64> {
        self.read(|connection| {
            let sql = "SELECT replay FROM _event WHERE topic=? AND uuid=? ORDER BY replay DESC LIMIT 1";
            Ok(connection.prepare_cached(sql)?.query_row([&object.name, &uuid_of(id)], |row| row.get(0))?)
        })
    }

    /// Finds a managed event subscription by one of its names.
    pub(crate) fn managed(&self, names: &[String]) -> Option<ManagedSubscription> {
        let managed = &self.config.definition.managed_event_subscriptions;
        managed.iter().find(|one| names.iter().any(|name| name.eq_ignore_ascii_case(&one.name))).cloned()
    }

    /// Returns what was committed last to a managed event subscription.
    pub(crate) fn managed_position(&self, name: &str) -> Answered<Option<i64>> {
        self.read(|connection| {
            let sql = "SELECT replay FROM _managed WHERE name=?";
            Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
        })
    }

    /// Commits to a managed event subscription.
    pub(crate) fn commit_managed(&self, name: &str, replay: i64) -> Answered<()> {
        self.write(&self.system(), |store| {
            let sql = "INSERT OR REPLACE INTO _managed (name, replay) VALUES (?,?)";
            store.connection.execute(sql, rusqlite::params![name, replay])?;
            Ok(())
        })
    }

    fn kept(&self, topics: &Topics, behind: i64, limit: usize) -> Answered<Vec<Event>> {
        let mut oldest = self.oldest_moment();
        if matches!(topics, Topics::Older(_)) {
            oldest += (RETENTION_HOURS - OLDER_RETENTION_HOURS) * 3_600_000;
        }
        self.read(|connection| {
            let (condition, topic) = match topics {
                Topics::Changes => ("topic LIKE '%ChangeEvent' AND ?1 = ''", String::new()),
                Topics::One(topic) | Topics::Older(topic) => ("topic = ?1", topic.clone()),
                Topics::Several(channel) => {
                    let events: Vec<&str> = channel.members.iter().map(|member| member.event.as_str()).collect();
                    ("topic IN (SELECT value FROM json_each(?1))", json!(events).to_string())
                }
            };
            let sql = format!(
                "SELECT replay, uuid, schema, payload, topic FROM _event WHERE {condition} AND replay > ?2 AND at >= ?3
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
                    topic: row.get(4)?,
                })
            })?;
            Ok(found.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Forgets now and then what can't be had any more.
    pub(crate) fn sweep_events(&self, connection: &Connection, newest: i64) -> rusqlite::Result<()> {
        if newest % SWEEP < 20 {
            // They stand in order: nothing behind the first that is kept is looked at.
            let kept = "SELECT replay FROM _event WHERE at >= ?1 ORDER BY replay LIMIT 1";
            let sql = format!("DELETE FROM _event WHERE replay < coalesce(({kept}), ?2 + 1)");
            connection.prepare_cached(&sql)?.execute([self.oldest_moment(), newest])?;
        }
        Ok(())
    }
}
