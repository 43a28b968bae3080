//! The org as a whole: its schema, its records, its sessions and its allowance.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use parking_lot::ReentrantMutex;
use rusqlite::Connection;
use serde_json::{Map, Value, json};

use crate::bulk::Jobs;
use crate::caller::Caller;
use crate::chaos::Chaos;
use crate::cursors::Cursors;
use crate::definition::{self, App, Definition};
use crate::error::{Answered, ApiError};
use crate::events::{Bus, Pending, Schemas, Streams, Transaction};
use crate::faults::Faults;
use crate::journal::Journal;
use crate::locks::Locks;
use crate::metadata::{Deploys, Retrievals};
use crate::oauth::SignIn;
use crate::project::ProjectError;
use crate::query::{Context, PAGE};
use crate::setup::{self, Setup};
use crate::sql;
use crate::store::{self, Options, Serials, Store};
use crate::value::stamp;

/// API calls a day of a Developer Edition org. Source: Salesforce Developer Limits Quick Reference.
const DAILY_API_CALLS: u64 = 15_000;

/// Profile of the user that every org has.
const ADMIN_PROFILE: &str = "System Administrator";

/// Name of the user that every org has.
pub(crate) const ADMIN: &str = "admin@sandbox.example";

/// What a sandbox is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Folders of Salesforce DX projects whose object metadata is loaded.
    pub projects: Vec<PathBuf>,
    /// File that holds the records; a temporary one if `None`.
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
    /// How the org is set up besides: users, permissions, apps, rules.
    pub definition: Definition,
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
            definition: Definition::default(),
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
    /// The definition of the org can't be read.
    #[error("{path}: {reason}")]
    Definition {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule of the definition can't be.
    #[error("automation: {name}: {reason}")]
    Automation {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The definition says how an object is shared that is not there.
    #[error("sharing: there is no object {name}")]
    Sharing {
        /// The object.
        name: String,
    },
    /// A class of the definition can't be.
    #[error("apex_soap: {name}: {reason}")]
    Class {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A channel of the definition has a filter that can't be.
    #[error("platform_event_channels: {name}: {reason}")]
    Channel {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The standard records can't be made.
    #[error("the org's own records cannot be made: {0}")]
    Seed(String),
}

/// A record that a user looked at.
#[derive(Debug, Clone)]
pub(crate) struct Viewed {
    pub(crate) object: String,
    pub(crate) id: String,
    /// When, as it is stored.
    pub(crate) at: String,
}

struct Records {
    connection: Connection,
    serials: Serials,
    /// What the transaction at work has published.
    transaction: Transaction,
}

/// Connections that only read.
#[derive(Default)]
struct Readers {
    idle: Vec<Connection>,
    /// How many there are, those at work among them.
    open: usize,
}

/// Most connections for short reads; more would only wait for the processors, and hold memory.
const MAX_READERS: usize = 8;

/// The org.
pub(crate) struct Org {
    pub(crate) config: Config,
    pub(crate) setup: RwLock<Arc<Setup>>,
    pub(crate) notes: Vec<String>,
    /// Set once the port is known.
    pub(crate) url: std::sync::OnceLock<String>,
    pub(crate) org_id: String,
    pub(crate) started: DateTime<Utc>,
    pub(crate) jobs: Jobs,
    pub(crate) sign_in: SignIn,
    pub(crate) locks: Locks,
    /// Of each user what was used last, newest first.
    pub(crate) recent: Mutex<HashMap<String, Vec<Viewed>>>,
    /// How far the org's clock is moved, in seconds.
    clock: AtomicI64,
    /// The one connection that writes.
    records: ReentrantMutex<RefCell<Records>>,
    readers: Mutex<Readers>,
    /// Tells those who wait that a reader came back.
    returned: Condvar,
    file: PathBuf,
    pub(crate) cursors: Cursors,
    calls: AtomicU64,
    pub(crate) faults: Faults,
    pub(crate) chaos: Chaos,
    pub(crate) journal: Journal,
    pub(crate) deploys: Deploys,
    pub(crate) retrievals: Retrievals,
    /// Told when there may be messages to send.
    pub(crate) outbox: tokio::sync::watch::Sender<()>,
    pub(crate) bus: Bus,
    pub(crate) schemas: Schemas,
    pub(crate) streams: Streams,
    requests: AtomicU64,
}

impl Org {
    /// Opens the org and makes what every org has.
    pub(crate) fn open(config: Config) -> Result<Self, StartError> {
        let jobs = Jobs::new().map_err(|source| StartError::Listen { port: config.port, source })?;
        // Without a file of its own the org lives in a temporary one, which needs no care for crashes.
        let (file, safety) = match &config.file {
            Some(path) => (path.clone(), "NORMAL"),
            None => (jobs.folder().join("org.db"), "OFF"),
        };
        let connection = Connection::open(&file)?;
        connection.set_prepared_statement_cache_capacity(256);
        connection.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={safety}; PRAGMA cache_size=-65536"
        ))?;
        sql::equip(&connection)?;
        connection.execute_batch("BEGIN")?;
        let (mut built, held) = setup::load(&connection, &config)?;
        setup::shape(&connection, &mut built, &held)?;
        connection.execute_batch("COMMIT")?;
        let notes = built.notes.into_iter().map(|note| note.text).collect();
        let nobody = Caller { admin: true, hard_delete: true, ..Caller::default() };
        let setup = Setup::new(&config, &nobody, built.schema, &held)?;
        let mut org = Self {
            setup: RwLock::new(Arc::new(setup)),
            notes,
            url: std::sync::OnceLock::new(),
            org_id: String::new(),
            started: Utc::now(),
            jobs,
            sign_in: SignIn::new(apps(&config)),
            locks: Locks::new(
                config.definition.locks,
                config.definition.automation.iter().any(|rule| rule.takes_ms > 0),
            ),
            recent: Mutex::default(),
            clock: AtomicI64::new(0),
            records: ReentrantMutex::new(RefCell::new(Records {
                connection,
                serials: Serials::new(),
                transaction: Transaction::default(),
            })),
            readers: Mutex::default(),
            returned: Condvar::new(),
            file,
            cursors: Cursors::default(),
            calls: AtomicU64::new(0),
            faults: Faults::new(config.api_calls),
            chaos: Chaos::default(),
            journal: Journal::default(),
            deploys: Deploys::default(),
            retrievals: Retrievals::default(),
            outbox: tokio::sync::watch::Sender::new(()),
            bus: Bus::default(),
            schemas: Schemas::default(),
            streams: Streams::default(),
            requests: AtomicU64::new(0),
            config,
        };
        org.seed().map_err(|error| StartError::Seed(error.message))?;
        for rule in &org.config.definition.automation {
            let wrong = |reason| StartError::Automation { name: rule.name.clone(), reason };
            if let Some(owner) = &rule.assign {
                let sql = "SELECT 1 FROM \"User\" WHERE \"Username\"=?";
                if !org.records.lock().borrow().connection.prepare(sql)?.exists([owner])? {
                    return Err(wrong(format!("there is no user {owner}")));
                }
            }
        }
        for service in &org.config.definition.apex_soap {
            let wrong = |reason| StartError::Class { name: service.class.clone(), reason };
            crate::soap::class::check(service).map_err(wrong)?;
        }
        if let Some(token) = org.config.access_token.clone() {
            org.open_session(token, org.system());
        }
        if let Some(token) = org.config.refresh_token.clone() {
            org.know_refresh_token(token, &org.config.client_id);
        }
        Ok(org)
    }

    /// Makes the organization, the profiles and the users, unless they are there.
    fn seed(&mut self) -> Answered<()> {
        let definition = self.config.definition.clone();
        let organization = &definition.organization;
        self.org_id = self.ensure(
            "Organization",
            "Id",
            None,
            &json!({"Name": organization.name, "DefaultLocaleSidKey": "en_US", "TimeZoneSidKey": organization.time_zone,
                    "LanguageLocaleKey": "en_US", "OrganizationType": "Developer Edition", "InstanceName": "SBX1",
                    "IsSandbox": true, "FiscalYearStartMonth": organization.fiscal_year_start_month}),
        )?;
        let mut system = (*self.system()).clone();
        let mut profiles = HashMap::new();
        for name in std::iter::once(ADMIN_PROFILE).chain(definition.profiles.keys().map(String::as_str)) {
            let id = self.ensure("Profile", "Name", Some(name), &json!({"Name": name}))?;
            profiles.insert(name.to_owned(), id);
        }
        let admin = definition::User {
            username: ADMIN.to_owned(),
            password: Some(organization.admin_password.clone()),
            first_name: Some("Ada".to_owned()),
            last_name: Some("Admin".to_owned()),
            email: None,
            profile: ADMIN_PROFILE.to_owned(),
            permission_sets: Vec::new(),
            role: None,
            time_zone: organization.time_zone.clone(),
            active: true,
        };
        for name in definition.permission_sets.keys() {
            self.ensure("PermissionSet", "Name", Some(name), &json!({"Name": name, "Label": name}))?;
        }
        let roles = self.make_roles(&definition.roles)?;
        for (at, user) in std::iter::once(&admin).chain(&definition.users).enumerate() {
            let name = &user.username;
            let record = json!({
                "Username": name, "FirstName": user.first_name, "LastName": user.last_name.as_ref().unwrap_or(name),
                "Alias": name.chars().take(8).collect::<String>(), "Email": user.email.as_ref().unwrap_or(name),
                "IsActive": user.active, "TimeZoneSidKey": user.time_zone, "LocaleSidKey": "en_US",
                "EmailEncodingKey": "UTF-8", "ProfileId": profiles.get(&user.profile),
                "UserRoleId": user.role.as_ref().and_then(|role| roles.get(role)), "LanguageLocaleKey": "en_US"});
            let id = self.ensure("User", "Username", Some(name), &record)?;
            if let Some(password) = &user.password {
                self.set_password(&id, password);
            }
            if at == 0 {
                system.user_id = id;
                ADMIN.clone_into(&mut system.username);
                system.zone = organization.time_zone.parse().unwrap_or(chrono_tz::Tz::UTC);
                let setup = self.setup.get_mut().unwrap_or_else(PoisonError::into_inner);
                if let Some(setup) = Arc::get_mut(setup) {
                    setup.system = Arc::new(system.clone());
                }
            }
        }
        // The first records were made before there was anyone to make them.
        let user = self.system().user_id.clone();
        self.write(&self.system(), |store| {
            for table in ["Organization", "Profile", "User"] {
                let sql = format!("UPDATE \"{table}\" SET CreatedById=?1, LastModifiedById=?1 WHERE CreatedById=''");
                store.connection.execute(&sql, [&user])?;
            }
            Ok(())
        })
    }

    /// Makes the roles that are not there; returns their ids by name.
    fn make_roles(&self, roles: &BTreeMap<String, Option<String>>) -> Answered<HashMap<String, String>> {
        let mut ids = HashMap::new();
        for name in roles.keys() {
            ids.insert(name.clone(), self.ensure("UserRole", "Name", Some(name), &json!({"Name": name}))?);
        }
        self.with_writer(|connection| {
            for (name, above) in roles {
                let above = above.as_ref().map(|above| {
                    let missing = || ApiError::unexpected(&format!("roles: {name}: there is no role {above}"));
                    ids.get(above).ok_or_else(missing)
                });
                let sql = "UPDATE \"UserRole\" SET \"ParentRoleId\"=? WHERE \"Id\"=?";
                connection.execute(sql, rusqlite::params![above.transpose()?, ids[name]])?;
            }
            Ok(())
        })?;
        Ok(ids)
    }

    /// Returns the id of the record with this value of `key`, or of the first there is; makes one if there is none.
    fn ensure(&self, object: &str, key: &str, value: Option<&str>, record: &Value) -> Answered<String> {
        let found = self.read(|connection| {
            let sql = format!(
                "SELECT \"Id\" FROM {} WHERE ?1 IS NULL OR {}=?1 ORDER BY _rid LIMIT 1",
                store::quoted(object),
                store::quoted(key)
            );
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([value])?;
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
        })?;
        if let Some(id) = found {
            return Ok(id);
        }
        let schema = self.schema();
        let object = schema.object(object).ok_or_else(ApiError::not_found)?;
        let values = entries(record.clone())?;
        self.write(&self.system(), |store| store.insert_as_org(object, &values))
    }

    /// Reads records, all from one moment.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Answered<T>) -> Answered<T> {
        if self.in_transaction() {
            // What the transaction wrote is seen only from inside.
            let records = self.records.lock();
            let records = records.borrow();
            return read(&records.connection);
        }
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = loop {
            if let Some(idle) = readers.idle.pop() {
                break Some(idle);
            }
            if readers.open < MAX_READERS {
                readers.open += 1;
                break None;
            }
            readers = self.returned.wait(readers).unwrap_or_else(PoisonError::into_inner);
        };
        drop(readers);
        let mut borrowed = Borrowed { org: self, connection: idle };
        let connection = match borrowed.connection.take() {
            Some(connection) => connection,
            None => self.reader()?,
        };
        at_one_moment(borrowed.connection.insert(connection), read)
    }

    /// Reads records for as long as it takes, on a connection of its own, so that nobody waits for it.
    pub(crate) fn read_long<T>(&self, read: impl FnOnce(&Connection) -> Answered<T>) -> Answered<T> {
        at_one_moment(&self.reader()?, read)
    }

    /// Opens a connection that only reads; it sees what was committed when a transaction on it begins.
    fn reader(&self) -> Answered<Connection> {
        let connection = Connection::open(&self.file)?;
        connection.execute_batch("PRAGMA query_only=1; PRAGMA cache_size=-8192")?;
        sql::equip(&connection)?;
        Ok(connection)
    }

    /// Lets `work` use the connection that writes; transactions are its own business.
    pub(crate) fn with_writer<T>(&self, work: impl FnOnce(&Connection) -> Answered<T>) -> Answered<T> {
        let records = self.records.lock();
        let mut records = records.borrow_mut();
        records.serials.clear();
        work(&records.connection)
    }

    /// Puts a snapshot in the place of all records.
    pub(crate) fn restore(&self, from: &Path) -> Answered<()> {
        let wrong = |reason: String| {
            ApiError::new(400, "INVALID_INPUT", format!("{} cannot be restored: {reason}", from.display()))
        };
        if !from.is_file() {
            return Err(wrong("there is no such file".to_owned()));
        }
        let source = Connection::open_with_flags(from, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| wrong(error.to_string()))?;
        let is_org = source.prepare("SELECT 1 FROM Organization").and_then(|mut statement| statement.exists([]));
        is_org.map_err(|_| wrong("it is no snapshot of an org".to_owned()))?;
        let guard = self.records.lock();
        let mut records = guard.borrow_mut();
        records.serials.clear();
        rusqlite::backup::Backup::new(&source, &mut records.connection)?.run_to_completion(
            10_000,
            std::time::Duration::ZERO,
            None,
        )?;
        let unfit = |error: StartError| {
            ApiError::new(400, "INVALID_INPUT", format!("the snapshot does not go with this org: {error}"))
        };
        let (mut built, held) = setup::load(&records.connection, &self.config).map_err(unfit)?;
        setup::shape(&records.connection, &mut built, &held)?;
        drop(records);
        drop(guard);
        self.set_up(&self.system(), built.schema, &held).map_err(unfit)?;
        self.cursors.close();
        Ok(())
    }

    /// Returns 32 digits that no other answer of this org has.
    pub(crate) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{number:016x}", self.started.timestamp_micros())
    }

    /// Runs `steps` so that all they write stays if they return `Ok`, and none of it otherwise; they see what they wrote.
    pub(crate) fn transaction<T, E>(&self, steps: impl FnOnce() -> Result<T, E>) -> Answered<Result<T, E>> {
        let records = self.records.lock();
        begin(&records.borrow().connection)?;
        records.borrow_mut().transaction = Transaction::default();
        let outer = AMBIENT.replace(std::ptr::from_ref(self).addr());
        let result = steps();
        AMBIENT.set(outer);
        let mut known = records.borrow_mut();
        known.connection.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        let mut anyway = std::mem::take(&mut known.transaction.lost);
        if result.is_ok() {
            self.bus.tell(known.transaction.last);
            self.outbox.send_replace(());
        } else {
            anyway.append(&mut known.transaction.immediate);
        }
        drop(known);
        drop(records);
        self.publish_anyway(&anyway)?;
        Ok(result)
    }

    /// Publishes what is published though its transaction came to nothing.
    fn publish_anyway(&self, events: &[Pending]) -> Answered<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.write(&self.system(), |store| {
            store.pending.extend(events.iter().cloned());
            Ok(())
        })
    }

    /// True inside [`Org::transaction`].
    fn in_transaction(&self) -> bool {
        AMBIENT.get() == std::ptr::from_ref(self).addr()
    }

    /// Changes records in one transaction: all of it, or none if `write` fails. It may be called again if another
    /// transaction holds a record.
    pub(crate) fn write<T>(&self, caller: &Caller, write: impl FnMut(&mut Store<'_>) -> Answered<T>) -> Answered<T> {
        self.write_with(caller, Options::default(), write)
    }

    /// Changes records as [`Org::write`] does, in the way that `options` say.
    pub(crate) fn write_with<T>(
        &self,
        caller: &Caller,
        options: Options,
        mut write: impl FnMut(&mut Store<'_>) -> Answered<T>,
    ) -> Answered<T> {
        let deadline = self.locks.deadline();
        loop {
            let nested = self.in_transaction();
            let guard = self.records.lock();
            let mut records = guard.borrow_mut();
            let Records { connection, serials, transaction } = &mut *records;
            if nested {
                connection.execute_batch("SAVEPOINT step")?;
            } else {
                begin(connection)?;
                *transaction = Transaction::default();
            }
            let now = self.now();
            let setup = self.setup();
            let mut store = Store {
                schema: &caller.schema,
                all: &setup.schema,
                server: self.url(),
                connection,
                serials,
                user: &caller.user_id,
                bound: caller.bound(),
                mirroring: false,
                now: stamp(now),
                chaos: &self.chaos,
                username: &caller.username,
                options,
                rules: &self.config.definition.duplicate_rules,
                locks: &self.locks,
                touched: Vec::new(),
                contended: false,
                selected: &setup.selected,
                channels: &setup.channels,
                schemas: &self.schemas,
                zone: caller.zone,
                automation: &setup.automation,
                saves: 0,
                takes: std::time::Duration::ZERO,
                pending: Vec::new(),
            };
            let mut result = write(&mut store);
            if result.is_ok()
                && let Err(error) = store.publish(transaction, now.timestamp_millis())
            {
                result = Err(error);
            }
            let pending = std::mem::take(&mut store.pending);
            let immediate: Vec<Pending> = pending.into_iter().filter(|event| store.is_immediate(event)).collect();
            let (touched, contended, takes) = (std::mem::take(&mut store.touched), store.contended, store.takes);
            if contended && !nested && std::time::Instant::now() < deadline {
                connection.execute_batch("ROLLBACK")?;
                drop(records);
                drop(guard);
                self.locks.wait(deadline);
                continue;
            }
            connection.execute_batch(match (nested, result.is_ok()) {
                (false, true) => "COMMIT",
                (false, false) => "ROLLBACK",
                (true, true) => "RELEASE step",
                (true, false) => "ROLLBACK TO step; RELEASE step",
            })?;
            if result.is_err() && nested {
                transaction.lost.extend(immediate);
                return result;
            }
            if result.is_ok() && !nested && transaction.last > 0 {
                self.sweep_events(connection, transaction.last)?;
                self.bus.tell(transaction.last);
            }
            if result.is_ok() && !nested {
                self.outbox.send_replace(());
            }
            if result.is_ok() && !touched.is_empty() {
                self.locks.keep(touched, takes);
                drop(records);
                drop(guard);
                self.locks.pass(takes);
                return result;
            }
            if result.is_err() {
                drop(records);
                drop(guard);
                self.publish_anyway(&immediate)?;
            }
            return result;
        }
    }

    /// Returns what a query of this caller compiles against.
    pub(crate) fn context<'o>(
        &'o self,
        caller: &'o Caller,
        connection: &'o Connection,
        version: &'o str,
        deleted: bool,
    ) -> Context<'o> {
        Context {
            schema: &caller.schema,
            all: &caller.all,
            connection,
            now: self.now(),
            zone: caller.zone,
            user: &caller.user_id,
            shared: caller.bound().seeing,
            server: self.url(),
            fiscal_start: self.config.definition.organization.fiscal_year_start_month,
            version,
            deleted,
            cursors: &self.cursors,
            page: PAGE,
        }
    }

    /// Returns the time by the org's clock.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::TimeDelta::seconds(self.clock.load(Ordering::Relaxed))
    }

    /// Moves the org's clock so many seconds from the true time.
    pub(crate) fn move_clock(&self, seconds: i64) {
        self.clock.store(seconds, Ordering::Relaxed);
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
}

thread_local! {
    /// The address of the org whose transaction this thread is in; 0 outside of any.
    static AMBIENT: Cell<usize> = const { Cell::new(0) };
}

/// A reader that goes back when this is dropped, however the read ended.
struct Borrowed<'o> {
    org: &'o Org,
    connection: Option<Connection>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut readers = self.org.readers.lock().unwrap_or_else(PoisonError::into_inner);
        match self.connection.take().filter(Connection::is_autocommit) {
            Some(connection) => readers.idle.push(connection),
            // It could not be opened, or a panic left a transaction open.
            None => readers.open -= 1,
        }
        drop(readers);
        self.org.returned.notify_one();
    }
}

/// Reads, all from one moment.
fn at_one_moment<T>(connection: &Connection, read: impl FnOnce(&Connection) -> Answered<T>) -> Answered<T> {
    connection.execute_batch("BEGIN")?;
    let result = read(connection);
    connection.execute_batch("COMMIT")?;
    result
}

/// Begins a transaction; one that a panic left open is undone first.
fn begin(connection: &Connection) -> rusqlite::Result<()> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    connection.execute_batch("BEGIN IMMEDIATE")
}

/// Returns the apps that may sign in.
fn apps(config: &Config) -> Vec<App> {
    use crate::definition::Flow;
    let own = App {
        name: "Sandbox".to_owned(),
        client_id: config.client_id.clone(),
        client_secret: config.client_secret.clone(),
        callbacks: ["http://localhost:1717/OauthRedirect", "http://localhost:3000/callback"].map(str::to_owned).into(),
        flows: vec![
            Flow::AuthorizationCode,
            Flow::RefreshToken,
            Flow::JwtBearer,
            Flow::ClientCredentials,
            Flow::Password,
            Flow::TokenExchange,
            Flow::UserAgent,
        ],
        run_as: Some(ADMIN.to_owned()),
        public_key: config.jwt_public_key.clone(),
        ..App::default()
    };
    std::iter::once(own).chain(config.definition.apps.iter().cloned()).collect()
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
