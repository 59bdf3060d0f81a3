//! Every domain until nothing is left, for `tick`.

use std::collections::VecDeque;

use tokio::time::{Instant, timeout_at};

use super::dispatcher::Dispatcher;
use super::poll;
use crate::error::{Error, Result};
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::{PAUSED, Refusal};
use crate::postgres::pool::hand_back;
use crate::store;

/// What one round over the domains came to.
#[derive(Debug, Default)]
pub struct Once {
    /// What was done.
    pub pass: Pass,
    /// The deadline came before the end; a pass that was cut off is not counted.
    pub left: bool,
    /// A gate is closed; nothing more was tried.
    pub refusal: Option<Refusal>,
    /// Domains that somebody has paused.
    pub paused: Vec<String>,
    /// What failed.
    pub failed: Option<Error>,
}

impl Dispatcher {
    /// Every domain until nothing is left, or until `end`. A domain that fails or is paused does not stop the
    /// others.
    pub async fn run_once(&self, end: Instant) -> Once {
        let mut once = Once::default();
        match timeout_at(end, self.look_once(&mut once)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => once.failed = Some(Error::and(once.failed, error)),
            Err(_) => once.left = true,
        }
        once
    }

    /// Pass after pass, each domain in its turn; ends with an error when the server is gone.
    async fn look_once(&self, once: &mut Once) -> Result<()> {
        poll::attach(&self.server, &self.pool).await?;
        let mut waiting: VecDeque<&str> = self.domains.iter().map(String::as_str).collect();
        while let Some(domain) = waiting.pop_front() {
            match self.pass_once(domain).await {
                Ok(Ok(pass)) => {
                    once.pass.add(pass);
                    waiting.extend(pass.more.then_some(domain));
                }
                Ok(Err(refusal)) if refusal.reason == PAUSED => once.paused.push(domain.to_owned()),
                Ok(Err(refusal)) => {
                    once.refusal = Some(refusal);
                    return Ok(());
                }
                Err(error) if error.sqlstate().is_none() => return Err(error),
                Err(error) => once.failed = Some(Error::and(once.failed.take(), error)),
            }
        }
        Ok(())
    }

    async fn pass_once(&self, domain: &str) -> Result<Result<Pass, Refusal>> {
        let client = self.server.take(&self.pool).await?;
        let pass = store::dispatch::pass(&client, domain, self.settings.batch_size, FoundBy::Tick);
        let outcome = self.server.in_time(1, &format!("dispatching {domain}"), pass).await;
        hand_back(client, outcome)
    }
}
