-- Undoes phase 014. Refuses while gaps are open: nobody would know of them any more.
do $$
begin
  lock table dispatch_gap; -- whoever is about to commit is waited for, and then seen
  if exists (select from dispatch_gap g where g.closed_at is null) then
    raise exception 'dispatch_gap holds open gaps that would be forgotten'
      using errcode = '55000', hint = 'Repair them with `reveille events audit --repair`, or note and delete them, then run the down step again.';
  end if;
  if exists (select from job_handler h where h.handler ~ '(^|[.])fn_maintenance_audit[(]jsonb[)]$') then
    raise exception 'job_handler names fn_maintenance_audit, which would be gone'
      using errcode = '55000', hint = 'Delete these rows of job_handler first, then run the down step again.';
  end if;
end
$$;

drop view v_consumer_lag;
drop function fn_maintenance_audit(jsonb);
drop function fn_dispatch_audit_counts();
drop function fn_dispatch_audit_check(timestamptz);
drop function fn_dispatch_audit_pass(int, timestamptz);
drop function fn_dispatch_audit(text, timestamptz, timestamptz, boolean, int, jsonb, timestamptz);
drop function fn_audit_tell(jsonb, text);
drop function fn_audit_repair(int, uuid[], text[]);
drop function fn_audit_outcome(uuid, text);
drop function fn_audit_window(text, timestamptz, uuid, timestamptz, int);
drop function fn_audit_consumers_note(timestamptz);
drop function fn_audit_text(consumer_registry);
drop function fn_audit_closed_until(text);
drop table dispatch_gap;
drop table audit_consumer;
drop table audit_domain;
drop table audit_mark;
