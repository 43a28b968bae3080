//! `bridgehead serve`: syncs by schedule ([`Scheduler`]), the admin API below `/api/v1` ([`Server`]), and metrics.
//!
//! Without a token the API is for this machine alone, and whoever is at it may do everything; as soon as there is a token, everybody
//! needs one, and the API may be opened to others.

mod alerts;
mod api;
mod auth;
mod budget;
mod console;
mod local;
mod look;
mod metrics;
mod oidc;
mod openapi;
mod problem;
mod schedule;
mod scheduler;
mod versions;
mod work;

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;

use state::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use alerts::{Alerts, AlertsConfig, When, watch};
pub use local::Local;
pub use look::{Answer, Capture, Connected, FieldPair, Fields, Mapped, MappedEntity, Tried};
pub use metrics::NAMES as METRICS;
pub use oidc::{Oidc, OidcConfig};
pub use schedule::{Event, Missed, Schedule, ScheduleConfig};
pub use scheduler::{AtOnce, COMPARISON, Handle, Job, Plan, Planned, Scheduler};
pub use versions::difference;
pub use work::{Asked, CompareWanted, Deployed, Deploying, Refused, RunWanted, TakenBack, Undoing, Work};

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others could reach it.
    #[error(
        "{0} can be reached from other machines, and there is no token yet; `bridgehead token make --role admin NAME` makes one, \
         or choose an address of this machine"
    )]
    Open(SocketAddr),
    /// The address can't be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The store can't be read.
    #[error(transparent)]
    State(#[from] state::Error),
}

/// A server at work; it ends with this value.
pub struct Server {
    api: Arc<api::Api>,
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on an address; port 0 takes a free one. `scheduler` is what runs syncs, where something does, and `oidc` vouches for
    /// people, where somebody does.
    ///
    /// # Errors
    ///
    /// When other machines could reach the address and nobody has a token, or it is taken.
    pub async fn start(
        store: Store,
        address: SocketAddr,
        scheduler: Option<Handle>,
        oidc: Option<Oidc>,
    ) -> Result<Self, Error> {
        if !address.ip().is_loopback() && oidc.is_none() && !store.tokens()?.iter().any(auth::is_good) {
            return Err(Error::Open(address));
        }
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let oidc = oidc.map(|oidc| oidc.at(address));
        let api = Arc::new(api::Api::new(
            store,
            scheduler.as_ref().map(Handle::work),
            scheduler,
            address.ip().is_loopback(),
            oidc,
        ));
        let router = api::router(Arc::clone(&api));
        // The first who looks does not wait for it.
        let first = Arc::clone(&api);
        tokio::task::spawn_blocking(move || budget::budgets(&first).map(drop));
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Self { api, address, stop, task: tokio::spawn(serving.into_future()) })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets somebody else vouch for people from now on, or nobody. Whoever signed in by another's word, or has another role by
    /// this one, signs in anew.
    pub fn vouch(&self, oidc: Option<Oidc>) {
        self.api.vouch(oidc.map(|oidc| oidc.at(self.address)));
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
