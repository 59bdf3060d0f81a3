//! What one pass of the dispatcher did, and what made it look.

use serde::Serialize;
use serde_json::Value;

/// What made the dispatcher look. Stored with every pass and counted in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FoundBy {
    /// A NOTIFY of a producer.
    Notify,
    /// The dispatcher was awake and looked by itself.
    Look,
    /// The timer.
    Poll,
    /// Start, or a reconnected listener: notifications may have been missed.
    Start,
    /// Consumers or gates changed.
    Control,
    /// The one-shot command.
    Tick,
}

impl FoundBy {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Notify, Self::Look, Self::Poll, Self::Start, Self::Control, Self::Tick];

    /// The word as the database and the metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Look => "look",
            Self::Poll => "poll",
            Self::Start => "start",
            Self::Control => "control",
            Self::Tick => "tick",
        }
    }
}

/// Counts of one pass, or of several added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Events read.
    pub events: u64,
    /// Jobs made.
    pub jobs: u64,
    /// Jobs that existed already.
    pub duplicates: u64,
    /// Events that a dry-run consumer wanted.
    pub dry: u64,
    /// (event, consumer) pairs that went to `dispatch_error`.
    pub errors: u64,
    /// (event, consumer) pairs without a recipient, of consumers that make one job for each.
    pub no_recipient: u64,
    /// Whether the pass ended because its batch was full.
    #[serde(skip)]
    pub more: bool,
    /// Another sidecar holds the domain; nothing was read.
    #[serde(skip)]
    pub busy: bool,
}

impl Pass {
    /// Reads the answer of `fn_consumer_dispatch_batch`.
    pub fn from_json(answer: &Value) -> Self {
        let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        let flag = |key: &str| answer.get(key).and_then(Value::as_bool).unwrap_or(false);
        Self {
            events: count("events"),
            jobs: count("jobs"),
            duplicates: count("duplicates"),
            dry: count("dry"),
            errors: count("errors"),
            no_recipient: count("no_recipient"),
            more: flag("more"),
            busy: flag("busy"),
        }
    }

    /// Adds the counts of another pass and takes over its flags.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.jobs += other.jobs;
        self.duplicates += other.duplicates;
        self.dry += other.dry;
        self.errors += other.errors;
        self.no_recipient += other.no_recipient;
        self.more = other.more;
        self.busy = other.busy;
    }
}
