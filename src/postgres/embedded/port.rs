//! A TCP port that stays free over restarts.

use std::net::TcpListener;

use crate::error::{Error, Kind, Result};

/// Below the ports that Linux (32768 and up) and macOS (49152 and up) give to outgoing connections, so
/// that no client takes it while the server restarts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 on which nobody listens now. Another process may take it before you do: try again.
pub fn free() -> Result<u16> {
    let mut last = None;
    for _ in 0..100 {
        let random = uuid::Uuid::new_v4().as_u128();
        let port = FIRST + u16::try_from(random % u128::from(COUNT)).unwrap_or_default();
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(e) => last = Some(e),
        }
    }
    let error = Error::new(Kind::Io, "no free TCP port on 127.0.0.1 in a hundred tries");
    Err(match last {
        Some(source) => error.because(source),
        None => error,
    })
}
