//! Runs syncs when they are due, as many at once as their connections take, the important ones first.
//!
//! What is due is in the store, and moves on only when the run it stands for has ended: after a crash that run is begun again, and
//! goes on where its checkpoint is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use state::Store;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::schedule::{Missed, Schedule};
use crate::work::{Asked, Work};

/// Longest sleep: whoever sets the clock is noticed by then.
const LOOK: Duration = Duration::from_secs(15);

/// What stands behind the name of a sync in that of the job which compares both of its sides.
pub const COMPARISON: &str = ": compare";

/// A sync as it is scheduled.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub sync: String,
    /// When it runs; only when it is asked to if there is none.
    pub schedule: Option<Schedule>,
    /// What becomes of times that were missed.
    pub missed: Missed,
    /// Of those that wait the one with the highest runs first.
    pub priority: i32,
    /// The connections that it uses.
    pub connections: Vec<String>,
}

/// How many syncs run at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtOnce {
    /// In all.
    pub all: usize,
    /// That use a connection, by its name.
    pub connections: BTreeMap<String, usize>,
}

/// What is scheduled.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The syncs.
    pub jobs: Vec<Job>,
    /// How many of them run at once.
    pub at_once: AtOnce,
    /// Tells this configuration from others: what follows changes begins anew with another.
    pub digest: u64,
}

/// What the scheduler knows of a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// When it runs next.
    pub next: Option<DateTime<Utc>>,
    /// Since when it runs.
    pub running_since: Option<DateTime<Utc>>,
    /// True while it is told of changes and writes them as they come.
    pub follows: bool,
    /// Since when it is due, and waits for others to end.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Why it is paused.
    pub paused: Option<String>,
    /// How its last run under this scheduler failed.
    pub failed: Option<String>,
    /// How many of its runs ended under this scheduler.
    pub ended: u64,
}

impl Planned {
    /// True where it neither is at work, nor will be, nor failed.
    fn is_idle(&self) -> bool {
        let Self { next, running_since, waiting_since, paused, failed, follows: _, ended: _ } = self;
        next.or(*running_since).or(*waiting_since).is_none() && paused.is_none() && failed.is_none()
    }
}

enum Command {
    Run(String, Box<Asked>),
    Changed,
}

/// Asks a scheduler for something, and looks at what it does.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    shown: Arc<RwLock<BTreeMap<String, Planned>>>,
    store: Store,
    work: Arc<dyn Work>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(sync, asked) => write!(f, "Run({sync}, {asked:?})"),
            Self::Changed => f.write_str("Changed"),
        }
    }
}

impl Handle {
    /// Returns what is known of each sync, by name; of what compares syncs, that which is or will be at work.
    pub fn planned(&self) -> BTreeMap<String, Planned> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = shown.iter().filter(|(sync, planned)| !sync.ends_with(COMPARISON) || !planned.is_idle());
        wanted.map(|(sync, planned)| (sync.clone(), planned.clone())).collect()
    }

    /// Returns what is known of one sync.
    pub fn planned_of(&self, sync: &str) -> Option<Planned> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).get(sync).cloned()
    }

    /// Lets a sync run as soon as its turn comes, also where it is paused; false where there is none of this name. What it
    /// compares is asked for by its name with [`COMPARISON`] behind it.
    pub fn run(&self, sync: &str, asked: Asked) -> bool {
        self.planned_of(sync).is_some() && self.commands.send(Command::Run(sync.to_owned(), Box::new(asked))).is_ok()
    }

    /// Returns whoever runs syncs.
    pub fn work(&self) -> Arc<dyn Work> {
        Arc::clone(&self.work)
    }

    /// Pauses a sync, with the reason; a run of it that is under way ends first.
    ///
    /// # Errors
    ///
    /// When the store can't be written.
    pub fn pause(&self, actor: &str, sync: &str, why: &str) -> state::Result<()> {
        self.store.acting_as(actor).pause(sync, why)?;
        self.changed();
        Ok(())
    }

    /// Lets a paused sync go on; false if it was not paused.
    ///
    /// # Errors
    ///
    /// When the store can't be written.
    pub fn resume(&self, actor: &str, sync: &str) -> state::Result<bool> {
        let paused = self.store.acting_as(actor).resume(sync)?;
        self.changed();
        Ok(paused)
    }

    /// Says that the configuration, or what is paused, changed.
    pub fn changed(&self) {
        // A scheduler that has ended needs to know nothing.
        let _ = self.commands.send(Command::Changed);
    }
}

/// A scheduler at work.
#[derive(Debug)]
pub struct Scheduler {
    handle: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Scheduler {
    /// Starts one.
    pub fn start(store: Store, work: Arc<dyn Work>) -> Self {
        let (commands, asked) = mpsc::unbounded_channel();
        let handle = Handle { commands, shown: Arc::default(), store: store.clone(), work: Arc::clone(&work) };
        let stop = CancellationToken::new();
        let mut running = Running {
            store,
            work,
            stop: stop.clone(),
            shown: Arc::clone(&handle.shown),
            jobs: HashMap::new(),
            at_once: AtOnce { all: 1, connections: BTreeMap::new() },
            digest: 0,
            followed: HashMap::new(),
            due: BTreeSet::new(),
            planned: BTreeMap::new(),
            asked: HashMap::new(),
            tasks: JoinSet::new(),
        };
        running.reload();
        running.show();
        Self { handle, stop, task: tokio::spawn(running.serve(asked)) }
    }

    /// Returns a handle to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Begins nothing more, asks what runs to stop at its next checkpoint, and waits until it has.
    pub async fn drain(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the scheduler ended badly");
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a run came to.
struct Ended {
    sync: String,
    result: Result<bool, String>,
}

struct Running {
    store: Store,
    work: Arc<dyn Work>,
    stop: CancellationToken,
    shown: Arc<RwLock<BTreeMap<String, Planned>>>,
    jobs: HashMap<String, Job>,
    at_once: AtOnce,
    digest: u64,
    /// Syncs that follow changes, each with what stops it. They count for none of the limits.
    followed: HashMap<String, CancellationToken>,
    /// What is planned, the next first.
    due: BTreeSet<(DateTime<Utc>, String)>,
    planned: BTreeMap<String, Planned>,
    /// How what waits is to run, where somebody asked for it.
    asked: HashMap<String, Asked>,
    tasks: JoinSet<Ended>,
}

impl Running {
    async fn serve(mut self, mut asked: mpsc::UnboundedReceiver<Command>) {
        while !self.stop.is_cancelled() {
            self.take_due(Utc::now());
            self.begin();
            self.show();
            let sleep = match self.due.first() {
                Some((due, _)) => (*due - Utc::now()).to_std().unwrap_or_default().min(LOOK),
                None => LOOK,
            };
            tokio::select! {
                command = asked.recv() => match command {
                    Some(Command::Run(sync, asked)) => self.ask(&sync, *asked),
                    Some(Command::Changed) => self.reload(),
                    None => break,
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                () = tokio::time::sleep(sleep) => {}
                () = self.stop.cancelled() => {}
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
            self.show();
        }
    }

    /// Takes over the configuration as it is now.
    fn reload(&mut self) {
        let Plan { jobs, at_once, digest } = self.work.plan();
        let (known, paused) = match (self.store.planned(), self.store.paused()) {
            (Ok(known), Ok(paused)) => (known, paused),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "the scheduler can't read its plan; it stays as it was");
                return;
            }
        };
        let now = Utc::now();
        let same = std::mem::replace(&mut self.digest, digest) == digest;
        self.at_once = at_once;
        self.due.clear();
        let mut before = std::mem::take(&mut self.planned);
        self.jobs = jobs.into_iter().map(|job| (job.sync.clone(), job)).collect();
        for job in self.jobs.values() {
            let mut planned = before.remove(&job.sync).unwrap_or_default();
            planned.paused = paused.get(&job.sync).cloned();
            planned.next = match &job.schedule {
                Some(schedule) if planned.paused.is_none() => {
                    schedule.at_start(known.get(&job.sync).copied(), job.missed, now)
                }
                _ => None,
            };
            // What runs already is planned anew when it ends.
            if let (Some(next), None) = (planned.next, planned.running_since) {
                self.due.insert((next, job.sync.clone()));
            }
            self.planned.insert(job.sync.clone(), planned);
        }
        for (sync, stop) in &self.followed {
            if !same || self.planned.get(sync).is_none_or(|planned| planned.paused.is_some()) {
                stop.cancel();
            }
        }
        // What runs though it is no longer there is shown until it ends.
        self.planned.extend(before.into_iter().filter(|(_, planned)| planned.running_since.is_some()));
    }

    /// Lets what is due wait for its turn.
    fn take_due(&mut self, now: DateTime<Utc>) {
        while let Some((due, sync)) = self.due.first().cloned() {
            if due > now {
                break;
            }
            self.due.pop_first();
            self.wait_also(&sync);
        }
    }

    /// Lets a sync wait for its turn as somebody asked for it.
    fn ask(&mut self, sync: &str, asked: Asked) {
        match self.followed.get(sync) {
            Some(_) if asked.is_plain() => return,
            // What follows changes stops for it, comes back for it, and goes on behind it.
            Some(stop) => stop.cancel(),
            None => {}
        }
        let waits = self.planned.get(sync).is_some_and(|planned| planned.waiting_since.is_some());
        let before = self.asked.remove(sync).or_else(|| waits.then(Asked::due));
        self.asked.insert(sync.to_owned(), before.map(|before| before.and(asked.clone())).unwrap_or(asked));
        self.wait(sync);
    }

    /// Lets a sync wait for its turn that is due, and whatever else is asked of it.
    fn wait_also(&mut self, sync: &str) {
        // One that follows changes only comes back for what was asked.
        let follows = self.jobs.get(sync).is_some_and(|job| matches!(job.schedule, Some(Schedule::OnChanges)));
        if !follows && let Some(asked) = self.asked.remove(sync) {
            self.asked.insert(sync.to_owned(), asked.and(Asked::due()));
        }
        self.wait(sync);
    }

    fn wait(&mut self, sync: &str) {
        if let Some(planned) = self.planned.get_mut(sync).filter(|planned| !planned.follows) {
            planned.waiting_since.get_or_insert_with(Utc::now);
        }
    }

    /// Begins what waits, as far as its connections allow: by priority, then by how long it has waited.
    fn begin(&mut self) {
        self.begin_following();
        if !self.is_free() {
            return;
        }
        let mut waiting: Vec<(i32, DateTime<Utc>, String)> = self
            .planned
            .iter()
            .filter(|(_, planned)| planned.running_since.is_none())
            .filter_map(|(sync, planned)| Some((-self.jobs.get(sync)?.priority, planned.waiting_since?, sync.clone())))
            .collect();
        waiting.sort();
        let mut used: HashMap<String, usize> = HashMap::new();
        let running = self.planned.iter().filter(|(_, planned)| planned.running_since.is_some() && !planned.follows);
        for connection in running.filter_map(|(sync, _)| self.jobs.get(sync)).flat_map(|job| &job.connections) {
            *used.entry(connection.clone()).or_default() += 1;
        }
        for (_, _, sync) in waiting {
            let Some(job) = self.jobs.get(&sync).filter(|_| self.is_free()) else { continue };
            let most = |connection| self.at_once.connections.get(connection).copied().unwrap_or(usize::MAX);
            if job
                .connections
                .iter()
                .all(|connection| used.get(connection).copied().unwrap_or_default() < most(connection))
            {
                for connection in &job.connections {
                    *used.entry(connection.clone()).or_default() += 1;
                }
                drop(self.spawn(&sync));
            }
        }
    }

    /// Begins what follows changes and waits: it goes on all the time, and keeps nobody else from running.
    fn begin_following(&mut self) {
        let waits = |sync: &&String| {
            let planned = self.planned.get(*sync);
            planned.is_some_and(|planned| planned.running_since.is_none() && planned.waiting_since.is_some())
        };
        let follows = |job: &&Job| matches!(job.schedule, Some(Schedule::OnChanges));
        let follows = self.jobs.values().filter(follows).map(|job| &job.sync).filter(waits);
        let plain = |sync: &&String| self.asked.get(*sync).is_none_or(Asked::is_plain);
        let follows: Vec<String> = follows.filter(plain).cloned().collect();
        for sync in follows {
            let stop = self.spawn(&sync);
            self.followed.insert(sync.clone(), stop);
            if let Some(planned) = self.planned.get_mut(&sync) {
                planned.follows = true;
            }
        }
    }

    /// True while more may run in all.
    fn is_free(&self) -> bool {
        self.tasks.len() - self.followed.len() < self.at_once.all.max(1)
    }

    fn spawn(&mut self, sync: &str) -> CancellationToken {
        let (work, stop, name) = (Arc::clone(&self.work), self.stop.child_token(), sync.to_owned());
        let given = stop.clone();
        let asked = self.asked.remove(sync).unwrap_or_else(Asked::due);
        self.tasks.spawn(async move {
            let sync = name.clone();
            let run = tokio::task::spawn_blocking(move || work.run(&name, asked, stop)).await;
            Ended { sync, result: run.unwrap_or_else(|error| Err(format!("it ended badly: {error}"))) }
        });
        if let Some(planned) = self.planned.get_mut(sync) {
            (planned.running_since, planned.waiting_since, planned.failed) = (Some(Utc::now()), None, None);
        }
        given
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ok(Ended { sync, result }) = ended else { return };
        let now = Utc::now();
        let stopped = self.stop.is_cancelled();
        // Asked to stop for a while, it goes on at once when it may.
        let at_once = self.followed.remove(&sync).is_some_and(|stop| stop.is_cancelled());
        if let Some(planned) = self.planned.get_mut(&sync) {
            (planned.running_since, planned.follows) = (None, false);
            planned.ended += 1;
            planned.failed = result.as_ref().err().filter(|_| !stopped && !at_once).cloned();
        }
        if stopped {
            // What was planned is still to be done: it goes on when the program starts again.
            return;
        }
        let Some(job) = self.jobs.get(&sync) else {
            self.planned.remove(&sync);
            return;
        };
        if let Some(schedule) = &job.schedule
            && let Some(planned) = self.planned.get_mut(&sync)
        {
            let next = schedule.behind(planned.next.unwrap_or(now), now);
            let next = if at_once { Some(now) } else { next };
            planned.next = next.filter(|_| planned.paused.is_none());
            if let Some(next) = next {
                if let Err(error) = self.store.plan(&sync, next) {
                    tracing::error!(%error, sync, "when it runs next can't be kept");
                }
                if planned.paused.is_none() {
                    self.due.retain(|(_, other)| *other != sync);
                    self.due.insert((next, sync.clone()));
                }
            }
        }
        match result {
            Ok(true) => {
                let behind = |job: &&Job| matches!(&job.schedule, Some(Schedule::After(before)) if *before == sync);
                let next: Vec<String> = self.jobs.values().filter(behind).map(|job| job.sync.clone()).collect();
                for next in next {
                    if self.planned.get(&next).is_some_and(|planned| planned.paused.is_none()) {
                        self.wait_also(&next);
                    }
                }
            }
            Ok(false) => tracing::warn!(sync, "rows are missing; the next run reads them again"),
            Err(_) if at_once => {}
            Err(error) => tracing::error!(sync, error, "the run could not go on"),
        }
    }

    fn show(&self) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        if *shown != self.planned {
            shown.clone_from(&self.planned);
        }
    }
}
