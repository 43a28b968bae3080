//! Bulk API 2.0 and 1.0: jobs whose data are files, worked on beside the calls.

mod rows;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use self::rows::Operation;
use crate::caller::Caller;
use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::Org;
use crate::schema::Object;

/// Rows in one transaction of an ingest job. Source: Bulk API 2.0 guide, internal batches.
const BATCH: usize = 10_000;
/// Rows in one transaction where transactions meet each other. Source: Bulk API guide, trigger chunks.
const CHUNK: usize = 200;

/// What became of each row: its id and whether it is new, or the refusal.
type Outcomes = Vec<Answered<(String, bool)>>;

/// All jobs of the org, with the folder of their files.
pub(crate) struct Jobs {
    folder: tempfile::TempDir,
    all: Mutex<BTreeMap<String, v2::Job>>,
    classic: Mutex<BTreeMap<String, v1::Job>>,
    created: AtomicU64,
    batches: AtomicU64,
}

impl Jobs {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new().prefix("bridgehead-sandbox-").tempdir()?,
            all: Mutex::default(),
            classic: Mutex::default(),
            created: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        })
    }

    /// Returns the folder of the files of jobs.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Returns the number of jobs of a kind.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.lock().values().filter(|job| job.ingest == (kind == "ingest")).count() as u64
    }

    /// Returns the number of batches so far.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, v2::Job>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn classic(&self) -> MutexGuard<'_, BTreeMap<String, v1::Job>> {
        self.classic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self, prefix: &str) -> String {
        id::make(prefix, self.created.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn path(&self, id: &str, part: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.{part}"))
    }
}

impl Org {
    /// Writes the records of a batch, each by itself; returns what became of them, in order.
    fn write_batch(
        &self,
        caller: &Caller,
        operation: &Operation,
        object: &Object,
        records: &[Map<String, Value>],
    ) -> Answered<Outcomes> {
        let size = if self.locks.matter() { CHUNK } else { BATCH };
        let mut outcomes = Vec::with_capacity(records.len());
        for part in records.chunks(size) {
            outcomes.extend(self.write(caller, |store| {
                Ok(part
                    .iter()
                    .map(|record| store.atomically(|store| operation.write(store, object, record)))
                    .collect::<Outcomes>())
            })?);
            self.pace(part.len());
        }
        Ok(outcomes)
    }

    /// Lets a job take the time that the org's definition gives it.
    fn pace(&self, rows: usize) {
        if let Some(rate) = self.config.definition.bulk.rows_per_second.filter(|rate| *rate > 0) {
            std::thread::sleep(Duration::from_secs_f64(rows as f64 / rate as f64));
        }
    }

    /// Answers a call that may make jobs ready, and sets workers on those.
    pub(crate) fn data_with_jobs(self: &Arc<Self>, call: &crate::rest::Call) -> crate::rest::Answer {
        let answer = self.data(call);
        let ready: Vec<String> = {
            let mut jobs = self.jobs.lock();
            let ready = jobs.values_mut().filter(|job| job.is_ready());
            ready
                .map(|job| {
                    job.taken = true;
                    job.id.clone()
                })
                .collect()
        };
        for id in ready {
            let org = Arc::clone(self);
            std::thread::spawn(move || org.work(&id));
        }
        answer
    }
}

/// Refuses an operation that there is not, or that the caller may not use.
fn check_operation(caller: &Caller, operation: &str) -> Answered<()> {
    let known = ["insert", "update", "upsert", "delete", "hardDelete", "query", "queryAll"];
    if !known.contains(&operation) {
        return Err(ApiError::new(400, "INVALIDOPERATION", format!("operation '{operation}' is not known")));
    }
    if operation == "hardDelete" && !caller.hard_delete {
        let message =
            "hardDelete operation requires special user profile permission, please contact your system administrator";
        return Err(ApiError::new(400, "FEATURENOTENABLED", message));
    }
    Ok(())
}
