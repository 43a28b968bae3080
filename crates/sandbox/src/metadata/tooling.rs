//! What the Tooling API tells of the metadata: records of objects that only it has.

use std::collections::HashMap;

use rusqlite::{Connection, ToSql, params};

use super::{Held, Sort};
use crate::schema::Schema;
use crate::store::quoted;

/// Returns the schema with the objects of the Tooling API.
pub(crate) fn schema(of: &Schema) -> Schema {
    let mut schema = of.clone();
    schema.read(include_str!("../../data/tooling.txt"));
    schema
}

/// Replaces the records of an object.
struct Table<'c>(&'c Connection, &'static str);

impl<'c> Table<'c> {
    fn emptied(connection: &'c Connection, name: &'static str) -> rusqlite::Result<Self> {
        connection.execute(&format!("DELETE FROM {}", quoted(name)), [])?;
        Ok(Self(connection, name))
    }

    fn add(&self, values: &[(&str, &dyn ToSql)]) -> rusqlite::Result<()> {
        let names: Vec<String> = values.iter().map(|(name, _)| quoted(name)).collect();
        let marks = vec!["?"; values.len()].join(",");
        let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(self.1), names.join(","));
        let values: Vec<&dyn ToSql> = values.iter().map(|(_, value)| *value).collect();
        self.0.prepare_cached(&sql)?.execute(values.as_slice())?;
        Ok(())
    }
}

/// Makes the records anew from what the org is made of; `schema` has the objects of the Tooling API.
pub(crate) fn fill(connection: &Connection, schema: &Schema, held: &[Held]) -> rusqlite::Result<()> {
    let bare = |name: &str| name.trim_end_matches("__c").trim_end_matches("__e").trim_end_matches("__mdt").to_owned();
    let ids: HashMap<(&str, String), &str> = held
        .iter()
        .map(|held| {
            ((held.component.of.name, held.component.name.to_lowercase()), held.id.get(..15).unwrap_or_default())
        })
        .collect();
    let id_of = |of: &'static str, name: &str| ids.get(&(of, name.to_lowercase())).map(|id| (*id).to_owned());
    let entities = Table::emptied(connection, "EntityDefinition")?;
    let fields = Table::emptied(connection, "FieldDefinition")?;
    for object in schema.objects() {
        let durable =
            id_of("CustomObject", &object.name).filter(|_| object.custom).unwrap_or_else(|| object.name.clone());
        let name = bare(&object.name);
        entities.add(&[
            ("Id", &durable),
            ("DurableId", &durable),
            ("QualifiedApiName", &object.name),
            ("DeveloperName", &name),
            ("Label", &object.label),
            ("MasterLabel", &object.label),
            ("PluralLabel", &object.plural),
            ("KeyPrefix", &object.prefix),
            ("InternalSharingModel", &object.sharing.word()),
            ("IsCustomizable", &!object.setup),
            ("IsQueryable", &!object.is_event()),
            ("IsTriggerable", &!object.setup),
        ])?;
        for field in &object.fields {
            let own = id_of("CustomField", &format!("{}.{}", object.name, field.name));
            let part = own.unwrap_or_else(|| bare(&field.name));
            let field_durable = format!("{durable}.{part}");
            fields.add(&[
                ("Id", &field_durable),
                ("DurableId", &field_durable),
                ("EntityDefinitionId", &durable),
                ("QualifiedApiName", &field.name),
                ("DeveloperName", &bare(&field.name)),
                ("Label", &field.label),
                ("MasterLabel", &field.label),
                ("DataType", &data_type(field)),
                ("ValueTypeId", &field.kind.word()),
                ("Length", &field.length),
                ("Precision", &field.precision),
                ("Scale", &field.scale),
                ("RelationshipName", &field.relationship),
                ("IsCalculated", &field.calculated),
                ("IsIndexed", &(field.id_lookup || field.unique || !field.targets.is_empty())),
                ("IsNillable", &field.nillable),
                ("IsCompound", &field.kind.compound()),
            ])?;
        }
    }
    let objects = Table::emptied(connection, "CustomObject")?;
    let custom_fields = Table::emptied(connection, "CustomField")?;
    let rules = Table::emptied(connection, "ValidationRule")?;
    for held in held {
        let one = &held.component;
        let (whole, part) = one.split();
        let durable = id_of("CustomObject", whole).filter(|_| whole.contains("__")).unwrap_or_else(|| whole.to_owned());
        let xml = one.xml().unwrap_or_default();
        let text = |tag: &str| xml.text(tag).map(str::to_owned);
        let common: [(&str, &dyn ToSql); 6] = [
            ("Id", &held.id),
            ("CreatedDate", &held.created),
            ("CreatedById", &held.created_by),
            ("LastModifiedDate", &held.modified),
            ("LastModifiedById", &held.modified_by),
            ("SystemModstamp", &held.modified),
        ];
        let (description, state) = (text("description"), "unmanaged");
        match one.of.name {
            "CustomObject" if one.name.contains("__") => {
                let (name, sharing) = (bare(whole), text("sharingModel"));
                let own: [(&str, &dyn ToSql); 4] = [
                    ("DeveloperName", &name),
                    ("ManageableState", &state),
                    ("Description", &description),
                    ("SharingModel", &sharing),
                ];
                objects.add(&[common.as_slice(), &own].concat())?;
            }
            "CustomField" if part.ends_with("__c") => {
                let name = bare(part);
                let own: [(&str, &dyn ToSql); 4] = [
                    ("DeveloperName", &name),
                    ("ManageableState", &state),
                    ("TableEnumOrId", &durable),
                    ("EntityDefinitionId", &durable),
                ];
                custom_fields.add(&[common.as_slice(), &own].concat())?;
            }
            "ValidationRule" => {
                let (field, message, active) =
                    (text("errorDisplayField"), text("errorMessage"), xml.text("active") == Some("true"));
                let own: [(&str, &dyn ToSql); 7] = [
                    ("ValidationName", &part),
                    ("ManageableState", &state),
                    ("Active", &active),
                    ("Description", &description),
                    ("ErrorDisplayField", &field),
                    ("ErrorMessage", &message),
                    ("EntityDefinitionId", &durable),
                ];
                rules.add(&[common.as_slice(), &own].concat())?;
            }
            "ApexClass" | "ApexTrigger" if one.of.sort == Sort::Content => code(connection, held)?,
            _ => {}
        }
    }
    Ok(())
}

/// Keeps the record of a class or a trigger, which nobody compiles.
fn code(connection: &Connection, held: &Held) -> rusqlite::Result<()> {
    let one = &held.component;
    let body = one.files.iter().find(|(path, _)| !path.ends_with("-meta.xml"));
    let body = body.map(|(_, body)| String::from_utf8_lossy(body).into_owned()).unwrap_or_default();
    let version: Option<f64> = one.xml().ok().and_then(|xml| xml.text("apiVersion")?.parse().ok());
    let table = quoted(one.of.name);
    connection.execute(&format!("DELETE FROM {table} WHERE \"Name\"=?"), [&one.name])?;
    connection.execute(
        &format!(
            "INSERT INTO {table} (\"Id\",\"Name\",\"Status\",\"Body\",\"ApiVersion\",\"CreatedDate\",\"CreatedById\",\
             \"LastModifiedDate\",\"LastModifiedById\",\"SystemModstamp\") VALUES (?1,?2,'Active',?3,?4,?5,?6,?7,?8,?7)"
        ),
        params![held.id, one.name, body, version, held.created, held.created_by, held.modified, held.modified_by],
    )?;
    Ok(())
}

/// Returns the type of a field as Setup shows it.
fn data_type(field: &crate::schema::Field) -> String {
    use crate::schema::Kind;
    match field.kind {
        _ if field.formula.is_some() => "Formula".to_owned(),
        _ if field.summary.is_some() => "Roll-Up Summary".to_owned(),
        Kind::String => format!("Text({})", field.length),
        Kind::Textarea if field.length > 255 => format!("Long Text Area({})", field.length),
        Kind::Textarea => "Text Area(255)".to_owned(),
        Kind::Boolean => "Checkbox".to_owned(),
        Kind::Double | Kind::Int => format!("Number({}, {})", field.precision.saturating_sub(field.scale), field.scale),
        Kind::Currency => format!("Currency({}, {})", field.precision.saturating_sub(field.scale), field.scale),
        Kind::Percent => format!("Percent({}, {})", field.precision.saturating_sub(field.scale), field.scale),
        Kind::Date => "Date".to_owned(),
        Kind::Datetime => "Date/Time".to_owned(),
        Kind::Reference if field.master => format!("Master-Detail({})", field.targets.join(",")),
        Kind::Reference => format!("Lookup({})", field.targets.join(",")),
        Kind::Picklist => "Picklist".to_owned(),
        Kind::Multipicklist => "Picklist (Multi-Select)".to_owned(),
        other => {
            let word = other.word();
            word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default()
        }
    }
}
