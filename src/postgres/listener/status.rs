//! What others may know of the listener, and the canary's bookkeeping.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;
use uuid::Uuid;

/// How the listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerState {
    /// No connection; it is trying. Polling does the work.
    Connecting,
    /// LISTEN is active.
    Listening,
    /// Connections answer but notifications do not come through: a pooler, most likely. Polling does the work.
    PoolerSuspected,
    /// It was told to stop.
    Stopped,
}

impl ListenerState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connecting, Self::Listening, Self::PoolerSuspected, Self::Stopped];

    /// The state as a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Listening => "listening",
            Self::PoolerSuspected => "pooler_suspected",
            Self::Stopped => "stopped",
        }
    }
}

/// A NOTIFY to be sent: `pg_notify(channel, token)`, along with any statement on any other connection.
#[derive(Debug, Clone)]
pub struct Canary {
    channel: String,
    number: u64,
}

impl Canary {
    /// Where to send it.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// What to send: one short token.
    pub fn token(&self) -> String {
        self.number.to_string()
    }
}

/// Shared by the listener, whoever polls, metrics and readiness.
#[derive(Debug)]
pub struct ListenerStatus {
    state: AtomicU8,
    reconnects: AtomicU64,
    notifications: AtomicU64,
    canaries_lost: AtomicU64,
    /// 0: none has come back yet.
    round_trip_micros: AtomicU64,
    channel: String,
    interval: Duration,
    timeout: Duration,
    canaries: Mutex<Canaries>,
    changed: Notify,
}

#[derive(Debug)]
struct Canaries {
    /// LISTEN is active on a connection.
    active: bool,
    /// A canary of somebody else came back on this connection.
    heard: bool,
    /// The number of the last one drawn, and when.
    last: u64,
    drawn_at: Option<Instant>,
    /// Drawn by the listener itself.
    own: Option<u64>,
    /// When somebody last drew one, or the session began.
    quiet_since: Instant,
    /// Sent, not back yet: its number and when patience ends.
    awaited: Option<(u64, Instant)>,
    returned: u64,
}

impl ListenerStatus {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self {
            state: AtomicU8::new(0),
            reconnects: AtomicU64::new(0),
            notifications: AtomicU64::new(0),
            canaries_lost: AtomicU64::new(0),
            round_trip_micros: AtomicU64::new(0),
            channel: format!("reveille_canary_{}", Uuid::new_v4().simple()),
            interval,
            timeout,
            canaries: Mutex::new(Canaries {
                active: false,
                heard: false,
                last: 0,
                drawn_at: None,
                own: None,
                quiet_since: Instant::now(),
                awaited: None,
                returned: 0,
            }),
            changed: Notify::new(),
        }
    }

    /// How it stands now.
    pub fn state(&self) -> ListenerState {
        let state = usize::from(self.state.load(Ordering::Acquire));
        ListenerState::ALL.get(state).copied().unwrap_or(ListenerState::Connecting)
    }

    /// How often it tried to connect anew after the first time.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Notifications that came, canaries not counted.
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::Relaxed)
    }

    /// Canaries that did not come back in time.
    pub fn canaries_lost(&self) -> u64 {
        self.canaries_lost.load(Ordering::Relaxed)
    }

    /// How long the last canary took, from [`Self::canary_due`] to its return.
    pub fn canary_round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// The channel on which the canary comes back.
    pub fn canary_channel(&self) -> &str {
        &self.channel
    }

    /// A canary to send now, once every `canary_interval` while LISTEN is active; for whoever polls.
    ///
    /// Send it with a statement that commits, then call [`Self::canary_sent`]. If the statement fails, do nothing.
    pub fn canary_due(&self) -> Option<Canary> {
        let mut canaries = self.lock();
        let due = canaries.drawn_at.is_none_or(|drawn| drawn.elapsed() >= self.interval);
        (canaries.active && due).then(|| self.draw(&mut canaries))
    }

    /// `canary` was committed: from now on its return is awaited.
    pub fn canary_sent(&self, canary: &Canary) {
        let mut canaries = self.lock();
        // the oldest one counts: later ones must not put off its deadline
        if canaries.active && canaries.awaited.is_none() && canaries.returned < canary.number {
            canaries.awaited = Some((canary.number, Instant::now() + self.timeout));
            drop(canaries);
            self.changed.notify_waiters();
        }
    }

    pub(super) fn canary_timeout(&self) -> Duration {
        self.timeout
    }

    /// Ends when a canary is sent after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// When the awaited canary is late.
    pub(super) fn awaited(&self) -> Option<Instant> {
        self.lock().awaited.map(|(_, deadline)| deadline)
    }

    /// When the listener has to send one itself, because nobody else does.
    pub(super) fn own_canary_at(&self) -> Instant {
        self.lock().quiet_since + self.interval + self.interval / 2
    }

    /// A canary of the listener's own; none if somebody drew one meanwhile.
    pub(super) fn own_canary(&self) -> Option<Canary> {
        let quiet_until = self.own_canary_at();
        let mut canaries = self.lock();
        (quiet_until <= Instant::now()).then(|| {
            let canary = self.draw(&mut canaries);
            canaries.own = Some(canary.number);
            canary
        })
    }

    fn draw(&self, canaries: &mut Canaries) -> Canary {
        let now = Instant::now();
        canaries.last += 1;
        canaries.drawn_at = Some(now);
        canaries.quiet_since = now;
        Canary { channel: self.channel.clone(), number: canaries.last }
    }

    /// The canary with this token came back.
    pub(super) fn canary_returned(&self, token: &str) {
        let mut canaries = self.lock();
        let Ok(number) = token.parse::<u64>() else { return };
        canaries.returned = canaries.returned.max(number);
        if canaries.awaited.is_some_and(|(awaited, _)| awaited <= number) {
            canaries.awaited = None;
        }
        if canaries.own != Some(number) {
            canaries.heard = true;
            self.set(ListenerState::Listening);
        }
        if let (true, Some(drawn)) = (canaries.last == number, canaries.drawn_at) {
            let micros = u64::try_from(drawn.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.round_trip_micros.store(micros.max(1), Ordering::Relaxed);
        }
    }

    pub(super) fn notified(&self) {
        self.notifications.fetch_add(1, Ordering::Relaxed);
    }

    /// LISTEN is active; the next to poll proves it with a canary. Says how the listener stands now: a suspicion
    /// is only lifted by a canary that comes back.
    pub(super) fn session_began(&self) -> ListenerState {
        let mut canaries = self.lock();
        canaries.active = true;
        canaries.heard = false;
        canaries.drawn_at = None;
        canaries.quiet_since = Instant::now();
        if self.state() == ListenerState::Connecting {
            self.set(ListenerState::Listening);
        }
        self.state()
    }

    /// Whether the session had heard a canary that somebody else had sent: notifications do come through.
    pub(super) fn session_ended(&self) -> bool {
        let mut canaries = self.lock();
        canaries.active = false;
        if canaries.awaited.take().is_some() {
            self.canaries_lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.state() == ListenerState::Listening {
            self.set(ListenerState::Connecting);
        }
        std::mem::take(&mut canaries.heard)
    }

    /// True when it was not suspected before.
    pub(super) fn suspect_pooler(&self) -> bool {
        let news = self.state() != ListenerState::PoolerSuspected;
        self.set(ListenerState::PoolerSuspected);
        news
    }

    pub(super) fn reconnecting(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) {
        self.set(ListenerState::Stopped);
    }

    fn set(&self, state: ListenerState) {
        let number = ListenerState::ALL.iter().position(|one| *one == state).unwrap_or_default();
        self.state.store(u8::try_from(number).unwrap_or_default(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Canaries> {
        self.canaries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
