//! Platform events: what is published is checked like a record and kept by nobody.

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
        let digits = self.request_id();
        let uuid = format!(
            "{}-{}-4{}-a{}-{}",
            &digits[..8],
            &digits[8..12],
            &digits[13..16],
            &digits[17..20],
            &digits[20..32]
        );
        json!({"id": id, "success": true,
               "errors": [{"statusCode": "OPERATION_ENQUEUED", "message": uuid, "fields": []}]})
    }

    /// Answers `sobjects/{event}/eventSchema`: the event as an Avro record.
    pub(crate) fn event_schema(&self, call: &Call, object: &Object) -> Answered<Answer> {
        let shown = object.fields.iter().filter(|field| field.custom);
        let mut fields = vec![
            json!({"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"}),
            json!({"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"}),
        ];
        fields.extend(shown.map(avro));
        let mut schema =
            json!({"name": object.name, "namespace": "com.sforce.eventbus", "type": "record", "fields": fields});
        let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, schema.to_string().as_bytes());
        let uuid = print.as_ref().iter().take(11).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        // The other format has the fields below a payload.
        if call.query.get("payloadFormat").is_some_and(|format| format.eq_ignore_ascii_case("EXPANDED")) {
            schema = json!({"name": "Event", "namespace": "com.sforce.eventbus", "type": "record", "fields": [
                {"name": "data", "type": {"type": "record", "name": "Data", "namespace": "", "fields": [
                    {"name": "schema", "type": "string"}, {"name": "payload", "type": schema},
                    {"name": "event", "type": {"type": "record", "name": "EventMetadata", "fields":
                        [{"name": "replayId", "type": "long"}]}}]}}, {"name": "channel", "type": "string"}]});
        }
        schema["uuid"] = json!(&uuid[..22]);
        Ok(Answer::json(200, &schema))
    }
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
