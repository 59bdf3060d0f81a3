//! One workflow with its steps: what `reveille workflows show` answers.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::workflow::Step;
use crate::store::workflows::{self, Filter, Workflow};

/// A workflow and its steps.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Shown {
    pub workflow: Workflow,
    pub steps: Vec<Step>,
}

/// The workflow with its steps, or an error that says there is none.
pub async fn show(client: &impl GenericClient, id: Uuid) -> Result<Shown> {
    let workflow = find(client, id).await?;
    Ok(Shown { workflow, steps: workflows::steps(client, id).await? })
}

/// The workflow, or an error that says there is none.
pub async fn find(client: &impl GenericClient, id: Uuid) -> Result<Workflow> {
    let filter = Filter { workflow_id: Some(id), ..Filter::default() };
    workflows::list(client, &filter, 1).await?.pop().ok_or_else(|| {
        Error::new(Kind::Database, format!("there is no workflow {id}"))
            .hint("`reveille workflows list` shows them; a job's id is not a workflow's")
    })
}
