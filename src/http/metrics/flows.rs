//! Workflows, routes, schedules, the audit and traces as series.

use std::fmt;

use deadpool_postgres::Object;
use futures::future::try_join5;
use prometheus_client::registry::Unit;

use super::series::{Series, count};
use crate::error::Result;
use crate::store::audit::{self, Counts};
use crate::store::watch::{self, Route, Schedule, Workflows};

/// What was read of them.
#[derive(Debug)]
pub(super) struct Flows {
    workflows: Workflows,
    routes: Vec<Route>,
    schedules: Vec<Schedule>,
    audit: Vec<Counts>,
    traceparents_ignored: u64,
}

impl Flows {
    pub(super) async fn read(client: &Object) -> Result<Self> {
        let (workflows, routes, schedules, audit, traceparents_ignored) = try_join5(
            watch::workflows(client),
            watch::routes(client),
            watch::schedules(client),
            audit::counts(client),
            watch::traceparents_ignored(client),
        )
        .await?;
        Ok(Self { workflows, routes, schedules, audit, traceparents_ignored })
    }

    pub(super) fn encode(&self, series: &mut Series<'_>) -> fmt::Result {
        self.encode_workflows(series)?;
        self.encode_routes(series)?;
        self.encode_schedules(series)?;
        self.encode_audit(series)?;
        let help = "Trace contexts (traceparent) that could not be read, and were left out.";
        series.counter("reveille_traceparent_ignored", help, None, count(self.traceparents_ignored))
    }

    fn encode_audit(&self, series: &mut Series<'_>) -> fmt::Result {
        let decisions = self.audit.iter().flat_map(|one| {
            [
                ("found", one.found),
                ("missing", one.missing),
                ("repaired", one.repaired),
                ("unproven", one.unproven),
            ]
            .map(|(outcome, n)| {
                ([("domain", one.domain.as_str()), ("outcome", outcome)], count(n.unsigned_abs()))
            })
        });
        let help = "Pairs of event and consumer, by what the audit found.";
        series.counters("reveille_audit_decisions", help, decisions)?;
        let all = || self.audit.iter().map(|one| (one, [("domain", one.domain.as_str())]));
        let open = all().map(|(one, labels)| (labels, count(one.open_gaps.unsigned_abs())));
        let help = "Missing decisions that nobody has mended.";
        series.gauges("reveille_audit_open_gaps", help, None, open)?;
        let until = all().map(|(one, labels)| (labels, one.complete_until));
        let help = "Every event created before has its decisions, in seconds since 1970.";
        series.gauges("reveille_audit_complete_until", help, Some(&Unit::Seconds), until)
    }

    fn encode_workflows(&self, series: &mut Series<'_>) -> fmt::Result {
        let Workflows { active, failed_holding, gates } = &self.workflows;
        let states = [("active", active), ("failed_holding", failed_holding)];
        let help = "Workflows that go on, and failed ones whose jobs wait for what failed.";
        let states = states.map(|(state, number)| ([("state", state)], count(*number)));
        series.gauges("reveille_workflows", help, None, states)?;
        let help = "Steps of active workflows that wait for an approval or an event.";
        let waiting = gates.iter().map(|(gate, of)| ([("gate", gate.as_str())], count(of.waiting)));
        series.gauges("reveille_workflow_gates_waiting", help, None, waiting)?;
        let help = "How long the first of them has waited.";
        let oldest = gates.iter().map(|(gate, of)| ([("gate", gate.as_str())], of.oldest_seconds));
        series.gauges("reveille_workflow_gate_oldest", help, Some(&Unit::Seconds), oldest)
    }

    fn encode_routes(&self, series: &mut Series<'_>) -> fmt::Result {
        let of = |number: fn(&Route) -> i64| {
            let one =
                move |route: &Route| ([("route", route.code.clone())], count(number(route).unsigned_abs()));
            self.routes.iter().map(one).collect::<Vec<_>>()
        };
        let help = "Events that the route has emitted.";
        series.counters("reveille_route_events", help, of(|route| route.events))?;
        let help = "Events that the route would have emitted in its dry run.";
        series.counters("reveille_route_dry_run_events", help, of(|route| route.dry_run_events))?;
        let help = "Faults of the last day: writes that passed without their events.";
        series.gauges("reveille_route_faults", help, None, of(|route| route.faults))
    }

    fn encode_schedules(&self, series: &mut Series<'_>) -> fmt::Result {
        let all = || self.schedules.iter().map(|one| (one, [("schedule", one.key.as_str())]));
        let ticks = all().map(|(one, labels)| (labels, count(one.ticks.unsigned_abs())));
        series.counters("reveille_schedule_ticks", "Ticks that became jobs.", ticks)?;
        let missed = all().map(|(one, labels)| (labels, count(one.ticks_missed.unsigned_abs())));
        let help = "Ticks that were dropped because they were late.";
        series.counters("reveille_schedule_ticks_missed", help, missed)?;
        let overdue = all().map(|(one, labels)| (labels, one.overdue_seconds));
        let (seconds, help) = (Unit::Seconds, "Since when its tick is due, also while something holds it.");
        series.gauges("reveille_schedule_overdue", help, Some(&seconds), overdue)?;
        let next = all().filter_map(|(one, labels)| Some((labels, one.next_tick?)));
        let help = "When its next tick is due, in seconds since 1970.";
        series.gauges("reveille_schedule_next_tick", help, Some(&seconds), next)
    }
}
