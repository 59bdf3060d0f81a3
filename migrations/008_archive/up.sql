-- Phase 008: the archive. Finished jobs leave the hot table; what they were and which keys they hold stays known.

create table job_archive (
  job_id uuid not null,
  job_kind job_kind not null,
  status job_status not null,
  executor executor_kind not null,
  event_domain text,
  source_ref text,
  target_ref text,
  payload_ref text,
  safe_payload signal not null,
  priority job_priority not null,
  scheduled_at timestamptz not null,
  picked_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz not null,
  lease_owner text,
  lease_token bigint,
  attempts job_count not null,
  lease_losses job_count not null,
  max_attempts job_limit not null,
  policy jsonb,
  error_count job_count not null,
  last_error text,
  idempotency_key job_key not null,
  ordering_key text,
  actor job_actor not null,
  run_id uuid,
  workflow_id uuid,
  parent_job_id uuid,
  blocked_by job_count not null,
  causation_event_id uuid,
  consumer_key text,
  correlation_id text,
  traceparent text,
  result_ref text,
  cancel_requested_at timestamptz,
  cancel_reason text,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  history jsonb not null,
  archived_at timestamptz not null default clock_timestamp(),
  primary key (job_id, finished_at)
) partition by range (finished_at);
-- What became of an event is asked for as long as there is the event.
create index job_archive_event_idx on job_archive (causation_event_id) where causation_event_id is not null;
comment on table job_archive is 'Jobs that have left job_queue, by the month (UTC) in which they ended. fn_job_archive makes the partitions; there is no default one.';
comment on column job_archive.history is 'How each lease ended: the rows of job_attempt, oldest first, and the success that stood on the job''s own row.';

-- The keys of archived jobs. Partitions cannot hold a unique key that leaves out the month (trap 33). In bytes' order:
-- nobody sorts by it, and each enqueue with a key asks here.
create table job_archive_key (
  job_kind text collate "C" not null,
  idempotency_key text collate "C" not null,
  job_id uuid not null,
  finished_at timestamptz not null,
  primary key (job_kind, idempotency_key)
);
-- For whole months at a time; keys come nearly in this order, and an enqueue pays nothing for it.
create index job_archive_key_finished_at_idx on job_archive_key using brin (finished_at);
comment on table job_archive_key is 'Which archived job holds an idempotency key, so that a second enqueue still answers the first job.';
comment on column job_archive_key.finished_at is 'The job''s, which says in which partition of job_archive it is.';

-- A pass over new events need not ask for each key: see fn_dispatch_events_plain.
create table job_archive_bound (
  job_kind text primary key,
  newest_event timestamptz not null
);
comment on table job_archive_bound is 'For each kind of archived jobs, the greatest created_at of the events that they were made from: a newer event has no job there.';
comment on column job_archive_bound.newest_event is 'infinity: a key held the id of something else than its own event, so nothing is known.';

-- That there is no key says nothing any more of what ended before.
create table job_archive_forgotten (
  is_only boolean primary key default true
    constraint job_archive_forgotten_only_check check (is_only),
  until timestamptz not null
);
comment on table job_archive_forgotten is 'One row: how far the keys of archived jobs went with their months. Whoever asks for the job of an older event would be told that there never was one.';
comment on column job_archive_forgotten.until is 'Of jobs that ended from then on, every key is known, and so of events created from then on. -infinity: no month has gone.';
insert into job_archive_forgotten (until) values ('-infinity');
