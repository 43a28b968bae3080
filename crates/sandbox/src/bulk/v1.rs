//! Bulk API 1.0, which older clients still speak: jobs of batches, in XML, JSON or CSV.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::check_operation;
use super::rows::{Operation, column, record};
use crate::caller::Caller;
use crate::csv_out::Csv;
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::query;
use crate::rest::{Answer, Call};
use crate::schema::Object;
use crate::value::{json_time, parse_datetime};
use crate::xml::{escape, render, tree};

/// Largest batch, in bytes and in records. Source: Bulk API limits.
const MAX_BYTES: usize = 10_000_000;
const MAX_RECORDS: usize = 10_000;
/// Records in a chunk unless the client asks for another number, and the most that it may ask for. Source: Data Loader.
const CHUNK: u32 = 100_000;
const MAX_CHUNK: u32 = 250_000;
/// Namespace of every document.
const NAMESPACE: &str = "http://www.force.com/2009/06/asyncapi/dataload";

/// A job.
#[derive(Debug, Clone)]
pub(super) struct Job {
    id: String,
    operation: Operation,
    object: String,
    serial: bool,
    format: Format,
    state: &'static str,
    version: String,
    caller: Arc<Caller>,
    created: String,
    /// Records in a chunk of a query that is split by id.
    chunk: Option<u32>,
    batches: Vec<Batch>,
}

/// One batch of a job.
#[derive(Debug, Clone)]
struct Batch {
    id: String,
    state: &'static str,
    message: Option<String>,
    created: String,
    processed: u64,
    failed: u64,
    milliseconds: u64,
    /// For a chunk of a query the row numbers that it spans.
    span: Option<(u32, u32)>,
}

/// How the data of a job are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
    Xml,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Xml => "XML",
        }
    }

    /// Clients compare the type of JSON as a whole, so it names no charset; they decode CSV by its charset.
    /// Source: salesforce-bulk, tap-salesforce.
    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=UTF-8",
            Self::Json => "application/json",
            Self::Xml => "application/xml",
        }
    }
}

/// The refusals of this API have codes of their own.
fn refused(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(400, code, message)
}

impl Job {
    fn is_query(&self) -> bool {
        self.operation.name.starts_with("query")
    }

    fn info(&self) -> Value {
        let count = |state: &str| self.batches.iter().filter(|batch| batch.state == state).count();
        let sum = |of: fn(&Batch) -> u64| self.batches.iter().map(of).sum::<u64>();
        let mut info = json!({
            "id": self.id, "operation": self.operation.name, "object": self.object, "createdById": self.caller.user_id,
            "createdDate": self.created, "systemModstamp": self.created, "state": self.state});
        if let Some(key) = &self.operation.external_id {
            info["externalIdFieldName"] = json!(key);
        }
        let more = json!({
            "concurrencyMode": if self.serial { "Serial" } else { "Parallel" }, "contentType": self.format.word(),
            "numberBatchesQueued": count("Queued"), "numberBatchesInProgress": count("InProgress"),
            "numberBatchesCompleted": count("Completed"), "numberBatchesFailed": count("Failed"),
            "numberBatchesTotal": self.batches.len(), "numberRecordsProcessed": sum(|batch| batch.processed),
            "numberRetries": 0, "apiVersion": self.version.parse::<f64>().unwrap_or_default(),
            "numberRecordsFailed": sum(|batch| batch.failed), "totalProcessingTime": sum(|batch| batch.milliseconds),
            "apiActiveProcessingTime": sum(|batch| batch.milliseconds), "apexProcessingTime": 0});
        if let (Value::Object(info), Value::Object(more)) = (&mut info, more) {
            info.extend(more);
        }
        info
    }

    fn batch_info(&self, batch: &Batch) -> Value {
        json!({"id": batch.id, "jobId": self.id, "state": batch.state, "stateMessage": batch.message,
               "createdDate": batch.created, "systemModstamp": batch.created, "numberRecordsProcessed": batch.processed,
               "numberRecordsFailed": batch.failed, "totalProcessingTime": batch.milliseconds,
               "apiActiveProcessingTime": batch.milliseconds, "apexProcessingTime": 0})
    }
}

/// Answers in the format that the call speaks.
fn answer(json: bool, status: u16, root: &str, body: &Value) -> Answer {
    if json {
        return Answer::bytes(status, Format::Json.content_type(), body.to_string().into_bytes());
    }
    let plain = match body {
        // What there is not is left out.
        Value::Object(entries) => Value::Object(
            entries.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect(),
        ),
        other => other.clone(),
    };
    let text = render(root, &plain).replacen(&format!("<{root}>"), &format!("<{root} xmlns=\"{NAMESPACE}\">"), 1);
    Answer::bytes(status, Format::Xml.content_type(), text.into_bytes())
}

/// True for a call that speaks JSON.
fn speaks_json(call: &Call) -> bool {
    let says = |name: &str| call.header(name).is_some_and(|kind| kind.contains("json"));
    says("content-type") || (says("accept") && !call.header("content-type").is_some_and(|kind| kind.contains("xml")))
}

impl Org {
    /// Answers a call below `/services/async`; the session has been checked.
    pub(crate) fn classic(self: &Arc<Self>, call: &Call) -> Answer {
        self.classic_route(call).unwrap_or_else(|error| Self::classic_error(call, &error))
    }

    /// Returns a refusal as this API tells it.
    pub(crate) fn classic_error(call: &Call, error: &ApiError) -> Answer {
        let code = match error.code.as_str() {
            "INVALID_SESSION_ID" => "InvalidSessionId",
            "NOT_FOUND" => "InvalidUrl",
            "REQUEST_LIMIT_EXCEEDED" => "ExceededQuota",
            "INVALIDOPERATION" => "InvalidOperation",
            "FEATURENOTENABLED" => "FeatureNotEnabled",
            "JSON_PARSER_ERROR" | "XML_PARSER_ERROR" => "InvalidJob",
            "UNKNOWN_EXCEPTION" => "InternalServerError",
            known => known,
        };
        let message = if code == "InvalidSessionId" { "Invalid session id" } else { error.message.as_str() };
        let body = json!({"exceptionCode": code, "exceptionMessage": message});
        answer(speaks_json(call), error.status, "error", &body)
    }

    fn classic_route(self: &Arc<Self>, call: &Call) -> Answered<Answer> {
        let steps: Vec<&str> = call.path.iter().map(String::as_str).collect();
        let [version, "job", rest @ ..] = steps.get(2..).unwrap_or_default() else {
            return Err(refused("InvalidUrl", "Destination URL not found"));
        };
        let number: f64 = version.parse().unwrap_or_default();
        if !(31.0..=66.0).contains(&number) {
            return Err(refused("InvalidVersion", format!("Api version {version} is not supported")));
        }
        let json = speaks_json(call);
        match (call.method.as_str(), rest) {
            ("POST", []) => self.classic_create(call, version, json),
            ("GET", [id]) => Ok(answer(json, 200, "jobInfo", &self.classic_job(id)?.info())),
            ("POST", [id]) => self.classic_state(call, id, json),
            ("POST", [id, "batch"]) => self.classic_batch(call, id),
            ("GET", [id, "batch"]) => {
                let job = self.classic_job(id)?;
                let infos: Vec<Value> = job.batches.iter().map(|batch| job.batch_info(batch)).collect();
                // Of batches a job speaks as its data do, whatever the call says. Source: what tap-salesforce expects.
                let json = job.format == Format::Json;
                Ok(answer(json, 200, "batchInfoList", &json!({"batchInfo": infos})))
            }
            ("GET", [id, "batch", batch]) => {
                let job = self.classic_job(id)?;
                let batch = find(&job, batch)?;
                Ok(answer(job.format == Format::Json, 200, "batchInfo", &job.batch_info(batch)))
            }
            ("GET", [id, "batch", batch, "request"]) => {
                let job = self.classic_job(id)?;
                let path = self.jobs.path(&find(&job, batch)?.id, "request");
                let body = std::fs::read(path).unwrap_or_default();
                Ok(Answer::bytes(200, job.format.content_type(), body))
            }
            ("GET", [id, "batch", batch, "result"]) => self.classic_result(id, batch),
            ("GET", [id, "batch", batch, "result", result]) => {
                let job = self.classic_job(id)?;
                let batch = find(&job, batch)?;
                if *result != result_id(&batch.id) {
                    return Err(refused("InvalidBatch", format!("no result {result}")));
                }
                Ok(Answer::bytes(200, job.format.content_type(), self.classic_file(&batch.id)?))
            }
            ("POST", [_, "spec"]) => Err(refused("FeatureNotEnabled", "mapping specifications are not supported")),
            _ => Err(refused("InvalidUrl", "Destination URL not found")),
        }
    }

    fn classic_job(&self, id: &str) -> Answered<Job> {
        let full = crate::id::normal(id).unwrap_or_default();
        let found = self.jobs.classic().get(&full).cloned();
        found.ok_or_else(|| refused("InvalidJob", format!("Unable to find job: {id}")))
    }

    fn classic_change(&self, job: &str, batch: &str, change: impl FnOnce(&mut Batch)) {
        if let Some(batch) =
            self.jobs.classic().get_mut(job).and_then(|job| job.batches.iter_mut().find(|known| known.id == batch))
        {
            change(batch);
        }
    }

    fn classic_create(&self, call: &Call, version: &str, json: bool) -> Answered<Answer> {
        let body = call.json()?;
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let operation = text("operation").to_owned();
        check_operation(&call.caller, &operation)?;
        let object = call.caller.schema.object(text("object")).ok_or_else(|| {
            refused("InvalidEntity", format!("Entity '{}' is not supported by the Bulk API.", text("object")))
        })?;
        let format = match text("contentType").to_uppercase().as_str() {
            "CSV" => Format::Csv,
            "JSON" => Format::Json,
            "XML" | "" => Format::Xml,
            other => return Err(refused("FeatureNotEnabled", format!("content type {other} is not supported"))),
        };
        let external_id = body["externalIdFieldName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        if operation == "upsert" {
            let name = external_id.as_deref().unwrap_or_default();
            if object.field(name).is_none_or(|field| !field.id_lookup) {
                let message = format!(
                    "InvalidJob : Field name provided, {name} does not match an External ID for {}",
                    object.name
                );
                return Err(refused("InvalidJob", message));
            }
        }
        let chunk = call.header("sforce-enable-pkchunking").filter(|text| !text.trim().eq_ignore_ascii_case("false"));
        let chunk = chunk.map(|text| {
            let size = text.split(';').find_map(|part| part.trim().strip_prefix("chunkSize=")?.parse().ok());
            size.unwrap_or(CHUNK).clamp(1, MAX_CHUNK)
        });
        let job = Job {
            id: self.jobs.next_id("750"),
            operation: Operation { name: operation, external_id },
            object: object.name.clone(),
            serial: text("concurrencyMode").eq_ignore_ascii_case("Serial"),
            format,
            state: "Open",
            version: version.to_owned(),
            caller: call.caller.clone(),
            created: self.classic_time(),
            chunk,
            batches: Vec::new(),
        };
        let made = answer(json, 201, "jobInfo", &job.info());
        let location = format!("/services/async/{version}/job/{}", job.id);
        self.jobs.classic().insert(job.id.clone(), job);
        Ok(made.with("location", location))
    }

    /// Returns the time as this API writes it.
    fn classic_time(&self) -> String {
        json_time(self.now()).replace("+0000", "Z")
    }

    fn classic_state(&self, call: &Call, id: &str, json: bool) -> Answered<Answer> {
        let body = call.json()?;
        let state = match body["state"].as_str() {
            Some("Closed") => "Closed",
            Some("Aborted") => "Aborted",
            other => return Err(refused("InvalidJob", format!("state {other:?} cannot be set"))),
        };
        let id = self.classic_job(id)?.id;
        let mut jobs = self.jobs.classic();
        let job = jobs.get_mut(&id).ok_or_else(|| refused("InvalidJob", "Unable to find job"))?;
        if job.state != "Open" && state != job.state {
            return Err(refused("InvalidJobState", format!("Job is in state {}", job.state)));
        }
        job.state = state;
        if state == "Aborted" {
            for batch in job.batches.iter_mut().filter(|batch| batch.state == "Queued") {
                batch.state = "NotProcessed";
            }
        }
        Ok(answer(json, 200, "jobInfo", &job.info()))
    }

    fn classic_batch(self: &Arc<Self>, call: &Call, id: &str) -> Answered<Answer> {
        let job = self.classic_job(id)?;
        if job.state != "Open" {
            return Err(refused("InvalidJobState", format!("Job is in state {}: no batch can be added", job.state)));
        }
        if call.body.len() > MAX_BYTES {
            return Err(refused("ClientInputError", "Batch size exceeds the limit of 10 MB"));
        }
        let batch = Batch {
            id: self.jobs.next_id("751"),
            state: "Queued",
            message: None,
            created: self.classic_time(),
            processed: 0,
            failed: 0,
            milliseconds: 0,
            span: None,
        };
        let failed = |error: std::io::Error| ApiError::new(500, "UNKNOWN_EXCEPTION", error.to_string());
        std::fs::write(self.jobs.path(&batch.id, "request"), &call.body).map_err(failed)?;
        let mut added = vec![batch.clone()];
        if let (Some(size), true) = (job.chunk, job.is_query()) {
            let text = String::from_utf8_lossy(&call.body).into_owned();
            // The first batch stands for the whole; each chunk is a batch of its own.
            added[0].state = "NotProcessed";
            for span in self.spans(&job, &text, size)? {
                let chunk = Batch { id: self.jobs.next_id("751"), state: "Queued", span: Some(span), ..batch.clone() };
                std::fs::write(self.jobs.path(&chunk.id, "request"), &call.body).map_err(failed)?;
                added.push(chunk);
            }
        }
        let waiting: Vec<String> =
            added.iter().filter(|batch| batch.state == "Queued").map(|batch| batch.id.clone()).collect();
        self.jobs.batches.fetch_add(waiting.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let info = job.batch_info(&batch);
        if let Some(job) = self.jobs.classic().get_mut(&job.id) {
            job.batches.extend(added);
        }
        let (org, job_id) = (Arc::clone(self), job.id.clone());
        std::thread::spawn(move || {
            for id in waiting {
                org.classic_work(&job_id, &id);
            }
        });
        let location = format!("/services/async/{}/job/{}/batch/{}", job.version, job.id, batch.id);
        Ok(answer(job.format == Format::Json, 201, "batchInfo", &info).with("location", location))
    }

    /// Splits a table into spans of so many row numbers.
    fn spans(&self, job: &Job, soql: &str, size: u32) -> Answered<Vec<(u32, u32)>> {
        self.read(|connection| {
            let version = format!("v{}", job.version);
            let deleted = job.operation.name == "queryAll";
            query::compile(self.context(&job.caller, connection, &version, deleted), soql).map_err(|error| {
                refused(
                    "InvalidBatch",
                    format!("InvalidBatch : Failed to process query: {}: {}", error.code, error.message),
                )
            })?;
            let sql = format!("SELECT MIN(_rid), MAX(_rid) FROM {}", crate::store::quoted(&job.object));
            let ends = connection
                .query_row(&sql, [], |row| Ok((row.get::<_, Option<u32>>(0)?, row.get::<_, Option<u32>>(1)?)))?;
            let (Some(first), Some(last)) = ends else { return Ok(Vec::new()) };
            Ok((first..=last)
                .step_by(size as usize)
                .map(|from| (from, from.saturating_add(size - 1).min(last)))
                .collect())
        })
    }

    /// Works on one batch.
    fn classic_work(&self, job_id: &str, id: &str) {
        let Ok(job) = self.classic_job(job_id) else { return };
        let Some(batch) = job.batches.iter().find(|batch| batch.id == id && batch.state == "Queued").cloned() else {
            return;
        };
        self.classic_change(job_id, id, |batch| batch.state = "InProgress");
        let started = std::time::Instant::now();
        let result = if job.is_query() { self.classic_query(&job, &batch) } else { self.classic_ingest(&job, &batch) };
        self.classic_change(job_id, id, |batch| {
            batch.milliseconds = started.elapsed().as_millis() as u64;
            match result {
                Ok((processed, failed)) => {
                    (batch.state, batch.processed, batch.failed) = ("Completed", processed, failed);
                }
                Err(message) => (batch.state, batch.message) = ("Failed", Some(message)),
            }
        });
    }

    fn classic_ingest(&self, job: &Job, batch: &Batch) -> Result<(u64, u64), String> {
        let object = job.caller.schema.object(&job.object).ok_or("InvalidEntity")?;
        let body = std::fs::read(self.jobs.path(&batch.id, "request")).map_err(|error| error.to_string())?;
        let records = read_records(job.format, object, &body)?;
        if records.is_empty() {
            return Err("InvalidBatch : Records not found".to_owned());
        }
        if records.len() > MAX_RECORDS {
            return Err(format!("InvalidBatch : Records per batch exceed the limit of {MAX_RECORDS}"));
        }
        let outcomes =
            self.write_batch(&job.caller, &job.operation, object, &records).map_err(|error| error.message)?;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
        let text = match job.format {
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
                let mut lines = vec![["Id", "Success", "Created", "Error"].map(str::to_owned)];
                lines.extend(outcomes.iter().map(|outcome| match outcome {
                    Ok((id, created)) => [id.clone(), "true".to_owned(), created.to_string(), String::new()],
                    Err(error) => {
                        let text = super::v2::error_text(error);
                        [String::new(), "false".to_owned(), "false".to_owned(), text]
                    }
                }));
                for line in lines {
                    writer.write_record(line).map_err(|error| error.to_string())?;
                }
                writer.into_inner().map_err(|error| error.to_string())?
            }
            Format::Json => {
                let results: Vec<Value> = outcomes
                    .iter()
                    .map(|outcome| match outcome {
                        Ok((id, created)) => json!({"success": true, "created": created, "id": id, "errors": []}),
                        Err(error) => json!({"success": false, "created": false, "id": null, "errors": [
                            {"message": error.message, "fields": error.fields, "statusCode": error.code, "extendedErrorDetails": null}]}),
                    })
                    .collect();
                Value::Array(results).to_string().into_bytes()
            }
            Format::Xml => {
                let results: String = outcomes
                    .iter()
                    .map(|outcome| match outcome {
                        Ok((id, created)) => {
                            format!("<result><id>{id}</id><success>true</success><created>{created}</created></result>")
                        }
                        Err(error) => {
                            let fields: String = error
                                .fields
                                .iter()
                                .map(|field| format!("<fields>{}</fields>", escape(field)))
                                .collect();
                            format!(
                                "<result><errors>{fields}<message>{}</message><statusCode>{}</statusCode></errors>\
                                 <success>false</success><created>false</created></result>",
                                escape(&error.message),
                                error.code
                            )
                        }
                    })
                    .collect();
                format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><results xmlns=\"{NAMESPACE}\">{results}</results>")
                    .into_bytes()
            }
        };
        std::fs::write(self.jobs.path(&batch.id, "result"), text).map_err(|error| error.to_string())?;
        Ok((outcomes.len() as u64, failed))
    }

    fn classic_query(&self, job: &Job, batch: &Batch) -> Result<(u64, u64), String> {
        let soql = std::fs::read_to_string(self.jobs.path(&batch.id, "request")).map_err(|error| error.to_string())?;
        let version = format!("v{}", job.version);
        let deleted = job.operation.name == "queryAll";
        let path = self.jobs.path(&batch.id, "result");
        let mut processed = 0;
        let text = self.read_long(|connection| {
            let context = self.context(&job.caller, connection, &version, deleted);
            let mut plan = query::compile(context, &soql)?;
            if let Some((first, last)) = batch.span {
                plan.keep_span(first, last);
            }
            if job.format == Format::Csv {
                if !plan.is_flat() {
                    let message = "Aggregate, nested and compound queries are not supported by the Bulk API with CSV";
                    return Err(ApiError::new(400, "FeatureNotEnabled", message));
                }
                let file = std::fs::File::create(&path).map_err(query::unwritable)?;
                let mut csv = Csv::new(file, b',', false);
                csv.header(&plan.csv_header()).map_err(query::unwritable)?;
                plan.export(connection, &mut csv, |rows| {
                    self.pace(rows as usize);
                    processed += rows;
                    true
                })?;
                csv.finish().map_err(query::unwritable)?;
                if processed == 0 {
                    std::fs::write(&path, "Records not found for this query").map_err(query::unwritable)?;
                }
                return Ok(None);
            }
            let mut records = if plan.is_aggregate() {
                plan.groups(connection)?
            } else {
                let rows = plan.rows(connection)?;
                plan.records(context, &rows)?
            };
            processed = records.len() as u64;
            records.iter_mut().for_each(with_epochs);
            Ok(Some(if job.format == Format::Json { Value::Array(records).to_string() } else { query_xml(&records) }))
        });
        let text =
            text.map_err(|error| format!("InvalidBatch : Failed to process query: {}: {}", error.code, error.message))?;
        if let Some(text) = text {
            std::fs::write(&path, text).map_err(|error| error.to_string())?;
        }
        Ok((processed, 0))
    }

    fn classic_file(&self, batch: &str) -> Answered<Vec<u8>> {
        let path: PathBuf = self.jobs.path(batch, "result");
        std::fs::read(path).map_err(|_| refused("InvalidBatch", "Batch not completed"))
    }

    fn classic_result(&self, id: &str, batch: &str) -> Answered<Answer> {
        let job = self.classic_job(id)?;
        let batch = find(&job, batch)?;
        if batch.state != "Completed" {
            return Err(refused("InvalidBatch", format!("Batch not completed: it is {}", batch.state)));
        }
        if !job.is_query() {
            return Ok(Answer::bytes(200, job.format.content_type(), self.classic_file(&batch.id)?));
        }
        let id = result_id(&batch.id);
        if job.format == Format::Json {
            return Ok(answer(true, 200, "result-list", &json!([id])));
        }
        let text = format!("<result-list xmlns=\"{NAMESPACE}\"><result>{id}</result></result-list>");
        Ok(Answer::bytes(200, Format::Xml.content_type(), text.into_bytes()))
    }
}

fn find<'j>(job: &'j Job, id: &str) -> Answered<&'j Batch> {
    let full = crate::id::normal(id).unwrap_or_default();
    let found = job.batches.iter().find(|batch| batch.id == full);
    found.ok_or_else(|| refused("InvalidBatch", format!("Unable to find batch: {id}")))
}

/// The one result of a query batch is known by the batch's number.
fn result_id(batch: &str) -> String {
    let short = format!("752{}", &batch[3..15]);
    crate::id::normal(&short).unwrap_or(short)
}

/// Reads the records of a batch.
fn read_records(format: Format, object: &Object, body: &[u8]) -> Result<Vec<Map<String, Value>>, String> {
    match format {
        Format::Csv => {
            let mut reader = csv::Reader::from_reader(body);
            let invalid = |error: csv::Error| format!("InvalidBatch : {error}");
            let headers = reader.headers().map_err(invalid)?.clone();
            let columns = headers.iter().map(|header| column(object, header)).collect::<Result<Vec<_>, String>>()?;
            reader.records().map(|row| Ok(record(&columns, row.map_err(invalid)?.iter()))).collect()
        }
        Format::Json => {
            let records: Vec<Map<String, Value>> = serde_json::from_slice(body)
                .map_err(|error| format!("InvalidBatch : Failed to parse JSON: {error}"))?;
            Ok(records)
        }
        Format::Xml => {
            let document = tree(&String::from_utf8_lossy(body)).map_err(|error| format!("InvalidBatch : {error}"))?;
            let record = |node: &crate::xml::Node| -> Map<String, Value> {
                let values = node.children.iter().map(|field| {
                    let value = match field.children.iter().find(|child| child.tag == "sObject") {
                        _ if field.nil => Value::Null,
                        // A parent by its external id.
                        Some(parent) => {
                            let keys = parent.children.iter().filter(|child| child.tag != "type");
                            keys.map(|child| (child.tag.clone(), json!(child.content))).collect()
                        }
                        None => json!(field.content),
                    };
                    (field.tag.clone(), value)
                });
                values.collect()
            };
            Ok(document.children.iter().filter(|node| node.tag == "sObject").map(record).collect())
        }
    }
}

/// This API writes times in JSON as milliseconds. Source: recorded answers.
fn with_epochs(value: &mut Value) {
    match value {
        Value::String(text) if text.len() == 28 && text.ends_with("+0000") => {
            if let Some(time) = parse_datetime(text) {
                *value = json!(time.timestamp_millis());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(with_epochs),
        Value::Object(entries) => entries.values_mut().for_each(with_epochs),
        _ => {}
    }
}

fn query_xml(records: &[Value]) -> String {
    let rows: String = records
        .iter()
        .map(|record| {
            let kind = record["attributes"]["type"].as_str().unwrap_or_default();
            let text = render("records", record);
            let inner =
                text.split_once("<records").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, rest)| rest);
            format!("<records xsi:type=\"sObject\"><type>{}</type>{inner}", escape(kind))
        })
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><queryResult xmlns=\"{NAMESPACE}\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">{rows}</queryResult>"
    )
}
