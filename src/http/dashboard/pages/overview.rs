//! `/`: problems now, then flow, wake-ups, what waits, and who is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use deadpool_postgres::Object;

use super::super::charts::{Bars, Histogram};
use super::super::view::{Block, Cell, Page, Section, Table};
use super::super::{Dashboard, trouble, write};
use super::{executors, problems};
use crate::error::{Error, Kind, Result};
use crate::store::explain::{self, Count};
use crate::store::flow::{self, BOUNDS, Ended, Ends, Latency, MEASURED, MOST_JOBS, MOST_PASSES, Passed};
use crate::store::gates::{self, Gate};
use crate::store::health::Component;
use crate::store::standing;

/// What the first page shows. A part that this login may not read is an error of its own.
#[derive(Debug)]
pub(in super::super) struct Reading {
    standing: Vec<Component>,
    gates: Vec<Gate>,
    passed: Result<Vec<Passed>>,
    ended: Result<Ends>,
    running: Result<Vec<(Option<String>, i64)>>,
    latencies: Result<Vec<Latency>>,
    reasons: Result<Vec<Count>>,
}

/// Where jobs are shown that have no domain.
const NO_DOMAIN: &str = "without a domain";

/// What happened in one domain, by minutes ago.
struct Domain {
    events: [i64; 60],
    jobs: [i64; 60],
    done: [i64; 60],
    failed: [i64; 60],
    running: i64,
}

pub(in super::super) async fn page(State(dashboard): State<Arc<Dashboard>>) -> Response {
    let Some(read) = dashboard.board.now().await else {
        return trouble(&Error::new(Kind::Timeout, "the database has not answered in time"));
    };
    match &read.outcome {
        Ok(_) => {
            let page = Page {
                sections: Arc::clone(&read.sections),
                live: "push",
                at: read.at,
                ..Page::new("Overview", "/", Vec::new())
            };
            write(StatusCode::OK, page)
        }
        Err(error) => trouble(error),
    }
}

impl Reading {
    /// Reads everything, one after the other on one connection.
    pub(in super::super) async fn read(client: &Object) -> Result<Self> {
        Ok(Self {
            standing: standing::read(client).await?,
            gates: gates::list(client).await?,
            passed: lasting(flow::passed(client).await)?,
            ended: lasting(flow::ended(client).await)?,
            running: lasting(flow::running(client).await)?,
            latencies: lasting(flow::latencies(client).await)?,
            reasons: lasting(explain::counts(client, "job").await)?,
        })
    }

    pub(in super::super) fn sections(&self) -> Vec<Section> {
        vec![
            problems::section(&self.standing, &self.gates),
            self.flow(),
            self.wake_ups(),
            self.waiting(),
            executors::section(&self.standing, None),
        ]
    }

    fn flow(&self) -> Section {
        let (passed, ended, running) = match (&self.passed, &self.ended, &self.running) {
            (Ok(passed), Ok(ended), Ok(running)) => (passed, ended, running),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                return Section::failed("flow", "Flow", error);
            }
        };
        // jobs that are older may have ended, and nobody has looked at them
        let is_unknown = ended.is_part() && ended.ended.is_empty();
        let domains = domains(passed, &ended.ended, running);
        let mut blocks: Vec<Block> =
            domains.iter().flat_map(|(name, domain)| drawn(name, domain, !is_unknown)).collect();
        if is_unknown {
            blocks.push(Block::Note(format!(
                "Done and failed are not known: the newest {MOST_JOBS} jobs are all younger than what ended."
            )));
        } else if domains.is_empty() {
            blocks.push(Block::Note(
                "No event was read and no job ended in the last hour, and none runs.".to_owned(),
            ));
        }
        let mut note = "The last hour by minute, from what the database keeps, so a restart loses nothing. Running counts leases.".to_owned();
        if passed.iter().any(|one| one.looked >= MOST_PASSES) {
            let since = passed.iter().filter(|one| one.looked >= MOST_PASSES).map(|one| one.oldest).max();
            let since = since.map(|at| at.strftime("%H:%M:%S").to_string()).unwrap_or_default();
            let _ = write!(
                note,
                " Events and jobs made: only since {since}, the newest {MOST_PASSES} passes of a domain."
            );
        }
        if let Some(oldest) = ended.oldest.filter(|_| ended.is_part() && !is_unknown) {
            let since = oldest.strftime("%H:%M:%S");
            let _ = write!(note, " Done and failed: of the newest {MOST_JOBS} jobs, made since {since}.");
        }
        Section::new("flow", "Flow of the last hour", blocks).note(note)
    }

    fn wake_ups(&self) -> Section {
        let (passed, latencies) = match (&self.passed, &self.latencies) {
            (Ok(passed), Ok(latencies)) => (passed, latencies),
            (Err(error), _) | (_, Err(error)) => return Section::failed("wake-ups", "Wake-ups", error),
        };
        let mut found: BTreeMap<&str, i64> =
            ["notify", "poll", "look", "start"].into_iter().map(|by| (by, 0)).collect();
        for one in passed {
            *found.entry(&one.found_by).or_default() += one.events;
        }
        let missing = self.standing.iter().find(|one| one.component == "cursor" && one.name == "sweep");
        let swept = missing.and_then(|sweep| sweep.age_seconds).map(crate::model::moment::seconds);
        let words = |by: &str| match by {
            "notify" => "NOTIFY".to_owned(),
            "poll" => "poll (timer)".to_owned(),
            "look" => "look (awake)".to_owned(),
            other => other.to_owned(),
        };
        let of = |way: &str| {
            latencies
                .iter()
                .filter(|one| one.way == way)
                .map(|one| (one.bucket, one.jobs))
                .collect::<Vec<_>>()
        };
        let charts = vec![
            Histogram::of_latency("From event to job", &BOUNDS, of("event_to_job")),
            Histogram::of_latency("From job to its first claim", &BOUNDS, of("job_to_claim")),
            Histogram::new(
                "Events by what found them",
                found.into_iter().map(|(by, count)| (words(by), count)).collect(),
            ),
        ];
        let swept = swept.map_or_else(
            || "No sweep has run yet.".to_owned(),
            |age| format!("Proven by sweep up to {age} ago."),
        );
        let note = format!(
            "Latencies are of the newest {MEASURED} jobs; an event counts from the begin of its transaction. {swept}"
        );
        Section::new("wake-ups", "Wake-ups", vec![Block::Histograms(charts)]).note(note)
    }

    fn waiting(&self) -> Section {
        let reasons = match &self.reasons {
            Ok(reasons) => reasons,
            Err(error) => return Section::failed("waiting", "What waits", error),
        };
        let row = |one: &Count| {
            vec![
                Cell::text(one.reason.replace('_', " ")),
                Cell::number(format!("{}{}", one.count, if one.more { "+" } else { "" })),
                Cell::time(one.oldest_at),
            ]
        };
        let table = Table {
            caption: "Waiting jobs by reason",
            headings: &["Reason", "Jobs", "Oldest"],
            rows: reasons.iter().map(row).collect(),
            empty: "No job waits.",
        };
        Section::new("waiting", "What waits, and why", vec![Block::Table(table)])
            .note("As `reveille jobs explain` counts; a + means more than were counted.")
    }
}

/// What this login may not read is left out; anything else ends the reading.
fn lasting<T>(read: Result<T>) -> Result<Result<T>> {
    match read {
        Err(error) if error.kind() != Kind::Denied => Err(error),
        other => Ok(other),
    }
}

fn domains(
    passed: &[Passed],
    ended: &[Ended],
    running: &[(Option<String>, i64)],
) -> BTreeMap<String, Domain> {
    fn of<'a>(all: &'a mut BTreeMap<String, Domain>, name: Option<&str>) -> &'a mut Domain {
        let empty = || Domain { events: [0; 60], jobs: [0; 60], done: [0; 60], failed: [0; 60], running: 0 };
        all.entry(name.unwrap_or(NO_DOMAIN).to_owned()).or_insert_with(empty)
    }
    let minute = |ago: i32| usize::try_from(ago).ok().filter(|ago| *ago < 60);
    let mut all = BTreeMap::new();
    for one in passed {
        let Some(ago) = minute(one.ago) else { continue };
        let domain = of(&mut all, Some(&one.domain));
        domain.events[ago] += one.events;
        domain.jobs[ago] += one.jobs;
    }
    for one in ended {
        let Some(ago) = minute(one.ago) else { continue };
        let domain = of(&mut all, one.domain.as_deref());
        domain.done[ago] += one.done;
        domain.failed[ago] += one.failed;
    }
    for (name, count) in running {
        of(&mut all, name.as_deref()).running += count;
    }
    all
}

fn drawn(name: &str, domain: &Domain, with_ends: bool) -> [Block; 2] {
    let of_domain = match name {
        NO_DOMAIN => Cell::text(name),
        name => Cell::link(super::query("/jobs", &[("domain", Some(name))]), name),
    };
    let facts = vec![("Domain", of_domain), ("Running now", Cell::number(domain.running))];
    let mut charts =
        vec![Bars::new("Events in", "plain", &domain.events), Bars::new("Jobs made", "plain", &domain.jobs)];
    if with_ends {
        charts.push(Bars::new("Done", "good", &domain.done));
        charts.push(Bars::new("Failed", "bad", &domain.failed));
    }
    [Block::Facts(facts), Block::Bars(charts)]
}
