//! What a run tells: its counts, its receipt, and why it could not go on.

use std::collections::BTreeMap;

use arrow::error::ArrowError;
use mapping::{Made, Mistake};
use model::{Class, Fingerprint};
use serde::{Deserialize, Serialize};

/// A run that could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mapping can't work.
    #[error("the mapping has {} mistakes", .0.len())]
    Mapping(Vec<Mistake>),
    /// An endpoint failed.
    #[error(transparent)]
    Endpoint(#[from] endpoint::Error),
    /// The store failed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A batch is not what it should be.
    #[error("a batch of {sync} cannot be mapped")]
    Batch {
        /// The sync.
        sync: String,
        /// The cause.
        source: arrow::error::ArrowError,
    },
    /// An entity is another than before, and the sync is to stop then.
    #[error(
        "{sync} stopped before it read anything, since `drift: stop` is set and this changed since its last good run:\n  {}\nRun it \
         with --force if that is right",
        .what.join("\n  ")
    )]
    Drift {
        /// The sync.
        sync: String,
        /// What is different.
        what: Vec<String>,
    },
    /// More would be deleted than the sync allows at once.
    #[error("{sync} would delete {deletes} of {of} records; nothing was deleted. Raise `brake` if that is right")]
    Brake {
        /// The sync.
        sync: String,
        /// Records that would go.
        deletes: u64,
        /// Records that are linked.
        of: u64,
    },
    /// More is to be changed than usual.
    #[error(
        "more than the usual share of records has changed since the last run: it stopped after {changed} writes to the \
         {of} linked records, and the rest waits. Run it with --force if that is right, or raise `change_brake`"
    )]
    ChangeBrake {
        /// Records that were changed.
        changed: u64,
        /// Records that are linked.
        of: u64,
    },
    /// Rows that don't fit the memory can't be kept on disk.
    #[error("cannot keep rows in {folder} while they are compared")]
    Spill {
        /// The folder.
        folder: String,
        /// The cause.
        source: std::io::Error,
    },
    /// There is nothing to undo.
    #[error("run {run} wrote nothing that can be undone: {why}")]
    NothingToUndo {
        /// The run.
        run: i64,
        /// Why.
        why: &'static str,
    },
    /// Times of the two sides can't be compared.
    #[error(
        "`conflicts: latest` compares times, and {what}; nothing more is written. Set the clocks right, or run it with --force"
    )]
    ClockSkew {
        /// What is wrong with the clocks.
        what: String,
    },
    /// A rule of the mapping lets no record pass that fails it.
    #[error(transparent)]
    Rejected(#[from] mapping::Rejected),
    /// A person stopped it.
    #[error("stopped; run it again to go on from the checkpoint")]
    Stopped,
}

impl Error {
    /// Returns why a batch can't be mapped: a rule may have rejected it.
    pub(crate) fn batch(sync: &str, error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(inner) => match inner.downcast() {
                Ok(rejected) => Self::Rejected(*rejected),
                Err(inner) => Self::Batch { sync: sync.to_owned(), source: ArrowError::ExternalError(inner) },
            },
            source => Self::Batch { sync: sync.to_owned(), source },
        }
    }

    pub(crate) fn spill(folder: &std::path::Path, source: std::io::Error) -> Self {
        Self::Spill { folder: folder.display().to_string(), source }
    }

    /// Returns what the caller can do.
    pub fn class(&self) -> Class {
        match self {
            Self::Mapping(_) | Self::NothingToUndo { .. } => Class::Mapping,
            Self::Endpoint(error) => error.class(),
            Self::State(error) => error.class(),
            Self::Batch { .. } | Self::Spill { .. } => Class::Internal,
            Self::Rejected(_) => Class::Rejected,
            Self::Drift { .. }
            | Self::Brake { .. }
            | Self::ChangeBrake { .. }
            | Self::ClockSkew { .. }
            | Self::Stopped => Class::Stopped,
        }
    }
}

/// How many rows met which end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows read.
    pub read: u64,
    /// Records made.
    pub created: u64,
    /// Records changed.
    pub updated: u64,
    /// Records that were as they should be.
    pub unchanged: u64,
    /// Records deleted.
    pub deleted: u64,
    /// Dead letters stored.
    pub dead: u64,
    /// Changes that wait for a parent or a lock.
    pub parked: u64,
    /// Dead letters and parked changes of earlier that were applied now.
    pub released: u64,
    /// Rows that failed a rule which only warns.
    pub warnings: u64,
    /// Bytes of the columns read.
    pub bytes: u64,
}

/// What the source says it has, against what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Rows by the source's own count, before and after the read.
    pub source: (u64, u64),
    /// Rows read in this window, by this run and the ones that it goes on from.
    pub read: u64,
    /// Keys read by this run.
    pub keys_read: Fingerprint,
    /// Keys that have an outcome.
    pub keys_settled: Fingerprint,
}

impl Receipt {
    /// True when no row is missing.
    pub fn balances(&self) -> bool {
        let (low, high) = (self.source.0.min(self.source.1), self.source.0.max(self.source.1));
        (low..=high).contains(&self.read) && self.keys_read == self.keys_settled
    }
}

/// How late changes were on the other side, in milliseconds from commit to commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Changes whose time was told.
    pub count: u64,
    /// Half of them were as quick as this.
    pub p50: f64,
    /// 95 of 100 were.
    pub p95: f64,
    /// 99 of 100 were.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What a run did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Number of the run.
    pub run: i64,
    /// The sync.
    pub sync: String,
    /// True when everything was read, not only changes.
    pub full: bool,
    /// The counts.
    pub counts: Counts,
    /// The receipt of the window.
    pub receipt: Receipt,
    /// API calls that were forecast.
    pub calls_forecast: u64,
    /// API calls spent.
    pub calls: u64,
    /// API calls that the org has left, as it told last.
    #[serde(default)]
    pub calls_left: Option<u64>,
    /// Conflicts that the sync's rules decided.
    #[serde(default)]
    pub conflicts: u64,
    /// Conflicts that wait for a person.
    #[serde(default)]
    pub held: u64,
    /// The run that this one undoes.
    #[serde(default)]
    pub undoes: Option<i64>,
    /// The version of the configuration that it worked by, where it was a deployed one.
    #[serde(default)]
    pub version: Option<i64>,
    /// True where it wrote a first slice, and the checkpoint stayed where it was.
    #[serde(default)]
    pub pilot: bool,
    /// What was different about the two entities since the last good run.
    #[serde(default)]
    pub drift: Vec<String>,
    /// True where it wrote what a comparison of both sides found to differ.
    #[serde(default)]
    pub repairs: bool,
    /// Records that an undo left alone, since they were changed after the run that it undoes.
    #[serde(default)]
    pub left: u64,
    /// Some of them.
    #[serde(default)]
    pub left_keys: Vec<String>,
    /// How late changes were, where they were followed as they happened.
    #[serde(default)]
    pub lag: Option<Lag>,
    /// Fields that are made of others, with the time as of which their values are right.
    #[serde(default)]
    pub derived: BTreeMap<String, String>,
    /// What fields of the targets are made of; told, and not kept.
    #[serde(skip)]
    pub lineage: Vec<Made>,
    /// Time until batches came, in milliseconds.
    pub read_ms: u64,
    /// Time spent mapping, in milliseconds.
    pub map_ms: u64,
    /// Time spent writing, in milliseconds.
    pub write_ms: u64,
    /// Time spent storing outcomes, in milliseconds.
    pub commit_ms: u64,
}

impl Report {
    /// True when no row is missing.
    pub fn green(&self) -> bool {
        self.receipt.balances()
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Rows with an outcome.
    pub rows: u64,
    /// Rows in all, as counted at the start.
    pub of: u64,
}
