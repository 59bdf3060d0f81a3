-- Functions of phase 013: why an event made a job or none, why a job does not run or what it did, and how many stand under
-- which reason. They read only, decide nothing themselves, and are asked by people: bounded, but not made for every second.

-- A word as a shell takes it. For hints.
create or replace function fn_shell_word(p_text text) returns text
language sql immutable
return case when p_text ~ '^[A-Za-z0-9_.,:/@~=+-]+$' then p_text else '''' || replace(p_text, '''', '''\''''') || '''' end;
comment on function fn_shell_word(text) is 'A text as one word of a shell. Internal.';
revoke all on function fn_shell_word(text) from public;

-- What stands in an event where a filter looks: its paths from the root, each with what is found there. The values of
-- a restricted payload are not told, only that there is one.
create or replace function fn_filter_found(p_filter jsonpath, p_event event_outbox) returns text
language plpgsql stable set search_path from current
as $$
declare
  v_document jsonb := fn_event_document(p_event);
  v_path text;
  v_found jsonb;
  v_all text[] := '{}';
begin
  for v_path in
    select distinct m[1] from regexp_matches(p_filter::text, '(\$(?:\."(?:[^"\\]|\\.)*"|\[(?:[0-9]+|\*)\])+)', 'g') m order by 1
  loop
    v_found := jsonb_path_query_array(v_document, v_path::jsonpath, '{}', true);
    v_all := v_all || (v_path || case
      when v_found = '[]' then ' is not there'
      when v_path like '$."payload"%' and (p_event).payload_classification = 'restricted' then ' is there, and restricted'
      else ' is ' || left(case jsonb_array_length(v_found) when 1 then (v_found -> 0)::text else v_found::text end, 200) end);
  end loop;
  return array_to_string(v_all, ', ');
end
$$;
comment on function fn_filter_found(jsonpath, event_outbox) is 'What an event has where a filter looks. Internal.';
revoke all on function fn_filter_found(jsonpath, event_outbox) from public;

-- Where an event stands among those of its domain that no pass has read: `ahead` come before it, null when it is not among the
-- first p_limit; `walked` is how many of them were looked at.
create or replace function fn_event_place(p_event_id uuid, p_event_domain text, p_limit int, out ahead int, out walked int)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_pass dispatch_pass;
  v_range record;
  v_part record;
begin
  walked := 0;
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  for v_range in -- as fn_dispatch_unread
    select r.* from fn_arrival_ranges(v_pass.snapshot_old, v_pass.snapshot_new, v_pass.place_tx, v_pass.place_seq) r
    where v_pass.place_tx is not null
    union all
    select r.* from fn_arrival_ranges(v_pass.snapshot_new, pg_current_snapshot(), null, null) r
  loop
    select count(*)::int as rows, (min(s.n) filter (where s.event_id = p_event_id))::int as n into v_part
    from (
      select a.event_id, row_number() over (order by a.tx_id, a.arrival_seq) as n
      from event_arrival a
      where a.event_domain = p_event_domain
        and (a.tx_id, a.arrival_seq) > (v_range.low_tx, v_range.low_seq)
        and (a.tx_id, a.arrival_seq) < (v_range.high_tx, v_range.high_seq)
      order by a.tx_id, a.arrival_seq
      limit p_limit - walked) s;
    if v_part.n is not null then
      ahead := walked + v_part.n - 1;
    end if;
    walked := walked + v_part.rows;
    exit when ahead is not null or walked >= p_limit;
  end loop;
end
$$;
comment on function fn_event_place(uuid, text, int) is 'How many unread events of the domain come before an event. Internal.';
revoke all on function fn_event_place(uuid, text, int) from public;

-- Whether an event has been read by dispatch, and what holds it back when not: one row a condition.
create or replace function fn_event_explain_dispatch(p_event event_outbox)
returns table (verdict text, reason text, what text, hint text, detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_id uuid := (p_event).id;
  v_domain text := (p_event).event_domain;
  v_cursor dispatch_cursor;
  v_pass dispatch_pass;
  v_pause queue_pause;
  v_place record;
  v_sweep dispatch_sweep;
  v_oldest_tx xid8;
  v_is_ahead boolean;
  v_holder record;
begin
  select c.* into v_cursor from dispatch_cursor c where c.event_domain = v_domain;
  if not found then
    return query select 'no_job', 'domain_not_dispatched', format('domain %s is not dispatched here', v_domain),
      format('select fn_dispatch_domain_add(%L): it flows from then on; restart reveille run', v_domain), null::jsonb;
    return;
  end if;
  v_is_ahead := fn_dispatch_position_is_ahead(v_domain);
  select * into v_place from fn_event_place(v_id, v_domain, 1000000) p;
  -- a position in the future calls everything read, also what nobody has seen
  if v_place.ahead is null and v_place.walked < 1000000 and not v_is_ahead then
    -- read, or never recorded: only since the last sweep's watermark is that open
    select w.* into v_sweep from dispatch_sweep w order by w.sweep_id desc limit 1;
    select pg_snapshot_xmin(w.snapshot) into v_oldest_tx
    from dispatch_sweep w where w.swept_at <= v_sweep.watermark order by w.sweep_id desc limit 1;
    if (p_event).created_at < v_cursor.created_at then
      return query select 'no_job', 'before_start', format('it is older than the dispatch of domain %s, which began at %s', v_domain, v_cursor.created_at),
        format('reveille events dispatch %s', v_id), jsonb_build_object('since', v_cursor.created_at);
    elsif (p_event).created_at >= coalesce(v_sweep.watermark, v_cursor.created_at) and not exists (
      select from event_arrival a
      where a.event_domain = v_domain and a.tx_id >= coalesce(v_oldest_tx, '0'::xid8) and a.event_id = v_id)
    then
      return query select 'waits', 'no_arrival', 'its insert left no arrival, the trigger was off or passed by; the sweep of reveille run finds it',
        format('reveille tick; or, for this one: reveille events dispatch %s', v_id), null::jsonb;
    else
      return query select 'dispatched', 'dispatched', 'dispatch has read it', null::text, null::jsonb;
    end if;
    return;
  end if;

  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return query select 'waits', 'job_substrate_disabled', 'the gate queue.job_substrate.enabled is closed; the position of dispatch is kept',
      'reveille gate open queue.job_substrate.enabled --reason TEXT', jsonb_build_object('gate', 'queue.job_substrate.enabled');
  end if;
  if fn_domain_pause(v_domain) is not null then
    for v_pause in
      select p.* from queue_pause p
      where p.resumed_at is null and p.scope = any (array['all', 'domain']) and p.name in ('', v_domain) order by p.pause_id
    loop
      return query select 'waits', 'paused', format('%s is paused since %s by %s: %s', btrim(v_pause.scope || ' ' || v_pause.name), v_pause.paused_at, v_pause.actor, v_pause.reason),
        format('reveille resume %s --reason TEXT', btrim(v_pause.scope || ' ' || v_pause.name)),
        jsonb_build_object('scope', v_pause.scope, 'name', v_pause.name, 'actor', v_pause.actor, 'because', v_pause.reason, 'paused_at', v_pause.paused_at);
    end loop;
  end if;
  if v_is_ahead then
    return query select 'waits', 'position_is_ahead', format('the position of %s lies in the future of this cluster: a restored dump; what is kept of it is read again', v_domain),
      'restart reveille run; or, for once, reveille tick', null::jsonb;
    return;
  end if;
  -- who holds the cursor's row is in its xmax as long as he runs
  select a.pid, a.usename, a.application_name, a.xact_start, a.state into v_holder
  from dispatch_cursor c
  join pg_locks l on l.locktype = 'transactionid' and l.transactionid = c.xmax and l.granted
  join pg_stat_activity a on a.pid = l.pid
  where c.event_domain = v_domain
  limit 1;
  if found then
    return query select 'waits', 'busy', format('session %s (%s, %s) holds the cursor of %s in a transaction that is open since %s', v_holder.pid, v_holder.usename,
        coalesce(nullif(v_holder.application_name, ''), 'no application name'), v_domain, coalesce(v_holder.xact_start::text, 'a moment that only pg_read_all_stats may see')),
      format('if it is no pass of reveille run: end it, select pg_terminate_backend(%s)', v_holder.pid),
      jsonb_build_object('pid', v_holder.pid, 'user', v_holder.usename, 'application_name', v_holder.application_name,
        'since', v_holder.xact_start, 'state', v_holder.state);
  end if;
  -- a prepared transaction has no session, and keeps its locks for as long as nobody finishes it
  select x.gid, x.owner, x.prepared into v_holder
  from dispatch_cursor c
  join pg_prepared_xacts x on x.transaction = c.xmax and x.database = current_database()
  where c.event_domain = v_domain;
  if found then
    return query select 'waits', 'busy', format('prepared transaction %s of %s holds the cursor of %s since %s', v_holder.gid, v_holder.owner, v_domain, v_holder.prepared),
      format('finish it from its program; or, rollback prepared %L', v_holder.gid),
      jsonb_build_object('gid', v_holder.gid, 'user', v_holder.owner, 'since', v_holder.prepared);
  end if;
  select p.* into v_pass from dispatch_pass p where p.event_domain = v_domain order by p.pass_id desc limit 1;
  return query select 'waits', 'not_dispatched', format('no pass has read it: %s of %s before it, and the last pass was at %s',
      coalesce(v_place.ahead::text, 'more than 999999'), v_domain, v_pass.finished_at),
    'reveille tick (it does it now); whether reveille run lives says: reveille health',
    jsonb_build_object('ahead', v_place.ahead, 'last_pass_at', v_pass.finished_at, 'snapshot', v_pass.snapshot_new::text,
      'place_tx', v_pass.place_tx::text, 'place_seq', v_pass.place_seq);
end
$$;
comment on function fn_event_explain_dispatch(event_outbox) is 'Whether dispatch has read an event, or what holds it back: verdict, reason, what, hint, detail. Internal.';
revoke all on function fn_event_explain_dispatch(event_outbox) from public;

-- One consumer's decision in words. p_held is what holds the event back from being read, null when it has been.
create or replace function fn_event_explain_consumer(
  p_event event_outbox, p_consumer consumer_registry, p_decision jsonb, p_held text,
  out verdict text, out reason text, out what text, out hint text, out detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_key text := (p_consumer).consumer_key;
  v_id uuid := (p_event).id;
  v_job jsonb;
  v_error dispatch_error;
begin
  reason := p_decision ->> 'decision';
  verdict := 'no_job';
  if p_decision ->> 'job_id' is not null then
    select to_jsonb(j.*) into v_job from job_queue j where j.job_id = (p_decision ->> 'job_id')::uuid;
    v_job := coalesce(v_job, fn_job_archived((p_decision ->> 'job_id')::uuid));
    verdict := 'job';
    hint := format('reveille jobs explain %s', p_decision ->> 'job_id');
    if v_job is null or (v_job ->> 'causation_event_id' = v_id::text and v_job ->> 'consumer_key' = v_key) then
      what := format('made job %s (%s), which is %s', p_decision ->> 'job_id', (p_consumer).job_kind, coalesce(p_decision ->> 'status', 'gone from the archive'))
        || case reason when 'job' then '' else format('; now it would be %s', reason) end;
      detail := jsonb_build_object('now', reason);
      reason := 'job';
    else
      what := format('its key was taken: job %s (%s), which is %s, was made before by %s', p_decision ->> 'job_id', (p_consumer).job_kind, p_decision ->> 'status',
        coalesce('event ' || (v_job ->> 'causation_event_id'), v_job ->> 'actor'));
      detail := jsonb_build_object('idempotency_key', v_job -> 'idempotency_key', 'causation_event_id', v_job -> 'causation_event_id', 'now', reason);
      reason := 'duplicate';
    end if;
    return;
  end if;
  if (reason = 'dry_run' or (reason = 'job' and p_held is not null)) and (p_consumer).fan_out is null
    and not fn_event_is_digestible(p_consumer, p_event)
  then
    reason := 'undigestible';
  end if;
  case reason
    when 'undigestible' then
      what := 'it would not digest the event: a key''s template has a variable without a value, or the payload is more than a signal';
      hint := format('reveille consumers preview %s', v_key);
    when 'disabled' then
      what := 'the consumer is disabled';
      hint := format('reveille consumers enable %s --reason TEXT', v_key)
        || case when p_held is null then format(', then reveille events dispatch %s', v_id) else '' end;
    when 'other_type' then
      what := format('it wants type %s, this is %s', (p_consumer).event_type, (p_event).event_type);
    when 'other_stream' then
      what := format('it wants stream %s, this is %s', (p_consumer).event_stream, (p_event).event_stream);
    when 'before_start' then
      what := format('it starts at %s, the event was created at %s', (p_consumer).starts_at, (p_event).created_at);
      detail := jsonb_build_object('starts_at', (p_consumer).starts_at, 'created_at', (p_event).created_at);
      hint := case (p_consumer).source
        when 'file' then format('set starts_at in its file, reveille consumers sync --apply, then reveille events dispatch %s', v_id)
        else format('select fn_consumer_put(%L, %L), then reveille events dispatch %s',
          jsonb_build_object('consumer_key', v_key, 'starts_at', (p_event).created_at), 'user:me', v_id) end;
    when 'filtered' then
      what := format('its filter %s does not hold: %s', (p_consumer).filter, coalesce(nullif(fn_filter_found((p_consumer).filter, p_event), ''), 'it names no path'));
      detail := jsonb_build_object('filter', (p_consumer).filter::text);
      hint := format('if it should: reveille consumers preview %s, mend the filter, then reveille events dispatch %s', v_key, v_id);
    when 'terminal' then
      what := 'it only wants the fact seen: it has no job kind';
    when 'no_recipient' then
      what := 'it makes one job for each recipient, and nobody is subscribed to this event';
      detail := jsonb_build_object('muted', (
        select coalesce(jsonb_agg(distinct r.recipient_ref), '[]') from fn_event_recipient_rows(array[v_id]) r where r.muted_by is not null));
      hint := format('reveille events recipients %s, reveille subscriptions gaps', v_id);
    when 'error' then
      select d.* into v_error from dispatch_error d where d.event_id = v_id and d.consumer_key = v_key;
      verdict := 'error';
      what := format('it could not digest the event: %s', v_error.message);
      detail := jsonb_build_object('sqlstate', v_error.sqlstate, 'message', v_error.message, 'tries', v_error.tries, 'first_at', v_error.first_at, 'last_at', v_error.last_at);
      hint := format('mend the consumer, then reveille events dispatch %s', v_id);
    when 'dry_run' then
      what := format('it only counts (dry_run); it would make a job %s', (p_consumer).job_kind);
      hint := case (p_consumer).source
        when 'file' then 'set dry_run = false in its file, then reveille consumers sync --apply'
        else format('select fn_consumer_put(%L, %L)', jsonb_build_object('consumer_key', v_key, 'dry_run', false), 'user:me') end
        || case when p_held is null then format(', then reveille events dispatch %s', v_id) else '' end;
    else -- job: it is wanted, and not there
      if p_held in ('before_start', 'domain_not_dispatched') then
        reason := p_held;
        what := 'it would want the event, but dispatch does not read it';
        hint := format('reveille events dispatch %s', v_id);
      elsif p_held is not null then
        verdict := 'waits';
        reason := p_held;
        what := format('it will make a job %s once the event is read', (p_consumer).job_kind);
      else
        verdict := 'error';
        reason := 'missing';
        what := format('it wants the event and there is no job %s: it was enabled or changed after the event was read, or the job was deleted', (p_consumer).job_kind);
        hint := format('reveille events dispatch %s', v_id);
      end if;
  end case;
end
$$;
comment on function fn_event_explain_consumer(event_outbox, consumer_registry, jsonb, text) is 'A consumer''s decision about an event in words. Internal.';
revoke all on function fn_event_explain_consumer(event_outbox, consumer_registry, jsonb, text) from public;

-- Why an event made which jobs, or none: first what dispatch did with it (consumer_key is null), then each consumer of its domain,
-- one row a recipient where it fans out. An unknown event is one row, refused not_found: also one that is not committed.
create or replace function fn_event_explain(p_event_id uuid)
returns table (
  refused boolean, verdict text, reason text, consumer_key text, recipient text, what text, hint text, job_id uuid, job_status text, detail jsonb)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_event event_outbox;
  v_consumer consumer_registry;
  v_decisions jsonb;
  v_row record;
  v_one jsonb;
  v_held text;
begin
  if p_event_id is null then
    raise exception 'fn_event_explain needs the id of an event' using errcode = '22023';
  end if;
  select e.* into v_event from event_outbox e where e.id = p_event_id;
  if not found then
    return query select true, null::text, 'not_found', null::text, null::text, 'there is no such event, or its transaction is not committed',
      null::text, null::uuid, null::text, null::jsonb;
    return;
  end if;
  for v_row in select x.* from fn_event_explain_dispatch(v_event) x loop
    v_held := coalesce(v_held, case when v_row.verdict <> 'dispatched' then v_row.reason end);
    return query select false, v_row.verdict, v_row.reason, null::text, null::text, v_row.what, v_row.hint, null::uuid, null::text, v_row.detail;
  end loop;
  v_decisions := fn_event_decisions(p_event_id);
  for v_one in select d.value from jsonb_array_elements(v_decisions) with ordinality as d (value, n)
    order by d.value ->> 'consumer_key', d.n
  loop
    select c.* into v_consumer from consumer_registry c where c.consumer_key = v_one ->> 'consumer_key';
    select x.* into v_row from fn_event_explain_consumer(v_event, v_consumer, v_one, v_held) x;
    return query select false, v_row.verdict, v_row.reason, v_consumer.consumer_key, v_one ->> 'recipient', v_row.what, v_row.hint,
      (v_one ->> 'job_id')::uuid, v_one ->> 'status', v_row.detail;
  end loop;
  if v_decisions = '[]' then
    return query select false, 'no_job', 'other_domain', null::text, null::text, format('no consumer is registered for domain %s', v_event.event_domain),
      'reveille consumers list', null::uuid, null::text, null::jsonb;
  end if;
end
$$;
comment on function fn_event_explain(uuid)
  is 'Why an event made which jobs, or none: rows (refused, verdict, reason, consumer_key, what, hint, job_id, …). verdict: dispatched, job, waits, no_job, error.';

-- Enabled consumers whose filter has let none through of the last events of their type, at least ten within 7 days: the filter, how
-- many it has seen, and what the newest 200 of them have where it looks, the most frequent first; where one of its paths leads
-- nowhere, also the names that the newest payload has. Called by `reveille doctor`.
create or replace function fn_consumer_filter_check(p_now timestamptz default null)
returns table (consumer_key text, source text, filter text, seen bigint, has text)
language plpgsql stable security definer set search_path from current set plan_cache_mode = force_generic_plan set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_consumer consumer_registry;
  v_events uuid[];
  v_passed bigint;
  v_newest event_outbox;
begin
  for v_consumer in select c.* from consumer_registry c where c.enabled and c.filter is not null order by c.consumer_key limit 200 loop
    select array_agg(d.event_id order by d.created_at desc, d.event_id desc) filter (where d.event_type like v_consumer.event_type_like),
      count(*) filter (where d.reason in ('match', 'terminal', 'undigestible'))
    into v_events, v_passed
    from fn_route_consumer_dry_run(v_consumer.consumer_key, v_now - interval '7 days', 1000) d;
    continue when v_passed > 0 or coalesce(cardinality(v_events), 0) < 10;
    consumer_key := v_consumer.consumer_key;
    source := v_consumer.source;
    filter := v_consumer.filter::text;
    seen := cardinality(v_events);
    select string_agg(format('%s (%s of them)', f.words, f.n), '; ' order by f.n desc, f.words) into has
    from (
      select nullif(fn_filter_found(v_consumer.filter, row(e.*)::event_outbox), '') as words, count(*) as n
      from unnest(v_events[:200]) u (id)
      cross join lateral (select o.* from event_outbox o where o.id = u.id offset 0) e
      group by 1 order by 2 desc, 1 limit 3) f
    where f.words is not null;
    if has like '% is not there%' then
      select o.* into v_newest from event_outbox o where o.id = v_events[1];
      if v_newest.payload_classification is distinct from 'restricted' and jsonb_typeof(v_newest.safe_payload) = 'object' then
        has := has || coalesce((
          select '; the newest payload has ' || string_agg(k, ', ' order by k) from (select k from jsonb_object_keys(v_newest.safe_payload) k order by k limit 20) x), '');
      end if;
    end if;
    has := coalesce(has, 'it names no path');
    return next;
  end loop;
end
$$;
comment on function fn_consumer_filter_check(timestamptz) is 'Enabled consumers whose filter lets nothing through, and what the events have where it looks.';

---------------------------------------------------------------------------------------------- jobs

-- How each lease of a job ended, the newest 100, oldest first, and the success that stands on the job's own row. p_history is
-- an archived job's.
create or replace function fn_job_attempts(p_job job_queue, p_history jsonb)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off
as $$
begin
  return query
  select 'attempt', a.one ->> 'outcome',
    format('attempt %s by %s: %s%s%s', a.n, a.one ->> 'lease_owner', a.one ->> 'outcome',
      coalesce(' after ' || a.seconds || ' s', ''), coalesce(', ' || (a.one ->> 'error'), '')),
    null::text, null::uuid, (a.one ->> 'ended_at')::timestamptz, a.one - 'outcome' || jsonb_build_object('seconds', a.seconds)
  from (
    select h.one, row_number() over (order by (h.one ->> 'lease_token')::bigint) as n,
      round(extract(epoch from (h.one ->> 'ended_at')::timestamptz - coalesce(h.one ->> 'started_at', h.one ->> 'picked_at')::timestamptz)::numeric, 3) as seconds
    from (
      select e.one from jsonb_array_elements(p_history) e (one)
      union all
      select to_jsonb(x) - 'job_id'
      from (select t.* from job_attempt t where t.job_id = (p_job).job_id and p_history is null order by t.lease_token desc limit 100) x
      union all
      select jsonb_build_object('outcome', 'succeeded', 'lease_token', (p_job).lease_token, 'lease_owner', (p_job).lease_owner,
        'picked_at', (p_job).picked_at, 'started_at', (p_job).started_at, 'ended_at', (p_job).finished_at)
      where p_history is null and (p_job).status = 'succeeded' and (p_job).lease_token is not null) h) a
  order by a.n;
end
$$;
comment on function fn_job_attempts(job_queue, jsonb) is 'The attempts of a job as rows of fn_job_explain. Internal.';
revoke all on function fn_job_attempts(job_queue, jsonb) from public;

-- What a step still needs, or, when it is a gate with all that it needs, what the gate waits for.
create or replace function fn_job_explain_blocked(p_job job_queue)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_workflow uuid := (p_job).workflow_id;
  v_gate job_gate;
begin
  select g.* into v_gate from job_gate g where g.job_id = (p_job).job_id;
  if found and (p_job).blocked_by = 1 then
    return query select 'waits', v_gate.kind || '_waiting', format('it is a step of workflow %s that waits for %s', v_workflow,
        case v_gate.kind when 'event' then v_gate.event_domain || '.' || v_gate.event_type else 'an approval' end),
      case v_gate.kind
        when 'approval' then format('reveille workflows approve %1$s %2$s, or reveille workflows reject %1$s %2$s --reason TEXT', v_workflow, fn_shell_word(substr((p_job).idempotency_key, 38)))
        else format('reveille events emit %s.%s SUBJECT', v_gate.event_domain, v_gate.event_type) end,
      null::uuid, v_gate.expires_at, jsonb_build_object('workflow_id', v_workflow);
    return;
  end if;
  return query
  select 'waits', case when d.state = 'failed' then 'failed_holding' else 'blocked' end,
    format('it needs %s of step %s of workflow %s, which is %s%s', d.on_outcome, n.step, v_workflow, n.status,
      case when g.kind is not null and n.status = 'queued' then format(' and waits for %s',
        case g.kind when 'event' then g.event_domain || '.' || g.event_type else 'an approval' end) else '' end),
    case
      when d.state = 'failed' then format('reveille workflows retry %1$s --reason TEXT --apply, or reveille workflows cancel %1$s --reason TEXT', v_workflow)
      when g.kind = 'approval' and n.status = 'queued' and n.blocked_by = 1 then format('reveille workflows approve %s %s', v_workflow, fn_shell_word(n.step))
      else format('reveille jobs explain %s', d.needs_job_id) end,
    d.needs_job_id, null::timestamptz,
    jsonb_build_object('workflow_id', v_workflow, 'step', n.step, 'status', n.status, 'on', d.on_outcome, 'gate', g.kind)
  from job_dependency d
  left join job_queue q on q.job_id = d.needs_job_id
  left join job_gate g on g.job_id = d.needs_job_id
  cross join lateral (
    select case when q.job_id is null then fn_job_archived(d.needs_job_id) else to_jsonb(q) end as needed) y
  cross join lateral (
    select substr(y.needed ->> 'idempotency_key', 38) as step, y.needed ->> 'status' as status, (y.needed ->> 'blocked_by')::int as blocked_by) n
  where d.job_id = (p_job).job_id and d.state is distinct from 'met'
  order by d.needs_job_id
  limit 100;
end
$$;
comment on function fn_job_explain_blocked(job_queue) is 'What a blocked step waits for, as rows of fn_job_explain. Internal.';
revoke all on function fn_job_explain_blocked(job_queue) from public;

-- Behind which jobs of its ordering key it waits, in the words of v_ordering_blocked.
create or replace function fn_job_explain_order(p_job job_queue)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_ahead bigint;
begin
  select count(*) into v_ahead
  from (
    select from job_queue j
    where j.ordering_key = (p_job).ordering_key and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
      and (coalesce(j.freed_at, j.created_at), j.job_id) < (coalesce((p_job).freed_at, (p_job).created_at), (p_job).job_id)
    limit 1000) a;
  return query
  select 'waits', 'ordering_blocked', format('job %s (%s) of its ordering key %s comes first: %s; %s more wait before this one',
      o.blocking_job_id, o.blocking_job_kind, o.ordering_key, o.reason, v_ahead || case v_ahead when 1000 then '+' else '' end),
    format('reveille jobs explain %s', o.blocking_job_id)
      || coalesce((
        select format('; to free the key: reveille dlq triage %s discarded --note TEXT', d.dead_letter_id)
        from job_dead_letter d where d.job_id = o.blocking_job_id and o.blocking_status = 'dead_letter' order by d.created_at desc limit 1), ''),
    o.blocking_job_id, o.until,
    jsonb_build_object('ordering_key', o.ordering_key, 'status', o.blocking_status, 'ahead', v_ahead, 'last_error', o.last_error)
  from v_ordering_blocked o
  where o.ordering_key = (p_job).ordering_key;
  if not found then
    return query select 'waits', 'ordering_blocked', format('its turn in ordering key %s is not given yet; the next claim or sweep does it (%s wait before it)', (p_job).ordering_key, v_ahead),
      'reveille tick'::text, null::uuid, null::timestamptz, jsonb_build_object('ordering_key', (p_job).ordering_key, 'ahead', v_ahead);
  end if;
end
$$;
comment on function fn_job_explain_order(job_queue) is 'Behind which jobs of its ordering key a job waits, as rows of fn_job_explain. Internal.';
revoke all on function fn_job_explain_order(job_queue) from public;

-- How many due jobs a claim would take before this one, up to p_limit: more urgent ones, and older ones of its own lane.
create or replace function fn_job_lane_ahead(p_job job_queue, p_limit int, p_now timestamptz, out urgent bigint, out older bigint)
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
  select count(*) into urgent
  from (
    select from fn_job_lanes((p_job).executor) l
    cross join lateral (
      select from job_queue j
      where j.executor = (p_job).executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= p_now
      limit p_limit) n
    where l.priority < (p_job).priority and l.scheduled_at <= p_now
      and fn_job_lane_verdict((p_job).executor, l.job_kind, l.event_domain, l.consumer_key, l.priority) is null
    limit p_limit) u;
  select count(*) into older
  from (
    select from job_queue j
    where j.executor = (p_job).executor and j.claimable and j.lane = (p_job).lane and j.priority = (p_job).priority
      and (j.scheduled_at, j.job_id) < ((p_job).scheduled_at, (p_job).job_id)
    limit p_limit) o;
end
$$;
comment on function fn_job_lane_ahead(job_queue, int, timestamptz) is 'How many due jobs come before one: more urgent ones, and older ones of its lane. Internal.';
revoke all on function fn_job_lane_ahead(job_queue, int, timestamptz) from public;

-- Why nobody may claim it, in the words of fn_job_lane_reasons, all of them; or, when somebody may, what comes before it.
create or replace function fn_job_explain_lane(p_job job_queue, p_now timestamptz)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_kind text := (p_job).job_kind;
  v_row record;
  v_running jsonb;
  v_rate record;
  v_ahead record;
  v_live text[];
  v_count int := 0;
begin
  for v_row in
    select r.reason as verdict, split_part(r.reason, ':', 1) as word, r.detail
    from fn_job_lane_reasons((p_job).executor, v_kind, (p_job).event_domain, (p_job).consumer_key, (p_job).priority, true) r
  loop
    v_count := v_count + 1;
    verdict := 'waits'; reason := v_row.word; hint := null; other_job_id := null; until := null; detail := v_row.detail;
    if v_row.word in ('job_substrate_disabled', 'worker_disabled') then
      what := format('the gate %s is closed', v_row.detail ->> 'gate');
      hint := format('reveille gate open %s --reason TEXT', v_row.detail ->> 'gate');
    elsif v_row.word = 'paused' and v_row.detail ? 'scope' then
      what := format('%s is paused since %s by %s: %s', btrim((v_row.detail ->> 'scope') || ' ' || (v_row.detail ->> 'name')),
        (v_row.detail ->> 'paused_at')::timestamptz, v_row.detail ->> 'actor', v_row.detail ->> 'because');
      hint := format('reveille resume %s --reason TEXT', btrim(replace(v_row.detail ->> 'scope', '_', '-')
        || ' ' || case v_row.detail ->> 'scope' when 'all' then '' else fn_shell_word(v_row.detail ->> 'name') end));
    elsif v_row.word = 'paused' then
      what := format('every live executor of kind %s is paused by its name', (p_job).executor);
      hint := 'reveille pause says which, reveille resume executor NAME --reason TEXT ends it';
    elsif v_row.word = 'no_live_executor' then
      what := format('no executor of kind %s beats: %s', (p_job).executor, coalesce((
        select string_agg(format('%s was last heard at %s', h.executor_name, coalesce(h.last_beat_at::text, 'no time')), ', ' order by h.executor_name)
        from (
          select q.executor_name, q.last_beat_at from queue_heartbeat q
          where q.executor_kind = (p_job).executor and not q.is_passive
            and coalesce(q.metadata ->> 'role', '') not in ('dispatcher', 'sweeper', 'reaper', 'scheduler', 'auditor')
          order by q.last_beat_at desc nulls last limit 5) h), 'none is registered'));
      hint := format('reveille work --kind %s', (p_job).executor);
    elsif v_row.word = 'not_subscribed' then
      what := format('no live executor of kind %s may claim %s: %s', (p_job).executor, v_kind,
        (select string_agg(l, ', ') from jsonb_array_elements_text(v_row.detail -> 'live') l));
      hint := format('reveille executors subscribe %s --kind %s', fn_shell_word(coalesce(v_row.detail -> 'live' ->> 0, 'NAME')), fn_shell_word(v_kind));
    elsif v_row.word = 'concurrency_limit' then
      select jsonb_agg(r.job_id) into v_running
      from (
        select j.job_id from job_queue j
        where j.job_kind = v_kind and j.limit_slot is not null and j.lease_until is not null order by j.limit_slot limit 10) r;
      what := format('%s of %s: %s', v_row.verdict, v_kind, coalesce((select string_agg(x, ', ') from jsonb_array_elements_text(v_running) x), 'none runs'));
      detail := v_row.detail || jsonb_build_object('running', v_running);
      other_job_id := v_running ->> 0;
      hint := format('select fn_gate_set(%L, %L, %L, %L)', v_row.detail ->> 'key', 'NUMBER', 'user:me', 'TEXT');
    else
      v_rate := fn_rate_parts(v_row.detail ->> 'limit');
      select min(t.claimed_at) + v_rate.span into until from job_rate t where t.rate_key = v_kind and t.claimed_at > p_now - v_rate.span;
      what := format('%s of %s', v_row.verdict, v_kind);
      hint := format('select fn_gate_set(%L, %L, %L, %L)', v_row.detail ->> 'key', 'JOBS/SECONDS', 'user:me', 'TEXT');
    end if;
    return next;
  end loop;
  if v_count > 0 or not (p_job).claimable or (p_job).scheduled_at > p_now then
    return;
  end if;
  other_job_id := null; until := null; detail := null; hint := null;
  verdict := 'ready'; reason := 'ready';
  if v_kind like 'workflow:%' then
    what := 'dispatch or the next refresh of reveille run starts its workflow';
    hint := 'reveille tick';
    return next;
    return;
  end if;
  v_live := array(select e.executor_name from fn_executors_live((p_job).executor) e order by 1 limit 10);
  select * into v_ahead from fn_job_lane_ahead(p_job, 1000, p_now) a;
  detail := jsonb_build_object('priority', (p_job).priority, 'urgent', v_ahead.urgent, 'older', v_ahead.older, 'live', to_jsonb(v_live));
  if v_ahead.urgent + v_ahead.older > 0 then
    verdict := 'waits'; reason := 'priority';
    what := format('it may be claimed, but %s due jobs are more urgent than its priority %s, and %s of its sort are older', v_ahead.urgent || case v_ahead.urgent when 1000 then '+' else '' end,
      (p_job).priority, v_ahead.older || case v_ahead.older when 1000 then '+' else '' end);
    hint := 'reveille jobs backlog; more workers take more: reveille work';
  else
    what := format('it may be claimed now, by %s', array_to_string(v_live, ', '));
    hint := 'reveille jobs list --status in_progress says what they do instead';
  end if;
  return next;
end
$$;
comment on function fn_job_explain_lane(job_queue, timestamptz) is 'Why nobody may claim a job, or what comes before it, as rows of fn_job_explain. Internal.';
revoke all on function fn_job_explain_lane(job_queue, timestamptz) from public;

-- Who has it, until when, and whether that is over.
create or replace function fn_job_explain_lease(p_job job_queue, p_now timestamptz)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current
as $$
declare
  v_id uuid := (p_job).job_id;
  v_is_reaping boolean := fn_gate_is_open('queue.lease_reaper.enabled') and fn_config('queue.lease_reaper.dry_run_only', 'true') = 'false';
begin
  other_job_id := null;
  until := (p_job).lease_until;
  detail := jsonb_build_object('lease_owner', (p_job).lease_owner, 'lease_token', (p_job).lease_token, 'picked_at', (p_job).picked_at,
    'started_at', (p_job).started_at, 'last_beat_at', (select h.last_beat_at from queue_heartbeat h where h.executor_name = (p_job).lease_owner))
    || case when (p_job).traceparent is null then '{}' else jsonb_build_object('traceparent', (p_job).traceparent) end;
  if (p_job).lease_until <= p_now then
    verdict := 'waits';
    reason := 'lease_lost';
    what := format('the lease of %s ended at %s unreported: %s', (p_job).lease_owner, (p_job).lease_until,
      case when v_is_reaping then 'the reaper frees it' else 'the reaper would free it, but its gates are closed' end);
    hint := case when v_is_reaping then format('reveille jobs release %s --reason TEXT', v_id)
      else 'reveille gate open queue.lease_reaper.enabled --reason TEXT, reveille gate close queue.lease_reaper.dry_run_only --reason TEXT; or for this one '
        || format('reveille jobs release %s --reason TEXT', v_id) end;
  else
    verdict := 'runs';
    reason := (p_job).status;
    what := format('%s has it since %s, leased until %s', (p_job).lease_owner, (p_job).picked_at, (p_job).lease_until);
  end if;
  return next;
  if (p_job).cancel_requested_at is not null then
    verdict := 'runs';
    reason := 'cancel_requested';
    what := format('its cancellation was asked for at %s: %s', (p_job).cancel_requested_at, coalesce((p_job).cancel_reason, 'no reason given'));
    hint := null;
    detail := null;
    return next;
  end if;
end
$$;
comment on function fn_job_explain_lease(job_queue, timestamptz) is 'Who has a job and until when, as rows of fn_job_explain. Internal.';
revoke all on function fn_job_explain_lease(job_queue, timestamptz) from public;

-- How it ended.
create or replace function fn_job_explain_end(p_job job_queue)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off
as $$
declare
  v_letter job_dead_letter;
begin
  verdict := 'ended';
  reason := (p_job).status;
  other_job_id := null;
  until := (p_job).finished_at;
  what := format('it is %s since %s', (p_job).status, (p_job).finished_at);
  if (p_job).status = 'succeeded' then
    what := what || coalesce(', with result ' || (p_job).result_ref, '');
  elsif (p_job).status = 'cancelled' then
    what := what || coalesce(': ' || (p_job).cancel_reason, '');
  elsif (p_job).status in ('failed', 'dead_letter') then
    what := what || format(', after %s of %s failures and %s lost leases: %s', (p_job).attempts, (p_job).max_attempts, (p_job).lease_losses, coalesce((p_job).last_error, 'no error given'));
  end if;
  if (p_job).status = 'dead_letter' then
    select d.* into v_letter from job_dead_letter d where d.job_id = (p_job).job_id order by d.created_at desc limit 1;
    detail := jsonb_build_object('dead_letter_id', v_letter.dead_letter_id, 'triage_status', v_letter.triage_status, 'reason_class', v_letter.reason_class);
    what := what || format(' (%s; triage: %s)', v_letter.reason_class, v_letter.triage_status);
    hint := case v_letter.triage_status when 'manual_replay' then '' else format('reveille dlq triage %s manual_replay --note TEXT, then ', v_letter.dead_letter_id) end
      || format('reveille dlq replay %s --authorization TEXT --apply', v_letter.dead_letter_id)
      || format('; or, if it shall not run again: reveille dlq triage %s discarded --note TEXT', v_letter.dead_letter_id);
  end if;
  if (p_job).traceparent is not null then
    detail := coalesce(detail, '{}') || jsonb_build_object('traceparent', (p_job).traceparent);
  end if;
  return next;
end
$$;
comment on function fn_job_explain_end(job_queue) is 'How a job ended, as a row of fn_job_explain. Internal.';
revoke all on function fn_job_explain_end(job_queue) from public;

-- Every condition that keeps a job waiting, or that it may be claimed.
create or replace function fn_job_explain_waiting(p_job job_queue, p_now timestamptz)
returns table (verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_last job_attempt;
  v_rate text;
  v_used bigint;
begin
  select a.* into v_last from job_attempt a where a.job_id = (p_job).job_id order by a.lease_token desc limit 1;
  if (p_job).blocked_by > 0 then
    return query select x.* from fn_job_explain_blocked((p_job)) x;
  elsif (p_job).ordering_key is not null and coalesce((p_job).ordering_slot, 0) <= 0 then
    return query select x.* from fn_job_explain_order((p_job)) x;
  end if;
  if (p_job).scheduled_at > p_now and (p_job).status = 'retry_waiting' then
    return query select 'waits', 'retry_waiting', format('it failed %s of %s times and is tried again at %s; last: %s', (p_job).attempts, (p_job).max_attempts,
        (p_job).scheduled_at, coalesce((p_job).last_error, 'no error given')),
      format('reveille jobs policy %s', fn_shell_word((p_job).job_kind)) || coalesce(' --domain ' || fn_shell_word((p_job).event_domain), ''), null::uuid, (p_job).scheduled_at,
      jsonb_build_object('attempts', (p_job).attempts, 'max_attempts', (p_job).max_attempts, 'last_error', (p_job).last_error);
  elsif (p_job).scheduled_at > p_now then
    return query select 'waits', 'scheduled', format('it is due at %s%s', (p_job).scheduled_at, case v_last.outcome
        when 'snoozed' then format('; %s put it off', v_last.lease_owner)
        when 'lease_lost' then format('; its lease was lost %s times', (p_job).lease_losses) else '' end),
      null::text, null::uuid, (p_job).scheduled_at, jsonb_build_object('scheduled_at', (p_job).scheduled_at);
  end if;
  v_rate := fn_config('job.' || (p_job).job_kind || '.key_rate_limit', null);
  if v_rate is not null and (p_job).ordering_key is not null then
    select coalesce(sum(r.jobs), 0) into v_used from job_rate r
    where r.rate_key = (p_job).job_kind || ' ' || (p_job).ordering_key and r.claimed_at > p_now - (fn_rate_parts(v_rate)).span;
    if v_used >= (fn_rate_parts(v_rate)).jobs then
      return query select 'waits', 'key_rate_limit', format('key_rate_limit: %s begun of %s for ordering key %s', v_used, v_rate, (p_job).ordering_key),
        format('select fn_gate_set(%L, %L, %L, %L)', 'job.' || (p_job).job_kind || '.key_rate_limit', 'JOBS/SECONDS', 'user:me', 'TEXT'), null::uuid,
        (p_job).scheduled_at, jsonb_build_object('limit', v_rate);
    end if;
  end if;
  return query select x.* from fn_job_explain_lane((p_job), p_now) x;
end
$$;
comment on function fn_job_explain_waiting(job_queue, timestamptz) is 'Why a job waits, as rows of fn_job_explain. Internal.';
revoke all on function fn_job_explain_waiting(job_queue, timestamptz) from public;

-- Why a job does not run, every condition that holds it; or who runs it; or how it ended; then its attempts one by one. Also of
-- archived jobs. An unknown job is one row, refused not_found.
create or replace function fn_job_explain(p_job_id uuid, p_now timestamptz default null)
returns table (
  refused boolean, verdict text, reason text, what text, hint text, other_job_id uuid, until timestamptz, detail jsonb)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_job job_queue;
  v_archived jsonb;
begin
  if p_job_id is null then
    raise exception 'fn_job_explain needs the id of a job' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  if not found then
    v_archived := fn_job_archived(p_job_id);
    if v_archived is null then
      return query select true, null::text, 'not_found', 'there is no such job, or its transaction is not committed', null::text, null::uuid,
        null::timestamptz, null::jsonb;
      return;
    end if;
    v_job := jsonb_populate_record(null::job_queue, v_archived);
  end if;
  if v_job.status in ('leased', 'in_progress') then
    return query select false, x.* from fn_job_explain_lease(v_job, v_now) x;
  elsif v_job.status not in ('queued', 'retry_waiting') then
    return query select false, x.verdict, x.reason,
      x.what || case when v_archived is null then '' else format('; archived at %s', v_archived ->> 'archived_at') end,
      x.hint, x.other_job_id, x.until, x.detail
    from fn_job_explain_end(v_job) x;
  else
    return query select false, x.verdict, x.reason, x.what, x.hint, x.other_job_id, x.until,
      case when v_job.traceparent is null then x.detail else coalesce(x.detail, '{}') || jsonb_build_object('traceparent', v_job.traceparent) end
    from fn_job_explain_waiting(v_job, v_now) x;
  end if;
  return query select false, x.* from fn_job_attempts(v_job, v_archived -> 'history') x;
end
$$;
comment on function fn_job_explain(uuid, timestamptz)
  is 'Why a job does not run, who runs it, or how it ended, then its attempts: rows (refused, verdict, reason, what, hint, …). verdict: waits, ready, runs, ended, attempt.';

---------------------------------------------------------------------------------------------- counts

-- What consumers decided about the newest p_limit events of each domain that still have an arrival.
create or replace function fn_event_reason_counts(p_limit int)
returns table (reason text, count bigint, oldest_at timestamptz)
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with newest as materialized (
    select x.event_id, s.snapshot_new is not null and (
        pg_visible_in_snapshot(x.tx_id, s.snapshot_old)
        or (pg_visible_in_snapshot(x.tx_id, s.snapshot_new)
          and (s.place_tx is null or (x.tx_id, x.arrival_seq) <= (s.place_tx, s.place_seq)))) as is_read
    from dispatch_cursor c
    cross join lateral (
      select p.snapshot_old, p.snapshot_new, p.place_tx, p.place_seq from dispatch_pass p where p.event_domain = c.event_domain order by p.pass_id desc limit 1) s
    cross join lateral (
      select a.event_id, a.tx_id, a.arrival_seq from event_arrival a
      where a.event_domain = c.event_domain order by a.tx_id desc, a.arrival_seq desc limit p_limit) x
  ),
  addressed as materialized (
    select distinct r.event_id
    from fn_event_recipient_rows(case when exists (select from consumer_registry c where c.fan_out is not null)
      then array(select n.event_id from newest n) else '{}' end) r
    where r.muted_by is null
  ),
  decided as (
    select v.decision, e.created_at, n.is_read
    from newest n
    cross join lateral (select o.* from event_outbox o where o.id = n.event_id offset 0) e -- by its key, whatever the statistics say
    join consumer_registry c on c.event_domain = e.event_domain
    cross join lateral (
      select fn_consumer_decision(c, row(e.*)::event_outbox, exists (select from dispatch_error d where d.event_id = e.id and d.consumer_key = c.consumer_key),
        c.fan_out is null or exists (select from addressed a where a.event_id = e.id)) as decision) v
  )
  select case when d.decision = 'job' and not d.is_read then 'not_dispatched' else d.decision end, count(*), min(d.created_at)
  from decided d
  group by 1;
end
$$;
comment on function fn_event_reason_counts(int) is 'The decisions about the newest events of each domain, counted. Internal.';
revoke all on function fn_event_reason_counts(int) from public;

-- How many waiting jobs, and pairs of lately dispatched events and consumers, stand under which reason. Jobs are counted up to
-- 1000 a lane and priority, blocked ones in 1000 workflows, others up to 10,000; of events the newest 100 of each domain are looked at.
create or replace function fn_reason_counts(p_now timestamptz default null)
returns table (about text, reason text, count bigint, more boolean, oldest_at timestamptz)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select 'job', coalesce(split_part(b.reason, ':', 1), 'ready'), sum(b.due)::bigint, bool_or(b.more), min(b.oldest_due_at)
  from fn_job_backlog() b
  where b.due > 0
  group by 2
  union all
  select 'job', case n.status when 'retry_waiting' then 'retry_waiting' else 'scheduled' end, sum(n.jobs)::bigint, bool_or(n.jobs = 1000), min(n.oldest)
  from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) as x (executor)
  cross join lateral fn_job_lanes(x.executor) l
  cross join lateral (
    select d.status, count(*) as jobs, min(d.scheduled_at) as oldest
    from (
      select j.status::text as status, j.scheduled_at from job_queue j
      where j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at > v_now
      order by j.scheduled_at, j.job_id
      limit 1000) d
    group by d.status) n
  group by 2
  union all
  select 'job', 'ordering_blocked', count(*), count(*) = 10000, min(o.created_at)
  from (
    select j.created_at from job_queue j
    where j.ordering_key is not null and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting') limit 10000) o
  having count(*) > 0
  union all
  select 'job', 'lease_lost', count(*), count(*) = 10000, min(l.lease_until)
  from (select j.lease_until from job_queue j where j.lease_until is not null and j.lease_until <= v_now order by j.lease_until limit 10000) l
  having count(*) > 0
  union all
  select 'job', case w.status when 'active' then 'blocked' else 'failed_holding' end, sum(b.jobs)::bigint, count(*) >= 1000, min(b.oldest)
  from (
    (select a.workflow_id, a.status from job_workflow a where a.status = 'active' order by a.updated_at limit 1000)
    union all
    (select f.workflow_id, 'failed' from job_workflow f
     where f.status in ('failed', 'partially_failed') and f.outcome ->> 'blocked' <> '0' order by f.finished_at limit 1000)) w
  cross join lateral (
    select count(*) as jobs, min(j.created_at) as oldest
    from job_queue j
    where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued'
      and j.blocked_by > 0 and not (j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id))) b
  where b.jobs > 0
  group by 2
  union all
  select 'job', g.kind || '_waiting', count(*), count(*) = 10000, min(g.since) from fn_job_gate_waiting(10000) g group by g.kind
  union all
  select 'event', e.reason, e.count, false, e.oldest_at from fn_event_reason_counts(100) e;
end
$$;
comment on function fn_reason_counts(timestamptz) is 'How many jobs wait for which reason, and what consumers decided about the newest events. Called by v_reason_counts.';

create or replace view v_reason_counts as
select r.about, r.reason, r.count, r.more, r.oldest_at from fn_reason_counts() r;
comment on view v_reason_counts is 'How many waiting jobs (job), and pairs of a late event and a consumer (event), stand under which reason of fn_job_explain and fn_event_explain.';
comment on column v_reason_counts.oldest_at is 'Of jobs, when the first was or will be due, was made, or lost its lease; of events, when the oldest was created.';
comment on column v_reason_counts.more is 'There are more: jobs are counted up to 1000 a lane and priority, in 1000 workflows, or up to 10,000.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_event_explain(uuid)', 'fn_job_explain(uuid, timestamptz)', 'fn_reason_counts(timestamptz)',
    'fn_consumer_filter_check(timestamptz)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
  end loop;
  call pr_grant('select on v_reason_counts', array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
end
$$;
