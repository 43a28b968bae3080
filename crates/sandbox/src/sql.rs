//! What the org's database must know besides SQL: how texts compare, and the functions of SOQL.

use std::borrow::Cow;
use std::cmp::Ordering;

use chrono::NaiveDate;
use chrono_tz::Tz;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;

use crate::value::parse_datetime;

/// Mean radius of the earth, in kilometres.
const EARTH_KM: f64 = 6371.0;
/// Kilometres in a mile.
const MILE_KM: f64 = 1.609_344;

/// Makes a connection ready for the org's tables and for compiled queries.
pub(crate) fn equip(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_collation("SFDC", compare)?;
    crate::formulas::equip(connection)?;
    let pure = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_UTF8;
    // LIKE without regard to case in any script; SQLite's own knows ASCII.
    for arguments in [2, 3] {
        connection.create_scalar_function("like", arguments, pure, |call| {
            let pattern = text(call, 0);
            Ok(text(call, 1).map(|value| is_like(&fold(pattern.unwrap_or_default()), &fold(value))))
        })?;
    }
    connection.create_scalar_function("sf_includes", 2, pure, |call| {
        let wanted = text(call, 1).unwrap_or_default();
        Ok(text(call, 0).map(|value| {
            let held: Vec<String> = value.split(';').map(|one| fold(one).into_owned()).collect();
            wanted.split(';').all(|one| held.iter().any(|known| *known == fold(one.trim())))
        }))
    })?;
    connection.create_scalar_function("sf_local", 2, pure, |call| {
        let zone = zone(text(call, 1));
        let time = text(call, 0).and_then(parse_datetime);
        Ok(time.map(|time| time.with_timezone(&zone).format("%Y-%m-%dT%H:%M:%S").to_string()))
    })?;
    connection.create_scalar_function("sf_distance", 5, pure, |call| {
        let number = |at: usize| call.get::<Option<f64>>(at);
        let (Some(a), Some(b), Some(c), Some(d)) = (number(0)?, number(1)?, number(2)?, number(3)?) else {
            return Ok(None);
        };
        let km = haversine_km(a, b, c, d);
        Ok(Some(if text(call, 4) == Some("mi") { km / MILE_KM } else { km }))
    })?;
    connection.create_scalar_function("sf_format", 3, pure, |call| {
        let value = call.get_raw(0);
        Ok(formatted(value, text(call, 1).unwrap_or_default(), zone(text(call, 2))))
    })?;
    // Alike are texts with the same letters and digits.
    connection.create_scalar_function("sf_alike", 2, pure, |call| {
        let plain = |at: usize| {
            let text = text(call, at).unwrap_or_default();
            text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>()
        };
        let wanted = plain(1);
        Ok(!wanted.is_empty() && plain(0) == wanted)
    })?;
    connection.create_scalar_function("sf_matches", -1, pure, |call| {
        let term = text(call, 0).unwrap_or_default();
        let Ok(term) = serde_json::from_str::<crate::search::Term>(term) else { return Ok(false) };
        let texts: Vec<Cow<'_, str>> = (1..call.len()).filter_map(|at| text(call, at)).map(fold).collect();
        Ok(term.holds(&texts))
    })
}

fn text<'c>(call: &'c Context<'_>, at: usize) -> Option<&'c str> {
    call.get_raw(at).as_str_or_null().ok().flatten()
}

fn zone(name: Option<&str>) -> Tz {
    name.and_then(|name| name.parse().ok()).unwrap_or(Tz::UTC)
}

/// Returns a text without its case.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        Cow::Owned(text.to_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// Compares two texts without regard to case.
fn compare(left: &str, right: &str) -> Ordering {
    if left.is_ascii() && right.is_ascii() {
        let lower = |byte: u8| byte.to_ascii_lowercase();
        return left.bytes().map(lower).cmp(right.bytes().map(lower));
    }
    left.chars().flat_map(char::to_lowercase).cmp(right.chars().flat_map(char::to_lowercase))
}

/// Matches a pattern of `%`, `_` and characters behind a backslash; both sides without case.
pub(crate) fn is_like(pattern: &str, value: &str) -> bool {
    /// A step of the pattern.
    enum Step {
        Any,
        One,
        Exactly(char),
    }
    let mut steps = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        steps.push(match c {
            '%' => Step::Any,
            '_' => Step::One,
            '\\' => Step::Exactly(chars.next().unwrap_or('\\')),
            other => Step::Exactly(other),
        });
    }
    let value: Vec<char> = value.chars().collect();
    let (mut step, mut at) = (0, 0);
    // Where to go on after the last `%`, should the rest not fit here.
    let mut retry: Option<(usize, usize)> = None;
    while at < value.len() {
        let fits = match steps.get(step) {
            Some(Step::Any) => {
                retry = Some((step + 1, at));
                step += 1;
                continue;
            }
            Some(Step::One) => true,
            Some(Step::Exactly(c)) => *c == value[at],
            None => false,
        };
        if fits {
            (step, at) = (step + 1, at + 1);
        } else if let Some((back, from)) = retry {
            (step, at) = (back, from + 1);
            retry = Some((back, from + 1));
        } else {
            return false;
        }
    }
    steps[step..].iter().all(|step| matches!(step, Step::Any))
}

fn haversine_km(a: f64, b: f64, c: f64, d: f64) -> f64 {
    let (a, b, c, d) = (a.to_radians(), b.to_radians(), c.to_radians(), d.to_radians());
    let half = ((c - a) / 2.0).sin().powi(2) + a.cos() * c.cos() * ((d - b) / 2.0).sin().powi(2);
    2.0 * EARTH_KM * half.sqrt().min(1.0).asin()
}

/// Returns a value as a person with the locale `en_US` reads it.
fn formatted(value: ValueRef<'_>, kind: &str, zone: Tz) -> Option<String> {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => None,
        ValueRef::Integer(number) if kind == "boolean" => Some((number != 0).to_string()),
        ValueRef::Integer(number) => Some(grouped(number as f64, kind)),
        ValueRef::Real(number) => Some(grouped(number, kind)),
        ValueRef::Text(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            Some(match kind {
                "date" => text
                    .parse::<NaiveDate>()
                    .map_or_else(|_| text.clone().into_owned(), |day| day.format("%-m/%-d/%Y").to_string()),
                "datetime" => parse_datetime(&text).map_or_else(
                    || text.clone().into_owned(),
                    |time| time.with_timezone(&zone).format("%-m/%-d/%Y, %-I:%M %p").to_string(),
                ),
                _ => text.into_owned(),
            })
        }
    }
}

/// Returns a number with commas between its thousands.
fn grouped(number: f64, kind: &str) -> String {
    let plain = if kind == "currency" { format!("{:.2}", number.abs()) } else { format!("{}", number.abs()) };
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        text = format!("{text}.{fraction}");
    }
    match kind {
        "currency" => text.insert(0, '$'),
        "percent" => text.push('%'),
        _ => {}
    }
    if number < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_like_does() {
        let cases = [
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("%b%b%", "abcb", true),
            ("%b%b%", "abc", false),
            ("", "", true),
            ("%", "", true),
            ("50\\%", "50%", true),
            ("50\\%", "500", false),
            ("a\\_c", "abc", false),
        ];
        for (pattern, value, expected) in cases {
            assert_eq!(is_like(pattern, value), expected, "{value} LIKE {pattern}");
        }
    }

    #[test]
    fn texts_compare_without_case_in_any_script() {
        assert_eq!(compare("ÅSA", "åsa"), Ordering::Equal);
        assert_eq!(compare("abc", "ABD"), Ordering::Less);
        assert_eq!(compare("Ab", "aB"), Ordering::Equal);
        assert_eq!(compare("ab", "abc"), Ordering::Less);
    }

    #[test]
    fn numbers_are_written_in_groups() {
        assert_eq!(grouped(1_234_567.5, "currency"), "$1,234,567.50");
        assert_eq!(grouped(-1234.0, "double"), "-1,234");
        assert_eq!(grouped(12.5, "percent"), "12.5%");
    }
}
