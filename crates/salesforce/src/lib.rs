//! A client for the Salesforce APIs: sign-in, REST, collections, Bulk API 2.0, SOAP, the Pub/Sub API and
//! the Streaming API.
//!
//! Requests are values and answers are read by plain functions; one place sends, and it knows sessions,
//! usage and errors. Rows travel between the wire and Arrow batches without a row object between.
//!
//! ```no_run
//! # async fn example() -> Result<(), salesforce::Error> {
//! use salesforce::{Client, Credentials, Settings};
//!
//! let credentials = Credentials::ClientCredentials {
//!     login_url: "https://acme.my.salesforce.com".into(),
//!     client_id: "3MVG9...".into(),
//!     client_secret: "...".to_owned().into(),
//! };
//! let client = Client::new(credentials, Settings::default())?;
//! let account = client.describe("Account").await?;
//! println!("{} has {} fields", account.name, account.fields.len());
//! # Ok(())
//! # }
//! ```

mod auth;
pub mod bulk;
mod client;
pub mod collections;
pub mod composite;
mod csv_table;
mod describe;
mod error;
mod json_table;
pub mod pubsub;
pub mod query;
pub mod soap;
pub mod streaming;

pub use auth::{Credentials, Session, TokenFile};
pub use client::{Client, Settings, Usage};
pub use csv_table::{CsvReader, CsvWriter, NULL};
pub use describe::{ChildRelationship, Field, GlobalObject, Object, PicklistValue};
pub use error::{ApiError, Error, class_of};
pub use json_table::{JsonTable, record};

/// The API version that is spoken unless the settings name another.
pub const DEFAULT_VERSION: &str = "66.0";
