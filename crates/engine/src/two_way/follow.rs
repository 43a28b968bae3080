//! Following: both sides tell of changes as they happen, and a few of them at a time are settled as a run would.
//!
//! Notices are hints. What a record is now is fetched, so that one told twice, late or out of order does no harm; only where
//! one tells all that it takes to write the other side, in its turn, nothing is asked. One that is lost is found by a look for
//! what changed, which comes first, then now and then, and whenever a side says that it could not tell all. Listening begins
//! before the first look, so that nothing falls between them; in Salesforce behind the event up to which everything had an
//! outcome when it was followed last, so that what no look shows, such as a record that is gone for good, is told.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::Utc;
use endpoint::{Endpoint, Notice, Values};
use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use hdrhistogram::Histogram;
use mapping::{Parents, TwoWay};
use model::Side;
use serde_json::json;
use state::{Checkpoint, Link, Owner, Store};
use tokio::time::Instant;

use super::pair::{Pair, SIDES};
use super::{PAIRS, Pairing, PreparedPairs, checkpoint_name, end, ready, take};
use crate::chunk::cell;
use crate::merge::{Policy, place};
use crate::report::{Error, Report};
use crate::run::{Options, begin_run};
use crate::stream::{
    Before, Braked, Following, LONGEST, SHOWN, STALE, Stream, histogram, lag_of, or_silent, place_before,
};
use crate::sync::Sync;

/// The pauses before a record that could not be settled is looked at again: the first, and the longest.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_mins(1)];
/// When a look is taken again that had to join a stream without a hole: clocks are told by the second, and what was
/// committed in the second of the join may have been behind its end.
const SOON: Duration = Duration::from_secs(2);
/// How long is remembered what was looked at, in microseconds.
const REMEMBERED: i64 = 600_000_000;
/// How often is stored how far both sides have come. What was settled since is told again after a crash, and is as agreed.
const NOTED: Duration = Duration::from_millis(200);

/// Follows a two-way sync until it is stopped, and returns what it did; `ends` are Salesforce and the system outside.
/// `progress` is called when both sides are in step, and after each batch.
///
/// # Errors
///
/// Why it could not go on. What was settled stays settled; the same call, or a run, goes on from there.
#[tracing::instrument(name = "follow", level = "error", skip_all, fields(sync = sync.name, run))]
pub async fn follow_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    options: &Options,
    following: Following,
    progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let calls = ends[0].calls() + ends[1].calls();
    let prepared = ready(sync, ends, store, parents).await?;
    let replay = place_before(store, &sync.name, Side::Salesforce)?;
    let clock = ends[0].clock().await?.unwrap_or_else(|| Utc::now().timestamp_micros());
    let mut notices: Vec<BoxStream<'_, (Side, endpoint::Result<Notice>)>> = Vec::new();
    for side in SIDES {
        let target = &prepared.targets[place(side)];
        let fields = &prepared.fields[place(side)];
        let replay = replay.as_deref().filter(|_| side == Side::Salesforce);
        let listened = ends[place(side)].listen(&target.entity, &target.key, fields, replay).await?;
        let listened = or_silent(listened);
        notices.push(listened.map(move |notice| (side, notice)).boxed());
    }
    let run = begin_run(store, sync, &json!({"follows": true}))?;
    let opened = Stream { since: Utc::now().to_rfc3339(), ..Stream::default() };
    let mut follower = Follower {
        sync,
        prepared: &prepared,
        ends,
        store,
        options,
        following,
        report: Report { run, sync: sync.name.clone(), ..Report::default() },
        linked: 0,
        in_step: false,
        told_before: clock + STALE,
        braked: Braked::default(),
        looked: HashMap::new(),
        later: HashMap::new(),
        streams: [Stream { position: replay, ..opened.clone() }, opened],
        lags: [histogram(), histogram()],
        all: histogram(),
        open: Vec::new(),
        reached: None,
        noted: Instant::now(),
        told: [0; 2],
        shown: Instant::now(),
    };
    let result = match follower.follow(futures::stream::select_all(notices), progress).await {
        Err(Error::Stopped) => follower.note(),
        other => other,
    };
    follower.show(true)?;
    let mut report = follower.report;
    report.calls = ends[0].calls() + ends[1].calls() - calls;
    end(sync, Some(&prepared), store, report, result)
}

struct Follower<'f> {
    sync: &'f Sync,
    prepared: &'f PreparedPairs,
    ends: [&'f dyn Endpoint; 2],
    store: &'f Store,
    options: &'f Options,
    following: Following,
    report: Report,
    /// Links when it was last looked.
    linked: u64,
    /// True when the first look is over.
    in_step: bool,
    /// What was committed before is found by the first look, in what it became since.
    told_before: i64,
    braked: Braked,
    /// Records of Salesforce that were looked at lately, with the time of their last change then.
    looked: HashMap<String, i64>,
    /// Records to look at again: when, and how long after that.
    later: HashMap<(Side, String), (Instant, Duration)>,
    streams: [Stream; 2],
    lags: [Histogram<u64>; 2],
    all: Histogram<u64>,
    /// Those who want to know that what they told has an outcome.
    open: Vec<tokio::sync::oneshot::Sender<()>>,
    /// How far the window outside had come when that was last stored, and when that was.
    reached: Option<String>,
    noted: Instant,
    /// Changes that each side had told when it was last shown.
    told: [u64; 2],
    shown: Instant,
}

/// Records of which values were told.
struct ToldValues {
    side: Side,
    keys: Vec<String>,
    values: Values,
    /// When each of them was committed; `None` where that may be before what was looked at before.
    committed: Vec<Option<i64>>,
}

/// Notices that are settled together.
#[derive(Default)]
struct Batch {
    keys: HashSet<(Side, String)>,
    /// Others, of which values were told.
    values: Vec<ToldValues>,
    /// Changes of which is known when they were committed.
    committed: Vec<((Side, String), i64)>,
    /// The end of the window outside, all of which is told.
    until: Option<String>,
    places: [Option<String>; 2],
    missed: Option<String>,
    /// True when there is something to do that no side told.
    decided: bool,
    settled: Vec<tokio::sync::oneshot::Sender<()>>,
}

impl Batch {
    /// True when nothing more is to be added.
    fn is_full(&self) -> bool {
        self.keys.len() + self.values.iter().map(|told| told.keys.len()).sum::<usize>() >= PAIRS
    }
}

impl Follower<'_> {
    async fn follow(
        &mut self,
        mut told: futures::stream::SelectAll<BoxStream<'_, (Side, endpoint::Result<Notice>)>>,
        progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
    ) -> Result<(), Error> {
        self.look(None).await?;
        let _kept = self.store.in_small_steps()?;
        progress(&self.report);
        let mut look = Instant::now() + SOON;
        let mut decided = false;
        loop {
            if self.options.stop.is_cancelled() {
                return Err(Error::Stopped);
            }
            let mut batch = Batch { decided: std::mem::take(&mut decided), ..Batch::default() };
            // What came while the last batch was settled has gathered enough.
            let mut taken = false;
            while !batch.is_full()
                && let Some(Some((side, notice))) = told.next().now_or_never()
            {
                self.take(&mut batch, side, notice?);
                taken = true;
            }
            let again = self.later.values().map(|(at, _)| *at).min().unwrap_or(look).min(look);
            let shown = self.shown + SHOWN;
            tokio::select! {
                () = std::future::ready(()), if taken || batch.decided => {}
                () = self.options.stop.cancelled(), if !taken => return Err(Error::Stopped),
                Some((side, notice)) = told.next(), if !taken => {
                    self.take(&mut batch, side, notice?);
                    let full = Instant::now() + self.following.gather;
                    while !batch.is_full()
                        && let Ok(Some((side, notice))) = tokio::time::timeout_at(full, told.next()).await
                    {
                        self.take(&mut batch, side, notice?);
                    }
                }
                () = tokio::time::sleep_until(again), if !taken => {}
                () = tokio::time::sleep_until(self.noted + NOTED), if !taken && !self.open.is_empty() => {
                    self.note()?;
                    continue;
                }
                () = tokio::time::sleep_until(shown), if !taken => {
                    decided = self.shown()?;
                    continue;
                }
            }
            let now = Instant::now();
            batch.keys.extend(self.later.iter().filter(|(_, (at, _))| *at <= now).map(|(key, _)| key.clone()));
            self.settle(&batch).await?;
            if let Some(missed) = batch.missed.take() {
                self.look(Some(&missed)).await?;
                look = Instant::now() + SOON;
            } else if now >= look {
                self.look(None).await?;
                look = Instant::now() + self.following.look;
            }
            self.open.append(&mut batch.settled);
            progress(&self.report);
            if self.noted.elapsed() >= NOTED {
                self.note()?;
            }
            if self.shown.elapsed() >= SHOWN {
                decided = self.shown()?;
            }
        }
    }

    /// Shows what the streams have done, and returns whether a person has decided a conflict, which is done then though nothing
    /// else happens.
    fn shown(&mut self) -> Result<bool, Error> {
        self.show(false)?;
        Ok(!self.store.conflicts(Some(&self.sync.name), Some("resolved"), 0, 1)?.is_empty())
    }

    fn take(&mut self, batch: &mut Batch, side: Side, notice: Notice) {
        let stream = &mut self.streams[place(side)];
        let count = notice.keys.len() as u64;
        stream.changes += count;
        stream.reconnects += u64::from(notice.reconnected);
        if count > 0 {
            stream.told = Some(Utc::now().to_rfc3339());
        }
        if let Some(missed) = notice.missed {
            stream.gaps += 1;
            stream.last_gap = Some(missed.clone());
            batch.missed = Some(missed);
        }
        let known = notice.keys.iter().zip(&notice.committed);
        batch.committed.extend(known.filter_map(|(key, at)| Some(((side, key.clone()), (*at)?))));
        batch.places[place(side)] = notice.place.or_else(|| notice.until.clone()).or(batch.places[place(side)].take());
        if side == Side::External {
            batch.until = notice.until.or(batch.until.take());
        }
        batch.settled.extend(notice.settled);
        match notice.values {
            Some(values) if values.rows.num_rows() == notice.keys.len() => {
                let mut committed: Vec<Option<i64>> =
                    notice.committed.into_iter().map(|at| at.filter(|at| *at > self.told_before)).collect();
                committed.resize(notice.keys.len(), None);
                batch.values.push(ToldValues { side, keys: notice.keys, values, committed });
            }
            _ => batch.keys.extend(notice.keys.into_iter().map(|key| (side, key))),
        }
    }

    /// Looks for what changed since the last look, by the windows of a run.
    async fn look(&mut self, why: Option<&str>) -> Result<(), Error> {
        self.note()?;
        if let Some(why) = why {
            tracing::info!(sync = self.sync.name, why, "not all changes were told; looking for them");
        }
        let mapping = &self.sync.definition.mapping;
        let source = Side::Salesforce;
        self.linked = self.store.unseen(Owner { sync: &self.sync.name, mapping, source, run: 0 })?.0;
        let mut pause = self.options.backoff;
        loop {
            if let Some(why) = why.filter(|_| self.sync.definition.external.capture.is_some()) {
                tracing::debug!(why, "making sure that changes are captured");
                let target = &self.prepared.targets[1];
                self.ends[1].capture(&target.entity, &target.key).await?;
            }
            // The first look is a run as any; the others meet what is as agreed for the most part, and wait for nothing.
            let followed = self.in_step.then(|| (self.linked, self.braked.before()));
            match self.run(followed, async |pairing| pairing.whole().await).await {
                Err(error) if error.class().is_transient() => self.wait(&mut pause, &error).await?,
                other => {
                    other?;
                    self.in_step = true;
                    for stream in &mut self.streams {
                        stream.looks += 1;
                    }
                    return self.plan();
                }
            }
        }
    }

    /// Does a piece of a run, and counts what it did.
    async fn run<T>(
        &mut self,
        followed: Option<(u64, Before)>,
        work: impl AsyncFnOnce(&mut Pairing<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut report = Report { run: self.report.run, sync: self.sync.name.clone(), ..Report::default() };
        let Self { sync, prepared, ends, store, options, .. } = *self;
        let quiet = |_| {};
        let done = match Pairing::new(sync, prepared, ends, store, options, &quiet, &mut report, followed) {
            Ok(mut pairing) => {
                pairing.looked = std::mem::take(&mut self.looked);
                let done = work(&mut pairing).await;
                self.looked = std::mem::take(&mut pairing.looked);
                done
            }
            Err(error) => Err(error),
        };
        self.count(&report);
        done
    }

    /// Waits before what failed for the moment is tried again.
    async fn wait(&self, pause: &mut Duration, error: &Error) -> Result<(), Error> {
        tracing::warn!(sync = self.sync.name, %error, "trying again");
        tokio::select! {
            () = self.options.stop.cancelled() => return Err(Error::Stopped),
            () = tokio::time::sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(LONGEST);
        Ok(())
    }

    /// Settles a batch; what fails for the moment is tried until it does not.
    async fn settle(&mut self, batch: &Batch) -> Result<(), Error> {
        let told = !batch.keys.is_empty() || !batch.values.is_empty() || batch.until.is_some();
        if !told && !batch.decided {
            self.reach(batch);
            return Ok(());
        }
        let mut pause = self.options.backoff;
        let told = loop {
            let followed = Some((self.linked, self.braked.before()));
            match self.run(followed, async |pairing| pairing.told(batch).await).await {
                Err(error) if error.class().is_transient() => self.wait(&mut pause, &error).await?,
                other => break other?,
            }
        };
        self.reach(batch);
        let now = Utc::now().timestamp_micros();
        for (changed, at) in batch.committed.iter().filter(|(changed, _)| !told.echoes.contains(changed)) {
            let end = if told.looked.contains(changed) { now } else { told.early };
            let lag = (end - at).max(1).cast_unsigned();
            self.lags[place(changed.0)].saturating_record(lag);
            self.all.saturating_record(lag);
        }
        self.report.lag = Some(lag_of(&self.all));
        self.plan()
    }

    /// Notes that everything in a batch has an outcome.
    fn reach(&mut self, batch: &Batch) {
        for side in SIDES {
            let stream = &mut self.streams[place(side)];
            stream.position = batch.places[place(side)].clone().or(stream.position.take());
        }
        self.reached = batch.until.clone().or(self.reached.take());
    }

    /// Stores how far the window outside has come, and tells those who told of it.
    fn note(&mut self) -> Result<(), Error> {
        self.noted = Instant::now();
        if let Some(since) = self.reached.take() {
            let mapping = self.sync.definition.digest;
            let checkpoint = Checkpoint { since: Some(since), mapping, ..Checkpoint::default() };
            self.store.set_checkpoint(&checkpoint_name(self.sync, Side::External), &checkpoint)?;
        }
        for settled in self.open.drain(..) {
            // Whoever told it may be gone.
            let _ = settled.send(());
        }
        Ok(())
    }

    /// Adds what a batch or a look did to what was done.
    fn count(&mut self, report: &Report) {
        let (sum, one) = (&mut self.report.counts, report.counts);
        sum.read += one.read;
        sum.created += one.created;
        sum.updated += one.updated;
        sum.unchanged += one.unchanged;
        sum.deleted += one.deleted;
        sum.dead += one.dead;
        sum.warnings += one.warnings;
        self.report.full |= report.full;
        self.report.map_ms += report.map_ms;
        self.report.write_ms += report.write_ms;
        self.report.commit_ms += report.commit_ms;
        if one.updated + one.deleted > 0 {
            self.braked.count(Before { updated: one.updated, deleted: one.deleted });
        }
    }

    /// Notes which records are to be looked at again, and when: each time later.
    fn plan(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let waiting: HashSet<(Side, String)> = self
            .store
            .revisits(&self.sync.name, false)?
            .into_iter()
            .map(|revisit| (revisit.side, revisit.key))
            .collect();
        self.later.retain(|key, _| waiting.contains(key));
        for key in waiting {
            let (at, pause) = self.later.entry(key).or_insert((now + AGAIN[0], AGAIN[0]));
            if *at <= now {
                *pause = (*pause * 2).min(AGAIN[1]);
                *at = now + *pause;
            }
        }
        self.report.counts.parked = self.store.count_dead_letters(Some(&self.sync.name))?.1;
        (self.report.conflicts, self.report.held) = self.store.count_conflicts(&self.sync.name, self.report.run)?;
        Ok(())
    }

    /// Stores what the streams have done, for people to look at.
    fn show(&mut self, ended: bool) -> Result<(), Error> {
        let seconds = self.shown.elapsed().as_secs_f64();
        self.shown = Instant::now();
        let newest = self.looked.values().max().copied().unwrap_or_default();
        self.looked.retain(|_, at| *at + REMEMBERED > newest);
        for side in SIDES {
            let at = place(side);
            let stream = &mut self.streams[at];
            stream.per_second = (stream.changes - self.told[at]) as f64 / seconds.max(0.001);
            self.told[at] = stream.changes;
            stream.lag = lag_of(&self.lags[at]);
            let body = serde_json::to_string(stream).unwrap_or_default();
            self.store.show_stream(&self.sync.name, side, &body, ended, Utc::now())?;
        }
        Ok(())
    }
}

/// How a batch was settled.
struct Settled {
    /// Records that were as agreed: our own writes, as a rule.
    echoes: HashSet<(Side, String)>,
    /// Records that had to be looked at; the others were settled by what was told of them.
    looked: HashSet<(Side, String)>,
    /// When those others were settled, in microseconds since 1970.
    early: i64,
}

impl Pairing<'_> {
    /// Settles records that changed.
    async fn told(&mut self, batch: &Batch) -> Result<Settled, Error> {
        // Merges are looked for when a record is gone.
        self.merged_since = self.store.checkpoint(&checkpoint_name(self.sync, Side::Salesforce))?.since;
        for revisit in self.store.revisits(&self.sync.name, true)? {
            self.waiting.insert((revisit.side, revisit.key));
        }
        self.moved.extend(batch.keys.iter().cloned());
        self.take_values(batch).await?;
        let (early, looked) = (Utc::now().timestamp_micros(), self.moved.clone());
        self.look_again().await?;
        self.delete_gone().await?;
        self.moved.extend(std::mem::take(&mut self.incomplete));
        self.look_again().await?;
        self.leave_for_later()?;
        Ok(Settled { echoes: std::mem::take(&mut self.echoes), looked, early })
    }

    /// Settles what was told with its values, where these are enough; what needs a look is added to what moved.
    async fn take_values(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut times: HashMap<&str, usize> = HashMap::new();
        for key in batch.values.iter().flat_map(|told| &told.keys) {
            *times.entry(key).or_default() += 1;
        }
        let (mut known, mut parts) = (Vec::new(), Vec::new());
        for ToldValues { side, keys, values, committed } in &batch.values {
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            let links = self.store.links(&self.sync.definition.mapping, *side, &names)?;
            let mut rows = Vec::new();
            for (row, key) in keys.iter().enumerate() {
                let place = (*side, key.clone());
                // What was looked at since may be another value by now.
                let looked = self.looked.get(key);
                let stale = committed[row].is_none_or(|at| looked.is_some_and(|looked| at <= looked + STALE));
                let (Some(columns), link) = (&values.told[row], links.get(key)) else {
                    self.moved.insert(place);
                    continue;
                };
                if self.is_agreed(*side, &values.rows, row, key, &links, Some(columns)) {
                    self.echoes.insert(place);
                } else if let Some(link) = link
                    && times[key.as_str()] == 1
                    && !stale
                    && !self.moved.contains(&place)
                    && self.is_enough(*side, columns, &values.rows, row, link)
                {
                    rows.push(row);
                    known.push((link.clone(), columns.clone()));
                } else {
                    self.moved.insert(place);
                }
            }
            parts.push(take(&values.rows, &rows).map_err(self.batch_error())?);
        }
        self.settle_known(&parts, known).await?;
        // One told twice may have been taken for an echo the first time.
        let moved = &self.moved;
        self.echoes.retain(|echo| !moved.contains(echo));
        Ok(())
    }

    /// True when what is told of a linked record is all that it takes to write it outside: the rest is as it was agreed on.
    fn is_enough(&self, side: Side, columns: &[usize], rows: &RecordBatch, row: usize, link: &Link) -> bool {
        let waits = side != Side::Salesforce
            || self.waiting.contains(&(Side::Salesforce, link.salesforce.clone()))
            || self.waiting.contains(&(Side::External, link.external.clone()))
            || self.intents.keys().any(|(_, key)| *key == link.external)
            || self.merged.contains_key(&link.external);
        // Who decides by hand wants to see all of it.
        if waits || self.prepared.rules.policy == Policy::Manual || !self.prepared.plan.from(side).is_by_field() {
            return false;
        }
        // Its key is another now, or none.
        if columns.contains(&0) && cell(rows, 0, row) != link.external {
            return false;
        }
        let Some(base) = self.layouts.decode(&link.base) else { return false };
        let known = |column: &Option<usize>| column.is_some_and(|column| columns.contains(&column));
        base.iter().zip(&self.prepared.own[0]).all(|(agreed, own)| agreed.is_some() || known(own))
    }

    /// Settles records of Salesforce of which some columns are known, without asking for the others; `parts` are their rows.
    async fn settle_known(&mut self, parts: &[RecordBatch], known: Vec<(Link, Vec<usize>)>) -> Result<(), Error> {
        let Some(first) = parts.first().filter(|_| !known.is_empty()) else { return Ok(()) };
        let batch = arrow::compute::concat_batches(first.schema_ref(), parts).map_err(self.batch_error())?;
        let (links, columns): (Vec<Link>, Vec<Vec<usize>>) = known.into_iter().unzip();
        let pair = |(at, link): (usize, Link)| {
            let (id, key) = (link.salesforce.clone(), link.external.clone());
            Pair { rows: [Some(at), None], link: Some(link), id, key }
        };
        let mut pairs: Vec<Pair> = links.into_iter().enumerate().map(pair).collect();
        let texts = |text: fn(&Pair) -> &str| -> arrow::array::ArrayRef {
            std::sync::Arc::new(pairs.iter().map(|pair| Some(text(pair))).collect::<arrow::array::StringArray>())
        };
        let (own_keys, own_ids) = (texts(|pair| &pair.key), texts(|pair| &pair.id));
        let batch = TwoWay::with_column(&batch, 0, &own_keys).map_err(self.batch_error())?;
        let identity = self.identity(Side::Salesforce);
        let batch = TwoWay::with_column(&batch, identity, &own_ids).map_err(self.batch_error())?;
        let keys: Vec<String> = pairs.iter().map(|pair| pair.key.clone()).collect();
        let name = self.prepared.fields[1][0].clone();
        let others = self.fetch(Side::External, &name, &keys).await?;
        let places: HashMap<String, usize> = (0..others.num_rows()).map(|row| (cell(&others, 0, row), row)).collect();
        for pair in &mut pairs {
            pair.rows[1] = places.get(&pair.key).copied();
        }
        self.partial = columns.into_iter().enumerate().collect();
        let settled = self.settle_pairs([batch, others], pairs).await;
        self.partial.clear();
        settled
    }
}
