//! The sandbox on a port: bytes in, bytes out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::serve::ListenerExt as _;
use base64::Engine as _;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::chaos::{Fault, Rule, Subject};
use crate::error::ApiError;
use crate::events::{PUBSUB, pubsub, set_origin};
use crate::messages;
use crate::metadata;
use crate::org::{Config, Org, StartError};
use crate::rest::{Answer, Call, FilePart, form, versions};
use crate::soap::{self, Flavor};

/// Largest body of a call that is not an upload, in bytes. Source: REST API guide, request size (unverified).
const MAX_BODY: usize = 50_000_000;
/// Largest upload of an ingest job, in bytes. Source: Bulk API 2.0 guide, limits.
const MAX_UPLOAD: u64 = 150_000_000;
/// Longest target line, in bytes. Source: URI length limit of the platform (unverified).
const MAX_TARGET: usize = 16_384;
/// Bytes of a file that are sent at a time.
const PIECE: usize = 1 << 18;

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
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
            .layer(RequestDecompressionLayer::new())
            .route_service(PUBSUB, pubsub(org.clone(), stop.clone()))
            .into_make_service_with_connect_info::<SocketAddr>();
        // Small answers are not held back for more to come.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the sandbox stopped");
            }
        });
        for sender in org.senders() {
            tokio::spawn(messages::deliver(org.clone(), sender, stop.clone()));
        }
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
        self.org.chaos.replace(Rule { count: Some(writes), ..Rule::new(Fault::Lock) });
    }

    /// Aborts the next `jobs` ingest jobs, each after its first batch, as an administrator would.
    pub fn abort_jobs(&self, jobs: u64) {
        self.org.chaos.replace(Rule { count: Some(jobs), ..Rule::new(Fault::AbortedJob) });
    }

    /// Lets something go wrong from now on; returns the number of the rule.
    pub fn misbehave(&self, rule: Rule) -> u64 {
        self.org.chaos.add(rule)
    }

    /// Returns how often a rule has struck; `None` where there is no such rule.
    pub fn struck(&self, rule: u64) -> Option<u64> {
        self.org.chaos.list().into_iter().find(|known| known.id == rule).map(|known| known.hits)
    }

    /// Lets everything go well again.
    pub fn behave(&self) {
        self.org.chaos.remove(None);
    }

    /// Sets the API calls a day, those already spent among them.
    pub fn allow_calls(&self, calls: u64) {
        self.org.faults.allow(calls);
    }

    /// Makes about so many believable records, or exactly so many of one object; returns how many. Blocks.
    ///
    /// # Errors
    ///
    /// The org's refusal, such as of an object that can't be made.
    pub fn seed(&self, records: u64, seed: u64, only: Option<&str>) -> Result<u64, String> {
        self.org.plant_only(records, seed, only).map_err(|error| error.message)
    }

    /// Moves the org's clock so many seconds from the true time.
    pub fn move_clock(&self, seconds: i64) {
        self.org.move_clock(seconds);
    }

    /// Stops listening and waits for the calls under way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // Keep-alive connections of clients that are still there would hold the server open.
            let _ = tokio::time::timeout(Duration::from_secs(2), task).await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn handle(State(org): State<Arc<Org>>, ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request) -> Response {
    let started = std::time::Instant::now();
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if target.len() > MAX_TARGET {
        return respond(&org, ApiError::new(414, "URI_TOO_LONG", "URI Too Long").into(), None);
    }
    let mut call = Call::new(parts.method.as_str(), target);
    call.headers = lower(&parts.headers);
    if let Some(method) = call.query.get("_HttpMethod").filter(|_| call.method == "POST") {
        call.method = method.to_uppercase();
    }
    // Paths may say their format: `/services/data/v66.0/limits.json`.
    if let [services, data, .., last] = call.path.as_mut_slice()
        && services == "services"
        && data == "data"
        && let Some((stem, format @ ("json" | "xml"))) = last.rsplit_once('.')
    {
        let accept = format!("application/{format}");
        *last = stem.to_owned();
        call.headers.insert("accept".to_owned(), accept);
    }
    let head = call.method == "HEAD";
    if head {
        "GET".clone_into(&mut call.method);
    }
    let of_api = call.path.first().is_some_and(|step| step == "services" || step == "id");
    if of_api && let Some(broken) = edge(&org, &call, target).await {
        return broken;
    }
    let streams = call.path.first().is_some_and(|step| step == "cometd");
    let answer = if let Some(answer) = take_body(&org, &mut call, body).await {
        answer
    } else if streams {
        let signed_in = authorised(&org, &mut call).is_ok();
        org.cometd(&call, signed_in).await
    } else {
        let (worker, mut own) = (org.clone(), call.clone());
        let done = tokio::task::spawn_blocking(move || {
            let answer = answer(&worker, &mut own, peer.ip());
            (answer, own.caller)
        });
        match done.await {
            Ok((answer, caller)) => {
                call.caller = caller;
                answer
            }
            Err(error) => {
                tracing::error!(%error, "a call failed");
                ApiError::new(500, "UNKNOWN_EXCEPTION", "An unexpected error occurred.").into()
            }
        }
    };
    let mut answer = in_wanted_form(&call, answer);
    if of_api {
        org.journal.note(&call, target, &answer, started.elapsed());
    }
    if head {
        (answer.body, answer.file) = (Vec::new(), None);
    }
    let spoil =
        org.chaos.strike(subject(&call, target), |fault| matches!(fault, Fault::Truncate | Fault::SlowBody { .. }));
    respond(&org, answer, spoil.filter(|_| of_api))
}

fn subject<'c>(call: &'c Call, target: &'c str) -> Subject<'c> {
    Subject { path: target, method: &call.method, object: "", user: "" }
}

/// What goes wrong before the org sees a call.
async fn edge(org: &Arc<Org>, call: &Call, target: &str) -> Option<Response> {
    if let Some(Fault::Latency { milliseconds, jitter }) =
        org.chaos.strike(subject(call, target), |fault| matches!(fault, Fault::Latency { .. }))
    {
        let more = (org.chaos.roll() * jitter as f64) as u64;
        tokio::time::sleep(Duration::from_millis(milliseconds + more)).await;
    }
    match org.chaos.strike(subject(call, target), |fault| matches!(fault, Fault::Status { .. } | Fault::Drop))? {
        Fault::Status { status, retry_after } => {
            let text = "<html><body><h1>The service is not available at the moment.</h1></body></html>";
            let mut answer = Answer::bytes(status, "text/html;charset=UTF-8", text.as_bytes().to_vec());
            answer.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
            Some(respond(org, answer, None))
        }
        // A body that fails at once makes the server close the connection; the head may have gone.
        _ => Some(Response::new(Body::from_stream(stream::iter([Err::<Bytes, _>(broken())])))),
    }
}

fn broken() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection breaks on demand")
}

/// Reads the body of a call; answers it at once if the body goes to a file or can't be read.
async fn take_body(org: &Arc<Org>, call: &mut Call, body: Body) -> Option<Answer> {
    if org.is_upload(call) {
        // Checked before a byte is read, and counted as one call.
        if let Err(error) = authorised(org, call).and_then(|()| org.spend_call()) {
            return Some(error.into());
        }
        return Some(match org.upload_target(call) {
            Some(Ok(path)) => upload(body, path, org, call).await,
            Some(Err(error)) => error.into(),
            None => ApiError::not_found().into(),
        });
    }
    match axum::body::to_bytes(body, MAX_BODY).await {
        Ok(bytes) => {
            call.body = bytes.into();
            None
        }
        Err(_) => Some(ApiError::new(413, "REQUEST_TOO_LARGE", "the request is too large").into()),
    }
}

/// Streams an upload to its file, so that its size does not matter.
async fn upload(body: Body, path: std::path::PathBuf, org: &Arc<Org>, call: &Call) -> Answer {
    let stored = async {
        let mut file = tokio::fs::File::create(&path).await?;
        let mut body = body.into_data_stream();
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(std::io::Error::other)?;
            length += chunk.len() as u64;
            if length > MAX_UPLOAD {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            file.write_all(&chunk).await?;
        }
        file.flush().await
    };
    match stored.await {
        Ok(()) => org.uploaded(call),
        Err(error) => {
            let _ = tokio::fs::remove_file(&path).await;
            if error.kind() == std::io::ErrorKind::FileTooLarge {
                return ApiError::new(413, "REQUEST_TOO_LARGE", "an upload holds at most 150 MB").into();
            }
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

/// Says how a call reaches the org, as events of changes do.
fn origin(call: &Call) -> String {
    let version = call.path.iter().find_map(|step| step.strip_prefix('v').filter(|rest| rest.contains('.')));
    let options = call.header("sforce-call-options").unwrap_or_default();
    let client = options.split(',').find_map(|option| option.trim().strip_prefix("client="));
    let client = client.map(|name| format!(";client={name}")).unwrap_or_default();
    format!("com/salesforce/api/rest/{}{client}", version.unwrap_or("66.0"))
}

/// Answers a call whose body is read; blocks on the org's records.
fn answer(org: &Arc<Org>, call: &mut Call, from: IpAddr) -> Answer {
    set_origin(origin(call));
    let path = call.path.clone();
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    match steps.as_slice() {
        ["services", "data"] => Answer::json(200, &versions()),
        ["services", "oauth2", "token"] => org.token(&fields(call), basic(call), from),
        ["services", "oauth2", "authorize"] => org.authorize(call),
        ["services", "oauth2", "revoke"] => {
            let token = fields(call).remove("token").or_else(|| call.query.get("token").cloned());
            org.revoke(&token.unwrap_or_default())
        }
        ["services", "oauth2", "introspect"] => org.introspect(&fields(call), basic(call)),
        [".well-known", "openid-configuration"] => org.discovery(),
        ["id", "keys"] => org.keys(),
        ["services", "oauth2", "userinfo" | "singleaccess"] | ["id", _, _] => match bearer(call) {
            None => plain(403, "Missing_OAuth_Token"),
            Some(token) => match org.session(&token) {
                None => plain(403, "Bad_OAuth_Token"),
                Some(session) => match steps.as_slice() {
                    ["id", org_id, _] if crate::id::normal(org_id).as_deref() != Some(&org.org_id) => {
                        plain(403, "Wrong_Org")
                    }
                    ["id", _, user] if crate::id::normal(user).as_deref() != Some(&session.caller.user_id) => {
                        plain(404, "Bad_Id")
                    }
                    [.., "singleaccess"] => Answer::json(200, &org.single_access(&session.caller.username)),
                    _ => Answer::json(200, &org.userinfo(&session.caller)),
                },
            },
        },
        ["secur", "frontdoor.jsp"] => org.front_door(call),
        ["services", "data", ..] => match admitted(org, call) {
            Ok(()) if matches!(steps.get(3), Some(&"jobs")) => org.data_with_jobs(call),
            Ok(()) => org.data(call),
            Err(error) => error.into(),
        },
        ["services", "async", ..] => match admitted(org, call) {
            Ok(()) => org.classic(call),
            Err(error) => Org::classic_error(call, &error),
        },
        ["services", "Soap", letter @ ("u" | "c"), version, ..] => {
            let flavor = if *letter == "u" { Flavor::Partner } else { Flavor::Enterprise };
            soap::answer(org, call, flavor, version, admitted)
        }
        ["services", "Soap", "m", ..] => metadata::answer(org, call, admitted),
        ["services", "Soap", "class", class @ ..] => soap::class::answer(org, call, &class.join("/"), admitted),
        ["services", "wsdl", "class", class @ ..] if call.method == "GET" => match org.class_wsdl(&class.join("/")) {
            Some(wsdl) => Answer::bytes(200, "text/xml;charset=UTF-8", wsdl.into_bytes()),
            None => ApiError::not_found().into(),
        },
        ["services", "wsdl", which @ ("partner" | "enterprise")] if call.method == "GET" => {
            let flavor = if *which == "partner" { Flavor::Partner } else { Flavor::Enterprise };
            Answer::bytes(200, "text/xml;charset=UTF-8", org.wsdl(flavor).into_bytes())
        }
        ["services", "apexrest", ..] => match admitted(org, call) {
            Ok(()) => org.apex_rest(call),
            Err(error) => error.into(),
        },
        [] | ["sandbox", ..] => org.desk(call, &steps),
        _ => ApiError::not_found().into(),
    }
}

/// Checks the session of a call, counts it, and lets it meet what the chaos rules have for it.
fn admitted(org: &Org, call: &mut Call) -> Result<(), ApiError> {
    authorised(org, call)?;
    let path = format!("/{}", call.path.join("/"));
    let subject = Subject { path: &path, method: &call.method, object: "", user: &call.caller.username };
    let struck = org.chaos.strike(subject, |fault| matches!(fault, Fault::Throttle { .. } | Fault::ExpireSession));
    match struck {
        Some(Fault::Throttle { concurrent: true }) => {
            let message = "ConcurrentRequests (Concurrent API Requests) Limit exceeded.";
            return Err(ApiError::new(403, "REQUEST_LIMIT_EXCEEDED", message));
        }
        Some(Fault::Throttle { concurrent: false }) => {
            return Err(ApiError::new(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."));
        }
        Some(_) => {
            org.expire_sessions_of(&call.caller.username);
            return Err(expired());
        }
        None => {}
    }
    org.spend_call()
}

fn expired() -> ApiError {
    ApiError::new(401, "INVALID_SESSION_ID", "Session expired or invalid")
}

/// Checks the session of a call and notes whose it is.
fn authorised(org: &Org, call: &mut Call) -> Result<(), ApiError> {
    if org.faults.expires_now() {
        org.expire_sessions();
    }
    let session = bearer(call).and_then(|token| org.session(&token)).ok_or_else(expired)?;
    if !session.scopes.iter().any(|scope| scope == "api" || scope == "full") {
        return Err(ApiError::new(401, "INVALID_SESSION_ID", "This session is not valid for use with the REST API"));
    }
    call.caller = session.caller;
    Ok(())
}

fn fields(call: &Call) -> HashMap<String, String> {
    form(&String::from_utf8_lossy(&call.body))
}

fn plain(status: u16, text: &str) -> Answer {
    Answer::bytes(status, "text/plain", text.as_bytes().to_vec())
}

/// Returns the token of a call, in either of its places.
fn bearer(call: &Call) -> Option<String> {
    if let Some(token) = call.header("x-sfdc-session") {
        return Some(token.trim().to_owned());
    }
    let (scheme, token) = call.header("authorization")?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth")).then(|| token.trim().to_owned())
}

fn basic(call: &Call) -> Option<(String, String)> {
    let encoded = call.header("authorization")?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

/// Turns an answer in JSON into XML for those who ask for it, or into lines for people.
fn in_wanted_form(call: &Call, mut answer: Answer) -> Answer {
    let of_data = call.path.get(1).is_some_and(|step| step == "data" || step == "apexrest");
    let is_json = answer.headers.iter().any(|(name, value)| *name == "content-type" && value.contains("json"));
    if !of_data || !is_json || answer.file.is_some() {
        return answer;
    }
    let accept = call.header("accept").unwrap_or_default();
    if accept.contains("application/xml") && !accept.contains("application/json") {
        let body = answer.value();
        let root = match (answer.status, call.path.get(3).map(String::as_str)) {
            (400.., _) => "Errors".to_owned(),
            (_, None) => if call.path.len() > 2 { "Resources" } else { "Versions" }.to_owned(),
            (_, Some("query" | "queryAll")) => "QueryResult".to_owned(),
            (_, Some("limits")) => "LimitsSnapshot".to_owned(),
            (_, Some("sobjects")) if call.path.len() == 4 => "DescribeGlobal".to_owned(),
            (_, Some("sobjects")) if call.path.last().is_some_and(|step| step == "describe") => {
                "DescribeSObject".to_owned()
            }
            _ => body["attributes"]["type"].as_str().unwrap_or("Result").to_owned(),
        };
        answer.body = crate::xml::render(&root, &body).into_bytes();
        answer.headers.retain(|(name, _)| *name != "content-type");
        return answer.with("content-type", "application/xml;charset=UTF-8");
    }
    if call.header("x-prettyprint").is_some_and(|flag| flag == "1") {
        answer.body = serde_json::to_vec_pretty(&answer.value()).unwrap_or(answer.body);
    }
    answer
}

fn respond(org: &Org, answer: Answer, spoil: Option<Fault>) -> Response {
    let body = match (answer.file, spoil) {
        (None, None) => Body::from(answer.body),
        (file, spoil) => Body::from_stream(pieces(answer.body, file, spoil)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let usage = format!("api-usage={}/{}", org.calls(), org.faults.allowance());
    if let Ok(usage) = HeaderValue::from_str(&usage) {
        headers.insert("sforce-limit-info", usage);
    }
    let date = org.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(date) = HeaderValue::from_str(&date) {
        headers.insert("date", date);
    }
    headers.insert("cache-control", HeaderValue::from_static("no-cache,must-revalidate,max-age=0,no-store,private"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&org.request_id()) {
        headers.insert("x-request-id", value.clone());
        headers.insert("x-sfdc-request-id", value);
    }
    response
}

/// The body, then the file, in pieces; spoiled as asked.
fn pieces(
    head: Vec<u8>,
    file: Option<FilePart>,
    spoil: Option<Fault>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    enum Step {
        Head(Vec<u8>, Option<FilePart>),
        File(tokio::fs::File, u64),
        End,
    }
    let plain = stream::try_unfold(Step::Head(head, file), |step| async move {
        match step {
            Step::Head(head, file) => {
                let next = match file {
                    None => Step::End,
                    Some(part) => {
                        let mut file = tokio::fs::File::open(&part.path).await?;
                        file.seek(std::io::SeekFrom::Start(part.from)).await?;
                        Step::File(file, part.length)
                    }
                };
                Ok(Some((Bytes::from(head), next)))
            }
            Step::File(_, 0) | Step::End => Ok(None),
            Step::File(mut file, left) => {
                let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                let read = file.read(&mut piece).await?;
                piece.truncate(read);
                // A file that was cut short ends the answer early, which the client must notice.
                let next = if read == 0 { return Err(broken()) } else { Step::File(file, left - read as u64) };
                Ok(Some((Bytes::from(piece), next)))
            }
        }
    });
    let small = if spoil.is_some() { 1024 } else { PIECE };
    let plain = plain.flat_map(move |piece: std::io::Result<Bytes>| {
        let parts: Vec<std::io::Result<Bytes>> = match piece {
            Ok(bytes) => bytes.chunks(small).map(|part| Ok(Bytes::copy_from_slice(part))).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(parts)
    });
    let cut = matches!(spoil, Some(Fault::Truncate));
    let rate = if let Some(Fault::SlowBody { bytes_per_second }) = spoil { bytes_per_second.max(1) } else { 0 };
    let last = stream::iter(cut.then(|| Err(broken())));
    plain.chain(last).enumerate().then(move |(at, piece)| async move {
        if cut && at > 0 {
            return Err(broken());
        }
        let piece = piece?;
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
        }
        // One piece may be the whole: then half of it goes.
        Ok(if cut { piece.slice(..piece.len() / 2) } else { piece })
    })
}
