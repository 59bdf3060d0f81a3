//! Spans of job runs and of dispatch passes, sent to a collector by OTLP over HTTP.
//!
//! Built by the feature `otlp`; without it everything here does nothing, and the settings refuse an endpoint. With it and
//! without an endpoint nothing is made either. Nobody ever waits for a collector: `spans` puts what has ended into a
//! bounded queue and counts what finds no room, `exporter` empties it in batches, `collector` is one request.
//! `docs/tracing.md` tells operators.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod spans;
#[cfg(feature = "otlp")]
mod stats;

#[cfg(feature = "otlp")]
pub use exporter::{Exporter, start};
#[cfg(not(feature = "otlp"))]
pub use off::{Exporter, JobRun, Spans, start};
#[cfg(feature = "otlp")]
pub use spans::{JobRun, Spans};
