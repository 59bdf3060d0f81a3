//! What may happen, and how it is drawn.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::facts::{Consumer, DOMAINS, Fact, Filter, STREAMS, Starts, TYPES};

/// Producers' connections.
pub(super) const PRODUCERS: usize = 3;
/// Connections that run passes.
pub(super) const DISPATCHERS: usize = 2;
/// Consumers of a domain, beside the witness.
const SLOTS: usize = 3;

/// One thing that happens. What cannot happen just then is passed over, so that any list of these makes sense.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// `quiet`: without NOTIFY, which PREPARE TRANSACTION demands.
    Begin {
        at: usize,
        isolation: &'static str,
        quiet: bool,
    },
    Insert {
        at: usize,
        way: Way,
        facts: Vec<Fact>,
    },
    Savepoint {
        at: usize,
    },
    RollbackTo {
        at: usize,
    },
    Commit {
        at: usize,
    },
    Abort {
        at: usize,
    },
    KillProducer {
        at: usize,
    },
    Prepare {
        at: usize,
    },
    Finish {
        commit: bool,
    },
    /// `session_replication_role` of one producer.
    Replica {
        at: usize,
        on: bool,
    },
    Trigger {
        on: bool,
    },
    Put(Consumer),
    Enable {
        domain: &'static str,
        slot: usize,
        on: bool,
    },
    Gate {
        open: bool,
    },
    /// A pass; with `hold` its transaction stays open until `EndPass`.
    Pass {
        by: usize,
        domain: &'static str,
        limit: i32,
        hold: bool,
    },
    EndPass {
        by: usize,
        how: End,
    },
    Sweep,
    Prune,
    /// The server is killed and started again.
    Crash,
}

/// How facts reach the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    OneStatement,
    OneByOne,
    Copy,
}

/// How the transaction of a pass ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
    Kill,
}

/// So many things in a row.
pub(super) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..=most)
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..PRODUCERS;
    let by = || 0..DISPATCHERS;
    let facts = prop::collection::vec(fact(), 1..6);
    let way = select(vec![Way::OneStatement, Way::OneStatement, Way::OneByOne, Way::Copy]);
    let isolation = select(vec!["read committed", "read committed", "repeatable read", "serializable"]);
    let limit = select(vec![1, 2, 3, 10, 1000]);
    let end = select(vec![End::Commit, End::Commit, End::Rollback, End::Kill]);
    prop_oneof![
        12 => (at(), isolation, any::<bool>()).prop_map(|(at, isolation, quiet)| Op::Begin { at, isolation, quiet }),
        30 => (at(), way, facts).prop_map(|(at, way, facts)| Op::Insert { at, way, facts }),
        5 => at().prop_map(|at| Op::Savepoint { at }),
        4 => at().prop_map(|at| Op::RollbackTo { at }),
        10 => at().prop_map(|at| Op::Commit { at }),
        4 => at().prop_map(|at| Op::Abort { at }),
        2 => at().prop_map(|at| Op::KillProducer { at }),
        4 => at().prop_map(|at| Op::Prepare { at }),
        4 => any::<bool>().prop_map(|commit| Op::Finish { commit }),
        3 => (at(), any::<bool>()).prop_map(|(at, on)| Op::Replica { at, on }),
        3 => any::<bool>().prop_map(|on| Op::Trigger { on }),
        8 => consumer().prop_map(Op::Put),
        4 => (select(&DOMAINS[..]), 1..=SLOTS, any::<bool>()).prop_map(|(domain, slot, on)| Op::Enable { domain, slot, on }),
        2 => prop::bool::weighted(0.7).prop_map(|open| Op::Gate { open }),
        30 => (by(), select(&DOMAINS[..]), limit, prop::bool::weighted(0.3))
            .prop_map(|(by, domain, limit, hold)| Op::Pass { by, domain, limit, hold }),
        8 => (by(), end).prop_map(|(by, how)| Op::EndPass { by, how }),
        6 => Just(Op::Sweep),
        4 => Just(Op::Prune),
        1 => Just(Op::Crash),
    ]
}

fn fact() -> impl Strategy<Value = Fact> {
    let subject = prop_oneof![
        6 => Just(Some("a".to_owned())),
        4 => Just(Some("b {event_id} ' \" \\ 𝄞".to_owned())),
        2 => Just(Some("x".repeat(600))),
        2 => Just(None),
    ];
    let payload = prop_oneof![
        8 => Just(json!({})),
        4 => (0..200).prop_map(|amount| json!({ "amount": amount })),
        4 => Just(json!({ "note": "'quoted', with {braces} and \"body\": \u{1d11e}", "amount": null })),
        1 => Just(json!({ "note": "x".repeat(17_000) })),
    ];
    (select(&DOMAINS[..]), select(&TYPES[..]), select(&STREAMS[..]), subject, payload).prop_map(
        |(domain, kind, stream, subject, payload): (_, _, _, _, Value)| Fact {
            domain,
            kind,
            stream,
            subject,
            payload,
        },
    )
}

fn consumer() -> impl Strategy<Value = Consumer> {
    let what = (
        select(&DOMAINS[..]),
        1..=SLOTS,
        select(vec!["*", "*", "record_*", "*ed", "record_cut", "r*t"]),
        prop::option::weighted(0.2, select(&STREAMS[..])),
        select(vec![
            Filter::None,
            Filter::None,
            Filter::AmountOver100,
            Filter::SubjectIsA,
            Filter::NoteStartsWithQuote,
        ]),
    );
    let key = select(vec![
        "{consumer_key}:{event_id}",
        "{consumer_key}:{event_id}",
        "{event_subject_ref}",
        "{payload.amount}",
        "one",
        "{event_type}/{payload.note}",
    ]);
    let how = (
        prop::bool::weighted(0.85),
        key,
        prop::option::weighted(0.2, Just("{event_subject_ref}")),
        prop::option::of(select(vec!["t/{event_subject_ref}/{payload.amount}", "plain"])),
        select(vec!["PG_worker", "Agent"]),
        0..300,
    );
    let when = (
        prop::bool::weighted(0.85),
        prop::bool::weighted(0.15),
        select(vec![Starts::Always, Starts::Always, Starts::Now, Starts::Never]),
    );
    (what, how, when).prop_map(
        |(
            (domain, slot, pattern, stream, filter),
            (makes_jobs, key, ordering, target, executor, priority),
            (enabled, dry_run, starts),
        )| Consumer {
            domain,
            slot,
            pattern,
            stream,
            filter,
            makes_jobs,
            key,
            ordering,
            target,
            executor,
            priority,
            enabled,
            dry_run,
            starts,
        },
    )
}
