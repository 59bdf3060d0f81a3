-- Undoes phase 003. Refuses while there are jobs, or the history of some.
do $$
begin
  lock table job_queue, job_attempt, job_handler; -- whoever is about to commit is waited for, and then seen
  if exists (select from job_queue) then
    raise exception 'job_queue holds jobs that would be lost'
      using errcode = '55000', hint = 'Export and empty job_queue first, then run the down step again.';
  end if;
  if exists (select from job_attempt) then
    raise exception 'job_attempt holds how runs ended, which would be lost'
      using errcode = '55000', hint = 'Export and empty job_attempt first, then run the down step again.';
  end if;
  if exists (select from job_handler) then
    raise exception 'job_handler holds handlers that would be lost'
      using errcode = '55000', hint = 'Note and delete its rows first, then run the down step again.';
  end if;
end
$$;

drop function fn_job_run(uuid, bigint, text);
drop function fn_job_handler_of(uuid, bigint);
drop function fn_job_cancel_done(uuid, bigint);
drop function fn_job_cancellations(uuid[]);
drop function fn_job_cancel(uuid, text, text);
drop function fn_job_take_back(uuid, text, text);
drop function fn_job_snooze(uuid, bigint, timestamptz);
drop function fn_job_release_unknown(text, interval, uuid[], text);
drop function fn_job_busy(uuid[], bigint[]);
drop function fn_job_release(uuid, bigint);
drop function fn_job_succeed_mixed(uuid[], bigint[], text[]);
drop function fn_job_succeed_many(uuid[], bigint[], text[]);
drop function fn_job_succeed(uuid, bigint, text);
drop function fn_job_has_succeeded(uuid, bigint);
drop function fn_job_renew(uuid, bigint, int);
drop function fn_job_start(uuid, bigint);
drop function fn_job_tell(uuid[], text);
drop function fn_job_requeue(job_queue, text, text, timestamptz);
drop function fn_job_end_cancelled(job_queue, text);
drop function fn_job_attempt_end(job_queue, text, text);
drop function fn_job_leased(uuid, bigint);
drop function fn_job_lease_lost(uuid, bigint);
drop function fn_job_pass_on(text, text, text[], boolean);
drop function fn_lease_is_ours(text);
drop function fn_job_claim(text, int, int, text[], text);
drop function fn_job_choose(text, int, text[], text, text[], boolean, numeric);
drop function fn_executor_is_subscribed(text, text[]);
drop function fn_job_take_limited(text, job_lane, int, jsonb, timestamptz, int[]);
drop function fn_job_limit_keys(tid[], text, text, timestamptz);
drop function fn_job_limit_slots(text, int, int, int[]);
drop function fn_rate_parts(text);
drop function fn_job_see_to_order(int, timestamptz);
drop function fn_job_lanes_open(job_lane[], text, text[], text[], boolean, numeric, timestamptz);
drop function fn_job_claim_mark(text, timestamptz, interval, boolean, job_lane[], job_lane[], job_lane[]);
drop function fn_job_claim_marks(text, timestamptz);
drop function fn_job_due(text);
drop function fn_job_lanes(text, job_lane[]);
drop function fn_job_make_room(text, int, text, text);
drop function fn_job_order_sweep();
drop function fn_job_place(int, timestamptz);
drop function fn_job_keys_are_limited();
drop function fn_job_key_limit(text);
drop function fn_job_promote(text[], boolean);
drop function fn_job_max_attempts(text, text);
drop function fn_job_policy_keys(text, text, text);
drop function fn_job_enqueue_many(jsonb);
drop function fn_job_rows(jsonb, uuid, timestamptz);
drop function fn_job_moment(timestamptz);
drop function fn_job_enqueue(text, text, jsonb, text, text, text, text, text, int, timestamptz, uuid, text, int, text, text);
drop function fn_workflow_may_start();
drop function fn_job_may_be_archived(text, text);
drop function fn_job_repeated(uuid, uuid);
drop function fn_job_gone(uuid);
drop function fn_job_archived(uuid);
drop function fn_job_by_key(text, text);
drop function fn_job_key(text);
drop function fn_job_wake(text, text[], bigint, text);
drop function fn_executor_is_at_rest(text);
drop function fn_executor_rest(text, boolean);
drop function fn_executor_rest_key(text);
drop function fn_job_kinds(text[]);
drop table job_handler;
drop function fn_job_handler_announce();
drop function fn_job_handler_check();
drop table job_order_pending, job_rate, job_subscription, queue_pause;
drop type job_lane;
drop table job_attempt;
drop function fn_job_attempt_refuse();
drop table job_gate;
drop table job_workflow;
drop table job_queue;
drop domain signal, job_actor, job_key, job_limit, job_count, job_priority, job_kind, executor_kind, job_status;
drop function fn_job_order_blocked();
drop function fn_job_move_refuse();
drop function fn_job_move_is_legal(text, text);
drop sequence awake_job_wake_dot, awake_job_wake_agent, awake_job_wake_hermes, awake_job_wake_codex, awake_job_wake_pg_worker,
  awake_job_wake_external_worker, awake_job_wake_future_kestra_adapter;
