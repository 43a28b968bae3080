//! Automation: what an org does of its own when a record is saved, in the place of flows and triggers.
//!
//! A rule of the definition sets fields before the record is saved, or does something after that: sets fields by a save of its
//! own (which saves again, and so on), makes records, publishes events, sends messages, or fails. What it reads and sets are formulas.
//! Order: Apex developer guide, "Triggers and Order of Execution".

use std::collections::BTreeMap;

use formula::{Blanks, Formula, Value};
use rusqlite::types::Value as Sql;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::error::{Answered, ApiError};
use crate::formulas::{self, Known};
use crate::messages::Message;
use crate::schema::{Field, Object, Schema};
use crate::store::{Store, quoted};
use crate::validation::Before;
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
    /// The username of the record's owner, as an assignment rule names it: of those of an object the first that applies, and
    /// only where the call lets them work. By REST it does unless `Sforce-Auto-Assign` is `FALSE`, by SOAP with an
    /// `AssignmentRuleHeader`, in bulk never.
    #[serde(default)]
    pub assign: Option<String>,
    /// A record to make.
    #[serde(default)]
    pub create: Option<Made>,
    /// A platform event to publish.
    #[serde(default)]
    pub publish: Option<Made>,
    /// An outbound message with the record.
    #[serde(default)]
    pub send: Option<Message>,
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

/// Fields with the formulas of their values.
type Formulas = Vec<(String, Formula)>;

/// A rule whose formulas are read: once, when the org is opened.
#[derive(Debug)]
pub(crate) struct Ready {
    rule: Automation,
    condition: Option<Formula>,
    set: Formulas,
    /// What is made or published: the object, and its fields.
    made: Vec<(String, Formulas)>,
}

/// Reads the formulas of a rule.
///
/// # Errors
///
/// What of it is wrong, in words.
pub(crate) fn read(schema: &Schema, rule: &Automation) -> Result<Ready, String> {
    let object = schema.object(&rule.object).ok_or_else(|| format!("there is no object {}", rule.object))?;
    let known = Known { schema, object };
    let formula = |text: &String| Formula::new(text, &known, Blanks::Blank).map_err(|error| format!("{text}: {error}"));
    let fields = |object: &Object, fields: &BTreeMap<String, String>| -> Result<Formulas, String> {
        let field = |(name, text): (&String, &String)| {
            object.field(name).ok_or_else(|| format!("{} has no field {name}", object.name))?;
            Ok((name.clone(), formula(text)?))
        };
        fields.iter().map(field).collect()
    };
    if rule.when == When::Before && (rule.create.is_some() || rule.publish.is_some() || rule.send.is_some()) {
        return Err("records, events and messages are made after a save: `when: after`".to_owned());
    }
    if rule.assign.is_some() && (rule.when == When::After || object.field("OwnerId").is_none()) {
        return Err("the owner is assigned before a save, of an object whose records have one".to_owned());
    }
    for name in rule.send.iter().flat_map(|message| &message.fields) {
        object.field(name).ok_or_else(|| format!("{} has no field {name}", object.name))?;
    }
    let made = rule.create.iter().chain(&rule.publish).map(|made| {
        let object = schema.object(&made.object).ok_or_else(|| format!("there is no object {}", made.object))?;
        Ok((object.name.clone(), fields(object, &made.fields)?))
    });
    Ok(Ready {
        condition: rule.condition.as_ref().map(formula).transpose()?,
        set: fields(object, &rule.set)?,
        made: made.collect::<Result<_, String>>()?,
        rule: rule.clone(),
    })
}

impl Ready {
    /// Returns all its formulas.
    fn formulas(&self) -> impl Iterator<Item = &Formula> {
        let fields = self.made.iter().flat_map(|(_, fields)| fields).chain(&self.set);
        self.condition.iter().chain(fields.map(|(_, formula)| formula))
    }
}

/// A rule for a save, with what its formulas read before it.
pub(crate) struct Applied<'r> {
    ready: &'r Ready,
    before: Before,
}

impl<'s> Store<'s> {
    /// Returns the rules for a save, with what they ask for from before it.
    pub(crate) fn automations(&self, object: &Object, save: Save, id: Option<&str>) -> Answered<Vec<Applied<'s>>> {
        let rules = self
            .automation
            .iter()
            .filter(|ready| ready.rule.object.eq_ignore_ascii_case(&object.name) && ready.rule.on.contains(&save));
        let applied = |ready: &'s Ready| Ok(Applied { ready, before: self.before(object, id, ready.formulas())? });
        rules.map(applied).collect()
    }

    /// What has no value is blank, as an empty default of a flow's formula.
    fn or_blank(&self, object: &Object, id: &str, formula: &Formula, before: &Before, is_new: bool) -> Answered<Value> {
        Ok(self.evaluated(object, id, formula, before, is_new)?.unwrap_or(Value::Blank))
    }

    /// True where a rule applies now; one that fails, does.
    fn applies(&mut self, object: &Object, id: &str, applied: &Applied<'_>, is_new: bool) -> Answered<bool> {
        let Applied { ready, before } = applied;
        if let Some(condition) = &ready.condition
            && self.or_blank(object, id, condition, before, is_new)? != Value::Boolean(true)
        {
            return Ok(false);
        }
        self.takes = self.takes.max(std::time::Duration::from_millis(applied.ready.rule.takes_ms));
        match &applied.ready.rule.fail {
            Some(message) => {
                let message = format!("{}: execution of {} caused by: {message}", applied.ready.rule.name, object.name);
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
        let mut names: Vec<String> = Vec::new();
        let mut assigns = self.options.assign;
        for applied in rules.iter().filter(|applied| applied.ready.rule.when == When::Before) {
            let owner = applied.ready.rule.assign.as_ref();
            if (owner.is_some() && !assigns) || !self.applies(object, id, applied, is_new)? {
                continue;
            }
            if let Some(owner) = owner {
                let owned = "(SELECT \"Id\" FROM \"User\" WHERE \"Username\"=?)";
                let sql = format!("UPDATE {} SET \"OwnerId\"={owned} WHERE \"Id\"=?", quoted(&object.name));
                self.connection.prepare_cached(&sql)?.execute([owner.as_str(), id])?;
                names.push("OwnerId".to_owned());
                assigns = false;
            }
            for (name, formula) in &applied.ready.set {
                let Some(field) = object.field(name) else { continue };
                let value = self.or_blank(object, id, formula, &applied.before, is_new)?;
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
        for applied in rules.iter().filter(|applied| applied.ready.rule.when == When::After) {
            if !self.applies(object, id, applied, is_new)? {
                continue;
            }
            for (other, fields) in &applied.ready.made {
                let Some(other) = self.all.object(other) else { continue };
                let values = self.values_of(object, id, other, fields, applied, is_new)?;
                // It may do what the user may not.
                let seen = std::mem::replace(&mut self.schema, self.all);
                let bound = std::mem::take(&mut self.bound);
                let made = self.insert(other, &values);
                (self.schema, self.bound) = (seen, bound);
                made?;
            }
            if applied.ready.rule.send.is_some() {
                self.queue(&applied.ready.rule.name, id)?;
            }
            if applied.ready.set.is_empty() {
                continue;
            }
            let values = self.values_of(object, id, object, &applied.ready.set, applied, is_new)?;
            if self.saves >= DEEPEST {
                let message = format!("{}: maximum trigger depth exceeded", applied.ready.rule.name);
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
        fields: &Formulas,
        applied: &Applied<'_>,
        is_new: bool,
    ) -> Answered<Map<String, Json>> {
        let mut values = Map::new();
        for (name, formula) in fields {
            let Some(field) = target.field(name) else { continue };
            let value = self.or_blank(object, id, formula, &applied.before, is_new)?;
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
