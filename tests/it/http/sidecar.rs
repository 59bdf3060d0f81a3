//! The face of `reveille run`, as whoever watches the process sees it.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::get;
use super::openmetrics::Scrape;
use crate::cli::{output, reveille};
use crate::support::{Folder, SOON, TestDb, own_server, quiet_options, wait_for, wait_until};

/// `reveille run` in a process of its own; killed when dropped.
pub(super) struct Sidecar {
    child: Child,
    pub(super) address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Sidecar {
    /// Starts it on any port, and waits for the line of its log that tells which.
    pub(super) async fn start(url: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::from(reveille(&["run"]));
        command.env("DATABASE_URL", url).env("REVEILLE__HTTP__LISTEN", "127.0.0.1:0");
        command.env("REVEILLE__DATABASE__CONNECT_TIMEOUT", "15s").envs(variables.iter().copied());
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (log, said) = (Arc::new(Mutex::new(String::new())), child.stderr.take().unwrap());
        let copy = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(said).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                copy.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let address = wait_for("it says where it answers", SOON, async || {
            let log = log.lock().unwrap();
            let (_, rest) = log.split_once("http://")?;
            rest.split_once(": ")?.0.parse().ok()
        });
        Self { address: address.await, child, log, reader }
    }

    pub(super) async fn scrape(&self) -> Scrape {
        Scrape::read(&get(self.address, "/metrics").await.body)
    }

    pub(super) async fn ready(&self) -> (u16, String) {
        let answer = get(self.address, "/ready").await;
        (answer.status, answer.body)
    }

    /// Sends SIGTERM and waits for the end; gives what the log said.
    pub(super) async fn stop(&mut self) -> (ExitStatus, String) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
        let status = timeout(SOON, self.child.wait()).await.expect("it ends in time").unwrap();
        (&mut self.reader).await.unwrap();
        let log = self.log.lock().unwrap().clone();
        (status, log)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log.lock().unwrap());
        }
    }
}

#[tokio::test]
async fn run_is_live_before_it_is_ready_and_not_ready_during_an_outage() {
    let server = Arc::new(own_server(quiet_options()).await);
    let database = TestDb::on(Arc::clone(&server)).await;
    database.client().await.batch_execute("checkpoint").await.unwrap(); // this server is forgetful
    server.kill9().await.unwrap();
    let mut sidecar = Sidecar::start(&database.url(), &[]).await;
    wait_until("live without a database", SOON, async || get(sidecar.address, "/live").await.status == 200)
        .await;
    let (status, body) = sidecar.ready().await;
    assert!(status == 503 && body.starts_with("not ready: schema, dispatcher, listener\n"), "{body}");

    server.start_again().await.unwrap();
    wait_until("ready with a database", SOON, async || sidecar.ready().await.0 == 200).await;
    assert_eq!(sidecar.scrape().await.value("reveille_ready", &[("latch", "dispatcher")]), Some(1.0));

    server.kill9().await.unwrap();
    wait_until("the outage is seen", SOON, async || {
        sidecar.ready().await.1.starts_with("not ready: dispatcher, listener\n")
    })
    .await;
    assert_eq!(get(sidecar.address, "/live").await.status, 200, "an outage is no reason to restart");

    server.start_again().await.unwrap();
    wait_until("ready again", SOON, async || sidecar.ready().await.0 == 200).await;
    let address = sidecar.address;
    let (status, log) = sidecar.stop().await;
    assert!(status.success(), "{log}");
    TcpListener::bind(address).await.expect("the port is free");
}

#[tokio::test]
async fn run_tells_systemd_when_it_is_ready_alive_and_stopping() {
    let database = TestDb::new().await;
    let folder = Folder::open_to_all();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut told = String::new();
    let mut hear = |wanted: &str| {
        let mut message = [0; 1024];
        while let Ok(length) = socket.recv(&mut message) {
            told.push_str(std::str::from_utf8(&message[..length]).unwrap());
        }
        told.contains(wanted)
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut sidecar = Sidecar::start(&database.url(), &variables).await;
    wait_until("it is ready", SOON, async || hear("READY=1\n")).await;
    wait_until("the watchdog is fed", SOON, async || hear("WATCHDOG=1\nWATCHDOG=1\n")).await;
    let (status, log) = sidecar.stop().await;
    assert!(status.success(), "{log}");
    assert!(hear("STOPPING=1\n"));
}

#[tokio::test]
async fn run_ends_when_its_port_is_taken_and_says_which_setting_to_change() {
    let database = TestDb::new().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let mut command = reveille(&["run"]);
    command.env("DATABASE_URL", database.url()).env("REVEILLE__HTTP__LISTEN", &address);
    let (code, _, error) = output(&mut command);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&format!("[http] listen: {address} is taken by another program")), "{error}");
    assert!(error.contains("[http] enabled = false"), "{error}");
}
