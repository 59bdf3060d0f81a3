//! Whether a loop still turns: it says when it will be back, and whoever beats for it asks whether that has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a busy machine may add to any wait.
const SLACK: Duration = Duration::from_secs(30);

/// When a loop will have turned again at the latest. All clones share it.
#[derive(Debug, Clone)]
pub struct Alive {
    begun: Instant,
    /// Milliseconds since `begun`.
    until: Arc<AtomicU64>,
}

impl Alive {
    /// Of a loop that has not begun yet and will within this time.
    pub fn new(within: Duration) -> Self {
        Self { begun: Instant::now(), until: Arc::new(AtomicU64::new(millis(within))) }
    }

    /// The loop turns now; it does so again within `next`, and what a busy machine adds.
    pub fn turns(&self, next: Duration) {
        let until = self.begun.elapsed().saturating_add(next).saturating_add(SLACK);
        self.until.store(millis(until), Ordering::Relaxed);
    }

    /// Whether the loop is not overdue.
    pub fn is_alive(&self) -> bool {
        millis(self.begun.elapsed()) < self.until.load(Ordering::Relaxed)
    }
}

/// Overdue until the loop turns for the first time.
impl Default for Alive {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_alive_until_it_is_overdue_and_again_when_it_turns() {
        let alive = Alive::default();
        let seen_elsewhere = alive.clone();
        assert!(!seen_elsewhere.is_alive(), "it has not turned in time");
        alive.turns(Duration::ZERO);
        assert!(seen_elsewhere.is_alive(), "a busy machine is no hang");
        alive.turns(Duration::MAX);
        assert!(seen_elsewhere.is_alive());
        let before = Instant::now().checked_sub(SLACK).unwrap();
        let overdue = Alive { begun: before, ..Alive::new(SLACK) };
        assert!(!overdue.is_alive());
    }
}
