-- Functions of phase 006: the check of a consumer row, templates, the verdict, the pass, one event, the preview,
-- and writing a row.

-- The event as a filter sees it.
create or replace function fn_event_document(p_event event_outbox) returns jsonb
language sql stable
return jsonb_build_object(
  'event', jsonb_build_object(
    'id', (p_event).id,
    'event_domain', (p_event).event_domain,
    'event_type', (p_event).event_type,
    'event_stream', (p_event).event_stream,
    'delivery_lane', (p_event).delivery_lane,
    'event_severity', (p_event).event_severity,
    'event_subject_table', (p_event).event_subject_table,
    'event_subject_ref', (p_event).event_subject_ref,
    'canonical_address', (p_event).canonical_address,
    'actor_ref', (p_event).actor_ref,
    'source_system', (p_event).source_system,
    'correlation_id', (p_event).correlation_id,
    'occurred_at', (p_event).occurred_at,
    'created_at', (p_event).created_at),
  'payload', (p_event).safe_payload);
comment on function fn_event_document(event_outbox) is 'An event as {"event": …, "payload": …}, the document of consumer filters.';

-- One pass over a template, so that a value which looks like a variable stays what it is. Null as soon as one
-- variable has no value.
create or replace function fn_template_expand(p_template text, p_consumer_key text, p_event jsonb) returns text
language sql immutable
return (
  select case when bool_or(t.value is null) then null else string_agg(t.value, '' order by t.n) end
  from (
    select m.n, case
      when m.part[1] is not null then m.part[1]
      when m.part[2] = 'consumer_key' then p_consumer_key
      when m.part[2] = 'event_id' then p_event #>> '{event,id}'
      when m.part[2] like 'payload.%' then p_event -> 'payload' ->> substr(m.part[2], 9)
      else p_event -> 'event' ->> m.part[2]
    end as value
    from regexp_matches(p_template, '([^{]+)|\{([^{}]*)\}', 'g') with ordinality as m (part, n)
  ) t);
comment on function fn_template_expand(text, text, jsonb) is 'Fills a template from {"event": …, "payload": …}.';

-- The common templates are single variables and cost nothing; the others are expanded.
create or replace function fn_template_render(p_template text, p_consumer_key text, p_event event_outbox) returns text
language sql stable
return case
  when p_template is null then null
  when p_template = '{event_subject_ref}' then (p_event).event_subject_ref
  when p_template = '{consumer_key}:{event_id}' then p_consumer_key || ':' || (p_event).id::text
  when p_template = '{event_id}' then (p_event).id::text
  when p_template = '{canonical_address}' then (p_event).canonical_address
  when strpos(p_template, '{') = 0 then p_template
  else fn_template_expand(p_template, p_consumer_key, fn_event_document(p_event))
end;
comment on function fn_template_render(text, text, event_outbox) is 'Fills a consumer''s template from an event; null when a variable has no value.';

-- What a consumer says to an event: match, or the first reason why not. Used by the pass and by the preview. The
-- consumer comes column by column: the planner then inlines the whole into the join of fn_dispatch_rows.
create or replace function fn_event_verdict(
  p_event event_outbox,
  p_event_domain text,
  p_event_type_like text,
  p_event_stream text,
  p_starts_at timestamptz,
  p_filter jsonpath
) returns text
language sql stable
return case
  when (p_event).event_domain is distinct from p_event_domain then 'other_domain'
  when (p_event).event_type not like p_event_type_like then 'other_type'
  when p_event_stream is not null and (p_event).event_stream is distinct from p_event_stream then 'other_stream'
  when (p_event).created_at < p_starts_at then 'before_start'
  when p_filter is not null
    and not coalesce(jsonb_path_match_tz(fn_event_document(p_event), p_filter, '{}', true), false) then 'filtered'
  else 'match'
end;
comment on function fn_event_verdict(event_outbox, text, text, text, timestamptz, jsonpath)
  is 'match, other_domain, other_type, other_stream, before_start or filtered.';

-- The same for a consumer row.
create or replace function fn_consumer_verdict(p_consumer consumer_registry, p_event event_outbox) returns text
language sql stable
return fn_event_verdict(p_event, (p_consumer).event_domain, (p_consumer).event_type_like, (p_consumer).event_stream,
  (p_consumer).starts_at, (p_consumer).filter);
comment on function fn_consumer_verdict(consumer_registry, event_outbox) is 'The verdict of a consumer row: match, or the first reason why not.';

-- What becomes of an event at a consumer: job, or why there is none. Said once, for dispatch, for who explains, and for who counts.
create or replace function fn_consumer_decision(
  p_consumer consumer_registry,
  p_event event_outbox,
  p_has_error boolean,
  p_has_recipient boolean default true
) returns text
language sql stable
return case
  when not (p_consumer).enabled then 'disabled'
  when fn_consumer_verdict(p_consumer, p_event) <> 'match' then fn_consumer_verdict(p_consumer, p_event)
  when (p_consumer).job_kind is null then 'terminal'
  when not p_has_recipient then 'no_recipient'
  when p_has_error then 'error'
  when (p_consumer).dry_run then 'dry_run'
  else 'job'
end;
comment on function fn_consumer_decision(consumer_registry, event_outbox, boolean, boolean)
  is 'job, disabled, terminal, no_recipient, error, dry_run, or the verdict of a consumer that does not want the event. Internal.';

-- Whether a job can be made of an event that matches: its keys have values, and its payload is a signal.
create or replace function fn_event_is_digestible(p_consumer consumer_registry, p_event event_outbox) returns boolean
language sql stable
return coalesce(fn_template_render((p_consumer).idempotency_key, (p_consumer).consumer_key, p_event), '') <> ''
  and ((p_consumer).ordering_key is null or fn_template_render((p_consumer).ordering_key, (p_consumer).consumer_key, p_event) is not null)
  and fn_is_signal((p_event).safe_payload);
comment on function fn_event_is_digestible(consumer_registry, event_outbox) is 'Whether a consumer that makes one job can make it of an event. Internal.';

-- What is wrong with a consumer row, or null. Called when a row is written and by the preview of a row not yet stored.
create or replace function fn_consumer_problem(p_consumer consumer_registry) returns text
language plpgsql stable set search_path from current
as $$
declare
  v_template record;
  v_variable text;
begin
  if not exists (select from dispatch_cursor c where c.event_domain = (p_consumer).event_domain) then
    return format('event_domain %s is not dispatched here; it is one of %s', quote_literal((p_consumer).event_domain),
      (select string_agg(c.event_domain, ', ' order by c.event_domain) from dispatch_cursor c));
  end if;
  for v_template in
    select t.name, t.template from (values
      ('source_ref', (p_consumer).source_ref), ('target_ref', (p_consumer).target_ref), ('payload_ref', (p_consumer).payload_ref),
      ('ordering_key', (p_consumer).ordering_key), ('idempotency_key', (p_consumer).idempotency_key)) as t (name, template)
    where t.template is not null
  loop
    if regexp_replace(v_template.template, '\{[^{}]*\}', '', 'g') ~ '[{}]' then
      return format('%s has an unmatched brace: %s', v_template.name, quote_literal(v_template.template));
    end if;
    for v_variable in select m[1] from regexp_matches(v_template.template, '\{([^{}]*)\}', 'g') as m loop
      if v_variable not in ('consumer_key', 'event_id', 'event_domain', 'event_type', 'event_stream', 'event_severity', 'event_subject_table',
          'event_subject_ref', 'canonical_address', 'actor_ref', 'source_system', 'correlation_id')
        and v_variable !~ '^payload\..+$' and (v_variable <> 'recipient' or (p_consumer).fan_out is null) then
        if v_variable = 'recipient' then
          return format('%s has {recipient}, which only a consumer with fan_out = recipients has', v_template.name);
        end if;
        return format('%s has an unknown variable {%s}; known are {consumer_key} {event_id} {event_domain} {event_type} {event_stream} '
          '{event_severity} {event_subject_table} {event_subject_ref} {canonical_address} {actor_ref} {source_system} {correlation_id} {payload.KEY}',
          v_template.name, v_variable);
      end if;
    end loop;
  end loop;
  if (p_consumer).event_stream is not null
    and (p_consumer).event_stream <> all (array['comment', 'review', 'update', 'birth', 'task', 'alert', 'health'])
  then
    return format('event_stream %s is none of comment, review, update, birth, task, alert, health', quote_literal((p_consumer).event_stream));
  end if;
  if btrim(coalesce((p_consumer).idempotency_key, '')) = '' then
    return 'idempotency_key is empty; leave it out for the default {consumer_key}:{event_id}';
  end if;
  if (p_consumer).fan_out <> 'recipients' then
    return format('fan_out %s is not known; it is recipients, or left out', quote_literal((p_consumer).fan_out));
  elsif (p_consumer).fan_out is not null and (p_consumer).job_kind is null then
    return 'fan_out makes one job a recipient, and a terminal consumer makes none: name a job_kind or leave fan_out out';
  elsif (p_consumer).fan_out is not null and strpos((p_consumer).idempotency_key, '{recipient}') = 0 then
    return 'idempotency_key lacks {recipient}: two recipients of one event would share one job; '
      'leave it out for the default {consumer_key}:{event_id}:{recipient}';
  elsif (p_consumer).fan_out is not null and not exists (
    select from pg_proc p where p.proname = 'fn_dispatch_fan_out' and p.pronamespace = quote_ident(current_schema())::regnamespace)
  then
    return 'fan_out needs what resolves recipients: run `reveille migrate up` first';
  end if;
  if (p_consumer).filter is not null then
    -- asked of the text, as the sample may never reach it; names stand between double quotes, a quote within escaped
    if regexp_replace((p_consumer).filter::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
      return 'filter has a variable ($name); a filter has none, write the value itself';
    end if;
    begin
      perform jsonb_path_match_tz('{"event": {}, "payload": {}}', (p_consumer).filter, '{}', false);
    exception
      when singleton_sql_json_item_required then
        return 'filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
      when others then
        null; -- strict paths may fail on the empty sample and work on real events
    end;
  end if;
  return null;
end
$$;
comment on function fn_consumer_problem(consumer_registry) is 'The first thing wrong with a consumer row, as a sentence; null when it is sound.';

create or replace function fn_consumer_registry_check() returns trigger
language plpgsql set search_path from current
as $$
declare
  v_problem text;
begin
  if new.fan_out is not null and new.idempotency_key = '{consumer_key}:{event_id}' then
    new.idempotency_key := '{consumer_key}:{event_id}:{recipient}'; -- the default of such a row
  end if;
  v_problem := fn_consumer_problem(new);
  -- a pass reads both sorts of consumers one after the other: a row that changes sides between would be missed, or served twice
  if v_problem is null and tg_op = 'UPDATE' and new.fan_out is distinct from old.fan_out then
    v_problem := 'fan_out is fixed when the row is made: write a consumer of another name, or remove this one first';
  end if;
  if v_problem is not null then
    raise exception 'consumer %: %', new.consumer_key, v_problem using errcode = '23514';
  end if;
  if tg_op = 'UPDATE' then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$$;
comment on function fn_consumer_registry_check() is 'Refuses a bad consumer row when it is written, with the reason.';

create or replace function fn_queue_control_announce() returns trigger
language plpgsql set search_path from current
as $$
begin
  perform pg_notify('queue_control', '');
  return null;
end
$$;
comment on function fn_queue_control_announce() is 'Announces on queue_control that consumers changed.';
revoke all on function fn_consumer_registry_check() from public;
revoke all on function fn_queue_control_announce() from public;

create or replace trigger consumer_registry_check
before insert or update on consumer_registry
for each row execute function fn_consumer_registry_check();

create or replace trigger consumer_registry_announce
after insert or update or delete on consumer_registry
for each statement execute function fn_queue_control_announce();

-- The jobs that some events call for, in the order of the events: one row for each (event, consumer) that matches.
-- No settings and no path of its own, so that the planner inlines it into the INSERT that reads it. Each event is
-- fetched once, by its key, in order: OFFSET 0 keeps the planner from joining the other way round, which reads the whole
-- outbox at every pass once the plan was made while it was small; and the outer join (whose condition below makes
-- it an inner one again) keeps events outside and consumers inside.
create or replace function fn_dispatch_rows(p_event_ids uuid[], p_consumer_key text default null, p_event_domain text default null)
returns table (
  n int, event_id uuid, event_domain text, created_at timestamptz, safe_payload jsonb, correlation_id text, consumer_key text, job_kind job_kind,
  executor executor_kind, priority job_priority, max_attempts job_limit, delay interval, dry_run boolean, actor job_actor,
  source_ref text, target_ref text, payload_ref text, is_ordered boolean, ordering_key text, idempotency_key text)
language sql stable
begin atomic
  with consumers as materialized (
    select
      c.consumer_key, c.event_domain, c.event_type_like, c.event_stream, c.starts_at, c.filter, c.job_kind, c.executor, c.priority,
      c.delay, c.dry_run, c.actor, c.source_ref, c.target_ref, c.payload_ref, c.ordering_key, c.idempotency_key,
      coalesce(
        c.max_attempts, -- else as fn_job_max_attempts, in line
        (select greatest(1, d.value::numeric)::int from dot_config d
         where d.key = any (fn_job_policy_keys('max_attempts', c.job_kind, c.event_domain)) and d.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'
         order by array_position(fn_job_policy_keys('max_attempts', c.job_kind, c.event_domain), d.key::text)
         limit 1),
        5)::job_limit as max_attempts,
      row_number() over (order by c.consumer_key) as n,
      count(*) over () as of
    from consumer_registry c
    where c.enabled
      and c.job_kind is not null
      and c.fan_out is null
      and (p_consumer_key is null or c.consumer_key = p_consumer_key)
      and (p_event_domain is null or c.event_domain = p_event_domain)
  )
  select
    (u.n * k.of + k.n)::int,
    e.id,
    e.event_domain,
    e.created_at,
    e.safe_payload,
    e.correlation_id::text,
    k.consumer_key,
    k.job_kind,
    k.executor,
    k.priority,
    k.max_attempts,
    k.delay,
    k.dry_run,
    k.actor,
    fn_template_render(k.source_ref, k.consumer_key, row(e.*)::event_outbox),
    fn_template_render(k.target_ref, k.consumer_key, row(e.*)::event_outbox),
    fn_template_render(k.payload_ref, k.consumer_key, row(e.*)::event_outbox),
    k.ordering_key is not null,
    fn_template_render(k.ordering_key, k.consumer_key, row(e.*)::event_outbox),
    fn_template_render(k.idempotency_key, k.consumer_key, row(e.*)::event_outbox)
  from unnest(p_event_ids) with ordinality as u (id, n)
  cross join lateral (select o.* from event_outbox o where o.id = u.id offset 0) e
  left join consumers k on 'match' = fn_event_verdict(
    row(e.*)::event_outbox, k.event_domain, k.event_type_like, k.event_stream, k.starts_at, k.filter)
  where coalesce(k.consumer_key, '') <> '';
end;
comment on function fn_dispatch_rows(uuid[], text, text) is 'The jobs that events call for: every enabled consumer (or the named one, or those of one domain) against these events; those that fan out are read by fn_dispatch_fan_out. Internal.';

-- The quick way: one bare INSERT, so that all of it sees the same consumers. It makes all jobs and answers how many,
-- or raises: a duplicate, a key without a value or an illegal column sends the caller to fn_dispatch_events. ON CONFLICT
-- and RETURNING would cost a fifth of the throughput for what hardly ever happens. So would asking the archive for each
-- key: unless p_ask, it takes only events so new that they cannot have a job there (job_archive_bound, which phase 008
-- makes), and raises 23502 for others; whether that still held at its end is asked again.
create or replace function fn_dispatch_events_plain(p_event_ids uuid[], p_event_domain text, p_ask boolean) returns int
language plpgsql volatile set search_path from current
as $$
declare
  v_first uuid := fn_uuid_v7();
  v_has_archive boolean := exists (select from pg_class c where c.relname = 'job_archive_bound' and c.relnamespace = quote_ident(current_schema())::regnamespace);
  v_kinds text[];
  v_bound timestamptz;
  v_ask boolean := false;
  v_jobs int;
begin
  if v_has_archive then
    select array_agg(c.job_kind), max(b.newest_event) into v_kinds, v_bound
    from consumer_registry c
    left join job_archive_bound b on b.job_kind = c.job_kind
    where c.event_domain = p_event_domain and c.fan_out is null;
    v_ask := p_ask or coalesce(v_bound = 'infinity', false);
  end if;
  if v_ask or v_bound is null then
    v_bound := '-infinity';
  end if;
  insert into job_queue (
    job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
    max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
  select
    fn_uuid_v7_nth(v_first, r.n), r.job_kind, r.executor, r.event_domain, r.source_ref, r.target_ref, r.payload_ref,
    r.safe_payload, r.priority, clock_timestamp() + r.delay, r.max_attempts,
    case when (not r.is_ordered or r.ordering_key is not null) and r.created_at > v_bound then r.idempotency_key end,
    r.ordering_key, r.actor, r.event_id, r.consumer_key, r.correlation_id, fn_traceparent(r.safe_payload ->> 'traceparent')
  from fn_dispatch_rows(p_event_ids, p_event_domain => p_event_domain) r
  where not coalesce(r.dry_run, true); -- coalesce: a strict condition would turn the join, and the order, around
  get diagnostics v_jobs = row_count;
  if v_has_archive and not v_ask then
    v_ask := exists (
      select from job_archive_bound b
      where b.newest_event > v_bound
        and b.job_kind = any (v_kinds || array(
          select c.job_kind::text from consumer_registry c where c.event_domain = p_event_domain and c.fan_out is null)));
  end if;
  if v_ask and v_jobs > 0 and fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647)) > 0 then
    raise exception 'some of these jobs are archived' using errcode = '23505';
  end if;
  return v_jobs;
end
$$;
comment on function fn_dispatch_events_plain(uuid[], text, boolean) is 'Makes the jobs of some events when nothing is out of the ordinary, else raises. Internal.';

-- The careful way, in one statement: duplicates are counted, dry runs only counted, and a key that has no value
-- goes to dispatch_error; anything worse raises and the caller takes events one by one. The plan is fixed, as it is
-- in fn_consumer_dispatch_batch.
create or replace function fn_dispatch_events(
  p_event_ids uuid[],
  p_consumer_key text default null,
  p_event_domain text default null,
  out jobs int, out duplicates int, out dry int, out errors int, out no_recipient int, out executors text[])
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_first uuid := fn_uuid_v7();
  v_repeated int;
  v_fanned record;
begin
  no_recipient := 0;
  with wanted as materialized (
    select r.*, coalesce(r.idempotency_key, '') <> '' and (not r.is_ordered or r.ordering_key is not null) as is_sound
    from fn_dispatch_rows(p_event_ids, p_consumer_key, p_event_domain) r
  ),
  made as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, w.n), w.job_kind, w.executor, w.event_domain, w.source_ref, w.target_ref, w.payload_ref,
      w.safe_payload, w.priority, clock_timestamp() + w.delay, w.max_attempts,
      case when length(w.idempotency_key) <= 512 then w.idempotency_key else fn_job_key(w.idempotency_key) end,
      w.ordering_key, w.actor, w.event_id, w.consumer_key, w.correlation_id, fn_traceparent(w.safe_payload ->> 'traceparent')
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
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  )
  select
    (select count(*) from made),
    (select count(*) from wanted w where not w.dry_run and w.is_sound) - (select count(*) from made),
    (select count(*) from wanted w where w.dry_run),
    (select count(*) from refused),
    (select array_agg(distinct m.executor::text) from made m)
  into jobs, duplicates, dry, errors, executors;
  if jobs > 0 then
    v_repeated := fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647));
    jobs := jobs - v_repeated;
    duplicates := duplicates + v_repeated;
  end if;
  if exists (
    select from consumer_registry c
    where c.enabled and c.fan_out is not null and (p_consumer_key is null or c.consumer_key = p_consumer_key)
      and (p_event_domain is null or c.event_domain = p_event_domain))
  then
    select * into v_fanned from fn_dispatch_fan_out(p_event_ids, p_consumer_key, p_event_domain);
    jobs := jobs + v_fanned.jobs;
    duplicates := duplicates + v_fanned.duplicates;
    dry := dry + v_fanned.dry;
    errors := errors + v_fanned.errors;
    no_recipient := v_fanned.no_recipient;
    executors := executors || v_fanned.executors;
  end if;
end
$$;
comment on function fn_dispatch_events(uuid[], text, text) is 'Makes the jobs of some events: jobs, duplicates, dry, errors, no_recipient, executors. Internal.';

-- The same, event by event and consumer by consumer: what cannot be digested goes to dispatch_error, alone.
create or replace function fn_dispatch_events_singly(
  p_event_ids uuid[],
  out jobs int, out duplicates int, out dry int, out errors int, out no_recipient int, out executors text[])
language plpgsql volatile set search_path from current
as $$
declare
  v_pair record;
  v_one record;
  v_state text;
  v_message text;
begin
  jobs := 0; duplicates := 0; dry := 0; errors := 0; no_recipient := 0; executors := '{}';
  for v_pair in
    select e.id, e.event_domain, c.consumer_key
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (select o.id, o.event_domain, o.event_type from event_outbox o where o.id = u.id offset 0) e
    join consumer_registry c on c.enabled and c.event_domain = e.event_domain and e.event_type like c.event_type_like
    order by u.n, c.consumer_key
  loop
    begin
      select * into v_one from fn_dispatch_events(array[v_pair.id], v_pair.consumer_key);
      jobs := jobs + v_one.jobs;
      duplicates := duplicates + v_one.duplicates;
      dry := dry + v_one.dry;
      errors := errors + v_one.errors;
      no_recipient := no_recipient + v_one.no_recipient;
      executors := executors || coalesce(v_one.executors, '{}');
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then -- of an event, not of the server: those are not kept, the pass is done again
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        errors := errors + 1;
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (v_pair.id, v_pair.consumer_key, v_pair.event_domain, v_state, v_message)
        on conflict (event_id, consumer_key) do update
        set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
    end;
  end loop;
end
$$;
comment on function fn_dispatch_events_singly(uuid[]) is 'Makes the jobs of some events one by one, when doing it at once failed. Internal.';

-- Which pause stops the dispatch of a domain; the one of all comes first, because it is told once and not for each domain.
create or replace function fn_domain_pause(p_event_domain text) returns text
language plpgsql stable set search_path from current
as $$
begin
  return (
    select min(p.scope) from queue_pause p -- 'all' < 'domain'
    where p.resumed_at is null and (p.scope = 'all' or (p.scope = 'domain' and p.name = p_event_domain)));
end
$$;
comment on function fn_domain_pause(text) is 'The scope of the pause that stops a domain: all or domain; null when none does.';

-- One pass of one domain: read the next arrivals in commit-safe order, make their jobs, append the new position.
-- One transaction: a crash leaves position and jobs as they were before. Called by the dispatcher and by `tick`.
-- The plans are fixed: arrivals by their index, events by primary key in the order given, each against the few
-- consumers. A plan made while the outbox was small would later read all of it; planning anew costs more than a pass
-- of one event.
create or replace function fn_consumer_dispatch_batch(p_event_domain text, p_limit int default 1000, p_found_by text default 'sql')
returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
  v_started timestamptz := clock_timestamp();
  v_pass dispatch_pass;
  v_old pg_snapshot;
  v_new pg_snapshot;
  v_place_tx xid8;
  v_place_seq bigint;
  v_range record;
  v_part record;
  v_ids uuid[] := '{}';
  v_txs xid8[] := '{}';
  v_seqs bigint[] := '{}';
  v_consumers int;
  v_executors text[];
  v_kinds text[];
  v_plain boolean;
  v_fans boolean;
  v_fanned record;
  v_jobs int;
  v_duplicates int := 0;
  v_dry int := 0;
  v_errors int := 0;
  v_no_recipient int := 0;
  v_count int;
  v_limit int;
  v_way text;
  v_singly int;
  v_more boolean;
  v_resumed boolean;
  v_executor text;
  v_pause text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_consumer_dispatch_batch needs READ COMMITTED: an older snapshot would miss another sidecar''s last pass'
      using errcode = '25001';
  end if;
  if coalesce((select c.value from dot_config c where c.key = 'queue.job_substrate.enabled'), '') <> 'true' then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  v_pause := fn_domain_pause(p_event_domain);
  if v_pause is not null then
    return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause); -- the position stays
  end if;
  perform from dispatch_cursor c where c.event_domain = p_event_domain for update skip locked;
  if not found then
    if exists (select from dispatch_cursor c where c.event_domain = p_event_domain) then
      return jsonb_build_object('refused', false, 'busy', true, 'events', 0, 'jobs', 0, 'duplicates', 0, 'errors', 0, 'more', false);
    end if;
    raise exception 'event_domain % is not dispatched here', quote_literal(p_event_domain)
      using errcode = '22023', hint = 'fn_dispatch_domain_add adds a domain.';
  end if;

  -- a statement of its own, after the lock: it sees the pass of whoever held the lock before
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  v_old := v_pass.snapshot_old;
  v_new := v_pass.snapshot_new;
  v_place_tx := v_pass.place_tx;
  v_place_seq := v_pass.place_seq;
  if pg_snapshot_xmax(v_new) > pg_snapshot_xmax(pg_current_snapshot()) then
    raise exception 'the position of % lies in the future of this cluster: a restored dump', p_event_domain
      using errcode = '55000', hint = 'Call fn_dispatch_attach(), or restart the sidecar, which does.';
  end if;
  -- bad rows come in runs: do not try a large batch again and again only to see it fail
  v_limit := case when v_pass.errors > 0 then least(p_limit, 100) else p_limit end;
  loop
    v_resumed := v_place_tx is not null;
    if not v_resumed then
      v_old := v_new;
      v_new := pg_current_snapshot();
      if pg_current_xact_id() < pg_snapshot_xmax(v_new) then -- seldom; see there
        v_new := fn_dispatch_snapshot();
      end if;
    end if;
    for v_range in select * from fn_arrival_ranges(v_old, v_new, v_place_tx, v_place_seq) loop
      select array_agg(s.event_id) as ids, array_agg(s.tx_id) as txs, array_agg(s.arrival_seq) as seqs into v_part
      from (
        select a.event_id, a.tx_id, a.arrival_seq
        from event_arrival a
        where a.event_domain = p_event_domain
          and (a.tx_id, a.arrival_seq) > (v_range.low_tx, v_range.low_seq)
          and (a.tx_id, a.arrival_seq) < (v_range.high_tx, v_range.high_seq)
        order by a.tx_id, a.arrival_seq
        limit v_limit - cardinality(v_ids)) s;
      if v_part.ids is not null then
        v_ids := v_ids || v_part.ids;
        v_txs := v_txs || v_part.txs;
        v_seqs := v_seqs || v_part.seqs;
      end if;
      exit when cardinality(v_ids) >= v_limit;
    end loop;
    exit when cardinality(v_ids) > 0 or not v_resumed;
    v_place_tx := null; -- the resumed pair had nothing left: look at a new one
  end loop;
  v_count := cardinality(v_ids);
  if v_count = 0 then
    return jsonb_build_object('refused', false, 'busy', false, 'events', 0, 'jobs', 0, 'duplicates', 0, 'errors', 0, 'more', false);
  end if;
  v_more := v_count >= v_limit;

  -- Plain: no consumer that only counts, and keys of which no two can be the same; those that fan out are served beside it. Whom to wake is read from the
  -- consumers: at worst somebody looks in vain, or at his next poll.
  select count(*), array_agg(distinct c.executor::text), array_agg(distinct c.job_kind::text), coalesce(bool_and(
    c.fan_out is not null or (
      not c.dry_run and strpos(c.idempotency_key, '{event_id}') > 0 and strpos(c.idempotency_key, '{consumer_key}') > 0)), true),
    coalesce(bool_or(c.fan_out is not null), false)
  into v_consumers, v_executors, v_kinds, v_plain, v_fans
  from consumer_registry c where c.enabled and c.event_domain = p_event_domain and c.job_kind is not null;
  v_way := case when v_plain then 'plain' else 'careful' end;
  -- fewer than 64 savepoints a transaction (trap 19): the rest comes with the next passes
  v_singly := greatest(1, 58 / greatest(1, v_consumers));
  loop
    if v_way = 'singly' then
      select d.jobs, d.duplicates, d.dry, d.errors, d.no_recipient, d.executors
      into v_jobs, v_duplicates, v_dry, v_errors, v_no_recipient, v_executors
      from fn_dispatch_events_singly(v_ids[1:v_count]) d;
      exit;
    end if;
    begin
      if v_way in ('plain', 'asking') then
        v_jobs := fn_dispatch_events_plain(v_ids, p_event_domain, v_way = 'asking');
        if v_fans then
          select * into v_fanned from fn_dispatch_fan_out(v_ids, p_event_domain => p_event_domain);
          v_jobs := v_jobs + v_fanned.jobs;
          v_duplicates := v_fanned.duplicates;
          v_dry := v_fanned.dry;
          v_errors := v_fanned.errors;
          v_no_recipient := v_fanned.no_recipient;
        end if;
      else
        select d.jobs, d.duplicates, d.dry, d.errors, d.no_recipient, d.executors
        into v_jobs, v_duplicates, v_dry, v_errors, v_no_recipient, v_executors
        from fn_dispatch_events(v_ids[1:v_count], p_event_domain => p_event_domain) d;
      end if;
      exit;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        if v_way = 'plain' and sqlstate = '23502' then
          v_way := 'asking'; -- old events: their jobs may be archived
        elsif v_way in ('plain', 'asking') then
          v_way := 'careful';
        elsif v_count > v_singly then
          v_count := greatest(v_singly, v_count / 2); -- the bad one is in this half, or its turn comes with a later pass
        else
          v_way := 'singly';
        end if;
    end;
  end loop;
  v_more := v_more or v_count < cardinality(v_ids);
  if exists (select from job_gate g where g.kind = 'event' and g.event_id is null and g.event_domain = p_event_domain) then
    perform fn_job_gate_events(v_ids[1:v_count]);
  end if;
  if v_jobs > 0 and exists (select from unnest(v_kinds) k where k like 'workflow:%') then
    perform fn_mot_start();
  end if;

  insert into dispatch_pass (
    event_domain, snapshot_old, snapshot_new, place_tx, place_seq, events, jobs, duplicates, errors, found_by, took)
  values (
    p_event_domain, v_old, v_new, case when v_more then v_txs[v_count] end, case when v_more then v_seqs[v_count] end,
    v_count, v_jobs, v_duplicates, v_errors, p_found_by, clock_timestamp() - v_started);
  if v_jobs > 0 then
    foreach v_executor in array v_executors loop
      perform fn_job_wake(v_executor, v_kinds, v_jobs);
    end loop;
  end if;
  return jsonb_build_object('refused', false, 'busy', false, 'events', v_count, 'jobs', v_jobs,
    'duplicates', v_duplicates, 'dry', v_dry, 'errors', v_errors, 'no_recipient', v_no_recipient,
    'more', v_more or v_resumed); -- behind the end of a resumed pair lies whatever was committed since it was begun
end
$$;
comment on function fn_consumer_dispatch_batch(text, int, text)
  is 'One pass of one domain: {events, jobs, duplicates, dry, errors, no_recipient, more}; busy when another sidecar holds the domain.';

-- What was decided about an event by each consumer of its domain, and the job that holds its key. Reads only. Called by
-- fn_consumer_dispatch and fn_event_explain.
create or replace function fn_event_decisions(p_event_id uuid) returns jsonb
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_decisions jsonb;
begin
  select coalesce(jsonb_agg(jsonb_build_object('consumer_key', c.consumer_key, 'decision',
      fn_consumer_decision(c, e, d.event_id is not null), 'job_id', j.job_id, 'status', j.status, 'error', d.message) order by c.consumer_key), '[]')
  into v_decisions
  from event_outbox e
  join consumer_registry c on c.event_domain = e.event_domain
  left join dispatch_error d on d.event_id = e.id and d.consumer_key = c.consumer_key
  left join lateral fn_job_by_key(c.job_kind, fn_job_key(fn_template_render(c.idempotency_key, c.consumer_key, e))) j on true
  where e.id = p_event_id and c.fan_out is null;
  if exists (
    select from event_outbox e join consumer_registry c on c.event_domain = e.event_domain and c.fan_out is not null where e.id = p_event_id)
  then
    v_decisions := v_decisions || fn_fan_out_decisions(p_event_id);
  end if;
  return v_decisions;
end
$$;
comment on function fn_event_decisions(uuid) is 'One decision per consumer of an event, one a recipient where it fans out: consumer_key, decision, recipient, job_id, status, error. Internal.';
revoke all on function fn_event_decisions(uuid) from public;

-- One event, again or for the first time: makes what is missing and answers a decision per consumer. Idempotent.
-- Called by operators and after a dispatch_error was mended; does not move any position.
create or replace function fn_consumer_dispatch(p_event_id uuid) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_started timestamptz := clock_timestamp();
  v_pause text;
  v_counts record;
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  select fn_domain_pause(e.event_domain) into v_pause from event_outbox e where e.id = p_event_id;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'event_id', p_event_id);
  elsif v_pause is not null then
    return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause, 'event_id', p_event_id);
  end if;
  select * into v_counts from fn_dispatch_events_singly(array[p_event_id]);
  if v_counts.jobs > 0 and exists (select from consumer_registry c where c.enabled and c.job_kind like 'workflow:%') then
    perform fn_mot_start();
  end if;
  -- what did not fail again is mended, or not wanted any more; who is disabled or only counts has made no job of it
  delete from dispatch_error d
  where d.event_id = p_event_id
    and d.last_at < v_started
    and not exists (
      select from consumer_registry c where c.consumer_key = d.consumer_key and (not c.enabled or c.dry_run));
  perform fn_job_wake(x.executor, p_jobs => v_counts.jobs) from (select distinct u.executor from unnest(v_counts.executors) u (executor)) x;
  return jsonb_build_object('refused', false, 'event_id', p_event_id, 'jobs', v_counts.jobs, 'duplicates', v_counts.duplicates,
    'errors', v_counts.errors, 'no_recipient', v_counts.no_recipient, 'decisions', fn_event_decisions(p_event_id));
end
$$;
comment on function fn_consumer_dispatch(uuid) is 'Dispatches one event to every consumer that wants it; answers {jobs, duplicates, errors, decisions}.';

-- What a consumer would do with the newest events since a moment. Reads only; same verdict and templates as the pass.
create or replace function fn_route_consumer_dry_run(
  p_consumer jsonb,
  p_since timestamptz default null,
  p_limit int default 1000
) returns table (
  event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text,
  ordering_key text, idempotency_key text, event_type text, created_at timestamptz, recipient text)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
declare
  v_consumer consumer_registry;
  v_problem text;
begin
  v_consumer := jsonb_populate_record(
    jsonb_populate_record(null::consumer_registry, jsonb_build_object(
      'event_type', '*', 'executor', 'PG_worker', 'priority', 100, 'delay', '0', 'source_ref', '{event_subject_ref}',
      'idempotency_key', '{consumer_key}:{event_id}' || case when p_consumer ->> 'fan_out' is null then '' else ':{recipient}' end,
      'consumer_key', 'preview', 'starts_at', '-infinity', 'dry_run', false)),
    p_consumer);
  v_consumer.event_type_like := replace(replace(v_consumer.event_type, '_', '\_'), '*', '%');
  v_problem := fn_consumer_problem(v_consumer);
  if v_problem is not null then
    raise exception 'consumer %: %', v_consumer.consumer_key, v_problem using errcode = '23514';
  end if;
  if v_consumer.fan_out is not null then
    return query select * from fn_fan_out_dry_run(v_consumer, p_since, p_limit);
    return;
  end if;
  return query
  select
    r.id,
    r.reason = 'match',
    r.reason,
    v_consumer.job_kind::text,
    v_consumer.executor::text,
    case when r.reason = 'match' then fn_template_render(v_consumer.source_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.target_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.payload_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.ordering_key, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_job_key(fn_template_render(v_consumer.idempotency_key, v_consumer.consumer_key, r.e)) end,
    r.event_type,
    r.created_at,
    null::text
  from (
    select s.e, (s.e).id, (s.e).event_type, (s.e).created_at, case
      when fn_consumer_verdict(v_consumer, s.e) <> 'match' then fn_consumer_verdict(v_consumer, s.e)
      when v_consumer.job_kind is null then 'terminal'
      when not fn_event_is_digestible(v_consumer, s.e) then 'undigestible'
      else 'match'
    end as reason
    from (
      select o as e from event_outbox o
      where o.event_domain = v_consumer.event_domain and (p_since is null or o.created_at >= p_since)
      order by o.created_at desc, o.id desc
      limit p_limit) s) r
  order by r.created_at, r.id;
end
$$;
comment on function fn_route_consumer_dry_run(jsonb, timestamptz, int)
  is 'What a consumer that need not be stored would do with the newest p_limit events of its domain.';

create or replace function fn_route_consumer_dry_run(
  p_consumer_key text,
  p_since timestamptz default null,
  p_limit int default 1000
) returns table (
  event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text,
  ordering_key text, idempotency_key text, event_type text, created_at timestamptz, recipient text)
language plpgsql stable security definer set search_path from current
as $$
declare
  v_consumer jsonb;
begin
  select to_jsonb(c.*) - 'event_type_like' - 'starts_at' into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key;
  if not found then
    raise exception 'consumer % does not exist', quote_literal(p_consumer_key)
      using errcode = '22023', hint = 'See `reveille consumers list`.';
  end if;
  return query select * from fn_route_consumer_dry_run(v_consumer, p_since, p_limit);
end
$$;
comment on function fn_route_consumer_dry_run(text, timestamptz, int)
  is 'What a stored consumer would do with the newest p_limit events of its domain, as if it had existed then.';

-- What stands against the workflows that a consumer would ask for, as the answer to whoever writes or enables it has it: {warning}, or
-- nothing. A consumer may come before its template, so it is never refused for that.
create or replace function fn_consumer_warning(p_job_kind text) returns jsonb
language plpgsql stable set search_path from current
as $$
begin
  if p_job_kind like 'workflow:%'
    and exists (select from pg_proc p where p.proname = 'fn_job_kind_warning' and p.pronamespace = quote_ident(current_schema())::regnamespace)
  then -- phase 009 is there
    return jsonb_strip_nulls(jsonb_build_object('warning', fn_job_kind_warning(p_job_kind)));
  end if;
  return '{}';
end
$$;
comment on function fn_consumer_warning(text) is 'What stands against the workflows of a consumer: {warning}, or {}. Internal.';
revoke all on function fn_consumer_warning(text) from public;

-- Writes a consumer row: a new one, or one of the same source again. Keys that p_consumer does not name keep their
-- value, in a new row their default. Whether an existing row is enabled is the operator's decision and stays as it
-- is unless p_set_enabled. Called by `reveille consumers sync`.
create or replace function fn_consumer_put(
  p_consumer jsonb,
  p_actor text,
  p_source text default 'sql',
  p_set_enabled boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_key text := p_consumer ->> 'consumer_key';
  v_created boolean := false;
  v_row consumer_registry;
begin
  select c.* into v_row from consumer_registry c where c.consumer_key = v_key for update;
  if not found then
    v_created := true;
    insert into consumer_registry (consumer_key, event_domain, source, actor, job_kind, fan_out)
    values (v_key, p_consumer ->> 'event_domain', p_source, p_actor, p_consumer ->> 'job_kind', p_consumer ->> 'fan_out')
    returning * into v_row;
  elsif v_row.source <> p_source then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'consumer_key', v_key, 'source', v_row.source);
  end if;
  v_row := jsonb_populate_record(v_row, case when v_created or p_set_enabled then p_consumer else p_consumer - 'enabled' end);
  update consumer_registry c
  set event_domain = v_row.event_domain, event_type = v_row.event_type, event_stream = v_row.event_stream, filter = v_row.filter,
      job_kind = v_row.job_kind, executor = v_row.executor, priority = v_row.priority, max_attempts = v_row.max_attempts,
      delay = v_row.delay, source_ref = v_row.source_ref, target_ref = v_row.target_ref, payload_ref = v_row.payload_ref,
      ordering_key = v_row.ordering_key, idempotency_key = v_row.idempotency_key, enabled = v_row.enabled, dry_run = v_row.dry_run,
      fan_out = v_row.fan_out, starts_at = v_row.starts_at, description = v_row.description, actor = p_actor
  where c.consumer_key = v_key;
  return jsonb_build_object('refused', false, 'consumer_key', v_key, 'created', v_created) || fn_consumer_warning(v_row.job_kind);
end
$$;
comment on function fn_consumer_put(jsonb, text, text, boolean)
  is 'Writes a consumer row from its columns: {created}, and warning where no template has the name of its workflow; refused not_owner when the row has another source.';

-- Switches a consumer on or off, and keeps who and why beside the flips of the gates.
create or replace function fn_consumer_set_enabled(p_consumer_key text, p_enabled boolean, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_was boolean;
  v_job_kind text;
begin
  if p_enabled is null or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_consumer_set_enabled needs p_enabled, an actor and a reason' using errcode = '22023';
  end if;
  select c.enabled, c.job_kind into v_was, v_job_kind from consumer_registry c where c.consumer_key = p_consumer_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  end if;
  if v_was <> p_enabled then
    update consumer_registry c set enabled = p_enabled, actor = p_actor where c.consumer_key = p_consumer_key;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('consumer.' || p_consumer_key || '.enabled', v_was::text, p_enabled::text, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'consumer_key', p_consumer_key, 'enabled', p_enabled, 'was_enabled', v_was)
    || case when p_enabled then fn_consumer_warning(v_job_kind) else '{}' end;
end
$$;
comment on function fn_consumer_set_enabled(text, boolean, text, text)
  is 'Enables or disables a consumer; the flip is audited in dot_config_audit as consumer.<key>.enabled.';

-- Removes a consumer row of the given source. Its jobs stay.
create or replace function fn_consumer_remove(p_consumer_key text, p_actor text, p_reason text, p_source text default 'sql') returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_row consumer_registry;
begin
  select c.* into v_row from consumer_registry c where c.consumer_key = p_consumer_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  elsif v_row.source <> p_source then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'consumer_key', p_consumer_key, 'source', v_row.source);
  end if;
  delete from consumer_registry c where c.consumer_key = p_consumer_key;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('consumer.' || p_consumer_key || '.enabled', v_row.enabled::text, null, p_actor, p_reason);
  return jsonb_build_object('refused', false, 'consumer_key', p_consumer_key);
end
$$;
comment on function fn_consumer_remove(text, text, text, text) is 'Removes a consumer row; refused not_owner when it has another source.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_consumer_dispatch_batch(text, int, text)', 'fn_consumer_dispatch(uuid)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher', 'reveille_operator']);
  end loop;
  -- the form for rows not yet stored shows any value of a payload: not for readers
  execute format('revoke all on function %s from public', 'fn_route_consumer_dry_run(jsonb, timestamptz, int)'::regprocedure);
  call pr_grant(
    format('execute on function %s', 'fn_route_consumer_dry_run(jsonb, timestamptz, int)'::regprocedure),
    array['reveille_dispatcher', 'reveille_operator']);
  foreach v_function in array array['fn_route_consumer_dry_run(text, timestamptz, int)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher', 'reveille_operator', 'reveille_reader']);
  end loop;
  foreach v_function in array array['fn_consumer_put(jsonb, text, text, boolean)', 'fn_consumer_set_enabled(text, boolean, text, text)',
      'fn_consumer_remove(text, text, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_dispatch_rows(uuid[], text, text)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_dispatch_events_plain(uuid[], text, boolean)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_dispatch_events(uuid[], text, text)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_dispatch_events_singly(uuid[])'::regprocedure);
  call pr_grant('select on table consumer_registry', array['reveille_operator', 'reveille_reader']);
end
$$;
