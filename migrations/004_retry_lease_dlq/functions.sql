-- Functions of phase 004: retry policies, the one fail path, dead letters, triage, replay, the reaper.

-- How a job is tried again: what it has of its own (job_queue.policy), else its kind's keys, else its domain's, else the
-- default's, else 10 s exponential up to 1 h, 5 attempts and 3 lost leases. `sources` names the key that decided, `job` for
-- the job's own; null is what is built in. Shown by
-- `reveille jobs policy`.
create or replace function fn_job_policy(p_job_kind text, p_event_domain text default null, p_own jsonb default null)
returns table (strategy text, backoff_seconds numeric, cap_seconds numeric, max_attempts int, max_lease_losses int, sources jsonb)
language plpgsql stable security definer set search_path from current
as $$
declare
  v_number text := '^[0-9]{1,9}(\.[0-9]{1,6})?$';
  v_names text[] := array['backoff_strategy', 'backoff_seconds', 'backoff_cap_seconds', 'max_attempts', 'max_lease_losses'];
  v_built_in text[] := array['exponential', '10', '3600', '5', '3'];
  v_values text[] := '{}';
  v_found record;
begin
  sources := '{}';
  for i in 1 .. 5 loop
    if p_own ? v_names[i] then
      select p_own ->> v_names[i] as value, 'job' as key into v_found;
    else
      select f.* into v_found from fn_config_first(
        fn_job_policy_keys(v_names[i], p_job_kind, p_event_domain),
        case i when 1 then '^(constant|linear|exponential)$' else v_number end) f;
    end if;
    v_values := v_values || coalesce(v_found.value, v_built_in[i]);
    sources := sources || jsonb_build_object(v_names[i], v_found.key);
  end loop;
  strategy := v_values[1];
  backoff_seconds := v_values[2]::numeric;
  cap_seconds := v_values[3]::numeric;
  max_attempts := greatest(1, v_values[4]::numeric)::int;
  max_lease_losses := greatest(1, v_values[5]::numeric)::int;
  return next;
end
$$;
comment on function fn_job_policy(text, text, jsonb) is 'Retry policy of a kind in a domain, and which key of dot_config each part comes from.';

-- The delay after p_failures failures: constant, linear or exponential, capped. Exponential delays are drawn between
-- nothing and their length ("full jitter"): jobs that failed together do not come back together.
create or replace function fn_job_backoff(p_job_kind text, p_failures int, p_event_domain text default null, p_own jsonb default null)
returns interval
language plpgsql volatile set search_path from current
as $$
declare
  v_policy record;
  v_seconds numeric;
begin
  select * into v_policy from fn_job_policy(p_job_kind, p_event_domain, p_own);
  v_seconds := least(v_policy.cap_seconds, case v_policy.strategy
    when 'constant' then v_policy.backoff_seconds
    when 'linear' then v_policy.backoff_seconds * p_failures
    else v_policy.backoff_seconds * power(2::numeric, least(p_failures - 1, 40))
  end);
  return make_interval(secs => (v_seconds * case v_policy.strategy when 'exponential' then random()::numeric else 1 end)::double precision);
end
$$;
comment on function fn_job_backoff(text, int, text, jsonb) is 'The delay before the next try, from fn_job_policy.';

-- A job dies: its own row becomes dead_letter, and all that is known is kept for triage.
create or replace function fn_job_die(p_job_id uuid, p_reason_class text) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_job job_queue;
begin
  update job_queue j set status = 'dead_letter' where j.job_id = p_job_id returning j.* into v_job;
  insert into job_dead_letter (
    job_id, job_kind, event_domain, executor, consumer_key, reason_class, error, job, attempts, previous_dead_letter_id)
  values (
    v_job.job_id, v_job.job_kind, v_job.event_domain, v_job.executor, v_job.consumer_key, p_reason_class, v_job.last_error,
    to_jsonb(v_job) - array['claimable', 'lane'],
    (select coalesce(jsonb_agg(to_jsonb(n) - 'job_id' order by n.lease_token), '[]')
     from (select a.* from job_attempt a where a.job_id = v_job.job_id order by a.lease_token desc limit 100) n),
    (select d.dead_letter_id from job_dead_letter d where d.job_id = v_job.job_id order by d.created_at desc limit 1));
  perform fn_job_tell(array[p_job_id], 'job_dead_lettered');
end
$$;
comment on function fn_job_die(uuid, text) is 'failed → dead_letter, with its row in job_dead_letter. Internal.';

-- The one fail path, for workers and for the reaper: closes the attempt, counts, and decides. p_outcome is transient,
-- permanent, rest (permanent, but no dead letter) or lease_lost. A job whose cancellation was asked for ends there.
-- The status passes through failed where the moves ask for it, so the guard sees every step.
create or replace function fn_job_fail(p_job job_queue, p_outcome text, p_error text) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
  v_limit int;
  v_retry_at timestamptz;
begin
  if (p_job).cancel_requested_at is not null then
    return fn_job_end_cancelled(p_job, p_error);
  end if;
  if p_outcome = 'lease_lost' then
    select p.max_lease_losses into v_limit from fn_job_policy((p_job).job_kind, (p_job).event_domain, (p_job).policy) p;
    if (p_job).lease_losses + 1 < v_limit then
      return fn_job_requeue(
        p_job, p_outcome, p_error, v_now + fn_job_backoff((p_job).job_kind, (p_job).lease_losses + 1, (p_job).event_domain, (p_job).policy));
    end if;
  end if;
  perform fn_job_attempt_end(p_job, case p_outcome when 'rest' then 'permanent' else p_outcome end, p_error);
  update job_queue j
  set status = 'failed', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
      attempts = j.attempts + (p_outcome <> 'lease_lost')::int, error_count = j.error_count + (p_outcome <> 'lease_lost')::int,
      lease_losses = j.lease_losses + (p_outcome = 'lease_lost')::int, last_error = left(p_error, 8000), updated_at = v_now
  where j.job_id = (p_job).job_id
  returning j.* into v_job;
  if p_outcome = 'transient' and v_job.attempts < v_job.max_attempts then
    v_retry_at := v_now + fn_job_backoff(v_job.job_kind, v_job.attempts, v_job.event_domain, v_job.policy);
    update job_queue j set status = 'retry_waiting', finished_at = null, scheduled_at = v_retry_at where j.job_id = v_job.job_id;
    v_job.status := 'retry_waiting';
  elsif p_outcome <> 'rest' then
    perform fn_job_die(v_job.job_id, case p_outcome when 'transient' then 'attempts_exhausted' else p_outcome end);
    v_job.status := 'dead_letter';
  else
    perform fn_job_tell(array[v_job.job_id], 'job_failed');
  end if;
  if v_job.workflow_id is not null and v_job.status <> 'retry_waiting' then
    perform fn_job_unblock(array[v_job.job_id], 'failure');
  end if;
  -- a retry and a dead letter keep their turn: what is behind them waits until somebody has decided
  perform fn_job_make_room(case when p_outcome = 'rest' then v_job.ordering_key end, v_job.limit_slot, v_job.executor, v_job.job_kind);
  return jsonb_build_object('refused', false, 'job_id', v_job.job_id, 'status', v_job.status, 'retry_at', v_retry_at,
    'attempts', v_job.attempts, 'max_attempts', v_job.max_attempts);
end
$$;
comment on function fn_job_fail(job_queue, text, text) is 'The one fail path. p_outcome: transient, permanent, rest or lease_lost. Internal.';

create or replace function fn_job_fail_transient(p_job_id uuid, p_lease_token bigint, p_error text default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_fail(v_job, 'transient', p_error);
end
$$;
comment on function fn_job_fail_transient(uuid, bigint, text) is 'Counts a failure that may pass: retry_waiting, or dead_letter after the last attempt.';

create or replace function fn_job_fail_permanent(p_job_id uuid, p_lease_token bigint, p_error text default null, p_dead_letter boolean default true) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_fail(v_job, case when coalesce(p_dead_letter, true) then 'permanent' else 'rest' end, p_error);
end
$$;
comment on function fn_job_fail_permanent(uuid, bigint, text, boolean) is 'Counts a failure that will not pass: dead_letter, or failed to rest when p_dead_letter is false.';

-- Frees jobs whose lease has ended unreported: the same fail path as a worker's own failure, on the database's time, at
-- most p_limit (and 60), oldest first; a row that somebody has locked is left for the next time. Applies only with both gates
-- open (queue.lease_reaper.enabled true, queue.lease_reaper.dry_run_only false); else, and with p_dry_run, it only
-- tells what it would do. p_skip leaves out the oldest, of which the caller knows that they cannot be freed. Called by the reaper of `reveille run`, by `tick`, by operators. (Traps 21, 25, 47, 48.)
create or replace function fn_job_lease_reaper(
  p_limit int default 100,
  p_actor text default null,
  p_dry_run boolean default null,
  p_skip int default 0,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
  v_now timestamptz := least(p_now, clock_timestamp()); -- a later moment would end leases that live
  v_limit int := least(p_limit, 60); -- each takes a savepoint (trap 19)
  v_is_open boolean := fn_gate_is_open('queue.lease_reaper.enabled');
  v_dry boolean := fn_config('queue.lease_reaper.dry_run_only', 'true') <> 'false';
  v_job job_queue;
  v_answer jsonb;
  v_jobs jsonb := '[]';
  v_list jsonb[] := '{}';
  v_dead int := 0;
  v_failed int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_lease_reaper: p_limit must be at least 1' using errcode = '22023';
  end if;
  if p_dry_run = false and (not v_is_open or v_dry) then
    return jsonb_build_object('refused', true, 'reason', 'reaper_disabled');
  end if;
  v_dry := coalesce(p_dry_run, v_dry or not v_is_open);
  if v_dry then
    select coalesce(jsonb_agg(jsonb_build_object('job_id', e.job_id, 'job_kind', e.job_kind, 'lease_owner', e.lease_owner,
        'lease_until', e.lease_until, 'error', null, 'status', case
          when e.cancel_requested_at is not null then 'cancelled'
          when e.lease_losses + 1 < p.max_lease_losses then 'queued' else 'dead_letter' end)), '[]'),
      count(*) filter (where e.cancel_requested_at is null and e.lease_losses + 1 >= p.max_lease_losses)
    into v_jobs, v_dead
    from (select j.* from job_queue j where j.lease_until < v_now order by j.lease_until offset p_skip limit v_limit) e
    cross join lateral fn_job_policy(e.job_kind, e.event_domain, e.policy) p;
  else
    for v_job in
      select j.* from job_queue j where j.lease_until < v_now order by j.lease_until
      offset p_skip limit v_limit for update skip locked
    loop
      begin
        v_answer := fn_job_fail(v_job, 'lease_lost', format('the lease of %s ended at %s unreported', v_job.lease_owner, v_job.lease_until));
      exception when others then
        v_answer := jsonb_build_object('status', v_job.status, 'error', sqlerrm); -- of this job; the others go on
        v_failed := v_failed + 1;
      end;
      v_dead := v_dead + (v_answer ->> 'status' = 'dead_letter')::int;
      v_list := v_list || jsonb_build_object('job_id', v_job.job_id, 'job_kind', v_job.job_kind, 'lease_owner', v_job.lease_owner,
        'lease_until', v_job.lease_until, 'status', v_answer ->> 'status', 'error', v_answer ->> 'error');
    end loop;
    v_jobs := to_jsonb(v_list);
  end if;
  return jsonb_build_object('refused', false, 'dry_run', v_dry, 'found', jsonb_array_length(v_jobs), 'dead_lettered', v_dead,
    'failed', v_failed, 'jobs', v_jobs, 'actor', coalesce(p_actor, session_user::text));
end
$$;
comment on function fn_job_lease_reaper(int, text, boolean, int, timestamptz)
  is 'Frees jobs whose lease ended unreported: {dry_run, found, dead_lettered, jobs}. Refused reaper_disabled when told to apply behind a closed gate.';

-- Whether this session may triage, or replay, dead letters of a domain: it is a member of a role with a row for it.
create or replace function fn_dead_letter_authority(p_event_domain text, p_replay boolean) returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return exists (
    select from dead_letter_authority a
    join pg_roles r on r.rolname = a.role_name
    where a.event_domain in (p_event_domain, '*')
      and case when p_replay then a.may_replay else a.may_triage end
      and pg_has_role(session_user, r.oid, 'member'));
end
$$;
comment on function fn_dead_letter_authority(text, boolean) is 'Whether the session''s role may triage or replay dead letters of a domain.';

-- Gives a role the right to decide about the dead letters of a domain (* for all), changes it, or takes it away (both
-- false). The role may call the functions that need the right; who and why is audited. Called by operators.
create or replace function fn_dead_letter_authority_set(
  p_event_domain text, p_role_name name, p_may_triage boolean, p_may_replay boolean, p_actor text, p_reason text
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_was text;
  v_function text;
begin
  if coalesce(btrim(p_event_domain), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = ''
    or p_may_triage is null or p_may_replay is null
  then
    raise exception 'fn_dead_letter_authority_set needs a domain (or *), a role, both rights, an actor and a reason' using errcode = '22023';
  end if;
  if not exists (select from pg_roles r where r.rolname = p_role_name) then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'role_name', p_role_name);
  end if;
  delete from dead_letter_authority a where a.event_domain = p_event_domain and a.role_name = p_role_name
  returning format('triage %s, replay %s', a.may_triage, a.may_replay) into v_was;
  if p_may_triage or p_may_replay then
    insert into dead_letter_authority (event_domain, role_name, may_triage, may_replay, actor)
    values (p_event_domain, p_role_name, p_may_triage, p_may_replay, p_actor);
    foreach v_function in array array[
      'fn_job_dead_letter_triage(uuid, text, text, text)', 'fn_job_dead_letter_replay(uuid, text, boolean, timestamptz)',
      'fn_job_dead_letter_redrive(jsonb, text, int, numeric, boolean)'] loop
      execute format('grant execute on function %s to %I', v_function::regprocedure, p_role_name);
    end loop;
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('dead_letter_authority.' || p_event_domain || '.' || p_role_name, v_was,
    format('triage %s, replay %s', p_may_triage, p_may_replay), p_actor, p_reason);
  return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'role_name', p_role_name,
    'may_triage', p_may_triage, 'may_replay', p_may_replay);
end
$$;
comment on function fn_dead_letter_authority_set(text, name, boolean, boolean, text, text)
  is 'Sets which role may triage and replay dead letters of a domain, audited. Refused not_found when there is no such role.';

-- Notes what was decided about a dead letter. A job of an ordering key holds up those behind it until its letter is
-- discarded, superseded or closed, or it was replayed and ended well.
create or replace function fn_job_dead_letter_triage(p_dead_letter_id uuid, p_triage_status text, p_actor text, p_note text default null)
returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_letter job_dead_letter;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_job_dead_letter_triage needs an actor' using errcode = '22023';
  end if;
  if p_triage_status is null or p_triage_status <> all (array['open', 'investigating', 'manual_replay', 'discarded', 'superseded', 'closed']) then
    raise exception 'fn_job_dead_letter_triage: % is none of open, investigating, manual_replay, discarded, superseded, closed',
      quote_nullable(p_triage_status) using errcode = '22023';
  end if;
  select d.* into v_letter from job_dead_letter d where d.dead_letter_id = p_dead_letter_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'dead_letter_id', p_dead_letter_id);
  elsif not fn_dead_letter_authority(v_letter.event_domain, false) then
    return jsonb_build_object('refused', true, 'reason', 'not_authorized', 'dead_letter_id', p_dead_letter_id, 'event_domain', v_letter.event_domain);
  elsif v_letter.replayed_at is not null
    -- what has left for the archive cannot be replayed; the archiver locks the letter before it takes the job
    or (p_triage_status in ('open', 'investigating', 'manual_replay')
      and not exists (select from job_queue j where j.job_id = v_letter.job_id))
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'dead_letter_id', p_dead_letter_id, 'triage_status', v_letter.triage_status);
  end if;
  update job_dead_letter d
  set triage_status = p_triage_status, triage_actor = p_actor, triage_role = session_user, triage_note = p_note,
      triaged_at = clock_timestamp()
  where d.dead_letter_id = p_dead_letter_id;
  if p_triage_status in ('discarded', 'superseded', 'closed') then
    update job_queue j set ordering_slot = 0 where j.job_id = v_letter.job_id and j.status = 'dead_letter' and j.ordering_slot > 0;
    if found then
      perform fn_job_make_room((select j.ordering_key from job_queue j where j.job_id = v_letter.job_id), null,
        v_letter.executor, v_letter.job_kind);
    end if;
  end if;
  return jsonb_build_object('refused', false, 'dead_letter_id', p_dead_letter_id, 'triage_status', p_triage_status,
    'was', v_letter.triage_status);
end
$$;
comment on function fn_job_dead_letter_triage(uuid, text, text, text)
  is 'Decides about a dead letter: open, investigating, manual_replay, discarded, superseded, closed. Refused not_found, not_authorized, or illegal_transition once it was replayed or its job archived.';

-- Puts the same job back to queued with no attempts spent; its history stays. Dry run unless told otherwise: the same
-- checks, nothing written. A gate, the triage status manual_replay, the right to replay and a source of authorization
-- are needed. p_at spaces a redrive.
create or replace function fn_job_dead_letter_replay(
  p_dead_letter_id uuid,
  p_authorization_source text,
  p_dry_run boolean default true,
  p_at timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_letter job_dead_letter;
  v_job job_queue;
  v_workflow job_workflow;
  v_reason text;
begin
  if coalesce(btrim(p_authorization_source), '') = '' then
    raise exception 'fn_job_dead_letter_replay needs p_authorization_source: where it stands that this replay is allowed' using errcode = '22023';
  end if;
  select d.* into v_letter from job_dead_letter d where d.dead_letter_id = p_dead_letter_id for update;
  select j.* into v_job from job_queue j where j.job_id = v_letter.job_id for update;
  select w.* into v_workflow from job_workflow w where w.workflow_id = v_job.workflow_id for update; -- after the job, as whoever cancels it does
  v_reason := case
    when not fn_gate_is_open('queue.dlq.replay_enabled') then 'replay_disabled'
    when v_letter.dead_letter_id is null or v_job.job_id is null then 'not_found'
    when not fn_dead_letter_authority(v_letter.event_domain, true) then 'not_authorized'
    when v_letter.triage_status <> 'manual_replay' then 'not_triaged'
    when v_job.status <> 'dead_letter' then 'illegal_transition'
    when v_workflow.status = 'cancelled' or v_workflow.cancel_reason is not null then 'workflow_cancelled'
  end;
  if v_reason is not null then
    return jsonb_build_object('refused', true, 'reason', v_reason, 'dead_letter_id', p_dead_letter_id, 'triage_status', v_letter.triage_status);
  end if;
  if not coalesce(p_dry_run, true) then
    update job_queue j
    set status = 'queued', finished_at = null, attempts = 0, lease_losses = 0, lease_owner = null, picked_at = null, started_at = null,
        cancel_requested_at = null, cancel_reason = null, ordering_slot = nullif(j.ordering_slot, 0), scheduled_at = fn_job_moment(coalesce(p_at, clock_timestamp())),
        updated_at = clock_timestamp()
    where j.job_id = v_job.job_id;
    update job_dead_letter d
    set triage_status = 'closed', replayed_at = clock_timestamp(), replayed_by = session_user, authorization_source = p_authorization_source
    where d.dead_letter_id = p_dead_letter_id;
    perform fn_job_wake(v_job.executor, array[v_job.job_kind]);
    update job_workflow w set status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp()
    where w.workflow_id = v_job.workflow_id and w.status in ('failed', 'partially_failed');
  end if;
  return jsonb_build_object('refused', false, 'dry_run', coalesce(p_dry_run, true), 'dead_letter_id', p_dead_letter_id, 'job_id', v_job.job_id,
    'job_kind', v_job.job_kind, 'was_attempts', v_job.attempts, 'error_count', v_job.error_count);
end
$$;
comment on function fn_job_dead_letter_replay(uuid, text, boolean, timestamptz)
  is 'Replays a dead letter as the same job: {dry_run, job_id, job_kind}. Refused replay_disabled, not_found, not_authorized, not_triaged, illegal_transition or workflow_cancelled.';

-- Replays many: those that triage marked manual_replay and that fit p_filter (event_domain, job_kind, reason_class,
-- consumer_key, since, until), oldest first, at most p_limit, p_per_second a second. Dry run unless told otherwise.
create or replace function fn_job_dead_letter_redrive(
  p_filter jsonb,
  p_authorization_source text,
  p_limit int default 100,
  p_per_second numeric default 10,
  p_dry_run boolean default true
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_filter jsonb := coalesce(p_filter, '{}');
  v_unknown text;
  v_letter uuid;
  v_answer jsonb;
  v_found int := 0;
  v_replayed int := 0;
  v_refused jsonb := '{}';
  v_begin timestamptz := clock_timestamp();
begin
  select k into v_unknown from jsonb_object_keys(v_filter) k
  where k <> all (array['event_domain', 'job_kind', 'reason_class', 'consumer_key', 'since', 'until']) limit 1;
  if found then
    raise exception 'fn_job_dead_letter_redrive: % is no filter; they are event_domain, job_kind, reason_class, consumer_key, since, until', v_unknown
      using errcode = '22023';
  end if;
  if coalesce(p_per_second, 0) < 0.001 or coalesce(p_limit, 0) < 1 then
    raise exception 'fn_job_dead_letter_redrive: p_limit must be at least 1, p_per_second at least 0.001' using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.dlq.replay_enabled') then
    return jsonb_build_object('refused', true, 'reason', 'replay_disabled');
  end if;
  for v_letter in
    select d.dead_letter_id from job_dead_letter d
    where d.triage_status = 'manual_replay'
      and fn_dead_letter_authority(d.event_domain, true)
      and exists (select from job_queue j where j.job_id = d.job_id and j.status = 'dead_letter')
      and (not v_filter ? 'event_domain' or d.event_domain = v_filter ->> 'event_domain')
      and (not v_filter ? 'job_kind' or d.job_kind = v_filter ->> 'job_kind')
      and (not v_filter ? 'reason_class' or d.reason_class = v_filter ->> 'reason_class')
      and (not v_filter ? 'consumer_key' or d.consumer_key = v_filter ->> 'consumer_key')
      and (not v_filter ? 'since' or d.created_at >= (v_filter ->> 'since')::timestamptz)
      and (not v_filter ? 'until' or d.created_at < (v_filter ->> 'until')::timestamptz)
    order by exists ( -- those that are refused come last, and keep no other from its turn
        select from job_queue j join job_workflow w on w.workflow_id = j.workflow_id
        where j.job_id = d.job_id and w.cancel_reason is not null),
      d.created_at, d.dead_letter_id
    limit p_limit
    for update skip locked
  loop
    v_answer := fn_job_dead_letter_replay(v_letter, p_authorization_source, p_dry_run,
      v_begin + make_interval(secs => (v_found / p_per_second)::double precision));
    v_found := v_found + 1;
    if v_answer ->> 'refused' = 'true' then
      v_refused := v_refused || jsonb_build_object(v_answer ->> 'reason', coalesce((v_refused ->> (v_answer ->> 'reason'))::int, 0) + 1);
    else
      v_replayed := v_replayed + 1;
    end if;
  end loop;
  return jsonb_build_object('refused', false, 'dry_run', coalesce(p_dry_run, true), 'found', v_found, 'replayed', v_replayed,
    'refusals', v_refused, 'last_at', v_begin + make_interval(secs => (greatest(v_found - 1, 0) / p_per_second)::double precision));
end
$$;
comment on function fn_job_dead_letter_redrive(jsonb, text, int, numeric, boolean)
  is 'Replays the dead letters marked manual_replay that fit a filter: {dry_run, found, replayed, refusals, last_at}. Refused replay_disabled.';

create or replace view v_job_queue_dead_letter_open as
select d.dead_letter_id, d.job_id, d.job_kind, d.event_domain, d.executor, d.consumer_key, d.reason_class, d.error, d.triage_status,
  d.triage_actor, d.triage_note, d.triaged_at, d.previous_dead_letter_id, d.created_at
from job_dead_letter d
where d.triage_status in ('open', 'investigating', 'manual_replay');
comment on view v_job_queue_dead_letter_open is 'Dead letters that nobody has decided about for good.';

-- The dead letters of the host's older route worker. Only a table of our own schema counts, and only what the view shows:
-- see fn_legacy_workers.
create or replace function fn_dead_letter_legacy(
  out dead_letter_id text, out reason_class text, out error text, out is_open boolean, out resolution text, out created_at timestamptz)
returns setof record
language plpgsql stable security definer set search_path from current
as $$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_route_dead_letter' and c.relkind in ('r', 'p'))
  then
    return;
  end if;
  for dead_letter_id, reason_class, error, is_open, resolution, created_at in execute format($q$
    select coalesce(j ->> 'dead_letter_id', j ->> 'id', j ->> 'idempotency_key'), j ->> 'failure_code',
      coalesce(j ->> 'failure_message', j ->> 'last_error', j ->> 'error'), j ->> 'resolved_at' is null, j ->> 'resolution',
      (j ->> 'created_at')::timestamptz
    from (select to_jsonb(l) as j from %I.iu_route_dead_letter l) d $q$, current_schema())
  loop
    return next;
  end loop;
end
$$;
comment on function fn_dead_letter_legacy() is 'The dead letters in iu_route_dead_letter, if the host has that table. Called by v_dead_letter_all.';

create or replace view v_dead_letter_all as
select
  'job_queue'::text as source, d.dead_letter_id::text as dead_letter_id, d.job_kind::text as job_kind, d.event_domain, d.reason_class,
  d.error, d.triage_status in ('open', 'investigating', 'manual_replay') as is_open, d.triage_status as resolution, d.created_at
from job_dead_letter d
union all
select 'iu_route', l.dead_letter_id, null, null, l.reason_class, l.error, l.is_open, l.resolution, l.created_at
from fn_dead_letter_legacy() l;
comment on view v_dead_letter_all is 'Dead letters of jobs and, where the host has them, of its older route worker.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_job_fail_transient(uuid, bigint, text)', 'fn_job_fail_permanent(uuid, bigint, text, boolean)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor']);
  end loop;
  foreach v_function in array array[
    'fn_job_dead_letter_triage(uuid, text, text, text)', 'fn_job_dead_letter_replay(uuid, text, boolean, timestamptz)',
    'fn_job_dead_letter_redrive(jsonb, text, int, numeric, boolean)', 'fn_dead_letter_authority_set(text, name, boolean, boolean, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_job_lease_reaper(int, text, boolean, int, timestamptz)'::regprocedure);
  call pr_grant(
    format('execute on function %s', 'fn_job_lease_reaper(int, text, boolean, int, timestamptz)'::regprocedure),
    array['reveille_dispatcher', 'reveille_operator']);
  execute format('revoke all on function %s from public', 'fn_job_policy(text, text, jsonb)'::regprocedure);
  call pr_grant(
    format('execute on function %s', 'fn_job_policy(text, text, jsonb)'::regprocedure),
    array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);
  foreach v_function in array array['fn_job_fail(job_queue, text, text)', 'fn_job_die(uuid, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
  end loop;
  call pr_grant('select on table job_dead_letter, dead_letter_authority', array['reveille_operator', 'reveille_reader']);
  execute format('revoke all on function %s from public', 'fn_dead_letter_legacy()'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_dead_letter_legacy()'::regprocedure), array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_job_queue_dead_letter_open, v_dead_letter_all', array['reveille_operator', 'reveille_reader']);
end
$$;
