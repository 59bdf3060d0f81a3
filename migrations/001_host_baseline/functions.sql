-- Functions of phase 001: identifiers, settings and gates, emitting a fact.

-- A time-ordered uuid (RFC 9562, version 7): random keys would cost index locality.
do $$
begin
  if current_setting('server_version_num')::int >= 180000 then
    execute 'create or replace function fn_uuid_v7() returns uuid language sql volatile return pg_catalog.uuidv7()';
  else
    execute $f$
      create or replace function fn_uuid_v7() returns uuid language sql volatile
      return encode(
        set_bit(
          set_bit(
            overlay(
              uuid_send(gen_random_uuid())
              placing substring(int8send((date_part('epoch', clock_timestamp()) * 1000)::bigint) from 3)
              from 1 for 6),
            52, 1),
          53, 1),
        'hex')::uuid
    $f$;
  end if;
end
$$;
comment on function fn_uuid_v7() is 'A time-ordered uuid, version 7, milliseconds first.';

-- For statements that need many: a counter in the last 32 bits costs a fifth of fresh random ones, keeps the order
-- within the millisecond, and fills the primary key from its right end (RFC 9562, 6.2, method 1).
create or replace function fn_uuid_v7_nth(p_first uuid, p_n int) returns uuid
language sql immutable
return encode(overlay(uuid_send(p_first) placing int4send(p_n) from 13), 'hex')::uuid;
comment on function fn_uuid_v7_nth(uuid, int) is 'The uuid of a series that begins at p_first: its last 32 bits are p_n; -1 is the last that there can be.';

-- Milliseconds since 1970 by the server's clock; the unit of the awake marks. Stable and not immutable, because
-- extract is no more than that, and the planner would not inline the function.
create or replace function fn_epoch_ms(p_at timestamptz) returns bigint
language sql stable
return (extract(epoch from p_at) * 1000)::bigint;
comment on function fn_epoch_ms(timestamptz) is 'Milliseconds since 1970-01-01 UTC.';

-- Signal, not data: what may travel in a job or a heartbeat. Checked by the domain `signal`, where it is inlined,
-- and asked by the preview of a consumer.
create or replace function fn_is_signal(p_payload jsonb) returns boolean
language sql immutable
return p_payload = '{}'
  or (jsonb_typeof(p_payload) = 'object'
    and octet_length(p_payload::text) <= 16384
    and p_payload::text !~* '[{ ]"(body|content|raw|vector|embedding|secret|token|password|ssn|personal_data)": ');
comment on function fn_is_signal(jsonb) is 'Whether a payload is an object of at most 16 kB without a denied key at any depth.';

-- Runs a grant only where the role exists; migrations by an unprivileged owner have no such roles.
create or replace procedure pr_grant(p_what text, p_roles text[])
language plpgsql set search_path from current
as $$
declare
  v_role text;
begin
  foreach v_role in array p_roles loop
    if exists (select from pg_roles where rolname = v_role) then
      execute format('grant %s to %I', p_what, v_role);
    end if;
  end loop;
end
$$;
comment on procedure pr_grant(text, text[]) is 'Grants to those of the roles that exist. Called by migrations only.';
revoke all on procedure pr_grant(text, text[]) from public;

-- A setting of dot_config, or the default. Called by every gated function.
-- PL/pgSQL, here and in fn_gate_is_open: an SQL function with a subselect is never inlined and is planned anew at
-- every call, which costs four times as much.
create or replace function fn_config(p_key text, p_default text) returns text
language plpgsql stable security definer set search_path from current
as $$
begin
  return coalesce((select c.value from dot_config c where c.key = p_key), p_default);
end
$$;
comment on function fn_config(text, text) is 'The value of a key in dot_config, or the default when the key is missing.';

-- A numeric setting of dot_config: a value that is no number from 0 to 999999999 counts as missing, so that a slip in a
-- row that somebody wrote by hand stops no work. fn_gate_set refuses it.
create or replace function fn_config_number(p_key text, p_default numeric) returns numeric
language plpgsql stable security definer set search_path from current
as $$
begin
  return coalesce((select c.value::numeric from dot_config c where c.key = p_key and c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'), p_default);
end
$$;
comment on function fn_config_number(text, numeric) is 'The number under a key in dot_config, or the default when it is missing or no number.';

-- The first of these keys that dot_config holds with a value of that form.
create or replace function fn_config_first(p_keys text[], p_form text) returns table (key text, value text)
language plpgsql stable set search_path from current
as $$
begin
  return query
  select c.key::text, c.value::text
  from dot_config c
  where c.key = any (p_keys) and c.value ~ p_form
  order by array_position(p_keys, c.key::text)
  limit 1;
end
$$;
comment on function fn_config_first(text[], text) is 'The first of some keys that is set and well-formed, with its value; no row when none is.';

-- Whether a gate is open. A missing key is a closed gate here; those that are open without one are read with their default.
create or replace function fn_gate_is_open(p_key text) returns boolean
language plpgsql stable security definer set search_path from current
as $$
begin
  return coalesce((select c.value = 'true' from dot_config c where c.key = p_key), false);
end
$$;
comment on function fn_gate_is_open(text) is 'true only when dot_config holds the text ''true'' under the key.';
do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_config(text, text)', 'fn_config_number(text, numeric)', 'fn_gate_is_open(text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);
  end loop;
end
$$;

-- Flips a gate (or any other key of dot_config), or takes it away when p_value is null, and keeps who and why. Called by
-- operators.
create or replace function fn_gate_set(p_key text, p_value text, p_actor text, p_reason text) returns jsonb
language plpgsql security definer set search_path from current
as $$
declare
  v_old text;
begin
  if coalesce(btrim(p_key), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_gate_set needs a key, an actor and a reason' using errcode = '22023';
  end if;
  if p_key !~ '^(queue|job)\.' then
    raise exception '% is not a key of Reveille: they begin with queue. or job.', p_key using errcode = '22023';
  end if;
  -- null has no form to check
  if p_key ~ '^queue\.retry\.backoff_strategy\.' or (p_key ~ 'backoff_strategy$' and p_key !~ '^queue\.retry\.[a-z_]+\.[^.]+$') then
    if p_value <> all (array['constant', 'linear', 'exponential']) then
      raise exception '% must be constant, linear or exponential, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '([._]enabled|dry_run_only|emit_events|[.]reversible)$' then
    if p_value <> all (array['true', 'false']) then
      raise exception '% must be true or false, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '\.(key_)?rate_limit$' then
    if p_value !~ '^[0-9]{1,9}(/[0-9]{1,7})?$' then
      raise exception '% must be a number of jobs, or jobs/seconds, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ 'concurrency_limit$' then
    if p_value !~ '^[0-9]{1,9}$' then
      raise exception '% must be a number of jobs, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '^queue\.retry\.(backoff_seconds|backoff_cap_seconds|max_attempts|max_lease_losses)\.' or p_key ~ '(seconds|_sec|max_attempts|max_lease_losses|max_depth|limit|threshold_rows)$' then
    if p_value !~ '^[0-9]{1,9}(\.[0-9]{1,6})?$' then
      raise exception '% must be a number, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  end if;
  select c.value into v_old from dot_config c where c.key = p_key for update;
  if p_value is null and not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'key', p_key); -- a slip in the key must not look like success
  elsif p_value is null then
    delete from dot_config where key = p_key;
  elsif found then
    update dot_config set value = p_value, updated_at = clock_timestamp() where key = p_key;
  else
    insert into dot_config (key, value, updated_at) values (p_key, p_value, clock_timestamp());
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values (p_key, v_old, p_value, p_actor, p_reason);
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'key', p_key, 'old_value', v_old, 'value', p_value, 'removed', p_value is null);
end
$$;
comment on function fn_gate_set(text, text, text, text) is 'Sets a key of dot_config, or takes it away when the value is null; audits it and announces it on queue_control. Answers the old and the new value.';
revoke all on function fn_gate_set(text, text, text, text) from public;
call pr_grant(format('execute on function %s', 'fn_gate_set(text, text, text, text)'::regprocedure), array['reveille_operator']);

-- The gates, each with what holds while nobody has set it, then what else of ours dot_config holds, and who changed each
-- last. A function, not a view: a view would tie the columns of a table that may be the host's, and whoever watches need
-- not be granted that table.
create or replace function fn_gate_list()
returns table (key text, value text, updated_at timestamptz, actor text, reason text, is_set boolean, lets_through text)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  select coalesce(g.key, c.key), coalesce(c.value, g.unset), c.updated_at, a.actor, a.reason, c.key is not null, g.lets_through
  from (values
    (1, 'queue.job_substrate.enabled', 'false', 'new jobs: dispatch and enqueue'),
    (2, 'queue.worker.enabled', 'false', 'claims by executors'),
    (3, 'queue.notify.bridge_enabled', 'false', 'wake-ups by NOTIFY; polling goes on without'),
    (4, 'queue.lease_reaper.enabled', 'false', 'ended leases are reaped, once dry_run_only is closed, too'),
    (5, 'queue.lease_reaper.dry_run_only', 'true', null),
    (6, 'queue.dlq.replay_enabled', 'false', 'replays of dead letters'),
    (7, 'queue.archive.enabled', 'false', 'finished jobs leave for the archive; the archiver only tells without'),
    (8, 'queue.route.enabled', 'false', 'routes: what is written to routed tables becomes events'),
    (9, 'queue.heartbeat.enabled', 'true', 'alarms when an executor falls silent'),
    (10, 'queue.audit.enabled', 'true', 'the audit on its timer'),
    (11, 'queue.audit.repair_enabled', 'false', 'repairs of what that finds missing; it only tells without')) g (place, key, unset, lets_through)
  full join (
    select d.key::text, d.value::text, d.updated_at::timestamptz from dot_config d
    where d.key like 'queue.%' or d.key like 'job.%') c on c.key = g.key
  left join lateral (
    select w.actor, w.reason from dot_config_audit w where w.key = coalesce(g.key, c.key) order by w.audit_id desc limit 1) a on true
  order by g.place, coalesce(g.key, c.key);
end
$$;
comment on function fn_gate_list() is 'Every gate, set or not, with its value and what it lets through when it is true (null: nothing), then the other keys of ours in dot_config; and who changed each last, and why.';
revoke all on function fn_gate_list() from public;
call pr_grant(format('execute on function %s', 'fn_gate_list()'::regprocedure),
  array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);

-- Counts one trace context that cannot be read. A sequence: no lock, no row, and it stands also when the transaction fails.
create or replace function fn_traceparent_ignore() returns text
language sql volatile security definer
return case when nextval('traceparent_ignored'::regclass) is null then '' end;
comment on function fn_traceparent_ignore() is 'Counts a traceparent that cannot be read, and answers null. Internal.';

-- For metrics. With the rights of the owner: who may read the metrics need not have any on the sequence.
create or replace function fn_traceparent_ignored() returns bigint
language sql volatile security definer
return coalesce(pg_sequence_last_value('traceparent_ignored'::regclass), 0);
comment on function fn_traceparent_ignored() is 'How many trace contexts could not be read so far.';
revoke all on function fn_traceparent_ignored() from public;
call pr_grant(format('execute on function %s', 'fn_traceparent_ignored()'::regprocedure),
  array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);

-- A trace context as W3C writes it, version 00, or null. What cannot be read is counted and otherwise as if it were not
-- there: no work ever waits for it. Inlined where jobs are made; where there is none it costs one look at null.
create or replace function fn_traceparent(p_value text) returns text
language sql volatile
return case
  when p_value is null then null
  when p_value ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' and p_value !~ '^00-(0{32}|[0-9a-f]{32}-0{16})-' then p_value
  else fn_traceparent_ignore()
end;
comment on function fn_traceparent(text) is 'A W3C traceparent (00-<trace id>-<parent id>-<flags>), or null when it is none; what cannot be read is counted.';

-- What a producer says: the key of the payload, else the setting of his transaction.
create or replace function fn_traceparent_of(p_safe_payload jsonb) returns text
language sql volatile
return fn_traceparent(coalesce(p_safe_payload ->> 'traceparent', nullif(current_setting('reveille.traceparent', true), '')));
comment on function fn_traceparent_of(jsonb) is 'The trace context of a payload, else of this transaction (set local reveille.traceparent), or null.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_traceparent_ignore()', 'fn_traceparent(text)', 'fn_traceparent_of(jsonb)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_dispatcher', 'reveille_executor', 'reveille_operator']);
  end loop;
end
$$;

-- Emits one fact of a registered type, in the caller's transaction. The trace context of the transaction goes with it, as
-- the payload's key traceparent, where it fits. Stream, lane and severity come from the
-- registry. The row is built from jsonb so that an adopted outbox may type its columns differently.
create or replace function fn_event_emit(
  p_event_domain text,
  p_event_type text,
  p_event_subject_ref text,
  p_safe_payload jsonb default '{}',
  p_event_subject_table text default null,
  p_canonical_address text default null,
  p_actor_ref text default null,
  p_correlation_id text default null,
  p_occurred_at timestamptz default null
) returns uuid
language plpgsql security definer set search_path from current
as $$
declare
  v_type event_type_registry;
  v_id uuid := fn_uuid_v7();
  v_payload jsonb := coalesce(p_safe_payload, '{}');
  v_trace text := fn_traceparent(nullif(current_setting('reveille.traceparent', true), ''));
begin
  if v_trace is not null and jsonb_typeof(v_payload) = 'object' and not v_payload ? 'traceparent'
    and fn_is_signal(v_payload || jsonb_build_object('traceparent', v_trace))
  then
    v_payload := v_payload || jsonb_build_object('traceparent', v_trace);
  end if;
  select r.* into v_type
  from event_type_registry r
  where r.event_domain = p_event_domain and r.event_type = p_event_type and r.active;
  if not found then
    raise exception 'unknown_event_type: %.% is not registered and active in event_type_registry', p_event_domain, p_event_type
      using errcode = '22023', hint = 'Register the type first: insert it into event_type_registry with active = true.';
  end if;
  insert into event_outbox (
    id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
    canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
  select
    e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref,
    e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at
  from jsonb_populate_record(null::event_outbox, jsonb_build_object(
    'id', v_id,
    'event_domain', p_event_domain,
    'event_type', p_event_type,
    'event_stream', v_type.event_stream,
    'delivery_lane', v_type.delivery_lane,
    'event_severity', v_type.default_severity,
    'event_subject_table', p_event_subject_table,
    'event_subject_ref', p_event_subject_ref,
    'canonical_address', p_canonical_address,
    'actor_ref', coalesce(p_actor_ref, session_user::text),
    'source_system', 'reveille',
    'correlation_id', p_correlation_id,
    'payload_classification', 'safe_metadata',
    'safe_payload', v_payload,
    'occurred_at', coalesce(p_occurred_at, clock_timestamp()),
    'created_at', now())) e;
  return v_id;
end
$$;
comment on function fn_event_emit(text, text, text, jsonb, text, text, text, text, timestamptz)
  is 'Emits one fact of a registered, active type and answers its id; raises 22023 unknown_event_type otherwise.';
revoke all on function fn_event_emit(text, text, text, jsonb, text, text, text, text, timestamptz) from public;
call pr_grant(
  format('execute on function %s', 'fn_event_emit(text, text, text, jsonb, text, text, text, text, timestamptz)'::regprocedure),
  array['reveille_operator', 'reveille_executor', 'reveille_dispatcher']);

-- What everybody may see. The host's own tables keep the grants that the host gave them.
do $$
declare
  v_all text[] := array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader'];
  v_blind text[];
  v_object record;
begin
  -- only where it is missing: the schema may be the host's
  v_blind := array(
    select r.rolname::text from pg_roles r
    where r.rolname = any (v_all) and not has_schema_privilege(r.oid, current_schema(), 'usage'));
  call pr_grant(format('usage on schema %I', current_schema()), v_blind);
  for v_object in select h.object_name from host_object h where h.created loop
    call pr_grant(format('select on table %I', v_object.object_name), array['reveille_operator', 'reveille_reader']);
  end loop;
  call pr_grant('select on table dot_config_audit', array['reveille_operator', 'reveille_reader']);
end
$$;
