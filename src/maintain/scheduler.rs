//! The scheduler: makes the jobs of schedules when their ticks come.
//!
//! Settings: `[maintenance] schedule_interval`. It sleeps until the next tick that it knows, until `queue_control` says that
//! something has changed, or until the interval is over. A look is one statement, a schedule that is due one more. Any
//! number of sidecars may do this: the database makes each tick once (`fn_schedule_tick`). The clock is the database's.

mod bell;
mod words;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::alive::Alive;
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::model::schedule::{Due, Schedule};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store::schedules::{self, Look, Turn};

pub use bell::Bell;
use words::{Told, tell, tell_moved};

/// Schedules a look.
const BATCH: i32 = 1000;

/// So many in a row that others were faster with: look again what is left.
const OVERTAKEN: u32 = 8;

/// Until it is looked again at a schedule that somebody else was faster with, or has locked.
const OVERTAKEN_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Makes jobs at their times.
#[derive(Debug)]
pub struct Scheduler {
    server: Server,
    pool: Pool,
    interval: Duration,
    alive: Alive,
    bell: Bell,
    lot: RandomState,
    jobs: Counter,
    missed: Counter,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Scheduled {
    /// Jobs that ticks became.
    pub jobs: u64,
    /// Ticks that were dropped, as their schedules say about missed ones.
    pub missed: u64,
    /// Schedules that are due, and held by a gate or a pause.
    pub held: u64,
    /// Schedules that nobody can go on with; `reveille schedules list` says why.
    pub in_trouble: u64,
}

/// How a turn ended.
enum Ended {
    Moved,
    /// Somebody else was faster, or is about to be; or it is not due any more, or held since the look.
    Left,
    InTrouble(String),
}

impl Scheduler {
    /// A scheduler that takes its connection from `pool`.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        Self {
            server,
            pool,
            interval: settings.schedule_interval,
            alive: Alive::default(),
            bell: Bell::default(),
            lot: RandomState::new(),
            jobs: Counter::default(),
            missed: Counter::default(),
        }
    }

    /// Whether it turns.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// What wakes it.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("reveille_schedule_jobs", "Jobs made by schedules", self.jobs.clone());
        registry.register("reveille_schedule_missed", "Ticks of schedules dropped", self.missed.clone());
    }

    /// Makes jobs at their times until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut told = Told::new();
        loop {
            let mut scheduled = Scheduled::default();
            let round = tokio::select! {
                // a statement that is cut off leaves nothing behind
                () = shutdown.requested() => return Ok(()),
                round = self.round(None, &mut scheduled, &mut told) => round,
            };
            let pause = match round {
                Ok(pause) => {
                    trouble = None;
                    pause.min(self.interval)
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    let trouble = trouble.get_or_insert_with(|| Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("schedules wait: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now().into_std())
                }
            };
            self.alive.turns(pause);
            tokio::select! {
                () = self.bell.rings() => {}
                goes_on = shutdown.pause(pause) => if !goes_on { return Ok(()) },
            }
        }
    }

    /// One round: everything that is due, batch by batch; counted as it goes, for who cuts it off.
    pub async fn run_once(&self, scheduled: &mut Scheduled) -> Result<()> {
        self.round(None, scheduled, &mut Told::new()).await.map(drop)
    }

    /// The same at another time than the database's clock shows, for tests: how long until the next tick.
    pub async fn run_at(&self, now: Timestamp, scheduled: &mut Scheduled) -> Result<Duration> {
        self.round(Some(now), scheduled, &mut Told::new()).await
    }

    /// How long there is nothing to do.
    async fn round(&self, at: Option<Timestamp>, sum: &mut Scheduled, told: &mut Told) -> Result<Duration> {
        loop {
            let mut look = self.look(at).await?;
            spread(&mut look.schedules, &self.lot);
            sum.held = look.held;
            let mut in_trouble = Told::new();
            let (mut moved, mut left, mut in_vain) = (false, false, 0);
            for turn in &look.schedules {
                let ended = self.turn(turn, at, look.now, sum).await?;
                in_vain = if matches!(ended, Ended::Left) { in_vain + 1 } else { 0 };
                match ended {
                    Ended::Moved => moved = true,
                    Ended::Left => left = true,
                    Ended::InTrouble(why) => {
                        tell(turn, &why, told);
                        in_trouble.insert(turn.schedule_key.clone(), why);
                    }
                }
                if moved && in_vain == OVERTAKEN {
                    break;
                }
            }
            if moved {
                told.extend(in_trouble);
            } else {
                sum.in_trouble = u64::try_from(in_trouble.len()).unwrap_or(u64::MAX);
                *told = in_trouble;
                return Ok(pause(&look, left));
            }
        }
    }

    async fn look(&self, at: Option<Timestamp>) -> Result<Look> {
        self.alive.turns(self.server.limit(1));
        let client = self.server.take(&self.pool).await?;
        let outcome = self.server.in_time(1, "reading schedules", schedules::due(&client, BATCH, at)).await;
        hand_back(client, outcome)
    }

    async fn turn(
        &self,
        turn: &Turn,
        at: Option<Timestamp>,
        now: Timestamp,
        sum: &mut Scheduled,
    ) -> Result<Ended> {
        self.alive.turns(self.server.limit(2));
        let due = match due(turn, now) {
            Ok(due) => due,
            Err(why) => return self.in_trouble(turn, why).await,
        };
        let client = self.server.take(&self.pool).await?;
        let tick = schedules::tick(&client, turn, &due, at);
        let outcome = self.server.in_time(1, "making the jobs of a schedule", tick).await;
        let answer = match hand_back(client, outcome) {
            Ok(answer) => answer,
            // of this schedule alone; the others go on
            Err(error) if is_its_own(&error) => return self.in_trouble(turn, error.to_string()).await,
            Err(error) => return Err(error),
        };
        Ok(match answer {
            Answer::Done(answer) if answer["moved"] == true => {
                let made = answer["made"].as_u64().unwrap_or(0);
                (sum.jobs, sum.missed) = (sum.jobs + made, sum.missed + due.missed);
                self.jobs.inc_by(made);
                self.missed.inc_by(due.missed);
                tell_moved(turn, &due, made);
                Ended::Moved
            }
            Answer::Done(_) | Answer::Refused(_) => Ended::Left,
        })
    }

    /// Notes it in the row, where it is not noted yet.
    async fn in_trouble(&self, turn: &Turn, why: String) -> Result<Ended> {
        if turn.trouble.as_deref() != Some(why.as_str()) {
            let client = self.server.take(&self.pool).await?;
            let note = schedules::trouble(&client, turn, &why);
            let outcome = self.server.in_time(1, "noting trouble with a schedule", note).await;
            hand_back(client, outcome)?;
        }
        Ok(Ended::InTrouble(why))
    }
}

/// Whether an error is of one schedule, not of the server or of our rights.
fn is_its_own(error: &Error) -> bool {
    error.kind() == Kind::Database
}

/// What is due of a schedule; of one that has no place yet, its first tick.
fn due(turn: &Turn, now: Timestamp) -> Result<Due, String> {
    let schedule = Schedule::parse(&turn.words)?;
    if turn.placed {
        return schedule.due(turn.expected, now);
    }
    Ok(Due { ticks: Vec::new(), missed: 0, next: schedule.next_after(turn.expected)? })
}

/// Each sidecar begins elsewhere: of many schedules that are due at once none waits for another sidecar's row.
fn spread(schedules: &mut [Turn], lot: &RandomState) {
    let begin = usize::try_from(lot.hash_one(())).unwrap_or(0).checked_rem(schedules.len());
    schedules.rotate_left(begin.unwrap_or(0));
}

/// Until the next tick, by the database's clock.
fn pause(look: &Look, left: bool) -> Duration {
    let until = |next: Timestamp| Duration::try_from(next.duration_since(look.now)).unwrap_or_default();
    // a timer that rings early would look in vain
    let next = look.next.map_or(Duration::MAX, |next| until(next) + Duration::from_millis(1));
    if left { next.min(OVERTAKEN_PAUSE) } else { next }
}
