//! What two-way syncs need: rows by key, writes that hold only where a row is as it was read, and new keys.

use std::collections::{BTreeMap, HashMap};

use endpoint::{CHANGES, Captured, Error, Guarded, Read, Result, Revision, Target, Window};
use futures::TryStreamExt as _;
use model::{ChangeBatch, Class, Entity, Outcome, RecordError, Type, text_of};
use tokio_postgres::Transaction;

use super::sink::refusal;
use super::{Postgres, class, convert, failed};
use crate::rows::{Rows, is_as_read};
use crate::sql;

/// How long noted changes are kept, in days; a sync that did not run for longer has to read everything (`--full`).
const KEPT_DAYS: u32 = 30;
/// Keys named in one statement.
const KEYS: usize = 5_000;
/// Rows written by one statement.
const ROWS: usize = 500;

/// Writes the condition that a key is one of these; texts that can't be keys of this type are none.
fn one_of(entity: &Entity, key: &str, keys: &[String]) -> String {
    let name = sql::name(key);
    let list = |keys: &mut dyn Iterator<Item = String>| keys.collect::<Vec<_>>().join(", ");
    let (left, list) = match entity.field(key).map(|field| field.kind) {
        Some(Type::Integer) => {
            (name, list(&mut keys.iter().filter_map(|key| key.parse::<i64>().ok()).map(|key| key.to_string())))
        }
        Some(Type::Text) if entity.field(key).is_some_and(|field| field.native != "uuid") => {
            (name, list(&mut keys.iter().map(|key| sql::literal(key))))
        }
        _ => (format!("{name}::text"), list(&mut keys.iter().map(|key| sql::literal(key)))),
    };
    if list.is_empty() { "false".to_owned() } else { format!("{left} IN ({list})") }
}

/// Returns the name of the trigger on a table.
fn trigger(entity: &str) -> String {
    format!("bridgehead_{}", entity.replace('.', "_"))
}

/// Writes a table as the catalog knows it.
fn regclass(entity: &str) -> String {
    format!("{}::regclass", sql::literal(&sql::table(entity)))
}

async fn fetch(
    client: &Transaction<'_>,
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
    let mut cells = Vec::new();
    for keys in keys.chunks(KEYS) {
        let sql = format!(
            "COPY (SELECT {} FROM {} WHERE {}{}) TO STDOUT",
            sql::list(fields),
            sql::table(&entity.name),
            one_of(entity, key, keys),
            filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default()
        );
        let stream = client.copy_out(&sql).await.map_err(failed(what()))?;
        let mut stream = std::pin::pin!(stream);
        while let Some(line) = stream.try_next().await.map_err(failed(what()))? {
            convert::cells(line.strip_suffix(b"\n").unwrap_or(&line), &mut cells);
            table.add(&cells, || format!("row {}", cells.first().cloned().flatten().unwrap_or_default()));
        }
    }
    table.finish(None).map_err(|error| Error::new(Class::Internal, what()).caused_by(error))
}

/// Rows that are written alike: the same revision of the same columns.
type Alike = BTreeMap<(u8, Vec<usize>), Vec<usize>>;

impl Postgres {
    pub(super) async fn by_key(
        &self,
        entity: &Entity,
        fields: &[String],
        key: &str,
        keys: &[String],
        filter: Option<&str>,
    ) -> Result<ChangeBatch> {
        let mut client = self.borrow().await?;
        let transaction = client.client()?.transaction().await;
        let transaction = transaction.map_err(failed(format!("cannot read {}", entity.name)))?;
        fetch(&transaction, entity, fields, key, keys, filter).await
    }

    /// Makes changes where rows are as they were read. They are locked first: nobody changes a row between the look at it
    /// and the write.
    pub(super) async fn revised(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        let what = || format!("cannot write to {}", target.entity.name);
        let schema = changes.records.schema();
        let place = schema.index_of(&target.key);
        let place = place.map_err(|error| Error::new(Class::Internal, "the batch has no key").caused_by(error))?;
        let rows = changes.revisions.len();
        let keys: Vec<String> = (0..rows)
            .map(|row| text_of(changes.records.column(place).as_ref(), row).unwrap_or_default().into_owned())
            .collect();
        let mut client = self.borrow().await?;
        let transaction = client.client()?.transaction().await.map_err(failed(what()))?;
        for keys in keys.chunks(KEYS) {
            let lock = format!(
                "SELECT FROM {} WHERE {} ORDER BY {} FOR UPDATE",
                sql::table(&target.entity.name),
                one_of(&target.entity, &target.key, keys),
                sql::name(&target.key)
            );
            transaction.execute(&lock, &[]).await.map_err(failed(what()))?;
        }
        let mut fields = vec![target.key.clone()];
        let compared = changes.expected.schema();
        fields.extend(compared.fields().iter().map(|field| field.name().clone()).filter(|name| *name != target.key));
        let there = fetch(&transaction, &target.entity, &fields, &target.key, &keys, None).await?.records;
        let found: HashMap<String, usize> = (0..there.num_rows())
            .map(|row| (text_of(there.column(0).as_ref(), row).unwrap_or_default().into_owned(), row))
            .collect();
        let mut outcomes = vec![Outcome::Moved; rows];
        let mut alike = Alike::new();
        for (row, key) in keys.iter().enumerate() {
            let found = found.get(key).copied();
            let as_read = found.is_some_and(|found| is_as_read(changes, row, &there, found));
            let kind = match (changes.revisions[row], found) {
                (Revision::Insert, None) => 0,
                (Revision::Update, Some(_)) if as_read => 1,
                (Revision::Delete, Some(_)) if as_read => 2,
                (Revision::Delete, None) => {
                    outcomes[row] = Outcome::Unchanged;
                    continue;
                }
                _ => continue,
            };
            alike.entry((kind, changes.written[row].clone())).or_default().push(row);
        }
        for ((kind, columns), rows) in alike {
            let mut waiting: Vec<&[usize]> = rows.chunks(ROWS).rev().collect();
            while let Some(rows) = waiting.pop() {
                let sql = match statement(target, changes, place, kind, &columns, rows) {
                    Ok(sql) => sql,
                    Err((row, error)) => {
                        outcomes[row] = Outcome::Refused(error);
                        let at = rows.iter().position(|known| *known == row).unwrap_or_default();
                        waiting.extend([&rows[at + 1..], &rows[..at]].into_iter().filter(|rows| !rows.is_empty()));
                        continue;
                    }
                };
                transaction.batch_execute("SAVEPOINT rows").await.map_err(failed(what()))?;
                let answer = transaction.query(&sql, &[]).await;
                let end = if answer.is_ok() { "RELEASE rows" } else { "ROLLBACK TO rows" };
                transaction.batch_execute(end).await.map_err(failed(what()))?;
                match answer {
                    Ok(done) => {
                        let done: std::collections::HashSet<String> = done.iter().map(|row| row.get(0)).collect();
                        for row in rows.iter().filter(|row| done.contains(&keys[**row])) {
                            outcomes[*row] = Outcome::Applied { created: kind == 0, id: None };
                        }
                    }
                    Err(error) if class(&error) == Class::Rejected => {
                        if let [row] = rows {
                            outcomes[*row] = Outcome::Refused(refusal(&error));
                        } else {
                            let (left, right) = rows.split_at(rows.len() / 2);
                            waiting.extend([right, left]);
                        }
                    }
                    Err(error) => return Err(failed(what())(error)),
                }
            }
        }
        transaction.commit().await.map_err(failed(what()))?;
        Ok(outcomes)
    }

    /// Makes triggers that note the key of every row that changes, with the number of the transaction.
    pub(super) async fn noting(&self, entity: &Entity, key: &str) -> Result<()> {
        let failed_here = || failed(format!("cannot make triggers on {}", entity.name));
        let mut client = self.open().await?;
        let schema: String =
            client.query_one("SELECT quote_ident(current_schema())", &[]).await.map_err(failed_here())?.get(0);
        let trigger = sql::name(&trigger(&entity.name));
        let (table, name, key) = (sql::table(&entity.name), sql::literal(&entity.name), sql::literal(key));
        let transaction = client.transaction().await.map_err(failed_here())?;
        // Whoever writes to the table need not know of the notes; two runs that begin at once take turns.
        let sql = format!(
            "SELECT pg_advisory_xact_lock(hashtext('{CHANGES}'));
             CREATE TABLE IF NOT EXISTS {schema}.{CHANGES} (
                 seq bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint, entity text NOT NULL, key text NOT NULL,
                 at timestamptz NOT NULL DEFAULT now());
             CREATE INDEX IF NOT EXISTS {CHANGES}_entity ON {schema}.{CHANGES} (entity, seq);
             CREATE OR REPLACE FUNCTION {schema}.bridgehead_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                 SET search_path = {schema}, pg_temp AS $note$
             BEGIN
                 IF TG_OP <> 'INSERT' THEN
                     INSERT INTO {schema}.{CHANGES} (entity, key) VALUES (TG_ARGV[0], to_jsonb(OLD)->>TG_ARGV[1]);
                 END IF;
                 IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND to_jsonb(OLD)->>TG_ARGV[1] <> to_jsonb(NEW)->>TG_ARGV[1]) THEN
                     INSERT INTO {schema}.{CHANGES} (entity, key) VALUES (TG_ARGV[0], to_jsonb(NEW)->>TG_ARGV[1]);
                 END IF;
                 RETURN NULL;
             END $note$;
             DELETE FROM {schema}.{CHANGES} WHERE at < now() - interval '{KEPT_DAYS} days'"
        );
        transaction.batch_execute(&sql).await.map_err(failed_here())?;
        let known = format!(
            "SELECT 1 FROM pg_trigger WHERE tgrelid = {} AND tgname = {}",
            regclass(&entity.name),
            sql::literal(trigger.trim_matches('"'))
        );
        if transaction.query(&known, &[]).await.map_err(failed_here())?.is_empty() {
            let make = format!(
                "CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW
                 EXECUTE FUNCTION {schema}.bridgehead_note({name}, {key})"
            );
            transaction.batch_execute(&make).await.map_err(failed_here())?;
        }
        transaction.commit().await.map_err(failed_here())
    }

    /// Says whether there are notes of an entity.
    pub(super) async fn notes(&self, entity: &Entity) -> Result<Option<Captured>> {
        let sql = format!("SELECT 1 FROM pg_trigger WHERE tgrelid = {} AND tgname = $1", regclass(&entity.name));
        let found = self.open().await?.query(&sql, &[&trigger(&entity.name)]).await;
        let found = found.map_err(failed(format!("cannot look at the triggers on {}", entity.name)))?;
        let captured = Captured { name: trigger(&entity.name), kept_bytes: None, trouble: None };
        Ok((!found.is_empty()).then_some(captured))
    }

    /// Removes the triggers on an entity and its notes.
    pub(super) async fn stop_noting(&self, entity: &Entity) -> Result<()> {
        let sql = format!(
            "DROP TRIGGER IF EXISTS {} ON {}; DELETE FROM {CHANGES} WHERE entity = {}",
            sql::name(&trigger(&entity.name)),
            sql::table(&entity.name),
            sql::literal(&entity.name)
        );
        let done = self.open().await?.batch_execute(&sql).await;
        done.map_err(failed(format!("cannot remove the triggers on {}", entity.name)))
    }

    /// Returns the number of the oldest transaction that goes on: what those before it noted is all there.
    pub(super) async fn next_change(&self) -> Result<String> {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text";
        let row = self.open().await?.query_one(sql, &[]).await.map_err(failed("cannot read the noted changes"))?;
        Ok(row.get(0))
    }

    /// Reads the keys of rows that were deleted in a window.
    pub(super) async fn deleted(&self, read: &Read) -> Result<ChangeBatch> {
        let what = || format!("cannot read what was deleted from {}", read.entity.name);
        let key = read.fields.first().cloned().unwrap_or_default();
        let window = read.window.clone().unwrap_or(Window { since: None, until: i64::MAX.to_string() });
        let schema = read.entity.schema([key.as_str()]);
        let schema =
            schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", read.entity.name)))?;
        let kind = read.entity.field(&key).map_or(Type::Text, |field| field.kind);
        let sql = format!(
            "SELECT DISTINCT c.key FROM {CHANGES} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} t WHERE t.{}::text = c.key)",
            sql::noted(&read.entity.name, &window),
            sql::table(&read.entity.name),
            sql::name(&key)
        );
        let mut table = Rows::new(schema, &[kind]);
        let client = self.open_for(read).await?;
        for row in client.query(&sql, &[]).await.map_err(failed(what()))? {
            table.add(&[Some(row.get::<_, String>(0))], || "a deleted row".to_owned());
        }
        self.keep(read, client).await;
        let batch = table.finish(None).map_err(|error| Error::new(Class::Internal, what()).caused_by(error))?;
        Ok(ChangeBatch::deletes(batch.records, None))
    }

    /// Returns keys from the key's own sequence, or random ones for texts.
    pub(super) async fn keys(&self, entity: &Entity, key: &str, count: usize) -> Result<Vec<String>> {
        let field = entity.field(key);
        let client = self.open().await?;
        let what = || format!("cannot find new keys for {}", entity.name);
        let sql = match field.map(|field| field.kind) {
            Some(Type::Integer) => {
                let (table, column) = (sql::literal(&sql::table(&entity.name)), sql::literal(key));
                let sequence = format!("SELECT pg_get_serial_sequence({table}, {column})");
                let sequence: Option<String> = client.query_one(&sequence, &[]).await.map_err(failed(what()))?.get(0);
                let sequence = sequence.ok_or_else(|| {
                    let message = format!(
                        "{} {key} has no sequence to take new keys from; make it an identity column, or give Salesforce \
                         records their keys yourself",
                        entity.name
                    );
                    Error::new(Class::Mapping, message)
                })?;
                format!("SELECT nextval({})::text FROM generate_series(1, {count})", sql::literal(&sequence))
            }
            Some(Type::Text) if field.is_some_and(|field| field.native == "uuid") => {
                format!("SELECT gen_random_uuid()::text FROM generate_series(1, {count})")
            }
            Some(Type::Text) => {
                format!("SELECT left(replace(gen_random_uuid()::text, '-', ''), 20) FROM generate_series(1, {count})")
            }
            _ => {
                let message =
                    format!("{} {key} is neither a number nor a text: no new key can be made for it", entity.name);
                return Err(Error::new(Class::Mapping, message));
            }
        };
        Ok(client.query(&sql, &[]).await.map_err(failed(what()))?.iter().map(|row| row.get(0)).collect())
    }
}

/// Writes the statement for rows that are written alike; it answers the keys of what it wrote. `Err` names a row that holds
/// what PostgreSQL can't keep.
fn statement(
    target: &Target,
    changes: &Guarded,
    place: usize,
    kind: u8,
    columns: &[usize],
    rows: &[usize],
) -> std::result::Result<String, (usize, RecordError)> {
    let schema = changes.records.schema();
    let native = |column: usize| {
        let field = target.entity.field(schema.field(column).name());
        convert::unbounded(field.map_or("text", |field| &field.native))
    };
    let used: Vec<usize> =
        std::iter::once(place).chain(columns.iter().copied().filter(|column| *column != place)).collect();
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells = Vec::with_capacity(used.len());
        for column in &used {
            let array = changes.records.column(*column);
            let cell = text_of(array.as_ref(), *row);
            if cell.as_ref().is_some_and(|cell| cell.contains('\0')) {
                let name = schema.field(*column).name();
                let error =
                    RecordError::rejected("NUL_BYTE", format!("{name} holds a NUL, which PostgreSQL can't keep"));
                return Err((*row, error.with_field(name)));
            }
            let binary = *array.data_type() == arrow::datatypes::DataType::Binary;
            cells.push(cell.map_or("NULL".to_owned(), |cell| {
                if binary { sql::literal(&format!("\\x{cell}")) } else { sql::literal(&cell) }
            }));
        }
        values.push(format!("({})", cells.join(", ")));
    }
    let table = sql::table(&target.entity.name);
    let key = sql::name(&target.key);
    let names: Vec<String> = (0..used.len()).map(|at| format!("c{at}")).collect();
    let from = format!("(VALUES {}) AS v({})", values.join(", "), names.join(", "));
    let cast = |at: usize| format!("v.c{at}::text::{}", native(used[at]));
    let named = |at: usize| sql::name(schema.field(used[at]).name());
    Ok(match kind {
        0 => {
            let into = (0..used.len()).map(named).collect::<Vec<_>>().join(", ");
            let selected = (0..used.len()).map(cast).collect::<Vec<_>>().join(", ");
            format!(
                "INSERT INTO {table} AS t ({into}) OVERRIDING SYSTEM VALUE SELECT {selected} FROM {from} \
                 ON CONFLICT ({key}) DO NOTHING RETURNING t.{key}::text"
            )
        }
        1 => {
            let set = (1..used.len()).map(|at| format!("{} = {}", named(at), cast(at))).collect::<Vec<_>>().join(", ");
            format!("UPDATE {table} AS t SET {set} FROM {from} WHERE t.{key} = {} RETURNING t.{key}::text", cast(0))
        }
        _ => format!("DELETE FROM {table} AS t USING {from} WHERE t.{key} = {} RETURNING t.{key}::text", cast(0)),
    })
}
