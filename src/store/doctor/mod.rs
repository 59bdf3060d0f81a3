//! What `reveille doctor` looks at in tables and catalogs: one file a group, one statement a check. Each statement answers
//! rows of (finding, subject, what, mend); severity and why are those of the sort of that name.

pub mod host;
pub mod life;
pub mod past;
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

/// How a statement begins that reads the newest events of the last 30 days, `lately`. Arrivals would not do: they go within
/// minutes. At most 200,000 are read, or, where no index begins with `created_at`, the last 160 MB of the table, which only
/// grows at its end; `reach` tells whether that is all of them.
const LATELY: &str = "
    with outbox as (
      select pg_relation_size(c.oid) / current_setting('block_size')::bigint - 20000 as page, exists (
          select from pg_index x
          join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
          where x.indrelid = c.oid and x.indisvalid and x.indpred is null and a.attname = 'created_at') as is_ordered
      from pg_class c
      where c.relname = 'event_outbox' and c.relnamespace = quote_ident(current_schema())::regnamespace),
    lately as materialized (
      (select o.event_domain, o.event_type, o.event_stream, o.event_subject_ref, o.created_at from event_outbox o
       where (select b.is_ordered from outbox b) and o.created_at > now() - interval '30 days'
       order by o.created_at desc limit 200000)
      union all
      (select o.event_domain, o.event_type, o.event_stream, o.event_subject_ref, o.created_at from event_outbox o
       where not (select b.is_ordered from outbox b) and o.created_at > now() - interval '30 days'
         and o.ctid >= (select format('(%s,0)', greatest(b.page, 0))::tid from outbox b))),
    reach as (
      select case when b.is_ordered then (select count(*) from lately) < 200000 else b.page <= 0 end as is_whole from outbox b)";

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
