//! `job_queue` as a worker sees it: claim, start, renew, succeed, fail, release, run; and what job kinds need.
//!
//! Functions over many jobs take them sorted by id (see [`Leases`]): every statement then locks rows in one order
//! (trap 17).

use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::{Error, Result};
use crate::model::job::Job;
use crate::model::refusal::Answer;

/// What a claim asks for.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The registered name to claim under.
    pub executor_name: &'a str,
    /// Most jobs to lease.
    pub limit: usize,
    /// Length of the lease; none leaves it to the database's own key.
    pub lease: Option<Duration>,
    /// Kinds to claim.
    pub job_kinds: &'a [String],
    /// Channel and token of the listener's canary, when one is due.
    pub canary: Option<(&'a str, &'a str)>,
}

/// What a claim gave.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs, the most urgent first.
    pub jobs: Vec<Job>,
    /// How long their leases last from the claim on, by the database's clock.
    pub lease: Duration,
    /// Why nothing was given, when a gate or a rule said no.
    pub refused: Option<String>,
}

/// Leases jobs. The canary travels along and costs no statement of its own.
pub async fn claim(client: &impl GenericClient, claim: &Claim<'_>) -> Result<Claimed> {
    // the left side always gives its row, so the canary is sent also when there is nothing to claim
    const SQL: &str = "
        select c.refused, c.reason, c.job_id, c.job_kind, c.lease_token, c.lease_until, c.attempts, c.max_attempts,
               c.event_domain, c.source_ref, c.target_ref, c.payload_ref, c.safe_payload, c.priority, c.scheduled_at,
               c.idempotency_key, c.ordering_key, c.actor, c.run_id, c.workflow_id, c.causation_event_id,
               c.consumer_key, c.correlation_id, c.traceparent, c.created_at, n.now
        from (select clock_timestamp() as now, case when $5::text is not null then pg_notify($5, $6) end as canary) n
        left join fn_job_claim(
          p_executor_name => $1, p_limit => $2, p_lease_seconds => $3, p_job_kinds => $4) c on true";
    let limit = i32::try_from(claim.limit).unwrap_or(i32::MAX);
    let (channel, token) = claim.canary.unzip();
    let found = rows(
        client,
        "claiming jobs",
        SQL,
        &[&claim.executor_name, &limit, &seconds(claim.lease), &claim.job_kinds, &channel, &token],
    )
    .await?;
    let mut claimed = Claimed::default();
    for row in &found {
        match at::<Option<bool>>(row, 0)? {
            None => {}
            Some(true) => claimed.refused = at(row, 1)?,
            Some(false) => claimed.jobs.push(job(row)?),
        }
    }
    if let (Some(first), Some(row)) = (claimed.jobs.first(), found.first()) {
        claimed.lease = left(first.lease_until, at(row, 25)?);
    }
    Ok(claimed)
}

/// Columns by place: a search by name for each of them would cost more than the rest of a claim.
fn job(row: &Row) -> Result<Job> {
    Ok(Job {
        job_id: at(row, 2)?,
        job_kind: at(row, 3)?,
        lease_token: at(row, 4)?,
        lease_until: at(row, 5)?,
        attempts: at(row, 6)?,
        max_attempts: at(row, 7)?,
        event_domain: at(row, 8)?,
        source_ref: at(row, 9)?,
        target_ref: at(row, 10)?,
        payload_ref: at(row, 11)?,
        safe_payload: at(row, 12)?,
        priority: at(row, 13)?,
        scheduled_at: at(row, 14)?,
        idempotency_key: at(row, 15)?,
        ordering_key: at(row, 16)?,
        actor: at(row, 17)?,
        run_id: at(row, 18)?,
        workflow_id: at(row, 19)?,
        causation_event_id: at(row, 20)?,
        consumer_key: at(row, 21)?,
        correlation_id: at(row, 22)?,
        traceparent: at(row, 23)?,
        created_at: at(row, 24)?,
    })
}

fn at<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T> {
    row.try_get(place).map_err(|error| Error::postgres("reading a claimed job", error))
}

fn seconds(lease: Option<Duration>) -> Option<i32> {
    lease.map(|lease| i32::try_from(lease.as_secs().max(1)).unwrap_or(i32::MAX))
}

fn left(until: Timestamp, now: Timestamp) -> Duration {
    until.duration_since(now).try_into().unwrap_or_default()
}

/// Jobs with the tokens of their leases, sorted by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    ids: Vec<Uuid>,
    tokens: Vec<i64>,
}

impl FromIterator<(Uuid, i64)> for Leases {
    fn from_iter<I: IntoIterator<Item = (Uuid, i64)>>(leases: I) -> Self {
        let mut leases: Vec<(Uuid, i64)> = leases.into_iter().collect();
        leases.sort_unstable();
        let (ids, tokens) = leases.into_iter().unzip();
        Self { ids, tokens }
    }
}

impl Leases {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// One answer for each job.
pub type Answers = Vec<(Uuid, Answer)>;

fn answers(found: &[Row]) -> Result<Answers> {
    found.iter().map(|row| Ok((get(row, "job_id")?, Answer::from_json(get(row, "answer")?)))).collect()
}

/// Says that jobs are in progress.
pub async fn start(client: &impl GenericClient, leases: &Leases) -> Result<Answers> {
    const SQL: &str = "
        select u.job_id, fn_job_start(p_job_id => u.job_id, p_lease_token => u.lease_token) as answer
        from unnest($1::uuid[], $2::bigint[]) as u (job_id, lease_token)";
    answers(&rows(client, "starting jobs", SQL, &[&leases.ids, &leases.tokens]).await?)
}

/// Makes leases longer; answers also for how long they last now, by the database's clock.
pub async fn renew(
    client: &impl GenericClient,
    leases: &Leases,
    lease: Option<Duration>,
) -> Result<(Answers, Duration)> {
    const SQL: &str = "
        select n.now, u.job_id,
               fn_job_renew(p_job_id => u.job_id, p_lease_token => u.lease_token, p_lease_seconds => $3) as answer
        from (select clock_timestamp() as now) n
        cross join unnest($1::uuid[], $2::bigint[]) as u (job_id, lease_token)";
    let found = rows(client, "renewing leases", SQL, &[&leases.ids, &leases.tokens, &seconds(lease)]).await?;
    let answers = answers(&found)?;
    let now: Option<Timestamp> = found.first().map(|row| get(row, "now")).transpose()?;
    let until = answers.iter().find_map(|(_, answer)| match answer {
        Answer::Done(result) => result.get("lease_until")?.as_str()?.parse::<Timestamp>().ok(),
        Answer::Refused(_) => None,
    });
    Ok((answers, until.zip(now).map_or(Duration::ZERO, |(until, now)| left(until, now))))
}

/// Gives jobs back without spending an attempt.
pub async fn release(client: &impl GenericClient, leases: &Leases) -> Result<Answers> {
    const SQL: &str = "
        select u.job_id, fn_job_release(p_job_id => u.job_id, p_lease_token => u.lease_token) as answer
        from unnest($1::uuid[], $2::bigint[]) as u (job_id, lease_token)";
    answers(&rows(client, "giving jobs back", SQL, &[&leases.ids, &leases.tokens]).await?)
}

/// Ends jobs well, each with its result reference if it has one. Answers the ids whose lease was lost.
pub async fn succeed(
    client: &impl GenericClient,
    leases: &Leases,
    result_refs: &[Option<String>],
) -> Result<Vec<Uuid>> {
    const SQL: &str = "
        select fn_job_succeed_many(p_job_ids => $1, p_lease_tokens => $2, p_result_refs => $3) as answer";
    let refs: Option<Vec<Option<String>>> = result_refs
        .iter()
        .any(Option::is_some)
        .then(|| result_refs.iter().map(|one| one.as_deref().map(storable)).collect());
    let found = row(client, "finishing jobs", SQL, &[&leases.ids, &leases.tokens, &refs]).await?;
    let answer: Value = get(&found, "answer")?;
    let lost = answer.get("lease_lost").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(lost.iter().filter_map(|id| id.as_str()?.parse().ok()).collect())
}

/// Counts one failure of a job; a permanent one is not tried again.
pub async fn fail(
    client: &impl GenericClient,
    (id, token): (Uuid, i64),
    permanent: bool,
    error: &str,
) -> Result<Answer> {
    const TRANSIENT: &str = "
        select fn_job_fail_transient(p_job_id => $1, p_lease_token => $2, p_error => $3) as answer";
    const PERMANENT: &str = "
        select fn_job_fail_permanent(p_job_id => $1, p_lease_token => $2, p_error => $3) as answer";
    let sql = if permanent { PERMANENT } else { TRANSIENT };
    let found = row(client, "failing a job", sql, &[&id, &token, &storable(error)]).await?;
    Ok(Answer::from_json(get(&found, "answer")?))
}

/// Text as the database can hold it: NUL is the one character that it refuses.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// How an error of [`run`] begins.
pub const RUNNING: &str = "running its function";

/// Runs a job by its SQL function and ends it, in one transaction.
///
/// # Errors
/// What the function raised; a refusal in its answer is SQLSTATE RV001, a lease that ended meanwhile RV002.
pub async fn run(client: &impl GenericClient, (id, token): (Uuid, i64)) -> Result<Answer> {
    const SQL: &str = "select fn_job_run(p_job_id => $1, p_lease_token => $2) as answer";
    let found = row(client, RUNNING, SQL, &[&id, &token]).await?;
    Ok(Answer::from_json(get(&found, "answer")?))
}

/// Changes the statement timeout of this session; none goes back to the session's own.
pub async fn limit_statements(client: &impl GenericClient, limit: Option<Duration>) -> Result<()> {
    let sql = limit.map_or_else(
        || "reset statement_timeout".to_owned(),
        |limit| format!("set statement_timeout = {}", limit.as_millis().max(1)),
    );
    client.batch_execute(&sql).await.map_err(|error| Error::postgres("setting statement_timeout", error))
}

/// What a worker has to know of one job kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The kind.
    pub job_kind: String,
    /// The SQL function that runs it, if there is one.
    pub handler: Option<String>,
    /// `job.<kind>.time_limit_seconds` as it was typed.
    pub time_limit_seconds: Option<String>,
}

/// The given kinds, and those that have an SQL function.
pub async fn kinds(client: &impl GenericClient, kinds: &[String]) -> Result<Vec<Kind>> {
    const SQL: &str = "
        select k.job_kind, k.handler, k.time_limit_seconds
        from fn_job_kinds(p_job_kinds => $1) k";
    let found = rows(client, "reading job kinds", SQL, &[&kinds]).await?;
    found
        .iter()
        .map(|row| {
            Ok(Kind {
                job_kind: get(row, "job_kind")?,
                handler: get(row, "handler")?,
                time_limit_seconds: get(row, "time_limit_seconds")?,
            })
        })
        .collect()
}
