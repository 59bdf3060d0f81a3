//! `reveille pause`: stops new work of a scope, or says what is stopped.

use clap::ValueEnum;
use jiff::Timestamp;

use super::context::{Context, Outcome, actor};
use super::output::{moment, table};
use crate::config::guess;
use crate::error::{Error, Result};
use crate::store::pauses::{self, Pause};

/// Stop new work of a scope until `resume`; without a scope, list what is paused, by whom and why
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is leased goes on: it may be renewed and finished. `all` and `domain` stop dispatch, too; \
                        the\nposition stays where it is, so that nothing is lost.\n\n\
                        Examples:\n  reveille pause\n  \
                        reveille pause domain staging --reason 'the host is moved'\n  \
                        reveille pause job-kind image.resize --reason 'ticket 4711'\n  \
                        reveille pause all --reason 'restore'"
)]
pub(super) struct Args {
    /// What is stopped
    #[arg(requires = "reason")]
    scope: Option<Scope>,
    /// Which domain, consumer, kind of job or executor (its name or its kind)
    #[arg(requires = "scope")]
    name: Option<String>,
    /// Why; shown to whoever asks what is paused
    #[arg(long, value_name = "TEXT", requires = "scope")]
    reason: Option<String>,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME", requires = "scope")]
    actor: Option<String>,
    /// List the pauses that have ended, too
    #[arg(long, conflicts_with = "scope")]
    history: bool,
}

/// What a pause is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scope {
    /// Everything
    All,
    /// Dispatch of a domain, and jobs of its events
    Domain,
    /// Jobs of a consumer
    Consumer,
    /// Jobs of a kind
    #[value(alias = "job_kind")]
    JobKind,
    /// Claims of one executor, by its name, or of all of a kind
    Executor,
}

impl Scope {
    /// The scope as the database names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Domain => "domain",
            Self::Consumer => "consumer",
            Self::JobKind => "job_kind",
            Self::Executor => "executor",
        }
    }

    /// The name that must, or must not, be given with it; empty for all.
    pub(super) fn name(self, given: Option<&str>) -> Result<&str> {
        match (self, given) {
            (Self::All, None) => Ok(""),
            (Self::All, Some(name)) => Err(Error::usage(format!("`all` is everything: what is `{name}`?"))
                .hint("leave the name out, or say domain, consumer, job-kind or executor before it")),
            (_, Some(name)) if !name.trim().is_empty() => Ok(name.trim()),
            _ => {
                let scope = self.as_str();
                Err(Error::usage(format!("which {scope}? The name is missing"))
                    .hint(format!("say it after the scope: `{scope} NAME`")))
            }
        }
    }
}

/// A scope and its name in words.
pub(super) fn subject(scope: &str, name: &str) -> String {
    if name.is_empty() { "everything".to_owned() } else { format!("{scope} {name}") }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let (Some(scope), Some(reason)) = (args.scope, args.reason) else {
        return list(args.history, context).await;
    };
    let name = scope.name(args.name.as_deref())?;
    let client = context.client().await?;
    if scope != Scope::JobKind {
        check(scope, name, &pauses::names(&client, scope.as_str()).await?)?;
    }
    let actor = actor(args.actor);
    let answer = pauses::pause(&client, scope.as_str(), name, actor.as_deref(), &reason).await?;
    let what = subject(scope.as_str(), name);
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            if result["changed"] == true && result["known"] == true {
                return format!("{what} is paused; what is leased may be finished");
            }
            if result["changed"] == true {
                return format!(
                    "{what} is paused; no job, handler, consumer or subscription speaks of it so far"
                );
            }
            let text = |key: &str| result[key].as_str().unwrap_or_default();
            format!("{what} was paused before, by {}: {}", text("actor"), text("reason"))
        })
    })
}

/// A pause under a misspelt name would stop nothing, and somebody would rely on it. Only a kind of job may come to be at
/// any time.
fn check(scope: Scope, name: &str, known: &[String]) -> Result<()> {
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let error = Error::usage(format!("there is no {} `{name}`; nothing is paused", scope.as_str()));
    Err(match guess(name, known.iter().map(String::as_str)) {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None if known.is_empty() => error.hint(format!("there is no {} at all so far", scope.as_str())),
        None => error.hint(format!("known are {}", known.join(", "))),
    })
}

async fn list(history: bool, context: &Context) -> Result<Outcome> {
    let pauses = pauses::list(&context.client().await?, history).await?;
    context.out.answer(&pauses, || as_table(&pauses, history))?;
    Ok(Outcome::Done)
}

fn as_table(pauses: &[Pause], history: bool) -> String {
    if pauses.is_empty() {
        return if history { "nothing was ever paused" } else { "nothing is paused" }.to_owned();
    }
    let now = Timestamp::now();
    let row = |pause: &Pause| {
        let mut row = vec![
            subject(&pause.scope, &pause.name),
            moment(pause.paused_at, now),
            pause.actor.clone(),
            pause.reason.clone(),
        ];
        if history {
            row.push(pause.resumed_at.map_or_else(|| "no".to_owned(), |at| moment(at, now)));
            row.push(pause.resume_actor.clone().unwrap_or_default());
            row.push(pause.resume_reason.clone().unwrap_or_default());
        }
        row
    };
    let headings = ["paused", "since", "by", "because", "resumed", "by", "because"];
    table(&headings[..if history { 7 } else { 4 }], pauses.iter().map(row))
}
