//! The project's own chores: `cargo xtask check | test | demo | simulate | bench | proto`.
//!
//! `check` holds the floors of ARCHITECTURE.md; `test` is the whole gate, the same that CI runs.

mod clients;
mod floors;
mod proto;
mod services;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a chore fails with: a sentence for the person at the terminal.
type Chore = Result<(), String>;

const HELP: &str = "cargo xtask <chore>

  check   the floors: which crate may import which
  test    everything CI runs: formatting, clippy, floors, tests with real servers and clients, doctests
  demo    build what is needed and run the demo (arguments are passed on)
  simulate [--seeds N] [--from SEED]
          two-way histories with people who edit and an engine that crashes; one that fails is told step by step
  bench [NAME] [--rows N] [--short]
          what we measure, beside what users would use instead and the physical limit; `extract` if no name is given
  proto   write the code of both ends of the Pub/Sub API from proto/pubsub.proto
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match chore.as_str() {
        "check" => floors::check(&root()),
        "test" => test(&root()),
        "demo" => demo(&root(), &rest),
        "simulate" => simulate(&root(), &rest),
        "bench" => bench(&root(), &rest),
        "proto" => proto::write(&root()),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {chore}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the root of the checkout.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs a program to its end, with its output on our terminal.
pub(crate) fn run(title: &str, command: &mut Command) -> Chore {
    println!("\n== {title}");
    let status = command.status().map_err(|error| format!("{title}: cannot start {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{title} failed ({status})")) }
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(arguments);
    // What cargo tells a program of its package is no business of the builds that it starts: build scripts of
    // dependencies look at some of it, and half of the dependencies would be built again for every checkout.
    let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| about_us.iter().any(|stem| name.starts_with(stem))) {
            command.env_remove(name);
        }
    }
    command
}

fn test(root: &Path) -> Chore {
    run("formatting", &mut cargo(root, &["fmt", "--all", "--check"]))?;
    println!("\n== floors");
    floors::check(root)?;
    run(
        "clippy",
        &mut cargo(root, &["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
    )?;
    let services = services::Services::start(root)?;
    let clients = clients::Clients::ready(root)?;
    let mut nextest = cargo(root, &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    nextest.envs(services.environment()).envs(clients.environment());
    if nextest_is_missing(root) {
        run("installing nextest", &mut cargo(root, &["install", "cargo-nextest", "--locked"]))?;
    }
    run("tests", &mut nextest)?;
    let mut doctests = cargo(root, &["test", "--quiet", "--workspace", "--doc", "--locked"]);
    doctests.envs(services.environment());
    run("doctests", &mut doctests)
}

fn nextest_is_missing(root: &Path) -> bool {
    !cargo(root, &["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

fn simulate(root: &Path, rest: &[String]) -> Chore {
    let mut command = cargo(root, &["test", "--quiet", "--locked", "--package", "bridgehead-engine", "--test", "it"]);
    command.args(["--", "simulation", "--nocapture"]).env("RUST_BACKTRACE", "0");
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let name = match word.as_str() {
            "--seeds" => "BRIDGEHEAD_SIMULATE",
            "--from" => "BRIDGEHEAD_SEED",
            other => return Err(format!("{other} is not known; there are --seeds N and --from SEED")),
        };
        let value = words.next().filter(|value| value.parse::<u64>().is_ok());
        command.env(name, value.ok_or_else(|| format!("{word} wants a number"))?);
    }
    run("simulation", &mut command)
}

fn bench(root: &Path, rest: &[String]) -> Chore {
    let services = services::Services::start(root)?;
    let clients = clients::Clients::ready(root)?;
    let packages = ["build", "--release", "--locked", "--package", "bridgehead", "--package", "bridgehead-bench"];
    run("build", &mut cargo(root, &packages))?;
    // `cargo run` of one package chooses other features than the build of both, and builds everything once more.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut command = Command::new(root.join(target).join("release").join("bench"));
    command.current_dir(root);
    let named = rest.first().is_some_and(|word| !word.starts_with('-'));
    command.args((!named).then_some("extract")).args(rest);
    run("bench", command.envs(services.environment()).envs(clients.environment()))
}

fn demo(root: &Path, rest: &[String]) -> Chore {
    let mut command = cargo(root, &["run", "--quiet", "--locked", "--package", "bridgehead", "--", "demo"]);
    run("demo", command.args(rest))
}
