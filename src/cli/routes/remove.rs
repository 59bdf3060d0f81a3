//! `reveille routes remove`: a route and what it remembers go, after a dry run.

use super::{Switch, understood, unknown};
use crate::cli::context::{Context, Outcome, actor};
use crate::error::Result;
use crate::store::routes;

pub(super) async fn run(args: Switch, apply: bool, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    if routes::show(&client, &args.code).await?.is_none() {
        return Err(unknown(&args.code, &routes::list(&client).await?));
    }
    let who = actor(args.actor);
    let answer = routes::remove(&client, &args.code, who.as_deref(), &args.reason, !apply).await?;
    let answer = understood(answer, context)?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let (samples, keys, faults) = (&result["samples"], &result["keys"], &result["faults_kept"]);
            let what = format!(
                "with {samples} samples and {keys} keys of rows that it has told; {faults} faults stay"
            );
            let code = &args.code;
            if apply {
                format!("{code}: removed, {what}")
            } else {
                format!("dry run: {code} would be removed, {what}; --apply does it")
            }
        })
    })
}
