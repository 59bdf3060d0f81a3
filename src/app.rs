//! Assembly: what `run` and `tick` are made of, in start order and stop order. Nothing else starts long tasks.
//!
//! Start: the HTTP face; the database answers and the schema fits; listener, dispatcher, sweeper, reaper, scheduler,
//! archiver, auditor, housekeeper. Stop: all of these are asked at once and end; then the sidecar's names are forgotten, if it ended
//! well, and the face goes; at the deadline, or at the second signal, they are cut.

mod tick;

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use tokio::task::JoinSet;

use crate::backoff::Trouble;
use crate::config::Settings;
use crate::dispatch::{Dispatcher, Sweeper, Waker};
use crate::error::{Error, Kind, Result};
use crate::http::{Face, FaceState, SharedRegistry};
use crate::latch::{Latch, Readiness};
use crate::maintain::{Archiver, Auditor, Housekeeper, Reaper, Scheduler};
use crate::model::spelling;
use crate::postgres::Server;
use crate::postgres::listener::Listener;
use crate::postgres::migrator::Migrator;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::systemd;
use crate::telemetry::{self, Spans};

pub use tick::{Tick, tick};

/// The sidecar, until `shutdown`. Ends with an error only when trying again cannot help.
pub async fn run(settings: &Settings, shutdown: Shutdown) -> Result<()> {
    let server = Server::from_settings(&settings.database)?;
    let pool = server.pool("chores", 1, &server.session())?;
    let readiness = Readiness::new();
    let live = Latch::alone("live", "starting");
    let schema = readiness.latch("schema", "the database has not answered yet");
    let dispatcher = readiness.latch("dispatcher", "not started yet");
    let listener = settings.dispatch.listen.then(|| listener(settings)).transpose()?;
    let registry = SharedRegistry::default();
    let (spans, exporter) = telemetry::start(&settings.telemetry)?;
    registry.add(|registry| exporter.register(registry));
    let state = FaceState {
        server: server.clone(),
        registry: registry.clone(),
        live: live.clone(),
        readiness,
        listener: listener.as_ref().map(Listener::status),
    };
    // the face outlives the other parts, so that it can be seen how they stop
    let face_stop = Shutdown::new();
    let face = if settings.http.enabled { Some(Face::bind(&settings.http, state).await?) } else { None };
    let face = async {
        match face {
            // as large as whatever the dashboard asks for at once
            Some(face) => Box::pin(face.run(face_stop.clone())).await,
            None => face_stop.requested().await,
        }
    };
    let parts = exporter.around(
        &shutdown,
        Box::pin(async {
            live.set("");
            let ask = || look(settings, &server, &pool);
            let outcome = match try_until(&server, Some(&schema), &shutdown, ask).await {
                Ok(Some(domains)) => {
                    schema.set("");
                    let parts = Parts {
                        settings,
                        server,
                        pool,
                        domains,
                        listener,
                        registry,
                        latch: dispatcher,
                        spans,
                    };
                    run_parts(parts, &shutdown).await
                }
                Ok(None) => Ok(()), // told to stop before it came up
                Err(error) => Err(error),
            };
            live.clear("stopping");
            outcome
        }),
    );
    let parts = async {
        let outcome = parts.await;
        if shutdown.is_cut() {
            face_stop.cut();
        } else {
            face_stop.request();
        }
        outcome
    };
    let ((), outcome) = tokio::join!(face, parts);
    outcome
}

/// What the parts of the sidecar are made of.
struct Parts<'a> {
    settings: &'a Settings,
    server: Server,
    /// For what takes little: checks, heartbeats, leases that have ended, schedules, the archive. Sweep and audit have
    /// connections of their own.
    pool: Pool,
    domains: Vec<String>,
    listener: Option<Listener>,
    registry: SharedRegistry,
    latch: Latch,
    spans: Spans,
}

fn listener(settings: &Settings) -> Result<Listener> {
    Ok(Listener::new(Server::direct(&settings.database)?, &settings.listener))
}

/// Listener, dispatcher, sweeper, reaper, scheduler, archiver, auditor, housekeeper, until told to stop.
async fn run_parts(parts: Parts<'_>, shutdown: &Shutdown) -> Result<()> {
    let Parts { settings, server, pool, domains, listener, registry, latch, spans } = parts;
    let waker = Arc::new(Waker::default());
    let status = listener.as_ref().map(Listener::status);
    tracing::info!(
        database = %server.describe(),
        schema = server.schema(),
        domains = %domains.join(", "),
        mode = if listener.is_some() { "notify and poll" } else { "poll only" },
        "reveille {} is running",
        env!("CARGO_PKG_VERSION")
    );
    let mut tasks = JoinSet::new();
    let scheduler = Scheduler::new(server.clone(), pool.clone(), &settings.maintenance);
    if let Some(listener) = listener {
        let (waker, bell, channels) = (Arc::clone(&waker), scheduler.bell(), Waker::channels(&domains));
        let wake = move |wake| {
            bell.hear(&wake);
            waker.wake(wake);
        };
        spawn(&mut tasks, shutdown, async move |shutdown| {
            listener.run(channels, wake, shutdown).await;
            Ok(())
        });
    }
    let dispatcher = Dispatcher::new(
        server.clone(),
        &settings.dispatch,
        settings.database.pool_size,
        domains,
        Arc::clone(&waker),
        status,
    )?
    .latched(latch)
    .traced(spans);
    let sweeper = Sweeper::new(&server, &settings.sweep, waker)?;
    let reaper = Reaper::new(server.clone(), pool.clone(), &settings.maintenance);
    let archiver = Archiver::new(server.clone(), pool.clone(), &settings.maintenance);
    let auditor = Auditor::new(&server, &settings.maintenance)?;
    let housekeeper = Housekeeper::new(server, pool, &settings.maintenance)
        .beating_for("dispatcher", dispatcher.alive())
        .beating_for("sweeper", sweeper.alive())
        .beating_for("reaper", reaper.alive())
        .beating_for("scheduler", scheduler.alive())
        .beating_for("auditor", auditor.alive());
    let housekeeper = Arc::new(housekeeper);
    let keeper = Arc::clone(&housekeeper);
    registry.add(|registry| dispatcher.stats().register(registry));
    registry.add(|registry| sweeper.stats().register(registry));
    registry.add(|registry| archiver.register(registry));
    registry.add(|registry| auditor.register(registry));
    registry.add(|registry| scheduler.register(registry));
    spawn(&mut tasks, shutdown, async move |shutdown| dispatcher.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| sweeper.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| reaper.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| scheduler.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| archiver.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| auditor.run(shutdown).await);
    spawn(&mut tasks, shutdown, async move |shutdown| housekeeper.run(shutdown).await);
    systemd::ready("dispatching");
    supervise(tasks, shutdown).await?;
    keeper.leave().await;
    Ok(())
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

/// Waits until the database answers and its schema fits, for commands that run for long; false when told to stop
/// before.
///
/// # Errors
/// What trying again cannot mend, with the command that does.
pub async fn wait_for_schema(server: &Server, shutdown: &Shutdown) -> Result<bool> {
    let fits = try_until(server, None, shutdown, || check_schema(server)).await?;
    Ok(fits.is_some())
}

/// Asks until there is an answer or trying again cannot help; none when told to stop before.
async fn try_until<T, F: Future<Output = Result<T>>>(
    server: &Server,
    latch: Option<&Latch>,
    shutdown: &Shutdown,
    ask: impl Fn() -> F,
) -> Result<Option<T>> {
    let mut trouble: Option<Trouble> = None;
    loop {
        let answered = tokio::select! {
            () = shutdown.requested() => return Ok(None),
            answered = ask() => answered,
        };
        let error = match answered {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) if !error.is_retryable() => return Err(error),
            Err(error) => error,
        };
        let trouble =
            trouble.get_or_insert_with(|| Trouble::begin(Duration::from_millis(200), Duration::from_secs(5)));
        if trouble.failed(error.sort()) {
            latch.inspect(|latch| latch.clear(error.to_string()));
            tracing::error!(database = %server.describe(), "{}", error.trying_again());
        }
        if !shutdown.pause(trouble.next_try().saturating_duration_since(Instant::now())).await {
            return Ok(None);
        }
    }
}

/// Whether the schema is what this program needs.
///
/// # Errors
/// No answer; or what is wrong with the schema, with the command that mends it.
pub async fn check_schema(server: &Server) -> Result<()> {
    let client = server.client("check", &server.session()).await?;
    let migrator = Migrator::new(server.clone());
    server.in_time(3, "checking the schema", migrator.check(&client)).await
}

/// Checks the schema, and answers the domains to dispatch.
async fn look(settings: &Settings, server: &Server, pool: &Pool) -> Result<Vec<String>> {
    check_schema(server).await?;
    let client = server.take(pool).await?;
    let read = server.in_time(1, "reading the domains", store::dispatch::domains(&client)).await;
    domains(settings, hand_back(client, read)?)
}

/// The domains to dispatch: those of the settings, checked against those of the database, or all of these.
fn domains(settings: &Settings, known: Vec<String>) -> Result<Vec<String>> {
    for name in &settings.dispatch.domains {
        if !known.contains(name) {
            let guess = spelling::guess(name, known.iter().map(String::as_str));
            let error =
                Error::usage(format!("[dispatch] domains names `{name}`, which is not dispatched here"));
            return Err(match guess {
                Some(guess) => error.hint(format!("did you mean `{guess}`?")),
                None => error.hint(format!(
                    "known are {}; `select fn_dispatch_domain_add('{name}')` adds it",
                    known.join(", ")
                )),
            });
        }
    }
    Ok(if settings.dispatch.domains.is_empty() { known } else { settings.dispatch.domains.clone() })
}
