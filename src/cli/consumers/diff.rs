//! Which of the newest events a changed consumer would treat otherwise: what `sync` and `enable` show before they act.

use std::fmt::Write as _;

use deadpool_postgres::GenericClient;
use serde_json::{Value, json};

use crate::cli::output::table;
use crate::error::Result;
use crate::maintain::consumer_sync::{Action, Entry, Options};
use crate::store::backfills;
use crate::store::consumers::Columns;

/// Most events of a diff that people are shown.
pub(super) const SHOWN: usize = 10;

/// The diff of a row that would read like this.
pub(super) async fn diff(client: &impl GenericClient, columns: &Columns, last: i32) -> Result<Value> {
    backfills::diff(client, columns, last).await
}

/// The diff of what a sync would do to a consumer; none when it would change nothing.
pub(super) async fn of_entry(
    client: &impl GenericClient,
    entry: &Entry,
    options: Options,
    last: i32,
) -> Result<Option<Value>> {
    let mut columns = entry.columns.clone();
    match entry.action {
        Action::Add => {}
        Action::Change { .. } if options.enabled_too => {}
        Action::Change { .. } => {
            columns.remove("enabled");
        }
        Action::Remove => {
            columns.insert("enabled".to_owned(), json!(false));
        }
        Action::Keep | Action::Orphan | Action::Foreign => return Ok(None),
    }
    diff(client, &columns, last).await.map(Some)
}

/// Whether there were events to look at.
pub(super) fn says_anything(diff: &Value) -> bool {
    diff["events"].as_u64() > Some(0)
}

/// The counts in a line, and the newest events that would change.
pub(super) fn as_text(diff: &Value, most: usize) -> String {
    let count = |name: &str| diff[name].as_u64().unwrap_or(0);
    let mut words = Vec::new();
    for (name, one) in [
        ("gain", "get a job"),
        ("lose", "lose theirs"),
        ("change", "get another"),
        ("error", "cannot be digested"),
    ] {
        if count(name) > 0 {
            words.push(format!("{} {one}", count(name)));
        }
    }
    let words = if words.is_empty() { "nothing would change".to_owned() } else { words.join(", ") };
    let supposed = if diff["as_if_enabled"] == true { " (if it were enabled)" } else { "" };
    let mut text = format!("of the newest {} events{supposed}: {words}", count("events"));
    let columns = diff["columns"].as_object().into_iter().flatten().map(|(column, _)| column.as_str());
    let columns: Vec<&str> = columns.collect();
    if !columns.is_empty() {
        let _ = write!(text, " ({})", columns.join(", "));
    }
    let samples: Vec<&Value> = diff["samples"].as_array().into_iter().flatten().take(most).collect();
    if !samples.is_empty() {
        let headings = ["event", "type", "change", "before", "after"];
        let _ = write!(text, "\n\n{}", table(&headings, samples.into_iter().map(sample)));
    }
    text
}

fn sample(sample: &Value) -> [String; 5] {
    let word = |name: &str| sample[name].as_str().unwrap_or_default().to_owned();
    let recipient = sample["recipient"].as_str().map(|name| format!(" {name}")).unwrap_or_default();
    [
        word("event_id") + &recipient,
        word("event_type"),
        word("change"),
        side(&sample["before"], &sample["after"], &sample["was"]),
        side(&sample["after"], &sample["before"], &sample["becomes"]),
    ]
}

/// What differs from the other side; the job kind, or why there is no job, where the other side has none.
fn side(this: &Value, other: &Value, verdict: &Value) -> String {
    let Some(columns) = this.as_object() else {
        return verdict.as_str().unwrap_or("no such consumer").to_owned();
    };
    if other.is_null() {
        return this["job_kind"].as_str().unwrap_or_default().to_owned();
    }
    let differing = columns.iter().filter(|(column, value)| other[column.as_str()] != **value);
    let shown = differing.map(|(column, value)| match value {
        Value::String(text) => format!("{column} {text}"),
        value => format!("{column} {value}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
