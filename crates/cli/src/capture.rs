//! `bridgehead capture`: how the changes of syncs are noted outside, and how to end that.

use model::Class;
use serde::Deserialize;
use serde_json::json;
use server::Capture;

use crate::Failure;
use crate::commands::{json as print, table};
use crate::desk::{Desk, part};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Arguments {
    /// List what notes changes, and how far behind it is.
    List {
        /// One JSON object per sync, instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove what notes the changes of a sync: triggers, or publication and slot. The next run makes it again, and reads
    /// everything.
    Drop {
        /// The sync.
        sync: String,
    },
}

pub(crate) async fn run(desk: &Desk, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { json } => list(desk, json).await,
        Arguments::Drop { sync } => drop_one(desk, &sync).await,
    }
}

async fn list(desk: &Desk, as_json: bool) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Captures {
        captures: Vec<Capture>,
    }
    let Captures { captures } = desk.get("captures").await?;
    if captures.is_empty() && !as_json {
        println!("No sync has `capture` in its mapping.");
        return Ok(());
    }
    let mut rows = table(&["sync", "noted by", "log kept", "trouble"]);
    let mut failures = Vec::new();
    for Capture { sync, name, kept_bytes, trouble } in captures {
        if let (None, Some(why)) = (&name, &trouble) {
            failures.push(Failure::new(Class::Transient { after: None }, why.clone()));
            continue;
        }
        if as_json {
            let captured = name.map(|name| json!({"name": name, "kept_bytes": kept_bytes, "trouble": trouble}));
            print(&json!({"sync": sync, "capture": captured}))?;
            continue;
        }
        let kept = kept_bytes.map(|bytes| indicatif::HumanBytes(bytes).to_string()).unwrap_or_default();
        let trouble = trouble.unwrap_or_else(|| if name.is_some() { "none".to_owned() } else { String::new() });
        let name = name.unwrap_or_else(|| "nothing yet: the first run makes it".to_owned());
        rows.add_row([sync, name, kept, trouble]);
    }
    if rows.row_count() > 0 {
        println!("{rows}");
    }
    Failure::all(failures)
}

async fn drop_one(desk: &Desk, sync: &str) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Dropped {
        removed: String,
    }
    let Dropped { removed } = desk.delete(&format!("captures/{}", part(sync))).await?;
    println!("Removed {removed}. The next run of {sync} makes it again, and reads everything.");
    Ok(())
}
