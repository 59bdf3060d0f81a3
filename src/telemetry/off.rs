//! What stands here without the feature `otlp`: the same words, and nothing done.

use std::time::SystemTime;

use prometheus_client::registry::Registry;

use crate::config;
use crate::error::Result;
use crate::model::job::Job;
use crate::model::pass::{FoundBy, Pass};
use crate::shutdown::Shutdown;

/// Makes no spans.
#[derive(Debug, Clone, Default)]
pub struct Spans(());

/// The span of one run of a job, which is none.
#[derive(Debug)]
pub struct JobRun;

/// Exports nothing.
#[derive(Debug)]
pub struct Exporter;

/// Nothing to start; says so where somebody expects otherwise.
///
/// # Errors
/// None: the settings have refused an endpoint already.
pub fn start(_: &config::Telemetry) -> Result<(Spans, Exporter)> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|endpoint| !endpoint.is_empty());
    if let Some(name) =
        ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find(is_set)
    {
        tracing::info!("{name} is set, but this binary was built without otlp: no spans");
    }
    Ok((Spans::default(), Exporter))
}

impl Spans {
    /// Leaves the job as it is.
    pub fn run(&self, _: &mut Job, _: &str) -> JobRun {
        JobRun
    }

    /// Nothing.
    pub fn pass(&self, _: &str, _: FoundBy, _: SystemTime, _: Result<&Pass, String>) {}
}

impl JobRun {
    /// Nothing.
    pub fn end(self, _: &'static str, _: Option<&str>) {}
}

impl Exporter {
    /// No series.
    pub fn register(&self, _: &mut Registry) {}

    /// `work`, and nothing beside it.
    pub async fn around<T>(self, _: &Shutdown, work: impl Future<Output = T>) -> T {
        work.await
    }
}
