//! The wake-up and cursor protocol, model-checked: every interleaving of producers, dispatchers, lost messages and
//! crashes, up to a size.
//!
//! The steps are those of the code, by the same names: `fn_event_arrival_record`, `fn_wake` and `fn_wake_arm` in
//! `migrations/002_event_arrival/functions.sql`, `fn_consumer_dispatch_batch` in
//! `migrations/006_consumer_registry/functions.sql`, `Domain::turn` in `src/dispatch/domain.rs`, the queue and the
//! timers of `src/dispatch/state.rs`. Who changes one of them changes its step here. Merged into one step are only
//! statements between which nothing that is shared is read. Time does not exist: whatever waits for a moment may
//! happen at any. Sweeps are left out, so every event has its arrival.
//!
//! A second model, `naming`, is of the workers' side: who is told of a job.
//!
//! A model that finds nothing proves little, so each test of `the_model_finds` breaks one step and is found out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on shall panic")]

mod faults;
mod naming;
mod position;
mod producers;
mod protocol;
mod state;
mod steps;
mod transactions;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use faults::Fault;
use protocol::System;

/// Two transactions of one event, one sidecar; nothing goes wrong.
const QUIET: System = System {
    producers: &[1, 1],
    sidecars: 1,
    batch: 10,
    echo: false,
    starts: true,
    crashes: 0,
    errors: 0,
    losses: 0,
    gives_up: false,
    expires: true,
    polls: false,
    fault: None,
};

const TWICE: &str = "no event makes two jobs";
const BEHIND: &str = "no committed event lies behind the position unread";
const WAITS: &str = "no committed event waits for the poll";
const POLL: &str = "one poll finds what is there";

/// Visits every state of a system, and finds every property true in each.
fn holds<M>(system: &M)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let checker = system.clone().checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states} states in {:?}: {system:?}", begun.elapsed());
    checker.assert_properties();
}

/// Finds a property broken in a faulty system.
fn breaks<M>(faulty: &M, property: &'static str)
where
    M: Model + Clone + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let checker = faulty.clone().checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else {
        panic!("not found in {} states: {faulty:?}", checker.unique_state_count());
    };
    println!("{faulty:?}: {:?}", path.into_actions());
}

/// Finds a property broken when the protocol has a fault.
fn finds(fault: Fault, property: &'static str, system: &System) {
    breaks(&System { fault: Some(fault), ..system.clone() }, property);
}

mod the_protocol_holds {
    use super::*;

    #[test]
    fn with_three_producers() {
        holds(&System { producers: &[1, 1, 1], ..QUIET });
    }

    #[test]
    fn with_two_sidecars() {
        holds(&System { sidecars: 2, starts: false, ..QUIET });
    }

    #[test]
    fn when_two_sidecars_start() {
        holds(&System { producers: &[1], sidecars: 2, ..QUIET });
    }

    #[test]
    fn with_transactions_larger_than_a_batch() {
        holds(&System { producers: &[3, 1, 1], batch: 2, starts: false, ..QUIET });
    }

    #[test]
    fn with_events_that_a_pass_itself_causes() {
        holds(&System { echo: true, ..QUIET });
    }

    #[test]
    fn with_a_timer() {
        holds(&System { producers: &[1, 1, 1], polls: true, ..QUIET });
    }

    #[test]
    fn when_a_sidecar_is_killed_at_any_point() {
        holds(&System { crashes: 2, polls: true, ..QUIET });
    }

    #[test]
    fn when_one_of_two_sidecars_is_killed_at_any_point() {
        holds(&System { sidecars: 2, crashes: 1, starts: false, expires: false, polls: true, ..QUIET });
    }

    #[test]
    fn when_statements_fail_and_notifications_are_lost() {
        holds(&System { errors: 1, losses: 2, gives_up: true, polls: true, ..QUIET });
    }

    #[test]
    fn when_everything_goes_wrong_in_the_middle_of_a_batch() {
        holds(&System {
            producers: &[2, 1],
            batch: 2,
            crashes: 1,
            losses: 1,
            gives_up: true,
            expires: false,
            polls: true,
            ..QUIET
        });
    }
}

mod the_model_finds {
    use super::*;

    #[test]
    fn a_mark_read_before_the_arrival_is_written() {
        finds(Fault::MarkReadBeforeInsert, WAITS, &QUIET);
    }

    #[test]
    fn a_dispatcher_that_sleeps_as_soon_as_it_has_armed() {
        finds(Fault::NoSecondLook, WAITS, &QUIET);
    }

    #[test]
    fn a_dispatcher_that_forgets_who_is_still_open() {
        finds(Fault::NoChase, WAITS, &QUIET);
    }

    #[test]
    fn a_snapshot_taken_while_arming_that_does_not_list_the_newest() {
        finds(Fault::SnapshotWhileArming, WAITS, &QUIET);
    }

    #[test]
    fn a_busy_domain_that_counts_as_looked_at() {
        finds(Fault::BusyIsIdle, WAITS, &System { sidecars: 2, ..QUIET });
        finds(Fault::BusyIsIdle, POLL, &System { sidecars: 2, polls: true, ..QUIET });
    }

    #[test]
    fn nobody_looking_after_listen() {
        finds(Fault::NoLookAfterListen, WAITS, &QUIET);
    }

    #[test]
    fn a_mark_that_a_killed_sidecar_left_behind() {
        finds(Fault::MarkLeftBehind, WAITS, &System { crashes: 1, ..QUIET });
    }

    #[test]
    fn a_cursor_that_skips_late_commits() {
        finds(Fault::LateCommitsForgotten, BEHIND, &QUIET);
    }

    #[test]
    fn a_cursor_that_waits_for_the_oldest_transaction() {
        finds(Fault::WaitsForTheOldest, WAITS, &QUIET);
    }

    #[test]
    fn a_rest_that_counts_as_all() {
        finds(Fault::RestOfAPairIsAll, WAITS, &System { producers: &[3, 1, 1], batch: 2, ..QUIET });
    }

    #[test]
    fn two_dispatchers_without_a_lock() {
        finds(Fault::NoLock, TWICE, &System { sidecars: 2, ..QUIET });
    }

    #[test]
    fn a_position_read_before_the_lock() {
        finds(Fault::PositionBeforeLock, TWICE, &System { sidecars: 2, ..QUIET });
    }

    #[test]
    fn a_crash_between_jobs_and_position() {
        finds(Fault::PositionApart, TWICE, &System { crashes: 1, ..QUIET });
    }

    #[test]
    fn a_pass_that_takes_itself_for_completed() {
        finds(Fault::OwnTransactionRead, BEHIND, &System { echo: true, ..QUIET });
    }
}
