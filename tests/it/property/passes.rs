//! Passes and how they end, sweeps, crashes, and the end of a case.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use super::compare::{compare, errors_of, jobs_of};
use super::facts::{DOMAINS, Job};
use super::ops::{DISPATCHERS, End, PRODUCERS};
use super::world::{World, dispatcher, producer, session};

impl World {
    pub(super) async fn pass(&mut self, by: usize, domain: &'static str, limit: i32, hold: bool) {
        let busy =
            self.dispatchers.iter().enumerate().any(|(n, other)| n != by && other.holds.contains(domain));
        let dispatcher = &mut self.dispatchers[by];
        if hold && !dispatcher.is_open {
            dispatcher.client.batch_execute("begin").await.unwrap();
            dispatcher.is_open = true;
        }
        let pass = "select fn_consumer_dispatch_batch($1, $2, 'test')";
        let answer: Value = dispatcher.client.query_one(pass, &[&domain, &limit]).await.unwrap().get(0);
        assert_eq!(answer["refused"], !self.model.gate_is_open, "{answer}");
        if answer["refused"] == true {
            return;
        }
        assert_eq!(answer["busy"], busy, "{answer}");
        if busy {
            return;
        }
        if dispatcher.is_open {
            dispatcher.holds.insert(domain);
        }
        let done = compare(&self.model, &dispatcher.client, domain, &dispatcher.held, &answer).await;
        if done.read.is_empty() {
            return;
        }
        if dispatcher.is_open { dispatcher.held.push(done) } else { self.model.passes.push(done) }
    }

    pub(super) async fn end_pass(&mut self, by: usize, how: End) {
        let dispatcher = &mut self.dispatchers[by];
        if !dispatcher.is_open {
            return;
        }
        let held = std::mem::take(&mut dispatcher.held);
        dispatcher.is_open = false;
        dispatcher.holds.clear();
        match how {
            End::Commit => {
                dispatcher.client.batch_execute("commit").await.unwrap();
                self.model.passes.extend(held);
            }
            End::Rollback => dispatcher.client.batch_execute("rollback").await.unwrap(),
            End::Kill => {
                self.kill(self.dispatchers[by].pid).await;
                self.dispatchers[by] = self::dispatcher(&self.url, by).await;
            }
        }
    }

    pub(super) async fn sweep(&mut self) {
        let sweep = "select fn_event_sweep(interval '0')";
        let answer: Value = self.observer.query_one(sweep, &[]).await.unwrap().get(0);
        let missing = self.model.without_arrival();
        for domain in DOMAINS {
            let of_domain = missing.iter().filter(|n| self.model.events[**n].fact.domain == domain).count();
            assert_eq!(
                answer["domains"][domain].as_u64().unwrap_or(0),
                of_domain as u64,
                "{domain}: {answer}"
            );
        }
        for n in missing {
            self.model.events[n].has_arrival = true;
        }
    }

    /// All sessions end. Prepared transactions stay; of the passes, the last may be gone that did not wait for the
    /// disk, and with each its jobs.
    pub(super) async fn crash(&mut self) {
        self.server.kill9().await.unwrap();
        self.server.start_again().await.unwrap();
        (self.observer, _) = session(&self.url, true).await;
        for producer in &mut self.producers {
            *producer = self::producer(&self.url).await;
        }
        for (n, dispatcher) in self.dispatchers.iter_mut().enumerate() {
            *dispatcher = self::dispatcher(&self.url, n).await;
        }
        let kept = "select coalesce(array_agg(pass_id), '{}') from dispatch_pass";
        let kept: Vec<i64> = self.observer.query_one(kept, &[]).await.unwrap().get(0);
        let kept: BTreeSet<i64> = kept.into_iter().collect();
        let lost = self.model.passes.iter().filter(|pass| pass.id > 0 && !kept.contains(&pass.id));
        let lost: Vec<i64> = lost.map(|pass| pass.id).collect();
        while self.model.passes.last().is_some_and(|pass| lost.contains(&pass.id)) {
            self.model.passes.pop();
        }
    }

    /// Everything comes to rest; then the whole of the database is compared with the whole of the model.
    pub(super) async fn settle(mut self) {
        self.gate(true).await;
        for at in 0..PRODUCERS {
            self.end(at, true).await;
        }
        while !self.prepared.is_empty() {
            self.finish(true).await;
        }
        for by in 0..DISPATCHERS {
            self.end_pass(by, End::Commit).await;
        }
        self.sweep().await;
        for domain in DOMAINS {
            while !self.model.unread(domain, &[]).is_empty() {
                self.pass(0, domain, 7, false).await;
            }
        }
        self.whole().await;
    }

    async fn whole(&self) {
        let unread = "select count(fn_dispatch_unread(c.event_domain)) from dispatch_cursor c
                      where c.event_domain = any ($1)";
        let unread = self.observer.query_one(unread, &[&DOMAINS.to_vec()]).await.unwrap();
        assert_eq!(unread.get::<_, i64>(0), 0, "something is unread");
        let mut jobs: Vec<Job> = self.model.passes.iter().flat_map(|pass| pass.jobs.clone()).collect();
        jobs.sort();
        assert_eq!(jobs_of(&self.observer, None).await, jobs);
        let mut errors: Vec<_> = self.model.passes.iter().flat_map(|pass| pass.errors.clone()).collect();
        errors.sort();
        assert_eq!(errors_of(&self.observer, None).await, errors);
        let outbox = "select coalesce(array_agg(id order by id), '{}') from event_outbox where event_domain = any ($1)";
        let outbox: Vec<Uuid> = self.observer.query_one(outbox, &[&DOMAINS.to_vec()]).await.unwrap().get(0);
        let committed = self.model.events.iter().filter(|event| event.committed);
        let mut committed: Vec<Uuid> = committed.map(|event| event.id).collect();
        committed.sort();
        assert_eq!(outbox, committed);
    }
}
