//! Days on which the clocks change, and what that does to a schedule.

use croner::Cron;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{NANOSECOND, Schedule, Times};

/// A change of the clocks that meets a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Oddity {
    /// When the clocks change.
    pub at: Timestamp,
    /// What that means, in words.
    pub what: String,
}

impl Schedule {
    /// Changes of the clocks between two moments at which this schedule has times that do not exist, or come twice.
    ///
    /// # Errors
    /// The cron library cannot go on, in words.
    pub fn oddities(&self, from: Timestamp, until: Timestamp) -> Result<Vec<Oddity>, String> {
        let Times::Cron { cron, zone } = &self.times else { return Ok(Vec::new()) };
        let mut oddities = Vec::new();
        for change in zone.following(from).take_while(|change| change.timestamp() <= until) {
            let at = change.timestamp();
            let was = zone.to_offset(at.saturating_sub(NANOSECOND).unwrap_or(at));
            if let Some(what) = self.meets(cron, zone, at, (was, change.offset()))? {
                oddities.push(Oddity { at, what });
            }
        }
        Ok(oddities)
    }

    fn meets(
        &self,
        cron: &Cron,
        zone: &TimeZone,
        at: Timestamp,
        (was, becomes): (Offset, Offset),
    ) -> Result<Option<String>, String> {
        let (before, after) = (was.to_datetime(at), becomes.to_datetime(at));
        let (first, last) = (before.min(after), before.max(after));
        if !scheduled(cron, first, last)? {
            return Ok(None);
        }
        let span = format!("{} to {}", first.strftime("%Y-%m-%d %H:%M"), last.strftime("%H:%M"));
        let place = zone.iana_name().unwrap_or("this zone");
        let comes = |from: Timestamp| self.next_after(from.saturating_sub(NANOSECOND).unwrap_or(from));
        if before < after {
            let end = after.strftime("%H:%M");
            let fate = if comes(at)? == Some(at) {
                format!("what was due then comes at {end}, once")
            } else {
                "what was due then is left out".to_owned()
            };
            return Ok(Some(format!("{span} does not exist in {place}: {fate}")));
        }
        let length = SignedDuration::from_secs(i64::from(was.seconds() - becomes.seconds()));
        let again = comes(at)?.is_some_and(|tick| tick.duration_since(at) < length);
        let fate =
            if again { "each time of it runs twice" } else { "each time of it runs the first time only" };
        Ok(Some(format!("{span} comes twice in {place}: {fate}")))
    }
}

/// Whether the pattern names a time of the wall clock from `first` to `last`, which is none of them.
fn scheduled(cron: &Cron, first: jiff::civil::DateTime, last: jiff::civil::DateTime) -> Result<bool, String> {
    let as_utc =
        |civil: jiff::civil::DateTime| civil.to_zoned(TimeZone::UTC).map_err(|error| error.to_string());
    let (first, last) = (as_utc(first)?, as_utc(last)?);
    match cron.find_next_occurrence(&first, true) {
        Ok(next) => Ok(next < last),
        Err(croner::errors::CronError::TimeSearchLimitExceeded) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, cron};

    fn oddities(text: &str, zone: &str) -> Vec<String> {
        let schedule = cron(text, zone);
        let found = schedule.oddities(at("2026-01-01T00:00:00Z"), at("2026-12-31T00:00:00Z")).unwrap();
        found.into_iter().map(|oddity| oddity.what).collect()
    }

    #[test]
    fn changes_of_the_clocks_that_meet_a_schedule_are_named() {
        assert_eq!(
            oddities("30 2 * * *", "Europe/Berlin"),
            [
                "2026-03-29 02:00 to 03:00 does not exist in Europe/Berlin: what was due then comes at 03:00, once",
                "2026-10-25 02:00 to 03:00 comes twice in Europe/Berlin: each time of it runs the first time only",
            ]
        );
        assert_eq!(
            oddities("*/20 2 * * *", "Europe/Berlin"),
            [
                "2026-03-29 02:00 to 03:00 does not exist in Europe/Berlin: what was due then is left out",
                "2026-10-25 02:00 to 03:00 comes twice in Europe/Berlin: each time of it runs twice",
            ]
        );
    }

    #[test]
    fn schedules_that_no_change_meets_have_none() {
        assert!(oddities("30 4 * * *", "Europe/Berlin").is_empty());
        assert!(oddities("30 2 * * *", "Asia/Ho_Chi_Minh").is_empty());
        assert!(oddities("30 2 1 * *", "America/New_York").is_empty(), "neither change is on a first");
    }
}
