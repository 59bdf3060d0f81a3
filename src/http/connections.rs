//! Accepting and ending connections. All of them live in this one future, so none outlives its stop.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::shutdown::Shutdown;

/// Most connections at a time; the next wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;
/// Longest wait for the head of a request, also between two requests of one connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for open requests after the first step of a shutdown.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Pause after a failed accept: it fails when file descriptors run out, and would again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whoever asks: the other end of the connection, which behind a proxy is the proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves until the first step of `shutdown`; then ends idle connections, waits a little for busy ones, cuts.
pub(super) async fn serve(socket: TcpListener, router: Router, shutdown: Shutdown) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(()) = connections.next() => {}
            (stream, peer) = accept(&socket), if connections.len() < MOST_CONNECTIONS => {
                connections.push(connection(stream, peer, router.clone(), &shutdown));
            }
        }
    }
    drop(socket);
    let ending = async { while connections.next().await.is_some() {} };
    tokio::select! {
        _ = timeout(END_WITHIN, ending) => {}
        () = shutdown.was_cut() => {}
    }
}

async fn accept(socket: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match socket.accept().await {
            Ok((stream, from)) => return (stream, Peer(from.ip())),
            Err(error) => {
                tracing::warn!("[http] a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, shutdown: &Shutdown) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let served = builder.serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.requested() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("[http] a connection ended early: {error}");
    }
}
