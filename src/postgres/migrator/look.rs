//! What `reveille doctor` finds of the schema: phases, functions, triggers, rights and indexes against this binary and
//! against what was noted when they were made.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::history::History;
use super::parts::Change;
use super::{Migrator, PhaseStatus, SHORT, State};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::sorts;
use crate::postgres::{explain, quote};

const UP: &str = "reveille migrate up";

impl Migrator {
    /// What is wrong with the schema, and whether it is installed at all. Changes nothing.
    pub async fn look(&self, client: &Client) -> Result<(Vec<Finding>, bool)> {
        let schema = self.server.schema();
        let history = History::read(client, schema).await?;
        if history.applied.is_empty() {
            let what = format!("Reveille is not installed in schema `{schema}`");
            let mend = format!("{UP}, or set [database] schema to where it is installed");
            return Ok((vec![sorts::SCHEMA_MISSING.found(format!("schema {schema}"), what, mend)], false));
        }
        let mut found = Vec::new();
        for phase in &self.phases {
            found.extend(of_phase(&PhaseStatus::of(phase, &history)));
            found.extend(
                history.changes(phase).into_iter().filter_map(|(item, change)| of_part(item, &change)),
            );
            if let Some(applied) = history.of(phase) {
                found.extend(self.indexes(client, &applied.indexes).await?);
            }
        }
        let last = u32::try_from(self.phases.len()).unwrap_or(u32::MAX);
        let newer = history.applied.iter().filter(|applied| applied.number > last);
        found.extend(newer.filter_map(|applied| of_phase(&PhaseStatus::unknown(applied))));
        Ok((found, true))
    }

    async fn indexes(
        &self,
        client: &Client,
        made: &std::collections::BTreeMap<String, String>,
    ) -> Result<Vec<Finding>> {
        let names: Vec<&str> = made.keys().map(String::as_str).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&names, Type::TEXT_ARRAY)];
        let asked = client.query_typed(VALID, &parameters);
        let rows = explain::within(SHORT, "looking at indexes", asked).await?;
        let finding = |row: &tokio_postgres::Row| {
            let (name, valid): (String, Option<bool>) = (row.get(0), row.get(1));
            let subject = format!("index {name}");
            if valid.is_some() {
                let mend = format!("reindex index concurrently {}", quote::identifier(&name));
                return sorts::INDEX_INVALID.found(subject, "it is there, and not valid", mend);
            }
            let mend = made.get(&name).cloned().unwrap_or_default();
            sorts::INDEX_MISSING.found(subject, "it is not there", mend)
        };
        Ok(rows.iter().map(finding).collect())
    }
}

/// Of these names: those that are no index, or one that is not valid.
const VALID: &str = "
    select n.name, i.indisvalid
    from unnest($1) n (name)
    left join pg_class c on c.relname = n.name and c.relnamespace = quote_ident(current_schema())::regnamespace
    left join pg_index i on i.indexrelid = c.oid
    where i.indisvalid is not true
    order by 1";

fn of_phase(phase: &PhaseStatus) -> Option<Finding> {
    let subject = format!("phase {:03}_{}", phase.number, phase.name);
    let before = phase.number.saturating_sub(1);
    let version = phase.binary_version.as_deref().unwrap_or("a newer version");
    Some(match phase.state {
        State::Applied | State::FunctionsMissing | State::FunctionsReplaced => return None,
        State::Pending => sorts::SCHEMA_BEHIND.found(subject, "it has not been applied", UP),
        State::FunctionsChanged => {
            sorts::SCHEMA_BEHIND.found(subject, "its functions are not those of this reveille", UP)
        }
        State::Drifted => sorts::SCHEMA_DRIFTED.found(
            subject,
            "its up.sql is not the text that was applied",
            format!("install the reveille that applied it ({version}); or, where its rows may be lost, reveille migrate down --to {before}, then {UP}"),
        ),
        State::Unknown => sorts::SCHEMA_TOO_NEW.found(
            subject,
            format!("reveille {version} has applied it, and this one does not know it"),
            format!("install reveille {version}"),
        ),
    })
}

fn of_part(item: &str, change: &Change) -> Option<Finding> {
    let trigger = item.strip_prefix("trigger ");
    // the doctor's own check of the outbox says more about that one
    if trigger.is_some_and(|trigger| trigger.ends_with(" on event_outbox")) {
        return None;
    }
    Some(match (change, trigger) {
        (Change::Gone, Some(_)) => sorts::TRIGGER_MISSING.found(item, "it is not there", UP),
        (Change::Gone, None) => sorts::FUNCTION_MISSING.found(item, "it is not there", UP),
        (Change::Disabled, trigger) => {
            let (name, table) = trigger.and_then(|trigger| trigger.split_once(" on ")).unwrap_or((item, ""));
            let mend = format!("alter table {table} enable trigger {name}");
            sorts::TRIGGER_DISABLED.found(item, "it is disabled", mend)
        }
        (Change::Replaced, _) => sorts::FUNCTION_DRIFTED.found(
            item,
            "it is not as `migrate up` has made it",
            format!("{UP} (it puts back what the phase had made)"),
        ),
        (Change::Revoked(roles), _) => {
            sorts::GRANT_MISSING.found(item, format!("{} may not use it any more", roles.join(", ")), UP)
        }
    })
}
