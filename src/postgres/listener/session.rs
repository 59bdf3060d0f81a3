//! One connection of the listener, from connect to its end.

use std::future::Future;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client};

use super::status::ListenerStatus;
use super::{Listener, ListenerState, Standing, Wake};
use crate::error::{Error, Kind, Result};
use crate::postgres::quote;
use crate::shutdown::Shutdown;

/// The server, too, shall notice within a minute that nobody is at the other end: what stands, stands as long as the session.
const ALIVE: &str = "set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3; \
                     set tcp_user_timeout = 60000";

/// Between two tries to take what shall hold.
const STAND_AGAIN: Duration = Duration::from_secs(1);

/// Why a session ended.
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// The connection was lost, or never was; `listened`: LISTEN had been active on it.
    Lost { error: Error, listened: bool },
    /// The connection answers, but the canary did not come back.
    Deaf,
    /// LISTEN was refused as something that does not exist here.
    Forbidden(Error),
}

/// Connects, listens, says Resync, and hands on what comes, until it ends.
pub(super) async fn hold(
    listener: &Listener,
    channels: &[String],
    on_wake: &(impl Fn(Wake) + Sync),
    shutdown: &Shutdown,
) -> End {
    let (server, status) = (&listener.server, listener.status.as_ref());
    let opened = tokio::select! {
        biased;
        () = shutdown.requested() => return End::Stopped,
        opened = server.connect("listener") => opened,
    };
    let (client, mut connection) = match opened {
        Ok(opened) => opened,
        Err(error) => return End::Lost { error, listened: false },
    };
    let messages = stream::poll_fn(move |cx| connection.poll_message(cx)).boxed();
    let place = server.describe();
    let standing = listener.standing.clone();
    let mut session = Session {
        client: &client,
        messages,
        status,
        on_wake,
        shutdown,
        place,
        listened: false,
        standing,
        stands: false,
        stand_again: Instant::now(),
    };
    match session.run(channels, server.connect_timeout()).await {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

fn wake(channel: &str, name: &str) -> Wake {
    let channel = channel.to_owned();
    if name.is_empty() { Wake::Channel(channel) } else { Wake::Named { channel, name: name.to_owned() } }
}

/// Ends when something shall hold that does not, or the other way round.
async fn differs(standing: &mut Option<Standing>, stands: bool, not_before: Instant) {
    if let Some(standing) = standing {
        sleep_until(not_before).await;
        if standing.wanted.wait_for(|wanted| *wanted != stands).await.is_ok() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// A session runs until there is a reason to end it.
enum Never {}

struct Session<'a, F> {
    client: &'a Client,
    messages: BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>,
    status: &'a ListenerStatus,
    on_wake: &'a F,
    shutdown: &'a Shutdown,
    place: String,
    listened: bool,
    standing: Option<Standing>,
    /// Whether it has been taken on this session.
    stands: bool,
    /// It could not be taken: not to be tried before.
    stand_again: Instant,
}

impl<F: Fn(Wake) + Sync> Session<'_, F> {
    async fn run(&mut self, channels: &[String], deadline: Duration) -> Result<Never, End> {
        self.listen(channels, deadline).await?;
        loop {
            // asked for before the deadlines are read, so that no change between the two is missed
            let changed = self.status.changed();
            let awaited = self.status.awaited();
            let own = self.status.own_canary_at();
            let next = awaited.unwrap_or(own).min(own);
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(End::Stopped),
                message = self.messages.next() => self.take(message)?,
                () = changed => {}
                () = differs(&mut self.standing, self.stands, self.stand_again) => self.stand().await?,
                () = sleep_until(next) => {
                    if awaited.is_some_and(|deadline| deadline <= Instant::now()) {
                        self.probe().await?;
                    } else {
                        self.send_own_canary().await?;
                    }
                }
            }
        }
    }

    /// LISTEN takes effect when its transaction has committed; only then is a look into the tables complete.
    async fn listen(&mut self, channels: &[String], deadline: Duration) -> Result<(), End> {
        let names = channels.iter().map(String::as_str).chain([self.status.canary_channel()]);
        let quoted: Vec<String> = names.map(quote::identifier).collect();
        let statement = format!("listen {}; {ALIVE}", quoted.join("; listen "));
        let client = self.client;
        let listening = self.meanwhile(timeout(deadline, client.batch_execute(&statement))).await?;
        self.answered(listening, "LISTEN").map_err(|end| match end {
            End::Lost { error, .. } if error.sqlstate() == Some("0A000") => End::Forbidden(error),
            other => other,
        })?;
        self.listened = true;
        if self.status.session_began() == ListenerState::Listening {
            tracing::info!(at = self.place, "listening");
        }
        (self.on_wake)(Wake::Resync);
        Ok(())
    }

    /// What shall hold has changed. A server that refuses it is listened to without it.
    async fn stand(&mut self) -> Result<(), End> {
        let Some(standing) = &self.standing else { return Ok(()) };
        let (sql, name, wanted) = (standing.sql, standing.name.clone(), *standing.wanted.borrow());
        let (client, deadline) = (self.client, self.status.canary_timeout());
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&name, Type::TEXT), (&wanted, Type::BOOL)];
        let answer = self.meanwhile(timeout(deadline, client.query_typed(sql, &parameters))).await?;
        if let Ok(Err(error)) = &answer
            && matches!(error.code(), Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::INSUFFICIENT_PRIVILEGE))
        {
            tracing::warn!("{name} will not be woken by its name: {error}");
            self.standing = None;
            return Ok(());
        }
        let rows = self.answered(answer, "what stands")?;
        if rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            self.stands = wanted;
        } else {
            self.stand_again = Instant::now() + STAND_AGAIN;
        }
        Ok(())
    }

    /// The canary is late: is the connection dead, or only deaf?
    async fn probe(&mut self) -> Result<(), End> {
        let client = self.client;
        // patience has been shown already: this only tells the two apart
        let deadline = self.status.canary_timeout() / 4;
        let answer = self.meanwhile(timeout(deadline, client.check_connection())).await?;
        self.answered(answer, "a probe")?;
        // it may have come while we asked
        if self.status.awaited().is_some() { Err(End::Deaf) } else { Ok(()) }
    }

    /// Nobody has sent a canary for long: this session does.
    async fn send_own_canary(&mut self) -> Result<(), End> {
        let Some(canary) = self.status.own_canary() else {
            return Ok(());
        };
        let notify = format!("notify {}, '{}'", quote::identifier(canary.channel()), canary.token());
        let client = self.client;
        let deadline = self.status.canary_timeout();
        let answer = self.meanwhile(timeout(deadline, client.batch_execute(&notify))).await?;
        self.answered(answer, "the canary")?;
        self.status.canary_sent(&canary);
        Ok(())
    }

    /// Waits for `work` on this connection, which moves only while its messages are taken.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(End::Stopped),
                message = self.messages.next() => self.take(message)?,
                answer = &mut work => return Ok(answer),
            }
        }
    }

    fn take(&self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> Result<(), End> {
        match message {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if notification.channel() == self.status.canary_channel() {
                    self.status.canary_returned(notification.payload());
                } else {
                    self.status.notified();
                    (self.on_wake)(wake(notification.channel(), notification.payload()));
                }
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                Err(self.lost(Error::postgres(format!("listening at {}", self.place), error)))
            }
            None => {
                let gone = format!("{} closed the connection", self.place);
                Err(self.lost(Error::new(Kind::Unreachable, gone)))
            }
        }
    }

    fn answered<T>(
        &self,
        answer: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
        what: &str,
    ) -> Result<T, End> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.lost(Error::postgres(format!("{what} at {}", self.place), error))),
            Err(_) => {
                let silent = format!("{} does not answer: the connection is half open", self.place);
                Err(self.lost(Error::new(Kind::Unreachable, silent)))
            }
        }
    }

    fn lost(&self, error: Error) -> End {
        End::Lost { error, listened: self.listened }
    }
}
