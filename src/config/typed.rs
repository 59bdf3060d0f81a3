//! Stage one: the words as they were typed, each with its place; later sources replace earlier ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::telemetry;
use super::{Flag, Sources};

/// Prefix of the environment variables that set a key: `REVEILLE__SECTION__KEY`.
const PREFIX: &str = "REVEILLE__";

/// The words of all sources by key path, `section.key`.
#[derive(Default)]
pub(super) struct Typed(pub(super) BTreeMap<String, Entry>);

/// One word and its place.
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What a word looks like before anybody knows what it should be.
pub(super) enum Value {
    /// A string of the file.
    Text(String),
    /// A whole number of the file, when it fits.
    Number(Option<i64>),
    /// `true` or `false` in the file.
    Switch(bool),
    /// A list of strings in the file.
    List(Vec<String>),
    /// Anything else in the file.
    Other(&'static str),
    /// Text of the environment or of a flag, which may stand for any of the above.
    Plain(String),
}

/// Gathers the words of all sources, and the problems that make a source unreadable.
pub(super) fn gather(sources: &Sources) -> (Typed, Vec<Problem>) {
    let mut typed = Typed::default();
    let mut problems = Vec::new();
    let fallback = sources.default_file.as_deref().filter(|path| path.exists());
    if let Some(path) = sources.file.as_deref().or(fallback) {
        typed.add_file(path, &mut problems);
    }
    typed.add_environment(&sources.environment);
    typed.add_flags(&sources.flags);
    (typed, problems)
}

impl Typed {
    fn add_file(&mut self, path: &Path, problems: &mut Vec<Problem>) {
        let shown = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let rule = format!("this file cannot be read: {error}");
                problems.push(Problem { key: shown, origin: None, rule, guess: None });
                return;
            }
        };
        let file = SourceFile { path: shown, text: &text };
        let (document, mut errors) = DeTable::parse_recoverable(&text);
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        if let Some(first) = errors.first() {
            // the library's own rendering quotes the line, which may hold a password: take the message alone
            let origin = Some(file.origin(first.span().map_or(0, |span| span.start)));
            let rule = format!("not TOML: {}", first.message());
            problems.push(Problem { key: "syntax".to_owned(), origin, rule, guess: None });
        }
        // after several errors the rest is guesswork, and would only be blamed for the first
        if errors.len() < 2 {
            self.add_table(&file, "", document.get_ref());
        }
    }

    /// Keys of a table, one level deep: a section's tables are left to stage two, which knows none.
    fn add_table(&mut self, file: &SourceFile<'_>, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref();
            match value.get_ref() {
                DeValue::Table(inner) if section.is_empty() => self.add_table(file, name, inner),
                value => {
                    let path =
                        if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
                    let origin = file.origin(key.span().start);
                    self.0.insert(path, Entry { value: value_of(value), origin });
                }
            }
        }
    }

    fn add_environment(&mut self, environment: &[(String, String)]) {
        let mut add = |path: String, name: &str, value: &str| {
            let origin = Origin::Environment(name.to_owned());
            self.0.insert(path, Entry { value: Value::Plain(value.to_owned()), origin });
        };
        for (name, value) in environment {
            if name == "DATABASE_URL" && !value.is_empty() {
                add("database.url".to_owned(), name, value);
            }
        }
        for (key, name, value) in telemetry::standard(environment) {
            add(key.to_owned(), name, &value);
        }
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix(PREFIX) {
                add(path.to_lowercase().replace("__", "."), name, value);
            }
        }
    }

    fn add_flags(&mut self, flags: &[Flag]) {
        for flag in flags {
            let value = Value::Plain(flag.value.clone());
            self.0.insert(flag.key.to_owned(), Entry { value, origin: Origin::Flag(flag.name) });
        }
    }
}

struct SourceFile<'a> {
    path: String,
    text: &'a str,
}

impl SourceFile<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.split(|byte| *byte == b'\n').count();
        Origin::File { path: self.path.clone(), line }
    }
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Number(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Boolean(flag) => Value::Switch(*flag),
        DeValue::Array(items) => {
            let words = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            words.collect::<Option<Vec<_>>>().map_or(Value::Other("a list of mixed values"), Value::List)
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}
