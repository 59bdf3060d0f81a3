//! What the role of this session, and those of Reveille, may do.

use deadpool_postgres::GenericClient;

use super::found;
use crate::error::Result;
use crate::model::finding::Finding;

/// Roles that are missing, and whether the one in use is any of them.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        with ours as (
          select r.name, g.oid
          from unnest(array['reveille_owner', 'reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']) r (name)
          left join pg_roles g on g.rolname = r.name)
        select 'role_missing' as finding, 'role ' || o.name as subject, 'it is not there' as what,
          format('as a role that may create roles: create role %I nologin; then reveille migrate up', o.name) as mend
        from ours o where o.oid is null
        union all
        select 'role_without_rights', 'role ' || current_user, 'it is neither the owner of Reveille nor a member of any of its roles',
          format('grant reveille_reader to %I (to look); reveille_dispatcher for `run`, reveille_executor for `work`, reveille_operator for people', current_user)
        where not exists (select from ours o where pg_has_role(current_user, o.oid, 'usage'))
          and not exists (
            select from pg_class c
            where c.relname = 'reveille_migration' and c.relnamespace = quote_ident(current_schema())::regnamespace
              and pg_has_role(current_user, c.relowner, 'usage'))";
    found(client, "looking at roles", SQL, &[]).await
}
