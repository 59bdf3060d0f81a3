//! Says where a migration is, to whoever shows it.

use tokio::sync::watch;

use super::{Migrator, Step};

/// Where a migration is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    /// Steps that are done.
    pub done: usize,
    /// All steps.
    pub of: usize,
    /// The step that goes on.
    pub step: String,
}

impl Migrator {
    /// Tells before each step where it is.
    #[must_use]
    pub fn telling(mut self, teller: watch::Sender<At>) -> Self {
        self.teller = Some(teller);
        self
    }

    pub(super) fn tell(&self, steps: &[Step], index: usize) {
        if let Some(teller) = &self.teller {
            teller.send_replace(At { done: index, of: steps.len(), step: steps[index].phase.folder() });
        }
    }
}
