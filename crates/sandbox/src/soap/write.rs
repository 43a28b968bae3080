//! Answers as XML, by the types of the WSDL.

use serde_json::{Map, Value};

use super::Flavor;
use super::types::{Element, TYPES};
use crate::xml::escape;

/// Writes a result as its type says.
pub(super) fn result(out: &mut String, element: &Element, value: &Value, flavor: Flavor) {
    match value {
        Value::Array(values) if element.many => {
            for value in values {
                one(out, element, value, flavor);
            }
        }
        Value::Null if element.optional || element.many => {}
        value => one(out, element, value, flavor),
    }
}

fn one(out: &mut String, element: &Element, value: &Value, flavor: Flavor) {
    let Element { name, kind, .. } = *element;
    match value {
        Value::Null => nil(out, name),
        Value::Object(fields) if kind == "sObject" => record(out, name, fields, flavor),
        Value::Object(fields) => {
            // A duplicate is told with what it is a duplicate of.
            let twin = fields.get("duplicateResut").filter(|_| kind == "Error");
            let Some(parts) = TYPES.types.get(kind) else { return };
            out.push_str(&format!("<{name}{}>", twin.map_or("", |_| " xsi:type=\"DuplicateError\"")));
            for part in parts {
                result(out, part, fields.get(part.name).unwrap_or(&Value::Null), flavor);
            }
            for (part, twin) in TYPES.types.get("DuplicateError").into_iter().flatten().zip(twin) {
                result(out, part, twin, flavor);
            }
            out.push_str(&format!("</{name}>"));
        }
        value => text(out, name, value),
    }
}

fn nil(out: &mut String, name: &str) {
    out.push_str(&format!("<{name} xsi:nil=\"true\"/>"));
}

fn text(out: &mut String, name: &str, value: &Value) {
    let written = match value {
        Value::String(text) => escape(&moment(text)),
        other => other.to_string(),
    };
    out.push_str(&format!("<{name}>{written}</{name}>"));
}

/// Writes a moment as XML does: REST says `+0000`, and SOAP `Z`.
pub(super) fn moment(text: &str) -> std::borrow::Cow<'_, str> {
    match text.strip_suffix("+0000") {
        Some(time) if time.len() == 23 && time.as_bytes().get(10) == Some(&b'T') => format!("{time}Z").into(),
        _ => text.into(),
    }
}

/// Writes a record of an outbound message.
pub(crate) fn outbound(out: &mut String, name: &str, fields: &Map<String, Value>) {
    record(out, name, fields, Flavor::Enterprise);
}

/// Writes a record: what is below it stands in the namespace of objects.
fn record(out: &mut String, name: &str, fields: &Map<String, Value>, flavor: Flavor) {
    let kind = fields.get("attributes").and_then(|attributes| attributes["type"].as_str()).unwrap_or("sObject");
    let id = fields.get("Id");
    let mut parts: Vec<(&String, &Value)> = fields.iter().filter(|(name, _)| *name != "attributes").collect();
    match flavor {
        Flavor::Partner => {
            out.push_str(&format!("<{name} xsi:type=\"sf:sObject\"><sf:type>{}</sf:type>", escape(kind)));
            // The id has a place of its own, and stands among the fields where it was asked for.
            match id {
                Some(Value::String(id)) => out.push_str(&format!("<sf:Id>{id}</sf:Id>")),
                _ => out.push_str("<sf:Id xsi:nil=\"true\"/>"),
            }
        }
        Flavor::Enterprise => {
            out.push_str(&format!("<{name} xsi:type=\"sf:{}\">", escape(kind)));
            // The types of an org have their fields in the order of the alphabet, the id first.
            parts.sort_by(|(left, _), (right, _)| (*left != "Id", left).cmp(&(*right != "Id", right)));
        }
    }
    for (field, value) in parts {
        let tag = format!("sf:{field}");
        match value {
            Value::Null => nil(out, &tag),
            Value::Object(inner) if inner.contains_key("records") => {
                out.push_str(&format!("<{tag} xsi:type=\"QueryResult\">"));
                let mut children = inner.clone();
                let size = children.remove("totalSize").unwrap_or_default();
                children.insert("size".to_owned(), size);
                let locator = children.remove("nextRecordsUrl").and_then(|url| Some(locator(url.as_str()?).to_owned()));
                children.insert("queryLocator".to_owned(), locator.map_or(Value::Null, Value::String));
                for part in TYPES.types.get("QueryResult").into_iter().flatten() {
                    result(out, part, children.get(part.name).unwrap_or(&Value::Null), flavor);
                }
                out.push_str(&format!("</{tag}>"));
            }
            Value::Object(inner) if inner.contains_key("attributes") => record(out, &tag, inner, flavor),
            Value::Object(inner) => {
                let kind = if inner.contains_key("city") { "address" } else { "location" };
                out.push_str(&format!("<{tag} xsi:type=\"{kind}\">"));
                for (part, value) in inner {
                    if value.is_null() { nil(out, part) } else { text(out, part, value) }
                }
                out.push_str(&format!("</{tag}>"));
            }
            value => text(out, &tag, value),
        }
    }
    out.push_str(&format!("</{name}>"));
}

/// Returns the last step of the address of the next page.
pub(super) fn locator(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
