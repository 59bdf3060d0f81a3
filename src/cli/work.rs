//! `reveille work`: runs jobs.

use super::context::{Context, Outcome};
use super::output::pairs;
use super::signals::Signals;
use crate::app;
use crate::config::{self, Flag};
use crate::error::{Error, Result};
use crate::model::executor::ExecutorKind;
use crate::shutdown::Shutdown;
use crate::telemetry;
use crate::work::{Exec, Handlers, Worker, WorkerCounts};

/// Run jobs by SQL functions (those of `job_handler`) or by a program, until told to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reveille work --executor-name worker-1 --concurrency 8
  */5 * * * * reveille work --executor-name nightly --once
  reveille work --exec './resize.py --width 80' --job-kinds image.resize --kind external_worker

With --exec each job is one run of the program: the job comes as JSON on its standard input. Exit
code 0 is success, 64, 65 and 78 are failures for good, all others failures that may pass; more can
be said on the last line of its standard output. docs/executors.md has it all.

Stops softly on SIGTERM or Ctrl-C, within [shutdown] deadline: gives back what was not started and
lets running jobs end. Stops at once on the second signal.")]
pub(super) struct Args {
    /// Claim under this name; without it, `[worker] executor_name`, else a name made up for this process
    #[arg(long, value_name = "NAME")]
    executor_name: Option<String>,
    /// Run jobs by this program instead of SQL functions; words and quotes as in a shell, but no shell reads it
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Kind of executor; SQL functions are run by `PG_worker`, a program by any
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Jobs to run at the same time
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Claim these kinds alone, separated by commas; needed by --exec
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
    let handlers = handlers(args.exec.as_deref(), &settings.worker)?;
    let server = context.server()?;
    let worker = Worker::new(&server, settings, handlers)?;
    let worker = if args.takeover { worker.taking_over() } else { worker };
    let (spans, exporter) = telemetry::start(&settings.telemetry)?;
    let worker = worker.traced(spans);
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
    let work = exporter.around(&shutdown, Box::pin(work));
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

/// The program for each kind that was named, or the SQL functions.
fn handlers(exec: Option<&str>, worker: &config::Worker) -> Result<Handlers> {
    match exec {
        Some(_) if worker.job_kinds.is_empty() => {
            Err(Error::usage("--exec does not say which jobs the program runs")
                .hint("name their kinds: --job-kinds image.resize,image.rotate"))
        }
        Some(line) => {
            let program = Exec::new(line)?;
            let add = |handlers: Handlers, kind: &String| handlers.on(kind, program.clone());
            Ok(worker.job_kinds.iter().fold(Handlers::new(), add))
        }
        None if worker.kind == ExecutorKind::PgWorker => Ok(Handlers::new().with_sql()),
        None => {
            Err(Error::usage(format!("an executor of kind {} has nothing to run jobs with", worker.kind))
                .hint("--kind PG_worker runs the SQL functions of job_handler; --exec CMD runs a program"))
        }
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
