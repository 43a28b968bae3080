//! Values on their way into the org's tables and out again.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use rusqlite::types::{Value as Sql, ValueRef};
use serde_json::{Number, Value};

use crate::error::{Answered, ApiError};
use crate::id;
use crate::schema::{Field, Kind, Schema};

/// Returns the time as tables hold it: sortable text, UTC, whole seconds.
pub(crate) fn stamp(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// Turns a stored datetime into the form of REST answers.
pub(crate) fn rest_datetime(stored: &str) -> String {
    stored.strip_suffix('Z').map_or_else(|| stored.to_owned(), |time| format!("{time}+0000"))
}

/// Reads a datetime as the API takes it.
pub(crate) fn parse_datetime(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    // An offset without a colon needs milliseconds before it, or no seconds. Source: recorded refusals.
    let plain = if text.contains('.') { "%Y-%m-%dT%H:%M:%S%.f%z" } else { "%Y-%m-%dT%H:%M%z" };
    if let Ok(time) = DateTime::parse_from_str(text, plain) {
        return Some(time.with_timezone(&Utc));
    }
    if let Some(local) = text.strip_suffix('Z') {
        return chrono::NaiveDateTime::parse_from_str(local, "%Y-%m-%dT%H:%M").ok().map(|time| time.and_utc());
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0)).map(|time| time.and_utc())
}

/// Checks `value` against `field` and returns it as the table holds it.
///
/// # Errors
///
/// The org's own refusal for a value of the wrong type, too long, out of range or outside the picklist.
pub(crate) fn coerce(schema: &Schema, field: &Field, value: &Value) -> Answered<Sql> {
    let text = match value {
        Value::Null => return Ok(Sql::Null),
        Value::String(text) => text.as_str(),
        Value::Number(number) => return number_in(field, number),
        Value::Bool(flag) if field.kind == Kind::Boolean => return Ok(Sql::Integer(i64::from(*flag))),
        Value::Bool(flag) if field.kind.textual() => return Ok(Sql::Text(flag.to_string())),
        Value::Bool(flag) => return Err(misfit(field, "VALUE_TRUE", &flag.to_string())),
        Value::Array(_) => return Err(misfit(field, "START_ARRAY", "[")),
        Value::Object(_) => return Err(misfit(field, "START_OBJECT", "{")),
    };
    if text.is_empty() {
        return Ok(Sql::Null);
    }
    match field.kind {
        Kind::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Sql::Integer(1)),
            "false" | "0" => Ok(Sql::Integer(0)),
            _ => Err(misfit(field, "VALUE_STRING", text)),
        },
        kind if kind.numeric() => {
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            number.map_or_else(|| Err(misfit(field, "VALUE_STRING", text)), |number| number_fits(field, number))
        }
        Kind::Date => {
            let day = NaiveDate::parse_from_str(text.get(..10).unwrap_or(text), "%Y-%m-%d");
            match day {
                Ok(day) if text.len() == 10 || parse_datetime(text).is_some() => Ok(Sql::Text(day.to_string())),
                _ => Err(misfit(field, "VALUE_STRING", text)),
            }
        }
        Kind::Datetime => parse_datetime(text)
            .map_or_else(|| Err(misfit(field, "VALUE_STRING", text)), |time| Ok(Sql::Text(stamp(time)))),
        Kind::Time => {
            let time = text.trim_end_matches('Z');
            NaiveTime::parse_from_str(time, "%H:%M:%S%.f")
                .or_else(|_| NaiveTime::parse_from_str(time, "%H:%M"))
                .map(|time| Sql::Text(format!("{}Z", time.format("%H:%M:%S%.3f"))))
                .map_err(|_| misfit(field, "VALUE_STRING", text))
        }
        Kind::Id | Kind::Reference => reference(schema, field, text),
        _ => text_fits(field, text).map(Sql::Text),
    }
}

fn number_in(field: &Field, number: &Number) -> Answered<Sql> {
    match field.kind {
        Kind::Boolean if number.as_i64() == Some(0) || number.as_i64() == Some(1) => {
            Ok(Sql::Integer(number.as_i64().unwrap_or_default()))
        }
        kind if kind.numeric() => number_fits(field, number.as_f64().unwrap_or(f64::NAN)),
        kind if kind.textual() && !matches!(kind, Kind::Id | Kind::Reference) => {
            text_fits(field, &number.to_string()).map(Sql::Text)
        }
        _ => Err(misfit(field, "VALUE_NUMBER_INT", &number.to_string())),
    }
}

fn number_fits(field: &Field, number: f64) -> Answered<Sql> {
    let whole_digits =
        if field.kind == Kind::Int { field.precision } else { field.precision.saturating_sub(field.scale) };
    let scale = 10_f64.powi(field.scale.cast_signed());
    let rounded = if field.scale >= 15 { number } else { (number * scale).round() / scale };
    if !rounded.is_finite() || rounded.abs() >= 10_f64.powi(whole_digits.cast_signed()) {
        return Err(ApiError::on(
            &field.name,
            "NUMBER_OUTSIDE_VALID_RANGE",
            format!("{}: value outside of valid range on numeric field: {number}", field.label),
        ));
    }
    if field.kind == Kind::Int {
        if number.fract() != 0.0 {
            return Err(misfit(field, "VALUE_NUMBER_FLOAT", &number.to_string()));
        }
        return Ok(Sql::Integer(number as i64));
    }
    Ok(Sql::Real(rounded))
}

fn text_fits(field: &Field, text: &str) -> Answered<String> {
    // The platform trims text fields at both ends, long ones excepted.
    let text = if field.kind == Kind::Textarea { text } else { text.trim() };
    if field.length > 0 && text.chars().count() > field.length as usize {
        return Err(ApiError::on(
            &field.name,
            "STRING_TOO_LONG",
            format!("{}: data value too large: {text} (max length={})", field.label, field.length),
        ));
    }
    let known = |text: &str| {
        field
            .values
            .iter()
            .find(|value| value.active && value.value.eq_ignore_ascii_case(text))
            .map(|value| &value.value)
    };
    let outside = |value: &str| {
        ApiError::on(
            &field.name,
            "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
            format!("{}: bad value for restricted picklist field: {value}", field.label),
        )
    };
    match field.kind {
        Kind::Picklist if !field.values.is_empty() => match known(text) {
            Some(value) => Ok(value.clone()),
            None if field.restricted => Err(outside(text)),
            None => Ok(text.to_owned()),
        },
        Kind::Multipicklist => {
            let chosen = field.in_order(text);
            match chosen.split(';').find(|value| known(value).is_none()) {
                Some(stranger) if field.restricted => Err(outside(stranger)),
                _ => Ok(chosen),
            }
        }
        Kind::Email => {
            let plausible = text.split_once('@').is_some_and(|(name, host)| {
                !name.is_empty() && host.contains('.') && !host.contains('@') && !text.contains(char::is_whitespace)
            });
            if plausible {
                Ok(text.to_owned())
            } else {
                let message = format!("{}: invalid email address: {text}", field.label);
                Err(ApiError::on(&field.name, "INVALID_EMAIL_ADDRESS", message))
            }
        }
        _ => Ok(text.to_owned()),
    }
}

fn reference(schema: &Schema, field: &Field, text: &str) -> Answered<Sql> {
    let wrong = || {
        let message = format!("{}: id value of incorrect type: {text}", field.label);
        ApiError::on(&field.name, "MALFORMED_ID", message)
    };
    let full = id::normal(text).ok_or_else(wrong)?;
    let object = schema.by_id(&full).ok_or_else(wrong)?;
    if !field.targets.is_empty() && !field.targets.contains(&object.name) {
        return Err(wrong());
    }
    Ok(Sql::Text(full))
}

fn misfit(field: &Field, token: &str, text: &str) -> ApiError {
    let kind = if field.kind == Kind::Datetime { "datetime" } else { field.kind.word() };
    let message = if token.starts_with("START_") {
        format!("Cannot deserialize instance of {kind} from {token} value {text} at [line:1, column:1]")
    } else {
        format!(
            "Cannot deserialize instance of {kind} from {token} value {text} or request may be missing a required field \
             at [line:1, column:1]"
        )
    };
    ApiError::on(&field.name, "JSON_PARSER_ERROR", message)
}

/// Returns a stored value as JSON.
pub(crate) fn json(kind: Kind, value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) if kind == Kind::Boolean => Value::Bool(number != 0),
        ValueRef::Integer(number) if matches!(kind, Kind::Double | Kind::Currency | Kind::Percent) => {
            real(number as f64)
        }
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) if kind == Kind::Int && number.fract() == 0.0 => Value::from(number as i64),
        ValueRef::Real(number) => real(number),
        ValueRef::Text(text) => {
            let text = String::from_utf8_lossy(text);
            Value::String(if kind == Kind::Datetime { rest_datetime(&text) } else { text.into_owned() })
        }
        ValueRef::Blob(_) => Value::Null,
    }
}

fn real(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Appends a stored value as the text of a CSV cell.
pub(crate) fn csv_text(kind: Kind, value: ValueRef<'_>, cell: &mut Vec<u8>) {
    use std::io::Write as _;
    let written = match value {
        ValueRef::Null | ValueRef::Blob(_) => Ok(()),
        ValueRef::Integer(number) if kind == Kind::Boolean => {
            cell.write_all(if number == 0 { b"false" } else { b"true" })
        }
        ValueRef::Integer(number) => write!(cell, "{number}"),
        ValueRef::Real(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            if kind == Kind::Int {
                write!(cell, "{number:.0}")
            } else {
                write!(cell, "{number:.1}")
            }
        }
        ValueRef::Real(number) => write!(cell, "{number}"),
        ValueRef::Text(text) => cell.write_all(text),
    };
    debug_assert!(written.is_ok(), "a vector takes every byte");
}

/// Returns the current time of the org in the form of job and event bodies.
pub(crate) fn json_time(time: DateTime<Utc>) -> String {
    rest_datetime(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(object: &str, name: &str) -> Field {
        let schema = Schema::standard();
        schema.object(object).and_then(|object| object.field(name)).expect("a standard field").clone()
    }

    #[test]
    fn values_are_checked_as_the_org_checks_them() {
        let schema = Schema::standard();
        let cases: [(&str, &str, Value, Result<Sql, &str>); 15] = [
            ("Account", "Name", json!("  Acme "), Ok(Sql::Text("Acme".into()))),
            ("Account", "Name", json!(""), Ok(Sql::Null)),
            ("Account", "Name", json!("x".repeat(256)), Err("STRING_TOO_LONG")),
            ("Account", "Name", json!("\u{1f6b2}".repeat(255)), Ok(Sql::Text("\u{1f6b2}".repeat(255)))),
            ("Account", "Name", json!({"a": 1}), Err("JSON_PARSER_ERROR")),
            ("Account", "AnnualRevenue", json!("12.6"), Ok(Sql::Real(13.0))),
            ("Account", "AnnualRevenue", json!(1e18), Err("NUMBER_OUTSIDE_VALID_RANGE")),
            ("Account", "NumberOfEmployees", json!(12), Ok(Sql::Integer(12))),
            ("Account", "NumberOfEmployees", json!("many"), Err("JSON_PARSER_ERROR")),
            ("Contact", "Email", json!("nobody"), Err("INVALID_EMAIL_ADDRESS")),
            ("Contact", "Birthdate", json!("2001-02-29"), Err("JSON_PARSER_ERROR")),
            ("Contact", "AccountId", json!("003000000000001"), Err("MALFORMED_ID")),
            ("Contact", "DoNotCall", json!("TRUE"), Ok(Sql::Integer(1))),
            ("Event", "ShowAs", json!("busy"), Ok(Sql::Text("Busy".into()))),
            ("Event", "ShowAs", json!("Asleep"), Err("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST")),
        ];
        for (object, name, value, expected) in cases {
            let found = coerce(&schema, &field(object, name), &value).map_err(|error| error.code);
            assert_eq!(found, expected.map_err(str::to_owned), "{object}.{name} = {value}");
        }
    }

    #[test]
    fn datetimes_are_read_in_every_documented_form() {
        for text in
            ["2026-05-05T12:00:00+02:00", "2026-05-05T10:00:00Z", "2026-05-05T10:00:00.000+0000", "2026-05-05T10:00Z"]
        {
            assert_eq!(parse_datetime(text).map(stamp).as_deref(), Some("2026-05-05T10:00:00.000Z"), "{text}");
        }
        for text in ["yesterday", "2026-05-05T12:00:00", "2026-05-05T12:00:00+0000", "2026-02-30T12:00:00Z"] {
            assert_eq!(parse_datetime(text), None, "{text}");
        }
    }
}
