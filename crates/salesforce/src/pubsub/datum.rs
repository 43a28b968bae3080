//! Avro datums to JSON and back.

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

/// Returns a datum as JSON; bytes, of which events have none, as null.
pub(super) fn json(datum: Datum) -> Value {
    match datum {
        Datum::Boolean(value) => json!(value),
        Datum::Int(value) => json!(value),
        Datum::Long(value) | Datum::TimestampMillis(value) => json!(value),
        Datum::Float(value) => json!(value),
        Datum::Double(value) => json!(value),
        Datum::String(value) | Datum::Enum(_, value) => json!(value),
        Datum::Union(_, inner) => json(*inner),
        Datum::Array(items) => Value::Array(items.into_iter().map(json).collect()),
        Datum::Record(fields) => Value::Object(fields.into_iter().map(|(name, datum)| (name, json(datum))).collect()),
        _ => Value::Null,
    }
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
