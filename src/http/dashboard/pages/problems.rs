//! What somebody must look at, from the same reading as `reveille health`.

use super::super::view::{Block, Link, Problem, Section, Status};
use super::field;
use crate::model::moment::{printable, seconds};
use crate::store::gates::Gate;
use crate::store::health::Component;
use crate::store::standing;

/// The section of problems.
pub(super) fn section(components: &[Component], gates: &[Gate]) -> Section {
    let ill: Vec<Problem> = components.iter().filter(|one| one.is_ill()).map(bad).collect();
    let mut blocks = Vec::new();
    let title = match ill.len() {
        0 => "Problems now".to_owned(),
        count => format!("Problems now: {count}"),
    };
    if ill.is_empty() {
        blocks.push(Block::Calm("Nothing is silent. `reveille health` would end with 0.".to_owned()));
    } else {
        blocks.push(Block::Problems(ill));
    }
    let closed = gates.iter().filter(|gate| gate.lets_through.is_some() && !gate.open).map(closed);
    let others: Vec<Problem> = components.iter().filter_map(other).chain(closed).collect();
    if !others.is_empty() {
        blocks.push(Block::Problems(others));
    }
    Section::new("problems", title, blocks)
}

fn told(one: &Component, key: &str) -> String {
    one.detail.as_ref().map(|detail| printable(field(detail, key))).unwrap_or_default()
}

fn bad(ill: &Component) -> Problem {
    let status = Status::new(if ill.status_hint == "never" { "never" } else { "error" }, "bad");
    if standing::is_watched(ill) {
        return finding(ill, status);
    }
    let mend = match ill.component.as_str() {
        "executor" => "docs/runbooks/silent-worker.md",
        "cursor" => "docs/runbooks/events-stopped-flowing.md",
        "backlog" | "unclaimed" => "reveille work, or docs/runbooks/why-is-it-not-running.md",
        "lease" => "docs/runbooks/stale-leases.md",
        "dead_letter" => "docs/runbooks/dead-letters.md",
        _ => "docs/runbooks",
    };
    let what = standing::complaint(ill);
    Problem { status, what: printable(&what), why: None, mend: Some(mend.to_owned()), link: link(ill) }
}

fn finding(one: &Component, status: Status) -> Problem {
    let age = one.age_seconds.map(|age| format!(", for {}", seconds(age))).unwrap_or_default();
    let what = format!("{} {}: {}{age}", one.component, one.name, told(one, "what"));
    Problem {
        status,
        what: printable(&what),
        why: Some(told(one, "why")).filter(|why| !why.is_empty()),
        mend: Some(told(one, "mend")).filter(|mend| !mend.is_empty()),
        link: link(one),
    }
}

/// What does not hurt yet, or is wanted so.
fn other(one: &Component) -> Option<Problem> {
    let plain = |word: &str, what: String| Problem {
        status: Status::new(word, "warn"),
        what: printable(&what),
        why: None,
        mend: None,
        link: link(one),
    };
    match one.component.as_str() {
        _ if one.is_ill() => None,
        "pause" => Some(plain("paused", standing::paused(one).replacen("paused: ", "", 1))),
        "subscription" => Some(plain("recipients", standing::gaps(one))),
        _ if standing::is_watched(one) => Some(finding(one, Status::new("warning", "warn"))),
        "cursor" if one.name == "sweep" && one.status_hint == "warning" && one.age_seconds.is_none() => {
            let words = "no sweep has run yet: it finds the events that no trigger announced; `reveille run` sees to it";
            Some(plain("warning", words.to_owned()))
        }
        _ if one.status_hint == "warning" => {
            let age = one.age_seconds.filter(|age| *age > 0.0).map(|age| format!(", {}", seconds(age)));
            let value = one.value.map(|value| format!(", {value}")).unwrap_or_default();
            let words =
                format!("{} {}{}{value}", one.component.replace('_', " "), one.name, age.unwrap_or_default());
            Some(plain("warning", words))
        }
        _ => None,
    }
}

fn closed(gate: &Gate) -> Problem {
    Problem {
        status: Status::new("closed", "off"),
        what: printable(&format!("gate {}: {}", gate.key, gate.lets_through.as_deref().unwrap_or_default())),
        why: None,
        mend: Some(format!("reveille gate open {} --reason TEXT", printable(&gate.key))),
        link: Some(Link { to: "/gates".to_owned(), text: "Gates".to_owned() }),
    }
}

fn link(one: &Component) -> Option<Link> {
    let (to, text) = match one.component.as_str() {
        "executor" | "legacy_cursor" => ("/executors".to_owned(), "Executors"),
        "cursor" if one.name != "sweep" => {
            (super::query("/events", &[("domain", Some(&one.name))]), "Events of the domain")
        }
        "backlog" | "unclaimed" => ("/jobs?status=queued".to_owned(), "Jobs that wait"),
        "lease" => ("/jobs?status=in_progress".to_owned(), "Jobs that run"),
        "dead_letter" => ("/dead-letters".to_owned(), "Dead letters"),
        "workflow" if one.name.parse::<uuid::Uuid>().is_ok() => {
            (format!("/workflows/{}", one.name), "The workflow")
        }
        "audit" => ("/consumers".to_owned(), "Consumers"),
        "backfill" => (format!("/consumers/{}", super::encoded(&one.name)), "The consumer"),
        "pause" => ("/gates".to_owned(), "Pauses and gates"),
        _ => return None,
    };
    Some(Link { to, text: text.to_owned() })
}
