//! PostgreSQL: reads by COPY in key ranges, writes by COPY, into tables that were empty as long as all rows are new, else into a stage
//! with a merge.

mod config;
mod convert;
mod listen;
mod log;
mod pairs;
mod pgoutput;
mod sink;
mod source;
mod walsender;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use endpoint::{Capabilities, Catalog, Error, Result};
use model::{Class, Entity, Field};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::sql;

pub use config::{KIND, PostgresConfig};

/// A PostgreSQL database.
#[derive(Clone)]
pub struct Postgres {
    config: tokio_postgres::Config,
    /// Server and database, for messages.
    place: String,
    tls: Option<MakeRustlsConnect>,
    /// The connection that has the notes of the window which was read last.
    noted: Arc<tokio::sync::Mutex<Option<log::Noted>>>,
    /// Connections that wait to be used again.
    idle: Arc<Mutex<Vec<Client>>>,
    /// Who reads which slot.
    turns: Arc<Mutex<HashMap<String, Arc<listen::Turn>>>>,
    /// Tables that were looked at before something was written, and whether all that comes is new there, as far as is known.
    fresh: Arc<Mutex<HashMap<String, bool>>>,
    /// Whose turn it is to write: writes come in the order in which they were asked for.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// Connections that are kept for the next call.
const IDLE: usize = 4;

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Returns an endpoint for a database, such as `postgres://user@db.example.com/crm`; each call connects.
    ///
    /// # Errors
    ///
    /// Class `Mapping` when `url` is none of PostgreSQL.
    pub fn new(url: &str, password: Option<&str>) -> Result<Self> {
        let mut config: tokio_postgres::Config = url.parse().map_err(|error| {
            Error::new(Class::Mapping, "the url is none of PostgreSQL").caused_by(Box::new(error) as endpoint::BoxError)
        })?;
        if let Some(password) = password {
            config.password(password);
        }
        config.connect_timeout(std::time::Duration::from_secs(10)).application_name("bridgehead");
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => format!("{host}:{}", config.get_ports().first().unwrap_or(&5432)),
            _ => "the local socket".to_owned(),
        };
        let place = format!("{host}/{}", config.get_dbname().unwrap_or_default());
        Ok(Self {
            config,
            place,
            tls: None,
            noted: Arc::default(),
            idle: Arc::default(),
            turns: Arc::default(),
            fresh: Arc::default(),
            writing: Arc::default(),
        })
    }

    /// The same endpoint, over encrypted connections only.
    fn encrypted(mut self, connector: MakeRustlsConnect) -> Self {
        self.config.ssl_mode(SslMode::Require);
        self.tls = Some(connector);
        self
    }

    /// True when the server is this machine, so that nobody can listen in between.
    fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => crate::tls::is_local(name),
            Host::Unix(_) => true,
        })
    }

    /// Returns a connection that was used before, or a new one; it is used again when this is dropped. Nothing may be left in
    /// it: no settings, no temporary tables, no open transaction.
    async fn borrow(&self) -> Result<Borrowed> {
        let idle = loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(client) if client.is_closed() => {}
                other => break other,
            }
        };
        let client = match idle {
            Some(client) => client,
            None => self.open().await?,
        };
        Ok(Borrowed { client: Some(client), idle: Arc::clone(&self.idle) })
    }

    /// Opens a connection whose answers are in ISO form and UTC.
    async fn open(&self) -> Result<Client> {
        let what = || format!("cannot connect to PostgreSQL at {}", self.place);
        let client = match &self.tls {
            Some(connector) => drive(self.config.connect(connector.clone()).await.map_err(failed(what()))?),
            None => drive(self.config.connect(NoTls).await.map_err(failed(what()))?),
        };
        let set =
            "SET TIME ZONE 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 3;
                   SET bytea_output = 'hex'; SET client_min_messages = 'error'";
        client.batch_execute(set).await.map_err(failed(what()))?;
        Ok(client)
    }
}

/// A connection that others use again.
struct Borrowed {
    /// There until it is dropped.
    client: Option<Client>,
    idle: Arc<Mutex<Vec<Client>>>,
}

impl Borrowed {
    fn client(&mut self) -> Result<&mut Client> {
        self.client.as_mut().ok_or_else(|| Error::new(Class::Internal, "the connection was given back"))
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.extend(self.client.take().filter(|client| !client.is_closed()));
        }
    }
}

/// Lets a connection run until its client is dropped; its errors come out of the client's calls.
fn drive<S, T>((client, connection): (Client, tokio_postgres::Connection<S, T>)) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// Says what can be done.
fn class(error: &tokio_postgres::Error) -> Class {
    let Some(code) = error.code() else {
        // The driver has no kind for a server that wants a password and gets none.
        let passwordless = error.to_string().contains("password missing");
        return match passwordless {
            true => Class::Auth,
            false if crate::tls::is_stranger(error) => Class::Mapping,
            false => Class::Transient { after: None },
        };
    };
    class_of(code.code())
}

/// Says what can be done, by SQLSTATE. Source: PostgreSQL documentation, appendix A.
fn class_of(code: &str) -> Class {
    match code {
        "40001" | "40P01" | "55P03" | "57014" => Class::Transient { after: None },
        code => match code.get(..2).unwrap_or_default() {
            "08" | "53" | "57" | "58" => Class::Transient { after: None },
            "22" | "23" | "P0" | "44" => Class::Rejected,
            "28" => Class::Auth,
            _ => Class::Mapping,
        },
    }
}

/// Wraps an error with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Error {
    let what = what.into();
    move |error| {
        let class = class(&error);
        let failed = Error::new(class, what);
        // The driver's own text is only "db error".
        match error.as_db_error() {
            Some(db) => failed.caused_by(format!("{}: {}", db.code().code(), db.message())),
            None => failed.caused_by(error),
        }
    }
}

const ENTITIES: &str = "
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1";

const FIELDS: &str = "
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef OR a.attidentity <> '',
           a.attgenerated <> '' OR a.attidentity = 'a',
           coalesce((SELECT array_position(i.indkey::int2[], a.attnum)::int4 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary), -1),
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
    FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

#[async_trait]
impl Catalog for Postgres {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: false,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: true,
            write_rows: 16_384,
            two_way: true,
            writes_at_once: 2,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        let rows = self.open().await?.query(ENTITIES, &[]).await.map_err(failed("cannot list the tables"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        let rows = self.open().await?.query(FIELDS, &[&sql::table(entity)]).await;
        let rows = rows.map_err(failed(format!("cannot describe {entity}")))?;
        if rows.is_empty() {
            return Err(Error::new(Class::Mapping, format!("{} has no table {entity}", self.place)));
        }
        let mut described = Entity::new(entity);
        let mut key: Vec<(i32, String)> = Vec::new();
        for row in rows {
            let (name, native): (String, String) = (row.get(0), row.get(1));
            let (kind, length) = convert::kind(&native);
            let generated: bool = row.get(4);
            let place: i32 = row.get(5);
            described.fields.push(Field {
                length,
                nillable: !row.get::<_, bool>(2),
                defaulted: row.get(3),
                calculated: generated,
                createable: !generated,
                updateable: !generated,
                unique: row.get(6),
                ..Field::new(name.clone(), kind).with_native(native)
            });
            if place >= 0 {
                key.push((place, name));
            }
        }
        key.sort();
        described.key = key.into_iter().map(|(_, name)| name).collect();
        Ok(described)
    }
}
