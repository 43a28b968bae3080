//! Classes whose methods are called by SOAP, as the org's definition declares them, each with its WSDL.
//!
//! Source: Apex developer guide, "Exposing Apex Methods as SOAP Web Services".

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{ENVELOPE, client_fault, envelope, sign_in};
use crate::actions::Values;
use crate::definition::{Method, WebService};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::xml::{Node, escape};

/// Types that a signature may name, with those of XML.
const SIMPLE: [(&str, &str); 10] = [
    ("string", "xsd:string"),
    ("boolean", "xsd:boolean"),
    ("int", "xsd:int"),
    ("long", "xsd:long"),
    ("double", "xsd:double"),
    ("decimal", "xsd:decimal"),
    ("date", "xsd:date"),
    ("dateTime", "xsd:dateTime"),
    ("base64Binary", "xsd:base64Binary"),
    ("ID", "tns:ID"),
];
/// The elements of headers that every class takes, with their parts.
const HEADERS: &str = "<xsd:element name=\"AllowFieldTruncationHeader\"><xsd:complexType><xsd:sequence>\
    <xsd:element name=\"allowFieldTruncation\" type=\"xsd:boolean\"/></xsd:sequence></xsd:complexType></xsd:element>\
    <xsd:element name=\"CallOptions\"><xsd:complexType><xsd:sequence><xsd:element name=\"client\" type=\"xsd:string\"/>\
    </xsd:sequence></xsd:complexType></xsd:element>\
    <xsd:element name=\"SessionHeader\"><xsd:complexType><xsd:sequence><xsd:element name=\"sessionId\" type=\"xsd:string\"/>\
    </xsd:sequence></xsd:complexType></xsd:element>";
/// Their names.
const HEADER_NAMES: [&str; 3] = ["SessionHeader", "CallOptions", "AllowFieldTruncationHeader"];

/// Splits the type of a list from that of others.
fn list(kind: &str) -> (&str, bool) {
    kind.strip_suffix("[]").map_or((kind, false), |kind| (kind, true))
}

/// Checks that a class names only types that there are.
///
/// # Errors
///
/// What is wrong, in words.
pub(crate) fn check(service: &WebService) -> Result<(), String> {
    let fields = service.types.values().flat_map(|fields| fields.values());
    let methods = service.methods.iter();
    let signatures =
        methods.flat_map(|method| method.parameters.iter().map(|given| &given.kind).chain(&method.returns));
    for kind in fields.chain(signatures) {
        let (kind, _) = list(kind);
        if !service.types.contains_key(kind) && !SIMPLE.iter().any(|(name, _)| *name == kind) {
            let known: Vec<&str> = SIMPLE.iter().map(|(name, _)| *name).collect();
            return Err(format!("there is no type {kind}: it is one of `types` or of {}", known.join(", ")));
        }
    }
    Ok(())
}

/// Reads a value of this type: what is left out is null.
fn read(service: &WebService, kind: &str, node: Option<&Node>) -> Value {
    let Some(node) = node.filter(|node| !node.nil) else { return Value::Null };
    let text = node.content.trim();
    match kind {
        "boolean" => Value::Bool(matches!(text, "true" | "1")),
        "int" | "long" | "double" | "decimal" => serde_json::from_str(text).unwrap_or(Value::Null),
        _ => match service.types.get(kind) {
            Some(fields) => members(service, fields.iter().map(|(name, kind)| (name.as_str(), kind.as_str())), node),
            None => Value::String(node.content.clone()),
        },
    }
}

fn members<'m>(service: &WebService, members: impl Iterator<Item = (&'m str, &'m str)>, node: &Node) -> Value {
    let member = |(name, kind): (&str, &str)| {
        let (kind, many) = list(kind);
        let mut found = node.children.iter().filter(|child| child.tag == name);
        let value = if many {
            found.map(|child| read(service, kind, Some(child))).collect()
        } else {
            read(service, kind, found.next())
        };
        (name.to_owned(), value)
    };
    Value::Object(members.map(member).collect::<Map<_, _>>())
}

/// Writes a value of this type.
fn write(out: &mut String, service: &WebService, name: &str, kind: &str, value: &Value) {
    let (kind, many) = list(kind);
    match (value, service.types.get(kind)) {
        (Value::Array(values), _) if many => values.iter().for_each(|value| write(out, service, name, kind, value)),
        (Value::Null, _) if many => {}
        (Value::Null, _) => out.push_str(&format!("<{name} xsi:nil=\"true\"/>")),
        (value, Some(fields)) => {
            out.push_str(&format!("<{name}>"));
            for (field, kind) in fields {
                write(out, service, field, kind, value.get(field).unwrap_or(&Value::Null));
            }
            out.push_str(&format!("</{name}>"));
        }
        (Value::String(text), None) => {
            out.push_str(&format!("<{name}>{}</{name}>", escape(&super::write::moment(text))));
        }
        (value, None) => out.push_str(&format!("<{name}>{}</{name}>", escape(&value.to_string()))),
    }
}

/// Answers a call of a class; `admitted` checks and counts its session.
pub(crate) fn answer(
    org: &Arc<Org>,
    call: &mut Call,
    class: &str,
    admitted: impl Fn(&Org, &mut Call) -> Result<(), ApiError>,
) -> Answer {
    let Some(service) = org.web_service(class) else {
        return client_fault(&format!("there is no web service {class}"));
    };
    let envelope = match envelope(call) {
        Ok(envelope) => envelope,
        Err(answer) => return answer,
    };
    let body = envelope.child("Body").and_then(|body| body.children.first());
    let method = body.and_then(|body| service.methods.iter().find(|method| method.name == body.tag));
    let (Some(body), Some(method)) = (body, method) else {
        let name = body.map_or("nothing", |body| body.tag.as_str());
        return client_fault(&format!("No operation available for request {name}"));
    };
    crate::events::set_origin(format!("com/salesforce/api/soap/class/{class}"));
    if let Err(error) = sign_in(org, call, envelope.child("Header"), admitted) {
        let (code, message) = (escape(&error.code), escape(&error.message));
        let fault = format!(
            "<soapenv:Fault><faultcode>sf:{code}</faultcode><faultstring>{code}: {message}</faultstring></soapenv:Fault>"
        );
        return told(500, service, &fault);
    }
    match org.called(call, service, method, body) {
        Ok(value) => {
            let mut result = format!("<{0}Response xmlns=\"{1}\">", method.name, namespace(service));
            if let Some(kind) = &method.returns {
                write(&mut result, service, "result", kind, &value);
            }
            told(200, service, &(result + &format!("</{}Response>", method.name)))
        }
        Err(error) => {
            let place = format!("Class.{}.{}: line 1, column 1", service.class.replace('/', "."), method.name);
            client_fault(&format!("{}\n\n{place}", error.message))
        }
    }
}

fn namespace(service: &WebService) -> String {
    format!("http://soap.sforce.com/schemas/class/{}", service.class)
}

fn told(status: u16, service: &WebService, body: &str) -> Answer {
    let envelope = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns:sf=\"{}\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>",
        namespace(service)
    );
    Answer::bytes(status, "text/xml;charset=UTF-8", envelope.into_bytes())
}

impl Org {
    /// Finds a class.
    fn web_service(&self, class: &str) -> Option<&WebService> {
        self.config.definition.apex_soap.iter().find(|service| service.class.eq_ignore_ascii_case(class))
    }

    fn called(&self, call: &Call, service: &WebService, method: &Method, body: &Node) -> Answered<Value> {
        let parameters = method.parameters.iter().map(|given| (given.name.as_str(), given.kind.as_str()));
        let mut values: Values = match members(service, parameters, body) {
            Value::Object(values) => values.into_iter().collect(),
            _ => HashMap::new(),
        };
        self.performed(call, method.query.as_deref(), method.write.as_ref(), method.answer.as_ref(), &mut values)
    }

    /// Returns the WSDL of a class; none where there is no such class.
    pub(crate) fn class_wsdl(&self, class: &str) -> Option<String> {
        let service = self.web_service(class)?;
        let (tns, name) = (namespace(service), service.class.rsplit('/').next().unwrap_or_default());
        let element = |name: &str, kind: &str, member: bool| {
            let (kind, many) = list(kind);
            let kind = SIMPLE
                .iter()
                .find(|(simple, _)| *simple == kind)
                .map_or(format!("tns:{kind}"), |(_, of)| (*of).to_owned());
            let least = if member || many { " minOccurs=\"0\"" } else { "" };
            let most = if many { " maxOccurs=\"unbounded\"" } else { "" };
            format!("<xsd:element name=\"{name}\"{least}{most} type=\"{kind}\" nillable=\"true\"/>")
        };
        let mut schema = HEADERS.to_owned();
        schema.push_str(
            "<xsd:simpleType name=\"ID\"><xsd:restriction base=\"xsd:string\"><xsd:length value=\"18\"/>\
             <xsd:pattern value=\"[a-zA-Z0-9]{18}\"/></xsd:restriction></xsd:simpleType>",
        );
        for (name, fields) in &service.types {
            let fields: String = fields.iter().map(|(name, kind)| element(name, kind, true)).collect();
            schema.push_str(&format!(
                "<xsd:complexType name=\"{name}\"><xsd:sequence>{fields}</xsd:sequence></xsd:complexType>"
            ));
        }
        let (mut messages, mut operations, mut bound) = (String::new(), String::new(), String::new());
        let headers = HEADER_NAMES
            .map(|name| format!("<soap:header use=\"literal\" part=\"{name}\" message=\"tns:Header\"/>"))
            .concat();
        for Method { name, parameters, returns, .. } in &service.methods {
            let takes: String = parameters.iter().map(|given| element(&given.name, &given.kind, false)).collect();
            let gives: String = returns.iter().map(|kind| element("result", kind, false)).collect();
            for (element, parts) in [(name.clone(), takes), (format!("{name}Response"), gives)] {
                schema.push_str(&format!(
                    "<xsd:element name=\"{element}\"><xsd:complexType><xsd:sequence>{parts}</xsd:sequence>\
                     </xsd:complexType></xsd:element>"
                ));
            }
            messages.push_str(&format!(
                "<message name=\"{name}Request\"><part element=\"tns:{name}\" name=\"parameters\"/></message>\
                 <message name=\"{name}Response\"><part element=\"tns:{name}Response\" name=\"parameters\"/></message>"
            ));
            operations.push_str(&format!(
                "<operation name=\"{name}\"><input message=\"tns:{name}Request\"/>\
                 <output message=\"tns:{name}Response\"/></operation>"
            ));
            bound.push_str(&format!(
                "<operation name=\"{name}\"><soap:operation soapAction=\"\"/><input>{headers}\
                 <soap:body use=\"literal\" parts=\"parameters\"/></input><output><soap:body use=\"literal\"/></output>\
                 </operation>"
            ));
        }
        let parts = HEADER_NAMES.map(|name| format!("<part element=\"tns:{name}\" name=\"{name}\"/>")).concat();
        Some(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<definitions targetNamespace=\"{tns}\" \
             xmlns=\"http://schemas.xmlsoap.org/wsdl/\" xmlns:soap=\"http://schemas.xmlsoap.org/wsdl/soap/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:tns=\"{tns}\"><types><xsd:schema \
             elementFormDefault=\"qualified\" targetNamespace=\"{tns}\">{schema}</xsd:schema></types>\
             <message name=\"Header\">{parts}</message>{messages}<portType name=\"{name}PortType\">{operations}</portType>\
             <binding name=\"{name}Binding\" type=\"tns:{name}PortType\"><soap:binding style=\"document\" \
             transport=\"http://schemas.xmlsoap.org/soap/http\"/>{bound}</binding><service name=\"{name}Service\">\
             <port binding=\"tns:{name}Binding\" name=\"{name}\"><soap:address \
             location=\"{}/services/Soap/class/{}\"/></port></service></definitions>",
            self.url(),
            service.class
        ))
    }
}
