//! A compiled query at work: row numbers, pages of records, groups, CSV.

use std::collections::HashMap;
use std::io::Write;

use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use serde_json::{Map, Value, json};

use super::Context;
use crate::csv_out::Csv;
use crate::cursors::Cursor;
use crate::error::{Answered, ApiError};
use crate::id;
use crate::schema::Kind;
use crate::store::quoted;
use crate::value::{csv_text, json as json_value};

/// Most groups that one answer holds. Source: SOQL reference, aggregates do not page.
const MAX_GROUPS: usize = 2000;
/// Row numbers bound in one statement; SQLite takes 32,766.
const ROWS_PER_STATEMENT: usize = 8000;
/// Rows between two questions whether an export is still wanted.
const ROWS_PER_QUESTION: u64 = 5000;

/// A compiled query, ready to give pages of records.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(super) object: String,
    pub(super) from: String,
    pub(super) columns: Vec<String>,
    pub(super) shape: Vec<Slot>,
    pub(super) filter: String,
    pub(super) params: Vec<Sql>,
    pub(super) order: String,
    pub(super) limit: Option<u64>,
    pub(super) offset: Option<u64>,
    /// The grouping sets of an aggregate query; none in any other.
    pub(super) arms: Vec<Arm>,
    pub(super) count_only: bool,
    /// True for `FOR UPDATE`.
    pub(super) locks: bool,
    /// True for `FOR VIEW` and `FOR REFERENCE`.
    pub(super) viewed: bool,
}

/// One grouping set of an aggregate query.
#[derive(Debug, Clone)]
pub(super) struct Arm {
    pub(super) columns: Vec<String>,
    pub(super) group: String,
    pub(super) having: String,
    pub(super) params: Vec<Sql>,
}

/// One key of a record in the answer.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    Value {
        key: String,
        column: usize,
        kind: Kind,
        /// What stands in the query, for functions.
        written: Option<String>,
    },
    Address {
        key: String,
        parts: Vec<(String, usize, Kind)>,
    },
    Parent {
        key: String,
        types: Vec<(String, usize)>,
        slots: Vec<Slot>,
    },
    /// `TYPEOF`: object, column of its id, and what is asked of it.
    Typed {
        key: String,
        branches: Vec<(String, usize, Vec<Slot>)>,
    },
    Children {
        key: String,
        plan: Box<Plan>,
    },
}

impl Slot {
    /// True if the slot holds the field of this name.
    pub(super) fn is_value(&self, name: &str) -> bool {
        matches!(self, Self::Value { key, .. } | Self::Address { key, .. } if key.eq_ignore_ascii_case(name))
    }
}

impl Plan {
    /// True for queries that can't be paged.
    pub(crate) fn is_aggregate(&self) -> bool {
        !self.arms.is_empty()
    }

    /// True for queries that take locks on what they find.
    pub(crate) fn locks(&self) -> bool {
        self.locks
    }

    /// True for queries whose records count as looked at.
    pub(crate) fn viewed(&self) -> bool {
        self.viewed
    }

    /// True when records hold only plain fields and parents: what a CSV can hold.
    pub(crate) fn is_flat(&self) -> bool {
        self.arms.is_empty() && !self.count_only && flat(&self.shape)
    }

    /// Returns the name of the object that is queried.
    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    /// Returns the one plain column that is selected, and its type; `None` if there is none or more.
    pub(super) fn only_column(&self) -> Option<(&str, Kind)> {
        match self.shape.as_slice() {
            [Slot::Value { column, kind, .. }] if self.arms.is_empty() => Some((self.columns.get(*column)?, *kind)),
            _ => None,
        }
    }

    /// Returns the query as the right side of an `IN`.
    pub(super) fn semi_join(&self, column: &str) -> String {
        format!("SELECT {column} FROM {} WHERE {} AND {column} IS NOT NULL", self.from, self.filter)
    }

    /// Leaves only records in whose `columns` a search finds its term.
    pub(crate) fn keep_matches(&mut self, term: &str, columns: &[&str]) {
        let columns: Vec<String> = columns.iter().map(|name| format!("t0.{}", quoted(name))).collect();
        self.filter.push_str(&format!(" AND sf_matches(?,{})", columns.join(",")));
        self.params.push(Sql::Text(term.to_owned()));
    }

    /// Leaves only records whose row numbers lie in a span, ends included.
    pub(crate) fn keep_span(&mut self, first: u32, last: u32) {
        self.filter.push_str(&format!(" AND t0._rid BETWEEN {first} AND {last}"));
    }

    /// Returns the ids of the records with the given row numbers.
    pub(crate) fn ids(&self, connection: &Connection, rids: &[u32]) -> Answered<Vec<String>> {
        let sql = format!("SELECT \"Id\" FROM {} WHERE _rid=?", quoted(&self.object));
        let mut statement = connection.prepare(&sql)?;
        Ok(rids.iter().map(|rid| statement.query_row([rid], |row| row.get(0))).collect::<rusqlite::Result<_>>()?)
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
    pub(crate) fn rows(&self, connection: &Connection) -> Answered<Vec<u32>> {
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
        let arms: Vec<String> = self
            .arms
            .iter()
            .map(|arm| {
                let columns = arm.columns.join(",");
                format!("SELECT {columns} FROM {} WHERE {}{}{}", self.from, self.filter, arm.group, arm.having)
            })
            .collect();
        let sql = format!("{}{}{}", arms.join(" UNION ALL "), self.order, self.window());
        let mut statement = connection.prepare(&sql)?;
        let params = self.arms.iter().flat_map(|arm| self.params.iter().chain(&arm.params));
        let mut rows = statement.query(params_from_iter(params))?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let mut record = Map::from_iter([("attributes".to_owned(), json!({"type": "AggregateResult"}))]);
            for slot in &self.shape {
                if let Slot::Value { key, column, kind, .. } = slot {
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
        rids: &[u32],
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
    pub(crate) fn records(&self, context: Context<'_>, rids: &[u32]) -> Answered<Vec<Value>> {
        let mut found: HashMap<u32, (Map<String, Value>, Option<String>)> = HashMap::with_capacity(rids.len());
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
                let page = id.as_ref().and_then(|id| children.remove(id));
                record.insert(key.clone(), page.unwrap_or_default());
            }
        }
        Ok(rids.iter().filter_map(|rid| found.remove(rid)).map(|(record, _)| Value::Object(record)).collect())
    }

    /// Returns the first page of the children of each of the parents, with one query for all of them; a cursor keeps
    /// the rest.
    fn children(&self, context: Context<'_>, parents: &[&String]) -> Answered<HashMap<String, Value>> {
        let reference = self.columns.len() - 1;
        let mut pages = HashMap::new();
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
                    Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let families: Vec<&[(u32, String)]> = rows.chunk_by(|(_, one), (_, other)| one == other).collect();
            let first = |family: &&[(u32, String)]| family.len().min(context.page);
            let shown: Vec<u32> =
                families.iter().flat_map(|family| family[..first(family)].iter().map(|(rid, _)| *rid)).collect();
            let mut records = self.records(context, &shown)?.into_iter();
            for family in &families {
                let size = first(family);
                let mut page = json!({"totalSize": family.len(), "done": size == family.len()});
                if size < family.len() {
                    let rows = family.iter().map(|(rid, _)| *rid).collect();
                    let cursor = Cursor { plan: self.clone(), rows, deleted: context.deleted };
                    let id = context.cursors.keep(context.user, true, cursor);
                    page["nextRecordsUrl"] = json!(format!("/services/data/{}/query/{id}-{size}", context.version));
                }
                page["records"] = records.by_ref().take(size).collect();
                pages.insert(family[0].1.clone(), page);
            }
        }
        Ok(pages)
    }

    fn record(&self, context: Context<'_>, row: &Row<'_>) -> Answered<Map<String, Value>> {
        let mut record = Map::new();
        let id = self.columns.iter().position(|column| column == "t0.\"Id\"");
        let id: Option<String> = id.map(|column| row.get(column + 1)).transpose()?;
        let id = if let Some(id) = id {
            id
        } else {
            let object = context.schema.object(&self.object).ok_or_else(ApiError::not_found)?;
            id::make(&object.prefix, row.get::<_, u32>(0)?.into())
        };
        record.insert("attributes".to_owned(), attributes(context, &self.object, &id));
        fill(context, &self.shape, row, &mut record)?;
        Ok(record)
    }

    /// Describes the columns of the answer, as clients ask for them to lay out tables.
    pub(crate) fn columns(&self, schema: &crate::schema::Schema) -> Value {
        let prefix = schema.object(&self.object).map(|object| object.prefix.as_str());
        json!({"columnMetadata": described(&self.shape), "entityName": self.object, "groupBy": !self.arms.is_empty(),
               "idSelected": self.shape.iter().any(|slot| slot.is_value("Id")), "keyPrefix": prefix})
    }

    /// Returns the header of the query's CSV.
    pub(crate) fn csv_header(&self) -> Vec<String> {
        let mut names = Vec::new();
        headers(&self.shape, "", &mut names);
        names
    }

    /// Writes all matching records as CSV, in order; `go_on` is told how many more are written and says
    /// whether to continue.
    pub(crate) fn export(
        &self,
        connection: &Connection,
        csv: &mut Csv<impl Write>,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Answered<()> {
        let mut columns = Vec::new();
        csv_columns(&self.shape, &mut columns);
        let selected = self.columns.join(",");
        let sql = format!("SELECT {selected} FROM {} WHERE {}{}{}", self.from, self.filter, self.order, self.window());
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(&self.params))?;
        let mut cell = Vec::new();
        let mut written = 0;
        while let Some(row) = rows.next()? {
            for (column, kind) in &columns {
                match row.get_ref(*column)? {
                    // Most cells are texts, and need no copy.
                    ValueRef::Text(text) => csv.cell(text),
                    other => {
                        cell.clear();
                        csv_text(*kind, other, &mut cell);
                        csv.cell(&cell);
                    }
                }
            }
            csv.end_row().map_err(unwritable)?;
            written += 1;
            if written == ROWS_PER_QUESTION {
                if !go_on(written) {
                    return Ok(());
                }
                written = 0;
            }
        }
        go_on(written);
        Ok(())
    }
}

/// The refusal of results that cannot be written.
pub(crate) fn unwritable(error: std::io::Error) -> ApiError {
    ApiError::new(500, "UNKNOWN_EXCEPTION", format!("results cannot be written: {error}"))
}

fn flat(slots: &[Slot]) -> bool {
    slots.iter().all(|slot| match slot {
        Slot::Value { .. } => true,
        Slot::Parent { slots, .. } => flat(slots),
        Slot::Address { .. } | Slot::Typed { .. } | Slot::Children { .. } => false,
    })
}

fn described(slots: &[Slot]) -> Vec<Value> {
    let column = |name: &str, shown: &str, aggregate: bool, kind: Option<Kind>, joined: Vec<Value>| {
        let is = |test: fn(Kind) -> bool| kind.is_some_and(test);
        json!({"aggregate": aggregate, "apexType": kind.map(Kind::word), "booleanType": is(|kind| kind == Kind::Boolean),
               "columnName": name, "custom": name.ends_with("__c"), "displayName": shown, "foreignKeyName": null,
               "insertable": !aggregate, "joinColumns": joined, "numberType": is(Kind::numeric), "textType": is(Kind::textual),
               "updatable": !aggregate})
    };
    slots
        .iter()
        .map(|slot| match slot {
            Slot::Value { key, kind, written, .. } => {
                column(key, written.as_deref().unwrap_or(key), written.is_some(), Some(*kind), Vec::new())
            }
            Slot::Address { key, .. } | Slot::Typed { key, .. } => column(key, key, false, None, Vec::new()),
            Slot::Parent { key, slots, .. } => column(key, key, false, None, described(slots)),
            Slot::Children { key, plan } => column(key, key, true, None, described(&plan.shape)),
        })
        .collect()
}

fn headers(slots: &[Slot], stem: &str, names: &mut Vec<String>) {
    for slot in slots {
        match slot {
            Slot::Value { key, .. } => names.push(format!("{stem}{key}")),
            Slot::Parent { key, slots, .. } => headers(slots, &format!("{stem}{key}."), names),
            Slot::Address { .. } | Slot::Typed { .. } | Slot::Children { .. } => {}
        }
    }
}

fn csv_columns(slots: &[Slot], columns: &mut Vec<(usize, Kind)>) {
    for slot in slots {
        match slot {
            Slot::Value { column, kind, .. } => columns.push((*column, *kind)),
            Slot::Parent { slots, .. } => csv_columns(slots, columns),
            Slot::Address { .. } | Slot::Typed { .. } | Slot::Children { .. } => {}
        }
    }
}

/// Returns the `attributes` of a record.
fn attributes(context: Context<'_>, object: &str, id: &str) -> Value {
    json!({"type": object, "url": format!("/services/data/{}/sobjects/{object}/{id}", context.version)})
}

fn fill(context: Context<'_>, slots: &[Slot], row: &Row<'_>, record: &mut Map<String, Value>) -> Answered<()> {
    for slot in slots {
        let (key, value) = match slot {
            // A file is told by its path.
            Slot::Value { key, column, kind: Kind::Base64, .. } => {
                let path: Option<String> = row.get(column + 1)?;
                let full = path.map(|path| format!("/services/data/{}{path}", context.version));
                (key, full.map_or(Value::Null, Value::String))
            }
            Slot::Value { key, column, kind, .. } => (key, json_value(*kind, row.get_ref(column + 1)?)),
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
                let branches = types.iter().map(|(object, column)| (object, *column, slots));
                (key, related(context, branches, row)?)
            }
            Slot::Typed { key, branches } => {
                let branches = branches.iter().map(|(object, column, slots)| (object, *column, slots));
                (key, related(context, branches, row)?)
            }
            // Filled for the whole page at once; the key keeps its place here.
            Slot::Children { key, .. } => (key, Value::Null),
        };
        record.insert(key.clone(), value);
    }
    Ok(())
}

/// Returns the one record that a reference leads to, of the objects that it may lead to; null if there is none.
fn related<'s>(
    context: Context<'_>,
    branches: impl Iterator<Item = (&'s String, usize, &'s Vec<Slot>)>,
    row: &Row<'_>,
) -> Answered<Value> {
    for (object, column, slots) in branches {
        if let Some(id) = row.get::<_, Option<String>>(column + 1)? {
            let mut inner = Map::from_iter([("attributes".to_owned(), attributes(context, object, &id))]);
            fill(context, slots, row, &mut inner)?;
            return Ok(Value::Object(inner));
        }
    }
    Ok(Value::Null)
}
