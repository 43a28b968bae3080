//! The end of a chunk: it is written, and every row's outcome is stored together with the checkpoint.

use std::collections::HashMap;
use std::time::Instant;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use chrono::Utc;
use endpoint::Target;
use model::{ChangeBatch, Op, Outcome, RecordError, Side};
use state::{Commit, DeadLetter, Link, Owner, Store};
use tokio::task::JoinHandle;

use crate::chunk::{Chunk, Ready, bases, cell, from_json, row_json, source_key};
use crate::prepare::BATCH_ROWS;
use crate::report::Error;
use crate::run::{Running, millis};
use crate::sync::Sync;

/// How often a batch is written again after a passing failure.
pub(crate) const WRITE_TRIES: u32 = 4;

/// A commit on its way into the store, on a thread of its own. Whoever lets go of it waits until it is there: nobody finds less
/// in the store than was settled.
pub(crate) struct Storing {
    commit: Option<JoinHandle<state::Result<u64>>>,
    /// Ends when the commit does.
    done: std::sync::mpsc::Receiver<()>,
}

impl Storing {
    fn begin(store: Store, owner: Owner<'_>, commit: Commit) -> Self {
        let (sync, mapping) = (owner.sync.to_owned(), owner.mapping.to_owned());
        let (source, run) = (owner.source, owner.run);
        let (working, done) = std::sync::mpsc::channel();
        let commit = tokio::task::spawn_blocking(move || {
            let _working = working;
            let begun = Instant::now();
            store.commit(Owner { sync: &sync, mapping: &mapping, source, run }, &commit)?;
            Ok(millis(begun))
        });
        Self { commit: Some(commit), done }
    }

    /// Waits for its end; returns how long it took, in milliseconds.
    async fn wait(&mut self) -> Result<u64, Error> {
        let Some(commit) = &mut self.commit else { return Ok(0) };
        let ended = commit.await;
        self.commit = None;
        match ended {
            Ok(stored) => Ok(stored?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        if self.commit.is_some() {
            // Nothing is ever sent: what ends is the other end.
            let _ = self.done.recv();
        }
    }
}

impl Running<'_> {
    /// Writes a chunk and stores the outcome of each of its rows together with the checkpoint.
    /// `letters` are the dead letters that the rows come from, if they do.
    pub(crate) async fn settle(&mut self, chunk: Chunk, full: bool, letters: &[DeadLetter]) -> Result<(), Error> {
        self.write_chunk(chunk, full, letters).await?;
        self.stored().await
    }

    /// Waits until the outcomes of all that was written are stored.
    pub(crate) async fn stored(&mut self) -> Result<(), Error> {
        if let Some(storing) = &mut self.storing {
            let stored = storing.wait().await;
            self.storing = None;
            self.report.commit_ms += stored?;
        }
        Ok(())
    }

    /// Writes a chunk, and begins to store the outcome of each of its rows when those of the chunk before are stored.
    pub(crate) async fn write_chunk(&mut self, chunk: Chunk, full: bool, letters: &[DeadLetter]) -> Result<(), Error> {
        let plan = &self.prepared.plan;
        let parents = if self.target.capabilities().group_by_parent { plan.parent_columns.as_slice() } else { &[] };
        let identity = plan.record_id.unwrap_or(0);
        let mut chunk = chunk;
        let unreadable = std::mem::take(&mut chunk.unreadable);
        let ready = chunk.ready(&plan.target_key, identity, parents).map_err(self.batch_error())?;
        let mut commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        if let Some(ready) = ready {
            self.write_ready(&ready, full, letters, &mut commit).await?;
        }
        for row in unreadable {
            self.report.receipt.keys_settled.add(&row.key);
            self.report.counts.dead += 1;
            self.letters = true;
            commit.seen.push(row.key.clone());
            let record = row.record.into_iter().map(|(name, text)| (name, text.into())).collect();
            commit.dead.push(DeadLetter {
                key: row.key,
                record: serde_json::Value::Object(record).to_string(),
                ..blank_letter(self.sync, Op::Upsert, &row.error)
            });
        }
        self.stored().await?;
        self.storing = Some(Storing::begin(self.store.clone(), self.owner(), commit));
        Ok(())
    }

    async fn write_ready(
        &mut self,
        ready: &Ready,
        full: bool,
        letters: &[DeadLetter],
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let identity = self.prepared.plan.record_id.unwrap_or(0);
        let rows = ready.mapped.num_rows();
        let side = self.source_side();
        // What a link calls the source's record: in Salesforce its id, else its key.
        let ties: Vec<String> = ready.origins.iter().map(|row| cell(&ready.source, identity, *row)).collect();
        // On a full read everything is written again, so that what was changed behind our back is mended.
        let known = if full {
            HashMap::new()
        } else {
            let keys: Vec<&str> = ties.iter().map(String::as_str).collect();
            self.store.links(&self.sync.definition.mapping, side, &keys)?
        };
        let bases: Vec<[u8; 8]> = bases(&ready.mapped).into_iter().map(u64::to_le_bytes).collect();
        let agreed = |row: &usize| {
            known.get(&ties[*row]).is_some_and(|link| link.side == side.other() && link.base == bases[*row])
        };
        let stale: Vec<usize> = (0..rows).filter(|row| !agreed(row)).collect();
        let mut outcomes = vec![Outcome::Unchanged; rows];
        if !stale.is_empty() {
            let numbers: UInt32Array = stale.iter().map(|row| *row as u32).collect();
            let records = take_record_batch(&ready.mapped, &numbers).map_err(self.batch_error())?;
            let target = self.prepared.target.clone();
            let written = self.write(&target, &ChangeBatch::upserts(records, None)).await?;
            for (row, outcome) in stale.iter().zip(written) {
                outcomes[*row] = outcome;
            }
        }
        let target_key =
            ready.mapped.schema_ref().index_of(&self.prepared.plan.target_key).map_err(self.batch_error())?;
        for (row, outcome) in outcomes.into_iter().enumerate() {
            let counts = &mut self.report.counts;
            let id = match outcome {
                Outcome::Refused(error) => {
                    commit.dead.push(letter(
                        self.sync,
                        &ready.source,
                        identity,
                        ready.origins[row],
                        Op::Upsert,
                        &error,
                    ));
                    commit.seen.push(ties[row].clone());
                    continue;
                }
                Outcome::Unchanged | Outcome::Moved => {
                    counts.unchanged += 1;
                    None
                }
                Outcome::Applied { created, id } => {
                    *(if created { &mut counts.created } else { &mut counts.updated }) += 1;
                    id
                }
            };
            let (tie, base) = (ties[row].clone(), bases[row].to_vec());
            let counterpart = || cell(&ready.mapped, target_key, row);
            commit.links.push(match side {
                Side::Salesforce => {
                    Link { salesforce: tie, external: counterpart(), side: Side::External, base, row: 0 }
                }
                Side::External => {
                    let known = known.get(&tie).map(|link| link.salesforce.clone());
                    let salesforce = id.or(known).unwrap_or_else(counterpart);
                    Link { salesforce, external: tie, side: Side::Salesforce, base, row: 0 }
                }
            });
            if self.letters {
                let key = letter_key(&ready.source, identity, ready.origins[row]);
                let earlier = letters.iter().filter(|letter| letter.key == key).map(|letter| letter.id);
                let before = commit.released.len();
                commit.released.extend(earlier);
                counts.released += (commit.released.len() - before) as u64;
                commit.settled.push(key);
            }
        }
        for (row, error) in &ready.refused {
            commit.dead.push(letter(self.sync, &ready.source, identity, *row, Op::Upsert, error));
            commit.seen.push(cell(&ready.source, identity, *row));
        }
        self.letters |= !commit.dead.is_empty();
        if letters.is_empty() {
            for row in 0..ready.source.num_rows() {
                self.report.receipt.keys_settled.add(&source_key(&ready.source, row));
            }
            let parked = commit.dead.iter().filter(|letter| letter.state == "parked").count() as u64;
            self.report.counts.parked += parked;
            self.report.counts.dead += commit.dead.len() as u64 - parked;
        }
        Ok(())
    }

    /// Writes a batch, again after a passing failure; writing twice leaves what writing once leaves.
    pub(crate) async fn write(&mut self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>, Error> {
        let writing = Instant::now();
        let mut tries = 0;
        let outcomes = loop {
            match self.target.write(target, changes).await {
                Err(error) if error.class().is_transient() && tries < WRITE_TRIES => {
                    tracing::debug!(%error, tries, "writing a batch again");
                    tokio::select! {
                        () = tokio::time::sleep(self.options.backoff * 2_u32.pow(tries)) => {}
                        () = self.options.stop.cancelled() => return Err(Error::Stopped),
                    }
                    tries += 1;
                }
                result => break result?,
            }
        };
        self.report.write_ms += millis(writing);
        Ok(outcomes)
    }

    /// Tries parked changes again, as long as that brings any of them home; with `replay` dead letters, too.
    pub(crate) async fn release(&mut self) -> Result<(), Error> {
        if !self.letters {
            return Ok(());
        }
        let mut state = if self.options.replay { None } else { Some("parked") };
        loop {
            let before = self.report.counts.released;
            self.release_once(state).await?;
            state = Some("parked");
            if self.report.counts.released == before {
                return Ok(());
            }
        }
    }

    /// Tries each waiting change once. Those that have to wait on come back with a number behind the last.
    async fn release_once(&mut self, state: Option<&str>) -> Result<(), Error> {
        let last = self.store.last_dead_letter()?;
        let mut after = 0;
        while after < last {
            let part = self.store.dead_letters(Some(&self.sync.name), state, after, BATCH_ROWS)?;
            let Some(end) = part.last().map(|letter| letter.id) else { break };
            let upserts: Vec<DeadLetter> =
                part.into_iter().filter(|letter| letter.op == "upsert" && letter.id <= last).collect();
            after = end;
            let rows: Vec<&str> = upserts.iter().map(|letter| letter.record.as_str()).collect();
            let plan = &self.prepared.plan;
            let (records, _) = from_json(&rows, &plan.source_fields, &plan.source_kinds).map_err(self.batch_error())?;
            if records.num_rows() > 0 {
                let mapped = self.map(&records)?;
                let mut chunk = Chunk::default();
                chunk.add(records, mapped);
                self.settle(chunk, false, &upserts).await?;
            }
        }
        Ok(())
    }
}

/// Returns what a dead letter is known by: the key of the record in its source, else its id there.
fn letter_key(records: &RecordBatch, identity: usize, row: usize) -> String {
    let key = source_key(records, row);
    if key.is_empty() { cell(records, identity, row) } else { key }
}

pub(crate) fn letter(
    sync: &Sync,
    records: &RecordBatch,
    identity: usize,
    row: usize,
    op: Op,
    error: &RecordError,
) -> DeadLetter {
    DeadLetter {
        key: letter_key(records, identity, row),
        record: row_json(records, row),
        ..blank_letter(sync, op, error)
    }
}

fn blank_letter(sync: &Sync, op: Op, error: &RecordError) -> DeadLetter {
    // What waits for a parent or a lock is tried again by every run; the rest waits for a person.
    let parked = error.code == "MISSING_PARENT" || error.class.is_transient();
    DeadLetter {
        id: 0,
        sync: sync.name.clone(),
        run: 0,
        state: if parked { "parked" } else { "dead" }.to_owned(),
        key: String::new(),
        op: if op == Op::Delete { "delete" } else { "upsert" }.to_owned(),
        record: String::new(),
        code: error.code.clone(),
        message: error.message.clone(),
        at: Utc::now().to_rfc3339(),
    }
}
