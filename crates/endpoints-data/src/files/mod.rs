//! Files of rows: CSV, NDJSON and Parquet, plain or compressed, in a folder or an object store.
//!
//! An entity is a file or a pattern of files. Reads stream; a write reads the file once and replaces it by one that
//! holds the new rows, so that whoever reads it sees the old file or the new one, never half of either. Where all rows are new
//! they are laid beside the file first, and the file is written once, when the run ends ([`parts`]).

mod config;
mod convert;
mod format;
mod parts;
mod sink;
mod source;

use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use endpoint::{Capabilities, Catalog, Error, Result};
use futures::TryStreamExt as _;
use model::{Class, Entity, Field};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use tokio_util::io::{StreamReader, SyncIoBridge};

use self::convert::RowReader;
use self::format::{Format, Packing};

pub use config::{FilesConfig, KIND};

/// Rows of a write: one that changes rows of the file writes it anew, so few large ones are better.
const WRITE_ROWS: usize = 200_000;

/// How CSV files are written.
#[derive(Debug, Clone)]
pub struct Dialect {
    /// What separates columns.
    pub delimiter: u8,
    /// What stands for null.
    pub null: String,
}

/// A folder of files.
#[derive(Debug, Clone)]
pub struct Files {
    store: Arc<dyn ObjectStore>,
    place: String,
    dialect: Dialect,
    /// Rows that lie beside their files.
    beside: parts::Beside,
}

impl Files {
    /// Returns an endpoint over a store, which `place` names in messages.
    pub fn new(store: Arc<dyn ObjectStore>, place: String, dialect: Dialect) -> Self {
        Self { store, place, dialect, beside: parts::Beside::default() }
    }

    /// Returns the files of an entity in the order of their names.
    async fn files(&self, entity: &str) -> Result<Vec<ObjectMeta>> {
        let what = || format!("cannot list the files of {entity} in {}", self.place);
        if !entity.contains('*') {
            let path = Path::from(entity);
            return match self.store.head(&path).await {
                // Under a prefix the store answers with the prefix, though it was asked without.
                Ok(file) => Ok(vec![ObjectMeta { location: path, ..file }]),
                Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
                Err(error) => Err(failed(what())(error)),
            };
        }
        let all = self.list().await?;
        Ok(all.into_iter().filter(|file| format::fits(entity, file.location.as_ref())).collect())
    }

    async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let files = self.store.list(None).try_collect::<Vec<_>>().await;
        let mut files = files.map_err(failed(format!("cannot list the files in {}", self.place)))?;
        files.retain(|file| format::of(file.location.as_ref()).is_some() && !parts::is_part(&file.location));
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files)
    }

    /// Opens the rows of a file; reading them blocks, and belongs on a thread of its own.
    async fn open(&self, file: &ObjectMeta) -> Result<Opened> {
        let name = file.location.to_string();
        let what = format!("cannot read {name} in {}", self.place);
        let (format, packing) = kind_of(&name)?;
        let answer = self.store.get(&file.location).await.map_err(failed(what.as_str()))?;
        if format == Format::Parquet {
            // It is read from its end: it has to be on this machine.
            let spool =
                |error: std::io::Error| Error::new(Class::Internal, "cannot write a spool file").caused_by(error);
            let spooled = tempfile::tempfile().map_err(spool)?;
            let mut output = tokio::fs::File::from_std(spooled.try_clone().map_err(spool)?);
            let mut stream = StreamReader::new(answer.into_stream().map_err(std::io::Error::other));
            tokio::io::copy(&mut stream, &mut output)
                .await
                .map_err(|error| Error::new(Class::Transient { after: None }, what).caused_by(error))?;
            tokio::io::AsyncWriteExt::flush(&mut output).await.map_err(spool)?;
            return Ok(Opened::Parquet { name, file: spooled });
        }
        let bytes = SyncIoBridge::new(StreamReader::new(answer.into_stream().map_err(std::io::Error::other)));
        Ok(Opened::Text { name, format, packing, bytes: Box::new(bytes), dialect: self.dialect.clone() })
    }
}

/// A file whose bytes are at hand.
enum Opened {
    Text { name: String, format: Format, packing: Packing, bytes: Box<dyn Read + Send>, dialect: Dialect },
    Parquet { name: String, file: std::fs::File },
}

impl Opened {
    /// Begins to read the rows; blocks.
    fn rows(self) -> Result<RowReader> {
        self.rows_of(None)
    }

    /// Begins to read the rows, of which this column is enough; blocks.
    fn rows_of(self, only: Option<&str>) -> Result<RowReader> {
        match self {
            Self::Parquet { name, file } => RowReader::parquet(name, file, only),
            Self::Text { name, format, packing, bytes, dialect } => {
                let unpacked: Box<dyn Read + Send> = match packing {
                    Packing::Plain => bytes,
                    Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
                    Packing::Zstd => {
                        let decoder = zstd::stream::read::Decoder::new(bytes);
                        Box::new(decoder.map_err(|error| convert::unreadable(&name, error))?)
                    }
                };
                if format == Format::Csv {
                    RowReader::csv(name, unpacked, dialect)
                } else {
                    RowReader::ndjson(name, unpacked)
                }
            }
        }
    }
}

fn kind_of(name: &str) -> Result<(Format, Packing)> {
    format::of(name).ok_or_else(|| {
        let message = format!(
            "{name} is no file of rows: its name has to end in .csv, .ndjson, .jsonl or .parquet, the first three with \
             .gz or .zst behind if they are compressed"
        );
        Error::new(Class::Mapping, message)
    })
}

/// Wraps an error with what was being done.
fn failed(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> Error {
    let what = what.into();
    move |error| {
        let class = match &error {
            object_store::Error::NotFound { .. } | object_store::Error::InvalidPath { .. } => Class::Mapping,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Class::Auth,
            _ => Class::Transient { after: None },
        };
        Error::new(class, what).caused_by(error)
    }
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(Class::Internal, "a file thread ended early").caused_by(error)))
}

#[async_trait]
impl Catalog for Files {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            tells_deletes: false,
            group_by_parent: false,
            references_by_external_id: false,
            creates_entities: true,
            write_rows: WRITE_ROWS,
            two_way: false,
            writes_at_once: 1,
            guards_by_second: false,
            only_tells: false,
        }
    }

    async fn entities(&self) -> Result<Vec<String>> {
        Ok(self.list().await?.into_iter().map(|file| file.location.to_string()).collect())
    }

    async fn describe(&self, entity: &str) -> Result<Entity> {
        kind_of(entity)?;
        let files = self.files(entity).await?;
        let missing = || Error::new(Class::Mapping, format!("{} has no file {entity}", self.place));
        let opened = self.open(files.last().ok_or_else(missing)?).await?;
        let (names, kinds) = blocking(move || {
            let rows = opened.rows()?;
            Ok((rows.names().to_vec(), rows.kinds().to_vec()))
        })
        .await?;
        if names.is_empty() {
            return Err(Error::new(Class::Mapping, format!("the file {entity} is empty, so its fields are not known")));
        }
        // Rows can be found by any field: a write reads the whole file.
        let field = |(name, kind): (String, model::Type)| Field { external_id: true, ..Field::new(name, kind) };
        let mut described = Entity::new(entity).with_fields(names.into_iter().zip(kinds).map(field));
        described.writable = !entity.contains('*');
        Ok(described)
    }
}
