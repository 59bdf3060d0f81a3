//! `reveille workflows show`: one workflow as a graph.

use uuid::Uuid;

use super::super::context::{Context, Outcome};
use super::super::output::printable;
use super::super::watch::{Watch, watch};
use crate::error::Result;
use crate::look::workflow::{self, Shown};
use crate::model::workflow::{drawing, mermaid};

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
    let shown = workflow::show(&client, args.id).await?;
    context.out.answer(&shown, || {
        let Shown { workflow, steps } = &shown;
        if args.mermaid {
            return mermaid(steps);
        }
        let head = format!(
            "{} {}: {}, {} of {} steps succeeded\n\n",
            workflow.template, workflow.correlation_id, workflow.status, workflow.succeeded, workflow.jobs
        );
        let lines: Vec<String> = drawing(steps).lines().map(printable).collect();
        printable(head.trim_end()) + "\n\n" + &lines.join("\n")
    })?;
    Ok(Outcome::Done)
}
