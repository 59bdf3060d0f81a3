-- Phase 006: consumers are rows. A row says which facts it wants and which job each becomes.

create table consumer_registry (
  consumer_key text primary key
    constraint consumer_registry_key_check check (consumer_key ~ '^[a-z0-9][a-z0-9_.-]{0,119}$'),
  event_domain text not null,
  event_type text not null default '*'
    constraint consumer_registry_event_type_check check (event_type ~ '^[a-z0-9_.*]{1,200}$'),
  event_stream text,
  filter jsonpath,
  job_kind job_kind,
  executor executor_kind not null default 'PG_worker',
  priority job_priority not null default 100,
  max_attempts job_limit,
  delay interval not null default interval '0'
    constraint consumer_registry_delay_check check (delay between interval '0' and interval '100 years'),
  source_ref text default '{event_subject_ref}',
  target_ref text,
  payload_ref text,
  ordering_key text,
  idempotency_key text not null default '{consumer_key}:{event_id}',
  enabled boolean not null default false,
  dry_run boolean not null default false,
  fan_out text
    constraint consumer_registry_fan_out_check check (fan_out = 'recipients'),
  starts_at timestamptz not null default clock_timestamp(),
  description text,
  source text not null default 'sql'
    constraint consumer_registry_source_check check (source in ('sql', 'file')),
  actor job_actor not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  event_type_like text generated always as (replace(replace(event_type, '_', '\_'), '*', '%')) stored
);
comment on table consumer_registry is 'Consumers: one row turns matching events of a domain into jobs of a kind. Checked when written; read by every pass.';
comment on column consumer_registry.event_type is 'Exact, or with * for any characters: record_*, *.';
comment on column consumer_registry.filter is 'A jsonpath predicate over {"event": …, "payload": …}; null lets everything pass, null as its result does not.';
comment on column consumer_registry.job_kind is 'Null: terminal, the fact is seen and no job is made.';
comment on column consumer_registry.delay is 'The job is not claimed before this long after dispatch.';
comment on column consumer_registry.source_ref is 'Template; variables {event_id} {event_type} {event_subject_table} {event_subject_ref} {canonical_address} {correlation_id} {consumer_key} {payload.KEY}.';
comment on column consumer_registry.idempotency_key is 'Template. A variable without a value makes the event undigestible for this row (dispatch_error); in a ref it gives null.';
comment on column consumer_registry.dry_run is 'Match and count, enqueue nothing.';
comment on column consumer_registry.fan_out is 'recipients: one job for each recipient of the event (fn_event_recipients), named {recipient} in templates; none, no job. Null: one job. Fixed when the row is made.';
comment on column consumer_registry.starts_at is 'Events created before do not flow; the default is now.';
comment on column consumer_registry.source is 'file: kept by `reveille consumers sync`; sql: written by somebody else and never touched by it.';
