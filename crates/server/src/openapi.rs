//! What the admin API answers, as an OpenAPI description made from the very list that its routes are made of. Source: OpenAPI
//! Specification 3.1.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use state::Role;

/// A call of the admin API.
pub(crate) struct Call {
    method: &'static str,
    pub(crate) path: &'static str,
    what: &'static str,
    /// The least that a caller has to be; `None` where nobody is asked.
    pub(crate) role: Option<Role>,
    query: &'static [&'static str],
    /// What the body has to be, and whether there has to be one.
    body: Option<(fn() -> Value, bool)>,
    /// The status of what is well, and those of what is not besides what any call may meet.
    good: u16,
    bad: &'static [u16],
}

impl Call {
    pub(crate) const fn get(path: &'static str, what: &'static str) -> Self {
        Self { method: "get", path, what, role: Some(Role::Viewer), query: &[], body: None, good: 200, bad: &[] }
    }

    pub(crate) const fn post(path: &'static str, what: &'static str) -> Self {
        Self { method: "post", role: Some(Role::Operator), ..Self::get(path, what) }
    }

    pub(crate) const fn delete(path: &'static str, what: &'static str) -> Self {
        Self { method: "delete", ..Self::post(path, what) }
    }

    pub(crate) const fn needs(self, role: Option<Role>) -> Self {
        Self { role, ..self }
    }

    /// What may stand behind the question mark.
    pub(crate) const fn with(self, query: &'static [&'static str]) -> Self {
        Self { query, bad: &[400], ..self }
    }

    /// What its body is read as.
    pub(crate) const fn sends<T: JsonSchema>(self) -> Self {
        Self { body: Some((schema::<T>, true)), ..self }
    }

    /// What its body is read as, where it has one.
    pub(crate) const fn may_send<T: JsonSchema>(self) -> Self {
        Self { body: Some((schema::<T>, false)), ..self }
    }

    pub(crate) const fn answers(self, good: u16, bad: &'static [u16]) -> Self {
        Self { good, bad, ..self }
    }

    fn described(&self) -> Value {
        let wrong = || json!({"description": "What is wrong", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
        let mut answers = Map::new();
        let good = if self.good == 204 {
            json!({"description": "Done"})
        } else if self.path == "/metrics" {
            json!({"description": "Metrics", "content": {"text/plain": {}}})
        } else {
            json!({"description": "Done", "content": {"application/json": {"schema": {"type": "object"}}}})
        };
        answers.insert(self.good.to_string(), good);
        let asked: &[u16] = if self.role.is_some() { &[401, 403, 429, 500] } else { &[] };
        let sent: &[u16] = if self.body.is_none() { &[] } else { &[400, 413, 415, 422] };
        for status in self.bad.iter().chain(asked).chain(sent) {
            answers.insert(status.to_string(), wrong());
        }
        let in_path = self.path.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| {
            let kind = if name == "id" { "integer" } else { "string" };
            json!({"name": name, "in": "path", "required": true, "schema": {"type": kind}})
        });
        let in_query = self.query.iter().map(|name| {
            let schema = match *name {
                "limit" => json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
                "after" | "before" | "run" => json!({"type": "integer"}),
                "now" => json!({"type": "boolean", "default": false}),
                _ => json!({"type": "string"}),
            };
            json!({"name": name, "in": "query", "schema": schema})
        });
        let mut call = json!({"summary": self.what, "parameters": in_path.chain(in_query).collect::<Vec<_>>(), "responses": answers});
        if let Some(role) = self.role {
            call["security"] = json!([{"token": []}]);
            call["description"] = format!("Needs the role {}.", role.word()).into();
        }
        if let Some((schema, required)) = self.body {
            call["requestBody"] = json!({"required": required, "content": {"application/json": {"schema": schema()}}});
        }
        call
    }
}

/// Returns what a body has to be, whole in itself.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    SchemaGenerator::new(settings).into_root_schema_for::<T>().to_value()
}

/// Returns the description of these calls.
pub(crate) fn describe(calls: &[Call]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for call in calls {
        let path = paths.entry(call.path).or_insert_with(|| json!({}));
        path[call.method] = call.described();
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Bridgehead", "version": env!("CARGO_PKG_VERSION"), "description": "What a project's syncs do, and what people do about it."},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`bridgehead token make` makes one; without any token none is needed on the same machine."}},
            "schemas": {"Problem": {"type": "object", "required": ["status", "title", "detail"], "properties": {
                "status": {"type": "integer"}, "title": {"type": "string"}, "detail": {"type": "string"}}}}
        }
    })
}
