//! `bridgehead capture`: how the changes of syncs are noted outside, and how to end that.

use model::Class;

use crate::Failure;
use crate::commands::{failure, json, table};
use crate::project::Project;

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

pub(crate) async fn run(project: &Project, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::List { json } => list(project, json).await,
        Arguments::Drop { sync } => drop_one(project, &sync).await,
    }
}

async fn list(project: &Project, as_json: bool) -> Result<(), Failure> {
    let mut rows = table(&["sync", "noted by", "log kept", "trouble"]);
    let mut failures = Vec::new();
    for sync in project.syncs(&[])?.iter().filter(|sync| sync.definition.external.capture.is_some()) {
        let external = project.endpoint(&sync.definition.external.connection)?;
        let captured = match engine::capture_of(sync, &*external, &project.store, false).await {
            Ok(captured) => captured,
            Err(error) => {
                failures.push(failure(project, sync, &error));
                continue;
            }
        };
        if as_json {
            json(&serde_json::json!({"sync": sync.name, "capture": captured}))?;
            continue;
        }
        let Some(captured) = captured else {
            rows.add_row([&sync.name, "nothing yet: the first run makes it", "", ""]);
            continue;
        };
        let kept = captured.kept_bytes.map(|bytes| indicatif::HumanBytes(bytes).to_string()).unwrap_or_default();
        rows.add_row([&sync.name, &captured.name, &kept, captured.trouble.as_deref().unwrap_or("none")]);
    }
    if !as_json {
        if rows.row_count() == 0 && failures.is_empty() {
            println!("No sync has `capture` in its mapping.");
        } else {
            println!("{rows}");
        }
    }
    Failure::all(failures)
}

async fn drop_one(project: &Project, name: &str) -> Result<(), Failure> {
    for sync in project.syncs(&[name.to_owned()])?.iter().filter(|sync| sync.name == name) {
        let external = project.endpoint(&sync.definition.external.connection)?;
        let dropped = engine::capture_of(sync, &*external, &project.store, true).await;
        let dropped = dropped.map_err(|error| failure(project, sync, &error))?;
        let dropped =
            dropped.ok_or_else(|| Failure::new(Class::Mapping, format!("nothing notes the changes of {name}")))?;
        println!("Removed {}. The next run of {name} makes it again, and reads everything.", dropped.name);
    }
    Ok(())
}
