//! Alerts that hold, and whether people were told.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Happened};
use crate::{Result, Run, Store, run};

/// An alert that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What the rule is about.
    pub rule: String,
    /// The sync.
    pub sync: String,
    /// Since when, in RFC 3339.
    pub since: String,
    /// What is wrong.
    pub text: String,
    /// True when people were told.
    pub told: bool,
}

impl Store {
    /// Returns the alerts that hold, oldest first.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        self.with(|db| {
            let sql = "SELECT rule, sync, since, text, told FROM alert ORDER BY since, rule, sync";
            let alert = |row: &rusqlite::Row<'_>| {
                Ok(Alert {
                    rule: row.get(0)?,
                    sync: row.get(1)?,
                    since: row.get(2)?,
                    text: row.get(3)?,
                    told: row.get(4)?,
                })
            };
            db.prepare_cached(sql)?.query_map([], alert)?.collect()
        })
    }

    /// Notes an alert that begins to hold.
    pub fn raise_alert(&self, alert: &Alert) -> Result<()> {
        self.change_alert(alert, Happened::AlertRaised, |db| {
            let sql = "INSERT OR REPLACE INTO alert (rule, sync, since, text, told) VALUES (?1, ?2, ?3, ?4, 0)";
            db.execute(sql, params![alert.rule, alert.sync, alert.since, alert.text])
        })
    }

    /// Notes that people were told of an alert.
    pub fn told_alert(&self, alert: &Alert) -> Result<()> {
        self.with(|db| {
            let sql = "UPDATE alert SET told = 1 WHERE rule = ?1 AND sync = ?2";
            db.execute(sql, [&alert.rule, &alert.sync]).map(drop)
        })
    }

    /// Forgets an alert that is over.
    pub fn clear_alert(&self, alert: &Alert) -> Result<()> {
        self.change_alert(alert, Happened::AlertOver, |db| {
            db.execute("DELETE FROM alert WHERE rule = ?1 AND sync = ?2", [&alert.rule, &alert.sync])
        })
    }

    fn change_alert(
        &self,
        alert: &Alert,
        what: Happened,
        change: impl Fn(&rusqlite::Connection) -> rusqlite::Result<usize>,
    ) -> Result<()> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            change(&transaction)?;
            let told = json!({"alert": alert.rule, "since": alert.since});
            audit::append(&transaction, &self.actor, what, Some(&alert.sync), None, &told)?;
            transaction.commit()
        })
    }

    /// Returns the newest run of each sync that ended, by its name.
    pub fn last_ended_runs(&self) -> Result<HashMap<String, Run>> {
        self.with(|db| {
            let sql = "SELECT id, sync, started, ended, outcome, body FROM run
                       WHERE id IN (SELECT max(id) FROM run WHERE outcome != 'running' GROUP BY sync)";
            db.prepare_cached(sql)?.query_map([], |row| run(row).map(|run| (run.sync.clone(), run)))?.collect()
        })
    }

    /// Returns when a run of each sync ended last that went well, in RFC 3339.
    pub fn last_good_runs(&self) -> Result<BTreeMap<String, String>> {
        self.with(|db| {
            let sql = "SELECT sync, ended FROM run
                       WHERE id IN (SELECT max(id) FROM run WHERE outcome = 'green' GROUP BY sync)";
            db.prepare_cached(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
    }

    /// Returns the syncs whose newest comparison found a difference.
    pub fn differing_syncs(&self) -> Result<HashSet<String>> {
        self.with(|db| {
            let sql = "SELECT sync FROM reconciliation
                       WHERE id IN (SELECT max(id) FROM reconciliation GROUP BY sync) AND NOT agrees";
            db.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect()
        })
    }
}
