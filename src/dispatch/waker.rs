//! Folds notifications into one flag a domain. The listener calls it in line; it never blocks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::pass::FoundBy;
use crate::postgres::listener::Wake;

/// Channel prefix of a domain's wake-up.
const PREFIX: &str = "queue_wake_";
/// Channel on which consumers, gates and pauses are announced.
const CONTROL: &str = "queue_control";

/// What to look at, and why. Shared by the listener and the dispatcher.
#[derive(Debug, Default)]
pub struct Waker {
    flags: Mutex<Flags>,
    set: Notify,
}

#[derive(Debug, Default)]
struct Flags {
    domains: BTreeMap<String, FoundBy>,
    /// Look at every domain.
    all: Option<FoundBy>,
}

impl Waker {
    /// The channels to listen on for these domains.
    pub fn channels(domains: &[String]) -> Vec<String> {
        domains.iter().map(|domain| channel(domain)).chain([CONTROL.to_owned()]).collect()
    }

    /// Takes note of a notification or a lost connection.
    pub fn wake(&self, wake: Wake) {
        let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        match wake {
            Wake::Channel(name) | Wake::Named { channel: name, .. } => match name.strip_prefix(PREFIX) {
                Some(domain) => {
                    flags.domains.insert(domain.to_owned(), FoundBy::Notify);
                }
                None => flags.all = Some(FoundBy::Control),
            },
            Wake::Resync => flags.all = Some(FoundBy::Start),
        }
        drop(flags);
        self.set.notify_one();
    }

    /// Ends when something was noted since the last call of [`Self::take`].
    pub(super) async fn woken(&self) {
        self.set.notified().await;
    }

    /// Takes the flags: domains to look at, and why to look at all of them.
    pub(super) fn take(&self) -> (BTreeMap<String, FoundBy>, Option<FoundBy>) {
        let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut flags.domains), flags.all.take())
    }
}

/// The channel of a domain.
pub(super) fn channel(domain: &str) -> String {
    format!("{PREFIX}{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_notifications_becomes_one_flag_a_domain() {
        let waker = Waker::default();
        for _ in 0..1000 {
            waker.wake(Wake::Channel("queue_wake_iu".into()));
        }
        waker.wake(Wake::Channel("queue_control".into()));
        waker.woken().await;
        let (domains, all) = waker.take();
        assert_eq!(domains, BTreeMap::from([("iu".to_owned(), FoundBy::Notify)]));
        assert_eq!(all, Some(FoundBy::Control));
        assert_eq!(waker.take(), (BTreeMap::new(), None));
    }
}
