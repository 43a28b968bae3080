//! One run of one sync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::cast;
use arrow::record_batch::RecordBatch;
use chrono::Utc;
use endpoint::{Endpoint, Read, Target, Window};
use futures::StreamExt as _;
use mapping::{Definition, Direction, Parents, Plan};
use model::{ChangeBatch, Entity, Field, Op, Outcome, RecordError, text_of};
use state::{Checkpoint, Commit, DeadLetter, Link, Open, Store};
use tokio_util::sync::CancellationToken;

use crate::chunk::{Chunk, base, from_json, row_json, source_key};
use crate::report::{Error, Progress, Receipt, Report};

/// Rows in a batch that is read.
const BATCH_ROWS: usize = 8_192;
/// How often a batch is written again after a passing failure.
const WRITE_TRIES: u32 = 4;
/// The first pause before that; it doubles.
const BACKOFF: Duration = Duration::from_millis(250);

/// What becomes of records whose counterpart is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deletes {
    /// They stay.
    #[default]
    Ignore,
    /// They are deleted, too.
    Propagate,
}

/// A sync, ready to run.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Its name.
    pub name: String,
    /// Its mapping.
    pub definition: Definition,
    /// Its direction.
    pub direction: Direction,
    /// What becomes of deleted records.
    pub deletes: Deletes,
    /// Largest share of the linked records that one run may delete, 0 to 1.
    pub brake: f64,
}

/// How a run is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Reads everything, whatever the checkpoint says.
    pub full: bool,
    /// Tries dead letters again, too, not only what is parked.
    pub replay: bool,
    /// Stops the run at the next checkpoint.
    pub stop: CancellationToken,
}

/// What a run would do.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// True when it would read everything.
    pub full: bool,
    /// Rows that it would read.
    pub rows: u64,
    /// API calls that it would take.
    pub calls: u64,
    /// Conversions that can lose something.
    pub conversions: Vec<String>,
    /// The entity that it would create first.
    pub creates: Option<String>,
}

struct Prepared {
    plan: Plan,
    source: Entity,
    target: Target,
    creates: bool,
}

/// Checks a sync against both catalogs; creates nothing.
async fn prepare(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    parents: Parents<'_>,
) -> Result<Prepared, Error> {
    let definition = &sync.definition;
    let (object, entity) = (&definition.salesforce.object.value, &definition.external.entity.value);
    let (from, to) = match sync.direction {
        Direction::ToExternal => (object, entity),
        Direction::ToSalesforce => (entity, object),
    };
    let mut source_entity = source.describe(from).await?;
    if let (Direction::ToSalesforce, Some(cursor)) = (sync.direction, &definition.external.cursor) {
        source_entity.cursor = Some(cursor.value.clone());
    }
    let (target_entity, creates) = match target.describe(to).await {
        Err(error)
            if definition.external.create
                && sync.direction == Direction::ToExternal
                && error.class() == model::Class::Mapping =>
        {
            (designed(definition, &source_entity), true)
        }
        described => (described?, false),
    };
    let plan =
        Plan::new(definition, sync.direction, &source_entity, &target_entity, parents).map_err(Error::Mapping)?;
    let target = Target { entity: target_entity, key: plan.target_key.clone(), sync: sync.name.clone() };
    Ok(Prepared { plan, source: source_entity, target, creates })
}

/// Designs the entity that a mapping with `create` wants, after the Salesforce fields.
fn designed(definition: &Definition, object: &Entity) -> Entity {
    let key = &definition.external.key.value;
    let like = |name: &str, field: Option<&Field>| {
        let kind = field.map_or(model::Type::Text, |field| field.kind);
        Field::new(name, kind)
    };
    let mut fields =
        vec![Field { unique: true, ..like(key, object.field(&definition.salesforce.key.value)).required() }];
    for pair in &definition.fields {
        if let Some(external) = pair.external.as_ref().filter(|external| external.value != *key) {
            let field = pair.salesforce.as_ref().and_then(|name| object.field(&name.value));
            fields.push(like(&external.value, field));
        }
    }
    Entity::new(&definition.external.entity.value).with_key([key.as_str()]).with_fields(fields)
}

fn read(prepared: &Prepared, sync: &Sync, window: Option<Window>) -> Read {
    let filter = match sync.direction {
        Direction::ToExternal => &sync.definition.salesforce.filter,
        Direction::ToSalesforce => &sync.definition.external.filter,
    };
    Read {
        entity: prepared.source.clone(),
        fields: prepared.plan.source_fields.clone(),
        filter: filter.clone(),
        window,
        from: None,
        deleted: false,
        batch_rows: BATCH_ROWS,
    }
}

/// Returns what a run would do; writes nothing.
///
/// # Errors
///
/// Whatever would keep the run from starting.
pub async fn forecast(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
) -> Result<Forecast, Error> {
    let prepared = prepare(sync, source, target, parents).await?;
    let checkpoint = store.checkpoint(&sync.name)?;
    let until = source.now(&prepared.source).await?;
    let window = match (&checkpoint.open, checkpoint.since, until) {
        (None, Some(since), Some(until)) => Some(Window { since: Some(since), until }),
        _ => None,
    };
    let full = window.is_none();
    let rows = source.count(&read(&prepared, sync, window)).await?;
    let calls = source.forecast_calls(rows) + target.forecast_calls(rows);
    let creates = prepared.creates.then(|| prepared.target.entity.name.clone());
    Ok(Forecast { full, rows, calls, conversions: prepared.plan.conversions, creates })
}

/// Runs a sync to its end and returns what it did. A second run of the same sync at the same time is
/// refused; a run that was cut off goes on where it was.
///
/// # Errors
///
/// Why it could not go on. Everything up to the checkpoint is done then, and nothing behind it is lost.
pub async fn run(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + std::marker::Sync),
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let calls = source.calls() + target.calls();
    let prepared = prepare(sync, source, target, parents).await?;
    if prepared.creates {
        target.create(&prepared.target.entity).await?;
    }
    let run = store.begin_run(&sync.name, Utc::now())?;
    let mut running = Running {
        sync,
        source,
        target,
        store,
        options,
        progress,
        prepared,
        checkpoint: store.checkpoint(&sync.name)?,
        report: Report { run, sync: sync.name.clone(), ..Report::default() },
    };
    let result = running.whole().await;
    let mut report = running.report;
    report.calls = source.calls() + target.calls() - calls;
    let outcome = match &result {
        Ok(()) if report.green() => "green",
        Err(error) if error.class() == model::Class::Stopped => "stopped",
        _ => "red",
    };
    let body = serde_json::to_string(&report).unwrap_or_default();
    store.end_run(run, outcome, &body, Utc::now())?;
    result.map(|()| report)
}

struct Running<'r> {
    sync: &'r Sync,
    source: &'r dyn Endpoint,
    target: &'r dyn Endpoint,
    store: &'r Store,
    options: &'r Options,
    progress: &'r (dyn Fn(Progress) + Send + std::marker::Sync),
    prepared: Prepared,
    checkpoint: Checkpoint,
    report: Report,
}

impl Running<'_> {
    fn mapping(&self) -> &str {
        // Links belong to the mapping and the way: either side can be the source of a sync.
        &self.sync.name
    }

    fn batch_error(&self) -> impl Fn(arrow::error::ArrowError) -> Error + use<> {
        let sync = self.sync.name.clone();
        move |source| Error::Batch { sync: sync.clone(), source }
    }

    async fn whole(&mut self) -> Result<(), Error> {
        let open = self.open().await?;
        self.report.full = open.full;
        let window = match (&open.until, open.full) {
            (Some(until), false) => Some(Window { since: self.checkpoint.since.clone(), until: until.clone() }),
            _ => None,
        };
        self.read_window(window.clone()).await?;
        if !self.report.receipt.balances() {
            // Something moved below us, or got lost: this window once more, from its start.
            tracing::warn!(sync = self.sync.name, "the receipt does not balance; reading the window again");
            if let Some(open) = &mut self.checkpoint.open {
                (open.position, open.rows) = (None, 0);
            }
            self.read_window(window.clone()).await?;
        }
        self.release().await?;
        if self.sync.deletes == Deletes::Propagate {
            self.deletions(window, &open).await?;
        }
        if self.report.receipt.balances() {
            self.checkpoint = Checkpoint { since: open.until.or(self.checkpoint.since.take()), open: None };
        } else if let Some(open) = &mut self.checkpoint.open {
            (open.position, open.rows) = (None, 0);
        }
        let commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        Ok(self.store.commit(&self.sync.name, self.mapping(), self.report.run, &commit)?)
    }

    /// Returns the window to read: the one in progress, or a new one that ends now.
    async fn open(&mut self) -> Result<Open, Error> {
        if let Some(open) = self.checkpoint.open.clone().filter(|open| open.full || !self.options.full) {
            return Ok(open);
        }
        let until = self.source.now(&self.prepared.source).await?;
        let full = self.options.full || self.checkpoint.since.is_none() || until.is_none();
        let open = Open { run: self.report.run, full, until, position: None, rows: 0 };
        self.checkpoint.open = Some(open.clone());
        let commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        self.store.commit(&self.sync.name, self.mapping(), open.run, &commit)?;
        Ok(open)
    }

    fn run_of_window(&self) -> i64 {
        self.checkpoint.open.as_ref().map_or(self.report.run, |open| open.run)
    }

    async fn read_window(&mut self, window: Option<Window>) -> Result<(), Error> {
        let full = window.is_none();
        let mut read = read(&self.prepared, self.sync, window);
        let before = self.source.count(&read).await?;
        self.report.calls_forecast = self.source.forecast_calls(before) + self.target.forecast_calls(before);
        self.report.receipt = Receipt { source: (before, before), ..Receipt::default() };
        let open = self.checkpoint.open.clone();
        self.report.receipt.read = open.as_ref().map_or(0, |open| open.rows);
        read.from = open.and_then(|open| open.position).map(model::Position::new);
        let mut stream = self.source.read(read.clone()).await?;
        let limit = self.target.capabilities().write_rows;
        let mut chunk = Chunk::default();
        loop {
            let waited = Instant::now();
            let next = tokio::select! {
                next = stream.next() => next,
                () = self.options.stop.cancelled() => return Err(Error::Stopped),
            };
            self.report.read_ms += millis(waited);
            let Some(batch) = next.transpose()? else { break };
            let rows = batch.len() as u64;
            self.report.receipt.read += rows;
            self.report.counts.read += rows;
            self.report.counts.bytes += batch.records.get_array_memory_size() as u64;
            for row in 0..batch.len() {
                self.report.receipt.keys_read.add(&source_key(&batch.records, row));
            }
            if let (Some(position), Some(open)) = (batch.position, &mut self.checkpoint.open) {
                (open.position, open.rows) = (Some(position.as_str().to_owned()), self.report.receipt.read);
            }
            let mapping = Instant::now();
            if rows > 0 {
                let mapped = self.prepared.plan.apply(&batch.records).map_err(self.batch_error())?;
                self.report.counts.warnings += mapped.warnings;
                chunk.add(batch.records, mapped);
            }
            self.report.map_ms += millis(mapping);
            if rows == 0 || chunk.is_full(limit) {
                self.settle(std::mem::take(&mut chunk), full, &[]).await?;
                (self.progress)(Progress { rows: self.report.receipt.read, of: before });
            }
        }
        self.settle(chunk, full, &[]).await?;
        (self.progress)(Progress { rows: self.report.receipt.read, of: before });
        self.report.receipt.source.1 = self.source.count(&read).await?;
        Ok(())
    }

    /// Writes a chunk and stores the outcome of each of its rows together with the checkpoint.
    /// `letters` are the dead letters that the rows come from, if they do.
    async fn settle(&mut self, chunk: Chunk, full: bool, letters: &[DeadLetter]) -> Result<(), Error> {
        let parents =
            if self.target.capabilities().group_by_parent { self.prepared.plan.parent_columns.as_slice() } else { &[] };
        let ready = chunk.ready(&self.prepared.plan.target_key, parents).map_err(self.batch_error())?;
        let mut commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        if let Some(ready) = ready {
            let keys: Vec<String> = (0..ready.source.num_rows()).map(|row| source_key(&ready.source, row)).collect();
            let names: Vec<&str> = ready.origins.iter().map(|row| keys[*row].as_str()).collect();
            // On a full read everything is written again, so that what was changed behind our back is mended.
            let known =
                if full { std::collections::HashMap::new() } else { self.store.links(self.mapping(), &names)? };
            let bases: Vec<Vec<u8>> = (0..ready.mapped.num_rows()).map(|row| base(&ready.mapped, row)).collect();
            let stale: Vec<u32> = (0..ready.mapped.num_rows())
                .filter(|row| known.get(names[*row]).is_none_or(|link| link.base != bases[*row]))
                .map(|row| row as u32)
                .collect();
            let mut outcomes = vec![Outcome::Unchanged; ready.mapped.num_rows()];
            if !stale.is_empty() {
                let rows = arrow::array::UInt32Array::from(stale.clone());
                let records = arrow::compute::take_record_batch(&ready.mapped, &rows).map_err(self.batch_error())?;
                for (row, outcome) in stale.iter().zip(self.write(&ChangeBatch::upserts(records, None)).await?) {
                    outcomes[*row as usize] = outcome;
                }
            }
            let target_key =
                ready.mapped.schema_ref().index_of(&self.prepared.plan.target_key).map_err(self.batch_error())?;
            for (row, outcome) in outcomes.into_iter().enumerate() {
                let origin = ready.origins[row];
                let link = |base: Vec<u8>| Link {
                    source: keys[origin].clone(),
                    target: text_of(ready.mapped.column(target_key).as_ref(), row).unwrap_or_default().into_owned(),
                    base,
                };
                let counts = &mut self.report.counts;
                match outcome {
                    Outcome::Refused(error) => {
                        commit.dead.push(letter(self.sync, &ready.source, origin, Op::Upsert, &error));
                    }
                    Outcome::Unchanged => {
                        counts.unchanged += 1;
                        commit.links.push(link(bases[row].clone()));
                    }
                    Outcome::Applied { created, .. } => {
                        *(if created { &mut counts.created } else { &mut counts.updated }) += 1;
                        commit.links.push(link(bases[row].clone()));
                    }
                }
                if !letters.is_empty() && commit.dead.last().is_none_or(|dead| dead.key != keys[origin]) {
                    counts.released += 1;
                    commit
                        .released
                        .extend(letters.iter().filter(|letter| letter.key == keys[origin]).map(|letter| letter.id));
                }
            }
            for (row, error) in &ready.refused {
                commit.dead.push(letter(self.sync, &ready.source, *row, Op::Upsert, error));
            }
            if letters.is_empty() {
                for key in &keys {
                    self.report.receipt.keys_settled.add(key);
                }
                for dead in &commit.dead {
                    *(if dead.state == "parked" {
                        &mut self.report.counts.parked
                    } else {
                        &mut self.report.counts.dead
                    }) += 1;
                }
            }
        }
        let committing = Instant::now();
        self.store.commit(&self.sync.name, self.mapping(), self.run_of_window(), &commit)?;
        self.report.commit_ms += millis(committing);
        Ok(())
    }

    /// Writes a batch, again after a passing failure; writing twice leaves what writing once leaves.
    async fn write(&mut self, changes: &ChangeBatch) -> Result<Vec<Outcome>, Error> {
        let writing = Instant::now();
        let mut tries = 0;
        let outcomes = loop {
            match self.target.write(&self.prepared.target, changes).await {
                Err(error) if error.class().is_transient() && tries < WRITE_TRIES => {
                    tracing::debug!(%error, tries, "writing a batch again");
                    tokio::select! {
                        () = tokio::time::sleep(BACKOFF * 2_u32.pow(tries)) => {}
                        () = self.options.stop.cancelled() => return Err(Error::Stopped),
                    }
                    tries += 1;
                }
                result => break result?,
            }
        };
        self.report.write_ms += millis(writing);
        Ok(outcomes)
    }

    /// Tries parked changes again, as long as that brings any of them home; with `replay` dead letters, too.
    async fn release(&mut self) -> Result<(), Error> {
        let mut state = if self.options.replay { None } else { Some("parked") };
        loop {
            let letters = self.store.dead_letters(Some(&self.sync.name), state)?;
            let upserts: Vec<DeadLetter> = letters.into_iter().filter(|letter| letter.op == "upsert").collect();
            if upserts.is_empty() {
                return Ok(());
            }
            let before = self.report.counts.released;
            for part in upserts.chunks(BATCH_ROWS) {
                let rows: Vec<&str> = part.iter().map(|letter| letter.record.as_str()).collect();
                let plan = &self.prepared.plan;
                let (records, _) =
                    from_json(&rows, &plan.source_fields, &plan.source_kinds).map_err(self.batch_error())?;
                if records.num_rows() == 0 {
                    continue;
                }
                let mapped = plan.apply(&records).map_err(self.batch_error())?;
                let mut chunk = Chunk::default();
                chunk.add(records, mapped);
                self.settle(chunk, false, part).await?;
            }
            state = Some("parked");
            if self.report.counts.released == before {
                return Ok(());
            }
        }
    }

    /// Deletes what is gone from the source: what it tells of a window, or what a full read did not meet.
    async fn deletions(&mut self, window: Option<Window>, open: &Open) -> Result<(), Error> {
        let told = window.is_some();
        let mut gone: Vec<String> = Vec::new();
        let (linked, unseen) = self.store.unseen(self.mapping(), open.run)?;
        if told {
            if !self.source.capabilities().tells_deletes {
                return Ok(());
            }
            let mut read = read(&self.prepared, self.sync, window);
            (read.deleted, read.fields) = (true, vec![self.prepared.plan.source_fields[0].clone()]);
            let mut stream = self.source.read(read).await?;
            while let Some(batch) = stream.next().await.transpose()? {
                let keys: Vec<String> = (0..batch.len()).map(|row| source_key(&batch.records, row)).collect();
                let names: Vec<&str> = keys.iter().map(String::as_str).collect();
                gone.extend(self.store.links(self.mapping(), &names)?.into_keys());
            }
        }
        let count = if told { gone.len() as u64 } else { unseen };
        if count as f64 > (linked as f64 * self.sync.brake).max(1.0) {
            return Err(Error::Brake { sync: self.sync.name.clone(), deletes: count, of: linked });
        }
        if !told {
            gone.extend(
                self.store.unseen_links(self.mapping(), open.run, count as usize)?.into_iter().map(|link| link.source),
            );
        }
        for part in gone.chunks(self.target.capabilities().write_rows.max(1)) {
            self.delete(part).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, sources: &[String]) -> Result<(), Error> {
        let names: Vec<&str> = sources.iter().map(String::as_str).collect();
        let links: Vec<Link> = self.store.links(self.mapping(), &names)?.into_values().collect();
        let texts: ArrayRef = Arc::new(links.iter().map(|link| Some(link.target.as_str())).collect::<StringArray>());
        let key = &self.prepared.plan.target_key;
        let kind = self.prepared.target.entity.field(key).map_or(model::Type::Text, |field| field.kind);
        let keys = cast(&texts, &kind.arrow()).map_err(self.batch_error())?;
        let records =
            RecordBatch::try_from_iter_with_nullable([(key.as_str(), keys, true)]).map_err(self.batch_error())?;
        let outcomes = self.write(&ChangeBatch::deletes(records.clone(), None)).await?;
        let mut commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        for (row, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Refused(error) => {
                    self.report.counts.dead += 1;
                    commit.dead.push(DeadLetter {
                        key: links[row].source.clone(),
                        ..letter(self.sync, &records, row, Op::Delete, &error)
                    });
                }
                outcome => {
                    self.report.counts.deleted += u64::from(outcome != Outcome::Unchanged);
                    commit.unlinked.push(links[row].source.clone());
                }
            }
        }
        Ok(self.store.commit(&self.sync.name, self.mapping(), self.run_of_window(), &commit)?)
    }
}

fn letter(sync: &Sync, records: &RecordBatch, row: usize, op: Op, error: &RecordError) -> DeadLetter {
    // What waits for a parent or a lock is tried again by every run; the rest waits for a person.
    let parked = error.code == "MISSING_PARENT" || error.class.is_transient();
    DeadLetter {
        id: 0,
        sync: sync.name.clone(),
        run: 0,
        state: if parked { "parked" } else { "dead" }.to_owned(),
        key: source_key(records, row),
        op: if op == Op::Delete { "delete" } else { "upsert" }.to_owned(),
        record: row_json(records, row),
        code: error.code.clone(),
        message: error.message.clone(),
        at: Utc::now().to_rfc3339(),
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
