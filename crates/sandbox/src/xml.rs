//! XML, read into elements and values, and written from values.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

/// Deepest nesting of elements.
const MAX_DEPTH: usize = 100;

/// An element.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// Its name, without a prefix.
    pub(crate) tag: String,
    /// True for `xsi:nil`.
    pub(crate) nil: bool,
    /// The `type` attribute.
    pub(crate) kind: Option<String>,
    pub(crate) content: String,
    pub(crate) children: Vec<Node>,
}

impl Node {
    /// Returns the first child of this name.
    pub(crate) fn child(&self, tag: &str) -> Option<&Self> {
        self.children.iter().find(|node| node.tag == tag)
    }

    /// Returns the text of the first child of this name, if it has any.
    pub(crate) fn text(&self, tag: &str) -> Option<&str> {
        self.child(tag).map(|node| node.content.trim()).filter(|text| !text.is_empty())
    }

    /// Returns the texts of all children of this name.
    pub(crate) fn texts<'n>(&'n self, tag: &'n str) -> impl Iterator<Item = &'n str> {
        self.children.iter().filter(move |node| node.tag == tag).map(|node| node.content.trim())
    }

    /// Writes a document of this element, in the namespace of its names.
    pub(crate) fn print(&self, namespace: &str) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.write(&format!(" xmlns=\"{namespace}\""), 0, &mut text);
        text
    }

    /// Writes the element as a part of a document whose prefix `xsi` is known.
    pub(crate) fn write(&self, attributes: &str, depth: usize, text: &mut String) {
        let (indent, tag) = ("    ".repeat(depth), &self.tag);
        let kind = self.kind.as_ref().map(|kind| {
            format!(" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{}\"", escape(kind))
        });
        text.push_str(&format!("{indent}<{tag}{attributes}{}", kind.unwrap_or_default()));
        if self.children.is_empty() && self.content.is_empty() {
            text.push_str("/>\n");
        } else if self.children.is_empty() {
            text.push_str(&format!(">{}</{tag}>\n", escape(&self.content)));
        } else {
            text.push_str(">\n");
            self.children.iter().for_each(|child| child.write("", depth + 1, text));
            text.push_str(&format!("{indent}</{tag}>\n"));
        }
    }
}

fn opened(start: &BytesStart<'_>) -> Node {
    let mut node = Node { tag: start.local_name().as_ref().to_owned(), ..Node::default() };
    for attribute in start.attributes().flatten() {
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap_or_default();
        match attribute.key.local_name().as_ref() {
            "nil" => node.nil = value == "true",
            "type" => node.kind = Some(value.into_owned()),
            _ => {}
        }
    }
    node
}

/// Says where a byte stands.
fn place(text: &str, byte: u64) -> String {
    let before = text.as_bytes().get(..usize::try_from(byte).unwrap_or(usize::MAX)).unwrap_or(text.as_bytes());
    let line = before.split(|byte| *byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    format!("line {line}, column {column}")
}

/// Reads a document. Entities and document types are refused.
pub(crate) fn tree(text: &str) -> Result<Node, String> {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Node::default()];
    loop {
        let at = reader.buffer_position();
        match reader.read_event().map_err(|error| format!("{}: {error}", place(text, at)))? {
            Event::Start(start) => {
                if open.len() > MAX_DEPTH {
                    return Err("elements are nested too deeply".to_owned());
                }
                open.push(opened(&start));
            }
            Event::Empty(start) => {
                if let Some(node) = open.last_mut() {
                    node.children.push(opened(&start));
                }
            }
            Event::End(_) => {
                let done = open.pop().unwrap_or_default();
                open.last_mut().ok_or("an element is closed that was not opened")?.children.push(done);
            }
            Event::Text(text) => {
                open.last_mut().ok_or("text outside the document")?.content.push_str(&text);
            }
            Event::CData(text) => {
                open.last_mut().ok_or("text outside the document")?.content.push_str(&text);
            }
            Event::GeneralRef(reference) => {
                let name: &str = &reference;
                let resolved = match (name, reference.resolve_char_ref().ok().flatten()) {
                    (_, Some(c)) => c.to_string(),
                    ("lt", None) => "<".to_owned(),
                    ("gt", None) => ">".to_owned(),
                    ("amp", None) => "&".to_owned(),
                    ("quot", None) => "\"".to_owned(),
                    ("apos", None) => "'".to_owned(),
                    (other, None) => return Err(format!("entity &{other}; is not allowed")),
                };
                open.last_mut().ok_or("text outside the document")?.content.push_str(&resolved);
            }
            Event::DocType(_) => return Err("a document type is not allowed".to_owned()),
            Event::Eof => break,
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
        }
    }
    let mut document = open.pop().unwrap_or_default();
    if !open.is_empty() || document.children.len() != 1 {
        return Err("the document is not complete".to_owned());
    }
    Ok(document.children.remove(0))
}

/// Reads a body into the value that the same body in JSON would be: elements become keys, repeated ones lists.
pub(crate) fn value(text: &str) -> Result<Value, String> {
    Ok(node_value(&tree(text)?))
}

fn node_value(node: &Node) -> Value {
    if node.nil {
        return Value::Null;
    }
    if node.children.is_empty() {
        return Value::String(node.content.clone());
    }
    let mut object = Map::new();
    if let Some(kind) = &node.kind {
        object.insert("attributes".to_owned(), serde_json::json!({"type": kind}));
    }
    for child in &node.children {
        let value = node_value(child);
        match object.get_mut(&child.tag) {
            Some(Value::Array(list)) => list.push(value),
            Some(known) => *known = Value::Array(vec![known.take(), value]),
            // Lists of one look like no list: these are always lists.
            None if child.tag == "records" => {
                object.insert(child.tag.clone(), Value::Array(vec![value]));
            }
            None => {
                object.insert(child.tag.clone(), value);
            }
        }
    }
    Value::Object(object)
}

/// Writes an answer: keys become elements, lists repeated ones, `attributes` attributes.
pub(crate) fn render(root: &str, body: &Value) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    match body {
        // A list has a name of its own and one for its entries.
        Value::Array(items) => {
            let (list, entry) = match root {
                "Errors" => ("Errors", "Error"),
                "Versions" => ("Versions", "Version"),
                other => (other, "Result"),
            };
            text.push_str(&format!("<{list}>"));
            for item in items {
                element(entry, item, &mut text);
            }
            text.push_str(&format!("</{list}>"));
        }
        other => element(root, other, &mut text),
    }
    text
}

/// Writes a value as an element: lists as several, of nothing an empty one.
pub(crate) fn element(tag: &str, value: &Value, text: &mut String) {
    match value {
        Value::Null => {
            text.push_str(&format!(
                "<{tag} xsi:nil=\"true\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"/>"
            ));
        }
        Value::Array(items) => items.iter().for_each(|item| element(tag, item, text)),
        Value::Object(object) => {
            text.push_str(&format!("<{tag}"));
            for (name, value) in object.get("attributes").and_then(Value::as_object).into_iter().flatten() {
                text.push_str(&format!(" {name}=\"{}\"", escape(value.as_str().unwrap_or_default())));
            }
            text.push('>');
            for (name, value) in object.iter().filter(|(name, _)| *name != "attributes") {
                element(name, value, text);
            }
            text.push_str(&format!("</{tag}>"));
        }
        Value::String(content) => text.push_str(&format!("<{tag}>{}</{tag}>", escape(content))),
        other => text.push_str(&format!("<{tag}>{other}</{tag}>")),
    }
}

/// Returns text as XML takes it; characters that XML has no place for are left out.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\r' => escaped.push_str("&#13;"),
            c if (c as u32) < 0x20 && c != '\n' && c != '\t' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_reads_as_its_json_would() {
        let read = value(
            "<Account><Name>A &amp; B</Name><Phone xsi:nil=\"true\"/><records type=\"Contact\"><LastName>x</LastName></records></Account>",
        );
        let expected =
            json!({"Name": "A & B", "Phone": null, "records": [{"attributes": {"type": "Contact"}, "LastName": "x"}]});
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn answers_are_written_as_elements() {
        let errors = json!([{"errorCode": "NOT_FOUND", "message": "a < b"}]);
        assert!(
            render("Errors", &errors).ends_with(
                "<Errors><Error><errorCode>NOT_FOUND</errorCode><message>a &lt; b</message></Error></Errors>"
            )
        );
        let record = json!({"attributes": {"type": "Account", "url": "/x"}, "Id": "001", "Tags": [1, 2]});
        assert!(
            render("Account", &record)
                .ends_with("<Account type=\"Account\" url=\"/x\"><Id>001</Id><Tags>1</Tags><Tags>2</Tags></Account>")
        );
    }

    #[test]
    fn broken_and_hostile_files_are_refused() {
        for xml in ["<a><b></a>", "<a>", "<!DOCTYPE x [<!ENTITY e 'x'>]><a>&e;</a>", "<a>&e;</a>", ""] {
            assert!(tree(xml).is_err(), "{xml}");
        }
        assert_eq!(tree("<a>1 &lt; 2 &#38; 3</a>").expect("entities").content, "1 < 2 & 3");
    }
}
