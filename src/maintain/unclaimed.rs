//! Backlog that no live executor may claim, in words: nobody of its kind beats, or nobody is subscribed to it. Each kind
//! and domain is told once when it begins and once when it is over.

use std::collections::BTreeSet;

use crate::store::backlog::Unclaimed;

/// Says what changed since the last look.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// What has been told and is not over.
    told: BTreeSet<String>,
}

impl Teller {
    pub(super) fn tell(&mut self, found: &[Unclaimed]) {
        let now: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
        for one in found {
            let lane = one.to_string();
            if !self.told.insert(lane.clone()) {
                continue;
            }
            let (why, hint) = match one.reason.as_str() {
                "no_live_executor" => {
                    ("no executor of that kind is alive", "start one, such as `reveille work`")
                }
                _ => (
                    "no live executor is subscribed to them",
                    "`reveille executors list` says who may claim what, `reveille executors subscribe` adds to it",
                ),
            };
            tracing::warn!(
                executor.kind = %one.executor,
                job.kind = %one.job_kind,
                domain = one.event_domain,
                jobs.due = one.due,
                hint,
                "{lane} wait, and {why}"
            );
        }
        for lane in self.told.difference(&now) {
            tracing::info!("{lane} wait for nobody any more: they can be claimed, or are paused, or gone");
        }
        self.told = now;
    }
}
