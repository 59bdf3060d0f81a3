//! `reveille jobs`: work.

mod waiting;

use std::fmt::Write as _;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::context::{Context, Outcome, actor};
use super::output::{fields, moment, table};
use super::payload;
use super::watch::{Watch, watch};
use crate::error::{Error, Kind, Result};
use crate::model::executor::ExecutorKind;
use crate::model::job::STATUSES;
use crate::store::jobs::{self, NewJob, Summary};

/// What an enqueue may do with a job of the same key that still waits.
const ON_DUPLICATE: [&str; 3] = ["keep", "replace", "debounce"];

/// List, show, explain, enqueue, cancel or release jobs; show what waits and why, and how a kind is tried again
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List jobs, the newest first
    #[command(
        after_help = "Examples:\n  reveille jobs list --status dead_letter --kind cut.cut\n  reveille jobs list --status in_progress --watch"
    )]
    List(List),
    /// Show one job with all its fields, also when it has left for the archive
    #[command(after_help = "Example:\n  reveille jobs show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10")]
    Show {
        /// The job's id
        id: Uuid,
    },
    /// Say why one job does not run, who runs it or how it ended, attempt by attempt; without an id, how many jobs wait for
    /// which reason
    #[command(
        after_help = "Examples:\n  reveille jobs explain 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10\n  reveille jobs explain"
    )]
    Explain {
        /// The job's id
        id: Option<Uuid>,
    },
    /// Enqueue one job; the same key twice is one job
    #[command(
        after_help = "Examples:\n  reveille jobs enqueue cut.cut --source-ref staging_record:42 --key cut:42\n  \
                      reveille jobs enqueue page.index --key page:7 --at 2026-12-01T08:00:00Z --on-duplicate debounce"
    )]
    Enqueue(Box<Enqueue>),
    /// End a job that nobody wants any more: at once while it waits, at its next renewal while it runs
    #[command(
        after_help = "Example:\n  reveille jobs cancel 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --reason 'the file was withdrawn'"
    )]
    Cancel(Because),
    /// Take a leased job from its worker and queue it again; the worker's report will be refused
    #[command(
        after_help = "Example:\n  reveille jobs release 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --reason 'its host is gone'"
    )]
    Release(Because),
    /// Show what waits to be claimed, and why when nobody may claim it: paused, limited, no live executor
    #[command(after_help = "Example:\n  reveille jobs backlog")]
    Backlog,
    /// Show jobs that hold up others of their ordering key, and why
    #[command(after_help = "Example:\n  reveille jobs blocked")]
    Blocked,
    /// Show how jobs of a kind are tried again, and which key decides
    #[command(after_help = "Example:\n  reveille jobs policy cut.cut --domain staging")]
    Policy {
        /// The kind
        kind: String,
        /// As it is for jobs of this domain
        #[arg(long)]
        domain: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Because {
    /// The job's id
    id: Uuid,
    /// Why; kept with the job
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who asks for it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only jobs in this status
    #[arg(long, value_parser = PossibleValuesParser::new(STATUSES))]
    status: Option<String>,
    /// Only jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Jobs that have left for the archive
    #[arg(long)]
    archived: bool,
    /// Most jobs to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, clap::Args)]
struct Enqueue {
    /// What is to be done: a name with a registered handler
    kind: String,
    /// A small JSON object of signals, or @FILE
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,
    /// What the work starts from
    #[arg(long, value_name = "REF")]
    source_ref: Option<String>,
    /// What the work changes
    #[arg(long, value_name = "REF")]
    target_ref: Option<String>,
    /// Where the data of the work lies
    #[arg(long, value_name = "REF")]
    payload_ref: Option<String>,
    /// Idempotency key; without it each call makes a job
    #[arg(long)]
    key: Option<String>,
    /// What else happens when a job with this kind and key still waits: nothing; it gets what is said here; that, and
    /// it is due anew
    #[arg(long, value_name = "HOW", requires = "key", value_parser = PossibleValuesParser::new(ON_DUPLICATE))]
    on_duplicate: Option<String>,
    /// Kind of executor that shall run it
    #[arg(long, value_name = "KIND", default_value = "PG_worker")]
    executor: ExecutorKind,
    /// 0 is first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=32767))]
    priority: Option<i32>,
    /// Not before this moment
    #[arg(long, value_name = "TIME", value_parser = payload::moment)]
    at: Option<Timestamp>,
    /// Jobs of one ordering key run one at a time, in order
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Failures after which it is not tried again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// Ties together what belongs to one story
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Who asks for it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List(args) => watch(args.watch, context, async |context| list(&args, context).await).await,
        Action::Show { id } => show(id, context).await,
        Action::Explain { id } => waiting::explain(id, context).await,
        Action::Enqueue(args) => enqueue(*args, context).await,
        Action::Cancel(args) => cancel(args, context).await,
        Action::Release(args) => release(args, context).await,
        Action::Backlog => waiting::backlog(context).await,
        Action::Blocked => waiting::blocked(context).await,
        Action::Policy { kind, domain } => policy(&kind, domain.as_deref(), context).await,
    }
}

async fn list(args: &List, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let (status, kind) = (args.status.as_deref(), args.kind.as_deref());
    let jobs = jobs::list(&client, args.archived, status, kind, args.limit).await?;
    context.out.answer(&jobs, || as_table(&jobs, args.limit))?;
    Ok(Outcome::Done)
}

fn as_table(jobs: &[Summary], limit: i64) -> String {
    if jobs.is_empty() {
        return "no such jobs".to_owned();
    }
    let now = Timestamp::now();
    let row = |job: &Summary| {
        [
            job.job_id.to_string(),
            job.job_kind.clone(),
            job.status.clone(),
            job.source_ref.clone().unwrap_or_default(),
            format!("{} of {}", job.attempts, job.max_attempts),
            moment(job.created_at, now),
            job.last_error.clone().unwrap_or_default(),
        ]
    };
    let headings = ["job", "kind", "status", "source", "failures", "created", "last error"];
    let mut text = table(&headings, jobs.iter().map(row));
    if i64::try_from(jobs.len()).is_ok_and(|count| count == limit) {
        let _ = write!(text, "\nthe newest {limit}; --limit shows more");
    }
    text
}

/// What matters first; the other columns follow by name.
const FIELDS: [&str; 13] = [
    "job_id",
    "job_kind",
    "status",
    "executor",
    "source_ref",
    "target_ref",
    "safe_payload",
    "attempts",
    "max_attempts",
    "last_error",
    "scheduled_at",
    "lease_owner",
    "archived_at",
];

async fn show(id: Uuid, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let Some(document) = jobs::show(&client, id).await? else {
        let error = Error::new(Kind::Database, format!("there is no job {id}"));
        return Err(error.hint("`reveille jobs list` shows the newest"));
    };
    context.out.answer(&document, || fields(&document, &FIELDS))?;
    Ok(Outcome::Done)
}

async fn enqueue(args: Enqueue, context: &Context) -> Result<Outcome> {
    let job = NewJob {
        payload: payload::payload("--payload", args.payload.as_deref())?,
        job_kind: args.kind,
        actor: actor(args.actor),
        source_ref: args.source_ref,
        target_ref: args.target_ref,
        payload_ref: args.payload_ref,
        idempotency_key: args.key,
        executor: Some(args.executor),
        priority: args.priority,
        scheduled_at: args.at,
        ordering_key: args.ordering_key,
        max_attempts: args.max_attempts,
        correlation_id: args.correlation_id,
        on_duplicate: args.on_duplicate,
    };
    let client = context.client().await?;
    let answer = jobs::enqueue(&client, &job).await.map_err(payload::explain)?;
    Outcome::of(answer, |result| {
        let id = result["job_id"].as_str().unwrap_or_default();
        let (created, changed) = (result["created"] == true, result["changed"] == true);
        let document = json!({ "job_id": id, "created": created, "changed": changed });
        context.out.answer(&document, || match (created, changed) {
            (true, _) => format!("enqueued {} as {id}", job.job_kind),
            (_, true) => format!("changed {id}, which has this kind and key and still waits"),
            _ => format!("already there: {id} has this kind and key"),
        })
    })
}

async fn cancel(args: Because, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = jobs::cancel(&client, args.id, actor(args.actor).as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || match result["requested"].as_bool() {
            Some(true) => format!("{} runs; its worker is asked to end it", args.id),
            _ => format!("{} is cancelled", args.id),
        })
    })
}

async fn release(args: Because, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = jobs::take_back(&client, args.id, actor(args.actor).as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        let status = result["status"].as_str().unwrap_or_default();
        context.out.answer(result, || format!("{} is {status}", args.id))
    })
}

async fn policy(kind: &str, domain: Option<&str>, context: &Context) -> Result<Outcome> {
    let policy = jobs::policy(&context.client().await?, kind, domain).await?;
    context.out.answer(&policy, || {
        let rows = policy.iter().map(|part| {
            let source = part.source.clone().unwrap_or_else(|| "built in".to_owned());
            [part.name.clone(), part.value.clone(), source]
        });
        table(&["setting", "is", "from"], rows)
    })?;
    Ok(Outcome::Done)
}
