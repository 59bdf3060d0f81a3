//! What every command gets, and what it gives back.

use deadpool_postgres::Object;

use crate::config::{Settings, guess};
use crate::error::{Error, Result};
use crate::model::refusal::{Answer, Refusal};
use crate::postgres::Server;

use super::output::Output;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// Checked settings.
    pub settings: Settings,
    /// Where answers go.
    pub out: Output,
}

impl Context {
    /// The server that the settings name. Opens nothing.
    ///
    /// # Errors
    /// Kind Usage when there is no address or it cannot be read.
    pub fn server(&self) -> Result<Server> {
        Server::from_settings(&self.settings.database)
    }

    /// A connection for one command; it ends with the command.
    pub async fn client(&self) -> Result<Object> {
        let server = self.server()?;
        let pool = server.pool("cli", 1, &server.session())?;
        server.take(&pool).await
    }
}

/// How a command ended, when it did not end with an error.
#[derive(Debug)]
pub enum Outcome {
    /// It did what was asked. Exit code 0.
    Done,
    /// It answered, and the answer is bad news that has been printed. Exit code 1.
    Failed,
    /// The database's rules said no; printed by the caller. Exit code 3.
    Refused(Refusal),
    /// They said no to a part, and the answer that has been printed says so. Exit code 3.
    PartRefused,
}

impl Outcome {
    /// A refusal as it is; a result goes through `print`.
    pub fn of(answer: Answer, print: impl FnOnce(&serde_json::Value) -> Result<()>) -> Result<Self> {
        match answer {
            Answer::Refused(refusal) => Ok(Self::Refused(refusal)),
            Answer::Done(result) => print(&result).map(|()| Self::Done),
        }
    }
}

/// Who acts: what was given, else `user:` and the name of this login; none leaves it to the database's role.
pub fn actor(given: Option<String>) -> Option<String> {
    let login = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    given.or_else(|| login().filter(|name| !name.is_empty()).map(|name| format!("user:{name}")))
}

/// The warning of an answer, a line of its own; empty when it has none.
pub(super) fn warning(answer: &serde_json::Value) -> String {
    answer["warning"]
        .as_str()
        .map(|warning| format!("\nwarning: {}", super::output::printable(warning)))
        .unwrap_or_default()
}

/// An error about a name that nobody knows, with the one that was meant, or else where all of them are shown.
pub(super) fn or_did_you_mean<'a>(
    error: Error,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> Error {
    match guess(name, known) {
        Some(meant) => error.hint(format!("did you mean `{meant}`?")),
        None => error.hint(otherwise),
    }
}
