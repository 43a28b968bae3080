//! Values as text and back, a column at a time: what CSV, COPY and JSON readers and writers share.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
    Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _};

use crate::Type;

/// Largest number of digits in a decimal column.
const DIGITS: u8 = 38;

/// Builds one column from text, checking each value against the column's type.
#[derive(Debug)]
pub struct Column {
    kind: Type,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Float(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

impl Column {
    /// Returns an empty column.
    pub fn new(kind: Type) -> Self {
        let values = match kind {
            Type::Boolean => Values::Boolean(BooleanBuilder::new()),
            Type::Integer => Values::Integer(Int64Builder::new()),
            Type::Float => Values::Float(Float64Builder::new()),
            Type::Decimal { .. } => Values::Decimal(Decimal128Builder::new().with_data_type(kind.arrow())),
            Type::Text | Type::Json => Values::Text(StringBuilder::new()),
            Type::Date => Values::Date(Date32Builder::new()),
            Type::Time => Values::Time(Time64MicrosecondBuilder::new()),
            Type::Timestamp => {
                Values::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(Type::Timestamp.arrow()))
            }
            Type::Binary => Values::Binary(BinaryBuilder::new()),
        };
        Self { kind, values }
    }

    /// Returns the type of the column.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append_null(),
            Values::Integer(values) => values.append_null(),
            Values::Float(values) => values.append_null(),
            Values::Decimal(values) => values.append_null(),
            Values::Text(values) => values.append_null(),
            Values::Date(values) => values.append_null(),
            Values::Time(values) => values.append_null(),
            Values::Timestamp(values) => values.append_null(),
            Values::Binary(values) => values.append_null(),
        }
    }

    /// Adds a value given as text; adds nothing and returns false when it is none of this type.
    ///
    /// Bytes are given in hexadecimal, after `\x` if the writer likes.
    #[must_use]
    pub fn push(&mut self, text: &str) -> bool {
        let Type::Decimal { precision, scale } = self.kind else { return self.push_plain(text).is_some() };
        let Values::Decimal(values) = &mut self.values else { return false };
        decimal(text, precision, scale).map(|value| values.append_value(value)).is_some()
    }

    fn push_plain(&mut self, text: &str) -> Option<()> {
        match &mut self.values {
            Values::Boolean(values) => values.append_value(boolean(text)?),
            Values::Integer(values) => values.append_value(integer(text)?),
            Values::Float(values) => values.append_value(text.trim().parse().ok()?),
            Values::Text(values) => values.append_value(text),
            Values::Date(values) => values.append_value(date(text)?),
            Values::Time(values) => values.append_value(time(text)?),
            Values::Timestamp(values) => values.append_value(timestamp(text)?),
            Values::Binary(values) => values.append_value(bytes(text)?),
            Values::Decimal(_) => return None,
        }
        Some(())
    }

    /// Adds bytes to a column of bytes; adds nothing and returns false to any other.
    #[must_use]
    pub fn push_bytes(&mut self, bytes: &[u8]) -> bool {
        let Values::Binary(values) = &mut self.values else { return false };
        values.append_value(bytes);
        true
    }

    /// Returns the values added since the last call, as one array.
    pub fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Boolean(values) => Arc::new(values.finish()),
            Values::Integer(values) => Arc::new(values.finish()),
            Values::Float(values) => Arc::new(values.finish()),
            Values::Decimal(values) => Arc::new(values.finish()),
            Values::Text(values) => Arc::new(values.finish()),
            Values::Date(values) => Arc::new(values.finish()),
            Values::Time(values) => Arc::new(values.finish()),
            Values::Timestamp(values) => Arc::new(values.finish()),
            Values::Binary(values) => Arc::new(values.finish()),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "t" | "1" | "TRUE" | "True" => Some(true),
        "false" | "f" | "0" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| i64::try_from(decimal(text, DIGITS, 0)?).ok())
}

/// Reads a decimal, with or without exponent, exactly: a digit that would be lost makes it `None`.
fn decimal(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let text = text.trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for byte in whole.bytes().chain(fraction.bytes()) {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    let mut shift = i32::from(scale) + exponent - i32::try_from(fraction.len()).ok()?;
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return None;
        }
        value /= 10;
        shift += 1;
    }
    if value != 0 {
        value = value.checked_mul(10_i128.checked_pow(u32::try_from(shift.max(0)).ok()?)?)?;
    }
    let limit = 10_i128.checked_pow(u32::from(precision))?;
    (value < limit).then_some(if negative { -value } else { value })
}

fn date(text: &str) -> Option<i32> {
    let day: NaiveDate = text.trim().parse().ok()?;
    i32::try_from(day.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

fn time(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches('Z');
    let time: NaiveTime = text.parse().ok()?;
    Some(i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond()) / 1_000)
}

/// Reads an instant; without a zone it is UTC.
fn timestamp(text: &str) -> Option<i64> {
    let text = text.trim();
    let bytes = text.as_bytes();
    if bytes.len() < 11 {
        return Some(i64::from(date(text)?) * 86_400_000_000);
    }
    let zone = text.get(10..)?.find(['Z', 'z', '+', '-']).map_or(text.len(), |at| at + 10);
    let day: NaiveDate = text.get(..10)?.parse().ok()?;
    let clock: NaiveTime = text.get(11..zone)?.trim().parse().ok()?;
    let local = NaiveDateTime::new(day, clock).and_utc().timestamp_micros();
    Some(local - offset_seconds(&text[zone..])? * 1_000_000)
}

fn offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first() {
        None | Some(b'Z' | b'z') => return Some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize| digits.get(from..from + 2).map_or(Some(0), |two| two.parse::<i64>().ok());
    Some(sign * (part(0)? * 3_600 + part(2)? * 60 + part(4)?))
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x").unwrap_or(text).as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |byte: u8| (byte as char).to_digit(16);
    digits.chunks(2).map(|pair| u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()).collect()
}

/// Writes a value of a column as text: ISO dates, `2026-01-31T12:00:00.000Z`, plain decimals, bytes in
/// hexadecimal. `None` for null, and for a column of a type that Bridgehead does not carry.
pub fn text_of(array: &dyn Array, row: usize) -> Option<Cow<'_, str>> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => Cow::Borrowed(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Cow::Borrowed(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Cow::Borrowed(array.as_string_view().value(row)),
        DataType::Boolean => Cow::Borrowed(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string().into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string().into(),
        DataType::Decimal128(_, _) => array.as_primitive::<Decimal128Type>().value_as_string(row).into(),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            let epoch = NaiveDate::default();
            let span = Days::new(days.unsigned_abs().into());
            let day = if days < 0 { epoch.checked_sub_days(span) } else { epoch.checked_add_days(span) };
            day?.to_string().into()
        }
        DataType::Time64(_) => {
            let micros = array.as_primitive::<Time64MicrosecondType>().value(row);
            let seconds = u32::try_from(micros / 1_000_000).ok()?;
            let nanos = u32::try_from(micros % 1_000_000).ok()? * 1_000;
            let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)?;
            fraction(time.format("%H:%M:%S").to_string(), micros).into()
        }
        DataType::Timestamp(_, _) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let instant = DateTime::from_timestamp_micros(micros)?;
            let mut text = String::with_capacity(27);
            match u32::try_from(instant.year()) {
                Ok(year) if year <= 9999 => {
                    digits(&mut text, year / 100);
                    digits(&mut text, year % 100);
                }
                _ => text.push_str(&instant.format("%Y").to_string()),
            }
            for (before, part) in [('-', instant.month()), ('-', instant.day()), ('T', instant.hour())] {
                text.push(before);
                digits(&mut text, part);
            }
            for part in [instant.minute(), instant.second()] {
                text.push(':');
                digits(&mut text, part);
            }
            let mut text = fraction(text, micros);
            text.push('Z');
            text.into()
        }
        DataType::Binary => {
            let mut text = String::new();
            for byte in array.as_binary::<i32>().value(row) {
                let _ = write!(text, "{byte:02x}");
            }
            text.into()
        }
        _ => return None,
    })
}

/// Adds two digits.
fn digits(text: &mut String, number: u32) {
    text.extend([number / 10, number % 10].map(|digit| char::from(b'0' + digit as u8)));
}

/// Adds the fraction of a second: three digits, or six where three would lose something.
fn fraction(mut text: String, micros: i64) -> String {
    let rest = micros.rem_euclid(1_000_000);
    let _ = if rest % 1_000 == 0 { write!(text, ".{:03}", rest / 1_000) } else { write!(text, ".{rest:06}") };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(kind: Type, text: &str) -> Option<String> {
        let mut column = Column::new(kind);
        column.push(text).then(|| text_of(&column.finish(), 0).expect("a value").into_owned())
    }

    #[test]
    fn values_are_read_and_written() {
        let money = Type::Decimal { precision: 18, scale: 2 };
        let cases = [
            (Type::Boolean, "t", Some("true")),
            (Type::Boolean, "yes", None),
            (Type::Integer, "-12", Some("-12")),
            (Type::Integer, "12.0", Some("12")),
            (Type::Integer, "12.5", None),
            (money, "1.0E7", Some("10000000.00")),
            (money, "-0.5", Some("-0.50")),
            (money, "1.005", None),
            (money, "1.500", Some("1.50")),
            (money, "99999999999999999.00", None),
            (money, "NaN", None),
            (money, "", None),
            (money, "-", None),
            (Type::Date, "1969-12-31", Some("1969-12-31")),
            (Type::Date, "2026-02-30", None),
            (Type::Time, "23:59:59.000Z", Some("23:59:59.000")),
            (Type::Timestamp, "2026-01-31T12:00:00.000+0000", Some("2026-01-31T12:00:00.000Z")),
            (Type::Timestamp, "2026-01-31 12:00:00.000001+05:30", Some("2026-01-31T06:30:00.000001Z")),
            (Type::Timestamp, "2026-01-31", Some("2026-01-31T00:00:00.000Z")),
            (Type::Timestamp, "1960-01-01T00:00:00.500Z", Some("1960-01-01T00:00:00.500Z")),
            (Type::Timestamp, "infinity", None),
            (Type::Binary, "\\x00ff", Some("00ff")),
            (Type::Binary, "0", None),
            (Type::Text, "", Some("")),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(round(kind, text).as_deref(), expected, "{kind} {text:?}");
        }
    }

    #[test]
    fn hostile_text_is_refused_and_never_panics() {
        for text in [
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
            "2026-01-31T\u{e9}",
            "1e999999999",
            "+",
            "2026-01-31T10:00:00+\u{e9}1",
        ] {
            for kind in [
                Type::Integer,
                Type::Date,
                Type::Time,
                Type::Timestamp,
                Type::Binary,
                Type::Decimal { precision: 38, scale: 10 },
            ] {
                assert_eq!(round(kind, text), None, "{kind} {text:?}");
            }
        }
    }
}
