//! Assembly: what `run` and `tick` are made of, in start order and stop order. Nothing else starts long tasks.
//!
//! Start: the database answers, the schema fits, then listener, dispatcher, sweeper, housekeeper. Stop: all of them
//! are asked at once and finish their statement; at the deadline, or at the second signal, they are cut.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::config::Settings;
use crate::dispatch::{Dispatcher, Sweeper, Waker};
use crate::error::{Error, Kind, Result};
use crate::maintain::{Housekeeper, Pruned};
use crate::model::pass::Pass;
use crate::model::refusal::Refusal;
use crate::model::spelling;
use crate::postgres::Server;
use crate::postgres::listener::Listener;
use crate::postgres::migrator::Migrator;
use crate::shutdown::Shutdown;
use crate::store;

/// How long `tick` dispatches at most, so that a cron job ends.
const TICK_LIMIT: Duration = Duration::from_mins(1);

/// What one `tick` did.
#[derive(Debug, Clone, Serialize)]
pub struct Tick {
    /// Events without an arrival that the sweep repaired.
    pub swept: u64,
    /// What was dispatched.
    #[serde(flatten)]
    pub pass: Pass,
    /// What was pruned.
    pub pruned: Pruned,
}

/// The sidecar, until `shutdown`. Ends with an error only when trying again cannot help.
pub async fn run(settings: &Settings, shutdown: Shutdown) -> Result<()> {
    let server = Server::from_settings(&settings.database)?;
    if !database_answers(&server, &shutdown).await? {
        return Ok(()); // told to stop before it came up
    }
    let pool = server.pool("chores", 1, &server.session())?;
    let domains = domains(settings, &server, &pool).await?;
    let waker = Arc::new(Waker::default());
    let mut tasks = JoinSet::new();

    let mut status = None;
    if settings.dispatch.listen {
        let listener = Listener::new(Server::direct(&settings.database)?, &settings.listener);
        status = Some(listener.status());
        let (waker, channels) = (Arc::clone(&waker), Waker::channels(&domains));
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            listener.run(channels, move |wake| waker.wake(wake), shutdown).await;
            Ok(())
        });
    }
    tracing::info!(
        database = %server.describe(),
        schema = server.schema(),
        domains = %domains.join(", "),
        mode = if settings.dispatch.listen { "notify and poll" } else { "poll only" },
        "reveille {} is running",
        env!("CARGO_PKG_VERSION")
    );
    let dispatcher =
        Dispatcher::new(server.clone(), &settings.dispatch, domains, Arc::clone(&waker), status)?;
    let sweeper = Sweeper::new(server.clone(), pool.clone(), &settings.sweep, waker);
    let housekeeper = Housekeeper::new(server, pool, &settings.maintenance);
    spawn(&mut tasks, &shutdown, async move |shutdown| dispatcher.run(shutdown).await);
    spawn(&mut tasks, &shutdown, async move |shutdown| sweeper.run(shutdown).await);
    spawn(&mut tasks, &shutdown, async move |shutdown| housekeeper.run(shutdown).await);
    supervise(tasks, &shutdown).await
}

/// One bounded pass of everything, for operators who allow no daemon; a closed gate is a refusal.
pub async fn tick(settings: &Settings) -> Result<std::result::Result<Tick, Refusal>> {
    let server = Server::from_settings(&settings.database)?;
    check_schema(&server).await?;
    let pool = server.pool("tick", 1, &server.session())?;
    let domains = domains(settings, &server, &pool).await?;
    let waker = Arc::new(Waker::default());
    let swept =
        Sweeper::new(server.clone(), pool.clone(), &settings.sweep, Arc::clone(&waker)).run_once().await?;
    let dispatcher = Dispatcher::new(server.clone(), &settings.dispatch, domains, waker, None)?;
    let pass = match dispatcher.run_once(TICK_LIMIT).await? {
        Ok(pass) => pass,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let pruned = Housekeeper::new(server, pool, &settings.maintenance).run_once().await?;
    Ok(Ok(Tick { swept: swept.missing, pass, pruned }))
}

fn spawn<F>(tasks: &mut JoinSet<Result<()>>, shutdown: &Shutdown, task: impl FnOnce(Shutdown) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    tasks.spawn(task(shutdown.clone()));
}

/// Waits for every task. The first that fails, or ends without being asked, stops the others.
async fn supervise(mut tasks: JoinSet<Result<()>>, shutdown: &Shutdown) -> Result<()> {
    let mut outcome = Ok(());
    loop {
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = shutdown.was_cut() => {
                tasks.abort_all();
                break;
            }
        };
        let Some(ended) = ended else { break };
        let failure = match ended {
            Ok(Ok(())) if shutdown.is_requested() => continue,
            Ok(Ok(())) => Error::new(Kind::Io, "a part of the sidecar ended without being asked"),
            Ok(Err(error)) => error,
            Err(panic) => {
                Error::new(Kind::Io, format!("a part of the sidecar failed: {panic}")).because(panic)
            }
        };
        if outcome.is_ok() {
            outcome = Err(failure);
        }
        shutdown.request();
    }
    while tasks.join_next().await.is_some() {}
    outcome
}

/// Waits until the database answers and its schema fits; false when told to stop before.
async fn database_answers(server: &Server, shutdown: &Shutdown) -> Result<bool> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut told = false;
    loop {
        match check_schema(server).await {
            Ok(()) => return Ok(true),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) if !told => {
                told = true;
                let hint = error.hint_text().unwrap_or("trying again");
                tracing::error!(database = %server.describe(), "{error}; {hint}");
            }
            Err(error) => tracing::debug!("still waiting: {error}"),
        }
        if !shutdown.pause(backoff.next_delay()).await {
            return Ok(false);
        }
    }
}

async fn check_schema(server: &Server) -> Result<()> {
    let client = server.client("check", &server.session()).await?;
    let migrator = Migrator::new(server.clone());
    tokio::time::timeout(server.session().statement_timeout, migrator.check(&client)).await.unwrap_or_else(
        |_| Err(Error::new(Kind::Timeout, format!("{}: no answer in time", server.describe()))),
    )
}

/// The domains to dispatch: those of the settings, checked against those of the database, or all of these.
async fn domains(settings: &Settings, server: &Server, pool: &Pool) -> Result<Vec<String>> {
    let known = store::dispatch::domains(&server.take(pool).await?).await?;
    for name in &settings.dispatch.domains {
        if !known.contains(name) {
            let guess = spelling::guess(name, known.iter().map(String::as_str));
            let error =
                Error::usage(format!("[dispatch] domains names `{name}`, which is not dispatched here"));
            return Err(match guess {
                Some(guess) => error.hint(format!("did you mean `{guess}`?")),
                None => error.hint(format!("known are {}", known.join(", "))),
            });
        }
    }
    Ok(if settings.dispatch.domains.is_empty() { known } else { settings.dispatch.domains.clone() })
}
