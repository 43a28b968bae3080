//! Tells a catalog which columns went where: OpenLineage events, one when a run begins and one when it ends.
//!
//! Source: OpenLineage specification 2-0-2, facets `schema` 1-1-1, `columnLineage` 1-2-0 and `errorMessage` 1-0-1.

use std::collections::BTreeMap;

use engine::{Made, Report, Sync};
use model::Side;
use outbound::{Client, Request, Settings};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const SPEC: &str = "https://openlineage.io/spec";
const PRODUCER: &str = concat!("urn:bridgehead:", env!("CARGO_PKG_VERSION"));

/// Where lineage is told, as it is written in the project.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineageConfig {
    /// The address that takes events, such as `https://marquez.example/api/v1/lineage`.
    url: String,
    /// What goes into the header `authorization`: a reference.
    #[serde(default)]
    authorization: Option<String>,
    /// The namespace of the syncs.
    #[serde(default = "LineageConfig::default_namespace")]
    namespace: String,
    /// The namespaces of what connections hold, as other tools call them; `bridgehead/CONNECTION` where none is given.
    #[serde(default)]
    namespaces: BTreeMap<String, String>,
}

impl LineageConfig {
    fn default_namespace() -> String {
        "bridgehead".to_owned()
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn open(&self, resolve: impl Fn(&str) -> Result<SecretString, String>) -> Result<Lineage, String> {
        let authorization = self.authorization.as_deref().map(resolve).transpose()?;
        let http = Client::new(Settings::default()).map_err(|error| error.to_string())?;
        Ok(Lineage { config: self.clone(), authorization, http })
    }
}

/// Where lineage is told.
pub(crate) struct Lineage {
    config: LineageConfig,
    authorization: Option<SecretString>,
    http: Client,
}

/// A run, as catalogs know it.
pub(crate) struct Told<'l> {
    lineage: &'l Lineage,
    sync: &'l Sync,
    id: Uuid,
}

/// What came of a run.
pub(crate) enum Ended<'e> {
    /// It ended.
    Done(&'e Report),
    /// It could not go on.
    Failed(&'e str),
}

impl Lineage {
    /// Tells that a run begins.
    pub(crate) async fn begin<'l>(&'l self, sync: &'l Sync) -> Told<'l> {
        let told = Told { lineage: self, sync, id: Uuid::new_v4() };
        told.send("START", &[], json!({})).await;
        told
    }

    fn dataset(&self, sync: &Sync, side: Side) -> Map<String, Value> {
        let (connection, name) = match side {
            Side::Salesforce => (&sync.definition.salesforce.connection, &sync.definition.salesforce.object.value),
            Side::External => (&sync.definition.external.connection, &sync.definition.external.entity.value),
        };
        let own = || format!("bridgehead/{connection}");
        let namespace = self.config.namespaces.get(connection).cloned().unwrap_or_else(own);
        Map::from_iter([("namespace".to_owned(), namespace.into()), ("name".to_owned(), name.as_str().into())])
    }
}

fn facet(name: &str, body: Value) -> Value {
    let mut facet = json!({"_producer": PRODUCER, "_schemaURL": format!("{SPEC}/facets/{name}.json")});
    if let (Some(facet), Value::Object(body)) = (facet.as_object_mut(), body) {
        facet.extend(body);
    }
    facet
}

impl Told<'_> {
    /// Tells how the run ended.
    pub(crate) async fn end(self, ended: Ended<'_>) {
        match ended {
            Ended::Done(report) if report.green() => self.send("COMPLETE", &report.lineage, json!({})).await,
            Ended::Done(report) => self.send("FAIL", &report.lineage, json!({})).await,
            Ended::Failed(why) => {
                let first = why.lines().next().unwrap_or_default();
                let body = json!({"message": first, "programmingLanguage": "Rust"});
                let facets = json!({"errorMessage": facet("1-0-1/ErrorMessageRunFacet", body)});
                self.send("FAIL", &[], facets).await;
            }
        }
    }

    fn event(&self, kind: &str, made: &[Made], run: &Value) -> Value {
        let (from, to) = (self.sync.direction.source(), self.sync.direction.target());
        let both = self.sync.two_way.is_some();
        let input = |side| Value::Object(self.lineage.dataset(self.sync, side));
        let output = |side: Side| {
            let source = self.lineage.dataset(self.sync, side.other());
            let own = made.iter().filter(|one| one.side == side);
            let fields: Map<String, Value> = own
                .map(|one| {
                    let subtype = if one.as_it_is { "IDENTITY" } else { "TRANSFORMATION" };
                    let inputs = one.from.iter().map(|field| {
                        let mut input = source.clone();
                        input.insert("field".to_owned(), field.as_str().into());
                        let how = json!([{"type": "DIRECT", "subtype": subtype, "masking": false}]);
                        input.insert("transformations".to_owned(), how);
                        Value::Object(input)
                    });
                    (one.field.clone(), json!({"inputFields": inputs.collect::<Vec<_>>()}))
                })
                .collect();
            let mut dataset = self.lineage.dataset(self.sync, side);
            if !fields.is_empty() {
                let names: Vec<Value> = fields.keys().map(|name| json!({"name": name})).collect();
                let facets = json!({
                    "schema": facet("1-1-1/SchemaDatasetFacet", json!({"fields": names})),
                    "columnLineage": facet("1-2-0/ColumnLineageDatasetFacet", json!({"fields": fields})),
                });
                dataset.insert("facets".to_owned(), facets);
            }
            Value::Object(dataset)
        };
        let (inputs, outputs) = if both {
            (
                vec![input(Side::Salesforce), input(Side::External)],
                vec![output(Side::Salesforce), output(Side::External)],
            )
        } else {
            (vec![input(from)], vec![output(to)])
        };
        json!({
            "eventType": kind,
            "eventTime": chrono::Utc::now().to_rfc3339(),
            "producer": PRODUCER,
            "schemaURL": format!("{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"),
            "run": {"runId": self.id, "facets": run},
            "job": {"namespace": self.lineage.config.namespace, "name": self.sync.name},
            "inputs": inputs,
            "outputs": outputs,
        })
    }

    /// Sends an event. A catalog that is away holds no run up, and makes none fail.
    async fn send(&self, kind: &str, made: &[Made], run: Value) {
        let mut request =
            Request::new("POST", &self.lineage.config.url).json(&self.event(kind, made, &run)).idempotent();
        if let Some(authorization) = &self.lineage.authorization {
            request = request.header("authorization", authorization.expose_secret());
        }
        match self.lineage.http.send(&request).await {
            Ok(answer) if (200..300).contains(&answer.status()) => {}
            Ok(answer) => tracing::warn!(status = answer.status(), sync = self.sync.name, "lineage was not taken"),
            Err(error) => tracing::warn!(%error, sync = self.sync.name, "lineage could not be told"),
        }
    }
}
