//! Confirmed orders, carried out one after another by one loop: a request only waits for it, so that what was confirmed
//! is done, and told, also when its browser has gone away.

use std::time::Duration;

use tokio::sync::mpsc::{Permit, Receiver, Sender};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Desk;
use super::act::{Order, Told};
use super::carry::COUNT_WITHIN;
use super::sessions::Who;
use crate::model::moment::printable;
use crate::shutdown::Shutdown;
use crate::store::explain::Count;

/// Most that wait; whoever confirms then is asked to do it again.
const MOST_WAITING: usize = 16;
/// Longest for the one in hand after the first step of a shutdown; as long as open requests have.
const END_WITHIN: Duration = Duration::from_secs(1);

/// The way to the loop.
#[derive(Debug)]
pub(super) struct Orders {
    way: Sender<Confirmed>,
    /// The loop holds it as long as it runs.
    next: Mutex<Receiver<Confirmed>>,
}

/// An order on that way.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub(super) order: Order,
    /// Jobs that waited before it.
    pub(super) before: Option<Vec<Count>>,
    /// Not begun later, and given up then.
    pub(super) end: Instant,
    /// The session and the order's id there, where its end is kept; none of a program's.
    pub(super) kept: Option<(Who, String)>,
    /// Whoever waits for it, perhaps no longer.
    pub(super) told: oneshot::Sender<Told>,
}

impl Orders {
    pub(super) fn new() -> Self {
        let (way, next) = mpsc::channel(MOST_WAITING);
        Self { way, next: Mutex::new(next) }
    }

    /// A place on the way; none while too many wait, or the face stops.
    pub(super) fn place(&self) -> Option<Permit<'_, Confirmed>> {
        self.way.try_reserve().ok()
    }
}

/// What the loop answered; none when it has not by the time that it should have.
pub(super) async fn outcome(told: oneshot::Receiver<Told>, end: Instant) -> Option<Told> {
    timeout_at(end + COUNT_WITHIN, told).await.ok()?.ok()
}

impl Desk {
    /// Carries confirmed orders out. From the first step of `shutdown` on it takes no more, and gives the one in hand a
    /// moment to end.
    pub(in crate::http) async fn run(&self, shutdown: Shutdown) {
        let mut next = self.orders.next.lock().await;
        loop {
            let confirmed = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(confirmed) = next.recv() => confirmed,
            };
            let words = words(&confirmed.order);
            tokio::select! {
                () = self.carry(confirmed) => {}
                () = ending(&shutdown) => tracing::warn!("[http] {words}: given up at the stop, its end is not known"),
            }
        }
        next.close();
        while let Some(Confirmed { order, kept, told, .. }) = next.recv().await {
            self.end(order, kept, told, Told::nothing("the sidecar stops"));
        }
    }

    async fn carry(&self, confirmed: Confirmed) {
        let Confirmed { order, before, end, kept, told } = confirmed;
        let came = if Instant::now() < end {
            self.act(&order, end).await
        } else {
            Told::nothing("its time was over before its turn came")
        };
        tracing::info!(http.by = %printable(&order.actor()), http.end = came.end, "[http] {}: {}", words(&order), came.end);
        let after = if came.end == "done" {
            self.counts(&order.act, Instant::now() + COUNT_WITHIN).await
        } else {
            None
        };
        self.end(order, kept, told, Told { before, ..came }.beside(after.as_deref()));
    }

    /// Keeps the end where the page looks for it, and tells whoever still waits.
    fn end(&self, order: Order, kept: Option<(Who, String)>, told: oneshot::Sender<Told>, came: Told) {
        if let Some((who, id)) = kept {
            self.sessions.end(&who, &id, order, came.clone());
        }
        let _ = told.send(came); // nobody need wait any more
    }
}

/// Who does what, for the log.
fn words(order: &Order) -> String {
    format!("{}: {}", printable(&order.actor()), printable(&order.act.words()))
}

/// Ends when the order in hand has had its moment after the first step, or at the second.
async fn ending(shutdown: &Shutdown) {
    let moment = async {
        shutdown.requested().await;
        tokio::time::sleep(END_WITHIN).await;
    };
    tokio::select! {
        () = moment => {}
        () = shutdown.was_cut() => {}
    }
}
