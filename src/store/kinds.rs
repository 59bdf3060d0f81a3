//! Kinds of jobs that somebody asks for: whether there is a template, or anybody who runs them.

use deadpool_postgres::GenericClient;

use super::consumers::Columns;
use super::{get, row, rows};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::sorts;

/// What stands against jobs of a kind; none when nothing does.
pub async fn warning(client: &impl GenericClient, job_kind: &str) -> Result<Option<String>> {
    const SQL: &str = "select fn_job_kind_warning(p_job_kind => $1) as warning";
    get(&row(client, "looking for who runs a kind of job", SQL, &[&job_kind]).await?, "warning")
}

/// The same for the columns of a consumer, which may only ask for a template that there is not.
pub async fn warning_of_consumer(client: &impl GenericClient, columns: &Columns) -> Result<Option<String>> {
    match columns.get("job_kind").and_then(serde_json::Value::as_str) {
        Some(kind) if kind.starts_with("workflow:") => warning(client, kind).await,
        _ => Ok(None),
    }
}

/// Consumers and schedules that are enabled and ask for what there is not.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "select subject, job_kind, what from fn_job_kind_check()";
    let finding = |row: &tokio_postgres::Row| {
        let (subject, kind): (String, String) = (get(row, "subject")?, get(row, "job_kind")?);
        let what: String = get(row, "what")?;
        let disable = match subject.split_once(' ') {
            Some((sort, key)) => format!("or `reveille {sort}s disable {key} --reason TEXT`"),
            None => String::new(),
        };
        Ok(if kind.starts_with("workflow:") {
            let mend = format!("`reveille workflows put FILE`, then `reveille dlq list`; {disable}");
            sorts::UNKNOWN_TEMPLATE.found(subject, what, mend)
        } else {
            let mend = format!(
                "insert a row into job_handler, start `reveille work --exec CMD --job-kinds {kind}`, {disable}"
            );
            sorts::UNKNOWN_KIND.found(subject, what, mend)
        })
    };
    rows(client, "looking for kinds of jobs that nobody runs", SQL, &[]).await?.iter().map(finding).collect()
}
