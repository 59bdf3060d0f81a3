-- The tables of a host that emitted events before Reveille came.

create table event_outbox (
  id uuid primary key default gen_random_uuid(),
  event_domain text not null
    constraint event_outbox_event_domain_check check (event_domain in
      ('iu', 'piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health')),
  event_type text not null,
  event_stream text not null
    constraint event_outbox_event_stream_check check (event_stream in
      ('comment', 'review', 'update', 'birth', 'task', 'alert', 'health')),
  delivery_lane text not null default 'immediate'
    constraint event_outbox_delivery_lane_check check (delivery_lane in ('immediate', 'delayed')),
  event_severity text
    constraint event_outbox_event_severity_check check (event_severity in ('info', 'warning', 'critical')),
  event_subject_table text,
  event_subject_ref text,
  canonical_address text,
  actor_ref text,
  source_system text not null default 'trigger',
  correlation_id uuid,
  payload_classification text not null default 'safe_metadata'
    constraint event_outbox_payload_classification_check check (payload_classification in ('safe_metadata', 'restricted')),
  safe_payload jsonb not null default '{}'
    constraint event_outbox_safe_payload_check check (not safe_payload ?|
      array['body', 'content', 'raw', 'vector', 'embedding', 'secret', 'token', 'password', 'ssn', 'personal_data']),
  occurred_at timestamptz not null default now(),
  created_at timestamptz not null default now()
);
create unique index idx_event_outbox_idempotent
  on event_outbox (event_domain, event_type, event_subject_table, event_subject_ref) where delivery_lane = 'immediate';
create index idx_event_outbox_recent on event_outbox (created_at desc, id);
comment on table event_outbox is 'the host''s own words about its outbox';
comment on column event_outbox.safe_payload is 'signal, not data';

create table event_type_registry (
  event_domain text not null,
  event_type text not null,
  event_stream text not null,
  delivery_lane text not null,
  default_severity text,
  description text not null,
  active boolean not null,
  created_at timestamptz not null default now(),
  constraint event_type_registry_key unique (event_domain, event_type)
);

create table dot_config (
  key text primary key,
  value text not null,
  updated_at timestamptz not null default now()
);

create table event_read (
  event_id uuid references event_outbox (id),
  actor text,
  read_status_source text check (read_status_source in ('explicit', 'implicit_self')),
  primary key (event_id, actor)
);

create table event_subscription (
  id bigint generated always as identity primary key,
  recipient_ref text not null,
  event_domain text,
  event_type text,
  event_stream text,
  scope_subject_table text,
  scope_filter jsonb,
  mute boolean not null default false
);
comment on table event_subscription is 'who the host tells of what';
insert into event_subscription (recipient_ref, event_domain, event_type, event_stream) values
  ('role:health_owner', 'system', 'issue_opened', null),
  ('role:health_owner', 'system', 'issue_resolved', null),
  ('agency:sysop', null, null, 'alert');

create function fn_event_type_validate() returns trigger language plpgsql as $$
declare
  v_type event_type_registry;
begin
  select * into v_type from event_type_registry r
   where r.event_domain = new.event_domain and r.event_type = new.event_type and r.active;
  if not found then
    raise exception 'event_type_registry: %.% is unknown or inactive', new.event_domain, new.event_type;
  end if;
  if new.event_stream <> v_type.event_stream then
    raise exception 'event_type_registry: stream mismatch — registry=% got=%', v_type.event_stream, new.event_stream;
  end if;
  if new.delivery_lane <> v_type.delivery_lane then
    raise exception 'event_type_registry: lane mismatch — registry=% got=%', v_type.delivery_lane, new.delivery_lane;
  end if;
  return new;
end
$$;
create trigger trg_event_outbox_type_validate before insert on event_outbox
  for each row execute function fn_event_type_validate();

grant select, insert on event_outbox to public;
grant select on event_type_registry to public;

insert into event_type_registry values
  ('system', 'issue_opened', 'alert', 'immediate', 'warning', 'an issue was opened', true, '2026-05-08 10:00+00'),
  ('system', 'red_zone_violation', 'alert', 'delayed', null, 'not in use', false, '2026-05-08 10:00+00'),
  ('staging', 'record_approved', 'update', 'immediate', 'info', 'a staged record was approved', true, '2026-05-26 10:00+00');
insert into dot_config values
  ('queue.job_substrate.enabled', 'false', '2026-05-26 11:14+00'),
  ('queue.heartbeat.enabled', 'true', '2026-05-26 12:00+00'),
  ('iu_core.delivery_live_routes', '', '2026-05-26 12:00+00');
insert into event_outbox (event_domain, event_type, event_stream, event_subject_table, event_subject_ref, safe_payload, occurred_at, created_at)
select 'system', 'issue_opened', 'alert', 'system_issues', n::text, jsonb_build_object('n', n), '2026-05-20 10:00+00', '2026-05-20 10:00+00'
from generate_series(1, 50) n;
insert into event_read select id, 'trigger', 'implicit_self' from event_outbox;
