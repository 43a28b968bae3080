//! The configuration of a SQLite connection.

use std::path::PathBuf;
use std::sync::Arc;

use endpoint::{Kind, configuration};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Sqlite;

/// SQLite, as a kind of connection.
pub const KIND: Kind = Kind::new::<SqliteConfig>("sqlite", "A SQLite database on this machine.", |value, setup| {
    let config: SqliteConfig = configuration(value)?;
    Ok(Arc::new(Sqlite::new(setup.folder.join(config.path))))
});

/// A SQLite database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The file, which must exist; relative to the project.
    pub path: PathBuf,
}
