-- Phase 011: trigger-in. Rows of iu_sql_event_route turn an insert, an update or a delete on a table into an event.

insert into host_object (object_name, created)
select 'iu_sql_event_route', not exists (
  select from pg_class c where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route');

create table if not exists iu_sql_event_route (
  route_code text primary key,
  source_object_kind text not null default 'table',
  source_schema text not null,
  source_table text not null,
  sql_event text not null
    constraint iu_sql_event_route_sql_event_check check (sql_event in ('insert', 'update', 'delete')),
  target_event_domain text not null
    constraint iu_sql_event_route_target_event_domain_check check (target_event_domain in
      ('iu', 'iu_sql', 'piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health')),
  target_event_type text not null,
  target_event_stream text,
  enabled boolean not null default false,
  dry_run boolean not null default true,
  fail_closed boolean not null default false,
  idempotency_policy text not null default 'per_change',
  payload_contract jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);

do $$
begin
  if (select h.created from host_object h where h.object_name = 'iu_sql_event_route') then
    comment on table iu_sql_event_route is 'Routes: which insert, update or delete of which table becomes which event. Written by fn_route_put.';
    comment on column iu_sql_event_route.target_event_stream is 'The stream of the type when the route was written; the event gets the registry''s.';
    comment on column iu_sql_event_route.dry_run is 'Count and keep samples, emit nothing.';
    comment on column iu_sql_event_route.fail_closed is 'true: a write whose event cannot be emitted is refused. false: it passes, and event_route_fault tells.';
    comment on column iu_sql_event_route.idempotency_policy is 'per_row: once ever for a row; per_transaction: once for a row in a transaction; per_change: each time.';
    comment on column iu_sql_event_route.payload_contract is 'columns that may travel, templates subject_ref, canonical_address and correlation_id, when_changed.';
  end if;
end
$$;

create table event_route (
  route_code text primary key,
  actor text not null,
  written_by name not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  events bigint not null default 0,
  dry_run_events bigint not null default 0,
  consent_no int not null default 0,
  said_at timestamptz not null default clock_timestamp(),
  was_live boolean not null default false,
  rows_sql text,
  rows_for jsonb,
  rows_consent text,
  rows_columns text[],
  rows_shape text
);
comment on table event_route is 'Which rows of iu_sql_event_route are ours, and who wrote them last. Others are the host''s, and left alone.';
comment on column event_route.events is 'Events emitted so far, as far as fn_route_prune has added them up.';
comment on column event_route.dry_run_events is 'Events that it would have emitted in its dry run, likewise.';
comment on column event_route.rows_sql is 'What fn_route_rows made, for the trigger to run; it makes it anew when the route or the table is another than below.';
comment on column event_route.consent_no is 'The number of the consent in its trigger that is valid: the table''s owner gives a new one when the route is switched on; switching it off ends it.';
comment on column event_route.said_at is 'When what it tells, or of which table, changed last.';
comment on column event_route.was_live is 'It has been live as it is since then.';
comment on column event_route.rows_for is 'What of the route it was made for.';
comment on column event_route.rows_consent is 'The trigger''s argument that covers that; null when none does.';
comment on column event_route.rows_columns is 'The columns of the contract and of the primary key.';
comment on column event_route.rows_shape is 'fn_route_shape of the table when it was made.';

-- No index and no key: a writer of a routed table pays for one short row, and waits for nobody.
create table event_route_count (
  route_code text not null,
  is_dry boolean not null,
  events bigint not null
);
comment on table event_route_count is 'Append-only: how many events each statement made, until fn_route_prune adds them to event_route.';

create table event_route_key (
  route_code text collate "C" not null,
  row_key text collate "C" not null,
  tx_id xid8,
  noted_at timestamptz not null default clock_timestamp(),
  primary key (route_code, row_key)
);
create index event_route_key_noted_at_idx on event_route_key (noted_at) where tx_id is not null;
comment on table event_route_key is 'What routes with the policy per_row or per_transaction have told already.';
comment on column event_route_key.row_key is 'The source, the statement''s kind and the primary key as JSON; its SHA-256 when that is long.';
comment on column event_route_key.tx_id is 'The transaction, for per_transaction; such rows are removed after a day.';

create table event_route_fault (
  fault_id bigint generated always as identity primary key,
  route_code text not null,
  noted_at timestamptz not null default clock_timestamp(),
  sqlstate text not null,
  message text not null,
  changes bigint,
  dry_run boolean not null,
  written_by name not null default session_user
);
create index event_route_fault_route_idx on event_route_fault (route_code, fault_id);
comment on table event_route_fault is 'Append-only: writes that passed without their events, because the route is not fail_closed or in its dry run.';
comment on column event_route_fault.changes is 'How many changes got no event; null: all of the statement.';

create table event_route_sample (
  sample_id bigint generated always as identity primary key,
  route_code text not null,
  noted_at timestamptz not null default clock_timestamp(),
  statements bigint not null,
  changes bigint not null,
  events bigint not null,
  duplicates bigint not null,
  unfit bigint not null,
  sample jsonb
);
create index event_route_sample_route_idx on event_route_sample (route_code, sample_id);
comment on table event_route_sample is 'Append-only: what each statement would have emitted in a dry run. Old rows are added up into one.';
comment on column event_route_sample.sample is 'The first events of the statement: subject and payload, nothing beyond the contract. Null in sums.';

create table host_constraint (
  table_name text not null,
  constraint_name text not null,
  definition text not null,
  noted_at timestamptz not null default clock_timestamp(),
  primary key (table_name, constraint_name)
);
comment on table host_constraint is 'Constraints of the host that were widened here, as they were; the down step puts them back.';

-- The one exception to "adopted as it is": a host that knows only iu and iu_sql gets the ten domains.
do $$
declare
  v_old text;
begin
  select pg_get_constraintdef(k.oid) into v_old
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route'
    and k.conname = 'iu_sql_event_route_target_event_domain_check' and k.contype = 'c'
    and not (select h.created from host_object h where h.object_name = 'iu_sql_event_route');
  if not found or not exists (
    select from unnest(array['piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health']) d
    where strpos(v_old, quote_literal(d)) = 0)
  then
    return;
  end if;
  alter table iu_sql_event_route drop constraint iu_sql_event_route_target_event_domain_check;
  -- what was legal stays legal, whatever it was
  execute format(
    'alter table iu_sql_event_route add constraint iu_sql_event_route_target_event_domain_check check ((%s) or target_event_domain in (%s))',
    regexp_replace(regexp_replace(v_old, '\s+NOT VALID$', ''), '^CHECK \((.*)\)(?: NO INHERIT)?$', '\1'),
    $d$'iu', 'iu_sql', 'piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health'$d$);
  insert into host_constraint (table_name, constraint_name, definition)
  values ('iu_sql_event_route', 'iu_sql_event_route_target_event_domain_check', v_old);
exception when insufficient_privilege then
  raise notice 'iu_sql_event_route is another role''s: its check on target_event_domain stays as it is, and routes to other domains are refused by it';
end
$$;
