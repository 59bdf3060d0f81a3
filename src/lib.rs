//! Reveille turns committed facts into jobs.
//!
//! Producers commit rows into `event_outbox`; consumers are rows of `consumer_registry`; Reveille makes
//! one `job_queue` row for each consumer that wants a fact, and executors claim those jobs. NOTIFY makes
//! this fast, a timer makes it certain, a sweep proves it.
//!
//! Read the modules in this order; each uses only those above it, and two on one floor never use each
//! other (`tests/it/floors.rs` reads the imports and fails on a breach).

// 1 ground: no module of ours beneath
pub mod alive;
pub mod backoff;
pub mod error;
pub mod host;
pub mod latch;
pub mod shutdown;
pub mod systemd;
// 2 words: plain data, no input or output
pub mod model;
// 3 settings: file + environment + flags -> checked settings
pub mod config;
// 4 outside: the database (connections, listener, migrator, throw-away server), and a collector of spans
pub mod postgres;
pub mod telemetry;
// 5 tables: the only floor with SQL strings
pub mod store;
// 6 services: `run` is a loop, `run_once` one pass that returns what it did
pub mod dispatch;
pub mod look;
pub mod maintain;
pub mod work;
// 7 faces
pub mod http;
pub mod mcp;
// 8 assembly: start order, stop order
pub mod app;
// 9 shows: the whole thing on a throw-away server
pub mod bench;
pub mod demo;
// 10 commands: words in, words out
pub mod cli;

/// The programs of docs/executors.md compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/executors.md")]
struct PageForExecutors;
