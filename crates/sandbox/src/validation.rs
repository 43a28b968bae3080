//! Validation rules and default values: formulas that are evaluated when a record is written.

use std::collections::HashMap;
use std::sync::Arc;

use formula::{Blanks, Formula, Moment, NoValue, Reference, Value};
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
    /// Its formula, once all objects are known; none where it can't be read, which was told then.
    pub(crate) ready: Option<Arc<Formula>>,
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

/// What formulas read before a change, by the path.
pub(crate) type Before = HashMap<String, Value>;

/// The rules of an object, with what they read before the change.
pub(crate) struct Checks<'r> {
    rules: Vec<(&'r ValidationRule, Arc<Formula>)>,
    before: Before,
    is_new: bool,
}

impl<'s> Store<'s> {
    fn moment(&self, is_new: bool) -> Moment {
        let now = crate::value::parse_datetime(&self.now).unwrap_or_default();
        Moment { now, zone: self.zone, is_new, is_clone: false }
    }

    /// Returns what fields of a record hold now; without an id, of those of the org alone.
    fn read_fields(&self, object: &Object, id: &str, reads: &[&Reference]) -> Answered<Vec<Value>> {
        let cursors = Cursors::default();
        query::values(self.bare(&cursors), object, id, reads)
    }

    /// Reads what formulas ask for from before a change of a record; nothing where it is made.
    pub(crate) fn before<'f>(
        &self,
        object: &Object,
        id: Option<&str>,
        formulas: impl Iterator<Item = &'f Formula>,
    ) -> Answered<Before> {
        let prior: Vec<&Reference> = formulas.flat_map(Formula::references).filter(|read| read.prior).collect();
        let (Some(id), Some(object), false) = (id, self.all.object(&object.name), prior.is_empty()) else {
            return Ok(Before::new());
        };
        let values = self.read_fields(object, id, &prior)?;
        Ok(prior.into_iter().map(|read| read.path.to_ascii_lowercase()).zip(values).collect())
    }

    /// Returns the value of a formula for a record as it is now; the inner error says why it has none.
    pub(crate) fn evaluated(
        &self,
        object: &Object,
        id: &str,
        formula: &Formula,
        before: &Before,
        is_new: bool,
    ) -> Answered<Result<Value, NoValue>> {
        let object = self.all.object(&object.name).unwrap_or(object);
        let current: Vec<&Reference> = formula.references().iter().filter(|read| !read.prior).collect();
        let mut now = self.read_fields(object, id, &current)?.into_iter();
        let value = |read: &Reference| {
            if read.prior { before.get(&read.path.to_ascii_lowercase()).cloned() } else { now.next() }
        };
        let values: Vec<Value> = formula.references().iter().map(value).map(Option::unwrap_or_default).collect();
        Ok(formula.evaluate(&values, &self.moment(is_new)))
    }

    /// Reads the rules of an object before a record of it is written; `id` is that of a record that is there already.
    pub(crate) fn begin_checks(&self, object: &Object, id: Option<&str>) -> Answered<Checks<'s>> {
        let rules: Vec<(&'s ValidationRule, Arc<Formula>)> = match self.all.object(&object.name) {
            Some(object) => {
                object.rules.iter().filter_map(|rule| Some((rule, Arc::clone(rule.ready.as_ref()?)))).collect()
            }
            None => Vec::new(),
        };
        let before = self.before(object, id, rules.iter().map(|(_, formula)| &**formula))?;
        Ok(Checks { rules, before, is_new: id.is_none() })
    }

    /// Refuses a record that was written where a rule says so.
    pub(crate) fn check_rules(&self, object: &Object, id: &str, checks: &Checks<'_>) -> Answered<()> {
        for (rule, formula) in &checks.rules {
            let refused = |message: String| ApiError {
                fields: rule.field.iter().cloned().collect(),
                ..ApiError::new(400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", message)
            };
            match self.evaluated(object, id, formula, &checks.before, checks.is_new)? {
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
        let Ok(formula) = Formula::new(text, &Known { schema: self.all, object }, Blanks::Blank) else {
            return Ok(None);
        };
        let value = self.evaluated(object, "", &formula, &Before::new(), true)?;
        Ok(value.ok().map(|value| formulas::stored(value, Some(field.kind), field.scale)))
    }
}
