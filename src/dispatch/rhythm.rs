//! When to stay awake: a trickle wakes by NOTIFY and sleeps again, a stream keeps the dispatcher looking.
//!
//! While it looks by itself, a mark in the database spares producers their NOTIFY (trap 1). The rules are plain
//! arithmetic over instants, so they are tested without a database.

use std::time::{Duration, Instant};

/// Passes in a row that make a stream, when the events of each came on average within `stream_gap` of each other.
const STREAM_PASSES: u32 = 3;

/// The rhythm of one domain.
#[derive(Debug, Clone)]
pub(super) struct Rhythm {
    stream_gap: Duration,
    awake_for: Duration,
    empty_looks_before_sleep: u32,
    last_found: Option<Instant>,
    streak: u32,
    empty_looks: u32,
    /// Until when producers believe that we look by ourselves.
    marked_until: Option<Instant>,
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing more to do: a NOTIFY will wake us.
    Sleep,
    /// Look again after the look interval; set the mark first when told so.
    Look { mark: bool },
    /// Drop the mark, look once more, then sleep.
    Arm,
}

impl Rhythm {
    pub(super) fn new(settings: &crate::config::Dispatch) -> Self {
        Self {
            stream_gap: settings.stream_gap,
            awake_for: settings.awake_for,
            empty_looks_before_sleep: settings.empty_looks_before_sleep,
            last_found: None,
            streak: 0,
            empty_looks: 0,
            marked_until: None,
        }
    }

    /// A look found so many events at `now`.
    ///
    /// On a busy machine a pass may take longer than the gap, and then reads many events: what counts is how close
    /// the events are, not the passes. Those further apart than the mark would last are none the less a trickle.
    pub(super) fn found(&mut self, now: Instant, events: u64) -> Next {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let within = self.stream_gap.saturating_mul(events).min(self.awake_for.max(self.stream_gap));
        let close = self.last_found.is_some_and(|last| now.duration_since(last) <= within);
        self.streak = if close || self.is_awake() { self.streak.saturating_add(1) } else { 0 };
        self.last_found = Some(now);
        self.empty_looks = 0;
        if self.is_awake() || self.streak >= STREAM_PASSES {
            Next::Look { mark: self.renews(now) }
        } else {
            Next::Sleep
        }
    }

    /// A look found nothing at `now`.
    pub(super) fn empty(&mut self, now: Instant) -> Next {
        if !self.is_awake() {
            return Next::Sleep;
        }
        self.empty_looks += 1;
        if self.empty_looks >= self.empty_looks_before_sleep {
            Next::Arm
        } else {
            Next::Look { mark: self.renews(now) }
        }
    }

    /// Whether producers believe, or may believe, that we look by ourselves.
    pub(super) fn is_awake(&self) -> bool {
        self.marked_until.is_some()
    }

    /// The mark was set at `now`.
    pub(super) fn marked(&mut self, now: Instant) {
        self.marked_until = Some(now + self.awake_for);
    }

    /// The mark was dropped.
    pub(super) fn armed(&mut self) {
        self.marked_until = None;
        self.streak = 0;
        self.empty_looks = 0;
    }

    /// The mark is renewed when half of it is used.
    fn renews(&self, now: Instant) -> bool {
        self.marked_until.is_none_or(|until| now + self.awake_for / 2 >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rhythm() -> (Rhythm, Instant) {
        (Rhythm::new(&crate::config::Dispatch::default()), Instant::now())
    }

    #[test]
    fn a_trickle_sleeps_after_each_event() {
        let (mut rhythm, start) = rhythm();
        for n in 0..100 {
            assert_eq!(rhythm.found(start + Duration::from_millis(20 * n), 1), Next::Sleep);
            assert_eq!(rhythm.empty(start + Duration::from_millis(20 * n + 1)), Next::Sleep);
        }
    }

    #[test]
    fn a_stream_keeps_awake_and_renews_the_mark_at_half_time() {
        let (mut rhythm, start) = rhythm();
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..3 {
            assert_eq!(rhythm.found(at(n), 1), Next::Sleep);
        }
        assert_eq!(rhythm.found(at(3), 1), Next::Look { mark: true });
        rhythm.marked(at(3));
        assert_eq!(rhythm.found(at(10), 1), Next::Look { mark: false });
        assert_eq!(rhythm.found(at(504), 1), Next::Look { mark: true });
    }

    #[test]
    fn a_stream_is_known_by_its_events_when_passes_take_long() {
        let (mut rhythm, start) = rhythm();
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..3 {
            assert_eq!(rhythm.found(at(40 * n), 8), Next::Sleep);
        }
        assert_eq!(rhythm.found(at(120), 8), Next::Look { mark: true });
    }

    #[test]
    fn large_batches_far_apart_are_a_trickle() {
        let (mut rhythm, start) = rhythm();
        for n in 0..10 {
            assert_eq!(rhythm.found(start + Duration::from_secs(2 * n), 1000), Next::Sleep);
        }
    }

    #[test]
    fn an_ended_stream_arms_after_so_many_empty_looks() {
        let (mut rhythm, start) = rhythm();
        for n in 0..4 {
            rhythm.found(start + Duration::from_millis(n), 1);
        }
        rhythm.marked(start);
        for _ in 1..50 {
            assert!(matches!(rhythm.empty(start), Next::Look { .. }));
        }
        assert_eq!(rhythm.empty(start), Next::Arm);
        rhythm.armed();
        assert_eq!(rhythm.empty(start), Next::Sleep);
    }
}
