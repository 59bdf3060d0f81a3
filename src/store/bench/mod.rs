//! Statements of `reveille bench` alone. They create, empty and drop tables: they run in a database that the bench
//! made for itself, never in an operator's.

mod cost;
mod counts;
mod enqueue;
mod limits;
mod producers;
mod stage;
mod wakes;
mod workflows;

pub use cost::{Counting, backends, count_statements, dead_rows, statements};
pub use counts::{Dispatched, Tally, Tenth, dispatched, newest_pass, succeeded, tally, tenths};
pub use enqueue::{enqueue_batch, enqueue_many, hold_snapshot, insert_bare, seen_jobs};
pub use limits::{
    Standing, bare_claim_and_succeed, fill_finished, fill_jobs, insert_rows, keep_rows, lane, make_old,
    make_twin, paused_kind, settle_jobs, stand_beside,
};
pub use producers::{Trigger, insert_event, set_trigger};
pub use stage::{
    Facts, add_consumer, checkpoint, create_database, drop_database, empty, facts, fill_events, settle,
};
pub use wakes::{begin, commit, enqueue, job_commits, listen, notify, tracks_commits};
pub use workflows::{emit_chains, empty_workflows, finished, put_chain};

use deadpool_postgres::GenericClient;

use crate::error::{Error, Result};

/// The domain of all bench events.
pub const DOMAIN: &str = "iu";

/// Statements without parameters.
async fn script(client: &impl GenericClient, what: &str, sql: &str) -> Result<()> {
    client.batch_execute(sql).await.map_err(|error| Error::postgres(what, error))
}
