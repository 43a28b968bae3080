//! Endpoints for databases, files and brokers: a folder each, over the traits of `endpoint`.

pub mod brokers;
pub mod files;
mod json;
pub mod postgres;
mod rows;
mod sql;
pub mod sqlite;
pub mod tls;

/// Returns the kinds of connection that live here. A new one gets a line.
pub fn kinds() -> Vec<endpoint::Kind> {
    vec![
        postgres::KIND,
        sqlite::KIND,
        files::KIND,
        brokers::nats::KIND,
        brokers::rabbitmq::KIND,
        brokers::kafka::KIND,
        brokers::webhook::KIND,
        brokers::inbox::KIND,
    ]
}
