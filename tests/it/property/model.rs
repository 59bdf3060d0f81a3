//! What must be: the model that the database is compared with.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::facts::{Consumer, DOMAINS, Fact, Job, Outcome};

/// An event, wherever it is in its life.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: Uuid,
    pub(super) fact: Fact,
    /// Microseconds since 1970: the start of its transaction.
    pub(super) created_at: i64,
    pub(super) committed: bool,
    /// The trigger saw it, or a sweep found it.
    pub(super) has_arrival: bool,
}

/// What a pass has done, or will have done when it commits.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) domain: &'static str,
    pub(super) id: i64,
    /// Indexes of events.
    pub(super) read: Vec<usize>,
    pub(super) jobs: Vec<Job>,
    /// Events and the consumers that could not digest them.
    pub(super) errors: Vec<(Uuid, String)>,
    pub(super) duplicates: i64,
    pub(super) dry: i64,
}

/// Everything that is committed, and the events that are not.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) events: Vec<Event>,
    /// Committed passes, in the order of their commits.
    pub(super) passes: Vec<Pass>,
    /// By key, with the moment from which they want events.
    pub(super) consumers: BTreeMap<String, (Consumer, i64)>,
    pub(super) gate_is_open: bool,
    pub(super) trigger_is_on: bool,
}

impl Model {
    pub(super) fn new() -> Self {
        let witnesses = DOMAINS.map(Consumer::witness);
        let consumers = witnesses.map(|witness| (witness.name(), (witness, 0)));
        Self {
            events: Vec::new(),
            passes: Vec::new(),
            consumers: consumers.into(),
            gate_is_open: true,
            trigger_is_on: true,
        }
    }

    pub(super) fn find(&self, id: Uuid) -> Option<usize> {
        self.events.iter().position(|event| event.id == id)
    }

    /// Committed events with an arrival that neither a committed pass has read nor one of `held`.
    pub(super) fn unread(&self, domain: &str, held: &[Pass]) -> BTreeSet<usize> {
        let read: BTreeSet<usize> =
            self.passes.iter().chain(held).flat_map(|pass| pass.read.iter().copied()).collect();
        let waits = |event: &Event| event.committed && event.has_arrival && event.fact.domain == domain;
        let events = self.events.iter().enumerate();
        events.filter(|(n, event)| waits(event) && !read.contains(n)).map(|(n, _)| n).collect()
    }

    /// Committed events of the domains in use that have no arrival.
    pub(super) fn without_arrival(&self) -> Vec<usize> {
        let events = self.events.iter().enumerate();
        events.filter(|(_, event)| event.committed && !event.has_arrival).map(|(n, _)| n).collect()
    }

    /// What a pass must do that reads these events, in this order, after the passes that its transaction holds.
    pub(super) fn expect(&self, domain: &'static str, read: Vec<usize>, held: &[Pass]) -> Pass {
        let all = self.passes.iter().chain(held).flat_map(|pass| &pass.jobs);
        let mut taken: BTreeSet<(String, String)> =
            all.map(|job| (job.kind.clone(), job.key.clone())).collect();
        let mut pass = Pass { domain, ..Pass::default() };
        for event in read.iter().map(|n| &self.events[*n]) {
            for (consumer, starts_at) in self.consumers.values() {
                match consumer.outcome(&event.fact, event.id, event.created_at >= *starts_at) {
                    Outcome::Nothing => {}
                    Outcome::DryRun => pass.dry += 1,
                    Outcome::Undigestible => pass.errors.push((event.id, consumer.name())),
                    Outcome::Job(job) if taken.insert((job.kind.clone(), job.key.clone())) => {
                        pass.jobs.push(*job);
                    }
                    Outcome::Job(_) => pass.duplicates += 1,
                }
            }
        }
        pass.read = read;
        pass
    }
}
