//! Rows of an upload, made into records.

use serde_json::{Map, Value, json};

use crate::error::{Answered, ApiError};
use crate::schema::{Kind, Object};
use crate::store::Store;

/// Text that clears a field. Source: Bulk API 2.0 guide, "Prepare CSV files".
const NULL: &str = "#N/A";

/// What is done with each row.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) external_id: Option<String>,
}

/// What a column of an upload is for.
pub(super) enum Column {
    Field(String),
    Parent { relationship: String, key: String, target: Option<String> },
}

/// Reads the header of a column.
pub(super) fn column(object: &Object, header: &str) -> Result<Column, String> {
    let unknown = || format!("InvalidBatch : Field name not found : {header}");
    if let Some(field) = object.field(header) {
        return Ok(Column::Field(field.name.clone()));
    }
    let (path, key) = header.rsplit_once('.').ok_or_else(unknown)?;
    let (target, relationship) = path.split_once(':').map_or((None, path), |(target, path)| (Some(target), path));
    let field = object.parent(relationship).ok_or_else(unknown)?;
    if target.is_some() && field.targets.len() == 1 {
        return Err(format!("InvalidBatch : type is not needed for non-polymorphic reference : {header}"));
    }
    Ok(Column::Parent { relationship: relationship.to_owned(), key: key.to_owned(), target: target.map(str::to_owned) })
}

/// Makes a record of the cells of a row; an empty cell says nothing.
pub(super) fn record<'c>(columns: &[Column], cells: impl Iterator<Item = &'c str>) -> Map<String, Value> {
    let mut values = Map::new();
    for (column, cell) in columns.iter().zip(cells) {
        if cell.is_empty() {
            continue;
        }
        let value = if cell == NULL { Value::Null } else { Value::String(cell.to_owned()) };
        match column {
            Column::Field(name) => values.insert(name.clone(), value),
            Column::Parent { relationship, key, target } => {
                let mut parent = json!({key: value});
                if let Some(target) = target {
                    parent["attributes"] = json!({"type": target});
                }
                values.insert(relationship.clone(), if cell == NULL { Value::Null } else { parent })
            }
        };
    }
    values
}

impl Operation {
    /// Writes one record; returns its id and whether it is new.
    pub(super) fn write(
        &self,
        store: &mut Store<'_>,
        object: &Object,
        values: &Map<String, Value>,
    ) -> Answered<(String, bool)> {
        let missing = |name: &str| ApiError::new(400, "MISSING_ARGUMENT", format!("{name} not specified"));
        // Bulk has its own code for a value of the wrong type.
        let bulk = |mut error: ApiError| {
            if error.code == "JSON_PARSER_ERROR" {
                "INVALID_TYPE_ON_FIELD_IN_RECORD".clone_into(&mut error.code);
                let field = error.fields.first().and_then(|name| object.field(name));
                let label = field.map_or("", |field| field.label.as_str());
                let value = field.and_then(|field| values.get(&field.name)?.as_str()).unwrap_or_default();
                error.message = format!("{label}: value not of required type: {value}");
            }
            error
        };
        let take = |name: &str| {
            let key = values.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
            let mut rest = values.clone();
            let value = key.and_then(|key| rest.remove(&key)).unwrap_or_default();
            (value, rest)
        };
        match self.name.as_str() {
            "insert" => Ok((store.insert(object, values).map_err(bulk)?, true)),
            "upsert" => {
                let key = self.external_id.as_deref().and_then(|name| object.field(name));
                let key = key.ok_or_else(ApiError::not_found)?;
                let (value, rest) = take(&key.name);
                if value.is_null() && key.kind != Kind::Id {
                    return Err(missing(&key.name));
                }
                store.upsert(object, key, &value, &rest).map_err(bulk)
            }
            operation => {
                let (id, rest) = take("Id");
                let id = id.as_str().ok_or_else(|| missing("Id"))?.to_owned();
                match operation {
                    "update" => store.update(object, &id, &rest).map_err(bulk)?,
                    _ => store.delete(object, &id, operation == "hardDelete")?,
                }
                Ok((crate::id::normal(&id).unwrap_or(id), false))
            }
        }
    }
}
