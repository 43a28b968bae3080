//! Conditions.

use rusqlite::types::Value as Sql;
use soql::{Condition, Expr, Op, Query, Value};

use super::compile::{Compiler, is_aggregate_expr};
use super::expr::Operand;
use super::{Compiled, Failure, compile_query};
use crate::dates;
use crate::id;
use crate::schema::Kind;
use crate::value::{parse_datetime, stamp};

/// Most semi- and anti-joins in one query. Source: SOQL reference, "Semi-joins with IN".
const MAX_SEMI_JOINS: usize = 2;

impl Compiler<'_> {
    pub(super) fn condition(&mut self, condition: &Condition, params: &mut Vec<Sql>) -> Compiled<String> {
        match condition {
            Condition::And(parts) | Condition::Or(parts) => {
                let or = matches!(condition, Condition::Or(_));
                let semi_joins = self.semi_joins;
                let parts = parts.iter().map(|part| self.condition(part, params)).collect::<Compiled<Vec<_>>>()?;
                if or && self.semi_joins > semi_joins {
                    return Err(Failure::malformed(
                        "Semi join sub-selects are only allowed at the top level WHERE expressions and not in nested WHERE expressions.",
                    ));
                }
                Ok(format!("({})", parts.join(if or { " OR " } else { " AND " })))
            }
            // SQL's unknown counts as false before it is negated: rows with nulls stay in.
            Condition::Not(inner) => Ok(format!("(NOT COALESCE({},0))", self.condition(inner, params)?)),
            Condition::Compare { left, op, right } => self.compare(left, *op, right, params),
            Condition::In { left, negated, values } => self.listed(left, *negated, values, params),
            Condition::InQuery { left, negated, query } => self.semi_join(left, *negated, query, params),
            Condition::Includes { left, negated, values } => self.includes(left, *negated, values, params),
        }
    }

    fn listed(&mut self, left: &Expr, negated: bool, values: &[Value], params: &mut Vec<Sql>) -> Compiled<String> {
        let operand = self.filterable(left)?;
        if values.iter().any(|value| matches!(value, Value::Literal(_))) {
            let parts = values.iter().map(|value| self.compare(left, Op::Equal, value, params));
            let any = format!("({})", parts.collect::<Compiled<Vec<_>>>()?.join(" OR "));
            return Ok(if negated { format!("(NOT COALESCE({any},0))") } else { any });
        }
        let sql = &operand.sql;
        let mut marks = Vec::new();
        let mut with_null = false;
        for value in values {
            match constant(left, &operand, value)? {
                Sql::Null => with_null = true,
                value => {
                    params.push(value);
                    marks.push("?");
                }
            }
        }
        let listed = format!("{sql} IN ({})", marks.join(","));
        Ok(match (negated, with_null) {
            (false, true) => format!("({listed} OR {sql} IS NULL)"),
            (false, false) => listed,
            (true, true) => format!("(NOT ({listed}) AND {sql} IS NOT NULL)"),
            (true, false) => format!("({sql} IS NULL OR NOT ({listed}))"),
        })
    }

    fn semi_join(&mut self, left: &Expr, negated: bool, query: &Query, params: &mut Vec<Sql>) -> Compiled<String> {
        let operand = self.filterable(left)?;
        self.semi_joins += 1;
        if self.semi_joins > MAX_SEMI_JOINS {
            return Err(Failure::malformed(format!("maximum {MAX_SEMI_JOINS} semi join sub-selects are allowed")));
        }
        if !query.order.is_empty() || query.limit.is_some() || query.offset.is_some() || query.group.is_some() {
            return Err(Failure::malformed("Semi join sub-selects take no ORDER BY, LIMIT, OFFSET or GROUP BY"));
        }
        if query.from.object.text.eq_ignore_ascii_case(&self.root.name) {
            return Err(Failure::malformed("The inner and outer selects should not be on the same object type"));
        }
        if query.filter.as_ref().is_some_and(has_semi_join) {
            return Err(Failure::malformed("Nesting of semi join sub-selects is not supported"));
        }
        let is_reference = |kind: Kind| matches!(kind, Kind::Id | Kind::Reference);
        let inner = compile_query(self.context, query, 1)?;
        let Some((column, kind)) = inner.only_column() else {
            return Err(Failure::malformed("a semi join sub-select selects exactly one field"));
        };
        if !is_reference(operand.kind) || !is_reference(kind) {
            let message = format!(
                "The selected field in the subquery and the left operand field in the where expression in the outer query \
                 '{left}' should point to the same object type"
            );
            return Err(Failure::malformed(message));
        }
        let (sql, select) = (operand.sql, inner.semi_join(column));
        params.extend(inner.params.iter().cloned());
        Ok(if negated { format!("({sql} IS NULL OR {sql} NOT IN ({select}))") } else { format!("{sql} IN ({select})") })
    }

    /// `F INCLUDES ('A;B', 'C')`: both A and B, or C.
    fn includes(&mut self, left: &Expr, negated: bool, values: &[Value], params: &mut Vec<Sql>) -> Compiled<String> {
        let Operand { sql, kind, .. } = self.filterable(left)?;
        if kind != Kind::Multipicklist {
            let message =
                format!("invalid operator on field '{left}': INCLUDES and EXCLUDES take a multi-select picklist");
            return Err(Failure::at(left.offset(), "INVALID_QUERY_FILTER_OPERATOR", message));
        }
        let mut any = Vec::new();
        for value in values {
            let Value::Text(text) = value else {
                return Err(Failure::at(left.offset(), "INVALID_FIELD", "INCLUDES and EXCLUDES take texts"));
            };
            params.push(Sql::Text(text.clone()));
            any.push(format!("sf_includes({sql},?)"));
        }
        let any = format!("({})", any.join(" OR "));
        Ok(if negated { format!("({sql} IS NULL OR NOT {any})") } else { any })
    }

    fn filterable(&mut self, left: &Expr) -> Compiled<Operand> {
        let operand = self.expr(left)?;
        match &operand.field {
            Some(field) if !field.filterable() && !is_aggregate_expr(left) => {
                let message = format!("field '{}' can not be filtered in a query call", field.name);
                Err(Failure::at(left.offset(), "INVALID_FIELD", message))
            }
            _ => Ok(operand),
        }
    }

    fn compare(&mut self, left: &Expr, op: Op, right: &Value, params: &mut Vec<Sql>) -> Compiled<String> {
        let operand = self.filterable(left)?;
        let (sql, kind) = (&operand.sql, operand.kind);
        let operator = |word: &str| {
            Failure::at(left.offset(), "INVALID_QUERY_FILTER_OPERATOR", format!("invalid operator on {word} field"))
        };
        let equality = matches!(op, Op::Equal | Op::NotEqual);
        match kind {
            Kind::Boolean if !equality => return Err(operator("boolean")),
            Kind::Id | Kind::Reference if op == Op::Like => return Err(operator("id")),
            kind if op == Op::Like && !kind.textual() => return Err(operator(kind.word())),
            Kind::Double
                if left.to_string().to_uppercase().starts_with("DISTANCE(")
                    && !matches!(op, Op::Less | Op::Greater) =>
            {
                return Err(operator("distance"));
            }
            _ => {}
        }
        if let Value::Literal(literal) = right {
            if !matches!(kind, Kind::Date | Kind::Datetime) {
                return Err(wrong(left, kind));
            }
            return self.in_range(sql, kind, op, *literal, params);
        }
        if op == Op::Like {
            let Value::Text(pattern) = right else { return Err(wrong(left, kind)) };
            params.push(Sql::Text(pattern.clone()));
            return Ok(format!("{sql} LIKE ? ESCAPE '\\'"));
        }
        let value = constant(left, &operand, right)?;
        if value == Sql::Null {
            return match op {
                Op::Equal => Ok(format!("{sql} IS NULL")),
                Op::NotEqual => Ok(format!("{sql} IS NOT NULL")),
                _ => Err(Failure::at(left.offset(), "INVALID_FIELD", "null is compared only with = and !=")),
            };
        }
        params.push(value);
        Ok(match op {
            Op::NotEqual => format!("({sql} IS NULL OR {sql}<>?)"),
            _ => format!("{sql}{op}?"),
        })
    }

    /// Compares with a date literal, which is a range of days in the running user's time zone.
    fn in_range(
        &self,
        sql: &str,
        kind: Kind,
        op: Op,
        literal: soql::DateLiteral,
        params: &mut Vec<Sql>,
    ) -> Compiled<String> {
        let context = &self.context;
        let today = context.now.with_timezone(&context.zone).date_naive();
        let (from, to) = dates::range(literal, today, context.fiscal_start)
            .ok_or_else(|| Failure::plain("NUMBER_OUTSIDE_VALID_RANGE", "date literal out of range"))?;
        let (condition, edges) = match op {
            Op::Equal => (format!("({sql}>=? AND {sql}<?)"), vec![from, to]),
            Op::NotEqual => (format!("({sql} IS NULL OR {sql}<? OR {sql}>=?)"), vec![from, to]),
            Op::Less => (format!("{sql}<?"), vec![from]),
            Op::GreaterOrEqual => (format!("{sql}>=?"), vec![from]),
            Op::Greater => (format!("{sql}>=?"), vec![to]),
            Op::LessOrEqual | Op::Like => (format!("{sql}<?"), vec![to]),
        };
        let edge = |day: chrono::NaiveDate| match kind {
            Kind::Datetime => Sql::Text(stamp(dates::midnight(day, context.zone))),
            _ => Sql::Text(day.to_string()),
        };
        params.extend(edges.into_iter().map(edge));
        Ok(condition)
    }
}

fn has_semi_join(condition: &Condition) -> bool {
    match condition {
        Condition::And(parts) | Condition::Or(parts) => parts.iter().any(has_semi_join),
        Condition::Not(inner) => has_semi_join(inner),
        Condition::InQuery { .. } => true,
        Condition::Compare { .. } | Condition::In { .. } | Condition::Includes { .. } => false,
    }
}

/// The refusal of a constant of the wrong type.
fn wrong(left: &Expr, kind: Kind) -> Failure {
    let (word, quotes) = match kind {
        Kind::Datetime => ("dateTime", " and should not be enclosed in quotes"),
        Kind::Id | Kind::Reference => ("string", " and should be enclosed in quotes"),
        kind if kind.textual() => ("string", " and should be enclosed in quotes"),
        kind => (kind.word(), " and should not be enclosed in quotes"),
    };
    let message = format!("value of filter criterion for field '{left}' must be of type {word}{quotes}");
    Failure::at(left.offset(), "INVALID_FIELD", message)
}

/// Returns a constant as the table holds such values.
fn constant(left: &Expr, operand: &Operand, value: &Value) -> Compiled<Sql> {
    let kind = operand.kind;
    let misfit = || wrong(left, kind);
    Ok(match (value, kind) {
        (Value::Bind(name), _) => {
            return Err(Failure::at(name.offset, "MALFORMED_QUERY", "Bind variables only allowed in Apex code"));
        }
        (Value::Null, _) => Sql::Null,
        (Value::Boolean(flag), Kind::Boolean) => Sql::Integer(i64::from(*flag)),
        (Value::Text(text), Kind::Id | Kind::Reference) => {
            if text.is_empty() {
                return Ok(Sql::Null);
            }
            let id = id::normal(text).ok_or_else(|| {
                Failure::at(left.offset(), "INVALID_QUERY_FILTER_OPERATOR", format!("invalid ID field: {text}"))
            })?;
            Sql::Text(id)
        }
        (Value::Text(text), Kind::Multipicklist) => match &operand.field {
            Some(field) => Sql::Text(field.in_order(text)),
            None => Sql::Text(text.clone()),
        },
        // There is no empty text: it is stored as null.
        (Value::Text(text), kind) if kind.textual() && text.is_empty() => Sql::Null,
        (Value::Text(text), kind) if kind.textual() => Sql::Text(text.clone()),
        (Value::Number(text) | Value::Currency { amount: text, .. }, kind) if kind.numeric() => {
            let number: f64 = text.parse().map_err(|_| misfit())?;
            if kind == Kind::Int && number.fract() == 0.0 { Sql::Integer(number as i64) } else { Sql::Real(number) }
        }
        (Value::DateTime(text), Kind::Datetime) => Sql::Text(stamp(parse_datetime(text).ok_or_else(misfit)?)),
        (Value::Date(text), Kind::Date) => Sql::Text(text.clone()),
        (Value::Time(text), Kind::Time) => Sql::Text(text.clone()),
        _ => return Err(misfit()),
    })
}
