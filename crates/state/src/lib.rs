//! What Bridgehead remembers: runs, checkpoints, links with their base, dead letters, work in progress.
//!
//! One trait's worth of methods over SQLite; PostgreSQL for a fleet comes behind the same methods.
//! Everything that one written batch changes is committed in one transaction, so that a crash leaves
//! either all of it or nothing.

mod alerts;
mod audit;
mod letters;
mod pairs;
mod plans;
mod records;
mod schema;
mod sessions;
mod tokens;
mod versions;

pub use alerts::Alert;
pub use audit::{AuditEntry, Happened, Verdict, Verified, Wanted};
pub use letters::{DeadLetter, Unedited, WantedLetters};
pub use pairs::{Conflict, Image, Intent, Noted, PairCommit, Revisit, ShownStream, letter_key};
pub use plans::{RECONCILIATIONS, Reconciled};
pub use records::{IMAGE_DAYS, Written};
pub use sessions::{Session, Vouched, form_proof};
pub use tokens::{Role, Token, new_secret};
pub use versions::{Files, Version};

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use model::{Class, Entity, Side};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Memory for pages, in KB: keys of links come in no order, and each of them touches a page of its own.
const CACHE_KB: u32 = 24_576;
/// The same for work in small steps, which touches few records at a time and adds to what was: more would fill with pages
/// that nobody reads again.
const SMALL_CACHE_KB: u32 = 8_192;
/// Pages of the log that are written back together: 32 MB of them, so that one touched often is written once.
const WAL_PAGES: u32 = 8_000;
/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 128;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be opened, read or written.
    #[error("the state file {path} cannot be used")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// A newer Bridgehead wrote the file.
    #[error("the state file {path} was written by a newer version (format {found}, this one knows {known})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another run of the sync is going on.
    #[error("another run of {sync} is going on; this one leaves it alone")]
    Busy {
        /// The sync.
        sync: String,
    },
    /// The lock or the folder can't be made.
    #[error("{path} cannot be written")]
    Folder {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The system has no random numbers.
    #[error("the system has no random numbers to make a secret of")]
    Random,
}

impl Error {
    /// Returns what the caller can do.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy { .. } => Class::Stopped,
            _ => Class::Internal,
        }
    }
}

/// What the store returns.
pub type Result<T> = std::result::Result<T, Error>;

/// How far a sync has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// End of the last window whose rows all have an outcome.
    pub since: Option<String>,
    /// Window in progress: its end, whether it is a full read, and the position reached in it.
    pub open: Option<Open>,
    /// Fingerprint of the mapping that the rows went through; another mapping reads everything again.
    #[serde(default)]
    pub mapping: u64,
    /// End of the last window that read everything.
    #[serde(default)]
    pub refreshed: Option<String>,
}

/// A window in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The run that began it; links that it saw carry this number.
    pub run: i64,
    /// True when it reads everything.
    pub full: bool,
    /// Its end, where the source has a cursor.
    pub until: Option<String>,
    /// The last position before which every row has an outcome.
    pub position: Option<String>,
    /// Rows before that position.
    pub rows: u64,
}

/// The lasting tie between a Salesforce record and its external record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Id of the Salesforce record.
    pub salesforce: String,
    /// Key of the external record.
    pub external: String,
    /// The side that was written last, whose values `base` is of.
    pub side: Side,
    /// The base: a fingerprint of each mapped field as last agreed, 8 bytes each in the mapping's order.
    pub base: Vec<u8>,
    /// Its number in the store; 0 before it is stored.
    pub row: i64,
}

impl Link {
    /// Returns the key of the record on one side.
    pub fn key(&self, side: Side) -> &str {
        match side {
            Side::Salesforce => &self.salesforce,
            Side::External => &self.external,
        }
    }
}

fn key_column(side: Side) -> &'static str {
    match side {
        Side::Salesforce => "salesforce",
        Side::External => "external",
    }
}

fn seen_column(side: Side) -> &'static str {
    match side {
        Side::Salesforce => "seen_salesforce",
        Side::External => "seen_external",
    }
}

fn side_number(side: Side) -> i64 {
    match side {
        Side::Salesforce => 0,
        Side::External => 1,
    }
}

fn link(row: &rusqlite::Row<'_>) -> rusqlite::Result<Link> {
    Ok(Link {
        salesforce: row.get(0)?,
        external: row.get(1)?,
        side: if row.get::<_, i64>(2)? == 0 { Side::Salesforce } else { Side::External },
        base: row.get(3)?,
        row: row.get(4)?,
    })
}

/// A run, for people and machines to look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// The sync.
    pub sync: String,
    /// When it began, in RFC 3339.
    pub started: String,
    /// When it ended; `None` while it goes on, or after a crash.
    pub ended: Option<String>,
    /// `running`, `green`, `red`, `stopped`, or `cut off` by a crash.
    pub outcome: String,
    /// Counts and timings, as JSON.
    pub body: String,
}

/// Whose commit it is.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'o> {
    /// The sync.
    pub sync: &'o str,
    /// Its mapping, which the links belong to.
    pub mapping: &'o str,
    /// The side that is read.
    pub source: Side,
    /// The run that opened the window; links count as seen by it.
    pub run: i64,
}

/// What one written batch changes.
#[derive(Debug, Default)]
pub struct Commit {
    /// Links made or renewed.
    pub links: Vec<Link>,
    /// Links that are gone.
    pub unlinked: Vec<Link>,
    /// Keys of the source whose records are there though they could not be applied: they are no deletions.
    pub seen: Vec<String>,
    /// Changes that could not be applied.
    pub dead: Vec<DeadLetter>,
    /// Keys of the source whose older dead letters no longer matter.
    pub settled: Vec<String>,
    /// Dead letters that were applied at last.
    pub released: Vec<i64>,
    /// What was written, where the sync keeps that; `before` is filled in from what was written earlier.
    pub images: Vec<Image>,
    /// The run that wrote them.
    pub writer: i64,
    /// The new checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// The store; clones share one connection.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    connection: Arc<Mutex<Connection>>,
    /// Who does what is done with it.
    actor: Arc<str>,
}

/// Held while a sync runs; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

/// Returns the path of a lock file beside the state file.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

/// Opens a lock file; the lock is not taken yet.
fn lock_file(path: &Path) -> Result<std::fs::File> {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    file.map_err(|source| Error::Folder { path: path.to_owned(), source })
}

/// Lets a store keep as many pages again as it did.
#[derive(Debug)]
pub struct SmallSteps(Store);

impl Drop for SmallSteps {
    fn drop(&mut self) {
        // Without it the next work is slower, and no less right.
        let _ = self.0.with(|db| db.execute_batch(&format!("PRAGMA cache_size=-{CACHE_KB}")));
    }
}

impl Store {
    /// Opens the store, making the file and its folder, and brings its format up to date.
    ///
    /// # Errors
    ///
    /// A file that can't be used, or that a newer version wrote.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
        let unusable = |source| Error::Unusable { path: path.to_owned(), source };
        // One at a time sets the file up: SQLite does not wait for its turn to change the journal's mode.
        let lock_path = beside(path, "opening");
        let lock = lock_file(&lock_path)?;
        lock.lock().map_err(|source| Error::Folder { path: lock_path, source })?;
        let mut connection = Connection::open(path).map_err(unusable)?;
        connection
            .execute_batch(&format!(
                "PRAGMA busy_timeout=10000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                 PRAGMA cache_size=-{CACHE_KB}; PRAGMA wal_autocheckpoint={WAL_PAGES};"
            ))
            .map_err(unusable)?;
        let found = schema::migrate(&mut connection).map_err(unusable)?;
        if found > schema::FORMAT {
            return Err(Error::Newer { path: path.to_owned(), found, known: schema::FORMAT });
        }
        drop(lock);
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self {
            path: Arc::new(path.to_owned()),
            connection: Arc::new(Mutex::new(connection)),
            actor: "local".into(),
        })
    }

    /// Returns the same store for somebody else, whose name is noted with what they do.
    #[must_use]
    pub fn acting_as(&self, actor: &str) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Keeps fewer pages in memory from now on until what is returned is dropped: for work in small steps.
    ///
    /// # Errors
    ///
    /// A file that can't be used.
    pub fn in_small_steps(&self) -> Result<SmallSteps> {
        self.with(|db| db.execute_batch(&format!("PRAGMA cache_size=-{SMALL_CACHE_KB}; PRAGMA shrink_memory")))?;
        Ok(SmallSteps(self.clone()))
    }

    /// Returns a store that lives as long as the process, for simulations.
    ///
    /// # Errors
    ///
    /// When SQLite has no memory for it.
    pub fn in_memory() -> Result<Self> {
        let path = PathBuf::from(":memory:");
        let unusable = |source| Error::Unusable { path: path.clone(), source };
        let mut connection = Connection::open_in_memory().map_err(unusable)?;
        schema::migrate(&mut connection).map_err(unusable)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self { path: Arc::new(path), connection: Arc::new(Mutex::new(connection)), actor: "local".into() })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection: MutexGuard<'_, Connection> = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|source| Error::Unusable { path: self.path.as_ref().clone(), source })
    }

    /// Returns what this store is known by in other systems: eight characters that no other store has.
    pub fn id(&self) -> Result<String> {
        self.with(|db| db.query_row("SELECT id FROM about", [], |row| row.get(0)))
    }

    /// Takes the right to run a sync.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when somebody else has it.
    pub fn lock(&self, sync: &str) -> Result<RunLock> {
        let path = beside(&self.path, &format!("{sync}.lock"));
        let file = lock_file(&path)?;
        let folder = |source| Error::Folder { path: path.clone(), source };
        match file.try_lock() {
            Ok(()) => Ok(RunLock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Busy { sync: sync.to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => Err(folder(source)),
        }
    }

    /// Notes that a run begins, and returns its number. Whoever calls holds the lock of the sync, so that a run of
    /// it which still counts as running was cut off. `how` is an object that the audit chain tells of it.
    pub fn begin_run(&self, sync: &str, now: DateTime<Utc>, how: &Value) -> Result<i64> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction
                .execute("UPDATE run SET outcome = 'cut off' WHERE sync = ?1 AND outcome = 'running'", [sync])?;
            transaction.execute(
                "INSERT INTO run (sync, started, outcome, body) VALUES (?1, ?2, 'running', '{}')",
                params![sync, now.to_rfc3339()],
            )?;
            let run = transaction.last_insert_rowid();
            audit::append(&transaction, &self.actor, Happened::RunBegun, Some(sync), Some(run), how)?;
            transaction.commit()?;
            Ok(run)
        })
    }

    /// Notes how a run ended.
    pub fn end_run(&self, run: i64, outcome: &str, body: &str, now: DateTime<Utc>) -> Result<()> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "UPDATE run SET ended = ?2, outcome = ?3, body = ?4 WHERE id = ?1";
            transaction.execute(sql, params![run, now.to_rfc3339(), outcome, body])?;
            let sql = "SELECT sync FROM run WHERE id = ?1";
            let sync: Option<String> = transaction.query_row(sql, [run], |row| row.get(0)).optional()?;
            let report: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            let mut told = json!({"outcome": outcome, "counts": report["counts"], "calls": report["calls"]});
            let (writes, print) = records::print_of_images(&transaction, run)?;
            if writes > 0 {
                // What was written to each record can be checked by this.
                told["writes"] = json!({"count": writes, "sha256": print});
            }
            audit::append(&transaction, &self.actor, Happened::RunEnded, sync.as_deref(), Some(run), &told)?;
            transaction.commit()
        })
    }

    /// Returns the sync of a run.
    pub fn sync_of(&self, run: i64) -> Result<Option<String>> {
        self.with(|db| db.query_row("SELECT sync FROM run WHERE id = ?1", [run], |row| row.get(0)).optional())
    }

    /// Returns the newest runs, newest first; only those of `sync` where it is given, and with a number below `before`.
    pub fn runs(&self, sync: Option<&str>, before: i64, limit: u32) -> Result<Vec<Run>> {
        self.with(|db| {
            if let Some(sync) = sync {
                let sql = "SELECT id, sync, started, ended, outcome, body FROM run WHERE sync = ?1 AND id < ?2
                           ORDER BY id DESC LIMIT ?3";
                return db.prepare_cached(sql)?.query_map(params![sync, before, limit], run)?.collect();
            }
            let sql = "SELECT id, sync, started, ended, outcome, body FROM run WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
            db.prepare_cached(sql)?.query_map(params![before, limit], run)?.collect()
        })
    }

    /// Returns one run.
    pub fn run(&self, id: i64) -> Result<Option<Run>> {
        self.with(|db| {
            let sql = "SELECT id, sync, started, ended, outcome, body FROM run WHERE id = ?1";
            db.query_row(sql, [id], run).optional()
        })
    }

    /// Returns the newest run of each sync, by its name.
    pub fn last_runs(&self) -> Result<HashMap<String, Run>> {
        self.with(|db| {
            let sql = "SELECT id, sync, started, ended, outcome, body FROM run
                       WHERE id IN (SELECT max(id) FROM run GROUP BY sync)";
            db.prepare_cached(sql)?.query_map([], |row| run(row).map(|run| (run.sync.clone(), run)))?.collect()
        })
    }

    /// Returns the calls that the runs of each sync spent which began at this time or later, in RFC 3339 as
    /// [`Self::begin_run`] writes it.
    pub fn calls_since(&self, started: &str) -> Result<HashMap<String, u64>> {
        self.with(|db| {
            let sql = "SELECT sync, coalesce(sum(json_extract(body, '$.calls')), 0) FROM run
                       WHERE started >= ?1 AND json_valid(body) GROUP BY sync";
            let calls = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
            db.prepare_cached(sql)?.query_map([started], calls)?.collect()
        })
    }

    /// Returns for each sync that has any the number of conflicts that wait for a person.
    pub fn held_by_sync(&self) -> Result<HashMap<String, u64>> {
        self.with(|db| {
            let sql = "SELECT sync, count(*) FROM conflict WHERE state = 'held' GROUP BY sync";
            let counts = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
            db.prepare_cached(sql)?.query_map([], counts)?.collect()
        })
    }

    /// Returns how far a sync has come.
    pub fn checkpoint(&self, sync: &str) -> Result<Checkpoint> {
        let body: Option<String> = self.with(|db| {
            db.query_row("SELECT body FROM checkpoint WHERE sync = ?1", [sync], |row| row.get(0)).optional()
        })?;
        Ok(body.and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default())
    }

    /// Notes how far a sync has come.
    pub fn set_checkpoint(&self, sync: &str, checkpoint: &Checkpoint) -> Result<()> {
        self.with(|db| set_checkpoint(db, sync, checkpoint))
    }

    /// Returns the links of these keys of one side, by key.
    pub fn links(&self, mapping: &str, side: Side, keys: &[&str]) -> Result<HashMap<String, Link>> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        self.with(|db| {
            let column = key_column(side);
            let sql = format!(
                "SELECT salesforce, external, side, base, rowid FROM link WHERE mapping = ?1 AND {column} = ?2"
            );
            // In one transaction: outside of any, each key would lock the file for itself.
            let transaction = db.transaction()?;
            let mut found = HashMap::with_capacity(keys.len());
            {
                let mut statement = transaction.prepare_cached(&sql)?;
                for key in keys {
                    let known = statement.query_row(params![mapping, key], link).optional()?;
                    found.extend(known.map(|link| ((*key).to_owned(), link)));
                }
            }
            transaction.commit()?;
            Ok(found)
        })
    }

    /// Returns the keys on the other side of the records with these keys, for lookups: that of an external record whose
    /// Salesforce record was merged into another is the other's.
    pub fn counterparts(&self, mapping: &str, side: Side, keys: &[&str]) -> Result<HashMap<String, String>> {
        let merged = if side == Side::External { self.merged(mapping)? } else { HashMap::new() };
        let follow = |key: &str| {
            let mut key = key;
            // One may be merged into one that is merged later.
            let mut steps = merged.len();
            while let Some(into) = merged.get(key).filter(|_| steps > 0) {
                (key, steps) = (into.as_str(), steps - 1);
            }
            key.to_owned()
        };
        let followed: Vec<String> = keys.iter().map(|key| follow(key)).collect();
        let wanted: Vec<&str> = followed.iter().map(String::as_str).collect();
        let links = self.links(mapping, side, &wanted)?;
        let found = keys
            .iter()
            .zip(&followed)
            .filter_map(|(key, followed)| Some(((*key).to_owned(), links.get(followed)?.key(side.other()).to_owned())));
        Ok(found.collect())
    }

    /// Stores all that a written batch changes, in one transaction. Links are marked as seen by the run.
    pub fn commit(&self, owner: Owner<'_>, commit: &Commit) -> Result<()> {
        let Owner { sync, mapping, source, run } = owner;
        let (key, seen) = (key_column(source), seen_column(source));
        self.with(|db| {
            let transaction = db.transaction()?;
            {
                let mut renew = transaction.prepare_cached(&format!(
                    "UPDATE link SET side = ?4, base = ?5, {seen} = ?6 WHERE mapping = ?1 AND salesforce = ?2 AND external = ?3"
                ))?;
                // A record that was made anew takes the place of the one that its counterpart was tied to.
                let mut tie = transaction.prepare_cached(&format!(
                    "INSERT OR REPLACE INTO link (mapping, salesforce, external, side, base, {seen}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                ))?;
                let mut add = transaction.prepare_cached(&format!(
                    "INSERT INTO link (mapping, salesforce, external, side, base, {seen}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT DO NOTHING"
                ))?;
                // What is the same for all of them is told once.
                for statement in [&mut renew, &mut tie, &mut add] {
                    statement.raw_bind_parameter(1, mapping)?;
                    statement.raw_bind_parameter(6, run)?;
                }
                // Where one link is new the next is, too, as a rule, and the same is true of those that are known.
                let mut new = false;
                for link in &commit.links {
                    if new && execute_for(&mut add, link)? > 0 {
                        continue;
                    }
                    new = execute_for(&mut renew, link)? == 0;
                    if new {
                        execute_for(&mut tie, link)?;
                    }
                }
                let mut unlink = transaction
                    .prepare_cached("DELETE FROM link WHERE mapping = ?1 AND salesforce = ?2 AND external = ?3")?;
                for link in &commit.unlinked {
                    unlink.execute(params![mapping, link.salesforce, link.external])?;
                }
                let mut see = transaction
                    .prepare_cached(&format!("UPDATE link SET {seen} = ?3 WHERE mapping = ?1 AND {key} = ?2"))?;
                for key in &commit.seen {
                    see.execute(params![mapping, key, run])?;
                }
                // A later version of the same record takes the place of the one that waits.
                let mut replaced =
                    transaction.prepare_cached("DELETE FROM dead_letter WHERE sync = ?1 AND key = ?2")?;
                for key in &commit.settled {
                    replaced.execute([sync, key])?;
                }
                let mut dead = transaction.prepare_cached(
                    "INSERT INTO dead_letter (sync, run, state, key, op, record, code, message, at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?;
                let mut known = transaction
                    .prepare_cached(
                    "SELECT 1 FROM dead_letter WHERE sync = ?1 AND key = ?2 AND (source = ?3 OR (record = ?3 AND code = ?4))",
                )?;
                for letter in &commit.dead {
                    // What waits already keeps its number, and what a person mended stays until the record changes in its source.
                    if known.exists(params![sync, letter.key, letter.record, letter.code])? {
                        continue;
                    }
                    replaced.execute([sync, &letter.key])?;
                    let DeadLetter { state, key, op, record, code, message, at, .. } = letter;
                    dead.execute(params![sync, run, state, key, op, record, code, message, at])?;
                }
                let mut release = transaction.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?;
                for id in &commit.released {
                    release.execute([id])?;
                }
                records::note_images(&transaction, commit.writer, &commit.images)?;
            }
            if let Some(checkpoint) = &commit.checkpoint {
                set_checkpoint(&transaction, sync, checkpoint)?;
            }
            transaction.commit()
        })
    }

    /// Returns the number of links of a mapping, and how many of them the run has not seen on its side.
    pub fn unseen(&self, owner: Owner<'_>) -> Result<(u64, u64)> {
        self.with(|db| {
            let seen = seen_column(owner.source);
            let sql = format!("SELECT count(*), count(*) FILTER (WHERE {seen} != ?2) FROM link WHERE mapping = ?1");
            db.query_row(&sql, params![owner.mapping, owner.run], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
            })
        })
    }

    /// Returns at most `limit` links that the run has not seen on its side, behind the external key `after`.
    pub fn unseen_links(&self, owner: Owner<'_>, after: &str, limit: usize) -> Result<Vec<Link>> {
        self.with(|db| {
            let seen = seen_column(owner.source);
            let sql = format!(
                "SELECT salesforce, external, side, base, rowid FROM link
                 WHERE mapping = ?1 AND {seen} != ?2 AND external > ?3 ORDER BY external LIMIT ?4"
            );
            db.prepare_cached(&sql)?.query_map(params![owner.mapping, owner.run, after, limit as i64], link)?.collect()
        })
    }

    /// Remembers what an entity looked like when a run of the sync went well.
    pub fn remember_catalog(&self, sync: &str, side: Side, entity: &Entity) -> Result<()> {
        self.with(|db| {
            let body =
                serde_json::to_string(entity).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let sql = "INSERT OR REPLACE INTO catalog (sync, side, body) VALUES (?1, ?2, ?3)";
            db.execute(sql, params![sync, side_number(side), body]).map(drop)
        })
    }

    /// Returns what an entity looked like when a run of the sync last went well.
    pub fn catalog(&self, sync: &str, side: Side) -> Result<Option<Entity>> {
        let sql = "SELECT body FROM catalog WHERE sync = ?1 AND side = ?2";
        let body: Option<String> =
            self.with(|db| db.query_row(sql, params![sync, side_number(side)], |row| row.get(0)).optional())?;
        Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
    }

    /// Remembers a piece of work at the other side.
    pub fn begin_work(&self, sync: &str, work: &str) -> Result<()> {
        self.with(|db| db.execute("INSERT OR REPLACE INTO work (sync, work) VALUES (?1, ?2)", [sync, work]).map(drop))
    }

    /// Returns the work that was begun and not ended.
    pub fn unfinished_work(&self, sync: &str) -> Result<Vec<String>> {
        self.with(|db| {
            db.prepare("SELECT work FROM work WHERE sync = ?1 ORDER BY rowid")?
                .query_map([sync], |row| row.get(0))?
                .collect()
        })
    }

    /// Forgets a piece of work.
    pub fn end_work(&self, sync: &str, work: &str) -> Result<()> {
        self.with(|db| db.execute("DELETE FROM work WHERE sync = ?1 AND work = ?2", [sync, work]).map(drop))
    }
}

/// Returns the conditions that are given, each behind an AND. What doesn't matter is no condition: only so does SQLite find the rest
/// by an index.
fn given(conditions: &[(&str, bool)]) -> String {
    conditions.iter().filter(|(_, given)| *given).map(|(is, _)| format!(" AND {is}")).collect()
}

fn run(row: &rusqlite::Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get(0)?,
        sync: row.get(1)?,
        started: row.get(2)?,
        ended: row.get(3)?,
        outcome: row.get(4)?,
        body: row.get(5)?,
    })
}

/// Executes a statement whose parameters 2 to 5 are those of a link.
fn execute_for(statement: &mut rusqlite::Statement<'_>, link: &Link) -> rusqlite::Result<usize> {
    statement.raw_bind_parameter(2, link.salesforce.as_str())?;
    statement.raw_bind_parameter(3, link.external.as_str())?;
    statement.raw_bind_parameter(4, side_number(link.side))?;
    statement.raw_bind_parameter(5, link.base.as_slice())?;
    statement.raw_execute()
}

fn set_checkpoint(db: &Connection, sync: &str, checkpoint: &Checkpoint) -> rusqlite::Result<()> {
    let body =
        serde_json::to_string(checkpoint).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    db.execute("INSERT OR REPLACE INTO checkpoint (sync, body) VALUES (?1, ?2)", params![sync, body]).map(drop)
}

#[cfg(test)]
mod tests;
