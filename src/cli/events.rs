//! `reveille events`: facts.

use serde_json::{Value, json};
use uuid::Uuid;

use super::context::{Context, Outcome, actor, or_did_you_mean};
use super::explain as explained;
use super::output::{fields, table};
use super::payload;
use crate::error::{Error, Kind, Result};
use crate::store::events::{self, NewEvent};
use crate::store::{explain, recipients};

/// Emit a fact, or show one, what became of it and why
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Emit one fact of a registered type
    #[command(
        after_help = "Example:\n  reveille events emit staging.record_approved staging_record:42 \\\n    --payload '{\"pieces\": 12}'"
    )]
    Emit(Emit),
    /// Show one fact, the jobs it made and the consumers that could not digest it
    #[command(after_help = "Example:\n  reveille events show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10")]
    Show {
        /// The fact's id
        id: Uuid,
    },
    /// Say why one fact made which jobs, or none: consumer by consumer; without an id, how many of the newest facts stand
    /// under which reason
    #[command(
        after_help = "Examples:\n  reveille events explain 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10\n  reveille events explain"
    )]
    Explain {
        /// The fact's id
        id: Option<Uuid>,
    },
    /// Show whom one fact is for: the recipients that `event_subscription` gives it, and who is muted
    #[command(after_help = "What executors may claim is something else: `reveille executors subscribe`.\n\n\
                      Example:\n  reveille events recipients 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10")]
    Recipients {
        /// The fact's id
        id: Uuid,
    },
    Audit(super::audit::Args),
    /// Dispatch one fact again, after what kept a consumer from digesting it was mended; makes only what is missing
    #[command(after_help = "Example:\n  reveille events dispatch 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10")]
    Dispatch {
        /// The fact's id
        id: Uuid,
    },
}

#[derive(Debug, clap::Args)]
struct Emit {
    /// What happened, as `event_type_registry` knows it
    #[arg(value_name = "DOMAIN.TYPE")]
    kind: String,
    /// To what it happened: a reference, never the thing itself
    subject: String,
    /// A small JSON object of signals, or @FILE
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,
    /// The table that the subject is a row of
    #[arg(long)]
    table: Option<String>,
    /// The subject's canonical address
    #[arg(long)]
    address: Option<String>,
    /// Who did it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Ties together what belongs to one story
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// When it happened; without it, now by the database's clock
    #[arg(long, value_name = "TIME", value_parser = payload::moment)]
    occurred_at: Option<jiff::Timestamp>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::Emit(args) => emit(args, context).await,
        Action::Show { id } => show(id, context).await,
        Action::Explain { id } => explain_fact(id, context).await,
        Action::Recipients { id } => recipients(id, context).await,
        Action::Audit(args) => super::audit::run(args, context).await,
        Action::Dispatch { id } => dispatch(id, context).await,
    }
}

async fn emit(args: Emit, context: &Context) -> Result<Outcome> {
    let Some((domain, event_type)) =
        args.kind.split_once('.').filter(|(d, t)| !d.is_empty() && !t.is_empty())
    else {
        return Err(Error::usage(format!("`{}` is not DOMAIN.TYPE", args.kind))
            .hint("write domain and type with a dot between: staging.record_approved"));
    };
    let event = NewEvent {
        domain: domain.to_owned(),
        event_type: event_type.to_owned(),
        subject_ref: args.subject,
        payload: payload::payload("--payload", args.payload.as_deref())?,
        subject_table: args.table,
        canonical_address: args.address,
        actor_ref: actor(args.actor),
        correlation_id: args.correlation_id,
        occurred_at: args.occurred_at,
    };
    let client = context.client().await?;
    match events::emit(&client, &event).await {
        Ok(id) => {
            context.out.answer(&json!({ "event_id": id }), || format!("emitted {} as {id}", args.kind))?;
            Ok(Outcome::Done)
        }
        Err(error) if error.to_string().contains("unknown_event_type") => {
            Err(unknown_type(&args.kind, &events::active_types(&client).await?))
        }
        Err(error) => Err(payload::explain(error)),
    }
}

/// The vocabulary gate said no.
fn unknown_type(kind: &str, known: &[String]) -> Error {
    let message = format!("refused, unknown_event_type: `{kind}` is not registered and active");
    let error = Error::new(Kind::Refused, message);
    or_did_you_mean(
        error,
        kind,
        known.iter().map(String::as_str),
        "register it first: a row of event_type_registry with active = true",
    )
}

fn no_event(id: Uuid) -> Error {
    let error = Error::new(Kind::Database, format!("there is no event {id}"));
    error.hint("a job made from an event names it: causation_event_id in `reveille jobs show ID`")
}

async fn show(id: Uuid, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let made = explain::event(&client, id).await?.unwrap_or_default();
    let Some(document) = events::show(&client, id, &explain::jobs(&made)).await? else {
        return Err(no_event(id));
    };
    context.out.answer(&document, || as_text(&document))?;
    Ok(Outcome::Done)
}

async fn explain_fact(id: Option<Uuid>, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    if let Some(id) = id {
        return explained::answer(context, explain::event(&client, id).await?);
    }
    let counts = explain::counts(&client, "event").await?;
    explained::counts(context, &counts, "no fact came lately that a consumer could want")
}

async fn recipients(id: Uuid, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    if events::show(&client, id, &[]).await?.is_none() {
        return Err(no_event(id));
    }
    let all = recipients::of_event(&client, id).await?;
    context.out.answer(&all, || super::subscriptions::recipients(&all))?;
    Ok(Outcome::Done)
}

async fn dispatch(id: Uuid, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = crate::store::dispatch::event(&client, id).await?;
    Outcome::of(answer, |answer| context.out.answer(answer, || decisions(answer)))
}

fn decisions(answer: &Value) -> String {
    let rows = answer["decisions"].as_array().map_or(&[][..], Vec::as_slice);
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let row = |decision: &Value| {
        ["consumer_key", "decision", "recipient", "job_id", "status", "error"]
            .map(|name| word(decision, name))
    };
    format!(
        "{} made now, {} there already\n{}",
        answer["jobs"],
        answer["duplicates"],
        table(&["consumer", "decision", "recipient", "job", "status", "error"], rows.iter().map(row))
    )
}

const FIELDS: [&str; 8] = [
    "id",
    "event_domain",
    "event_type",
    "event_subject_ref",
    "occurred_at",
    "created_at",
    "actor_ref",
    "safe_payload",
];

fn as_text(document: &Value) -> String {
    let mut text = fields(&document["event"], &FIELDS);
    let word = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let jobs = document["jobs"].as_array().map_or(&[][..], Vec::as_slice);
    text.push_str(if jobs.is_empty() { "\n\nno job was made of it so far" } else { "\n\n" });
    if !jobs.is_empty() {
        let row = |job: &Value| {
            ["job_id", "job_kind", "status", "consumer_key", "last_error"].map(|name| word(job, name))
        };
        text.push_str(&table(&["job", "kind", "status", "consumer", "last error"], jobs.iter().map(row)));
    }
    let errors = document["errors"].as_array().map_or(&[][..], Vec::as_slice);
    if !errors.is_empty() {
        let row = |error: &Value| ["consumer_key", "sqlstate", "message"].map(|name| word(error, name));
        text.push_str("\n\nconsumers that could not digest it:\n");
        text.push_str(&table(&["consumer", "sqlstate", "message"], errors.iter().map(row)));
    }
    text
}
