//! `bench sandbox [RECORDS] [SECONDS]`: how fast the local org is, beside what SQLite and a disk allow at best.
//!
//! `bench two-way [PAIRS]`: how fast pairs go through merge and link store.
//!
//! `bench links [COUNT]`: how fast links are written and found, as they become many.
//!
//! `bench events [SECONDS] [RATE]`: how late changes are on the other side of a sync that is followed.
//!
//! `bench rest [SUBSCRIPTIONS] [SECONDS]`: what subscriptions cost while nothing happens.
//!
//! These print one line a measurement. Nothing is asserted: a machine that is busy is slower, and that is no bug.
//!
//! `bench extract | load | changes | start | growth [--rows N] [--short]`: whole runs of the real program beside what users would use instead
//! and the limit, in turns; a table, JSON and a chart in `bench/` of the target folder. They end with 1 where a goal was missed.

mod changes;
mod events;
mod extract;
mod growth;
mod links;
mod load;
mod place;
mod race;
mod start;
mod two_way;

use std::error::Error;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

type Failed = Box<dyn Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Clients that call at the same time.
const CLIENTS: usize = 200;

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map_or("", String::as_str) {
        "sandbox" => org(number(1, 5_000_000), Duration::from_secs(number(2, 300))).await?,
        "two-way" => two_way::run(usize::try_from(number(1, 1_000_000))?).await?,
        "links" => links::run(usize::try_from(number(1, 10_000_000))?)?,
        "events" => Box::pin(events::run(number(1, 600), number(2, 500))).await?,
        "rest" => events::rest(number(1, 100), number(2, 30)).await?,
        name @ ("extract" | "load" | "changes" | "start" | "growth") => {
            let wishes = wishes(&arguments[1..])?;
            let program = std::env::current_exe()?;
            let folder = program.parent().and_then(Path::parent).ok_or("a program stands in a folder")?.join("bench");
            let reached = match name {
                "load" => load::run(&wishes, &folder)?,
                "changes" => changes::run(&wishes, &folder)?,
                "start" => start::run(&wishes, &folder)?,
                "growth" => growth::run(&wishes, &folder)?,
                _ => extract::run(&wishes, &folder)?,
            };
            if !reached {
                return Ok(ExitCode::FAILURE);
            }
        }
        _ => {
            eprintln!(
                "usage: bench sandbox [RECORDS] [SECONDS] | two-way [PAIRS] | links [COUNT] | events [SECONDS] [RATE] | \
                 rest [SUBSCRIPTIONS] [SECONDS] | extract [--object Account|Contact] \
                 [--into postgres|upsert|sqlite|parquet] [--rows N] [--short] | load [--skewed] [--rows N] [--short] | \
                 changes [--rows N] [--short] | start [--short] | growth [--short]"
            );
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a race is wanted.
#[derive(Debug, Default)]
struct Wishes {
    rows: Option<u64>,
    short: bool,
    object: Option<String>,
    into: Option<String>,
    skewed: bool,
}

impl Wishes {
    /// Returns rows and rounds; `usual` are the rows where none are wanted, and those where it is to be short.
    fn size(&self, [usual, short]: [u64; 2]) -> (u64, usize) {
        if self.short { (self.rows.unwrap_or(short), 1) } else { (self.rows.unwrap_or(usual), 3) }
    }
}

fn wishes(words: &[String]) -> Result<Wishes, Failed> {
    let (mut wishes, mut words) = (Wishes::default(), words.iter());
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--short" => wishes.short = true,
            "--skewed" => wishes.skewed = true,
            "--rows" => wishes.rows = Some(value()?.parse()?),
            "--object" => wishes.object = Some(value()?),
            "--into" => wishes.into = Some(value()?),
            other => {
                return Err(
                    format!("{other} is not known; there are --rows, --short, --object, --into, --skewed").into()
                );
            }
        }
    }
    Ok(wishes)
}

async fn org(records: u64, patience: Duration) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("org.db");
    let config = || Config { file: Some(file.clone()), api_calls: u64::MAX / 2, ..Config::default() };

    let started = Instant::now();
    let org = Sandbox::start(config()).await?;
    let org = tokio::task::spawn_blocking(move || org.seed(records, 1, Some("Account")).map(|_| org)).await??;
    per_second("seed", records, started.elapsed());
    org.stop().await;

    let started = Instant::now();
    let org = Arc::new(Sandbox::start(config()).await?);
    println!("start with {records} accounts: {:.3} s", started.elapsed().as_secs_f64());

    let caller = Caller::sign_in(&org).await?;
    selective(&caller).await?;

    let started = Instant::now();
    let rows = caller
        .bulk_query("SELECT Id, Name, Type, Industry, BillingCity, AnnualRevenue, NumberOfEmployees FROM Account")
        .await?;
    let took = started.elapsed();
    per_second("bulk query, 7 fields, job and download", rows, took);
    let limit = raw(&file, folder.path())?;
    per_second("limit: the same rows by SQLite alone, to a file", rows, limit);
    println!("ratio to the limit: {:.2}", limit.as_secs_f64() / took.as_secs_f64());
    println!("memory: {} MB now, {} MB at most", status("VmRSS:"), status("VmHWM:"));

    crowd(&caller, patience).await?;
    println!("memory: {} MB now, {} MB at most", status("VmRSS:"), status("VmHWM:"));
    Ok(())
}

fn per_second(what: &str, count: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    println!("{what}: {count} in {seconds:.2} s, {:.0} a second", count as f64 / seconds);
}

/// Returns a figure of the kernel about this process, in MB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Reads the same rows with SQLite alone and writes them to a file: nothing that also parses and serves can be faster.
fn raw(file: &Path, folder: &Path) -> Result<Duration, Failed> {
    let started = Instant::now();
    let connection = rusqlite::Connection::open(file)?;
    let sql =
        "SELECT Id, Name, Type, Industry, BillingCity, AnnualRevenue, NumberOfEmployees FROM Account WHERE IsDeleted=0";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut out = BufWriter::with_capacity(1 << 16, std::fs::File::create(folder.join("raw.csv"))?);
    while let Some(row) = rows.next()? {
        for column in 0..7 {
            match row.get_ref(column)? {
                rusqlite::types::ValueRef::Text(text) => out.write_all(text)?,
                rusqlite::types::ValueRef::Integer(number) => write!(out, "{number}")?,
                rusqlite::types::ValueRef::Real(number) => write!(out, "{number}")?,
                _ => {}
            }
            out.write_all(if column == 6 { b"\n" } else { b"," })?;
        }
    }
    out.flush()?;
    Ok(started.elapsed())
}

/// A signed-in client.
#[derive(Clone)]
struct Caller {
    http: Client,
    base: String,
    token: String,
}

impl Caller {
    async fn sign_in(org: &Sandbox) -> Result<Self, Failed> {
        let http = Client::builder().no_proxy().build()?;
        let form =
            [("grant_type", "client_credentials"), ("client_id", org.client_id()), ("client_secret", "sandbox-secret")];
        let granted = http.post(format!("{}/services/oauth2/token", org.url())).form(&form).send().await?;
        let granted: Value = serde_json::from_slice(&granted.bytes().await?)?;
        let token = granted["access_token"].as_str().ok_or("no token")?.to_owned();
        Ok(Self { http, base: format!("{}/services/data/v66.0", org.url()), token })
    }

    async fn get(&self, path: &str) -> Result<Value, Failed> {
        let answer = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token).send().await?;
        let status = answer.status();
        let value: Value = serde_json::from_slice(&answer.bytes().await?)?;
        if status.is_success() { Ok(value) } else { Err(value.to_string().into()) }
    }

    async fn query(&self, soql: &str) -> Result<Value, Failed> {
        self.get(&format!("/query?q={}", soql.replace(' ', "+").replace('\'', "%27").replace('=', "%3D"))).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failed> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await?;
        let status = answer.status();
        let value: Value = serde_json::from_slice(&answer.bytes().await?)?;
        if status.is_success() { Ok(value) } else { Err(value.to_string().into()) }
    }

    /// Runs a Bulk query and downloads all its pages; returns the number of rows.
    async fn bulk_query(&self, soql: &str) -> Result<u64, Failed> {
        let job = self.post("/jobs/query", &json!({"operation": "query", "query": soql})).await?;
        let path = format!("/jobs/query/{}", job["id"].as_str().unwrap_or_default());
        loop {
            let job = self.get(&path).await?;
            match job["state"].as_str() {
                Some("JobComplete") => break,
                Some("Failed" | "Aborted") => return Err(job.to_string().into()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let (mut rows, mut locator) = (0, String::new());
        loop {
            let url = format!("{}{path}/results?maxRecords=250000{locator}", self.base);
            let mut answer = self.http.get(url).bearer_auth(&self.token).send().await?;
            let header = |name: &str| {
                answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            let next = header("sforce-locator");
            rows += header("sforce-numberofrecords").parse::<u64>()?;
            while answer.chunk().await?.is_some() {}
            if next == "null" {
                return Ok(rows);
            }
            locator = format!("&locator={next}");
        }
    }
}

/// Queries that an index of the large table answers: by id, by the time of the last change, by a parent that has none.
async fn selective(caller: &Caller) -> Result<(), Failed> {
    let some = caller.query("SELECT Id, SystemModstamp FROM Account LIMIT 1").await?;
    let text = |name: &str| some["records"][0][name].as_str().unwrap_or_default().to_owned();
    let (id, changed) = (text("Id"), text("SystemModstamp").replace("+0000", "Z"));
    let queries = [
        ("by id", format!("SELECT Id, Name FROM Account WHERE Id='{id}'")),
        ("by time of change", format!("SELECT Id, Name FROM Account WHERE SystemModstamp={changed}")),
        ("by parent", format!("SELECT Id, Name FROM Account WHERE ParentId='{id}'")),
    ];
    for (what, soql) in queries {
        let mut times = Vec::new();
        for _ in 0..200 {
            let started = Instant::now();
            caller.query(&soql).await?;
            times.push(started.elapsed());
        }
        times.sort();
        println!("selective query {what}: median {:.2} ms, 99 of 100 under {:.2} ms", ms(times[100]), ms(times[197]));
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Many clients at the same time: each reads, queries and writes in turn.
async fn crowd(caller: &Caller, patience: Duration) -> Result<(), Failed> {
    let (calls, errors) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let some = caller.query("SELECT Id FROM Account LIMIT 200").await?;
    let ids: Vec<String> = some["records"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|record| record["Id"].as_str().unwrap_or_default().to_owned())
        .collect();
    let end = Instant::now() + patience;
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (caller, calls, errors) = (caller.clone(), calls.clone(), errors.clone());
            let id = ids[number % ids.len()].clone();
            tokio::spawn(async move {
                let mut turn = number;
                while Instant::now() < end {
                    let done = match turn % 4 {
                        0 => caller.get(&format!("/sobjects/Account/{id}?fields=Name,Type")).await,
                        1 => caller.query(&format!("SELECT Id, Name, Owner.Name FROM Account WHERE Id='{id}'")).await,
                        2 => caller.post("/sobjects/Contact", &json!({"LastName": "Crowd", "AccountId": id})).await,
                        _ => caller.query(&format!("SELECT COUNT() FROM Contact WHERE AccountId='{id}'")).await,
                    };
                    if let Err(error) = done
                        && errors.fetch_add(1, Ordering::Relaxed) < 3
                    {
                        eprintln!("error: {error}");
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    per_second(&format!("{CLIENTS} clients"), calls.load(Ordering::Relaxed), patience);
    println!("errors: {}", errors.load(Ordering::Relaxed));
    Ok(())
}
