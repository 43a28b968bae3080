//! SOQL compiled to SQL.
//!
//! A query runs in two steps: first the row numbers of all matching records, in order, which is what a
//! cursor holds; then the columns of one page at a time, with children of the whole page at once.

mod compile;
mod expr;
mod filter;
mod plan;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use rusqlite::Connection;
use soql::Query;

pub(crate) use self::plan::{Plan, unwritable};

use self::compile::Compiler;
use crate::cursors::Cursors;
use crate::error::{Answered, ApiError};
use crate::formulas::Known;
use crate::schema::{Kind, Object, Schema};

/// Records on a page unless the client asks for fewer. Source: REST API guide, query options.
pub(crate) const PAGE: usize = 2000;

/// Deepest nesting of child subqueries, the root counted. Source: SOQL reference, from API 58.
const MAX_DEPTH: usize = 5;

/// What a query compiles against.
#[derive(Clone, Copy)]
pub(crate) struct Context<'o> {
    /// The objects and fields that the running user sees.
    pub(crate) schema: &'o Schema,
    /// All there is: what formulas see.
    pub(crate) all: &'o Schema,
    pub(crate) connection: &'o Connection,
    pub(crate) now: DateTime<Utc>,
    /// The running user's time zone.
    pub(crate) zone: Tz,
    /// The running user's id.
    pub(crate) user: &'o str,
    /// First month of the fiscal year, from 1.
    pub(crate) fiscal_start: u32,
    /// The running user, unless all records are open to that one.
    pub(crate) shared: Option<&'o str>,
    /// Scheme, host and port of the org.
    pub(crate) server: &'o str,
    /// The version in links, such as `v66.0`.
    pub(crate) version: &'o str,
    /// True for `queryAll`.
    pub(crate) deleted: bool,
    /// Keeps the children that do not go on a page.
    pub(crate) cursors: &'o Cursors,
    /// Most children of one record on a page.
    pub(crate) page: usize,
}

/// Reads `text` and compiles it.
pub(crate) fn compile(context: Context<'_>, text: &str) -> Answered<Plan> {
    let query = soql::parse(text).map_err(|error| ApiError::new(400, "MALFORMED_QUERY", error.message))?;
    compile_query(context, &query, 1).map_err(|failure| failure.into_error(text))
}

/// Returns what fields of a record hold, as formulas take them; those of the org itself where the id is empty.
pub(crate) fn values(
    context: Context<'_>,
    object: &Object,
    id: &str,
    reads: &[&formula::Reference],
) -> Answered<Vec<formula::Value>> {
    if reads.is_empty() {
        return Ok(Vec::new());
    }
    let sql = Compiler::values(context, object, reads).map_err(|failure| failure.into_error(""))?;
    let known = Known { schema: context.all, object };
    let percent = |path: &str| known.field(path).is_some_and(|field| field.kind == Kind::Percent);
    let mut statement = context.connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(vec![formula::Value::Blank; reads.len()]) };
    let value = |(at, read): (usize, &&formula::Reference)| {
        Ok(crate::formulas::value(read.kind, row.get_ref(at)?, percent(&read.path)))
    };
    reads.iter().enumerate().map(value).collect()
}

/// Compiles the condition of a search, such as `Amount > 5`, on one object; `offset` is its place in the whole text.
pub(crate) fn compile_parsed(context: Context<'_>, query: &Query, text: &str) -> Answered<Plan> {
    compile_query(context, query, 1).map_err(|failure| failure.into_error(text))
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

    /// The query is not one, though its grammar is right.
    fn malformed(message: impl Into<String>) -> Self {
        Self::plain("MALFORMED_QUERY", message)
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

fn compile_query(context: Context<'_>, query: &Query, depth: usize) -> Compiled<Plan> {
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
    if object.is_event() {
        let message = format!("entity type {} does not support query", object.name);
        return Err(Failure::at(query.from.object.offset, "INVALID_TYPE_FOR_OPERATION", message));
    }
    Compiler::new(context, object, query, depth)?.compile(query, None)
}
