//! Jobs that any program runs: `reveille work --exec`.
//!
//! `words` the command line · `group` the program and all that it starts · `tail` what it says, bounded · `answer` what
//! its end means. What programs may rely on is written in docs/executors.md.

mod answer;
mod group;
mod tail;
mod words;

use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

use self::group::Group;
use self::tail::Tail;
use super::handler::{Handler, JobContext, Outcome};
use crate::error::Result;
use crate::model::job::Job;

/// How long we listen on after the program's end: somebody who left its group may hold its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program that runs jobs, one process for each.
///
/// It gets the job as JSON on its standard input and `REVEILLE_JOB_ID`, `REVEILLE_JOB_KIND`, `REVEILLE_LEASE_TOKEN` and,
/// of a job that belongs to a trace, `TRACEPARENT` in its environment. Its exit code, and the last line that it says, decide how the job ends.
#[derive(Debug, Clone)]
pub struct Exec {
    words: Arc<[String]>,
}

impl Exec {
    /// A program and its arguments, in one line; quotes and backslashes as in a shell, but no shell reads it.
    ///
    /// # Errors
    /// Wrong usage: no words, an open quote, what only a shell understands, or a program that is not there.
    pub fn new(line: &str) -> Result<Self> {
        let words = words::split(line)?;
        words::find(&words[0])?;
        Ok(Self { words: words.into() })
    }

    fn command(&self, job: &Job) -> Command {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .env("REVEILLE_JOB_ID", job.job_id.to_string())
            .env("REVEILLE_JOB_KIND", &job.job_kind)
            .env("REVEILLE_LEASE_TOKEN", job.lease_token.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match &job.traceparent {
            Some(traceparent) => command.env("TRACEPARENT", traceparent),
            None => command.env_remove("TRACEPARENT"), // the worker's own is another story
        };
        command
    }
}

impl Handler for Exec {
    async fn run(&self, job: &Job, context: &JobContext) -> Outcome {
        let input = match serde_json::to_vec(job) {
            Ok(input) => input,
            Err(error) => return Outcome::Permanent(format!("writing the job as JSON: {error}")),
        };
        // a program that is just being replaced, a machine out of processes: both may pass
        let not_started = |error| Outcome::Transient(format!("starting {}: {error}", self.words[0]));
        let mut group = match Group::spawn(self.command(job)) {
            Ok(group) => group,
            Err(error) => return not_started(error),
        };
        let (stdin, stdout, stderr) = group.pipes();
        let (mut out, mut err) = (Tail::default(), Tail::default());
        let origin = job.origin();
        let log = |line: &str| tracing::debug!(job.id = %job.job_id, event.id = origin.event_id.map(tracing::field::display), trace_id = origin.trace_id.as_deref(), "{} says: {line}", job.job_kind);
        let ended = {
            let talk = pin!(async {
                tokio::join!(feed(stdin, &input), out.read(stdout, |_| ()), err.read(stderr, log));
            });
            let end = pin!(group.ended(context));
            match select(end, talk).await {
                Either::Left((ended, talk)) => {
                    timeout(LAST_WORDS, talk).await.ok();
                    ended
                }
                Either::Right(((), end)) => end.await,
            }
        };
        match ended {
            Ok(ended) => answer::outcome(ended, &out, &err),
            Err(error) => Outcome::Transient(format!("waiting for {}: {error}", self.words[0])),
        }
    }
}

/// Writes the job and closes; a program that does not want to read it need not.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(input).await.ok();
    }
}
