//! What is leased under the agent's name, as far as this process was told.

use std::collections::BTreeMap;

use tokio::time::Instant;
use uuid::Uuid;

/// Jobs and their leases. One that has ended is not ours any more, and is forgotten by whoever looks next.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<Uuid, Lease>);

#[derive(Debug, Clone, Copy)]
struct Lease {
    token: i64,
    ends: Instant,
    /// Whether the agent has heard of it.
    is_told: bool,
}

impl Held {
    /// These are ours until `ends`.
    pub(super) fn add(&mut self, jobs: impl IntoIterator<Item = (Uuid, i64)>, ends: Instant) {
        let lease = |token| Lease { token, ends, is_told: true };
        self.0.extend(jobs.into_iter().map(|(id, token)| (id, lease(token))));
    }

    /// A job is not ours any more.
    pub(super) fn remove(&mut self, (id, token): (Uuid, i64)) {
        if self.0.get(&id).is_some_and(|lease| lease.token == token) {
            self.0.remove(&id);
        }
    }

    /// Nobody will hear of these: they are to be given back.
    pub(super) fn untold(&mut self, jobs: impl IntoIterator<Item = (Uuid, i64)>) {
        for (id, token) in jobs {
            if let Some(lease) = self.0.get_mut(&id).filter(|lease| lease.token == token) {
                lease.is_told = false;
            }
        }
    }

    fn at(&mut self, now: Instant) -> impl Iterator<Item = (Uuid, Lease)> {
        self.0.retain(|_, lease| lease.ends > now);
        self.0.iter().map(|(id, lease)| (*id, *lease))
    }

    /// A job that the agent works at, if there is one.
    pub(super) fn current(&mut self, now: Instant) -> Option<Uuid> {
        self.at(now).find(|(_, lease)| lease.is_told).map(|(id, _)| id)
    }

    /// All jobs.
    pub(super) fn known(&mut self, now: Instant) -> Vec<Uuid> {
        self.at(now).map(|(id, _)| id).collect()
    }

    /// All of them, or only those that nobody has heard of.
    pub(super) fn leases(&mut self, now: Instant, only_untold: bool) -> Vec<(Uuid, i64)> {
        self.at(now)
            .filter(|(_, lease)| !(only_untold && lease.is_told))
            .map(|(id, it)| (id, it.token))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_has_ended_is_forgotten_and_what_is_renewed_is_not() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let [short, long] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let mut held = Held::default();
        held.add([(short, 10), (long, 20)], now + second);
        assert_eq!(held.current(now), Some(short));
        held.add([(long, 20)], now + second * 9);
        assert_eq!(held.known(now + second), [long]);
        assert_eq!(held.leases(now, false), [(long, 20)], "for good");
    }

    #[test]
    fn a_job_of_a_later_lease_is_left_alone_and_one_that_nobody_heard_of_is_no_work() {
        let (now, until) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let [told, untold] = [Uuid::from_u128(2), Uuid::from_u128(1)];
        let mut held = Held::default();
        held.add([(told, 10), (untold, 20)], until);
        held.untold([(untold, 20), (told, 9)]);
        held.remove((told, 9));
        assert_eq!(held.current(now), Some(told));
        assert_eq!(held.leases(now, true), [(untold, 20)]);
        held.remove((told, 10));
        assert_eq!((held.current(now), held.known(now)), (None, vec![untold]));
    }
}
