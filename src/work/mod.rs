//! The worker runtime: claims jobs, runs them by SQL functions, programs or Rust handlers, and reports how they ended.
//!
//! Read the files in this order:
//! `handler` what runs a job · `worker` start and stop · `claimer` claims as far as there is room, `rhythm` says when
//! to look again, `waker` folds notifications · `board` the jobs held, `pace` how many to claim ahead · `runner` runs
//! one job after the other, `guard` until it ends or must, `stop` says why · `sql` runs SQL functions, `transaction`
//! Rust handlers, both on connections of `lent`; `exec` any program · `reporter` says how jobs
//! ended · `keeper` beats, renews, tells of long runs · `shared` and `stats` what they have in common.

mod board;
mod claimer;
mod exec;
mod guard;
mod handler;
mod keeper;
mod lent;
mod name;
mod pace;
mod reporter;
mod rhythm;
mod runner;
mod shared;
mod sql;
mod stats;
mod stop;
mod transaction;
mod waker;
mod worker;

pub use deadpool_postgres::Transaction;
pub use exec::Exec;
pub use handler::{Handler, Handlers, JobContext, Outcome, TransactionHandler, TransactionResult};
pub use stats::{WorkerCounts, WorkerStats};
pub use worker::Worker;
