//! The pages.

use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use state::{Role, Run, Wanted};

use super::{Looking, Shown, Told, Visitor, may, page, token};
use super::{alerts, audit, record};
use crate::api::{Api, blocking, compare, undo, undone};
use crate::budget::{Budget, budgets};
use crate::problem::{Answered, Problem};
use crate::scheduler::{COMPARISON, Planned};
use crate::work::{Asked, CompareWanted, RunWanted, Undoing};

/// Entries of a page.
pub(super) const PAGE: usize = 50;
/// Syncs of the overview's page: each has a curve of its own.
const SYNCS: usize = 100;
/// Runs that a curve shows.
const SPARK: u32 = 24;

/// A moment, exact for whoever asks, and how long ago for whoever looks.
pub(super) fn time(moment: &str) -> Markup {
    let text = moment.get(..19).unwrap_or(moment).replace('T', " ");
    html! { time datetime=(moment) title={ (text) " UTC" } { (text) " UTC" } }
}

fn outcome(run: &Run) -> Markup {
    let (class, mark) = match run.outcome.as_str() {
        "green" => ("good", "\u{2713}"),
        "running" => ("wait", "\u{25b6}"),
        "stopped" | "cut off" => ("wait", "\u{25a0}"),
        _ => ("bad", "\u{2717}"),
    };
    html! { span class={ "state " (class) } { (mark) " " (run.outcome) } }
}

/// Returns a name as it stands in an address.
pub(super) fn in_path(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What a sync does now.
fn doing(planned: &Planned) -> Markup {
    html! {
        @if let (Some(since), true) = (planned.running_since, planned.follows) {
            span class="state good" { "\u{25b6} follows changes" } " since " (time(&since.to_rfc3339()))
        } @else if let Some(since) = planned.running_since {
            span class="state wait" { "\u{25b6} runs" } " since " (time(&since.to_rfc3339()))
        } @else if planned.waiting_since.is_some() {
            span class="state wait" { "\u{2026} waits for its turn" }
        } @else if let Some(why) = &planned.paused {
            span class="state wait" { "\u{23f8} paused" } ": " (why)
        } @else if let Some(next) = planned.next {
            "next " (time(&next.to_rfc3339()))
        } @else {
            span class="soft" { "when it is asked to" }
        }
    }
}

fn report(run: &Run) -> Value {
    serde_json::from_str(&run.body).unwrap_or_default()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn written(report: &Value) -> u64 {
    ["created", "updated", "deleted"].iter().map(|name| count(&report["counts"][*name])).sum()
}

/// A curve of the rows that the last runs read.
fn spark(runs: &[Run]) -> Markup {
    let rows: Vec<u64> = runs.iter().rev().map(|run| count(&report(run)["counts"]["read"])).collect();
    let most = rows.iter().copied().max().unwrap_or_default().max(1);
    let step = 92.0 / (rows.len().max(2) - 1) as f64;
    let mut points = String::new();
    for (at, rows) in rows.iter().enumerate() {
        let _ = write!(points, "{:.1},{:.1} ", 2.0 + at as f64 * step, 22.0 - *rows as f64 / most as f64 * 20.0);
    }
    let label = format!("rows read by the last {} runs, at most {most}", rows.len());
    html! {
        @if rows.len() > 1 {
            svg class="spark" viewBox="0 0 96 24" role="img" aria-label=(label) {
                title { (label) }
                polyline points=(points.trim_end()) fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" {}
            }
        }
    }
}

/// A button that does something to a sync.
fn button(visitor: &Visitor, sync: &str, act: &str, label: &str) -> Markup {
    html! {
        form class="inline" method="post" action={ "/syncs/" (in_path(sync)) "/" (act) } {
            (token(visitor))
            button aria-label={ (label) " " (sync) } { (label) }
        }
    }
}

fn acts(visitor: &Visitor, sync: &str, planned: &Planned) -> Markup {
    html! {
        @if visitor.role >= Role::Operator {
            @if planned.running_since.is_none() { (button(visitor, sync, "run", "Run")) " " }
            @if planned.paused.is_some() { (button(visitor, sync, "resume", "Resume")) }
        }
    }
}

pub(super) async fn page_of(work: impl FnOnce() -> Answered<Markup> + Send + 'static) -> Shown {
    blocking(work).await.map(|markup| Html(markup.into_string())).map_err(Told)
}

/// Which syncs are looked at: those behind one, by name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Behind {
    behind: Option<String>,
}

pub(super) async fn overview(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Query(part): Query<Behind>,
) -> Shown {
    page_of(move || {
        let planned = api.planned();
        let from = part.behind.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let shown: Vec<(&String, &Planned)> = planned.range((from, Bound::Unbounded)).take(SYNCS).collect();
        let more = shown.last().filter(|_| shown.len() == SYNCS).map(|(last, _)| (*last).clone());
        let (last, letters, held) = (api.store.last_runs()?, api.store.letters_by_sync()?, api.store.held_by_sync()?);
        let dead: u64 = letters.values().map(|(dead, _)| dead).sum();
        let held_all: u64 = held.values().sum();
        let red = last.values().filter(|run| run.outcome == "red").count();
        let running = planned.values().filter(|planned| planned.running_since.is_some()).count();
        let firing = api.store.alerts()?;
        let budgets = budgets(&api)?;
        let well = budgets.iter().all(|budget| !budget.is_short()) && red == 0 && dead == 0 && held_all == 0 && firing.is_empty();
        let good = api.store.last_good_runs()?;
        let streams = engine::streams(&api.store, chrono::Utc::now())?;
        let body = html! {
            h1 { @if well { "All is well" } @else { "Somebody should look" } }
            dl class="numbers card" {
                div { dt { "Syncs" } dd { (planned.len()) } }
                div { dt { "Running" } dd { (running) } }
                div { dt { "Last run failed" } dd class=[(red > 0).then_some("bad")] { (red) } }
                div { dt { a href="/dead-letters" { "Dead letters" } } dd class=[(dead > 0).then_some("bad")] { (dead) } }
                div { dt { a href="/conflicts" { "Conflicts held" } } dd class=[(held_all > 0).then_some("wait")] { (held_all) } }
            }
            (alerts::list(&firing))
            (calls(&budgets))
            @if planned.is_empty() {
                div class="card empty" {
                    p { "There are no syncs yet." }
                    p { "Name one below " code { "syncs:" } " in " code { "bridgehead.yaml" } "; it shows here as soon as it is checked." }
                }
            } @else {
                div class="wide" tabindex="0" { table {
                    thead { tr {
                        th scope="col" { "Sync" } th scope="col" { "Now" } th scope="col" { "Last run" } th scope="col" { "In step" }
                        th scope="col" class="number" { "Written" } th scope="col" { "Rows read" }
                        th scope="col" class="number" { "Dead" } th scope="col" class="number" { "Conflicts" } th scope="col" { "Do" }
                    } }
                    tbody { @for (sync, planned) in shown {
                        @let run = last.get(sync);
                        tr {
                            th scope="row" { a href={ "/syncs/" (in_path(sync.trim_end_matches(COMPARISON))) } { (sync) } }
                            td { (doing(planned)) }
                            td { @if let Some(run) = run {
                                a href={ "/runs/" (run.id) } { (outcome(run)) } " " (time(run.ended.as_deref().unwrap_or(&run.started)))
                            } @else { span class="soft" { "never" } } }
                            td { (in_step(sync, planned, good.get(sync), &streams)) }
                            td class="number" { @if let Some(run) = run { (written(&report(run))) } }
                            td { (spark(&api.store.runs(Some(sync), i64::MAX, SPARK)?)) }
                            td class="number" { (letters.get(sync).map_or(0, |(dead, _)| *dead)) }
                            td class="number" { (held.get(sync).copied().unwrap_or_default()) }
                            td { (acts(&visitor, sync, planned)) }
                        }
                    } }
                } }
                @if let Some(last) = more { p { a href={ "/?behind=" (in_path(&last)) } { "More" } } }
            }
        };
        Ok(page("Overview", Some(&visitor), "/", true, &body))
    })
    .await
}

/// How far a sync is behind: what follows changes by how late they are settled, others by when they were in step last.
fn in_step(sync: &str, planned: &Planned, good: Option<&String>, streams: &[engine::StreamState]) -> Markup {
    let own = streams.iter().filter(|one| planned.follows && one.sync == sync && one.stream.lag.count > 0);
    let late = own.map(|one| one.stream.lag.p99).max_by(f64::total_cmp);
    html! {
        @if let Some(late) = late {
            (format!("{late:.0}")) " ms behind" span class="soft" { " (p99)" }
        } @else if let Some(good) = good {
            (time(good))
        } @else {
            span class="soft" { "never" }
        }
    }
}

/// Returns a number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// What is left of the calls of each org, and whether it lasts.
fn calls(budgets: &[Budget]) -> Markup {
    html! {
        @for budget in budgets.iter().filter(|budget| budget.left.is_some() || budget.spent > 0) {
            dl class="numbers card" aria-label={ "API calls of " (budget.connection) } {
                div { dt { "API calls of " (budget.connection) } dd { @if let Some(left) = budget.left { (grouped(left)) " left" } @else { "not told yet" } } }
                div { dt { "Spent today" } dd { (grouped(budget.spent)) } }
                div { dt { "Until midnight, UTC" } dd class=[budget.is_short().then_some("bad")] { "about " (grouped(budget.forecast)) " more" } }
                @if budget.is_short() {
                    div { dt { span class="state bad" { "\u{26a0} They will not last" } } dd { a href="/runbooks/budget" { "What to do" } } }
                }
            }
        }
    }
}

fn run_rows(runs: &[Run]) -> Markup {
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "Run" } th scope="col" { "Began" } th scope="col" { "Outcome" } th scope="col" { "How" }
                th scope="col" class="number" { "Read" } th scope="col" class="number" { "Written" }
                th scope="col" class="number" { "Dead" } th scope="col" class="number" { "API calls" }
            } }
            tbody { @for run in runs {
                @let report = report(run);
                tr {
                    th scope="row" { a href={ "/runs/" (run.id) } { (run.id) } }
                    td { (time(&run.started)) }
                    td { (outcome(run)) }
                    td { (how(&report)) }
                    td class="number" { (count(&report["counts"]["read"])) }
                    td class="number" { (written(&report)) }
                    td class="number" { (count(&report["counts"]["dead"])) }
                    td class="number" { (count(&report["calls"])) }
                }
            } }
        } }
    }
}

/// True for a sync that goes both ways: what was there before its writes is kept whole.
fn two_way(api: &Api, sync: &str) -> bool {
    let mappings = api.work().map(|work| work.mappings()).unwrap_or_default();
    mappings.iter().any(|mapped| mapped.two_way && mapped.syncs.iter().any(|one| one == sync))
}

/// What the streams of a followed sync do.
fn streams(api: &Api, sync: &str) -> Answered<Markup> {
    let streams = engine::streams(&api.store, chrono::Utc::now())?;
    Ok(html! {
        @for one in streams.iter().filter(|one| one.sync == sync) {
            @let stream = &one.stream;
            p {
                (one.side) ": " (one.state) " \u{b7} " (grouped(stream.changes)) " changes"
                @if stream.lag.count > 0 { " \u{b7} behind by " (format!("{:.0}", stream.lag.p50)) " ms, one in a hundred by " (format!("{:.0}", stream.lag.p99)) " ms or more" }
                @if let Some(why) = &stream.last_gap { " \u{b7} " span class="soft" { "the last gap: " (why) } }
            }
        }
    })
}

/// How far a sync is that runs.
fn progress(api: &Api, sync: &str) -> Markup {
    let at = api.work().ok().and_then(|work| work.progress_of(sync));
    html! {
        @if let Some((rows, of)) = at {
            p { progress value=(rows) max=(of.max(rows).max(1)) aria-label="rows" {} " " (grouped(rows)) " of " (grouped(of.max(rows))) " rows" }
        }
    }
}

/// What was different about the entities when a run began.
fn drift(report: &Value) -> Markup {
    let drift = report["drift"].as_array().map(Vec::as_slice).unwrap_or_default();
    html! {
        @if !drift.is_empty() {
            div class="card" {
                p class="state wait" { "\u{26a0} The entities are others than at the last good run" }
                ul { @for line in drift { li { (line.as_str().unwrap_or_default()) } } }
                p { a href="/runbooks/drift" { "What to do" } }
            }
        }
    }
}

fn how(report: &Value) -> String {
    match (&report["undoes"], report["repairs"] == true, report["full"] == true) {
        (Value::Number(run), ..) => format!("undo of {run}"),
        (_, true, _) => "repair".to_owned(),
        _ if report["pilot"] == true => "pilot".to_owned(),
        (_, _, true) => "everything".to_owned(),
        _ => "changes".to_owned(),
    }
}

pub(super) async fn sync(State(api): State<Arc<Api>>, Extension(visitor): Looking, Path(name): Path<String>) -> Shown {
    page_of(move || {
        let planned = api.planned_of(&name).ok_or_else(|| Problem::none(format!("there is no sync {name:?}")))?;
        let runs = api.store.runs(Some(&name), i64::MAX, SPARK)?;
        let compared = api.store.reconciliations(Some(&name), i64::MAX, 5)?;
        let (dead, parked) = api.store.count_dead_letters(Some(&name))?;
        let body = html! {
            h1 { (name) }
            div class="card" {
                p { (doing(&planned)) }
                (progress(&api, &name))
                @if planned.follows { (streams(&api, &name)?) }
                @if let Some(failed) = &planned.failed { p class="bad" { "\u{2717} The last run could not go on: " (failed) } }
                p {
                    a href={ "/dead-letters?sync=" (in_path(&name)) } { "Dead letters: " (dead) } " \u{b7} parked: " (parked) " \u{b7} "
                    a href={ "/conflicts?sync=" (in_path(&name)) } { "conflicts" } " \u{b7} " a href={ "/audit?sync=" (in_path(&name)) } { "audit" }
                }
                (acts(&visitor, &name, &planned))
                @if visitor.role >= Role::Operator && planned.paused.is_none() {
                    " " form class="inline" method="post" action={ "/syncs/" (in_path(&name)) "/pause" } {
                        (token(&visitor))
                        span class="field" { label for="why" { "Reason" } input id="why" name="why" required maxlength="200"; }
                        button { "Pause" }
                    }
                }
            }
            @if visitor.role >= Role::Operator { (ways_to_run(&visitor, &name, &planned)) }
            @if let Some(run) = runs.first() { (drift(&report(run))) }
            h2 { "Runs" }
            @if runs.is_empty() {
                div class="card empty" { p { "It has not run yet." } p { "Run it once to see what it does; a dry run says so before." } }
            } @else { (spark(&runs)) (run_rows(&runs)) }
            @for mapped in api.work().map(|work| work.mappings()).unwrap_or_default().iter().filter(|mapped| mapped.syncs.contains(&name)) {
                h2 { "Mapping" }
                p { (mapped.salesforce[1]) " by " (mapped.salesforce[2]) " \u{2194} " (mapped.external[1]) " by " (mapped.external[2])
                    span class="soft" { " \u{b7} " (mapped.file) " \u{b7} " a href="/versions" { "versions" } } }
                (record::pairs(mapped, None))
            }
            h2 { "Comparisons" }
            @if let Some(comparing) = api.planned_of(&format!("{name}{COMPARISON}")) {
                @if comparing.running_since.or(comparing.waiting_since).or(comparing.next).is_some() { p { (doing(&comparing)) } }
                @if let Some(failed) = &comparing.failed { p class="bad" { "\u{2717} The last comparison could not go on: " (failed) } }
            }
            @if visitor.role >= Role::Operator {
                form class="inline card" method="post" action={ "/syncs/" (in_path(&name)) "/compare" } {
                    (token(&visitor))
                    button { "Compare both sides" }
                    label { input type="checkbox" name="repair" value="true"; " and write what is missing or different" }
                }
            }
            @if compared.is_empty() {
                div class="card empty" { p { "Both sides were never compared." } p { "A comparison reads both whole, and finds what no event told of." } }
            } @else {
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Verdict" } th scope="col" class="number" { "Missing" }
                        th scope="col" class="number" { "Extra" } th scope="col" class="number" { "Different" } } }
                    tbody { @for one in &compared {
                        @let report: Value = serde_json::from_str(&one.body).unwrap_or_default();
                        tr {
                            th scope="row" { a href={ "/comparisons/" (one.id) } { (time(&one.at)) } }
                            td { @if one.agrees { span class="state good" { "\u{2713} both sides agree" } } @else { span class="state bad" { "\u{2717} they differ" } } }
                            td class="number" { (count(&report["missing"])) } td class="number" { (count(&report["extra"])) }
                            td class="number" { (count(&report["different"])) }
                        }
                    } }
                } }
            }
        };
        Ok(page(&name, Some(&visitor), "", true, &body))
    })
    .await
}

/// What else one may want of a sync than what changed: to know what a run would do, a first slice, everything.
fn ways_to_run(visitor: &Visitor, sync: &str, planned: &Planned) -> Markup {
    let address = format!("/syncs/{}", in_path(sync));
    html! {
        div class="card acts" {
            a class="button" href={ (address) "/plan" } { "Dry run" }
            @if planned.running_since.is_none() || planned.follows {
                form class="inline" method="post" action={ (address) "/run" } {
                    (token(visitor))
                    span class="field" { label for="pilot" { "Records" } input id="pilot" name="pilot" type="number" min="1" value="20" required; }
                    button { "Run a first slice" }
                }
                form class="inline" method="post" action={ (address) "/run" } {
                    (token(visitor)) input type="hidden" name="full" value="true";
                    button { "Read everything anew" }
                }
            }
        }
    }
}

/// What a run of a sync would do.
pub(super) async fn plan(State(api): State<Arc<Api>>, Extension(visitor): Looking, Path(name): Path<String>) -> Shown {
    if visitor.role < Role::Operator {
        return Err(Told(Problem::new(StatusCode::FORBIDDEN, "this needs the role operator: both systems are asked")));
    }
    page_of(move || {
        if api.planned_of(&name).is_none() {
            return Err(Problem::none(format!("there is no sync {name:?}")));
        }
        let forecast = api.work()?.forecast(&name).map_err(Problem::from)?;
        let body = html! {
            h1 { "What a run of " a href={ "/syncs/" (in_path(&name)) } { (name) } " would do" }
            dl class="numbers card" {
                div { dt { "Rows to read" } dd { (grouped(forecast.rows)) } }
                div { dt { "API calls, about" } dd { (grouped(forecast.calls)) } }
                @if let Some(left) = forecast.calls_left { div { dt { "API calls left today" } dd { (grouped(left)) } } }
                div { dt { "Parked, tried again" } dd { (grouped(forecast.parked)) } }
            }
            p { @match &forecast.full { Some(why) => { "It reads everything, since " (why) "." } None => "It reads what changed." } " Nothing was written." }
            @if let Some(entity) = &forecast.creates { p { "It creates " code { (entity) } " first." } }
            @for line in &forecast.conversions { p class="soft" { "\u{26a0} " (line) } }
            @if !forecast.drift.is_empty() {
                p class="state wait" { "\u{26a0} The entities are others than at the last good run" }
                ul { @for line in &forecast.drift { li { (line) } } }
            }
        };
        Ok(page(&format!("Dry run of {name}"), Some(&visitor), "", false, &body))
    })
    .await
}

pub(super) async fn run(State(api): State<Arc<Api>>, Extension(visitor): Looking, Path(id): Path<String>) -> Shown {
    page_of(move || {
        let number: i64 = id.parse().map_err(|_| Problem::none(format!("there is no run {id:?}")))?;
        let run = api.store.run(number)?.ok_or_else(|| Problem::none(format!("there is no run {id}")))?;
        let told = report(&run);
        let counts = &told["counts"];
        let milliseconds = ["read_ms", "map_ms", "write_ms", "commit_ms"];
        let audit = api.store.audit_entries(Wanted { run: Some(number), ..Wanted::default() }, i64::MAX, 20)?;
        let body = html! {
            h1 { "Run " (run.id) " of " a href={ "/syncs/" (in_path(&run.sync)) } { (run.sync) } }
            p { (outcome(&run)) " \u{b7} " (how(&told)) " \u{b7} began " (time(&run.started))
                @if let Some(ended) = &run.ended { ", ended " (time(ended)) } }
            (drift(&told))
            @if run.outcome == "running" { (progress(&api, &run.sync)) }
            @let undoes = visitor.role >= Role::Operator && run.ended.is_some() && written(&told) > 0 && api.store.images(number, "", 1).is_ok_and(|images| !images.is_empty());
            @if undoes && two_way(&api, &run.sync) {
                form class="inline card" method="post" action={ "/runs/" (run.id) "/undo" } {
                    (token(&visitor))
                    span { "What it wrote can be put back, on both sides; what was changed since stays." }
                    button { "Undo this run" }
                    button name="dry_run" value="true" { "What would that do?" }
                }
            }
            p { a href={ "/dead-letters?sync=" (in_path(&run.sync)) } { "Dead letters" } " \u{b7} " a href={ "/conflicts?sync=" (in_path(&run.sync)) } { "conflicts" } " of this sync" }
            dl class="numbers card" {
                @for name in ["read", "created", "updated", "unchanged", "deleted", "dead", "parked", "released", "warnings"] {
                    div { dt { (name) } dd class=[(name == "dead" && count(&counts[name]) > 0).then_some("bad")] { (count(&counts[name])) } }
                }
            }
            h2 { "Where the time went" }
            dl class="numbers card" {
                @for name in milliseconds { div { dt { (name.trim_end_matches("_ms")) } dd { (count(&told[name])) " ms" } } }
                div { dt { "API calls" } dd { (count(&told["calls"])) } }
                div { dt { "forecast" } dd { (count(&told["calls_forecast"])) } }
            }
            h2 { "Audit" }
            (audit::rows(&audit))
        };
        Ok(page(&format!("Run {id}"), Some(&visitor), "", run.ended.is_none(), &body))
    })
    .await
}

pub(super) async fn undo_run(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path(id): Path<i64>,
    Form(form): Form<Act>,
) -> Shown {
    may(&visitor, &form.csrf, Role::Operator)?;
    page_of(move || {
        let how = Undoing { force: false, dry_run: form.dry_run };
        let report = undo(&api, id, how, &visitor.name)?;
        let body = html! {
            h1 { "Run " (id) @if form.dry_run { ": what an undo would do" } @else { " is undone" } }
            p role="status" { "Of " (report.sync) ", " (undone(&report)) "." }
            @if !report.left_keys.is_empty() { p class="soft" { "Left as they are: " (report.left_keys.join(", ")) } }
            p { a href={ "/runs/" (id) } { "Back to the run" } }
        };
        Ok(page("Undone", Some(&visitor), "", false, &body))
    })
    .await
}

/// What an act on a sync sends.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Act {
    csrf: String,
    why: String,
    /// Everything is to be read.
    full: bool,
    /// Only so many records are to be written.
    pilot: Option<u64>,
    /// What differs is to be written, too.
    repair: bool,
    /// Nothing is to be written.
    dry_run: bool,
}

pub(super) async fn act(
    State(api): State<Arc<Api>>,
    Extension(visitor): Looking,
    Path((sync, act)): Path<(String, String)>,
    Form(form): Form<Act>,
) -> Result<Redirect, Told> {
    may(&visitor, &form.csrf, Role::Operator)?;
    let to = format!("/syncs/{}", in_path(sync.trim_end_matches(COMPARISON)));
    let done = blocking(move || {
        let scheduler = api.scheduler()?;
        if api.planned_of(&sync).is_none() {
            return Err(Problem::none(format!("there is no sync {sync:?}")));
        }
        match act.as_str() {
            "run" => {
                let run = RunWanted { full: form.full, pilot: form.pilot, ..RunWanted::default() };
                scheduler.run(&sync, Asked { actor: Some(visitor.name), run, ..Asked::default() });
            }
            "compare" => {
                let wanted = CompareWanted { repair: form.repair, ..CompareWanted::default() };
                compare(&api, &sync, wanted, &visitor.name)?;
            }
            "pause" => scheduler.pause(&visitor.name, &sync, form.why.trim())?,
            "resume" => drop(scheduler.resume(&visitor.name, &sync)?),
            _ => return Err(Problem::none("there is nothing at this address")),
        }
        Ok(())
    });
    done.await.map_err(Told)?;
    Ok(Redirect::to(&to))
}

/// Which part of a list is looked at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Part {
    pub(super) sync: Option<String>,
    pub(super) after: Option<i64>,
}

pub(super) fn next(name: &str, part: &Part, which: &str, last: Option<i64>, full: bool) -> Markup {
    let sync = part.sync.as_ref().map(|sync| format!("&sync={}", in_path(sync))).unwrap_or_default();
    html! { @if let Some(last) = last.filter(|_| full) { p { a href={ (name) "?" (which) "=" (last) (sync) } { "More" } } } }
}
