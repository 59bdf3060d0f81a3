//! Where a bench takes place: a migrated database with open gates, on a server of its own or on a given one.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};

use super::{Options, Tell, machine};
use crate::config;
use crate::error::{Error, Result};
use crate::postgres::embedded::{Options as ServerOptions, Throwaway};
use crate::postgres::migrator::Migrator;
use crate::postgres::{Server, Session};
use crate::store::{self, gates};

/// The gates that dispatch, work and NOTIFY need.
const GATES: [&str; 3] =
    ["queue.job_substrate.enabled", "queue.worker.enabled", "queue.notify.bridge_enabled"];
/// Longest run of one statement of a bench: filling millions of rows.
const PATIENCE: Duration = Duration::from_mins(15);
/// Memory from which the server gets 1 GB of shared buffers.
const ENOUGH_MEMORY_MIB: u64 = 4 * 1024;

/// A database to bench in. Call [`Self::end`]: on a given server nobody else drops it.
pub(super) struct Stage {
    postgres: Option<Throwaway>,
    admin: Pool,
    admin_server: Server,
    name: String,
    url: String,
    pub(super) server: Server,
    pool: Pool,
}

impl Stage {
    /// Starts a server with `settings` beyond the usual ones, unless one is given; makes and migrates the database.
    pub(super) async fn begin(options: &Options, settings: &[(&str, &str)], tell: Tell<'_>) -> Result<Self> {
        let (postgres, admin_url) = if let Some(url) = &options.server {
            (None, url.clone())
        } else {
            tell("starting a throw-away Postgres that keeps its promises (fsync on)");
            let postgres = Throwaway::start(server_options(settings)).await?;
            let url = postgres.url("postgres");
            (Some(postgres), url)
        };
        let name = format!("reveille_bench_{}", uuid::Uuid::new_v4().simple());
        let url = with_database(&admin_url, &name);
        let admin_server = server(&admin_url)?;
        let admin = pool(&admin_server, 1)?;
        store::bench::create_database(&admin_server.take(&admin).await?, &name).await?;
        let server = server(&url)?;
        let pool = pool(&server, 2)?;
        let stage = Self { postgres, admin, admin_server, name, url, server, pool };
        match stage.prepare().await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.end().await?;
                Err(error)
            }
        }
    }

    async fn prepare(&self) -> Result<()> {
        Migrator::new(self.server.clone()).up(None, false).await?;
        let client = self.client().await?;
        for gate in GATES {
            gates::set(&client, gate, true, Some("bench"), "opened for a bench").await?;
        }
        Ok(())
    }

    /// Whether the server is our own: then its processes can be seen, and whatever runs on it is ours.
    pub(super) fn is_own(&self) -> bool {
        self.postgres.is_some()
    }

    /// The address of the database.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The name of the database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A connection to the database: one for the bench to hold, one for looks at the sidecar's costs.
    pub(super) async fn client(&self) -> Result<Object> {
        self.server.take(&self.pool).await
    }

    /// A connection to another database of the same server.
    pub(super) async fn outside(&self) -> Result<Object> {
        self.admin_server.take(&self.admin).await
    }

    /// Further connections to the database.
    pub(super) async fn clients(&self, count: u32) -> Result<Vec<Object>> {
        let pool = pool(&self.server, usize::try_from(count).unwrap_or(usize::MAX))?;
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.server.take(&pool).await?);
        }
        Ok(clients)
    }

    /// The settings under which a part of the program works here.
    pub(super) fn settings(&self) -> config::Settings {
        let mut settings = config::Settings::default();
        settings.database.url.clone_from(&self.url);
        settings
    }

    /// Removes everything.
    pub(super) async fn end(self) -> Result<()> {
        drop(self.pool);
        let client = self.admin_server.take(&self.admin).await?;
        match &self.postgres {
            Some(postgres) => postgres.stop().await,
            None => store::bench::drop_database(&client, &self.name).await,
        }
    }
}

fn server_options(settings: &[(&str, &str)]) -> ServerOptions {
    let mut options = ServerOptions { durable: true, ..ServerOptions::default() };
    if machine::memory_mib() >= ENOUGH_MEMORY_MIB {
        options = options.set("shared_buffers", "1GB");
    }
    settings.iter().fold(options, |options, (name, value)| options.set(name, *value))
}

fn server(url: &str) -> Result<Server> {
    let database = config::Database { url: url.to_owned(), ..config::Database::default() };
    Server::from_settings(&database)
}

fn pool(server: &Server, size: usize) -> Result<Pool> {
    server.pool("bench", size, &Session { statement_timeout: PATIENCE, synchronous_commit: true })
}

/// The same address with another database.
fn with_database(url: &str, name: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return format!("{url} dbname={name}"); // the last of two counts
    };
    let (place, parameters) = rest.split_once('?').map_or((rest, None), |(place, more)| (place, Some(more)));
    let host = place.split('/').next().unwrap_or_default();
    let parameters = parameters.map(|more| format!("?{more}")).unwrap_or_default();
    format!("{scheme}://{host}/{name}{parameters}")
}

/// The error of a bench that waited in vain.
pub(super) fn too_slow(what: &str, patience: Duration) -> Error {
    Error::new(crate::error::Kind::Timeout, format!("{what} within {}", humantime::format_duration(patience)))
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn an_address_gets_another_database_and_keeps_the_rest() {
        let is = |given: &str, then: &str| assert_eq!(with_database(given, "b"), then);
        is("postgres://u:p@h:1/a?sslmode=require", "postgres://u:p@h:1/b?sslmode=require");
        is("postgres://h", "postgres://h/b");
        is("postgres:///a?host=/tmp", "postgres:///b?host=/tmp");
        is("host=h dbname=a", "host=h dbname=a dbname=b");
    }
}
