//! What the scheduler says in the log.

use std::collections::BTreeMap;

use crate::model::schedule::Due;
use crate::store::schedules::Turn;

/// What has been told about schedules in trouble.
pub(super) type Told = BTreeMap<String, String>;

/// Says why a schedule makes no jobs, unless that has been said.
pub(super) fn tell(turn: &Turn, why: &str, told: &Told) {
    if told.get(&turn.schedule_key).map(String::as_str) != Some(why) {
        tracing::warn!(
            schedule = %turn.schedule_key,
            hint = "`reveille schedules put` changes it, `reveille schedules disable` lets it rest",
            "schedule {} makes no jobs: {why}",
            turn.schedule_key
        );
    }
}

/// Says what became of a schedule's ticks.
pub(super) fn tell_moved(turn: &Turn, due: &Due, made: u64) {
    if due.missed > 0 {
        tracing::warn!(
            schedule = %turn.schedule_key,
            schedule.missed = due.missed,
            schedule.jobs = made,
            "schedule {}: {} ticks were missed and are dropped, {made} became jobs (missed = {})",
            turn.schedule_key,
            due.missed,
            turn.words.missed
        );
    } else if made > 0 {
        tracing::debug!(schedule = %turn.schedule_key, schedule.jobs = made, "schedule {}: {made} jobs", turn.schedule_key);
    }
}
