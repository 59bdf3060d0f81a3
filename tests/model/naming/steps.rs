//! What each step does.

use super::faults::Fault;
use super::protocol::{Action, By, System};
use super::state::{Job, Stage, State, Step, Told};

impl System {
    pub(crate) fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Insert(n, told) => choose(state, n, told, false),
            Action::Requeue(n, told) => choose(state, n, told, true),
            Action::Commit(n) => {
                state.jobs[n].step = Stage::Ready;
                self.tell(state, state.jobs[n].told);
            }
            Action::Abort(n) => end(&mut state.jobs[n], Stage::Aborted),
            Action::RunEnds(n) => end(&mut state.jobs[n], Stage::Done),
            Action::Wake(n, by) => self.wake(state, n, by),
            Action::Poll(n) => self.poll(state, n),
            Action::Claim(n, mask) => claim(state, n, mask),
            Action::CommitClaim(n) => self.commit_claim(state, n),
            Action::PassOn(n, told) => self.pass_on(state, n, told),
            Action::Rest(n) => self.rest(state, n),
            Action::Room(n) => self.go_round(state, n),
            Action::NamedWhenFull(n) => {
                let worker = &mut state.workers[n];
                worker.named = false;
                worker.owes = true;
                self.fill_up(state, n, false);
            }
            Action::Stand(n) => state.workers[n].lock = state.workers[n].wants_rest,
            Action::Kill(n) => self.kill(state, n),
            Action::Bury(n) => state.workers[n].ghost = false,
            Action::Fail(n) => self.fail(state, n),
            Action::LoseNotification(n) => {
                state.losses_left -= 1;
                state.workers[n].named = false;
                state.workers[n].woken = false;
            }
            Action::LoseListener(n) => {
                state.losses_left -= 1;
                self.lose_session(state, n);
            }
            Action::Listen(n) => {
                state.workers[n].listening = true;
                state.workers[n].woken |= self.fault != Some(Fault::NoLookAfterListen); // Wake::Resync
            }
        }
    }

    /// A transaction commits: `Waker::wake` of those who listen.
    fn tell(&self, state: &mut State, told: Told) {
        for (n, worker) in state.workers.iter_mut().enumerate().filter(|(_, worker)| worker.listening) {
            worker.named |= told == Told::One(n);
            worker.woken |= told == Told::All && self.fault != Some(Fault::OnlyNamed);
        }
    }

    fn wake(&self, state: &mut State, n: usize, by: By) {
        let worker = &mut state.workers[n];
        match by {
            By::Name => worker.owes |= std::mem::take(&mut worker.named),
            By::Call => worker.sent_for |= std::mem::take(&mut worker.woken),
            By::Time => {}
        }
        self.go_round(state, n);
    }

    fn poll(&self, state: &mut State, n: usize) {
        state.workers[n].due = true;
        let worker = &state.workers[n];
        let found = |job: &&mut Job| job.step == Stage::Ready && worker.takes(job);
        state.jobs.iter_mut().filter(found).for_each(|job| job.polled_by = Some(n));
        self.wake(state, n, By::Time);
    }

    /// The loop of `Claimer::run` from its beginning to the next statement or wait.
    fn go_round(&self, state: &mut State, n: usize) {
        let (room, has_free_hand) = (state.room(n), state.has_free_hand(n));
        let worker = &mut state.workers[n];
        if worker.owes && !has_free_hand {
            self.fill_up(state, n, false);
        } else if room == 0 {
            worker.step = Step::Full;
            if std::mem::take(&mut worker.wants_rest) {
                self.fill_up(state, n, false);
            }
        } else if worker.owes || worker.sent_for || worker.due {
            worker.step = Step::Looking(room);
        } else {
            worker.step = Step::Looked;
        }
    }

    /// `Claimer::rest`, at the end of the loop.
    fn rest(&self, state: &mut State, n: usize) {
        let has_free_hand = state.has_free_hand(n);
        let worker = &mut state.workers[n];
        worker.step = Step::Asleep;
        if std::mem::replace(&mut worker.wants_rest, has_free_hand) && !has_free_hand {
            self.fill_up(state, n, true);
        }
    }

    fn fill_up(&self, state: &mut State, n: usize, ends: bool) {
        let worker = &mut state.workers[n];
        let named = std::mem::take(&mut worker.owes);
        match self.fault {
            Some(Fault::NoFillUp) => self.filled_up(state, n, ends),
            Some(Fault::BusyIgnoresName) if named => self.filled_up(state, n, ends),
            _ => worker.step = Step::FillingUp { ends },
        }
    }

    fn filled_up(&self, state: &mut State, n: usize, ends: bool) {
        state.workers[n].step = Step::Asleep;
        if !ends {
            self.go_round(state, n);
        }
    }

    /// `Rhythm::found` and `Rhythm::empty`.
    fn commit_claim(&self, state: &mut State, n: usize) {
        let Step::Claimed { room, found, others_wait } = state.workers[n].step else { unreachable!() };
        for job in state.jobs.iter_mut().filter(|job| job.step == Stage::Locked(n)) {
            job.step = Stage::Running(n);
        }
        let worker = &mut state.workers[n];
        worker.due = found >= room;
        worker.sent_for = false;
        worker.owes &= match self.fault {
            Some(Fault::KeptInVain) => false,
            Some(Fault::FoundIsEnough) => found == 0,
            Some(Fault::FullIsEnough) => found < room,
            _ => true,
        };
        let is_full = found >= room;
        let passes_on = worker.owes && !is_full && (found == 0 || others_wait);
        worker.owes &= is_full || passes_on;
        worker.step = if passes_on { Step::PassingOn } else { Step::Looked };
    }

    fn pass_on(&self, state: &mut State, n: usize, told: Told) {
        count_mistake(state, told);
        let more = told != Told::Nobody;
        match state.workers[n].step {
            Step::PassingOn => {
                state.workers[n].owes = false;
                state.workers[n].step = Step::Looked;
                self.tell(state, told);
            }
            Step::FillingUp { ends } => {
                if !more || self.fault == Some(Fault::SettledUnasked) {
                    state.workers[n].due = false; // `settled`
                } else {
                    self.tell(state, told);
                }
                self.filled_up(state, n, ends);
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// A statement fails. A look is made again soon.
    fn fail(&self, state: &mut State, n: usize) {
        state.errors_left -= 1;
        if let Step::FillingUp { ends } = state.workers[n].step {
            state.workers[n].owes = true;
            self.filled_up(state, n, ends);
        } else {
            state.workers[n].due = true;
            state.workers[n].sent_for = false;
            state.workers[n].step = Step::Looked;
        }
    }

    fn kill(&self, state: &mut State, n: usize) {
        state.kills_left -= 1;
        self.lose_session(state, n);
        for job in &mut state.jobs {
            match job.step {
                Stage::Locked(by) if by == n => job.step = Stage::Ready, // rolled back
                Stage::Running(by) if by == n => job.step = Stage::Left,
                _ => continue,
            }
            job.claims -= 1;
        }
        state.jobs.iter_mut().filter(|job| job.polled_by == Some(n)).for_each(|job| job.polled_by = None);
        let worker = &mut state.workers[n];
        worker.step = Step::Down;
        worker.owes = false;
        worker.sent_for = false;
        worker.due = false;
        worker.wants_rest = false;
    }

    /// The connection of the listener is gone, and what was on its way.
    fn lose_session(&self, state: &mut State, n: usize) {
        let worker = &mut state.workers[n];
        worker.ghost |= self.ghosts && worker.lock;
        worker.lock = false;
        worker.listening = false;
        worker.named = false;
        worker.woken = false;
    }
}

/// `fn_job_wake` has chosen whom to tell at commit.
fn choose(state: &mut State, n: usize, told: Told, again: bool) {
    count_mistake(state, told);
    state.jobs[n].told = told;
    state.jobs[n].step = Stage::Chosen { again };
}

fn count_mistake(state: &mut State, told: Told) {
    if let Told::One(n) = told
        && !state.workers[n].looks_at_rest()
    {
        state.mistakes_left -= 1;
    }
}

fn end(job: &mut Job, step: Stage) {
    *job = Job { step, ..Job::of(job.kind) };
}

/// Snapshot and locks.
fn claim(state: &mut State, n: usize, mask: u8) {
    let Step::Looking(room) = state.workers[n].step else { unreachable!() };
    let worker = &state.workers[n];
    let others_wait = state.jobs.iter().any(|job| job.looks_ready() && !worker.takes(job));
    for (bit, job) in state.jobs.iter_mut().enumerate() {
        if mask >> bit & 1 == 1 {
            job.step = Stage::Locked(n);
            job.claims += 1;
            job.polled_by = None;
        }
    }
    let found = u8::try_from(mask.count_ones()).expect("a byte has eight bits");
    state.workers[n].step = Step::Claimed { room, found, others_wait };
}
