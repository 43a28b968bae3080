//! The composite family: several calls, or several records, in one.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::org::{Org, entries};
use crate::rest::{Answer, Call, not_allowed};
use crate::schema::{Kind, Object};
use crate::store::Store;

/// Records in one call of a collection or tree. Source: REST API guide, "sObject Collections".
const MAX_RECORDS: usize = 200;
/// Subrequests in one composite call. Source: REST API guide, "Composite".
const MAX_SUBREQUESTS: usize = 25;

/// Queries and collections among them. Source: REST API guide, "Composite".
const MAX_HEAVY: usize = 5;
/// Levels of a tree. Source: REST API guide, "sObject Tree".
const MAX_TREE_DEPTH: usize = 5;
/// Graphs in a call, nodes in all of them, and failed ones after which the rest is not run. Source: REST API guide,
/// "Composite Graph".
const MAX_GRAPHS: usize = 75;
const MAX_NODES: usize = 500;
const MAX_FAILED_GRAPHS: usize = 14;

/// What a subrequest says that was undone.
const ROLLED_BACK_STEP: &str =
    "The transaction was rolled back since another operation in the same transaction failed.";

/// What each record of a rolled-back collection says.
const ROLLED_BACK: &str =
    "Record rolled back because not all records were valid and the request was using AllOrNone header";

impl Org {
    pub(crate) fn composite(&self, call: &Call, version: &str, rest: &[&str]) -> Answered<Answer> {
        match (call.method.as_str(), rest) {
            ("GET", []) => {
                let names = ["tree", "batch", "sobjects", "graph"];
                let links = names
                    .iter()
                    .map(|name| ((*name).to_owned(), json!(format!("/services/data/{version}/composite/{name}"))));
                Ok(Answer::json(200, &Value::Object(Map::from_iter(links))))
            }
            ("POST", []) => self.subrequests(call),
            ("POST", ["batch"]) => self.batch(call),
            ("POST", ["graph"]) => self.graphs(call),
            ("POST", ["tree", object]) => self.tree(call, object),
            ("POST", ["sobjects"]) => self.collection(call, &Verb::Insert),
            ("PATCH", ["sobjects"]) => self.collection(call, &Verb::Update),
            ("PATCH", ["sobjects", object, key]) => {
                let object = call.caller.schema.object(object).ok_or_else(ApiError::not_found)?;
                let key = object.field(key).filter(|key| key.id_lookup).ok_or_else(ApiError::not_found)?;
                self.collection(call, &Verb::Upsert(object, &key.name))
            }
            ("DELETE", ["sobjects"]) => self.delete_collection(call),
            ("GET" | "POST", ["sobjects", object]) => self.retrieve_collection(call, version, object),
            (method, []) => Err(not_allowed(method, "GET,HEAD,POST")),
            _ => Err(ApiError::not_found()),
        }
    }

    fn collection(&self, call: &Call, verb: &Verb<'_>) -> Answered<Answer> {
        let mut body = entries(call.json()?)?;
        let all_or_none = body.get("allOrNone").and_then(Value::as_bool).unwrap_or_default();
        let Some(Value::Array(records)) = body.remove("records") else {
            return Err(ApiError::new(
                400,
                "JSON_PARSER_ERROR",
                "records is missing or not an array at [line:1, column:1]",
            ));
        };
        check_count(records.len())?;
        let write = |store: &mut Store<'_>, record: Value| -> Answered<Value> {
            let mut record = entries(record)?;
            let kind = record.remove("attributes").and_then(|attributes| Some(attributes["type"].as_str()?.to_owned()));
            let object = match (verb, &kind) {
                (Verb::Upsert(object, _), _) => object,
                (_, Some(kind)) => store.schema.object(kind).ok_or_else(|| {
                    ApiError::new(400, "INVALID_TYPE", format!("sObject type '{kind}' is not supported."))
                })?,
                (_, None) => return Err(ApiError::new(400, "INVALID_INPUT", "Include an entity type.")),
            };
            let take = |record: &mut Map<String, Value>, wanted: &str| {
                let name = record.keys().find(|name| name.eq_ignore_ascii_case(wanted)).cloned();
                name.and_then(|name| record.remove(&name)).unwrap_or_default()
            };
            match verb {
                Verb::Insert => {
                    let id = store.insert(object, &record)?;
                    Ok(self.saved(object, &id))
                }
                Verb::Update => {
                    let id = take(&mut record, "id");
                    let id = id
                        .as_str()
                        .ok_or_else(|| ApiError::new(400, "MISSING_ARGUMENT", "Id not specified in an update call"))?;
                    store.update(object, id, &record)?;
                    Ok(json!({"id": id, "success": true, "errors": []}))
                }
                Verb::Upsert(object, key) => {
                    let key = object.field(key).ok_or_else(ApiError::not_found)?;
                    let value = take(&mut record, &key.name);
                    if value.is_null() && key.kind != Kind::Id {
                        let message = format!("{} not specified", key.name);
                        return Err(ApiError::new(400, "MISSING_ARGUMENT", message));
                    }
                    let (id, created) = store.upsert(object, key, &value, &record)?;
                    Ok(json!({"id": id, "success": true, "errors": [], "created": created}))
                }
            }
        };
        self.each(call, all_or_none, &records, write)
    }

    fn delete_collection(&self, call: &Call) -> Answered<Answer> {
        let all_or_none = call.query.get("allOrNone").is_some_and(|flag| flag == "true");
        let ids: Vec<Value> =
            call.query.get("ids").into_iter().flat_map(|ids| ids.split(',')).map(|id| json!(id.trim())).collect();
        check_count(ids.len())?;
        self.each(call, all_or_none, &ids, |store, id| {
            let id = id.as_str().unwrap_or_default();
            let object = store
                .schema
                .by_id(id)
                .ok_or_else(|| ApiError::new(400, "MALFORMED_ID", format!("malformed id {id}")))?;
            store.delete(object, id, false)?;
            Ok(json!({"id": id, "success": true, "errors": []}))
        })
    }

    /// Writes records one by one in one transaction; with `all_or_none` one failure undoes all.
    fn each(
        &self,
        call: &Call,
        all_or_none: bool,
        records: &[Value],
        mut write: impl FnMut(&mut Store<'_>, Value) -> Answered<Value>,
    ) -> Answered<Answer> {
        let mut results: Vec<Result<Value, ApiError>> = Vec::with_capacity(records.len());
        let done = self.write_with(&call.caller, call.options(), |store| {
            results.clear();
            for record in records {
                results.push(store.atomically(|store| write(store, record.clone())));
            }
            if all_or_none && results.iter().any(Result::is_err) {
                return Err(ApiError::new(400, "ALL_OR_NONE_OPERATION_ROLLED_BACK", ROLLED_BACK));
            }
            Ok(())
        });
        let rolled_back = done.err();
        if let Some(error) = rolled_back.as_ref().filter(|error| error.status >= 500) {
            return Err(error.clone());
        }
        let body: Vec<Value> = results
            .into_iter()
            .map(|result| match (result, &rolled_back) {
                (Ok(value), None) => value,
                (Ok(_), Some(error)) => json!({"success": false, "errors": [error.save_entry()]}),
                (Err(error), _) => json!({"success": false, "errors": [error.save_entry()]}),
            })
            .collect();
        Ok(Answer::json(200, &Value::Array(body)))
    }

    fn retrieve_collection(&self, call: &Call, version: &str, object: &str) -> Answered<Answer> {
        let object = call.caller.schema.object(object).ok_or_else(ApiError::not_found)?;
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let (ids, fields) = if call.method == "POST" {
            let body = call.json()?;
            (texts(&body["ids"]), texts(&body["fields"]))
        } else {
            let list = |name: &str| {
                call.query.get(name).map_or_else(Vec::new, |text| text.split(',').map(str::to_owned).collect())
            };
            (list("ids"), list("fields"))
        };
        if ids.len() > 2000 {
            return Err(ApiError::new(
                400,
                "EXCEEDED_ID_LIMIT",
                "record limit reached. cannot submit more than 2000 records into this call",
            ));
        }
        let ids: Vec<Option<String>> = ids.iter().map(|id| crate::id::normal(id)).collect();
        let list: Vec<String> = ids.iter().flatten().map(|id| format!("'{id}'")).collect();
        if list.is_empty() {
            return Ok(Answer::json(200, &json!([])));
        }
        let mut selected = fields;
        let asked = selected.iter().any(|field| field.eq_ignore_ascii_case("Id"));
        if !asked {
            selected.push("Id".to_owned());
        }
        let soql = format!("SELECT {} FROM {} WHERE Id IN ({})", selected.join(","), object.name, list.join(","));
        let mut found: HashMap<String, Value> = HashMap::new();
        for mut record in self.select(call, version, &soql, false)? {
            let id = record["Id"].as_str().unwrap_or_default().to_owned();
            if let (false, Some(record)) = (asked, record.as_object_mut()) {
                record.remove("Id");
            }
            found.insert(id, record);
        }
        let records = ids.iter().map(|id| id.as_ref().and_then(|id| found.get(id).cloned()).unwrap_or_default());
        Ok(Answer::json(200, &records.collect()))
    }

    fn tree(&self, call: &Call, object: &str) -> Answered<Answer> {
        let object = call.caller.schema.object(object).ok_or_else(ApiError::not_found)?;
        let body = call.json()?;
        let records = body["records"].as_array().cloned().unwrap_or_default();
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        let done = self.write_with(&call.caller, call.options(), |store| {
            results.clear();
            errors.clear();
            let mut tree = Tree { results: &mut results, errors: &mut errors };
            tree.plant(store, object, None, records.clone(), 1)?;
            if results.len() + errors.len() > MAX_RECORDS {
                return Err(too_many());
            }
            // One failure leaves nothing behind; which ones there were is told below.
            if errors.is_empty() { Ok(()) } else { Err(ApiError::new(400, TREE, "")) }
        });
        match done {
            Ok(()) => Ok(Answer::json(201, &json!({"hasErrors": false, "results": results}))),
            Err(error) if error.code == TREE => Ok(Answer::json(400, &json!({"hasErrors": true, "results": errors}))),
            Err(error) => Err(error),
        }
    }

    fn batch(&self, call: &Call) -> Answered<Answer> {
        let body = call.json()?;
        let halt = body["haltOnError"].as_bool().unwrap_or_default();
        let requests = body["batchRequests"].as_array().cloned().unwrap_or_default();
        if requests.len() > MAX_SUBREQUESTS {
            let message = format!("Batch size exceeded. Maximum is {MAX_SUBREQUESTS}");
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", message));
        }
        let mut failed = false;
        let mut results = Vec::new();
        for request in requests {
            if failed && halt {
                let error = ApiError::new(412, "BATCH_PROCESSING_HALTED", "Batch processing halted per request");
                results.push(json!({"statusCode": 412, "result": [error.entry()]}));
                continue;
            }
            let answer = self.inner(call, &request, &request["richInput"]);
            failed |= answer.status >= 400;
            results.push(json!({"statusCode": answer.status, "result": answer.value()}));
        }
        Ok(Answer::json(200, &json!({"hasErrors": failed, "results": results})))
    }

    fn subrequests(&self, call: &Call) -> Answered<Answer> {
        let body = call.json()?;
        let requests = body["compositeRequest"].as_array().cloned().unwrap_or_default();
        if requests.len() > MAX_SUBREQUESTS {
            let message = format!("Limit of {MAX_SUBREQUESTS} subrequests exceeded");
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", message));
        }
        let heavy = |request: &&Value| {
            let url = request["url"].as_str().unwrap_or_default();
            url.contains("/query") || url.contains("/composite/sobjects")
        };
        if requests.iter().filter(heavy).count() > MAX_HEAVY {
            let message = format!("Limit of {MAX_HEAVY} query and collection subrequests exceeded");
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", message));
        }
        check_references(&requests)?;
        let all_or_none = body["allOrNone"].as_bool().unwrap_or_default();
        let (results, _) = self.steps(call, &requests, all_or_none);
        Ok(Answer::json(200, &json!({"compositeResponse": results})))
    }

    /// Runs subrequests one after the other; with `all_or_none` in one transaction that the first failure undoes.
    /// Returns their answers and whether all went well.
    fn steps(&self, call: &Call, requests: &[Value], all_or_none: bool) -> (Vec<Value>, bool) {
        if !all_or_none {
            let (results, failed) = self.run_steps(call, requests, false);
            return (results, failed.is_none());
        }
        let ran = self.transaction(|| {
            let (results, failed) = self.run_steps(call, requests, true);
            if failed.is_some() { Err((results, failed)) } else { Ok(results) }
        });
        match ran {
            Ok(Ok(results)) => (results, true),
            Ok(Err((results, failed))) => {
                let undone = |at: usize| {
                    let halted = results.get(at).filter(|_| Some(at) == failed).cloned();
                    halted.unwrap_or_else(|| step_answer(&requests[at], &Answer::from(halted_error(ROLLED_BACK_STEP))))
                };
                ((0..requests.len()).map(undone).collect(), false)
            }
            Err(error) => {
                (requests.iter().map(|request| step_answer(request, &Answer::from(error.clone()))).collect(), false)
            }
        }
    }

    /// Returns the answers, and the number of the last subrequest that failed.
    fn run_steps(&self, call: &Call, requests: &[Value], stop: bool) -> (Vec<Value>, Option<usize>) {
        let mut answers: HashMap<String, Value> = HashMap::new();
        let mut results = Vec::new();
        let mut failed = None;
        for (at, request) in requests.iter().enumerate() {
            let reference = request["referenceId"].as_str().unwrap_or_default().to_owned();
            let answer = match resolve(request, &answers) {
                Ok(mut request) => {
                    let collection = request["url"].as_str().is_some_and(|url| url.contains("/composite/sobjects"));
                    if stop && collection && request["body"].is_object() {
                        request["body"]["allOrNone"] = Value::Bool(true);
                    }
                    let body = request["body"].take();
                    self.inner(call, &request, &body)
                }
                Err(error) => Answer::from(error),
            };
            let body = answer.value();
            let refused = body.as_array().is_some_and(|entries| entries.iter().any(|entry| entry["success"] == false));
            if answer.status < 400 {
                answers.insert(reference, body);
            }
            results.push(step_answer(request, &answer));
            if answer.status >= 400 || stop && refused {
                failed = Some(at);
                if stop {
                    break;
                }
            }
        }
        (results, failed)
    }

    /// Graphs of subrequests, each of which succeeds or fails as a whole.
    fn graphs(&self, call: &Call) -> Answered<Answer> {
        let body = call.json()?;
        let graphs = body["graphs"].as_array().cloned().unwrap_or_default();
        if graphs.len() > MAX_GRAPHS {
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", format!("Limit of {MAX_GRAPHS} graphs exceeded")));
        }
        let requests = |graph: &Value| graph["compositeRequest"].as_array().cloned().unwrap_or_default();
        let nodes: usize = graphs.iter().map(|graph| requests(graph).len()).sum();
        if nodes > MAX_NODES {
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", format!("Limit of {MAX_NODES} nodes exceeded")));
        }
        let mut seen = std::collections::HashSet::new();
        let (mut results, mut failures) = (Vec::new(), 0);
        for graph in &graphs {
            let id = graph["graphId"].as_str().unwrap_or_default();
            let plain = id.len() <= 40 && id.starts_with(|c: char| c.is_ascii_alphanumeric());
            if !plain || !seen.insert(id.to_owned()) {
                let message = format!(
                    "Invalid graphId '{id}': it must be unique, at most 40 characters long and begin with a letter or digit"
                );
                return Err(ApiError::new(400, "INVALID_INPUT", message));
            }
            let requests = requests(graph);
            check_references(&requests)?;
            if let Some(other) = requests.iter().find(|request| !may_be_node(request)) {
                let message = format!("{} {} is not allowed in a graph", other["method"], other["url"]);
                return Err(ApiError::new(400, "INVALID_INPUT", message));
            }
            let (steps, fine) = if failures > MAX_FAILED_GRAPHS {
                let halted = Answer::from(halted_error("Processing was halted since too many graphs failed."));
                (requests.iter().map(|request| step_answer(request, &halted)).collect(), false)
            } else {
                self.steps(call, &requests, true)
            };
            failures += usize::from(!fine);
            results.push(json!({"graphId": id, "graphResponse": {"compositeResponse": steps}, "isSuccessful": fine}));
        }
        Ok(Answer::json(200, &json!({"graphs": results})))
    }

    /// Runs a subrequest.
    fn inner(&self, outer: &Call, request: &Value, body: &Value) -> Answer {
        let method = request["method"].as_str().unwrap_or("GET");
        let url = request["url"].as_str().unwrap_or_default();
        let url = if url.starts_with("/services") {
            url.to_owned()
        } else {
            format!("/services/data/{}", url.trim_start_matches('/'))
        };
        let mut inner = Call::new(method, &url);
        inner.caller = outer.caller.clone();
        let steps: Vec<&str> = inner.path.iter().map(String::as_str).collect();
        let nested = match steps.as_slice() {
            ["services", "data", _, "composite", rest @ ..] => rest.first().is_none_or(|step| *step != "sobjects"),
            ["services", "data", _, "jobs", ..] => true,
            ["services", "data", ..] => false,
            _ => true,
        };
        if nested {
            return ApiError::new(400, "INVALID_INPUT", format!("{url} is not supported in a composite request"))
                .into();
        }
        if !body.is_null() {
            inner.body = body.to_string().into_bytes();
        }
        for name in ["sforce-duplicate-rule-header", "sforce-mru"] {
            if let Some(value) = outer.header(name) {
                inner.headers.insert(name.to_owned(), value.to_owned());
            }
        }
        for (name, value) in request["httpHeaders"].as_object().into_iter().flatten() {
            inner.headers.insert(name.to_lowercase(), value.as_str().unwrap_or_default().to_owned());
        }
        self.data(&inner)
    }
}

enum Verb<'o> {
    Insert,
    Update,
    Upsert(&'o Object, &'o str),
}

/// Marks the refusal of a tree, whose failures are told one by one.
const TREE: &str = "TREE";

/// A tree of records on its way into the org.
struct Tree<'r> {
    results: &'r mut Vec<Value>,
    errors: &'r mut Vec<Value>,
}

impl Tree<'_> {
    fn plant(
        &mut self,
        store: &mut Store<'_>,
        object: &Object,
        parent: Option<(&str, &str)>,
        records: Vec<Value>,
        depth: usize,
    ) -> Answered<()> {
        if depth > MAX_TREE_DEPTH {
            let message = format!("the tree is more than {MAX_TREE_DEPTH} levels deep");
            return Err(ApiError::new(400, "INVALID_INPUT", message));
        }
        for record in records {
            let mut record = entries(record)?;
            let attributes = record.remove("attributes").unwrap_or_default();
            let reference = attributes["referenceId"].as_str().unwrap_or_default().to_owned();
            if reference.is_empty() {
                let message = "Include a reference ID for each record in the request.";
                return Err(ApiError::new(400, "INVALID_INPUT", message));
            }
            let mut branches = Vec::new();
            record.retain(|name, value| {
                let nested = value.get("records").and_then(Value::as_array).cloned();
                let kept = nested.is_none();
                branches.extend(nested.map(|nested| (name.clone(), nested)));
                kept
            });
            if let Some((field, id)) = parent {
                record.insert(field.to_owned(), json!(id));
            }
            match store.atomically(|store| store.insert(object, &record)) {
                Ok(id) => {
                    self.results.push(json!({"referenceId": reference, "id": id}));
                    for (name, nested) in branches {
                        let schema = store.schema;
                        let (child, field) = schema.child(&object.name, &name).ok_or_else(|| {
                            let message = format!("No such column '{name}' on sobject of type {}", object.name);
                            ApiError::new(400, "INVALID_FIELD", message)
                        })?;
                        self.plant(store, child, Some((&field.name, &id)), nested, depth + 1)?;
                    }
                }
                Err(error) => self.errors.push(json!({"referenceId": reference, "errors": [error.save_entry()]})),
            }
        }
        Ok(())
    }
}

/// The refusal of a subrequest that was not run, or that was undone.
fn halted_error(message: &str) -> ApiError {
    ApiError::new(400, "PROCESSING_HALTED", message)
}

/// The entry of a subrequest in the answer.
fn step_answer(request: &Value, answer: &Answer) -> Value {
    let headers = answer.headers.iter().filter_map(|(name, value)| {
        let known = [("location", "Location"), ("etag", "ETag"), ("last-modified", "Last-Modified")];
        let (_, name) = known.iter().find(|(known, _)| known == name)?;
        Some(((*name).to_owned(), json!(value)))
    });
    json!({"body": answer.value(), "httpHeaders": Value::Object(headers.collect()), "httpStatusCode": answer.status,
           "referenceId": request["referenceId"]})
}

/// Each subrequest needs a name of its own.
fn check_references(requests: &[Value]) -> Answered<()> {
    let mut seen = std::collections::HashSet::new();
    for request in requests {
        let name = request["referenceId"].as_str().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let message = format!(
                "Provided referenceId('{name}') must start with a letter or a number, and can only contain letters, numbers and underscores."
            );
            return Err(ApiError::new(400, "INVALID_INPUT", message));
        }
        if !seen.insert(name) {
            let message = format!("Duplicate referenceId specified: {name}");
            return Err(ApiError::new(400, "INVALID_INPUT", message));
        }
    }
    Ok(())
}

/// True for what a graph takes: records, by id or by key.
fn may_be_node(request: &Value) -> bool {
    let path = request["url"].as_str().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let method = request["method"].as_str().unwrap_or("GET").to_uppercase();
    match steps.as_slice() {
        ["services", "data", _, "sobjects", _] => method == "POST",
        ["services", "data", _, "sobjects", _, _] => matches!(method.as_str(), "GET" | "PATCH" | "DELETE"),
        ["services", "data", _, "sobjects", _, _, _] => matches!(method.as_str(), "GET" | "PATCH" | "POST" | "DELETE"),
        _ => false,
    }
}

fn too_many() -> ApiError {
    let message = format!("record limit reached. cannot submit more than {MAX_RECORDS} records into this call");
    ApiError::new(400, "EXCEEDED_ID_LIMIT", message)
}

fn check_count(count: usize) -> Answered<()> {
    if count > MAX_RECORDS { Err(too_many()) } else { Ok(()) }
}

/// Replaces `@{ref.path}` in the url and body of a request by what an earlier answer holds there.
fn resolve(request: &Value, answers: &HashMap<String, Value>) -> Answered<Value> {
    Ok(match request {
        Value::String(text) => {
            let mut rest = text.as_str();
            let mut resolved = String::new();
            while let Some((before, tail)) = rest.split_once("@{") {
                let (reference, after) = tail.split_once('}').unwrap_or((tail, ""));
                let (name, path) = reference.split_once(['.', '[']).unwrap_or((reference, ""));
                let steps = path.split(['.', '[', ']']).filter(|step| !step.is_empty());
                let value = answers.get(name).and_then(|answer| {
                    steps.into_iter().try_fold(answer, |value, step| match step.parse::<usize>() {
                        Ok(at) => value.get(at),
                        Err(_) => value.get(step),
                    })
                });
                let value = value.ok_or_else(|| {
                    let message = format!("Invalid reference specified. No value for {path} found in {name}");
                    ApiError::new(400, "PROCESSING_HALTED", message)
                })?;
                resolved.push_str(before);
                resolved.push_str(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                rest = after;
            }
            resolved.push_str(rest);
            Value::String(resolved)
        }
        Value::Array(items) => items.iter().map(|item| resolve(item, answers)).collect::<Answered<_>>()?,
        Value::Object(items) => Value::Object(
            items.iter().map(|(name, item)| Ok((name.clone(), resolve(item, answers)?))).collect::<Answered<_>>()?,
        ),
        other => other.clone(),
    })
}
