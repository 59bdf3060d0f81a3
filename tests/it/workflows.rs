//! Workflows: templates, what is emitted from them, edges, gates, and who may do what.

mod batches;
mod cancel;
mod commands;
mod edges;
mod emit;
mod expiry;
mod facts;
mod gates;
mod isolation;
mod kills;
mod model;
mod poison;
mod refresh;
mod retention;
mod retry;
mod stage;
mod starts;
mod templates;
mod turns;
mod warnings;
