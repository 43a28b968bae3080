//! Changes on their way from a source to a target.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::RecordError;

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The record exists with these values; whether it is new is not known.
    Upsert,
    /// The record is gone; only its key columns mean anything.
    Delete,
}

/// One of the two sides that a mapping pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The Salesforce org.
    Salesforce,
    /// The system outside.
    External,
}

impl Side {
    /// Returns the other side.
    pub fn other(self) -> Self {
        match self {
            Self::Salesforce => Self::External,
            Self::External => Self::Salesforce,
        }
    }
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
    /// Rows between these that the source could not read as what they should be.
    pub unreadable: Vec<Unreadable>,
    /// Where the source stands once this batch has an outcome for every row.
    pub position: Option<Position>,
}

/// A row that a source holds but can't be read as its entity says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Key of the record as far as it could be read; else where it stands, such as `line 17`.
    pub key: String,
    /// What could be read of it: texts and nulls by field.
    pub record: Vec<(String, Option<String>)>,
    /// What is wrong with it.
    pub error: RecordError,
}

impl ChangeBatch {
    /// Returns a batch whose rows all exist in the source.
    pub fn upserts(records: RecordBatch, position: Option<Position>) -> Self {
        let ops = vec![Op::Upsert; records.num_rows()];
        Self { records, ops, unreadable: Vec::new(), position }
    }

    /// Returns a batch whose rows are all gone from the source.
    pub fn deletes(records: RecordBatch, position: Option<Position>) -> Self {
        let ops = vec![Op::Delete; records.num_rows()];
        Self { records, ops, unreadable: Vec::new(), position }
    }

    /// Returns the number of rows that could be read.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}
