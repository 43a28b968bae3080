//! `bridgehead serve`: the syncs of a project by schedule, and the admin API.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use engine::{Options, Progress, Replay};
use model::{Class, Side};
use server::{
    Alerts, Answer, AtOnce, COMPARISON, Connected, Fields, Job, Mapped, MappedEntity, Plan, Schedule, Scheduler,
    Server, Tried, Work,
};
use state::{Link, Store};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::commands::{check_syncs, failure, previews, run_between, stop_on_interrupt, undone};
use crate::follow;
use crate::project::{FOLDERS, Place, Project};
use crate::reconcile;

/// Records of each side that a mapping is tried on.
const PREVIEWED: usize = 8;
/// How often the files of the project are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The project as it is now, put to work.
struct Served {
    project: RwLock<Arc<Project>>,
    alerts: RwLock<Arc<Alerts>>,
    place: Place,
    /// How far runs are: rows, of how many.
    progress: Mutex<HashMap<String, (u64, u64)>>,
    runtime: Handle,
}

impl Served {
    fn project(&self) -> Arc<Project> {
        Arc::clone(&self.project.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn progress(&self) -> MutexGuard<'_, HashMap<String, (u64, u64)>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alerts(&self) -> Arc<Alerts> {
        Arc::clone(&self.alerts.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns what is wrong, a line each.
fn lines(failure: Failure) -> Vec<String> {
    failure.text.lines().map(str::to_owned).collect()
}

/// Returns what a project schedules.
fn plan_of(project: &Project) -> Result<Plan, Failure> {
    let mut jobs = Vec::new();
    for sync in project.syncs(&[])? {
        let (schedule, missed, priority) = project.schedule(&sync.name)?;
        let connections = [&sync.definition.salesforce.connection, &sync.definition.external.connection];
        let connections: Vec<String> = connections.into_iter().cloned().collect();
        if let Some((schedule, missed)) = project.compare_schedule(&sync.name)? {
            let (name, schedule) = (format!("{}{COMPARISON}", sync.name), Some(schedule));
            jobs.push(Job { sync: name, schedule, missed, priority, connections: connections.clone() });
        }
        jobs.push(Job { sync: sync.name.clone(), schedule, missed, priority, connections });
    }
    let (all, connections): (usize, BTreeMap<String, usize>) = project.at_once();
    Ok(Plan { jobs, at_once: AtOnce { all, connections }, digest: project.digest() })
}

impl Work for Served {
    fn plan(&self) -> Plan {
        // It was read once before it was put to work.
        plan_of(&self.project()).unwrap_or_else(|failure| {
            tracing::error!(error = failure.text, "the project can't be planned");
            Plan { jobs: Vec::new(), at_once: AtOnce { all: 1, connections: BTreeMap::new() }, digest: 0 }
        })
    }

    fn run(&self, sync: &str, replay: BTreeSet<i64>, stop: CancellationToken) -> Result<bool, String> {
        let project = self.project();
        let run = async {
            let compared = sync.strip_suffix(COMPARISON);
            let syncs = project.syncs(&[compared.unwrap_or(sync).to_owned()])?;
            let sync = syncs.first().ok_or_else(|| Failure::new(Class::Mapping, "it is gone"))?;
            let follows = matches!(project.schedule(&sync.name)?.0, Some(Schedule::OnChanges));
            if follows && compared.is_none() && replay.is_empty() {
                let options = Options { stop, ..Options::default() };
                return Ok(follow::until_stopped(&project, sync, &options, &|_| {}).await?.green());
            }
            // Others run beside it: its connections, and the calls they count, are its own.
            let ends = project.endpoints_apart(sync)?;
            if compared.is_some() {
                // What it found is kept; an alert tells people.
                return reconcile::scheduled(&project, sync, ends, stop).await.map(|()| true);
            }
            let replay = if replay.is_empty() { Replay::None } else { Replay::Only(replay) };
            let options = Options { stop, replay, ..Options::default() };
            let told = |progress: Progress| {
                self.progress().insert(sync.name.clone(), (progress.rows, progress.of));
            };
            let report = run_between(&project, sync, ends, &options, &told).await;
            self.progress().remove(&sync.name);
            Ok(report?.green())
        };
        self.runtime.block_on(run).map_err(|failure: Failure| failure.text)
    }

    fn progress_of(&self, sync: &str) -> Option<(u64, u64)> {
        self.progress().get(sync).copied()
    }

    fn undo(&self, run: i64, actor: &str) -> Result<String, String> {
        let project = self.project();
        let undone = async {
            let other = project.again(actor)?;
            let report = undone(&other, run, &Options::default()).await?;
            let counts = report.counts;
            Ok(format!(
                "run {} put back {} records, made {} again, took {} away, and left {} as they are, since they were changed since",
                report.run, counts.updated, counts.created, counts.deleted, report.left
            ))
        };
        self.runtime.block_on(undone).map_err(|failure: Failure| failure.text)
    }

    fn mappings(&self) -> Vec<Mapped> {
        self.project().mapped()
    }

    fn mapping_text(&self, mapping: &str) -> Option<String> {
        self.project().mapping_file(mapping).map(|(_, text)| text.clone())
    }

    fn try_mapping(&self, mapping: &str, text: &str) -> Result<Vec<Tried>, Vec<String>> {
        let project = self.project();
        let tried = async {
            let other = project.with_mapping(mapping, text)?;
            let mut tried = Vec::new();
            for sync in other.syncs(&other.syncs_of(mapping))? {
                let previews = previews(&other, &sync, PREVIEWED).await?;
                tried.push(Tried { sync: sync.name, previews });
            }
            Ok(tried)
        };
        self.runtime.block_on(tried).map_err(lines)
    }

    fn keep_mapping(&self, mapping: &str, text: &str, author: &str, reason: &str) -> Result<i64, Vec<String>> {
        let project = self.project();
        let kept = async {
            let other = project.with_mapping(mapping, text)?;
            plan_of(&other)?;
            check_syncs(&other).await?;
            Ok(project.store.acting_as(author).keep_version(author, reason, other.files(), true)?)
        };
        self.runtime.block_on(kept).map_err(lines)
    }

    fn put_to_work(&self, version: i64, author: &str, reason: &str) -> Result<bool, Vec<String>> {
        let (project, place) = (self.project(), &self.place);
        let put = async {
            let store = project.store.acting_as(author);
            if store.version(version)?.is_none() {
                return Ok(false);
            }
            let other = Project::kept(place, store.clone(), version)?;
            plan_of(&other)?;
            check_syncs(&other).await?;
            Ok(store.put_to_work(author, reason, version)?)
        };
        self.runtime.block_on(put).map_err(lines)
    }

    fn settings(&self) -> Vec<(String, String)> {
        self.project().settings()
    }

    fn record(&self, mapping: &str, link: &Link) -> [Result<Fields, String>; 2] {
        let project = self.project();
        [Side::Salesforce, Side::External].map(|side| {
            let record = project.record(mapping, side, link.key(side));
            self.runtime.block_on(record).map_err(|failure| failure.text)
        })
    }

    fn connections(&self) -> Vec<Connected> {
        self.project().connected()
    }

    fn try_connection(&self, name: &str) -> Result<Answer, String> {
        let project = self.project();
        self.runtime.block_on(asked(&project, name)).map_err(|failure| failure.text)
    }
}

/// Asks a connection what it has, and whether what mappings name of it is as it was.
async fn asked(project: &Project, name: &str) -> Result<Answer, Failure> {
    let endpoint = project.endpoint_apart(name)?;
    let mut answered = Answer { entities: endpoint.entities().await?.len(), ..Answer::default() };
    for sync in project.syncs(&[])? {
        let definition = &sync.definition;
        let (salesforce, external) = (&definition.salesforce, &definition.external);
        for (side, connection, entity) in [
            (Side::Salesforce, &salesforce.connection, &salesforce.object.value),
            (Side::External, &external.connection, &external.entity.value),
        ] {
            if connection != name {
                continue;
            }
            let known = answered.mapped.iter().position(|known| known.name == *entity);
            let at = known.unwrap_or(answered.mapped.len());
            if known.is_none() {
                let described = endpoint.describe(entity).await.map_err(|error| Failure::from(error).text);
                answered.mapped.push(MappedEntity { entity: described, name: entity.clone(), syncs: Vec::new() });
            }
            let drift = match &answered.mapped[at].entity {
                Ok(entity) => engine::drift(&sync, side, &*endpoint, entity, &project.store).await,
                Err(_) => Ok(Vec::new()),
            };
            let drift = drift.map_err(|error| failure(project, &sync, &error))?;
            answered.mapped[at].syncs.push((sync.name.clone(), drift));
        }
    }
    answered.calls_left = endpoint.allowance();
    Ok(answered)
}

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
async fn reload(served: &Served, place: &Place, scheduler: &server::Handle, name: &str) {
    let read = async {
        let project = Project::at_work(place)?;
        plan_of(&project)?;
        let alerts = project.alerts()?;
        check_syncs(&project).await?;
        Ok::<_, Failure>((project, alerts))
    };
    match read.await {
        Ok((project, alerts)) => {
            *served.alerts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(alerts);
            let project = project.acting_as("scheduler");
            *served.project.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(project);
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
    let scheduled = plan.jobs.iter().filter(|job| job.schedule.is_some()).count();
    let api = project.store.clone();
    let alerts = RwLock::new(Arc::new(project.alerts()?));
    let oidc = project.oidc()?;
    let project = RwLock::new(Arc::new(project.acting_as("scheduler")));
    let served = Arc::new(Served {
        project,
        alerts,
        place: place.clone(),
        progress: Mutex::default(),
        runtime: Handle::current(),
    });
    let scheduler = Scheduler::start(store.clone(), Arc::<Served>::clone(&served));
    let started = Server::start(api, address, Some(scheduler.handle()), oidc).await;
    let server = started.map_err(|error| Failure::from_error(Class::Mapping, &error))?;
    println!(
        "{scheduled} of {} syncs of {} run by schedule. http://{}/ shows what they do. Ctrl-C stops it.",
        plan.jobs.len(),
        before.as_ref().map_or_else(|| "the project".to_owned(), Mark::name),
        server.address()
    );
    let stop = stop_on_interrupt();
    let watched = Arc::clone(&served);
    let watching = tokio::spawn(server::watch(store, scheduler.handle(), move || watched.alerts(), stop.clone()));
    let mut paused = paused_in(&served.project());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => break,
        }
        let now = Mark::of(place, &served.project().store);
        if let Some(name) = now.as_ref().filter(|_| now != before).map(Mark::name) {
            before = now;
            reload(&served, place, &scheduler.handle(), &name).await;
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
