//! `job_queue` as a worker sees it: start, renew, succeed, fail, release, run; and what job kinds need.
//!
//! Functions over many jobs take them sorted by id (see [`Leases`]): every statement then locks rows in one order
//! (trap 17).

use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::heartbeats::Beater;
use super::{get, row, rows};
use crate::error::{Error, Result};
use crate::model::refusal::Answer;

pub(super) fn seconds(lease: Option<Duration>) -> Option<i32> {
    lease.map(|lease| i32::try_from(lease.as_secs().max(1)).unwrap_or(i32::MAX))
}

pub(super) fn left(until: Timestamp, now: Timestamp) -> Duration {
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

/// One answer for each job; none for one whose row somebody else has locked: it is to be asked again.
pub type Answers = Vec<(Uuid, Option<Answer>)>;

fn answers(found: &[Row]) -> Result<Answers> {
    let answer = |row| get::<Option<Value>>(row, "answer").map(|answer| answer.map(Answer::from_json));
    found.iter().map(|row| Ok((get(row, "job_id")?, answer(row)?))).collect()
}

/// Says that jobs are in progress.
pub async fn start(client: &impl GenericClient, leases: &Leases) -> Result<Answers> {
    const SQL: &str = "
        with busy as materialized (select b.job_id from fn_job_busy($1, $2) b (job_id))
        select u.job_id, case when u.job_id <> all (array(select b.job_id from busy b)) then
                 fn_job_start(p_job_id => u.job_id, p_lease_token => u.lease_token) end as answer
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
        with busy as materialized (select b.job_id from fn_job_busy($1, $2) b (job_id))
        select n.now, u.job_id, case when u.job_id <> all (array(select b.job_id from busy b)) then
                 fn_job_renew(p_job_id => u.job_id, p_lease_token => u.lease_token, p_lease_seconds => $3) end as answer
        from (select clock_timestamp() as now) n
        cross join unnest($1::uuid[], $2::bigint[]) as u (job_id, lease_token)";
    let found = rows(client, "renewing leases", SQL, &[&leases.ids, &leases.tokens, &seconds(lease)]).await?;
    let answers = answers(&found)?;
    let now: Option<Timestamp> = found.first().map(|row| get(row, "now")).transpose()?;
    let until = answers.iter().find_map(|(_, answer)| match answer {
        Some(Answer::Done(result)) => result.get("lease_until")?.as_str()?.parse::<Timestamp>().ok(),
        Some(Answer::Refused(_)) | None => None,
    });
    Ok((answers, until.zip(now).map_or(Duration::ZERO, |(until, now)| left(until, now))))
}

/// Gives jobs back without spending an attempt.
pub async fn release(client: &impl GenericClient, leases: &Leases) -> Result<Answers> {
    const SQL: &str = "
        with busy as materialized (select b.job_id from fn_job_busy($1, $2) b (job_id))
        select u.job_id, case when u.job_id <> all (array(select b.job_id from busy b)) then
                 fn_job_release(p_job_id => u.job_id, p_lease_token => u.lease_token) end as answer
        from unnest($1::uuid[], $2::bigint[]) as u (job_id, lease_token)";
    answers(&rows(client, "giving jobs back", SQL, &[&leases.ids, &leases.tokens]).await?)
}

/// Gives back what was leased by this process within that time without its knowing; answers how many. Refused once
/// another process has the name: what is leased under it may be that one's.
pub async fn release_unknown(
    client: &impl GenericClient,
    beater: &Beater,
    within: Duration,
    known: &[Uuid],
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_release_unknown(
          p_executor_name => $1, p_within => make_interval(secs => $2), p_known => $3, p_instance => $4) as answer";
    let Beater { name, instance } = beater;
    let found =
        row(client, "giving back unknown jobs", SQL, &[name, &within.as_secs_f64(), &known, instance])
            .await?;
    Ok(Answer::from_json(get(&found, "answer")?))
}

/// How a batch of completions ended for those that did not succeed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Their leases were lost.
    pub lost: Vec<Uuid>,
    /// Somebody else has locked their rows; to be asked again.
    pub busy: Vec<Uuid>,
}

/// Ends jobs well, each with its result reference if it has one. The careful way costs a lock more for each job and
/// waits for nobody.
pub async fn succeed(
    client: &impl GenericClient,
    leases: &Leases,
    result_refs: &[Option<String>],
    carefully: bool,
) -> Result<Unfinished> {
    const QUICKLY: &str = "
        select fn_job_succeed_many(p_job_ids => $1, p_lease_tokens => $2, p_result_refs => $3) as answer, '{}'::uuid[] as busy";
    const CAREFULLY: &str = "
        with busy as materialized (select array(select fn_job_busy($1, $2)) as ids)
        select b.ids as busy, fn_job_succeed_many(
                 p_job_ids => coalesce(array_agg(u.job_id) filter (where u.job_id is not null), '{}'),
                 p_lease_tokens => coalesce(array_agg(u.lease_token) filter (where u.job_id is not null), '{}'),
                 p_result_refs => coalesce(array_agg(u.result_ref) filter (where u.job_id is not null), '{}')) as answer
        from busy b
        left join unnest($1::uuid[], $2::bigint[], $3::text[]) as u (job_id, lease_token, result_ref)
          on u.job_id <> all (b.ids)
        group by b.ids";
    let refs: Option<Vec<Option<String>>> = result_refs
        .iter()
        .any(Option::is_some)
        .then(|| result_refs.iter().map(|one| one.as_deref().map(storable)).collect());
    let sql = if carefully { CAREFULLY } else { QUICKLY };
    let found = row(client, "finishing jobs", sql, &[&leases.ids, &leases.tokens, &refs]).await?;
    let answer: Value = get(&found, "answer")?;
    let lost = answer.get("lease_lost").and_then(Value::as_array).cloned().unwrap_or_default();
    let lost = lost.iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
    Ok(Unfinished { lost, busy: get(&found, "busy")? })
}

/// Ends one job well, in whatever transaction `client` is.
pub async fn succeed_one(
    client: &impl GenericClient,
    (id, token): (Uuid, i64),
    result_ref: Option<&str>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_succeed(p_job_id => $1, p_lease_token => $2, p_result_ref => $3) as answer";
    let found = row(client, "completing a job", SQL, &[&id, &token, &result_ref.map(storable)]).await?;
    Ok(Answer::from_json(get(&found, "answer")?))
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

/// Gives a job back until later, without spending an attempt.
pub async fn snooze(
    client: &impl GenericClient,
    (id, token): (Uuid, i64),
    delay: Duration,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_snooze(
          p_job_id => $1, p_lease_token => $2, p_until => clock_timestamp() + make_interval(secs => $3)) as answer";
    let found = row(client, "snoozing a job", SQL, &[&id, &token, &delay.as_secs_f64()]).await?;
    Ok(Answer::from_json(get(&found, "answer")?))
}

/// Which of these jobs somebody has cancelled.
pub async fn cancellations(client: &impl GenericClient, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    const SQL: &str = "select fn_job_cancellations(p_job_ids => $1) as job_id";
    rows(client, "looking for cancellations", SQL, &[&ids])
        .await?
        .iter()
        .map(|row| get(row, "job_id"))
        .collect()
}

/// Says that a run has ended because its job was cancelled.
pub async fn cancelled(client: &impl GenericClient, (id, token): (Uuid, i64)) -> Result<Answer> {
    const SQL: &str = "select fn_job_cancel_done(p_job_id => $1, p_lease_token => $2) as answer";
    let found = row(client, "ending a cancelled job", SQL, &[&id, &token]).await?;
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
pub async fn run(
    client: &impl GenericClient,
    (id, token): (Uuid, i64),
    traceparent: Option<&str>,
) -> Result<Answer> {
    // without the handler's own answer: it may hold what we cannot read, and all is committed by then
    const SQL: &str =
        "select fn_job_run(p_job_id => $1, p_lease_token => $2, p_traceparent => $3) - 'answer' as answer";
    let found = row(client, RUNNING, SQL, &[&id, &token, &traceparent]).await?;
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

/// Limits each statement of this transaction, and each pause between two: a handler may use its whole time limit for either.
/// What it emits belongs to the trace of its job.
pub async fn limit_transaction(
    client: &impl GenericClient,
    limit: Duration,
    traceparent: Option<&str>,
) -> Result<()> {
    let limit = limit.as_millis().max(1);
    let plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let trace = traceparent.filter(plain).unwrap_or_default();
    let sql = format!(
        "set local statement_timeout = {limit};
         set local idle_in_transaction_session_timeout = {limit};
         set local reveille.traceparent = '{trace}'"
    );
    client.batch_execute(&sql).await.map_err(|error| Error::postgres("limiting a transaction", error))
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
