//! `reveille events audit`: has every event its decision for every consumer that wanted it?

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::context::{Context, Outcome};
use super::output::table;
use super::payload;
use super::progress::{self, Progress};
use crate::error::Result;
use crate::model::refusal::Answer;
use crate::store::audit::{self, Window};
use crate::store::consumers::Since;
use crate::store::dispatch;

/// Events of the outbox that one statement looks at.
const BATCH: i32 = 5000;

/// Gaps that are named; all are counted.
const NAMED: usize = 20;

/// Prove that every fact has a decision for every consumer that wanted it; exit code 1 when one is missing
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks only at what is closed: read by dispatch, and behind the last sweep. Without --repair it changes \
                        nothing,\nand shows the same numbers.\n\n\
                        Examples:\n  reveille events audit\n  \
                        reveille events audit --domain staging --since 7days\n  \
                        reveille events audit --domain staging --since 2026-01-31T09:30:00Z --repair"
)]
pub(super) struct Args {
    /// Only this domain; without it, all
    #[arg(long)]
    domain: Option<String>,
    /// Facts from then on: a moment, or how long ago, such as 90m or 2days; without it, a day ago
    #[arg(long, value_name = "TIME", value_parser = payload::since)]
    since: Option<Since>,
    /// Facts before this moment; without it, all that is closed
    #[arg(long, value_name = "TIME", value_parser = payload::moment)]
    until: Option<Timestamp>,
    /// Dispatch what is missing, as if it had just come
    #[arg(long)]
    repair: bool,
}

/// What was found in a domain.
#[derive(Debug, Serialize)]
struct Audit {
    event_domain: String,
    events: u64,
    expected: u64,
    found: u64,
    missing: u64,
    repaired: u64,
    unproven: u64,
    closed_until: Option<Timestamp>,
    /// The first of them.
    gaps: Vec<Value>,
    /// Why nothing was repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let domains = match args.domain {
        Some(domain) => vec![domain],
        None => dispatch::domains(&client).await?,
    };
    let mut audits = Vec::new();
    let mut refusal = None;
    let mut progress = Progress::new(context.out, "events", 0);
    let mut before = 0;
    for domain in domains {
        let window = Window { domain, since: args.since, until: args.until, repair: args.repair };
        let mut audit = Audit::of(&window);
        let mut after = None;
        loop {
            let answer = match audit::window(&client, &window, BATCH, after.as_ref()).await? {
                Answer::Done(answer) => answer,
                // a domain that is paused does not hold up the others
                Answer::Refused(refused) => {
                    audit.refused = Some(refused.reason.clone());
                    refusal = Some(refused);
                    break;
                }
            };
            after = audit.add(&answer);
            let done = before + audit.events;
            progress.at(done, before + audit.about(&answer), &audit.so_far());
            if after.is_none() {
                break;
            }
        }
        before += audit.events;
        audits.push(audit);
    }
    drop(progress);
    let missing = audits.iter().any(|audit| audit.missing > 0);
    context.out.answer(&audits, || as_text(&audits))?;
    Ok(match refusal {
        Some(refusal) => Outcome::Refused(refusal),
        None if missing => Outcome::Failed,
        None => Outcome::Done,
    })
}

impl Audit {
    fn of(window: &Window) -> Self {
        Self {
            event_domain: window.domain.clone(),
            events: 0,
            expected: 0,
            found: 0,
            missing: 0,
            repaired: 0,
            unproven: 0,
            closed_until: None,
            gaps: Vec::new(),
            refused: None,
        }
    }

    /// How many events it will be, by the part of the window that was looked at.
    fn about(&self, answer: &Value) -> u64 {
        let moment = |at: &Value| at.as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let window = (moment(&answer["since"]), moment(&answer["next"]["at"]), moment(&answer["until"]));
        match window {
            (Some(since), Some(at), Some(until)) => progress::about(self.events, since, at, until),
            _ => self.events,
        }
    }

    /// For whoever waits.
    fn so_far(&self) -> String {
        format!("{}: {} missing", self.event_domain, self.missing)
    }

    /// Adds what a part answered; where the next part begins, if there is one.
    fn add(&mut self, answer: &Value) -> Option<Value> {
        let count = |key: &str| answer[key].as_u64().unwrap_or(0);
        self.events += count("events");
        self.expected += count("expected");
        self.found += count("found");
        self.missing += count("missing");
        self.repaired += count("repaired");
        self.unproven += count("unproven");
        self.closed_until = answer["closed_until"].as_str().and_then(|at| at.parse().ok());
        let room = NAMED.saturating_sub(self.gaps.len());
        self.gaps.extend(answer["gaps"].as_array().into_iter().flatten().take(room).cloned());
        answer.get("next").filter(|next| !next.is_null()).cloned()
    }
}

fn as_text(audits: &[Audit]) -> String {
    let row = |audit: &Audit| {
        let number = |n: u64| n.to_string();
        [
            audit.event_domain.clone(),
            number(audit.events),
            number(audit.expected),
            number(audit.found),
            number(audit.missing),
            number(audit.repaired),
            number(audit.unproven),
            match (&audit.refused, audit.closed_until) {
                (Some(reason), _) => format!("refused: {reason}"),
                (None, None) => "not known".to_owned(),
                (None, Some(at)) => format!("{at:.0}"),
            },
        ]
    };
    let heads = ["domain", "events", "expected", "found", "missing", "repaired", "unproven", "closed until"];
    let mut text = table(&heads, audits.iter().map(row));
    let gaps: Vec<&Value> = audits.iter().flat_map(|audit| &audit.gaps).collect();
    if !gaps.is_empty() {
        let word = |gap: &Value, key: &str| gap[key].as_str().unwrap_or_default().to_owned();
        let row =
            |gap: &&Value| ["event_id", "event_type", "created_at", "consumer_key"].map(|key| word(gap, key));
        text.push_str("\n\n");
        text.push_str(&table(
            &["event", "type", "created", "consumer without a decision"],
            gaps.iter().map(row),
        ));
    }
    let more = audits.iter().map(|audit| audit.missing - audit.gaps.len() as u64).sum::<u64>();
    if more > 0 {
        let _ = write!(text, "\nand {more} more");
    }
    let (missing, repaired) =
        audits.iter().fold((0, 0), |(m, r), audit| (m + audit.missing, r + audit.repaired));
    if missing > 0 && repaired == 0 {
        text.push_str("\n\n--repair dispatches what is missing");
    }
    text
}
