//! Delays between tries: exponential with full jitter and a cap, reset after success; and what was said meanwhile.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// An endless source of growing, jittered delays.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    delays: ExponentialBackoff,
}

impl Backoff {
    /// Delays grow from `first` to `cap`, each up to doubled by jitter.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, delays: delays(first, cap) }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.cap).min(self.cap)
    }

    /// Starts again from the first delay, after a healthy period.
    pub fn reset(&mut self) {
        self.delays = delays(self.first, self.cap);
    }
}

/// Something fails and is tried again: since when, what of it has been told, and when the next try is due.
///
/// ```
/// use std::time::Duration;
/// use reveille::backoff::Trouble;
///
/// let mut trouble = Trouble::begin(Duration::from_millis(100), Duration::from_secs(5));
/// assert!(trouble.failed("disk full")); // news: tell it
/// assert!(!trouble.failed("disk full")); // the same again
/// assert!(trouble.failed("standby"));
/// ```
#[derive(Debug)]
pub struct Trouble {
    since: Instant,
    told: Vec<String>,
    backoff: Backoff,
    next_try: Instant,
}

impl Trouble {
    /// It begins now; tries come after delays from `first` to `cap`.
    pub fn begin(first: Duration, cap: Duration) -> Self {
        let now = Instant::now();
        Self { since: now, told: Vec::new(), backoff: Backoff::new(first, cap), next_try: now }
    }

    /// One more try has failed; true when none of this sort has failed before since the trouble began.
    pub fn failed(&mut self, sort: &str) -> bool {
        self.next_try = Instant::now() + self.backoff.next_delay();
        let is_news = !self.told.iter().any(|told| told == sort);
        if is_news {
            self.told.push(sort.to_owned());
        }
        is_news
    }

    /// When to try again.
    pub fn next_try(&self) -> Instant {
        self.next_try
    }

    /// How long it has lasted, in whole seconds, or milliseconds below one.
    pub fn lasted(&self) -> Duration {
        let lasted = self.since.elapsed();
        match lasted.as_secs() {
            0 => Duration::from_millis(lasted.subsec_millis().into()),
            seconds => Duration::from_secs(seconds),
        }
    }
}

fn delays(first: Duration, cap: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(cap)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_again_after_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(80));
        let first = backoff.next_delay();
        assert!((10..=20).contains(&first.as_millis()), "{first:?}");
        let last = (0..20).map(|_| backoff.next_delay()).last();
        assert_eq!(last, Some(Duration::from_millis(80)));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(20));
    }
}
