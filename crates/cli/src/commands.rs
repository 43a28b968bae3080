//! The commands that work on a project.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Instant;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use endpoint::Endpoint;
use engine::{Forecast, Options, Pilot, Preview, Progress, Replay, Report, Sync};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Class, Entity, Side};
use serde::{Deserialize, Serialize};
use server::Undoing;
use state::Alert;
use tokio_util::sync::CancellationToken;

use crate::desk::{Desk, part};
use crate::lineage::Ended;
use crate::project::Project;
use crate::{Failure, config};

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::from_error(Class::Internal, &error))?;
    println!("{text}");
    Ok(())
}

pub(crate) async fn discover(
    desk: &Desk,
    connection: &str,
    entity: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Entities {
        entities: Vec<String>,
    }
    #[derive(Deserialize)]
    struct One {
        entity: Entity,
    }
    let entities = format!("connections/{}/entities", part(connection));
    let Some(entity) = entity else {
        let Entities { entities } = desk.get(&entities).await?;
        if as_json {
            return json(&entities);
        }
        for name in entities {
            println!("{name}");
        }
        return Ok(());
    };
    let One { entity } = desk.get(&format!("{entities}/{}", part(entity))).await?;
    if as_json {
        return json(&entity);
    }
    println!("{} ({}), key: {}", entity.name, entity.label, entity.key.join(", "));
    let mut rows = table(&["field", "type", "there", "may be empty", "written", "refers to"]);
    for field in &entity.fields {
        let written = if field.createable || field.updateable { "yes" } else { "no" };
        let length = field.length.map(|length| format!("({length})")).unwrap_or_default();
        rows.add_row([
            field.name.clone(),
            format!("{}{length}", field.kind),
            field.native.clone(),
            if field.nillable { "yes" } else { "no" }.to_owned(),
            written.to_owned(),
            field.references.join(", "),
        ]);
    }
    println!("{rows}");
    Ok(())
}

/// Turns an engine's error into lines that point into the mapping's file.
pub(crate) fn failure(project: &Project, sync: &Sync, error: &engine::Error) -> Failure {
    let class = error.class();
    if let engine::Error::Mapping(mistakes) = error {
        let file = project.file_of(&sync.definition.mapping);
        let lines: Vec<String> = mistakes.iter().map(|mistake| format!("{file}:{mistake}")).collect();
        return Failure::new(class, format!("{}: the mapping can't work\n{}", sync.name, lines.join("\n")));
    }
    let mut failure = Failure::from_error(class, error);
    failure.text = format!("{}: {}", sync.name, failure.text);
    failure
}

/// Checks every sync; returns the conversions of each that can lose something.
pub(crate) async fn conversions_of(project: &Project) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let (mut good, mut failures) = (BTreeMap::new(), Vec::new());
    for sync in project.syncs(&[])? {
        match conversions(project, &sync).await {
            Ok(conversions) => drop(good.insert(sync.name, conversions)),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures).map(|()| good)
}

/// Says that a sync is good.
pub(crate) fn good(sync: &str, conversions: &[String]) {
    println!("{sync}: good");
    for line in conversions {
        println!("  conversion: {line}");
    }
}

pub(crate) async fn check(project: &Project) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for sync in project.syncs(&[])? {
        match conversions(project, &sync).await {
            Ok(conversions) => good(&sync.name, &conversions),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

/// Returns what a sync would make of the first records of its source; nothing is written.
pub(crate) async fn previews(project: &Project, sync: &Sync, rows: usize) -> Result<Vec<Preview>, Failure> {
    let (source, target) = project.endpoints(sync)?;
    let ends = if sync.direction.source() == Side::Salesforce { [&*source, &*target] } else { [&*target, &*source] };
    let parents = |name: &str| project.parent_key(name);
    let previews = engine::preview(sync, ends, &project.store, &parents, rows).await;
    previews.map_err(|error| failure(project, sync, &error))
}

async fn conversions(project: &Project, sync: &Sync) -> Result<Vec<String>, Failure> {
    let (source, target) = project.endpoints(sync)?;
    let parents = |name: &str| project.parent_key(name);
    let conversions = if sync.two_way.is_some() {
        engine::check_pairs(sync, [&*source, &*target], &project.store, &parents).await
    } else {
        engine::check(sync, &*source, &*target, &project.store, &parents).await
    };
    conversions.map_err(|error| failure(project, sync, &error))
}

pub(crate) async fn forecast(project: &Project, sync: &Sync) -> Result<Forecast, Failure> {
    let (source, target) = project.endpoints(sync)?;
    let parents = |name: &str| project.parent_key(name);
    let forecast = if sync.two_way.is_some() {
        engine::forecast_pairs(sync, [&*source, &*target], &project.store, &parents).await
    } else {
        engine::forecast(sync, &*source, &*target, &project.store, &parents).await
    };
    forecast.map_err(|error| failure(project, sync, &error))
}

/// What runs of several syncs would take together.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    calls: u64,
    left: Option<u64>,
}

impl Planned {
    /// Says what a run of a sync would do.
    pub(crate) fn tell(&mut self, sync: &str, forecast: Forecast, as_json: bool) -> Result<(), Failure> {
        (self.calls, self.left) = (self.calls + forecast.calls, forecast.calls_left.or(self.left));
        if as_json {
            return json(&serde_json::json!({"sync": sync, "forecast": forecast}));
        }
        let what = forecast.full.map_or("changes only".to_owned(), |why| format!("everything, since {why}"));
        println!("{sync}: {} rows, about {} API calls; reads {what}", forecast.rows, forecast.calls);
        if let Some(entity) = forecast.creates {
            println!("  creates {entity}");
        }
        if forecast.parked > 0 {
            println!("  tries {} parked changes again", forecast.parked);
        }
        for line in forecast.conversions {
            println!("  conversion: {line}");
        }
        for line in forecast.drift {
            println!("  drift: {line}");
        }
        Ok(())
    }

    /// Says what they take in all.
    pub(crate) fn end(self, as_json: bool) {
        if let (false, Some(left)) = (as_json, self.left) {
            println!("About {} API calls in all; the org has {left} left today.", self.calls);
        }
    }
}

pub(crate) async fn plan(project: &Project, names: &[String], as_json: bool) -> Result<(), Failure> {
    let mut failures = Vec::new();
    let mut planned = Planned::default();
    for sync in project.syncs(names)? {
        match forecast(project, &sync).await {
            Ok(forecast) => planned.tell(&sync.name, forecast, as_json)?,
            Err(failure) => failures.push(failure),
        }
    }
    planned.end(as_json);
    Failure::all(failures)
}

/// Stops at a checkpoint on Ctrl-C, or when the system asks for it.
pub(crate) fn stop_on_interrupt() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        #[cfg(unix)]
        let asked = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut terminate) => drop(terminate.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let asked = std::future::pending::<()>();
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => if interrupted.is_ok() {
                token.cancel();
            },
            () = asked => token.cancel(),
        }
    });
    stop
}

/// Returns a bar for the progress of a sync, which is seen on a terminal only.
pub(crate) fn bar(sync: &Sync, quiet: bool) -> ProgressBar {
    let shown = !quiet && std::io::stderr().is_terminal();
    let bar = if shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} rows, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar.set_prefix(sync.name.clone());
    bar
}

/// Shows how far it is.
pub(crate) fn advance(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of.max(progress.rows));
    bar.set_position(progress.rows);
}

/// Runs one sync with progress on a terminal.
pub(crate) async fn run_one(project: &Project, sync: &Sync, options: &Options, quiet: bool) -> Result<Report, Failure> {
    let bar = bar(sync, quiet);
    let progress = |progress: Progress| advance(&bar, progress);
    let report = run_between(project, sync, project.endpoints(sync)?, options, &progress).await;
    bar.finish_and_clear();
    report
}

/// Runs one sync between these two ends; `progress` is told how far it is.
pub(crate) async fn run_between(
    project: &Project,
    sync: &Sync,
    (source, target): (Arc<dyn Endpoint>, Arc<dyn Endpoint>),
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + std::marker::Sync),
) -> Result<Report, Failure> {
    let parents = |name: &str| project.parent_key(name);
    let lineage = project.lineage()?;
    let told = match &lineage {
        Some(lineage) => Some(lineage.begin(sync).await),
        None => None,
    };
    let result = if sync.two_way.is_some() {
        engine::run_pairs(sync, [&*source, &*target], &project.store, &parents, options, progress).await
    } else {
        engine::run(sync, &*source, &*target, &project.store, &parents, options, progress).await
    };
    let result = result.map_err(|error| failure(project, sync, &error));
    if let Some(told) = told {
        told.end(result.as_ref().map_or_else(|failure| Ended::Failed(&failure.text), Ended::Done)).await;
    }
    result
}

/// Returns the line that says what a run did.
pub(crate) fn line(report: &Report, seconds: f64) -> String {
    let counts = report.counts;
    let mut parts = vec![format!("{} read", counts.read)];
    for (count, word) in [
        (counts.created, "created"),
        (counts.updated, "updated"),
        (counts.unchanged, "unchanged"),
        (counts.deleted, "deleted"),
        (counts.dead, "dead letters"),
        (counts.parked, "parked"),
        (counts.released, "released"),
        (counts.warnings, "warnings"),
        (report.conflicts, "conflicts decided"),
        (report.held, "conflicts held"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let how = if report.pilot {
        "pilot"
    } else if report.full {
        "full"
    } else {
        "changes"
    };
    let end = if report.green() { "no row missing" } else { "ROWS ARE MISSING" };
    format!("{} ({how}): {}; {} API calls, {seconds:.1} s; {end}", report.sync, parts.join(", "), report.calls)
}

pub(crate) async fn run(
    project: &Project,
    names: &[String],
    full: bool,
    force: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let options = Options { full, force, stop: stop_on_interrupt(), ..Options::default() };
    run_all(project, &project.syncs(names)?, &options, as_json).await
}

/// Writes a first slice of syncs that go one way.
pub(crate) async fn pilot(
    project: &Project,
    names: &[String],
    pilot: Pilot,
    force: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let syncs = project.syncs(names)?;
    let options = Options { pilot: Some(pilot), force, stop: stop_on_interrupt(), ..Options::default() };
    run_all(project, &syncs, &options, as_json).await
}

/// Runs syncs one after the other. One that fails holds up only those whose records look up its records.
async fn run_all(project: &Project, syncs: &[Sync], options: &Options, as_json: bool) -> Result<(), Failure> {
    let mut failures = Vec::new();
    let mut failed: Vec<&str> = Vec::new();
    let mut dead = 0;
    let mut again = Vec::new();
    for (pass, sync) in syncs.iter().map(|sync| (1, sync)).chain(syncs.iter().map(|sync| (2, sync))) {
        // Records that refer to one another in a circle are written first, and given one another then.
        let around = sync.circle.iter().any(|mapping| *mapping != sync.definition.mapping);
        if pass == 2 && !(around && again.contains(&sync.name.as_str())) {
            continue;
        }
        if let Some(parent) = sync.definition.parents().find(|parent| failed.contains(&parent.value.as_str())) {
            failed.push(&sync.definition.mapping);
            eprintln!("{}: left out, since {} did not run to its end", sync.name, parent.value);
            continue;
        }
        let started = Instant::now();
        match run_one(project, sync, options, as_json).await {
            Err(failure) if failure.class == Class::Stopped && options.stop.is_cancelled() => return Err(failure),
            Err(failure) => {
                failed.push(&sync.definition.mapping);
                failures.push(failure);
            }
            Ok(report) => {
                tell(&report, started.elapsed().as_secs_f64(), as_json)?;
                dead += report.counts.dead;
                if report.counts.parked > 0 {
                    again.push(sync.name.as_str());
                }
                failures.extend(missing(&report));
            }
        }
    }
    failures.extend(set_aside(dead));
    Failure::all(failures)
}

/// Says what a run did.
pub(crate) fn tell(report: &Report, seconds: f64, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return json(report);
    }
    println!("{}", line(report, seconds));
    Ok(())
}

/// Returns what is wrong with a run whose rows are not all there.
pub(crate) fn missing(report: &Report) -> Option<Failure> {
    let (low, high) = report.receipt.source;
    let text = format!(
        "{}: the source counts {low} to {high} rows, {} were read; the next run reads them again",
        report.sync, report.receipt.read
    );
    (!report.green()).then(|| Failure::new(Class::Internal, text))
}

/// Returns what is to be said where changes could not be applied.
pub(crate) fn set_aside(dead: u64) -> Option<Failure> {
    let text =
        format!("{dead} changes could not be applied and wait as dead letters: see `bridgehead dead-letters list`");
    (dead > 0).then(|| Failure::new(Class::Rejected, text))
}

/// Puts back what a run of a two-way sync wrote.
pub(crate) async fn undone(project: &Project, run: i64, options: &Options) -> Result<Report, Failure> {
    let unknown = || Failure::new(Class::Mapping, format!("there is no run {run}; see `bridgehead runs`"));
    let name = project.store.sync_of(run)?.ok_or_else(unknown)?;
    let syncs = project.syncs(std::slice::from_ref(&name))?;
    let sync = syncs.iter().find(|sync| sync.name == name).ok_or_else(unknown)?;
    if sync.two_way.is_none() {
        let text =
            format!("run {run} is one of {name}, which goes one way: what was there before is kept of two-way syncs");
        return Err(Failure::new(Class::Mapping, text));
    }
    let (salesforce, external) = project.endpoints_apart(sync)?;
    let parents = |name: &str| project.parent_key(name);
    let report = engine::undo_pairs(sync, [&*salesforce, &*external], &project.store, &parents, run, options).await;
    report.map_err(|error| failure(project, sync, &error))
}

/// Says which records an undo left alone, where it left any.
pub(crate) fn left_of(report: &Report) -> Option<String> {
    let more = report.left.saturating_sub(report.left_keys.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (report.left > 0).then(|| {
        format!(
            "left as they are, since they were changed after run {} or refused the write ({} in all): {}{more}. `--force` puts back \
             what was changed",
            report.undoes.unwrap_or_default(),
            report.left,
            report.left_keys.join(", ")
        )
    })
}

/// Says what an undo put back.
pub(crate) fn told_undone(report: &Report) {
    let counts = report.counts;
    let (run, sync) = (report.undoes.unwrap_or_default(), &report.sync);
    let what = match report.run {
        0 => format!("Would undo run {run} of {sync}"),
        own => format!("Undid run {run} of {sync} in run {own}"),
    };
    println!(
        "{what}: {} put back, {} made again, {} taken away, {} as they were",
        counts.updated, counts.created, counts.deleted, counts.unchanged
    );
}

pub(crate) async fn undo(desk: &Desk, run: i64, how: Undoing, as_json: bool) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Undone {
        report: Report,
    }
    let Undone { report } = desk.post(&format!("runs/{run}/undo"), &serde_json::json!(how)).await?;
    if as_json {
        json(&report)?;
    } else {
        told_undone(&report);
    }
    left_of(&report).map_or(Ok(()), |left| Err(Failure::new(Class::Rejected, left)))
}

/// A run, as the admin API tells it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) sync: String,
    started: String,
    pub(crate) ended: Option<String>,
    pub(crate) outcome: String,
    /// Null where it never came to an end.
    pub(crate) report: Option<Report>,
}

/// Runs that are listed where nobody says how many.
const RUNS: usize = 20;

pub(crate) async fn runs(desk: &Desk, as_json: bool) -> Result<(), Failure> {
    let runs: Vec<Run> = desk.list("runs", "runs", &[], RUNS).await?;
    if as_json {
        return json(&runs);
    }
    let mut rows = table(&["run", "sync", "started", "outcome", "read", "written", "dead", "calls"]);
    for run in runs {
        let report = run.report.unwrap_or_default();
        let counts = report.counts;
        let numbers = [counts.read, counts.created + counts.updated + counts.deleted, counts.dead, report.calls]
            .map(|n| n.to_string());
        let what = report.undoes.map(|undone| format!(" (undo of {undone})")).unwrap_or_default();
        rows.add_row(
            [run.id.to_string(), run.sync + &what, moment(&run.started), run.outcome].into_iter().chain(numbers),
        );
    }
    println!("{rows}");
    Ok(())
}

/// Returns a moment in RFC 3339 as people read it, to the second.
pub(crate) fn moment(at: &str) -> String {
    at.get(..19).unwrap_or(at).replace('T', " ")
}

/// Lists the alerts that hold, or sends a test to where they go.
pub(crate) async fn alerts(desk: &Desk, test: Option<&str>, as_json: bool) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Alerts {
        alerts: Vec<Alert>,
        has_rules: bool,
    }
    if let Some(name) = test {
        let _: serde_json::Value = desk.post("alerts/test", &serde_json::json!({"to": name})).await?;
        println!("{name} took a test.");
        return Ok(());
    }
    let Alerts { alerts, has_rules } = desk.get("alerts").await?;
    if as_json {
        return json(&alerts);
    }
    if !has_rules {
        println!("Nobody is told of anything: bridgehead.yaml has no `alerts`.");
    }
    if alerts.is_empty() {
        println!("No alert holds.");
        return Ok(());
    }
    let mut rows = table(&["alert", "sync", "since", "what", "told"]);
    for alert in alerts {
        let told = if alert.told { "yes" } else { "not yet" };
        rows.add_row([alert.rule, alert.sync, moment(&alert.since), alert.text, told.to_owned()]);
    }
    println!("{rows}");
    Ok(())
}

pub(crate) async fn replay(project: &Project, sync: &str) -> Result<(), Failure> {
    let options = Options { replay: Replay::All, stop: stop_on_interrupt(), ..Options::default() };
    run_all(project, &project.syncs(&[sync.to_owned()])?, &options, false).await?;
    still_dead(sync, project.store.count_dead_letters(Some(sync))?.0)
}

/// Says that some of what was tried again could not be applied this time either.
pub(crate) fn still_dead(sync: &str, dead: u64) -> Result<(), Failure> {
    if dead == 0 {
        return Ok(());
    }
    let text = format!("{dead} dead letters of {sync} wait still: see `bridgehead dead-letters list {sync}`");
    Err(Failure::new(Class::Rejected, text))
}

pub(crate) fn schema(what: crate::Schema) -> Result<(), Failure> {
    let schema = match what {
        crate::Schema::Project => config::schema(),
        crate::Schema::Mapping => schemars::schema_for!(mapping::Definition).to_value(),
        crate::Schema::Environment => schemars::schema_for!(config::Overlay).to_value(),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(|error| Failure::from_error(Class::Internal, &error))?;
    println!("{text}");
    Ok(())
}
