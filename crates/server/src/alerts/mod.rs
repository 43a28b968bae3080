//! Alerts: rules about syncs are looked at again and again, people are told once when one begins to hold, and once when it ends.
//!
//! What holds is in the store, with whether it was told: after a restart nothing is told twice, and what could not be
//! delivered is tried again.

mod channel;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use state::{Alert, Store};
use tokio_util::sync::CancellationToken;

pub(crate) use channel::Resolve;
use channel::{Channel, ChannelConfig};

use crate::schedule::interval;
use crate::scheduler::{Handle, Planned};

/// How often the rules are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Alerts as they are written in the project.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// Where alerts go, by name.
    #[serde(default)]
    to: BTreeMap<String, ChannelConfig>,
    /// What people are told of.
    #[serde(default)]
    rules: Vec<RuleConfig>,
    /// The address of the console as people reach it, for links.
    #[serde(default)]
    console: Option<String>,
}

/// A rule as it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    /// What it is about.
    when: When,
    /// How long (`lag`, `missed`: a number with s, m, h or d), or how many (`dead_letters`, `conflicts`), is still good.
    #[serde(default)]
    over: Option<Amount>,
    /// How many API calls have to be left (`budget`).
    #[serde(default)]
    below: Option<u64>,
    /// The syncs; all if none is named.
    #[serde(default)]
    syncs: Vec<String>,
    /// Where it is told.
    to: Vec<String>,
}

/// How long or how many.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Amount {
    Count(u64),
    Span(String),
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The last run could not go on, or rows are missing in it.
    Failure,
    /// No run went well for this long.
    Lag,
    /// A run that was due has not begun for this long.
    Missed,
    /// More dead letters than this wait.
    DeadLetters,
    /// More conflicts than this wait.
    Conflicts,
    /// Fewer API calls than this were left to the org after the last run.
    Budget,
    /// An entity was another at the last run than before.
    Drift,
    /// The last comparison found both sides to differ.
    Difference,
}

impl When {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Failure,
        Self::Lag,
        Self::Missed,
        Self::DeadLetters,
        Self::Conflicts,
        Self::Budget,
        Self::Drift,
        Self::Difference,
    ];

    /// Returns its name, which is that of its runbook.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Lag => "lag",
            Self::Missed => "missed",
            Self::DeadLetters => "dead_letters",
            Self::Conflicts => "conflicts",
            Self::Budget => "budget",
            Self::Drift => "drift",
            Self::Difference => "difference",
        }
    }

    /// Returns what to do about it.
    pub(crate) fn runbook(self) -> &'static str {
        match self {
            Self::Failure => include_str!("../../../../docs/runbooks/failure.md"),
            Self::Lag => include_str!("../../../../docs/runbooks/lag.md"),
            Self::Missed => include_str!("../../../../docs/runbooks/missed.md"),
            Self::DeadLetters => include_str!("../../../../docs/runbooks/dead_letters.md"),
            Self::Conflicts => include_str!("../../../../docs/runbooks/conflicts.md"),
            Self::Budget => include_str!("../../../../docs/runbooks/budget.md"),
            Self::Drift => include_str!("../../../../docs/runbooks/drift.md"),
            Self::Difference => include_str!("../../../../docs/runbooks/difference.md"),
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|when| when.word() == word)
    }
}

/// A rule, with what it goes by.
#[derive(Debug, Clone)]
struct Rule {
    when: When,
    span: TimeDelta,
    count: u64,
    syncs: BTreeSet<String>,
    to: Vec<String>,
}

/// Rules, and where alerts go.
#[derive(Debug, Default)]
pub struct Alerts {
    rules: Vec<Rule>,
    to: BTreeMap<String, Channel>,
    console: Option<String>,
}

impl AlertsConfig {
    /// Reads the rules and opens where alerts go. `known` are the syncs; `resolve` follows references to secrets.
    ///
    /// # Errors
    ///
    /// What is wrong, as a sentence without its beginning.
    pub fn read(&self, known: &[String], resolve: &Resolve<'_>) -> Result<Alerts, String> {
        let mut to = BTreeMap::new();
        for (name, channel) in &self.to {
            let opened = channel.open(resolve).map_err(|what| format!("`alerts`, {name}: {what}"))?;
            to.insert(name.clone(), opened);
        }
        let mut rules = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let read = rule.read(known, &self.to);
            rules.push(read.map_err(|what| format!("`alerts`, rule {} ({}): {what}", at + 1, rule.when.word()))?);
        }
        Ok(Alerts { rules, to, console: self.console.clone() })
    }
}

impl RuleConfig {
    fn read(&self, known: &[String], to: &BTreeMap<String, ChannelConfig>) -> Result<Rule, String> {
        if let Some(sync) = self.syncs.iter().find(|sync| !known.contains(sync)) {
            return Err(format!("there is no sync {sync:?}"));
        }
        if let Some(name) = self.to.iter().find(|name| !to.contains_key(*name)) {
            return Err(format!("`to` names {name:?}, which `alerts.to` does not have"));
        }
        if self.to.is_empty() {
            return Err("`to` names nobody".to_owned());
        }
        let (mut span, mut count) = (TimeDelta::zero(), 0);
        match (self.when, &self.over, self.below) {
            (When::Lag | When::Missed, Some(Amount::Span(text)), None) => {
                span = interval("over", text)?;
            }
            (When::Lag | When::Missed, _, _) => return Err("it needs `over`, such as 15m".to_owned()),
            (When::DeadLetters | When::Conflicts, None, None) => {}
            (When::DeadLetters | When::Conflicts, Some(Amount::Count(over)), None) => count = *over,
            (When::DeadLetters | When::Conflicts, _, _) => return Err("`over` is a number".to_owned()),
            (When::Budget, None, Some(below)) => count = below,
            (When::Budget, _, _) => return Err("it needs `below`, a number of API calls".to_owned()),
            (_, None, None) => {}
            (_, _, _) => return Err("it has neither `over` nor `below`".to_owned()),
        }
        Ok(Rule { when: self.when, span, count, syncs: self.syncs.iter().cloned().collect(), to: self.to.clone() })
    }
}

/// What is known of a sync when rules are looked at.
struct Known<'k> {
    planned: &'k Planned,
    /// Outcome and report of the newest run that ended, and its number.
    run: Option<(i64, String, Value)>,
    /// When a run went well last.
    good: Option<DateTime<Utc>>,
    dead: u64,
    held: u64,
    /// True where the newest comparison found a difference.
    differs: bool,
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl Rule {
    /// Says what is wrong by this rule, if anything is.
    fn holds(&self, known: &Known<'_>, now: DateTime<Utc>) -> Option<String> {
        match self.when {
            When::Failure => {
                if let Some(failed) = &known.planned.failed {
                    return Some(format!(
                        "the last run could not go on: {}",
                        failed.lines().next().unwrap_or_default()
                    ));
                }
                let (run, outcome, _) = known.run.as_ref()?;
                (!["green", "running", "stopped"].contains(&outcome.as_str()))
                    .then(|| format!("run {run} ended {outcome}"))
            }
            When::Lag => {
                let good = known.good?;
                let late = now - good;
                (late > self.span).then(|| format!("no run went well since {}", good.format("%Y-%m-%d %H:%M:%S UTC")))
            }
            When::Missed => {
                let since = known.planned.waiting_since.or(known.planned.next)?;
                let late = known.planned.running_since.is_none() && now - since > self.span;
                late.then(|| format!("it was due at {} and has not begun", since.format("%Y-%m-%d %H:%M:%S UTC")))
            }
            When::DeadLetters => {
                (known.dead > self.count).then(|| counted(known.dead, "dead letter waits", "dead letters wait"))
            }
            When::Conflicts => (known.held > self.count)
                .then(|| counted(known.held, "conflict waits for a decision", "conflicts wait for a decision")),
            When::Budget => {
                let left = known.run.as_ref()?.2["calls_left"].as_u64()?;
                (left < self.count).then(|| format!("{left} API calls were left to the org after the last run"))
            }
            When::Drift => {
                let drift = known.run.as_ref()?.2["drift"].as_array()?;
                let first = drift.first()?.as_str()?;
                let count = counted(drift.len() as u64, "change", "changes");
                Some(format!("{count} of the entities, such as: {first}"))
            }
            When::Difference => known.differs.then(|| "the last comparison found both sides to differ".to_owned()),
        }
    }
}

impl Alerts {
    /// True where nobody is to be told of anything.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the names of where alerts go.
    pub fn channels(&self) -> Vec<&str> {
        self.to.keys().map(String::as_str).collect()
    }

    /// Sends a message that says it is a test.
    ///
    /// # Errors
    ///
    /// Why it could not be delivered.
    pub async fn test(&self, name: &str) -> Result<(), String> {
        let channel = self.to.get(name).ok_or_else(|| format!("there is no {name:?} in `alerts.to`"))?;
        let now = Utc::now().to_rfc3339();
        let text = "this is a test; nothing is wrong".to_owned();
        let alert = Alert { rule: "test".to_owned(), sync: String::new(), since: now, text, told: false };
        channel.send(&message(&[(&alert, true)], self.console.as_deref())).await
    }

    /// Returns what is wrong now.
    fn look(
        &self,
        store: &Store,
        planned: &BTreeMap<String, Planned>,
        now: DateTime<Utc>,
    ) -> state::Result<Vec<Alert>> {
        let (last, letters, held) = (store.last_ended_runs()?, store.letters_by_sync()?, store.held_by_sync()?);
        let good = if self.rules.iter().any(|rule| rule.when == When::Lag) {
            store.last_good_runs()?
        } else {
            BTreeMap::new()
        };
        let differs = store.differing_syncs()?;
        let streams =
            if planned.values().any(|planned| planned.follows) { engine::streams(store, now)? } else { Vec::new() };
        let mut found = Vec::new();
        for (sync, planned) in planned {
            let run = last
                .get(sync)
                .map(|run| (run.id, run.outcome.clone(), serde_json::from_str(&run.body).unwrap_or(Value::Null)));
            let moment = |text: &String| DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc());
            // What is followed is as good as its streams: it has no runs that end.
            let told = streams.iter().filter(|stream| planned.follows && stream.sync == *sync);
            let followed = told.filter_map(|stream| moment(&stream.at)).min();
            let known = Known {
                planned,
                run,
                good: good.get(sync).and_then(moment).max(followed),
                dead: letters.get(sync).map_or(0, |(dead, _)| *dead),
                held: held.get(sync).copied().unwrap_or_default(),
                differs: differs.contains(sync),
            };
            let mut seen = BTreeSet::new();
            for rule in self.rules.iter().filter(|rule| rule.syncs.is_empty() || rule.syncs.contains(sync)) {
                if let Some(text) = rule.holds(&known, now).filter(|_| seen.insert(rule.when)) {
                    let (rule, sync) = (rule.when.word().to_owned(), sync.clone());
                    found.push(Alert { rule, sync, since: now.to_rfc3339(), text, told: false });
                }
            }
        }
        Ok(found)
    }

    /// Looks at the rules once: notes what is new and what is over, and tells people.
    async fn round(&self, store: &Store, planned: BTreeMap<String, Planned>) -> state::Result<()> {
        let known = store.alerts()?;
        if self.rules.is_empty() && known.is_empty() {
            return Ok(());
        }
        let now = self.look(store, &planned, Utc::now())?;
        let is = |alert: &Alert, other: &Alert| alert.rule == other.rule && alert.sync == other.sync;
        let begun: Vec<&Alert> = now.iter().filter(|alert| !known.iter().any(|other| is(alert, other))).collect();
        for alert in &begun {
            store.raise_alert(alert)?;
        }
        // What was not told yet is told now, and what is over is told where its beginning was.
        let untold = known.iter().filter(|alert| !alert.told && now.iter().any(|other| is(alert, other)));
        let tell: Vec<&Alert> = begun.iter().copied().chain(untold).collect();
        let over: Vec<&Alert> = known.iter().filter(|alert| !now.iter().any(|other| is(alert, other))).collect();
        let unsent = self.tell(&tell, &over).await;
        for alert in tell.iter().filter(|alert| !unsent.contains(&(alert.rule.as_str(), alert.sync.as_str()))) {
            store.told_alert(alert)?;
        }
        for alert in over.iter().filter(|alert| !unsent.contains(&(alert.rule.as_str(), alert.sync.as_str()))) {
            store.clear_alert(alert)?;
        }
        Ok(())
    }

    /// Tells people what began and what is over, each channel in one message; returns what could not be told to all whom it
    /// concerns.
    async fn tell<'a>(&self, begun: &[&'a Alert], over: &[&'a Alert]) -> BTreeSet<(&'a str, &'a str)> {
        let mut unsent = BTreeSet::new();
        for (name, channel) in &self.to {
            let concerns = |alert: &Alert| {
                self.rules.iter().any(|rule| {
                    rule.to.contains(name)
                        && rule.when.word() == alert.rule
                        && (rule.syncs.is_empty() || rule.syncs.contains(&alert.sync))
                })
            };
            let begun = begun.iter().map(|alert| (*alert, true));
            let over = over.iter().filter(|alert| alert.told).map(|alert| (*alert, false));
            let told: Vec<(&'a Alert, bool)> = begun.chain(over).filter(|(alert, _)| concerns(alert)).collect();
            if told.is_empty() {
                continue;
            }
            if let Err(why) = channel.send(&message(&told, self.console.as_deref())).await {
                tracing::error!(channel = name, why, "alerts could not be told; they are told again");
                unsent.extend(told.iter().map(|(alert, _)| (alert.rule.as_str(), alert.sync.as_str())));
            }
        }
        unsent
    }
}

/// A message: what it says in one line, in lines of text, and for machines.
struct Message {
    subject: String,
    lines: Vec<String>,
    body: Value,
}

fn message(alerts: &[(&Alert, bool)], console: Option<&str>) -> Message {
    let name = |alert: &Alert| if alert.sync.is_empty() { String::new() } else { format!("{}: ", alert.sync) };
    let runbook = |alert: &Alert| {
        When::of(&alert.rule).map(|when| match console {
            Some(console) => format!("{}/runbooks/{}", console.trim_end_matches('/'), when.word()),
            None => format!("docs/runbooks/{}.md", when.word()),
        })
    };
    let line = |(alert, begun): &(&Alert, bool)| {
        if *begun {
            let book = runbook(alert).map(|book| format!(" \u{2014} what to do: {book}")).unwrap_or_default();
            format!("\u{2717} {}{}{book}", name(alert), alert.text)
        } else {
            format!("\u{2713} {}{} is over", name(alert), alert.rule.replace('_', " "))
        }
    };
    let (begun, over) =
        (alerts.iter().filter(|(_, begun)| *begun).count(), alerts.iter().filter(|(_, begun)| !begun).count());
    let subject = match alerts {
        [(alert, true)] => format!("{}{}", name(alert), alert.text),
        [(alert, false)] => format!("{}{} is over", name(alert), alert.rule.replace('_', " ")),
        _ => [(begun, "began"), (over, "are over")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} alerts {what}"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let shown = |(alert, begun): &(&Alert, bool)| {
        json!({"id": format!("{}/{}/{}", alert.rule, alert.sync, alert.since), "alert": alert.rule, "sync": alert.sync,
               "state": if *begun { "firing" } else { "resolved" }, "since": alert.since, "summary": alert.text,
               "runbook": runbook(alert)})
    };
    Message {
        subject,
        lines: alerts.iter().map(line).collect(),
        body: json!({"alerts": alerts.iter().map(shown).collect::<Vec<_>>()}),
    }
}

/// Looks at rules until `stop`; `alerts` are those of the configuration as it is now.
pub async fn watch(store: Store, scheduler: Handle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // The store is asked a few short questions.
        match scheduler.work().alerts() {
            Ok(alerts) => {
                if let Err(error) = alerts.round(&store, scheduler.planned()).await {
                    tracing::error!(%error, "alerts can't be looked at");
                }
            }
            Err(error) => tracing::error!(%error, "alerts can't be told to anybody"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests;
