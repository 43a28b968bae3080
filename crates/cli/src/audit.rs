//! `bridgehead audit`: what happened and who did it, and the proof that nothing of it was changed.

use model::Class;
use state::{Verdict, Wanted};

use crate::Failure;
use crate::commands::{json, table};
use crate::project::Project;

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
        limit: u32,
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

pub(crate) fn run(project: &Project, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { sync, run, what, limit, json } => {
            let wanted = Wanted { sync: sync.as_deref(), what: what.as_deref(), run };
            list(project, wanted, limit, json)
        }
        Arguments::Verify { head } => verify(project, head.as_deref()),
        Arguments::Export { after } => export(project, after),
        Arguments::Prune { before } => prune(project, &before),
    }
}

fn list(project: &Project, wanted: Wanted<'_>, limit: u32, as_json: bool) -> Result<(), Failure> {
    let entries = project.store.audit_entries(wanted, i64::MAX, limit)?;
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
        let at = entry.at.get(..19).unwrap_or(&entry.at).replace('T', " ");
        let more = if entry.body == "{}" { String::new() } else { entry.body };
        rows.add_row([entry.id.to_string(), at, entry.actor, entry.what, entry.sync.unwrap_or_default(), run, more]);
    }
    println!("{rows}");
    Ok(())
}

fn verify(project: &Project, head: Option<&str>) -> Result<(), Failure> {
    let verified = match project.store.verify_audit()? {
        Verdict::Whole(verified) => verified,
        Verdict::Broken { id, what } => {
            return Err(Failure::new(Class::Internal, format!("the audit chain is broken at entry {id}: {what}")));
        }
    };
    if let Some(head) = head {
        let mut after = 0;
        let known = loop {
            let page = project.store.audit_after(after)?;
            let Some(last) = page.last() else { break verified.head == head };
            if page.iter().any(|entry| entry.hash == head || entry.before == head) {
                break true;
            }
            after = last.id;
        };
        if !known {
            let text = format!("the audit chain is whole, and it is another one: no entry has the hash {head}");
            return Err(Failure::new(Class::Internal, text));
        }
    }
    println!(
        "The audit chain is whole: {} entries, {} to {}. Its head is {}; keep it elsewhere, and `audit verify --head` tells \
         a chain that was made anew.",
        verified.entries, verified.first, verified.last, verified.head
    );
    Ok(())
}

fn export(project: &Project, mut after: i64) -> Result<(), Failure> {
    loop {
        let page = project.store.audit_after(after)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        page.iter().try_for_each(json)?;
    }
}

fn prune(project: &Project, before: &str) -> Result<(), Failure> {
    let wrong = || {
        Failure::new(Class::Mapping, format!("{before:?} is no date; write it as 2026-01-31 or 2026-01-31T12:00:00Z"))
    };
    let time = match chrono::NaiveDate::parse_from_str(before, "%Y-%m-%d") {
        Ok(day) => day.and_time(chrono::NaiveTime::MIN).and_utc(),
        Err(_) => chrono::DateTime::parse_from_rfc3339(before).map_err(|_| wrong())?.to_utc(),
    };
    let gone = project.store.prune_audit(&time.to_rfc3339())?;
    println!("{gone} entries were removed; the chain says so, and with which hash they ended.");
    Ok(())
}
