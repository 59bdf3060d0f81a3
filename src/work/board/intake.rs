//! What the board is to the claimer: room for jobs, and the jobs that come.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Board, Ending, Held, Limits, Phase, Report, Taken};
use crate::model::job::Origin;
use crate::store::claims::{Claimed, Unreadable};
use crate::work::stats;
use crate::work::stop::Stop;

impl Board {
    /// How many jobs to claim now. None while enough wait: claims come in batches, not one for each run that ends.
    pub(in crate::work) fn room(&self) -> usize {
        let state = self.lock();
        let Limits { concurrency, prefetch, batch } = self.limits;
        let ahead = state.pace.ahead(concurrency, prefetch, Instant::now());
        if state.closed
            || state.waiting.len() > ahead / 2
            || state.reports.len() + state.reporting >= 4 * batch.max(concurrency)
        {
            return 0;
        }
        (concurrency + ahead).saturating_sub(state.waiting.len() + state.running).min(batch)
    }

    /// Whether a job that came now would begin at once.
    pub(in crate::work) fn has_free_hand(&self) -> bool {
        let state = self.lock();
        !state.closed && state.waiting.len() + state.running < self.limits.concurrency
    }

    /// Takes in what a claim gave at `since`: jobs to run, and those that only can be reported.
    pub(in crate::work) fn add(&self, claimed: Claimed, since: Instant) {
        let Claimed { jobs, unreadable, lease, .. } = claimed;
        if jobs.is_empty() && unreadable.is_empty() {
            return;
        }
        stats::add(&self.stats.claimed, jobs.len() + unreadable.len());
        let until = since + lease;
        let mut state = self.lock();
        for job in jobs {
            let stop = Stop::default();
            let held = Held::new(job.lease_token, since, lease, Phase::Waiting, stop.clone());
            state.held.insert(job.job_id, held);
            state.waiting.push_back(Taken { job, stop });
        }
        for Unreadable { job_id: id, job_kind, lease_token: token, error } in unreadable {
            state.held.insert(id, Held::new(token, since, lease, Phase::Ended, Stop::default()));
            let ending = Ending::Permanent(error.to_string());
            state.reports.push_back(Report {
                id,
                token,
                job_kind,
                origin: Origin::default(),
                took: Duration::ZERO,
                ending,
                until,
                again: false,
            });
        }
        stats::set(&self.stats.waiting, state.waiting.len());
        drop(state);
        self.ready.notify_one();
        self.outbox.notify_one();
        self.added.notify_one();
    }

    /// All that are held.
    pub(in crate::work) fn known(&self) -> Vec<Uuid> {
        self.lock().held.keys().copied().collect()
    }
}
