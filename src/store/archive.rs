//! `job_archive`: finished jobs that have left the hot table.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use super::{get, row};
use crate::error::Result;
use crate::model::refusal::Answer;

/// Moves those of the `limit` oldest jobs behind `after` whose time has come, or only counts them, as the gate says.
pub async fn archive(client: &impl GenericClient, limit: i32, after: Option<Uuid>) -> Result<Answer> {
    const SQL: &str = "select fn_job_archive(p_limit => $1, p_dry_run => null, p_after => $2) as answer";
    let answer = row(client, "archiving finished jobs", SQL, &[&limit, &after]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Removes at most `limit` workflows whose steps have left the archive, and cancels as many that failed long ago; or only counts
/// them, as the gate says.
pub async fn retain(client: &impl GenericClient, limit: i32) -> Result<Answer> {
    const SQL: &str = "select fn_job_workflow_retention(p_limit => $1, p_dry_run => null) as answer";
    let answer = row(client, "pruning workflows", SQL, &[&limit]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
