//! What two-way syncs need: rows by key, writes that hold only where a row is as it was read, new keys, and triggers that
//! tell of changes.

use std::collections::HashMap;

use endpoint::{CHANGES, Captured, Error, Guarded, Read, Result, Revision, Target, Window};
use model::{ChangeBatch, Class, Entity, Outcome, Type};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params_from_iter};

use super::sink::refusal;
use super::{convert, failed};
use crate::rows::{Rows, is_as_read};
use crate::sql;

/// How long noted changes are kept, in days; a sync that did not run for longer has to read everything (`--full`).
const KEPT_DAYS: u32 = 30;
/// Keys bound in one statement; SQLite takes 32,766.
const KEYS: usize = 8_000;

/// Reads the rows whose `key` is one of `keys`, with `fields` as columns.
pub(super) fn fetch(
    db: &Connection,
    entity: &Entity,
    fields: &[String],
    key: &str,
    keys: &[String],
    filter: Option<&str>,
) -> Result<ChangeBatch> {
    let what = || format!("cannot read {}", entity.name);
    let schema = entity.schema(fields.iter().map(String::as_str));
    let schema = schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", entity.name)))?;
    let kinds: Vec<Type> = fields.iter().filter_map(|name| entity.field(name)).map(|field| field.kind).collect();
    let mut table = Rows::new(schema, &kinds);
    for keys in keys.chunks(KEYS) {
        let marks = vec!["?"; keys.len()].join(", ");
        let sql = format!(
            "SELECT {} FROM {} WHERE {} IN ({marks}){}",
            sql::list(fields),
            sql::table(&entity.name),
            sql::name(key),
            filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default()
        );
        let mut statement = db.prepare(&sql).map_err(failed(what()))?;
        let mut rows = statement.query(params_from_iter(keys)).map_err(failed(what()))?;
        while let Some(row) = rows.next().map_err(failed(what()))? {
            let cells = (0..kinds.len()).map(|index| Ok(convert::text(row.get_ref(index)?)));
            let cells = cells.collect::<rusqlite::Result<Vec<_>>>().map_err(failed(what()))?;
            table.add(&cells, || format!("row {}", cells.first().cloned().flatten().unwrap_or_default()));
        }
    }
    table.finish(None).map_err(|error| Error::new(Class::Internal, what()).caused_by(error))
}

/// Makes changes where rows are as they were read. The write lock is taken first: nobody changes a row between the look at
/// it and the write.
pub(super) fn revise(db: &mut Connection, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
    let what = || format!("cannot write to {}", target.entity.name);
    let table = sql::table(&target.entity.name);
    let schema = changes.records.schema();
    let place = schema.index_of(&target.key);
    let place = place.map_err(|error| Error::new(Class::Internal, "the batch has no key").caused_by(error))?;
    let keys: Vec<String> = (0..changes.revisions.len())
        .map(|row| model::text_of(changes.records.column(place).as_ref(), row).unwrap_or_default().into_owned())
        .collect();
    let compared: Vec<String> = changes.expected.schema().fields().iter().map(|field| field.name().clone()).collect();
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(what()))?;
    let mut fields = vec![target.key.clone()];
    fields.extend(compared.iter().filter(|name| **name != target.key).cloned());
    let there = fetch(&transaction, &target.entity, &fields, &target.key, &keys, None)?.records;
    let rows: HashMap<String, usize> = (0..there.num_rows())
        .map(|row| (model::text_of(there.column(0).as_ref(), row).unwrap_or_default().into_owned(), row))
        .collect();
    let mut outcomes = Vec::with_capacity(keys.len());
    for (row, key) in keys.iter().enumerate() {
        let found = rows.get(key).copied();
        let value = |column: usize| convert::value(changes.records.column(column).as_ref(), row);
        let columns = &changes.written[row];
        let names: Vec<String> = columns.iter().map(|column| schema.field(*column).name().clone()).collect();
        let as_read = found.is_some_and(|found| is_as_read(changes, row, &there, found));
        let (sql, values): (String, Vec<Value>) = match (changes.revisions[row], found) {
            (Revision::Insert, Some(_)) | (Revision::Update, None) => {
                outcomes.push(Outcome::Moved);
                continue;
            }
            (Revision::Delete, None) => {
                outcomes.push(Outcome::Unchanged);
                continue;
            }
            (Revision::Update | Revision::Delete, Some(_)) if !as_read => {
                outcomes.push(Outcome::Moved);
                continue;
            }
            (Revision::Insert, None) => {
                let marks = vec!["?"; names.len()].join(", ");
                let sql = format!("INSERT INTO {table} ({}) VALUES ({marks})", sql::list(&names));
                (sql, columns.iter().map(|column| value(*column)).collect())
            }
            (Revision::Update, Some(_)) => {
                let set = names.iter().map(|name| format!("{} = ?", sql::name(name))).collect::<Vec<_>>().join(", ");
                let sql = format!("UPDATE {table} SET {set} WHERE {} = ?", sql::name(&target.key));
                (sql, columns.iter().map(|column| value(*column)).chain([value(place)]).collect())
            }
            (Revision::Delete, Some(_)) => {
                (format!("DELETE FROM {table} WHERE {} = ?", sql::name(&target.key)), vec![value(place)])
            }
        };
        let done =
            transaction.prepare_cached(&sql).and_then(|mut statement| statement.execute(params_from_iter(values)));
        outcomes.push(match done {
            Ok(_) => Outcome::Applied { created: changes.revisions[row] == Revision::Insert, id: None },
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Outcome::Refused(refusal(&error))
            }
            Err(error) => return Err(failed(what())(error)),
        });
    }
    transaction.commit().map_err(failed(what()))?;
    Ok(outcomes)
}

/// Returns keys that no row has: numbers behind the largest there is or ever was, or random texts.
pub(super) fn new_keys(db: &mut Connection, entity: &Entity, key: &str, count: usize) -> Result<Vec<String>> {
    let what = || format!("cannot find new keys for {}", entity.name);
    let kind = entity.field(key).map(|field| field.kind);
    match kind {
        Some(Type::Integer) => {
            // Keys that were given and not written yet are kept in mind, as AUTOINCREMENT keeps those of rows that are gone.
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(what()))?;
            transaction
                .execute_batch(
                    "CREATE TABLE IF NOT EXISTS bridgehead_keys (entity TEXT PRIMARY KEY, last INTEGER NOT NULL)",
                )
                .map_err(failed(what()))?;
            let sql = format!(
                "SELECT max(coalesce((SELECT max({}) FROM {}), 0), coalesce((SELECT last FROM bridgehead_keys WHERE entity = ?1), 0))",
                sql::name(key),
                sql::table(&entity.name)
            );
            let last: i64 = transaction.query_row(&sql, [&entity.name], |row| row.get(0)).map_err(failed(what()))?;
            let next = last + count as i64;
            let sql =
                "INSERT INTO bridgehead_keys VALUES (?1, ?2) ON CONFLICT (entity) DO UPDATE SET last = excluded.last";
            transaction.execute(sql, rusqlite::params![entity.name, next]).map_err(failed(what()))?;
            transaction.commit().map_err(failed(what()))?;
            Ok((last + 1..=next).map(|key| key.to_string()).collect())
        }
        Some(Type::Text) => {
            // Twenty characters: what an external id most often has room for.
            let random = "SELECT lower(hex(randomblob(10)))";
            let mut statement = db.prepare(random).map_err(failed(what()))?;
            (0..count).map(|_| statement.query_row([], |row| row.get(0)).map_err(failed(what()))).collect()
        }
        _ => Err(Error::new(
            Class::Mapping,
            format!("{} {key} is neither a number nor a text: no new key can be made for it", entity.name),
        )),
    }
}

/// Makes triggers that note the key of every row that changes. SQLite has one writer at a time, so that the numbers of changes
/// come in the order of their transactions.
pub(super) fn capture(db: &Connection, entity: &Entity, key: &str) -> Result<()> {
    let (table, key) = (sql::table(&entity.name), sql::name(key));
    let name = |event: &str| sql::name(&trigger(entity, event));
    let note = |row: &str| {
        format!("INSERT INTO {CHANGES} (entity, key) VALUES ({}, {row}.{key});", sql::literal(&entity.name))
    };
    let sql = format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS {CHANGES} (seq INTEGER PRIMARY KEY AUTOINCREMENT, entity TEXT NOT NULL, key,
                                               at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
         CREATE INDEX IF NOT EXISTS {CHANGES}_entity ON {CHANGES} (entity, seq);
         CREATE TRIGGER IF NOT EXISTS {} AFTER INSERT ON {table} BEGIN {} END;
         CREATE TRIGGER IF NOT EXISTS {} AFTER UPDATE ON {table} BEGIN {} {} END;
         CREATE TRIGGER IF NOT EXISTS {} AFTER DELETE ON {table} BEGIN {} END;
         DELETE FROM {CHANGES} WHERE at < datetime('now', '-{KEPT_DAYS} days');
         COMMIT",
        name("insert"),
        note("NEW"),
        name("update"),
        note("OLD"),
        note("NEW"),
        name("delete"),
        note("OLD"),
    );
    db.execute_batch(&sql).map_err(failed(format!("cannot make triggers on {}", entity.name)))
}

/// Returns the number behind the newest noted change.
pub(super) fn next_change(db: &Connection) -> Result<String> {
    let sql = format!("SELECT CAST(coalesce(max(seq), 0) + 1 AS TEXT) FROM {CHANGES}");
    db.query_row(&sql, [], |row| row.get(0)).map_err(failed("cannot read the noted changes"))
}

/// Reads the keys that were noted from one number to another.
pub(super) fn noted(db: &Connection, entity: &str, since: &str, until: &str) -> Result<Vec<String>> {
    let what = || format!("cannot read the noted changes of {entity}");
    let window = Window { since: Some(since.to_owned()), until: until.to_owned() };
    let sql = format!("SELECT DISTINCT CAST(key AS TEXT) FROM {CHANGES} c WHERE {}", sql::noted(entity, &window));
    let mut statement = db.prepare(&sql).map_err(failed(what()))?;
    let keys = statement.query_map([], |row| row.get::<_, Option<String>>(0)).map_err(failed(what()))?;
    let keys: rusqlite::Result<Vec<Option<String>>> = keys.collect();
    Ok(keys.map_err(failed(what()))?.into_iter().flatten().collect())
}

/// Reads the keys of rows that were deleted in a window.
pub(super) fn deleted(db: &Connection, read: &Read) -> Result<ChangeBatch> {
    let what = || format!("cannot read what was deleted from {}", read.entity.name);
    let key = read.fields.first().cloned().unwrap_or_default();
    let window = read.window.clone().unwrap_or(Window { since: None, until: i64::MAX.to_string() });
    let sql = format!(
        "SELECT DISTINCT key FROM {CHANGES} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} t WHERE t.{} = c.key)",
        sql::noted(&read.entity.name, &window),
        sql::table(&read.entity.name),
        sql::name(&key)
    );
    let schema = read.entity.schema([key.as_str()]);
    let schema =
        schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", read.entity.name)))?;
    let kind = read.entity.field(&key).map_or(Type::Text, |field| field.kind);
    let mut table = Rows::new(schema, &[kind]);
    let mut statement = db.prepare(&sql).map_err(failed(what()))?;
    let mut rows = statement.query([]).map_err(failed(what()))?;
    while let Some(row) = rows.next().map_err(failed(what()))? {
        let cells = [convert::text(row.get_ref(0).map_err(failed(what()))?)];
        table.add(&cells, || "a deleted row".to_owned());
    }
    let batch = table.finish(None).map_err(|error| Error::new(Class::Internal, what()).caused_by(error))?;
    Ok(ChangeBatch::deletes(batch.records, None))
}

fn trigger(entity: &Entity, event: &str) -> String {
    format!("bridgehead_{}_{event}", entity.name)
}

/// Says whether there are triggers on an entity.
pub(super) fn captured(db: &Connection, entity: &Entity) -> Result<Option<Captured>> {
    let name = trigger(entity, "update");
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name = ?1";
    let found: i64 = db
        .query_row(sql, [&name], |row| row.get(0))
        .map_err(failed(format!("cannot look at the triggers on {}", entity.name)))?;
    Ok((found > 0).then_some(Captured { name, kept_bytes: None, trouble: None }))
}

/// Removes the triggers on an entity and its notes.
pub(super) fn release(db: &Connection, entity: &Entity) -> Result<()> {
    let drop = |event: &str| format!("DROP TRIGGER IF EXISTS {};", sql::name(&trigger(entity, event)));
    let sql = format!(
        "BEGIN IMMEDIATE; {} {} {} DELETE FROM {CHANGES} WHERE entity = {}; COMMIT",
        drop("insert"),
        drop("update"),
        drop("delete"),
        sql::literal(&entity.name)
    );
    db.execute_batch(&sql).map_err(failed(format!("cannot remove the triggers on {}", entity.name)))
}
