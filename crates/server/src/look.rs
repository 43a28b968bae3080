//! What the console asks of the project that is served: what is mapped onto what, and what records and systems say now.

use std::collections::BTreeMap;

use model::Side;
use serde::{Deserialize, Serialize};

/// A pair of fields, as a mapping has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FieldPair {
    /// The Salesforce field.
    pub salesforce: Option<String>,
    /// The external field.
    pub external: Option<String>,
    /// The expression whose value goes outside; the other field itself if there is none.
    pub to_external: Option<String>,
    /// The expression whose value goes to Salesforce.
    pub to_salesforce: Option<String>,
    /// The mapping whose links translate it.
    pub lookup: Option<String>,
    /// The side that owns it.
    pub owner: Option<Side>,
}

/// A mapping and the syncs that put it to work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// Its name.
    pub mapping: String,
    /// Where it is written.
    pub file: String,
    /// Connection, object and key on the Salesforce side.
    pub salesforce: [String; 3],
    /// Connection, entity and key on the other.
    pub external: [String; 3],
    /// The pairs of fields.
    pub fields: Vec<FieldPair>,
    /// Its syncs.
    pub syncs: Vec<String>,
    /// True where its sync goes both ways.
    pub two_way: bool,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connected {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The syncs that use it.
    pub syncs: Vec<String>,
}

/// What a connection said when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// How many entities it has.
    pub entities: usize,
    /// The calls that are left today, where it allows only so many.
    pub calls_left: Option<u64>,
    /// The entities that mappings name.
    pub mapped: Vec<MappedEntity>,
}

/// An entity that a mapping names, as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MappedEntity {
    /// The entity; why it can't be described, where it can't.
    pub entity: Result<model::Entity, String>,
    /// Its name.
    pub name: String,
    /// The syncs of it, each with how the entity differs from what it was at its last good run.
    pub syncs: Vec<(String, Vec<String>)>,
}

impl Eq for MappedEntity {}

/// What a text of a mapping would make of some records of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The sync.
    pub sync: String,
    /// For each way that its records move what would become of some.
    pub previews: Vec<engine::Preview>,
}

/// How the changes of a sync are noted outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The sync.
    pub sync: String,
    /// What notes them: a table of notes, or a slot in the log; `None` before the first run makes it.
    pub name: Option<String>,
    /// Bytes of its log that the system keeps for us; `None` where it keeps none.
    pub kept_bytes: Option<u64>,
    /// What is wrong with it, or soon will be.
    pub trouble: Option<String>,
}

/// A record's fields as its system has them; `None` where there is no such record.
pub type Fields = Option<BTreeMap<String, Option<String>>>;
