//! A client that does what it is told: one socket, plain bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::SOON;

/// An answer, header names in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[]).await
}

/// Any request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    send(address, method, path, headers, "").await
}

/// As [`request`], with a body; its length is told.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    exchange(stream, method, path, headers, body).await
}

/// As [`send`], from an address of this machine.
pub(crate) async fn send_from(
    source: &str,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    let stream = socket.connect(address).await.unwrap();
    exchange(stream, "POST", path, headers, body).await
}

/// POST by somebody who goes away without waiting for the answer; ends when the server has noticed.
pub(crate) async fn hang_up(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    when: impl AsyncFnOnce(),
) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(written("POST", path, headers, body).as_bytes()).await.unwrap();
    when().await;
    stream.shutdown().await.unwrap();
    let closed = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    let _ = closed.expect("it is noticed in time"); // also when it is reset
}

fn written(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n{body}")
}

async fn exchange(
    mut stream: TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    stream.write_all(written(method, path, headers, body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    parse(&answer)
}

/// One answer on a connection that stays open.
pub(crate) async fn keep(stream: &mut TcpStream, path: &str) -> Answer {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let (mut answer, mut piece) = (String::new(), [0; 4096]);
    loop {
        let read = timeout(SOON, stream.read(&mut piece)).await.expect("an answer in time").unwrap();
        assert_ne!(read, 0, "closed in the middle: {answer}");
        answer.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let length: usize = parse(head).headers["content-length"].parse().unwrap();
            if body.len() >= length {
                return parse(&answer);
            }
        }
    }
}

fn parse(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    };
    Answer {
        status: status.unwrap_or_else(|| panic!("not HTTP: {answer:?}")),
        headers: lines.map(header).collect(),
        body: body.to_owned(),
    }
}
