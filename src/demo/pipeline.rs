//! The same document once more, as a workflow: six steps and a gate, made at once from a template.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::watch::LOOK;
use super::{Document, OPERATOR, PATIENCE, Step, Tell};
use crate::error::{Error, Kind, Result};
use crate::model::workflow::Step as Node;
use crate::store::pilot_host;
use crate::store::workflows::{self, Filter, Workflow};

const TEMPLATE: &str = "cut_pipeline";

/// What became of the workflow.
#[derive(Debug, Serialize)]
pub struct Pipeline {
    /// Its row of `v_job_workflow_health`.
    pub workflow: Workflow,
    /// Its steps, each with its executor.
    pub steps: Vec<Node>,
    /// Whether its pieces are those of the event-driven form, byte for byte.
    pub identical: bool,
}

impl Pipeline {
    /// Whether it succeeded with the same pieces, and no step was MOT's.
    pub fn is_good(&self) -> bool {
        self.workflow.status == "succeeded"
            && self.identical
            && self.steps.iter().all(|step| !step.executor.eq_ignore_ascii_case("MOT"))
    }
}

/// Emits the workflow, approves at its gate, and waits for its end; `record` is that of the event-driven form.
pub(super) async fn run(
    client: &Object,
    document: &Document,
    record: Uuid,
    tell: Tell<'_>,
) -> Result<Pipeline> {
    pilot_host::keep_source(client, &document.name, &document.text).await?;
    let begun = Instant::now();
    let params = json!({"document": document.name});
    let answer = workflows::emit(client, TEMPLATE, &params, Some("demo"), Some(OPERATOR), false).await?;
    let answer = answer.done("emitting the workflow")?;
    let id = answer["workflow_id"].as_str().and_then(|id| id.parse().ok());
    let id: Uuid = id.ok_or_else(|| Error::new(Kind::Database, "the emit answered no workflow"))?;
    tell(Step::timed("workflow", format!("{TEMPLATE} {id}, {} steps", answer["jobs"]), begun.elapsed()))?;
    let story = async {
        let gate = until(client, id, tell, |steps| {
            steps.iter().find(|step| step.standing() == "waits for approval").map(|gate| gate.job_id)
        })
        .await?;
        let hash = workflows::effect_hash(client, gate).await?;
        workflows::approve(client, gate, &hash, Some(OPERATOR)).await?.done("approving the marks")?;
        tell(Step::note("approved", format!("what hashes to {}…", hash.get(..12).unwrap_or(&hash))))?;
        until(client, id, tell, |steps| steps.iter().all(|step| step.status == "succeeded").then_some(()))
            .await
    };
    tokio::time::timeout(PATIENCE, story)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the workflow did not end in time")))?;
    let filter = Filter { workflow_id: Some(id), ..Filter::default() };
    let workflow = workflows::list(client, &filter, 1).await?.pop();
    Ok(Pipeline {
        workflow: workflow.ok_or_else(|| Error::new(Kind::Database, "the workflow is gone"))?,
        steps: workflows::steps(client, id).await?,
        identical: pilot_host::has_same_pieces(client, record, id).await?,
    })
}

/// Looks until the steps have what is sought; tells each step that has ended meanwhile.
async fn until<T>(
    client: &Object,
    id: Uuid,
    tell: &mut (dyn FnMut(Step) -> Result<()> + Send),
    sought: impl Fn(&[Node]) -> Option<T>,
) -> Result<T> {
    let mut told = 0;
    loop {
        let begun = Instant::now();
        let steps = workflows::steps(client, id).await?;
        let ended: Vec<&Node> = steps.iter().filter(|step| step.status == "succeeded").collect();
        for step in ended.iter().skip(told) {
            let who = step.lease_owner.as_deref().unwrap_or("nobody");
            tell(Step::note("step", format!("{} by {who}", step.step)))?;
        }
        told = told.max(ended.len());
        if let Some(found) = sought(&steps) {
            return Ok(found);
        }
        if let Some(step) = steps.iter().find(|step| matches!(step.status.as_str(), "dead_letter" | "failed"))
        {
            let reason = step.last_error.as_deref().unwrap_or("no reason given");
            return Err(Error::new(Kind::Database, format!("step {} failed: {reason}", step.step)));
        }
        tokio::time::sleep(LOOK.saturating_sub(begun.elapsed()).max(Duration::from_millis(1))).await;
    }
}
