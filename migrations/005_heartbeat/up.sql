-- Phase 005: who is alive. One row an executor; narrow and with room in its page, so that a beat leaves nothing behind.

create table queue_heartbeat (
  executor_name text primary key
    constraint queue_heartbeat_executor_name_check check (executor_name ~ '^[^\s].{0,119}$' and lower(executor_name) <> 'mot'),
  executor_kind executor_kind not null,
  domain_scope text[] not null default '{}',
  last_beat_at timestamptz,
  last_beat_status text
    constraint queue_heartbeat_status_check check (last_beat_status in ('ok', 'warn', 'error')),
  beats_total bigint not null default 0,
  expected_cadence_seconds int not null default 60
    constraint queue_heartbeat_cadence_check check (expected_cadence_seconds > 0),
  stale_threshold_seconds int not null default 300
    constraint queue_heartbeat_threshold_check check (stale_threshold_seconds > 0),
  silent_since timestamptz,
  instance text,
  is_passive boolean not null default false,
  wakes_for text[],
  owner_role name not null default session_user,
  current_job_id uuid,
  metadata signal not null default '{}'
    constraint queue_heartbeat_metadata_check check (octet_length(metadata::text) <= 4096)
) with (fillfactor = 10);
comment on table queue_heartbeat is 'Executors: who they are, who owns the name, and when they last beat. Also when idle and when gated.';
comment on column queue_heartbeat.silent_since is 'Since when a silence lasts that was announced; null while the executor beats.';
comment on column queue_heartbeat.instance is 'The process that beats under the name; another one must wait until it is stale, or take over.';
comment on column queue_heartbeat.is_passive is 'A worker of the host that does not beat: its own cursor shows when it ran. Nobody may beat for it.';
comment on column queue_heartbeat.wakes_for is 'Kinds of jobs of which this executor wants to be told by its name while it is at rest; null: it hears what all are told.';
comment on column queue_heartbeat.owner_role is 'Only members of this role may beat or claim under the name.';
