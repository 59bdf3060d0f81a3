//! The latches as gauges.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::series::{Series, flag};
use crate::http::readiness::Ready;

/// One series a latch.
#[derive(Debug)]
pub(super) struct ReadySeries(pub(super) Ready);

impl Collector for ReadySeries {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let standings = self.0.standings();
        let series = standings.iter().map(|one| ([("latch", one.latch)], flag(one.ready)));
        let help = "Whether the component is ready, as /ready says.";
        Series(encoder).gauges("reveille_ready", help, None, series)
    }
}
