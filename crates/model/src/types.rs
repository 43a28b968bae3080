//! The types a field can have, and what is lost when one becomes another.

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

/// The time zone of every timestamp column: UTC, as an offset (Arrow needs no zone table for it).
const UTC: &str = "+00:00";

/// The type of a field, the same for every system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// True or false.
    Boolean,
    /// A whole number of 64 bits.
    Integer,
    /// A binary floating-point number of 64 bits; never money.
    Float,
    /// A decimal of `precision` digits, `scale` of them behind the point.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// Text of any length.
    Text,
    /// A calendar day without a zone.
    Date,
    /// A time of day, in microseconds, without a zone.
    Time,
    /// An instant, in microseconds since 1970 UTC.
    Timestamp,
    /// Bytes.
    Binary,
    /// A JSON document, carried as its text.
    Json,
}

/// What happens to values on the way from one type to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// The types are the same.
    Same,
    /// Every value has an exact counterpart.
    Lossless,
    /// Most values have a counterpart; one that has not is refused with its record.
    Checked,
    /// There is no sensible counterpart; the mapping needs an expression.
    Impossible,
}

impl Type {
    /// Returns the Arrow type in which columns of this type travel.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale.cast_signed()),
            Self::Text | Self::Json => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::Binary => DataType::Binary,
        }
    }

    /// Returns the type whose columns look like `arrow`, if there is one.
    pub fn from_arrow(arrow: &DataType) -> Option<Self> {
        Some(match arrow {
            DataType::Boolean => Self::Boolean,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => Self::Integer,
            DataType::UInt64 => Self::Decimal { precision: 20, scale: 0 },
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Float,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale) => {
                Self::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(_, _) => Self::Timestamp,
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
                Self::Binary
            }
            _ => return None,
        })
    }

    /// Says what happens to values of this type on their way to `target`.
    pub fn conversion_to(self, target: Self) -> Conversion {
        use Conversion::{Checked, Impossible, Lossless, Same};
        match (self, target) {
            (from, to) if from == to => Same,
            (Self::Binary, _) | (_, Self::Binary) => Impossible,
            (_, Self::Text) | (Self::Integer, Self::Decimal { scale: 0, precision: 19.. }) => Lossless,
            (Self::Json, _) => Impossible,
            (Self::Text, _) | (Self::Integer | Self::Float, Self::Decimal { .. }) => Checked,
            (Self::Decimal { precision, scale }, Self::Decimal { precision: to_precision, scale: to_scale }) => {
                if to_scale >= scale && to_precision.saturating_sub(to_scale) >= precision.saturating_sub(scale) {
                    Lossless
                } else {
                    Checked
                }
            }
            (Self::Decimal { .. } | Self::Float, Self::Integer) | (Self::Integer, Self::Float) => Checked,
            // 15 decimal digits always survive the way through a binary double.
            (Self::Decimal { precision: 0..=15, .. }, Self::Float) => Lossless,
            (Self::Decimal { .. }, Self::Float) => Checked,
            (Self::Date, Self::Timestamp) => Lossless,
            (Self::Timestamp, Self::Date | Self::Time) => Impossible,
            (_, Self::Json) => Checked,
            _ => Impossible,
        }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Integer => f.write_str("integer"),
            Self::Float => f.write_str("float"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Text => f.write_str("text"),
            Self::Date => f.write_str("date"),
            Self::Time => f.write_str("time"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Binary => f.write_str("binary"),
            Self::Json => f.write_str("json"),
        }
    }
}

impl std::str::FromStr for Type {
    type Err = String;

    /// Reads a type as [`Display`](std::fmt::Display) writes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let decimal = || {
            let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            ((1..=38).contains(&precision) && scale <= precision).then_some(Self::Decimal { precision, scale })
        };
        let simple = [
            Self::Boolean,
            Self::Integer,
            Self::Float,
            Self::Text,
            Self::Date,
            Self::Time,
            Self::Timestamp,
            Self::Binary,
            Self::Json,
        ];
        let known = simple.into_iter().find(|kind| kind.to_string() == text).or_else(decimal);
        known.ok_or_else(|| {
            let names: Vec<String> = simple.iter().map(Self::to_string).collect();
            format!("{text:?} is no type; there are {} and decimal(digits,digits behind the point)", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_are_written() {
        for kind in [Type::Text, Type::Timestamp, Type::Json, Type::Decimal { precision: 38, scale: 0 }] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for wrong in ["", "Text", "decimal(39,2)", "decimal(2,3)", "decimal", "decimal(1)"] {
            let error = wrong.parse::<Type>().expect_err(wrong);
            assert!(error.contains("there are boolean"), "{error}");
        }
    }

    #[test]
    fn conversions_say_what_is_lost() {
        use Conversion::{Checked, Impossible, Lossless, Same};
        let money = Type::Decimal { precision: 18, scale: 2 };
        let cases = [
            (Type::Text, Type::Text, Same),
            (Type::Integer, Type::Text, Lossless),
            (Type::Text, Type::Integer, Checked),
            (money, Type::Decimal { precision: 20, scale: 2 }, Lossless),
            (money, Type::Decimal { precision: 18, scale: 4 }, Checked),
            (money, Type::Float, Checked),
            (Type::Decimal { precision: 15, scale: 2 }, Type::Float, Lossless),
            (Type::Timestamp, Type::Date, Impossible),
            (Type::Date, Type::Timestamp, Lossless),
            (Type::Boolean, Type::Date, Impossible),
            (Type::Binary, Type::Text, Impossible),
        ];
        for (from, to, expected) in cases {
            assert_eq!(from.conversion_to(to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn every_type_survives_the_way_through_arrow() {
        let types = [
            Type::Boolean,
            Type::Integer,
            Type::Float,
            Type::Decimal { precision: 18, scale: 2 },
            Type::Text,
            Type::Date,
            Type::Time,
            Type::Timestamp,
            Type::Binary,
        ];
        for kind in types {
            assert_eq!(Type::from_arrow(&kind.arrow()), Some(kind));
        }
    }
}
