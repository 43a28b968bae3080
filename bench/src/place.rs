//! Where a race is run: an org in a process of its own, a database, and projects of the real program between them.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Failed;

/// Fields of an object, with the columns that they go to and the types of these; the key first.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) object: &'static str,
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [(&'static str, &'static str, &'static str)],
}

impl Table {
    pub(crate) fn soql(&self) -> String {
        let names: Vec<&str> = self.fields.iter().map(|(name, _, _)| *name).collect();
        format!("SELECT {} FROM {}", names.join(", "), self.object)
    }

    pub(crate) fn columns(&self) -> String {
        self.fields.iter().map(|(_, column, _)| *column).collect::<Vec<_>>().join(", ")
    }

    /// The statement by which peers load pages into a table: the org quotes what is empty, and it is null.
    pub(crate) fn copy(&self, into: &str) -> String {
        format!("COPY {into} FROM STDIN WITH (FORMAT csv, HEADER, FORCE_NULL ({}))", self.columns())
    }

    /// What makes it, with the types of the fields, or of texts alone.
    pub(crate) fn create(&self, texts: bool) -> String {
        let column = |(_, name, kind): &(&str, &str, &str)| format!("{name} {}", if texts { "text" } else { kind });
        let columns: Vec<String> = self.fields.iter().map(column).collect();
        format!("DROP TABLE IF EXISTS {0}; CREATE TABLE {0} ({1})", self.name, columns.join(", "))
    }
}

/// Returns the program that is measured: the one that was built together with this one.
pub(crate) fn program() -> Result<PathBuf, Failed> {
    let program = std::env::current_exe()?.with_file_name("bridgehead");
    let missing = || format!("{} is missing: `cargo xtask bench` builds it", program.display());
    if program.exists() { Ok(program) } else { Err(missing().into()) }
}

pub(crate) fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

pub(crate) fn setting(name: &str) -> Result<String, Failed> {
    std::env::var(name).map_err(|_| format!("{name} is not set; `cargo xtask bench` sets it").into())
}

/// Runs a program to its end and returns what it says.
pub(crate) fn said(command: &mut Command) -> Result<String, Failed> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{command:?} ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// An org in a process of its own, which ends with this value.
pub(crate) struct Org {
    child: Child,
    pub(crate) url: String,
    token: String,
}

impl Drop for Org {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Org {
    /// Starts an org whose records are in `folder`, with so many of these objects, besides what `arguments` say.
    pub(crate) fn start(folder: &Path, seeds: &[(&str, u64)], arguments: &[&str]) -> Result<Self, Failed> {
        let (program, file) = (program()?, folder.join("org.db"));
        for (object, rows) in seeds.iter().filter(|(_, rows)| *rows > 0) {
            let seed = ["sandbox", "seed", "--object", object, "--records", &rows.to_string()];
            said(Command::new(&program).args(seed).args(arguments).arg("--file").arg(&file))?;
        }
        let mut command = Command::new(&program);
        command.args(["sandbox", "--port", "0"]).args(arguments).arg("--file").arg(&file).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
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
        let mut org = Self { child, url, token: String::new() };
        let form = "grant_type=client_credentials&client_id=sandbox&client_secret=sandbox-secret";
        let granted =
            said(Command::new("curl").args(["-sSf", "-d", form]).arg(format!("{}/services/oauth2/token", org.url)))?;
        let granted: Value = serde_json::from_str(&granted)?;
        granted["access_token"].as_str().unwrap_or_default().clone_into(&mut org.token);
        Ok(org)
    }

    /// Asks the org for something below its data API.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failed> {
        let mut command = Command::new("curl");
        command.args(["-sSf", "-H", &format!("authorization: Bearer {}", self.token)]);
        Ok(serde_json::from_str(&said(command.arg(format!("{}/services/data/v66.0{path}", self.url)))?)?)
    }

    /// Returns how many calls the org has counted, without those of these questions.
    pub(crate) fn calls(&self, asked: &std::cell::Cell<u64>) -> Result<u64, Failed> {
        let limits = self.get("/limits")?;
        asked.set(asked.get() + 1);
        let number = |name: &str| limits["DailyApiRequests"][name].as_u64().unwrap_or_default();
        Ok(number("Max") - number("Remaining") - asked.get())
    }

    pub(crate) fn count(&self, object: &str) -> Result<u64, Failed> {
        let answer = self.get(&format!("/query?q=SELECT+COUNT()+FROM+{object}"))?;
        Ok(answer["totalSize"].as_u64().unwrap_or_default())
    }
}

/// A project of the real program.
pub(crate) struct Project {
    pub(crate) folder: PathBuf,
    org: String,
    database: String,
}

impl Project {
    /// Makes it anew: `connection` is where the other side of its sync is, as YAML.
    pub(crate) fn new(
        folder: &Path,
        org: &str,
        database: &str,
        connection: &str,
        direction: &str,
        mapping: &str,
    ) -> Result<Self, Failed> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder.join("mappings"))?;
        std::fs::write(
            folder.join("bridgehead.yaml"),
            format!(
                "version: 1\nconnections:\n  crm:\n    kind: salesforce\n    url: ${{env:BENCH_ORG}}\n    \
                 auth: {{ grant: client_credentials, client_id: sandbox, client_secret: \"${{env:BENCH_SECRET}}\" }}\n  \
                 db: {connection}\nsyncs:\n  - {{ sync: bench, mapping: bench, direction: {direction} }}\n"
            ),
        )?;
        std::fs::write(folder.join("mappings/bench.yaml"), mapping)?;
        Ok(Self { folder: folder.to_owned(), org: org.to_owned(), database: database.to_owned() })
    }

    /// A mapping of all fields of a table, each to its column.
    pub(crate) fn mapping(table: &Table, key: &str, entity: &str) -> String {
        let fields = table.fields.iter().filter(|(field, _, _)| *field != key);
        let fields: Vec<String> =
            fields.map(|(field, column, _)| format!("  - {{ salesforce: {field}, external: {column} }}\n")).collect();
        format!(
            "mapping: bench\nversion: 1\nsalesforce: {{ connection: crm, object: {}, key: {key} }}\n\
             external: {{ connection: db, {entity} }}\nfields:\n{}",
            table.object,
            fields.concat()
        )
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command, Failed> {
        let mut command = Command::new(program()?);
        command.arg("-C").arg(&self.folder).args(arguments);
        command.env("BENCH_ORG", &self.org).env("BENCH_SECRET", "sandbox-secret").env("BENCH_DATABASE", &self.database);
        Ok(command)
    }

    /// Returns what the newest run says of itself.
    pub(crate) fn last(&self) -> Result<Value, Failed> {
        let runs: Value = serde_json::from_str(&said(&mut self.command(&["runs", "--json"])?)?)?;
        runs.get(0).map(|run| run["report"].clone()).ok_or_else(|| "no run".into())
    }

    /// Returns the calls that the newest run forecast and spent.
    pub(crate) fn forecast(&self) -> Result<[u64; 2], Failed> {
        let report = self.last()?;
        let times = ["read_ms", "map_ms", "write_ms", "commit_ms"].map(|name| format!("{name} {}", report[name]));
        eprintln!("  of these: {}", times.join(", "));
        Ok(["calls_forecast", "calls"].map(|name| report[name].as_u64().unwrap_or_default()))
    }
}

/// A database that is asked by `psql`.
pub(crate) struct Database(pub(crate) String);

impl Database {
    pub(crate) fn sql(&self, sql: &str) -> Result<String, Failed> {
        said(Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", &self.0, "-c", sql]))
    }

    /// Writes out what is left to write: what the last one left is not on the clock of the next.
    pub(crate) fn settle(&self) -> Result<(), Failed> {
        self.sql("CHECKPOINT").map(drop)
    }

    pub(crate) fn rows(&self, table: &str) -> Result<u64, Failed> {
        Ok(self.sql(&format!("SELECT count(*) FROM {table}"))?.parse()?)
    }
}
