//! Avro datums to JSON and back.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::types::Value as Datum;
use apache_avro::writer::datum::GenericDatumWriter;
use chrono::DateTime;
use serde_json::{Map, Value, json};

/// Looks through a union to what it is when it is not null.
pub(super) fn solid(schema: &Schema) -> &Schema {
    match schema {
        Schema::Union(union) => union.variants().iter().find(|one| !matches!(one, Schema::Null)).unwrap_or(schema),
        other => other,
    }
}

/// Reads a datum: fields that are null are left out. Source: Avro specification, binary encoding.
pub(super) fn read(schema: &Schema, bytes: &mut &[u8]) -> Result<Map<String, Value>, String> {
    let Schema::Record(_) = schema else { return Err("the event is no record".to_owned()) };
    match value(schema, &mut HashMap::new(), bytes)? {
        Some(Value::Object(fields)) if bytes.is_empty() => Ok(fields),
        _ => Err(format!("{} bytes follow the event", bytes.len())),
    }
}

fn value<'s>(
    schema: &'s Schema,
    named: &mut HashMap<&'s str, &'s Schema>,
    bytes: &mut &[u8],
) -> Result<Option<Value>, String> {
    Ok(Some(match schema {
        Schema::Null => return Ok(None),
        Schema::Boolean => json!(take(bytes, 1)?[0] != 0),
        Schema::Int | Schema::Long | Schema::TimestampMillis => json!(number(bytes)?),
        Schema::Float => json!(f32::from_le_bytes(fixed(bytes)?)),
        Schema::Double => json!(f64::from_le_bytes(fixed(bytes)?)),
        Schema::String => json!(text(bytes)?),
        Schema::Enum(symbols) => json!(at(&symbols.symbols, number(bytes)?)?),
        Schema::Array(items) => {
            let mut values = Vec::new();
            loop {
                let count = number(bytes)?;
                // A negative count is followed by the bytes of the block.
                if count < 0 {
                    number(bytes)?;
                }
                for _ in 0..count.unsigned_abs() {
                    values.push(value(&items.items, named, bytes)?.unwrap_or_default());
                }
                if count == 0 {
                    break;
                }
            }
            Value::Array(values)
        }
        Schema::Union(union) => {
            for variant in union.variants() {
                note(variant, named);
            }
            return value(at(union.variants(), number(bytes)?)?, named, bytes);
        }
        Schema::Record(record) => {
            note(schema, named);
            let mut fields = Map::new();
            for field in &record.fields {
                if let Some(value) = value(&field.schema, named, bytes)? {
                    fields.insert(field.name.clone(), value);
                }
            }
            Value::Object(fields)
        }
        Schema::Ref { name } => {
            let known = named.get(name.name()).copied().ok_or_else(|| format!("{} is not described", name.name()))?;
            return value(known, named, bytes);
        }
        other => return Err(format!("events hold no {other:?}")),
    }))
}

/// Remembers a record that later fields may refer to by its name.
fn note<'s>(schema: &'s Schema, named: &mut HashMap<&'s str, &'s Schema>) {
    if let Schema::Record(record) = schema {
        named.insert(record.name.name(), schema);
    }
}

fn at<T>(these: &[T], place: i64) -> Result<&T, String> {
    let found = usize::try_from(place).ok().and_then(|place| these.get(place));
    found.ok_or_else(|| format!("there is no choice {place} among {}", these.len()))
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8], String> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or("the event is cut off")?;
    *bytes = rest;
    Ok(taken)
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    take(bytes, N)?.try_into().map_err(|_| "the event is cut off".to_owned())
}

/// Reads a whole number: seven bits a byte from the lowest, the sign last.
fn number(bytes: &mut &[u8]) -> Result<i64, String> {
    let mut value: u64 = 0;
    for place in 0..10 {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7F) << (place * 7);
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err("the event holds a number of more than 64 bits".to_owned())
}

fn text<'b>(bytes: &mut &'b [u8]) -> Result<&'b str, String> {
    let length = usize::try_from(number(bytes)?).map_err(|error| error.to_string())?;
    std::str::from_utf8(take(bytes, length)?).map_err(|error| error.to_string())
}

/// Writes an event of scalar fields; those that its schema wants and the event lacks get nothing of a value.
pub(super) fn encode(schema: &Schema, event: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let Schema::Record(record) = schema else { return Err("the schema is no record".to_owned()) };
    if let Some(name) = event.keys().find(|name| !record.fields.iter().any(|field| field.name == **name)) {
        return Err(format!("there is no field {name}"));
    }
    let mut fields = Vec::with_capacity(record.fields.len());
    for field in &record.fields {
        let value = event.get(&field.name).filter(|value| !value.is_null());
        let datum = match (value, &field.schema) {
            (None, Schema::Union(_)) => Datum::Union(0, Box::new(Datum::Null)),
            // The service fills in when, and by whom.
            (None, Schema::Long) => Datum::Long(0),
            (None, Schema::String) if field.name == "CreatedById" => Datum::String(String::new()),
            (None, _) => return Err(format!("{} has no value", field.name)),
            (Some(value), schema) => {
                let datum = scalar(solid(schema), value).ok_or_else(|| format!("{} can't be {value}", field.name))?;
                if matches!(schema, Schema::Union(_)) { Datum::Union(1, Box::new(datum)) } else { datum }
            }
        };
        fields.push((field.name.clone(), datum));
    }
    let writer = GenericDatumWriter::builder(schema).build();
    writer.and_then(|writer| writer.write_value_to_vec(Datum::Record(fields))).map_err(|error| error.to_string())
}

fn scalar(schema: &Schema, value: &Value) -> Option<Datum> {
    Some(match schema {
        Schema::Boolean => Datum::Boolean(value.as_bool()?),
        Schema::Int => Datum::Int(i32::try_from(value.as_i64()?).ok()?),
        Schema::Long => Datum::Long(match value.as_str() {
            None => value.as_i64()?,
            Some(text) => {
                let date =
                    text.parse::<chrono::NaiveDate>().map(|date| date.and_time(chrono::NaiveTime::MIN).and_utc());
                date.or_else(|_| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc())).ok()?.timestamp_millis()
            }
        }),
        Schema::Double => Datum::Double(value.as_f64()?),
        Schema::String => Datum::String(value.as_str()?.to_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_writes_is_read() {
        let schema = Schema::parse_str(
            r#"{"type":"record","name":"E","fields":[{"name":"l","type":"long"},{"name":"s","type":["null","string"]},
                {"name":"n","type":["null","double"]},{"name":"b","type":"boolean"},{"name":"k","type":{"type":"array","items":"string"}},
                {"name":"a","type":["null",{"type":"record","name":"A","fields":[{"name":"c","type":["null","string"]}]}]},
                {"name":"z","type":["null","A"]},{"name":"e","type":{"type":"enum","name":"K","symbols":["X","Y"]}}]}"#,
        )
        .expect("a schema");
        let part = |text: &str| {
            Datum::Record(vec![("c".to_owned(), Datum::Union(1, Box::new(Datum::String(text.to_owned()))))])
        };
        for long in [0, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let fields = [
                ("l", Datum::Long(long)),
                ("s", Datum::Union(1, Box::new(Datum::String("Vélo".to_owned())))),
                ("n", Datum::Union(0, Box::new(Datum::Null))),
                ("b", Datum::Boolean(true)),
                ("k", Datum::Array(vec![Datum::String("1".to_owned()), Datum::String(String::new())])),
                ("a", Datum::Union(0, Box::new(Datum::Null))),
                ("z", Datum::Union(1, Box::new(part("Ulm")))),
                ("e", Datum::Enum(1, "Y".to_owned())),
            ];
            let datum = Datum::Record(fields.map(|(name, datum)| (name.to_owned(), datum)).into());
            let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
            let bytes = writer.write_value_to_vec(datum).expect("a datum");
            let expected = json!({"l": long, "s": "Vélo", "b": true, "k": ["1", ""], "z": {"c": "Ulm"}, "e": "Y"});
            assert_eq!(read(&schema, &mut bytes.as_slice()).map(Value::Object), Ok(expected));
            // What is cut off, or goes on, is an error and no panic.
            for end in 0..bytes.len() {
                assert!(read(&schema, &mut &bytes[..end]).is_err(), "{end} bytes");
            }
            assert!(read(&schema, &mut [bytes.as_slice(), &[0]].concat().as_slice()).is_err());
        }
    }
}
