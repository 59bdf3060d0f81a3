-- Undoes phase 008. Refuses while there are archived jobs.
do $$
begin
  lock table job_archive, job_archive_key; -- whoever is about to commit is waited for, and then seen
  if exists (select from job_archive) or exists (select from job_archive_key) then
    raise exception 'job_archive and job_archive_key hold archived jobs that would be lost'
      using errcode = '55000', hint = 'Export and empty both first, then run the down step again.';
  end if;
end
$$;

drop view v_job_queue_in_progress;
drop function fn_job_archive(int, boolean, uuid, timestamptz);
drop function fn_job_archive_drop(boolean, int, timestamptz);
drop function fn_uuid_v7_floor(timestamptz);
drop function fn_job_archive_month(timestamptz);
drop table job_archive_forgotten;
drop table job_archive_bound;
drop table job_archive_key;
drop table job_archive;
