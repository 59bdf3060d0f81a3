//! The real server beside the model: each thing that happens is done to both, and then they are compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::SinkExt;
use reveille::postgres::embedded::Throwaway;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::facts::{Consumer, DOMAINS, Fact, Job, Starts};
use super::model::{Event, Model, Pass};
use super::ops::{DISPATCHERS, End, Op, PRODUCERS, Way};
use crate::support::{SOON, connect, open_gates, wait_until};

/// A producer's connection and its transaction.
struct Producer {
    client: Client,
    pid: i32,
    replica: bool,
    open: Option<Open>,
}

/// What an open transaction has written.
#[derive(Debug, Default)]
struct Open {
    events: Vec<usize>,
    /// How many events there were at each savepoint.
    savepoints: Vec<usize>,
    quiet: bool,
}

/// A connection that runs passes, and those that it has not committed.
struct Dispatcher {
    client: Client,
    pid: i32,
    is_open: bool,
    holds: BTreeSet<&'static str>,
    held: Vec<Pass>,
}

pub(super) struct World {
    server: Arc<Throwaway>,
    url: String,
    model: Model,
    observer: Client,
    producers: Vec<Producer>,
    dispatchers: Vec<Dispatcher>,
    /// Prepared transactions: name and events.
    prepared: Vec<(String, Vec<usize>)>,
}

async fn pid(client: &Client) -> i32 {
    client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// A connection whose commits are safe, or not even that, as the sidecar's.
async fn session(url: &str, safe: bool) -> (Client, i32) {
    let client = connect(url).await;
    let on = if safe { "on" } else { "off" };
    client.batch_execute(&format!("set synchronous_commit = {on}")).await.unwrap();
    let pid = pid(&client).await;
    (client, pid)
}

async fn producer(url: &str) -> Producer {
    let (client, pid) = session(url, true).await;
    Producer { client, pid, replica: false, open: None }
}

async fn dispatcher(url: &str, n: usize) -> Dispatcher {
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

    async fn end(&mut self, at: usize, commit: bool) {
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

    async fn finish(&mut self, commit: bool) {
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

    async fn gate(&mut self, open: bool) {
        let set = "select fn_gate_set('queue.job_substrate.enabled', $1, 'test', 'a test')";
        self.observer.query_one(set, &[&open.to_string()]).await.unwrap();
        self.model.gate_is_open = open;
    }

    async fn kill(&self, pid: i32) {
        self.observer.query_one("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
        let lives = "select exists (select from pg_stat_activity where pid = $1)";
        wait_until("the session has ended", SOON, async || {
            !self.observer.query_one(lives, &[&pid]).await.unwrap().get::<_, bool>(0)
        })
        .await;
    }

    // -- passes

    async fn pass(&mut self, by: usize, domain: &'static str, limit: i32, hold: bool) {
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

    async fn end_pass(&mut self, by: usize, how: End) {
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

    // -- the rest

    async fn sweep(&mut self) {
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
    async fn crash(&mut self) {
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

/// Compares what a pass did with what it had to do; answers that.
async fn compare(
    model: &Model,
    client: &Client,
    domain: &'static str,
    held: &[Pass],
    answer: &Value,
) -> Pass {
    let read = read_by(model, client, domain, held).await;
    let ids: Vec<Uuid> = read.iter().map(|n| model.events[*n].id).collect();
    let unread = model.unread(domain, held);
    for n in &read {
        assert!(unread.contains(n), "read again, or without being committed: {:?}", model.events[*n]);
    }
    if answer["more"] == false {
        let left: Vec<_> = unread.iter().filter(|n| !read.contains(n)).map(|n| &model.events[*n]).collect();
        assert!(left.is_empty(), "says that nothing is left, but left {left:?}");
    }
    let mut pass = model.expect(domain, read, held);
    if !pass.read.is_empty() {
        let newest = "select max(pass_id) from dispatch_pass where event_domain = $1";
        pass.id = client.query_one(newest, &[&domain]).await.unwrap().get(0);
    }
    pass.jobs.sort();
    pass.errors.sort();
    assert_eq!(jobs_of(client, Some(&ids)).await, pass.jobs);
    assert_eq!(errors_of(client, Some(&ids)).await, pass.errors);
    let counted =
        ["events", "jobs", "duplicates", "dry", "errors"].map(|key| answer[key].as_i64().unwrap_or(0));
    let lengths = [pass.read.len(), pass.jobs.len(), pass.errors.len()].map(|n| i64::try_from(n).unwrap());
    assert_eq!(counted, [lengths[0], lengths[1], pass.duplicates, pass.dry, lengths[2]], "{answer}");
    pass
}

/// The events that the witness has met since the passes that the model knows, in reading order.
async fn read_by(model: &Model, client: &Client, domain: &str, held: &[Pass]) -> Vec<usize> {
    let known = model.passes.iter().chain(held).filter(|pass| pass.domain == domain);
    let known: Vec<Uuid> = known.flat_map(|pass| pass.read.iter().map(|n| model.events[*n].id)).collect();
    let witnessed = "
        select a.event_id
        from (
          select j.causation_event_id as event_id from job_queue j where j.consumer_key = $1
          union all
          select d.event_id from dispatch_error d where d.consumer_key = $1
        ) w
        left join event_arrival a using (event_id)
        where w.event_id <> all ($2)
        order by a.tx_id, a.arrival_seq";
    let witness = Consumer::witness(DOMAINS.into_iter().find(|known| *known == domain).unwrap()).name();
    let rows = client.query(witnessed, &[&witness, &known]).await.unwrap();
    rows.iter().map(|row| model.find(row.get(0)).expect("an event of ours")).collect()
}

/// Jobs of these events, or all of them.
async fn jobs_of(client: &Client, events: Option<&[Uuid]>) -> Vec<Job> {
    let query = "
        select job_kind, idempotency_key, causation_event_id, consumer_key, event_domain, executor, priority,
               source_ref, target_ref, ordering_key, safe_payload, status
        from job_queue where $1::uuid[] is null or causation_event_id = any ($1)";
    let rows = client.query(query, &[&events]).await.unwrap();
    let job = |row: &tokio_postgres::Row| {
        assert_eq!(row.get::<_, String>(11), "queued");
        Job {
            kind: row.get(0),
            key: row.get(1),
            event: row.get(2),
            consumer: row.get(3),
            domain: row.get(4),
            executor: row.get(5),
            priority: row.get(6),
            source: row.get(7),
            target: row.get(8),
            ordering: row.get(9),
            payload: row.get::<_, Value>(10).to_string(),
        }
    };
    let mut jobs: Vec<Job> = rows.iter().map(job).collect();
    jobs.sort();
    jobs
}

async fn errors_of(client: &Client, events: Option<&[Uuid]>) -> Vec<(Uuid, String)> {
    let query = "select event_id, consumer_key from dispatch_error
                 where $1::uuid[] is null or event_id = any ($1) order by 1, 2";
    let rows = client.query(query, &[&events]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Whether it was done. Serializable transactions may be told to try again; anything else is a failure.
fn done<T>(outcome: &Result<T, Error>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => false,
        Err(error) => panic!("{error}: {:?}", error.as_db_error()),
    }
}

async fn write(client: &Client, way: Way, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    match way {
        Way::OneStatement => insert(client, ids, facts).await,
        Way::OneByOne => {
            for (id, fact) in ids.iter().zip(facts) {
                insert(client, &[*id], std::slice::from_ref(fact)).await?;
            }
            Ok(())
        }
        Way::Copy => copy(client, ids, facts).await,
    }
}

async fn insert(client: &Client, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    let rows: Vec<Value> = ids.iter().zip(facts).map(|(id, fact)| row(*id, fact)).collect();
    let insert = "
        insert into event_outbox
          (id, event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload)
        select id, event_domain, event_type, event_stream, 'immediate', event_subject_ref, safe_payload
        from jsonb_populate_recordset(null::event_outbox, $1)";
    client.execute(insert, &[&Value::Array(rows)]).await.map(drop)
}

fn row(id: Uuid, fact: &Fact) -> Value {
    serde_json::json!({
        "id": id, "event_domain": fact.domain, "event_type": fact.kind, "event_stream": fact.stream,
        "event_subject_ref": fact.subject, "safe_payload": fact.payload})
}

async fn copy(client: &Client, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    let escaped = |text: &str| text.replace('\\', "\\\\");
    let line = |(id, fact): (&Uuid, &Fact)| {
        let subject = fact.subject.as_deref().map_or("\\N".to_owned(), escaped);
        let payload = escaped(&fact.payload.to_string());
        let Fact { domain, kind, stream, .. } = fact;
        format!("{id}\t{domain}\t{kind}\t{stream}\timmediate\t{subject}\t{payload}\n")
    };
    let lines: String = ids.iter().zip(facts).map(line).collect();
    let copy = "copy event_outbox
        (id, event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload) from stdin";
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>(copy).await?;
    let mut sink = Box::pin(sink);
    sink.send(std::io::Cursor::new(lines.into_bytes())).await?;
    sink.as_mut().finish().await.map(drop)
}
