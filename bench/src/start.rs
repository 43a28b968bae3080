//! `bench start [--short]`: how long the program takes to start, and to check and plan a project of 200 mappings.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::place::{Org, Project, program};
use crate::race::{self, Goal, Race, Role, Runner};
use crate::{Failed, Wishes};

/// Mappings of the project.
const MAPPINGS: usize = 200;

/// Makes a project in which each mapping carries accounts to a table of its own.
pub(crate) fn project(folder: &Path, org: &str, mappings: usize) -> Result<Project, Failed> {
    let project = Project::new(folder, org, "", "{ kind: sqlite, path: out.db }", "to_external", "")?;
    std::fs::remove_file(folder.join("mappings/bench.yaml"))?;
    let config = std::fs::read_to_string(folder.join("bridgehead.yaml"))?;
    let (head, _) = config.split_once("syncs:").ok_or("no syncs")?;
    let (mut syncs, mut tables) = (String::new(), String::new());
    for number in 0..mappings {
        let _ = writeln!(syncs, "  - {{ sync: s{number}, mapping: m{number}, direction: to_external }}");
        let _ =
            writeln!(tables, "CREATE TABLE t{number} (id TEXT PRIMARY KEY, name TEXT, city TEXT, revenue NUMERIC);");
        std::fs::write(
            folder.join(format!("mappings/m{number}.yaml")),
            format!(
                "mapping: m{number}\nversion: 1\nsalesforce: {{ connection: crm, object: Account, key: Id }}\n\
                 external: {{ connection: db, entity: t{number}, key: id }}\nfields:\n  \
                 - {{ salesforce: Name, external: name }}\n  \
                 - {{ salesforce: BillingCity, external: city, to_external: \"upper(trim(value))\" }}\n  \
                 - {{ salesforce: AnnualRevenue, external: revenue }}\n\
                 rules:\n  - {{ name: has_name, check: \"Name IS NOT NULL\", on_fail: dead_letter }}\n"
            ),
        )?;
    }
    std::fs::write(folder.join("bridgehead.yaml"), format!("{head}syncs:\n{syncs}"))?;
    let db = rusqlite::Connection::open(folder.join("out.db"))?;
    db.execute_batch(&format!("PRAGMA journal_mode=WAL; BEGIN; {tables} COMMIT"))?;
    Ok(project)
}

/// Runs the three; returns whether all goals were reached.
pub(crate) fn run(wishes: &Wishes, folder: &Path) -> Result<bool, Failed> {
    // As many as the allowance of the org has calls for.
    let rounds = if wishes.short { 5 } else { 15 };
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), &[("Account", 100)], &[])?;
    let project = project(&work.path().join("project"), &org.url, MAPPINGS)?;
    let asked = Cell::new(0);
    let mut reached = true;
    let nothing = || Ok(1);
    let jobs: [(&str, &str, &[&str], f64); 3] = [
        ("Start", "start", &["--version"], 0.01),
        ("Check of 200 mappings", "check", &["check"], 1.0),
        ("Plan of 200 mappings", "plan", &["plan"], 1.0),
    ];
    for (title, file, arguments, wanted) in jobs {
        let command = || -> Result<Command, Failed> {
            if arguments == ["--version"] {
                let mut command = Command::new(program()?);
                command.args(arguments);
                return Ok(command);
            }
            project.command(arguments)
        };
        let ours = Runner { name: "bridgehead", role: Role::Ours, command: Box::new(command), rows: Box::new(nothing) };
        let goal = Goal { what: "seconds", measure: |ratios| Some(ratios.seconds), wanted, less_is_better: true };
        let race =
            Race { title, file, rows: 1, rounds, goals: &[goal], folder, calls: &|| org.calls(&asked), forecast: None };
        reached &= race::run(&race, &[ours])?;
    }
    Ok(reached)
}
