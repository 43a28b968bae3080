//! What is compared: for each side what is read, and for each field of the mapping where its values stand.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::DataType;
use endpoint::{Endpoint, Read};
use futures::StreamExt as _;
use mapping::{Parents, Plan};
use model::{Class, Side, digest, text_of};
use state::Store;

use super::{Difference, FieldDifference, Kind, LOOK_ROWS, Reconcile, Reconciliation, side_of};
use crate::chunk::joined;
use crate::prepare::{BATCH_ROWS, prepare, read};
use crate::report::Error;
use crate::sync::Sync;
use crate::two_way::prepare_pairs;

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// As its side holds it: a column of what is read.
    Own(usize),
    /// As the other side would hold it: a column of what the mapping makes.
    Made(usize),
}

/// One side.
pub(super) struct Half {
    pub(super) read: Read,
    plan: Option<Plan>,
    /// What tells a record apart on both sides.
    pub(super) key: Value,
    /// The column that its own side knows a record by.
    pub(super) tie: usize,
}

/// A field of the mapping.
struct Field {
    name: String,
    /// What may be compared: for each side a value. One pair of values that is the same will do.
    ways: Vec<[Value; 2]>,
    tolerance: Option<f64>,
}

/// Both sides of a sync, ready to be compared: the source and the target, or Salesforce and the system outside.
pub(super) struct Comparison {
    pub(super) halves: [Half; 2],
    fields: Vec<Field>,
    mapping: String,
    sides: [Side; 2],
}

/// Rows of a side.
pub(super) struct Rows {
    own: RecordBatch,
    made: Option<RecordBatch>,
    /// For each row that can be compared its row in `own`, and in `made`.
    pub(super) rows: Vec<(usize, Option<usize>)>,
    /// Rows of `own` that the mapping refuses.
    pub(super) refused: Vec<usize>,
}

impl Comparison {
    /// Checks a sync, and finds what there is to compare.
    pub(super) async fn new(
        sync: &Sync,
        ends: [&dyn Endpoint; 2],
        store: &Store,
        parents: Parents<'_>,
        wanted: &Reconcile,
    ) -> Result<Self, Error> {
        let cannot = |what: String| Error::from(endpoint::Error::new(Class::Mapping, what));
        if ends.iter().any(|end| end.capabilities().only_tells) {
            let what = format!("{} can't be reconciled: messages are told once and not kept to be read", sync.name);
            return Err(cannot(what));
        }
        let (halves, mut fields) = if sync.two_way.is_some() {
            pairs(sync, ends, store, parents).await?
        } else {
            rows(sync, ends, store, parents).await?
        };
        for name in wanted.tolerances.keys().chain(&wanted.ignore) {
            if !fields.iter().any(|field| field.name == *name) {
                let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                return Err(cannot(format!(
                    "{} compares no field {name:?}; there are {}",
                    sync.name,
                    known.join(", ")
                )));
            }
        }
        fields.retain(|field| !wanted.ignore.contains(&field.name));
        for field in &mut fields {
            field.tolerance = wanted.tolerances.get(&field.name).copied();
        }
        let sides = [side_of(sync, 0), side_of(sync, 1)];
        Ok(Self { halves, fields, mapping: sync.definition.mapping.clone(), sides })
    }

    /// Maps rows as far as that is needed to compare them; `quickly` leaves out what only a second look wants.
    pub(super) fn rows(
        &self,
        half: usize,
        own: RecordBatch,
        store: &Store,
        sync: &str,
        quickly: bool,
    ) -> Result<Rows, Error> {
        let made = |value: &Value| matches!(value, Value::Made(_));
        let needed = made(&self.halves[half].key)
            || self.fields.iter().any(|field| field.ways.first().is_some_and(|way| made(&way[half])));
        let Some(plan) = self.halves[half].plan.as_ref().filter(|_| needed || !quickly) else {
            let rows = (0..own.num_rows()).map(|row| (row, None)).collect();
            return Ok(Rows { own, made: None, rows, refused: Vec::new() });
        };
        let links = |mapping: &str, side: Side, keys: &[&str]| Ok(store.counterparts(mapping, side, keys)?);
        // What is read besides is no part of the mapping.
        let columns: Vec<usize> = (0..plan.source_fields.len()).collect();
        let mapped = own
            .project(&columns)
            .and_then(|own| plan.apply(&own, &links))
            .map_err(|error| Error::batch(sync, error))?;
        let mut rows: Vec<(usize, Option<usize>)> =
            mapped.rows.iter().enumerate().map(|(made, own)| (*own, Some(made))).collect();
        let mut refused: Vec<usize> = mapped.refused.iter().map(|(row, _)| *row).collect();
        if !needed {
            rows.extend(refused.drain(..).map(|row| (row, None)));
        }
        Ok(Rows { own, made: Some(mapped.records), rows, refused })
    }

    /// Returns for each row the print of all that is compared of it.
    pub(super) fn prints(&self, half: usize, rows: &Rows) -> Vec<u64> {
        let mut prints = vec![0_u64; rows.rows.len()];
        for way in self.fields.iter().filter_map(|field| field.ways.first()) {
            for (at, print) in prints.iter_mut().enumerate() {
                let value = rows.text(way[half], at).map_or(0, |text| digest(text.as_bytes()) | 1);
                *print = joined(*print, value);
            }
        }
        prints
    }

    /// Looks at what differed again, both records fetched by key; returns what still does, and what about it.
    pub(super) async fn look_again(
        &self,
        ends: [&dyn Endpoint; 2],
        store: &Store,
        differences: Vec<Difference>,
        wanted: &Reconcile,
        report: &mut Reconciliation,
    ) -> Result<Vec<Difference>, Error> {
        // Where records can't be fetched by key all of them are read again: once is enough.
        let by_key = ends.iter().all(|end| end.capabilities().two_way);
        let part = if by_key { LOOK_ROWS } else { differences.len().max(1) };
        let mut confirmed = Vec::new();
        for part in differences.chunks(part) {
            if wanted.stop.is_cancelled() {
                return Err(Error::Stopped);
            }
            let lefts = self.found(0, ends[0], part, store, &report.sync).await?;
            let rights = self.found(1, ends[1], part, store, &report.sync).await?;
            for first in part {
                let (left, right) = (lefts.find(first), rights.find(first));
                let now = match (left, right) {
                    (Found::Refused, _) | (Found::Absent, Found::Absent) => None,
                    (Found::Row(..), Found::Absent | Found::Refused) => Some((Kind::Missing, Vec::new())),
                    (Found::Absent, _) => Some((Kind::Extra, Vec::new())),
                    (Found::Row(left, at), Found::Row(right, to)) => {
                        let fields = self.differences(left, at, right, to);
                        (!fields.is_empty()).then_some((Kind::Different, fields))
                    }
                };
                let count = |report: &mut Reconciliation, kind: Kind, by: i64| {
                    let count = match kind {
                        Kind::Missing => &mut report.missing,
                        Kind::Extra => &mut report.extra,
                        Kind::Different => &mut report.different,
                    };
                    *count = count.saturating_add_signed(by);
                };
                count(report, first.kind, -1);
                let Some((kind, fields)) = now else {
                    report.passing += 1;
                    continue;
                };
                count(report, kind, 1);
                for field in &fields {
                    *report.fields.entry(field.field.clone()).or_default() += 1;
                }
                confirmed.push(Difference { kind, fields, ..first.clone() });
            }
        }
        confirmed.sort_by(|left, right| (left.kind, &left.key).cmp(&(right.kind, &right.key)));
        Ok(confirmed)
    }

    /// Returns the fields that differ, as both sides hold them now.
    fn differences(&self, left: &Rows, at: usize, right: &Rows, to: usize) -> Vec<FieldDifference> {
        let differs = |field: &&Field| {
            !field.ways.iter().any(|way| {
                let known = |rows: &Rows, value: Value, row: usize| value.is_own() || rows.rows[row].1.is_some();
                if !known(left, way[0], at) || !known(right, way[1], to) {
                    return false;
                }
                let (ours, theirs) = (left.text(way[0], at), right.text(way[1], to));
                ours == theirs || field.tolerance.is_some_and(|most| near(ours.as_deref(), theirs.as_deref(), most))
            })
        };
        let told = |field: &Field| {
            let way = field.ways.first();
            let text = |rows: &Rows, half: usize, row: usize| Some(rows.text(way?[half], row)?.into_owned());
            FieldDifference { field: field.name.clone(), source: text(left, 0, at), target: text(right, 1, to) }
        };
        self.fields.iter().filter(differs).map(told).collect()
    }

    /// Fetches the records of differences as a side has them now.
    async fn found(
        &self,
        half: usize,
        end: &dyn Endpoint,
        differences: &[Difference],
        store: &Store,
        sync: &str,
    ) -> Result<Fetched, Error> {
        let Half { read, tie, key, .. } = &self.halves[half];
        let mut fetched = Fetched { parts: Vec::new(), rows: HashMap::new(), refused: HashSet::new() };
        // What only the other side had is looked for by its key, the rest as its own side knows it.
        let own = |difference: &&Difference| half == 0 && difference.kind != Kind::Extra;
        let (ours, others): (Vec<&Difference>, Vec<&Difference>) = differences.iter().partition(own);
        let ties: Vec<String> = ours.iter().map(|difference| difference.record.clone()).collect();
        let keys: Vec<String> =
            others.iter().map(|difference| difference.key.clone()).filter(|key| !key.is_empty()).collect();
        for (column, keys) in [(*tie, ties), (0, keys)] {
            if keys.is_empty() {
                continue;
            }
            let records = pick(end, read, &read.fields[column], &keys, sync).await?;
            let rows = self.rows(half, records, store, sync, false)?;
            let part = fetched.parts.len();
            for (at, (row, _)) in rows.rows.iter().enumerate() {
                let place = (part, at);
                fetched.rows.insert(rows.text(*key, at).unwrap_or_default().into_owned(), place);
                if column == *tie {
                    fetched.rows.insert(format!("\0{}", rows.own_text(*tie, *row).unwrap_or_default()), place);
                }
            }
            for row in &rows.refused {
                fetched.refused.insert(rows.own_text(*tie, *row).unwrap_or_default().into_owned());
            }
            fetched.parts.push(rows);
        }
        Ok(fetched)
    }

    /// Returns what a link of this sync calls the records of a half.
    pub(super) fn side(&self, half: usize) -> Side {
        self.sides[half]
    }

    /// Returns the mapping.
    pub(super) fn mapping(&self) -> &str {
        &self.mapping
    }
}

/// Records that were fetched, by their key, and by what their side knows them by behind a zero byte.
struct Fetched {
    parts: Vec<Rows>,
    rows: HashMap<String, (usize, usize)>,
    refused: HashSet<String>,
}

enum Found<'f> {
    Row(&'f Rows, usize),
    Refused,
    Absent,
}

impl Fetched {
    fn find(&self, difference: &Difference) -> Found<'_> {
        let place = match difference.key.as_str() {
            "" => self.rows.get(&format!("\0{}", difference.record)),
            key => self.rows.get(key),
        };
        match place {
            Some((part, row)) => Found::Row(&self.parts[*part], *row),
            None if self.refused.contains(&difference.record) => Found::Refused,
            None => Found::Absent,
        }
    }
}

impl Value {
    fn is_own(self) -> bool {
        matches!(self, Self::Own(_))
    }
}

impl Rows {
    /// Returns what is compared of a value: none if it is empty, since Salesforce knows no empty text; times to the second,
    /// which is what it keeps.
    pub(super) fn text(&self, value: Value, at: usize) -> Option<Cow<'_, str>> {
        let (own, made) = self.rows[at];
        match value {
            Value::Own(column) => self.own_text(column, own),
            Value::Made(column) => comparable(self.made.as_ref()?.column(column).as_ref(), made?),
        }
    }

    pub(super) fn own_text(&self, column: usize, row: usize) -> Option<Cow<'_, str>> {
        comparable(self.own.column(column).as_ref(), row)
    }
}

fn comparable(column: &dyn Array, row: usize) -> Option<Cow<'_, str>> {
    let text = text_of(column, row).filter(|text| !text.is_empty())?;
    Some(match column.data_type() {
        DataType::Timestamp(..) => match text.split_once('.') {
            Some((second, _)) => format!("{second}Z").into(),
            None => text,
        },
        // A text that looks the same written with more zeros is the same number.
        DataType::Decimal128(_, scale) if *scale > 0 => {
            Cow::Owned(text.trim_end_matches('0').trim_end_matches('.').to_owned())
        }
        _ => text,
    })
}

/// True when two numbers, or two times, are no further apart; times in seconds.
fn near(ours: Option<&str>, theirs: Option<&str>, most: f64) -> bool {
    let number = |text: &str| {
        let time = || Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros() as f64 / 1e6);
        text.parse::<f64>().ok().or_else(time)
    };
    let (Some(ours), Some(theirs)) = (ours.and_then(number), theirs.and_then(number)) else { return false };
    // A hair more, for what has no exact binary fraction.
    (ours - theirs).abs() <= most + f64::EPSILON * ours.abs().max(theirs.abs())
}

/// Returns those records of a read whose field has one of these values.
pub(super) async fn pick(
    end: &dyn Endpoint,
    read: &Read,
    field: &str,
    keys: &[String],
    sync: &str,
) -> Result<RecordBatch, Error> {
    if end.capabilities().two_way {
        return Ok(end.pick(read, field, keys).await?.records);
    }
    let wanted: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let broken = |error| Error::batch(sync, error);
    let mut found: Vec<RecordBatch> = Vec::new();
    let mut stream = end.read(read.clone()).await?;
    while let Some(batch) = stream.next().await.transpose()? {
        let column = batch.records.schema_ref().index_of(field).map_err(broken)?;
        let keys = batch.records.column(column);
        let is_wanted: BooleanArray = (0..batch.records.num_rows())
            .map(|row| Some(text_of(keys.as_ref(), row).is_some_and(|key| wanted.contains(key.as_ref()))))
            .collect();
        if is_wanted.true_count() > 0 || found.is_empty() {
            found.push(filter_record_batch(&batch.records, &is_wanted).map_err(broken)?);
        }
    }
    let Some(first) = found.first() else {
        return Ok(RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty())));
    };
    concat_batches(first.schema_ref(), &found).map_err(broken)
}

/// What there is to compare where records go one way: what the mapping makes of the source, and what the target holds.
async fn rows(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<([Half; 2], Vec<Field>), Error> {
    let prepared = prepare(sync, ends[0], ends[1], store, parents).await?;
    if prepared.creates {
        let what = format!("{} is not there yet: run {} first", prepared.target.entity.name, sync.name);
        return Err(endpoint::Error::new(Class::Mapping, what).into());
    }
    let (left, entity) = (read(&prepared, sync, None), prepared.target.entity);
    let made = prepared.plan.columns();
    let key = prepared.target.key;
    let mut names = vec![key.clone()];
    let mut fields = Vec::new();
    for (at, column) in made.fields().iter().enumerate().filter(|(_, column)| *column.name() != key) {
        fields.push(Field {
            name: column.name().clone(),
            ways: vec![[Value::Made(at), Value::Own(names.len())]],
            tolerance: None,
        });
        names.push(column.name().clone());
    }
    let mut tie = 0;
    if let (Side::Salesforce, Some(id)) = (sync.direction.target(), entity.key.first()) {
        tie = names.iter().position(|name| name == id).unwrap_or(names.len());
        if tie == names.len() {
            names.push(id.clone());
        }
    }
    let filter = match sync.direction.target() {
        Side::Salesforce => sync.definition.salesforce.filter.clone(),
        Side::External => sync.definition.external.filter.clone(),
    };
    let key = Value::Made(made.index_of(&key).unwrap_or_default());
    let right =
        Read { entity, fields: names, filter, window: None, from: None, deleted: false, batch_rows: BATCH_ROWS };
    let tie_left = prepared.plan.record_id.unwrap_or(0);
    let halves = [
        Half { read: left, plan: Some(prepared.plan), key, tie: tie_left },
        Half { read: right, plan: None, key: Value::Own(0), tie },
    ];
    Ok((halves, fields))
}

/// What there is to compare where records go both ways: each field as outside holds it and would, or as Salesforce does.
async fn pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<([Half; 2], Vec<Field>), Error> {
    let prepared = prepare_pairs(sync, ends, store, parents).await?;
    let reads = [Side::Salesforce, Side::External].map(|side| prepared.reading(sync, side));
    let mut fields = Vec::new();
    for (at, field) in prepared.plan.fields.iter().enumerate() {
        let own = |side: usize| prepared.own[side][at].map(Value::Own);
        let mut ways = Vec::new();
        if let (Some(made), Some(own)) = (field.given(Side::External).map(Value::Made), own(1)) {
            ways.push([made, own]);
        }
        if let (Some(own), Some(made)) = (own(0), field.given(Side::Salesforce).map(Value::Made)) {
            ways.push([own, made]);
        }
        if !ways.is_empty() {
            fields.push(Field { name: field.name.clone(), ways, tolerance: None });
        }
    }
    let plan = prepared.plan;
    let tie = plan.to_external.record_id.unwrap_or(0);
    let [ours, theirs] = reads;
    let halves = [
        Half { read: ours, plan: Some(plan.to_external), key: Value::Own(0), tie },
        Half { read: theirs, plan: Some(plan.to_salesforce), key: Value::Own(0), tie: 0 },
    ];
    Ok((halves, fields))
}
