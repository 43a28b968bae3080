//! Endpoints for databases: a folder each, over the traits of `endpoint`. Today there is SQLite.

mod sql;
pub mod sqlite;
