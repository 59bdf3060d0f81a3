//! `reveille doctor`: what is wrong, why it matters, and the command that mends it.

use deadpool_postgres::Object;
use serde_json::json;

use super::context::{Context, Outcome};
use super::output::printable;
use crate::error::Result;
use crate::model::finding::Finding;
use crate::store::{bridge, kinds, routes};

/// Look for what is wrong, say why it matters and what mends it; exit code 1 if there is anything
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  reveille doctor || page-somebody")]
pub(super) struct Args {}

/// What is looked at, in this order. Another check is a function of `store` that gives findings, its name here, and a line
/// in [`findings`].
const CHECKS: [&str; 3] = ["the trigger on event_outbox", "routes", "what consumers and schedules ask for"];

async fn findings(client: &Object) -> Result<Vec<Finding>> {
    let mut found = bridge::check(client).await?;
    found.extend(routes::check(client).await?);
    found.extend(kinds::check(client).await?);
    Ok(found)
}

pub(super) async fn run(_: Args, context: &Context) -> Result<Outcome> {
    let found = findings(&context.client().await?).await?;
    context.out.answer(&json!({ "checked": CHECKS, "findings": found }), || as_text(&found))?;
    Ok(if found.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn as_text(found: &[Finding]) -> String {
    if found.is_empty() {
        return format!("nothing is wrong with {}", CHECKS.join(", "));
    }
    let one = |finding: &Finding| {
        let Finding { severity, subject, what, why, mend, .. } = finding;
        let text = format!("{severity}: {subject}: {what}\n  why:  {why}\n  mend: {mend}");
        printable(&text)
    };
    found.iter().map(one).collect::<Vec<_>>().join("\n\n")
}
