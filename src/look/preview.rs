//! What a consumer would have done: what `reveille consumers preview` answers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::GenericClient;
use serde_json::{Value, json};

use crate::error::Result;
use crate::store::consumers::{self, Decision, Subject};
use crate::store::kinds;

/// A consumer's decisions about past events, counted.
#[derive(Debug)]
pub struct Preview {
    consumer: String,
    /// One for each event, or each recipient of one; the oldest first.
    pub decisions: Vec<Decision>,
    reasons: Vec<(String, usize)>,
    warning: Option<String>,
}

impl Preview {
    /// Counts the decisions, and looks for what stands against the consumer.
    pub async fn of(
        client: &impl GenericClient,
        subject: &Subject,
        decisions: Vec<Decision>,
    ) -> Result<Self> {
        let columns = match subject {
            Subject::Given(columns) => Some(columns.clone()),
            Subject::Stored(key) => consumers::show(client, key).await?,
        };
        let warning = kinds::warning_of_consumer(client, &columns.unwrap_or_default()).await?;
        Ok(Self { consumer: subject.to_string(), reasons: count(&decisions), decisions, warning })
    }

    /// As one JSON document.
    pub fn document(&self) -> Value {
        json!({
            "consumer_key": self.consumer,
            "events": events(&self.decisions),
            "would_enqueue": self.jobs(),
            "reasons": self.reasons.iter().cloned().collect::<BTreeMap<_, _>>(),
            "decisions": self.decisions,
            "warning": self.warning,
        })
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let (events, jobs) = (events(&self.decisions), self.jobs());
        let summary = format!("{}: {events} events, {jobs} jobs ({})", self.consumer, reasons.join(", "));
        summary.trim_end_matches(" ()").to_owned()
    }

    fn jobs(&self) -> usize {
        self.decisions.iter().filter(|decision| decision.would_enqueue).count()
    }
}

/// Events that were looked at: a consumer that fans out has several decisions about one.
fn events(decisions: &[Decision]) -> usize {
    decisions.iter().map(|decision| decision.event_id).collect::<BTreeSet<_>>().len()
}

/// How often each reason was given, the most frequent first.
fn count(decisions: &[Decision]) -> Vec<(String, usize)> {
    let mut reasons: Vec<(String, usize)> = Vec::new();
    for decision in decisions {
        match reasons.iter_mut().find(|(reason, _)| *reason == decision.reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((decision.reason.clone(), 1)),
        }
    }
    reasons.sort_by_key(|(_, count)| Reverse(*count));
    reasons
}
