//! What an endpoint is: the traits that connections implement, what they say of themselves, and the suite
//! that holds each of them to it.
//!
//! An endpoint implements only what its system can do; the engine decides from [`Capabilities`], never by
//! the endpoint's name.

pub mod contract;
mod kind;

pub use kind::{Kind, References, Setup, configuration};

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use model::{ChangeBatch, Class, Entity, Field, Outcome, Position};

/// The cause of an error, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failure of an endpoint: what it was doing, what the caller can do, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    class: Class,
    source: Option<BoxError>,
}

impl Error {
    /// Returns an error without a cause of its own.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { message: message.into(), class, source: None }
    }

    /// The same error with its cause.
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns what the caller can do.
    pub fn class(&self) -> Class {
        self.class
    }
}

/// What endpoints return.
pub type Result<T> = std::result::Result<T, Error>;

/// What an endpoint can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// A window of changes also tells which records were deleted in it.
    pub tells_deletes: bool,
    /// Writes of rows with one parent should stand together, or they wait for each other's locks.
    pub group_by_parent: bool,
    /// A reference can be written as the parent's external id instead of its key.
    pub references_by_external_id: bool,
    /// Missing entities can be created.
    pub creates_entities: bool,
    /// Most rows that one write should hold.
    pub write_rows: usize,
    /// Writes of different records that may be under way at the same time; more gain nothing, or would be in each other's way.
    pub writes_at_once: usize,
    /// It can take part in two-way syncs: records can be fetched by key, and written only where they are as they were
    /// read.
    pub two_way: bool,
    /// What guards a write is the second of the last change: a record read in that very second is not guarded.
    pub guards_by_second: bool,
    /// Records are only told, each once, as messages of a queue are: there is nothing to read, and [`Source::listen`] tells
    /// whole records.
    pub only_tells: bool,
}

/// Name of the table of changes, which entities captured by triggers have for a cursor: their windows end before `until`,
/// and all that happened in them is told, deletions too.
pub const CHANGES: &str = "bridgehead_changes";
/// Start of the name of a place in the system's own log, which entities captured by log have for a cursor; their windows
/// are as those of [`CHANGES`]. Nobody else may use the place.
pub const LOG: &str = "bridgehead_log_";

/// True when changes of an entity are captured, deletions too.
pub fn is_captured(entity: &Entity) -> bool {
    entity.cursor.as_deref().is_some_and(|cursor| cursor == CHANGES || cursor.starts_with(LOG))
}

/// How far behind a capture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// What captures: a table of notes, or a slot in the log.
    pub name: String,
    /// Bytes of its log that the system keeps for us; `None` where it keeps none.
    pub kept_bytes: Option<u64>,
    /// What is wrong with it, or soon will be.
    pub trouble: Option<String>,
}

/// Changes that a system tells as they happen.
#[derive(Debug, Default)]
pub struct Notice {
    /// Records that changed or are gone, by the key that the listener was asked for.
    pub keys: Vec<String>,
    /// What is told of them besides: a row for each key.
    pub values: Option<Values>,
    /// Whole records with what happened to them, where a system only tells: the fields that were asked for, in that order.
    pub records: Option<ChangeBatch>,
    /// True when nothing waits to be told behind it, where a system only tells.
    pub drained: bool,
    /// When each of these changes was committed, in the order of the keys or of the records, in microseconds since 1970 by
    /// the system's clock; `None` where the system does not say, and nothing at all where it never does.
    pub committed: Vec<Option<i64>>,
    /// The end of a window all of whose changes are told with this notice and those before it; `None` where the system's
    /// notices are no windows.
    pub until: Option<String>,
    /// The place behind which the system goes on when somebody listens again; `None` where it keeps none.
    pub place: Option<String>,
    /// Why not all was told that changed since the last window: it is to be looked for.
    pub missed: Option<String>,
    /// True when the connection was lost before it, and made again.
    pub reconnected: bool,
    /// Wants to know when everything that was told has an outcome; nothing more is told before.
    pub settled: Option<tokio::sync::oneshot::Sender<()>>,
}

/// What a notice tells of its records.
#[derive(Debug, Clone)]
pub struct Values {
    /// The fields that were asked for.
    pub rows: RecordBatch,
    /// For each row the columns that are told; `None` for those of which nothing is.
    pub told: Vec<Option<Vec<usize>>>,
}

/// Notices of an entity. Dropping it ends the listening and leaves nothing running.
pub type Notices = BoxStream<'static, Result<Notice>>;

/// A span of changes by the source's own cursor, ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Where the last window ended; `None` reads from the beginning.
    pub since: Option<String>,
    /// Where this one ends.
    pub until: String,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// The entity, as the catalog describes it.
    pub entity: Entity,
    /// Fields, in the order wanted.
    pub fields: Vec<String>,
    /// A condition in the system's own language.
    pub filter: Option<String>,
    /// Only what changed in this window; everything if `None`.
    pub window: Option<Window>,
    /// Goes on behind this position of an earlier read of the same thing.
    pub from: Option<Position>,
    /// Deleted records instead of those that are there.
    pub deleted: bool,
    /// Most rows in a batch.
    pub batch_rows: usize,
}

/// What a window of changes does not show: values that are made of what changed elsewhere.
pub struct Stale {
    /// The fields of the read that are derived.
    pub derived: Vec<String>,
    /// Those that change as time goes on, by themselves.
    pub timely: Vec<String>,
    /// Records of the read, by their identity, that were not changed in its window, and show other values all the same.
    pub keys: BoxStream<'static, Result<Vec<String>>>,
}

impl Default for Stale {
    /// Nothing is derived.
    fn default() -> Self {
        Self { derived: Vec::new(), timely: Vec::new(), keys: futures::stream::empty().boxed() }
    }
}

/// Batches of a read. One without a position brings us to no place to go on from; one may be empty, only
/// to tell a position.
pub type Batches = BoxStream<'static, Result<ChangeBatch>>;

/// Where changes are written.
#[derive(Debug, Clone)]
pub struct Target {
    /// The entity, as the catalog describes it.
    pub entity: Entity,
    /// The field that identifies a record; a column of every batch.
    pub key: String,
    /// Name of the sync, for what has to be remembered about work in progress.
    pub sync: String,
}

/// What is to happen to one record of a guarded write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// The record is made; it must not be there.
    Insert,
    /// Fields of the record are written; they must be as they were read.
    Update,
    /// The record goes; it must be as it was read.
    Delete,
}

/// Changes that are made only where a record is still as it was read.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// What is to happen to each row.
    pub revisions: Vec<Revision>,
    /// The new values: the key of the target, and a column a field.
    pub records: RecordBatch,
    /// For each row the columns of `records` that are written.
    pub written: Vec<Vec<usize>>,
    /// The rows as they were read, as many; a column of it that is also written is compared with what is there, of a
    /// deletion every column. Those of an insert mean nothing.
    pub expected: RecordBatch,
}

/// Finds out what a connection holds.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Says what this endpoint can do.
    fn capabilities(&self) -> Capabilities;

    /// Returns the names of all entities, sorted.
    async fn entities(&self) -> Result<Vec<String>>;

    /// Describes one entity.
    ///
    /// # Errors
    ///
    /// Class `Mapping`, naming the entity, when there is none of this name.
    async fn describe(&self, entity: &str) -> Result<Entity>;

    /// Returns what an entity refuses records for besides what its fields say, by name, in the system's words; `None` where the
    /// system has no such rules, or this login may not see them.
    async fn rules(&self, _entity: &Entity) -> Result<Option<BTreeMap<String, String>>> {
        Ok(None)
    }

    /// Returns the number of calls that count against the other side's allowance, so far.
    fn calls(&self) -> u64 {
        0
    }

    /// Returns what is left of the other side's allowance, where it has one.
    fn allowance(&self) -> Option<u64> {
        None
    }
}

/// Reads records.
#[async_trait]
pub trait Source: Catalog {
    /// Returns the end of a window that begins now; `None` when the entity has no cursor.
    async fn now(&self, entity: &Entity) -> Result<Option<String>>;

    /// Returns what the system's own clock says, in microseconds since 1970; `None` where it is this machine's.
    async fn clock(&self) -> Result<Option<i64>> {
        Ok(None)
    }

    /// True when the position of `read` can still be gone on from, and all that changed in its window is still known;
    /// where not, the read begins anew.
    async fn holds(&self, _read: &Read) -> Result<bool> {
        Ok(true)
    }

    /// Returns how many rows a read has from its very beginning, by the system's own count.
    async fn count(&self, read: &Read) -> Result<u64>;

    /// Returns the number of calls that reading so many rows will take.
    fn forecast_read_calls(&self, _rows: u64) -> u64 {
        0
    }

    /// Makes the system note every change of an entity from now on, by the value of `key`, in the way that the entity's
    /// cursor says; where it does so already, all stays as it is.
    async fn capture(&self, entity: &Entity, _key: &str) -> Result<()> {
        let what = if entity.cursor.as_deref() == Some(CHANGES) { "triggers" } else { "log to read" };
        Err(Error::new(
            Class::Mapping,
            format!("changes of {} can't be captured: its system has no {what}", entity.name),
        ))
    }

    /// Says how a capture is doing; `None` where there is none.
    async fn captured(&self, _entity: &Entity) -> Result<Option<Captured>> {
        Ok(None)
    }

    /// Ends a capture, and removes all that was made for it.
    async fn release(&self, _entity: &Entity) -> Result<()> {
        Ok(())
    }

    /// Listens to changes of an entity by the value of `key`, from now on, or from behind a place of an earlier notice where
    /// the system has such places; what is told of `fields` comes along. Lost connections are made again, and what could not
    /// be told for that, or is not kept since that place any more, is said to be missed; an error is the last notice.
    ///
    /// # Errors
    ///
    /// Class `Mapping` where the system tells no changes of this entity as they happen.
    async fn listen(&self, entity: &Entity, _key: &str, _fields: &[String], _place: Option<&str>) -> Result<Notices> {
        Err(Error::new(
            Class::Mapping,
            format!("changes of {} can't be followed: nothing tells of them as they happen", entity.name),
        ))
    }

    /// Says which records show other values than before though the window of a read does not tell them, by the key of their
    /// entity.
    async fn stale(&self, _read: &Read) -> Result<Stale> {
        Ok(Stale::default())
    }

    /// Returns those records of a read whose field `key` has one of these values, as they are now, in no particular order.
    async fn pick(&self, read: &Read, _key: &str, _keys: &[String]) -> Result<ChangeBatch> {
        Err(Error::new(Class::Mapping, format!("{} can't be followed: nothing finds records by key", read.entity.name)))
    }

    /// Starts a read. Dropping the stream stops it and leaves nothing running.
    async fn read(&self, read: Read) -> Result<Batches>;

    /// Returns the records whose field `key` has one of these values, in no particular order, with `fields` as columns;
    /// records that are not there are left out. Those that were changed so recently that a guarded write could not tell
    /// a later change are waited for.
    async fn fetch(&self, entity: &Entity, _fields: &[String], _key: &str, _keys: &[String]) -> Result<ChangeBatch> {
        Err(one_way(entity))
    }

    /// As [`Source::fetch`], without waiting: records that were changed so recently come as they are, and a guarded write
    /// to one of them is refused as if it had moved.
    async fn fetch_now(&self, entity: &Entity, fields: &[String], key: &str, keys: &[String]) -> Result<ChangeBatch> {
        self.fetch(entity, fields, key, keys).await
    }
}

/// Writes records.
#[async_trait]
pub trait Sink: Catalog {
    /// Writes `changes` and returns one outcome per row, in the same order.
    ///
    /// `Ok` means durable: the engine moves its checkpoint on the strength of it. Writing the same changes
    /// twice leaves what writing them once leaves. No two rows of a batch have the same key.
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>>;

    /// Lets others see what was written, where that takes more than writing it; called when a run ends, or a part of it that
    /// others are to see. What [`Sink::write`] said is durable stays so without it.
    async fn finish(&self, _target: &Target) -> Result<()> {
        Ok(())
    }

    /// Makes changes only where records are still as they were read; a row whose record is not gets
    /// [`Outcome::Moved`], and its record stays as it is. No two rows have the same key.
    async fn revise(&self, target: &Target, _changes: &Guarded) -> Result<Vec<Outcome>> {
        Err(one_way(&target.entity))
    }

    /// Returns so many keys that no record has or will be given by the system itself.
    async fn new_keys(&self, entity: &Entity, _key: &str, _count: usize) -> Result<Vec<String>> {
        Err(one_way(entity))
    }

    /// Creates an entity that is missing; one that is there stays as it is.
    async fn create(&self, entity: &Entity) -> Result<()> {
        Err(Error::new(Class::Mapping, format!("{} cannot be created here", entity.name)))
    }

    /// Adds fields to an entity that is there; those that it has already stay as they are.
    async fn add_fields(&self, entity: &Entity, _fields: &[Field]) -> Result<()> {
        Err(Error::new(Class::Mapping, format!("fields of {} cannot be added here", entity.name)))
    }

    /// Returns the number of calls that writing so many rows will take.
    fn forecast_calls(&self, _rows: u64) -> u64 {
        0
    }
}

fn one_way(entity: &Entity) -> Error {
    Error::new(
        Class::Mapping,
        format!("{} can't take part in a two-way sync: its system can't fetch by key", entity.name),
    )
}

/// A system that can be read and written.
pub trait Endpoint: Source + Sink {}

impl<T: Source + Sink> Endpoint for T {}

/// Remembers work in progress at the other side across a crash, such as the id of a Bulk job.
pub trait Journal: Send + Sync {
    /// Remembers a piece of work.
    ///
    /// # Errors
    ///
    /// When the store can't be written.
    fn begin(&self, sync: &str, work: &str) -> Result<()>;

    /// Returns the work that was begun and not ended.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    fn unfinished(&self, sync: &str) -> Result<Vec<String>>;

    /// Forgets a piece of work.
    ///
    /// # Errors
    ///
    /// When the store can't be written.
    fn end(&self, sync: &str, work: &str) -> Result<()>;
}
