//! One error for the whole crate: what happened, where, and what to do.
//!
//! An [`Error`] has a [`Kind`] (which decides the exit code and whether trying again can help), a
//! message that can be read alone, an optional hint with the command or setting that mends it, and
//! its source. Refusals of gated SQL functions are answers, not errors; see `model::refusal`.

use std::fmt;

use tokio_postgres::error::SqlState;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. Each kind has one meaning for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong arguments or settings: nothing was tried. Exit code 2.
    Usage,
    /// A gated function or a guard said no. Exit code 3.
    Refused,
    /// The server cannot be reached or is not ready (down, starting, a standby): try again.
    Unreachable,
    /// A statement or a connection took longer than its deadline: try again.
    Timeout,
    /// Wrong password, unknown role, missing privilege: trying again does not help.
    Denied,
    /// The schema is missing, too old, too new, or has drifted.
    Schema,
    /// The server could not do it now (disk full, deadlock, too many connections): try again.
    Transient,
    /// Any other error of the database.
    Database,
    /// A file, process or socket of this machine.
    Io,
}

/// An error with its kind, a readable message, a hint and its source.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    sqlstate: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// An error without a source.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, sqlstate: None, source: None }
    }

    /// Wrong arguments or settings.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// An error of the machine: `what` names the file, process or socket.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{what}: {source}")).because(source)
    }

    /// An error of the database: `what` says which action failed.
    pub fn postgres(what: impl fmt::Display, source: tokio_postgres::Error) -> Self {
        let kind = kind_of(&source);
        let sqlstate = source.code().map(|code| code.code().to_owned());
        let message = match source.as_db_error() {
            Some(db) => format!("{what}: {} (SQLSTATE {})", db.message(), db.code().code()),
            None => format!("{what}: {}", chain(&source)),
        };
        // ours first: the server does not know who asks (it would have `create function` mended by a cast)
        let hint = hint_of(sqlstate.as_deref()).map(str::to_owned).or_else(|| {
            source.as_db_error().and_then(|db| {
                db.hint().or(db.detail().filter(|detail| !is_row_dump(detail))).map(str::to_owned)
            })
        });
        Self { kind, message, hint, sqlstate, source: Some(Box::new(source)) }
    }

    /// A value that the database gave and this program cannot hold: `what` says which.
    pub fn unreadable(what: impl fmt::Display, source: tokio_postgres::Error) -> Self {
        Self::new(Kind::Database, format!("{what}: {}", chain(&source)))
            .hint("this program cannot hold what is stored there: a time before the year -9999 or after 9999, a number beyond 1.8e308, or JSON nested deeper than 127")
            .because(source)
    }

    /// An error of the connection pool: `what` says which action failed.
    pub fn pool(what: impl fmt::Display, source: deadpool_postgres::PoolError) -> Self {
        match source {
            deadpool_postgres::PoolError::Backend(source) => Self::postgres(what, source),
            // the server is there: what we have of it is in use
            deadpool_postgres::PoolError::Timeout(_) => Self::new(
                Kind::Transient,
                format!("{what}: none within the deadline"),
            )
            .hint("other work of this process has it: pg_stat_activity shows what that does, by application_name")
            .because(source),
            other => Self::new(Kind::Database, format!("{what}: {other}")).because(other),
        }
    }

    /// One more failure of the same task: all are told, the first decides what it means.
    #[must_use]
    pub fn and(earlier: Option<Self>, other: Self) -> Self {
        let Some(mut first) = earlier else { return other };
        first.message = format!("{first}; and {other}");
        first.hint = first.hint.or(other.hint);
        first
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the source.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The five-character SQLSTATE, when the database gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// What to do about it, when that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What tells this failure from others of its kind, for whoever logs each sort once.
    pub fn sort(&self) -> &str {
        match &self.sqlstate {
            Some(sqlstate) => hint_of(Some(sqlstate)).unwrap_or(sqlstate),
            None => self.hint.as_ref().unwrap_or(&self.message),
        }
    }

    /// The message and the hint in one line, for a log that says that we try again.
    pub fn trying_again(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{self}; trying again ({hint})"),
            None => format!("{self}; trying again"),
        }
    }

    /// Whether doing the same again later can succeed without anybody mending anything here.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Timeout | Kind::Transient)
    }

    /// 1 failed, 2 wrong usage or settings, 3 refused.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Refused => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The source chain as one line; `tokio_postgres::Error` itself displays only "db error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Maps SQLSTATE to a kind, in this one place (traps 8, 28).
fn kind_of(error: &tokio_postgres::Error) -> Kind {
    let Some(code) = error.code() else {
        return Kind::Unreachable; // no answer of the server: connect, read or write failed
    };
    if *code == SqlState::QUERY_CANCELED {
        return Kind::Timeout;
    }
    match code.code() {
        // a read-only transaction is a demoted server, not a wrong statement (trap 28)
        "25006" => Kind::Unreachable,
        "42501" => Kind::Denied,
        "3D000" | "3F000" | "42P01" | "42883" | "42703" => Kind::Schema,
        other => match &other[..2] {
            "08" | "57" => Kind::Unreachable,
            "28" => Kind::Denied,
            "40" | "53" | "55" | "58" => Kind::Transient,
            _ => Kind::Database,
        },
    }
}

/// The row that a check refused, as the server prints it: long, and no help to anybody.
fn is_row_dump(detail: &str) -> bool {
    detail.starts_with("Failing row contains")
}

fn hint_of(sqlstate: Option<&str>) -> Option<&'static str> {
    Some(match sqlstate {
        None => "is Postgres running, and does the address in DATABASE_URL or [database] url point to it?",
        Some("28P01" | "28000") => "check user and password in DATABASE_URL, and pg_hba.conf on the server",
        Some("3D000") => "create the database first, or correct its name in DATABASE_URL",
        Some("42P01" | "42883" | "42703" | "3F000") => {
            "run `reveille migrate up`, or set [database] schema to where Reveille is installed"
        }
        Some("42501") => {
            "grant the user of DATABASE_URL what it does: reveille_dispatcher for `run` and `tick`, reveille_executor \
             for `work`, reveille_operator for gates, consumers and events, reveille_reader to look"
        }
        Some("25006") => {
            "the server is read-only (a standby?): name all hosts in DATABASE_URL with target_session_attrs=read-write"
        }
        Some("26000" | "42P05") => {
            "a transaction pooler loses prepared statements: give Reveille a direct URL, or use PgBouncer 1.21 or newer with max_prepared_statements"
        }
        Some("53100") => "free disk space on the server; work goes on by itself afterwards",
        Some("53300") => {
            "raise max_connections on the server, or the limit of this user or database; or let fewer programs connect"
        }
        Some("57014") => {
            "a lock or a slow disk on the server? pg_stat_activity shows who waits for whom; [database] statement_timeout is the limit"
        }
        Some("57P01" | "57P02" | "57P03") => {
            "the server is stopping or starting; work goes on when it is back"
        }
        _ => return None,
    })
}
