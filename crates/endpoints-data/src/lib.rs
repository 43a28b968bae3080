//! Endpoints for databases: a folder each, over the traits of `endpoint`.

pub mod postgres;
mod sql;
pub mod sqlite;
