//! What runs at a server elsewhere: asked for, waited for, told as if it had run here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::{Forecast, Reconciliation};
use model::Class;
use serde::Deserialize;
use serde_json::{Value, json};
use server::{COMPARISON, Deployed, RunWanted};

use crate::Failure;
use crate::commands::{Planned, Run, good, missing, set_aside, tell};
use crate::desk::{Desk, part};

/// How often a server is asked whether something has ended.
const LOOK: Duration = Duration::from_millis(300);

/// What a server does with a sync.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Doing {
    running_since: Option<String>,
    waiting_since: Option<String>,
    follows: bool,
    failed: Option<String>,
    ended: u64,
}

/// A sync, as a server tells of it.
#[derive(Debug, Deserialize)]
struct Sync {
    planned: Doing,
    comparing: Option<Doing>,
    runs: Vec<Run>,
}

async fn look(desk: &Desk, sync: &str) -> Result<Sync, Failure> {
    desk.get(&format!("syncs/{}", part(sync))).await
}

/// Returns the syncs that are named, or all that a server has.
pub(crate) async fn syncs(desk: &Desk, named: &[String]) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct One {
        sync: String,
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let syncs: Vec<One> = desk.list("syncs", "syncs", &[], usize::MAX).await?;
    Ok(syncs.into_iter().map(|one| one.sync).filter(|sync| !sync.ends_with(COMPARISON)).collect())
}

/// Waits until what was asked for has ended: the one behind what was under way `before`.
async fn ended(desk: &Desk, sync: &str, before: &Doing, of: impl Fn(&Sync) -> Option<&Doing>) -> Result<Sync, Failure> {
    let wanted = before.ended + 1 + u64::from(before.running_since.is_some());
    loop {
        let now = look(desk, sync).await?;
        let doing = of(&now);
        let (at, idle) = doing
            .map_or((0, true), |doing| (doing.ended, doing.running_since.is_none() && doing.waiting_since.is_none()));
        if at < before.ended {
            let text = format!("{sync}: the server began anew meanwhile; `bridgehead runs` tells what became of it");
            return Err(Failure::new(Class::Stopped, text));
        }
        if at >= wanted && (idle || at > wanted) {
            return match doing.and_then(|doing| doing.failed.clone()) {
                // Its lines name the sync already.
                Some(why) => Err(Failure::new(Class::Internal, why)),
                None => Ok(now),
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Runs syncs there, one after the other as they are named.
pub(crate) async fn run(desk: &Desk, named: &[String], wanted: &RunWanted, as_json: bool) -> Result<(), Failure> {
    let (mut failures, mut dead) = (Vec::new(), 0);
    let body = serde_json::to_value(wanted).unwrap_or_default();
    for sync in syncs(desk, named).await? {
        let started = Instant::now();
        let before = look(desk, &sync).await?.planned;
        if before.follows && *wanted == RunWanted::default() {
            println!("{sync}: follows changes; there is nothing to run.");
            continue;
        }
        let _: Value = desk.post(&format!("syncs/{}/run", part(&sync)), &body).await?;
        let report = match ended(desk, &sync, &before, |sync| Some(&sync.planned)).await {
            Ok(now) => now.runs.into_iter().find(|run| run.ended.is_some()).and_then(|run| run.report),
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        let report =
            report.ok_or_else(|| Failure::new(Class::Internal, format!("{sync}: nothing is known of its run")))?;
        tell(&report, started.elapsed().as_secs_f64(), as_json)?;
        dead += report.counts.dead;
        failures.extend(missing(&report));
    }
    failures.extend(set_aside(dead));
    Failure::all(failures)
}

/// Compares both sides of a sync there.
pub(crate) async fn compare(desk: &Desk, sync: &str, wanted: &Value) -> Result<Reconciliation, Failure> {
    #[derive(Deserialize)]
    struct Found {
        reconciliations: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        report: Reconciliation,
    }
    let before = look(desk, sync).await?.comparing.unwrap_or_default();
    let _: Value = desk.post(&format!("syncs/{}/compare", part(sync)), wanted).await?;
    ended(desk, sync, &before, |sync| sync.comparing.as_ref()).await?;
    let Found { reconciliations } = desk.get(&format!("reconciliations?limit=1&sync={}", part(sync))).await?;
    let newest = reconciliations.into_iter().next();
    newest.map(|one| one.report).ok_or_else(|| Failure::new(Class::Internal, format!("{sync}: nothing was found")))
}

/// Says what runs would do there.
pub(crate) async fn plan(desk: &Desk, named: &[String], as_json: bool) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Told {
        forecast: Forecast,
    }
    let (mut failures, mut planned) = (Vec::new(), Planned::default());
    for sync in syncs(desk, named).await? {
        match desk.get::<Told>(&format!("syncs/{}/plan", part(&sync))).await {
            Ok(Told { forecast }) => planned.tell(&sync, forecast, as_json)?,
            Err(failure) => failures.push(failure),
        }
    }
    planned.end(as_json);
    Failure::all(failures)
}

/// Checks the folder's project against the systems that a server reaches.
pub(crate) async fn check(desk: &Desk, folder: &std::path::Path) -> Result<(), Failure> {
    let files: BTreeMap<String, String> = crate::project::files_of(folder)?;
    let body = json!({"files": files, "reason": "a check", "dry_run": true});
    let Deployed { conversions, changes, .. } = desk.post("versions", &body).await?;
    if changes.is_empty() {
        println!("The server has the same at work.");
    }
    for (sync, conversions) in conversions {
        good(&sync, &conversions);
    }
    Ok(())
}
