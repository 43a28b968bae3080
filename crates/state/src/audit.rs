//! The audit chain: what happened, who did it, in entries that each carry the hash of the one before.
//!
//! An entry's hash is SHA-256 over the hash before it and its own fields, each behind its length, so that nothing can be changed,
//! removed or moved without breaking the chain; the head is kept apart, so that nothing can be cut off its end either. Whoever
//! may write the file could make a whole new chain: a head that was noted elsewhere tells.

use aws_lc_rs::digest::{Context, SHA256};
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Result, Store, given};

/// The hash before the first entry.
const NOTHING: [u8; 32] = [0; 32];
/// Entries that are read at a time.
const PAGE: i64 = 1_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// A run began.
    RunBegun,
    /// A run ended.
    RunEnded,
    /// Both sides of a sync were compared.
    Reconciled,
    /// A person decided a conflict.
    ConflictResolved,
    /// A dead letter was forgotten.
    DeadLetterDropped,
    /// The record of a dead letter was mended.
    DeadLetterEdited,
    /// A version of the configuration was kept.
    VersionKept,
    /// Another version of the configuration was put to work.
    Deployed,
    /// An alert began to hold.
    AlertRaised,
    /// An alert is over.
    AlertOver,
    /// A sync was paused.
    Paused,
    /// A paused sync goes on.
    Resumed,
    /// A person signed in, or made a token or took one back.
    Access,
    /// Old entries were removed.
    Pruned,
}

impl Happened {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RunBegun,
        Self::RunEnded,
        Self::Reconciled,
        Self::ConflictResolved,
        Self::DeadLetterDropped,
        Self::DeadLetterEdited,
        Self::VersionKept,
        Self::Deployed,
        Self::AlertRaised,
        Self::AlertOver,
        Self::Paused,
        Self::Resumed,
        Self::Access,
        Self::Pruned,
    ];

    /// Returns its name, as entries have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::RunBegun => "run_begun",
            Self::RunEnded => "run_ended",
            Self::Reconciled => "reconciled",
            Self::ConflictResolved => "conflict_resolved",
            Self::DeadLetterDropped => "dead_letter_dropped",
            Self::DeadLetterEdited => "dead_letter_edited",
            Self::VersionKept => "version_kept",
            Self::Deployed => "deployed",
            Self::AlertRaised => "alert_raised",
            Self::AlertOver => "alert_over",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Access => "access",
            Self::Pruned => "pruned",
        }
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number; they follow each other without a gap.
    pub id: i64,
    /// When it was written, in RFC 3339.
    pub at: String,
    /// Who did it.
    pub actor: String,
    /// What happened, in the words of [`Happened`].
    pub what: String,
    /// The sync it happened to.
    pub sync: Option<String>,
    /// The run it belongs to.
    pub run: Option<i64>,
    /// More about it, as JSON.
    pub body: String,
    /// Hash of the entry before, in hexadecimal digits.
    pub before: String,
    /// Its own.
    pub hash: String,
}

/// What a chain that is whole looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries that were looked at.
    pub entries: u64,
    /// Number of the first; those before it were pruned.
    pub first: i64,
    /// Number of the last.
    pub last: i64,
    /// Hash of the last, to be noted elsewhere.
    pub head: String,
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The chain is whole.
    Whole(Verified),
    /// It is not.
    Broken {
        /// Number of the entry where that shows.
        id: i64,
        /// What is wrong with it.
        what: String,
    },
}

/// Which entries are wanted; those that are `None` don't matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'w> {
    /// Those of this sync.
    pub sync: Option<&'w str>,
    /// Those in which this happened.
    pub what: Option<&'w str>,
    /// Those of this run.
    pub run: Option<i64>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

struct Fields<'f> {
    id: i64,
    at: &'f str,
    actor: &'f str,
    what: &'f str,
    sync: Option<&'f str>,
    run: Option<i64>,
    body: &'f str,
}

impl Fields<'_> {
    fn hash(&self, before: &[u8]) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(before);
        let mut add = |field: Option<&[u8]>| {
            // What is not there differs from what is empty.
            let length = field.map_or(u64::MAX, |field| field.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(field.unwrap_or_default());
        };
        add(Some(&self.id.to_le_bytes()));
        for text in [self.at, self.actor, self.what] {
            add(Some(text.as_bytes()));
        }
        add(self.sync.map(str::as_bytes));
        add(self.run.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        add(Some(self.body.as_bytes()));
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// Adds an entry, in the transaction that is open.
pub(crate) fn append(
    db: &Connection,
    actor: &str,
    what: Happened,
    sync: Option<&str>,
    run: Option<i64>,
    body: &Value,
) -> rusqlite::Result<i64> {
    let head = db
        .prepare_cached("SELECT last, hash FROM audit_head")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    let (last, before) = head.unwrap_or_else(|| (0, NOTHING.to_vec()));
    let (at, body) = (Utc::now().to_rfc3339(), body.to_string());
    let fields = Fields { id: last + 1, at: &at, actor, what: what.word(), sync, run, body: &body };
    let hash = fields.hash(&before);
    db.prepare_cached(
        "INSERT INTO audit (id, at, actor, what, sync, run, body, before, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![fields.id, at, actor, what.word(), sync, run, body, before, hash])?;
    db.execute("DELETE FROM audit_head", [])?;
    db.execute("INSERT INTO audit_head (last, hash) VALUES (?1, ?2)", params![fields.id, hash])?;
    Ok(fields.id)
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        what: row.get(3)?,
        sync: row.get(4)?,
        run: row.get(5)?,
        body: row.get(6)?,
        before: hex(&row.get::<_, Vec<u8>>(7)?),
        hash: hex(&row.get::<_, Vec<u8>>(8)?),
    })
}

impl Store {
    /// Adds an entry to the audit chain and returns its number.
    pub fn audit(&self, what: Happened, sync: Option<&str>, run: Option<i64>, body: &Value) -> Result<i64> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let id = append(&transaction, &self.actor, what, sync, run, body)?;
            transaction.commit()?;
            Ok(id)
        })
    }

    /// Returns at most `limit` entries with a number below `before`, newest first.
    pub fn audit_entries(&self, wanted: Wanted<'_>, before: i64, limit: u32) -> Result<Vec<AuditEntry>> {
        self.with(|db| {
            let given = given(&[
                ("sync = ?2", wanted.sync.is_some()),
                ("what = ?3", wanted.what.is_some()),
                ("run = ?4", wanted.run.is_some()),
            ]);
            let sql = format!(
                "SELECT id, at, actor, what, sync, run, body, before, hash FROM audit
                 WHERE id < ?1{given} AND ?2 IS ?2 AND ?3 IS ?3 AND ?4 IS ?4 ORDER BY id DESC LIMIT ?5"
            );
            db.prepare_cached(&sql)?
                .query_map(params![before, wanted.sync, wanted.what, wanted.run, limit], entry)?
                .collect()
        })
    }

    /// Returns at most a page of entries with a number above `after`, oldest first, for export.
    pub fn audit_after(&self, after: i64) -> Result<Vec<AuditEntry>> {
        self.with(|db| {
            let sql = "SELECT id, at, actor, what, sync, run, body, before, hash FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2";
            db.prepare_cached(sql)?.query_map([after, PAGE], entry)?.collect()
        })
    }

    /// True where an entry has this hash, or begins with it.
    pub fn has_audit_hash(&self, hash: &str) -> Result<bool> {
        let hash = unhex(hash);
        self.with(|db| {
            db.query_row("SELECT EXISTS (SELECT 1 FROM audit WHERE ?1 IN (hash, before))", [hash], |row| row.get(0))
        })
    }

    /// Looks at every entry of the chain, and says whether it is whole.
    pub fn verify_audit(&self) -> Result<Verdict> {
        let mut known: Option<(i64, String)> = None;
        let (mut entries, mut first) = (0, 0);
        // What was pruned last says how the chain begins.
        let mut pruned: Option<(i64, String)> = None;
        let mut begins = (0, hex(&NOTHING));
        loop {
            let page = self.audit_after(known.as_ref().map_or(-1, |(id, _)| *id))?;
            if page.is_empty() {
                break;
            }
            for found in page {
                let broken = |what: &str| Verdict::Broken { id: found.id, what: what.to_owned() };
                match &known {
                    None => {
                        first = found.id;
                        begins = (found.id - 1, found.before.clone());
                    }
                    Some((last, _)) if found.id != last + 1 => {
                        return Ok(broken(&format!(
                            "the entries {} to {} are missing before it",
                            last + 1,
                            found.id - 1
                        )));
                    }
                    Some((_, hash)) if found.before != *hash => {
                        return Ok(broken("it does not follow the entry before it"));
                    }
                    Some(_) => {}
                }
                let fields = Fields {
                    id: found.id,
                    at: &found.at,
                    actor: &found.actor,
                    what: &found.what,
                    sync: found.sync.as_deref(),
                    run: found.run,
                    body: &found.body,
                };
                let before = unhex(&found.before);
                if hex(&fields.hash(&before)) != found.hash {
                    return Ok(broken("it was changed after it was written"));
                }
                if found.what == Happened::Pruned.word() {
                    let body: Value = serde_json::from_str(&found.body).unwrap_or_default();
                    let hash = body["hash"].as_str().unwrap_or_default().to_owned();
                    pruned = Some((body["through"].as_i64().unwrap_or_default(), hash));
                }
                if found.what == Happened::RunEnded.word()
                    && let Some(run) = found.run
                    && !self.writes_are_whole(run, &found)?
                {
                    return Ok(broken("what the run wrote to records is not what is kept of it"));
                }
                entries += 1;
                known = Some((found.id, found.hash));
            }
        }
        let head = self.with(|db| {
            db.query_row("SELECT last, hash FROM audit_head", [], |row| {
                Ok((row.get::<_, i64>(0)?, hex(&row.get::<_, Vec<u8>>(1)?)))
            })
            .optional()
        })?;
        let broken = |id: i64, what: &str| Ok(Verdict::Broken { id, what: what.to_owned() });
        let whole = pruned.unwrap_or_else(|| (0, hex(&NOTHING)));
        match (known, head) {
            (None, None) => {}
            (known, head) if known != head => {
                let last = head.map_or(0, |(last, _)| last);
                return broken(last, "the chain does not end with the entry that was written last");
            }
            _ if begins != whole => {
                return broken(first, "entries before it are missing, and no entry says that they were pruned");
            }
            (Some((last, hash)), _) => return Ok(Verdict::Whole(Verified { entries, first, last, head: hash })),
            (None, Some(_)) => {}
        }
        Ok(Verdict::Whole(Verified { entries: 0, first: 0, last: 0, head: hex(&NOTHING) }))
    }

    /// True where the writes that are kept of a run are those that its entry tells of; old ones may be forgotten.
    fn writes_are_whole(&self, run: i64, ended: &AuditEntry) -> Result<bool> {
        let body: Value = serde_json::from_str(&ended.body).unwrap_or_default();
        let Some(print) = body["writes"]["sha256"].as_str() else { return Ok(true) };
        let (count, found) = self.with(|db| crate::records::print_of_images(db, run))?;
        let old = DateTime::parse_from_rfc3339(&ended.at)
            .is_ok_and(|at| at < Utc::now() - TimeDelta::days(crate::IMAGE_DAYS - 1));
        Ok(found == print || (count == 0 && old))
    }

    /// Removes the entries written before a time, in RFC 3339, and notes how many they were and with which hash they ended.
    /// Returns their number.
    pub fn prune_audit(&self, before: &str) -> Result<u64> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let sql = "SELECT id, hash, (SELECT count(*) FROM audit inside WHERE inside.id <= audit.id) FROM audit
                       WHERE at < ?1 ORDER BY id DESC LIMIT 1";
            let last = transaction
                .query_row(sql, [before], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, i64>(2)?))
                })
                .optional()?;
            let Some((through, hash, count)) = last else { return Ok(0) };
            let body = json!({"through": through, "hash": hex(&hash), "entries": count, "before": before});
            append(&transaction, &self.actor, Happened::Pruned, None, None, &body)?;
            transaction.execute("DELETE FROM audit WHERE id <= ?1", [through])?;
            transaction.commit()?;
            Ok(count.cast_unsigned())
        })
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or_default();
    (0..text.len() / 2).map(|at| digit(at * 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Store {
        let store = Store::in_memory().unwrap();
        for number in 0..2_500 {
            store
                .audit(Happened::Access, (number % 2 == 0).then_some("s"), Some(number), &json!({"n": number}))
                .unwrap();
        }
        store
    }

    fn broken(store: &Store) -> Option<i64> {
        match store.verify_audit().unwrap() {
            Verdict::Whole(_) => None,
            Verdict::Broken { id, .. } => Some(id),
        }
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let empty = Store::in_memory().unwrap();
        assert_eq!(broken(&empty), None);
        let store = chain();
        let Verdict::Whole(verified) = store.verify_audit().unwrap() else { panic!("it is whole") };
        assert_eq!((verified.entries, verified.first, verified.last), (2_500, 1, 2_500));
        let wanted = Wanted { sync: Some("s"), ..Wanted::default() };
        let newest = store.audit_entries(wanted, i64::MAX, 3).unwrap();
        assert_eq!(newest.iter().map(|entry| entry.id).collect::<Vec<_>>(), [2_499, 2_497, 2_495]);
    }

    #[test]
    fn whatever_is_changed_removed_or_moved_is_found() {
        let edits = [
            ("UPDATE audit SET at = at || ' ' WHERE id = 7", 7),
            ("UPDATE audit SET actor = 'somebody' WHERE id = 7", 7),
            ("UPDATE audit SET what = 'paused' WHERE id = 7", 7),
            ("UPDATE audit SET sync = NULL WHERE id = 7", 7),
            ("UPDATE audit SET sync = '' WHERE id = 8", 8),
            ("UPDATE audit SET run = 1 WHERE id = 7", 7),
            ("UPDATE audit SET run = NULL WHERE id = 1", 1),
            ("UPDATE audit SET body = replace(body, '6', '5') WHERE id = 7", 7),
            ("UPDATE audit SET hash = zeroblob(32) WHERE id = 7", 7),
            ("UPDATE audit SET before = zeroblob(32) WHERE id = 7", 7),
            ("DELETE FROM audit WHERE id = 1", 2),
            ("DELETE FROM audit WHERE id = 1200", 1201),
            ("DELETE FROM audit WHERE id > 2400", 2500),
            ("DELETE FROM audit", 2500),
            ("DELETE FROM audit_head", 0),
            ("UPDATE audit_head SET hash = zeroblob(32)", 2500),
            ("UPDATE audit SET id = -id WHERE id IN (10, 11); UPDATE audit SET id = 21 + id WHERE id < 0", 10),
        ];
        for (sql, at) in edits {
            let store = chain();
            // The table itself refuses; whoever has the file can take that away.
            assert!(store.with(|db| db.execute_batch(sql)).is_err() || sql.contains("head"), "{sql}");
            store
                .with(|db| {
                    db.execute_batch("DROP TRIGGER audit_stays; DROP TRIGGER audit_goes")?;
                    db.execute_batch(sql)
                })
                .unwrap();
            assert_eq!(broken(&store), Some(at), "{sql}");
        }
    }

    #[test]
    fn what_was_pruned_is_proven_and_nothing_else_may_be_missing() {
        let store = chain();
        let middle = store.audit_after(1_199).unwrap()[0].at.clone();
        let gone = store.prune_audit(&middle).unwrap();
        assert!(gone > 0 && gone < 1_200, "{gone}");
        let Verdict::Whole(verified) = store.verify_audit().unwrap() else { panic!("it is whole") };
        assert_eq!((verified.first.cast_unsigned(), verified.last), (gone + 1, 2_501));
        store
            .with(|db| {
                db.execute_batch("DROP TRIGGER audit_stays; DROP TRIGGER audit_goes")?;
                db.execute("DELETE FROM audit WHERE id = ?1", [verified.first])
            })
            .unwrap();
        assert_eq!(broken(&store), Some(verified.first + 1));
    }
}
