//! Reads one key at a time out of the typed words, remembers which keys exist, and collects problems.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::{Origin, Problem};
use super::typed::{Typed, Value};
use crate::model::spelling::guess;

/// Why a word does not fit its key.
pub(super) struct Fault {
    rule: String,
    guess: Option<String>,
}

impl Fault {
    /// A broken rule.
    pub(super) fn rule(rule: impl Into<String>) -> Self {
        Self { rule: rule.into(), guess: None }
    }

    /// A word that is none of those allowed, with a guess.
    pub(super) fn not_one_of<'a>(word: &str, allowed: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        let names: Vec<&str> = allowed.clone().into_iter().collect();
        Self {
            rule: format!("`{word}` is unknown; it is one of {}", names.join(", ")),
            guess: guess(word, allowed),
        }
    }
}

/// The result of checking one word.
pub(super) type Checked<T> = Result<T, Fault>;

/// The typed words while they are being read.
pub(super) struct Reader {
    typed: Typed,
    known: Vec<&'static str>,
    origins: BTreeMap<&'static str, Origin>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(typed: Typed, problems: Vec<Problem>) -> Self {
        Self { typed, known: Vec::new(), origins: BTreeMap::new(), problems }
    }

    /// Reads `key` into `slot` if it was typed; what `parse` refuses becomes a problem.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        slot: &mut T,
        parse: impl FnOnce(&Value) -> Checked<T>,
    ) {
        self.known.push(key);
        let Some(entry) = self.typed.0.remove(key) else { return };
        match parse(&entry.value) {
            Ok(value) => {
                *slot = value;
                self.origins.insert(key, entry.origin);
            }
            Err(Fault { rule, guess }) => {
                self.problems.push(Problem { key: key.to_owned(), origin: Some(entry.origin), rule, guess });
            }
        }
    }

    /// Where the word of a key that was read came from; none when it was not typed, or is a problem.
    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Takes the problems of these places out: they are not to stop anybody.
    pub(super) fn set_aside(&mut self, is_meant: impl Fn(&Origin) -> bool) -> Vec<Problem> {
        let meant = |problem: &mut Problem| problem.origin.as_ref().is_some_and(&is_meant);
        self.problems.extract_if(.., meant).collect()
    }

    /// A rule between two keys; the first of them that was typed is named. Keys that have a problem of
    /// their own are left alone.
    pub(super) fn relate(&mut self, keys: [&'static str; 2], holds: bool, rule: &str) {
        let doubtful = self.problems.iter().any(|problem| keys.contains(&problem.key.as_str()));
        if holds || doubtful {
            return;
        }
        let key = keys.into_iter().find(|key| self.origins.contains_key(key)).unwrap_or(keys[0]);
        let origin = self.origins.get(key).cloned();
        self.problems.push(Problem { key: key.to_owned(), origin, rule: rule.to_owned(), guess: None });
    }

    /// Ends reading: what is left was never a key. Gives the known keys, or every problem.
    pub(super) fn finish(mut self) -> Result<Vec<&'static str>, Vec<Problem>> {
        for (key, entry) in std::mem::take(&mut self.typed.0) {
            let (rule, guess) = unknown(&key, &self.known);
            self.problems.push(Problem { key, origin: Some(entry.origin), rule, guess });
        }
        if self.problems.is_empty() { Ok(self.known) } else { Err(self.problems) }
    }
}

/// What to say of a key that does not exist: a guess among the section's keys, then among all.
fn unknown(key: &str, known: &[&'static str]) -> (String, Option<String>) {
    let sections = || known.iter().filter_map(|key| key.split_once('.').map(|(section, _)| section));
    match key.split_once('.') {
        None if sections().any(|section| section == key) => {
            ("a section, not a key: write it as a table".to_owned(), Some(format!("[{key}]")))
        }
        None => {
            let home = known.iter().find(|known| known.rsplit_once('.').is_some_and(|(_, name)| name == key));
            let guess = home.map(ToString::to_string).or_else(|| guess(key, sections()));
            ("no such key outside a section".to_owned(), guess)
        }
        Some((section, _)) if sections().any(|known| known == section) => {
            ("no such key".to_owned(), guess(key, known.iter().copied()))
        }
        Some((section, name)) => {
            let meant = guess(section, sections()).map(|section| format!("{section}.{name}"));
            (format!("no such section `{section}`"), meant)
        }
    }
}

/// Text as it is.
pub(super) fn text(value: &Value) -> Checked<String> {
    match value {
        Value::Text(text) | Value::Plain(text) => Ok(text.clone()),
        other => Err(Fault::rule(format!("must be text in quotes, not {}", other.kind()))),
    }
}

/// `true` or `false`.
pub(super) fn switch(value: &Value) -> Checked<bool> {
    match value {
        Value::Switch(flag) => Ok(*flag),
        Value::Plain(text) => {
            text.parse().map_err(|_| Fault::rule(format!("must be true or false, not `{text}`")))
        }
        other => Err(Fault::rule(format!("must be true or false, not {}", other.kind()))),
    }
}

/// A whole number within `range`.
pub(super) fn count<T>(range: RangeInclusive<T>) -> impl FnOnce(&Value) -> Checked<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        let rule = |what: String| {
            Fault::rule(format!(
                "must be a whole number from {} to {}, not {what}",
                range.start(),
                range.end()
            ))
        };
        let number = match value {
            Value::Number(number) => *number,
            Value::Plain(text) => Some(text.trim().parse().map_err(|_| rule(format!("`{text}`")))?),
            other => return Err(rule(other.kind().to_owned())),
        };
        let fitting = number.and_then(|number| T::try_from(number).ok()).filter(|n| range.contains(n));
        fitting.ok_or_else(|| rule(number.map_or("one as large as this".to_owned(), |n| n.to_string())))
    }
}

/// A duration with its unit, within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&Value) -> Checked<Duration> {
    move |value| {
        let text = match value {
            Value::Text(text) | Value::Plain(text) => text,
            other => {
                let rule =
                    format!("must be a duration in quotes with its unit, as in \"5s\", not {}", other.kind());
                return Err(Fault::rule(rule));
            }
        };
        let parsed = humantime::parse_duration(text).map_err(|error| {
            Fault::rule(format!(
                "`{text}` is not a duration such as \"250ms\", \"5s\" or \"1h 30m\": {error}"
            ))
        })?;
        if range.contains(&parsed) {
            return Ok(parsed);
        }
        let [from, to] = [*range.start(), *range.end()].map(humantime::format_duration);
        Err(Fault::rule(format!("must be from {from} to {to}, not {text}")))
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(&Value) -> Checked<T> {
    move |value| {
        let word = text(value)?;
        let names = words.iter().map(|(name, _)| *name);
        let found = words.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning);
        found.ok_or_else(|| Fault::not_one_of(&word, names))
    }
}

/// A list of words, each allowed by `check`; in the environment, separated by commas.
pub(super) fn list(check: impl Fn(&str) -> Checked<()>) -> impl FnOnce(&Value) -> Checked<Vec<String>> {
    move |value| {
        let words: Vec<String> = match value {
            Value::List(words) => words.clone(),
            Value::Plain(text) => {
                text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }
            other => {
                let rule = format!("must be a list such as [\"one\", \"two\"], not {}", other.kind());
                return Err(Fault::rule(rule));
            }
        };
        words.iter().try_for_each(|word| check(word))?;
        Ok(words)
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text in quotes",
            Self::Number(_) => "a number",
            Self::Switch(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
            Self::Plain(_) => "this text",
        }
    }
}
