-- Undoes phase 002. Refuses while committed events wait to be read.
do $$
declare
  v_domain text;
begin
  lock table event_arrival; -- a producer that is about to commit is waited for, and then seen
  select c.event_domain into v_domain from dispatch_cursor c where fn_dispatch_unread(c.event_domain) is not null limit 1;
  if v_domain is not null then
    raise exception 'domain % has events that have not been dispatched', v_domain
      using errcode = '55000', hint = 'Let `reveille tick` dispatch them, or empty event_arrival if they may be forgotten.';
  end if;
end
$$;

do $$
begin
  if exists (select from dispatch_error) then
    raise exception 'dispatch_error holds events that a consumer could not digest'
      using errcode = '55000', hint = 'Mend and dispatch them (reveille events dispatch ID), or delete the rows, then run the down step again.';
  end if;
end
$$;

drop trigger reveille_event_arrival on event_outbox;
drop function fn_event_arrival_record();
drop function fn_dispatch_prune(interval, int);
drop function fn_event_sweep(interval, timestamptz);
drop function fn_dispatch_attach();
drop function fn_dispatch_position_is_ahead(text);
drop function fn_dispatch_poll(text[], text, text);
drop function fn_dispatch_unread(text);
drop function fn_arrival_ranges(pg_snapshot, pg_snapshot, xid8, bigint);
drop function fn_dispatch_domain_add(text);
drop function fn_dispatch_snapshot();
do $$
declare
  v_domain text;
begin
  for v_domain in select event_domain from dispatch_cursor loop
    execute format('drop sequence if exists %I', 'awake_queue_wake_' || v_domain);
  end loop;
end
$$;
drop function fn_wake_channel_add(text);
drop function fn_wake_arm(text);
drop function fn_wake_awake(text, int);
drop function fn_wake(text, text);
drop function fn_wake_mark(text);
drop table dispatch_error;
drop table dispatch_sweep;
drop table dispatch_pass;
drop table dispatch_cursor;
drop table event_arrival;
