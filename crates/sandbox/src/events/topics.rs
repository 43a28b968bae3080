//! What came before platform events: `PushTopic`s, which tell records that a query finds as they change, and generic events,
//! which say whatever somebody pushes. Both are told by CometD alone.

use rusqlite::params;
use serde_json::{Map, Value, json};

use super::changes::{Changed, Kind, Pending};
use crate::cursors::Cursors;
use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::Org;
use crate::query::{self, Context};
use crate::rest::{Answer, Call};
use crate::schema::Object;
use crate::store::Store;

/// The object of each, and the field that holds the name of its channel.
pub(crate) const PUSH_TOPIC: &str = "PushTopic";
pub(crate) const CHANNEL: &str = "StreamingChannel";
/// Longest payload of a generic event, in characters. Source: Streaming API guide.
const LONGEST: usize = 3_000;

/// A `PushTopic` that is active.
struct PushTopic {
    name: String,
    query: soql::Query,
    text: String,
    /// Which fields have to change.
    fields: String,
    /// Whether it tells of records that are made, changed, deleted and restored.
    told: [bool; 4],
}

/// Returns what is said of a topic where it says nothing itself.
pub(crate) fn with_defaults(written: &Map<String, Value>) -> Map<String, Value> {
    let mut values = written.clone();
    let defaults = [
        ("IsActive", json!(true)),
        ("NotifyForFields", json!("Referenced")),
        ("NotifyForOperationCreate", json!(true)),
        ("NotifyForOperationUpdate", json!(true)),
        ("NotifyForOperationDelete", json!(true)),
        ("NotifyForOperationUndelete", json!(true)),
    ];
    for (name, value) in defaults {
        if !values.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            values.insert(name.to_owned(), value);
        }
    }
    values
}

/// Reads the query of a topic, which is plainer than others.
fn parse(text: &str) -> Answered<soql::Query> {
    let wrong = |message: String| ApiError::new(400, "INVALID_FIELD", message);
    let query = soql::parse(text).map_err(|error| ApiError::new(400, "MALFORMED_QUERY", error.message))?;
    let plain = query.group.is_none()
        && query.order.is_empty()
        && query.limit.is_none()
        && query.offset.is_none()
        && query.select.iter().all(|item| matches!(item, soql::Item::Expr { .. }));
    if !plain {
        return Err(wrong("PushTopic queries have fields and a condition, and nothing else".to_owned()));
    }
    if !query.to_string().split(" FROM ").next().is_some_and(|select| words(select).any(|word| word == "id")) {
        return Err(wrong("Id field is required in the select clause".to_owned()));
    }
    Ok(query)
}

/// Returns the names in a text, in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_ascii_lowercase).filter(|word| !word.is_empty())
}

impl PushTopic {
    /// True when it wants to know of a change of these fields.
    fn wants(&self, kind: Kind, changed: &[Changed]) -> bool {
        let operation = match kind {
            Kind::Create => 0,
            Kind::Update => 1,
            Kind::Delete => 2,
            Kind::Undelete => 3,
            Kind::Overflow => return false,
        };
        if !self.told[operation] {
            return false;
        }
        if kind != Kind::Update || self.fields == "All" {
            return true;
        }
        let text = self.query.to_string();
        let (select, condition) = text.split_once(" WHERE ").unwrap_or((&text, ""));
        let read = match self.fields.as_str() {
            "Select" => select.to_owned(),
            "Where" => condition.to_owned(),
            _ => format!("{select} {condition}"),
        };
        words(&read).any(|word| changed.iter().any(|field| field.name.eq_ignore_ascii_case(&word)))
    }
}

impl Store<'_> {
    fn push_topics(&self, object: &Object) -> Answered<Vec<PushTopic>> {
        if object.setup || object.is_event() || object.name == PUSH_TOPIC {
            return Ok(Vec::new());
        }
        let sql = "SELECT \"Name\", \"Query\", \"NotifyForFields\", \"NotifyForOperationCreate\", \"NotifyForOperationUpdate\",
                          \"NotifyForOperationDelete\", \"NotifyForOperationUndelete\"
                   FROM \"PushTopic\" WHERE \"IsActive\"=1 AND \"IsDeleted\"=0";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut topics = Vec::new();
        while let Some(row) = rows.next()? {
            let text: String = row.get(1)?;
            let Ok(query) = soql::parse(&text) else { continue };
            if query.from.object.text.eq_ignore_ascii_case(&object.name) {
                let told = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
                topics.push(PushTopic { name: row.get(0)?, query, text, fields: row.get(2)?, told });
            }
        }
        Ok(topics)
    }

    /// True when somebody may want to know which fields of an object change.
    pub(crate) fn is_watched(&self, object: &Object) -> Answered<bool> {
        Ok(self.publishes(object) || !self.push_topics(object)?.is_empty())
    }

    /// Checks a topic before it is stored.
    pub(crate) fn check_topic(&self, values: &Map<String, Value>) -> Answered<()> {
        match values.iter().find(|(name, _)| name.eq_ignore_ascii_case("Query")) {
            Some((_, Value::String(text))) => {
                let query = parse(text)?;
                let cursors = Cursors::default();
                query::compile_parsed(self.bare(&cursors), &query, text).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Returns what queries of the org itself compile against.
    pub(crate) fn bare<'s>(&'s self, cursors: &'s Cursors) -> Context<'s> {
        Context {
            schema: self.all,
            all: self.all,
            connection: self.connection,
            now: crate::value::parse_datetime(&self.now).unwrap_or_default(),
            zone: self.zone,
            user: self.user,
            fiscal_start: 1,
            shared: None,
            server: self.server,
            version: "v66.0",
            deleted: false,
            cursors,
            page: 1,
        }
    }

    /// Tells the topics that find a record of its change.
    pub(super) fn note_topics(&mut self, object: &Object, id: &str, kind: Kind, changed: &[Changed]) -> Answered<()> {
        for mut topic in self.push_topics(object)?.into_iter().filter(|topic| topic.wants(kind, changed)) {
            let is = soql::parse(&format!("SELECT Id FROM {} WHERE Id = {}", object.name, soql::quote(id)));
            let is = is.map_err(|error| ApiError::unexpected(&error.message))?.filter;
            let conditions = is.into_iter().chain(topic.query.filter.take()).collect();
            topic.query.filter = Some(soql::Condition::And(conditions));
            let cursors = Cursors::default();
            let context = self.bare(&cursors);
            // A field that it names may be gone by now.
            let Ok(plan) = query::compile_parsed(context, &topic.query, &topic.text) else { continue };
            let rows = plan.rows(self.connection)?;
            let Some(mut record) = plan.records(context, &rows)?.into_iter().next() else { continue };
            if let Value::Object(fields) = &mut record {
                fields.remove("attributes");
                if kind == Kind::Delete {
                    fields.retain(|name, _| name == "Id");
                }
            }
            let what = match kind {
                Kind::Create => "created",
                Kind::Update => "updated",
                Kind::Delete => "deleted",
                _ => "undeleted",
            };
            let event = json!({"type": what, "createdDate": crate::value::rest_datetime(&self.now)});
            let payload = json!({"event": event, "sobject": record, "object": object.name});
            self.pending.push(Pending::Older { topic: format!("/topic/{}", topic.name), payload });
        }
        Ok(())
    }
}

impl Org {
    /// True when there is a topic or a channel of this name: `/topic/Name` or `/u/Name`.
    pub(crate) fn has_older(&self, channel: &str) -> bool {
        let (sql, name) = match channel.strip_prefix("/topic/") {
            Some(name) => ("SELECT 1 FROM \"PushTopic\" WHERE \"Name\"=? AND \"IsActive\"=1 AND \"IsDeleted\"=0", name),
            None => ("SELECT 1 FROM \"StreamingChannel\" WHERE \"Name\"=? AND \"IsDeleted\"=0", channel),
        };
        self.read(|connection| Ok(connection.prepare_cached(sql)?.exists([name])?)).unwrap_or(false)
    }

    /// Answers `sobjects/StreamingChannel/{id}/push`: generic events.
    pub(crate) fn push(&self, call: &Call, channel: &str) -> Answered<Answer> {
        let body: Value = serde_json::from_slice(&call.body)
            .map_err(|error| ApiError::new(400, "JSON_PARSER_ERROR", error.to_string()))?;
        let events = body["pushEvents"].as_array().filter(|events| !events.is_empty()).ok_or_else(|| {
            ApiError::new(400, "JSON_PARSER_ERROR", "pushEvents is a list of events, each with a payload")
        })?;
        let payloads: Vec<&str> = events.iter().filter_map(|event| event["payload"].as_str()).collect();
        if payloads.len() < events.len() || payloads.iter().any(|text| text.chars().count() > LONGEST) {
            let message = format!("each event has a payload of at most {LONGEST} characters");
            return Err(ApiError::new(400, "INVALID_FIELD", message));
        }
        // Those it is meant for; all, where nobody is named.
        let named = |event: &Value| {
            let ids = event["userIds"].as_array().into_iter().flatten();
            ids.map(|id| id.as_str().and_then(id::normal)).collect::<Option<Vec<String>>>()
        };
        let users: Vec<Vec<String>> = events
            .iter()
            .map(|event| named(event).ok_or_else(|| ApiError::new(400, "INVALID_FIELD", "userIds are ids of users")))
            .collect::<Answered<_>>()?;
        let name: String = self.read(|connection| {
            let sql = "SELECT \"Name\" FROM \"StreamingChannel\" WHERE \"Id\"=? AND \"IsDeleted\"=0";
            connection
                .prepare_cached(sql)?
                .query_row(params![channel], |row| row.get(0))
                .map_err(|_| ApiError::not_found())
        })?;
        self.write(&call.caller, |store| {
            let created = crate::value::rest_datetime(&store.now);
            for (text, users) in payloads.iter().zip(&users) {
                let payload = json!({"event": {"createdDate": created}, "payload": text, "users": users});
                store.pending.push(Pending::Older { topic: name.clone(), payload });
            }
            Ok(())
        })?;
        // Of those who listen to all of it nobody is counted. Source: Streaming API guide, generic events.
        let listening = self.streams.listening(&name);
        let pushed = users.iter().map(|users| {
            let online: Map<String, Value> =
                users.iter().map(|user| (user.clone(), json!(listening.contains(user)))).collect();
            let count =
                if users.is_empty() { -1 } else { online.values().filter(|here| **here == true).count() as i64 };
            json!({"fanoutCount": count, "userOnlineStatus": online})
        });
        Ok(Answer::json(200, &pushed.collect()))
    }
}
