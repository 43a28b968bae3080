//! The org's types and ours.

use ::salesforce::{Field as OrgField, Object};
use model::{Entity, Field, Picklist, Type};

/// Returns the type of a field; `None` for what no query of plain fields can carry.
fn kind(field: &OrgField) -> Option<Type> {
    Some(match field.kind.as_str() {
        "boolean" => Type::Boolean,
        "int" | "long" => Type::Integer,
        "currency" | "double" | "percent" if (1..=38).contains(&field.precision) => {
            Type::Decimal { precision: field.precision, scale: field.scale }
        }
        "currency" | "double" | "percent" => Type::Float,
        "date" => Type::Date,
        "datetime" => Type::Timestamp,
        "time" => Type::Time,
        // Compound fields are read by their parts; files are read one by one.
        "address" | "location" | "base64" => return None,
        _ => Type::Text,
    })
}

/// Returns the description of an object.
pub(crate) fn entity(object: &Object) -> Entity {
    let cursor =
        ["SystemModstamp", "LastModifiedDate", "CreatedDate"].into_iter().find(|name| object.field(name).is_some());
    let fields = object.fields.iter().filter_map(|field| {
        let kind = kind(field)?;
        let values = field.picklist_values.iter().filter(|value| value.active).map(|value| value.value.clone());
        Some(Field {
            label: field.label.clone(),
            length: (field.length > 0 && kind == Type::Text && field.kind != "id" && field.kind != "reference")
                .then_some(field.length),
            nillable: field.nillable,
            unique: field.unique || field.kind == "id",
            createable: field.createable,
            updateable: field.updateable,
            defaulted: field.defaulted_on_create || field.kind == "boolean",
            calculated: field.calculated || field.auto_number,
            formula: field.calculated_formula.clone(),
            external_id: field.external_id,
            filterable: field.filterable,
            picklist: (!field.picklist_values.is_empty())
                .then(|| Picklist { values: values.collect(), restricted: field.restricted_picklist }),
            references: field.reference_to.clone(),
            relationship: field.relationship_name.clone(),
            ..Field::new(field.name.clone(), kind).with_native(field.kind.clone())
        })
    });
    Entity {
        label: object.label.clone(),
        cursor: cursor.map(str::to_owned),
        writable: object.createable,
        ..Entity::new(object.name.clone()).with_key(["Id"]).with_fields(fields)
    }
}
