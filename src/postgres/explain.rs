//! What a failed connection means, and what to do about it.
//!
//! `Error::postgres` reads SQLSTATEs; most failures of connecting have none, and the driver tells them apart only
//! in its words. This is the one place that knows those words.

use std::error::Error as _;
use std::time::Duration;

use super::dial::Connection;
use crate::error::{Error, Kind, Result, chain};

/// What to look at when nothing answers at an address.
const IS_IT_THERE: &str =
    "is Postgres running there, and do host and port in DATABASE_URL or [database] url point to it?";

/// Polls a connection to its end. An error reaches whoever uses the client; here it is only noted.
pub(super) async fn drive(connection: Connection) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %chain(&error), "database connection ended");
    }
}

/// Gives `work` no longer than `limit`. The server's own `statement_timeout` ends a slow statement; this ends the wait
/// for a server that is not there any more.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let Ok(done) = tokio::time::timeout(limit, work).await else {
        let limit = humantime::format_duration(limit);
        return Err(Error::new(Kind::Timeout, format!("{what}: no answer within {limit}"))
            .hint("is the server still there, and the network in between?"));
    };
    done.map_err(|error| Error::postgres(what, error))
}

/// The handshake did not end in time.
pub(super) fn silent(place: &str, deadline: Duration) -> Error {
    let deadline = humantime::format_duration(deadline);
    Error::new(Kind::Unreachable, format!("connecting to {place}: no answer within {deadline}"))
        .hint("is this a Postgres server, and does a firewall let us through?")
}

/// A pooler let us in without our options.
pub(super) fn dropped_options(place: &str, schema: &str, path: &str) -> Error {
    Error::usage(format!("{place} does not look into schema `{schema}` first: its search_path is `{path}`"))
        .hint(
            "a pooler dropped our startup options: give Reveille a direct URL, \
         or let the role look there itself (`alter role … set search_path = …`)",
        )
}

/// Connecting to `place` failed with `error`.
pub(super) fn connecting(place: &str, error: tokio_postgres::Error) -> Error {
    let words = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => chain(&error),
    };
    // we have just said that we were connecting
    let words = words.strip_prefix("error connecting to server: ").unwrap_or(&words).to_owned();
    let known = meaning(&words, is_certificate(&error));
    let known = known.or(error.as_db_error().is_none().then_some((Kind::Unreachable, "", IS_IT_THERE)));
    let Some((kind, what, hint)) = known else {
        return Error::postgres(format!("connecting to {place}"), error);
    };
    let message = if what.is_empty() { words } else { what.to_owned() };
    Error::new(kind, format!("connecting to {place}: {message}")).hint(hint).because(error)
}

/// Kind, message (empty: the driver's own words) and hint.
fn meaning(words: &str, certificate: bool) -> Option<(Kind, &'static str, &'static str)> {
    let has = |part: &str| words.contains(part);
    Some(if has("database does not allow writes") {
        (
            Kind::Unreachable,
            "this server is a standby, or set read-only: it takes no writes",
            "name all hosts in DATABASE_URL (postgres://user@one,two/dbname): the one that takes writes is used",
        )
    } else if has("database is not read only") {
        (
            Kind::Unreachable,
            "this server takes writes, and the address asks for a read-only one",
            "see target_session_attrs",
        )
    } else if has("failed to lookup address") {
        (
            Kind::Unreachable,
            "",
            "is the host's name in DATABASE_URL right, and does this machine's DNS know it?",
        )
    } else if has("unsupported startup parameter") {
        (
            Kind::Usage,
            "",
            "PgBouncer refuses our startup options: give Reveille a direct URL, or set \
             `ignore_startup_parameters = options` there and `alter role … set search_path = …`",
        )
    } else if certificate {
        (
            Kind::Denied,
            "",
            "set [database] tls_root_cert to the authority that signed the server's certificate; \
             sslmode=require encrypts without checking it",
        )
    } else if has("does not support TLS") {
        (Kind::Denied, "", "turn `ssl` on at the server, or use sslmode=prefer")
    } else if has("no hostname provided for TLS") {
        (Kind::Usage, "", "TLS does not work over a Unix socket: use sslmode=prefer or a host name")
    } else if has("password missing") {
        (
            Kind::Denied,
            "the server asks for a password and there is none",
            "put it into DATABASE_URL: postgres://user:password@host/dbname",
        )
    } else if has("authentication error") {
        (
            Kind::Denied,
            "",
            "does the server allow SCRAM for this user, and is channel_binding what it can do?",
        )
    } else {
        return None;
    })
}

/// Whether rustls refused the server's certificate.
fn is_certificate(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let tls = io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}
