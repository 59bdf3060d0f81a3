//! A schedule as it is typed.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::output::moment;
use crate::cli::payload;
use crate::error::{Error, Result};
use crate::model::executor::ExecutorKind;
use crate::model::schedule::{Schedule, Words};
use crate::store::schedules::NewSchedule;

/// When, and what.
#[derive(Debug, clap::Args)]
pub(super) struct Definition {
    /// Five fields, minute hour day month weekday (also L, 5#3, 5L, 15W, MON, @daily)
    #[arg(long, value_name = "TEXT", requires = "time_zone")]
    cron: Option<String>,
    /// The zone of the cron text, such as Europe/Berlin or UTC
    #[arg(long, value_name = "ZONE", requires = "cron")]
    time_zone: Option<String>,
    /// An interval of whole seconds, such as 90s, 15m or 1day; counted from --starts-at
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    every: Option<i64>,
    /// Once, at this moment
    #[arg(long, value_name = "TIME", value_parser = payload::moment)]
    at: Option<Timestamp>,
    /// What becomes of ticks that are more than a minute late
    #[arg(long, value_name = "HOW", default_value = "once", requires = "when",
          value_parser = PossibleValuesParser::new(["skip", "once", "all"]))]
    missed: String,
    /// Ticks that are later than this are dropped, at least 1m; without it, none is too late
    #[arg(long, value_name = "DURATION", requires = "when", value_parser = whole_seconds)]
    missed_window: Option<i64>,
    /// No tick before this moment; without it, now
    #[arg(long, value_name = "TIME", requires = "when", value_parser = payload::moment)]
    starts_at: Option<Timestamp>,
    /// No tick at this moment or later
    #[arg(long, value_name = "TIME", requires = "when", value_parser = payload::moment)]
    ends_at: Option<Timestamp>,
    /// A small JSON object of signals for each job, or @FILE
    #[arg(long, value_name = "JSON", requires = "when")]
    payload: Option<String>,
    /// What the work starts from
    #[arg(long, value_name = "REF", requires = "when")]
    source_ref: Option<String>,
    /// What the work changes
    #[arg(long, value_name = "REF", requires = "when")]
    target_ref: Option<String>,
    /// Where the data of the work lies
    #[arg(long, value_name = "REF", requires = "when")]
    payload_ref: Option<String>,
    /// Jobs of one ordering key run one at a time, in order
    #[arg(long, value_name = "KEY", requires = "when")]
    ordering_key: Option<String>,
    /// Kind of executor that shall run them; without it, `PG_worker`
    #[arg(long, value_name = "KIND", requires = "when")]
    executor: Option<ExecutorKind>,
    /// 0 is first
    #[arg(long, value_name = "N", requires = "when", value_parser = clap::value_parser!(i32).range(0..=32767))]
    priority: Option<i32>,
    /// Failures after which a job is not tried again
    #[arg(long, value_name = "N", requires = "when", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// What it is for
    #[arg(long, value_name = "TEXT", requires = "when")]
    description: Option<String>,
}

/// A length of time for clap.
fn whole_seconds(text: &str) -> Result<i64, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let seconds = i64::try_from(length.as_secs()).map_err(|error| error.to_string())?;
    if length != Duration::from_secs(length.as_secs()) || seconds == 0 {
        return Err("write it in whole seconds, at least 1s".to_owned());
    }
    Ok(seconds)
}

impl Definition {
    /// Whether it says when.
    pub(super) fn is_given(&self) -> bool {
        self.cron.is_some() || self.every.is_some() || self.at.is_some()
    }

    /// The schedule that it describes.
    pub(super) fn of(self, key: &str, kind: &str, actor: Option<String>) -> Result<NewSchedule> {
        Ok(NewSchedule {
            schedule_key: key.to_owned(),
            job_kind: kind.to_owned(),
            actor,
            cron: self.cron,
            time_zone: self.time_zone,
            every_seconds: self.every,
            at: self.at,
            executor: self.executor,
            priority: self.priority,
            max_attempts: self.max_attempts,
            payload: payload::payload("--payload", self.payload.as_deref())?,
            source_ref: self.source_ref,
            target_ref: self.target_ref,
            payload_ref: self.payload_ref,
            ordering_key: self.ordering_key,
            missed: self.missed,
            missed_window_seconds: self.missed_window,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
            description: self.description,
        })
    }
}

/// When a new schedule would come first, were it enabled now; what cannot be understood, or never comes, is wrong usage.
pub(super) fn first_tick(new: &NewSchedule, now: Timestamp) -> Result<Timestamp> {
    let words = Words {
        cron: new.cron.clone(),
        time_zone: new.time_zone.clone(),
        every_seconds: new.every_seconds,
        at: new.at,
        starts_at: new.starts_at.unwrap_or(now),
        ends_at: new.ends_at,
        missed: new.missed.clone(),
        missed_window_seconds: new.missed_window_seconds,
    };
    let first =
        Schedule::parse(&words).and_then(|schedule| schedule.next_after(now)).map_err(Error::usage)?;
    first.ok_or_else(|| {
        let hint = match (new.at, new.ends_at) {
            (Some(at), _) => format!("its moment is {}", moment(at, now)),
            (_, Some(end)) => format!("it ends {}", moment(end, now)),
            _ => "no day is like that".to_owned(),
        };
        Error::usage(format!("{}: it would never come", new.schedule_key)).hint(hint)
    })
}

/// A schedule as it would be stored, in the columns of `v_job_schedule`.
pub(super) fn columns(new: &NewSchedule, now: Timestamp) -> Value {
    json!({
        "schedule_key": new.schedule_key,
        "state": "not stored",
        "cron": new.cron,
        "time_zone": new.time_zone,
        "every_seconds": new.every_seconds,
        "at": new.at,
        "missed": new.missed,
        "missed_window_seconds": new.missed_window_seconds,
        "job_kind": new.job_kind,
        "executor": new.executor.unwrap_or(ExecutorKind::PgWorker).as_str(),
        "priority": new.priority.unwrap_or(100),
        "max_attempts": new.max_attempts,
        "safe_payload": new.payload.clone().unwrap_or_else(|| json!({})),
        "source_ref": new.source_ref,
        "target_ref": new.target_ref,
        "payload_ref": new.payload_ref,
        "ordering_key": new.ordering_key,
        "starts_at": new.starts_at.unwrap_or(now),
        "ends_at": new.ends_at,
        "enabled": false,
        "description": new.description,
        "now": now,
    })
}
