//! The connection pool, and what becomes of a connection after an error.
//!
//! deadpool recycles with `Fast`: a connection that is still open goes back as it is. A server that was demoted
//! keeps its sessions open, so whoever got an error hands the connection back through [`hand_back`]:
//!
//! ```ignore
//! let client = server.take(&pool).await?;
//! let outcome = store::jobs::claim(&client, …).await;
//! hand_back(client, outcome)
//! ```

use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError,
    RecyclingMethod, Runtime,
};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connect::{Server, Session};
use super::dial::{Dialer, Failure};
use super::explain;
use crate::error::{Error, Kind, Result};

/// A connection older than this is not used again: names resolve anew, caches start small.
const LONGEST_LIFE: Duration = Duration::from_mins(30);

impl Server {
    /// A pool of at most `size` connections named `reveille/<name>`; opens none yet.
    ///
    /// Waiting for a free connection, opening one and taking one back have deadlines.
    pub fn pool(&self, name: &str, size: usize, session: &Session) -> Result<Pool> {
        let dialer = self.dialer(name, session);
        let longest = dialer.longest();
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(tokio_postgres::Config::new(), Pooled(dialer), config);
        let server = self.clone();
        Pool::builder(manager)
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(self.connect_timeout()))
            .create_timeout(Some(longest))
            .recycle_timeout(Some(self.connect_timeout()))
            .post_create(Hook::async_fn(move |client, _| {
                let server = server.clone();
                Box::pin(async move { check(&server, client).await })
            }))
            .pre_recycle(Hook::sync_fn(|_, metrics| {
                if metrics.age() < LONGEST_LIFE { Ok(()) } else { Err(HookError::message("old")) }
            }))
            .build()
            .map_err(|error| Error::usage(format!("the connection pool cannot be set up: {error}")))
    }

    /// A connection from `pool`, which must be one of this server's.
    pub async fn take(&self, pool: &Pool) -> Result<Object> {
        let place = self.describe();
        pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => explain::connecting(&place, error),
            PoolError::PostCreateHook(HookError::Message(message)) => Error::new(Kind::Unreachable, message),
            PoolError::Timeout(deadpool_postgres::TimeoutType::Create) => {
                explain::silent(&place, self.connect_timeout())
            }
            other => {
                let size = pool.status().max_size;
                Error::pool(
                    format!("waiting for one of this part's connections to {place} ({size} at most)"),
                    other,
                )
            }
        })
    }
}

impl Server {
    /// How long work of so many `statements` may take.
    pub fn limit(&self, statements: u32) -> Duration {
        self.session().statement_timeout * statements + self.connect_timeout()
    }

    /// Gives work of so many `statements` no longer than the server may take for them: its own `statement_timeout`
    /// ends a slow statement, this ends the wait for a server that has gone without a word.
    pub async fn in_time<T>(
        &self,
        statements: u32,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self.limit(statements);
        timeout(limit, work).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(Error::new(
                Kind::Timeout,
                format!("{what}: {} has not answered within {limit}", self.describe()),
            )
            .hint("is the server still there, and the network in between?"))
        })
    }
}

async fn check(server: &Server, client: &ClientWrapper) -> Result<(), HookError> {
    match timeout(server.connect_timeout(), server.check_session(client)).await {
        Ok(checked) => checked.map_err(|error| HookError::message(error.to_string())),
        Err(_) => Err(HookError::message(format!("{}: no answer in time", server.describe()))),
    }
}

/// Gives a connection back to its pool, or drops it when `outcome` says that it must not be used again.
///
/// After a read-only error (25006: the server was demoted) every idle connection of the pool goes too (trap 28).
pub fn hand_back<T>(client: Object, outcome: Result<T>) -> Result<T> {
    if let Err(error) = &outcome {
        if error.sqlstate() == Some("25006")
            && let Some(pool) = Object::pool(&client)
        {
            pool.retain(|_, _| false);
        }
        if !is_usable_after(error) {
            drop(Object::take(client));
        }
    }
    outcome
}

/// Whether a connection that gave this error can serve the next caller.
pub fn is_usable_after(error: &Error) -> bool {
    match error.sqlstate() {
        // a standby; a server going down; a statement prepared before the schema changed (traps 28, 29)
        Some("25006" | "57P01" | "57P02" | "57P03" | "0A000" | "26000") => false,
        Some(_) => true,
        // no answer: nobody knows what the session is still doing
        None => !matches!(error.kind(), Kind::Unreachable | Kind::Timeout),
    }
}

/// Opens pooled connections the same way as all others.
struct Pooled(Dialer);

impl Connect for Pooled {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> BoxFuture<'_, Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async {
            match self.0.dial().await {
                Ok((client, connection)) => Ok((client, tokio::spawn(explain::drive(connection)))),
                Err(failures) => Err(last_error(failures).await),
            }
        })
    }
}

/// The last error that a host gave. When all stayed silent there is none to return, and the driver offers no way to
/// make one: the pool's own create deadline, which ends at the same moment, speaks for us.
async fn last_error(failures: Vec<(usize, Failure)>) -> tokio_postgres::Error {
    let last = failures.into_iter().rev().find_map(|(_, failure)| match failure {
        Failure::Error(error) => Some(error),
        Failure::Silent => None,
    });
    match last {
        Some(error) => error,
        None => std::future::pending().await,
    }
}
