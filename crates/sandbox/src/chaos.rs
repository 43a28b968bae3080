//! Misbehaviour on demand: rules that say which calls go wrong, how, and how often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// The answer comes later.
    Latency {
        /// Milliseconds at least.
        milliseconds: u64,
        /// Milliseconds more at most, drawn anew each time.
        #[serde(default)]
        jitter: u64,
    },
    /// The call is refused as one too many: 403 `REQUEST_LIMIT_EXCEEDED`.
    Throttle {
        /// True for too many calls at a time, false for too many a day.
        #[serde(default)]
        concurrent: bool,
    },
    /// The edge refuses the call before the org sees it.
    Status {
        /// Such as 429, 500, 502 or 503.
        status: u16,
        /// Seconds for `Retry-After`.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Writes meet a lock: `UNABLE_TO_LOCK_ROW`.
    Lock,
    /// The session has ended.
    ExpireSession,
    /// The connection breaks before the answer begins.
    Drop,
    /// The connection breaks in the middle of the answer's body.
    Truncate,
    /// The answer's body trickles.
    SlowBody {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// Rows of a batch or collection fail here and there, each by the rule's probability.
    PartialFailure {
        /// Error code of the rows.
        #[serde(default = "Fault::default_code")]
        code: String,
    },
    /// Jobs stay in progress and never end.
    StuckJob,
    /// Jobs fail.
    FailedJob,
    /// Ingest jobs are aborted after their first batch.
    AbortedJob,
    /// Events are not told to those who listen.
    EventLost,
    /// Events are told twice.
    EventDoubled,
    /// Events change places with those after them, of another transaction.
    EventReordered,
    /// Events come later.
    EventLate {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Changes are told by gap events, without values.
    EventGap,
    /// Changes of a transaction are told by one overflow event for each object.
    EventOverflow,
    /// Streams of the Pub/Sub API break.
    StreamCut,
}

impl Fault {
    fn default_code() -> String {
        "UNKNOWN_EXCEPTION".to_owned()
    }
}

/// A rule: what goes wrong, for which calls, how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Number of the rule; given by the sandbox.
    #[serde(default)]
    pub id: u64,
    /// What goes wrong.
    pub fault: Fault,
    /// How likely it is, from 0 to 1.
    #[serde(default = "Rule::default_probability")]
    pub probability: f64,
    /// How often it may still happen; without end if absent.
    #[serde(default)]
    pub count: Option<u64>,
    /// Part of the path, such as `/query`; any if absent.
    #[serde(default)]
    pub path: Option<String>,
    /// HTTP method; any if absent.
    #[serde(default)]
    pub method: Option<String>,
    /// Object that the path or the job names; any if absent.
    #[serde(default)]
    pub object: Option<String>,
    /// Username; any if absent.
    #[serde(default)]
    pub user: Option<String>,
    /// How often it has happened; counted by the sandbox.
    #[serde(default)]
    pub hits: u64,
}

impl Rule {
    fn default_probability() -> f64 {
        1.0
    }

    /// Returns a rule for every call.
    pub fn new(fault: Fault) -> Self {
        Self {
            id: 0,
            fault,
            probability: 1.0,
            count: None,
            path: None,
            method: None,
            object: None,
            user: None,
            hits: 0,
        }
    }
}

/// What a rule is held against.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject<'c> {
    pub(crate) path: &'c str,
    pub(crate) method: &'c str,
    pub(crate) object: &'c str,
    pub(crate) user: &'c str,
}

impl Rule {
    fn concerns(&self, subject: Subject<'_>) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|one| one.eq_ignore_ascii_case(found));
        let object = self.object.as_ref().is_none_or(|wanted| {
            wanted.eq_ignore_ascii_case(subject.object)
                || subject.path.split(['/', '?']).any(|step| step.eq_ignore_ascii_case(wanted))
        });
        self.path.as_ref().is_none_or(|part| subject.path.contains(part.as_str()))
            && is(&self.method, subject.method)
            && is(&self.user, subject.user)
            && object
    }
}

/// The rules of an org, and the dice that decide; the same seed rolls the same.
#[derive(Debug)]
pub(crate) struct Chaos {
    rules: Mutex<Vec<Rule>>,
    dice: AtomicU64,
    made: AtomicU64,
}

impl Default for Chaos {
    fn default() -> Self {
        Self { rules: Mutex::default(), dice: AtomicU64::new(1), made: AtomicU64::new(0) }
    }
}

impl Chaos {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule and returns its number.
    pub(crate) fn add(&self, rule: Rule) -> u64 {
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        self.rules().push(Rule { id, hits: 0, ..rule });
        id
    }

    /// Adds a rule in the place of those with the same fault.
    pub(crate) fn replace(&self, rule: Rule) {
        self.rules().retain(|known| known.fault != rule.fault);
        self.add(rule);
    }

    /// Removes a rule, or all.
    pub(crate) fn remove(&self, id: Option<u64>) -> bool {
        let mut rules = self.rules();
        let before = rules.len();
        rules.retain(|rule| id.is_some_and(|id| rule.id != id));
        rules.len() < before
    }

    pub(crate) fn list(&self) -> Vec<Rule> {
        self.rules().clone()
    }

    /// Begins the dice anew.
    pub(crate) fn seed(&self, seed: u64) {
        self.dice.store(seed, Ordering::Relaxed);
    }

    /// Rolls a number from 0 up to 1. Source of the mixing: SplitMix64.
    pub(crate) fn roll(&self) -> f64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut mixed = self.dice.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the first fault of the wanted sort that strikes, and counts it.
    pub(crate) fn strike(&self, subject: Subject<'_>, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut rules = self.rules();
        for rule in rules.iter_mut().filter(|rule| wanted(&rule.fault) && rule.concerns(subject)) {
            if rule.count == Some(0) || rule.probability < 1.0 && self.roll() >= rule.probability {
                continue;
            }
            rule.count = rule.count.map(|left| left - 1);
            rule.hits += 1;
            return Some(rule.fault.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_strike_whom_they_concern_and_as_often_as_they_say() {
        let chaos = Chaos::default();
        let path = Some("/query".to_owned());
        chaos.add(Rule { count: Some(2), path, ..Rule::new(Fault::Throttle { concurrent: false }) });
        let query = Subject { path: "/services/data/v66.0/query?q=x", method: "GET", ..Subject::default() };
        let other = Subject { path: "/services/data/v66.0/limits", method: "GET", ..Subject::default() };
        let strikes = |subject| chaos.strike(subject, |_| true).is_some();
        assert_eq!([strikes(other), strikes(query), strikes(query), strikes(query)], [false, true, true, false]);
        assert_eq!(chaos.list()[0].hits, 2);
    }

    #[test]
    fn the_same_seed_rolls_the_same() {
        let rolls = |seed: u64| {
            let chaos = Chaos::default();
            chaos.seed(seed);
            chaos.add(Rule { probability: 0.3, ..Rule::new(Fault::Lock) });
            (0..1000).map(|_| chaos.strike(Subject::default(), |_| true).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        let share = rolls(7).iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&share), "{share}");
    }
}
