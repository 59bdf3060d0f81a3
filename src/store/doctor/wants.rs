//! What enabled consumers ask for and what they get; event types, registered, allowed and seen.

use deadpool_postgres::GenericClient;

use super::{LATELY, found};
use crate::error::Result;
use crate::model::finding::Finding;

/// Enabled consumers whose jobs nobody runs, and whose filter nothing passes.
pub async fn consumers(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'consumer_no_executor' as finding, 'consumer ' || c.consumer_key as subject,
          format('its jobs are for kind %s, of which no executor lives', c.executor) as what,
          case c.executor::text when 'PG_worker' then 'reveille work' else format('start an executor of kind %s', c.executor) end
            || format('; or reveille consumers disable %s --reason TEXT', c.consumer_key) as mend
        from consumer_registry c
        where c.enabled and not c.dry_run and c.job_kind is not null and c.job_kind not like 'workflow:%'
          and not exists (select from fn_executors_live(c.executor))
        union all
        select 'consumer_never_matches', 'consumer ' || c.consumer_key,
          format('of the last %s events of its type within 7 days its filter %s has let none through; instead: %s', c.seen, c.filter, c.has),
          format('reveille consumers preview %s; then ', c.consumer_key)
            || case c.source when 'file' then 'set filter in its file, and reveille consumers sync --apply'
              else format('select fn_consumer_put(%L, %L)', jsonb_build_object('consumer_key', c.consumer_key, 'filter', 'FILTER'), 'user:me') end
            || format('; or reveille consumers disable %s --reason TEXT', c.consumer_key)
        from fn_consumer_filter_check() c
        order by 2, 1
        limit 100";
    found(client, "looking at consumers", SQL, &[]).await
}

/// Types that consumers want or events have, and that are not registered; types that the outbox refuses.
pub async fn event_types(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = ",
        wanted as (
          select c.event_domain, c.event_type, 'consumer ' || c.consumer_key || ' wants it' as by, 'update' as stream
          from consumer_registry c where c.enabled and c.event_type not like '%*%'
          union all
          select 'system', t, 'Reveille announces what it finds by it', 'alert'
          from unnest(array['queue_dispatch_gap', 'queue_worker_recovered', 'queue_worker_silent']) t
          union all
          select l.event_domain, l.event_type, 'events of it have come lately', l.event_stream
          from lately l
          where l.created_at > now() - interval '7 days'
            and exists (select from dispatch_cursor d where d.event_domain = l.event_domain)
          group by l.event_domain, l.event_type, l.event_stream)
        (select 'event_type_unregistered' as finding, format('event type %s.%s', w.event_domain, w.event_type) as subject,
          'it is not registered, or not active: ' || string_agg(distinct w.by, ', ') as what,
          format('insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description) values (%L, %L, %L, %L, %L) on conflict (event_domain, event_type) do update set active = true',
            w.event_domain, w.event_type, max(w.stream), 'delayed', 'TEXT') as mend
        from wanted w
        where not exists (
          select from event_type_registry r where r.event_domain = w.event_domain and r.event_type = w.event_type and r.active)
        group by w.event_domain, w.event_type
        limit 50)
        union all
        (select 'event_type_refused', format('event type %s.%s', r.event_domain, r.event_type),
          format('constraint %I of event_outbox does not know %s', k.conname, v.value),
          format('as the owner of the table: widen %I; or update event_type_registry set active = false where event_domain = %L and event_type = %L', k.conname, r.event_domain, r.event_type)
        from event_type_registry r
        cross join lateral (values ('event_domain', r.event_domain::text), ('event_stream', r.event_stream::text), ('delivery_lane', r.delivery_lane::text)) v (name, value)
        join pg_class c on c.relname = 'event_outbox' and c.relnamespace = quote_ident(current_schema())::regnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attname = v.name
        -- a list of words, and nothing else: only that can be read without running it
        join pg_constraint k on k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum] and pg_get_constraintdef(k.oid) like '%= ANY (%'
        where r.active and strpos(pg_get_constraintdef(k.oid), quote_literal(v.value)) = 0
        limit 50)
        order by 2";
    found(client, "looking at event types", &[LATELY, SQL].concat(), &[]).await
}
