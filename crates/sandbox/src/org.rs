//! The org as a whole: its schema, its records, its sessions and its allowance.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde_json::{Map, Value, json};

use crate::bulk::Jobs;
use crate::error::{Answered, ApiError};
use crate::faults::Faults;
use crate::project::{self, ProjectError};
use crate::query::Plan;
use crate::schema::Schema;
use crate::store::{self, Serials, Store};
use crate::value::stamp;

/// API calls a day of a Developer Edition org. Source: Salesforce Developer Limits Quick Reference.
const DAILY_API_CALLS: u64 = 15_000;

/// What a sandbox is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Folders of Salesforce DX projects whose object metadata is loaded.
    pub projects: Vec<PathBuf>,
    /// File that holds the records; in memory if `None`.
    pub file: Option<PathBuf>,
    /// Consumer key of the one app that may sign in.
    pub client_id: String,
    /// Consumer secret of that app.
    pub client_secret: String,
    /// Access token that is valid from the start, for clients that are given one.
    pub access_token: Option<String>,
    /// Refresh token that is valid from the start; each use replaces it.
    pub refresh_token: Option<String>,
    /// Public key (PEM) whose owner may sign in by JWT bearer.
    pub jwt_public_key: Option<String>,
    /// API calls a day.
    pub api_calls: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 0,
            projects: Vec::new(),
            file: None,
            client_id: "sandbox".to_owned(),
            client_secret: "sandbox-secret".to_owned(),
            access_token: None,
            refresh_token: None,
            jwt_public_key: None,
            api_calls: DAILY_API_CALLS,
        }
    }
}

/// Why a sandbox can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The project can't be loaded.
    #[error("the project cannot be loaded")]
    Project(#[from] ProjectError),
    /// The file that holds the records can't be used.
    #[error("the org's records cannot be opened")]
    Records(#[from] rusqlite::Error),
    /// The port can't be taken, or the folder for job files can't be made.
    #[error("cannot listen on 127.0.0.1:{port}")]
    Listen {
        /// The port asked for.
        port: u16,
        /// The cause.
        source: std::io::Error,
    },
    /// The standard records can't be made.
    #[error("the org's own records cannot be made: {0}")]
    Seed(String),
}

/// A cursor: the rest of a query's answer.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) plan: Plan,
    pub(crate) rows: Vec<i64>,
    pub(crate) deleted: bool,
}

struct Records {
    connection: Connection,
    serials: Serials,
}

/// The org.
pub(crate) struct Org {
    pub(crate) config: Config,
    pub(crate) schema: Schema,
    pub(crate) notes: Vec<String>,
    /// Set once the port is known.
    pub(crate) url: std::sync::OnceLock<String>,
    pub(crate) org_id: String,
    pub(crate) user_id: String,
    pub(crate) started: DateTime<Utc>,
    pub(crate) jobs: Jobs,
    pub(crate) sessions: Mutex<HashMap<String, DateTime<Utc>>>,
    pub(crate) refresh_tokens: Mutex<HashMap<String, bool>>,
    records: Mutex<Records>,
    cursors: Mutex<HashMap<String, Cursor>>,
    calls: AtomicU64,
    pub(crate) faults: Faults,
}

impl Org {
    /// Opens the org and makes what every org has.
    pub(crate) fn open(config: Config) -> Result<Self, StartError> {
        let mut schema = Schema::standard();
        let mut notes = Vec::new();
        for folder in &config.projects {
            notes.extend(project::load(&mut schema, folder)?);
        }
        let connection = match &config.file {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        connection.set_prepared_statement_cache_capacity(256);
        connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-65536;")?;
        connection.execute_batch("BEGIN")?;
        store::migrate(&connection, &schema)?;
        connection.execute_batch("COMMIT")?;
        let jobs = Jobs::new().map_err(|source| StartError::Listen { port: config.port, source })?;
        let mut org = Self {
            schema,
            notes,
            url: std::sync::OnceLock::new(),
            org_id: String::new(),
            user_id: String::new(),
            started: Utc::now(),
            jobs,
            sessions: Mutex::new(config.access_token.iter().map(|token| (token.clone(), Utc::now())).collect()),
            refresh_tokens: Mutex::new(config.refresh_token.iter().map(|token| (token.clone(), true)).collect()),
            records: Mutex::new(Records { connection, serials: Serials::new() }),
            cursors: Mutex::new(HashMap::new()),
            calls: AtomicU64::new(0),
            faults: Faults::new(config.api_calls),
            config,
        };
        org.seed().map_err(|error| StartError::Seed(error.message))?;
        Ok(org)
    }

    /// Makes the organization, a profile and the user that everything runs as, unless they are there.
    fn seed(&mut self) -> Answered<()> {
        let first = |org: &Self, object: &str| -> Answered<Option<String>> {
            org.read(|connection| {
                let sql = format!("SELECT \"Id\" FROM {} ORDER BY _rid LIMIT 1", store::quoted(object));
                let mut statement = connection.prepare(&sql)?;
                let mut rows = statement.query([])?;
                Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
            })
        };
        let ensure = |org: &Self, object: &str, values: Value| -> Answered<String> {
            if let Some(id) = first(org, object)? {
                return Ok(id);
            }
            let object = org.schema.object(object).ok_or_else(ApiError::not_found)?;
            let Value::Object(values) = values else { return Err(ApiError::not_found()) };
            org.write(|store| store.insert(object, &values))
        };
        self.org_id = ensure(
            self,
            "Organization",
            json!({"Name": "Sandbox", "DefaultLocaleSidKey": "en_US", "TimeZoneSidKey": "UTC", "LanguageLocaleKey": "en_US"}),
        )?;
        let profile = ensure(self, "Profile", json!({"Name": "System Administrator"}))?;
        self.user_id = ensure(
            self,
            "User",
            json!({"Username": "admin@sandbox.example", "FirstName": "Ada", "LastName": "Admin", "Alias": "admin",
                   "Email": "admin@sandbox.example", "IsActive": true, "TimeZoneSidKey": "UTC", "LocaleSidKey": "en_US",
                   "EmailEncodingKey": "UTF-8", "ProfileId": profile, "LanguageLocaleKey": "en_US"}),
        )?;
        let (org_id, user) = (self.org_id.clone(), self.user_id.clone());
        self.write(|store| {
            store.connection.execute(
                "UPDATE Organization SET OrganizationType='Developer Edition', InstanceName='SBX1', IsSandbox=1 WHERE Id=?",
                [&org_id],
            )?;
            for table in ["Organization", "Profile", "User"] {
                let sql = format!("UPDATE \"{table}\" SET CreatedById=?1, LastModifiedById=?1 WHERE CreatedById=''");
                store.connection.execute(&sql, [&user])?;
            }
            Ok(())
        })
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // A writer that panicked left its transaction open; the next statement would fail loudly.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads records.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Answered<T>) -> Answered<T> {
        read(&self.records().connection)
    }

    /// Changes records in one transaction: all of it, or none if `write` fails.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut Store<'_>) -> Answered<T>) -> Answered<T> {
        let mut records = self.records();
        let Records { connection, serials } = &mut *records;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut store = Store {
            schema: &self.schema,
            connection,
            serials,
            user: &self.user_id,
            now: stamp(self.now()),
            faults: &self.faults,
        };
        let result = write(&mut store);
        connection.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        result
    }

    /// Returns the time by the org's clock.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    /// Returns scheme, host and port.
    pub(crate) fn url(&self) -> &str {
        self.url.get().map_or("", String::as_str)
    }

    /// Counts an API call against the allowance; refuses it when none is left.
    pub(crate) fn spend_call(&self) -> Answered<()> {
        let used = self.calls.fetch_add(1, Ordering::Relaxed);
        if used < self.faults.allowance() {
            return Ok(());
        }
        self.calls.fetch_sub(1, Ordering::Relaxed);
        Err(ApiError::new(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."))
    }

    /// Returns the number of API calls spent.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Keeps the rest of an answer and returns the cursor's id.
    pub(crate) fn keep_cursor(&self, cursor: Cursor) -> String {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let id = crate::id::make("0r8", cursors.len() as u64 + 1);
        cursors.insert(id.clone(), cursor);
        id
    }

    /// Lets `read` look at a cursor.
    pub(crate) fn with_cursor<T>(&self, id: &str, read: impl FnOnce(&Cursor) -> Answered<T>) -> Answered<T> {
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor =
            cursors.get(id).ok_or_else(|| ApiError::new(400, "INVALID_QUERY_LOCATOR", "invalid query locator"))?;
        read(cursor)
    }
}

/// Returns the entries of a JSON object.
pub(crate) fn entries(value: Value) -> Answered<Map<String, Value>> {
    match value {
        Value::Object(entries) => Ok(entries),
        _ => {
            Err(ApiError::new(400, "JSON_PARSER_ERROR", "The request body is not a JSON object at [line:1, column:1]"))
        }
    }
}
