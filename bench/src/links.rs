//! `bench links [COUNT]`: links written and looked up in batches, as they become many, beside what SQLite alone takes for
//! the same rows.

use std::time::{Duration, Instant};

use model::Side;
use rusqlite::{Connection, params};
use state::{Link, PairCommit, Store};

use crate::{Failed, per_second, status};

/// Links of a batch, as two-way syncs settle them.
const BATCH: usize = 2_000;
/// Bytes of a base: ten fields that look alike on both sides.
const BASE: usize = 87;
/// Links between two lines.
const STEP: usize = 1_000_000;

fn link(at: usize) -> Link {
    // Keys of the system outside come in no order.
    let scattered = (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut base = vec![0; BASE];
    base[..8].copy_from_slice(&scattered.to_le_bytes());
    Link {
        salesforce: format!("001Sb{at:010}IAA"),
        external: format!("{scattered:016x}"),
        side: Side::External,
        base,
        row: 0,
    }
}

pub(crate) fn run(count: usize) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.db");
    let store = Store::open(&path)?;
    let mut alone = Duration::ZERO;
    let mut raw = Connection::open(folder.path().join("raw.db"))?;
    raw.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         CREATE TABLE link (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, external TEXT NOT NULL, side INTEGER NOT NULL,
                            base BLOB NOT NULL, seen INTEGER NOT NULL, UNIQUE (mapping, salesforce), UNIQUE (mapping, external))",
    )?;
    for from in (0..count).step_by(STEP) {
        let to = (from + STEP).min(count);
        let mut ours = Duration::ZERO;
        for start in (from..to).step_by(BATCH) {
            let links: Vec<Link> = (start..(start + BATCH).min(to)).map(link).collect();
            let begun = Instant::now();
            let transaction = raw.transaction()?;
            {
                let mut insert = transaction.prepare_cached("INSERT INTO link VALUES ('m', ?1, ?2, ?3, ?4, 1)")?;
                for Link { salesforce, external, base, .. } in &links {
                    insert.execute(params![salesforce, external, 1, base])?;
                }
            }
            transaction.commit()?;
            alone += begun.elapsed();
            let begun = Instant::now();
            store.commit_pairs("s", "m", 1, &PairCommit { links, ..PairCommit::default() })?;
            ours += begun.elapsed();
        }
        let mut found = 0;
        let begun = Instant::now();
        for start in (0..STEP / 10).step_by(BATCH) {
            let keys: Vec<String> = (start..start + BATCH).map(|at| link(at * 7_919 % to).external).collect();
            let names: Vec<&str> = keys.iter().map(String::as_str).collect();
            found += store.links("m", Side::External, &names)?.len();
        }
        per_second(&format!("links written, up to {to}"), (to - from) as u64, ours);
        per_second("  SQLite alone", (to - from) as u64, alone);
        per_second("  looked up, anywhere among them", found as u64, begun.elapsed());
        println!(
            "  ratio to SQLite alone: {:.2}; memory: {} MB now, {} MB at most",
            alone.as_secs_f64() / ours.as_secs_f64(),
            status("VmRSS:"),
            status("VmHWM:")
        );
        alone = Duration::ZERO;
    }
    println!("state: {:.0} bytes a link", std::fs::metadata(&path)?.len() as f64 / count as f64);
    Ok(())
}
