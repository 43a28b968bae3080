//! Syncs that are followed as changes happen, and what their streams do.

use engine::{Following, Options, Report, StreamState, Sync};
use model::{Class, Side};

use crate::Failure;
use crate::commands::{failure, json, line, stop_on_interrupt, table};
use crate::desk::Desk;
use crate::project::Project;

/// Follows syncs, all at the same time, until Ctrl-C or until one of them can't go on.
pub(crate) async fn follow(project: &Project, names: &[String], force: bool, as_json: bool) -> Result<(), Failure> {
    let mut followed = project.syncs(names)?;
    if names.is_empty() {
        let mut told = Vec::new();
        for sync in followed {
            if tells(project, &sync)? {
                told.push(sync);
            }
        }
        followed = told;
    }
    if followed.is_empty() {
        let text = "there is no sync to follow: none goes both ways, out of Salesforce, out of a queue or out of a table with `capture`";
        return Err(Failure::new(Class::Mapping, text));
    }
    let options = Options { force, stop: stop_on_interrupt(), ..Options::default() };
    let all = followed.iter().map(async |sync| {
        let result = follow_one(project, sync, &options, as_json).await;
        // One that can't go on is no reason to lose the others, but somebody has to look.
        if let Err(failure) = &result {
            eprintln!("error: {}", failure.text);
        }
        result
    });
    let failures = futures::future::join_all(all).await.into_iter().filter_map(Result::err).collect();
    Failure::all(failures)
}

/// True when what a sync reads tells of its changes: syncs of files, say, run when they are asked to.
fn tells(project: &Project, sync: &Sync) -> Result<bool, Failure> {
    let captured = sync.definition.external.capture.is_some();
    let known = sync.two_way.is_some() || sync.direction.source() == Side::Salesforce || captured;
    Ok(known || project.endpoints_apart(sync)?.0.capabilities().only_tells)
}

/// Follows a sync until it is stopped; `progress` is called when it is in step, and after each batch.
pub(crate) async fn until_stopped(
    project: &Project,
    sync: &Sync,
    options: &Options,
    progress: &(dyn Fn(&Report) + Send + std::marker::Sync),
) -> Result<Report, Failure> {
    let (source, target) = project.endpoints_apart(sync)?;
    let parents = |name: &str| project.parent_key(name);
    let (ends, store, following) = ([&*source, &*target], &project.store, Following::default());
    let report = if sync.two_way.is_some() {
        engine::follow_pairs(sync, ends, store, &parents, options, following, progress).await
    } else {
        engine::follow(sync, ends, store, &parents, options, following, progress).await
    };
    report.map_err(|error| failure(project, sync, &error))
}

async fn follow_one(project: &Project, sync: &Sync, options: &Options, as_json: bool) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    let in_step = std::sync::Once::new();
    let progress = |_: &Report| {
        in_step.call_once(|| {
            if !as_json {
                let sides = if sync.two_way.is_some() { " on both sides" } else { "" };
                println!("{}: in step; following changes{sides}. Ctrl-C stops it.", sync.name);
            }
        });
    };
    let report = until_stopped(project, sync, options, &progress).await?;
    if as_json {
        return json(&report);
    }
    println!("{}", line(&report, started.elapsed().as_secs_f64()));
    if let Some(lag) = report.lag {
        println!("  {} changes told; from commit to commit {}", lag.count, shown(lag));
    }
    Ok(())
}

fn shown(lag: engine::Lag) -> String {
    format!("p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms, at most {:.0} ms", lag.p50, lag.p95, lag.p99, lag.max)
}

/// Says what the streams of followed syncs do, or did last.
pub(crate) async fn streams(desk: &Desk, as_json: bool) -> Result<(), Failure> {
    #[derive(serde::Deserialize)]
    struct Streams {
        streams: Vec<StreamState>,
    }
    let mut rows = table(&["sync", "side", "state", "changes", "a second", "lag p50/p99", "reconnects", "gaps"]);
    let Streams { streams } = desk.get("streams").await?;
    if streams.is_empty() && !as_json {
        println!("No sync is followed. `bridgehead run --follow` does that.");
        return Ok(());
    }
    for shown in streams {
        if as_json {
            json(&shown)?;
            continue;
        }
        let stream = shown.stream;
        rows.add_row([
            shown.sync,
            shown.side.into_owned(),
            shown.state.into_owned(),
            stream.changes.to_string(),
            format!("{:.1}", stream.per_second),
            format!("{:.0}/{:.0} ms", stream.lag.p50, stream.lag.p99),
            stream.reconnects.to_string(),
            stream.last_gap.map_or_else(|| stream.gaps.to_string(), |why| format!("{} ({why})", stream.gaps)),
        ]);
    }
    if !as_json {
        println!("{rows}");
    }
    Ok(())
}
