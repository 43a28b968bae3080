//! Rows of texts gathered into batches; a row that does not fit is set aside with its reason.

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use endpoint::{Guarded, Revision};
use model::{ChangeBatch, Column, Position, RecordError, Type, Unreadable, text_of};

/// Longest part of a value that a message shows, in characters.
const SHOWN: usize = 20;

/// True when the row `found` of `there` is what a guarded write expects of its row: in the columns that it writes, and of a
/// deletion in all that were read.
pub(crate) fn is_as_read(changes: &Guarded, row: usize, there: &RecordBatch, found: usize) -> bool {
    let schema = changes.expected.schema();
    let written: Vec<&String> =
        changes.written[row].iter().map(|column| changes.records.schema_ref().field(*column).name()).collect();
    let same = |(column, field): (&ArrayRef, &arrow::datatypes::FieldRef)| {
        let compared = changes.revisions[row] == Revision::Delete || written.contains(&field.name());
        let now = there.column_by_name(field.name()).and_then(|now| text_of(now.as_ref(), found));
        !compared || now == text_of(column.as_ref(), row)
    };
    changes.expected.columns().iter().zip(schema.fields()).all(same)
}

/// Rows on their way into a batch.
pub(crate) struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    good: Vec<bool>,
    unreadable: Vec<Unreadable>,
    count: usize,
}

impl Rows {
    /// Returns an empty batch-to-be of this schema; `kinds` has the type of each column.
    pub(crate) fn new(schema: SchemaRef, kinds: &[Type]) -> Self {
        Self {
            schema,
            columns: kinds.iter().map(|kind| Column::new(*kind)).collect(),
            good: Vec::new(),
            unreadable: Vec::new(),
            count: 0,
        }
    }

    /// Returns the number of rows so far, good and bad.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds a row, and returns whether it fits. Where a value is none of its column's type, the row is set aside: its key
    /// is that of the first column, or else what `place` says.
    pub(crate) fn add<S: AsRef<str>>(&mut self, cells: &[Option<S>], place: impl FnOnce() -> String) -> bool {
        let mut misfit: Option<usize> = None;
        for (index, (column, cell)) in self.columns.iter_mut().zip(cells).enumerate() {
            match cell {
                Some(text) if misfit.is_none() => {
                    if !column.push(text.as_ref()) {
                        misfit = Some(index);
                        column.push_null();
                    }
                }
                _ => column.push_null(),
            }
        }
        self.good.push(misfit.is_none());
        let Some(index) = misfit else {
            self.count += 1;
            return true;
        };
        let place = place();
        let name = self.schema.field(index).name();
        let shown: String = cells[index].as_ref().map_or("", AsRef::as_ref).chars().take(SHOWN).collect();
        let message = format!("{place}: {name} is {shown:?}, which is no {}", self.columns[index].kind());
        let error = RecordError::rejected("NOT_CONVERTIBLE", message).with_field(name);
        self.set_aside(cells, place, error);
        false
    }

    /// Sets a row aside that could not be read at all.
    pub(crate) fn set_aside<S: AsRef<str>>(&mut self, cells: &[Option<S>], place: String, error: RecordError) {
        let key = cells.first().and_then(Option::as_ref).map(|key| key.as_ref().to_owned());
        let names = self.schema.fields().iter().map(|field| field.name().clone());
        let texts = cells.iter().map(|cell| cell.as_ref().map(|text| text.as_ref().to_owned()));
        let record = names.zip(texts).collect();
        self.count += 1;
        self.unreadable.push(Unreadable { key: key.filter(|key| !key.is_empty()).unwrap_or(place), record, error });
    }

    /// Keeps a text more with the row that was set aside last.
    pub(crate) fn keep(&mut self, name: &str, text: String) {
        if let Some(row) = self.unreadable.last_mut() {
            row.record.push((name.to_owned(), Some(text)));
        }
    }

    /// Returns the rows added since the last call.
    pub(crate) fn finish(&mut self, position: Option<Position>) -> Result<ChangeBatch, ArrowError> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        let mut records = RecordBatch::try_new(self.schema.clone(), arrays)?;
        if self.good.contains(&false) {
            records = filter_record_batch(&records, &BooleanArray::from(std::mem::take(&mut self.good)))?;
        }
        self.good.clear();
        self.count = 0;
        let mut batch = ChangeBatch::upserts(records, position);
        batch.unreadable = std::mem::take(&mut self.unreadable);
        Ok(batch)
    }
}
