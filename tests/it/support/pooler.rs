//! What a transaction pooler does to LISTEN, played by a proxy that reads Postgres's message frames.

use reveille::postgres::embedded::free_port;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

const SSL_REQUEST: u32 = 80_877_103;

/// How notifications are kept from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// LISTEN is answered as if it worked, and no notification ever comes.
    Deaf,
    /// LISTEN is refused with 0A000.
    Forbidding,
    /// All clients share one session of the server, a transaction at a time, and no notification comes.
    Sharing,
}

/// A pooler on 127.0.0.1, in the runtime of its test. Dropping it closes everything.
pub(crate) struct Pooler {
    port: u16,
    task: JoinHandle<()>,
}

impl Pooler {
    /// Connects to `target` on 127.0.0.1 for each client.
    pub(crate) async fn to(target: u16, pooling: Pooling) -> Self {
        let (listener, port) = loop {
            let port = free_port().unwrap();
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                break (listener, port);
            }
        };
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            let shared = Arc::new(Mutex::new(None));
            while let Ok((client, _)) = listener.accept().await {
                if pooling == Pooling::Sharing {
                    clients.spawn(share(client, target, Arc::clone(&shared)));
                } else {
                    clients.spawn(serve(client, target, pooling));
                }
            }
        });
        Self { port, task }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The first message of a client, after its question for TLS.
async fn startup(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut startup = untyped(client).await?;
    while startup[4..].starts_with(&SSL_REQUEST.to_be_bytes()) {
        client.write_all(b"N").await.ok()?;
        startup = untyped(client).await?;
    }
    Some(startup)
}

/// The one session that all share, and how the server greeted it.
struct Shared {
    server: TcpStream,
    greeting: Vec<(u8, Vec<u8>)>,
}

/// One client of the shared session; it gets the session from its first message to the end of the transaction.
async fn share(mut client: TcpStream, target: u16, shared: Arc<Mutex<Option<Shared>>>) -> Option<()> {
    let startup = startup(&mut client).await?;
    let mut turn = shared.lock().await;
    if turn.is_none() {
        *turn = Some(open(&mut client, target, &startup).await?);
    } else {
        write(&mut client, b'R', &[0; 4]).await?;
        for (kind, body) in &turn.as_ref()?.greeting {
            write(&mut client, *kind, body).await?;
        }
    }
    drop(turn);
    loop {
        let mut message = typed(&mut client).await?;
        let mut turn = shared.lock().await;
        let server = &mut turn.as_mut()?.server;
        loop {
            let (kind, body) = message;
            if kind == b'X' {
                return None;
            }
            write(server, kind, &body).await?;
            if matches!(kind, b'Q' | b'S') && answer(server, &mut client).await? == b'I' {
                break;
            }
            message = typed(&mut client).await?;
        }
    }
}

/// Passes an answer on; its last message says whether a transaction is open.
async fn answer(server: &mut TcpStream, client: &mut TcpStream) -> Option<u8> {
    loop {
        let (kind, body) = typed(server).await?;
        if kind != b'A' {
            write(client, kind, &body).await?;
        }
        if kind == b'Z' {
            return body.first().copied();
        }
    }
}

/// Logs the first client in.
async fn open(client: &mut TcpStream, target: u16, startup: &[u8]) -> Option<Shared> {
    let mut server = TcpStream::connect(("127.0.0.1", target)).await.ok()?;
    server.write_all(startup).await.ok()?;
    let mut greeting = Vec::new();
    loop {
        let (kind, body) = typed(&mut server).await?;
        write(client, kind, &body).await?;
        match kind {
            // asked for a password, or for more of one: 0 is welcome, 12 the end of SCRAM
            b'R' if !matches!(body[3], 0 | 12) => {
                let (kind, body) = typed(client).await?;
                write(&mut server, kind, &body).await?;
            }
            b'R' => {}
            kind => greeting.push((kind, body)),
        }
        if kind == b'Z' {
            return Some(Shared { server, greeting });
        }
    }
}

/// One client; any error ends it.
async fn serve(mut client: TcpStream, target: u16, pooling: Pooling) -> Option<()> {
    let startup = startup(&mut client).await?;
    let mut server = TcpStream::connect(("127.0.0.1", target)).await.ok()?;
    server.write_all(&startup).await.ok()?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        if pooling == Pooling::Deaf {
            return copy(&mut from_client, &mut to_server).await.ok().map(drop);
        }
        loop {
            let (kind, body) = typed(&mut from_client).await?;
            let is_listen = kind == b'Q' && body.starts_with(b"listen ");
            let body = if is_listen { REFUSE.to_vec() } else { body };
            write(&mut to_server, kind, &body).await?;
        }
    };
    let down = async {
        loop {
            let (kind, body) = typed(&mut from_server).await?;
            if kind != b'A' {
                write(&mut to_client, kind, &body).await?;
            }
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

const REFUSE: &[u8] =
    b"do $$ begin raise exception 'LISTEN is not supported here' using errcode = '0A000'; end $$\0";

/// A message without a type, as the first ones of a client are.
async fn untyped(from: &mut TcpStream) -> Option<Vec<u8>> {
    let length = from.read_u32().await.ok()?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(usize::try_from(length).ok()?, 0);
    from.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

/// Type and body of a message.
async fn typed(from: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let kind = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
    from.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), kind: u8, body: &[u8]) -> Option<()> {
    let length = u32::try_from(body.len() + 4).ok()?;
    let message = [&[kind][..], &length.to_be_bytes(), body].concat();
    to.write_all(&message).await.ok()
}
