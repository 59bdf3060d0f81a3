//! `reveille schedules preview`: the next times of a schedule, and what it would make.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Preview, definition, stored, text};
use crate::cli::context::{Context, Outcome, warning};
use crate::cli::output::{self, fields, table};
use crate::error::{Error, Kind, Result};
use crate::model::schedule::{Oddity, Schedule, Words};
use crate::store::{kinds, schedules};

/// How many times are shown.
const SHOWN: usize = 5;

/// Stands for the kind of jobs while nobody has said one.
const NO_KIND: &str = "(--kind)";

/// The columns of a schedule that its jobs get.
const GIVEN: [&str; 9] = [
    "job_kind",
    "executor",
    "priority",
    "max_attempts",
    "safe_payload",
    "source_ref",
    "target_ref",
    "payload_ref",
    "ordering_key",
];

pub(super) async fn run(args: Preview, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let schedule = if args.definition.is_given() {
        let now = schedules::now(&client).await?;
        let kind = args.kind.as_deref().unwrap_or(NO_KIND);
        let new = args.definition.of(&args.key, kind, None)?;
        definition::first_tick(&new, now)?;
        definition::columns(&new, now)
    } else {
        stored(&client, &args.key).await?
    };
    let times = Times::of(&schedule)?;
    let stands_against = match schedule["job_kind"].as_str().filter(|kind| *kind != NO_KIND) {
        Some(kind) => kinds::warning(&client, kind).await?,
        None => None,
    };
    let job: Map<String, Value> =
        GIVEN.iter().map(|column| ((*column).to_owned(), schedule[*column].clone())).collect();
    let document = json!({
        "schedule_key": args.key,
        "state": schedule["state"],
        "time_zone": times.zone,
        "times": times.next,
        "oddities": times.oddities,
        "job": job,
        "warning": stands_against,
    });
    context.out.answer(&document, || {
        let mut shown =
            format!("{} ({}): {}\n\n{times}", args.key, text(&schedule, "state"), super::when(&schedule));
        shown.push_str("\n\neach makes a job:\n");
        shown.push_str(&fields(&document["job"], &GIVEN));
        shown.push_str(&warning(&document));
        shown
    })?;
    Ok(Outcome::Done)
}

/// The next times of a schedule.
pub(super) struct Times {
    now: Timestamp,
    zone: String,
    pub(super) next: Vec<Time>,
    oddities: Vec<Oddity>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Time {
    at: Timestamp,
    local: String,
    idempotency_key: String,
}

/// The columns of `v_job_schedule` that say where a schedule stands.
#[derive(Deserialize)]
struct Place {
    #[serde(flatten)]
    words: Words,
    now: Timestamp,
    enabled: bool,
    next_tick_at: Option<Timestamp>,
}

impl Times {
    /// Of a row of `v_job_schedule`, from where it stands; of one that is not enabled, from now.
    pub(super) fn of(schedule: &Value) -> Result<Self> {
        let key = text(schedule, "schedule_key");
        let place: Place = serde_json::from_value(schedule.clone()).map_err(|error| {
            Error::new(Kind::Schema, format!("schedule {key}: its row is not as expected: {error}"))
                .because(error)
        })?;
        let wrong = |why: String| {
            Error::new(Kind::Database, format!("schedule {key}: {why}"))
                .hint("`reveille schedules put` changes it")
        };
        let parsed = Schedule::parse(&place.words).map_err(wrong)?;
        let mut ticks: Vec<Timestamp> = place.next_tick_at.filter(|_| place.enabled).into_iter().collect();
        let from = ticks.first().copied().unwrap_or(place.now);
        ticks.extend(parsed.next_times(from, SHOWN - ticks.len()).map_err(wrong)?);
        let until = ticks.last().copied().unwrap_or(from);
        let zone = parsed.zone();
        let one = |at: &Timestamp| Time {
            at: *at,
            local: at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string(),
            idempotency_key: key_of(key, *at),
        };
        Ok(Self {
            now: place.now,
            zone: zone.iana_name().unwrap_or("UTC").to_owned(),
            next: ticks.iter().map(one).collect(),
            oddities: parsed.oddities(from, until).map_err(wrong)?,
        })
    }

    /// The first of them.
    pub(super) fn first_at(&self) -> Option<Timestamp> {
        self.next.first().map(|time| time.at)
    }

    /// The first of them in words.
    pub(super) fn first(&self) -> String {
        match self.next.first() {
            Some(first) => format!("next {}", output::moment(first.at, self.now)),
            None => "it will not come again".to_owned(),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.next.is_empty() {
            return f.write_str("it will not come again");
        }
        let row = |time: &Time| {
            [time.local.clone(), output::moment(time.at, self.now), time.idempotency_key.clone()]
        };
        let heading = format!("in {}", self.zone);
        f.write_str(&table(&[&heading, "in UTC", "idempotency key"], self.next.iter().map(row)))?;
        for oddity in &self.oddities {
            write!(f, "\n{}", oddity.what)?;
        }
        Ok(())
    }
}

/// The idempotency key of a tick's job, as `fn_schedule_tick` makes it.
fn key_of(schedule_key: &str, at: Timestamp) -> String {
    let fraction = if at.subsec_nanosecond() == 0 { String::new() } else { at.strftime("%.6f").to_string() };
    format!("{schedule_key}:{}{fraction}Z", at.strftime("%Y-%m-%dT%H:%M:%S"))
}
