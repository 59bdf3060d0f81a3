//! Reads the keys of one flat TOML table, with every problem at once and the line of each.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use super::spelling::guess;

/// Longest duration of a key, in days.
const LONGEST_DAYS: u64 = 366;

/// One thing to mend in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: String,
    /// The line, counted from one, when it stands on one.
    pub line: Option<usize>,
    /// The rule it breaks, in words.
    pub rule: String,
    /// What was probably meant.
    pub guess: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.rule)?,
            None => write!(f, "{}: {}", self.path, self.rule)?,
        }
        match &self.guess {
            Some(guess) => write!(f, "; did you mean `{guess}`?"),
            None => Ok(()),
        }
    }
}

/// Takes one key after another out of the table, remembers which exist, and collects problems.
pub(super) struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a str, text: &'a str, table: &'a DeTable<'a>) -> Self {
        Self { path, text, table, known: Vec::new(), problems: Vec::new() }
    }
}

impl Reader<'_> {
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let (at, value) = self.take(key)?;
        if let DeValue::String(text) = value {
            return Some(text.to_string());
        }
        self.problem(Some(at), format!("{key} must be text in quotes"), None);
        None
    }

    pub(super) fn switch(&mut self, key: &'static str) -> bool {
        match self.take(key) {
            None => false,
            Some((_, DeValue::Boolean(flag))) => *flag,
            Some((at, _)) => {
                self.problem(Some(at), format!("{key} must be true or false, without quotes"), None);
                false
            }
        }
    }

    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let (at, value) = self.take(key)?;
        let number = match value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let rule = format!("{key} must be a whole number from {} to {}", range.start(), range.end());
            self.problem(Some(at), rule, None);
        }
        number
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Duration {
        let Some(text) = self.text(key) else { return Duration::ZERO };
        let longest = Duration::from_hours(24 * LONGEST_DAYS);
        match humantime::parse_duration(&text) {
            Ok(length) if length <= longest => return length,
            Ok(_) => self.fault(key, &format!("{key} must not exceed {LONGEST_DAYS} days"), None),
            Err(_) if text.is_empty() => {}
            Err(error) => {
                let rule = format!("{key}: `{text}` is not a duration such as \"5s\" or \"1h 30m\": {error}");
                self.fault(key, &rule, None);
            }
        }
        Duration::ZERO
    }

    pub(super) fn moment(&mut self, key: &'static str) -> Option<Timestamp> {
        let (at, value) = self.take(key)?;
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(moment) => moment.to_string(),
            _ => String::new(),
        };
        let moment = text.parse().ok();
        if moment.is_none() {
            let rule = format!("{key} must be a moment with its zone, such as 2026-11-20T10:00:00Z");
            self.problem(Some(at), rule, None);
        }
        moment
    }

    fn take(&mut self, key: &'static str) -> Option<(usize, &DeValue<'_>)> {
        self.known.push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        Some((name.span().start, value.get_ref()))
    }

    pub(super) fn unknown_keys(&mut self) {
        let known = self.known.clone();
        for (name, _) in self.table {
            let word = name.get_ref().as_ref();
            if word == "consumer_key" {
                let rule = "consumer_key is the name of the file and does not stand in it";
                self.problem(Some(name.span().start), rule.to_owned(), None);
            } else if !known.contains(&word) {
                let meant = guess(word, known.iter().copied());
                self.problem(Some(name.span().start), format!("there is no key `{word}`"), meant);
            }
        }
    }

    /// A key that is missing because it is misspelt is told once.
    pub(super) fn forget_misspelt(&mut self) {
        let meant: Vec<String> = self.problems.iter().filter_map(|problem| problem.guess.clone()).collect();
        let misspelt = |rule: &str| meant.iter().any(|key| rule.starts_with(&format!("{key} is missing")));
        self.problems.retain(|problem| !misspelt(&problem.rule));
    }

    pub(super) fn missing(&mut self, key: &str, example: &str) {
        if !self.problems.iter().any(|problem| problem.rule.starts_with(key)) {
            self.problem(None, format!("{key} is missing: {example}"), None);
        }
    }

    /// A problem of a key that is there.
    pub(super) fn fault(&mut self, key: &str, rule: &str, guess: Option<String>) {
        let entry = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key);
        self.problem(entry.map(|(name, _)| name.span().start), rule.to_owned(), guess);
    }

    pub(super) fn problem(&mut self, at: Option<usize>, rule: String, guess: Option<String>) {
        let line = at.map(|at| line_of(self.text, at));
        self.problems.push(Problem { path: self.path.to_owned(), line, rule, guess });
    }
}

/// Counted from one.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].split(|byte| *byte == b'\n').count()
}
