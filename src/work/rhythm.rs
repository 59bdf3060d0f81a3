//! When to look for jobs again: at a NOTIFY, at the timer, or by ourselves while jobs stream in.
//!
//! In a trickle the worker stays armed: each job's NOTIFY wakes it, and no statement is sent beside the claim. In a
//! stream it looks every few milliseconds and says so with the awake mark, which spares producers the NOTIFY
//! (trap 1). Before it sleeps it drops the mark, looks once more, and goes on looking while transactions are open
//! that may have read the mark before it fell. Plain arithmetic over instants: tested without a database.

use std::time::Duration;

use tokio::time::Instant;

/// How far ahead the mark is set; what a crash while awake costs sleepers at most.
pub(super) const AWAKE_FOR: Duration = Duration::from_millis(250);
/// How long a worker without a free hand may leave the mark standing.
pub(super) const SATURATED_FOR: Duration = Duration::from_millis(5);
/// Pause between two looks of our own.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Finds closer together than this are one stream.
const STREAM_GAP: Duration = Duration::from_millis(10);
/// So many finds in a row make a stream.
const STREAM_FINDS: u32 = 5;
/// Looks in a row that may find nothing before the worker arms.
const EMPTY_LOOKS: u32 = 25;
/// First pause between looks for transactions that may have missed the fall of the mark.
const FIRST_BLIND_PAUSE: Duration = Duration::from_millis(5);

/// What to do before the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Rest,
    /// Set the awake mark.
    Mark,
    /// Drop the awake mark, then look at once.
    Arm,
}

/// The rhythm of one worker.
#[derive(Debug)]
pub(super) struct Rhythm {
    poll_interval: Duration,
    /// Without a listener the mark is left alone: others may sleep.
    listens: bool,
    next_look: Instant,
    last_found: Option<Instant>,
    finds: u32,
    empty_looks: u32,
    marked_until: Option<Instant>,
    /// The pause before the next look, while transactions may be open that read the mark before it fell.
    blind: Option<Duration>,
}

impl Rhythm {
    pub(super) fn new(poll_interval: Duration, listens: bool, now: Instant) -> Self {
        Self {
            poll_interval,
            listens,
            next_look: now,
            last_found: None,
            finds: 0,
            empty_looks: 0,
            marked_until: None,
            blind: None,
        }
    }

    /// When to look, if nothing wakes us before.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Whether producers may believe that we look by ourselves.
    pub(super) fn is_awake(&self) -> bool {
        self.marked_until.is_some()
    }

    /// A look found jobs; `full`: as many as were asked for, so there may be more.
    pub(super) fn found(&mut self, full: bool, now: Instant) -> Next {
        let close = self.last_found.is_some_and(|last| now.duration_since(last) <= STREAM_GAP);
        self.finds = if close || self.is_awake() { self.finds.saturating_add(1) } else { 1 };
        self.last_found = Some(now);
        self.empty_looks = 0;
        let streams = self.listens && (self.is_awake() || self.finds >= STREAM_FINDS);
        self.next_look = match (full, streams) {
            (true, _) => now,
            (false, true) => now + LOOK_INTERVAL,
            (false, false) => self.rest(now),
        };
        if streams { self.mark(now) } else { Next::Rest }
    }

    /// A look found nothing.
    pub(super) fn empty(&mut self, now: Instant) -> Next {
        if !self.is_awake() {
            self.next_look = self.rest(now);
            return Next::Rest;
        }
        self.empty_looks += 1;
        self.next_look = now + LOOK_INTERVAL;
        if self.empty_looks >= EMPTY_LOOKS { Next::Arm } else { self.mark(now) }
    }

    /// There is nothing more, said who should know.
    pub(super) fn settled(&mut self, now: Instant) {
        self.next_look = self.rest(now);
    }

    /// A look could not be made, or was refused.
    pub(super) fn nothing(&mut self, pause: Duration, now: Instant) -> Next {
        self.next_look = now + pause;
        if self.is_awake() { Next::Arm } else { Next::Rest }
    }

    /// The pause until the timer looks.
    pub(super) fn poll_pause(&self) -> Duration {
        jittered(self.poll_interval)
    }

    /// The mark was set.
    pub(super) fn marked(&mut self, now: Instant) {
        self.marked_until = Some(now + AWAKE_FOR);
    }

    /// The mark was dropped.
    pub(super) fn armed(&mut self, now: Instant) {
        self.marked_until = None;
        self.finds = 0;
        self.empty_looks = 0;
        self.blind = Some(FIRST_BLIND_PAUSE);
        self.next_look = now;
    }

    /// Whether transactions may be open that read the mark before it fell.
    pub(super) fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    /// All of them have ended.
    pub(super) fn sees_again(&mut self) {
        self.blind = None;
    }

    fn mark(&self, now: Instant) -> Next {
        let half_used = self.marked_until.is_none_or(|until| now + AWAKE_FOR / 2 >= until);
        if half_used { Next::Mark } else { Next::Rest }
    }

    /// Sleep until the timer; blind looks come before it, and end where it begins.
    fn rest(&mut self, now: Instant) -> Instant {
        let poll = self.poll_pause();
        let Some(pause) = self.blind else { return now + poll };
        self.blind = Some(pause * 2).filter(|next| *next < self.poll_interval);
        now + pause.min(poll)
    }
}

/// The interval, up to a quarter longer, so that workers do not poll in step (trap 20).
fn jittered(interval: Duration) -> Duration {
    let [first, ..] = *uuid::Uuid::new_v4().as_bytes();
    interval.mul_f64(1.0 + f64::from(first) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    fn rhythm() -> (Rhythm, Instant) {
        let now = Instant::now();
        (Rhythm::new(POLL, true, now), now)
    }

    fn streaming() -> (Rhythm, Instant) {
        let (mut rhythm, now) = rhythm();
        for n in 1..STREAM_FINDS {
            assert_eq!(rhythm.found(false, now), Next::Rest, "find {n}");
        }
        assert_eq!(rhythm.found(false, now), Next::Mark);
        rhythm.marked(now);
        (rhythm, now)
    }

    #[test]
    fn a_trickle_stays_armed_and_waits_for_the_timer_alone() {
        let (mut rhythm, start) = rhythm();
        for n in 0..100 {
            let now = start + Duration::from_millis(20 * n);
            assert_eq!(rhythm.found(false, now), Next::Rest);
            assert!(rhythm.next_look() >= now + POLL && rhythm.next_look() <= now + POLL + POLL / 4);
        }
    }

    #[test]
    fn a_stream_looks_by_itself_and_renews_the_mark_at_half_time() {
        let (mut rhythm, start) = streaming();
        assert_eq!(rhythm.next_look(), start + LOOK_INTERVAL);
        assert_eq!(rhythm.found(false, start + AWAKE_FOR / 4), Next::Rest);
        assert_eq!(rhythm.empty(start + AWAKE_FOR / 2), Next::Mark);
    }

    #[test]
    fn after_so_many_empty_looks_it_arms_and_looks_at_once() {
        let (mut rhythm, now) = streaming();
        for _ in 1..EMPTY_LOOKS {
            assert_eq!(rhythm.empty(now), Next::Rest);
        }
        assert_eq!(rhythm.empty(now), Next::Arm);
        rhythm.armed(now);
        rhythm.sees_again();
        assert_eq!(rhythm.next_look(), now);
        assert_eq!(rhythm.empty(now), Next::Rest);
        assert!(rhythm.next_look() >= now + POLL);
    }

    #[test]
    fn while_blind_it_looks_at_growing_intervals_up_to_the_timer() {
        let (mut rhythm, now) = streaming();
        rhythm.armed(now);
        let mut pauses = Vec::new();
        while rhythm.is_blind() {
            assert_eq!(rhythm.empty(now), Next::Rest);
            pauses.push((rhythm.next_look() - now).as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640]);
        rhythm.empty(now);
        assert!(rhythm.next_look() >= now + POLL);
    }

    #[test]
    fn without_a_listener_the_mark_is_left_alone() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(POLL, false, now);
        for _ in 0..100 {
            assert_eq!(rhythm.found(true, now), Next::Rest);
            assert_eq!(rhythm.next_look(), now);
        }
        assert_eq!(rhythm.found(false, now), Next::Rest);
    }
}
