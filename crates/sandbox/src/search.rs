//! SOSL and parameterized search. Words are found by looking at every record; there is no index to wait for.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use soql::{Expr, Item, Name, Query, Returning, Search, Source};

use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::query;
use crate::rest::{Answer, Call};
use crate::schema::{Field, Kind, Object};
use crate::sql::{fold, is_like};

/// Most records of a search. Source: SOQL and SOSL Reference, "SOSL limits".
const MAX_RESULTS: usize = 2000;

/// What a search looks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Term {
    /// Words that stand together in one field, without case; `*` and `?` are wildcards.
    Phrase(Vec<String>),
    /// All are found, in one field or several.
    And(Vec<Term>),
    /// At least one is found.
    Or(Vec<Term>),
    /// It is not found.
    Not(Box<Term>),
}

impl Term {
    /// Says whether texts, without case, hold what is looked for.
    pub(crate) fn holds(&self, texts: &[Cow<'_, str>]) -> bool {
        match self {
            Self::Phrase(wanted) => texts.iter().any(|text| {
                let found: Vec<&str> = words(text).collect();
                // An address is found whole as well as by its words.
                (wanted.len() == 1 && is_word(&wanted[0], text))
                    || found
                        .windows(wanted.len())
                        .any(|part| part.iter().zip(wanted).all(|(word, glob)| is_word(glob, word)))
            }),
            Self::And(terms) => terms.iter().all(|term| term.holds(texts)),
            Self::Or(terms) => terms.iter().any(|term| term.holds(texts)),
            Self::Not(term) => !term.holds(texts),
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Matches a word with `*` and `?`.
fn is_word(glob: &str, word: &str) -> bool {
    is_like(&glob.replace('_', "\\_").replace('*', "%").replace('?', "_"), word)
}

/// Reads a search term: words, `"phrases"`, `AND`, `OR`, `AND NOT` and parentheses.
///
/// # Errors
///
/// A term of fewer than two characters, or one that ends too early.
pub(crate) fn parse_term(text: &str) -> Answered<Term> {
    let malformed = |message: &str| ApiError::new(400, "MALFORMED_SEARCH", message);
    let mut pieces = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' | ')' => pieces.push(c.to_string()),
            '"' => {
                let mut phrase = "\"".to_owned();
                let mut closed = false;
                while let Some(c) = chars.next() {
                    match c {
                        '"' => {
                            closed = true;
                            break;
                        }
                        '\\' => phrase.extend(chars.next()),
                        other => phrase.push(other),
                    }
                }
                if !closed {
                    return Err(malformed("expecting a closing quote, found '<EOF>'"));
                }
                pieces.push(phrase);
            }
            first => {
                let mut word = String::new();
                let mut next = Some(first);
                while let Some(c) = next {
                    if c == '\\' {
                        word.extend(chars.next());
                    } else {
                        word.push(c);
                    }
                    next = chars.next_if(|c| !c.is_whitespace() && !['(', ')', '"'].contains(c));
                }
                pieces.push(word);
            }
        }
    }
    // What holds no word, such as the `&` between two names, is not looked for.
    pieces.retain(|piece| {
        matches!(piece.as_str(), "(" | ")") || piece.contains(['*', '?']) || words(piece).next().is_some()
    });
    let letters: usize = pieces.iter().map(|piece| piece.chars().filter(|c| c.is_alphanumeric()).count()).sum();
    if letters < 2 {
        return Err(malformed("search term must be longer than one character"));
    }
    let mut at = 0;
    let term = any_of(&pieces, &mut at, 0).ok_or_else(|| malformed("the search term is not complete"))?;
    if at < pieces.len() { Err(malformed(&format!("unexpected token: '{}'", pieces[at]))) } else { Ok(term) }
}

fn any_of(pieces: &[String], at: &mut usize, depth: usize) -> Option<Term> {
    let mut terms = vec![all_of(pieces, at, depth)?];
    while pieces.get(*at).is_some_and(|piece| piece.eq_ignore_ascii_case("OR")) {
        *at += 1;
        terms.push(all_of(pieces, at, depth)?);
    }
    if terms.len() > 1 { Some(Term::Or(terms)) } else { terms.pop() }
}

fn all_of(pieces: &[String], at: &mut usize, depth: usize) -> Option<Term> {
    let mut terms = vec![one(pieces, at, depth)?];
    while let Some(piece) = pieces.get(*at) {
        if piece == ")" || piece.eq_ignore_ascii_case("OR") {
            break;
        }
        if piece.eq_ignore_ascii_case("AND") {
            *at += 1;
        }
        let not = pieces.get(*at).is_some_and(|piece| piece.eq_ignore_ascii_case("NOT"));
        *at += usize::from(not);
        let term = one(pieces, at, depth)?;
        terms.push(if not { Term::Not(Box::new(term)) } else { term });
    }
    if terms.len() > 1 { Some(Term::And(terms)) } else { terms.pop() }
}

fn one(pieces: &[String], at: &mut usize, depth: usize) -> Option<Term> {
    let piece = pieces.get(*at)?;
    *at += 1;
    if piece == "(" {
        if depth > 20 {
            return None;
        }
        let inner = any_of(pieces, at, depth + 1)?;
        *at += 1;
        return (pieces.get(*at - 1)? == ")").then_some(inner);
    }
    if piece == ")" {
        return None;
    }
    let folded = fold(piece);
    match folded.strip_prefix('"') {
        Some(phrase) => Some(Term::Phrase(words(phrase).map(str::to_owned).collect())),
        // A word with punctuation inside, such as an address, is several words side by side.
        None if folded.contains(['*', '?']) => Some(Term::Phrase(vec![folded.into_owned()])),
        None => Some(Term::Phrase(words(&folded).map(str::to_owned).collect())),
    }
}

/// True if a search looks into the field.
fn is_searched(field: &Field, scope: &str) -> bool {
    match scope {
        "NAME" => field.name_field,
        "EMAIL" => field.kind == Kind::Email,
        "PHONE" => field.kind == Kind::Phone,
        "SIDEBAR" => field.name_field || matches!(field.kind, Kind::Email | Kind::Phone) || field.auto_number.is_some(),
        _ => field.kind.textual() && !matches!(field.kind, Kind::Id | Kind::Reference | Kind::Encrypted),
    }
}

impl Org {
    /// Answers `search?q=`.
    pub(crate) fn sosl(&self, call: &Call, version: &str, text: &str) -> Answered<Answer> {
        let search = soql::parse_search(text).map_err(|error| ApiError::new(400, "MALFORMED_SEARCH", error.message))?;
        let records = self.found(call, version, &search, text)?;
        Ok(Answer::json(200, &json!({"searchRecords": records})))
    }

    fn found(&self, call: &Call, version: &str, search: &Search, text: &str) -> Answered<Vec<Value>> {
        let term = serde_json::to_string(&parse_term(&search.term)?).unwrap_or_default();
        let scope = search.scope.as_deref().unwrap_or("ALL");
        let mut returning = search.returning.clone();
        if returning.is_empty() {
            let everything = call.caller.schema.objects().filter(|object| object.is_searchable());
            returning.extend(everything.map(|object| plain(&object.name)));
        }
        let skip = usize::try_from(search.offset.unwrap_or_default()).unwrap_or(usize::MAX);
        let limit = usize::try_from(search.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(MAX_RESULTS);
        let wanted = skip.saturating_add(limit);
        self.read(|connection| {
            let context = self.context(&call.caller, connection, version, false);
            let mut records = Vec::new();
            for Returning { mut query, .. } in returning {
                if query.select.is_empty() {
                    query.select = vec![Item::Expr { expr: Expr::Field(Name::new("Id")), alias: None }];
                }
                let mut plan = query::compile_parsed(context, &query, text)?;
                let object = call.caller.schema.object(plan.object()).ok_or_else(ApiError::not_found)?;
                let columns: Vec<&str> = object
                    .stored()
                    .filter(|field| is_searched(field, scope))
                    .map(|field| field.name.as_str())
                    .collect();
                if columns.is_empty() {
                    continue;
                }
                plan.keep_matches(&term, &columns);
                let rows = plan.rows(connection)?;
                let left = wanted.saturating_sub(records.len());
                records.extend(plan.records(context, &rows[..rows.len().min(left)])?);
            }
            Ok(records.into_iter().skip(skip).collect())
        })
    }

    /// Answers `parameterizedSearch`, whose search stands in parameters or in a body.
    pub(crate) fn parameterized(&self, call: &Call, version: &str) -> Answered<Answer> {
        let wrong = |message: &str| ApiError::new(400, "INVALID_SEARCH", message);
        let body = if call.method == "POST" { call.json()? } else { by_parameters(call) };
        let text = body["q"].as_str().filter(|text| !text.trim().is_empty()).ok_or_else(|| wrong("q is missing"))?;
        // The word stands for itself: only quotes and braces could change what it means.
        let term: String =
            text.chars().flat_map(|c| if "{}\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect();
        let fields = |value: &Value| -> String {
            let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if names.is_empty() { "Id".to_owned() } else { names.join(", ") }
        };
        let mut objects = Vec::new();
        for object in body["sobjects"].as_array().into_iter().flatten() {
            let name = object["name"].as_str().ok_or_else(|| wrong("an sobject has no name"))?;
            let own = if object["fields"].is_array() { fields(&object["fields"]) } else { fields(&body["fields"]) };
            let clause = |word: &str, key: &str| match &object[key] {
                Value::String(text) => format!(" {word} {text}"),
                Value::Number(number) => format!(" {word} {number}"),
                _ => String::new(),
            };
            let limit = if object["limit"].is_null() && !body["defaultLimit"].is_null() {
                format!(" LIMIT {}", body["defaultLimit"])
            } else {
                clause("LIMIT", "limit")
            };
            let (filter, order) = (clause("WHERE", "where"), clause("ORDER BY", "orderBy"));
            objects.push(format!("{name}({own}{filter}{order}{limit})"));
        }
        let scope = body["in"].as_str().unwrap_or("ALL");
        let returning = if objects.is_empty() { String::new() } else { format!(" RETURNING {}", objects.join(", ")) };
        let mut text = format!("FIND {{{term}}} IN {scope} FIELDS{returning}");
        for (word, key) in [("LIMIT", "overallLimit"), ("OFFSET", "offset")] {
            if let Some(number) = body[key].as_u64() {
                text.push_str(&format!(" {word} {number}"));
            }
        }
        self.sosl(call, version, &text)
    }
}

/// Reads the parameters of a `GET` into the form of a body.
fn by_parameters(call: &Call) -> Value {
    let list = |text: &str| -> Value { text.split(',').map(|name| json!(name.trim())).collect() };
    let get = |name: &str| call.query.get(name);
    let number = |name: &str| get(name).and_then(|text| text.parse::<u64>().ok()).map_or(Value::Null, Value::from);
    let names = call.repeated("sobject");
    let objects: Vec<Value> = names
        .iter()
        .flat_map(|names| names.split(','))
        .map(|name| {
            let own = |key: &str| get(&format!("{name}.{key}")).cloned();
            json!({"name": name, "fields": own("fields").map(|text| list(&text)), "where": own("where"),
                   "orderBy": own("orderBy"), "limit": own("limit").and_then(|text| text.parse::<u64>().ok())})
        })
        .collect();
    json!({"q": get("q"), "in": get("in").map(|text| text.to_uppercase()), "sobjects": objects,
           "fields": get("fields").map(|text| list(text)), "defaultLimit": number("defaultLimit"),
           "overallLimit": number("overallLimit"), "offset": number("offset")})
}

fn plain(object: &str) -> Returning {
    Returning { query: Query::from(Source { object: Name::new(object), alias: None }), list_view: None }
}

impl Object {
    /// True for objects that a search without `RETURNING` looks into.
    pub(crate) fn is_searchable(&self) -> bool {
        !self.is_event() && (!self.setup || self.name == "User")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_find_words_phrases_and_wildcards() {
        let cases = [
            ("acme", "Acme Ltd", true),
            ("acm", "Acme Ltd", false),
            ("acm*", "Acme Ltd", true),
            ("a?me", "Acme Ltd", true),
            ("\"acme ltd\"", "Acme, Ltd.", true),
            ("\"ltd acme\"", "Acme Ltd", false),
            ("acme AND ltd", "Acme Ltd", true),
            ("acme ltd", "Acme and Sons", false),
            ("rad & tat", "Rad & Tat", true),
            ("rad & \"-\" tat", "Rad", false),
            ("acme OR sons", "Sons", true),
            ("acme AND NOT ltd", "Acme Ltd", false),
            ("(acme OR sons) AND ltd", "Sons Ltd", true),
            ("ad@acme.example", "ad@acme.example", true),
            ("ÅSA", "Åsa Öberg", true),
        ];
        for (term, text, expected) in cases {
            let texts = [fold(text)];
            assert_eq!(parse_term(term).map(|term| term.holds(&texts)), Ok(expected), "{term} in {text}");
        }
        for term in ["a", "&& --", "acme AND &", "(acme", "acme)", "\"acme", "acme AND"] {
            assert_eq!(parse_term(term).map_err(|error| error.code), Err("MALFORMED_SEARCH".to_owned()), "{term}");
        }
    }
}
