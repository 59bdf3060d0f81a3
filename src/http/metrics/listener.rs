//! The listener's counters and its state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::series::{Series, count, flag};
use crate::postgres::listener::{ListenerState, ListenerStatus};

/// Reads the status when asked.
#[derive(Debug)]
pub(super) struct ListenerSeries(pub(super) Arc<ListenerStatus>);

impl Collector for ListenerSeries {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, mut series) = (&self.0, Series(encoder));
        let now = status.state();
        let each = ListenerState::ALL.map(|state| ([("state", state.as_str())], flag(state == now)));
        series.gauges(
            "reveille_listener_state",
            "1 at the state that holds, 0 at the others.",
            None,
            each,
        )?;
        let reconnects = count(status.reconnects());
        series.counter("reveille_listener_reconnects", "Times it connected anew.", None, reconnects)?;
        let notifications = count(status.notifications());
        series.counter(
            "reveille_listener_notifications",
            "Notifications that came, canaries not counted.",
            None,
            notifications,
        )?;
        let lost = count(status.canaries_lost());
        series.counter(
            "reveille_listener_canaries_lost",
            "Canaries that did not come back in time.",
            None,
            lost,
        )?;
        series.gauge(
            "reveille_listener_canary_round_trip",
            "How long the last canary took.",
            Some(&Unit::Seconds),
            status.canary_round_trip().as_ref().map(Duration::as_secs_f64),
        )
    }
}
