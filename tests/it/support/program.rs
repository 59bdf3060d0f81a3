//! The real program as a process of its own, with everything it says.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_postgres::Config;

use super::wait::{SOON, wait_for};

/// A password for addresses that have none; no output may have it.
pub(crate) const SECRET: &str = "hush-hush-9";

/// The address with a password: its own, or [`SECRET`].
pub(crate) fn with_secret(url: &str) -> String {
    url.replacen("://postgres@", &format!("://postgres:{SECRET}@"), 1)
}

/// A running program. Dropping it kills it; it also goes with the test's process.
pub(crate) struct Program {
    child: Child,
    /// What it must not say.
    secrets: Vec<String>,
    said: Arc<Mutex<Said>>,
    readers: Vec<JoinHandle<()>>,
    heard: usize,
}

#[derive(Default)]
struct Said {
    out: String,
    err: Vec<String>,
}

/// How a program ended, and all it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Program {
    /// Starts `reveille` with these arguments on a database, without a face and quick to try again, with more
    /// settings by their environment names.
    pub(crate) fn start(url: &str, arguments: &[&str], more: &[(&str, &str)]) -> Self {
        Self::start_in(&[], url, arguments, more)
    }

    /// The same, started by the command `wrapper`, which must become it.
    pub(crate) fn start_in(wrapper: &[&str], url: &str, arguments: &[&str], more: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(wrapper);
        command.arg(env!("CARGO_BIN_EXE_reveille")).args(arguments);
        for (name, _) in std::env::vars() {
            if name.starts_with("REVEILLE") || name.starts_with("PG") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        let url = with_secret(url);
        command.env("DATABASE_URL", &url);
        command.env("REVEILLE__HTTP__ENABLED", "false");
        command.env("REVEILLE__DISPATCH__POLL_INTERVAL", "200ms");
        command.env("REVEILLE__DATABASE__CONNECT_TIMEOUT", "15s");
        command.env("REVEILLE__LISTENER__BACKOFF_CAP", "200ms");
        command.envs(more.iter().copied()).current_dir(env!("CARGO_TARGET_TMPDIR"));
        Self::spawn(&mut command, &url)
    }

    /// Starts `reveille run`.
    pub(crate) fn run(url: &str, more: &[(&str, &str)]) -> Self {
        Self::start(url, &["run"], more)
    }

    fn spawn(command: &mut Command, url: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("setpriv starts the program");
        let said = Arc::<Mutex<Said>>::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (keep_out, keep_err) = (Arc::clone(&said), Arc::clone(&said));
        let readers = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    keep_out.lock().unwrap().out.extend([line.as_str(), "\n"]);
                }
            }),
            std::thread::spawn(move || {
                for line in BufReader::new(err).lines().map_while(Result::ok) {
                    keep_err.lock().unwrap().err.push(line);
                }
            }),
        ];
        let given = url.parse::<Config>().ok().and_then(|address| address.get_password().map(<[u8]>::to_vec));
        let given = given.map(|password| String::from_utf8(password).unwrap());
        let secrets = given.into_iter().chain([SECRET.to_owned()]).collect();
        Self { child, secrets, said, readers, heard: 0 }
    }

    /// Waits for a line on standard error that holds all of `words`, after the last line so waited for.
    pub(crate) async fn says(&mut self, words: &[&str]) -> String {
        let said = Arc::clone(&self.said);
        let heard = &mut self.heard;
        let all = || said.lock().unwrap().err.join("\n");
        let found = async {
            wait_for(&format!("{words:?}"), SOON * 3, async || {
                let said = said.lock().unwrap();
                let new = said.err.iter().enumerate().skip(*heard);
                let (place, line) =
                    new.into_iter().find(|(_, line)| words.iter().all(|word| line.contains(word)))?;
                *heard = place + 1;
                Some(line.clone())
            })
            .await
        };
        let found = tokio::time::timeout(SOON, found).await;
        found.unwrap_or_else(|_| panic!("it has not said {words:?} within {SOON:?}, but:\n{}", all()))
    }

    /// Waits for a line on standard error that holds `word`, wherever it stands.
    pub(crate) async fn has_said(&self, word: &str) {
        wait_for(word, SOON, async || self.lines_with(word).pop()).await;
    }

    /// The lines on standard error so far that hold `word`.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.err.iter().filter(|line| line.contains(word)).cloned().collect()
    }

    /// The lines on standard output so far.
    pub(crate) fn lines_out(&self) -> Vec<String> {
        self.said.lock().unwrap().out.lines().map(str::to_owned).collect()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal: INT, TERM, STOP, CONT.
    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success(), "SIG{name} was not sent");
    }

    /// Waits for its end.
    pub(crate) async fn ends(self) -> Ended {
        self.ends_within(SOON).await
    }

    /// Waits for its end, which must come in time; nothing that it said may hold the password.
    pub(crate) async fn ends_within(mut self, deadline: Duration) -> Ended {
        let said = Arc::clone(&self.said);
        let everything = || said.lock().unwrap().err.join("\n");
        let ended =
            async { wait_for("its end", deadline * 2, async || self.child.try_wait().unwrap()).await };
        let status = tokio::time::timeout(deadline, ended).await;
        let status =
            status.unwrap_or_else(|_| panic!("it has not ended within {deadline:?}:\n{}", everything()));
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let out = said.lock().unwrap().out.clone();
        let ended = Ended { code: status.code(), out, err: everything() };
        for secret in &self.secrets {
            assert!(!format!("{}{}", ended.out, ended.err).contains(secret), "a secret in {ended:?}");
        }
        ended
    }

    /// Asks it to stop as Ctrl-C does; it ends with 0 within a moment.
    pub(crate) async fn stops(self) -> Ended {
        self.signal("INT");
        let ended = self.ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
