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

/// What each record of a rolled-back collection says.
const ROLLED_BACK: &str =
    "Record rolled back because not all records were valid and the request was using AllOrNone header";

impl Org {
    pub(crate) fn composite(&self, call: &Call, version: &str, rest: &[&str]) -> Answered<Answer> {
        match (call.method.as_str(), rest) {
            ("GET", []) => {
                let names = ["tree", "batch", "sobjects"];
                let links = names
                    .iter()
                    .map(|name| ((*name).to_owned(), json!(format!("/services/data/{version}/composite/{name}"))));
                Ok(Answer::json(200, &Value::Object(Map::from_iter(links))))
            }
            ("POST", []) => self.subrequests(call),
            ("POST", ["batch"]) => self.batch(call),
            ("POST", ["tree", object]) => self.tree(call, object),
            ("POST", ["sobjects"]) => self.collection(call, &Verb::Insert),
            ("PATCH", ["sobjects"]) => self.collection(call, &Verb::Update),
            ("PATCH", ["sobjects", object, key]) => {
                let object = self.schema.object(object).ok_or_else(ApiError::not_found)?;
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
                (_, Some(kind)) => self.schema.object(kind).ok_or_else(|| {
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
                    Ok(json!({"id": id, "success": true, "errors": []}))
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
        self.each(all_or_none, records, write)
    }

    fn delete_collection(&self, call: &Call) -> Answered<Answer> {
        let all_or_none = call.query.get("allOrNone").is_some_and(|flag| flag == "true");
        let ids: Vec<Value> =
            call.query.get("ids").into_iter().flat_map(|ids| ids.split(',')).map(|id| json!(id.trim())).collect();
        check_count(ids.len())?;
        self.each(all_or_none, ids, |store, id| {
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
        all_or_none: bool,
        records: Vec<Value>,
        mut write: impl FnMut(&mut Store<'_>, Value) -> Answered<Value>,
    ) -> Answered<Answer> {
        let mut results: Vec<Result<Value, ApiError>> = Vec::with_capacity(records.len());
        let done = self.write(|store| {
            for record in records {
                results.push(store.atomically(|store| write(store, record)));
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
        let object = self.schema.object(object).ok_or_else(ApiError::not_found)?;
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
        for mut record in self.select(version, &soql, false)? {
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
        let object = self.schema.object(object).ok_or_else(ApiError::not_found)?;
        let body = call.json()?;
        let records = body["records"].as_array().cloned().unwrap_or_default();
        let mut results = Vec::new();
        let done = self.write(|store| {
            let mut errors = Vec::new();
            self.plant(store, object, None, records, &mut results, &mut errors)?;
            if results.len() + errors.len() > MAX_RECORDS {
                return Err(too_many());
            }
            if errors.is_empty() { Ok(Vec::new()) } else { Err(TreeFailure(errors).into()) }
        });
        match done {
            Ok::<Vec<Value>, ApiError>(_) => Ok(Answer::json(201, &json!({"hasErrors": false, "results": results}))),
            Err(error) if error.code == TREE => {
                let errors: Value = serde_json::from_str(&error.message).unwrap_or_default();
                Ok(Answer::json(400, &json!({"hasErrors": true, "results": errors})))
            }
            Err(error) => Err(error),
        }
    }

    fn plant(
        &self,
        store: &mut Store<'_>,
        object: &Object,
        parent: Option<(&str, &str)>,
        records: Vec<Value>,
        results: &mut Vec<Value>,
        errors: &mut Vec<Value>,
    ) -> Answered<()> {
        for record in records {
            let mut record = entries(record)?;
            let attributes = record.remove("attributes").unwrap_or_default();
            let reference = attributes["referenceId"].as_str().unwrap_or_default().to_owned();
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
                    results.push(json!({"referenceId": reference, "id": id}));
                    for (name, nested) in branches {
                        let (child, field) = self.schema.child(&object.name, &name).ok_or_else(|| {
                            ApiError::new(
                                400,
                                "INVALID_FIELD",
                                format!("No such column '{name}' on sobject of type {}", object.name),
                            )
                        })?;
                        self.plant(store, child, Some((&field.name, &id)), nested, results, errors)?;
                    }
                }
                Err(error) => errors.push(json!({"referenceId": reference, "errors": [error.save_entry()]})),
            }
        }
        Ok(())
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
            let answer = self.inner(&request, &request["richInput"]);
            failed |= answer.status >= 400;
            results.push(json!({"statusCode": answer.status, "result": parsed(&answer)}));
        }
        Ok(Answer::json(200, &json!({"hasErrors": failed, "results": results})))
    }

    fn subrequests(&self, call: &Call) -> Answered<Answer> {
        let body = call.json()?;
        let all_or_none = body["allOrNone"].as_bool().unwrap_or_default();
        if all_or_none {
            return Err(ApiError::new(
                400,
                "FUNCTIONALITY_NOT_ENABLED",
                "the sandbox has no allOrNone for composite yet",
            ));
        }
        let requests = body["compositeRequest"].as_array().cloned().unwrap_or_default();
        if requests.len() > MAX_SUBREQUESTS {
            let message = format!("Limit of {MAX_SUBREQUESTS} subrequests exceeded");
            return Err(ApiError::new(400, "LIMIT_EXCEEDED", message));
        }
        let mut answers: HashMap<String, Value> = HashMap::new();
        let mut results = Vec::new();
        for request in requests {
            let reference = request["referenceId"].as_str().unwrap_or_default().to_owned();
            let answer = match resolve(&request, &answers) {
                Ok(request) => self.inner(&request, &request["body"]),
                Err(error) => Answer::from(error),
            };
            let body = parsed(&answer);
            if answer.status < 400 {
                answers.insert(reference.clone(), body.clone());
            }
            let headers = answer.headers.iter().find(|(name, _)| *name == "location");
            let headers = headers.map_or_else(|| json!({}), |(_, link)| json!({"Location": link}));
            results.push(json!({"body": body, "httpHeaders": headers, "httpStatusCode": answer.status, "referenceId": reference}));
        }
        Ok(Answer::json(200, &json!({"compositeResponse": results})))
    }

    /// Runs a subrequest.
    fn inner(&self, request: &Value, body: &Value) -> Answer {
        let method = request["method"].as_str().unwrap_or("GET");
        let url = request["url"].as_str().unwrap_or_default();
        let url = if url.starts_with("/services") { url.to_owned() } else { format!("/services/data/{url}") };
        let mut inner = Call::new(method, &url);
        if inner.path.get(3).is_some_and(|step| step == "composite")
            && inner.path.get(4).is_none_or(|step| step != "sobjects")
        {
            return ApiError::new(400, "INVALID_INPUT", "composite calls cannot be nested").into();
        }
        if !body.is_null() {
            inner.body = body.to_string().into_bytes();
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

/// Marks the error that carries the failures of a tree.
const TREE: &str = "TREE";

struct TreeFailure(Vec<Value>);

impl From<TreeFailure> for ApiError {
    fn from(failure: TreeFailure) -> Self {
        Self::new(400, TREE, Value::Array(failure.0).to_string())
    }
}

fn too_many() -> ApiError {
    let message = format!("record limit reached. cannot submit more than {MAX_RECORDS} records into this call");
    ApiError::new(400, "EXCEEDED_ID_LIMIT", message)
}

fn check_count(count: usize) -> Answered<()> {
    if count > MAX_RECORDS { Err(too_many()) } else { Ok(()) }
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
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
