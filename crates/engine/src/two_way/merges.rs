//! Salesforce records that were merged into others: what was tied to them follows.

use std::collections::{HashMap, HashSet};

use endpoint::{Read, Window};
use futures::StreamExt as _;
use model::{RecordError, Side};
use state::{Link, PairCommit};

use super::Pairing;
use super::pair::Pair;
use crate::chunk::cell;
use crate::report::Error;

/// The field that names the record which a deleted one was merged into.
const MASTER: &str = "MasterRecordId";

impl Pairing<'_> {
    /// Follows the merges of a window, of all time without one. The external record of a loser is tied to the winner if
    /// that has none of its own; else it is one too many, and goes as if the loser had been deleted, or is asked about if
    /// it was edited. Either way what refers to it finds the winner.
    pub(super) async fn follow_merges(&mut self, window: Option<Window>) -> Result<(), Error> {
        if self.entity(Side::Salesforce).field(MASTER).is_none() {
            return Ok(());
        }
        let identity = self.prepared.fields[0][self.identity(Side::Salesforce)].clone();
        let read = Read {
            fields: vec![identity.clone(), MASTER.to_owned(), self.prepared.fields[0][0].clone()],
            filter: Some(format!("{MASTER} != null")),
            deleted: true,
            ..self.reading(Side::Salesforce, window)
        };
        let mut into: HashMap<String, String> = HashMap::new();
        let mut last_keys: HashMap<String, String> = HashMap::new();
        let mut stream = self.end(Side::Salesforce).read(read).await?;
        while let Some(batch) = stream.next().await.transpose()? {
            for row in 0..batch.len() {
                let [loser, winner, key] = [0, 1, 2].map(|column| cell(&batch.records, column, row));
                into.insert(loser.clone(), winner);
                last_keys.insert(loser, key);
            }
        }
        drop(stream);
        if into.is_empty() {
            return Ok(());
        }
        let losers: Vec<&str> = into.keys().map(String::as_str).collect();
        let mapping = self.sync.definition.mapping.as_str();
        let mut lost: Vec<Link> = self.store.links(mapping, Side::Salesforce, &losers)?.into_values().collect();
        lost.extend(self.never_stored(&last_keys).await?);
        lost.sort_by(|left, right| left.salesforce.cmp(&right.salesforce));
        let of_loser: Vec<String> = lost.iter().map(|link| winner(&into, &link.salesforce)).collect();
        let mut winners: Vec<String> = losers.iter().map(|loser| winner(&into, loser)).collect();
        winners.sort();
        winners.dedup();
        let rows = self.fetch(Side::Salesforce, &identity, &winners).await?;
        let keys: HashMap<String, String> = (0..rows.num_rows())
            .map(|row| (cell(&rows, self.identity(Side::Salesforce), row), cell(&rows, 0, row)))
            .collect();
        let names: Vec<&str> = winners.iter().map(String::as_str).collect();
        let mut tied = self.store.links(mapping, Side::Salesforce, &names)?;
        let mut commit = PairCommit::default();
        // One whose link went before it was known what became of it may have left its key to the winner.
        for (loser, key) in last_keys.iter().filter(|(_, key)| !key.is_empty()) {
            let own = tied.get(&winner(&into, loser)).map(|link| &link.external);
            if let Some(own) = own.filter(|own| *own != key && !self.merged.contains_key(key)) {
                self.merged.insert(key.clone(), own.clone());
                commit.merged.push((key.clone(), own.clone()));
                self.moved.insert((Side::Salesforce, winner(&into, loser)));
            }
        }
        let mut followed = HashSet::new();
        for (link, winner) in lost.into_iter().zip(of_loser) {
            // One that was deleted after it won is gone, and its losers with it.
            let Some(key) = keys.get(&winner) else { continue };
            let own = tied.get(&winner).map(|link| link.external.clone());
            let own = own.or_else(|| Some(key.clone()).filter(|key| !key.is_empty() && *key != link.external));
            self.moved.insert((Side::Salesforce, winner.clone()));
            if let Some(own) = own {
                self.merged.insert(link.external.clone(), own.clone());
                commit.merged.push((link.external.clone(), own));
                self.gone.push(link);
            } else {
                let tie = Link { salesforce: winner.clone(), ..link.clone() };
                followed.insert(link.external.clone());
                commit.unlinked.push(link);
                commit.links.push(tie.clone());
                tied.insert(winner, tie);
            }
        }
        self.gone.retain(|link| !followed.contains(&link.external));
        self.commit(&commit)
    }

    /// Returns links of losers that were never stored, though the external record of their key is there: a run was cut off
    /// before it could, or they were merged before they were paired.
    async fn never_stored(&mut self, last_keys: &HashMap<String, String>) -> Result<Vec<Link>, Error> {
        let mapping = self.sync.definition.mapping.as_str();
        let keyed: Vec<(&String, &String)> = last_keys.iter().filter(|(_, key)| !key.is_empty()).collect();
        let (ids, keys): (Vec<&str>, Vec<&str>) = keyed.iter().map(|(id, key)| (id.as_str(), key.as_str())).unzip();
        let tied = self.store.links(mapping, Side::Salesforce, &ids)?;
        let held = self.store.links(mapping, Side::External, &keys)?;
        let open: Vec<(&String, &String)> =
            keyed.into_iter().filter(|(id, key)| !tied.contains_key(*id) && !held.contains_key(*key)).collect();
        let name = self.prepared.fields[1][0].clone();
        let wanted: Vec<String> = open.iter().map(|(_, key)| (*key).clone()).collect();
        let there = self.fetch(Side::External, &name, &wanted).await?;
        let there: HashSet<String> = (0..there.num_rows()).map(|row| cell(&there, 0, row)).collect();
        let links = open.into_iter().filter(|(_, key)| there.contains(*key)).map(|(loser, key)| {
            // What a run was about to write is what was agreed on.
            let mut base = vec![None; self.layouts.fields.len()];
            for id in [loser.as_str(), ""] {
                let intent = self.intents.get(&(id.to_owned(), key.clone()));
                for half in intent.and_then(|intent| self.read_intent(&intent.body)).into_iter().flatten() {
                    for (agreed, written) in base.iter_mut().zip(half) {
                        *agreed = agreed.or(written);
                    }
                }
            }
            let base = self.layouts.encode(&base);
            Link { salesforce: loser.clone(), external: key.clone(), side: Side::External, base, row: 0 }
        });
        let links: Vec<Link> = links.collect();
        let commit = PairCommit { links: links.clone(), ..PairCommit::default() };
        self.store.commit_pairs(&self.sync.name, mapping, self.report.run, &commit)?;
        Ok(links)
    }

    /// True when an external record must not be made in Salesforce: there it was merged into another. A person may ask
    /// for it.
    pub(super) fn was_merged(&self, pair: &Pair, commit: &mut PairCommit) -> bool {
        let Some(into) = self.merged.get(&pair.key).filter(|_| !self.options.replay.any()) else { return false };
        let message = format!(
            "its Salesforce record was merged into that of {into}; delete it, or make it again there by `dead-letters replay`"
        );
        let error = RecordError::rejected("MERGED", message);
        self.bury(commit, Side::External, &pair.key, String::new(), &error);
        true
    }

    /// Follows what was merged up to now, where something is gone: it is not to be taken for deleted.
    pub(super) async fn follow_recent_merges(&mut self) -> Result<(), Error> {
        if self.entity(Side::Salesforce).field(MASTER).is_none() {
            return Ok(());
        }
        let until = self.end(Side::Salesforce).now(self.entity(Side::Salesforce)).await?;
        let window = self.merged_since.clone().zip(until);
        self.follow_merges(window.map(|(since, until)| Window { since: Some(since), until })).await
    }

    /// True when a Salesforce record has the key of one that was merged into it, though it is tied to another: it gets its
    /// own back.
    pub(super) fn took_over(&self, link: &Link, key: &str) -> bool {
        self.merged.get(key) == Some(&link.external)
    }
}

/// Walks from loser to winner to the one that has not lost.
fn winner(into: &HashMap<String, String>, loser: &str) -> String {
    let mut at = loser;
    let mut steps = into.len();
    while let Some(next) = into.get(at).filter(|_| steps > 0) {
        (at, steps) = (next.as_str(), steps - 1);
    }
    at.to_owned()
}
