//! What events look like: an Avro record for each platform event and each object whose changes are told, and the bitmaps
//! that name its fields.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apache_avro::Schema as Avro;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Datum;
use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value, json};

use super::changes::{path_of, told};
use crate::error::{Answered, ApiError};
use crate::schema::{Field, Kind, Object};

/// Parts of the header that name fields: as bitmaps where events are Avro.
pub(super) const NAMING: [&str; 3] = ["nulledFields", "diffFields", "changedFields"];
/// The header of change events.
pub(super) const HEADER: &str = "ChangeEventHeader";

/// The schema of one kind of event. What is published under an id never changes: another list of fields has another id.
#[derive(Debug)]
pub(crate) struct EventSchema {
    pub(crate) id: String,
    pub(crate) json: String,
    avro: Avro,
    /// Its fields in order, each with the fields inside it.
    fields: Vec<(String, Vec<String>)>,
}

/// The schemas of an org by id, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    known: Mutex<HashMap<String, Arc<EventSchema>>>,
    /// Their ids by the name of the event.
    ids: Mutex<HashMap<String, String>>,
}

impl Schemas {
    /// Returns the schema of a platform event, or of the changes of another object.
    pub(crate) fn of(&self, object: &Object) -> Answered<Arc<EventSchema>> {
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(&object.name).cloned();
        if let Some(known) = id.and_then(|id| self.by_id(&id)) {
            return Ok(known);
        }
        let made = Arc::new(EventSchema::new(&record_of(object))?);
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(object.name.clone(), made.id.clone());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(made.id.clone(), made.clone());
        Ok(made)
    }

    /// Returns the schema of an id, if it was needed before.
    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<EventSchema>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Keeps a schema of an earlier time.
    pub(crate) fn keep(&self, json: &str) -> Answered<Arc<EventSchema>> {
        let record = serde_json::from_str(json).map_err(|error| ApiError::unexpected(&error.to_string()))?;
        let made = Arc::new(EventSchema::new(&record)?);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(made.id.clone(), made.clone());
        Ok(made)
    }
}

/// Returns an event as an Avro record.
pub(super) fn record_of(object: &Object) -> Value {
    let fields = if object.is_event() { platform_fields(object) } else { change_fields(object) };
    let name = if object.is_event() { object.name.clone() } else { object.change_event() };
    json!({"name": name, "namespace": "com.sforce.eventbus", "type": "record", "fields": fields})
}

fn platform_fields(object: &Object) -> Vec<Value> {
    let mut fields = vec![
        json!({"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"}),
        json!({"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"}),
    ];
    fields.extend(
        object.fields.iter().filter(|field| field.custom).map(|field| avro(&field.name, field, field.nillable)),
    );
    fields
}

fn change_fields(object: &Object) -> Vec<Value> {
    let texts = || json!({"type": "array", "items": "string"});
    let kinds = ["CREATE", "UPDATE", "DELETE", "UNDELETE"];
    let gaps = kinds.iter().map(|kind| format!("GAP_{kind}"));
    let symbols: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).chain(gaps).collect();
    let symbols = [symbols, vec!["GAP_OVERFLOW".to_owned(), "SNAPSHOT".to_owned()]].concat();
    let header = json!({"type": "record", "name": HEADER, "fields": [
        {"name": "entityName", "type": "string"}, {"name": "recordIds", "type": texts()},
        {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": symbols}},
        {"name": "changeOrigin", "type": "string"}, {"name": "transactionKey", "type": "string"},
        {"name": "sequenceNumber", "type": "int"}, {"name": "commitTimestamp", "type": "long"},
        {"name": "commitNumber", "type": "long"}, {"name": "commitUser", "type": "string"},
        {"name": "nulledFields", "type": texts()}, {"name": "diffFields", "type": texts()},
        {"name": "changedFields", "type": texts()}]});
    let mut fields = vec![json!({"name": HEADER, "type": header})];
    // Parts of names and addresses stand inside them, at the place of the first.
    let mut wholes: Vec<(String, Vec<Value>)> = Vec::new();
    for field in object.stored().filter(|field| told(field)) {
        match path_of(object, field) {
            (Some(whole), part) => {
                let part = avro(&part, field, true);
                if let Some((_, parts)) = wholes.iter_mut().find(|(known, _)| *known == whole) {
                    parts.push(part);
                } else {
                    fields.push(json!({"name": whole}));
                    wholes.push((whole, vec![part]));
                }
            }
            (None, _) if field.name == "Name" && object.field("LastName").is_some() => {}
            (None, name) => fields.push(avro(&name, field, true)),
        }
    }
    let mut defined: Vec<(String, Vec<Value>)> = Vec::new();
    for field in &mut fields {
        let Some((whole, parts)) = wholes.iter().find(|(whole, _)| field["name"] == json!(whole)) else { continue };
        let sort = if whole == "Name" { "PersonName" } else { "Address" };
        let kind = if defined.iter().any(|(name, known)| name == sort && known == parts) {
            json!(sort)
        } else {
            let taken = defined.iter().any(|(name, _)| name == sort);
            let name = if taken { whole.clone() } else { sort.to_owned() };
            defined.push((name.clone(), parts.clone()));
            json!({"type": "record", "name": name, "fields": parts})
        };
        *field = json!({"name": whole, "type": ["null", kind], "doc": format!("Data:{sort}"), "default": null});
    }
    fields
}

fn avro(name: &str, field: &Field, optional: bool) -> Value {
    let kind = match field.kind {
        Kind::Boolean => "boolean",
        Kind::Date | Kind::Datetime => "long",
        Kind::Int => "int",
        kind if kind.numeric() => "double",
        _ => "string",
    };
    let doc = format!("Data:{}", field.kind.word());
    if optional {
        json!({"name": name, "type": ["null", kind], "doc": doc, "default": null})
    } else {
        json!({"name": name, "type": kind, "doc": doc})
    }
}

impl EventSchema {
    fn new(record: &Value) -> Answered<Self> {
        let avro = Avro::parse(record).map_err(|error| ApiError::unexpected(&error.to_string()))?;
        let names = |schema: &Avro| match schema {
            Avro::Record(inner) => inner.fields.iter().map(|field| field.name.clone()).collect(),
            _ => Vec::new(),
        };
        let mut inner: HashMap<String, Vec<String>> = HashMap::new();
        let mut fields = Vec::new();
        if let Avro::Record(outer) = &avro {
            for field in &outer.fields {
                let parts = match solid(&field.schema) {
                    Avro::Ref { name } => inner.get(name.name()).cloned().unwrap_or_default(),
                    Avro::Record(record) => {
                        let parts: Vec<String> = names(solid(&field.schema));
                        inner.insert(record.name.name().to_owned(), parts.clone());
                        parts
                    }
                    _ => Vec::new(),
                };
                fields.push((field.name.clone(), parts));
            }
        }
        let json = record.to_string();
        let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, json.as_bytes());
        let id = print.as_ref().iter().take(11).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Ok(Self { id, json, avro, fields })
    }

    /// Returns the fields of these names as bitmaps: the first over the event's own fields, then one for each field with
    /// fields inside.
    fn bitmaps(&self, names: &[&str]) -> Vec<String> {
        let bits = |chosen: Vec<usize>| {
            let mut bytes = vec![0_u8; chosen.iter().max().map_or(1, |last| last / 8 + 1)];
            for bit in chosen {
                bytes[bit / 8] |= 1 << (bit % 8);
            }
            bytes.iter().rev().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02X}"))
        };
        let at = |wanted: &str| self.fields.iter().position(|(name, _)| name == wanted);
        let mut maps = Vec::new();
        let own: Vec<usize> = names.iter().filter_map(|name| at(name)).collect();
        if !names.is_empty() {
            // Clients look for maps of parts behind this one only, also where it is empty.
            maps.push(bits(own));
        }
        for (place, (whole, parts)) in self.fields.iter().enumerate() {
            let inside = |name: &&str| {
                let part = name.strip_prefix(whole.as_str())?.strip_prefix('.')?;
                parts.iter().position(|known| known == part)
            };
            let chosen: Vec<usize> = names.iter().filter_map(inside).collect();
            if !chosen.is_empty() {
                maps.push(format!("{place}-{}", bits(chosen)));
            }
        }
        maps
    }

    /// Writes an event as an Avro datum.
    pub(crate) fn encode(&self, payload: &Value) -> Result<Vec<u8>, String> {
        let mut payload = payload.clone();
        for naming in NAMING {
            if let Some(named) = payload.get_mut(HEADER).and_then(|header| header.get_mut(naming)) {
                let names: Vec<&str> = named.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                *named = json!(self.bitmaps(&names));
            }
        }
        let (mut named, mut bytes) = (HashMap::new(), Vec::new());
        write(&self.avro, &payload, &mut named, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads an Avro datum: the fields that are not null, as REST would take them; `object` says what they are.
    pub(crate) fn decode(&self, mut bytes: &[u8], object: &Object) -> Result<Map<String, Value>, String> {
        let reader = GenericDatumReader::builder(&self.avro).build();
        let datum = reader.and_then(|reader| reader.read_value(&mut bytes)).map_err(|error| error.to_string())?;
        if !bytes.is_empty() {
            return Err(format!("{} bytes follow the event", bytes.len()));
        }
        let Datum::Record(fields) = datum else { return Err("the event is no record".to_owned()) };
        let value = |name: &str, datum: Datum| {
            let kind = object.field(name).map(|field| field.kind);
            let moment = |millis: i64| DateTime::from_timestamp_millis(millis);
            Some(match (datum, kind) {
                (Datum::Null, _) => return None,
                (Datum::Boolean(value), _) => json!(value),
                (Datum::String(value), _) => json!(value),
                (Datum::Double(value), _) => json!(value),
                (Datum::Int(value), _) => json!(value),
                (Datum::Long(value), Some(Kind::Date)) => json!(moment(value)?.date_naive().to_string()),
                (Datum::Long(value), Some(Kind::Datetime)) => json!(moment(value)?.to_rfc3339()),
                (Datum::Long(value), _) => json!(value),
                _ => return None,
            })
        };
        let solid = fields.into_iter().map(|(name, datum)| match datum {
            Datum::Union(_, inner) => (name, *inner),
            other => (name, other),
        });
        Ok(solid.filter_map(|(name, datum)| value(&name, datum).map(|value| (name, value))).collect())
    }
}

/// Looks through a union to what it is when it is not null.
fn solid(schema: &Avro) -> &Avro {
    match schema {
        Avro::Union(union) => union.variants().last().unwrap_or(schema),
        other => other,
    }
}

/// Writes a value as its schema says: a datum is its parts one behind the other. Source: Avro specification, binary encoding.
fn write<'s>(
    schema: &'s Avro,
    value: &Value,
    named: &mut HashMap<&'s str, &'s Avro>,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    let unlike = || format!("{value} is no {}", format!("{schema:?}").split(['(', ' ']).next().unwrap_or_default());
    match schema {
        Avro::Boolean => bytes.push(value.as_bool().ok_or_else(unlike)?.into()),
        Avro::Int => number(value.as_f64().ok_or_else(unlike)? as i64, bytes),
        Avro::Long => number(long(value).ok_or_else(unlike)?, bytes),
        Avro::Double => bytes.extend(value.as_f64().ok_or_else(unlike)?.to_le_bytes()),
        Avro::String => {
            let text = value.as_str().map_or_else(|| value.to_string().into(), std::borrow::Cow::Borrowed);
            number(text.len() as i64, bytes);
            bytes.extend(text.as_bytes());
        }
        Avro::Enum(symbols) => {
            let symbol = value.as_str().ok_or_else(unlike)?;
            let at = symbols.symbols.iter().position(|known| known == symbol).ok_or_else(unlike)?;
            number(at as i64, bytes);
        }
        Avro::Array(items) => {
            let values = value.as_array().ok_or_else(unlike)?;
            if !values.is_empty() {
                number(values.len() as i64, bytes);
                for value in values {
                    write(&items.items, value, named, bytes)?;
                }
            }
            number(0, bytes);
        }
        Avro::Union(union) => {
            // What is named must be known also where it is null here.
            if let Avro::Record(record) = solid(schema) {
                named.insert(record.name.name(), solid(schema));
            }
            if value.is_null() {
                number(0, bytes);
            } else {
                number(union.variants().len().saturating_sub(1) as i64, bytes);
                write(solid(schema), value, named, bytes)?;
            }
        }
        Avro::Record(record) => {
            for field in &record.fields {
                let value = value.get(&field.name).unwrap_or(&Value::Null);
                write(&field.schema, value, named, bytes).map_err(|error| format!("{}: {error}", field.name))?;
            }
        }
        Avro::Ref { name } => {
            let schema = named.get(name.name()).copied().ok_or_else(unlike)?;
            write(schema, value, named, bytes)?;
        }
        _ => return Err(unlike()),
    }
    Ok(())
}

/// Writes a whole number: the sign last, seven bits a byte from the lowest.
fn number(value: i64, bytes: &mut Vec<u8>) {
    let mut left = (value << 1 ^ value >> 63).cast_unsigned();
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

/// Returns a number, or a date or time as milliseconds.
fn long(value: &Value) -> Option<i64> {
    let Some(text) = value.as_str() else { return value.as_i64() };
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Some(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis());
    }
    let time = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    time.ok().map(|time| time.timestamp_millis())
}
