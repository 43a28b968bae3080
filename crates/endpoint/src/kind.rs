//! What a configuration may say of a connection, and how one is opened from it.

use std::path::Path;
use std::sync::Arc;

use model::Class;
use schemars::{JsonSchema, Schema};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Endpoint, Error, Journal, Result};

/// Follows references such as `${env:NAME}`, which stand where a secret or an address would.
pub trait References: Send + Sync {
    /// Returns what a text refers to; a text that refers to nothing is itself.
    ///
    /// # Errors
    ///
    /// A reference that leads nowhere.
    fn resolve(&self, text: &str) -> Result<String>;

    /// Returns the secret that a text refers to.
    ///
    /// # Errors
    ///
    /// A reference that leads nowhere, or a text that is the secret itself.
    fn secret(&self, text: &str) -> Result<SecretString>;
}

/// What a connection is opened with besides its own configuration.
pub struct Setup<'s> {
    /// Name of the connection.
    pub name: &'s str,
    /// Folder of the project, which relative paths start from.
    pub folder: &'s Path,
    /// Folder for what has to be kept between runs, such as a rotated token.
    pub state: &'s Path,
    /// Follows references.
    pub references: &'s dyn References,
    /// Remembers work in progress.
    pub journal: Arc<dyn Journal>,
}

/// Opens a connection from its configuration, without `kind`.
type Open = fn(Value, &Setup<'_>) -> Result<Arc<dyn Endpoint>>;

/// A kind of connection: all that help, schema, forms and reference pages need to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The word for it in a configuration, such as `postgres`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub summary: &'static str,
    /// The JSON Schema of its configuration, without `kind`.
    pub schema: fn() -> Schema,
    /// Opens a connection.
    pub open: Open,
}

impl Kind {
    /// Returns a kind whose configuration is a `C`.
    pub const fn new<C: JsonSchema>(name: &'static str, summary: &'static str, open: Open) -> Self {
        Self { name, summary, schema: schema_of::<C>, open }
    }
}

fn schema_of<C: JsonSchema>() -> Schema {
    schemars::schema_for!(C)
}

/// Reads the configuration of a connection.
///
/// # Errors
///
/// Class `Mapping`, naming the field, when it is none of the kind.
pub fn configuration<C: DeserializeOwned>(value: Value) -> Result<C> {
    serde_json::from_value(value).map_err(|error| Error::new(Class::Mapping, error.to_string()))
}
