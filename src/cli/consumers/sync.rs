//! `reveille consumers sync`: shows the difference, then applies it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::{Value, json};

use super::{Sync, diff};
use crate::cli::context::{Context, Outcome, actor};
use crate::error::{Error, Result};
use crate::maintain::consumer_sync::{self as sync, Action, Entry, Options, Plan};

/// Most events that are named for each consumer.
const DIFFERENCES: usize = 3;

pub(super) async fn run(args: Sync, context: &Context) -> Result<Outcome> {
    let files = sync::read_folder(&args.dir)?;
    let options = Options { prune: args.prune, enabled_too: args.enabled_too };
    let mut client = context.client().await?;
    let plan = sync::plan(&client, &files, options).await?;
    let mut diffs = BTreeMap::new();
    for entry in plan.entries.iter().filter(|_| args.last > 0) {
        if let Some(diff) = diff::of_entry(&client, entry, options, args.last).await? {
            diffs.insert(entry.consumer_key.as_str(), diff);
        }
    }
    context.out.line(&as_text(&plan, &diffs))?;
    let apply = plan.changes_anything() && (args.apply || asked(context)?);
    if apply {
        sync::apply(&mut client, &plan, actor(args.actor).as_deref(), options).await?;
    }
    let document = json!({ "applied": apply, "consumers": plan.entries, "diffs": diffs });
    context.out.answer(&document, || conclusion(&plan, apply))?;
    Ok(if plan.shadowed().next().is_some() { Outcome::Failed } else { Outcome::Done })
}

fn asked(context: &Context) -> Result<bool> {
    if context.out.is_json() || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Ok(false);
    }
    let failed = |error| Error::io("the terminal", error);
    let mut out = io::stdout().lock();
    write!(out, "apply this? [y/N] ").and_then(|()| out.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn as_text(plan: &Plan, diffs: &BTreeMap<&str, Value>) -> String {
    let entry = |entry: &Entry| {
        let diff = diffs.get(entry.consumer_key.as_str()).filter(|diff| diff::says_anything(diff));
        let diff = diff.map(|diff| diff::as_text(diff, DIFFERENCES));
        let diff = diff.map(|text| format!("\n    {}", text.replace('\n', "\n    "))).unwrap_or_default();
        entry_as_text(entry) + &diff
    };
    plan.entries.iter().map(entry).collect::<Vec<_>>().join("\n")
}

/// A sign, the key, and what changes, one column a line.
fn entry_as_text(entry: &Entry) -> String {
    let key = &entry.consumer_key;
    let mut text = match &entry.action {
        Action::Add => format!("+ {key}: added"),
        Action::Change { columns } => {
            let columns = columns.iter().map(|change| {
                format!("\n    {}: {} -> {}", change.column, shown(&change.from), shown(&change.to))
            });
            format!("~ {key}: changed{}", columns.collect::<String>())
        }
        Action::Keep => format!("= {key}: as its file"),
        Action::Remove => format!("- {key}: removed, its file is gone"),
        Action::Orphan => format!("? {key}: its file is gone; --prune removes the row"),
        Action::Foreign => match &entry.file {
            Some(file) => {
                format!("! {key}: a row of that name was written by somebody else; {file} has no effect")
            }
            None => format!("  {key}: not from a file, left alone"),
        },
    };
    if let Some(enabled) = entry.enabled_stays {
        let word = if enabled { "enabled" } else { "disabled" };
        let _ = write!(text, "\n    stays {word}, unlike its file; --enabled-too sets it");
    }
    if let Some(warning) = &entry.warning {
        let _ = write!(text, "\n    warning: {warning}");
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        value => value.to_string(),
    }
}

fn conclusion(plan: &Plan, applied: bool) -> String {
    let count = plan.entries.iter().filter(|entry| entry.changes_anything()).count();
    match (count, applied) {
        (0, _) => "nothing to change".to_owned(),
        (1, true) => "1 consumer written".to_owned(),
        (count, true) => format!("{count} consumers written"),
        (count, false) => format!("{count} to write; nothing was changed, --apply does it"),
    }
}
