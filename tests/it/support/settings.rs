//! Settings for a database of a test.

use std::time::Duration;

use reveille::config::Database;
use reveille::postgres::Server;

/// `[database]` for this address; deadlines fit a busy machine.
pub(crate) fn database_at(url: &str) -> Database {
    Database { url: url.to_owned(), connect_timeout: Duration::from_secs(15), ..Database::default() }
}

/// The server at this address, schema `public`.
pub(crate) fn server_at(url: &str) -> Server {
    Server::from_settings(&database_at(url)).unwrap()
}
