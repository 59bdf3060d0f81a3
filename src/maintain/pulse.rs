//! The beats of the sidecar's parts: each under a name of its own, and only while it turns, so that a part that hangs
//! falls silent though the others live.

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::json;
use tokio::time::timeout;

use crate::alive::Alive;
use crate::config;
use crate::error::Result;
use crate::host;
use crate::model::refusal::{Answer, remedy};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::store::heartbeats::{self, Beater, Part};

/// How long forgetting the names may delay the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The parts of this process that beat.
#[derive(Debug)]
pub(super) struct Pulse {
    server: Server,
    pool: Pool,
    given_name: String,
    cadence: Duration,
    parts: Vec<(Part, Alive)>,
}

/// What is known of their names.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Every name was registered once, also that of a part which hung from the beginning.
    begun: bool,
    registered: bool,
    told_refusal: bool,
}

impl Known {
    /// Nothing is certain after a failure.
    pub(super) fn doubt(&mut self) {
        self.registered = false;
    }
}

impl Pulse {
    pub(super) fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        let given_name = settings.executor_name.clone();
        Self { server, pool, given_name, cadence: settings.heartbeat_interval, parts: Vec::new() }
    }

    /// One more part. A name that was given is the dispatcher's; one that is made up is unlike that of any other
    /// process: two of one name would hide each other's silence.
    pub(super) fn add(&mut self, role: &'static str, alive: Alive) {
        let name = match (self.given_name.as_str(), role) {
            ("", role) => host::unique_name(role),
            (given, "dispatcher") => given.to_owned(),
            (given, role) => format!("{given}-{role}"),
        };
        let metadata = json!({
            "role": role,
            "version": env!("CARGO_PKG_VERSION"),
            "host": host::name(),
            "pid": std::process::id(),
        });
        self.parts.push((Part { beater: Beater::new(name), metadata }, alive));
    }

    /// One statement for all that turn.
    pub(super) async fn beat(&self, known: &mut Known) -> Result<()> {
        let turning = self.parts.iter().filter(|(_, alive)| !known.begun || alive.is_alive());
        let parts: Vec<&Part> = turning.map(|(part, _)| part).collect();
        let client = self.server.take(&self.pool).await?;
        let beat = async {
            if known.registered {
                heartbeats::tick_parts(&client, &parts).await
            } else {
                heartbeats::register_parts(&client, &parts, self.cadence).await
            }
        };
        let outcome = self.server.in_time(1, "beating", beat).await;
        let answers = hand_back(client, outcome)?;
        let refusals = answers.iter().filter_map(|(name, answer)| match answer {
            Answer::Refused(refusal) => Some((name, &refusal.reason)),
            Answer::Done(_) => None,
        });
        let (mut refused, told) = (false, known.told_refusal);
        for (name, reason) in refusals {
            refused = true;
            if !told {
                let hint = remedy(reason).unwrap_or("see the contract's reasons");
                tracing::warn!(executor = %name, "no heartbeat, its work goes on: {reason} ({hint})");
            }
        }
        (known.begun, known.registered, known.told_refusal) = (true, !refused, told || refused);
        Ok(())
    }

    /// Names that were made up are forgotten, given ones are free for the next process.
    pub(super) async fn leave(&self) {
        let parts: Vec<&Part> = self.parts.iter().map(|(part, _)| part).collect();
        let leave = async {
            self.pool.retain(|_, _| false); // it may be busy with a statement that was cut off
            let client = self.server.take(&self.pool).await?;
            heartbeats::leave_parts(&client, &parts, self.given_name.is_empty()).await
        };
        match timeout(FAREWELL, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("the sidecar's names stay registered: {error}"),
            Err(_) => tracing::debug!("the sidecar's names stay registered: no answer within {FAREWELL:?}"),
        }
    }
}
