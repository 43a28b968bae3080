//! A local Salesforce org: the surfaces that clients talk to, in one process, with its data in SQLite.
//!
//! It stands alone: it shares no protocol code with our own client, so that it can't inherit the
//! client's misreadings. Its judges are clients that we did not write.
//!
//! What it does not do yet: automation, sharing, metadata; `docs/sandbox-fidelity.md`
//! says what is exact, close and absent.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let sandbox = sandbox::Sandbox::start(sandbox::Config::default()).await?;
//! println!("{} takes client id {}", sandbox.url(), sandbox.client_id());
//! sandbox.stop().await;
//! # Ok(())
//! # }
//! ```

// The description of a field is one JSON literal of 57 keys.
#![recursion_limit = "256"]

mod access;
mod actions;
mod automation;
mod bulk;
mod caller;
mod chaos;
mod composite;
mod content;
mod csv_out;
mod cursors;
mod dates;
pub mod definition;
mod describe;
mod desk;
mod error;
mod events;
mod faults;
mod formulas;
mod id;
mod identity;
mod journal;
mod leads;
mod locks;
mod login;
mod messages;
mod metadata;
mod oauth;
mod org;
mod people;
#[doc(hidden)]
pub mod probe;
mod project;
mod query;
mod quick;
mod rest;
mod rules;
mod schema;
mod search;
mod seed;
mod server;
mod setup;
mod sharing;
mod soap;
mod sql;
mod store;
mod validation;
mod value;
mod xml;

pub use automation::{Automation, Made, Save, When};
pub use chaos::{Fault, Rule};
pub use definition::{Definition, EventChannel, EventChannelMember, ManagedSubscription};
pub use messages::Message;
pub use org::{Config, StartError};
pub use project::ProjectError;
pub use server::Sandbox;
pub use sharing::Model as SharingModel;
