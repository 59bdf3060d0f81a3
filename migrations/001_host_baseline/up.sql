-- Phase 001: the host's tables. Adopted where they exist, created where they do not, never altered.
-- `host_object` remembers which of the two happened, so that down.sql drops only what was created here.

create table host_object (
  object_name text primary key,
  created boolean not null,
  noted_at timestamptz not null default clock_timestamp()
);
comment on table host_object is 'Tables shared with the host: created here, or found and adopted as they were.';
comment on column host_object.created is 'true: created by Reveille and dropped by its down step; false: the host''s own, never altered.';

insert into host_object (object_name, created)
select t.name, to_regclass(t.name) is null
from unnest(array['event_outbox', 'event_type_registry', 'dot_config']) as t (name);

create table if not exists event_outbox (
  id uuid primary key default gen_random_uuid(),
  event_domain text not null
    constraint event_outbox_event_domain_check check (event_domain in
      ('iu', 'piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health')),
  event_type text not null,
  event_stream text not null
    constraint event_outbox_event_stream_check check (event_stream in
      ('comment', 'review', 'update', 'birth', 'task', 'alert', 'health')),
  delivery_lane text not null
    constraint event_outbox_delivery_lane_check check (delivery_lane in ('immediate', 'delayed')),
  event_severity text
    constraint event_outbox_event_severity_check check (event_severity in ('info', 'warning', 'critical')),
  event_subject_table text,
  event_subject_ref text,
  canonical_address text,
  actor_ref text,
  source_system text,
  correlation_id text,
  payload_classification text not null default 'safe_metadata'
    constraint event_outbox_payload_classification_check check (payload_classification in ('safe_metadata', 'restricted')),
  safe_payload jsonb not null default '{}'
    constraint event_outbox_safe_payload_check check (safe_payload::text !~*
      '[{ ]"(body|content|raw|vector|embedding|secret|token|password|ssn|personal_data)": '),
  occurred_at timestamptz not null default now(),
  created_at timestamptz not null default now()
);

create table if not exists event_type_registry (
  event_domain text not null,
  event_type text not null,
  event_stream text not null,
  delivery_lane text not null,
  default_severity text,
  description text not null,
  active boolean not null default true,
  created_at timestamptz not null default now(),
  unique (event_domain, event_type)
);

create table if not exists dot_config (
  key text primary key,
  value text,
  updated_at timestamptz not null default now()
);

-- Only where the table is ours: an index for the sweep's window, and the vocabulary of our own alarms.
do $$
begin
  if (select created from host_object where object_name = 'event_outbox') then
    create index event_outbox_created_at_idx on event_outbox (created_at);
    comment on table event_outbox is 'Facts, append-only: one row for each thing that happened. Created by Reveille because the host had none.';
  end if;
  if (select created from host_object where object_name = 'event_type_registry') then
    comment on table event_type_registry is 'Event types that may be emitted, with their stream, lane and severity.';
    insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, default_severity, description)
    values
      ('system', 'queue_worker_silent', 'alert', 'delayed', 'critical', 'an executor has not beaten within its threshold'),
      ('system', 'queue_worker_recovered', 'alert', 'delayed', 'info', 'a silent executor beats again'),
      ('system', 'queue_dispatch_gap', 'alert', 'delayed', 'warning', 'the sweep found events that had no arrival, and repaired them');
  end if;
  if (select created from host_object where object_name = 'dot_config') then
    comment on table dot_config is 'Gates and settings: text keys, text values. A missing key is a closed gate.';
  end if;
end
$$;

create table dot_config_audit (
  audit_id bigint generated always as identity primary key,
  key text not null,
  old_value text,
  new_value text,
  actor text not null,
  reason text not null,
  changed_by name not null default session_user,
  changed_at timestamptz not null default clock_timestamp()
);
comment on table dot_config_audit is 'Append-only: every flip of a gate through fn_gate_set, with who and why.';

-- The roles of the contract. They are cluster-wide, so they are created once and stay on the way down.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['reveille_owner', 'reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader'] loop
    begin
      if not exists (select from pg_roles where rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception
      when duplicate_object or unique_violation then null; -- another migrator was faster
      when insufficient_privilege then
        raise notice 'role % is missing and may not be created by %: grants to it are skipped', v_role, current_user;
    end;
  end loop;
end
$$;

-- Trace contexts that could not be read; see fn_traceparent.
create sequence traceparent_ignored minvalue 1;
comment on sequence traceparent_ignored is 'Counts trace contexts (traceparent) that could not be read.';
