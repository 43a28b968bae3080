//! Filters of channels: which events of a member a channel carries.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;
use soql::{Condition, Expr, Op};

use super::changes::path_of;
use super::schemas::HEADER;
use crate::schema::Object;
use crate::sql::{fold, is_like};

/// Parts of the header that no filter can name. Source: Change Data Capture guide, "Change Event Filters".
const LISTS: [&str; 4] = ["recordIds", "nulledFields", "diffFields", "changedFields"];

/// A condition on an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    condition: Condition,
    /// Where an event holds what the condition names.
    paths: BTreeMap<String, String>,
}

impl Filter {
    /// Reads a filter of the events of an object.
    ///
    /// # Errors
    ///
    /// What of it is wrong, in words.
    pub(crate) fn new(text: &str, object: &Object) -> Result<Self, String> {
        let query = format!("SELECT Id FROM {} WHERE {text}", object.name);
        let query = soql::parse(&query).map_err(|error| format!("{}, read as {query}", error.message))?;
        if query.group.is_some() || query.limit.is_some() || query.offset.is_some() || !query.order.is_empty() {
            return Err("a filter is a condition, and nothing else".to_owned());
        }
        let condition = query.filter.ok_or("a filter is a condition")?;
        let mut paths = BTreeMap::new();
        named(&condition, object, &mut paths)?;
        Ok(Self { condition, paths })
    }

    /// Returns the fields of the object that it names, as an event names them.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &String> {
        self.paths.values().filter(|path| !path.starts_with(HEADER))
    }

    /// True when it lets an event pass. One that tells no fields does.
    pub(super) fn lets_pass(&self, payload: &Value) -> bool {
        let kind = payload[HEADER]["changeType"].as_str().unwrap_or_default();
        kind.starts_with("GAP_") || self.holds(&self.condition, payload)
    }

    fn value<'p>(&self, left: &Expr, payload: &'p Value) -> &'p Value {
        let Expr::Field(name) = left else { return &Value::Null };
        let path = self.paths.get(&name.text.to_ascii_lowercase());
        path.map_or(&Value::Null, |path| path.split('.').fold(payload, |value, part| &value[part]))
    }

    fn holds(&self, condition: &Condition, payload: &Value) -> bool {
        match condition {
            Condition::And(all) => all.iter().all(|one| self.holds(one, payload)),
            Condition::Or(any) => any.iter().any(|one| self.holds(one, payload)),
            Condition::Not(one) => !self.holds(one, payload),
            Condition::Compare { left, op, right } => compare(self.value(left, payload), *op, right),
            Condition::In { left, negated, values } => {
                let value = self.value(left, payload);
                values.iter().any(|one| compare(value, Op::Equal, one)) != *negated
            }
            Condition::InQuery { .. } | Condition::Includes { .. } => false,
        }
    }
}

/// Notes where an event holds what a condition names.
fn named(condition: &Condition, object: &Object, paths: &mut BTreeMap<String, String>) -> Result<(), String> {
    let left = match condition {
        Condition::And(parts) | Condition::Or(parts) => {
            return parts.iter().try_for_each(|part| named(part, object, paths));
        }
        Condition::Not(part) => return named(part, object, paths),
        Condition::Compare { left, .. } | Condition::In { left, .. } => left,
        Condition::InQuery { .. } | Condition::Includes { .. } => {
            return Err("a filter has the operators =, !=, <, <=, >, >=, LIKE, IN and NOT IN".to_owned());
        }
    };
    let Expr::Field(name) = left else { return Err("a filter compares fields, and no functions of them".to_owned()) };
    let known = name.text.as_str();
    let header = known.split_once('.').filter(|(whole, _)| whole.eq_ignore_ascii_case(HEADER) && !object.is_event());
    let path = match header {
        Some((_, part)) if LISTS.iter().any(|list| list.eq_ignore_ascii_case(part)) => {
            return Err(format!("{known} is a list, which no filter can name"));
        }
        Some((_, part)) => format!("{HEADER}.{part}"),
        None => {
            let is = |path: &str| path.eq_ignore_ascii_case(known);
            let mut fields = object.stored().map(|field| (field, path_of(object, field)));
            let found = fields.find_map(|(field, (whole, part))| {
                let path = whole.map_or_else(|| part.clone(), |whole| format!("{whole}.{part}"));
                (is(&field.name) || is(&path)).then_some(path)
            });
            found.ok_or_else(|| format!("{} has no field {known}", object.name))?
        }
    };
    paths.insert(known.to_ascii_lowercase(), path);
    Ok(())
}

/// Compares as queries do: texts in any case, and what is empty is like nothing but what is empty.
fn compare(value: &Value, op: Op, with: &soql::Value) -> bool {
    use std::cmp::Ordering;
    let order = match (value, with) {
        (Value::Null, soql::Value::Null) => Some(Ordering::Equal),
        (Value::Bool(value), soql::Value::Boolean(with)) => Some(value.cmp(with)),
        (Value::Number(value), soql::Value::Number(with)) => {
            value.as_f64().zip(with.parse().ok()).and_then(|(value, with): (f64, f64)| value.partial_cmp(&with))
        }
        (Value::String(value), soql::Value::Text(with)) if op == Op::Like => {
            return is_like(&fold(with), &fold(value));
        }
        (Value::String(value), soql::Value::Text(with)) => Some(value.to_lowercase().cmp(&with.to_lowercase())),
        (Value::String(value), soql::Value::Date(with)) => Some(value.as_str().cmp(with)),
        (Value::String(value), soql::Value::DateTime(with)) => {
            moment(value).zip(moment(with)).map(|(value, with)| value.cmp(&with))
        }
        _ => None,
    };
    match op {
        Op::Equal => order == Some(Ordering::Equal),
        Op::NotEqual => order != Some(Ordering::Equal),
        Op::Less => order == Some(Ordering::Less),
        Op::LessOrEqual => order.is_some_and(Ordering::is_le),
        Op::Greater => order == Some(Ordering::Greater),
        Op::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        Op::Like => false,
    }
}

fn moment(text: &str) -> Option<i64> {
    let known =
        DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    known.ok().map(|moment| moment.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::compare;

    #[test]
    fn values_compare_as_in_queries() {
        let holds = |value: serde_json::Value, rest: &str| {
            let query = soql::parse(&format!("SELECT Id FROM A WHERE F {rest}")).ok()?;
            let Some(soql::Condition::Compare { op, right, .. }) = query.filter else { return None };
            Some(compare(&value, op, &right))
        };
        for (value, rest, expected) in [
            (json!("Oslo"), "= 'oslo'", true),
            (json!(null), "!= 'oslo'", true),
            (json!(null), "= null", true),
            (json!(null), "< 3", false),
            (json!(2.5), "< 3", true),
            (json!(3), ">= 3.0", true),
            (json!(true), "= TRUE", true),
            (json!("2026-02-03"), "> 2026-02-02", true),
            (json!("2026-02-03T10:00:00.000Z"), "= 2026-02-03T11:00:00+01:00", true),
        ] {
            assert_eq!(holds(value.clone(), rest), Some(expected), "{value} {rest}");
        }
    }
}
