//! Chores: what keeps the tables in order.

mod archiver;
mod auditor;
pub mod consumer_sync;
mod housekeeper;
mod pulse;
mod reaper;
mod scheduler;
mod silences;
mod unclaimed;

pub use archiver::{Archived, Archiver};
pub use auditor::{Audited, Auditor};
pub use housekeeper::{Housekeeper, Pruned};
pub use reaper::{Reaped, Reaper};
pub use scheduler::{Bell, Scheduled, Scheduler};
pub use silences::Silences;
