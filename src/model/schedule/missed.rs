//! What becomes of ticks that nobody saw in time.

use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::{NANOSECOND, Schedule, Times};

/// A tick that is no later than this is not missed: a look every minute, as `reveille tick` does it, misses none.
const PUNCTUAL: SignedDuration = SignedDuration::from_secs(60);

/// Most ticks that one statement makes.
const MOST: usize = 1000;

/// Of dropped ticks no more are counted.
const COUNTED: u64 = 1000;

/// How far back the newest tick is looked for, the nearest first: what comes every minute is found in the last hour.
const SPANS: [i64; 4] = [3600, 86_400, 32 * 86_400, 367 * 86_400];

/// The policy for missed ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are dropped.
    Skip,
    /// One job makes up for all of them: the newest, unless a punctual one comes anyway.
    Once,
    /// Each gets its job.
    All,
}

impl FromStr for Missed {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "skip" => Ok(Self::Skip),
            "once" => Ok(Self::Once),
            "all" => Ok(Self::All),
            _ => Err(format!("missed is skip, once or all, not `{word}`")),
        }
    }
}

/// What is to be done about a schedule now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Ticks that become jobs, the oldest first.
    pub ticks: Vec<Timestamp>,
    /// Ticks that are dropped; of very many no more than 1000 are counted.
    pub missed: u64,
    /// Where the schedule stands then; it may be due, too. None: it is over.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// What is due at `now` of a schedule that stands at the tick `position`.
    ///
    /// # Errors
    /// The cron library cannot go on, in words.
    pub fn due(&self, position: Timestamp, now: Timestamp) -> Result<Due, String> {
        if position > now {
            return Ok(Due { ticks: Vec::new(), missed: 0, next: Some(position) });
        }
        let before = |ago| position.max(now.saturating_sub(ago).unwrap_or(position));
        let punctual = before(PUNCTUAL);
        let in_window = self.missed_window.map_or(position, |window| before(window.max(PUNCTUAL)));
        let mut ticks = match self.missed {
            Missed::All => self.ticks(position, in_window, now)?,
            Missed::Skip | Missed::Once => self.ticks(position, punctual, now)?,
        };
        if ticks.is_empty() && self.missed == Missed::Once {
            ticks.extend(self.newest(position, in_window, now)?);
        }
        // a full batch is followed by another
        let done_until = if ticks.len() == MOST { ticks[MOST - 1] } else { now };
        let dropped_until = ticks.first().copied().unwrap_or(now.saturating_add(NANOSECOND).unwrap_or(now));
        Ok(Due { missed: self.count(position, dropped_until)?, next: self.next_after(done_until)?, ticks })
    }

    /// Ticks from `from` to `now`, at most a batch. The position is a tick, even if zones have changed since.
    fn ticks(&self, position: Timestamp, from: Timestamp, now: Timestamp) -> Result<Vec<Timestamp>, String> {
        let mut ticks = Vec::new();
        let mut next = if from == position {
            Some(position)
        } else {
            self.next_after(from.saturating_sub(NANOSECOND).unwrap_or(from))?
        };
        while let Some(tick) = next.filter(|tick| *tick <= now && ticks.len() < MOST) {
            ticks.push(tick);
            next = self.next_after(tick)?;
        }
        Ok(ticks)
    }

    /// The newest tick from `from` to `now`.
    fn newest(
        &self,
        position: Timestamp,
        from: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, String> {
        if let Times::Every(interval) = self.times {
            let newest = super::every_after(interval, self.starts_at, now)
                .and_then(|next| next.checked_sub(interval).ok())
                .filter(|newest| *newest >= from && self.ends_at.is_none_or(|end| *newest < end));
            if newest.is_some() {
                return Ok(newest);
            }
        }
        for span in SPANS {
            let begin = now.saturating_sub(SignedDuration::from_secs(span)).unwrap_or(from).max(from);
            let mut newest = None;
            let mut next = self.next_after(begin.saturating_sub(NANOSECOND).unwrap_or(begin))?;
            while let Some(tick) = next.filter(|tick| *tick <= now) {
                newest = Some(tick);
                next = self.next_after(tick)?;
            }
            if newest.is_some() || begin == from {
                return Ok(newest.or(Some(position).filter(|position| *position >= from)));
            }
        }
        Ok(Some(position).filter(|position| *position >= from))
    }

    /// How many ticks lie from the position to `until`, which is none of them.
    fn count(&self, position: Timestamp, until: Timestamp) -> Result<u64, String> {
        if let Times::Every(interval) = self.times {
            let nanos = until.duration_since(position).as_nanos().max(0);
            return Ok(
                u64::try_from((nanos + interval.as_nanos() - 1) / interval.as_nanos()).unwrap_or(COUNTED)
            );
        }
        let (mut count, mut next) = (0, Some(position));
        while let Some(tick) = next.filter(|tick| *tick < until && count < COUNTED) {
            count += 1;
            next = self.next_after(tick)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Words;
    use super::super::tests::{at, once};
    use super::*;

    /// A schedule that was down from 10:00 to 12:00:30, with a tick each half hour.
    fn outage(missed: &str, window_minutes: Option<i64>) -> Due {
        let words = Words {
            cron: Some("*/30 * * * *".into()),
            time_zone: Some("UTC".into()),
            missed: missed.into(),
            missed_window_seconds: window_minutes.map(|minutes| minutes * 60),
            ..once()
        };
        due(&words, "2026-06-01T12:00:30Z")
    }

    fn due(words: &Words, now: &str) -> Due {
        Schedule::parse(words).unwrap().due(at("2026-06-01T10:00:00Z"), at(now)).unwrap()
    }

    fn hours(due: &Due) -> Vec<String> {
        due.ticks.iter().map(|tick| tick.strftime("%H:%M:%S").to_string()).collect()
    }

    #[test]
    fn a_punctual_tick_is_made_under_every_policy_and_missed_ones_as_it_says() {
        let next = Some(at("2026-06-01T12:30:00Z"));
        let skip = outage("skip", None);
        assert_eq!((hours(&skip), skip.missed, skip.next), (vec!["12:00:00".into()], 4, next));
        let once = outage("once", None);
        assert_eq!(
            (hours(&once), once.missed),
            (vec!["12:00:00".into()], 4),
            "the punctual one makes up for them"
        );
        let all = outage("all", None);
        assert_eq!((hours(&all).len(), all.missed, all.next), (5, 0, next));
        let some = outage("all", Some(60));
        assert_eq!((hours(&some), some.missed), (vec!["11:30:00".into(), "12:00:00".into()], 3));
    }

    #[test]
    fn once_is_the_newest_that_was_missed_within_the_window() {
        let words = |cron: &str, window: Option<i64>| Words {
            cron: Some(cron.into()),
            time_zone: Some("UTC".into()),
            missed_window_seconds: window,
            ..once()
        };
        let now = "2026-06-01T12:20:00Z";
        let made = due(&words("*/30 * * * *", None), now);
        assert_eq!((hours(&made), made.missed), (vec!["12:00:00".into()], 4));
        let dropped = due(&words("*/30 * * * *", Some(600)), now);
        assert_eq!((hours(&dropped), dropped.missed), (vec![], 5));
        assert_eq!(dropped.next, Some(at("2026-06-01T12:30:00Z")));
        // one that comes once a year is found, and so is the position itself when nothing came since
        let yearly = due(&words("0 10 1 6 *", None), "2027-05-31T00:00:00Z");
        assert_eq!((yearly.ticks, yearly.missed), (vec![at("2026-06-01T10:00:00Z")], 0));
    }

    #[test]
    fn an_interval_of_a_second_is_caught_up_with_in_batches_and_counted_without_a_walk() {
        let words = |missed: &str| Words {
            every_seconds: Some(1),
            starts_at: at("2026-06-01T10:00:00Z"),
            missed: missed.into(),
            ..once()
        };
        let year_later = "2027-06-01T10:00:00Z";
        let all = due(&words("all"), year_later);
        assert_eq!((all.ticks.len(), all.missed), (1000, 0));
        assert_eq!(all.next, Some(at("2026-06-01T10:16:40Z")), "which is due, too");
        let once = due(&words("once"), year_later);
        assert_eq!((once.ticks.len(), once.missed), (61, 365 * 86_400 - 60));
        let once =
            Schedule::parse(&Words { ends_at: Some(at("2026-06-02T00:00:00Z")), ..words("once") }).unwrap();
        let made = once.due(at("2026-06-01T10:00:00Z"), at(year_later)).unwrap();
        assert_eq!((made.ticks, made.next), (vec![at("2026-06-01T23:59:59Z")], None));
    }

    #[test]
    fn what_is_not_due_stays_where_it_is() {
        let words = Words { at: Some(at("2026-06-01T10:00:00Z")), ..once() };
        let early = due(&words, "2026-06-01T09:59:59Z");
        assert_eq!(early, Due { ticks: vec![], missed: 0, next: Some(at("2026-06-01T10:00:00Z")) });
        let late = due(&words, "2026-06-01T11:00:00Z");
        assert_eq!(late, Due { ticks: vec![at("2026-06-01T10:00:00Z")], missed: 0, next: None });
    }
}
