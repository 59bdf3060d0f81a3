//! Listens for NOTIFY on a connection of its own, and says when it may have missed something.
//!
//! A notification is a wake-up, never a fact: the listener hands its channel to `on_wake` and does nothing else.
//! After every LISTEN, the first too, it says [`Wake::Resync`]: whoever works looks into the tables then (traps
//! 3, 9). A connection that is dead without knowing it (trap 8) is found by a canary: whoever polls the database
//! sends a NOTIFY on the canary's channel along with a statement it sends anyway, and when it does not come back
//! in time the connection is made anew. When nobody polls, the listener sends the canary itself.
//!
//! Settings: `[listener]`; the session is never in a transaction, so it holds back neither the notification queue
//! (trap 4) nor vacuum (trap 10).

mod session;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::session::End;
use super::Server;
use crate::backoff::Backoff;
use crate::config;
use crate::error::Error;
use crate::shutdown::Shutdown;

pub use status::{Canary, ListenerState, ListenerStatus};

/// Sessions in a row that never heard a canary, though they answered, before a pooler is suspected.
const DEAF_SESSIONS: u32 = 2;

/// Pause between tries while a pooler is suspected: polling does the work, and this will not mend itself soon.
const POOLER_PAUSE: Duration = Duration::from_mins(1);

/// What the listener has to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wake {
    /// A notification for all came on this channel.
    Channel(String),
    /// A notification came that names one of those who listen on the channel.
    Named {
        /// The channel.
        channel: String,
        /// Whom it is for.
        name: String,
    },
    /// Notifications may have been missed: look into the tables.
    Resync,
}

/// Something that holds while a session lives, such as a lock: taken and given up on the session that listens.
#[derive(Debug, Clone)]
pub struct Standing {
    /// A statement with a name ($1, text) and whether it shall hold ($2, boolean); its one row tells whether it is so now.
    /// It holds on no session to begin with.
    pub sql: &'static str,
    /// For whom.
    pub name: String,
    /// Whether it shall hold now.
    pub wanted: watch::Receiver<bool>,
}

/// Listens until told to stop.
#[derive(Debug)]
pub struct Listener {
    server: Server,
    settings: config::Listener,
    status: Arc<ListenerStatus>,
    standing: Option<Standing>,
}

/// What is remembered from one session to the next.
struct Outage {
    backoff: Backoff,
    deaf_sessions: u32,
    /// Tries since it last listened; 0 while all is well.
    tries: u32,
}

impl Listener {
    /// `server` must be reached without a transaction pooler between; see [`Server::direct`].
    pub fn new(server: Server, settings: &config::Listener) -> Self {
        let status = Arc::new(ListenerStatus::new(settings.canary_interval, settings.canary_timeout));
        Self { server, settings: settings.clone(), status, standing: None }
    }

    /// Keeps something up on its sessions, as long as it is wanted.
    #[must_use]
    pub fn standing(mut self, standing: Standing) -> Self {
        self.standing = Some(standing);
        self
    }

    /// The counters and the canary, to be shared with metrics, readiness and whoever polls.
    pub fn status(&self) -> Arc<ListenerStatus> {
        Arc::clone(&self.status)
    }

    /// The channel on which the canary comes back; no other process listens to it.
    pub fn canary_channel(&self) -> &str {
        self.status.canary_channel()
    }

    /// Listens to `channels` and the canary's, through every loss of the connection, until the first step of
    /// `shutdown`. `on_wake` is called in line and must return at once.
    pub async fn run(self, channels: Vec<String>, on_wake: impl Fn(Wake) + Send + Sync, shutdown: Shutdown) {
        let (first, cap) = (self.settings.backoff_first, self.settings.backoff_cap);
        let mut outage = Outage { backoff: Backoff::new(first, cap), deaf_sessions: 0, tries: 0 };
        loop {
            let begun = Instant::now();
            let end = session::hold(&self, &channels, &on_wake, &shutdown).await;
            if self.status.session_ended() {
                outage.deaf_sessions = 0;
            }
            let pause = match end {
                End::Stopped => break,
                End::Deaf => self.deaf(&mut outage),
                End::Forbidden(error) => self.poll_only(&error.to_string()),
                End::Lost { error, listened } => {
                    if listened && begun.elapsed() >= cap {
                        outage.backoff.reset();
                    }
                    outage.lost(&error, listened)
                }
            };
            if !shutdown.pause(pause).await {
                break;
            }
            self.status.reconnecting();
        }
        self.status.stopped();
    }

    /// The connection answers, and notifications do not come through it.
    fn deaf(&self, outage: &mut Outage) -> Duration {
        outage.deaf_sessions += 1;
        if outage.deaf_sessions < DEAF_SESSIONS {
            tracing::warn!(at = %self.server.describe(), "the listener's canary did not come back: connecting anew");
            return outage.backoff.next_delay();
        }
        self.poll_only("no notification comes through")
    }

    /// Told once; a canary that comes back takes the suspicion away.
    fn poll_only(&self, why: &str) -> Duration {
        if self.status.suspect_pooler() {
            tracing::warn!(
                at = %self.server.describe(),
                "LISTEN does not work on this connection, as behind a transaction pooler: polling only. \
                 Set [database] listen_url to the server's direct address, or [dispatch] listen = false ({why})",
            );
        }
        POOLER_PAUSE
    }
}

impl Outage {
    /// The connection is gone, or there was none. Said once for each outage.
    fn lost(&mut self, error: &Error, listened: bool) -> Duration {
        if listened {
            self.tries = 0;
        }
        let pause = self.backoff.next_delay();
        if self.tries == 0 {
            tracing::warn!("not listening, polling goes on: {}", error.trying_again());
        } else {
            tracing::debug!(tries = self.tries, "still not listening: {error}");
        }
        self.tries += 1;
        pause
    }
}
