//! SOQL compiled to SQL.
//!
//! A query runs in two steps: first the row numbers of all matching records, in order, which is what a
//! cursor holds; then the columns of one page at a time, with children of the whole page at once.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, Row, params_from_iter};
use serde_json::{Map, Value, json};
use soql::{Condition, Direction, Expr, Grouping, Item, Nulls, Op, Query, Reach, Source};

use crate::dates;
use crate::error::{Answered, ApiError};
use crate::id;
use crate::schema::{Field, Kind, Object, Schema};
use crate::store::quoted;
use crate::value::{csv_text, json as json_value, parse_datetime, stamp};

/// Most groups that one answer holds. Source: SOQL reference, aggregates do not page.
const MAX_GROUPS: usize = 2000;
/// Largest `OFFSET`.
const MAX_OFFSET: u64 = 2000;
/// Row numbers bound in one statement; SQLite takes 32,766.
const ROWS_PER_STATEMENT: usize = 8000;

/// What a query compiles against.
#[derive(Clone, Copy)]
pub(crate) struct Context<'o> {
    pub(crate) schema: &'o Schema,
    pub(crate) connection: &'o Connection,
    pub(crate) now: DateTime<Utc>,
    /// The version in links, such as `v66.0`.
    pub(crate) version: &'o str,
    /// True for `queryAll`.
    pub(crate) deleted: bool,
}

/// A compiled query, ready to give pages of records.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    object: String,
    from: String,
    columns: Vec<String>,
    shape: Vec<Slot>,
    filter: String,
    params: Vec<Sql>,
    order: String,
    limit: Option<u64>,
    offset: Option<u64>,
    aggregate: bool,
    group: String,
    having: String,
    having_params: Vec<Sql>,
    count_only: bool,
}

/// One key of a record in the answer.
#[derive(Debug, Clone)]
enum Slot {
    Value { key: String, column: usize, kind: Kind },
    Address { key: String, parts: Vec<(String, usize, Kind)> },
    Parent { key: String, types: Vec<(String, usize)>, slots: Vec<Slot> },
    Children { key: String, plan: Box<Plan> },
}

/// Reads `text` and compiles it.
pub(crate) fn compile(context: Context<'_>, text: &str) -> Answered<Plan> {
    let query = soql::parse(text).map_err(|error| ApiError::new(400, "MALFORMED_QUERY", error.message))?;
    compile_query(context, &query).map_err(|failure| failure.into_error(text))
}

/// A refusal with its place in the query.
struct Failure {
    offset: Option<usize>,
    code: &'static str,
    message: String,
}

impl Failure {
    fn at(offset: usize, code: &'static str, message: impl Into<String>) -> Self {
        Self { offset: Some(offset), code, message: message.into() }
    }

    fn plain(code: &'static str, message: impl Into<String>) -> Self {
        Self { offset: None, code, message: message.into() }
    }

    /// Adds the block that shows the place with a caret.
    fn into_error(self, text: &str) -> ApiError {
        let Some(offset) = self.offset else { return ApiError::new(400, self.code, self.message) };
        let (row, column) = soql::row_column(text, offset);
        let line = text.lines().nth(row - 1).unwrap_or_default();
        let block = format!(
            "\n{line}\n{}^\nERROR at Row:{row}:Column:{column}\n{}",
            " ".repeat(column.saturating_sub(1)),
            self.message
        );
        ApiError::new(400, self.code, block)
    }
}

type Compiled<T> = Result<T, Failure>;

fn compile_query(context: Context<'_>, query: &Query) -> Compiled<Plan> {
    let object = context.schema.object(&query.from.object.text).ok_or_else(|| {
        Failure::at(
            query.from.object.offset,
            "INVALID_TYPE",
            format!(
                "sObject type '{}' is not supported. If you are attempting to use a custom object, be sure to append the \
                 '__c' after the entity name. Please reference your WSDL or the describe call for the appropriate names.",
                query.from.object.text
            ),
        )
    })?;
    Compiler::new(context, object, query)?.compile(query, None)
}

/// A table in the FROM clause.
struct Table<'o> {
    object: &'o Object,
    alias: String,
}

struct Compiler<'o> {
    context: Context<'o>,
    root: &'o Object,
    /// Root first; joins follow in the order they are met.
    tables: Vec<Table<'o>>,
    joins: String,
    /// Path in lower case to the tables it leads to: one, or several for a polymorphic reference.
    paths: HashMap<String, Vec<usize>>,
    aliases: HashMap<String, String>,
    columns: Vec<String>,
}

impl<'o> Compiler<'o> {
    fn new(context: Context<'o>, root: &'o Object, query: &Query) -> Compiled<Self> {
        let mut aliases = HashMap::new();
        if let Some(alias) = &query.from.alias {
            aliases.insert(alias.to_lowercase(), String::new());
        }
        let mut compiler = Self {
            context,
            root,
            tables: vec![Table { object: root, alias: "t0".to_owned() }],
            joins: String::new(),
            paths: HashMap::from([(String::new(), vec![0])]),
            aliases,
            columns: Vec::new(),
        };
        for Source { object, alias } in &query.also {
            let path = compiler.unaliased(&object.text);
            compiler.tables_at(&path, object.offset)?;
            if let Some(alias) = alias {
                compiler.aliases.insert(alias.to_lowercase(), path);
            }
        }
        Ok(compiler)
    }

    /// Replaces an alias, or the name of the root object, at the head of a path.
    fn unaliased(&self, path: &str) -> String {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        match (self.aliases.get(&head.to_lowercase()), rest) {
            (Some(stem), Some(rest)) if stem.is_empty() => rest.to_owned(),
            (Some(stem), Some(rest)) => format!("{stem}.{rest}"),
            (None, Some(rest)) if head.eq_ignore_ascii_case(&self.root.name) && self.root.parent(head).is_none() => {
                rest.to_owned()
            }
            _ => path.to_owned(),
        }
    }

    /// Returns the tables that a relationship path leads to, joining them where that is new.
    fn tables_at(&mut self, path: &str, offset: usize) -> Compiled<Vec<usize>> {
        let key = path.to_lowercase();
        if let Some(known) = self.paths.get(&key) {
            return Ok(known.clone());
        }
        let (stem, step) = path.rsplit_once('.').unwrap_or(("", path));
        let from = self.tables_at(stem, offset)?;
        let mut reached = Vec::new();
        for table in from {
            let Table { object, alias } = &self.tables[table];
            let (object, alias) = (*object, alias.clone());
            let Some(field) = object.parent(step) else { continue };
            for target in &field.targets {
                let Some(target) = self.context.schema.object(target) else { continue };
                let joined = format!("t{}", self.tables.len());
                self.joins.push_str(&format!(
                    " LEFT JOIN {} {joined} ON {joined}.\"Id\"={alias}.{}",
                    quoted(&target.name),
                    quoted(&field.name)
                ));
                reached.push(self.tables.len());
                self.tables.push(Table { object: target, alias: joined });
            }
        }
        if reached.is_empty() {
            return Err(Failure::at(
                offset,
                "INVALID_FIELD",
                format!(
                    "Didn't understand relationship '{step}' in field path. If you are attempting to use a custom \
                     relationship, be sure to append the '__r' after the custom relationship name. Please reference your \
                     WSDL or the describe call for the appropriate names."
                ),
            ));
        }
        self.paths.insert(key, reached.clone());
        Ok(reached)
    }

    /// Returns the SQL of a field path and the field it ends in.
    fn field(&mut self, name: &soql::Name) -> Compiled<(String, Field)> {
        let path = self.unaliased(&name.text);
        let (stem, last) = path.rsplit_once('.').unwrap_or(("", &path));
        let tables = self.tables_at(stem, name.offset)?;
        if last.eq_ignore_ascii_case("type") && tables.len() > 1 {
            return Ok((self.type_of(&tables), Field::new("Type", "Type", Kind::String)));
        }
        let found: Vec<(String, &'o Field)> = tables
            .iter()
            .filter_map(|table| {
                let Table { object, alias } = &self.tables[*table];
                let field = object.field(last)?;
                Some((format!("{alias}.{}", quoted(&field.name)), field))
            })
            .collect();
        let Some((first, field)) = found.first() else {
            let entity = tables.first().map_or("", |table| self.tables[*table].object.name.as_str());
            return Err(Failure::at(
                name.offset,
                "INVALID_FIELD",
                format!(
                    "No such column '{last}' on entity '{entity}'. If you are attempting to use a custom field, be sure to \
                     append the '__c' after the custom field name. Please reference your WSDL or the describe call for the \
                     appropriate names."
                ),
            ));
        };
        let sql = if found.len() == 1 {
            first.clone()
        } else {
            let all: Vec<&str> = found.iter().map(|(sql, _)| sql.as_str()).collect();
            format!("COALESCE({})", all.join(","))
        };
        Ok((sql, (*field).clone()))
    }

    /// SQL for the name of the object that a polymorphic reference points to.
    fn type_of(&self, tables: &[usize]) -> String {
        let cases: String = tables
            .iter()
            .map(|table| {
                let Table { object, alias } = &self.tables[*table];
                format!(" WHEN {alias}.\"Id\" IS NOT NULL THEN '{}'", object.name)
            })
            .collect();
        format!("CASE{cases} END")
    }

    fn column(&mut self, sql: String) -> usize {
        if let Some(known) = self.columns.iter().position(|column| *column == sql) {
            return known;
        }
        self.columns.push(sql);
        self.columns.len() - 1
    }

    /// SQL of a field or function, with the type of its value.
    fn expr(&mut self, expr: &Expr) -> Compiled<(String, Kind)> {
        match expr {
            Expr::Field(name) => {
                let (sql, field) = self.field(name)?;
                if field.kind.compound() {
                    let message = format!("field '{}' can not be filtered in a query call", field.name);
                    return Err(Failure::at(name.offset, "INVALID_FIELD", message));
                }
                Ok((sql, field.kind))
            }
            Expr::Call { name, args } => self.call(name, args),
            Expr::Constant(_) => Err(Failure::plain("MALFORMED_QUERY", "unexpected constant")),
        }
    }

    fn call(&mut self, name: &soql::Name, args: &[Expr]) -> Compiled<(String, Kind)> {
        let function = name.text.to_uppercase();
        let argument = match args {
            [] if function == "COUNT" => return Ok(("COUNT(*)".to_owned(), Kind::Int)),
            [only] => only,
            _ => {
                return Err(Failure::at(
                    name.offset,
                    "MALFORMED_QUERY",
                    format!("unexpected arguments of {}", name.text),
                ));
            }
        };
        let (sql, kind) = self.expr(argument)?;
        let part = |format: &str| Ok((format!("CAST(strftime('{format}',{sql}) AS INTEGER)"), Kind::Int));
        match function.as_str() {
            "COUNT" => Ok((format!("COUNT({sql})"), Kind::Int)),
            "COUNT_DISTINCT" => Ok((format!("COUNT(DISTINCT {sql})"), Kind::Int)),
            "MIN" | "MAX" => Ok((format!("{function}({sql})"), kind)),
            "SUM" | "AVG" if kind.numeric() => {
                let kind = if function == "AVG" { Kind::Double } else { kind };
                Ok((format!("{function}({sql})"), kind))
            }
            "SUM" | "AVG" => {
                let message = format!("field {argument} does not support aggregate operator {function}");
                Err(Failure::at(name.offset, "MALFORMED_QUERY", message))
            }
            "TOLABEL" | "FORMAT" | "CONVERTCURRENCY" | "CONVERTTIMEZONE" => Ok((sql, kind)),
            "CALENDAR_YEAR" | "FISCAL_YEAR" => part("%Y"),
            "CALENDAR_MONTH" | "FISCAL_MONTH" => part("%m"),
            "CALENDAR_QUARTER" | "FISCAL_QUARTER" => {
                Ok((format!("((CAST(strftime('%m',{sql}) AS INTEGER)+2)/3)"), Kind::Int))
            }
            "DAY_IN_MONTH" => part("%d"),
            "DAY_IN_WEEK" => Ok((format!("(CAST(strftime('%w',{sql}) AS INTEGER)+1)"), Kind::Int)),
            "DAY_IN_YEAR" => part("%j"),
            "DAY_ONLY" => Ok((format!("date({sql})"), Kind::Date)),
            "HOUR_IN_DAY" => part("%H"),
            "WEEK_IN_MONTH" => Ok((format!("((CAST(strftime('%d',{sql}) AS INTEGER)+6)/7)"), Kind::Int)),
            "WEEK_IN_YEAR" => Ok((format!("((CAST(strftime('%j',{sql}) AS INTEGER)+6)/7)"), Kind::Int)),
            _ => Err(Failure::at(name.offset, "MALFORMED_QUERY", format!("Unknown function: {}", name.text))),
        }
    }

    fn condition(&mut self, condition: &Condition, params: &mut Vec<Sql>) -> Compiled<String> {
        match condition {
            Condition::And(parts) | Condition::Or(parts) => {
                let word = if matches!(condition, Condition::And(_)) { " AND " } else { " OR " };
                let parts = parts.iter().map(|part| self.condition(part, params)).collect::<Compiled<Vec<_>>>()?;
                Ok(format!("({})", parts.join(word)))
            }
            // SQL's unknown counts as false before it is negated: rows with nulls stay in.
            Condition::Not(inner) => Ok(format!("(NOT COALESCE({},0))", self.condition(inner, params)?)),
            Condition::Compare { left, op, right } => self.compare(left, *op, right, params),
            Condition::In { left, negated, values } => {
                let (sql, kind) = self.filterable(left)?;
                let mut marks = Vec::new();
                let mut with_null = false;
                for value in values {
                    if let soql::Value::Literal(_) = value {
                        let parts = values
                            .iter()
                            .map(|value| self.compare(left, Op::Equal, value, params))
                            .collect::<Compiled<Vec<_>>>()?;
                        let any = format!("({})", parts.join(" OR "));
                        return Ok(if *negated { format!("(NOT COALESCE({any},0))") } else { any });
                    }
                    match self.constant(left, kind, value)? {
                        Sql::Null => with_null = true,
                        value => {
                            params.push(value);
                            marks.push("?");
                        }
                    }
                }
                let listed = format!("{sql} IN ({})", marks.join(","));
                Ok(match (*negated, with_null) {
                    (false, true) => format!("({listed} OR {sql} IS NULL)"),
                    (false, false) => listed,
                    (true, true) => format!("(NOT ({listed}) AND {sql} IS NOT NULL)"),
                    (true, false) => format!("({sql} IS NULL OR NOT ({listed}))"),
                })
            }
            Condition::InQuery { left, negated, query } => {
                let (sql, _) = self.filterable(left)?;
                let inner = compile_query(self.context, query)?;
                if inner.columns.is_empty() || inner.shape.len() != 1 {
                    return Err(Failure::plain("MALFORMED_QUERY", "a semi-join selects exactly one field"));
                }
                params.extend(inner.params.iter().cloned());
                let select = format!(
                    "SELECT {} FROM {} WHERE {} AND {} IS NOT NULL",
                    inner.columns[0], inner.from, inner.filter, inner.columns[0]
                );
                Ok(if *negated {
                    format!("({sql} IS NULL OR {sql} NOT IN ({select}))")
                } else {
                    format!("{sql} IN ({select})")
                })
            }
            Condition::Includes { left, negated, values } => {
                let (sql, _) = self.filterable(left)?;
                let mut any = Vec::new();
                for value in values {
                    let soql::Value::Text(text) = value else {
                        return Err(Failure::at(left.offset(), "INVALID_FIELD", "INCLUDES and EXCLUDES take texts"));
                    };
                    let mut all = Vec::new();
                    for one in text.split(';') {
                        params.push(Sql::Text(format!(";{one};")));
                        all.push(format!("INSTR(LOWER(';'||{sql}||';'),LOWER(?))>0"));
                    }
                    any.push(format!("({})", all.join(" AND ")));
                }
                let any = format!("({})", any.join(" OR "));
                Ok(if *negated { format!("({sql} IS NULL OR NOT {any})") } else { any })
            }
        }
    }

    fn filterable(&mut self, left: &Expr) -> Compiled<(String, Kind)> {
        if let Expr::Field(name) = left {
            let (_, field) = self.field(name)?;
            if !field.filterable() {
                let message = format!("field '{}' can not be filtered in a query call", field.name);
                return Err(Failure::at(name.offset, "INVALID_FIELD", message));
            }
        }
        self.expr(left)
    }

    fn compare(&mut self, left: &Expr, op: Op, right: &soql::Value, params: &mut Vec<Sql>) -> Compiled<String> {
        let (sql, kind) = self.filterable(left)?;
        if let soql::Value::Literal(literal) = right {
            let (from, to) = dates::range(*literal, self.context.now)
                .ok_or_else(|| Failure::plain("NUMBER_OUTSIDE_VALID_RANGE", "date literal out of range"))?;
            let edge = |day: chrono::NaiveDate| {
                let suffix = if kind == Kind::Datetime { "T00:00:00.000Z" } else { "" };
                Sql::Text(format!("{day}{suffix}"))
            };
            let (condition, edges) = match op {
                Op::Equal => (format!("({sql}>=? AND {sql}<?)"), vec![from, to]),
                Op::NotEqual => (format!("({sql} IS NULL OR {sql}<? OR {sql}>=?)"), vec![from, to]),
                Op::Less => (format!("{sql}<?"), vec![from]),
                Op::GreaterOrEqual => (format!("{sql}>=?"), vec![from]),
                Op::Greater => (format!("{sql}>=?"), vec![to]),
                Op::LessOrEqual => (format!("{sql}<?"), vec![to]),
                Op::Like => return Err(Failure::at(left.offset(), "INVALID_FIELD", "invalid operator on date field")),
            };
            params.extend(edges.into_iter().map(edge));
            return Ok(condition);
        }
        if op == Op::Like {
            let soql::Value::Text(pattern) = right else {
                return Err(Failure::at(left.offset(), "INVALID_QUERY_FILTER_OPERATOR", "LIKE takes a text"));
            };
            params.push(Sql::Text(pattern.clone()));
            return Ok(format!("{sql} LIKE ? ESCAPE '\\'"));
        }
        let value = self.constant(left, kind, right)?;
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

    /// Returns a constant as the table holds such values.
    fn constant(&self, left: &Expr, kind: Kind, value: &soql::Value) -> Compiled<Sql> {
        let wrong = |expected: &str, quotes: &str| {
            let message = format!("value of filter criterion for field '{left}' must be of type {expected}{quotes}");
            Failure::at(left.offset(), "INVALID_FIELD", message)
        };
        let unquoted = " and should not be enclosed in quotes";
        Ok(match (value, kind) {
            (soql::Value::Null, _) => Sql::Null,
            (soql::Value::Boolean(flag), Kind::Boolean) => Sql::Integer(i64::from(*flag)),
            (_, Kind::Boolean) => return Err(wrong("boolean", unquoted)),
            (soql::Value::Text(text), Kind::Id | Kind::Reference) => {
                if text.is_empty() {
                    return Ok(Sql::Null);
                }
                let id = id::normal(text).ok_or_else(|| {
                    Failure::at(left.offset(), "INVALID_QUERY_FILTER_OPERATOR", format!("invalid ID field: {text}"))
                })?;
                Sql::Text(id)
            }
            (soql::Value::Text(text), kind) if kind.textual() => Sql::Text(text.clone()),
            (_, kind) if kind.textual() => return Err(wrong("string", " and should be enclosed in quotes")),
            (soql::Value::Number(text) | soql::Value::Currency { amount: text, .. }, kind) if kind.numeric() => {
                let number: f64 = text.parse().map_err(|_| wrong(kind.word(), ""))?;
                if kind == Kind::Int && number.fract() == 0.0 { Sql::Integer(number as i64) } else { Sql::Real(number) }
            }
            (_, kind) if kind.numeric() => return Err(wrong(kind.word(), unquoted)),
            (soql::Value::DateTime(text), Kind::Datetime) => {
                let time = parse_datetime(text).ok_or_else(|| wrong("dateTime", unquoted))?;
                Sql::Text(stamp(time))
            }
            (soql::Value::Date(text), Kind::Date) => Sql::Text(text.clone()),
            (soql::Value::Time(text), Kind::Time) => Sql::Text(text.clone()),
            (_, Kind::Datetime) => return Err(wrong("dateTime", unquoted)),
            (_, kind) => return Err(wrong(kind.word(), unquoted)),
        })
    }

    fn compile(mut self, query: &Query, parent: Option<&Field>) -> Compiled<Plan> {
        if query.offset.is_some_and(|offset| offset > MAX_OFFSET) {
            return Err(Failure::plain(
                "NUMBER_OUTSIDE_VALID_RANGE",
                format!("Maximum SOQL offset allowed is {MAX_OFFSET}"),
            ));
        }
        let count_only = is_count(query);
        let aggregate = query.group.is_some() || query.select.iter().any(is_aggregate);
        let shape = if count_only {
            Vec::new()
        } else if aggregate {
            self.grouped(query)?
        } else {
            self.ungrouped(query)?
        };
        let mut params = Vec::new();
        let mut filter = match &query.filter {
            Some(filter) => self.condition(filter, &mut params)?,
            None => "1".to_owned(),
        };
        if !self.root.setup && !self.context.deleted && !query.all_rows {
            filter.push_str(" AND t0.\"IsDeleted\"=0");
        }
        let group = match &query.group {
            Some(Grouping::By(fields)) => {
                let fields = fields.iter().map(|field| Ok(self.expr(field)?.0)).collect::<Compiled<Vec<_>>>()?;
                format!(" GROUP BY {}", fields.join(","))
            }
            Some(Grouping::Rollup(_) | Grouping::Cube(_)) => {
                return Err(Failure::plain(
                    "MALFORMED_QUERY",
                    "GROUP BY ROLLUP and CUBE are not supported by the sandbox yet",
                ));
            }
            None => String::new(),
        };
        let mut having_params = Vec::new();
        let having = match &query.having {
            Some(having) => format!(" HAVING {}", self.condition(having, &mut having_params)?),
            None => String::new(),
        };
        let mut order = Vec::new();
        for term in &query.order {
            let (sql, _) = self.expr(&term.expr)?;
            let direction = if term.direction == Some(Direction::Desc) { "DESC" } else { "ASC" };
            let nulls = if term.nulls == Some(Nulls::Last) { "LAST" } else { "FIRST" };
            order.push(format!("{sql} {direction} NULLS {nulls}"));
        }
        if !aggregate {
            order.push("t0._rid".to_owned());
        }
        if let Some(parent) = parent {
            self.columns.push(format!("t0.{}", quoted(&parent.name)));
        }
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(",")) };
        Ok(Plan {
            object: self.root.name.clone(),
            from: format!("{} t0{}", quoted(&self.root.name), self.joins),
            columns: self.columns,
            shape,
            filter,
            params,
            order,
            limit: query.limit,
            offset: query.offset,
            aggregate,
            group,
            having,
            having_params,
            count_only,
        })
    }

    fn grouped(&mut self, query: &Query) -> Compiled<Vec<Slot>> {
        let groups: Vec<String> = query
            .group
            .iter()
            .flat_map(Grouping::fields)
            .map(|field| Ok(self.expr(field)?.0))
            .collect::<Compiled<_>>()?;
        let mut slots = Vec::new();
        let mut unnamed = 0;
        for item in &query.select {
            let Item::Expr { expr, alias } = item else {
                return Err(Failure::plain(
                    "MALFORMED_QUERY",
                    "Grouped query cannot use child relationships in the SELECT list",
                ));
            };
            let (sql, kind) = self.expr(expr)?;
            if !is_aggregate_expr(expr) && !groups.contains(&sql) {
                let message = format!("Field must be grouped or aggregated: {expr}");
                return Err(Failure::at(expr.offset(), "MALFORMED_QUERY", message));
            }
            let key = match (alias, expr) {
                (Some(alias), _) => alias.clone(),
                (None, Expr::Field(name)) => name.last().to_owned(),
                (None, _) => {
                    unnamed += 1;
                    format!("expr{}", unnamed - 1)
                }
            };
            let column = self.column(sql);
            slots.push(Slot::Value { key, column, kind });
        }
        Ok(slots)
    }

    fn ungrouped(&mut self, query: &Query) -> Compiled<Vec<Slot>> {
        let mut slots = Vec::new();
        for item in &query.select {
            match item {
                Item::Expr { expr: Expr::Field(name), .. } => self.select(&mut slots, name)?,
                Item::Expr { expr, alias } => {
                    let (sql, kind) = self.expr(expr)?;
                    let inner = match expr {
                        Expr::Call { args, .. } => args.first().map(ToString::to_string),
                        _ => None,
                    };
                    let key = alias.clone().or(inner).unwrap_or_else(|| expr.to_string());
                    let column = self.column(sql);
                    slots.push(Slot::Value { key, column, kind });
                }
                Item::Fields { reach, .. } => {
                    if *reach != Reach::Standard && query.limit.is_none_or(|limit| limit > 200) {
                        return Err(Failure::plain(
                            "MALFORMED_QUERY",
                            "The SOQL FIELDS function must have a LIMIT of at most 200",
                        ));
                    }
                    for field in &self.root.fields {
                        let wanted = match reach {
                            Reach::All => true,
                            Reach::Standard => !field.custom,
                            Reach::Custom => field.custom,
                        };
                        if wanted {
                            self.select(&mut slots, &soql::Name::new(&field.name))?;
                        }
                    }
                }
                Item::Children(inner) => {
                    let slot = self.children(inner)?;
                    slots.push(slot);
                }
                Item::TypeOf(_) => {
                    return Err(Failure::plain("MALFORMED_QUERY", "TYPEOF is not supported by the sandbox yet"));
                }
            }
        }
        Ok(slots)
    }

    fn children(&mut self, inner: &Query) -> Compiled<Slot> {
        let name = &inner.from.object;
        let Some((object, field)) = self.context.schema.child(&self.root.name, &name.text) else {
            return Err(Failure::at(
                name.offset,
                "INVALID_TYPE",
                format!(
                    "Didn't understand relationship '{}' in FROM part of query call. If you are attempting to use a custom \
                     relationship, be sure to append the '__r' after the custom relationship name. Please reference your \
                     WSDL or the describe call for the appropriate names.",
                    name.text
                ),
            ));
        };
        let key = field.children.clone().unwrap_or_else(|| name.text.clone());
        let plan = Compiler::new(self.context, object, inner)?.compile(inner, Some(field))?;
        // Children are found by the id of their parent.
        self.column("t0.\"Id\"".to_owned());
        Ok(Slot::Children { key, plan: Box::new(plan) })
    }

    /// Adds a field path to the answer, inside the objects of its relationships.
    fn select(&mut self, slots: &mut Vec<Slot>, name: &soql::Name) -> Compiled<()> {
        let path = self.unaliased(&name.text);
        let (sql, field) = self.field(name)?;
        let steps: Vec<&str> = path.split('.').collect();
        let (last, parents) = steps.split_last().unwrap_or((&"", &[]));
        let _ = last;
        let mut place = slots;
        let mut stem = String::new();
        for step in parents {
            let owner = self.tables_at(&stem, name.offset)?;
            let key = owner
                .iter()
                .find_map(|table| self.tables[*table].object.parent(step)?.relationship.clone())
                .unwrap_or_else(|| (*step).to_owned());
            stem = if stem.is_empty() { (*step).to_owned() } else { format!("{stem}.{step}") };
            let at = place.iter().position(|slot| matches!(slot, Slot::Parent { key: known, .. } if *known == key));
            let at = if let Some(at) = at {
                at
            } else {
                let tables = self.tables_at(&stem, name.offset)?;
                let types = tables
                    .into_iter()
                    .map(|table| {
                        let id = format!("{}.\"Id\"", self.tables[table].alias);
                        (self.tables[table].object.name.clone(), self.column(id))
                    })
                    .collect();
                place.push(Slot::Parent { key, types, slots: Vec::new() });
                place.len() - 1
            };
            let Some(Slot::Parent { slots, .. }) = place.get_mut(at) else { return Ok(()) };
            place = slots;
        }
        let twice = place.iter().any(|slot| match slot {
            Slot::Value { key, .. } | Slot::Address { key, .. } => key.eq_ignore_ascii_case(&field.name),
            Slot::Parent { .. } | Slot::Children { .. } => false,
        });
        if twice {
            let message = format!("duplicate field selected: {}", field.name);
            return Err(Failure::at(name.offset, "INVALID_FIELD", message));
        }
        if field.kind.compound() {
            let tables = self.tables_at(&stem, name.offset)?;
            let mut parts = Vec::new();
            for table in tables {
                let Table { object, alias } = &self.tables[table];
                let (object, alias) = (*object, alias.clone());
                for part in object.fields.iter().filter(|part| part.compound.as_deref() == Some(&field.name)) {
                    let column = self.column(format!("{alias}.{}", quoted(&part.name)));
                    parts.push((part_key(&field.name, &part.name), column, part.kind));
                }
            }
            place.push(Slot::Address { key: field.name.clone(), parts });
        } else {
            let column = self.column(sql);
            place.push(Slot::Value { key: field.name.clone(), column, kind: field.kind });
        }
        Ok(())
    }
}

/// Returns the key of a part inside its compound: `city` of `BillingCity`, `latitude` of `Loc__Latitude__s`.
fn part_key(compound: &str, part: &str) -> String {
    let stem = compound.strip_suffix("Address").or_else(|| compound.strip_suffix("__c")).unwrap_or_default();
    let key = part.strip_prefix(stem).unwrap_or(part).trim_matches('_').trim_end_matches("__s");
    let mut chars = key.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn is_count(query: &Query) -> bool {
    matches!(query.select.as_slice(),
        [Item::Expr { expr: Expr::Call { name, args }, alias: None }] if args.is_empty() && name.text.eq_ignore_ascii_case("count"))
        && query.group.is_none()
}

fn is_aggregate(item: &Item) -> bool {
    matches!(item, Item::Expr { expr, .. } if is_aggregate_expr(expr))
}

fn is_aggregate_expr(expr: &Expr) -> bool {
    match expr {
        Expr::Call { name, args } => {
            let known = ["COUNT", "COUNT_DISTINCT", "SUM", "AVG", "MIN", "MAX"];
            known.iter().any(|known| name.text.eq_ignore_ascii_case(known)) || args.iter().any(is_aggregate_expr)
        }
        Expr::Field(_) | Expr::Constant(_) => false,
    }
}

impl Plan {
    /// True for queries that can't be paged.
    pub(crate) fn is_aggregate(&self) -> bool {
        self.aggregate
    }

    /// True when records hold only plain fields and parents: what a CSV can hold.
    pub(crate) fn is_flat(&self) -> bool {
        !self.aggregate && !self.count_only && flat(&self.shape)
    }

    /// Returns the name of the object that is queried.
    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    fn window(&self) -> String {
        match (self.limit, self.offset) {
            (None, None) => String::new(),
            (limit, offset) => {
                let limit = limit.map_or("-1".to_owned(), |limit| limit.to_string());
                format!(" LIMIT {limit} OFFSET {}", offset.unwrap_or_default())
            }
        }
    }

    /// Returns the row numbers of all matching records, in order.
    pub(crate) fn rows(&self, connection: &Connection) -> Answered<Vec<i64>> {
        let sql = format!("SELECT t0._rid FROM {} WHERE {}{}{}", self.from, self.filter, self.order, self.window());
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map(params_from_iter(&self.params), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns the number of matching records.
    pub(crate) fn count(&self, connection: &Connection) -> Answered<Option<u64>> {
        if !self.count_only {
            return Ok(None);
        }
        let inner = format!("SELECT 1 FROM {} WHERE {}{}", self.from, self.filter, self.window());
        let sql = format!("SELECT COUNT(*) FROM ({inner})");
        let count: i64 = connection.query_row(&sql, params_from_iter(&self.params), |row| row.get(0))?;
        Ok(Some(count.cast_unsigned()))
    }

    /// Returns all groups of an aggregate query.
    pub(crate) fn groups(&self, connection: &Connection) -> Answered<Vec<Value>> {
        let sql = format!(
            "SELECT {} FROM {} WHERE {}{}{}{}{}",
            self.columns.join(","),
            self.from,
            self.filter,
            self.group,
            self.having,
            self.order,
            self.window()
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(self.params.iter().chain(&self.having_params)))?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let mut record = Map::from_iter([("attributes".to_owned(), json!({"type": "AggregateResult"}))]);
            for slot in &self.shape {
                if let Slot::Value { key, column, kind } = slot {
                    record.insert(key.clone(), json_value(*kind, row.get_ref(*column)?));
                }
            }
            records.push(Value::Object(record));
            if records.len() > MAX_GROUPS {
                return Err(ApiError::new(
                    400,
                    "EXCEEDED_ID_LIMIT",
                    "Aggregate query does not support queryMore(), use LIMIT to restrict the results to a single batch",
                ));
            }
        }
        Ok(records)
    }

    /// Calls `each` with the rows of the given numbers, in no particular order; column 0 is the row number.
    fn fetch(
        &self,
        connection: &Connection,
        rids: &[i64],
        mut each: impl FnMut(&Row<'_>) -> Answered<()>,
    ) -> Answered<()> {
        let columns: String = self.columns.iter().map(|column| format!(",{column}")).collect();
        for part in rids.chunks(ROWS_PER_STATEMENT) {
            let marks = vec!["?"; part.len()].join(",");
            let sql = format!("SELECT t0._rid{columns} FROM {} WHERE t0._rid IN ({marks})", self.from);
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query(params_from_iter(part))?;
            while let Some(row) = rows.next()? {
                each(row)?;
            }
        }
        Ok(())
    }

    /// Returns the records with the given row numbers, in that order; ones that are gone are left out.
    pub(crate) fn records(&self, context: Context<'_>, rids: &[i64]) -> Answered<Vec<Value>> {
        let mut found: HashMap<i64, (Map<String, Value>, Option<String>)> = HashMap::with_capacity(rids.len());
        self.fetch(context.connection, rids, |row| {
            let id = self.columns.iter().position(|column| column == "t0.\"Id\"");
            let id = id.map(|column| row.get::<_, String>(column + 1)).transpose()?;
            found.insert(row.get(0)?, (self.record(context, row)?, id));
            Ok(())
        })?;
        for slot in &self.shape {
            let Slot::Children { key, plan } = slot else { continue };
            let ids: Vec<&String> = found.values().filter_map(|(_, id)| id.as_ref()).collect();
            let mut children = plan.children(context, &ids)?;
            for (record, id) in found.values_mut() {
                let records = id.as_ref().and_then(|id| children.remove(id));
                let value = records.map_or(
                    Value::Null,
                    |records| json!({"totalSize": records.len(), "done": true, "records": records}),
                );
                record.insert(key.clone(), value);
            }
        }
        Ok(rids.iter().filter_map(|rid| found.remove(rid)).map(|(record, _)| Value::Object(record)).collect())
    }

    /// Returns the children of each of the parents, with one query for all of them.
    fn children(&self, context: Context<'_>, parents: &[&String]) -> Answered<HashMap<String, Vec<Value>>> {
        let reference = self.columns.len() - 1;
        let mut grouped: HashMap<String, Vec<Value>> = HashMap::new();
        for part in parents.chunks(ROWS_PER_STATEMENT) {
            let marks = vec!["?"; part.len()].join(",");
            let column = &self.columns[reference];
            let order = self.order.trim_start_matches(" ORDER BY ");
            let offset = self.offset.unwrap_or_default();
            let upper = self.limit.map_or(String::new(), |limit| format!(" AND place<={}", limit + offset));
            let sql = format!(
                "SELECT rid, parent FROM (SELECT t0._rid AS rid, {column} AS parent, \
                 ROW_NUMBER() OVER (PARTITION BY {column} ORDER BY {order}) AS place \
                 FROM {} WHERE {} AND {column} IN ({marks})) WHERE place>{offset}{upper} ORDER BY parent, place",
                self.from, self.filter
            );
            let mut statement = context.connection.prepare(&sql)?;
            let bound = part.iter().map(|id| Sql::Text((*id).clone()));
            let rows = statement
                .query_map(params_from_iter(self.params.iter().cloned().chain(bound)), |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let rids: Vec<i64> = rows.iter().map(|(rid, _)| *rid).collect();
            for ((_, parent), record) in rows.into_iter().zip(self.records(context, &rids)?) {
                grouped.entry(parent).or_default().push(record);
            }
        }
        Ok(grouped)
    }

    fn record(&self, context: Context<'_>, row: &Row<'_>) -> Answered<Map<String, Value>> {
        let mut record = Map::new();
        let id = self.columns.iter().position(|column| column == "t0.\"Id\"");
        let id: Option<String> = id.map(|column| row.get(column + 1)).transpose()?;
        let id = if let Some(id) = id {
            id
        } else {
            let object = context.schema.object(&self.object).ok_or_else(ApiError::not_found)?;
            id::make(&object.prefix, row.get::<_, i64>(0)?.cast_unsigned())
        };
        record.insert("attributes".to_owned(), attributes(context, &self.object, &id));
        fill(context, &self.shape, row, &mut record)?;
        Ok(record)
    }

    /// Returns the header of the query's CSV.
    pub(crate) fn csv_header(&self) -> Vec<String> {
        let mut names = Vec::new();
        headers(&self.shape, "", &mut names);
        names
    }

    /// Writes the records with the given row numbers as CSV, in that order.
    pub(crate) fn csv(
        &self,
        connection: &Connection,
        rids: &[i64],
        writer: &mut csv::Writer<impl std::io::Write>,
    ) -> Answered<()> {
        let mut columns = Vec::new();
        csv_columns(&self.shape, &mut columns);
        let mut lines: HashMap<i64, csv::ByteRecord> = HashMap::with_capacity(rids.len());
        let mut cell = Vec::new();
        self.fetch(connection, rids, |row| {
            let mut line = csv::ByteRecord::with_capacity(256, columns.len());
            for (column, kind) in &columns {
                cell.clear();
                csv_text(*kind, row.get_ref(column + 1)?, &mut cell);
                line.push_field(&cell);
            }
            lines.insert(row.get(0)?, line);
            Ok(())
        })?;
        for rid in rids {
            if let Some(line) = lines.get(rid) {
                writer.write_byte_record(line).map_err(|error| {
                    ApiError::new(500, "UNKNOWN_EXCEPTION", format!("results cannot be written: {error}"))
                })?;
            }
        }
        Ok(())
    }
}

fn flat(slots: &[Slot]) -> bool {
    slots.iter().all(|slot| match slot {
        Slot::Value { .. } => true,
        Slot::Parent { slots, .. } => flat(slots),
        Slot::Address { .. } | Slot::Children { .. } => false,
    })
}

fn headers(slots: &[Slot], stem: &str, names: &mut Vec<String>) {
    for slot in slots {
        match slot {
            Slot::Value { key, .. } => names.push(format!("{stem}{key}")),
            Slot::Parent { key, slots, .. } => headers(slots, &format!("{stem}{key}."), names),
            Slot::Address { .. } | Slot::Children { .. } => {}
        }
    }
}

fn csv_columns(slots: &[Slot], columns: &mut Vec<(usize, Kind)>) {
    for slot in slots {
        match slot {
            Slot::Value { column, kind, .. } => columns.push((*column, *kind)),
            Slot::Parent { slots, .. } => csv_columns(slots, columns),
            Slot::Address { .. } | Slot::Children { .. } => {}
        }
    }
}

/// Returns the `attributes` of a record.
pub(crate) fn attributes(context: Context<'_>, object: &str, id: &str) -> Value {
    json!({"type": object, "url": format!("/services/data/{}/sobjects/{object}/{id}", context.version)})
}

fn fill(context: Context<'_>, slots: &[Slot], row: &Row<'_>, record: &mut Map<String, Value>) -> Answered<()> {
    for slot in slots {
        let (key, value) = match slot {
            Slot::Value { key, column, kind } => (key, json_value(*kind, row.get_ref(column + 1)?)),
            Slot::Address { key, parts } => {
                let mut address = Map::new();
                for (part, column, kind) in parts {
                    let value = json_value(*kind, row.get_ref(column + 1)?);
                    if !value.is_null() || !address.contains_key(part) {
                        address.insert(part.clone(), value);
                    }
                }
                let empty = address.values().all(Value::is_null);
                (key, if empty { Value::Null } else { Value::Object(address) })
            }
            Slot::Parent { key, types, slots } => {
                let mut parent = None;
                for (object, column) in types {
                    if let Some(id) = row.get::<_, Option<String>>(column + 1)? {
                        parent = Some((object, id));
                        break;
                    }
                }
                let value = match parent {
                    None => Value::Null,
                    Some((object, id)) => {
                        let mut inner = Map::from_iter([("attributes".to_owned(), attributes(context, object, &id))]);
                        fill(context, slots, row, &mut inner)?;
                        Value::Object(inner)
                    }
                };
                (key, value)
            }
            // Filled for the whole page at once; the key keeps its place here.
            Slot::Children { key, .. } => (key, Value::Null),
        };
        record.insert(key.clone(), value);
    }
    Ok(())
}
