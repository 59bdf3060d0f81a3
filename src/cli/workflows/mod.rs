//! `reveille workflows`: graphs of jobs, from the template to the last step.

mod decide;
mod show;
mod write;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;

use super::context::{Context, Outcome};
use super::output::{moment, table};
use super::watch::{Watch, watch};
use crate::error::Result;
use crate::store::workflows::{self, Filter, Template, Workflow};

/// Templates and the workflows made from them: write, emit, watch, decide, retry
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List workflows, the newest first
    #[command(after_help = "Example:\n  reveille workflows list --status failed")]
    List(List),
    /// Show a workflow's steps as a graph
    #[command(after_help = "Examples:\n  reveille workflows show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10\n  \
                      reveille workflows show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --mermaid\n  \
                      reveille workflows show 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --watch 1s")]
    Show(show::Args),
    /// List templates with their versions
    #[command(after_help = "Example:\n  reveille workflows templates")]
    Templates,
    /// Check a template without writing it
    #[command(after_help = "Example:\n  reveille workflows validate cut_pipeline.toml")]
    Validate(write::File),
    /// Write a template; a version that was used is followed by the next one
    #[command(after_help = "Example:\n  reveille workflows put cut_pipeline.toml")]
    Put(write::Put),
    /// Make a workflow from a template
    #[command(
        after_help = "Examples:\n  reveille workflows emit cut_pipeline --param document=doc:4711 --dry-run\n  \
                      reveille workflows emit cut_pipeline --param document=doc:4711 --correlation-id doc:4711"
    )]
    Emit(write::Emit),
    /// Cancel a workflow: what waits ends at once, what runs is asked to end
    #[command(
        after_help = "Example:\n  reveille workflows cancel 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --reason 'wrong document'"
    )]
    Cancel(decide::Cancel),
    /// Set a failed workflow going again from the steps that failed; a dry run unless --apply is given
    #[command(
        after_help = "Example:\n  reveille workflows retry 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --reason 'the file is there now' --apply"
    )]
    Retry(decide::Retry),
    /// Approve a step that waits for it; without --effect it shows what there is to approve
    #[command(
        after_help = "Example:\n  reveille workflows approve 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 review"
    )]
    Approve(decide::Approve),
    /// Reject a step that waits for approval
    #[command(
        after_help = "Example:\n  reveille workflows reject 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 review --reason 'page 3 is missing'"
    )]
    Reject(decide::Reject),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only with this status
    #[arg(long, value_parser = PossibleValuesParser::new(["active", "succeeded", "failed", "partially_failed", "cancelled"]))]
    status: Option<String>,
    /// Only of this template, any version
    #[arg(long, value_name = "KEY")]
    template: Option<String>,
    /// Most workflows to show
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    #[command(flatten)]
    watch: Watch,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List(args) => watch(args.watch, context, async |context| list(&args, context).await).await,
        Action::Show(args) => show::run(&args, context).await,
        Action::Templates => templates(context).await,
        Action::Validate(args) => write::validate(&args, context).await,
        Action::Put(args) => write::put(args, context).await,
        Action::Emit(args) => write::emit(args, context).await,
        Action::Cancel(args) => decide::cancel(args, context).await,
        Action::Retry(args) => decide::retry(args, context).await,
        Action::Approve(args) => decide::approve(args, context).await,
        Action::Reject(args) => decide::reject(args, context).await,
    }
}

async fn list(args: &List, context: &Context) -> Result<Outcome> {
    let filter = Filter {
        status: args.status.as_deref(),
        template_key: args.template.as_deref(),
        ..Filter::default()
    };
    let found = workflows::list(&context.client().await?, &filter, args.limit).await?;
    context.out.answer(&found, || as_table(&found))?;
    Ok(Outcome::Done)
}

fn as_table(found: &[Workflow]) -> String {
    if found.is_empty() {
        return "no such workflows".to_owned();
    }
    let now = Timestamp::now();
    let row = |one: &Workflow| {
        [
            one.workflow_id.to_string(),
            one.template.clone(),
            one.status.clone(),
            format!("{} of {}", one.succeeded, one.jobs),
            one.failed.to_string(),
            one.waiting_for.join(", "),
            moment(one.created_at, now),
        ]
    };
    table(&["workflow", "template", "status", "done", "failed", "waits for", "made"], found.iter().map(row))
}

async fn templates(context: &Context) -> Result<Outcome> {
    let found = workflows::templates(&context.client().await?).await?;
    context.out.answer(&found, || {
        if found.is_empty() {
            return "no templates; `reveille workflows put FILE` writes one".to_owned();
        }
        let now = Timestamp::now();
        let row = |one: &Template| {
            [
                format!("{}@{}", one.template_key, one.version),
                one.nodes.to_string(),
                one.used_at.map_or_else(|| "never".to_owned(), |used_at| moment(used_at, now)),
                one.description.clone(),
            ]
        };
        table(&["template", "nodes", "first used", "description"], found.iter().map(row))
    })?;
    Ok(Outcome::Done)
}
