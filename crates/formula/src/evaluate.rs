//! From what is checked to a value.

use std::cmp::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::prelude::{Decimal, MathematicalOps as _, ToPrimitive as _};

use crate::compile::{Code, Step};
use crate::functions::{Function, date, number, text};
use crate::parse::Op;
use crate::value::{Kind, Value, plain};
use crate::{Blanks, Moment, NoValue, Reference};

pub(crate) type Found = Result<Value, NoValue>;

/// Bytes of the longest text. Source: Salesforce Help, long text areas: 131,072 characters.
const LARGEST: usize = 1 << 19;
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

impl Code {
    /// True where the value changes as time goes on.
    pub(crate) fn is_timely(&self) -> bool {
        match self {
            Self::Constant(_) | Self::Field(_) => false,
            Self::Minus(inner) | Self::Not(inner) | Self::Matches(inner, _) => inner.is_timely(),
            Self::Chain(first, rest) => first.is_timely() || rest.iter().any(|(_, code)| code.is_timely()),
            Self::Call(function, arguments) => {
                matches!(function, Function::Now | Function::Today | Function::TimeNow)
                    || arguments.iter().any(Self::is_timely)
            }
        }
    }
}

pub(crate) struct Evaluator<'e> {
    pub(crate) values: &'e [Value],
    pub(crate) moment: &'e Moment,
    pub(crate) references: &'e [Reference],
    pub(crate) blanks: Blanks,
}

pub(crate) fn no_value<T>(why: impl Into<String>) -> Result<T, NoValue> {
    Err(NoValue(why.into()))
}

pub(crate) fn number_or_blank(number: Option<Decimal>) -> Value {
    number.map_or(Value::Blank, Value::Number)
}

/// Returns a text that was made, unless it is longer than any that an org keeps.
pub(crate) fn made(text: String) -> Found {
    if text.len() > LARGEST { no_value("a text is too long") } else { Ok(Value::of_text(text)) }
}

fn too_large() -> NoValue {
    NoValue("a number is too large".to_owned())
}

impl Evaluator<'_> {
    pub(crate) fn value(&self, code: &Code) -> Found {
        match code {
            Code::Constant(value) => Ok(value.clone()),
            Code::Field(at) => Ok(self.field(*at)),
            Code::Minus(inner) => Ok(number_or_blank(self.value(inner)?.number().map(|number| -number))),
            Code::Not(inner) => Ok(not(&self.value(inner)?)),
            Code::Chain(first, rest) => self.chain(first, rest),
            Code::Call(function, arguments) => self.call(*function, arguments),
            Code::Matches(inner, pattern) => text::matches(self.value(inner)?.text(), pattern),
        }
    }

    fn field(&self, at: usize) -> Value {
        let value = self.values.get(at).cloned().unwrap_or(Value::Blank);
        match (&value, self.references[at].kind) {
            (Value::Blank, Kind::Number) if self.blanks == Blanks::Zero => Value::Number(Decimal::ZERO),
            (Value::Blank, Kind::Boolean) => Value::Boolean(false),
            _ => value,
        }
    }

    fn chain(&self, first: &Code, rest: &[(Step, Code)]) -> Found {
        let mut left = self.value(first)?;
        for (step, code) in rest {
            left = match step {
                Step::And => Value::Boolean(left.holds() && self.value(code)?.holds()),
                Step::Or => Value::Boolean(left.holds() || self.value(code)?.holds()),
                Step::Compare { op, texts } => compare(&left, *op, &self.value(code)?, *texts),
                Step::Join => made(format!("{}{}", left.text(), self.value(code)?.text()))?,
                Step::Compute(op) => compute(&left, *op, &self.value(code)?)?,
            };
        }
        Ok(left)
    }

    fn call(&self, function: Function, arguments: &[Code]) -> Found {
        let boolean = |value: bool| Ok(Value::Boolean(value));
        let at = |place: usize| arguments.get(place).map_or(Ok(Value::Blank), |code| self.value(code));
        match function {
            Function::If => {
                let branch = if at(0)?.holds() { 1 } else { 2 };
                at(branch)
            }
            Function::And => {
                for code in arguments {
                    if !self.value(code)?.holds() {
                        return boolean(false);
                    }
                }
                boolean(true)
            }
            Function::Or => {
                for code in arguments {
                    if self.value(code)?.holds() {
                        return boolean(true);
                    }
                }
                boolean(false)
            }
            Function::Not => Ok(not(&at(0)?)),
            Function::Case => self.case(arguments),
            Function::BlankValue => {
                let value = at(0)?;
                if value.is_blank() { at(1) } else { Ok(value) }
            }
            // A text is never null. Source: Salesforce Help, NULLVALUE.
            Function::NullValue if self.is_text(&arguments[0]) => at(0),
            Function::NullValue => {
                let value = at(0)?;
                if value == Value::Blank { at(1) } else { Ok(value) }
            }
            Function::IsNull if self.is_text(&arguments[0]) => boolean(false),
            Function::IsNull | Function::IsBlank => boolean(at(0)?.is_blank()),
            Function::IsChanged => {
                let (before, now) = (at(0)?, at(1)?);
                boolean(!self.moment.is_new && before != now && !(before.is_blank() && now.is_blank()))
            }
            Function::PriorValue => at(0),
            Function::IsNew => boolean(self.moment.is_new),
            Function::IsClone => boolean(self.moment.is_clone),
            Function::IsPickVal => boolean(at(0)?.text() == at(1)?.text()),
            Function::Now => Ok(Value::DateTime(self.moment.now)),
            Function::Today => Ok(Value::Date(self.moment.now.with_timezone(&self.moment.zone).date_naive())),
            Function::TimeNow => Ok(Value::Time(self.moment.now.time())),
            Function::Text => Ok(Value::of_text(shown(&at(0)?))),
            Function::Max | Function::Min => {
                let wanted = if function == Function::Max { Ordering::Greater } else { Ordering::Less };
                let mut best: Option<Decimal> = None;
                for code in arguments {
                    let Some(number) = self.value(code)?.number() else { return Ok(Value::Blank) };
                    best = Some(best.filter(|best| best.cmp(&number) == wanted).unwrap_or(number));
                }
                Ok(number_or_blank(best))
            }
            _ => {
                let values = arguments.iter().map(|code| self.value(code)).collect::<Result<Vec<_>, _>>()?;
                match text::call(function, &values).or_else(|| number::call(function, &values)) {
                    Some(found) => found,
                    None => date::call(function, &values),
                }
            }
        }
    }

    /// True where a part is a text, which is never null.
    fn is_text(&self, code: &Code) -> bool {
        match code {
            Code::Constant(value) => matches!(value, Value::Text(_)),
            Code::Field(at) => self.references[*at].kind == Kind::Text,
            Code::Chain(_, rest) => rest.iter().any(|(step, _)| *step == Step::Join),
            _ => false,
        }
    }

    fn case(&self, arguments: &[Code]) -> Found {
        let (first, rest) = (self.value(&arguments[0])?, &arguments[1..]);
        let (cases, otherwise) = rest.split_at(rest.len() - 1);
        for pair in cases.chunks_exact(2) {
            let with = self.value(&pair[0])?;
            // Texts and choices are alike also where both are blank; of others nothing is known then.
            let texts = matches!((&first, &with), (Value::Text(_), _) | (_, Value::Text(_)))
                || (first.is_blank() && with.is_blank() && self.is_choice(&arguments[0]));
            if compare(&first, Op::Equal, &with, texts).holds() {
                return self.value(&pair[1]);
            }
        }
        self.value(&otherwise[0])
    }

    fn is_choice(&self, code: &Code) -> bool {
        match code {
            Code::Field(at) => matches!(self.references[*at].kind, Kind::Text | Kind::Picklist | Kind::Multipicklist),
            Code::Call(Function::Text, _) => true,
            _ => self.is_text(code),
        }
    }
}

/// What is not known is not known the other way round either.
fn not(value: &Value) -> Value {
    match value {
        Value::Boolean(value) => Value::Boolean(!value),
        _ => Value::Blank,
    }
}

/// Compares two values; a blank beside anything but a text makes it unknown.
pub(crate) fn compare(left: &Value, op: Op, right: &Value, texts: bool) -> Value {
    let order = match (left, right) {
        _ if texts => Some(left.text().cmp(right.text())),
        (Value::Number(left), Value::Number(right)) => Some(left.cmp(right)),
        (Value::Boolean(left), Value::Boolean(right)) => Some(left.cmp(right)),
        (Value::Boolean(known), Value::Blank) | (Value::Blank, Value::Boolean(known)) => Some(known.cmp(&false)),
        (Value::Date(left), Value::Date(right)) => Some(left.cmp(right)),
        (Value::DateTime(left), Value::DateTime(right)) => Some(left.cmp(right)),
        (Value::Time(left), Value::Time(right)) => Some(left.cmp(right)),
        _ => None,
    };
    let Some(order) = order else { return Value::Blank };
    Value::Boolean(match op {
        Op::Equal => order.is_eq(),
        Op::NotEqual => order.is_ne(),
        Op::Less => order.is_lt(),
        Op::LessOrEqual => order.is_le(),
        Op::Greater => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Returns a number of days as milliseconds.
fn milliseconds(days: Decimal) -> Result<TimeDelta, NoValue> {
    let millis = days.checked_mul(Decimal::from(DAY)).and_then(|millis| millis.round().to_i64());
    millis.and_then(TimeDelta::try_milliseconds).ok_or_else(too_large)
}

fn days(between: TimeDelta) -> Decimal {
    Decimal::from(between.num_milliseconds()) / Decimal::from(DAY)
}

fn compute(left: &Value, op: Op, right: &Value) -> Found {
    let out_of_range = || NoValue("a date is out of range".to_owned());
    let sign = if op == Op::Subtract { -Decimal::ONE } else { Decimal::ONE };
    Ok(match (left, right) {
        (Value::Number(left), Value::Number(right)) => Value::Number(arithmetic(*left, op, *right)?),
        (Value::Date(left), Value::Date(right)) => Value::Number(days(*left - *right)),
        (Value::DateTime(left), Value::DateTime(right)) => Value::Number(days(*left - *right)),
        // The clock goes on after midnight: from 23:00 to 01:00 are two hours.
        (Value::Time(left), Value::Time(right)) => {
            Value::Number(Decimal::from((*left - *right).num_milliseconds().rem_euclid(DAY)))
        }
        (Value::Date(date), Value::Number(number)) | (Value::Number(number), Value::Date(date)) => {
            // A part of a day leads to the day that it falls into.
            let moment = date.and_time(chrono::NaiveTime::MIN).checked_add_signed(milliseconds(sign * number)?);
            Value::Date(moment.ok_or_else(out_of_range)?.date())
        }
        (Value::DateTime(moment), Value::Number(number)) | (Value::Number(number), Value::DateTime(moment)) => {
            let moved: Option<DateTime<Utc>> = moment.checked_add_signed(milliseconds(sign * number)?);
            Value::DateTime(moved.ok_or_else(out_of_range)?)
        }
        (Value::Time(time), Value::Number(number)) | (Value::Number(number), Value::Time(time)) => {
            let millis = (sign * number).trunc().to_i64().and_then(TimeDelta::try_milliseconds);
            Value::Time(time.overflowing_add_signed(millis.ok_or_else(too_large)?).0)
        }
        _ => Value::Blank,
    })
}

fn arithmetic(left: Decimal, op: Op, right: Decimal) -> Result<Decimal, NoValue> {
    let result = match op {
        Op::Add => left.checked_add(right),
        Op::Subtract => left.checked_sub(right),
        Op::Multiply => left.checked_mul(right),
        Op::Divide if right.is_zero() => return no_value("a number is divided by zero"),
        Op::Divide => left.checked_div(right),
        _ if right.fract().is_zero() => right.to_i64().and_then(|power| left.checked_powi(power)),
        _ if left.is_sign_negative() => return no_value("a negative number has no such power"),
        _ => return number::floating(number::f(left).powf(number::f(right))),
    };
    result.ok_or_else(too_large)
}

/// Writes a value as `TEXT` does.
fn shown(value: &Value) -> String {
    match value {
        Value::Blank | Value::Location(..) => String::new(),
        Value::Text(text) => text.clone(),
        Value::Number(number) => plain(*number),
        Value::Boolean(value) => value.to_string(),
        Value::Date(date) => date.format("%Y-%m-%d").to_string(),
        Value::DateTime(moment) => moment.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        Value::Time(time) => time.format("%H:%M:%S%.3f").to_string(),
    }
}
