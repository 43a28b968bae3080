//! The Metadata API: its calls by SOAP, and deploying by REST.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Value, json};

use super::deploy::Options;
use super::{Component, NAMESPACE, Sort, component, parts_of, type_named, types};
use crate::error::{Answered, ApiError};
use crate::org::Org;
use crate::rest::{Answer, Call};
use crate::soap::{ENVELOPE, client_fault, envelope, sign_in};
use crate::xml::{Node, element, escape};

/// Components that one call creates, changes or deletes. Source: Metadata API Developer Guide.
const MOST: usize = 10;

/// Answers a call below `/services/Soap/m`; `admitted` checks and counts its session.
pub(crate) fn answer(
    org: &Arc<Org>,
    call: &mut Call,
    admitted: impl Fn(&Org, &mut Call) -> Result<(), ApiError>,
) -> Answer {
    let envelope = match envelope(call) {
        Ok(envelope) => envelope,
        Err(answer) => return answer,
    };
    let Some(body) = envelope.child("Body").and_then(|body| body.children.first()) else {
        return client_fault("the envelope holds no call");
    };
    let done = sign_in(org, call, envelope.child("Header"), admitted).and_then(|()| org.metadata(call, body));
    match done {
        Ok(Some(results)) => {
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns=\"{NAMESPACE}\" \
                 xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body><{0}Response>{results}</{0}Response>\
                 </soapenv:Body></soapenv:Envelope>",
                body.tag
            );
            Answer::bytes(200, "text/xml;charset=UTF-8", text.into_bytes())
        }
        Ok(None) => client_fault(&format!("No operation available for request {}", body.tag)),
        Err(error) => fault(&error),
    }
}

/// Writes a refusal. It has no detail.
fn fault(error: &ApiError) -> Answer {
    let (code, message) = (escape(&error.code), escape(&error.message));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns:sf=\"{NAMESPACE}\">\
         <soapenv:Body><soapenv:Fault><faultcode>sf:{code}</faultcode><faultstring>{code}: {message}</faultstring></soapenv:Fault>\
         </soapenv:Body></soapenv:Envelope>"
    );
    Answer::bytes(500, "text/xml;charset=UTF-8", body.into_bytes())
}

fn result(value: &Value) -> String {
    let mut text = String::new();
    element("result", value, &mut text);
    text
}

fn needed<'n>(node: &'n Node, name: &str) -> Answered<&'n str> {
    node.text(name).ok_or_else(|| ApiError::new(400, "MISSING_ARGUMENT", format!("{name} is missing")))
}

fn unpacked(text: &str) -> Answered<Vec<u8>> {
    let bare: String = text.split_whitespace().collect();
    let wrong =
        |error: base64::DecodeError| ApiError::new(400, "INVALID_INPUT", format!("ZipFile is no base64: {error}"));
    base64::engine::general_purpose::STANDARD.decode(bare).map_err(wrong)
}

/// Returns what there are types of.
fn described() -> Value {
    let objects = types().filter(|of| of.whole.is_none()).map(|of| {
        let parts: Vec<&str> = types().filter(|part| part.whole == Some(of.name)).map(|part| part.name).collect();
        let mut entry = json!({"directoryName": of.folder, "inFolder": false,
                               "metaFile": of.sort == Sort::Content, "xmlName": of.name});
        if !parts.is_empty() {
            entry["childXmlNames"] = json!(parts);
        }
        if !of.suffix.is_empty() {
            entry["suffix"] = json!(of.suffix);
        }
        entry
    });
    json!({"metadataObjects": objects.collect::<Vec<_>>(), "organizationNamespace": "", "partialSaveAllowed": true,
           "testRequired": false})
}

/// Reads a component of a call into those that it stands for: an object, and its parts.
fn told(node: &Node) -> Result<Vec<Component>, String> {
    let kind = node.kind.as_deref().map(|kind| kind.rsplit(':').next().unwrap_or(kind)).unwrap_or_default();
    let of = type_named(kind).ok_or_else(|| format!("Unknown type: {kind}"))?;
    let name = node.text("fullName").ok_or("a component has no fullName")?.to_owned();
    let mut xml = Node { tag: of.name.to_owned(), kind: None, ..node.clone() };
    let own = name.split_once('.').map_or(name.as_str(), |(_, own)| own).to_owned();
    xml.children.retain(|child| child.tag != "fullName");
    match of.sort {
        Sort::Part => {
            xml.children.insert(0, Node { tag: "fullName".to_owned(), content: own, ..Node::default() });
            let path = format!("objects/{}.object", name.split_once('.').map_or("", |(whole, _)| whole));
            Ok(vec![component(of, name, &path, &xml)])
        }
        _ if of.name == "CustomObject" => parts_of(&name, &format!("objects/{name}.object"), xml),
        Sort::Plain => {
            let path = format!("{}/{name}.{}", of.folder, of.suffix);
            Ok(vec![component(of, name, &path, &xml)])
        }
        Sort::Content | Sort::Bundle | Sort::Within => Err(format!("{kind} can only be deployed")),
    }
}

impl Org {
    /// Refuses who may not change what the org is made of.
    fn administers(call: &Call) -> Answered<()> {
        if call.caller.admin {
            return Ok(());
        }
        let message = "use of the Metadata API requires a user with the ModifyAllData or ModifyMetadata permissions";
        Err(ApiError::new(403, "INSUFFICIENT_ACCESS", message))
    }

    /// Answers a call with its results; `None` for a call that is not known.
    fn metadata(&self, call: &Call, body: &Node) -> Answered<Option<String>> {
        Self::administers(call)?;
        let caller = &call.caller;
        let flag = |name: &str| body.text(name) == Some("true");
        let wait = |id: String| json!({"done": false, "id": id, "state": "Queued"});
        let too_many = |count: usize| {
            let message = format!("record limit reached. cannot submit more than {MOST} records into this call");
            if count > MOST { Err(ApiError::new(400, "EXCEEDED_MAX_SIZE_REQUEST", message)) } else { Ok(()) }
        };
        Ok(Some(match body.tag.as_str() {
            "describeMetadata" => result(&described()),
            "listMetadata" => {
                let mut listed = String::new();
                for query in body.children.iter().filter(|node| node.tag == "queries") {
                    self.list_metadata(needed(query, "type")?)?
                        .iter()
                        .for_each(|entry| listed.push_str(&result(entry)));
                }
                listed
            }
            "readMetadata" => {
                let of = needed(body, "type")?;
                let mut records = String::from("<result>");
                too_many(body.texts("fullNames").count())?;
                for name in body.texts("fullNames") {
                    match self.read_metadata(of, name)? {
                        Some(found) => found.write("", 0, &mut records),
                        None => records.push_str("<records xsi:nil=\"true\"/>"),
                    }
                }
                records + "</result>"
            }
            "createMetadata" | "updateMetadata" | "upsertMetadata" => {
                let create = match body.tag.as_str() {
                    "createMetadata" => Some(true),
                    "updateMetadata" => Some(false),
                    _ => None,
                };
                let given: Vec<&Node> = body.children.iter().filter(|node| node.tag == "metadata").collect();
                too_many(given.len())?;
                let mut results = String::new();
                for node in given {
                    let saved = match told(node) {
                        Ok(components) => self.save_metadata(caller, components, create)?,
                        Err(message) => json!({"errors": [{"message": message, "statusCode": "INVALID_TYPE"}],
                                               "fullName": node.text("fullName"), "success": false}),
                    };
                    results.push_str(&result(&saved));
                }
                results
            }
            "deleteMetadata" => {
                let of = needed(body, "type")?;
                let known =
                    type_named(of).ok_or_else(|| ApiError::new(400, "INVALID_TYPE", format!("Unknown type: {of}")))?;
                too_many(body.texts("fullNames").count())?;
                let mut results = String::new();
                for name in body.texts("fullNames") {
                    let one = Component {
                        of: known,
                        name: name.to_owned(),
                        files: Vec::new(),
                        from: std::path::PathBuf::new(),
                    };
                    results.push_str(&result(&self.delete_metadata(caller, one)?));
                }
                results
            }
            "deploy" => {
                let packed = unpacked(needed(body, "ZipFile")?)?;
                result(&wait(self.deploy(caller, &packed, &Options::of(body.child("DeployOptions")))?))
            }
            "deployRecentValidation" => {
                let id = self.deploy_checked(caller, needed(body, "validationId")?)?;
                result(&json!(id))
            }
            "checkDeployStatus" => {
                result(&self.deploy_status(needed(body, "asyncProcessId")?, flag("includeDetails"))?)
            }
            "cancelDeploy" => {
                let id = body.children.first().map(|node| node.content.trim()).unwrap_or_default();
                self.deploy_status(id, false)?;
                return Err(ApiError::new(400, "INVALID_ID_FIELD", "Deployment already completed"));
            }
            "retrieve" => {
                let request = body.child("retrieveRequest").or_else(|| body.child("request"));
                let request =
                    request.ok_or_else(|| ApiError::new(400, "MISSING_ARGUMENT", "retrieveRequest is missing"))?;
                result(&wait(self.retrieve_metadata(request)?))
            }
            "checkRetrieveStatus" => {
                let zip = body.text("includeZip") != Some("false");
                result(&self.retrieve_status(needed(body, "asyncProcessId")?, zip)?)
            }
            _ => return Ok(None),
        }))
    }

    /// Answers a call below `/services/data/vXX.0/metadata`.
    pub(crate) fn metadata_rest(&self, call: &Call, method: &str, steps: &[&str]) -> Answered<Answer> {
        Self::administers(call)?;
        let shown = |id: &str, status: u16, details: bool, options: &Value| {
            let mut told = self.deploy_status(id, details)?;
            if !details {
                told["details"] = json!(null);
            }
            Ok(Answer::json(
                status,
                &json!({"id": told["id"], "validatedDeployRequestId": null, "deployOptions": options,
                                            "deployResult": told}),
            ))
        };
        match (method, steps) {
            ("POST", ["deployRequest"]) => {
                let mut asked = crate::rest::multipart(call)?;
                let missing = || ApiError::new(400, "MISSING_ARGUMENT", "the part `file` with the package is missing");
                let file = asked.remove("file").ok_or_else(missing)?;
                let packed = unpacked(file.as_str().unwrap_or_default())?;
                let options = asked.remove("deployOptions").unwrap_or_default();
                let id = self.deploy(&call.caller, &packed, &Options::of_json(&options))?;
                shown(&id, 201, false, &options)
            }
            ("POST", ["deployRequest", ..]) => Err(ApiError::not_found()),
            ("GET", ["deployRequest", id]) => {
                let details = call.query.get("includeDetails").is_some_and(|text| text == "true");
                shown(id, 200, details, &Value::Null)
            }
            ("PATCH", ["deployRequest", id]) => {
                self.deploy_status(id, false)?;
                Err(ApiError::new(400, "INVALID_ID_FIELD", "Deployment already completed"))
            }
            _ => Err(ApiError::not_found()),
        }
    }
}
