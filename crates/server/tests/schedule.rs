//! The scheduler with work that does nothing but wait to be told to end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use model::Class;
use server::{
    Alerts, Answer, Asked, AtOnce, Capture, Connected, Deployed, Deploying, Fields, Handle, Job, Mapped, Missed, Plan,
    Refused, RunWanted, Schedule, Scheduler, TakenBack, Tried, Undoing, Work,
};
use state::{Files, Link, Store};
use tokio_util::sync::CancellationToken;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How a run ends.
type Ends = Result<bool, String>;

/// Runs that end when they are told how.
#[derive(Default)]
struct Puppets {
    jobs: Mutex<Vec<Job>>,
    at_once: usize,
    connections: BTreeMap<String, usize>,
    /// What runs, in the order in which it began; and how a run is to end.
    state: Mutex<(Vec<String>, HashMap<String, Ends>)>,
    /// How each of them was asked for.
    asked: Mutex<Vec<Asked>>,
    told: Condvar,
}

impl Puppets {
    fn new(jobs: Vec<Job>, at_once: usize) -> Arc<Self> {
        Arc::new(Self { jobs: Mutex::new(jobs), at_once, ..Self::default() })
    }

    fn begun(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn end(&self, sync: &str, result: Ends) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.insert(sync.to_owned(), result);
        self.told.notify_all();
    }
}

impl Work for Puppets {
    fn plan(&self) -> Plan {
        let at_once = AtOnce { all: self.at_once, connections: self.connections.clone() };
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Plan { digest: jobs.len() as u64, jobs, at_once }
    }

    fn run(&self, sync: &str, asked: Asked, stop: CancellationToken) -> Ends {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push(sync.to_owned());
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        loop {
            if let Some(result) = state.1.remove(sync) {
                return result;
            }
            if stop.is_cancelled() {
                return Err("stopped".to_owned());
            }
            state = self.told.wait_timeout(state, Duration::from_millis(5)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn progress_of(&self, _sync: &str) -> Option<(u64, u64)> {
        None
    }

    fn forecast(&self, _sync: &str) -> Result<engine::Forecast, Refused> {
        Err(nothing())
    }

    fn undo(&self, _run: i64, _how: Undoing, _actor: &str) -> Result<engine::Report, Refused> {
        Err(nothing())
    }

    fn take_back(&self, _actor: &str, _dry_run: bool) -> Result<TakenBack, Refused> {
        Err(nothing())
    }

    fn mappings(&self) -> Vec<Mapped> {
        Vec::new()
    }

    fn mapping_text(&self, _mapping: &str) -> Option<String> {
        None
    }

    fn try_mapping(&self, _mapping: &str, _text: &str) -> Result<Vec<Tried>, Refused> {
        Err(nothing())
    }

    fn keep_mapping(&self, _mapping: &str, _text: &str, _author: &str, _reason: &str) -> Result<i64, Refused> {
        Err(nothing())
    }

    fn deploy(&self, _: Files, _: &str, _: &str, _: &str, _: Deploying) -> Result<Deployed, Refused> {
        Err(nothing())
    }

    fn put_to_work(&self, _: i64, _: &str, _: &str, _: &str, _: Deploying) -> Result<Option<Deployed>, Refused> {
        Err(nothing())
    }

    fn settings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn alerts(&self) -> Result<Arc<Alerts>, Refused> {
        Err(nothing())
    }

    fn record(&self, _mapping: &str, _link: &Link) -> [Result<Fields, String>; 2] {
        [Ok(None), Ok(None)]
    }

    fn connections(&self) -> Vec<Connected> {
        Vec::new()
    }

    fn try_connection(&self, _name: &str) -> Result<Answer, Refused> {
        Err(nothing())
    }

    fn entities(&self, _connection: &str) -> Result<Vec<String>, Refused> {
        Err(nothing())
    }

    fn entity(&self, _connection: &str, _entity: &str) -> Result<model::Entity, Refused> {
        Err(nothing())
    }

    fn captures(&self) -> Vec<Capture> {
        Vec::new()
    }

    fn drop_capture(&self, _sync: &str, _actor: &str) -> Result<Option<String>, Refused> {
        Err(nothing())
    }
}

/// There is no project behind it.
fn nothing() -> Refused {
    Refused { text: "there is no project".to_owned(), class: Class::Internal }
}

fn job(sync: &str, schedule: Option<Schedule>, priority: i32) -> Job {
    Job {
        sync: sync.to_owned(),
        schedule,
        missed: Missed::RunOnce,
        priority,
        connections: vec![format!("c-{sync}"), "crm".to_owned()],
    }
}

fn every(hours: i64) -> Option<Schedule> {
    Some(Schedule::Every(TimeDelta::hours(hours)))
}

/// Waits until something holds; a test that waits for what never comes fails by its own limit.
async fn until(mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it comes to pass in time");
}

fn waits(handle: &Handle, sync: &str) -> bool {
    handle.planned()[sync].waiting_since.is_some()
}

fn runs(handle: &Handle, sync: &str) -> bool {
    handle.planned()[sync].running_since.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_important_run_first_and_no_more_at_once_than_is_allowed() -> Result<(), Failed> {
    let jobs =
        vec![job("low", every(1), 0), job("high", every(1), 9), job("middle", every(1), 5), job("asked", None, 7)];
    let work = Puppets::new(jobs, 2);
    let store = Store::in_memory()?;
    let scheduler = Scheduler::start(store.clone(), Arc::<Puppets>::clone(&work));
    let handle = scheduler.handle();
    until(|| work.begun().len() == 2).await;
    let mut first = work.begun();
    first.sort();
    assert_eq!(first, ["high", "middle"]);
    assert!(waits(&handle, "low") && !runs(&handle, "asked"));
    assert!(handle.run("asked", Asked::default()) && !handle.run("nobody", Asked::default()));
    until(|| waits(&handle, "asked")).await;
    work.end("high", Ok(true));
    until(|| work.begun().len() == 3).await;
    assert_eq!(work.begun()[2], "asked", "it came later, and matters more");
    work.end("middle", Err("no way".to_owned()));
    until(|| work.begun().len() == 4).await;
    until(|| handle.planned()["middle"].failed.as_deref() == Some("no way")).await;
    let next = store.planned()?;
    assert!(next["high"] > Utc::now() + TimeDelta::minutes(59) && !next.contains_key("low"));
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_takes_as_many_as_it_is_said_to() -> Result<(), Failed> {
    let mut work = Puppets::new(vec![job("a", every(1), 1), job("b", every(1), 0)], 8);
    Arc::get_mut(&mut work).ok_or("it is ours")?.connections = BTreeMap::from([("crm".to_owned(), 1)]);
    let scheduler = Scheduler::start(Store::in_memory()?, Arc::<Puppets>::clone(&work));
    until(|| work.begun() == ["a"]).await;
    until(|| waits(&scheduler.handle(), "b")).await;
    work.end("a", Ok(true));
    until(|| work.begun() == ["a", "b"]).await;
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_behind_another_that_ran_well_and_only_then() -> Result<(), Failed> {
    let work =
        Puppets::new(vec![job("orders", every(1), 0), job("report", Some(Schedule::After("orders".to_owned())), 0)], 4);
    let scheduler = Scheduler::start(Store::in_memory()?, Arc::<Puppets>::clone(&work));
    let handle = scheduler.handle();
    for (result, begun) in [(Err("no".to_owned()), 1), (Ok(false), 2), (Ok(true), 3)] {
        if begun > 1 {
            assert!(handle.run("orders", Asked::default()));
        }
        until(|| work.begun().len() == begun).await;
        work.end("orders", result);
        until(|| !runs(&handle, "orders") && !waits(&handle, "orders")).await;
    }
    until(|| work.begun().len() == 4).await;
    assert_eq!(work.begun(), ["orders", "orders", "orders", "report"]);
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_is_begun_again_and_what_is_done_is_not() -> Result<(), Failed> {
    let store = Store::in_memory()?;
    let jobs = || vec![job("done", every(1), 0), job("cut", every(1), 0)];
    let work = Puppets::new(jobs(), 4);
    let scheduler = Scheduler::start(store.clone(), Arc::<Puppets>::clone(&work));
    until(|| work.begun().len() == 2).await;
    work.end("done", Ok(true));
    until(|| store.planned().is_ok_and(|planned| planned.contains_key("done"))).await;
    // The end comes while the other one runs.
    scheduler.drain().await;
    let again = Puppets::new(jobs(), 4);
    let scheduler = Scheduler::start(store.clone(), Arc::<Puppets>::clone(&again));
    until(|| again.begun() == ["cut"]).await;
    assert!(!runs(&scheduler.handle(), "done") && !waits(&scheduler.handle(), "done"));
    scheduler.drain().await;
    // A time long gone runs once, or not, as it is said to.
    store.plan("done", Utc::now() - TimeDelta::days(3))?;
    store.plan("cut", Utc::now() - TimeDelta::days(3))?;
    let mut skipping = jobs();
    skipping[1].missed = Missed::Skip;
    let third = Puppets::new(skipping, 4);
    let scheduler = Scheduler::start(store, Arc::<Puppets>::clone(&third));
    until(|| third.begun() == ["done"]).await;
    let planned = scheduler.handle().planned();
    assert!(planned["cut"].waiting_since.is_none() && planned["cut"].next > Some(Utc::now()));
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sync_is_left_alone_and_a_changed_project_is_taken_over() -> Result<(), Failed> {
    let store = Store::in_memory()?;
    store.pause("a", "it writes nonsense")?;
    let work = Puppets::new(vec![job("a", every(1), 0)], 4);
    let scheduler = Scheduler::start(store.clone(), Arc::<Puppets>::clone(&work));
    let handle = scheduler.handle();
    assert_eq!(handle.planned()["a"].paused.as_deref(), Some("it writes nonsense"));
    assert_eq!(handle.planned()["a"].next, None);
    *work.jobs.lock().unwrap_or_else(PoisonError::into_inner) = vec![job("a", every(1), 0), job("b", every(1), 0)];
    handle.changed();
    until(|| work.begun() == ["b"]).await;
    assert!(handle.resume("ada", "a")? && !handle.resume("ada", "a")?);
    until(|| work.begun() == ["b", "a"]).await;
    // What runs while it is taken away ends, and is gone then.
    *work.jobs.lock().unwrap_or_else(PoisonError::into_inner) = vec![job("a", every(1), 0)];
    handle.changed();
    work.end("b", Ok(true));
    until(|| !handle.planned().contains_key("b")).await;
    let who: Vec<(String, String)> = store.audit_after(0)?.into_iter().map(|entry| (entry.actor, entry.what)).collect();
    assert_eq!(who, [("local".to_owned(), "paused".to_owned()), ("ada".to_owned(), "resumed".to_owned())]);
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_syncs_are_planned_and_none_twice() -> Result<(), Failed> {
    let jobs: Vec<Job> = (0..1_000).map(|number| job(&format!("s{number:04}"), every(1), 0)).collect();
    let work = Puppets::new(jobs, 20);
    let scheduler = Scheduler::start(Store::in_memory()?, Arc::<Puppets>::clone(&work));
    for number in 0..1_000 {
        work.end(&format!("s{number:04}"), Ok(true));
    }
    until(|| work.begun().len() >= 1_000).await;
    until(|| {
        scheduler
            .handle()
            .planned()
            .values()
            .all(|planned| planned.running_since.is_none() && planned.next > Some(Utc::now()))
    })
    .await;
    let mut begun = work.begun();
    begun.sort();
    begun.dedup();
    assert_eq!((begun.len(), work.begun().len()), (1_000, 1_000));
    scheduler.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_changes_keeps_nobody_waiting_and_begins_anew_with_another_configuration() -> Result<(), Failed> {
    let followed = job("orders", Some(Schedule::OnChanges), 0);
    let work = Puppets::new(vec![followed.clone(), job("report", every(1), 0)], 1);
    let store = Store::in_memory()?;
    let scheduler = Scheduler::start(store.clone(), Arc::<Puppets>::clone(&work));
    let handle = scheduler.handle();
    let begun = |sync: &str| work.begun().iter().filter(|one| *one == sync).count();
    until(|| begun("orders") == 1 && begun("report") == 1).await;
    assert!(handle.planned()["orders"].follows && !handle.planned()["report"].follows);
    // A pause ends it, and going on begins it again, at once.
    handle.pause("ada", "orders", "stocktaking")?;
    until(|| !runs(&handle, "orders")).await;
    assert_eq!(handle.planned()["orders"].failed, None, "it did what it was asked to");
    assert!(handle.resume("ada", "orders")?);
    until(|| begun("orders") == 2).await;
    // Dead letters are tried again by a run of their own, which waits for its turn, and then it goes on.
    work.end("report", Ok(true));
    until(|| !runs(&handle, "report")).await;
    assert!(handle.run("orders", Asked { letters: [7].into(), ..Asked::default() }));
    until(|| begun("orders") == 3).await;
    assert!(!handle.planned()["orders"].follows, "this is a run");
    work.end("orders", Ok(true));
    *work.jobs.lock().unwrap_or_else(PoisonError::into_inner) = vec![followed];
    handle.changed();
    until(|| handle.planned().len() == 1).await;
    scheduler.drain().await;
    Ok(())
}

#[tokio::test]
async fn a_run_is_as_it_was_asked_for_by_all_who_did() -> Result<(), Failed> {
    let store = Store::in_memory()?;
    let work = Puppets::new(vec![job("orders", None, 0), job("orders: compare", None, 0), job("other", None, 0)], 1);
    let scheduler = Scheduler::start(store, work.clone());
    let handle = scheduler.handle();
    assert!(!handle.planned().contains_key("orders: compare"), "what is never compared is not shown");
    assert!(handle.run("other", Asked::default()));
    until(|| runs(&handle, "other")).await;
    let by = |actor: &str, pilot, full| {
        let run = RunWanted { pilot, full, ..RunWanted::default() };
        Asked { actor: Some(actor.to_owned()), run, ..Asked::default() }
    };
    // While it waits for its turn a second one asks for a slice, and a third for everything.
    assert!(handle.run("orders", by("ada", Some(5), false)) && handle.run("orders", by("ben", Some(9), false)));
    until(|| waits(&handle, "orders")).await;
    work.end("other", Ok(true));
    until(|| runs(&handle, "orders")).await;
    assert!(handle.run("orders", by("ada", Some(5), false)) && handle.run("orders", by("eve", None, true)));
    assert!(handle.run("orders: compare", by("eve", None, false)) && !handle.run("nobody: compare", Asked::default()));
    until(|| waits(&handle, "orders") && handle.planned().contains_key("orders: compare")).await;
    work.end("orders", Ok(true));
    until(|| work.begun().len() == 3).await;
    let asked = work.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(asked[1], by("ben", Some(9), false), "of two slices the later");
    assert_eq!(asked[2], by("eve", None, true), "everything has the slice in it");
    work.end("orders", Ok(true));
    until(|| work.begun().len() == 4).await;
    work.end("orders: compare", Ok(true));
    until(|| !handle.planned().contains_key("orders: compare")).await;
    assert_eq!(handle.planned_of("orders").map(|planned| planned.ended), Some(2));
    scheduler.drain().await;
    Ok(())
}
