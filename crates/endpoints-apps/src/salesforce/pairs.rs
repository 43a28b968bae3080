//! What two-way syncs need: records by key, and writes that hold only where a record is as it was read.
//!
//! The org compares seconds: a record that was changed in the second in which it was read could be changed again in it
//! unseen. Such records are waited for once; those that are still warm come with the second before, which no write passes.

use std::sync::Arc;
use std::time::Duration;

use ::salesforce::composite::{MAX_STEPS, Step, StepAnswer};
use ::salesforce::{JsonTable, collections, record};
use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef, TimestampMicrosecondType};
use chrono::DateTime;
use endpoint::{Error, Guarded, Read, Result, Revision, Target};
use model::{ChangeBatch, Class, Entity, Outcome, Type, text_of};
use serde_json::{Map, Value};

use super::sink::refusal;
use super::{Org, failed};

/// Most characters of the keys in one query; with the fields they stay under the org's limit of a URI.
const KEY_CHARS: usize = 6_000;
/// A second, in microseconds.
const MICROS: i64 = 1_000_000;

/// A query for records by key.
struct Select<'s> {
    entity: &'s Entity,
    fields: &'s [String],
    key: &'s str,
    filter: Option<&'s str>,
    schema: &'s SchemaRef,
    kinds: &'s [Type],
    /// The column that tells when a record was last changed.
    stamp: Option<usize>,
}

impl Org {
    pub(super) async fn by_key(
        &self,
        entity: &Entity,
        fields: &[String],
        key: &str,
        keys: &[String],
        patient: bool,
    ) -> Result<ChangeBatch> {
        let (schema, kinds) = self.columns(entity, fields).await?;
        let stamp = entity.cursor.as_ref().and_then(|cursor| fields.iter().position(|name| name == cursor));
        let select = Select { entity, fields, key, filter: None, schema: &schema, kinds: &kinds, stamp };
        let (first, warm) = self.selected(&select, keys).await?;
        if warm.is_empty() {
            return Ok(ChangeBatch::upserts(first, None));
        }
        let broken =
            |error: arrow::error::ArrowError| Error::new(Class::Internal, "cannot join records").caused_by(error);
        if !patient {
            return Ok(ChangeBatch::upserts(earlier(&first, stamp, &warm).map_err(broken)?, None));
        }
        // Until the second is over by the org's clock, which its answers tell by the second.
        let newest = stamp.map(|at| first.column(at).as_primitive::<TimestampMicrosecondType>());
        let newest = newest.and_then(|times| warm.iter().map(|row| times.value(*row)).max()).unwrap_or_default();
        let left = newest + 2 * MICROS + MICROS / 10 - self.client.org_time().timestamp_micros();
        tokio::time::sleep(Duration::from_micros(left.clamp(0, 3 * MICROS).cast_unsigned())).await;
        let again: Vec<String> = warm.iter().map(|row| text(&first, key, *row)).collect();
        let (second, warm_still) = self.selected(&select, &again).await?;
        let cold: arrow::array::UInt32Array =
            (0..first.num_rows()).filter(|row| !warm.contains(row)).map(|row| row as u32).collect();
        let cold = arrow::compute::take_record_batch(&first, &cold).map_err(broken)?;
        let second = earlier(&second, stamp, &warm_still).map_err(broken)?;
        Ok(ChangeBatch::upserts(concat_batches(&schema, [&cold, &second]).map_err(broken)?, None))
    }

    /// Reads those records of a read whose key is one of these.
    pub(super) async fn picked(&self, read: &Read, key: &str, keys: &[String]) -> Result<ChangeBatch> {
        let (schema, kinds) = self.columns(&read.entity, &read.fields).await?;
        let (entity, fields, filter) = (&read.entity, read.fields.as_slice(), read.filter.as_deref());
        let select = Select { entity, fields, key, filter, schema: &schema, kinds: &kinds, stamp: None };
        Ok(ChangeBatch::upserts(self.selected(&select, keys).await?.0, None))
    }

    /// Returns the columns that fields are read into, with their types.
    pub(super) async fn columns(&self, entity: &Entity, fields: &[String]) -> Result<(SchemaRef, Vec<Type>)> {
        let (mut columns, mut kinds) = (Vec::new(), Vec::new());
        for name in fields {
            let (name, kind) = self.field(entity, name).await?;
            columns.push(ArrowField::new(name, kind.arrow(), true));
            kinds.push(kind);
        }
        Ok((Arc::new(Schema::new(columns)), kinds))
    }

    /// Reads records, and says which rows were changed in the second in which they were read.
    async fn selected(&self, select: &Select<'_>, keys: &[String]) -> Result<(RecordBatch, Vec<usize>)> {
        let Select { entity, fields, key, filter, schema, kinds, stamp } = *select;
        let filter = filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default();
        let what = || format!("cannot read {}", entity.name);
        let broken = |error: arrow::error::ArrowError| Error::new(Class::Internal, what()).caused_by(error);
        let table = JsonTable::new(schema.clone(), kinds.to_vec());
        let (mut batches, mut warm, mut rows) = (Vec::new(), Vec::new(), 0);
        let mut from = 0;
        while from < keys.len() {
            let mut list = String::new();
            let mut to = from;
            while to < keys.len() && (to == from || list.len() < KEY_CHARS) {
                list.push_str(if to == from { "" } else { "," });
                list.push_str(&soql::quote(&keys[to]));
                to += 1;
            }
            from = to;
            let soql = format!("SELECT {} FROM {} WHERE {key} IN ({list}){filter}", fields.join(","), entity.name);
            let before = self.client.org_time().timestamp_micros() - MICROS;
            let mut page = Some(self.client.query(&soql, false).await.map_err(failed(what()))?);
            while let Some(current) = page {
                let batch = table.read(&current.records).map_err(failed(what()))?;
                let times =
                    stamp.and_then(|at| batch.column(at).as_primitive_opt::<TimestampMicrosecondType>().cloned());
                let late = |row: &usize| times.as_ref().is_some_and(|times| times.value(*row) + MICROS >= before);
                warm.extend((0..batch.num_rows()).filter(late).map(|row| row + rows));
                rows += batch.num_rows();
                batches.push(batch);
                page = self.client.next_page(&current).await.map_err(failed(what()))?;
            }
        }
        Ok((concat_batches(schema, &batches).map_err(broken)?, warm))
    }

    pub(super) async fn revised(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        let stamp = target.entity.cursor.as_ref().and_then(|cursor| changes.expected.column_by_name(cursor));
        let mut outcomes = vec![Outcome::Moved; changes.revisions.len()];
        let (new, rows): (Vec<usize>, Vec<usize>) =
            (0..changes.revisions.len()).partition(|row| changes.revisions[*row] == Revision::Insert);
        // What is new needs no guard: its key is refused if somebody has it.
        for rows in new.chunks(collections::MAX_RECORDS) {
            let records = rows.iter().map(|row| fields(changes, *row)).collect::<Result<Vec<_>>>()?;
            let request = collections::create(&self.client, &target.entity.name, records);
            for (row, outcome) in rows.iter().zip(self.save(target, &request, rows.len()).await?) {
                outcomes[*row] = match outcome {
                    Outcome::Refused(error) if error.code == "DUPLICATE_VALUE" => Outcome::Moved,
                    Outcome::Applied { id, .. } => Outcome::Applied { created: true, id },
                    other => other,
                };
            }
        }
        for rows in rows.chunks(MAX_STEPS) {
            let mut steps = Vec::with_capacity(rows.len());
            for row in rows {
                steps.push(step(target, changes, stamp, *row)?);
            }
            let answers = self.client.composite(&steps).await;
            let answers = answers.map_err(failed(format!("cannot write to {}", target.entity.name)))?;
            for (row, answer) in rows.iter().zip(answers) {
                outcomes[*row] = outcome(changes.revisions[*row], &answer);
            }
        }
        Ok(outcomes)
    }
}

fn text(batch: &RecordBatch, name: &str, row: usize) -> String {
    let column = batch.schema_ref().fields().iter().position(|field| field.name().eq_ignore_ascii_case(name));
    column.and_then(|column| text_of(batch.column(column).as_ref(), row)).unwrap_or_default().into_owned()
}

/// Gives rows the second before their own, which no guarded write passes.
fn earlier(
    batch: &RecordBatch,
    stamp: Option<usize>,
    rows: &[usize],
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let Some(stamp) = stamp.filter(|_| !rows.is_empty()) else { return Ok(batch.clone()) };
    let times = batch.column(stamp).as_primitive::<TimestampMicrosecondType>();
    let moved: TimestampMicrosecondArray = (0..times.len())
        .map(|row| times.is_valid(row).then(|| times.value(row) - if rows.contains(&row) { MICROS } else { 0 }))
        .collect();
    let mut columns = batch.columns().to_vec();
    columns[stamp] = Arc::new(moved.with_data_type(times.data_type().clone()));
    RecordBatch::try_new(batch.schema(), columns)
}

fn step(target: &Target, changes: &Guarded, stamp: Option<&ArrayRef>, row: usize) -> Result<Step> {
    let object = &target.entity.name;
    let id = text(&changes.records, &target.key, row);
    let guard = || -> Result<Option<String>> {
        let time = stamp.and_then(|stamp| text_of(stamp.as_ref(), row));
        let time = time.and_then(|time| DateTime::parse_from_rfc3339(&time).ok()).ok_or_else(|| {
            Error::new(Class::Internal, format!("{object} {id}: nothing tells when it was last changed"))
        })?;
        Ok(Some(time.to_utc().format("%a, %d %b %Y %H:%M:%S GMT").to_string()))
    };
    let (method, body) = match changes.revisions[row] {
        Revision::Delete => ("DELETE", None),
        Revision::Insert | Revision::Update => ("PATCH", Some(Value::Object(fields(changes, row)?))),
    };
    Ok(Step { method, path: format!("sobjects/{object}/{id}"), unmodified_since: guard()?, body })
}

/// Returns the fields of a row that are written; those of a new record only where they have a value.
fn fields(changes: &Guarded, row: usize) -> Result<Map<String, Value>> {
    let columns = changes.records.project(&changes.written[row]);
    let columns = columns.map_err(|error| Error::new(Class::Internal, "a column is missing").caused_by(error))?;
    let mut fields = record(&columns, row);
    if changes.revisions[row] == Revision::Insert {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(fields)
}

fn outcome(revision: Revision, answer: &StepAnswer) -> Outcome {
    if answer.http_status_code < 300 {
        return Outcome::Applied { created: false, id: None };
    }
    let error = answer.refusal();
    let (code, message, fields) = match error {
        Some(error) => (error.code, error.message, error.fields),
        None => ("UNKNOWN_EXCEPTION".to_owned(), format!("status {}", answer.http_status_code), Vec::new()),
    };
    match (answer.http_status_code, code.as_str(), revision) {
        (412, ..) => Outcome::Moved,
        (404, _, Revision::Delete) | (_, "ENTITY_IS_DELETED", Revision::Delete) => Outcome::Unchanged,
        (404, _, Revision::Update) | (_, "ENTITY_IS_DELETED", Revision::Update) => Outcome::Moved,
        _ => Outcome::Refused(refusal(&code, &message, fields)),
    }
}
