//! A class with web services, by the WSDL that its org writes of it: calls in JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Element, Service};
use crate::client::Client;
use crate::error::Error;

/// A member of a type, or a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    name: String,
    /// Its type, without a prefix.
    kind: String,
    many: bool,
}

/// What a class can be asked, and in which types.
#[derive(Debug, Clone)]
pub struct Wsdl {
    service: Service,
    /// What each operation takes, and what it returns.
    operations: BTreeMap<String, [Vec<Member>; 2]>,
    types: BTreeMap<String, Vec<Member>>,
}

/// Returns what stands in the sequence of a complex type, or of an element that is one.
fn members(node: &Element) -> Vec<Member> {
    let complex = if node.name == "complexType" { Some(node) } else { node.child("complexType") };
    let sequence = complex.and_then(|node| node.child("sequence"));
    let member = |node: &Element| Member {
        name: node.attribute("name").unwrap_or_default().to_owned(),
        kind: node.kind.clone().unwrap_or_default(),
        many: node.attribute("maxOccurs").is_some_and(|most| most != "1"),
    };
    sequence.into_iter().flat_map(|sequence| sequence.all("element")).map(member).collect()
}

impl Wsdl {
    /// Reads a WSDL, as Setup offers it beside a class.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let whole = Element::parse(text)?;
        if whole.name != "definitions" {
            return Err(format!("the document is {}, and no WSDL", whole.name));
        }
        let namespace = whole.attribute("targetNamespace").ok_or("the WSDL names no targetNamespace")?.to_owned();
        let schemas: Vec<&Element> = whole.all("types").flat_map(|types| types.all("schema")).collect();
        // The types of the service stand beside those of the envelope's headers.
        let named = |kind: &'static str| {
            schemas
                .iter()
                .flat_map(move |schema| schema.all(kind))
                .map(|node| (node.attribute("name").unwrap_or_default(), node))
        };
        let elements: BTreeMap<&str, &Element> = named("element").collect();
        let operations = whole.all("portType").flat_map(|port| port.all("operation")).map(|operation| {
            let name = operation.attribute("name").unwrap_or_default();
            let of = |name: &str| {
                let missing = || format!("the operation {name} has no element");
                elements.get(name).map(|element| members(element)).ok_or_else(missing)
            };
            Ok((name.to_owned(), [of(name)?, of(&format!("{name}Response"))?]))
        });
        let operations = operations.collect::<Result<BTreeMap<_, _>, String>>()?;
        let types = named("complexType").map(|(name, node)| (name.to_owned(), members(node))).collect();
        let address =
            whole.all("service").flat_map(|service| service.all("port")).find_map(|port| port.child("address"));
        let location = address.and_then(|address| address.attribute("location")).ok_or("the WSDL names no location")?;
        // Which host answers is the session's matter.
        let path = location
            .find("/services/")
            .and_then(|at| location.get(at..))
            .ok_or_else(|| format!("{location} is no address of an org"))?;
        let service = Service { path: path.to_owned(), namespace, records: None };
        Ok(Self { service, operations, types })
    }

    /// Returns the names of the operations, in alphabetical order.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.operations.keys().map(String::as_str)
    }

    fn write(&self, members: &[Member], values: &Map<String, Value>, place: &str) -> Result<Vec<Element>, String> {
        if let Some(unknown) = values.keys().find(|name| !members.iter().any(|member| member.name == **name)) {
            let known: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            return Err(format!("{place} has no {unknown}; there are {}", known.join(", ")));
        }
        let mut written = Vec::new();
        for member in members {
            let value = values.get(&member.name).unwrap_or(&Value::Null);
            match value {
                Value::Array(items) if member.many => {
                    for item in items {
                        written.push(self.element(member, item)?);
                    }
                }
                Value::Null if member.many => {}
                value => written.push(self.element(member, value)?),
            }
        }
        Ok(written)
    }

    fn element(&self, member: &Member, value: &Value) -> Result<Element, String> {
        let element = Element::new(&member.name);
        match (value, self.types.get(&member.kind)) {
            (Value::Null, _) => Ok(Element { nil: true, ..element }),
            (Value::Object(values), Some(members)) => {
                Ok(element.with_all(self.write(members, values, &member.kind)?))
            }
            (Value::Object(_) | Value::Array(_), None) | (_, Some(_)) => {
                Err(format!("{} is a {}, and not {value}", member.name, member.kind))
            }
            (Value::String(text), None) => Ok(Element { content: text.clone(), ..element }),
            (value, None) => Ok(Element { content: value.to_string(), ..element }),
        }
    }

    fn read(&self, members: &[Member], node: &Element) -> Map<String, Value> {
        let member = |member: &Member| {
            let mut found = node.all(&member.name).map(|node| self.value(&member.kind, node));
            let value = if member.many { found.collect() } else { found.next().unwrap_or_default() };
            (member.name.clone(), value)
        };
        members.iter().map(member).collect()
    }

    fn value(&self, kind: &str, node: &Element) -> Value {
        if node.nil {
            return Value::Null;
        }
        if let Some(members) = self.types.get(kind) {
            return Value::Object(self.read(members, node));
        }
        let text = node.content.as_str();
        match kind {
            "boolean" => Value::Bool(matches!(text.trim(), "true" | "1")),
            // A number that JSON can't say stays text.
            "int" | "long" | "short" | "double" | "float" | "decimal" | "integer" => {
                serde_json::from_str(text.trim()).ok().filter(Value::is_number).unwrap_or_else(|| text.into())
            }
            _ => text.into(),
        }
    }
}

impl Client {
    /// Calls an operation of a class with parameters by their names, those left out being null; returns its result, which is
    /// null for an operation that returns nothing.
    ///
    /// # Errors
    ///
    /// An operation or a parameter that the WSDL does not have, no answer, or the fault: what the class threw.
    pub async fn call_class(
        &self,
        wsdl: &Wsdl,
        operation: &str,
        parameters: &Map<String, Value>,
    ) -> Result<Value, Error> {
        let bad = |why: String| Error::BadCall { operation: operation.to_owned(), why };
        let [takes, returns] = wsdl.operations.get(operation).ok_or_else(|| {
            let known: Vec<&str> = wsdl.operations().collect();
            bad(format!("the class has no such operation; there are {}", known.join(", ")))
        })?;
        let call = Element::new(operation).with_all(wsdl.write(takes, parameters, operation).map_err(bad)?);
        let answer = self.soap(&wsdl.service, &call).await?;
        let mut read = wsdl.read(returns, &answer);
        Ok(returns.first().and_then(|member| read.remove(&member.name)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_wsdl_is_refused() {
        for text in ["", "<html/>", "<definitions/>", "<definitions targetNamespace=\"x\"/>"] {
            assert!(Wsdl::parse(text).is_err(), "{text}");
        }
    }
}
