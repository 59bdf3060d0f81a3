-- Functions of phase 002: waking, recording arrivals, reading ranges between snapshots, sweeping, pruning.

-- The mark "somebody looks by himself until …" of a channel. A sequence is read and written in place, outside
-- MVCC: visible at once at every isolation level, and no dead rows. Milliseconds since 1970; 1 means armed.
create or replace function fn_wake_mark(p_channel text) returns bigint
language sql volatile
return coalesce(pg_sequence_last_value(to_regclass(quote_ident('awake_' || p_channel))), 1);
comment on function fn_wake_mark(text) is 'Until when (ms since 1970) the sleepers of a channel need no NOTIFY; 1 when they do.';

-- Announces on a channel that there is something to look at, unless who listens is awake anyway (trap 1: NOTIFY
-- takes a cluster-wide lock at commit). Called by the arrivals trigger and by whatever makes jobs ready.
-- `set reveille.notify = off` keeps a transaction free of NOTIFY, which PREPARE TRANSACTION demands. Somebody else's
-- session that listens and never ends its transaction can fill the queue of notifications, and then every commit with
-- a NOTIFY fails (trap 4): once it is half full nothing is announced, and the poll finds what there is.
create or replace function fn_wake(p_channel text, p_name text default '') returns void
language plpgsql volatile set search_path from current
as $$
begin
  if fn_wake_mark(p_channel) <= fn_epoch_ms(clock_timestamp())
    and to_regclass(quote_ident('awake_' || p_channel)) is not null -- a domain that is not dispatched: nobody listens
    and coalesce((select c.value from dot_config c where c.key = 'queue.notify.bridge_enabled'), '') = 'true'
    and coalesce(current_setting('reveille.notify', true), '') <> 'off'
    and pg_notification_queue_usage() < 0.5::float8
  then
    perform pg_notify(p_channel, p_name);
  end if;
end
$$;
comment on function fn_wake(text, text)
  is 'NOTIFY to all who listen on a channel, or to the one named; only when they sleep and queue.notify.bridge_enabled is open.';
revoke all on function fn_wake(text, text) from public;

-- Says "awake for so many milliseconds": producers skip NOTIFY. Called by a dispatcher or worker that looks by itself.
create or replace function fn_wake_awake(p_channel text, p_milliseconds int) returns void
language sql volatile security definer set search_path from current
as $$
  select setval(to_regclass(quote_ident('awake_' || p_channel)), fn_epoch_ms(clock_timestamp()) + least(greatest(p_milliseconds, 1), 60000));
$$;
comment on function fn_wake_awake(text, int) is 'Sets the awake mark of a channel so many milliseconds ahead, at most a minute.';

-- Says "asleep: notify me", and answers its own transaction id. Whoever read the mark before it fell had a smaller
-- one: as long as one of those is open, it may commit without a NOTIFY (blind transactions, engine.md section 3).
-- A snapshot taken here would not do: it ends at the newest transaction that has *completed* and does not know the
-- running ones after it. One taken after this call has committed does.
create or replace function fn_wake_arm(p_channel text) returns xid8
language plpgsql volatile security definer set search_path from current
as $$
begin
  perform setval(to_regclass(quote_ident('awake_' || p_channel)), 1);
  return pg_current_xact_id();
end
$$;
comment on function fn_wake_arm(text) is 'Drops the awake mark of a channel; transactions older than the answer may have read it before.';

-- Creates the awake mark of a channel. Called by migrations and fn_dispatch_domain_add.
create or replace function fn_wake_channel_add(p_channel text) returns void
language plpgsql volatile set search_path from current
as $$
begin
  execute format('create sequence if not exists %I minvalue 1', 'awake_' || p_channel);
end
$$;
comment on function fn_wake_channel_add(text) is 'Creates the sequence that holds a channel''s awake mark.';
revoke all on function fn_wake_channel_add(text) from public;

-- A position that ends now. A transaction's own snapshot takes its own id for completed as soon as a younger one has
-- completed; but it goes on, so here it is listed as running, and what it writes is read later.
create or replace function fn_dispatch_snapshot() returns pg_snapshot
language plpgsql volatile set search_path from current
as $$
declare
  v_own xid8 := pg_current_xact_id();
  v_now pg_snapshot := pg_current_snapshot();
begin
  if v_own >= pg_snapshot_xmax(v_now) then
    return v_now;
  end if;
  return format('%s:%s:%s', least(v_own, pg_snapshot_xmin(v_now)), pg_snapshot_xmax(v_now), (
    select string_agg(x.x::text, ',' order by x.x)
    from (select x from pg_snapshot_xip(v_now) as r (x) union select v_own) x))::pg_snapshot;
end
$$;
comment on function fn_dispatch_snapshot() is 'The current snapshot, with the caller''s own transaction among the running ones.';
revoke all on function fn_dispatch_snapshot() from public;

-- Begins to dispatch a domain: its cursor row, its awake mark and its first position, which is "from now".
create or replace function fn_dispatch_domain_add(p_event_domain text) returns void
language plpgsql volatile set search_path from current
as $$
begin
  if p_event_domain !~ '^[a-z][a-z0-9_]{0,40}$' then
    raise exception 'event_domain % must be lower case letters, digits and underscores, at most 41', quote_literal(p_event_domain)
      using errcode = '22023';
  end if;
  perform fn_wake_channel_add('queue_wake_' || p_event_domain);
  insert into dispatch_cursor (event_domain, system_identifier)
  select p_event_domain, s.system_identifier from pg_control_system() s
  on conflict do nothing;
  if found then
    insert into dispatch_pass (event_domain, snapshot_old, snapshot_new, events, jobs, duplicates, errors, found_by)
    select p_event_domain, s.now, s.now, 0, 0, 0, 0, 'start' from fn_dispatch_snapshot() as s (now);
  end if;
end
$$;
comment on function fn_dispatch_domain_add(text) is 'Adds a domain to dispatch; history before this moment does not flow.';
revoke all on function fn_dispatch_domain_add(text) from public;

do $$
begin
  perform fn_dispatch_domain_add(d) from unnest(array[
    'iu', 'piece', 'staging', 'birth_registry', 'governance', 'tac', 'kg', 'system', 'dot', 'health']) d;
end
$$;

-- Records what a statement inserted into the outbox, inside the producer's transaction, then wakes the dispatcher
-- if it sleeps. Recorded first: an xid is then held while the mark is read, which is what makes arming safe. All rows
-- are recorded before the first turn of the loop. Every producer pays for this, so it is made to be cheap: the mark is
-- read in line, and names carry their schema instead of a path that would be set and taken back at each call (a
-- quarter of the whole). With the caller's path, types too need their schema, and operators are named as functions.
do $do$
begin
  execute format($format$
create or replace function fn_event_arrival_record() returns trigger
language plpgsql security definer
as $function$
declare
  v_domain pg_catalog.text;
  v_last pg_catalog.text := '';
  v_seen pg_catalog.text[];
begin
  for v_domain in
    insert into %1$I.event_arrival (tx_id, event_domain, event_id)
    select pg_catalog.pg_current_xact_id(), i.event_domain, i.id from inserted i
    returning event_domain
  loop
    continue when pg_catalog.texteq(v_domain, v_last) or pg_catalog.array_position(v_seen, v_domain) is not null;
    if pg_catalog.textne(v_last, '') then
      v_seen := pg_catalog.array_append(v_seen, v_last);
    end if;
    v_last := v_domain;
    if pg_catalog.int4le(pg_catalog.octet_length(v_domain), 41) -- no channel has a longer name; the poll finds the others
      and pg_catalog.float8le(
        coalesce(pg_catalog.pg_sequence_last_value(pg_catalog.to_regclass(
          pg_catalog.textcat(%2$L, pg_catalog.quote_ident(pg_catalog.textcat('awake_queue_wake_', v_domain))))), 1),
        pg_catalog.float8mul(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()), 1000))
    then
      perform %1$I.fn_wake(pg_catalog.textcat('queue_wake_', v_domain));
    end if;
  end loop;
  return null;
end
$function$
  $format$, current_schema(), quote_ident(current_schema()) || '.');
end
$do$;
comment on function fn_event_arrival_record() is 'Trigger of event_outbox, once a statement: appends arrivals and wakes the dispatcher.';
revoke all on function fn_event_arrival_record() from public;

create or replace trigger reveille_event_arrival
after insert on event_outbox
referencing new table as inserted
for each statement execute function fn_event_arrival_record();

-- The stretches of event_arrival that the newer snapshot sees and the older does not, after a place, in reading
-- order (tx, seq): first the transactions that the older listed as running, then everything from its xmax on, cut
-- into the gaps between those still running, so that an open transaction's rows are never walked over.
create or replace function fn_arrival_ranges(p_old pg_snapshot, p_new pg_snapshot, p_place_tx xid8, p_place_seq bigint)
returns table (low_tx xid8, low_seq bigint, high_tx xid8, high_seq bigint)
language sql stable parallel safe rows 4
begin atomic
  with late as (
    select x.x as low_tx, 0::bigint as low_seq, x.x as high_tx, 9223372036854775807 as high_seq
    from pg_snapshot_xip(p_old) as x (x)
    where pg_visible_in_snapshot(x.x, p_new)
  ),
  edges as (
    select pg_snapshot_xmax(p_old) as tx, 0::bigint as seq
    union all
    select x.x, 9223372036854775807 from pg_snapshot_xip(p_new) as x (x) where x.x >= pg_snapshot_xmax(p_old)
  ),
  gaps as (
    select e.tx, e.seq, lead(e.tx, 1, pg_snapshot_xmax(p_new)) over (order by e.tx, e.seq) as high_tx, 0::bigint as high_seq
    from edges e
  ),
  ranges as (
    select * from late
    union all
    select * from gaps g where (g.tx, g.seq) < (g.high_tx, g.high_seq)
  )
  select
    case when p_place_tx is null or (r.low_tx, r.low_seq) > (p_place_tx, p_place_seq) then r.low_tx else p_place_tx end,
    case when p_place_tx is null or (r.low_tx, r.low_seq) > (p_place_tx, p_place_seq) then r.low_seq else p_place_seq end,
    r.high_tx,
    r.high_seq
  from ranges r
  where p_place_tx is null or (r.high_tx, r.high_seq) > (p_place_tx, p_place_seq)
  order by 1, 2;
end;
comment on function fn_arrival_ranges(pg_snapshot, pg_snapshot, xid8, bigint)
  is 'Half-open stretches (low, high) of (tx_id, arrival_seq) to read between two snapshots, after a place.';

-- The oldest arrival of a domain that no pass has read yet, or null. Called by the poll and by v_queue_health.
create or replace function fn_dispatch_unread(p_event_domain text) returns uuid
language plpgsql stable security definer set search_path from current set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set jit = off
as $$
declare
  v_pass dispatch_pass;
  v_event uuid;
begin
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  select a.event_id into v_event
  from (
    select r.* from fn_arrival_ranges(v_pass.snapshot_old, v_pass.snapshot_new, v_pass.place_tx, v_pass.place_seq) r
    where v_pass.place_tx is not null
    union all
    select r.* from fn_arrival_ranges(v_pass.snapshot_new, pg_current_snapshot(), null, null) r
  ) r
  cross join lateral (
    select a.event_id
    from event_arrival a
    where a.event_domain = p_event_domain
      and (a.tx_id, a.arrival_seq) > (r.low_tx, r.low_seq)
      and (a.tx_id, a.arrival_seq) < (r.high_tx, r.high_seq)
    order by a.tx_id, a.arrival_seq
    limit 1
  ) a
  limit 1;
  return v_event;
end
$$;
comment on function fn_dispatch_unread(text) is 'The event of the first unread arrival of a domain; null when everything committed has been read.';

-- Which of the domains have unread arrivals: the timer's one statement. With p_canary it also sends a notification
-- through that channel, so that a dead listener is noticed without a statement of its own.
create or replace function fn_dispatch_poll(
  p_event_domains text[] default null,
  p_canary text default null,
  p_canary_token text default ''
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  if p_canary is not null then
    perform pg_notify(p_canary, p_canary_token);
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    -- closed: positions stay where they are, nothing is lost
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled', 'domains', jsonb_build_array());
  end if;
  return jsonb_build_object('refused', false, 'domains', coalesce((
    select jsonb_agg(c.event_domain)
    from dispatch_cursor c
    where (p_event_domains is null or c.event_domain = any (p_event_domains))
      and fn_dispatch_unread(c.event_domain) is not null), '[]'));
end
$$;
comment on function fn_dispatch_poll(text[], text, text) is 'Domains with committed events that no pass has read; refused while queue.job_substrate.enabled is closed.';

-- Whether a domain's position names transactions that this cluster has not begun yet: a dump restored in place.
create or replace function fn_dispatch_position_is_ahead(p_event_domain text) returns boolean
language plpgsql stable security definer set search_path from current
as $$
begin
  return coalesce((
    select pg_snapshot_xmax(p.snapshot_new) > pg_snapshot_xmax(pg_current_snapshot())
    from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1), false);
end
$$;
comment on function fn_dispatch_position_is_ahead(text) is 'Whether the position of a domain lies in the future of this cluster.';
revoke all on function fn_dispatch_position_is_ahead(text) from public;

-- Compares the cluster with the one the positions speak of. After a restored dump their transaction ids mean nothing
-- here: the arrivals that are kept are stamped anew and read again (the unique key of job_queue absorbs repeats).
-- The new position is taken first: what commits while the arrivals are stamped is read, too. Sweeps keep their moments
-- and get a snapshot before the stamp. Called by a dispatcher at start and after each reconnect.
create or replace function fn_dispatch_attach() returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_domains text[];
  v_snapshot pg_snapshot;
begin
  if not exists (
    select from dispatch_cursor c
    where c.system_identifier <> v_system or fn_dispatch_position_is_ahead(c.event_domain))
  then
    return jsonb_build_object('refused', false, 'restored', false);
  end if;
  perform from dispatch_cursor c order by c.event_domain for update;
  select array_agg(c.event_domain order by c.event_domain) into v_domains
  from dispatch_cursor c where c.system_identifier <> v_system or fn_dispatch_position_is_ahead(c.event_domain);
  if v_domains is null then
    return jsonb_build_object('refused', false, 'restored', false); -- another sidecar has done it meanwhile
  end if;
  v_snapshot := fn_dispatch_snapshot();
  update event_arrival set tx_id = pg_current_xact_id() where event_domain = any (v_domains);
  insert into dispatch_pass (event_domain, snapshot_old, snapshot_new, events, jobs, duplicates, errors, found_by)
  select d, v_snapshot, v_snapshot, 0, 0, 0, 0, 'start' from unnest(v_domains) d;
  update dispatch_sweep set snapshot = v_snapshot;
  update dispatch_cursor set system_identifier = v_system where event_domain = any (v_domains);
  return jsonb_build_object('refused', false, 'restored', true, 'domains', to_jsonb(v_domains));
end
$$;
comment on function fn_dispatch_attach() is 'Notices a restored dump and makes its positions valid in this cluster; otherwise changes nothing.';

-- The sweep: appends arrivals for events that have none (trigger disabled, dropped, skipped by replication or
-- restore). It needs no trigger. Its window begins at the last watermark: no transaction that began before that
-- moment was open then, and created_at is the start of the producer's transaction. One sweeper at a time.
create or replace function fn_event_sweep(p_margin interval default interval '60 seconds', p_now timestamptz default null)
returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_snapshot pg_snapshot := pg_current_snapshot(); -- before the clock: who began after swept_at is not in it
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_last dispatch_sweep;
  v_from timestamptz;
  v_watermark timestamptz;
  v_oldest_open timestamptz;
  v_oldest_tx xid8;
  v_margin interval := p_margin;
  v_missing jsonb;
  v_count int;
  v_alarm uuid;
  v_trouble text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_event_sweep needs READ COMMITTED: an older snapshot would miss what another sweep appended'
      using errcode = '25001';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_event_sweep', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'missing', 0);
  end if;
  select s.* into v_last from dispatch_sweep s order by s.sweep_id desc limit 1;
  v_from := coalesce(v_last.watermark, (select min(c.created_at) from dispatch_cursor c));
  -- Who is open before the look below may commit what it does not see: the watermark stays behind them. Sessions
  -- first, then prepared transactions, as a transaction goes from the ones to the others; these hide when they began.
  select min(a.xact_start) into v_oldest_open
  from pg_stat_activity a where a.datname = current_database() and a.backend_type <> 'autovacuum worker';
  if exists (select from pg_prepared_xacts x where x.database = current_database()) then
    v_oldest_open := v_from;
  end if;
  -- who may not see other sessions' transactions cannot know how old they are
  if not pg_has_role(current_user, 'pg_read_all_stats', 'usage') then
    v_margin := greatest(v_margin, interval '1 hour');
  end if;
  v_watermark := greatest(v_from, least(v_now - v_margin, v_oldest_open));

  -- arrivals of events within the window were written by transactions that began after some earlier sweep
  select pg_snapshot_xmin(s.snapshot) into v_oldest_tx
  from dispatch_sweep s where s.swept_at <= v_from order by s.sweep_id desc limit 1;

  with appended as (
    insert into event_arrival (tx_id, event_domain, event_id)
    select pg_current_xact_id(), e.event_domain, e.id
    from event_outbox e
    where e.created_at >= v_from
      and e.created_at <= v_now
      and not exists (
        select from event_arrival a
        where a.event_id = e.id and a.tx_id >= coalesce(v_oldest_tx, '0'::xid8))
    returning event_domain
  )
  select coalesce(jsonb_object_agg(d.event_domain, d.n), '{}'), coalesce(sum(d.n), 0)
  into v_missing, v_count
  from (select a.event_domain, count(*) as n from appended a group by a.event_domain) d;

  if v_count > 0 or v_last.sweep_id is null or v_watermark >= v_last.watermark + least(p_margin / 2, interval '30 seconds') then
    insert into dispatch_sweep (swept_at, swept_from, watermark, snapshot, missing)
    values (v_now, v_from, v_watermark, v_snapshot, v_count);
  end if;
  if v_count > 0 then
    perform fn_wake('queue_wake_' || d) from jsonb_object_keys(v_missing) d;
    begin
      select fn_event_emit('system', 'queue_dispatch_gap', 'sweep', jsonb_build_object('missing', v_missing, 'swept_from', v_from))
      into v_alarm
      from event_type_registry r
      where r.event_domain = 'system' and r.event_type = 'queue_dispatch_gap' and r.active;
      -- while there is no trigger, the alarm itself would be the next sweep's gap, and so on for ever
      insert into event_arrival (tx_id, event_domain, event_id)
      select pg_current_xact_id(), 'system', v_alarm
      where v_alarm is not null
        and not exists (select from event_arrival a where a.event_id = v_alarm and a.tx_id = pg_current_xact_id());
    exception when others then
      v_trouble := sqlerrm; -- an outbox that takes no such row must not undo the repair
    end;
  end if;
  return jsonb_build_object('refused', false, 'busy', false, 'missing', v_count, 'domains', v_missing, 'swept_from', v_from, 'watermark', v_watermark,
    'alarm_error', v_trouble);
end
$$;
comment on function fn_event_sweep(interval, timestamptz) is 'Finds events without an arrival since the last watermark, appends and counts them, and emits system.queue_dispatch_gap if that type is registered.';

-- Removes what nobody will read again: arrivals below the lowest position of their domain and older than the
-- sweep's window, and passes older than p_keep_passes (the newest of each domain stays). At most p_limit rows each.
create or replace function fn_dispatch_prune(p_keep_passes interval default interval '24 hours', p_limit int default 50000)
returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_arrivals bigint := 0;
  v_passes bigint;
  v_sweeps bigint;
  v_part bigint;
  v_swept_tx xid8;
  r record;
begin
  select pg_snapshot_xmin(s.snapshot) into v_swept_tx
  from dispatch_sweep s
  where s.swept_at < (select max(n.watermark) from dispatch_sweep n)
  order by s.sweep_id desc limit 1;
  for r in
    -- the domains that there are, one index probe each; whoever has no cursor is read by nobody
    with recursive domains (event_domain) as (
      (select a.event_domain from event_arrival a order by a.event_domain limit 1)
      union all
      select (select a.event_domain from event_arrival a where a.event_domain > d.event_domain order by a.event_domain limit 1)
      from domains d
      where d.event_domain is not null
    )
    select d.event_domain, least(v_swept_tx, pg_snapshot_xmin(p.snapshot_old)) as below
    from domains d
    left join lateral (
      select n.snapshot_old from dispatch_pass n where n.event_domain = d.event_domain order by n.pass_id desc limit 1) p on true
    where d.event_domain is not null and v_swept_tx is not null
  loop
    delete from event_arrival a
    where a.ctid = any (array(
      select b.ctid from event_arrival b
      where b.event_domain = r.event_domain and b.tx_id < r.below
      order by b.tx_id, b.arrival_seq
      limit p_limit));
    get diagnostics v_part = row_count;
    v_arrivals := v_arrivals + v_part;
  end loop;

  delete from dispatch_pass p
  where (p.event_domain, p.pass_id) in (
    select c.event_domain, o.pass_id
    from dispatch_cursor c
    cross join lateral ( -- the first that stays: a young one, or the newest
      select coalesce(
        (select d.pass_id from dispatch_pass d
         where d.event_domain = c.event_domain and d.finished_at >= clock_timestamp() - p_keep_passes
         order by d.pass_id limit 1),
        (select max(d.pass_id) from dispatch_pass d where d.event_domain = c.event_domain)) as kept) n
    cross join lateral (
      select d.pass_id from dispatch_pass d
      where d.event_domain = c.event_domain and d.pass_id < n.kept
      order by d.pass_id
      limit p_limit) o);
  get diagnostics v_passes = row_count;

  delete from dispatch_sweep s
  where s.swept_at < clock_timestamp() - greatest(p_keep_passes, interval '1 hour')
    and s.swept_at < (select max(n.watermark) from dispatch_sweep n) - interval '1 hour'
    and s.sweep_id < (select max(n.sweep_id) - 10 from dispatch_sweep n);
  get diagnostics v_sweeps = row_count;
  return jsonb_build_object('refused', false, 'arrivals', v_arrivals, 'passes', v_passes, 'sweeps', v_sweeps,
    'more', v_arrivals >= p_limit or v_passes >= p_limit);
end
$$;
comment on function fn_dispatch_prune(interval, int) is 'Deletes read arrivals and old passes in batches; answers how many of each.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_wake_awake(text, int)', 'fn_wake_arm(text)', 'fn_dispatch_poll(text[], text, text)', 'fn_dispatch_attach()',
    'fn_event_sweep(interval, timestamptz)', 'fn_dispatch_prune(interval, int)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher']);
  end loop;
  call pr_grant(format('execute on function %s', 'fn_wake_awake(text, int)'::regprocedure), array['reveille_executor']);
  call pr_grant(format('execute on function %s', 'fn_wake_arm(text)'::regprocedure), array['reveille_executor']);
  execute format('revoke all on function %s from public', 'fn_dispatch_unread(text)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_dispatch_unread(text)'::regprocedure),
    array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);
  call pr_grant('select on table dispatch_cursor', array['reveille_dispatcher', 'reveille_operator', 'reveille_reader']);
  call pr_grant('select on table event_arrival, dispatch_pass, dispatch_sweep, dispatch_error', array['reveille_operator', 'reveille_reader']);
end
$$;
