//! The admin API, below `/api/v1`: what a project's syncs do, for machines. It reads the state store, and may run beside the
//! commands that write it.
//!
//! It knows no tokens yet, and therefore listens on loopback only.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use state::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Names that this machine has for itself.
const LOCAL: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others could reach it.
    #[error("{0} can be reached from other machines, and the API knows no tokens yet; choose an address of this one")]
    Open(SocketAddr),
    /// The address can't be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
}

/// The API, listening. Dropping it ends the listening, too.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Listens on an address of this machine; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// When other machines could reach the address, or it is taken.
    pub async fn start(store: Store, address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::Open(address));
        }
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let serving = axum::serve(listener, router(store)).with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Self { address, stop, task: tokio::spawn(serving.into_future()) })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits for the answers under way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the API ended badly");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/api/v1/streams", get(streams))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing at this address"))
        .method_not_allowed_fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, "this can only be read"))
        .layer(axum::middleware::from_fn(of_this_machine))
        .with_state(store)
}

/// Turns away pages of other sites, which could lead a name of their own here.
async fn of_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if LOCAL.contains(&name.map_or(host, |(name, _)| name)) {
        next.run(request).await
    } else {
        problem(StatusCode::FORBIDDEN, "the API is for this machine")
    }
}

/// Says what is wrong. Source: RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({"status": status.as_u16(), "title": status.canonical_reason(), "detail": detail});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// Answers `GET /api/v1/streams`: what the streams of followed syncs do, or did last, by sync and side.
async fn streams(State(store): State<Store>) -> Response {
    let read = tokio::task::spawn_blocking(move || engine::streams(&store, chrono::Utc::now())).await;
    match read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string())) {
        Ok(streams) => axum::Json::<Value>(json!({"streams": streams})).into_response(),
        Err(error) => {
            tracing::error!(error, "streams cannot be read");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the state cannot be read; the log says why")
        }
    }
}
