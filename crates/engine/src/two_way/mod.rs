//! Two-way syncs: both sides are read, pairs are merged, each side is written where it is still as it was read.

mod base;
pub(crate) mod capture;
mod clocks;
mod counterparts;
mod follow;
mod keys;
mod known;
mod merges;
mod pair;
mod settle;
mod similar;
mod slice;
mod undo;
mod write;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use arrow::array::RecordBatch;
use chrono::Utc;
use endpoint::{Endpoint, Read, Target, Window, is_captured};
use fixedbitset::FixedBitSet;
use futures::StreamExt as _;
use mapping::{Parents, TwoWay};
use model::{Entity, Side};
use serde_json::json;
use state::{Checkpoint, Link, Owner, Store};

pub use self::capture::capture_of;
pub use self::follow::follow_pairs;
pub(crate) use self::slice::repair_pairs;

use self::base::Layouts;
use self::keys::Candidates;
use self::pair::{MATCH, SIDES};
use crate::chunk::cell;
use crate::merge::{Contested, Policy, Rules, Way, place};
use crate::prepare::{BATCH_ROWS, FORGOTTEN, Forecast, OUTDATED, drift_of, is_new, is_outdated, rules_of, why_full};
use crate::report::{Error, Progress, Report};
use crate::run::{Options, begin_run, millis};
use crate::settle::log_letters;
use crate::sync::{Deletes, Drift, Sync};

/// Records that a check carries outside and back.
const SAMPLE: usize = 200;
/// Code of a record whose counterpart an undo took away.
const UNDONE: &str = "UNDONE";
/// How often pairs that moved while they were written are looked at again in one run.
const LOOKS: usize = 3;
/// Changes that no brake minds, however few records are linked.
const UNMINDED: u64 = 100;
/// Pairs that are settled together: what is written between two commits.
const PAIRS: usize = 2_000;

/// How a two-way sync decides.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct TwoWayRules {
    /// Who wins where both sides changed a field to different values, and the field has no owner.
    pub conflicts: Policy,
    /// What becomes of a record that one side deleted and the other changed.
    pub contested: Contested,
    /// Largest share of the linked records that may have changed on one side since the last run, 0 to 1.
    pub change_brake: f64,
}

/// A two-way sync checked against both catalogs.
pub struct PreparedPairs {
    pub(crate) plan: TwoWay,
    targets: [Target; 2],
    rules: Rules,
    /// For each side the fields to read: those of the plan, and the one that tells when a record was changed.
    fields: [Vec<String>; 2],
    /// For each side the column that tells when a record was changed.
    changed: [Option<usize>; 2],
    /// For each side the column of each field.
    pub(crate) own: [Vec<Option<usize>>; 2],
}

impl PreparedPairs {
    /// Returns the read of all that a side has.
    pub(crate) fn reading(&self, sync: &Sync, side: Side) -> Read {
        reading(sync, self, side, None)
    }

    /// Returns how both sides differ from what they were at the last good run.
    fn drift(&self, sync: &Sync, store: &Store) -> Result<Vec<String>, Error> {
        let sides = SIDES.into_iter().zip(&self.targets);
        let drift = sides.map(|(side, target)| drift_of(sync, side, &target.entity, store));
        Ok(drift.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// Checks a two-way sync against both catalogs; creates nothing.
///
/// # Errors
///
/// Everything that is wrong with the mapping, or an endpoint that can't take part.
pub async fn prepare_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<PreparedPairs, Error> {
    let definition = &sync.definition;
    let mut salesforce = ends[0].describe(&definition.salesforce.object.value).await?;
    let mut external = ends[1].describe(&definition.external.entity.value).await?;
    for (end, entity) in ends.iter().zip([&mut salesforce, &mut external]) {
        if !end.capabilities().two_way {
            let message = format!("{} can't take part in a two-way sync", entity.name);
            return Err(endpoint::Error::new(model::Class::Mapping, message).into());
        }
    }
    if let Some(cursor) = &definition.external.cursor {
        if external.field(&cursor.value).is_none() {
            let message = format!("{} has no field {:?} to tell changes by", external.name, cursor.value);
            return Err(Error::Mapping(vec![mapping::Mistake::at(cursor, message)]));
        }
        external.cursor = Some(cursor.value.clone());
    }
    external.cursor = capture::cursor(sync, store)?.or(external.cursor);
    let plan = TwoWay::new(definition, &salesforce, &external, parents, &sync.circle).map_err(Error::Mapping)?;
    let ways = plan.fields.iter().map(|field| {
        let way = match (field.goes_to(Side::Salesforce), field.goes_to(Side::External)) {
            (true, false) => Way::To(Side::Salesforce),
            (false, true) => Way::To(Side::External),
            _ => Way::Both,
        };
        (way, field.owner)
    });
    let two_way = sync.two_way.unwrap_or_default();
    let rules = Rules {
        fields: ways.collect(),
        policy: two_way.conflicts,
        contested: two_way.contested,
        deletes: sync.deletes == Deletes::Propagate,
        asked: None,
    };
    let with_cursor = |side: Side, entity: &Entity| {
        let mut fields = plan.from(side).source_fields.clone();
        let mut column = |name: &str| {
            fields.iter().position(|known| known == name).unwrap_or_else(|| {
                fields.push(name.to_owned());
                fields.len() - 1
            })
        };
        // What is only written is read as well, to be compared.
        let made = plan.from(side.other()).columns();
        let own = plan
            .fields
            .iter()
            .map(|field| field.own(side).or_else(|| field.given(side).map(|given| column(made.field(given).name()))));
        let own: Vec<Option<usize>> = own.collect();
        // What is captured has no field that tells when.
        let changed = entity.cursor.as_ref().filter(|_| !is_captured(entity)).map(|cursor| column(cursor));
        (fields, changed, own)
    };
    let (ours, theirs) = (with_cursor(Side::Salesforce, &salesforce), with_cursor(Side::External, &external));
    let target = |entity: Entity, key: String| Target { entity, key, sync: sync.name.clone() };
    let id = salesforce.key.first().cloned().unwrap_or_default();
    let key = definition.external.key.value.clone();
    let targets = [target(salesforce, id), target(external, key)];
    Ok(PreparedPairs {
        plan,
        targets,
        rules,
        fields: [ours.0, theirs.0],
        changed: [ours.1, theirs.1],
        own: [ours.2, theirs.2],
    })
}

/// Returns what a run of a two-way sync would do; writes nothing.
///
/// # Errors
///
/// Whatever would keep the run from starting.
pub async fn forecast_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<Forecast, Error> {
    let mut prepared = prepare_pairs(sync, ends, store, parents).await?;
    let (mut rows, mut calls, mut full) = (0, 0, None);
    for side in [Side::Salesforce, Side::External] {
        let before = store.checkpoint(&checkpoint_name(sync, side))?;
        let (end, spent) = (ends[place(side)], ends[place(side)].calls());
        let target = &mut prepared.targets[place(side)];
        target.entity.rules = end.rules(&target.entity).await?;
        if is_new(&before, sync.definition.digest) {
            calls += end.calls() - spent;
        }
    }
    let drift = prepared.drift(sync, store)?;
    for side in [Side::Salesforce, Side::External] {
        let (end, entity) = (ends[place(side)], &prepared.targets[place(side)].entity);
        let checkpoint = store.checkpoint(&checkpoint_name(sync, side))?;
        // Before the first run nothing captures yet.
        let until = if checkpoint.since.is_none() { None } else { end.now(entity).await? };
        let mut why = why_full(&checkpoint, sync.definition.digest, until.as_ref());
        let mut window = None;
        if let (None, Some(until)) = (why, until) {
            let wanted = Window { since: checkpoint.since.clone(), until };
            let told = reading(sync, &prepared, side, Some(wanted.clone()));
            if !end.holds(&told).await? {
                why = Some(FORGOTTEN);
            } else if is_outdated(&end.stale(&told).await?, checkpoint.refreshed.as_deref(), &wanted.until) {
                why = Some(OUTDATED);
            } else {
                window = Some(wanted);
            }
        }
        full = full.or(why);
        let count = end.count(&reading(sync, &prepared, side, window)).await?;
        rows += count;
        calls += end.forecast_read_calls(count) + ends[place(side.other())].forecast_calls(count);
    }
    Ok(Forecast {
        full: full.map(Cow::Borrowed),
        rows,
        calls,
        calls_left: ends[0].allowance(),
        parked: store.count_dead_letters(Some(&sync.name))?.1,
        conversions: conversions(sync, &prepared, ends[0]).await?,
        drift,
        creates: None,
    })
}

/// Checks a two-way sync against both catalogs and some records; returns the conversions that can lose something.
///
/// # Errors
///
/// As [`prepare_pairs`].
pub async fn check_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<Vec<String>, Error> {
    let prepared = prepare_pairs(sync, ends, store, parents).await?;
    conversions(sync, &prepared, ends[0]).await
}

async fn conversions(sync: &Sync, prepared: &PreparedPairs, salesforce: &dyn Endpoint) -> Result<Vec<String>, Error> {
    let unlike = sample(sync, prepared, salesforce).await?;
    let plans = [&prepared.plan.to_external, &prepared.plan.to_salesforce];
    Ok(plans.iter().flat_map(|plan| plan.conversions.clone()).chain(unlike).collect())
}

/// Carries some records outside and back, and returns what does not come back as it was.
async fn sample(sync: &Sync, prepared: &PreparedPairs, salesforce: &dyn Endpoint) -> Result<Vec<String>, Error> {
    let plan = &prepared.plan.to_external;
    let read = Read { fields: plan.source_fields.clone(), ..reading(sync, prepared, Side::Salesforce, None) };
    let first = salesforce.read(Read { batch_rows: SAMPLE, ..read }).await?.next().await.transpose()?;
    let Some(batch) = first.filter(|batch| !batch.is_empty()) else { return Ok(Vec::new()) };
    let error = |source| Error::Batch { sync: sync.name.clone(), source };
    prepared.plan.round_trip(&batch.records).map_err(error)
}

fn checkpoint_name(sync: &Sync, side: Side) -> String {
    match side {
        Side::Salesforce => sync.name.clone(),
        Side::External => format!("{}#external", sync.name),
    }
}

fn reading(sync: &Sync, prepared: &PreparedPairs, side: Side, window: Option<Window>) -> Read {
    let filter = match side {
        Side::Salesforce => &sync.definition.salesforce.filter,
        Side::External => &sync.definition.external.filter,
    };
    Read {
        entity: prepared.targets[place(side)].entity.clone(),
        fields: prepared.fields[place(side)].clone(),
        filter: filter.clone(),
        window,
        from: None,
        deleted: false,
        batch_rows: BATCH_ROWS,
    }
}

impl Default for TwoWayRules {
    fn default() -> Self {
        Self { conflicts: Policy::default(), contested: Contested::default(), change_brake: 0.5 }
    }
}

/// Runs a two-way sync to its end and returns what it did; `ends` are Salesforce and the system outside.
///
/// # Errors
///
/// Why it could not go on. What was settled stays settled, and the next run looks at the rest again.
#[tracing::instrument(name = "run", level = "error", skip_all, fields(sync = sync.name, run))]
pub async fn run_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + std::marker::Sync),
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let calls = ends[0].calls() + ends[1].calls();
    let prepared = ready(sync, ends, store, parents).await?;
    let drift = prepared.drift(sync, store)?;
    let mut report =
        Report { run: begin_run(store, sync, &options.told())?, drift, version: sync.version, ..Report::default() };
    report.lineage = SIDES.into_iter().flat_map(|side| prepared.plan.from(side).lineage()).collect();
    report.calls_forecast = ends[0].calls() + ends[1].calls() - calls;
    let result = if sync.drift == Drift::Stop && !report.drift.is_empty() && !options.force {
        Err(Error::Drift { sync: sync.name.clone(), what: report.drift.clone() })
    } else {
        run_prepared(sync, &prepared, ends, store, options, progress, &mut report).await
    };
    report.calls = ends[0].calls() + ends[1].calls() - calls;
    report.calls_left = ends[0].allowance();
    end(sync, Some(&prepared), store, report, result)
}

/// Checks a sync, and sees to it that changes outside are captured.
async fn ready(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
) -> Result<PreparedPairs, Error> {
    let mut prepared = prepare_pairs(sync, ends, store, parents).await?;
    for side in SIDES {
        let checkpoint = store.checkpoint(&checkpoint_name(sync, side))?;
        let entity = &prepared.targets[place(side)].entity;
        let rules = rules_of(sync, side, ends[place(side)], entity, store, &checkpoint).await?;
        prepared.targets[place(side)].entity.rules = rules;
    }
    if sync.definition.external.capture.is_some() {
        capture::begin(sync, ends[1], &prepared.targets[1].entity, &prepared.targets[1].key).await?;
    }
    store.forget_images(Utc::now() - chrono::TimeDelta::days(state::IMAGE_DAYS))?;
    Ok(prepared)
}

/// Notes how a run ended, and what both sides looked like where it went well.
fn end(
    sync: &Sync,
    prepared: Option<&PreparedPairs>,
    store: &Store,
    report: Report,
    result: Result<(), Error>,
) -> Result<Report, Error> {
    let outcome = match &result {
        Ok(()) if report.green() => "green",
        Err(error) if error.class() == model::Class::Stopped => "stopped",
        _ => "red",
    };
    for (side, target) in SIDES.into_iter().zip(prepared.iter().flat_map(|prepared| &prepared.targets)) {
        if outcome == "green" {
            store.remember_catalog(&sync.name, side, &target.entity)?;
        }
    }
    let body = serde_json::to_string(&report).unwrap_or_default();
    // Why it failed matters more than that this could not be noted.
    let noted = store.end_run(report.run, outcome, &body, Utc::now());
    result?;
    noted?;
    Ok(report)
}

/// Puts back what a run of a two-way sync wrote, on both sides; what was changed since stays, unless `options` say to go on
/// by force. It is a run itself, and can be undone; a dry one is none, and only counts.
///
/// # Errors
///
/// [`Error::NothingToUndo`], or why it could not go on; what was put back stays so, and the same call goes on.
#[tracing::instrument(name = "undo", level = "error", skip_all, fields(sync = sync.name, run = tracing::field::Empty))]
pub async fn undo_pairs(
    sync: &Sync,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    parents: Parents<'_>,
    run: i64,
    options: &Options,
) -> Result<Report, Error> {
    let _lock = store.lock(&sync.name)?;
    let calls = ends[0].calls() + ends[1].calls();
    let prepared = prepare_pairs(sync, ends, store, parents).await?;
    if store.images(run, "", 1)?.is_empty() {
        let why = "what was there before is kept of two-way syncs, for 30 days";
        return Err(Error::NothingToUndo { run, why });
    }
    let begun =
        if options.dry_run { 0 } else { begin_run(store, sync, &json!({"undoes": run, "force": options.force}))? };
    let mut report = Report { run: begun, sync: sync.name.clone(), undoes: Some(run), ..Report::default() };
    let result = match Pairing::new(sync, &prepared, ends, store, options, &|_| {}, &mut report, None) {
        Ok(mut pairing) => pairing.undo(run).await,
        Err(error) => Err(error),
    };
    report.calls = ends[0].calls() + ends[1].calls() - calls;
    if options.dry_run {
        return result.map(|()| report);
    }
    end(sync, None, store, report, result)
}

/// Runs a two-way sync that was checked before; `report` has the number of the run and is filled.
///
/// # Errors
///
/// As [`run_pairs`].
pub async fn run_prepared(
    sync: &Sync,
    prepared: &PreparedPairs,
    ends: [&dyn Endpoint; 2],
    store: &Store,
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + std::marker::Sync),
    report: &mut Report,
) -> Result<(), Error> {
    report.sync.clone_from(&sync.name);
    let mut pairing = Pairing::new(sync, prepared, ends, store, options, progress, report, None)?;
    let result = match &options.pilot {
        Some(pilot) => pairing.pilot(pilot).await,
        None => pairing.whole().await,
    };
    (report.conflicts, report.held) = store.count_conflicts(&sync.name, report.run)?;
    report.counts.parked = store.count_dead_letters(Some(&sync.name))?.1;
    result
}

/// A run.
struct Pairing<'r> {
    sync: &'r Sync,
    prepared: &'r PreparedPairs,
    ends: [&'r dyn Endpoint; 2],
    store: &'r Store,
    options: &'r Options,
    progress: &'r (dyn Fn(Progress) + Send + std::marker::Sync),
    report: &'r mut Report,
    layouts: Layouts,
    /// What a run that was cut off was about to write.
    intents: HashMap<(String, String), state::Intent>,
    /// What a person decided: by Salesforce id and field.
    decided: HashMap<(String, String), (Side, state::Conflict)>,
    /// Records to look at again.
    moved: HashSet<(Side, String)>,
    /// Links whose record is gone from one side.
    gone: Vec<Link>,
    /// True once the brake has let deletions pass.
    deleting: bool,
    /// What a person has to decide: by Salesforce id and field.
    held: HashSet<(String, String)>,
    /// Records that wait for another look.
    waiting: HashSet<(Side, String)>,
    /// Records that were written without a parent, which may come later in the run.
    incomplete: HashSet<(Side, String)>,
    /// For each match rule the keys of the external records by what it says of them; read when it is first needed.
    candidates: Option<Vec<Candidates>>,
    /// What people answered: is this Salesforce record that external one (then external wins), or not?
    answers: HashMap<(String, String), Side>,
    /// Keys that matches of this run took, with the Salesforce records that took them.
    claimed: HashMap<String, String>,
    /// Salesforce records that have no key yet.
    keyless: HashSet<String>,
    /// Keys of external records that more than one Salesforce record may be, or the other way round.
    questioned: HashSet<String>,
    /// Records whose counterpart an undo took away, as their letters are known.
    undone: HashSet<String>,
    /// External records whose Salesforce record was merged into that of another, with the key of that.
    merged: HashMap<String, String>,
    /// Where the window begins whose merges are followed; `None` for all of them.
    merged_since: Option<String>,
    /// How far the later of the two sides' clocks is ahead of this machine's, in microseconds, where times decide.
    clock_offset: i64,
    /// Links when the run began.
    linked: u64,
    /// Where changes are settled as they happen: what was changed before, for the brakes.
    followed: Option<crate::stream::Before>,
    /// Records that were told of and were as agreed.
    echoes: HashSet<(Side, String)>,
    /// Records of Salesforce that were looked at, with the time of their last change then, in microseconds.
    looked: HashMap<String, i64>,
    /// Rows of Salesforce of which only these columns are known; the rest is as it was agreed on.
    partial: HashMap<usize, Vec<usize>>,
    /// Numbers of the links whose pairs this run has met: where it reads everything the others may be gone, and what is met
    /// once is not settled again. A bit each; a run that is cut off reads everything again.
    seen: FixedBitSet,
}

impl<'r> Pairing<'r> {
    /// `followed` are the links there are, and what was changed before, where changes are settled as they happen.
    #[expect(clippy::too_many_arguments, reason = "all that a run stands on")]
    fn new(
        sync: &'r Sync,
        prepared: &'r PreparedPairs,
        ends: [&'r dyn Endpoint; 2],
        store: &'r Store,
        options: &'r Options,
        progress: &'r (dyn Fn(Progress) + Send + std::marker::Sync),
        report: &'r mut Report,
        followed: Option<(u64, crate::stream::Before)>,
    ) -> Result<Self, Error> {
        let mapping = &sync.definition.mapping;
        let fields: Vec<String> = prepared.plan.fields.iter().map(|field| field.name.clone()).collect();
        let current = store.layout(mapping, &fields)?;
        let layouts = Layouts { current, fields, known: store.layouts(mapping)?.into_iter().collect() };
        let intents = store.intents(mapping)?;
        let decided = store.conflicts(Some(&sync.name), Some("resolved"), 0, usize::MAX >> 1)?;
        let mut pairing = Self {
            sync,
            prepared,
            ends,
            store,
            options,
            progress,
            report,
            layouts,
            intents: intents
                .into_iter()
                .map(|intent| ((intent.salesforce.clone(), intent.external.clone()), intent))
                .collect(),
            decided: HashMap::new(),
            moved: HashSet::new(),
            gone: Vec::new(),
            deleting: false,
            held: HashSet::new(),
            waiting: HashSet::new(),
            incomplete: HashSet::new(),
            candidates: None,
            answers: HashMap::new(),
            claimed: HashMap::new(),
            keyless: HashSet::new(),
            questioned: HashSet::new(),
            undone: if options.replay.any() {
                HashSet::new()
            } else {
                store.letters_for(&sync.name, UNDONE)?.into_iter().collect()
            },
            merged: store.merged(mapping)?,
            merged_since: None,
            clock_offset: 0,
            linked: match followed {
                Some((linked, _)) => linked,
                None => store.unseen(Owner { sync: &sync.name, mapping, source: Side::Salesforce, run: 0 })?.0,
            },
            followed: followed.map(|(_, before)| before),
            echoes: HashSet::new(),
            looked: HashMap::new(),
            partial: HashMap::new(),
            seen: FixedBitSet::new(),
        };
        for conflict in
            store.conflicts(Some(&sync.name), Some("held"), 0, usize::MAX >> 1)?.into_iter().chain(decided.clone())
        {
            pairing.held.insert((conflict.salesforce, conflict.field));
        }
        for conflict in decided {
            let winner = if conflict.winner.as_deref() == Some("external") { Side::External } else { Side::Salesforce };
            if conflict.field == MATCH {
                pairing.moved.insert((Side::Salesforce, conflict.salesforce.clone()));
                pairing.answers.insert((conflict.salesforce, conflict.external), winner);
                continue;
            }
            pairing.moved.insert((Side::External, conflict.external.clone()));
            pairing.decided.insert((conflict.salesforce.clone(), conflict.field.clone()), (winner, conflict));
        }
        Ok(pairing)
    }
}

impl Pairing<'_> {
    fn end(&self, side: Side) -> &dyn Endpoint {
        self.ends[place(side)]
    }

    fn entity(&self, side: Side) -> &Entity {
        &self.prepared.targets[place(side)].entity
    }

    /// Returns the column that identifies a record of a side: in Salesforce its id.
    fn identity(&self, side: Side) -> usize {
        match side {
            Side::Salesforce => self.prepared.plan.to_external.record_id.unwrap_or(0),
            Side::External => 0,
        }
    }

    fn owner(&self, source: Side) -> Owner<'_> {
        Owner { sync: &self.sync.name, mapping: &self.sync.definition.mapping, source, run: self.report.run }
    }

    fn calls(&self) -> u64 {
        self.ends.iter().map(|end| end.calls()).sum()
    }

    async fn whole(&mut self) -> Result<(), Error> {
        let before = self.calls();
        let mut ends = Vec::new();
        for side in [Side::Salesforce, Side::External] {
            let until = self.end(side).now(self.entity(side)).await?;
            let checkpoint = self.store.checkpoint(&checkpoint_name(self.sync, side))?;
            ends.push((side, until, checkpoint));
        }
        self.compare_clocks().await?;
        self.report.calls_forecast += self.calls() - before;
        for revisit in self.store.revisits(&self.sync.name, true)? {
            if revisit.soon || self.options.replay.any() {
                self.moved.insert((revisit.side, revisit.key.clone()));
            }
            self.waiting.insert((revisit.side, revisit.key));
        }
        let mut whole = [false; 2];
        for (side, until, checkpoint) in &ends {
            let window = self.window(*side, checkpoint, until.as_ref()).await?;
            self.report.full |= window.is_none();
            whole[place(*side)] = window.is_none();
            if *side == Side::Salesforce {
                // What follows a winner must do so before the winner is taken for a record that was never paired.
                self.merged_since = window.as_ref().and_then(|window| window.since.clone());
                self.follow_merges(window.clone()).await?;
            }
            let asked = self.calls();
            let count = self.end(*side).count(&self.reading(*side, window.clone())).await?;
            self.report.receipt.source.0 += count;
            // The count is asked for once more behind the read.
            let asked = self.calls() - asked;
            self.report.calls_forecast +=
                2 * asked + self.end(*side).forecast_read_calls(count) + self.end(side.other()).forecast_calls(count);
            self.read(*side, window.clone(), until.as_deref()).await?;
            self.refresh(*side, window.clone(), until.as_deref(), checkpoint).await?;
            // A record that waits for its key must have it before its counterpart is taken for one that has none.
            self.look_again().await?;
            if let Some(window) = window {
                self.read_deleted(*side, window).await?;
            } else {
                self.unseen()?;
            }
        }
        self.delete_gone().await?;
        self.moved.extend(std::mem::take(&mut self.incomplete));
        self.look_again().await?;
        self.leave_for_later()?;
        for (side, until, before) in ends {
            let since = until.or(Some(String::new()));
            let refreshed = if whole[place(side)] { since.clone() } else { before.refreshed };
            let checkpoint = Checkpoint { since, open: None, mapping: self.sync.definition.digest, refreshed };
            self.store.set_checkpoint(&checkpoint_name(self.sync, side), &checkpoint)?;
        }
        Ok(())
    }

    /// Returns the window of a side; `None` where everything is to be read.
    async fn window(
        &self,
        side: Side,
        checkpoint: &Checkpoint,
        until: Option<&String>,
    ) -> Result<Option<Window>, Error> {
        let full = self.options.full || why_full(checkpoint, self.sync.definition.digest, until).is_some();
        let Some(until) = until.filter(|_| !full) else { return Ok(None) };
        let window = Window { since: checkpoint.since.clone(), until: until.clone() };
        let reading = self.reading(side, Some(window.clone()));
        let held = self.end(side).holds(&reading).await?;
        let stale = self.end(side).stale(&reading).await?;
        let outdated = is_outdated(&stale, checkpoint.refreshed.as_deref(), &window.until);
        Ok((held && !outdated).then_some(window))
    }

    /// Looks at records that a window does not tell, though what their derived fields are made of changed; says how old these
    /// fields are.
    async fn refresh(
        &mut self,
        side: Side,
        window: Option<Window>,
        until: Option<&str>,
        checkpoint: &Checkpoint,
    ) -> Result<(), Error> {
        let Some(until) = until else { return Ok(()) };
        let told = window.clone().unwrap_or_else(|| Window { since: None, until: until.to_owned() });
        let mut stale = self.end(side).stale(&self.reading(side, Some(told))).await?;
        let refreshed = if window.is_some() { checkpoint.refreshed.clone() } else { None };
        for field in std::mem::take(&mut stale.derived) {
            let timely = refreshed.clone().filter(|_| stale.timely.contains(&field));
            self.report.derived.insert(field, timely.unwrap_or_else(|| until.to_owned()));
        }
        if window.is_some() {
            while let Some(keys) = stale.keys.next().await.transpose()? {
                self.moved.extend(keys.into_iter().map(|key| (side, key)));
                self.look_again().await?;
            }
        }
        Ok(())
    }

    fn reading(&self, side: Side, window: Option<Window>) -> Read {
        reading(self.sync, self.prepared, side, window)
    }

    /// Stops a run when it is to change far more than usual: somebody may have changed everything by mistake. What was
    /// made new does not count.
    fn change_brake(&self, more: usize) -> Result<(), Error> {
        let before = self.followed.unwrap_or_default().updated;
        let changed = before + self.report.counts.updated + more as u64;
        let share = self.sync.two_way.unwrap_or_default().change_brake;
        if !self.options.force && changed > UNMINDED && changed as f64 > self.linked as f64 * share {
            return Err(Error::ChangeBrake { changed: before + self.report.counts.updated, of: self.linked });
        }
        Ok(())
    }

    async fn read(&mut self, side: Side, window: Option<Window>, until: Option<&str>) -> Result<(), Error> {
        let everything = window.is_none();
        let read = self.reading(side, window);
        let until = until.and_then(settled_before);
        let (coarse, changed) = (self.end(side).capabilities().guards_by_second, self.prepared.changed[place(side)]);
        let mut stream = self.end(side).read(read.clone()).await?;
        loop {
            let waited = std::time::Instant::now();
            let next = tokio::select! {
                next = stream.next() => next,
                () = self.options.stop.cancelled() => return Err(Error::Stopped),
            };
            self.report.read_ms += millis(waited);
            let Some(batch) = next.transpose()? else { break };
            let rows = (batch.len() + batch.unreadable.len()) as u64;
            self.report.receipt.read += rows;
            self.report.counts.read += rows;
            self.refuse_unreadable(side, batch.unreadable)?;
            let mut start = 0;
            while start < batch.records.num_rows() {
                let part = batch.records.slice(start, PAIRS.min(batch.records.num_rows() - start));
                start += part.num_rows();
                let fresh = |row: usize| {
                    coarse
                        && changed
                            .is_none_or(|column| until.is_none_or(|until| micros(&part, column, row) >= Some(until)))
                };
                let (late, ready): (Vec<usize>, Vec<usize>) = (0..part.num_rows()).partition(|row| fresh(*row));
                for row in late {
                    self.moved.insert((side, cell(&part, self.identity(side), row)));
                }
                let ready = take(&part, &ready).map_err(self.batch_error())?;
                self.settle_rows(side, ready, everything).await?;
                (self.progress)(Progress { rows: self.report.receipt.read, of: self.report.receipt.source.0 });
            }
        }
        self.report.receipt.source.1 += self.end(side).count(&read).await?;
        Ok(())
    }

    /// Notes the links whose records a source says are deleted.
    async fn read_deleted(&mut self, side: Side, window: Window) -> Result<(), Error> {
        if !is_captured(self.entity(side)) && !self.end(side).capabilities().tells_deletes {
            return Ok(());
        }
        let mut read = self.reading(side, Some(window));
        let column = self.identity(side);
        (read.deleted, read.fields) = (true, vec![read.fields[column].clone()]);
        let mut stream = self.end(side).read(read).await?;
        while let Some(batch) = stream.next().await.transpose()? {
            let keys: Vec<String> = (0..batch.len()).map(|row| cell(&batch.records, 0, row)).collect();
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.gone.extend(self.store.links(&self.sync.definition.mapping, side, &names)?.into_values());
        }
        Ok(())
    }

    /// Notes the links that a full read of a side did not meet.
    fn unseen(&mut self) -> Result<(), Error> {
        self.gone.extend(self.store.links_not(&self.sync.definition.mapping, &|row| self.is_seen(row))?);
        Ok(())
    }

    fn see(&mut self, link: i64) {
        self.seen.grow_and_insert(usize::try_from(link).unwrap_or_default());
    }

    fn is_seen(&self, link: i64) -> bool {
        self.seen.contains(usize::try_from(link).unwrap_or_default())
    }

    /// Looks again at records that moved while they were written, or that wait.
    async fn look_again(&mut self) -> Result<(), Error> {
        // What moved under a write may be on the move for a while: there are other changes to settle meanwhile.
        let looks = if self.followed.is_some() { 1 } else { LOOKS };
        for look in 0..looks {
            let moved: Vec<(Side, String)> = std::mem::take(&mut self.moved).into_iter().collect();
            if moved.is_empty() {
                return Ok(());
            }
            tracing::debug!(sync = self.sync.name, pairs = moved.len(), look, "looking at records again");
            for side in [Side::Salesforce, Side::External] {
                let mut keys: Vec<String> =
                    moved.iter().filter(|(of, _)| *of == side).map(|(_, key)| key.clone()).collect();
                keys.sort();
                for keys in keys.chunks(PAIRS) {
                    let id = self.prepared.fields[place(side)][self.identity(side)].clone();
                    let found = self.fetch(side, &id, keys).await?;
                    let there: HashSet<String> =
                        (0..found.num_rows()).map(|row| cell(&found, self.identity(side), row)).collect();
                    let missing: Vec<&str> =
                        keys.iter().filter(|key| !there.contains(*key)).map(String::as_str).collect();
                    let links = self.store.links(&self.sync.definition.mapping, side, &missing)?;
                    let unlinked: Vec<(Side, String)> = missing
                        .iter()
                        .filter(|key| !links.contains_key(**key))
                        .map(|key| (side, (*key).to_owned()))
                        .collect();
                    // Gone before they were ever paired.
                    let commit = state::PairCommit { visited: unlinked, ..state::PairCommit::default() };
                    self.commit(&commit)?;
                    self.gone.extend(links.into_values());
                    self.settle_rows(side, found, false).await?;
                }
            }
        }
        Ok(())
    }

    /// Leaves what is still on the move to the next run.
    fn leave_for_later(&mut self) -> Result<(), Error> {
        self.moved.extend(self.gone.drain(..).map(|link| (Side::External, link.external)));
        let revisit = std::mem::take(&mut self.moved);
        let revisit = revisit.into_iter().map(|(side, key)| state::Revisit { side, key, soon: true }).collect();
        self.commit(&state::PairCommit { revisit, ..state::PairCommit::default() })
    }

    /// Deletes what is gone from one side, behind the brake.
    async fn delete_gone(&mut self) -> Result<(), Error> {
        if !self.gone.is_empty() {
            self.follow_recent_merges().await?;
        }
        let mut gone = std::mem::take(&mut self.gone);
        gone.sort_by(|left, right| (&left.salesforce, &left.external).cmp(&(&right.salesforce, &right.external)));
        gone.dedup();
        if gone.is_empty() {
            return Ok(());
        }
        let (linked, before) = match self.followed {
            Some(before) => (self.linked, before.deleted),
            None => (self.store.unseen(self.owner(Side::Salesforce))?.0, 0),
        };
        let most = (linked as f64 * self.sync.brake).max(1.0);
        let deletes = before + gone.len() as u64;
        if self.prepared.rules.deletes && !self.options.force && deletes as f64 > most {
            return Err(Error::Brake { sync: self.sync.name.clone(), deletes, of: linked });
        }
        self.deleting = true;
        for links in gone.chunks(PAIRS) {
            self.settle_links(links).await?;
        }
        self.deleting = false;
        Ok(())
    }

    async fn fetch(&mut self, side: Side, key: &str, keys: &[String]) -> Result<RecordBatch, Error> {
        if keys.is_empty() {
            let names = self.prepared.fields[place(side)].iter().map(String::as_str);
            let known = self.prepared.plan.from(side).source_kinds.len();
            let schema = arrow::datatypes::Schema::new(
                names
                    .enumerate()
                    .map(|(at, name)| {
                        let kind = if at < known {
                            self.prepared.plan.from(side).source_kinds[at]
                        } else {
                            self.entity(side).field(name).map_or(model::Type::Text, |field| field.kind)
                        };
                        arrow::datatypes::Field::new(name, kind.arrow(), true)
                    })
                    .collect::<Vec<_>>(),
            );
            return Ok(RecordBatch::new_empty(std::sync::Arc::new(schema)));
        }
        let fields = self.prepared.fields[place(side)].clone();
        let (end, entity) = (self.end(side), self.entity(side));
        let found = match self.followed {
            Some(_) => end.fetch_now(entity, &fields, key, keys).await?,
            None => end.fetch(entity, &fields, key, keys).await?,
        };
        self.refuse_unreadable(side, found.unreadable)?;
        Ok(found.records)
    }

    fn commit(&mut self, commit: &state::PairCommit) -> Result<(), Error> {
        self.report.counts.dead += commit.dead.iter().filter(|letter| letter.state != "parked").count() as u64;
        let mapping = &self.sync.definition.mapping;
        log_letters(&commit.dead);
        let links = self.store.commit_pairs(&self.sync.name, mapping, self.report.run, commit)?;
        for link in links {
            self.see(link);
        }
        Ok(())
    }

    fn batch_error(&self) -> impl Fn(arrow::error::ArrowError) -> Error + use<> {
        let sync = self.sync.name.clone();
        move |source| Error::Batch { sync: sync.clone(), source }
    }
}

/// Returns the moment, in microseconds, before which a change is guarded: a second before the read began.
fn settled_before(until: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(until).ok().map(|time| time.timestamp_micros() - 1_000_000)
}

/// Returns a time of a batch, in microseconds.
fn micros(batch: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    use arrow::array::{Array as _, AsArray as _};
    let column = batch.column(column);
    let times = column.as_primitive_opt::<arrow::datatypes::TimestampMicrosecondType>()?;
    times.is_valid(row).then(|| times.value(row))
}

fn take(batch: &RecordBatch, rows: &[usize]) -> Result<RecordBatch, arrow::error::ArrowError> {
    if rows.len() == batch.num_rows() {
        return Ok(batch.clone());
    }
    let rows: arrow::array::UInt32Array = rows.iter().map(|row| *row as u32).collect();
    arrow::compute::take_record_batch(batch, &rows)
}
