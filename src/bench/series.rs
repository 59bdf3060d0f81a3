//! Latencies of one sort.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::report::{Report, number};

/// Latencies of one sort, in microseconds.
pub(super) struct Series {
    name: String,
    histogram: Histogram<u64>,
}

impl Series {
    pub(super) fn new(name: impl Into<String>) -> Self {
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3);
        let histogram = histogram.unwrap_or_else(|_| unreachable!("the bounds are sound"));
        Self { name: name.into(), histogram }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(micros.max(1));
    }

    pub(super) fn record_all(&mut self, latencies: Vec<Duration>) {
        for latency in latencies {
            self.record(latency);
        }
    }

    /// In milliseconds.
    pub(super) fn percentile(&self, percentile: f64) -> f64 {
        let micros = i64::try_from(self.histogram.value_at_percentile(percentile)).unwrap_or(i64::MAX);
        number(micros) / 1000.0
    }

    /// Half, nearly all, the longest, and how many they are.
    pub(super) fn tell(&self, report: &mut Report) {
        for (what, percentile) in [("p50", 50.0), ("p99", 99.0), ("longest", 100.0)] {
            report.figure(format!("{}, {what}", self.name), self.percentile(percentile), "ms");
        }
        let taken = i64::try_from(self.histogram.len()).unwrap_or(i64::MAX);
        report.figure(format!("{}, taken", self.name), number(taken), "");
    }
}
