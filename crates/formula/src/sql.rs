//! Formulas as SQL of SQLite, as far as that says exactly the same: logic, choices and texts. Numbers are compared, and not
//! computed: decimal fractions are none of SQL's.

use crate::compile::{Code, Step};
use crate::functions::Function;
use crate::parse::Op;
use crate::value::{Kind, Value};
use crate::{Blanks, Formula};

/// Digits up to which a number means the same as a fraction of two.
const DIGITS: usize = 15;

/// What a part is in SQL. A blank is null; a blank text may also be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Boolean,
    Number,
    /// A date, or a date and time, as it is stored.
    Moment(Kind),
}

struct Part {
    sql: String,
    shape: Shape,
}

impl Part {
    fn new(shape: Shape, sql: String) -> Self {
        Self { sql, shape }
    }

    /// Returns it as what is true, or is not.
    fn holds(&self) -> Option<String> {
        (self.shape == Shape::Boolean).then(|| format!("(({}) IS TRUE)", self.sql))
    }

    /// Returns it as a text that is never null.
    fn text(&self) -> Option<String> {
        (self.shape == Shape::Text).then(|| format!("coalesce({},'')", self.sql))
    }
}

impl Formula {
    /// Returns an SQL expression of SQLite with the formula's value, over an expression for each reference; `None` where
    /// that would not be exact, or an expression that it needs is missing. A text that is blank is null, a truth is 1, 0 or
    /// null.
    pub fn to_sql(&self, columns: &[Option<String>]) -> Option<String> {
        let writer = Writer { formula: self, columns };
        let part = writer.part(&self.code)?;
        match part.shape {
            Shape::Text => Some(format!("nullif({} COLLATE BINARY,'')", part.sql)),
            Shape::Boolean | Shape::Moment(_) => Some(part.sql),
            // What a number is rounded to is the field's matter.
            Shape::Number => None,
        }
    }
}

struct Writer<'f> {
    formula: &'f Formula,
    columns: &'f [Option<String>],
}

fn literal(text: &str) -> Option<String> {
    // A text ends where SQL sees a zero byte.
    (!text.contains('\0')).then(|| format!("'{}'", text.replace('\'', "''")))
}

impl Writer<'_> {
    fn part(&self, code: &Code) -> Option<Part> {
        match code {
            Code::Constant(value) => Self::constant(value),
            Code::Field(at) => self.field(*at),
            Code::Not(inner) => {
                let inner = self.part(inner)?;
                (inner.shape == Shape::Boolean).then(|| Part::new(Shape::Boolean, format!("(NOT ({}))", inner.sql)))
            }
            Code::Chain(first, rest) => {
                let mut left = self.part(first)?;
                for (step, code) in rest {
                    left = Self::step(left, *step, self.part(code)?)?;
                }
                Some(left)
            }
            Code::Call(function, arguments) => self.call(*function, arguments),
            Code::Minus(_) | Code::Matches(..) => None,
        }
    }

    fn constant(value: &Value) -> Option<Part> {
        match value {
            Value::Text(text) => Some(Part::new(Shape::Text, literal(text)?)),
            Value::Boolean(value) => Some(Part::new(Shape::Boolean, i32::from(*value).to_string())),
            Value::Number(number) => {
                let text = number.normalize().to_string();
                let digits = text.chars().filter(char::is_ascii_digit).count();
                (digits <= DIGITS).then(|| Part::new(Shape::Number, format!("CAST('{text}' AS REAL)")))
            }
            _ => None,
        }
    }

    fn field(&self, at: usize) -> Option<Part> {
        let column = self.columns.get(at)?.as_ref()?;
        let kind = self.formula.references.get(at)?.kind;
        Some(match kind {
            Kind::Text | Kind::Picklist => Part::new(Shape::Text, column.clone()),
            Kind::Boolean => Part::new(Shape::Boolean, format!("(coalesce({column},0)<>0)")),
            Kind::Number if self.formula.blanks == Blanks::Zero => {
                Part::new(Shape::Number, format!("coalesce({column},0.0)"))
            }
            Kind::Number => Part::new(Shape::Number, column.clone()),
            Kind::Date => Part::new(Shape::Moment(kind), column.clone()),
            _ => return None,
        })
    }

    fn step(left: Part, step: Step, right: Part) -> Option<Part> {
        let boolean = |sql: String| Some(Part::new(Shape::Boolean, sql));
        match step {
            Step::And => boolean(format!("({} AND {})", left.holds()?, right.holds()?)),
            Step::Or => boolean(format!("({} OR {})", left.holds()?, right.holds()?)),
            Step::Join => Some(Part::new(Shape::Text, format!("({}||{})", left.text()?, right.text()?))),
            Step::Compare { op, texts } => boolean(Self::compare(&left, op, &right, texts)?),
            Step::Compute(_) => None,
        }
    }

    fn compare(left: &Part, op: Op, right: &Part, texts: bool) -> Option<String> {
        let op = match op {
            Op::Equal => "=",
            Op::NotEqual => "<>",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
            _ => return None,
        };
        if left.shape != right.shape {
            return None;
        }
        Some(match left.shape {
            // The collation of what stands left counts, and that of a column goes with it.
            Shape::Text if texts => format!("({} COLLATE BINARY {op} {})", left.text()?, right.text()?),
            Shape::Text => return None,
            // A truth that is blank is no truth, and beside another nothing is known.
            Shape::Boolean if matches!(op, "=" | "<>") => {
                let (left, right) = (&left.sql, &right.sql);
                format!(
                    "(CASE WHEN {left} IS NULL AND {right} IS NULL THEN NULL ELSE coalesce({left},0) {op} coalesce({right},0) END)"
                )
            }
            Shape::Boolean => return None,
            Shape::Number => format!("(({}) {op} ({}))", left.sql, right.sql),
            Shape::Moment(_) => format!("(({}) COLLATE BINARY {op} ({}))", left.sql, right.sql),
        })
    }

    fn call(&self, function: Function, arguments: &[Code]) -> Option<Part> {
        let part = |at: usize| self.part(arguments.get(at)?);
        let all = |word: &str| {
            let parts: Option<Vec<String>> = arguments.iter().map(|code| self.part(code)?.holds()).collect();
            Some(Part::new(Shape::Boolean, format!("({})", parts?.join(word))))
        };
        let boolean = |sql: String| Some(Part::new(Shape::Boolean, sql));
        match function {
            Function::And => all(" AND "),
            Function::Or => all(" OR "),
            Function::Not => {
                let inner = part(0)?;
                inner.holds()?;
                boolean(format!("(NOT ({}))", inner.sql))
            }
            Function::If => {
                let (then, otherwise) = (part(1)?, part(2)?);
                let sql = format!("CASE WHEN {} THEN {} ELSE {} END", part(0)?.holds()?, then.sql, otherwise.sql);
                (then.shape == otherwise.shape).then(|| Part::new(then.shape, format!("({sql})")))
            }
            Function::IsBlank => {
                let inner = part(0)?;
                match inner.shape {
                    Shape::Text => boolean(format!("({} COLLATE BINARY = '')", inner.text()?)),
                    _ => boolean(format!("(({}) IS NULL)", inner.sql)),
                }
            }
            Function::BlankValue => {
                let (value, otherwise) = (part(0)?, part(1)?);
                let text = value.shape == Shape::Text;
                let known = if text { format!("nullif({} COLLATE BINARY,'')", value.sql) } else { value.sql };
                (value.shape == otherwise.shape)
                    .then(|| Part::new(value.shape, format!("coalesce({known},{})", otherwise.sql)))
            }
            Function::IsPickVal => boolean(format!("({} COLLATE BINARY = {})", part(0)?.text()?, part(1)?.text()?)),
            Function::Text => part(0).filter(|part| part.shape == Shape::Text),
            _ => None,
        }
    }
}
