//! Reads rows in key ranges, each by one COPY, all of them in one snapshot.

use async_trait::async_trait;
use endpoint::{Batches, CHANGES, Captured, Error, Notices, Read, Result, Source};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{ChangeBatch, Class, Entity, Type};
use tokio::sync::mpsc;

use super::{Postgres, convert, failed, log};
use crate::rows::Rows;
use crate::sql;

/// Batches that wait between the database and whoever takes them.
const WAITING: usize = 2;
/// Rows of one COPY.
const RANGE_ROWS: usize = 50_000;

type Sender = mpsc::Sender<Result<ChangeBatch>>;

/// Writes the start of a window: of times five minutes earlier, since a transaction shows its rows only
/// when it ends.
fn earlier(read: &Read) -> impl Fn(&str) -> String + use<> {
    let cursor = read.entity.cursor.as_deref().and_then(|name| read.entity.field(name));
    let timed = cursor.is_some_and(|field| field.kind == Type::Timestamp);
    move |since| {
        if timed { format!("{}::timestamptz - interval '5 minutes'", sql::literal(since)) } else { sql::literal(since) }
    }
}

#[async_trait]
impl Source for Postgres {
    async fn now(&self, entity: &Entity) -> Result<Option<String>> {
        let Some(cursor) = &entity.cursor else { return Ok(None) };
        if log::slot(entity).is_some() {
            return self.log_end().await.map(Some);
        }
        if cursor == CHANGES {
            return self.next_change().await.map(Some);
        }
        let sql = format!("SELECT max({})::text FROM {}", sql::name(cursor), sql::table(&entity.name));
        let row = self.open().await?.query_one(&sql, &[]).await.map_err(failed("cannot read the cursor"))?;
        // Without rows there is no end of a window: everything is read again.
        Ok(row.get(0))
    }

    async fn clock(&self) -> Result<Option<i64>> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.open().await?.query_one(sql, &[]).await.map_err(failed("cannot read the clock"))?;
        Ok(Some(row.get(0)))
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        let conditions = sql::conditions(read, &read.entity.key, false, earlier(read))?;
        let sql = format!("SELECT count(*) FROM {}{conditions}", sql::table(&read.entity.name));
        let client = self.open_for(read).await?;
        let row = client.query_one(&sql, &[]).await;
        let row = row.map_err(failed(format!("cannot count the rows of {}", read.entity.name)))?;
        self.keep(read, client).await;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    async fn holds(&self, read: &Read) -> Result<bool> {
        self.still_told(read).await
    }

    async fn capture(&self, entity: &Entity, key: &str) -> Result<()> {
        match log::slot(entity) {
            Some(slot) => self.follow(entity, slot, key).await,
            None => self.noting(entity, key).await,
        }
    }

    async fn captured(&self, entity: &Entity) -> Result<Option<Captured>> {
        match log::slot(entity) {
            Some(slot) => self.behind(slot).await,
            None => self.notes(entity).await,
        }
    }

    async fn release(&self, entity: &Entity) -> Result<()> {
        match log::slot(entity) {
            Some(slot) => self.unfollow(slot).await,
            None => self.stop_noting(entity).await,
        }
    }

    async fn listen(&self, entity: &Entity, key: &str, _: &[String], _: Option<&str>) -> Result<Notices> {
        match log::slot(entity) {
            Some(slot) => self.notices(entity, slot, key).await,
            None => Err(Error::new(
                Class::Mapping,
                format!("changes of {} can't be followed: capture them by log", entity.name),
            )),
        }
    }

    async fn pick(&self, read: &Read, key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.by_key(&read.entity, &read.fields, key, keys, read.filter.as_deref()).await
    }

    async fn fetch(&self, entity: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.by_key(entity, fields, key, keys, None).await
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        if read.entity.key.is_empty() {
            let message =
                format!("{} has no primary key, so a read of it could not be resumed; give it one", read.entity.name);
            return Err(Error::new(Class::Mapping, message));
        }
        if read.deleted {
            let deleted = self.deleted(&read).await;
            return Ok(futures::stream::iter([deleted]).boxed());
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                result = this.send_all(read, &sender) => if let Err(error) = result {
                    let _ = sender.send(Err(error)).await;
                },
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

impl Postgres {
    async fn send_all(&self, mut read: Read, sender: &Sender) -> Result<()> {
        let what = format!("cannot read {}", read.entity.name);
        let client = self.open_for(&read).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        client.batch_execute(begin).await.map_err(failed(what.as_str()))?;
        let schema = read.entity.schema(read.fields.iter().map(String::as_str));
        let schema =
            schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", read.entity.name)))?;
        let kinds: Vec<Type> =
            read.fields.iter().filter_map(|name| read.entity.field(name)).map(|field| field.kind).collect();
        let mut table = Rows::new(schema, &kinds);
        let (mut cells, mut last) = (Vec::new(), Vec::new());
        loop {
            let key = &read.entity.key;
            let conditions = sql::conditions(&read, key, true, earlier(&read))?;
            let names = sql::list(&read.fields);
            let sql = format!(
                "COPY (SELECT {names}, {} FROM {}{conditions} ORDER BY {} LIMIT {RANGE_ROWS}) TO STDOUT",
                sql::list(key),
                sql::table(&read.entity.name),
                sql::list(key)
            );
            let stream = client.copy_out(&sql).await.map_err(failed(what.as_str()))?;
            let mut stream = std::pin::pin!(stream);
            let mut line_count = 0;
            // The server sends each row as a message of its own.
            while let Some(line) = stream.try_next().await.map_err(failed(what.as_str()))? {
                line_count += 1;
                convert::cells(line.strip_suffix(b"\n").unwrap_or(&line), &mut cells);
                let (row, place) = cells.split_at(read.fields.len());
                last = place.iter().map(|cell| cell.clone().unwrap_or_default()).collect();
                table.add(row, || format!("row {}", last.join(", ")));
                if table.len() >= read.batch_rows && sender.send(finish(&mut table, &last, &what)).await.is_err() {
                    return Ok(());
                }
            }
            if table.len() > 0 && sender.send(finish(&mut table, &last, &what)).await.is_err() {
                return Ok(());
            }
            if line_count < RANGE_ROWS {
                client.batch_execute("COMMIT").await.map_err(failed(what.as_str()))?;
                self.keep(&read, client).await;
                return Ok(());
            }
            read.from = Some(sql::position(&last));
        }
    }
}

fn finish(table: &mut Rows, last: &[String], what: &str) -> Result<ChangeBatch> {
    table.finish(Some(sql::position(last))).map_err(|error| Error::new(Class::Internal, what).caused_by(error))
}
