//! Versions of the configuration: kept, compared, put to work, taken back.

use std::path::Path;

use model::Class;
use serde::Deserialize;
use serde_json::json;
use server::{Deployed, TakenBack, difference};
use state::{Files, Version};

use crate::Failure;
use crate::commands::{json as print, moment, table, told_undone};
use crate::desk::Desk;
use crate::project::files_of;

/// Why, and by whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    /// Why, for others to read.
    #[arg(long)]
    reason: String,
    /// Who; the user of this machine if nobody is named.
    #[arg(long)]
    author: Option<String>,
}

impl Why {
    pub(crate) fn author(&self) -> String {
        let named = self.author.clone().or_else(|| std::env::var("USER").or_else(|_| std::env::var("USERNAME")).ok());
        named.unwrap_or_else(|| "local".to_owned())
    }
}

/// Checks the project as the folder has it, keeps it as a version, and puts that to work unless it is `staged`.
pub(crate) async fn deploy(desk: &Desk, folder: &Path, why: &Why, staged: bool, dry: bool) -> Result<(), Failure> {
    let body = json!({"files": files_of(folder)?, "reason": why.reason, "author": why.author(), "staged": staged, "dry_run": dry});
    let Deployed { version, changes, .. } = desk.post("versions", &body).await?;
    match version {
        Some(version) if changes.is_empty() => {
            println!("Version {version} is at work, and has all that the folder has.");
        }
        Some(version) if staged => {
            println!("Version {version} is kept. `bridgehead promote {version} --reason ...` puts it to work.");
        }
        Some(version) => println!("Version {version} is at work."),
        None => {
            print!("{changes}");
            println!("This is good, and would be the next version. Nothing was kept.");
        }
    }
    Ok(())
}

/// The versions that there are.
#[derive(Debug, Deserialize)]
struct Versions {
    /// The newest, newest first.
    versions: Vec<Version>,
    at_work: Option<i64>,
}

/// Lists versions, newest first.
pub(crate) async fn versions(desk: &Desk, as_json: bool) -> Result<(), Failure> {
    let Versions { versions, .. } = desk.get("versions").await?;
    if as_json {
        return print(&versions);
    }
    if versions.is_empty() {
        println!("No version was kept yet: what the folder has is at work. `bridgehead deploy` keeps one.");
        return Ok(());
    }
    let mut rows = table(&["version", "kept", "by", "reason", ""]);
    for version in versions {
        let state = if version.at_work { "at work" } else { "" };
        let kept = moment(&version.at);
        rows.add_row([version.id.to_string(), kept, version.author, version.reason, state.to_owned()]);
    }
    println!("{rows}");
    Ok(())
}

/// Returns the files of a version and what it is called; the folder's where none is given.
async fn side(desk: &Desk, folder: &Path, version: Option<i64>) -> Result<(String, Files), Failure> {
    #[derive(Deserialize)]
    struct Kept {
        files: Files,
    }
    let Some(id) = version else { return Ok(("the folder".to_owned(), files_of(folder)?)) };
    let Kept { files } = desk.get(&format!("versions/{id}")).await?;
    Ok((format!("version {id}"), files))
}

/// Shows what is different between two versions: from the one at work, to what the folder has, where they are not named.
pub(crate) async fn diff(desk: &Desk, folder: &Path, from: Option<i64>, to: Option<i64>) -> Result<(), Failure> {
    let at_work = desk.get::<Versions>("versions?limit=1").await?.at_work;
    let none =
        || Failure::new(Class::Mapping, "no version was put to work yet; name one, or `bridgehead deploy` first");
    let (before, old) = side(desk, folder, Some(from.or(at_work).ok_or_else(none)?)).await?;
    let (after, new) = side(desk, folder, to).await?;
    let text = difference((&before, &old), (&after, &new));
    if text.is_empty() {
        println!("{before} and {after} are the same.");
    } else {
        print!("{text}");
    }
    Ok(())
}

/// Says that a version is at work, or what it would change.
fn tell_at_work(version: i64, changes: &str, dry: bool) {
    if dry {
        print!("{changes}");
        println!("Version {version} is good. Nothing was changed.");
    } else {
        println!("Version {version} is at work.");
    }
}

/// Puts a version to work that was kept: the newest, if none is named.
pub(crate) async fn promote(desk: &Desk, why: &Why, version: Option<i64>, dry: bool) -> Result<(), Failure> {
    let Versions { versions, at_work } = desk.get("versions?limit=1").await?;
    let none = || Failure::new(Class::Mapping, "no version was kept yet; `bridgehead deploy --staged` keeps one");
    let version = version.or_else(|| versions.first().map(|newest| newest.id)).ok_or_else(none)?;
    if at_work == Some(version) {
        println!("Version {version} is at work already.");
        return Ok(());
    }
    let body = json!({"reason": why.reason, "author": why.author(), "dry_run": dry});
    let Deployed { changes, .. } = desk.post(&format!("versions/{version}/promote"), &body).await?;
    tell_at_work(version, &changes, dry);
    Ok(())
}

/// Puts an earlier version to work: the one before, if none is named. With `data` what two-way syncs wrote since the present
/// one was put to work is put back, too.
pub(crate) async fn rollback(
    desk: &Desk,
    why: &Why,
    version: Option<i64>,
    data: bool,
    dry: bool,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct RolledBack {
        version: i64,
        changes: String,
        #[serde(flatten)]
        taken: TakenBack,
    }
    let body = json!({"reason": why.reason, "author": why.author(), "version": version, "undo": data, "dry_run": dry});
    let RolledBack { version, changes, taken } = desk.post("rollback", &body).await?;
    for report in &taken.undone {
        told_undone(report);
    }
    tell_at_work(version, &changes, dry);
    Failure::all(taken.left.into_iter().map(|left| Failure::new(Class::Rejected, left)).collect())
}
