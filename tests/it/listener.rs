//! The listener under faults: whatever happens to its connection, it listens again and says Resync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reveille::config;
use reveille::postgres::Server;
use reveille::postgres::listener::{Listener, ListenerState, ListenerStatus, Wake};
use reveille::shutdown::Shutdown;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::{Mode, Proxy, SOON, TestDb, database_at, own_server, quiet_options, wait_until};

/// Quick enough for a test, slow enough for a busy machine.
fn settings() -> config::Listener {
    config::Listener {
        canary_interval: Duration::from_millis(100),
        canary_timeout: Duration::from_secs(1),
        backoff_first: Duration::from_millis(5),
        backoff_cap: Duration::from_millis(50),
    }
}

/// A running listener and what it said.
struct Running {
    status: Arc<ListenerStatus>,
    shutdown: Shutdown,
    wakes: UnboundedReceiver<Wake>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(url: &str, settings: &config::Listener, channels: &[&str]) -> Self {
        let database = config::Database { connect_timeout: Duration::from_secs(1), ..database_at(url) };
        let listener = Listener::new(Server::direct(&database).unwrap(), settings);
        let (status, shutdown) = (listener.status(), Shutdown::new());
        let (said, wakes) = unbounded_channel();
        let channels = channels.iter().map(|channel| (*channel).to_owned()).collect();
        let on_wake = move |wake| said.send(wake).unwrap_or_default();
        let task = tokio::spawn(listener.run(channels, on_wake, shutdown.clone()));
        Self { status, shutdown, wakes, task }
    }

    /// The next thing it says.
    async fn next(&mut self) -> Wake {
        timeout(SOON, self.wakes.recv()).await.expect("it says something in time").expect("it runs")
    }

    /// Waits for a Resync and for nothing to be left to say; what else was said before is dropped.
    async fn resync(&mut self) {
        while self.next().await != Wake::Resync {}
    }

    async fn stop(self) {
        self.shutdown.request();
        timeout(SOON, self.task).await.expect("it stops in time").unwrap();
        assert_eq!(self.status.state(), ListenerState::Stopped);
    }
}

/// Polls as a dispatcher does: whenever a canary is due it goes out with a statement.
fn poll(client: Client, status: Arc<ListenerStatus>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(canary) = status.canary_due() {
                let notify = "select pg_notify($1, $2)";
                if client.execute(notify, &[&canary.channel(), &canary.token()]).await.is_ok() {
                    status.canary_sent(&canary);
                }
            }
        }
    })
}

#[tokio::test]
async fn a_notification_is_handed_on_with_its_channel() {
    let database = TestDb::empty().await;
    let odd = "Odd \"name\"; drop";
    let mut running = Running::start(&database.url(), &settings(), &["queue_wake_iu", odd]);
    assert_eq!(running.next().await, Wake::Resync);
    let client = database.client().await;
    for channel in [odd, "queue_wake_iu", "queue_wake_tac", odd] {
        client.execute("select pg_notify($1, '')", &[&channel]).await.unwrap();
    }
    for channel in [odd, "queue_wake_iu", odd] {
        assert_eq!(running.next().await, Wake::Channel(channel.to_owned()));
    }
    assert_eq!(running.status.notifications(), 3);
    assert_eq!((running.status.state(), running.status.reconnects()), (ListenerState::Listening, 0));
    running.stop().await;
}

#[tokio::test]
async fn it_listens_before_it_says_resync_and_never_holds_a_transaction() {
    let database = TestDb::empty().await;
    let client = database.client().await;
    let mut running = Running::start(&database.url(), &settings(), &["queue_control"]);
    running.resync().await;
    client.batch_execute("notify queue_control").await.unwrap();
    assert_eq!(running.next().await, Wake::Channel("queue_control".to_owned()));
    wait_until("it is idle, outside any transaction", SOON, async || {
        let mine = "select state, xact_start is null and backend_xmin is null from pg_stat_activity
                     where application_name = 'reveille/listener' and datname = current_database()";
        let row = client.query_one(mine, &[]).await.unwrap();
        row.get::<_, &str>(0) == "idle" && row.get(1)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn every_fault_ends_with_a_resync() {
    let database = TestDb::empty().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = database.client().await;
    let mut running = Running::start(&database.url_through(proxy.port()), &settings(), &["queue_wake_iu"]);
    let poller = poll(database.client().await, Arc::clone(&running.status));
    running.resync().await;
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                      where application_name = 'reveille/listener' and datname = current_database()";
    for round in 0..2 {
        for fault in ["cut", "refuse", "black hole", "stall", "terminate"] {
            match fault {
                "cut" => proxy.cut(),
                "refuse" => proxy.set(Mode::Refuse).await,
                "black hole" => proxy.set(Mode::BlackHole).await,
                "stall" => proxy.set(Mode::Stall).await,
                _ => client.batch_execute(terminate).await.unwrap(),
            }
            if fault != "cut" && fault != "terminate" {
                wait_until(&format!("{fault} is noticed"), SOON, async || {
                    running.status.state() == ListenerState::Connecting
                })
                .await;
            }
            client.batch_execute("notify queue_wake_iu").await.unwrap();
            proxy.set(Mode::Pass).await;
            running.resync().await;
            while running.wakes.try_recv().is_ok() {}
            client.batch_execute("notify queue_wake_iu").await.unwrap();
            let heard = running.next().await;
            assert_eq!(heard, Wake::Channel("queue_wake_iu".to_owned()), "round {round}, after {fault}");
        }
    }
    assert!(running.status.reconnects() >= 10);
    assert!(running.status.canaries_lost() >= 2);
    poller.abort();
    running.stop().await;
}

#[tokio::test]
async fn a_half_open_link_is_noticed_when_nobody_polls_too() {
    let database = TestDb::empty().await;
    let proxy = Proxy::to(database.server().port()).await;
    let mut running = Running::start(&database.url_through(proxy.port()), &settings(), &["queue_wake_iu"]);
    running.resync().await;
    wait_until("its own canary comes back", SOON, async || running.status.canary_round_trip().is_some())
        .await;
    proxy.set(Mode::BlackHole).await;
    wait_until("the dead link is noticed", SOON, async || {
        running.status.state() == ListenerState::Connecting
    })
    .await;
    proxy.set(Mode::Pass).await;
    running.resync().await;
    running.stop().await;
}

#[tokio::test]
async fn canaries_that_come_back_leave_the_connection_alone() {
    let database = TestDb::empty().await;
    let mut running = Running::start(&database.url(), &settings(), &["queue_wake_iu"]);
    running.resync().await;
    let client = database.client().await;
    for _ in 0..5 {
        let mut canary = None;
        wait_until("a canary is due", SOON, async || {
            canary = running.status.canary_due();
            canary.is_some()
        })
        .await;
        let canary = canary.unwrap();
        client.execute("select pg_notify($1, $2)", &[&canary.channel(), &canary.token()]).await.unwrap();
        // told late, when it may be back already
        running.status.canary_sent(&canary);
    }
    wait_until("the round trip is measured", SOON, async || running.status.canary_round_trip().is_some())
        .await;
    assert!(running.status.canary_round_trip().unwrap() < SOON);
    assert_eq!((running.status.reconnects(), running.status.canaries_lost()), (0, 0));
    assert!(running.wakes.try_recv().is_err(), "a canary wakes nobody");
    running.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_no_canary_ever_returns_is_taken_for_a_pooler() {
    let database = TestDb::empty().await;
    let settings = config::Listener { canary_timeout: Duration::from_millis(100), ..settings() };
    let mut running = Running::start(&database.url(), &settings, &["queue_wake_iu"]);
    running.resync().await;
    // said to be sent, and lost on the way
    wait_until("a pooler is suspected", SOON, async || {
        if let Some(canary) = running.status.canary_due() {
            running.status.canary_sent(&canary);
        }
        running.status.state() == ListenerState::PoolerSuspected
    })
    .await;
    assert!(running.status.canaries_lost() >= 2);
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_restarts_or_becomes_a_standby_ends_with_a_resync() {
    let server = own_server(quiet_options()).await;
    let mut running = Running::start(&server.url("postgres"), &settings(), &["queue_wake_iu"]);
    running.resync().await;
    server.restart().await.unwrap();
    running.resync().await;
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    running.resync().await;

    server.stop().await.unwrap();
    std::fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();
    let tries = running.status.reconnects();
    wait_until("it goes on trying", SOON, async || running.status.reconnects() > tries + 3).await;
    assert_eq!(running.status.state(), ListenerState::Connecting);
    let admin = crate::support::connect(&server.url("postgres")).await;
    admin.batch_execute("select pg_promote()").await.unwrap();
    running.resync().await;
    running.stop().await;
}

#[tokio::test]
async fn it_stops_at_once_in_every_state() {
    let database = TestDb::empty().await;
    for mode in [Mode::Pass, Mode::BlackHole, Mode::Refuse, Mode::Stall] {
        let proxy = Proxy::to(database.server().port()).await;
        let slow = config::Listener { backoff_first: SOON * 3, backoff_cap: SOON * 3, ..settings() };
        let mut running = Running::start(&database.url_through(proxy.port()), &slow, &["queue_wake_iu"]);
        running.resync().await;
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            wait_until("the loss is noticed", SOON, async || {
                running.status.state() == ListenerState::Connecting
            })
            .await;
        }
        let begun = Instant::now();
        running.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{mode:?}");
    }
    let proxy = Proxy::to(database.server().port()).await;
    proxy.set(Mode::BlackHole).await;
    let running = Running::start(&database.url_through(proxy.port()), &settings(), &["queue_wake_iu"]);
    wait_until("it connects", SOON, async || proxy.open() == 1).await;
    let begun = Instant::now();
    running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "while connecting");
}
