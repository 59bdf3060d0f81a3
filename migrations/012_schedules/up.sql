-- Phase 012: schedules. Which jobs are made at which times: by cron and time zone, at an interval, or once.

create table job_schedule (
  schedule_key text primary key
    constraint job_schedule_key_check check (schedule_key ~ '^[a-z0-9][a-z0-9_.-]{0,119}$'),
  cron text
    constraint job_schedule_cron_check check (length(cron) between 1 and 200),
  time_zone text
    constraint job_schedule_time_zone_check check (length(time_zone) between 1 and 100),
  every interval
    -- whole seconds: months and years have no length
    constraint job_schedule_every_check check (
      every between interval '1 second' and interval '366 days'
      and extract(year from every) = 0 and extract(month from every) = 0
      and extract(epoch from every) = floor(extract(epoch from every))),
  at timestamptz
    constraint job_schedule_at_check check (isfinite(at)),
  job_kind job_kind not null,
  executor executor_kind not null default 'PG_worker',
  priority job_priority not null default 100,
  max_attempts job_limit,
  safe_payload signal not null default '{}',
  source_ref text,
  target_ref text,
  payload_ref text,
  ordering_key text,
  missed text not null default 'once'
    constraint job_schedule_missed_check check (missed in ('skip', 'once', 'all')),
  missed_window interval
    constraint job_schedule_missed_window_check check (missed_window between interval '1 minute' and interval '10 years'),
  starts_at timestamptz not null default date_trunc('second', clock_timestamp())
    constraint job_schedule_starts_at_check check (isfinite(starts_at)),
  ends_at timestamptz
    constraint job_schedule_ends_at_check check (isfinite(ends_at) and ends_at > starts_at),
  enabled boolean not null default false,
  counts_from timestamptz not null default clock_timestamp(),
  next_tick_at timestamptz not null default '-infinity',
  last_tick_at timestamptz,
  last_job_id uuid,
  ticks bigint not null default 0,
  ticks_missed bigint not null default 0,
  last_missed_at timestamptz,
  trouble text,
  description text,
  actor job_actor not null,
  set_by name not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint job_schedule_times_check check (num_nonnulls(cron, every, at) = 1 and (cron is null) = (time_zone is null))
) with (fillfactor = 80);
create index job_schedule_due_idx on job_schedule (next_tick_at) where enabled;
comment on table job_schedule is 'Jobs at times: exactly one of cron (with time_zone), every, at. Written by fn_schedule_put, fn_schedule_enable and fn_schedule_remove.';
comment on column job_schedule.cron is 'Five fields, or a name such as @daily; read by the sidecar, in time_zone.';
comment on column job_schedule.every is 'Whole seconds; counted from starts_at.';
comment on column job_schedule.at is 'Once, at this moment.';
comment on column job_schedule.missed is 'What becomes of ticks that are more than a minute late: skip, once (one job for all of them), all.';
comment on column job_schedule.missed_window is 'Ticks that are later than this are dropped; null: however late.';
comment on column job_schedule.starts_at is 'No tick before it.';
comment on column job_schedule.ends_at is 'No tick at it or later.';
comment on column job_schedule.counts_from is 'Only ticks after this moment count: when it was enabled, or its times were changed.';
comment on column job_schedule.next_tick_at is '-infinity: a sidecar has yet to find it. infinity: there is none any more.';
comment on column job_schedule.ticks is 'Ticks that became jobs.';
comment on column job_schedule.ticks_missed is 'Ticks that were dropped as missed says; of very many at once a part.';
comment on column job_schedule.trouble is 'Why a sidecar could not go on with it; null: nothing.';
