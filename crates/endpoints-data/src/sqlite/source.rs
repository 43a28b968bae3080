//! Reads rows in the order of their key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta};
use endpoint::{Batches, CHANGES, Captured, Error, Notice, Notices, Read, Result, Source};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Type};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{Sqlite, convert, failed, order_key, pairs};
use crate::rows::Rows;
use crate::sql;

/// How often is looked for changes that are listened to.
const TICK: Duration = Duration::from_millis(20);
/// Batches that wait between the database and whoever takes them.
const WAITING: usize = 2;

/// How much earlier a window of times begins, in minutes: clocks differ and transactions take their time.
const OVERLAP_MINUTES: i64 = 5;

fn earlier(since: &str) -> String {
    let moved = DateTime::parse_from_rfc3339(since).map(|time| time - TimeDelta::minutes(OVERLAP_MINUTES));
    sql::literal(
        &moved.map_or_else(|_| since.to_owned(), |time| time.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true)),
    )
}

#[async_trait]
impl Source for Sqlite {
    async fn now(&self, entity: &Entity) -> Result<Option<String>> {
        let Some(cursor) = &entity.cursor else { return Ok(None) };
        if cursor == CHANGES {
            return self.blocking(|db| pairs::next_change(&db).map(Some)).await;
        }
        let sql = format!("SELECT CAST(max({}) AS TEXT) FROM {}", sql::name(cursor), sql::table(&entity.name));
        self.blocking(move |db| {
            let newest: Option<String> =
                db.query_row(&sql, [], |row| row.get(0)).map_err(failed("cannot read the cursor"))?;
            Ok(Some(newest.unwrap_or_default()))
        })
        .await
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        let conditions = sql::conditions(read, &order_key(&read.entity), false, earlier)?;
        let sql = format!("SELECT count(*) FROM {}{conditions}", sql::table(&read.entity.name));
        let what = format!("cannot count the rows of {}", read.entity.name);
        self.blocking(move |db| {
            let count: i64 = db.query_row(&sql, [], |row| row.get(0)).map_err(failed(what))?;
            Ok(count.cast_unsigned())
        })
        .await
    }

    async fn capture(&self, entity: &Entity, key: &str) -> Result<()> {
        if entity.cursor.as_deref() != Some(CHANGES) {
            let message = "SQLite keeps no log that changes can be read from; use `capture: triggers`";
            return Err(Error::new(Class::Mapping, message));
        }
        let (entity, key) = (entity.clone(), key.to_owned());
        self.blocking(move |db| pairs::capture(&db, &entity, &key)).await
    }

    async fn captured(&self, entity: &Entity) -> Result<Option<Captured>> {
        let entity = entity.clone();
        self.blocking(move |db| pairs::captured(&db, &entity)).await
    }

    async fn release(&self, entity: &Entity) -> Result<()> {
        let entity = entity.clone();
        self.blocking(move |db| pairs::release(&db, &entity)).await
    }

    async fn listen(&self, entity: &Entity, _: &str, _: &[String], _: Option<&str>) -> Result<Notices> {
        if entity.cursor.as_deref() != Some(CHANGES) {
            let message = format!("changes of {} can't be followed: capture them by triggers", entity.name);
            return Err(Error::new(Class::Mapping, message));
        }
        let db = Arc::new(Mutex::new(self.open()?));
        let told = pairs::next_change(&db.lock().unwrap_or_else(PoisonError::into_inner))?;
        let state = (db, entity.name.clone(), told);
        let notices = futures::stream::try_unfold(state, |(db, entity, told)| async move {
            loop {
                let (shared, name, since) = (Arc::clone(&db), entity.clone(), told.clone());
                // Nothing is told before a transaction is committed: one at a time writes, in the order of the numbers.
                let looked = tokio::task::spawn_blocking(move || {
                    let db = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    let until = pairs::next_change(&db)?;
                    let keys = if until == since { Vec::new() } else { pairs::noted(&db, &name, &since, &until)? };
                    Ok::<_, Error>((keys, until))
                });
                let (keys, until) = looked
                    .await
                    .map_err(|error| Error::new(Class::Internal, "a database thread ended early").caused_by(error))??;
                if !keys.is_empty() {
                    let notice = Notice { keys, until: Some(until.clone()), ..Notice::default() };
                    return Ok(Some((notice, (db, entity, until))));
                }
                tokio::time::sleep(TICK).await;
            }
        });
        Ok(notices.boxed())
    }

    async fn fetch(&self, entity: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        let (entity, fields, key, keys) = (entity.clone(), fields.to_vec(), key.to_owned(), keys.to_vec());
        self.blocking(move |db| pairs::fetch(&db, &entity, &fields, &key, &keys, None)).await
    }

    async fn pick(&self, read: &Read, key: &str, keys: &[String]) -> Result<ChangeBatch> {
        let (read, key, keys) = (read.clone(), key.to_owned(), keys.to_vec());
        self.blocking(move |db| pairs::fetch(&db, &read.entity, &read.fields, &key, &keys, read.filter.as_deref()))
            .await
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        if read.deleted {
            let deleted = self.blocking(move |db| pairs::deleted(&db, &read)).await;
            return Ok(futures::stream::iter([deleted]).boxed());
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = this.open().and_then(|db| send_all(&db, &read, &sender)) {
                // The reader may be gone; then nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

fn send_all(db: &Connection, read: &Read, sender: &mpsc::Sender<Result<ChangeBatch>>) -> Result<()> {
    let what = || format!("cannot read {}", read.entity.name);
    let key = order_key(&read.entity);
    let conditions = sql::conditions(read, &key, true, earlier)?;
    let names = sql::list(&read.fields);
    // The key once more as text: a position is the text of a key.
    let texts = key.iter().map(|name| format!("CAST({} AS TEXT)", sql::name(name))).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {names}, {texts} FROM {}{conditions} ORDER BY {}",
        sql::table(&read.entity.name),
        sql::list(&key)
    );
    let schema = read.entity.schema(read.fields.iter().map(String::as_str));
    let schema =
        schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", read.entity.name)))?;
    let kinds: Vec<Type> =
        read.fields.iter().filter_map(|name| read.entity.field(name)).map(|field| field.kind).collect();
    let mut statement = db.prepare(&sql).map_err(failed(what()))?;
    let mut rows = statement.query([]).map_err(failed(what()))?;
    let mut table = Rows::new(schema, &kinds);
    loop {
        let mut last = Vec::new();
        while table.len() < read.batch_rows {
            let Some(row) = rows.next().map_err(failed(what()))? else { break };
            last.clear();
            for place in 0..key.len() {
                last.push(row.get::<_, String>(kinds.len() + place).map_err(failed(what()))?);
            }
            let cells = (0..kinds.len()).map(|index| Ok(convert::text(row.get_ref(index)?)));
            let cells = cells.collect::<rusqlite::Result<Vec<_>>>().map_err(failed(what()))?;
            table.add(&cells, || format!("row {}", last.join(", ")));
        }
        if table.len() == 0 {
            return Ok(());
        }
        let batch = table.finish(Some(sql::position(&last)));
        let batch = batch.map_err(|error| Error::new(Class::Internal, what()).caused_by(error))?;
        if sender.blocking_send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_times_overlap_and_those_of_numbers_do_not() {
        assert_eq!(earlier("2026-05-05T10:00:00Z"), "'2026-05-05T09:55:00.000Z'");
        assert_eq!(earlier("17"), "'17'");
    }
}
