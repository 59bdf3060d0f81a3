//! Words: plain data shared by every floor above; no input, no output.

pub mod consumer;
pub mod consumer_file;
pub mod executor;
pub mod finding;
pub mod job;
pub mod moment;
pub mod pass;
pub mod refusal;
pub mod schedule;
pub mod sorts;
pub mod spelling;
mod toml_reader;
pub mod workflow;
