//! Chores: what keeps the tables in order.

pub mod consumer_sync;
mod housekeeper;
mod reaper;

pub use housekeeper::{Housekeeper, Pruned};
pub use reaper::{Reaped, Reaper};
