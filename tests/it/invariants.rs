//! The twelve invariants of the system, each guarded by a test that bears its name, and the schema as a whole.

mod catalogue;
mod executors;
mod functions;
mod jobs;
mod signal;
mod truth;
