-- Phase 015: rehearsals. What a changed consumer would do to events that have been, and making jobs of them afterwards.

create table consumer_backfill (
  backfill_id uuid primary key default fn_uuid_v7(),
  consumer_key text not null,
  event_domain text not null,
  mode text not null
    constraint consumer_backfill_mode_check check (mode in ('backfill', 'replay')),
  generation int,
  consumer jsonb not null,
  since timestamptz not null,
  until timestamptz not null,
  event_ids uuid[],
  job_limit bigint
    constraint consumer_backfill_limit_check check (job_limit >= 1),
  rate numeric
    constraint consumer_backfill_rate_check check (rate > 0),
  priority job_priority not null,
  place_at timestamptz not null,
  place_id uuid not null default '00000000-0000-0000-0000-000000000000',
  next_at timestamptz not null default '-infinity',
  estimate bigint not null default 0,
  looked bigint not null default 0,
  events bigint not null default 0,
  expected bigint not null default 0,
  made bigint not null default 0,
  present bigint not null default 0,
  not_matching bigint not null default 0,
  without_job bigint not null default 0,
  errors bigint not null default 0,
  status text not null default 'running'
    constraint consumer_backfill_status_check check (status in ('running', 'paused', 'finished', 'cancelled', 'failed')),
  note text,
  actor job_actor not null,
  reason text not null,
  started_by name not null default session_user,
  started_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  constraint consumer_backfill_generation_check check ((mode = 'replay') = (generation is not null and generation >= 2)),
  constraint consumer_backfill_ended_check check ((status in ('finished', 'cancelled')) = (ended_at is not null))
) with (fillfactor = 50);
create unique index consumer_backfill_generation_idx on consumer_backfill (consumer_key, generation) where generation is not null;
create index consumer_backfill_open_idx on consumer_backfill (updated_at) where ended_at is null;
comment on table consumer_backfill is 'Backfills and replays: what was asked for, how far each has come, what it made. Kept: the generations of replays are counted from it.';
comment on column consumer_backfill.generation is 'Of a replay: its jobs have the key of the consumer and #g with this number behind it; the job of live dispatch is the first generation.';
comment on column consumer_backfill.consumer is 'The row of consumer_registry when it began; once that reads otherwise, the run pauses.';
comment on column consumer_backfill.event_ids is 'Of a replay of single events: which; null is all of the window.';
comment on column consumer_backfill.job_limit is 'It ends when it has made so many jobs.';
comment on column consumer_backfill.rate is 'Jobs a second; null is as fast as it goes.';
comment on column consumer_backfill.place_at is 'With place_id: every event up to there has been seen to, together with its jobs.';
comment on column consumer_backfill.next_at is 'With a rate: no job is made before, whoever asks.';
comment on column consumer_backfill.estimate is 'How many events of the outbox the window has, as the planner guesses; for progress.';
comment on column consumer_backfill.looked is 'Events of the outbox, of any domain, that it has passed.';
comment on column consumer_backfill.events is 'Of these, those of its domain.';
comment on column consumer_backfill.expected is 'Jobs that the consumer wants of these: made, present and errors.';
comment on column consumer_backfill.present is 'Jobs that were there, made by live dispatch or an earlier run.';
comment on column consumer_backfill.without_job is 'Of a replay: jobs that were never made, and so are not repeated. A backfill makes them.';
comment on column consumer_backfill.errors is 'Jobs that cannot be made of their event; dispatch_error says why.';
comment on column consumer_backfill.note is 'Why it is paused, has failed or has ended.';
