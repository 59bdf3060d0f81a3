-- Phase 010: who is told of what. event_subscription is the host's where it exists, and is then used as it is.

insert into host_object (object_name, created)
select 'event_subscription', not exists (
  select from pg_class c where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'event_subscription');

create table if not exists event_subscription (
  recipient_ref text not null,
  event_domain text,
  event_type text,
  event_stream text,
  scope_subject_table text,
  scope_filter jsonb,
  mute boolean not null default false
);

do $$
begin
  if (select created from host_object where object_name = 'event_subscription') then
    comment on table event_subscription is 'Who is told of which events: null is any. Created by Reveille because the host had none.';
    comment on column event_subscription.recipient_ref is 'user:…, agency:…, role:… or agent:….';
    comment on column event_subscription.event_type is 'Without its domain, exact.';
    comment on column event_subscription.scope_filter is 'An object: what the payload contains. A text: a jsonpath predicate over {"event": …, "payload": …}, as the filters of consumers.';
    comment on column event_subscription.mute is 'true: this recipient is not told of these events, whatever its other rows say.';
  end if;
end
$$;
