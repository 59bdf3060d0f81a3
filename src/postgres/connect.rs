//! The database server as the settings name it: where it is, how to reach it, how a session begins.
//!
//! A session looks into our schema alone (`search_path`), gives up a statement after `statement_timeout`, and
//! never lies idle in a transaction. All of this travels in the startup message, so it costs no round trip and
//! no session can be without it; where a pooler drops it, connecting fails and says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::dial::{Connection, Dialer, Failure};
use super::{explain, quote, tls};
use crate::config::Database;
use crate::error::{Error, Kind, Result};

/// Longest that a transaction of ours may lie open without a statement.
const IDLE_IN_TRANSACTION: Duration = Duration::from_mins(1);

/// How the sessions of one part of the program begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Longest that a statement may take; zero is no limit.
    pub statement_timeout: Duration,
    /// False: commits do not wait for the disk. For work that can be redone from the tables alone.
    pub synchronous_commit: bool,
}

/// A parsed address with everything needed to open connections. Cloning is cheap.
#[derive(Clone)]
pub struct Server {
    address: Arc<Address>,
    tls: MakeRustlsConnect,
    schema: Arc<str>,
    connect_timeout: Duration,
    session: Session,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("at", &self.describe())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// The server at `[database] url`. Opens nothing; every error is of kind Usage.
    pub fn from_settings(settings: &Database) -> Result<Self> {
        Self::new(&settings.url, settings)
    }

    /// The same server without a pooler between, at `[database] listen_url`: for LISTEN and for migrations, which
    /// both need a session that stays theirs.
    pub fn direct(settings: &Database) -> Result<Self> {
        Self::new(settings.listen_address(), settings)
    }

    fn new(url: &str, settings: &Database) -> Result<Self> {
        let root_cert = (!settings.tls_root_cert.is_empty()).then(|| PathBuf::from(&settings.tls_root_cert));
        let mut address = Address::parse(url, root_cert).map_err(|error| match error.hint_text() {
            Some(_) => error,
            None => error.hint(
                "DATABASE_URL, --database-url or [database] url must be like postgres://user:password@host:5432/dbname",
            ),
        })?;
        quote::check_schema(&settings.schema)?;
        let tls = tls::connector(address.proof, address.root_cert.as_deref())?;
        let connect_timeout = address.connect_timeout.unwrap_or(settings.connect_timeout);
        address.set_limits(connect_timeout, settings.tcp_user_timeout, settings.keepalive_idle);
        Ok(Self {
            address: Arc::new(address),
            tls,
            schema: settings.schema.as_str().into(),
            connect_timeout,
            session: Session { statement_timeout: settings.statement_timeout, synchronous_commit: true },
        })
    }

    /// `host:port/dbname`; never the password.
    pub fn describe(&self) -> String {
        self.address.describe()
    }

    /// The schema in which Reveille lives, unquoted.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The session that [`Self::connect`] opens: the settings' statement timeout, safe commits.
    pub fn session(&self) -> Session {
        self.session
    }

    /// The same server for statements that may take `times` as long as the settings' statement timeout.
    #[must_use]
    pub fn patient(&self, times: u32) -> Self {
        let statement_timeout = self.session.statement_timeout * times;
        Self { session: Session { statement_timeout, ..self.session }, ..self.clone() }
    }

    /// Opens a connection of its own; the caller polls the second half. Ends within the connect deadline.
    ///
    /// A standby is refused (kind Unreachable) unless the address says `target_session_attrs=any` or `read-only`.
    pub async fn connect(&self, application_name: &str) -> Result<(Client, Connection)> {
        self.connect_with(application_name, &self.session).await
    }

    /// As [`Self::connect`], with another session.
    pub async fn connect_with(
        &self,
        application_name: &str,
        session: &Session,
    ) -> Result<(Client, Connection)> {
        let (client, mut connection) =
            self.dialer(application_name, session).dial().await.map_err(|failures| self.failure(failures))?;
        let checked = tokio::select! {
            checked = timeout(self.connect_timeout, self.check_session(&client)) => checked,
            ended = &mut connection => {
                let gone = Error::new(Kind::Unreachable, format!("{} closed the connection", self.describe()));
                return Err(ended.err().map_or(gone, |error| explain::connecting(&self.describe(), error)));
            }
        };
        checked.map_err(|_| explain::silent(&self.describe(), self.connect_timeout))??;
        Ok((client, connection))
    }

    /// A connection of its own that is polled in the background until it is dropped.
    pub async fn client(&self, application_name: &str, session: &Session) -> Result<ClientWrapper> {
        let (client, connection) = self.connect_with(application_name, session).await?;
        Ok(ClientWrapper::new(client, tokio::spawn(explain::drive(connection))))
    }

    /// Asks the server to cancel what runs on the connection that `token` is from. Nobody knows whether it did: the
    /// statement's own answer tells. Ends within the connect deadline.
    pub async fn cancel(&self, token: CancelToken) {
        let asked = timeout(self.connect_timeout, token.cancel_query(self.tls.clone())).await;
        if let Ok(Err(error)) = asked {
            tracing::debug!("cancelling a statement at {}: {error}", self.describe());
        }
    }

    pub(super) fn dialer(&self, application_name: &str, session: &Session) -> Dialer {
        let mut config = self.address.config.clone();
        config
            .application_name(format!("reveille/{application_name}"))
            .options(self.startup_options(session));
        Dialer::new(&config, self.tls.clone(), self.connect_timeout)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The whole of `options`: the operator's own first, ours last, so that ours hold.
    fn startup_options(&self, session: &Session) -> String {
        let mut settings = vec![
            ("search_path", quote::search_path(&self.schema)),
            ("statement_timeout", session.statement_timeout.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.as_millis().to_string()),
            // whatever the database's default is: a pass must see the last pass of another sidecar
            ("default_transaction_isolation", "read committed".to_owned()),
            // our statements take less time than it takes to compile one
            ("jit", "off".to_owned()),
        ];
        if !session.synchronous_commit {
            settings.push(("synchronous_commit", "off".to_owned()));
        }
        let ours = settings.iter().map(|(name, value)| format!("-c {name}={}", quote::startup_value(value)));
        self.address.options.iter().cloned().chain(ours).collect::<Vec<_>>().join(" ")
    }

    /// Whether the session looks into our schema: a pooler may have dropped the startup options.
    pub(super) async fn check_session(&self, client: &Client) -> Result<()> {
        let answer = client
            .simple_query("select current_setting('search_path'), current_schema()")
            .await
            .map_err(|error| explain::connecting(&self.describe(), error))?;
        let row = answer.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let (path, first) = row.as_ref().map_or((None, None), |row| (row.get(0), row.get(1)));
        if path == Some(&quote::search_path(&self.schema)) || first == Some(self.schema()) {
            return Ok(());
        }
        Err(explain::dropped_options(&self.describe(), self.schema(), path.unwrap_or_default()))
    }

    /// All hosts failed: one error that says so for each. The kind is that which trying again cannot mend, if any.
    fn failure(&self, failures: Vec<(usize, Failure)>) -> Error {
        let database =
            self.address.config.get_dbname().or(self.address.config.get_user()).unwrap_or_default();
        let mut errors: Vec<Error> = failures
            .into_iter()
            .map(|(index, failure)| {
                let place = format!("{}/{database}", self.address.host(index));
                match failure {
                    Failure::Error(error) => explain::connecting(&place, error),
                    Failure::Silent => explain::silent(&place, self.connect_timeout),
                }
            })
            .collect();
        if errors.len() == 1 {
            return errors.remove(0);
        }
        let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let weightiest = errors.iter().find(|error| !error.is_retryable()).or(errors.first());
        let error = Error::new(weightiest.map_or(Kind::Unreachable, Error::kind), message);
        match weightiest.and_then(Error::hint_text) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
