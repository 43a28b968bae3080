//! The one outbound HTTP client: timeouts, retry of what may be retried, and no secrets in messages.
//!
//! Requests are values: built and compared without a network, sent in one place.
//!
//! ```
//! use outbound::Request;
//!
//! let request = Request::get("https://acme.example/services/data?secret=1").header("accept", "application/json");
//! assert_eq!(request.host(), "acme.example");
//! assert_eq!(format!("{request:?}"), "GET acme.example/services/data");
//! ```

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use model::Class;
use tracing::Instrument as _;

/// The cause of an error, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A failure to get any answer at all. An answer with a bad status is not one of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, or it broke.
    #[error("no answer from {host}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The cause.
        source: BoxError,
    },
    /// No byte for too long.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// Host and port.
        host: String,
    },
    /// The address is none, or not of HTTP.
    #[error("{url:?} is not an address")]
    BadAddress {
        /// The address, without its query.
        url: String,
    },
    /// The file to send can't be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The client can't be set up.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] BoxError),
}

impl Error {
    /// Returns what the caller can do.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => Class::Transient { after: None },
            Self::BadAddress { .. } => Class::Mapping,
            Self::Unreadable { .. } | Self::Setup(_) => Class::Internal,
        }
    }
}

/// What is sent with a request.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// The content of a file, streamed; it can be sent again.
    File(PathBuf),
}

/// A request, not sent yet. Its `Debug` form shows neither query, headers nor body.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: &'static str,
    /// The whole address.
    pub url: String,
    /// Header names in lower case, and values.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Body,
    /// True when sending it twice does what sending it once does.
    pub idempotent: bool,
    hidden: bool,
}

impl Request {
    /// Returns a request without headers or body.
    pub fn new(method: &'static str, url: impl Into<String>) -> Self {
        let idempotent = matches!(method, "GET" | "HEAD" | "PUT" | "DELETE");
        Self { method, url: url.into(), headers: Vec::new(), body: Body::Empty, idempotent, hidden: false }
    }

    /// The same request, whose address is a secret: its path is told nowhere.
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Returns a `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// The same request with a header more.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same request with a JSON body.
    pub fn json(self, body: &serde_json::Value) -> Self {
        let mut request = self.header("content-type", "application/json");
        request.body = Body::Bytes(body.to_string().into());
        request
    }

    /// The same request with a form as its body.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let mut request = self.header("content-type", "application/x-www-form-urlencoded");
        let mut text = url_form::Serializer::new();
        for (name, value) in fields {
            text.pair(name, value);
        }
        request.body = Body::Bytes(text.finish().into());
        request
    }

    /// The same request, marked as one that may be repeated.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Returns host and port of the address.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }

    fn path(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        path.split(['?', '#']).next().unwrap_or_default()
    }

    /// Returns what may be told of the address.
    fn told(&self) -> &str {
        if self.hidden { self.host() } else { self.url.split('?').next().unwrap_or_default() }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.hidden { "/..." } else { self.path() };
        write!(f, "{} {}{path}", self.method, self.host())
    }
}

/// Writes `application/x-www-form-urlencoded` text.
mod url_form {
    pub(crate) struct Serializer(String);

    impl Serializer {
        pub(crate) fn new() -> Self {
            Self(String::new())
        }

        pub(crate) fn pair(&mut self, name: &str, value: &str) {
            if !self.0.is_empty() {
                self.0.push('&');
            }
            self.text(name);
            self.0.push('=');
            self.text(value);
        }

        fn text(&mut self, text: &str) {
            for byte in text.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => self.0.push(byte as char),
                    b' ' => self.0.push('+'),
                    other => self.0.push_str(&format!("%{other:02X}")),
                }
            }
        }

        pub(crate) fn finish(self) -> String {
            self.0
        }
    }
}

/// How patient the client is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the other side may send nothing.
    pub read_timeout: Duration,
    /// How often a request that may be repeated is tried again.
    pub retries: u32,
    /// The first pause before a repetition; it doubles each time, up to a minute.
    pub backoff: Duration,
    /// Names us to the other side.
    pub user_agent: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(150),
            retries: 4,
            backoff: Duration::from_millis(500),
            user_agent: concat!("Bridgehead/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub struct Response {
    host: String,
    inner: reqwest::Response,
}

impl Response {
    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Returns a header's value, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// Reads the body whole.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        let host = self.host;
        self.inner.bytes().await.map_err(|error| failure(&host, error))
    }

    /// Returns the body piece by piece.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<> {
        let host = self.host;
        self.inner.bytes_stream().map(move |chunk| chunk.map_err(|error| failure(&host, error))).boxed()
    }
}

/// The client; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    settings: Settings,
}

impl Client {
    /// Returns a client. Installs the process's crypto provider if there is none yet.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        // Fails only when one is installed already, which is what we want.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let inner = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .user_agent(&settings.user_agent)
            // A token must not follow a redirect to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Setup(error.into()))?;
        Ok(Self { inner, settings })
    }

    /// Sends a request; repeats it after a transport failure or a 502, 503 or 504 if that does no harm.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        let mut tries = 0;
        loop {
            // Neither query nor path, which may hold values of fields.
            let span = tracing::info_span!(
                "request",
                otel.kind = "client",
                http.request.method = request.method,
                server.address = request.host(),
                http.response.status_code = tracing::field::Empty,
                http.request.resend_count = tries,
            );
            let result = self.once(request).instrument(span.clone()).await;
            if let Ok(response) = &result {
                span.record("http.response.status_code", response.status());
            }
            drop(span);
            let again = request.idempotent
                && tries < self.settings.retries
                && match &result {
                    Ok(response) => matches!(response.status(), 502..=504),
                    Err(error) => error.class().is_transient(),
                };
            if !again {
                return result;
            }
            let asked = result.ok().and_then(|response| response.header("retry-after")?.parse().ok());
            let pause = asked.map_or(self.settings.backoff * 2_u32.pow(tries), Duration::from_secs);
            tracing::debug!(?request, tries, "repeating a request");
            tokio::time::sleep(pause.min(Duration::from_mins(1))).await;
            tries += 1;
        }
    }

    async fn once(&self, request: &Request) -> Result<Response, Error> {
        let bad = || Error::BadAddress { url: request.told().to_owned() };
        let method = request.method.parse().map_err(|_| bad())?;
        let url = reqwest::Url::parse(&request.url).map_err(|_| bad())?;
        // On one machine it takes longer to press and to unpack than to send.
        let near = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        let mut builder = self.inner.request(method, url);
        if near {
            builder = builder.header("accept-encoding", "identity");
        }
        for (name, value) in &request.headers {
            builder = builder.header(name.as_ref(), value);
        }
        builder = match &request.body {
            Body::Empty => builder,
            Body::Bytes(bytes) => builder.body(bytes.clone()),
            Body::File(path) => {
                let unreadable = |source| Error::Unreadable { path: path.clone(), source };
                let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
                let length = file.metadata().await.map_err(unreadable)?.len();
                let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 16);
                builder.header("content-length", length).body(reqwest::Body::wrap_stream(stream))
            }
        };
        let inner = builder.send().await.map_err(|error| failure(request.host(), error))?;
        Ok(Response { host: request.host().to_owned(), inner })
    }
}

/// Names the host and keeps the cause, but not the address, which may hold secrets.
fn failure(host: &str, error: reqwest::Error) -> Error {
    if error.is_timeout() {
        return Error::TimedOut { host: host.to_owned() };
    }
    Error::Unreachable { host: host.to_owned(), source: error.without_url().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded_and_secrets_stay_out_of_sight() {
        let request =
            Request::new("POST", "https://u:p@h.example:8443/t?code=c").form(&[("a b", "\u{e9}&="), ("c", "d")]);
        assert!(request.body == Body::Bytes("a+b=%C3%A9%26%3D&c=d".into()), "the form");
        assert_eq!(format!("{request:?}"), "POST h.example:8443/t");
    }

    #[tokio::test]
    async fn an_unreachable_host_is_transient_and_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let client =
            Client::new(Settings { retries: 1, backoff: Duration::ZERO, ..Settings::default() }).expect("a client");
        let error =
            client.send(&Request::get(format!("http://{address}/x?token=t"))).await.expect_err("nobody listens");
        assert!(error.class().is_transient());
        assert_eq!(error.to_string(), format!("no answer from {address}"));
        assert!(!format!("{error:?}").contains("token"), "{error:?}");
    }

    #[tokio::test]
    async fn a_word_that_is_no_address_is_refused() {
        let client = Client::new(Settings::default()).expect("a client");
        let error = client.send(&Request::get("nowhere")).await.expect_err("no address");
        assert_eq!(error.class(), Class::Mapping);
    }
}
