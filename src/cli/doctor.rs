//! `reveille doctor`: what is wrong, why it matters, and the command that mends it.

use std::time::Duration;

use super::context::{Context, Outcome};
use super::output::printable;
use crate::error::Result;
use crate::look::doctor;
use crate::model::finding::Finding;
use crate::postgres::Server;

/// Look for what is wrong, say why it matters and what mends it; exit code 1 if there is anything
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Findings of severity error and warning make exit code 1; those of severity info do not.\n\
                        docs/runbooks/doctor.md has them all. Changes nothing.\n\n\
                        Examples:\n  reveille doctor || page-somebody\n  \
                        reveille doctor --json | jq -r '.findings[] | .severity + \": \" + .subject'"
)]
pub(super) struct Args {
    /// From what age on open transactions, and jobs that hold up others, are findings
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    older_than: Duration,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let direct = Server::direct(&context.settings.database)?;
    let report = doctor::examine(context.server()?, direct, args.older_than).await?;
    context.out.answer(&report, || as_text(&report.checked, &report.findings))?;
    Ok(if report.findings.iter().any(Finding::is_wrong) { Outcome::Failed } else { Outcome::Done })
}

fn as_text(checked: &[&str], found: &[Finding]) -> String {
    if found.is_empty() {
        return format!("nothing is wrong with {}", checked.join(", "));
    }
    let one = |finding: &Finding| {
        let Finding { severity, subject, what, why, mend, finding } = finding;
        let text = format!("{severity}: {subject}: {what} [{finding}]\n  why:  {why}\n  mend: {mend}");
        printable(&text)
    };
    found.iter().map(one).collect::<Vec<_>>().join("\n\n")
}
