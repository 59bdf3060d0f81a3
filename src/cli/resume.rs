//! `reveille resume`: ends a pause.

use super::context::{Context, Outcome, actor};
use super::pause::{Scope, subject};
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::store::pauses;

/// End a pause; whoever waits is woken, and goes on where it stood
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  reveille resume domain staging --reason 'the host has moved'")]
pub(super) struct Args {
    /// What was stopped, as `reveille pause` shows it
    scope: Scope,
    /// Which domain, consumer, kind of job or executor
    name: Option<String>,
    /// Why; kept with the pause
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let (scope, name) = (args.scope.as_str(), args.scope.name(args.name.as_deref())?);
    let client = context.client().await?;
    let answer = pauses::resume(&client, scope, name, actor(args.actor).as_deref(), &args.reason).await?;
    let what = subject(scope, name);
    if let Answer::Refused(refusal) = &answer
        && refusal.reason == "not_found"
    {
        return Err(
            Error::new(Kind::Refused, format!("{what} is not paused")).hint("`reveille pause` lists what is")
        );
    }
    Outcome::of(answer, |result| context.out.answer(result, || format!("{what} goes on")))
}
