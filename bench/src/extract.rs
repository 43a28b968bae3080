//! `bench extract [--rows N] [--short]`: Accounts of an org into a PostgreSQL table that is new, by the real program, beside what
//! users would use instead and beside what carries the same pages without looking at them.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Failed;
use crate::race::{self, Goal, Role, Runner};

/// The fields that are read, with their columns and the types of these.
const FIELDS: [(&str, &str, &str); 12] = [
    ("Id", "id", "varchar(18) PRIMARY KEY"),
    ("Name", "name", "varchar(255)"),
    ("Type", "type", "varchar(40)"),
    ("Industry", "industry", "varchar(40)"),
    ("Phone", "phone", "varchar(40)"),
    ("Rating", "rating", "varchar(40)"),
    ("AccountNumber", "account_number", "varchar(40)"),
    ("BillingStreet", "billing_street", "varchar(255)"),
    ("BillingCity", "billing_city", "varchar(40)"),
    ("BillingCountry", "billing_country", "varchar(80)"),
    ("AnnualRevenue", "annual_revenue", "numeric(18,0)"),
    ("NumberOfEmployees", "number_of_employees", "integer"),
];
/// Rows and rounds, and the same where it is to be short.
const FULL: (u64, usize) = (1_000_000, 3);
const SHORT: (u64, usize) = (100_000, 1);

/// An org in a process of its own, which ends with this value.
struct Org {
    child: Child,
    url: String,
}

impl Drop for Org {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the program that is measured: the one that was built together with this one.
fn program() -> Result<PathBuf, Failed> {
    let program = std::env::current_exe()?.with_file_name("bridgehead");
    let missing = || format!("{} is missing: `cargo xtask bench` builds it", program.display());
    if program.exists() { Ok(program) } else { Err(missing().into()) }
}

impl Org {
    /// Starts an org with so many accounts.
    fn start(folder: &Path, rows: u64) -> Result<Self, Failed> {
        let (program, file) = (program()?, folder.join("org.db"));
        let seed = ["sandbox", "seed", "--object", "Account", "--records", &rows.to_string(), "--file"];
        let done = Command::new(&program).args(seed).arg(&file).stdout(Stdio::null()).status()?;
        if !done.success() {
            return Err(format!("the org could not be filled: {done}").into());
        }
        let mut command = Command::new(&program);
        command.args(["sandbox", "--port", "0", "--file"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let mut lines = std::io::BufReader::new(child.stdout.take().ok_or("its output")?);
        let mut url = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Err("the org did not say where it is".into());
            }
            if let Some((_, rest)) = line.split_once("http://") {
                url.push_str("http://");
                url.push_str(rest.split_whitespace().next().unwrap_or_default().trim_end_matches('/'));
                break;
            }
        }
        // Whoever says more to nobody must not wait.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Self { child, url })
    }
}

/// Where everything is.
struct Place<'p> {
    folder: &'p Path,
    org: &'p str,
    database: &'p str,
}

impl Place<'_> {
    fn sql(&self, sql: &str) -> Result<String, Failed> {
        let output =
            Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", self.database, "-c", sql]).output()?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Makes an empty table with the types of the fields, or of texts alone.
    fn table(&self, texts: bool) -> Result<(), Failed> {
        let column = |(_, name, kind): &(&str, &str, &str)| format!("{name} {}", if texts { "text" } else { kind });
        let columns: Vec<String> = FIELDS.iter().map(column).collect();
        self.sql(&format!(
            "DROP TABLE IF EXISTS bench_accounts; CREATE TABLE bench_accounts ({})",
            columns.join(", ")
        ))?;
        // What the last one left to write is not on the clock of the next.
        self.sql("CHECKPOINT").map(drop)
    }

    fn rows(&self) -> Result<u64, Failed> {
        Ok(self.sql("SELECT count(*) FROM bench_accounts")?.parse()?)
    }

    /// A shell script of `peers/`, which knows how to sign in.
    fn script(&self, part: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(peer("pages.sh")).args([part, self.org, self.database, &soql()]).arg(self.folder.join("pages"));
        command
    }

    /// Writes a project with one sync and returns its run.
    fn ours(&self) -> Result<Command, Failed> {
        let project = self.folder.join("project");
        let _ = std::fs::remove_dir_all(&project);
        std::fs::create_dir_all(project.join("mappings"))?;
        std::fs::write(
            project.join("bridgehead.yaml"),
            "version: 1\nconnections:\n  crm:\n    kind: salesforce\n    url: ${env:BENCH_ORG}\n    \
             auth: { grant: client_credentials, client_id: sandbox, client_secret: \"${env:BENCH_SECRET}\" }\n  \
             db: { kind: postgres, url: \"${env:BENCH_DATABASE}\" }\nsyncs:\n  \
             - { sync: accounts, mapping: accounts, direction: to_external }\n",
        )?;
        let fields = FIELDS.iter().skip(1);
        let fields: Vec<String> =
            fields.map(|(field, column, _)| format!("  - {{ salesforce: {field}, external: {column} }}\n")).collect();
        std::fs::write(
            project.join("mappings/accounts.yaml"),
            format!(
                "mapping: accounts\nversion: 1\nsalesforce: {{ connection: crm, object: Account, key: Id }}\n\
                 external: {{ connection: db, entity: public.bench_accounts, key: id }}\nfields:\n{}",
                fields.concat()
            ),
        )?;
        let mut command = Command::new(program()?);
        command.arg("-C").arg(&project).args(["run", "accounts"]);
        command.env("BENCH_ORG", self.org).env("BENCH_SECRET", "sandbox-secret").env("BENCH_DATABASE", self.database);
        Ok(command)
    }
}

fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

fn soql() -> String {
    let names: Vec<&str> = FIELDS.iter().map(|(name, _, _)| *name).collect();
    format!("SELECT {} FROM Account", names.join(", "))
}

/// The statement by which peers load the pages: the org quotes what is empty, and it is null.
fn copy() -> String {
    let columns: Vec<&str> = FIELDS.iter().map(|(_, column, _)| *column).collect();
    format!("COPY bench_accounts FROM STDIN WITH (FORMAT csv, HEADER, FORCE_NULL ({}))", columns.join(", "))
}

fn setting(name: &str) -> Result<String, Failed> {
    std::env::var(name).map_err(|_| format!("{name} is not set; `cargo xtask bench` sets it").into())
}

/// Runs the race; returns whether all goals were reached.
pub(crate) fn run(rows: Option<u64>, short: bool, folder: &Path) -> Result<bool, Failed> {
    let (usual, rounds) = if short { SHORT } else { FULL };
    let rows = rows.unwrap_or(usual);
    let database = setting("BRIDGEHEAD_TEST_POSTGRES")?;
    let (python, modules) = (setting("BRIDGEHEAD_TEST_PYTHON")?, setting("BRIDGEHEAD_TEST_NODE_MODULES")?);
    let work = tempfile::tempdir()?;
    let org = Org::start(work.path(), rows)?;
    let place = Place { folder: work.path(), org: &org.url, database: &database };
    let fresh = |texts: bool, command: &dyn Fn() -> Result<Command, Failed>| {
        place.table(texts)?;
        command()
    };
    let other = |program: &str, script: &str, last: Option<&str>| {
        let mut command = Command::new(program);
        command.arg(peer(script)).args([&org.url, &database, &soql(), &copy()]).args(last);
        command
    };
    let there = || place.rows();
    let runners = [
        Runner {
            name: "bridgehead run",
            role: Role::Ours,
            command: Box::new(|| fresh(false, &|| place.ours())),
            rows: Box::new(there),
        },
        Runner {
            name: "curl | psql COPY, as texts",
            role: Role::Limit,
            command: Box::new(|| fresh(true, &|| Ok(place.script("pipe")))),
            rows: Box::new(there),
        },
        Runner {
            name: "curl of the pages alone",
            role: Role::Limit,
            command: Box::new(|| Ok(place.script("fetch"))),
            rows: Box::new(|| pages(&place.folder.join("pages"))),
        },
        Runner {
            name: "psql COPY of these pages alone",
            role: Role::Limit,
            command: Box::new(|| fresh(true, &|| Ok(place.script("copy")))),
            rows: Box::new(there),
        },
        Runner {
            name: "simple-salesforce, then COPY",
            role: Role::Peer,
            command: Box::new(|| fresh(false, &|| Ok(other(&python, "simple_salesforce_copy.py", None)))),
            rows: Box::new(there),
        },
        Runner {
            name: "jsforce | pg-copy-streams",
            role: Role::Peer,
            command: Box::new(|| fresh(false, &|| Ok(other("node", "jsforce_copy.mjs", Some(&modules))))),
            rows: Box::new(there),
        },
        Runner {
            name: "sf data export bulk, then COPY",
            role: Role::Peer,
            command: Box::new(|| fresh(false, &|| Ok(other("node", "sf_copy.mjs", Some(&modules))))),
            rows: Box::new(there),
        },
    ];
    let goals = [
        Goal {
            what: "our throughput as a part of the limit's",
            measure: |ratios| ratios.of_limit,
            wanted: 0.7,
            less_is_better: false,
        },
        Goal {
            what: "wall time of the best peer, of ours",
            measure: |ratios| ratios.of_peer,
            wanted: 5.0,
            less_is_better: false,
        },
        Goal {
            what: "CPU seconds of the best peer, of ours",
            measure: |ratios| ratios.of_peer_processor,
            wanted: 8.0,
            less_is_better: false,
        },
        Goal {
            what: "memory at most, in MB",
            measure: |ratios| Some(ratios.memory),
            wanted: 200.0,
            less_is_better: true,
        },
    ];
    let title = "Accounts of 12 fields into a new PostgreSQL table";
    let done = race::run(title, &format!("extract-{rows}"), rows, rounds, &runners, &goals, folder);
    place.sql("DROP TABLE IF EXISTS bench_accounts")?;
    done
}

/// Returns how many rows the files of a folder have: lines besides the first of each, whose quoted texts have no line ends here.
fn pages(folder: &Path) -> Result<u64, Failed> {
    let mut rows = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "csv") {
            let lines = std::io::BufReader::new(std::fs::File::open(path)?).split(b'\n').count() as u64;
            rows += lines.saturating_sub(1);
        }
    }
    Ok(rows)
}
