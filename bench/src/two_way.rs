//! `bench two-way [PAIRS]`: pairs a second through merge and link store, both sides in memory, state in SQLite.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use async_trait::async_trait;
use endpoint::{Batches, Capabilities, Catalog, Guarded, Read, Result, Sink, Source, Target};
use engine::{Deletes, Options, Sync, TwoWayRules};
use futures::StreamExt as _;
use mapping::{Definition, Direction};
use model::{ChangeBatch, Entity, Field, Outcome, Side, Type, text_of};
use state::Store;

use crate::{Failed, per_second, status};

/// Fields besides the key.
const FIELDS: usize = 10;
/// The field that changes.
const CHANGING: usize = 3;
/// Rows of a batch.
const ROWS: usize = 8192;

/// One side: a table in memory; clones share it.
#[derive(Clone)]
struct Table(Arc<Inner>);

impl std::ops::Deref for Table {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

struct Inner {
    side: Side,
    rows: Mutex<RecordBatch>,
    /// What was written to the field that changes, by row.
    written: Mutex<HashMap<u32, String>>,
    places: HashMap<String, u32>,
}

fn field_name(side: Side, at: usize) -> String {
    if side == Side::Salesforce { format!("F{at}__c") } else { format!("f{at}") }
}

impl Table {
    fn new(side: Side, pairs: usize) -> Result<Self> {
        let rows = rows(side, pairs, 0);
        let places = (0..pairs).map(|row| (identity(side, row), row as u32)).collect();
        Ok(Self(Arc::new(Inner { side, rows: Mutex::new(rows), written: Mutex::default(), places })))
    }

    fn batch(&self) -> RecordBatch {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes one field of every twentieth record.
    fn change(&self, pairs: usize) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows(self.side, pairs, 20);
    }

    /// Returns some fields of some rows, as they are now.
    fn at(&self, fields: &[String], rows: &UInt32Array) -> RecordBatch {
        let all = self.batch();
        let columns: Vec<usize> = fields.iter().filter_map(|name| all.schema().index_of(name).ok()).collect();
        let found = all.project(&columns).and_then(|all| take_record_batch(&all, rows)).expect("rows that are there");
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(place) = found.schema().index_of(&field_name(self.side, CHANGING)) else { return found };
        let mut columns = found.columns().to_vec();
        let text = |(at, row): (usize, &u32)| {
            let new = written.get(row).cloned();
            new.or_else(|| text_of(found.column(place).as_ref(), at).map(std::borrow::Cow::into_owned))
        };
        columns[place] = Arc::new(rows.values().iter().enumerate().map(text).collect::<StringArray>());
        RecordBatch::try_new(found.schema(), columns).expect("the same columns")
    }
}

fn identity(side: Side, row: usize) -> String {
    if side == Side::Salesforce { format!("001Sb{row:010}AAA") } else { format!("K-{row:08}") }
}

fn rows(side: Side, pairs: usize, every: usize) -> RecordBatch {
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    let text = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
    let key = if side == Side::Salesforce { "Key__c" } else { "id" };
    columns.push((key.to_owned(), text((0..pairs).map(|row| format!("K-{row:08}")).collect()), true));
    if side == Side::Salesforce {
        columns.push(("Id".to_owned(), text((0..pairs).map(|row| identity(side, row)).collect()), true));
    }
    let shift = if side == Side::Salesforce { 0 } else { 7 };
    for at in 0..FIELDS {
        let changed = |row: usize| every > 0 && at == CHANGING && (row + shift).is_multiple_of(every);
        let value = |row: usize| if changed(row) { format!("new {row}") } else { format!("value {at} of {row}") };
        columns.push((field_name(side, at), text((0..pairs).map(value).collect()), true));
    }
    columns.push(("changed".to_owned(), Arc::new(Int64Array::from(vec![1; pairs])), true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

#[async_trait]
impl Catalog for Table {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: false,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: false,
            write_rows: 10_000,
            two_way: true,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        Ok(vec!["t".to_owned()])
    }

    async fn describe(&self, name: &str) -> Result<Entity> {
        let rows = self.batch();
        let schema = rows.schema();
        let fields = schema.fields().iter().map(|field| {
            let kind = if field.name() == "changed" { Type::Integer } else { Type::Text };
            Field { unique: ["Key__c", "id"].contains(&field.name().as_str()), ..Field::new(field.name(), kind) }
        });
        let key = if self.side == Side::Salesforce { "Id" } else { "id" };
        Ok(Entity::new(name).with_key([key]).with_fields(fields.collect::<Vec<_>>()))
    }
}

#[async_trait]
impl Source for Table {
    async fn now(&self, _: &Entity) -> Result<Option<String>> {
        Ok(None)
    }

    async fn count(&self, _: &Read) -> Result<u64> {
        Ok(self.batch().num_rows() as u64)
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        let (this, count) = (self.clone(), self.places.len());
        let parts = (0..count).step_by(ROWS).map(move |from| {
            let rows: UInt32Array = (from..count.min(from + ROWS)).map(|row| row as u32).collect();
            Ok(ChangeBatch::upserts(this.at(&read.fields, &rows), None))
        });
        Ok(futures::stream::iter(parts).boxed())
    }

    async fn fetch(&self, _: &Entity, fields: &[String], _: &str, keys: &[String]) -> Result<ChangeBatch> {
        let rows: UInt32Array = keys.iter().filter_map(|key| self.places.get(key).copied()).collect();
        Ok(ChangeBatch::upserts(self.at(fields, &rows), None))
    }
}

#[async_trait]
impl Sink for Table {
    async fn write(&self, _: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        Ok(vec![Outcome::Unchanged; changes.len()])
    }

    /// Writes as a system that takes no time would.
    async fn revise(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        let column = |name: &str| changes.records.column_by_name(name).expect("a column");
        let (keys, values) = (column(&target.key), column(&field_name(self.side, CHANGING)));
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for row in 0..keys.len() {
            let key = text_of(keys.as_ref(), row).expect("an update names its record");
            let value = text_of(values.as_ref(), row).unwrap_or_default().into_owned();
            written.insert(self.places[key.as_ref()], value);
        }
        Ok(vec![Outcome::Applied { created: false, id: None }; changes.revisions.len()])
    }
}

pub(crate) async fn run(pairs: usize) -> std::result::Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("state.db"))?;
    let fields: String = (0..FIELDS).map(|at| format!("  - {{ salesforce: F{at}__c, external: f{at} }}\n")).collect();
    let text = format!(
        "mapping: m\nversion: 1\nsalesforce: {{ connection: a, object: t, key: Key__c }}\n\
         external: {{ connection: b, entity: t, key: id }}\nfields:\n{fields}"
    );
    let sync = Sync {
        name: "s".to_owned(),
        definition: Definition::parse(&text)?,
        direction: Direction::ToExternal,
        deletes: Deletes::Ignore,
        brake: 1.0,
        drift: engine::Drift::Ignore,
        history: engine::History::None,
        version: None,
        two_way: Some(TwoWayRules::default()),
        circle: Vec::new(),
    };
    let (ours, theirs) = (Table::new(Side::Salesforce, pairs)?, Table::new(Side::External, pairs)?);
    let options = Options { force: true, ..Options::default() };
    for what in ["first pairing", "5% changed on each side, everything read"] {
        println!("memory: {} MB with both tables", status("VmRSS:"));
        let started = Instant::now();
        let report = engine::run_pairs(&sync, [&ours, &theirs], &store, &|_| None, &options, &|_| {}).await?;
        per_second(what, pairs as u64, started.elapsed());
        println!(
            "  {} updated; map {} ms, write {} ms, commit {} ms; memory: {} MB now, {} MB at most",
            report.counts.updated,
            report.map_ms,
            report.write_ms,
            report.commit_ms,
            status("VmRSS:"),
            status("VmHWM:")
        );
        ours.change(pairs);
        theirs.change(pairs);
    }
    let bytes = std::fs::metadata(folder.path().join("state.db"))?.len();
    println!("state: {:.0} bytes a link", bytes as f64 / pairs as f64);
    Ok(())
}
