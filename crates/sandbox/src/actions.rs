//! Apex REST endpoints and invocable actions, as the org's definition declares them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::definition::{Action, Endpoint, Write};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::rest::{Answer, Call};

/// What the texts of a declaration may name.
pub(crate) type Values = HashMap<String, Value>;

impl Org {
    /// Answers a call below `/services/apexrest`.
    pub(crate) fn apex_rest(&self, call: &Call) -> Answer {
        self.apex(call).unwrap_or_else(Answer::from)
    }

    fn apex(&self, call: &Call) -> Answered<Answer> {
        let steps = call.path.get(2..).unwrap_or_default();
        let endpoints = &self.config.definition.apex_rest;
        let matching: Vec<(&Endpoint, Values)> =
            endpoints.iter().filter_map(|endpoint| Some((endpoint, bound(&endpoint.path, steps)?))).collect();
        if matching.is_empty() {
            return Err(ApiError::new(404, "NOT_FOUND", "Could not find a match for URL"));
        }
        let found = matching.into_iter().find(|(endpoint, _)| endpoint.method.eq_ignore_ascii_case(&call.method));
        let Some((endpoint, mut values)) = found else {
            let message = format!("HTTP Method '{}' not allowed", call.method);
            return Err(ApiError::new(405, "METHOD_NOT_ALLOWED", message));
        };
        values.extend(call.query.iter().map(|(name, value)| (name.clone(), json!(value))));
        if !call.body.is_empty() {
            let body = call.json()?;
            for (name, value) in body.as_object().into_iter().flatten() {
                values.insert(name.clone(), value.clone());
            }
            values.insert("body".to_owned(), body);
        }
        let (query, write, answer) = (endpoint.query.as_deref(), endpoint.write.as_ref(), endpoint.answer.as_ref());
        let body = self.performed(call, query, write, answer, &mut values)?;
        Ok(if body.is_null() { Answer::empty(endpoint.status) } else { Answer::json(endpoint.status, &body) })
    }

    /// Does what a declaration says and returns its answer: what was read or the id that was written where it names none.
    pub(crate) fn performed(
        &self,
        call: &Call,
        query: Option<&str>,
        write: Option<&Write>,
        answer: Option<&Value>,
        values: &mut Values,
    ) -> Answered<Value> {
        let mut plain = Value::Null;
        if let Some(query) = query {
            let soql = with_binds(query, values)?;
            let records = self.select(call, "v66.0", &soql, false)?;
            values.insert("size".to_owned(), json!(records.len()));
            values.insert("first".to_owned(), records.first().cloned().unwrap_or_default());
            plain = Value::Array(records);
            values.insert("records".to_owned(), plain.clone());
        }
        if let Some(write) = write {
            let (id, created) = self.declared_write(call, write, values)?;
            values.insert("id".to_owned(), json!(id));
            values.insert("created".to_owned(), json!(created));
            plain = json!(id);
        }
        Ok(answer.map_or(plain, |answer| filled(answer, values)))
    }

    /// Writes the record that a declaration describes; returns its id and whether it is new.
    fn declared_write(&self, call: &Call, write: &Write, values: &Values) -> Answered<(String, bool)> {
        let object = call.caller.schema.object(&write.object).ok_or_else(ApiError::not_found)?;
        let mut record: Map<String, Value> =
            write.values.iter().map(|(name, value)| (name.clone(), filled(value, values))).collect();
        let written = self.write_with(&call.caller, call.options(), |store| match &write.key {
            None => Ok((store.insert(object, &record)?, true)),
            Some(key) => {
                let field = object.field(key).ok_or_else(ApiError::not_found)?;
                let value = record.remove(key).unwrap_or_default();
                store.upsert(object, field, &value, &record)
            }
        });
        written.map_err(|error| {
            // An Apex class does not catch it.
            let message = format!(
                "System.DmlException: Insert failed. First exception on row 0; first error: {}, {}: [{}]",
                error.code,
                error.message,
                error.fields.join(", ")
            );
            ApiError::new(500, "APEX_ERROR", message)
        })
    }

    /// Answers a call below `actions`.
    pub(crate) fn actions(&self, call: &Call, version: &str, rest: &[&str]) -> Answered<Answer> {
        let base = format!("/services/data/{version}/actions");
        let all = &self.config.definition.actions;
        let listed = |kind: &str| -> Value {
            let of_kind = all.iter().filter(|action| action.kind.eq_ignore_ascii_case(kind));
            of_kind
                .map(|action| {
                    json!({"label": label(action), "name": action.name, "type": action.kind.to_uppercase(),
                           "url": format!("{base}/custom/{}/{}", action.kind, action.name)})
                })
                .collect()
        };
        match (call.method.as_str(), rest) {
            ("GET", []) => Ok(Answer::json(
                200,
                &json!({"standard": format!("{base}/standard"), "custom": format!("{base}/custom")}),
            )),
            ("GET", ["standard"]) => Ok(Answer::json(200, &json!({"actions": []}))),
            ("GET", ["custom"]) => {
                let mut kinds: Vec<&str> = all.iter().map(|action| action.kind.as_str()).collect();
                kinds.extend(["apex", "flow", "quickAction", "emailAlert"]);
                let links = kinds.iter().map(|kind| ((*kind).to_owned(), json!(format!("{base}/custom/{kind}"))));
                Ok(Answer::json(200, &Value::Object(links.collect())))
            }
            ("GET", ["custom", kind]) => Ok(Answer::json(200, &json!({"actions": listed(kind)}))),
            (method @ ("GET" | "POST"), ["custom", kind, name]) => {
                let found = all
                    .iter()
                    .find(|action| action.kind.eq_ignore_ascii_case(kind) && action.name.eq_ignore_ascii_case(name));
                let action = found.ok_or_else(ApiError::not_found)?;
                if method == "GET" { Ok(Answer::json(200, &described(action))) } else { self.invoke(call, action) }
            }
            ("GET" | "POST", _) => Err(ApiError::not_found()),
            (method, _) => Err(crate::rest::not_allowed(method, "GET,HEAD,POST")),
        }
    }

    fn invoke(&self, call: &Call, action: &Action) -> Answered<Answer> {
        let body = call.json()?;
        let inputs = body["inputs"].as_array().filter(|inputs| !inputs.is_empty()).ok_or_else(|| {
            ApiError::new(400, "JSON_PARSER_ERROR", "inputs is missing or not an array at [line:1, column:1]")
        })?;
        let mut failed = false;
        let mut results = Vec::new();
        for input in inputs {
            let mut values: Values =
                input.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
            let missing = action.inputs.iter().find(|name| values.get(*name).is_none_or(Value::is_null));
            let done = match missing {
                Some(name) => {
                    let message = format!("Missing required input parameter: {name}");
                    Err(ApiError::on(name, "MISSING_ARGUMENT", message))
                }
                None => match &action.write {
                    Some(write) => self.declared_write(call, write, &values),
                    None => Ok((String::new(), false)),
                },
            };
            results.push(match done {
                Ok((id, created)) => {
                    values.insert("id".to_owned(), json!(id));
                    values.insert("created".to_owned(), json!(created));
                    let mut outputs: Map<String, Value> =
                        action.outputs.iter().map(|(name, value)| (name.clone(), filled(value, &values))).collect();
                    if action.kind.eq_ignore_ascii_case("flow") {
                        outputs.insert("Flow__InterviewStatus".to_owned(), json!("Finished"));
                    }
                    json!({"actionName": action.name, "errors": null, "isSuccess": true, "outputValues": outputs})
                }
                Err(error) => {
                    failed = true;
                    json!({"actionName": action.name, "errors": [error.save_entry()], "isSuccess": false,
                           "outputValues": null})
                }
            });
        }
        Ok(Answer::json(if failed { 400 } else { 200 }, &Value::Array(results)))
    }
}

fn label(action: &Action) -> &str {
    action.label.as_deref().unwrap_or(&action.name)
}

fn described(action: &Action) -> Value {
    let inputs: Vec<Value> = action
        .inputs
        .iter()
        .map(|name| {
            json!({"name": name, "label": name, "type": "STRING", "required": true, "maxOccurs": 1,
                   "sobjectType": null, "description": null})
        })
        .collect();
    let outputs: Vec<Value> = action
        .outputs
        .keys()
        .map(|name| json!({"name": name, "label": name, "type": "STRING", "maxOccurs": 1, "sobjectType": null, "description": null}))
        .collect();
    json!({"name": action.name, "label": label(action), "type": action.kind.to_uppercase(), "description": null,
           "inputs": inputs, "outputs": outputs, "targetEntityName": null, "standard": false})
}

/// Matches a path such as `/stock/{sku}` and returns the named steps.
fn bound(pattern: &str, steps: &[String]) -> Option<Values> {
    let pattern: Vec<&str> = pattern.split('/').filter(|step| !step.is_empty()).collect();
    if pattern.len() != steps.len() {
        return None;
    }
    let mut values = Values::new();
    for (wanted, step) in pattern.iter().zip(steps) {
        match wanted.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => {
                values.insert(name.to_owned(), json!(step));
            }
            None if wanted.eq_ignore_ascii_case(step) => {}
            None => return None,
        }
    }
    Some(values)
}

/// Replaces `:name` in a query by its value, as a constant that cannot leave its quotes.
fn with_binds(query: &str, values: &Values) -> Answered<String> {
    let mut text = String::new();
    let mut rest = query;
    let mut quoted = false;
    while let Some(at) = rest.find(['\'', ':']) {
        text.push_str(&rest[..at]);
        let mark = &rest[at..=at];
        rest = &rest[at + 1..];
        if mark == "'" {
            quoted = !quoted;
            text.push('\'');
            continue;
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = &rest[..length];
        // A colon behind a date literal, or inside a text, binds nothing.
        if quoted || length == 0 || name.starts_with(|c: char| c.is_ascii_digit()) {
            text.push(':');
            continue;
        }
        let value = values.get(name).ok_or_else(|| {
            ApiError::new(400, "APEX_REST_SERVICE_ERROR", format!("the call gives no value for {name}"))
        })?;
        text.push_str(&match value {
            Value::String(value) => soql::quote(value),
            other => other.to_string(),
        });
        rest = &rest[length..];
    }
    text.push_str(rest);
    Ok(text)
}

/// Puts values in the place of `{name}`; a text that is nothing else becomes the value itself.
fn filled(template: &Value, values: &Values) -> Value {
    let get = |name: &str| {
        let mut steps = name.split('.');
        let first = values.get(steps.next().unwrap_or_default())?;
        steps.try_fold(first, |value, step| value.get(step)).cloned()
    };
    match template {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))
                && !name.contains('{')
            {
                return get(name).unwrap_or_default();
            }
            let mut made = String::new();
            let mut rest = text.as_str();
            while let Some((before, tail)) = rest.split_once('{') {
                let Some((name, after)) = tail.split_once('}') else { break };
                made.push_str(before);
                match get(name) {
                    Some(Value::String(value)) => made.push_str(&value),
                    Some(Value::Null) | None => {}
                    Some(other) => made.push_str(&other.to_string()),
                }
                rest = after;
            }
            made.push_str(rest);
            Value::String(made)
        }
        Value::Array(items) => items.iter().map(|item| filled(item, values)).collect(),
        Value::Object(items) => items.iter().map(|(name, item)| (name.clone(), filled(item, values))).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_bind_their_steps() {
        let steps = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(bound("/stock/{sku}", &steps("stock/B-1")).map(|values| values["sku"].clone()), Some(json!("B-1")));
        assert!(bound("/stock/{sku}", &steps("stock")).is_none());
        assert!(bound("/stock/{sku}", &steps("price/B-1")).is_none());
    }

    #[test]
    fn a_bound_value_cannot_leave_its_quotes() {
        let values = Values::from([("x".to_owned(), json!("a' OR Name != '"))]);
        let query = "SELECT Id FROM Account WHERE Name = :x AND Site = ':x' AND CreatedDate = LAST_N_DAYS:3";
        let expected =
            "SELECT Id FROM Account WHERE Name = 'a\\' OR Name != \\'' AND Site = ':x' AND CreatedDate = LAST_N_DAYS:3";
        assert_eq!(with_binds(query, &values), Ok(expected.to_owned()));
    }

    #[test]
    fn templates_keep_the_type_of_a_value() {
        let values = Values::from([("n".to_owned(), json!(3)), ("r".to_owned(), json!({"Name": "x"}))]);
        let template = json!({"count": "{n}", "text": "{n} of {r.Name}", "all": ["{r}"]});
        assert_eq!(filled(&template, &values), json!({"count": 3, "text": "3 of x", "all": [{"Name": "x"}]}));
    }
}
