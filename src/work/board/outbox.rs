//! What the board is to the reporter: outcomes that wait to be said.

use uuid::Uuid;

use super::{Board, Report};

impl Board {
    /// At most a batch of reports; waits for the first.
    pub(in crate::work) async fn reports(&self) -> Vec<Report> {
        loop {
            let waiting = self.outbox.notified();
            let taken = self.take_reports();
            if !taken.is_empty() {
                return taken;
            }
            waiting.await;
        }
    }

    fn take_reports(&self) -> Vec<Report> {
        let mut state = self.lock();
        let count = state.reports.len().min(self.limits.batch);
        state.reporting += count;
        state.reports.drain(..count).collect()
    }

    /// Whether a fuller batch will be there in a moment: less than a batch is, and jobs wait to be run.
    pub(in crate::work) fn is_filling(&self) -> bool {
        let state = self.lock();
        !state.reports.is_empty() && state.reports.len() < self.limits.batch && !state.waiting.is_empty()
    }

    /// Ends when something was added to the reports.
    pub(in crate::work) async fn reported_more(&self) {
        self.outbox.notified().await;
    }

    /// Nothing more is to be done about these.
    pub(in crate::work) fn settled(&self, ids: impl IntoIterator<Item = Uuid>) {
        let mut state = self.lock();
        for id in ids {
            state.held.remove(&id);
            state.reporting = state.reporting.saturating_sub(1);
        }
        drop(state);
        self.room.notify_one();
    }

    /// These could not be reported; they go first next time.
    pub(in crate::work) fn put_back(&self, reports: Vec<Report>) {
        let mut state = self.lock();
        state.reporting = state.reporting.saturating_sub(reports.len());
        for report in reports.into_iter().rev() {
            state.reports.push_front(report);
        }
        drop(state);
        self.outbox.notify_one();
    }
}
