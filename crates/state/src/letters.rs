//! Changes that could not be applied: kept whole until they are replayed, mended or dropped.

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::audit::{self, Happened};
use crate::{Result, Store, given};

/// A change that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number; 0 before it is stored.
    pub id: i64,
    /// The sync.
    pub sync: String,
    /// The run that met it.
    pub run: i64,
    /// `dead`, or `parked` while it waits for its parent.
    pub state: String,
    /// Key of the record in the source.
    pub key: String,
    /// `upsert` or `delete`.
    pub op: String,
    /// The whole source record, as a JSON object of texts and nulls.
    pub record: String,
    /// Code of the reason.
    pub code: String,
    /// The reason.
    pub message: String,
    /// When, in RFC 3339.
    pub at: String,
}

/// Which dead letters are wanted; what is `None` does not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct WantedLetters<'w> {
    /// Those of this sync.
    pub sync: Option<&'w str>,
    /// Those in this state.
    pub state: Option<&'w str>,
    /// Those with this reason.
    pub code: Option<&'w str>,
}

/// Why a dead letter can't be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unedited {
    /// There is none of this number.
    Gone,
    /// It was changed, or tried again, since it was looked at.
    Moved,
    /// The new record is no JSON object of texts and nulls with the fields of the old one.
    Misshapen(String),
}

fn dead_letter(row: &rusqlite::Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        sync: row.get(1)?,
        run: row.get(2)?,
        state: row.get(3)?,
        key: row.get(4)?,
        op: row.get(5)?,
        record: row.get(6)?,
        code: row.get(7)?,
        message: row.get(8)?,
        at: row.get(9)?,
    })
}

impl Store {
    /// Returns for each sync that has any the number of its dead letters, and of its parked changes.
    pub fn letters_by_sync(&self) -> Result<HashMap<String, (u64, u64)>> {
        self.with(|db| {
            let sql = "SELECT sync, count(*) FILTER (WHERE state = 'dead'), count(*) FILTER (WHERE state = 'parked')
                       FROM dead_letter GROUP BY sync";
            let counts = |row: &rusqlite::Row<'_>| {
                Ok((row.get(0)?, (row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, i64>(2)?.cast_unsigned())))
            };
            db.prepare_cached(sql)?.query_map([], counts)?.collect()
        })
    }

    /// Returns at most `limit` dead letters with a number above `after`, oldest first.
    pub fn dead_letters(&self, wanted: WantedLetters<'_>, after: i64, limit: usize) -> Result<Vec<DeadLetter>> {
        let WantedLetters { sync, state, code } = wanted;
        self.with(|db| {
            let given =
                given(&[("sync = ?1", sync.is_some()), ("state = ?2", state.is_some()), ("code = ?5", code.is_some())]);
            let sql = format!(
                "SELECT id, sync, run, state, key, op, record, code, message, at FROM dead_letter
                 WHERE id > ?3{given} AND ?1 IS ?1 AND ?2 IS ?2 AND ?5 IS ?5 ORDER BY id LIMIT ?4"
            );
            db.prepare_cached(&sql)?.query_map(params![sync, state, after, limit as i64, code], dead_letter)?.collect()
        })
    }

    /// Returns the reasons that dead letters have, each with how many have it, the most frequent first; only those of `sync` where
    /// one is given.
    pub fn letter_codes(&self, sync: Option<&str>) -> Result<Vec<(String, u64)>> {
        self.with(|db| {
            let sql =
                "SELECT code, count(*) FROM dead_letter WHERE ?1 IS NULL OR sync = ?1 GROUP BY code ORDER BY 2 DESC, 1";
            let count = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()));
            db.prepare_cached(sql)?.query_map([sync], count)?.collect()
        })
    }

    /// Returns one dead letter.
    pub fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>> {
        self.with(|db| {
            let sql = "SELECT id, sync, run, state, key, op, record, code, message, at FROM dead_letter WHERE id = ?1";
            db.query_row(sql, [id], dead_letter).optional()
        })
    }

    /// Returns what the dead letters of a sync with this reason are known by.
    pub fn letters_for(&self, sync: &str, code: &str) -> Result<Vec<String>> {
        self.with(|db| {
            db.prepare_cached("SELECT key FROM dead_letter WHERE sync = ?1 AND code = ?2")?
                .query_map([sync, code], |row| row.get(0))?
                .collect()
        })
    }

    /// Returns the number of the newest dead letter; 0 when there is none.
    pub fn last_dead_letter(&self) -> Result<i64> {
        self.with(|db| db.query_row("SELECT coalesce(max(id), 0) FROM dead_letter", [], |row| row.get(0)))
    }

    /// Returns the number of dead letters, those that are parked apart.
    pub fn count_dead_letters(&self, sync: Option<&str>) -> Result<(u64, u64)> {
        self.with(|db| {
            let sql = "SELECT count(*) FILTER (WHERE state = 'dead'), count(*) FILTER (WHERE state = 'parked')
                       FROM dead_letter WHERE ?1 IS NULL OR sync = ?1";
            db.query_row(sql, [sync], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()))
            })
        })
    }

    /// Forgets a dead letter; false when there is none of this number.
    pub fn drop_dead_letter(&self, id: i64) -> Result<bool> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "DELETE FROM dead_letter WHERE id = ?1 RETURNING sync, run, key, code";
            let gone = transaction
                .query_row(sql, [id], |row| {
                    let (sync, run): (String, i64) = (row.get(0)?, row.get(1)?);
                    Ok((
                        sync,
                        run,
                        json!({"dead_letter": id, "key": row.get::<_, String>(2)?, "code": row.get::<_, String>(3)?}),
                    ))
                })
                .optional()?;
            if let Some((sync, run, told)) = &gone {
                audit::append(&transaction, &self.actor, Happened::DeadLetterDropped, Some(sync), Some(*run), told)?;
            }
            transaction.commit()?;
            Ok(gone.is_some())
        })
    }

    /// Returns the dead letters of a sync whose record has one of these keys.
    pub fn letters_of(&self, sync: &str, keys: &[&str]) -> Result<Vec<DeadLetter>> {
        self.with(|db| {
            let sql = "SELECT id, sync, run, state, key, op, record, code, message, at FROM dead_letter
                       WHERE sync = ?1 AND key = ?2";
            let mut statement = db.prepare_cached(sql)?;
            let mut found = Vec::new();
            for key in keys {
                for letter in statement.query_map([sync, key], dead_letter)? {
                    found.push(letter?);
                }
            }
            Ok(found)
        })
    }

    /// Gives a dead letter another record, if it still has the one that was looked at. The audit chain names the fields that
    /// changed, and no value.
    pub fn edit_dead_letter(&self, id: i64, known: &str, record: &str) -> Result<std::result::Result<(), Unedited>> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "SELECT sync, run, key, record FROM dead_letter WHERE id = ?1";
            let found = transaction.query_row(sql, [id], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, String>(3)?,
                ))
            });
            let Some((sync, run, key, old)) = found.optional()? else { return Ok(Err(Unedited::Gone)) };
            if old != known {
                return Ok(Err(Unedited::Moved));
            }
            let changed = match changed(&old, record) {
                Ok(changed) => changed,
                Err(what) => return Ok(Err(Unedited::Misshapen(what))),
            };
            transaction.execute(
                "UPDATE dead_letter SET record = ?2, source = coalesce(source, record) WHERE id = ?1",
                params![id, record],
            )?;
            let told = json!({"dead_letter": id, "key": key, "fields": changed});
            audit::append(&transaction, &self.actor, Happened::DeadLetterEdited, Some(&sync), Some(run), &told)?;
            transaction.commit()?;
            Ok(Ok(()))
        })
    }
}

/// Returns the names of the fields that differ; a record has to keep its fields, and they are texts or null.
fn changed(old: &str, new: &str) -> std::result::Result<Vec<String>, String> {
    let old: Map<String, Value> = serde_json::from_str(old).unwrap_or_default();
    let new: Map<String, Value> =
        serde_json::from_str(new).map_err(|error| format!("it is no JSON object: {error}"))?;
    if let Some((name, _)) = new.iter().find(|(_, value)| !value.is_string() && !value.is_null()) {
        return Err(format!("{name} is neither a text nor null"));
    }
    if let Some(name) = old.keys().find(|name| !new.contains_key(*name)) {
        return Err(format!("{name} is missing; null clears it"));
    }
    if let Some(name) = new.keys().find(|name| !old.contains_key(*name)) {
        return Err(format!("{name} is no field of this record"));
    }
    Ok(new.iter().filter(|(name, value)| old.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect())
}
