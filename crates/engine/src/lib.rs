//! Syncs: plan, read, map, write, commit, in bounded stages.
//!
//! The promise is at least once with the effect of exactly once: rows are written by their key, and the
//! checkpoint moves in the same transaction that stores an outcome for every row before it.

mod chunk;
mod report;
mod run;

pub use report::{Counts, Error, Progress, Receipt, Report};
pub use run::{Deletes, Forecast, Options, Sync, forecast, run};
