//! Date literals as ranges of days, and days as moments in a time zone.

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use soql::{DateLiteral, DateUnit};

/// Returns the moment at which a day begins in a time zone; where the clocks jump over midnight, the first
/// moment of the day that there is.
pub(crate) fn midnight(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let start = day.and_time(NaiveTime::MIN);
    let local = (0..8)
        .find_map(|quarter| zone.from_local_datetime(&(start + chrono::TimeDelta::minutes(30 * quarter))).earliest());
    local.map_or_else(|| start.and_utc(), |local| local.with_timezone(&Utc))
}

/// Returns the first day of the range and the first day behind it; `fiscal_start` is the first month of the fiscal
/// year, from 1.
pub(crate) fn range(literal: DateLiteral, today: NaiveDate, fiscal_start: u32) -> Option<(NaiveDate, NaiveDate)> {
    let day = |offset: i64| shift_days(today, offset);
    let start = |unit: DateUnit, offset: i64| start(today, unit, offset, fiscal_start);
    Some(match literal {
        DateLiteral::Yesterday => (day(-1)?, today),
        DateLiteral::Today => (today, day(1)?),
        DateLiteral::Tomorrow => (day(1)?, day(2)?),
        DateLiteral::Last90Days => (day(-90)?, day(1)?),
        DateLiteral::Next90Days => (day(1)?, day(91)?),
        DateLiteral::Last(unit) => (start(unit, -1)?, start(unit, 0)?),
        DateLiteral::This(unit) => (start(unit, 0)?, start(unit, 1)?),
        DateLiteral::Next(unit) => (start(unit, 1)?, start(unit, 2)?),
        // Days count from today, which belongs to the last days; greater units leave out the current one.
        DateLiteral::LastN(DateUnit::Day, n) => (day(-i64::from(n))?, day(1)?),
        DateLiteral::NextN(DateUnit::Day, n) => (day(1)?, day(i64::from(n) + 1)?),
        DateLiteral::LastN(unit, n) => (start(unit, -i64::from(n))?, start(unit, 0)?),
        DateLiteral::NextN(unit, n) => (start(unit, 1)?, start(unit, i64::from(n) + 1)?),
        DateLiteral::Ago(unit, n) => (start(unit, -i64::from(n))?, start(unit, 1 - i64::from(n))?),
    })
}

fn shift_days(day: NaiveDate, offset: i64) -> Option<NaiveDate> {
    let days = Days::new(offset.unsigned_abs());
    if offset < 0 { day.checked_sub_days(days) } else { day.checked_add_days(days) }
}

fn shift_months(day: NaiveDate, offset: i64) -> Option<NaiveDate> {
    let months = Months::new(u32::try_from(offset.unsigned_abs()).ok()?);
    if offset < 0 { day.checked_sub_months(months) } else { day.checked_add_months(months) }
}

/// Returns the first day of the unit that lies `offset` units from the one with `today` in it.
fn start(today: NaiveDate, unit: DateUnit, offset: i64, fiscal_start: u32) -> Option<NaiveDate> {
    let first = today.with_day(1)?;
    // Months since the year began whose first month this is.
    let into = |month: u32| i64::from((today.month() + 12 - month) % 12);
    match unit {
        DateUnit::Day => shift_days(today, offset),
        // Weeks begin on Sunday in the default locale.
        DateUnit::Week => {
            let sunday = shift_days(today, -i64::from(today.weekday().num_days_from_sunday()))?;
            shift_days(sunday, offset.checked_mul(7)?)
        }
        DateUnit::Month => shift_months(first, offset),
        DateUnit::Quarter => shift_months(first, offset * 3 - into(1) % 3),
        DateUnit::Year => shift_months(first, offset * 12 - into(1)),
        DateUnit::FiscalQuarter => shift_months(first, offset * 3 - into(fiscal_start) % 3),
        DateUnit::FiscalYear => shift_months(first, offset * 12 - into(fiscal_start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cover_the_days_they_name() {
        let today = "2026-11-23".parse().expect("a day");
        let cases = [
            (DateLiteral::Today, "2026-11-23", "2026-11-24"),
            (DateLiteral::Yesterday, "2026-11-22", "2026-11-23"),
            (DateLiteral::This(DateUnit::Week), "2026-11-22", "2026-11-29"),
            (DateLiteral::Last(DateUnit::Month), "2026-10-01", "2026-11-01"),
            (DateLiteral::This(DateUnit::Quarter), "2026-10-01", "2027-01-01"),
            (DateLiteral::This(DateUnit::FiscalYear), "2026-02-01", "2027-02-01"),
            (DateLiteral::Last(DateUnit::FiscalQuarter), "2026-08-01", "2026-11-01"),
            (DateLiteral::LastN(DateUnit::Day, 3), "2026-11-20", "2026-11-24"),
            (DateLiteral::NextN(DateUnit::Year, 2), "2027-01-01", "2029-01-01"),
            (DateLiteral::Ago(DateUnit::Month, 2), "2026-09-01", "2026-10-01"),
        ];
        for (literal, from, to) in cases {
            let (start, end) = range(literal, today, 2).expect("in range");
            assert_eq!((start.to_string().as_str(), end.to_string().as_str()), (from, to), "{literal}");
        }
        assert_eq!(range(DateLiteral::Ago(DateUnit::Year, u32::MAX), today, 1), None);
    }

    #[test]
    fn a_day_begins_when_the_zone_says() {
        let cases = [
            ("2026-11-23", "America/Los_Angeles", "2026-11-23T08:00:00+00:00"),
            ("2026-07-01", "Europe/Berlin", "2026-06-30T22:00:00+00:00"),
            // The clocks of Cairo jump over midnight.
            ("2026-04-24", "Africa/Cairo", "2026-04-23T22:00:00+00:00"),
        ];
        for (day, zone, moment) in cases {
            let zone: Tz = zone.parse().expect("a zone");
            assert_eq!(midnight(day.parse().expect("a day"), zone).to_rfc3339(), moment, "{day} {zone}");
        }
    }
}
