//! The commands that work on a project.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Instant;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use endpoint::Endpoint;
use engine::{Forecast, Options, Pilot, Preview, Progress, Replay, Report, Sync};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Class, Side};
use state::DeadLetter;
use tokio_util::sync::CancellationToken;

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
    project: &Project,
    connection: &str,
    entity: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let endpoint = project.endpoint(connection)?;
    let Some(entity) = entity else {
        let names = endpoint.entities().await?;
        if as_json {
            return json(&names);
        }
        for name in names {
            println!("{name}");
        }
        return Ok(());
    };
    let entity = endpoint.describe(entity).await?;
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

/// Checks every sync, and says nothing of those that are good.
pub(crate) async fn check_syncs(project: &Project) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for sync in project.syncs(&[])? {
        failures.extend(conversions(project, &sync).await.err());
    }
    Failure::all(failures)
}

pub(crate) async fn check(project: &Project) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for sync in project.syncs(&[])? {
        match conversions(project, &sync).await {
            Ok(conversions) => {
                println!("{}: good", sync.name);
                for line in conversions {
                    println!("  conversion: {line}");
                }
            }
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

async fn forecast(project: &Project, sync: &Sync) -> Result<Forecast, Failure> {
    let (source, target) = project.endpoints(sync)?;
    let parents = |name: &str| project.parent_key(name);
    let forecast = if sync.two_way.is_some() {
        engine::forecast_pairs(sync, [&*source, &*target], &project.store, &parents).await
    } else {
        engine::forecast(sync, &*source, &*target, &project.store, &parents).await
    };
    forecast.map_err(|error| failure(project, sync, &error))
}

pub(crate) async fn plan(project: &Project, names: &[String], as_json: bool) -> Result<(), Failure> {
    let mut failures = Vec::new();
    let mut calls = 0;
    let mut left = None;
    for sync in project.syncs(names)? {
        let forecast = match forecast(project, &sync).await {
            Ok(forecast) => forecast,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        (calls, left) = (calls + forecast.calls, forecast.calls_left.or(left));
        if as_json {
            json(&serde_json::json!({"sync": sync.name, "forecast": forecast}))?;
            continue;
        }
        let what = forecast.full.map_or("changes only".to_owned(), |why| format!("everything, since {why}"));
        println!("{}: {} rows, about {} API calls; reads {what}", sync.name, forecast.rows, forecast.calls);
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
    }
    if let (false, Some(left)) = (as_json, left) {
        println!("About {calls} API calls in all; the org has {left} left today.");
    }
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
                if as_json {
                    json(&report)?;
                } else {
                    println!("{}", line(&report, started.elapsed().as_secs_f64()));
                }
                dead += report.counts.dead;
                if report.counts.parked > 0 {
                    again.push(sync.name.as_str());
                }
                if !report.green() {
                    let (low, high) = report.receipt.source;
                    let text = format!(
                        "{}: the source counts {low} to {high} rows, {} were read; the next run reads them again",
                        sync.name, report.receipt.read
                    );
                    failures.push(Failure::new(Class::Internal, text));
                }
            }
        }
    }
    if dead > 0 {
        let text =
            format!("{dead} changes could not be applied and wait as dead letters: see `bridgehead dead-letters list`");
        failures.push(Failure::new(Class::Rejected, text));
    }
    Failure::all(failures)
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

pub(crate) async fn undo(project: &Project, run: i64, force: bool, as_json: bool) -> Result<(), Failure> {
    let options = Options { force, stop: stop_on_interrupt(), ..Options::default() };
    let report = undone(project, run, &options).await?;
    let name = &report.sync;
    if as_json {
        json(&report)?;
    } else {
        let counts = report.counts;
        println!(
            "Undid run {run} of {name} in run {}: {} put back, {} made again, {} taken away, {} as they were",
            report.run, counts.updated, counts.created, counts.deleted, counts.unchanged
        );
    }
    if report.left == 0 {
        return Ok(());
    }
    let more = report.left.saturating_sub(report.left_keys.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "left as they are, since they were changed after run {run} or refused the write ({} in all): {}{more}. `--force` puts \
         back what was changed",
        report.left,
        report.left_keys.join(", ")
    );
    Err(Failure::new(Class::Rejected, text))
}

pub(crate) fn runs(project: &Project, as_json: bool) -> Result<(), Failure> {
    let runs = project.store.runs(None, i64::MAX, 20)?;
    if as_json {
        return json(&runs);
    }
    let mut rows = table(&["run", "sync", "started", "outcome", "read", "written", "dead", "calls"]);
    for run in runs {
        let report: Report = serde_json::from_str(&run.body).unwrap_or_default();
        let counts = report.counts;
        let numbers = [counts.read, counts.created + counts.updated + counts.deleted, counts.dead, report.calls]
            .map(|n| n.to_string());
        let what = report.undoes.map(|undone| format!(" (undo of {undone})")).unwrap_or_default();
        let started = run.started.get(..19).unwrap_or(&run.started).replace('T', " ");
        rows.add_row([run.id.to_string(), run.sync + &what, started, run.outcome].into_iter().chain(numbers));
    }
    println!("{rows}");
    Ok(())
}

/// Lists the alerts that hold, or sends a test to where they go.
pub(crate) async fn alerts(project: &Project, test: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let configured = project.alerts()?;
    if let Some(name) = test {
        let refused = |why| Failure::new(Class::Transient { after: None }, format!("{name} was not told: {why}"));
        configured.test(name).await.map_err(refused)?;
        println!("{name} took a test.");
        return Ok(());
    }
    let alerts = project.store.alerts()?;
    if as_json {
        return json(&alerts);
    }
    if configured.is_empty() {
        println!("Nobody is told of anything: bridgehead.yaml has no `alerts`.");
    }
    if alerts.is_empty() {
        println!("No alert holds.");
        return Ok(());
    }
    let mut rows = table(&["alert", "sync", "since", "what", "told"]);
    for alert in alerts {
        let since = alert.since.get(..19).unwrap_or(&alert.since).replace('T', " ");
        let told = if alert.told { "yes" } else { "not yet" };
        rows.add_row([alert.rule, alert.sync, since, alert.text, told.to_owned()]);
    }
    println!("{rows}");
    Ok(())
}

/// Dead letters read from the store at a time.
const LETTERS: usize = 500;

pub(crate) fn letters(project: &Project, sync: Option<&str>, as_json: bool, limit: usize) -> Result<(), Failure> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.id);
        let wanted = LETTERS.min(limit - letters.len());
        let part = project.store.dead_letters(sync, None, after, wanted)?;
        let done = part.len() < LETTERS;
        letters.extend(part);
        if done || letters.len() >= limit {
            break;
        }
    }
    if as_json {
        return json(&letters);
    }
    if letters.is_empty() {
        println!("There are no dead letters.");
        return Ok(());
    }
    let mut rows = table(&["number", "sync", "state", "key", "reason"]);
    let shown = letters.len() as u64;
    for letter in letters {
        rows.add_row([
            letter.id.to_string(),
            letter.sync,
            letter.state,
            letter.key,
            format!("{}: {}", letter.code, letter.message),
        ]);
    }
    println!("{rows}");
    let (dead, parked) = project.store.count_dead_letters(sync)?;
    if dead + parked > shown {
        println!("... and {} more; --limit shows them", dead + parked - shown);
    }
    Ok(())
}

pub(crate) fn show_letter(project: &Project, id: i64) -> Result<(), Failure> {
    let letter = project.store.dead_letter(id)?;
    let letter = letter.ok_or_else(|| Failure::new(Class::Mapping, format!("there is no dead letter {id}")))?;
    println!("{} {} of {} in run {}, {}", letter.state, letter.op, letter.sync, letter.run, letter.at);
    println!("{}: {}", letter.code, letter.message);
    let record: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&letter.record).unwrap_or_default();
    for (field, value) in record {
        println!("  {field} = {value}");
    }
    Ok(())
}

pub(crate) async fn replay(project: &Project, sync: &str) -> Result<(), Failure> {
    let options = Options { replay: Replay::All, stop: stop_on_interrupt(), ..Options::default() };
    run_all(project, &project.syncs(&[sync.to_owned()])?, &options, false).await
}

pub(crate) fn drop_letter(project: &Project, id: i64) -> Result<(), Failure> {
    if project.store.drop_dead_letter(id)? {
        println!("Dropped {id}.");
        return Ok(());
    }
    Err(Failure::new(Class::Mapping, format!("there is no dead letter {id}")))
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
