//! Records by id, by key and by relationship.

use std::collections::HashMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::query::all_fields;
use super::{Answer, Call, link, not_allowed, version_number};
use crate::error::{Answered, ApiError};
use crate::events::CHANNEL;
use crate::id;
use crate::org::{Org, entries};
use crate::schema::{Field, Kind, Object};
use crate::store::malformed_id;
use crate::value::parse_datetime;

/// What the conditions of a call are checked against.
const STAMPS: &str = "LastModifiedDate,SystemModstamp";

/// The refusal of a call whose condition does not hold.
fn precondition(message: &str) -> ApiError {
    ApiError::new(412, "PRECONDITION_FAILED", message)
}

impl Org {
    /// Answers a call below `sobjects/{object}`.
    pub(super) fn sobject(
        &self,
        call: &Call,
        method: &str,
        version: &str,
        object: &Object,
        rest: &[&str],
    ) -> Answered<Answer> {
        match (method, rest) {
            ("GET", []) => {
                let recent = self.recent_items(call, version, Some(&object.name));
                Ok(Answer::json(
                    200,
                    &json!({"objectDescribe": super::describe_entry(object, version), "recentItems": recent}),
                ))
            }
            ("POST", []) => self.create(call, version, object),
            ("POST", [key]) if key.eq_ignore_ascii_case("id") => self.create(call, version, object),
            ("GET", ["describe"]) => self.described(call, |org| Ok(org.describe(&call.caller.schema, object, version))),
            (_, ["quickActions", rest @ ..]) => self.quick_action(call, version, Some(&object.name), rest),
            ("GET", ["describe", part, ..] | [part @ ("listviews" | "defaultValues"), ..]) => {
                self.object_outline(call, version, object, part, rest)
            }
            ("POST", [id, "push"]) if object.name == CHANNEL => self.push(call, &existing_id(object, id)?),
            ("GET", ["eventSchema"]) if object.is_event() => self.event_schema(call, object),
            ("GET", ["updated"]) => self.replicated(call, object, false),
            ("GET", ["deleted"]) => self.replicated(call, object, true),
            (_, [id]) => self.row(call, method, version, object, id),
            (_, []) => Err(not_allowed(method, "GET,HEAD,POST")),
            (_, [id, "password"]) if object.name == "User" => self.password(call, method, &existing_id(object, id)?),
            (_, [key, value]) => match object.field(key) {
                Some(field) if field.id_lookup => self.by_key(call, method, version, object, field, value),
                None if id::normal(key).is_some() => {
                    let id = existing_id(object, key)?;
                    match object.field(value).filter(|field| field.kind == Kind::Base64) {
                        Some(field) if method == "GET" => self.blob(&call.caller, object, field, &id),
                        _ => self.related(call, method, version, object, &id, value),
                    }
                }
                _ => Err(ApiError::not_found()),
            },
            _ => Err(ApiError::not_found()),
        }
    }

    fn create(&self, call: &Call, version: &str, object: &Object) -> Answered<Answer> {
        let values = self.body_values(call)?;
        let id = self.write_with(&call.caller, call.options(), |store| store.insert(object, &values))?;
        self.note_used(call, object, &id);
        Ok(Answer::json(201, &self.saved(object, &id)).with("location", link(version, object, &id)))
    }

    fn row(&self, call: &Call, method: &str, version: &str, object: &Object, id: &str) -> Answered<Answer> {
        match method {
            "GET" => self.record(call, version, object, &existing_id(object, id)?),
            "PATCH" => {
                let mut values = self.body_values(call)?;
                values.remove("attributes");
                if values.keys().any(|name| name.eq_ignore_ascii_case("id")) {
                    let message = "The Id field should not be specified in the sobject data.";
                    return Err(ApiError::new(400, "INVALID_FIELD", message));
                }
                self.check_unchanged(call, version, object, id)?;
                self.write_with(&call.caller, call.options(), |store| store.update(object, id, &values))?;
                self.note_used(call, object, id);
                Ok(Answer::empty(204))
            }
            "DELETE" => {
                self.check_unchanged(call, version, object, id)?;
                self.write(&call.caller, |store| store.delete(object, id, false))?;
                Ok(Answer::empty(204))
            }
            _ => Err(not_allowed(method, "DELETE,GET,HEAD,PATCH")),
        }
    }

    fn by_key(
        &self,
        call: &Call,
        method: &str,
        version: &str,
        object: &Object,
        field: &Field,
        value: &str,
    ) -> Answered<Answer> {
        let value = Value::String(value.to_owned());
        let found = self.write(&call.caller, |store| store.find_by_key(object, field, &value))?;
        if found.len() > 1 {
            return Ok(Answer::json(300, &found.iter().map(|id| link(version, object, id)).collect()));
        }
        let modern = version_number(version) >= 46;
        match (method, found.first()) {
            ("PATCH" | "POST", _) => {
                let values = self.body_values(call)?;
                if values.keys().any(|name| name.eq_ignore_ascii_case(&field.name)) && field.kind != Kind::Id {
                    let message = format!("The {} field should not be specified in the sobject data.", field.name);
                    return Err(ApiError::new(400, "INVALID_FIELD", message));
                }
                if found.is_empty() && call.query.get("updateOnly").is_some_and(|only| only == "true") {
                    return Err(ApiError::not_found());
                }
                if let Some(id) = found.first() {
                    self.check_unchanged(call, version, object, id)?;
                }
                let (id, created) = self
                    .write_with(&call.caller, call.options(), |store| store.upsert(object, field, &value, &values))?;
                self.note_used(call, object, &id);
                if !created && !modern {
                    return Ok(Answer::empty(204));
                }
                let mut body = json!({"id": id, "success": true, "errors": []});
                if modern {
                    body["created"] = Value::Bool(created);
                }
                let answer = Answer::json(if created { 201 } else { 200 }, &body);
                Ok(if created { answer.with("location", link(version, object, &id)) } else { answer })
            }
            ("GET", Some(id)) => self.record(call, version, object, id),
            ("DELETE", Some(id)) => self.row(call, "DELETE", version, object, id),
            ("GET" | "DELETE", None) => Err(ApiError::not_found()),
            _ => Err(not_allowed(method, "DELETE,GET,HEAD,PATCH,POST")),
        }
    }

    /// Answers with one record: the fields asked for, or all.
    pub(crate) fn record(&self, call: &Call, version: &str, object: &Object, id: &str) -> Answered<Answer> {
        let fields = call.query.get("fields").cloned().unwrap_or_else(|| all_fields(object));
        let record = self.one(call, version, object, id, &fields)?;
        let conditions = ["if-modified-since", "if-unmodified-since", "if-match", "if-none-match"];
        if object.name != "Account" && conditions.iter().all(|name| call.header(name).is_none()) {
            return Ok(Answer::json(200, &record));
        }
        let stamps = self.one(call, version, object, id, STAMPS)?;
        let modified = stamps["LastModifiedDate"].as_str().and_then(parse_datetime);
        check(call, object, id, &stamps)?;
        let tag = (object.name == "Account").then(|| tag(id, &stamps));
        let known =
            tag.as_ref().is_some_and(|tag| call.header("if-none-match").is_some_and(|known| same_tag(known, tag)));
        let old = modified.zip(date(call, "if-modified-since")).is_some_and(|(modified, since)| modified <= since);
        let mut answer = if known || old { Answer::empty(304) } else { Answer::json(200, &record) };
        if let Some(modified) = modified {
            answer = answer.with("last-modified", modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        }
        Ok(match tag {
            Some(tag) => answer.with("etag", tag),
            None => answer,
        })
    }

    /// Reads fields of one record.
    fn one(&self, call: &Call, version: &str, object: &Object, id: &str, fields: &str) -> Answered<Value> {
        let soql = format!("SELECT {fields} FROM {} WHERE Id='{id}'", object.name);
        let mut records = self.select(call, version, &soql, true).map_err(|mut error| {
            // Single calls tell no place in a query that the caller did not write.
            error.message = error.message.rsplit('\n').next().unwrap_or_default().to_owned();
            error
        })?;
        let record = records.pop().ok_or_else(ApiError::not_found)?;
        if !object.setup {
            let soql = format!("SELECT Id FROM {} WHERE Id='{id}'", object.name);
            if self.select(call, version, &soql, false)?.is_empty() {
                return Err(ApiError::new(404, "ENTITY_IS_DELETED", "entity is deleted"));
            }
        }
        Ok(record)
    }

    /// Refuses to change a record that changed since the caller last saw it.
    fn check_unchanged(&self, call: &Call, version: &str, object: &Object, id: &str) -> Answered<()> {
        let conditions = ["if-unmodified-since", "if-match", "if-none-match"];
        if conditions.iter().all(|name| call.header(name).is_none()) {
            return Ok(());
        }
        let id = existing_id(object, id)?;
        let stamps = self.one(call, version, object, &id, STAMPS)?;
        check(call, object, &id, &stamps)?;
        let tag = tag(&id, &stamps);
        if object.name == "Account" && call.header("if-none-match").is_some_and(|known| same_tag(known, &tag)) {
            return Err(precondition("the record has the ETag that it must not have"));
        }
        Ok(())
    }

    /// Follows a relationship from a record: to its parent, or to its children.
    fn related(
        &self,
        call: &Call,
        method: &str,
        version: &str,
        object: &Object,
        id: &str,
        step: &str,
    ) -> Answered<Answer> {
        if let Some(field) = object.parent(step) {
            let soql = format!("SELECT {} FROM {} WHERE Id='{id}'", field.name, object.name);
            let records = self.select(call, version, &soql, false)?;
            let parent =
                records.first().and_then(|record| record[&field.name].as_str()).ok_or_else(ApiError::not_found)?;
            let target = call.caller.schema.by_id(parent).ok_or_else(ApiError::not_found)?;
            return self.row(call, method, version, target, parent);
        }
        if method != "GET" {
            return Err(not_allowed(method, "GET,HEAD"));
        }
        let (child, field) = call.caller.schema.child(&object.name, step).ok_or_else(ApiError::not_found)?;
        let fields = call.query.get("fields").cloned().unwrap_or_else(|| all_fields(child));
        let soql = format!("SELECT {fields} FROM {} WHERE {}='{id}'", child.name, field.name);
        let call = Call { query: HashMap::new(), ..call.clone() };
        self.query_text(&call, version, &soql, false)
    }

    /// Reads the record in a body, which may come with a file beside it.
    fn body_values(&self, call: &Call) -> Answered<serde_json::Map<String, Value>> {
        if call.header("content-type").is_some_and(|kind| kind.starts_with("multipart/")) {
            return super::blob::multipart(call);
        }
        entries(call.json()?)
    }
}

/// Returns an id of the object in its long form.
pub(super) fn existing_id(object: &Object, id: &str) -> Answered<String> {
    id::normal(id).filter(|id| id.starts_with(&object.prefix)).ok_or_else(|| malformed_id(id))
}

fn date(call: &Call, header: &str) -> Option<DateTime<Utc>> {
    let text = call.header(header)?;
    DateTime::parse_from_rfc2822(text).ok().map(|date| date.with_timezone(&Utc))
}

fn tag(id: &str, stamps: &Value) -> String {
    let hash =
        digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{}", stamps["SystemModstamp"]).as_bytes());
    format!("\"{}\"", STANDARD.encode(hash))
}

/// A tag may have come through a compressed answer, which adds to it.
fn same_tag(wanted: &str, tag: &str) -> bool {
    wanted.split(',').any(|one| {
        let one = one.trim().trim_start_matches("W/");
        one == "*" || one.replace("-gzip\"", "\"") == tag
    })
}

/// Refuses a call that expects the record as it no longer is.
fn check(call: &Call, object: &Object, id: &str, stamps: &Value) -> Answered<()> {
    let modified = stamps["LastModifiedDate"].as_str().and_then(parse_datetime);
    if modified.zip(date(call, "if-unmodified-since")).is_some_and(|(modified, since)| modified > since) {
        return Err(precondition("the record was modified since"));
    }
    let other = call.header("if-match").is_some_and(|wanted| !same_tag(wanted, &tag(id, stamps)));
    if object.name == "Account" && other {
        return Err(precondition("the record has another ETag"));
    }
    Ok(())
}
