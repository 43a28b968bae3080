//! Pairs settled: both records at hand, merged, written where they are as they were read, and committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::Utc;
use endpoint::{Guarded, Revision};
use mapping::{Mapped, TwoWay};
use model::{Outcome, RecordError, Side, Unreadable, digest, text_of};
use state::{Conflict, DeadLetter, Intent, Link, PairCommit, Revisit, letter_key};

use super::{Pairing, PreparedPairs, micros, take};
use crate::chunk::{cell, row_json};
use crate::merge::{self, Base, Decision, Half, Policy, Print, Rules, Way, merge, place};
use crate::report::Error;
use crate::run::millis;

/// The print of a value that has none on the other side: it equals nothing there.
const UNMAPPED: Print = 3;
/// Code of a record that more than one may be.
const AMBIGUOUS: &str = "AMBIGUOUS_MATCH";
const SIDES: [Side; 2] = [Side::Salesforce, Side::External];

/// Two records that are one, or will be.
#[derive(Debug, Default)]
struct Pair {
    /// For each side the row of its batch.
    rows: [Option<usize>; 2],
    link: Option<Link>,
    /// Id of the Salesforce record; empty if there is none.
    id: String,
    /// Key of the external record.
    key: String,
}

/// The rows of one side, and what they would be on the other.
struct Half2 {
    batch: RecordBatch,
    mapped: Option<Mapped>,
    /// For each row its row in what was mapped.
    mapped_rows: Vec<Option<usize>>,
    refused: HashMap<usize, RecordError>,
    /// For each field the prints of its own values.
    own: Vec<Vec<Print>>,
    /// For each field the prints of what its values would be on the other side.
    across: Vec<Vec<Print>>,
}

/// A row's own prints, what they would be on the other side, and when it was changed.
type Gathered = (Vec<Print>, Vec<Print>, Option<i64>);

/// A write to one side of a pair.
struct Write {
    pair: usize,
    revision: Revision,
    /// Columns of the mapped batch.
    columns: Vec<usize>,
    /// Fields among the pairs of the mapping.
    fields: Vec<usize>,
}

/// What was decided about a pair.
struct Settled {
    pair: usize,
    decision: Decision,
    /// The base before.
    before: Option<Base>,
    /// The base after, if every write succeeds.
    after: Base,
    conflicts: Vec<Conflict>,
    /// What both sides will have agreed on, as JSON, where a person may have to know it.
    values: Option<String>,
}

fn text_at(prepared: &PreparedPairs, halves: &[Half2; 2], pair: &Pair, side: Side, field: usize) -> Option<String> {
    let column = prepared.own[place(side)][field]?;
    let row = pair.rows[place(side)]?;
    text_of(halves[place(side)].batch.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
}

fn prints(column: &dyn Array) -> Vec<Print> {
    // A text and the absence of one must differ.
    (0..column.len()).map(|row| text_of(column, row).map_or(0, |text| digest(text.as_bytes()) | 1)).collect()
}

impl Pairing<'_> {
    /// Settles rows of one side with their counterparts; with `new_only` not those that this run has settled.
    pub(super) async fn settle_rows(&mut self, side: Side, batch: RecordBatch, new_only: bool) -> Result<(), Error> {
        let identity = self.identity(side);
        let ids: Vec<String> = (0..batch.num_rows()).map(|row| cell(&batch, identity, row)).collect();
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let links = self.store.links(&self.sync.definition.mapping, side, &names)?;
        match side {
            Side::Salesforce => {
                let batch = self.give_keys(batch, &links).await?;
                self.settle_salesforce(batch, &links).await
            }
            Side::External => {
                let settled = |id: &String| new_only && links.get(id).is_some_and(|link| link.seen == self.report.run);
                let rows: Vec<usize> = (0..ids.len()).filter(|row| !settled(&ids[*row])).collect();
                let batch = take(&batch, &rows).map_err(self.batch_error())?;
                self.settle_external(batch, &links).await
            }
        }
    }

    async fn settle_salesforce(&mut self, batch: RecordBatch, links: &HashMap<String, Link>) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut pairs = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let (id, key) = (cell(&batch, self.identity(Side::Salesforce), row), cell(&batch, 0, row));
            let link = links.get(&id).cloned();
            pairs.push(Pair { rows: [Some(row), None], link, id, key });
        }
        let tied = |pair: &&Pair| pair.link.as_ref().is_some_and(|link| link.external == pair.key);
        let names: Vec<&str> = pairs.iter().filter(|pair| !tied(pair)).map(|pair| pair.key.as_str()).collect();
        // Whoever has the key of a record that has no link may be another Salesforce record.
        let holders = self.store.links(&self.sync.definition.mapping, Side::External, &names)?;
        let rivals: Vec<String> = pairs
            .iter()
            .filter_map(|pair| holders.get(&pair.key).filter(|holder| holder.salesforce != pair.id))
            .map(|holder| holder.salesforce.clone())
            .collect();
        let alive = self.alive(&rivals).await?;
        let mut commit = PairCommit::default();
        pairs.retain(|pair| {
            let rival = holders.get(&pair.key).filter(|holder| holder.salesforce != pair.id);
            let moved = pair.link.as_ref().is_some_and(|link| link.external != pair.key);
            if moved || rival.is_some_and(|rival| alive.contains(&rival.salesforce)) {
                let message = format!(
                    "{} of {} is {:?} now, which is not the record that it was paired with; give it back its key, or \
                     delete the link's other record",
                    self.prepared.fields[0][0], pair.id, pair.key
                );
                let error = RecordError::rejected("KEY_REUSED", message);
                self.bury(&mut commit, Side::Salesforce, &pair.id, row_json(&batch, pair.rows[0].unwrap_or(0)), &error);
                return false;
            }
            true
        });
        self.commit(&commit)?;
        let keys: Vec<String> = pairs.iter().map(|pair| pair.key.clone()).collect();
        let key = self.prepared.fields[1][0].clone();
        let others = self.fetch(Side::External, &key, &keys).await?;
        let places: HashMap<String, usize> = (0..others.num_rows()).map(|row| (cell(&others, 0, row), row)).collect();
        for pair in &mut pairs {
            pair.rows[1] = places.get(&pair.key).copied();
        }
        self.settle_pairs([batch, others], pairs).await
    }

    async fn settle_external(&mut self, batch: RecordBatch, links: &HashMap<String, Link>) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<String> = (0..batch.num_rows()).map(|row| cell(&batch, 0, row)).collect();
        let (mut ids, mut unlinked) = (Vec::new(), Vec::new());
        for key in &keys {
            match links.get(key) {
                Some(link) => ids.push(link.salesforce.clone()),
                None => unlinked.push(key.clone()),
            }
        }
        let identity = self.identity(Side::Salesforce);
        let (id_name, key_name) = (self.prepared.fields[0][identity].clone(), self.prepared.fields[0][0].clone());
        let by_id = self.fetch(Side::Salesforce, &id_name, &ids).await?;
        let by_key = self.fetch(Side::Salesforce, &key_name, &unlinked).await?;
        let others = concat_batches(by_id.schema_ref(), [&by_id, &by_key]).map_err(self.batch_error())?;
        let known = by_id.num_rows();
        let of_id: HashMap<String, usize> = (0..known).map(|row| (cell(&others, identity, row), row)).collect();
        let of_key: HashMap<String, usize> =
            (known..others.num_rows()).map(|row| (cell(&others, 0, row), row)).collect();
        let mut pairs = Vec::with_capacity(keys.len());
        for (row, key) in keys.into_iter().enumerate() {
            let link = links.get(&key).cloned();
            let other = match &link {
                Some(link) => of_id.get(&link.salesforce).copied(),
                None => of_key.get(&key).copied(),
            };
            let id = match (other, &link) {
                (Some(other), _) => cell(&others, identity, other),
                (None, Some(link)) => link.salesforce.clone(),
                (None, None) => String::new(),
            };
            pairs.push(Pair { rows: [other, Some(row)], link, id, key });
        }
        // A Salesforce record that has this key may be linked to another external record.
        let names: Vec<&str> = pairs.iter().filter(|pair| pair.link.is_none()).map(|pair| pair.id.as_str()).collect();
        let holders = self.store.links(&self.sync.definition.mapping, Side::Salesforce, &names)?;
        let mut commit = PairCommit::default();
        pairs.retain(|pair| {
            let rival = pair.link.is_none() && holders.get(&pair.id).is_some_and(|link| link.external != pair.key);
            if rival {
                let message = format!("{} was paired with another record than {:?}", pair.id, pair.key);
                let error = RecordError::rejected("KEY_REUSED", message);
                self.bury(&mut commit, Side::External, &pair.key, row_json(&batch, pair.rows[1].unwrap_or(0)), &error);
            }
            !rival
        });
        self.commit(&commit)?;
        self.settle_pairs([others, batch], pairs).await
    }

    /// Settles links of which one record may be gone.
    pub(super) async fn settle_links(&mut self, links: &[Link]) -> Result<(), Error> {
        let keys: Vec<&str> = links.iter().map(|link| link.external.as_str()).collect();
        let current = self.store.links(&self.sync.definition.mapping, Side::External, &keys)?;
        // Another record may have taken the place of the one that is gone.
        let links: Vec<Link> = links
            .iter()
            .filter_map(|link| current.get(&link.external).filter(|now| now.salesforce == link.salesforce).cloned())
            .collect();
        let identity = self.identity(Side::Salesforce);
        let ids: Vec<String> = links.iter().map(|link| link.salesforce.clone()).collect();
        let keys: Vec<String> = links.iter().map(|link| link.external.clone()).collect();
        let (id_name, key_name) = (self.prepared.fields[0][identity].clone(), self.prepared.fields[1][0].clone());
        let ours = self.fetch(Side::Salesforce, &id_name, &ids).await?;
        let theirs = self.fetch(Side::External, &key_name, &keys).await?;
        let of_id: HashMap<String, usize> = (0..ours.num_rows()).map(|row| (cell(&ours, identity, row), row)).collect();
        let of_key: HashMap<String, usize> = (0..theirs.num_rows()).map(|row| (cell(&theirs, 0, row), row)).collect();
        let pairs = links
            .into_iter()
            .map(|link| Pair {
                rows: [of_id.get(&link.salesforce).copied(), of_key.get(&link.external).copied()],
                id: link.salesforce.clone(),
                key: link.external.clone(),
                link: Some(link),
            })
            .collect();
        self.settle_pairs([ours, theirs], pairs).await
    }

    /// Returns which of these Salesforce records are there.
    async fn alive(&mut self, ids: &[String]) -> Result<HashSet<String>, Error> {
        let identity = self.identity(Side::Salesforce);
        let name = self.prepared.fields[0][identity].clone();
        let found = self.fetch(Side::Salesforce, &name, ids).await?;
        Ok((0..found.num_rows()).map(|row| cell(&found, identity, row)).collect())
    }

    /// Gives Salesforce records without a key one: that of the external record that a match rule finds, or a new one.
    /// The key is written to Salesforce before anything else, so that the record is the same one after a crash. Rows
    /// that can't have one now are left out.
    async fn give_keys(&mut self, batch: RecordBatch, links: &HashMap<String, Link>) -> Result<RecordBatch, Error> {
        let keyless: Vec<usize> = (0..batch.num_rows()).filter(|row| cell(&batch, 0, *row).is_empty()).collect();
        if keyless.is_empty() {
            return Ok(batch);
        }
        let identity = self.identity(Side::Salesforce);
        let mut keys: Vec<Option<String>> = (0..batch.num_rows()).map(|_| None).collect();
        let mut keep = vec![true; batch.num_rows()];
        let mut commit = PairCommit::default();
        self.keyless.extend(keyless.iter().map(|row| cell(&batch, identity, *row)));
        let matched = self.matches(&batch, &keyless, links).await?;
        let mut fresh = Vec::new();
        for (row, matched) in keyless.iter().zip(matched) {
            let id = cell(&batch, identity, *row);
            match (links.get(&id), matched) {
                // Somebody emptied it.
                (Some(link), _) => keys[*row] = Some(link.external.clone()),
                (None, Ok(Some(key))) => keys[*row] = Some(key),
                (None, Ok(None)) => fresh.push(*row),
                (None, Err(error)) => {
                    keep[*row] = false;
                    self.keyless.remove(&id);
                    self.bury(&mut commit, Side::Salesforce, &id, row_json(&batch, *row), &error);
                }
            }
        }
        if !fresh.is_empty() {
            let (entity, name) = (self.entity(Side::External).clone(), self.prepared.fields[1][0].clone());
            let new = self.end(Side::External).new_keys(&entity, &name, fresh.len()).await?;
            for (row, key) in fresh.into_iter().zip(new) {
                keys[row] = Some(key);
            }
        }
        let rows: Vec<usize> = keyless.into_iter().filter(|row| keys[*row].is_some()).collect();
        let texts: StringArray = rows.iter().map(|row| keys[*row].clone()).collect();
        let ids: StringArray = rows.iter().map(|row| Some(cell(&batch, identity, *row))).collect();
        let key_name = self.prepared.fields[0][0].clone();
        let kind = batch.column(0).data_type().clone();
        let values: ArrayRef = arrow::compute::cast(&texts, &kind).map_err(self.batch_error())?;
        let target = self.prepared.targets[0].clone();
        let schema =
            Schema::new(vec![Field::new(&target.key, DataType::Utf8, true), Field::new(&key_name, kind, true)]);
        let records =
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), values]).map_err(self.batch_error())?;
        let guarded = Guarded {
            revisions: vec![Revision::Update; rows.len()],
            written: vec![vec![1]; rows.len()],
            expected: take(&batch, &rows).map_err(self.batch_error())?,
            records,
        };
        let outcomes =
            if rows.is_empty() { Vec::new() } else { self.end(Side::Salesforce).revise(&target, &guarded).await? };
        for (row, outcome) in rows.iter().zip(outcomes) {
            let id = cell(&batch, identity, *row);
            match outcome {
                Outcome::Applied { .. } | Outcome::Unchanged => drop(self.keyless.remove(&id)),
                Outcome::Moved => {
                    keep[*row] = false;
                    self.moved.insert((Side::Salesforce, id));
                }
                Outcome::Refused(error) => {
                    keep[*row] = false;
                    self.bury(&mut commit, Side::Salesforce, &id, row_json(&batch, *row), &error);
                }
            }
        }
        self.commit(&commit)?;
        let texts: StringArray = (0..batch.num_rows())
            .map(|row| {
                keys[row].clone().or_else(|| text_of(batch.column(0).as_ref(), row).map(std::borrow::Cow::into_owned))
            })
            .collect();
        let batch = TwoWay::with_column(&batch, 0, &(Arc::new(texts) as ArrayRef)).map_err(self.batch_error())?;
        let rows: Vec<usize> = (0..batch.num_rows()).filter(|row| keep[*row]).collect();
        take(&batch, &rows).map_err(self.batch_error())
    }

    /// Finds the external records that match Salesforce records without a key.
    async fn matches(
        &mut self,
        batch: &RecordBatch,
        rows: &[usize],
        links: &HashMap<String, Link>,
    ) -> Result<Vec<Result<Option<String>, RecordError>>, Error> {
        if self.sync.definition.matches.is_empty() {
            return Ok(rows.iter().map(|_| Ok(None)).collect());
        }
        if self.candidates.is_none() {
            self.candidates = Some(self.read_candidates().await?);
        }
        let plan = &self.prepared.plan.to_external;
        let known = plan.source_fields.len();
        let own = batch.project(&(0..known).collect::<Vec<_>>()).map_err(self.batch_error())?;
        let texts = plan.match_texts(&own);
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let id = cell(batch, self.identity(Side::Salesforce), *row);
            if links.contains_key(&id) {
                found.push(Ok(None));
                continue;
            }
            let candidates = self.candidates.as_ref().into_iter().flatten().zip(&texts);
            let keys: Option<Vec<String>> = candidates
                .filter_map(|(of_rule, texts)| of_rule.get(texts[*row].as_ref()?).cloned())
                .find(|keys| !keys.is_empty());
            let keys = keys.unwrap_or_default();
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            let linked = self.store.links(&self.sync.definition.mapping, Side::External, &names)?;
            let free: Vec<&String> = keys
                .iter()
                .filter(|key| !linked.contains_key(*key) && self.claimed.get(*key).is_none_or(|by| *by == id))
                .collect();
            found.push(match (free[..].len(), keys.len()) {
                (_, 0) => Ok(None),
                (1, 1) => {
                    self.claimed.insert(free[0].clone(), id);
                    Ok(Some(free[0].clone()))
                }
                _ => {
                    let message = format!(
                        "it matches {}; give it the key of the right one, or change one of them",
                        keys.join(", ")
                    );
                    self.questioned.extend(keys);
                    Err(RecordError::rejected(AMBIGUOUS, message))
                }
            });
        }
        Ok(found)
    }

    /// Reads what the match rules say of every external record.
    async fn read_candidates(&mut self) -> Result<Vec<HashMap<String, Vec<String>>>, Error> {
        use futures::StreamExt as _;
        let mut candidates = vec![HashMap::<String, Vec<String>>::new(); self.sync.definition.matches.len()];
        let mut stream = self.end(Side::External).read(self.reading(Side::External, None)).await?;
        let plan = &self.prepared.plan.to_salesforce;
        while let Some(batch) = stream.next().await.transpose()? {
            let columns: Vec<usize> = (0..plan.source_fields.len()).collect();
            let own = batch.records.project(&columns).map_err(self.batch_error())?;
            for (of_rule, texts) in candidates.iter_mut().zip(plan.match_texts(&own)) {
                for (row, text) in texts.into_iter().enumerate() {
                    if let Some(text) = text {
                        of_rule.entry(text).or_default().push(cell(&own, 0, row));
                    }
                }
            }
        }
        Ok(candidates)
    }

    fn half(&mut self, side: Side, batch: RecordBatch) -> Result<Half2, Error> {
        let begun = Instant::now();
        let prepared = self.prepared;
        let plan = prepared.plan.from(side);
        let rows = batch.num_rows();
        let store = self.store;
        let links = |mapping: &str, side: Side, keys: &[&str]| {
            let found = store.links(mapping, side, keys)?;
            Ok(found.into_iter().map(|(key, link)| (key, link.key(side.other()).to_owned())).collect())
        };
        let mut mapped = None;
        if rows > 0 {
            let columns: Vec<usize> = (0..plan.source_fields.len()).collect();
            let own = batch.project(&columns).map_err(self.batch_error())?;
            let done = plan.apply(&own, &links).map_err(self.batch_error())?;
            self.report.counts.warnings += done.warnings;
            mapped = Some(done);
        }
        let mut mapped_rows = vec![None; rows];
        let mut refused = HashMap::new();
        if let Some(mapped) = &mut mapped {
            for (at, row) in mapped.rows.iter().enumerate() {
                mapped_rows[*row] = Some(at);
            }
            refused.extend(std::mem::take(&mut mapped.refused));
        }
        let own = prepared.own[place(side)]
            .iter()
            .map(|column| column.map_or_else(|| vec![0; rows], |column| prints(batch.column(column).as_ref())))
            .collect();
        let across = prepared.plan.fields.iter().map(|field| {
            let given = field.given(side.other()).zip(mapped.as_ref());
            let made = given.map(|(column, mapped)| prints(mapped.records.column(column).as_ref()));
            let of = |at: &Option<usize>| match (at, &made) {
                (Some(at), Some(made)) => made[*at],
                (None, _) => UNMAPPED,
                (_, None) => 0,
            };
            mapped_rows.iter().map(of).collect()
        });
        let across = across.collect();
        self.report.map_ms += millis(begun);
        Ok(Half2 { batch, mapped, mapped_rows, refused, own, across })
    }

    /// Merges pairs, writes them, and stores what became of them.
    async fn settle_pairs(&mut self, batches: [RecordBatch; 2], pairs: Vec<Pair>) -> Result<(), Error> {
        let [ours, theirs] = batches;
        let prepared = self.prepared;
        let halves = [self.half(Side::Salesforce, ours)?, self.half(Side::External, theirs)?];
        let mut commit = PairCommit::default();
        let mut settled = Vec::with_capacity(pairs.len());
        let mut writes: [Vec<Write>; 2] = [Vec::new(), Vec::new()];
        let fields = self.prepared.plan.fields.len();
        for (at, pair) in pairs.iter().enumerate() {
            let gathered: Vec<Option<Gathered>> = SIDES
                .iter()
                .map(|side| {
                    let (half, row) = (&halves[place(*side)], pair.rows[place(*side)]?);
                    let own = half.own.iter().map(|prints| prints[row]).collect();
                    let across = half.across.iter().map(|prints| prints[row]).collect();
                    let changed =
                        self.prepared.changed[place(*side)].and_then(|column| micros(&half.batch, column, row));
                    Some((own, across, changed))
                })
                .collect();
            let half = |side: Side| {
                gathered[place(side)].as_ref().map(|(own, across, changed)| Half { own, across, changed: *changed })
            };
            let base = self.base_of(pair, half(Side::Salesforce), half(Side::External));
            let texts = |field: usize| SIDES.map(|side| text_at(prepared, &halves, pair, side, field));
            let (rules, decided) = self.rules_for(&pair.id, &texts);
            let decision = merge(base.as_ref(), half(Side::Salesforce), half(Side::External), &rules);
            let mut one =
                Settled { pair: at, before: base, after: Vec::new(), conflicts: Vec::new(), values: None, decision };
            let mut write = |side: Side, revision, fields: Vec<usize>, columns| {
                writes[place(side)].push(Write { pair: at, revision, columns, fields });
            };
            match &one.decision {
                Decision::Forget | Decision::Leave => {}
                Decision::Ask { .. } => one.conflicts.push(self.conflict(pair, None, None, None, [None, None])),
                Decision::Delete { side, contested } => {
                    if !self.deleting {
                        self.gone.extend(pair.link.clone());
                        continue;
                    }
                    if *contested {
                        one.conflicts.push(self.conflict(pair, None, None, Some(side.other()), [None, None]));
                    }
                    write(*side, Revision::Delete, Vec::new(), Vec::new());
                }
                Decision::Create { side, contested } => {
                    if *side == Side::Salesforce && pair.link.is_none() && self.is_questioned(pair, &mut commit) {
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
                            self.prepared.plan.fields[field].goes_to(*side).then(|| match side {
                                Side::External => [own, from.across[field]],
                                Side::Salesforce => [from.across[field], own],
                            })
                        })
                        .collect();
                    let written = (0..fields).filter(|field| one.after[*field].is_some()).collect();
                    let columns =
                        halves[place(side.other())].mapped.as_ref().map_or(0, |mapped| mapped.records.num_columns());
                    write(*side, Revision::Insert, written, (0..columns).collect());
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
                    for field in (0..fields).filter(|field| !open.contains(field)) {
                        let name = &self.prepared.plan.fields[field].name;
                        if self.held.contains(&(pair.id.clone(), name.clone())) {
                            commit.done.push((pair.id.clone(), name.clone()));
                        }
                    }
                }
            }
            if !matches!(one.decision, Decision::Ask { .. }) && self.held.contains(&(pair.id.clone(), String::new())) {
                commit.done.push((pair.id.clone(), String::new()));
            }
            one.values = self.values_of(pair, &one.decision, &texts);
            settled.push(one);
        }
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
                self.bury(&mut commit, side.other(), &key, record, error);
                false
            });
        }
        let updates = writes.iter().flatten().filter(|write| write.revision == Revision::Update).count();
        self.change_brake(updates)?;
        let withdrawn = self.intend(&pairs, &settled, &writes)?;
        let mut ids: HashMap<usize, String> = HashMap::new();
        // Pairs whose write may have been made though it is said to have moved: its first answer was lost.
        let mut unsure: HashSet<usize> = HashSet::new();
        for side in [Side::External, Side::Salesforce] {
            let (outcomes, again) = self.write_side(side, &pairs, &halves, &writes[place(side)]).await?;
            for (write, outcome) in writes[place(side)].iter().zip(outcomes) {
                let pair = &pairs[write.pair];
                let counts = &mut self.report.counts;
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
                        if again {
                            unsure.insert(write.pair);
                        }
                        // Both records are fetched again by way of one that was there.
                        self.moved.insert(match pair.rows {
                            [Some(_), None] => (Side::Salesforce, pair.id.clone()),
                            _ => (Side::External, pair.key.clone()),
                        });
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
        commit.withdrawn = withdrawn
            .into_iter()
            .filter(|(pair, loser, _)| failed[place(*loser)].contains(pair) && !unsure.contains(pair))
            .map(|(.., id)| id)
            .collect();
        let committing = Instant::now();
        self.commit(&commit)?;
        self.report.commit_ms += millis(committing);
        Ok(())
    }

    /// True when an external record that has no counterpart yet may be one that is there: it waits until that is known.
    fn is_questioned(&mut self, pair: &Pair, commit: &mut PairCommit) -> bool {
        if self.questioned.contains(&pair.key) {
            let message = "a Salesforce record without a key may be this one, and may be another".to_owned();
            self.bury(commit, Side::External, &pair.key, String::new(), &RecordError::rejected(AMBIGUOUS, message));
            return true;
        }
        let waits = !self.keyless.is_empty() && !self.sync.definition.matches.is_empty();
        if waits {
            self.moved.insert((Side::External, pair.key.clone()));
        }
        waits
    }

    /// Returns what a pair last agreed on: its link's base, and what a run that was cut off wrote after it.
    fn base_of(&self, pair: &Pair, salesforce: Option<Half<'_>>, external: Option<Half<'_>>) -> Option<Base> {
        let mut base = pair.link.as_ref().and_then(|link| self.layouts.decode(&link.base));
        if pair.link.is_some() && base.is_none() {
            base = Some(vec![None; self.layouts.fields.len()]);
        }
        let (Some(salesforce), Some(external)) = (salesforce, external) else { return base };
        let intent = self
            .intents
            .get(&(pair.id.clone(), pair.key.clone()))
            .or_else(|| self.intents.get(&(String::new(), pair.key.clone())));
        let Some([to_salesforce, to_external]) = intent.and_then(|intent| self.read_intent(&intent.body)) else {
            return base;
        };
        for (side, written, own) in [(0, to_salesforce, salesforce.own), (1, to_external, external.own)] {
            // Where a side holds what we were about to write, that is what was agreed on.
            for (field, agreed) in written.into_iter().enumerate() {
                if agreed.is_some_and(|agreed| agreed[side] == own[field]) {
                    base.get_or_insert_with(|| vec![None; own.len()])[field] = agreed;
                }
            }
        }
        base
    }

    /// An intent holds two bases: what is about to be written to Salesforce, and what outside.
    fn read_intent(&self, body: &[u8]) -> Option<[Base; 2]> {
        let (length, rest) = body.split_first_chunk()?;
        let (left, right) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some([self.layouts.decode(left)?, self.layouts.decode(right)?])
    }

    /// Returns what a pair will have agreed on, where conflicts are held for a person, who wants to know.
    fn values_of(
        &self,
        pair: &Pair,
        decision: &Decision,
        texts: &dyn Fn(usize) -> [Option<String>; 2],
    ) -> Option<String> {
        if self.prepared.rules.policy != Policy::Manual {
            return None;
        }
        let kept: serde_json::Map<String, serde_json::Value> = self
            .store
            .link_values(&self.sync.definition.mapping, &pair.id)
            .ok()
            .flatten()
            .and_then(|body| serde_json::from_str(&body).ok())
            .unwrap_or_default();
        let mut values = serde_json::Map::new();
        for (field, one) in self.prepared.plan.fields.iter().enumerate() {
            let [ours, theirs] = texts(field);
            let held = |conflict: &merge::Conflict| conflict.field == field && conflict.winner.is_none();
            let value = match decision {
                Decision::Fields(merged) if merged.conflicts.iter().any(held) => kept.get(&one.name).cloned(),
                Decision::Fields(merged) if merged.to_salesforce.contains(&field) => theirs.map(Into::into),
                Decision::Fields(_) => ours.map(Into::into),
                Decision::Create { .. } => ours.or(theirs).map(Into::into),
                _ => return None,
            };
            values.insert(one.name.clone(), value.unwrap_or_default());
        }
        Some(serde_json::Value::Object(values).to_string())
    }

    /// Returns the rules for one record: a person may have decided about it, on seeing the values that it has now.
    fn rules_for(&self, id: &str, texts: &dyn Fn(usize) -> [Option<String>; 2]) -> (Rules, Vec<usize>) {
        let mut rules = self.prepared.rules.clone();
        let mut fields = Vec::new();
        if self.decided.is_empty() || id.is_empty() {
            return (rules, fields);
        }
        for (field, one) in self.prepared.plan.fields.iter().enumerate() {
            let Some((winner, conflict)) = self.decided.get(&(id.to_owned(), one.name.clone())) else { continue };
            if texts(field) == [conflict.salesforce_value.clone(), conflict.external_value.clone()] {
                rules.fields[field].1 = Some(*winner);
                fields.push(field);
            }
        }
        if let Some((winner, _)) = self.decided.get(&(id.to_owned(), String::new())) {
            // Whoever deleted it wins with the deletion, the other with the edit.
            rules.asked = Some(*winner);
        }
        (rules, fields)
    }

    fn conflict(
        &self,
        pair: &Pair,
        field: Option<usize>,
        base: Option<[Print; 2]>,
        winner: Option<Side>,
        [salesforce_value, external_value]: [Option<String>; 2],
    ) -> Conflict {
        let kept = base.and_then(|_| {
            let body = self.store.link_values(&self.sync.definition.mapping, &pair.id).ok()??;
            let values: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&body).ok()?;
            values.get(&self.prepared.plan.fields[field?].name)?.as_str().map(str::to_owned)
        });
        Conflict {
            id: 0,
            sync: self.sync.name.clone(),
            run: self.report.run,
            salesforce: pair.id.clone(),
            external: pair.key.clone(),
            field: field.map(|field| self.prepared.plan.fields[field].name.clone()).unwrap_or_default(),
            base: kept,
            salesforce_value,
            external_value,
            winner: winner.map(|winner| if winner == Side::Salesforce { "salesforce" } else { "external" }.to_owned()),
            state: if winner.is_some() { "decided" } else { "held" }.to_owned(),
            at: Utc::now().to_rfc3339(),
        }
    }

    fn source_of(&self, pair: &Pair, side: Side, half: &Half2) -> (String, String) {
        let key = if side == Side::Salesforce { &pair.id } else { &pair.key };
        let record = pair.rows[place(side)].map(|row| row_json(&half.batch, row)).unwrap_or_default();
        (key.clone(), record)
    }

    /// Keeps a change aside that can't be applied. What waits for a parent or a lock is looked at again by every run.
    fn bury(&self, commit: &mut PairCommit, side: Side, key: &str, record: String, error: &RecordError) {
        let parked = error.code == "MISSING_PARENT" || error.class.is_transient();
        // What matches two waits for a person, who may answer by changing either.
        let soon = parked || error.code == AMBIGUOUS;
        commit.revisit.push(Revisit { side, key: key.to_owned(), soon });
        commit.dead.push(DeadLetter {
            id: 0,
            sync: self.sync.name.clone(),
            run: self.report.run,
            state: if parked { "parked" } else { "dead" }.to_owned(),
            key: letter_key(side, key),
            op: "upsert".to_owned(),
            record,
            code: error.code.clone(),
            message: error.message.clone(),
            at: Utc::now().to_rfc3339(),
        });
    }

    /// Keeps rows aside that a source could not read.
    pub(super) fn refuse_unreadable(&mut self, side: Side, rows: Vec<Unreadable>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut commit = PairCommit::default();
        for row in rows {
            let record = row.record.into_iter().map(|(name, text)| (name, text.into())).collect();
            self.bury(&mut commit, side, &row.key, serde_json::Value::Object(record).to_string(), &row.error);
        }
        self.commit(&commit)
    }

    /// Notes what is about to be written, and the conflicts whose losing value is about to go; returns the numbers of
    /// these with their pairs and the sides that lose.
    fn intend(
        &mut self,
        pairs: &[Pair],
        settled: &[Settled],
        writes: &[Vec<Write>; 2],
    ) -> Result<Vec<(usize, Side, i64)>, Error> {
        let mut bodies: HashMap<usize, [Base; 2]> = HashMap::new();
        let of_pair: HashMap<usize, &Settled> = settled.iter().map(|one| (one.pair, one)).collect();
        for side in SIDES {
            for write in writes[place(side)].iter().filter(|write| write.revision != Revision::Delete) {
                let Some(one) = of_pair.get(&write.pair) else { continue };
                let empty = || [vec![None; self.layouts.fields.len()], vec![None; self.layouts.fields.len()]];
                let body = bodies.entry(write.pair).or_insert_with(empty);
                for field in &write.fields {
                    body[place(side)][*field] = one.after[*field];
                }
            }
        }
        let mut intents = Vec::with_capacity(bodies.len());
        for (pair, [to_salesforce, to_external]) in bodies {
            let left = self.layouts.encode(&to_salesforce);
            let mut body = (left.len() as u32).to_le_bytes().to_vec();
            body.extend(left);
            body.extend(self.layouts.encode(&to_external));
            let pair = &pairs[pair];
            let id = if pair.rows[0].is_some() { pair.id.clone() } else { String::new() };
            intents.push(Intent { salesforce: id, external: pair.key.clone(), body });
        }
        let (mut conflicts, mut of) = (Vec::new(), Vec::new());
        for one in settled {
            for conflict in &one.conflicts {
                conflicts.push(conflict.clone());
                let winner =
                    if conflict.winner.as_deref() == Some("external") { Side::External } else { Side::Salesforce };
                of.push((one.pair, winner.other()));
            }
        }
        if intents.is_empty() && conflicts.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = self.store.intend(&self.sync.definition.mapping, self.report.run, &intents, &conflicts)?;
        for intent in intents {
            self.intents.insert((intent.salesforce.clone(), intent.external.clone()), intent);
        }
        Ok(of.into_iter().zip(numbers).map(|((pair, loser), number)| (pair, loser, number)).collect())
    }

    /// Writes to one side; returns an outcome for each write.
    async fn write_side(
        &mut self,
        side: Side,
        pairs: &[Pair],
        halves: &[Half2; 2],
        writes: &[Write],
    ) -> Result<(Vec<Outcome>, bool), Error> {
        let target = self.prepared.targets[place(side)].clone();
        let mut again = false;
        let (own, source) = (&halves[place(side)], &halves[place(side.other())]);
        let mut outcomes = vec![Outcome::Unchanged; writes.len()];
        let writing = Instant::now();
        for deletes in [false, true] {
            let chosen: Vec<usize> =
                (0..writes.len()).filter(|at| (writes[*at].revision == Revision::Delete) == deletes).collect();
            for chosen in chosen.chunks(self.end(side).capabilities().write_rows.max(1)) {
                let guarded = self.guarded(side, &target.key, pairs, own, source, chosen, writes)?;
                let (found, tries) = self.revise(side, &target, &guarded).await?;
                again |= tries > 0;
                for (at, outcome) in chosen.iter().zip(found) {
                    outcomes[*at] = outcome;
                }
            }
        }
        self.report.write_ms += millis(writing);
        Ok((outcomes, again))
    }

    /// Writes, again after a passing failure, and returns how often: what was written the first time has moved the
    /// second.
    async fn revise(
        &self,
        side: Side,
        target: &endpoint::Target,
        guarded: &Guarded,
    ) -> Result<(Vec<Outcome>, u32), Error> {
        let mut tries = 0;
        loop {
            match self.end(side).revise(target, guarded).await {
                Err(error) if error.class().is_transient() && tries < crate::settle::WRITE_TRIES => {
                    tracing::debug!(%error, tries, "writing a batch again");
                    tokio::select! {
                        () = tokio::time::sleep(self.options.backoff * 2_u32.pow(tries)) => {}
                        () = self.options.stop.cancelled() => return Err(Error::Stopped),
                    }
                    tries += 1;
                }
                result => return Ok((result?, tries)),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it describes one batch")]
    fn guarded(
        &self,
        side: Side,
        key: &str,
        pairs: &[Pair],
        own: &Half2,
        source: &Half2,
        chosen: &[usize],
        writes: &[Write],
    ) -> Result<Guarded, Error> {
        let rows_of = |side: Side, at: &usize| pairs[writes[*at].pair].rows[place(side)];
        let expected: UInt32Array = chosen.iter().map(|at| rows_of(side, at).map(|row| row as u32)).collect();
        let expected = take_record_batch(&own.batch, &expected).map_err(self.batch_error())?;
        let texts: StringArray = chosen
            .iter()
            .map(|at| {
                let pair = &pairs[writes[*at].pair];
                let text = if side == Side::Salesforce { &pair.id } else { &pair.key };
                (rows_of(side, at).is_some() || side == Side::External).then(|| text.clone())
            })
            .collect();
        let kind = self.entity(side).field(key).map_or(model::Type::Text, |field| field.kind);
        let keys: ArrayRef =
            arrow::compute::cast(&(Arc::new(texts) as ArrayRef), &kind.arrow()).map_err(self.batch_error())?;
        let revisions = chosen.iter().map(|at| writes[*at].revision).collect();
        let mut written: Vec<Vec<usize>> = chosen.iter().map(|at| writes[*at].columns.clone()).collect();
        let key_only = |keys| RecordBatch::try_from_iter_with_nullable([(key, keys, true)]);
        let Some(mapped) =
            source.mapped.as_ref().filter(|_| chosen.iter().any(|at| writes[*at].revision != Revision::Delete))
        else {
            return Ok(Guarded { revisions, written, expected, records: key_only(keys).map_err(self.batch_error())? });
        };
        let rows: UInt32Array = chosen
            .iter()
            .map(|at| rows_of(side.other(), at).and_then(|row| source.mapped_rows[row]).map(|row| row as u32))
            .collect();
        let records = take_record_batch(&mapped.records, &rows).map_err(self.batch_error())?;
        let records = if records.schema_ref().field(0).name() == key {
            records
        } else {
            // In Salesforce a record is known by its id, which is no field of the mapping.
            let mut fields = vec![Arc::new(Field::new(key, keys.data_type().clone(), true))];
            fields.extend(records.schema_ref().fields().iter().cloned());
            let mut columns = vec![keys];
            columns.extend(records.columns().iter().cloned());
            for column in written.iter_mut().flatten() {
                *column += 1;
            }
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(self.batch_error())?
        };
        Ok(Guarded { revisions, records, written, expected })
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
            commit.values.extend(one.values.map(|values| (id.clone(), values)));
        }
        let link = |base: &Base| Link {
            salesforce: id.clone(),
            external: pair.key.clone(),
            side: Side::External,
            base: self.layouts.encode(base),
            seen: 0,
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
                commit.links.extend(pair.link.clone().filter(|_| self.report.full));
            }
            Decision::Fields(merged) => {
                let mut base = one.after;
                for (side, fields) in [(0, &merged.to_salesforce), (1, &merged.to_external)] {
                    for field in fields.iter().filter(|_| bad[side]) {
                        base[*field] = one.before.as_ref().and_then(|before| before[*field]);
                    }
                }
                let same = pair.link.is_some() && one.before.as_ref() == Some(&base) && !intended;
                if !same || self.report.full {
                    commit.links.push(link(&base));
                }
            }
        }
    }
}
