//! `reveille work`: runs jobs.

use super::context::{Context, Outcome};
use super::output::pairs;
use super::signals::Signals;
use crate::app;
use crate::config::Flag;
use crate::error::{Error, Result};
use crate::model::executor::ExecutorKind;
use crate::shutdown::Shutdown;
use crate::work::{Handlers, Worker, WorkerCounts};

/// Run jobs by the SQL functions registered in `job_handler`, until told to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reveille work --executor-name worker-1 --concurrency 8
  */5 * * * * reveille work --executor-name nightly --once

Stops softly on SIGTERM or Ctrl-C, within [shutdown] deadline: gives back what was not started and
lets running jobs end. Stops at once on the second signal.")]
pub(super) struct Args {
    /// Claim under this name; without it, `[worker] executor_name`, else a name made up for this process
    #[arg(long, value_name = "NAME")]
    executor_name: Option<String>,
    /// Kind of executor; SQL functions are run by `PG_worker`
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Jobs to run at the same time
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Claim these kinds alone, separated by commas
    #[arg(long, value_name = "KINDS")]
    job_kinds: Option<String>,
    /// Run everything that is ready, then exit; no heartbeat is expected until the next run
    #[arg(long)]
    once: bool,
    /// Take the name from a process that still beats under it, instead of waiting until that one is stale
    #[arg(long)]
    takeover: bool,
    /// Hear no notifications, only poll: for poolers and for closed gates
    #[arg(long)]
    poll_only: bool,
}

impl Args {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let given = [
            ("--executor-name", "worker.executor_name", self.executor_name.clone()),
            ("--kind", "worker.kind", self.kind.clone()),
            ("--concurrency", "worker.concurrency", self.concurrency.clone()),
            ("--job-kinds", "worker.job_kinds", self.job_kinds.clone()),
            ("--poll-only", "dispatch.listen", self.poll_only.then(|| "false".to_owned())),
        ];
        let flag = |(name, key, value): (_, _, Option<String>)| Some(Flag { name, key, value: value? });
        given.into_iter().filter_map(flag).collect()
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let settings = &context.settings;
    if settings.worker.kind != ExecutorKind::PgWorker {
        let kind = settings.worker.kind;
        return Err(Error::usage(format!("an executor of kind {kind} has nothing to run jobs with"))
            .hint("--kind PG_worker runs the SQL functions of job_handler"));
    }
    let server = context.server()?;
    let worker = Worker::new(&server, settings, Handlers::new().with_sql())?;
    let worker = if args.takeover { worker.taking_over() } else { worker };
    let shutdown = Shutdown::new();
    let mut signals = Signals::new()?;
    let work = async {
        if args.once {
            app::check_schema(&server).await?;
            worker.run_once(shutdown.clone()).await
        } else if app::wait_for_schema(&server, &shutdown).await? {
            worker.run(shutdown.clone()).await.map(Ok)
        } else {
            Ok(Ok(WorkerCounts::default()))
        }
    };
    tokio::pin!(work);
    let counts = tokio::select! {
        counts = &mut work => counts,
        () = signals.two_steps(&shutdown, settings.shutdown.deadline) => work.await,
    }?;
    match counts {
        Ok(counts) => context.out.answer(&counts, || as_text(&counts)).map(|()| Outcome::Done),
        Err(refusal) => Ok(Outcome::Refused(refusal)),
    }
}

fn as_text(counts: &WorkerCounts) -> String {
    let number = |count: u64| (count > 0).then(|| count.to_string());
    pairs([
        ("succeeded", Some(counts.succeeded.to_string())),
        ("failed, tried again later", number(counts.failed_transient)),
        ("failed for good", number(counts.failed_permanent)),
        ("snoozed", number(counts.snoozed)),
        ("cancelled", number(counts.cancelled)),
        ("given back", number(counts.released)),
        ("lease lost", number(counts.lease_lost)),
        ("not reported", number(counts.unreported)),
    ])
}
