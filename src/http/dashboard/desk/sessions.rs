//! Who is signed in, and what each was about to do. In memory: a restart ends all sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::act::{Order, Told};
use crate::store::explain::Count;

/// A session is over this long after its sign-in, also while it is used: a page that keeps itself new uses it, too.
pub(super) const LIFE: Duration = Duration::from_hours(12);
/// Most sessions; the one that has been idle longest makes room.
const MOST: usize = 64;
/// Orders that a session remembers.
const MOST_ORDERS: usize = 32;

/// All sessions, by the digest of the id that the browser holds.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Key, Session>>);

pub(super) type Digest = [u8; 32];
type Key = Digest;

#[derive(Debug)]
struct Session {
    who: Who,
    opened: Instant,
    seen: Instant,
    orders: VecDeque<(String, Standing)>,
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(super) struct Who {
    key: Key,
    /// The name typed at sign-in.
    pub(super) name: String,
    /// What each form of the session carries, and no other site can know.
    pub(super) csrf: String,
}

/// An order, from its dry run to its end.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    Shown(Order, Shown),
    /// Confirmed; its end is not known here yet.
    Begun(Order),
    Ended(Order, Told),
}

/// A dry run that somebody has before their eyes.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) told: Told,
    at: Instant,
    pub(super) again: Option<Again>,
}

/// A dry run that was made anew, because the one before was old when it was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Same,
    Changed,
}

/// What a confirmation comes to.
#[derive(Debug)]
pub(super) enum Confirmation {
    /// To be carried out, with the jobs that waited before.
    Now(Order, Option<Vec<Count>>),
    /// Its dry run is too old to be relied on.
    Old(Order),
    /// Confirmed before: a second click does nothing.
    Before,
}

/// Text that cannot be guessed: 244 random bits.
pub(super) fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The digest of a text; comparing digests tells nothing of the text by its timing.
pub(super) fn digest(text: &str) -> Digest {
    Sha256::digest(text.as_bytes()).into()
}

impl Sessions {
    fn all(&self, now: Instant) -> MutexGuard<'_, HashMap<Key, Session>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, session| now.duration_since(session.opened) < LIFE);
        all
    }

    /// Begins a session; gives the id that the browser keeps.
    pub(super) fn open(&self, name: &str, now: Instant) -> String {
        let mut all = self.all(now);
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, session)| session.seen).map(|(key, _)| *key)
        {
            all.remove(&oldest);
        }
        let id = secret();
        let key = digest(&id);
        let who = Who { key, name: name.to_owned(), csrf: secret() };
        all.insert(key, Session { who, opened: now, seen: now, orders: VecDeque::new() });
        id
    }

    /// Whose session this is.
    pub(super) fn find(&self, id: &str, now: Instant) -> Option<Who> {
        let mut all = self.all(now);
        let session = all.get_mut(&digest(id))?;
        session.seen = now;
        Some(session.who.clone())
    }

    pub(super) fn close(&self, who: &Who) {
        self.all(Instant::now()).remove(&who.key);
    }

    fn with<T>(&self, who: &Who, what: impl FnOnce(&mut Session) -> Option<T>) -> Option<T> {
        what(self.all(Instant::now()).get_mut(&who.key)?)
    }

    /// Keeps an order with its dry run, until it is confirmed; gives its id.
    pub(super) fn keep(&self, who: &Who, order: Order, told: Told, at: Instant) -> Option<String> {
        let id = Uuid::new_v4().simple().to_string();
        self.with(who, |session| {
            if session.orders.len() >= MOST_ORDERS {
                session.orders.pop_front();
            }
            session.orders.push_back((id.clone(), Standing::Shown(order, Shown { told, at, again: None })));
            Some(id)
        })
    }

    pub(super) fn look(&self, who: &Who, id: &str) -> Option<Standing> {
        self.with(who, |session| {
            session.orders.iter().find(|(known, _)| known == id).map(|(_, one)| one.clone())
        })
    }

    /// Confirms an order whose dry run is younger than `keep`; none when there is no such order.
    pub(super) fn confirm(&self, who: &Who, id: &str, now: Instant, keep: Duration) -> Option<Confirmation> {
        self.with(who, |session| {
            let (_, standing) = session.orders.iter_mut().find(|(known, _)| known == id)?;
            let Standing::Shown(order, shown) = standing else { return Some(Confirmation::Before) };
            let order = order.clone();
            if now.duration_since(shown.at) >= keep {
                return Some(Confirmation::Old(order));
            }
            let before = shown.told.before.take();
            *standing = Standing::Begun(order.clone());
            Some(Confirmation::Now(order, before))
        })
    }

    /// Shows an order's newer dry run, unless somebody has confirmed the order by now.
    pub(super) fn show_again(&self, who: &Who, id: &str, told: Told, at: Instant) {
        self.with(who, |session| {
            let (_, standing) = session.orders.iter_mut().find(|(known, _)| known == id)?;
            let Standing::Shown(_, shown) = standing else { return None };
            let again = if told.differs(&shown.told) { Again::Changed } else { Again::Same };
            *shown = Shown { told, at, again: Some(again) };
            Some(())
        });
    }

    pub(super) fn end(&self, who: &Who, id: &str, order: Order, told: Told) {
        self.with(who, |session| {
            let (_, standing) = session.orders.iter_mut().find(|(known, _)| known == id)?;
            *standing = Standing::Ended(order, told);
            Some(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_twelve_hours_after_its_sign_in_also_while_it_is_used() {
        let (sessions, begin) = (Sessions::default(), Instant::now());
        let id = sessions.open("ann", begin);
        for hours in 0..12 {
            assert_eq!(sessions.find(&id, begin + Duration::from_hours(hours)).unwrap().name, "ann");
        }
        assert!(sessions.find(&id, begin + LIFE).is_none());
        assert!(sessions.find(&id, begin).is_none(), "and it does not come back");
        assert!(sessions.find("", begin).is_none());
    }

    #[test]
    fn an_old_dry_run_is_not_carried_out_and_says_whether_it_has_changed() {
        let (sessions, begin, keep) = (Sessions::default(), Instant::now(), Duration::from_mins(5));
        let key = sessions.open("ann", begin);
        let who = sessions.find(&key, begin).unwrap();
        let act = super::super::act::Act::Gate { key: "queue.x.enabled".to_owned(), open: true };
        let order = Order { act, reason: "why".to_owned(), name: "ann".to_owned() };
        let told = |words: &str| Told { end: "would", words: words.to_owned(), ..Told::default() };
        let id = sessions.keep(&who, order, told("it was closed"), begin).unwrap();
        let again = || match sessions.look(&who, &id) {
            Some(Standing::Shown(_, shown)) => shown.again,
            other => panic!("{other:?}"),
        };
        let confirm = |after| sessions.confirm(&who, &id, begin + after, keep).unwrap();
        assert!(matches!(confirm(keep), Confirmation::Old(_)));
        assert_eq!(again(), None);
        sessions.show_again(&who, &id, told("it was closed"), begin + keep);
        assert_eq!(again(), Some(Again::Same));
        sessions.show_again(&who, &id, told("it was open"), begin + keep);
        assert_eq!(again(), Some(Again::Changed));
        assert!(matches!(confirm(keep * 3 / 2), Confirmation::Now(..)));
        sessions.show_again(&who, &id, told("too late"), begin + keep * 2);
        assert!(matches!(confirm(keep * 2), Confirmation::Before), "once");
    }

    #[test]
    fn sessions_are_bounded_and_the_idlest_makes_room() {
        let (sessions, begin) = (Sessions::default(), Instant::now());
        let ids: Vec<String> =
            (0u64..).take(MOST).map(|n| sessions.open("ann", begin + Duration::from_secs(n))).collect();
        let late = begin + Duration::from_mins(10);
        assert!(sessions.find(&ids[0], late).is_some());
        sessions.open("bob", late);
        assert!(sessions.find(&ids[0], late).is_some() && sessions.find(&ids[1], late).is_none());
    }
}
