-- Phase 002: the reading order. Arrivals are written by the producer's own transaction, passes are appended by
-- the dispatcher; nothing here is updated in place, so a session that holds a snapshot costs no dead rows.

create table event_arrival (
  arrival_seq bigint generated always as identity (cache 32),
  tx_id xid8 not null,
  event_domain text not null,
  event_id uuid not null
) with (autovacuum_vacuum_insert_scale_factor = 0.05, vacuum_truncate = off);
create index event_arrival_order_idx on event_arrival (event_domain, tx_id, arrival_seq);
comment on table event_arrival is 'Append-only: which transaction wrote which event. The dispatcher reads the outbox through it, in an order that loses nothing.';
comment on column event_arrival.tx_id is 'The writing transaction (top level); compared with snapshots, never with clocks.';
comment on column event_arrival.arrival_seq is 'Order within one transaction; across transactions it promises nothing.';

create table dispatch_cursor (
  event_domain text primary key,
  system_identifier bigint not null,
  created_at timestamptz not null default clock_timestamp()
);
comment on table dispatch_cursor is 'One static row a domain. Its row lock elects the dispatcher of the domain; a pass never updates it.';
comment on column dispatch_cursor.system_identifier is 'The cluster whose transaction ids the positions speak of; another one means a restored dump.';

create table dispatch_pass (
  pass_id bigint generated always as identity,
  event_domain text not null,
  snapshot_old pg_snapshot not null,
  snapshot_new pg_snapshot not null,
  place_tx xid8,
  place_seq bigint,
  events int not null,
  jobs int not null,
  duplicates int not null,
  errors int not null,
  found_by text not null,
  finished_at timestamptz not null default clock_timestamp(),
  took interval not null default interval '0'
) with (vacuum_truncate = off);
create unique index dispatch_pass_newest_idx on dispatch_pass (event_domain, pass_id);
comment on table dispatch_pass is 'Append-only: every pass that read something, with the position after it. The newest row of a domain is its position.';
comment on column dispatch_pass.snapshot_old is 'What this snapshot saw had been read before the pair was begun.';
comment on column dispatch_pass.snapshot_new is 'What this snapshot sees and the older does not is being read.';
comment on column dispatch_pass.place_tx is 'Place within the pair (with place_seq); null when the pair has been read to its end.';
comment on column dispatch_pass.found_by is 'What made the dispatcher look: notify, poll, look, start, control or tick.';

create table dispatch_sweep (
  sweep_id bigint generated always as identity primary key,
  swept_at timestamptz not null,
  swept_from timestamptz not null,
  watermark timestamptz not null,
  snapshot pg_snapshot not null,
  missing int not null
);
comment on table dispatch_sweep is 'Append-only: every sweep that moved its watermark far enough or found something.';
comment on column dispatch_sweep.watermark is 'No transaction that began before this moment was still open; the next sweep begins here.';

create table dispatch_error (
  event_id uuid not null,
  consumer_key text not null,
  event_domain text not null,
  sqlstate text not null,
  message text not null,
  tries int not null default 1,
  first_at timestamptz not null default clock_timestamp(),
  last_at timestamptz not null default clock_timestamp(),
  primary key (event_id, consumer_key)
);
create index dispatch_error_first_at_idx on dispatch_error (first_at);
comment on table dispatch_error is 'Events that one consumer row could not digest. The others were served. fn_consumer_dispatch(event_id) tries again.';
