-- Phase 004: what happens after a failure: dead letters, who may decide about them, and the keys of retry and reaper.

-- What may not be tried again. One row each time a job dies; the job's own row stays in job_queue as dead_letter.
create table job_dead_letter (
  dead_letter_id uuid primary key default fn_uuid_v7(),
  job_id uuid not null,
  job_kind job_kind not null,
  event_domain text,
  executor executor_kind not null,
  consumer_key text,
  reason_class text not null
    constraint job_dead_letter_reason_check check (reason_class in ('attempts_exhausted', 'permanent', 'lease_lost')),
  error text,
  job jsonb not null,
  attempts jsonb not null,
  previous_dead_letter_id uuid,
  triage_status text not null default 'open'
    constraint job_dead_letter_triage_check check (triage_status in
      ('open', 'investigating', 'manual_replay', 'discarded', 'superseded', 'closed')),
  triage_actor text,
  triage_role name,
  triage_note text,
  triaged_at timestamptz,
  replayed_at timestamptz,
  replayed_by name,
  authorization_source text,
  created_at timestamptz not null default clock_timestamp()
);
create index job_dead_letter_open_idx on job_dead_letter (created_at, dead_letter_id)
  where triage_status in ('open', 'investigating', 'manual_replay');
create index job_dead_letter_job_idx on job_dead_letter (job_id, created_at);
comment on table job_dead_letter is 'Jobs that may not be tried again, with all that is known: the job, its attempts, why. Decided about by triage.';
comment on column job_dead_letter.reason_class is 'attempts_exhausted: it failed too often. permanent: trying again cannot help. lease_lost: its workers went away.';
comment on column job_dead_letter.job is 'The whole row of job_queue at that moment.';
comment on column job_dead_letter.attempts is 'The rows of job_attempt at that moment, oldest first.';
comment on column job_dead_letter.previous_dead_letter_id is 'The dead letter that was replayed and failed again.';
comment on column job_dead_letter.authorization_source is 'Where it stands that the replay was allowed: a ticket, a decision, a person.';

-- Who may decide about dead letters: rows, so that the right can be given by domain.
create table dead_letter_authority (
  event_domain text not null,
  role_name name not null,
  may_triage boolean not null default true,
  may_replay boolean not null default false,
  actor text not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  primary key (event_domain, role_name)
);
comment on table dead_letter_authority is 'Which role may triage and replay dead letters of which domain; * is every domain, and jobs without one.';
insert into dead_letter_authority (event_domain, role_name, may_triage, may_replay)
select '*', r, true, true from (values ('reveille_operator'::name), (current_user::name)) v (r) group by r;
