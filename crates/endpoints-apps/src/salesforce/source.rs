//! Reads records by SOQL: over REST, or for many rows as a Bulk query job, whose id and locator are the
//! position, so that a read goes on after a crash without asking the org again.

use std::path::Path;
use std::sync::Arc;

use ::salesforce::bulk::{Kind, NextPage};
use ::salesforce::{CsvReader, JsonTable};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta};
use endpoint::{Batches, Error, Notices, Read, Result, Source, Stale, Window};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Position, Type};
use tokio::sync::mpsc;

use super::{Org, failed};

/// How much earlier than the last window's end the next begins, in minutes: a record becomes visible when
/// its transaction ends, which may be ten minutes after its `SystemModstamp`.
const OVERLAP_MINUTES: i64 = 10;
/// Rows of a page of a REST query. Source: REST API guide, query options.
const REST_PAGE_ROWS: u64 = 2_000;
/// Rows of a page of Bulk results.
const PAGE_ROWS: usize = 50_000;
/// Batches that wait between the org and whoever takes them.
const WAITING: usize = 2;

/// Where a read stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Start,
    /// Behind this id, in the order of ids.
    Id(String),
    /// At this page of a job's results.
    Job {
        job: String,
        locator: Option<String>,
    },
}

impl Place {
    fn parse(position: Option<&Position>) -> Self {
        match position.map(Position::as_str) {
            None => Self::Start,
            Some(text) => match text.strip_prefix("job:").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
                Some((job, locator)) => {
                    Self::Job { job: job.to_owned(), locator: (!locator.is_empty()).then(|| locator.to_owned()) }
                }
                None => Self::Id(text.to_owned()),
            },
        }
    }
}

/// Returns from when on a window is asked for that begins at a time.
pub(super) fn earliest(since: &str) -> String {
    let earlier = DateTime::parse_from_rfc3339(since).map(|time| time - TimeDelta::minutes(OVERLAP_MINUTES));
    earlier.map_or_else(|_| since.to_owned(), |time| time.to_utc().to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn conditions(read: &Read, behind: Option<&str>) -> String {
    let mut parts: Vec<String> = read.filter.iter().map(|filter| format!("({filter})")).collect();
    if let (Some(Window { since, until }), Some(cursor)) = (&read.window, &read.entity.cursor) {
        parts.push(format!("{cursor} <= {until}"));
        if let Some(since) = since {
            parts.push(format!("{cursor} >= {}", earliest(since)));
        }
    }
    if read.deleted {
        parts.push("IsDeleted = true".to_owned());
    }
    parts.extend(behind.map(|id| format!("Id > {}", soql::quote(id))));
    if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
}

#[async_trait]
impl Source for Org {
    async fn now(&self, entity: &Entity) -> Result<Option<String>> {
        if entity.cursor.is_none() {
            return Ok(None);
        }
        // Any answer carries the org's clock.
        self.client.limits().await.map_err(failed("cannot ask the org for its time"))?;
        Ok(Some(self.client.org_time().to_rfc3339_opts(SecondsFormat::Millis, true)))
    }

    async fn clock(&self) -> Result<Option<i64>> {
        // Any answer carries the org's clock.
        self.client.limits().await.map_err(failed("cannot ask the org for its time"))?;
        Ok(Some(self.client.org_time().timestamp_micros()))
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        let soql = format!("SELECT COUNT() FROM {}{}", read.entity.name, conditions(read, None));
        self.client
            .count(&soql, read.deleted)
            .await
            .map_err(failed(format!("cannot count the records of {}", read.entity.name)))
    }

    async fn holds(&self, read: &Read) -> Result<bool> {
        let Place::Job { job, .. } = Place::parse(read.from.as_ref()) else { return Ok(true) };
        // The org keeps results for seven days.
        match self.client.job(Kind::Query, &job).await {
            Ok(job) => Ok(!matches!(job.state.as_str(), "Aborted" | "Failed")),
            Err(error) if error.code() == Some("NOT_FOUND") => Ok(false),
            Err(error) => Err(failed(format!("cannot go on with the query job {job}"))(error)),
        }
    }

    fn forecast_read_calls(&self, rows: u64) -> u64 {
        // They are counted first.
        if rows < self.bulk_rows {
            1 + rows.div_ceil(REST_PAGE_ROWS).max(1)
        } else {
            // Create, a question each time that what is left may be half done, a page of results each 50,000 rows.
            4 + u64::from(rows.max(1).ilog2().saturating_sub(13)) + rows.div_ceil(PAGE_ROWS as u64)
        }
    }

    async fn fetch(&self, entity: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.by_key(entity, fields, key, keys, true).await
    }

    async fn fetch_now(&self, entity: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.by_key(entity, fields, key, keys, false).await
    }

    async fn stale(&self, read: &Read) -> Result<Stale> {
        self.outdated(read).await
    }

    async fn pick(&self, read: &Read, key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.picked(read, key, keys).await
    }

    async fn listen(&self, entity: &Entity, _: &str, fields: &[String], place: Option<&str>) -> Result<Notices> {
        self.notices(entity, fields, place).await
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        let mut fields = Vec::new();
        let mut kinds = Vec::new();
        for name in &read.fields {
            let (name, kind) = self.field(&read.entity, name).await?;
            fields.push(ArrowField::new(name, kind.arrow(), true));
            kinds.push(kind);
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let place = Place::parse(read.from.as_ref());
        let rows = self.count(&read).await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            let work = async {
                match place {
                    Place::Start if rows >= this.bulk_rows => {
                        this.read_job(&read, &schema, &kinds, None, rows, &sender).await
                    }
                    Place::Job { job, locator } => {
                        this.read_job(&read, &schema, &kinds, Some((job, locator)), rows, &sender).await
                    }
                    Place::Start => this.read_pages(&read, &schema, &kinds, None, &sender).await,
                    Place::Id(id) => this.read_pages(&read, &schema, &kinds, Some(id), &sender).await,
                }
            };
            tokio::select! {
                result = work => if let Err(error) = result {
                    let _ = sender.send(Err(error)).await;
                },
                // Nobody listens any more.
                () = sender.closed() => {}
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

type Sender = mpsc::Sender<Result<ChangeBatch>>;

impl Org {
    /// Returns a field's own name and type; a dotted name is a field of the parent.
    pub(super) async fn field(&self, entity: &Entity, name: &str) -> Result<(String, Type)> {
        let missing =
            || Error::new(Class::Mapping, format!("{} has no field {name} that this login can see", entity.name));
        let Some((relationship, rest)) = name.split_once('.') else {
            return entity.field(name).map(|field| (field.name.clone(), field.kind)).ok_or_else(missing);
        };
        let way = entity
            .fields
            .iter()
            .find(|field| field.relationship.as_deref() == Some(relationship))
            .ok_or_else(missing)?;
        let parent = endpoint::Catalog::describe(self, way.references.first().ok_or_else(missing)?).await?;
        let field = parent.field(rest).ok_or_else(missing)?;
        Ok((format!("{relationship}.{}", field.name), field.kind))
    }

    fn batch(read: &Read, records: arrow::array::RecordBatch, position: Option<Position>) -> ChangeBatch {
        if read.deleted { ChangeBatch::deletes(records, position) } else { ChangeBatch::upserts(records, position) }
    }

    async fn read_pages(
        &self,
        read: &Read,
        schema: &SchemaRef,
        kinds: &[Type],
        behind: Option<String>,
        sender: &Sender,
    ) -> Result<()> {
        let what = || format!("cannot read {}", read.entity.name);
        let mut columns = read.fields.clone();
        if !columns.iter().any(|name| name == "Id") {
            columns.push("Id".to_owned());
        }
        let soql = format!(
            "SELECT {} FROM {}{} ORDER BY Id",
            columns.join(", "),
            read.entity.name,
            conditions(read, behind.as_deref())
        );
        let table = JsonTable::new(schema.clone(), kinds.to_vec());
        let mut page = Some(self.client.query(&soql, read.deleted).await.map_err(failed(what()))?);
        while let Some(current) = page {
            for records in current.records.chunks(read.batch_rows.max(1)) {
                let position = records.last().and_then(|record| record.get("Id")?.as_str()).map(Position::new);
                let batch = table.read(records).map_err(failed(what()))?;
                if sender.send(Ok(Self::batch(read, batch, position))).await.is_err() {
                    return Ok(());
                }
            }
            page = self.client.next_page(&current).await.map_err(failed(what()))?;
        }
        Ok(())
    }

    async fn read_job(
        &self,
        read: &Read,
        schema: &SchemaRef,
        kinds: &[Type],
        known: Option<(String, Option<String>)>,
        rows: u64,
        sender: &Sender,
    ) -> Result<()> {
        let what = || format!("cannot read {} by a Bulk query", read.entity.name);
        let (job, locator) = if let Some(known) = known {
            known
        } else {
            let soql = format!("SELECT {} FROM {}{}", read.fields.join(", "), read.entity.name, conditions(read, None));
            (self.client.create_query_job(&soql, read.deleted).await.map_err(failed(what()))?.id, None)
        };
        self.client
            .wait_for(Kind::Query, &job, rows)
            .await
            .and_then(::salesforce::bulk::Job::completed)
            .map_err(failed(what()))?;
        // The job is state from here on, before any of its rows.
        let start = Position::new(format!("job:{job}/{}", locator.as_deref().unwrap_or_default()));
        let empty = Self::batch(read, arrow::array::RecordBatch::new_empty(schema.clone()), Some(start));
        if sender.send(Ok(empty)).await.is_err() {
            return Ok(());
        }
        let folder = tempfile::tempdir()
            .map_err(|error| Error::new(Class::Internal, "cannot make a spool folder").caused_by(error))?;
        let fetch = async |locator: Option<String>, file: &str| {
            let path = folder.path().join(file);
            let page = self.client.query_results(&job, locator.as_deref(), PAGE_ROWS, &path).await;
            page.map(|NextPage(next)| (path, next)).map_err(failed(what()))
        };
        let (mut files, mut page) = (["b.csv", "a.csv"].into_iter().cycle(), fetch(locator, "a.csv").await?);
        loop {
            let (path, next) = page;
            let end = next.as_ref().map(|next| Position::new(format!("job:{job}/{next}")));
            let (schema, kinds, read, sender) = (schema.clone(), kinds.to_vec(), read.clone(), sender.clone());
            let parsed =
                tokio::task::spawn_blocking(move || read_page(&path, schema, kinds, &read, end.as_ref(), &sender));
            // The page behind it comes while this one is read.
            let following = async {
                match (next, files.next()) {
                    (Some(next), Some(file)) => fetch(Some(next), file).await.map(Some),
                    _ => Ok(None),
                }
            };
            let (parsed, following) = tokio::join!(parsed, following);
            let parsed =
                parsed.map_err(|error| Error::new(Class::Internal, "a reading thread ended early").caused_by(error))?;
            let listened = parsed?;
            match following? {
                Some(following) if listened => page = following,
                _ => return Ok(()),
            }
        }
    }
}

/// Reads a file of results and sends its rows, with the place behind them at their end; false when nobody takes them any more.
fn read_page(
    path: &Path,
    schema: SchemaRef,
    kinds: Vec<Type>,
    read: &Read,
    end: Option<&Position>,
    sender: &Sender,
) -> Result<bool> {
    let what = || format!("cannot read the Bulk results of {}", read.entity.name);
    let file = std::fs::File::open(path).map_err(|error| Error::new(Class::Internal, what()).caused_by(error))?;
    let mut reader = CsvReader::new(file, schema, kinds).map_err(failed(what()))?;
    let mut waiting = reader.next_batch(read.batch_rows).map_err(failed(what()))?;
    while let Some(records) = waiting {
        waiting = reader.next_batch(read.batch_rows).map_err(failed(what()))?;
        // Only the end of a page is a place to go on from.
        let position = end.filter(|_| waiting.is_none()).cloned();
        if sender.blocking_send(Ok(Org::batch(read, records, position))).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_so_that_a_late_commit_is_not_missed() {
        let window =
            Window { since: Some("2026-05-05T10:00:00Z".to_owned()), until: "2026-05-05T11:00:00Z".to_owned() };
        let read = Read {
            entity: Entity { cursor: Some("SystemModstamp".to_owned()), ..Entity::new("Account") },
            fields: Vec::new(),
            filter: Some("Type = 'a' OR Type = 'b'".to_owned()),
            window: Some(window),
            from: None,
            deleted: true,
            batch_rows: 1,
        };
        let expected = " WHERE (Type = 'a' OR Type = 'b') AND SystemModstamp <= 2026-05-05T11:00:00Z \
                        AND SystemModstamp >= 2026-05-05T09:50:00.000Z AND IsDeleted = true AND Id > '001'";
        assert_eq!(conditions(&read, Some("001")), expected);
    }
}
