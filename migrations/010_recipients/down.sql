-- Undoes phase 010. An adopted table stays as it is; a created one goes, unless it holds subscriptions.
do $$
declare
  v_is_ours boolean := (select created from host_object where object_name = 'event_subscription');
begin
  if v_is_ours then
    lock table event_subscription; -- whoever is about to commit is waited for, and then seen
  end if;
  lock table consumer_registry;
  if exists (select from consumer_registry c where c.fan_out is not null) then
    raise exception 'consumer_registry holds consumers that fan out, which nothing would serve'
      using errcode = '55000', hint = 'Keep them as files (consumers/), delete the rows, then run the down step again.';
  end if;
  if v_is_ours and exists (select from event_subscription) then
    raise exception 'event_subscription holds subscriptions that would be lost'
      using errcode = '55000', hint = 'Export and empty event_subscription first, then run the down step again.';
  end if;
end
$$;

drop function fn_consumer_pilot(timestamptz, int, text, timestamptz);
drop function fn_subscription_standing();
drop view v_subscription_gaps;
drop function fn_subscription_gaps(int);
drop function fn_fan_out_decisions(uuid);
drop function fn_fan_out_dry_run(consumer_registry, timestamptz, int);
drop function fn_dispatch_fan_out(uuid[], text, text);
drop function fn_recipient_template(text, text, jsonb);
drop function fn_event_recipients(uuid);
drop function fn_event_recipient_rows(uuid[]);
drop function fn_event_subscriptions();
drop function fn_scope_read(jsonb);
drop function fn_recipient_is_sound(text);

do $$
begin
  if (select created from host_object where object_name = 'event_subscription') then
    drop table event_subscription;
  end if;
  delete from host_object where object_name = 'event_subscription';
end
$$;
