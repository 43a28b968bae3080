//! Changes on their way from a source to a target.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The record exists with these values; whether it is new is not known.
    Upsert,
    /// The record is gone; only its key columns mean anything.
    Delete,
}

/// An opaque, ordered place in a source. Only the endpoint that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(String);

impl Position {
    /// Wraps the endpoint's own text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the endpoint's own text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A batch of changes of one entity.
///
/// A column that is absent was not sent and leaves the target's value alone; a null in a column
/// that is present clears it.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    /// The values, a column a field.
    pub records: RecordBatch,
    /// What happened to each row; as long as `records`.
    pub ops: Vec<Op>,
    /// Where the source stands once this batch has an outcome for every row.
    pub position: Option<Position>,
}

impl ChangeBatch {
    /// Returns a batch whose rows all exist in the source.
    pub fn upserts(records: RecordBatch, position: Option<Position>) -> Self {
        let ops = vec![Op::Upsert; records.num_rows()];
        Self { records, ops, position }
    }

    /// Returns a batch whose rows are all gone from the source.
    pub fn deletes(records: RecordBatch, position: Option<Position>) -> Self {
        let ops = vec![Op::Delete; records.num_rows()];
        Self { records, ops, position }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
