//! The grammar: words to a tree.

use crate::lex::{Token, tokens};
use crate::{Error, Reads};

/// How deep functions and brackets may stand inside each other.
const DEPTH: usize = 100;

/// A part of a formula, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expr {
    pub(crate) offset: usize,
    pub(crate) node: Node,
}

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Text(String),
    Number(String),
    Boolean(bool),
    Null,
    Field(String),
    Call(String, Vec<Expr>),
    Minus(Box<Expr>),
    Not(Box<Expr>),
    /// One or more operators of one rank, from the left.
    Chain(Box<Expr>, Vec<(Op, Expr)>),
}

/// An operator between two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Join,
    Multiply,
    Divide,
    Power,
}

impl Op {
    /// Returns the sign, as it is written most often.
    pub(crate) fn sign(self) -> &'static str {
        RANKS.iter().copied().flatten().find(|(_, op)| *op == self).map_or("", |(sign, _)| sign)
    }
}

impl Expr {
    /// Adds what it reads.
    pub(crate) fn note_reads(&self, reads: &mut Reads) {
        match &self.node {
            Node::Field(path) => {
                if !reads.fields.iter().any(|known| known.eq_ignore_ascii_case(path)) {
                    reads.fields.push(path.clone());
                }
            }
            Node::Call(name, arguments) => {
                reads.timely |= ["NOW", "TODAY", "TIMENOW"].iter().any(|known| name.eq_ignore_ascii_case(known));
                for argument in arguments {
                    argument.note_reads(reads);
                }
            }
            Node::Minus(inner) | Node::Not(inner) => inner.note_reads(reads),
            Node::Chain(first, rest) => {
                first.note_reads(reads);
                for (_, part) in rest {
                    part.note_reads(reads);
                }
            }
            Node::Text(_) | Node::Number(_) | Node::Boolean(_) | Node::Null => {}
        }
    }
}

/// Operators by rank, the loosest first.
const RANKS: [&[(&str, Op)]; 7] = [
    &[("||", Op::Or)],
    &[("&&", Op::And)],
    &[("=", Op::Equal), ("==", Op::Equal), ("<>", Op::NotEqual), ("!=", Op::NotEqual)],
    &[("<", Op::Less), ("<=", Op::LessOrEqual), (">", Op::Greater), (">=", Op::GreaterOrEqual)],
    &[("+", Op::Add), ("-", Op::Subtract), ("&", Op::Join)],
    &[("*", Op::Multiply), ("/", Op::Divide)],
    &[("^", Op::Power)],
];

/// Reads a formula.
pub(crate) fn parse(text: &str) -> Result<Expr, Error> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let expr = parser.rank(0)?;
    match parser.peek() {
        Token::End => Ok(expr),
        Token::Sign(")") => Err(parser.error("Syntax error. Extra ')'")),
        other => Err(parser.error(format!("Syntax error. Extra {}", shown(other)))),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(text) | Token::Number(text) => text.clone(),
        Token::Text(text) => format!("\"{text}\""),
        Token::Sign(sign) => format!("'{sign}'"),
        Token::End => "end of the formula".to_owned(),
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn offset(&self) -> usize {
        self.tokens[self.at].1
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(self.offset(), message)
    }

    /// Takes the next word; the last is taken again and again.
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(known) if *known == sign);
        if found {
            self.next();
        }
        found
    }

    fn rank(&mut self, rank: usize) -> Result<Expr, Error> {
        let Some(operators) = RANKS.get(rank) else { return self.unary() };
        let first = self.rank(rank + 1)?;
        let mut rest = Vec::new();
        while let Token::Sign(sign) = self.peek()
            && let Some((_, op)) = operators.iter().find(|(known, _)| known == sign)
        {
            self.next();
            rest.push((*op, self.rank(rank + 1)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr { offset: first.offset, node: Node::Chain(Box::new(first), rest) })
    }

    /// Parses one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error(format!("Formula is too deep: more than {DEPTH} levels")));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn unary(&mut self) -> Result<Expr, Error> {
        let offset = self.offset();
        if self.take("-") {
            let inner = Box::new(self.deeper(Self::unary)?);
            return Ok(Expr { offset, node: Node::Minus(inner) });
        }
        if self.take("!") {
            let inner = Box::new(self.deeper(Self::unary)?);
            return Ok(Expr { offset, node: Node::Not(inner) });
        }
        if self.take("+") {
            return self.deeper(Self::unary);
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Expr, Error> {
        let offset = self.offset();
        let node = match self.next() {
            Token::Text(text) => Node::Text(text),
            Token::Number(text) => Node::Number(text),
            Token::Sign("(") => {
                let inner = self.deeper(|parser| parser.rank(0))?;
                if !self.take(")") {
                    return Err(self.error("Syntax error. Missing ')'"));
                }
                return Ok(inner);
            }
            Token::Name(name) if self.take("(") => {
                let arguments = self.deeper(Self::arguments)?;
                match (name.to_ascii_uppercase().as_str(), arguments.as_slice()) {
                    ("TRUE", []) => Node::Boolean(true),
                    ("FALSE", []) => Node::Boolean(false),
                    _ => Node::Call(name, arguments),
                }
            }
            Token::Name(name) => match name.to_ascii_uppercase().as_str() {
                "TRUE" => Node::Boolean(true),
                "FALSE" => Node::Boolean(false),
                "NULL" => Node::Null,
                _ => Node::Field(name),
            },
            other => return Err(Error::new(offset, format!("Syntax error. Found {}", shown(&other)))),
        };
        Ok(Expr { offset, node })
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Error> {
        let mut arguments = Vec::new();
        if self.take(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.rank(0)?);
            if self.take(")") {
                return Ok(arguments);
            }
            if !self.take(",") {
                return Err(self.error("Syntax error. Missing ')'"));
            }
        }
    }
}
