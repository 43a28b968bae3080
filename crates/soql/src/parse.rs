//! Tokens to syntax tree, by recursive descent.

use crate::lex::{Kind, Token, tokens};
use crate::{
    Condition, DateLiteral, DateUnit, Direction, Error, Expr, Grouping, Item, Name, Nulls, Op, Order, Query, Reach,
    Source, TypeOf, Value,
};

/// Longest statement, in characters. Source: SOQL and SOSL Reference, "SOQL limits".
const MAX_CHARS: usize = 100_000;

/// Deepest nesting of parentheses and subqueries; a guard for the stack, far above the platform's own.
const MAX_DEPTH: usize = 100;

/// Words that cannot be an alias.
const RESERVED: [&str; 27] = [
    "AND", "ASC", "DESC", "EXCLUDES", "FIRST", "FROM", "GROUP", "HAVING", "IN", "INCLUDES", "LAST", "LIKE", "LIMIT",
    "NOT", "NULL", "NULLS", "OR", "SELECT", "USING", "WHERE", "WITH", "ORDER", "OFFSET", "FOR", "UPDATE", "ALL", "END",
];

/// Reads a whole query.
///
/// # Errors
///
/// The first token that does not fit, with its offset and the platform's wording.
pub fn parse(text: &str) -> Result<Query, Error> {
    if text.trim().is_empty() {
        return Err(Error { offset: 0, message: "A query string has to be specified".into() });
    }
    if text.chars().nth(MAX_CHARS).is_some() {
        return Err(Error {
            offset: 0,
            message: format!("SOQL statements cannot be longer than {MAX_CHARS} characters."),
        });
    }
    let mut parser = Parser::new(tokens(text)?);
    let query = parser.query(false)?;
    parser.expect_end()?;
    Ok(query)
}

pub(crate) struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    depth: usize,
}

pub(crate) type Parsed<T> = Result<T, Error>;

impl<'t> Parser<'t> {
    pub(crate) fn new(tokens: Vec<Token<'t>>) -> Self {
        Self { tokens, at: 0, depth: 0 }
    }

    pub(crate) fn expect_end(&self) -> Parsed<()> {
        if self.peek().kind == Kind::End { Ok(()) } else { Err(self.unexpected()) }
    }

    fn peek(&self) -> &Token<'t> {
        &self.tokens[self.at]
    }

    fn peek_at(&self, ahead: usize) -> &Token<'t> {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.tokens[self.at].clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub(crate) fn unexpected(&self) -> Error {
        let token = self.peek();
        let message = match token.kind {
            Kind::End => "unexpected token: '<EOF>'".to_owned(),
            _ => format!("unexpected token: '{}'", token.text),
        };
        Error { offset: token.offset, message }
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek().kind == Kind::Word && self.peek().text.eq_ignore_ascii_case(word)
    }

    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    pub(crate) fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        self.peek().kind == Kind::Symbol && self.peek().text == symbol
    }

    pub(crate) fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        if found {
            self.next();
        }
        found
    }

    pub(crate) fn expect_symbol(&mut self, symbol: &str) -> Parsed<()> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        let token = self.peek();
        let found = token.text;
        let wanted = match symbol {
            "(" => "a left parenthesis",
            ")" => "a right parenthesis",
            ":" => "a colon",
            _ => return Err(self.unexpected()),
        };
        Err(Error { offset: token.offset, message: format!("expecting {wanted}, found '{found}'") })
    }

    pub(crate) fn name(&mut self) -> Parsed<Name> {
        let token = self.peek();
        if token.kind != Kind::Word || token.text.ends_with('.') || token.text.contains("..") {
            return Err(self.unexpected());
        }
        let token = self.next();
        Ok(Name { text: token.text.to_owned(), offset: token.offset })
    }

    fn alias(&mut self) -> Option<String> {
        let token = self.peek();
        let free = token.kind == Kind::Word
            && !token.text.contains('.')
            && !RESERVED.iter().any(|word| token.text.eq_ignore_ascii_case(word));
        free.then(|| self.next().text.to_owned())
    }

    pub(crate) fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = vec![each(self)?];
        while self.take_symbol(",") {
            items.push(each(self)?);
        }
        Ok(items)
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error { offset: self.peek().offset, message: "query is nested too deeply".into() });
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn query(&mut self, nested: bool) -> Parsed<Query> {
        self.expect_word("SELECT")?;
        let select = self.list(Self::item)?;
        self.expect_word("FROM")?;
        let from = self.source()?;
        let mut also = Vec::new();
        while self.take_symbol(",") {
            also.push(self.source()?);
        }
        let scope = if self.take_word("USING") {
            self.expect_word("SCOPE")?;
            Some(self.name()?.text)
        } else {
            None
        };
        let filter = if self.take_word("WHERE") { Some(self.condition()?) } else { None };
        let with = if self.take_word("WITH") { Some(self.with()) } else { None };
        let group = if self.take_word("GROUP") {
            self.expect_word("BY")?;
            Some(self.grouping()?)
        } else {
            None
        };
        let having = if self.take_word("HAVING") { Some(self.condition()?) } else { None };
        let order = if self.take_word("ORDER") {
            self.expect_word("BY")?;
            self.list(Self::order)?
        } else {
            Vec::new()
        };
        let limit = if self.take_word("LIMIT") { Some(self.count()?) } else { None };
        let offset = if self.take_word("OFFSET") { Some(self.count()?) } else { None };
        let all_rows = if !nested && self.is_word("ALL") {
            self.next();
            self.expect_word("ROWS")?;
            true
        } else {
            false
        };
        let mut purposes = Vec::new();
        while self.take_word("FOR") {
            match ["VIEW", "REFERENCE", "UPDATE"].into_iter().find(|word| self.is_word(word)) {
                Some(word) => {
                    self.next();
                    purposes.push(word.to_owned());
                }
                None => return Err(self.unexpected()),
            }
        }
        let updates = if self.take_word("UPDATE") {
            self.list(|parser| Ok(parser.name()?.text.to_uppercase()))?
        } else {
            Vec::new()
        };
        Ok(Query {
            select,
            also,
            scope,
            filter,
            with,
            group,
            having,
            order,
            limit,
            offset,
            all_rows,
            purposes,
            updates,
            ..Query::from(from)
        })
    }

    fn source(&mut self) -> Parsed<Source> {
        let object = self.name()?;
        self.take_word("AS");
        Ok(Source { object, alias: self.alias() })
    }

    pub(crate) fn count(&mut self) -> Parsed<u64> {
        let token = self.peek();
        let Some(count) = (token.kind == Kind::Number).then(|| token.text.parse().ok()).flatten() else {
            return Err(self.unexpected());
        };
        self.next();
        Ok(count)
    }

    /// Keeps what stands behind `WITH` as it is, up to the next clause.
    pub(crate) fn with(&mut self) -> String {
        let mut words: Vec<String> = Vec::new();
        let ends = ["WITH", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "ALL", "FOR", "UPDATE"];
        while self.peek().kind != Kind::End && !self.is_symbol(")") && !ends.iter().any(|word| self.is_word(word)) {
            let opens = self.is_symbol("(");
            words.push(self.next().text.to_owned());
            if opens {
                while self.peek().kind != Kind::End && !self.is_symbol(")") {
                    words.push(self.next().text.to_owned());
                }
                words.push(self.next().text.to_owned());
            }
        }
        words.join(" ")
    }

    pub(crate) fn item(&mut self) -> Parsed<Item> {
        if self.is_symbol("(") {
            self.next();
            let query = self.deeper(|parser| parser.query(true))?;
            self.expect_symbol(")")?;
            return Ok(Item::Children(Box::new(query)));
        }
        if self.is_word("TYPEOF") {
            return self.type_of();
        }
        if self.is_word("FIELDS") && self.peek_at(1).text == "(" {
            let offset = self.next().offset;
            self.expect_symbol("(")?;
            let reach = [("ALL", Reach::All), ("STANDARD", Reach::Standard), ("CUSTOM", Reach::Custom)]
                .into_iter()
                .find(|(word, _)| self.is_word(word));
            let Some((_, reach)) = reach else { return Err(self.unexpected()) };
            self.next();
            self.expect_symbol(")")?;
            return Ok(Item::Fields { reach, offset });
        }
        let expr = self.expr()?;
        // A word that neither `,` nor `FROM` follows is no alias but a mistake, and the one to name.
        let behind = self.peek_at(1);
        let alias = if behind.text == "," || behind.text.eq_ignore_ascii_case("FROM") { self.alias() } else { None };
        Ok(Item::Expr { expr, alias })
    }

    fn type_of(&mut self) -> Parsed<Item> {
        self.next();
        let path = self.name()?;
        let mut when = Vec::new();
        while self.take_word("WHEN") {
            let object = self.name()?;
            self.expect_word("THEN")?;
            when.push((object, self.list(Self::name)?));
        }
        if when.is_empty() {
            return Err(self.unexpected());
        }
        let otherwise = if self.take_word("ELSE") { self.list(Self::name)? } else { Vec::new() };
        self.expect_word("END")?;
        Ok(Item::TypeOf(TypeOf { path, when, otherwise }))
    }

    fn expr(&mut self) -> Parsed<Expr> {
        let name = self.name()?;
        if !self.take_symbol("(") {
            return Ok(Expr::Field(name));
        }
        let mut args = Vec::new();
        if !self.is_symbol(")") {
            args = self.deeper(|parser| parser.list(Self::argument))?;
        }
        self.expect_symbol(")")?;
        Ok(Expr::Call { name, args })
    }

    fn argument(&mut self) -> Parsed<Expr> {
        match self.peek().kind {
            Kind::Word => self.expr(),
            _ => Ok(Expr::Constant(self.value()?)),
        }
    }

    fn grouping(&mut self) -> Parsed<Grouping> {
        for (word, make) in [("ROLLUP", Grouping::Rollup as fn(Vec<Expr>) -> Grouping), ("CUBE", Grouping::Cube)] {
            if self.is_word(word) && self.peek_at(1).text == "(" {
                self.next();
                self.next();
                let fields = self.list(Self::expr)?;
                self.expect_symbol(")")?;
                return Ok(make(fields));
            }
        }
        Ok(Grouping::By(self.list(Self::expr)?))
    }

    pub(crate) fn order(&mut self) -> Parsed<Order> {
        let expr = self.expr()?;
        let direction = if self.take_word("ASC") {
            Some(Direction::Asc)
        } else if self.take_word("DESC") {
            Some(Direction::Desc)
        } else {
            None
        };
        let nulls = if self.take_word("NULLS") {
            if self.take_word("FIRST") {
                Some(Nulls::First)
            } else {
                self.expect_word("LAST")?;
                Some(Nulls::Last)
            }
        } else {
            None
        };
        Ok(Order { expr, direction, nulls })
    }

    /// Terms joined by only `AND` or only `OR`; mixing needs parentheses.
    pub(crate) fn condition(&mut self) -> Parsed<Condition> {
        let first = self.term()?;
        for (word, make) in [("AND", Condition::And as fn(Vec<Condition>) -> Condition), ("OR", Condition::Or)] {
            if self.is_word(word) {
                let mut terms = vec![first];
                while self.take_word(word) {
                    terms.push(self.term()?);
                }
                if self.is_word("AND") || self.is_word("OR") {
                    return Err(self.unexpected());
                }
                return Ok(make(terms));
            }
        }
        Ok(first)
    }

    fn term(&mut self) -> Parsed<Condition> {
        if self.take_word("NOT") {
            return Ok(Condition::Not(Box::new(self.deeper(Self::term)?)));
        }
        if self.take_symbol("(") {
            let inner = self.deeper(Self::condition)?;
            self.expect_symbol(")")?;
            return Ok(inner);
        }
        let left = self.expr()?;
        let negated = self.take_word("NOT");
        if self.take_word("IN") {
            return self.membership(left, negated);
        }
        if negated {
            return Err(self.unexpected());
        }
        for (word, negated) in [("INCLUDES", false), ("EXCLUDES", true)] {
            if self.take_word(word) {
                self.expect_symbol("(")?;
                let values = self.list(Self::value)?;
                self.expect_symbol(")")?;
                return Ok(Condition::Includes { left, negated, values });
            }
        }
        let op = self.operator()?;
        Ok(Condition::Compare { left, op, right: self.value()? })
    }

    fn membership(&mut self, left: Expr, negated: bool) -> Parsed<Condition> {
        if self.is_symbol(":") {
            return Ok(Condition::In { left, negated, values: vec![self.value()?] });
        }
        self.expect_symbol("(")?;
        if self.is_word("SELECT") {
            let query = self.deeper(|parser| parser.query(true))?;
            self.expect_symbol(")")?;
            return Ok(Condition::InQuery { left, negated, query: Box::new(query) });
        }
        let values = self.list(Self::value)?;
        self.expect_symbol(")")?;
        Ok(Condition::In { left, negated, values })
    }

    fn operator(&mut self) -> Parsed<Op> {
        if self.take_word("LIKE") {
            return Ok(Op::Like);
        }
        let token = self.peek();
        let op = match (&token.kind, token.text) {
            (Kind::Symbol, "=") => Op::Equal,
            (Kind::Symbol, "!=" | "<>") => Op::NotEqual,
            (Kind::Symbol, "<") => Op::Less,
            (Kind::Symbol, "<=") => Op::LessOrEqual,
            (Kind::Symbol, ">") => Op::Greater,
            (Kind::Symbol, ">=") => Op::GreaterOrEqual,
            _ => return Err(self.unexpected()),
        };
        self.next();
        Ok(op)
    }

    fn value(&mut self) -> Parsed<Value> {
        let token = self.peek().clone();
        let value = match token.kind {
            Kind::Text(text) => Value::Text(text),
            Kind::Number => Value::Number(token.text.to_owned()),
            Kind::Date => Value::Date(token.text.to_owned()),
            Kind::DateTime => Value::DateTime(token.text.to_owned()),
            Kind::Time => Value::Time(token.text.to_owned()),
            Kind::Word => return self.word_value(&token),
            Kind::Symbol if token.text == ":" => {
                self.next();
                return Ok(Value::Bind(self.name()?));
            }
            Kind::Symbol | Kind::End => return Err(self.unexpected()),
        };
        self.next();
        Ok(value)
    }

    fn word_value(&mut self, token: &Token<'t>) -> Parsed<Value> {
        let upper = token.text.to_ascii_uppercase();
        let value = match upper.as_str() {
            "NULL" => Value::Null,
            "TRUE" => Value::Boolean(true),
            "FALSE" => Value::Boolean(false),
            _ => {
                if let Some(plain) = plain_literal(&upper) {
                    Value::Literal(plain)
                } else if let Some(make) = counted_literal(&upper) {
                    self.next();
                    self.expect_symbol(":")?;
                    let count = u32::try_from(self.count()?).map_err(|_| self.unexpected())?;
                    return Ok(Value::Literal(make(count)));
                } else if let Some((iso, amount)) = currency(token.text) {
                    Value::Currency { iso: iso.to_owned(), amount: amount.to_owned() }
                } else {
                    return Err(self.unexpected());
                }
            }
        };
        self.next();
        Ok(value)
    }
}

fn plain_literal(word: &str) -> Option<DateLiteral> {
    let unit = |rest: &str| DateUnit::WORDS.iter().skip(1).find(|(_, word)| *word == rest).map(|(unit, _)| *unit);
    Some(match word {
        "YESTERDAY" => DateLiteral::Yesterday,
        "TODAY" => DateLiteral::Today,
        "TOMORROW" => DateLiteral::Tomorrow,
        "LAST_90_DAYS" => DateLiteral::Last90Days,
        "NEXT_90_DAYS" => DateLiteral::Next90Days,
        _ => match word.split_once('_')? {
            ("LAST", rest) => DateLiteral::Last(unit(rest)?),
            ("THIS", rest) => DateLiteral::This(unit(rest)?),
            ("NEXT", rest) => DateLiteral::Next(unit(rest)?),
            _ => return None,
        },
    })
}

fn counted_literal(word: &str) -> Option<impl Fn(u32) -> DateLiteral> {
    let unit = |plural: &str| {
        let word = plural.strip_suffix('S')?;
        DateUnit::WORDS.iter().find(|(_, known)| *known == word).map(|(unit, _)| *unit)
    };
    let (make, unit): (fn(DateUnit, u32) -> DateLiteral, DateUnit) = if let Some(rest) = word.strip_prefix("LAST_N_") {
        (DateLiteral::LastN, unit(rest)?)
    } else if let Some(rest) = word.strip_prefix("NEXT_N_") {
        (DateLiteral::NextN, unit(rest)?)
    } else {
        (DateLiteral::Ago, unit(word.strip_prefix("N_")?.strip_suffix("_AGO")?)?)
    };
    Some(move |count| make(unit, count))
}

fn currency(word: &str) -> Option<(&str, &str)> {
    let (iso, amount) = word.split_at_checked(3)?;
    let plausible = iso.bytes().all(|b| b.is_ascii_uppercase())
        && amount.bytes().next().is_some_and(|b| b.is_ascii_digit())
        && amount.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plausible.then_some((iso, amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_printed_back() {
        let queries = [
            "SELECT Id FROM Account",
            "SELECT COUNT() FROM Account",
            "SELECT Id, Owner.Name, (SELECT Id FROM Contacts WHERE LastName != NULL LIMIT 3) FROM Account a",
            "SELECT Type, COUNT(Id) n, SUM(AnnualRevenue) FROM Account GROUP BY Type HAVING COUNT(Id) > 1 ORDER BY COUNT(Id) DESC NULLS LAST",
            "SELECT Type FROM Account GROUP BY ROLLUP(Type, Industry)",
            "SELECT Type FROM Account GROUP BY CUBE(Type, Industry)",
            "SELECT Id FROM Account WHERE (Name = 'a' OR Name LIKE 'b\\%%') AND NOT Type IN ('x', 'y')",
            "SELECT Id FROM Account WHERE Id NOT IN (SELECT AccountId FROM Contact WHERE Email = NULL)",
            "SELECT Id FROM C__c WHERE M__c INCLUDES ('A;B', 'C') AND N__c EXCLUDES ('D')",
            "SELECT Id FROM Account WHERE CreatedDate >= 2026-05-05T10:00:00.000+01:00 AND LastActivityDate < 2026-05-05",
            "SELECT Id FROM Account WHERE CreatedDate = LAST_N_FISCAL_QUARTERS:4 OR CreatedDate = THIS_WEEK OR CreatedDate = N_DAYS_AGO:3",
            "SELECT TYPEOF What WHEN Account THEN Name, Phone ELSE Id END FROM Event",
            "SELECT FIELDS(STANDARD) FROM Account LIMIT 200 OFFSET 10",
            "SELECT CALENDAR_YEAR(convertTimezone(CreatedDate)) FROM Account GROUP BY CALENDAR_YEAR(convertTimezone(CreatedDate))",
            "SELECT Id FROM Place__c WHERE DISTANCE(Loc__c, GEOLOCATION(37.7, -122.4), 'mi') < 20",
            "SELECT c.Id FROM Contact c, c.Account a WHERE a.Name = 'x' FOR VIEW",
            "SELECT Id FROM Account USING SCOPE mine WITH SECURITY_ENFORCED LIMIT 1 ALL ROWS FOR UPDATE",
            "SELECT Id FROM Opportunity WHERE Amount > USD5000.50",
            "SELECT Id FROM Account WHERE Name = 'it\\'s \\\\ \\n \u{1f6b2}'",
        ];
        for text in queries {
            let query = parse(text).unwrap_or_else(|error| panic!("{text}: {error} at {}", error.offset));
            assert_eq!(query.to_string(), text);
            assert_eq!(parse(&query.to_string()).map(|again| again.to_string()), Ok(query.to_string()));
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        let cases: [(&str, usize, &str); 10] = [
            ("", 0, "A query string has to be specified"),
            ("SELECT Id FORM Account", 10, "unexpected token: 'FORM'"),
            ("SELECT FROM Account", 12, "unexpected token: 'Account'"),
            ("SELECT Id FROM Account WHERE", 28, "unexpected token: '<EOF>'"),
            ("SELECT Id FROM Account WHERE Name = 'x", 38, "unterminated string literal"),
            ("SELECT Id FROM Account WHERE A = 1 AND B = 2 OR C = 3", 45, "unexpected token: 'OR'"),
            ("SELECT Id FROM Account WHERE Name IN ('a'", 41, "expecting a right parenthesis, found '<EOF>'"),
            ("SELECT Id FROM Account WHERE D = LAST_N_DAYS 3", 45, "expecting a colon, found '3'"),
            ("SELECT Id FROM Account ; DROP", 23, "line 1:23 no viable alternative at character ';'"),
            ("SELECT Id FROM Account LIMIT -1", 29, "unexpected token: '-1'"),
        ];
        for (text, offset, message) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!((error.offset, error.message.as_str()), (offset, message), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        let text = format!("SELECT Id FROM Account WHERE {}A = 1", "(".repeat(20_000));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn rows_and_columns_count_characters_from_one() {
        assert_eq!(crate::row_column("SELECT Id\nFROM \u{e9} X", 18), (2, 8));
    }
}
