//! Claims jobs as far as there is room, and decides when to look again.

mod rest;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::name::{self, is_fatal};
use super::rhythm::{AWAKE_FOR, Next, Rhythm, SATURATED_FOR};
use super::shared::Shared;
use super::stats;
use super::waker::Waker;
use crate::backoff::Backoff;
use crate::error::Result;
use crate::model::refusal::{Refusal, remedy};
use crate::postgres::listener::{Canary, ListenerStatus};
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::claims::Claim;
use crate::store::wakes::Armed;

/// Claims for one worker.
pub(super) struct Claimer {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    listener: Option<Arc<ListenerStatus>>,
    channel: String,
    rhythm: Rhythm,
    /// It was named, and does not know yet that nothing of this is left for others.
    owes: bool,
    /// When the mark fell last.
    armed: Option<Armed>,
    backoff: Backoff,
    /// The reason of the last refusal, while it lasts.
    refused: Option<String>,
}

/// What one look gave.
enum Look {
    /// Jobs; there may be more that only others may take.
    Found { jobs: usize, others_wait: bool },
    /// Nobody has anything for us.
    Empty,
    /// A gate or a rule said no.
    Refused(String),
}

impl Claimer {
    pub(super) fn new(shared: Arc<Shared>, waker: Arc<Waker>, listener: Option<Arc<ListenerStatus>>) -> Self {
        let rhythm = Rhythm::new(shared.settings.poll_interval, listener.is_some(), Instant::now());
        let channel = shared.settings.kind.wake_channel();
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        Self { shared, waker, listener, channel, rhythm, owes: false, armed: None, backoff, refused: None }
    }

    /// Claims until told to stop; ends with an error when trying again cannot help.
    pub(super) async fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        let mut woken = false;
        while !shutdown.is_requested() {
            if self.shared.taken_over.load(Ordering::Relaxed) {
                return Err(name::taken_over(&self.shared));
            }
            if self.owes && !self.shared.board.has_free_hand() {
                self.fill_up().await;
            }
            let room = self.shared.board.room();
            if room == 0 {
                self.wait_for_room(shutdown).await;
                continue;
            }
            if woken || self.owes || self.rhythm.next_look() <= Instant::now() {
                let next = match self.step(room).await {
                    Ok(next) => next,
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) => {
                        self.shared.outage.failed(&self.shared.stats, &error);
                        self.rhythm.nothing(self.backoff.next_delay(), Instant::now());
                        Next::Rest
                    }
                };
                self.prepare(next).await;
            }
            let rests = self.rest().await;
            woken = tokio::select! {
                biased;
                () = shutdown.requested() => false,
                () = self.waker.named() => { self.owes = true; false }
                () = self.waker.woken() => true,
                () = self.shared.board.changed(), if !rests => false,
                () = tokio::time::sleep_until(self.rhythm.next_look()) => false,
            }
        }
        if self.rhythm.is_awake() {
            self.prepare(Next::Arm).await;
        }
        self.retire().await;
        Ok(())
    }

    /// One look, and what it means for the next one. Who was named and has found all that it may take, sees to it that
    /// others look: it may have been named for something else, and of two names that come at once it hears one.
    async fn step(&mut self, room: usize) -> Result<Next> {
        let look = self.look(room).await?;
        let is_full = matches!(look, Look::Found { jobs, .. } if jobs >= room);
        if self.owes && !is_full {
            if !matches!(look, Look::Found { others_wait: false, .. }) {
                self.pass_on(true).await?;
            }
            self.owes = false;
        }
        match look {
            Look::Refused(reason) => self.refused(reason).await,
            look => Ok(self.looked(&look, room)),
        }
    }

    /// Claims everything that is ready and waits until it is done; a refusal ends it.
    pub(super) async fn run_once(&mut self, shutdown: &Shutdown) -> Result<Result<(), Refusal>> {
        while !shutdown.is_requested() {
            let room = self.shared.board.room();
            if room > 0 {
                match self.look(room).await? {
                    Look::Found { .. } => continue,
                    Look::Empty if self.shared.board.held() == 0 => break,
                    Look::Empty => {}
                    Look::Refused(reason) => return Ok(Err(refusal(reason))),
                }
            }
            tokio::select! {
                () = shutdown.requested() => {}
                () = self.shared.board.changed() => {}
            }
        }
        Ok(Ok(()))
    }

    /// All hands are busy. The mark must not stand for long then: somebody else may have a hand free.
    async fn wait_for_room(&mut self, shutdown: &Shutdown) {
        self.rest().await;
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.shared.board.changed() => {}
            () = self.waker.named() => self.fill_up().await,
            () = tokio::time::sleep(SATURATED_FOR), if self.rhythm.is_awake() => {
                self.prepare(Next::Arm).await;
                self.owes = true; // of what was committed under the mark, nobody was told
            }
        }
    }

    /// One claim.
    async fn look(&mut self, room: usize) -> Result<Look> {
        let shared = &self.shared;
        let client = shared.server.take(&shared.control).await?;
        if let Some(armed) = self.armed.filter(|_| self.rhythm.is_blind()) {
            match shared
                .server
                .in_time(1, "looking at open transactions", store::wakes::is_blind(&client, armed))
                .await
            {
                Ok(true) => {}
                Ok(false) => self.rhythm.sees_again(),
                Err(error) => return hand_back(client, Err(error)),
            }
        }
        if let Err(error) = shared.release_unknown(&client).await {
            return hand_back(client, Err(error));
        }
        let canary = self.listener.as_ref().and_then(|listener| listener.canary_due());
        let token = canary.as_ref().map(Canary::token);
        let kinds = shared.kinds.names();
        let claim = Claim {
            executor_name: &shared.beater.name,
            instance: Some(&shared.beater.instance),
            limit: room,
            lease: shared.lease(),
            job_kinds: Some(&kinds),
            canary: canary.as_ref().map(Canary::channel).zip(token.as_deref()),
        };
        let begun = Instant::now();
        shared.becomes_unsure();
        let outcome = shared.server.in_time(1, "claiming jobs", store::claims::claim(&client, &claim)).await;
        let claimed = hand_back(client, outcome)?;
        if let (Some(listener), Some(canary)) = (&self.listener, &canary) {
            listener.canary_sent(canary);
        }
        shared.outage.passed();
        self.backoff.reset();
        if let Some(reason) = claimed.refused {
            shared.is_sure();
            return Ok(Look::Refused(reason));
        }
        stats::add(&shared.stats.claims, 1);
        let jobs = claimed.jobs.len() + claimed.unreadable.len();
        let others_wait = claimed.others_wait;
        shared.board.add(claimed, begun);
        shared.is_sure();
        Ok(if jobs > 0 { Look::Found { jobs, others_wait } } else { Look::Empty })
    }

    fn looked(&mut self, look: &Look, room: usize) -> Next {
        if let Some(reason) = self.refused.take() {
            tracing::info!(executor = %self.shared.beater.name, "claiming again, no longer refused: {reason}");
        }
        let now = Instant::now();
        if let Look::Found { jobs, .. } = look {
            return self.rhythm.found(*jobs >= room, now);
        }
        stats::add(&self.shared.stats.empty_claims, 1);
        self.rhythm.empty(now)
    }

    /// A refusal is a state: it is said once, and what we can mend ourselves is mended.
    async fn refused(&mut self, reason: String) -> Result<Next> {
        if reason == "not_owner" {
            return Err(refusal(reason).into_error("claiming jobs"));
        }
        if reason == "executor_alive" {
            return Err(name::taken_over(&self.shared));
        }
        let mut pause = self.rhythm.poll_pause();
        if self.refused.as_ref() != Some(&reason) {
            let hint = remedy(&reason).unwrap_or_default();
            tracing::warn!(executor = %self.shared.beater.name, hint, "not claiming: {reason}");
            match reason.as_str() {
                "executor_not_registered" => name::register_again(&self.shared).await?,
                "executor_silent" => name::beat(&self.shared).await?,
                _ => {}
            }
            if matches!(reason.as_str(), "executor_not_registered" | "executor_silent") {
                pause = Duration::ZERO;
            }
            self.refused = Some(reason);
        }
        Ok(self.rhythm.nothing(pause, Instant::now()))
    }

    /// Sets or drops the mark. Should that fail, the mark runs out by itself.
    async fn prepare(&mut self, next: Next) {
        let outcome = match next {
            Next::Rest => return,
            Next::Mark => self.mark().await,
            Next::Arm => self.arm().await,
        };
        if let Err(error) = outcome {
            self.rhythm.armed(Instant::now());
            self.shared.outage.failed(&self.shared.stats, &error);
        }
    }

    async fn mark(&mut self) -> Result<()> {
        let now = Instant::now();
        let client = self.shared.server.take(&self.shared.control).await?;
        let awake = store::wakes::awake(&client, &self.channel, AWAKE_FOR);
        let outcome = self.shared.server.in_time(1, "setting the awake mark", awake).await;
        hand_back(client, outcome)?;
        self.rhythm.marked(now);
        Ok(())
    }

    async fn arm(&mut self) -> Result<()> {
        let client = self.shared.server.take(&self.shared.control).await?;
        let arm = store::wakes::arm(&client, &self.channel);
        let outcome = self.shared.server.in_time(1, "dropping the awake mark", arm).await;
        self.armed = Some(hand_back(client, outcome)?);
        self.rhythm.armed(Instant::now());
        Ok(())
    }
}

fn refusal(reason: String) -> Refusal {
    let answer = serde_json::json!({ "refused": true, "reason": reason });
    Refusal { reason, answer }
}
