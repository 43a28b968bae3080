//! `bench events [SECONDS] [RATE]`: how late changes are on the other side, from commit to commit, while RATE records a second
//! are changed on both sides of a two-way sync between the sandbox and PostgreSQL; and how fast a backlog is drained. Beside
//! it what users write today: a Python client of the Pub/Sub API that upserts row by row.
//!
//! PostgreSQL with `wal_level=logical` is at BRIDGEHEAD_TEST_POSTGRES, Python with the clients of the gate at
//! BRIDGEHEAD_TEST_PYTHON.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{Deletes, Following, Options, Sync, TwoWayRules};
use mapping::{Definition, Direction};
use salesforce::pubsub::{PubSub, Replay};
use salesforce::{Client, Credentials, Settings};
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};
use state::Store;
use tokio_postgres::NoTls;

use crate::{Failed, per_second, status};

/// Records on each side.
const RECORDS: usize = 10_000;
/// People at work on each side.
const WRITERS: usize = 4;
/// Events of the backlog.
const BACKLOG: u64 = 100_000;

/// Remembers no jobs: none is taken up again here.
struct NoJobs;

impl endpoint::Journal for NoJobs {
    fn begin(&self, _: &str, _: &str) -> endpoint::Result<()> {
        Ok(())
    }

    fn unfinished(&self, _: &str) -> endpoint::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn end(&self, _: &str, _: &str) -> endpoint::Result<()> {
        Ok(())
    }
}

fn client(org: &Sandbox) -> Result<Client, Failed> {
    let credentials = Credentials::ClientCredentials {
        login_url: org.url().to_owned(),
        client_id: org.client_id().to_owned(),
        client_secret: "sandbox-secret".to_owned().into(),
    };
    Ok(Client::new(credentials, Settings::default())?)
}

async fn postgres(url: &str) -> Result<tokio_postgres::Client, Failed> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Changes records of one half at a rate, until `end`; the other half is changed on the other side.
async fn edit_in_salesforce(client: Client, writer: usize, every: Duration, end: Instant) -> Result<u64, Failed> {
    let mut beat = tokio::time::interval(every);
    let mut edits = 0;
    while Instant::now() < end {
        beat.tick().await;
        let record = (edits as usize * 2 * WRITERS + writer * 2) % RECORDS;
        let path = client.path(&format!("sobjects/Account/Customer_No__c/K-{record:06}"));
        let request = outbound::Request::new("PATCH", path).json(&json!({"BillingCity": format!("s{edits}")}));
        client.send(&request).await?;
        edits += 1;
    }
    Ok(edits)
}

async fn edit_outside(url: String, table: String, writer: usize, every: Duration, end: Instant) -> Result<u64, Failed> {
    let db = postgres(&url).await?;
    let update = db.prepare(&format!("UPDATE {table} SET country = $2 WHERE id = $1")).await?;
    let mut beat = tokio::time::interval(every);
    let mut edits = 0;
    while Instant::now() < end {
        beat.tick().await;
        let record = (edits as usize * 2 * WRITERS + writer * 2 + 1) % RECORDS;
        db.execute(&update, &[&format!("K-{record:06}"), &format!("e{edits}")]).await?;
        edits += 1;
    }
    Ok(edits)
}

pub(crate) async fn run(seconds: u64, rate: u64) -> Result<(), Failed> {
    let url = std::env::var("BRIDGEHEAD_TEST_POSTGRES").map_err(|_| "BRIDGEHEAD_TEST_POSTGRES is not set")?;
    let folder = tempfile::tempdir()?;
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/bicycle/org");
    let mut config = Config { projects: vec![project], api_calls: u64::MAX / 2, ..Config::default() };
    config.definition.change_data_capture = vec!["Account".to_owned()];
    let org = Sandbox::start(config).await?;
    let table = format!("bench_events_{}", std::process::id());
    let db = postgres(&url).await?;
    db.batch_execute(&format!(
        "CREATE TABLE {table} (id text PRIMARY KEY, name text NOT NULL, city text, country text);
         INSERT INTO {table} (id, name) SELECT 'K-' || lpad(n::text, 6, '0'), 'n' || n FROM generate_series(0, {}) n",
        RECORDS - 1
    ))
    .await?;
    let text = format!(
        "mapping: m\nversion: 1\nsalesforce: {{ connection: a, object: Account, key: Customer_No__c }}\n\
         external: {{ connection: b, entity: public.{table}, key: id, capture: log }}\nfields:\n\
         - {{ salesforce: Name, external: name }}\n  - {{ salesforce: BillingCity, external: city }}\n  \
         - {{ salesforce: BillingCountry, external: country }}\n"
    );
    let text = text.replace("fields:\n- ", "fields:\n  - ");
    let sync = Sync {
        name: "bench".to_owned(),
        definition: Definition::parse(&text)?,
        direction: Direction::ToExternal,
        deletes: Deletes::Propagate,
        brake: 1.0,
        drift: engine::Drift::Ignore,
        history: engine::History::None,
        version: None,
        two_way: Some(TwoWayRules::default()),
        circle: Vec::new(),
    };
    let ours = endpoints_apps::salesforce::Org::new(client(&org)?, Arc::new(NoJobs), 2_000);
    let theirs = endpoints_data::postgres::Postgres::new(&url, None)?;
    let store = Store::open(&folder.path().join("state.db"))?;
    let options = Options { force: true, ..Options::default() };
    let measured = followed(&sync, [&ours, &theirs], &store, &options, &org, (&url, &table), seconds, rate).await;
    engine::capture_of(&sync, &theirs, &store, true).await?;
    db.batch_execute(&format!("DROP TABLE {table}")).await?;
    measured?;
    drain(&org).await?;
    peer(&org, &url, rate).await
}

#[expect(clippy::too_many_arguments, reason = "all that is measured")]
async fn followed(
    sync: &Sync,
    ends: [&dyn endpoint::Endpoint; 2],
    store: &Store,
    options: &Options,
    org: &Sandbox,
    (url, table): (&str, &str),
    seconds: u64,
    rate: u64,
) -> Result<(), Failed> {
    let in_step = tokio::sync::Notify::new();
    let batches = AtomicU64::new(0);
    let progress = |_: &engine::Report| {
        batches.fetch_add(1, Ordering::Relaxed);
        in_step.notify_one();
    };
    let work = async {
        in_step.notified().await;
        // Our own writes come back first.
        let told = || -> Result<u64, Failed> {
            let shown = store.streams()?.into_iter().next();
            Ok(shown
                .map_or(0, |shown| serde_json::from_str::<engine::Stream>(&shown.body).map_or(0, |one| one.changes)))
        };
        let waited = Instant::now();
        while told()? < RECORDS as u64 {
            if waited.elapsed() > Duration::from_mins(2) {
                return Err("our own writes did not come back in two minutes".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let begun = Instant::now();
        println!("in step with {RECORDS} records; memory: {} MB", status("VmRSS:"));
        // Both halves of the rate, by several people each.
        let every = Duration::from_secs_f64(2.0 * WRITERS as f64 / rate.max(1) as f64);
        let end = begun + Duration::from_secs(seconds);
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            writers.push(tokio::spawn(edit_in_salesforce(client(org)?, writer, every, end)));
            writers.push(tokio::spawn(edit_outside(url.to_owned(), table.to_owned(), writer, every, end)));
        }
        let over_time = tokio::spawn(memory_over_time(begun, seconds));
        let mut edits = [0; 2];
        for (at, writer) in writers.into_iter().enumerate() {
            edits[at % 2] += writer.await??;
        }
        let took = begun.elapsed();
        println!("memory at each tenth of that time, in MB: {}", over_time.await?);
        per_second("edits in Salesforce", edits[0], took);
        per_second("edits outside", edits[1], took);
        // What is on its way arrives.
        let db = postgres(url).await?;
        let last = (edits[0] as usize / WRITERS - 1) * 2 * WRITERS % RECORDS;
        let sql = format!("SELECT city FROM {table} WHERE id = 'K-{last:06}'");
        let wanted = format!("s{}", edits[0] as usize / WRITERS - 1);
        let waited = Instant::now();
        while db.query_one(&sql, &[]).await?.get::<_, Option<String>>(0).as_ref() != Some(&wanted) {
            if waited.elapsed() > Duration::from_mins(1) {
                return Err("the last edit did not come in a minute".into());
            }
            tokio::task::yield_now().await;
        }
        println!("the last edit was there {:.1} s later", waited.elapsed().as_secs_f64());
        options.stop.cancel();
        Ok::<_, Failed>(())
    };
    let following = engine::follow_pairs(sync, ends, store, &|_| None, options, Following::default(), &progress);
    let (report, worked) = tokio::join!(following, work);
    worked?;
    let report = report?;
    for shown in store.streams()? {
        let stream: engine::Stream = serde_json::from_str(&shown.body)?;
        let lag = stream.lag;
        println!(
            "{:?}: {} changes, {} told with their time; from commit to commit p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, at \
             most {:.1} ms; {} gaps",
            shown.side, stream.changes, lag.count, lag.p50, lag.p95, lag.p99, lag.max, stream.gaps
        );
    }
    println!(
        "{} batches, of which mapping {} ms, writing {} ms, storing {} ms; {} updated, {} API calls; memory: {} MB now, {} MB at most",
        batches.load(Ordering::Relaxed),
        report.map_ms,
        report.write_ms,
        report.commit_ms,
        report.counts.updated,
        report.calls,
        status("VmRSS:"),
        status("VmHWM:")
    );
    Ok(())
}

/// Returns how much memory this process holds at each tenth of a time.
async fn memory_over_time(begun: Instant, seconds: u64) -> String {
    let mut told = Vec::new();
    for tenth in 1..=10 {
        tokio::time::sleep_until((begun + Duration::from_millis(seconds * 100 * tenth)).into()).await;
        told.push(status("VmRSS:").to_string());
    }
    told.join(" ")
}

/// Takes a backlog of events as fast as the client can.
async fn drain(org: &Sandbox) -> Result<(), Failed> {
    let client = client(org)?;
    let pubsub = PubSub::connect(&client, None).await?;
    let mut events = pubsub.subscribe("/data/AccountChangeEvent", Replay::Latest).await?;
    let records: Vec<Value> = (0..BACKLOG).map(|at| json!({"Name": format!("backlog {at}")})).collect();
    for records in records.chunks(200) {
        let records = records.iter().filter_map(|record| record.as_object().cloned()).collect();
        client.send(&salesforce::collections::create(&client, "Account", records)).await?;
    }
    let (begun, mut taken) = (Instant::now(), 0);
    while taken < BACKLOG {
        taken += events.next().await?.ok_or("the stream ended")?.events.len() as u64;
    }
    per_second("backlog of events drained and decoded", taken, begun.elapsed());
    Ok(())
}

/// What many subscriptions cost while nothing happens; the org that they are of lives in this process, too.
pub(crate) async fn rest(subscriptions: u64, seconds: u64) -> Result<(), Failed> {
    let mut config = Config::default();
    config.definition.change_data_capture = vec!["Account".to_owned()];
    let org = Sandbox::start(config).await?;
    let pubsub = PubSub::connect(&client(&org)?, None).await?;
    let mut open = Vec::new();
    for _ in 0..subscriptions {
        let mut events = pubsub.subscribe("/data/AccountChangeEvent", Replay::Latest).await?;
        open.push(tokio::spawn(async move {
            events.next().await?;
            Ok::<_, salesforce::Error>(())
        }));
    }
    // All of them listen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, begun) = (cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let share = cpu()?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!(
        "{subscriptions} subscriptions at rest for {seconds} s: {:.2}% of one core, the org's part included; memory: {} MB",
        share * 100.0,
        status("VmRSS:")
    );
    // That they did listen.
    client(&org)?.create("Account", &json!({"Name": "One"})).await?;
    for told in open {
        told.await??;
    }
    Ok(())
}

/// Returns the processor time of this process. Source: proc(5), fields 14 and 15 of `stat`, in hundredths of a second.
fn cpu() -> Result<Duration, Failed> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').ok_or("the kernel says nothing")?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// What users write today: one event after the other, each an upsert of its own.
async fn peer(org: &Sandbox, url: &str, rate: u64) -> Result<(), Failed> {
    let Ok(python) = std::env::var("BRIDGEHEAD_TEST_PYTHON") else {
        println!("peer: left out, BRIDGEHEAD_TEST_PYTHON is not set");
        return Ok(());
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/pubsub_upserts.py");
    let seconds = 20;
    let mut child = std::process::Command::new(python)
        .arg(script)
        .args([org.url(), url, &seconds.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("its output")?);
    let (line, mut output) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        output.read_line(&mut line).map(|_| (line, output))
    })
    .await??;
    if line.trim() != "listening" {
        return Err(format!("the peer says {line:?}").into());
    }
    // Only Salesforce changes here: the peer goes one way.
    let every = Duration::from_secs_f64(2.0 * WRITERS as f64 / rate.max(1) as f64);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        writers.push(tokio::spawn(edit_in_salesforce(client(org)?, writer, every, end)));
    }
    for writer in writers {
        writer.await??;
    }
    let said = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        output.read_to_string(&mut said).map(|_| said)
    });
    print!("{}", said.await??);
    child.wait()?;
    Ok(())
}
