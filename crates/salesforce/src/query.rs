//! SOQL over REST, page by page.

use outbound::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::error::{ApiError, Error};

/// Longest address that an org takes, in bytes, with headroom for the host.
///
/// Source: REST API guide, "Query": the URI and headers together hold 16,384 bytes.
const MAX_PATH_BYTES: usize = 14_000;

/// A page of an answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Records in all, as the org counts them.
    pub total_size: u64,
    /// True on the last page.
    pub done: bool,
    /// Path of the next page.
    pub next_records_url: Option<String>,
    /// The records, each with its `attributes`.
    pub records: Vec<Map<String, Value>>,
}

/// Returns the request for the first page of `soql`. One that fits no address is posted inside a
/// composite call, whose answer [`Client::query`] takes apart.
fn first(client: &Client, soql: &str, deleted: bool) -> (Request, bool) {
    let resource = if deleted { "queryAll" } else { "query" };
    let encoded = percent_encoding::utf8_percent_encode(soql, percent_encoding::NON_ALPHANUMERIC);
    let path = client.path(&format!("{resource}/?q={encoded}"));
    if path.len() <= MAX_PATH_BYTES {
        return (Request::get(path), false);
    }
    let body = json!({"compositeRequest": [{"method": "GET", "url": path, "referenceId": "page"}]});
    (Request::new("POST", client.path("composite")).json(&body).idempotent(), true)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Composite {
    composite_response: Vec<SubAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubAnswer {
    body: Value,
    http_status_code: u16,
}

impl Client {
    /// Reads the first page of a query; with `deleted`, also of what is in the recycle bin.
    pub async fn query(&self, soql: &str, deleted: bool) -> Result<Page, Error> {
        let (request, posted) = first(self, soql, deleted);
        if !posted {
            return self.json(&request).await;
        }
        let bad = |source: outbound::BoxError| Error::BadAnswer { what: "the posted query".to_owned(), source };
        let mut answer: Composite = self.json(&request).await?;
        let Some(sub) = answer.composite_response.pop() else { return Err(bad("it is empty".into())) };
        if sub.http_status_code != 200 {
            let errors: Vec<ApiError> = serde_json::from_value(sub.body).map_err(|error| bad(error.into()))?;
            let source = errors.into_iter().next().ok_or_else(|| bad("it has no reason".into()))?;
            return Err(Error::Refused { what: "the query".to_owned(), status: sub.http_status_code, source });
        }
        serde_json::from_value(sub.body).map_err(|error| bad(error.into()))
    }

    /// Reads the page after `page`; `None` after the last.
    pub async fn next_page(&self, page: &Page) -> Result<Option<Page>, Error> {
        match &page.next_records_url {
            Some(path) if !page.done => self.json(&Request::get(path.clone())).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Returns the number of records that a `SELECT COUNT()` counts.
    pub async fn count(&self, soql: &str, deleted: bool) -> Result<u64, Error> {
        Ok(self.query(soql, deleted).await?.total_size)
    }
}
