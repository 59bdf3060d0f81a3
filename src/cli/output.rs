//! Words out: answers on standard output, errors on standard error, both also as JSON; exit codes.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{LineStyle, Table, TableStyle};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Problems;
use crate::error::{Error, Result};
use crate::model::refusal::Refusal;

pub use crate::model::moment::{duration, printable, seconds};

use super::Outcome;

/// Where answers go, and in which form. A reader that has gone away (`| head`) ends the command quietly.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    /// Each answer takes the place of the one before.
    again: bool,
}

impl Output {
    /// Answers as JSON or as text.
    pub fn new(json: bool) -> Self {
        Self { json, again: false }
    }

    /// For many answers: each clears the screen first, where there is one; as JSON each is a line.
    pub(super) fn again_and_again(self) -> Self {
        Self { again: true, ..self }
    }

    /// Whether answers are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The one answer of a command: `document` as JSON, or `text` for people.
    pub fn answer(&self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if !self.json {
            let clear = if self.again && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            return write_line(&format!("{clear}{}", text()));
        }
        let document =
            if self.again { serde_json::to_string(document) } else { serde_json::to_string_pretty(document) };
        let document = document.map_err(|error| Error::io("the answer as JSON", io::Error::other(error)))?;
        write_line(&document)
    }

    /// A line while the work goes on; nothing when the answer is JSON, which is one document at the end.
    pub fn line(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { write_line(text) }
    }
}

fn write_line(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Error::io("standard output", error))
}

/// A table in the house style. Long cells are cut, and control characters never reach the terminal.
pub fn table<R>(headings: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(headings.to_vec());
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|text| cell(&text)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Most characters of a table's cell.
const CELL_WIDTH: usize = 72;

fn cell(text: &str) -> String {
    let mut shown: String = printable(text).replace('\n', " ").chars().take(CELL_WIDTH + 1).collect();
    if shown.chars().count() > CELL_WIDTH {
        shown.pop();
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Names and values, one pair a line, aligned; pairs without a value are left out.
pub fn pairs<N: AsRef<str>>(pairs: impl IntoIterator<Item = (N, Option<String>)>) -> String {
    let pairs: Vec<(N, String)> =
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let width = pairs.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let value = printable(&value).replace('\n', &format!("\n{:width$}  ", ""));
        let _ = writeln!(text, "{:width$}  {value}", name.as_ref());
    }
    text.truncate(text.trim_end().len());
    text
}

/// A JSON object as names and values: those of `first` in their order, then the others; nulls are left out, and
/// moments are shown with their distance from now.
pub fn fields(object: &Value, first: &[&str]) -> String {
    let Some(object) = object.as_object() else { return object.to_string() };
    let now = Timestamp::now();
    let others = object.keys().map(String::as_str).filter(|name| !first.contains(name));
    let shown = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.parse().map_or_else(|_| text.clone(), |at| moment(at, now))),
        other => Some(other.to_string()),
    };
    pairs(first.iter().copied().chain(others).map(|name| (name, object.get(name).and_then(shown))))
}

/// A moment and its distance from `now`: `2026-11-20 10:00:00Z (3m 5s ago)`.
pub fn moment(moment: Timestamp, now: Timestamp) -> String {
    let distance = now.duration_since(moment);
    let shown = moment.strftime("%Y-%m-%d %H:%M:%SZ");
    let words = match distance {
        distance if distance.as_millis().abs() < 1000 => "now".to_owned(),
        distance if distance.is_negative() => format!("in {}", duration(distance)),
        distance => format!("{} ago", duration(distance)),
    };
    format!("{shown} ({words})")
}

/// Prints what is left to print of an outcome, and gives its exit code.
pub fn conclude(outcome: &Outcome, json: bool) -> ExitCode {
    match outcome {
        Outcome::Done => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::from(1),
        Outcome::PartRefused => ExitCode::from(3),
        Outcome::Refused(refusal) => {
            refuse(refusal, json);
            ExitCode::from(3)
        }
    }
}

/// A refusal is an answer: as JSON it goes to standard output, whole.
fn refuse(refusal: &Refusal, json: bool) {
    if json {
        let _ = Output::new(true).answer(&refusal.answer, String::new);
        return;
    }
    let errors = refusal.answer["errors"].as_array().into_iter().flatten().filter_map(|error| error.as_str());
    let lines: Vec<String> = errors.map(|error| format!("\n  {}", printable(error))).collect();
    say("refused", &format!("{}{}", refusal.reason, lines.concat()), refusal.hint().as_deref());
}

/// Prints an error and gives its exit code.
pub fn fail(error: &Error, json: bool) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if json {
        let mut object = json!({
            "kind": format!("{:?}", error.kind()).to_lowercase(),
            "message": error.to_string(),
            "hint": error.hint_text(),
            "sqlstate": error.sqlstate(),
        });
        if let Some(problems) = error.source().and_then(|source| source.downcast_ref::<Problems>()) {
            object["problems"] = problems_as_json(problems);
        }
        let _ = writeln!(io::stderr(), "{}", json!({ "error": object }));
    } else {
        let mut message = error.to_string();
        for cause in causes(error) {
            if !message.contains(&cause) {
                let _ = write!(message, "\n  because: {cause}");
            }
        }
        say("error", &message, error.hint_text());
    }
    ExitCode::from(error.exit_code())
}

/// Writes an error as the last line of the log, which is JSON to its end, and gives its exit code.
pub fn fail_in_log(error: &Error) -> ExitCode {
    tracing::error!(
        error.kind = ?error.kind(),
        error.sqlstate = error.sqlstate(),
        hint = error.hint_text(),
        "{error}"
    );
    ExitCode::from(error.exit_code())
}

/// Prints what clap has to say (help, version or a complaint) and gives the exit code.
pub(super) fn complain(error: &clap::Error, json: bool) -> ExitCode {
    if error.use_stderr() && json {
        let message = error.to_string();
        let object = json!({ "kind": "usage", "message": message.trim_start_matches("error: ").trim_end() });
        let _ = writeln!(io::stderr(), "{}", json!({ "error": object }));
    } else {
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

fn say(word: &str, message: &str, hint: Option<&str>) {
    let bold = anstyle::Style::new().bold();
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{bold}{word}:{bold:#} {message}");
    if let Some(hint) = hint {
        let _ = writeln!(err, "{bold}hint:{bold:#} {hint}");
    }
}

/// The causes of an error, nearest first, without the driver's own.
fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<tokio_postgres::Error>() {
            break; // its words are in the message already; alone it says "db error"
        }
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

fn is_closed_pipe(error: &Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
}

fn problems_as_json(problems: &Problems) -> Value {
    let one = |problem: &crate::config::Problem| {
        json!({
            "key": problem.key,
            "from": problem.origin.as_ref().map(ToString::to_string),
            "rule": problem.rule,
            "guess": problem.guess,
        })
    };
    problems.0.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_cut_long_cells_and_let_no_control_character_through() {
        let long = "é".repeat(500);
        let text = table(&["a", "b"], [["\u{1b}[31mred\nline".to_owned(), long]]);
        assert!(text.contains("\u{fffd}[31mred line"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 120), "{text}");
        assert!(text.ends_with('…'));
    }

    #[test]
    fn pairs_are_aligned_also_over_several_lines() {
        let text = pairs([("a", Some("1\n2".to_owned())), ("bb", None), ("ccc", Some("3".to_owned()))]);
        assert_eq!(text, "a    1\n     2\nccc  3");
    }
}
