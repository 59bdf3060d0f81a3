//! The HTTP face over real sockets: alive, ready, measured, and gone when told to stop.

mod api;
mod catalogue;
pub(crate) mod client;
mod labels;
mod metrics;
mod monitoring;
mod openmetrics;
#[cfg(feature = "otlp")]
mod otlp;
mod sidecar;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reveille::config;
use reveille::error::Kind;
use reveille::http::{Face, FaceState, Keep, SharedRegistry};
use reveille::latch::{Latch, Readiness};
use reveille::postgres::Server;
use reveille::postgres::listener::{Listener, ListenerStatus};
use reveille::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::client::{get, keep, request};
use self::openmetrics::Scrape;
use crate::support::{SOON, TestDb, server_at, wait_until};

/// An address that nobody answers at; the face does not connect before the first scrape.
const NOWHERE: &str = "postgresql://nobody@127.0.0.1:1/nothing";

/// A face that is answering, and the handles of its app.
pub(crate) struct Served {
    address: SocketAddr,
    live: Latch,
    readiness: Readiness,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Served {
    /// `keep`: how long gauges of the database are answered again.
    pub(crate) async fn start(server: Server, listener: Option<Arc<ListenerStatus>>, keep: Duration) -> Self {
        let keep = Keep { gauges: keep, ..Keep::default() };
        Self::start_with(&any_port(), server, listener, keep).await
    }

    /// A face on which who has `token` may write.
    pub(crate) async fn with_token(server: Server, token: &str, behind_tls: bool) -> Self {
        let settings = config::Http { token: config::Secret(token.to_owned()), behind_tls, ..any_port() };
        Self::start_with(&settings, server, None, Keep::default()).await
    }

    /// The same, on which a dry run is old after `dry_runs`.
    pub(crate) async fn with_old_dry_runs(server: Server, token: &str, dry_runs: Duration) -> Self {
        let settings = config::Http { token: config::Secret(token.to_owned()), ..any_port() };
        Self::start_with(&settings, server, None, Keep { dry_runs, ..Keep::default() }).await
    }

    async fn start_with(
        settings: &config::Http,
        server: Server,
        listener: Option<Arc<ListenerStatus>>,
        keep: Keep,
    ) -> Self {
        let (live, readiness) = (Latch::alone("live", "starting"), Readiness::new());
        let shutdown = Shutdown::new();
        let state = FaceState {
            server,
            registry: SharedRegistry::default(),
            live: live.clone(),
            readiness: readiness.clone(),
            listener,
        };
        let face = Face::bind_keeping(settings, state, keep).await.unwrap();
        let address = face.address();
        let task = tokio::spawn(face.run(shutdown.clone()));
        Self { address, live, readiness, shutdown, task }
    }

    async fn without_database() -> Self {
        Self::start(server_at(NOWHERE), None, Duration::ZERO).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        let answer = get(self.address, "/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Scrape::read(&answer.body)
    }

    /// Ends it; gives how long that took.
    pub(crate) async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.shutdown.request();
        timeout(SOON, self.task).await.expect("it stops in time").unwrap();
        begun.elapsed()
    }
}

fn any_port() -> config::Http {
    config::Http { enabled: true, listen: "127.0.0.1:0".parse().unwrap(), ..config::Http::default() }
}

#[tokio::test]
async fn live_says_so_while_the_tasks_run_and_why_not_after() {
    let face = Served::without_database().await;
    assert_eq!(get(face.address, "/live").await.status, 503);
    face.live.set("");
    let answer = get(face.address, "/live").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "live\n"));
    face.live.clear("the dispatcher failed: out of luck");
    let answer = get(face.address, "/live").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "not live: the dispatcher failed: out of luck\n")
    );
    face.stop().await;
}

#[tokio::test]
async fn ready_names_what_is_missing_until_every_latch_is_set() {
    let face = Served::without_database().await;
    let schema = face.readiness.latch("schema", "not checked yet");
    let dispatcher = face.readiness.latch("dispatcher", "not attached yet");
    schema.set("phase 6");
    let answer = get(face.address, "/ready").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "not ready: dispatcher\n\n\
         ready    schema       phase 6\n\
         missing  dispatcher   not attached yet\n\
         ready    listener     poll-only: [dispatch] listen = false\n"
    );
    dispatcher.set("");
    let answer = get(face.address, "/ready").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("ready\n\n"), "{}", answer.body);
    dispatcher.clear("the database cannot be used");
    assert_eq!(get(face.address, "/ready").await.status, 503);
    face.stop().await;
}

#[tokio::test]
async fn ready_answers_json_to_those_who_accept_it() {
    let face = Served::without_database().await;
    face.readiness.latch("schema", "it's \"late\"");
    let accept = [("Accept", "text/html;q=0.1, application/json")];
    let answer = request(face.address, "GET", "/ready", &accept).await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (503, "application/json"));
    let report: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        report,
        serde_json::json!({
            "ready": false,
            "missing": ["schema"],
            "latches": [
                {"latch": "schema", "ready": false, "words": "it's \"late\""},
                {"latch": "listener", "ready": true, "words": "poll-only: [dispatch] listen = false"},
            ],
        })
    );
    face.stop().await;
}

#[tokio::test]
async fn ready_follows_the_listener() {
    let database = TestDb::empty().await;
    let listener =
        Listener::new(Server::direct(&database.settings().database).unwrap(), &config::Listener::default());
    let face = Served::start(server_at(NOWHERE), Some(listener.status()), Duration::ZERO).await;
    let answer = get(face.address, "/ready").await;
    assert!(answer.status == 503 && answer.body.starts_with("not ready: listener\n"), "{answer:?}");
    let stop = Shutdown::new();
    let listening = tokio::spawn(listener.run(vec!["queue_control".to_owned()], drop, stop.clone()));
    wait_until("it is ready", SOON, async || get(face.address, "/ready").await.status == 200).await;
    stop.request();
    listening.await.unwrap();
    assert!(get(face.address, "/ready").await.body.ends_with("missing  listener     stopped\n"));
    face.stop().await;
}

#[tokio::test]
async fn only_get_is_answered_and_nothing_is_cached() {
    let face = Served::without_database().await;
    face.live.set("");
    for path in ["/live", "/ready", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = request(face.address, method, path, &[]).await;
            assert_eq!((answer.status, answer.headers["allow"].as_str()), (405, "GET,HEAD"), "{method}");
        }
        let answer = get(face.address, path).await;
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
    }
    let answer = request(face.address, "HEAD", "/live", &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = get(face.address, "/%2e%2e/etc/passwd").await;
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("/metrics"), "{}", answer.body);
    face.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_setting_and_what_to_do() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let settings = config::Http { enabled: true, listen: address, ..config::Http::default() };
    let error = Face::bind(&settings, state()).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Io, 1));
    let text = error.to_string();
    assert!(text.starts_with(&format!("[http] listen: {address} is taken by another program")), "{text}");
    assert!(error.hint_text().unwrap().contains("[http] enabled = false"));

    let elsewhere =
        config::Http { enabled: true, listen: "192.0.2.1:7045".parse().unwrap(), ..config::Http::default() };
    let text = Face::bind(&elsewhere, state()).await.unwrap_err().to_string();
    assert!(text.contains("192.0.2.1:7045 is not an address of this machine"), "{text}");
}

fn state() -> FaceState {
    FaceState {
        server: server_at(NOWHERE),
        registry: SharedRegistry::default(),
        live: Latch::alone("live", ""),
        readiness: Readiness::new(),
        listener: None,
    }
}

#[tokio::test]
async fn stopping_closes_idle_connections_at_once_and_frees_the_port() {
    let face = Served::without_database().await;
    let address = face.address;
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(keep(&mut idle, "/ready").await.status, 200);
    assert_eq!(keep(&mut idle, "/ready").await.status, 200, "a connection serves more than one request");
    let took = face.stop().await;
    assert!(took < Duration::from_millis(900), "{took:?}");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    TcpListener::bind(address).await.expect("the port is free again");
}

#[tokio::test]
async fn stopping_waits_for_nobody_who_never_ends_his_request() {
    let face = Served::without_database().await;
    let mut slow = TcpStream::connect(face.address).await.unwrap();
    slow.write_all(b"GET /live HTTP/1.1\r\nHost: te").await.unwrap();
    let mut silent = TcpStream::connect(face.address).await.unwrap();
    get(face.address, "/live").await; // both were accepted before
    let took = face.stop().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    for stream in [&mut slow, &mut silent] {
        let end = timeout(SOON, stream.read(&mut [0; 1])).await.expect("it is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test]
async fn a_cut_ends_it_at_once() {
    let face = Served::without_database().await;
    let mut slow = TcpStream::connect(face.address).await.unwrap();
    slow.write_all(b"GET /live HTTP/1.1\r\nHost: te").await.unwrap();
    get(face.address, "/live").await;
    face.shutdown.cut();
    let took = face.stop().await;
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn connections_that_went_away_make_room_for_others() {
    let face = Served::without_database().await;
    face.live.set("");
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(face.address).await.unwrap());
    }
    drop(idle);
    assert_eq!(get(face.address, "/live").await.status, 200);
    face.stop().await;
}
