//! The pages, one file a subject. Each reads what its command reads, and answers sections.

pub(super) mod consumers;
pub(super) mod dead_letters;
pub(super) mod events;
pub(super) mod executors;
pub(super) mod gates;
pub(super) mod job;
pub(super) mod jobs;
pub(super) mod overview;
pub(super) mod problems;
pub(super) mod search;
pub(super) mod workflows;

use std::fmt::Write as _;

use deadpool_postgres::Object;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use uuid::Uuid;

use super::view::{Block, Cell, Link, Table};
use crate::error::{Error, Kind, Result};
use crate::store::explain::Line;
use crate::store::pauses::{self, Pause};

/// Rows of a page.
const ROWS: i64 = 50;
/// The first whole year that the database can hold, 4713 BC.
const EARLIEST: i16 = -4712;

/// What was typed, without what is empty.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// The end of the page before, `MOMENT_ID`.
fn place(text: Option<&str>) -> Result<Option<(Timestamp, Uuid)>> {
    let read = |text: &str| {
        let (at, id) = text.split_once('_')?;
        let at: Timestamp = at.parse().ok()?;
        let is_held = at.to_zoned(TimeZone::UTC).year() >= EARLIEST;
        Some((at, id.parse().ok()?)).filter(|_| is_held)
    };
    let wrong = || Error::usage("the place in the list cannot be read").hint("begin at its first page");
    text.map(|text| read(text).ok_or_else(wrong)).transpose()
}

/// The place of a row as [`place`] reads it.
fn placed(next: Option<(Timestamp, Uuid)>) -> Option<String> {
    next.map(|(at, id)| format!("{at}_{id}"))
}

/// What is paused; nothing where this login may not read that.
async fn paused(client: &Object) -> Result<Vec<Pause>> {
    match pauses::list(client, false).await {
        Err(error) if error.kind() == Kind::Denied => Ok(Vec::new()),
        other => other,
    }
}

/// The way to the act that a name lacks: its pause, or the end of the one that stands.
fn pause_or_resume(
    paused: &[Pause],
    scope: &str,
    name: &str,
    words: [&'static str; 2],
) -> (String, &'static str) {
    let stands = paused.iter().any(|pause| pause.scope == scope && pause.name == name);
    let (to, words) = if stands { ("/act/resume", words[1]) } else { ("/act/pause", words[0]) };
    (query(to, &[("scope", Some(scope)), ("name", Some(name))]), words)
}

/// A query, with what is empty left out.
pub(super) fn query(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut to = path.to_owned();
    let mut sign = '?';
    for (name, value) in pairs.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        let _ = write!(to, "{sign}{name}={}", encoded(value));
        sign = '&';
    }
    to
}

/// Text as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Links between the pages of a list.
fn pager(first: Option<String>, next: Option<String>) -> Vec<Block> {
    let link = |to: String, text: &str| Link { to, text: text.to_owned() };
    let first = first.map(|to| link(to, "← First page"));
    let links: Vec<Link> = first.into_iter().chain(next.map(|to| link(to, "Next page →"))).collect();
    if links.is_empty() { Vec::new() } else { vec![Block::Links(links)] }
}

/// An explanation in a table, without the attempts, which have their own.
fn explained(lines: &[Line]) -> Block {
    let row = |line: &Line| {
        let who = [line.consumer_key.as_deref(), line.recipient.as_deref()];
        vec![
            Cell::status(&line.verdict),
            Cell::text(line.reason.replace('_', " ")),
            Cell::text(who.into_iter().flatten().collect::<Vec<_>>().join(" for ")),
            Cell::text(&line.what),
            Cell::code(line.hint.as_deref().unwrap_or_default()),
            line.job_id.map_or(Cell::Nothing, |id| Cell::link(format!("/jobs/{id}"), id.to_string())),
            Cell::time(line.until),
        ]
    };
    Block::Table(Table {
        caption: "Explanation, the most important first",
        headings: &["Verdict", "Reason", "Consumer", "In words", "What to do", "Job", "Until"],
        rows: lines.iter().filter(|line| line.verdict != "attempt").map(row).collect(),
        empty: "There is nothing to explain.",
    })
}

/// A field of a JSON object as text.
fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

/// The fields of a JSON object that are there, without some.
fn fields(object: &Value, names: &[(&'static str, &str)]) -> Block {
    let fact = |(label, name): &(&'static str, &str)| match &object[*name] {
        Value::Null => None,
        value => Some((*label, Cell::json(value))),
    };
    Block::Facts(names.iter().filter_map(fact).collect())
}

/// JSON as people read it.
fn pretty(value: &Value) -> Block {
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    Block::Code(crate::model::moment::printable(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_any_text_and_leaves_out_what_is_not_given() {
        let to = query("/jobs", &[("kind", Some("a&b=\"<é")), ("status", None), ("domain", Some("x"))]);
        assert_eq!(to, "/jobs?kind=a%26b%3D%22%3C%C3%A9&domain=x");
    }

    #[test]
    fn a_place_is_a_moment_that_the_database_can_hold() {
        let id = Uuid::nil();
        for at in ["2026-01-01T00:00:00Z", "-004712-01-01T00:00:00Z", "9999-12-01T00:00:00Z"] {
            let read = place(Some(&format!("{at}_{id}"))).unwrap().unwrap();
            assert_eq!(place(placed(Some(read)).as_deref()).unwrap(), Some(read), "{at}");
        }
        for text in ["-004713-12-31T00:00:00Z_", "-009999-01-03T00:00:00Z_", "x_"] {
            assert!(place(Some(&format!("{text}{id}"))).is_err(), "{text}");
        }
    }
}
