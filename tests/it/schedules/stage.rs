//! What the tests of schedules share: a database with open gates, and a scheduler whose clock they turn.

use std::time::Duration;

use reveille::maintain::{Scheduled, Scheduler};
use reveille::postgres::Server;
use tokio_postgres::Client;

use crate::support::TestDb;

/// A database with open gates, and a scheduler.
pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
    pub(super) scheduler: Scheduler,
}

/// One more scheduler for a database, as another sidecar has it.
pub(super) fn scheduler(db: &TestDb) -> Scheduler {
    let settings = db.settings();
    let server = Server::from_settings(&settings.database).unwrap();
    let pool = server.pool("chores", 1, &server.session()).unwrap();
    Scheduler::new(server, pool, &settings.maintenance)
}

impl Stage {
    pub(super) async fn new() -> Self {
        let db = TestDb::new().await;
        db.open_gates().await;
        let (client, scheduler) = (db.client().await, scheduler(&db));
        Self { db, client, scheduler }
    }

    /// Writes a schedule of kind `test.tick` at a moment, with more arguments, and enables it.
    pub(super) async fn enabled(&self, key: &str, times: &str, now: &str) {
        self.put(key, times, now).await;
        let enable = format!("select fn_schedule_enable('{key}', true, 'test', 'test', '{now}')");
        self.client.batch_execute(&enable).await.unwrap();
    }

    /// Writes a schedule.
    pub(super) async fn put(&self, key: &str, times: &str, now: &str) {
        let put = format!("select fn_schedule_put('{key}', 'test.tick', 'test', {times}, p_now => '{now}')");
        self.client.batch_execute(&put).await.unwrap();
    }

    /// A round of the scheduler at a moment.
    pub(super) async fn at(&self, now: &str) -> Scheduled {
        self.round(now).await.0
    }

    /// The same, and how long there is nothing to do then.
    pub(super) async fn round(&self, now: &str) -> (Scheduled, Duration) {
        let mut scheduled = Scheduled::default();
        let pause = self.scheduler.run_at(now.parse().unwrap(), &mut scheduled).await.unwrap();
        (scheduled, pause)
    }

    /// When the jobs are due, in UTC, the earliest first.
    pub(super) async fn jobs(&self) -> Vec<String> {
        let jobs = "select to_char(scheduled_at at time zone 'UTC', 'MM-DD HH24:MI:SS') from job_queue
            where actor like 'schedule:%' order by scheduled_at, job_id";
        self.texts(jobs).await
    }

    /// The first column of a query.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        self.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The one value of a query, as text.
    pub(super) async fn text(&self, sql: &str) -> String {
        self.texts(sql).await.remove(0)
    }

    /// The state of a schedule.
    pub(super) async fn state(&self, key: &str) -> String {
        self.text(&format!("select state from v_job_schedule where schedule_key = '{key}'")).await
    }
}
