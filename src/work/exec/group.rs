//! A program and all that it starts: one process group, of which nothing survives the run.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::work::guard::GRACE;
use crate::work::handler::JobContext;

/// Between SIGTERM and SIGKILL: what the runner grants, less what it takes to hear of the end.
const PATIENCE: Duration = GRACE.saturating_sub(Duration::from_millis(250));
/// Between two looks whether the group is empty. The kernel tells us of the program's end, but not of its children's.
const LOOK: Duration = Duration::from_millis(10);

/// A running program. Dropping it kills the whole group.
pub(super) struct Group {
    child: Child,
    /// The group's id, as long as somebody of it may live.
    id: Option<Pid>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// It ended after it was told to.
    pub(super) was_told: bool,
}

impl Group {
    pub(super) fn spawn(mut command: Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, id })
    }

    /// Standard input, output and error, once.
    pub(super) fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for the program's end, and sees to it when the run should stop: SIGTERM to the whole group, SIGKILL to
    /// whoever is left of it. Also what a program leaves behind at an end of its own is killed.
    pub(super) async fn ended(&mut self, context: &JobContext) -> io::Result<Ended> {
        let by_itself = tokio::select! {
            biased;
            status = self.child.wait() => Some(status),
            () = context.stopped() => None,
        };
        let (status, was_told) = match by_itself {
            Some(status) => (status, false),
            None => (self.told().await, true),
        };
        // Its id was the program's, who has been waited for: nobody else can have it before the kernel has given all
        // others away once.
        self.kill();
        status.map(|status| Ended { status, was_told })
    }

    async fn told(&mut self) -> io::Result<ExitStatus> {
        self.send(Signal::TERM);
        let all_end = async {
            self.child.wait().await?;
            while self.id.is_some_and(|id| test_kill_process_group(id).is_ok()) {
                sleep(LOOK).await;
            }
            Ok::<_, io::Error>(())
        };
        if timeout(PATIENCE, all_end).await.is_err() {
            self.send(Signal::KILL);
        }
        self.child.wait().await
    }

    fn send(&self, signal: Signal) {
        if let Some(id) = self.id
            && let Err(error) = kill_process_group(id, signal)
        {
            tracing::trace!("{signal:?} to group {id:?}: {error}"); // there is nobody any more
        }
    }

    fn kill(&mut self) {
        self.send(Signal::KILL);
        self.id = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill(); // before `child` goes, which then is collected by whoever waits next
    }
}
