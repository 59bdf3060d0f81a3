//! Makes rows of consumer files: reads a folder, compares with `consumer_registry`, applies what was shown.
//!
//! A row belongs to its file; rows of others are never touched. A file's `enabled` counts when its row is first written.

use std::fmt;
use std::path::{Path, PathBuf};

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::model::consumer_file::{ConsumerFile, Problem};
use crate::store::consumers::{self, Columns};
use crate::store::kinds;

/// What shall be done beyond adding and changing rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Remove rows that came from files which are gone.
    pub prune: bool,
    /// Set `enabled` of existing rows to what their files say.
    pub enabled_too: bool,
}

/// What a sync would do: one entry a consumer, by key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Every consumer that has a file or a row.
    pub entries: Vec<Entry>,
}

/// What a sync would do to one consumer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its key.
    pub consumer_key: String,
    /// Its file, when there is one.
    pub file: Option<String>,
    /// What becomes of its row.
    #[serde(flatten)]
    pub action: Action,
    /// What its row's `enabled` stays, though the file says otherwise.
    pub enabled_stays: Option<bool>,
    /// What stands against its workflows, such as a template that is not there.
    pub warning: Option<String>,
    /// What its file says, or its row where there is no file.
    #[serde(skip)]
    pub columns: Columns,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// It has a file and no row.
    Add,
    /// Its file says something else than its row.
    Change {
        /// The columns that change.
        columns: Vec<Change>,
    },
    /// Its row is what its file says.
    Keep,
    /// Its row came from a file that is gone, and pruning was asked for.
    Remove,
    /// Its row came from a file that is gone; it stays until pruning is asked for.
    Orphan,
    /// Its row was written by somebody else than a sync; with a file of the same name, the file has no effect.
    Foreign,
}

/// One column of a row that changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The column.
    pub column: String,
    /// What the row holds.
    pub from: Value,
    /// What the file says.
    pub to: Value,
}

impl Plan {
    /// Whether applying it would do anything.
    pub fn changes_anything(&self) -> bool {
        self.entries.iter().any(Entry::changes_anything)
    }

    /// Files without effect because somebody else wrote a row of their name.
    pub fn shadowed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.action == Action::Foreign && entry.file.is_some())
    }
}

/// The database refuses it; told before anything is asked.
const FAN_OUT_IS_FIXED: &str =
    "fan_out is fixed when the row is made: give the file another name, or remove the row first";

impl Entry {
    /// Whether applying it would change this column of a row.
    fn changes(&self, name: &str) -> bool {
        matches!(&self.action, Action::Change { columns } if columns.iter().any(|change| change.column == name))
    }

    /// Whether applying it would do anything.
    pub fn changes_anything(&self) -> bool {
        matches!(self.action, Action::Add | Action::Change { .. } | Action::Remove)
    }
}

/// Everything that is wrong with some consumer files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "{} problems in consumer files:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string()).because(problems)
    }
}

/// Reads all `*.toml` of a folder, by name.
///
/// # Errors
/// Kind Usage: every problem of every file at once; also when the folder holds no consumer at all.
pub fn read_folder(folder: &Path) -> Result<Vec<ConsumerFile>> {
    let unreadable = |error| {
        Error::io(format!("the folder of consumer files `{}`", folder.display()), error)
            .hint("name it with --dir DIR; reveille comes with an example in consumers/")
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.is_empty() {
        return Err(Error::usage(format!("{} holds no consumer files", folder.display()))
            .hint("one consumer is one file NAME.toml; name their folder with --dir"));
    }
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for path in &paths {
        match parse(path)? {
            Ok(file) => files.push(file),
            Err(of_this_file) => problems.extend(of_this_file),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(Problems(problems).into()) }
}

/// The consumers of the pilot host, as they stand in `consumers/`; for the demo, which runs in any folder.
///
/// # Errors
/// Kind Usage, never in a build whose tests passed.
pub fn of_the_pilot() -> Result<Vec<ConsumerFile>> {
    const FILES: [(&str, &str); 4] = [
        ("iu.auto_instantiate", include_str!("../../consumers/iu.auto_instantiate.toml")),
        ("mark_cut.cleaned", include_str!("../../consumers/mark_cut.cleaned.toml")),
        ("mark_cut.cut", include_str!("../../consumers/mark_cut.cut.toml")),
        ("mark_cut.verify_cut", include_str!("../../consumers/mark_cut.verify_cut.toml")),
    ];
    let parse = |(key, text): (&str, &str)| {
        ConsumerFile::parse(&format!("consumers/{key}.toml"), key, text)
            .map_err(|problems| Problems(problems).into())
    };
    FILES.into_iter().map(parse).collect()
}

/// Reads one file.
///
/// # Errors
/// Kind Usage: all its problems at once.
pub fn read_file(path: &Path) -> Result<ConsumerFile> {
    parse(path)?.map_err(|problems| Problems(problems).into())
}

fn parse(path: &Path) -> Result<Result<ConsumerFile, Vec<Problem>>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path.display(), error))?;
    let key = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(ConsumerFile::parse(&path.display().to_string(), &key, &text))
}

/// Compares files with rows. Reads only.
///
/// # Errors
/// Kind Usage when the database would refuse a file: everything at once.
pub async fn plan(client: &impl GenericClient, files: &[ConsumerFile], options: Options) -> Result<Plan> {
    let mut rows = consumers::list(client).await?;
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        let key = &file.consumer.key;
        match consumers::stored_form(client, &file.consumer.columns()).await? {
            Ok(columns) => {
                let row = rows.iter().position(|row| word(row, "consumer_key") == Some(key));
                let row = row.map(|place| rows.swap_remove(place));
                let warning = kinds::warning_of_consumer(client, &columns).await?;
                let entry = Entry { warning, ..compare(file, columns, row.as_ref(), options) };
                if entry.changes("fan_out") {
                    problems.push(file.problem(FAN_OUT_IS_FIXED));
                }
                entries.push(entry);
            }
            Err(sentence) => problems.push(file.problem(sentence)),
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    entries.extend(rows.into_iter().map(|row| without_file(row, options)));
    entries.sort_by(|a, b| a.consumer_key.cmp(&b.consumer_key));
    Ok(Plan { entries })
}

fn compare(file: &ConsumerFile, columns: Columns, row: Option<&Columns>, options: Options) -> Entry {
    let entry = |action, enabled_stays| Entry {
        consumer_key: file.consumer.key.clone(),
        file: Some(file.path.clone()),
        action,
        enabled_stays,
        warning: None,
        columns: file.consumer.columns(),
    };
    let Some(row) = row else { return entry(Action::Add, None) };
    if word(row, "source") != Some("file") {
        return entry(Action::Foreign, None);
    }
    let differing = columns.into_iter().filter(|(column, to)| row.get(column) != Some(to));
    let (switch, changes): (Vec<_>, Vec<_>) =
        differing.partition(|(column, _)| column == "enabled" && !options.enabled_too);
    let stays = (!switch.is_empty()).then(|| row.get("enabled") == Some(&Value::Bool(true)));
    if changes.is_empty() {
        return entry(Action::Keep, stays);
    }
    let change = |(column, to): (String, Value)| {
        let from = row.get(&column).cloned().unwrap_or_default();
        Change { column, from, to }
    };
    entry(Action::Change { columns: changes.into_iter().map(change).collect() }, stays)
}

fn without_file(row: Columns, options: Options) -> Entry {
    let action = match (word(&row, "source"), options.prune) {
        (Some("file"), true) => Action::Remove,
        (Some("file"), false) => Action::Orphan,
        _ => Action::Foreign,
    };
    let consumer_key = word(&row, "consumer_key").unwrap_or_default().to_owned();
    Entry { consumer_key, file: None, action, enabled_stays: None, warning: None, columns: row }
}

fn word<'a>(row: &'a Columns, column: &str) -> Option<&'a str> {
    row.get(column).and_then(Value::as_str)
}

/// Applies what was shown, all of it or nothing.
///
/// # Errors
/// Kind Refused when a row has come to belong to somebody else meanwhile; then nothing is changed.
pub async fn apply(
    client: &mut impl GenericClient,
    plan: &Plan,
    actor: Option<&str>,
    options: Options,
) -> Result<()> {
    let failed = |error| Error::postgres("synchronising consumers", error);
    let transaction = client.transaction().await.map_err(failed)?;
    for entry in &plan.entries {
        let key = &entry.consumer_key;
        let answer = match entry.action {
            Action::Add | Action::Change { .. } => {
                consumers::put(&transaction, &entry.columns, actor, options.enabled_too).await?
            }
            Action::Remove => consumers::remove(&transaction, key, actor, "its file is gone").await?,
            Action::Keep | Action::Orphan | Action::Foreign => continue,
        };
        answer.done(&format!("consumer {key}")).map_err(|error| match error.kind() {
            Kind::Refused => {
                error.hint("somebody changed the row since it was compared: look at the diff again")
            }
            _ => error,
        })?;
    }
    transaction.commit().await.map_err(failed)
}
