//! Messages as CloudEvents, and back.
//!
//! Source: CloudEvents 1.0.2, the JSON event format and the bindings for Kafka, NATS and AMQP.

use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use endpoint::{Error, Result};
use model::{Class, Op, RecordError};
use serde_json::json;
use serde_json::value::RawValue;

use super::{Delivery, Envelope, KEY_HEADER, Message, OP_HEADER};
use crate::json;
use crate::rows::Rows;

/// What the header of an event's attribute begins with: NATS and HTTP, Kafka, and the two of AMQP.
const PREFIXES: [&str; 4] = ["ce-", "ce_", "cloudEvents:", "cloudEvents_"];
/// What the type of an event ends with whose record is gone.
const DELETED: &str = ".deleted";

/// A record on its way into a message.
pub(super) struct Record<'r> {
    pub(super) records: &'r RecordBatch,
    pub(super) row: usize,
    pub(super) op: Op,
    pub(super) key: String,
    pub(super) now: DateTime<Utc>,
}

/// Returns the message that tells of a record.
pub(super) fn message(connection: &str, entity: &str, envelope: Envelope, record: Record<'_>) -> Result<Message> {
    let Record { records, row, op, key, now } = record;
    let broken = |error: std::io::Error| Error::new(Class::Internal, "cannot write a message").caused_by(error);
    let mut data = Vec::new();
    json::write(&mut data, records, row).map_err(broken)?;
    let stamp = format!("{entity}\n{key}\n{}\n{}", op == Op::Delete, now.timestamp_micros());
    let print = model::digest(&data);
    let id = format!("{:016x}{print:016x}", model::digest(stamp.as_bytes()));
    let kind = format!("bridgehead.{entity}{}", if op == Op::Delete { DELETED } else { ".changed" });
    let source = format!("/bridgehead/{connection}");
    let time = now.to_rfc3339_opts(SecondsFormat::Micros, true);
    let (content_type, body) = match (envelope, op) {
        (Envelope::None, Op::Delete) => ("application/json", None),
        (Envelope::None, Op::Upsert) => ("application/json", Some(data)),
        (Envelope::Cloudevents, _) => {
            let event = json!({"specversion": "1.0", "id": id, "source": source, "type": kind, "subject": key,
                               "time": time, "datacontenttype": "application/json"});
            let mut body = event.to_string().into_bytes();
            body.pop();
            body.extend_from_slice(b",\"data\":");
            body.extend_from_slice(&data);
            body.push(b'}');
            ("application/cloudevents+json; charset=UTF-8", Some(body))
        }
    };
    let attributes = vec![
        ("specversion", "1.0".to_owned()),
        ("id", id.clone()),
        ("source", source),
        ("type", kind),
        ("subject", key.clone()),
        ("time", time),
    ];
    Ok(Message { key, id, data: print, op, content_type, body: body.map(Bytes::from), attributes })
}

/// Returns an attribute of an event that stands in the headers.
fn attribute<'d>(delivery: &'d Delivery, name: &str) -> Option<&'d str> {
    let is = |header: &str| PREFIXES.iter().any(|prefix| header.strip_prefix(prefix) == Some(name));
    delivery.headers.iter().find(|(header, _)| is(header)).map(|(_, value)| value.as_str())
}

fn header<'d>(delivery: &'d Delivery, name: &str) -> Option<&'d str> {
    delivery.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Returns the text of a field of an event in JSON.
fn text(event: &[(String, Box<RawValue>)], name: &str) -> Option<String> {
    let raw = event.iter().rev().find(|(field, _)| field == name)?.1.get();
    serde_json::from_str(raw).ok()
}

/// Adds the record of a message to others; `ops` gets what happened to it, where it can be read. `names` are the fields,
/// `key` the place of the key among them.
pub(super) fn read(delivery: &Delivery, names: &[String], key: usize, rows: &mut Rows, ops: &mut Vec<Op>) {
    let place = || delivery.place.clone();
    let refuse = |rows: &mut Rows, message: String| {
        let mut cells: Vec<Option<String>> = vec![None; names.len()];
        cells[key].clone_from(&delivery.key);
        let error = RecordError::rejected("NOT_READABLE", format!("{}: {message}", delivery.place));
        rows.set_aside(&cells, place(), error);
        // Whoever looks into it finds all of it.
        rows.keep("message", String::from_utf8_lossy(&delivery.body).into_owned());
    };
    let mut op = match header(delivery, OP_HEADER) {
        Some("delete") => Op::Delete,
        _ => Op::Upsert,
    };
    let mut subject = header(delivery, KEY_HEADER).map(str::to_owned);
    let is_deletion = |kind: &str| kind.ends_with(DELETED);
    if let Some(kind) = attribute(delivery, "type") {
        op = if is_deletion(kind) { Op::Delete } else { op };
        subject = attribute(delivery, "subject").map(str::to_owned).or(subject);
    }
    let mut fields = Vec::new();
    if delivery.body.is_empty() {
        op = Op::Delete;
    } else {
        fields = match json::object(&delivery.body) {
            Ok(fields) => fields,
            Err(error) => return refuse(rows, format!("its body is no JSON object: {error}")),
        };
        let is_event = text(&fields, "specversion").is_some() && text(&fields, "type").is_some();
        if is_event {
            op = if text(&fields, "type").is_some_and(|kind| is_deletion(&kind)) { Op::Delete } else { op };
            subject = text(&fields, "subject").or(subject);
            let data = fields.iter().rev().find(|(field, _)| field == "data").map(|(_, raw)| raw.get().to_owned());
            fields = match data.as_deref().filter(|data| *data != "null") {
                None if op == Op::Delete => Vec::new(),
                None => return refuse(rows, "the event has no data in JSON".to_owned()),
                Some(data) => match json::object(data.as_bytes()) {
                    Ok(fields) => fields,
                    Err(error) => return refuse(rows, format!("the event's data is no JSON object: {error}")),
                },
            };
        }
    }
    let mut cells = json::cells(&fields, names);
    if cells[key].is_none() {
        cells[key] = subject.or_else(|| delivery.key.clone());
    }
    if cells[key].as_deref().unwrap_or_default().is_empty() {
        return refuse(rows, format!("it has no {}", names[key]));
    }
    if op == Op::Delete {
        // Only the key counts.
        cells.iter_mut().enumerate().filter(|(at, _)| *at != key).for_each(|(_, cell)| *cell = None);
    }
    if rows.add(&cells, place) {
        ops.push(op);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use model::{Type, text_of};

    use super::*;

    /// The key and the total of a row, and what happened to it.
    type Row = (Option<String>, Option<String>, Op);

    fn told(deliveries: &[Delivery]) -> (Vec<Row>, Vec<String>) {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("total", Type::Decimal { precision: 18, scale: 2 }.arrow(), true),
        ]);
        let mut rows = Rows::new(Arc::new(schema), &[Type::Text, Type::Decimal { precision: 18, scale: 2 }]);
        let (names, mut ops) = (["id".to_owned(), "total".to_owned()], Vec::new());
        for delivery in deliveries {
            read(delivery, &names, 0, &mut rows, &mut ops);
        }
        let batch = rows.finish(None).expect("a batch");
        assert_eq!(batch.records.num_rows(), ops.len());
        let cell = |column: usize, row: usize| {
            text_of(batch.records.column(column).as_ref(), row).map(std::borrow::Cow::into_owned)
        };
        let rows = (0..ops.len()).map(|row| (cell(0, row), cell(1, row), ops[row])).collect();
        (rows, batch.unreadable.into_iter().map(|one| one.error.message).collect())
    }

    fn delivery(body: &str, headers: &[(&str, &str)], key: Option<&str>) -> Delivery {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Delivery {
            key: key.map(str::to_owned),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
            at: None,
            place: "message 7".to_owned(),
        }
    }

    #[test]
    fn messages_of_every_form_are_read() {
        let event = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"shop.order.placed","subject":"o-1","data":{"total":12.50,"more":1}}"#;
        let gone = r#"{"specversion":"1.0","id":"2","source":"/shop","type":"shop.order.deleted","subject":"o-2"}"#;
        let (rows, bad) = told(&[
            delivery(event, &[], None),
            delivery(gone, &[], None),
            // The attributes in headers, as three bindings write them.
            delivery(r#"{"id":"o-3"}"#, &[("ce-type", "x"), ("ce-specversion", "1.0")], None),
            delivery("", &[("ce_type", "x.deleted"), ("ce_subject", "o-4")], None),
            delivery(r#"{"total":1}"#, &[("cloudEvents:type", "x"), ("cloudEvents:subject", "o-5")], None),
            // Bare records, and a bare deletion.
            delivery(r#"{"id":"o-6","total":null}"#, &[], Some("ignored")),
            delivery("", &[], Some("o-7")),
            delivery(r#"{"id":"o-8","total":9}"#, &[("bridgehead-op", "delete")], None),
        ]);
        let row = |id: &str, total: Option<&str>, op| (Some(id.to_owned()), total.map(str::to_owned), op);
        assert_eq!(bad, Vec::<String>::new());
        assert_eq!(
            rows,
            [
                row("o-1", Some("12.50"), Op::Upsert),
                row("o-2", None, Op::Delete),
                row("o-3", None, Op::Upsert),
                row("o-4", None, Op::Delete),
                row("o-5", Some("1.00"), Op::Upsert),
                row("o-6", None, Op::Upsert),
                row("o-7", None, Op::Delete),
                row("o-8", None, Op::Delete),
            ]
        );
    }

    #[test]
    fn what_can_not_be_read_says_where_and_why() {
        let (rows, bad) = told(&[
            delivery("not json", &[], Some("k")),
            delivery("[1]", &[], None),
            delivery(r#"{"total":1}"#, &[], None),
            delivery(r#"{"specversion":"1.0","type":"x","data":"text"}"#, &[], None),
            delivery(r#"{"specversion":"1.0","type":"x","data_base64":"AA=="}"#, &[], None),
            delivery(r#"{"id":"a","total":"much"}"#, &[], None),
            delivery(r#"{"id":"good","total":1}"#, &[], None),
        ]);
        assert_eq!(rows.len(), 1);
        assert_eq!(bad.len(), 6);
        for (bad, said) in bad.iter().zip([
            "no JSON object",
            "no JSON object",
            "it has no id",
            "data is no",
            "no data in JSON",
            "much",
        ]) {
            assert!(bad.starts_with("message 7: ") && bad.contains(said), "{bad}");
        }
    }

    #[test]
    fn a_record_is_told_as_an_event_that_can_be_read_back() {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Utf8, true),
            Field::new("total", Type::Decimal { precision: 18, scale: 2 }.arrow(), true),
        ]);
        let mut rows = Rows::new(Arc::new(schema), &[Type::Text, Type::Decimal { precision: 18, scale: 2 }]);
        rows.add(&[Some("Köln \"1\""), Some("12345678901234.05")], String::new);
        let records = rows.finish(None).expect("a batch").records;
        for (envelope, op) in [
            (Envelope::Cloudevents, Op::Upsert),
            (Envelope::Cloudevents, Op::Delete),
            (Envelope::None, Op::Upsert),
            (Envelope::None, Op::Delete),
        ] {
            let record = Record { records: &records, row: 0, op, key: "Köln \"1\"".to_owned(), now: Utc::now() };
            let message = message("bus", "orders", envelope, record).expect("a message");
            let body = message.body.clone().unwrap_or_default();
            let sent =
                delivery(std::str::from_utf8(&body).expect("text"), &[(OP_HEADER, message.op())], Some(&message.key));
            let (rows, bad) = told(&[sent]);
            let total = (op == Op::Upsert).then(|| "12345678901234.05".to_owned());
            assert_eq!((rows, bad), (vec![(Some("Köln \"1\"".to_owned()), total, op)], Vec::new()));
        }
    }
}
