//! `reveille workflows show`: one workflow as a graph.

use serde_json::json;
use uuid::Uuid;

use super::super::context::{Context, Outcome};
use super::super::output::printable;
use super::super::watch::{Watch, watch};
use crate::error::{Error, Kind, Result};
use crate::model::workflow::{drawing, mermaid};
use crate::store::workflows::{self, Filter, Workflow};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The workflow's id
    id: Uuid,
    /// Print it in the language of Mermaid
    #[arg(long)]
    mermaid: bool,
    #[command(flatten)]
    watch: Watch,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<Outcome> {
    watch(args.watch, context, async |context| look(args, context).await).await
}

async fn look(args: &Args, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let workflow = find(&client, args.id).await?;
    let steps = workflows::steps(&client, args.id).await?;
    context.out.answer(&json!({ "workflow": workflow, "steps": steps }), || {
        if args.mermaid {
            return mermaid(&steps);
        }
        let head = format!(
            "{} {}: {}, {} of {} steps succeeded\n\n",
            workflow.template, workflow.correlation_id, workflow.status, workflow.succeeded, workflow.jobs
        );
        let lines: Vec<String> = drawing(&steps).lines().map(printable).collect();
        printable(head.trim_end()) + "\n\n" + &lines.join("\n")
    })?;
    Ok(Outcome::Done)
}

/// The workflow, or an error that says there is none.
pub(super) async fn find(client: &deadpool_postgres::Object, id: Uuid) -> Result<Workflow> {
    let filter = Filter { workflow_id: Some(id), ..Filter::default() };
    workflows::list(client, &filter, 1).await?.pop().ok_or_else(|| {
        Error::new(Kind::Database, format!("there is no workflow {id}"))
            .hint("`reveille workflows list` shows them; a job's id is not a workflow's")
    })
}
