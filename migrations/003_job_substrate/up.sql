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
create domain job_key as text collate "C" constraint job_key_check check (length(value) between 1 and 512);
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
  policy jsonb,
  error_count job_count not null default 0,
  last_error text,
  idempotency_key job_key not null,
  ordering_key text,
  ordering_slot smallint,
  freed_at timestamptz,
  limit_slot int,
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
  claimable boolean generated always as (
    status in ('queued', 'retry_waiting') and blocked_by = 0 and (ordering_key is null or coalesce(ordering_slot, 0) > 0)) stored,
  lane bigint generated always as (
    hashtextextended(job_kind || E'\x1f' || coalesce(event_domain, '') || E'\x1f' || coalesce(consumer_key, ''), 0)) stored,
  -- The key first: one comparison says most. Entries of a row's versions are not worth packing, they are gone in a moment:
  -- packing them cost more than all the rest of the index.
  constraint job_queue_idempotency_unique unique (idempotency_key, job_kind) with (deduplicate_items = off),
  constraint job_queue_lease_check check ((status in ('leased', 'in_progress')) = (lease_until is not null)),
  constraint job_queue_finished_check check (
    (status in ('succeeded', 'failed', 'dead_letter', 'cancelled', 'cleaned')) = (finished_at is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- The claim's own order: lane by lane, so that it passes a paused or limited one with a single step.
create index job_queue_ready_idx on job_queue (executor, lane, priority, scheduled_at, job_id) where claimable;

-- Keys whose jobs run in order: those that nobody has placed yet, those that wait behind, those whose turn it is.
create index job_queue_unplaced_idx on job_queue (created_at, job_id)
  where ordering_key is not null and ordering_slot is null and status = 'queued';
create index job_queue_behind_idx on job_queue (ordering_key, coalesce(freed_at, created_at), job_id)
  where ordering_key is not null and coalesce(ordering_slot, 0) = 0 and status in ('queued', 'retry_waiting');
create unique index job_queue_turn_idx on job_queue (ordering_key, ordering_slot)
  where ordering_slot > 0 and status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter');

-- Kinds with a limit: no place twice, whatever else goes wrong.
create unique index job_queue_limit_idx on job_queue (job_kind, limit_slot) where limit_slot is not null and lease_until is not null;

-- What the health view and the reaper read: leases by their end.
create index job_queue_lease_idx on job_queue (lease_until) where lease_until is not null;

comment on table job_queue is 'Work: one row a job. Status moves only through fn_job_*; an illegal move is refused by a trigger.';
comment on column job_queue.executor is 'Kind of executor that may run it. MOT is none.';
comment on column job_queue.safe_payload is 'Signal, not data: at most 16 kB of JSON, no denied key at any depth.';
comment on column job_queue.priority is '0 is first.';
comment on column job_queue.scheduled_at is 'Not claimed before this moment; also the retry time.';
comment on column job_queue.lease_token is 'Fresh at every claim, and greater than all before it; a call with an older one is refused as lease_lost.';
comment on column job_queue.attempts is 'Failures that count towards max_attempts; a claim is not one.';
comment on column job_queue.policy is 'What this job has of its own instead of its kind''s: backoff_strategy, backoff_seconds, backoff_cap_seconds, max_lease_losses, time_limit_seconds. Null: nothing.';
comment on column job_queue.lease_losses is 'Leases that ended unreported; counted apart from failures, with a limit of their own.';
comment on column job_queue.cancel_requested_at is 'Somebody wishes the run to end; the worker learns of it when it renews.';
comment on column job_queue.idempotency_key is 'A second enqueue of the same (job_kind, key) answers the first job. Longer keys are stored as prefix and digest.';
comment on column job_queue.blocked_by is 'Unmet dependencies; 0 means free to run.';
comment on column job_queue.ordering_key is 'Jobs of one key run one at a time, in the order in which they were made or, of steps, became free; also across retries.';
comment on column job_queue.ordering_slot is 'Of a job with an ordering key: null not placed yet, -1 blocked and so in no line, 0 behind others, from 1 on its turn.';
comment on column job_queue.freed_at is 'Of a step with an ordering key: when all that it needs had ended; its place in the order is from then.';
comment on column job_queue.limit_slot is 'Of a run of a kind with job.<kind>.concurrency_limit: which of its places it takes.';
comment on column job_queue.causation_event_id is 'The event this job was made from.';
comment on column job_queue.claimable is 'Derived: waiting, not blocked, and not behind others of its ordering key.';
comment on column job_queue.lane is 'Derived: a hash of job_kind, event_domain and consumer_key; claims share out among lanes.';

-- A lane and priority of the ready index, as a claim sees it.
create type job_lane as (
  lane bigint,
  priority int,
  job_kind text,
  event_domain text,
  consumer_key text,
  scheduled_at timestamptz,
  job_id uuid,
  rank int,
  share real
);
comment on type job_lane is 'A lane at one priority: its first job, its rank (0 first, aging counted) and its share among equals.';

-- Work that is stopped: rows, so that a restart forgets nothing. Written by fn_pause and fn_resume.
create table queue_pause (
  pause_id bigint generated always as identity primary key,
  scope text not null
    constraint queue_pause_scope_check check (scope in ('all', 'domain', 'consumer', 'job_kind', 'executor')),
  name text not null default '',
  actor text not null,
  reason text not null,
  paused_at timestamptz not null default clock_timestamp(),
  paused_by name not null default session_user,
  resumed_at timestamptz,
  resumed_by name,
  resume_actor text,
  resume_reason text,
  constraint queue_pause_name_check check ((scope = 'all') = (name = ''))
);
create unique index queue_pause_standing_idx on queue_pause (scope, name) where resumed_at is null;
comment on table queue_pause is 'What is paused, by whom and why; rows with resumed_at are history.';
comment on column queue_pause.name is 'The domain, consumer, job kind, or executor (its name or its kind); empty for all.';

-- What an executor may claim. One without a row may claim everything of its kind.
create table job_subscription (
  executor_name text not null,
  job_kind text not null default '*',
  event_domain text not null default '*',
  priority_floor int,
  share real not null default 1 constraint job_subscription_share_check check (share > 0 and share <= 1000000),
  description text,
  actor text not null,
  set_by name not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  executor_name_like text generated always as (replace(replace(replace(replace(executor_name, '\', '\\'), '_', '\_'), '%', '\%'), '*', '%')) stored,
  job_kind_like text generated always as (replace(replace(replace(replace(job_kind, '\', '\\'), '_', '\_'), '%', '\%'), '*', '%')) stored,
  primary key (executor_name, job_kind, event_domain)
);
comment on table job_subscription is 'What an executor may claim, nothing beside; an executor without a row may claim everything of its kind.';
comment on column job_subscription.executor_name is 'A registered name; * stands for any characters, here and in job_kind.';
comment on column job_subscription.event_domain is '* is every domain, and jobs without one.';
comment on column job_subscription.priority_floor is 'The last priority that it may claim; null is all.';
comment on column job_subscription.share is 'Weight among lanes that are equally urgent.';

-- What counts towards job.<kind>.rate_limit and key_rate_limit: a row a claim, appended and pruned, never updated.
create table job_rate (
  rate_key text not null,
  claimed_at timestamptz not null,
  jobs int not null
);
create index job_rate_key_idx on job_rate (rate_key, claimed_at);
-- Ordering keys that somebody has to look at again, because two sessions met at them.
create table job_order_pending (
  ordering_key text not null,
  noted_at timestamptz not null default clock_timestamp()
);
comment on table job_order_pending is 'Ordering keys whose next job the next claim has to find; empty but for moments.';

comment on table job_rate is 'How many jobs of a kind (or of a kind and ordering key) with a rate limit were claimed when; append-only, pruned by fn_job_rate_prune.';

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

-- Jobs that belong together. What makes them is in phase 009; the tables are here, because dispatch, the end of a job and the
-- archive ask them.
create table job_workflow (
  workflow_id uuid primary key default fn_uuid_v7(),
  template_key text not null,
  template_version int not null,
  status text not null default 'active'
    constraint job_workflow_status_check check (status in ('active', 'succeeded', 'failed', 'partially_failed', 'cancelled')),
  params signal not null default '{}',
  correlation_id text not null constraint job_workflow_correlation_check check (length(correlation_id) between 1 and 512),
  actor job_actor not null,
  causation_event_id uuid,
  consumer_key text,
  jobs int not null,
  outcome jsonb,
  cancel_reason text,
  created_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  updated_at timestamptz not null default clock_timestamp(),
  constraint job_workflow_correlation_unique unique (template_key, correlation_id),
  constraint job_workflow_finished_check check ((status = 'active') = (finished_at is null))
) with (fillfactor = 80);
create index job_workflow_active_idx on job_workflow (updated_at) where status = 'active';
create index job_workflow_held_idx on job_workflow (finished_at)
  where status in ('failed', 'partially_failed') and outcome ->> 'blocked' <> '0';
comment on table job_workflow is 'One run of a template; its jobs are the rows of job_queue with its workflow_id.';
comment on column job_workflow.workflow_id is 'Its last 32 bits are 0; its jobs are numbered on from it in theirs, so that their own key finds them.';
comment on column job_workflow.correlation_id is 'A second emit of the same template with the same one answers the first workflow.';
comment on column job_workflow.outcome is 'How many jobs ended how, written when the workflow ends: the jobs themselves leave for the archive.';

-- What a node waits for that is no job of an executor: somebody''s approval, or a fact.
create table job_gate (
  job_id uuid primary key,
  workflow_id uuid not null,
  kind text not null constraint job_gate_kind_check check (kind in ('approval', 'event')),
  event_domain text,
  event_type text,
  filter jsonpath,
  correlation_id text,
  event_id uuid,
  effect_hash text,
  expires_at timestamptz,
  closed_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  constraint job_gate_event_check check ((kind = 'event') = (event_domain is not null and event_type is not null))
);
create index job_gate_workflow_idx on job_gate (workflow_id);
create index job_gate_event_idx on job_gate (event_domain, event_type) where kind = 'event' and event_id is null;
create index job_gate_expires_idx on job_gate (expires_at) where closed_at is null;
comment on table job_gate is 'Nodes that wait for an approval or for an event: jobs that no executor claims.';
comment on column job_gate.event_id is 'The first event since the workflow began that fits.';
comment on column job_gate.effect_hash is 'What was approved: the hash of what the jobs before it have given.';
comment on column job_gate.closed_at is 'When the refresh found it over, with nothing left to expire; the refresh opens it again when its workflow is retried.';
