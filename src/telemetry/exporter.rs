//! Sends spans in batches, beside the work and never in its way.
//!
//! Bounded in everything: the queue, a batch, the time of a request, the pauses between two tries, the flush at the end.
//! A batch that the collector may take later is tried again while the queue fills; what comes then is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::future::{Either, select};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prometheus_client::registry::Registry;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::collector::{Collector, Taken};
use super::spans::Spans;
use super::stats::{Lost, SpanStats};
use crate::config;
use crate::error::Result;
use crate::shutdown::Shutdown;

/// Ended spans that wait; as the standard's `OTEL_BSP_MAX_QUEUE_SIZE`.
const QUEUE: usize = 2048;
/// Most spans of one request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long stopping waits for the collector.
const FLUSH: Duration = Duration::from_secs(2);

/// What to do about variables that do not fit.
const OWN_KEYS: &str = "[telemetry] has keys for all of them, and is stronger: docs/tracing.md";

/// Empties the queue of spans; nothing without an endpoint.
#[derive(Debug)]
pub struct Exporter(Option<Sender>);

#[derive(Debug)]
struct Sender {
    queue: mpsc::Receiver<SpanData>,
    /// Taken out of the queue, and not yet at the collector.
    batch: Vec<SpanData>,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    stats: Arc<SpanStats>,
    is_down: bool,
    /// That it takes a batch and refuses some of it is said once.
    has_told_refusal: bool,
}

/// What makes spans and what sends them, as `settings` say. Opens nothing yet.
///
/// # Errors
/// Kind Usage when the endpoint of our own settings cannot be used. One that a platform names for everybody is left alone
/// then, with a warning.
pub fn start(settings: &config::Telemetry) -> Result<(Spans, Exporter)> {
    if let Some(unfit) = &settings.unfit {
        tracing::warn!(hint = OWN_KEYS, "{unfit}");
    }
    if settings.endpoint.is_empty() {
        return Ok((Spans::default(), Exporter(None)));
    }
    let collector = match Collector::new(settings) {
        Err(error) if settings.is_of_platform => {
            tracing::warn!(
                hint = OWN_KEYS,
                "no spans are exported: the standard variables do not fit: {error}"
            );
            return Ok((Spans::default(), Exporter(None)));
        }
        collector => collector?,
    };
    let resource = Resource::builder()
        .with_service_name(settings.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let stats = Arc::new(SpanStats::default());
    let (ended, queue) = mpsc::channel(QUEUE);
    let of_all = ResourceAttributesWithSchema::from(&resource);
    tracing::info!(collector = %collector, "spans are exported");
    let spans = Spans::new(ended, resource, Arc::clone(&stats));
    let sender = Sender {
        queue,
        batch: Vec::new(),
        collector,
        resource: of_all,
        stats,
        is_down: false,
        has_told_refusal: false,
    };
    Ok((spans, Exporter(Some(sender))))
}

impl Exporter {
    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(sender) = &self.0 {
            sender.stats.register(registry);
        }
    }

    /// Does `work` and exports its spans meanwhile; then what is left, for two seconds at most, and not at all when
    /// `shutdown` is cut.
    pub async fn around<T>(self, shutdown: &Shutdown, work: impl Future<Output = T>) -> T {
        let Some(mut sender) = self.0 else { return work.await };
        let outcome = {
            let (work, export) = (std::pin::pin!(work), Box::pin(sender.run()));
            match select(work, export).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(((), work)) => work.await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.was_cut() => {}
            () = Box::pin(sender.flush(Instant::now() + FLUSH)) => {}
        }
        sender.leave();
        outcome
    }
}

impl Sender {
    /// Sends batch after batch until nobody makes spans any more.
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let room = BATCH - self.batch.len();
            if self.batch.is_empty() && self.queue.recv_many(&mut self.batch, room).await == 0 {
                return;
            }
            self.fill().await;
            if self.send().await {
                pause = FIRST_PAUSE;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Adds what comes in a moment.
    async fn fill(&mut self) {
        let until = Instant::now() + LINGER;
        while self.batch.len() < BATCH {
            let room = BATCH - self.batch.len();
            match timeout_at(until, self.queue.recv_many(&mut self.batch, room)).await {
                Ok(more) if more > 0 => {}
                _ => return,
            }
        }
    }

    /// Sends the batch; false when it is to be tried again. A batch stays until it is settled: this may be dropped.
    async fn send(&mut self) -> bool {
        let count = self.batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(self.batch.clone(), &self.resource);
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        match self.collector.post(body).await {
            Ok(Taken { rejected, why }) => {
                let rejected = rejected.min(count);
                if (rejected > 0 || !why.is_empty()) && !std::mem::replace(&mut self.has_told_refusal, true) {
                    tracing::warn!(collector = %self.collector, hint = "said once; what is refused is counted in reveille_spans_dropped_total", "the collector refuses {rejected} of {count} spans: {why}");
                }
                self.stats.taken(count - rejected);
                self.stats.lost(Lost::Rejected, rejected);
                if self.is_down {
                    tracing::info!(collector = %self.collector, "the collector of spans takes them again");
                }
                self.is_down = false;
            }
            Err(failed) => {
                if !std::mem::replace(&mut self.is_down, true) {
                    tracing::warn!(collector = %self.collector, hint = "the work goes on; what finds no room in the queue is counted in reveille_spans_dropped_total", "spans cannot be exported: {}", failed.why);
                }
                if failed.may_pass {
                    return false;
                }
                self.stats.lost(Lost::Rejected, count);
            }
        }
        self.batch.clear();
        true
    }

    /// Sends what is left, until `deadline`.
    async fn flush(&mut self, deadline: Instant) {
        self.queue.close();
        let all = async {
            loop {
                let room = BATCH - self.batch.len();
                let came = if room == 0 { 0 } else { self.queue.recv_many(&mut self.batch, room).await };
                if came == 0 && self.batch.is_empty() {
                    return;
                }
                if !self.send().await {
                    return; // no time for a second try
                }
            }
        };
        timeout(deadline.saturating_duration_since(Instant::now()), all).await.ok();
    }

    /// Counts what is left, and says what was lost.
    fn leave(mut self) {
        self.queue.close();
        let mut left = self.batch.len() as u64;
        while self.queue.try_recv().is_ok() {
            left += 1;
        }
        self.stats.lost(Lost::Stopped, left);
        let lost = self.stats.all_lost();
        if lost > 0 {
            tracing::warn!(collector = %self.collector, "{lost} spans were not exported");
        }
    }
}
