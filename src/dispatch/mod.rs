//! From fact to job: the waker folds wake-ups into flags, the dispatcher reads and routes, the sweeper proves
//! that nothing was missed.

mod dispatcher;
mod domain;
mod once;
mod poll;
mod rhythm;
mod state;
mod stats;
mod sweeper;
mod trouble;
mod waker;

pub use dispatcher::Dispatcher;
pub use once::Once;
pub use stats::{DispatchStats, SweepStats};
pub use sweeper::{Sweeper, Swept};
pub use waker::Waker;
