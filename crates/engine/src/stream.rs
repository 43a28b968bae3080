//! Streams of changes: how they are followed, and what is shown of them.

use std::collections::VecDeque;
use std::time::Duration;

use endpoint::{Notice, Notices};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::report::Lag;

/// The longest pause before what failed for the moment is tried again.
pub(crate) const LONGEST: Duration = Duration::from_mins(1);
/// How long what was changed counts for the brakes, and how long it is counted together.
const BRAKED: [Duration; 2] = [Duration::from_hours(1), Duration::from_secs(10)];
/// How often what streams do is stored, for people to look at.
pub(crate) const SHOWN: Duration = Duration::from_secs(1);

/// How a sync is followed.
#[derive(Debug, Clone, Copy)]
pub struct Following {
    /// How long changes gather before they are settled together, from the first.
    pub gather: Duration,
    /// How often is looked for what was changed and not told.
    pub look: Duration,
    /// Ends when nothing waits to be told, where a system only tells.
    pub drain: bool,
}

impl Default for Following {
    fn default() -> Self {
        Self { gather: Duration::from_millis(2), look: Duration::from_mins(5), drain: false }
    }
}

/// What a stream of changes has done since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Changes told.
    pub changes: u64,
    /// Changes a second, over the last seconds.
    pub per_second: f64,
    /// The place up to which everything told has an outcome, where the system has such places.
    pub position: Option<String>,
    /// Times that the connection was made again.
    pub reconnects: u64,
    /// Times that not all was told.
    pub gaps: u64,
    /// Times that was looked for what was changed and not told.
    #[serde(default)]
    pub looks: u64,
    /// Why not all was told, the last time.
    pub last_gap: Option<String>,
    /// Milliseconds from commit to commit.
    pub lag: Lag,
    /// When it was opened, in RFC 3339.
    pub since: String,
    /// When it last told anything, in RFC 3339.
    pub told: Option<String>,
}

/// Returns an empty histogram of microseconds, up to a day.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 86_400_000_000, 2).unwrap_or_else(|_| unreachable!("bounds that are right"))
}

/// Returns what a histogram of microseconds says, in milliseconds.
pub(crate) fn lag_of(lags: &Histogram<u64>) -> Lag {
    let at = |quantile: f64| lags.value_at_quantile(quantile) as f64 / 1_000.0;
    let max = lags.max() as f64 / 1_000.0;
    Lag { count: lags.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max }
}

/// What was changed, as the brakes count.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
}

/// What was changed in the last hour.
#[derive(Debug, Default)]
pub(crate) struct Braked(VecDeque<(Instant, Before)>);

impl Braked {
    /// Counts what was changed just now.
    pub(crate) fn count(&mut self, changed: Before) {
        match self.0.back_mut().filter(|(at, _)| at.elapsed() < BRAKED[1]) {
            Some((_, sum)) => {
                sum.updated += changed.updated;
                sum.deleted += changed.deleted;
            }
            None => self.0.push_back((Instant::now(), changed)),
        }
    }

    /// Returns what was changed in the last hour.
    pub(crate) fn before(&mut self) -> Before {
        while self.0.front().is_some_and(|(at, _)| at.elapsed() >= BRAKED[0]) {
            self.0.pop_front();
        }
        self.0.iter().fold(Before::default(), |sum, (_, one)| Before {
            updated: sum.updated + one.updated,
            deleted: sum.deleted + one.deleted,
        })
    }
}

/// Returns notices that end with an error: a side that falls silent is not taken for one where nothing happens.
pub(crate) fn or_silent(notices: Notices) -> Notices {
    let silent = async {
        let class = model::Class::Transient { after: None };
        Err::<Notice, _>(endpoint::Error::new(class, "changes are not told any more; follow the sync again"))
    };
    notices.chain(futures::stream::once(silent)).boxed()
}
