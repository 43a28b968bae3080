//! Writes records: up to a bound by collections of 200, beyond it as a Bulk ingest job.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use ::salesforce::bulk::{Job, Kind, Operation, Results};
use ::salesforce::{CsvWriter, class_of, collections, record};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use endpoint::{Error, Guarded, Result, Sink, Target};
use model::{ChangeBatch, Class, Op, Outcome, RecordError, text_of};

use super::{Jobs, Org, failed};

/// How often rows that met a lock are tried again, last and alone.
const LOCK_TRIES: u32 = 4;

#[async_trait]
impl Sink for Org {
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        self.settle(target).await?;
        let mut outcomes = vec![Outcome::Unchanged; changes.len()];
        let rows = |op: Op| -> Vec<usize> { (0..changes.len()).filter(|row| changes.ops[*row] == op).collect() };
        let mut waiting = rows(Op::Upsert);
        for attempt in 0..=LOCK_TRIES {
            if attempt > 0 {
                tracing::debug!(rows = waiting.len(), attempt, "trying rows again that met a lock");
                tokio::time::sleep(self.client.settings().http.backoff * 2_u32.pow(attempt - 1)).await;
            }
            let found = self.upsert(target, &changes.records, &waiting).await?;
            let mut again = Vec::new();
            for (row, outcome) in waiting.into_iter().zip(found) {
                if outcome.error().is_some_and(|error| error.class.is_transient()) {
                    again.push(row);
                }
                outcomes[row] = outcome;
            }
            waiting = again;
            if waiting.is_empty() {
                break;
            }
        }
        let gone = rows(Op::Delete);
        if !gone.is_empty() {
            let found = self.delete(target, &changes.records, &gone).await?;
            for (row, outcome) in gone.into_iter().zip(found) {
                outcomes[row] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn revise(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        self.revised(target, changes).await
    }

    fn forecast_calls(&self, rows: u64) -> u64 {
        if rows == 0 {
            0
        } else if rows < self.bulk_rows {
            rows.div_ceil(collections::MAX_RECORDS as u64)
        } else {
            // Create, upload, close, seven questions, two files of results; 50,000 rows a job.
            rows.div_ceil(50_000) * 12
        }
    }
}

fn key_text(records: &RecordBatch, key: &str, row: usize) -> String {
    let column = records.column_by_name(key);
    column.and_then(|column| text_of(column.as_ref(), row)).unwrap_or_default().into_owned()
}

impl Org {
    /// Waits for a job that an earlier run left behind: its rows must not arrive after newer ones.
    async fn settle(&self, target: &Target) -> Result<()> {
        for job in self.journal.unfinished(&target.sync)? {
            if self.jobs.begun().contains(&job) {
                continue;
            }
            match self.client.job(Kind::Ingest, &job).await {
                Ok(state) if state.state == "Open" => drop(self.client.abort(Kind::Ingest, &job).await),
                Ok(state) if !state.ended() => {
                    self.client
                        .wait_for(Kind::Ingest, &job, 0)
                        .await
                        .map_err(failed("cannot wait for an earlier job"))?;
                }
                Ok(_) => {}
                Err(error) if error.code() == Some("NOT_FOUND") => {}
                Err(error) => return Err(failed(format!("cannot ask for the earlier job {job}"))(error)),
            }
            self.journal.end(&target.sync, &job)?;
        }
        Ok(())
    }

    async fn upsert(&self, target: &Target, records: &RecordBatch, rows: &[usize]) -> Result<Vec<Outcome>> {
        if rows.len() as u64 >= self.bulk_rows {
            let operation = if target.key == "Id" {
                Operation::Update
            } else {
                Operation::Upsert { external_id: target.key.clone() }
            };
            return self.ingest(target, &operation, records, rows).await;
        }
        let object = &target.entity.name;
        let mut outcomes = Vec::with_capacity(rows.len());
        for part in rows.chunks(collections::MAX_RECORDS) {
            let fields = part.iter().map(|row| record(records, *row)).collect();
            let request = if target.key == "Id" {
                collections::update(&self.client, object, fields)
            } else {
                collections::upsert(&self.client, object, &target.key, fields)
            };
            outcomes.extend(self.save(target, &request, part.len()).await?);
        }
        Ok(outcomes)
    }

    pub(super) async fn save(&self, target: &Target, request: &outbound::Request, rows: usize) -> Result<Vec<Outcome>> {
        let saved =
            self.client.save(request).await.map_err(failed(format!("cannot write to {}", target.entity.name)))?;
        if saved.len() != rows {
            let message =
                format!("the org answered {} results for {rows} records of {}", saved.len(), target.entity.name);
            return Err(Error::new(Class::Transient { after: None }, message));
        }
        let outcomes = saved.into_iter().map(|saved| match saved.errors.into_iter().next() {
            Some(error) if !saved.success => Outcome::Refused(refusal(&error.code, &error.message, error.fields)),
            _ => Outcome::Applied { created: saved.created, id: saved.id },
        });
        Ok(outcomes.collect())
    }

    async fn delete(&self, target: &Target, records: &RecordBatch, rows: &[usize]) -> Result<Vec<Outcome>> {
        let keys: Vec<String> = rows.iter().map(|row| key_text(records, &target.key, *row)).collect();
        let mut outcomes = Vec::with_capacity(rows.len());
        for part in keys.chunks(collections::MAX_RECORDS) {
            let ids = self.ids(target, part).await?;
            let known: Vec<&str> = part.iter().filter_map(|key| ids.get(key).map(String::as_str)).collect();
            let mut deleted = if known.is_empty() {
                Vec::new()
            } else {
                self.save(target, &collections::delete(&self.client, &known), known.len()).await?
            }
            .into_iter();
            for key in part {
                let outcome = if ids.contains_key(key) { deleted.next() } else { None };
                outcomes.push(match outcome {
                    Some(Outcome::Refused(error)) if error.code == "ENTITY_IS_DELETED" => Outcome::Unchanged,
                    Some(outcome) => outcome,
                    None => Outcome::Unchanged,
                });
            }
        }
        Ok(outcomes)
    }

    /// Returns the ids of the records that these keys identify.
    async fn ids(&self, target: &Target, keys: &[String]) -> Result<HashMap<String, String>> {
        let key = &target.key;
        let list = keys.iter().map(|key| soql::quote(key)).collect::<Vec<_>>().join(", ");
        let fields = if key == "Id" { "Id".to_owned() } else { format!("Id, {key}") };
        let soql = format!("SELECT {fields} FROM {} WHERE {key} IN ({list})", target.entity.name);
        let page = self
            .client
            .query(&soql, false)
            .await
            .map_err(failed(format!("cannot find records of {}", target.entity.name)))?;
        let text = |record: &serde_json::Map<String, serde_json::Value>, name: &str| match record.get(name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        Ok(page.records.iter().map(|record| (text(record, key), text(record, "Id"))).collect())
    }

    async fn ingest(
        &self,
        target: &Target,
        operation: &Operation,
        records: &RecordBatch,
        rows: &[usize],
    ) -> Result<Vec<Outcome>> {
        let what = || format!("cannot write to {} by a Bulk job", target.entity.name);
        let spool = |error: std::io::Error| Error::new(Class::Internal, "cannot write a spool file").caused_by(error);
        let folder = tempfile::tempdir().map_err(spool)?;
        let path = folder.path().join("rows.csv");
        let (batch, numbers, file) = (records.clone(), rows.to_vec(), path.clone());
        let written = tokio::task::spawn_blocking(move || -> Result<()> {
            let header: Vec<&str> = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
            let output = std::io::BufWriter::new(std::fs::File::create(file).map_err(spool)?);
            let mut writer = CsvWriter::new(output, &header).map_err(failed("cannot write a spool file"))?;
            writer.write(&batch, numbers).and_then(|()| writer.finish()).map_err(failed("cannot write a spool file"))
        });
        written
            .await
            .map_err(|error| Error::new(Class::Internal, "a writing thread ended early").caused_by(error))??;
        let bytes = std::fs::metadata(&path).map_err(spool)?.len();
        if bytes > ::salesforce::bulk::MAX_UPLOAD_BYTES && rows.len() > 1 {
            let (left, right) = rows.split_at(rows.len() / 2);
            let mut outcomes = Box::pin(self.ingest(target, operation, records, left)).await?;
            outcomes.extend(Box::pin(self.ingest(target, operation, records, right)).await?);
            return Ok(outcomes);
        }
        let job = self.client.create_ingest_job(&target.entity.name, operation).await.map_err(failed(what()))?;
        let _begun = self.jobs.begin(&job.id);
        self.journal.begin(&target.sync, &job.id)?;
        let done = async {
            self.client.upload(&job.id, &path).await?;
            // While the org works at one job the next is uploaded, and the results of the one before are read.
            let _turn = self.jobs.turn.lock().await;
            self.client.close(&job.id).await?;
            self.client.wait_for(Kind::Ingest, &job.id, rows.len() as u64).await.and_then(Job::completed)
        };
        done.await.map_err(failed(what()))?;
        let found = self.results(target, &job.id, &path).await?;
        self.journal.end(&target.sync, &job.id)?;
        let lost = || RecordError {
            class: Class::Transient { after: None },
            ..RecordError::rejected("UNPROCESSED", "the job ended before it came to this record")
        };
        let outcome = |row: &usize| {
            found.get(&key_text(records, &target.key, *row)).cloned().unwrap_or_else(|| Outcome::Refused(lost()))
        };
        Ok(rows.iter().map(outcome).collect())
    }

    /// Reads what became of each row, by its key: results come in no particular order.
    async fn results(&self, target: &Target, job: &str, path: &std::path::Path) -> Result<HashMap<String, Outcome>> {
        let what = || format!("cannot read the results of job {job}");
        let unreadable = |error: csv::Error| {
            Error::new(Class::Transient { after: None }, format!("cannot read the results of job {job}"))
                .caused_by(error)
        };
        let mut found = HashMap::new();
        for which in [Results::Successful, Results::Failed] {
            self.client.ingest_results(job, which, path).await.map_err(failed(what()))?;
            let mut reader = csv::Reader::from_path(path).map_err(unreadable)?;
            let header = reader.headers().map_err(unreadable)?.clone();
            let place = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
            let (key, id, created, error) =
                (place(&target.key), place("sf__Id"), place("sf__Created"), place("sf__Error"));
            let mut row = csv::StringRecord::new();
            while reader.read_record(&mut row).map_err(unreadable)? {
                let text = |place: Option<usize>| place.and_then(|place| row.get(place)).unwrap_or_default();
                let outcome = if which == Results::Successful {
                    Outcome::Applied { created: text(created) == "true", id: Some(text(id).to_owned()) }
                } else {
                    let (code, message) = text(error).split_once(':').unwrap_or((text(error), ""));
                    Outcome::Refused(refusal(code, message.trim_end_matches("--").trim_end_matches(':'), Vec::new()))
                };
                found.insert(text(key).to_owned(), outcome);
            }
        }
        Ok(found)
    }
}

/// A job that is being written, until it goes.
struct Begun<'j> {
    jobs: &'j Jobs,
    id: &'j str,
}

impl Jobs {
    fn begun(&self) -> MutexGuard<'_, HashSet<String>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin<'j>(&'j self, id: &'j str) -> Begun<'j> {
        self.begun().insert(id.to_owned());
        Begun { jobs: self, id }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.jobs.begun().remove(self.id);
    }
}

/// Longest part of the org's text that is kept, in characters: it may repeat the whole value.
const MESSAGE_CHARS: usize = 200;

/// A reference to a record that is not there gets a code of its own: it may come yet.
pub(super) fn refusal(code: &str, message: &str, fields: Vec<String>) -> RecordError {
    let parentless = message.contains("Foreign key external ID") || code == "INVALID_CROSS_REFERENCE_KEY";
    let code = if parentless { "MISSING_PARENT" } else { code };
    let message: String = message.chars().take(MESSAGE_CHARS).collect();
    RecordError { code: code.to_owned(), fields, class: class_of(code, &message, 200), message }
}
