//! Pairs settled: both records at hand, merged, written, and committed.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use arrow::array::RecordBatch;
use endpoint::Revision;
use model::{Outcome, RecordError, Side, text_of};
use state::{Link, PairCommit};

use super::pair::{Loaded, MISSING_PARENT, Pair, Prints, SIDES, Settled, UNMAPPED, Write, prints, text_at};
use super::{Pairing, micros};
use crate::merge::{Base, Decision, Half, Print, Way, merge, place};
use crate::report::Error;
use crate::run::millis;

/// Rows for which a thread of its own is worth starting.
const WORTH_A_THREAD: usize = 512;

impl Pairing<'_> {
    /// Maps the rows of both sides, and takes the prints of all their values; many of them on two cores.
    pub(super) fn load(&mut self, [ours, theirs]: [RecordBatch; 2]) -> Result<[Loaded; 2], Error> {
        let begun = Instant::now();
        let this = &*self;
        let halves = if ours.num_rows() + theirs.num_rows() < WORTH_A_THREAD {
            [this.half(Side::Salesforce, ours), this.half(Side::External, theirs)]
        } else {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| this.half(Side::Salesforce, ours));
                let theirs = this.half(Side::External, theirs);
                let ours = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                [ours, theirs]
            })
        };
        let [ours, theirs] = halves;
        let halves = [ours?, theirs?];
        let mapped = halves.iter().filter_map(|half| half.mapped.as_ref());
        self.report.counts.warnings += mapped.map(|mapped| mapped.warnings).sum::<u64>();
        self.report.map_ms += millis(begun);
        Ok(halves)
    }

    /// Maps the rows of one side, and takes the prints of all their values.
    fn half(&self, side: Side, batch: RecordBatch) -> Result<Loaded, Error> {
        self.refuse_future(side, &batch)?;
        let prepared = self.prepared;
        let plan = prepared.plan.from(side);
        let rows = batch.num_rows();
        let store = self.store;
        let links = |mapping: &str, side: Side, keys: &[&str]| Ok(store.counterparts(mapping, side, keys)?);
        let mut mapped = None;
        if rows > 0 {
            let columns: Vec<usize> = (0..plan.source_fields.len()).collect();
            let own = batch.project(&columns).map_err(self.batch_error())?;
            let made = if side == Side::Salesforce && !self.partial.is_empty() {
                plan.apply_known(&own, &links)
            } else {
                plan.apply(&own, &links)
            };
            mapped = Some(made.map_err(self.batch_error())?);
        }
        let mut mapped_rows = vec![None; rows];
        let mut refused = HashMap::new();
        let mut deferred: HashMap<usize, Vec<usize>> = HashMap::new();
        if let Some(mapped) = &mut mapped {
            for (row, column) in std::mem::take(&mut mapped.deferred) {
                let fields = prepared.plan.fields.iter();
                let field = fields.enumerate().find(|(_, field)| field.given(side.other()) == Some(column));
                deferred.entry(row).or_default().extend(field.map(|(at, _)| at));
            }
            for (at, row) in mapped.rows.iter().enumerate() {
                mapped_rows[*row] = Some(at);
            }
            refused.extend(std::mem::take(&mut mapped.refused));
        }
        let fields = prepared.plan.fields.len();
        let (mut own, mut across) = (Prints::nulls(rows, fields), Prints::nulls(rows, fields));
        for (at, field) in prepared.plan.fields.iter().enumerate() {
            let column = prepared.own[place(side)][at].map(|column| batch.column(column));
            if let Some(column) = column {
                own.put(at, prints(column.as_ref()));
            }
            let made = field.given(side.other()).zip(mapped.as_ref()).map(|(column, mapped)| {
                let made = mapped.records.column(column);
                (made, mapped.rows.len() == rows)
            });
            let outdated = self.outdated(side, at, &batch)?;
            match (made, column) {
                // What is carried over as it is has the prints that it has.
                (Some((made, true)), Some(column))
                    if outdated.is_empty() && made.to_data().ptr_eq(&column.to_data()) =>
                {
                    across.copy(at, &own);
                }
                (Some((made, _)), _) => {
                    let made: Vec<Print> = prints(made.as_ref()).collect();
                    let of_row = |(row, at): (usize, &Option<usize>)| match at {
                        Some(at) if !outdated.contains(&row) => made[*at],
                        _ => UNMAPPED,
                    };
                    across.put(at, mapped_rows.iter().enumerate().map(of_row));
                }
                (None, _) => across.put(at, mapped_rows.iter().map(|at| if at.is_some() { 0 } else { UNMAPPED })),
            }
        }
        Ok(Loaded { batch, mapped, mapped_rows, refused, deferred, own, across })
    }

    /// Returns the rows whose lookup names an external record that was merged into another: it leads to the right record,
    /// and is not what it should be.
    fn outdated(&self, side: Side, field: usize, batch: &RecordBatch) -> Result<HashSet<usize>, Error> {
        let parent = self.prepared.plan.fields[field].parent.as_ref().filter(|_| side == Side::External);
        let column = self.prepared.own[place(side)][field];
        let (Some(parent), Some(column)) = (parent, column) else { return Ok(HashSet::new()) };
        let merged = self.store.merged(parent)?;
        let is_merged = |row: &usize| {
            text_of(batch.column(column).as_ref(), *row).is_some_and(|key| merged.contains_key(key.as_ref()))
        };
        Ok(if merged.is_empty() { HashSet::new() } else { (0..batch.num_rows()).filter(is_merged).collect() })
    }

    /// Merges pairs, writes them, and stores what became of them.
    pub(super) async fn settle_pairs(&mut self, batches: [RecordBatch; 2], pairs: Vec<Pair>) -> Result<(), Error> {
        let halves = self.load(batches)?;
        let mut commit = PairCommit::default();
        let (settled, mut writes) = self.decide(&pairs, &halves, &mut commit);
        let mut failed = self.leave_out_refused(&pairs, &halves, &mut writes, &mut commit);
        let updates = writes.iter().flatten().filter(|write| write.revision == Revision::Update).count();
        self.change_brake(updates)?;
        let noted = self.intend(&pairs, &halves, &settled, &writes)?;
        let mut ids: HashMap<usize, String> = HashMap::new();
        // Pairs whose write may have been made whatever is said of it now: its first answer was lost.
        let mut unsure: HashSet<usize> = HashSet::new();
        for side in [Side::External, Side::Salesforce] {
            let (outcomes, again) = self.write_side(side, &pairs, &halves, &writes[place(side)]).await?;
            for (write, outcome) in writes[place(side)].iter().zip(outcomes) {
                let pair = &pairs[write.pair];
                let counts = &mut self.report.counts;
                if again && matches!(outcome, Outcome::Moved | Outcome::Refused(_)) {
                    unsure.insert(write.pair);
                }
                match outcome {
                    Outcome::Applied { id, .. } => {
                        *(match write.revision {
                            Revision::Insert => &mut counts.created,
                            Revision::Update => &mut counts.updated,
                            Revision::Delete => &mut counts.deleted,
                        }) += 1;
                        if let (Side::Salesforce, Some(id)) = (side, id) {
                            ids.insert(write.pair, id);
                        }
                    }
                    Outcome::Unchanged => counts.unchanged += 1,
                    Outcome::Moved => {
                        failed[place(side)].insert(write.pair);
                        // Both records are fetched again by way of one that was there.
                        self.moved.insert(match pair.rows {
                            [Some(_), None] => (Side::Salesforce, pair.id.clone()),
                            _ => (Side::External, pair.key.clone()),
                        });
                    }
                    Outcome::Refused(_) if !self.partial.is_empty() => {
                        failed[place(side)].insert(write.pair);
                        // What is kept of it is the whole record.
                        self.moved.insert((Side::Salesforce, pair.id.clone()));
                    }
                    Outcome::Refused(error) => {
                        failed[place(side)].insert(write.pair);
                        let from = if write.revision == Revision::Delete { side } else { side.other() };
                        let (key, record) = self.source_of(pair, from, &halves[place(from)]);
                        self.bury(&mut commit, from, &key, record, &error);
                    }
                }
            }
        }
        for one in settled {
            let bad = [failed[0].contains(&one.pair), failed[1].contains(&one.pair)];
            let made = ids.get(&one.pair);
            let sure = !unsure.contains(&one.pair);
            self.conclude(&pairs[one.pair], one, bad, sure, made, &mut commit);
        }
        let not_made = |notes: Vec<((usize, Side), i64)>| {
            let notes = notes.into_iter().filter(|((pair, side), _)| failed[place(*side)].contains(pair));
            notes.filter(|((pair, _), _)| !unsure.contains(pair)).map(|(_, number)| number).collect()
        };
        commit.withdrawn = not_made(noted.conflicts);
        commit.unwritten = not_made(noted.images);
        let committing = Instant::now();
        self.commit(&commit)?;
        self.report.commit_ms += millis(committing);
        Ok(())
    }

    /// Merges pairs, and returns what was decided, and what is to be written to either side.
    fn decide(
        &mut self,
        pairs: &[Pair],
        halves: &[Loaded; 2],
        commit: &mut PairCommit,
    ) -> (Vec<Settled>, [Vec<Write>; 2]) {
        let prepared = self.prepared;
        let mut settled = Vec::with_capacity(pairs.len());
        let mut writes: [Vec<Write>; 2] = [Vec::new(), Vec::new()];
        let fields = self.prepared.plan.fields.len();
        let followed = self.followed.is_some();
        for (at, pair) in pairs.iter().enumerate() {
            let filled = self.filled(pair, &halves[0]);
            let half = |side: Side| {
                let (half, row) = (&halves[place(side)], pair.rows[place(side)]?);
                let changed = self.prepared.changed[place(side)].and_then(|column| micros(&half.batch, column, row));
                let (own, across) = match &filled {
                    Some([own, across]) if side == Side::Salesforce => (own.as_slice(), across.as_slice()),
                    _ => (half.own.row(row), half.across.row(row)),
                };
                Some(Half { own, across, changed })
            };
            let base = self.base_of(pair, half(Side::Salesforce), half(Side::External));
            let texts = |field: usize| SIDES.map(|side| text_at(prepared, halves, pair, side, field));
            let (rules, decided) = self.rules_for(pair, &texts);
            let mut decision = merge(base.as_ref(), half(Side::Salesforce), half(Side::External), &rules);
            if filled.is_some() {
                // Only what is simple is done without a look at the whole record.
                let simple = matches!(&decision, Decision::Fields(merged)
                    if merged.to_salesforce.is_empty() && merged.conflicts.is_empty());
                let refused = pair.rows[0].is_some_and(|row| halves[0].refused.contains_key(&row));
                if !simple || refused {
                    self.moved.insert((Side::Salesforce, pair.id.clone()));
                    continue;
                }
            } else if let Some(at) = half(Side::Salesforce).and_then(|half| half.changed).filter(|_| followed) {
                self.looked.insert(pair.id.clone(), at);
            }
            let deferred = self.defer(pair, halves, &mut decision, base.as_ref(), commit);
            let mut one = Settled {
                pair: at,
                before: base,
                after: Vec::new(),
                conflicts: Vec::new(),
                values: None,
                done: Vec::new(),
                decision,
            };
            let mut write = |side: Side, revision, fields: Vec<usize>, columns| {
                writes[place(side)].push(Write { pair: at, revision, columns, fields });
            };
            match &one.decision {
                Decision::Forget | Decision::Leave => {}
                // What is gone is decided about at the end: behind the brake, and knowing what was merged.
                Decision::Delete { .. } | Decision::Create { contested: true, .. } | Decision::Ask { .. }
                    if !self.deleting =>
                {
                    self.gone.extend(pair.link.clone());
                    continue;
                }
                Decision::Ask { .. } => one.conflicts.push(self.conflict(pair, None, None, None, [None, None])),
                Decision::Delete { side, contested } => {
                    if *contested {
                        one.conflicts.push(self.conflict(pair, None, None, Some(side.other()), [None, None]));
                    }
                    write(*side, Revision::Delete, Vec::new(), Vec::new());
                }
                Decision::Create { side, contested } => {
                    if pair.link.is_none() && self.stays_undone(pair) {
                        continue;
                    }
                    if *side == Side::Salesforce
                        && pair.link.is_none()
                        && (self.was_merged(pair, commit) || self.is_questioned(pair, commit))
                    {
                        continue;
                    }
                    if *contested {
                        one.conflicts.push(self.conflict(pair, None, None, Some(side.other()), [None, None]));
                    }
                    let Some(from) = half(side.other()) else { continue };
                    one.after = (0..fields)
                        .map(|field| {
                            let own = match rules.fields[field].0 {
                                Way::Both => from.own[field],
                                Way::To(_) => from.across[field],
                            };
                            let goes = self.prepared.plan.fields[field].goes_to(*side) && !deferred.contains(&field);
                            goes.then(|| match side {
                                Side::External => [own, from.across[field]],
                                Side::Salesforce => [from.across[field], own],
                            })
                        })
                        .collect();
                    let written = (0..fields).filter(|field| one.after[*field].is_some()).collect();
                    let columns =
                        halves[place(side.other())].mapped.as_ref().map_or(0, |mapped| mapped.records.num_columns());
                    let left_out: Vec<usize> =
                        deferred.iter().filter_map(|field| self.prepared.plan.fields[*field].given(*side)).collect();
                    let columns = (0..columns).filter(|column| !left_out.contains(column)).collect();
                    write(*side, Revision::Insert, written, columns);
                }
                Decision::Fields(merged) => {
                    one.after.clone_from(&merged.base);
                    for conflict in merged.conflicts.iter().filter(|conflict| !decided.contains(&conflict.field)) {
                        let kept = one.before.as_ref().and_then(|base| base[conflict.field]);
                        let values = texts(conflict.field);
                        one.conflicts.push(self.conflict(pair, Some(conflict.field), kept, conflict.winner, values));
                    }
                    for (side, written) in
                        [(Side::Salesforce, &merged.to_salesforce), (Side::External, &merged.to_external)]
                    {
                        if !written.is_empty() {
                            let columns = written
                                .iter()
                                .filter_map(|field| self.prepared.plan.fields[*field].given(side))
                                .collect();
                            write(side, Revision::Update, written.clone(), columns);
                        }
                    }
                    let open: Vec<usize> =
                        merged.conflicts.iter().filter(|one| one.winner.is_none()).map(|one| one.field).collect();
                    if !self.held.is_empty() {
                        let closed = (0..fields).filter(|field| !open.contains(field));
                        let names = closed.map(|field| self.prepared.plan.fields[field].name.clone());
                        one.done = names.filter(|name| self.held.contains(&(pair.id.clone(), name.clone()))).collect();
                    }
                }
            }
            if !self.held.is_empty()
                && !matches!(one.decision, Decision::Ask { .. })
                && self.held.contains(&(pair.id.clone(), String::new()))
            {
                one.done.push(String::new());
            }
            one.values = self.values_of(pair, &one.decision, &texts);
            settled.push(one);
        }
        (settled, writes)
    }

    /// Returns the prints of a Salesforce record of which only some columns are known: the others are as agreed.
    fn filled(&self, pair: &Pair, half: &Loaded) -> Option<[Vec<Print>; 2]> {
        let row = pair.rows[0]?;
        let columns = self.partial.get(&row)?;
        let base = self.layouts.decode(&pair.link.as_ref()?.base)?;
        let told = |field: usize| self.prepared.own[0][field].is_some_and(|column| columns.contains(&column));
        let fill = |side: usize, prints: &[Print]| {
            let print = |field: usize| match base[field] {
                Some(agreed) if !told(field) => agreed[side],
                _ => prints[field],
            };
            (0..prints.len()).map(print).collect()
        };
        Some([fill(0, half.own.row(row)), fill(1, half.across.row(row))])
    }

    /// Leaves out references to parents that are not there yet, and returns their fields. The record is looked at again.
    fn defer(
        &mut self,
        pair: &Pair,
        halves: &[Loaded; 2],
        decision: &mut Decision,
        base: Option<&Base>,
        commit: &mut PairCommit,
    ) -> Vec<usize> {
        let mut deferred = Vec::new();
        for side in SIDES {
            let half = &halves[place(side)];
            let Some(fields) = pair.rows[place(side)].and_then(|row| half.deferred.get(&row)) else { continue };
            let (key, record) = self.source_of(pair, side, half);
            let names: Vec<&str> = fields.iter().map(|field| self.prepared.plan.fields[*field].name.as_str()).collect();
            let message = format!("it waits for the record that {} names, and is written without it", names.join(", "));
            self.bury(commit, side, &key, record, &RecordError::rejected(MISSING_PARENT, message));
            self.incomplete.insert((side, key));
            deferred.extend(fields);
        }
        if let (Decision::Fields(merged), false) = (decision, deferred.is_empty()) {
            for fields in [&mut merged.to_salesforce, &mut merged.to_external] {
                fields.retain(|field| !deferred.contains(field));
            }
            merged.conflicts.retain(|conflict| !deferred.contains(&conflict.field));
            for field in &deferred {
                merged.base[*field] = base.and_then(|base| base[*field]);
            }
        }
        deferred
    }

    /// Leaves out writes of rows that can't be what the other side wants; returns their pairs, by the side that is not
    /// written.
    fn leave_out_refused(
        &self,
        pairs: &[Pair],
        halves: &[Loaded; 2],
        writes: &mut [Vec<Write>; 2],
        commit: &mut PairCommit,
    ) -> [HashSet<usize>; 2] {
        // A row that can't be what the other side wants is not written.
        let mut failed: [HashSet<usize>; 2] = [HashSet::new(), HashSet::new()];
        for side in SIDES {
            let source = &halves[place(side.other())];
            writes[place(side)].retain(|write| {
                let pair = &pairs[write.pair];
                let row = pair.rows[place(side.other())];
                let Some(error) =
                    row.and_then(|row| source.refused.get(&row)).filter(|_| write.revision != Revision::Delete)
                else {
                    return true;
                };
                failed[place(side)].insert(write.pair);
                let (key, record) = self.source_of(pair, side.other(), source);
                self.bury(commit, side.other(), &key, record, error);
                false
            });
        }
        failed
    }

    /// Adds to a commit what became of a pair; `bad` says which side could not be written, `made` the id of a record
    /// that was made in Salesforce.
    fn conclude(
        &mut self,
        pair: &Pair,
        one: Settled,
        bad: [bool; 2],
        sure: bool,
        made: Option<&String>,
        commit: &mut PairCommit,
    ) {
        let id = made.unwrap_or(&pair.id);
        let mut intended = false;
        for key in [(pair.id.clone(), pair.key.clone()), (String::new(), pair.key.clone())] {
            if sure && self.intents.remove(&key).is_some() {
                commit.settled.push(key);
                intended = true;
            }
        }
        if bad == [false, false] {
            for (side, key) in [(Side::Salesforce, id), (Side::External, &pair.key)] {
                if self.waiting.contains(&(side, key.clone())) {
                    commit.visited.push((side, key.clone()));
                }
            }
        }
        if bad == [false, false] {
            commit.done.extend(one.done.into_iter().map(|field| (pair.id.clone(), field)));
            commit.values.extend(one.values.map(|values| (id.clone(), values)));
        }
        let link = |base: &Base| Link {
            salesforce: id.clone(),
            external: pair.key.clone(),
            side: Side::External,
            base: self.layouts.encode(base),
            row: pair.link.as_ref().map_or(0, |link| link.row),
        };
        match one.decision {
            Decision::Forget => commit.unlinked.extend(pair.link.clone()),
            Decision::Delete { .. } if bad == [false, false] => commit.unlinked.extend(pair.link.clone()),
            Decision::Create { .. } if bad == [false, false] => {
                if let Some(old) = pair.link.as_ref().filter(|old| old.salesforce != *id) {
                    commit.unlinked.push(old.clone());
                }
                commit.links.push(link(&one.after));
            }
            Decision::Leave | Decision::Ask { .. } | Decision::Delete { .. } | Decision::Create { .. } => {
                // What is seen is not gone, in a run that reads everything.
                if let Some(link) = pair.link.as_ref().filter(|_| self.report.full) {
                    self.see(link.row);
                }
            }
            Decision::Fields(merged) => {
                let mut base = one.after;
                for (side, fields) in [(0, &merged.to_salesforce), (1, &merged.to_external)] {
                    for field in fields.iter().filter(|_| bad[side]) {
                        base[*field] = one.before.as_ref().and_then(|before| before[*field]);
                    }
                }
                let same = pair.link.is_some() && one.before.as_ref() == Some(&base) && !intended;
                match &pair.link {
                    Some(link) if same && self.report.full => self.see(link.row),
                    _ if same => {}
                    _ => commit.links.push(link(&base)),
                }
            }
        }
    }
}
