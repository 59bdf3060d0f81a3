//! Words: plain data shared by every floor above; no input, no output.

pub mod domain;
pub mod executor;
pub mod job;
pub mod refusal;
