//! Workflows: templates, what is emitted from them, edges, gates, and who may do what.

mod commands;
mod edges;
mod emit;
mod expiry;
mod facts;
mod gates;
mod model;
mod poison;
mod retry;
mod stage;
mod starts;
mod turns;
