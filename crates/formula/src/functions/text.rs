//! Functions of texts. Places and lengths count characters, from 1.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use super::Function;
use crate::evaluate::{Found, made, no_value};
use crate::value::Value;

/// Longest text that a function makes. Source: Salesforce Help, "Formula Field Limits and Restrictions".
const LONGEST: usize = 3_900;
/// What stands for itself in a form.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b' ');

/// Calls a function of texts; `None` for another.
pub(crate) fn call(function: Function, values: &[Value]) -> Option<Found> {
    let text = |at: usize| values.get(at).map_or("", Value::text);
    let count = |at: usize| values.get(at).and_then(Value::number).and_then(|number| number.trunc().to_i64());
    let length = |at: usize| count(at).unwrap_or_default().clamp(0, 1 << 20) as usize;
    let found = |text: String| Some(made(text));
    let holds = |value: bool| Some(Ok(Value::Boolean(value)));
    let number = |number: usize| Some(Ok(Value::Number(Decimal::from(number))));
    match function {
        Function::Ascii => Some(Ok(match text(0).chars().next() {
            Some(c) => Value::Number(Decimal::from(u32::from(c))),
            None => Value::Blank,
        })),
        Function::Begins => holds(text(0).starts_with(text(1))),
        Function::Br => found("<br>".to_owned()),
        Function::CaseSafeId => found(safe_id(text(0))),
        Function::Chr => Some(match count(0).map(|code| u32::try_from(code).ok().and_then(char::from_u32)) {
            Some(Some(c)) => Ok(Value::Text(c.to_string())),
            Some(None) => no_value("there is no such character"),
            None => Ok(Value::Blank),
        }),
        Function::Contains => holds(text(0).contains(text(1))),
        Function::Find => number(find(text(0), text(1), values.get(2).map_or(Some(1), |_| count(2)).unwrap_or(1))),
        Function::HtmlEncode => found(html(text(0))),
        Function::Hyperlink => {
            let target = if text(2).is_empty() { "_blank" } else { text(2) };
            found(format!("<a href=\"{}\" target=\"{}\">{}</a>", html(text(0)), html(target), html(text(1))))
        }
        Function::Image => {
            let size =
                |name: &str, at: usize| count(at).map(|pixels| format!("{name}:{pixels}px; ")).unwrap_or_default();
            let style = format!("{}{}", size("height", 2), size("width", 3));
            let style = if style.is_empty() { style } else { format!(" style=\"{}\"", style.trim_end()) };
            found(format!("<img src=\"{}\" alt=\"{}\"{style} border=\"0\"/>", html(text(0)), html(text(1))))
        }
        Function::Includes => holds(text(0).split(';').any(|one| one.trim() == text(1))),
        Function::InitCap => found(capitals(text(0))),
        Function::IsNumber => holds(value(text(0)).is_some()),
        Function::JsEncode => found(script(text(0))),
        Function::JsInHtmlEncode => found(html(&script(text(0)))),
        Function::Left => found(text(0).chars().take(length(1)).collect()),
        Function::Len => number(text(0).chars().count()),
        Function::Lower => found(text(0).to_lowercase()),
        Function::Lpad | Function::Rpad => {
            let with = if values.len() > 2 { text(2) } else { " " };
            found(padded(text(0), length(1).min(LONGEST), with, function == Function::Lpad))
        }
        Function::Mid => {
            let skipped = count(1).unwrap_or_default().max(1) as usize - 1;
            found(text(0).chars().skip(skipped).take(length(2)).collect())
        }
        Function::PicklistCount => number(text(0).split(';').filter(|one| !one.trim().is_empty()).count()),
        Function::Regex => Some(match fancy_regex::Regex::new(&format!("^(?:{})$", text(1))) {
            Ok(pattern) => matches(text(0), &pattern),
            Err(error) => no_value(format!("the pattern cannot be read: {error}")),
        }),
        Function::Reverse => found(text(0).chars().rev().collect()),
        Function::Right => {
            let skipped = text(0).chars().count().saturating_sub(length(1));
            found(text(0).chars().skip(skipped).collect())
        }
        Function::Substitute => {
            let replaced = if text(1).is_empty() { text(0).to_owned() } else { text(0).replace(text(1), text(2)) };
            found(replaced)
        }
        Function::Trim => found(text(0).trim_matches(' ').to_owned()),
        Function::Upper => found(text(0).to_uppercase()),
        Function::UrlEncode => found(utf8_percent_encode(text(0), FORM).to_string().replace(' ', "+")),
        Function::Value => Some(match value(text(0)) {
            _ if text(0).is_empty() => Ok(Value::Blank),
            Some(number) => Ok(Value::Number(number)),
            None => no_value(format!("{:?} is no number", text(0))),
        }),
        _ => None,
    }
}

/// True where all of a text is as a pattern says.
pub(crate) fn matches(text: &str, pattern: &fancy_regex::Regex) -> Found {
    match pattern.is_match(text) {
        Ok(found) => Ok(Value::Boolean(found)),
        Err(error) => no_value(format!("the pattern takes too long: {error}")),
    }
}

/// Returns the place of a text in another, from a place on; 0 where it is not there.
fn find(wanted: &str, text: &str, from: i64) -> usize {
    let Ok(from) = usize::try_from(from) else { return 0 };
    if from == 0 || wanted.is_empty() {
        return 0;
    }
    let begin = text.char_indices().nth(from - 1).map_or(text.len(), |(at, _)| at);
    text[begin..].find(wanted).map_or(0, |at| text[..begin + at].chars().count() + 1)
}

/// Reads a number as people write it to machines.
fn value(text: &str) -> Option<Decimal> {
    let text = text.trim();
    text.parse().or_else(|_| Decimal::from_scientific(text)).ok().filter(|_| !text.contains('_'))
}

fn padded(text: &str, length: usize, with: &str, left: bool) -> String {
    let missing = length.saturating_sub(text.chars().count());
    if missing == 0 || with.is_empty() {
        return text.chars().take(length).collect();
    }
    let padding: String = with.chars().cycle().take(missing).collect();
    if left { padding + text } else { text.to_owned() + &padding }
}

fn capitals(text: &str) -> String {
    let mut first = true;
    text.chars()
        .flat_map(|c| {
            let begins = std::mem::replace(&mut first, !c.is_alphanumeric());
            let letters: Vec<char> = if begins { c.to_uppercase().collect() } else { c.to_lowercase().collect() };
            letters
        })
        .collect()
}

fn html(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => encoded.push_str("&amp;"),
            '<' => encoded.push_str("&lt;"),
            '>' => encoded.push_str("&gt;"),
            '"' => encoded.push_str("&quot;"),
            '\'' => encoded.push_str("&#39;"),
            c => encoded.push(c),
        }
    }
    encoded
}

fn script(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => encoded.push_str("\\\\"),
            '\'' => encoded.push_str("\\'"),
            '"' => encoded.push_str("\\\""),
            '\n' => encoded.push_str("\\n"),
            '\r' => encoded.push_str("\\r"),
            '<' => encoded.push_str("\\u003C"),
            '>' => encoded.push_str("\\u003E"),
            c => encoded.push(c),
        }
    }
    encoded
}

/// Returns an id of 15 characters as one of 18: three more say which letters are capitals.
fn safe_id(id: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    if id.len() != 15 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let capitals = id.as_bytes().chunks(5).map(|five| {
        let bits = five.iter().rev().fold(0_usize, |bits, byte| bits << 1 | usize::from(byte.is_ascii_uppercase()));
        char::from(LETTERS[bits])
    });
    id.chars().chain(capitals).collect()
}
