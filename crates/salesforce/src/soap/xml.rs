//! Elements of messages.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Deepest nesting of elements that is read.
const MAX_DEPTH: usize = 100;

/// An element: its name without a prefix, and either text or children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name. One that begins with `o:` is of a record.
    pub name: String,
    /// What it says its type is, without a prefix.
    pub kind: Option<String>,
    /// True where it says that there is no value.
    pub nil: bool,
    /// Its text.
    pub content: String,
    /// Its children, in their order.
    pub children: Vec<Element>,
    /// Other attributes that it was read with: name without a prefix, and value.
    pub(super) attributes: Vec<(String, String)>,
}

impl Element {
    /// Returns an element without children.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Returns an element of text.
    pub fn text(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self { name: name.into(), content: content.into(), ..Self::default() }
    }

    /// Says of which type the element is.
    #[must_use]
    pub fn of_type(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Adds a child.
    #[must_use]
    pub fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// Adds children.
    #[must_use]
    pub fn with_all(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// Returns the first child of this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns all children of this name.
    pub fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Returns the text of the first child of this name; `None` where there is none, or it has no value.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.child(name).filter(|child| !child.nil).map(|child| child.content.as_str())
    }

    /// Returns an attribute, by its name without a prefix.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads a document. Document types and entities of its own are refused.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            let at = reader.buffer_position();
            let outside = || format!("byte {at}: text outside of the document");
            match reader.read_event().map_err(|error| format!("byte {at}: {error}"))? {
                Event::Start(start) if open.len() > MAX_DEPTH => {
                    return Err(format!("byte {at}: {} is nested too deeply", start.local_name().as_ref()));
                }
                Event::Start(start) => open.push(opened(&start)),
                Event::Empty(start) => open.last_mut().ok_or_else(outside)?.children.push(opened(&start)),
                Event::End(_) => {
                    let done = open.pop().unwrap_or_default();
                    open.last_mut().ok_or_else(outside)?.children.push(done);
                }
                Event::Text(text) => open.last_mut().ok_or_else(outside)?.content.push_str(&text),
                Event::CData(text) => open.last_mut().ok_or_else(outside)?.content.push_str(&text),
                Event::GeneralRef(reference) => {
                    let c = match (&*reference, reference.resolve_char_ref().ok().flatten()) {
                        (_, Some(c)) => c,
                        ("lt", None) => '<',
                        ("gt", None) => '>',
                        ("amp", None) => '&',
                        ("quot", None) => '"',
                        ("apos", None) => '\'',
                        (other, None) => return Err(format!("byte {at}: the entity {other} is not known")),
                    };
                    open.last_mut().ok_or_else(outside)?.content.push(c);
                }
                Event::DocType(_) => return Err(format!("byte {at}: a document type is not read")),
                Event::Eof => break,
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            }
        }
        let document = open.pop().filter(|_| open.is_empty()).and_then(|mut document| document.children.pop());
        document.ok_or_else(|| "the document ends too early".to_owned())
    }

    /// Writes the element, with the prefix `xsi` for what is of no type of its own.
    pub(super) fn write(&self, text: &mut String) {
        text.push('<');
        text.push_str(&self.name);
        if let Some(kind) = &self.kind {
            text.push_str(&format!(" xsi:type=\"{}\"", escaped(kind)));
        }
        if self.nil {
            text.push_str(" xsi:nil=\"true\"/>");
            return;
        }
        text.push('>');
        text.push_str(&escaped(&self.content));
        self.children.iter().for_each(|child| child.write(text));
        text.push_str(&format!("</{}>", self.name));
    }
}

fn opened(start: &BytesStart<'_>) -> Element {
    let mut element = Element::new(start.local_name().as_ref());
    for attribute in start.attributes().flatten() {
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap_or_default();
        match attribute.key.local_name().as_ref() {
            "nil" => element.nil = value == "true" || value == "1",
            "type" => element.kind = Some(value.rsplit(':').next().unwrap_or(&value).to_owned()),
            name => element.attributes.push((name.to_owned(), value.into_owned())),
        }
    }
    // What a namespace is called is nobody's matter.
    element.attributes.retain(|(name, value)| name != "xmlns" && !value.is_empty());
    element
}

/// Returns text as XML takes it; characters that XML has no place for are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let whole = Element::new("a")
            .with(Element::text("b", "1 < 2 & \"3\"\r\n"))
            .with(Element { nil: true, ..Element::new("c") })
            .with(Element::text("e", "ü").of_type("d"));
        let mut text = String::new();
        whole.write(&mut text);
        assert_eq!(Element::parse(&text), Ok(whole));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(200);
        for text in ["", "<a>", "<a></b>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "<a>&x;</a>", &deep] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
