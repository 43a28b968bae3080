//! Events: platform events, changes of records, and those who listen to them.

mod bus;
mod changes;
mod streaming;

pub(crate) use bus::{Bus, migrate};
pub(crate) use changes::{Kind as ChangeKind, Pending, Transaction, set_origin};
pub(crate) use streaming::Streams;

use serde_json::{Value, json};

use crate::error::Answered;
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::schema::{Field, Kind, Object};

impl Object {
    /// True for platform events.
    pub(crate) fn is_event(&self) -> bool {
        self.name.ends_with("__e")
    }
}

impl Org {
    /// Returns what is said of a record that was made, or of an event that was published.
    pub(crate) fn saved(&self, object: &Object, id: &str) -> Value {
        if !object.is_event() {
            return json!({"id": id, "success": true, "errors": []});
        }
        let uuid = changes::uuid_of(id);
        json!({"id": id, "success": true,
               "errors": [{"statusCode": "OPERATION_ENQUEUED", "message": uuid, "fields": []}]})
    }

    /// Answers `sobjects/{event}/eventSchema`: the event as an Avro record.
    pub(crate) fn event_schema(&self, call: &Call, object: &Object) -> Answered<Answer> {
        let mut schema = event_record(object);
        // The other format has the fields below a payload.
        if call.query.get("payloadFormat").is_some_and(|format| format.eq_ignore_ascii_case("EXPANDED")) {
            schema = json!({"name": "Event", "namespace": "com.sforce.eventbus", "type": "record", "fields": [
                {"name": "data", "type": {"type": "record", "name": "Data", "namespace": "", "fields": [
                    {"name": "schema", "type": "string"}, {"name": "payload", "type": schema},
                    {"name": "event", "type": {"type": "record", "name": "EventMetadata", "fields":
                        [{"name": "replayId", "type": "long"}]}}]}}, {"name": "channel", "type": "string"}]});
        }
        schema["uuid"] = json!(schema_id(object));
        Ok(Answer::json(200, &schema))
    }
}

/// Returns a platform event as an Avro record.
fn event_record(object: &Object) -> Value {
    let shown = object.fields.iter().filter(|field| field.custom);
    let mut fields = vec![
        json!({"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"}),
        json!({"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"}),
    ];
    fields.extend(shown.map(avro));
    json!({"name": object.name, "namespace": "com.sforce.eventbus", "type": "record", "fields": fields})
}

/// Returns what the schema of an object's events is known by; it is another when a field is.
fn schema_id(object: &Object) -> String {
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, event_record(object).to_string().as_bytes());
    print.as_ref().iter().take(11).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn avro(field: &Field) -> Value {
    let kind = match field.kind {
        Kind::Boolean => "boolean",
        Kind::Date | Kind::Datetime => "long",
        kind if kind.numeric() => "double",
        _ => "string",
    };
    if field.nillable {
        json!({"name": field.name, "type": ["null", kind], "doc": format!("Data:{}", field.kind.word()), "default": null})
    } else {
        json!({"name": field.name, "type": kind, "doc": format!("Data:{}", field.kind.word())})
    }
}
