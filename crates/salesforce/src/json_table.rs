//! Between the JSON of REST and Arrow.

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use model::{Column, Type, text_of};
use serde_json::{Map, Value};

use crate::error::Error;

/// Reads records of JSON into batches, and batches into records.
#[derive(Debug, Clone)]
pub struct JsonTable {
    schema: SchemaRef,
    kinds: Vec<Type>,
}

impl JsonTable {
    /// Returns a table of this schema; `kinds` has the type of each column.
    pub fn new(schema: SchemaRef, kinds: Vec<Type>) -> Self {
        Self { schema, kinds }
    }

    /// Returns the records as a batch. A field that a record lacks is an error: not read is not null.
    ///
    /// # Errors
    ///
    /// A missing field, or a value that is not of its field's type.
    pub fn read(&self, records: &[Map<String, Value>]) -> Result<RecordBatch, Error> {
        let mut arrays = Vec::with_capacity(self.kinds.len());
        for (field, kind) in self.schema.fields().iter().zip(&self.kinds) {
            let mut column = Column::new(*kind);
            for (row, record) in records.iter().enumerate() {
                let value = find(record, field.name());
                let taken = match value {
                    Some(Value::Null) => {
                        column.push_null();
                        true
                    }
                    Some(Value::String(text)) => column.push(text),
                    Some(other) => column.push(&other.to_string()),
                    None => false,
                };
                if !taken {
                    let value = value.map_or_else(|| "not in the answer".to_owned(), Value::to_string);
                    return Err(Error::BadValue {
                        field: field.name().clone(),
                        row: row + 1,
                        expected: kind.to_string(),
                        value: value.chars().take(20).collect(),
                    });
                }
            }
            arrays.push(column.finish());
        }
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| Error::BadAnswer { what: "a query".to_owned(), source: error.into() })
    }
}

/// Finds a value; a dotted name leads through the parent, which may be null.
fn find<'r>(record: &'r Map<String, Value>, name: &str) -> Option<&'r Value> {
    if let Some((relationship, rest)) = name.split_once('.') {
        return match find(record, relationship)? {
            Value::Object(parent) => find(parent, rest),
            other => Some(other),
        };
    }
    record.get(name).or_else(|| record.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// Returns one row as the fields of a record: nulls stay, numbers and booleans are those of JSON. A column
/// named `Parent__r.Key__c` becomes the nested reference by external id.
pub fn record(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let mut fields = Map::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let value = json_value(column.as_ref(), row);
        match field.name().split_once('.') {
            None => fields.insert(field.name().clone(), value),
            Some((relationship, _)) if value.is_null() => fields.insert(relationship.to_owned(), Value::Null),
            Some((relationship, key)) => {
                fields.insert(relationship.to_owned(), Value::Object(Map::from_iter([(key.to_owned(), value)])))
            }
        };
    }
    fields
}

fn json_value(column: &dyn Array, row: usize) -> Value {
    let Some(text) = text_of(column, row) else { return Value::Null };
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 | DataType::Float64 | DataType::Decimal128(_, _) => {
            serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()))
        }
        _ => Value::String(text.into_owned()),
    }
}
