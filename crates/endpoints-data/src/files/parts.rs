//! New rows that lie beside a file until a run ends, so that the file is written once and not with every part of the run.
//!
//! Each part is durable by itself, in the format of the file, and holds only rows whose keys neither the file nor an earlier part
//! has. Parts that somebody left, say a program that ended too early, are taken in before anything else is written: where the file has
//! a key by then, the file is right.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use endpoint::{Error, Result, Sink as _, Target};
use futures::TryStreamExt as _;
use model::Class;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};

use super::sink::{joined, known, whole};
use super::{Files, Opened, blocking, failed};

/// The folder of parts, beside the files.
const FOLDER: &str = ".bridgehead";

/// Rows that lie beside a file at most: what is known of them is kept in memory, eight bytes each.
const MOST: usize = 4_000_000;

/// The parts of a file.
#[derive(Debug, Default)]
struct Parts {
    /// In the order in which they were written.
    places: Vec<Path>,
    /// Prints of the keys that they have, sorted.
    prints: Vec<u64>,
}

/// The parts of each file that this endpoint knows of.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside(Arc<Mutex<HashMap<String, Parts>>>);

impl Beside {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Parts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True for what is a part, and no file of its own.
pub(super) fn is_part(path: &Path) -> bool {
    path.parts().next().is_some_and(|first| first.as_ref() == FOLDER)
}

/// The place of a part of a file; its name ends as that of the file, and is read alike.
fn place(name: &str, number: usize) -> Path {
    let last = name.rsplit('/').next().unwrap_or(name);
    Path::from(format!("{FOLDER}/{name}/{number:06}-{last}"))
}

/// Adds sorted numbers to sorted numbers.
#[expect(clippy::stable_sort_primitive, reason = "of two sorted runs the stable sort makes one by merging them")]
fn merge(known: &mut Vec<u64>, new: Vec<u64>) {
    known.extend(new);
    known.sort();
}

impl Files {
    /// Returns the parts beside a file, in the order in which they were written. What others left is in the file then.
    pub(super) async fn parts(&self, target: &Target) -> Result<Vec<Path>> {
        let name = &target.entity.name;
        if let Some(parts) = self.beside.known().get(name) {
            return Ok(parts.places.clone());
        }
        let what = format!("cannot list what lies beside {name} in {}", self.place);
        let left = self.store.list(Some(&Path::from(format!("{FOLDER}/{name}")))).try_collect::<Vec<_>>().await;
        let mut left: Vec<Path> = left.map_err(failed(what))?.into_iter().map(|part| part.location).collect();
        left.sort();
        for part in left {
            self.take_in(target, &part).await?;
        }
        self.beside.known().insert(name.clone(), Parts::default());
        Ok(Vec::new())
    }

    /// Takes the rows of a part into its file whose keys the file has not.
    async fn take_in(&self, target: &Target, part: &Path) -> Result<()> {
        let name = &target.entity.name;
        let (left, before) = (self.open_part(part).await?, self.open_all(name, &[]).await?);
        let ours = target.clone();
        let new = blocking(move || {
            let mut reader = left.rows()?;
            let mut batches = Vec::new();
            while let Some(batch) = whole(&mut reader, &ours.entity.name)? {
                batches.push(batch.records);
            }
            let Some(first) = batches.first() else { return Ok(None) };
            let broken = |error| Error::new(Class::Internal, "cannot read a part of a file").caused_by(error);
            let rows = concat_batches(&first.schema(), &batches).map_err(broken)?;
            let new: BooleanArray = known(before, &ours, &rows)?.into_iter().map(|known| Some(!known)).collect();
            Ok(Some(filter_record_batch(&rows, &new).map_err(broken)?))
        });
        if let Some(new) = new.await?.filter(|new| new.num_rows() > 0) {
            let (before, target, dialect) = (self.open_all(name, &[]).await?, target.clone(), self.dialect.clone());
            let file = blocking(move || joined(before, Some(&new), &target, &dialect)).await?;
            self.replace(name, file).await?;
        }
        self.delete(part).await
    }

    /// Opens a file, if there is one, and what lies beside it.
    pub(super) async fn open_all(&self, name: &str, parts: &[Path]) -> Result<Vec<Opened>> {
        let mut opened = Vec::with_capacity(parts.len() + 1);
        for file in self.files(name).await? {
            opened.push(self.open(&file).await?);
        }
        for part in parts {
            opened.push(self.open_part(part).await?);
        }
        Ok(opened)
    }

    async fn open_part(&self, part: &Path) -> Result<Opened> {
        let meta = self.store.head(part).await.map_err(failed(format!("cannot read {part} in {}", self.place)))?;
        self.open(&ObjectMeta { location: part.clone(), ..meta }).await
    }

    /// True where the parts of a file have none of the keys with these prints, for certain.
    pub(super) fn are_new(&self, name: &str, prints: &[u64]) -> bool {
        let known = self.beside.known();
        let mut known = known.get(name).map_or(&[][..], |parts| &parts.prints).iter().copied().peekable();
        prints.iter().all(|print| {
            while known.next_if(|known| known < print).is_some() {}
            known.peek() != Some(print)
        })
    }

    /// Lays new rows beside their file; `prints` are those of their keys, sorted.
    pub(super) async fn lay_beside(&self, target: &Target, file: File, prints: Vec<u64>) -> Result<()> {
        let name = &target.entity.name;
        let number = self.beside.known().get(name).map_or(0, |parts| parts.places.len()) + 1;
        let part = place(name, number);
        self.replace(part.as_ref(), file).await?;
        let rows = {
            let mut known = self.beside.known();
            let parts = known.entry(name.clone()).or_default();
            parts.places.push(part);
            merge(&mut parts.prints, prints);
            parts.prints.len()
        };
        if rows >= MOST { self.finish(target).await } else { Ok(()) }
    }

    /// Removes parts that are in their file by now.
    pub(super) async fn forget(&self, name: &str, parts: &[Path]) -> Result<()> {
        // One that can't be removed now is one that was left, and adds nothing when it is taken in.
        self.beside.known().remove(name);
        for part in parts {
            self.delete(part).await?;
        }
        self.beside.known().insert(name.to_owned(), Parts::default());
        Ok(())
    }

    async fn delete(&self, part: &Path) -> Result<()> {
        match self.store.delete(part).await {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(failed(format!("cannot remove {part} in {}", self.place))(error)),
        }
    }
}
