//! Answers that more than one face gives: the command line as text or JSON, and the tools for agents. Nothing here writes.

pub mod doctor;
pub mod executors;
pub mod preview;
pub mod workflow;
