//! What an endpoint is: the traits that connections implement, what they say of themselves, and the suite
//! that holds each of them to it.
//!
//! An endpoint implements only what its system can do; the engine decides from [`Capabilities`], never by
//! the endpoint's name.

pub mod contract;
mod kind;

pub use kind::{Kind, References, Setup, configuration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use model::{ChangeBatch, Class, Entity, Outcome, Position};

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
}

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

    /// True when the position of `read` can still be gone on from; where not, the read begins anew.
    async fn holds(&self, _read: &Read) -> Result<bool> {
        Ok(true)
    }

    /// Returns how many rows a read has from its very beginning, by the system's own count.
    async fn count(&self, read: &Read) -> Result<u64>;

    /// Returns the number of calls that reading so many rows will take.
    fn forecast_read_calls(&self, _rows: u64) -> u64 {
        0
    }

    /// Starts a read. Dropping the stream stops it and leaves nothing running.
    async fn read(&self, read: Read) -> Result<Batches>;
}

/// Writes records.
#[async_trait]
pub trait Sink: Catalog {
    /// Writes `changes` and returns one outcome per row, in the same order.
    ///
    /// `Ok` means durable: the engine moves its checkpoint on the strength of it. Writing the same changes
    /// twice leaves what writing them once leaves. No two rows of a batch have the same key.
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>>;

    /// Creates an entity that is missing; one that is there stays as it is.
    async fn create(&self, entity: &Entity) -> Result<()> {
        Err(Error::new(Class::Mapping, format!("{} cannot be created here", entity.name)))
    }

    /// Returns the number of calls that writing so many rows will take.
    fn forecast_calls(&self, _rows: u64) -> u64 {
        0
    }
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
