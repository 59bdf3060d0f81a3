-- Functions of phase 015: what a changed row would do to past events, and backfill and replay: page, batch, step, moves.

-- What a consumer, stored or not, makes of some events, in the order given: one row an event or, where it fans out, a recipient.
-- Verdict and templates are those of dispatch; nothing is decided here anew.
create or replace function fn_rehearse_rows(p_consumer consumer_registry, p_event_ids uuid[])
returns table (
  n int, event_id uuid, event_type text, created_at timestamptz, safe_payload jsonb, correlation_id text, reason text, recipient text,
  source_ref text, target_ref text, payload_ref text, ordering_key text, idempotency_key text)
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
begin
  if (p_consumer).fan_out is null then
    return query
    select u.n::int, r.id, r.event_type, r.created_at, r.safe_payload, r.correlation_id, r.reason, null::text,
      fn_template_render((p_consumer).source_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).target_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).payload_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).ordering_key, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).idempotency_key, (p_consumer).consumer_key, r.e)
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (
      select o as e, o.id, o.event_type::text as event_type, o.created_at, o.safe_payload, o.correlation_id::text as correlation_id, case
          when fn_consumer_verdict(p_consumer, o) <> 'match' then fn_consumer_verdict(p_consumer, o)
          when (p_consumer).job_kind is null then 'terminal'
          when not fn_event_is_digestible(p_consumer, o) then 'undigestible'
          else 'match'
        end as reason
      from event_outbox o where o.id = u.id offset 0) r
    order by u.n;
    return;
  end if;
  return query
  with judged as materialized (
    select u.n::int as n, r.*
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (
      select o.id, o.event_type::text as event_type, o.created_at, o.safe_payload, o.correlation_id::text as correlation_id,
        fn_consumer_verdict(p_consumer, o) as verdict, fn_event_document(o) as document
      from event_outbox o where o.id = u.id offset 0) r
  ),
  addressed as materialized (
    select distinct s.event_id, s.recipient_ref
    from fn_event_recipient_rows(array(select j.id from judged j where j.verdict = 'match')) s
    where s.muted_by is null
  ),
  filled as materialized (
    select j.n, j.id, j.event_type, j.created_at, j.safe_payload, j.correlation_id, j.verdict, a.recipient_ref,
      fn_recipient_template((p_consumer).source_ref, (p_consumer).consumer_key, d.document) as source_ref,
      fn_recipient_template((p_consumer).target_ref, (p_consumer).consumer_key, d.document) as target_ref,
      fn_recipient_template((p_consumer).payload_ref, (p_consumer).consumer_key, d.document) as payload_ref,
      fn_recipient_template((p_consumer).ordering_key, (p_consumer).consumer_key, d.document) as ordering_key,
      nullif(fn_recipient_template((p_consumer).idempotency_key, (p_consumer).consumer_key, d.document), '') as idempotency_key
    from judged j
    left join addressed a on a.event_id = j.id
    cross join lateral (select jsonb_set(j.document, '{event,recipient}', to_jsonb(a.recipient_ref)) as document) d
  )
  select f.n, f.id, f.event_type, f.created_at, f.safe_payload, f.correlation_id, case
      when f.verdict <> 'match' then f.verdict
      when f.recipient_ref is null then 'no_recipient'
      when f.idempotency_key is null or not fn_is_signal(f.safe_payload) or ((p_consumer).ordering_key is not null and f.ordering_key is null)
        then 'undigestible'
      else 'match'
    end,
    f.recipient_ref, f.source_ref, f.target_ref, f.payload_ref, f.ordering_key, f.idempotency_key
  from filled f
  order by f.n, f.recipient_ref;
end
$$;
comment on function fn_rehearse_rows(consumer_registry, uuid[])
  is 'What a consumer, stored or not, would make of some events: reason (match, terminal, undigestible, no_recipient, or why it does not want it) and templates. Internal.';
revoke all on function fn_rehearse_rows(consumer_registry, uuid[]) from public;

-- Which of the newest p_last events of the domains concerned would become something else, if the row of a consumer read as p_consumer
-- says; columns that it does not name stay, as with fn_consumer_put. Reads only. As in a preview, events from before the start
-- count, unless the start is what changes; and when the row is disabled before and after, it is judged as if it were not. Looks no
-- further back than the newest 100000 events of all domains, so that a quiet domain does not read the whole outbox.
create or replace function fn_consumer_diff(p_consumer jsonb, p_last int default 1000, p_samples int default 20) returns jsonb
language plpgsql stable security definer set search_path from current set jit = off
as $$
declare
  v_key text := p_consumer ->> 'consumer_key';
  v_old consumer_registry;
  v_new consumer_registry;
  v_stored boolean;
  v_as_if boolean;
  v_problem text;
  v_ids uuid[];
  v_answer jsonb;
begin
  if v_key is null or p_last is null or p_last not between 1 and 100000 or p_samples is null or p_samples not between 0 and 1000 then
    raise exception 'fn_consumer_diff needs a consumer_key, p_last from 1 to 100000, and p_samples from 0 to 1000' using errcode = '22023';
  end if;
  select c.* into v_old from consumer_registry c where c.consumer_key = v_key;
  v_stored := found;
  if v_stored then
    v_new := jsonb_populate_record(v_old, p_consumer - 'event_type_like');
  else
    v_new := jsonb_populate_record(
      jsonb_populate_record(null::consumer_registry, jsonb_build_object(
        'event_type', '*', 'executor', 'PG_worker', 'priority', 100, 'delay', '0', 'source_ref', '{event_subject_ref}', 'enabled', false,
        'idempotency_key', '{consumer_key}:{event_id}' || case when p_consumer ->> 'fan_out' is null then '' else ':{recipient}' end,
        'dry_run', false, 'starts_at', '-infinity')),
      p_consumer);
  end if;
  v_new.event_type_like := replace(replace(v_new.event_type, '_', '\_'), '*', '%');
  v_problem := fn_consumer_problem(v_new);
  if v_problem is not null then
    raise exception 'consumer %: %', v_key, v_problem using errcode = '23514';
  end if;
  if v_new.starts_at is not distinct from v_old.starts_at then
    v_old.starts_at := '-infinity';
    v_new.starts_at := '-infinity';
  end if;
  v_as_if := not coalesce(v_old.enabled, false) and not coalesce(v_new.enabled, false);
  v_old.enabled := v_old.enabled or v_as_if;
  v_new.enabled := v_new.enabled or v_as_if;
  select array_agg(n.id order by n.created_at desc, n.id desc) into v_ids
  from (
    select o.id, o.created_at
    from (select e.id, e.created_at, e.event_domain from event_outbox e order by e.created_at desc limit greatest(100000, p_last)) o
    where o.event_domain in (v_new.event_domain, v_old.event_domain)
    order by o.created_at desc, o.id desc
    limit p_last) n;
  with sides as materialized (
    select s.side, r.n, r.event_id, r.event_type, r.created_at, coalesce(r.recipient, '') as recipient,
      case
        when not s.enabled then 'disabled'
        when r.reason = 'undigestible' then 'error'
        when r.reason = 'match' and s.dry_run then 'dry_run'
        when r.reason = 'match' then 'job'
        else r.reason
      end as verdict,
      case when r.reason = 'match' then jsonb_build_object('job_kind', s.job_kind, 'executor', s.executor, 'priority', s.priority,
        'max_attempts', s.max_attempts, 'delay', s.delay, 'source_ref', r.source_ref, 'target_ref', r.target_ref, 'payload_ref', r.payload_ref,
        'ordering_key', r.ordering_key, 'idempotency_key', fn_job_key(r.idempotency_key)) end as target
    from (
      select 'before' as side, v_old as c, v_old.enabled, v_old.dry_run, v_old.job_kind, v_old.executor, v_old.priority, v_old.max_attempts, v_old.delay
      where v_stored
      union all
      select 'after', v_new, v_new.enabled, v_new.dry_run, v_new.job_kind, v_new.executor, v_new.priority, v_new.max_attempts, v_new.delay) s
    cross join lateral fn_rehearse_rows(s.c, v_ids) r
  ),
  compared as materialized (
    select coalesce(a.n, b.n) as n, coalesce(a.event_id, b.event_id) as event_id, coalesce(a.event_type, b.event_type) as event_type,
      coalesce(a.created_at, b.created_at) as created_at, nullif(coalesce(a.recipient, b.recipient), '') as recipient,
      b.verdict as was, a.verdict as becomes, b.target as was_target, a.target as becomes_target,
      case
        when b.verdict = 'job' and a.verdict = 'job' then case when a.target = b.target then 'same' else 'change' end
        when a.verdict = 'job' then 'gain'
        when b.verdict = 'job' then 'lose'
        when a.verdict = 'error' and b.verdict is distinct from 'error' then 'error'
        else 'none'
      end as change
    from (select s.* from sides s where s.side = 'after') a
    full join (select s.* from sides s where s.side = 'before') b on b.event_id = a.event_id and b.recipient = a.recipient
  ),
  changed_columns as (
    select k.key, count(*) as n
    from compared c
    cross join lateral jsonb_each(c.becomes_target) k
    where c.change = 'change' and c.was_target -> k.key is distinct from k.value
    group by k.key
  ),
  shown as (
    select * from compared c where c.change in ('gain', 'lose', 'change', 'error')
    order by c.n, c.recipient
    limit p_samples
  )
  select jsonb_build_object('refused', false, 'consumer_key', v_key, 'stored', v_stored, 'as_if_enabled', v_as_if,
    'events', coalesce(cardinality(v_ids), 0),
    'gain', count(*) filter (where c.change = 'gain'),
    'lose', count(*) filter (where c.change = 'lose'),
    'change', count(*) filter (where c.change = 'change'),
    'error', count(*) filter (where c.change = 'error'),
    'same', count(*) filter (where c.change = 'same'),
    'none', count(*) filter (where c.change = 'none'),
    'columns', coalesce((select jsonb_object_agg(x.key, x.n) from changed_columns x), '{}'),
    'samples', coalesce((
      select jsonb_agg(jsonb_build_object('event_id', s.event_id, 'event_type', s.event_type, 'created_at', s.created_at, 'recipient', s.recipient,
        'change', s.change, 'was', s.was, 'becomes', s.becomes, 'before', case when s.was = 'job' then s.was_target end,
        'after', case when s.becomes = 'job' then s.becomes_target end) order by s.n, s.recipient)
      from shown s), '[]'))
  into v_answer
  from compared c;
  return v_answer;
end
$$;
comment on function fn_consumer_diff(jsonb, int, int)
  is 'Which of the newest events a changed consumer row would treat otherwise: {events, gain, lose, change, error, same, none, columns, samples}. Reads only.';

-- The row by which past events are judged: from the beginning of time, at a priority of its own.
create or replace function fn_rehearse_candidate(p_consumer consumer_registry, p_priority int) returns consumer_registry
language plpgsql immutable set search_path from current
as $$
begin
  p_consumer.starts_at := '-infinity';
  p_consumer.priority := coalesce(p_priority, p_consumer.priority);
  return p_consumer;
end
$$;
comment on function fn_rehearse_candidate(consumer_registry, int) is 'A consumer as if it had always been there, with another priority. Internal.';
revoke all on function fn_rehearse_candidate(consumer_registry, int) from public;

-- The next p_limit events of the outbox behind a place, of any domain, so that a quiet domain costs no more; those of the
-- domain by name. Or those of p_event_ids. By the index on created_at, however far the place has come.
create or replace function fn_rehearse_page(
  p_event_domain text, p_at timestamptz, p_id uuid, p_until timestamptz, p_event_ids uuid[], p_limit int,
  out ids uuid[], out ats timestamptz[], out nths int[], out looked int, out last_at timestamptz, out last_id uuid)
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
  if p_event_ids is null then
    with page as materialized (
      select o.id, o.created_at, o.event_domain
      from event_outbox o
      where o.created_at >= p_at and o.created_at < p_until and (o.created_at, o.id) > (p_at, p_id)
      order by o.created_at, o.id
      limit p_limit
    ),
    numbered as (select p.*, row_number() over (order by p.created_at, p.id) as n from page p)
    select array_agg(n.id order by n.n) filter (where n.event_domain = p_event_domain),
      array_agg(n.created_at order by n.n) filter (where n.event_domain = p_event_domain),
      array_agg(n.n::int order by n.n) filter (where n.event_domain = p_event_domain), count(*),
      (array_agg(n.created_at order by n.n desc))[1], (array_agg(n.id order by n.n desc))[1]
    into ids, ats, nths, looked, last_at, last_id from numbered n;
  else
    with page as materialized (
      select o.id, o.created_at
      from (select distinct x from unnest(p_event_ids) x) u (id)
      cross join lateral (select e.id, e.created_at, e.event_domain from event_outbox e where e.id = u.id offset 0) o
      where o.event_domain = p_event_domain and o.created_at < p_until and (o.created_at, o.id) > (p_at, p_id)
      order by o.created_at, o.id
      limit p_limit
    ),
    numbered as (select p.*, row_number() over (order by p.created_at, p.id) as n from page p)
    select array_agg(n.id order by n.n), array_agg(n.created_at order by n.n), array_agg(n.n::int order by n.n), count(*),
      (array_agg(n.created_at order by n.n desc))[1], (array_agg(n.id order by n.n desc))[1]
    into ids, ats, nths, looked, last_at, last_id from numbered n;
  end if;
end
$$;
comment on function fn_rehearse_page(text, timestamptz, uuid, timestamptz, uuid[], int)
  is 'The next events of the outbox behind a place: ids, ats and nths of those of the domain, looked, and the last of all. Internal.';
revoke all on function fn_rehearse_page(text, timestamptz, uuid, timestamptz, uuid[], int) from public;

-- The jobs that a consumer wants of some events, and lacks: counts them, and makes them unless p_dry_run. One statement judges for both.
-- Of a replay, the key has the generation behind it, and only what has a job is repeated. At most p_limit jobs, exactly; behind p_burst it stops at
-- the end of an event. p_known are keys that a dry run counted before, where a key may come again with another event.
create or replace function fn_rehearse_batch(
  p_consumer consumer_registry, p_generation int, p_event_ids uuid[], p_limit bigint, p_burst bigint, p_run_id uuid, p_dry_run boolean,
  p_known bigint[],
  out seen int, out expected int, out made int, out present int, out not_matching int, out without_job int, out errors int, out keys bigint[])
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_first uuid := fn_uuid_v7();
  v_kind text := (p_consumer).job_kind;
  v_suffix text := coalesce('#g' || p_generation, '');
  v_attempts int := coalesce((p_consumer).max_attempts, fn_job_max_attempts((p_consumer).job_kind, (p_consumer).event_domain));
  v_shared boolean := strpos((p_consumer).idempotency_key, '{event_id}') = 0;
  v_inserted int;
  v_repeated int;
begin
  with judged as materialized (
    select r.*, k.stored, (row_number() over (order by r.n, r.recipient))::int as i,
      case
        when r.reason = 'undigestible' then 'error'
        when r.reason <> 'match' then 'not_matching'
        when p_generation is not null
          and (select 1 from job_queue j where j.job_kind = v_kind and j.idempotency_key = k.base limit 1) is null
          and (select 1 from job_archive_key a where a.job_kind = v_kind and a.idempotency_key = k.base limit 1) is null then 'without_job'
        when (select 1 from job_queue j where j.job_kind = v_kind and j.idempotency_key = k.stored limit 1) is not null
          or (select 1 from job_archive_key a where a.job_kind = v_kind and a.idempotency_key = k.stored limit 1) is not null
          or hashtextextended(k.stored, 0) = any (p_known) then 'present'
        else 'wanted'
      end as state
    from fn_rehearse_rows(p_consumer, p_event_ids) r
    cross join lateral (
      select fn_job_key(r.idempotency_key) as base, fn_job_key(r.idempotency_key || v_suffix) as stored offset 0) k
  ),
  single as materialized ( -- events that share a key share a job
    select j.*, case
        when j.state = 'wanted' and row_number() over (partition by j.state, j.stored order by j.i) > 1 then 'present' else j.state end as fate
    from judged j
  ),
  ranked as materialized (
    select s.*, case when s.fate = 'wanted' then row_number() over (partition by s.fate order by s.i) end as rank from single s
  ),
  bound as materialized (
    select case when count(*) >= p_limit or count(*) > p_burst then max(r.n) filter (where r.rank <= least(p_limit, p_burst)) end as last_n
    from ranked r where r.fate = 'wanted'
  ),
  chosen as materialized (
    select r.* from ranked r cross join bound b
    where r.fate = 'wanted' and r.rank <= p_limit and (b.last_n is null or r.n <= b.last_n)
  ),
  inserted as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, run_id, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, c.i), v_kind, (p_consumer).executor, (p_consumer).event_domain, c.source_ref, c.target_ref, c.payload_ref,
      c.safe_payload, (p_consumer).priority, clock_timestamp() + (p_consumer).delay, v_attempts, c.stored, c.ordering_key,
      (p_consumer).actor, p_run_id, c.event_id, (p_consumer).consumer_key, c.correlation_id, fn_traceparent(c.safe_payload ->> 'traceparent')
    from chosen c
    where not p_dry_run
    order by c.i
    on conflict (job_kind, idempotency_key) do nothing
    returning 1
  ),
  refused as (
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    select distinct on (r.event_id) r.event_id, (p_consumer).consumer_key, (p_consumer).event_domain,
      case when fn_is_signal(r.safe_payload) then '22004' else '23514' end,
      case when not fn_is_signal(r.safe_payload) then 'the payload is no signal: a denied key, or too large'
        else 'the template of ' || case when coalesce(r.idempotency_key, '') = '' then 'idempotency_key' else 'ordering_key' end
          || ' has a variable without a value' end
    from ranked r cross join bound b
    where not p_dry_run and r.fate = 'error' and (b.last_n is null or r.n <= b.last_n)
    order by r.event_id
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  ),
  mended as ( -- as fn_consumer_dispatch: what did not fail again, or is not wanted any more
    delete from dispatch_error d
    using (
      select r.event_id
      from ranked r cross join bound b
      where not p_dry_run and p_generation is null and (b.last_n is null or r.n <= b.last_n)
      group by r.event_id
      having bool_and(r.fate <> 'error' and (r.fate <> 'wanted' or r.rank <= p_limit))) m
    where d.event_id = m.event_id and d.consumer_key = (p_consumer).consumer_key
    returning 1
  )
  select coalesce((select b.last_n from bound b), cardinality(p_event_ids)),
    (select count(*) from chosen),
    (select count(*) from inserted),
    count(*) filter (where r.fate = 'present'),
    count(*) filter (where r.fate = 'not_matching'),
    count(*) filter (where r.fate = 'without_job'),
    count(*) filter (where r.fate = 'error'),
    case when p_dry_run and v_shared then (select array_agg(hashtextextended(c.stored, 0)) from chosen c) end,
    (select count(*) from refused) -- so that it is done
  into seen, made, v_inserted, present, not_matching, without_job, errors, keys, v_repeated
  from ranked r cross join bound b
  where b.last_n is null or r.n <= b.last_n;
  if not p_dry_run then
    v_repeated := case when v_inserted > 0 then fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647)) else 0 end;
    present := present + made - v_inserted + v_repeated; -- somebody else was quicker
    made := v_inserted - v_repeated;
  end if;
  expected := made + present + errors;
end
$$;
comment on function fn_rehearse_batch(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[])
  is 'Counts, and unless dry makes, what a consumer wants of some events and lacks: {seen, expected, made, present, not_matching, without_job, errors, keys}. Internal.';
revoke all on function fn_rehearse_batch(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[]) from public;

-- The same, whatever the events are: where one makes it raise, fewer are taken, and in the end single ones; that one is an error,
-- as in live dispatch. At most 25 savepoints (trap 19); what is left of the page comes with the next step.
create or replace function fn_rehearse_run(
  p_consumer consumer_registry, p_generation int, p_event_ids uuid[], p_limit bigint, p_burst bigint, p_run_id uuid, p_dry_run boolean,
  p_known bigint[],
  out seen int, out expected int, out made int, out present int, out not_matching int, out without_job int, out errors int, out keys bigint[])
language plpgsql volatile set search_path from current
as $$
declare
  v_count int := coalesce(cardinality(p_event_ids), 0);
  v_done record;
  v_state text;
  v_message text;
begin
  seen := 0; expected := 0; made := 0; present := 0; not_matching := 0; without_job := 0; errors := 0; keys := '{}';
  while seen < v_count and v_count > 20 loop
    begin
      select * into v_done from fn_rehearse_batch(p_consumer, p_generation, p_event_ids[1:v_count], p_limit, p_burst, p_run_id, p_dry_run, p_known);
      seen := v_done.seen; expected := v_done.expected; made := v_done.made; present := v_done.present;
      not_matching := v_done.not_matching; without_job := v_done.without_job; errors := v_done.errors;
      keys := coalesce(v_done.keys, '{}');
      return;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        v_count := greatest(20, v_count / 5);
    end;
  end loop;
  while seen < v_count and made < least(p_limit, p_burst) loop
    begin
      select * into v_done from fn_rehearse_batch(p_consumer, p_generation, array[p_event_ids[seen + 1]], p_limit - made, p_burst - made,
        p_run_id, p_dry_run, p_known || keys);
      expected := expected + v_done.expected; made := made + v_done.made; present := present + v_done.present;
      not_matching := not_matching + v_done.not_matching; without_job := without_job + v_done.without_job; errors := errors + v_done.errors;
      keys := keys || coalesce(v_done.keys, '{}');
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        expected := expected + 1;
        errors := errors + 1;
        if not p_dry_run then
          insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
          values (p_event_ids[seen + 1], (p_consumer).consumer_key, (p_consumer).event_domain, v_state, v_message)
          on conflict (event_id, consumer_key) do update
          set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
        end if;
    end;
    seen := seen + 1;
  end loop;
end
$$;
comment on function fn_rehearse_run(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[])
  is 'fn_rehearse_batch for events of which some may raise. Internal.';
revoke all on function fn_rehearse_run(consumer_registry, int, uuid[], bigint, bigint, uuid, boolean, bigint[]) from public;

-- How many events the outbox has in a window, by the planner's guess: counting them would read them all.
create or replace function fn_rehearse_estimate(p_since timestamptz, p_until timestamptz) returns bigint
language plpgsql volatile set search_path from current
as $$
declare
  v_plan json;
begin
  execute format('explain (format json) select from event_outbox o where o.created_at >= %L and o.created_at < %L', p_since, p_until) into v_plan;
  return (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint;
end
$$;
comment on function fn_rehearse_estimate(timestamptz, timestamptz) is 'About how many events the outbox has in a window. Internal.';
revoke all on function fn_rehearse_estimate(timestamptz, timestamptz) from public;

-- Why no job may be made for a consumer now, or null. p_was: its row when the run began.
create or replace function fn_rehearse_obstacle(p_consumer consumer_registry, p_was jsonb) returns jsonb
language plpgsql stable set search_path from current
as $$
declare
  v_beside constant text[] := array['enabled', 'dry_run', 'starts_at', 'priority', 'description', 'source', 'actor', 'created_at', 'updated_at'];
  v_now jsonb := fn_audit_text(p_consumer) - v_beside;
  v_pause text := fn_domain_pause((p_consumer).event_domain);
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return '{"reason": "job_substrate_disabled"}';
  elsif v_pause is not null then
    return jsonb_build_object('reason', 'paused', 'scope', v_pause);
  elsif exists (select from queue_pause p where p.resumed_at is null and p.scope = 'consumer' and p.name = (p_consumer).consumer_key) then
    return '{"reason": "paused", "scope": "consumer"}';
  elsif not (p_consumer).enabled then
    return '{"reason": "consumer_disabled"}';
  elsif (p_consumer).dry_run then
    return '{"reason": "consumer_dry_run"}';
  elsif p_was is not null and v_now <> p_was - v_beside then
    return jsonb_build_object('reason', 'consumer_changed', 'columns', (
      select jsonb_agg(n.key order by n.key) from jsonb_each(v_now) n where n.value is distinct from p_was -> n.key));
  end if;
  return null;
end
$$;
comment on function fn_rehearse_obstacle(consumer_registry, jsonb) is 'Why a backfill may not make jobs now: {reason, …}, or null. Internal.';
revoke all on function fn_rehearse_obstacle(consumer_registry, jsonb) from public;

-- Until when jobs of a consumer may have been whose keys went with their month of the archive: a backfill would make them again. Null when there
-- are none: no month has gone, or none since the consumer came, and no other makes its keys.
create or replace function fn_rehearse_forgotten(p_consumer consumer_registry) returns timestamptz
language plpgsql stable set search_path from current
as $$
begin
  return (
    select f.until from job_archive_forgotten f
    where f.until > '-infinity'
      and (strpos((p_consumer).idempotency_key, '{consumer_key}') = 0
        or f.until > least((p_consumer).created_at, (select min(v.changed_at) from audit_consumer v where v.consumer_key = (p_consumer).consumer_key))));
end
$$;
comment on function fn_rehearse_forgotten(consumer_registry) is 'Until when the keys of a consumer''s jobs may be forgotten; null: none is. Internal.';
revoke all on function fn_rehearse_forgotten(consumer_registry) from public;

create or replace view v_consumer_backfill as
select
  b.backfill_id, b.consumer_key, b.event_domain, b.mode, b.generation, b.status, b.note, b.since, b.until, cardinality(b.event_ids) as event_ids,
  b.job_limit, b.rate, b.priority::int as priority, b.place_at, b.looked, greatest(b.estimate, b.looked) as estimate,
  case when b.status = 'finished' then 1.0
    else round(least(1, b.looked::numeric / greatest(b.estimate, b.looked, 1)), 4) end as share,
  b.events, b.expected, b.made, b.present, b.not_matching, b.without_job, b.errors,
  b.actor::text as actor, b.reason, b.started_by, b.started_at, b.updated_at, b.ended_at,
  round(extract(epoch from clock_timestamp() - b.updated_at)::numeric, 3) as quiet_seconds
from consumer_backfill b;
comment on view v_consumer_backfill is 'Backfills and replays: bounds, how far each has come, counts, who began it and why.';
comment on column v_consumer_backfill.share is 'How much of the window it has passed, from 0 to 1, by the planner''s guess of its size.';
comment on column v_consumer_backfill.event_ids is 'Of a replay of single events: how many were named.';
comment on column v_consumer_backfill.quiet_seconds is 'Since it last came on. One that is running and quiet for minutes has lost its runner: resume it.';

-- One batch of a backfill or replay: position, counts and jobs are one transaction, so that a runner that dies loses nothing and makes
-- nothing twice. Whoever holds the row runs; another is told busy. Answers the row of v_consumer_backfill, and what to wait for:
-- wait_seconds (its rate), waiting (not_closed: events up to `until` may still be on their way). What stands against it pauses it.
-- Called by `reveille consumers backfill` and `replay` until the status is not running.
create or replace function fn_consumer_backfill_step(p_backfill_id uuid, p_batch int default 1000, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_run consumer_backfill;
  v_consumer consumer_registry;
  v_found boolean;
  v_obstacle jsonb;
  v_closed timestamptz;
  v_forgotten timestamptz;
  v_until timestamptz;
  v_page record;
  v_done record;
  v_left bigint;
  v_burst bigint;
  v_whole boolean := true;
  v_extra jsonb := '{}';
begin
  if p_batch is null or p_batch not between 1 and 10000 then
    raise exception 'fn_consumer_backfill_step: p_batch must be from 1 to 10000' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_consumer_backfill_step needs READ COMMITTED: an older snapshot would miss what another session made' using errcode = '25001';
  end if;
  select b.* into v_run from consumer_backfill b where b.backfill_id = p_backfill_id for update skip locked;
  if not found then
    if exists (select from consumer_backfill b where b.backfill_id = p_backfill_id) then
      return jsonb_build_object('refused', false, 'backfill_id', p_backfill_id, 'status', 'running', 'busy', true);
    end if;
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'backfill_id', p_backfill_id);
  end if;
  if v_run.updated_at > v_now + interval '1 minute' then -- the clock was set back: what it said before is long
    v_run.next_at := '-infinity';
  end if;
  if v_run.status = 'running' and v_run.next_at > v_now then
    v_extra := jsonb_build_object('wait_seconds', round(extract(epoch from v_run.next_at - v_now)::numeric, 3));
  elsif v_run.status = 'running' then
    -- shared: a change of the row waits for this batch, and the next batch sees it
    select c.* into v_consumer from consumer_registry c where c.consumer_key = v_run.consumer_key for share;
    v_found := found;
    v_obstacle := case when v_found then fn_rehearse_obstacle(v_consumer, v_run.consumer) else '{"reason": "consumer_gone"}' end;
    if v_obstacle is null and v_run.mode = 'backfill' then
      perform from job_archive_forgotten f for share; -- no key may go between the look and the batch
      v_forgotten := fn_rehearse_forgotten(v_consumer);
      if v_run.place_at < v_forgotten then
        v_obstacle := jsonb_build_object('reason', 'keys_forgotten', 'forgotten_until', v_forgotten);
      end if;
    end if;
    if v_obstacle is not null then
      update consumer_backfill b
      set status = 'paused', note = concat_ws(' ', v_obstacle ->> 'reason', v_obstacle ->> 'scope', v_obstacle ->> 'columns'), updated_at = clock_timestamp()
      where b.backfill_id = p_backfill_id;
      return jsonb_build_object('refused', true, 'backfill_id', p_backfill_id, 'consumer_key', v_run.consumer_key, 'status', 'paused') || v_obstacle;
    end if;
    v_closed := fn_audit_closed_until(v_run.event_domain);
    v_until := least(v_run.until, coalesce(v_closed, '-infinity'));
    v_left := coalesce(v_run.job_limit - v_run.made, 9223372036854775807);
    v_burst := coalesce(ceil(v_run.rate)::bigint, 9223372036854775807);
    select * into v_page from fn_rehearse_page(v_run.event_domain, v_run.place_at, v_run.place_id, v_until, v_run.event_ids,
      case when v_run.rate is null then p_batch else least(p_batch, greatest(100, least(10000, v_burst * 10)))::int end);
    if v_page.ids is not null then
      select * into v_done from fn_rehearse_run(fn_rehearse_candidate(v_consumer, v_run.priority), v_run.generation, v_page.ids, v_left, v_burst,
        p_backfill_id, false, '{}');
      v_whole := v_done.seen >= cardinality(v_page.ids);
      if not v_whole then -- back to the last event that it came to
        v_page.looked := v_page.nths[v_done.seen];
        v_page.last_at := v_page.ats[v_done.seen];
        v_page.last_id := v_page.ids[v_done.seen];
      end if;
      v_run.events := v_run.events + v_done.seen;
      v_run.expected := v_run.expected + v_done.expected;
      v_run.made := v_run.made + v_done.made;
      v_run.present := v_run.present + v_done.present;
      v_run.not_matching := v_run.not_matching + v_done.not_matching;
      v_run.without_job := v_run.without_job + v_done.without_job;
      v_run.errors := v_run.errors + v_done.errors;
      if v_run.rate is not null and v_done.made > 0 then
        v_run.next_at := greatest(v_run.next_at, v_now) + make_interval(secs => (v_done.made / v_run.rate)::double precision);
      end if;
      if v_done.made > 0 then
        if v_consumer.job_kind like 'workflow:%' then
          perform fn_mot_start();
        end if;
        perform fn_job_wake(v_consumer.executor, array[v_consumer.job_kind::text], v_done.made);
      end if;
    end if;
    if v_page.looked > 0 then
      v_run.looked := v_run.looked + v_page.looked;
      v_run.place_at := v_page.last_at;
      v_run.place_id := v_page.last_id;
    end if;
    if v_run.job_limit is not null and v_run.made >= v_run.job_limit then
      v_run.status := 'finished';
      v_run.note := 'limit';
    elsif v_page.looked = 0 and v_until = v_run.until then
      v_run.status := 'finished';
      v_run.note := null;
      v_run.place_at := v_run.until;
      v_run.place_id := '00000000-0000-0000-0000-000000000000';
    elsif v_page.looked = 0 then
      v_extra := jsonb_build_object('waiting', 'not_closed', 'closed_until', v_closed);
    end if;
    if v_page.looked > 0 or v_run.status <> 'running' or v_run.updated_at < v_now - interval '10 seconds' then
      update consumer_backfill b
      set place_at = v_run.place_at, place_id = v_run.place_id, next_at = v_run.next_at, looked = v_run.looked, events = v_run.events,
          expected = v_run.expected, made = v_run.made, present = v_run.present, not_matching = v_run.not_matching,
          without_job = v_run.without_job, errors = v_run.errors, status = v_run.status, note = v_run.note, updated_at = clock_timestamp(),
          ended_at = case when v_run.status = 'finished' then clock_timestamp() end
      where b.backfill_id = p_backfill_id;
    end if;
  end if;
  return jsonb_build_object('refused', false, 'busy', false) || (select to_jsonb(v) from v_consumer_backfill v where v.backfill_id = p_backfill_id)
    || v_extra;
end
$$;
comment on function fn_consumer_backfill_step(uuid, int, timestamptz)
  is 'The next batch of a backfill or replay: its row of v_consumer_backfill, busy, wait_seconds or waiting; refused with what stands against it, which also pauses it.';

-- Begins a backfill or replay, or with p_dry_run counts a page of it: p_after, the `next` of the answer before, goes on.
create or replace function fn_rehearse_begin(
  p_mode text, p_consumer_key text, p_since timestamptz, p_until timestamptz, p_limit int, p_dry_run boolean, p_actor text, p_reason text,
  p_event_ids uuid[], p_rate numeric, p_priority int, p_after jsonb, p_batch int, p_now timestamptz) returns jsonb
language plpgsql volatile set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_consumer consumer_registry;
  v_obstacle jsonb;
  v_closed timestamptz;
  v_forgotten timestamptz;
  v_since timestamptz;
  v_until timestamptz;
  v_priority int;
  v_generation int;
  v_page record;
  v_done record;
  v_made bigint := coalesce((p_after ->> 'made')::bigint, 0);
  v_known bigint[];
  v_id uuid;
  v_ended boolean;
begin
  if p_dry_run is null or p_limit < 1 or p_rate < 0.001 or p_rate > 1000000 or p_priority not between 0 and 32767
    or p_batch is null or p_batch not between 1 and 10000
  then
    raise exception 'a %: p_dry_run is true or false, p_limit at least 1, p_rate from 0.001 to 1000000, p_priority from 0 to 32767, p_batch from 1 to 10000', p_mode
      using errcode = '22023';
  elsif cardinality(p_event_ids) not between 1 and 1000 then
    raise exception 'a replay names from 1 to 1000 events, or none and a window' using errcode = '22023';
  elsif p_since >= p_until then
    raise exception 'a %: p_since must be before p_until', p_mode using errcode = '22023';
  elsif p_mode = 'replay' and not p_dry_run and coalesce(btrim(p_reason), '') = '' then
    raise exception 'a replay runs jobs again, and needs p_reason' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a % needs READ COMMITTED: an older snapshot would miss what another session made', p_mode using errcode = '25001';
  end if;
  if p_dry_run then
    select c.* into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key;
  else -- one at a time: generations are counted
    select c.* into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key for no key update;
  end if;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  elsif v_consumer.job_kind is null then
    return jsonb_build_object('refused', true, 'reason', 'terminal', 'consumer_key', p_consumer_key);
  end if;
  v_obstacle := fn_rehearse_obstacle(v_consumer, null);
  v_closed := fn_audit_closed_until(v_consumer.event_domain);
  if v_closed is null then
    v_obstacle := coalesce(v_obstacle, '{"reason": "not_closed"}');
  end if;
  v_forgotten := fn_rehearse_forgotten(v_consumer);
  v_since := coalesce(p_since, (p_after ->> 'since')::timestamptz,
    case when p_event_ids is null then greatest((select min(o.created_at) from event_outbox o), v_forgotten)
      else (select min(o.created_at) from event_outbox o where o.id = any (p_event_ids)) end, v_now);
  v_until := coalesce(p_until, (p_after ->> 'until')::timestamptz, greatest(v_now, v_since));
  -- what has a job is not known of older events; a replay repeats only what is known to have one
  if p_mode = 'backfill' and (v_since < v_forgotten or v_until <= v_forgotten) and coalesce(v_obstacle ->> 'reason', 'not_closed') = 'not_closed' then
    v_obstacle := jsonb_build_object('reason', 'keys_forgotten', 'forgotten_until', v_forgotten);
  end if;
  if not p_dry_run and v_obstacle is not null and (v_obstacle ->> 'reason' <> 'not_closed' or not exists (select from dispatch_sweep)) then
    return jsonb_build_object('refused', true, 'consumer_key', p_consumer_key) || v_obstacle;
  end if;
  v_priority := coalesce(p_priority, least(32767, greatest(200, v_consumer.priority + 100)));
  if p_mode = 'replay' then
    v_generation := 1 + coalesce((select max(b.generation) from consumer_backfill b where b.consumer_key = p_consumer_key), 1);
  end if;
  if p_dry_run then
    v_known := array(select jsonb_array_elements_text(p_after -> 'keys')::bigint);
    select * into v_page from fn_rehearse_page(v_consumer.event_domain, coalesce((p_after ->> 'at')::timestamptz, v_since),
      coalesce((p_after ->> 'id')::uuid, '00000000-0000-0000-0000-000000000000'), least(v_until, coalesce(v_closed, '-infinity')), p_event_ids, p_batch);
    select * into v_done from fn_rehearse_run(fn_rehearse_candidate(v_consumer, v_priority), v_generation, v_page.ids,
      coalesce(p_limit - v_made, 9223372036854775807), 9223372036854775807, null, true, v_known);
    if v_done.seen < cardinality(v_page.ids) then
      v_page.looked := v_page.nths[v_done.seen];
      v_page.last_at := v_page.ats[v_done.seen];
      v_page.last_id := v_page.ids[v_done.seen];
    end if;
    v_made := v_made + v_done.made;
    v_ended := v_page.looked = 0 or v_made >= p_limit;
    return jsonb_build_object('refused', false, 'dry_run', true, 'mode', p_mode, 'consumer_key', p_consumer_key, 'generation', v_generation,
      'since', v_since, 'until', v_until, 'closed_until', v_closed, 'priority', v_priority, 'job_kind', v_consumer.job_kind, 'obstacle', v_obstacle,
      'estimate', case when p_event_ids is null then fn_rehearse_estimate(v_since, v_until) else cardinality(p_event_ids) end,
      'looked', v_page.looked, 'events', v_done.seen, 'expected', v_done.expected, 'made', v_done.made, 'present', v_done.present,
      'not_matching', v_done.not_matching, 'without_job', v_done.without_job, 'errors', v_done.errors,
      'next', case when not coalesce(v_ended, false) then jsonb_build_object('at', v_page.last_at, 'id', v_page.last_id, 'since', v_since, 'until', v_until,
        'made', v_made, 'keys', to_jsonb(v_known || v_done.keys)) end);
  end if;
  insert into consumer_backfill (
    consumer_key, event_domain, mode, generation, consumer, since, until, event_ids, job_limit, rate, priority, place_at, estimate, actor, reason)
  values (
    p_consumer_key, v_consumer.event_domain, p_mode, v_generation, fn_audit_text(v_consumer), v_since, v_until, p_event_ids, p_limit, p_rate,
    v_priority, v_since, case when p_event_ids is null then fn_rehearse_estimate(v_since, v_until) else cardinality(p_event_ids) end,
    coalesce(p_actor, session_user), coalesce(p_reason, 'no reason given'))
  returning backfill_id into v_id;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('consumer.' || p_consumer_key || '.' || p_mode, null, v_id || ' running', coalesce(p_actor, session_user), coalesce(p_reason, 'no reason given'));
  -- what is not closed yet, the steps wait for
  return fn_consumer_backfill_step(v_id, p_batch, p_now) || jsonb_build_object('dry_run', false, 'closed_until', v_closed);
end
$$;
comment on function fn_rehearse_begin(text, text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz)
  is 'Begins a backfill or replay, or counts a page of one. Internal.';
revoke all on function fn_rehearse_begin(text, text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz) from public;

-- Makes the jobs of past events that a consumer wants and lacks, from p_since (the oldest event whose job would still be known) to before
-- p_until (now); refused keys_forgotten for older ones. Without p_dry_run => false
-- it changes nothing and counts the same, a page a call (`next` goes on as p_after). Else it is begun, its first batch made, and
-- fn_consumer_backfill_step goes on. At p_priority, behind live work unless told otherwise.
create or replace function fn_consumer_backfill(
  p_consumer_key text,
  p_since timestamptz default null,
  p_until timestamptz default null,
  p_limit int default null,
  p_dry_run boolean default true,
  p_actor text default null,
  p_reason text default null,
  p_rate numeric default null,
  p_priority int default null,
  p_after jsonb default null,
  p_batch int default 1000,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  return fn_rehearse_begin('backfill', p_consumer_key, p_since, p_until, p_limit, p_dry_run, p_actor, p_reason, null, p_rate, p_priority, p_after,
    p_batch, p_now);
end
$$;
comment on function fn_consumer_backfill(text, timestamptz, timestamptz, int, boolean, text, text, numeric, int, jsonb, int, timestamptz)
  is 'Jobs of past events for one consumer, by the keys of live dispatch: {expected, made, present, not_matching, errors, …}. A dry run unless told otherwise.';

-- Makes jobs of one consumer anew for events that have one: a new generation of the key (KEY#g2, #g3, …), one for each replay.
create or replace function fn_consumer_replay(
  p_consumer_key text,
  p_since timestamptz default null,
  p_until timestamptz default null,
  p_limit int default null,
  p_dry_run boolean default true,
  p_actor text default null,
  p_reason text default null,
  p_event_ids uuid[] default null,
  p_rate numeric default null,
  p_priority int default null,
  p_after jsonb default null,
  p_batch int default 1000,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  return fn_rehearse_begin('replay', p_consumer_key, p_since, p_until, p_limit, p_dry_run, p_actor, p_reason, p_event_ids, p_rate, p_priority, p_after,
    p_batch, p_now);
end
$$;
comment on function fn_consumer_replay(text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz)
  is 'Jobs of one consumer again, for events that have one, with a new generation of their key: {generation, expected, made, …}. A dry run unless told otherwise.';

-- Pauses, resumes, cancels a run, or says that it has failed. What it has made stays. A run that is resumed although its consumer was
-- changed goes on with the new row only if p_accept_change.
create or replace function fn_consumer_backfill_move(
  p_backfill_id uuid, p_status text, p_actor text, p_reason text, p_accept_change boolean default false, p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_run consumer_backfill;
begin
  if p_status is null or p_status <> all (array['running', 'paused', 'cancelled', 'failed']) or coalesce(btrim(p_actor), '') = ''
    or coalesce(btrim(p_reason), '') = ''
  then
    raise exception 'fn_consumer_backfill_move needs p_status (running, paused, cancelled, failed), an actor and a reason' using errcode = '22023';
  end if;
  select b.* into v_run from consumer_backfill b where b.backfill_id = p_backfill_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'backfill_id', p_backfill_id);
  elsif v_run.ended_at is not null or (p_status = 'failed' and v_run.status <> 'running') or (p_status = 'paused' and v_run.status = 'failed') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'backfill_id', p_backfill_id, 'status', v_run.status);
  end if;
  if p_status <> v_run.status or p_accept_change then
    update consumer_backfill b
    set status = p_status, note = case when p_status <> 'running' then p_reason end, updated_at = v_now,
        ended_at = case when p_status = 'cancelled' then v_now end,
        consumer = case when p_accept_change then coalesce((
          select fn_audit_text(c) from consumer_registry c where c.consumer_key = b.consumer_key), b.consumer) else b.consumer end
    where b.backfill_id = p_backfill_id;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('consumer.' || v_run.consumer_key || '.' || v_run.mode, p_backfill_id || ' ' || v_run.status, p_backfill_id || ' ' || p_status, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'was', v_run.status) || (select to_jsonb(v) from v_consumer_backfill v where v.backfill_id = p_backfill_id);
end
$$;
comment on function fn_consumer_backfill_move(uuid, text, text, text, boolean, timestamptz)
  is 'Pauses, resumes (running) or cancels a backfill or replay: its row, and what it was; audited in dot_config_audit as consumer.<key>.<mode>.';

-- Which runs somebody must look at: failed, without a runner, or paused and forgotten.
create or replace function fn_consumer_backfill_check(p_now timestamptz default null)
returns table (consumer_key text, severity text, finding text, what text, hint text, age_seconds numeric)
language plpgsql stable security definer set search_path from current
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select b.consumer_key, 'warning', b.status,
    format('its %s %s %s: %s made', b.mode, b.backfill_id, case b.status
      when 'failed' then 'has failed (' || coalesce(b.note, 'no reason given') || ')'
      when 'running' then 'has lost its runner'
      else 'is paused (' || coalesce(b.note, 'no reason given') || ')' end, b.made),
    format('reveille consumers %1$s --resume %2$s, or reveille consumers %1$s --cancel %2$s', b.mode, b.backfill_id),
    round(extract(epoch from v_now - b.updated_at)::numeric, 3)
  from consumer_backfill b
  where b.ended_at is null
    and b.updated_at < v_now - case b.status when 'failed' then interval '0' when 'running' then interval '10 minutes' else interval '1 day' end
    and (b.status <> 'running' or b.next_at < v_now - interval '10 minutes')
  order by b.updated_at
  limit 100;
end
$$;
comment on function fn_consumer_backfill_check(timestamptz) is 'Findings about backfills and replays: failed, running without a runner for 10 minutes, paused for a day.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_consumer_diff(jsonb, int, int)', 'fn_consumer_backfill_step(uuid, int, timestamptz)',
    'fn_consumer_backfill(text, timestamptz, timestamptz, int, boolean, text, text, numeric, int, jsonb, int, timestamptz)',
    'fn_consumer_replay(text, timestamptz, timestamptz, int, boolean, text, text, uuid[], numeric, int, jsonb, int, timestamptz)',
    'fn_consumer_backfill_move(uuid, text, text, text, boolean, timestamptz)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_consumer_backfill_check(timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_consumer_backfill_check(timestamptz)'::regprocedure),
    array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
  call pr_grant('select on table consumer_backfill', array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_consumer_backfill', array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
end
$$;
