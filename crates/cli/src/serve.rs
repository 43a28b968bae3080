//! `bridgehead serve`: the syncs of a project by schedule, and the admin API.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::Class;
use server::{COMPARISON, Job, Scheduler, Server, Work as _};
use state::Store;

use crate::Failure;
use crate::commands::{conversions_of, stop_on_interrupt};
use crate::project::{FOLDERS, Place, Project};
use crate::served::{Served, plan_of};

/// How often the files of the project are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Returns when the files of a project were changed last, each.
fn changed(folder: &Path) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let entries = FOLDERS.iter().flat_map(|part| std::fs::read_dir(folder.join(part)).into_iter().flatten().flatten());
    let files = entries.map(|entry| entry.path()).chain([folder.join("bridgehead.yaml")]);
    files.map(|path| (path.clone(), std::fs::metadata(&path).and_then(|data| data.modified()).ok())).collect()
}

/// What says that there is another configuration to work by.
#[derive(PartialEq)]
enum Mark {
    /// The version that is at work.
    Version(i64),
    /// When the files of the folder were changed last.
    Folder(BTreeMap<PathBuf, Option<SystemTime>>),
}

impl Mark {
    fn of(place: &Place, store: &Store) -> Option<Self> {
        let version = store.version_at_work().ok()?;
        Some(version.map_or_else(|| Self::Folder(changed(&place.folder)), Self::Version))
    }

    fn name(&self) -> String {
        match self {
            Self::Version(version) => format!("version {version}"),
            Self::Folder(_) => "the folder".to_owned(),
        }
    }
}

fn paused_in(project: &Project) -> Option<HashMap<String, String>> {
    project.store.paused().ok()
}

/// Takes over a changed project if it can work; else says why, and goes on with what there was.
async fn reload(served: &Served, place: &Place, scheduler: &server::Handle, server: &Server, name: &str) {
    let read = async {
        let project = Project::at_work(place)?;
        plan_of(&project)?;
        let (alerts, oidc) = (project.alerts()?, project.oidc()?);
        conversions_of(&project).await?;
        Ok::<_, Failure>((project, alerts, oidc))
    };
    match read.await {
        Ok((project, alerts, oidc)) => {
            server.vouch(oidc);
            served.replace(project.acting_as("scheduler"), alerts);
            scheduler.changed();
            println!("The project changed; {name} is good, and at work.");
        }
        Err(failure) => {
            eprintln!("the project changed, and can't work; what was there before goes on: {}", failure.text);
        }
    }
}

/// Runs syncs by schedule and answers the admin API until Ctrl-C, or when the system asks for the end.
pub(crate) async fn serve(place: &Place, address: SocketAddr) -> Result<(), Failure> {
    let project = Project::at_work(place)?;
    let mut before = Mark::of(place, &project.store);
    let store = project.store.acting_as("scheduler");
    let plan = plan_of(&project)?;
    let syncs: Vec<&Job> = plan.jobs.iter().filter(|job| !job.sync.ends_with(COMPARISON)).collect();
    let (scheduled, syncs) = (syncs.iter().filter(|job| job.schedule.is_some()).count(), syncs.len());
    let api = project.store.clone();
    let oidc = project.oidc()?;
    let stop = stop_on_interrupt();
    let served = Arc::new(Served::new(project.acting_as("scheduler"), place, stop.clone()));
    served.alerts()?;
    let scheduler = Scheduler::start(store.clone(), Arc::<Served>::clone(&served));
    let started = Server::start(api, address, Some(scheduler.handle()), oidc).await;
    let server = started.map_err(|error| Failure::from_error(Class::Mapping, &error))?;
    println!(
        "{scheduled} of {syncs} syncs of {} run by schedule. http://{}/ shows what they do. Ctrl-C stops it.",
        before.as_ref().map_or_else(|| "the project".to_owned(), Mark::name),
        server.address()
    );
    let watching = tokio::spawn(server::watch(store, scheduler.handle(), stop.clone()));
    let mut paused = paused_in(&served.project());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => break,
        }
        let now = Mark::of(place, &served.project().store);
        if let Some(name) = now.as_ref().filter(|_| now != before).map(Mark::name) {
            before = now;
            reload(&served, place, &scheduler.handle(), &server, &name).await;
        }
        // Others pause syncs, too.
        let now = paused_in(&served.project());
        if now != paused {
            paused = now;
            scheduler.handle().changed();
        }
    }
    scheduler.drain().await;
    if let Err(error) = watching.await {
        tracing::error!(%error, "what watches for alerts ended badly");
    }
    server.stop().await;
    Ok(())
}
