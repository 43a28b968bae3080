//! What a pair last agreed on, what people decided about it, and what is kept of it for them.

use std::borrow::Cow;

use chrono::Utc;
use model::{RecordError, Side, Unreadable};
use state::{Conflict, DeadLetter, PairCommit, Revisit, letter_key};

use super::Pairing;
use super::pair::{AMBIGUOUS, Loaded, MISSING_PARENT, Pair};
use crate::chunk::row_json;
use crate::merge::{self, Base, Contested, Decision, Half, Policy, Print, Rules, place};
use crate::report::Error;

impl<'r> Pairing<'r> {
    /// Returns what a pair last agreed on: its link's base, and what a run that was cut off wrote after it.
    pub(super) fn base_of(
        &self,
        pair: &Pair,
        salesforce: Option<Half<'_>>,
        external: Option<Half<'_>>,
    ) -> Option<Base> {
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
    pub(super) fn read_intent(&self, body: &[u8]) -> Option<[Base; 2]> {
        let (length, rest) = body.split_first_chunk()?;
        let (left, right) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some([self.layouts.decode(left)?, self.layouts.decode(right)?])
    }

    /// Returns what a pair will have agreed on, where conflicts are held for a person, who wants to know.
    pub(super) fn values_of(
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
    pub(super) fn rules_for(
        &self,
        pair: &Pair,
        texts: &dyn Fn(usize) -> [Option<String>; 2],
    ) -> (Cow<'r, Rules>, Vec<usize>) {
        let mut rules = Cow::Borrowed(&self.prepared.rules);
        let mut fields = Vec::new();
        let id = pair.id.as_str();
        if self.merged.contains_key(&pair.key) {
            // Its edits can't win: the record would come back beside the one that it was merged into.
            rules.to_mut().contested = Contested::Ask;
        }
        if self.decided.is_empty() || id.is_empty() {
            return (rules, fields);
        }
        for (field, one) in self.prepared.plan.fields.iter().enumerate() {
            let Some((winner, conflict)) = self.decided.get(&(id.to_owned(), one.name.clone())) else { continue };
            if texts(field) == [conflict.salesforce_value.clone(), conflict.external_value.clone()] {
                rules.to_mut().fields[field].1 = Some(*winner);
                fields.push(field);
            }
        }
        if let Some((winner, _)) = self.decided.get(&(id.to_owned(), String::new())) {
            // Whoever deleted it wins with the deletion, the other with the edit.
            rules.to_mut().asked = Some(*winner);
        }
        (rules, fields)
    }

    pub(super) fn conflict(
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

    pub(super) fn source_of(&self, pair: &Pair, side: Side, half: &Loaded) -> (String, String) {
        let key = if side == Side::Salesforce { &pair.id } else { &pair.key };
        let record = pair.rows[place(side)].map(|row| row_json(&half.batch, row)).unwrap_or_default();
        (key.clone(), record)
    }

    /// Keeps a change aside that can't be applied. What waits for a parent or a lock is looked at again by every run.
    pub(super) fn bury(&self, commit: &mut PairCommit, side: Side, key: &str, record: String, error: &RecordError) {
        let parked = error.code == MISSING_PARENT || error.class.is_transient();
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
}
