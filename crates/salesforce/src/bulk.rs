//! Bulk API 2.0: jobs whose rows travel as CSV, through files on our side, never whole in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use outbound::{Body, Request};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::client::Client;
use crate::error::Error;

/// Largest CSV body of one ingest job, in bytes.
///
/// The org counts 150 MB after base64, which can add half again; 100 MB of raw CSV always fits.
/// Source: Bulk API 2.0 Developer Guide, "Upload Job Data".
pub const MAX_UPLOAD_BYTES: u64 = 100_000_000;

/// By how much a pause grows where nothing tells how far a job is: a third of the wait may be in vain.
const STEP: f64 = 1.5;
/// Longest pause before a question about a job that tells how far it is, in pauses between those about others.
const FORESEEN: u32 = 15;

/// Which of the two kinds of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Query,
    /// Writes.
    Ingest,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Ingest => "ingest",
        }
    }
}

/// What an ingest job does with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Creates records.
    Insert,
    /// Changes records by `Id`.
    Update,
    /// Creates or changes records by an external id.
    Upsert {
        /// The field.
        external_id: String,
    },
    /// Deletes records by `Id`.
    Delete,
}

/// The state of a job.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id.
    pub id: String,
    /// `Open`, `UploadComplete`, `InProgress`, `JobComplete`, `Aborted` or `Failed`.
    pub state: String,
    /// Rows done so far.
    #[serde(default)]
    pub number_records_processed: u64,
    /// Rows refused so far.
    #[serde(default)]
    pub number_records_failed: u64,
    /// Why it failed.
    pub error_message: Option<String>,
}

impl Job {
    /// True when the org has done with it, well or badly.
    pub fn ended(&self) -> bool {
        matches!(self.state.as_str(), "JobComplete" | "Aborted" | "Failed")
    }

    /// Returns the job if it was done, and its reason if it was not.
    ///
    /// # Errors
    ///
    /// [`Error::JobFailed`] for a job that failed or was aborted.
    pub fn completed(self) -> Result<Self, Error> {
        match self.state.as_str() {
            "Aborted" | "Failed" => Err(Error::JobFailed {
                message: self.error_message.filter(|text| !text.is_empty()).unwrap_or_else(|| {
                    let who =
                        if self.state == "Aborted" { "somebody in the org stopped it" } else { "no reason given" };
                    who.to_owned()
                }),
                job: self.id,
                state: self.state,
            }),
            _ => Ok(self),
        }
    }
}

/// Bytes that are written to a file at a time.
const SPOOLED: usize = 1 << 20;

/// Which file of results of an ingest job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// Rows written, with `sf__Id` and `sf__Created`.
    Successful,
    /// Rows refused, with `sf__Id` and `sf__Error`.
    Failed,
    /// Rows that the org did not come to.
    Unprocessed,
}

/// Where the next page of a query's results begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextPage(pub Option<String>);

impl Client {
    fn jobs(&self, kind: Kind, rest: &str) -> String {
        self.path(&format!("jobs/{}{rest}", kind.word()))
    }

    /// Creates a query job.
    pub async fn create_query_job(&self, soql: &str, deleted: bool) -> Result<Job, Error> {
        let operation = if deleted { "queryAll" } else { "query" };
        let body = json!({"operation": operation, "query": soql});
        self.json(&Request::new("POST", self.jobs(Kind::Query, "")).json(&body)).await
    }

    /// Creates an ingest job.
    pub async fn create_ingest_job(&self, object: &str, operation: &Operation) -> Result<Job, Error> {
        let mut body = json!({"object": object, "contentType": "CSV", "lineEnding": "LF", "columnDelimiter": "COMMA"});
        body["operation"] = match operation {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Upsert { .. } => "upsert",
            Operation::Delete => "delete",
        }
        .into();
        if let Operation::Upsert { external_id } = operation {
            body["externalIdFieldName"] = external_id.as_str().into();
        }
        self.json(&Request::new("POST", self.jobs(Kind::Ingest, "")).json(&body)).await
    }

    /// Sends a CSV file of at most [`MAX_UPLOAD_BYTES`] as the rows of an open job.
    pub async fn upload(&self, job: &str, csv: &Path) -> Result<(), Error> {
        let mut request = Request::new("PUT", self.jobs(Kind::Ingest, &format!("/{job}/batches")));
        request = request.header("content-type", "text/csv; charset=UTF-8");
        request.body = Body::File(csv.to_owned());
        // A second upload is refused, so a broken one ends the job.
        request.idempotent = false;
        self.send(&request).await.map(drop)
    }

    /// Says that the rows are complete.
    pub async fn close(&self, job: &str) -> Result<Job, Error> {
        let body = json!({"state": "UploadComplete"});
        self.json(&Request::new("PATCH", self.jobs(Kind::Ingest, &format!("/{job}"))).json(&body)).await
    }

    /// Ends a job that runs.
    pub async fn abort(&self, kind: Kind, job: &str) -> Result<Job, Error> {
        let body = json!({"state": "Aborted"});
        self.json(&Request::new("PATCH", self.jobs(kind, &format!("/{job}"))).json(&body)).await
    }

    /// Removes a job and its results.
    pub async fn remove_job(&self, kind: Kind, job: &str) -> Result<(), Error> {
        self.send(&Request::new("DELETE", self.jobs(kind, &format!("/{job}")))).await.map(drop)
    }

    /// Returns the state of a job.
    pub async fn job(&self, kind: Kind, job: &str) -> Result<Job, Error> {
        self.json(&Request::get(self.jobs(kind, &format!("/{job}")))).await
    }

    /// Waits until the org has done with a job. Dropping the future stops waiting, not the job.
    ///
    /// The first questions come quickly, for small jobs; then, where the job tells how far it is with its `rows`, when it is
    /// likely to be done, and else every `poll_interval`.
    pub async fn wait_for(&self, kind: Kind, job: &str, rows: u64) -> Result<Job, Error> {
        let interval = self.settings().poll_interval;
        let least = (interval / 40).max(Duration::from_millis(5));
        let (mut pause, mut first) = (least, None);
        loop {
            let state = self.job(kind, job).await?;
            if state.ended() {
                return Ok(state);
            }
            let now = (Instant::now(), state.number_records_processed);
            let (begun, before) = *first.get_or_insert(now);
            pause = match now.1.saturating_sub(before) {
                // What is left will take as long as what was done did, row by row, and often less: halfway there it is known better.
                done if done > 0 && rows > now.1 => {
                    let left = begun.elapsed().mul_f64((rows - now.1) as f64 / done as f64);
                    (left / 2).clamp(least, interval * FORESEEN)
                }
                _ => pause.mul_f64(STEP).min(interval),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes a page of a query's results to `file` and returns where the next begins.
    pub async fn query_results(
        &self,
        job: &str,
        locator: Option<&str>,
        max_records: usize,
        file: &Path,
    ) -> Result<NextPage, Error> {
        let mut path = self.jobs(Kind::Query, &format!("/{job}/results?maxRecords={max_records}"));
        if let Some(locator) = locator {
            path.push_str("&locator=");
            path.push_str(locator);
        }
        let request = Request::get(path).header("accept", "text/csv");
        let mut tries = 0;
        loop {
            let response = self.send(&request).await?;
            let next = response.header("sforce-locator").filter(|locator| *locator != "null").map(str::to_owned);
            match spool(response, file).await {
                // The body broke off: the page is asked for again, whole.
                Err(error) if error.class().is_transient() && tries < 3 => tries += 1,
                result => return result.map(|()| NextPage(next)),
            }
        }
    }

    /// Writes results of an ingest job to `file`, as CSV.
    pub async fn ingest_results(&self, job: &str, which: Results, file: &Path) -> Result<(), Error> {
        let part = match which {
            Results::Successful => "successfulResults",
            Results::Failed => "failedResults",
            Results::Unprocessed => "unprocessedrecords",
        };
        let request = Request::get(self.jobs(Kind::Ingest, &format!("/{job}/{part}/"))).header("accept", "text/csv");
        spool(self.send(&request).await?, file).await
    }
}

async fn spool(response: outbound::Response, file: &Path) -> Result<(), Error> {
    let file = tokio::fs::File::create(file).await.map_err(Error::Spool)?;
    // Each write of such a file is a turn on another thread.
    let mut file = tokio::io::BufWriter::with_capacity(SPOOLED, file);
    let mut body = response.stream();
    while let Some(chunk) = body.next().await {
        file.write_all(&chunk?).await.map_err(Error::Spool)?;
    }
    file.flush().await.map_err(Error::Spool)
}
