//! A consumer file: TOML with the names of `consumer_registry`'s columns, read with every problem at once.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::consumer::{Consumer, FAN_OUT_IDEMPOTENCY_KEY, RECIPIENTS, STREAMS};
use super::executor::ExecutorKind;
use super::spelling::guess;
use super::toml_reader::{Reader, line_of};

pub use super::toml_reader::Problem;

/// A consumer and where its keys stand.
#[derive(Debug, Clone)]
pub struct ConsumerFile {
    /// The file as it was named.
    pub path: String,
    /// What it says.
    pub consumer: Consumer,
    lines: BTreeMap<String, usize>,
}

impl ConsumerFile {
    /// Reads the text of a file; `path` names it in problems and `key` is the consumer's name.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines.
    pub fn parse(path: &str, key: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader::new(path, text, document.get_ref());
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            reader.problem(Some(at), format!("not TOML: {}", error.message()), None);
        }
        if !reader.problems.is_empty() {
            return Err(reader.problems);
        }
        let consumer = reader.consumer(key);
        reader.unknown_keys();
        reader.forget_misspelt();
        if !reader.problems.is_empty() {
            reader.problems.sort_by_key(|problem| problem.line);
            return Err(reader.problems);
        }
        let lines = document.get_ref().iter();
        let lines = lines.map(|(name, _)| (name.get_ref().to_string(), line_of(text, name.span().start)));
        Ok(Self { path: path.to_owned(), consumer, lines: lines.collect() })
    }

    /// A problem that somebody else found; when it begins with the name of a key, the key's line is added.
    pub fn problem(&self, rule: impl Into<String>) -> Problem {
        let rule = rule.into();
        let name = rule.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        Problem { path: self.path.clone(), line: self.lines.get(name).copied(), rule, guess: None }
    }
}

impl Reader<'_> {
    fn consumer(&mut self, key: &str) -> Consumer {
        if !is_name(key, 120, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "_.-") {
            let rule = format!(
                "`{key}` cannot be a consumer's name: lower case, digits, `_`, `.` and `-`, at most 120"
            );
            self.problem(None, rule, None);
        }
        let mut it = Consumer::new(key, self.text("event_domain").unwrap_or_default());
        if it.event_domain.is_empty() {
            self.missing("event_domain", "event_domain = \"staging\"");
        }
        self.event(&mut it);
        self.job(&mut it);
        self.templates(&mut it);
        it.enabled = self.switch("enabled");
        it.dry_run = self.switch("dry_run");
        it.starts_at = self.moment("starts_at");
        it.description = self.text("description").filter(|text| !text.is_empty());
        it
    }

    fn event(&mut self, it: &mut Consumer) {
        match self.text("event_type") {
            None => self.missing("event_type", "event_type = \"record_approved\", or \"*\" for all"),
            Some(name) if !name.is_empty() && name.len() <= 200 && name.chars().all(is_event_type) => {
                let domain = format!("{}.", it.event_domain);
                if !it.event_domain.is_empty() && name.starts_with(&domain) {
                    let rule = "event_type stands without its domain";
                    self.fault("event_type", rule, Some(name[domain.len()..].to_owned()));
                }
                it.event_type = name;
            }
            Some(_) => self.fault("event_type", "event_type is lower case, digits, `_`, `.` and `*`", None),
        }
        it.event_stream = self.text("event_stream");
        if let Some(stream) = it.event_stream.as_deref().filter(|stream| !STREAMS.contains(stream)) {
            let rule = format!("`{stream}` is not a stream; it is one of {}", STREAMS.join(", "));
            self.fault("event_stream", &rule, guess(stream, STREAMS));
        }
        it.filter = self.text("filter").filter(|text| !text.is_empty());
    }

    fn job(&mut self, it: &mut Consumer) {
        it.job_kind = self.text("job_kind");
        match (&it.job_kind, self.switch("terminal")) {
            (Some(_), true) => {
                self.fault("terminal", "a terminal consumer makes no job: leave job_kind out", None);
            }
            (None, false) => self.missing(
                "job_kind",
                "job_kind = \"cut.cut\"; or terminal = true, to see the fact and make no job",
            ),
            (Some(kind), false) if !is_name(kind, 120, |c| c.is_ascii_alphabetic(), "_.:-") => {
                self.fault(
                    "job_kind",
                    "job_kind is a name such as \"cut.cut\", at most 120 characters",
                    None,
                );
            }
            _ => {}
        }
        if let Some(word) = self.text("executor") {
            match word.parse() {
                Ok(kind) => it.executor = kind,
                Err(rule) => {
                    let guess = guess(&word, ExecutorKind::ALL.map(ExecutorKind::as_str));
                    self.fault("executor", &rule, guess);
                }
            }
        }
        if let Some(number) = self.number("priority", 0..=i64::from(i16::MAX)) {
            it.priority = u16::try_from(number).unwrap_or_default();
        }
        it.max_attempts = self.number("max_attempts", 1..=1_000_000).and_then(|n| u32::try_from(n).ok());
        it.delay = self.duration("delay");
        it.fan_out = self.text("fan_out");
        if let Some(word) = it.fan_out.as_deref().filter(|word| *word != RECIPIENTS) {
            let rule = format!("fan_out is \"{RECIPIENTS}\" or left out, not `{word}`");
            self.fault("fan_out", &rule, guess(word, [RECIPIENTS]));
        }
    }

    /// An empty `source_ref` leaves the jobs without one; the others are empty unless they are given.
    fn templates(&mut self, it: &mut Consumer) {
        if let Some(template) = self.text("source_ref") {
            it.source_ref = Some(template).filter(|text| !text.is_empty());
        }
        it.target_ref = self.text("target_ref").filter(|text| !text.is_empty());
        it.payload_ref = self.text("payload_ref").filter(|text| !text.is_empty());
        it.ordering_key = self.text("ordering_key").filter(|text| !text.is_empty());
        if it.fan_out.is_some() {
            FAN_OUT_IDEMPOTENCY_KEY.clone_into(&mut it.idempotency_key);
        }
        if let Some(template) = self.text("idempotency_key") {
            it.idempotency_key = template;
        }
    }
}

fn is_event_type(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || "_.*".contains(c)
}

/// Letters and digits, begun by what `first` allows, with the signs of `also` within.
fn is_name(word: &str, longest: usize, first: impl Fn(char) -> bool, also: &str) -> bool {
    let lower_only = !first('A');
    word.len() <= longest
        && word.starts_with(first)
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() && !(lower_only && c.is_ascii_uppercase()) || also.contains(c))
}
