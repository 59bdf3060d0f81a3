//! What became of the spans.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Why a span never reached the collector.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lost {
    /// The collector is down or slower than the spans come.
    QueueFull,
    /// The collector does not want it.
    Rejected,
    /// The process stopped, and the collector did not answer in time.
    Stopped,
}

impl Lost {
    pub(super) const ALL: [Self; 3] = [Self::QueueFull, Self::Rejected, Self::Stopped];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

/// Counters of the export.
#[derive(Debug, Default)]
pub(super) struct SpanStats {
    exported: Counter,
    dropped: Family<Because, Counter>,
}

impl SpanStats {
    /// Adds the series to `registry`; each reason is there from the beginning.
    pub(super) fn register(&self, registry: &mut Registry) {
        for why in Lost::ALL {
            self.lost(why, 0);
        }
        registry.register(
            "reveille_spans_exported",
            "Spans that a collector has taken",
            self.exported.clone(),
        );
        registry.register(
            "reveille_spans_dropped",
            "Spans that no collector has taken, by reason",
            self.dropped.clone(),
        );
    }

    pub(super) fn taken(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    pub(super) fn lost(&self, why: Lost, spans: u64) {
        self.dropped.get_or_create(&Because { reason: why.as_str() }).inc_by(spans);
    }

    /// All that were lost.
    pub(super) fn all_lost(&self) -> u64 {
        Lost::ALL
            .into_iter()
            .map(|why| self.dropped.get_or_create(&Because { reason: why.as_str() }).get())
            .sum()
    }
}
