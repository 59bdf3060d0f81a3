//! What a phase has made, noted when it is made, so that a change by hand is seen: functions, views and triggers with a
//! checksum, the rights of our roles on them, and the definitions of indexes.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokio_postgres::Client;

use super::phase::Phase;
use crate::postgres::quote;

/// A function, view, trigger or table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Part {
    /// Of what it does; empty for triggers and tables. Where Postgres writes the text anew, its version and a colon come
    /// first: another version may write it in other words.
    pub(super) sum: String,
    /// Roles of ours that may use it.
    pub(super) grants: Vec<String>,
    /// False: a trigger that is disabled.
    #[serde(default = "yes")]
    pub(super) enabled: bool,
}

/// By what it is, such as `function fn_a(p int)`.
pub(super) type Parts = BTreeMap<String, Part>;

fn yes() -> bool {
    true
}

/// How a part is not as its phase has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is not there.
    Gone,
    /// It does something else.
    Replaced,
    /// A trigger that does not fire.
    Disabled,
    /// Roles have lost their right to it.
    Revoked(Vec<String>),
}

impl Change {
    /// Whether running `functions.sql` again sets it right.
    pub(super) fn is_mended_by_up(&self) -> bool {
        *self != Self::Disabled
    }
}

/// What has changed of a phase's parts since they were made.
pub(super) fn changes<'a>(made: &'a Parts, found: &Parts) -> Vec<(&'a str, Change)> {
    let version = |sum: &str| sum.split_once(':').map(|(version, _)| version.to_owned());
    let change = |(item, made): (&'a String, &Part)| {
        let Some(found) = found.get(item) else { return Some((item.as_str(), Change::Gone)) };
        let lost: Vec<String> =
            made.grants.iter().filter(|role| !found.grants.contains(role)).cloned().collect();
        let change = if version(&made.sum) == version(&found.sum) && made.sum != found.sum {
            Change::Replaced
        } else if !found.enabled {
            Change::Disabled
        } else if !lost.is_empty() {
            Change::Revoked(lost)
        } else {
            return None;
        };
        Some((item.as_str(), change))
    };
    made.iter().filter_map(change).collect()
}

/// Everything that may be a part, with its name in the files. Words that would read otherwise through another
/// `search_path` are compared through ours only.
const FOUND: &str = "
    select x.name, x.item, x.sum, x.enabled,
      coalesce((
        select jsonb_agg(distinct r.rolname::text) from aclexplode(x.acl) a join pg_roles r on r.oid = a.grantee
        where r.rolname like 'reveille\\_%' and a.privilege_type in ('EXECUTE', 'SELECT')), '[]') as grants
    from (
      select p.proname::text as name, true as enabled, p.proacl as acl,
        'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' as item,
        case when p.prosqlbody is null then '' else current_setting('server_version_num')::int / 10000 || ':' end
          || md5(concat_ws(chr(31), p.prosrc, pg_get_function_sqlbody(p.oid), array_to_string(p.proconfig, ','), p.prosecdef,
               p.provolatile, pg_get_function_result(p.oid))) as sum
      from pg_proc p where p.pronamespace = quote_ident(current_schema())::regnamespace
      union all
      select c.relname, true, c.relacl, case c.relkind when 'v' then 'view ' else 'table ' end || c.relname,
        case c.relkind when 'v' then current_setting('server_version_num')::int / 10000 || ':' || md5(pg_get_viewdef(c.oid)) else '' end
      from pg_class c where c.relkind in ('v', 'r', 'p') and c.relnamespace = quote_ident(current_schema())::regnamespace
      union all
      select t.tgname, t.tgenabled in ('O', 'A'), null, 'trigger ' || quote_ident(t.tgname) || ' on ' || quote_ident(c.relname), ''
      from pg_trigger t
      join pg_class c on c.oid = t.tgrelid and c.relnamespace = quote_ident(current_schema())::regnamespace
      join pg_proc p on p.oid = t.tgfoid and p.pronamespace = c.relnamespace
      where not t.tgisinternal and t.tgparentid = 0) x";

/// What there is now; the session must look into our schema.
pub(super) async fn read(client: &Client, made: &[&Parts]) -> Result<Parts, tokio_postgres::Error> {
    let mut found = Parts::new();
    if made.iter().all(|parts| parts.is_empty()) {
        return Ok(found);
    }
    for row in client.query_typed(FOUND, &[]).await? {
        let grants = row.try_get::<_, serde_json::Value>("grants")?;
        let grants = serde_json::from_value(grants).unwrap_or_default();
        let part = Part { sum: row.try_get("sum")?, grants, enabled: row.try_get("enabled")? };
        found.insert(row.try_get("item")?, part);
    }
    Ok(found)
}

/// An expression: the parts of this phase as they are now, a JSON object by item.
pub(super) fn parts_now(phase: &Phase) -> String {
    let names = phase.part_names();
    format!(
        "(select coalesce(jsonb_object_agg(y.item, jsonb_build_object('sum', y.sum, 'grants', y.grants)), '{{}}')\n from ({FOUND}) y\n where y.name = any ({}))",
        array(&names)
    )
}

/// An expression: the indexes that `up.sql` names, a JSON object of their definitions.
pub(super) fn indexes_now(phase: &Phase) -> String {
    format!(
        "(select coalesce(jsonb_object_agg(c.relname, pg_get_indexdef(c.oid)), '{{}}')\n from pg_class c\n \
         where c.relkind in ('i', 'I') and c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = any ({}))",
        array(&phase.index_names())
    )
}

fn array(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote::literal(name)).collect();
    format!("array[{}]::text[]", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(sum: &str, grants: &[&str]) -> Part {
        Part {
            sum: sum.to_owned(),
            grants: grants.iter().map(|role| (*role).to_owned()).collect(),
            enabled: true,
        }
    }

    fn one(part: Part) -> Parts {
        Parts::from([("function a()".to_owned(), part)])
    }

    #[test]
    fn a_part_that_is_as_it_was_made_is_no_change_and_more_rights_are_none() {
        assert!(changes(&one(part("x", &["a"])), &one(part("x", &["a", "b"]))).is_empty());
        assert_eq!(changes(&one(part("x", &[])), &one(part("y", &[])))[0].1, Change::Replaced);
        let (made, found) = (one(part("x", &["a", "b"])), one(part("x", &["b"])));
        let lost = changes(&made, &found);
        assert_eq!(lost[0].1, Change::Revoked(vec!["a".to_owned()]));
        assert_eq!(changes(&one(part("x", &[])), &Parts::new())[0].1, Change::Gone);
        let disabled = Part { enabled: false, ..part("", &[]) };
        assert_eq!(changes(&one(part("", &[])), &one(disabled))[0].1, Change::Disabled);
    }

    #[test]
    fn what_another_version_of_postgres_writes_in_other_words_is_not_compared() {
        assert!(changes(&one(part("15:x", &[])), &one(part("16:y", &[]))).is_empty());
        assert_eq!(changes(&one(part("15:x", &[])), &one(part("15:y", &[])))[0].1, Change::Replaced);
    }
}
