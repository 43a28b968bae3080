//! Change Data Capture: each write of a record of a selected object becomes an event, in the transaction that made it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rusqlite::params;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value, json};

use super::bus::ENRICHED;
use super::differences::difference;
use crate::chaos::{Fault, Subject};
use crate::error::Answered;
use crate::schema::{Field, Kind as FieldKind, Object};
use crate::store::{Store, quoted};
use crate::value;

/// System fields that no event carries.
const LEFT_OUT: [&str; 8] = [
    "Id",
    "IsDeleted",
    "SystemModstamp",
    "MasterRecordId",
    "LastActivityDate",
    "LastViewedDate",
    "LastReferencedDate",
    "PhotoUrl",
];
/// Most records that one event is about. The platform's own bound is not published.
const MERGED: usize = 200;
/// Changed records of an object from which on one event tells that there were many. Source: Change Data Capture guide.
const OVERFLOW: usize = 100_000;
/// What an overflow event names in the place of records.
const NO_RECORD: &str = "000000000000000AAA";
/// Largest event, in bytes. Source: Change Data Capture guide.
const LARGEST: usize = 1 << 20;

thread_local! {
    /// How the call at hand reaches the org, as its events say.
    static ORIGIN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says how the calls of this thread reach the org from now on.
pub(crate) fn set_origin(origin: String) {
    ORIGIN.set(origin);
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Update,
    Delete,
    Undelete,
    /// So many records that they are not told one by one.
    Overflow,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Undelete => "UNDELETE",
            Self::Overflow => "GAP_OVERFLOW",
        }
    }
}

/// A field whose value is another now.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) name: String,
    /// What is told in the place of a large text that changed a little.
    difference: Option<String>,
}

impl Changed {
    /// A field that is told by its value.
    pub(crate) fn whole(name: String) -> Self {
        Self { name, difference: None }
    }
}

/// An event that is published when its transaction ends well.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    /// Records changed alike.
    Change {
        object: String,
        ids: Vec<String>,
        kind: Kind,
        fields: Map<String, Value>,
        changed: Vec<String>,
        nulled: Vec<String>,
        different: Vec<String>,
    },
    /// A generic event, or one of a `PushTopic`, on its channel.
    Older { topic: String, payload: Value },
    /// A platform event, by its id.
    Platform { object: String, id: String, fields: Map<String, Value> },
}

/// A transaction that publishes.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    key: String,
    events: u32,
    /// Number of its first event, which is that of the commit.
    first: i64,
    /// Number of its last event.
    pub(crate) last: i64,
    /// What is published though the transaction comes to nothing.
    pub(crate) immediate: Vec<Pending>,
    /// The same, of steps that came to nothing in it.
    pub(crate) lost: Vec<Pending>,
}

impl Object {
    /// True when this is the event that tells of the object, or that the object is.
    pub(crate) fn tells(&self, event: &str) -> bool {
        if self.is_event() { self.name == event } else { self.change_event() == event }
    }

    /// Returns the event that tells of changes of this object.
    pub(crate) fn change_event(&self) -> String {
        match self.name.strip_suffix("__c") {
            Some(stem) => format!("{stem}__ChangeEvent"),
            None => format!("{}ChangeEvent", self.name),
        }
    }
}

pub(super) fn told(field: &Field) -> bool {
    !field.calculated && !LEFT_OUT.contains(&field.name.as_str())
}

/// Returns the name that a field has in an event: parts of addresses and names stand inside them.
pub(super) fn path_of(object: &Object, field: &Field) -> (Option<String>, String) {
    let of_person = ["Salutation", "FirstName", "MiddleName", "LastName", "Suffix"].contains(&field.name.as_str());
    if of_person && object.field("LastName").is_some() {
        return (Some("Name".to_owned()), field.name.clone());
    }
    match &field.compound {
        Some(whole) if object.field(whole).is_some_and(|whole| whole.kind.compound()) => {
            let prefix = whole.strip_suffix("Address").unwrap_or_default();
            let name = field.name.strip_prefix(prefix).filter(|rest| !rest.is_empty()).unwrap_or(&field.name);
            (Some(whole.clone()), name.to_owned())
        }
        _ => (None, field.name.clone()),
    }
}

impl Store<'_> {
    /// True when changes of the object are published.
    pub(crate) fn publishes(&self, object: &Object) -> bool {
        self.selected.iter().any(|name| name == "*" || *name == object.name) && !object.setup && !object.is_event()
    }

    /// Returns the fields of a row whose values differ from what is stored.
    pub(crate) fn differing(&self, object: &Object, id: &str, row: &[(&Field, Sql)]) -> Answered<Vec<Changed>> {
        if row.is_empty() || !self.is_watched(object)? {
            return Ok(Vec::new());
        }
        let names: Vec<String> = row.iter().map(|(field, _)| quoted(&field.name)).collect();
        let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", names.join(","), quoted(&object.name));
        let stored: Vec<Sql> = self
            .connection
            .prepare_cached(&sql)?
            .query_row([id], |stored| (0..row.len()).map(|at| stored.get(at)).collect())?;
        let differ = row.iter().zip(stored).filter(|((_, new), old)| new != old);
        let changed = differ.map(|((field, new), old)| {
            let difference = match (&old, new) {
                (Sql::Text(old), Sql::Text(new)) if field.kind == FieldKind::Textarea => difference(old, new),
                _ => None,
            };
            Changed { name: field.name.clone(), difference }
        });
        Ok(changed.collect())
    }

    /// Notes that a record was changed; `changed` names the fields of an update.
    pub(crate) fn note(&mut self, object: &Object, id: &str, kind: Kind, changed: &[Changed]) -> Answered<()> {
        self.note_topics(object, id, kind, changed)?;
        if !self.publishes(object) || (kind == Kind::Update && changed.is_empty()) {
            return Ok(());
        }
        let wanted = |field: &&Field| match kind {
            Kind::Delete | Kind::Overflow => false,
            // When it was changed is told also where a second has not passed since.
            Kind::Update => {
                changed.iter().any(|changed| changed.name == field.name) || field.name == "LastModifiedDate"
            }
            Kind::Create | Kind::Undelete => true,
        };
        let told: Vec<&Field> = object.stored().filter(|field| told(field)).filter(wanted).collect();
        if kind == Kind::Update && told.iter().all(|field| field.name.starts_with("LastModified")) {
            return Ok(());
        }
        let (mut fields, mut names) = (Map::new(), Vec::new());
        let (mut nulled, mut different) = (Vec::new(), Vec::new());
        if !told.is_empty() {
            let columns: Vec<String> = told.iter().map(|field| quoted(&field.name)).collect();
            let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", columns.join(","), quoted(&object.name));
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            let Some(row) = rows.next()? else { return Ok(()) };
            for (at, field) in told.iter().enumerate() {
                let mut value = value::json(field.kind, row.get_ref(at)?);
                let (whole, part) = path_of(object, field);
                let name = whole.as_ref().map_or_else(|| part.clone(), |whole| format!("{whole}.{part}"));
                if kind == Kind::Update {
                    names.push(name.clone());
                }
                let told = changed.iter().find(|changed| changed.name == field.name);
                if let Some(difference) = told.and_then(|changed| changed.difference.clone()) {
                    value = Value::String(difference);
                    different.push(name.clone());
                }
                if value.is_null() {
                    if kind == Kind::Update {
                        nulled.push(name);
                    }
                    continue;
                }
                match whole {
                    Some(whole) => fields.entry(whole).or_insert_with(|| json!({}))[part] = value,
                    // The name of a person stands in its parts.
                    None if field.name == "Name" && object.field("LastName").is_some() => {}
                    None => {
                        fields.insert(part, value);
                    }
                }
            }
        }
        let added = self.enriched(object, id, kind)?;
        if !added.is_empty() {
            fields.insert(ENRICHED.to_owned(), Value::Object(added));
        }
        let id = id.to_owned();
        // What was done alike to several records in one step is one event.
        if let Some(Pending::Change { object: last, ids, kind: same, fields: known, nulled: empty, .. }) =
            self.pending.last_mut()
            && *last == object.name
            && *same == kind
            && *known == fields
            && *empty == nulled
            && ids.len() < MERGED
            && !ids.contains(&id)
        {
            ids.push(id);
            return Ok(());
        }
        self.pending.push(Pending::Change {
            object: object.name.clone(),
            ids: vec![id],
            kind,
            fields,
            changed: names,
            nulled,
            different,
        });
        Ok(())
    }

    /// Returns the fields that channels add to an event that does not tell all of a record.
    fn enriched(&self, object: &Object, id: &str, kind: Kind) -> Answered<Map<String, Value>> {
        let mut added = Map::new();
        if !matches!(kind, Kind::Update | Kind::Delete) {
            return Ok(added);
        }
        let event = object.change_event();
        let members = self.channels.iter().flat_map(|channel| &channel.members).filter(|member| member.event == event);
        for path in members.flat_map(|member| &member.enriched) {
            let is = |field: &&Field| match path_of(object, field) {
                (Some(whole), part) => *path == format!("{whole}.{part}"),
                (None, name) => *path == name,
            };
            let Some(field) = object.stored().find(is) else { continue };
            let sql = format!("SELECT {} FROM {} WHERE \"Id\"=?", quoted(&field.name), quoted(&object.name));
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            if let Some(row) = rows.next()? {
                let value = value::json(field.kind, row.get_ref(0)?);
                if !value.is_null() {
                    added.insert(path.clone(), value);
                }
            }
        }
        Ok(added)
    }

    /// Returns the id of the schema of an object's events; whoever reads one later finds it under this id.
    fn event_schema(&self, object: &str) -> Answered<String> {
        let Some(object) = self.all.object(object) else { return Ok(String::new()) };
        let schema = self.schemas.of(object)?;
        let sql = "INSERT OR IGNORE INTO _event_schema (id, json) VALUES (?,?)";
        self.connection.prepare_cached(sql)?.execute([&schema.id, &schema.json])?;
        Ok(schema.id.clone())
    }

    fn strikes(&self, object: &str, fault: &Fault) -> bool {
        self.chaos.strike(Subject { object, ..Subject::default() }, |one| one == fault).is_some()
    }

    /// Puts one event in the place of all changes of an object where a step changes too many records.
    fn overflowing(&self, pending: Vec<Pending>) -> Vec<Pending> {
        let mut changed: BTreeMap<String, usize> = BTreeMap::new();
        for event in &pending {
            if let Pending::Change { object, ids, .. } = event {
                *changed.entry(object.clone()).or_default() += ids.len();
            }
        }
        changed.retain(|object, records| *records > OVERFLOW || self.strikes(object, &Fault::EventOverflow));
        let mut told = Vec::with_capacity(pending.len());
        for event in pending {
            match event {
                Pending::Change { object, .. } if changed.get(&object) == Some(&0) => {}
                Pending::Change { object, .. } if changed.contains_key(&object) => {
                    changed.insert(object.clone(), 0);
                    let (ids, kind) = (vec![NO_RECORD.to_owned()], Kind::Overflow);
                    let (fields, changed) = (Map::new(), Vec::new());
                    let (nulled, different) = (Vec::new(), Vec::new());
                    told.push(Pending::Change { object, ids, kind, fields, changed, nulled, different });
                }
                other => told.push(other),
            }
        }
        told
    }

    /// True for an event that is published whatever becomes of the transaction.
    pub(crate) fn is_immediate(&self, event: &Pending) -> bool {
        match event {
            Pending::Platform { object, .. } => self.all.object(object).is_some_and(|object| object.immediate),
            _ => false,
        }
    }

    /// Keeps what is to be published, in the transaction that it tells of.
    pub(crate) fn publish(&mut self, transaction: &mut Transaction, at: i64) -> Answered<()> {
        let pending = std::mem::take(&mut self.pending);
        transaction.immediate.extend(pending.iter().filter(|event| self.is_immediate(event)).cloned());
        for event in self.overflowing(pending) {
            if transaction.events == 0 {
                let serial: i64 = self.connection.query_row(
                    "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name='_event'), 0) + 1",
                    [],
                    |row| row.get(0),
                )?;
                transaction.first = serial;
                transaction.key = uuid_of(&format!("transaction {serial}"));
            }
            transaction.events += 1;
            let (topic, uuid, schema, payload) = match event {
                Pending::Older { topic, payload } => {
                    let uuid = uuid_of(&format!("{}-{}", transaction.key, transaction.events));
                    (topic, uuid, String::new(), payload)
                }
                Pending::Platform { object, id, mut fields } => {
                    let schema = self.event_schema(&object)?;
                    fields.insert("CreatedDate".to_owned(), json!(value::rest_datetime(&self.now)));
                    fields.insert("CreatedById".to_owned(), json!(self.user));
                    (object, uuid_of(&id), schema, Value::Object(fields))
                }
                Pending::Change { object, ids, kind, mut fields, mut changed, mut nulled, mut different } => {
                    let large = || json!(fields).to_string().len() > LARGEST;
                    let gap = match kind {
                        Kind::Overflow => false,
                        _ => self.strikes(&object, &Fault::EventGap) || large(),
                    };
                    if gap {
                        fields.clear();
                        for names in [&mut changed, &mut nulled, &mut different] {
                            names.clear();
                        }
                    }
                    let word = if gap { format!("GAP_{}", kind.word()) } else { kind.word().to_owned() };
                    let known = self.all.object(&object);
                    let topic = known.map(Object::change_event).unwrap_or_default();
                    let header = json!({
                        "entityName": object, "recordIds": ids, "changeType": word,
                        "changeOrigin": ORIGIN.with_borrow(String::clone), "transactionKey": transaction.key,
                        "sequenceNumber": transaction.events, "commitTimestamp": at, "commitNumber": transaction.first,
                        "commitUser": self.user, "nulledFields": nulled, "diffFields": different, "changedFields": changed});
                    fields.insert("ChangeEventHeader".to_owned(), header);
                    let uuid = uuid_of(&format!("{}-{}", transaction.key, transaction.events));
                    (topic, uuid, self.event_schema(&object)?, Value::Object(fields))
                }
            };
            let sql = "INSERT INTO _event (topic, at, uuid, schema, payload) VALUES (?,?,?,?,?)";
            self.connection.prepare_cached(sql)?.execute(params![topic, at, uuid, schema, payload.to_string()])?;
            transaction.last = self.connection.last_insert_rowid();
        }
        Ok(())
    }
}

/// Returns a UUID that is always the same for the same text.
pub(crate) fn uuid_of(text: &str) -> String {
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let digits = print.as_ref().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("{}-{}-4{}-a{}-{}", &digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32])
}
