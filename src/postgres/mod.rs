//! The database: connections, pool, listener, migrator, throw-away server.
//!
//! [`Server`] knows the address and opens every connection; nothing else in the crate connects.

mod address;
mod connect;
mod conninfo;
mod dial;
pub mod embedded;
mod explain;
pub mod listener;
pub mod migrator;
pub mod pool;
pub mod probe;
pub(crate) mod quote;
mod tls;

pub use connect::{Server, Session};
pub use dial::Connection;
