//! `bridgehead dead-letters`: changes that could not be applied, looked at, mended, tried again, forgotten.

use std::collections::BTreeMap;

use model::Class;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use server::RunWanted;
use state::DeadLetter;

use crate::Failure;
use crate::commands::{json as print, still_dead, table};
use crate::desk::{Desk, part};
use crate::remote;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Arguments {
    /// List them.
    List {
        /// Only those of this sync.
        sync: Option<String>,
        /// Most to list.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Show one whole.
    Show {
        /// Its number.
        id: i64,
    },
    /// Give the record of one other values; what its source holds counts again as soon as it changes there.
    Mend {
        /// Its number.
        id: i64,
        /// The values.
        #[arg(value_name = "FIELD=VALUE", value_parser = field)]
        values: Vec<(String, String)>,
        /// A field that is to be empty.
        #[arg(long, value_name = "FIELD")]
        empty: Vec<String>,
    },
    /// Try those of a sync again.
    Replay {
        /// The sync.
        sync: String,
    },
    /// Forget one for good.
    Drop {
        /// Its number.
        id: i64,
    },
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("write it as FIELD=VALUE; {text:?} is not"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// How many wait.
#[derive(Debug, Deserialize)]
struct Counts {
    dead: u64,
    parked: u64,
}

async fn counts(desk: &Desk, sync: Option<&str>) -> Result<Counts, Failure> {
    let of = sync.map(|sync| format!("&sync={}", part(sync))).unwrap_or_default();
    desk.get(&format!("dead-letters?limit=1{of}")).await
}

pub(crate) async fn list(desk: &Desk, sync: Option<&str>, limit: usize, as_json: bool) -> Result<(), Failure> {
    let letters: Vec<DeadLetter> = desk.list("dead-letters", "dead_letters", &[("sync", sync)], limit).await?;
    if as_json {
        return print(&letters);
    }
    if letters.is_empty() {
        println!("There are no dead letters.");
        return Ok(());
    }
    let mut rows = table(&["number", "sync", "state", "key", "reason"]);
    let shown = letters.len() as u64;
    for letter in letters {
        let reason = format!("{}: {}", letter.code, letter.message);
        rows.add_row([letter.id.to_string(), letter.sync, letter.state, letter.key, reason]);
    }
    println!("{rows}");
    let Counts { dead, parked } = counts(desk, sync).await?;
    if dead + parked > shown {
        println!("... and {} more; --limit shows them", dead + parked - shown);
    }
    Ok(())
}

fn tell(letter: &DeadLetter) {
    println!("{} {} of {} in run {}, {}", letter.state, letter.op, letter.sync, letter.run, letter.at);
    println!("{}: {}", letter.code, letter.message);
    let record: Map<String, Value> = serde_json::from_str(&letter.record).unwrap_or_default();
    for (field, value) in record {
        println!("  {field} = {value}");
    }
}

pub(crate) async fn run(desk: &Desk, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { sync, limit, json } => list(desk, sync.as_deref(), limit, json).await,
        Arguments::Show { id } => {
            tell(&desk.get(&format!("dead-letters/{id}")).await?);
            Ok(())
        }
        Arguments::Mend { id, values, empty } => {
            if values.is_empty() && empty.is_empty() {
                return Err(Failure::new(Class::Mapping, "say what it is to hold: FIELD=VALUE, or --empty FIELD"));
            }
            let given = values.into_iter().map(|(name, value)| (name, Some(value)));
            let fields: BTreeMap<String, Option<String>> =
                given.chain(empty.into_iter().map(|name| (name, None))).collect();
            let letter: DeadLetter = desk.post(&format!("dead-letters/{id}/mend"), &json!({"fields": fields})).await?;
            tell(&letter);
            println!("`bridgehead dead-letters replay {}` tries it again.", letter.sync);
            Ok(())
        }
        Arguments::Replay { sync } => {
            let wanted = RunWanted { replay: true, ..RunWanted::default() };
            remote::run(desk, std::slice::from_ref(&sync), &wanted, false).await?;
            still_dead(&sync, counts(desk, Some(&sync)).await?.dead)
        }
        Arguments::Drop { id } => {
            let _: Value = desk.delete(&format!("dead-letters/{id}")).await?;
            println!("Dropped {id}.");
            Ok(())
        }
    }
}
