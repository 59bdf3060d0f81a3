//! `reveille events audit`: has every event its decision for every consumer that wanted it?

use std::fmt::Write as _;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::context::{Context, Outcome};
use super::output::table;
use super::payload;
use super::progress::{self, Progress};
use super::signals::Signals;
use super::tries::tried;
use crate::error::Result;
use crate::model::refusal::{Answer, remedy};
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
#[derive(Debug, Default, Serialize)]
struct Audit {
    event_domain: String,
    /// Whether any part of it was.
    #[serde(skip)]
    looked_at: bool,
    events: u64,
    expected: u64,
    found: u64,
    missing: u64,
    repaired: u64,
    unproven: u64,
    closed_until: Option<Timestamp>,
    /// It began only here: keys of jobs of older facts are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten_until: Option<Timestamp>,
    /// It ended here, before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<Timestamp>,
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
    let count = domains.len();
    let mut signals = Signals::new()?;
    let mut audits = Vec::new();
    let mut progress = Progress::new(context.out, "events", 0);
    let mut before = 0;
    let mut end = Ok(true);
    for domain in domains {
        let window = Window { domain, since: args.since, until: args.until, repair: args.repair };
        let mut audit = Audit { event_domain: window.domain.clone(), ..Audit::default() };
        end = audit
            .look(&client, &window, &mut signals, |audit, about| {
                progress.at(before + audit.events, before + about, &audit.so_far());
            })
            .await;
        before += audit.events;
        if audit.looked_at {
            audits.push(audit);
        }
        if !matches!(end, Ok(true)) {
            break;
        }
    }
    drop(progress);
    // what was repaired before an error, is: whoever asked is told
    if end.is_ok() || !audits.is_empty() {
        context.out.answer(&audits, || as_text(&audits, args.repair))?;
    }
    let whole = end? || audits.len() == count && audits.iter().all(|audit| audit.stopped_at.is_none());
    if !whole {
        context.out.line("\nstopped before all was looked at")?;
    }
    Ok(if audits.iter().any(|audit| audit.refused.is_some()) {
        Outcome::PartRefused
    } else if !whole || audits.iter().any(|audit| audit.missing > 0) {
        Outcome::Failed
    } else {
        Outcome::Done
    })
}

impl Audit {
    /// Looks at a window, part by part, and tells after each how many events it will be; whether the next domain may follow.
    async fn look(
        &mut self,
        client: &impl GenericClient,
        window: &Window,
        signals: &mut Signals,
        mut tell: impl FnMut(&Self, u64),
    ) -> Result<bool> {
        let mut after: Option<Value> = None;
        loop {
            let part = tried(async || audit::window(client, window, BATCH, after.as_ref()).await);
            let part = signals.let_finish(part).await;
            let (answer, stopped) = match part {
                Some((Ok(answer), stopped)) => (answer, stopped),
                Some((Err(error), _)) => return Err(error),
                None => return Ok(false),
            };
            self.looked_at = true;
            match answer {
                Answer::Done(answer) => {
                    after = self.add(&answer);
                    tell(self, self.about(&answer));
                }
                // a domain that is paused does not hold up the others
                Answer::Refused(refusal) => {
                    self.refused = Some(refusal.reason);
                    after = None;
                }
            }
            // as long as another part is to come, it may be the last
            self.stopped_at = after.as_ref().and_then(|after| moment(&after["at"]));
            if after.is_none() || stopped {
                return Ok(!stopped);
            }
        }
    }

    /// How many events it will be, by the part of the window that was looked at.
    fn about(&self, answer: &Value) -> u64 {
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
        self.closed_until = moment(&answer["closed_until"]);
        self.forgotten_until =
            moment(&answer["forgotten_until"]).filter(|until| moment(&answer["since"]) == Some(*until));
        let room = NAMED.saturating_sub(self.gaps.len());
        self.gaps.extend(answer["gaps"].as_array().into_iter().flatten().take(room).cloned());
        answer.get("next").filter(|next| !next.is_null()).cloned()
    }
}

fn moment(at: &Value) -> Option<Timestamp> {
    at.as_str().and_then(|at| at.parse().ok())
}

fn as_text(audits: &[Audit], repair: bool) -> String {
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
            match (&audit.refused, audit.stopped_at, audit.closed_until) {
                (Some(reason), ..) => format!("refused: {reason}"),
                (None, Some(at), _) => format!("stopped at {at:.0}"),
                (None, None, Some(at)) => format!("{at:.0}"),
                (None, None, None) => "not known".to_owned(),
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
    if missing > 0 && !repair {
        text.push_str("\n\n--repair dispatches what is missing");
    } else if missing > repaired {
        text.push_str(
            "\n\nwhat was not repaired has its decision by now, or is not wanted any more, or waits until its consumer is enabled \
             and not in its dry run",
        );
    }
    if let Some(until) = audits.iter().filter_map(|audit| audit.forgotten_until).max() {
        let _ = write!(
            text,
            "\n\nnothing is said of facts before {until:.0}: keys of their jobs went with months of the archive"
        );
    }
    let mut reasons: Vec<&str> = audits.iter().filter_map(|audit| audit.refused.as_deref()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for (reason, remedy) in reasons.iter().filter_map(|reason| Some((reason, remedy(reason)?))) {
        let _ = write!(text, "\n\n{reason}: {remedy}");
    }
    text
}
