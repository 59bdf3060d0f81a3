-- Undoes phase 006. Refuses while there are consumers.
do $$
begin
  lock table consumer_registry; -- whoever is about to commit is waited for, and then seen
  if exists (select from consumer_registry) then
    raise exception 'consumer_registry holds consumers that would be lost'
      using errcode = '55000', hint = 'Keep them as files (consumers/), delete the rows, then run the down step again.';
  end if;
end
$$;

drop function fn_consumer_remove(text, text, text, text);
drop function fn_consumer_set_enabled(text, boolean, text, text);
drop function fn_consumer_put(jsonb, text, text, boolean);
drop function fn_consumer_warning(text);
drop function fn_route_consumer_dry_run(text, timestamptz, int);
drop function fn_route_consumer_dry_run(jsonb, timestamptz, int);
drop function fn_consumer_dispatch(uuid);
drop function fn_event_decisions(uuid);
drop function fn_domain_pause(text);
drop function fn_consumer_dispatch_batch(text, int, text);
drop function fn_dispatch_events_singly(uuid[]);
drop function fn_dispatch_events(uuid[], text, text);
drop function fn_dispatch_events_plain(uuid[], text, boolean);
drop function fn_dispatch_rows(uuid[], text, text);
drop function fn_consumer_problem(consumer_registry);
drop function fn_event_is_digestible(consumer_registry, event_outbox);
drop function fn_consumer_decision(consumer_registry, event_outbox, boolean, boolean);
drop function fn_consumer_verdict(consumer_registry, event_outbox);
drop function fn_event_verdict(event_outbox, text, text, text, timestamptz, jsonpath);
drop table consumer_registry;
drop function fn_queue_control_announce();
drop function fn_consumer_registry_check();
drop function fn_template_render(text, text, event_outbox);
drop function fn_template_expand(text, text, jsonb);
drop function fn_event_document(event_outbox);
