//! Workflows: templates, what is emitted from them, edges, gates, and who may do what.

mod cancel;
mod commands;
mod edges;
mod emit;
mod gates;
mod isolation;
mod kills;
mod model;
mod refresh;
mod retention;
mod retry;
mod stage;
mod starts;
mod templates;
mod warnings;
