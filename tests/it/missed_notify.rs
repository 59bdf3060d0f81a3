//! Missed notifications are replayed: whatever happens to a wake-up, each event meets each consumer exactly once.
//!
//! Where a test proves NOTIFY, the poll comes once an hour; where it proves the poll, nothing is notified.

mod blind;
mod links;
mod server;
mod sidecar;
mod trigger;
