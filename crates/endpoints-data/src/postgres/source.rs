//! Reads rows in key ranges, each by one COPY, all of them in one snapshot.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use endpoint::{Batches, Error, Read, Result, Source};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{ChangeBatch, Class, Column, Entity, Position, Type};
use tokio::sync::mpsc;

use super::{Postgres, convert, failed};
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
        let sql = format!("SELECT max({})::text FROM {}", sql::name(cursor), sql::table(&entity.name));
        let row = self.open().await?.query_one(&sql, &[]).await.map_err(failed("cannot read the cursor"))?;
        // Without rows there is no end of a window: everything is read again.
        Ok(row.get(0))
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        let conditions = sql::conditions(read, &read.entity.key, false, earlier(read))?;
        let sql = format!("SELECT count(*) FROM {}{conditions}", sql::table(&read.entity.name));
        let row = self
            .open()
            .await?
            .query_one(&sql, &[])
            .await
            .map_err(failed(format!("cannot count the rows of {}", read.entity.name)))?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        if read.entity.key.is_empty() {
            let message =
                format!("{} has no primary key, so a read of it could not be resumed; give it one", read.entity.name);
            return Err(Error::new(Class::Mapping, message));
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
        let client = self.open().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        client.batch_execute(begin).await.map_err(failed(what.as_str()))?;
        let schema = read.entity.schema(read.fields.iter().map(String::as_str));
        let schema =
            schema.map_err(|name| Error::new(Class::Mapping, format!("{} has no field {name}", read.entity.name)))?;
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
            let mut table = Lines::new(&read, schema.clone());
            let mut rows = 0;
            // The server sends each row as a message of its own.
            while let Some(line) = stream.try_next().await.map_err(failed(what.as_str()))? {
                rows += 1;
                table.push(&read, line.strip_suffix(b"\n").unwrap_or(&line))?;
                if table.rows >= read.batch_rows && sender.send(table.finish(&read)).await.is_err() {
                    return Ok(());
                }
            }
            if table.rows > 0 && sender.send(table.finish(&read)).await.is_err() {
                return Ok(());
            }
            if rows < RANGE_ROWS {
                return Ok(());
            }
            read.from = table.position;
        }
    }
}

/// Turns lines of COPY into batches.
struct Lines {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    text: Vec<u8>,
    key: Vec<String>,
    position: Option<Position>,
}

impl Lines {
    fn new(read: &Read, schema: SchemaRef) -> Self {
        let kinds = read.fields.iter().filter_map(|name| read.entity.field(name)).map(|field| field.kind);
        Self {
            schema,
            columns: kinds.map(Column::new).collect(),
            rows: 0,
            text: Vec::new(),
            key: Vec::new(),
            position: None,
        }
    }

    fn push(&mut self, read: &Read, line: &[u8]) -> Result<()> {
        self.rows += 1;
        self.key.clear();
        for (index, field) in line.split(|byte| *byte == b'\t').enumerate() {
            let there = convert::unescape(field, &mut self.text);
            let text = std::str::from_utf8(&self.text).unwrap_or_default();
            match self.columns.get_mut(index) {
                None => self.key.push(text.to_owned()),
                Some(column) if !there => column.push_null(),
                Some(column) => {
                    if !column.push(text) {
                        // Infinities and not-a-number have no counterpart: better to stop than to make one up.
                        let message = format!(
                            "{}.{} holds a value that is no {} Bridgehead can carry, such as infinity or NaN; exclude it by `where`",
                            read.entity.name,
                            read.fields[index],
                            column.kind()
                        );
                        return Err(Error::new(Class::Mapping, message));
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, read: &Read) -> Result<ChangeBatch> {
        self.rows = 0;
        self.position = Some(sql::position(&self.key));
        let records = RecordBatch::try_new(self.schema.clone(), self.columns.iter_mut().map(Column::finish).collect());
        let records = records.map_err(|error| {
            Error::new(Class::Internal, format!("cannot read {}", read.entity.name)).caused_by(error)
        })?;
        Ok(ChangeBatch::upserts(records, self.position.clone()))
    }
}
