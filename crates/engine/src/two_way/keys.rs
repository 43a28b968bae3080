//! Keys for records that have none: that of the record which they match, or a new one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use endpoint::{Guarded, Revision};
use mapping::TwoWay;
use model::{Outcome, RecordError, Side, text_of};
use state::{Link, PairCommit};

use super::pair::{AMBIGUOUS, Pair};
use super::{Pairing, take};
use crate::chunk::{cell, row_json};
use crate::report::Error;

impl Pairing<'_> {
    /// Gives Salesforce records without a key one: that of the external record that a match rule finds, or a new one.
    /// The key is written to Salesforce before anything else, so that the record is the same one after a crash. Rows
    /// that can't have one now are left out.
    pub(super) async fn give_keys(
        &mut self,
        batch: RecordBatch,
        links: &HashMap<String, Link>,
    ) -> Result<RecordBatch, Error> {
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
    pub(super) async fn read_candidates(&mut self) -> Result<Vec<HashMap<String, Vec<String>>>, Error> {
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
