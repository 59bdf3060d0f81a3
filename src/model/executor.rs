//! Who may run jobs. MOT is not an executor and is not here.

use std::fmt;
use std::str::FromStr;

/// The seven kinds of executor; the database's CHECK knows the same seven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the vocabulary itself")]
pub enum ExecutorKind {
    Dot,
    Agent,
    Hermes,
    Codex,
    PgWorker,
    ExternalWorker,
    FutureKestraAdapter,
}

impl ExecutorKind {
    /// All of them, in the contract's order.
    pub const ALL: [Self; 7] = [
        Self::Dot,
        Self::Agent,
        Self::Hermes,
        Self::Codex,
        Self::PgWorker,
        Self::ExternalWorker,
        Self::FutureKestraAdapter,
    ];

    /// The name as the database stores it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dot => "DOT",
            Self::Agent => "Agent",
            Self::Hermes => "Hermes",
            Self::Codex => "Codex",
            Self::PgWorker => "PG_worker",
            Self::ExternalWorker => "external_worker",
            Self::FutureKestraAdapter => "future_Kestra_adapter",
        }
    }

    /// The channel on which jobs for this kind are announced.
    pub fn wake_channel(self) -> String {
        format!("job_wake_{}", self.as_str().to_lowercase())
    }
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ExecutorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("`{text}` is not an executor kind; it is one of {}", names.join(", "))
        })
    }
}
