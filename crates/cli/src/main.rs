//! The `bridgehead` command.

mod audit;
mod capture;
mod commands;
mod config;
mod conflicts;
mod demo;
mod deploy;
mod desk;
mod follow;
mod letters;
mod lineage;
mod project;
mod reconcile;
mod remote;
mod sandbox;
mod serve;
mod served;
mod telemetry;
mod token;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use engine::Pilot;
use model::Class;
use server::{RunWanted, Undoing};
use tokio_util::sync::CancellationToken;

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
    /// Ask the Bridgehead that serves there, and not the folder; `BRIDGEHEAD_TOKEN` holds the token for it.
    #[arg(long, global = true, env = "BRIDGEHEAD_SERVER", value_name = "URL")]
    server: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a project to start from.
    Init,
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
    /// Run syncs by schedule and answer the admin API, until Ctrl-C.
    Serve {
        /// The port; 0 takes a free one.
        #[arg(long, default_value_t = 8420)]
        port: u16,
        /// The address to listen on; one that others can reach needs a token first.
        #[arg(long, default_value = "127.0.0.1")]
        address: std::net::IpAddr,
    },
    #[command(flatten)]
    Desk(DeskCommand),
    /// Start a local Salesforce org, or look after one.
    Sandbox(sandbox::Arguments),
    /// Show all of it, with no set-up.
    Demo {
        /// Folder to make; its content is replaced if an earlier demo made it.
        #[arg(long, default_value = "bridgehead-demo")]
        folder: PathBuf,
        /// Leave the org running until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
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
}

/// What is asked of the admin API: of the folder's project, or of a server elsewhere.
#[derive(Debug, Subcommand)]
enum DeskCommand {
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
    /// Say what the streams of followed syncs do: how many changes, how late, how often cut.
    Streams {
        /// One JSON object per stream, instead of text.
        #[arg(long)]
        json: bool,
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
        /// Say what would change; change nothing.
        #[arg(long)]
        dry_run: bool,
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
        /// Say what would change, and be put back; change nothing.
        #[arg(long)]
        dry_run: bool,
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
        /// Say what would be put back; write nothing.
        #[arg(long)]
        dry_run: bool,
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
    DeadLetters(letters::Arguments),
    /// See and decide what both sides of a two-way sync changed.
    #[command(subcommand)]
    Conflicts(conflicts::Arguments),
    /// See how the changes of syncs are noted outside, and end it.
    #[command(subcommand)]
    Capture(capture::Arguments),
    /// See what happened and who did it, and prove that nothing of it was changed.
    #[command(subcommand)]
    Audit(audit::Arguments),
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
    let Arguments { directory: folder, env: environment, server, command } = arguments;
    let place = project::Place { folder: folder.clone(), environment };
    match server {
        Some(url) => there(&folder, &desk::Desk::there(&url)?, command).await,
        None => here(&place, command).await,
    }
}

/// Does what a command says at a server elsewhere.
async fn there(folder: &Path, desk: &desk::Desk, command: Command) -> Result<(), Failure> {
    match command {
        Command::Check => remote::check(desk, folder).await,
        Command::Plan { syncs, json } => remote::plan(desk, &syncs, json).await,
        Command::Run { follow: false, syncs, full, force, pilot, filter, json } => {
            let wanted = RunWanted { full, force, pilot, filter, replay: false };
            remote::run(desk, &syncs, &wanted, json).await
        }
        Command::Reconcile(arguments) => reconcile::run_there(desk, &arguments).await,
        Command::Run { .. }
        | Command::Init
        | Command::Serve { .. }
        | Command::Sandbox(_)
        | Command::Schema { .. }
        | Command::Completions { .. }
        | Command::Demo { .. } => {
            Err(Failure::new(Class::Mapping, "this is done on this machine, and not at a server: leave `--server` out"))
        }
        Command::Desk(command) => at_desk(folder, desk, command).await,
    }
}

/// Does what a command says with the project of the folder.
async fn here(place: &project::Place, command: Command) -> Result<(), Failure> {
    let open = || project::Project::open(place);
    match command {
        Command::Init => project::init(&place.folder),
        Command::Check => commands::check(&open()?).await,
        Command::Plan { syncs, json } => commands::plan(&open()?, &syncs, json).await,
        Command::Run { syncs, force, follow: true, json, .. } => follow::follow(&open()?, &syncs, force, json).await,
        Command::Run { syncs, force, pilot, filter, json, .. } if pilot.is_some() || filter.is_some() => {
            commands::pilot(&open()?, &syncs, Pilot { rows: pilot, filter }, force, json).await
        }
        Command::Run { syncs, full, force, json, .. } => commands::run(&open()?, &syncs, full, force, json).await,
        Command::Reconcile(arguments) => reconcile::run(&open()?, &arguments).await,
        Command::Desk(DeskCommand::DeadLetters(letters::Arguments::Replay { sync })) => {
            commands::replay(&open()?, &sync).await
        }
        Command::Serve { port, address } => serve::serve(place, (address, port).into()).await,
        Command::Sandbox(arguments) => sandbox::run(arguments).await,
        Command::Schema { what } => commands::schema(what),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "bridgehead", &mut std::io::stdout());
            Ok(())
        }
        Command::Demo { folder, keep } => demo::demo(&folder, keep).await,
        Command::Desk(command) => {
            // Only these write to the systems, and stop in between.
            let stops = matches!(command, DeskCommand::Undo { .. } | DeskCommand::Rollback { .. });
            let stop = if stops { commands::stop_on_interrupt() } else { CancellationToken::new() };
            at_desk(&place.folder, &desk::Desk::here(open()?, place, stop), command).await
        }
    }
}

/// Does what a command says that is the same here and elsewhere: a call of the admin API, and a look at the answer.
async fn at_desk(folder: &Path, desk: &desk::Desk, command: DeskCommand) -> Result<(), Failure> {
    match command {
        DeskCommand::Discover { connection, entity, json } => {
            commands::discover(desk, &connection, entity.as_deref(), json).await
        }
        DeskCommand::Streams { json } => follow::streams(desk, json).await,
        DeskCommand::Deploy { why, staged, dry_run } => deploy::deploy(desk, folder, &why, staged, dry_run).await,
        DeskCommand::Versions { json } => deploy::versions(desk, json).await,
        DeskCommand::Diff { from, to } => deploy::diff(desk, folder, from, to).await,
        DeskCommand::Promote { version, why, dry_run } => deploy::promote(desk, &why, version, dry_run).await,
        DeskCommand::Rollback { version, why, undo, dry_run } => {
            deploy::rollback(desk, &why, version, undo, dry_run).await
        }
        DeskCommand::Pause { sync, why } => token::pause(desk, &sync, &why).await,
        DeskCommand::Resume { sync } => token::resume(desk, &sync).await,
        DeskCommand::Alerts { test, json } => commands::alerts(desk, test.as_deref(), json).await,
        DeskCommand::Token(arguments) => token::run(desk, arguments).await,
        DeskCommand::Undo { run, force, dry_run, json } => {
            commands::undo(desk, run, Undoing { force, dry_run }, json).await
        }
        DeskCommand::Conflicts(arguments) => conflicts::run(desk, arguments).await,
        DeskCommand::Audit(arguments) => audit::run(desk, arguments).await,
        DeskCommand::Capture(arguments) => capture::run(desk, arguments).await,
        DeskCommand::Runs { json } => commands::runs(desk, json).await,
        DeskCommand::DeadLetters(arguments) => letters::run(desk, arguments).await,
    }
}
