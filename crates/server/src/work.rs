//! What the server asks of the project that it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::Class;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use state::{Files, Link};
use tokio_util::sync::CancellationToken;

use crate::alerts::Alerts;
use crate::look::{Answer, Capture, Connected, Fields, Mapped, Tried};
use crate::scheduler::Plan;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// Why, a line for each thing that is wrong; what stands in a file has file, line and column.
    pub text: String,
    /// What can be done about it.
    pub class: Class,
}

/// How a run is to be that somebody asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunWanted {
    /// Read everything, not only what changed.
    pub full: bool,
    /// Go on where a brake would stop a two-way sync, or `drift: stop` any.
    pub force: bool,
    /// Try all dead letters of the sync again.
    pub replay: bool,
    /// Write only the first so many records; the checkpoint stays where it is.
    #[schemars(range(min = 1))]
    pub pilot: Option<u64>,
    /// Write only records for which this holds, too: a condition in the source's language. The checkpoint stays where it is.
    #[serde(rename = "where")]
    pub filter: Option<String>,
}

impl RunWanted {
    /// True where only some records are wanted.
    pub fn is_slice(&self) -> bool {
        self.pilot.is_some() || self.filter.is_some()
    }

    /// Says what makes no sense of it.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        if self.pilot == Some(0) {
            return Some("`pilot` is 0, and no record would be written");
        }
        (self.full && self.is_slice())
            .then_some("`full` reads everything, and `pilot` and `where` a slice: say one of them")
    }
}

/// How both sides are to be compared, besides what `bridgehead.yaml` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompareWanted {
    /// Then write what is missing or different.
    pub repair: bool,
    /// By how much numbers of a field may differ, and times in seconds.
    pub tolerance: BTreeMap<String, f64>,
    /// Fields that are not compared.
    pub ignore: Vec<String>,
    /// Most records of each kind of difference that are kept as samples.
    pub samples: Option<usize>,
    /// Most differences that are looked at again, and repaired.
    pub looks: Option<usize>,
}

/// How a run is undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Undoing {
    /// Put back also what was changed since.
    pub force: bool,
    /// Only say what would be put back.
    pub dry_run: bool,
}

/// A run or a comparison that is due, or that somebody asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// True where its schedule wants it.
    pub due: bool,
    /// Who asked; `None` for the schedule alone.
    pub actor: Option<String>,
    /// How it runs.
    pub run: RunWanted,
    /// Dead letters that are to be tried again, by their numbers.
    pub letters: BTreeSet<i64>,
    /// How it compares, if it is a comparison.
    pub compare: CompareWanted,
}

impl Asked {
    /// Returns what a schedule wants.
    pub(crate) fn due() -> Self {
        Self { due: true, ..Self::default() }
    }

    /// True where a sync that follows changes does that without stopping.
    pub fn is_plain(&self) -> bool {
        self.run == RunWanted::default() && self.letters.is_empty()
    }

    /// Returns what one run has to do for both who asked.
    pub(crate) fn and(self, other: Self) -> Self {
        // A run of everything that changed has any slice of it, too.
        let slices = self.run.is_slice() && other.run.is_slice();
        let run = RunWanted {
            full: self.run.full || other.run.full,
            force: self.run.force || other.run.force,
            replay: self.run.replay || other.run.replay,
            pilot: other.run.pilot.filter(|_| slices),
            filter: other.run.filter.filter(|_| slices),
        };
        let mut compare = other.compare;
        compare.repair |= self.compare.repair;
        let (due, actor) = (self.due || other.due, other.actor.or(self.actor));
        Self { due, actor, run, letters: &self.letters | &other.letters, compare }
    }
}

/// What becomes of a configuration that is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deploying {
    /// Nothing: it was only checked.
    Check,
    /// It is kept as a version.
    Stage,
    /// It is kept as a version, and put to work.
    #[default]
    Work,
}

/// What came of a configuration that is good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The version that it is kept as, where it is.
    pub version: Option<i64>,
    /// How it differs from the one at work, as a unified diff; empty where it does not.
    pub changes: String,
    /// Conversions of each sync that can lose something.
    pub conversions: BTreeMap<String, Vec<String>>,
}

/// What came of putting back what was written since a version was put to work.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TakenBack {
    /// The runs that were undone, as their undoing reports it.
    pub undone: Vec<engine::Report>,
    /// What could not be undone, and why.
    pub left: Vec<String>,
}

/// Whoever runs syncs, and knows the project.
pub trait Work: Send + Sync + 'static {
    /// Returns what there is to do, by the configuration as it is now.
    fn plan(&self) -> Plan;

    /// Runs a sync to its end, or compares both of its sides, on a thread of its own; returns whether no row is missing. `stop` asks
    /// it to stop at the next checkpoint. A sync whose schedule is [`crate::Schedule::OnChanges`] goes on until then, unless
    /// something is asked of it.
    ///
    /// # Errors
    ///
    /// Why it could not go on, for the log.
    fn run(&self, sync: &str, asked: Asked, stop: CancellationToken) -> Result<bool, String>;

    /// Returns how far a sync is that runs: its rows, and how many there are, as far as that is known.
    fn progress_of(&self, sync: &str) -> Option<(u64, u64)>;

    /// Says what a run of a sync would do.
    ///
    /// # Errors
    ///
    /// Why it could not run.
    fn forecast(&self, sync: &str) -> Result<engine::Forecast, Refused>;

    /// Puts back what a run of a two-way sync wrote, but for what was changed since.
    ///
    /// # Errors
    ///
    /// Why it could not.
    fn undo(&self, run: i64, how: Undoing, actor: &str) -> Result<engine::Report, Refused>;

    /// Puts back what two-way syncs wrote since the version at work was put to work; or only says what that would be.
    ///
    /// # Errors
    ///
    /// Why it could not begin.
    fn take_back(&self, actor: &str, dry_run: bool) -> Result<TakenBack, Refused>;

    /// Returns what is mapped onto what.
    fn mappings(&self) -> Vec<Mapped>;

    /// Returns the text of a mapping's file, as it is at work; `None` where there is no such mapping.
    fn mapping_text(&self, mapping: &str) -> Option<String>;

    /// Checks another text of a mapping against both systems, and says what its syncs would make of some records. Nothing is written.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, with file, line and column where it is in the text.
    fn try_mapping(&self, mapping: &str, text: &str) -> Result<Vec<Tried>, Refused>;

    /// Keeps the configuration with another text of a mapping as a version, which is not put to work yet; returns its number.
    ///
    /// # Errors
    ///
    /// As [`Work::try_mapping`].
    fn keep_mapping(&self, mapping: &str, text: &str, author: &str, reason: &str) -> Result<i64, Refused>;

    /// Checks a configuration against all systems, and keeps it or puts it to work. `actor` does that, in the name of `author`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn deploy(
        &self,
        files: Files,
        actor: &str,
        author: &str,
        reason: &str,
        deploying: Deploying,
    ) -> Result<Deployed, Refused>;

    /// Checks a version that was kept, and puts it to work unless it was only to be checked; `None` where there is no such version.
    /// `actor` does that, in the name of `author`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn put_to_work(
        &self,
        version: i64,
        actor: &str,
        author: &str,
        reason: &str,
        deploying: Deploying,
    ) -> Result<Option<Deployed>, Refused>;

    /// Returns how the project is set up, for people to read: names and values, nothing secret.
    fn settings(&self) -> Vec<(String, String)>;

    /// Returns what people are told of, and where.
    ///
    /// # Errors
    ///
    /// What is wrong with how it is configured; of a project that is served nothing is.
    fn alerts(&self) -> Result<Arc<Alerts>, Refused>;

    /// Returns the two records of a link, of Salesforce and outside, as they are now.
    ///
    /// # Errors
    ///
    /// Why a side can't say.
    fn record(&self, mapping: &str, link: &Link) -> [Result<Fields, String>; 2];

    /// Returns the connections, by name.
    fn connections(&self) -> Vec<Connected>;

    /// Asks a connection what it has, and whether what mappings name of it is as it was.
    ///
    /// # Errors
    ///
    /// Why it can't be used.
    fn try_connection(&self, name: &str) -> Result<Answer, Refused>;

    /// Returns the names of a connection's entities.
    ///
    /// # Errors
    ///
    /// Why it can't say.
    fn entities(&self, connection: &str) -> Result<Vec<String>, Refused>;

    /// Describes an entity of a connection.
    ///
    /// # Errors
    ///
    /// Why it can't say.
    fn entity(&self, connection: &str, entity: &str) -> Result<model::Entity, Refused>;

    /// Says of each sync that has one how its changes are noted outside.
    fn captures(&self) -> Vec<Capture>;

    /// Removes what notes the changes of a sync; returns its name, or `None` where nothing does.
    ///
    /// # Errors
    ///
    /// Why it could not.
    fn drop_capture(&self, sync: &str, actor: &str) -> Result<Option<String>, Refused>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(pilot: u64) -> Asked {
        Asked { run: RunWanted { pilot: Some(pilot), ..RunWanted::default() }, ..Asked::default() }
    }

    #[test]
    fn one_run_does_for_both_who_asked() {
        assert_eq!(slice(5).and(slice(7)).run.pilot, Some(7), "the later slice");
        assert!(!slice(5).and(Asked::due()).run.is_slice(), "one of them wants everything that changed");
        assert!(!Asked::due().and(slice(5)).run.is_slice());
        let full = Asked { run: RunWanted { full: true, ..RunWanted::default() }, ..Asked::default() };
        let one = Asked { letters: [1].into(), actor: Some("ada".to_owned()), ..Asked::default() };
        let both = full.and(one.clone()).and(Asked { letters: [2].into(), ..Asked::default() });
        assert!(both.run.full && !both.is_plain());
        assert_eq!((both.letters, both.actor.as_deref()), ([1, 2].into(), Some("ada")));
        assert!(!one.is_plain() && Asked::default().is_plain());
    }
}
