//! What became of a change that was written.

use serde::{Deserialize, Serialize};

use crate::Class;

/// Why one record was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RecordError {
    /// The system's own code, such as `STRING_TOO_LONG` or `23505`.
    pub code: String,
    /// The system's own words.
    pub message: String,
    /// Fields that the system named.
    pub fields: Vec<String>,
    /// What can be done about it.
    pub class: Class,
}

impl RecordError {
    /// Returns the error of a record that is itself at fault.
    pub fn rejected(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), fields: Vec::new(), class: Class::Rejected }
    }

    /// The same error, naming a field.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.fields.push(field.into());
        self
    }
}

/// What became of one row of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target holds the row now.
    Applied {
        /// True when the record did not exist before.
        created: bool,
        /// Key of the record in the target, where the target tells.
        id: Option<String>,
    },
    /// The target held the row already.
    Unchanged,
    /// The target refused the row and is as it was.
    Refused(RecordError),
    /// The record is not as it was read, so a guarded write left it alone.
    Moved,
}

impl Outcome {
    /// Returns the error of a refused row.
    pub fn error(&self) -> Option<&RecordError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Applied { .. } | Self::Unchanged | Self::Moved => None,
        }
    }
}
