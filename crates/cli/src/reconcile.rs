//! `bridgehead reconcile`: what differs between both sides of a sync, told, written as a page, and put right.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use endpoint::Endpoint;
use engine::{Kind, Progress, Reconcile, Reconciliation, Sync};
use model::Class;
use server::{Asked, CompareWanted};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::commands::{advance, bar, failure, json, stop_on_interrupt, table};
use crate::desk::Desk;
use crate::project::Project;
use crate::remote;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Syncs; all if none is named.
    syncs: Vec<String>,
    /// Then write what is missing or different, and delete what the source deleted if the sync does that.
    #[arg(long)]
    repair: bool,
    /// By how much numbers of a field may differ, and times in seconds, besides what `bridgehead.yaml` says.
    #[arg(long, value_name = "FIELD=NUMBER", value_parser = tolerance)]
    tolerance: Vec<(String, f64)>,
    /// A field that is not compared, besides those of `bridgehead.yaml`.
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// Most records of each kind of difference that are shown.
    #[arg(long, default_value_t = SAMPLES)]
    samples: usize,
    /// Most differences that are looked at again, and repaired; the rest is counted as it was read.
    #[arg(long, default_value_t = LOOKS)]
    looks: usize,
    /// Write a page for people to this file, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object per sync, instead of text.
    #[arg(long)]
    json: bool,
}

fn tolerance(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("write it as FIELD=NUMBER, for example Amount=0.01; {text:?} is not");
    let (field, number) = text.split_once('=').ok_or_else(wrong)?;
    let number: f64 = number.parse().map_err(|_| wrong())?;
    if field.is_empty() || !number.is_finite() || number < 0.0 { Err(wrong()) } else { Ok((field.to_owned(), number)) }
}

/// Differences that are looked at again where nobody says how many.
const LOOKS: usize = 100_000;
/// Records of each kind of difference that are shown where nobody says how many.
const SAMPLES: usize = 10;

/// Compares both sides of a sync because it is due, or because somebody asked.
pub(crate) async fn asked(
    project: &Project,
    sync: &Sync,
    ends: (Arc<dyn Endpoint>, Arc<dyn Endpoint>),
    asked: &Asked,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut wanted = wanted(project, &sync.name, &asked.compare, stop);
    wanted.repair |= asked.due && project.reconciling(&sync.name).repair;
    one(project, sync, ends, &wanted, true).await.map(drop)
}

/// Returns how a sync is compared: as `bridgehead.yaml` has it, and as is asked besides. Whoever asks says whether it is repaired.
fn wanted(project: &Project, sync: &str, asked: &CompareWanted, stop: CancellationToken) -> Reconcile {
    let mut configured = project.reconciling(sync);
    configured.tolerance.extend(asked.tolerance.clone());
    configured.ignore.extend(asked.ignore.iter().cloned());
    Reconcile {
        folder: project.state_folder(),
        tolerances: configured.tolerance,
        ignore: configured.ignore,
        looks: asked.looks.unwrap_or(LOOKS),
        samples: asked.samples.unwrap_or(SAMPLES),
        repair: asked.repair,
        stop,
    }
}

impl Arguments {
    /// Returns how the syncs are to be compared.
    fn wanted(&self) -> CompareWanted {
        CompareWanted {
            repair: self.repair,
            tolerance: self.tolerance.iter().cloned().collect(),
            ignore: self.ignore.clone(),
            samples: Some(self.samples),
            looks: Some(self.looks),
        }
    }

    /// Tells what came of a comparison; returns what is wrong where both sides differ.
    fn tell(&self, report: &Reconciliation) -> Result<Option<Failure>, Failure> {
        if self.json {
            json(report)?;
        } else {
            print!("{}", told(report));
        }
        let left = report.not_looked_at > 0 || !(report.agrees() || report.repair.is_some());
        let how = if self.repair {
            "differ still: run it again"
        } else {
            "differ; `--repair` writes what is missing or different"
        };
        Ok(left.then(|| Failure::new(Class::Rejected, format!("{}: both sides {how}", report.sync))))
    }

    /// Writes the page for people, where one is wanted.
    fn write(&self, reports: &[Reconciliation]) -> Result<(), Failure> {
        let Some(path) = &self.html else { return Ok(()) };
        std::fs::write(path, page(reports))
            .map_err(|error| Failure::new(Class::Internal, format!("cannot write {}: {error}", path.display())))
    }
}

pub(crate) async fn run(project: &Project, arguments: &Arguments) -> Result<(), Failure> {
    let stop = stop_on_interrupt();
    let (mut failures, mut reports) = (Vec::new(), Vec::new());
    for sync in project.syncs(&arguments.syncs)? {
        let wanted = wanted(project, &sync.name, &arguments.wanted(), stop.clone());
        match one(project, &sync, project.endpoints(&sync)?, &wanted, arguments.json).await {
            Ok(report) => {
                failures.extend(arguments.tell(&report)?);
                reports.push(report);
            }
            Err(failure) if stop.is_cancelled() => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    arguments.write(&reports)?;
    Failure::all(failures)
}

/// Lets a server compare syncs, and waits for what comes of it.
pub(crate) async fn run_there(desk: &Desk, arguments: &Arguments) -> Result<(), Failure> {
    let wanted = serde_json::to_value(arguments.wanted()).unwrap_or_default();
    let (mut failures, mut reports) = (Vec::new(), Vec::new());
    for sync in remote::syncs(desk, &arguments.syncs).await? {
        match remote::compare(desk, &sync, &wanted).await {
            Ok(report) => {
                failures.extend(arguments.tell(&report)?);
                reports.push(report);
            }
            Err(failure) => failures.push(failure),
        }
    }
    arguments.write(&reports)?;
    Failure::all(failures)
}

async fn one(
    project: &Project,
    sync: &Sync,
    (source, target): (Arc<dyn Endpoint>, Arc<dyn Endpoint>),
    wanted: &Reconcile,
    quiet: bool,
) -> Result<Reconciliation, Failure> {
    let bar = bar(sync, quiet);
    let progress = |progress: Progress| advance(&bar, progress);
    let parents = |name: &str| project.parent_key(name);
    let report = engine::reconcile(sync, &*source, &*target, &project.store, &parents, wanted, &progress).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| failure(project, sync, &error))?;
    let body = serde_json::to_string(&report).map_err(|error| Failure::from_error(Class::Internal, &error))?;
    project.store.keep_reconciliation(&sync.name, &report.at, report.agrees(), &body)?;
    Ok(report)
}

/// Returns the sentence that says what came of it.
fn verdict(report: &Reconciliation) -> String {
    let mut parts = Vec::new();
    let extra = if report.extra_counts { "only in the target" } else { "only in the target, where they stay" };
    for (count, word) in [
        (report.missing, "missing in the target"),
        (report.extra, extra),
        (report.different, "different"),
        (report.unlinked, "in the target from elsewhere"),
        (report.refused, "refused by the mapping and not compared"),
        (report.duplicates, "with a key that another row has, too"),
        (report.passing, "that were on their way"),
        (report.not_looked_at, "of these counted without a second look"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let verdict = if report.agrees() { "both sides agree" } else { "BOTH SIDES DIFFER" };
    let parts = if parts.is_empty() { String::new() } else { format!("; {}", parts.join(", ")) };
    format!("{} and {} rows compared: {verdict}{parts}", report.source_rows, report.target_rows)
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Extra => "extra",
        Kind::Different => "different",
    }
}

fn value(text: Option<&str>) -> String {
    text.map_or_else(|| "(empty)".to_owned(), str::to_owned)
}

fn repaired(report: &Reconciliation) -> Option<String> {
    let repair = report.repair?;
    let counts = repair.counts;
    Some(format!(
        "repaired in run {}: {} created, {} updated, {} deleted, {} dead letters",
        repair.run, counts.created, counts.updated, counts.deleted, counts.dead
    ))
}

fn told(report: &Reconciliation) -> String {
    let mut text = format!(
        "{}: {}; {} API calls, {:.1} s\n",
        report.sync,
        verdict(report),
        report.calls,
        report.took_ms as f64 / 1e3
    );
    for (field, count) in &report.fields {
        let _ = writeln!(text, "  {field}: different in {count}");
    }
    if !report.samples.is_empty() {
        let mut rows = table(&["", "record", "field", "should be", "is"]);
        for sample in &report.samples {
            let lead = [
                word(sample.kind).to_owned(),
                if sample.key.is_empty() { sample.record.clone() } else { sample.key.clone() },
            ];
            if sample.fields.is_empty() {
                rows.add_row(lead.clone());
            }
            for field in &sample.fields {
                let values = [field.field.clone(), value(field.source.as_deref()), value(field.target.as_deref())];
                rows.add_row(lead.iter().cloned().chain(values));
            }
        }
        let _ = writeln!(text, "{rows}");
    }
    if let Some(line) = repaired(report) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root{color-scheme:light dark;--line:color-mix(in srgb,currentColor 18%,transparent)}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}
.state{font-weight:600}.numbers{display:flex;flex-wrap:wrap;gap:.5rem 2rem;padding:0;list-style:none}
.numbers b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{font-weight:600}.bar{display:block;height:.5rem;background:currentColor;opacity:.55;min-width:2px}
.empty{opacity:.65;font-style:italic}";

/// Returns a page that needs nothing else.
fn page(reports: &[Reconciliation]) -> String {
    let mut body = String::new();
    for report in reports {
        let state = if report.agrees() { "\u{2713} Both sides agree" } else { "\u{26a0} Both sides differ" };
        let _ = write!(
            body,
            "<h2>{}</h2><p><span class=state>{state}</span> \u{b7} <time>{}</time> \u{b7} {} API calls</p><ul class=numbers>",
            escaped(&report.sync),
            escaped(&report.at),
            report.calls
        );
        for (count, word) in [
            (report.source_rows, "rows of the source"),
            (report.target_rows, "rows of the target"),
            (report.missing, "missing"),
            (report.extra, "extra"),
            (report.different, "different"),
            (report.unlinked, "from elsewhere"),
            (report.refused, "refused"),
            (report.not_looked_at, "not looked at again"),
        ] {
            let _ = write!(body, "<li><b>{count}</b>{word}</li>");
        }
        body.push_str("</ul>");
        if let Some(line) = repaired(report) {
            let _ = write!(body, "<p>It was {}.</p>", escaped(&line));
        }
        if let Some(most) = report.fields.values().max() {
            body.push_str("<h3>Fields</h3><table><thead><tr><th scope=col>Field<th scope=col>Records<th scope=col>Share</tr></thead><tbody>");
            for (field, count) in &report.fields {
                let share = *count as f64 * 100.0 / (*most).max(1) as f64;
                let _ = write!(
                    body,
                    "<tr><th scope=row>{}<td>{count}<td style=\"width:50%\"><span class=bar style=\"width:{share:.1}%\"></span></tr>",
                    escaped(field)
                );
            }
            body.push_str("</tbody></table>");
        }
        if report.samples.is_empty() {
            continue;
        }
        body.push_str(
            "<h3>Samples</h3><div class=wide><table><thead><tr><th scope=col>What<th scope=col>Record<th scope=col>Field\
             <th scope=col>Should be<th scope=col>Is</tr></thead><tbody>",
        );
        for sample in &report.samples {
            let key = escaped(if sample.key.is_empty() { &sample.record } else { &sample.key });
            let lead = format!("<tr><td>{}<td>{key}", word(sample.kind));
            if sample.fields.is_empty() {
                let _ = write!(body, "{lead}<td><td><td></tr>");
            }
            for field in &sample.fields {
                let cell = |text: &Option<String>| match text {
                    Some(text) => format!("<td>{}", escaped(text)),
                    None => "<td class=empty>empty".to_owned(),
                };
                let _ = write!(
                    body,
                    "{lead}<td>{}{}{}</tr>",
                    escaped(&field.field),
                    cell(&field.source),
                    cell(&field.target)
                );
            }
        }
        body.push_str("</tbody></table></div>");
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Reconciliation</title><style>{STYLE}</style><main><h1>Reconciliation</h1>{body}</main></html>\n"
    )
}
