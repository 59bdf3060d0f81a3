//! What may be ordered, and how it is carried out: by the functions that the commands call, the dry run in a transaction
//! that is taken back.

use deadpool_postgres::{GenericClient, Object};
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::store::explain::{self, Count};
use crate::store::{dead_letters, gates, pauses, rights};

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
    /// Jobs that wait, by reason, before and after; where that can change.
    pub(super) waiting: Vec<(String, String, String)>,
}

impl Told {
    /// The database did not answer in time.
    pub(super) fn late(apply: bool) -> Self {
        let (words, hint) = if apply {
            (
                "The database did not answer in time. It is not known whether it was done.",
                "look at the page of it before you try again",
            )
        } else {
            ("The database did not answer in time. Nothing was changed.", "try again in a moment")
        };
        Self { end: "failed", words: words.to_owned(), hint: Some(hint.to_owned()), ..Self::default() }
    }
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
    fn moves_the_waiting(&self) -> bool {
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

    /// Does it, or only finds out what would come of it.
    pub(super) async fn carry(&self, client: &mut Object, apply: bool) -> Told {
        match self.try_carry(client, apply).await {
            Ok(told) => told,
            Err(error) => self.failed(client, apply, &error).await,
        }
    }

    async fn try_carry(&self, client: &mut Object, apply: bool) -> Result<Told> {
        let before = self.waiting(client).await;
        let begun = client.transaction().await;
        let work = begun.map_err(|error| Error::postgres("beginning a transaction", error))?;
        let answer = self.call(&work, apply).await?;
        let is_done = apply && matches!(answer, Answer::Done(_));
        let (ended, after) = if is_done {
            (work.commit().await, None)
        } else {
            let after = self.waiting(&work).await; // seen from within
            (work.rollback().await, after)
        };
        ended.map_err(|error| Error::postgres("ending the transaction", error))?;
        let after = if is_done { self.waiting(client).await } else { after };
        let mut told = self.told(answer, apply, client).await;
        told.waiting = side_by_side(&before.unwrap_or_default(), &after.unwrap_or_default());
        Ok(told)
    }

    /// None where it does not matter, or may not be read.
    async fn waiting(&self, client: &impl GenericClient) -> Option<Vec<Count>> {
        if self.act.moves_the_waiting() { explain::counts(client, "job").await.ok() } else { None }
    }

    async fn call(&self, client: &impl GenericClient, apply: bool) -> Result<Answer> {
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

    async fn told(&self, answer: Answer, apply: bool, client: &Object) -> Told {
        match answer {
            Answer::Done(answer) => {
                let end = if apply { "done" } else { "would" };
                let words = self.result(&answer, apply);
                Told { end, words, answer, ..Told::default() }
            }
            Answer::Refused(refusal) => {
                let mut hint = refusal.hint();
                if refusal.reason == "not_authorized" {
                    let domain = refusal.answer["event_domain"].as_str().unwrap_or("DOMAIN").to_owned();
                    let may_replay = matches!(self.act, Act::Replay { .. });
                    let login = login(client).await.replace('\'', "''");
                    hint = Some(format!(
                        "the sidecar's login {login} lacks the right for this domain. As an operator: \
                         select fn_dead_letter_authority_set('{domain}', '{login}', true, {may_replay}, 'YOU', 'WHY')"
                    ));
                }
                let what = match (refusal.reason.as_str(), &self.act) {
                    ("not_found", Act::Resume { .. }) => "it is not paused",
                    (reason, _) => reason,
                };
                let words = format!("Refused: {}. Nothing was changed.", what.replace('_', " "));
                Told { end: "refused", words, hint, answer: refusal.answer, ..Told::default() }
            }
        }
    }

    /// What an answer means.
    fn result(&self, answer: &Value, apply: bool) -> String {
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

    async fn failed(&self, client: &Object, apply: bool, error: &Error) -> Told {
        let what = self.act.words();
        let (end, words, hint) = match error.kind() {
            Kind::Denied => {
                let login = login(client).await.replace('"', "\"\"");
                let role = "The sidecar's login may not do that. Nothing was changed.".to_owned();
                ("denied", role, Some(format!("grant reveille_operator to \"{login}\"")))
            }
            Kind::Unreachable | Kind::Timeout | Kind::Transient if apply => {
                let words = format!("It is not known whether it was done: {what}");
                ("failed", words, Some("look at the page of it before you try again".to_owned()))
            }
            _ => ("failed", format!("Nothing was changed: {what}"), error.hint_text().map(str::to_owned)),
        };
        let answer = Value::String(error.to_string());
        Told { end, words, hint, answer, ..Told::default() }
    }
}

async fn login(client: &Object) -> String {
    rights::login(client).await.unwrap_or_else(|_| "LOGIN".to_owned())
}

/// The reasons of both, each with its number before and after.
fn side_by_side(before: &[Count], after: &[Count]) -> Vec<(String, String, String)> {
    let number = |one: Option<&Count>| {
        one.map_or_else(|| "0".to_owned(), |one| format!("{}{}", one.count, if one.more { "+" } else { "" }))
    };
    let find = |all: &[Count], reason: &str| number(all.iter().find(|one| one.reason == reason));
    let mut reasons: Vec<&String> = before.iter().chain(after).map(|one| &one.reason).collect();
    reasons.sort();
    reasons.dedup();
    reasons.into_iter().map(|reason| (reason.clone(), find(before, reason), find(after, reason))).collect()
}
