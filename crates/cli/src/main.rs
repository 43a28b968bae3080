//! The `bridgehead` command.

mod audit;
mod capture;
mod commands;
mod config;
mod conflicts;
mod demo;
mod deploy;
mod follow;
mod lineage;
mod project;
mod reconcile;
mod sandbox;
mod serve;
mod telemetry;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use engine::Pilot;
use model::Class;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps a Salesforce org and the systems around it in step.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// Folder of the project: the one with `bridgehead.yaml`.
    #[arg(long, short = 'C', global = true, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// The environment: what `environments/NAME.yaml` has otherwise counts, and its state is its own.
    #[arg(long, global = true, env = "BRIDGEHEAD_ENV", value_name = "NAME")]
    env: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a project to start from.
    Init,
    /// List a connection's entities, or describe one of them.
    Discover {
        /// Name of the connection.
        connection: String,
        /// Entity to describe.
        entity: Option<String>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Check every mapping against both catalogs.
    Check,
    /// Say what a run would do; write nothing.
    Plan {
        /// Syncs; all if none is named.
        syncs: Vec<String>,
        /// One JSON object per sync, instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Run syncs.
    Run {
        /// Syncs; all if none is named. Parents run before their children, else in the order given.
        syncs: Vec<String>,
        /// Read everything, not only what changed.
        #[arg(long)]
        full: bool,
        /// Go on where a brake would stop a two-way sync, or `drift: stop` any.
        #[arg(long)]
        force: bool,
        /// Write only the first so many records, to see whether the mapping is right; the checkpoint stays where it is.
        #[arg(long, value_name = "N", conflicts_with_all = ["full", "follow"])]
        pilot: Option<u64>,
        /// Write only records for which this holds, too: a condition in the source's language. The checkpoint stays where it is.
        #[arg(long = "where", value_name = "CONDITION", conflicts_with_all = ["full", "follow"])]
        filter: Option<String>,
        /// Go on with changes of two-way syncs as they happen, until Ctrl-C.
        #[arg(long, conflicts_with = "full")]
        follow: bool,
        /// One JSON object per run, instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Read both sides of syncs whole and say what differs; ends with an error where something does.
    Reconcile(reconcile::Arguments),
    /// Say what the streams of followed syncs do: how many changes, how late, how often cut.
    Streams {
        /// One JSON object per stream, instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Run syncs by schedule and answer the admin API, until Ctrl-C.
    Serve {
        /// The port; 0 takes a free one.
        #[arg(long, default_value_t = 8420)]
        port: u16,
        /// The address to listen on; one that others can reach needs a token first.
        #[arg(long, default_value = "127.0.0.1")]
        address: std::net::IpAddr,
    },
    /// Check the project as the folder has it, keep it as a version, and put that to work in `serve`.
    Deploy {
        #[command(flatten)]
        why: deploy::Why,
        /// Only keep it; `promote` puts it to work.
        #[arg(long)]
        staged: bool,
        /// Say what would change; keep nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the versions that were kept.
    Versions {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Show what is different between two versions.
    Diff {
        /// The earlier; the one at work if none is named.
        from: Option<i64>,
        /// The later; what the folder has if none is named.
        to: Option<i64>,
    },
    /// Put a version to work that was kept.
    Promote {
        /// Its number; the newest if none is named.
        version: Option<i64>,
        #[command(flatten)]
        why: deploy::Why,
    },
    /// Put an earlier version to work again.
    Rollback {
        /// Its number; the one that was at work before if none is named.
        version: Option<i64>,
        #[command(flatten)]
        why: deploy::Why,
        /// Put back, too, what two-way syncs wrote since the present version was put to work.
        #[arg(long)]
        undo: bool,
    },
    /// Let `serve` leave a sync alone, or go on with it.
    Pause {
        /// The sync.
        sync: String,
        /// Why, for others to read.
        #[arg(long)]
        why: String,
    },
    /// Let `serve` go on with a sync that was paused.
    Resume {
        /// The sync.
        sync: String,
    },
    /// List the alerts that hold, or try where they go.
    Alerts {
        /// Send a message to one of `alerts.to` that says it is a test.
        #[arg(long, value_name = "NAME")]
        test: Option<String>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Make tokens for the admin API, and take them back.
    #[command(subcommand)]
    Token(token::Arguments),
    /// Put back what a run of a two-way sync wrote, on both sides; what was changed since stays.
    Undo {
        /// The run's number: see `bridgehead runs`.
        run: i64,
        /// Put back also what was changed since.
        #[arg(long)]
        force: bool,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// List the newest runs.
    Runs {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Look after changes that could not be applied.
    #[command(subcommand)]
    DeadLetters(Letters),
    /// See and decide what both sides of a two-way sync changed.
    #[command(subcommand)]
    Conflicts(conflicts::Arguments),
    /// See how the changes of syncs are noted outside, and end it.
    #[command(subcommand)]
    Capture(capture::Arguments),
    /// See what happened and who did it, and prove that nothing of it was changed.
    #[command(subcommand)]
    Audit(audit::Arguments),
    /// Start a local Salesforce org, or look after one.
    Sandbox(sandbox::Arguments),
    /// Print the JSON Schema of the project's files, for editors.
    Schema {
        /// Which file.
        #[arg(default_value = "project")]
        what: Schema,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Show all of it, with no set-up.
    Demo {
        /// Folder to make; its content is replaced if an earlier demo made it.
        #[arg(long, default_value = "bridgehead-demo")]
        folder: PathBuf,
        /// Leave the org running until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
}

/// A file that has a schema.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Schema {
    /// `bridgehead.yaml`.
    Project,
    /// `mappings/*.yaml`.
    Mapping,
    /// `environments/*.yaml`.
    Environment,
}

#[derive(Debug, Subcommand)]
enum Letters {
    /// List them.
    List {
        /// Only those of this sync.
        sync: Option<String>,
        /// Most to list.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Show one whole.
    Show {
        /// Its number.
        id: i64,
    },
    /// Try those of a sync again.
    Replay {
        /// The sync.
        sync: String,
    },
    /// Forget one for good.
    Drop {
        /// Its number.
        id: i64,
    },
}

/// What a command fails with: lines for the person at the terminal, and the class for the exit code.
#[derive(Debug)]
struct Failure {
    text: String,
    class: Class,
}

impl Failure {
    fn new(class: Class, text: impl Into<String>) -> Self {
        Self { text: text.into(), class }
    }

    /// Returns several failures as one: all that they say, and the class of the worst.
    fn all(failures: Vec<Self>) -> Result<(), Self> {
        let class = failures.iter().map(|failure| failure.class).max_by_key(|class| class.gravity());
        let texts: Vec<String> = failures.into_iter().map(|failure| failure.text).collect();
        class.map_or(Ok(()), |class| Err(Self { text: texts.join("\n"), class }))
    }

    /// Prints an error and everything that caused it, once.
    fn from_error(class: Class, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let line = inner.to_string();
            if !text.ends_with(&line) {
                text.push_str("\n  because: ");
                text.push_str(&line);
            }
            cause = inner.source();
        }
        Self { text, class }
    }
}

impl From<endpoint::Error> for Failure {
    fn from(error: endpoint::Error) -> Self {
        Self::from_error(error.class(), &error)
    }
}

impl From<state::Error> for Failure {
    fn from(error: state::Error) -> Self {
        Self::from_error(error.class(), &error)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::from(Class::Internal.exit_code());
        }
    };
    let telemetry = match telemetry::begin(runtime.handle()) {
        Ok(telemetry) => telemetry,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(Class::Mapping.exit_code());
        }
    };
    let ended = runtime.block_on(dispatch(arguments));
    drop(telemetry);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.text);
            ExitCode::from(failure.class.exit_code())
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let folder = arguments.directory;
    let place = project::Place { folder: folder.clone(), environment: arguments.env };
    let open = || project::Project::open(&place);
    match arguments.command {
        Command::Init => project::init(&folder),
        Command::Discover { connection, entity, json } => {
            commands::discover(&open()?, &connection, entity.as_deref(), json).await
        }
        Command::Check => commands::check(&open()?).await,
        Command::Plan { syncs, json } => commands::plan(&open()?, &syncs, json).await,
        Command::Run { syncs, force, follow: true, json, .. } => follow::follow(&open()?, &syncs, force, json).await,
        Command::Run { syncs, force, pilot, filter, json, .. } if pilot.is_some() || filter.is_some() => {
            commands::pilot(&open()?, &syncs, Pilot { rows: pilot, filter }, force, json).await
        }
        Command::Run { syncs, full, force, json, .. } => commands::run(&open()?, &syncs, full, force, json).await,
        Command::Reconcile(arguments) => reconcile::run(&open()?, &arguments).await,
        Command::Streams { json } => follow::streams(&open()?, json),
        Command::Serve { port, address } => serve::serve(&place, (address, port).into()).await,
        Command::Deploy { why, staged, dry_run } => deploy::deploy(&open()?, &why, staged, dry_run).await,
        Command::Versions { json } => deploy::versions(&open()?, json),
        Command::Diff { from, to } => deploy::diff(&open()?, from, to),
        Command::Promote { version, why } => deploy::promote(&place, &open()?, &why, version).await,
        Command::Rollback { version, why, undo } => deploy::rollback(&place, &open()?, &why, version, undo).await,
        Command::Pause { sync, why } => token::pause(&open()?, &sync, &why),
        Command::Resume { sync } => token::resume(&open()?, &sync),
        Command::Alerts { test, json } => commands::alerts(&open()?, test.as_deref(), json).await,
        Command::Token(arguments) => token::run(&open()?, arguments),
        Command::Undo { run, force, json } => commands::undo(&open()?, run, force, json).await,
        Command::Conflicts(arguments) => conflicts::run(&open()?, arguments),
        Command::Audit(arguments) => audit::run(&open()?, arguments),
        Command::Capture(arguments) => capture::run(&open()?, arguments).await,
        Command::Runs { json } => commands::runs(&open()?, json),
        Command::DeadLetters(Letters::List { sync, limit, json }) => {
            commands::letters(&open()?, sync.as_deref(), json, limit)
        }
        Command::DeadLetters(Letters::Show { id }) => commands::show_letter(&open()?, id),
        Command::DeadLetters(Letters::Replay { sync }) => commands::replay(&open()?, &sync).await,
        Command::DeadLetters(Letters::Drop { id }) => commands::drop_letter(&open()?, id),
        Command::Sandbox(arguments) => sandbox::run(arguments).await,
        Command::Schema { what } => commands::schema(what),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "bridgehead", &mut std::io::stdout());
            Ok(())
        }
        Command::Demo { folder, keep } => demo::demo(&folder, keep).await,
    }
}
