//! Naming, model-checked: a job wakes one worker, and no job waits for the poll because of it.
//!
//! The steps are those of the code, by the same names: `fn_job_wake`, `fn_executor_rest`, `fn_job_pass_on` and
//! `fn_job_requeue` in `migrations/003_job_substrate/functions.sql`, `src/work/claimer.rs` with `src/work/claimer/rest.rs`,
//! `src/work/waker.rs`, `found`, `empty` and `settled` in `src/work/rhythm.rs`, and `stand` in
//! `src/postgres/listener/session.rs`. The awake mark is left out: while it stands nobody is told anything, and the other
//! model looks at how it falls. So are gates, pauses, limits and orders.

mod faults;
mod protocol;
mod state;
mod steps;

use crate::{breaks, holds};
use faults::Fault;
use protocol::System;
use state::Crew;

const A: u8 = 1;
const B: u8 = 2;

const ONE: Crew = Crew { hands: 1, ahead: 0, kinds: A };
const TWO: Crew = Crew { hands: 2, ..ONE };
const AHEAD: Crew = Crew { ahead: 1, ..ONE };
const OTHER: Crew = Crew { kinds: B, ..ONE };
const BOTH: Crew = Crew { kinds: A | B, ..ONE };

/// Two workers that take one job at a time, of one kind; nothing goes wrong.
const QUIET: System = System {
    workers: &[ONE, ONE],
    jobs: &[A, A],
    blind: false,
    starts: false,
    kills: 0,
    losses: 0,
    ghosts: false,
    errors: 0,
    mistakes: 0,
    polls: false,
    fault: None,
};

const TWICE: &str = "no job is claimed by two";
const WAITS: &str = "no job waits while somebody sleeps who takes it";
const POLL: &str = "one poll finds what is there";

/// Finds a property broken when the protocol has a fault.
fn finds(fault: Fault, property: &'static str, system: &System) {
    breaks(&System { fault: Some(fault), ..system.clone() }, property);
}

mod the_protocol_holds {
    use super::*;

    #[test]
    fn with_three_jobs() {
        holds(&System { jobs: &[A, A, A], ..QUIET });
    }

    #[test]
    fn with_three_workers() {
        holds(&System { workers: &[ONE, ONE, ONE], ..QUIET });
    }

    #[test]
    fn with_workers_that_take_two_jobs_at_a_time() {
        holds(&System { workers: &[ONE, TWO], jobs: &[A, A, A], ..QUIET });
    }

    #[test]
    fn with_workers_that_claim_ahead() {
        holds(&System { workers: &[ONE, AHEAD], jobs: &[A, A, A], ..QUIET });
    }

    #[test]
    fn when_workers_start() {
        holds(&System { starts: true, ..QUIET });
    }

    #[test]
    fn with_kinds_that_only_some_take() {
        holds(&System { workers: &[TWO, BOTH], jobs: &[A, A, B], ..QUIET });
        holds(&System { workers: &[ONE, OTHER, BOTH], jobs: &[A, B], ..QUIET });
    }

    #[test]
    fn with_subscriptions_that_nobody_knows_of() {
        holds(&System { workers: &[TWO, OTHER], jobs: &[A, A, B], blind: true, ..QUIET });
    }

    #[test]
    fn when_a_worker_is_taken_for_one_at_rest() {
        holds(&System { mistakes: 2, ..QUIET });
    }

    #[test]
    fn when_workers_are_killed_at_any_point() {
        holds(&System { kills: 1, ghosts: true, mistakes: 1, polls: true, ..QUIET });
    }

    #[test]
    fn when_notifications_and_listeners_are_lost() {
        holds(&System { losses: 1, ghosts: true, polls: true, ..QUIET });
    }

    #[test]
    fn when_statements_fail() {
        holds(&System { errors: 2, polls: true, ..QUIET });
    }

    #[test]
    fn when_everything_goes_wrong_with_subscriptions() {
        let workers = &[ONE, OTHER];
        holds(&System {
            workers,
            jobs: &[A, B],
            blind: true,
            kills: 1,
            losses: 1,
            ghosts: true,
            polls: true,
            ..QUIET
        });
    }
}

mod the_model_finds {
    use super::*;

    /// One takes kind A alone, the other one B, and whoever chooses does not know.
    const DIFFERENT: System = System { workers: &[ONE, OTHER], jobs: &[A, B], blind: true, ..QUIET };

    #[test]
    fn a_claim_that_takes_what_is_locked() {
        finds(Fault::LockedNotSkipped, TWICE, &QUIET);
    }

    #[test]
    fn a_busy_worker_that_ignores_being_named() {
        finds(Fault::BusyIgnoresName, WAITS, &QUIET);
    }

    #[test]
    fn a_worker_named_in_vain_that_keeps_it_for_itself() {
        finds(Fault::KeptInVain, WAITS, &DIFFERENT);
    }

    #[test]
    fn a_worker_that_finds_something_else_by_its_name() {
        finds(Fault::FoundIsEnough, WAITS, &System { workers: &[TWO, OTHER], ..DIFFERENT });
        finds(Fault::FoundIsEnough, WAITS, &System { workers: &[TWO, BOTH], jobs: &[A, A, B], ..QUIET });
    }

    #[test]
    fn a_worker_that_was_full_and_has_room_again() {
        finds(Fault::FullIsEnough, WAITS, &DIFFERENT);
    }

    #[test]
    fn filling_up_without_passing_on() {
        finds(Fault::NoFillUp, WAITS, &QUIET);
    }

    #[test]
    fn settling_without_asking_whether_there_is_more() {
        finds(Fault::SettledUnasked, WAITS, &QUIET);
        finds(Fault::SettledUnasked, POLL, &System { workers: &[ONE], losses: 2, polls: true, ..QUIET });
    }

    #[test]
    fn nobody_told_when_nobody_rests() {
        finds(Fault::NobodyTold, WAITS, &System { workers: &[ONE], ..QUIET });
    }

    #[test]
    fn a_worker_that_hears_only_its_name() {
        finds(Fault::OnlyNamed, WAITS, &System { workers: &[ONE], ..QUIET });
    }

    #[test]
    fn nobody_looking_after_listen() {
        finds(Fault::NoLookAfterListen, WAITS, &System { starts: true, ..QUIET });
    }
}
