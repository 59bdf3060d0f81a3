//! `reveille dlq`: dead letters, from a look to the replay.

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::context::{Context, Outcome, actor};
use super::output::{fields, moment, table};
use super::payload;
use super::progress::Progress;
use crate::error::{Error, Kind, Result};
use crate::store::dead_letters::{self, DeadLetter, Filter, Redrive, TRIAGE};

/// List, show, triage and replay dead letters
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters, the oldest first; without --status those that are not decided yet
    #[command(after_help = "Example:\n  reveille dlq list --kind cut.cut")]
    List(List),
    /// Show one dead letter: the job, its attempts, why it died
    #[command(after_help = "Example:\n  reveille dlq show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10")]
    Show {
        /// The dead letter's id
        id: Uuid,
    },
    /// Decide about a dead letter; needs the right for its domain, a row of `dead_letter_authority`
    #[command(
        after_help = "Example:\n  reveille dlq triage 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 manual_replay --note 'the file is there now'"
    )]
    Triage(Triage),
    /// Put the same job back to work; a dry run unless --apply is given
    #[command(
        after_help = "Example:\n  reveille dlq replay 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --authorization 'ticket 4711' --apply"
    )]
    Replay(Replay),
    /// Replay all that are marked `manual_replay` and fit; a dry run unless --apply is given
    #[command(
        after_help = "Example:\n  reveille dlq redrive --kind cut.cut --limit 500 --per-second 20 --authorization 'ticket 4711' --apply"
    )]
    Redrive(RedriveArgs),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only with this triage status
    #[arg(long, value_parser = PossibleValuesParser::new(TRIAGE))]
    status: Option<String>,
    /// Only of this kind of job
    #[arg(long)]
    kind: Option<String>,
    /// Only of this domain
    #[arg(long)]
    domain: Option<String>,
    /// Most dead letters to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
}

#[derive(Debug, clap::Args)]
struct Triage {
    /// The dead letter's id
    id: Uuid,
    /// What shall become of it
    #[arg(value_parser = PossibleValuesParser::new(TRIAGE))]
    status: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Who decides; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Replay {
    /// The dead letter's id
    id: Uuid,
    /// Where it stands that this replay is allowed: a ticket, a decision, a person
    #[arg(long, value_name = "TEXT")]
    authorization: String,
    /// Do it; otherwise it is only told whether it can be done
    #[arg(long)]
    apply: bool,
}

#[derive(Debug, clap::Args)]
struct RedriveArgs {
    /// Only of this kind of job
    #[arg(long)]
    kind: Option<String>,
    /// Only of this domain
    #[arg(long)]
    domain: Option<String>,
    /// Only those that died for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(["attempts_exhausted", "permanent", "lease_lost"]))]
    reason: Option<String>,
    /// Only those that died since
    #[arg(long, value_name = "TIME", value_parser = payload::moment)]
    since: Option<Timestamp>,
    /// Where it stands that this is allowed: a ticket, a decision, a person
    #[arg(long, value_name = "TEXT")]
    authorization: String,
    /// Most dead letters to replay
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    limit: i32,
    /// Jobs that become due in a second
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    per_second: f64,
    /// Do it; otherwise it is only told what would be done
    #[arg(long)]
    apply: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List(args) => list(&args, context).await,
        Action::Show { id } => show(id, context).await,
        Action::Triage(args) => triage(args, context).await,
        Action::Replay(args) => replay(&args, context).await,
        Action::Redrive(args) => redrive(&args, context).await,
    }
}

async fn list(args: &List, context: &Context) -> Result<Outcome> {
    let filter = Filter {
        triage_status: args.status.as_deref(),
        job_kind: args.kind.as_deref(),
        event_domain: args.domain.as_deref(),
    };
    let letters = dead_letters::list(&context.client().await?, &filter, args.limit).await?;
    context.out.answer(&letters, || as_table(&letters))?;
    Ok(Outcome::Done)
}

fn as_table(letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return "no such dead letters".to_owned();
    }
    let now = Timestamp::now();
    let row = |letter: &DeadLetter| {
        [
            letter.dead_letter_id.to_string(),
            letter.job_kind.clone(),
            letter.triage_status.clone(),
            letter.reason_class.clone(),
            moment(letter.created_at, now),
            letter.error.clone().unwrap_or_default(),
        ]
    };
    table(&["dead letter", "kind", "triage", "reason", "died", "error"], letters.iter().map(row))
}

/// What matters first; the other columns follow by name.
const FIELDS: [&str; 8] = [
    "dead_letter_id",
    "job_kind",
    "reason_class",
    "error",
    "triage_status",
    "triage_note",
    "attempts",
    "job",
];

async fn show(id: Uuid, context: &Context) -> Result<Outcome> {
    let Some(document) = dead_letters::show(&context.client().await?, id).await? else {
        return Err(Error::new(Kind::Database, format!("there is no dead letter {id}"))
            .hint("`reveille dlq list` shows them; a job's id is not a dead letter's"));
    };
    context.out.answer(&document, || fields(&document, &FIELDS))?;
    Ok(Outcome::Done)
}

async fn triage(args: Triage, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let actor = actor(args.actor);
    let answer =
        dead_letters::triage(&client, args.id, &args.status, actor.as_deref(), args.note.as_deref()).await?;
    Outcome::of(answer, |result| {
        let was = result["was"].as_str().unwrap_or_default().to_owned();
        context.out.answer(result, || format!("{}: {was} → {}", args.id, args.status))
    })
}

async fn replay(args: &Replay, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = dead_letters::replay(&client, args.id, &args.authorization, !args.apply).await?;
    Outcome::of(answer, |result| {
        let job = result["job_id"].as_str().unwrap_or_default();
        context.out.answer(result, || {
            if args.apply {
                format!("job {job} is queued again, with no attempts spent")
            } else {
                format!("dry run: job {job} would be queued again; --apply does it")
            }
        })
    })
}

async fn redrive(args: &RedriveArgs, context: &Context) -> Result<Outcome> {
    let mut filter = Map::new();
    let since = args.since.map(|since| since.to_string());
    for (key, value) in [
        ("job_kind", &args.kind),
        ("event_domain", &args.domain),
        ("reason_class", &args.reason),
        ("since", &since),
    ] {
        if let Some(value) = value {
            filter.insert(key.to_owned(), Value::from(value.clone()));
        }
    }
    let bounds = Redrive { limit: args.limit, per_second: args.per_second, dry_run: !args.apply };
    let client = context.client().await?;
    let filter = filter.into();
    let redrive = dead_letters::redrive(&client, &filter, &args.authorization, bounds);
    // one transaction, all or nothing: how far it is, nobody can see
    let words = if args.apply { "replaying" } else { "trying to replay" };
    let progress = Progress::waiting(context.out, &format!("{words} up to {} dead letters", args.limit));
    let answer = progress.during(redrive).await;
    drop(progress);
    let answer = answer?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let words =
                if args.apply { "are queued again" } else { "would be queued again; --apply does it" };
            let refusals = result["refusals"].as_object().filter(|refusals| !refusals.is_empty());
            let refusals = refusals
                .map(|refusals| format!("; refused: {}", Value::from(refusals.clone())))
                .unwrap_or_default();
            format!("{} of {} dead letters {words}{refusals}", result["replayed"], result["found"])
        })
    })
}
