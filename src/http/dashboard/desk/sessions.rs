//! Who is signed in, and what each was about to do. In memory: a restart ends all sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::act::{Order, Told};

/// A session that asks for nothing this long is over.
pub(super) const IDLE: Duration = Duration::from_hours(12);
/// Most sessions; the one that has been idle longest makes room.
const MOST: usize = 64;
/// Orders that a session remembers.
const MOST_ORDERS: usize = 32;

/// All sessions, by the digest of the id that the browser holds.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Key, Session>>);

type Key = [u8; 32];

#[derive(Debug)]
struct Session {
    who: Who,
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
    Shown(Order, Told),
    /// Confirmed; its end is not known here yet.
    Begun(Order),
    Ended(Order, Told),
}

/// Text that cannot be guessed: 244 random bits.
pub(super) fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The digest of a text; comparing digests tells nothing of the text by its timing.
pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl Sessions {
    fn all(&self, now: Instant) -> MutexGuard<'_, HashMap<Key, Session>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, session| now.duration_since(session.seen) < IDLE);
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
        all.insert(key, Session { who, seen: now, orders: VecDeque::new() });
        id
    }

    /// Whose session this is; it is not idle now.
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
    pub(super) fn keep(&self, who: &Who, order: Order, told: Told) -> Option<String> {
        let id = Uuid::new_v4().simple().to_string();
        self.with(who, |session| {
            if session.orders.len() >= MOST_ORDERS {
                session.orders.pop_front();
            }
            session.orders.push_back((id.clone(), Standing::Shown(order, told)));
            Some(id)
        })
    }

    pub(super) fn look(&self, who: &Who, id: &str) -> Option<Standing> {
        self.with(who, |session| {
            session.orders.iter().find(|(known, _)| known == id).map(|(_, one)| one.clone())
        })
    }

    /// The order to carry out; none when that was begun before, so that a second click does nothing.
    pub(super) fn begin(&self, who: &Who, id: &str) -> Option<Order> {
        self.with(who, |session| {
            let (_, standing) = session.orders.iter_mut().find(|(known, _)| known == id)?;
            let Standing::Shown(order, _) = standing else { return None };
            let order = order.clone();
            *standing = Standing::Begun(order.clone());
            Some(order)
        })
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
    fn a_session_ends_after_twelve_idle_hours_and_not_while_it_is_used() {
        let (sessions, begin) = (Sessions::default(), Instant::now());
        let id = sessions.open("ann", begin);
        assert_eq!(sessions.find(&id, begin + IDLE / 2).unwrap().name, "ann");
        assert!(sessions.find(&id, begin + IDLE).is_some(), "it was used six hours ago");
        assert!(sessions.find(&id, begin + IDLE * 2).is_none());
        assert!(sessions.find(&id, begin).is_none(), "and it does not come back");
        assert!(sessions.find("", begin).is_none());
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
