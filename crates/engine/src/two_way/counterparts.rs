//! Rows of one side brought together with their counterparts on the other.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use model::{RecordError, Side, text_of};
use state::{Link, PairCommit};

use super::pair::{Pair, print_of};
use super::{Pairing, take};
use crate::chunk::{cell, row_json};
use crate::merge::place;
use crate::report::Error;

impl Pairing<'_> {
    /// Settles rows of one side with their counterparts; with `new_only` not those that this run has settled.
    pub(super) async fn settle_rows(&mut self, side: Side, batch: RecordBatch, new_only: bool) -> Result<(), Error> {
        let identity = self.identity(side);
        let mut ids: Vec<String> = (0..batch.num_rows()).map(|row| cell(&batch, identity, row)).collect();
        let mut batch = batch;
        if new_only && side == Side::External {
            let names: Vec<&str> = ids.iter().map(String::as_str).collect();
            let links = self.store.link_rows(&self.sync.definition.mapping, side, &names)?;
            let new = |row: &usize| links.get(ids[*row].as_str()).is_none_or(|link| !self.is_seen(*link));
            let rows: Vec<usize> = (0..ids.len()).filter(new).collect();
            batch = take(&batch, &rows).map_err(self.batch_error())?;
            ids = rows.into_iter().map(|row| std::mem::take(&mut ids[row])).collect();
        }
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let links = self.store.links(&self.sync.definition.mapping, side, &names)?;
        if self.followed.is_some() {
            // Our own writes are told, too. What is as it was agreed on needs no look at the other side, which tells of
            // itself.
            let (agreed, rows): (Vec<usize>, Vec<usize>) =
                (0..ids.len()).partition(|row| self.is_agreed(side, &batch, *row, &ids[*row], &links, None));
            for row in agreed {
                if let Some(link) = links.get(&ids[row]) {
                    self.see(link.row);
                }
                self.echoes.insert((side, ids[row].clone()));
            }
            batch = take(&batch, &rows).map_err(self.batch_error())?;
        }
        match side {
            Side::Salesforce => {
                let batch = self.give_keys(batch, &links).await?;
                self.settle_salesforce(batch, &links).await
            }
            Side::External => self.settle_external(batch, &links).await,
        }
    }

    /// True when every field of a row is as both sides last agreed, and nothing about it waits; where only some columns are
    /// told, when these are, and say all that the mapping makes of them.
    pub(super) fn is_agreed(
        &self,
        side: Side,
        batch: &RecordBatch,
        row: usize,
        id: &str,
        links: &HashMap<String, Link>,
        told: Option<&[usize]>,
    ) -> bool {
        let Some(link) = links.get(id) else { return false };
        let waits = self.waiting.contains(&(side, id.to_owned()))
            || self.waiting.contains(&(side.other(), link.key(side.other()).to_owned()))
            || self.intents.keys().any(|(_, key)| *key == link.external);
        let Some(base) = self.layouts.decode(&link.base).filter(|_| !waits) else { return false };
        let own = &self.prepared.own[place(side)];
        let sources = self.prepared.plan.from(side).source_fields.len();
        // A column that only an expression reads may tell of a change that no field of its own shows. Key and id are none.
        let keyed = side == Side::External || cell(batch, 0, row) == link.external;
        let hidden = |column: usize| {
            let known = column == self.identity(side) || (column == 0 && keyed);
            column < sources && !known && !own.contains(&Some(column))
        };
        let shown = match told {
            Some(told) => !told.iter().any(|column| hidden(*column)),
            None => !(0..sources).any(hidden),
        };
        if !shown {
            return false;
        }
        base.iter().zip(own).all(|(agreed, column)| {
            let Some(column) = column.filter(|column| told.is_none_or(|told| told.contains(column))) else {
                return true;
            };
            let print = text_of(batch.column(column).as_ref(), row).map_or(0, |text| print_of(&text));
            agreed.is_some_and(|agreed| agreed[place(side)] == print)
        })
    }

    pub(super) async fn settle_salesforce(
        &mut self,
        batch: RecordBatch,
        links: &HashMap<String, Link>,
    ) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut pairs = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let (id, key) = (cell(&batch, self.identity(Side::Salesforce), row), cell(&batch, 0, row));
            let link = links.get(&id).cloned();
            pairs.push(Pair { rows: [Some(row), None], link, id, key });
        }
        let (mut holders, mut alive) = self.holders(&pairs).await?;
        if holders.values().any(|holder| !alive.contains(&holder.salesforce)) {
            // Who has the key now may have won a merge since the run began.
            self.follow_recent_merges().await?;
            let ids: Vec<&str> = pairs.iter().map(|pair| pair.id.as_str()).collect();
            let mut links = self.store.links(&self.sync.definition.mapping, Side::Salesforce, &ids)?;
            for pair in &mut pairs {
                pair.link = links.remove(&pair.id);
            }
            (holders, alive) = self.holders(&pairs).await?;
        }
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

    /// Returns the links of other Salesforce records than those of the pairs to the pairs' keys, and which of these records
    /// are there.
    async fn holders(&mut self, pairs: &[Pair]) -> Result<(HashMap<String, Link>, HashSet<String>), Error> {
        let tied = |pair: &&Pair| pair.link.as_ref().is_some_and(|link| link.external == pair.key);
        let names: Vec<&str> = pairs.iter().filter(|pair| !tied(pair)).map(|pair| pair.key.as_str()).collect();
        // Whoever has the key of a record that has no link may be another Salesforce record.
        let mut holders = self.store.links(&self.sync.definition.mapping, Side::External, &names)?;
        let own: HashSet<(&str, &str)> = pairs.iter().map(|pair| (pair.key.as_str(), pair.id.as_str())).collect();
        holders.retain(|key, holder| !own.contains(&(key.as_str(), holder.salesforce.as_str())));
        let rivals: Vec<String> = holders.values().map(|holder| holder.salesforce.clone()).collect();
        let alive = self.alive(&rivals).await?;
        Ok((holders, alive))
    }

    pub(super) async fn settle_external(
        &mut self,
        batch: RecordBatch,
        links: &HashMap<String, Link>,
    ) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<String> = (0..batch.num_rows()).map(|row| cell(&batch, 0, row)).collect();
        let begun: HashSet<&str> = self.intents.keys().map(|(_, key)| key.as_str()).collect();
        let mut links = Cow::Borrowed(links);
        if keys.iter().any(|key| begun.contains(key.as_str()) && !links.contains_key(key)) {
            // Its counterpart may have been made by a run that was cut off, and merged into another since.
            self.follow_recent_merges().await?;
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            links = Cow::Owned(self.store.links(&self.sync.definition.mapping, Side::External, &names)?);
        }
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
    pub(super) async fn alive(&mut self, ids: &[String]) -> Result<HashSet<String>, Error> {
        let identity = self.identity(Side::Salesforce);
        let name = self.prepared.fields[0][identity].clone();
        let found = self.fetch(Side::Salesforce, &name, ids).await?;
        Ok((0..found.num_rows()).map(|row| cell(&found, identity, row)).collect())
    }
}
