-- Functions of phase 007: pauses, subscriptions, and what waits for whom.

-- The names that a pause of a scope can mean as things stand. Of a kind of job something has to speak that is still there: a
-- job that waits, one of the newest 1000 jobs, a handler, a consumer or a subscription. Called by fn_pause and by operators.
create or replace function fn_pause_names(p_scope text) returns text[]
language plpgsql stable security definer set search_path from current set enable_seqscan = off set jit = off
as $$
begin
  return array(
    select '' where p_scope = 'all'
    union
    select c.event_domain from dispatch_cursor c where p_scope = 'domain'
    union
    select c.consumer_key from consumer_registry c where p_scope = 'consumer'
    union
    select h.executor_name from queue_heartbeat h where p_scope = 'executor' and not h.is_passive
    union
    select x from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x
    where p_scope = 'executor'
    union
    select k.job_kind
    from (
      select h.job_kind from job_handler h
      union
      select c.job_kind from consumer_registry c where c.job_kind is not null
      union
      select s.job_kind from job_subscription s where s.job_kind not like '%*%'
      union
      -- no index leads with the kind: those that wait, a step from lane to lane, and those that were made last
      select l.job_kind
      from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x (executor)
      cross join lateral fn_job_lanes(x.executor) l
      union
      select n.job_kind from (select j.job_kind from job_queue j order by j.job_id desc limit 1000) n) k
    where p_scope = 'job_kind'
    order by 1);
end
$$;
comment on function fn_pause_names(text) is 'The domains, consumers, kinds of jobs or executors that a pause can mean now.';

-- Stops new work: of all, of a domain, of a consumer's jobs, of a kind of job, or of an executor (its name, or its kind).
-- all and domain stop dispatch, too, and the position stays where it is. What is leased goes on: renew, succeed, fail and
-- release are never refused. Stands until fn_resume, also across restarts. A pause may come before what it pauses: `known`
-- says whether there is something of that name. Called by operators.
create or replace function fn_pause(p_scope text, p_name text, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_name text := case when p_scope = 'all' then '' else btrim(coalesce(p_name, '')) end;
  v_known boolean;
  v_pause queue_pause;
begin
  call pr_pause_check('fn_pause', p_scope, v_name, p_actor, p_reason);
  v_known := v_name = any (fn_pause_names(p_scope));
  insert into queue_pause (scope, name, actor, reason) values (p_scope, v_name, p_actor, p_reason)
  on conflict (scope, name) where resumed_at is null do nothing
  returning * into v_pause;
  if not found then
    select p.* into v_pause from queue_pause p where p.scope = p_scope and p.name = v_name and p.resumed_at is null;
    return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name, 'known', v_known, 'changed', false,
      'paused_at', v_pause.paused_at, 'actor', v_pause.actor, 'reason', v_pause.reason);
  end if;
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name, 'known', v_known, 'changed', true,
    'paused_at', v_pause.paused_at);
end
$$;
comment on function fn_pause(text, text, text, text) is 'Stops new work of a scope until fn_resume: {scope, name, known, changed, paused_at}; known is false when there is nothing of that name so far.';

-- Ends a pause, and wakes whoever sleeps.
create or replace function fn_resume(p_scope text, p_name text, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_name text := case when p_scope = 'all' then '' else btrim(coalesce(p_name, '')) end;
begin
  call pr_pause_check('fn_resume', p_scope, v_name, p_actor, p_reason);
  update queue_pause p
  set resumed_at = clock_timestamp(), resumed_by = session_user, resume_actor = p_actor, resume_reason = p_reason
  where p.scope = p_scope and p.name = v_name and p.resumed_at is null;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'scope', p_scope, 'name', v_name);
  end if;
  perform pg_notify('queue_control', '');
  perform fn_wake('job_wake_' || k)
  from unnest(array['dot', 'agent', 'hermes', 'codex', 'pg_worker', 'external_worker', 'future_kestra_adapter']) k;
  perform fn_wake('queue_wake_' || c.event_domain) from dispatch_cursor c
  where p_scope = 'all' or (p_scope = 'domain' and c.event_domain = v_name);
  return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name);
end
$$;
comment on function fn_resume(text, text, text, text) is 'Ends a pause: {scope, name}. Refused not_found when nothing is paused there.';

create or replace procedure pr_pause_check(p_function text, p_scope text, p_name text, p_actor text, p_reason text)
language plpgsql set search_path from current
as $$
begin
  if coalesce(p_scope, '') <> all (array['all', 'domain', 'consumer', 'job_kind', 'executor']) then
    raise exception '%: p_scope must be all, domain, consumer, job_kind or executor, not %', p_function, quote_nullable(p_scope)
      using errcode = '22023';
  elsif p_scope <> 'all' and p_name = '' then
    raise exception '%: p_name is missing; name the % that is meant', p_function, p_scope using errcode = '22023';
  elsif coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception '% needs an actor and a reason', p_function using errcode = '22023';
  end if;
end
$$;
comment on procedure pr_pause_check(text, text, text, text, text) is 'Raises 22023 when a pause is asked for without what it needs. Internal.';

-- What an executor may claim: sets one row of job_subscription. From its first row on, an executor claims nothing outside
-- its rows. Called by operators.
create or replace function fn_subscription_set(
  p_executor_name text,
  p_actor text,
  p_job_kind text default '*',
  p_event_domain text default '*',
  p_priority_floor int default null,
  p_share real default 1,
  p_description text default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  if coalesce(btrim(p_executor_name), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_job_kind), '') = ''
    or coalesce(btrim(p_event_domain), '') = ''
  then
    raise exception 'fn_subscription_set needs an executor, an actor, a job kind and a domain; * stands for all' using errcode = '22023';
  elsif p_priority_floor not between 0 and 32767 then
    raise exception 'fn_subscription_set: p_priority_floor must be from 0 to 32767, not %', p_priority_floor using errcode = '22023';
  elsif p_share is null or not (p_share > 0 and p_share <= 1000000) then
    raise exception 'fn_subscription_set: p_share must be a number above 0, not %', coalesce(p_share::text, 'null') using errcode = '22023';
  end if;
  insert into job_subscription as s (executor_name, job_kind, event_domain, priority_floor, share, description, actor)
  values (p_executor_name, p_job_kind, p_event_domain, p_priority_floor, p_share, p_description, p_actor)
  on conflict (executor_name, job_kind, event_domain) do update
  set priority_floor = excluded.priority_floor, share = excluded.share, description = excluded.description, actor = excluded.actor,
      set_by = session_user, updated_at = clock_timestamp();
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'job_kind', p_job_kind, 'event_domain', p_event_domain);
end
$$;
comment on function fn_subscription_set(text, text, text, text, int, real, text) is 'Adds or changes what an executor may claim: {executor_name, job_kind, event_domain}.';

-- Takes a subscription away. With p_job_kind and p_event_domain null: all of the executor, which may then claim everything of its
-- kind again.
create or replace function fn_subscription_remove(p_executor_name text, p_actor text, p_job_kind text default null, p_event_domain text default null)
returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_removed int;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_subscription_remove needs an actor' using errcode = '22023';
  end if;
  delete from job_subscription s
  where s.executor_name = p_executor_name and (p_job_kind is null or s.job_kind = p_job_kind)
    and (p_event_domain is null or s.event_domain = p_event_domain);
  get diagnostics v_removed = row_count;
  if v_removed = 0 then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'executor_name', p_executor_name);
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('job_subscription.' || p_executor_name, format('%s %s', coalesce(p_job_kind, '*'), coalesce(p_event_domain, '*')), null, p_actor, 'removed');
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'removed', v_removed);
end
$$;
comment on function fn_subscription_remove(text, text, text, text) is 'Takes subscriptions of an executor away: {removed}. Refused not_found.';

-- Removes what counts towards no rate any more: what is older than the longest window of any rate limit, and than an hour.
-- Answers how much. Called by the housekeeper.
create or replace function fn_job_rate_prune(p_limit int default 50000) returns bigint
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_span interval;
  v_count bigint;
begin
  select greatest(interval '1 hour', max((fn_rate_parts(c.value)).span)) into v_span
  from dot_config c where c.key like 'job.%rate\_limit';
  delete from job_rate r
  where r.ctid = any (array(
    select o.ctid from job_rate o where o.claimed_at < clock_timestamp() - v_span limit p_limit for update skip locked));
  get diagnostics v_count = row_count;
  return v_count;
end
$$;
comment on function fn_job_rate_prune(int) is 'Removes what counts towards no rate limit any more; how many rows.';

-- Why nobody may claim from a lane now; no row: somebody may. In the order in which an operator would ask; without p_all only
-- the first. `detail` says what an operator needs to do something about it.
create or replace function fn_job_lane_reasons(
  p_executor text, p_job_kind text, p_event_domain text, p_consumer_key text, p_priority int, p_all boolean)
returns table (reason text, detail jsonb)
language plpgsql stable security definer set search_path from current
as $$
declare
  v_is_start boolean := p_job_kind like 'workflow:%'; -- dispatch or the next refresh takes it, no executor: fn_mot_start
  v_gate text;
  v_pause queue_pause;
  v_limit text;
  v_used bigint;
begin
  foreach v_gate in array array['queue.job_substrate.enabled', 'queue.worker.enabled'] loop
    if not fn_gate_is_open(v_gate) and (v_gate = 'queue.job_substrate.enabled' or not v_is_start) then
      reason := case v_gate when 'queue.worker.enabled' then 'worker_disabled' else 'job_substrate_disabled' end;
      detail := jsonb_build_object('gate', v_gate);
      return next;
      if not p_all then
        return;
      end if;
    end if;
  end loop;
  for v_pause in
    select p.*
    from queue_pause p
    where p.resumed_at is null and (
      p.scope = 'all' or (p.scope = 'job_kind' and p.name = p_job_kind) or (p.scope = 'domain' and p.name = p_event_domain)
      or (p.scope = 'consumer' and p.name = p_consumer_key) or (not v_is_start and p.scope = 'executor' and p.name = p_executor))
    order by p.pause_id
  loop
    reason := 'paused: ' || case v_pause.scope when 'all' then 'all' else v_pause.scope || ' ' || v_pause.name end;
    detail := jsonb_build_object('scope', v_pause.scope, 'name', v_pause.name, 'actor', v_pause.actor, 'because', v_pause.reason,
      'paused_at', v_pause.paused_at);
    return next;
    if not p_all then
      return;
    end if;
  end loop;
  if v_is_start then
    return;
  end if;
  reason := null;
  if not exists (select from fn_executors_live(p_executor)) then
    reason := 'no_live_executor';
  elsif not exists (
    select from fn_executors_live(p_executor) e
    where not exists (select from job_subscription s where e.executor_name like s.executor_name_like)
      or exists (
        select from job_subscription s
        where e.executor_name like s.executor_name_like and p_job_kind like s.job_kind_like
          and s.event_domain in ('*', p_event_domain) and (s.priority_floor is null or p_priority <= s.priority_floor)))
  then
    reason := 'not_subscribed';
  elsif not exists (
    select from fn_executors_live(p_executor) e
    where not exists (select from queue_pause p where p.resumed_at is null and p.scope = 'executor' and p.name = e.executor_name))
  then
    reason := 'paused: every executor';
  end if;
  if reason is not null then
    detail := case when p_all then jsonb_build_object('executor', p_executor,
      'live', array(select e.executor_name from fn_executors_live(p_executor) e order by 1 limit 10)) end;
    return next;
    if not p_all then
      return;
    end if;
  end if;
  v_limit := fn_config('job.' || p_job_kind || '.concurrency_limit', null);
  if v_limit is not null then
    select count(*) into v_used from job_queue j where j.job_kind = p_job_kind and j.limit_slot is not null and j.lease_until is not null;
    if v_used >= (fn_rate_parts(v_limit)).jobs then
      reason := format('concurrency_limit: %s of %s run', v_used, v_limit);
      detail := jsonb_build_object('key', 'job.' || p_job_kind || '.concurrency_limit', 'limit', v_limit);
      return next;
      if not p_all then
        return;
      end if;
    end if;
  end if;
  v_limit := fn_config('job.' || p_job_kind || '.rate_limit', null);
  if v_limit is not null then
    select coalesce(sum(r.jobs), 0) into v_used from job_rate r
    where r.rate_key = p_job_kind and r.claimed_at > clock_timestamp() - (fn_rate_parts(v_limit)).span;
    if v_used >= (fn_rate_parts(v_limit)).jobs then
      reason := format('rate_limit: %s begun of %s', v_used, v_limit);
      detail := jsonb_build_object('key', 'job.' || p_job_kind || '.rate_limit', 'limit', v_limit);
      return next;
    end if;
  end if;
end
$$;
comment on function fn_job_lane_reasons(text, text, text, text, int, boolean)
  is 'Why nobody may claim such a job now, each reason with what it is about; no row: somebody may. Internal.';
revoke all on function fn_job_lane_reasons(text, text, text, text, int, boolean) from public;

-- The first of these reasons.
create or replace function fn_job_lane_verdict(p_executor text, p_job_kind text, p_event_domain text, p_consumer_key text, p_priority int)
returns text
language plpgsql stable security definer set search_path from current
as $$
begin
  return (select r.reason from fn_job_lane_reasons(p_executor, p_job_kind, p_event_domain, p_consumer_key, p_priority, false) r limit 1);
end
$$;
comment on function fn_job_lane_verdict(text, text, text, text, int) is 'Why nobody may claim such a job now; null: somebody may. Called by v_job_queue_backlog.';

create or replace function fn_job_backlog()
returns table (
  executor text, job_kind text, event_domain text, consumer_key text, priority int, due int, more boolean, oldest_due_at timestamptz,
  next_due_at timestamptz, reason text)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select x.executor, l.job_kind, l.event_domain, l.consumer_key, l.priority, n.due::int, n.due = 1000,
    case when n.due > 0 then l.scheduled_at end, case when n.due = 0 then l.scheduled_at end,
    case when n.due > 0 then fn_job_lane_verdict(x.executor, l.job_kind, l.event_domain, l.consumer_key, l.priority) end
  from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) as x (executor)
  cross join lateral fn_job_lanes(x.executor) l
  cross join lateral (
    select count(*) as due
    from (
      select from job_queue j
      where j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= clock_timestamp()
      limit 1000) d) n;
end
$$;
comment on function fn_job_backlog() is 'What waits to be claimed, by lane and priority. Called by v_job_queue_backlog.';

create or replace view v_job_queue_backlog as
select b.executor, b.job_kind, b.event_domain, b.consumer_key, b.priority, b.due, b.more, b.oldest_due_at, b.next_due_at, b.reason
from fn_job_backlog() b;
comment on view v_job_queue_backlog is 'What waits to be claimed: due jobs (counted up to 1000; more says that there are others), and the reason when nobody may claim them.';
comment on column v_job_queue_backlog.reason is 'Null: somebody may claim them. no_live_executor, not_subscribed, paused: …, concurrency_limit: …, rate_limit: …, or a closed gate.';

create or replace view v_ordering_blocked as
select t.ordering_key, t.job_id as blocking_job_id, t.job_kind::text as blocking_job_kind, t.status::text as blocking_status,
  case
    when t.status in ('leased', 'in_progress') and t.lease_until < clock_timestamp() then 'its lease has ended: the reaper frees it'
    when t.status in ('leased', 'in_progress') then 'it runs'
    when t.status = 'dead_letter' then 'it is a dead letter that nobody has decided about'
    when t.status = 'retry_waiting' and t.scheduled_at > clock_timestamp() then 'it failed and waits to be tried again'
    when t.blocked_by > 0 then 'it waits for other jobs'
    when t.scheduled_at > clock_timestamp() then 'it is scheduled for later'
    else 'it waits to be claimed'
  end as reason,
  case when t.lease_until is null and t.status <> 'dead_letter' and t.scheduled_at > clock_timestamp() then t.scheduled_at end as until,
  t.last_error, n.job_id as next_job_id, n.behind, n.oldest as oldest_created_at
from job_queue t
cross join lateral (
  select min(b.created_at) as oldest, count(*)::int as behind, (array_agg(b.job_id))[1] as job_id
  from (
    select j.job_id, j.created_at from job_queue j
    where j.ordering_key = t.ordering_key and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
    order by coalesce(j.freed_at, j.created_at), j.job_id limit 1000) b) n
where t.ordering_slot > 0 and t.status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter') and n.behind > 0;
comment on view v_ordering_blocked is 'Jobs that hold up others of their ordering key, why, and how many (counted up to 1000).';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_pause_names(text)', 'fn_pause(text, text, text, text)', 'fn_resume(text, text, text, text)', 'fn_subscription_set(text, text, text, text, int, real, text)',
    'fn_subscription_remove(text, text, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_job_rate_prune(int)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_job_rate_prune(int)'::regprocedure), array['reveille_dispatcher']);
  revoke all on procedure pr_pause_check(text, text, text, text, text) from public;
  foreach v_function in array array[
    'fn_job_lane_verdict(text, text, text, text, int)', 'fn_job_backlog()'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);
  end loop;
  call pr_grant('select on v_job_queue_backlog, v_ordering_blocked', array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
end
$$;
