//! Programs that do the same job, run one after the other in several rounds: how long each takes, what it costs the processor, and
//! how much memory it holds; as a table, as JSON and as a chart.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failed;

/// How often the memory of a program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Ticks of processor time in a second. Source: proc(5), `stat`; the value is that of every Linux that Rust runs on.
const TICKS: f64 = 100.0;
/// A chart: its width, where its bars begin, the height of a bar with the space around it, and of its head.
const CHART: [f64; 4] = [960.0, 300.0, 34.0, 64.0];

/// What a program is in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Ours,
    /// What users would use instead.
    Peer,
    /// What nothing that also does the rest can beat.
    Limit,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
            Self::Limit => "limit",
        }
    }
}

/// What is raced, and how often.
pub(crate) struct Race<'r> {
    pub(crate) title: &'r str,
    /// Name of the files that are written, without ending.
    pub(crate) file: &'r str,
    pub(crate) rows: u64,
    pub(crate) rounds: usize,
    pub(crate) goals: &'r [Goal],
    /// The folder that they are written to.
    pub(crate) folder: &'r Path,
    /// Returns how many calls the org has counted so far.
    pub(crate) calls: &'r dyn Fn() -> Result<u64, Failed>,
    /// Returns the calls that our last run forecast, and those that it says it spent.
    pub(crate) forecast: Option<&'r dyn Fn() -> Result<[u64; 2], Failed>>,
}

/// A program that takes part.
pub(crate) struct Runner<'r> {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// Makes everything ready, off the clock, and returns the program.
    pub(crate) command: Box<dyn Fn() -> Result<Command, Failed> + 'r>,
    /// Returns how many rows it brought to where they belong; an error if they are not as they should be.
    pub(crate) rows: Box<dyn Fn() -> Result<u64, Failed> + 'r>,
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Processor time of the program and of all that it started.
    pub(crate) processor: f64,
    /// Memory at most, in MB.
    pub(crate) memory: f64,
    /// Calls that the org counted.
    pub(crate) calls: u64,
}

/// What a program took: the median of its rounds, and the best and the worst of them.
struct Placed {
    name: &'static str,
    role: Role,
    median: Cost,
    span: [f64; 2],
}

/// Something that has to hold.
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    /// What is measured, from our run, that of the limit and that of the best peer.
    pub(crate) measure: fn(&Ratios) -> Option<f64>,
    /// The least that is good enough; where less is better, the most.
    pub(crate) wanted: f64,
    pub(crate) less_is_better: bool,
}

/// What goals look at.
pub(crate) struct Ratios {
    /// Our throughput as a part of the limit's.
    pub(crate) of_limit: Option<f64>,
    /// How often we are done while the best peer works once; and the same of processor time.
    pub(crate) of_peer: Option<f64>,
    pub(crate) of_peer_processor: Option<f64>,
    pub(crate) memory: f64,
    pub(crate) seconds: f64,
    /// Calls that were forecast, as a part of those that were spent.
    pub(crate) forecast: Option<f64>,
}

/// Goals that hold wherever the program runs.
pub(crate) const FORECAST: [Goal; 2] = [
    Goal {
        what: "calls forecast, of those spent",
        measure: |ratios| ratios.forecast,
        wanted: 1.1,
        less_is_better: true,
    },
    Goal {
        what: "calls forecast, of those spent",
        measure: |ratios| ratios.forecast,
        wanted: 0.9,
        less_is_better: false,
    },
];

/// Runs a race and writes what came of it to `folder`; returns whether all goals were reached.
pub(crate) fn run(race: &Race<'_>, runners: &[Runner<'_>]) -> Result<bool, Failed> {
    let Race { title, file, rows, rounds, goals, folder, .. } = *race;
    let mut forecast = None;
    let mut runs: Vec<Vec<Cost>> = vec![Vec::new(); runners.len()];
    let mut out: Vec<usize> = Vec::new();
    for round in 0..rounds {
        for (at, runner) in runners.iter().enumerate() {
            if out.contains(&at) {
                continue;
            }
            let run = match cost((runner.command)()?, race.calls) {
                Ok(run) => run,
                // One that can't do it at this size is out, and that is told.
                Err(error) if runner.role == Role::Peer => {
                    let why = error.to_string();
                    let why = why.lines().find(|line| line.contains("Error")).or_else(|| why.lines().next());
                    eprintln!("round {}, {} is out: {}", round + 1, runner.name, why.unwrap_or_default());
                    out.push(at);
                    continue;
                }
                Err(error) => return Err(format!("{}: {error}", runner.name).into()),
            };
            if let (Role::Ours, Some(told)) = (runner.role, race.forecast) {
                let [foreseen, spent] = told()?;
                forecast = Some(foreseen as f64 / spent as f64);
            }
            let brought = (runner.rows)()?;
            if brought != rows {
                return Err(format!("{} brought {brought} of {rows} rows", runner.name).into());
            }
            eprintln!("round {}, {}: {:.2} s", round + 1, runner.name, run.seconds);
            runs[at].push(run);
        }
    }
    let raced = runners.iter().zip(runs).enumerate().filter(|(at, _)| !out.contains(at));
    let results: Vec<Placed> = raced.map(|(_, (runner, runs))| summed(runner, runs)).collect();
    let ratios = Ratios { forecast, ..ratios(&results) };
    println!("{}", table(title, rows, rounds, &results));
    let mut good = true;
    let mut told = Vec::new();
    for goal in goals {
        let value = (goal.measure)(&ratios);
        let reached =
            value.is_some_and(|value| if goal.less_is_better { value <= goal.wanted } else { value >= goal.wanted });
        let shown = value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"));
        let word = if reached { "reached" } else { "MISSED" };
        println!(
            "{word}: {}: {shown}, wanted {} {}",
            goal.what,
            if goal.less_is_better { "at most" } else { "at least" },
            goal.wanted
        );
        told.push(json!({"goal": goal.what, "value": value, "wanted": goal.wanted, "reached": reached}));
        good &= reached;
    }
    std::fs::create_dir_all(folder)?;
    let report = json!({"job": title, "rows": rows, "rounds": rounds, "machine": machine(), "commit": commit(),
                        "results": results.iter().map(|one| entry(one, rows)).collect::<Vec<_>>(), "goals": told});
    std::fs::write(folder.join(format!("{file}.json")), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(folder.join(format!("{file}.svg")), chart(title, rows, &results))?;
    println!("written to {}", folder.join(file).display());
    Ok(good)
}

/// Runs a program to its end, and returns what it cost; `calls` tells what the org has counted.
pub(crate) fn cost(command: Command, calls: &dyn Fn() -> Result<u64, Failed>) -> Result<Cost, Failed> {
    let before = calls()?;
    let cost = timed(command)?;
    Ok(Cost { calls: calls()? - before, ..cost })
}

/// Runs a program to its end.
fn timed(mut command: Command) -> Result<Cost, Failed> {
    let before = of_children()?;
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let errors = child.stderr.take();
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        // What can't be read is not told.
        let _ = errors.map(|mut errors| std::io::Read::read_to_string(&mut errors, &mut text));
        text
    });
    let (id, ended) = (child.id(), std::sync::mpsc::channel::<()>());
    let looking = std::thread::spawn(move || {
        let mut memory = 0;
        // It ends when the other end of the channel is gone.
        while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = ended.1.recv_timeout(LOOK) {
            memory = memory.max(held(id));
        }
        memory
    });
    let status = child.wait()?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(ended.0);
    let memory = looking.join().unwrap_or_default();
    let said = said.join().unwrap_or_default();
    if !status.success() {
        return Err(format!("it ended with {status}: {}", said.trim()).into());
    }
    Ok(Cost { seconds, processor: of_children()? - before, memory: memory as f64 / 1024.0, calls: 0 })
}

/// Returns the processor time of all programs that this one started and that have ended. Source: proc(5), fields 16 and 17.
fn of_children() -> Result<f64, Failed> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').ok_or("the kernel says nothing")?.1.split_whitespace();
    Ok(fields.skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS)
}

/// Returns the memory of a program and of all that it started, in KB. What they share is counted once for each.
fn held(root: u32) -> u64 {
    let mut parents: HashMap<u32, u32> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent| (id, parent)));
    }
    let below = |mut id: u32| {
        while id != root {
            match parents.get(&id) {
                Some(parent) if *parent > 1 => id = *parent,
                _ => return false,
            }
        }
        true
    };
    let of = |id: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
    };
    parents.keys().filter(|id| below(**id)).map(of).sum()
}

fn summed(runner: &Runner<'_>, mut runs: Vec<Cost>) -> Placed {
    let median = |value: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let middle = Cost {
        seconds: median(|run| run.seconds),
        processor: median(|run| run.processor),
        memory: median(|run| run.memory),
        calls: median(|run| run.calls as f64) as u64,
    };
    runs.sort_by(|left, right| left.seconds.total_cmp(&right.seconds));
    let span = [runs[0].seconds, runs[runs.len() - 1].seconds];
    Placed { name: runner.name, role: runner.role, median: middle, span }
}

fn ratios(results: &[Placed]) -> Ratios {
    let ours = results.iter().find(|one| one.role == Role::Ours);
    let of = |role: Role, value: fn(&Cost) -> f64| {
        let values = results.iter().filter(|one| one.role == role).map(|one| value(&one.median));
        values.min_by(f64::total_cmp).zip(ours.map(|ours| value(&ours.median))).map(|(other, ours)| other / ours)
    };
    // The first limit is the whole job; others are parts of it.
    let limit = results.iter().find(|one| one.role == Role::Limit);
    Ratios {
        of_limit: limit.zip(ours).map(|(limit, ours)| limit.median.seconds / ours.median.seconds),
        of_peer: of(Role::Peer, |run| run.seconds),
        of_peer_processor: of(Role::Peer, |run| run.processor),
        memory: ours.map_or(0.0, |ours| ours.median.memory),
        seconds: ours.map_or(0.0, |ours| ours.median.seconds),
        forecast: None,
    }
}

fn table(title: &str, rows: u64, rounds: usize, results: &[Placed]) -> String {
    let mut text = format!("{title}: {rows} rows, the median of {rounds} rounds\n");
    let _ = writeln!(
        text,
        "{:<34} {:>6} {:>9} {:>17} {:>9} {:>9} {:>11} {:>7}",
        "", "", "wall s", "best..worst", "CPU s", "MB", "rows/s", "calls"
    );
    for one in results {
        let run = one.median;
        let _ = writeln!(
            text,
            "{:<34} {:>6} {:>9.2} {:>17} {:>9.2} {:>9.0} {:>11.0} {:>7}",
            one.name,
            one.role.word(),
            run.seconds,
            format!("{:.2}..{:.2}", one.span[0], one.span[1]),
            run.processor,
            run.memory,
            rows as f64 / run.seconds,
            run.calls
        );
    }
    text
}

fn entry(one: &Placed, rows: u64) -> Value {
    json!({"name": one.name, "role": one.role.word(), "wall_s": one.median.seconds, "best_s": one.span[0],
           "worst_s": one.span[1], "cpu_s": one.median.processor, "memory_mb": one.median.memory,
           "rows_per_s": rows as f64 / one.median.seconds, "calls": one.median.calls})
}

/// Returns what this machine is: its processor, how many of them, and its memory.
pub(crate) fn machine() -> String {
    let line = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores, memory {}", line("/proc/cpuinfo", "model name"), line("/proc/meminfo", "MemTotal"))
}

/// Returns the commit that is measured, with a mark where the files are others.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let changed = if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { " with changes" };
    format!("{}{changed}", git(&["rev-parse", "--short", "HEAD"]))
}

/// Draws rows a second as bars, in colours that are told apart without colour, too.
fn chart(title: &str, rows: u64, results: &[Placed]) -> String {
    let [width, left, step, head] = CHART;
    let most = results.iter().map(|one| rows as f64 / one.median.seconds).fold(1.0, f64::max);
    let height = head + step * results.len() as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"14\" role=\"img\" aria-label=\"{title}\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"16\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#1c2430\">{title}</text>\
         <text x=\"16\" y=\"46\" fill=\"#5b6675\">rows a second, {rows} rows; {}, {}</text>\n",
        machine(),
        commit()
    );
    for (at, one) in results.iter().enumerate() {
        let (y, value) = (head + step * at as f64, rows as f64 / one.median.seconds);
        let length = (width - left - 110.0) * value / most;
        let fill = match one.role {
            Role::Ours => "#0b6e63",
            Role::Peer => "#c06a1b",
            Role::Limit => "#8a94a3",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#1c2430\">{} ({})</text>\
             <rect x=\"{left}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" rx=\"3\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#1c2430\">{value:.0}</text>",
            left - 10.0,
            y + 19.0,
            one.name.replace('&', "&amp;").replace('<', "&lt;"),
            one.role.word(),
            y + 4.0,
            step - 12.0,
            left + length + 8.0,
            y + 19.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
