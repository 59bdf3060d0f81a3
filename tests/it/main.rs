//! The integration tests: one binary, one Postgres server a run, one database a test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on shall panic")]

mod adoption;
mod architecture;
mod bench;
mod claims;
mod cli;
mod commands;
mod config;
mod connect;
mod consumer_files;
mod consumers;
mod demo;
mod embedded;
mod failures;
mod floors;
mod harness;
mod housekeeper;
mod http;
mod invariants;
mod listener;
mod lives;
mod migrate;
mod missed_notify;
mod order;
mod pilot_host;
mod plans;
mod property;
mod races;
mod readme;
mod routes;
mod sidecar_life;
mod support;
mod systemd;
mod two_sidecars;
mod work;
mod wrong_clock;
