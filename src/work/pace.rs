//! How fast jobs run here, and how many it is worth claiming ahead.
//!
//! A job that waits here for a slow one could run elsewhere, so only what will start soon is claimed ahead.

use std::time::Duration;

use tokio::time::Instant;

/// Claim ahead no more than can start within this time: several times what a claim takes, and little for an urgent job to
/// wait.
const AHEAD: Duration = Duration::from_millis(200);
/// When no run has ended for so long, and for so many typical runs, nothing is claimed ahead, and what was is given
/// back.
const STALL: (Duration, u32) = (Duration::from_secs(1), 3);
/// Handlers faster than this run one after the other on one task; waking another would cost more.
const INSTANT: Duration = Duration::from_micros(50);

/// The pace of the last runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// Moving average over some eight runs.
    typical: Option<Duration>,
    last_end: Option<Instant>,
}

impl Pace {
    /// A run took `took` and ended at `now`.
    pub(super) fn note(&mut self, took: Duration, now: Instant) {
        self.typical = Some(self.typical.map_or(took, |typical| (typical * 7 + took) / 8));
        self.last_end = Some(now);
    }

    /// Whether runs are so short that one task does them all.
    pub(super) fn is_instant(&self) -> bool {
        self.typical.is_some_and(|typical| typical < INSTANT)
    }

    /// How many jobs to hold ready, at most `most`, for `concurrency` runners.
    pub(super) fn ahead(&self, concurrency: usize, most: usize, now: Instant) -> usize {
        let (Some(typical), false) = (self.typical, self.has_stalled(now)) else { return 0 };
        let soon = AHEAD.as_nanos() * concurrency as u128 / typical.as_nanos().max(1);
        usize::try_from(soon).unwrap_or(usize::MAX).min(most)
    }

    /// Whether no run has ended for a while.
    pub(super) fn has_stalled(&self, now: Instant) -> bool {
        let patience = STALL.0.max(self.typical.unwrap_or_default() * STALL.1);
        self.last_end.is_none_or(|end| now.saturating_duration_since(end) > patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(took: Duration) -> (Pace, Instant) {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(took, now);
        (pace, now)
    }

    #[test]
    fn nothing_is_claimed_ahead_before_the_pace_is_known_or_after_a_stall() {
        assert_eq!(Pace::default().ahead(4, 100, Instant::now()), 0);
        let (pace, now) = pace(Duration::from_millis(1));
        assert_eq!(pace.ahead(4, 100, now), 100);
        assert_eq!(pace.ahead(4, 100, now + Duration::from_millis(1001)), 0);
    }

    #[test]
    fn slow_jobs_are_not_claimed_ahead() {
        let (pace, now) = pace(Duration::from_millis(100));
        assert_eq!(pace.ahead(4, 100, now), 8);
        let (pace, now) = self::pace(Duration::from_secs(10));
        assert_eq!(pace.ahead(4, 100, now), 0);
    }
}
