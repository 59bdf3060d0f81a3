//! The listener's connection, and all connections: killed, half open, not wanted.

use std::time::Duration;

use reveille::config::Settings;

use crate::support::{Mode, NEVER, Outbox, Proxy, SOON, Sidecar, polling, wait_until, woken};

/// Ends the listener's session.
const KILL_LISTENER: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'reveille/listener' and datname = current_database()";

/// A canary that soon tells a dead connection.
fn canary(mut settings: Settings) -> Settings {
    settings.listener.canary_interval = Duration::from_millis(200);
    settings.listener.canary_timeout = Duration::from_secs(1);
    settings
}

#[tokio::test]
async fn without_any_fault_notify_finds_everything() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.settle("notify").await;
    outbox.emit_found_by("notify", 10).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn events_that_commit_while_the_listener_is_killed_are_found_by_the_poll() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = polling(&outbox.db);
    (settings.listener.backoff_first, settings.listener.backoff_cap) = (NEVER, NEVER);
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    outbox.client.batch_execute(KILL_LISTENER).await.unwrap();
    listeners(&outbox, 0).await;
    outbox.settle("poll").await;
    outbox.emit_found_by("poll", 3).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn events_that_commit_while_the_listener_is_killed_are_found_when_it_is_back() {
    let outbox = Outbox::with_two_consumers().await;
    let proxy = Proxy::to(outbox.db.server().port()).await;
    let mut settings = woken(&outbox.db);
    settings.database.listen_url = outbox.db.url_through(proxy.port());
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    for _ in 0..3 {
        proxy.set(Mode::Refuse).await;
        listeners(&outbox, 0).await;
        outbox.emit(2).await;
        proxy.set(Mode::Pass).await;
        outbox.exactly_once_soon().await;
    }
    let found = outbox.found_by().await;
    assert!(!found.contains_key("notify") && !found.contains_key("poll"), "{found:?}");
    outbox.settle("notify").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn events_behind_a_half_open_link_of_the_listener_are_found_by_the_poll() {
    let outbox = Outbox::with_two_consumers().await;
    let proxy = Proxy::to(outbox.db.server().port()).await;
    let mut settings = polling(&outbox.db);
    settings.database.listen_url = outbox.db.url_through(proxy.port());
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    proxy.set(Mode::BlackHole).await;
    outbox.settle("poll").await;
    outbox.emit_found_by("poll", 5).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_half_open_link_of_the_listener_is_noticed_by_the_canary_and_made_good() {
    let outbox = Outbox::with_two_consumers().await;
    let proxy = Proxy::to(outbox.db.server().port()).await;
    let mut settings = canary(woken(&outbox.db)); // nobody polls: the listener sends its own canary
    settings.database.listen_url = outbox.db.url_through(proxy.port());
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    proxy.set(Mode::BlackHole).await;
    outbox.emit(4).await;
    let before = proxy.accepted();
    wait_until("it connects anew", SOON, async || proxy.accepted() > before).await;
    proxy.set(Mode::Pass).await;
    proxy.cut();
    outbox.exactly_once_soon().await;
    outbox.settle("notify").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn events_behind_half_open_links_of_everything_are_found_when_the_network_is_back() {
    let outbox = Outbox::with_two_consumers().await;
    let proxy = Proxy::to(outbox.db.server().port()).await;
    for fault in [Mode::BlackHole, Mode::Stall, Mode::Refuse] {
        let mut settings = canary(polling(&outbox.db));
        settings.database.url = outbox.db.url_through(proxy.port());
        settings.database.statement_timeout = Duration::from_secs(2);
        settings.database.connect_timeout = Duration::from_secs(2);
        let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
        outbox.emit(2).await;
        outbox.exactly_once_soon().await;
        proxy.set(fault).await;
        outbox.emit(5).await;
        let before = proxy.accepted();
        if fault == Mode::BlackHole {
            wait_until("somebody connects anew", SOON, async || proxy.accepted() > before).await;
        }
        assert_ne!(outbox.missing_and_twice().await.0, 0, "{fault:?}: nothing comes through");
        proxy.set(Mode::Pass).await;
        outbox.exactly_once_soon().await;
        sidecar.stop().await;
        // the server may not have noticed yet that the other end of a link is gone
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name like 'reveille/%' and datname = current_database()";
        outbox.client.batch_execute(end).await.unwrap();
    }
}

#[tokio::test]
async fn all_sessions_of_a_sidecar_killed_at_once_lose_nothing() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.dispatch.batch_size = 3;
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    for _ in 0..10 {
        outbox.emit(20).await;
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                     where application_name like 'reveille/%' and datname = current_database()";
        outbox.client.batch_execute(kill).await.unwrap();
    }
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_only_polls_finds_everything_by_the_poll() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = polling(&outbox.db);
    settings.dispatch.listen = false;
    let sidecar = Sidecar::start(settings);
    outbox.settle("poll").await;
    outbox.emit_found_by("poll", 5).await;
    listeners(&outbox, 0).await;
    sidecar.stop().await;
}

/// Waits until so many sessions listen.
async fn listeners(outbox: &Outbox, sessions: i64) {
    wait_until("the listeners", SOON, async || {
        let query = "select count(*) from pg_stat_activity
                      where application_name = 'reveille/listener' and datname = current_database()";
        outbox.count(query).await == sessions
    })
    .await;
}
