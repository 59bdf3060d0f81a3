//! Leases that ended unreported.

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;
use crate::model::refusal::Answer;

/// Frees at most `limit` of the jobs whose lease has ended, or only tells, as the gates say.
pub async fn reap(client: &impl GenericClient, limit: i32) -> Result<Answer> {
    const SQL: &str = "select fn_job_lease_reaper(p_limit => $1, p_actor => 'reaper') as answer";
    let answer = row(client, "looking for ended leases", SQL, &[&limit]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
