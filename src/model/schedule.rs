//! When a schedule's ticks come: cron in a time zone, an interval, or one moment. Pure; the database's clock is given.
//!
//! At a change of the clocks a fixed time of day (`30 2 * * *`) runs exactly once: at the first moment behind a gap, and
//! at the first of two equal times. What runs by the hour or minute (`*/15 * * * *`) follows the wall clock: nothing in a
//! gap, both times of a repeated hour. The interval of `every` is elapsed time, which knows no clocks.

mod missed;
mod oddities;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

pub use missed::{Due, Missed};
pub use oddities::Oddity;

/// A schedule's times as they are written, in the columns of `job_schedule`.
#[derive(Debug, Clone, Default, Deserialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Words {
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    pub every_seconds: Option<i64>,
    pub at: Option<Timestamp>,
    pub starts_at: Timestamp,
    pub ends_at: Option<Timestamp>,
    pub missed: String,
    pub missed_window_seconds: Option<i64>,
}

/// A schedule whose words have been understood.
#[derive(Debug, Clone)]
pub struct Schedule {
    times: Times,
    starts_at: Timestamp,
    ends_at: Option<Timestamp>,
    missed: Missed,
    missed_window: Option<SignedDuration>,
}

#[derive(Debug, Clone)]
enum Times {
    Cron { cron: Box<Cron>, zone: TimeZone },
    Every(SignedDuration),
    At(Timestamp),
}

const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

impl Schedule {
    /// Understands the words.
    ///
    /// # Errors
    /// What is wrong, in words that can be shown to whoever wrote it.
    pub fn parse(words: &Words) -> Result<Self, String> {
        let times = match (&words.cron, &words.time_zone, words.every_seconds, words.at) {
            (Some(cron), Some(zone), None, None) => {
                Times::Cron { cron: Box::new(parse_cron(cron)?), zone: parse_zone(zone)? }
            }
            (None, None, Some(seconds), None) if seconds >= 1 => {
                Times::Every(SignedDuration::from_secs(seconds))
            }
            (None, None, Some(_), None) => return Err("an interval is at least one second".to_owned()),
            (None, None, None, Some(at)) => Times::At(at),
            (Some(_), None, None, None) => {
                return Err("cron needs a time zone, such as Europe/Berlin".to_owned());
            }
            _ => {
                return Err("a schedule has exactly one of cron with a time zone, an interval, and a moment"
                    .to_owned());
            }
        };
        let missed_window = words.missed_window_seconds.map(SignedDuration::from_secs);
        let (starts_at, ends_at) = (words.starts_at, words.ends_at);
        Ok(Self { times, starts_at, ends_at, missed: words.missed.parse()?, missed_window })
    }

    /// The first tick after a moment; none when there is none any more.
    ///
    /// # Errors
    /// The cron library cannot go on, in words.
    pub fn next_after(&self, after: Timestamp) -> Result<Option<Timestamp>, String> {
        let after = after.max(self.starts_at.saturating_sub(NANOSECOND).unwrap_or(after));
        let next = match &self.times {
            Times::Cron { cron, zone } => cron_after(cron, zone, after)?,
            Times::Every(interval) => every_after(*interval, self.starts_at, after),
            Times::At(at) => Some(*at).filter(|at| *at > after),
        };
        Ok(next.filter(|next| self.ends_at.is_none_or(|end| *next < end)))
    }

    /// The next ticks after a moment, at most so many.
    ///
    /// # Errors
    /// The cron library cannot go on, in words.
    pub fn next_times(&self, after: Timestamp, count: usize) -> Result<Vec<Timestamp>, String> {
        let mut times = Vec::new();
        let mut last = after;
        while times.len() < count {
            let Some(next) = self.next_after(last)? else { break };
            times.push(next);
            last = next;
        }
        Ok(times)
    }

    /// The zone in which people read its times.
    pub fn zone(&self) -> TimeZone {
        match &self.times {
            Times::Cron { zone, .. } => zone.clone(),
            _ => TimeZone::UTC,
        }
    }
}

/// Five fields or a name such as `@daily`. No seconds: a schedule is looked at when its minute comes; `every` has them.
fn parse_cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| {
        let error = error.to_string();
        let error = error.trim_end_matches('.').trim_start_matches("Invalid pattern: ");
        format!(
            "cron `{text}`: {error}; it is five fields, minute hour day month weekday, such as `30 2 * * *`"
        )
    })
}

fn parse_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("time zone `{name}` is not known here; write it as Europe/Berlin or UTC"))
}

fn cron_after(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Result<Option<Timestamp>, String> {
    match cron.find_next_occurrence(&after.to_zoned(zone.clone()), false) {
        Ok(next) if next.timestamp() > after => Ok(Some(next.timestamp())),
        Ok(next) => Err(format!("after {after} the cron library gives {next}, which is not later")),
        Err(CronError::TimeSearchLimitExceeded) => Ok(None), // the 30th of February
        Err(error) => Err(error.to_string()),
    }
}

fn every_after(interval: SignedDuration, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
    if after < anchor {
        return Some(anchor);
    }
    let passed = after.duration_since(anchor).as_nanos() / interval.as_nanos();
    let ahead = (passed + 1).checked_mul(interval.as_nanos())?;
    let (seconds, rest) = (ahead / 1_000_000_000, ahead % 1_000_000_000);
    let ahead = SignedDuration::new(i64::try_from(seconds).ok()?, i32::try_from(rest).ok()?);
    anchor.checked_add(ahead).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    pub(super) fn cron(text: &str, zone: &str) -> Schedule {
        let words = Words { cron: Some(text.into()), time_zone: Some(zone.into()), ..once() };
        Schedule::parse(&words).unwrap()
    }

    pub(super) fn once() -> Words {
        Words { missed: "once".into(), starts_at: at("2000-01-01T00:00:00Z"), ..Words::default() }
    }

    fn local(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
        let times = schedule.next_times(at(after), count).unwrap();
        let shown = |time: Timestamp| time.to_zoned(schedule.zone()).strftime("%m-%d %H:%M %:z").to_string();
        times.into_iter().map(shown).collect()
    }

    #[test]
    fn a_fixed_time_that_a_gap_swallows_comes_once_at_its_end() {
        let berlin = cron("30 2 * * *", "Europe/Berlin");
        let times = local(&berlin, "2026-03-28T00:00:00Z", 3);
        assert_eq!(times, ["03-28 02:30 +01:00", "03-29 03:00 +02:00", "03-30 02:30 +02:00"]);
        let new_york = cron("30 2 * * *", "America/New_York");
        let times = local(&new_york, "2026-03-07T00:00:00Z", 3);
        assert_eq!(times, ["03-07 02:30 -05:00", "03-08 03:00 -04:00", "03-09 02:30 -04:00"]);
        let beirut = cron("@daily", "Asia/Beirut"); // where the clocks change at midnight
        assert_eq!(local(&beirut, "2026-03-28T12:00:00Z", 2), ["03-29 01:00 +03:00", "03-30 00:00 +03:00"]);
    }

    #[test]
    fn a_fixed_time_that_comes_twice_runs_the_first_time() {
        let berlin = cron("30 2 * * *", "Europe/Berlin");
        let times = local(&berlin, "2026-10-24T12:00:00Z", 2);
        assert_eq!(times, ["10-25 02:30 +02:00", "10-26 02:30 +01:00"]);
        // also for whoever asks in between
        assert_eq!(local(&berlin, "2026-10-25T01:00:00Z", 1), ["10-26 02:30 +01:00"]);
        let new_york = cron("30 1 * * *", "America/New_York");
        let times = local(&new_york, "2026-10-31T12:00:00Z", 2);
        assert_eq!(times, ["11-01 01:30 -04:00", "11-02 01:30 -05:00"]);
    }

    #[test]
    fn what_runs_by_the_minute_runs_all_the_time_whatever_the_clocks_do() {
        for (zone, around) in [
            ("Europe/Berlin", "2026-03-28T23:00:00Z"),
            ("Europe/Berlin", "2026-10-24T22:00:00Z"),
            ("America/New_York", "2026-03-08T05:00:00Z"),
            ("America/New_York", "2026-11-01T03:00:00Z"),
            ("Asia/Ho_Chi_Minh", "2026-03-28T23:00:00Z"),
        ] {
            let times = cron("*/15 * * * *", zone).next_times(at(around), 24).unwrap();
            let quarters = times.windows(2).all(|pair| pair[1].duration_since(pair[0]).as_mins() == 15);
            assert!(quarters, "{zone}: {times:?}");
        }
    }

    #[test]
    fn a_zone_without_summer_time_has_the_same_hour_all_year() {
        let schedule = cron("0 9 * * *", "Asia/Ho_Chi_Minh");
        let times = schedule.next_times(at("2026-01-01T00:00:00Z"), 365).unwrap();
        assert!(times.iter().all(|time| time.to_string().ends_with("T02:00:00Z")));
        assert_eq!(times.last().unwrap().to_string(), "2026-12-31T02:00:00Z");
    }

    #[test]
    fn the_last_day_and_the_third_friday_are_understood() {
        let last = cron("0 9 L * *", "UTC");
        let days = ["01-31 09:00 +00:00", "02-28 09:00 +00:00", "03-31 09:00 +00:00"];
        assert_eq!(local(&last, "2026-01-20T00:00:00Z", 3), days);
        let third = cron("0 9 * * FRI#3", "UTC");
        assert_eq!(local(&third, "2026-01-20T00:00:00Z", 2), ["02-20 09:00 +00:00", "03-20 09:00 +00:00"]);
        assert_eq!(cron("0 0 30 2 *", "UTC").next_after(at("2026-01-01T00:00:00Z")), Ok(None));
    }

    #[test]
    fn an_interval_keeps_its_phase_and_a_moment_comes_once() {
        let words = Words { every_seconds: Some(7200), starts_at: at("2026-03-28T00:30:00Z"), ..once() };
        let every = Schedule::parse(&words).unwrap();
        assert_eq!(every.next_after(at("2020-01-01T00:00:00Z")), Ok(Some(at("2026-03-28T00:30:00Z"))));
        assert_eq!(every.next_after(at("2026-03-28T00:30:00Z")), Ok(Some(at("2026-03-28T02:30:00Z"))));
        assert_eq!(every.next_after(at("2026-03-29T11:11:11.5Z")), Ok(Some(at("2026-03-29T12:30:00Z"))));
        let ends = Words { ends_at: Some(at("2026-03-28T02:30:00Z")), ..words };
        assert_eq!(Schedule::parse(&ends).unwrap().next_after(at("2026-03-28T00:30:00Z")), Ok(None));
        let moment = Words { at: Some(at("2026-05-01T10:00:00Z")), ..once() };
        let moment = Schedule::parse(&moment).unwrap();
        assert_eq!(moment.next_times(at("2026-01-01T00:00:00Z"), 5), Ok(vec![at("2026-05-01T10:00:00Z")]));
        assert_eq!(moment.next_after(at("2026-05-01T10:00:00Z")), Ok(None));
    }

    #[test]
    fn a_tick_at_the_very_start_counts_also_when_the_start_has_a_fraction() {
        let hourly = |starts_at: &str| Words {
            cron: Some("0 * * * *".into()),
            time_zone: Some("UTC".into()),
            starts_at: at(starts_at),
            ..once()
        };
        let next = |words: &Words| {
            Schedule::parse(words)
                .unwrap()
                .next_after(at("2026-01-01T00:00:00Z"))
                .unwrap()
                .unwrap()
                .to_string()
        };
        assert_eq!(next(&hourly("2026-02-01T12:00:00Z")), "2026-02-01T12:00:00Z");
        assert_eq!(next(&hourly("2026-02-01T12:00:00.5Z")), "2026-02-01T13:00:00Z");
    }

    #[test]
    fn what_cannot_be_understood_is_told_with_the_form_it_has() {
        let said = |cron: &str, zone: Option<&str>| {
            let words = Words { cron: Some(cron.into()), time_zone: zone.map(Into::into), ..once() };
            Schedule::parse(&words).unwrap_err()
        };
        for text in ["61 * * * *", "* * * *", "0 0 0 * * *", "", "0 0 * FOO *", "*/0 * * * *", "0 0 32 * *"] {
            let said = said(text, Some("UTC"));
            assert!(said.starts_with(&format!("cron `{text}`: ")) && said.contains("five fields"), "{said}");
        }
        assert!(said("* * * * *", Some("Europe/Berln")).contains("`Europe/Berln` is not known"));
        assert!(said("* * * * *", None).contains("needs a time zone"));
        assert!(Schedule::parse(&once()).unwrap_err().contains("exactly one"));
    }
}
