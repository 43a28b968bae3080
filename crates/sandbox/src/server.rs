//! The sandbox on a port: bytes in, bytes out.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::error::ApiError;
use crate::org::{Config, Org, StartError};
use crate::rest::{Answer, Call, form, versions};

/// Largest body of a call that is not an upload, in bytes. Source: REST API guide, request size (unverified).
const MAX_BODY: usize = 50_000_000;
/// Longest target line, in bytes. Source: URI length limit of the platform (unverified).
const MAX_TARGET: usize = 16_384;

/// A running local org; it stops when this is dropped.
pub struct Sandbox {
    org: Arc<Org>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Sandbox {
    /// Opens the org and listens on loopback.
    ///
    /// # Errors
    ///
    /// When a project can't be loaded, the records can't be opened or the port is taken.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let port = config.port;
        let listen = |source| StartError::Listen { port, source };
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let org = Arc::new(Org::open(config)?);
        org.url.get_or_init(|| format!("http://{address}"));
        let stop = CancellationToken::new();
        let router = axum::Router::new()
            .fallback(handle)
            .with_state(org.clone())
            .layer(CompressionLayer::new())
            .layer(RequestDecompressionLayer::new());
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the sandbox stopped");
            }
        });
        Ok(Self { org, stop, task: Some(task) })
    }

    /// Returns scheme, host and port.
    pub fn url(&self) -> &str {
        self.org.url()
    }

    /// Returns the consumer key of the app that may sign in.
    pub fn client_id(&self) -> &str {
        &self.org.config.client_id
    }

    /// Returns what the loaded projects hold that the sandbox can't do, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.org.notes
    }

    /// Returns the number of API calls answered so far.
    pub fn api_calls(&self) -> u64 {
        self.org.calls()
    }

    /// Ends every session: the next call with any of their tokens is refused.
    pub fn expire_sessions(&self) {
        self.org.expire_sessions();
    }

    /// Lets the session of every client end with the answer to the call after the next `calls`.
    pub fn expire_sessions_after(&self, calls: u32) {
        self.org.faults.expire_after(calls);
    }

    /// Lets the next `writes` writes of records meet a lock.
    pub fn lock_rows(&self, writes: u64) {
        self.org.faults.lock_rows(writes);
    }

    /// Aborts the next `jobs` ingest jobs, each after its first batch, as an administrator would.
    pub fn abort_jobs(&self, jobs: u64) {
        self.org.faults.abort_jobs(jobs);
    }

    /// Sets the API calls a day, those already spent among them.
    pub fn allow_calls(&self, calls: u64) {
        self.org.faults.allow(calls);
    }

    /// Stops listening and waits for the calls under way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // Keep-alive connections of clients that are still there would hold the server open.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), task).await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn handle(State(org): State<Arc<Org>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if target.len() > MAX_TARGET {
        return respond(&org, ApiError::new(414, "URI_TOO_LONG", "URI Too Long").into());
    }
    let mut call = Call::new(parts.method.as_str(), target);
    call.headers = lower(&parts.headers);
    if call.method == "POST"
        && let Some(method) = call.query.get("_HttpMethod")
    {
        call.method = method.to_uppercase();
    }
    if let Some(job) = org.upload_target(&call) {
        let answer = match job {
            Ok(path) => upload(body, path, &org, &call).await,
            Err(error) => error.into(),
        };
        return respond(&org, answer);
    }
    match axum::body::to_bytes(body, MAX_BODY).await {
        Ok(bytes) => call.body = bytes.into(),
        Err(_) => return respond(&org, ApiError::new(413, "REQUEST_TOO_LARGE", "the request is too large").into()),
    }
    let worker = org.clone();
    let head = call.method == "HEAD";
    let answer = tokio::task::spawn_blocking(move || answer(&worker, &call)).await;
    let mut answer = answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a call failed");
        ApiError::new(500, "UNKNOWN_EXCEPTION", "An unexpected error occurred.").into()
    });
    if head {
        answer.body.clear();
    }
    respond(&org, answer)
}

/// Streams an upload to its file, so that its size does not matter.
async fn upload(body: Body, path: std::path::PathBuf, org: &Arc<Org>, call: &Call) -> Answer {
    let stored = async {
        let mut file = tokio::fs::File::create(&path).await?;
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(std::io::Error::other)?;
            file.write_all(&chunk).await?;
        }
        file.flush().await
    };
    match stored.await {
        Ok(()) => org.uploaded(call),
        Err(error) => {
            let _ = tokio::fs::remove_file(&path).await;
            ApiError::new(400, "CLIENTINPUTERROR", format!("the upload broke off: {error}")).into()
        }
    }
}

fn lower(headers: &HeaderMap) -> HashMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

/// Answers a call whose body is read; blocks on the org's records.
fn answer(org: &Arc<Org>, call: &Call) -> Answer {
    let steps: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match steps.as_slice() {
        ["services", "data"] => Answer::json(200, &versions()),
        ["services", "oauth2", "token"] => org.token(&fields(call), basic(call)),
        ["services", "oauth2", "revoke"] => {
            let token = fields(call).remove("token").or_else(|| call.query.get("token").cloned());
            org.revoke(&token.unwrap_or_default())
        }
        ["services", "oauth2", "userinfo"] | ["id", _, _] => match bearer(call) {
            Some(token) if org.is_valid(token) => Answer::json(200, &org.userinfo()),
            Some(_) => plain(403, "Bad_OAuth_Token"),
            None => plain(403, "Missing_OAuth_Token"),
        },
        ["services", "data", ..] => match authorised(org, call) {
            Ok(()) => match org.spend_call() {
                Ok(()) if matches!(steps.get(3), Some(&"jobs")) => org.data_with_jobs(call),
                Ok(()) => org.data(call),
                Err(error) => error.into(),
            },
            Err(error) => error.into(),
        },
        _ => ApiError::not_found().into(),
    }
}

/// Checks the session of a call.
pub(crate) fn authorised(org: &Org, call: &Call) -> Result<(), ApiError> {
    if org.faults.expires_now() {
        org.expire_sessions();
    }
    match bearer(call) {
        Some(token) if org.is_valid(token) => Ok(()),
        _ => Err(ApiError::new(401, "INVALID_SESSION_ID", "Session expired or invalid")),
    }
}

fn fields(call: &Call) -> HashMap<String, String> {
    form(&String::from_utf8_lossy(&call.body))
}

fn plain(status: u16, text: &str) -> Answer {
    Answer { status, headers: vec![("content-type", "text/plain".to_owned())], body: text.as_bytes().to_vec() }
}

fn bearer(call: &Call) -> Option<&str> {
    let (scheme, token) = call.headers.get("authorization")?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth")).then_some(token.trim())
}

fn basic(call: &Call) -> Option<(String, String)> {
    let encoded = call.headers.get("authorization")?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn respond(org: &Org, answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let usage = format!("api-usage={}/{}", org.calls(), org.faults.allowance());
    if let Ok(usage) = HeaderValue::from_str(&usage) {
        headers.insert("sforce-limit-info", usage);
    }
    headers.insert("cache-control", HeaderValue::from_static("no-cache,must-revalidate,max-age=0,no-store,private"));
    response
}
