-- Phase 003: work. One row is one unit of work, with nine statuses whose moves the database itself guards.

create table job_queue (
  job_id uuid primary key default fn_uuid_v7(),
  job_kind text not null
    constraint job_queue_job_kind_check check (length(job_kind) <= 120 and job_kind ~ '^[A-Za-z][A-Za-z0-9_.:-]*$'),
  status text not null default 'queued'
    constraint job_queue_status_check check (status in
      ('queued', 'leased', 'in_progress', 'succeeded', 'failed', 'retry_waiting', 'dead_letter', 'cancelled', 'cleaned')),
  executor text not null default 'PG_worker'
    constraint job_queue_executor_check check (executor in
      ('DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter')),
  event_domain text,
  source_ref text,
  target_ref text,
  payload_ref text,
  safe_payload jsonb not null default '{}'
    constraint job_queue_signal_only_check check (
      safe_payload = '{}'
      or (jsonb_typeof(safe_payload) = 'object'
        and octet_length(safe_payload::text) <= 16384
        and safe_payload::text !~* '[{ ]"(body|content|raw|vector|embedding|secret|token|password|ssn|personal_data)": ')),
  priority int not null default 100
    constraint job_queue_priority_check check (priority between 0 and 32767),
  scheduled_at timestamptz not null default clock_timestamp(),
  picked_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  lease_owner text,
  lease_token bigint,
  lease_until timestamptz,
  attempts int not null default 0
    constraint job_queue_attempts_check check (attempts >= 0),
  max_attempts int not null default 5
    constraint job_queue_max_attempts_check check (max_attempts >= 1),
  error_count int not null default 0,
  last_error text,
  idempotency_key text not null
    constraint job_queue_idempotency_key_check check (length(idempotency_key) between 1 and 512),
  ordering_key text,
  actor text not null
    constraint job_queue_actor_check check (btrim(actor) <> ''),
  run_id uuid,
  workflow_id uuid,
  parent_job_id uuid,
  blocked_by int not null default 0
    constraint job_queue_blocked_by_check check (blocked_by >= 0),
  causation_event_id uuid,
  consumer_key text,
  correlation_id text,
  traceparent text,
  result_ref text,
  cancel_requested_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  claimable boolean generated always as (status in ('queued', 'retry_waiting') and blocked_by = 0) stored,
  constraint job_queue_idempotency_unique unique (job_kind, idempotency_key),
  constraint job_queue_lease_check check ((status in ('leased', 'in_progress')) = (lease_until is not null)),
  constraint job_queue_finished_check check (
    (status in ('succeeded', 'failed', 'dead_letter', 'cancelled', 'cleaned')) = (finished_at is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- The claim's own order.
create index job_queue_ready_idx on job_queue (executor, priority, scheduled_at, job_id) where claimable;

-- What the health view and the reaper read: leases by their end, dead letters by their age.
create index job_queue_lease_idx on job_queue (lease_until) where lease_until is not null;
create index job_queue_dead_letter_idx on job_queue (finished_at) where status = 'dead_letter';

comment on table job_queue is 'Work: one row a job. Status moves only through fn_job_*; an illegal move is refused by a trigger.';
comment on column job_queue.executor is 'Kind of executor that may run it. MOT is none.';
comment on column job_queue.safe_payload is 'Signal, not data: at most 16 kB of JSON, no denied key at any depth.';
comment on column job_queue.priority is '0 is first.';
comment on column job_queue.scheduled_at is 'Not claimed before this moment; also the retry time.';
comment on column job_queue.lease_token is 'Fresh at every claim, and greater than all before it; a call with an older one is refused as lease_lost.';
comment on column job_queue.attempts is 'Failures that count towards max_attempts; a claim is not one.';
comment on column job_queue.idempotency_key is 'A second enqueue of the same (job_kind, key) answers the first job. Longer keys are stored as prefix and digest.';
comment on column job_queue.blocked_by is 'Unmet dependencies; 0 means free to run.';
comment on column job_queue.causation_event_id is 'The event this job was made from.';
comment on column job_queue.claimable is 'Derived: waiting and not blocked.';

create table job_handler (
  job_kind text primary key,
  handler text not null,
  description text,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);
comment on table job_handler is 'SQL functions that run jobs: one a kind, signature (p_job jsonb) returns jsonb.';
comment on column job_handler.handler is 'schema.function(jsonb), checked and qualified when written. Text, as pg_upgrade refuses regprocedure columns.';
