//! One domain, turn by turn: pass after pass while there is something, awake while it streams, then arm, look once
//! more, and look again while there are transactions that could not see that we fell asleep.
//!
//! A turn is short. Between turns the dispatcher gives the connection to the next domain, so no stream and no
//! backlog of one domain makes another wait.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::{Object, Pool};

use super::dispatcher::Dispatcher;
use super::rhythm::{Next, Rhythm};
use super::stats::DispatchStats;
use super::waker::channel;
use crate::config;
use crate::error::Result;
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::Refusal;
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::wakes::Armed;
use crate::telemetry::Spans;

/// First and longest pause of a chase; they grow with it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After this long a turn ends, though more is there.
const TURN: Duration = Duration::from_millis(100);

/// What a statement ends with that exceeds `statement_timeout`.
const QUERY_CANCELED: &str = "57014";

/// Dispatches one domain. The dispatcher keeps one for each and takes at most one turn of it at a time.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) name: String,
    server: Server,
    pool: Pool,
    settings: config::Dispatch,
    stats: Arc<DispatchStats>,
    spans: Spans,
    shutdown: Shutdown,
    pub(super) rhythm: Rhythm,
    /// Events of a pass: as the settings say, and fewer after one that took the server too long.
    batch_size: u32,
    chase: Option<Chase>,
    /// Since when another session holds the domain, whose snapshot may be older than what woke us.
    busy_since: Option<Instant>,
    /// Counts turns, so that an outdated timer is known.
    pub(super) turns: u64,
}

/// Transactions older than the arming may have read the awake mark before it fell: they commit without a NOTIFY.
#[derive(Debug, Clone, Copy)]
struct Chase {
    armed: Armed,
    since: Instant,
}

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// Everything committed has been read, or another sidecar reads it: a NOTIFY or the timer will tell.
    Rest,
    /// More is there: another turn, when the others have had theirs.
    Again,
    /// Look again after this pause.
    After(Duration),
    /// A gate is closed; the position stays.
    Refused(Refusal),
}

impl Dispatcher {
    /// Makes a span of each pass that read something or failed.
    #[must_use]
    pub fn traced(self, spans: Spans) -> Self {
        Self { spans, ..self }
    }
}

impl Domain {
    /// A domain of this dispatcher, which has not looked yet.
    pub(super) fn new(dispatcher: &Dispatcher, name: &str, shutdown: &Shutdown) -> Self {
        let settings = &dispatcher.settings;
        Self {
            name: name.to_owned(),
            server: dispatcher.server.clone(),
            pool: dispatcher.pool.clone(),
            settings: settings.clone(),
            stats: Arc::clone(&dispatcher.stats),
            spans: dispatcher.spans.clone(),
            shutdown: shutdown.clone(),
            rhythm: Rhythm::new(settings),
            batch_size: settings.batch_size,
            chase: None,
            busy_since: None,
            turns: 0,
        }
    }

    /// Reads what is there, for a short while.
    pub(super) async fn turn(&mut self, found_by: FoundBy) -> Result<Turn> {
        self.turns += 1;
        let client = self.server.take(&self.pool).await?;
        let (server, what) = (self.server.clone(), format!("dispatching {}", self.name));
        let outcome = server.in_time(2, &what, self.turn_with(&client, found_by)).await;
        if let Err(error) = &outcome {
            self.rhythm.armed(); // the mark falls by its own time
            self.chase = None; // an outage ends with a look
            if error.sqlstate() == Some(QUERY_CANCELED) {
                self.batch_size = (self.batch_size / 4).max(1);
            }
        }
        hand_back(client, outcome)
    }

    async fn turn_with(&mut self, client: &Object, found_by: FoundBy) -> Result<Turn> {
        if found_by == FoundBy::Start {
            self.arm(client).await?; // a sidecar that was killed awake leaves its mark behind
        }
        // asked before the look: what is not blind now is seen by it
        let still_blind = match self.chase {
            Some(chase) => store::wakes::is_blind(client, chase.armed).await?,
            None => false,
        };
        let end = Instant::now() + TURN;
        loop {
            let pass = match self.pass(client, found_by).await? {
                Ok(pass) => pass,
                Err(refusal) => {
                    self.rest(client).await?;
                    return Ok(Turn::Refused(refusal));
                }
            };
            if self.shutdown.is_requested() {
                self.rest(client).await?;
                return Ok(Turn::Rest);
            }
            if pass.more {
                let now = Instant::now();
                if let Next::Look { mark: true } = self.rhythm.found(now, pass.events) {
                    self.mark(client, now).await?; // we look again anyway: nobody has to notify
                }
                if now >= end {
                    return Ok(Turn::Again);
                }
                continue;
            }
            return self.after(client, &pass, still_blind).await;
        }
    }

    /// What comes after a pass that read everything there was.
    async fn after(&mut self, client: &Object, pass: &Pass, still_blind: bool) -> Result<Turn> {
        let now = Instant::now();
        self.busy_since = pass.busy.then(|| self.busy_since.unwrap_or(now));
        let next = if pass.events > 0 { self.rhythm.found(now, pass.events) } else { self.rhythm.empty(now) };
        match next {
            Next::Look { mark } => {
                if mark {
                    self.mark(client, now).await?;
                }
                self.chase = None; // awake again: the next arming is later than all of them
                Ok(Turn::After(self.settings.look_interval))
            }
            Next::Arm => {
                self.arm(client).await?;
                Ok(Turn::After(Duration::ZERO)) // the mark has fallen: look once more
            }
            Next::Sleep => Ok(self.sleep(still_blind, now)),
        }
    }

    /// Asleep, unless something may have escaped the last look: then it looks again, ever more seldom. A chase ends
    /// after the poll interval, because the timer sees to it then.
    fn sleep(&mut self, still_blind: bool, now: Instant) -> Turn {
        let poll_interval = self.settings.poll_interval;
        self.chase =
            self.chase.filter(|chase| still_blind && now.duration_since(chase.since) < poll_interval);
        let longest = poll_interval.min(LONGEST_PAUSE).max(FIRST_PAUSE);
        let chasing = self.chase.map(|chase| chase.since);
        match chasing.max(self.busy_since) {
            Some(since) => Turn::After(now.duration_since(since).clamp(FIRST_PAUSE, longest)),
            None => Turn::Rest,
        }
    }

    /// One transaction; counts what it did.
    async fn pass(&mut self, client: &Object, found_by: FoundBy) -> Result<Result<Pass, Refusal>> {
        let (begun, wall) = (Instant::now(), SystemTime::now());
        let pass = store::dispatch::pass(client, &self.name, self.batch_size, found_by).await;
        let pass = pass.inspect_err(|error| {
            self.spans.pass(&self.name, found_by, wall, Err(error.to_string()));
        })?;
        self.batch_size = self.batch_size.saturating_mul(2).min(self.settings.batch_size);
        if let Ok(pass) = &pass
            && pass.events > 0
        {
            self.stats.passed(&self.name, found_by, pass, begun.elapsed());
            self.spans.pass(&self.name, found_by, wall, Ok(pass));
            tracing::debug!(
                domain = %self.name,
                found_by = found_by.as_str(),
                dispatch.events = pass.events,
                dispatch.jobs = pass.jobs,
                "dispatched"
            );
            if pass.errors > 0 {
                tracing::warn!(
                    domain = %self.name,
                    dispatch.errors = pass.errors,
                    "events that a consumer could not digest: see dispatch_error"
                );
            }
        }
        Ok(pass)
    }

    /// Drops the mark, if it was set.
    async fn rest(&mut self, client: &Object) -> Result<()> {
        if self.rhythm.is_awake() { self.arm(client).await } else { Ok(()) }
    }

    /// Says that we look by ourselves from `now` on.
    async fn mark(&mut self, client: &Object, now: Instant) -> Result<()> {
        store::wakes::awake(client, &channel(&self.name), self.settings.awake_for).await?;
        self.rhythm.marked(now);
        self.chase = None; // the next arming is later than all that were blind to this one
        Ok(())
    }

    /// Drops the mark: whoever inserts from now on notifies. Who inserted before is chased.
    async fn arm(&mut self, client: &Object) -> Result<()> {
        let armed = store::wakes::arm(client, &channel(&self.name)).await?;
        self.rhythm.armed();
        self.chase = Some(Chase { armed, since: Instant::now() });
        Ok(())
    }
}
