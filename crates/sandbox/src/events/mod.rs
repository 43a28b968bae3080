//! Events: platform events, changes of records, and those who listen to them.

mod bus;
mod changes;
mod differences;
mod filters;
mod pubsub;
mod schemas;
mod streaming;
mod topics;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "written by a program")]
mod wire;

pub(crate) use bus::{Bus, Channel, Member, migrate};
pub(crate) use changes::{Changed, Kind as ChangeKind, Pending, Transaction, set_origin};
pub(crate) use filters::Filter;
pub(crate) use pubsub::{PATH as PUBSUB, service as pubsub};
pub(crate) use schemas::Schemas;
pub(crate) use streaming::Streams;
pub(crate) use topics::{CHANNEL, PUSH_TOPIC, with_defaults};

use serde_json::{Value, json};

use crate::error::Answered;
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::schema::Object;

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
        let mut schema = schemas::record_of(object);
        // The other format has the fields below a payload.
        if call.query.get("payloadFormat").is_some_and(|format| format.eq_ignore_ascii_case("EXPANDED")) {
            schema = json!({"name": "Event", "namespace": "com.sforce.eventbus", "type": "record", "fields": [
                {"name": "data", "type": {"type": "record", "name": "Data", "namespace": "", "fields": [
                    {"name": "schema", "type": "string"}, {"name": "payload", "type": schema},
                    {"name": "event", "type": {"type": "record", "name": "EventMetadata", "fields":
                        [{"name": "replayId", "type": "long"}]}}]}}, {"name": "channel", "type": "string"}]});
        }
        schema["uuid"] = json!(self.schemas.of(object)?.id);
        Ok(Answer::json(200, &schema))
    }
}
