//! A mapping file as written.

use model::{Side, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

/// Which way a sync moves records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From Salesforce to the external system.
    ToExternal,
    /// From the external system to Salesforce.
    ToSalesforce,
}

/// Pairs one Salesforce object with one external entity.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Name of the mapping.
    pub mapping: String,
    /// Number that grows with each change of the file.
    pub version: u32,
    /// The Salesforce side.
    pub salesforce: Salesforce,
    /// The external side.
    pub external: External,
    /// Pairs of fields; the two keys are paired without being listed.
    pub fields: Vec<Pair>,
    /// Checks on the records of the source.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// How records that have no key yet find their counterpart. For two-way syncs; a one-way sync refuses them.
    #[serde(default, rename = "match")]
    pub matches: Vec<Match>,
    /// Fingerprint of all that the file says; comments and layout are no part of it.
    #[serde(skip)]
    pub digest: u64,
}

/// The Salesforce side of a mapping.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Salesforce {
    /// Name of the connection.
    pub connection: String,
    /// API name of the object.
    #[schemars(with = "String")]
    pub object: Spanned<String>,
    /// Field that identifies a record: an external id, or `Id`.
    #[schemars(with = "String")]
    pub key: Spanned<String>,
    /// Condition in SOQL on the records to read.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
}

/// The external side of a mapping.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Name of the connection.
    pub connection: String,
    /// Name of the entity, such as `public.customers`.
    #[schemars(with = "String")]
    pub entity: Spanned<String>,
    /// Field that identifies a record.
    #[schemars(with = "String")]
    pub key: Spanned<String>,
    /// Condition in the system's own language on the records to read.
    #[serde(default, rename = "where")]
    pub filter: Option<String>,
    /// Field that moves forward with every change; without it every run reads everything.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub cursor: Option<Spanned<String>>,
    /// How changes are told from the rest, where no field does: by triggers that note the key of every row that is
    /// inserted, updated or deleted, or by the database's own log. For two-way syncs.
    #[serde(default)]
    #[schemars(with = "Option<Capture>")]
    pub capture: Option<Spanned<Capture>>,
    /// Creates the entity, after the Salesforce fields, when it is missing.
    #[serde(default)]
    pub create: bool,
}

/// How changes are told from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// By triggers on the table, which Bridgehead makes.
    Triggers,
    /// From the log that the database writes anyway; PostgreSQL, by logical replication.
    Log,
}

/// A pair of fields, or a field that is computed one way.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The Salesforce field.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub salesforce: Option<Spanned<String>>,
    /// The external field.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub external: Option<Spanned<String>>,
    /// SQL expression over the Salesforce fields that gives the external value; `value` is the paired field.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub to_external: Option<Spanned<String>>,
    /// SQL expression over the external fields that gives the Salesforce value; `value` is the paired field.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub to_salesforce: Option<Spanned<String>>,
    /// Mapping of the parent: the field holds the parent's key on either side.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub lookup: Option<Spanned<String>>,
    /// The system of record: who wins where both sides changed the field. One-way syncs have no such case.
    #[serde(default)]
    pub owner: Option<Owner>,
}

/// Two expressions that give the same text for two records that are one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// SQL expression over the fields of Salesforce records whose key is empty.
    #[schemars(with = "String")]
    pub when_key_missing: Spanned<String>,
    /// SQL expression over the external fields.
    #[schemars(with = "String")]
    pub external: Spanned<String>,
    /// Where no text is the same: from this similarity on, 0 to 1 as PostgreSQL's `pg_trgm` counts it, two texts are taken
    /// for the same if no other comes as near.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub similar: Option<Spanned<f64>>,
    /// From this similarity on, and below `similar`, a person is asked; 0.5 where only `similar` is given.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub ask: Option<Spanned<f64>>,
}

impl Match {
    /// Returns from which similarity on a person is asked, and from which on none is needed; `None` where texts have to be
    /// the same.
    pub fn thresholds(&self) -> Option<(f64, f64)> {
        let similar = self.similar.as_ref().map(|similar| similar.value);
        let ask = self.ask.as_ref().map(|ask| ask.value);
        if similar.is_none() && ask.is_none() {
            return None;
        }
        // More similar than the same is nothing.
        let similar = similar.unwrap_or(2.0);
        Some((ask.unwrap_or(0.5).min(similar), similar))
    }
}

/// A side that owns a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The Salesforce org.
    Salesforce,
    /// The system outside.
    External,
}

/// A check on the records of the source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name, which becomes the reason of a dead letter.
    pub name: String,
    /// SQL expression over the source's fields; a record for which it is false fails.
    #[schemars(with = "String")]
    pub check: Spanned<String>,
    /// What becomes of a record that fails.
    #[serde(default)]
    pub on_fail: OnFail,
}

/// What becomes of a record that fails a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// It is kept aside with the rule as its reason.
    #[default]
    DeadLetter,
    /// The run stops before the record's batch is written; what came before stays done.
    Reject,
    /// It is written all the same, and counted.
    Warn,
}

/// Something wrong in a mapping file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct Mistake {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Mistake {
    /// Returns a mistake at a place of the file.
    pub fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { line: place.referenced.line(), column: place.referenced.column(), message: message.into() }
    }
}

impl Direction {
    /// Returns the side that is read.
    pub fn source(self) -> Side {
        self.target().other()
    }

    /// Returns the side that is written.
    pub fn target(self) -> Side {
        match self {
            Self::ToExternal => Side::External,
            Self::ToSalesforce => Side::Salesforce,
        }
    }
}

impl Definition {
    /// Returns the mappings of the parents, each with the place that names it; not this mapping itself.
    pub fn parents(&self) -> impl Iterator<Item = &Spanned<String>> {
        self.fields.iter().filter_map(|pair| pair.lookup.as_ref()).filter(|parent| parent.value != self.mapping)
    }

    /// Reads a mapping file.
    ///
    /// # Errors
    ///
    /// The first thing that is no YAML, or no mapping.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let mistake = |error: serde_saphyr::Error| {
            let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
            Mistake { line, column, message: error.without_snippet().to_string() }
        };
        let mut definition: Self = serde_saphyr::from_str(text).map_err(mistake)?;
        let content: serde_json::Value = serde_saphyr::from_str(text).map_err(mistake)?;
        definition.digest = digest(content.to_string().as_bytes());
        Ok(definition)
    }
}
