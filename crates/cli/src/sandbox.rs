//! The local org: start it, fill it, copy it, and make it misbehave.

use std::path::{Path, PathBuf};

use ::sandbox::{Config, Definition, Fault, Rule, Sandbox};
use clap::{Args, Subcommand, ValueEnum};
use model::Class;
use outbound::{Client, Request, Settings};
use serde_json::{Value, json};

use crate::Failure;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    org: Org,
    /// Port on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 8765)]
    port: u16,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What an org is made of.
#[derive(Debug, Args)]
struct Org {
    /// Salesforce DX project whose objects it has; may be given more than once.
    #[arg(long = "project", value_name = "DIR")]
    projects: Vec<PathBuf>,
    /// File that keeps its records; they are gone at the end if not given.
    #[arg(long)]
    file: Option<PathBuf>,
    /// YAML file with its apps, users, permissions and rules.
    #[arg(long, value_name = "FILE")]
    org: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill an org's file with believable records.
    Seed {
        /// How many records, of all objects together.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        records: u64,
        /// The same seed makes the same records.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this object: Account, Contact, Opportunity or Case.
        #[arg(long)]
        object: Option<String>,
        #[command(flatten)]
        org: Org,
    },
    /// Copy a running org into a file.
    Snapshot {
        /// File to make.
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Put a snapshot in the place of a running org's records.
    Restore {
        /// File that `snapshot` made.
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Move a running org's clock.
    Clock {
        /// Date and time, such as 2027-01-31T12:00:00Z; the true time if not given.
        moment: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Make a running org misbehave, or stop it; without a fault list what goes wrong.
    Chaos {
        /// What goes wrong.
        fault: Option<Kind>,
        /// How likely, from 0 to 1.
        #[arg(long, default_value_t = 1.0)]
        probability: f64,
        /// How often; without end if not given.
        #[arg(long)]
        count: Option<u64>,
        /// Only calls whose path has this.
        #[arg(long)]
        path: Option<String>,
        /// Only calls and jobs of this object.
        #[arg(long)]
        object: Option<String>,
        /// Only calls of this user.
        #[arg(long)]
        user: Option<String>,
        /// Milliseconds of latency.
        #[arg(long, default_value_t = 1000)]
        milliseconds: u64,
        /// Status of an unavailable org, such as 429 or 503.
        #[arg(long, default_value_t = 503)]
        status: u16,
        /// Seconds for `Retry-After` of an unavailable org.
        #[arg(long)]
        retry_after: Option<u64>,
        /// Begin the dice anew, so that what happens can be repeated.
        #[arg(long)]
        seed: Option<u64>,
        /// Let everything go well again.
        #[arg(long, conflicts_with = "fault")]
        clear: bool,
        #[command(flatten)]
        at: At,
    },
}

/// Where the running org is.
#[derive(Debug, Args)]
struct At {
    /// Address of the running org.
    #[arg(long = "at", value_name = "URL", default_value = "http://127.0.0.1:8765")]
    url: String,
}

/// A fault, by the name of what a client sees.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Answers come late.
    Latency,
    /// 403 REQUEST_LIMIT_EXCEEDED: too many calls a day.
    Throttle,
    /// 403 REQUEST_LIMIT_EXCEEDED: too many calls at a time.
    Concurrent,
    /// An HTML page with a status such as 503.
    Unavailable,
    /// UNABLE_TO_LOCK_ROW on writes.
    Lock,
    /// 401 INVALID_SESSION_ID.
    ExpireSession,
    /// The connection breaks as the answer begins.
    Drop,
    /// The connection breaks in the middle of a body.
    Truncate,
    /// Bodies trickle.
    SlowBody,
    /// Rows of batches and collections fail.
    PartialFailure,
    /// Bulk jobs never end.
    StuckJob,
    /// Bulk jobs fail.
    FailedJob,
    /// Ingest jobs are aborted after their first batch.
    AbortedJob,
    /// Events are not told.
    EventLost,
    /// Events are told twice.
    EventDoubled,
    /// Events of different transactions change places.
    EventReordered,
    /// Events come later.
    EventLate,
    /// Changes are told without values.
    EventGap,
    /// Changes of a transaction are told as too many to tell.
    EventOverflow,
    /// Streams of events break.
    StreamCut,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        None => serve(config(arguments.org, arguments.port)?).await,
        Some(Command::Seed { records, seed, object, org }) => {
            if org.file.is_none() {
                return Err(Failure::new(Class::Mapping, "give the file that is to hold the records: --file org.db"));
            }
            fill(config(org, 0)?, records, seed, object).await
        }
        Some(Command::Snapshot { path, at }) => {
            send(&at, "POST", "snapshot", Some(&json!({"path": absolute(&path)?}))).await?;
            println!("The org is in {}.", path.display());
            Ok(())
        }
        Some(Command::Restore { path, at }) => {
            send(&at, "POST", "restore", Some(&json!({"path": absolute(&path)?}))).await?;
            println!("The org is as it was in {}.", path.display());
            Ok(())
        }
        Some(Command::Clock { moment, at }) => {
            let body = moment.map_or_else(|| json!({"seconds": 0}), |moment| json!({"at": moment}));
            let answer = send(&at, "POST", "clock", Some(&body)).await?;
            println!("The org's clock says {}.", answer["now"].as_str().unwrap_or_default());
            Ok(())
        }
        Some(Command::Chaos { fault: None, clear: true, at, .. }) => {
            send(&at, "DELETE", "chaos", None).await?;
            println!("Everything goes well again.");
            Ok(())
        }
        Some(Command::Chaos { fault: None, seed, at, .. }) => {
            if seed.is_some() {
                send(&at, "POST", "chaos", Some(&json!({"seed": seed}))).await?;
            }
            list(&send(&at, "GET", "chaos", None).await?);
            Ok(())
        }
        Some(Command::Chaos {
            fault: Some(kind),
            probability,
            count,
            path,
            object,
            user,
            milliseconds,
            status,
            retry_after,
            seed,
            at,
            ..
        }) => {
            let fault = match kind {
                Kind::Latency => Fault::Latency { milliseconds, jitter: milliseconds / 4 },
                Kind::Throttle => Fault::Throttle { concurrent: false },
                Kind::Concurrent => Fault::Throttle { concurrent: true },
                Kind::Unavailable => Fault::Status { status, retry_after },
                Kind::Lock => Fault::Lock,
                Kind::ExpireSession => Fault::ExpireSession,
                Kind::Drop => Fault::Drop,
                Kind::Truncate => Fault::Truncate,
                Kind::SlowBody => Fault::SlowBody { bytes_per_second: 1024 },
                Kind::PartialFailure => Fault::PartialFailure { code: "UNKNOWN_EXCEPTION".to_owned() },
                Kind::StuckJob => Fault::StuckJob,
                Kind::FailedJob => Fault::FailedJob,
                Kind::AbortedJob => Fault::AbortedJob,
                Kind::EventLost => Fault::EventLost,
                Kind::EventDoubled => Fault::EventDoubled,
                Kind::EventReordered => Fault::EventReordered,
                Kind::EventLate => Fault::EventLate { milliseconds },
                Kind::EventGap => Fault::EventGap,
                Kind::EventOverflow => Fault::EventOverflow,
                Kind::StreamCut => Fault::StreamCut,
            };
            let rule = Rule { probability, count, path, object, user, ..Rule::new(fault) };
            let mut body = serde_json::to_value(rule).map_err(|error| Failure::from_error(Class::Internal, &error))?;
            if let Some(seed) = seed {
                body["seed"] = json!(seed);
            }
            let made = send(&at, "POST", "chaos", Some(&body)).await?;
            println!("Rule {} holds. `bridgehead sandbox chaos --clear` ends it.", made["id"]);
            Ok(())
        }
    }
}

fn config(org: Org, port: u16) -> Result<Config, Failure> {
    let definition = match &org.org {
        Some(path) => Definition::load(path).map_err(|error| Failure::from_error(Class::Mapping, &error))?,
        None => Definition::default(),
    };
    Ok(Config { port, projects: org.projects, file: org.file, definition, ..Config::default() })
}

async fn start(config: Config) -> Result<Sandbox, Failure> {
    Sandbox::start(config).await.map_err(|error| Failure::from_error(Class::Mapping, &error))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let org = start(config).await?;
    println!("A Salesforce org for one machine listens at {}", org.url());
    println!("OAuth client credentials: client_id {}, client_secret sandbox-secret. Ctrl-C stops it.", org.client_id());
    for note in org.notes() {
        println!("note: {note}");
    }
    let _ = tokio::signal::ctrl_c().await;
    org.stop().await;
    Ok(())
}

async fn fill(config: Config, records: u64, seed: u64, object: Option<String>) -> Result<(), Failure> {
    let started = std::time::Instant::now();
    let org = start(config).await?;
    let made = tokio::task::spawn_blocking(move || {
        let made = org.seed(records, seed, object.as_deref());
        (org, made)
    });
    let (org, made) = made.await.map_err(|error| Failure::from_error(Class::Internal, &error))?;
    org.stop().await;
    let made = made.map_err(|message| Failure::new(Class::Mapping, message))?;
    println!("Made {made} records in {:.1} s.", started.elapsed().as_secs_f64());
    Ok(())
}

/// The running org may have another working folder.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::from_error(Class::Mapping, &error))
}

/// Calls the admin API of a running org.
async fn send(at: &At, method: &'static str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let url = format!("{}/sandbox/api/{path}", at.url.trim_end_matches('/'));
    let failed = |error: &outbound::Error| Failure::from_error(error.class(), error);
    let client = Client::new(Settings::default()).map_err(|error| failed(&error))?;
    let request = Request::new(method, url).json(body.unwrap_or(&Value::Null));
    let response = client.send(&request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(|error| failed(&error))?;
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status < 400 {
        return Ok(answer);
    }
    let message = answer[0]["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
    Err(Failure::new(Class::Mapping, format!("the org refused: {message}")))
}

fn list(rules: &Value) {
    let rules = rules.as_array().cloned().unwrap_or_default();
    if rules.is_empty() {
        println!("Everything goes well.");
    }
    for rule in rules {
        let left =
            rule["count"].as_u64().map_or_else(|| "without end".to_owned(), |count| format!("{count} more times"));
        println!(
            "{}  {}  probability {}, {left}, {} hits",
            rule["id"], rule["fault"], rule["probability"], rule["hits"]
        );
    }
}
