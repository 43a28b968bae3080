//! What a connection holds many records of, and what is known of each field.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::Type;

/// The values a field may take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Picklist {
    /// The active values, in the org's own order.
    pub values: Vec<String>,
    /// True when the system refuses any other value.
    pub restricted: bool,
}

/// Everything that is known of a field: the one description that drift, checks, documentation and
/// the gateway's metadata all read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Name, as the system writes it.
    pub name: String,
    /// Label for people; equals the name where the system has none.
    pub label: String,
    /// Our type.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The system's own word for the type, such as `currency` or `numeric(18,2)`.
    pub native: String,
    /// Longest text, in characters, where the system has a limit.
    pub length: Option<u32>,
    /// True when the field may be empty.
    pub nillable: bool,
    /// True when no two records may share a value.
    pub unique: bool,
    /// True when a value can be given on insert.
    pub createable: bool,
    /// True when a value can be given on update.
    pub updateable: bool,
    /// True when the system fills the field on insert if nothing is given.
    pub defaulted: bool,
    /// True when the system computes the field (formula, roll-up, generated column).
    pub calculated: bool,
    /// How it computes it, in its own words, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formula: Option<String>,
    /// True when a record can be addressed by this field (external id).
    pub external_id: bool,
    /// True when the system lets a query filter by it.
    pub filterable: bool,
    /// The values it may take, where the system lists them.
    pub picklist: Option<Picklist>,
    /// Entities whose key this field may hold; empty for a field that is no reference.
    pub references: Vec<String>,
    /// Name under which a query reaches the referenced record, such as `Account` or `Parent__r`.
    pub relationship: Option<String>,
}

impl Field {
    /// Returns a writable, nillable field of this name and type.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        let name = name.into();
        Self {
            label: name.clone(),
            name,
            kind,
            native: kind.to_string(),
            length: None,
            nillable: true,
            unique: false,
            createable: true,
            updateable: true,
            defaulted: false,
            calculated: false,
            formula: None,
            external_id: false,
            filterable: true,
            picklist: None,
            references: Vec::new(),
            relationship: None,
        }
    }

    /// The same field, but never empty.
    pub fn required(mut self) -> Self {
        self.nillable = false;
        self
    }

    /// The same field, with the system's own word for its type.
    pub fn with_native(mut self, native: impl Into<String>) -> Self {
        self.native = native.into();
        self
    }

    /// Says what is different about the field `now`.
    fn drift(&self, now: &Self) -> Vec<String> {
        let length =
            |field: &Self| field.length.map_or("any length".to_owned(), |length| format!("{length} characters"));
        let flag = |on: bool, yes: &str, no: &str| if on { yes.to_owned() } else { no.to_owned() };
        let facts = |field: &Self| {
            [
                field.kind.to_string(),
                length(field),
                flag(field.nillable, "may be empty", "is required"),
                flag(field.updateable || field.createable, "can be written", "is read-only"),
            ]
        };
        let changed = facts(self).into_iter().zip(facts(now)).filter(|(before, after)| before != after);
        let mut found: Vec<String> = changed.map(|(before, after)| format!("was: {before}, now: {after}")).collect();
        if let (Some(before), Some(after)) = (&self.picklist, &now.picklist) {
            let gone = before.values.iter().filter(|value| !after.values.contains(value));
            found.extend(gone.map(|value| format!("{value:?} is no longer in the picklist")));
        }
        if let (Some(before), Some(after)) = (&self.formula, &now.formula)
            && before != after
        {
            found.push(format!("its formula was: {before}, now: {after}"));
        }
        found
    }

    /// True when an insert that gives no value is refused.
    pub fn needs_value(&self) -> bool {
        self.createable && !self.nillable && !self.defaulted
    }
}

/// What a connection holds many records of: an sObject, a table, a set of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Name, as the system writes it.
    pub name: String,
    /// Label for people.
    pub label: String,
    /// Fields that identify a record; empty when the system knows none.
    pub key: Vec<String>,
    /// Fields, in the system's own order.
    pub fields: Vec<Field>,
    /// Field that moves forward with every change, where the system keeps one.
    pub cursor: Option<String>,
    /// True when records can be written.
    pub writable: bool,
    /// What the system refuses records for besides what its fields say, by name; `None` where that was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<BTreeMap<String, String>>,
}

impl Entity {
    /// Returns a writable entity without fields.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            label: name.clone(),
            name,
            key: Vec::new(),
            fields: Vec::new(),
            cursor: None,
            writable: true,
            rules: None,
        }
    }

    /// The same entity with this key.
    pub fn with_key<S: Into<String>>(mut self, key: impl IntoIterator<Item = S>) -> Self {
        self.key = key.into_iter().map(Into::into).collect();
        self
    }

    /// The same entity with these fields.
    pub fn with_fields(mut self, fields: impl IntoIterator<Item = Field>) -> Self {
        self.fields = fields.into_iter().collect();
        self
    }

    /// Finds a field by its name: exactly, else without regard to case if that is unambiguous.
    pub fn field(&self, name: &str) -> Option<&Field> {
        if let Some(exact) = self.fields.iter().find(|field| field.name == name) {
            return Some(exact);
        }
        let mut close = self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        match (close.next(), close.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// Returns the Arrow schema of the named fields, in the order asked.
    ///
    /// # Errors
    ///
    /// The first name that the entity has no field for.
    pub fn schema<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<SchemaRef, String> {
        let fields = names
            .into_iter()
            .map(|name| {
                let field = self.field(name).ok_or_else(|| name.to_owned())?;
                Ok(arrow::datatypes::Field::new(&field.name, field.kind.arrow(), true))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Returns what is different about the entity `now`, a sentence a difference.
    pub fn drift(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for before in &self.fields {
            let place = format!("{}.{}", self.name, before.name);
            match now.fields.iter().find(|field| field.name == before.name) {
                None => found.push(format!("{place} is gone, or hidden from this login")),
                Some(after) => found.extend(before.drift(after).into_iter().map(|what| format!("{place}: {what}"))),
            }
        }
        let known = |field: &&Field| self.fields.iter().any(|before| before.name == field.name);
        let new = now.fields.iter().filter(|field| !known(field));
        found.extend(new.map(|field| format!("{}.{} is new ({})", self.name, field.name, field.kind)));
        if let (Some(before), Some(after)) = (&self.rules, &now.rules) {
            let place = |name: &str| format!("{}: the rule {name}", self.name);
            found.extend(before.keys().filter(|name| !after.contains_key(*name)).map(|name| place(name) + " is gone"));
            for (name, text) in after {
                match before.get(name) {
                    None => found.push(format!("{} is new: {text}", place(name))),
                    Some(known) if known != text => found.push(format!("{} was: {known}, now: {text}", place(name))),
                    Some(_) => {}
                }
            }
        }
        found
    }

    /// Returns the name of a field that looks most like `name`, to suggest in a message.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let wanted = name.to_lowercase();
        self.fields
            .iter()
            .map(|field| (distance(&wanted, &field.name.to_lowercase()), field.name.as_str()))
            .min()
            .filter(|(distance, _)| *distance <= 1 + name.chars().count() / 3)
            .map(|(_, name)| name)
    }
}

/// Returns the number of single-character edits between two words.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_suggested_and_a_stranger_is_not() {
        let entity = Entity::new("Account")
            .with_fields(["Name", "BillingCity", "AnnualRevenue"].map(|name| Field::new(name, Type::Text)));
        assert_eq!(entity.nearest("AnualRevenue"), Some("AnnualRevenue"));
        assert_eq!(entity.nearest("billing_city"), Some("BillingCity"));
        assert_eq!(entity.nearest("Zzzzzzzz"), None);
    }

    #[test]
    fn drift_tells_what_is_gone_new_or_different() {
        let picklist = |values: &[&str]| {
            Some(Picklist { values: values.iter().map(|value| (*value).to_owned()).collect(), restricted: true })
        };
        let before = Entity::new("Account").with_fields([
            Field { length: Some(80), ..Field::new("Name", Type::Text) },
            Field::new("Fax", Type::Text),
            Field { picklist: picklist(&["Hot", "Cold"]), ..Field::new("Rating", Type::Text) },
        ]);
        let after = Entity::new("Account").with_fields([
            Field { length: Some(40), ..Field::new("Name", Type::Text).required() },
            Field { picklist: picklist(&["Hot"]), ..Field::new("Rating", Type::Text) },
            Field::new("Tier__c", Type::Integer),
        ]);
        let rules = |rules: &[(&str, &str)]| {
            Some(rules.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
        };
        let before = Entity { rules: rules(&[("Gone", "a"), ("Kept", "b"), ("Moved", "c")]), ..before };
        let unasked = before.drift(&after);
        let after = Entity { rules: rules(&[("Kept", "b"), ("Moved", "d"), ("New", "e")]), ..after };
        let expected = [
            "Account.Name: was: 80 characters, now: 40 characters",
            "Account.Name: was: may be empty, now: is required",
            "Account.Fax is gone, or hidden from this login",
            "Account.Rating: \"Cold\" is no longer in the picklist",
            "Account.Tier__c is new (integer)",
            "Account: the rule Gone is gone",
            "Account: the rule Moved was: c, now: d",
            "Account: the rule New is new: e",
        ];
        assert_eq!(before.drift(&after), expected);
        assert_eq!(unasked, expected[..5], "what was not asked tells nothing");
        assert!(before.drift(&before).is_empty());
    }

    #[test]
    fn two_fields_that_differ_in_case_are_told_apart() {
        let entity = Entity::new("t").with_fields(["a", "A"].map(|name| Field::new(name, Type::Text)));
        assert_eq!(entity.field("A").map(|f| f.name.as_str()), Some("A"));
        assert_eq!(entity.field("a").map(|f| f.name.as_str()), Some("a"));
    }
}
