//! Streams of changes: how they are followed, and what is shown of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use endpoint::{Notice, Notices};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use model::Side;
use serde::{Deserialize, Serialize};
use state::Store;
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
#[serde(default)]
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

/// How long a stream may be silent about itself before it counts as cut off, in seconds.
const SILENT: i64 = 10;

/// A stream of changes, and what has become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamState {
    /// The sync.
    pub sync: String,
    /// The side that tells: `Salesforce` or `outside`.
    pub side: Cow<'static, str>,
    /// `listening`, `stopped`, or `cut off` where nobody said that it was stopped.
    pub state: Cow<'static, str>,
    /// When that was known, in RFC 3339.
    pub at: String,
    /// What it has done.
    pub stream: Stream,
}

/// Returns what the streams of followed syncs do, or did last, by sync and side.
///
/// # Errors
///
/// When the store can't be read.
pub fn streams(store: &Store, now: DateTime<Utc>) -> Result<Vec<StreamState>, state::Error> {
    let known = |shown: state::ShownStream| {
        let silent = DateTime::parse_from_rfc3339(&shown.at).map_or(0, |at| (now - at.to_utc()).num_seconds());
        let state = match shown.ended {
            true => "stopped",
            false if silent > SILENT => "cut off",
            false => "listening",
        };
        let side = if shown.side == Side::Salesforce { "Salesforce" } else { "outside" };
        let stream = serde_json::from_str(&shown.body).unwrap_or_default();
        StreamState { sync: shown.sync, side: side.into(), state: state.into(), at: shown.at, stream }
    };
    Ok(store.streams()?.into_iter().map(known).collect())
}

/// How much later than the time of a record's last change its event may say that it was committed, in microseconds: records
/// tell the second, and a little earlier where they are warm.
pub(crate) const STALE: i64 = 2_000_000;

/// Returns the place up to which everything that a side told had an outcome, when it was followed last.
pub(crate) fn place_before(store: &Store, sync: &str, side: Side) -> Result<Option<String>, state::Error> {
    let shown = store.streams()?.into_iter().find(|shown| shown.sync == sync && shown.side == side);
    Ok(shown.and_then(|shown| serde_json::from_str::<Stream>(&shown.body).ok()?.position))
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
