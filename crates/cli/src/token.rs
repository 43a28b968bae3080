//! `bridgehead token`: who may call the admin API; and `pause` and `resume`, which are short.

use serde::Deserialize;
use serde_json::{Value, json};
use state::{Role, Token};

use crate::Failure;
use crate::commands::table;
use crate::desk::{Desk, part};

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

impl RoleWord {
    fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
        }
    }
}

pub(crate) async fn run(desk: &Desk, arguments: Arguments) -> Result<(), Failure> {
    match arguments {
        Arguments::Make { name, role, days } => make(desk, &name, role.role(), days).await,
        Arguments::List => list(desk).await,
        Arguments::Revoke { id } => {
            let _: Value = desk.delete(&format!("tokens/{id}")).await?;
            println!("Token {id} is good for nothing now.");
            Ok(())
        }
    }
}

async fn make(desk: &Desk, name: &str, role: Role, days: u32) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Made {
        id: i64,
        token: String,
        ends: String,
    }
    let wanted = json!({"name": name, "role": role, "days": days});
    let Made { id, token, ends } = desk.post("tokens", &wanted).await?;
    println!("{token}");
    eprintln!("Token {id} of {name}, {} until {}. It is not shown again.", role.word(), day(&ends));
    Ok(())
}

/// Returns the day of a moment in RFC 3339.
fn day(moment: &str) -> &str {
    moment.get(..10).unwrap_or(moment)
}

async fn list(desk: &Desk) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Tokens {
        tokens: Vec<Token>,
    }
    let Tokens { tokens } = desk.get("tokens").await?;
    let mut rows = table(&["number", "name", "role", "made", "ends", ""]);
    for token in tokens {
        let state = if token.revoked { "taken back" } else { "" };
        let cells =
            [&token.id.to_string(), &token.name, token.role.word(), day(&token.made), day(&token.expires), state];
        rows.add_row(cells);
    }
    println!("{rows}");
    Ok(())
}

/// Pauses a sync.
pub(crate) async fn pause(desk: &Desk, sync: &str, why: &str) -> Result<(), Failure> {
    let _: Value = desk.post(&format!("syncs/{}/pause", part(sync)), &json!({"why": why})).await?;
    println!("{sync} is paused.");
    Ok(())
}

/// Lets a paused sync go on.
pub(crate) async fn resume(desk: &Desk, sync: &str) -> Result<(), Failure> {
    let _: Value = desk.post(&format!("syncs/{}/resume", part(sync)), &Value::Null).await?;
    println!("{sync} goes on.");
    Ok(())
}
