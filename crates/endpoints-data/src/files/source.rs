//! Reads files in the order of their names. A position is a file, its version and a number of rows in it.

use std::cmp::Ordering;

use async_trait::async_trait;
use endpoint::{Batches, Error, Read, Result, Source};
use futures::StreamExt as _;
use model::{ChangeBatch, Class, Entity, Position, text_of};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::convert::RowReader;
use super::{Files, blocking};

/// Batches that wait between the file and whoever takes them.
const WAITING: usize = 2;

type Sender = mpsc::Sender<Result<ChangeBatch>>;

#[derive(Debug, Serialize, Deserialize)]
struct Place {
    file: String,
    version: String,
    row: u64,
}

impl Place {
    fn parse(position: Option<&Position>) -> Option<Self> {
        position.and_then(|position| serde_json::from_str(position.as_str()).ok())
    }

    fn position(&self) -> Position {
        Position::new(serde_json::to_string(self).unwrap_or_default())
    }
}

/// What changes whenever a file is replaced.
fn version(file: &ObjectMeta) -> String {
    format!("{}-{}-{}", file.size, file.last_modified.timestamp_micros(), file.e_tag.as_deref().unwrap_or_default())
}

/// Compares two values of a cursor: as numbers if both are, else as texts.
fn compare(left: &str, right: &str) -> Ordering {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => left.total_cmp(&right),
        _ => left.cmp(right),
    }
}

#[async_trait]
impl Source for Files {
    async fn now(&self, entity: &Entity) -> Result<Option<String>> {
        let Some(cursor) = entity.cursor.clone() else { return Ok(None) };
        let mut newest: Option<String> = None;
        for file in self.files(&entity.name).await? {
            let (opened, cursor) = (self.open(&file).await?, cursor.clone());
            let found = blocking(move || {
                let mut newest: Option<String> = None;
                let mut rows = opened.rows()?;
                let Some(column) = rows.names().iter().position(|name| *name == cursor) else { return Ok(None) };
                while let Some(batch) = rows.next_batch(8_192)? {
                    for row in 0..batch.len() {
                        let Some(value) = text_of(batch.records.column(column).as_ref(), row) else { continue };
                        if newest.as_ref().is_none_or(|newest| compare(&value, newest) == Ordering::Greater) {
                            newest = Some(value.into_owned());
                        }
                    }
                }
                Ok(newest)
            });
            newest = newest.into_iter().chain(found.await?).max_by(|left, right| compare(left, right));
        }
        Ok(newest)
    }

    async fn holds(&self, read: &Read) -> Result<bool> {
        let Some(place) = Place::parse(read.from.as_ref()) else { return Ok(read.from.is_none()) };
        let files = self.files(&read.entity.name).await?;
        Ok(files.iter().any(|file| file.location.as_ref() == place.file && version(file) == place.version))
    }

    async fn count(&self, read: &Read) -> Result<u64> {
        refuse_filter(read)?;
        let mut count = 0;
        for file in self.files(&read.entity.name).await? {
            let (opened, read) = (self.open(&file).await?, read.clone());
            count += blocking(move || {
                let mut rows = opened.rows()?;
                if let (Some(known), None) = (rows.known_rows(), &read.window) {
                    return Ok(known);
                }
                let mut count = 0;
                while let Some(batch) = rows.next_batch(8_192)? {
                    let batch = within(batch, &read, rows.names());
                    count += (batch.len() + batch.unreadable.len()) as u64;
                }
                Ok(count)
            })
            .await?;
        }
        Ok(count)
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        refuse_filter(&read)?;
        let files = self.files(&read.entity.name).await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                result = this.send_all(read, files, &sender) => if let Err(error) = result {
                    let _ = sender.send(Err(error)).await;
                },
                // Nobody listens any more; a thread that reads ends at its next batch.
                () = sender.closed() => {}
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

fn refuse_filter(read: &Read) -> Result<()> {
    if read.filter.is_none() {
        return Ok(());
    }
    let message = format!("{} is a file, which has no language for `where`; leave it out", read.entity.name);
    Err(Error::new(Class::Mapping, message))
}

impl Files {
    async fn send_all(&self, read: Read, files: Vec<ObjectMeta>, sender: &Sender) -> Result<()> {
        let from = Place::parse(read.from.as_ref());
        for file in files {
            let name = file.location.to_string();
            let skip = match &from {
                Some(place) if name < place.file => continue,
                Some(place) if name == place.file => place.row,
                _ => 0,
            };
            let opened = self.open(&file).await?;
            let (read, sender, version) = (read.clone(), sender.clone(), version(&file));
            let go_on = blocking(move || {
                let mut rows = opened.rows()?;
                let place = |row: u64| Place { file: name.clone(), version: version.clone(), row };
                send_rows(&mut rows, &read, skip, &place, &sender)
            });
            if !go_on.await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Sends the rows of a file behind the first `skip`; false when nobody listens any more.
fn send_rows(
    rows: &mut RowReader,
    read: &Read,
    skip: u64,
    place: &dyn Fn(u64) -> Place,
    sender: &Sender,
) -> Result<bool> {
    let columns = read.fields.iter().map(|name| {
        rows.names().iter().position(|known| known == name).ok_or_else(|| {
            Error::new(Class::Mapping, format!("{} has no field {name}, as the last file has", read.entity.name))
        })
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    loop {
        let before = rows.row();
        let Some(mut batch) = rows.next_batch(read.batch_rows)? else { return Ok(true) };
        if rows.row() <= skip {
            continue;
        }
        if before < skip {
            // Positions are ends of batches, whose size may be another now.
            let cut = ((skip - before) as usize).min(batch.len());
            batch = ChangeBatch::upserts(batch.records.slice(cut, batch.len() - cut), None);
        }
        batch = within(batch, read, rows.names());
        let records = batch.records.project(&columns).map_err(|error| {
            Error::new(Class::Internal, format!("cannot read {}", read.entity.name)).caused_by(error)
        })?;
        let position = Some(place(rows.row()).position());
        let sent = ChangeBatch { unreadable: batch.unreadable, ..ChangeBatch::upserts(records, position) };
        if sender.blocking_send(Ok(sent)).is_err() {
            return Ok(false);
        }
    }
}

/// Keeps the rows that changed in the window; ones without a cursor value, and unreadable ones, always.
fn within(batch: ChangeBatch, read: &Read, names: &[String]) -> ChangeBatch {
    let (Some(window), Some(cursor)) = (&read.window, &read.entity.cursor) else { return batch };
    let Some(column) = names.iter().position(|name| name == cursor) else { return batch };
    let keep: arrow::array::BooleanArray = (0..batch.len())
        .map(|row| {
            let Some(value) = text_of(batch.records.column(column).as_ref(), row) else { return Some(true) };
            let begun = window.since.as_ref().is_none_or(|since| compare(&value, since) != Ordering::Less);
            Some(begun && compare(&value, &window.until) != Ordering::Greater)
        })
        .collect();
    let records = arrow::compute::filter_record_batch(&batch.records, &keep).unwrap_or(batch.records);
    ChangeBatch { unreadable: batch.unreadable, ..ChangeBatch::upserts(records, batch.position) }
}
