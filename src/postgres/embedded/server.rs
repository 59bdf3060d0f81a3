//! One cluster: made, started, stopped, killed. Everything here blocks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::binaries::Binaries;
use super::directory::{Directory, postmaster_line};
use super::keeper::{self, Kept};
use super::password::Password;
use super::{Options, conf, port, table};
use crate::error::{Error, Kind, Result};

/// From the start of the process until it takes connections.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const INITDB_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(3);
const LOG_TAIL: u64 = 8 * 1024;

/// A cluster in its directory. Dropping it stops it at once; the directory goes after it.
#[derive(Debug)]
pub(super) struct Server {
    state: Mutex<State>,
    options: Options,
    password: Password,
    binaries: Binaries,
    account: Account,
    directory: Directory,
}

#[derive(Debug)]
struct State {
    port: u16,
    more: Vec<(String, String)>,
    running: Option<Kept>,
}

/// Why a start came to nothing.
enum Failure {
    PortTaken,
    /// Backends of a killed postmaster are still there.
    StillInUse,
    Other(Error),
}

impl Server {
    /// Finds the programs, makes a cluster and starts it.
    pub(super) fn create(options: Options) -> Result<Self> {
        let account = Account::choose()?;
        let binaries = options.search.find_for(&account, &options.shutdown)?;
        let directory = Directory::create(options.parent.as_deref(), &account)?;
        let state = State { port: port::free()?, more: Vec::new(), running: None };
        let password = Password::random();
        let server = Self { state: Mutex::new(state), options, password, binaries, account, directory };
        server.init()?;
        let mut state = server.state();
        while server.try_start(&mut state)?.is_none() {
            state.port = port::free()?;
        }
        drop(state);
        Ok(server)
    }

    pub(super) fn url(&self, database: &str) -> String {
        let mut name = String::new();
        for byte in database.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => name.push(byte.into()),
                other => drop(write!(name, "%{other:02X}")), // writing to a String cannot fail
            }
        }
        format!("postgresql://postgres:{}@127.0.0.1:{}/{name}", self.password.value(), self.port())
    }

    pub(super) fn port(&self) -> u16 {
        self.state().port
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.state().running.as_ref().filter(|kept| kept.ended().is_none()).map(|kept| kept.pid)
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.directory.data()
    }

    pub(super) fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub(super) fn log_tail(&self) -> String {
        self.log_from(0)
    }

    /// Ends all sessions and stops; nothing to do when it does not run.
    pub(super) fn stop(&self) -> Result<()> {
        self.end(&mut self.state(), "INT", STOP_DEADLINE)
    }

    /// Kills postmaster and sessions, as a crash of the machine would; on return none of them lives.
    pub(super) fn kill9(&self) -> Result<()> {
        let mut state = self.state();
        let sessions = state.running.as_ref().map(|kept| table::children(kept.pid)).unwrap_or_default();
        self.end(&mut state, "KILL", STOP_DEADLINE)?;
        for pid in &sessions {
            keeper::signal(&mut self.account.command("sh"), "KILL", &pid.to_string());
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        while sessions.iter().any(|pid| table::lives(*pid)) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts it on its port; `more` replaces the settings of the last such call.
    pub(super) fn start_with(&self, more: Option<Vec<(String, String)>>) -> Result<()> {
        let mut state = self.state();
        if state.running.as_ref().is_some_and(|kept| kept.ended().is_none()) {
            return Err(Error::usage("the throw-away server is already running"));
        }
        if let Some(more) = more {
            state.more = more;
        }
        let deadline = Instant::now() + READY_DEADLINE;
        while self.try_start(&mut state)?.is_none() {
            if Instant::now() > deadline {
                return Err(self.not_ready("its port or its shared memory stayed in use", 0));
            }
            thread::sleep(LOOK * 10);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn init(&self) -> Result<()> {
        let mut command = self.account.mortal_command("KILL", &self.binaries.program("initdb"));
        command.arg("-D").arg(self.directory.data()).current_dir(self.directory.path());
        command.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        command.args(["--pwfile=/dev/stdin", "--no-sync", "--no-instructions"]);
        command.stdin(self.password.piped(&self.account)?);
        keeper::run(command, "initdb", INITDB_DEADLINE, &self.options.shutdown).map(drop)
    }

    /// Starts once and waits until it is ready; `None` when it is worth another try.
    fn try_start(&self, state: &mut State) -> Result<Option<()>> {
        self.directory.conf.replace(&conf::text(&self.options, &state.more))?;
        let log_start = self.directory.log.len();
        let kept = Kept::spawn(self.command(state.port)?, "postgres")?;
        let ready = self.wait_ready(&kept, log_start);
        state.running = Some(kept);
        match ready {
            Ok(()) => Ok(Some(())),
            Err(Failure::PortTaken | Failure::StillInUse) => Ok(None),
            Err(Failure::Other(error)) => {
                self.end(state, "QUIT", STOP_DEADLINE)?;
                Err(error)
            }
        }
    }

    fn command(&self, port: u16) -> Result<Command> {
        let (log, conf) = (&self.directory.log, self.directory.conf.path());
        let appender = || log.appender().map_err(|e| Error::io(log.path().display(), e));
        let mut command = self.account.mortal_command("QUIT", &self.binaries.program("postgres"));
        command.arg("-D").arg(self.directory.data()).args(["-p", &port.to_string()]);
        command.arg("-c").arg(format!("config_file={}", conf.display()));
        command.current_dir(self.directory.path()).stdout(appender()?).stderr(appender()?);
        Ok(command)
    }

    fn wait_ready(&self, kept: &Kept, log_start: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_DEADLINE;
        let pid = kept.pid.to_string();
        loop {
            let line = |number| postmaster_line(self.directory.path(), number);
            if line(1).is_some_and(|line| line == pid) && line(8).is_some_and(|line| line == "ready") {
                return Ok(());
            }
            if let Some(how) = kept.ended() {
                return Err(self.failure(&how, log_start));
            }
            if self.options.shutdown.is_requested() {
                let what = "the start of the throw-away Postgres was cut off: asked to stop";
                return Err(Failure::Other(Error::new(Kind::Io, what)));
            }
            if Instant::now() > deadline {
                let seconds = READY_DEADLINE.as_secs();
                let what = format!("it was not ready within {seconds} s");
                return Err(Failure::Other(self.not_ready(&what, log_start)));
            }
            thread::sleep(LOOK);
        }
    }

    /// Tells by the log (English, as the locale is C) why it ended.
    fn failure(&self, how: &str, log_start: u64) -> Failure {
        let log = self.log_from(log_start);
        if log.contains("could not bind") {
            Failure::PortTaken
        } else if log.contains("is still in use") {
            Failure::StillInUse
        } else {
            Failure::Other(self.not_ready(&format!("it ended ({how})"), log_start))
        }
    }

    fn not_ready(&self, what: &str, log_start: u64) -> Error {
        let log = self.log_from(log_start);
        let message = format!("the throw-away Postgres did not start: {what}; its log ends with:\n{log}");
        Error::new(Kind::Io, message)
    }

    fn log_from(&self, start: u64) -> String {
        let log = &self.directory.log;
        log.text_from(start.max(log.len().saturating_sub(LOG_TAIL))).trim_end().to_owned()
    }

    fn end(&self, state: &mut State, signal: &str, deadline: Duration) -> Result<()> {
        let Some(kept) = state.running.take() else { return Ok(()) };
        kept.signal(signal);
        if kept.wait(deadline) {
            return Ok(());
        }
        kept.signal("KILL");
        kept.wait(deadline);
        let log = self.log_tail();
        Err(Error::new(
            Kind::Timeout,
            format!("the throw-away Postgres did not stop; its log ends with:\n{log}"),
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = self.end(&mut state, "QUIT", Duration::from_secs(10)) {
            tracing::warn!(error = %e, "the throw-away server was killed");
        }
    }
}
