-- Undoes phase 007. Refuses while something is paused or subscribed: nobody could take it back afterwards.
do $$
begin
  if exists (select from queue_pause p where p.resumed_at is null) then
    raise exception 'queue_pause holds pauses that nobody could end any more'
      using errcode = '55000', hint = 'End them with fn_resume first, then run the down step again.';
  end if;
  if exists (select from job_subscription) then
    raise exception 'job_subscription holds subscriptions that nobody could change any more'
      using errcode = '55000', hint = 'Note them, take them away with fn_subscription_remove, then run the down step again.';
  end if;
end
$$;

drop view v_ordering_blocked;
drop view v_job_queue_backlog;
drop function fn_job_backlog();
drop function fn_job_rate_prune(int);
drop function fn_job_lane_verdict(text, text, text, text, int);
drop function fn_job_lane_reasons(text, text, text, text, int, boolean);
drop function fn_subscription_remove(text, text, text, text);
drop function fn_subscription_set(text, text, text, text, int, real, text);
drop procedure pr_pause_check(text, text, text, text, text);
drop function fn_resume(text, text, text, text);
drop function fn_pause(text, text, text, text);
drop function fn_pause_names(text);
