//! Undo: what a run wrote is put back, where nobody has changed it since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Schema};
use endpoint::{Guarded, Revision};
use model::{Column, Outcome, RecordError, Side, Type, text_of};
use serde_json::{Map, Value};
use state::{Image, Intent, Link, PairCommit, letter_key};

use super::pair::{Loaded, Pair, SIDES, print_of};
use super::{PAIRS, Pairing, UNDONE};
use crate::chunk::cell;
use crate::merge::{Base, Way, place};
use crate::report::Error;

/// Records named in a report, of those that were changed since.
const NAMED: usize = 20;

/// What is to be undone to one record of one side.
#[derive(Debug, Clone)]
struct Undoing {
    side: Side,
    salesforce: String,
    external: String,
    /// True when the record was there before the run, and after it.
    there: [bool; 2],
    before: Map<String, Value>,
    after: Map<String, Value>,
}

impl Undoing {
    fn new(image: &Image) -> Self {
        let there = [image.op != "insert", image.op != "delete"];
        let (before, after) = (object(&image.before), object(&image.after));
        Self {
            side: image.side,
            salesforce: image.salesforce.clone(),
            external: image.external.clone(),
            there,
            before,
            after,
        }
    }

    /// Adds a later write of the same run to the same record.
    fn then(&mut self, image: &Image) {
        let later = Self::new(image);
        self.there[1] = later.there[1];
        if self.salesforce.is_empty() {
            self.salesforce = later.salesforce;
        }
        for (name, value) in later.before {
            // What the run itself had written before is not what was there.
            if !self.after.contains_key(&name) {
                self.before.entry(name).or_insert(value);
            }
        }
        self.after.extend(later.after);
    }
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// What a pair has agreed on, with the fields that were put back.
#[derive(Debug, Clone)]
struct Agreed {
    base: Base,
    restored: HashSet<usize>,
}

/// A write that undoes one.
struct Step {
    pair: usize,
    revision: Revision,
    /// The values to be written.
    values: Map<String, Value>,
    undoing: Undoing,
}

impl Pairing<'_> {
    /// True when the counterpart of a record was taken away by an undo, and nobody has asked for it again.
    pub(super) fn stays_undone(&self, pair: &Pair) -> bool {
        !self.undone.is_empty()
            && (self.undone.contains(&letter_key(Side::External, &pair.key))
                || self.undone.contains(&letter_key(Side::Salesforce, &pair.id)))
    }

    /// Puts back what a run wrote.
    pub(super) async fn undo(&mut self, run: i64) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let images = self.store.images(run, &after, PAIRS)?;
            let Some(last) = images.last() else { return Ok(()) };
            after.clone_from(&last.external);
            let mut undoing: BTreeMap<(String, usize), Undoing> = BTreeMap::new();
            for image in &images {
                let key = (image.external.clone(), place(image.side));
                undoing.entry(key).and_modify(|known| known.then(image)).or_insert_with(|| Undoing::new(image));
            }
            let undoing: Vec<Undoing> = undoing.into_values().collect();
            for part in undoing.chunks(PAIRS) {
                if self.options.stop.is_cancelled() {
                    return Err(Error::Stopped);
                }
                self.undo_part(part).await?;
            }
        }
    }

    async fn undo_part(&mut self, undoing: &[Undoing]) -> Result<(), Error> {
        self.report.counts.read += undoing.len() as u64;
        let keys: Vec<&str> = undoing.iter().map(|one| one.external.as_str()).collect();
        let links = self.store.links(&self.sync.definition.mapping, Side::External, &keys)?;
        // One that was made in Salesforce is known by its link.
        let id_of = |one: &Undoing| {
            let link = links.get(&one.external).map(|link| link.salesforce.clone());
            if one.salesforce.is_empty() { link.unwrap_or_default() } else { one.salesforce.clone() }
        };
        let ids: Vec<String> = undoing.iter().map(id_of).filter(|id| !id.is_empty()).collect();
        let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        let identity = self.identity(Side::Salesforce);
        let (id_name, key_name) = (self.prepared.fields[0][identity].clone(), self.prepared.fields[1][0].clone());
        let ours = self.fetch(Side::Salesforce, &id_name, &ids).await?;
        let theirs = self.fetch(Side::External, &key_name, &keys).await?;
        let of_id: HashMap<String, usize> = (0..ours.num_rows()).map(|row| (cell(&ours, identity, row), row)).collect();
        let of_key: HashMap<String, usize> = (0..theirs.num_rows()).map(|row| (cell(&theirs, 0, row), row)).collect();
        let pairs: Vec<Pair> = undoing
            .iter()
            .map(|one| {
                let id = id_of(one);
                let link = links.get(&one.external).filter(|link| link.salesforce == id).cloned();
                let rows = [of_id.get(&id).copied(), of_key.get(&one.external).copied()];
                Pair { rows, link, id, key: one.external.clone() }
            })
            .collect();
        let halves = self.load([ours, theirs])?;
        let mut steps: [Vec<Step>; 2] = [Vec::new(), Vec::new()];
        for (at, one) in undoing.iter().enumerate() {
            if let Some(step) = self.step(at, one, &pairs[at], &halves) {
                steps[place(one.side)].push(step);
            }
        }
        // What both sides of a pair will have agreed on, by its key: each write adds to it.
        let linked = pairs.iter().filter_map(|pair| {
            let base = self.layouts.decode(&pair.link.as_ref()?.base)?;
            Some((pair.key.clone(), Agreed { base, restored: HashSet::new() }))
        });
        let mut bases: HashMap<String, Agreed> = linked.collect();
        for side in SIDES {
            let most = self.end(side).capabilities().write_rows.max(1);
            let mut steps = std::mem::take(&mut steps[place(side)]);
            // A guarded write has one kind of columns; what is made and what is deleted stand apart.
            steps.sort_by_key(|step| (step.revision as u8, step.pair));
            for part in steps.chunk_by(|left, right| left.revision == right.revision) {
                for part in part.chunks(most) {
                    self.write_back(side, part, &pairs, &halves, &mut bases).await?;
                }
            }
        }
        Ok(())
    }

    /// Decides what is to be done to undo a write; nothing where it is undone already, or was changed since.
    fn step(&mut self, at: usize, one: &Undoing, pair: &Pair, halves: &[Loaded; 2]) -> Option<Step> {
        let half = &halves[place(one.side)];
        let row = pair.rows[place(one.side)];
        let now = |name: &str| {
            let column = half.batch.schema_ref().index_of(name).ok()?;
            text_of(half.batch.column(column).as_ref(), row?).map(std::borrow::Cow::into_owned)
        };
        let holds = |values: &Map<String, Value>| {
            values.iter().all(|(name, value)| value.as_str().map(str::to_owned) == now(name))
        };
        let step = |revision, values| Some(Step { pair: at, revision, values, undoing: one.clone() });
        let (wanted, as_written) = match (one.there, row) {
            ([true, true], Some(_)) => {
                let differs = |(name, value): &(&String, &Value)| value.as_str().map(str::to_owned) != now(name);
                let values: Map<String, Value> =
                    one.before.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect();
                if values.is_empty() {
                    self.report.counts.unchanged += 1;
                    return None;
                }
                let written: Map<String, Value> = one
                    .after
                    .iter()
                    .filter(|(name, _)| values.contains_key(*name))
                    .map(|(n, v)| (n.clone(), v.clone()))
                    .collect();
                (step(Revision::Update, values), holds(&written))
            }
            ([false, true], Some(_)) => (step(Revision::Delete, Map::new()), holds(&one.after)),
            ([true, false], None) => {
                let entity = self.entity(one.side);
                let values = one.before.iter().filter(|(name, value)| {
                    !value.is_null() && entity.field(name).is_some_and(|field| field.createable)
                });
                let values: Map<String, Value> = values.map(|(name, value)| (name.clone(), value.clone())).collect();
                (step(Revision::Insert, values), true)
            }
            // It was deleted since, or made again.
            ([true, true], None) | ([true, false], Some(_)) => (None, false),
            _ => {
                self.report.counts.unchanged += 1;
                return None;
            }
        };
        if as_written || (self.options.force && wanted.is_some()) {
            return wanted;
        }
        self.leave(pair, one.side);
        None
    }

    /// Notes a record that was changed since the run that is undone.
    fn leave(&mut self, pair: &Pair, side: Side) {
        self.report.left += 1;
        if self.report.left_keys.len() < NAMED {
            let (where_, key) = match side {
                Side::Salesforce => ("Salesforce", &pair.id),
                Side::External => ("outside", &pair.key),
            };
            self.report.left_keys.push(format!("{key} ({where_})"));
        }
    }

    /// Writes steps of one kind to one side, and stores what comes of it.
    async fn write_back(
        &mut self,
        side: Side,
        steps: &[Step],
        pairs: &[Pair],
        halves: &[Loaded; 2],
        agreed: &mut HashMap<String, Agreed>,
    ) -> Result<(), Error> {
        let Some(revision) = steps.first().map(|step| step.revision) else { return Ok(()) };
        if self.options.dry_run {
            let counts = &mut self.report.counts;
            let count = match revision {
                Revision::Insert => &mut counts.created,
                Revision::Update => &mut counts.updated,
                Revision::Delete => &mut counts.deleted,
            };
            *count += steps.len() as u64;
            return Ok(());
        }
        let own = &halves[place(side)];
        let bases: Vec<Option<Agreed>> =
            steps.iter().map(|step| self.base_after(side, step, &pairs[step.pair], halves, agreed)).collect();
        let (mut intents, mut images) = (Vec::new(), Vec::new());
        let mut before_writing = PairCommit::default();
        for (step, base) in steps.iter().zip(&bases) {
            let pair = &pairs[step.pair];
            if let Some(base) = base {
                let empty = self.layouts.encode(&vec![None; self.layouts.fields.len()]);
                let full = self.layouts.encode(&base.base);
                let (left, right) = if side == Side::Salesforce { (full, empty) } else { (empty, full) };
                let mut body = (left.len() as u32).to_le_bytes().to_vec();
                body.extend(left);
                body.extend(right);
                intents.push(Intent { salesforce: pair.id.clone(), external: pair.key.clone(), body });
            }
            images.push(self.image_of_undo(side, step, pair, own));
            // Before the write: a record that loses its counterpart to an undo is not to follow it.
            if revision != Revision::Update {
                let other = if revision == Revision::Delete { side.other() } else { Side::External };
                let key = if other == Side::Salesforce { &pair.id } else { &pair.key };
                self.stay_undone(&mut before_writing, other, key);
                before_writing.unlinked.extend(pair.link.clone());
            }
        }
        let noted = self.store.intend(&self.sync.definition.mapping, self.report.run, &intents, &[], &images)?;
        self.commit(&before_writing)?;
        let target = self.prepared.targets[place(side)].clone();
        let guarded = self.guarded_back(side, steps, pairs, own)?;
        let (outcomes, _) = self.revise(side, &target, &guarded).await?;
        let mut commit = PairCommit::default();
        for (((step, outcome), base), image) in steps.iter().zip(outcomes).zip(bases).zip(noted.images) {
            let pair = &pairs[step.pair];
            commit.settled.push((pair.id.clone(), pair.key.clone()));
            let counts = &mut self.report.counts;
            match outcome {
                Outcome::Applied { id, .. } => {
                    match revision {
                        Revision::Insert => counts.created += 1,
                        Revision::Update => counts.updated += 1,
                        Revision::Delete => counts.deleted += 1,
                    }
                    if let Some(base) = base {
                        let tie = |link: &Link| Link { base: self.layouts.encode(&base.base), ..link.clone() };
                        commit.links.extend(pair.link.as_ref().map(tie));
                        agreed.insert(pair.key.clone(), base);
                    }
                    if let (Revision::Insert, Side::Salesforce, Some(id)) = (revision, side, id) {
                        // From now on it is known by its id.
                        commit.visited.push((Side::External, pair.key.clone()));
                        self.stay_undone(&mut commit, Side::Salesforce, &id);
                    }
                    continue;
                }
                Outcome::Unchanged => counts.unchanged += 1,
                Outcome::Moved => self.leave(pair, side),
                Outcome::Refused(error) => {
                    counts.dead += 1;
                    tracing::warn!(
                        key = pair.key,
                        code = error.code,
                        "{} could not be undone: {}",
                        pair.key,
                        error.message
                    );
                    self.leave(pair, side);
                }
            }
            commit.unwritten.push(image);
            if revision != Revision::Update {
                let other = if revision == Revision::Delete { side.other() } else { Side::External };
                let key = if other == Side::Salesforce { &pair.id } else { &pair.key };
                commit.visited.push((other, key.clone()));
                commit.links.extend(pair.link.clone());
            }
        }
        self.commit(&commit)
    }

    /// Keeps a record from following its counterpart, until somebody asks for it.
    fn stay_undone(&self, commit: &mut PairCommit, side: Side, key: &str) {
        let message = "its counterpart was taken away by an undo; `dead-letters replay` makes it again, and so it stays until then";
        self.bury(commit, side, key, String::new(), &RecordError::rejected(UNDONE, message));
    }

    /// Returns what a pair will have agreed on once a write of one side is undone: both sides as they are then, so that
    /// nothing is copied until somebody changes one of them.
    fn base_after(
        &self,
        side: Side,
        step: &Step,
        pair: &Pair,
        halves: &[Loaded; 2],
        agreed: &HashMap<String, Agreed>,
    ) -> Option<Agreed> {
        let (Revision::Update, [Some(ours), Some(theirs)]) = (step.revision, pair.rows) else { return None };
        let rows = [ours, theirs];
        let mut after = agreed.get(&pair.key)?.clone();
        for (field, agreed) in after.base.iter_mut().enumerate() {
            let Some(column) = self.prepared.own[place(side)][field] else { continue };
            let name = halves[place(side)].batch.schema_ref().field(column).name();
            let Some(value) = step.values.get(name) else { continue };
            let other = side.other();
            let source = &halves[place(other)];
            let way = self.prepared.rules.fields[field].0;
            let prints = if way == Way::Both { &source.own } else { &source.across };
            let mut both = [0; 2];
            both[place(side)] = value.as_str().map_or(0, print_of);
            // What the other side held before it was itself restored is not what it holds.
            both[place(other)] = match agreed {
                Some(known) if after.restored.contains(&field) => known[place(other)],
                _ => prints.row(rows[place(other)])[field],
            };
            *agreed = Some(both);
            after.restored.insert(field);
        }
        Some(after)
    }

    fn image_of_undo(&self, side: Side, step: &Step, pair: &Pair, own: &Loaded) -> Image {
        let mut before = Map::new();
        if let Some(row) = pair.rows[place(side)] {
            for (column, field) in own.batch.schema_ref().fields().iter().enumerate() {
                if step.revision == Revision::Delete || step.values.contains_key(field.name()) {
                    let text = text_of(own.batch.column(column).as_ref(), row).map(std::borrow::Cow::into_owned);
                    before.insert(field.name().clone(), text.into());
                }
            }
        }
        let op = match step.revision {
            Revision::Insert => "insert",
            Revision::Update => "update",
            Revision::Delete => "delete",
        };
        Image {
            side,
            salesforce: if step.revision == Revision::Insert && side == Side::Salesforce {
                String::new()
            } else {
                pair.id.clone()
            },
            external: step.undoing.external.clone(),
            op: op.to_owned(),
            before: Value::Object(before).to_string(),
            after: Value::Object(step.values.clone()).to_string(),
        }
    }

    /// Builds the guarded write that puts values back.
    fn guarded_back(&self, side: Side, steps: &[Step], pairs: &[Pair], own: &Loaded) -> Result<Guarded, Error> {
        let key = &self.prepared.targets[place(side)].key;
        let entity = self.entity(side);
        let kind = |name: &str| entity.field(name).map_or(Type::Text, |field| field.kind);
        let mut names: Vec<String> = vec![key.clone()];
        for name in steps.iter().flat_map(|step| step.values.keys()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let mut columns: Vec<Column> = names.iter().map(|name| Column::new(kind(name))).collect();
        let mut written = Vec::with_capacity(steps.len());
        for step in steps {
            let pair = &pairs[step.pair];
            let mut of_row = Vec::new();
            for (at, (name, column)) in names.iter().zip(&mut columns).enumerate() {
                let text = if at == 0 {
                    let made_here = step.revision == Revision::Insert && side == Side::Salesforce;
                    let key = if side == Side::Salesforce { &pair.id } else { &pair.key };
                    if step.revision == Revision::Insert && !made_here {
                        of_row.push(at);
                    }
                    (!made_here).then(|| key.clone())
                } else {
                    if step.values.contains_key(name) {
                        of_row.push(at);
                    }
                    step.values.get(name).and_then(Value::as_str).map(str::to_owned)
                };
                if !text.is_some_and(|text| column.push(&text)) {
                    column.push_null();
                }
            }
            written.push(of_row);
        }
        let arrays: Vec<ArrayRef> = columns.iter_mut().map(Column::finish).collect();
        let fields: Vec<Field> =
            names.iter().zip(&arrays).map(|(name, array)| Field::new(name, array.data_type().clone(), true)).collect();
        let records = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(self.batch_error())?;
        let rows: UInt32Array =
            steps.iter().map(|step| pairs[step.pair].rows[place(side)].map(|row| row as u32)).collect();
        let expected = take_record_batch(&own.batch, &rows).map_err(self.batch_error())?;
        Ok(Guarded { revisions: steps.iter().map(|step| step.revision).collect(), records, written, expected })
    }
}
