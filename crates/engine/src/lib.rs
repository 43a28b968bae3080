//! Syncs: plan, read, map, write, commit, in bounded stages.
//!
//! The promise is at least once with the effect of exactly once: rows are written by their key, and the
//! checkpoint moves in the same transaction that stores an outcome for every row before it.

mod chunk;
mod deletes;
mod follow;
mod merge;
mod prepare;
mod preview;
mod reconcile;
mod report;
mod run;
mod settle;
mod stream;
mod sync;
mod two_way;

pub use follow::follow;
pub use mapping::Made;
pub use merge::{Contested, Policy};
pub use prepare::{Forecast, check, drift, forecast};
pub use preview::{Preview, Previewed, preview};
pub use reconcile::{Difference, FieldDifference, Kind, Reconcile, Reconciliation, Repair, reconcile};
pub use report::{Counts, Error, Lag, Progress, Receipt, Report};
pub use run::{Options, Pilot, Replay, run};
pub use stream::{Following, Stream, StreamState, streams};
pub use sync::{Deletes, Drift, History, Sync, circle_of, in_order};
pub use two_way::{
    PreparedPairs, TwoWayRules, capture_of, check_pairs, follow_pairs, forecast_pairs, prepare_pairs, run_pairs,
    run_prepared, undo_pairs,
};
