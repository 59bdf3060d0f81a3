//! The host's own tables: indexes on `event_outbox` that swallow repeats (HK3), readers of `iu_notification_event` (HK1).

use deadpool_postgres::GenericClient;

use super::found;
use crate::error::Result;
use crate::model::finding::Finding;

/// Unique indexes on `event_outbox` beside the one on its id.
pub async fn repeats(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'repeats_dropped' as finding, 'index ' || i.relname || ' on event_outbox' as subject,
          'one event for each of: ' || pg_get_indexdef(x.indexrelid) as what,
          format('emit what may come twice on the lane that the index leaves out; or, if nothing relies on it: %s',
            coalesce((select format('alter table event_outbox drop constraint %I', k.conname) from pg_constraint k where k.conindid = x.indexrelid limit 1),
              format('drop index %I', i.relname))) as mend
        from pg_index x
        join pg_class c on c.oid = x.indrelid and c.relname = 'event_outbox' and c.relnamespace = quote_ident(current_schema())::regnamespace
        join pg_class i on i.oid = x.indexrelid
        where x.indisunique and not x.indisprimary
          and not exists (
            select from pg_attribute a where a.attrelid = c.oid and a.attname = 'id' and a.attnum = any (x.indkey::int2[]))
        order by 2";
    found(client, "looking at unique indexes of event_outbox", SQL, &[]).await
}

/// Who still reads `iu_notification_event`: views, functions, triggers, keys, collections, and whoever scanned it.
pub async fn legacy(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        with old as (
          select c.oid, c.relname, n.nspname, format('%I.%I', n.nspname, c.relname) as place
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relname in ('iu_notification_event', 'iu_notification_read') and c.relkind in ('r', 'p')),
        readers as (
          select distinct o.oid, 'view ' || v.oid::regclass as reader
          from old o
          join pg_depend d on d.refobjid = o.oid and d.refclassid = 'pg_class'::regclass and d.classid = 'pg_rewrite'::regclass
          join pg_rewrite w on w.oid = d.objid
          join pg_class v on v.oid = w.ev_class and v.oid <> o.oid
          union
          select o.oid, 'function ' || p.oid::regprocedure
          from old o
          join pg_proc p on p.prosrc ~ ('\\m' || o.relname || '\\M')
          where p.pronamespace <> 'pg_catalog'::regnamespace
          union
          select o.oid, 'foreign key of ' || k.conrelid::regclass
          from old o join pg_constraint k on k.confrelid = o.oid and k.contype = 'f' and k.conrelid not in (select b.oid from old b)
          union
          select o.oid, 'trigger ' || t.tgname from old o join pg_trigger t on t.tgrelid = o.oid and not t.tgisinternal
          union
          select o.oid, format('somebody: %s reads of it since the statistics began', coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0))
          from old o join pg_stat_all_tables s on s.relid = o.oid
          where coalesce(s.seq_scan, 0) + coalesce(s.idx_scan, 0) > 0)
        select case when r.readers is null then 'legacy_unread' else 'legacy_read' end as finding, 'table ' || o.place as subject,
          case when r.readers is null then 'nothing in the database reads it' else 'it is read by ' || r.readers end as what,
          case when r.readers is null then format('pg_dump --table %s, then: drop table %s', o.place, o.place)
            else 'let them read event_outbox instead; `select pg_stat_reset_single_table_counters(' || quote_literal(o.place) || '::regclass)` begins the count of reads anew' end as mend
        from old o
        left join lateral (
          select string_agg(x.reader, ', ' order by x.reader) as readers from (select r.reader from readers r where r.oid = o.oid limit 20) x) r on true
        order by 2";
    found(client, "looking for readers of iu_notification_event", SQL, &[]).await
}
