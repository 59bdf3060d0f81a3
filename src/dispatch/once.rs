//! One bounded pass of every domain, for `tick`.

use std::time::Duration;

use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::poll;
use crate::error::Result;
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::Refusal;
use crate::postgres::pool::hand_back;
use crate::store;

impl Dispatcher {
    /// Every domain until nothing is left, or until `deadline`; answers what was done, or a closed gate.
    ///
    /// A domain that fails does not stop the others; the first error is the answer.
    pub async fn run_once(&self, deadline: Duration) -> Result<std::result::Result<Pass, Refusal>> {
        let end = Instant::now() + deadline;
        poll::attach(&self.server, &self.pool).await?;
        let mut total = Pass::default();
        let mut failed = None;
        for domain in &self.domains {
            match self.drain(domain, end, &mut total).await {
                Ok(None) => {}
                Ok(Some(refusal)) => return Ok(Err(refusal)),
                Err(error) if error.sqlstate().is_none() => return Err(error), // the server is gone
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        failed.map_or(Ok(Ok(total)), Err)
    }

    /// One domain until nothing is left, or until `end`; a refusal when a gate is closed.
    async fn drain(&self, domain: &str, end: Instant, total: &mut Pass) -> Result<Option<Refusal>> {
        loop {
            let client = self.server.take(&self.pool).await?;
            let pass = store::dispatch::pass(&client, domain, self.settings.batch_size, FoundBy::Tick);
            let outcome = self.server.in_time(1, &format!("dispatching {domain}"), pass).await;
            match hand_back(client, outcome)? {
                Err(refusal) => return Ok(Some(refusal)),
                Ok(pass) => total.add(pass),
            }
            if !total.more || Instant::now() >= end {
                return Ok(None);
            }
        }
    }
}
