//! Rows as JSON objects whose values keep their text, with all their digits.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use model::text_of;
use serde_json::value::RawValue;

/// Writes a row as an object: numbers and booleans bare, with all their digits; nested documents as they are.
pub(crate) fn write<W: Write>(output: &mut W, records: &RecordBatch, row: usize) -> std::io::Result<()> {
    output.write_all(b"{")?;
    for (place, (field, column)) in records.schema_ref().fields().iter().zip(records.columns()).enumerate() {
        if place > 0 {
            output.write_all(b",")?;
        }
        serde_json::to_writer(&mut *output, field.name())?;
        output.write_all(b":")?;
        match (text_of(column.as_ref(), row), column.data_type()) {
            (None, _) => output.write_all(b"null")?,
            (Some(text), DataType::Boolean | DataType::Int64 | DataType::Decimal128(_, _)) => {
                output.write_all(text.as_bytes())?;
            }
            (Some(text), _) => serde_json::to_writer(&mut *output, text.as_ref())?,
        }
    }
    output.write_all(b"}")
}

/// Returns the texts of these fields; null is none, and so is a field that is not there.
pub(crate) fn cells(fields: &[(String, Box<RawValue>)], names: &[String]) -> Vec<Option<String>> {
    let value = |name: &String| {
        let raw = fields.iter().rev().find(|(field, _)| field == name)?.1.get();
        match raw.as_bytes().first() {
            Some(b'n') => None,
            Some(b'"') => serde_json::from_str(raw).ok(),
            _ => Some(raw.to_owned()),
        }
    };
    names.iter().map(value).collect()
}

/// Reads a text as an object whose values keep their text.
pub(crate) fn object(text: &[u8]) -> std::result::Result<Vec<(String, Box<RawValue>)>, String> {
    struct Fields;
    impl<'de> serde::de::Visitor<'de> for Fields {
        type Value = Vec<(String, Box<RawValue>)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(entry) = map.next_entry()? {
                fields.push(entry);
            }
            Ok(fields)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let fields = serde::Deserializer::deserialize_map(&mut reader, Fields).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(fields)
}
