//! SOAP: the calls that only it has, classes with web services, and the Metadata API.
//!
//! A call is an [`Element`] that goes into an envelope with the session, and what comes back is an element again. The partner
//! API and the Metadata API have functions of their own; a class is called by its WSDL ([`Wsdl`]), in JSON both ways.

mod metadata;
mod partner;
mod wsdl;
mod xml;

use outbound::{Body, Request};
use secrecy::ExposeSecret as _;

pub use self::metadata::{Component, MetadataType};
pub use self::partner::{Converted, LeadConversion, Merged};
pub use self::wsdl::Wsdl;
pub use self::xml::Element;
use crate::client::Client;
use crate::error::{ApiError, Error};

/// The namespace of envelopes. Source: SOAP 1.1.
const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// The namespace of what says that a value is none, or of which type it is.
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// Where calls go, and in which namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The path of the org, such as `/services/Soap/u/66.0`.
    pub path: String,
    /// The namespace of calls, and of the header that names the session.
    pub namespace: String,
    /// The namespace of records, in calls that have some.
    pub records: Option<String>,
}

impl Client {
    /// Calls a service: sends `call` and returns the element that answers it. A session that ended is renewed once.
    ///
    /// # Errors
    ///
    /// No answer, no session, or the fault, with its code and text.
    pub async fn soap(&self, service: &Service, call: &Element) -> Result<Element, Error> {
        self.soap_with(service, &[], call).await
    }

    /// Calls a service with headers besides the session's.
    ///
    /// # Errors
    ///
    /// As for [`Client::soap`].
    pub async fn soap_with(&self, service: &Service, headers: &[Element], call: &Element) -> Result<Element, Error> {
        let mut session = self.session().await?;
        let mut renewed = false;
        loop {
            let header = Element::new("SessionHeader").with(Element::text("sessionId", session.token.expose_secret()));
            let envelope = service.envelope(&header, headers, call);
            let mut request = Request::new("POST", format!("{}{}", session.instance_url, service.path))
                .header("content-type", "text/xml; charset=UTF-8")
                .header("soapaction", "\"\"");
            request.body = Body::Bytes(envelope.into());
            let response = self.sent(&request).await?;
            let status = response.status();
            let body = response.bytes().await?;
            match answer(&call.name, status, &body) {
                Err(Error::Refused { source, .. }) if source.code == "INVALID_SESSION_ID" && !renewed => {
                    renewed = true;
                    session = self.renewed(&session).await?;
                }
                answered => return answered,
            }
        }
    }
}

impl Service {
    /// Writes an envelope.
    fn envelope(&self, session: &Element, headers: &[Element], call: &Element) -> String {
        let records = self.records.as_ref().map(|space| format!(" xmlns:o=\"{space}\"")).unwrap_or_default();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><e:Envelope xmlns:e=\"{ENVELOPE}\" xmlns:xsi=\"{INSTANCE}\" \
             xmlns=\"{}\"{records}><e:Header>",
            self.namespace
        );
        std::iter::once(session).chain(headers).for_each(|header| header.write(&mut text));
        text.push_str("</e:Header><e:Body>");
        call.write(&mut text);
        text.push_str("</e:Body></e:Envelope>");
        text
    }
}

/// Reads the answer to a call.
fn answer(call: &str, status: u16, body: &[u8]) -> Result<Element, Error> {
    let what = || format!("the SOAP call {call}");
    let bad = |why: String| Error::BadAnswer { what: what(), source: why.into() };
    let text = std::str::from_utf8(body).map_err(|error| bad(error.to_string()))?;
    let envelope = Element::parse(text).map_err(|why| bad(format!("status {status}: {why}")))?;
    let found = envelope.child("Body").and_then(|body| body.children.first());
    let found = found.ok_or_else(|| bad(format!("status {status}: the envelope is empty")))?;
    if found.name != "Fault" {
        return Ok(found.clone());
    }
    let of = |name: &str| found.child(name).map(|node| node.content.clone()).unwrap_or_default();
    let (code, text) = (of("faultcode"), of("faultstring"));
    let code = code.rsplit(':').next().unwrap_or_default();
    let message = text.strip_prefix(code).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
    let source = ApiError { code: code.to_owned(), message: message.to_owned(), fields: Vec::new() };
    // What a fault says matters, and its status is 500 whatever that is.
    Err(Error::Refused { what: what(), status: 400, source })
}
