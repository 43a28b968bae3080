//! What the org answers when it refuses.

use serde_json::{Value, json};

/// A refusal: the status of the answer and the entry of its error array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) fields: Vec<String>,
    /// What a rule against duplicates found.
    pub(crate) duplicates: Option<Box<Value>>,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), fields: Vec::new(), duplicates: None }
    }

    /// A refusal that names a field.
    pub(crate) fn on(field: &str, code: &str, message: impl Into<String>) -> Self {
        Self { fields: vec![field.to_owned()], ..Self::new(400, code, message) }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(404, "NOT_FOUND", "The requested resource does not exist")
    }

    /// What should not happen.
    pub(crate) fn unexpected(why: &str) -> Self {
        tracing::error!(why, "the org failed");
        Self::new(500, "UNKNOWN_EXCEPTION", format!("An unexpected error occurred: {why}"))
    }

    /// The entry as single calls send it.
    pub(crate) fn entry(&self) -> Value {
        let mut entry = json!({"message": self.message, "errorCode": self.code});
        if !self.fields.is_empty() {
            entry["fields"] = json!(self.fields);
        }
        if let Some(found) = &self.duplicates {
            // The platform misspells the key, and clients look for it so. Source: recorded answers.
            entry = json!({"duplicateResut": found, "errorCode": self.code, "message": self.message});
        }
        entry
    }

    /// The entry as collections send it, and SOAP.
    pub(crate) fn save_entry(&self) -> Value {
        let mut entry = json!({"statusCode": self.code, "message": self.message, "fields": self.fields});
        if let Some(found) = &self.duplicates {
            entry["duplicateResut"] = json!(found);
        }
        entry
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        tracing::error!(%error, "the org's database failed");
        Self::new(500, "UNKNOWN_EXCEPTION", format!("An unexpected error occurred: {error}"))
    }
}

/// What a call into the org returns.
pub(crate) type Answered<T> = Result<T, ApiError>;
