-- Undoes phase 004. Refuses while there are dead letters, or rights to decide about them that the phase did not bring.
do $$
begin
  lock table job_dead_letter, dead_letter_authority; -- whoever is about to commit is waited for, and then seen
  if exists (select from job_dead_letter) then
    raise exception 'job_dead_letter holds dead letters that would be lost'
      using errcode = '55000', hint = 'Export and empty job_dead_letter first, then run the down step again.';
  end if;
  if exists (
    select from dead_letter_authority a
    where (a.event_domain, a.may_triage, a.may_replay) is distinct from ('*', true, true)
      or a.role_name not in (
        'reveille_operator', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = 'dead_letter_authority'::regclass)))
  then
    raise exception 'dead_letter_authority holds rights that would be lost'
      using errcode = '55000', hint = 'Note them and take them away with fn_dead_letter_authority_set, then run the down step again.';
  end if;
end
$$;

drop view v_dead_letter_all;
drop function fn_dead_letter_legacy();
drop view v_job_queue_dead_letter_open;
drop function fn_job_dead_letter_redrive(jsonb, text, int, numeric, boolean);
drop function fn_job_dead_letter_replay(uuid, text, boolean, timestamptz);
drop function fn_dead_letter_authority_set(text, name, boolean, boolean, text, text);
drop function fn_job_dead_letter_triage(uuid, text, text, text);
drop function fn_dead_letter_authority(text, boolean);
drop function fn_job_lease_reaper(int, text, boolean, int, timestamptz);
drop function fn_job_fail_permanent(uuid, bigint, text, boolean);
drop function fn_job_fail_transient(uuid, bigint, text);
drop function fn_job_fail(job_queue, text, text);
drop function fn_job_die(uuid, text);
drop function fn_job_backoff(text, int, text, jsonb);
drop function fn_job_policy(text, text, jsonb);
drop table dead_letter_authority;
drop table job_dead_letter;
