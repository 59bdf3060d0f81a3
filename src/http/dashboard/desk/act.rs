//! What may be ordered, by whose functions it is done, and what they mean in words.

use deadpool_postgres::{GenericClient, Object};
use serde_json::Value;
use uuid::Uuid;

use crate::error::Result;
use crate::model::refusal::Answer;
use crate::store::explain::Count;
use crate::store::{dead_letters, gates, pauses};

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Pause { scope: String, name: String },
    Resume { scope: String, name: String },
    Triage { id: Uuid, status: String },
    Replay { id: Uuid },
    Gate { key: String, open: bool },
}

/// An act, with who and why.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) act: Act,
    pub(super) reason: String,
    /// The name typed at sign-in, or given by the program.
    pub(super) name: String,
}

/// What came, or would come, of an order.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// One of `would`, `done`, `refused`, `denied`, `failed`.
    pub(super) end: &'static str,
    pub(super) words: String,
    pub(super) hint: Option<String>,
    /// What the function answered.
    pub(super) answer: Value,
    /// Jobs that wait, by reason, before it; none where that cannot change or was not counted in time.
    pub(super) before: Option<Vec<Count>>,
    /// The same before and after, side by side.
    pub(super) waiting: Vec<(String, String, String)>,
}

impl Act {
    /// In the imperative, as a title.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Pause { scope, name } => format!("Pause {}", subject(scope, name)),
            Self::Resume { scope, name } => format!("Resume {}", subject(scope, name)),
            Self::Triage { id, status } => format!("Mark dead letter {id} as {}", status.replace('_', " ")),
            Self::Replay { id } => format!("Replay dead letter {id}"),
            Self::Gate { key, open: true } => format!("Open gate {key}"),
            Self::Gate { key, open: false } => format!("Close gate {key}"),
        }
    }

    /// Where its subject is shown.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Triage { id, .. } | Self::Replay { id } => format!("/dead-letters/{id}"),
            _ => "/gates".to_owned(),
        }
    }

    /// Whether jobs that wait may change their reason.
    pub(super) fn moves_the_waiting(&self) -> bool {
        !matches!(self, Self::Triage { .. } | Self::Replay { .. })
    }

    /// A name that nobody knows would stop nothing, and somebody would rely on it; only a kind of job may come to be at any
    /// time.
    pub(super) async fn unknown(&self, client: &Object) -> Result<Option<(&'static str, String)>> {
        let (field, given, known) = match self {
            Self::Pause { scope, name } if scope != "all" && scope != "job_kind" => {
                ("name", name, pauses::names(client, scope).await?)
            }
            Self::Gate { key, .. } => {
                ("key", key, gates::list(client).await?.into_iter().map(|gate| gate.key).collect())
            }
            _ => return Ok(None),
        };
        if known.iter().any(|known| known == given) {
            return Ok(None);
        }
        let meant = crate::model::spelling::guess(given, known.iter().map(String::as_str));
        let meant = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None if known.is_empty() => "there is none at all so far".to_owned(),
            None => format!("known are {}", known.join(", ")),
        };
        Ok(Some((field, format!("There is none of the name {given}; {meant}"))))
    }
}

/// A scope and its name in words.
fn subject(scope: &str, name: &str) -> String {
    if scope == "all" { "everything".to_owned() } else { format!("{} {name}", scope.replace('_', " ")) }
}

impl Order {
    /// Who it is done by, as it is recorded.
    pub(super) fn actor(&self) -> String {
        format!("dashboard:{}", self.name)
    }

    /// Calls its function; only a commit makes it so.
    pub(super) async fn call(&self, client: &impl GenericClient, apply: bool) -> Result<Answer> {
        let (actor, reason) = (self.actor(), self.reason.as_str());
        let by = Some(actor.as_str());
        match &self.act {
            Act::Pause { scope, name } => pauses::pause(client, scope, name, by, reason).await,
            Act::Resume { scope, name } => pauses::resume(client, scope, name, by, reason).await,
            Act::Triage { id, status } => dead_letters::triage(client, *id, status, by, Some(reason)).await,
            // the function records our role alone: the one who asks stands with the authorization
            Act::Replay { id } => {
                dead_letters::replay(client, *id, &format!("{reason} (by {actor})"), !apply).await
            }
            Act::Gate { key, open } => gates::set(client, key, *open, by, reason).await,
        }
    }

    /// What an answer means.
    pub(super) fn result(&self, answer: &Value, apply: bool) -> String {
        let text = |key: &str| answer[key].as_str().unwrap_or("nothing").to_owned();
        let (is, would) = if apply { ("is", "") } else { ("would be", "Dry run: ") };
        match &self.act {
            Act::Pause { scope, name } if answer["changed"] != true => {
                format!(
                    "{would}{} was paused before, by {}: {}",
                    subject(scope, name),
                    text("actor"),
                    text("reason")
                )
            }
            Act::Pause { scope, name } => {
                let known = if answer["known"] == true { "" } else { "; nothing speaks of that name so far" };
                format!("{would}{} {is} paused; what is leased may be finished{known}", subject(scope, name))
            }
            Act::Resume { scope, name } => format!("{would}{} {is} no longer paused", subject(scope, name)),
            Act::Triage { id, status } => format!("{would}dead letter {id}: {} → {status}", text("was")),
            Act::Replay { .. } => format!(
                "{would}job {} ({}) {is} queued again, with no attempts spent; it had spent {}",
                text("job_id"),
                text("job_kind"),
                answer["was_attempts"]
            ),
            Act::Gate { key, open } => {
                let state = |open: bool| if open { "open" } else { "closed" };
                let was = match answer["old_value"].as_str() {
                    Some(old) => state(old == "true"),
                    None => "not set",
                };
                format!("{would}{key} {is} {}; it was {was}", state(*open))
            }
        }
    }
}
