-- Functions of phase 004: the delay before a retry, transient and permanent failure.

-- The delay before try number p_attempts + 1: constant, linear or exponential in the number of failures, capped,
-- then half of it fixed and half of it random, so that jobs that failed together do not come back together.
create or replace function fn_job_backoff(p_job_kind text, p_attempts int) returns interval
language plpgsql volatile set search_path from current
as $$
declare
  v_base numeric := fn_config_number('job.' || p_job_kind || '.backoff_seconds', fn_config_number('queue.retry.default.backoff_seconds', 10));
  v_cap numeric := fn_config_number('job.' || p_job_kind || '.backoff_cap_seconds', fn_config_number('queue.retry.default.backoff_cap_seconds', 3600));
  v_strategy text := fn_config('job.' || p_job_kind || '.backoff_strategy', fn_config('queue.retry.default.backoff_strategy', 'exponential'));
  v_seconds numeric;
begin
  v_seconds := least(v_cap, case v_strategy
    when 'constant' then v_base
    when 'linear' then v_base * p_attempts
    else v_base * power(2::numeric, least(p_attempts - 1, 40)) -- exponential; fn_gate_set lets nothing else in
  end);
  return make_interval(secs => (v_seconds * (0.5 + 0.5 * random()::numeric))::double precision);
end
$$;
comment on function fn_job_backoff(text, int) is 'The jittered delay before the next try, from dot_config.';

-- One failure of a leased job. Counts it, then: retry_waiting, dead_letter, or failed to rest. The status passes
-- through failed in any case, so the guard on moves sees every step.
create or replace function fn_job_fail(p_job_id uuid, p_lease_token bigint, p_error text, p_outcome text) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_job record;
  v_retry_at timestamptz;
begin
  update job_queue j
  set status = 'failed', finished_at = v_now, lease_until = null, attempts = j.attempts + 1, error_count = j.error_count + 1,
      started_at = coalesce(j.started_at, j.picked_at), last_error = left(p_error, 8000), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
  returning j.job_kind, j.executor, j.attempts, j.max_attempts into v_job;
  if not found then
    return fn_job_lease_lost(p_job_id);
  end if;
  if p_outcome = 'retry' and v_job.attempts < v_job.max_attempts then
    v_retry_at := v_now + fn_job_backoff(v_job.job_kind, v_job.attempts);
    update job_queue set status = 'retry_waiting', finished_at = null, scheduled_at = v_retry_at where job_id = p_job_id;
    return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'retry_waiting', 'retry_at', v_retry_at,
      'attempts', v_job.attempts, 'max_attempts', v_job.max_attempts);
  end if;
  if p_outcome <> 'rest' then
    update job_queue set status = 'dead_letter' where job_id = p_job_id;
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'retry_at', null,
    'status', case p_outcome when 'rest' then 'failed' else 'dead_letter' end,
    'attempts', v_job.attempts, 'max_attempts', v_job.max_attempts);
end
$$;
comment on function fn_job_fail(uuid, bigint, text, text) is 'The one fail path. p_outcome: retry, dead_letter or rest. Internal.';

create or replace function fn_job_fail_transient(p_job_id uuid, p_lease_token bigint, p_error text default null) returns jsonb
language sql volatile security definer set search_path from current
as $$ select fn_job_fail(p_job_id, p_lease_token, p_error, 'retry') $$;
comment on function fn_job_fail_transient(uuid, bigint, text) is 'Counts a failure that may pass: retry_waiting, or dead_letter after the last attempt.';

create or replace function fn_job_fail_permanent(p_job_id uuid, p_lease_token bigint, p_error text default null, p_dead_letter boolean default true) returns jsonb
language sql volatile security definer set search_path from current
as $$ select fn_job_fail(p_job_id, p_lease_token, p_error, case when p_dead_letter then 'dead_letter' else 'rest' end) $$;
comment on function fn_job_fail_permanent(uuid, bigint, text, boolean) is 'Counts a failure that will not pass: dead_letter, or failed to rest when p_dead_letter is false.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_job_fail_transient(uuid, bigint, text)', 'fn_job_fail_permanent(uuid, bigint, text, boolean)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_executor']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_job_fail(uuid, bigint, text, text)'::regprocedure);
end
$$;
