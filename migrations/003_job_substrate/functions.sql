-- Functions of phase 003: the guard on moves, enqueue, order, claim, start, renew, succeed, release, SQL handlers.

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

-- After the row, not before it: a row with a trigger before it has its generated columns computed anew at every update.
create or replace trigger job_queue_moves
after update on job_queue
for each row
when (old.status is distinct from new.status and not fn_job_move_is_legal(old.status, new.status))
execute function fn_job_move_refuse();

create or replace trigger job_queue_begins_queued
before insert on job_queue
for each row
when (new.status <> 'queued')
execute function fn_job_move_refuse();

-- History is added to, and leaves with its job; nothing changes it.
create or replace function fn_job_attempt_refuse() returns trigger
language plpgsql set search_path from current
as $$
begin
  raise exception 'job_attempt is append-only: what happened cannot be changed' using errcode = '23514';
end
$$;
comment on function fn_job_attempt_refuse() is 'Refuses changes of job_attempt (23514); also for the table''s owner.';
revoke all on function fn_job_attempt_refuse() from public;

create or replace trigger job_attempt_append_only
before update on job_attempt
for each row execute function fn_job_attempt_refuse();

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

-- The lock by which an executor says that it is at rest. Locks are outside of MVCC: seen at once at every isolation
-- level, gone with the session that held them, and they leave nothing behind however often they change.
create or replace function fn_executor_rest_key(p_executor_name text) returns bigint
language plpgsql stable set search_path from current
as $$
begin
  return hashtextextended(format('reveille.rest:%s:%s', current_schema(), p_executor_name), 0);
end
$$;
comment on function fn_executor_rest_key(text) is 'Key of the advisory lock that an executor at rest holds. Internal.';

-- An executor that has nothing to do and room for jobs, says so on the session on which it listens: from now on it may be
-- the one that is named when there is a job (trap 20). False: not now, try again in a second. A session of the same executor
-- that a dead link left behind is ended then. Called by workers, once at each change.
create or replace function fn_executor_rest(p_executor_name text, p_rests boolean) returns boolean
language plpgsql volatile set search_path from current
as $$
declare
  v_key bigint := fn_executor_rest_key(p_executor_name);
begin
  if not p_rests then
    return pg_advisory_unlock(v_key);
  elsif pg_try_advisory_lock(v_key) then
    return true;
  end if;
  perform pg_terminate_backend(l.pid)
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.granted and l.objsubid = 1 and l.pid <> pg_backend_pid()
    and l.classid::bigint = v_key >> 32 & 4294967295 and l.objid::bigint = v_key & 4294967295
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
    and a.usename = session_user;
  return false;
end
$$;
comment on function fn_executor_rest(text, boolean) is 'Says on the session that listens that the executor is at rest, or no more: whether it is so now.';

-- One expression: nothing can come between taking the lock and giving it back. Shared: who asks at the same time is not
-- taken for one who rests.
create or replace function fn_executor_is_at_rest(p_executor_name text) returns boolean
language plpgsql volatile set search_path from current
as $$
declare
  v_key bigint := fn_executor_rest_key(p_executor_name);
begin
  return case when pg_try_advisory_lock_shared(v_key) then not pg_advisory_unlock_shared(v_key) else true end;
end
$$;
comment on function fn_executor_is_at_rest(text) is 'Whether an executor is at rest on a living session. Internal.';

-- Announces so many jobs of some kinds (null: of any). Each goes to one executor at rest, drawn by lot among those that
-- take one of the kinds; all others sleep on. When there are not so many, or it is 32 or more, everybody is told: some
-- do not give their names, and others are about to rest. Who is named and cannot take it, passes it on (fn_job_pass_on)
-- as p_but: then nobody is told when nobody else alive takes these kinds.
create or replace function fn_job_wake(p_executor text, p_job_kinds text[] default null, p_jobs bigint default 1, p_but text default null)
returns void
language plpgsql volatile set search_path from current
as $$
declare
  v_channel text := 'job_wake_' || lower(p_executor);
  v_names text[] := '{}';
begin
  if p_jobs < 1 or fn_wake_mark(v_channel) > fn_epoch_ms(clock_timestamp()) or current_setting('reveille.notify', true) = 'off'
    or coalesce((select c.value from dot_config c where c.key = 'queue.notify.bridge_enabled'), '') <> 'true'
  then
    return; -- nothing to tell, or somebody looks by himself, or fn_wake would not tell it
  end if;
  if p_jobs < 32
    and exists (select from pg_class c where c.relname = 'queue_heartbeat' and c.relnamespace = quote_ident(current_schema())::regnamespace)
  then
    v_names := array(
      select h.executor_name
      from (
        select q.executor_name from queue_heartbeat q
        where q.executor_kind = p_executor and q.wakes_for <> '{}' and (p_job_kinds is null or q.wakes_for && p_job_kinds)
          and q.executor_name is distinct from p_but
          and q.last_beat_at > clock_timestamp() - make_interval(secs => q.stale_threshold_seconds)
        order by random()
        limit 64) h
      where fn_executor_is_at_rest(h.executor_name)
      limit p_jobs);
  end if;
  if cardinality(v_names) < p_jobs then
    if p_but is not null and not exists (
      select from fn_executors_live(p_executor) e
      join queue_heartbeat q on q.executor_name = e.executor_name
      where q.executor_name <> p_but and (q.wakes_for is null or p_job_kinds is null or q.wakes_for && p_job_kinds))
    then
      return;
    end if;
    v_names := array[''];
  end if;
  perform fn_wake(v_channel, n) from unnest(v_names) n;
end
$$;
comment on function fn_job_wake(text, text[], bigint, text) is 'Wakes as many executors as there are jobs to begin. Internal.';

-- A key as it is stored: keys of up to 512 characters as they are, longer ones as prefix and digest, because an
-- index entry has a limit and a subject may have 8 kB.
create or replace function fn_job_key(p_key text) returns text
language sql immutable
return case when length(p_key) <= 512 then p_key else left(p_key, 400) || '~sha256:' || encode(sha256(convert_to(p_key, 'UTF8')), 'hex') end;
comment on function fn_job_key(text) is 'The stored form of an idempotency key.';

-- The job that holds a key, also when it has left for the archive, which phase 008 makes. One statement: a job that is just
-- leaving is in one of both.
create or replace function fn_job_by_key(p_job_kind text, p_key text, out job_id uuid, out status text)
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off
as $$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    select j.job_id, j.status into job_id, status from job_queue j where j.job_kind = p_job_kind and j.idempotency_key = p_key;
  else
    select f.job_id, f.status into job_id, status
    from (
      select j.job_id, j.status::text from job_queue j where j.job_kind = p_job_kind and j.idempotency_key = p_key
      union all
      select k.job_id, a.status::text
      from job_archive_key k
      left join job_archive a on a.job_id = k.job_id and a.finished_at = k.finished_at
      where k.job_kind = p_job_kind and k.idempotency_key = p_key) f
    limit 1;
  end if;
end
$$;
comment on function fn_job_by_key(text, text) is 'The job of a kind with this (stored) key, and its status. Internal.';

-- A job that has left for the archive, as jsonb; null when there is none. Called where a job is not in job_queue.
create or replace function fn_job_archived(p_job_id uuid) returns jsonb
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off
as $$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return null;
  end if;
  return (select to_jsonb(a) from job_archive a where a.job_id = p_job_id);
end
$$;
comment on function fn_job_archived(uuid) is 'An archived job; null when there is none with this id. Internal.';

-- The refusal of a call about a job that is not in job_queue: an archived one has ended, and does not move.
create or replace function fn_job_gone(p_job_id uuid) returns jsonb
language plpgsql stable set search_path from current
as $$
declare
  v_archived jsonb := fn_job_archived(p_job_id);
begin
  return jsonb_build_object('refused', true, 'job_id', p_job_id) || case
    when v_archived is null then '{"reason": "not_found"}'
    else jsonb_build_object('reason', 'illegal_transition', 'status', v_archived -> 'status') end;
end
$$;
comment on function fn_job_gone(uuid) is 'The refusal illegal_transition or not_found for a job that is not in job_queue. Internal.';

-- Takes back those of the jobs just made, from one id to another, whose keys archived jobs hold; answers how many. A
-- statement after the INSERT, because its snapshot sees what was archived while that ran. A transaction that keeps one
-- snapshot would not see it: there the unique index of job_archive_key is asked, which raises 40001 for a key that came
-- after the snapshot.
create or replace function fn_job_repeated(p_first uuid, p_last uuid) returns int
language plpgsql volatile set search_path from current set enable_seqscan = off set jit = off
as $$
declare
  v_mine tid[];
  v_repeated uuid[];
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return 0; -- before phase 008
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    with mine as (
      insert into job_archive_key (job_kind, idempotency_key, job_id, finished_at)
      select j.job_kind, j.idempotency_key, j.job_id, 'infinity' from job_queue j where j.job_id between p_first and p_last
      on conflict (job_kind, idempotency_key) do nothing
      returning ctid
    )
    select array_agg(m.ctid) into v_mine from mine m;
    delete from job_archive_key k where k.ctid = any (v_mine);
  elsif not exists (select from job_archive_key) then
    return 0;
  end if;
  -- offset 0: from the new jobs to the keys, not the other way round
  select array_agg(j.job_id) into v_repeated
  from job_queue j
  where j.job_id between p_first and p_last
    and exists (select from job_archive_key k where k.job_kind = j.job_kind and k.idempotency_key = j.idempotency_key offset 0);
  if v_repeated is null then
    return 0;
  end if;
  delete from job_queue j where j.job_id = any (v_repeated);
  return cardinality(v_repeated);
end
$$;
comment on function fn_job_repeated(uuid, uuid) is 'Takes back the jobs just made whose keys archived jobs hold; how many. Internal.';

-- Whether it is worth asking fn_job_repeated about the one job just made: it costs less than that does.
create or replace function fn_job_may_be_archived(p_job_kind text, p_key text) returns boolean
language plpgsql volatile set search_path from current set enable_seqscan = off set jit = off
as $$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return false; -- before phase 008
  end if;
  return current_setting('transaction_isolation') in ('repeatable read', 'serializable')
    or exists (select from job_archive_key k where k.job_kind = p_job_kind and k.idempotency_key = p_key);
end
$$;
comment on function fn_job_may_be_archived(text, text) is 'Whether an archived job holds this (stored) key, or the snapshot is too old to tell. Internal.';

-- Who may ask for a workflow by a job of kind workflow:TEMPLATE: whoever may start one, by the grants of fn_mot_graph_emit. The job
-- would be started in the name of the sidecar, which may.
create or replace function fn_workflow_may_start() returns boolean
language sql stable set search_path from current
as $$
  select coalesce(bool_or(has_function_privilege(session_user, p.oid, 'execute')), true)
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = current_schema() and p.proname = 'fn_mot_graph_emit'
$$;
comment on function fn_workflow_may_start() is 'Whether the session''s role may start workflows. Internal.';

-- Adds a job, in the caller's transaction. A second call with the same kind and key answers the first job. While that one
-- still waits, p_on_duplicate says what else happens: keep, nothing; replace, it gets what this call says, but stays due
-- when it was; debounce, it is due when this call says, too, so that each further call puts it off. Its executor and ordering
-- key stay. Called by producers.
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
  p_correlation_id text default null,
  p_on_duplicate text default 'keep'
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job_id uuid := fn_uuid_v7();
  v_key text := fn_job_key(coalesce(p_idempotency_key, v_job_id::text));
  v_due timestamptz := fn_job_moment(coalesce(p_scheduled_at, clock_timestamp()));
  v_existing uuid;
begin
  if coalesce(p_on_duplicate, '') <> all (array['keep', 'replace', 'debounce']) then
    raise exception 'fn_job_enqueue: p_on_duplicate must be keep, replace or debounce, not %', quote_nullable(p_on_duplicate)
      using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled', 'job_id', null);
  elsif p_job_kind like 'workflow:%' and not fn_workflow_may_start() then
    return jsonb_build_object('refused', true, 'reason', 'workflow_not_allowed', 'job_id', null, 'job_kind', p_job_kind);
  end if;
  insert into job_queue (
    job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
    scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
  values (
    v_job_id, p_job_kind, p_actor, coalesce(p_safe_payload, '{}'), p_source_ref, v_key, p_target_ref, p_payload_ref,
    coalesce(p_executor, 'PG_worker'), coalesce(p_priority, 100), v_due, p_run_id, p_ordering_key,
    coalesce(p_max_attempts, fn_job_max_attempts(p_job_kind)), p_correlation_id, fn_traceparent_of(p_safe_payload))
  on conflict (job_kind, idempotency_key) do nothing;
  if found and (
    p_idempotency_key is null or not fn_job_may_be_archived(p_job_kind, v_key) or fn_job_repeated(v_job_id, v_job_id) = 0)
  then
    if v_due <= clock_timestamp() then
      perform fn_job_wake(coalesce(p_executor, 'PG_worker'), array[p_job_kind]);
    end if;
    return jsonb_build_object('refused', false, 'job_id', v_job_id, 'created', true);
  end if;
  if p_on_duplicate <> 'keep' then
    update job_queue j
    set safe_payload = coalesce(p_safe_payload, '{}'), source_ref = p_source_ref, target_ref = p_target_ref, payload_ref = p_payload_ref,
        priority = coalesce(p_priority, 100), run_id = p_run_id, correlation_id = p_correlation_id, actor = p_actor,
        traceparent = fn_traceparent_of(p_safe_payload),
        max_attempts = coalesce(p_max_attempts, j.max_attempts),
        scheduled_at = case p_on_duplicate when 'debounce' then v_due else j.scheduled_at end, updated_at = clock_timestamp()
    where j.job_kind = p_job_kind and j.idempotency_key = v_key and j.status in ('queued', 'retry_waiting')
    returning j.job_id into v_existing;
    if found then
      return jsonb_build_object('refused', false, 'job_id', v_existing, 'created', false, 'changed', true);
    end if;
  end if;
  return jsonb_build_object('refused', false, 'job_id', (fn_job_by_key(p_job_kind, v_key)).job_id, 'created', false);
end
$$;
comment on function fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text, text)
  is 'Adds a job and answers {job_id, created}, and {changed} when one that waits was changed; refused job_substrate_disabled while the gate is closed, workflow_not_allowed for workflow:* by who may start none.';

-- A moment at which a job may be due; never and always are none.
create or replace function fn_job_moment(p_at timestamptz) returns timestamptz
language plpgsql immutable
as $$
begin
  if not isfinite(p_at) then
    raise exception 'scheduled_at is %; name a moment, or leave it out for now', p_at using errcode = '22008';
  end if;
  return p_at;
end
$$;
comment on function fn_job_moment(timestamptz) is 'The moment itself; raises 22008 for infinity.';

-- The rows that an array of jobs calls for, with ids of the series that begins at p_first. Inlined by fn_job_enqueue_many.
create or replace function fn_job_rows(p_jobs jsonb, p_first uuid, p_now timestamptz)
returns table (
  n int, job_id uuid, job_kind text, actor text, safe_payload jsonb, source_ref text, idempotency_key text, target_ref text, payload_ref text,
  executor text, priority int, scheduled_at timestamptz, run_id uuid, ordering_key text, max_attempts int, correlation_id text)
language sql stable
begin atomic
  select
    g.n::int, fn_uuid_v7_nth(p_first, g.n::int), g.job_kind, g.actor, coalesce(g.safe_payload, '{}'), g.source_ref,
    coalesce(fn_job_key(g.idempotency_key), fn_uuid_v7_nth(p_first, g.n::int)::text), g.target_ref, g.payload_ref,
    coalesce(g.executor, 'PG_worker'), coalesce(g.priority, 100),
    case when g.scheduled_at is null then p_now else fn_job_moment(g.scheduled_at) end, g.run_id, g.ordering_key, g.max_attempts, g.correlation_id
  from rows from (jsonb_to_recordset(p_jobs) as (
    job_kind text, actor text, safe_payload jsonb, source_ref text, idempotency_key text, target_ref text, payload_ref text, executor text,
    priority int, scheduled_at timestamptz, run_id uuid, ordering_key text, max_attempts int, correlation_id text)) with ordinality as g (
    job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor,
    priority, scheduled_at, run_id, ordering_key, max_attempts, correlation_id, n);
end;
comment on function fn_job_rows(jsonb, uuid, timestamptz) is 'The rows that an array of jobs calls for. Internal.';

-- Adds many jobs in one statement, in the caller's transaction: an array of objects with the names of fn_job_enqueue's
-- parameters without p_. Each is judged as fn_job_enqueue judges it; the first that is malformed refuses all. The ids
-- come in the order given, for a duplicate that of the first job. Made for thousands: no statement for each, and first a
-- bare INSERT; only when that meets a key which is there already, one that asks about each (a fifth slower).
create or replace function fn_job_enqueue_many(p_jobs jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set jit = off
as $$
declare
  v_known text[] := array['job_kind', 'actor', 'safe_payload', 'source_ref', 'idempotency_key', 'target_ref', 'payload_ref', 'executor',
    'priority', 'scheduled_at', 'run_id', 'ordering_key', 'max_attempts', 'correlation_id'];
  v_first uuid := fn_uuid_v7();
  v_now timestamptz := clock_timestamp();
  v_bad jsonb;
  v_kinds text[];
  v_limits int[];
  v_count int;
  v_created int;
  v_due int;
  v_ids uuid[];
  v_executors text[];
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' then
    raise exception 'fn_job_enqueue_many: p_jobs must be an array of objects, not %', coalesce(jsonb_typeof(p_jobs), 'null')
      using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  select e.job into v_bad from jsonb_array_elements(p_jobs) e (job)
  where case when jsonb_typeof(e.job) = 'object' then e.job - v_known <> '{}' else true end
  limit 1;
  if found then
    raise exception 'fn_job_enqueue_many: % is no job; its keys are %', left(v_bad::text, 200), array_to_string(v_known, ', ')
      using errcode = '22023';
  end if;
  v_count := jsonb_array_length(p_jobs);
  select array_agg(k.job_kind), array_agg(fn_job_max_attempts(k.job_kind)) into v_kinds, v_limits
  from (select distinct e.job ->> 'job_kind' as job_kind from jsonb_array_elements(p_jobs) e (job)) k;
  if exists (select from unnest(v_kinds) k where k like 'workflow:%') and not fn_workflow_may_start() then
    return jsonb_build_object('refused', true, 'reason', 'workflow_not_allowed',
      'job_kind', (select min(k) from unnest(v_kinds) k where k like 'workflow:%'));
  end if;
  begin
    insert into job_queue (
      job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
      scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
    select
      g.job_id, g.job_kind, g.actor, g.safe_payload, g.source_ref, g.idempotency_key, g.target_ref, g.payload_ref, g.executor, g.priority,
      g.scheduled_at, g.run_id, g.ordering_key, coalesce(g.max_attempts, v_limits[array_position(v_kinds, g.job_kind)]), g.correlation_id,
      fn_traceparent_of(g.safe_payload)
    from fn_job_rows(p_jobs, v_first, v_now) g;
    v_created := v_count;
    v_executors := array(select distinct coalesce(e.job ->> 'executor', 'PG_worker') from jsonb_array_elements(p_jobs) e (job));
  exception when unique_violation then -- some keys are there already
    with made as (
      insert into job_queue (
        job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
        scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
      select
        g.job_id, g.job_kind, g.actor, g.safe_payload, g.source_ref, g.idempotency_key, g.target_ref, g.payload_ref, g.executor, g.priority,
        g.scheduled_at, g.run_id, g.ordering_key, coalesce(g.max_attempts, v_limits[array_position(v_kinds, g.job_kind)]), g.correlation_id,
      fn_traceparent_of(g.safe_payload)
      from fn_job_rows(p_jobs, v_first, v_now) g
      order by g.n
      on conflict (job_kind, idempotency_key) do nothing
      returning executor
    )
    select count(*), array_agg(distinct m.executor::text) into v_created, v_executors from made m;
  end;
  if v_created > 0 and p_jobs @? '$[*].idempotency_key ? (@ != null)' then
    v_created := v_created - fn_job_repeated(fn_uuid_v7_nth(v_first, 1), fn_uuid_v7_nth(v_first, v_count));
  end if;
  v_due := v_created;
  if p_jobs @? '$[*].scheduled_at ? (@ != null)' then
    v_due := least(v_due, (
      select count(*) from jsonb_array_elements(p_jobs) e (job) where coalesce((e.job ->> 'scheduled_at')::timestamptz <= v_now, true)));
  end if;
  perform fn_job_wake(e, v_kinds, v_due) from unnest(v_executors) e;
  if v_created = v_count then
    v_ids := array(select fn_uuid_v7_nth(v_first, g) from generate_series(1, v_count) g);
    return jsonb_build_object('refused', false, 'created', v_count, 'duplicates', 0, 'job_ids', to_jsonb(v_ids));
  end if;
  -- a statement of its own: it sees the first job of each key, also one that was committed or archived meanwhile
  select array_agg(case when j.job_id is null then (fn_job_by_key(g.job_kind, fn_job_key(g.idempotency_key))).job_id else j.job_id end order by g.n)
  into v_ids
  from rows from (jsonb_to_recordset(p_jobs) as (job_kind text, idempotency_key text)) with ordinality as g (job_kind, idempotency_key, n)
  left join job_queue j on j.job_kind = g.job_kind
    and j.idempotency_key = coalesce(fn_job_key(g.idempotency_key), fn_uuid_v7_nth(v_first, g.n::int)::text);
  return jsonb_build_object('refused', false, 'created', v_created, 'duplicates', v_count - v_created, 'job_ids', coalesce(to_jsonb(v_ids), '[]'));
end
$$;
comment on function fn_job_enqueue_many(jsonb) is 'Adds many jobs: {created, duplicates, job_ids in the order given}. Refused job_substrate_disabled or workflow_not_allowed.';

-- Where a part of the retry policy is looked for, in this order: the kind's keys, its domain's, the default's.
create or replace function fn_job_policy_keys(p_name text, p_job_kind text, p_event_domain text) returns text[]
language sql immutable
return array[
  'job.' || p_job_kind || '.' || p_name,
  'queue.retry.' || p_name || '.' || p_job_kind,
  'queue.retry.domain.' || p_event_domain || '.' || p_name,
  'queue.retry.default.' || p_name];
comment on function fn_job_policy_keys(text, text, text) is 'The keys of dot_config that decide a part of the retry policy, the first that is set.';

-- How many failures a job may have: the policy's part that is needed when it is made.
create or replace function fn_job_max_attempts(p_job_kind text, p_event_domain text default null) returns int
language plpgsql stable set search_path from current
as $$
begin
  return coalesce((
    select greatest(1, f.value::numeric)::int
    from fn_config_first(fn_job_policy_keys('max_attempts', p_job_kind, p_event_domain), '^[0-9]{1,9}(\.[0-9]{1,6})?$') f), 5);
end
$$;
comment on function fn_job_max_attempts(text, text) is 'max_attempts of a kind in a domain from dot_config; 5 if nothing is set.';

-- Gives the next jobs of some ordering keys their turn, as far as job.<kind>.key_concurrency_limit (1) allows, strictly in
-- the order in which they were made, or of steps in which they became free: one that has to wait holds up those behind it. Called by whatever ends a job that
-- had a turn, after it has, and by fn_job_place. Nobody waits for anybody: a key that somebody else is just looking after,
-- whose next job is locked, or that this snapshot is too old to judge, is noted in job_order_pending, and the next claim
-- looks at it again.
create or replace function fn_job_promote(p_keys text[], p_wake boolean default true) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_mine text[];
  v_first uuid[];
  v_free uuid[];
  v_woken record;
  v_is_limited boolean;
begin
  if current_setting('transaction_isolation') = 'read committed' then
    -- 512 locks at most, whatever the number of keys; of two sessions at a key one notes it for later
    v_mine := array(
      select k from unnest(p_keys) k
      where pg_try_advisory_xact_lock(hashtext('reveille.order:' || current_schema()), hashtext(k) & 511));
  end if;
  if cardinality(v_mine) > 0 then
    v_is_limited := fn_job_keys_are_limited();
    -- a statement of its own, after the locks: it sees what others have decided before
    select array_agg(n.job_id) into v_first
    from (select distinct u.key from unnest(v_mine) u (key)) k
    cross join lateral (
      select count(*)::int as used, min(case when v_is_limited then fn_job_key_limit(j.job_kind) else 1 end) as least
      from job_queue j
      where j.ordering_key = k.key and j.ordering_slot > 0
        and j.status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter')) t
    cross join lateral (
      select b.job_id
      from (
        select j.job_id, row_number() over (order by j.since, j.job_id) as nth,
          min(case when v_is_limited then fn_job_key_limit(j.job_kind) else 1 end) over (order by j.since, j.job_id) as least
        from (
          select q.job_id, q.job_kind, coalesce(q.freed_at, q.created_at) as since from job_queue q
          where q.ordering_key = k.key and coalesce(q.ordering_slot, 0) = 0 and q.status in ('queued', 'retry_waiting')
          order by coalesce(q.freed_at, q.created_at), q.job_id
          limit case when v_is_limited then 1000 else 1 end) j) b
      where t.used + b.nth <= least(t.least, b.least)) n;
    v_free := array(
      select j.job_id from job_queue j
      where j.job_id = any (v_first) and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
      for update skip locked);
    with turn as materialized (
      select j.job_id, j.ordering_key, j.job_id = any (v_free) as is_free,
        bool_and(j.job_id = any (v_free)) over w as is_next, row_number() over w as nth
      from job_queue j
      where j.job_id = any (v_first)
      window w as (partition by j.ordering_key order by coalesce(j.freed_at, j.created_at), j.job_id)
    ),
    later as (
      insert into job_order_pending (ordering_key)
      select distinct t.ordering_key from turn t where not t.is_next
    ),
    slots as materialized (
      select k.ordering_key, g.slot, row_number() over (partition by k.ordering_key order by g.slot) as nth
      from (
        select t.ordering_key, count(*)::int as wanted,
          array(
            select j.ordering_slot::int from job_queue j
            where j.ordering_key = t.ordering_key and j.ordering_slot > 0
              and j.status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter')) as used
        from turn t where t.is_next group by t.ordering_key) k
      cross join lateral generate_series(1, cardinality(k.used) + k.wanted) g (slot)
      where g.slot <> all (k.used)
    ),
    promoted as (
      update job_queue j
      set ordering_slot = s.slot, updated_at = clock_timestamp()
      from turn t join slots s on s.ordering_key = t.ordering_key and s.nth = t.nth
      where t.is_next and j.job_id = t.job_id
      returning j.executor, j.job_kind, j.scheduled_at
    )
    select array_agg(distinct p.executor::text) as executors, array_agg(distinct p.job_kind::text) as kinds, count(*) as jobs into v_woken
    from promoted p
    where p.scheduled_at <= clock_timestamp();
    perform fn_job_wake(e, v_woken.kinds, v_woken.jobs) from unnest(v_woken.executors) e;
  end if;
  if cardinality(v_mine) is distinct from cardinality(p_keys) then
    insert into job_order_pending (ordering_key) select distinct k from unnest(p_keys) k where k <> all (coalesce(v_mine, '{}'));
    if p_wake then -- somebody claims, and looks at them
      perform fn_job_wake(x.executor)
      from (
        select distinct b.executor
        from unnest(p_keys) k
        cross join lateral (
          select j.executor from job_queue j
          where j.ordering_key = k and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
          order by coalesce(j.freed_at, j.created_at), j.job_id limit 1) b) x;
    end if;
  end if;
end
$$;
comment on function fn_job_promote(text[], boolean) is 'Gives the next jobs of ordering keys their turn. Internal.';

-- A step that waits for others holds no place in the order of its key: what it waits for may need that key itself, or take days. It
-- is placed from the moment at which it is free; one that is blocked again gives its turn away.
create or replace function fn_job_order_blocked() returns trigger
language plpgsql set search_path from current
set enable_seqscan = off set jit = off
as $$
begin
  if tg_op = 'INSERT' then
    new.ordering_slot := -1;
    return new;
  elsif new.blocked_by = 0 then
    -- by way of the keys and not of new jobs: those are looked for by their age, from a mark on that it may be older than
    update job_queue j set ordering_slot = 0, freed_at = clock_timestamp() where j.job_id = new.job_id and j.ordering_slot = -1;
    if found then
      insert into job_order_pending (ordering_key) values (new.ordering_key);
    end if;
  else
    update job_queue j set ordering_slot = -1 where j.job_id = new.job_id;
    if new.ordering_slot > 0 then
      insert into job_order_pending (ordering_key) values (new.ordering_key);
    end if;
  end if;
  return null;
end
$$;
comment on function fn_job_order_blocked() is 'Trigger: keeps steps that are blocked out of the order of their key.';
revoke all on function fn_job_order_blocked() from public;
create or replace trigger job_queue_order_begins
before insert on job_queue
for each row
when (new.blocked_by > 0 and new.ordering_key is not null)
execute function fn_job_order_blocked();
-- after the row, as job_queue_moves
create or replace trigger job_queue_order_blocked
after update of blocked_by on job_queue
for each row
when (new.ordering_key is not null and new.status = 'queued' and (new.blocked_by > 0) is distinct from (old.blocked_by > 0))
execute function fn_job_order_blocked();

-- How many jobs of one ordering key may run at a time, as their kind says; 1000 at most.
create or replace function fn_job_key_limit(p_job_kind text) returns int
language plpgsql stable set search_path from current
as $$
begin
  return greatest(1, least(1000, fn_config_number('job.' || p_job_kind || '.key_concurrency_limit', 1)))::int;
end
$$;
comment on function fn_job_key_limit(text) is 'job.<kind>.key_concurrency_limit; 1 if it is not set.';

-- Whether any kind lets more than one job of an ordering key run.
create or replace function fn_job_keys_are_limited() returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return exists (select from dot_config c where c.key like 'job.%.key\_concurrency\_limit');
end
$$;
comment on function fn_job_keys_are_limited() is 'Whether some job.<kind>.key_concurrency_limit is set.';

-- Places new jobs that have an ordering key, behind the others of it, the oldest p_limit first, and sees to the keys that
-- fn_job_promote left for later. Called by claims that see such jobs or keys; what somebody else has locked is left.
create or replace function fn_job_place(p_limit int, p_from timestamptz) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_keys text[];
  v_pending text[];
begin
  with placed as (
    update job_queue j set ordering_slot = 0
    where j.job_id = any (array(
      select q.job_id from job_queue q
      where q.ordering_key is not null and q.ordering_slot is null and q.status = 'queued' and q.created_at >= p_from
      order by q.created_at, q.job_id limit p_limit for update skip locked))
    returning j.ordering_key
  )
  select coalesce(array_agg(distinct p.ordering_key), '{}') into v_keys from placed p;
  with seen as (
    delete from job_order_pending p
    where p.ctid = any (array(select o.ctid from job_order_pending o limit 1000 for update skip locked))
    returning p.ordering_key
  )
  select coalesce(array_agg(distinct s.ordering_key), '{}') into v_pending from seen s;
  perform fn_job_promote(array(select distinct k from unnest(v_keys || v_pending) k), false);
end
$$;
comment on function fn_job_place(int, timestamptz) is 'Places new jobs that have an ordering key behind the others of it. Internal.';

-- Places what waits to be placed, also where nobody claims: a job that nobody sees must not be silent. Called by the
-- housekeeper.
create or replace function fn_job_order_sweep() returns void
language plpgsql volatile security definer set search_path from current
as $$
begin
  perform fn_job_place(1000, '-infinity');
end
$$;
comment on function fn_job_order_sweep() is 'Places new jobs that have an ordering key, up to 1000.';
revoke all on function fn_job_order_sweep() from public;
call pr_grant(format('execute on function %s', 'fn_job_order_sweep()'::regprocedure), array['reveille_dispatcher']);

-- What follows when jobs have ended, or have given up their place: the next of their ordering keys get their turn, and
-- an executor that sleeps learns that a limited kind has room.
create or replace function fn_job_make_room(p_ordering_key text, p_limit_slot int, p_executor text, p_job_kind text) returns void
language plpgsql volatile set search_path from current
as $$
begin
  if p_ordering_key is not null then
    perform fn_job_promote(array[p_ordering_key]);
  end if;
  if p_limit_slot is not null then
    perform fn_job_wake(p_executor, array[p_job_kind]);
  end if;
end
$$;
comment on function fn_job_make_room(text, int, text, text) is 'The next of an ordering key, and a wake-up for a limited kind. Internal.';

-- The first waiting job of every lane and priority of a kind of executor, due or not, by steps of one index entry each:
-- what lies behind a head costs nothing. With marks (places in some lanes before which nothing was left) it begins
-- there, and looks between them for lanes that are new, one in each gap.
create or replace function fn_job_lanes(p_executor text, p_marks job_lane[] default null) returns setof job_lane
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
begin
  if p_marks is null then
    return query
    with recursive heads as (
      (select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at, j.job_id
       from job_queue j where j.executor = p_executor and j.claimable
       order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1)
      union all
      select n.*
      from heads h
      cross join lateral (
        select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at, j.job_id
        from job_queue j where j.executor = p_executor and j.claimable and (j.lane, j.priority) > (h.lane, h.priority)
        order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1) n
    )
    select h.lane, h.priority::int, h.job_kind::text, h.event_domain, h.consumer_key, h.scheduled_at, h.job_id, null::int, null::real
    from heads h;
    return;
  end if;
  return query
  select n.lane, n.priority::int, n.job_kind::text, n.event_domain, n.consumer_key, n.scheduled_at, n.job_id, null::int, null::real
  from unnest(p_marks) m
  cross join lateral (
    select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = m.lane and j.priority = m.priority
      and (j.scheduled_at, j.job_id) > (m.scheduled_at, m.job_id)
    order by j.scheduled_at, j.job_id limit 1) n
  union all
  -- single bounds: a scan does not end where the second column of a compared row no longer fits (Postgres 15)
  select n.lane, n.priority::int, n.job_kind::text, n.event_domain, n.consumer_key, n.scheduled_at, n.job_id, null, null
  from (
    select m.lane, m.priority, lead(m.lane, 1, 9223372036854775807) over w as next_lane, lead(m.priority, 1, 2147483647) over w as next_priority
    from (select u.lane, u.priority from unnest(p_marks) u union all select (-9223372036854775808)::bigint, -1) m
    window w as (order by m.lane, m.priority)) g
  cross join lateral (
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane > g.lane and j.lane < g.next_lane
    order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1)
    union all
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = g.lane and j.priority > g.priority
      and j.priority < case when g.next_lane = g.lane then g.next_priority else 2147483647 end
    order by j.priority, j.scheduled_at, j.job_id limit 1)
    union all
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = g.next_lane and j.priority < g.next_priority and g.next_lane <> g.lane
    order by j.priority, j.scheduled_at, j.job_id limit 1)) n;
end
$$;
comment on function fn_job_lanes(text, job_lane[]) is 'The first waiting job of each lane and priority of a kind of executor. Internal.';

-- What of a kind of executor is due: the oldest moment, and how many, counted up to 1000 in each lane and priority.
create or replace function fn_job_due(p_executor text) returns table (due bigint, oldest timestamptz)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
  return query
  select coalesce(sum(n.due), 0)::bigint, min(l.scheduled_at)
  from fn_job_lanes(p_executor) l
  cross join lateral (
    select count(*) as due
    from (
      select from job_queue j
      where j.executor = p_executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= clock_timestamp()
      limit 1000) d) n
  where l.scheduled_at <= clock_timestamp();
end
$$;
comment on function fn_job_due(text) is 'How many jobs of a kind of executor are due (up to 1000 a lane), and since when. Called by v_queue_health.';
revoke all on function fn_job_due(text) from public;
call pr_grant(format('execute on function %s', 'fn_job_due(text)'::regprocedure),
  array['reveille_reader', 'reveille_operator', 'reveille_dispatcher', 'reveille_executor']);

-- Where a session's claims go on. A session that holds a snapshot open all day keeps every claimed job's index entry from
-- being cleaned away; a scan from the head of a lane would pass over more of them at every claim. So when the scan of
-- the heads passed over more than 1000, the session keeps, in a setting of its own, how far it came in each lane, and begins
-- there, until twenty times that scan's length have passed: then it looks from the head again, for what came back or
-- was committed late below the mark, or 10 s at most: up to a scan of half a second that is 5 % of the time.
create or replace function fn_job_claim_marks(p_executor text, p_now timestamptz, out marks job_lane[], out stand boolean) returns record
language plpgsql stable set search_path from current
as $$
declare
  v_text text := current_setting('reveille.claim_marks', true);
  v_parts text[];
begin
  stand := false;
  if coalesce(v_text, '') !~ '^[A-Za-z_]+;[0-9]{1,15};(-?[0-9]{1,18}[0-9]?,[0-9]{1,5},-?[0-9]{1,17},[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12};)*$' then
    return;
  end if;
  v_parts := string_to_array(rtrim(v_text, ';'), ';');
  if v_parts[1] <> p_executor then
    return;
  end if;
  stand := v_parts[2]::bigint > fn_epoch_ms(p_now);
  marks := array(
    select row(
      split_part(m, ',', 1)::bigint, split_part(m, ',', 2)::int, null, null, null,
      'epoch'::timestamptz + split_part(m, ',', 3)::bigint * interval '1 microsecond', split_part(m, ',', 4)::uuid, null, null)::job_lane
    from unnest(v_parts[3:]) m);
end
$$;
comment on function fn_job_claim_marks(text, timestamptz) is 'How far this session''s claims came in each lane, and whether the next one goes on from there. Internal.';

-- Keeps how far a claim came: in each lane the last of the places known, but no place of the last 100 ms, in which most late
-- commits happen; a lane that is empty now, has nothing before that. While old marks stand they stand as long as they did.
create or replace function fn_job_claim_mark(
  p_executor text, p_now timestamptz, p_cost interval, p_stand boolean, p_marks job_lane[], p_heads job_lane[], p_lanes job_lane[])
returns void
language plpgsql volatile set search_path from current
as $$
begin
  perform set_config('reveille.claim_marks', format('%s;%s;%s', p_executor,
    case when p_stand then split_part(current_setting('reveille.claim_marks', true), ';', 2)
      else fn_epoch_ms(p_now + least(20 * p_cost, interval '10 seconds'))::text end, (
    select string_agg(format('%s,%s,%s,%s;', m.lane, m.priority, (extract(epoch from m.scheduled_at) * 1000000)::bigint, m.job_id), '')
    from (
      select distinct on (c.lane, c.priority) c.*
      from (
        select p.lane, p.priority, least(p.scheduled_at, p_now - interval '100 milliseconds') as scheduled_at,
          case when p.scheduled_at < p_now - interval '100 milliseconds' then p.job_id
            else '00000000-0000-0000-0000-000000000000' end as job_id
        from (
          select l.lane, l.priority, l.scheduled_at, l.job_id from unnest(p_lanes) l
          union all
          select h.lane, h.priority, h.scheduled_at, '00000000-0000-0000-0000-000000000000' from unnest(p_heads) h
          union all
          select k.lane, k.priority, case
              when exists (select from unnest(p_heads) h where h.lane = k.lane and h.priority = k.priority) then k.scheduled_at else p_now end, k.job_id
          from unnest(p_marks) k) p) c
      order by c.lane, c.priority, c.scheduled_at desc, c.job_id desc) m)), false);
end
$$;
comment on function fn_job_claim_mark(text, timestamptz, interval, boolean, job_lane[], job_lane[], job_lane[]) is 'Keeps how far this session''s claims came. Internal.';

-- What a claim may look into, in its order: not paused, subscribed, of the kinds asked for, due. Lanes of the most urgent
-- priority come first, and with them whatever has waited so long that its age has carried it there: a step of priority each
-- queue.priority.aging_seconds (10; 0 is never), so that the last priority moves, too. What has only aged gets no more than
-- half of what a claim takes, as long as there is anything of that priority itself.
create or replace function fn_job_lanes_open(
  p_heads job_lane[], p_executor_name text, p_job_kinds text[], p_paused text[], p_is_subscribed boolean, p_aging_seconds numeric,
  p_now timestamptz)
returns setof job_lane
language plpgsql stable set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
  return query
  select l.lane, l.priority, l.job_kind, l.event_domain, l.consumer_key, l.scheduled_at, '00000000-0000-0000-0000-000000000000'::uuid, l.rank,
    (l.share * case when l.priority > l.rank then least(1, coalesce(
      sum(l.share) filter (where l.priority = l.rank) over w / sum(l.share) filter (where l.priority > l.rank) over w, 1)) else 1 end)::real
  from (
    select d.*, greatest(min(d.priority) over (),
      d.priority - case when p_aging_seconds > 0 then least(32767, floor(extract(epoch from p_now - d.scheduled_at) / p_aging_seconds)) else 0 end)::int as rank
    from (
      select h.lane, h.priority, h.job_kind, h.event_domain, h.consumer_key, h.scheduled_at,
        case when p_is_subscribed then (
          select max(s.share) from job_subscription s
          where p_executor_name like s.executor_name_like and h.job_kind like s.job_kind_like
            and s.event_domain in ('*', h.event_domain) and (s.priority_floor is null or h.priority <= s.priority_floor))
        else 1 end as share
      from unnest(p_heads) h
      where h.scheduled_at <= p_now
        and (p_job_kinds is null or h.job_kind = any (p_job_kinds))
        and (p_paused is null
          or not p_paused && array['job_kind:' || h.job_kind, 'domain:' || h.event_domain, 'consumer:' || h.consumer_key])) d
    where d.share is not null) l
  window w as (partition by l.rank)
  order by l.rank, l.lane, l.priority;
end
$$;
comment on function fn_job_lanes_open(job_lane[], text, text[], text[], boolean, numeric, timestamptz)
  is 'Those of the lanes that an executor may claim from now, in the order of its claim. Internal.';

-- Looks, for a claim, whether there are jobs of ordering keys to be placed, or keys to be seen to. A held snapshot keeps the
-- entries of those that were placed: when more than 1000 were passed over, the session goes on from a mark of its own for
-- twenty times as long as that took, as it does with the lanes.
create or replace function fn_job_see_to_order(p_limit int, p_now timestamptz) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_mark text := current_setting('reveille.order_mark', true);
  v_from timestamptz := '-infinity';
  v_walked bigint := pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass);
  v_begun timestamptz;
begin
  if v_mark ~ '^[0-9]{1,15};[0-9]{1,15}$' and split_part(v_mark, ';', 1)::bigint > fn_epoch_ms(p_now) then
    v_from := to_timestamp(split_part(v_mark, ';', 2)::bigint / 1000.0);
  end if;
  if exists (
      select from job_queue j
      where j.ordering_key is not null and j.ordering_slot is null and j.status = 'queued' and j.created_at >= v_from)
    or exists (select from job_order_pending)
  then
    perform fn_job_place(least(1000, 10 + 2 * least(p_limit, 1000)), v_from);
  elsif pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) - v_walked > 1000 then
    v_begun := clock_timestamp();
    perform set_config('reveille.order_mark', format('%s;%s',
      fn_epoch_ms(v_begun + least(20 * (v_begun - p_now), interval '10 seconds')), fn_epoch_ms(p_now - interval '1 second')), false);
  end if;
end
$$;
comment on function fn_job_see_to_order(int, timestamptz) is 'Places jobs of ordering keys, if there are any to be placed. Internal.';

-- A limit as it is written: `30/60` is 30 in any 60 seconds, `30` is 30 (a second, for a rate). Anything else is none at all.
create or replace function fn_rate_parts(p_limit text, out jobs int, out span interval) returns record
language plpgsql immutable set search_path from current
as $$
begin
  jobs := case when p_limit ~ '^[0-9]{1,9}(/[0-9]{1,7})?$' then split_part(p_limit, '/', 1)::int else 0 end;
  span := make_interval(secs => case when p_limit ~ '^[0-9]{1,9}/[0-9]{1,7}$' then greatest(1, split_part(p_limit, '/', 2)::int) else 1 end);
end
$$;
comment on function fn_rate_parts(text) is 'A limit `jobs/seconds` as number and interval; 0 jobs when it cannot be read.';

-- Free places of a kind with job.<kind>.concurrency_limit, locked for this transaction, besides those that it has: at most 100,
-- of the first 10000. Claims take different ones at the same time, none waits, and one that is rolled back has taken none.
create or replace function fn_job_limit_slots(p_job_kind text, p_limit int, p_wanted int, p_have int[]) returns int[]
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_class int := hashtext(format('reveille.limit:%s:%s', current_schema(), p_job_kind));
  v_slots int[];
begin
  v_slots := array(
    select f.slot
    from (
      select g as slot from generate_series(1, least(p_limit, 10000)) g
      where g <> all (p_have)
        and not exists (select from job_queue j where j.job_kind = p_job_kind and j.limit_slot = g and j.lease_until is not null)
      offset 0) f
    where pg_try_advisory_xact_lock(v_class, f.slot)
    limit least(p_wanted, 100));
  -- once more, now that they are locked: whoever had them a moment ago may have committed
  return array(
    select u.slot from unnest(v_slots) u (slot)
    where not exists (
      select from job_queue j where j.job_kind = p_job_kind and j.limit_slot = u.slot and j.lease_until is not null));
end
$$;
comment on function fn_job_limit_slots(text, int, int, int[]) is 'Free places of a kind with a concurrency limit, locked. Internal.';

-- Of rows that a claim has locked, those that the rate limit of their ordering key lets pass, counted towards it; the others
-- get the moment at which it will. The caller holds the lock of the kind's rates.
create or replace function fn_job_limit_keys(p_rows tid[], p_job_kind text, p_rate text, p_now timestamptz) returns tid[]
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_rate record := fn_rate_parts(p_rate);
  v_late tid[];
begin
  with candidate as materialized (
    select u.row, p_job_kind || ' ' || j.ordering_key as rate_key, row_number() over (partition by j.ordering_key order by u.n) as nth
    from unnest(p_rows) with ordinality as u (row, n)
    cross join lateral (select q.ordering_key from job_queue q where q.ctid = u.row and q.ordering_key is not null offset 0) j
  ),
  judged as materialized (
    select c.row, c.rate_key, w.used + c.nth > v_rate.jobs as is_late,
      case when v_rate.jobs = 0 then p_now + interval '1 minute'
        else greatest(p_now + interval '1 millisecond', coalesce(w.oldest, p_now) + v_rate.span) end as at
    from candidate c
    cross join lateral (
      select coalesce(sum(t.jobs), 0) as used, min(t.claimed_at) as oldest
      from job_rate t where t.rate_key = c.rate_key and t.claimed_at > p_now - v_rate.span) w
  ),
  counted as (
    insert into job_rate (rate_key, claimed_at, jobs)
    select g.rate_key, p_now, count(*) from judged g where not g.is_late group by g.rate_key
  ),
  moved as (
    update job_queue j set scheduled_at = g.at from judged g where g.is_late and j.ctid = g.row
    returning g.row
  )
  select array_agg(m.row) into v_late from moved m;
  return case when v_late is null then p_rows else array(
    select u.row from unnest(p_rows) with ordinality as u (row, n) where u.row <> all (v_late) order by u.n) end;
end
$$;
comment on function fn_job_limit_keys(tid[], text, text, timestamptz) is 'Those of the locked rows that the rates of their keys let pass. Internal.';

-- Takes jobs of a lane whose kind has limits: as many as places and rates allow. Places are taken at the same time by
-- several claims; into a kind with a rate only one claim at a time looks, the others get none of it and look again at
-- their next poll. What cannot be read as a limit lets nothing pass. `passed` counts what was taken or put off.
create or replace function fn_job_take_limited(
  p_executor text, p_lane job_lane, p_quota int, p_limits jsonb, p_now timestamptz, p_have int[],
  out rows tid[], out slots int[], out passed int, out scheduled_at timestamptz, out job_id uuid)
returns record
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_concurrency text := p_limits ->> ('job.' || (p_lane).job_kind || '.concurrency_limit');
  v_rate text := p_limits ->> ('job.' || (p_lane).job_kind || '.rate_limit');
  v_key_rate text := p_limits ->> ('job.' || (p_lane).job_kind || '.key_rate_limit');
  v_room int := p_quota;
begin
  passed := 0;
  if coalesce(v_rate, v_key_rate) is not null then
    if not pg_try_advisory_xact_lock(hashtextextended(format('reveille.rate:%s:%s', current_schema(), (p_lane).job_kind), 0)) then
      return;
    end if;
    if v_rate is not null then
      v_room := least(v_room, (fn_rate_parts(v_rate)).jobs - (
        select coalesce(sum(r.jobs), 0) from job_rate r
        where r.rate_key = (p_lane).job_kind and r.claimed_at > p_now - (fn_rate_parts(v_rate)).span));
    end if;
  end if;
  if v_concurrency is not null and v_room > 0 then
    slots := fn_job_limit_slots((p_lane).job_kind, (fn_rate_parts(v_concurrency)).jobs, v_room, p_have);
    v_room := cardinality(slots);
  end if;
  if v_room <= 0 then
    return;
  end if;
  select array_agg(t.ctid), (array_agg(t.scheduled_at))[count(*)], (array_agg(t.job_id))[count(*)], count(*)::int
  into rows, scheduled_at, job_id, passed
  from (
    select j.ctid, j.scheduled_at, j.job_id
    from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = (p_lane).lane and j.priority = (p_lane).priority
      and (j.scheduled_at, j.job_id) > ((p_lane).scheduled_at, (p_lane).job_id) and j.scheduled_at <= p_now
    order by j.scheduled_at, j.job_id
    limit v_room
    for update skip locked) t;
  if v_key_rate is not null and passed > 0 then
    rows := fn_job_limit_keys(rows, (p_lane).job_kind, v_key_rate, p_now);
  end if;
  if v_rate is not null and cardinality(rows) > 0 then
    insert into job_rate (rate_key, claimed_at, jobs) values ((p_lane).job_kind, p_now, cardinality(rows));
  end if;
  slots := slots[1:cardinality(rows)];
end
$$;
comment on function fn_job_take_limited(text, job_lane, int, jsonb, timestamptz, int[]) is 'Takes jobs of a lane whose kind has limits. Internal.';

-- Whether an executor that has subscriptions may claim at least one of these kinds.
create or replace function fn_executor_is_subscribed(p_executor_name text, p_job_kinds text[]) returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return exists (
    select from job_subscription s
    where p_executor_name like s.executor_name_like and exists (select from unnest(p_job_kinds) k where k like s.job_kind_like));
end
$$;
comment on function fn_executor_is_subscribed(text, text[]) is 'Whether one of the kinds is within an executor''s subscriptions. Internal.';

-- Which jobs a claim takes when there is something to choose from or to be counted: lanes, subscriptions, pauses, limits.
-- Locks the rows; the claim that called leases them in its next statement.
create or replace function fn_job_choose(
  p_executor_name text, p_limit int, p_job_kinds text[], p_executor_kind text, p_paused text[], p_is_subscribed boolean,
  p_aging_seconds numeric, out reason text, out job_rows tid[], out limit_slots int[], out others_wait boolean)
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_marks job_lane[];
  v_stand boolean := false;
  v_heads job_lane[];
  v_lanes job_lane[];
  v_lane job_lane;
  v_limits jsonb;
  v_left int := p_limit;
  v_first int := 1;
  v_next int;
  v_shares real;
  v_round int;
  v_sum double precision;
  v_quota int;
  v_have jsonb := '{}';
  v_taken record;
  v_begun timestamptz;
  v_cost interval;
  v_walked bigint;
begin
  job_rows := '{}';
  if coalesce(current_setting('reveille.claim_marks', true), '') <> '' then
    select m.marks, m.stand into v_marks, v_stand from fn_job_claim_marks(p_executor_kind, v_now) m;
  end if;
  v_begun := clock_timestamp();
  v_walked := pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass);
  v_heads := array(select l from fn_job_lanes(p_executor_kind, case when v_stand then v_marks end) l);
  v_walked := pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass) - v_walked - cardinality(v_heads);
  v_cost := clock_timestamp() - v_begun;
  v_lanes := array(
    select l from fn_job_lanes_open(v_heads, p_executor_name, p_job_kinds, p_paused, p_is_subscribed, p_aging_seconds, v_now) l);
  if cardinality(v_lanes) > 0 then
    v_limits := (
      select jsonb_object_agg(c.key, c.value)
      from dot_config c
      where c.key = any (array(
        select 'job.' || k.job_kind || n.name
        from unnest(v_lanes) k
        cross join unnest(array['.concurrency_limit', '.rate_limit', '.key_rate_limit']) n (name))));
  elsif p_is_subscribed and p_job_kinds is not null and not fn_executor_is_subscribed(p_executor_name, p_job_kinds) then
    reason := 'not_subscribed';
    return;
  end if;

  -- one rank after the other; within a rank in rounds, until there is no room or nothing left. Of x.y jobs a lane gets x or
  -- x + 1, by a lot that all draw together: the sum fits, and on the average each gets its share, also of one job
  while v_first <= cardinality(v_lanes) and v_left > 0 loop
    v_next := v_first;
    while v_next <= cardinality(v_lanes) and (v_lanes[v_next]).rank = (v_lanes[v_first]).rank loop
      v_next := v_next + 1;
    end loop;
    loop
      v_shares := 0;
      for v_i in v_first .. v_next - 1 loop
        v_shares := v_shares + (v_lanes[v_i]).share;
      end loop;
      exit when v_shares = 0 or v_left = 0;
      v_round := v_left;
      v_sum := random();
      for v_i in v_first .. v_next - 1 loop
        v_lane := v_lanes[v_i];
        continue when v_lane.share = 0; -- it has no more
        exit when v_left = 0;
        v_quota := least(v_left, floor(v_sum + v_round * (v_lane.share / v_shares)) - floor(v_sum));
        v_sum := v_sum + v_round * (v_lane.share / v_shares);
        continue when v_quota = 0;
        if v_limits is not null and v_limits ?| array[
            'job.' || v_lane.job_kind || '.concurrency_limit', 'job.' || v_lane.job_kind || '.rate_limit',
            'job.' || v_lane.job_kind || '.key_rate_limit'] then
          select * into v_taken
          from fn_job_take_limited(p_executor_kind, v_lane, v_quota, v_limits, v_now,
            array(select h::int from jsonb_array_elements_text(v_have -> v_lane.job_kind) h)) t;
          v_have := v_have || jsonb_build_object(v_lane.job_kind, coalesce(v_have -> v_lane.job_kind, '[]') || coalesce(to_jsonb(v_taken.slots), '[]'));
        else
          select array_agg(t.ctid) as rows, null::int[] as slots, count(*)::int as passed, (array_agg(t.scheduled_at))[count(*)] as scheduled_at,
            (array_agg(t.job_id))[count(*)] as job_id
          into v_taken
          from (
            select j.ctid, j.scheduled_at, j.job_id
            from job_queue j
            where j.executor = p_executor_kind and j.claimable and j.lane = v_lane.lane and j.priority = v_lane.priority
              and (j.scheduled_at, j.job_id) > (v_lane.scheduled_at, v_lane.job_id) and j.scheduled_at <= v_now
            order by j.scheduled_at, j.job_id
            limit v_quota
            for update skip locked) t;
        end if;
        if cardinality(v_taken.rows) > 0 then
          job_rows := job_rows || v_taken.rows;
          v_left := v_left - cardinality(v_taken.rows);
          if v_limits is not null then
            limit_slots := limit_slots || coalesce(v_taken.slots, array_fill(null::int, array[cardinality(v_taken.rows)]));
          end if;
        end if;
        if v_taken.passed < v_quota then
          v_lane.share := 0;
        else
          v_lane.scheduled_at := v_taken.scheduled_at;
          v_lane.job_id := v_taken.job_id;
        end if;
        v_lanes[v_i] := v_lane;
      end loop;
    end loop;
    v_first := v_next;
  end loop;

  if v_stand or v_walked > 1000 then
    perform fn_job_claim_mark(p_executor_kind, v_now, v_cost, v_stand, v_marks, v_heads, v_lanes);
  elsif v_marks is not null then
    perform set_config('reveille.claim_marks', '', false);
  end if;
  others_wait := cardinality(v_lanes) < (select count(*) from unnest(v_heads) h where h.scheduled_at <= v_now);
end
$$;
comment on function fn_job_choose(text, int, text[], text, text[], boolean, numeric)
  is 'The rows that a claim leases, with the places of their limits, and whether jobs wait that it may not take. Internal.';

-- Claims up to p_limit jobs for a registered executor with a live heartbeat, the most urgent ones, and each gets a fresh
-- lease token. The rows come in no order: sort them by priority, scheduled_at and job_id where it matters. A refusal is one
-- row, nothing to do is none; others_wait says that there may be jobs which this claim was not to take.
-- With p_instance it is refused as executor_alive once another process
-- beats under the name. Called by workers.
--
-- What one claim may not take (paused, not subscribed, over a limit) it passes by with one step for each lane; what waits
-- for its time, its dependencies or its turn is behind the heads of the lanes or not in the index at all. Lanes that
-- are equally urgent share p_limit; what one does not use goes to the others.
--
-- The rows are locked and collected in an array first: a LIMIT that the planner cannot see inside UPDATE … FROM becomes
-- a sequential scan (trap 15). Their ctid serves as long as this transaction holds them. The settings keep one plan,
-- along the ready index, also when the statistics are those of an empty table. The token is the moment of the claim in
-- microseconds and ten random bits, so that nobody guesses it: it grows with every claim of a job, and when a crash
-- forgets a claim that did not wait for the disk, its token does not come again, as one of a sequence could.
create or replace function fn_job_claim(
  p_executor_name text,
  p_limit int default 1,
  p_lease_seconds int default null,
  p_job_kinds text[] default null,
  p_instance text default null
) returns table (
  refused boolean, reason text, job_id uuid, job_kind text, lease_token bigint, lease_until timestamptz, status text, executor text,
  event_domain text, source_ref text, target_ref text, payload_ref text, safe_payload jsonb, priority int, scheduled_at timestamptz,
  attempts int, max_attempts int, idempotency_key text, ordering_key text, actor text, run_id uuid, workflow_id uuid,
  causation_event_id uuid, consumer_key text, correlation_id text, traceparent text, created_at timestamptz, policy jsonb,
  others_wait boolean)
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_look record;
  v_rows tid[];
  v_slots int[];
  v_others_wait boolean;
begin
  -- Whatever a claim has to know, in one statement, and no variable more than needed: an expression of plpgsql costs as much
  -- as a look into an index. What is plain, one lane and nothing to be counted, the UPDATE takes by itself.
  select a.*, h.*, clock_timestamp() as now, least(86400, coalesce(p_lease_seconds, a.lease_seconds)) as seconds,
    (date_part('epoch', clock_timestamp()) * 1000000)::bigint * 1024 + (random() * 1023)::bigint as token,
    b.is_unmarked
      and not exists (select from job_queue j where j.ordering_key is not null and j.ordering_slot is null and j.status = 'queued')
      and not exists (select from job_order_pending)
      and pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass)
        + pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) - b.walked <= 1000 -- asked last
      as is_settled,
    coalesce(h.scheduled_at <= clock_timestamp() and (p_job_kinds is null or h.job_kind = any (p_job_kinds)), true)
      and not exists (
        select from job_queue n
        where n.executor = a.executor_kind and n.claimable and (n.lane, n.priority) > (h.lane, h.priority))
      and not exists (
        select from dot_config c
        where c.key = any (array['job.' || h.job_kind || '.concurrency_limit', 'job.' || h.job_kind || '.rate_limit',
          'job.' || h.job_kind || '.key_rate_limit']))
      and coalesce(not a.paused && array['job_kind:' || h.job_kind, 'domain:' || h.event_domain, 'consumer:' || h.consumer_key], true)
      and current_setting('transaction_isolation') = 'read committed' as is_plain
  into v_look
  from (
    select coalesce(current_setting('reveille.claim_marks', true), '') || coalesce(current_setting('reveille.order_mark', true), '') = '' as is_unmarked,
      pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass)
        + pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) as walked
    offset 0) b
  cross join lateral fn_executor_admission(p_executor_name, p_instance) a
  left join lateral (
    select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at
    from job_queue j
    where j.executor = a.executor_kind and j.claimable and b.is_unmarked -- and so after b
    order by j.lane, j.priority, j.scheduled_at, j.job_id
    limit 1) h on true;

  if (v_look.reason is null and v_look.is_settled and v_look.is_plain and not v_look.is_subscribed
    and p_limit >= 1 and v_look.seconds >= 1) is not true
  then
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'fn_job_claim needs READ COMMITTED: with an older snapshot limits and orders could not be kept' using errcode = '25001';
    end if;
    if p_limit is null or p_limit < 1 or v_look.seconds < 1 then
      raise exception 'fn_job_claim: p_limit and p_lease_seconds must be at least 1' using errcode = '22023';
    end if;
    if v_look.reason is null then
      if not v_look.is_settled then
        perform fn_job_see_to_order(p_limit, v_look.now);
      end if;
      select c.reason, c.job_rows, c.limit_slots, c.others_wait into v_look.reason, v_rows, v_slots, v_others_wait
      from fn_job_choose(p_executor_name, p_limit, p_job_kinds, v_look.executor_kind, v_look.paused, v_look.is_subscribed, v_look.aging_seconds) c;
    end if;
    if v_look.reason is not null then
      return query select true, v_look.reason, null::uuid, null::text, null::bigint, null::timestamptz, null::text, null::text,
        null::text, null::text, null::text, null::text, null::jsonb, null::int, null::timestamptz, null::int, null::int, null::text,
        null::text, null::text, null::uuid, null::uuid, null::uuid, null::text, null::text, null::text, null::timestamptz, null::jsonb,
        null::boolean;
      return;
    end if;
    if cardinality(v_rows) = 0 then
      return;
    end if;
  end if;

  return query
  update job_queue j
  set status = 'leased',
      lease_owner = p_executor_name,
      lease_token = greatest(v_look.token, j.lease_token + 1),
      lease_until = clock_timestamp() + make_interval(secs => v_look.seconds),
      limit_slot = v_slots[array_position(v_rows, j.ctid)],
      picked_at = clock_timestamp(), -- after this statement's snapshot: what had to end first, ended before
      started_at = null,
      updated_at = clock_timestamp()
  where j.ctid = any (case when v_rows is null then array(
    select q.ctid
    from job_queue q
    where q.executor = v_look.executor_kind and q.claimable and q.lane = v_look.lane and q.priority = v_look.priority
      and q.scheduled_at between v_look.scheduled_at and v_look.now
    order by q.scheduled_at, q.job_id
    limit p_limit
    for update skip locked) else v_rows end)
  returning false, null::text, j.job_id, j.job_kind::text, j.lease_token, j.lease_until, j.status::text, j.executor::text, j.event_domain,
    j.source_ref, j.target_ref, j.payload_ref, j.safe_payload::jsonb, j.priority::int, j.scheduled_at, j.attempts::int, j.max_attempts::int,
    j.idempotency_key::text, j.ordering_key, j.actor::text, j.run_id, j.workflow_id, j.causation_event_id, j.consumer_key, j.correlation_id,
    j.traceparent, j.created_at, j.policy, coalesce(v_others_wait, false);
end
$$;
comment on function fn_job_claim(text, int, int, text[], text)
  is 'Leases jobs to an executor: rows (refused, reason, job columns with lease_token); a refusal is one row, nothing to do is none.';

-- Whether this session may report on what was leased under that name: whoever may claim under it. A name that nobody
-- owns any more is free: its token alone decides.
create or replace function fn_lease_is_ours(p_lease_owner text) returns boolean
language plpgsql stable set search_path from current
as $$
begin
  return coalesce((select fn_executor_is_ours(h.owner_role) from queue_heartbeat h where h.executor_name = p_lease_owner), true);
end
$$;
comment on function fn_lease_is_ours(text) is 'Whether the session''s role may report for the executor that holds a lease.';

-- A wake-up that somebody was named in goes on. Without room: is there still something to claim, one other executor that
-- takes it is woken. With room, but nothing more that it may take: is there something of other kinds, one that takes them is
-- woken; is there something that only others may (job_subscription, a pause of this executor), all are. Tells whether there was. Called by workers, when they fill up and when they
-- were named in vain.
create or replace function fn_job_pass_on(p_executor_name text, p_instance text, p_job_kinds text[], p_has_room boolean) returns boolean
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_admission record;
  v_marks job_lane[];
  v_stand boolean := false;
  v_heads job_lane[];
  v_lanes job_lane[];
  v_others text[];
  v_own int;
begin
  select * into v_admission from fn_executor_admission(p_executor_name, p_instance) a;
  if v_admission.executor_kind is null or v_admission.reason is not null and v_admission.reason <> 'paused'
    or v_admission.paused && array['all:', 'executor:' || v_admission.executor_kind]
  then
    return false;
  end if;
  if coalesce(current_setting('reveille.claim_marks', true), '') <> '' then
    select m.marks, m.stand into v_marks, v_stand from fn_job_claim_marks(v_admission.executor_kind, v_now) m;
  end if;
  v_heads := array(select l from fn_job_lanes(v_admission.executor_kind, case when v_stand then v_marks end) l);
  v_lanes := array(select l from fn_job_lanes_open(v_heads, p_executor_name, null, v_admission.paused, false, 0, v_now) l);
  if cardinality(v_lanes) = 0 then
    return false;
  end if;
  if not p_has_room then
    perform fn_job_wake(v_admission.executor_kind, array(select distinct l.job_kind from unnest(v_lanes) l), 1, p_executor_name);
    return true;
  end if;
  v_others := array(select distinct l.job_kind from unnest(v_lanes) l where l.job_kind <> all (p_job_kinds));
  v_own := (select count(*) from unnest(v_lanes) l where l.job_kind = any (p_job_kinds));
  if v_admission.reason is not null or v_own > (
    select count(*) from fn_job_lanes_open(v_heads, p_executor_name, p_job_kinds, v_admission.paused, v_admission.is_subscribed, 0, v_now))
  then
    perform fn_wake('job_wake_' || lower(v_admission.executor_kind));
    return true;
  end if;
  -- what there is of its own kinds, its own claim could not take: others took it, or a limit holds
  if cardinality(v_others) > 0 then
    perform fn_job_wake(v_admission.executor_kind, v_others, 1, p_executor_name);
  end if;
  return cardinality(v_others) > 0;
end
$$;
comment on function fn_job_pass_on(text, text, text[], boolean)
  is 'Hands a wake-up on to others when there is something left for them: whether there was. Changes nothing.';

-- The answer of a call whose token is not the current one, or whose lease has ended, or is another role's.
create or replace function fn_job_lease_lost(p_job_id uuid, p_lease_token bigint default null) returns jsonb
language plpgsql stable security definer set search_path from current
as $$
declare
  v_job job_queue;
begin
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  return jsonb_build_object('refused', true, 'job_id', p_job_id, 'reason', case
    when v_job.job_id is null and fn_job_archived(p_job_id) is null then 'not_found'
    when v_job.lease_token = p_lease_token and v_job.lease_until > clock_timestamp() and not fn_lease_is_ours(v_job.lease_owner) then 'not_owner'
    else 'lease_lost' end);
end
$$;
comment on function fn_job_lease_lost(uuid, bigint) is 'The refusal lease_lost, not_owner or not_found.';

-- Tells of jobs that have come to their end as facts of domain dot, where the type is registered and active and the kind
-- asks for it (job.<kind>.emit_events = true); correlation and causation go on. A fact carries the kinds of the jobs
-- that led to it as `chain`; a job made from it has them in its payload, so that a chain which comes back to itself is
-- cut at queue.chain.max_depth (16) and kept in dispatch_error, and no loop runs for ever. What the outbox refuses is
-- kept there, too: it must not undo a job's end. One savepoint for all (trap 19).
create or replace function fn_job_tell(p_job_ids uuid[], p_event_type text) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_max int;
  v_job job_queue;
  v_chain jsonb;
begin
  if not exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true')
    or not exists (
      select from event_type_registry r where r.event_domain = 'dot' and r.event_type = p_event_type and r.active)
  then
    return;
  end if;
  v_max := fn_config_number('queue.chain.max_depth', 16)::int;
  begin
    for v_job in
      select j.* from job_queue j
      where j.job_id = any (p_job_ids)
        and exists (select from dot_config c where c.key = 'job.' || j.job_kind || '.emit_events' and c.value = 'true')
      order by j.job_id
    loop
      v_chain := case jsonb_typeof(v_job.safe_payload -> 'chain') when 'array' then v_job.safe_payload -> 'chain' else '[]' end
        || to_jsonb(v_job.job_kind::text);
      if jsonb_array_length(v_chain) > v_max then
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (coalesce(v_job.causation_event_id, v_job.job_id), coalesce(v_job.consumer_key, v_job.job_kind), 'dot', 'RV003',
          format('dot.%s was not emitted: the chain is longer than %s jobs and comes back to itself: %s', p_event_type, v_max, v_chain))
        on conflict (event_id, consumer_key) do update
        set message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
      else
        perform fn_event_emit('dot', p_event_type, v_job.job_id::text, jsonb_strip_nulls(jsonb_build_object(
            'job_id', v_job.job_id, 'job_kind', v_job.job_kind, 'status', v_job.status, 'source_ref', v_job.source_ref,
            'result_ref', v_job.result_ref, 'attempts', v_job.attempts, 'causation_event_id', v_job.causation_event_id, 'chain', v_chain,
            'traceparent', v_job.traceparent)),
          p_event_subject_table => 'job_queue', p_actor_ref => v_job.lease_owner,
          p_correlation_id => coalesce(v_job.correlation_id, v_job.job_id::text));
      end if;
    end loop;
  exception when others then
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    values (p_job_ids[1], 'job_to_event', 'dot', sqlstate, format('dot.%s was not emitted: %s', p_event_type, sqlerrm))
    on conflict (event_id, consumer_key) do update
    set message = excluded.message, sqlstate = excluded.sqlstate, tries = d.tries + 1, last_at = clock_timestamp();
  end;
end
$$;
comment on function fn_job_tell(uuid[], text) is 'Emits dot.job_succeeded, dot.job_failed or dot.job_dead_lettered for jobs whose kind asks for it. Internal.';

-- The lease is still the caller's: same token, not ended, status leased or in_progress, claimed under a name that his
-- role may use. Here and below the settings keep a session from caching a sequential scan that it planned while the
-- table was small.
create or replace function fn_job_start(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_cancel timestamptz;
begin
  update job_queue j
  set status = 'in_progress', started_at = coalesce(j.started_at, v_now), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.cancel_requested_at into v_cancel;
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'in_progress', 'cancel_requested', v_cancel is not null);
end
$$;
comment on function fn_job_start(uuid, bigint) is 'leased → in_progress. Refused lease_lost for an old token, not_owner for another role''s.';

-- Makes a lease longer, from now on by p_lease_seconds: null is queue.lease.duration_sec, more than a day counts as a day.
create or replace function fn_job_renew(p_job_id uuid, p_lease_token bigint, p_lease_seconds int default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_until timestamptz := v_now
    + make_interval(secs => least(86400, coalesce(p_lease_seconds, greatest(1, fn_config_number('queue.lease.duration_sec', 300)::int))));
  v_cancel timestamptz;
begin
  if p_lease_seconds < 1 then
    raise exception 'fn_job_renew: p_lease_seconds must be at least 1, not %', p_lease_seconds using errcode = '22023';
  end if;
  update job_queue j
  set lease_until = v_until, updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.cancel_requested_at into v_cancel;
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'lease_until', v_until, 'cancel_requested', v_cancel is not null);
end
$$;
comment on function fn_job_renew(uuid, bigint, int) is 'Lets a lease end p_lease_seconds from now (at least 1; null: queue.lease.duration_sec; a day at most), and tells whether cancellation was asked for.';

-- Whether this very lease has ended well already: its worker lost the answer and asks again. Changes nothing.
create or replace function fn_job_has_succeeded(p_job_id uuid, p_lease_token bigint) returns boolean
language sql stable
return exists (
    select from job_queue j where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('succeeded', 'cleaned'))
  or coalesce(fn_job_archived(p_job_id) @> jsonb_build_object('lease_token', p_lease_token, 'status', 'succeeded'), false);
comment on function fn_job_has_succeeded(uuid, bigint) is 'Whether the lease with this token ended as succeeded.';

create or replace function fn_job_succeed(p_job_id uuid, p_lease_token bigint, p_result_ref text default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_job record;
begin
  update job_queue j
  set status = 'succeeded', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
      result_ref = coalesce(p_result_ref, j.result_ref), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.ordering_key, j.limit_slot, j.executor, j.job_kind, j.workflow_id into v_job;
  if found then
    perform fn_job_tell(array[p_job_id], 'job_succeeded');
    if v_job.workflow_id is not null then
      perform fn_job_unblock(array[p_job_id], 'success');
    end if;
    perform fn_job_make_room(v_job.ordering_key, v_job.limit_slot, v_job.executor, v_job.job_kind);
  elsif not fn_job_has_succeeded(p_job_id, p_lease_token) then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'succeeded');
end
$$;
comment on function fn_job_succeed(uuid, bigint, text)
  is 'Ends a job well. Refused lease_lost for an old token, and nothing is changed; the same token may ask again.';

-- Many completions, whatever they are: of several claims, with results, in keys, under limits, steps of workflows. Each
-- job is judged alone; the lost ones are named. The jobs are found by their keys and then met with their tokens: a join
-- planned while the table was small would later walk over all of it.
create or replace function fn_job_succeed_mixed(p_job_ids uuid[], p_lease_tokens bigint[], p_result_refs text[]) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
  v_done record;
  v_lost jsonb;
begin
  with done as (
    update job_queue j
    set status = 'succeeded', finished_at = clock_timestamp(), lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
        result_ref = coalesce(u.result_ref, j.result_ref), updated_at = clock_timestamp()
    from unnest(p_job_ids, p_lease_tokens, p_result_refs) as u (job_id, lease_token, result_ref)
    where j.job_id = any (p_job_ids)
      and j.job_id = u.job_id and j.lease_token = u.lease_token and j.status in ('leased', 'in_progress')
      and (j.lease_until > clock_timestamp()) is true -- or it would be read by the index of the leases
    returning j.job_id, j.lease_owner, j.ordering_key, j.workflow_id, case when j.limit_slot is not null then j.executor end as limited
  )
  select d.*,
    exists ( -- as fn_lease_is_ours
      select from queue_heartbeat h
      where h.executor_name = any (d.owners) and h.owner_role <> session_user and not fn_executor_is_ours(h.owner_role)) as is_foreign,
    exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true') as is_told
  into v_done
  from (
    select array_agg(d.job_id) as jobs, array_agg(d.lease_owner) as owners, count(*) as number,
      array_agg(d.ordering_key) filter (where d.ordering_key is not null) as keys,
      array_agg(d.job_id) filter (where d.workflow_id is not null) as steps,
      array_agg(d.limited::text) filter (where d.limited is not null) as limited
    from done d) d;
  if cardinality(p_job_ids) is distinct from cardinality(p_lease_tokens)
    or cardinality(p_job_ids) <> cardinality(p_result_refs)
  then
    raise exception 'fn_job_succeed_many: as many tokens (and result refs, if any) as jobs are needed' using errcode = '22023';
  elsif array_position(p_job_ids, null) is not null then
    raise exception 'fn_job_succeed_many: a job''s id is null' using errcode = '22023';
  end if;
  if v_done.is_foreign then
    raise exception 'not_owner: some of these jobs are leased under the name of another role; nothing was changed'
      using errcode = '42501';
  end if;
  if v_done.is_told and v_done.number > 0 then
    perform fn_job_tell(v_done.jobs, 'job_succeeded');
  end if;
  if v_done.steps is not null then
    perform fn_job_unblock(v_done.steps, 'success');
  end if;
  if v_done.keys is not null then
    perform fn_job_promote(v_done.keys);
  end if;
  if v_done.limited is not null then
    perform fn_job_wake(e, p_jobs => v_done.number) from (select distinct l from unnest(v_done.limited) l) u (e);
  end if;
  v_lost := case when v_done.number = cardinality(p_job_ids) then '[]' else (
    select coalesce(jsonb_agg(u.job_id), '[]')
    from unnest(p_job_ids, p_lease_tokens) as u (job_id, lease_token)
    where u.job_id <> all (coalesce(v_done.jobs, '{}')) and not fn_job_has_succeeded(u.job_id, u.lease_token)) end;
  return jsonb_build_object('refused', false, 'succeeded', cardinality(p_job_ids) - jsonb_array_length(v_lost), 'lease_lost', v_lost);
end
$$;
comment on function fn_job_succeed_mixed(uuid[], bigint[], text[]) is 'fn_job_succeed_many for what is not plain. Internal.';

-- Many completions in one statement. The jobs of one claim have one token and one owner: where nothing hangs on their
-- ends but steps of workflows (no key, no limit, no fact to tell) and none has a result, one UPDATE by their keys says it
-- all. What it leaves goes the longer way, which counts what is ended already as ended.
create or replace function fn_job_succeed_many(p_job_ids uuid[], p_lease_tokens bigint[], p_result_refs text[] default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_look record;
  v_number int;
begin
  if p_result_refs is null and p_lease_tokens[1] = all (p_lease_tokens) and cardinality(p_lease_tokens) = cardinality(p_job_ids) then
    select j.lease_owner, j.workflow_id is not null as is_step,
      not exists ( -- as fn_lease_is_ours
        select from queue_heartbeat h
        where h.executor_name = j.lease_owner and h.owner_role <> session_user and not fn_executor_is_ours(h.owner_role))
      and not exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true') as is_plain
    into v_look
    from job_queue j where j.job_id = p_job_ids[1];
    if v_look.is_plain then
      update job_queue j
      set status = 'succeeded', finished_at = clock_timestamp(), lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
          updated_at = clock_timestamp()
      where j.job_id = any (p_job_ids)
        and j.lease_token = p_lease_tokens[1] and j.lease_owner = v_look.lease_owner and j.status in ('leased', 'in_progress')
        and (j.lease_until > clock_timestamp()) is true -- or it would be read by the index of the leases
        and j.ordering_key is null and j.limit_slot is null and (j.workflow_id is not null) = v_look.is_step;
      get diagnostics v_number = row_count;
      if v_look.is_step and v_number > 0 then -- to free once more what follows a step that had ended before changes nothing
        perform fn_job_unblock(case when v_number = cardinality(p_job_ids) then p_job_ids else array(
          select j.job_id from job_queue j
          where j.job_id = any (p_job_ids) and j.lease_token = p_lease_tokens[1] and j.status = 'succeeded' and j.workflow_id is not null) end, 'success');
      end if;
      if v_number = cardinality(p_job_ids) then
        return ('{"refused": false, "lease_lost": [], "succeeded": ' || v_number || '}')::jsonb;
      end if;
    end if;
  end if;
  return fn_job_succeed_mixed(p_job_ids, p_lease_tokens, p_result_refs);
end
$$;
comment on function fn_job_succeed_many(uuid[], bigint[], text[]) is 'Ends many jobs well: {succeeded, lease_lost: [ids]}. Raises 42501 when one is another role''s.';

-- A job with a lease that is the caller's, locked; null otherwise. Called by whatever ends a lease but not well.
create or replace function fn_job_leased(p_job_id uuid, p_lease_token bigint) returns job_queue
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_job job_queue;
begin
  select j.* into v_job from job_queue j
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress')
    and (j.lease_until > clock_timestamp()) is true -- or it would be looked for by the index of the leases
    and fn_lease_is_ours(j.lease_owner)
  for update;
  return v_job;
end
$$;
comment on function fn_job_leased(uuid, bigint) is 'The job whose lease is the caller''s, locked; null when it is not. Internal.';

-- Keeps how a lease ended. Called by every function that ends one but well, in the statement's own transaction.
create or replace function fn_job_attempt_end(p_job job_queue, p_outcome text, p_error text) returns void
language sql volatile set search_path from current
as $$
  insert into job_attempt (job_id, lease_token, lease_owner, picked_at, started_at, outcome, error)
  values ((p_job).job_id, (p_job).lease_token, (p_job).lease_owner, (p_job).picked_at, (p_job).started_at, p_outcome, left(p_error, 8000))
$$;
comment on function fn_job_attempt_end(job_queue, text, text) is 'Appends to job_attempt how the lease of this job ended. Internal.';

-- A lease ends because the job is not wanted any more; what its worker said of it is kept.
create or replace function fn_job_end_cancelled(p_job job_queue, p_error text default null) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  if (p_job).lease_until is not null then
    perform fn_job_attempt_end(p_job, 'cancelled', coalesce(p_error, (p_job).cancel_reason));
  end if;
  update job_queue j
  set status = 'cancelled', finished_at = v_now, lease_until = null, cancel_requested_at = coalesce(j.cancel_requested_at, v_now),
      cancel_reason = (p_job).cancel_reason, last_error = coalesce(left(p_error, 8000), j.last_error), updated_at = v_now
  where j.job_id = (p_job).job_id;
  perform fn_job_make_room(case when (p_job).ordering_slot > 0 then (p_job).ordering_key end,
    case when (p_job).lease_until is not null then (p_job).limit_slot end, (p_job).executor, (p_job).job_kind);
  if (p_job).workflow_id is not null then
    perform fn_job_unblock(array[(p_job).job_id], 'cancelled');
  end if;
  return jsonb_build_object('refused', false, 'job_id', (p_job).job_id, 'status', 'cancelled');
end
$$;
comment on function fn_job_end_cancelled(job_queue, text) is 'Moves a locked job to cancelled, with its attempt. Internal.';

-- A lease ends without a result and costs the job nothing: back to queued, due at p_at; or cancelled, if that was asked.
create or replace function fn_job_requeue(p_job job_queue, p_outcome text, p_error text, p_at timestamptz) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
  if (p_job).cancel_requested_at is not null then
    return fn_job_end_cancelled(p_job, p_error);
  end if;
  perform fn_job_attempt_end(p_job, p_outcome, p_error);
  update job_queue j
  set status = 'queued', lease_owner = null, lease_until = null, picked_at = null, started_at = null, updated_at = clock_timestamp(),
      scheduled_at = coalesce(p_at, j.scheduled_at), lease_losses = j.lease_losses + (p_outcome = 'lease_lost')::int,
      last_error = coalesce(left(p_error, 8000), j.last_error)
  where j.job_id = (p_job).job_id;
  if p_at is null or p_at <= clock_timestamp() or (p_job).limit_slot is not null then
    perform fn_job_wake((p_job).executor, array[(p_job).job_kind]);
  end if;
  return jsonb_build_object('refused', false, 'job_id', (p_job).job_id, 'status', 'queued', 'scheduled_at', coalesce(p_at, (p_job).scheduled_at));
end
$$;
comment on function fn_job_requeue(job_queue, text, text, timestamptz) is 'Moves a locked job back to queued, with its attempt. Internal.';

-- Gives a job back without spending an attempt. Called by a worker that stops.
create or replace function fn_job_release(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_requeue(v_job, 'released', null, null);
end
$$;
comment on function fn_job_release(uuid, bigint) is 'Puts a leased job back to queued; attempts stay as they are.';

-- Takes a leased job from its worker, whoever that is, and queues it again; the worker's report will be refused. Called
-- by operators who will not wait until the lease ends.
create or replace function fn_job_take_back(p_job_id uuid, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_take_back needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  if not found then
    return fn_job_gone(p_job_id);
  elsif v_job.status not in ('leased', 'in_progress') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  return fn_job_requeue(v_job, 'released', format('taken back by %s: %s', p_actor, p_reason), null);
end
$$;
comment on function fn_job_take_back(uuid, text, text) is 'leased or in_progress → queued, against the will of its worker. Refused not_found or illegal_transition.';

-- Gives a job back until a later moment without spending an attempt: what it waits for is not there yet.
create or replace function fn_job_snooze(p_job_id uuid, p_lease_token bigint, p_until timestamptz) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue;
begin
  if p_until is null then
    raise exception 'fn_job_snooze: p_until is missing; name the moment at which the job shall be due again' using errcode = '22023';
  end if;
  perform fn_job_moment(p_until);
  v_job := fn_job_leased(p_job_id, p_lease_token);
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_requeue(v_job, 'snoozed', null, p_until);
end
$$;
comment on function fn_job_snooze(uuid, bigint, timestamptz) is 'Puts a leased job back to queued, due at p_until; attempts stay as they are.';

-- Ends a job that nobody wants any more: at once while it waits; a run is asked to end and learns of it when it renews.
-- Whatever then ends the run but success ends the job as cancelled. Asking again changes nothing.
create or replace function fn_job_cancel(p_job_id uuid, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_cancel needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  if not found then
    return fn_job_gone(p_job_id);
  elsif v_job.status = 'cancelled' then
    return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'cancelled');
  elsif v_job.status not in ('queued', 'retry_waiting', 'leased', 'in_progress') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  v_job.cancel_reason := left(p_actor || ': ' || p_reason, 2000);
  if v_job.lease_until is null then
    return fn_job_end_cancelled(v_job);
  end if;
  update job_queue j
  set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()), cancel_reason = coalesce(j.cancel_reason, v_job.cancel_reason),
      updated_at = clock_timestamp()
  where j.job_id = p_job_id;
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', v_job.status, 'requested', true);
end
$$;
comment on function fn_job_cancel(uuid, text, text)
  is 'Cancels waiting work at once, asks running work to end: {status, requested}. Refused not_found or illegal_transition.';

-- Which of these jobs somebody has cancelled. Asked by workers about what they run, between two renewals.
create or replace function fn_job_cancellations(p_job_ids uuid[]) returns setof uuid
language sql stable security definer set search_path from current set enable_seqscan = off set jit = off
as $$
  select j.job_id from job_queue j where j.job_id = any (p_job_ids) and j.cancel_requested_at is not null
$$;
comment on function fn_job_cancellations(uuid[]) is 'Those of the jobs whose cancellation was asked for.';

-- A worker has ended a run because its cancellation was asked for.
create or replace function fn_job_cancel_done(p_job_id uuid, p_lease_token bigint) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  elsif v_job.cancel_requested_at is null then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  return fn_job_end_cancelled(v_job);
end
$$;
comment on function fn_job_cancel_done(uuid, bigint) is 'leased or in_progress → cancelled, after fn_job_cancel. Refused illegal_transition when nobody asked for it.';

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
-- With p_instance it is refused as executor_alive once another process has taken the name over: what is leased by then
-- may be that one's.
create or replace function fn_job_release_unknown(
  p_executor_name text,
  p_within interval,
  p_known uuid[],
  p_instance text default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_released bigint;
  v_executor record;
begin
  -- with its lock the name cannot change hands before these jobs are back
  select h.instance, fn_executor_is_ours(h.owner_role) as is_ours into v_executor
  from queue_heartbeat h where h.executor_name = p_executor_name
  for share;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'executor_not_registered', 'executor_name', p_executor_name);
  elsif not v_executor.is_ours then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'executor_name', p_executor_name);
  elsif v_executor.instance <> p_instance then
    return jsonb_build_object('refused', true, 'reason', 'executor_alive', 'executor_name', p_executor_name);
  end if;
  select count(fn_job_requeue(f.job, 'released', 'the answer to its claim never came', null)) into v_released
  from (
    select j as job from job_queue j
    where j.lease_until is not null and j.lease_owner = p_executor_name and j.status = 'leased'
      and j.picked_at >= v_now - p_within and j.job_id <> all (p_known)
    for update skip locked) f;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'released', v_released);
end
$$;
comment on function fn_job_release_unknown(text, interval, uuid[], text)
  is 'Gives back what an executor leased lately without knowing it: {released}. Refused executor_not_registered, not_owner or executor_alive.';

-- The job as its handler sees it, with the handler's name. Called by fn_job_run.
create or replace function fn_job_handler_of(p_job_id uuid, p_lease_token bigint) returns table (job jsonb, handler text)
language sql stable security definer set search_path from current
as $$
  select to_jsonb(j.*) - array['claimable', 'lane'], h.handler
  from job_queue j
  left join job_handler h on h.job_kind = j.job_kind
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress')
    and j.lease_until > clock_timestamp()
$$;
comment on function fn_job_handler_of(uuid, bigint) is 'A leased job as jsonb, and the SQL function registered for its kind.';

-- Runs one leased job by the SQL function registered for its kind: effect and completion in the caller's transaction.
-- The handler runs with the caller's rights. An answer with "refused": true undoes the effect and is a permanent
-- failure (SQLSTATE RV001); a lease that is lost at the end undoes the effect too (RV002). p_traceparent is the span of
-- this run, where somebody records one: the handler gets it instead of the job's own. What the caller does afterwards in
-- its transaction belongs to its own trace again.
create or replace function fn_job_run(p_job_id uuid, p_lease_token bigint, p_traceparent text default null) returns jsonb
language plpgsql volatile set search_path from current
as $$
declare
  v_path text := current_setting('search_path');
  v_trace text := current_setting('reveille.traceparent', true);
  v_run record;
  v_answer jsonb;
  v_done jsonb;
begin
  select * into v_run from fn_job_handler_of(p_job_id, p_lease_token);
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  if v_run.handler is null then
    raise exception 'no handler: job_handler has no row for kind %', v_run.job ->> 'job_kind'
      using errcode = '42883', hint = 'Insert the kind and its function into job_handler.';
  end if;
  if p_traceparent is distinct from v_run.job ->> 'traceparent' and fn_traceparent(p_traceparent) is not null then
    v_run.job := v_run.job || jsonb_build_object('traceparent', p_traceparent);
  end if;
  perform set_config('reveille.traceparent', coalesce(v_run.job ->> 'traceparent', ''), true); -- for what the handler emits
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
  perform set_config('reveille.traceparent', coalesce(v_trace, ''), true);
  return v_done || jsonb_build_object('answer', v_answer);
end
$$;
comment on function fn_job_run(uuid, bigint, text) is 'Runs a leased job by its SQL handler and ends it, in one transaction.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_job_claim(text, int, int, text[], text)', 'fn_job_start(uuid, bigint)', 'fn_job_renew(uuid, bigint, int)',
    'fn_job_succeed(uuid, bigint, text)', 'fn_job_succeed_many(uuid[], bigint[], text[])', 'fn_job_release(uuid, bigint)',
    'fn_job_busy(uuid[], bigint[])', 'fn_job_release_unknown(text, interval, uuid[], text)', 'fn_job_snooze(uuid, bigint, timestamptz)',
    'fn_job_cancel_done(uuid, bigint)', 'fn_job_cancellations(uuid[])', 'fn_job_enqueue_many(jsonb)',
    'fn_job_handler_of(uuid, bigint)', 'fn_job_lease_lost(uuid, bigint)', 'fn_job_run(uuid, bigint, text)', 'fn_job_kinds(text[])',
    'fn_job_pass_on(text, text, text[], boolean)', 'fn_executor_rest(text, boolean)', 'fn_executor_rest_key(text)',
    'fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor']);
  end loop;
  call pr_grant(
    format('execute on function %s', 'fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text, text)'::regprocedure),
    array['reveille_operator']);
  call pr_grant(format('execute on function %s', 'fn_job_enqueue_many(jsonb)'::regprocedure), array['reveille_operator']);
  foreach v_function in array array['fn_job_cancel(uuid, text, text)', 'fn_job_take_back(uuid, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  foreach v_function in array array[
    'fn_job_rows(jsonb, uuid, timestamptz)', 'fn_job_by_key(text, text)', 'fn_job_archived(uuid)', 'fn_job_gone(uuid)', 'fn_job_may_be_archived(text, text)', 'fn_job_repeated(uuid, uuid)', 'fn_job_tell(uuid[], text)', 'fn_job_leased(uuid, bigint)', 'fn_job_attempt_end(job_queue, text, text)', 'fn_job_end_cancelled(job_queue, text)',
    'fn_job_requeue(job_queue, text, text, timestamptz)', 'fn_job_promote(text[], boolean)', 'fn_job_place(int, timestamptz)', 'fn_job_make_room(text, int, text, text)',
    'fn_job_wake(text, text[], bigint, text)', 'fn_executor_is_at_rest(text)',
    'fn_job_choose(text, int, text[], text, text[], boolean, numeric)', 'fn_job_lanes(text, job_lane[])', 'fn_job_lanes_open(job_lane[], text, text[], text[], boolean, numeric, timestamptz)',
    'fn_job_limit_slots(text, int, int, int[])', 'fn_job_limit_keys(tid[], text, text, timestamptz)',
    'fn_job_take_limited(text, job_lane, int, jsonb, timestamptz, int[])', 'fn_job_see_to_order(int, timestamptz)',
    'fn_executor_is_subscribed(text, text[])', 'fn_workflow_may_start()'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
  end loop;
  call pr_grant('select on table job_queue, job_attempt, job_handler, queue_pause, job_subscription, job_rate, job_workflow, job_gate', array['reveille_operator', 'reveille_reader']);
end
$$;
