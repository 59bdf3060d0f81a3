-- Functions of phase 005: register, beat, and the one view over everything that can fall silent.

-- Whether this session may use a name of that owner. The name of a role that is gone (a restore elsewhere) is free.
create or replace function fn_executor_is_ours(p_owner_role name) returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return coalesce((select pg_has_role(session_user, r.oid, 'member') from pg_roles r where r.rolname = p_owner_role), true);
end
$$;
comment on function fn_executor_is_ours(name) is 'Whether the session''s role is a member of the owner, or the owner is gone.';

-- The workers of the host's older route machinery and when each ran last; of several rows the newest. Read as jsonb, as
-- the host's columns may differ; only a table of our own schema counts: the search path of this function ends in
-- pg_temp, where anybody may make a view that runs with our owner's rights.
create or replace function fn_legacy_workers(out worker_name text, out ran_at timestamptz, out events_seen numeric) returns setof record
language plpgsql stable security definer set search_path from current
as $$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_route_worker_cursor' and c.relkind in ('r', 'p'))
  then
    return;
  end if;
  for worker_name, ran_at, events_seen in execute format($q$
    select n.name, max(n.ran_at) filter (where isfinite(n.ran_at)), max(n.seen)
    from (
      select coalesce(j ->> 'worker_name', j ->> 'name') as name, (j ->> 'last_run_at')::timestamptz as ran_at,
        case when j ->> 'events_seen' ~ '^[0-9]{1,18}$' then (j ->> 'events_seen')::numeric end as seen
      from (select to_jsonb(c) as j from %I.iu_route_worker_cursor c) d) n
    where n.name ~ '^[^\s].{0,119}$' and lower(n.name) <> 'mot'
    group by n.name $q$, current_schema())
  loop
    return next;
  end loop;
end
$$;
comment on function fn_legacy_workers() is 'Name, last run and events seen of the workers in iu_route_worker_cursor, if the host has that table. Called by v_queue_health and the stale check.';

-- Whether a name is that of a worker which only its own activity can show to be alive: a beat by somebody else would
-- hide its silence, which is how four days of it went unseen (seed 004).
create or replace function fn_executor_is_passive(p_executor_name text) returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return p_executor_name = 'iu_outbound_default'
    or exists (select from queue_heartbeat h where h.executor_name = p_executor_name and h.is_passive)
    or exists (select from fn_legacy_workers() l where l.worker_name = p_executor_name);
end
$$;
comment on function fn_executor_is_passive(text) is 'Whether nobody may register or beat under a name, because it is a worker of the host.';

-- Registers an executor. The first role to take a name owns it. A name under which another process (p_instance) beats is
-- refused until that one is stale or p_takeover says otherwise.
create or replace function fn_queue_heartbeat_register(
  p_executor_name text,
  p_executor_kind text,
  p_domain_scope text[] default '{}',
  p_expected_cadence_seconds int default 60,
  p_stale_threshold_seconds int default null,
  p_metadata jsonb default '{}',
  p_instance text default null,
  p_takeover boolean default false
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_is queue_heartbeat;
begin
  if fn_executor_is_passive(p_executor_name) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'executor_name', p_executor_name, 'is_passive', true);
  end if;
  insert into queue_heartbeat as h (
    executor_name, executor_kind, domain_scope, expected_cadence_seconds, stale_threshold_seconds, metadata,
    last_beat_at, last_beat_status, beats_total, owner_role, instance)
  values (
    p_executor_name, p_executor_kind, coalesce(p_domain_scope, '{}'), p_expected_cadence_seconds,
    coalesce(p_stale_threshold_seconds, greatest(1, fn_config_number('queue.heartbeat.stale_threshold_seconds', 300))::int), coalesce(p_metadata, '{}'),
    v_now, 'ok', 1, session_user, p_instance)
  on conflict (executor_name) do update
  set executor_kind = excluded.executor_kind,
      domain_scope = excluded.domain_scope,
      expected_cadence_seconds = excluded.expected_cadence_seconds,
      stale_threshold_seconds = excluded.stale_threshold_seconds,
      metadata = excluded.metadata,
      last_beat_at = excluded.last_beat_at,
      last_beat_status = 'ok',
      beats_total = h.beats_total + 1,
      -- a takeover that names no process still ends the one before
      instance = coalesce(excluded.instance, case when p_takeover and h.instance is not null then gen_random_uuid()::text end),
      wakes_for = case when h.instance = excluded.instance then h.wakes_for end,
      owner_role = case when exists (select from pg_roles r where r.rolname = h.owner_role) then h.owner_role else session_user end
  where fn_executor_is_ours(h.owner_role)
    and (coalesce(p_takeover, false) or h.instance is null or h.instance = p_instance
      or coalesce(h.last_beat_at, '-infinity') < v_now - make_interval(secs => h.stale_threshold_seconds));
  if not found then
    select h.* into v_is from queue_heartbeat h where h.executor_name = p_executor_name;
    return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'owner_role', v_is.owner_role,
      'reason', case when fn_executor_is_ours(v_is.owner_role) then 'executor_alive' else 'not_owner' end,
      'stale_at', v_is.last_beat_at + make_interval(secs => v_is.stale_threshold_seconds));
  end if;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'executor_kind', p_executor_kind);
end
$$;
comment on function fn_queue_heartbeat_register(text, text, text[], int, int, jsonb, text, boolean)
  is 'Registers an executor under a name, before its first claim. Refused not_owner, or executor_alive while another process beats under it.';

create or replace function fn_queue_heartbeat_tick(
  p_executor_name text,
  p_executor_kind text default null,
  p_status text default 'ok',
  p_current_job_id uuid default null,
  p_lease_owner text default null,
  p_metadata jsonb default null,
  p_instance text default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  update queue_heartbeat h
  set last_beat_at = clock_timestamp(),
      last_beat_status = p_status,
      beats_total = h.beats_total + 1,
      current_job_id = p_current_job_id,
      metadata = coalesce(p_metadata, h.metadata)
  where h.executor_name = p_executor_name
    and (p_executor_kind is null or h.executor_kind = p_executor_kind)
    and (p_lease_owner is null or p_lease_owner = p_executor_name)
    and (h.instance is null or h.instance = p_instance)
    and not h.is_passive
    and fn_executor_is_ours(h.owner_role);
  if found then
    return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
  end if;
  return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
    case when fn_executor_is_passive(p_executor_name) or exists (select from queue_heartbeat h where h.executor_name = p_executor_name)
      then 'not_owner' else 'executor_not_registered' end);
end
$$;
comment on function fn_queue_heartbeat_tick(text, text, text, uuid, text, jsonb, text)
  is 'Beats for an executor. Refused executor_not_registered, or not_owner when name, kind, role or process do not fit.';

-- Says of which kinds of jobs this process wants to be told by name while it is at rest. Called by workers that listen,
-- after they have registered and whenever their kinds change. Refused as a beat is.
create or replace function fn_executor_wakes_for(p_executor_name text, p_instance text, p_job_kinds text[]) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  update queue_heartbeat h set wakes_for = p_job_kinds
  where h.executor_name = p_executor_name and h.instance = p_instance and fn_executor_is_ours(h.owner_role);
  if not found then
    return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
      case when exists (select from queue_heartbeat h where h.executor_name = p_executor_name) then 'not_owner' else 'executor_not_registered' end);
  end if;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
end
$$;
comment on function fn_executor_wakes_for(text, text, text[]) is 'The kinds of jobs of which a process at rest is told by name: {executor_name}. Refused executor_not_registered, or not_owner.';

-- A process that beats under a given name ends well: its successor need not wait until the name is stale.
create or replace function fn_queue_heartbeat_leave(p_executor_name text, p_instance text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  update queue_heartbeat h set instance = null, current_job_id = null, wakes_for = null
  where h.executor_name = p_executor_name and h.instance = p_instance and fn_executor_is_ours(h.owner_role);
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'left', found);
end
$$;
comment on function fn_queue_heartbeat_leave(text, text) is 'Says that this process does not beat under the name any more; the name stays registered.';

-- Forgets an executor, so that its silence alarms nobody. Called by a worker that made its name up and ends well; with
-- p_instance only while that process still has the name.
create or replace function fn_queue_heartbeat_unregister(p_executor_name text, p_instance text default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  delete from queue_heartbeat h
  where h.executor_name = p_executor_name and not h.is_passive and (p_instance is null or h.instance = p_instance)
    and fn_executor_is_ours(h.owner_role);
  if found then
    return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
  end if;
  return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
    case when exists (select from queue_heartbeat h where h.executor_name = p_executor_name) then 'not_owner' else 'executor_not_registered' end);
end
$$;
comment on function fn_queue_heartbeat_unregister(text, text) is 'Forgets an executor. Refused executor_not_registered, or not_owner.';

-- The executors of a kind that beat and may claim; the parts of a sidecar beat, but claim nothing.
create or replace function fn_executors_live(p_executor_kind text) returns table (executor_name text)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  select h.executor_name from queue_heartbeat h
  where h.executor_kind = p_executor_kind and not h.is_passive
    and coalesce(h.metadata ->> 'role', '') not in ('dispatcher', 'sweeper', 'reaper', 'scheduler', 'auditor')
    and h.last_beat_at > clock_timestamp() - make_interval(secs => h.stale_threshold_seconds);
end
$$;
comment on function fn_executors_live(text) is 'Names of the executors of a kind that beat.';
revoke all on function fn_executors_live(text) from public;
call pr_grant(format('execute on function %s', 'fn_executors_live(text)'::regprocedure),
  array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);

-- Whether an executor may claim, and whatever else a claim has to know before it looks at jobs, in one statement, because
-- every claim comes through here. reason is null when it may; paused has the standing pauses as `scope:name`, null when
-- there are none.
create or replace function fn_executor_admission(p_executor_name text, p_instance text)
returns table (reason text, executor_kind text, paused text[], is_subscribed boolean, lease_seconds int, aging_seconds numeric)
language sql stable
begin atomic
  select
    case
      when coalesce((select c.value from dot_config c where c.key = 'queue.job_substrate.enabled'), '') <> 'true' then 'job_substrate_disabled'
      when coalesce((select c.value from dot_config c where c.key = 'queue.worker.enabled'), '') <> 'true' then 'worker_disabled'
      when h.executor_name is null then 'executor_not_registered'
      when h.owner_role <> session_user and not fn_executor_is_ours(h.owner_role) then 'not_owner'
      when h.instance <> p_instance then 'executor_alive' -- another process has taken the name over
      when h.last_beat_at is null or h.last_beat_at < clock_timestamp() - make_interval(secs => h.stale_threshold_seconds) then 'executor_silent'
      when p.paused && array['all:', 'executor:' || h.executor_name, 'executor:' || h.executor_kind] then 'paused'
    end,
    h.executor_kind,
    p.paused,
    exists (select from job_subscription s where p_executor_name like s.executor_name_like),
    coalesce((
      select greatest(1, c.value::numeric)::int from dot_config c
      where c.key = 'queue.lease.duration_sec' and c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'), 300),
    coalesce((
      select c.value::numeric from dot_config c
      where c.key = 'queue.priority.aging_seconds' and c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'), 10)
  from (select array_agg(q.scope || ':' || q.name) as paused from queue_pause q where q.resumed_at is null) p
  left join queue_heartbeat h on h.executor_name = p_executor_name;
end;
comment on function fn_executor_admission(text, text) is 'Why an executor may not claim (null: it may), its kind, and what its claims have to know. Called by fn_job_claim.';
revoke all on function fn_executor_admission(text, text) from public;

-- Notices silences: an executor whose last beat is older than its threshold. The event system.queue_worker_silent is emitted
-- once when a silence is found and system.queue_worker_recovered once when it has ended; where a type is not registered
-- and active the answer only names it. Workers of the host are judged by their own cursors. With p_threshold_seconds
-- or p_now it only tells who would be silent by that measure. Called by `reveille run` and `tick`, by operators; any number at once.
create or replace function fn_queue_stale_check(p_threshold_seconds int default null, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_known text[];
  v_type text;
  v_row queue_heartbeat;
  v_stale jsonb := '[]';
  v_events jsonb := '[]';
  v_silent int := 0;
  v_recovered int := 0;
  v_missing text[] := '{}';
  v_since timestamptz;
  v_trouble text;
begin
  if fn_config('queue.heartbeat.enabled', 'true') <> 'true' then
    return jsonb_build_object('refused', true, 'reason', 'heartbeat_disabled');
  end if;
  if p_threshold_seconds is not null or p_now is not null then
    -- another measure than everybody's own: tells, and announces nothing
    select coalesce(jsonb_agg(jsonb_build_object('executor_name', h.executor_name, 'executor_kind', h.executor_kind,
      'last_beat_at', h.last_beat_at, 'silent_since', h.silent_since, 'is_passive', h.is_passive) order by h.last_beat_at), '[]') into v_stale
    from queue_heartbeat h
    where coalesce(h.last_beat_at, '-infinity') < v_now - make_interval(secs => coalesce(p_threshold_seconds, h.stale_threshold_seconds));
    return jsonb_build_object('refused', false, 'stale', v_stale, 'silent', 0, 'recovered', 0, 'events', v_events,
      'missing_types', v_events, 'emit_error', null);
  end if;
  begin
    insert into queue_heartbeat (executor_name, executor_kind, last_beat_at, stale_threshold_seconds, is_passive, metadata)
    select l.worker_name, 'PG_worker', l.ran_at, greatest(1, fn_config_number('queue.heartbeat.stale_threshold_seconds', 300))::int, true,
      '{"role": "legacy"}'
    from fn_legacy_workers() l
    where not exists (select from queue_heartbeat h where h.executor_name = l.worker_name)
    on conflict (executor_name) do nothing;
    update queue_heartbeat h set last_beat_at = w.ran_at, is_passive = true
    from (
      select f.executor_name, l.ran_at
      from fn_legacy_workers() l
      join lateral (
        select q.executor_name from queue_heartbeat q
        where q.executor_name = l.worker_name and (q.last_beat_at is distinct from l.ran_at or not q.is_passive)
        for update skip locked) f on true) w
    where h.executor_name = w.executor_name;
  exception when others then
    v_trouble := sqlerrm; -- what the host keeps must not stop the rest
  end;

  v_known := array(
    select r.event_type::text from event_type_registry r
    where r.event_domain = 'system' and r.event_type in ('queue_worker_silent', 'queue_worker_recovered') and r.active);
  for v_row in
    select h.* from queue_heartbeat h
    where (h.silent_since is null) = (coalesce(h.last_beat_at, '-infinity')
      < v_now - make_interval(secs => h.stale_threshold_seconds))
    order by h.executor_name
    limit 50 -- each may take a savepoint (trap 19); the rest comes with the next check
    for update skip locked
  loop
    if v_row.silent_since is null then
      v_type := 'queue_worker_silent';
      v_silent := v_silent + 1;
    else
      v_type := 'queue_worker_recovered';
      v_recovered := v_recovered + 1;
    end if;
    v_since := coalesce(v_row.silent_since, v_row.last_beat_at, v_now);
    update queue_heartbeat h set silent_since = case when v_row.silent_since is null then v_since end
    where h.executor_name = v_row.executor_name;
    if v_type = any (v_known) then
      begin
        v_events := v_events || to_jsonb(fn_event_emit('system', v_type, v_row.executor_name, jsonb_build_object(
          'executor_name', v_row.executor_name, 'executor_kind', v_row.executor_kind, 'last_beat_at', v_row.last_beat_at,
          'silent_since', v_since, 'stale_threshold_seconds', v_row.stale_threshold_seconds,
          'is_passive', v_row.is_passive)));
      exception when others then
        v_trouble := sqlerrm; -- an outbox that takes no such row must not undo what was found
      end;
    elsif not v_type = any (v_missing) then
      v_missing := v_missing || v_type;
    end if;
  end loop;
  select coalesce(jsonb_agg(jsonb_build_object('executor_name', h.executor_name, 'executor_kind', h.executor_kind,
    'last_beat_at', h.last_beat_at, 'silent_since', h.silent_since, 'is_passive', h.is_passive) order by h.silent_since), '[]') into v_stale
  from queue_heartbeat h where h.silent_since is not null;
  return jsonb_build_object('refused', false, 'stale', v_stale, 'silent', v_silent, 'recovered', v_recovered, 'events', v_events,
    'missing_types', to_jsonb(v_missing), 'emit_error', v_trouble);
end
$$;
comment on function fn_queue_stale_check(int, timestamptz)
  is 'Notices silences and their ends: {stale, silent, recovered, events, missing_types}. Refused heartbeat_disabled.';

-- Invariant 12: one view over cursors, backlog, leases, dead letters and heartbeat ages. Each row is found by an
-- index and counts at most 10,000, so that a look costs the same with ten million jobs.
create or replace view v_queue_health as
select
  'executor'::text as component,
  h.executor_name as name,
  case
    when h.last_beat_at is null then 'never'
    when h.last_beat_at < clock_timestamp() - make_interval(secs => h.stale_threshold_seconds) then 'stale'
    when h.last_beat_at < clock_timestamp() - make_interval(secs => 2::float8 * h.expected_cadence_seconds) or h.last_beat_status <> 'ok' then 'warning'
    else 'fresh'
  end as status_hint,
  round(extract(epoch from clock_timestamp() - h.last_beat_at)::numeric, 3) as age_seconds,
  h.beats_total as value,
  jsonb_build_object('executor_kind', h.executor_kind, 'last_beat_status', h.last_beat_status, 'owner_role', h.owner_role,
    'expected_cadence_seconds', h.expected_cadence_seconds, 'stale_threshold_seconds', h.stale_threshold_seconds,
    'silent_since', h.silent_since, 'metadata', h.metadata) as detail
from queue_heartbeat h
where not h.is_passive
union all
select
  'legacy_cursor',
  l.worker_name,
  case
    when l.ran_at is null then 'never'
    when l.ran_at < clock_timestamp() - make_interval(secs => fn_config_number('queue.heartbeat.stale_threshold_seconds', 300)::float8) then 'stale'
    else 'fresh'
  end,
  round(extract(epoch from clock_timestamp() - l.ran_at)::numeric, 3),
  l.events_seen,
  jsonb_build_object('last_run_at', l.ran_at, 'means', 'a worker of the host, judged by its own cursor; nobody can beat for it')
from fn_legacy_workers() l
union all
select
  'cursor',
  c.event_domain,
  case
    when u.event_id is null then 'fresh'
    when not fn_gate_is_open('queue.job_substrate.enabled')
      or exists (
        select from queue_pause q
        where q.resumed_at is null and (q.scope = 'all' or (q.scope = 'domain' and q.name = c.event_domain))) then 'warning'
    when e.created_at > clock_timestamp() - interval '60 seconds' then 'fresh'
    when p.found_by is null then 'never'
    when e.created_at > clock_timestamp() - interval '300 seconds' then 'warning'
    else 'stale'
  end,
  case when u.event_id is null then 0 else round(extract(epoch from clock_timestamp() - e.created_at)::numeric, 3) end,
  coalesce(p.pass_id, 0),
  jsonb_build_object('oldest_unread_event', u.event_id, 'last_pass_at', p.finished_at, 'last_found_by', p.found_by)
from dispatch_cursor c
left join lateral (
  select d.pass_id, d.finished_at, nullif(d.found_by, 'start') as found_by
  from dispatch_pass d where d.event_domain = c.event_domain order by d.pass_id desc limit 1) p on true
cross join lateral (select fn_dispatch_unread(c.event_domain) as event_id) u
left join event_outbox e on e.id = u.event_id
union all
select
  'backlog',
  x.executor,
  case
    when r.due = 0 then 'fresh'
    when r.oldest < clock_timestamp() - interval '60 seconds' and not exists (select from fn_executors_live(x.executor)) then 'stale'
    when r.oldest < clock_timestamp() - interval '300 seconds' then 'warning'
    else 'fresh'
  end,
  coalesce(round(extract(epoch from clock_timestamp() - r.oldest)::numeric, 3), 0),
  r.due,
  jsonb_build_object('counted_up_to', 1000, 'in_each', 'job kind, domain, consumer and priority')
from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) as x (executor)
cross join lateral fn_job_due(x.executor) r
union all
select
  'cursor',
  d.event_domain,
  'never',
  null,
  null,
  jsonb_build_object('reason', 'events of a domain that is not dispatched: fn_dispatch_domain_add adds it')
from (
  -- the domains of event_arrival, one index probe each
  with recursive domains as (
    (select a.event_domain from event_arrival a order by a.event_domain limit 1)
    union all
    select (select a.event_domain from event_arrival a where a.event_domain > d.event_domain order by a.event_domain limit 1)
    from domains d where d.event_domain is not null
  )
  select d.event_domain from domains d where d.event_domain is not null) d
where not exists (select from dispatch_cursor c where c.event_domain = d.event_domain)
union all
select
  'cursor',
  'sweep',
  case
    when s.watermark is null then 'warning'
    when s.watermark < clock_timestamp() - interval '1 hour' then 'stale'
    when s.watermark < clock_timestamp() - interval '15 minutes' then 'warning'
    else 'fresh'
  end,
  round(extract(epoch from clock_timestamp() - s.watermark)::numeric, 3),
  s.sweep_id,
  jsonb_build_object('watermark', s.watermark, 'stale_means', 'no sweep ran, or a transaction has been open since then')
from (select 1) one
left join lateral (select w.sweep_id, w.watermark from dispatch_sweep w order by w.sweep_id desc limit 1) s on true
union all
select
  'lease',
  'ended',
  case when l.n = 0 then 'fresh' when l.oldest < clock_timestamp() - interval '60 seconds' then 'stale' else 'warning' end,
  coalesce(round(extract(epoch from clock_timestamp() - l.oldest)::numeric, 3), 0),
  l.n,
  jsonb_build_object('counted_up_to', 10000, 'means', 'jobs whose executor went away before it finished or released them')
from (
  select count(*) as n, min(e.lease_until) as oldest
  from (select j.lease_until from job_queue j where j.lease_until < clock_timestamp() order by j.lease_until limit 10000) e) l
union all
select
  'dead_letter',
  'job_queue',
  case when d.n = 0 then 'fresh' else 'stale' end,
  coalesce(round(extract(epoch from clock_timestamp() - d.oldest)::numeric, 3), 0),
  d.n,
  jsonb_build_object('counted_up_to', 10000, 'means', 'dead letters that nobody has decided about')
from (
  select count(*) as n, min(o.created_at) as oldest
  from (
    select l.created_at from job_dead_letter l
    where l.triage_status in ('open', 'investigating', 'manual_replay')
    order by l.created_at limit 10000) o) d
union all
select
  'dead_letter',
  'dispatch_error',
  case when d.n = 0 then 'fresh' else 'stale' end,
  coalesce(round(extract(epoch from clock_timestamp() - d.oldest)::numeric, 3), 0),
  d.n,
  jsonb_build_object('counted_up_to', 10000, 'means', 'events that a consumer could not digest')
from (select count(*) as n, min(x.first_at) as oldest from (select e.first_at from dispatch_error e order by e.first_at limit 10000) x) d
union all
select
  'pause', -- somebody wants it so: told, and no alarm
  concat_ws(' ', q.scope, nullif(q.name, '')),
  'warning',
  round(extract(epoch from clock_timestamp() - q.paused_at)::numeric, 3),
  null,
  jsonb_build_object('scope', q.scope, 'name', q.name, 'actor', q.actor, 'reason', q.reason, 'paused_at', q.paused_at)
from queue_pause q
where q.resumed_at is null;
comment on view v_queue_health is 'component, name, status_hint (fresh, warning, stale, never), age_seconds, value, detail: everything that can fall silent, and what is paused.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_queue_heartbeat_register(text, text, text[], int, int, jsonb, text, boolean)',
    'fn_queue_heartbeat_tick(text, text, text, uuid, text, jsonb, text)', 'fn_queue_heartbeat_leave(text, text)',
    'fn_queue_heartbeat_unregister(text, text)', 'fn_executor_wakes_for(text, text, text[])'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor', 'reveille_dispatcher']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_queue_stale_check(int, timestamptz)'::regprocedure);
  call pr_grant(
    format('execute on function %s', 'fn_queue_stale_check(int, timestamptz)'::regprocedure),
    array['reveille_dispatcher', 'reveille_operator']);
  execute format('revoke all on function %s from public', 'fn_legacy_workers()'::regprocedure);
  call pr_grant(
    format('execute on function %s', 'fn_legacy_workers()'::regprocedure),
    array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);
  call pr_grant('select on v_queue_health', array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);
end
$$;
