//! Validation rules and default values: formulas that are evaluated when a record is written.

use formula::{Blanks, Formula, Moment, Reference, Value};
use rusqlite::types::Value as Sql;

use crate::cursors::Cursors;
use crate::error::{Answered, ApiError};
use crate::formulas::{self, Known};
use crate::query;
use crate::schema::{Field, Object};
use crate::store::Store;

/// A validation rule that is active.
#[derive(Debug, Clone)]
pub(crate) struct ValidationRule {
    pub(crate) name: String,
    /// When a record is refused.
    pub(crate) formula: String,
    pub(crate) message: String,
    /// The field beside which the message stands.
    pub(crate) field: Option<String>,
}

impl ValidationRule {
    /// Reads its formula. Numbers without a value are blank in a rule. Source: Salesforce Help, "Validation Rules".
    ///
    /// # Errors
    ///
    /// What is wrong with it, in the platform's words.
    pub(crate) fn read(&self, known: &Known<'_>) -> Result<Formula, formula::Error> {
        let formula = Formula::new(&self.formula, known, Blanks::Blank)?;
        match formula.kind() {
            formula::Kind::Boolean | formula::Kind::Null => Ok(formula),
            other => {
                let message = format!(
                    "Formula result is data type ({}), incompatible with expected data type (true or false).",
                    other.word()
                );
                Err(formula::Error { offset: 0, message })
            }
        }
    }
}

/// The rules of an object, with the values that they ask for from before the change.
pub(crate) struct Checks<'r> {
    rules: Vec<(&'r ValidationRule, Formula, Vec<Value>)>,
    is_new: bool,
}

impl<'s> Store<'s> {
    pub(crate) fn moment(&self, is_new: bool) -> Moment {
        let now = crate::value::parse_datetime(&self.now).unwrap_or_default();
        Moment { now, zone: self.zone, is_new, is_clone: false }
    }

    /// Returns what fields of a record hold now; without an id, of those of the org alone.
    pub(crate) fn read_fields(&self, object: &Object, id: &str, reads: &[&Reference]) -> Answered<Vec<Value>> {
        let cursors = Cursors::default();
        query::values(self.bare(&cursors), object, id, reads)
    }

    /// Reads the rules of an object before a record of it is written; `id` is that of a record that is there already.
    pub(crate) fn begin_checks(&self, object: &Object, id: Option<&str>) -> Answered<Checks<'s>> {
        let mut rules = Vec::new();
        if let Some(object) = self.all.object(&object.name) {
            let known = Known { schema: self.all, object };
            for rule in &object.rules {
                // What can't be read was told when the project was loaded.
                let Ok(formula) = rule.read(&known) else { continue };
                let prior: Vec<&Reference> = formula.references().iter().filter(|read| read.prior).collect();
                let before = match id {
                    Some(id) if !prior.is_empty() => self.read_fields(object, id, &prior)?,
                    _ => Vec::new(),
                };
                rules.push((rule, formula, before));
            }
        }
        Ok(Checks { rules, is_new: id.is_none() })
    }

    /// Refuses a record that was written where a rule says so.
    pub(crate) fn check_rules(&self, object: &Object, id: &str, checks: &Checks<'_>) -> Answered<()> {
        let moment = self.moment(checks.is_new);
        for (rule, formula, before) in &checks.rules {
            let current: Vec<&Reference> = formula.references().iter().filter(|read| !read.prior).collect();
            let now = self.read_fields(object, id, &current)?;
            let (mut now, mut before) = (now.into_iter(), before.iter().cloned());
            let next = |read: &Reference| {
                // A record that is made has no values from before: those that it has now are the ones.
                if read.prior { before.next() } else { now.next() }.unwrap_or(Value::Blank)
            };
            let values: Vec<Value> = formula.references().iter().map(next).collect();
            let refused = |message: String| ApiError {
                fields: rule.field.iter().cloned().collect(),
                ..ApiError::new(400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", message)
            };
            match formula.evaluate(&values, &moment) {
                Ok(Value::Boolean(true)) => return Err(refused(rule.message.clone())),
                Ok(_) => {}
                Err(why) => {
                    let message = format!("The formula in the \"{}\" validation rule is invalid: {why}", rule.name);
                    return Err(refused(message));
                }
            }
        }
        Ok(())
    }

    /// Returns the default value of a field, which is a formula.
    pub(crate) fn default_value(&self, object: &Object, field: &Field, text: &str) -> Answered<Option<Sql>> {
        let Some(object) = self.all.object(&object.name) else { return Ok(None) };
        let known = Known { schema: self.all, object };
        let Ok(formula) = Formula::new(text, &known, Blanks::Blank) else { return Ok(None) };
        let reads: Vec<&Reference> = formula.references().iter().collect();
        let values = self.read_fields(object, "", &reads)?;
        let value = formula.evaluate(&values, &self.moment(true));
        Ok(value.ok().map(|value| formulas::stored(value, Some(field.kind), field.scale)))
    }
}
