//! Spans as they are made: of a job's run, a child of the job's `traceparent`; of a dispatch pass, a trace of its own.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;

use super::stats::{Lost, SpanStats};
use crate::error::Result;
use crate::model::job::Job;
use crate::model::pass::{FoundBy, Pass};

/// Most characters of an error that a span carries.
const ERROR_CHARACTERS: usize = 500;

/// Makes spans, or none without an endpoint. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<SdkTracer>);

/// The span of one run of a job; dropped, it ends without an outcome.
#[derive(Debug)]
pub struct JobRun(Option<Span>);

impl Spans {
    /// Spans that go into `queue` as they end; what finds no room there is counted. Sampling is as the standard
    /// variables say (`OTEL_TRACES_SAMPLER`): without them as the trace's flag says, and all that begin here.
    pub(super) fn new(queue: mpsc::Sender<SpanData>, resource: Resource, stats: Arc<SpanStats>) -> Self {
        let queue = Queue { queue, stats };
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue).build();
        Self(Some(provider.tracer("reveille")))
    }

    /// A run of `job` by `executor` begins. From now on the job's `traceparent` is the run's own span, so that what its
    /// handler records, emits and enqueues hangs on it; unchanged when the trace is not sampled.
    pub fn run(&self, job: &mut Job, executor: &str) -> JobRun {
        let Some(tracer) = &self.0 else { return JobRun(None) };
        let mut attributes = vec![
            KeyValue::new("job.id", job.job_id.to_string()),
            KeyValue::new("job.kind", job.job_kind.clone()),
            KeyValue::new("job.failures", i64::from(job.attempts)),
            KeyValue::new("executor", executor.to_owned()),
        ];
        let further = [
            ("event.id", job.causation_event_id.map(|id| id.to_string())),
            ("workflow.id", job.workflow_id.map(|id| id.to_string())),
            ("consumer.key", job.consumer_key.clone()),
        ];
        attributes.extend(further.into_iter().filter_map(|(key, value)| Some(KeyValue::new(key, value?))));
        let builder = SpanBuilder::from_name(format!("run {}", job.job_kind))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes);
        let parent = job.traceparent.as_deref().and_then(parse);
        let within =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let span = tracer.build_with_context(builder, &within);
        if span.is_recording() {
            job.traceparent = Some(print(span.span_context()));
        }
        JobRun(Some(span))
    }

    /// A pass over `domain`, begun at `begun`, has ended: what it did, or why it failed.
    pub fn pass(&self, domain: &str, found_by: FoundBy, begun: SystemTime, ended: Result<&Pass, String>) {
        let Some(tracer) = &self.0 else { return };
        let builder = SpanBuilder::from_name(format!("dispatch {domain}")).with_start_time(begun);
        let mut span = tracer.build_with_context(builder, &Context::new());
        span.set_attribute(KeyValue::new("domain", domain.to_owned()));
        span.set_attribute(KeyValue::new("found_by", found_by.as_str()));
        match ended {
            Ok(pass) => {
                let counts = [
                    ("dispatch.events", pass.events),
                    ("dispatch.jobs", pass.jobs),
                    ("dispatch.duplicates", pass.duplicates),
                    ("dispatch.errors", pass.errors),
                ];
                let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                span.set_attributes(counts.map(|(key, count)| KeyValue::new(key, number(count))));
                span.set_attribute(KeyValue::new("outcome", "succeeded"));
            }
            Err(error) => {
                span.set_attribute(KeyValue::new("outcome", "failed"));
                span.set_status(Status::error(short(&error)));
            }
        }
        span.end();
    }
}

impl JobRun {
    /// It has ended; `error` when that is a failure.
    pub fn end(self, outcome: &'static str, error: Option<&str>) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("outcome", outcome));
        if let Some(error) = error {
            span.set_status(Status::error(short(error)));
        }
        span.end();
    }
}

fn short(error: &str) -> String {
    error.chars().take(ERROR_CHARACTERS).collect()
}

/// A `traceparent` as the context of a span elsewhere; none when it is none.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
    let context = SpanContext::new(trace, parent, TraceFlags::new(flags), true, TraceState::NONE);
    (version == "00" && context.is_valid()).then_some(context)
}

fn print(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Takes the spans that have ended. Never waits.
#[derive(Debug)]
struct Queue {
    queue: mpsc::Sender<SpanData>,
    stats: Arc<SpanStats>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.queue.try_send(span).is_err() {
            self.stats.lost(Lost::QueueFull, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(()) // the exporter flushes
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written_as_it_came() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(text).unwrap();
        assert!(context.is_remote() && context.is_sampled());
        assert_eq!(print(&context), text);
        for wrong in ["", "nonsense", "00-0-0-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
