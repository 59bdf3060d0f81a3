-- Undoes phase 001. Adopted tables stay as they are; created ones go, unless they hold facts.
do $$
begin
  if (select created from host_object where object_name = 'event_outbox') then
    lock table event_outbox; -- a producer that is about to commit is waited for, and then seen
  end if;
  if (select created from host_object where object_name = 'event_outbox') and exists (select from event_outbox) then
    raise exception 'event_outbox holds events that would be lost'
      using errcode = '55000', hint = 'Export and empty event_outbox first, then run the down step again.';
  end if;
end
$$;

drop function fn_event_emit(text, text, text, jsonb, text, text, text, text, timestamptz);
drop function fn_traceparent_of(jsonb);
drop function fn_traceparent(text);
drop function fn_traceparent_ignored();
drop function fn_traceparent_ignore();
drop function fn_gate_list();
drop function fn_gate_set(text, text, text, text);
drop function fn_gate_is_open(text);
drop function fn_config_first(text[], text);
drop function fn_config_number(text, numeric);
drop function fn_config(text, text);
drop procedure pr_grant(text, text[]);
drop function fn_is_signal(jsonb);
drop function fn_epoch_ms(timestamptz);
drop function fn_uuid_v7_nth(uuid, int);
drop function fn_uuid_v7();
drop table dot_config_audit;
drop sequence traceparent_ignored;

do $$
declare
  v_name text;
begin
  for v_name in
    select r.rolname from pg_roles r
    where r.rolname in ('reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader')
      and exists (
        select from pg_namespace n cross join lateral aclexplode(n.nspacl) a
        where n.nspname = current_schema() and a.grantee = r.oid)
  loop
    execute format('revoke usage on schema %I from %I', current_schema(), v_name);
  end loop;
  for v_name in select object_name from host_object where created loop
    execute format('drop table %I', v_name);
  end loop;
end
$$;
drop table host_object;
