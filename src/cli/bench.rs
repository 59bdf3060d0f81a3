//! `reveille bench`: how fast, beside the bare limit of the same server in the same run.

use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;

use super::context::{Context, Outcome};
use super::output::{pairs, table};
use super::signals::Signals;
use crate::bench::{self, Bench, Bound, Options, Report};
use crate::config::{LogLevel, Settings};
use crate::error::{Error, Kind, Result};

/// Measure, on a throw-away Postgres, beside the bare limit of the same run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reveille bench all
  reveille bench dispatch --backlog 3000000
  reveille bench producer --clients 8 --seconds 10 --database-url postgres://postgres@localhost/postgres

With --database-url it runs on that server, in a database that it makes and drops; DATABASE_URL is not used.
Exit code 0 also when a goal is missed; 1 when an event was lost or a job made twice.")]
pub(super) struct Args {
    /// Which bench
    #[arg(value_enum, default_value = "all")]
    bench: Which,
    /// dispatch: events of the backlog [default: 200000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    events: Option<u32>,
    /// dispatch: read one backlog of N events and compare its tenths
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..))]
    backlog: Option<u32>,
    /// work, workflow, claim, enqueue, herd: jobs of one measurement [default: 50000, workflow 60000, herd 100]; health:
    /// jobs that are finished [default: 10000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    jobs: Option<u32>,
    /// claim: most jobs that wait; also a million each that are scheduled and blocked, if it is not fewer [default: 5000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    waiting: Option<u32>,
    /// dispatch: events of a pass [default: 1000]; work: jobs of a bare claim [default: 100]; enqueue: jobs of a call
    /// [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20000))]
    batch: Option<u32>,
    /// producer: clients that insert at the same time [default: 8]; herd: workers [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=80))]
    clients: Option<u32>,
    /// producer, wake, idle, held-snapshot: seconds of one measurement [default: 10, 20, 60, 600]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// dispatch, producer, wake, work, workflow, claim, enqueue: how often runs and limits take turns [default: 3 to 5];
    /// health: how often it is asked [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Address of a server, from the flag alone
    #[arg(skip)]
    pub(super) server: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Events of a backlog to jobs
    Dispatch,
    /// What the trigger and the sidecar cost producers
    Producer,
    /// From a commit to the job, and to its handler
    Wake,
    /// What nothing to do costs
    Idle,
    /// Jobs that do nothing, through one worker
    Work,
    /// Workflows of six steps through one worker, beside as many plain jobs
    Workflow,
    /// Claiming and succeeding through the functions, also in a deep queue
    Claim,
    /// Enqueueing many jobs by one call
    Enqueue,
    /// A steady stream while another session holds a snapshot
    HeldSnapshot,
    /// How many sleeping workers ask for one job
    Herd,
    /// How long health takes when millions of jobs are done
    Health,
    /// One after the other
    All,
}

impl Which {
    fn benches(self) -> Vec<Bench> {
        match self {
            Self::Dispatch => vec![Bench::Dispatch],
            Self::Producer => vec![Bench::Producer],
            Self::Wake => vec![Bench::Wake],
            Self::Idle => vec![Bench::Idle],
            Self::Work => vec![Bench::Work],
            Self::Workflow => vec![Bench::Workflow],
            Self::Claim => vec![Bench::Claim],
            Self::Enqueue => vec![Bench::Enqueue],
            Self::HeldSnapshot => vec![Bench::HeldSnapshot],
            Self::Herd => vec![Bench::Herd],
            Self::Health => vec![Bench::Health],
            Self::All => Bench::ALL.to_vec(),
        }
    }
}

/// A bench works with the defaults, whatever the operator's are, and tells its own story.
pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.log.level = LogLevel::Warn;
    settings
}

impl Args {
    fn options(&self) -> Result<Options> {
        let program = std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
        Ok(Options {
            program,
            server: self.server.clone(),
            events: self.events,
            backlog: self.backlog,
            jobs: self.jobs,
            waiting: self.waiting,
            batch: self.batch,
            clients: self.clients,
            length: self.seconds.map(|seconds| Duration::from_secs(seconds.into())),
            rounds: self.rounds,
        })
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let options = args.options()?;
    let mut signals = Signals::new()?;
    let mut reports = Vec::new();
    for bench in args.bench.benches() {
        let mut tell = |line: &str| context.out.line(&format!("  {line}")).unwrap_or(());
        let report = tokio::select! {
            report = bench::run(bench, &options, &mut tell) => report?,
            () = signals.next() => return Err(Error::new(Kind::Io, "the bench was interrupted")),
        };
        if !context.out.is_json() {
            context.out.line(&as_text(&report))?;
        }
        reports.push(report);
    }
    if context.out.is_json() {
        context.out.answer(&reports, String::new)?;
    }
    Ok(if reports.iter().all(Report::is_sound) { Outcome::Done } else { Outcome::Failed })
}

fn as_text(report: &Report) -> String {
    let Report { machine, server, .. } = report;
    let mut text = format!("\nbench {}\n\n", report.bench);
    let memory = format!("{} MiB", machine.memory_mib);
    let build = if machine.optimised { "release" } else { "debug: its figures mean nothing" };
    let facts = pairs([
        ("machine", Some(format!("{} cores, {}, {memory}", machine.cores, machine.processor))),
        ("kernel", Some(format!("{}, load {:.1} before the bench", machine.kernel, machine.load))),
        ("Postgres", Some(server.version.clone())),
        (
            "settings",
            Some(format!(
                "fsync {}, synchronous_commit {}, full_page_writes {}, shared_buffers {}, max_wal_size {}",
                server.fsync,
                server.synchronous_commit,
                server.full_page_writes,
                server.shared_buffers,
                server.max_wal_size
            )),
        ),
        ("reveille", Some(format!("{}, {build}", env!("CARGO_PKG_VERSION")))),
    ]);
    let _ = writeln!(text, "{facts}\n");
    let figures = report
        .figures
        .iter()
        .map(|figure| [figure.name.clone(), amount(figure.value), figure.unit.to_owned()]);
    let _ = writeln!(text, "{}\n", table(&["figure", "", ""], figures));
    let goals = report.goals.iter().map(|goal| {
        let bound = if goal.bound == Bound::AtLeast { "≥" } else { "≤" };
        let met = if goal.met { "met" } else { "not met" };
        [goal.name.clone(), amount(goal.measured), format!("{bound} {}", amount(goal.goal)), met.to_owned()]
    });
    let _ = writeln!(text, "{}", table(&["goal", "is", "goal", ""], goals));
    for check in report.checks.iter().filter(|check| !check.holds()) {
        let _ = writeln!(text, "WRONG: {}: {} instead of {}", check.name, check.found, check.expected);
    }
    if report.is_sound() && !report.checks.is_empty() {
        let _ =
            writeln!(text, "\nevery event made exactly the jobs it should ({} counts)", report.checks.len());
    }
    text
}

/// Large numbers whole and in groups of three, small ones with as many digits as say something.
fn amount(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size > 0.0 => 2,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        let left = whole.len() - place;
        if place > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn numbers_are_readable() {
        let shown = [0.0, 0.804, 12.34, 123.4, 61_722.2, 1_234_567.0, -1234.0].map(amount);
        assert_eq!(shown, ["0", "0.80", "12.3", "123", "61,722", "1,234,567", "-1,234"]);
    }
}
