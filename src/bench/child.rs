//! The sidecar of a bench: `reveille run` as a process of its own, with its costs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::process;
use super::stage::{Stage, too_slow};
use crate::error::{Error, Kind, Result};
use crate::postgres::embedded::free_port;
use crate::store;

const READY_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);
/// How much of its log an error shows.
const LOG_TAIL: usize = 2000;

/// A running sidecar. Dropping it kills it.
pub(super) struct Sidecar {
    process: Child,
    pid: u32,
    port: u16,
    log: Log,
}

/// What a sidecar has cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// Processor time of its process.
    pub(super) process: Duration,
    /// Processor time of the server processes that serve it; zero when they cannot be seen.
    pub(super) sessions: Duration,
}

/// Its log, in a file that goes with it.
struct Log(PathBuf);

impl Drop for Log {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

impl Sidecar {
    /// Starts `program run` with these settings over the defaults, and waits until it has begun.
    pub(super) async fn start(program: &Path, stage: &Stage, settings: &[(&str, &str)]) -> Result<Self> {
        let name = format!("reveille-bench-{}.log", uuid::Uuid::new_v4().simple());
        let log = Log(std::env::temp_dir().join(name));
        let named = |error| Error::io(log.0.display(), error);
        let file = std::fs::File::create_new(&log.0).map_err(named)?;
        let port = free_port()?;
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("REVEILLE") {
                command.env_remove(variable);
            }
        }
        command.arg("run").current_dir("/"); // where no config.toml is
        command.env("DATABASE_URL", stage.url()).env("REVEILLE__HTTP__LISTEN", format!("127.0.0.1:{port}"));
        for (key, value) in settings {
            command.env(format!("REVEILLE__{}", key.replace('.', "__").to_uppercase()), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(file)).kill_on_drop(true);
        let process = command.spawn().map_err(|error| Error::io(program.display(), error))?;
        let pid = process.id().unwrap_or_default();
        let mut sidecar = Self { process, pid, port, log };
        sidecar.wait_ready().await?;
        Ok(sidecar)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_DEADLINE;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(self.failed(&format!("the sidecar ended ({status})")));
            }
            if self.is_ready().await {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(self.failed("the sidecar was not ready in time"));
            }
            sleep(LOOK).await;
        }
    }

    /// Asks its own face.
    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        match timeout(Duration::from_secs(1), ask).await {
            Ok(Ok(answer)) => answer.split(|byte| *byte == b' ').nth(1) == Some(b"200"),
            _ => false,
        }
    }

    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log.0).unwrap_or_default();
        let start = log.len().saturating_sub(LOG_TAIL);
        let start = (start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        Error::new(Kind::Io, format!("{what}; its log ends with:\n{}", log[start..].trim_end()))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has cost so far.
    pub(super) async fn cost(&self, stage: &Stage) -> Result<Cost> {
        let process = process::processor_time(self.pid);
        if !stage.is_own() {
            return Ok(Cost { process, sessions: Duration::ZERO });
        }
        let pids = store::bench::backends(&stage.client().await?, false).await?;
        Ok(Cost { process, sessions: process::processor_time_of(pids) })
    }

    /// Asks it to stop, and waits for it.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = self.pid.to_string();
        let asked = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status().await;
        asked.map_err(|error| Error::io("asking the sidecar to stop", error))?;
        match timeout(STOP_DEADLINE, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(&format!("the sidecar ended badly ({status})"))),
            Ok(Err(error)) => Err(Error::io("waiting for the sidecar", error)),
            Err(_) => Err(too_slow("the sidecar did not stop", STOP_DEADLINE)),
        }
    }
}

impl Cost {
    /// What came in addition to `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            process: self.process.saturating_sub(before.process),
            sessions: self.sessions.saturating_sub(before.sessions),
        }
    }

    /// Its share of the machine over `span`, 0 to 1.
    pub(super) fn share(self, span: Duration) -> f64 {
        let cores = u32::try_from(super::machine::cores()).unwrap_or(1);
        (self.process + self.sessions).as_secs_f64() / (span * cores).as_secs_f64().max(f64::EPSILON)
    }
}
