//! Child processes: a thread that keeps the server, a run with a deadline, signals.
//!
//! The parent-death signal fires when the *thread* that spawned a child ends, so the server gets a
//! thread of its own, which waits for it.

use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

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
            signal(&mut Command::new("sh"), name, self.pid);
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

/// Sends a signal through the given shell's own `kill`; false when there is no such process of ours.
pub(super) fn signal(shell: &mut Command, name: &str, pid: u32) -> bool {
    shell
        .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end and returns its output; kills it at the deadline.
pub(super) fn run(mut command: Command, what: &str, deadline: Duration) -> Result<Output> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io(format_args!("starting {what}"), e))?;
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let Ok(output) = receiver.recv_timeout(deadline) else {
        signal(&mut Command::new("sh"), "KILL", pid);
        let seconds = deadline.as_secs();
        return Err(Error::new(Kind::Timeout, format!("{what} did not end within {seconds} s")));
    };
    drop(waiter.join());
    let output = output.map_err(|e| Error::io(what, e))?;
    if output.status.success() {
        return Ok(output);
    }
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    Err(Error::new(Kind::Io, format!("{what} failed ({}): {words}", output.status)))
}
