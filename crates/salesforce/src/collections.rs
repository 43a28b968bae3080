//! Writes of up to 200 records in one call.

use outbound::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::error::{ApiError, Error};

/// Records in one call. Source: REST API guide, "sObject Collections".
pub const MAX_RECORDS: usize = 200;

/// What became of one record.
#[derive(Debug, Clone, Deserialize)]
pub struct Saved {
    /// The record's id; absent if it was refused.
    pub id: Option<String>,
    /// True when it was written.
    pub success: bool,
    /// True when an upsert made a new record.
    #[serde(default)]
    pub created: bool,
    /// The reasons of a refusal.
    #[serde(default)]
    pub errors: Vec<ApiError>,
}

/// Returns the request that upserts records by an external id, each for itself.
pub fn upsert(client: &Client, object: &str, key: &str, records: Vec<Map<String, Value>>) -> Request {
    let path = client.path(&format!("composite/sobjects/{object}/{key}"));
    Request::new("PATCH", path).json(&body(object, records)).idempotent()
}

/// Returns the request that updates records by their ids, each for itself.
pub fn update(client: &Client, object: &str, records: Vec<Map<String, Value>>) -> Request {
    Request::new("PATCH", client.path("composite/sobjects")).json(&body(object, records)).idempotent()
}

/// Returns the request that creates records, each for itself.
pub fn create(client: &Client, object: &str, records: Vec<Map<String, Value>>) -> Request {
    Request::new("POST", client.path("composite/sobjects")).json(&body(object, records))
}

/// Returns the request that deletes records by their ids, each for itself.
pub fn delete(client: &Client, ids: &[&str]) -> Request {
    Request::new("DELETE", client.path(&format!("composite/sobjects?ids={}&allOrNone=false", ids.join(","))))
}

fn body(object: &str, records: Vec<Map<String, Value>>) -> Value {
    let records: Vec<Value> = records
        .into_iter()
        .map(|fields| {
            let mut record = Map::with_capacity(fields.len() + 1);
            record.insert("attributes".to_owned(), json!({"type": object}));
            record.extend(fields);
            Value::Object(record)
        })
        .collect();
    json!({"allOrNone": false, "records": records})
}

impl Client {
    /// Sends a request of this module and returns one result per record, in their order.
    pub async fn save(&self, request: &Request) -> Result<Vec<Saved>, Error> {
        self.json(request).await
    }
}
