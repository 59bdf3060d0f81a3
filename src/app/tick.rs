//! `tick`: everything once, within one time limit, for operators who allow no daemon.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::look;
use crate::config::Settings;
use crate::dispatch::{Dispatcher, Once, Sweeper, Waker};
use crate::error::{Error, Kind, Result};
use crate::maintain::{
    Archived, Archiver, Audited, Auditor, Housekeeper, Pruned, Reaped, Reaper, Scheduled, Scheduler, Silences,
};
use crate::model::pass::Pass;
use crate::model::refusal::Refusal;
use crate::postgres::Server;
use crate::store::backlog::Unclaimed;

/// What one `tick` did.
#[derive(Debug, Default, Serialize)]
pub struct Tick {
    /// Events without an arrival that the sweep repaired.
    pub swept: u64,
    /// What was dispatched.
    #[serde(flatten)]
    pub pass: Pass,
    /// What schedules made.
    pub scheduled: Scheduled,
    /// What was done about leases that had ended unreported.
    pub reaped: Reaped,
    /// What left for the archive.
    pub archived: Archived,
    /// What the audit found.
    pub audited: Audited,
    /// Who does not beat any more.
    pub silences: Silences,
    /// What has waited for a minute, and no live executor may claim.
    pub unclaimed: Vec<Unclaimed>,
    /// Domains that were left alone, because somebody has paused them.
    pub paused: Vec<String>,
    /// What was pruned.
    pub pruned: Pruned,
    /// What the time limit cut short: dispatch, sweep, schedule, reap, look, backlog, archive, audit, prune. The next tick goes on there.
    pub left: Vec<&'static str>,
    /// A gate is closed; nothing more was tried.
    #[serde(skip)]
    pub refusal: Option<Refusal>,
    /// What failed; a part that fails does not stop the others, unless the server is gone.
    #[serde(skip)]
    pub failed: Option<Error>,
}

/// One pass of everything: dispatch, sweep, dispatch of what the sweep found, schedules, reap, look for silences and for unclaimed
/// backlog, archive, audit, prune. Ends within `limit`.
///
/// # Errors
/// Nothing could be begun.
pub async fn tick(settings: &Settings, limit: Duration) -> Result<Tick> {
    let end = Instant::now() + limit;
    let server = Server::from_settings(&settings.database)?;
    let pool = server.pool("tick", 1, &server.session())?;
    let domains =
        timeout_at(end, look(settings, &server, &pool)).await.map_err(|_| silent(&server, limit))??;
    let waker = Arc::new(Waker::default());
    let sweeper = Sweeper::new(&server, &settings.sweep, Arc::clone(&waker))?;
    let connections = settings.database.pool_size;
    let dispatcher = Dispatcher::new(server.clone(), &settings.dispatch, connections, domains, waker, None)?;
    let reaper = Reaper::new(server.clone(), pool.clone(), &settings.maintenance);
    let scheduler = Scheduler::new(server.clone(), pool.clone(), &settings.maintenance);
    let archiver = Archiver::new(server.clone(), pool.clone(), &settings.maintenance);
    let auditor = Auditor::new(&server, &settings.maintenance)?;
    let housekeeper = Housekeeper::new(server, pool, &settings.maintenance);
    let mut tick = Tick::default();
    // dispatch first: a sweep that takes long, or fails, must not keep back what is known already
    if !tick.dispatched(dispatcher.run_once(end).await) {
        return Ok(tick);
    }
    let swept = tick.part("sweep", timeout_at(end, sweeper.run_once()).await);
    tick.swept = swept.map_or(0, |swept| swept.missing);
    if tick.swept > 0 && !tick.dispatched(dispatcher.run_once(end).await) {
        return Ok(tick);
    }
    let made = timeout_at(end, scheduler.run_once(&mut tick.scheduled)).await;
    tick.part("schedule", made);
    let freed = timeout_at(end, reaper.run_once(&mut tick.reaped)).await;
    tick.part("reap", freed);
    tick.silences = tick.part("look", timeout_at(end, housekeeper.look()).await).unwrap_or_default();
    tick.unclaimed = tick.part("backlog", timeout_at(end, housekeeper.unclaimed()).await).unwrap_or_default();
    let ended = timeout_at(end, archiver.run_once(&mut tick.archived)).await;
    tick.part("archive", ended);
    let looked = timeout_at(end, auditor.run_once(&mut tick.audited)).await;
    tick.part("audit", looked);
    let pruned = timeout_at(end, housekeeper.run_once(&mut tick.pruned)).await;
    tick.part("prune", pruned);
    Ok(tick)
}

fn silent(server: &Server, limit: Duration) -> Error {
    let (place, limit) = (server.describe(), humantime::format_duration(limit));
    Error::new(Kind::Timeout, format!("{place} has not said within {limit} what there is to dispatch"))
        .hint("is the server still there, and does somebody hold a lock on dispatch_cursor?")
}

impl Tick {
    /// Takes note of a round over the domains; whether the rest of the tick can go on.
    fn dispatched(&mut self, once: Once) -> bool {
        self.pass.add(once.pass);
        self.leave("dispatch", once.left);
        self.refusal = once.refusal;
        self.paused = once.paused;
        let is_gone = once.failed.as_ref().is_some_and(|error| error.sqlstate().is_none());
        if let Some(error) = once.failed {
            self.failed = Some(Error::and(self.failed.take(), error));
        }
        self.refusal.is_none() && !is_gone
    }

    /// Takes note of how a part ended: well, with an error, or not in time.
    fn part<T, L>(&mut self, name: &'static str, ended: Result<Result<T>, L>) -> Option<T> {
        self.leave(name, ended.is_err());
        match ended.ok()? {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed = Some(Error::and(self.failed.take(), error));
                None
            }
        }
    }

    fn leave(&mut self, name: &'static str, left: bool) {
        if left && !self.left.contains(&name) {
            self.left.push(name);
        }
    }
}
