//! One run of one sync: a window is opened, read, settled and closed.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use chrono::Utc;
use endpoint::{Endpoint, Window, is_captured};
use futures::StreamExt as _;
use mapping::Parents;
use model::{Position, Side};
use serde_json::{Map, Value, json};
use state::{Checkpoint, Commit, DeadLetter, Open, Owner, Store};
use tokio_util::sync::CancellationToken;

use crate::chunk::{Chunk, source_key};
use crate::follow::listen;
use crate::prepare::{Prepared, drift_between, is_outdated, prepare, read, rules_of, why_full};
use crate::report::{Error, Progress, Receipt, Report};
use crate::settle::{Storing, Writing, writing};
use crate::stream::Following;
use crate::sync::{Deletes, Drift, History, Sync};
use crate::two_way::capture;

/// How a run is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Reads everything, whatever the checkpoint says.
    pub full: bool,
    /// Which dead letters are tried again, besides what is parked.
    pub replay: Replay,
    /// Goes on where a brake of a two-way sync, or a drift, would stop it.
    pub force: bool,
    /// Writes a first slice only.
    pub pilot: Option<Pilot>,
    /// Of an undo: says what would be put back, and writes nothing.
    pub dry_run: bool,
    /// The pause before a write that failed for the moment is tried again; it doubles each time.
    pub backoff: Duration,
    /// Stops the run at the next checkpoint.
    pub stop: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        let backoff = Duration::from_millis(250);
        Self {
            full: false,
            replay: Replay::None,
            force: false,
            pilot: None,
            dry_run: false,
            backoff,
            stop: CancellationToken::new(),
        }
    }
}

impl Options {
    /// Returns what the audit chain tells of how a run is asked for: nothing of one like any other.
    pub(crate) fn told(&self) -> Value {
        let mut told = Map::new();
        for (name, is_so) in [("full", self.full), ("force", self.force)] {
            if is_so {
                told.insert(name.to_owned(), true.into());
            }
        }
        match &self.replay {
            Replay::None => {}
            Replay::All => drop(told.insert("replays".to_owned(), "all".into())),
            Replay::Only(letters) => drop(told.insert("replays".to_owned(), json!(letters))),
        }
        if let Some(Pilot { rows, filter }) = &self.pilot {
            told.insert("pilot".to_owned(), json!({"rows": rows, "where": filter.is_some()}));
        }
        Value::Object(told)
    }
}

/// Which dead letters are tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Replay {
    /// None.
    #[default]
    None,
    /// All of the sync.
    All,
    /// Those with these numbers; a two-way sync looks at all of its own.
    Only(BTreeSet<i64>),
}

impl Replay {
    /// True where any is.
    pub(crate) fn any(&self) -> bool {
        *self != Self::None
    }

    /// True where this one is.
    pub(crate) fn takes(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::None => letter.state == "parked",
            Self::All => true,
            Self::Only(these) => letter.state == "parked" || these.contains(&letter.id),
        }
    }
}

/// A first slice: records that are written before the rest, to see whether a mapping is right. The checkpoint stays where it is. Of a
/// two-way sync these are records of each side, or, where a condition is given, those of Salesforce.
#[derive(Debug, Clone, Default)]
pub struct Pilot {
    /// Most records; all if it is not given.
    pub rows: Option<u64>,
    /// A condition besides that of the mapping, in the source's language.
    pub filter: Option<String>,
}

impl Pilot {
    /// Returns a condition of the mapping with that of the slice.
    pub(crate) fn narrowed(&self, own: Option<String>) -> Option<String> {
        match (own, &self.filter) {
            (Some(own), Some(more)) => Some(format!("({own}) AND ({more})")),
            (own, more) => own.or_else(|| more.clone()),
        }
    }
}

/// Begins a run, and names it in all that is logged of it. `how` is what the audit chain tells of it.
pub(crate) fn begin_run(store: &Store, sync: &Sync, how: &Value) -> Result<i64, Error> {
    let run = store.begin_run(&sync.name, Utc::now(), how)?;
    tracing::Span::current().record("run", run);
    Ok(run)
}

/// Runs a sync to its end and returns what it did. A second run of the same sync at the same time is
/// refused; a run that was cut off goes on where it was.
///
/// # Errors
///
/// Why it could not go on. Everything up to the checkpoint is done then, and nothing behind it is lost.
#[tracing::instrument(level = "error", skip_all, fields(sync = sync.name, run))]
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
    let mut running = running(sync, source, target, store, parents, options, progress).await?;
    let result = if let Some(error) = running.drifted() {
        Err(error)
    } else if let Some(pilot) = &options.pilot {
        running.pilot(pilot).await
    } else if source.capabilities().only_tells {
        let told = |report: &Report| progress(Progress { rows: report.counts.read, of: report.counts.read });
        listen(&mut running, Following { drain: true, ..Following::default() }, &told).await
    } else {
        running.whole().await
    };
    // However it ended: what was written is to be seen.
    let finished = running.finish().await;
    let result = result.and(finished);
    running.report.calls = source.calls() + target.calls() - calls;
    running.report.calls_left = source.allowance().or(target.allowance());
    ended(running, result)
}

/// Begins a run: what it needs is checked and made.
pub(crate) async fn running<'r>(
    sync: &'r Sync,
    source: &'r dyn Endpoint,
    target: &'r dyn Endpoint,
    store: &'r Store,
    parents: Parents<'_>,
    options: &'r Options,
    progress: &'r (dyn Fn(Progress) + Send + std::marker::Sync),
) -> Result<Running<'r>, Error> {
    let calls_before = source.calls() + target.calls();
    let mut prepared = prepare(sync, source, target, store, parents).await?;
    let checkpoint = store.checkpoint(&sync.name)?;
    let (to, entity) = (sync.direction.target(), &prepared.target.entity);
    prepared.target.entity.rules = rules_of(sync, to, target, entity, store, &checkpoint).await?;
    if is_captured(&prepared.source) {
        capture::begin(sync, source, &prepared.source, &prepared.plan.source_fields[0]).await?;
    }
    let drift = drift_between(sync, &prepared, store)?;
    let halted = sync.drift == Drift::Stop && !drift.is_empty() && !options.force;
    if prepared.creates && !halted {
        target.create(&prepared.target.entity).await?;
    }
    if !prepared.adds.is_empty() {
        target.add_fields(&prepared.target.entity, &prepared.adds).await?;
    }
    if sync.history != History::None {
        store.forget_images(Utc::now() - chrono::TimeDelta::days(state::IMAGE_DAYS))?;
    }
    let run = begin_run(store, sync, &options.told())?;
    let (dead, parked) = store.count_dead_letters(Some(&sync.name))?;
    let lineage = prepared.plan.lineage();
    Ok(Running {
        sync,
        source,
        target,
        store,
        options,
        progress,
        prepared,
        checkpoint,
        letters: dead + parked > 0,
        calls_before,
        report: Report { run, sync: sync.name.clone(), drift, version: sync.version, lineage, ..Report::default() },
        writing: VecDeque::new(),
        storing: None,
    })
}

/// Ends a run: notes what came of it, and returns that.
pub(crate) fn ended(running: Running<'_>, result: Result<(), Error>) -> Result<Report, Error> {
    let Running { report, prepared, sync, store, .. } = running;
    let run = report.run;
    let outcome = match &result {
        Ok(()) if report.green() => "green",
        Err(error) if error.class() == model::Class::Stopped => "stopped",
        _ => "red",
    };
    if outcome == "green" {
        store.remember_catalog(&sync.name, sync.direction.source(), &prepared.source)?;
        store.remember_catalog(&sync.name, sync.direction.target(), &prepared.target.entity)?;
    }
    let body = serde_json::to_string(&report).unwrap_or_default();
    // Why it failed matters more than that this could not be noted.
    let noted = store.end_run(run, outcome, &body, Utc::now());
    result?;
    noted?;
    Ok(report)
}

pub(crate) struct Running<'r> {
    pub(crate) sync: &'r Sync,
    pub(crate) source: &'r dyn Endpoint,
    pub(crate) target: &'r dyn Endpoint,
    pub(crate) store: &'r Store,
    pub(crate) options: &'r Options,
    progress: &'r (dyn Fn(Progress) + Send + std::marker::Sync),
    pub(crate) prepared: Prepared,
    pub(crate) checkpoint: Checkpoint,
    /// True when the sync may have dead letters or parked changes.
    pub(crate) letters: bool,
    pub(crate) report: Report,
    /// Calls of both sides before it began.
    calls_before: u64,
    /// What is being written.
    pub(crate) writing: VecDeque<Writing<'r>>,
    /// What was written last, while its outcomes are stored.
    pub(crate) storing: Option<Storing>,
}

impl Running<'_> {
    /// Returns whose commits these are: links count as seen by the run that opened the window.
    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner {
            sync: &self.sync.name,
            mapping: &self.sync.definition.mapping,
            source: self.sync.direction.source(),
            run: self.checkpoint.open.as_ref().map_or(self.report.run, |open| open.run),
        }
    }

    fn calls(&self) -> u64 {
        self.source.calls() + self.target.calls()
    }

    pub(crate) fn source_side(&self) -> Side {
        self.sync.direction.source()
    }

    pub(crate) fn batch_error(&self) -> impl Fn(arrow::error::ArrowError) -> Error + use<> {
        let sync = self.sync.name.clone();
        move |error| Error::batch(&sync, error)
    }

    pub(crate) fn commit_checkpoint(&self) -> Result<(), Error> {
        let commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        Ok(self.store.commit(self.owner(), &commit)?)
    }

    /// Runs to the end; all that was settled is stored then, however it ends.
    pub(crate) async fn whole(&mut self) -> Result<(), Error> {
        let done = self.windows().await;
        let written = self.all_written().await;
        let stored = self.stored().await;
        done.and(written).and(stored)
    }

    /// Lets others see what was written.
    pub(crate) async fn finish(&self) -> Result<(), Error> {
        Ok(self.target.finish(&self.prepared.target).await?)
    }

    /// Returns why it may not go on where an entity is another than before, if it may not.
    pub(crate) fn drifted(&self) -> Option<Error> {
        let drift = &self.report.drift;
        let halted = self.sync.drift == Drift::Stop && !drift.is_empty() && !self.options.force;
        halted.then(|| Error::Drift { sync: self.sync.name.clone(), what: drift.clone() })
    }

    /// Writes the first slice of what a full run would.
    async fn pilot(&mut self, pilot: &Pilot) -> Result<(), Error> {
        let mut read = read(&self.prepared, self.sync, None);
        read.filter = pilot.narrowed(read.filter);
        self.report.pilot = true;
        let most = pilot.rows.unwrap_or(u64::MAX);
        let before = self.source.count(&read).await?.min(most);
        let limit = self.target.capabilities().write_rows;
        let mut stream = self.source.read(read.clone()).await?;
        let mut chunk = Chunk::default();
        let mut left = most;
        while left > 0 {
            let batch = tokio::select! {
                batch = stream.next() => batch.transpose()?,
                () = self.options.stop.cancelled() => return Err(Error::Stopped),
            };
            let Some(mut batch) = batch else { break };
            let rows = usize::try_from(left).unwrap_or(usize::MAX).min(batch.records.num_rows());
            let records = batch.records.slice(0, rows);
            batch.unreadable.truncate(usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(rows));
            let read = (rows + batch.unreadable.len()) as u64;
            left -= read;
            self.report.receipt.read += read;
            self.report.counts.read += read;
            for row in 0..rows {
                self.report.receipt.keys_read.add(&source_key(&records, row));
            }
            for row in &batch.unreadable {
                self.report.receipt.keys_read.add(&row.key);
            }
            chunk.unreadable.extend(batch.unreadable);
            if rows > 0 {
                let mapped = self.map(&records)?;
                chunk.add(records, mapped);
            }
            if chunk.is_full(limit) {
                self.settle(std::mem::take(&mut chunk), true, &[]).await?;
            }
            (self.progress)(Progress { rows: self.report.receipt.read, of: before });
        }
        drop(stream);
        self.settle(chunk, true, &[]).await?;
        self.report.receipt.source = (before, self.source.count(&read).await?.min(most));
        Ok(())
    }

    async fn windows(&mut self) -> Result<(), Error> {
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
            self.rewind();
            self.read_window(window.clone()).await?;
        }
        if let Some(until) = open.until.as_deref() {
            self.refresh(window.clone(), until).await?;
        }
        self.release().await?;
        // A row that was not read must not be taken for one that is gone.
        if self.sync.deletes == Deletes::Propagate && self.report.receipt.balances() {
            self.deletions(window).await?;
        }
        if self.report.receipt.balances() {
            let since = open.until.or(self.checkpoint.since.take());
            // Without a cursor the sync has still run to its end: that is what an empty text says.
            let since = since.or(Some(String::new()));
            let refreshed = if open.full { since.clone() } else { self.checkpoint.refreshed.take() };
            self.checkpoint = Checkpoint { since, open: None, mapping: self.sync.definition.digest, refreshed };
        } else {
            self.rewind();
        }
        self.commit_checkpoint()
    }

    /// Lets the window in progress be read from its start.
    fn rewind(&mut self) {
        if let Some(open) = &mut self.checkpoint.open {
            (open.position, open.rows) = (None, 0);
        }
    }

    /// Returns the window to read: the one in progress, or a new one that ends now.
    async fn open(&mut self) -> Result<Open, Error> {
        let digest = self.sync.definition.digest;
        let same_mapping = self.checkpoint.mapping == digest;
        if let Some(open) =
            self.checkpoint.open.clone().filter(|open| same_mapping && (open.full || !self.options.full))
            && (open.full || self.is_known(open.until.as_ref()).await?)
        {
            return Ok(open);
        }
        let until = self.source.now(&self.prepared.source).await?;
        let full = self.options.full || why_full(&self.checkpoint, digest, until.as_ref()).is_some();
        let full = full || !self.is_known(until.as_ref()).await? || self.is_outdated(until.as_ref()).await?;
        let open = Open { run: self.report.run, full, until, position: None, rows: 0 };
        self.checkpoint.open = Some(open.clone());
        self.checkpoint.mapping = digest;
        self.commit_checkpoint()?;
        Ok(open)
    }

    fn window(&self, until: &str) -> Window {
        Window { since: self.checkpoint.since.clone(), until: until.to_owned() }
    }

    /// True where everything is to be read for fields that change as time goes on.
    async fn is_outdated(&self, until: Option<&String>) -> Result<bool, Error> {
        let Some(until) = until else { return Ok(false) };
        let stale = self.source.stale(&read(&self.prepared, self.sync, Some(self.window(until)))).await?;
        Ok(is_outdated(&stale, self.checkpoint.refreshed.as_deref(), until))
    }

    /// Reads records again that a window does not tell, though what their derived fields are made of changed; says how old
    /// these fields are.
    async fn refresh(&mut self, window: Option<Window>, until: &str) -> Result<(), Error> {
        let told = read(&self.prepared, self.sync, Some(self.window(until)));
        let mut stale = self.source.stale(&told).await?;
        let refreshed = if window.is_some() { self.checkpoint.refreshed.clone() } else { None };
        for field in std::mem::take(&mut stale.derived) {
            let timely = refreshed.clone().filter(|_| stale.timely.contains(&field));
            self.report.derived.insert(field, timely.unwrap_or_else(|| until.to_owned()));
        }
        // Where everything was read nothing is old.
        if window.is_none() {
            return Ok(());
        }
        let read = read(&self.prepared, self.sync, None);
        let Some(identity) = self.prepared.plan.record_id else { return Ok(()) };
        let key = self.prepared.plan.source_fields[identity].clone();
        while let Some(keys) = stale.keys.next().await.transpose()? {
            let found = self.source.pick(&read, &key, &keys).await?;
            let rows = found.records.num_rows() + found.unreadable.len();
            self.report.counts.read += rows as u64;
            let mut chunk = Chunk::default();
            chunk.unreadable = found.unreadable;
            for row in &chunk.unreadable {
                self.report.receipt.keys_read.add(&row.key);
            }
            for row in 0..found.records.num_rows() {
                self.report.receipt.keys_read.add(&source_key(&found.records, row));
            }
            if found.records.num_rows() > 0 {
                let mapped = self.map(&found.records)?;
                chunk.add(found.records, mapped);
            }
            self.settle(chunk, false, &[]).await?;
        }
        Ok(())
    }

    /// True where all that changed since the last window, up to the end of this one, is still known.
    async fn is_known(&self, until: Option<&String>) -> Result<bool, Error> {
        let Some(until) = until.filter(|_| is_captured(&self.prepared.source)) else { return Ok(true) };
        let window = self.window(until);
        Ok(self.source.holds(&read(&self.prepared, self.sync, Some(window))).await?)
    }

    #[tracing::instrument(name = "read", skip_all, fields(full = window.is_none()))]
    async fn read_window(&mut self, window: Option<Window>) -> Result<(), Error> {
        let full = window.is_none();
        let mut read = read(&self.prepared, self.sync, window);
        let asked = self.calls();
        let before = self.source.count(&read).await?;
        if self.report.calls_forecast == 0 {
            // The count is asked for once more at the end.
            let spent = self.calls() - self.calls_before + self.calls() - asked;
            let work = self.source.forecast_read_calls(before) + self.target.forecast_calls(before);
            self.report.calls_forecast = spent + work;
        }
        read.from = self.checkpoint.open.as_ref().and_then(|open| open.position.clone()).map(Position::new);
        if read.from.is_some() && !self.source.holds(&read).await? {
            tracing::info!(sync = self.sync.name, "the source can't go on from where it was; reading from the start");
            self.rewind();
            read.from = None;
        }
        self.report.receipt = Receipt { source: (before, before), ..Receipt::default() };
        self.report.receipt.read = self.checkpoint.open.as_ref().map_or(0, |open| open.rows);
        let mut stream = self.source.read(read.clone()).await?;
        let limit = self.target.capabilities().write_rows;
        // Where all is written and nothing is looked up among it, a chunk is written while the next is read, and the outcomes
        // of the one before are stored.
        let ahead = full && !self.prepared.plan.looks_up(&self.sync.definition.mapping);
        let mut chunk = Chunk::default();
        let options = self.options;
        loop {
            let waited = Instant::now();
            let next = loop {
                tokio::select! {
                    next = stream.next() => break next,
                    () = writing(&mut self.writing) => {}
                    () = options.stop.cancelled() => return Err(Error::Stopped),
                }
                // This is not to be let go of halfway.
                self.written().await?;
            };
            self.report.read_ms += millis(waited);
            let Some(batch) = next.transpose()? else { break };
            let rows = (batch.len() + batch.unreadable.len()) as u64;
            self.report.receipt.read += rows;
            self.report.counts.read += rows;
            self.report.counts.bytes += batch.records.get_array_memory_size() as u64;
            for row in 0..batch.len() {
                self.report.receipt.keys_read.add(&source_key(&batch.records, row));
            }
            for row in &batch.unreadable {
                self.report.receipt.keys_read.add(&row.key);
            }
            chunk.unreadable.extend(batch.unreadable);
            if let (Some(position), Some(open)) = (batch.position, &mut self.checkpoint.open) {
                (open.position, open.rows) = (Some(position.as_str().to_owned()), self.report.receipt.read);
            }
            if batch.records.num_rows() > 0 {
                let mapped = self.map(&batch.records)?;
                chunk.add(batch.records, mapped);
            }
            if rows == 0 || chunk.is_full(limit) {
                let chunk = std::mem::take(&mut chunk);
                if ahead {
                    self.settle_ahead(chunk, full).await?;
                } else {
                    self.settle(chunk, full, &[]).await?;
                }
                (self.progress)(Progress { rows: self.report.receipt.read, of: before });
            }
        }
        self.settle(chunk, full, &[]).await?;
        (self.progress)(Progress { rows: self.report.receipt.read, of: before });
        self.report.receipt.source.1 = self.source.count(&read).await?;
        Ok(())
    }

    /// Maps a batch; lookups that go through links ask the store.
    pub(crate) fn map(&mut self, records: &arrow::array::RecordBatch) -> Result<mapping::Mapped, Error> {
        let begun = Instant::now();
        let store = self.store;
        let links = |mapping: &str, side: Side, keys: &[&str]| Ok(store.counterparts(mapping, side, keys)?);
        let mapped = self.prepared.plan.apply(records, &links).map_err(self.batch_error())?;
        self.report.counts.warnings += mapped.warnings;
        self.report.map_ms += millis(begun);
        Ok(mapped)
    }
}

pub(crate) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
