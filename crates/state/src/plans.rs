//! When syncs are to run, which are paused, and what came of comparing their sides.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Happened};
use crate::{Result, Store};

/// Comparisons of a sync that are kept.
pub const RECONCILIATIONS: u32 = 100;

/// What came of comparing both sides of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Its number.
    pub id: i64,
    /// The sync.
    pub sync: String,
    /// When it began, in RFC 3339.
    pub at: String,
    /// True when both sides held the same.
    pub agrees: bool,
    /// Counts and samples, as JSON.
    pub body: String,
}

fn reconciled(row: &rusqlite::Row<'_>) -> rusqlite::Result<Reconciled> {
    Ok(Reconciled { id: row.get(0)?, sync: row.get(1)?, at: row.get(2)?, agrees: row.get(3)?, body: row.get(4)? })
}

impl Store {
    /// Keeps what came of comparing both sides of a sync, and returns its number; of each sync the newest
    /// [`RECONCILIATIONS`] are kept.
    pub fn keep_reconciliation(&self, sync: &str, at: &str, agrees: bool, body: &str) -> Result<i64> {
        self.with(|db| {
            let transaction = db.transaction()?;
            let sql = "INSERT INTO reconciliation (sync, at, agrees, body) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, params![sync, at, agrees, body])?;
            let id = transaction.last_insert_rowid();
            let sql = "DELETE FROM reconciliation WHERE sync = ?1 AND id <= (SELECT id FROM reconciliation
                       WHERE sync = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
            transaction.execute(sql, params![sync, RECONCILIATIONS])?;
            let told = json!({"reconciliation": id, "agrees": agrees});
            audit::append(&transaction, &self.actor, Happened::Reconciled, Some(sync), None, &told)?;
            transaction.commit()?;
            Ok(id)
        })
    }

    /// Returns what came of one comparison.
    pub fn reconciliation(&self, id: i64) -> Result<Option<Reconciled>> {
        self.with(|db| {
            let sql = "SELECT id, sync, at, agrees, body FROM reconciliation WHERE id = ?1";
            db.query_row(sql, [id], reconciled).optional()
        })
    }

    /// Returns what came of the newest comparisons, newest first; only those of `sync` where it is given.
    pub fn reconciliations(&self, sync: Option<&str>, before: i64, limit: u32) -> Result<Vec<Reconciled>> {
        self.with(|db| {
            let sql =
                "SELECT id, sync, at, agrees, body FROM reconciliation WHERE (?1 IS NULL OR sync = ?1) AND id < ?3
                       ORDER BY id DESC LIMIT ?2";
            db.prepare_cached(sql)?.query_map(params![sync, limit, before], reconciled)?.collect()
        })
    }

    /// Returns when each sync is to run next, as far as that was planned.
    pub fn planned(&self) -> Result<HashMap<String, DateTime<Utc>>> {
        self.with(|db| {
            let mut planned = HashMap::new();
            let mut statement = db.prepare_cached("SELECT sync, due FROM planned")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (sync, due): (String, String) = (row.get(0)?, row.get(1)?);
                planned.extend(DateTime::parse_from_rfc3339(&due).ok().map(|due| (sync, due.to_utc())));
            }
            Ok(planned)
        })
    }

    /// Plans when a sync is to run next.
    pub fn plan(&self, sync: &str, due: DateTime<Utc>) -> Result<()> {
        self.with(|db| {
            let sql = "INSERT OR REPLACE INTO planned (sync, due) VALUES (?1, ?2)";
            db.execute(sql, params![sync, due.to_rfc3339()]).map(drop)
        })
    }

    /// Returns the syncs that are paused, with why.
    pub fn paused(&self) -> Result<HashMap<String, String>> {
        self.with(|db| {
            let mut statement = db.prepare_cached("SELECT sync, why FROM paused")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// Pauses a sync: nothing schedules it.
    pub fn pause(&self, sync: &str, why: &str) -> Result<()> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "INSERT OR REPLACE INTO paused (sync, at, why) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, params![sync, Utc::now().to_rfc3339(), why])?;
            audit::append(&transaction, &self.actor, Happened::Paused, Some(sync), None, &json!({"why": why}))?;
            transaction.commit()
        })
    }

    /// Lets a paused sync go on; false if it was not paused.
    pub fn resume(&self, sync: &str) -> Result<bool> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let paused = transaction.execute("DELETE FROM paused WHERE sync = ?1", [sync])? > 0;
            if paused {
                audit::append(&transaction, &self.actor, Happened::Resumed, Some(sync), None, &json!({}))?;
            }
            transaction.commit()?;
            Ok(paused)
        })
    }
}
