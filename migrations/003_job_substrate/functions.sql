-- Functions of phase 003: the guard on moves, enqueue, claim, start, renew, succeed, release, SQL handlers.

-- The moves of the contract. PL/pgSQL on purpose: the guard's condition is prepared anew by every statement, and an
-- SQL function would be inlined into it and planned each time, which costs more than the rest of claiming one job.
create or replace function fn_job_move_is_legal(p_from text, p_to text) returns boolean
language plpgsql immutable
as $$
begin
  return case p_from
    when 'queued' then p_to in ('leased', 'cancelled')
    when 'leased' then p_to in ('in_progress', 'queued', 'succeeded', 'failed', 'cancelled')
    when 'in_progress' then p_to in ('succeeded', 'failed', 'queued', 'cancelled')
    when 'failed' then p_to in ('retry_waiting', 'dead_letter', 'cleaned')
    when 'retry_waiting' then p_to in ('leased', 'cancelled')
    when 'dead_letter' then p_to in ('queued', 'cleaned')
    when 'succeeded' then p_to = 'cleaned'
    when 'cancelled' then p_to = 'cleaned'
    else false
  end;
end
$$;
comment on function fn_job_move_is_legal(text, text) is 'Whether a job may move from one status to another.';

create or replace function fn_job_move_refuse() returns trigger
language plpgsql set search_path from current
as $$
begin
  if tg_op = 'INSERT' then
    raise exception 'illegal_transition: a job begins as queued, not as %', new.status using errcode = '23514';
  end if;
  raise exception 'illegal_transition: job % may not move from % to %', old.job_id, old.status, new.status using errcode = '23514';
end
$$;
comment on function fn_job_move_refuse() is 'Raises illegal_transition (23514); also for the table''s owner.';
revoke all on function fn_job_move_refuse() from public;

create or replace trigger job_queue_moves
before update on job_queue
for each row
when (old.status is distinct from new.status and not fn_job_move_is_legal(old.status, new.status))
execute function fn_job_move_refuse();

create or replace trigger job_queue_begins_queued
before insert on job_queue
for each row
when (new.status <> 'queued')
execute function fn_job_move_refuse();

-- A handler is checked when it is written: it must exist, take one jsonb and return jsonb.
create or replace function fn_job_handler_check() returns trigger
language plpgsql set search_path from current
as $$
declare
  v_function pg_proc;
begin
  select p.* into v_function from pg_proc p where p.oid = to_regprocedure(new.handler);
  if not found then
    raise exception 'job_handler %: function % does not exist', new.job_kind, new.handler
      using errcode = '42883', hint = 'Create it first, with signature (p_job jsonb) returns jsonb, and name it with its schema.';
  end if;
  if v_function.prorettype <> 'jsonb'::regtype or v_function.pronargs <> 1 or v_function.proargtypes[0] <> 'jsonb'::regtype then
    raise exception 'job_handler %: % must take one jsonb and return jsonb', new.job_kind, new.handler using errcode = '42P13';
  end if;
  select format('%I.%I(jsonb)', n.nspname, v_function.proname) into new.handler
  from pg_namespace n where n.oid = v_function.pronamespace;
  new.updated_at := clock_timestamp();
  return new;
end
$$;
comment on function fn_job_handler_check() is 'Refuses a job_handler row whose function is missing or has another signature.';
revoke all on function fn_job_handler_check() from public;

create or replace trigger job_handler_check
before insert or update on job_handler
for each row execute function fn_job_handler_check();

-- Workers learn of a new handler at once.
create or replace function fn_job_handler_announce() returns trigger
language plpgsql set search_path from current
as $$
begin
  perform pg_notify('queue_control', '');
  return null;
end
$$;
comment on function fn_job_handler_announce() is 'Announces a change of job_handler on queue_control, once a statement.';
revoke all on function fn_job_handler_announce() from public;

create or replace trigger job_handler_announce
after insert or update or delete on job_handler
for each statement execute function fn_job_handler_announce();

-- What a worker has to know of job kinds: those that it names itself, and those that have an SQL function.
create or replace function fn_job_kinds(p_job_kinds text[] default '{}')
returns table (job_kind text, handler text, time_limit_seconds text)
language sql stable security definer set search_path from current
as $$
  select k.job_kind, h.handler, fn_config('job.' || k.job_kind || '.time_limit_seconds', null)
  from (select unnest(p_job_kinds) union select a.job_kind from job_handler a) as k (job_kind)
  left join job_handler h on h.job_kind = k.job_kind
  order by k.job_kind
$$;
comment on function fn_job_kinds(text[]) is 'The given kinds and those of job_handler: SQL function and job.<kind>.time_limit_seconds, each null where there is none.';

do $$
begin
  perform fn_wake_channel_add('job_wake_' || k)
  from unnest(array['dot', 'agent', 'hermes', 'codex', 'pg_worker', 'external_worker', 'future_kestra_adapter']) k;
end
$$;

-- A key as it is stored: keys of up to 512 characters as they are, longer ones as prefix and digest, because an
-- index entry has a limit and a subject may have 8 kB.
create or replace function fn_job_key(p_key text) returns text
language sql immutable
return case when length(p_key) <= 512 then p_key else left(p_key, 400) || '~sha256:' || encode(sha256(convert_to(p_key, 'UTF8')), 'hex') end;
comment on function fn_job_key(text) is 'The stored form of an idempotency key.';

-- Adds a job, in the caller's transaction. A second call with the same kind and key answers the first job.
create or replace function fn_job_enqueue(
  p_job_kind text,
  p_actor text,
  p_safe_payload jsonb default '{}',
  p_source_ref text default null,
  p_idempotency_key text default null,
  p_target_ref text default null,
  p_payload_ref text default null,
  p_executor text default 'PG_worker',
  p_priority int default 100,
  p_scheduled_at timestamptz default null,
  p_run_id uuid default null,
  p_ordering_key text default null,
  p_max_attempts int default null,
  p_correlation_id text default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job_id uuid := fn_uuid_v7();
  v_key text := fn_job_key(coalesce(p_idempotency_key, v_job_id::text));
  v_existing uuid;
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled', 'job_id', null);
  end if;
  if not isfinite(p_scheduled_at) then
    raise exception 'fn_job_enqueue: p_scheduled_at is %; name a moment, or leave it out for now', p_scheduled_at using errcode = '22008';
  end if;
  insert into job_queue (
    job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
    scheduled_at, run_id, ordering_key, max_attempts, correlation_id)
  values (
    v_job_id, p_job_kind, p_actor, coalesce(p_safe_payload, '{}'), p_source_ref, v_key, p_target_ref, p_payload_ref,
    coalesce(p_executor, 'PG_worker'), coalesce(p_priority, 100), coalesce(p_scheduled_at, clock_timestamp()), p_run_id, p_ordering_key,
    coalesce(p_max_attempts, fn_job_max_attempts(p_job_kind)), p_correlation_id)
  on conflict (job_kind, idempotency_key) do nothing;
  if found then
    perform fn_wake('job_wake_' || lower(coalesce(p_executor, 'PG_worker')));
    return jsonb_build_object('refused', false, 'job_id', v_job_id, 'created', true);
  end if;
  select j.job_id into v_existing from job_queue j where j.job_kind = p_job_kind and j.idempotency_key = v_key;
  return jsonb_build_object('refused', false, 'job_id', v_existing, 'created', false);
end
$$;
comment on function fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text)
  is 'Adds a job and answers {job_id, created}; refused job_substrate_disabled while the gate is closed.';

-- How many failures a kind may have: its own key, else the default, else 5.
create or replace function fn_job_max_attempts(p_job_kind text) returns int
language sql stable
return greatest(1, fn_config_number('queue.retry.max_attempts.' || p_job_kind, fn_config_number('queue.retry.default.max_attempts', 5)))::int;
comment on function fn_job_max_attempts(text) is 'max_attempts of a kind from dot_config.';

-- Claims up to p_limit jobs for a registered executor with a live heartbeat, the most urgent first. Each gets a
-- fresh lease token. A refusal is one row. The rows are locked and collected in an array first: a LIMIT that the
-- planner cannot see inside UPDATE … FROM becomes a sequential scan (trap 15). Their ctid serves as long as this
-- transaction holds them. The settings keep one plan, along the ready index, also when the statistics are those of
-- an empty table. The token is the moment of the claim in microseconds and ten random bits, so that
-- nobody guesses it: it grows with every claim of a job, and when a crash forgets a claim that did not wait for the
-- disk, its token does not come again, as one of a sequence could.
create or replace function fn_job_claim(
  p_executor_name text,
  p_limit int default 1,
  p_lease_seconds int default null,
  p_job_kinds text[] default null
) returns table (
  refused boolean, reason text, job_id uuid, job_kind text, lease_token bigint, lease_until timestamptz, status text, executor text,
  event_domain text, source_ref text, target_ref text, payload_ref text, safe_payload jsonb, priority int, scheduled_at timestamptz,
  attempts int, max_attempts int, idempotency_key text, ordering_key text, actor text, run_id uuid, workflow_id uuid,
  causation_event_id uuid, consumer_key text, correlation_id text, traceparent text, created_at timestamptz)
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_admission record;
  v_seconds int;
  v_priority int := -1;
  v_now timestamptz := clock_timestamp();
  v_token bigint := (extract(epoch from v_now) * 1000000)::bigint * 1024 + (random() * 1023)::bigint;
  v_rows tid[] := '{}';
begin
  select * into v_admission from fn_executor_admission(p_executor_name) a;
  if v_admission.reason is not null then
    return query select true, v_admission.reason, null::uuid, null::text, null::bigint, null::timestamptz, null::text, null::text,
      null::text, null::text, null::text, null::text, null::jsonb, null::int, null::timestamptz, null::int, null::int, null::text,
      null::text, null::text, null::uuid, null::uuid, null::uuid, null::text, null::text, null::text, null::timestamptz;
    return;
  end if;
  v_seconds := coalesce(p_lease_seconds, greatest(1, fn_config_number('queue.lease.duration_sec', 300))::int);
  if p_limit is null or p_limit < 1 or v_seconds < 1 then
    raise exception 'fn_job_claim: p_limit and p_lease_seconds must be at least 1' using errcode = '22023';
  end if;

  -- one priority after the other: due jobs of a later priority are found without walking over the
  -- scheduled jobs of an earlier one
  loop
    select j.priority into v_priority
    from job_queue j where j.executor = v_admission.executor_kind and j.claimable and j.priority > v_priority
    order by j.priority limit 1;
    exit when not found;
    v_rows := v_rows || array(
      select j.ctid
      from job_queue j
      where j.executor = v_admission.executor_kind
        and j.claimable
        and j.priority = v_priority
        and j.scheduled_at <= v_now
        and (p_job_kinds is null or j.job_kind = any (p_job_kinds))
      order by j.scheduled_at, j.job_id
      limit p_limit - cardinality(v_rows)
      for update skip locked);
    exit when cardinality(v_rows) >= p_limit;
  end loop;
  if cardinality(v_rows) = 0 then
    return;
  end if;

  return query
  with claimed as (
    update job_queue j
    set status = 'leased',
        lease_owner = p_executor_name,
        lease_token = greatest(v_token, j.lease_token + 1),
        lease_until = v_now + make_interval(secs => v_seconds),
        picked_at = v_now,
        started_at = null,
        updated_at = v_now
    where j.ctid = any (v_rows)
    returning j.*
  )
  select false, null::text, c.job_id, c.job_kind::text, c.lease_token, c.lease_until, c.status::text, c.executor::text, c.event_domain,
    c.source_ref, c.target_ref, c.payload_ref, c.safe_payload::jsonb, c.priority::int, c.scheduled_at, c.attempts::int, c.max_attempts::int,
    c.idempotency_key::text, c.ordering_key, c.actor::text, c.run_id, c.workflow_id, c.causation_event_id, c.consumer_key, c.correlation_id, c.traceparent, c.created_at
  from claimed c
  order by c.priority, c.scheduled_at, c.job_id;
end
$$;
comment on function fn_job_claim(text, int, int, text[])
  is 'Leases jobs to an executor: rows (refused, reason, job columns with lease_token); a refusal is one row, nothing to do is none.';

-- The answer of a call whose token is not the current one, or whose lease has ended.
create or replace function fn_job_lease_lost(p_job_id uuid) returns jsonb
language plpgsql stable security definer set search_path from current
as $$
begin
  return jsonb_build_object('refused', true,
    'reason', case when exists (select from job_queue j where j.job_id = p_job_id) then 'lease_lost' else 'not_found' end,
    'job_id', p_job_id);
end
$$;
comment on function fn_job_lease_lost(uuid) is 'The refusal lease_lost, or not_found.';

-- The lease is still the caller's: same token, not ended, status leased or in_progress. Here and below the settings
-- keep a session from caching a sequential scan that it planned while the table was small.
create or replace function fn_job_start(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  update job_queue j
  set status = 'in_progress', started_at = coalesce(j.started_at, v_now), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now;
  if not found then
    return fn_job_lease_lost(p_job_id);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'in_progress');
end
$$;
comment on function fn_job_start(uuid, bigint) is 'leased → in_progress. Refused lease_lost for an old token.';

create or replace function fn_job_renew(p_job_id uuid, p_lease_token bigint, p_lease_seconds int default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_until timestamptz := v_now + make_interval(secs => coalesce(p_lease_seconds, greatest(1, fn_config_number('queue.lease.duration_sec', 300))::int));
  v_cancel timestamptz;
begin
  update job_queue j
  set lease_until = v_until, updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
  returning j.cancel_requested_at into v_cancel;
  if not found then
    return fn_job_lease_lost(p_job_id);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'lease_until', v_until, 'cancel_requested', v_cancel is not null);
end
$$;
comment on function fn_job_renew(uuid, bigint, int) is 'Makes a lease longer and tells whether cancellation was asked for.';

-- Whether this very lease has ended well already: its worker lost the answer and asks again. Changes nothing.
create or replace function fn_job_has_succeeded(p_job_id uuid, p_lease_token bigint) returns boolean
language sql stable
return exists (
  select from job_queue j where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('succeeded', 'cleaned'));
comment on function fn_job_has_succeeded(uuid, bigint) is 'Whether the lease with this token ended as succeeded.';

create or replace function fn_job_succeed(p_job_id uuid, p_lease_token bigint, p_result_ref text default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  update job_queue j
  set status = 'succeeded', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
      result_ref = coalesce(p_result_ref, j.result_ref), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now;
  if not found and not fn_job_has_succeeded(p_job_id, p_lease_token) then
    return fn_job_lease_lost(p_job_id);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'succeeded');
end
$$;
comment on function fn_job_succeed(uuid, bigint, text)
  is 'Ends a job well. Refused lease_lost for an old token, and nothing is changed; the same token may ask again.';

-- Many completions in one statement. Each job is judged alone; the lost ones are named. The jobs are found by their
-- keys and then met with their tokens: a join planned while the table was small would later walk over all of it.
create or replace function fn_job_succeed_many(p_job_ids uuid[], p_lease_tokens bigint[], p_result_refs text[] default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_done uuid[];
  v_lost jsonb := '[]';
begin
  if cardinality(p_job_ids) is distinct from cardinality(p_lease_tokens)
    or cardinality(p_job_ids) <> cardinality(p_result_refs)
  then
    raise exception 'fn_job_succeed_many: as many tokens (and result refs, if any) as jobs are needed' using errcode = '22023';
  end if;
  with done as (
    update job_queue j
    set status = 'succeeded', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
        result_ref = coalesce(u.result_ref, j.result_ref), updated_at = v_now
    from unnest(p_job_ids, p_lease_tokens, p_result_refs) as u (job_id, lease_token, result_ref)
    where j.job_id = any (p_job_ids)
      and j.job_id = u.job_id and j.lease_token = u.lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    returning j.job_id
  )
  select coalesce(array_agg(d.job_id), '{}') into v_done from done d;
  if cardinality(v_done) < cardinality(p_job_ids) then
    select coalesce(jsonb_agg(u.job_id), '[]') into v_lost
    from unnest(p_job_ids, p_lease_tokens) as u (job_id, lease_token)
    where u.job_id <> all (v_done) and not fn_job_has_succeeded(u.job_id, u.lease_token);
  end if;
  return jsonb_build_object('refused', false, 'succeeded', cardinality(p_job_ids) - jsonb_array_length(v_lost), 'lease_lost', v_lost);
end
$$;
comment on function fn_job_succeed_many(uuid[], bigint[], text[]) is 'Ends many jobs well: {succeeded, lease_lost: [ids]}.';

-- Gives a job back without spending an attempt. Called by a worker that stops.
create or replace function fn_job_release(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_executor text;
begin
  update job_queue j
  set status = 'queued', lease_owner = null, lease_until = null, picked_at = null, started_at = null, updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
  returning j.executor into v_executor;
  if not found then
    return fn_job_lease_lost(p_job_id);
  end if;
  perform fn_wake('job_wake_' || lower(v_executor));
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'queued');
end
$$;
comment on function fn_job_release(uuid, bigint) is 'Puts a leased job back to queued; attempts stay as they are.';

-- Of the jobs with these leases, those whose rows somebody else has locked; the others stay locked by the caller's
-- transaction. Statements over many jobs ask here first: one row that is held on to must not keep the others waiting
-- until their leases have ended.
create or replace function fn_job_busy(p_job_ids uuid[], p_lease_tokens bigint[]) returns setof uuid
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_free uuid[] := array(
    select j.job_id from job_queue j
    where j.job_id = any (p_job_ids) and j.lease_token = any (p_lease_tokens)
    order by j.job_id
    for update skip locked);
begin
  return query
  select j.job_id from job_queue j
  where j.job_id = any (p_job_ids) and j.lease_token = any (p_lease_tokens) and j.job_id <> all (v_free);
end
$$;
comment on function fn_job_busy(uuid[], bigint[]) is 'Which of these leased jobs are locked by another session; locks the others until the transaction ends.';

-- Gives back what was leased under a name within the last p_within and is none of p_known: a claim that was committed,
-- but whose answer never reached its worker. Called by a worker after a claim failed, with the jobs that it knows of.
create or replace function fn_job_release_unknown(p_executor_name text, p_within interval, p_known uuid[]) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_released bigint;
  v_executor record;
begin
  select h.executor_kind, fn_executor_is_ours(h.owner_role) as is_ours into v_executor
  from queue_heartbeat h where h.executor_name = p_executor_name;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'executor_not_registered', 'executor_name', p_executor_name);
  elsif not v_executor.is_ours then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'executor_name', p_executor_name);
  end if;
  update job_queue j
  set status = 'queued', lease_owner = null, lease_until = null, picked_at = null, started_at = null, updated_at = v_now
  where j.ctid = any (array(
    select f.ctid from job_queue f
    where f.lease_until is not null and f.lease_owner = p_executor_name and f.status = 'leased'
      and f.picked_at >= v_now - p_within and f.job_id <> all (p_known)
    for update skip locked));
  get diagnostics v_released = row_count;
  if v_released > 0 then
    perform fn_wake('job_wake_' || lower(v_executor.executor_kind));
  end if;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'released', v_released);
end
$$;
comment on function fn_job_release_unknown(text, interval, uuid[])
  is 'Gives back what an executor leased lately without knowing it: {released}. Refused executor_not_registered or not_owner.';

-- The job as its handler sees it, with the handler's name. Called by fn_job_run.
create or replace function fn_job_handler_of(p_job_id uuid, p_lease_token bigint) returns table (job jsonb, handler text)
language sql stable security definer set search_path from current
as $$
  select to_jsonb(j.*) - 'claimable', h.handler
  from job_queue j
  left join job_handler h on h.job_kind = j.job_kind
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress')
    and j.lease_until > clock_timestamp()
$$;
comment on function fn_job_handler_of(uuid, bigint) is 'A leased job as jsonb, and the SQL function registered for its kind.';

-- Runs one leased job by the SQL function registered for its kind: effect and completion in the caller's transaction.
-- The handler runs with the caller's rights. An answer with "refused": true undoes the effect and is a permanent
-- failure (SQLSTATE RV001); a lease that is lost at the end undoes the effect too (RV002).
create or replace function fn_job_run(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile set search_path from current
as $$
declare
  v_path text := current_setting('search_path');
  v_run record;
  v_answer jsonb;
  v_done jsonb;
begin
  select * into v_run from fn_job_handler_of(p_job_id, p_lease_token);
  if not found then
    return fn_job_lease_lost(p_job_id);
  end if;
  if v_run.handler is null then
    raise exception 'no handler: job_handler has no row for kind %', v_run.job ->> 'job_kind'
      using errcode = '42883', hint = 'Insert the kind and its function into job_handler.';
  end if;
  -- the handler finds its own schema first, then ours; afterwards the path is as it was
  perform set_config('search_path', format('%I, %s', (
    select n.nspname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.oid = v_run.handler::regprocedure), v_path), true);
  execute format('select %s($1)', regexp_replace(v_run.handler, '\(jsonb\)$', '')) into v_answer using v_run.job;
  perform set_config('search_path', v_path, true);
  if v_answer ->> 'refused' = 'true' then
    raise exception 'refused by its handler: %', coalesce(v_answer ->> 'reason', v_answer::text) using errcode = 'RV001';
  end if;
  v_done := fn_job_succeed(p_job_id, p_lease_token, v_answer ->> 'result_ref');
  if v_done ->> 'refused' = 'true' then
    raise exception 'lease_lost: the lease of job % ended while its handler ran; the effect is undone', p_job_id using errcode = 'RV002';
  end if;
  return v_done || jsonb_build_object('answer', v_answer);
end
$$;
comment on function fn_job_run(uuid, bigint) is 'Runs a leased job by its SQL handler and ends it, in one transaction.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_job_claim(text, int, int, text[])', 'fn_job_start(uuid, bigint)', 'fn_job_renew(uuid, bigint, int)',
    'fn_job_succeed(uuid, bigint, text)', 'fn_job_succeed_many(uuid[], bigint[], text[])', 'fn_job_release(uuid, bigint)',
    'fn_job_busy(uuid[], bigint[])', 'fn_job_release_unknown(text, interval, uuid[])',
    'fn_job_handler_of(uuid, bigint)', 'fn_job_lease_lost(uuid)', 'fn_job_run(uuid, bigint)', 'fn_job_kinds(text[])',
    'fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor']);
  end loop;
  call pr_grant(
    format('execute on function %s', 'fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text)'::regprocedure),
    array['reveille_operator']);
  call pr_grant('select on table job_queue, job_handler', array['reveille_operator', 'reveille_reader']);
end
$$;
