//! A way in for fuzzers: any text and any bytes go the way that calls go, without a network.

use std::sync::Arc;

use crate::error::ApiError;
use crate::org::{Config, Org, StartError};
use crate::rest::Call;

/// An org that takes whatever comes. Each method returns the status of the answer; none may panic.
pub struct Probe(Arc<Org>);

impl Probe {
    /// Opens an org with a few records.
    ///
    /// # Errors
    ///
    /// When the records can't be made.
    pub fn open() -> Result<Self, StartError> {
        let org = Org::open(Config::default())?;
        org.url.get_or_init(String::new);
        org.plant(20, 1).map_err(|error: ApiError| StartError::Seed(error.message))?;
        Ok(Self(Arc::new(org)))
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> u16 {
        let mut call = Call::new(method, &format!("/services/data/v66.0{path}"));
        call.caller = self.0.system();
        call.headers.insert("content-type".to_owned(), kind.to_owned());
        body.clone_into(&mut call.body);
        self.0.data(&call).status
    }

    /// Runs a query.
    pub fn soql(&self, text: &str) -> u16 {
        let mut call = Call::new("GET", "/services/data/v66.0/query");
        call.caller = self.0.system();
        call.query.insert("q".to_owned(), text.to_owned());
        self.0.data(&call).status
    }

    /// Runs a search.
    pub fn sosl(&self, text: &str) -> u16 {
        let mut call = Call::new("GET", "/services/data/v66.0/search");
        call.caller = self.0.system();
        call.query.insert("q".to_owned(), text.to_owned());
        self.0.data(&call).status
    }

    /// Sends a body as a record, a collection, a composite call, a tree and a job.
    pub fn json(&self, body: &[u8]) -> [u16; 5] {
        ["/sobjects/Account", "/composite/sobjects", "/composite", "/composite/tree/Account", "/jobs/ingest"]
            .map(|path| self.send("POST", path, "application/json", body))
    }

    /// Sends a body as a SOAP call; what is no envelope becomes the body of one.
    pub fn soap(&self, body: &str) -> u16 {
        let mut call = Call::new("POST", "/services/Soap/u/66.0");
        let wrapped = format!("<Envelope><Body>{body}</Body></Envelope>");
        call.body = if body.contains("Envelope") { body.to_owned() } else { wrapped }.into_bytes();
        let admit = |org: &Org, call: &mut Call| {
            call.caller = org.system();
            Ok(())
        };
        let answer = crate::soap::answer(&self.0, &mut call, crate::soap::Flavor::Partner, "66.0", admit);
        // Every refusal has this status; our own fault says so.
        if String::from_utf8_lossy(&answer.body).contains("UNKNOWN_EXCEPTION") { 599 } else { answer.status }
    }

    /// Deploys a body as a package, and one in which it is the file of an object; returns what became of them.
    pub fn zip(&self, body: &[u8]) -> [bool; 2] {
        self.0.deploys_package(body)
    }

    /// Sends a body as a record in XML, and as a record with a file beside it.
    pub fn other(&self, body: &[u8]) -> [u16; 2] {
        ["application/xml", "multipart/form-data; boundary=b"]
            .map(|kind| self.send("POST", "/sobjects/ContentVersion", kind, body))
    }

    /// Loads a body as the data of an ingest job and works on it to its end; returns the job's state.
    pub fn csv(&self, body: &[u8]) -> String {
        self.0.load(body)
    }
}
