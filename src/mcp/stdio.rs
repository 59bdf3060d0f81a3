//! Standard input that tells when it has ended.
//!
//! A client may close it and read no answer any more: whoever waits until all is written waits for good then.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

/// A reader, and what is cancelled when there is no more to read.
pub(super) struct Input<R> {
    reader: R,
    ended: CancellationToken,
}

impl<R> Input<R> {
    pub(super) fn new(reader: R, ended: CancellationToken) -> Self {
        Self { reader, ended }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Input<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.reader).poll_read(context, buffer);
        if let Poll::Ready(outcome) = &read
            && (outcome.is_err() || buffer.filled().len() == before)
        {
            self.ended.cancel();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_end_is_told_when_it_is_reached() {
        let ended = CancellationToken::new();
        let mut input = Input::new(&b"one\ntwo"[..], ended.clone());
        let mut read = [0; 7];
        input.read_exact(&mut read).await.unwrap();
        assert!(!ended.is_cancelled());
        assert_eq!(input.read(&mut read).await.unwrap(), 0);
        assert!(ended.is_cancelled());
    }
}
