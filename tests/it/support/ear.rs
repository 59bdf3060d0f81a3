//! Hears what is announced on channels.

use std::collections::BTreeMap;

use futures::StreamExt;
use tokio_postgres::{AsyncMessage, NoTls};

use super::SOON;

/// Payloads of notifications by channel, until one comes on `last`.
pub(crate) async fn heard(
    url: &str,
    channels: &[&str],
    last: &str,
    act: impl AsyncFnOnce(),
) -> BTreeMap<String, Vec<String>> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context)).boxed();
    let listen = format!("listen {}", channels.join("; listen "));
    let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |message| {
        if let Some(Ok(AsyncMessage::Notification(notification))) = message {
            let channel = notification.channel().to_owned();
            heard.entry(channel.clone()).or_default().push(notification.payload().to_owned());
            return channel == last;
        }
        false
    };
    let listening = client.batch_execute(&listen);
    tokio::pin!(listening);
    loop {
        tokio::select! {
            done = &mut listening => break done.unwrap(),
            message = messages.next() => drop(note(message)),
        }
    }
    let acting = act();
    tokio::pin!(acting);
    let mut acted = false;
    tokio::time::timeout(SOON, async {
        loop {
            tokio::select! {
                () = &mut acting, if !acted => acted = true,
                message = messages.next() => if note(message) { break },
            }
        }
    })
    .await
    .expect("the last notification");
    heard
}
