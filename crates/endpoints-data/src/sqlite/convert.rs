//! SQLite's types and ours. SQLite keeps what it is given; the declared type says what is meant.

use std::borrow::Cow;

use arrow::array::{Array, AsArray as _};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use model::{Field, Type, text_of};
use rusqlite::types::{Value, ValueRef};

/// Reads a declared type, such as `DECIMAL(18,2)` or `varchar(80)`, and the length that goes with it.
pub(crate) fn kind(native: &str) -> (Type, Option<u32>) {
    let upper = native.to_uppercase();
    let (word, arguments) = upper.split_once('(').unwrap_or((&upper, ""));
    let numbers: Vec<u32> =
        arguments.trim_end_matches(')').split(',').filter_map(|text| text.trim().parse().ok()).collect();
    let kind = match word.trim() {
        "BOOLEAN" | "BOOL" => Type::Boolean,
        "DATE" => Type::Date,
        "TIME" => Type::Time,
        "DATETIME" | "TIMESTAMP" | "TIMESTAMPTZ" => Type::Timestamp,
        "JSON" | "JSONB" => Type::Json,
        "DECIMAL" | "NUMERIC" => match numbers[..] {
            [precision @ 1..=38] => Type::Decimal { precision: precision as u8, scale: 0 },
            [precision @ 1..=38, scale] if scale <= precision => {
                Type::Decimal { precision: precision as u8, scale: scale as u8 }
            }
            _ => Type::Float,
        },
        word if word.contains("INT") => Type::Integer,
        word if word.contains("CHAR") || word.contains("CLOB") || word.contains("TEXT") => {
            return (Type::Text, numbers.first().copied());
        }
        "BLOB" => Type::Binary,
        word if word.contains("REAL") || word.contains("FLOA") || word.contains("DOUB") => Type::Float,
        _ => Type::Text,
    };
    (kind, None)
}

/// Writes the type of a field for a new table.
pub(crate) fn native(field: &Field) -> String {
    match field.kind {
        Type::Boolean => "BOOLEAN".to_owned(),
        Type::Integer => "INTEGER".to_owned(),
        Type::Float => "REAL".to_owned(),
        Type::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        Type::Text => "TEXT".to_owned(),
        Type::Json => "JSON".to_owned(),
        Type::Date => "DATE".to_owned(),
        Type::Time => "TIME".to_owned(),
        Type::Timestamp => "DATETIME".to_owned(),
        Type::Binary => "BLOB".to_owned(),
    }
}

/// Returns a value as text, bytes in hexadecimal; `None` for null. What is no UTF-8 keeps its place with a mark.
pub(crate) fn text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string().into()),
        ValueRef::Real(number) => Some(number.to_string().into()),
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) => {
            Some(bytes.iter().fold(String::from("\\x"), |text, byte| text + &format!("{byte:02x}")).into())
        }
    }
}

/// Returns what SQLite keeps for a value.
pub(crate) fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => Value::Integer(array.as_boolean().value(row).into()),
        DataType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Real(array.as_primitive::<Float64Type>().value(row)),
        DataType::Binary => Value::Blob(array.as_binary::<i32>().value(row).to_vec()),
        _ => text_of(array, row).map_or(Value::Null, |text| Value::Text(text.into_owned())),
    }
}
