//! `bridgehead token`: who may call the admin API; and `pause` and `resume`, which are short.

use chrono::{TimeDelta, Utc};
use model::Class;
use state::Role;

use crate::Failure;
use crate::commands::table;
use crate::project::Project;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Arguments {
    /// Make one, and print it this once.
    Make {
        /// Whose it is; the audit chain names them so.
        name: String,
        /// What they may do.
        #[arg(long, value_enum, default_value_t = RoleWord::Viewer)]
        role: RoleWord,
        /// Days until it ends.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650))]
        days: u32,
    },
    /// List them, without what is secret.
    List,
    /// Take one back.
    Revoke {
        /// Its number.
        id: i64,
    },
}

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum RoleWord {
    /// Look.
    Viewer,
    /// Run, pause, decide, replay.
    Operator,
    /// Everything.
    Admin,
}

pub(crate) fn run(project: &Project, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Make { name, role, days } => make(project, &name, role, days),
        Arguments::List => list(project),
        Arguments::Revoke { id } => revoke(project, id),
    }
}

fn make(project: &Project, name: &str, role: RoleWord, days: u32) -> Result<(), Failure> {
    let role = match role {
        RoleWord::Viewer => Role::Viewer,
        RoleWord::Operator => Role::Operator,
        RoleWord::Admin => Role::Admin,
    };
    let secret = state::new_secret()?;
    let ends = Utc::now() + TimeDelta::days(days.into());
    let id = project.store.keep_token(name, role, &secret, ends)?;
    println!("{secret}");
    eprintln!("Token {id} of {name}, {} until {}. It is not shown again.", role.word(), ends.format("%Y-%m-%d"));
    Ok(())
}

fn list(project: &Project) -> Result<(), Failure> {
    let mut rows = table(&["number", "name", "role", "made", "ends", ""]);
    for token in project.store.tokens()? {
        let day = |time: &str| time.get(..10).unwrap_or(time).to_owned();
        let state = if token.revoked { "taken back" } else { "" };
        let cells = [token.id.to_string(), token.name, token.role.word().to_owned(), day(&token.made)];
        rows.add_row(cells.into_iter().chain([day(&token.expires), state.to_owned()]));
    }
    println!("{rows}");
    Ok(())
}

fn revoke(project: &Project, id: i64) -> Result<(), Failure> {
    if project.store.revoke_token(id)? {
        println!("Token {id} is good for nothing now.");
        return Ok(());
    }
    Err(Failure::new(Class::Mapping, format!("there is no token {id} that could be taken back")))
}

/// Pauses a sync.
pub(crate) fn pause(project: &Project, sync: &str, why: &str) -> Result<(), Failure> {
    project.syncs(&[sync.to_owned()])?;
    project.store.pause(sync, why)?;
    println!("{sync} is paused.");
    Ok(())
}

/// Lets a paused sync go on.
pub(crate) fn resume(project: &Project, sync: &str) -> Result<(), Failure> {
    if project.store.resume(sync)? {
        println!("{sync} goes on.");
        return Ok(());
    }
    Err(Failure::new(Class::Mapping, format!("{sync} is not paused")))
}
