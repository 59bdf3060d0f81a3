//! Runs the text of one file, and says at which line it failed.

use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::time::timeout;
use tokio_postgres::error::ErrorPosition;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::{Error, Kind, Result};

/// The server's own limit for each statement comes first; this is for a server that is gone without a word.
const LONGEST_SCRIPT: Duration = super::LONGEST_STATEMENT.saturating_mul(2);

/// SQL with the place it came from.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// For messages: `migrations/003_job_substrate/up.sql`, or a word for statements of our own.
    pub(super) place: String,
    pub(super) text: String,
}

impl Script {
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }

    /// Runs all statements; the caller holds the transaction.
    pub(super) async fn run(&self, client: &Client) -> Result<()> {
        let mut done = 0;
        let outcome = async {
            let mut messages = pin!(client.simple_query_raw(&self.text).await?);
            while let Some(message) = messages.try_next().await? {
                done += usize::from(matches!(message, SimpleQueryMessage::CommandComplete(_)));
            }
            Ok(())
        };
        let outcome: Result<Result<(), tokio_postgres::Error>, _> = timeout(LONGEST_SCRIPT, outcome).await;
        match outcome {
            Ok(outcome) => outcome.map_err(|error| self.explain(error, done)),
            Err(_) => Err(Error::new(Kind::Timeout, format!("{}: the server does not answer", self.place))),
        }
    }

    /// `done` statements had run before `error`.
    fn explain(&self, error: tokio_postgres::Error, done: usize) -> Error {
        let Some(db) = error.as_db_error() else {
            return Error::postgres(&self.place, error);
        };
        let line = match db.position() {
            Some(ErrorPosition::Original(letter)) => Some(line_of(&self.text, *letter)),
            _ => statement_lines(&self.text).get(done).copied(),
        };
        let place = line.map_or_else(|| self.place.clone(), |line| format!("{}:{line}", self.place));
        let hint = match (db.code().code(), db.hint().or(db.detail()), db.where_()) {
            ("55P03", ..) => Some(
                "another session holds a lock on this table: look for it in pg_stat_activity, then try again"
                    .to_owned(),
            ),
            ("42501", ..) => Some("run migrations as a role that may create in this schema".to_owned()),
            (_, Some(said), _) => Some(said.to_owned()),
            (_, None, context) => context.map(str::to_owned),
        };
        let code = db.code().code();
        // what a file raises itself is its refusal, for example to drop rows
        let error = if code.starts_with("P0") || code == "55000" || code == "2BP01" {
            let message = format!("{place}: {}", db.message());
            Error::new(Kind::Refused, message).because(error)
        } else {
            Error::postgres(place, error)
        };
        match hint {
            Some(hint) => error.hint(hint),
            None => error.hint("the transaction was rolled back; nothing of this phase was kept"),
        }
    }
}

/// The line of a position that Postgres counts in letters, from 1.
fn line_of(text: &str, letter: u32) -> usize {
    let letters = usize::try_from(letter).unwrap_or(usize::MAX).saturating_sub(1);
    1 + text.chars().take(letters).filter(|letter| *letter == '\n').count()
}

/// The line at which each statement begins.
///
/// Knows quotes, dollar quotes and comments; for messages only, so `begin atomic` bodies may be miscounted.
fn statement_lines(text: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut line = 1;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = token_length(rest);
        if letter == ';' {
            inside = false;
        } else if !inside && !letter.is_whitespace() && !is_comment(rest) {
            inside = true;
            lines.push(line);
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    lines
}

fn is_comment(text: &str) -> bool {
    text.starts_with("--") || text.starts_with("/*")
}

/// Bytes of the quoted text, comment or single letter at the start of `text`.
fn token_length(text: &str) -> usize {
    let to_end_of =
        |open: usize, close: &str| text[open..].find(close).map_or(text.len(), |at| open + at + close.len());
    match text.as_bytes() {
        [b'-', b'-', ..] => to_end_of(2, "\n"),
        [b'/', b'*', ..] => to_end_of(2, "*/"),
        [b'\'', ..] => to_end_of(1, "'"),
        [b'"', ..] => to_end_of(1, "\""),
        [b'$', ..] => match dollar_tag(text) {
            Some(tag) => to_end_of(tag.len(), tag),
            None => 1,
        },
        _ => text.chars().next().map_or(1, char::len_utf8),
    }
}

/// `$$` or `$name$` at the start of `text`.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 1;
    text[1..end].chars().all(|letter| letter.is_alphanumeric() || letter == '_').then(|| &text[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_found_behind_comments_and_bodies() {
        let text = "-- a; b\ncreate table a (x text default 'a;b');\n\n/* no;\n no */ do $x$\nbegin\n  null;\nend $x$;\nselect \"a;\"\n;;\nselect 1";
        assert_eq!(statement_lines(text), [2, 5, 9, 11]);
    }

    #[test]
    fn a_position_counts_letters_not_bytes() {
        assert_eq!(line_of("ü\nü\nx", 1), 1);
        assert_eq!(line_of("ü\nü\nx", 3), 2);
        assert_eq!(line_of("ü\nü\nx", 5), 3);
    }
}
