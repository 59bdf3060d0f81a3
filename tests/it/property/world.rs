//! The real server beside the model: each thing that happens is done to both, and then they are compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use reveille::postgres::embedded::Throwaway;
use tokio_postgres::Client;
use uuid::Uuid;

use super::facts::{Consumer, DOMAINS, Fact, Starts};
use super::model::{Event, Model, Pass};
use super::ops::{DISPATCHERS, Op, PRODUCERS, Way};
use super::write::{done, write};
use crate::support::{SOON, connect, open_gates, wait_until};

/// A producer's connection and its transaction.
pub(super) struct Producer {
    pub(super) client: Client,
    pub(super) pid: i32,
    pub(super) replica: bool,
    pub(super) open: Option<Open>,
}

/// What an open transaction has written.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) events: Vec<usize>,
    /// How many events there were at each savepoint.
    pub(super) savepoints: Vec<usize>,
    pub(super) quiet: bool,
}

/// A connection that runs passes, and those that it has not committed.
pub(super) struct Dispatcher {
    pub(super) client: Client,
    pub(super) pid: i32,
    pub(super) is_open: bool,
    pub(super) holds: BTreeSet<&'static str>,
    pub(super) held: Vec<Pass>,
}

pub(super) struct World {
    pub(super) server: Arc<Throwaway>,
    pub(super) url: String,
    pub(super) model: Model,
    pub(super) observer: Client,
    pub(super) producers: Vec<Producer>,
    pub(super) dispatchers: Vec<Dispatcher>,
    /// Prepared transactions: name and events.
    pub(super) prepared: Vec<(String, Vec<usize>)>,
}

async fn pid(client: &Client) -> i32 {
    client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// A connection whose commits are safe, or not even that, as the sidecar's.
pub(super) async fn session(url: &str, safe: bool) -> (Client, i32) {
    let client = connect(url).await;
    let on = if safe { "on" } else { "off" };
    client.batch_execute(&format!("set synchronous_commit = {on}")).await.unwrap();
    let pid = pid(&client).await;
    (client, pid)
}

pub(super) async fn producer(url: &str) -> Producer {
    let (client, pid) = session(url, true).await;
    Producer { client, pid, replica: false, open: None }
}

pub(super) async fn dispatcher(url: &str, n: usize) -> Dispatcher {
    let (client, pid) = session(url, n == 0).await;
    Dispatcher { client, pid, is_open: false, holds: BTreeSet::new(), held: Vec::new() }
}

impl World {
    /// A fresh database, gates open, with the witnesses alone.
    pub(super) async fn new(server: Arc<Throwaway>, url: String) -> Self {
        let (observer, _) = session(&url, true).await;
        open_gates(&observer).await;
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            producers.push(producer(&url).await);
        }
        let mut dispatchers = Vec::new();
        for n in 0..DISPATCHERS {
            dispatchers.push(dispatcher(&url, n).await);
        }
        let world =
            Self { server, url, model: Model::new(), observer, producers, dispatchers, prepared: Vec::new() };
        for domain in DOMAINS {
            world.put(&Consumer::witness(domain)).await;
        }
        world
    }

    /// Does one thing to both, as far as it can be done now.
    pub(super) async fn step(&mut self, op: &Op) {
        match op {
            Op::Begin { at, isolation, quiet } => self.begin(*at, isolation, *quiet).await,
            Op::Insert { at, way, facts } => self.insert(*at, *way, facts).await,
            Op::Savepoint { at } => self.savepoint(*at).await,
            Op::RollbackTo { at } => self.rollback_to(*at).await,
            Op::Commit { at } => self.end(*at, true).await,
            Op::Abort { at } => self.end(*at, false).await,
            Op::KillProducer { at } => {
                self.kill(self.producers[*at].pid).await;
                self.producers[*at] = producer(&self.url).await;
            }
            Op::Prepare { at } => self.prepare(*at).await,
            Op::Finish { commit } => self.finish(*commit).await,
            Op::Replica { at, on } => self.replica(*at, *on).await,
            Op::Trigger { on } => self.trigger(*on).await,
            Op::Put(consumer) => {
                let starts_at = self.put(consumer).await;
                self.model.consumers.insert(consumer.name(), (consumer.clone(), starts_at));
            }
            Op::Enable { domain, slot, on } => self.enable(&format!("{domain}_{slot}"), *on).await,
            Op::Gate { open } => self.gate(*open).await,
            Op::Pass { by, domain, limit, hold } => self.pass(*by, domain, *limit, *hold).await,
            Op::EndPass { by, how } => self.end_pass(*by, *how).await,
            Op::Sweep => self.sweep().await,
            Op::Prune => {
                let prune = "select fn_dispatch_prune(interval '0', 1000)";
                self.observer.query_one(prune, &[]).await.unwrap();
            }
            Op::Crash => self.crash().await,
        }
    }

    // -- producers

    async fn begin(&mut self, at: usize, isolation: &str, quiet: bool) {
        let producer = &mut self.producers[at];
        if producer.open.is_some() {
            return;
        }
        let silence = if quiet { "; set local reveille.notify = off" } else { "" };
        let begin = format!("begin isolation level {isolation}{silence}");
        producer.client.batch_execute(&begin).await.unwrap();
        producer.open = Some(Open { quiet, ..Open::default() });
    }

    async fn insert(&mut self, at: usize, way: Way, facts: &[Fact]) {
        let producer = &mut self.producers[at];
        let ids: Vec<Uuid> = facts.iter().map(|_| Uuid::new_v4()).collect();
        let written = write(&producer.client, way, &ids, facts).await;
        if !done(&written) {
            self.end(at, false).await;
            return;
        }
        let created =
            "select (extract(epoch from created_at) * 1000000)::bigint from event_outbox where id = $1";
        let created_at = producer.client.query_one(created, &[&ids[0]]).await.unwrap().get(0);
        let has_arrival = self.model.trigger_is_on && !producer.replica;
        for (id, fact) in ids.into_iter().zip(facts) {
            let committed = producer.open.is_none();
            if let Some(open) = &mut producer.open {
                open.events.push(self.model.events.len());
            }
            self.model.events.push(Event { id, fact: fact.clone(), created_at, committed, has_arrival });
        }
    }

    async fn savepoint(&mut self, at: usize) {
        let producer = &mut self.producers[at];
        if let Some(open) = &mut producer.open {
            producer.client.batch_execute("savepoint here").await.unwrap();
            open.savepoints.push(open.events.len());
        }
    }

    async fn rollback_to(&mut self, at: usize) {
        let producer = &mut self.producers[at];
        if let Some(open) = &mut producer.open
            && let Some(kept) = open.savepoints.last()
        {
            producer.client.batch_execute("rollback to savepoint here").await.unwrap();
            open.events.truncate(*kept);
        }
    }

    pub(super) async fn end(&mut self, at: usize, commit: bool) {
        let producer = &mut self.producers[at];
        let Some(open) = producer.open.take() else { return };
        let ended = producer.client.batch_execute(if commit { "commit" } else { "rollback" }).await;
        if done(&ended) && commit {
            self.committed(&open.events);
        }
    }

    fn committed(&mut self, events: &[usize]) {
        for n in events {
            self.model.events[*n].committed = true;
        }
    }

    async fn prepare(&mut self, at: usize) {
        let producer = &mut self.producers[at];
        if self.prepared.len() >= 5 || !producer.open.as_ref().is_some_and(|open| open.quiet) {
            return;
        }
        let Some(open) = producer.open.take() else { return };
        let name = format!("{}_{}", Uuid::new_v4().simple(), at);
        let prepared = producer.client.batch_execute(&format!("prepare transaction '{name}'")).await;
        if done(&prepared) {
            self.prepared.push((name, open.events));
        }
    }

    pub(super) async fn finish(&mut self, commit: bool) {
        let Some((name, events)) = self.prepared.pop() else { return };
        let how = if commit { "commit" } else { "rollback" };
        self.observer.batch_execute(&format!("{how} prepared '{name}'")).await.unwrap();
        if commit {
            self.committed(&events);
        }
    }

    async fn replica(&mut self, at: usize, on: bool) {
        let producer = &mut self.producers[at];
        if producer.open.is_none() {
            let role = if on { "replica" } else { "origin" };
            let set = format!("set session_replication_role = {role}");
            producer.client.batch_execute(&set).await.unwrap();
            producer.replica = on;
        }
    }

    /// Needs a lock that no producer's transaction lets go.
    async fn trigger(&mut self, on: bool) {
        if self.producers.iter().all(|producer| producer.open.is_none()) && self.prepared.is_empty() {
            let how = if on { "enable" } else { "disable" };
            let alter = format!("alter table event_outbox {how} trigger reveille_event_arrival");
            self.observer.batch_execute(&alter).await.unwrap();
            self.model.trigger_is_on = on;
        }
    }

    // -- operators

    /// Writes a consumer; answers the moment from which it wants events.
    async fn put(&self, consumer: &Consumer) -> i64 {
        let put = "select fn_consumer_put($1, 'test', 'sql', true)";
        self.observer.query_one(put, &[&consumer.row()]).await.unwrap();
        if consumer.starts != Starts::Now {
            return 0;
        }
        let starts = "select (extract(epoch from starts_at) * 1000000)::bigint from consumer_registry
                      where consumer_key = $1";
        self.observer.query_one(starts, &[&consumer.name()]).await.unwrap().get(0)
    }

    async fn enable(&mut self, key: &str, on: bool) {
        if let Some((consumer, _)) = self.model.consumers.get_mut(key) {
            let set = "select fn_consumer_set_enabled($1, $2, 'test', 'a test')";
            self.observer.query_one(set, &[&key, &on]).await.unwrap();
            consumer.enabled = on;
        }
    }

    pub(super) async fn gate(&mut self, open: bool) {
        let set = "select fn_gate_set('queue.job_substrate.enabled', $1, 'test', 'a test')";
        self.observer.query_one(set, &[&open.to_string()]).await.unwrap();
        self.model.gate_is_open = open;
    }

    pub(super) async fn kill(&self, pid: i32) {
        self.observer.query_one("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let lives = "select exists (select from pg_stat_activity where pid = $1)";
        wait_until("the session has ended", SOON, async || {
            !self.observer.query_one(lives, &[&pid]).await.unwrap().get::<_, bool>(0)
        })
        .await;
    }
}
