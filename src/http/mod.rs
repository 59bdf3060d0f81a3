//! The HTTP face: `/live`, `/ready`, `/metrics`, the views as JSON beneath `/api/v1`, and the dashboard at `/`.
//!
//! Settings: `[http]`. It answers also while the database does not. Nothing here writes unless `[http] token` is set.

mod api;
mod connections;
mod dashboard;
mod metrics;
mod readiness;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use self::api::Api;
use self::dashboard::guard::Hosts;
use self::dashboard::{Board, Dashboard, Desk};
use self::metrics::{Database, Metrics};
use self::readiness::Ready;
use self::routes::Answers;
use crate::config;
use crate::error::{Error, Result};
use crate::latch::{Latch, Readiness};
use crate::postgres::Server;
use crate::postgres::listener::ListenerStatus;
use crate::shutdown::Shutdown;

pub use self::metrics::SharedRegistry;

/// How long what was read from the database can be relied on.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Gauges are answered again up to this age instead of read anew.
    pub gauges: Duration,
    /// A dry run is carried out up to this age, then shown anew.
    pub dry_runs: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { gauges: Duration::from_secs(5), dry_runs: Duration::from_mins(5) }
    }
}

/// What the face shows; the app fills it.
#[derive(Debug)]
pub struct FaceState {
    /// Where the gauges of the database come from; the face opens one connection of its own, at the first scrape.
    pub server: Server,
    /// Holds the services' metrics, now or later.
    pub registry: SharedRegistry,
    /// Set while all tasks of the process run.
    pub live: Latch,
    /// The components' latches. The listener needs none: its status is read here.
    pub readiness: Readiness,
    /// None in poll-only mode.
    pub listener: Option<Arc<ListenerStatus>>,
}

/// A socket that is bound, and what will be answered on it.
#[derive(Debug)]
pub struct Face {
    socket: TcpListener,
    address: SocketAddr,
    router: Router,
    database: Arc<Database>,
    board: Arc<Board>,
    desk: Option<Arc<Desk>>,
}

impl Face {
    /// Takes the address `[http] listen`; connections wait until [`Self::run`].
    ///
    /// # Errors
    /// Kind Io when the address cannot be had, with the reason; kind Usage when no pool can be set up.
    pub async fn bind(settings: &config::Http, state: FaceState) -> Result<Self> {
        Self::bind_keeping(settings, state, Keep::default()).await
    }

    /// As [`Self::bind`]; what is older than `keep` is read anew.
    pub async fn bind_keeping(settings: &config::Http, state: FaceState, keep: Keep) -> Result<Self> {
        let FaceState { server, registry, live, readiness, listener } = state;
        let socket =
            TcpListener::bind(settings.listen).await.map_err(|error| not_bound(settings.listen, error))?;
        let address = socket.local_addr().map_err(|error| not_bound(settings.listen, error))?;
        let api = Api::new(server.clone())?;
        let board = Arc::new(Board::new(server.clone())?);
        let desk = Desk::new(settings, address.port(), &server, keep.dry_runs)?.map(Arc::new);
        let dashboard = Dashboard::new(server.clone(), Arc::clone(&board), desk.clone())?;
        let database = Arc::new(Database::new(server, keep.gauges)?);
        let ready = Ready { readiness, listener };
        let metrics = Metrics::new(registry, &ready, Arc::clone(&database));
        let hosts = Hosts::new(&settings.hosts);
        let router =
            routes::router(Answers { live, ready, metrics }, api.router(), dashboard.router(), hosts);
        Ok(Self { socket, address, router, database, board, desk })
    }

    /// The address taken; its port differs from the setting when that was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the first step of `shutdown`, then gives open requests a moment to end.
    ///
    /// To be seen alive while other parts stop, it needs a `shutdown` that is requested after theirs.
    pub async fn run(self, shutdown: Shutdown) {
        tracing::info!(http.listen = %self.address, "http://{}: the dashboard, /live, /ready, /metrics, /api/v1", self.address);
        let desk = async {
            if let Some(desk) = &self.desk {
                desk.run(shutdown.clone()).await;
            }
        };
        let served = connections::serve(self.socket, self.router, shutdown.clone());
        tokio::select! {
            ((), (), ()) = async { tokio::join!(served, self.board.run(shutdown.clone()), desk) } => {}
            never = self.database.run() => match never {},
        }
    }
}

fn not_bound(address: SocketAddr, error: io::Error) -> Error {
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => "is taken by another program",
        io::ErrorKind::AddrNotAvailable => "is not an address of this machine",
        io::ErrorKind::PermissionDenied => "may not be used by this user",
        _ => "cannot be used",
    };
    Error::io(format!("[http] listen: {address} {what}"), error).hint(
        "stop the other program, choose another address in [http] listen, or set [http] enabled = false",
    )
}
