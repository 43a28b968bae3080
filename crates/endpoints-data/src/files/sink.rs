//! Writes rows by their key: the file is read once, and replaced by one that holds the changes; rows that are all new are laid
//! beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{interleave, take_record_batch};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use endpoint::{Error, Result, Sink, Target};
use model::{ChangeBatch, Class, Column, Entity, Op, Outcome, Type, quick_digest, text_of};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, WriteMultipart};

use super::convert::{RowReader, RowWriter};
use super::format::{Format, Packing};
use super::{Dialect, Files, Opened, blocking, failed, kind_of};

/// Bytes of a part of an upload. Source: S3 takes parts of 5 MiB and more, at most 10,000 of them.
const PART_BYTES: usize = 16 << 20;

#[async_trait]
impl Sink for Files {
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        let name = target.entity.name.clone();
        if name.contains('*') {
            let message = format!("{name} stands for several files; write to one of them");
            return Err(Error::new(Class::Mapping, message));
        }
        let parts = self.parts(target).await?;
        let prints = prints(&changes.records, target)?;
        // What the parts have is mostly known without a look at them; that at the keys of the file is little beside writing all
        // of it anew.
        let of_parts = if self.are_new(&name, &prints) { &[][..] } else { &parts[..] };
        let old = self.open_all(&name, of_parts).await?;
        if !old.is_empty() && changes.ops.iter().all(|op| *op == Op::Upsert) {
            let (ours, records, dialect) = (target.clone(), changes.records.clone(), self.dialect.clone());
            let added = blocking(move || {
                if known(old, &ours, &records)?.contains(&true) {
                    return Ok(None);
                }
                joined(Vec::new(), Some(&records), &ours, &dialect).map(Some)
            });
            if let Some(file) = added.await? {
                self.lay_beside(target, file, prints).await?;
                return Ok(vec![Outcome::Applied { created: true, id: None }; changes.len()]);
            }
        }
        let old = self.open_all(&name, &parts).await?;
        let (target, changes, dialect) = (target.clone(), changes.clone(), self.dialect.clone());
        let (file, outcomes) = blocking(move || merge(old, &target, &changes, &dialect)).await?;
        if let Some(file) = file {
            self.replace(&name, file).await?;
            self.forget(&name, &parts).await?;
        }
        Ok(outcomes)
    }

    async fn finish(&self, target: &Target) -> Result<()> {
        let name = &target.entity.name;
        let parts = self.parts(target).await?;
        if parts.is_empty() {
            return Ok(());
        }
        let old = self.open_all(name, &parts).await?;
        let (target, dialect) = (target.clone(), self.dialect.clone());
        let file = blocking(move || joined(old, None, &target, &dialect)).await?;
        self.replace(name, file).await?;
        self.forget(name, &parts).await
    }

    async fn create(&self, entity: &Entity) -> Result<()> {
        if !self.files(&entity.name).await?.is_empty() {
            return Ok(());
        }
        let (schema, kind, dialect) = (schema_of(entity), kind_of(&entity.name)?, self.dialect.clone());
        let file = blocking(move || Output::new(kind, schema, &dialect)?.finish()).await?;
        self.replace(&entity.name, file).await
    }
}

impl Files {
    /// Puts a file in the place of another, in one step.
    pub(super) async fn replace(&self, name: &str, file: File) -> Result<()> {
        let what = format!("cannot write {name} in {}", self.place);
        let spool = |error: std::io::Error| Error::new(Class::Internal, "cannot read a spool file").caused_by(error);
        let upload = self.store.put_multipart(&Path::from(name)).await.map_err(failed(what.as_str()))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut file = tokio::fs::File::from_std(file);
        let mut part = vec![0; 1 << 20];
        loop {
            let length = tokio::io::AsyncReadExt::read(&mut file, &mut part).await.map_err(spool)?;
            if length == 0 {
                break;
            }
            upload.wait_for_capacity(2).await.map_err(failed(what.as_str()))?;
            upload.write(&part[..length]);
        }
        upload.finish().await.map_err(failed(what)).map(drop)
    }
}

fn schema_of(entity: &Entity) -> SchemaRef {
    let fields = entity.fields.iter().map(|field| ArrowField::new(&field.name, field.kind.arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A file that is being written.
struct Output {
    rows: RowWriter<Packed>,
    schema: SchemaRef,
}

enum Packed {
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(bytes),
            Self::Gzip(output) => output.write(bytes),
            Self::Zstd(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(output) => output.flush(),
            Self::Zstd(output) => output.flush(),
        }
    }
}

fn spool(error: impl Into<endpoint::BoxError>) -> Error {
    Error::new(Class::Internal, "cannot write a spool file").caused_by(error)
}

impl Output {
    fn new((format, packing): (Format, Packing), schema: SchemaRef, dialect: &Dialect) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 16, tempfile::tempfile().map_err(spool)?);
        let packed = match packing {
            Packing::Plain => Packed::Plain(file),
            Packing::Gzip => Packed::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default())),
            Packing::Zstd => Packed::Zstd(zstd::stream::write::Encoder::new(file, 3).map_err(spool)?),
        };
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let rows = match format {
            Format::Csv => RowWriter::csv(packed, dialect, &names)?,
            Format::Ndjson => RowWriter::Ndjson(packed),
            Format::Parquet => RowWriter::parquet(packed, Arc::clone(&schema))?,
        };
        Ok(Self { rows, schema })
    }

    /// Writes rows whose columns may be fewer, or of other types, than those of the file.
    fn write(&mut self, records: &RecordBatch) -> Result<()> {
        if records.num_rows() > 0 {
            self.rows.write(&shaped(records, &self.schema).map_err(spool)?)?;
        }
        Ok(())
    }

    /// Returns the file, at its beginning.
    fn finish(self) -> Result<File> {
        let mut buffered = match self.rows.finish()? {
            Packed::Plain(output) => output,
            Packed::Gzip(output) => output.finish().map_err(spool)?,
            Packed::Zstd(output) => output.finish().map_err(spool)?,
        };
        buffered.flush().map_err(spool)?;
        let mut file = buffered.into_inner().map_err(|error| spool(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(spool)?;
        Ok(file)
    }
}

/// Returns records with exactly these columns: a missing one is null, one of another type goes through its text.
fn shaped(records: &RecordBatch, schema: &SchemaRef) -> std::result::Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        let Some(column) = records.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), records.num_rows()));
        };
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        through_text(column, field)
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<std::result::Result<_, _>>()?)
}

fn through_text(column: &ArrayRef, field: &ArrowField) -> std::result::Result<ArrayRef, ArrowError> {
    let misfit = || ArrowError::CastError(format!("a value does not fit the column {}", field.name()));
    let mut values = Column::new(Type::from_arrow(field.data_type()).ok_or_else(misfit)?);
    for row in 0..column.len() {
        match text_of(column.as_ref(), row) {
            None => values.push_null(),
            Some(text) if values.push(&text) => {}
            Some(_) => return Err(misfit()),
        }
    }
    Ok(values.finish())
}

/// Returns the place of the key among the columns.
fn key(records: &RecordBatch, target: &Target) -> Result<usize> {
    records.schema_ref().index_of(&target.key).map_err(|error| {
        let message = format!("{} has no field {}", target.entity.name, target.key);
        Error::new(Class::Mapping, message).caused_by(error)
    })
}

fn text(records: &RecordBatch, place: usize, row: usize) -> String {
    text_of(records.column(place).as_ref(), row).unwrap_or_default().into_owned()
}

/// Returns the rows by their keys.
fn keys(records: &RecordBatch, target: &Target) -> Result<HashMap<String, usize>> {
    let place = key(records, target)?;
    Ok((0..records.num_rows()).map(|row| (text(records, place, row), row)).collect())
}

/// Returns prints of the keys, sorted.
fn prints(records: &RecordBatch, target: &Target) -> Result<Vec<u64>> {
    let place = key(records, target)?;
    let column = records.column(place);
    let print = |row| quick_digest(text_of(column.as_ref(), row).unwrap_or_default().as_bytes());
    let mut prints: Vec<u64> = (0..records.num_rows()).map(print).collect();
    prints.sort_unstable();
    Ok(prints)
}

/// Returns the next rows of a file, all of which can be read.
pub(super) fn whole(reader: &mut RowReader, name: &str) -> Result<Option<ChangeBatch>> {
    let batch = reader.next_batch(8_192)?;
    if let Some(bad) = batch.as_ref().and_then(|batch| batch.unreadable.first()) {
        let message = format!("{name} can't be rewritten, for a row of it can't be read: {}", bad.error.message);
        return Err(Error::new(Class::Mapping, message));
    }
    Ok(batch)
}

/// Says of each of these rows whether files have one with its key.
pub(super) fn known(files: Vec<Opened>, target: &Target, records: &RecordBatch) -> Result<Vec<bool>> {
    let rows = keys(records, target)?;
    let mut known = vec![false; records.num_rows()];
    for file in files {
        let mut reader = file.rows_of(Some(&target.key))?;
        while let Some(batch) = whole(&mut reader, &target.entity.name)? {
            let place = key(&batch.records, target)?;
            for row in 0..batch.len() {
                let key = text_of(batch.records.column(place).as_ref(), row).unwrap_or_default();
                if let Some(at) = rows.get(key.as_ref()) {
                    known[*at] = true;
                }
            }
        }
    }
    Ok(known)
}

/// Writes the rows of several files, and more behind them, as one.
pub(super) fn joined(
    files: Vec<Opened>,
    more: Option<&RecordBatch>,
    target: &Target,
    dialect: &Dialect,
) -> Result<File> {
    let mut output = Output::new(kind_of(&target.entity.name)?, schema_of(&target.entity), dialect)?;
    for file in files {
        let mut reader = file.rows()?;
        while let Some(batch) = whole(&mut reader, &target.entity.name)? {
            output.write(&batch.records)?;
        }
    }
    if let Some(more) = more {
        output.write(more)?;
    }
    output.finish()
}

/// Copies the rows of the old files that stay, then writes the changes. Returns no file when nothing changes.
fn merge(
    old: Vec<Opened>,
    target: &Target,
    changes: &ChangeBatch,
    dialect: &Dialect,
) -> Result<(Option<File>, Vec<Outcome>)> {
    let name = &target.entity.name;
    let rows = keys(&changes.records, target)?;
    let mut outcomes = vec![Outcome::Unchanged; changes.len()];
    let mut known = vec![false; changes.len()];
    let schema = schema_of(&target.entity);
    let mut output = Output::new(kind_of(name)?, Arc::clone(&schema), dialect)?;
    let wanted = shaped(&changes.records, &schema).map_err(spool)?;
    // Columns that were not sent keep what they hold.
    let sent: Vec<usize> =
        changes.records.schema_ref().fields().iter().filter_map(|field| schema.index_of(field.name()).ok()).collect();
    for old in old {
        let mut reader = old.rows()?;
        while let Some(batch) = whole(&mut reader, name)? {
            let place = key(&batch.records, target)?;
            let before = shaped(&batch.records, &schema).map_err(spool)?;
            let mut picks: Vec<(usize, Option<usize>)> = Vec::with_capacity(batch.len());
            for row in 0..batch.len() {
                let Some(change) = rows.get(&text(&batch.records, place, row)).copied() else {
                    picks.push((row, None));
                    continue;
                };
                // A second row of the same key goes: a key names one record.
                if std::mem::replace(&mut known[change], true) {
                    continue;
                }
                let cell = |records: &RecordBatch, column: usize, row: usize| {
                    text_of(records.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
                };
                if changes.ops[change] == Op::Delete {
                    outcomes[change] = Outcome::Applied { created: false, id: None };
                } else if sent.iter().all(|column| cell(&before, *column, row) == cell(&wanted, *column, change)) {
                    picks.push((row, None));
                } else {
                    outcomes[change] = Outcome::Applied { created: false, id: None };
                    picks.push((row, Some(change)));
                }
            }
            output.write(&picked(&before, &wanted, &sent, &picks).map_err(spool)?)?;
        }
    }
    let mut added = Vec::new();
    for row in 0..changes.len() {
        if changes.ops[row] == Op::Upsert && !known[row] {
            outcomes[row] = Outcome::Applied { created: true, id: None };
            added.push(row as u32);
        }
    }
    if outcomes.iter().all(|outcome| *outcome == Outcome::Unchanged) {
        return Ok((None, outcomes));
    }
    output.write(&take_record_batch(&wanted, &UInt32Array::from(added)).map_err(spool)?)?;
    Ok((Some(output.finish()?), outcomes))
}

/// Returns rows of the old file, of which those with a change have the columns that were sent from there.
fn picked(
    before: &RecordBatch,
    wanted: &RecordBatch,
    sent: &[usize],
    picks: &[(usize, Option<usize>)],
) -> std::result::Result<RecordBatch, ArrowError> {
    let columns = (0..before.num_columns()).map(|column| {
        let places: Vec<(usize, usize)> = picks
            .iter()
            .map(|(row, change)| match change {
                Some(change) if sent.contains(&column) => (1, *change),
                _ => (0, *row),
            })
            .collect();
        interleave(&[before.column(column).as_ref(), wanted.column(column).as_ref()], &places)
    });
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
    RecordBatch::try_new_with_options(before.schema(), columns, &options)
}
