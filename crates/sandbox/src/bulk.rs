//! Bulk API 2.0: jobs whose data are files, worked on beside the calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::{Org, entries};
use crate::query::{self, Context};
use crate::rest::{Answer, Call, not_allowed, version_number};
use crate::schema::{Kind, Object};
use crate::store::Store;
use crate::value::json_time;

/// Rows in one transaction of an ingest job. Source: Bulk API 2.0 guide, internal batches.
const BATCH: usize = 10_000;
/// Rows fetched at a time for the results of a query.
const FETCH: usize = 5_000;
/// Rows on a page of results unless the client asks for another number.
const PAGE: usize = 50_000;
/// Text that clears a field. Source: Bulk API 2.0 guide, "Prepare CSV files".
const NULL: &str = "#N/A";

/// A job.
#[derive(Debug, Clone)]
struct Job {
    id: String,
    ingest: bool,
    operation: String,
    object: String,
    external_id: Option<String>,
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
    taken: bool,
    uploaded: bool,
}

/// All jobs of the org, with the folder of their files.
pub(crate) struct Jobs {
    folder: tempfile::TempDir,
    all: Mutex<BTreeMap<String, Job>>,
    created: AtomicU64,
}

impl Jobs {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new().prefix("bridgehead-sandbox-").tempdir()?,
            all: Mutex::default(),
            created: AtomicU64::new(0),
        })
    }

    /// Returns the number of jobs of a kind.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.lock().values().filter(|job| job.ingest == (kind == "ingest")).count() as u64
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str, ingest: bool) -> Answered<Job> {
        let id = id::normal(id).ok_or_else(ApiError::not_found)?;
        self.lock().get(&id).filter(|job| job.ingest == ingest).cloned().ok_or_else(ApiError::not_found)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.lock().get_mut(id) {
            change(job);
        }
    }

    fn path(&self, id: &str, part: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.{part}"))
    }

    fn aborted(&self, id: &str) -> bool {
        self.lock().get(id).is_none_or(|job| job.state == "Aborted")
    }
}

impl Job {
    fn json(&self, user: &str) -> Value {
        let kind = if self.ingest { "ingest" } else { "query" };
        let mut body = json!({
            "id": self.id, "operation": self.operation, "object": self.object, "createdById": user,
            "createdDate": self.created, "systemModstamp": self.created, "state": self.state,
            "concurrencyMode": "Parallel", "contentType": "CSV", "apiVersion": f64::from(self.version),
            "lineEnding": if self.crlf { "CRLF" } else { "LF" }, "columnDelimiter": self.delimiter.0,
            "jobType": if self.ingest { "V2Ingest" } else { "V2Query" },
            "numberRecordsProcessed": self.processed, "retries": 0, "totalProcessingTime": 0,
        });
        if self.ingest {
            body["contentUrl"] = json!(format!("services/data/v{}.0/jobs/{kind}/{}/batches", self.version, self.id));
            body["externalIdFieldName"] = json!(self.external_id);
            body["numberRecordsFailed"] = json!(self.failed);
            body["apiActiveProcessingTime"] = json!(0);
            body["apexProcessingTime"] = json!(0);
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
    /// Says where the body of an upload goes, if the call is one.
    pub(crate) fn upload_target(&self, call: &Call) -> Option<Answered<PathBuf>> {
        let id = upload_job(call)?;
        Some((|| {
            crate::server::authorised(self, call)?;
            self.spend_call()?;
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

    /// Answers a call and sets workers on the jobs that it made ready.
    pub(crate) fn data_with_jobs(self: &Arc<Self>, call: &Call) -> Answer {
        let answer = self.data(call);
        let ready: Vec<String> = {
            let mut jobs = self.jobs.lock();
            let ready = jobs.values_mut().filter(|job| job.state == "UploadComplete" && !job.taken);
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

    pub(crate) fn jobs(&self, call: &Call, version: &str, kind: &str, rest: &[&str]) -> Answered<Answer> {
        let ingest = kind == "ingest";
        let find = |id: &str| self.jobs.find(id, ingest);
        match (call.method.as_str(), rest) {
            ("POST", []) => self.create_job(call, version, ingest),
            ("GET", []) => {
                let jobs = self.jobs.lock();
                let records: Vec<Value> =
                    jobs.values().filter(|job| job.ingest == ingest).map(|job| job.json(&self.user_id)).collect();
                Ok(Answer::json(200, &json!({"done": true, "records": records, "nextRecordsUrl": null})))
            }
            ("GET", [id]) => Ok(Answer::json(200, &find(id)?.json(&self.user_id))),
            ("PATCH", [id]) => self.change_state(call, &find(id)?),
            ("DELETE", [id]) => {
                let job = find(id)?;
                if job.state == "Open" || job.state == "InProgress" {
                    let message = format!("Job in state {} cannot be deleted", job.state);
                    return Err(ApiError::new(400, "INVALIDJOBSTATE", message));
                }
                self.jobs.lock().remove(&job.id);
                for part in ["upload", "successful", "failed", "unprocessed", "results"] {
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
                let body = std::fs::read(self.jobs.path(&find(id)?.id, part)).unwrap_or_default();
                Ok(csv_answer(body))
            }
            (method, [] | [_]) => Err(not_allowed(method, "DELETE,GET,HEAD,PATCH,POST")),
            _ => Err(ApiError::not_found()),
        }
    }

    fn create_job(&self, call: &Call, version: &str, ingest: bool) -> Answered<Answer> {
        let body = call.json()?;
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let operation = text("operation").to_owned();
        let mut object = text("object").to_owned();
        let soql = text("query").to_owned();
        if ingest {
            if !["insert", "update", "upsert", "delete", "hardDelete"].contains(&operation.as_str()) {
                return Err(ApiError::new(400, "INVALIDOPERATION", format!("operation '{operation}' is not known")));
            }
            let Some(known) = self.schema.object(&object) else {
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
            let plan = self.read(|connection| query::compile(self.context(connection, version, false), &soql))?;
            if !plan.is_flat() {
                let message = "the query has aggregates, subqueries or compound fields, which Bulk queries cannot have";
                return Err(ApiError::new(400, "API_ERROR", message));
            }
            plan.object().clone_into(&mut object);
        }
        let delimiter = delimiter(body["columnDelimiter"].as_str().unwrap_or("COMMA"))?;
        let mut jobs = self.jobs.lock();
        let job = Job {
            id: id::make("750", self.jobs.created.fetch_add(1, Ordering::Relaxed) + 1),
            ingest,
            operation,
            object,
            external_id: body["externalIdFieldName"].as_str().map(str::to_owned),
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
        };
        let answer = Answer::json(200, &job.json(&self.user_id));
        jobs.insert(job.id.clone(), job);
        Ok(answer)
    }

    fn context<'o>(&'o self, connection: &'o rusqlite::Connection, version: &'o str, deleted: bool) -> Context<'o> {
        Context { schema: &self.schema, connection, now: self.now(), version, deleted }
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
        Ok(Answer::json(200, &self.jobs.find(&job.id, job.ingest)?.json(&self.user_id)))
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
        let (body, rows, next) =
            page.map_err(|error| ApiError::new(400, "INVALIDJOB", format!("the results cannot be read: {error}")))?;
        Ok(csv_answer(body)
            .with("sforce-numberofrecords", rows.to_string())
            .with("sforce-locator", next.map_or_else(|| "null".to_owned(), |offset| format!("{offset:x}"))))
    }

    /// Reads a page from the results file; a locator is the offset of its first row.
    fn page(&self, job: &Job, locator: Option<&str>, count: usize) -> std::io::Result<(Vec<u8>, usize, Option<u64>)> {
        let mut file = BufReader::new(File::open(self.jobs.path(&job.id, "results"))?);
        let mut reader = csv::ReaderBuilder::new().delimiter(job.delimiter.1).has_headers(false).from_reader(&mut file);
        let mut record = csv::ByteRecord::new();
        reader.read_byte_record(&mut record)?;
        let first = reader.position().byte();
        let start = match locator {
            Some(text) => u64::from_str_radix(text, 16).map_err(std::io::Error::other)?,
            None => first,
        };
        drop(reader);
        file.seek(SeekFrom::Start(start))?;
        let mut reader = csv::ReaderBuilder::new().delimiter(job.delimiter.1).has_headers(false).from_reader(&mut file);
        let mut rows = 0;
        while rows < count && reader.read_byte_record(&mut record)? {
            rows += 1;
        }
        let length = reader.position().byte();
        let more = reader.read_byte_record(&mut record)?;
        drop(reader);
        let mut body = vec![0; usize::try_from(first).map_err(std::io::Error::other)?];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut body)?;
        file.seek(SeekFrom::Start(start))?;
        file.take(length).read_to_end(&mut body)?;
        Ok((body, rows, more.then_some(start + length)))
    }

    fn result_pages(&self, call: &Call, version: &str, job: &Job) -> Answered<Answer> {
        let link = format!("/services/data/{version}/jobs/query/{}", job.id);
        let mut pages = Vec::new();
        let mut locator = call.query.get("locator").cloned();
        let mut done = false;
        while pages.len() < 5 && !done {
            let suffix = locator.as_ref().map_or(String::new(), |locator| format!("?locator={locator}"));
            pages.push(json!({"resultUrl": format!("{link}/results{suffix}")}));
            let page = self.page(job, locator.as_deref(), PAGE);
            let (_, _, next) = page.map_err(|error| ApiError::new(400, "INVALIDJOB", error.to_string()))?;
            done = next.is_none();
            locator = next.map(|offset| format!("{offset:x}"));
        }
        let next = if done {
            Value::Null
        } else {
            json!(format!("{link}/resultPages?locator={}", locator.unwrap_or_default()))
        };
        Ok(Answer::json(200, &json!({"resultPages": pages, "nextRecordsUrl": next, "done": done})))
    }

    /// Works on a job to its end.
    fn work(&self, id: &str) {
        let Some(job) = self.jobs.lock().get(id).cloned() else { return };
        self.jobs.change(id, |job| job.state = "InProgress");
        let result = if job.ingest { self.ingest(&job) } else { self.export(&job) };
        self.jobs.change(id, |job| match (result, job.state) {
            (_, "Aborted") => {}
            (Ok(()), _) => job.state = "JobComplete",
            (Err(message), _) => {
                job.state = "Failed";
                job.error = Some(message);
            }
        });
    }

    fn export(&self, job: &Job) -> Result<(), String> {
        let version = format!("v{}.0", job.version);
        let text = |error: ApiError| format!("{} : {}", error.code, error.message);
        let deleted = job.operation == "queryAll";
        let (plan, rows) = self
            .read(|connection| {
                let plan = query::compile(self.context(connection, &version, deleted), &job.soql)?;
                let rows = plan.rows(connection)?;
                Ok((plan, rows))
            })
            .map_err(text)?;
        let file = File::create(self.jobs.path(&job.id, "results")).map_err(|error| error.to_string())?;
        let mut writer = job.writer(file);
        writer.write_record(plan.csv_header()).map_err(|error| error.to_string())?;
        for part in rows.chunks(FETCH) {
            if self.jobs.aborted(&job.id) {
                return Ok(());
            }
            self.read(|connection| plan.csv(connection, part, &mut writer)).map_err(text)?;
            self.jobs.change(&job.id, |job| job.processed += part.len() as u64);
        }
        writer.flush().map_err(|error| error.to_string())
    }

    fn ingest(&self, job: &Job) -> Result<(), String> {
        let object = self.schema.object(&job.object).ok_or("InvalidEntity")?;
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
            let outcomes = self.write(|store| {
                Ok(batch
                    .iter()
                    .map(|row| store.atomically(|store| job.write(store, object, &columns, row)))
                    .collect::<Vec<_>>())
            });
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
                        let message = format!("{}:{}:{} --", error.code, error.message, error.fields.join(","));
                        let message = message.replace(": --", ":--");
                        failed.write_record(["", &message].into_iter().chain(row.iter()))
                    }
                };
                written.map_err(|error| error.to_string())?;
            }
            self.jobs.change(&job.id, |job| {
                job.processed += batch.len() as u64;
                job.failed += refused;
            });
            if self.faults.aborts_job() {
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

    /// Writes one row; returns the id of the record and whether it is new.
    fn write(
        &self,
        store: &mut Store<'_>,
        object: &Object,
        columns: &[Column],
        row: &csv::StringRecord,
    ) -> Answered<(String, bool)> {
        let mut values = Map::new();
        for (column, cell) in columns.iter().zip(row.iter()) {
            if cell.is_empty() {
                continue;
            }
            let value = if cell == NULL { Value::Null } else { Value::String(cell.to_owned()) };
            match column {
                Column::Field(name) => values.insert(name.clone(), value),
                Column::Parent { relationship, key, target } => {
                    let mut parent = json!({key: value});
                    if let Some(target) = target {
                        parent["attributes"] = json!({"type": target});
                    }
                    values.insert(relationship.clone(), if cell == NULL { Value::Null } else { parent })
                }
            };
        }
        let missing = |name: &str| ApiError::new(400, "MISSING_ARGUMENT", format!("{name} not specified"));
        // Bulk has its own code for a value of the wrong type.
        let bulk = |mut error: ApiError| {
            if error.code == "JSON_PARSER_ERROR" {
                "INVALID_TYPE_ON_FIELD_IN_RECORD".clone_into(&mut error.code);
                let field = error.fields.first().and_then(|name| object.field(name));
                let label = field.map_or("", |field| field.label.as_str());
                let value = field.and_then(|field| values_text(&values, &field.name)).unwrap_or_default();
                error.message = format!("{label}: value not of required type: {value}");
            }
            error
        };
        match self.operation.as_str() {
            "insert" => Ok((store.insert(object, &values).map_err(bulk)?, true)),
            "upsert" => {
                let key =
                    self.external_id.as_deref().and_then(|name| object.field(name)).ok_or_else(ApiError::not_found)?;
                let mut rest = values.clone();
                let value = rest.remove(&key.name).unwrap_or_default();
                if value.is_null() && key.kind != Kind::Id {
                    return Err(missing(&key.name));
                }
                store.upsert(object, key, &value, &rest).map_err(bulk)
            }
            operation => {
                let mut rest = values.clone();
                let id =
                    rest.remove("Id").and_then(|id| id.as_str().map(str::to_owned)).ok_or_else(|| missing("Id"))?;
                match operation {
                    "update" => store.update(object, &id, &rest).map_err(bulk)?,
                    _ => store.delete(object, &id, operation == "hardDelete")?,
                }
                Ok((id, false))
            }
        }
    }
}

fn values_text(values: &Map<String, Value>, name: &str) -> Option<String> {
    Some(values.get(name)?.as_str()?.to_owned())
}

/// What a column of an upload is for.
enum Column {
    Field(String),
    Parent { relationship: String, key: String, target: Option<String> },
}

fn column(object: &Object, header: &str) -> Result<Column, String> {
    let unknown = || format!("InvalidBatch : Field name not found : {header}");
    if let Some(field) = object.field(header) {
        return Ok(Column::Field(field.name.clone()));
    }
    let (path, key) = header.rsplit_once('.').ok_or_else(unknown)?;
    let (target, relationship) = path.split_once(':').map_or((None, path), |(target, path)| (Some(target), path));
    object.parent(relationship).ok_or_else(unknown)?;
    Ok(Column::Parent { relationship: relationship.to_owned(), key: key.to_owned(), target: target.map(str::to_owned) })
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
    Answer { status: 200, headers: vec![("content-type", "text/csv;charset=UTF-8".to_owned())], body }
}
