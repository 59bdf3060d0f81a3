//! What the dispatcher and the sweeper count. Plain metrics that register themselves; nothing is global.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::model::pass::{FoundBy, Pass};

/// Label set of a series: the domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InDomain {
    domain: String,
}

/// Label set of a series: the domain, and what made the dispatcher look.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Found {
    domain: String,
    found_by: &'static str,
}

/// Counters of the dispatcher.
#[derive(Debug)]
pub struct DispatchStats {
    events: Family<Found, Counter>,
    jobs: Family<InDomain, Counter>,
    duplicates: Family<InDomain, Counter>,
    errors: Family<InDomain, Counter>,
    passes: Family<InDomain, Counter>,
    pass_seconds: Histogram,
    outages: Counter,
}

impl Default for DispatchStats {
    fn default() -> Self {
        Self {
            events: Family::default(),
            jobs: Family::default(),
            duplicates: Family::default(),
            errors: Family::default(),
            passes: Family::default(),
            pass_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            outages: Counter::default(),
        }
    }
}

impl DispatchStats {
    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "reveille_dispatch_events",
            "Events read, by what made the dispatcher look",
            self.events.clone(),
        );
        registry.register("reveille_dispatch_jobs", "Jobs made from events", self.jobs.clone());
        registry.register(
            "reveille_dispatch_duplicates",
            "Jobs that existed already",
            self.duplicates.clone(),
        );
        registry.register(
            "reveille_dispatch_errors",
            "Pairs of event and consumer that went to dispatch_error",
            self.errors.clone(),
        );
        registry.register("reveille_dispatch_passes", "Passes that read something", self.passes.clone());
        registry.register_with_unit(
            "reveille_dispatch_pass",
            "Length of a pass that read something",
            Unit::Seconds,
            self.pass_seconds.clone(),
        );
        registry.register(
            "reveille_dispatch_outages",
            "Times that the database could not be used",
            self.outages.clone(),
        );
    }

    pub(super) fn passed(&self, domain: &str, found_by: FoundBy, pass: &Pass, took: Duration) {
        let label = InDomain { domain: domain.to_owned() };
        let found = Found { domain: domain.to_owned(), found_by: found_by.as_str() };
        self.events.get_or_create(&found).inc_by(pass.events);
        self.jobs.get_or_create(&label).inc_by(pass.jobs);
        self.duplicates.get_or_create(&label).inc_by(pass.duplicates);
        self.errors.get_or_create(&label).inc_by(pass.errors);
        self.passes.get_or_create(&label).inc();
        self.pass_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn outage(&self) {
        self.outages.inc();
    }

    /// Events of `domain` read because of `found_by`.
    pub fn events(&self, domain: &str, found_by: FoundBy) -> u64 {
        self.events.get_or_create(&Found { domain: domain.to_owned(), found_by: found_by.as_str() }).get()
    }
}

/// Counters of the sweeper.
#[derive(Debug, Default)]
pub struct SweepStats {
    sweeps: Counter,
    missing: Counter,
}

impl SweepStats {
    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("reveille_sweeps", "Reconciliation sweeps", self.sweeps.clone());
        registry.register(
            "reveille_sweep_missing_events",
            "Events without an arrival, found and repaired",
            self.missing.clone(),
        );
    }

    pub(super) fn swept(&self, missing: u64) {
        self.sweeps.inc();
        self.missing.inc_by(missing);
    }

    /// Events repaired so far.
    pub fn missing(&self) -> u64 {
        self.missing.get()
    }
}
