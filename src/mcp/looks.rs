//! Tools that look. Each answers what the command of the line answers as JSON, by the same function.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::answer::Told;
use super::fields::Given;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::look::preview::Preview;
use crate::look::{doctor, executors, workflow};
use crate::model::spelling;
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::store::consumers::{Since, Subject};
use crate::store::dead_letters::Filter;
use crate::store::health::Component;
use crate::store::{backlog, consumers, dead_letters, events, explain, jobs, pauses, standing};

/// How many may look at the same time.
const LOOKERS: usize = 2;
/// Statements that the longest look is made of.
const STATEMENTS: u32 = 5;

/// Looks at the database.
pub(super) struct Looks {
    server: Server,
    direct: Server,
    pool: Pool,
    /// For the doctor, who opens connections of his own: one at a time.
    doctor: Semaphore,
}

impl Looks {
    /// Opens nothing yet.
    pub(super) fn new(server: Server, settings: &Settings) -> Result<Self> {
        let pool = server.pool("mcp", LOOKERS, &server.session())?;
        let direct = Server::direct(&settings.database)?;
        Ok(Self { server, direct, pool, doctor: Semaphore::new(1) })
    }

    /// One look, which ends within a deadline.
    pub(super) async fn at(&self, tool: &str, given: &Given) -> Told {
        if tool == "doctor" {
            return self.doctor(given).await.unwrap_or_else(Told::Failed); // each of its checks has a deadline
        }
        let looked = async {
            let client = self.server.take(&self.pool).await?;
            let looked = self.server.in_time(STATEMENTS, tool, look(&client, tool, given)).await;
            hand_back(client, looked)
        };
        looked.await.unwrap_or_else(Told::Failed)
    }

    async fn doctor(&self, given: &Given) -> Result<Told> {
        let busy =
            || Error::new(Kind::Transient, "a doctor is at work already").hint("its answer comes first");
        let _turn = self.doctor.try_acquire().map_err(|_| busy())?;
        let older_than = Duration::from_secs(given.number("older_than_seconds").unwrap_or(300));
        let report = doctor::examine(self.server.clone(), self.direct.clone(), older_than).await?;
        let wrong = report.findings.iter().filter(|finding| finding.is_wrong()).count();
        Ok(Told::seen(format!("{wrong} things are wrong; {} findings", report.findings.len()), &report))
    }
}

async fn look(client: &Object, tool: &str, given: &Given) -> Result<Told> {
    let limit = given.number("limit").unwrap_or(50);
    let text = |name| given.text(name);
    Ok(match tool {
        "health" => {
            let components = standing::read(client).await?;
            let ill = components.iter().filter(|one| one.is_ill()).count();
            Told::seen(state(ill, &components), &components)
        }
        "explain_event" => explanation(explain::event(client, given.id("event_id")).await?),
        "explain_job" => explanation(explain::job(client, given.id("job_id")).await?),
        "queue_reasons" => rows(&explain::counts(client, text("about").unwrap_or("job")).await?, "reasons"),
        "show_event" => {
            let id = given.id("event_id");
            let made = explain::event(client, id).await?.unwrap_or_default();
            one(
                events::show(client, id, &explain::jobs(&made)).await?,
                &format!("event {id}"),
                "show_job and show_event take different ids",
            )?
        }
        "show_job" => {
            let id = given.id("job_id");
            one(jobs::show(client, id).await?, &format!("job {id}"), "list_jobs shows them")?
        }
        "list_jobs" => {
            let (archived, kind) = (given.flag("archived"), text("job_kind"));
            rows(&jobs::list(client, archived, text("status"), kind, limit).await?, "jobs")
        }
        "backlog" => rows(&backlog::list(client).await?, "lanes in which jobs wait"),
        "blocked_jobs" => rows(&backlog::blocked(client).await?, "jobs that hold up others"),
        "dead_letters" => {
            let filter = Filter {
                triage_status: text("triage_status"),
                job_kind: text("job_kind"),
                event_domain: text("event_domain"),
            };
            let limit = i32::try_from(limit).unwrap_or(i32::MAX).into();
            rows(&dead_letters::list(client, &filter, limit).await?, "dead letters")
        }
        "show_dead_letter" => {
            let id = given.id("dead_letter_id");
            let what = format!("dead letter {id}");
            one(
                dead_letters::show(client, id).await?,
                &what,
                "dead_letters shows them; a job's id is not a dead letter's",
            )?
        }
        "show_workflow" => {
            let shown = workflow::show(client, given.id("workflow_id")).await?;
            let words = format!("{}: {} steps", shown.workflow.status, shown.steps.len());
            Told::seen(words, &shown)
        }
        "list_executors" => rows(&executors::found(client).await?.executors, "executors"),
        "list_consumers" => rows(&consumers::list(client).await?, "consumers"),
        "list_pauses" => rows(&pauses::list(client, false).await?, "pauses"),
        "preview_consumer" => preview(client, given).await?,
        other => Told::Wrong(format!("{other} is no look")),
    })
}

async fn preview(client: &Object, given: &Given) -> Result<Told> {
    let key = given.text("consumer_key").unwrap_or_default();
    let subject = Subject::Stored(key.to_owned());
    let since = given.number("since_seconds").map(|seconds| Since::Ago(Duration::from_secs(seconds)));
    let limit = given.number("limit").unwrap_or(1000);
    let decisions = match consumers::preview(client, &subject, since, limit).await {
        Err(error) if error.sqlstate() == Some("22023") => {
            return Err(unknown(key, &consumers::list(client).await?));
        }
        decisions => decisions?,
    };
    let preview = Preview::of(client, &subject, decisions).await?;
    Ok(Told::seen(preview.summary(), &preview.document()))
}

fn unknown(key: &str, all: &[consumers::Columns]) -> Error {
    let known = all.iter().filter_map(|columns| columns.get("consumer_key")?.as_str());
    let hint = match spelling::guess(key, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "list_consumers shows them all".to_owned(),
    };
    Error::new(Kind::Database, format!("there is no consumer `{key}`")).hint(hint)
}

fn state(ill: usize, components: &[Component]) -> String {
    match ill {
        0 => format!("nothing is silent; {} components", components.len()),
        ill => {
            format!("{ill} of {} components need somebody: those that are stale or never", components.len())
        }
    }
}

fn explanation(explained: explain::Explanation) -> Told {
    match explained {
        Err(refusal) => Told::Refused(refusal),
        Ok(lines) => {
            let words =
                lines.first().map_or("nothing is known of it", |line| line.reason.as_str()).to_owned();
            Told::seen(words, &lines)
        }
    }
}

fn rows<T: Serialize>(rows: &[T], what: &str) -> Told {
    Told::seen(format!("{} {what}", rows.len()), &rows)
}

fn one(document: Option<serde_json::Value>, what: &str, hint: &str) -> Result<Told> {
    match document {
        Some(document) => Ok(Told::seen(what, &document)),
        None => Err(Error::new(Kind::Database, format!("there is no {what}")).hint(hint)),
    }
}
