//! The real sidecar in the test's own process. As a process of its own, see `program.rs`.

use std::sync::Arc;
use std::time::Duration;

use reveille::config::Settings;
use reveille::error::Result;
use reveille::{app, shutdown::Shutdown};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::database::TestDb;
use super::wait::{SOON, wait_until};

/// So long that nothing in a test is found by it.
pub(crate) const NEVER: Duration = Duration::from_hours(1);

/// Settings of a sidecar that is woken by NOTIFY or not at all: no poll, no sweep but the first, no stream, no face.
pub(crate) fn woken(db: &TestDb) -> Settings {
    let mut settings = db.settings();
    settings.http.enabled = false;
    settings.database.connect_timeout = Duration::from_secs(15);
    settings.dispatch.poll_interval = NEVER;
    settings.dispatch.stream_gap = Duration::ZERO;
    settings.sweep.interval = NEVER;
    settings.listener.backoff_first = Duration::from_millis(5);
    settings.listener.backoff_cap = Duration::from_millis(100);
    settings
}

/// The same, and a poll that comes soon.
pub(crate) fn polling(db: &TestDb) -> Settings {
    let mut settings = woken(db);
    settings.dispatch.poll_interval = Duration::from_millis(200);
    settings
}

/// A sidecar in the test's own process.
pub(crate) struct Sidecar {
    shutdown: Shutdown,
    task: JoinHandle<Result<()>>,
}

impl Sidecar {
    /// Starts it.
    pub(crate) fn start(settings: Settings) -> Self {
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let settings = Arc::new(settings);
        let task = tokio::spawn(async move { app::run(&settings, stop).await });
        Self { shutdown, task }
    }

    /// Starts it and waits until it listens and has looked at everything once.
    pub(crate) async fn start_listening(settings: Settings, client: &Client) -> Self {
        let sidecar = Self::start(settings);
        listening(client, 1).await;
        sidecar
    }

    /// Asks it to stop and waits for a clean end.
    pub(crate) async fn stop(mut self) {
        self.shutdown.request();
        timeout(SOON, &mut self.task).await.expect("it stops in time").unwrap().unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(mut self) -> Result<()> {
        timeout(SOON, &mut self.task).await.expect("it ends in time").unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.shutdown.cut();
        self.task.abort();
    }
}

/// Waits until so many sidecars listen and none of them has work under way.
pub(crate) async fn listening(client: &Client, sidecars: i64) {
    wait_until("the sidecar listens and rests", SOON, async || {
        let query = "select count(*) filter (where application_name = 'reveille/listener' and state = 'idle'
                                               and query not ilike '%current_setting%'),
                            count(*) filter (where application_name = 'reveille/dispatch' and query like '%fn_%'),
                            count(*) filter (where application_name like 'reveille/%' and state <> 'idle')
                       from pg_stat_activity where datname = current_database()";
        let row = client.query_one(query, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1) > 0, row.get::<_, i64>(2)) == (sidecars, true, 0)
    })
    .await;
}
