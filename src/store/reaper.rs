//! Leases that ended unreported.

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;
use crate::model::refusal::Answer;

/// Frees at most `limit` of the jobs whose lease has ended, or only tells, as the gates say; without the oldest `skip`.
pub async fn reap(client: &impl GenericClient, limit: i32, skip: i32) -> Result<Answer> {
    const SQL: &str =
        "select fn_job_lease_reaper(p_limit => $1, p_actor => 'reaper', p_skip => $2) as answer";
    let answer = row(client, "looking for ended leases", SQL, &[&limit, &skip]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
