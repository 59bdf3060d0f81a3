//! Payloads and moments as they are typed.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::store::consumers::Since;

/// A payload given as JSON, or as `@FILE` that holds it.
///
/// # Errors
/// Kind Usage, with the place in the text, when it is not a JSON object.
pub(super) fn payload(flag: &str, given: Option<&str>) -> Result<Option<Value>> {
    let Some(given) = given else { return Ok(None) };
    let (text, place) = match given.strip_prefix('@') {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::usage(format!("{flag}: {path} cannot be read: {error}")))?;
            (text, format!("{flag} {path}"))
        }
        None => (given.to_owned(), flag.to_owned()),
    };
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        Ok(_) => Err(Error::usage(format!("{place}: must be a JSON object, such as {{\"key\": \"value\"}}"))),
        Err(error) => Err(Error::usage(format!("{place}: not JSON: {error}{}", pointer(&text, &error)))
            .hint("quote it for the shell: --payload '{\"key\": \"value\"}'")),
    }
}

/// The line with the mistake, and an arrow beneath the place.
fn pointer(text: &str, error: &serde_json::Error) -> String {
    let Some(line) = text.lines().nth(error.line().saturating_sub(1)) else { return String::new() };
    let bytes = error.column().saturating_sub(1).min(line.len());
    let column = String::from_utf8_lossy(&line.as_bytes()[..bytes]).chars().count();
    let from = column.saturating_sub(50);
    let shown: String = line.chars().skip(from).take(70).collect();
    format!("\n  {shown}\n  {:>width$}", "^", width = column - from + 1)
}

/// A moment as RFC 3339, for clap.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write it as 2026-01-31T09:30:00Z or 2026-01-31T09:30:00+01:00".to_owned())
}

/// The longest way back that a command takes: a hundred years.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// A moment as RFC 3339, or how long ago it was, for clap.
pub(super) fn since(text: &str) -> Result<Since, String> {
    match humantime::parse_duration(text) {
        Ok(ago) if ago > LONGEST => Err("that is too long ago".to_owned()),
        Ok(ago) => Ok(Since::Ago(ago)),
        Err(_) => match moment(text) {
            Ok(at) => Ok(Since::At(at)),
            Err(rule) => Err(format!("{rule}, or as a time ago such as 90m or 2days")),
        },
    }
}

/// Adds what to do to an error of the database about what was typed.
pub(super) fn explain(error: Error) -> Error {
    if error.sqlstate() != Some("23514") {
        return error;
    }
    let message = error.to_string();
    let rule = if message.contains("payload") || message.contains("signal_only") {
        "a payload carries signals, not data: no key named body, content, raw, vector, embedding, secret, token, \
         password, ssn or personal_data at any depth, and at most 16 kB"
    } else if message.contains("job_kind") {
        "a job kind begins with a letter and holds letters, digits and `_ . : -`, at most 120 of them"
    } else {
        return error;
    };
    error.hint(rule)
}
