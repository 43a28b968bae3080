//! A chunk: mapped rows that are written and committed together, with the source rows they came from.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use model::{Column, RecordError, Type, Unreadable, quick_digest, text_of};
use serde_json::{Map, Value};

use crate::sync::History;

/// Most bytes of a chunk, so that wide rows don't fill the memory.
const MAX_BYTES: usize = 32 << 20;

/// Rows that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) sources: Vec<RecordBatch>,
    mapped: Vec<RecordBatch>,
    /// For each mapped row, its row among all source rows.
    origins: Vec<u32>,
    pub(crate) refused: Vec<(usize, RecordError)>,
    /// Rows that the source could not read.
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) rows: usize,
    bytes: usize,
}

/// A chunk made ready: no two rows with one key, rows of one parent together.
pub(crate) struct Ready {
    pub(crate) source: RecordBatch,
    pub(crate) mapped: RecordBatch,
    pub(crate) origins: Vec<usize>,
    pub(crate) refused: Vec<(usize, RecordError)>,
}

impl Chunk {
    pub(crate) fn add(&mut self, source: RecordBatch, mapped: mapping::Mapped) {
        self.origins.extend(mapped.rows.iter().map(|row| (row + self.rows) as u32));
        self.refused.extend(mapped.refused.into_iter().map(|(row, error)| (row + self.rows, error)));
        self.rows += source.num_rows();
        self.bytes += source.get_array_memory_size() + mapped.records.get_array_memory_size();
        self.sources.push(source);
        self.mapped.push(mapped.records);
    }

    pub(crate) fn is_full(&self, rows: usize) -> bool {
        self.rows + self.unreadable.len() >= rows || self.bytes >= MAX_BYTES
    }

    /// Puts the rows together; `None` when there are none. `identity` is the source's column that tells records apart.
    pub(crate) fn ready(self, key: &str, identity: usize, parents: &[String]) -> Result<Option<Ready>, ArrowError> {
        let (Some(first), Some(first_mapped)) = (self.sources.first(), self.mapped.first()) else { return Ok(None) };
        let source = concat_batches(first.schema_ref(), &self.sources)?;
        let mapped = concat_batches(first_mapped.schema_ref(), &self.mapped)?;
        let mut refused = self.refused;
        let place = mapped.schema_ref().index_of(key)?;
        // Of rows with one target key the last of one source record counts; another record is refused.
        let text = |row: usize| text_of(mapped.column(place).as_ref(), row).unwrap_or_default();
        let mut keep = vec![true; mapped.num_rows()];
        // Rows come in the order of their key, as a rule: no two of them have the same one then.
        let doubtful = if (1..mapped.num_rows()).all(|row| text(row - 1) < text(row)) { 0 } else { mapped.num_rows() };
        let mut holders: HashMap<Cow<'_, str>, usize> = HashMap::with_capacity(doubtful);
        for row in 0..doubtful {
            let text = text(row);
            let Some(before) = holders.insert(text.clone(), row) else { continue };
            let origin = |row: usize| text_of(source.column(identity).as_ref(), self.origins[row] as usize);
            let same = (0..mapped.num_columns()).all(|column| {
                text_of(mapped.column(column).as_ref(), row) == text_of(mapped.column(column).as_ref(), before)
            });
            if same || (identity > 0 && origin(row) == origin(before)) {
                keep[before] = false;
            } else {
                keep[row] = false;
                let message = format!("{key} {text:?} is that of another record in the same batch, which was taken");
                refused.push((
                    self.origins[row] as usize,
                    RecordError::rejected("DUPLICATE_KEY", message).with_field(key),
                ));
                holders.insert(text, before);
            }
        }
        let mut order: Vec<u32> = (0..mapped.num_rows() as u32).collect();
        let columns: Vec<SortColumn> = parents
            .iter()
            .filter_map(|name| mapped.column_by_name(name))
            .map(|column| SortColumn { values: column.clone(), options: None })
            .collect();
        if !columns.is_empty() {
            order = lexsort_to_indices(&columns, None)?.values().to_vec();
        }
        order.retain(|row| keep[*row as usize]);
        let origins = order.iter().map(|row| self.origins[*row as usize] as usize).collect();
        let mapped = take_record_batch(&mapped, &UInt32Array::from(order))?;
        Ok(Some(Ready { source, mapped, origins, refused }))
    }
}

/// Returns a row as a JSON object of texts and nulls.
pub(crate) fn row_json(batch: &RecordBatch, row: usize) -> String {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    let object: Map<String, Value> = fields
        .map(|(field, column)| {
            (field.name().clone(), text_of(column.as_ref(), row).map_or(Value::Null, |text| text.into_owned().into()))
        })
        .collect();
    Value::Object(object).to_string()
}

/// Returns what is kept of a written row, as a JSON object.
pub(crate) fn written_json(batch: &RecordBatch, row: usize, history: History) -> String {
    if history == History::Values {
        return row_json(batch, row);
    }
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    let object: Map<String, Value> = fields
        .map(|(field, column)| {
            let print = |text: Cow<'_, str>| Value::String(format!("#{:016x}", quick_digest(text.as_bytes())));
            (field.name().clone(), text_of(column.as_ref(), row).map_or(Value::Null, print))
        })
        .collect();
    Value::Object(object).to_string()
}

/// Rebuilds rows from [`row_json`]; a row that does not fit the fields of today is left out.
pub(crate) fn from_json(
    rows: &[&str],
    names: &[String],
    kinds: &[Type],
) -> Result<(RecordBatch, Vec<usize>), ArrowError> {
    let parsed: Vec<Map<String, Value>> =
        rows.iter().map(|row| serde_json::from_str(row).unwrap_or_default()).collect();
    let fits = |row: &Map<String, Value>| {
        names.iter().zip(kinds).all(|(name, kind)| match row.get(name) {
            Some(Value::Null) => true,
            Some(Value::String(text)) => Column::new(*kind).push(text),
            _ => false,
        })
    };
    let kept: Vec<usize> = (0..parsed.len()).filter(|row| fits(&parsed[*row])).collect();
    let columns = names.iter().zip(kinds).map(|(name, kind)| {
        let mut column = Column::new(*kind);
        for row in &kept {
            match parsed[*row].get(name).and_then(Value::as_str) {
                Some(text) if column.push(text) => {}
                _ => column.push_null(),
            }
        }
        (name.clone(), column.finish(), true)
    });
    Ok((RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<(String, ArrayRef, bool)>>())?, kept))
}

/// Returns for each row the print of all its values: its base, where records go one way.
pub(crate) fn bases(batch: &RecordBatch) -> Vec<u64> {
    let mut bases = vec![0; batch.num_rows()];
    for column in batch.columns() {
        let mut add = |print: &dyn Fn(usize) -> u64| {
            for (row, base) in bases.iter_mut().enumerate() {
                // A value and the absence of one must differ.
                *base = joined(*base, if column.is_null(row) { 0 } else { print(row) | 1 });
            }
        };
        // What is a number already needs no text to be told from others.
        match column.data_type() {
            DataType::Utf8 => {
                let texts = column.as_string::<i32>();
                add(&|row| quick_digest(texts.value(row).as_bytes()));
            }
            DataType::Int64 => {
                let numbers = column.as_primitive::<Int64Type>();
                add(&|row| quick_digest(&numbers.value(row).to_le_bytes()));
            }
            DataType::Decimal128(_, _) => {
                let numbers = column.as_primitive::<Decimal128Type>();
                add(&|row| quick_digest(&numbers.value(row).to_le_bytes()));
            }
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                add(&|row| quick_digest(&days.value(row).to_le_bytes()));
            }
            DataType::Timestamp(_, _) => {
                let moments = column.as_primitive::<TimestampMicrosecondType>();
                add(&|row| quick_digest(&moments.value(row).to_le_bytes()));
            }
            _ => add(&|row| text_of(column.as_ref(), row).map_or(0, |text| quick_digest(text.as_bytes()))),
        }
    }
    bases
}

/// Adds the print of one more value to that of a row.
pub(crate) fn joined(row: u64, value: u64) -> u64 {
    (row.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Returns the text of a value; empty for null.
pub(crate) fn cell(batch: &RecordBatch, column: usize, row: usize) -> String {
    text_of(batch.column(column).as_ref(), row).unwrap_or_default().into_owned()
}

/// Returns the text of a row's first column, the key of its source.
pub(crate) fn source_key(batch: &RecordBatch, row: usize) -> Cow<'_, str> {
    text_of(batch.column(0).as_ref(), row).unwrap_or_default()
}
