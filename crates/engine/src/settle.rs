//! The end of a chunk: it is written, and every row's outcome is stored together with the checkpoint.

use std::collections::{HashMap, VecDeque};
use std::task::Poll;
use std::time::Instant;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use chrono::Utc;
use endpoint::{Endpoint, Target};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use model::{ChangeBatch, Op, Outcome, RecordError, Side, Unreadable};
use state::{Commit, DeadLetter, Image, Link, Owner, Store, WantedLetters};
use tokio::task::JoinHandle;

use crate::chunk::{Chunk, Ready, bases, cell, from_json, row_json, source_key, written_json};
use crate::prepare::BATCH_ROWS;
use crate::report::Error;
use crate::run::{Options, Running, millis};
use crate::sync::{History, Sync};

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

/// Rows on their way, with what is known of them.
struct Rows {
    ready: Ready,
    /// What links call the source's records.
    ties: Vec<String>,
    known: HashMap<String, Link>,
    bases: Vec<[u8; 8]>,
    /// The rows that are written.
    stale: Vec<usize>,
}

/// What a write came to, with the time it took, in milliseconds.
type Written = Result<(Vec<Outcome>, u64), Error>;

/// A chunk that is being written.
pub(crate) struct Writing<'r> {
    rows: Option<Rows>,
    unreadable: Vec<Unreadable>,
    commit: Commit,
    write: BoxFuture<'r, Written>,
    outcomes: Option<Written>,
}

impl Writing<'_> {
    /// Waits until it is written.
    async fn wait(&mut self) {
        if self.outcomes.is_none() {
            self.outcomes = Some((&mut self.write).await);
        }
    }
}

/// Waits until the first of these chunks is written, and goes on with the others meanwhile; for ever if there is none. Whoever
/// stops waiting loses nothing.
pub(crate) async fn writing(chunks: &mut VecDeque<Writing<'_>>) {
    std::future::poll_fn(|context| {
        for chunk in chunks.iter_mut().filter(|chunk| chunk.outcomes.is_none()) {
            if let Poll::Ready(written) = chunk.write.poll_unpin(context) {
                chunk.outcomes = Some(written);
            }
        }
        if chunks.front().is_some_and(|chunk| chunk.outcomes.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Logs which records were set aside: by their keys and why, never by their values.
pub(crate) fn log_letters(letters: &[DeadLetter]) {
    for letter in letters {
        tracing::info!(record = letter.key, code = letter.code, state = letter.state, "a record was set aside");
    }
}

/// Writes a batch, again after a passing failure; writing twice leaves what writing once leaves.
#[tracing::instrument(skip_all, fields(entity = target.entity.name, rows = changes.len()))]
async fn write(end: &dyn Endpoint, options: &Options, target: Target, changes: ChangeBatch) -> Written {
    let writing = Instant::now();
    let mut tries = 0;
    loop {
        match end.write(&target, &changes).await {
            Err(error) if error.class().is_transient() && tries < WRITE_TRIES => {
                tracing::debug!(%error, tries, "writing a batch again");
                tokio::select! {
                    () = tokio::time::sleep(options.backoff * 2_u32.pow(tries)) => {}
                    () = options.stop.cancelled() => return Err(Error::Stopped),
                }
                tries += 1;
            }
            result => return Ok((result?, millis(writing))),
        }
    }
}

impl<'r> Running<'r> {
    /// Writes a chunk and stores the outcome of each of its rows together with the checkpoint.
    /// `letters` are the dead letters that the rows come from, if they do.
    pub(crate) async fn settle(&mut self, chunk: Chunk, full: bool, letters: &[DeadLetter]) -> Result<(), Error> {
        self.all_written().await?;
        self.go_on()?;
        let writing = self.begin_chunk(chunk, full)?;
        self.end_chunk(writing, letters).await?;
        self.stored().await
    }

    /// Begins to write a chunk when fewer are being written than the target takes at once. The writing goes on as [`writing`]
    /// or [`Running::written`] is waited for.
    pub(crate) async fn settle_ahead(&mut self, chunk: Chunk, full: bool) -> Result<(), Error> {
        while self.writing.len() >= self.target.capabilities().writes_at_once.max(1) {
            self.written().await?;
        }
        self.go_on()?;
        let writing = self.begin_chunk(chunk, full)?;
        self.writing.push_back(writing);
        Ok(())
    }

    /// Begins nothing more where the run is to stop: a write may take minutes.
    fn go_on(&self) -> Result<(), Error> {
        if self.options.stop.is_cancelled() { Err(Error::Stopped) } else { Ok(()) }
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

    /// Waits until the first chunk that is being written is written, and its outcomes are on their way into the store.
    pub(crate) async fn written(&mut self) -> Result<(), Error> {
        if self.writing.is_empty() {
            return Ok(());
        }
        writing(&mut self.writing).await;
        let Some(writing) = self.writing.pop_front() else { return Ok(()) };
        let ended = self.end_chunk(writing, &[]).await;
        if ended.is_err() {
            // The checkpoint must not move beyond what failed.
            self.writing.clear();
        }
        ended
    }

    /// Waits until all chunks that are being written are.
    pub(crate) async fn all_written(&mut self) -> Result<(), Error> {
        while !self.writing.is_empty() {
            self.written().await?;
        }
        Ok(())
    }

    /// Makes a chunk ready and its write, which has not begun yet.
    fn begin_chunk(&self, mut chunk: Chunk, full: bool) -> Result<Writing<'r>, Error> {
        let plan = &self.prepared.plan;
        let parents = if self.target.capabilities().group_by_parent { plan.parent_columns.as_slice() } else { &[] };
        let identity = plan.record_id.unwrap_or(0);
        let unreadable = std::mem::take(&mut chunk.unreadable);
        let ready = chunk.ready(&plan.target_key, identity, parents).map_err(self.batch_error())?;
        let commit = Commit { checkpoint: Some(self.checkpoint.clone()), ..Commit::default() };
        let mut writing = Writing {
            rows: None,
            unreadable,
            commit,
            write: futures::future::ready(Ok((Vec::new(), 0))).boxed(),
            outcomes: None,
        };
        if let Some(ready) = ready {
            let (rows, changes) = self.begin_ready(ready, full)?;
            if let Some(changes) = changes {
                writing.write = write(self.target, self.options, self.prepared.target.clone(), changes).boxed();
            }
            writing.rows = Some(rows);
        }
        Ok(writing)
    }

    /// Waits for the write of a chunk, and begins to store the outcome of each of its rows when those of the chunk before
    /// are stored.
    async fn end_chunk(&mut self, mut writing: Writing<'_>, letters: &[DeadLetter]) -> Result<(), Error> {
        writing.wait().await;
        let (outcomes, took) = writing.outcomes.unwrap_or_else(|| Ok((Vec::new(), 0)))?;
        self.report.write_ms += took;
        let mut commit = writing.commit;
        if let Some(rows) = writing.rows {
            self.end_ready(rows, outcomes, letters, &mut commit)?;
        }
        for row in writing.unreadable {
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
        log_letters(&commit.dead);
        self.stored().await?;
        self.storing = Some(Storing::begin(self.store.clone(), self.owner(), commit));
        Ok(())
    }

    /// Returns what is known of rows before they are written, and those that are to be.
    fn begin_ready(&self, ready: Ready, full: bool) -> Result<(Rows, Option<ChangeBatch>), Error> {
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
        let changes = if stale.len() == rows {
            Some(ready.mapped.clone())
        } else if stale.is_empty() {
            None
        } else {
            let numbers: UInt32Array = stale.iter().map(|row| *row as u32).collect();
            Some(take_record_batch(&ready.mapped, &numbers).map_err(self.batch_error())?)
        };
        let changes = changes.map(|records| ChangeBatch::upserts(records, None));
        Ok((Rows { ready, ties, known, bases, stale }, changes))
    }

    /// Notes what became of rows.
    fn end_ready(
        &mut self,
        rows: Rows,
        written: Vec<Outcome>,
        letters: &[DeadLetter],
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let Rows { ready, ties, known, bases, stale } = rows;
        let identity = self.prepared.plan.record_id.unwrap_or(0);
        let side = self.source_side();
        let mut outcomes = vec![Outcome::Unchanged; ready.mapped.num_rows()];
        for (row, outcome) in stale.into_iter().zip(written) {
            outcomes[row] = outcome;
        }
        let target_key =
            ready.mapped.schema_ref().index_of(&self.prepared.plan.target_key).map_err(self.batch_error())?;
        let history = self.sync.history;
        commit.writer = self.report.run;
        for (row, outcome) in outcomes.into_iter().enumerate() {
            let counts = &mut self.report.counts;
            let mut op = None;
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
                    op = Some(if created { "insert" } else { "update" });
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
            if let (Some(op), Some(link)) = (op.filter(|_| history != History::None), commit.links.last()) {
                commit.images.push(image(link, op, written_json(&ready.mapped, row, history)));
            }
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

    /// Writes a batch, again after a passing failure.
    pub(crate) async fn write(&mut self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>, Error> {
        let (outcomes, took) = write(self.target, self.options, target.clone(), changes.clone()).await?;
        self.report.write_ms += took;
        Ok(outcomes)
    }

    /// Tries parked changes again, as long as that brings any of them home; with `replay` dead letters, too.
    pub(crate) async fn release(&mut self) -> Result<(), Error> {
        if !self.letters {
            return Ok(());
        }
        let mut state = if self.options.replay.any() { None } else { Some("parked") };
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
            let part = self.store.dead_letters(
                WantedLetters { sync: Some(&self.sync.name), state, code: None },
                after,
                BATCH_ROWS,
            )?;
            let Some(end) = part.last().map(|letter| letter.id) else { break };
            let due =
                |letter: &DeadLetter| letter.op == "upsert" && letter.id <= last && self.options.replay.takes(letter);
            let upserts: Vec<DeadLetter> = part.into_iter().filter(due).collect();
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

/// Returns what is kept of a write to the record of a link, on the side that it was written to.
pub(crate) fn image(link: &Link, op: &str, after: String) -> Image {
    Image {
        side: link.side,
        salesforce: link.salesforce.clone(),
        external: link.external.clone(),
        op: op.to_owned(),
        before: "{}".to_owned(),
        after,
    }
}

/// Returns what a dead letter is known by: the key of the record in its source, else its id there.
fn letter_key(records: &RecordBatch, identity: usize, row: usize) -> String {
    let key = source_key(records, row);
    if key.is_empty() { cell(records, identity, row) } else { key.into_owned() }
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
