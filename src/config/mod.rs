//! Settings, in two stages: what was typed, and what it means.
//!
//! Stage one ([`Sources`]) gathers the words of the file, the environment and the flags, each with the
//! place it came from; a later source replaces an earlier one key by key. Stage two turns the words into
//! [`Settings`]: plain values that every other module can trust. All problems are reported at once, each
//! with its key, its place, the rule it breaks and, for a misspelt word, a guess.
//!
//! Order, weakest first: built-in default, file, `DATABASE_URL` and the standard variables of OTLP, `REVEILLE__SECTION__KEY`,
//! flags.

mod check;
mod problem;
mod read;
mod redact;
mod services;
mod settings;
mod telemetry;
mod token;
mod typed;

use std::path::PathBuf;

pub use crate::model::spelling::guess;
pub use problem::{Origin, Problem, Problems};
pub use redact::redact;
pub use services::{Dispatch, Listener, Maintenance, Sweep, Worker};
pub use settings::{
    Database, Http, Log, LogFormat, LogLevel, Protocol, Secret, Settings, Shutdown, Telemetry,
};

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "config.toml";

/// Where settings are looked for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file that must exist (`--config`).
    pub file: Option<PathBuf>,
    /// A file that is used only if it exists and `file` is not given.
    pub default_file: Option<PathBuf>,
    /// Names and values of environment variables; those that do not concern settings are ignored.
    pub environment: Vec<(String, String)>,
    /// What flags say.
    pub flags: Vec<Flag>,
}

/// One setting given by a flag of the command line.
#[derive(Clone)]
pub struct Flag {
    /// The flag as typed, for example `--kind`.
    pub name: &'static str,
    /// The key it sets, for example `worker.kind`.
    pub key: &'static str,
    /// The text given.
    pub value: String,
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flag").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Sources {
    /// The sources of this process: `file` or `./config.toml`, its environment, and `flags`.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self { file, default_file: Some(PathBuf::from(DEFAULT_FILE)), environment, flags }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// All [`Problems`] together; there is no half-checked `Settings`.
    pub fn load(&self) -> Result<Settings, Problems> {
        let (typed, problems) = typed::gather(self);
        check::check(typed, problems).map(|(settings, _)| settings)
    }
}

/// Every key there is, as `section.key`, in the order of `config.toml`.
pub fn keys() -> Vec<&'static str> {
    check::check(typed::Typed::default(), Vec::new()).map(|(_, keys)| keys).unwrap_or_default()
}
