//! Chores: what keeps the tables in order.

pub mod consumer_sync;
mod housekeeper;
mod pulse;
mod reaper;
mod silences;

pub use housekeeper::{Housekeeper, Pruned};
pub use reaper::{Reaped, Reaper};
pub use silences::Silences;
