//! A throw-away Postgres server for `reveille demo`, `reveille bench` and the tests.
//!
//! It lives in one directory below the temporary directory, listens on 127.0.0.1 alone, lets in who
//! has its random password, and goes with the process that started it: by drop, by the kernel's
//! parent-death signal, by a small watching shell, and, where all of these were killed too, by the
//! next start.

mod account;
mod binaries;
mod conf;
mod directory;
mod file;
mod keeper;
mod npm;
mod password;
mod port;
mod server;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::shutdown::Shutdown;

pub use binaries::{Binaries, Search};
pub use port::free as free_port;
use server::Server;

/// How a throw-away server is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// False (the default): fsync, synchronous commit and full-page writes are off, for tests and
    /// demos. True: they are on as in production, for benches.
    pub durable: bool,
    /// Further lines of postgresql.conf as (name, value); the last one of a name wins.
    pub settings: Vec<(String, String)>,
    /// Where the server's directory is made; `None` is the system's temporary directory.
    pub parent: Option<PathBuf>,
    /// Where server programs are looked for.
    pub search: Search,
    /// When the first step is taken, a start is given up, and leaves nothing.
    pub shutdown: Shutdown,
}

impl Options {
    /// The same options with one more line of postgresql.conf.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }
}

/// A running (or stopped) server of our own. Dropping it stops the server at once and deletes it.
///
/// All methods but the plain getters are async and need a tokio runtime; the server itself belongs to
/// no runtime and may be shared between several. Its superuser is `postgres`; only [`Self::url`] has the
/// password.
#[derive(Debug)]
pub struct Throwaway {
    server: Arc<Server>,
}

impl Throwaway {
    /// Sweeps what dead processes left, makes a new cluster, starts it and waits until it is ready.
    ///
    /// Takes about half a second; gives up after 30 s. Errors: no server programs (the hint says what
    /// to install), a system call that failed, or a server that would not start (with its log's tail).
    pub async fn start(options: Options) -> Result<Self> {
        let server = blocking(move || Server::create(options)).await?;
        Ok(Self { server: Arc::new(server) })
    }

    /// The address of one of its databases, with the password; `postgres` exists from the beginning.
    pub fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The cluster's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.server.data_dir()
    }

    /// The directory that holds everything of this server; nothing of it lies elsewhere.
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// The server programs in use.
    pub fn binaries(&self) -> &Binaries {
        self.server.binaries()
    }

    /// The last lines of the server's log, at most 8 kB.
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// The postmaster's process id while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Stops the server, ending all sessions (a "fast" stop). Nothing committed is lost.
    pub async fn stop(&self) -> Result<()> {
        self.run(Server::stop).await
    }

    /// Kills the server with SIGKILL, as a crash does: sessions break, recovery runs at next start.
    pub async fn kill9(&self) -> Result<()> {
        self.run(Server::kill9).await
    }

    /// Starts the stopped or killed server again, on the same port with the same settings.
    pub async fn start_again(&self) -> Result<()> {
        self.run(|server| server.start_with(None)).await
    }

    /// Starts the stopped or killed server again; `settings` take the place of those of earlier calls
    /// and are added to those of its [`Options`].
    pub async fn start_with(&self, settings: Vec<(String, String)>) -> Result<()> {
        self.run(move |server| server.start_with(Some(settings))).await
    }

    /// Stops and starts.
    pub async fn restart(&self) -> Result<()> {
        self.run(|server| server.stop().and_then(|()| server.start_with(None))).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Server) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let server = Arc::clone(&self.server);
        blocking(move || work(&server)).await
    }
}

/// Runs work that waits on processes and files where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(Kind::Io, "the throw-away server's work was cut off").because(e))?
}
