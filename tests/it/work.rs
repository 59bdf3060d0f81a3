//! The worker runtime against a real database: what its handlers may rely on, and what is never lost or done twice.

mod any_language;
mod ends;
mod exec;
mod exec_stops;
mod faults;
mod in_transaction;
mod kills;
mod leases;
mod named;
mod passed_on;
mod pauses;
mod rules;
mod rust_handlers;
mod shop;
mod sql_handlers;
mod stopping;
mod tools;
mod wakes;
