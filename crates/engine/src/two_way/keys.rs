//! Keys for records that have none: that of the record which they match, or a new one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use endpoint::{Guarded, Revision};
use mapping::TwoWay;
use model::{Outcome, RecordError, Side, text_of};
use state::{Conflict, Link, PairCommit};

use super::pair::{AMBIGUOUS, MATCH, Pair};
use super::similar::Similar;
use super::{Pairing, take};
use crate::chunk::{cell, row_json};
use crate::report::Error;

/// Records that a question names at most.
const ASKED: usize = 5;

/// What a match rule says of the external records.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Their keys by the text.
    keys: HashMap<String, Vec<String>>,
    /// The texts, where similar ones count.
    similar: Similar,
}

/// An external record that a Salesforce record may be.
#[derive(Debug)]
struct Alike {
    key: String,
    /// What the rule says of both.
    texts: [String; 2],
    likeness: f64,
    /// True when nobody has to be asked, as long as it is the only one.
    sure: bool,
}

impl Pairing<'_> {
    /// Gives Salesforce records without a key one: that of the external record that a match rule finds, or a new one.
    /// The key is written to Salesforce before anything else, so that the record is the same one after a crash. Rows
    /// that can't have one now are left out.
    pub(super) async fn give_keys(
        &mut self,
        batch: RecordBatch,
        links: &HashMap<String, Link>,
    ) -> Result<RecordBatch, Error> {
        let identity = self.identity(Side::Salesforce);
        let lacks = |row: &usize| {
            let key = cell(&batch, 0, *row);
            key.is_empty()
                || (!self.merged.is_empty()
                    && links.get(&cell(&batch, identity, *row)).is_some_and(|link| self.took_over(link, &key)))
        };
        let keyless: Vec<usize> = (0..batch.num_rows()).filter(lacks).collect();
        if keyless.is_empty() {
            return Ok(batch);
        }
        let mut keys: Vec<Option<String>> = (0..batch.num_rows()).map(|_| None).collect();
        let mut keep = vec![true; batch.num_rows()];
        let mut commit = PairCommit::default();
        self.keyless.extend(keyless.iter().map(|row| cell(&batch, identity, *row)));
        let matched = self.matches(&batch, &keyless, links).await?;
        let mut fresh = Vec::new();
        for (row, matched) in keyless.iter().zip(matched) {
            let id = cell(&batch, identity, *row);
            match (links.get(&id), matched) {
                // Somebody emptied it, or a merge gave it another's.
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
                Outcome::Applied { .. } | Outcome::Unchanged => {
                    self.keyless.remove(&id);
                    commit.done.push((id, MATCH.to_owned()));
                }
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
    pub(super) async fn matches(
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
            let alike = self.alike(&id, &texts, *row);
            found.push(self.choose(&id, alike)?);
        }
        Ok(found)
    }

    /// Returns the external records that a Salesforce record may be, the likeliest first, with how alike they are. The first
    /// rule that finds any decides; texts that are the same come before those that are similar.
    fn alike(&self, id: &str, texts: &[Vec<Option<String>>], row: usize) -> Vec<Alike> {
        let rules = || self.candidates.iter().flatten().zip(texts).zip(&self.sync.definition.matches);
        let two = |key: &String| self.answers.get(&(id.to_owned(), key.clone())) == Some(&Side::Salesforce);
        let alike = |candidates: &Candidates, text: &str, ours: &str, likeness, sure| {
            let keys = candidates.keys.get(text).into_iter().flatten().filter(|key| !two(key));
            let alike = |key: &String| {
                let texts = [ours.to_owned(), text.to_owned()];
                Alike { key: key.clone(), texts, likeness, sure }
            };
            keys.map(alike).collect::<Vec<_>>()
        };
        for ((candidates, texts), _) in rules() {
            let Some(ours) = &texts[row] else { continue };
            let found = alike(candidates, ours, ours, 1.0, true);
            if !found.is_empty() {
                return found;
            }
        }
        for ((candidates, texts), rule) in rules() {
            let (Some(ours), Some((ask, similar))) = (&texts[row], rule.thresholds()) else { continue };
            let near = candidates.similar.find(ours, ask).into_iter();
            let found: Vec<Alike> = near
                .flat_map(|(likeness, text)| alike(candidates, text, ours, likeness, likeness >= similar))
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// Chooses among the records that one may be: the only one that is sure, none, or a question.
    fn choose(&mut self, id: &str, alike: Vec<Alike>) -> Result<Result<Option<String>, RecordError>, Error> {
        let names: Vec<&str> = alike.iter().map(|one| one.key.as_str()).collect();
        let linked = self.store.links(&self.sync.definition.mapping, Side::External, &names)?;
        let free =
            |one: &&Alike| !linked.contains_key(&one.key) && self.claimed.get(&one.key).is_none_or(|by| by == id);
        let answer = |one: &&Alike| self.answers.get(&(id.to_owned(), one.key.clone())) == Some(&Side::External);
        let sure: Vec<&Alike> = alike.iter().filter(|one| one.sure).collect();
        let chosen = match (alike.iter().find(answer), &sure[..]) {
            (Some(answered), _) => Some(answered),
            (None, [only]) => Some(*only),
            _ => None,
        };
        if let Some(chosen) = chosen.filter(free) {
            self.claimed.insert(chosen.key.clone(), id.to_owned());
            return Ok(Ok(Some(chosen.key.clone())));
        }
        if alike.is_empty() {
            return Ok(Ok(None));
        }
        let conflicts: Vec<Conflict> = alike.iter().take(ASKED).map(|one| self.question(id, one)).collect();
        let run = self.report.run;
        self.store.intend(&self.sync.definition.mapping, run, &[], &conflicts, &[])?;
        let told: Vec<String> = alike
            .iter()
            .take(ASKED)
            .map(|one| format!("{} ({:?}, {:.2})", one.key, one.texts[1], one.likeness))
            .collect();
        let message = format!(
            "it may be {}; decide in `bridgehead conflicts`, give it the key of the right one, or change one of them",
            told.join(", ")
        );
        self.questioned.extend(alike.into_iter().map(|one| one.key));
        Ok(Err(RecordError::rejected(AMBIGUOUS, message)))
    }

    /// Returns what a person is asked about two records that may be one: `external` wins if they are, `salesforce` if the
    /// Salesforce record stands alone.
    fn question(&self, id: &str, alike: &Alike) -> Conflict {
        let [ours, theirs] = alike.texts.clone();
        Conflict {
            sync: self.sync.name.clone(),
            run: self.report.run,
            salesforce: id.to_owned(),
            external: alike.key.clone(),
            field: MATCH.to_owned(),
            salesforce_value: Some(ours),
            external_value: Some(theirs),
            state: "held".to_owned(),
            at: chrono::Utc::now().to_rfc3339(),
            ..Conflict::default()
        }
    }

    /// Reads what the match rules say of every external record.
    pub(super) async fn read_candidates(&mut self) -> Result<Vec<Candidates>, Error> {
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
        let rules = candidates.into_iter().zip(&self.sync.definition.matches);
        let of_rule = |(keys, rule): (HashMap<String, Vec<String>>, &mapping::Match)| {
            let similar = rule.thresholds().map(|_| Similar::new(keys.keys())).unwrap_or_default();
            Candidates { keys, similar }
        };
        Ok(rules.map(of_rule).collect())
    }

    /// True when an external record that has no counterpart yet may be one that is there: it waits until that is known.
    pub(super) fn is_questioned(&mut self, pair: &Pair, commit: &mut PairCommit) -> bool {
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
}
