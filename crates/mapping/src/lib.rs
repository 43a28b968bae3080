//! Mapping files: what they say, whether it can work, and the work on batches.
//!
//! A [`Definition`] is a file as written. [`Plan::new`] checks it against both catalogs and returns either
//! every problem at once, each pointing at its line, or a plan that maps batches a column at a time.

mod definition;
mod evaluate;
mod plan;
mod two_way;

pub use definition::{Capture, Definition, Direction, External, Match, Mistake, OnFail, Owner, Pair, Rule, Salesforce};
pub use plan::{Links, Made, Mapped, Parents, Plan, Rejected};
pub use two_way::{TwoWay, TwoWayField};
