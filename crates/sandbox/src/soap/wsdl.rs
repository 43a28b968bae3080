//! The WSDLs: one for all orgs, and one with the objects of this one.

use super::Flavor;
use super::types::{Element, TYPES};
use crate::org::Org;
use crate::schema::{Field, Kind, Object, Schema};

/// Types of XML that the calls use by name.
const SIMPLE: [&str; 8] = ["string", "boolean", "int", "long", "double", "dateTime", "date", "base64Binary"];

fn of(kind: &str) -> String {
    match kind {
        "sObject" => "ens:sObject".to_owned(),
        kind if SIMPLE.contains(&kind) => format!("xsd:{kind}"),
        kind => format!("tns:{kind}"),
    }
}

fn element(out: &mut String, element: &Element) {
    let least = if element.optional { " minOccurs=\"0\"" } else { "" };
    let most = if element.many { " maxOccurs=\"unbounded\"" } else { "" };
    let nillable = if element.nillable { " nillable=\"true\"" } else { "" };
    out.push_str(&format!("<element name=\"{}\" type=\"{}\"{least}{most}{nillable}/>", element.name, of(element.kind)));
}

fn sequence(out: &mut String, elements: &[Element]) {
    out.push_str("<sequence>");
    for part in elements {
        element(out, part);
    }
    out.push_str("</sequence>");
}

impl Org {
    /// Returns a WSDL that leads to this org.
    pub(crate) fn wsdl(&self, flavor: Flavor) -> String {
        let (tns, objects, fault) = flavor.namespaces();
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<definitions targetNamespace=\"{tns}\" \
             xmlns=\"http://schemas.xmlsoap.org/wsdl/\" xmlns:soap=\"http://schemas.xmlsoap.org/wsdl/soap/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:tns=\"{tns}\" xmlns:fns=\"{fault}\" xmlns:ens=\"{objects}\">\
             <types><schema elementFormDefault=\"qualified\" xmlns=\"http://www.w3.org/2001/XMLSchema\" \
             targetNamespace=\"{objects}\"><import namespace=\"{tns}\"/>"
        );
        self.objects_in(&mut out, flavor);
        out.push_str(&format!(
            "</schema><schema elementFormDefault=\"qualified\" xmlns=\"http://www.w3.org/2001/XMLSchema\" \
             targetNamespace=\"{tns}\"><import namespace=\"{objects}\"/>\
             <simpleType name=\"ID\"><restriction base=\"xsd:string\"><length value=\"18\"/>\
             <pattern value=\"[a-zA-Z0-9]{{18}}\"/></restriction></simpleType>\
             <simpleType name=\"QueryLocator\"><restriction base=\"xsd:string\"/></simpleType>\
             <simpleType name=\"StatusCode\"><restriction base=\"xsd:string\"/></simpleType>"
        ));
        let compound = [
            ("location", vec![("latitude", "double"), ("longitude", "double")]),
            (
                "address",
                ["city", "country", "countryCode", "geocodeAccuracy", "postalCode", "state", "stateCode", "street"]
                    .map(|part| (part, "string"))
                    .to_vec(),
            ),
        ];
        for (name, parts) in compound {
            out.push_str(&format!("<complexType name=\"{name}\"><sequence>"));
            for (part, kind) in parts {
                out.push_str(&format!(
                    "<element name=\"{part}\" type=\"xsd:{kind}\" minOccurs=\"0\" nillable=\"true\"/>"
                ));
            }
            out.push_str("</sequence></complexType>");
        }
        for (name, parts) in &TYPES.types {
            let base = TYPES.bases.get(name);
            out.push_str(&format!("<complexType name=\"{name}\">"));
            out.extend(base.map(|base| format!("<complexContent><extension base=\"tns:{base}\">")));
            sequence(&mut out, parts);
            out.push_str(base.map_or("", |_| "</extension></complexContent>"));
            out.push_str("</complexType>");
        }
        for (name, parts) in &TYPES.headers {
            out.push_str(&format!("<element name=\"{name}\"><complexType>"));
            sequence(&mut out, parts);
            out.push_str("</complexType></element>");
        }
        for call in &TYPES.calls {
            out.push_str(&format!("<element name=\"{}\"><complexType>", call.name));
            sequence(&mut out, &call.takes);
            out.push_str(&format!("</complexType></element><element name=\"{}Response\"><complexType>", call.name));
            sequence(&mut out, call.gives.as_slice());
            out.push_str("</complexType></element>");
        }
        out.push_str(&format!(
            "</schema><schema elementFormDefault=\"qualified\" xmlns=\"http://www.w3.org/2001/XMLSchema\" \
             targetNamespace=\"{fault}\"><import namespace=\"{tns}\"/><complexType name=\"ApiFault\"><sequence>\
             <element name=\"exceptionCode\" type=\"xsd:string\"/><element name=\"exceptionMessage\" type=\"xsd:string\"/>\
             </sequence></complexType><element name=\"fault\" type=\"fns:ApiFault\"/></schema></types>"
        ));
        self.service(&mut out, flavor);
        out.push_str("</definitions>");
        out
    }

    /// Writes messages, operations, and where they are answered.
    fn service(&self, out: &mut String, flavor: Flavor) {
        out.push_str("<message name=\"Header\">");
        for (name, _) in &TYPES.headers {
            out.push_str(&format!("<part element=\"tns:{name}\" name=\"{name}\"/>"));
        }
        out.push_str("</message><message name=\"ApiFault\"><part name=\"fault\" element=\"fns:fault\"/></message>");
        for call in &TYPES.calls {
            let name = call.name;
            out.push_str(&format!(
                "<message name=\"{name}Request\"><part element=\"tns:{name}\" name=\"parameters\"/></message>\
                 <message name=\"{name}Response\"><part element=\"tns:{name}Response\" name=\"parameters\"/></message>"
            ));
        }
        out.push_str("<portType name=\"Soap\">");
        for call in &TYPES.calls {
            let name = call.name;
            out.push_str(&format!(
                "<operation name=\"{name}\"><input message=\"tns:{name}Request\"/><output message=\"tns:{name}Response\"/>\
                 <fault message=\"tns:ApiFault\" name=\"ApiFault\"/></operation>"
            ));
        }
        out.push_str(
            "</portType><binding name=\"SoapBinding\" type=\"tns:Soap\">\
             <soap:binding style=\"document\" transport=\"http://schemas.xmlsoap.org/soap/http\"/>",
        );
        for call in &TYPES.calls {
            let name = call.name;
            let first = if name == "login" { "LoginScopeHeader" } else { "SessionHeader" };
            let header = |name: &str| format!("<soap:header use=\"literal\" message=\"tns:Header\" part=\"{name}\"/>");
            let headers: String = TYPES
                .headers
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| {
                    *name == first || !["SessionHeader", "LoginScopeHeader", "LimitInfoHeader"].contains(name)
                })
                .map(header)
                .collect();
            out.push_str(&format!(
                "<operation name=\"{name}\"><soap:operation soapAction=\"\"/><input>{headers}\
                 <soap:body use=\"literal\" parts=\"parameters\"/></input><output>{}<soap:body use=\"literal\"/></output>\
                 <fault name=\"ApiFault\"><soap:fault name=\"ApiFault\" use=\"literal\"/></fault></operation>",
                if name == "login" { String::new() } else { header("LimitInfoHeader") }
            ));
        }
        let (name, letter) = match flavor {
            Flavor::Partner => ("Partner", 'u'),
            Flavor::Enterprise => ("Enterprise", 'c'),
        };
        out.push_str(&format!(
            "</binding><service name=\"SforceService\"><documentation>Sforce SOAP API, {name}</documentation>\
             <port binding=\"tns:SoapBinding\" name=\"Soap\"><soap:address location=\"{}/services/Soap/{letter}/64.0\"/></port>\
             </service>",
            self.url()
        ));
    }

    /// Writes the types of records.
    fn objects_in(&self, out: &mut String, flavor: Flavor) {
        if flavor == Flavor::Partner {
            out.push_str(
                "<complexType name=\"sObject\"><sequence><element name=\"type\" type=\"xsd:string\"/>\
                 <element name=\"fieldsToNull\" type=\"xsd:string\" nillable=\"true\" minOccurs=\"0\" maxOccurs=\"unbounded\"/>\
                 <element name=\"Id\" type=\"tns:ID\" nillable=\"true\" minOccurs=\"0\"/>\
                 <any namespace=\"##targetNamespace\" minOccurs=\"0\" maxOccurs=\"unbounded\" processContents=\"lax\"/>\
                 </sequence></complexType>",
            );
            return;
        }
        out.push_str(
            "<complexType name=\"sObject\"><sequence>\
             <element name=\"fieldsToNull\" type=\"xsd:string\" nillable=\"true\" minOccurs=\"0\" maxOccurs=\"unbounded\"/>\
             <element name=\"Id\" type=\"tns:ID\" nillable=\"true\" minOccurs=\"0\"/></sequence></complexType>",
        );
        let all = self.schema();
        for object in all.objects() {
            out.push_str(&format!(
                "<complexType name=\"{}\"><complexContent><extension base=\"ens:sObject\"><sequence>",
                object.name
            ));
            for (name, kind) in members(&all, object) {
                out.push_str(&format!("<element name=\"{name}\" nillable=\"true\" minOccurs=\"0\" type=\"{kind}\"/>"));
            }
            out.push_str("</sequence></extension></complexContent></complexType>");
        }
        let aggregate = "<complexType name=\"AggregateResult\"><complexContent><extension base=\"ens:sObject\"><sequence>\
             <any namespace=\"##targetNamespace\" minOccurs=\"0\" maxOccurs=\"unbounded\" processContents=\"lax\"/>\
             </sequence></extension></complexContent></complexType>";
        out.push_str(aggregate);
    }
}

/// Returns the fields, parents and children of an object with their types, in the order of their names.
fn members(schema: &Schema, object: &Object) -> Vec<(String, String)> {
    let mut members: Vec<(String, String)> = Vec::new();
    for field in object.fields.iter().filter(|field| field.name != "Id") {
        members.push((field.name.clone(), type_of(field).to_owned()));
        if let (Some(relationship), [target]) = (&field.relationship, field.targets.as_slice())
            && schema.object(target).is_some()
        {
            members.push((relationship.clone(), format!("ens:{target}")));
        } else if let Some(relationship) = field.relationship.as_ref().filter(|_| field.targets.len() > 1) {
            members.push((relationship.clone(), "ens:sObject".to_owned()));
        }
    }
    let children = schema.children(&object.name).filter_map(|(_, field)| field.children.clone());
    members.extend(children.map(|name| (name, "tns:QueryResult".to_owned())));
    members.sort();
    members.dedup_by(|left, right| left.0 == right.0);
    members
}

fn type_of(field: &Field) -> &'static str {
    match field.kind {
        Kind::Id | Kind::Reference => "tns:ID",
        Kind::Boolean => "xsd:boolean",
        Kind::Int => "xsd:int",
        Kind::Date => "xsd:date",
        Kind::Datetime => "xsd:dateTime",
        Kind::Time => "xsd:time",
        Kind::Base64 => "xsd:base64Binary",
        Kind::Address => "tns:address",
        Kind::Location => "tns:location",
        kind if kind.numeric() => "xsd:double",
        _ => "xsd:string",
    }
}
