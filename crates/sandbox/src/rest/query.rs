//! The query resources: pages of records, cursors, plans.

use serde_json::{Value, json};

use super::{Answer, Call};
use crate::cursors::Cursor;
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::query::{self, PAGE};
use crate::schema::Object;

impl Org {
    /// Returns all records of a query, for our own use.
    pub(crate) fn select(&self, call: &Call, version: &str, soql: &str, deleted: bool) -> Answered<Vec<Value>> {
        self.read(|connection| {
            let context = self.context(&call.caller, connection, version, deleted);
            let plan = query::compile(context, soql)?;
            let _recalled = self.recall(call, version, connection, soql)?;
            let rows = plan.rows(connection)?;
            plan.records(context, &rows)
        })
    }

    /// Answers `query` and `queryAll`.
    pub(super) fn query(&self, call: &Call, version: &str, deleted: bool) -> Answered<Answer> {
        if let Some(text) = call.query.get("explain") {
            return self.explain(call, version, text);
        }
        let text = call.query.get("q").map(String::as_str).unwrap_or_default();
        if call.query.get("columns").is_some_and(|flag| flag == "true") {
            let columns = self.read(|connection| {
                let plan = query::compile(self.context(&call.caller, connection, version, deleted), text)?;
                Ok(plan.columns(&call.caller.schema))
            })?;
            return Ok(Answer::json(200, &columns));
        }
        self.query_text(call, version, text, deleted)
    }

    /// Answers with the first page of a query.
    pub(crate) fn query_text(&self, call: &Call, version: &str, text: &str, deleted: bool) -> Answered<Answer> {
        let size = page_size(call);
        let mut answer = None;
        let mut seen = Vec::new();
        let cursor = self.read(|connection| {
            let context = query::Context { page: size, ..self.context(&call.caller, connection, version, deleted) };
            let plan = query::compile(context, text)?;
            let _recalled = self.recall(call, version, connection, text)?;
            if let Some(count) = plan.count(connection)? {
                answer = Some(json!({"totalSize": count, "done": true, "records": []}));
                return Ok(None);
            }
            if plan.is_aggregate() {
                let records = plan.groups(connection)?;
                answer = Some(json!({"totalSize": records.len(), "done": true, "records": records}));
                return Ok(None);
            }
            let rows = plan.rows(connection)?;
            let records = plan.records(context, &rows[..rows.len().min(size)])?;
            if plan.locks() || plan.viewed() {
                let object = plan.object().to_owned();
                seen = plan.ids(connection, &rows)?.into_iter().map(|id| (object.clone(), id)).collect();
                if plan.locks() {
                    self.locks.hold(seen.iter().map(|(_, id)| id.clone()).collect())?;
                    seen.clear();
                }
            }
            answer = Some(json!({"totalSize": rows.len(), "done": rows.len() <= size, "records": records}));
            Ok((rows.len() > size).then_some(Cursor { plan, rows, deleted }))
        })?;
        for (object, id) in seen {
            self.note_viewed(call, &object, &id);
        }
        let mut body = answer.unwrap_or_default();
        if let Some(cursor) = cursor {
            let id = self.cursors.keep(&call.caller.user_id, false, cursor);
            let records = body["records"].take();
            body["nextRecordsUrl"] = Value::String(format!("/services/data/{version}/query/{id}-{size}"));
            // Keys in the platform's order.
            if let Some(body) = body.as_object_mut() {
                body.remove("records");
                body.insert("records".to_owned(), records);
            }
        }
        Ok(Answer::json(200, &body))
    }

    /// Answers with the rest of a query, from the record that the locator says.
    pub(super) fn next_page(&self, call: &Call, version: &str, locator: &str) -> Answered<Answer> {
        let invalid = || ApiError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator");
        let (id, offset) = locator.split_once('-').ok_or_else(invalid)?;
        let offset: usize = offset.parse().map_err(|_| invalid())?;
        let size = page_size(call);
        let cursor = self.cursors.find(&call.caller.user_id, id)?;
        let rest = cursor.rows.get(offset..).ok_or_else(invalid)?;
        let records = self.read(|connection| {
            let context =
                query::Context { page: size, ..self.context(&call.caller, connection, version, cursor.deleted) };
            cursor.plan.records(context, &rest[..rest.len().min(size)])
        })?;
        let mut body = json!({"totalSize": cursor.rows.len(), "done": rest.len() <= size});
        if rest.len() > size {
            body["nextRecordsUrl"] = Value::String(format!("/services/data/{version}/query/{id}-{}", offset + size));
        }
        body["records"] = Value::Array(records);
        Ok(Answer::json(200, &body))
    }

    fn explain(&self, call: &Call, version: &str, text: &str) -> Answered<Answer> {
        let (object, rows, all) = self.read(|connection| {
            let context = self.context(&call.caller, connection, version, false);
            let plan = query::compile(context, text)?;
            let rows = if plan.is_aggregate() { 0 } else { plan.rows(connection)?.len() };
            let everything = query::compile(context, &format!("SELECT COUNT() FROM {}", plan.object()))?;
            Ok((plan.object().to_owned(), rows, everything.count(connection)?))
        })?;
        Ok(Answer::json(
            200,
            &json!({"plans": [{"cardinality": rows, "fields": [], "leadingOperationType": "TableScan", "notes": [],
                    "relativeCost": 1.0, "sobjectCardinality": all, "sobjectType": object}], "sourceQuery": text}),
        ))
    }
}

/// Returns the names of all fields of an object, as a query selects them.
pub(super) fn all_fields(object: &Object) -> String {
    object.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(",")
}

fn page_size(call: &Call) -> usize {
    let options = call.header("sforce-query-options").unwrap_or_default();
    let asked = options.split([',', ';']).find_map(|option| {
        let (name, size) = option.split_once('=')?;
        name.trim().eq_ignore_ascii_case("batchSize").then(|| size.trim().parse().ok()).flatten()
    });
    asked.map_or(PAGE, |size: usize| size.clamp(200, PAGE))
}
