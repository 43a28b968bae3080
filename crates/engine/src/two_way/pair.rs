//! What is known of a pair on its way through a run.

use std::collections::HashMap;

use arrow::array::{Array, RecordBatch};
use endpoint::Revision;
use mapping::Mapped;
use model::{RecordError, Side, digest, text_of};
use state::{Conflict, Link};

use super::PreparedPairs;
use crate::merge::{Base, Decision, Print, place};

/// The print of a value that has none on the other side: it equals nothing there.
pub(super) const UNMAPPED: Print = 3;
/// Code of a record whose parent has no counterpart yet.
pub(super) const MISSING_PARENT: &str = "MISSING_PARENT";
/// Code of a record that more than one may be.
pub(super) const AMBIGUOUS: &str = "AMBIGUOUS_MATCH";
/// What stands for the field of a question whether two records are one.
pub(super) const MATCH: &str = "(match)";
pub(super) const SIDES: [Side; 2] = [Side::Salesforce, Side::External];

/// Two records that are one, or will be.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// For each side the row of its batch.
    pub(super) rows: [Option<usize>; 2],
    pub(super) link: Option<Link>,
    /// Id of the Salesforce record; empty if there is none.
    pub(super) id: String,
    /// Key of the external record.
    pub(super) key: String,
}

/// The rows of one side, and what they would be on the other.
pub(super) struct Loaded {
    pub(super) batch: RecordBatch,
    pub(super) mapped: Option<Mapped>,
    /// For each row its row in what was mapped.
    pub(super) mapped_rows: Vec<Option<usize>>,
    pub(super) refused: HashMap<usize, RecordError>,
    /// Rows with fields that are left out until the parent which they name has a link.
    pub(super) deferred: HashMap<usize, Vec<usize>>,
    /// The prints of its own values.
    pub(super) own: Prints,
    /// The prints of what its values would be on the other side.
    pub(super) across: Prints,
}

/// Prints of the fields of many rows, those of a row together.
pub(super) struct Prints {
    fields: usize,
    values: Vec<Print>,
}

impl Prints {
    /// Returns as many nulls.
    pub(super) fn nulls(rows: usize, fields: usize) -> Self {
        Self { fields, values: vec![0; rows * fields] }
    }

    /// Puts the prints of a column into the place of a field, row by row.
    pub(super) fn put(&mut self, field: usize, column: impl Iterator<Item = Print>) {
        for (print, place) in column.zip(self.values.iter_mut().skip(field).step_by(self.fields.max(1))) {
            *place = print;
        }
    }

    /// Takes the prints of a field from others of as many rows and fields.
    pub(super) fn copy(&mut self, field: usize, from: &Self) {
        let places = self.values.iter_mut().skip(field).step_by(self.fields.max(1));
        for (place, print) in places.zip(from.values.iter().skip(field).step_by(self.fields.max(1))) {
            *place = *print;
        }
    }

    /// Returns the prints of a row.
    pub(super) fn row(&self, row: usize) -> &[Print] {
        &self.values[row * self.fields..(row + 1) * self.fields]
    }
}

/// A write to one side of a pair.
pub(super) struct Write {
    pub(super) pair: usize,
    pub(super) revision: Revision,
    /// Columns of the mapped batch.
    pub(super) columns: Vec<usize>,
    /// Fields among the pairs of the mapping.
    pub(super) fields: Vec<usize>,
}

/// What was decided about a pair.
pub(super) struct Settled {
    pub(super) pair: usize,
    pub(super) decision: Decision,
    /// The base before.
    pub(super) before: Option<Base>,
    /// The base after, if every write succeeds.
    pub(super) after: Base,
    pub(super) conflicts: Vec<Conflict>,
    /// What both sides will have agreed on, as JSON, where a person may have to know it.
    pub(super) values: Option<String>,
    /// Fields whose conflict no longer waits for a person.
    pub(super) done: Vec<String>,
}

pub(super) fn text_at(
    prepared: &PreparedPairs,
    halves: &[Loaded; 2],
    pair: &Pair,
    side: Side,
    field: usize,
) -> Option<String> {
    let column = prepared.own[place(side)][field]?;
    let row = pair.rows[place(side)]?;
    text_of(halves[place(side)].batch.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
}

/// Returns the prints of a column.
pub(super) fn prints(column: &dyn Array) -> impl Iterator<Item = Print> + '_ {
    (0..column.len()).map(|row| text_of(column, row).map_or(0, |text| print_of(&text)))
}

/// Returns the print of a text, which differs from that of none.
pub(super) fn print_of(text: &str) -> Print {
    digest(text.as_bytes()) | 1
}
