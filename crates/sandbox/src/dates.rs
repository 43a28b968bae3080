//! Date literals as ranges of time. The running user's time zone is UTC.

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, Utc};
use soql::{DateLiteral, DateUnit};

/// Returns the first day of the range and the first day behind it.
pub(crate) fn range(literal: DateLiteral, now: DateTime<Utc>) -> Option<(NaiveDate, NaiveDate)> {
    let today = now.date_naive();
    let day = |offset: i64| shift_days(today, offset);
    Some(match literal {
        DateLiteral::Yesterday => (day(-1)?, today),
        DateLiteral::Today => (today, day(1)?),
        DateLiteral::Tomorrow => (day(1)?, day(2)?),
        DateLiteral::Last90Days => (day(-89)?, day(1)?),
        DateLiteral::Next90Days => (day(1)?, day(91)?),
        DateLiteral::Last(unit) => (start(today, unit, -1)?, start(today, unit, 0)?),
        DateLiteral::This(unit) => (start(today, unit, 0)?, start(today, unit, 1)?),
        DateLiteral::Next(unit) => (start(today, unit, 1)?, start(today, unit, 2)?),
        // Days count from today, which belongs to the last days; greater units leave out the current one.
        DateLiteral::LastN(DateUnit::Day, n) => (day(-i64::from(n))?, day(1)?),
        DateLiteral::NextN(DateUnit::Day, n) => (day(1)?, day(i64::from(n) + 1)?),
        DateLiteral::LastN(unit, n) => (start(today, unit, -i64::from(n))?, start(today, unit, 0)?),
        DateLiteral::NextN(unit, n) => (start(today, unit, 1)?, start(today, unit, i64::from(n) + 1)?),
        DateLiteral::Ago(unit, n) => (start(today, unit, -i64::from(n))?, start(today, unit, 1 - i64::from(n))?),
    })
}

fn shift_days(day: NaiveDate, offset: i64) -> Option<NaiveDate> {
    let days = Days::new(offset.unsigned_abs());
    if offset < 0 { day.checked_sub_days(days) } else { day.checked_add_days(days) }
}

/// Returns the first day of the unit that lies `offset` units from the one with `today` in it.
fn start(today: NaiveDate, unit: DateUnit, offset: i64) -> Option<NaiveDate> {
    let months = |months: i64, from: NaiveDate| {
        let step = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
        if months < 0 { from.checked_sub_months(step) } else { from.checked_add_months(step) }
    };
    match unit {
        DateUnit::Day => shift_days(today, offset),
        // Weeks begin on Sunday in the default locale.
        DateUnit::Week => {
            let sunday = shift_days(today, -i64::from(today.weekday().num_days_from_sunday()))?;
            shift_days(sunday, offset * 7)
        }
        DateUnit::Month => months(offset, today.with_day(1)?),
        DateUnit::Quarter | DateUnit::FiscalQuarter => {
            months(offset * 3, today.with_day(1)?.with_month0(today.month0() / 3 * 3)?)
        }
        DateUnit::Year | DateUnit::FiscalYear => months(offset * 12, today.with_day(1)?.with_month(1)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cover_the_days_they_name() {
        let now = "2026-11-23T22:00:00Z".parse().expect("a time");
        let cases = [
            (DateLiteral::Today, "2026-11-23", "2026-11-24"),
            (DateLiteral::Yesterday, "2026-11-22", "2026-11-23"),
            (DateLiteral::This(DateUnit::Week), "2026-11-22", "2026-11-29"),
            (DateLiteral::Last(DateUnit::Month), "2026-10-01", "2026-11-01"),
            (DateLiteral::This(DateUnit::Quarter), "2026-10-01", "2027-01-01"),
            (DateLiteral::LastN(DateUnit::Day, 3), "2026-11-20", "2026-11-24"),
            (DateLiteral::NextN(DateUnit::Year, 2), "2027-01-01", "2029-01-01"),
            (DateLiteral::Ago(DateUnit::Month, 2), "2026-09-01", "2026-10-01"),
        ];
        for (literal, from, to) in cases {
            let (start, end) = range(literal, now).expect("in range");
            assert_eq!((start.to_string().as_str(), end.to_string().as_str()), (from, to), "{literal}");
        }
        assert_eq!(range(DateLiteral::Ago(DateUnit::Year, u32::MAX), now), None);
    }
}
