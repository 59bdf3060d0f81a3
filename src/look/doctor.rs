//! What is wrong, why it matters, and the command that mends it: what `reveille doctor` answers.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde::Serialize;

use crate::error::{Error, Kind, Result, chain};
use crate::model::finding::Finding;
use crate::model::sorts;
use crate::postgres::migrator::Migrator;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session, probe};
use crate::store::doctor::{Patience, host, life, past, rights, server, wants, work};
use crate::store::{bridge, kinds, routes, watch};

/// Longest that one check may take; what takes longer is a finding itself.
const LONGEST: Duration = Duration::from_secs(15);

/// What was looked at, and what is wrong with it, the worst first.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was looked at.
    pub checked: Vec<&'static str>,
    /// What is wrong, or worth knowing.
    pub findings: Vec<Finding>,
}

/// Looks at one thing after the other; none that fails stops the others.
struct Looking {
    server: Server,
    direct: Server,
    pool: Pool,
    checked: Vec<&'static str>,
    found: Vec<Finding>,
}

impl Looking {
    async fn at(&mut self, what: &'static str, look: impl AsyncFnOnce(&Object) -> Result<Vec<Finding>>) {
        let looked = self.look(look).await;
        self.note(what, looked);
    }

    fn note(&mut self, what: &'static str, looked: Result<Vec<Finding>>) {
        self.checked.push(what);
        self.found.extend(looked.unwrap_or_else(|error| vec![could_not_look(what, &error)]));
    }

    async fn look<T>(&self, look: impl AsyncFnOnce(&Object) -> Result<T>) -> Result<T> {
        let client = self.server.take(&self.pool).await?;
        let looked = within(look(&client)).await;
        hand_back(client, looked)
    }
}

async fn within<T>(look: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(LONGEST, look).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Timeout, format!("no answer within {}", humantime::format_duration(LONGEST))))
    })
}

/// A role that may not look is no fault of the system, so that alone is no bad news.
fn could_not_look(what: &str, error: &Error) -> Finding {
    let is_denied = error.sqlstate() == Some("42501");
    let mend = if is_denied {
        "ask as a member of reveille_operator or reveille_reader, or as the owner".to_owned()
    } else {
        error.hint_text().unwrap_or("mend what it says, then ask again").to_owned()
    };
    let finding = sorts::COULD_NOT_LOOK.found(what, chain(error), mend);
    if is_denied { Finding { severity: "info".to_owned(), ..finding } } else { finding }
}

/// Looks at everything, and changes nothing. `direct` is the server without a pooler between; open transactions and jobs
/// that hold up others are findings from the age of `older_than` on.
///
/// # Errors
/// A server that is not there; what is wrong behind that is a finding.
pub async fn examine(server: Server, direct: Server, older_than: Duration) -> Result<Report> {
    let session = Session { statement_timeout: LONGEST, ..server.session() };
    let pool = server.pool("doctor", 1, &session)?;
    let mut looking = Looking { server, direct, pool, checked: Vec::new(), found: Vec::new() };
    looking.look(async |_| Ok(())).await?;
    let migrator = Migrator::new(looking.direct.clone());
    let schema = looking.look(async |client| migrator.look(client).await).await;
    let is_installed = schema.as_ref().map_or(true, |(_, is_installed)| *is_installed);
    looking.note("the schema", schema.map(|(found, _)| found));
    connections(&mut looking).await;
    if is_installed {
        tables(&mut looking, Patience { older_than }).await;
    }
    let Looking { checked, mut found, .. } = looking;
    let place = |one: &Finding| ["error", "warning", "info"].iter().position(|word| *word == one.severity);
    found.sort_by_key(place);
    Ok(Report { checked, findings: found })
}

/// The way to the server.
async fn connections(looking: &mut Looking) {
    let direct = looking.direct.clone();
    let looked = within(probe::pooler(&direct)).await;
    looking.note("poolers", looked);
    looking.at("LISTEN", async |client| probe::canary(&direct, client).await).await;
    let server = looking.server.clone();
    looking.at("clocks", async |client| probe::clock(&server, client).await).await;
    looking.at("the notification queue", async |client| server::notify_queue(client).await).await;
}

/// What stands in tables and catalogs.
async fn tables(looking: &mut Looking, patience: Patience) {
    looking.at("the trigger on event_outbox", async |client| bridge::check(client).await).await;
    looking.at("roles", async |client| rights::check(client).await).await;
    looking.at("gates", async |client| life::gates(client).await).await;
    looking.at("what must be alive", async |client| life::silent(client).await).await;
    looking.at("past silences", async |client| past::silences(client).await).await;
    looking.at("holes in work", async |client| past::gaps(client, past::MOST_RUNS).await).await;
    looking.at("poison jobs", async |client| work::poison(client, work::MOST_CLAIMABLE).await).await;
    looking.at("ordering keys", async |client| work::keys(client, patience).await).await;
    looking.at("dispatch errors", async |client| work::undigested(client).await).await;
    looking.at("routes", async |client| routes::check(client).await).await;
    looking
        .at("workflows, schedules, the audit and backfills", async |client| watch::findings(client).await)
        .await;
    looking.at("what consumers and schedules ask for", async |client| kinds::check(client).await).await;
    looking.at("consumers", async |client| wants::consumers(client).await).await;
    looking.at("event types", async |client| wants::event_types(client).await).await;
    looking.at("open transactions", async |client| server::snapshots(client, patience).await).await;
    looking.at("bloat", async |client| server::bloat(client).await).await;
    looking.at("unique indexes of event_outbox", async |client| host::repeats(client).await).await;
    looking.at("readers of iu_notification_event", async |client| host::legacy(client).await).await;
}
