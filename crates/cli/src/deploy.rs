//! Versions of the configuration: kept, compared, put to work, taken back.

use model::Class;
use server::difference;
use state::Files;

use crate::Failure;
use crate::commands::{check_syncs, json, table, undo};
use crate::project::{Place, Project};

/// Versions that are listed.
const VERSIONS: u32 = 50;
/// Runs read from the store at a time.
const RUNS: u32 = 200;

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
    fn author(&self) -> String {
        let named = self.author.clone().or_else(|| std::env::var("USER").or_else(|_| std::env::var("USERNAME")).ok());
        named.unwrap_or_else(|| "local".to_owned())
    }
}

fn unknown(version: i64) -> Failure {
    Failure::new(Class::Mapping, format!("there is no version {version}; `bridgehead versions` lists them"))
}

/// Returns the files of a version and what it is called; the folder's where none is given.
fn files_of(project: &Project, version: Option<i64>) -> Result<(String, Files), Failure> {
    let Some(id) = version else { return Ok(("the folder".to_owned(), project.files().clone())) };
    let (_, files) = project.store.version(id)?.ok_or_else(|| unknown(id))?;
    Ok((format!("version {id}"), files))
}

/// Checks the project as the folder has it, keeps it as a version, and puts that to work unless it is `staged`.
pub(crate) async fn deploy(project: &Project, why: &Why, staged: bool, dry: bool) -> Result<(), Failure> {
    let at_work = project.store.version_at_work()?;
    let old = at_work.map(|id| files_of(project, Some(id))).transpose()?;
    let (before, old) = old.unwrap_or_else(|| ("nothing".to_owned(), Files::new()));
    let changes = difference((&before, &old), ("the folder", project.files()));
    if let (true, Some(version)) = (changes.is_empty(), at_work) {
        println!("Version {version} is at work, and has all that the folder has.");
        return Ok(());
    }
    check_syncs(project).await?;
    if dry {
        print!("{changes}");
        println!("This is good, and would be the next version. Nothing was kept.");
        return Ok(());
    }
    let version = project.store.keep_version(&why.author(), &why.reason, project.files(), staged)?;
    if staged {
        println!("Version {version} is kept. `bridgehead promote {version} --reason ...` puts it to work.");
    } else {
        println!("Version {version} is at work.");
    }
    Ok(())
}

/// Lists versions, newest first.
pub(crate) fn versions(project: &Project, as_json: bool) -> Result<(), Failure> {
    let versions = project.store.versions(VERSIONS)?;
    if as_json {
        return json(&versions);
    }
    if versions.is_empty() {
        println!("No version was kept yet: what the folder has is at work. `bridgehead deploy` keeps one.");
        return Ok(());
    }
    let mut rows = table(&["version", "kept", "by", "reason", ""]);
    for version in versions {
        let kept = version.at.get(..19).unwrap_or(&version.at).replace('T', " ");
        let state = if version.at_work { "at work" } else { "" };
        rows.add_row([version.id.to_string(), kept, version.author, version.reason, state.to_owned()]);
    }
    println!("{rows}");
    Ok(())
}

/// Shows what is different between two versions: from the one at work, to what the folder has, where they are not named.
pub(crate) fn diff(project: &Project, from: Option<i64>, to: Option<i64>) -> Result<(), Failure> {
    let from = from.map_or_else(|| project.store.version_at_work(), |id| Ok(Some(id)))?;
    let none =
        || Failure::new(Class::Mapping, "no version was put to work yet; name one, or `bridgehead deploy` first");
    let (before, old) = files_of(project, Some(from.ok_or_else(none)?))?;
    let (after, new) = files_of(project, to)?;
    let text = difference((&before, &old), (&after, &new));
    if text.is_empty() {
        println!("{before} and {after} are the same.");
    } else {
        print!("{text}");
    }
    Ok(())
}

/// Puts a version to work once it is checked.
async fn put_to_work(place: &Place, project: &Project, why: &Why, version: i64) -> Result<(), Failure> {
    check_syncs(&Project::kept(place, project.store.clone(), version)?).await?;
    if !project.store.put_to_work(&why.author(), &why.reason, version)? {
        return Err(unknown(version));
    }
    println!("Version {version} is at work.");
    Ok(())
}

/// Puts a version to work that was kept: the newest, if none is named.
pub(crate) async fn promote(place: &Place, project: &Project, why: &Why, version: Option<i64>) -> Result<(), Failure> {
    let newest = || project.store.versions(1).map(|versions| versions.first().map(|version| version.id));
    let version = version.map_or_else(newest, |id| Ok(Some(id)))?;
    let none = || Failure::new(Class::Mapping, "no version was kept yet; `bridgehead deploy --staged` keeps one");
    let version = version.ok_or_else(none)?;
    if project.store.version_at_work()? == Some(version) {
        println!("Version {version} is at work already.");
        return Ok(());
    }
    put_to_work(place, project, why, version).await
}

/// Puts an earlier version to work: the one before, if none is named. With `data` what two-way syncs wrote since the present
/// one was put to work is put back, too.
pub(crate) async fn rollback(
    place: &Place,
    project: &Project,
    why: &Why,
    version: Option<i64>,
    data: bool,
) -> Result<(), Failure> {
    let version = version.map_or_else(|| project.store.version_before(), |id| Ok(Some(id)))?;
    let none = || Failure::new(Class::Mapping, "no other version was at work before");
    let version = version.ok_or_else(none)?;
    let since = project.store.at_work_since()?;
    let Some(since) = since.filter(|_| data) else { return put_to_work(place, project, why, version).await };
    // What is put back goes by the mapping that wrote it: before the other version is at work.
    let current = Project::at_work(place)?;
    let mut left = Vec::new();
    let mut before = i64::MAX;
    'runs: loop {
        let runs = project.store.runs(None, before, RUNS)?;
        let Some(last) = runs.last() else { break };
        before = last.id;
        for run in &runs {
            if run.started < since {
                break 'runs;
            }
            let report: engine::Report = serde_json::from_str(&run.body).unwrap_or_default();
            let wrote = report.counts.created + report.counts.updated + report.counts.deleted > 0;
            if report.undoes.is_some() || !wrote {
                continue;
            }
            if let Err(failure) = undo(&current, run.id, false, false).await {
                left.push(Failure::new(failure.class, format!("run {} is not undone: {}", run.id, failure.text)));
            }
        }
    }
    put_to_work(place, project, why, version).await?;
    Failure::all(left)
}
