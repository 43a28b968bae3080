//! From the tree to what is evaluated: names are found, and what is compared and computed goes together.

use rust_decimal::Decimal;

use crate::functions::{ABSENT, Function, Gives, Signature, signature};
use crate::parse::{Expr, Node, Op};
use crate::value::{Kind, Value};
use crate::{Error, Fields, Reference};

/// A part of a formula that is right.
#[derive(Debug, Clone)]
pub(crate) enum Code {
    Constant(Value),
    /// The value of a reference, by its place.
    Field(usize),
    Minus(Box<Code>),
    Not(Box<Code>),
    Chain(Box<Code>, Vec<(Step, Code)>),
    Call(Function, Vec<Code>),
    /// A pattern that does not change.
    Matches(Box<Code>, Box<fancy_regex::Regex>),
}

/// What an operator does with what stands left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    And,
    Or,
    /// Where both are texts, none is as an empty one.
    Compare {
        op: Op,
        texts: bool,
    },
    Join,
    Compute(Op),
}

pub(crate) struct Compiler<'f> {
    pub(crate) fields: &'f dyn Fields,
    pub(crate) references: Vec<Reference>,
}

/// Returns what two kinds have in common, if anything.
fn common(left: Kind, right: Kind) -> Option<Kind> {
    match (left, right) {
        (same, other) if same == other => Some(same),
        (Kind::Null, other) | (other, Kind::Null) => Some(other),
        _ => None,
    }
}

impl Compiler<'_> {
    pub(crate) fn compile(&mut self, expr: &Expr) -> Result<(Code, Kind), Error> {
        match &expr.node {
            Node::Text(text) => Ok((Code::Constant(Value::of_text(text.clone())), Kind::Text)),
            Node::Number(text) => {
                let number = Decimal::from_scientific(text).or_else(|_| text.parse());
                let number = number.map_err(|_| Error::new(expr.offset, format!("{text} is too large a number")))?;
                Ok((Code::Constant(Value::Number(number)), Kind::Number))
            }
            Node::Boolean(value) => Ok((Code::Constant(Value::Boolean(*value)), Kind::Boolean)),
            Node::Null => Ok((Code::Constant(Value::Blank), Kind::Null)),
            Node::Field(path) => self.field(path, expr.offset, false),
            Node::Minus(inner) => {
                let code = self.expect(inner, Kind::Number, "-")?;
                Ok((Code::Minus(Box::new(code)), Kind::Number))
            }
            Node::Not(inner) => {
                let code = self.expect(inner, Kind::Boolean, "!")?;
                Ok((Code::Not(Box::new(code)), Kind::Boolean))
            }
            Node::Chain(first, rest) => self.chain(first, rest),
            Node::Call(name, arguments) => self.call(expr.offset, name, arguments),
        }
    }

    fn expect(&mut self, expr: &Expr, wanted: Kind, operator: &str) -> Result<Code, Error> {
        let (code, kind) = self.compile(expr)?;
        common(kind, wanted).map(|_| code).ok_or_else(|| mismatch(expr.offset, operator, wanted.word(), kind))
    }

    fn field(&mut self, path: &str, offset: usize, prior: bool) -> Result<(Code, Kind), Error> {
        let same = |known: &Reference| known.prior == prior && known.path.eq_ignore_ascii_case(path);
        if let Some(at) = self.references.iter().position(same) {
            return Ok((Code::Field(at), self.references[at].kind));
        }
        let missing = || Error::new(offset, format!("Field {path} does not exist. Check spelling."));
        let kind = self.fields.kind(path).ok_or_else(missing)?;
        self.references.push(Reference { path: path.to_owned(), kind, prior });
        Ok((Code::Field(self.references.len() - 1), kind))
    }

    fn chain(&mut self, first: &Expr, rest: &[(Op, Expr)]) -> Result<(Code, Kind), Error> {
        let (code, mut kind) = self.compile(first)?;
        // A picklist is no text: only some functions take it.
        let usable = |kind: Kind, expr: &Expr| match kind {
            Kind::Picklist | Kind::Multipicklist => {
                let message = "Field is a picklist field. Picklist fields are only supported in certain functions.";
                Err(Error::new(expr.offset, message))
            }
            kind => Ok(kind),
        };
        usable(kind, first)?;
        let mut steps = Vec::with_capacity(rest.len());
        for (op, expr) in rest {
            let (code, right) = self.compile(expr)?;
            usable(right, expr)?;
            let (step, result) = step(*op, kind, right).ok_or_else(|| match common(kind, right) {
                Some(_) => mismatch(first.offset, op.sign(), "Number", kind),
                None => mismatch(expr.offset, op.sign(), kind.word(), right),
            })?;
            kind = result;
            steps.push((step, code));
        }
        Ok((Code::Chain(Box::new(code), steps), kind))
    }

    fn call(&mut self, offset: usize, name: &str, arguments: &[Expr]) -> Result<(Code, Kind), Error> {
        let Some(signature) = signature(name) else {
            let upper = name.to_ascii_uppercase();
            let message = if ABSENT.contains(&upper.as_str()) {
                format!("{upper} is not supported here")
            } else {
                format!("Unknown function {upper}. Check spelling.")
            };
            return Err(Error::new(offset, message));
        };
        let count = arguments.len();
        let least = signature.takes.len() - signature.optional;
        let wrong = count < least || (!signature.more && count > signature.takes.len());
        if wrong || (signature.function == Function::Case && count % 2 == 1) {
            let expected = if count < least { least } else { signature.takes.len() };
            let message = format!(
                "Incorrect number of parameters for function '{}()'. Expected {expected}, received {count}",
                signature.name
            );
            return Err(Error::new(offset, message));
        }
        if matches!(signature.function, Function::PriorValue | Function::IsChanged) {
            return self.prior(signature, &arguments[0]);
        }
        let (mut codes, mut kinds) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (at, argument) in arguments.iter().enumerate() {
            let (code, kind) = self.compile(argument)?;
            let takes = signature.takes[at.min(signature.takes.len() - 1)];
            if !takes.accepts(kind) {
                return Err(mismatch(argument.offset, &format!("{}()", signature.name), takes.words(), kind));
            }
            codes.push(code);
            kinds.push(kind);
        }
        self.check(signature, arguments, &kinds)?;
        let kind = match signature.gives {
            Gives::Kind(kind) => kind,
            Gives::Like(at) => kinds[at],
            Gives::Common { from, step } => {
                let last = kinds.len() - 1;
                let mut places: Vec<usize> = (from..last).step_by(step).collect();
                places.push(last);
                let mut kind = Kind::Null;
                for at in places {
                    kind = common(kind, kinds[at]).ok_or_else(|| {
                        mismatch(arguments[at].offset, &format!("{}()", signature.name), kind.word(), kinds[at])
                    })?;
                }
                kind
            }
        };
        if let (Function::Regex, [_, Code::Constant(Value::Text(pattern))]) = (signature.function, codes.as_slice()) {
            let whole = fancy_regex::Regex::new(&format!("^(?:{pattern})$"));
            let whole = whole
                .map_err(|error| Error::new(arguments[1].offset, format!("the pattern cannot be read: {error}")))?;
            return Ok((Code::Matches(Box::new(codes.swap_remove(0)), Box::new(whole)), kind));
        }
        Ok((Code::Call(signature.function, codes), kind))
    }

    /// Checks what the kinds of the arguments alone do not say.
    fn check(&self, signature: &Signature, arguments: &[Expr], kinds: &[Kind]) -> Result<(), Error> {
        let literal = |at: usize| {
            if matches!(arguments[at].node, Node::Text(_)) {
                return Ok(());
            }
            let message = format!("Function {} takes a text in quotes here", signature.name);
            Err(Error::new(arguments[at].offset, message))
        };
        match signature.function {
            Function::IsPickVal | Function::Includes => literal(1),
            Function::Case => {
                let cases = (1..arguments.len() - 1).step_by(2);
                for at in cases {
                    if matches!(kinds[0], Kind::Picklist | Kind::Multipicklist) {
                        literal(at)?;
                    } else if common(kinds[0], kinds[at]).is_none() {
                        return Err(mismatch(arguments[at].offset, "CASE()", kinds[0].word(), kinds[at]));
                    }
                }
                Ok(())
            }
            Function::FormatDuration => match kinds {
                [Kind::Number] | [Kind::Number, Kind::Boolean] | [Kind::DateTime, Kind::DateTime] => Ok(()),
                _ => Err(mismatch(arguments[0].offset, "FORMATDURATION()", "Number, Date/Time", kinds[0])),
            },
            _ => Ok(()),
        }
    }

    /// What a field was before the change at hand.
    fn prior(&mut self, signature: &Signature, argument: &Expr) -> Result<(Code, Kind), Error> {
        let Node::Field(path) = &argument.node else {
            let message = format!("Function {} may only be used with a field", signature.name);
            return Err(Error::new(argument.offset, message));
        };
        let (before, kind) = self.field(path, argument.offset, true)?;
        if signature.function == Function::PriorValue {
            return Ok((before, kind));
        }
        let (now, _) = self.field(path, argument.offset, false)?;
        Ok((Code::Call(Function::IsChanged, vec![before, now]), Kind::Boolean))
    }
}

/// Returns what an operator does with two kinds, and what comes of it.
fn step(op: Op, left: Kind, right: Kind) -> Option<(Step, Kind)> {
    use Kind::{Boolean, Date, DateTime, Location, Null, Number, Text, Time};
    let both = common(left, right);
    Some(match op {
        Op::And | Op::Or if both == Some(Boolean) => (if op == Op::And { Step::And } else { Step::Or }, Boolean),
        Op::Equal | Op::NotEqual if both.is_some_and(|kind| kind != Location) => {
            (Step::Compare { op, texts: both == Some(Text) }, Boolean)
        }
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual
            if both.is_some_and(|kind| matches!(kind, Number | Text | Date | DateTime | Time | Null)) =>
        {
            (Step::Compare { op, texts: both == Some(Text) }, Boolean)
        }
        Op::Join if both.is_some_and(|kind| matches!(kind, Text | Null)) => (Step::Join, Text),
        Op::Add if both == Some(Text) => (Step::Join, Text),
        Op::Add => match (left, right) {
            (Number | Null, Number | Null) => (Step::Compute(op), Number),
            (kind @ (Date | DateTime | Time), Number | Null) | (Number | Null, kind @ (Date | DateTime | Time)) => {
                (Step::Compute(op), kind)
            }
            _ => return None,
        },
        Op::Subtract => match (left, right) {
            (Number | Null, Number | Null) => (Step::Compute(op), Number),
            (kind @ (Date | DateTime | Time), Number | Null) => (Step::Compute(op), kind),
            (Date, Date) | (DateTime, DateTime) | (Time, Time) => (Step::Compute(op), Number),
            _ => return None,
        },
        Op::Multiply | Op::Divide | Op::Power if both.is_some_and(|kind| matches!(kind, Number | Null)) => {
            (Step::Compute(op), Number)
        }
        _ => return None,
    })
}

fn mismatch(offset: usize, what: &str, expected: &str, received: Kind) -> Error {
    let kind = if what.ends_with("()") { "function" } else { "operator" };
    let received = received.word();
    Error::new(
        offset,
        format!("Incorrect parameter type for {kind} '{what}'. Expected {expected}, received {received}"),
    )
}
