-- Undoes phase 012. Refuses while there are schedules: nobody would make their jobs any more.
do $$
begin
  lock table job_schedule; -- whoever is about to commit is waited for, and then seen
  if exists (select from job_schedule) then
    raise exception 'job_schedule holds schedules that would be lost'
      using errcode = '55000', hint = 'Note them, take them away with fn_schedule_remove, then run the down step again.';
  end if;
  if exists (select from job_handler h where h.handler ~ '(^|[.])fn_maintenance_[a-z_]+[(]jsonb[)]$') then
    raise exception 'job_handler names functions fn_maintenance_… that would be gone'
      using errcode = '55000', hint = 'Delete these rows of job_handler first, then run the down step again.';
  end if;
end
$$;

drop function fn_maintenance_refresh(jsonb);
drop function fn_maintenance_prune(jsonb);
drop function fn_maintenance_order_sweep(jsonb);
drop function fn_maintenance_archive(jsonb);
drop function fn_maintenance_stale_check(jsonb);
drop function fn_maintenance_reap(jsonb);
drop function fn_schedule_check(timestamptz);
drop view v_job_schedule;
drop function fn_schedule_trouble(text, timestamptz, text);
drop function fn_schedule_tick(text, timestamptz, timestamptz[], timestamptz, bigint, timestamptz);
drop function fn_schedule_due(int, timestamptz);
drop function fn_job_kind_check();
drop function fn_schedule_held(text);
drop function fn_schedule_remove(text, text, text);
drop function fn_schedule_enable(text, boolean, text, text, timestamptz);
drop function fn_schedule_put(
  text, text, text, text, text, interval, timestamptz, text, int, int, jsonb, text, text, text, text, text, interval, timestamptz,
  timestamptz, text, timestamptz);
drop table job_schedule;
