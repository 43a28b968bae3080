//! Endpoints for databases and files: a folder each, over the traits of `endpoint`.

pub mod files;
pub mod postgres;
mod rows;
mod sql;
pub mod sqlite;

/// Returns the kinds of connection that live here. A new one gets a line.
pub fn kinds() -> Vec<endpoint::Kind> {
    vec![postgres::KIND, sqlite::KIND, files::KIND]
}
