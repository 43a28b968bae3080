//! Runs over endpoints in memory: a source that loses rows must not look well.

mod simulation;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use async_trait::async_trait;
use endpoint::{Batches, Capabilities, Catalog, Error, Read, Result, Sink, Source, Target};
use engine::{Deletes, Options, Sync};
use futures::StreamExt as _;
use mapping::{Definition, Direction};
use model::{ChangeBatch, Class, Entity, Field, Op, Outcome, Type, text_of};
use state::Store;

const ROWS: usize = 30;

/// A table of keys that forgets its last row in so many reads, though it counts it.
#[derive(Default)]
struct Memory {
    forgetful: AtomicU32,
    /// True for records that have an id and no key.
    keyless: bool,
    written: Mutex<Vec<String>>,
    deleted: AtomicU32,
}

#[async_trait]
impl Catalog for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: false,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: false,
            write_rows: 10,
            two_way: false,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        Ok(vec!["t".to_owned()])
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        let key = if self.keyless { "id" } else { "k" };
        Ok(Entity::new(entity).with_key([key]).with_fields(["id", "k"].map(|name| Field::new(name, Type::Text))))
    }
}

#[async_trait]
impl Source for Memory {
    async fn now(&self, _: &Entity) -> Result<Option<String>> {
        Ok(None)
    }

    async fn count(&self, _: &Read) -> Result<u64> {
        Ok(ROWS as u64)
    }

    async fn read(&self, read: Read) -> Result<Batches> {
        let forgets = self.forgetful.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        let rows = ROWS - usize::from(forgets.is_ok());
        let columns = read.fields.iter().map(|name| {
            let value = |row: usize| (name != "k" || !self.keyless).then(|| format!("{name}-{row:02}"));
            (name, Arc::new((0..rows).map(value).collect::<StringArray>()) as ArrayRef, true)
        });
        let records = RecordBatch::try_from_iter_with_nullable(columns);
        let records = records.map_err(|error| Error::new(Class::Internal, "no batch").caused_by(error))?;
        Ok(futures::stream::iter([Ok(ChangeBatch::upserts(records, None))]).boxed())
    }
}

#[async_trait]
impl Sink for Memory {
    async fn write(&self, _: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = changes.ops.iter().filter(|op| **op == Op::Delete).count();
        self.deleted.fetch_add(gone as u32, Ordering::AcqRel);
        for row in (0..changes.len()).filter(|row| changes.ops[*row] == Op::Upsert) {
            written.extend(text_of(changes.records.column(0).as_ref(), row).map(std::borrow::Cow::into_owned));
        }
        Ok(vec![Outcome::Applied { created: true, id: None }; changes.len()])
    }
}

fn sync(direction: Direction) -> std::result::Result<Sync, Box<dyn std::error::Error>> {
    let text = "mapping: m\nversion: 1\nsalesforce: {connection: c, object: t, key: k}\n\
                external: {connection: e, entity: t, key: k}\nfields: []\n";
    let definition = Definition::parse(text)?;
    Ok(Sync {
        name: "s".to_owned(),
        definition,
        direction,
        deletes: Deletes::Propagate,
        brake: 1.0,
        drift: engine::Drift::Ignore,
        history: engine::History::None,
        version: None,
        two_way: None,
        circle: Vec::new(),
    })
}

/// Runs a sync again and again from a source that forgets a row in so many reads of each run; returns of the last run
/// whether it was green, of all the rows that came and went, and whether a window is still open.
async fn run(forgetful: &[u32]) -> std::result::Result<(bool, usize, u32, bool), Box<dyn std::error::Error>> {
    let sync = sync(Direction::ToSalesforce)?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("state.db"))?;
    let (source, target) = (Memory::default(), Memory::default());
    let mut green = false;
    for reads in forgetful {
        source.forgetful.store(*reads, Ordering::Release);
        let report = engine::run(&sync, &source, &target, &store, &|_| None, &Options::default(), &|_| {}).await?;
        green = report.green();
    }
    let mut written = target.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
    written.sort();
    written.dedup();
    Ok((green, written.len(), target.deleted.load(Ordering::Acquire), store.checkpoint("s")?.open.is_some()))
}

#[tokio::test]
async fn a_row_that_is_missing_once_is_read_again() -> std::result::Result<(), Box<dyn std::error::Error>> {
    assert_eq!(run(&[0]).await?, (true, ROWS, 0, false));
    assert_eq!(run(&[1]).await?, (true, ROWS, 0, false), "the window was read a second time");
    Ok(())
}

#[tokio::test]
async fn a_run_with_missing_rows_is_red_and_keeps_its_window() -> std::result::Result<(), Box<dyn std::error::Error>> {
    assert_eq!(run(&[9]).await?, (false, ROWS - 1, 0, true));
    assert_eq!(run(&[0, 9]).await?, (false, ROWS, 0, true), "what was not read is not taken for deleted");
    assert_eq!(run(&[9, 0]).await?, (true, ROWS, 0, false), "the next run mends it");
    Ok(())
}

#[tokio::test]
async fn each_record_without_a_key_keeps_its_own_dead_letter() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("state.db"))?;
    let source = Memory { keyless: true, ..Memory::default() };
    let target = Memory::default();
    for _ in 0..2 {
        let sync = sync(Direction::ToExternal)?;
        engine::run(&sync, &source, &target, &store, &|_| None, &Options::default(), &|_| {}).await?;
        let letters = store.dead_letters(state::WantedLetters { sync: Some("s"), ..Default::default() }, 0, 100)?;
        let mut records: Vec<&str> = letters.iter().map(|letter| letter.record.as_str()).collect();
        records.sort_unstable();
        records.dedup();
        let counts = (letters.len(), records.len());
        assert_eq!(counts, (ROWS, ROWS), "one for each record, and not a second by the next run");
    }
    Ok(())
}
