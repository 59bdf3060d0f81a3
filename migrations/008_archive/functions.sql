-- Functions of phase 008: the archive, and what runs now.

-- A month of the archive. Made beside it and then attached: no reader and no writer of the other months waits.
create or replace function fn_job_archive_month(p_at timestamptz) returns void
language plpgsql volatile set search_path from current
as $$
declare
  v_from timestamp := date_trunc('month', p_at at time zone 'UTC');
  v_name text := to_char(v_from, '"job_archive_"YYYY_MM');
begin
  if exists (select from pg_class c where c.relname = v_name and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return;
  end if;
  execute format('create table %I (like job_archive including defaults including indexes)', v_name);
  execute format('comment on table %I is %L', v_name, to_char(v_from, '"Jobs that ended in "YYYY-MM" (UTC)."'));
  execute format('alter table job_archive attach partition %I for values from (%L) to (%L)', v_name,
    to_char(v_from, 'YYYY-MM-DD"+00"'), to_char(v_from + interval '1 month', 'YYYY-MM-DD"+00"'));
end
$$;
comment on function fn_job_archive_month(timestamptz) is 'Makes the partition of job_archive for the month of a moment, unless it is there. Internal.';

-- No job made at that moment or later has a smaller id.
create or replace function fn_uuid_v7_floor(p_at timestamptz) returns uuid
language sql stable
return (lpad(to_hex(fn_epoch_ms(p_at)), 12, '0') || repeat('0', 20))::uuid;
comment on function fn_uuid_v7_floor(timestamptz) is 'The smallest uuid, version 7, of a moment.';

-- Drops the months of the archive that ended queue.retention.archive_months ago or earlier (no row, or less than 1: none, ever),
-- oldest first, with the keys of their jobs: whoever enqueues such a key again makes a new job; job_archive_forgotten
-- keeps the audit and backfills from asking for it. At most p_limit keys a call; a
-- month goes with the last of its keys (`more` while some are left). Every reader of the archive waits behind a drop, so a drop
-- waits no longer than 200 ms: a month that somebody reads, or has made a view of, is left for the next time (`locked`), and the others go. Dry run
-- unless told otherwise; null does as the gate queue.archive.enabled says. Called at the end of a walk of fn_job_archive.
create or replace function fn_job_archive_drop(p_dry_run boolean default true, p_limit int default 20000, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set lock_timeout = '200ms' set enable_seqscan = off set enable_bitmapscan = on set datestyle = 'ISO' set timezone = 'UTC' set jit = off
as $$
declare
  v_months int := floor(least(fn_config_number('queue.retention.archive_months', 0), 12000));
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_answer jsonb;
  v_month record;
  v_keys tid[];
  v_left int := p_limit;
  v_dropped text[] := '{}';
  v_locked text[] := '{}';
  v_more boolean := false;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_archive_drop: p_limit must be at least 1' using errcode = '22023';
  elsif not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_answer := jsonb_build_object('refused', false, 'dry_run', v_dry, 'busy', false, 'found', '[]'::jsonb, 'dropped', '[]'::jsonb, 'locked', '[]'::jsonb,
    'keys', 0, 'more', false);
  if v_months < 1 then
    return v_answer;
  elsif not v_dry and not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_job_archive', 0)) then
    return v_answer || '{"busy": true}';
  end if;
  for v_month in
    select x.relname, x.bounds[1]::timestamptz as begins, x.bounds[2]::timestamptz as ends
    from (
      select c.relname, regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$') as bounds
      from pg_inherits i
      join pg_class p on p.oid = i.inhparent and p.relname = 'job_archive' and p.relnamespace = quote_ident(current_schema())::regnamespace
      join pg_class c on c.oid = i.inhrelid and c.relnamespace = p.relnamespace and c.relname ~ '^job_archive_[0-9]{4,}_[0-9]{2}$') x
    where x.bounds[2]::timestamptz <= coalesce(p_now, clock_timestamp()) - make_interval(months => v_months)
    order by 2
  loop
    v_answer := jsonb_set(v_answer, '{found}', v_answer -> 'found' || to_jsonb(v_month.relname));
    -- who reads the whole archive locks each of them, and every other reader waits behind each try
    continue when v_dry or v_more or cardinality(v_locked) = 3;
    begin
      v_keys := array(
        select o.ctid from job_archive_key o where o.finished_at >= v_month.begins and o.finished_at < v_month.ends limit v_left);
      -- before the first of them goes; waits for a batch of a backfill, which holds the row
      if cardinality(v_keys) > 0 and not exists (select from job_archive_forgotten f where f.until >= v_month.ends) then
        insert into job_archive_forgotten as f (until) values (v_month.ends)
        on conflict (is_only) do update set until = greatest(f.until, excluded.until);
      end if;
      delete from job_archive_key k where k.ctid = any (v_keys);
      if cardinality(v_keys) < v_left then
        execute format('drop table %I.%I', current_schema(), v_month.relname);
        v_dropped := v_dropped || v_month.relname::text;
      else
        v_more := true;
      end if;
      v_left := v_left - cardinality(v_keys);
    exception when lock_not_available or dependent_objects_still_exist then
      v_locked := v_locked || v_month.relname::text;
    end;
  end loop;
  return v_answer || jsonb_build_object('dropped', v_dropped, 'locked', v_locked, 'keys', p_limit - v_left, 'more', v_more);
end
$$;
comment on function fn_job_archive_drop(boolean, int, timestamptz)
  is 'Drops months of the archive and forgets their keys, as queue.retention.archive_months says: {dry_run, busy, found, dropped, locked, keys, more}. Refused archive_disabled when told to apply behind a closed gate.';

-- Moves finished jobs to job_archive, with their attempts and keys: those that ended queue.archive.after_seconds (3600) ago
-- or earlier; dead letters only when triage has closed them, as long ago. No status changes. Looks at the p_limit oldest jobs
-- behind p_after, in the order of their ids, which is that of their making: an index on the end of jobs would cost every
-- completion more than 3 %. `next` is where to go on, null at the end; `again` is where a later round may begin: what is
-- older waits for something, and is looked at more seldom. One session at a time (busy); a row that somebody has locked is
-- left for the next time. At the end of the walk months of the archive go that have had their time (`months`, see
-- fn_job_archive_drop). Dry run unless told otherwise; null does as the gate queue.archive.enabled says. Called by the
-- archiver of `reveille run`, by `tick`, by operators. (Traps 17, 31, 32, 33.)
create or replace function fn_job_archive(
  p_limit int default 1000,
  p_dry_run boolean default true,
  p_after uuid default null,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
set enable_mergejoin = off set jit = off
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_cutoff timestamptz := v_now - make_interval(secs => fn_config_number('queue.archive.after_seconds', 3600)::double precision);
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_answer jsonb;
  v_seen uuid[];
  v_due uuid[];
  v_dead uuid[];
  v_months timestamptz[];
  v_letters uuid[];
  v_rows tid[];
  v_ids uuid[];
  v_archived int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_archive: p_limit must be at least 1' using errcode = '22023';
  end if;
  if not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_answer := jsonb_build_object('refused', false, 'dry_run', v_dry, 'busy', false, 'found', 0, 'archived', 0, 'next', null,
    'again', fn_uuid_v7_floor(v_cutoff - interval '15 minutes'));
  if not v_dry and not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_job_archive', 0)) then
    return v_answer || '{"busy": true}';
  end if;
  select array_agg(s.job_id), array_agg(s.job_id) filter (where s.is_due),
    array_agg(s.job_id) filter (where s.is_due and s.status = 'dead_letter'),
    array_agg(distinct date_trunc('month', s.finished_at at time zone 'UTC') at time zone 'UTC') filter (where s.is_due)
  into v_seen, v_due, v_dead, v_months
  from (
    select j.job_id, j.status, j.finished_at, j.finished_at <= v_cutoff and (j.status <> 'dead_letter' or not exists (
        select from job_dead_letter d
        where d.job_id = j.job_id and d.replayed_at is null
          and (d.triage_status in ('open', 'investigating', 'manual_replay') or d.triaged_at > v_cutoff)))
        and (j.workflow_id is null or not exists (
        select from job_workflow w where w.workflow_id = j.workflow_id and w.status not in ('succeeded', 'cancelled'))) as is_due
    from job_queue j
    where j.job_id > coalesce(p_after, '00000000-0000-0000-0000-000000000000') and j.job_id < fn_uuid_v7_floor(v_cutoff)
    order by j.job_id
    limit p_limit) s;
  v_answer := v_answer || jsonb_build_object('found', coalesce(cardinality(v_due), 0),
    'next', case when cardinality(v_seen) = p_limit then v_seen[p_limit] end);
  if v_dry then
    return v_answer || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(true, p_now => p_now)) else '{}' end;
  end if;
  perform fn_job_archive_month(m) from unnest(array[v_now, v_now + interval '1 month'] || v_months) m;
  if v_due is null then
    return v_answer || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(false, p_now => p_now)) else '{}' end;
  end if;

  -- letter, then job, as a replay locks them; and judged anew once locked
  v_letters := array(
    select d.dead_letter_id from job_dead_letter d
    where d.job_id = any (v_dead) and d.replayed_at is null
    order by d.dead_letter_id
    for update skip locked);
  select array_agg(l.ctid), array_agg(l.job_id) into v_rows, v_ids
  from (
    select j.ctid, j.job_id from job_queue j
    where j.job_id = any (v_due) and j.finished_at <= v_cutoff and (j.status <> 'dead_letter' or not exists (
        select from job_dead_letter d
        where d.job_id = j.job_id and d.replayed_at is null and (d.dead_letter_id <> all (v_letters)
          or d.triage_status in ('open', 'investigating', 'manual_replay') or d.triaged_at > v_cutoff)))
      and (j.workflow_id is null or not exists (
        select from job_workflow w where w.workflow_id = j.workflow_id and w.status not in ('succeeded', 'cancelled')))
    order by j.job_id
    for update of j skip locked) l;
  with gone as (
    delete from job_queue j where j.ctid = any (v_rows) returning j.*
  ),
  runs as (
    delete from job_attempt a where a.job_id = any (v_ids) returning a.*
  ),
  histories as (
    select r.job_id, jsonb_agg(to_jsonb(r) - 'job_id' order by r.lease_token) as history, max(r.lease_token) as lease_token
    from runs r
    group by r.job_id
  ),
  kept as (
    insert into job_archive_key (job_kind, idempotency_key, job_id, finished_at)
    select g.job_kind, g.idempotency_key, g.job_id, g.finished_at from gone g
    on conflict (job_kind, idempotency_key) do nothing
  ),
  bounds as (
    insert into job_archive_bound as b (job_kind, newest_event)
    select g.job_kind, max(case
        when replace(g.idempotency_key, coalesce(g.causation_event_id, g.job_id)::text, '') ~ '[0-9a-f]{8}-[0-9a-f]{4}-|~sha256:' then 'infinity'
        when g.causation_event_id is null then '-infinity'
        else coalesce((select e.created_at from event_outbox e where e.id = g.causation_event_id), g.created_at) end)
    from gone g
    group by g.job_kind
    on conflict (job_kind) do update set newest_event = excluded.newest_event where b.newest_event < excluded.newest_event
  ),
  moved as (
    insert into job_archive (
      job_id, job_kind, status, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      picked_at, started_at, finished_at, lease_owner, lease_token, attempts, lease_losses, max_attempts, policy, error_count, last_error,
      idempotency_key, ordering_key, actor, run_id, workflow_id, parent_job_id, blocked_by, causation_event_id, consumer_key,
      correlation_id, traceparent, result_ref, cancel_requested_at, cancel_reason, created_at, updated_at, history)
    select
      g.job_id, g.job_kind, g.status, g.executor, g.event_domain, g.source_ref, g.target_ref, g.payload_ref, g.safe_payload, g.priority, g.scheduled_at,
      g.picked_at, g.started_at, g.finished_at, g.lease_owner, g.lease_token, g.attempts, g.lease_losses, g.max_attempts, g.policy, g.error_count, g.last_error,
      g.idempotency_key, g.ordering_key, g.actor, g.run_id, g.workflow_id, g.parent_job_id, g.blocked_by, g.causation_event_id, g.consumer_key,
      g.correlation_id, g.traceparent, g.result_ref, g.cancel_requested_at, g.cancel_reason, g.created_at, g.updated_at,
      coalesce(h.history, '[]') || case
        -- a lease without a row of its own ended well
        when g.status in ('succeeded', 'cleaned') and g.lease_token is distinct from h.lease_token and g.lease_token is not null
        then jsonb_build_object('lease_token', g.lease_token, 'lease_owner', g.lease_owner, 'picked_at', g.picked_at,
          'started_at', g.started_at, 'ended_at', g.finished_at, 'outcome', 'succeeded', 'error', null, 'reported_by', null)
        else '[]' end
    from gone g
    left join histories h on h.job_id = g.job_id
    returning 1
  )
  select count(*) into v_archived from moved;
  return v_answer || jsonb_build_object('archived', v_archived)
    || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(false, p_now => p_now)) else '{}' end;
end
$$;
comment on function fn_job_archive(int, boolean, uuid, timestamptz)
  is 'Moves finished jobs to job_archive: {dry_run, busy, found, archived, next, again, months}. Refused archive_disabled when told to apply behind a closed gate.';

create or replace view v_job_queue_in_progress as
select
  j.job_id, j.job_kind, j.status, j.executor, j.event_domain, j.consumer_key, j.source_ref, j.lease_owner, j.picked_at, j.started_at,
  round(extract(epoch from clock_timestamp() - j.picked_at)::numeric, 3) as age_seconds,
  j.lease_until,
  j.lease_until < clock_timestamp() as lease_has_ended,
  coalesce(j.policy ->> 'time_limit_seconds', fn_config('job.' || j.job_kind || '.time_limit_seconds', null)) as time_limit_seconds,
  j.cancel_requested_at,
  j.attempts, j.lease_losses
from job_queue j
where j.lease_until is not null;
comment on view v_job_queue_in_progress is 'Jobs that somebody has leased: who, since when, until when, and whether their end was asked for. time_limit_seconds: null is the worker''s own.';

do $$
begin
  execute format('revoke all on function %s from public', 'fn_job_archive_month(timestamptz)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_job_archive(int, boolean, uuid, timestamptz)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_job_archive_drop(boolean, int, timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_job_archive_drop(boolean, int, timestamptz)'::regprocedure), array['reveille_dispatcher', 'reveille_operator']);
  call pr_grant(
    format('execute on function %s', 'fn_job_archive(int, boolean, uuid, timestamptz)'::regprocedure),
    array['reveille_dispatcher', 'reveille_operator']);
  call pr_grant('select on table job_archive, job_archive_key, job_archive_bound, job_archive_forgotten', array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_job_queue_in_progress', array['reveille_operator', 'reveille_reader']);
end
$$;
