//! What is left of the calls that an org allows in a day, and whether that lasts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::api::Api;
use crate::problem::Answered;
use crate::schedule::Schedule;
use crate::scheduler::{COMPARISON, Job};

/// How long an answer is good: what it is made of changes by the run.
const GOOD: Duration = Duration::from_secs(15);
/// The kind of connection that allows so many calls a day.
const KIND: &str = "salesforce";
/// Syncs that run behind one another: longer chains than this are circles.
const CHAIN: usize = 16;

/// The calls of one connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Budget {
    /// Its name.
    pub(crate) connection: String,
    /// What the org said was left, at the end of the newest run that asked it.
    pub(crate) left: Option<u64>,
    /// When that was, in RFC 3339.
    pub(crate) told: Option<String>,
    /// What our runs spent since midnight, UTC.
    pub(crate) spent: u64,
    /// What they will spend until the next midnight, as often as they are scheduled and if each takes what it took last.
    pub(crate) forecast: u64,
}

impl Budget {
    /// True where what is left may not last until midnight.
    pub(crate) fn is_short(&self) -> bool {
        self.left.is_some_and(|left| left < self.forecast)
    }
}

/// Budgets that were made not long ago.
#[derive(Default)]
pub(crate) struct Known(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    made: Option<(Instant, Arc<Vec<Budget>>)>,
    /// True while somebody makes them anew.
    making: bool,
}

/// Returns the budget of each org. What is old is made anew meanwhile: nobody who looks waits for it.
pub(crate) fn budgets(api: &Arc<Api>) -> Answered<Arc<Vec<Budget>>> {
    let mut kept = api.budgets.0.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((at, budgets)) = kept.made.clone() else {
        drop(kept);
        return renewed(api);
    };
    if at.elapsed() >= GOOD && !std::mem::replace(&mut kept.making, true) {
        let api = Arc::clone(api);
        tokio::task::spawn_blocking(move || renewed(&api).map(drop));
    }
    Ok(budgets)
}

fn renewed(api: &Api) -> Answered<Arc<Vec<Budget>>> {
    let made = made(api, Utc::now()).map(Arc::new);
    let mut kept = api.budgets.0.lock().unwrap_or_else(PoisonError::into_inner);
    kept.making = false;
    let budgets = made?;
    kept.made = Some((Instant::now(), Arc::clone(&budgets)));
    Ok(budgets)
}

fn made(api: &Api, now: DateTime<Utc>) -> Answered<Vec<Budget>> {
    let Ok(work) = api.work() else { return Ok(Vec::new()) };
    let (last, spent) = (api.store.last_ended_runs()?, api.store.calls_since(&midnight(now).to_rfc3339())?);
    let jobs: BTreeMap<String, Job> = work.plan().jobs.into_iter().map(|job| (job.sync.clone(), job)).collect();
    let report = |sync: &str| -> Option<(Value, &state::Run)> {
        let run = last.get(sync)?;
        Some((serde_json::from_str(&run.body).ok()?, run))
    };
    let connections = work.connections().into_iter().filter(|connection| connection.kind == KIND);
    let budgets = connections.map(|connection| {
        let mut budget = Budget { connection: connection.name, left: None, told: None, spent: 0, forecast: 0 };
        for sync in &connection.syncs {
            budget.spent += spent.get(sync).copied().unwrap_or_default();
            let Some((report, run)) = report(sync) else { continue };
            if report["calls_left"].is_u64() && run.ended > budget.told {
                (budget.left, budget.told) = (report["calls_left"].as_u64(), run.ended.clone());
            }
            let each = report["calls"].as_u64().unwrap_or_default() as f64;
            budget.forecast += (times(&jobs, sync, now, CHAIN) * each).ceil() as u64;
        }
        budget
    });
    Ok(budgets.collect())
}

/// Returns the midnight before this time, UTC.
fn midnight(now: DateTime<Utc>) -> DateTime<Utc> {
    now.date_naive().and_time(NaiveTime::MIN).and_utc()
}

/// Returns about how often a sync runs until the next midnight.
fn times(jobs: &BTreeMap<String, Job>, sync: &str, now: DateTime<Utc>, chain: usize) -> f64 {
    let until = midnight(now) + TimeDelta::days(1);
    match jobs.get(sync).and_then(|job| job.schedule.as_ref()) {
        Some(Schedule::After(other)) if chain > 0 => times(jobs, other.trim_end_matches(COMPARISON), now, chain - 1),
        Some(schedule) => schedule.count(now, until).unwrap_or_default(),
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Missed;

    #[test]
    fn what_runs_behind_another_runs_as_often_and_a_circle_ends() {
        let job = |sync: &str, schedule| {
            let job =
                Job { sync: sync.to_owned(), schedule, missed: Missed::Skip, priority: 0, connections: Vec::new() };
            (sync.to_owned(), job)
        };
        let after = |other: &str| Some(Schedule::After(other.to_owned()));
        let jobs = BTreeMap::from([
            job("orders", Some(Schedule::Every(TimeDelta::hours(1)))),
            job("report", after("orders")),
            job("mail", after("report")),
            job("a", after("b")),
            job("b", after("a")),
            job("asked", None),
        ]);
        let noon = DateTime::parse_from_rfc3339("2027-01-01T12:30:00Z").unwrap().to_utc();
        let often = |sync| times(&jobs, sync, noon, CHAIN).round() as u64;
        assert_eq!(["orders", "report", "mail", "a", "asked", "gone"].map(often), [11, 11, 11, 0, 0, 0]);
    }
}
