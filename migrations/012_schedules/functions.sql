-- Functions of phase 012: schedules, and maintenance as ordinary jobs.

-- Adds a schedule, or changes all of it; a new one is disabled. Exactly one of cron (with its time zone), every, at. When the
-- times change, ticks count from now on, and a sidecar finds the next one; else the position stays. p_starts_at null: what
-- it was, or now. The cron text is not read here; who calls parses it first, as `reveille schedules put` does. Called by
-- operators.
create or replace function fn_schedule_put(
  p_schedule_key text,
  p_job_kind text,
  p_actor text,
  p_cron text default null,
  p_time_zone text default null,
  p_every interval default null,
  p_at timestamptz default null,
  p_executor text default 'PG_worker',
  p_priority int default 100,
  p_max_attempts int default null,
  p_safe_payload jsonb default '{}',
  p_source_ref text default null,
  p_target_ref text default null,
  p_payload_ref text default null,
  p_ordering_key text default null,
  p_missed text default 'once',
  p_missed_window interval default null,
  p_starts_at timestamptz default null,
  p_ends_at timestamptz default null,
  p_description text default null,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_old job_schedule;
  v_new job_schedule;
begin
  if coalesce(btrim(p_schedule_key), '') = '' or coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_schedule_put needs a key and an actor' using errcode = '22023';
  elsif p_schedule_key !~ '^[a-z0-9][a-z0-9_.-]{0,119}$' then
    raise exception 'the key of a schedule is made of small letters, digits and _ . -, begins with a letter or digit and has at most 120: not %',
      quote_literal(left(p_schedule_key, 130)) using errcode = '22023';
  elsif p_missed_window not between interval '1 minute' and interval '10 years' then
    raise exception 'fn_schedule_put: p_missed_window is from a minute to ten years, not %', p_missed_window using errcode = '22023';
  elsif p_ends_at <= p_starts_at then
    raise exception 'fn_schedule_put: it would end before it starts: p_ends_at is %, p_starts_at %', p_ends_at, p_starts_at using errcode = '22023';
  elsif num_nonnulls(p_cron, p_every, p_at) <> 1 or (p_cron is null) <> (p_time_zone is null) then
    raise exception 'fn_schedule_put: name one of p_cron (with p_time_zone), p_every and p_at' using errcode = '22023';
  end if;
  perform v_now at time zone p_time_zone; -- raises 22023 for a zone that nobody knows
  select s.* into v_old from job_schedule s where s.schedule_key = p_schedule_key for update;
  insert into job_schedule as s (
    schedule_key, cron, time_zone, every, at, job_kind, executor, priority, max_attempts, safe_payload, source_ref, target_ref,
    payload_ref, ordering_key, missed, missed_window, starts_at, ends_at, description, actor, counts_from)
  values (
    p_schedule_key, p_cron, p_time_zone, p_every, p_at, p_job_kind, coalesce(p_executor, 'PG_worker'), coalesce(p_priority, 100),
    p_max_attempts, coalesce(p_safe_payload, '{}'), p_source_ref, p_target_ref, p_payload_ref, p_ordering_key,
    coalesce(p_missed, 'once'), p_missed_window, coalesce(p_starts_at, v_old.starts_at, date_trunc('second', v_now)), p_ends_at,
    p_description, p_actor, v_now)
  on conflict (schedule_key) do update
  set cron = excluded.cron, time_zone = excluded.time_zone, every = excluded.every, at = excluded.at, job_kind = excluded.job_kind,
      executor = excluded.executor, priority = excluded.priority, max_attempts = excluded.max_attempts,
      safe_payload = excluded.safe_payload, source_ref = excluded.source_ref, target_ref = excluded.target_ref,
      payload_ref = excluded.payload_ref, ordering_key = excluded.ordering_key, missed = excluded.missed,
      missed_window = excluded.missed_window, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
      description = excluded.description, actor = excluded.actor, set_by = session_user, updated_at = clock_timestamp(), trouble = null
  returning s.* into v_new;
  if v_old.schedule_key is not null
    and (v_old.cron, v_old.time_zone, v_old.every, v_old.at, v_old.starts_at, v_old.ends_at)
      is distinct from (v_new.cron, v_new.time_zone, v_new.every, v_new.at, v_new.starts_at, v_new.ends_at)
  then
    update job_schedule s set next_tick_at = '-infinity', counts_from = greatest(v_now, s.last_tick_at)
    where s.schedule_key = p_schedule_key;
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('schedule.' || p_schedule_key,
    case when v_old.schedule_key is not null
      then concat_ws(' ', v_old.job_kind, v_old.cron, v_old.time_zone, v_old.every::text, v_old.at::text) end,
    concat_ws(' ', v_new.job_kind, v_new.cron, v_new.time_zone, v_new.every::text, v_new.at::text), p_actor, 'put');
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'created', v_old.schedule_key is null, 'enabled', v_new.enabled)
    || jsonb_strip_nulls(jsonb_build_object('warning', fn_job_kind_warning(p_job_kind)));
end
$$;
comment on function fn_schedule_put(
  text, text, text, text, text, interval, timestamptz, text, int, int, jsonb, text, text, text, text, text, interval, timestamptz,
  timestamptz, text, timestamptz)
  is 'Adds a schedule, disabled, or changes all of it but that: {schedule_key, created, enabled}, and warning where no template or nobody is known for its kind.';

-- Lets a schedule make jobs, from now on, or no more. What would have come while it was disabled is not made up for.
create or replace function fn_schedule_enable(
  p_schedule_key text, p_enabled boolean, p_actor text, p_reason text, p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_was boolean;
  v_job_kind text;
begin
  if p_enabled is null or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_schedule_enable needs p_enabled, an actor and a reason' using errcode = '22023';
  end if;
  select s.enabled, s.job_kind into v_was, v_job_kind from job_schedule s where s.schedule_key = p_schedule_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
  end if;
  if v_was <> p_enabled then
    update job_schedule s
    set enabled = p_enabled, next_tick_at = '-infinity', counts_from = greatest(coalesce(p_now, clock_timestamp()), s.last_tick_at),
        trouble = null, updated_at = clock_timestamp()
    where s.schedule_key = p_schedule_key;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('schedule.' || p_schedule_key || '.enabled', v_was::text, p_enabled::text, p_actor, p_reason);
    perform pg_notify('queue_control', '');
  end if;
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'enabled', p_enabled, 'was_enabled', v_was)
    || jsonb_strip_nulls(jsonb_build_object('warning', case when p_enabled then fn_job_kind_warning(v_job_kind) end));
end
$$;
comment on function fn_schedule_enable(text, boolean, text, text, timestamptz)
  is 'Enables or disables a schedule: {enabled, was_enabled}, and warning as fn_schedule_put; audited in dot_config_audit as schedule.<key>.enabled. Refused not_found.';

-- Takes a schedule away. Its jobs stay.
create or replace function fn_schedule_remove(p_schedule_key text, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_old job_schedule;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_schedule_remove needs an actor and a reason' using errcode = '22023';
  end if;
  delete from job_schedule s where s.schedule_key = p_schedule_key returning s.* into v_old;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('schedule.' || p_schedule_key,
    concat_ws(' ', v_old.job_kind, v_old.cron, v_old.time_zone, v_old.every::text, v_old.at::text), null, p_actor, p_reason);
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'was_enabled', v_old.enabled);
end
$$;
comment on function fn_schedule_remove(text, text, text) is 'Takes a schedule away, and leaves its jobs: {was_enabled}. Refused not_found.';

-- Why schedules of a kind of job make nothing now; null: nothing holds them.
create or replace function fn_schedule_held(p_job_kind text) returns text
language plpgsql stable security definer set search_path from current
as $$
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return 'job_substrate_disabled';
  elsif exists (
    select from queue_pause p
    where p.resumed_at is null and (p.scope = 'all' or (p.scope = 'job_kind' and p.name = p_job_kind)))
  then
    return 'paused';
  end if;
  return null;
end
$$;
comment on function fn_schedule_held(text) is 'job_substrate_disabled or paused while schedules of this kind of job make nothing; else null.';

-- What a sidecar has to do now: schedules whose tick has come and that nothing holds, and those whose next tick nobody has
-- found yet; those in trouble last, so that they keep nobody waiting. `expected` is what fn_schedule_tick asks for. `next`
-- is when to come again, `now` is the only clock that counts. Reads only. Called by the scheduler of `run` and `tick`.
create or replace function fn_schedule_due(p_limit int default 1000, p_now timestamptz default null) returns jsonb
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_schedules jsonb;
  v_held bigint;
  v_next timestamptz;
begin
  select coalesce(jsonb_agg(d.schedule), '[]') into v_schedules
  from (
    select jsonb_build_object(
      'schedule_key', s.schedule_key, 'cron', s.cron, 'time_zone', s.time_zone, 'every_seconds', extract(epoch from s.every)::bigint,
      'at', s.at, 'starts_at', s.starts_at, 'ends_at', s.ends_at, 'missed', s.missed,
      'missed_window_seconds', extract(epoch from s.missed_window)::bigint, 'placed', isfinite(s.next_tick_at),
      'expected', case when isfinite(s.next_tick_at) then s.next_tick_at else s.counts_from end, 'trouble', s.trouble) as schedule
    from job_schedule s
    where s.enabled and s.next_tick_at <= v_now and (s.next_tick_at = '-infinity' or fn_schedule_held(s.job_kind) is null)
    order by s.trouble is not null, s.next_tick_at, s.schedule_key
    limit p_limit) d;
  select count(*) into v_held
  from job_schedule s
  where s.enabled and s.next_tick_at <= v_now and isfinite(s.next_tick_at) and fn_schedule_held(s.job_kind) is not null;
  select s.next_tick_at into v_next
  from job_schedule s
  where s.enabled and s.next_tick_at > v_now and s.next_tick_at < 'infinity'
  order by s.next_tick_at limit 1;
  return jsonb_build_object('refused', false, 'now', v_now, 'schedules', v_schedules, 'held', v_held, 'next', v_next);
end
$$;
comment on function fn_schedule_due(int, timestamptz) is 'What is to be done about schedules now: {now, schedules, held, next}. Reads only.';

-- Makes the jobs of some ticks of a schedule and moves its position, in one transaction, unless somebody else has done so
-- (p_expected is not its position any more) or is about to (its row is locked). Which ticks are to be made is the caller's
-- word, by the schedule's policy for missed ones; that none is made twice is ours: the key of a tick's job is
-- `<schedule_key>:<tick in UTC>`, also after an old row was restored. p_next null: there is none any more. A closed gate or
-- a pause leaves the position where it is. Called by the scheduler of `run` and `tick`, by any number of them.
create or replace function fn_schedule_tick(
  p_schedule_key text,
  p_expected timestamptz,
  p_ticks timestamptz[],
  p_next timestamptz,
  p_missed bigint default 0,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_schedule job_schedule;
  v_is_placed boolean;
  v_held text;
  v_tick timestamptz;
  v_last timestamptz;
  v_answer jsonb;
  v_job_id uuid;
  v_made int := 0;
begin
  if p_schedule_key is null or p_expected is null or p_ticks is null or array_position(p_ticks, null) is not null
    or cardinality(p_ticks) > 1000 or coalesce(p_missed, -1) < 0 or not isfinite(coalesce(p_next, p_expected))
  then
    raise exception 'fn_schedule_tick needs a key, the position expected, at most 1000 ticks, and the next one' using errcode = '22023';
  end if;
  select s.* into v_schedule from job_schedule s where s.schedule_key = p_schedule_key for update skip locked;
  if not found then
    if not exists (select from job_schedule s where s.schedule_key = p_schedule_key) then
      return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
    end if;
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'busy');
  end if;
  v_is_placed := isfinite(v_schedule.next_tick_at);
  if not v_schedule.enabled then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'disabled');
  elsif v_schedule.next_tick_at = 'infinity'
    or p_expected <> (case when v_is_placed then v_schedule.next_tick_at else v_schedule.counts_from end)
  then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'taken');
  elsif v_is_placed and v_schedule.next_tick_at > v_now then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'not_due'); -- the clock has stepped back
  end if;
  if p_next <= p_expected or (not v_is_placed and cardinality(p_ticks) > 0)
    or exists (select from unnest(p_ticks) t where t < p_expected or t > v_now or t >= p_next)
  then
    raise exception 'fn_schedule_tick: ticks of % must lie from its position to now, and the next one behind them', p_schedule_key
      using errcode = '22023';
  end if;
  if v_is_placed then
    v_held := fn_schedule_held(v_schedule.job_kind);
    if v_held is not null then
      return jsonb_build_object('refused', true, 'reason', v_held, 'schedule_key', p_schedule_key);
    end if;
  end if;
  for v_tick in select t from unnest(p_ticks) t order by t loop
    v_answer := fn_job_enqueue(
      p_job_kind => v_schedule.job_kind,
      p_actor => 'schedule:' || p_schedule_key,
      p_safe_payload => v_schedule.safe_payload,
      p_source_ref => v_schedule.source_ref,
      p_idempotency_key => p_schedule_key || ':' || to_char(v_tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
        || case when v_tick = date_trunc('second', v_tick) then '' else to_char(v_tick at time zone 'UTC', '.US') end || 'Z',
      p_target_ref => v_schedule.target_ref,
      p_payload_ref => v_schedule.payload_ref,
      p_executor => v_schedule.executor,
      p_priority => v_schedule.priority,
      p_scheduled_at => v_tick,
      p_ordering_key => v_schedule.ordering_key,
      p_max_attempts => v_schedule.max_attempts);
    if v_answer ->> 'refused' = 'true' then
      return v_answer; -- the gate was closed meanwhile; what was made keeps its key
    end if;
    v_made := v_made + (v_answer ->> 'created' = 'true')::int;
    v_last := v_tick;
    v_job_id := (v_answer ->> 'job_id')::uuid;
  end loop;
  update job_schedule s
  set next_tick_at = coalesce(p_next, 'infinity'), ticks = s.ticks + cardinality(p_ticks), ticks_missed = s.ticks_missed + p_missed,
      last_tick_at = greatest(s.last_tick_at, v_last), last_job_id = coalesce(v_job_id, s.last_job_id),
      last_missed_at = case when p_missed > 0 then v_now else s.last_missed_at end, trouble = null
  where s.schedule_key = p_schedule_key;
  return jsonb_build_object('refused', false, 'moved', true, 'made', v_made, 'known', cardinality(p_ticks) - v_made);
end
$$;
comment on function fn_schedule_tick(text, timestamptz, timestamptz[], timestamptz, bigint, timestamptz)
  is 'Makes the jobs of ticks and moves the position, once: {moved, made, known}, or {moved: false, why: busy, taken, disabled, not_due}. Refused not_found, job_substrate_disabled, paused.';

-- Notes why a sidecar cannot go on with a schedule, for whoever looks; the schedule stays, and no other waits for it.
create or replace function fn_schedule_trouble(p_schedule_key text, p_expected timestamptz, p_trouble text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  update job_schedule s set trouble = left(p_trouble, 1000)
  where s.schedule_key = p_schedule_key and s.trouble is distinct from left(p_trouble, 1000)
    and p_expected = (case when isfinite(s.next_tick_at) then s.next_tick_at else s.counts_from end);
  return jsonb_build_object('refused', false, 'noted', found);
end
$$;
comment on function fn_schedule_trouble(text, timestamptz, text) is 'Notes why a schedule cannot go on: {noted}.';

create or replace view v_job_schedule as
select
  s.schedule_key,
  case
    when not s.enabled then 'disabled'
    when s.trouble is not null then 'trouble'
    when s.next_tick_at = 'infinity' then 'ended'
    when s.next_tick_at = '-infinity' then 'new'
    when fn_schedule_held(s.job_kind) is not null then fn_schedule_held(s.job_kind)
    when s.next_tick_at < clock_timestamp() - interval '1 minute' then 'overdue'
    else 'waiting'
  end as state,
  s.cron, s.time_zone, extract(epoch from s.every)::bigint as every_seconds, s.at,
  s.job_kind, s.executor::text as executor, s.priority::int as priority, s.max_attempts::int as max_attempts,
  s.safe_payload::jsonb as safe_payload, s.source_ref, s.target_ref, s.payload_ref, s.ordering_key,
  s.missed, extract(epoch from s.missed_window)::bigint as missed_window_seconds, s.starts_at, s.ends_at, s.enabled, s.counts_from,
  case when isfinite(s.next_tick_at) then s.next_tick_at end as next_tick_at,
  case
    when s.enabled and isfinite(s.next_tick_at)
    then greatest(0, round(extract(epoch from clock_timestamp() - s.next_tick_at)::numeric, 3)) else 0
  end as overdue_seconds,
  s.last_tick_at, s.last_job_id, j.status as last_job_status, s.ticks, s.ticks_missed, s.last_missed_at, s.trouble, s.description,
  s.actor::text as actor, s.set_by, s.created_at, s.updated_at
from job_schedule s
left join lateral (
  select q.status::text from job_queue q where q.job_id = s.last_job_id
  union all
  select a.status::text from job_archive a where a.job_id = s.last_job_id
  limit 1) j on true;
comment on view v_job_schedule is 'Schedules: state (disabled, trouble, ended, new, job_substrate_disabled, paused, overdue, waiting), last tick and its job, next tick.';

-- Consumers and schedules that are enabled and ask for what there is not. That a consumer asks for the same kind, too, makes nobody
-- run it. Called by `reveille doctor`.
create or replace function fn_job_kind_check() returns table (subject text, job_kind text, what text)
language sql stable security definer set search_path from current
begin atomic
  with claimed as materialized (
    select distinct q.job_kind
    from (select j.job_kind, j.lease_token from job_queue j order by j.job_id desc limit 10000) q
    where q.lease_token is not null
  )
  select a.subject, a.job_kind, w.what
  from (
    select 'consumer ' || c.consumer_key as subject, c.job_kind::text as job_kind, c.dry_run from consumer_registry c where c.enabled
    union all
    select 'schedule ' || s.schedule_key, s.job_kind::text, false from job_schedule s where s.enabled) a
  cross join lateral (
    select fn_job_kind_warning(a.job_kind) as what
    where a.job_kind like 'workflow:%'
    union all
    select format('nobody says that he runs jobs of kind %s: no row of job_handler, no executor and no subscription names it, and nobody has claimed one', a.job_kind)
    where not a.dry_run and a.job_kind not like 'workflow:%'
      and not exists (select from job_handler h where h.job_kind = a.job_kind)
      and not exists (select from job_subscription s where a.job_kind like s.job_kind_like and s.job_kind <> '*')
      and not exists (select from queue_heartbeat h where a.job_kind = any (h.wakes_for))
      and not exists (select from job_archive_bound b where b.job_kind = a.job_kind)
      and a.job_kind not in (select k.job_kind from claimed k)) w -- of the newest jobs
  where w.what is not null
  order by a.subject;
end;
comment on function fn_job_kind_check() is 'Enabled consumers and schedules whose template there is not, or whose kind nobody is known to run.';

-- Schedules that somebody must look at. Late is one whose tick came, or that was enabled, more than a minute ago, while nothing
-- holds it; where no scheduler lives that is told for five minutes as a warning, for whoever has only `reveille tick` from cron.
-- Called by `reveille health`.
create or replace function fn_schedule_check(p_now timestamptz default null)
returns table (schedule_key text, severity text, finding text, what text, hint text, age_seconds numeric)
language plpgsql stable security definer set search_path from current
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_lives boolean := exists (
    select from queue_heartbeat h
    where h.metadata ->> 'role' = 'scheduler' and h.last_beat_at >= v_now - make_interval(secs => h.stale_threshold_seconds));
begin
  return query
  select s.schedule_key, x.severity, x.finding, x.what, x.hint, round(extract(epoch from x.age)::numeric, 3)
  from (
    select k.*, isfinite(k.next_tick_at) as is_placed,
      case when isfinite(k.next_tick_at) then k.next_tick_at else greatest(k.counts_from, k.updated_at) end as due
    from job_schedule k where k.enabled) s
  left join lateral (
    select q.status::text from job_queue q where q.job_id = s.last_job_id
    union all
    select a.status::text from job_archive a where a.job_id = s.last_job_id
    limit 1) j on true
  cross join lateral (
    select 'error' as severity, 'trouble' as finding, 'it makes no jobs: ' || s.trouble as what,
      format('reveille schedules show %1$s, then reveille schedules put %1$s with what the reason names set right', s.schedule_key) as hint, null::interval as age
    where s.trouble is not null
    union all
    select case when v_lives or s.due < v_now - interval '5 minutes' then 'error' else 'warning' end,
      case when v_lives then 'late' else 'no_scheduler' end,
      case when s.is_placed then 'it was due at ' || to_char(s.due at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') else 'nobody has found its first tick' end
        || case when v_lives then ', and a scheduler lives' else ', and no scheduler lives' end,
      case when v_lives then 'reveille tick, and see the log of reveille run' else 'reveille run, or reveille tick for once' end, v_now - s.due
    where s.trouble is null and s.next_tick_at < 'infinity' and s.due < v_now - interval '1 minute'
      and (not s.is_placed or fn_schedule_held(s.job_kind) is null)
    union all
    select 'warning', 'last_job_failed', format('its last job ended as %s', j.status), format('reveille jobs show %s', s.last_job_id), v_now - s.last_tick_at
    where j.status in ('failed', 'dead_letter')) x
  order by 1, 3;
end
$$;
comment on function fn_schedule_check(timestamptz) is 'Findings about enabled schedules: trouble, late, no_scheduler, last_job_failed.';

-- Maintenance as ordinary jobs. Each is a handler for a row of job_handler, which nobody adds but you; each does one bounded
-- batch, and obeys the gates and dry-run settings that the loops of `run` obey: behind a closed gate it only counts.

create or replace function fn_maintenance_reap(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  return fn_job_lease_reaper(p_limit => 60, p_actor => 'job:' || coalesce(p_job ->> 'job_id', '')) - 'jobs';
end
$$;
comment on function fn_maintenance_reap(jsonb) is 'Handler: frees at most 60 jobs whose lease ended unreported, or counts them, as the reaper''s gates say.';

create or replace function fn_maintenance_stale_check(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_answer jsonb := fn_queue_stale_check();
begin
  if v_answer ->> 'refused' = 'true' then
    return jsonb_build_object('refused', false, 'skipped', v_answer -> 'reason', 'job_id', p_job -> 'job_id'); -- as the loop does
  end if;
  return v_answer;
end
$$;
comment on function fn_maintenance_stale_check(jsonb) is 'Handler: notices and announces silences and their ends, unless queue.heartbeat.enabled says no.';

-- Up to 20 steps of 1000 looked at, so that what still waits does not hide what is over; ends when one has moved something. Then a batch of
-- workflows that have had their time.
create or replace function fn_maintenance_archive(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_answer jsonb;
  v_after uuid;
  v_found int := 0;
begin
  for v_step in 1 .. 20 loop
    v_answer := fn_job_archive(p_limit => 1000, p_dry_run => null, p_after => v_after);
    v_found := v_found + (v_answer ->> 'found')::int;
    v_after := (v_answer ->> 'next')::uuid;
    exit when v_after is null or (v_answer ->> 'archived')::int > 0 or v_answer ->> 'busy' = 'true';
  end loop;
  return v_answer || jsonb_build_object('found', v_found, 'workflows', fn_job_workflow_retention(p_dry_run => null), 'job_id', p_job -> 'job_id');
end
$$;
comment on function fn_maintenance_archive(jsonb) is 'Handler: moves finished jobs to the archive, or counts them while queue.archive.enabled is closed.';

create or replace function fn_maintenance_order_sweep(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  perform fn_job_order_sweep();
  return jsonb_build_object('refused', false, 'job_id', p_job -> 'job_id');
end
$$;
comment on function fn_maintenance_order_sweep(jsonb) is 'Handler: places new jobs that have an ordering key, also where nobody claims.';

create or replace function fn_maintenance_prune(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  return fn_dispatch_prune() || jsonb_build_object('refused', false, 'rates', fn_job_rate_prune(), 'job_id', p_job -> 'job_id');
end
$$;
comment on function fn_maintenance_prune(jsonb) is 'Handler: deletes a batch of read arrivals, old passes, and what counts towards no rate limit any more.';

create or replace function fn_maintenance_refresh(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  return fn_job_workflow_refresh() || jsonb_build_object('job_id', p_job -> 'job_id');
end
$$;
comment on function fn_maintenance_refresh(jsonb) is 'Handler: starts workflows that jobs ask for, fails gates whose time is over, looks after 100 active workflows.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_schedule_put(text, text, text, text, text, interval, timestamptz, text, int, int, jsonb, text, text, text, text, text, interval, timestamptz, timestamptz, text, timestamptz)',
    'fn_schedule_enable(text, boolean, text, text, timestamptz)', 'fn_schedule_remove(text, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  foreach v_function in array array[
    'fn_schedule_due(int, timestamptz)', 'fn_schedule_tick(text, timestamptz, timestamptz[], timestamptz, bigint, timestamptz)',
    'fn_schedule_trouble(text, timestamptz, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher']);
  end loop;
  foreach v_function in array array[
    'fn_maintenance_reap(jsonb)', 'fn_maintenance_stale_check(jsonb)', 'fn_maintenance_archive(jsonb)', 'fn_maintenance_order_sweep(jsonb)',
    'fn_maintenance_prune(jsonb)', 'fn_maintenance_refresh(jsonb)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_job_kind_check()'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_job_kind_check()'::regprocedure), array['reveille_operator', 'reveille_reader', 'reveille_dispatcher']);
  execute format('revoke all on function %s from public', 'fn_schedule_check(timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_schedule_check(timestamptz)'::regprocedure), array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
  execute format('revoke all on function %s from public', 'fn_schedule_held(text)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_schedule_held(text)'::regprocedure), array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
  call pr_grant('select on table job_schedule', array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_job_schedule', array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
end
$$;
