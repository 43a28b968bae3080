//! `bridgehead conflicts`: what both sides changed, for people to see and decide.

use serde_json::json;
use state::Conflict;

use crate::Failure;
use crate::commands::{json as print, table};
use crate::desk::Desk;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Arguments {
    /// List them, those that wait for a person unless told otherwise.
    List {
        /// Only those of this sync.
        sync: Option<String>,
        /// Also those that the sync's rules decided, and those that are done.
        #[arg(long)]
        all: bool,
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
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Decide one that waits: the next run writes the winner's value to the other side.
    Resolve {
        /// Its number.
        id: i64,
        /// Whose value stays.
        #[arg(value_enum)]
        winner: Winner,
    },
}

/// Whose value stays.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Winner {
    /// That of Salesforce.
    Salesforce,
    /// That of the system outside.
    External,
}

pub(crate) async fn run(desk: &Desk, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { sync, all, limit, json } => list(desk, sync.as_deref(), all, limit, json).await,
        Arguments::Show { id, json } => show(desk, id, json).await,
        Arguments::Resolve { id, winner } => resolve(desk, id, winner).await,
    }
}

async fn list(desk: &Desk, sync: Option<&str>, all: bool, limit: usize, json: bool) -> Result<(), Failure> {
    let state = (!all).then_some("held");
    let query = [("sync", sync), ("state", state)];
    let found: Vec<Conflict> = desk.list("conflicts", "conflicts", &query, limit.saturating_add(1)).await?;
    let shown = &found[..found.len().min(limit)];
    if json {
        for conflict in shown {
            print(conflict)?;
        }
        return Ok(());
    }
    if shown.is_empty() {
        println!("{}", if all { "No conflicts." } else { "No conflict waits for a person." });
        return Ok(());
    }
    let mut rows = table(&["number", "sync", "record", "field", "Salesforce", "outside", "state"]);
    for conflict in shown {
        let state = match &conflict.winner {
            Some(winner) => format!("{}: {winner}", conflict.state),
            None => conflict.state.clone(),
        };
        let record = format!("{} = {}", conflict.salesforce, conflict.external);
        let values = [&conflict.salesforce_value, &conflict.external_value].map(|value| clipped(value.as_deref()));
        let field = if conflict.field.is_empty() { "(the record)" } else { &conflict.field };
        let [ours, theirs] = values;
        rows.add_row([&conflict.id.to_string(), &conflict.sync, &record, field, &ours, &theirs, &state]);
    }
    println!("{rows}");
    if found.len() > limit {
        println!("There are more; --limit shows them.");
    }
    Ok(())
}

fn clipped(text: Option<&str>) -> String {
    match text {
        None => "(empty)".to_owned(),
        Some(text) if text.chars().count() > 30 => text.chars().take(29).chain(['\u{2026}']).collect(),
        Some(text) => text.to_owned(),
    }
}

async fn show(desk: &Desk, id: i64, json: bool) -> Result<(), Failure> {
    let conflict: Conflict = desk.get(&format!("conflicts/{id}")).await?;
    if json {
        return print(&conflict);
    }
    let whole = |value: &Option<String>| value.clone().unwrap_or_else(|| "(empty)".to_owned());
    println!("Conflict {id} of {}, met by run {} at {}", conflict.sync, conflict.run, conflict.at);
    println!("  record      {} in Salesforce, {} outside", conflict.salesforce, conflict.external);
    let is_match = conflict.field == "(match)";
    if is_match {
        println!("  They may be one record.");
        println!("  Salesforce  {}", whole(&conflict.salesforce_value));
        println!("  outside     {}", whole(&conflict.external_value));
    } else if conflict.field.is_empty() {
        println!("  One side deleted it, the other changed it.");
    } else {
        println!("  field       {}", conflict.field);
        println!("  before      {}", conflict.base.as_deref().unwrap_or("(not kept)"));
        println!("  Salesforce  {}", whole(&conflict.salesforce_value));
        println!("  outside     {}", whole(&conflict.external_value));
    }
    match (conflict.state.as_str(), &conflict.winner) {
        ("held", _) if is_match => {
            println!(
                "  It waits: `bridgehead conflicts resolve {id} external` pairs them, `... salesforce` keeps them apart."
            );
        }
        ("held", _) => {
            println!("  It waits: `bridgehead conflicts resolve {id} salesforce` or `... external` decides it.");
        }
        ("resolved", Some(winner)) => println!("  A person decided for {winner}; the next run carries it out."),
        (_, Some(winner)) => println!("  Decided for {winner}."),
        _ => println!("  Done."),
    }
    Ok(())
}

async fn resolve(desk: &Desk, id: i64, winner: Winner) -> Result<(), Failure> {
    let winner = match winner {
        Winner::Salesforce => "salesforce",
        Winner::External => "external",
    };
    let conflict: Conflict = desk.post(&format!("conflicts/{id}/resolve"), &json!({"winner": winner})).await?;
    println!("Conflict {id}: decided. `bridgehead run {}` carries it out.", conflict.sync);
    Ok(())
}
