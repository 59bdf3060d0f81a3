//! Readiness by latches: each component sets its own, whoever reports reads them all.
//!
//! ```
//! use reveille::latch::Readiness;
//!
//! let readiness = Readiness::new();
//! let schema = readiness.latch("schema", "not checked yet");
//! assert!(!readiness.is_complete());
//! schema.set("phase 6");
//! assert!(readiness.is_complete());
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// How one latch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The component's name.
    pub latch: &'static str,
    /// Whether the latch is set.
    pub ready: bool,
    /// Set: more about it, may be empty. Not set: what is missing.
    pub words: Cow<'static, str>,
}

/// All latches of a process. Cloning is cheap; all clones share the latches.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    standings: Arc<watch::Sender<Vec<Standing>>>,
}

/// The latch of one component. Cloning is cheap; setting what is set already costs a lock and wakes nobody.
#[derive(Debug, Clone)]
pub struct Latch {
    standings: Arc<watch::Sender<Vec<Standing>>>,
    place: usize,
}

impl Readiness {
    /// No latches yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a latch that is not set; `missing` says what it waits for. Names must differ: they label a metric.
    pub fn latch(&self, name: &'static str, missing: impl Into<Cow<'static, str>>) -> Latch {
        let mut place = 0;
        self.standings.send_modify(|standings| {
            place = standings.len();
            standings.push(Standing { latch: name, ready: false, words: missing.into() });
        });
        Latch { standings: Arc::clone(&self.standings), place }
    }

    /// Each latch as it stands now, in the order of their making.
    pub fn standings(&self) -> Vec<Standing> {
        self.standings.borrow().clone()
    }

    /// Whether every latch is set.
    pub fn is_complete(&self) -> bool {
        all_set(&self.standings.borrow())
    }

    /// Ends as soon as every latch is set.
    pub async fn completed(&self) {
        // the sender lives as long as `self`, so the only end is the wanted one
        let _ = self.standings.subscribe().wait_for(|standings| all_set(standings)).await;
    }
}

impl Latch {
    /// A latch that belongs to no [`Readiness`], not set.
    pub fn alone(name: &'static str, missing: impl Into<Cow<'static, str>>) -> Self {
        Readiness::new().latch(name, missing)
    }

    /// The component is ready; `words` says more about it, or nothing.
    pub fn set(&self, words: impl Into<Cow<'static, str>>) {
        self.put(true, words.into());
    }

    /// The component is not ready any more; `missing` says what it waits for.
    pub fn clear(&self, missing: impl Into<Cow<'static, str>>) {
        self.put(false, missing.into());
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.standings.borrow()[self.place].clone()
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.standings.borrow()[self.place].ready
    }

    fn put(&self, ready: bool, words: Cow<'static, str>) {
        self.standings.send_if_modified(|standings| {
            let standing = &mut standings[self.place];
            let news = standing.ready != ready || standing.words != words;
            (standing.ready, standing.words) = (ready, words);
            news
        });
    }
}

fn all_set(standings: &[Standing]) -> bool {
    standings.iter().all(|standing| standing.ready)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn readiness_is_complete_while_every_latch_is_set() {
        let readiness = Readiness::new();
        let (schema, dispatcher) = (readiness.latch("schema", "a"), readiness.latch("dispatcher", "b"));
        let clone = readiness.clone();
        let mut completed = Box::pin(clone.completed());
        dispatcher.set("");
        assert!((&mut completed).now_or_never().is_none());
        assert_eq!(schema.standing(), Standing { latch: "schema", ready: false, words: "a".into() });
        schema.clone().set("phase 6");
        completed.await;
        assert!(readiness.is_complete() && schema.is_set());
        dispatcher.clear("outage");
        assert!(!readiness.is_complete());
        let words: Vec<_> = readiness.standings().into_iter().map(|standing| standing.words).collect();
        assert_eq!(words, ["phase 6", "outage"]);
    }
}
