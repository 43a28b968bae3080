//! Writes rows: those of a table that was empty by COPY, as long as none is there already or refused; all others through a stage,
//! binary COPY in, then one merge. When the merge fails on a row, the rows are halved until the failing ones stand alone.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use arrow::array::{Array as _, ArrayRef};
use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use endpoint::{Error, Guarded, Result, Sink, Target};
use futures::SinkExt as _;
use model::{ChangeBatch, Class, Entity, Field, Op, Outcome, RecordError, text_of};
use tokio_postgres::{CopyInSink, Transaction};

use super::{Postgres, class, convert, failed};
use crate::sql;

/// Bytes sent at a time.
const FRAME_BYTES: usize = 1 << 16;
/// How a binary COPY begins: signature, flags, no extension. Source: PostgreSQL documentation, COPY.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

#[async_trait]
impl Sink for Postgres {
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        let (this, target, changes) = (self.clone(), target.clone(), changes.clone());
        let turn = Arc::clone(&self.writing).lock_owned().await;
        // Apart from whoever asks: rows go on flowing while those behind them are read and mapped.
        let writing = tokio::spawn(async move { this.write_apart(&target, &changes, turn).await });
        let mut writing = AbortOnDrop(writing);
        match (&mut writing.0).await {
            Ok(outcomes) => outcomes,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(Error::new(Class::Internal, "a write ended early").caused_by(error)),
        }
    }

    async fn revise(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        self.revised(target, changes).await
    }

    async fn new_keys(&self, entity: &Entity, key: &str, count: usize) -> Result<Vec<String>> {
        self.keys(entity, key, count).await
    }

    async fn create(&self, entity: &Entity) -> Result<()> {
        let columns = entity.fields.iter().map(|field| {
            let key = if entity.key.contains(&field.name) { " PRIMARY KEY" } else { "" };
            format!("{} {}{key}", sql::name(&field.name), convert::native(field))
        });
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} ({})",
            sql::table(&entity.name),
            columns.collect::<Vec<_>>().join(", ")
        );
        self.open().await?.batch_execute(&sql).await.map_err(failed(format!("cannot create {}", entity.name)))
    }

    async fn add_fields(&self, entity: &Entity, fields: &[Field]) -> Result<()> {
        let columns = fields
            .iter()
            .map(|field| format!("ADD COLUMN IF NOT EXISTS {} {}", sql::name(&field.name), convert::native(field)));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let sql = format!("ALTER TABLE {} {columns}", sql::table(&entity.name));
        let what = format!("cannot add columns to {}", entity.name);
        self.open().await?.batch_execute(&sql).await.map_err(failed(what))
    }
}

/// A task that ends with this value.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Postgres {
    /// Writes in a transaction of its own. The next may begin as soon as all rows of this one are there: what it has to
    /// know of them it waits for.
    async fn write_apart(
        &self,
        target: &Target,
        changes: &ChangeBatch,
        turn: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<Vec<Outcome>> {
        let what = format!("cannot write to {}", target.entity.name);
        let mut client = self.borrow().await?;
        let transaction = client.client()?.transaction().await.map_err(failed(what.as_str()))?;
        let mut merge = Merge::new(target, changes, &transaction)?;
        // Where the key does not stand alone, the same row could come twice and nobody would say so.
        let alone = target.entity.field(&target.key).is_some_and(|field| field.unique);
        if alone && self.is_fresh(&target.entity.name, &transaction).await.map_err(failed(what.as_str()))? {
            if merge.add().await? {
                drop(turn);
                transaction.commit().await.map_err(failed(what))?;
                return Ok(vec![Outcome::Applied { created: true, id: None }; changes.len()]);
            }
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(target.entity.name.clone(), false);
        }
        merge.stage().await?;
        for op in [Op::Upsert, Op::Delete] {
            let rows: Vec<usize> =
                (0..changes.len()).filter(|row| changes.ops[*row] == op && !merge.outcomes.contains_key(row)).collect();
            if !rows.is_empty() {
                merge.apply(op, &rows).await?;
            }
        }
        let outcomes = merge.outcomes;
        transaction.commit().await.map_err(failed(what))?;
        Ok((0..changes.len()).map(|row| outcomes.get(&row).cloned().unwrap_or(Outcome::Unchanged)).collect())
    }

    /// True where a table was empty, and took all that was added since.
    async fn is_fresh(
        &self,
        table: &str,
        transaction: &Transaction<'_>,
    ) -> std::result::Result<bool, tokio_postgres::Error> {
        let known = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).get(table).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let sql = format!("SELECT NOT EXISTS (SELECT FROM {})", sql::table(table));
        let fresh = transaction.query_one(&sql, &[]).await?.get(0);
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(table.to_owned(), fresh);
        Ok(fresh)
    }
}

struct Merge<'m> {
    changes: &'m ChangeBatch,
    transaction: &'m Transaction<'m>,
    what: String,
    /// The table, and its columns in the order of the fields.
    into: String,
    upsert: String,
    delete: String,
    columns: usize,
    outcomes: HashMap<usize, Outcome>,
}

impl<'m> Merge<'m> {
    fn new(target: &Target, changes: &'m ChangeBatch, transaction: &'m Transaction<'m>) -> Result<Self> {
        let schema = changes.records.schema_ref();
        let native = |name: &str| {
            let field = target.entity.field(name);
            field
                .map(|field| field.native.clone())
                .ok_or_else(|| Error::new(Class::Mapping, format!("{} has no column {name}", target.entity.name)))
        };
        let table = sql::table(&target.entity.name);
        let key = sql::name(&target.key);
        let (mut names, mut casts, mut sets, mut differs, mut key_cast) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), String::new());
        for (index, field) in schema.fields().iter().enumerate() {
            let name = sql::name(field.name());
            let native = native(field.name())?;
            let cast = format!("s.c{index}::{}", convert::unbounded(&native));
            if *field.name() == target.key {
                key_cast.clone_from(&cast);
            } else {
                sets.push(format!("{name} = excluded.{name}"));
                // Plain json has no equality of its own.
                let text = if native == "json" { "::text" } else { "" };
                differs.push(format!("t.{name}{text} IS DISTINCT FROM excluded.{name}{text}"));
            }
            names.push(name);
            casts.push(cast);
        }
        let update = if sets.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {} WHERE {}", sets.join(", "), differs.join(" OR "))
        };
        let place = schema
            .index_of(&target.key)
            .map_err(|error| Error::new(Class::Internal, "the batch has no key").caused_by(error))?;
        let from = "FROM bridgehead_stage s WHERE s.n >= $1 AND s.n <= $2 AND s.d = $3";
        // Both answer the row numbers of what they changed: by the key's text as it was sent.
        let upsert = format!(
            "WITH merged AS (INSERT INTO {table} AS t ({}) SELECT {} {from} ORDER BY s.n ON CONFLICT ({key}) DO {update}
                             RETURNING t.{key} AS k, xmax = 0 AS created)
             SELECT s.n, m.created FROM merged m JOIN bridgehead_stage s ON {key_cast} = m.k AND s.d = $3 AND s.n >= $1 AND s.n <= $2",
            names.join(", "),
            casts.join(", ")
        );
        let delete = format!(
            "DELETE FROM {table} t USING bridgehead_stage s WHERE t.{key} = s.c{place}::{} AND s.n >= $1 AND s.n <= $2 AND s.d = $3 RETURNING s.n, false",
            convert::unbounded(&native(&target.key)?)
        );
        let columns = schema.fields().len();
        let what = format!("cannot write to {}", target.entity.name);
        let into = format!("{table} ({})", names.join(", "));
        Ok(Self { changes, transaction, what, into, upsert, delete, columns, outcomes: HashMap::new() })
    }

    /// Copies all rows into the table itself; false where that is not to be done, or the database will not have all of them:
    /// then nothing is there.
    async fn add(&self) -> Result<bool> {
        let nul = |column: &ArrayRef| {
            (0..column.len()).any(|row| text_of(column, row).is_some_and(|text| text.contains('\0')))
        };
        if self.changes.ops.contains(&Op::Delete) || self.changes.records.columns().iter().any(nul) {
            return Ok(false);
        }
        let failed_here = || failed(self.what.clone());
        self.transaction.batch_execute("SAVEPOINT rows").await.map_err(failed_here())?;
        let added = self.copied().await;
        let refused = match added {
            Ok(()) => false,
            Err(error) if error.as_db_error().is_some() && !class(&error).is_transient() => {
                tracing::debug!(what = self.what, %error, "rows are merged from now on");
                true
            }
            Err(error) => return Err(failed(self.what.clone())(error)),
        };
        let end = if refused { "ROLLBACK TO rows" } else { "RELEASE rows" };
        self.transaction.batch_execute(end).await.map_err(failed_here())?;
        Ok(!refused)
    }

    async fn copied(&self) -> std::result::Result<(), tokio_postgres::Error> {
        let sql = format!("COPY {} FROM STDIN", self.into);
        let sink: CopyInSink<Bytes> = self.transaction.copy_in(&sql).await?;
        let mut sink = std::pin::pin!(sink);
        let mut frame = BytesMut::with_capacity(FRAME_BYTES * 2);
        let columns = self.changes.records.columns();
        for row in 0..self.changes.len() {
            for (index, column) in columns.iter().enumerate() {
                if index > 0 {
                    frame.put_u8(b'\t');
                }
                match text_of(column.as_ref(), row) {
                    None => frame.put_slice(b"\\N"),
                    Some(text) => {
                        if *column.data_type() == arrow::datatypes::DataType::Binary {
                            frame.put_slice(b"\\\\x");
                        }
                        escape(&mut frame, text.as_bytes());
                    }
                }
            }
            frame.put_u8(b'\n');
            if frame.len() >= FRAME_BYTES {
                sink.send(frame.split().freeze()).await?;
            }
        }
        sink.send(frame.split().freeze()).await?;
        sink.as_mut().finish().await.map(drop)
    }

    /// Copies all rows into the stage, as texts; a row that no text of PostgreSQL can hold is refused.
    async fn stage(&mut self) -> Result<()> {
        let failed_here = || failed(self.what.clone());
        let columns: String = (0..self.columns).map(|index| format!(", c{index} text")).collect();
        let create = format!("CREATE TEMP TABLE bridgehead_stage (n int4, d bool{columns}) ON COMMIT DROP");
        self.transaction.batch_execute(&create).await.map_err(failed_here())?;
        let sink: CopyInSink<Bytes> =
            self.transaction.copy_in("COPY bridgehead_stage FROM STDIN BINARY").await.map_err(failed_here())?;
        let mut sink = std::pin::pin!(sink);
        let mut frame = BytesMut::with_capacity(FRAME_BYTES * 2);
        frame.put_slice(HEADER);
        for row in 0..self.changes.len() {
            let begin = frame.len();
            frame.put_i16((self.columns + 2) as i16);
            frame.put_i32(4);
            frame.put_i32(row as i32);
            frame.put_i32(1);
            frame.put_u8(u8::from(self.changes.ops[row] == Op::Delete));
            for (index, column) in self.changes.records.columns().iter().enumerate() {
                let text = text_of(column.as_ref(), row);
                if text.as_ref().is_some_and(|text| text.contains('\0')) {
                    let name = self.changes.records.schema_ref().field(index).name().clone();
                    let error =
                        RecordError::rejected("NUL_BYTE", format!("{name} holds a NUL, which PostgreSQL can't keep"))
                            .with_field(name);
                    self.outcomes.insert(row, Outcome::Refused(error));
                }
                match text.filter(|text| !text.contains('\0')) {
                    None => frame.put_i32(-1),
                    Some(text) if *column.data_type() == arrow::datatypes::DataType::Binary => {
                        frame.put_i32((text.len() + 2) as i32);
                        frame.put_slice(b"\\x");
                        frame.put_slice(text.as_bytes());
                    }
                    Some(text) => {
                        frame.put_i32(text.len() as i32);
                        frame.put_slice(text.as_bytes());
                    }
                }
            }
            if self.outcomes.contains_key(&row) {
                frame.truncate(begin);
            }
            if frame.len() >= FRAME_BYTES {
                sink.send(frame.split().freeze()).await.map_err(failed_here())?;
            }
        }
        frame.put_i16(-1);
        sink.send(frame.split().freeze()).await.map_err(failed_here())?;
        sink.as_mut().finish().await.map_err(failed_here())?;
        // Not knowing how many rows there are the planner may compare each with each.
        self.transaction.batch_execute("ANALYZE bridgehead_stage (n)").await.map_err(failed_here())
    }

    /// Merges rows; on a row's fault the half before and the half after, each for itself.
    async fn apply(&mut self, op: Op, rows: &[usize]) -> Result<()> {
        let mut waiting = vec![rows];
        while let Some(rows) = waiting.pop() {
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
            match self.merge(op, *first, *last).await {
                Ok(found) => {
                    for (row, created) in found {
                        self.outcomes.insert(row, Outcome::Applied { created, id: None });
                    }
                }
                Err(error) if class(&error) == Class::Rejected => {
                    if let [row] = rows {
                        self.outcomes.insert(*row, Outcome::Refused(refusal(&error)));
                    } else {
                        let (left, right) = rows.split_at(rows.len() / 2);
                        waiting.extend([right, left]);
                    }
                }
                Err(error) => return Err(failed(self.what.clone())(error)),
            }
        }
        Ok(())
    }

    async fn merge(
        &self,
        op: Op,
        first: usize,
        last: usize,
    ) -> std::result::Result<Vec<(usize, bool)>, tokio_postgres::Error> {
        let sql = if op == Op::Delete { &self.delete } else { &self.upsert };
        self.transaction.batch_execute("SAVEPOINT rows").await?;
        let answer = self.transaction.query(sql, &[&(first as i32), &(last as i32), &(op == Op::Delete)]).await;
        let end = if answer.is_ok() { "RELEASE rows" } else { "ROLLBACK TO rows" };
        self.transaction.batch_execute(end).await?;
        Ok(answer?.iter().map(|row| (row.get::<_, i32>(0) as usize, row.get(1))).collect())
    }
}

/// Writes a text as COPY has it: what ends columns and rows, and the backslash itself, stands behind one. Source: PostgreSQL
/// documentation, COPY, "Text Format".
fn escape(frame: &mut BytesMut, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        frame.put_slice(&text[..at]);
        frame.put_slice(match text[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\r",
        });
        text = &text[at + 1..];
    }
    frame.put_slice(text);
}

pub(super) fn refusal(error: &tokio_postgres::Error) -> RecordError {
    let Some(db) = error.as_db_error() else { return RecordError::rejected("UNKNOWN", error.to_string()) };
    let code = if db.code().code() == "23503" { "MISSING_PARENT" } else { db.code().code() };
    let refused = RecordError::rejected(code, db.message());
    match db.column() {
        Some(column) => refused.with_field(column),
        None => refused,
    }
}
