//! The auditor: has every event of a closed window its decision for every consumer that wanted it?
//!
//! Settings: `[maintenance] audit_interval`; in the database `queue.audit.enabled` (true) and `queue.audit.repair_enabled`
//! (false). A round is passes of `fn_dispatch_audit_pass`, each bounded, until nothing that is closed is left; of any
//! number of sidecars one audits at a time. It reads the outbox by time: without an index for that it runs more seldom.
//! A pass may take longer than other statements, so it has a connection of its own; one that took too long is followed
//! by smaller ones.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::alive::Alive;
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;

/// Events of the outbox that a pass looks at, for each domain: at most, and when passes take too long.
const LARGEST_BATCH: i32 = 5000;
const SMALLEST_BATCH: i32 = 100;

/// How many times the statement timeout a pass may take.
const PATIENCE: u32 = 4;

/// The pause after a first round that found nothing closed yet; the next ones are each twice as long.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// After a round it pauses at least this many times as long as the longest of its passes.
const LARGEST_SHARE: u32 = 10;

/// Between two passes of a round.
const PAUSE: Duration = Duration::from_millis(20);

/// Without an index by time it runs this many times more seldom.
const UNINDEXED_FACTOR: u32 = 10;

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Audits dispatch.
#[derive(Debug)]
pub struct Auditor {
    server: Server,
    pool: Pool,
    interval: Duration,
    alive: Alive,
    passes: Counter,
    gaps: Counter,
    /// Events of the next pass.
    batch: AtomicI32,
}

/// What a round found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Audited {
    /// Events that were looked at.
    pub events: u64,
    /// Decisions that there had to be, as far as that is known.
    pub expected: u64,
    /// Of these, how many there are.
    pub found: u64,
    /// And how many there are not.
    pub missing: u64,
    /// Jobs that were made for what was missing, now or before.
    pub repaired: u64,
    /// Pairs of event and consumer that it cannot judge.
    pub unproven: u64,
    /// Domains with something missing.
    pub domains: Vec<String>,
    /// An event type that nobody has registered, so that nothing could be emitted.
    pub missing_type: Option<String>,
    /// Why an event could not be emitted.
    pub emit_error: Option<String>,
}

impl Auditor {
    /// Opens nothing yet.
    pub fn new(server: &Server, settings: &config::Maintenance) -> Result<Self> {
        let server = server.patient(PATIENCE);
        let pool = server.pool("audit", 1, &server.session())?;
        let (passes, gaps) = (Counter::default(), Counter::default());
        let (interval, batch) = (settings.audit_interval, AtomicI32::new(LARGEST_BATCH));
        Ok(Self { server, pool, interval, alive: Alive::default(), passes, gaps, batch })
    }

    /// Whether it turns.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("reveille_audit_passes", "Passes of the audit", self.passes.clone());
        registry.register("reveille_audit_gaps_found", "Missing decisions that it found", self.gaps.clone());
    }

    /// Audits until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut interval = None;
        let mut soon = Some(FIRST_LOOK);
        let mut told = false;
        loop {
            let (mut audited, begun) = (Audited::default(), Instant::now());
            let round = tokio::select! {
                // a pass that is cut off leaves nothing behind
                () = shutdown.requested() => return Ok(()),
                round = self.round(&mut interval, &mut soon, &mut audited) => round,
            };
            tell(&audited, &mut told);
            let pause = match round {
                Ok(pause) => {
                    trouble = None;
                    pause
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    let trouble = trouble.get_or_insert_with(|| Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("the audit waits: {}", error.trying_again());
                    }
                    let pause = trouble.next_try().saturating_duration_since(Instant::now().into_std());
                    pause.max(self.rest_after(&error, begun.elapsed()))
                }
            };
            self.alive.turns(pause);
            if !shutdown.pause(pause).await {
                return Ok(());
            }
        }
    }

    /// A pass that was given up has cost the server all the same; when even the smallest is, that is to be seldom.
    fn rest_after(&self, error: &Error, took: Duration) -> Duration {
        match error.sqlstate() {
            Some("57014") if self.batch.load(Ordering::Relaxed) == SMALLEST_BATCH => took * LARGEST_SHARE,
            Some("57014") => took,
            _ => Duration::ZERO,
        }
    }

    async fn round(
        &self,
        interval: &mut Option<Duration>,
        soon: &mut Option<Duration>,
        audited: &mut Audited,
    ) -> Result<Duration> {
        let pause = match *interval {
            Some(pause) => pause,
            None => *interval.insert(self.affordable_interval().await?),
        };
        let longest = self.passes(audited).await?;
        let pause = match *soon {
            Some(wait) if wait < pause && !self.has_begun().await? => {
                *soon = Some(wait * 2);
                wait
            }
            _ => {
                *soon = None;
                pause
            }
        };
        Ok(pause.max(longest * LARGEST_SHARE))
    }

    /// Whether anything was closed, by a first sweep, so that there is something to tell of.
    async fn has_begun(&self) -> Result<bool> {
        let client = self.server.take(&self.pool).await?;
        let counted = self.server.in_time(1, "looking at the audit", store::audit::counts(&client)).await;
        Ok(!hand_back(client, counted)?.is_empty())
    }

    async fn affordable_interval(&self) -> Result<Duration> {
        self.alive.turns(self.server.limit(1));
        let client = self.server.take(&self.pool).await?;
        let asked = store::dispatch::outbox_is_indexed_by_time(&client);
        let outcome = self.server.in_time(1, "looking at the outbox's indexes", asked).await;
        let factor = if hand_back(client, outcome)? { 1 } else { UNINDEXED_FACTOR };
        Ok(self.interval * factor)
    }

    /// Passes until nothing that is closed is left, or another sidecar audits; counted pass by pass, for who cuts it off.
    pub async fn run_once(&self, audited: &mut Audited) -> Result<()> {
        self.passes(audited).await.map(|_| ())
    }

    /// The same; answers how long the longest pass took.
    async fn passes(&self, audited: &mut Audited) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        loop {
            self.alive.turns(self.server.limit(1));
            let client = self.server.take(&self.pool).await?;
            let begun = Instant::now();
            let pass = store::audit::pass(&client, self.batch.load(Ordering::Relaxed));
            let outcome = self.server.in_time(1, "auditing dispatch", pass).await;
            let outcome = hand_back(client, outcome);
            let took = begun.elapsed();
            self.fit_batch(outcome.as_ref().err().and_then(Error::sqlstate), took);
            longest = longest.max(took);
            let Answer::Done(answer) = outcome? else { return Ok(longest) }; // switched off
            self.passes.inc();
            self.gaps.inc_by(audited.add(&answer));
            if answer["more"] != true {
                return Ok(longest);
            }
            sleep(PAUSE).await;
        }
    }

    /// A pass that was given up is followed by smaller ones, quick ones by larger.
    fn fit_batch(&self, sqlstate: Option<&str>, took: Duration) {
        let batch = self.batch.load(Ordering::Relaxed);
        let next = match sqlstate {
            Some("57014") => (batch / 2).max(SMALLEST_BATCH),
            None if took < self.server.session().statement_timeout / 10 => (batch * 2).min(LARGEST_BATCH),
            _ => batch,
        };
        self.batch.store(next, Ordering::Relaxed);
    }
}

impl Audited {
    /// Adds what a pass answered; how much it found missing.
    fn add(&mut self, answer: &Value) -> u64 {
        let count = |key: &str| answer[key].as_u64().unwrap_or(0);
        let word = |key: &str| answer[key].as_str().map(str::to_owned);
        self.events += count("events");
        self.expected += count("expected");
        self.found += count("found");
        self.missing += count("missing");
        self.repaired += count("repaired");
        self.unproven += count("unproven");
        for domain in answer["domains"].as_object().into_iter().flat_map(|domains| domains.keys()) {
            if !self.domains.contains(domain) {
                self.domains.push(domain.clone());
            }
        }
        self.missing_type = self.missing_type.take().or_else(|| word("untold"));
        self.emit_error = self.emit_error.take().or_else(|| word("alarm_error"));
        count("missing")
    }
}

/// Gaps are said each time; that nobody registered their event, once.
fn tell(audited: &Audited, told: &mut bool) {
    let Audited { missing, repaired, domains, .. } = audited;
    if *missing > 0 {
        tracing::error!(
            audit.missing = missing,
            domains = %domains.join(", "),
            hint = "`reveille health` names the first, `reveille events audit` all of them",
            "the audit found {missing} events without a decision for a consumer that wanted them"
        );
    }
    if *repaired > 0 {
        tracing::warn!(audit.repaired = repaired, "the audit made {repaired} jobs that were missing");
    }
    if let (Some(name), false) = (&audited.missing_type, *told) {
        *told = true;
        tracing::warn!(
            hint = "register it in event_type_registry, domain system, with active = true",
            "gaps are not announced as events: nobody has registered {name}"
        );
    }
    if let Some(error) = &audited.emit_error {
        tracing::warn!("a gap could not be announced as an event: {error}");
    }
}
