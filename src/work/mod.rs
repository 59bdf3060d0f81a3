//! The worker runtime: claims jobs, runs them by SQL functions, programs or Rust handlers, and reports how they ended.
//!
//! Read the files in this order:
//! `handler` what runs a job · `worker` start and stop · `claimer` claims as far as there is room, `rhythm` says when
//! to look again, `waker` folds notifications · `board` the jobs held, `pace` how many to claim ahead · `runner` runs
//! one job after the other, `sql` the SQL functions, `exec` any program, `stop` why a run should end early · `reporter` says how jobs
//! ended · `keeper` beats, renews, tells of long runs · `shared` and `stats` what they have in common.

mod board;
mod claimer;
mod exec;
mod handler;
mod keeper;
mod name;
mod pace;
mod reporter;
mod rhythm;
mod runner;
mod shared;
mod sql;
mod stats;
mod stop;
mod waker;
mod worker;

pub use exec::Exec;
pub use handler::{Handler, Handlers, JobContext, Outcome};
pub use stats::{WorkerCounts, WorkerStats};
pub use worker::Worker;
