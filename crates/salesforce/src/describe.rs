//! What the org says of its objects and their fields; keys that Bridgehead has no use for are left out.

use serde::Deserialize;

/// A line of the global describe.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalObject {
    /// API name.
    pub name: String,
    /// Label.
    pub label: String,
    /// Whether SOQL can read it.
    pub queryable: bool,
    /// Whether records can be created.
    pub createable: bool,
    /// First three characters of its ids.
    pub key_prefix: Option<String>,
}

/// An object.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// API name.
    pub name: String,
    /// Label.
    pub label: String,
    /// Whether records can be created.
    pub createable: bool,
    /// Whether records can be changed.
    pub updateable: bool,
    /// Whether records can be deleted.
    pub deletable: bool,
    /// Whether SOQL can read it.
    pub queryable: bool,
    /// Fields, in the org's order.
    pub fields: Vec<Field>,
    /// Objects that refer to this one.
    #[serde(default)]
    pub child_relationships: Vec<ChildRelationship>,
}

impl Object {
    /// Finds a field, without regard to case, as SOQL does.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

/// A field of an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// API name.
    pub name: String,
    /// Label.
    pub label: String,
    /// The org's word for its type, such as `currency`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Longest text, in characters; 0 where it means nothing.
    pub length: u32,
    /// Digits in all, of a number with a fraction.
    pub precision: u8,
    /// Digits behind the point.
    pub scale: u8,
    /// May be empty.
    pub nillable: bool,
    /// No two records share a value.
    pub unique: bool,
    /// A value can be given on create.
    pub createable: bool,
    /// A value can be given on update.
    pub updateable: bool,
    /// The org fills it on create.
    pub defaulted_on_create: bool,
    /// A formula or roll-up.
    pub calculated: bool,
    /// The formula, where it is one.
    #[serde(default)]
    pub calculated_formula: Option<String>,
    /// The org numbers it.
    #[serde(default)]
    pub auto_number: bool,
    /// Marked as an external id.
    pub external_id: bool,
    /// Records can be addressed by it.
    #[serde(default)]
    pub id_lookup: bool,
    /// SOQL can filter by it.
    pub filterable: bool,
    /// Only listed values are taken.
    pub restricted_picklist: bool,
    /// Listed values.
    #[serde(default)]
    pub picklist_values: Vec<PicklistValue>,
    /// Objects that a reference may point at.
    #[serde(default)]
    pub reference_to: Vec<String>,
    /// Name of the way to the parent.
    pub relationship_name: Option<String>,
    /// The compound field that this is a part of.
    pub compound_field_name: Option<String>,
}

/// A value of a picklist.
#[derive(Debug, Clone, Deserialize)]
pub struct PicklistValue {
    /// What records hold.
    pub value: String,
    /// Whether it can be chosen now.
    pub active: bool,
}

/// A relationship seen from its parent.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildRelationship {
    /// The child object.
    #[serde(rename = "childSObject")]
    pub child: String,
    /// The child's field.
    pub field: String,
    /// The child goes with its parent.
    #[serde(default)]
    pub cascade_delete: bool,
    /// The name for subqueries, where it has one.
    pub relationship_name: Option<String>,
}
