//! The org's records: a SQLite table an object, and the rules by which records change.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use serde_json::{Map, Value};

use crate::automation::Save;
use crate::chaos::{Chaos, Fault, Subject};
use crate::content;
use crate::error::{Answered, ApiError};
use crate::events::{ChangeKind, Changed, Channel, PUSH_TOPIC, Pending, Schemas, with_defaults};
use crate::id;
use crate::locks::{Locks, contended};
use crate::people;
use crate::schema::{Field, Kind, Object, Schema};
use crate::sharing::{self, Bound, Wish};
use crate::value::coerce;

/// Creates what is missing: a table for each object, a column for each stored field, indexes for keys
/// and references.
pub(crate) fn migrate(connection: &Connection, schema: &Schema) -> rusqlite::Result<()> {
    content::migrate(connection)?;
    crate::events::migrate(connection)?;
    crate::messages::migrate(connection)?;
    // What a delete took along, so that an undelete brings it back.
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _bin (id TEXT PRIMARY KEY, object TEXT NOT NULL, root TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS _bin_root ON _bin (root)",
    )?;
    for object in schema.objects() {
        // A table that is new gets its columns at once: adding them one by one takes longer than all the rest.
        let columns: String =
            object.stored().map(|field| format!(", {} {}", quoted(&field.name), column_type(field))).collect();
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {} (_rid INTEGER PRIMARY KEY AUTOINCREMENT{columns})",
            quoted(&object.name)
        ))?;
        let mut known = Vec::new();
        let mut columns = connection.prepare(&format!("PRAGMA table_info({})", quoted(&object.name)))?;
        let mut rows = columns.query([])?;
        while let Some(row) = rows.next()? {
            known.push(row.get::<_, String>(1)?);
        }
        for field in object.stored() {
            if !known.iter().any(|name| name.eq_ignore_ascii_case(&field.name)) {
                let sql = format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    quoted(&object.name),
                    quoted(&field.name),
                    column_type(field)
                );
                connection.execute_batch(&sql)?;
            }
            let unique = if field.kind == Kind::Id { "UNIQUE " } else { "" };
            let wanted = field.id_lookup || field.unique || !field.targets.is_empty() || field.name == "SystemModstamp";
            if wanted && !matches!(field.name.as_str(), "CreatedById" | "LastModifiedById" | "OwnerId") {
                connection.execute_batch(&format!(
                    "CREATE {unique}INDEX IF NOT EXISTS {} ON {} ({})",
                    quoted(&format!("{}.{}", object.name, field.name)),
                    quoted(&object.name),
                    quoted(&field.name)
                ))?;
            }
        }
    }
    Ok(())
}

fn column_type(field: &Field) -> &'static str {
    match field.kind {
        Kind::Boolean if !field.nillable => "INTEGER NOT NULL DEFAULT 0",
        Kind::Boolean | Kind::Int => "INTEGER",
        kind if kind.numeric() => "REAL",
        Kind::Id | Kind::Reference | Kind::Date | Kind::Datetime | Kind::Time | Kind::Base64 => "TEXT",
        _ if field.case_sensitive => "TEXT",
        _ => "TEXT COLLATE SFDC",
    }
}

/// Returns a name as SQL takes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Serial numbers of the objects: how the next id of each is found without asking the table.
pub(crate) type Serials = HashMap<String, u64>;

/// How records are to be written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Save in spite of an alert about duplicates.
    pub(crate) allow_duplicates: bool,
    /// Tell the fields of the duplicates, not only their ids.
    pub(crate) duplicate_details: bool,
    /// Let assignment rules name the owner.
    pub(crate) assign: bool,
    /// Cut what is too long for its field, instead of refusing it.
    pub(crate) truncate: bool,
}

/// A hand on the org's records, inside one transaction.
pub(crate) struct Store<'o> {
    /// What the caller sees.
    pub(crate) schema: &'o Schema,
    /// All there is.
    pub(crate) all: &'o Schema,
    /// Scheme, host and port of the org.
    pub(crate) server: &'o str,
    pub(crate) connection: &'o Connection,
    pub(crate) serials: &'o mut Serials,
    pub(crate) user: &'o str,
    pub(crate) bound: Bound<'o>,
    /// True while one half of a person follows the other.
    pub(crate) mirroring: bool,
    pub(crate) now: String,
    pub(crate) chaos: &'o Chaos,
    pub(crate) username: &'o str,
    pub(crate) options: Options,
    pub(crate) rules: &'o [crate::definition::DuplicateRule],
    pub(crate) locks: &'o Locks,
    /// Records, and their parents, that the transaction holds.
    pub(crate) touched: Vec<String>,
    /// True once a record was met that another transaction holds.
    pub(crate) contended: bool,
    /// Objects whose changes are published; `*` for all.
    pub(crate) selected: &'o [String],
    /// Channels, which may add fields to what is published.
    pub(crate) channels: &'o [Arc<Channel>],
    pub(crate) schemas: &'o Schemas,
    /// What happens when records are saved.
    pub(crate) automation: &'o [crate::automation::Ready],
    /// Saves that led to the one at hand.
    pub(crate) saves: usize,
    /// How much longer than others the transaction takes.
    pub(crate) takes: std::time::Duration,
    /// The user's time zone.
    pub(crate) zone: chrono_tz::Tz,
    /// What is published when the transaction ends well.
    pub(crate) pending: Vec<Pending>,
}

impl Store<'_> {
    /// Runs `write` so that either all of it stays or none.
    pub(crate) fn atomically<T>(&mut self, write: impl FnOnce(&mut Self) -> Answered<T>) -> Answered<T> {
        let connection = self.connection;
        let step = |sql: &str| connection.prepare_cached(sql)?.execute([]).map(drop);
        step("SAVEPOINT record")?;
        let before = self.pending.len();
        let result = write(self);
        if result.is_err() {
            step("ROLLBACK TO record")?;
            self.pending.truncate(before);
        }
        step("RELEASE record")?;
        result
    }

    /// Takes the locks of a record and of the parents in its row.
    fn lock(&mut self, object: &Object, id: Option<&str>, row: &[(&Field, Sql)]) -> Answered<()> {
        let subject = Subject { object: &object.name, user: self.username, ..Subject::default() };
        match self.chaos.strike(subject, |fault| matches!(fault, Fault::Lock | Fault::PartialFailure { .. })) {
            Some(Fault::PartialFailure { code }) => {
                return Err(ApiError::new(400, &code, "this row fails on demand"));
            }
            Some(_) => return Err(contended(id.unwrap_or(&object.prefix))),
            None => {}
        }
        if !self.locks.matter() {
            return Ok(());
        }
        let parents = row.iter().filter_map(|(field, value)| match value {
            Sql::Text(id) if field.kind == Kind::Reference => {
                self.all.by_id(id).filter(|object| !object.setup).map(|_| id.as_str())
            }
            _ => None,
        });
        let ids: Vec<String> = id.into_iter().chain(parents).map(str::to_owned).collect();
        for id in ids {
            if !self.touched.contains(&id) {
                if self.locks.is_held(&id) {
                    self.contended = true;
                    return Err(contended(&id));
                }
                self.touched.push(id);
            }
        }
        Ok(())
    }

    /// Creates a record that the org makes by itself, whatever the caller may do.
    pub(crate) fn insert_as_org(&mut self, object: &Object, values: &Map<String, Value>) -> Answered<String> {
        // What nobody else may give need not be given.
        let opened =
            |field: &Field| Field { createable: true, nillable: field.nillable || !field.createable, ..field.clone() };
        let open: Object =
            Object { fields: object.fields.iter().map(opened).collect(), createable: true, ..object.clone() };
        let seen = std::mem::replace(&mut self.schema, self.all);
        let bound = std::mem::take(&mut self.bound);
        let made = self.insert(&open, values);
        (self.schema, self.bound) = (seen, bound);
        made
    }

    /// Changes a record as the org does by itself, whatever the caller may do.
    pub(crate) fn update_as_org(&mut self, object: &Object, id: &str, values: &Map<String, Value>) -> Answered<()> {
        let seen = std::mem::replace(&mut self.schema, self.all);
        let bound = std::mem::take(&mut self.bound);
        let done = self.update(object, id, values);
        (self.schema, self.bound) = (seen, bound);
        done
    }

    /// Creates a record and returns its id.
    pub(crate) fn insert(&mut self, object: &Object, written: &Map<String, Value>) -> Answered<String> {
        if !object.createable {
            return Err(forbidden());
        }
        let filled = (object.name == PUSH_TOPIC).then(|| with_defaults(written));
        let written = filled.as_ref().unwrap_or(written);
        if object.name == PUSH_TOPIC {
            self.check_topic(written)?;
        }
        let mut row = self.checked(object, written, true)?;
        let person = people::is_person(object, written, None)?;
        let missing: Vec<&str> = object
            .stored()
            .filter(|field| {
                field.required()
                    && !(person && field.name == "Name")
                    && !row.iter().any(|(known, value)| known.name == field.name && *value != Sql::Null)
            })
            .map(|field| field.name.as_str())
            .collect();
        if !missing.is_empty() {
            let mut error = ApiError::new(
                400,
                "REQUIRED_FIELD_MISSING",
                format!("Required fields are missing: [{}]", missing.join(", ")),
            );
            error.fields = missing.iter().map(|name| (*name).to_owned()).collect();
            return Err(error);
        }
        if object.name == "ContentVersion" {
            Self::check_content(&row)?;
        }
        self.check_picklists(object, &row, None)?;
        self.check_uniqueness(object, &row, None)?;
        self.check_duplicates(object, &row, None)?;
        self.lock(object, None, &row)?;
        let serial = self.next_serial(object)?;
        let id = id::make(&object.prefix, serial);
        if object.is_event() {
            let fields = row.iter().filter(|(field, _)| field.custom);
            let fields =
                fields.map(|(field, value)| (field.name.clone(), crate::value::json(field.kind, value.into())));
            self.pending.push(Pending::Platform {
                object: object.name.clone(),
                id: id.clone(),
                fields: fields.collect(),
            });
            return Ok(id);
        }
        for field in object.stored() {
            if row.iter().any(|(known, _)| known.name == field.name) {
                continue;
            }
            if let Some(value) = self.default_of(object, field, serial, &id)? {
                row.push((field, value));
            }
        }
        full_name(object, &mut row, &[]);
        let checks = self.begin_checks(object, None)?;
        let rules = self.automations(object, Save::Create, None)?;
        let files = take_files(object, &mut row, &id)?;
        let columns: Vec<String> = row.iter().map(|(field, _)| quoted(&field.name)).collect();
        let marks = vec!["?"; row.len() + 1].join(",");
        let sql = format!("INSERT INTO {} (_rid,{}) VALUES ({marks})", quoted(&object.name), columns.join(","));
        let serial_value = Sql::Integer(serial.cast_signed());
        let values = std::iter::once(serial_value).chain(row.into_iter().map(|(_, value)| value));
        self.connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        for (field, bytes) in &files {
            self.keep_bytes(&id, field, bytes)?;
        }
        if object.name == "ContentVersion" {
            let bytes = files.first().map_or(&[][..], |(_, bytes)| bytes.as_slice());
            self.complete_content(&id, written, bytes)?;
        }
        if person {
            self.make_person(&id)?;
        }
        self.before_save(object, &id, &rules, true)?;
        self.check_rules(object, &id, &checks)?;
        self.note(object, &id, ChangeKind::Create, &[])?;
        self.after_save(object, &id, &rules, true)?;
        Ok(id)
    }

    /// Changes a record.
    pub(crate) fn update(&mut self, object: &Object, id: &str, values: &Map<String, Value>) -> Answered<()> {
        let id = id::normal(id).filter(|id| id.starts_with(&object.prefix)).ok_or_else(|| malformed_id(id))?;
        self.require_mine(object, &id)?;
        if !object.updateable {
            return Err(forbidden());
        }
        if object.name == PUSH_TOPIC {
            self.check_topic(values)?;
        }
        let mut row = self.checked(object, values, false)?;
        people::is_person(object, values, self.was_person(object, &id)?.or(Some(false)))?;
        if object.name == "Lead" && self.is_converted(&id)? {
            return Err(ApiError::new(400, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead"));
        }
        self.lock(object, Some(&id), &row)?;
        let emptied: Vec<String> = row
            .iter()
            .filter(|(field, value)| {
                *value == Sql::Null && (field.required() || (field.name_field && field.createable && !object.custom))
            })
            .map(|(field, _)| field.name.clone())
            .collect();
        if !emptied.is_empty() {
            let message = format!("Required fields are missing: [{}]", emptied.join(", "));
            return Err(ApiError { fields: emptied, ..ApiError::new(400, "REQUIRED_FIELD_MISSING", message) });
        }
        self.check_picklists(object, &row, Some(&id))?;
        self.check_uniqueness(object, &row, Some(&id))?;
        self.check_duplicates(object, &row, Some(&id))?;
        for (field, bytes) in take_files(object, &mut row, &id)? {
            self.keep_bytes(&id, &field, &bytes)?;
        }
        if row.iter().any(|(field, _)| field.name == "FirstName" || field.name == "LastName") {
            let before = self.names(object, &id)?;
            full_name(object, &mut row, &before);
        }
        for (name, value) in [
            ("LastModifiedDate", &self.now),
            ("SystemModstamp", &self.now),
            ("LastModifiedById", &self.user.to_owned()),
        ] {
            if let Some(field) = object.field(name) {
                row.push((field, Sql::Text(value.clone())));
            }
        }
        let sets: Vec<String> = row.iter().map(|(field, _)| format!("{}=?", quoted(&field.name))).collect();
        let sql = format!("UPDATE {} SET {} WHERE \"Id\"=?", quoted(&object.name), sets.join(","));
        let changed = self.differing(object, &id, &row)?;
        let checks = self.begin_checks(object, Some(&id))?;
        let rules = self.automations(object, Save::Update, Some(&id))?;
        let written: Vec<String> = row.iter().map(|(field, _)| field.name.clone()).collect();
        let values = row.into_iter().map(|(_, value)| value).chain(std::iter::once(Sql::Text(id.clone())));
        self.connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        self.mirror_person(object, &id, &written)?;
        let mut changed = changed;
        changed.extend(self.before_save(object, &id, &rules, false)?.into_iter().map(Changed::whole));
        self.check_rules(object, &id, &checks)?;
        self.note(object, &id, ChangeKind::Update, &changed)?;
        self.after_save(object, &id, &rules, false)
    }

    /// Creates or changes the record whose `key` field holds `value`; returns its id and whether it is new.
    pub(crate) fn upsert(
        &mut self,
        object: &Object,
        key: &Field,
        value: &Value,
        values: &Map<String, Value>,
    ) -> Answered<(String, bool)> {
        let found = self.find_by_key(object, key, value)?;
        match found.as_slice() {
            [] => {
                let mut values = values.clone();
                if key.kind == Kind::Id && *value != Value::Null {
                    return Err(ApiError::new(404, "NOT_FOUND", "The requested resource does not exist"));
                }
                if key.kind != Kind::Id {
                    values.insert(key.name.clone(), value.clone());
                }
                Ok((self.insert(object, &values)?, true))
            }
            [id] => {
                let mut values = values.clone();
                values.retain(|name, _| !name.eq_ignore_ascii_case(&key.name));
                // A parent that can't be changed may still be named in an upsert if it stays the same.
                self.update(object, id, &values)?;
                Ok((id.clone(), false))
            }
            several => Err(ApiError::on(
                &key.name,
                "DUPLICATE_EXTERNAL_ID",
                format!("{}: more than one record found for external id field: [{}]", key.name, several.join(", ")),
            )),
        }
    }

    /// Returns the ids of the live records whose `key` holds `value`.
    pub(crate) fn find_by_key(&self, object: &Object, key: &Field, value: &Value) -> Answered<Vec<String>> {
        let value = coerce(self.all, &Field { targets: Vec::new(), ..key.clone() }, value)?;
        if value == Sql::Null {
            return Ok(Vec::new());
        }
        let alive = if object.setup { "" } else { " AND \"IsDeleted\"=0" };
        let sql = format!("SELECT \"Id\" FROM {} WHERE {}=?{alive} LIMIT 10", quoted(&object.name), quoted(&key.name));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let ids = statement.query_map([value], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(ids)
    }

    /// Moves a record, and what hangs on it, to the recycle bin; `hard` removes it for good.
    pub(crate) fn delete(&mut self, object: &Object, id: &str, hard: bool) -> Answered<()> {
        let id = id::normal(id).filter(|id| id.starts_with(&object.prefix)).ok_or_else(|| malformed_id(id))?;
        if object.setup || !object.deletable {
            return Err(forbidden());
        }
        self.require_mine(object, &id)?;
        if object.name == "Contact" && self.is_half_of_person(&id)? {
            return Err(forbidden());
        }
        self.lock(object, Some(&id), &[])?;
        let rules = self.automations(object, Save::Delete, Some(&id))?;
        self.before_save(object, &id, &rules, false)?;
        self.after_save(object, &id, &rules, false)?;
        self.remove(object, &id, &id, hard, 0)
    }

    fn remove(&mut self, object: &Object, id: &str, root: &str, hard: bool, depth: usize) -> Answered<()> {
        let schema = self.all;
        for (child, field) in schema.children(&object.name).filter(|(child, _)| !child.setup && depth < 8) {
            if field.name == "MasterRecordId" {
                continue;
            }
            let (table, column) = (quoted(&child.name), quoted(&field.name));
            let sql = format!("SELECT \"Id\" FROM {table} WHERE {column}=? AND \"IsDeleted\"=0");
            if field.restrict {
                if self.connection.prepare_cached(&sql)?.exists([id])? {
                    let message = format!(
                        "Your attempt to delete {id} could not be completed because it is associated with the following {}.",
                        child.plural
                    );
                    return Err(ApiError::new(400, "DELETE_FAILED", message));
                }
            } else if field.cascade {
                let ids: Vec<String> = self
                    .connection
                    .prepare_cached(&sql)?
                    .query_map([id], |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                for id in ids {
                    self.remove(child, &id, root, hard, depth + 1)?;
                }
            } else if field.nillable {
                let sql = format!(
                    "UPDATE {table} SET {column}=NULL, \"SystemModstamp\"=?, \"LastModifiedDate\"=? WHERE {column}=?"
                );
                self.connection.prepare_cached(&sql)?.execute([&self.now, &self.now, id])?;
            }
        }
        self.note(object, id, ChangeKind::Delete, &[])?;
        if hard {
            self.purge_row(object, id)
        } else {
            self.mark(object, id, true)?;
            let sql = "INSERT OR REPLACE INTO _bin (id, object, root) VALUES (?,?,?)";
            self.connection.prepare_cached(sql)?.execute([id, &object.name, root])?;
            Ok(())
        }
    }

    /// Merges records into another: what hangs on them hangs on the winner then, and they go to the recycle bin, where
    /// `MasterRecordId` names it. At most two at a time. Source: SOAP API guide, `merge()`.
    pub(crate) fn merge(&mut self, winner: &str, losers: &[&str]) -> Answered<()> {
        let normal = |id: &str| id::normal(id).ok_or_else(|| malformed_id(id));
        let winner = normal(winner)?;
        let object = self.all.by_id(&winner).filter(|object| object.field("MasterRecordId").is_some());
        let object = object.ok_or_else(|| {
            ApiError::new(400, "INVALID_OPERATION", "only accounts, contacts, leads and cases can be merged")
        })?;
        if losers.is_empty() || losers.len() > 2 {
            return Err(ApiError::new(400, "INVALID_OPERATION", "one or two records can be merged into another"));
        }
        self.require_alive(object, &winner)?;
        for loser in losers {
            let loser = normal(loser)?;
            if loser == winner || !loser.starts_with(&object.prefix) {
                let message = format!("{loser} can't be merged into {winner}");
                return Err(ApiError::new(400, "INVALID_OPERATION", message));
            }
            self.require_alive(object, &loser)?;
            self.lock(object, Some(&loser), &[])?;
            for (child, field) in self.all.children(&object.name).filter(|(child, _)| !child.setup) {
                if field.name != "MasterRecordId" {
                    let sql = format!(
                        "UPDATE {0} SET {1}=?1, \"SystemModstamp\"=?3, \"LastModifiedDate\"=?3 WHERE {1}=?2 AND \"IsDeleted\"=0",
                        quoted(&child.name),
                        quoted(&field.name)
                    );
                    self.connection.prepare_cached(&sql)?.execute([&winner, &loser, &self.now])?;
                }
            }
            let sql = format!("UPDATE {} SET \"MasterRecordId\"=? WHERE \"Id\"=?", quoted(&object.name));
            self.connection.prepare_cached(&sql)?.execute([&winner, &loser])?;
            self.remove(object, &loser, &loser, false, 0)?;
        }
        self.mark(object, &winner, false)
    }

    /// Returns the records that hang on others, by their ids.
    pub(crate) fn children_of(&self, ids: &[&str]) -> Answered<Vec<String>> {
        let mut found = Vec::new();
        for id in ids.iter().filter_map(|id| id::normal(id)) {
            let Some(object) = self.all.by_id(&id) else { continue };
            let children = self.all.children(&object.name).filter(|(child, _)| !child.setup);
            for (child, field) in children.filter(|(_, field)| field.name != "MasterRecordId") {
                let sql = format!(
                    "SELECT \"Id\" FROM {} WHERE {}=? AND \"IsDeleted\"=0",
                    quoted(&child.name),
                    quoted(&field.name)
                );
                let mut statement = self.connection.prepare_cached(&sql)?;
                let ids = statement.query_map([&id], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
                found.extend(ids);
            }
        }
        Ok(found)
    }

    fn mark(&self, object: &Object, id: &str, deleted: bool) -> Answered<()> {
        let sql = format!(
            "UPDATE {} SET \"IsDeleted\"=?, \"SystemModstamp\"=?, \"LastModifiedDate\"=?, \"LastModifiedById\"=? \
             WHERE \"Id\"=?",
            quoted(&object.name)
        );
        let values = rusqlite::params![deleted, self.now, self.now, self.user, id];
        self.connection.prepare_cached(&sql)?.execute(values)?;
        Ok(())
    }

    fn purge_row(&self, object: &Object, id: &str) -> Answered<()> {
        let sql = format!("DELETE FROM {} WHERE \"Id\"=?", quoted(&object.name));
        self.connection.prepare_cached(&sql)?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM _bin WHERE id=?")?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM _blob WHERE id=?")?.execute([id])?;
        Ok(())
    }

    /// Returns what a delete put into the recycle bin together with a record, the record first.
    fn binned(&self, id: &str) -> Answered<Vec<(String, String)>> {
        let id = id::normal(id).ok_or_else(|| malformed_id(id))?;
        let mut statement =
            self.connection.prepare_cached("SELECT id, object FROM _bin WHERE root=?1 ORDER BY id<>?1, id")?;
        let found = statement.query_map([&id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let found: Vec<(String, String)> = found.collect::<rusqlite::Result<_>>()?;
        if found.first().is_some_and(|(first, _)| *first == id) {
            Ok(found)
        } else {
            Err(ApiError::new(400, "UNDELETE_FAILED", "Entity is not in the recycle bin"))
        }
    }

    /// Brings a record back from the recycle bin, with all that was deleted along with it.
    pub(crate) fn undelete(&mut self, id: &str) -> Answered<()> {
        for (id, object) in self.binned(id)? {
            let object = self.all.object(&object).ok_or_else(ApiError::not_found)?;
            self.mark(object, &id, false)?;
            self.connection.prepare_cached("DELETE FROM _bin WHERE id=?")?.execute([&id])?;
            self.note(object, &id, ChangeKind::Undelete, &[])?;
        }
        Ok(())
    }

    /// Removes a record from the recycle bin for good, with all that was deleted along with it.
    pub(crate) fn purge(&mut self, id: &str) -> Answered<()> {
        for (id, object) in self.binned(id)? {
            let object = self.all.object(&object).ok_or_else(ApiError::not_found)?;
            self.purge_row(object, &id)?;
        }
        Ok(())
    }

    /// Checks that the record is there and not in the recycle bin.
    /// Refuses a record that is not there, that the user does not see, or may not change.
    fn require_mine(&self, object: &Object, id: &str) -> Answered<()> {
        self.require_alive(object, id)?;
        let unseen = ApiError::new(404, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id");
        for (user, wish, error) in
            [(self.bound.seeing, Wish::See, unseen), (self.bound.changing, Wish::Change, forbidden())]
        {
            let condition = user.and_then(|user| sharing::condition(self.all, object, user, wish));
            let Some(condition) = condition else { continue };
            let sql = format!("SELECT 1 FROM {} WHERE \"Id\"=? AND {condition}", quoted(&object.name));
            if !self.connection.prepare_cached(&sql)?.exists([id])? {
                return Err(error);
            }
        }
        Ok(())
    }

    fn require_alive(&self, object: &Object, id: &str) -> Answered<()> {
        let deleted = if object.setup { "0" } else { "\"IsDeleted\"" };
        let sql = format!("SELECT {deleted} FROM {} WHERE \"Id\"=?", quoted(&object.name));
        let found: Option<bool> = self.connection.prepare_cached(&sql)?.query_row([id], |row| row.get(0)).optional()?;
        match found {
            Some(false) => Ok(()),
            Some(true) => Err(ApiError::new(404, "ENTITY_IS_DELETED", "entity is deleted")),
            None => Err(ApiError::new(404, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")),
        }
    }

    /// Checks the values of a record against the fields they are for.
    fn checked<'s>(
        &self,
        object: &'s Object,
        values: &Map<String, Value>,
        inserting: bool,
    ) -> Answered<Vec<(&'s Field, Sql)>> {
        let mut row: Vec<(&Field, Sql)> = Vec::with_capacity(values.len());
        for (name, value) in values {
            if name == "attributes" || (name.eq_ignore_ascii_case("id") && value.is_null()) {
                continue;
            }
            let Some(field) = object.field(name) else {
                row.push(self.by_external_id(object, name, value)?);
                continue;
            };
            let writable = if inserting { field.createable } else { field.updateable };
            if field.kind == Kind::Id && inserting {
                let message = "cannot specify Id in an insert call";
                return Err(ApiError::on("Id", "INVALID_FIELD_FOR_INSERT_UPDATE", message));
            }
            if !writable {
                let message = format!(
                    "Unable to create/update fields: {}. Please check the security settings of this field and verify \
                     that it is read/write for your profile or permission set.",
                    field.name
                );
                return Err(ApiError::on(&field.name, "INVALID_FIELD_FOR_INSERT_UPDATE", message));
            }
            let plain = field.kind.textual() && field.length > 0 && field.targets.is_empty() && field.values.is_empty();
            let cut = value.as_str().filter(|_| self.options.truncate && plain && field.kind != Kind::Id);
            let cut = cut.map(|text| Value::from(text.chars().take(field.length as usize).collect::<String>()));
            let value = coerce(self.all, field, cut.as_ref().unwrap_or(value))?;
            self.check_reference(object, field, &value)?;
            // A checkbox and a field with a default take their default for an explicit null on insert.
            if value == Sql::Null && field.kind == Kind::Boolean {
                continue;
            }
            row.retain(|(known, _)| known.name != field.name);
            row.push((field, value));
        }
        Ok(row)
    }

    /// Resolves `"Account": {"Ext__c": "A-1"}` to the id of the parent.
    fn by_external_id<'s>(&self, object: &'s Object, name: &str, value: &Value) -> Answered<(&'s Field, Sql)> {
        let unknown = || {
            let message = format!("No such column '{name}' on sobject of type {}", object.name);
            ApiError::new(400, "INVALID_FIELD", message)
        };
        let field = object.parent(name).ok_or_else(unknown)?;
        if value.is_null() {
            return Ok((field, Sql::Null));
        }
        let parts = value.as_object().ok_or_else(unknown)?;
        let wanted = parts.get("attributes").and_then(|attributes| attributes["type"].as_str());
        let target = wanted.map_or_else(|| field.targets.last().map(String::as_str), Some).unwrap_or_default();
        let parent = self.schema.object(target).ok_or_else(unknown)?;
        let (key, value) = parts.iter().find(|(name, _)| *name != "attributes").ok_or_else(unknown)?;
        let key = parent.field(key).filter(|key| key.id_lookup).ok_or_else(|| {
            let message = format!("{key} is not an External ID or indexed field for {}", parent.name);
            ApiError::new(400, "INVALID_FIELD", message)
        })?;
        match self.find_by_key(parent, key, value)?.as_slice() {
            [id] => Ok((field, Sql::Text(id.clone()))),
            [] => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_lowercase);
                let message = format!(
                    "Foreign key external ID: {value} not found for field {} in entity {}",
                    key.name, parent.name
                );
                Err(ApiError::new(400, "INVALID_FIELD", message))
            }
            ids => {
                let message =
                    format!("{}: more than one record found for external id field: [{}]", key.name, ids.join(", "));
                Err(ApiError::on(&field.name, "DUPLICATE_EXTERNAL_ID", message))
            }
        }
    }

    fn check_uniqueness(&self, object: &Object, row: &[(&Field, Sql)], own: Option<&str>) -> Answered<()> {
        for (field, value) in row.iter().filter(|(field, value)| field.unique && *value != Sql::Null) {
            let alive = if object.setup { "" } else { " AND \"IsDeleted\"=0" };
            let sql = format!(
                "SELECT \"Id\" FROM {} WHERE {}=?1{alive} AND \"Id\" IS NOT ?2 LIMIT 1",
                quoted(&object.name),
                quoted(&field.name)
            );
            let holder: Option<String> = self
                .connection
                .prepare_cached(&sql)?
                .query_row(rusqlite::params![value, own], |row| row.get(0))
                .optional()?;
            if let Some(holder) = holder {
                let message = format!(
                    "duplicate value found: {} duplicates value on record with id: {}",
                    field.name,
                    &holder[..15]
                );
                return Err(ApiError::new(400, "DUPLICATE_VALUE", message));
            }
        }
        Ok(())
    }

    fn next_serial(&mut self, object: &Object) -> Answered<u64> {
        let last = match self.serials.get(&object.name) {
            Some(last) => *last,
            None => self
                .connection
                .query_row("SELECT seq FROM sqlite_sequence WHERE name=?", [&object.name], |row| row.get::<_, i64>(0))
                .optional()?
                .unwrap_or_default()
                .cast_unsigned(),
        };
        self.serials.insert(object.name.clone(), last + 1);
        Ok(last + 1)
    }

    fn default_of(&self, object: &Object, field: &Field, serial: u64, id: &str) -> Answered<Option<Sql>> {
        let text = |text: &str| Some(Sql::Text(text.to_owned()));
        if let Some(format) = &field.auto_number {
            return Ok(Some(Sql::Text(auto_number(format, serial))));
        }
        if field.kind == Kind::Base64 {
            return Ok(None);
        }
        Ok(match field.name.as_str() {
            "Id" => text(id),
            "CreatedDate" | "LastModifiedDate" | "SystemModstamp" => text(&self.now),
            "CreatedById" | "LastModifiedById" | "OwnerId" => text(self.user),
            "Name" if field.defaulted && field.createable => text(id),
            _ => match (&field.default, field.values.iter().find(|value| value.default)) {
                (_, Some(value)) => text(&value.value),
                (Some(default), None) if field.kind == Kind::Boolean => {
                    Some(Sql::Integer(i64::from(default == "true")))
                }
                (Some(default), None) if field.createable => return self.default_value(object, field, default),
                _ => None,
            },
        })
    }

    fn names(&self, object: &Object, id: &str) -> Answered<Vec<(String, String)>> {
        let sql = format!("SELECT \"FirstName\", \"LastName\" FROM {} WHERE \"Id\"=?", quoted(&object.name));
        let names: [Option<String>; 2] = self.connection.query_row(&sql, [id], |row| Ok([row.get(0)?, row.get(1)?]))?;
        let [first, last] = names.map(Option::unwrap_or_default);
        Ok(vec![("FirstName".to_owned(), first), ("LastName".to_owned(), last)])
    }
}

/// Sets the read-only name of a person from its parts; parts that the row lacks come from `before`.
fn full_name<'s>(object: &'s Object, row: &mut Vec<(&'s Field, Sql)>, before: &[(String, String)]) {
    let last = row.iter().find(|(field, _)| field.name == "LastName").is_some_and(|(_, value)| *value != Sql::Null);
    let has_last = object.field("LastName").is_some() && (last || !before.is_empty() || !object.may_be_person());
    let Some(name) = object.field("Name").filter(|_| has_last) else {
        return;
    };
    let part = |wanted: &str| {
        row.iter()
            .find(|(field, _)| field.name == wanted)
            .map(|(_, value)| if let Sql::Text(text) = value { text.clone() } else { String::new() })
            .or_else(|| before.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.clone()))
            .unwrap_or_default()
    };
    let full = format!("{} {}", part("FirstName"), part("LastName")).trim().to_owned();
    row.push((name, Sql::Text(full)));
}

/// Fills the number into a display format such as `A-{0000}`.
fn auto_number(format: &str, serial: u64) -> String {
    let Some((before, rest)) = format.split_once('{') else { return serial.to_string() };
    let Some((zeros, after)) = rest.split_once('}') else { return serial.to_string() };
    format!("{before}{serial:0width$}{after}", width = zeros.len())
}

/// Takes the files out of a row and puts their paths in their place.
fn take_files(object: &Object, row: &mut [(&Field, Sql)], id: &str) -> Answered<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (field, value) in row.iter_mut().filter(|(field, _)| field.kind == Kind::Base64) {
        if let Sql::Text(text) = value {
            files.push((field.name.clone(), content::decode(text)?));
            *text = content::path(object, id, &field.name);
        }
    }
    Ok(files)
}

/// The refusal of what the caller may not do with an object.
fn forbidden() -> ApiError {
    ApiError::new(403, "INSUFFICIENT_ACCESS_OR_READONLY", "insufficient access rights on object id")
}

/// The refusal of something that is no id of the object.
pub(crate) fn malformed_id(id: &str) -> ApiError {
    let message = format!("Provided external ID field does not exist or is not accessible: {id}");
    ApiError::new(404, "NOT_FOUND", message)
}
