//! What is known of single records: their links, and what was written to them.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit;
use crate::{Conflict, Image, Link, Result, Store, link, side_number};
use model::Side;

/// How long is known what was written to records, in days.
pub const IMAGE_DAYS: i64 = 30;

/// A write to a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The run that wrote.
    pub run: i64,
    /// Its sync.
    pub sync: String,
    /// When it began, in RFC 3339.
    pub at: String,
    /// The version of the configuration it worked by, where it was a deployed one.
    pub version: Option<i64>,
    /// The side that was written.
    pub side: Side,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The fields as they were, as far as that is known, as a JSON object.
    pub before: String,
    /// The fields as they were written, likewise.
    pub after: String,
}

/// Notes what was written to records of a run, in the transaction that is open. What was there before is what was written
/// last, as far as that was kept.
pub(crate) fn note_images(db: &Connection, run: i64, images: &[Image]) -> rusqlite::Result<()> {
    let mut last =
        db.prepare_cached("SELECT after FROM image WHERE external = ?1 AND side = ?2 ORDER BY id DESC LIMIT 1")?;
    let mut note = db.prepare_cached(
        "INSERT INTO image (run, side, salesforce, external, op, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for Image { side, salesforce, external, op, before, after } in images {
        let known: Option<String> = match op.as_str() {
            "insert" => None,
            _ => last.query_row(params![external, side_number(*side)], |row| row.get(0)).optional()?,
        };
        let before = known.as_ref().unwrap_or(before);
        note.execute(params![run, side_number(*side), salesforce, external, op, before, after])?;
    }
    Ok(())
}

/// Returns how many writes of a run are kept, and the SHA-256 over them in their order.
pub(crate) fn print_of_images(db: &Connection, run: i64) -> rusqlite::Result<(u64, String)> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let sql = "SELECT side, salesforce, external, op, before, after FROM image WHERE run = ?1 ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([run])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        context.update(&row.get::<_, i64>(0)?.to_le_bytes());
        for column in 1..6 {
            let text = row.get_ref(column)?.as_str().unwrap_or_default();
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
    }
    Ok((count, audit::hex(context.finish().as_ref())))
}

impl Store {
    /// Returns the links of a mapping whose record has this key on either side; a Salesforce id may be given with 15 characters.
    pub fn links_of(&self, mapping: &str, key: &str) -> Result<Vec<Link>> {
        self.with(|db| {
            let sql = "SELECT salesforce, external, side, base, rowid FROM link WHERE mapping = ?1 AND external = ?2
                       UNION SELECT salesforce, external, side, base, rowid FROM link
                       WHERE mapping = ?1 AND salesforce >= ?2 AND salesforce <= ?2 || ?3";
            // What tells the case of an id's letters is three characters more.
            let more = if key.len() == 15 { "ZZZ" } else { "" };
            db.prepare_cached(sql)?.query_map([mapping, key, more], link)?.collect()
        })
    }

    /// Returns what was written to a record and its counterpart, newest first, at most `limit`.
    pub fn history(&self, link: &Link, limit: u32) -> Result<Vec<Written>> {
        self.with(|db| {
            let sql = "SELECT image.run, run.sync, run.started, run.body, side, op, before, after
                       FROM image JOIN run ON run.id = image.run
                       WHERE external = ?1 AND (salesforce = ?2 OR salesforce = '') ORDER BY image.id DESC LIMIT ?3";
            let written = |row: &rusqlite::Row<'_>| {
                let report: Value =
                    serde_json::from_str(row.get_ref(3)?.as_str().unwrap_or_default()).unwrap_or_default();
                Ok(Written {
                    run: row.get(0)?,
                    sync: row.get(1)?,
                    at: row.get(2)?,
                    version: report["version"].as_i64(),
                    side: if row.get::<_, i64>(4)? == 0 { Side::Salesforce } else { Side::External },
                    op: row.get(5)?,
                    before: row.get(6)?,
                    after: row.get(7)?,
                })
            };
            db.prepare_cached(sql)?.query_map(params![link.external, link.salesforce, limit], written)?.collect()
        })
    }

    /// Returns the conflicts of a pair, newest first, at most `limit`.
    pub fn conflicts_of(&self, link: &Link, limit: u32) -> Result<Vec<Conflict>> {
        self.with(|db| {
            let sql = format!(
                "SELECT {} FROM conflict WHERE salesforce = ?1 AND external = ?2 ORDER BY id DESC LIMIT ?3",
                crate::pairs::CONFLICT
            );
            db.prepare_cached(&sql)?
                .query_map(params![link.salesforce, link.external, limit], crate::pairs::winner_of)?
                .collect()
        })
    }
}
