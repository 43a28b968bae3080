//! Reconcile: both sides of a sync are read whole and compared under its mapping; what differs is looked at again, told, and
//! written where that is wanted.
//!
//! Rows are sorted by key into parts on disk ([`spill`]) as a key and the print of what is compared, so that memory does not grow
//! with their number. What differs then may have changed between the two reads: it counts only if it still differs when
//! both records are fetched by key.

mod compare;
mod repair;
mod spill;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chrono::Utc;
use endpoint::{Batches, Endpoint};
use futures::StreamExt as _;
use mapping::Parents;
use model::Side;
use serde::{Deserialize, Serialize};
use state::Store;
use tokio_util::sync::CancellationToken;

use self::compare::{Comparison, Rows};
use self::spill::{Entry, PARTS, Spill, entries};
use crate::report::{Error, Progress, Report};
use crate::run::{Options, millis};
use crate::sync::{Deletes, Sync};

/// Records that are looked at again together.
const LOOK_ROWS: usize = 2_000;

/// How a sync is reconciled.
#[derive(Debug, Clone)]
pub struct Reconcile {
    /// Where rows are kept that don't fit the memory.
    pub folder: PathBuf,
    /// By how much numbers of a field may differ, and times in seconds, by the name that the mapping has for the field in the
    /// target, or in Salesforce.
    pub tolerances: BTreeMap<String, f64>,
    /// Fields that are not compared.
    pub ignore: Vec<String>,
    /// Most differences that are looked at again and repaired; others are counted as they were read.
    pub looks: usize,
    /// Most differences of a kind that are shown.
    pub samples: usize,
    /// Writes what is missing or different to the target, and deletes there what the source deleted, if the sync does that.
    pub repair: bool,
    /// Stops it.
    pub stop: CancellationToken,
}

/// How a record differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The source has it, the target does not; of a two-way sync: Salesforce has it, the system outside does not.
    Missing,
    /// The other way round.
    Extra,
    /// Both have it, with different values.
    Different,
}

/// A field of which the two sides hold different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDifference {
    /// The field, as the target calls it.
    pub field: String,
    /// What the source says it should be; `None` if empty.
    pub source: Option<String>,
    /// What the target holds.
    pub target: Option<String>,
}

/// A record that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// How it differs.
    pub kind: Kind,
    /// Its key in the target.
    pub key: String,
    /// What its own side knows it by: the source, or the target of what is extra.
    pub record: String,
    /// What is different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
}

/// What came of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// The sync.
    pub sync: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// Rows that were read of the source, or of Salesforce where the sync goes both ways.
    pub source_rows: u64,
    /// Rows that were read of the target.
    pub target_rows: u64,
    /// Records that only the source has.
    pub missing: u64,
    /// Records that only the target has, and that the sync wrote.
    pub extra: u64,
    /// Records with different values.
    pub different: u64,
    /// For each field the records in which it is different.
    pub fields: BTreeMap<String, u64>,
    /// Records that only the target has, and that did not come from this sync: they are no difference.
    pub unlinked: u64,
    /// Records that the mapping refuses, so that there is nothing to compare.
    pub refused: u64,
    /// Rows of either side whose key another row of it has, too.
    pub duplicates: u64,
    /// Records that differed when they were read, and no longer when they were looked at again.
    pub passing: u64,
    /// Differences above that were only counted: they may have been on their way.
    pub not_looked_at: u64,
    /// False where what is extra stays by the sync's own setting.
    pub extra_counts: bool,
    /// Some of the differences, sorted by kind and key.
    pub samples: Vec<Difference>,
    /// API calls that were forecast.
    pub calls_forecast: u64,
    /// API calls spent, without those of a repair.
    pub calls: u64,
    /// Time it took, in milliseconds, without the repair.
    pub took_ms: u64,
    /// What the repair did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

/// What a repair did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The run that did it.
    pub run: i64,
    /// Its counts.
    pub counts: crate::report::Counts,
}

impl Reconciliation {
    /// True when both sides hold the same.
    pub fn agrees(&self) -> bool {
        self.missing + self.different == 0 && (self.extra == 0 || !self.extra_counts)
    }
}

/// Compares both sides of a sync, and repairs the target where that is wanted. `source` and `target` of a two-way sync are
/// Salesforce and the system outside.
///
/// # Errors
///
/// What keeps the sides from being read, or the repair from being written.
#[tracing::instrument(level = "error", skip_all, fields(sync = sync.name))]
pub async fn reconcile(
    sync: &Sync,
    source: &dyn Endpoint,
    target: &dyn Endpoint,
    store: &Store,
    parents: Parents<'_>,
    wanted: &Reconcile,
    progress: &(dyn Fn(Progress) + Send + std::marker::Sync),
) -> Result<Reconciliation, Error> {
    let begun = Instant::now();
    let ends = [source, target];
    let calls = source.calls() + target.calls();
    let comparison = Arc::new(Comparison::new(sync, ends, store, parents, wanted).await?);
    let mut report = Reconciliation {
        sync: sync.name.clone(),
        at: Utc::now().to_rfc3339(),
        extra_counts: sync.two_way.is_some() || sync.deletes == Deletes::Propagate,
        ..Reconciliation::default()
    };
    let mut of = 0;
    for (end, half) in ends.iter().zip(&comparison.halves) {
        let rows = end.count(&half.read).await?;
        report.calls_forecast += end.forecast_read_calls(rows);
        of += rows;
    }
    report.calls_forecast += source.calls() + target.calls() - calls;
    let spills = both(&comparison, ends, store, sync, wanted, &|rows| progress(Progress { rows, of })).await?;
    let [(left, left_rows, left_refused), (right, right_rows, right_refused)] = spills;
    (report.source_rows, report.target_rows) = (left_rows, right_rows);
    report.refused = left_refused + right_refused;
    let mut differences = first_look([left, right], sync, store, wanted, &mut report)?;
    differences = comparison.look_again(ends, store, differences, wanted, &mut report).await?;
    report.calls = source.calls() + target.calls() - calls;
    report.took_ms = millis(begun);
    let mut shown: BTreeMap<Kind, usize> = BTreeMap::new();
    for difference in &differences {
        let count = shown.entry(difference.kind).or_default();
        *count += 1;
        if *count <= wanted.samples {
            report.samples.push(difference.clone());
        }
    }
    if wanted.repair && !differences.is_empty() {
        let options = Options { stop: wanted.stop.clone(), ..Options::default() };
        let Report { run, counts, .. } =
            repair::repair(sync, ends, store, parents, &comparison, &differences, &options).await?;
        report.repair = Some(Repair { run, counts });
    }
    Ok(report)
}

/// Where rows went: sorted into parts, how many there were, and how many of them the mapping refused.
type Poured = (Spill, u64, u64);

/// Reads both sides at once, each on a task of its own.
async fn both(
    comparison: &Arc<Comparison>,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    sync: &Sync,
    wanted: &Reconcile,
    told: &(dyn Fn(u64) + Send + std::marker::Sync),
) -> Result<[Poured; 2], Error> {
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for (at, end) in ends.into_iter().enumerate() {
        let stream = end.read(comparison.halves[at].read.clone()).await?;
        let pour = Pour {
            comparison: Arc::clone(comparison),
            half: at,
            store: store.clone(),
            sync: sync.name.clone(),
            stop: wanted.stop.clone(),
            count: Arc::clone(&count),
            spill: Spill::new(&wanted.folder).map_err(|source| Error::spill(&wanted.folder, source))?,
            folder: wanted.folder.clone(),
        };
        tasks.push(tokio::spawn(pour.run(stream)));
    }
    // Who lets go of this lets go of the reading.
    let guard = Ending(tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect());
    let mut poured = Vec::new();
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    for task in &mut tasks {
        let done = loop {
            tokio::select! {
                done = &mut *task => break done,
                _ = tick.tick() => told(count.load(Ordering::Relaxed)),
            }
        };
        poured.push(match done {
            Ok(done) => done?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        });
    }
    drop(guard);
    told(count.load(Ordering::Relaxed));
    let mut poured = poured.into_iter();
    match (poured.next(), poured.next()) {
        (Some(left), Some(right)) => Ok([left, right]),
        _ => Err(Error::Stopped),
    }
}

/// Ends tasks when it goes.
struct Ending(Vec<tokio::task::AbortHandle>);

impl Drop for Ending {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// The reading of one side.
struct Pour {
    comparison: Arc<Comparison>,
    half: usize,
    store: Store,
    sync: String,
    stop: CancellationToken,
    count: Arc<AtomicU64>,
    spill: Spill,
    folder: PathBuf,
}

impl Pour {
    async fn run(mut self, mut stream: Batches) -> Result<Poured, Error> {
        let (mut rows, mut refused) = (0, 0);
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = self.stop.cancelled() => return Err(Error::Stopped),
            };
            let Some(batch) = next.transpose()? else { break };
            let came = (batch.len() + batch.unreadable.len()) as u64;
            rows += came;
            refused += batch.unreadable.len() as u64;
            for row in &batch.unreadable {
                self.keep(Entry { key: &row.key, tie: &row.key, print: None })?;
            }
            if batch.records.num_rows() > 0 {
                let loaded = self.comparison.rows(self.half, batch.records, &self.store, &self.sync, true)?;
                refused += self.rows(&loaded)?;
            }
            self.count.fetch_add(came, Ordering::Relaxed);
        }
        Ok((self.spill, rows, refused))
    }

    /// Keeps the rows of a batch; returns how many the mapping refused.
    fn rows(&mut self, loaded: &Rows) -> Result<u64, Error> {
        let prints = self.comparison.prints(self.half, loaded);
        let half = &self.comparison.halves[self.half];
        for (at, print) in prints.into_iter().enumerate() {
            let key = loaded.text(half.key, at).unwrap_or_default();
            let tie = loaded.own_text(half.tie, loaded.rows[at].0).unwrap_or_default();
            let entry = Entry { key: &key, tie: &tie, print: Some(print) };
            self.spill.push(entry).map_err(|source| Error::spill(&self.folder, source))?;
        }
        for row in &loaded.refused {
            let key = loaded.own_text(0, *row).unwrap_or_default().into_owned();
            self.keep(Entry { key: &key, tie: &key, print: None })?;
        }
        Ok(loaded.refused.len() as u64)
    }

    fn keep(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        self.spill.push(entry).map_err(|source| Error::spill(&self.folder, source))
    }
}

/// Compares the parts one by one; returns what differs, at most as much as is looked at again.
fn first_look(
    mut spills: [Spill; 2],
    sync: &Sync,
    store: &Store,
    wanted: &Reconcile,
    report: &mut Reconciliation,
) -> Result<Vec<Difference>, Error> {
    let mut differences = Vec::new();
    let mut bytes = [Vec::new(), Vec::new()];
    for at in 0..PARTS {
        if wanted.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        for (spill, bytes) in spills.iter_mut().zip(&mut bytes) {
            spill.part(at, bytes).map_err(|source| Error::spill(&wanted.folder, source))?;
        }
        let mut lefts: HashMap<&str, (Entry<'_>, bool)> = HashMap::new();
        let (mut keyless, mut duplicates) = (Vec::new(), 0);
        for entry in entries(&bytes[0]) {
            if entry.key.is_empty() {
                keyless.push(entry);
            } else {
                duplicates += u64::from(lefts.insert(entry.key, (entry, false)).is_some());
            }
        }
        let mut note = |kind: Kind, key: &str, record: &str| {
            *match kind {
                Kind::Missing => &mut report.missing,
                Kind::Extra => &mut report.extra,
                Kind::Different => &mut report.different,
            } += 1;
            if differences.len() < wanted.looks {
                let (key, record) = (key.to_owned(), record.to_owned());
                differences.push(Difference { kind, key, record, fields: Vec::new() });
            } else {
                report.not_looked_at += 1;
            }
        };
        let mut extra = Vec::new();
        for right in entries(&bytes[1]) {
            match lefts.get_mut(right.key).filter(|_| !right.key.is_empty()) {
                None => extra.push(right),
                Some((_, true)) => duplicates += 1,
                Some((left, met)) => {
                    *met = true;
                    if let (Some(ours), Some(theirs)) = (left.print, right.print)
                        && ours != theirs
                    {
                        note(Kind::Different, left.key, left.tie);
                    }
                }
            }
        }
        let missing = lefts.values().filter(|(left, met)| !met && left.print.is_some()).map(|(left, _)| left);
        for left in missing.chain(&keyless) {
            note(Kind::Missing, left.key, left.tie);
        }
        let side = side_of(sync, 1);
        let mut unlinked = 0;
        for extra in extra.chunks(LOOK_ROWS) {
            let ties: Vec<&str> = extra.iter().map(|entry| entry.tie).collect();
            let known = match sync.two_way {
                Some(_) => None,
                None => Some(store.links(&sync.definition.mapping, side, &ties)?),
            };
            for entry in extra {
                if known.as_ref().is_some_and(|known| !known.contains_key(entry.tie)) {
                    unlinked += 1;
                } else {
                    note(Kind::Extra, entry.key, entry.tie);
                }
            }
        }
        report.duplicates += duplicates;
        report.unlinked += unlinked;
    }
    differences.sort_by(|left, right| (left.kind, &left.key).cmp(&(right.kind, &right.key)));
    Ok(differences)
}

/// Returns the side whose records a half holds.
fn side_of(sync: &Sync, half: usize) -> Side {
    if half == 0 { sync.direction.source() } else { sync.direction.target() }
}
