//! Formulas as words: names, texts, numbers and signs, each with its place.

use crate::Error;

/// A word of a formula.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A field, a path of fields, or a function.
    Name(String),
    /// A text, without its quotes.
    Text(String),
    /// A number, as written.
    Number(String),
    /// An operator or a mark.
    Sign(&'static str),
    End,
}

/// Signs, the longer before those that they begin with.
const SIGNS: [&str; 20] =
    ["&&", "||", "==", "!=", "<>", "<=", ">=", "(", ")", ",", "+", "-", "*", "/", "^", "&", "=", "<", ">", "!"];

/// Splits a formula into words with their byte offsets; the last is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Error> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| Error::new(at, "Syntax error. Missing '*/'"))?;
            at += end + 4;
        } else if c == '"' || c == '\'' {
            let (value, length) =
                quoted(rest, c).ok_or_else(|| Error::new(at, format!("Syntax error. Missing {c}")))?;
            tokens.push((Token::Text(value), at));
            at += length;
        } else if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit())) {
            let length = number(rest);
            tokens.push((Token::Number(rest[..length].to_owned()), at));
            at += length;
        } else if c.is_alphabetic() || c == '_' || c == '$' {
            let ends = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | ':'));
            let length = rest.find(ends).unwrap_or(rest.len());
            tokens.push((Token::Name(rest[..length].to_owned()), at));
            at += length;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push((Token::Sign(sign), at));
            at += sign.len();
        } else {
            return Err(Error::new(at, format!("Syntax error. Found '{c}'")));
        }
    }
    tokens.push((Token::End, text.len()));
    Ok(tokens)
}

/// Returns the length of the number that a text begins with; an exponent needs digits.
fn number(text: &str) -> usize {
    let digits = |from: usize| from + text[from..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - from);
    let mut end = digits(0);
    if text[end..].starts_with('.') {
        end = digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let signed = end + 1 + usize::from(text[end + 1..].starts_with(['+', '-']));
        if digits(signed) > signed {
            end = digits(signed);
        }
    }
    end
}

/// Reads a text up to its closing quote, and returns it with the length of all of it.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other @ ('"' | '\'' | '\\') => value.push(other),
                // As in patterns: what is no escape stays.
                other => value.extend(['\\', other]),
            },
            c if c == quote => return Some((value, at + 1)),
            c => value.push(c),
        }
    }
    None
}
