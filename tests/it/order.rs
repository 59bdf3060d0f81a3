//! The reading order: whatever producers do, each event meets each consumer exactly once.

mod bulk;
mod commits;
mod digest;
mod history;
mod registry;
mod restored;
mod templates;
