//! Salesforce records that were merged into others: what was tied to them follows.

use std::collections::{HashMap, HashSet};

use endpoint::{Read, Window};
use futures::StreamExt as _;
use model::Side;
use state::{Link, PairCommit};

use super::Pairing;
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
        let mapping = &self.sync.definition.mapping;
        let mut lost: Vec<Link> = self.store.links(mapping, Side::Salesforce, &losers)?.into_values().collect();
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
