//! `reveille demo`: the main job on a throw-away Postgres.

use std::path::PathBuf;
use std::time::Duration;

use super::context::{Context, Outcome};
use super::output::{printable, table};
use super::signals::Signals;
use crate::config::Flag;
use crate::demo::{self, Report, Step};
use crate::error::Result;
use crate::model::workflow::drawing;
use crate::shutdown::Shutdown;

/// Show the main job end to end, on a document of yours and a throw-away Postgres
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  reveille demo letter.txt

Stages the document, marks and approves it; the committed fact makes a job that cuts it into pieces,
the next one a job that verifies them, and clean-up follows. Nothing outside is touched.
With --workflow the same happens again from a template, beside it.")]
pub(super) struct Args {
    /// A text, up to 10 MiB
    document: PathBuf,
    /// Then cut it once more as a workflow of six steps and a gate, and compare the pieces
    #[arg(long)]
    workflow: bool,
}

impl Args {
    /// The steps are the story; of the log only what is wrong. `REVEILLE_LOG=info` shows the rest.
    pub(super) fn flags() -> Vec<Flag> {
        vec![Flag { name: "demo", key: "log.level", value: "warn".to_owned() }]
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let shutdown = Shutdown::new();
    let mut signals = Signals::new()?;
    let mut first = None;
    let out = context.out;
    let mut tell = move |step: Step| out.line(&line(&step, &mut first));
    let mut playing = Box::pin(demo::run(&args.document, args.workflow, &shutdown, &mut tell));
    let report = tokio::select! {
        report = &mut playing => report,
        () = signals.two_steps(&shutdown, context.settings.shutdown.deadline) => playing.await,
    }?;
    context.out.answer(&report, || as_text(&report))?;
    Ok(if report.is_good() { Outcome::Done } else { Outcome::Failed })
}

/// `   0.012 s  job        cut.cut                          3.1 ms after its event`
fn line(step: &Step, first: &mut Option<jiff::Timestamp>) -> String {
    let clock = step.at.map_or_else(String::new, |at| {
        let since = at.duration_since(*first.get_or_insert(at)).unsigned_abs();
        format!("{:.3} s", since.as_secs_f64())
    });
    let latency = step.latency.map(|(took, words)| match words {
        "took" => format!("took {}", milliseconds(took)),
        words => format!("{} {words}", milliseconds(took)),
    });
    let line = format!(
        "{clock:>9}  {:<10} {:<52} {}",
        step.what,
        printable(&step.text),
        latency.unwrap_or_default()
    );
    line.trim_end().to_owned()
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

fn as_text(report: &Report) -> String {
    let events = report.events.iter().map(|event| {
        let became = match (&event.consumer_key, event.terminal, event.job_id) {
            (None, ..) => "nobody wanted it".to_owned(),
            (Some(key), true, _) => format!("seen by {key}, no job wanted"),
            (Some(key), false, Some(_)) => format!("a job, by {key}"),
            (Some(key), false, None) => format!("NO JOB, though {key} wants one"),
        };
        [event.name.clone(), became]
    });
    let jobs = report.jobs.iter().map(|job| {
        let wait = job.picked_at.map(|at| at.duration_since(job.created_at).unsigned_abs());
        let run = job.picked_at.zip(job.finished_at).map(|(from, to)| to.duration_since(from).unsigned_abs());
        [
            job.job_kind.clone(),
            job.status.clone(),
            job.attempts.to_string(),
            job.lease_owner.clone().unwrap_or_default(),
            wait.map(milliseconds).unwrap_or_default(),
            run.map(milliseconds).unwrap_or_default(),
        ]
    });
    let found: Vec<String> = report.found_by.iter().map(|(by, count)| format!("{count} by {by}")).collect();
    let record = &report.record;
    let workflow = report.workflow.as_ref().map_or_else(String::new, |pipeline| {
        let same = if pipeline.identical { "the same pieces" } else { "OTHER PIECES" };
        let (template, status) = (&pipeline.workflow.template, &pipeline.workflow.status);
        format!("\n\nthe workflow {template} {status}, with {same}:\n{}", drawing(&pipeline.steps))
    });
    format!(
        "\n{}\n\n{}\n\nthe document: {} bytes in {} pieces, {}, {}; events found: {}",
        table(&["event", "became"], events),
        table(&["job", "status", "failures", "executor", "waited", "ran"], jobs),
        record.source_bytes,
        record.piece_count,
        record.verdict.as_deref().map_or("not verified", |verdict| if verdict == "verified" {
            "verified byte for byte"
        } else {
            verdict
        }),
        record.lifecycle_status,
        found.join(", ")
    ) + &workflow
}
