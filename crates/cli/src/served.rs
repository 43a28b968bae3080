//! What the server asks of a project: to run, to check, to look.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use engine::{Forecast, Options, Pilot, Progress, Replay, Report};
use model::{Class, Entity, Side};
use server::{
    Alerts, Answer, Asked, AtOnce, COMPARISON, Capture, Connected, Deployed, Deploying, Fields, Job, Mapped,
    MappedEntity, Plan, Refused, Schedule, TakenBack, Tried, Undoing, Work, difference,
};
use state::{Files, Link, Store};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::commands::{conversions_of, failure, forecast, previews, run_between, undone};
use crate::follow;
use crate::project::{Place, Project};
use crate::reconcile;

/// Records of each side that a mapping is tried on.
const PREVIEWED: usize = 8;
/// Runs read from the store at a time.
const RUNS: u32 = 200;

/// The project as it is now, put to work.
pub(crate) struct Served {
    project: RwLock<Arc<Project>>,
    alerts: RwLock<Result<Arc<Alerts>, Refused>>,
    place: Place,
    /// How far runs are: rows, of how many.
    progress: Mutex<HashMap<String, (u64, u64)>>,
    /// Asks what runs for somebody who waits for it to stop at its next checkpoint.
    stop: CancellationToken,
    runtime: Handle,
}

impl From<Failure> for Refused {
    fn from(Failure { text, class }: Failure) -> Self {
        Self { text, class }
    }
}

impl From<Refused> for Failure {
    fn from(Refused { text, class }: Refused) -> Self {
        Self { text, class }
    }
}

impl Served {
    /// Puts a project to work, within a runtime.
    pub(crate) fn new(project: Project, place: &Place, stop: CancellationToken) -> Self {
        Self {
            alerts: RwLock::new(project.alerts().map(Arc::new).map_err(Refused::from)),
            project: RwLock::new(Arc::new(project)),
            place: place.clone(),
            progress: Mutex::default(),
            stop,
            runtime: Handle::current(),
        }
    }

    pub(crate) fn project(&self) -> Arc<Project> {
        Arc::clone(&self.project.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another project to work.
    pub(crate) fn replace(&self, project: Project, alerts: Alerts) {
        *self.alerts.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(alerts));
        *self.project.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(project);
    }

    fn progress(&self) -> MutexGuard<'_, HashMap<String, (u64, u64)>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something that the project does, on a thread where waiting is no harm.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Refused> {
        self.runtime.block_on(work).map_err(Refused::from)
    }

    /// Checks a project whole, and keeps it as is wanted.
    async fn kept(
        &self,
        other: &Project,
        store: &Store,
        (author, reason): (&str, &str),
        deploying: Deploying,
    ) -> Result<Deployed, Failure> {
        if reason.trim().is_empty() {
            return Err(Failure::new(Class::Mapping, "say why, for those who read it later"));
        }
        let at_work = store.version_at_work()?;
        let changes = changes_to(store, "what is deployed", other.files())?;
        if changes.is_empty() && at_work.is_some() {
            return Ok(Deployed { version: at_work, ..Deployed::default() });
        }
        plan_of(other)?;
        let conversions = conversions_of(other).await?;
        let version = match deploying {
            Deploying::Check => None,
            Deploying::Stage | Deploying::Work => {
                Some(store.keep_version(author, reason, other.files(), deploying == Deploying::Stage)?)
            }
        };
        Ok(Deployed { version, changes, conversions })
    }
}

/// Returns how files differ from those of the version that is at work, as a unified diff.
fn changes_to(store: &Store, called: &str, files: &Files) -> Result<String, Failure> {
    let at_work = store.version_at_work()?;
    let known = at_work.map(|id| store.version(id)).transpose()?.flatten();
    let (before, old) = match known {
        Some((version, files)) => (format!("version {}", version.id), files),
        None => ("nothing".to_owned(), Files::new()),
    };
    Ok(difference((&before, &old), (called, files)))
}

/// Returns what a project schedules.
pub(crate) fn plan_of(project: &Project) -> Result<Plan, Failure> {
    let mut jobs = Vec::new();
    for sync in project.syncs(&[])? {
        let (schedule, missed, priority) = project.schedule(&sync.name)?;
        let connections = [&sync.definition.salesforce.connection, &sync.definition.external.connection];
        let connections: Vec<String> = connections.into_iter().cloned().collect();
        let comparing = project.compare_schedule(&sync.name)?;
        jobs.push(Job {
            sync: format!("{}{COMPARISON}", sync.name),
            missed: comparing.as_ref().map_or(missed, |(_, missed)| *missed),
            schedule: comparing.map(|(schedule, _)| schedule),
            priority,
            connections: connections.clone(),
        });
        jobs.push(Job { sync: sync.name.clone(), schedule, missed, priority, connections });
    }
    let (all, connections): (usize, BTreeMap<String, usize>) = project.at_once();
    Ok(Plan { jobs, at_once: AtOnce { all, connections }, digest: project.digest() })
}

/// Returns how a run is to be that somebody asked for.
fn options_of(asked: &Asked, stop: CancellationToken) -> Options {
    let replay = match (asked.run.replay, asked.letters.is_empty()) {
        (true, _) => Replay::All,
        (false, true) => Replay::None,
        (false, false) => Replay::Only(asked.letters.clone()),
    };
    let slice = asked.run.is_slice();
    let pilot = slice.then(|| Pilot { rows: asked.run.pilot, filter: asked.run.filter.clone() });
    Options { full: asked.run.full, force: asked.run.force, replay, pilot, stop, ..Options::default() }
}

impl Work for Served {
    fn plan(&self) -> Plan {
        // It was read once before it was put to work.
        plan_of(&self.project()).unwrap_or_else(|failure| {
            tracing::error!(error = failure.text, "the project can't be planned");
            Plan { jobs: Vec::new(), at_once: AtOnce { all: 1, connections: BTreeMap::new() }, digest: 0 }
        })
    }

    fn run(&self, sync: &str, asked: Asked, stop: CancellationToken) -> Result<bool, String> {
        let run = async {
            let mut project = self.project();
            if let Some(actor) = &asked.actor {
                project = Arc::new(project.again(actor)?);
            }
            let compared = sync.strip_suffix(COMPARISON);
            let syncs = project.syncs(&[compared.unwrap_or(sync).to_owned()])?;
            let sync = syncs.first().ok_or_else(|| Failure::new(Class::Mapping, "it is gone"))?;
            let options = options_of(&asked, stop);
            let follows = matches!(project.schedule(&sync.name)?.0, Some(Schedule::OnChanges));
            if follows && compared.is_none() && asked.is_plain() {
                return Ok(follow::until_stopped(&project, sync, &options, &|_| {}).await?.green());
            }
            // Others run beside it: its connections, and the calls they count, are its own.
            let ends = project.endpoints_apart(sync)?;
            if compared.is_some() {
                // What it found is kept; an alert tells people.
                return reconcile::asked(&project, sync, ends, &asked, options.stop).await.map(|()| true);
            }
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

    fn forecast(&self, sync: &str) -> Result<Forecast, Refused> {
        let project = self.project();
        self.wait(async {
            // Its connections are its own, as those of a run.
            let project = project.apart()?;
            let syncs = project.syncs(&[sync.to_owned()])?;
            let sync = syncs.iter().find(|known| known.name == sync);
            forecast(&project, sync.ok_or_else(|| Failure::new(Class::Mapping, "it is gone"))?).await
        })
    }

    fn undo(&self, run: i64, how: Undoing, actor: &str) -> Result<Report, Refused> {
        let project = self.project();
        self.wait(async {
            let Undoing { force, dry_run } = how;
            let options = Options { force, dry_run, stop: self.stop.clone(), ..Options::default() };
            undone(&project.again(actor)?, run, &options).await
        })
    }

    fn take_back(&self, actor: &str, dry_run: bool) -> Result<TakenBack, Refused> {
        self.wait(async {
            // What is put back goes by the mapping that wrote it.
            let current = Project::at_work(&self.place)?.acting_as(actor);
            let mut taken = TakenBack::default();
            let Some(since) = current.store.at_work_since()? else { return Ok(taken) };
            let mut before = i64::MAX;
            loop {
                let runs = current.store.runs(None, before, RUNS)?;
                let Some(last) = runs.last() else { return Ok(taken) };
                before = last.id;
                for run in &runs {
                    if run.started < since {
                        return Ok(taken);
                    }
                    let report: Report = serde_json::from_str(&run.body).unwrap_or_default();
                    let wrote = report.counts.created + report.counts.updated + report.counts.deleted > 0;
                    if report.undoes.is_some() || !wrote {
                        continue;
                    }
                    let options = Options { dry_run, stop: self.stop.clone(), ..Options::default() };
                    match undone(&current, run.id, &options).await {
                        Ok(report) => {
                            taken.left.extend(crate::commands::left_of(&report));
                            taken.undone.push(report);
                        }
                        Err(failure) => taken.left.push(format!("run {} is not undone: {}", run.id, failure.text)),
                    }
                }
            }
        })
    }

    fn mappings(&self) -> Vec<Mapped> {
        self.project().mapped()
    }

    fn mapping_text(&self, mapping: &str) -> Option<String> {
        self.project().mapping_file(mapping).map(|(_, text)| text.clone())
    }

    fn try_mapping(&self, mapping: &str, text: &str) -> Result<Vec<Tried>, Refused> {
        let project = self.project();
        self.wait(async {
            let other = project.with_mapping(mapping, text)?;
            let mut tried = Vec::new();
            for sync in other.syncs(&other.syncs_of(mapping))? {
                let previews = previews(&other, &sync, PREVIEWED).await?;
                tried.push(Tried { sync: sync.name, previews });
            }
            Ok(tried)
        })
    }

    fn keep_mapping(&self, mapping: &str, text: &str, author: &str, reason: &str) -> Result<i64, Refused> {
        let project = self.project();
        self.wait(async {
            let other = project.with_mapping(mapping, text)?;
            let store = project.store.acting_as(author);
            let kept = self.kept(&other, &store, (author, reason), Deploying::Stage).await?;
            kept.version.ok_or_else(|| Failure::new(Class::Internal, "it was not kept"))
        })
    }

    fn deploy(
        &self,
        files: Files,
        actor: &str,
        author: &str,
        reason: &str,
        deploying: Deploying,
    ) -> Result<Deployed, Refused> {
        let store = self.project().store.acting_as(actor);
        self.wait(async {
            let other = Project::of_files(&self.place, files, store.clone())?;
            self.kept(&other, &store, (author, reason), deploying).await
        })
    }

    fn put_to_work(
        &self,
        version: i64,
        actor: &str,
        author: &str,
        reason: &str,
        deploying: Deploying,
    ) -> Result<Option<Deployed>, Refused> {
        let (project, place) = (self.project(), &self.place);
        self.wait(async {
            let store = project.store.acting_as(actor);
            let Some((_, files)) = store.version(version)? else { return Ok(None) };
            let changes = changes_to(&store, &format!("version {version}"), &files)?;
            let other = Project::kept(place, store.clone(), version)?;
            plan_of(&other)?;
            let conversions = conversions_of(&other).await?;
            if deploying == Deploying::Work {
                store.put_to_work(author, reason, version)?;
            }
            Ok(Some(Deployed { version: Some(version), changes, conversions }))
        })
    }

    fn alerts(&self) -> Result<Arc<Alerts>, Refused> {
        self.alerts.read().unwrap_or_else(PoisonError::into_inner).clone()
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

    fn try_connection(&self, name: &str) -> Result<Answer, Refused> {
        let project = self.project();
        self.wait(asked(&project, name))
    }

    fn entities(&self, connection: &str) -> Result<Vec<String>, Refused> {
        let project = self.project();
        self.wait(async { Ok(project.endpoint_apart(connection)?.entities().await?) })
    }

    fn entity(&self, connection: &str, entity: &str) -> Result<Entity, Refused> {
        let project = self.project();
        self.wait(async { Ok(project.endpoint_apart(connection)?.describe(entity).await?) })
    }

    fn captures(&self) -> Vec<Capture> {
        let project = self.project();
        let syncs = project.syncs(&[]).unwrap_or_default().into_iter();
        let captures = syncs.filter(|sync| sync.definition.external.capture.is_some()).map(|sync| {
            let captured = self.wait(async {
                let external = project.endpoint_apart(&sync.definition.external.connection)?;
                let captured = engine::capture_of(&sync, &*external, &project.store, false).await;
                captured.map_err(|error| failure(&project, &sync, &error))
            });
            let of = |captured: endpoint::Captured| (Some(captured.name), captured.kept_bytes, captured.trouble);
            let (name, kept_bytes, trouble) = match captured {
                Ok(captured) => captured.map(of).unwrap_or_default(),
                Err(refused) => (None, None, Some(refused.text)),
            };
            Capture { sync: sync.name, name, kept_bytes, trouble }
        });
        captures.collect()
    }

    fn drop_capture(&self, sync: &str, actor: &str) -> Result<Option<String>, Refused> {
        let project = self.project();
        self.wait(async {
            let project = project.again(actor)?;
            let syncs = project.syncs(&[sync.to_owned()])?;
            let sync = syncs.iter().find(|known| known.name == sync);
            let sync = sync.ok_or_else(|| Failure::new(Class::Mapping, "it is gone"))?;
            let external = project.endpoint_apart(&sync.definition.external.connection)?;
            let dropped = engine::capture_of(sync, &*external, &project.store, true).await;
            Ok(dropped.map_err(|error| failure(&project, sync, &error))?.map(|captured| captured.name))
        })
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
