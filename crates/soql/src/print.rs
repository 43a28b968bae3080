//! Syntax tree to text.

use std::fmt::{Display, Formatter, Result, Write as _};

use crate::{
    Condition, DateLiteral, Direction, Expr, Grouping, Item, Name, Nulls, Op, Order, Query, Reach, Source, TypeOf,
    Value,
};

/// Returns `text` as a SOQL literal, quotes included.
///
/// ```
/// assert_eq!(soql::quote("O'Neil\n"), r"'O\'Neil\n'");
/// ```
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("\\'"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// A pattern keeps the backslash of a wildcard that stands for itself.
fn quote_pattern(text: &str) -> String {
    quote(text).replace("\\\\_", "\\_").replace("\\\\%", "\\%")
}

pub(crate) fn list<T: Display>(f: &mut Formatter<'_>, items: impl IntoIterator<Item = T>) -> Result {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&self.text)
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.object)?;
        self.alias.iter().try_for_each(|alias| write!(f, " {alias}"))
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("SELECT ")?;
        list(f, &self.select)?;
        write!(f, " FROM {}", self.from)?;
        self.also.iter().try_for_each(|source| write!(f, ", {source}"))?;
        self.scope.iter().try_for_each(|scope| write!(f, " USING SCOPE {scope}"))?;
        self.filter.iter().try_for_each(|filter| write!(f, " WHERE {filter}"))?;
        self.with.iter().try_for_each(|with| write!(f, " WITH {with}"))?;
        self.group.iter().try_for_each(|group| write!(f, " GROUP BY {group}"))?;
        self.having.iter().try_for_each(|having| write!(f, " HAVING {having}"))?;
        if !self.order.is_empty() {
            f.write_str(" ORDER BY ")?;
            list(f, &self.order)?;
        }
        self.limit.iter().try_for_each(|limit| write!(f, " LIMIT {limit}"))?;
        self.offset.iter().try_for_each(|offset| write!(f, " OFFSET {offset}"))?;
        if self.all_rows {
            f.write_str(" ALL ROWS")?;
        }
        self.purposes.iter().try_for_each(|purpose| write!(f, " FOR {purpose}"))?;
        if !self.updates.is_empty() {
            f.write_str(" UPDATE ")?;
            list(f, &self.updates)?;
        }
        Ok(())
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Expr { expr, alias } => {
                write!(f, "{expr}")?;
                alias.iter().try_for_each(|alias| write!(f, " {alias}"))
            }
            Self::Children(query) => write!(f, "({query})"),
            Self::TypeOf(typed) => write!(f, "{typed}"),
            Self::Fields { reach, .. } => f.write_str(match reach {
                Reach::All => "FIELDS(ALL)",
                Reach::Standard => "FIELDS(STANDARD)",
                Reach::Custom => "FIELDS(CUSTOM)",
            }),
        }
    }
}

impl Display for TypeOf {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "TYPEOF {}", self.path)?;
        for (object, fields) in &self.when {
            write!(f, " WHEN {object} THEN ")?;
            list(f, fields)?;
        }
        if !self.otherwise.is_empty() {
            f.write_str(" ELSE ")?;
            list(f, &self.otherwise)?;
        }
        f.write_str(" END")
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Field(name) => write!(f, "{name}"),
            Self::Call { name, args } => {
                write!(f, "{name}(")?;
                list(f, args)?;
                f.write_char(')')
            }
            Self::Constant(value) => write!(f, "{value}"),
        }
    }
}

impl Display for Grouping {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (before, after) = match self {
            Self::By(_) => ("", ""),
            Self::Rollup(_) => ("ROLLUP(", ")"),
            Self::Cube(_) => ("CUBE(", ")"),
        };
        f.write_str(before)?;
        list(f, self.fields())?;
        f.write_str(after)
    }
}

impl Display for Order {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.expr)?;
        match self.direction {
            Some(Direction::Asc) => f.write_str(" ASC")?,
            Some(Direction::Desc) => f.write_str(" DESC")?,
            None => {}
        }
        match self.nulls {
            Some(Nulls::First) => f.write_str(" NULLS FIRST"),
            Some(Nulls::Last) => f.write_str(" NULLS LAST"),
            None => Ok(()),
        }
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Like => "LIKE",
        })
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let joined = |f: &mut Formatter<'_>, parts: &[Self], word: &str| {
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    f.write_str(word)?;
                }
                match part {
                    Self::And(_) | Self::Or(_) => write!(f, "({part})")?,
                    _ => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::And(parts) => joined(f, parts, " AND "),
            Self::Or(parts) => joined(f, parts, " OR "),
            Self::Not(inner) => match inner.as_ref() {
                Self::And(_) | Self::Or(_) | Self::Not(_) => write!(f, "NOT ({inner})"),
                _ => write!(f, "NOT {inner}"),
            },
            Self::Compare { left, op: Op::Like, right: Value::Text(pattern) } => {
                write!(f, "{left} LIKE {}", quote_pattern(pattern))
            }
            Self::Compare { left, op, right } => write!(f, "{left} {op} {right}"),
            Self::In { left, negated, values } => {
                write!(f, "{left} {}IN (", if *negated { "NOT " } else { "" })?;
                list(f, values)?;
                f.write_char(')')
            }
            Self::InQuery { left, negated, query } => {
                write!(f, "{left} {}IN ({query})", if *negated { "NOT " } else { "" })
            }
            Self::Includes { left, negated, values } => {
                write!(f, "{left} {} (", if *negated { "EXCLUDES" } else { "INCLUDES" })?;
                list(f, values)?;
                f.write_char(')')
            }
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Boolean(true) => f.write_str("TRUE"),
            Self::Boolean(false) => f.write_str("FALSE"),
            Self::Number(text) | Self::Date(text) | Self::DateTime(text) | Self::Time(text) => f.write_str(text),
            Self::Text(text) => f.write_str(&quote(text)),
            Self::Literal(literal) => write!(f, "{literal}"),
            Self::Currency { iso, amount } => write!(f, "{iso}{amount}"),
            Self::Bind(name) => write!(f, ":{name}"),
        }
    }
}

impl Display for DateLiteral {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Yesterday => f.write_str("YESTERDAY"),
            Self::Today => f.write_str("TODAY"),
            Self::Tomorrow => f.write_str("TOMORROW"),
            Self::Last90Days => f.write_str("LAST_90_DAYS"),
            Self::Next90Days => f.write_str("NEXT_90_DAYS"),
            Self::Last(unit) => write!(f, "LAST_{}", unit.word()),
            Self::This(unit) => write!(f, "THIS_{}", unit.word()),
            Self::Next(unit) => write!(f, "NEXT_{}", unit.word()),
            Self::LastN(unit, n) => write!(f, "LAST_N_{}S:{n}", unit.word()),
            Self::NextN(unit, n) => write!(f, "NEXT_N_{}S:{n}", unit.word()),
            Self::Ago(unit, n) => write!(f, "N_{}S_AGO:{n}", unit.word()),
        }
    }
}
