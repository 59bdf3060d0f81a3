-- Phase 003: work. One row is one unit of work, with nine statuses whose moves the database itself guards.

-- Domains, because Postgres parses the CHECKs of a table anew at every statement that writes to it, and those of a domain
-- once a session: twelve CHECKs cost an INSERT of one row 0.1 ms, more than all the rest of it.
create domain job_status as text constraint job_status_check check (value in
  ('queued', 'leased', 'in_progress', 'succeeded', 'failed', 'retry_waiting', 'dead_letter', 'cancelled', 'cleaned'));
create domain executor_kind as text constraint executor_kind_check check (value in
  ('DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter'));
create domain job_kind as text
  constraint job_kind_check check (length(value) <= 120 and value ~ '^[A-Za-z][A-Za-z0-9_.:-]*$');
create domain job_priority as int constraint job_priority_check check (value between 0 and 32767);
create domain job_count as int constraint job_count_check check (value >= 0);
create domain job_limit as int constraint job_limit_check check (value >= 1);
create domain job_key as text constraint job_key_check check (length(value) between 1 and 512);
create domain job_actor as text constraint job_actor_check check (btrim(value) <> '');
create domain signal as jsonb constraint signal_only_check check (fn_is_signal(value));
comment on domain job_status is 'The nine statuses of a job.';
comment on domain executor_kind is 'Kinds of executor that may run jobs. MOT is none: it draws graphs, it runs nothing.';
comment on domain job_kind is 'Name of a kind of job: a letter, then letters, digits and _ . : -, at most 120.';
comment on domain job_priority is '0 is first.';
comment on domain job_count is 'Counts from 0.';
comment on domain job_limit is 'At least 1.';
comment on domain job_key is 'A stored idempotency key, 1 to 512 characters.';
comment on domain job_actor is 'Who asked for a job; never blank.';
comment on domain signal is 'Signal, not data: a JSON object of at most 16 kB without a denied key at any depth.';

create table job_queue (
  job_id uuid primary key default fn_uuid_v7(),
  job_kind job_kind not null,
  status job_status not null default 'queued',
  executor executor_kind not null default 'PG_worker',
  event_domain text,
  source_ref text,
  target_ref text,
  payload_ref text,
  safe_payload signal not null default '{}',
  priority job_priority not null default 100,
  scheduled_at timestamptz not null default clock_timestamp(),
  picked_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  lease_owner text,
  lease_token bigint,
  lease_until timestamptz,
  attempts job_count not null default 0,
  lease_losses job_count not null default 0,
  max_attempts job_limit not null default 5,
  error_count job_count not null default 0,
  last_error text,
  idempotency_key job_key not null,
  ordering_key text,
  actor job_actor not null,
  run_id uuid,
  workflow_id uuid,
  parent_job_id uuid,
  blocked_by job_count not null default 0,
  causation_event_id uuid,
  consumer_key text,
  correlation_id text,
  traceparent text,
  result_ref text,
  cancel_requested_at timestamptz,
  cancel_reason text,
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

-- What the health view and the reaper read: leases by their end.
create index job_queue_lease_idx on job_queue (lease_until) where lease_until is not null;

comment on table job_queue is 'Work: one row a job. Status moves only through fn_job_*; an illegal move is refused by a trigger.';
comment on column job_queue.executor is 'Kind of executor that may run it. MOT is none.';
comment on column job_queue.safe_payload is 'Signal, not data: at most 16 kB of JSON, no denied key at any depth.';
comment on column job_queue.priority is '0 is first.';
comment on column job_queue.scheduled_at is 'Not claimed before this moment; also the retry time.';
comment on column job_queue.lease_token is 'Fresh at every claim, and greater than all before it; a call with an older one is refused as lease_lost.';
comment on column job_queue.attempts is 'Failures that count towards max_attempts; a claim is not one.';
comment on column job_queue.lease_losses is 'Leases that ended unreported; counted apart from failures, with a limit of their own.';
comment on column job_queue.cancel_requested_at is 'Somebody wishes the run to end; the worker learns of it when it renews.';
comment on column job_queue.idempotency_key is 'A second enqueue of the same (job_kind, key) answers the first job. Longer keys are stored as prefix and digest.';
comment on column job_queue.blocked_by is 'Unmet dependencies; 0 means free to run.';
comment on column job_queue.causation_event_id is 'The event this job was made from.';
comment on column job_queue.claimable is 'Derived: waiting and not blocked.';

-- How runs ended. One row an ended lease, written by the statement that ends it; a success stays on the job's own row.
create table job_attempt (
  job_id uuid not null,
  lease_token bigint not null,
  lease_owner text not null,
  picked_at timestamptz not null,
  started_at timestamptz,
  ended_at timestamptz not null default clock_timestamp(),
  outcome text not null
    constraint job_attempt_outcome_check check (outcome in
      ('succeeded', 'transient', 'permanent', 'lease_lost', 'released', 'snoozed', 'cancelled')),
  error text,
  reported_by name not null default session_user,
  primary key (job_id, lease_token)
);
comment on table job_attempt is 'How each lease of a job ended; append-only. A success is on the job''s row, and comes here when that row is used again.';
comment on column job_attempt.outcome is 'lease_lost: nobody reported. released and snoozed cost the job nothing.';
comment on column job_attempt.reported_by is 'session_user of whoever ended it; the reaper''s for a lost lease.';

create table job_handler (
  job_kind text primary key,
  handler text not null,
  description text,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);
comment on table job_handler is 'SQL functions that run jobs: one a kind, signature (p_job jsonb) returns jsonb.';
comment on column job_handler.handler is 'schema.function(jsonb), checked and qualified when written. Text, as pg_upgrade refuses regprocedure columns.';
