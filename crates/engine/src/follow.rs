//! Following a sync that goes one way: what the source tells is mapped, written and stored as a run would, a few changes
//! at a time.
//!
//! Notices are hints, as for two-way syncs: what a record is now is fetched, and a look by the windows of a run, at first
//! and now and then, finds what was not told. A source that only tells, such as a queue, tells whole records; each is
//! given back to it only when it has an outcome.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use chrono::Utc;
use endpoint::{Endpoint, Notice, Notices, Read, is_captured};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use mapping::Parents;
use model::{Class, Op, Unreadable};
use state::{Link, Store};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::chunk::{Chunk, cell, source_key};
use crate::prepare::read;
use crate::report::{Error, Report};
use crate::run::{Options, Running, ended, running};
use crate::stream::{Before, Braked, Following, LONGEST, SHOWN, Stream, histogram, lag_of, or_silent, place_before};
use crate::sync::{Deletes, Sync};
use crate::two_way::capture;

/// Records that are settled together, at most, about.
const MANY: usize = 2_000;
/// How often what waits for a parent or a lock is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows a sync that goes one way until it is stopped, and returns what it did; `ends` are its source and its target. `progress` is called when the target is
/// in step, and after each batch.
///
/// # Errors
///
/// Why it could not go on. What was settled stays settled; the same call, or a run, goes on from there.
#[tracing::instrument(level = "error", skip_all, fields(sync = sync.name, run))]
pub async fn follow(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    options: &Options,
    following: Following,
    progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let [source, target] = ends;
    let quiet = |_| {};
    let calls = source.calls() + target.calls();
    let mut running = running(sync, source, target, store, parents, options, &quiet).await?;
    let result = listen(&mut running, following, progress).await;
    let finished = running.finish().await;
    let result = result.and(finished);
    running.report.calls = source.calls() + target.calls() - calls;
    ended(running, result)
}

/// Follows what a run was prepared for. A run of a source that only tells is this, until nothing is left to be told.
pub(crate) async fn listen(
    running: &mut Running<'_>,
    following: Following,
    progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
) -> Result<(), Error> {
    if let Some(error) = running.drifted() {
        return Err(error);
    }
    let plan = &running.prepared.plan;
    let only_tells = running.source.capabilities().only_tells;
    let read = read(&running.prepared, running.sync, None);
    if let Some(filter) = read.filter.as_ref().filter(|_| only_tells) {
        let message = format!("{} tells every record: leave out `where: {filter}`, or write a rule", read.entity.name);
        return Err(endpoint::Error::new(Class::Mapping, message).into());
    }
    let identity = plan.record_id.unwrap_or(0);
    let key = plan.source_fields[identity].clone();
    let place = place_before(running.store, &running.sync.name, running.source_side())?;
    let source = &running.prepared.source;
    let told = running.source.listen(source, &key, &plan.source_fields, place.as_deref()).await?;
    let follower = Follower {
        only_tells,
        read,
        identity,
        key,
        following,
        linked: 0,
        braked: Braked::default(),
        stream: Stream { since: Utc::now().to_rfc3339(), position: place, ..Stream::default() },
        lags: histogram(),
        told: 0,
        shown: Instant::now(),
        running,
    };
    follower.follow(or_silent(told), progress).await
}

struct Follower<'f, 'r> {
    running: &'f mut Running<'r>,
    following: Following,
    only_tells: bool,
    /// What a run would read.
    read: Read,
    /// The source's column that tells records apart, and its field.
    identity: usize,
    key: String,
    /// Links when it was last looked.
    linked: u64,
    braked: Braked,
    stream: Stream,
    lags: Histogram<u64>,
    /// Changes that had been told when that was last shown.
    told: u64,
    shown: Instant,
}

/// Notices that are settled together.
#[derive(Default)]
struct Batch {
    /// Records to fetch.
    keys: HashSet<String>,
    /// Whole records, in the order in which they were told.
    records: Vec<RecordBatch>,
    ops: Vec<Op>,
    unreadable: Vec<Unreadable>,
    /// When changes were committed, as far as that is known.
    committed: Vec<i64>,
    place: Option<String>,
    /// The end of a window, all of which is told.
    until: Option<String>,
    missed: Option<String>,
    drained: bool,
    settled: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn len(&self) -> usize {
        self.keys.len() + self.ops.len() + self.unreadable.len()
    }
}

impl Follower<'_, '_> {
    async fn follow(
        mut self,
        mut told: Notices,
        progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
    ) -> Result<(), Error> {
        let result = self.go_on(&mut told, progress).await;
        self.show(true)?;
        match result {
            // Somebody wanted it to end, and nothing is left half done.
            Err(Error::Stopped) if !self.following.drain => Ok(()),
            other => other,
        }
    }

    async fn go_on(
        &mut self,
        told: &mut Notices,
        progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
    ) -> Result<(), Error> {
        self.look(None).await?;
        let _kept = self.running.store.in_small_steps()?;
        progress(&self.running.report);
        let (mut look, mut again) = (Instant::now() + self.following.look, Instant::now() + AGAIN);
        loop {
            let mut batch = Batch::default();
            let shown = self.shown + SHOWN;
            tokio::select! {
                () = self.running.options.stop.cancelled() => return Err(Error::Stopped),
                Some(notice) = told.next() => {
                    self.take(&mut batch, notice?);
                    let full = Instant::now() + self.following.gather;
                    while batch.len() < MANY && !batch.drained
                        && let Ok(Some(notice)) = tokio::time::timeout_at(full, told.next()).await
                    {
                        self.take(&mut batch, notice?);
                    }
                }
                () = tokio::time::sleep_until(look), if !self.only_tells => {}
                () = tokio::time::sleep_until(again), if self.running.letters => {}
                () = tokio::time::sleep_until(shown) => {}
            }
            self.settle(&batch).await?;
            self.reach(&mut batch)?;
            if batch.len() > 0 {
                self.running.finish().await?;
            }
            for settled in batch.settled.drain(..) {
                // Whoever told it may be gone.
                let _ = settled.send(());
            }
            let now = Instant::now();
            if batch.missed.is_some() || (now >= look && !self.only_tells) {
                self.look(batch.missed.as_deref()).await?;
                look = Instant::now() + self.following.look;
            }
            if self.running.letters && now >= again {
                self.release().await?;
                again = Instant::now() + AGAIN;
            }
            if batch.len() > 0 {
                progress(&self.running.report);
            }
            if self.shown.elapsed() >= SHOWN {
                self.show(false)?;
            }
            if batch.drained && self.following.drain {
                return self.release().await;
            }
        }
    }

    /// Notes how far everything has an outcome, before whoever told it forgets it.
    fn reach(&mut self, batch: &mut Batch) -> Result<(), Error> {
        self.stream.position = batch.place.take().or(self.stream.position.take());
        // A window that was lost is looked for from its start.
        if let Some(until) = batch.until.take().filter(|_| batch.missed.is_none()) {
            self.running.checkpoint.since = Some(until);
            self.running.commit_checkpoint()?;
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Batch, notice: Notice) {
        let records = notice.records.as_ref().map_or(0, |records| records.len() + records.unreadable.len());
        let count = (notice.keys.len() + records) as u64;
        self.stream.changes += count;
        self.stream.reconnects += u64::from(notice.reconnected);
        if count > 0 {
            self.stream.told = Some(Utc::now().to_rfc3339());
        }
        if let Some(missed) = notice.missed {
            self.stream.gaps += 1;
            self.stream.last_gap = Some(missed.clone());
            batch.missed = Some(missed);
        }
        batch.committed.extend(notice.committed.into_iter().flatten());
        batch.place = notice.place.or_else(|| notice.until.clone()).or(batch.place.take());
        batch.until = notice.until.or(batch.until.take());
        batch.drained |= notice.drained;
        batch.settled.extend(notice.settled);
        batch.keys.extend(notice.keys);
        if let Some(records) = notice.records {
            batch.ops.extend(records.ops);
            batch.unreadable.extend(records.unreadable);
            if records.records.num_rows() > 0 {
                batch.records.push(records.records);
            }
        }
    }

    /// Looks for what changed since the last look, by the window of a run.
    async fn look(&mut self, why: Option<&str>) -> Result<(), Error> {
        if let Some(why) = why {
            tracing::info!(sync = self.running.sync.name, why, "not all changes were told; looking for them");
        }
        self.linked = self.running.store.unseen(self.running.owner())?.0;
        if self.only_tells {
            return Ok(());
        }
        let mut pause = self.running.options.backoff;
        loop {
            if why.is_some() && is_captured(&self.running.prepared.source) {
                // What was missed was lost, perhaps with what captures.
                let running = &*self.running;
                capture::begin(running.sync, running.source, &running.prepared.source, &self.key).await?;
            }
            match self.running.whole().await {
                Err(error) if error.class().is_transient() => self.wait(&mut pause, &error).await?,
                other => {
                    other?;
                    self.running.finish().await?;
                    self.stream.looks += 1;
                    self.linked = self.running.store.unseen(self.running.owner())?.0;
                    return Ok(());
                }
            }
        }
    }

    /// Waits before what failed for the moment is tried again.
    async fn wait(&self, pause: &mut Duration, error: &Error) -> Result<(), Error> {
        tracing::warn!(sync = self.running.sync.name, %error, "trying again");
        tokio::select! {
            () = self.running.options.stop.cancelled() => return Err(Error::Stopped),
            () = tokio::time::sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(LONGEST);
        Ok(())
    }

    /// Tries what waits for a parent or a lock again.
    async fn release(&mut self) -> Result<(), Error> {
        match self.running.release().await {
            Err(error) if error.class().is_transient() => {
                tracing::warn!(sync = self.running.sync.name, %error, "what waits is tried again later");
                Ok(())
            }
            other => other,
        }
    }

    /// Settles a batch; what fails for the moment is tried until it does not.
    async fn settle(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.len() == 0 {
            return Ok(());
        }
        let mut pause = self.running.options.backoff;
        loop {
            match self.settle_once(batch).await {
                Err(error) if error.class().is_transient() => self.wait(&mut pause, &error).await?,
                other => break other?,
            }
        }
        let now = Utc::now().timestamp_micros();
        for at in &batch.committed {
            self.lags.saturating_record((now - at).max(1).cast_unsigned());
        }
        self.running.report.lag = Some(lag_of(&self.lags));
        Ok(())
    }

    async fn settle_once(&mut self, batch: &Batch) -> Result<(), Error> {
        let (mut chunk, mut gone) = (Chunk::default(), Vec::new());
        if let Some(first) = batch.records.first() {
            let told = concat_batches(first.schema_ref(), &batch.records).map_err(self.running.batch_error())?;
            // Of several changes of one record the last counts.
            let last: HashMap<String, usize> =
                (0..told.num_rows()).map(|row| (cell(&told, self.identity, row), row)).collect();
            let counts = |row: &usize| {
                let key = cell(&told, self.identity, *row);
                key.is_empty() || last.get(&key) == Some(row)
            };
            let (deleted, kept): (Vec<usize>, Vec<usize>) =
                (0..told.num_rows()).filter(counts).partition(|row| batch.ops[*row] == Op::Delete);
            gone.extend(deleted.into_iter().map(|row| cell(&told, self.identity, row)));
            let rows: UInt32Array = kept.into_iter().map(|row| row as u32).collect();
            self.add(&mut chunk, take_record_batch(&told, &rows).map_err(self.running.batch_error())?)?;
        }
        let keys: Vec<String> = batch.keys.iter().cloned().collect();
        for keys in keys.chunks(MANY) {
            let found = self.running.source.pick(&self.read, &self.key, keys).await?;
            let missing = missing(keys, &found.records, self.identity);
            // Those that are there and are not read are of no concern, and stay.
            gone.extend(match self.read.filter {
                Some(_) if !missing.is_empty() => {
                    let fields = vec![self.key.clone()];
                    let read = Read { fields, filter: None, ..self.read.clone() };
                    let there = self.running.source.pick(&read, &self.key, &missing).await?;
                    self::missing(&missing, &there.records, 0)
                }
                _ => missing,
            });
            chunk.unreadable.extend(found.unreadable);
            self.add(&mut chunk, found.records)?;
        }
        chunk.unreadable.extend(batch.unreadable.iter().cloned());
        let report = &mut self.running.report;
        report.counts.read += (chunk.rows + chunk.unreadable.len()) as u64;
        for row in &chunk.unreadable {
            report.receipt.keys_read.add(&row.key);
        }
        self.running.settle(chunk, false, &[]).await?;
        if self.running.sync.deletes == Deletes::Propagate && !gone.is_empty() {
            self.delete(&gone).await?;
        }
        Ok(())
    }

    /// Maps records and adds them to a chunk.
    fn add(&mut self, chunk: &mut Chunk, records: RecordBatch) -> Result<(), Error> {
        if records.num_rows() == 0 {
            return Ok(());
        }
        for row in 0..records.num_rows() {
            self.running.report.receipt.keys_read.add(&source_key(&records, row));
        }
        let mapped = self.running.map(&records)?;
        chunk.add(records, mapped);
        Ok(())
    }

    /// Deletes what is gone, behind the brake of an hour.
    async fn delete(&mut self, keys: &[String]) -> Result<(), Error> {
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let running = &mut *self.running;
        let found = running.store.links(&running.sync.definition.mapping, running.source_side(), &names)?;
        let links: Vec<Link> = found.into_values().collect();
        if links.is_empty() {
            return Ok(());
        }
        let deleted = links.len() as u64;
        running.brake(self.braked.before().deleted + deleted, self.linked)?;
        self.braked.count(Before { updated: 0, deleted });
        running.delete(&links).await
    }

    /// Stores what the stream has done, for people to look at.
    fn show(&mut self, over: bool) -> Result<(), Error> {
        let seconds = self.shown.elapsed().as_secs_f64();
        self.shown = Instant::now();
        self.stream.per_second = (self.stream.changes - self.told) as f64 / seconds.max(0.001);
        self.told = self.stream.changes;
        self.stream.lag = lag_of(&self.lags);
        let body = serde_json::to_string(&self.stream).unwrap_or_default();
        let (store, sync) = (self.running.store, self.running.sync);
        Ok(store.show_stream(&sync.name, sync.direction.source(), &body, over, Utc::now())?)
    }
}

/// Returns those keys that no row has.
fn missing(keys: &[String], records: &RecordBatch, column: usize) -> Vec<String> {
    let there: HashSet<String> = (0..records.num_rows()).map(|row| cell(records, column, row)).collect();
    keys.iter().filter(|key| !there.contains(*key)).cloned().collect()
}
