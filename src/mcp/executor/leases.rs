//! What is leased under the name: what a claim gave, and how it goes back.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::Instant;
use uuid::Uuid;

use super::Executor;
use crate::error::Result;
use crate::model::refusal::Answer;
use crate::store;
use crate::store::work::Leases;

impl Executor {
    /// A claim begins: until its answer is here, jobs may be ours that we do not know.
    pub(in crate::mcp) fn becomes_unsure(&self) {
        self.state().unsure.get_or_insert_with(Instant::now);
    }

    /// Its answer is here: these are ours.
    pub(in crate::mcp) fn has_claimed(&self, jobs: impl IntoIterator<Item = (Uuid, i64)>, lease: Duration) {
        self.state().unsure = None;
        self.holds(jobs, lease);
    }

    /// These are ours for so long from now on. That is a moment more than the database means: what it still knows to be
    /// ours is never forgotten here.
    pub(in crate::mcp) fn holds(&self, jobs: impl IntoIterator<Item = (Uuid, i64)>, lease: Duration) {
        self.state().held.add(jobs, Instant::now() + lease);
    }

    /// A job is not ours any more.
    pub(in crate::mcp) fn lets_go(&self, job: (Uuid, i64)) {
        self.state().held.remove(job);
    }

    /// Nobody will hear of these. What cannot be given back now is tried again at the next claim, and at the end.
    pub(in crate::mcp) async fn give_back(&self, jobs: impl IntoIterator<Item = (Uuid, i64)>) -> Result<()> {
        self.state().held.untold(jobs);
        self.release(&self.calls, true).await
    }

    /// Gives back what was leased, and nobody has heard of: by a claim whose answer never came, or that was cancelled.
    pub(in crate::mcp) async fn settle(&self) -> Result<()> {
        self.release_unknown(&self.calls).await?;
        self.release(&self.calls, true).await
    }

    pub(super) async fn release_unknown(&self, pool: &Pool) -> Result<()> {
        let (since, known) = {
            let mut state = self.state();
            let Some(since) = state.unsure else { return Ok(()) };
            (since, state.held.known(Instant::now()))
        };
        let within = since.elapsed() + Duration::from_secs(1);
        let answer = self
            .ask_through(pool, "giving back unknown jobs", async |client| {
                store::work::release_unknown(client, &self.beater, within, &known).await
            })
            .await?;
        self.state().unsure = None;
        match answer {
            Answer::Done(answer) => self.tell_released(answer["released"].as_u64().unwrap_or_default()),
            Answer::Refused(_) => {} // the name is another process's, and so is what is leased under it
        }
        Ok(())
    }

    /// Gives back all that is leased, or what nobody has heard of. A row that somebody has locked keeps no other waiting.
    pub(super) async fn release(&self, pool: &Pool, only_untold: bool) -> Result<()> {
        let jobs = self.state().held.leases(Instant::now(), only_untold);
        if jobs.is_empty() {
            return Ok(());
        }
        let leases: Leases = jobs.iter().copied().collect();
        let release = async |client: &Object| store::work::release(client, &leases).await;
        let answers = self.ask_through(pool, "giving jobs back", release).await?;
        let (mut released, mut locked) = (0, 0);
        for (id, answer) in answers {
            match answer {
                None => locked += 1,
                Some(answer) => {
                    released += u64::from(matches!(answer, Answer::Done(_)));
                    jobs.iter().filter(|job| job.0 == id).for_each(|job| self.lets_go(*job));
                }
            }
        }
        self.tell_released(released);
        if locked > 0 {
            tracing::warn!(executor = %self.name(), "{locked} jobs stay leased: somebody has locked their rows");
        }
        Ok(())
    }

    fn tell_released(&self, jobs: u64) {
        if jobs > 0 {
            tracing::info!(executor = %self.name(), "gave {jobs} jobs back");
        }
    }
}
