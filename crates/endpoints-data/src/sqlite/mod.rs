//! SQLite: a file on this machine. Every call runs on a thread of its own, off the async runtime.

mod config;
mod convert;
mod pairs;
mod sink;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use endpoint::{Capabilities, Catalog, Error, Result};
use model::{Class, Entity, Field};
use rusqlite::{Connection, OpenFlags};

use crate::sql;

pub use config::{KIND, SqliteConfig};

/// A SQLite database.
#[derive(Debug, Clone)]
pub struct Sqlite {
    path: PathBuf,
    timeout: Duration,
}

impl Sqlite {
    /// Returns an endpoint for a database file, which is opened with each call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: Duration::from_secs(30) }
    }

    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)
            .and_then(|connection| {
                connection.busy_timeout(self.timeout)?;
                connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=FULL;")?;
                Ok(connection)
            })
            .map_err(|error| {
                // A file that is not there is a matter of configuration, not of patience.
                let class = if self.path.exists() { class(&error) } else { Class::Mapping };
                Error::new(class, format!("cannot open the SQLite database {}", self.path.display())).caused_by(error)
            })?;
        Ok(connection)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(this.open()?)).await;
        done.unwrap_or_else(|error| Err(Error::new(Class::Internal, "a database thread ended early").caused_by(error)))
    }
}

fn class(error: &rusqlite::Error) -> Class {
    use rusqlite::ErrorCode::{
        CannotOpen, ConstraintViolation, DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure,
    };
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => Class::Transient { after: None },
        Some(ConstraintViolation) => Class::Rejected,
        Some(DiskFull | SystemIoFailure | CannotOpen) => Class::Internal,
        _ => Class::Mapping,
    }
}

/// Wraps an error with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> Error {
    let what = what.into();
    move |error| Error::new(class(&error), what).caused_by(error)
}

/// The columns that rows are ordered and resumed by.
fn order_key(entity: &Entity) -> Vec<String> {
    if entity.key.is_empty() { vec!["rowid".to_owned()] } else { entity.key.clone() }
}

#[async_trait]
impl Catalog for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: false,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: true,
            write_rows: 10_000,
            two_way: true,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        self.blocking(|db| {
            let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name";
            let names = db.prepare(sql).and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect());
            names.map_err(failed("cannot list the tables"))
        })
        .await
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        let (entity, path) = (entity.to_owned(), self.path.clone());
        self.blocking(move |db| {
            let described = describe(&db, &entity).map_err(failed(format!("cannot describe {entity}")))?;
            described.ok_or_else(|| Error::new(Class::Mapping, format!("{} has no table {entity}", path.display())))
        })
        .await
    }
}

fn describe(db: &Connection, entity: &str) -> rusqlite::Result<Option<Entity>> {
    let mut described = Entity::new(entity);
    let mut key: Vec<(i64, String)> = Vec::new();
    let mut statement =
        db.prepare("SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)")?;
    let mut rows = statement.query([entity])?;
    while let Some(row) = rows.next()? {
        let (name, native): (String, String) = (row.get(0)?, row.get(1)?);
        let (kind, length) = convert::kind(&native);
        let (required, defaulted, place, hidden): (bool, bool, i64, i64) =
            (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        let rowid = place > 0 && native.eq_ignore_ascii_case("integer");
        let generated = hidden > 1;
        described.fields.push(Field {
            length,
            nillable: !required && place == 0,
            defaulted: defaulted || rowid,
            calculated: generated,
            createable: !generated,
            updateable: !generated,
            ..Field::new(name.clone(), kind).with_native(native)
        });
        if place > 0 {
            key.push((place, name));
        }
    }
    if described.fields.is_empty() {
        return Ok(None);
    }
    key.sort();
    described.key = key.into_iter().map(|(_, name)| name).collect();
    let sql = "SELECT max(c.name) FROM pragma_index_list(?1) i, pragma_index_info(i.name) c
               WHERE i.\"unique\" AND NOT i.partial GROUP BY i.name HAVING count(*) = 1";
    let unique: Vec<String> =
        db.prepare(sql)?.query_map([entity], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for field in &mut described.fields {
        field.unique = unique.contains(&field.name) || described.key == [field.name.clone()];
    }
    let sql = "SELECT \"from\", \"table\" FROM pragma_foreign_key_list(?1)";
    let references: Vec<(String, String)> =
        db.prepare(sql)?.query_map([entity], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (from, table) in references {
        if let Some(field) = described.fields.iter_mut().find(|field| field.name == from) {
            field.references.push(table);
        }
    }
    Ok(Some(described))
}

/// Writes the statement that makes a table for an entity.
fn create_table(entity: &Entity) -> String {
    let columns = entity.fields.iter().map(|field| {
        let unique = if entity.key.contains(&field.name) { " PRIMARY KEY NOT NULL" } else { "" };
        format!("{} {}{unique}", sql::name(&field.name), convert::native(field))
    });
    format!("CREATE TABLE IF NOT EXISTS {} ({})", sql::table(&entity.name), columns.collect::<Vec<_>>().join(", "))
}
