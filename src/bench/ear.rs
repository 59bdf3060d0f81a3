//! A connection that listens, and says when each notification came.

use std::time::Instant;

use futures::{StreamExt, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client};

use super::stage::Stage;
use crate::error::Result;
use crate::store;

/// A listening connection; it ends when this is dropped.
pub(super) struct Ear {
    client: Client,
    task: JoinSet<()>,
}

impl Ear {
    /// Listens on `channel`; the other end gives the payload and the moment of each notification.
    pub(super) async fn open(
        stage: &Stage,
        channel: &str,
    ) -> Result<(Self, UnboundedReceiver<(String, Instant)>)> {
        let (client, mut connection) = stage.server.connect("bench-ear").await?;
        let (sender, receiver) = unbounded_channel();
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let now = Instant::now();
                if let AsyncMessage::Notification(note) = message
                    && sender.send((note.payload().to_owned(), now)).is_err()
                {
                    return;
                }
            }
        });
        store::bench::listen(&client, channel).await?;
        Ok((Self { client, task }, receiver))
    }

    /// Hears no more.
    pub(super) fn close(mut self) {
        self.task.abort_all();
        drop(self.client);
    }
}
