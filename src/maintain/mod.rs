//! Chores: what keeps the tables in order.

pub mod consumer_sync;
mod housekeeper;

pub use housekeeper::{Housekeeper, Pruned};
