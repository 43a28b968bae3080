//! Versions of the configuration: each is kept whole, and the one that is at work is that which was put to work last.

use std::collections::BTreeMap;

use chrono::Utc;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Happened};
use crate::{Result, Store};

/// A version of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub id: i64,
    /// When it was kept, in RFC 3339.
    pub at: String,
    /// Who kept it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// True for the one that is at work.
    pub at_work: bool,
}

/// The files of a configuration: text by path, relative to the project.
pub type Files = BTreeMap<String, String>;

const AT_WORK: &str = "SELECT version FROM deployment ORDER BY id DESC LIMIT 1";

fn version(row: &rusqlite::Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version { id: row.get(0)?, at: row.get(1)?, author: row.get(2)?, reason: row.get(3)?, at_work: row.get(4)? })
}

/// Puts a version to work, in the transaction that is open.
fn put_to_work(db: &Connection, actor: &str, author: &str, reason: &str, version: i64) -> rusqlite::Result<()> {
    let before: Option<i64> = db.query_row(AT_WORK, [], |row| row.get(0)).optional()?;
    let sql = "INSERT INTO deployment (version, at, author, reason) VALUES (?1, ?2, ?3, ?4)";
    db.execute(sql, params![version, Utc::now().to_rfc3339(), author, reason])?;
    let told = json!({"version": version, "before": before, "author": author, "reason": reason});
    audit::append(db, actor, Happened::Deployed, None, None, &told).map(drop)
}

impl Store {
    /// Keeps a version of the configuration and returns its number: that of the newest one, if its files are the same.
    /// `staged` ones are not put to work.
    pub fn keep_version(&self, author: &str, reason: &str, files: &Files, staged: bool) -> Result<i64> {
        let text = json!(files).to_string();
        let digest = audit::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref());
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "SELECT id FROM version WHERE digest = ?1 AND id = (SELECT max(id) FROM version)";
            let same: Option<i64> = transaction.query_row(sql, [&digest], |row| row.get(0)).optional()?;
            let id = if let Some(id) = same {
                id
            } else {
                let sql = "INSERT INTO version (at, author, reason, digest, files) VALUES (?1, ?2, ?3, ?4, ?5)";
                transaction.execute(sql, params![Utc::now().to_rfc3339(), author, reason, digest, text])?;
                let id = transaction.last_insert_rowid();
                let told = json!({"version": id, "author": author, "reason": reason, "digest": digest});
                audit::append(&transaction, &self.actor, Happened::VersionKept, None, None, &told)?;
                id
            };
            let at_work: Option<i64> = transaction.query_row(AT_WORK, [], |row| row.get(0)).optional()?;
            if !staged && at_work != Some(id) {
                put_to_work(&transaction, &self.actor, author, reason, id)?;
            }
            transaction.commit()?;
            Ok(id)
        })
    }

    /// Puts a version to work that was kept before; false where there is none of this number.
    pub fn put_to_work(&self, author: &str, reason: &str, id: i64) -> Result<bool> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "SELECT id FROM version WHERE id = ?1";
            let known: Option<i64> = transaction.query_row(sql, [id], |row| row.get(0)).optional()?;
            if known.is_some() {
                put_to_work(&transaction, &self.actor, author, reason, id)?;
            }
            transaction.commit()?;
            Ok(known.is_some())
        })
    }

    /// Returns the number of the version at work; `None` where none was ever put to work.
    pub fn version_at_work(&self) -> Result<Option<i64>> {
        self.with(|db| db.query_row(AT_WORK, [], |row| row.get(0)).optional())
    }

    /// Returns the number of the version that was at work before this one.
    pub fn version_before(&self) -> Result<Option<i64>> {
        self.with(|db| {
            let sql = format!("SELECT version FROM deployment WHERE version != ({AT_WORK}) ORDER BY id DESC LIMIT 1");
            db.query_row(&sql, [], |row| row.get(0)).optional()
        })
    }

    /// Returns when the version at work was put to work, in RFC 3339.
    pub fn at_work_since(&self) -> Result<Option<String>> {
        self.with(|db| {
            db.query_row("SELECT at FROM deployment ORDER BY id DESC LIMIT 1", [], |row| row.get(0)).optional()
        })
    }

    /// Returns at most `limit` versions with a number below `before`, newest first.
    pub fn versions(&self, before: i64, limit: u32) -> Result<Vec<Version>> {
        self.with(|db| {
            let sql = format!(
                "SELECT id, at, author, reason, id IS ({AT_WORK}) FROM version WHERE id < ?1 ORDER BY id DESC LIMIT ?2"
            );
            db.prepare_cached(&sql)?.query_map(params![before, limit], version)?.collect()
        })
    }

    /// Returns a version and its files.
    pub fn version(&self, id: i64) -> Result<Option<(Version, Files)>> {
        self.with(|db| {
            let sql = format!("SELECT id, at, author, reason, id IS ({AT_WORK}), files FROM version WHERE id = ?1");
            let found = db.query_row(&sql, [id], |row| Ok((version(row)?, row.get::<_, String>(5)?))).optional()?;
            Ok(found.map(|(version, files)| (version, serde_json::from_str(&files).unwrap_or_default())))
        })
    }
}
