-- Phase 014: the audit. For each closed window of the outbox: has every event a decision for every consumer that wanted it?

create table audit_mark (
  mark_id bigint generated always as identity primary key,
  watermark timestamptz not null,
  snapshot pg_snapshot not null,
  system_identifier bigint not null,
  marked_at timestamptz not null default clock_timestamp()
);
comment on table audit_mark is 'What the newest sweep had closed, kept for a day, and a snapshot that sees all of it. A domain whose position has read the snapshot is closed up to the watermark.';
comment on column audit_mark.watermark is 'Of the newest sweep: no transaction that began before it was open, and every event created before it has an arrival.';
comment on column audit_mark.system_identifier is 'The cluster whose transactions the snapshot names.';

create table audit_domain (
  event_domain text primary key,
  place_at timestamptz not null,
  place_id uuid not null,
  closed_until timestamptz not null,
  gap_at timestamptz not null default '-infinity',
  gap_id uuid not null default '00000000-0000-0000-0000-000000000000',
  events bigint not null default 0,
  expected bigint not null default 0,
  found bigint not null default 0,
  missing bigint not null default 0,
  repaired bigint not null default 0,
  unproven bigint not null default 0
);
comment on table audit_domain is 'How far the audit has come in each domain, and what it has counted since it began.';
comment on column audit_domain.place_at is 'With place_id: every event up to there has been looked at.';
comment on column audit_domain.closed_until is 'Every event created before had been dispatched when it was last looked at.';
comment on column audit_domain.gap_at is 'With gap_id: open gaps of events up to there have been looked at again. The next pass goes on behind it, and behind the last from the beginning.';
comment on column audit_domain.unproven is 'Pairs of event and consumer that it cannot judge: the consumer changed about then, or the recipients did, or the keys of that time are forgotten.';

create table audit_consumer (
  version_id bigint generated always as identity primary key,
  consumer_key text not null,
  event_domain text not null,
  consumer jsonb not null,
  changed_at timestamptz not null,
  seen_at timestamptz not null,
  holds_until timestamptz,
  replaced_at timestamptz
);
create unique index audit_consumer_standing_idx on audit_consumer (consumer_key) where replaced_at is null;
create index audit_consumer_domain_idx on audit_consumer (event_domain, seen_at);
comment on table audit_consumer is 'What each row of consumer_registry said, and for which events that is known. A row is ended once, when another text is found, and kept.';
comment on column audit_consumer.changed_at is 'updated_at of the row: the change was committed later.';
comment on column audit_consumer.seen_at is 'The change had been committed by then: every event created later met this text, or a newer one.';
comment on column audit_consumer.holds_until is 'Every event created before was dispatched while the row still said this.';
comment on column audit_consumer.replaced_at is 'When an audit found another text, or none. Null: it stands.';

create table dispatch_gap (
  event_id uuid not null,
  consumer_key text not null,
  event_domain text not null,
  event_type text not null,
  event_created_at timestamptz not null,
  found_at timestamptz not null default clock_timestamp(),
  closed_at timestamptz,
  outcome text
    constraint dispatch_gap_outcome_check check (outcome in ('repaired', 'decided', 'not_wanted', 'event_gone')),
  primary key (event_id, consumer_key),
  constraint dispatch_gap_closed_check check ((closed_at is null) = (outcome is null))
);
create index dispatch_gap_open_idx on dispatch_gap (event_domain, event_created_at, event_id) where closed_at is null;
create index dispatch_gap_consumer_idx on dispatch_gap (event_domain, consumer_key, event_created_at, event_id) where closed_at is null;
create index dispatch_gap_closed_idx on dispatch_gap (closed_at) where closed_at is not null;
comment on table dispatch_gap is 'Events that had no decision for a consumer that wanted them, as the audit found them.';
comment on column dispatch_gap.outcome is 'repaired: the audit made the job. decided: somebody else did. not_wanted: the consumer does not want the event any more. event_gone: there is no such event any more.';
