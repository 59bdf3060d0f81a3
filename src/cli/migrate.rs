//! `reveille migrate`: brings the schema to what this binary needs, back, or says how it stands.

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::Result;
use crate::postgres::Server;
use crate::postgres::migrator::{Action, At, Direction, Migrator, PhaseStatus, Report, Start, State, Step};

use super::output::{duration, moment, table};
use super::progress::Progress;
use super::{Context, Outcome};

/// Bring the database's schema to what this reveille needs, or back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    reveille migrate up --dry-run      show what would be done; everything is tried and taken back\n  \
    reveille migrate up                do it\n  \
    reveille migrate up --sql > up.sql the same as plain SQL, for psql\n  \
    reveille migrate down --to 0       remove Reveille; refuses while rows would be lost\n  \
    reveille migrate status            say what `migrate up` would find")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply the phases that are missing, and functions whose text has changed
    Up(Way),
    /// Undo phases, newest first: the last one, or all above --to
    Down(Way),
    /// Show how each phase stands; exit code 1 if `migrate up` has something to do
    Status,
}

#[derive(Debug, clap::Args)]
struct Way {
    /// The phase to end at; 0 is nothing at all
    #[arg(long, value_name = "PHASE")]
    to: Option<u32>,
    /// Try everything in one transaction, take it back, and say what was done
    #[arg(long, conflicts_with = "sql")]
    dry_run: bool,
    /// Print plain SQL for psql instead, and execute nothing; without an address of a database, from nothing (up) or
    /// from everything (down)
    #[arg(long)]
    sql: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.command {
        Command::Status => status(context).await,
        Command::Up(way) if way.sql => sql(Direction::Up, way.to, context).await,
        Command::Down(way) if way.sql => sql(Direction::Down, way.to, context).await,
        Command::Up(way) => go(Direction::Up, &way, context).await,
        Command::Down(way) => go(Direction::Down, &way, context).await,
    }
}

fn migrator(context: &Context) -> Result<Migrator> {
    Ok(Migrator::new(Server::direct(&context.settings.database)?))
}

async fn go(direction: Direction, way: &Way, context: &Context) -> Result<Outcome> {
    let (teller, at) = watch::channel(At::default());
    let migrator = migrator(context)?.telling(teller);
    let work = async {
        match direction {
            Direction::Up => migrator.up(way.to, way.dry_run).await,
            Direction::Down => migrator.down(way.to, way.dry_run).await,
        }
    };
    let report = shown(work, at, context).await?;
    told(&report, context)
}

/// Shows how far it is, as long as it lasts.
async fn shown<T>(work: impl Future<Output = T>, mut at: watch::Receiver<At>, context: &Context) -> T {
    let mut progress = Progress::new(context.out, "steps", 0);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Ok(()) = at.changed() => {
                let At { done, of, step } = at.borrow_and_update().clone();
                progress.at(done as u64, of as u64, &step);
            }
        }
    }
}

async fn sql(direction: Direction, to: Option<u32>, context: &Context) -> Result<Outcome> {
    let mut database = context.settings.database.clone();
    let start = if database.listen_address().is_empty() {
        "postgres://nowhere".clone_into(&mut database.url); // never opened
        Start::Assumed
    } else {
        Start::AsFound
    };
    let script = Migrator::new(Server::direct(&database)?).sql(direction, to, start).await?;
    context.out.answer(&json!({ "sql": script }), || script.trim_end().to_owned())?;
    Ok(Outcome::Done)
}

fn told(report: &Report, context: &Context) -> Result<Outcome> {
    if report.is_open {
        let schema = &context.settings.database.schema;
        tracing::warn!(
            "every login may create objects in schema {schema}, and so take the place of what functions with the \
             rights of their owner call: revoke create on schema {schema} from public"
        );
    }
    let document = json!({
        "dry_run": report.dry_run,
        "from": report.from,
        "to": report.to,
        "steps": report.steps.iter().map(step_as_json).collect::<Vec<_>>(),
    });
    context.out.answer(&document, || words(report))?;
    Ok(Outcome::Done)
}

fn step_as_json(step: &Step) -> Value {
    json!({
        "phase": step.phase.number,
        "name": step.phase.name,
        "action": match step.action {
            Action::Apply => "apply",
            Action::RefreshFunctions => "refresh_functions",
            Action::Undo => "undo",
        },
        "milliseconds": u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn words(report: &Report) -> String {
    let at = match report.from {
        0 => "Reveille is not installed here".to_owned(),
        from => format!("the schema is at phase {from}"),
    };
    if report.steps.is_empty() {
        return format!("Nothing to do: {at}.");
    }
    let mut lines: Vec<String> = report.steps.iter().map(|step| line(step, report.dry_run)).collect();
    lines.push(if report.dry_run {
        format!("Dry run: everything was taken back; {at}.")
    } else if report.to == 0 {
        "Done: Reveille is removed from this schema.".to_owned()
    } else {
        format!("Done: the schema is at phase {}.", report.to)
    });
    lines.join("\n")
}

fn line(step: &Step, dry_run: bool) -> String {
    let what = match (step.action, dry_run) {
        (Action::Apply, false) => "applied",
        (Action::Apply, true) => "would apply",
        (Action::RefreshFunctions, false) => "refreshed the functions of",
        (Action::RefreshFunctions, true) => "would refresh the functions of",
        (Action::Undo, false) => "undid",
        (Action::Undo, true) => "would undo",
    };
    let took = SignedDuration::try_from(step.took).unwrap_or_default();
    format!("{what} {} ({})", step.phase.folder(), duration(took))
}

async fn status(context: &Context) -> Result<Outcome> {
    let phases = migrator(context)?.status().await?;
    let document = json!({ "phases": phases.iter().map(phase_as_json).collect::<Vec<_>>() });
    context.out.answer(&document, || {
        let now = Timestamp::now();
        table(
            &["phase", "name", "state", "applied", "by", "reveille"],
            phases.iter().map(|phase| row(phase, now)),
        )
    })?;
    let current = phases.iter().all(|phase| phase.state == State::Applied);
    Ok(if current { Outcome::Done } else { Outcome::Failed })
}

fn phase_as_json(phase: &PhaseStatus) -> Value {
    json!({
        "phase": phase.number,
        "name": phase.name,
        "state": state(phase.state),
        "applied_at": phase.applied_at,
        "applied_by": phase.applied_by,
        "binary_version": phase.binary_version,
    })
}

fn row(phase: &PhaseStatus, now: Timestamp) -> Vec<String> {
    vec![
        phase.number.to_string(),
        phase.name.clone(),
        state(phase.state).replace('_', " "),
        phase.applied_at.map(|at| moment(at, now)).unwrap_or_default(),
        phase.applied_by.clone().unwrap_or_default(),
        phase.binary_version.clone().unwrap_or_default(),
    ]
}

fn state(state: State) -> &'static str {
    match state {
        State::Applied => "applied",
        State::FunctionsChanged => "functions_changed",
        State::FunctionsMissing => "functions_missing",
        State::FunctionsReplaced => "functions_replaced",
        State::Drifted => "drifted",
        State::Pending => "pending",
        State::Unknown => "unknown",
    }
}
