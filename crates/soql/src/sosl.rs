//! SOSL: the other query language, which searches words in many objects at once.

use std::fmt::{Display, Formatter};

use crate::lex::tokens;
use crate::parse::{Parsed, Parser};
use crate::{Error, Query, Source, print};

/// A whole `FIND` statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// What stands between the braces, as written.
    pub term: String,
    /// `IN ... FIELDS`, in capitals; all fields if not written.
    pub scope: Option<String>,
    /// `RETURNING`: an object, with the fields, condition, order and limit of its answer. One without a field
    /// list selects nothing.
    pub returning: Vec<Returning>,
    /// `WITH` clauses, as written.
    pub with: Vec<String>,
    /// `LIMIT` of the whole.
    pub limit: Option<u64>,
    /// `OFFSET` of the whole.
    pub offset: Option<u64>,
    /// `UPDATE TRACKING`, `UPDATE VIEWSTAT`.
    pub updates: Vec<String>,
}

/// One object of `RETURNING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returning {
    /// Fields, condition, order, limit and offset, on the object behind `FROM`.
    pub query: Query,
    /// `USING LISTVIEW`.
    pub list_view: Option<String>,
}

/// Reads a whole search.
///
/// # Errors
///
/// The first token that does not fit, with its offset in `text`.
pub fn parse_search(text: &str) -> Result<Search, Error> {
    let wrong = |offset: usize, message: &str| Error { offset, message: message.to_owned() };
    let head = text.trim_start();
    let start = text.len() - head.len();
    let Some(rest) = head.get(..4).filter(|word| word.eq_ignore_ascii_case("FIND")).and_then(|_| head.get(4..)) else {
        return Err(wrong(start, "unexpected token: a search begins with FIND"));
    };
    let body = rest.trim_start();
    let mut offset = text.len() - body.len();
    if !body.starts_with('{') {
        return Err(wrong(offset, "No search term found. The search term must be enclosed in braces."));
    }
    let mut escaped = false;
    let end = body.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '}' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    let Some((end, _)) = end else { return Err(wrong(text.len(), "expecting a right brace, found '<EOF>'")) };
    let term = body[1..end].to_owned();
    offset += end + 1;
    let mut tokens = tokens(&text[offset..]).map_err(|error| Error { offset: error.offset + offset, ..error })?;
    for token in &mut tokens {
        token.offset += offset;
    }
    let mut parser = Parser::new(tokens);
    let search = parser.search(term)?;
    parser.expect_end()?;
    Ok(search)
}

impl Parser<'_> {
    fn search(&mut self, term: String) -> Parsed<Search> {
        let mut scope = None;
        if self.take_word("IN") {
            let words = ["ALL", "NAME", "EMAIL", "PHONE", "SIDEBAR"];
            scope = words.into_iter().find(|word| self.take_word(word)).map(str::to_owned);
            if scope.is_none() {
                return Err(self.unexpected());
            }
            self.expect_word("FIELDS")?;
        }
        let returning = if self.take_word("RETURNING") { self.list(Self::returning)? } else { Vec::new() };
        let mut with = Vec::new();
        while self.take_word("WITH") {
            with.push(self.with());
        }
        let limit = if self.take_word("LIMIT") { Some(self.count()?) } else { None };
        let offset = if self.take_word("OFFSET") { Some(self.count()?) } else { None };
        let updates = if self.take_word("UPDATE") {
            self.list(|parser| Ok(parser.name()?.text.to_uppercase()))?
        } else {
            Vec::new()
        };
        Ok(Search { term, scope, returning, with, limit, offset, updates })
    }

    fn returning(&mut self) -> Parsed<Returning> {
        let object = self.name()?;
        let mut query = Query::from(Source { object, alias: None });
        let mut list_view = None;
        if self.take_symbol("(") {
            query.select = self.list(Self::item)?;
            query.filter = if self.take_word("WHERE") { Some(self.condition()?) } else { None };
            if self.take_word("USING") {
                self.expect_word("LISTVIEW")?;
                self.expect_symbol("=")?;
                list_view = Some(self.name()?.text);
            }
            query.order = if self.take_word("ORDER") {
                self.expect_word("BY")?;
                self.list(Self::order)?
            } else {
                Vec::new()
            };
            query.limit = if self.take_word("LIMIT") { Some(self.count()?) } else { None };
            query.offset = if self.take_word("OFFSET") { Some(self.count()?) } else { None };
            self.expect_symbol(")")?;
        }
        Ok(Returning { query, list_view })
    }
}

impl Display for Returning {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Query { select, from, filter, order, limit, offset, .. } = &self.query;
        write!(f, "{from}")?;
        if select.is_empty() {
            return Ok(());
        }
        f.write_str("(")?;
        print::list(f, select)?;
        filter.iter().try_for_each(|filter| write!(f, " WHERE {filter}"))?;
        self.list_view.iter().try_for_each(|view| write!(f, " USING LISTVIEW = {view}"))?;
        if !order.is_empty() {
            f.write_str(" ORDER BY ")?;
            print::list(f, order)?;
        }
        limit.iter().try_for_each(|limit| write!(f, " LIMIT {limit}"))?;
        offset.iter().try_for_each(|offset| write!(f, " OFFSET {offset}"))?;
        f.write_str(")")
    }
}

impl Display for Search {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "FIND {{{}}}", self.term)?;
        self.scope.iter().try_for_each(|scope| write!(f, " IN {scope} FIELDS"))?;
        if !self.returning.is_empty() {
            f.write_str(" RETURNING ")?;
            print::list(f, &self.returning)?;
        }
        self.with.iter().try_for_each(|with| write!(f, " WITH {with}"))?;
        self.limit.iter().try_for_each(|limit| write!(f, " LIMIT {limit}"))?;
        self.offset.iter().try_for_each(|offset| write!(f, " OFFSET {offset}"))?;
        if !self.updates.is_empty() {
            f.write_str(" UPDATE ")?;
            print::list(f, &self.updates)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_printed_back() {
        let searches = [
            "FIND {Acme}",
            "FIND {\"united oil\" OR wind*} IN NAME FIELDS RETURNING Account(Id, Name WHERE Type = 'Customer' ORDER BY Name LIMIT 5), Contact",
            "FIND {a\\}b} IN EMAIL FIELDS RETURNING Lead(Id OFFSET 3) LIMIT 10 OFFSET 2",
            "FIND {x} RETURNING Account(Id USING LISTVIEW = Recent) WITH SNIPPET WITH METADATA = 'LABELS' UPDATE TRACKING",
        ];
        for text in searches {
            let search = parse_search(text).unwrap_or_else(|error| panic!("{text}: {error} at {}", error.offset));
            assert_eq!(search.to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        let cases = [
            ("", 0, "unexpected token: a search begins with FIND"),
            ("FIND Acme", 5, "No search term found. The search term must be enclosed in braces."),
            ("FIND {Acme", 10, "expecting a right brace, found '<EOF>'"),
            ("FIND {Acme} IN SOME FIELDS", 15, "unexpected token: 'SOME'"),
            ("FIND {Acme} RETURNING Account(Id", 32, "expecting a right parenthesis, found '<EOF>'"),
        ];
        for (text, offset, message) in cases {
            let error = parse_search(text).expect_err(text);
            assert_eq!((error.offset, error.message.as_str()), (offset, message), "{text}");
        }
    }
}
