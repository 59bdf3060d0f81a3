//! What the system remembers: jobs and their transactions, workers, the locks of those at rest.

/// Kinds of jobs, one bit each.
pub(crate) type Kinds = u8;

/// Whom a NOTIFY is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Told {
    #[default]
    Nobody,
    One(usize),
    All,
}

/// One job, made by a transaction of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Job {
    pub(crate) kind: Kinds,
    pub(crate) step: Stage,
    /// Whom its transaction tells.
    pub(crate) told: Told,
    /// How many have claimed it and not given it back.
    pub(crate) claims: u8,
    /// The worker whose timer found it.
    pub(crate) polled_by: Option<usize>,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// Not there yet.
    Waiting,
    /// `fn_job_wake` has chosen; not committed. `again`: put back by the reaper.
    Chosen {
        again: bool,
    },
    Aborted,
    Ready,
    /// Taken by a claim that has not committed.
    Locked(usize),
    Running(usize),
    /// Its worker was killed.
    Left,
    Done,
}

/// Where a worker is in `Claimer::run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    Down,
    /// At the end of the loop, until something is there to do.
    Asleep,
    /// `look` begins, with so much room.
    Looking(u8),
    /// The claim has taken so many, uncommitted.
    Claimed {
        room: u8,
        found: u8,
        /// And has seen something that it was not to take.
        others_wait: bool,
    },
    /// Named in vain: `pass_on(true)` begins.
    PassingOn,
    /// `step` has come to its end.
    Looked,
    /// `fill_up` begins; then it goes to the end of its loop, or to the beginning.
    FillingUp {
        ends: bool,
    },
    /// `wait_for_room`.
    Full,
}

/// What a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Crew {
    /// So many jobs at a time,
    pub(crate) hands: u8,
    /// so many claimed ahead,
    pub(crate) ahead: u8,
    /// of these kinds.
    pub(crate) kinds: Kinds,
}

/// One worker: its claimer, and the session of its listener.
#[expect(clippy::struct_excessive_bools, reason = "flags that the code has, too")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    pub(crate) crew: Crew,
    pub(crate) step: Step,
    /// It was named, and has neither found that it needs not pass this on, nor done so.
    pub(crate) owes: bool,
    /// It was woken, and has not looked.
    pub(crate) sent_for: bool,
    /// `next_look` has come; else it is the poll's.
    pub(crate) due: bool,
    /// `Waker::rests`.
    pub(crate) wants_rest: bool,
    /// The lock on the session that listens.
    pub(crate) lock: bool,
    /// The lock of a session that is gone without the server's knowing.
    pub(crate) ghost: bool,
    pub(crate) listening: bool,
    /// `Waker::named`, or on its way there.
    pub(crate) named: bool,
    /// `Waker::look`, or on its way there.
    pub(crate) woken: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) jobs: Vec<Job>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) kills_left: u8,
    pub(crate) losses_left: u8,
    pub(crate) errors_left: u8,
    pub(crate) mistakes_left: u8,
}

impl Job {
    pub(crate) fn of(kind: Kinds) -> Self {
        Self { kind, step: Stage::Waiting, told: Told::Nobody, claims: 0, polled_by: None }
    }

    /// Committed, and nobody has begun it, as a snapshot sees it.
    pub(crate) fn looks_ready(&self) -> bool {
        matches!(self.step, Stage::Ready | Stage::Locked(_))
    }

    fn workers_mut(&mut self) -> impl Iterator<Item = &mut usize> {
        let holder = match &mut self.step {
            Stage::Locked(n) | Stage::Running(n) => Some(n),
            _ => None,
        };
        let told = match &mut self.told {
            Told::One(n) => Some(n),
            _ => None,
        };
        holder.into_iter().chain(told).chain(&mut self.polled_by)
    }
}

impl Worker {
    /// As it starts: it looks, and does not listen yet.
    pub(crate) fn starting(crew: Crew) -> Self {
        Self {
            crew,
            step: Step::Looking(crew.hands + crew.ahead),
            owes: false,
            sent_for: false,
            due: true,
            wants_rest: false,
            lock: false,
            ghost: false,
            listening: false,
            named: false,
            woken: false,
        }
    }

    /// It has looked and sleeps.
    pub(crate) fn resting(crew: Crew) -> Self {
        let step = Step::Asleep;
        Self { step, due: false, wants_rest: true, lock: true, listening: true, ..Self::starting(crew) }
    }

    pub(crate) fn lives(&self) -> bool {
        self.step != Step::Down
    }

    pub(crate) fn takes(&self, job: &Job) -> bool {
        self.crew.kinds & job.kind != 0
    }

    /// Does nothing until somebody wakes it.
    pub(crate) fn sleeps(&self) -> bool {
        self.step == Step::Asleep && !self.due && !self.named && !self.woken
    }

    /// `fn_executor_is_at_rest`.
    pub(crate) fn looks_at_rest(&self) -> bool {
        self.lock || self.ghost
    }
}

impl State {
    fn held(&self, n: usize) -> u8 {
        let holds = |job: &&Job| matches!(job.step, Stage::Locked(by) | Stage::Running(by) if by == n);
        u8::try_from(self.jobs.iter().filter(holds).count()).expect("few jobs")
    }

    /// `Board::room`.
    pub(crate) fn room(&self, n: usize) -> u8 {
        let Crew { hands, ahead, .. } = self.workers[n].crew;
        (hands + ahead).saturating_sub(self.held(n))
    }

    /// `Board::has_free_hand`.
    pub(crate) fn has_free_hand(&self, n: usize) -> bool {
        self.held(n) < self.workers[n].crew.hands
    }

    /// Nothing goes on but runs, and nothing will before one of them ends.
    pub(crate) fn is_quiet(&self) -> bool {
        self.workers.iter().enumerate().all(|(n, worker)| match worker.step {
            Step::Down => true,
            Step::Full => worker.listening && !worker.named && self.room(n) == 0,
            _ => worker.listening && worker.sleeps() && (worker.wants_rest || !self.has_free_hand(n)),
        })
    }

    /// Whether a job is ready that a worker who sleeps could take.
    pub(crate) fn is_slept_through(&self) -> bool {
        let ready =
            |worker: &Worker| self.jobs.iter().any(|job| job.step == Stage::Ready && worker.takes(job));
        self.workers
            .iter()
            .enumerate()
            .any(|(n, worker)| worker.sleeps() && self.has_free_hand(n) && ready(worker))
    }

    /// One form for states that differ in nothing that matters: equal jobs and equal workers are sorted.
    pub(crate) fn normal(mut self) -> Self {
        if !self.workers.is_sorted() {
            let mut order: Vec<usize> = (0..self.workers.len()).collect();
            order.sort_by_key(|n| &self.workers[*n]);
            let place =
                |n: usize| order.iter().position(|was| *was == n).expect("every worker has its place");
            self.jobs.iter_mut().flat_map(Job::workers_mut).for_each(|n| *n = place(*n));
            self.workers = order.iter().map(|n| self.workers[*n].clone()).collect();
        }
        self.jobs.sort_unstable();
        self
    }
}
