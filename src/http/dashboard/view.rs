//! What pages are made of: sections of blocks, and the one set of templates that writes them, escaped.

use std::sync::Arc;

use askama::Template;
use jiff::Timestamp;
use serde_json::Value;

use super::charts::{Bars, Histogram};
pub(super) use super::forms::{Field, Filter};
use super::forms::{Form, Typing};
use super::graph::Graph;
use crate::error::{Error, Kind, Result};
use crate::model::moment::{duration, printable};

/// Places of the navigation: address and name.
pub(super) const PLACES: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/events", "Events"),
    ("/jobs", "Jobs"),
    ("/dead-letters", "Dead letters"),
    ("/workflows", "Workflows"),
    ("/consumers", "Consumers"),
    ("/executors", "Executors"),
    ("/gates", "Gates"),
];

/// A page as it is written.
#[derive(Debug, Template)]
#[template(path = "page.html", config = "src/http/dashboard/askama.toml")]
pub(super) struct Whole<'a> {
    pub(super) page: &'a Page,
    pub(super) viewer: &'a Viewer,
}

/// Who looks.
#[derive(Debug)]
pub(super) enum Viewer {
    /// Nothing can be written here.
    NoDesk,
    Reader {
        sign_in: String,
    },
    SignedIn {
        name: String,
        csrf: String,
    },
}

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) title: String,
    /// Which of [`PLACES`] it belongs to.
    pub(super) place: &'static str,
    pub(super) lead: Option<String>,
    pub(super) sections: Arc<Vec<Section>>,
    /// What the pulse was before it was read.
    pub(super) pulse: Option<i64>,
    /// When it was read.
    pub(super) at: Timestamp,
    /// How it is kept new: `push`, `reload`, `retry`, or empty.
    pub(super) live: &'static str,
}

/// A part of a page that is replaced as a whole when it changes.
#[derive(Debug, Template)]
#[template(path = "section.html", config = "src/http/dashboard/askama.toml")]
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: String,
    /// What is shown, and what is not.
    pub(super) note: Option<String>,
    pub(super) blocks: Vec<Block>,
}

/// A block of a section.
#[derive(Debug)]
pub(super) enum Block {
    Table(Table),
    Facts(Vec<(&'static str, Cell)>),
    Problems(Vec<Problem>),
    Bars(Vec<Bars>),
    Histograms(Vec<Histogram>),
    Graph(Graph),
    Code(String),
    Note(String),
    Calm(String),
    Links(Vec<Link>),
    Filter(Filter),
    Form(Form),
    /// Links to what can be done.
    Acts(Vec<Link>),
}

/// A table; its caption is read out, its empty words stand where there are no rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) caption: &'static str,
    pub(super) headings: &'static [&'static str],
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) empty: &'static str,
}

/// A value as it is shown.
#[derive(Debug)]
pub(super) enum Cell {
    Nothing,
    Text(String),
    /// Names, ids, commands.
    Code(String),
    Number(String),
    Link(Link),
    /// A link to what can be done with the row; the last names the row for those who hear the page.
    Act(Link, String),
    Status(Status),
    Time(Moment),
}

/// Where a link goes; always a path of ours.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) to: String,
    pub(super) text: String,
}

/// A word, a shape and a colour that say the same.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) word: String,
    pub(super) tone: &'static str,
    pub(super) sign: char,
}

/// A moment for people and programs.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) iso: String,
    pub(super) shown: String,
    pub(super) age: String,
}

/// Something that somebody must know of.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: Status,
    pub(super) what: String,
    pub(super) why: Option<String>,
    /// A command, or words.
    pub(super) mend: Option<String>,
    pub(super) link: Option<Link>,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, place: &'static str, sections: Vec<Section>) -> Self {
        Self {
            title: printable(&title.into()),
            place,
            lead: None,
            sections: Arc::new(sections),
            pulse: None,
            at: Timestamp::now(),
            live: "reload",
        }
    }

    pub(super) fn lead(mut self, lead: impl Into<String>) -> Self {
        self.lead = Some(printable(&lead.into()));
        self
    }
}

impl Section {
    pub(super) fn new(id: &'static str, title: impl Into<String>, blocks: Vec<Block>) -> Self {
        Self { id, title: printable(&title.into()), note: None, blocks }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// A part that could not be read says why, and the others stand.
    pub(super) fn failed(id: &'static str, title: &'static str, error: &Error) -> Self {
        let hint = match error.kind() {
            Kind::Denied => Some("grant reveille_reader to the sidecar's login".to_owned()),
            _ => error.hint_text().map(str::to_owned),
        };
        let problem = Problem {
            status: Status::new("not readable", "warn"),
            what: printable(&error.to_string()),
            why: None,
            mend: hint,
            link: None,
        };
        Self::new(id, title, vec![Block::Problems(vec![problem])])
    }

    pub(super) fn html(&self) -> Result<String> {
        self.render().map_err(|error| Error::new(Kind::Io, format!("the page could not be written: {error}")))
    }
}

impl Cell {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        match text.as_ref() {
            "" => Self::Nothing,
            text => Self::Text(printable(text)),
        }
    }

    pub(super) fn maybe(text: Option<&str>) -> Self {
        text.map_or(Self::Nothing, Self::text)
    }

    pub(super) fn code(text: impl AsRef<str>) -> Self {
        match text.as_ref() {
            "" => Self::Nothing,
            text => Self::Code(printable(text)),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "numbers and texts, as they come")]
    pub(super) fn number(number: impl std::fmt::Display) -> Self {
        Self::Number(number.to_string())
    }

    pub(super) fn link(to: impl Into<String>, text: impl AsRef<str>) -> Self {
        Self::Link(Link { to: to.into(), text: printable(text.as_ref()) })
    }

    pub(super) fn act(to: String, words: &str, of: &str) -> Self {
        Self::Act(Link { to, text: words.to_owned() }, printable(of))
    }

    pub(super) fn status(word: &str) -> Self {
        Self::Status(Status::of(word))
    }

    pub(super) fn time(at: Option<Timestamp>) -> Self {
        at.map_or(Self::Nothing, |at| Self::Time(Moment::new(at, Timestamp::now())))
    }

    /// Any JSON value; a text that is a moment is shown as one.
    pub(super) fn json(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::String(text) => text.parse().map_or_else(|_| Self::text(text), |at| Self::time(Some(at))),
            Value::Number(number) => Self::number(number),
            Value::Bool(yes) => Self::text(if *yes { "yes" } else { "no" }),
            other => Self::code(other.to_string()),
        }
    }
}

impl Status {
    pub(super) fn new(word: impl AsRef<str>, tone: &'static str) -> Self {
        let sign = match tone {
            "good" => '✓',
            "bad" => '✗',
            "warn" => '!',
            "moving" => '▶',
            "off" => '–',
            _ => '○',
        };
        Self { word: printable(word.as_ref()).replace('_', " "), tone, sign }
    }

    /// The tone that a known word has.
    pub(super) fn of(word: &str) -> Self {
        let tone = match word {
            "succeeded" | "cleaned" | "fresh" | "open" | "enabled" | "dispatched" | "info" | "met" => "good",
            "failed" | "dead_letter" | "stale" | "never" | "error" | "partially_failed" | "permanent"
            | "critical" => "bad",
            "warning" | "retry_waiting" | "lease_lost" | "transient" | "dry run" | "attempts_exhausted" => {
                "warn"
            }
            "running" | "leased" | "in_progress" | "active" | "runs" | "ready" | "job" | "investigating" => {
                "moving"
            }
            "cancelled" | "skipped" | "closed" | "disabled" | "discarded" | "superseded" | "no_job" => "off",
            _ => "waiting",
        };
        Self::new(word, tone)
    }
}

impl Moment {
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        let distance = now.duration_since(at);
        let age = match distance {
            distance if distance.as_millis().abs() < 1000 => "now".to_owned(),
            distance if distance.is_negative() => format!("in {}", duration(distance)),
            distance => format!("{} ago", duration(distance)),
        };
        Self { iso: at.to_string(), shown: at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(), age }
    }
}
