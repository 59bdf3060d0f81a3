//! Delays between tries: exponential with full jitter and a cap, reset after success.

use std::time::Duration;

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
