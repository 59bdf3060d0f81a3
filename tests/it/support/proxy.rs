//! A TCP proxy that misbehaves on demand, to stand between a client and Postgres.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reveille::postgres::embedded::free_port;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What happens to bytes and to new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything passes.
    Pass,
    /// Everything passes later, by this much in each direction.
    Latency(Duration),
    /// Half-open: connections are accepted and stay open, nothing comes through. A connection that has
    /// lost bytes stays dead afterwards.
    BlackHole,
    /// What clients say passes; what they are answered is lost, and their connections stay dead afterwards.
    Mute,
    /// Bytes wait, and go on when the mode changes: a broken path that heals.
    Stall,
    /// New connections are refused, those that exist are closed.
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Raised to close all connections that exist.
    cuts: u64,
}

/// A proxy on 127.0.0.1, in the runtime of its test. Dropping it closes everything.
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    listening: watch::Receiver<bool>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Proxy {
    /// Listens, in mode [`Mode::Pass`], and connects to `target` on 127.0.0.1 for each client.
    pub(crate) async fn to(target: u16) -> Self {
        let (listener, port) = loop {
            let port = free_port().unwrap();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break (listener, port);
            }
        };
        let (state, states) = watch::channel(State { mode: Mode::Pass, cuts: 0 });
        let (tell, listening) = watch::channel(true);
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(serve(listener, target, states, tell, Arc::clone(&counts)));
        Self { port, state, listening, counts, task }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Changes the mode; on return new connections are treated accordingly.
    pub(crate) async fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Refuse);
        });
        let mut listening = self.listening.clone();
        listening.wait_for(|listening| *listening == (mode != Mode::Refuse)).await.unwrap();
    }

    /// Closes all connections that exist; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// How many connections were ever accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many are open now.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort(); // and with it the set of its connections
    }
}

async fn serve(
    listener: TcpListener,
    target: u16,
    mut states: watch::Receiver<State>,
    listening: watch::Sender<bool>,
    counts: Arc<Counts>,
) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuse = states.borrow_and_update().mode == Mode::Refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still free"));
        }
        listening.send_replace(listener.is_some());
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept => if let Ok((client, _)) = accepted {
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(client, target, states.clone(), Arc::clone(&counts)));
            },
            changed = states.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, target: u16, states: watch::Receiver<State>, counts: Arc<Counts>) {
    let cuts = states.borrow().cuts;
    let mut cut = states.clone();
    tokio::select! {
        () = relay(client, target, states) => {}
        _ = cut.wait_for(|state| state.cuts != cuts) => {}
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
}

async fn relay(client: TcpStream, target: u16, states: watch::Receiver<State>) {
    if states.borrow().mode == Mode::BlackHole {
        swallow(client).await;
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, &[Mode::BlackHole], states.clone()) => {}
        () = pump(from_server, to_client, &[Mode::BlackHole, Mode::Mute], states) => {}
    }
}

/// Copies one direction until it ends; once bytes were lost, nothing passes any more.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    losing: &[Mode],
    mut states: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if states.wait_for(|state| state.mode != Mode::Stall).await.is_err() {
            return;
        }
        let mode = states.borrow().mode;
        match mode {
            mode if losing.contains(&mode) => return swallow(from).await, // an end is not passed on either
            Mode::Latency(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Reads and forgets, and never closes.
async fn swallow(mut from: impl AsyncRead + Unpin) {
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await.ok();
    std::future::pending::<()>().await;
}
