//! `bridgehead.yaml` as written, and its JSON Schema.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use endpoint::Kind;
use engine::{Contested, Drift, History, Policy};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;
use server::{AlertsConfig, OidcConfig, ScheduleConfig};

use crate::lineage::LineageConfig;

/// A project: connections, and syncs between them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Version of this file's format: 1.
    pub(crate) version: u32,
    /// Systems by name.
    #[schemars(with = "BTreeMap<String, Value>")]
    pub(crate) connections: BTreeMap<String, Spanned<Value>>,
    /// Mappings put to work.
    #[serde(default)]
    syncs: Option<Vec<SyncConfig>>,
    /// How many syncs run at once.
    #[serde(default)]
    pub(crate) serve: ServeConfig,
    /// What people are told of, and where.
    #[serde(default)]
    pub(crate) alerts: AlertsConfig,
    /// Who vouches for people at the console of `bridgehead serve`, by OpenID Connect.
    #[serde(default)]
    pub(crate) oidc: Option<OidcConfig>,
    /// A catalog that is told which columns went where, by OpenLineage.
    #[serde(default)]
    pub(crate) lineage: Option<LineageConfig>,
    /// The state file, relative to the project; `.bridgehead/state.db` if it is not given, and `.bridgehead/NAME/state.db` in an
    /// environment.
    #[serde(default)]
    pub(crate) state: Option<PathBuf>,
}

impl Config {
    /// Returns the syncs in the order of the file.
    pub(crate) fn syncs(&self) -> &[SyncConfig] {
        self.syncs.as_deref().unwrap_or_default()
    }

    /// Takes over what an environment has otherwise.
    ///
    /// # Errors
    ///
    /// The name of a sync that there is none of.
    pub(crate) fn overlay(&mut self, overlay: Overlay) -> Result<(), String> {
        self.serve = overlay.serve.unwrap_or(std::mem::take(&mut self.serve));
        self.state = overlay.state.or(self.state.take());
        self.lineage = overlay.lineage.or(self.lineage.take());
        self.oidc = overlay.oidc.or(self.oidc.take());
        self.alerts = overlay.alerts.unwrap_or(std::mem::take(&mut self.alerts));
        for (name, own) in overlay.syncs {
            let sync = self.syncs.iter_mut().flatten().find(|sync| sync.sync == name).ok_or(name)?;
            own.over(sync);
        }
        Ok(())
    }
}

/// What an environment (development, staging, production) has otherwise: `environments/NAME.yaml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overlay {
    /// Connections by name. The fields that are given take the place of those of the project, and `null` takes one away.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub(crate) connections: BTreeMap<String, Spanned<Value>>,
    /// Syncs by name.
    #[serde(default)]
    syncs: BTreeMap<String, SyncOverlay>,
    /// How many syncs run at once.
    #[serde(default)]
    serve: Option<ServeConfig>,
    /// What people are told of, and where.
    #[serde(default)]
    alerts: Option<AlertsConfig>,
    /// Who vouches for people at the console.
    #[serde(default)]
    oidc: Option<OidcConfig>,
    /// A catalog that is told which columns went where.
    #[serde(default)]
    lineage: Option<LineageConfig>,
    /// The state file.
    #[serde(default)]
    state: Option<PathBuf>,
}

/// What a sync has otherwise.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SyncOverlay {
    deletes: Option<DeletesConfig>,
    brake: Option<f64>,
    conflicts: Option<Policy>,
    contested: Option<Contested>,
    change_brake: Option<f64>,
    drift: Option<Drift>,
    reconcile: Option<ReconcileConfig>,
    /// `null` takes the schedule away.
    #[serde(default)]
    #[schemars(with = "Option<ScheduleConfig>")]
    schedule: ScheduleOverlay,
    priority: Option<i32>,
}

/// The schedule that an environment has for a sync.
#[derive(Debug, Default)]
enum ScheduleOverlay {
    /// That of the project.
    #[default]
    Same,
    /// None.
    Gone,
    /// Another.
    Other(ScheduleConfig),
}

impl<'d> Deserialize<'d> for ScheduleOverlay {
    fn deserialize<D: serde::Deserializer<'d>>(value: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(value)?.map_or(Self::Gone, Self::Other))
    }
}

impl SyncOverlay {
    fn over(self, sync: &mut SyncConfig) {
        sync.deletes = self.deletes.unwrap_or(sync.deletes);
        sync.brake = self.brake.unwrap_or(sync.brake);
        sync.conflicts = self.conflicts.or(sync.conflicts.take());
        sync.contested = self.contested.or(sync.contested.take());
        sync.change_brake = self.change_brake.or(sync.change_brake);
        sync.drift = self.drift.unwrap_or(sync.drift);
        sync.priority = self.priority.unwrap_or(sync.priority);
        if let Some(reconcile) = self.reconcile {
            sync.reconcile = reconcile;
        }
        match self.schedule {
            ScheduleOverlay::Same => {}
            ScheduleOverlay::Gone => sync.schedule = None,
            ScheduleOverlay::Other(schedule) => sync.schedule = Some(schedule),
        }
    }
}

/// Lays fields over those of a connection. Source: RFC 7396, JSON Merge Patch.
pub(crate) fn lay_over(value: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *value = patch;
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Some(fields) = value.as_object_mut() else { return };
    for (name, new) in patch {
        if new.is_null() {
            fields.remove(&name);
        } else {
            lay_over(fields.entry(name).or_insert(Value::Null), new);
        }
    }
}

/// A mapping put to work.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SyncConfig {
    /// Name of the sync.
    pub(crate) sync: String,
    /// Name of the mapping.
    pub(crate) mapping: String,
    /// Which way records move.
    pub(crate) direction: DirectionConfig,
    /// What becomes of records whose counterpart is gone.
    #[serde(default)]
    pub(crate) deletes: DeletesConfig,
    /// Largest share of the linked records that one run may delete, 0 to 1.
    #[serde(default = "SyncConfig::default_brake")]
    pub(crate) brake: f64,
    /// Two-way syncs: who wins where both sides changed a field to different values.
    #[serde(default)]
    pub(crate) conflicts: Option<Policy>,
    /// Two-way syncs: what becomes of a record that one side deleted and the other changed.
    #[serde(default)]
    pub(crate) contested: Option<Contested>,
    /// Two-way syncs: largest share of the linked records that may have changed on one side since the last run, 0 to 1.
    #[serde(default)]
    pub(crate) change_brake: Option<f64>,
    /// What becomes of a run where an entity is another than at its last good run.
    #[serde(default)]
    pub(crate) drift: Drift,
    /// Syncs that go one way: what is kept of each write to a record, for 30 days.
    #[serde(default)]
    pub(crate) history: History,
    /// How both sides are compared by `bridgehead reconcile`.
    #[serde(default)]
    pub(crate) reconcile: ReconcileConfig,
    /// When `bridgehead serve` runs it; only when it is asked to if there is none.
    #[serde(default)]
    pub(crate) schedule: Option<ScheduleConfig>,
    /// Of the syncs that wait for their turn the one with the highest runs first.
    #[serde(default)]
    pub(crate) priority: i32,
}

/// How many syncs `bridgehead serve` runs at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServeConfig {
    /// In all.
    #[serde(default = "ServeConfig::default_at_once")]
    pub(crate) at_once: NonZeroUsize,
    /// That use a connection, by its name.
    #[serde(default)]
    pub(crate) connections: BTreeMap<String, NonZeroUsize>,
}

impl ServeConfig {
    fn default_at_once() -> NonZeroUsize {
        NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN)
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { at_once: Self::default_at_once(), connections: BTreeMap::new() }
    }
}

/// How both sides of a sync are compared.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReconcileConfig {
    /// By how much numbers may differ, and times in seconds; by field as the target calls it, of two-way syncs as Salesforce does.
    #[serde(default)]
    pub(crate) tolerance: BTreeMap<String, f64>,
    /// Fields that are not compared, named likewise.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    /// When `bridgehead serve` compares both sides; only when it is asked to if there is none.
    #[serde(default)]
    pub(crate) schedule: Option<ScheduleConfig>,
    /// True if what is missing or different is written then.
    #[serde(default)]
    pub(crate) repair: bool,
}

/// Which way records move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DirectionConfig {
    /// From Salesforce to the external system.
    ToExternal,
    /// From the external system to Salesforce.
    ToSalesforce,
    /// Both ways: what changes on either side is merged with the other.
    TwoWay,
}

impl SyncConfig {
    fn default_brake() -> f64 {
        0.1
    }
}

/// What becomes of records whose counterpart is gone.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeletesConfig {
    /// They stay.
    #[default]
    Ignore,
    /// They are deleted, too.
    Propagate,
}

/// Returns every kind of connection.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut kinds = endpoints_apps::kinds();
    kinds.extend(endpoints_data::kinds());
    kinds
}

/// Returns the JSON Schema of `bridgehead.yaml`: a connection is one of the kinds.
pub(crate) fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    let mut shared = Map::new();
    let connections: Vec<Value> = kinds()
        .iter()
        .map(|kind| {
            let mut own = (kind.schema)().to_value();
            if let Some(Value::Object(definitions)) = own.get_mut("$defs").map(Value::take) {
                shared.extend(definitions);
            }
            if let Some(own) = own.as_object_mut() {
                own.remove("$defs");
                own.remove("$schema");
            }
            own["description"] = kind.summary.into();
            own["properties"]["kind"] = json!({"const": kind.name, "description": "What it is a connection to."});
            match own["required"].as_array_mut() {
                Some(required) => required.insert(0, "kind".into()),
                None => own["required"] = json!(["kind"]),
            }
            own
        })
        .collect();
    schema["properties"]["connections"]["additionalProperties"] = json!({"oneOf": connections});
    if let Some(definitions) = schema["$defs"].as_object_mut() {
        definitions.extend(shared);
    }
    schema
}
