//! Functions of numbers and places.

use rust_decimal::RoundingStrategy;
use rust_decimal::prelude::{Decimal, FromPrimitive as _, MathematicalOps as _, ToPrimitive as _};

use super::Function;
use crate::NoValue;
use crate::evaluate::{Found, no_value, number_or_blank};
use crate::value::Value;

/// Radius of the earth in miles and kilometres, as for `DISTANCE` in queries.
const EARTH: [f64; 2] = [6_371.0 / 1.609_344, 6_371.0];
/// Digits that a result of floating point is told with.
const DIGITS: u32 = 15;

/// Calls a function of numbers; `None` for another.
pub(crate) fn call(function: Function, values: &[Value]) -> Option<Found> {
    let number = |at: usize| values.get(at).and_then(Value::number);
    let exact = |compute: &dyn Fn(Decimal) -> Decimal| Some(Ok(number_or_blank(number(0).map(compute))));
    let float = |compute: &dyn Fn(f64) -> f64| {
        Some(number(0).map_or(Ok(Value::Blank), |number| floating(compute(f(number))).map(Value::Number)))
    };
    match function {
        Function::Abs => exact(&|number| number.abs()),
        // Away from zero, and towards it. Source: Salesforce Help, CEILING and FLOOR.
        Function::Ceiling => exact(&|number| if number.is_sign_negative() { number.floor() } else { number.ceil() }),
        Function::Floor => exact(&|number| number.trunc()),
        Function::MCeiling => exact(&|number| number.ceil()),
        Function::MFloor => exact(&|number| number.floor()),
        Function::Round => Some(Ok(match (number(0), number(1)) {
            (Some(number), Some(digits)) => {
                Value::Number(rounded(number, &digits, RoundingStrategy::MidpointAwayFromZero))
            }
            _ => Value::Blank,
        })),
        Function::Trunc => Some(Ok(match (number(0), values.get(1).map_or(Some(Decimal::ZERO), Value::number)) {
            (Some(number), Some(digits)) => Value::Number(rounded(number, &digits, RoundingStrategy::ToZero)),
            _ => Value::Blank,
        })),
        Function::Mod => Some(match (number(0), number(1)) {
            (Some(_), Some(by)) if by.is_zero() => no_value("a number is divided by zero"),
            (Some(number), Some(by)) => Ok(Value::Number(number % by)),
            _ => Ok(Value::Blank),
        }),
        Function::Sqrt => Some(match number(0) {
            Some(number) => number
                .sqrt()
                .map_or_else(|| no_value("a negative number has no square root"), |root| Ok(Value::Number(root))),
            None => Ok(Value::Blank),
        }),
        Function::Exp => float(&f64::exp),
        Function::Ln | Function::Log => Some(match number(0) {
            Some(number) if number <= Decimal::ZERO => no_value("only a positive number has a logarithm"),
            Some(number) if function == Function::Ln => floating(f(number).ln()).map(Value::Number),
            Some(number) => floating(f(number).log10()).map(Value::Number),
            None => Ok(Value::Blank),
        }),
        Function::Sin => float(&f64::sin),
        Function::Cos => float(&f64::cos),
        Function::Tan => float(&f64::tan),
        Function::Asin => float(&f64::asin),
        Function::Acos => float(&f64::acos),
        Function::Atan => float(&f64::atan),
        Function::Atan2 => Some(match (number(0), number(1)) {
            (Some(y), Some(x)) => floating(f(y).atan2(f(x))).map(Value::Number),
            _ => Ok(Value::Blank),
        }),
        Function::Pi => Some(Ok(Value::Number(Decimal::PI))),
        Function::Geolocation => Some(Ok(match (number(0), number(1)) {
            (Some(latitude), Some(longitude)) => Value::Location(f(latitude), f(longitude)),
            _ => Value::Blank,
        })),
        Function::Distance => Some(distance(values)),
        _ => None,
    }
}

/// Returns a number as floating point.
pub(crate) fn f(number: Decimal) -> f64 {
    number.to_f64().unwrap_or(f64::NAN)
}

/// Returns a result of floating point, without the digits that are noise.
pub(crate) fn floating(number: f64) -> Result<Decimal, NoValue> {
    let found = Decimal::from_f64(number).and_then(|number| number.round_sf(DIGITS));
    found.map(|number| number.normalize()).ok_or_else(|| NoValue("there is no such number".to_owned()))
}

/// Rounds to a number of digits behind the point, or before it where that is negative.
fn rounded(number: Decimal, digits: &Decimal, strategy: RoundingStrategy) -> Decimal {
    let digits = digits.trunc().to_i32().unwrap_or_default();
    if digits >= 0 {
        return number.round_dp_with_strategy(digits.cast_unsigned().min(28), strategy);
    }
    let unit = Decimal::TEN.checked_powi(i64::from(-digits));
    // What is larger than any number rounds all of them to nothing.
    unit.map_or(Decimal::ZERO, |unit| (number / unit).round_dp_with_strategy(0, strategy) * unit)
}

/// The way between two places over the globe.
fn distance(values: &[Value]) -> Found {
    let radius = match values[2].text() {
        unit if unit.eq_ignore_ascii_case("mi") => EARTH[0],
        unit if unit.eq_ignore_ascii_case("km") => EARTH[1],
        unit => return no_value(format!("{unit:?} is no unit of distance: \"mi\" or \"km\"")),
    };
    let (Value::Location(from_lat, from_lon), Value::Location(to_lat, to_lon)) = (&values[0], &values[1]) else {
        return Ok(Value::Blank);
    };
    let (from, to) = (from_lat.to_radians(), to_lat.to_radians());
    let (north, east) = ((to - from) / 2.0, (to_lon - from_lon).to_radians() / 2.0);
    let half = north.sin().powi(2) + from.cos() * to.cos() * east.sin().powi(2);
    floating(2.0 * radius * half.sqrt().min(1.0).asin()).map(Value::Number)
}
