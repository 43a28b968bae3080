//! Automation: what an org does of its own when a record is saved, in the place of flows and triggers.
//!
//! A rule of the definition sets fields before the record is saved, or does something after that: sets fields by a save of its
//! own (which saves again, and so on), makes records, publishes events, or fails. What it reads and sets are formulas.
//! Order: Apex developer guide, "Triggers and Order of Execution".

use std::collections::BTreeMap;

use formula::{Blanks, Formula, Reference, Value};
use rusqlite::types::Value as Sql;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::error::{Answered, ApiError};
use crate::formulas::{self, Known};
use crate::schema::{Field, Object, Schema};
use crate::store::{Store, quoted};
use crate::value;

/// How often saves may lead to each other. Source: Apex developer guide, execution governors, stack depth of triggers.
const DEEPEST: usize = 16;

/// What happens when a record is saved.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Automation {
    /// Its name, which messages tell.
    pub name: String,
    /// The object.
    pub object: String,
    /// The saves that it is for; all but deletions unless told otherwise.
    #[serde(default = "Automation::default_on")]
    pub on: Vec<Save>,
    /// Whether it works before the record is saved or after.
    #[serde(default)]
    pub when: When,
    /// A formula that has to be true; it always is where there is none.
    #[serde(default)]
    pub condition: Option<String>,
    /// Fields of the record, each with the formula of its value.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// A record to make.
    #[serde(default)]
    pub create: Option<Made>,
    /// A platform event to publish.
    #[serde(default)]
    pub publish: Option<Made>,
    /// Why the save fails.
    #[serde(default)]
    pub fail: Option<String>,
    /// How much longer the transaction takes for it, in milliseconds.
    #[serde(default)]
    pub takes_ms: u64,
}

impl Automation {
    fn default_on() -> Vec<Save> {
        vec![Save::Create, Save::Update]
    }
}

/// How a record is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Save {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It goes to the recycle bin.
    Delete,
}

/// Before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before the record is saved: validation rules see what is set.
    #[default]
    Before,
    /// After it is saved.
    After,
}

/// A record that a rule makes, or an event that it publishes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The object or the event.
    pub object: String,
    /// Its fields, each with the formula of its value.
    pub fields: BTreeMap<String, String>,
}

/// A formula of a rule, with what it read before the change.
type Prepared = (Formula, Vec<Value>);
/// Fields with the formulas of their values.
type Fields = Vec<(String, Prepared)>;

/// A rule that may apply to a save.
pub(crate) struct Applied<'r> {
    rule: &'r Automation,
    condition: Option<Prepared>,
    set: Fields,
    create: Option<(&'r Made, Fields)>,
    publish: Option<(&'r Made, Fields)>,
}

/// Checks a rule against the objects that there are.
///
/// # Errors
///
/// What of it is wrong, in words.
pub(crate) fn check(schema: &Schema, rule: &Automation) -> Result<(), String> {
    let object = schema.object(&rule.object).ok_or_else(|| format!("there is no object {}", rule.object))?;
    let known = Known { schema, object };
    let read =
        |text: &str| Formula::new(text, &known, Blanks::Blank).map(drop).map_err(|error| format!("{text}: {error}"));
    rule.condition.as_deref().map_or(Ok(()), read)?;
    let in_fields = |object: &Object, fields: &BTreeMap<String, String>| {
        fields.iter().try_for_each(|(name, text)| {
            object.field(name).ok_or_else(|| format!("{} has no field {name}", object.name))?;
            read(text)
        })
    };
    in_fields(object, &rule.set)?;
    for made in rule.create.iter().chain(&rule.publish) {
        let object = schema.object(&made.object).ok_or_else(|| format!("there is no object {}", made.object))?;
        in_fields(object, &made.fields)?;
    }
    if rule.when == When::Before && (rule.create.is_some() || rule.publish.is_some()) {
        return Err("records and events are made after a save: `when: after`".to_owned());
    }
    Ok(())
}

impl<'s> Store<'s> {
    /// Returns the rules for a save, with what they ask for from before it.
    pub(crate) fn automations(&self, object: &Object, save: Save, id: Option<&str>) -> Answered<Vec<Applied<'s>>> {
        let mut found = Vec::new();
        let rules = self.automation.iter().filter(|rule| rule.object.eq_ignore_ascii_case(&object.name));
        for rule in rules.filter(|rule| rule.on.contains(&save)) {
            let Some(object) = self.all.object(&object.name) else { continue };
            let prepare = |text: &String| -> Answered<Prepared> {
                let known = Known { schema: self.all, object };
                let formula = Formula::new(text, &known, Blanks::Blank);
                let formula = formula.map_err(|error| ApiError::unexpected(&format!("{}: {error}", rule.name)))?;
                let prior: Vec<&Reference> = formula.references().iter().filter(|read| read.prior).collect();
                let before = match id {
                    Some(id) if !prior.is_empty() => self.read_fields(object, id, &prior)?,
                    _ => Vec::new(),
                };
                Ok((formula, before))
            };
            let fields = |fields: &BTreeMap<String, String>| -> Answered<Fields> {
                fields.iter().map(|(name, text)| Ok((name.clone(), prepare(text)?))).collect()
            };
            let made = |made: &'s Option<Made>| -> Answered<Option<(&'s Made, Fields)>> {
                made.as_ref().map(|made| Ok((made, fields(&made.fields)?))).transpose()
            };
            found.push(Applied {
                rule,
                condition: rule.condition.as_ref().map(prepare).transpose()?,
                set: fields(&rule.set)?,
                create: made(&rule.create)?,
                publish: made(&rule.publish)?,
            });
        }
        Ok(found)
    }

    fn value_of(&self, object: &Object, id: &str, (formula, before): &Prepared, is_new: bool) -> Answered<Value> {
        let current: Vec<&Reference> = formula.references().iter().filter(|read| !read.prior).collect();
        let now = self.read_fields(object, id, &current)?;
        let (mut now, mut before) = (now.into_iter(), before.iter().cloned());
        let next = |read: &Reference| if read.prior { before.next() } else { now.next() }.unwrap_or(Value::Blank);
        let values: Vec<Value> = formula.references().iter().map(next).collect();
        // What has no value is blank, as an empty default of a flow's formula.
        Ok(formula.evaluate(&values, &self.moment(is_new)).unwrap_or(Value::Blank))
    }

    /// True where a rule applies now; one that fails, does.
    fn applies(&mut self, object: &Object, id: &str, applied: &Applied<'_>, is_new: bool) -> Answered<bool> {
        if let Some(condition) = &applied.condition
            && self.value_of(object, id, condition, is_new)? != Value::Boolean(true)
        {
            return Ok(false);
        }
        self.takes = self.takes.max(std::time::Duration::from_millis(applied.rule.takes_ms));
        match &applied.rule.fail {
            Some(message) => {
                let message = format!("{}: execution of {} caused by: {message}", applied.rule.name, object.name);
                Err(ApiError::new(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message))
            }
            None => Ok(true),
        }
    }

    /// Lets the rules before a save do their work on the row, and returns the names of the fields that they set.
    pub(crate) fn before_save(
        &mut self,
        object: &Object,
        id: &str,
        rules: &[Applied<'_>],
        is_new: bool,
    ) -> Answered<Vec<String>> {
        let mut names = Vec::new();
        for applied in rules.iter().filter(|applied| applied.rule.when == When::Before) {
            if !self.applies(object, id, applied, is_new)? {
                continue;
            }
            for (name, prepared) in &applied.set {
                let Some(field) = object.field(name) else { continue };
                let value = self.value_of(object, id, prepared, is_new)?;
                let stored = value::coerce(self.all, field, &json(field, value))?;
                let sql = format!("UPDATE {} SET {}=? WHERE \"Id\"=?", quoted(&object.name), quoted(&field.name));
                self.connection.prepare_cached(&sql)?.execute(rusqlite::params![stored, id])?;
                names.push(field.name.clone());
            }
        }
        Ok(names)
    }

    /// Lets the rules after a save do their work.
    pub(crate) fn after_save(
        &mut self,
        object: &Object,
        id: &str,
        rules: &[Applied<'_>],
        is_new: bool,
    ) -> Answered<()> {
        for applied in rules.iter().filter(|applied| applied.rule.when == When::After) {
            if !self.applies(object, id, applied, is_new)? {
                continue;
            }
            for (made, fields) in applied.create.iter().chain(&applied.publish) {
                let Some(other) = self.all.object(&made.object) else { continue };
                let values = self.values_of(object, id, other, fields, is_new)?;
                // It may do what the user may not.
                let seen = std::mem::replace(&mut self.schema, self.all);
                let made = self.insert(other, &values);
                self.schema = seen;
                made?;
            }
            if applied.set.is_empty() {
                continue;
            }
            let values = self.values_of(object, id, object, &applied.set, is_new)?;
            if self.saves >= DEEPEST {
                let message = format!("{}: maximum trigger depth exceeded", applied.rule.name);
                return Err(ApiError::new(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message));
            }
            self.saves += 1;
            let saved = self.update(object, id, &values);
            self.saves -= 1;
            saved?;
        }
        Ok(())
    }

    fn values_of(
        &self,
        object: &Object,
        id: &str,
        target: &Object,
        fields: &[(String, Prepared)],
        is_new: bool,
    ) -> Answered<Map<String, Json>> {
        let mut values = Map::new();
        for (name, prepared) in fields {
            let Some(field) = target.field(name) else { continue };
            let value = self.value_of(object, id, prepared, is_new)?;
            values.insert(field.name.clone(), json(field, value));
        }
        Ok(values)
    }
}

/// Returns a value as the API takes it for a field.
fn json(field: &Field, given: Value) -> Json {
    match formulas::stored(given, Some(field.kind), field.scale) {
        Sql::Null | Sql::Blob(_) => Json::Null,
        Sql::Integer(flag) if field.kind == crate::schema::Kind::Boolean => Json::Bool(flag != 0),
        Sql::Integer(number) => Json::from(number),
        Sql::Real(number) => Json::from(number),
        Sql::Text(text) => Json::String(text),
    }
}
