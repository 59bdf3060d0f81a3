//! Facts and consumers as the model sees them: what each consumer makes of each fact, written a second time.

use std::fmt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(super) const DOMAINS: [&str; 2] = ["iu", "staging"];
pub(super) const TYPES: [&str; 3] = ["record_approved", "record_cut", "changed"];
pub(super) const STREAMS: [&str; 2] = ["update", "task"];

/// An event before it has an id.
#[derive(Clone)]
pub(super) struct Fact {
    pub(super) domain: &'static str,
    pub(super) kind: &'static str,
    pub(super) stream: &'static str,
    pub(super) subject: Option<String>,
    pub(super) payload: Value,
}

/// What `consumer_registry` has of a consumer; its key is `<domain>_<slot>`.
#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) domain: &'static str,
    pub(super) slot: usize,
    pub(super) pattern: &'static str,
    pub(super) stream: Option<&'static str>,
    pub(super) filter: Filter,
    /// Terminal without a kind.
    pub(super) makes_jobs: bool,
    pub(super) key: &'static str,
    pub(super) ordering: Option<&'static str>,
    pub(super) target: Option<&'static str>,
    pub(super) executor: &'static str,
    pub(super) priority: i32,
    pub(super) enabled: bool,
    pub(super) dry_run: bool,
    pub(super) starts: Starts,
}

/// From which events on a consumer wants any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    Always,
    Now,
    Never,
}

/// A filter, and its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    None,
    AmountOver100,
    SubjectIsA,
    /// Compares things that may be missing or of another type.
    NoteStartsWithQuote,
}

/// What becomes of an event at a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not wanted, disabled, or terminal.
    Nothing,
    DryRun,
    Undigestible,
    Job(Box<Job>),
}

/// A row of `job_queue`, as far as a consumer decides it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) event: Uuid,
    pub(super) consumer: String,
    pub(super) domain: String,
    pub(super) executor: String,
    pub(super) priority: i32,
    pub(super) source: Option<String>,
    pub(super) target: Option<String>,
    pub(super) ordering: Option<String>,
    pub(super) payload: String,
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, kind, stream, subject, payload } = self;
        let (subject, payload) = (format!("{subject:?}"), payload.to_string());
        write!(f, "{domain}.{kind} {stream} {subject:.30} {payload:.60}")
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.row())
    }
}

impl Fact {
    /// More than a job may carry.
    fn is_too_large(&self) -> bool {
        self.payload.to_string().len() > 16_384
    }

    fn variable(&self, name: &str, consumer: &str, id: Uuid) -> Option<String> {
        match name {
            "consumer_key" => Some(consumer.to_owned()),
            "event_id" => Some(id.to_string()),
            "event_type" => Some(self.kind.to_owned()),
            "event_subject_ref" => self.subject.clone(),
            other => match self.payload.get(other.strip_prefix("payload.")?)? {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                value => Some(value.to_string()),
            },
        }
    }

    fn render(&self, template: &str, consumer: &str, id: Uuid) -> Option<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            text.push_str(before);
            text.push_str(&self.variable(name, consumer, id)?);
            rest = after;
        }
        text.push_str(rest);
        Some(text)
    }
}

impl Consumer {
    /// Wants everything of a domain: its jobs tell what a pass has read.
    pub(super) fn witness(domain: &'static str) -> Self {
        Self {
            domain,
            slot: 0,
            pattern: "*",
            stream: None,
            filter: Filter::None,
            makes_jobs: true,
            key: "{consumer_key}:{event_id}",
            ordering: None,
            target: None,
            executor: "PG_worker",
            priority: 100,
            enabled: true,
            dry_run: false,
            starts: Starts::Always,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{}_{}", self.domain, self.slot)
    }

    /// The argument of `fn_consumer_put`.
    pub(super) fn row(&self) -> Value {
        let starts = match self.starts {
            Starts::Always => "-infinity",
            Starts::Now => "now",
            Starts::Never => "infinity",
        };
        json!({
            "consumer_key": self.name(), "event_domain": self.domain, "event_type": self.pattern,
            "event_stream": self.stream, "filter": self.filter.path(), "job_kind": self.makes_jobs.then(|| self.name()),
            "executor": self.executor, "priority": self.priority, "target_ref": self.target,
            "idempotency_key": self.key, "ordering_key": self.ordering, "enabled": self.enabled,
            "dry_run": self.dry_run, "starts_at": starts})
    }

    /// What it makes of a fact. `is_late` tells that the fact was created after the consumer began.
    pub(super) fn outcome(&self, fact: &Fact, id: Uuid, is_late: bool) -> Outcome {
        let began = match self.starts {
            Starts::Always => true,
            Starts::Now => is_late,
            Starts::Never => false,
        };
        let wants = self.enabled
            && self.makes_jobs
            && self.domain == fact.domain
            && self.wants_type(fact.kind)
            && self.stream.is_none_or(|stream| stream == fact.stream)
            && began
            && self.filter.lets_pass(fact);
        if !wants {
            return Outcome::Nothing;
        }
        if self.dry_run {
            return Outcome::DryRun;
        }
        let consumer = self.name();
        let key = fact.render(self.key, &consumer, id).filter(|key| !key.is_empty());
        let ordering = self.ordering.map(|template| fact.render(template, &consumer, id));
        let (Some(key), false) = (key, ordering == Some(None) || fact.is_too_large()) else {
            return Outcome::Undigestible;
        };
        Outcome::Job(Box::new(Job {
            kind: consumer.clone(),
            key: stored(&key),
            event: id,
            domain: self.domain.to_owned(),
            executor: self.executor.to_owned(),
            priority: self.priority,
            source: fact.subject.clone(),
            target: self.target.and_then(|template| fact.render(template, &consumer, id)),
            ordering: ordering.flatten(),
            payload: fact.payload.to_string(),
            consumer,
        }))
    }

    fn wants_type(&self, kind: &str) -> bool {
        match self.pattern.split_once('*') {
            None => self.pattern == kind,
            Some((head, tail)) => {
                kind.len() >= head.len() + tail.len() && kind.starts_with(head) && kind.ends_with(tail)
            }
        }
    }
}

impl Filter {
    fn path(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::AmountOver100 => Some("$.payload.amount > 100"),
            Self::SubjectIsA => Some("$.event.event_subject_ref == \"a\""),
            Self::NoteStartsWithQuote => {
                Some("$.payload.note starts with \"'\" && $.event.event_type != \"changed\"")
            }
        }
    }

    fn lets_pass(self, fact: &Fact) -> bool {
        let payload = |key: &str| fact.payload.get(key);
        match self {
            Self::None => true,
            Self::AmountOver100 => {
                payload("amount").and_then(Value::as_i64).is_some_and(|amount| amount > 100)
            }
            Self::SubjectIsA => fact.subject.as_deref() == Some("a"),
            Self::NoteStartsWithQuote => {
                payload("note").and_then(Value::as_str).is_some_and(|note| note.starts_with('\''))
                    && fact.kind != "changed"
            }
        }
    }
}

/// As `fn_job_key` has it.
fn stored(key: &str) -> String {
    if key.chars().count() <= 512 {
        return key.to_owned();
    }
    let head: String = key.chars().take(400).collect();
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().fold(format!("{head}~sha256:"), |key, byte| key + &format!("{byte:02x}"))
}
