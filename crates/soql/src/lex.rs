//! Text to tokens.

use crate::Error;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A word, with its dots: `Account.Name`, `SELECT`, `LAST_N_DAYS`.
    Word,
    /// A number, sign included.
    Number,
    /// A quoted text, unescaped.
    Text(String),
    /// `2026-05-05`
    Date,
    /// `2026-05-05T10:00:00Z`
    DateTime,
    /// `15:04:05.000Z`
    Time,
    /// Punctuation and operators.
    Symbol,
    /// Nothing more.
    End,
}

/// A piece of the text.
#[derive(Debug, Clone)]
pub(crate) struct Token<'t> {
    pub(crate) kind: Kind,
    pub(crate) text: &'t str,
    pub(crate) offset: usize,
}

/// Splits `text` into tokens; the last is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'\'' => {
                let (value, end) = quoted(text, at)?;
                at = end;
                Kind::Text(value)
            }
            b'0'..=b'9' => {
                at = number_end(bytes, at);
                shape(&text[start..at])
            }
            b'+' | b'-' if bytes.get(at + 1).is_some_and(|b| b.is_ascii_digit() || *b == b'.') => {
                at = number_end(bytes, at + 1);
                Kind::Number
            }
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                at = number_end(bytes, at + 1);
                Kind::Number
            }
            b if b.is_ascii_alphabetic() || b == b'_' => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || matches!(bytes[at], b'_' | b'.')) {
                    at += 1;
                }
                Kind::Word
            }
            b'<' | b'>' | b'!' => {
                at += 1;
                if matches!((bytes[start], bytes.get(at)), (_, Some(b'=')) | (b'<', Some(b'>'))) {
                    at += 1;
                }
                Kind::Symbol
            }
            b'=' | b'(' | b')' | b',' | b':' => {
                at += 1;
                Kind::Symbol
            }
            _ => {
                let wrong = text[at..].chars().next().unwrap_or_default();
                let (row, column) = crate::row_column(text, at);
                return Err(Error {
                    offset: at,
                    message: format!("line {row}:{} no viable alternative at character '{wrong}'", column - 1),
                });
            }
        };
        tokens.push(Token { kind, text: &text[start..at], offset: start });
    }
    tokens.push(Token { kind: Kind::End, text: "<EOF>", offset: text.len() });
    Ok(tokens)
}

/// Returns the end of a number, date, datetime or time that starts at `at`.
fn number_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at;
    while end < bytes.len() {
        let keep = match bytes[end] {
            b'0'..=b'9' | b'.' | b'T' | b'Z' | b't' | b'z' => true,
            b'-' | b'+' => end - at >= 4,
            b':' => bytes.get(end + 1).is_some_and(u8::is_ascii_digit),
            _ => false,
        };
        if !keep {
            break;
        }
        end += 1;
    }
    end
}

/// Tells dates and times from numbers.
fn shape(text: &str) -> Kind {
    let bytes = text.as_bytes();
    if bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-' {
        if bytes.len() == 10 { Kind::Date } else { Kind::DateTime }
    } else if bytes.contains(&b':') {
        Kind::Time
    } else {
        Kind::Number
    }
}

/// Reads a quoted text that starts at `start`; returns its value and the offset behind it.
fn quoted(text: &str, start: usize) -> Result<(String, usize), Error> {
    let mut value = String::new();
    let mut chars = text[start + 1..].char_indices();
    let fail = |at: usize, message: &str| Error { offset: start + 1 + at, message: message.to_owned() };
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Ok((value, start + 1 + at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n' | 'N')) => value.push('\n'),
                Some((_, 'r' | 'R')) => value.push('\r'),
                Some((_, 't' | 'T')) => value.push('\t'),
                Some((_, 'b' | 'B')) => value.push('\u{8}'),
                Some((_, 'f' | 'F')) => value.push('\u{c}'),
                Some((_, plain @ ('"' | '\'' | '\\'))) => value.push(plain),
                // A wildcard that stands for itself; only LIKE looks at the backslash.
                Some((_, wildcard @ ('_' | '%'))) => value.extend(['\\', wildcard]),
                Some((at, 'u')) => {
                    let digits = text.get(start + 2 + at..start + 6 + at).unwrap_or_default();
                    let unicode = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                    value.push(unicode.ok_or_else(|| fail(at, "Illegal unicode escape in string literal"))?);
                    for _ in 0..4 {
                        chars.next();
                    }
                }
                Some((at, other)) => {
                    return Err(fail(
                        at,
                        &format!(
                            "Invalid string literal '\\{other}'. Illegal character sequence '\\{other}' in string literal."
                        ),
                    ));
                }
                None => break,
            },
            other => value.push(other),
        }
    }
    Err(fail(text.len() - start - 1, "unterminated string literal"))
}
