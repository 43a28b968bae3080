//! Functions of days, moments and times of day.

use chrono::{DateTime, Datelike as _, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _, Utc};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use super::Function;
use crate::evaluate::{Found, no_value};
use crate::value::Value;

/// Calls a function of dates, which are those that are neither of texts nor of numbers.
pub(crate) fn call(function: Function, values: &[Value]) -> Found {
    let number = |number: i64| Ok(Value::Number(Decimal::from(number)));
    match (function, values) {
        (Function::Date, [Value::Number(year), Value::Number(month), Value::Number(day)]) => {
            let part = |part: &Decimal| part.trunc().to_i32();
            let date = part(year).zip(part(month)).zip(part(day)).and_then(|((year, month), day)| {
                NaiveDate::from_ymd_opt(year, month.try_into().ok()?, day.try_into().ok()?)
            });
            date.map_or_else(|| no_value(format!("there is no day {year}-{month}-{day}")), |date| Ok(Value::Date(date)))
        }
        (Function::DateValue, [Value::Text(text)]) => match text.trim().parse() {
            Ok(date) => Ok(Value::Date(date)),
            Err(_) => no_value(format!("{text:?} is no date: YYYY-MM-DD")),
        },
        // By Greenwich: the user's own day may be another. Source: Salesforce Help, "Using Date, Date/Time, and Time Values in
        // Formulas".
        (Function::DateValue, [Value::DateTime(moment)]) => Ok(Value::Date(moment.date_naive())),
        (Function::DateValue, [Value::Date(date)]) => Ok(Value::Date(*date)),
        (Function::DateTimeValue, [Value::Text(text)]) => match moment_of(text.trim()) {
            Some(moment) => Ok(Value::DateTime(moment)),
            None => no_value(format!("{text:?} is no date and time: YYYY-MM-DD HH:MM:SS")),
        },
        (Function::DateTimeValue, [Value::DateTime(moment)]) => Ok(Value::DateTime(*moment)),
        (Function::DateTimeValue, [Value::Date(date)]) => Ok(Value::DateTime(date.and_time(NaiveTime::MIN).and_utc())),
        (Function::TimeValue, [Value::Text(text)]) => match NaiveTime::parse_from_str(text.trim(), "%H:%M:%S%.f") {
            Ok(time) => Ok(Value::Time(time)),
            Err(_) => no_value(format!("{text:?} is no time: HH:MM:SS.MS")),
        },
        (Function::TimeValue, [Value::DateTime(moment)]) => Ok(Value::Time(moment.time())),
        (Function::AddMonths, [day, Value::Blank]) => Ok(day.clone()),
        (Function::AddMonths, [Value::Date(date), Value::Number(months)]) => {
            moved(date.and_time(NaiveTime::MIN), months).map(|moved| Value::Date(moved.date()))
        }
        (Function::AddMonths, [Value::DateTime(moment), Value::Number(months)]) => {
            moved(moment.naive_utc(), months).map(|moved| Value::DateTime(moved.and_utc()))
        }
        (Function::Year, [Value::Date(date)]) => number(date.year().into()),
        (Function::Month, [Value::Date(date)]) => number(date.month().into()),
        (Function::Day, [Value::Date(date)]) => number(date.day().into()),
        (Function::Weekday, [Value::Date(date)]) => number(date.weekday().number_from_sunday().into()),
        (Function::DayOfYear, [Value::Date(date)]) => number(date.ordinal().into()),
        (Function::IsoWeek, [Value::Date(date)]) => number(date.iso_week().week().into()),
        (Function::IsoYear, [Value::Date(date)]) => number(date.iso_week().year().into()),
        (Function::Hour, [Value::Time(time)]) => number(time.hour().into()),
        (Function::Minute, [Value::Time(time)]) => number(time.minute().into()),
        (Function::Second, [Value::Time(time)]) => number(time.second().into()),
        (Function::Millisecond, [Value::Time(time)]) => number((time.nanosecond() / 1_000_000 % 1_000).into()),
        (Function::UnixTimestamp, [Value::DateTime(moment)]) => number(moment.timestamp()),
        (Function::UnixTimestamp, [Value::Date(date)]) => number(date.and_time(NaiveTime::MIN).and_utc().timestamp()),
        (Function::UnixTimestamp, [Value::Time(time)]) => number(time.num_seconds_from_midnight().into()),
        (Function::FromUnixTime, [Value::Number(seconds)]) => {
            match seconds.trunc().to_i64().and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
                Some(moment) => Ok(Value::DateTime(moment)),
                None => no_value("a date is out of range"),
            }
        }
        (Function::FormatDuration, [Value::Number(seconds)]) => duration(seconds, false),
        (Function::FormatDuration, [Value::Number(seconds), days]) => duration(seconds, days.holds()),
        (Function::FormatDuration, [Value::DateTime(from), Value::DateTime(to)]) => {
            duration(&Decimal::from((*to - *from).num_seconds().abs()), true)
        }
        _ => Ok(Value::Blank),
    }
}

/// Reads a moment, by Greenwich unless it says otherwise.
fn moment_of(text: &str) -> Option<DateTime<Utc>> {
    let plain = text.strip_suffix('Z').unwrap_or(text);
    let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    let found = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(plain, format).ok());
    found
        .map(|moment| moment.and_utc())
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc()))
}

/// Moves a moment by months: the last day of a month leads to the last of another, as the day behind each leads to the day
/// behind the other.
fn moved(moment: NaiveDateTime, months: &Decimal) -> Result<NaiveDateTime, crate::NoValue> {
    let day = TimeDelta::days(1);
    let months = months.trunc().to_i32();
    let moved = moment.checked_add_signed(day).zip(months).and_then(|(moment, months)| {
        let by = Months::new(months.unsigned_abs());
        let moved = if months < 0 { moment.checked_sub_months(by) } else { moment.checked_add_months(by) };
        moved?.checked_sub_signed(day)
    });
    moved.map_or_else(|| no_value("a date is out of range"), Ok)
}

/// Writes a number of seconds as hours, minutes and seconds, and as days before them.
fn duration(seconds: &Decimal, with_days: bool) -> Found {
    let Some(seconds) = seconds.trunc().abs().to_i64() else { return no_value("a number is too large") };
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    Ok(Value::Text(if with_days {
        format!("{}:{:02}:{minutes:02}:{rest:02}", hours / 24, hours % 24)
    } else {
        format!("{hours:02}:{minutes:02}:{rest:02}")
    }))
}
