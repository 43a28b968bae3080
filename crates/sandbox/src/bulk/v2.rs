//! Bulk API 2.0.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::rows::{Operation, column, record};
use super::{BATCH, Jobs, check_operation};
use crate::caller::Caller;
use crate::chaos::{Fault, Subject};
use crate::csv_out::{Csv, Places};
use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::{Org, entries};
use crate::query;
use crate::rest::{Answer, Call, FilePart, not_allowed, version_number};
use crate::value::json_time;

/// Rows on a page of results unless the client asks for another number.
const PAGE: u64 = 50_000;
/// Largest data of a job that is made in one call, in characters. Source: Bulk API 2.0 guide, "Create a Job".
const MAX_INLINE: usize = 100_000;
/// The files of a job.
const PARTS: [&str; 5] = ["upload", "successful", "failed", "unprocessed", "results"];
/// Jobs on a page of the list.
const LISTED: usize = 1000;

/// A job.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) ingest: bool,
    operation: Operation,
    object: String,
    caller: Arc<Caller>,
    delimiter: (&'static str, u8),
    crlf: bool,
    version: u32,
    soql: String,
    state: &'static str,
    error: Option<String>,
    created: String,
    processed: u64,
    failed: u64,
    /// True once a worker has it.
    pub(super) taken: bool,
    uploaded: bool,
    /// Where the rows of the results begin.
    places: Arc<Places>,
    /// Milliseconds that it was worked on.
    milliseconds: u64,
}

impl Jobs {
    fn find(&self, id: &str, ingest: bool) -> Answered<Job> {
        let id = id::normal(id).ok_or_else(ApiError::not_found)?;
        self.lock().get(&id).filter(|job| job.ingest == ingest).cloned().ok_or_else(ApiError::not_found)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.lock().get_mut(id) {
            change(job);
        }
    }

    fn aborted(&self, id: &str) -> bool {
        self.lock().get(id).is_none_or(|job| job.state == "Aborted")
    }
}

impl Job {
    /// True for a job that waits for a worker.
    pub(super) fn is_ready(&self) -> bool {
        self.state == "UploadComplete" && !self.taken
    }

    fn json(&self) -> Value {
        let kind = if self.ingest { "ingest" } else { "query" };
        let mut body = json!({
            "id": self.id, "operation": self.operation.name, "object": self.object, "createdById": self.caller.user_id,
            "createdDate": self.created, "systemModstamp": self.created, "state": self.state,
            "concurrencyMode": "Parallel", "contentType": "CSV", "apiVersion": f64::from(self.version),
            "lineEnding": if self.crlf { "CRLF" } else { "LF" }, "columnDelimiter": self.delimiter.0,
            "jobType": if self.ingest { "V2Ingest" } else { "V2Query" },
            "numberRecordsProcessed": self.processed, "retries": 0, "totalProcessingTime": self.milliseconds,
        });
        if self.ingest {
            body["contentUrl"] = json!(format!("services/data/v{}.0/jobs/{kind}/{}/batches", self.version, self.id));
            body["externalIdFieldName"] = json!(self.operation.external_id);
            body["numberRecordsFailed"] = json!(self.failed);
            body["apiActiveProcessingTime"] = json!(self.milliseconds);
            body["apexProcessingTime"] = json!(0);
        }
        if !self.ingest {
            body["isPkChunkingSupported"] = json!(true);
        }
        if self.ingest
            && self.state != "Open"
            && let Some(body) = body.as_object_mut()
        {
            body.remove("contentUrl");
        }
        if let Some(error) = &self.error {
            body["errorMessage"] = json!(error);
        }
        body
    }
}

fn delimiter(word: &str) -> Answered<(&'static str, u8)> {
    let known =
        [("COMMA", b','), ("TAB", b'\t'), ("SEMICOLON", b';'), ("PIPE", b'|'), ("CARET", b'^'), ("BACKQUOTE", b'`')];
    known
        .into_iter()
        .find(|(name, _)| *name == word)
        .ok_or_else(|| ApiError::new(400, "INVALIDJOB", format!("columnDelimiter {word} is not known")))
}

impl Org {
    /// True for a call whose body goes to a file.
    pub(crate) fn is_upload(&self, call: &Call) -> bool {
        upload_job(call).is_some()
    }

    /// Says where the body of an upload goes, if the call is one.
    pub(crate) fn upload_target(&self, call: &Call) -> Option<Answered<PathBuf>> {
        let id = upload_job(call)?;
        Some((|| {
            let job = self.jobs.find(id, true)?;
            if job.state != "Open" || job.uploaded {
                let message = format!(
                    "Found multiple contents for job: <{}>, please 'Close' / 'Abort' / 'Delete' the current Job then create a new Job and make sure you only do 'PUT' once on a given Job.",
                    job.id
                );
                return Err(ApiError::new(400, "INVALIDJOBSTATE", message));
            }
            Ok(self.jobs.path(&job.id, "upload"))
        })())
    }

    /// Notes that an upload is complete.
    pub(crate) fn uploaded(&self, call: &Call) -> Answer {
        if let Some(job) = upload_job(call).and_then(|id| self.jobs.find(id, true).ok()) {
            self.jobs.change(&job.id, |job| job.uploaded = true);
        }
        Answer::empty(201)
    }

    pub(crate) fn jobs(&self, call: &Call, version: &str, kind: &str, rest: &[&str]) -> Answered<Answer> {
        let ingest = kind == "ingest";
        let find = |id: &str| self.jobs.find(id, ingest);
        match (call.method.as_str(), rest) {
            ("POST", []) => self.create_job(call, version, ingest),
            ("GET", []) => {
                let jobs = self.jobs.lock();
                let records: Vec<Value> =
                    jobs.values().rev().filter(|job| job.ingest == ingest).take(LISTED).map(Job::json).collect();
                Ok(Answer::json(200, &json!({"done": true, "records": records, "nextRecordsUrl": null})))
            }
            ("GET", [id]) => Ok(Answer::json(200, &find(id)?.json())),
            ("PATCH", [id]) => self.change_state(call, &find(id)?),
            ("DELETE", [id]) => {
                let job = find(id)?;
                if job.state == "Open" || job.state == "InProgress" {
                    let message = format!("Job in state {} cannot be deleted", job.state);
                    return Err(ApiError::new(400, "INVALIDJOBSTATE", message));
                }
                self.jobs.lock().remove(&job.id);
                for part in PARTS {
                    let _ = std::fs::remove_file(self.jobs.path(&job.id, part));
                }
                Ok(Answer::empty(204))
            }
            ("GET", [id, "results"]) if !ingest => self.result_page(call, version, &find(id)?),
            ("GET", [id, "resultPages"]) if !ingest => self.result_pages(call, version, &find(id)?),
            ("GET", [id, part]) if ingest => {
                let part = match *part {
                    "successfulResults" => "successful",
                    "failedResults" => "failed",
                    "unprocessedrecords" | "unprocessedRecords" => "unprocessed",
                    _ => return Err(ApiError::not_found()),
                };
                let path = self.jobs.path(&find(id)?.id, part);
                let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                let file = (length > 0).then_some(FilePart { path, from: 0, length });
                Ok(Answer { file, ..csv_answer(Vec::new()) })
            }
            (method, [] | [_]) => Err(not_allowed(method, "DELETE,GET,HEAD,PATCH,POST")),
            _ => Err(ApiError::not_found()),
        }
    }

    fn create_job(&self, call: &Call, version: &str, ingest: bool) -> Answered<Answer> {
        let (body, data) = read_job(call)?;
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let operation = text("operation").to_owned();
        check_operation(&call.caller, &operation)?;
        let mut object = text("object").to_owned();
        let soql = text("query").to_owned();
        if ingest {
            if operation.starts_with("query") {
                return Err(ApiError::new(400, "INVALIDOPERATION", format!("operation '{operation}' is not known")));
            }
            if !matches!(text("contentType"), "" | "CSV") {
                return Err(ApiError::new(400, "INVALIDJOB", "InvalidJob : contentType must be CSV"));
            }
            let Some(known) = call.caller.schema.object(&object) else {
                let message = format!("The object '{object}' is not supported by the Bulk API");
                return Err(ApiError::new(400, "INVALIDENTITY", message));
            };
            object.clone_from(&known.name);
            let key = known.field(text("externalIdFieldName"));
            if operation == "upsert" && key.is_none_or(|key| !key.id_lookup) {
                let message = format!(
                    "InvalidJob : Field name provided, {} does not match an External ID, Salesforce Id, or indexed field for {object}",
                    text("externalIdFieldName")
                );
                return Err(ApiError::new(400, "INVALIDJOB", message));
            }
        } else {
            if !["query", "queryAll"].contains(&operation.as_str()) {
                return Err(ApiError::new(400, "INVALIDOPERATION", format!("operation '{operation}' is not known")));
            }
            let plan =
                self.read(|connection| query::compile(self.context(&call.caller, connection, version, false), &soql))?;
            if !plan.is_flat() {
                let message = "the query has aggregates, subqueries or compound fields, which Bulk queries cannot have";
                return Err(ApiError::new(400, "API_ERROR", message));
            }
            plan.object().clone_into(&mut object);
        }
        let delimiter = delimiter(body["columnDelimiter"].as_str().unwrap_or("COMMA"))?;
        let mut job = Job {
            id: self.jobs.next_id("750"),
            ingest,
            operation: Operation {
                name: operation,
                external_id: body["externalIdFieldName"].as_str().map(str::to_owned),
            },
            object,
            caller: call.caller.clone(),
            delimiter,
            crlf: text("lineEnding") == "CRLF",
            version: version_number(version),
            soql,
            state: if ingest { "Open" } else { "UploadComplete" },
            error: None,
            created: json_time(self.now()),
            processed: 0,
            failed: 0,
            taken: false,
            uploaded: false,
            places: Arc::default(),
            milliseconds: 0,
        };
        if let Some(data) = data {
            let failed = |error: std::io::Error| ApiError::new(500, "UNKNOWN_EXCEPTION", error.to_string());
            std::fs::write(self.jobs.path(&job.id, "upload"), data).map_err(failed)?;
            (job.uploaded, job.state) = (true, "UploadComplete");
        }
        let answer = Answer::json(200, &job.json());
        self.jobs.lock().insert(job.id.clone(), job);
        Ok(answer)
    }

    fn change_state(&self, call: &Call, job: &Job) -> Answered<Answer> {
        let body = entries(call.json()?)?;
        let wanted = body.get("state").and_then(Value::as_str).unwrap_or_default();
        let state = match (wanted, job.state) {
            ("UploadComplete", "Open") if job.ingest => "UploadComplete",
            ("Aborted", "Open" | "UploadComplete" | "InProgress") => "Aborted",
            _ => {
                let message = format!("Aborting or closing the job is not allowed in state {}", job.state);
                return Err(ApiError::new(400, "INVALIDJOBSTATE", message));
            }
        };
        self.jobs.change(&job.id, |job| job.state = state);
        Ok(Answer::json(200, &self.jobs.find(&job.id, job.ingest)?.json()))
    }

    fn result_page(&self, call: &Call, version: &str, job: &Job) -> Answered<Answer> {
        if version_number(version) != job.version {
            return Err(ApiError::new(409, "API_ERROR", "results are read with the version that created the job"));
        }
        if job.state != "JobComplete" {
            let message = format!("the job is in state {}, results are there when it is JobComplete", job.state);
            return Err(ApiError::new(400, "INVALIDJOBSTATE", message));
        }
        let count = call.query.get("maxRecords").and_then(|text| text.parse().ok()).unwrap_or(PAGE).max(1);
        let page = self.page(job, call.query.get("locator").map(String::as_str), count);
        let page =
            page.map_err(|error| ApiError::new(400, "INVALIDJOB", format!("the results cannot be read: {error}")))?;
        let next = page.next.map_or_else(|| "null".to_owned(), locator);
        let answer = csv_answer(page.header).with("sforce-numberofrecords", page.rows.to_string());
        Ok(Answer { file: Some(page.part), ..answer.with("sforce-locator", next) })
    }

    /// Finds a page in the results file; a locator is the number of its first row.
    fn page(&self, job: &Job, locator: Option<&str>, count: u64) -> std::io::Result<Page> {
        let path = self.jobs.path(&job.id, "results");
        let places = &job.places;
        let first = match locator {
            Some(text) => {
                let row = row_of(text).filter(|row| *row < places.rows);
                row.ok_or_else(|| std::io::Error::other("the locator is not one of this job"))?
            }
            None => 0,
        };
        let end = first.saturating_add(count).min(places.rows);
        let mut file = BufReader::with_capacity(1 << 16, File::open(&path)?);
        let mut header = vec![0; usize::try_from(places.header).map_err(std::io::Error::other)?];
        file.read_exact(&mut header)?;
        let from = row_offset(&mut file, job, first)?;
        let length =
            if end == places.rows { file.get_ref().metadata()?.len() } else { row_offset(&mut file, job, end)? } - from;
        let next = (end < places.rows).then_some(end);
        Ok(Page { header, rows: end - first, next, part: FilePart { path, from, length } })
    }

    fn result_pages(&self, call: &Call, version: &str, job: &Job) -> Answered<Answer> {
        let link = format!("/services/data/{version}/jobs/query/{}", job.id);
        let mut pages = Vec::new();
        let mut at = call.query.get("locator").cloned();
        let mut done = false;
        while pages.len() < 5 && !done {
            let suffix = at.as_ref().map_or(String::new(), |locator| format!("?locator={locator}"));
            pages.push(json!({"resultUrl": format!("{link}/results{suffix}")}));
            let page = self.page(job, at.as_deref(), PAGE);
            let page = page.map_err(|error| ApiError::new(400, "INVALIDJOB", error.to_string()))?;
            done = page.next.is_none();
            at = page.next.map(locator);
        }
        let next =
            if done { Value::Null } else { json!(format!("{link}/resultPages?locator={}", at.unwrap_or_default())) };
        Ok(Answer::json(200, &json!({"resultPages": pages, "nextRecordsUrl": next, "done": done})))
    }

    /// Loads data as new accounts, without a network; returns how the job ended.
    pub(crate) fn load(&self, data: &[u8]) -> String {
        let mut call = Call::new("POST", "/services/data/v66.0/jobs/ingest");
        call.caller = self.system();
        call.body = br#"{"object": "Account", "operation": "insert"}"#.to_vec();
        let id = self.data(&call).value()["id"].as_str().unwrap_or_default().to_owned();
        if std::fs::write(self.jobs.path(&id, "upload"), data).is_err() {
            return "Failed".to_owned();
        }
        self.jobs.change(&id, |job| (job.uploaded, job.taken, job.state) = (true, true, "UploadComplete"));
        self.work(&id);
        let state = self.jobs.find(&id, true).map(|job| job.state.to_owned()).unwrap_or_default();
        self.jobs.lock().remove(&id);
        for part in PARTS {
            let _ = std::fs::remove_file(self.jobs.path(&id, part));
        }
        state
    }

    /// Works on a job to its end.
    pub(super) fn work(&self, id: &str) {
        let Some(job) = self.jobs.lock().get(id).cloned() else { return };
        self.jobs.change(id, |job| job.state = "InProgress");
        let started = std::time::Instant::now();
        let subject = Subject { path: "/jobs/", object: &job.object, user: &job.caller.username, ..Subject::default() };
        let struck = self.chaos.strike(subject, |fault| matches!(fault, Fault::StuckJob | Fault::FailedJob));
        let result = match struck {
            Some(Fault::StuckJob) => return,
            Some(_) => Err("InternalServerError : the job fails on demand".to_owned()),
            None if job.ingest => self.ingest(&job),
            None => self.export(&job),
        };
        self.jobs.change(id, |job| {
            job.milliseconds = started.elapsed().as_millis() as u64;
            match (result, job.state) {
                (_, "Aborted") => {}
                (Ok(()), _) => job.state = "JobComplete",
                (Err(message), _) => {
                    job.state = "Failed";
                    job.error = Some(message);
                }
            }
        });
    }

    fn export(&self, job: &Job) -> Result<(), String> {
        let version = format!("v{}.0", job.version);
        let deleted = job.operation.name == "queryAll";
        let file = File::create(self.jobs.path(&job.id, "results")).map_err(|error| error.to_string())?;
        let mut csv = Csv::new(file, job.delimiter.1, job.crlf);
        let exported = self.read_long(|connection| {
            let plan = query::compile(self.context(&job.caller, connection, &version, deleted), &job.soql)?;
            csv.header(&plan.csv_header()).map_err(query::unwritable)?;
            plan.export(connection, &mut csv, |rows| {
                self.pace(rows as usize);
                self.jobs.change(&job.id, |job| job.processed += rows);
                !self.jobs.aborted(&job.id)
            })
        });
        exported.map_err(|error| format!("{} : {}", error.code, error.message))?;
        let places = csv.finish().map_err(|error| error.to_string())?;
        self.jobs.change(&job.id, |job| job.places = Arc::new(places));
        Ok(())
    }

    fn ingest(&self, job: &Job) -> Result<(), String> {
        let object = job.caller.schema.object(&job.object).ok_or("InvalidEntity")?;
        let file = File::open(self.jobs.path(&job.id, "upload")).map_err(|_| "InvalidBatch : no data was uploaded")?;
        check_line_ending(&self.jobs.path(&job.id, "upload"), job.crlf)?;
        let mut reader =
            csv::ReaderBuilder::new().delimiter(job.delimiter.1).from_reader(BufReader::with_capacity(1 << 16, file));
        let invalid = |error: csv::Error| format!("InvalidBatch : {error}");
        let headers = reader.headers().map_err(invalid)?.clone();
        let columns = headers.iter().map(|header| column(object, header)).collect::<Result<Vec<_>, String>>()?;
        let create = |part: &str, more: &[&str]| -> Result<csv::Writer<BufWriter<File>>, String> {
            let file = File::create(self.jobs.path(&job.id, part)).map_err(|error| error.to_string())?;
            let mut writer = job.writer(file);
            let header = more.iter().copied().chain(headers.iter());
            writer.write_record(header).map_err(|error| error.to_string())?;
            Ok(writer)
        };
        let mut successful = create("successful", &["sf__Id", "sf__Created"])?;
        let mut failed = create("failed", &["sf__Id", "sf__Error"])?;
        let mut unprocessed = create("unprocessed", &[])?;
        let mut rows = reader.into_records();
        loop {
            let batch = rows.by_ref().take(BATCH).collect::<Result<Vec<_>, _>>();
            let batch = batch.map_err(|error| format!("ClientInputError : {error}"))?;
            if batch.is_empty() {
                break;
            }
            if self.jobs.aborted(&job.id) {
                for row in &batch {
                    unprocessed.write_record(row).map_err(|error| error.to_string())?;
                }
                continue;
            }
            let records: Vec<Map<String, Value>> = batch.iter().map(|row| record(&columns, row.iter())).collect();
            self.jobs.batches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let outcomes = self.write_batch(&job.caller, &job.operation, object, &records);
            let outcomes = outcomes.map_err(|error| error.message)?;
            let mut refused = 0;
            for (row, outcome) in batch.iter().zip(outcomes) {
                let written = match &outcome {
                    Ok((id, created)) => {
                        let created = if *created { "true" } else { "false" };
                        successful.write_record([id.as_str(), created].into_iter().chain(row.iter()))
                    }
                    Err(error) => {
                        refused += 1;
                        let message = error_text(error);
                        failed.write_record(["", &message].into_iter().chain(row.iter()))
                    }
                };
                written.map_err(|error| error.to_string())?;
            }
            self.jobs.change(&job.id, |job| {
                job.processed += batch.len() as u64;
                job.failed += refused;
            });
            let subject =
                Subject { path: "/jobs/", object: &job.object, user: &job.caller.username, ..Subject::default() };
            if self.chaos.strike(subject, |fault| *fault == Fault::AbortedJob).is_some() {
                self.jobs.change(&job.id, |job| job.state = "Aborted");
            }
        }
        for writer in [&mut successful, &mut failed, &mut unprocessed] {
            writer.flush().map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl Job {
    fn writer(&self, file: File) -> csv::Writer<BufWriter<File>> {
        let ending = if self.crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
        csv::WriterBuilder::new()
            .delimiter(self.delimiter.1)
            .quote_style(csv::QuoteStyle::Always)
            .terminator(ending)
            .from_writer(BufWriter::with_capacity(1 << 16, file))
    }
}

/// Returns a refusal as result files tell it.
pub(super) fn error_text(error: &ApiError) -> String {
    format!("{}:{}:{} --", error.code, error.message, error.fields.join(",")).replace(": --", ":--")
}

/// A page of results.
struct Page {
    header: Vec<u8>,
    rows: u64,
    next: Option<u64>,
    part: FilePart,
}

/// Returns where a row begins, by reading on from a place that is known.
fn row_offset(file: &mut BufReader<File>, job: &Job, row: u64) -> std::io::Result<u64> {
    let (offset, mut at) = job.places.before(row);
    file.seek(SeekFrom::Start(offset))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(job.delimiter.1).has_headers(false).from_reader(file);
    let mut record = csv::ByteRecord::new();
    while at < row && reader.read_byte_record(&mut record)? {
        at += 1;
    }
    Ok(offset + reader.position().byte())
}

/// Returns the locator of a row. Source: recorded locators, which are such numbers in base64.
fn locator(row: u64) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, row.to_string())
}

fn row_of(locator: &str) -> Option<u64> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, locator).ok()?;
    String::from_utf8(bytes).ok()?.parse().ok()
}

/// Reads the description of a job, and its data if they come in the same call.
fn read_job(call: &Call) -> Answered<(Value, Option<Vec<u8>>)> {
    let kind = call.header("content-type").unwrap_or_default();
    let Some(boundary) = kind.strip_prefix("multipart/form-data").and_then(|rest| rest.split_once("boundary=")) else {
        return Ok((call.json()?, None));
    };
    let wrong = |message: &str| ApiError::new(400, "INVALIDJOB", format!("InvalidJob : {message}"));
    let parts = crate::rest::parts(&call.body, boundary.1.trim_matches('"'))
        .ok_or_else(|| wrong("the parts are not complete"))?;
    let find = |name: &str| {
        let part = parts.iter().find(|(headers, _)| crate::rest::disposition(headers, "name").as_deref() == Some(name));
        part.map(|(_, content)| *content).ok_or_else(|| wrong(&format!("part {name} is missing")))
    };
    let body = serde_json::from_slice(find("job")?).map_err(|error| wrong(&error.to_string()))?;
    let data = find("content")?;
    if data.len() > MAX_INLINE {
        return Err(wrong("the data of a multipart request may hold 100,000 characters"));
    }
    Ok((body, Some(data.to_vec())))
}

/// Refuses a file whose header line ends otherwise than the job said.
fn check_line_ending(path: &std::path::Path, crlf: bool) -> Result<(), String> {
    let mut head = vec![0; 1 << 16];
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.read(&mut head).map_err(|error| error.to_string())?;
    let Some(end) = head[..length].iter().position(|byte| *byte == b'\n') else { return Ok(()) };
    let found = end > 0 && head[end - 1] == b'\r';
    if found == crlf {
        return Ok(());
    }
    let setting = if crlf { "CRLF" } else { "LF" };
    Err(format!("ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is {setting}"))
}

fn upload_job(call: &Call) -> Option<&str> {
    match call.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, _, _, "jobs", "ingest", _, "batches"] if call.method == "PUT" => call.path.get(5).map(String::as_str),
        _ => None,
    }
}

fn csv_answer(body: Vec<u8>) -> Answer {
    Answer::bytes(200, "text/csv;charset=UTF-8", body)
}
