//! Explanations as people read them: the problem first, then what to do. For `events explain` and `jobs explain`.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::context::{Context, Outcome};
use super::output::{moment, printable, table};
use crate::error::Result;
use crate::store::explain::{Count, Explanation, Line};

/// Prints an explanation, or says that there is nothing of this id.
pub(super) fn answer(context: &Context, explanation: Explanation) -> Result<Outcome> {
    match explanation {
        Err(refusal) => Ok(Outcome::Refused(refusal)),
        Ok(lines) => context.out.answer(&lines, || as_text(&lines)).map(|()| Outcome::Done),
    }
}

/// Prints how many stand under which reason.
pub(super) fn counts(context: &Context, counts: &[Count], nothing: &str) -> Result<Outcome> {
    let now = Timestamp::now();
    let row = |one: &Count| {
        let oldest = one.oldest_at.map(|at| moment(at, now)).unwrap_or_default();
        [one.reason.clone(), format!("{}{}", one.count, if one.more { "+" } else { "" }), oldest]
    };
    context.out.answer(&counts, || match counts {
        [] => nothing.to_owned(),
        counts => table(&["reason", "how many", "oldest"], counts.iter().map(row)),
    })?;
    Ok(Outcome::Done)
}

/// What is wrong comes before what is as it should be; attempts come last, as a table.
fn as_text(lines: &[Line]) -> String {
    let place = |line: &&Line| match line.verdict.as_str() {
        "error" => 0,
        "waits" | "ready" | "runs" | "ended" => 1,
        "dispatched" => 2,
        "job" => 3,
        _ => 4,
    };
    let (attempts, mut others): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.verdict == "attempt");
    others.sort_by_key(place);
    let mut text = String::new();
    for line in others {
        let _ = writeln!(text, "{}", paragraph(line));
    }
    let trace = lines.iter().find_map(|line| line.detail.as_ref()?["traceparent"].as_str());
    if let Some(trace) = trace {
        let _ = writeln!(text, "traceparent: {}", printable(trace));
    }
    if !attempts.is_empty() {
        let headings = ["attempt", "by", "outcome", "picked", "ended", "error"];
        let rows = attempts.iter().enumerate().map(|(number, line)| attempt(number + 1, line));
        let _ = writeln!(text, "{}", table(&headings, rows));
    }
    text.truncate(text.trim_end().len());
    text
}

/// One reason: whose, which, in words; below it what to do.
fn paragraph(line: &Line) -> String {
    let mut name = line.consumer_key.clone().unwrap_or_default();
    if let Some(recipient) = &line.recipient {
        let _ = write!(name, " for {recipient}");
    }
    if !name.is_empty() {
        name.push_str(": ");
    }
    let verdict = line.verdict.replace('_', " ");
    let head = if verdict == line.reason { verdict } else { format!("{verdict}, {}", line.reason) };
    let mut text = printable(&format!("{name}{head}\n  {}", line.what.replace('\n', "\n  ")));
    if let Some(hint) = &line.hint {
        let _ = write!(text, "\n  do: {}", printable(hint));
    }
    text
}

fn attempt(number: usize, line: &Line) -> [String; 6] {
    let detail = line.detail.as_ref().unwrap_or(&Value::Null);
    let now = Timestamp::now();
    let word = |key: &str| detail[key].as_str().unwrap_or_default().to_owned();
    let at = |key: &str| {
        let text = word(key);
        text.parse().map_or(text, |at| moment(at, now))
    };
    [
        number.to_string(),
        word("lease_owner"),
        line.reason.clone(),
        at("picked_at"),
        at("ended_at"),
        word("error"),
    ]
}
