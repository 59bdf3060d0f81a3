//! `reveille executors`: who beats, and names that nobody beats under any more.

use serde_json::{Value, json};

use super::context::{Context, Outcome};
use super::output::{seconds, table};
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::store::health::{self, Component};
use crate::store::heartbeats;

/// List executors, or forget one that is gone for good
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List who beats, and who has fallen silent; sidecars are among them
    #[command(after_help = "Example:\n  reveille executors list")]
    List,
    /// Forget a name whose program was killed and does not come back; one that lives registers anew
    #[command(after_help = "Example:\n  reveille executors forget db1-dispatcher-5e0c9a41")]
    Forget {
        /// The name, as `executors list` shows it
        name: String,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Forget { name } => forget(&name, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let mut executors = health::list(&context.client().await?).await?;
    executors.retain(|component| component.component == "executor");
    context.out.answer(&executors, || as_table(&executors))?;
    Ok(Outcome::Done)
}

fn as_table(executors: &[Component]) -> String {
    let row = |executor: &Component| {
        let text = |key| {
            let value = executor.detail.as_ref().and_then(|detail| detail.get(key)).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let age = executor.age_seconds.map_or_else(|| "never".to_owned(), seconds);
        [executor.status_hint.clone(), executor.name.clone(), text("executor_kind"), age, text("owner_role")]
    };
    table(&["status", "executor", "kind", "last beat", "owner"], executors.iter().map(row))
}

async fn forget(name: &str, context: &Context) -> Result<Outcome> {
    let answer = heartbeats::unregister(&context.client().await?, name).await?;
    if let Answer::Refused(refusal) = answer {
        let hint = match refusal.reason.as_str() {
            "not_owner" => "only its owner may: use the login that the program had, or a superuser's",
            _ => "`reveille executors list` shows the names",
        };
        let what = format!("forgetting {name}: refused, {}", refusal.reason);
        return Err(Error::new(Kind::Refused, what).hint(hint));
    }
    context.out.answer(&json!({ "forgotten": name }), || format!("{name} is forgotten"))?;
    Ok(Outcome::Done)
}
