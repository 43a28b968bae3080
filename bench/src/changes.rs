//! `bench changes [--rows N] [--short]`: of accounts that a PostgreSQL table has already, one in a hundred changed in the org: how long
//! until the table has them, beside what users write; and how long a comparison of both sides takes.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use crate::extract::ACCOUNTS;
use crate::place::{Database, Org, Project, peer, said, setting};
use crate::race::{self, FORECAST, Goal, Race, Role, Runner};
use crate::{Failed, Wishes};

/// Changes a hundredth of the accounts in the org, and waits until they are.
fn change(org: &Org, database: &Database, folder: &Path, round: u64) -> Result<(), Failed> {
    let file = folder.join("changes.csv");
    let sql = format!(
        "COPY (SELECT id AS \"Id\", 'Changed {round} ' || right(id, 6) AS \"Name\" FROM bench_accounts
               WHERE abs(hashtext(id)) % 100 = {}) TO STDOUT WITH (FORMAT csv, HEADER)",
        round % 100
    );
    std::fs::write(&file, said(Command::new("psql").args(["-Xqc", &sql, &database.0]))? + "\n")?;
    said(Command::new("bash").arg(peer("upload.sh")).args([&org.url, "Account", "update", ""]).arg(&file)).map(drop)
}

/// Runs both; returns whether all goals were reached.
pub(crate) fn run(wishes: &Wishes, folder: &Path) -> Result<bool, Failed> {
    let (rows, rounds) = wishes.size([5_000_000, 100_000]);
    let database = Database(setting("BRIDGEHEAD_TEST_POSTGRES")?);
    let python = setting("BRIDGEHEAD_TEST_PYTHON")?;
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), &[("Account", rows)], &[])?;
    let connection = "{ kind: postgres, url: \"${env:BENCH_DATABASE}\" }";
    let mapping = Project::mapping(&ACCOUNTS, "Id", "entity: public.bench_accounts, key: id");
    let place = work.path().join("project");
    let project = Project::new(&place, &org.url, &database.0, connection, "to_external", &mapping)?;
    database.sql(&ACCOUNTS.create(false))?;
    said(&mut project.command(&["run", "bench"])?)?;
    database.sql("DROP TABLE IF EXISTS bench_theirs; CREATE TABLE bench_theirs (LIKE bench_accounts INCLUDING ALL)")?;
    database.sql("INSERT INTO bench_theirs SELECT * FROM bench_accounts")?;
    for table in ["bench_theirs", "bench_accounts"] {
        database.sql(&format!("VACUUM ANALYZE {table}"))?;
    }
    let round = Cell::new(0);
    let begin = || -> Result<String, Failed> {
        round.set(round.get() + 1);
        let since = said(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?;
        change(&org, &database, work.path(), round.get())?;
        database.settle()?;
        Ok(since)
    };
    let right = |table: &'static str| {
        let (round, database) = (&round, &database);
        move || -> Result<u64, Failed> {
            let changed =
                database.sql(&format!("SELECT count(*) FROM {table} WHERE name LIKE 'Changed {} %'", round.get()))?;
            let wanted = database
                .sql(&format!("SELECT count(*) FROM {table} WHERE abs(hashtext(id)) % 100 = {}", round.get() % 100))?;
            if changed == wanted { Ok(rows) } else { Err(format!("{changed} of {wanted} changes came").into()) }
        }
    };
    let runners = [
        Runner {
            name: "bridgehead run",
            role: Role::Ours,
            command: Box::new(|| {
                begin()?;
                project.command(&["run", "bench"])
            }),
            rows: Box::new(right("bench_accounts")),
        },
        Runner {
            name: "simple-salesforce, then upsert",
            role: Role::Peer,
            command: Box::new(|| {
                let since = begin()?;
                let soql = format!("{} WHERE SystemModstamp >= {since}", ACCOUNTS.soql());
                let columns = ACCOUNTS.columns();
                let set: Vec<String> = ACCOUNTS
                    .fields
                    .iter()
                    .skip(1)
                    .map(|(_, column, _)| format!("{column} = excluded.{column}"))
                    .collect();
                let mut command = Command::new(&python);
                command.arg(peer("simple_salesforce_copy.py")).args([&org.url, &database.0, &soql]);
                command.args([
                    &ACCOUNTS.copy("pages"),
                    "CREATE TEMP TABLE pages (LIKE bench_theirs)",
                    &format!(
                        "INSERT INTO bench_theirs ({columns}) SELECT {columns} FROM pages ON CONFLICT (id) DO UPDATE SET {}",
                        set.join(", ")
                    ),
                ]);
                Ok(command)
            }),
            rows: Box::new(right("bench_theirs")),
        },
    ];
    let asked = Cell::new(0);
    let forecast = || project.forecast();
    let [above, below] = FORECAST;
    let race = Race {
        title: "One account in a hundred changed",
        file: &format!("changes-{rows}"),
        rows,
        rounds,
        goals: &[above, below],
        folder,
        calls: &|| org.calls(&asked),
        forecast: Some(&forecast),
    };
    let mut reached = race::run(&race, &runners)?;
    // What the last changes left behind: ours has not met those of the other.
    said(&mut project.command(&["run", "bench"])?)?;
    let compare = Runner {
        name: "bridgehead reconcile",
        role: Role::Ours,
        command: Box::new(|| project.command(&["reconcile", "bench", "--json"])),
        rows: Box::new(|| Ok(rows)),
    };
    let report = |name: &str| -> Result<u64, Failed> {
        let body = rusqlite::Connection::open(place.join(".bridgehead/state.db"))?.query_row(
            "SELECT body FROM reconciliation ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get::<_, String>(0),
        )?;
        Ok(serde_json::from_str::<serde_json::Value>(&body)?[name].as_u64().unwrap_or_default())
    };
    let forecast = || Ok([report("calls_forecast")?, report("calls")?]);
    let [above, below] = FORECAST;
    let race = Race {
        title: "A comparison of both sides",
        file: &format!("reconcile-{rows}"),
        rows,
        rounds,
        goals: &[
            Goal {
                what: "seconds, for each 5,000,000 rows 60",
                measure: |ratios| Some(ratios.seconds),
                wanted: 60.0 * (rows as f64 / 5e6).max(0.1),
                less_is_better: true,
            },
            Goal {
                what: "memory at most, in MB",
                measure: |ratios| Some(ratios.memory),
                wanted: 500.0,
                less_is_better: true,
            },
            above,
            below,
        ],
        folder,
        calls: &|| org.calls(&asked),
        forecast: Some(&forecast),
    };
    reached &= race::run(&race, &[compare])?;
    database.sql("DROP TABLE IF EXISTS bench_accounts; DROP TABLE IF EXISTS bench_theirs")?;
    Ok(reached)
}
