//! `bridgehead audit`: what happened and who did it, and the proof that nothing of it was changed.

use model::Class;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use state::AuditEntry;

use crate::Failure;
use crate::commands::{json, moment, table};
use crate::desk::{Desk, part};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Arguments {
    /// List the newest entries.
    List {
        /// Only those of this sync.
        #[arg(long)]
        sync: Option<String>,
        /// Only those of this run.
        #[arg(long)]
        run: Option<i64>,
        /// Only those in which this happened, such as `run_ended` or `conflict_resolved`.
        #[arg(long)]
        what: Option<String>,
        /// Most to list.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// One JSON object per entry, instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Look at every entry and say whether the chain is whole.
    Verify {
        /// The head that an earlier verification told, which has to be in the chain.
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
    /// Print all entries, oldest first, one JSON object each.
    Export {
        /// Only those behind this number.
        #[arg(long, default_value_t = 0)]
        after: i64,
    },
    /// Remove old entries; an entry tells which they were.
    Prune {
        /// Those written before this date, such as 2026-01-31, or time in UTC.
        #[arg(long)]
        before: String,
    },
}

pub(crate) async fn run(desk: &Desk, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { sync, run, what, limit, json } => {
            let run = run.map(|run| run.to_string());
            let query = [("sync", sync.as_deref()), ("what", what.as_deref()), ("run", run.as_deref())];
            list(desk, &query, limit, json).await
        }
        Arguments::Verify { head } => verify(desk, head.as_deref()).await,
        Arguments::Export { after } => export(desk, after).await,
        Arguments::Prune { before } => prune(desk, &before).await,
    }
}

/// An entry, as the admin API tells it.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: i64,
    at: String,
    actor: String,
    what: String,
    sync: Option<String>,
    run: Option<i64>,
    /// More about it: an object.
    more: Value,
    hash: String,
}

async fn list(desk: &Desk, query: &[(&str, Option<&str>)], limit: usize, as_json: bool) -> Result<(), Failure> {
    let entries: Vec<Entry> = desk.list("audit", "entries", query, limit).await?;
    if as_json {
        return entries.iter().try_for_each(json);
    }
    if entries.is_empty() {
        println!("There are no such entries.");
        return Ok(());
    }
    let mut rows = table(&["number", "at", "who", "what", "sync", "run", "more"]);
    for entry in entries {
        let run = entry.run.map(|run| run.to_string()).unwrap_or_default();
        let more =
            if entry.more.as_object().is_none_or(Map::is_empty) { String::new() } else { entry.more.to_string() };
        let at = moment(&entry.at);
        rows.add_row([entry.id.to_string(), at, entry.actor, entry.what, entry.sync.unwrap_or_default(), run, more]);
    }
    println!("{rows}");
    Ok(())
}

/// What came of a look at the whole chain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Verified {
    whole: bool,
    /// Where it is broken, and what is wrong there.
    entry: i64,
    what: String,
    entries: u64,
    first: i64,
    last: i64,
    head: String,
    /// Whether it has the hash that was asked for.
    has_head: Option<bool>,
}

async fn verify(desk: &Desk, head: Option<&str>) -> Result<(), Failure> {
    let broken = |text: String| Err(Failure::new(Class::Internal, text));
    let query = head.map(|head| format!("?head={}", part(head))).unwrap_or_default();
    let told: Verified = desk.get(&format!("audit/verify{query}")).await?;
    if !told.whole {
        return broken(format!("the audit chain is broken at entry {}: {}", told.entry, told.what));
    }
    if let (Some(head), Some(false)) = (head, told.has_head) {
        return broken(format!("the audit chain is whole, and it is another one: no entry has the hash {head}"));
    }
    println!(
        "The audit chain is whole: {} entries, {} to {}. Its head is {}; keep it elsewhere, and `audit verify --head` tells \
         a chain that was made anew.",
        told.entries, told.first, told.last, told.head
    );
    Ok(())
}

async fn export(desk: &Desk, mut after: i64) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Page {
        entries: Vec<AuditEntry>,
    }
    loop {
        let Page { entries } = desk.get(&format!("audit/export?after={after}")).await?;
        let Some(last) = entries.last() else { return Ok(()) };
        after = last.id;
        entries.iter().try_for_each(json)?;
    }
}

async fn prune(desk: &Desk, before: &str) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Pruned {
        removed: u64,
    }
    let Pruned { removed } = desk.post("audit/prune", &serde_json::json!({"before": before})).await?;
    println!("{removed} entries were removed; the chain says so, and with which hash they ended.");
    Ok(())
}
