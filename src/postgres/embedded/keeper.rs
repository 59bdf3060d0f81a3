//! Child processes: a thread that keeps the server, a run with a deadline, signals.
//!
//! The parent-death signal fires when the *thread* that spawned a child ends, so the server gets a
//! thread of its own, which waits for it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::shutdown::Shutdown;

/// Between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A child that its own thread waits for.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) pid: u32,
    ended: Arc<Ended>,
}

/// How the child ended, in words, once it has.
#[derive(Debug, Default)]
struct Ended {
    how: Mutex<Option<String>>,
    changed: Condvar,
}

impl Kept {
    /// Spawns the command from a thread that lives as long as the child.
    pub(super) fn spawn(mut command: Command, what: &str) -> Result<Self> {
        let ended = Arc::new(Ended::default());
        let (started, answer) = mpsc::channel();
        let shared = Arc::clone(&ended);
        let keep = move || match command.spawn() {
            Err(e) => drop(started.send(Err(e))),
            Ok(mut child) => {
                drop(started.send(Ok(child.id())));
                shared.set(match child.wait() {
                    Ok(status) => status.to_string(),
                    Err(e) => e.to_string(),
                });
            }
        };
        thread::Builder::new()
            .name("postgres-keeper".into())
            .spawn(keep)
            .map_err(|e| Error::io("starting a thread", e))?;
        let pid = answer
            .recv()
            .map_err(|e| Error::new(Kind::Io, format!("starting {what}: no answer")).because(e))?
            .map_err(|e| Error::io(format_args!("starting {what}"), e))?;
        Ok(Self { pid, ended })
    }

    /// How it ended; `None` while it runs.
    pub(super) fn ended(&self) -> Option<String> {
        self.ended.lock().clone()
    }

    /// Waits for its end; false when it still runs at the deadline.
    pub(super) fn wait(&self, deadline: Duration) -> bool {
        let how = self.ended.lock();
        let waited = self.ended.changed.wait_timeout_while(how, deadline, |how| how.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// Sends a signal ("INT", "QUIT", "KILL") while it runs.
    pub(super) fn signal(&self, name: &str) {
        let how = self.ended.lock(); // held: once it is told that the child ended, its pid may be another's
        if how.is_none() {
            signal(&mut Command::new("sh"), name, &self.pid.to_string());
        }
    }
}

impl Ended {
    fn set(&self, how: String) {
        *self.lock() = Some(how);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.how.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a signal through the given shell's own `kill` to a process, or with a minus to a group; false when
/// there is no such process of ours.
pub(super) fn signal(shell: &mut Command, name: &str, target: &str) -> bool {
    shell
        .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, target])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end and returns its output; kills it, with all its children, at the deadline and
/// when asked to stop.
pub(super) fn run(
    mut command: Command,
    what: &str,
    deadline: Duration,
    shutdown: &Shutdown,
) -> Result<Output> {
    let child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io(format_args!("starting {what}"), e))?;
    let group = format!("-{}", child.id());
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let end = Instant::now() + deadline;
    let mut ended = receiver.recv_timeout(LOOK);
    while ended.is_err() && Instant::now() < end && !shutdown.is_requested() {
        ended = receiver.recv_timeout(LOOK);
    }
    if ended.is_err() {
        signal(&mut Command::new("sh"), "KILL", &group);
    }
    drop(waiter.join());
    let output = ended.map_err(|_| {
        if shutdown.is_requested() {
            return Error::new(Kind::Io, format!("{what} was cut off: asked to stop"));
        }
        Error::new(Kind::Timeout, format!("{what} did not end within {} s", deadline.as_secs()))
    })?;
    let output = output.map_err(|e| Error::io(what, e))?;
    if output.status.success() {
        return Ok(output);
    }
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    Err(Error::new(Kind::Io, format!("{what} failed ({}): {words}", output.status)))
}
