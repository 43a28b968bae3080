//! When a sync runs next: by interval, by cron in a time zone, behind another sync, or all the time. Nothing here looks at a clock.

use std::str::FromStr as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a sync runs, as it is written in the project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Every so often: a number with s, m, h or d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// At the times of a cron pattern of five fields, or six with seconds first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of the pattern, such as Europe/Berlin; UTC if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whenever another sync ran well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// All the time: it is told of changes as they happen, and writes them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Event>,
    /// What becomes of a time that was missed because nothing ran then.
    #[serde(default)]
    pub missed: Missed,
}

/// What lets a sync write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Changes of its records, as the systems tell of them.
    Changes,
}

/// What becomes of times that were missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// One run makes up for all of them, at once.
    #[default]
    RunOnce,
    /// The next time is waited for.
    Skip,
}

/// When a sync runs.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Every so often.
    Every(TimeDelta),
    /// At the times of a pattern.
    Cron(Box<Cron>, Tz),
    /// Whenever this sync ran well.
    After(String),
    /// All the time; where that ended, again after [`AGAIN`].
    OnChanges,
}

/// The pause before changes are followed again, where that could not go on.
const AGAIN: TimeDelta = TimeDelta::seconds(10);

/// Shortest interval.
const SHORTEST: Duration = Duration::from_secs(1);
/// A time this late was missed: the program was not there to keep it.
const LATE: TimeDelta = TimeDelta::seconds(60);

impl ScheduleConfig {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as the end of a sentence about it.
    pub fn read(&self) -> Result<Schedule, String> {
        let Self { every, cron, zone, after, on, .. } = self;
        if zone.is_some() && cron.is_none() {
            return Err("`zone` is for a schedule with `cron`".to_owned());
        }
        match (every, cron, after, on) {
            (Some(every), None, None, None) => interval("every", every).map(Schedule::Every),
            (None, Some(pattern), None, None) => {
                let zone = zone.as_deref().unwrap_or("UTC");
                let zone: Tz =
                    zone.parse().map_err(|_| format!("{zone:?} is no time zone; write it as Europe/Berlin"))?;
                let cron = croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Optional).build();
                let cron =
                    cron.parse(pattern).map_err(|error| format!("`cron: {pattern:?}` can't be read: {error}"))?;
                // A pattern such as 30 February never comes.
                let schedule = Schedule::Cron(Box::new(cron), zone);
                match schedule.next(DateTime::UNIX_EPOCH) {
                    Some(_) => Ok(schedule),
                    None => Err(format!("`cron: {pattern:?}` never comes")),
                }
            }
            (None, None, Some(other), None) => Ok(Schedule::After(other.clone())),
            (None, None, None, Some(Event::Changes)) => Ok(Schedule::OnChanges),
            _ => Err("a schedule has one of `every`, `cron`, `after` and `on`".to_owned()),
        }
    }
}

/// Reads an interval that stands under this name.
pub(crate) fn interval(name: &str, text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("`{name}: {text:?}` is no interval; write it as 30s, 15m, 6h or 1d");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number = u64::from_str(digits).map_err(|_| wrong())?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let interval = Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?);
    if interval < SHORTEST { Err(wrong()) } else { TimeDelta::from_std(interval).map_err(|_| wrong()) }
}

impl Schedule {
    /// Returns the first time behind `from`; `None` where another sync tells, or no time ever comes.
    pub fn next(&self, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(interval) => from.checked_add_signed(*interval),
            Self::Cron(cron, zone) => {
                let next = cron.find_next_occurrence(&from.with_timezone(zone), false).ok()?;
                Some(next.with_timezone(&Utc))
            }
            Self::After(_) => None,
            Self::OnChanges => from.checked_add_signed(AGAIN),
        }
    }

    /// Returns the first time behind `now` for a sync that was due at `due`: intervals keep their step.
    pub fn behind(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(interval) if due <= now => {
                let steps = (now - due).num_milliseconds() / interval.num_milliseconds().max(1) + 1;
                due.checked_add_signed(TimeDelta::milliseconds(interval.num_milliseconds().checked_mul(steps)?))
            }
            // The clock was set back: what was planned is too far away.
            Self::Every(interval) if due - now > *interval => now.checked_add_signed(*interval),
            Self::Every(_) => Some(due),
            Self::Cron(..) | Self::After(_) | Self::OnChanges => self.next(now),
        }
    }

    /// Returns about how often it comes between two times, both hence; `None` where another sync tells, or changes do.
    pub(crate) fn count(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Option<f64> {
        /// Times that are counted one by one; more come as often as these on average.
        const COUNTED: u32 = 64;
        if matches!(self, Self::After(_) | Self::OnChanges) {
            return None;
        }
        let (mut count, mut at) = (0, from);
        while count < COUNTED {
            match self.next(at) {
                Some(next) if next < until => (at, count) = (next, count + 1),
                _ => return Some(f64::from(count)),
            }
        }
        let part = |span: TimeDelta| span.num_milliseconds() as f64;
        Some(f64::from(count) * part(until - from) / part(at - from))
    }

    /// Returns when a sync runs that was planned for `due`, as the program starts at `now`.
    pub fn at_start(&self, due: Option<DateTime<Utc>>, missed: Missed, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match due {
            _ if matches!(self, Self::OnChanges) => Some(now),
            // The first time an interval begins at once.
            None if matches!(self, Self::Every(_)) => Some(now),
            None => self.next(now),
            Some(due) if due <= now && now - due > LATE && missed == Missed::Skip => self.behind(due, now),
            Some(due) if due <= now => Some(due),
            Some(due) => self.behind(now, now).map(|next| next.min(due)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: [Option<&str>; 4]) -> ScheduleConfig {
        let [every, cron, zone, after] = yaml.map(|text| text.map(str::to_owned));
        ScheduleConfig { every, cron, zone, after, on: None, missed: Missed::RunOnce }
    }

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn a_nightly_run_comes_once_a_day_through_both_changes_of_the_clock() {
        // 02:30 is skipped on 28 March 2027 in Berlin, and comes twice on 31 October.
        let schedule = config([None, Some("30 2 * * *"), Some("Europe/Berlin"), None]).read().unwrap();
        let mut now = at("2027-03-26T12:00:00Z");
        let mut days = std::collections::BTreeMap::new();
        while now < at("2027-11-05T00:00:00Z") {
            now = schedule.next(now).unwrap();
            let local = now.with_timezone(&chrono_tz::Europe::Berlin);
            *days.entry(local.date_naive()).or_insert(0) += 1;
        }
        assert!(
            days.values().all(|count| *count == 1),
            "{:?}",
            days.iter().filter(|(_, count)| **count != 1).collect::<Vec<_>>()
        );
        assert_eq!(days.len(), 224, "no day is left out");
    }

    #[test]
    fn intervals_keep_their_step_and_mind_clocks_that_are_set() {
        let schedule = config([Some("15m"), None, None, None]).read().unwrap();
        let due = at("2027-01-01T10:00:00Z");
        assert_eq!(schedule.behind(due, at("2027-01-01T10:00:01Z")), Some(at("2027-01-01T10:15:00Z")));
        assert_eq!(
            schedule.behind(due, at("2027-01-01T11:07:00Z")),
            Some(at("2027-01-01T11:15:00Z")),
            "four were missed"
        );
        assert_eq!(
            schedule.behind(due, at("2026-01-01T00:00:00Z")),
            Some(at("2026-01-01T00:15:00Z")),
            "set back a year"
        );
        assert_eq!(schedule.behind(due, at("2027-01-01T09:50:00Z")), Some(due));
    }

    #[test]
    fn the_times_of_a_day_are_counted() {
        let count = |every, cron| {
            let schedule = config([every, cron, None, None]).read().unwrap();
            schedule.count(at("2027-01-01T00:00:00Z"), at("2027-01-02T00:00:00Z")).unwrap()
        };
        assert!((count(Some("1s"), None) - 86_400.0).abs() < 1.0);
        assert!((count(None, Some("0 */6 * * *")) - 3.0).abs() < 0.1, "midnight is past");
        assert!((count(Some("2d"), None)).abs() < 0.1);
    }

    #[test]
    fn what_was_missed_runs_once_or_not_at_all() {
        let schedule = config([None, Some("0 * * * *"), None, None]).read().unwrap();
        let (due, now) = (at("2027-01-01T10:00:00Z"), at("2027-01-01T13:30:00Z"));
        assert_eq!(schedule.at_start(Some(due), Missed::RunOnce, now), Some(due));
        assert_eq!(schedule.at_start(Some(due), Missed::Skip, now), Some(at("2027-01-01T14:00:00Z")));
        let just = at("2027-01-01T10:00:30Z");
        assert_eq!(schedule.at_start(Some(due), Missed::Skip, just), Some(due), "a restart is no miss");
        assert_eq!(schedule.at_start(None, Missed::RunOnce, now), Some(at("2027-01-01T14:00:00Z")));
        let far = at("2030-01-01T00:00:00Z");
        assert_eq!(
            schedule.at_start(Some(far), Missed::RunOnce, now),
            Some(at("2027-01-01T14:00:00Z")),
            "the clock was wrong"
        );
    }

    #[test]
    fn what_can_t_be_read_says_why() {
        let wrong = [
            ([Some("15"), None, None, None], "15m"),
            ([Some("0s"), None, None, None], "no interval"),
            ([Some("99999999999999999999d"), None, None, None], "no interval"),
            ([Some("-1m"), None, None, None], "no interval"),
            ([None, Some("61 * * * *"), None, None], "can't be read"),
            ([None, Some("0 0 30 2 *"), None, None], "never comes"),
            ([None, Some("0 0 * * *"), Some("Berlin"), None], "no time zone"),
            ([Some("1m"), Some("0 0 * * *"), None, None], "one of"),
            ([Some("1m"), None, Some("UTC"), None], "`zone` is for"),
            ([None; 4], "one of"),
        ];
        for (yaml, part) in wrong {
            let error = config(yaml).read().unwrap_err();
            assert!(error.contains(part), "{yaml:?}: {error}");
        }
        assert!(matches!(config([None, None, None, Some("a")]).read(), Ok(Schedule::After(other)) if other == "a"));
    }
}
