-- Functions of phase 010: whom an event is for, one job for each of them, pairs that are for nobody, and which collection
-- to begin with.

create or replace function fn_recipient_is_sound(p_recipient_ref text) returns boolean
language sql immutable
return coalesce(p_recipient_ref ~ '^(user|agency|role|agent):[^[:space:]{}]{1,200}$', false);
comment on function fn_recipient_is_sound(text) is 'Whether a recipient is user:…, agency:…, role:… or agent:… without spaces and braces.';

-- A scope_filter read once. The host's column may be jsonb or text. Whatever is wrong with it is said and never raised:
-- dispatch reads these rows, and one bad row of a person must not hold up the events of all.
create or replace function fn_scope_read(p_filter jsonb, out contains jsonb, out path jsonpath, out problem text)
language plpgsql stable set search_path from current
as $$
declare
  v_text text := btrim(p_filter #>> '{}');
begin
  if p_filter is null or jsonb_typeof(p_filter) = 'null' or v_text = '' then
    return;
  elsif jsonb_typeof(p_filter) = 'object' then
    contains := p_filter;
    return;
  elsif jsonb_typeof(p_filter) <> 'string' then
    problem := format('scope_filter is %s; it is an object, or a text that is a jsonpath', jsonb_typeof(p_filter));
    return;
  end if;
  begin
    if left(v_text, 1) = '{' then
      contains := v_text::jsonb;
    else
      path := v_text::jsonpath;
    end if;
  exception
    when others then
      problem := 'scope_filter: ' || sqlerrm;
      return;
  end;
  if regexp_replace(path::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
    path := null;
    problem := 'scope_filter has a variable ($name); a filter has none, write the value itself';
    return;
  end if;
  begin
    perform jsonb_path_match_tz('{"event": {}, "payload": {}}', path, '{}', false);
  exception
    when singleton_sql_json_item_required then
      path := null;
      problem := 'scope_filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
    when others then
      null; -- strict paths may fail on the empty sample and work on real events
  end;
end
$$;
comment on function fn_scope_read(jsonb) is 'A scope_filter as what the payload must contain or as a jsonpath, or what is wrong with it. Internal.';

-- The one reading of event_subscription. By column names, and only in our own schema, because the table may be the host's,
-- and a session may have a temporary one of that name.
create or replace function fn_event_subscriptions()
returns table (
  subscription jsonb, recipient_ref text, event_domain text, event_type text, event_stream text, scope_subject_table text,
  scope_contains jsonb, scope_path jsonpath, mute boolean, is_broadcast boolean, problem text)
language plpgsql stable security definer set search_path from current
as $$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'event_subscription' and c.relkind in ('r', 'p', 'v'))
  then
    return;
  end if;
  for subscription, recipient_ref, event_domain, event_type, event_stream, scope_subject_table, scope_contains, scope_path, mute,
      is_broadcast, problem in execute format($q$
    select d.doc, d.doc ->> 'recipient_ref', d.doc ->> 'event_domain', d.doc ->> 'event_type', d.doc ->> 'event_stream',
      d.doc ->> 'scope_subject_table', f.contains, f.path,
      coalesce(d.doc ->> 'mute' in ('true', 't', '1'), false),
      not d.doc ?| array['event_domain', 'event_type', 'event_stream', 'scope_subject_table'] and f.contains is null and f.path is null,
      case
        when not fn_recipient_is_sound(d.doc ->> 'recipient_ref') then
          format('recipient_ref %%s is not user:…, agency:…, role:… or agent:…', quote_nullable(d.doc ->> 'recipient_ref'))
        when d.doc ->> 'event_stream' <> all (array['comment', 'review', 'update', 'birth', 'task', 'alert', 'health']) then
          format('event_stream %%s is none of comment, review, update, birth, task, alert, health', quote_literal(d.doc ->> 'event_stream'))
        else f.problem
      end
    from (select jsonb_strip_nulls(to_jsonb(s)) as doc from %I.event_subscription s) d
    cross join lateral fn_scope_read(d.doc -> 'scope_filter') f $q$, current_schema())
  loop
    return next;
  end loop;
end
$$;
comment on function fn_event_subscriptions() is 'The rows of event_subscription as they are understood, each with what is wrong with it; null is any.';

-- Whom some events are for: a row for each recipient and each of its subscriptions that wants the event. Each event is fetched
-- by its key, as in fn_dispatch_rows; each subscription is read once, however many events there are.
create or replace function fn_event_recipient_rows(p_event_ids uuid[])
returns table (event_id uuid, recipient_ref text, subscription jsonb, muted_by jsonb)
language plpgsql stable set search_path from current set enable_hashjoin = on
as $$
#variable_conflict use_column
begin
  return query
  with subscriptions as materialized (
    select s.* from fn_event_subscriptions() s where s.problem is null
  ),
  events as materialized (
    select o as event, o.id, o.event_domain::text as event_domain, o.event_type::text as event_type, o.event_stream::text as event_stream,
      coalesce(o.event_subject_table, '') as subject_table
    from unnest(p_event_ids) as u (id)
    cross join lateral (select e.* from event_outbox e where e.id = u.id offset 0) o
  ),
  -- events of a pass are of few sorts: each sort is compared with all subscriptions, each event only with those of its sort
  sorts as materialized (
    select t.event_domain, t.event_type, t.event_stream, t.subject_table, s.recipient_ref, s.subscription, s.mute, s.scope_contains, s.scope_path
    from (select distinct v.event_domain, v.event_type, v.event_stream, v.subject_table from events v) t
    join subscriptions s on (s.event_domain is null or s.event_domain = t.event_domain)
      and (s.event_type is null or s.event_type = t.event_type)
      and (s.event_stream is null or s.event_stream = t.event_stream)
      and (s.scope_subject_table is null or s.scope_subject_table = t.subject_table)
  ),
  hits as materialized (
    select v.id, t.recipient_ref, t.subscription, t.mute
    from events v
    join sorts t on t.event_domain = v.event_domain and t.event_type = v.event_type and t.event_stream = v.event_stream
      and t.subject_table = v.subject_table
    where (t.scope_contains is null or (v.event).safe_payload @> t.scope_contains)
      and (t.scope_path is null
        or coalesce(jsonb_path_match_tz(fn_event_document(row((v.event).*)::event_outbox), t.scope_path, '{}', true), false))
  ),
  mutes as (
    select distinct on (h.id, h.recipient_ref) h.id, h.recipient_ref, h.subscription
    from hits h
    where h.mute
    order by h.id, h.recipient_ref, h.subscription
  )
  select h.id, h.recipient_ref, h.subscription, m.subscription
  from hits h
  left join mutes m on m.id = h.id and m.recipient_ref = h.recipient_ref
  where not h.mute
  order by h.id, m.subscription is not null, h.recipient_ref, h.subscription;
end
$$;
comment on function fn_event_recipient_rows(uuid[]) is 'Whom some events are for, by which subscription, and which mute row says otherwise. Internal.';

-- Whom an event is for. A mute row that wants the event wins over every other row of its recipient. Rows that are malformed
-- are for nobody: fn_event_subscriptions says what is wrong with them. Called by operators.
create or replace function fn_event_recipients(p_event_id uuid)
returns table (recipient_ref text, subscription jsonb, muted_by jsonb)
language plpgsql stable security definer set search_path from current
as $$
begin
  if p_event_id is null then
    raise exception 'fn_event_recipients needs the id of an event' using errcode = '22023';
  end if;
  return query select r.recipient_ref, r.subscription, r.muted_by from fn_event_recipient_rows(array[p_event_id]) r;
end
$$;
comment on function fn_event_recipients(uuid) is 'Whom an event is for: recipient, the row of event_subscription, and the mute row that wins over it, if any.';

-- A template for one recipient, whose document has him as {recipient}. The common ones cost nothing; the others are expanded.
create or replace function fn_recipient_template(p_template text, p_consumer_key text, p_document jsonb) returns text
language sql immutable
return case
  when p_template is null then null
  when p_template = '{event_subject_ref}' then p_document #>> '{event,event_subject_ref}'
  when p_template = '{recipient}' then p_document #>> '{event,recipient}'
  when p_template = '{consumer_key}:{event_id}:{recipient}'
    then p_consumer_key || ':' || (p_document #>> '{event,id}') || ':' || (p_document #>> '{event,recipient}')
  when strpos(p_template, '{') = 0 then p_template
  else fn_template_expand(p_template, p_consumer_key, p_document)
end;
comment on function fn_recipient_template(text, text, jsonb) is 'Fills a consumer''s template for one recipient of an event; null when a variable has no value.';

-- The jobs that events call for from the consumers that fan out: one a recipient. As fn_dispatch_events, and beside it: who
-- reads no recipients pays for none.
create or replace function fn_dispatch_fan_out(
  p_event_ids uuid[],
  p_consumer_key text default null,
  p_event_domain text default null,
  out jobs int, out duplicates int, out dry int, out errors int, out no_recipient int, out executors text[])
language plpgsql volatile set search_path from current
as $$
declare
  v_first uuid := fn_uuid_v7();
  v_repeated int;
begin
  with consumers as materialized (
    select c.*, coalesce(c.max_attempts, fn_job_max_attempts(c.job_kind, c.event_domain)) as attempts
    from consumer_registry c
    where c.enabled
      and c.job_kind is not null
      and c.fan_out is not null
      and (p_consumer_key is null or c.consumer_key = p_consumer_key)
      and (p_event_domain is null or c.event_domain = p_event_domain)
  ),
  pairs as materialized (
    select u.n, e.id as event_id, e.event_domain, e.safe_payload, e.correlation_id::text as correlation_id,
      fn_event_document(row(e.*)::event_outbox) as document, k.consumer_key
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (select o.* from event_outbox o where o.id = u.id offset 0) e
    join consumers k on 'match' = fn_event_verdict(
      row(e.*)::event_outbox, k.event_domain, k.event_type_like, k.event_stream, k.starts_at, k.filter)
  ),
  addressed as materialized (
    select distinct r.event_id, r.recipient_ref
    from fn_event_recipient_rows(array(select distinct p.event_id from pairs p)) r
    where r.muted_by is null
  ),
  named as materialized (
    select (row_number() over (order by p.n, p.consumer_key, a.recipient_ref))::int as n, p.event_id, p.event_domain, p.safe_payload,
      p.correlation_id, p.consumer_key, jsonb_set(p.document, '{event,recipient}', to_jsonb(a.recipient_ref)) as document
    from pairs p
    join addressed a on a.event_id = p.event_id
  ),
  wanted as materialized (
    select m.n, m.event_id, m.event_domain, m.safe_payload, m.correlation_id, k.consumer_key, k.job_kind, k.executor, k.priority,
      k.attempts, k.delay, k.dry_run, k.actor,
      fn_recipient_template(k.source_ref, k.consumer_key, m.document) as source_ref,
      fn_recipient_template(k.target_ref, k.consumer_key, m.document) as target_ref,
      fn_recipient_template(k.payload_ref, k.consumer_key, m.document) as payload_ref,
      x.ordering_key,
      x.idempotency_key,
      coalesce(x.idempotency_key, '') <> '' and (k.ordering_key is null or x.ordering_key is not null) as is_sound
    from named m
    join consumers k on k.consumer_key = m.consumer_key
    cross join lateral (select
      fn_recipient_template(k.ordering_key, k.consumer_key, m.document) as ordering_key,
      fn_recipient_template(k.idempotency_key, k.consumer_key, m.document) as idempotency_key) x
  ),
  made as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, w.n), w.job_kind, w.executor, w.event_domain, w.source_ref, w.target_ref, w.payload_ref,
      w.safe_payload, w.priority, clock_timestamp() + w.delay, w.attempts, fn_job_key(w.idempotency_key), w.ordering_key, w.actor,
      w.event_id, w.consumer_key, w.correlation_id, fn_traceparent(w.safe_payload ->> 'traceparent')
    from wanted w
    where not w.dry_run and w.is_sound
    order by w.n
    on conflict (job_kind, idempotency_key) do nothing
    returning executor
  ),
  refused as (
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    select distinct on (w.event_id, w.consumer_key) w.event_id, w.consumer_key, w.event_domain, '22004',
      'the template of ' || case when coalesce(w.idempotency_key, '') = '' then 'idempotency_key' else 'ordering_key' end
        || ' has a variable without a value'
    from wanted w
    where not w.dry_run and not w.is_sound
    order by w.event_id, w.consumer_key
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  )
  select
    (select count(*) from made),
    (select count(*) from wanted w where not w.dry_run and w.is_sound) - (select count(*) from made),
    (select count(*) from wanted w where w.dry_run),
    (select count(*) from refused),
    (select count(*) from pairs p where not exists (select from addressed a where a.event_id = p.event_id)),
    (select array_agg(distinct m.executor::text) from made m)
  into jobs, duplicates, dry, errors, no_recipient, executors;
  if jobs > 0 then
    v_repeated := fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647));
    jobs := jobs - v_repeated;
    duplicates := duplicates + v_repeated;
  end if;
end
$$;
comment on function fn_dispatch_fan_out(uuid[], text, text)
  is 'Makes one job for each recipient of some events: jobs, duplicates, dry, errors, no_recipient (pairs of event and consumer), executors. Internal.';

-- What a consumer that fans out would do with the newest events of its domain: one row a recipient, or one that says why not.
create or replace function fn_fan_out_dry_run(p_consumer consumer_registry, p_since timestamptz, p_limit int)
returns table (
  event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text,
  ordering_key text, idempotency_key text, event_type text, created_at timestamptz, recipient text)
language plpgsql stable set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  with judged as materialized (
    select o.id, o.event_type::text as event_type, o.created_at, fn_consumer_verdict(p_consumer, o) as verdict,
      fn_event_document(o) as document, fn_is_signal(o.safe_payload) as is_signal
    from event_outbox o
    where o.event_domain = (p_consumer).event_domain and (p_since is null or o.created_at >= p_since)
    order by o.created_at desc, o.id desc
    limit p_limit
  ),
  addressed as materialized (
    select distinct r.event_id, r.recipient_ref
    from fn_event_recipient_rows(array(select j.id from judged j where j.verdict = 'match')) r
    where r.muted_by is null
  ),
  named as materialized (
    select j.id, j.event_type, j.created_at, a.recipient_ref,
      case when j.verdict = 'match' and a.recipient_ref is null then 'no_recipient' else j.verdict end as verdict,
      j.is_signal,
      case when a.recipient_ref is not null then jsonb_set(j.document, '{event,recipient}', to_jsonb(a.recipient_ref)) end as document
    from judged j
    left join addressed a on a.event_id = j.id
  ),
  filled as (
    select m.*,
      fn_recipient_template((p_consumer).source_ref, (p_consumer).consumer_key, m.document) as source_ref,
      fn_recipient_template((p_consumer).target_ref, (p_consumer).consumer_key, m.document) as target_ref,
      fn_recipient_template((p_consumer).payload_ref, (p_consumer).consumer_key, m.document) as payload_ref,
      fn_recipient_template((p_consumer).ordering_key, (p_consumer).consumer_key, m.document) as ordering_key,
      nullif(fn_recipient_template((p_consumer).idempotency_key, (p_consumer).consumer_key, m.document), '') as idempotency_key
    from named m
  ),
  decided as (
    select f.*, case
        when f.verdict = 'match' and (f.idempotency_key is null or not f.is_signal
          or ((p_consumer).ordering_key is not null and f.ordering_key is null)) then 'undigestible'
        else f.verdict
      end as reason
    from filled f
  )
  select d.id, d.reason = 'match', d.reason, (p_consumer).job_kind::text, (p_consumer).executor::text,
    case when d.reason = 'match' then d.source_ref end,
    case when d.reason = 'match' then d.target_ref end,
    case when d.reason = 'match' then d.payload_ref end,
    case when d.reason = 'match' then d.ordering_key end,
    case when d.reason = 'match' then fn_job_key(d.idempotency_key) end,
    d.event_type, d.created_at, d.recipient_ref
  from decided d
  order by d.created_at, d.id, d.recipient_ref;
end
$$;
comment on function fn_fan_out_dry_run(consumer_registry, timestamptz, int) is 'fn_route_consumer_dry_run for a consumer that fans out. Internal.';

-- What fn_consumer_dispatch decided about one event for the consumers that fan out.
create or replace function fn_fan_out_decisions(p_event_id uuid) returns jsonb
language plpgsql stable set search_path from current
as $$
begin
  return (
    with addressed as materialized (
      select distinct r.recipient_ref from fn_event_recipient_rows(array[p_event_id]) r where r.muted_by is null
    )
    select coalesce(jsonb_agg(jsonb_build_object('consumer_key', c.consumer_key, 'decision',
        fn_consumer_decision(c, e, d.event_id is not null, a.recipient_ref is not null), 'recipient', a.recipient_ref, 'job_id', j.job_id, 'status', j.status, 'error', d.message)
      order by c.consumer_key, a.recipient_ref), '[]')
    from event_outbox e
    join consumer_registry c on c.event_domain = e.event_domain and c.fan_out is not null
    cross join lateral fn_consumer_verdict(c, e) as v (verdict)
    left join addressed a on c.enabled and v.verdict = 'match'
    left join dispatch_error d on d.event_id = e.id and d.consumer_key = c.consumer_key
    left join lateral fn_job_by_key(c.job_kind, fn_job_key(fn_recipient_template(c.idempotency_key, c.consumer_key,
      jsonb_set(fn_event_document(e), '{event,recipient}', to_jsonb(a.recipient_ref))))) j on a.recipient_ref is not null
    where e.id = p_event_id);
end
$$;
comment on function fn_fan_out_decisions(uuid) is 'The decisions of fn_consumer_dispatch about consumers that fan out, one a recipient. Internal.';

-- Pairs of domain and stream with active event types that are for nobody, or for somebody only by a row of all events, or
-- only within a scope. Looked at by type, because a pair is told of only if each of its types is. A recipient whom a
-- mute row without a scope takes out counts for nobody. Whether such events come: among the newest p_recent of the outbox.
create or replace function fn_subscription_gaps(p_recent int default 10000)
returns table (
  event_domain text, event_stream text, caught_by text, event_types text[], recent_events bigint, last_event_at timestamptz, hint text)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  with subscriptions as materialized (
    select s.*, s.scope_subject_table is not null or s.scope_contains is not null or s.scope_path is not null as is_scoped
    from fn_event_subscriptions() s
    where s.problem is null
  ),
  types as materialized (
    select t.event_domain::text as event_domain, t.event_type::text as event_type, t.event_stream::text as event_stream
    from event_type_registry t
    where t.active
  ),
  judged as materialized (
    select t.event_domain, t.event_type, t.event_stream, case
        when bool_or(not s.is_scoped and not s.is_broadcast) then null
        when bool_or(s.is_broadcast) then 'broadcast'
        when bool_or(s.is_scoped) then 'scope'
        else 'nobody'
      end as caught_by
    from types t
    left join subscriptions s on not s.mute
      and (s.event_domain is null or s.event_domain = t.event_domain)
      and (s.event_type is null or s.event_type = t.event_type)
      and (s.event_stream is null or s.event_stream = t.event_stream)
      and not exists (
        select from subscriptions m
        where m.mute and not m.is_scoped and m.recipient_ref = s.recipient_ref
          and (m.event_domain is null or m.event_domain = t.event_domain)
          and (m.event_type is null or m.event_type = t.event_type)
          and (m.event_stream is null or m.event_stream = t.event_stream))
    group by t.event_domain, t.event_type, t.event_stream
  ),
  recent as materialized (
    select n.event_domain, n.event_type, count(*) as events, max(n.created_at) as last_at
    from (
      select o.event_domain::text as event_domain, o.event_type::text as event_type, o.created_at
      from event_outbox o order by o.created_at desc limit p_recent) n
    group by n.event_domain, n.event_type
  )
  select j.event_domain, j.event_stream, j.caught_by, array_agg(j.event_type order by j.event_type), coalesce(sum(r.events), 0)::bigint,
    max(r.last_at), case j.caught_by
      when 'nobody' then 'nobody is told: add a row of event_subscription that says who shall be'
      when 'broadcast' then 'only a row of all events catches it: say whom it is for'
      else 'only rows with a scope catch it: what is outside of them is for nobody'
    end
  from judged j
  left join recent r on r.event_domain = j.event_domain and r.event_type = j.event_type
  where j.caught_by is not null
  group by j.event_domain, j.event_stream, j.caught_by
  order by array_position(array['nobody', 'scope', 'broadcast'], j.caught_by), max(r.last_at) desc nulls last, j.event_domain, j.event_stream;
end
$$;
comment on function fn_subscription_gaps(int) is 'Pairs of domain and stream with active types that resolve to nobody, or only by broadcast or within a scope. Called by v_subscription_gaps.';

create or replace view v_subscription_gaps as
select g.event_domain, g.event_stream, g.caught_by, g.event_types, g.recent_events, g.last_event_at, g.hint
from fn_subscription_gaps() g;
comment on view v_subscription_gaps is 'Pairs of domain and stream whose active event types resolve to nobody, or only by a row of all events or within a scope: warnings, nothing is stopped.';
comment on column v_subscription_gaps.caught_by is 'nobody; broadcast: only by a row in which everything is null; scope: only by rows with a subject table or filter.';
comment on column v_subscription_gaps.recent_events is 'How many of the newest 10000 events of the outbox are of these types.';

-- What health asks. Who has no subscription and no consumer that fans out does not use recipients, and is not warned.
create or replace function fn_subscription_standing(out in_use boolean, out nobody int, out others int, out malformed int)
language plpgsql stable security definer set search_path from current
set jit = off
as $$
begin
  select count(*) filter (where s.problem is not null), count(*) > 0 into malformed, in_use from fn_event_subscriptions() s;
  in_use := in_use or exists (select from consumer_registry c where c.fan_out is not null);
  nobody := 0;
  others := 0;
  if in_use then
    select count(*) filter (where g.caught_by = 'nobody'), count(*) filter (where g.caught_by <> 'nobody')
    into nobody, others from fn_subscription_gaps(0) g;
  end if;
end
$$;
comment on function fn_subscription_standing() is 'Pairs that resolve to nobody, others that are told of in part or only by broadcast, malformed rows; all 0 where recipients are not used.';

-- Which collection to begin with. An event belongs to the collection that its payload names under p_collection_key
-- (queue.pilot.collection_key, else `collection`), else to the first part of its canonical address, else to its subject's table,
-- else to its domain. A collection has three places: by volume (fewest events first), by failures for each event (fewest
-- first), and by what can be undone (most first); the smallest sum is the best. Fewer than 5 events teach nothing, and
-- come last. What follows an event is the kinds of the consumers that want its type, enabled or not, else of the jobs that
-- it made; one that ends with it, or whose kind has job.<kind>.reversible = true, can be undone, everything else cannot.
-- Reads the outbox from p_since on, all of it: called by an operator, seldom.
create or replace function fn_consumer_pilot(
  p_since timestamptz default null,
  p_limit int default 20,
  p_collection_key text default null,
  p_now timestamptz default null
) returns table (
  place int, collection text, grouped_by text, event_domains text[], events bigint, events_per_day numeric, jobs bigint,
  failed_attempts bigint, dead_letters bigint, dispatch_errors bigint, failures_per_event numeric, reversible numeric,
  irreversible_kinds text[], volume_place int, failure_place int, reversible_place int, enough boolean)
language plpgsql stable security definer set search_path from current set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_since timestamptz := coalesce(p_since, v_now - interval '30 days');
  v_key text := coalesce(p_collection_key, fn_config('queue.pilot.collection_key', 'collection'));
  v_least constant int := 5;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_consumer_pilot: p_limit must be at least 1, not %', coalesce(p_limit::text, 'null') using errcode = '22023';
  end if;
  return query
  with facts as materialized (
    select o.id, o.event_domain::text as event_domain, o.event_type::text as event_type,
      left(coalesce(nullif(o.safe_payload ->> v_key, ''), a.address, nullif(o.event_subject_table, ''), o.event_domain), 200) as collection,
      case when nullif(o.safe_payload ->> v_key, '') is not null then 'payload' when a.address is not null then 'address'
        when nullif(o.event_subject_table, '') is not null then 'table' else 'domain' end as grouped_by
    from event_outbox o
    cross join lateral (select substring(o.canonical_address from '^[^/:#]+') as address) a
    where o.created_at >= v_since and o.created_at <= v_now
  ),
  work as materialized (
    select f.collection, f.grouped_by, f.event_domain, f.event_type, j.job_id, j.job_kind::text as job_kind, j.error_count
    from facts f
    join (
      select q.job_id, q.job_kind, q.error_count, q.causation_event_id from job_queue q where q.causation_event_id is not null
      union all
      select x.job_id, x.job_kind, x.error_count, x.causation_event_id from job_archive x where x.causation_event_id is not null) j
      on j.causation_event_id = f.id
  ),
  worked as (
    select w.collection, w.grouped_by, count(*) as jobs, sum(w.error_count)::bigint as failed_attempts,
      (select count(*) from job_dead_letter d where d.job_id = any (array_agg(w.job_id))) as dead_letters
    from work w
    group by w.collection, w.grouped_by
  ),
  undigested as (
    select f.collection, f.grouped_by, count(*) as errors
    from dispatch_error d
    join facts f on f.id = d.event_id
    group by f.collection, f.grouped_by
  ),
  types as materialized (
    select f.collection, f.grouped_by, f.event_domain, f.event_type, count(*) as events
    from facts f
    group by f.collection, f.grouped_by, f.event_domain, f.event_type
  ),
  follows as materialized (
    select t.collection, t.grouped_by, t.events, k.job_kind,
      k.job_kind is null or coalesce(fn_gate_is_open('job.' || k.job_kind || '.reversible'), false) as is_reversible
    from types t
    cross join lateral (
      select distinct c.job_kind::text as job_kind
      from consumer_registry c where c.event_domain = t.event_domain and t.event_type like c.event_type_like
      union
      select distinct w.job_kind
      from work w
      where w.collection = t.collection and w.grouped_by = t.grouped_by and w.event_domain = t.event_domain and w.event_type = t.event_type
        and not exists (
          select from consumer_registry c where c.event_domain = t.event_domain and t.event_type like c.event_type_like)) k
  ),
  effects as (
    select l.collection, l.grouped_by, round(sum(l.events) filter (where l.is_reversible) / sum(l.events), 3) as reversible,
      array_agg(distinct l.job_kind order by l.job_kind) filter (where not l.is_reversible) as irreversible_kinds
    from follows l
    group by l.collection, l.grouped_by
  ),
  sums as (
    select t.collection, t.grouped_by, array_agg(distinct t.event_domain order by t.event_domain) as event_domains,
      sum(t.events)::bigint as events
    from types t
    group by t.collection, t.grouped_by
  ),
  measured as (
    select s.collection, s.grouped_by, s.event_domains, s.events,
      round(s.events / greatest(extract(epoch from v_now - v_since) / 86400, 0.0001)::numeric, 2) as events_per_day,
      coalesce(w.jobs, 0) as jobs, coalesce(w.failed_attempts, 0) as failed_attempts, coalesce(w.dead_letters, 0) as dead_letters,
      coalesce(u.errors, 0) as dispatch_errors,
      round((coalesce(w.failed_attempts, 0) + coalesce(w.dead_letters, 0) + coalesce(u.errors, 0))::numeric / s.events, 4) as failures_per_event,
      case when e.collection is not null then coalesce(e.reversible, 0) end as reversible,
      coalesce(e.irreversible_kinds, '{}') as irreversible_kinds, s.events >= v_least as enough
    from sums s
    left join worked w on w.collection = s.collection and w.grouped_by = s.grouped_by
    left join undigested u on u.collection = s.collection and u.grouped_by = s.grouped_by
    left join effects e on e.collection = s.collection and e.grouped_by = s.grouped_by
  ),
  placed as (
    select m.*,
      dense_rank() over (partition by m.enough order by m.events)::int as by_volume,
      dense_rank() over (partition by m.enough order by m.failures_per_event)::int as by_failure,
      dense_rank() over (partition by m.enough order by coalesce(m.reversible, 0) desc)::int as by_reversible
    from measured m
  )
  select
    (row_number() over (order by p.enough desc, p.by_volume + p.by_failure + p.by_reversible, p.failures_per_event, p.by_reversible,
      p.events, p.collection, p.grouped_by))::int,
    p.collection, p.grouped_by, p.event_domains, p.events, p.events_per_day, p.jobs, p.failed_attempts, p.dead_letters, p.dispatch_errors,
    p.failures_per_event, p.reversible, p.irreversible_kinds, p.by_volume, p.by_failure, p.by_reversible, p.enough
  from placed p
  order by 1
  limit p_limit;
end
$$;
comment on function fn_consumer_pilot(timestamptz, int, text, timestamptz)
  is 'Collections by how well they suit a pilot: few events, few failures, much that can be undone; places added, the smallest sum first.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_event_recipient_rows(uuid[])', 'fn_dispatch_fan_out(uuid[], text, text)',
      'fn_fan_out_dry_run(consumer_registry, timestamptz, int)', 'fn_fan_out_decisions(uuid)', 'fn_scope_read(jsonb)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
  end loop;
  foreach v_function in array array['fn_event_subscriptions()', 'fn_event_recipients(uuid)', 'fn_subscription_gaps(int)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
  end loop;
  -- counts only, and every role may ask for health
  execute format('revoke all on function %s from public', 'fn_subscription_standing()'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_subscription_standing()'::regprocedure),
    array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);
  -- any key of a payload can be named: not for readers
  execute format('revoke all on function %s from public', 'fn_consumer_pilot(timestamptz, int, text, timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_consumer_pilot(timestamptz, int, text, timestamptz)'::regprocedure), array['reveille_operator']);
  call pr_grant('select on v_subscription_gaps', array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
  if (select h.created from host_object h where h.object_name = 'event_subscription') then
    call pr_grant('select on table event_subscription', array['reveille_reader', 'reveille_operator']);
  end if;
end
$$;
