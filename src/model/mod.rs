//! Words: plain data shared by every floor above; no input, no output.

pub mod executor;
pub mod refusal;
