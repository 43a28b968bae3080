//! What two-way syncs remember besides links: intents, conflicts, and pairs to look at again.

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Happened};
use crate::{DeadLetter, Link, Result, Store, given, key_column, link, side_number};
use model::Side;

/// What a write to a pair is about to do, noted before it is done: after a crash it tells our own writes from those of
/// people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Id of the Salesforce record; empty if it is about to be made.
    pub salesforce: String,
    /// Key of the external record.
    pub external: String,
    /// What is about to be agreed on, in the engine's own form.
    pub body: Vec<u8>,
}

/// What a record was before a run wrote to it, and what the run wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The side that was written.
    pub side: Side,
    /// Id of the Salesforce record; empty if it was about to be made.
    pub salesforce: String,
    /// Key of the external record.
    pub external: String,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The fields as they were, by name, as a JSON object of texts and nulls.
    pub before: String,
    /// The fields as they were written, likewise.
    pub after: String,
}

/// What a stream of changes did, as it was last stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownStream {
    /// The sync.
    pub sync: String,
    /// The side that tells.
    pub side: Side,
    /// What it did, as JSON.
    pub body: String,
    /// True when it was ended in order; one that is cut off stays open, and its time stands still.
    pub ended: bool,
    /// When it was stored, in RFC 3339.
    pub at: String,
}

/// Numbers of what was noted before a write.
#[derive(Debug, Default)]
pub struct Noted {
    /// Of the conflicts, in their order.
    pub conflicts: Vec<i64>,
    /// Of the images, in their order.
    pub images: Vec<i64>,
}

/// Both sides changed a field to different values, or one deleted what the other changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its number; 0 before it is stored.
    pub id: i64,
    /// The sync that met it.
    pub sync: String,
    /// The run that met it.
    pub run: i64,
    /// Id of the Salesforce record.
    pub salesforce: String,
    /// Key of the external record.
    pub external: String,
    /// The field; empty when the record as a whole is meant.
    pub field: String,
    /// What both sides last agreed on, where that was kept.
    pub base: Option<String>,
    /// What Salesforce held.
    pub salesforce_value: Option<String>,
    /// What the system outside held.
    pub external_value: Option<String>,
    /// `salesforce` or `external`; `None` while a person decides.
    pub winner: Option<String>,
    /// `decided` by the sync's rules; `held` for a person; `resolved` by one, and not yet carried out; `done`.
    pub state: String,
    /// When, in RFC 3339.
    pub at: String,
}

/// A record of one side that is to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revisit {
    /// The side.
    pub side: Side,
    /// Id or key of the record there.
    pub key: String,
    /// False for one that waits for a person, who may replay it.
    pub soon: bool,
}

/// What one settled batch of pairs changes.
#[derive(Debug, Default)]
pub struct PairCommit {
    /// Links made or renewed.
    pub links: Vec<Link>,
    /// For those of them whose values are kept: Salesforce id and the values, as JSON.
    pub values: Vec<(String, String)>,
    /// Links that are gone.
    pub unlinked: Vec<Link>,
    /// Intents that were carried out or given up, by Salesforce id and external key.
    pub settled: Vec<(String, String)>,
    /// Conflicts noted before a write that was not made after all.
    pub withdrawn: Vec<i64>,
    /// Images noted before a write that was not made after all.
    pub unwritten: Vec<i64>,
    /// Pairs without a held conflict any more, with the fields that were decided.
    pub done: Vec<(String, String)>,
    /// Records to look at again.
    pub revisit: Vec<Revisit>,
    /// Records that need no other look.
    pub visited: Vec<(Side, String)>,
    /// Changes that could not be applied.
    pub dead: Vec<DeadLetter>,
    /// External records whose Salesforce record was merged into that of another, with the key of that.
    pub merged: Vec<(String, String)>,
}

pub(crate) fn winner_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Conflict> {
    Ok(Conflict {
        id: row.get(0)?,
        sync: row.get(1)?,
        run: row.get(2)?,
        salesforce: row.get(3)?,
        external: row.get(4)?,
        field: row.get(5)?,
        base: row.get(6)?,
        salesforce_value: row.get(7)?,
        external_value: row.get(8)?,
        winner: row.get(9)?,
        state: row.get(10)?,
        at: row.get(11)?,
    })
}

pub(crate) const CONFLICT: &str =
    "id, sync, run, salesforce, external, field, base, salesforce_value, external_value, winner, state, at";

/// Notes a conflict. What a person has to decide stands there once, with the values of today.
fn note_conflict(db: &Transaction<'_>, run: i64, conflict: &Conflict) -> rusqlite::Result<i64> {
    let Conflict {
        sync, salesforce, external, field, base, salesforce_value, external_value, winner, state, at, ..
    } = conflict;
    if state == "held" {
        let mut again = db.prepare_cached(
            "UPDATE conflict SET salesforce_value = ?5, external_value = ?6, run = ?7, winner = NULL, state = 'held'
             WHERE sync = ?1 AND salesforce = ?2 AND external = ?3 AND field = ?4 AND state IN ('held', 'resolved')
             RETURNING id",
        )?;
        let values = params![sync, salesforce, external, field, salesforce_value, external_value, run];
        if let Some(id) = again.query_row(values, |row| row.get(0)).optional()? {
            return Ok(id);
        }
    }
    let mut met = db.prepare_cached(
        "INSERT INTO conflict (sync, run, salesforce, external, field, base, salesforce_value, external_value, winner, state, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    met.execute(params![
        sync,
        run,
        salesforce,
        external,
        field,
        base,
        salesforce_value,
        external_value,
        winner,
        state,
        at
    ])?;
    Ok(db.last_insert_rowid())
}

/// Returns what a dead letter of a two-way sync is known by.
pub fn letter_key(side: Side, key: &str) -> String {
    match side {
        Side::Salesforce => key.to_owned(),
        Side::External => format!("external:{key}"),
    }
}

impl Store {
    /// Returns the number of a list of fields; bases are stored with it, so that they outlive a change of the mapping.
    pub fn layout(&self, mapping: &str, fields: &[String]) -> Result<u32> {
        self.with(|db| {
            let text = serde_json::to_string(fields).unwrap_or_default();
            db.execute("INSERT OR IGNORE INTO layout (mapping, fields) VALUES (?1, ?2)", [mapping, &text])?;
            db.query_row("SELECT id FROM layout WHERE mapping = ?1 AND fields = ?2", [mapping, &text], |row| row.get(0))
        })
    }

    /// Returns every list of fields that a mapping ever had, by number.
    pub fn layouts(&self, mapping: &str) -> Result<Vec<(u32, Vec<String>)>> {
        self.with(|db| {
            db.prepare("SELECT id, fields FROM layout WHERE mapping = ?1")?
                .query_map([mapping], |row| {
                    let fields: String = row.get(1)?;
                    Ok((row.get(0)?, serde_json::from_str(&fields).unwrap_or_default()))
                })?
                .collect()
        })
    }

    /// Notes what is about to be written, the conflicts about it, and what is there before.
    pub fn intend(
        &self,
        mapping: &str,
        run: i64,
        intents: &[Intent],
        conflicts: &[Conflict],
        images: &[Image],
    ) -> Result<Noted> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let mut noted = Noted::default();
            {
                let mut note = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO intent (mapping, salesforce, external, body) VALUES (?1, ?2, ?3, ?4)",
                )?;
                for Intent { salesforce, external, body } in intents {
                    note.execute(params![mapping, salesforce, external, body])?;
                }
                for conflict in conflicts {
                    noted.conflicts.push(note_conflict(&transaction, run, conflict)?);
                }
                let mut keep = transaction.prepare_cached(
                    "INSERT INTO image (run, side, salesforce, external, op, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                for Image { side, salesforce, external, op, before, after } in images {
                    keep.execute(params![run, side_number(*side), salesforce, external, op, before, after])?;
                    noted.images.push(transaction.last_insert_rowid());
                }
            }
            transaction.commit()?;
            Ok(noted)
        })
    }

    /// Returns at least `limit` images of a run, if there are so many, of external records behind the key `after`: all of
    /// each, in the order of keys and then of writes.
    pub fn images(&self, run: i64, after: &str, limit: usize) -> Result<Vec<Image>> {
        self.with(|db| {
            let sql = "SELECT side, salesforce, external, op, before, after FROM image
                       WHERE run = ?1 AND external > ?2
                         AND external <= coalesce((SELECT external FROM image WHERE run = ?1 AND external > ?2
                                                   ORDER BY external LIMIT 1 OFFSET ?3), external)
                       ORDER BY external, id";
            db.prepare_cached(sql)?
                .query_map(params![run, after, limit as i64], |row| {
                    Ok(Image {
                        side: if row.get::<_, i64>(0)? == 0 { Side::Salesforce } else { Side::External },
                        salesforce: row.get(1)?,
                        external: row.get(2)?,
                        op: row.get(3)?,
                        before: row.get(4)?,
                        after: row.get(5)?,
                    })
                })?
                .collect()
        })
    }

    /// Forgets the images of runs that began before a time.
    pub fn forget_images(&self, before: chrono::DateTime<chrono::Utc>) -> Result<()> {
        self.with(|db| {
            let sql = "DELETE FROM image WHERE run IN (SELECT id FROM run WHERE started < ?1)";
            db.execute(sql, [before.to_rfc3339()]).map(drop)
        })
    }

    /// Stores what a stream of changes does, as JSON, for people to look at.
    pub fn show_stream(
        &self,
        sync: &str,
        side: Side,
        body: &str,
        ended: bool,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<()> {
        self.with(|db| {
            let sql = "INSERT OR REPLACE INTO stream (sync, side, body, ended, at) VALUES (?1, ?2, ?3, ?4, ?5)";
            let values = params![sync, side_number(side), body, ended, now.to_rfc3339()];
            db.prepare_cached(sql)?.execute(values).map(drop)
        })
    }

    /// Returns what streams of changes do, by sync and side.
    pub fn streams(&self) -> Result<Vec<ShownStream>> {
        self.with(|db| {
            db.prepare_cached("SELECT sync, side, body, ended, at FROM stream ORDER BY sync, side")?
                .query_map([], |row| {
                    Ok(ShownStream {
                        sync: row.get(0)?,
                        side: if row.get::<_, i64>(1)? == 0 { Side::Salesforce } else { Side::External },
                        body: row.get(2)?,
                        ended: row.get(3)?,
                        at: row.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// Returns the intents that were noted and not settled.
    pub fn intents(&self, mapping: &str) -> Result<Vec<Intent>> {
        self.with(|db| {
            db.prepare_cached("SELECT salesforce, external, body FROM intent WHERE mapping = ?1")?
                .query_map([mapping], |row| {
                    Ok(Intent { salesforce: row.get(0)?, external: row.get(1)?, body: row.get(2)? })
                })?
                .collect()
        })
    }

    /// Returns the values that were kept with a link, as JSON.
    pub fn link_values(&self, mapping: &str, salesforce: &str) -> Result<Option<String>> {
        self.with(|db| {
            let sql = "SELECT body FROM link_value WHERE mapping = ?1 AND salesforce = ?2";
            db.prepare_cached(sql)?.query_row([mapping, salesforce], |row| row.get(0)).optional()
        })
    }

    /// Returns the external records whose Salesforce record was merged into that of another, with the key of that.
    pub fn merged(&self, mapping: &str) -> Result<HashMap<String, String>> {
        self.with(|db| {
            db.prepare_cached("SELECT external, into_external FROM merged WHERE mapping = ?1")?
                .query_map([mapping], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Returns the records of a sync that are to be looked at again; all of them, or only those that no person has to
    /// ask for.
    pub fn revisits(&self, sync: &str, all: bool) -> Result<Vec<Revisit>> {
        self.with(|db| {
            db.prepare_cached(
                "SELECT side, key, soon FROM revisit WHERE sync = ?1 AND (soon OR ?2) ORDER BY side, key",
            )?
            .query_map(params![sync, all], |row| {
                let side = if row.get::<_, i64>(0)? == 0 { Side::Salesforce } else { Side::External };
                Ok(Revisit { side, key: row.get(1)?, soon: row.get(2)? })
            })?
            .collect()
        })
    }

    /// Stores all that a settled batch of pairs changes, in one transaction, and returns the numbers of its links.
    pub fn commit_pairs(&self, sync: &str, mapping: &str, run: i64, commit: &PairCommit) -> Result<Vec<i64>> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let rows = write(&transaction, sync, mapping, run, commit)?;
            transaction.commit()?;
            Ok(rows)
        })
    }

    /// Returns the numbers of the links of these keys of one side, by key: cheaper than the links.
    pub fn link_rows<'k>(&self, mapping: &str, side: Side, keys: &[&'k str]) -> Result<HashMap<&'k str, i64>> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let mut found = HashMap::with_capacity(keys.len());
            {
                let sql = format!("SELECT rowid FROM link WHERE mapping = ?1 AND {} = ?2", key_column(side));
                let mut statement = transaction.prepare_cached(&sql)?;
                for key in keys {
                    found.extend(
                        statement.query_row([mapping, key], |row| row.get(0)).optional()?.map(|row| (*key, row)),
                    );
                }
            }
            transaction.commit()?;
            Ok(found)
        })
    }

    /// Returns the links of a mapping whose numbers are not `among` others.
    pub fn links_not(&self, mapping: &str, among: &dyn Fn(i64) -> bool) -> Result<Vec<Link>> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let numbers = {
                let mut all = transaction.prepare_cached("SELECT rowid FROM link WHERE mapping = ?1")?;
                let numbers = all.query_map([mapping], |row| row.get(0))?;
                let others = numbers.filter(|row| row.as_ref().map_or(true, |row| !among(*row)));
                others.collect::<rusqlite::Result<Vec<i64>>>()?
            };
            let mut one = transaction
                .prepare_cached("SELECT salesforce, external, side, base, rowid FROM link WHERE rowid = ?1")?;
            numbers.into_iter().map(|row| one.query_row([row], link)).collect()
        })
    }

    /// Returns at most `limit` conflicts with a number above `after`, oldest first; only those of a sync or in a state
    /// where these are given.
    pub fn conflicts(
        &self,
        sync: Option<&str>,
        state: Option<&str>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Conflict>> {
        self.with(|db| {
            // Those that wait are few among all that were met, and have an index of their own.
            let is = if state == Some("held") { "state = 'held'" } else { "state = ?2" };
            let given = given(&[("sync = ?1", sync.is_some()), (is, state.is_some())]);
            let sql = format!(
                "SELECT {CONFLICT} FROM conflict WHERE id > ?3{given} AND ?1 IS ?1 AND ?2 IS ?2 ORDER BY id LIMIT ?4"
            );
            db.prepare_cached(&sql)?.query_map(params![sync, state, after, limit as i64], winner_of)?.collect()
        })
    }

    /// Returns how many conflicts a run decided, and how many it met that wait for a person.
    pub fn count_conflicts(&self, sync: &str, run: i64) -> Result<(u64, u64)> {
        self.with(|db| {
            let sql = "SELECT count(*) FILTER (WHERE state = 'decided'), count(*) FILTER (WHERE state = 'held')
                       FROM conflict WHERE sync = ?1 AND run = ?2";
            db.query_row(sql, params![sync, run], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
            })
        })
    }

    /// Returns one conflict.
    pub fn conflict(&self, id: i64) -> Result<Option<Conflict>> {
        let sql = format!("SELECT {CONFLICT} FROM conflict WHERE id = ?1");
        self.with(|db| db.query_row(&sql, [id], winner_of).optional())
    }

    /// Notes who wins a held conflict, for the next run to carry out; false when it is not held (any more).
    pub fn resolve(&self, id: i64, winner: Side) -> Result<bool> {
        let winner = if winner == Side::Salesforce { "salesforce" } else { "external" };
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql =
                "UPDATE conflict SET winner = ?2, state = 'resolved' WHERE id = ?1 AND state IN ('held', 'resolved')
                       RETURNING sync, run, salesforce, field";
            let resolved = transaction
                .query_row(sql, params![id, winner], |row| {
                    let (record, field): (String, String) = (row.get(2)?, row.get(3)?);
                    let told = json!({"conflict": id, "winner": winner, "record": record, "field": field});
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, told))
                })
                .optional()?;
            if let Some((sync, run, told)) = &resolved {
                audit::append(&transaction, &self.actor, Happened::ConflictResolved, Some(sync), Some(*run), told)?;
            }
            transaction.commit()?;
            Ok(resolved.is_some())
        })
    }
}

/// Returns the numbers of the links, in their order.
fn write(db: &Transaction<'_>, sync: &str, mapping: &str, run: i64, commit: &PairCommit) -> rusqlite::Result<Vec<i64>> {
    let mut unlink = db.prepare_cached("DELETE FROM link WHERE mapping = ?1 AND salesforce = ?2 AND external = ?3")?;
    let mut forget = db.prepare_cached("DELETE FROM link_value WHERE mapping = ?1 AND salesforce = ?2")?;
    for link in &commit.unlinked {
        unlink.execute(params![mapping, link.salesforce, link.external])?;
        forget.execute([mapping, &link.salesforce])?;
    }
    let mut renew = db.prepare_cached(
        "UPDATE link SET base = ?5 WHERE rowid = ?1 AND mapping = ?2 AND salesforce = ?3 AND external = ?4",
    )?;
    // A record that was made anew takes the place of the one that its counterpart was tied to.
    let mut tie = db.prepare_cached(
        "INSERT OR REPLACE INTO link (mapping, salesforce, external, side, base) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut rows = Vec::with_capacity(commit.links.len());
    let mut unmerge = db.prepare_cached("DELETE FROM merged WHERE mapping = ?1 AND external = ?2")?;
    for Link { salesforce, external, side, base, row } in &commit.links {
        if *row > 0 && renew.execute(params![row, mapping, salesforce, external, base])? > 0 {
            rows.push(*row);
            continue;
        }
        tie.execute(params![mapping, salesforce, external, side_number(*side), base])?;
        rows.push(db.last_insert_rowid());
        unmerge.execute([mapping, external])?;
    }
    let mut merge =
        db.prepare_cached("INSERT OR REPLACE INTO merged (mapping, external, into_external) VALUES (?1, ?2, ?3)")?;
    for (external, into) in &commit.merged {
        merge.execute([mapping, external, into])?;
    }
    let mut keep =
        db.prepare_cached("INSERT OR REPLACE INTO link_value (mapping, salesforce, body) VALUES (?1, ?2, ?3)")?;
    for (salesforce, body) in &commit.values {
        keep.execute([mapping, salesforce, body])?;
    }
    let mut settle =
        db.prepare_cached("DELETE FROM intent WHERE mapping = ?1 AND salesforce = ?2 AND external = ?3")?;
    for (salesforce, external) in &commit.settled {
        settle.execute([mapping, salesforce, external])?;
    }
    let mut withdraw = db.prepare_cached("DELETE FROM conflict WHERE id = ?1 AND state = 'decided'")?;
    for id in &commit.withdrawn {
        withdraw.execute([id])?;
    }
    let mut unwrite = db.prepare_cached("DELETE FROM image WHERE id = ?1")?;
    for id in &commit.unwritten {
        unwrite.execute([id])?;
    }
    let mut done = db.prepare_cached(
        "UPDATE conflict SET state = 'done' WHERE sync = ?1 AND salesforce = ?2 AND field = ?3 AND state IN ('held', 'resolved')",
    )?;
    for (salesforce, field) in &commit.done {
        done.execute([sync, salesforce, field])?;
    }
    let mut visited = db.prepare_cached("DELETE FROM revisit WHERE sync = ?1 AND side = ?2 AND key = ?3")?;
    let mut buried = db.prepare_cached("DELETE FROM dead_letter WHERE sync = ?1 AND key = ?2")?;
    for (side, key) in &commit.visited {
        visited.execute(params![sync, side_number(*side), key])?;
        buried.execute([sync, &letter_key(*side, key)])?;
    }
    let mut revisit =
        db.prepare_cached("INSERT OR REPLACE INTO revisit (sync, side, key, soon) VALUES (?1, ?2, ?3, ?4)")?;
    for Revisit { side, key, soon } in &commit.revisit {
        revisit.execute(params![sync, side_number(*side), key, soon])?;
    }
    let mut dead = db.prepare_cached(
        "INSERT INTO dead_letter (sync, run, state, key, op, record, code, message, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for DeadLetter { state, key, op, record, code, message, at, .. } in &commit.dead {
        buried.execute([sync, key])?;
        dead.execute(params![sync, run, state, key, op, record, code, message, at])?;
    }
    Ok(rows)
}
