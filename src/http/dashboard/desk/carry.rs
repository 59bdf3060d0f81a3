//! How an order is carried out: its dry run in a transaction that is taken back, the act in one that is committed.
//!
//! The numbers beside it only decorate: each count has a limit of its own, and what is late is left out.

use std::time::Duration;

use deadpool_postgres::Object;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::act::{Act, Order, Told};
use super::{Desk, ask};
use crate::error::{Error, Kind, Result};
use crate::model::refusal::{Answer, Refusal};
use crate::postgres::pool::hand_back;
use crate::store::explain::{self, Count};
use crate::store::rights;

/// Longest that jobs are counted beside an act.
pub(super) const COUNT_WITHIN: Duration = Duration::from_millis(500);
/// Longest for each of the two counts of a dry run, whose numbers are half of what it tells.
const DRY_COUNT_WITHIN: Duration = Duration::from_secs(1);
/// Left of a dry run's time for its end.
const ROLLBACK_WITHIN: Duration = Duration::from_millis(250);

/// Goes back to its pool when its work has ended; dropped in the middle of something it is closed, for whoever came next
/// would wait for an answer that nobody wants any more.
struct Lent(Option<Object>);

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.0.take().map(Object::take));
    }
}

/// Worth another try, unchanged.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unreachable | Kind::Timeout | Kind::Transient)
}

impl Desk {
    /// Works with a connection until `end`.
    async fn lent<T>(&self, end: Instant, work: impl AsyncFnOnce(&mut Object) -> Result<T>) -> Result<T> {
        let late = || {
            let what = format!("{}: no answer in time", self.server.describe());
            Error::new(Kind::Timeout, what).hint("try again in a moment")
        };
        let taken = timeout_at(end, self.server.take(&self.pool)).await.map_err(|_| late())?;
        let mut lent = Lent(Some(taken?));
        let Some(client) = lent.0.as_mut() else { return Err(late()) };
        let outcome = timeout_at(end, work(client)).await.map_err(|_| late())?;
        match lent.0.take() {
            Some(client) => hand_back(client, outcome),
            None => outcome,
        }
    }

    /// The field that names what is not there.
    pub(super) async fn unknown(&self, act: &Act, end: Instant) -> Result<Option<ask::Fault>> {
        self.lent(end, async |client| act.unknown(client).await).await
    }

    /// Jobs that wait, by reason; none where that cannot change, may not be read, or takes until `end`.
    pub(super) async fn counts(&self, act: &Act, end: Instant) -> Option<Vec<Count>> {
        if !act.moves_the_waiting() {
            return None;
        }
        self.lent(end, async |client| explain::counts(client, "job").await).await.ok()
    }

    /// What would come of an order. An error that passes is one: there is nothing to confirm then.
    pub(super) async fn dry_run(&self, order: &Order, end: Instant) -> Result<Told> {
        let before = self.counts(&order.act, end.min(Instant::now() + DRY_COUNT_WITHIN)).await;
        match self.lent(end, async |client| order.try_out(client, end).await).await {
            Ok((answer, after)) => {
                let told = self.told(order, answer, false, end).await;
                Ok(Told { before, ..told }.beside(after.as_deref()))
            }
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => Ok(self.failed(order, false, &error, end).await),
        }
    }

    /// Does it.
    pub(super) async fn act(&self, order: &Order, end: Instant) -> Told {
        let mut is_sent = false;
        match self.lent(end, async |client| order.commit(client, &mut is_sent).await).await {
            Ok(answer) => self.told(order, answer, true, end).await,
            Err(error) => self.failed(order, is_sent && is_passing(&error), &error, end).await,
        }
    }

    async fn told(&self, order: &Order, answer: Answer, apply: bool, end: Instant) -> Told {
        match answer {
            Answer::Done(answer) => {
                let end = if apply { "done" } else { "would" };
                let words = order.result(&answer, apply);
                Told { end, words, answer, ..Told::default() }
            }
            Answer::Refused(refusal) => self.refused(order, refusal, end).await,
        }
    }

    async fn refused(&self, order: &Order, refusal: Refusal, end: Instant) -> Told {
        let mut hint = refusal.hint();
        if refusal.reason == "not_authorized" {
            let domain = refusal.answer["event_domain"].as_str().unwrap_or("DOMAIN").to_owned();
            let may_replay = matches!(order.act, Act::Replay { .. });
            let login = self.login(end).await.replace('\'', "''");
            hint = Some(format!(
                "the sidecar's login {login} lacks the right for this domain. As an operator: \
                 select fn_dead_letter_authority_set('{domain}', '{login}', true, {may_replay}, 'YOU', 'WHY')"
            ));
        }
        let what = match (refusal.reason.as_str(), &order.act) {
            ("not_found", Act::Resume { .. }) => "it is not paused",
            (reason, _) => reason,
        };
        let words = format!("Refused: {}. Nothing was changed.", what.replace('_', " "));
        Told { end: "refused", words, hint, answer: refusal.answer, ..Told::default() }
    }

    /// `is_sent`: the commit was sent, and its answer did not come.
    async fn failed(&self, order: &Order, is_sent: bool, error: &Error, end: Instant) -> Told {
        let what = order.act.words();
        let (told, words, hint) = match error.kind() {
            Kind::Denied => {
                let login = self.login(end).await.replace('"', "\"\"");
                let role = "The sidecar's login may not do that. Nothing was changed.".to_owned();
                ("denied", role, Some(format!("grant reveille_operator to \"{login}\"")))
            }
            _ if is_sent => {
                let words = format!("It is not known whether it was done: {what}");
                ("failed", words, Some("look at the page of it before you try again".to_owned()))
            }
            _ => ("failed", format!("Nothing was changed: {what}"), error.hint_text().map(str::to_owned)),
        };
        let answer = Value::String(error.to_string());
        Told { end: told, words, hint, answer, ..Told::default() }
    }

    async fn login(&self, end: Instant) -> String {
        let login = self.lent(end, async |client| rights::login(client).await).await;
        login.unwrap_or_else(|_| "LOGIN".to_owned())
    }
}

impl Order {
    /// Calls its function and takes that back; counts in between, as far as the time goes.
    async fn try_out(&self, client: &mut Object, end: Instant) -> Result<(Answer, Option<Vec<Count>>)> {
        let work =
            client.transaction().await.map_err(|error| Error::postgres("beginning a transaction", error))?;
        let answer = self.call(&work, false).await?;
        let rest = end.saturating_duration_since(Instant::now()).saturating_sub(ROLLBACK_WITHIN);
        let within = rest.min(DRY_COUNT_WITHIN);
        let counted = self.act.moves_the_waiting() && !within.is_zero();
        // the server ends a late count: the answer stands, and the connection serves the next
        let after = if counted { explain::counts_within(&work, "job", within).await.ok() } else { None };
        work.rollback().await.map_err(|error| Error::postgres("ending the transaction", error))?;
        Ok((answer, after))
    }

    /// Calls its function and keeps what it did; `is_sent` is true from the moment when that may have happened.
    async fn commit(&self, client: &mut Object, is_sent: &mut bool) -> Result<Answer> {
        let work =
            client.transaction().await.map_err(|error| Error::postgres("beginning a transaction", error))?;
        let answer = self.call(&work, true).await?;
        *is_sent = matches!(answer, Answer::Done(_));
        let ended = if *is_sent { work.commit().await } else { work.rollback().await };
        ended.map_err(|error| Error::postgres("ending the transaction", error))?;
        Ok(answer)
    }
}

impl Told {
    /// Nothing came of it.
    pub(super) fn nothing(why: &str) -> Self {
        let words = format!("Nothing was changed: {why}.");
        Self { end: "failed", words, hint: Some("try again in a moment".to_owned()), ..Self::default() }
    }

    /// With the numbers after it, where both were counted.
    pub(super) fn beside(mut self, after: Option<&[Count]>) -> Self {
        if let (Some(before), Some(after)) = (&self.before, after) {
            self.waiting = side_by_side(before, after);
        }
        self
    }

    /// Whether it says something else than an earlier dry run of the same order.
    pub(super) fn differs(&self, earlier: &Self) -> bool {
        // the answers hold moments, which always differ; the words say all that counts
        (self.end, &self.words, &self.hint) != (earlier.end, &earlier.words, &earlier.hint)
    }
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
