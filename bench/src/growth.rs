//! `bench growth [--short]`: how the cost of our own work grows: with the rows of an extract, with their fields, and with the syncs of
//! a project. It has no goals; it prints tables and draws a chart.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;

use crate::extract::{ACCOUNTS, CONTACTS};
use crate::place::{Database, Org, Project, Table, setting};
use crate::race::{self, Cost};
use crate::{Failed, Wishes, start};

/// A curve: what grows, and the cost at each of its sizes.
struct Curve {
    title: String,
    unit: &'static str,
    points: Vec<(u64, Cost)>,
}

/// The chart: its width, the height of a curve, and the room for words.
const CHART: [f64; 4] = [960.0, 220.0, 70.0, 56.0];

/// Runs an extract of a part of a table's fields and returns what it cost.
fn extract(table: &Table, fields: usize, rows: u64) -> Result<Cost, Failed> {
    let database = Database(setting("BRIDGEHEAD_TEST_POSTGRES")?);
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), &[(table.object, rows)], &[])?;
    let table = Table { fields: &table.fields[..fields], ..*table };
    database.sql(&table.create(false))?;
    database.settle()?;
    let entity = format!("entity: public.{}, key: id", table.name);
    let mapping = Project::mapping(&table, "Id", &entity);
    let connection = "{ kind: postgres, url: \"${env:BENCH_DATABASE}\" }";
    let place = work.path().join("project");
    let project = Project::new(&place, &org.url, &database.0, connection, "to_external", &mapping)?;
    let asked = Cell::new(0);
    let cost = race::cost(project.command(&["run", "bench"])?, &|| org.calls(&asked))?;
    let there = database.rows(table.name)?;
    database.sql(&format!("DROP TABLE {}", table.name))?;
    if there == rows { Ok(cost) } else { Err(format!("{there} of {rows} rows came").into()) }
}

/// Plans a project with so many syncs and returns what it cost.
fn plan(syncs: usize) -> Result<Cost, Failed> {
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), &[("Account", 100)], &[])?;
    let project = start::project(&work.path().join("project"), &org.url, syncs)?;
    let asked = Cell::new(0);
    race::cost(project.command(&["plan"])?, &|| org.calls(&asked))
}

/// Measures all curves.
pub(crate) fn run(wishes: &Wishes, folder: &Path) -> Result<bool, Failed> {
    let short = wishes.short;
    let rows: &[u64] = if short { &[100, 1_000, 10_000] } else { &[100, 1_000, 10_000, 100_000, 1_000_000] };
    let wide = if short { 10_000 } else { 100_000 };
    let syncs: &[usize] = if short { &[1, 10] } else { &[1, 10, 100, 1_000] };
    let mut curves = Vec::new();
    let mut curve =
        Curve { title: "Rows: accounts of 12 fields into PostgreSQL".to_owned(), unit: "rows", points: Vec::new() };
    for rows in rows {
        curve.points.push((*rows, extract(&ACCOUNTS, ACCOUNTS.fields.len(), *rows)?));
    }
    curves.push(curve);
    let mut curve =
        Curve { title: format!("Fields: {wide} contacts into PostgreSQL"), unit: "fields", points: Vec::new() };
    for fields in [2, 5, 10, 20, 40] {
        curve.points.push((fields as u64, extract(&CONTACTS, fields, wide)?));
    }
    curves.push(curve);
    let mut curve = Curve { title: "Syncs: `plan` of a project".to_owned(), unit: "syncs", points: Vec::new() };
    for syncs in syncs {
        curve.points.push((*syncs as u64, plan(*syncs)?));
    }
    curves.push(curve);
    for curve in &curves {
        println!("{}\n{:>10} {:>9} {:>9} {:>9} {:>7}", curve.title, curve.unit, "wall s", "CPU s", "MB", "calls");
        for (size, cost) in &curve.points {
            println!("{size:>10} {:>9.2} {:>9.2} {:>9.0} {:>7}", cost.seconds, cost.processor, cost.memory, cost.calls);
        }
    }
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("growth.svg"), chart(&curves))?;
    println!("written to {}", folder.join("growth.svg").display());
    Ok(true)
}

/// Draws a panel for each curve, both axes by powers of ten: what grows as it should is a straight line.
fn chart(curves: &[Curve]) -> String {
    let [width, height, left, head] = CHART;
    let tall = head + height * curves.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {tall}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" role=\"img\" aria-label=\"How cost grows\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1c2430\">How cost grows</text>\
         <text x=\"16\" y=\"45\" fill=\"#5b6675\">seconds: wall time (full line), processor time (dashed); {}, {}</text>\n",
        race::machine(),
        race::commit()
    );
    for (at, curve) in curves.iter().enumerate() {
        let top = head + height * at as f64 + 30.0;
        let (bottom, right) = (top + height - 80.0, width - 40.0);
        let spot = |size: u64, seconds: f64| {
            let sizes = curve.points.iter().map(|(size, _)| (*size as f64).log10());
            let (low, high) = sizes.fold((f64::MAX, f64::MIN), |(low, high), size| (low.min(size), high.max(size)));
            let x = left + 40.0 + ((size as f64).log10() - low) / (high - low).max(1e-9) * (right - left - 90.0);
            // From a hundredth of a second to a hundred.
            let y = bottom - (seconds.max(0.01).log10() + 2.0) / 4.0 * (bottom - top);
            (x, y)
        };
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{}\" font-weight=\"600\" fill=\"#1c2430\">{}</text>",
            top - 8.0,
            curve.title
        );
        for (seconds, name) in [(0.01, "0.01 s"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")] {
            let y = spot(curve.points[0].0, seconds).1;
            let _ = writeln!(
                svg,
                "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dfe3e8\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" \
                 fill=\"#5b6675\">{name}</text>",
                left - 8.0,
                y + 4.0
            );
        }
        for (value, dash) in [((|cost: &Cost| cost.seconds) as fn(&Cost) -> f64, ""), (|cost| cost.processor, "6 5")] {
            let places = curve.points.iter().map(|(size, cost)| spot(*size, value(cost)));
            let path: Vec<String> = places.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = writeln!(
                svg,
                "<path d=\"M{}\" fill=\"none\" stroke=\"#0b6e63\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
                path.join("L")
            );
        }
        for (size, cost) in &curve.points {
            let (x, y) = spot(*size, cost.seconds);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"#0b6e63\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\" fill=\"#1c2430\">{:.2}</text><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" \
                 fill=\"#5b6675\">{size} {}</text>",
                y - 9.0,
                cost.seconds,
                bottom + 18.0,
                curve.unit
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
