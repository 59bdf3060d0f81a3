//! The table `reveille_migration`: which phases a schema has, and with which text.

use std::collections::BTreeMap;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::SHORT;
use super::parts::{self, Change, Parts};
use super::phase::Phase;
use super::script::Script;
use crate::error::Result;
use crate::postgres::{explain, quote};

/// Set on a schema that we made, so that the way back to nothing removes it.
const MADE_BY_US: &str = "made by `reveille migrate up`";

/// One applied phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) up_checksum: String,
    pub(super) functions_checksum: String,
    pub(super) applied_at: jiff::Timestamp,
    pub(super) applied_by: String,
    pub(super) binary_version: String,
    /// What it had made when its functions were run last.
    pub(super) parts: Parts,
    /// Definitions of the indexes that it made.
    pub(super) indexes: BTreeMap<String, String>,
}

impl Entry {
    /// As if this binary had just applied it.
    pub(super) fn assumed(phase: &Phase) -> Self {
        Self {
            number: phase.number,
            name: phase.name.to_owned(),
            up_checksum: phase.up_checksum(),
            functions_checksum: phase.functions_checksum(),
            applied_at: jiff::Timestamp::UNIX_EPOCH,
            applied_by: String::new(),
            binary_version: super::VERSION.to_owned(),
            parts: Parts::new(),
            indexes: BTreeMap::new(),
        }
    }
}

/// Whether every login may create objects in the schema: before Postgres 15 the rule in `public`.
pub(super) async fn is_open_to_all(client: &Client, schema: &str) -> Result<bool> {
    let parameter: [(&(dyn ToSql + Sync), Type); 1] = [(&schema, Type::TEXT)];
    let asked = client.query_typed_one("select has_schema_privilege('public', $1, 'create')", &parameter);
    Ok(explain::within(SHORT, "looking at the rights on the schema", asked).await?.get(0))
}

/// What a schema says about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) has_schema: bool,
    pub(super) has_table: bool,
    /// In order.
    pub(super) applied: Vec<Entry>,
    /// The functions, procedures and views of the schema, each with how many of its name.
    pub(super) routines: BTreeMap<String, usize>,
    /// What there is of what was noted.
    pub(super) found: Parts,
}

impl History {
    /// Number of the last applied phase; 0 when there is none.
    pub(super) fn at(&self) -> u32 {
        self.applied.last().map_or(0, |last| last.number)
    }

    pub(super) fn of(&self, phase: &Phase) -> Option<&Entry> {
        self.applied.iter().find(|applied| applied.number == phase.number)
    }

    /// A function, procedure or view of an applied phase that is not there any more.
    pub(super) fn missing_routine(&self, phase: &Phase) -> Option<&'static str> {
        let is_there =
            |name: &str, count: usize| self.routines.get(name).is_some_and(|found| *found >= count);
        phase.routines().into_iter().find(|(name, count)| !is_there(name, *count)).map(|(name, _)| name)
    }

    /// What is not as an applied phase has left it.
    pub(super) fn changes(&self, phase: &Phase) -> Vec<(&str, Change)> {
        self.of(phase).map(|applied| parts::changes(&applied.parts, &self.found)).unwrap_or_default()
    }

    /// Whether running its functions again sets something right that was changed by hand.
    pub(super) fn is_changed(&self, phase: &Phase) -> bool {
        self.changes(phase).iter().any(|(_, change)| change.is_mended_by_up())
    }

    /// Reads it.
    pub(super) async fn read(client: &Client, schema: &str) -> Result<Self> {
        let what = format!("reading the migrations of schema `{schema}`");
        explain::within(SHORT, &what, Self::query(client, schema)).await
    }

    async fn query(client: &Client, schema: &str) -> Result<Self, tokio_postgres::Error> {
        let table = format!("{}.reveille_migration", quote::identifier(schema));
        let row = client
            .query_typed_one(
                "select exists (select from pg_namespace where nspname = $1), to_regclass($2) is not null",
                &[(&schema, Type::TEXT), (&table, Type::TEXT)],
            )
            .await?;
        let mut history = Self { has_schema: row.get(0), has_table: row.get(1), ..Self::default() };
        if history.has_table {
            let query = format!(
                "select number, name, up_checksum, functions_checksum, applied_at, applied_by, binary_version, parts, indexes \
                 from {table} order by number"
            );
            let rows = client.query_typed(&query, &[]).await?;
            history.applied = rows.iter().map(applied).collect::<Result<_, _>>()?;
            let rows = client.query_typed(ROUTINES, &[(&schema, Type::TEXT)]).await?;
            history.routines = rows.iter().map(routine).collect::<Result<_, _>>()?;
            let made: Vec<&Parts> = history.applied.iter().map(|applied| &applied.parts).collect();
            history.found = parts::read(client, &made).await?;
        }
        Ok(history)
    }
}

const ROUTINES: &str = "
    select r.name::text, count(*)::bigint
    from (select p.proname, p.pronamespace from pg_proc p
          union all
          select c.relname, c.relnamespace from pg_class c where c.relkind = 'v') r (name, namespace)
    join pg_namespace n on n.oid = r.namespace
    where n.nspname = $1
    group by r.name";

fn routine(row: &tokio_postgres::Row) -> Result<(String, usize), tokio_postgres::Error> {
    Ok((row.try_get(0)?, usize::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default()))
}

/// What we wrote ourselves; if somebody has spoilt it, nothing is compared.
fn of_json<T: serde::de::DeserializeOwned + Default>(written: serde_json::Value) -> T {
    serde_json::from_value(written).unwrap_or_default()
}

fn applied(row: &tokio_postgres::Row) -> Result<Entry, tokio_postgres::Error> {
    let number: i32 = row.try_get(0)?;
    Ok(Entry {
        number: number.unsigned_abs(),
        name: row.try_get(1)?,
        up_checksum: row.try_get(2)?,
        functions_checksum: row.try_get(3)?,
        applied_at: row.try_get(4)?,
        applied_by: row.try_get(5)?,
        binary_version: row.try_get(6)?,
        parts: of_json(row.try_get(7)?),
        indexes: of_json(row.try_get(8)?),
    })
}

/// Makes what is missing before the first phase. A printed script may not know whether the schema is there.
pub(super) fn begin(schema: &str, history: &History) -> Script {
    let mut text = String::new();
    if !history.has_schema {
        let name = quote::identifier(schema);
        text = quote::do_block(&format!(
            "  if to_regnamespace({}) is null then\n    execute {};\n    execute {};\n  end if;",
            quote::literal(&name),
            quote::literal(&format!("create schema {name}")),
            quote::literal(&format!("comment on schema {name} is {}", quote::literal(MADE_BY_US))),
        ));
    }
    if !history.has_table {
        text.push_str(CREATE_TABLE);
    }
    Script::new(format!("preparing schema `{schema}`"), text)
}

const CREATE_TABLE: &str = "\
create table reveille_migration (
  number int primary key,
  name text not null,
  up_checksum text not null,
  functions_checksum text not null,
  applied_at timestamptz not null default clock_timestamp(),
  applied_by text not null default session_user,
  binary_version text not null,
  parts jsonb not null default '{}',
  indexes jsonb not null default '{}'
);
comment on table reveille_migration is 'phases of Reveille that this schema has; written by `reveille migrate`';
comment on column reveille_migration.up_checksum is 'sha-256 of up.sql as it was applied';
comment on column reveille_migration.functions_checksum is 'sha-256 of functions.sql as it was last run';
comment on column reveille_migration.binary_version is 'the reveille that ran functions.sql last';
comment on column reveille_migration.parts is 'checksum and rights of each function, view, trigger and table of the phase, as functions.sql left them';
comment on column reveille_migration.indexes is 'definition of each index of the phase, as up.sql made it';
grant select on reveille_migration to public;
";

/// Removes what [`begin`] made, after the last phase is gone. A schema that holds anything else stays.
pub(super) fn end(schema: &str) -> Script {
    let name = quote::identifier(schema);
    let drop_schema = quote::do_block(&format!(
        "  if obj_description(to_regnamespace({})::oid, 'pg_namespace') = {} then\n    execute {};\n  end if;\n\
         exception when dependent_objects_still_exist then null;",
        quote::literal(&name),
        quote::literal(MADE_BY_US),
        quote::literal(&format!("drop schema {name}")),
    ));
    let text = format!("drop table reveille_migration;\n{drop_schema}");
    Script::new(format!("leaving schema `{schema}`"), text)
}

/// Notes an applied phase.
pub(super) fn record(phase: &Phase) -> Script {
    let text = format!(
        "insert into reveille_migration (number, name, up_checksum, functions_checksum, binary_version, parts, indexes)\n\
         values ({}, {}, {}, {}, {}, {}, {});\n",
        phase.number,
        quote::literal(phase.name),
        quote::literal(&phase.up_checksum()),
        quote::literal(&phase.functions_checksum()),
        quote::literal(super::VERSION),
        parts::parts_now(phase),
        parts::indexes_now(phase),
    );
    Script::new("reveille_migration", text)
}

/// Notes that a phase's functions were run again.
pub(super) fn record_functions(phase: &Phase) -> Script {
    let text = format!(
        "update reveille_migration set functions_checksum = {}, binary_version = {}, parts = {} where number = {};\n",
        quote::literal(&phase.functions_checksum()),
        quote::literal(super::VERSION),
        parts::parts_now(phase),
        phase.number,
    );
    Script::new("reveille_migration", text)
}

/// Forgets an undone phase.
pub(super) fn forget(phase: &Phase) -> Script {
    Script::new(
        "reveille_migration",
        format!("delete from reveille_migration where number = {};\n", phase.number),
    )
}
