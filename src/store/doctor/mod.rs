//! What `reveille doctor` looks at in tables and catalogs: one file a group, one statement a check. Each statement answers
//! rows of (finding, subject, what, mend); severity and why are those of the sort of that name.

pub mod host;
pub mod life;
pub mod rights;
pub mod server;
pub mod wants;
pub mod work;

use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;

use super::{Parameters, get, rows};
use crate::error::Result;
use crate::model::finding::Finding;

/// How long something may last before it is a finding.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For transactions that are open, and jobs that hold up others.
    pub older_than: Duration,
}

impl Patience {
    fn seconds(self) -> f64 {
        self.older_than.as_secs_f64()
    }
}

/// The findings of one statement.
async fn found(
    client: &impl GenericClient,
    what: &str,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Finding>> {
    let finding = |row: &Row| {
        let name: String = get(row, "finding")?;
        Ok(Finding::named(&name, get(row, "subject")?, get(row, "what")?, get(row, "mend")?))
    };
    rows(client, what, sql, parameters).await?.iter().map(finding).collect()
}
