//! `reveille consumers preview`: what a consumer would have done.

use std::path::Path;

use super::unknown;
use crate::cli::context::{Context, Outcome, warning};
use crate::cli::output::table;
use crate::error::Result;
use crate::look::preview::Preview;
use crate::maintain::consumer_sync as sync;
use crate::store::consumers::{self, Decision, Subject};

/// Most rows of a preview that people are shown.
const SHOWN: usize = 20;

pub(super) async fn run(args: super::Preview, context: &Context) -> Result<Outcome> {
    let path = Path::new(&args.subject);
    let subject = if path.extension().is_some_and(|extension| extension == "toml") {
        Subject::Given(sync::read_file(path)?.consumer.columns())
    } else {
        Subject::Stored(args.subject.clone())
    };
    let client = context.client().await?;
    let decisions = consumers::preview(&client, &subject, args.since, args.limit).await;
    let decisions = match (decisions, &subject) {
        (Err(error), Subject::Stored(key)) if error.sqlstate() == Some("22023") => {
            return Err(unknown(key, &consumers::list(&client).await?));
        }
        (decisions, _) => decisions?,
    };
    let preview = Preview::of(&client, &subject, decisions).await?;
    let document = preview.document();
    context.out.answer(&document, || as_text(&preview) + &warning(&document))?;
    Ok(Outcome::Done)
}

fn as_text(preview: &Preview) -> String {
    let summary = preview.summary();
    // those that matter: the newest that it wants or cannot digest
    let mut wanted: Vec<&Decision> = preview
        .decisions
        .iter()
        .rev()
        .filter(|one| matches!(one.reason.as_str(), "match" | "terminal" | "undigestible" | "no_recipient"))
        .collect();
    wanted.truncate(SHOWN);
    if wanted.is_empty() {
        return summary;
    }
    let row = |one: &&Decision| {
        [
            one.event_id.to_string(),
            one.event_type.clone(),
            one.reason.clone(),
            one.job_kind.clone().unwrap_or_default(),
            one.source_ref.clone().unwrap_or_default(),
            one.idempotency_key.clone().unwrap_or_default(),
        ]
    };
    let headings = ["event", "type", "verdict", "job", "source", "idempotency key"];
    format!("{summary}\n\n{}", table(&headings, wanted.iter().map(row)))
}
