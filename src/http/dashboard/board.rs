//! The first page, read by one task for everybody who looks, and only while somebody does.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::pages::overview::Reading;
use super::view::Section;
use crate::error::{Error, Kind, Result};
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::shutdown::Shutdown;
use crate::store::flow;

/// Between two readings while somebody looks; half of it when somebody comes.
const EVERY: Duration = Duration::from_secs(2);
/// Longest that a reading may take.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// Longest that a request waits for a reading; longer than [`READ_WITHIN`], so that it sees a failed one, too.
const WAIT: Duration = Duration::from_millis(3500);
/// Most streams at a time; who comes later sees pages that are not kept new.
const MOST_STREAMS: usize = 64;

/// What was read last.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) read: Option<Arc<Read>>,
    /// The face stops: streams end.
    pub(super) closed: bool,
}

/// One reading, or why there is none.
#[derive(Debug)]
pub(super) struct Read {
    began: Instant,
    pub(super) at: Timestamp,
    /// Moves whenever there may be something new on any page.
    pub(super) pulse: i64,
    /// The sections as they are written, or what went wrong.
    pub(super) outcome: Result<Vec<(&'static str, String)>>,
    pub(super) sections: Arc<Vec<Section>>,
}

/// Reads the first page and keeps it.
#[derive(Debug)]
pub(in crate::http) struct Board {
    server: Server,
    pool: Pool,
    wanted: Notify,
    shown: watch::Sender<Shown>,
    pub(super) streams: Arc<Semaphore>,
}

impl Board {
    /// Opens nothing yet.
    pub(in crate::http) fn new(server: Server) -> Result<Self> {
        let session = Session { statement_timeout: READ_WITHIN, ..server.session() };
        let pool = server.pool("board", 1, &session)?;
        let streams = Arc::new(Semaphore::new(MOST_STREAMS));
        Ok(Self { server, pool, wanted: Notify::new(), shown: watch::Sender::default(), streams })
    }

    /// What is read from now on. Asks for a reading.
    pub(super) fn watch(&self) -> watch::Receiver<Shown> {
        let mut receiver = self.shown.subscribe();
        if receiver.borrow().read.as_ref().is_some_and(|read| read.began.elapsed() < 2 * EVERY) {
            receiver.mark_changed(); // young enough to be told at once
        }
        self.wanted.notify_one();
        receiver
    }

    /// A reading that is young enough; none when there is none in time.
    pub(super) async fn now(&self) -> Option<Arc<Read>> {
        let (mut shown, asked) = (self.shown.subscribe(), Instant::now());
        let is_young = |shown: &Shown| shown.read.as_ref().is_some_and(|read| read.began + EVERY / 2 > asked);
        if !is_young(&shown.borrow()) {
            self.wanted.notify_one();
        }
        timeout(WAIT, shown.wait_for(|shown| is_young(shown) || shown.closed)).await.ok()?.ok()?.read.clone()
    }

    /// Reads while somebody looks; ends with the streams when told to stop.
    pub(in crate::http) async fn run(&self, shutdown: Shutdown) {
        let work = async {
            let mut last: Option<Instant> = None;
            loop {
                if self.shown.receiver_count() == 0 {
                    self.wanted.notified().await;
                } else {
                    let _ = timeout(EVERY, self.wanted.notified()).await; // late: it is time to look again
                }
                // however many come at once: what was read a moment ago serves them, too
                if let Some(last) = last {
                    sleep_until(last + EVERY / 2).await;
                }
                let read = self.read().await;
                last = Some(read.began);
                self.note(&read);
                self.shown.send_modify(|shown| shown.read = Some(Arc::new(read)));
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.requested() => {}
        }
        self.shown.send_modify(|shown| shown.closed = true);
    }

    /// A failure is logged once, not at every reading.
    fn note(&self, read: &Read) {
        let was_down = self.shown.borrow().read.as_ref().is_some_and(|before| before.outcome.is_err());
        if let (Err(error), false) = (&read.outcome, was_down) {
            tracing::warn!("the dashboard cannot be read: {error}");
        }
    }

    async fn read(&self) -> Read {
        let began = Instant::now();
        let end = began + READ_WITHIN;
        let late =
            || Error::new(Kind::Timeout, format!("{}: no answer in {READ_WITHIN:?}", self.server.describe()));
        let work = async {
            let client = self.server.take(&self.pool).await?;
            let found = find(&client).await;
            hand_back(client, found)
        };
        let found = timeout_at(end, work).await.unwrap_or_else(|_| Err(late()));
        let at = Timestamp::now();
        let (sections, pulse, error) = match found {
            Ok((reading, pulse)) => (Arc::new(reading.sections()), pulse, None),
            Err(error) => (Arc::default(), -1, Some(error)),
        };
        let written = || sections.iter().map(|section| Ok((section.id, section.html()?))).collect();
        let outcome = error.map_or_else(written, Err);
        Read { began, at, pulse, outcome, sections }
    }
}

async fn find(client: &Object) -> Result<(Reading, i64)> {
    let (reading, pulse) = futures::future::join(Reading::read(client), flow::pulse(client)).await;
    Ok((reading?, pulse?))
}
