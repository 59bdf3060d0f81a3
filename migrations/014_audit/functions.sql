-- Functions of phase 014: what is closed, what was expected, what is missing, and mending it.

-- Until when every event of a domain has been dispatched, by created_at; null: not known. The sweep closes windows: nothing
-- that began before its watermark was open, and what had no arrival has one. Whatever was visible together with the watermark,
-- and has been read, has had its turn. On a busy domain there is always something unread: then an older watermark
-- holds, whose snapshot the position has passed. Volatile: each statement must look anew. (Traps 12, 13, 51.)
create or replace function fn_audit_closed_until(p_event_domain text) returns timestamptz
language plpgsql volatile set search_path from current
as $$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_watermark timestamptz;
  v_read pg_snapshot;
begin
  if not exists (select from dispatch_cursor c where c.event_domain = p_event_domain and c.system_identifier = v_system)
    or fn_dispatch_position_is_ahead(p_event_domain)
  then
    return null; -- a restored dump: its positions say nothing until fn_dispatch_attach
  end if;
  select s.watermark into v_watermark from dispatch_sweep s order by s.sweep_id desc limit 1;
  if v_watermark is null or fn_dispatch_unread(p_event_domain) is null then
    return v_watermark;
  end if;
  select case when p.place_tx is null then p.snapshot_new else p.snapshot_old end into v_read
  from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  return (
    select m.watermark from audit_mark m
    where m.system_identifier = v_system
      and pg_snapshot_xmax(m.snapshot) <= pg_snapshot_xmax(v_read)
      and not exists (select from pg_snapshot_xip(v_read) as x (x) where pg_visible_in_snapshot(x.x, m.snapshot))
    order by m.mark_id desc limit 1);
end
$$;
comment on function fn_audit_closed_until(text) is 'Every event of the domain created before this moment has been read by a pass; null when that is not known. Internal.';
revoke all on function fn_audit_closed_until(text) from public;

-- A row of consumer_registry as it is kept, whatever the caller's time zone.
create or replace function fn_audit_text(p_consumer consumer_registry) returns jsonb
language plpgsql stable set search_path from current set timezone = 'UTC' set intervalstyle = 'postgres'
as $$
begin
  return to_jsonb(p_consumer);
end
$$;
comment on function fn_audit_text(consumer_registry) is 'A consumer as audit_consumer keeps it. Internal.';
revoke all on function fn_audit_text(consumer_registry) from public;

-- Notes how consumer_registry reads now. Called by the audit's pass, after it has asked what is closed and before it says so
-- in audit_domain: a row that reads as it did last time has done so in between, as each change moves its updated_at;
-- of one that does not, only what was closed the last time is known to have met the old text.
create or replace function fn_audit_consumers_note(p_now timestamptz) returns int
language plpgsql volatile set search_path from current
as $$
declare
  v_changed int;
begin
  update audit_consumer v
  set replaced_at = coalesce(p_now, clock_timestamp()),
      holds_until = coalesce((select d.closed_until from audit_domain d where d.event_domain = v.event_domain), '-infinity')
  where v.replaced_at is null
    and not exists (select from consumer_registry c where c.consumer_key = v.consumer_key and fn_audit_text(c) = v.consumer);
  with noted as ( -- clock_timestamp() after the snapshot of this statement: what it sees was committed before
    insert into audit_consumer (consumer_key, event_domain, consumer, changed_at, seen_at)
    select c.consumer_key, c.event_domain, fn_audit_text(c), c.updated_at, coalesce(p_now, clock_timestamp())
    from consumer_registry c
    where not exists (select from audit_consumer v where v.consumer_key = c.consumer_key and v.replaced_at is null)
    returning 1
  )
  select count(*) into v_changed from noted;
  return v_changed;
end
$$;
comment on function fn_audit_consumers_note(timestamptz) is 'Notes changed rows of consumer_registry in audit_consumer; answers how many. Internal.';
revoke all on function fn_audit_consumers_note(timestamptz) from public;

-- One window: at most p_limit events of the outbox (of any domain, so that a quiet one costs no more) behind a place, in the
-- order of created_at. A pair of event and consumer counts as expected when the consumer's text at that time is known, it was
-- enabled, not in dry run, made jobs, and wanted the event. Decided: a job holds its key, in job_queue or the archive, or
-- dispatch_error tells why not; or the gap was found before, and is not wanted any more. Who fans out is judged by today's
-- recipients: if one of them lacks a job, it may have subscribed since, so the pair is unproven; and so is what has no key while
-- keys of its time are forgotten. Each key is one probe of an index; EXISTS might be hashed over the whole table.
create or replace function fn_audit_window(
  p_event_domain text, p_after_at timestamptz, p_after_id uuid, p_until timestamptz, p_limit int,
  out events int, out expected int, out present int, out missing int, out unproven int, out gaps jsonb,
  out next_at timestamptz, out next_id uuid, out more boolean)
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
  if not exists (
    select from audit_consumer v
    where v.event_domain = p_event_domain and (v.replaced_at is null or v.replaced_at > p_after_at) and v.changed_at < p_until
      and v.consumer @> '{"enabled": true, "dry_run": false}' and v.consumer ->> 'job_kind' is not null)
  then -- nobody wants anything: nothing to read
    events := 0; expected := 0; present := 0; missing := 0; unproven := 0; gaps := '[]'; more := false;
    next_at := greatest(p_until, p_after_at);
    next_id := case when next_at = p_after_at then p_after_id else '00000000-0000-0000-0000-000000000000' end;
    return;
  end if;
  select o.created_at, o.id into next_at, next_id
  from event_outbox o
  where o.created_at >= p_after_at and o.created_at < p_until and (o.created_at, o.id) > (p_after_at, p_after_id)
  order by o.created_at, o.id
  offset p_limit - 1
  limit 1;
  more := next_at is not null;
  if not more then
    next_at := greatest(p_until, p_after_at);
    next_id := case when next_at = p_after_at then p_after_id else '00000000-0000-0000-0000-000000000000' end;
  end if;
  with versions as materialized (
    select v.version_id, v.changed_at, coalesce(v.replaced_at, 'infinity') as replaced_at,
      -- read together with the keys: of older events nothing is known
      greatest(v.seen_at, (select f.until from job_archive_forgotten f)) as seen_at,
      case when v.replaced_at is not null then v.holds_until
        when fn_audit_text(c) = v.consumer then 'infinity'
        else coalesce(d.closed_until, '-infinity') end as holds_until,
      r.consumer_key, r.event_domain, r.event_type_like, r.event_stream, r.starts_at, r.filter, r.job_kind::text as job_kind,
      r.idempotency_key, r.fan_out
    from audit_consumer v
    cross join lateral jsonb_populate_record(null::consumer_registry, v.consumer) r
    left join consumer_registry c on c.consumer_key = v.consumer_key
    left join audit_domain d on d.event_domain = v.event_domain
    where v.event_domain = p_event_domain and r.enabled and not r.dry_run and r.job_kind is not null
      and (v.replaced_at is null or v.replaced_at > p_after_at) and v.changed_at <= next_at
  ),
  facts as materialized (
    select o as event, o.id, o.created_at, o.event_type::text as event_type
    from event_outbox o
    where o.created_at >= p_after_at and o.created_at <= next_at
      and (o.created_at, o.id) > (p_after_at, p_after_id)
      and (o.created_at, o.id) <= (next_at, next_id)
      and o.event_domain = p_event_domain
  ),
  pairs as materialized (
    select distinct on (f.id, v.consumer_key) f.id, f.created_at, f.event_type, f.event, v.consumer_key, v.job_kind, v.idempotency_key,
      v.fan_out, f.created_at >= v.seen_at and f.created_at < v.holds_until as is_proven
    from facts f
    join versions v on 'match' = fn_event_verdict(f.event, v.event_domain, v.event_type_like, v.event_stream, v.starts_at, v.filter)
      and f.created_at >= least(v.changed_at, v.seen_at) and f.created_at < v.replaced_at
    order by f.id, v.consumer_key, f.created_at >= v.seen_at and f.created_at < v.holds_until desc, v.version_id desc
  ),
  judged as materialized (
    select p.id, p.created_at, p.event_type, p.consumer_key, p.fan_out, p.is_proven,
      (select 1 from job_queue j where j.job_kind = p.job_kind and j.idempotency_key = k.key limit 1) is not null
        or (select 1 from job_archive_key a where a.job_kind = p.job_kind and a.idempotency_key = k.key limit 1) is not null
        or (select 1 from dispatch_error d where d.event_id = p.id and d.consumer_key = p.consumer_key limit 1) is not null
        or (select 1 from dispatch_gap g
          where g.event_id = p.id and g.consumer_key = p.consumer_key and g.outcome = 'not_wanted' limit 1) is not null as is_decided
    from pairs p
    cross join lateral (
      select fn_job_key(fn_template_render(p.idempotency_key, p.consumer_key, p.event)) as key offset 0) k
    where p.fan_out is null
    union all
    select p.id, p.created_at, p.event_type, p.consumer_key, p.fan_out, p.is_proven,
      (select 1 from dispatch_error d where d.event_id = p.id and d.consumer_key = p.consumer_key limit 1) is not null or r.all_there
    from pairs p
    cross join lateral (
      select bool_and(
          (select 1 from job_queue j where j.job_kind = p.job_kind and j.idempotency_key = k.key limit 1) is not null
          or (select 1 from job_archive_key a where a.job_kind = p.job_kind and a.idempotency_key = k.key limit 1) is not null) as all_there
      from (
        select distinct s.recipient_ref from fn_event_recipient_rows(array[p.id]) s where s.muted_by is null) s
      cross join lateral (
        select fn_job_key(fn_recipient_template(p.idempotency_key, p.consumer_key,
          jsonb_set(fn_event_document(p.event), '{event,recipient}', to_jsonb(s.recipient_ref)))) as key offset 0) k) r
    where p.fan_out is not null and r.all_there is not null -- null: it is for nobody
  )
  select
    (select count(*) from facts),
    count(*) filter (where j.is_proven and (j.fan_out is null or j.is_decided)),
    count(*) filter (where j.is_proven and j.is_decided),
    count(*) filter (where j.is_proven and j.fan_out is null and not j.is_decided),
    count(*) filter (where not j.is_decided and (not j.is_proven or j.fan_out is not null)),
    coalesce(jsonb_agg(jsonb_build_object('event_id', j.id, 'consumer_key', j.consumer_key, 'event_type', j.event_type, 'created_at', j.created_at)
      order by j.created_at, j.id, j.consumer_key) filter (where j.is_proven and j.fan_out is null and not j.is_decided), '[]')
  into events, expected, present, missing, unproven, gaps
  from judged j;
end
$$;
comment on function fn_audit_window(text, timestamptz, uuid, timestamptz, int)
  is 'Compares the next events of a domain with their decisions: {events, expected, present, missing, unproven, gaps}, and the place to go on from. Internal.';
revoke all on function fn_audit_window(text, timestamptz, uuid, timestamptz, int) from public;

-- Why an open gap is over although nobody here has mended it: event_gone, not_wanted, decided; null while it is open. A consumer that
-- is disabled or in its dry run for now still owes the decision, or all that it lacks would be given up meanwhile.
create or replace function fn_audit_outcome(p_event_id uuid, p_consumer_key text) returns text
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
  return (
    select case
      when e.id is null then 'event_gone'
      when c.job_kind is null or fn_consumer_verdict(c, e) <> 'match' then 'not_wanted'
      when (fn_job_by_key(c.job_kind, fn_job_key(fn_template_render(c.idempotency_key, c.consumer_key, e)))).job_id is not null
        or exists (select from dispatch_error d where d.event_id = p_event_id and d.consumer_key = p_consumer_key) then 'decided'
      end
    from (select) o
    left join event_outbox e on e.id = p_event_id
    left join consumer_registry c on c.consumer_key = p_consumer_key);
end
$$;
comment on function fn_audit_outcome(uuid, text) is 'Why an open gap is over: event_gone, not_wanted, decided; null while the consumer owes its decision. Internal.';
revoke all on function fn_audit_outcome(uuid, text) from public;

-- Makes what pairs of event and consumer lack, through the dispatch of live events: same keys, so a second time makes nothing; the row of
-- today decides, so what does not want the event any more gets nothing, and what is disabled or in its dry run gets nothing yet. Other
-- consumers of the event are left alone: one that was disabled then would get a job it never should have. At most p_limit
-- pairs: each takes a savepoint (trap 19).
create or replace function fn_audit_repair(p_limit int, p_event_ids uuid[], p_consumer_keys text[]) returns int
language plpgsql volatile set search_path from current
as $$
declare
  v_events uuid[] := p_event_ids;
  v_consumers text[] := p_consumer_keys;
  v_pair record;
  v_counts record;
  v_repaired int := 0;
  v_outcome text;
  v_state text;
  v_message text;
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return 0;
  end if;
  if v_events is null then -- consumer by consumer, or those that may not have any would stand before the others
    select array_agg(o.event_id), array_agg(o.consumer_key) into v_events, v_consumers
    from (
      select g.event_id, c.consumer_key
      from consumer_registry c
      cross join lateral (
        select x.event_id, x.event_created_at from dispatch_gap x
        where x.event_domain = c.event_domain and x.consumer_key = c.consumer_key and x.closed_at is null
        order by x.event_created_at, x.event_id limit p_limit) g
      where c.enabled and not c.dry_run and fn_domain_pause(c.event_domain) is null
      order by g.event_created_at, g.event_id, c.consumer_key
      limit p_limit) o;
  end if;
  for v_pair in
    select g.event_id, g.consumer_key, g.event_domain
    from unnest(v_events, v_consumers) u (event_id, consumer_key)
    join dispatch_gap g on g.event_id = u.event_id and g.consumer_key = u.consumer_key
    where g.closed_at is null and fn_domain_pause(g.event_domain) is null
    order by g.event_created_at, g.event_id, g.consumer_key
    limit p_limit
    for update of g skip locked -- another audit has it
  loop
    begin
      select d.* into v_counts from fn_dispatch_events(array[v_pair.event_id], v_pair.consumer_key) d;
      v_outcome := case when v_counts.jobs > 0 then 'repaired'
        when v_counts.duplicates > 0 or v_counts.errors > 0 then 'decided'
        else fn_audit_outcome(v_pair.event_id, v_pair.consumer_key) end;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (v_pair.event_id, v_pair.consumer_key, v_pair.event_domain, v_state, v_message)
        on conflict (event_id, consumer_key) do update
        set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
        v_outcome := 'decided';
        v_counts := null;
    end;
    if v_outcome = 'repaired' then
      v_repaired := v_repaired + 1;
      update audit_domain d set repaired = d.repaired + 1 where d.event_domain = v_pair.event_domain;
      perform fn_job_wake(x.executor, p_jobs => v_counts.jobs) from (select distinct u.executor from unnest(v_counts.executors) u (executor)) x;
      if exists (select from consumer_registry c where c.consumer_key = v_pair.consumer_key and c.job_kind like 'workflow:%') then
        perform fn_mot_start();
      end if;
    end if;
    if exists (select from job_gate j where j.kind = 'event' and j.event_id is null and j.event_domain = v_pair.event_domain) then
      perform fn_job_gate_events(array[v_pair.event_id]); -- if no pass has read the event, they have not seen it either
    end if;
    update dispatch_gap g set closed_at = clock_timestamp(), outcome = v_outcome
    where g.event_id = v_pair.event_id and g.consumer_key = v_pair.consumer_key and v_outcome is not null;
  end loop;
  return v_repaired;
end
$$;
comment on function fn_audit_repair(int, uuid[], text[]) is 'Dispatches open gaps, all or those named, the oldest first; answers how many jobs came of it. Internal.';
revoke all on function fn_audit_repair(int, uuid[], text[]) from public;

-- Notes gaps, and emits one event for those that nobody knew of. Answers how many those are, the event, or why there is none.
create or replace function fn_audit_tell(p_gaps jsonb, p_event_domain text) returns jsonb
language plpgsql volatile set search_path from current
as $$
declare
  v_new jsonb;
  v_count int;
  v_event uuid;
  v_trouble text;
begin
  with noted as (
    insert into dispatch_gap as g (event_id, consumer_key, event_domain, event_type, event_created_at)
    select x.event_id, x.consumer_key, p_event_domain, x.event_type, x.created_at
    from jsonb_to_recordset(p_gaps) as x (event_id uuid, consumer_key text, event_type text, created_at timestamptz)
    order by x.event_id, x.consumer_key
    on conflict (event_id, consumer_key) do update set found_at = clock_timestamp(), closed_at = null, outcome = null
    where g.closed_at is not null
    returning g.consumer_key
  )
  select coalesce(jsonb_object_agg(n.consumer_key, n.n), '{}'), coalesce(sum(n.n), 0) into v_new, v_count
  from (select n.consumer_key, count(*) as n from noted n group by n.consumer_key order by 2 desc limit 20) n;
  if v_count = 0 then
    return '{"new": 0}';
  end if;
  begin
    select fn_event_emit('system', 'queue_dispatch_gap', 'audit', jsonb_build_object('missing', jsonb_build_object(p_event_domain, v_count), 'consumers', v_new))
    into v_event
    from event_type_registry r
    where r.event_domain = 'system' and r.event_type = 'queue_dispatch_gap' and r.active;
  exception when others then
    v_trouble := sqlerrm; -- an outbox that takes no such row must not undo what was found
  end;
  return jsonb_strip_nulls(jsonb_build_object('new', v_count, 'event_id', v_event, 'alarm_error', v_trouble,
    'untold', case when v_event is null and v_trouble is null then true end));
end
$$;
comment on function fn_audit_tell(jsonb, text) is 'Notes gaps of a domain in dispatch_gap and emits system.queue_dispatch_gap for new ones: {new, event_id, untold, alarm_error}. Internal.';
revoke all on function fn_audit_tell(jsonb, text) from public;

-- The audit of one domain from p_since (a day ago) to p_until, as far as that is closed, at most p_limit events of the outbox a call:
-- `next`, given as p_after, goes on. Nor does it begin before forgotten_until: keys of older events are forgotten. Writes nothing,
-- unless p_repair: then each missing pair is noted in dispatch_gap, told and dispatched; a call with more than 50 of
-- them ends before the 51st. Moves no position of the timer's. Called by `reveille events audit`.
create or replace function fn_dispatch_audit(
  p_event_domain text,
  p_since timestamptz default null,
  p_until timestamptz default null,
  p_repair boolean default false,
  p_limit int default 10000,
  p_after jsonb default null,
  p_now timestamptz default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_forgotten timestamptz := (select f.until from job_archive_forgotten f where f.until > '-infinity');
  v_since timestamptz := greatest(coalesce(p_since, v_now - interval '1 day'), v_forgotten);
  v_closed timestamptz;
  v_until timestamptz;
  v_at timestamptz;
  v_id uuid;
  v_window record;
  v_before int;
  v_pause text;
  v_repaired int := 0;
  v_told jsonb := '{}';
begin
  if p_limit is null or p_limit not between 1 and 100000 or p_repair is null then
    raise exception 'fn_dispatch_audit: p_limit must be from 1 to 100000, and p_repair true or false' using errcode = '22023';
  elsif not exists (select from dispatch_cursor c where c.event_domain = p_event_domain) then
    raise exception 'event_domain % is not dispatched here', quote_nullable(p_event_domain)
      using errcode = '22023', hint = 'fn_dispatch_domain_add adds a domain.';
  end if;
  if p_repair then
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'fn_dispatch_audit repairs at READ COMMITTED only: an older snapshot would miss what another session made'
        using errcode = '25001';
    end if;
    v_pause := fn_domain_pause(p_event_domain);
    if not fn_gate_is_open('queue.job_substrate.enabled') then
      return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
    elsif v_pause is not null then
      return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause);
    end if;
    perform from audit_domain d where d.event_domain = p_event_domain for update; -- before any gap, as the timer's pass does
  end if;
  v_closed := fn_audit_closed_until(p_event_domain);
  v_until := least(coalesce(p_until, 'infinity'), coalesce(v_closed, '-infinity'));
  v_at := coalesce((p_after ->> 'at')::timestamptz, v_since);
  v_id := coalesce((p_after ->> 'id')::uuid, '00000000-0000-0000-0000-000000000000');
  if v_at >= v_until then
    return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'since', v_since, 'until', case when v_closed is not null then v_until end,
      'closed_until', v_closed, 'events', 0, 'expected', 0, 'found', 0, 'missing', 0, 'repaired', 0, 'unproven', 0, 'gaps', jsonb_build_array(), 'next', null,
      'forgotten_until', v_forgotten);
  end if;
  select * into v_window from fn_audit_window(p_event_domain, v_at, v_id, v_until, p_limit);
  if p_repair and v_window.missing > 50 then
    -- as many whole events as their pairs allow, one at least
    v_before := (
      select count(*) from event_outbox o
      where o.created_at >= v_at and (o.created_at, o.id) > (v_at, v_id)
        and (o.created_at, o.id) < ((v_window.gaps -> 50 ->> 'created_at')::timestamptz, (v_window.gaps -> 50 ->> 'event_id')::uuid));
    select * into v_window from fn_audit_window(p_event_domain, v_at, v_id, v_until, greatest(1, v_before));
  end if;
  if p_repair and v_window.missing > 0 then
    v_told := fn_audit_tell(v_window.gaps, p_event_domain) - 'new';
    v_repaired := fn_audit_repair(v_window.missing,
      array(select (x ->> 'event_id')::uuid from jsonb_array_elements(v_window.gaps) x),
      array(select x ->> 'consumer_key' from jsonb_array_elements(v_window.gaps) x));
  end if;
  return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'since', v_since, 'until', v_until, 'closed_until', v_closed,
    'events', v_window.events, 'expected', v_window.expected, 'found', v_window.present, 'missing', v_window.missing,
    'repaired', v_repaired, 'unproven', v_window.unproven, 'gaps', v_window.gaps, 'forgotten_until', v_forgotten,
    'next', case when v_window.more then jsonb_build_object('at', v_window.next_at, 'id', v_window.next_id) end) || v_told;
end
$$;
comment on function fn_dispatch_audit(text, timestamptz, timestamptz, boolean, int, jsonb, timestamptz)
  is 'Expected, found and missing decisions of the closed part of a window of one domain: {events, expected, found, missing, repaired, unproven, closed_until, forgotten_until, gaps, next}. Changes nothing unless p_repair.';

-- The timer's pass: marks what the newest sweep closed, notes how the consumers read, looks at the next p_limit events of
-- each domain, tells and counts gaps, and mends them if queue.audit.repair_enabled is open. One session at a time (busy).
-- Called by the auditor of `reveille run`, by `tick`, by the job maintenance.audit.
create or replace function fn_dispatch_audit_pass(p_limit int default 10000, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_domains text[];
  v_closed timestamptz[];
  v_place audit_domain;
  v_window record;
  v_told jsonb;
  v_repaired int := 0;
  v_sum jsonb := '{}';
  v_more boolean := false;
  v_counts bigint[] := '{0,0,0,0,0}';
  v_untold boolean := false;
  v_trouble text;
  v_again record;
begin
  if p_limit is null or p_limit not between 1 and 100000 then
    raise exception 'fn_dispatch_audit_pass: p_limit must be from 1 to 100000' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_dispatch_audit_pass needs READ COMMITTED: an older snapshot would miss what another audit noted' using errcode = '25001';
  elsif fn_config('queue.audit.enabled', 'true') = 'false' then
    return jsonb_build_object('refused', true, 'reason', 'audit_disabled');
  elsif not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_dispatch_audit_pass', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'events', 0, 'missing', 0, 'repaired', 0, 'more', false);
  end if;
  insert into audit_mark (watermark, snapshot, system_identifier)
  select s.watermark, pg_current_snapshot(), v_system
  from (select n.watermark from dispatch_sweep n order by n.sweep_id desc limit 1) s
  where not exists (select from audit_mark m where m.watermark >= s.watermark and m.system_identifier = v_system);

  select array_agg(d.event_domain order by d.event_domain), array_agg(fn_audit_closed_until(d.event_domain) order by d.event_domain)
  into v_domains, v_closed from dispatch_cursor d;
  perform fn_audit_consumers_note(p_now);
  insert into audit_domain (event_domain, place_at, place_id, closed_until)
  select u.d, u.c, '00000000-0000-0000-0000-000000000000', u.c
  from unnest(v_domains, v_closed) u (d, c)
  where u.c is not null
  on conflict (event_domain) do update
  set closed_until = greatest(audit_domain.closed_until, excluded.closed_until);

  -- what was found before, and is over without us: some of each domain, those of the next events with the next pass
  for v_place in
    select d.* from audit_domain d
    where exists (select from dispatch_gap g where g.event_domain = d.event_domain and g.closed_at is null)
    order by d.event_domain
    for update
  loop
    with again as materialized (
      select g.event_id, g.consumer_key, g.event_created_at
      from dispatch_gap g
      where g.event_domain = v_place.event_domain and g.closed_at is null
        and g.event_created_at >= v_place.gap_at and (g.event_created_at, g.event_id) > (v_place.gap_at, v_place.gap_id)
      order by g.event_created_at, g.event_id
      fetch first 200 rows with ties
    ),
    over as (
      update dispatch_gap g set closed_at = clock_timestamp(), outcome = x.outcome
      from (select a.event_id, a.consumer_key, fn_audit_outcome(a.event_id, a.consumer_key) as outcome from again a offset 0) x
      where g.event_id = x.event_id and g.consumer_key = x.consumer_key and g.closed_at is null and x.outcome is not null
      returning 1
    )
    select (select count(*) from again) as looked, (select count(*) from over) as closed, a.event_created_at as at, a.event_id as id into v_again
    from (select) o left join (select * from again n order by n.event_created_at desc, n.event_id desc limit 1) a on true;
    if v_again.looked < 200 then
      v_again.at := '-infinity';
      v_again.id := '00000000-0000-0000-0000-000000000000';
    end if;
    update audit_domain d set gap_at = v_again.at, gap_id = v_again.id
    where d.event_domain = v_place.event_domain and (d.gap_at, d.gap_id) is distinct from (v_again.at, v_again.id);
    v_more := v_more or (v_again.looked >= 200 and v_again.closed > 0);
  end loop;

  for v_place in
    select d.* from audit_domain d where d.event_domain = any (v_domains) and d.place_at < d.closed_until order by d.event_domain
  loop
    select * into v_window from fn_audit_window(v_place.event_domain, v_place.place_at, v_place.place_id, v_place.closed_until, p_limit);
    update audit_domain d
    set place_at = v_window.next_at, place_id = v_window.next_id, events = d.events + v_window.events,
        expected = d.expected + v_window.expected, found = d.found + v_window.present, missing = d.missing + v_window.missing,
        unproven = d.unproven + v_window.unproven
    where d.event_domain = v_place.event_domain;
    v_more := v_more or v_window.more;
    v_counts := array[v_counts[1] + v_window.events, v_counts[2] + v_window.expected, v_counts[3] + v_window.present,
      v_counts[4] + v_window.missing, v_counts[5] + v_window.unproven];
    if v_window.missing > 0 then
      v_sum := v_sum || jsonb_build_object(v_place.event_domain, v_window.missing);
      v_told := fn_audit_tell(v_window.gaps, v_place.event_domain);
      v_untold := v_untold or v_told ? 'untold';
      v_trouble := coalesce(v_trouble, v_told ->> 'alarm_error');
    end if;
  end loop;
  if fn_gate_is_open('queue.audit.repair_enabled') then
    v_repaired := fn_audit_repair(50, null, null);
  end if;

  delete from audit_mark m where m.marked_at < clock_timestamp() - interval '1 day'
    and m.mark_id < (select max(n.mark_id) - 10 from audit_mark n);
  delete from dispatch_gap g where (g.event_id, g.consumer_key) in (
    select o.event_id, o.consumer_key from dispatch_gap o where o.closed_at < clock_timestamp() - interval '90 days' order by o.closed_at limit 1000);
  return jsonb_strip_nulls(jsonb_build_object('refused', false, 'busy', false, 'events', v_counts[1], 'expected', v_counts[2], 'found', v_counts[3],
    'missing', v_counts[4], 'unproven', v_counts[5], 'repaired', v_repaired, 'domains', v_sum,
    'more', v_more or v_repaired = 50, 'untold', case when v_untold then 'system.queue_dispatch_gap' end, 'alarm_error', v_trouble));
end
$$;
comment on function fn_dispatch_audit_pass(int, timestamptz)
  is 'The next part of the audit of every domain: {events, expected, found, missing, unproven, repaired, domains, more}; busy when another session audits.';

-- What somebody must look at: open gaps, and an audit that does not come on although dispatch may run. A gap is held while its
-- consumer is disabled or in its dry run: then it is known, and nothing can be done. Up to 10000 gaps of a consumer are counted.
create or replace function fn_dispatch_audit_check(p_now timestamptz default null)
returns table (event_domain text, severity text, finding text, what text, hint text, age_seconds numeric)
language plpgsql stable security definer set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select s.event_domain, case when s.is_served then 'error' else 'warning' end, case when s.is_served then 'gap' else 'gap_held' end,
    format(case when s.is_served then '%s decisions are missing, the first for event %s and consumer %s'
        else '%s decisions are missing of consumers that are disabled or in their dry run, the first for event %s and consumer %s' end,
      case when s.n < 10000 then s.n::text else '10000+' end, s.event_id, s.consumer_key),
    case when s.is_served then '' else format('once `reveille consumers show %s` says enabled and not dry_run: ', s.consumer_key) end
      || format('reveille events audit --domain %s --since %s --repair', s.event_domain,
        to_char(s.first_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
    round(extract(epoch from v_now - s.found_at)::numeric, 3)
  from (
    select c.event_domain, c.enabled and not c.dry_run as is_served, sum(k.n) as n, min(k.found_at) as found_at, min(f.event_created_at) as first_at,
      (array_agg(f.event_id order by f.event_created_at, f.event_id, c.consumer_key))[1] as event_id,
      (array_agg(c.consumer_key order by f.event_created_at, f.event_id, c.consumer_key))[1] as consumer_key
    from consumer_registry c
    cross join lateral (
      select g.event_id, g.event_created_at from dispatch_gap g
      where g.event_domain = c.event_domain and g.consumer_key = c.consumer_key and g.closed_at is null
      order by g.event_created_at, g.event_id limit 1) f
    cross join lateral (
      select count(*) as n, min(o.found_at) as found_at
      from (select g.found_at from dispatch_gap g
        where g.event_domain = c.event_domain and g.consumer_key = c.consumer_key and g.closed_at is null
        order by g.event_created_at, g.event_id limit 10000) o) k
    group by 1, 2) s
  union all
  select d.event_domain, 'warning', 'behind',
    'nothing later than ' || to_char(d.place_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') || ' has been audited',
    'is `reveille run` up, and is a transaction open for long? docs/audit.md tells what holds an audit back',
    round(extract(epoch from v_now - d.place_at)::numeric, 3)
  from audit_domain d
  where d.place_at < v_now - interval '30 minutes'
    and fn_config('queue.audit.enabled', 'true') <> 'false'
    and fn_gate_is_open('queue.job_substrate.enabled') and fn_domain_pause(d.event_domain) is null
    and exists (select from consumer_registry c where c.event_domain = d.event_domain and c.enabled)
  order by 2, 1;
end
$$;
comment on function fn_dispatch_audit_check(timestamptz) is 'Findings about the audit: gap, gap_held, behind.';

-- The audit in numbers, for metrics.
create or replace function fn_dispatch_audit_counts()
returns table (event_domain text, expected bigint, found bigint, missing bigint, repaired bigint, unproven bigint, open_gaps bigint, complete_until timestamptz)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  select d.event_domain, d.expected, d.found, d.missing, d.repaired, d.unproven, g.n, least(d.place_at, g.first_at)
  from audit_domain d
  cross join lateral (
    select count(*) as n, min(o.event_created_at) as first_at
    from (select x.event_created_at from dispatch_gap x
      where x.event_domain = d.event_domain and x.closed_at is null order by x.event_created_at limit 10000) o) g
  order by d.event_domain;
end
$$;
comment on function fn_dispatch_audit_counts() is 'What the audit has counted in each domain, its open gaps (up to 10000) and until when it is complete.';

create or replace view v_consumer_lag as
select
  c.consumer_key, c.event_domain, c.enabled, c.dry_run, c.job_kind::text as job_kind,
  v.seen_at as proven_from,
  case when c.enabled and least(d.place_at, g.first_at) > v.seen_at then least(d.place_at, g.first_at) end as complete_until,
  case when c.enabled and least(d.place_at, g.first_at) > v.seen_at
    then round(extract(epoch from clock_timestamp() - least(d.place_at, g.first_at))::numeric, 3) end as lag_seconds,
  coalesce(g.n, 0) as open_gaps,
  (select min(p.scope) from queue_pause p -- 'all' < 'domain'
   where p.resumed_at is null and (p.scope = 'all' or (p.scope = 'domain' and p.name = c.event_domain))) as paused_by
from consumer_registry c
left join audit_consumer v on v.consumer_key = c.consumer_key and v.replaced_at is null and v.changed_at = c.updated_at
left join audit_domain d on d.event_domain = c.event_domain
left join lateral (
  select count(*) as n, min(o.event_created_at) as first_at
  from (select x.event_created_at from dispatch_gap x
    where x.event_domain = c.event_domain and x.consumer_key = c.consumer_key and x.closed_at is null
    order by x.event_created_at limit 10000) o) g on true;
comment on view v_consumer_lag is 'For each consumer: until when every event that it wanted is known to have a decision.';
comment on column v_consumer_lag.proven_from is 'Since when the row is known to read as it does; of events created before, nothing is said here.';
comment on column v_consumer_lag.open_gaps is 'Up to 10000.';
comment on column v_consumer_lag.complete_until is 'Every event created from proven_from on and before this moment has its decision. Null: nothing is known yet, or it is disabled.';

create or replace function fn_maintenance_audit(p_job jsonb) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_answer jsonb := fn_dispatch_audit_pass();
begin
  if v_answer ->> 'refused' = 'true' then
    return jsonb_build_object('refused', false, 'skipped', v_answer -> 'reason', 'job_id', p_job -> 'job_id'); -- as the loop does
  end if;
  return v_answer || jsonb_build_object('job_id', p_job -> 'job_id');
end
$$;
comment on function fn_maintenance_audit(jsonb) is 'Handler: one pass of the audit, unless queue.audit.enabled says no.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array[
    'fn_dispatch_audit(text, timestamptz, timestamptz, boolean, int, jsonb, timestamptz)', 'fn_dispatch_audit_pass(int, timestamptz)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher', 'reveille_operator']);
  end loop;
  foreach v_function in array array['fn_dispatch_audit_check(timestamptz)', 'fn_dispatch_audit_counts()'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_maintenance_audit(jsonb)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_maintenance_audit(jsonb)'::regprocedure), array['reveille_executor']);
  call pr_grant('select on table audit_mark, audit_domain, audit_consumer, dispatch_gap', array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_consumer_lag', array['reveille_operator', 'reveille_reader', 'reveille_dispatcher', 'reveille_executor']);
end
$$;
