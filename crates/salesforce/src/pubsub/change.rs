//! What a change event says: which records, what happened to them, and the fields that changed, named by bitmaps.

use apache_avro::Schema;
use serde_json::{Map, Value};

use super::Body;
use super::datum::{self, solid};

/// What happened to records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// They were made: the event has all fields that are not null.
    Create,
    /// They were changed: the event has the fields that changed.
    Update,
    /// They went to the recycle bin.
    Delete,
    /// They came back from it: the event has all fields that are not null.
    Undelete,
    /// Something happened that the event does not tell: the records are to be read.
    Gap,
    /// So much happened to the object that no records are named: what changed since is to be looked for.
    Overflow,
}

/// A change of one or more records of an object, which came about in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The object.
    pub object: String,
    /// Ids of the records, which changed alike; none of an overflow.
    pub ids: Vec<String>,
    /// What happened.
    pub kind: ChangeKind,
    /// How the writer reached the org, such as `com/salesforce/api/rest/66.0;client=NAME`.
    pub origin: String,
    /// Known by all changes of the transaction alike.
    pub transaction: String,
    /// Its place in the transaction, from 1.
    pub sequence: i64,
    /// Grows from commit to commit.
    pub commit_number: i64,
    /// When the transaction was committed, in milliseconds since 1970.
    pub committed: i64,
    /// Id of the user.
    pub user: String,
    /// The fields that the event tells of, by their names in the API, those that became null among them. Dates and times
    /// are milliseconds since 1970; by the Streaming API they are text as REST has it.
    pub fields: Map<String, Value>,
    /// Fields that changed and whose values are told as differences: they are to be read.
    pub unread: Vec<String>,
}

/// Reads an event: a change if it has the header of one.
pub(super) fn read(schema: &Schema, mut payload: &[u8]) -> Result<Body, String> {
    let mut fields = datum::read(schema, &mut payload)?;
    let Some(header) = fields.remove("ChangeEventHeader") else { return Ok(Body::Platform(fields)) };
    let named = |name: &str| paths(schema, &texts(&header, name));
    let (changed, different) = ([named("changedFields")?, named("nulledFields")?].concat(), named("diffFields")?);
    Ok(Body::Change(change(&header, fields, changed, &different)))
}

/// Reads an event in JSON: a change if it has the header of one.
pub(crate) fn in_json(mut fields: Map<String, Value>) -> Body {
    let Some(header) = fields.remove("ChangeEventHeader") else { return Body::Platform(fields) };
    let named = |name: &str| texts(&header, name);
    let (changed, different) = ([named("changedFields"), named("nulledFields")].concat(), named("diffFields"));
    Body::Change(change(&header, fields, changed, &different))
}

fn texts(header: &Value, name: &str) -> Vec<String> {
    header[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the change that a header and fields tell of; `changed` and `different` are paths of fields.
fn change(header: &Value, fields: Map<String, Value>, changed: Vec<String>, different: &[String]) -> Change {
    let text = |name: &str| header[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| header[name].as_i64().unwrap_or_default();
    let kind = match text("changeType").as_str() {
        "CREATE" => ChangeKind::Create,
        "UPDATE" => ChangeKind::Update,
        "DELETE" => ChangeKind::Delete,
        "UNDELETE" => ChangeKind::Undelete,
        "GAP_OVERFLOW" => ChangeKind::Overflow,
        _ => ChangeKind::Gap,
    };
    let mut named = Map::new();
    if kind == ChangeKind::Update {
        for path in changed {
            let (whole, part) = path.split_once('.').unwrap_or((&path, ""));
            let value = fields.get(whole).and_then(|value| if part.is_empty() { Some(value) } else { value.get(part) });
            named.insert(flat(&path), value.cloned().unwrap_or_default());
        }
    } else {
        for (name, value) in fields {
            match value {
                Value::Null => {}
                Value::Object(parts) => {
                    let parts = parts.into_iter().filter(|(_, value)| !value.is_null());
                    named.extend(parts.map(|(part, value)| (flat(&format!("{name}.{part}")), value)));
                }
                value => drop(named.insert(name, value)),
            }
        }
    }
    let unread: Vec<String> = different.iter().map(|path| flat(path)).collect();
    named.retain(|name, _| !unread.contains(name));
    Change {
        object: text("entityName"),
        ids: if kind == ChangeKind::Overflow { Vec::new() } else { texts(header, "recordIds") },
        kind,
        origin: text("changeOrigin"),
        transaction: text("transactionKey"),
        sequence: number("sequenceNumber"),
        commit_number: number("commitNumber"),
        committed: number("commitTimestamp"),
        user: text("commitUser"),
        fields: named,
        unread,
    }
}

/// Returns the name in the API of a field of an event: parts of a name stand by themselves, those of an address behind
/// its own name.
fn flat(path: &str) -> String {
    match path.split_once('.') {
        None => path.to_owned(),
        Some(("Name", part)) => part.to_owned(),
        Some((whole, part)) => match whole.strip_suffix("__c") {
            // Parts of an address that is a custom field.
            Some(stem) => format!("{stem}__{part}__s"),
            None => format!("{}{part}", whole.strip_suffix("Address").unwrap_or_default()),
        },
    }
}

/// Returns the fields that bitmaps name, parts as `Whole.Part`; what is no bitmap is a name.
fn paths(schema: &Schema, maps: &[String]) -> Result<Vec<String>, String> {
    let names = |schema: &Schema| -> Vec<String> {
        let Schema::Record(record) = solid(schema) else { return Vec::new() };
        record.fields.iter().map(|field| field.name.clone()).collect()
    };
    let outer = names(schema);
    let mut found = Vec::new();
    for map in maps {
        if let Some(digits) = map.strip_prefix("0x") {
            for bit in bits(digits)? {
                found.push(
                    outer.get(bit).ok_or_else(|| format!("{map} names field {bit}, which there is not"))?.clone(),
                );
            }
        } else if let Some((place, digits)) = map.split_once("-0x") {
            let place: usize = place.parse().map_err(|_| format!("{map} is no bitmap"))?;
            let whole = outer.get(place).ok_or_else(|| format!("{map} names field {place}, which there is not"))?;
            let Schema::Record(record) = schema else { return Err("the event is no record".to_owned()) };
            let inner = match solid(&record.fields[place].schema) {
                // A record that was described before is only named.
                Schema::Ref { name } => record
                    .fields
                    .iter()
                    .map(|field| solid(&field.schema))
                    .find(|schema| matches!(schema, Schema::Record(record) if record.name.name() == name.name()))
                    .map(&names)
                    .unwrap_or_default(),
                other => names(other),
            };
            for bit in bits(digits)? {
                let part = inner.get(bit).ok_or_else(|| format!("{map} names part {bit}, which there is not"))?;
                found.push(format!("{whole}.{part}"));
            }
        } else {
            found.push(map.clone());
        }
    }
    Ok(found)
}

/// Returns the bits that are set in a number of hexadecimal digits, from the lowest.
fn bits(digits: &str) -> Result<Vec<usize>, String> {
    let mut found = Vec::new();
    for (place, digit) in digits.chars().rev().enumerate() {
        let digit = digit.to_digit(16).ok_or_else(|| format!("{digit:?} is no hexadecimal digit"))?;
        found.extend((0..4).filter(|bit| digit & 1 << bit != 0).map(|bit| place * 4 + bit));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_name_fields_and_parts() {
        let address = r#"{"type":"record","name":"Address","fields":[{"name":"Street","type":"string"},{"name":"City","type":"string"}]}"#;
        let schema = Schema::parse_str(&format!(
            r#"{{"type":"record","name":"E","fields":[{{"name":"H","type":"string"}},{{"name":"A","type":["null","string"]}},
                {{"name":"BillingAddress","type":["null",{address}]}},{{"name":"ShippingAddress","type":["null","Address"]}}]}}"#
        ))
        .expect("a schema");
        let read = |maps: &[&str]| {
            let maps: Vec<String> = maps.iter().map(|map| (*map).to_owned()).collect();
            paths(&schema, &maps).map(|paths| paths.join(" "))
        };
        assert_eq!(read(&["0x06", "3-0x02", "Plain"]).as_deref(), Ok("A BillingAddress ShippingAddress.City Plain"));
        assert_eq!(read(&["0x10"]), Err("0x10 names field 4, which there is not".to_owned()));
        assert!(read(&["0xG"]).is_err() && read(&["9-0x01"]).is_err());
        let flats: Vec<String> =
            ["A", "Name.LastName", "ShippingAddress.City", "Address.City", "X__c.City"].map(flat).into();
        assert_eq!(flats, ["A", "LastName", "ShippingCity", "City", "X__City__s"]);
    }
}
