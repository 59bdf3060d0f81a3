-- Functions of phase 011: routes are written, checked, switched, previewed; and the one trigger function that they share.

---------------------------------------------------------------------------------------------- what a route says

-- The columns of a table's primary key, in its order; null when it has none.
create or replace function fn_route_key_columns(p_relation oid) returns text[]
language plpgsql stable set search_path from current
as $$
begin
  return (
    select array_agg(a.attname::text order by k.place)
    from pg_index i
    cross join unnest(i.indkey) with ordinality as k (attnum, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = p_relation and i.indisprimary);
end
$$;
comment on function fn_route_key_columns(oid) is 'The columns of a primary key in order, or null. Internal.';

-- What a statement over some columns of a table depends on: their types, whichever of them are there, and the primary key.
create or replace function fn_route_shape(p_relation oid, p_columns text[]) returns text
language plpgsql stable set search_path from current
as $$
begin
  return (
    select string_agg(a.attname || ' ' || a.attnum || ' ' || a.atttypid, ', ' order by a.attname)
    from pg_attribute a where a.attrelid = p_relation and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped)
    || ' key ' || (select i.indkey::text from pg_index i where i.indrelid = p_relation and i.indisprimary);
end
$$;
comment on function fn_route_shape(oid, text[]) is 'Types of some columns of a table, and its primary key, to see whether they changed; null without a key. Internal.';

-- The table that a route names, plain or partitioned; null when there is none.
create or replace function fn_route_relation(p_route jsonb) returns oid
language plpgsql stable set search_path from current
as $$
begin
  return (
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = p_route ->> 'source_schema' and c.relname = p_route ->> 'source_table' and c.relkind in ('r', 'p'));
end
$$;
comment on function fn_route_relation(jsonb) is 'The table that a route names, or null. Internal.';

-- Whether a table is Reveille's own, or one that it shares with the host. A route on such a one could feed itself: what it
-- tells makes arrivals, jobs, attempts, heartbeats. They may stand in one schema with the host's tables, and no catalogue
-- knows which is whose; so they are listed, and a test compares the list with what the migrations of all phases make.
create or replace function fn_route_is_own(p_relation oid) returns boolean
language plpgsql stable set search_path from current
as $$
declare
  v_own constant text[] := array[
    'audit_consumer', 'audit_domain', 'audit_mark', 'consumer_backfill', 'consumer_registry', 'dead_letter_authority', 'dispatch_cursor', 'dispatch_error', 'dispatch_gap',
    'dispatch_pass', 'dispatch_sweep', 'dot_config_audit',
    'event_arrival', 'event_route', 'event_route_count', 'event_route_fault', 'event_route_key', 'event_route_sample', 'host_constraint',
    'host_object', 'job_approval', 'job_archive', 'job_archive_bound', 'job_archive_forgotten', 'job_archive_key', 'job_attempt', 'job_dead_letter',
    'job_dependency', 'job_gate', 'job_handler', 'job_order_pending', 'job_queue', 'job_rate', 'job_schedule', 'job_subscription', 'job_workflow', 'mot_template',
    'queue_heartbeat', 'queue_pause', 'reveille_migration'];
begin
  return exists (
    select from pg_class c
    where c.oid = coalesce(pg_partition_root(p_relation), p_relation) and c.relnamespace = quote_ident(current_schema())::regnamespace
      and (c.relname = any (v_own) or exists (select from host_object h where h.object_name = c.relname)));
end
$$;
comment on function fn_route_is_own(oid) is 'Whether a table, or what it is a partition of, is Reveille''s own or shared with the host. Internal.';

-- Why columns that leave a table by a route may not: their names, or their types with all that those are made of. What leaves are
-- the columns of the contract and of its templates, and the primary key where it is the subject or is kept to know a row
-- again. JSON is judged row by row, but only within the payload. Asked when a route is written, and when it is prepared.
create or replace function fn_route_denied(p_route jsonb, p_relation oid) returns setof text
language plpgsql stable set search_path from current
as $$
declare
  v_denied constant text[] := array['body', 'content', 'raw', 'vector', 'embedding', 'secret', 'token', 'password', 'ssn', 'personal_data'];
  v_contract jsonb := p_route -> 'payload_contract';
  v_columns text[] := array(select jsonb_array_elements_text(v_contract -> 'columns'));
  v_column text;
  v_types text[];
  v_parts text[];
begin
  for v_column in
    select x.c from (
      select c, 1 as rank, n from unnest(v_columns) with ordinality as u (c, n)
      union all
      select m.m[1], 2, 0 from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k cross join regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as m (m)
      union all
      select c, 3, n from unnest(fn_route_key_columns(p_relation)) with ordinality as u (c, n)
      where v_contract ->> 'subject_ref' is null or coalesce(p_route ->> 'idempotency_policy', 'per_change') <> 'per_change') x (c, rank, n)
    group by x.c order by min(x.rank), min(x.n), x.c
  loop
    with recursive types (oid) as (
      select a.atttypid from pg_attribute a where a.attrelid = p_relation and a.attname = v_column and a.attnum > 0 and not a.attisdropped
      union
      select u.oid from types d join pg_type t on t.oid = d.oid
      cross join lateral (
        select t.typbasetype where t.typtype = 'd'
        union all
        select t.typelem where t.typlen = -1 and t.typelem <> 0
        union all
        select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
        union all
        select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped) u (oid)
    )
    select array_agg(format_type(d.oid, null) order by d.oid), array_agg(distinct lower(a.attname)) filter (where a.attname is not null)
    into v_types, v_parts
    from types d join pg_type t on t.oid = d.oid left join pg_attribute a on a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped;
    if lower(v_column) = any (v_denied) or v_parts && v_denied then
      return next format('column %I may not travel: an event carries signal, not data', v_column);
    elsif exists (select from unnest(v_types) t where t ~ '(^|\.)(bytea|xml|vector|halfvec|sparsevec)$') then
      return next format('column %I is of type %s and may not travel: an event carries signal, not data', v_column,
        (select t from unnest(v_types) t where t ~ '(^|\.)(bytea|xml|vector|halfvec|sparsevec)$' limit 1));
    elsif v_types && array['json', 'jsonb'] and v_column <> all (v_columns) then
      return next format('column %I is JSON and may travel only when the contract has it as a column, where each row is judged', v_column);
    end if;
  end loop;
end
$$;
comment on function fn_route_denied(jsonb, oid) is 'Why columns that leave a table by a route may not, one row for each. Internal.';

-- Everything that keeps a route from working, the plainest first. Asked when it is written, enabled and checked.
create or replace function fn_route_findings(p_route jsonb) returns table (finding text, what text)
language plpgsql stable security definer set search_path from current
as $$
declare
  v_relation oid := fn_route_relation(p_route);
  v_contract jsonb := p_route -> 'payload_contract';
  v_name text := format('%I.%I', p_route ->> 'source_schema', p_route ->> 'source_table');
  v_column text;
begin
  if v_relation is null then
    return query select 'table_missing', format('there is no table %s (a view, a foreign table and a materialised view are none)', v_name);
  elsif exists (select from pg_class c where c.oid = v_relation and c.relpersistence = 't') or p_route ->> 'source_schema' ~ '^(pg_|information_schema$)' then
    return query select 'table_unfit', v_name || ' is a table of the system or of one session';
  elsif fn_route_is_own(v_relation) then
    return query select 'table_unfit', v_name || ' is a table of Reveille: a route on it would feed itself';
  elsif fn_route_key_columns(v_relation) is null then
    return query select 'key_missing', v_name || ' has no primary key, so an event could not say which row it is about';
  end if;
  return query select 'column_denied', d from fn_route_denied(p_route, v_relation) d;
  if v_relation is not null then
    return query
    select 'column_missing', format('%s has no column %I', v_name, c) from jsonb_array_elements_text(v_contract -> 'columns') with ordinality as u (c, n)
    where not exists (select from pg_attribute a where a.attrelid = v_relation and a.attname = c and a.attnum > 0 and not a.attisdropped)
    order by n;
  end if;
  if v_relation is not null then
    for v_column in
      select distinct m.m[1]
      from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k
      cross join regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as m (m)
      order by 1
    loop
      if not (coalesce(v_contract -> 'columns', '[]') ? v_column) and v_column <> all (coalesce(fn_route_key_columns(v_relation), '{}')) then
        return query select 'column_missing',
          format('a template names {%s}, which is neither a column of the contract nor one of the primary key', v_column);
      end if;
    end loop;
  end if;
  if not exists (
    select from event_type_registry r
    where r.event_domain = p_route ->> 'target_event_domain' and r.event_type = p_route ->> 'target_event_type' and r.active)
  then
    return query select 'type_inactive',
      format('%s.%s is not registered and active in event_type_registry', p_route ->> 'target_event_domain', p_route ->> 'target_event_type');
  end if;
end
$$;
comment on function fn_route_findings(jsonb) is 'What keeps a route from working: table_missing, table_unfit, key_missing, column_missing, column_denied, type_inactive.';

---------------------------------------------------------------------------------------------- what a table's owner agrees to

-- What the owner of a table says yes to when a route's trigger is made: it becomes the trigger's second argument. Nobody
-- without rights on the table can write that, whatever he may do here, and it stands where the owner sees it. Numbered,
-- because a yes is used once: whoever switches a route off ends it (see fn_route_switch).
create or replace function fn_route_consent(p_route jsonb, p_dry_run boolean, p_number int) returns text
language plpgsql stable set search_path from current
as $$
declare
  v_contract jsonb := p_route -> 'payload_contract';
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'event', (p_route ->> 'target_event_domain') || '.' || (p_route ->> 'target_event_type'),
    'columns', coalesce(v_contract -> 'columns', '[]'), 'subject_ref', v_contract -> 'subject_ref',
    'canonical_address', v_contract -> 'canonical_address', 'correlation_id', v_contract -> 'correlation_id',
    'when_changed', coalesce(v_contract ->> 'when_changed', 'contract'), 'idempotency_policy', p_route -> 'idempotency_policy',
    'fail_closed', coalesce((p_route ->> 'fail_closed')::boolean, false), 'live', not p_dry_run, 'number', p_number))::text;
end
$$;
comment on function fn_route_consent(jsonb, boolean, int) is 'What the owner of a route''s table agrees to, as the argument of its trigger. Internal.';

-- An argument of a trigger as JSON; null when it is none, because anybody may make a trigger on a table of his own.
create or replace function fn_route_said(p_argument text) returns jsonb
language plpgsql immutable set search_path from current
as $$
begin
  return p_argument::jsonb;
exception when others then
  return null;
end
$$;
comment on function fn_route_said(text) is 'The consent in an argument of a trigger, or null. Internal.';

-- What a route would do beyond what the owner of its table has agreed to; empty when it stays within. Less is always agreed
-- to: fewer columns, templates of agreed columns, not live, not fail_closed.
create or replace function fn_route_beyond(p_route jsonb, p_consent jsonb, p_number int) returns text[]
language plpgsql stable set search_path from current
as $$
declare
  v_contract jsonb := p_route -> 'payload_contract';
  v_event text := (p_route ->> 'target_event_domain') || '.' || (p_route ->> 'target_event_type');
  v_policy text := coalesce(p_route ->> 'idempotency_policy', 'per_change');
begin
  if p_consent is null or p_consent -> 'number' is distinct from to_jsonb(p_number) then
    return array['anything'];
  end if;
  return array(
    select 'column ' || quote_ident(c) from jsonb_array_elements_text(v_contract -> 'columns') c where not coalesce(p_consent -> 'columns' ? c, false)
    union all
    select k || coalesce(' ' || quote_literal(v_contract ->> k), ' from the primary key')
    from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k
    where v_contract ->> k is distinct from p_consent ->> k
      -- without a template the subject is the primary key; the others are nothing
      and (v_contract ->> k is null and k = 'subject_ref' or exists (
        select from regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as n (m)
        where not coalesce(p_consent -> 'columns' ? n.m[1], false) and not exists (
          select from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) a where strpos(p_consent ->> a, '{' || n.m[1] || '}') > 0)))
    union all
    select 'event ' || v_event where v_event is distinct from p_consent ->> 'event'
    union all
    select 'idempotency_policy ' || v_policy where v_policy is distinct from p_consent ->> 'idempotency_policy'
    union all
    select 'when_changed any' where v_contract ->> 'when_changed' = 'any' and p_consent ->> 'when_changed' is distinct from 'any'
    union all
    select 'fail_closed' where (p_route ->> 'fail_closed')::boolean and p_consent -> 'fail_closed' is distinct from 'true'
    union all
    select 'live' where not coalesce((p_route ->> 'dry_run')::boolean, true) and p_consent -> 'live' is distinct from 'true');
end
$$;
comment on function fn_route_beyond(jsonb, jsonb, int) is 'What a route would do beyond a consent, in words; empty when it stays within. Internal.';

-- The triggers of a route, wherever they stand, with what the owners of their tables agreed to.
create or replace function fn_route_triggers(p_route_code text)
returns table (relation oid, table_schema text, table_name text, trigger_name text, is_enabled boolean, is_right boolean, argument text, consent jsonb)
language plpgsql stable security definer set search_path from current
as $$
declare
  v_head bytea := convert_to(p_route_code, getdatabaseencoding()) || '\x00'::bytea;
begin
  return query
  select x.oid, x.nspname, x.relname, x.tgname, x.tgenabled in ('O', 'A'), coalesce(x.is_right, false), x.argument, fn_route_said(x.argument)
  from (
    select c.oid, n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled,
      n.nspname = r.route ->> 'source_schema' and c.relname = r.route ->> 'source_table'
        and t.tgtype = case r.route ->> 'sql_event' when 'insert' then 4 when 'delete' then 8 else 16 end as is_right,
      case when t.tgnargs > 1 then convert_from(substr(a.rest, 1, position('\x00'::bytea in a.rest) - 1), getdatabaseencoding()) end as argument
    from pg_trigger t
    join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_route_capture' and p.pronamespace = quote_ident(current_schema())::regnamespace
    join pg_class c on c.oid = t.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select substr(t.tgargs, octet_length(v_head) + 1) as rest) a
    left join (select to_jsonb(i) as route from iu_sql_event_route i where i.route_code = p_route_code) r on true
    where not t.tgisinternal and t.tgparentid = 0 and substr(t.tgargs, 1, octet_length(v_head)) = v_head) x
  order by 2, 3, 4;
end
$$;
comment on function fn_route_triggers(text) is 'The triggers of a route: whether each is enabled and where the route says, and what the owner of its table agreed to.';

---------------------------------------------------------------------------------------------- from rows to events

-- A column as jsonb, without calling anything that the table's owner could have written: to_jsonb looks for a cast of
-- a type that is not built in, and this runs with the rights of Reveille's owner. Such types travel as their text.
create or replace function fn_route_value(p_alias text, p_column text, p_type oid) returns text
language plpgsql stable set search_path from current
as $$
declare
  v_type oid := p_type;
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return format(
    case when v_type::bigint < 16384 then 'to_jsonb(%1$s.%2$I)'
      else 'to_jsonb(case when num_nonnulls(%1$s.%2$I) > 0 then format(''%%s'', %1$s.%2$I) end)' end,
    p_alias, p_column);
end
$$;
comment on function fn_route_value(text, text, oid) is 'An expression for a column as jsonb, which calls no code of the table''s owner. Internal.';

-- A template as an expression; p_values are the expressions of the columns.
create or replace function fn_route_template(p_template text, p_values jsonb) returns text
language plpgsql stable set search_path from current
as $$
begin
  return (
    select '(' || string_agg(case when m.m[2] is null then quote_literal(m.m[1]) else format('(%s #>> ''{}'')', p_values ->> m.m[2]) end, ' || ' order by m.n) || ')'
    from regexp_matches(p_template, '([^{}]+)|\{([^{}]+)\}', 'g') with ordinality as m (m, n));
end
$$;
comment on function fn_route_template(text, jsonb) is 'A template of a route as an SQL expression, null when it is empty. Internal.';

-- The statement that makes of each row what its event says, as one jsonb: row_key, event_subject_ref, canonical_address,
-- correlation_id, safe_payload. p_new and p_old are what stands after FROM. Of an update only the rows that changed in what
-- the contract names, or (when_changed = any) in anything; they are paired by their key, and one whose key changed is a
-- changed one. Planned anew for every statement, so it is kept small; made anew only when fn_route_prepare has not made it.
create or replace function fn_route_rows(p_route jsonb, p_relation oid, p_new text, p_old text default null) returns text
language plpgsql stable set search_path from current
as $$
declare
  v_contract jsonb := p_route -> 'payload_contract';
  v_columns text[] := array(select jsonb_array_elements_text(v_contract -> 'columns'));
  v_keys text[];
  v_values jsonb;
  v_missing text;
  v_denied text;
  v_key text;
  v_payload text;
  v_whole text;
  v_subject text;
begin
  v_keys := fn_route_key_columns(p_relation);
  if v_keys is null then
    raise exception '%.% has no primary key any more', p_route ->> 'source_schema', p_route ->> 'source_table' using errcode = '55000';
  end if;
  select jsonb_object_agg(a.attname, case when a.atttypid::bigint < 16384 then format('to_jsonb(n.%I)', a.attname)
    else fn_route_value('n', a.attname, a.atttypid) end) into v_values
  from pg_attribute a
  where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped and a.attname = any (v_columns || v_keys);
  if not v_values ?& v_columns then
    select c into v_missing from unnest(v_columns) c where not v_values ? c limit 1;
    raise exception '%.% has no column % any more', p_route ->> 'source_schema', p_route ->> 'source_table', quote_ident(v_missing)
      using errcode = '42703';
  end if;
  select d into v_denied from fn_route_denied(p_route, p_relation) d limit 1;
  if found then -- the table has changed since the route was written
    raise exception '%', v_denied using errcode = '55000';
  end if;
  -- 1.0 and 1.00 are one key: one row
  with recursive types (attname, oid) as (
    select a.attname, a.atttypid from pg_attribute a where a.attrelid = p_relation and a.attname = any (v_keys) and a.attnum > 0
    union all
    select d.attname, t.typbasetype from types d join pg_type t on t.oid = d.oid and t.typtype = 'd'),
  keys (value, place) as (
    select case when exists (select from types t where t.attname = k and t.oid = 'numeric'::regtype)
      then format('to_jsonb(pg_catalog.trim_scale(n.%I::pg_catalog.numeric))', k) else v_values ->> k end, place
    from unnest(v_keys) with ordinality as u (k, place))
  select string_agg(value, ', ' order by place), string_agg(format('(%s #>> ''{}'')', value), ' || ''/'' || ' order by place)
  into v_key, v_subject from keys;
  v_payload := 'jsonb_build_object(' || coalesce((select string_agg(format('%L, %s', c, v_values ->> c), ', ') from unnest(v_columns) c), '') || ')';
  v_payload := format('jsonb_build_object(''row_key'', %s, ''event_subject_ref'', %s, ''canonical_address'', %s, ''correlation_id'', %s, ''safe_payload'', %s)',
    case when p_route ->> 'idempotency_policy' = 'per_change' then 'null' else format('fn_route_key(%L, jsonb_build_array(%s))',
      format('%I.%I:%s:', p_route ->> 'source_schema', p_route ->> 'source_table', p_route ->> 'sql_event'), v_key) end,
    coalesce(fn_route_template(v_contract ->> 'subject_ref', v_values), v_subject),
    coalesce(fn_route_template(v_contract ->> 'canonical_address', v_values), 'null'),
    coalesce(fn_route_template(v_contract ->> 'correlation_id', v_values), 'null'), v_payload);
  if p_old is null then
    return format('select %s as event from %s', v_payload, p_new);
  elsif v_contract ->> 'when_changed' = 'any' then
    v_whole := 'format(''%s'', n.*)';
  else
    v_whole := format('jsonb_build_array(%s)', (select string_agg(v_values ->> c, ', ') from unnest(v_columns) c));
  end if;
  return format(
    'select x.event from (select %1$s as key, %2$s as whole, %3$s as event from %4$s) x
     left join (select %1$s as key, %2$s as whole from %5$s) o on o.key = x.key where o.key is null or o.whole is distinct from x.whole',
    format('jsonb_build_array(%s)', v_key), v_whole, v_payload, p_new, p_old);
end
$$;
comment on function fn_route_rows(jsonb, oid, text, text) is 'The statement that makes events'' contents of rows. Internal.';

-- Keeps the statement of fn_route_rows beside the route, so that the trigger need not make it at every write. It is used as
-- long as the route and the shape of the table are those for which it was made; otherwise the trigger makes its own, which
-- costs time and is never wrong, and fn_route_prune comes back here. With it stands the consent that covers the route as it
-- is, so that the trigger need not judge that either. Called when a route is written or switched on, and by fn_route_prune.
create or replace function fn_route_prepare(p_route_code text) returns boolean
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_route jsonb := (select to_jsonb(r) from iu_sql_event_route r join event_route o on o.route_code = r.route_code where r.route_code = p_route_code);
  v_relation oid := fn_route_relation(v_route);
  v_for jsonb := v_route - array['created_at', 'updated_at'];
  v_consent text;
  v_columns text[];
  v_shape text;
begin
  if v_relation is null or fn_route_key_columns(v_relation) is null then
    return false;
  end if;
  v_consent := (
    select t.argument from event_route o cross join fn_route_triggers(p_route_code) t
    where o.route_code = p_route_code and t.is_right and fn_route_beyond(v_route, t.consent, o.consent_no) = '{}' limit 1);
  v_columns := array(
    select jsonb_array_elements_text(v_route -> 'payload_contract' -> 'columns') union select unnest(fn_route_key_columns(v_relation)) order by 1);
  v_shape := fn_route_shape(v_relation, v_columns);
  update event_route o
  set rows_for = v_for, rows_consent = v_consent, rows_columns = v_columns, rows_shape = v_shape,
      rows_sql = fn_route_rows(v_route, v_relation, case v_route ->> 'sql_event' when 'delete' then 'route_old n' else 'route_new n' end,
        case v_route ->> 'sql_event' when 'update' then 'route_old n' end)
  where o.route_code = p_route_code and (o.rows_for, o.rows_consent, o.rows_shape) is distinct from (v_for, v_consent, v_shape);
  return found;
exception when undefined_column or object_not_in_prerequisite_state then
  return false; -- fn_route_check tells of it
end
$$;
comment on function fn_route_prepare(text) is 'Keeps a route''s statement for its trigger; true when it was another before. Internal.';

-- What a row is known by, over all tables: short ones can be read, long ones are their SHA-256.
-- PL/pgSQL, because a function in SQL that is not inlined costs ten times as much.
create or replace function fn_route_key(p_source text, p_key jsonb) returns text
language plpgsql immutable set search_path from current
as $$
declare
  v_key text := p_source || p_key::text;
begin
  return case when octet_length(v_key) > 500 then 'sha256:' || encode(sha256(convert_to(v_key, 'UTF8')), 'hex') else v_key end;
end
$$;
comment on function fn_route_key(text, jsonb) is 'The key by which a route remembers a row. Internal.';

-- Emits the events of one batch, or only counts them in a dry run (sample: the first three). unfit: those that are no
-- signal or have no subject; events: those of the others that were not told before; emitted: what the outbox took. The same
-- columns, in the same way, as fn_event_emit; a set at a time, because that costs a third. The trace context of the writing
-- transaction goes with each, where the payload has room for it and no such key of its own.
create or replace function fn_route_emit(
  p_route jsonb, p_type jsonb, p_events jsonb[], out unfit bigint, out events bigint, out emitted bigint, out sample jsonb)
language plpgsql volatile security definer set search_path from current set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_code text := p_route ->> 'route_code';
  v_policy text := p_route ->> 'idempotency_policy';
  v_tx xid8 := case when v_policy = 'per_transaction' then pg_current_xact_id() end;
  v_suffix text := coalesce(':' || v_tx::text, '');
  v_first uuid := fn_uuid_v7();
  v_trace text := fn_traceparent(nullif(current_setting('reveille.traceparent', true), ''));
begin
  if v_trace is not null then
    p_events := array(
      select case when not u.event -> 'safe_payload' ? 'traceparent'
          and fn_is_signal(u.event -> 'safe_payload' || jsonb_build_object('traceparent', v_trace))
        then jsonb_set(u.event, '{safe_payload,traceparent}', to_jsonb(v_trace)) else u.event end
      from unnest(p_events) with ordinality as u (event, place) order by u.place);
  end if;
  if cardinality(p_events) = 1 and not (p_route ->> 'dry_run')::boolean then -- most statements; a third of the time of the one below
    unfit := (coalesce(octet_length(p_events[1] ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(p_events[1] -> 'safe_payload'), false) is false)::int;
    events := 1 - unfit;
    emitted := 0;
    if events = 1 and v_policy <> 'per_change' then
      insert into event_route_key (route_code, row_key, tx_id) values (v_code, (p_events[1] ->> 'row_key') || v_suffix, v_tx)
      on conflict (route_code, row_key) do nothing;
      get diagnostics events = row_count;
    end if;
    if events = 1 then
      insert into event_outbox (
        id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
        canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
      select
        e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref,
        e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at
      from jsonb_populate_record(null::event_outbox, p_type || p_events[1] || jsonb_build_object('id', v_first)) e
      on conflict do nothing;
      get diagnostics emitted = row_count;
    end if;
    return;
  end if;
  if (p_route ->> 'dry_run')::boolean then
    with judged as materialized (
      select u.event, coalesce(octet_length(u.event ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(u.event -> 'safe_payload'), false) as is_fit
      from unnest(p_events) as u (event)),
    wanted as (
      select j.event from judged j
      where j.is_fit and (v_policy = 'per_change'
        or not exists (select from event_route_key k where k.route_code = v_code and k.row_key = (j.event ->> 'row_key') || v_suffix)))
    select (select count(*) from judged j where not j.is_fit), (select count(*) from wanted),
      (select jsonb_agg(jsonb_build_object('subject_ref', s.event -> 'event_subject_ref', 'payload', s.event -> 'safe_payload'))
       from (select w.event from wanted w limit 3) s)
    into unfit, events, sample;
    emitted := 0;
    return;
  end if;
  with judged as materialized (
    select u.event, coalesce(octet_length(u.event ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(u.event -> 'safe_payload'), false) as is_fit
    from unnest(p_events) as u (event)),
  fresh as (
    insert into event_route_key (route_code, row_key, tx_id)
    select v_code, (j.event ->> 'row_key') || v_suffix, v_tx from judged j where j.is_fit and v_policy <> 'per_change' order by 2
    on conflict (route_code, row_key) do nothing
    returning row_key),
  wanted as materialized (
    select fn_uuid_v7_nth(v_first, (row_number() over ())::int) as id, j.event from judged j
    where j.is_fit and (v_policy = 'per_change' or (j.event ->> 'row_key') || v_suffix in (select f.row_key from fresh f))),
  taken as (
    insert into event_outbox (
      id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
      canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
    select
      (e.r).id, (e.r).event_domain, (e.r).event_type, (e.r).event_stream, (e.r).delivery_lane, (e.r).event_severity, (e.r).event_subject_table,
      (e.r).event_subject_ref, (e.r).canonical_address, (e.r).actor_ref, (e.r).source_system, (e.r).correlation_id,
      (e.r).payload_classification, (e.r).safe_payload, (e.r).occurred_at, (e.r).created_at
    from (select jsonb_populate_record(null::event_outbox, p_type || w.event || jsonb_build_object('id', w.id)) as r from wanted w offset 0) e
    on conflict do nothing
    returning 1)
  select (select count(*) from judged j where not j.is_fit), (select count(*) from wanted), (select count(*) from taken)
  into unfit, events, emitted;
end
$$;
comment on function fn_route_emit(jsonb, jsonb, jsonb[]) is 'Emits a batch of a route''s events, or counts them in its dry run: unfit, events, emitted, sample. Internal.';

-- Trigger of every routed table, once a statement. Its arguments are the route's code and what the table's owner agreed to:
-- it does nothing beyond that, whatever the row says, and refuses no write unless he agreed to that too. One savepoint a statement catches what
-- goes wrong, never one a row (trap 19): fail_closed turns it into a refusal that says whose it is; otherwise the host's write
-- passes, and event_route_fault keeps it. In a dry run nothing is refused. Time and numbers are written in one way, whatever
-- the session says, because keys are made of them.
create or replace function fn_route_capture() returns trigger
language plpgsql volatile security definer set search_path from current
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
  v_batch constant int := 1000;
  v_deepest constant int := 8; -- events that lead to one another within one write, by triggers of the host on the outbox
  v_code text := tg_argv[0];
  v_route jsonb;
  v_is_dry boolean;
  v_closed boolean;
  v_beyond text[];
  v_sql text;
  v_type jsonb;
  v_event jsonb;
  v_events jsonb[] := '{}';
  v_changes bigint := 0;
  v_unfit bigint := 0;
  v_wanted bigint := 0;
  v_emitted bigint := 0;
  v_sample jsonb;
  v_told record;
  v_stack text;
  v_state text;
  v_said text;
  v_detail text;
begin
  if not fn_gate_is_open('queue.route.enabled') then
    return null; -- all routes are off: the write passes, nothing is planned, counted or kept
  end if;
  v_route := (select to_jsonb(r) from iu_sql_event_route r where r.route_code = v_code);
  if v_route is null or not coalesce((v_route ->> 'enabled')::boolean, false) then
    return null; -- switched off by its row alone, which stops it at once and needs no lock on the table
  end if;
  v_is_dry := coalesce((v_route ->> 'dry_run')::boolean, true);
  -- asked of the text: a string in JSON has no such quotes within
  v_closed := not v_is_dry and (v_route ->> 'fail_closed')::boolean and strpos(coalesce(tg_argv[1], ''), '"fail_closed": true') > 0;
  begin
    if pg_trigger_depth() > v_deepest then -- cascades of the host may be as deep as they like; what counts is how often this stands there
      get diagnostics v_stack = pg_context;
      if (select count(*) from regexp_matches(v_stack, 'fn_route_capture\(\)', 'g')) > v_deepest then
        raise exception 'its event leads to the same write again: more than % events of routes within one another', v_deepest
          using errcode = '54001', detail = 'A trigger on event_outbox, or on what it writes, writes to a routed table.';
      end if;
    end if;
    select jsonb_build_object(
      'event_domain', r.event_domain, 'event_type', r.event_type, 'event_stream', r.event_stream, 'delivery_lane', r.delivery_lane,
      'event_severity', r.default_severity, 'event_subject_table', tg_table_schema || '.' || tg_table_name,
      'actor_ref', session_user, 'source_system', 'route:' || v_code, 'payload_classification', 'safe_metadata',
      'occurred_at', clock_timestamp(), 'created_at', now()) into v_type
    from event_type_registry r
    where r.event_domain = v_route ->> 'target_event_domain' and r.event_type = v_route ->> 'target_event_type' and r.active;
    if not found then
      raise exception '%.% is not registered and active in event_type_registry', v_route ->> 'target_event_domain', v_route ->> 'target_event_type'
        using errcode = '22023';
    elsif tg_table_schema <> v_route ->> 'source_schema' or tg_table_name <> v_route ->> 'source_table' or lower(tg_op) <> v_route ->> 'sql_event' then
      raise exception 'the route is made for % of %.%', v_route ->> 'sql_event', v_route ->> 'source_schema', v_route ->> 'source_table'
        using errcode = '55000';
    end if;
    v_sql := (
      select o.rows_sql from event_route o
      where o.route_code = v_code and o.rows_consent = tg_argv[1] and o.rows_for = v_route - array['created_at', 'updated_at']
        and o.rows_shape = fn_route_shape(tg_relid, o.rows_columns));
    if v_sql is null then
      v_beyond := fn_route_beyond(v_route, fn_route_said(tg_argv[1]), (select o.consent_no from event_route o where o.route_code = v_code));
      if v_beyond <> '{}' then
        raise exception 'the owner of %.% has not agreed to: %', tg_table_schema, tg_table_name, array_to_string(v_beyond, ', ') using errcode = '42501';
      end if;
      v_sql := fn_route_rows(v_route, tg_relid, case tg_op when 'DELETE' then 'route_old n' else 'route_new n' end,
        case tg_op when 'UPDATE' then 'route_old n' end);
    end if;
    for v_event in execute v_sql loop
      v_changes := v_changes + 1;
      v_events := array_append(v_events, v_event);
      if v_changes % v_batch = 0 then
        v_told := fn_route_emit(v_route, v_type, v_events);
        v_unfit := v_unfit + v_told.unfit;
        v_wanted := v_wanted + v_told.events;
        v_emitted := v_emitted + v_told.emitted;
        v_sample := coalesce(v_sample, v_told.sample);
        v_events := '{}';
      end if;
    end loop;
    if v_events <> '{}' then
      v_told := fn_route_emit(v_route, v_type, v_events);
      v_unfit := v_unfit + v_told.unfit;
      v_wanted := v_wanted + v_told.events;
      v_emitted := v_emitted + v_told.emitted;
      v_sample := coalesce(v_sample, v_told.sample);
    end if;
    if v_is_dry and v_changes > 0 then
      insert into event_route_sample (route_code, statements, changes, events, duplicates, unfit, sample)
      values (v_code, 1, v_changes, v_wanted, v_changes - v_unfit - v_wanted, v_unfit, v_sample);
    elsif v_unfit > 0 and v_closed then
      raise exception '% of % changes have no payload that may travel', v_unfit, v_changes
        using errcode = '23514', detail = 'It has a denied key or more than 16 kB, or the subject is empty.';
    elsif v_emitted < v_wanted and v_closed then
      raise exception 'the outbox allows no second event of this type about the same subject' using errcode = '23505';
    end if;
    if v_wanted > 0 then
      insert into event_route_count (route_code, is_dry, events) values (v_code, v_is_dry, case when v_is_dry then v_wanted else v_emitted end);
    end if;
    if v_unfit > 0 then
      insert into event_route_fault (route_code, sqlstate, message, changes, dry_run)
      values (v_code, '23514', 'a payload may not travel (a denied key, or more than 16 kB), or a subject is empty', v_unfit, v_is_dry);
    end if;
    if v_emitted < v_wanted and not v_is_dry then
      insert into event_route_fault (route_code, sqlstate, message, changes, dry_run)
      values (v_code, '23505', 'the outbox allows no second event of this type about the same subject', v_wanted - v_emitted, v_is_dry);
    end if;
    return null;
  exception when others then
    get stacked diagnostics v_state = returned_sqlstate, v_said = message_text, v_detail = pg_exception_detail;
  end;
  if v_closed and v_said like 'route % refuses this %' then -- one within another
    raise exception '%', v_said using errcode = v_state, detail = coalesce(v_detail, '');
  elsif v_closed then
    raise exception 'route % refuses this % of %.%: %', v_code, lower(tg_op), tg_table_schema, tg_table_name, v_said
      using errcode = v_state, detail = coalesce(v_detail, ''),
        hint = format('The route is fail_closed. Mend what it says, or stop the route: reveille routes disable %s', v_code);
  end if;
  begin
    insert into event_route_fault (route_code, sqlstate, message, dry_run) values (v_code, v_state, left(v_said, 500), v_is_dry);
  exception when others then
    raise warning 'route % emitted no event and could not keep why: % (%); then: %', v_code, v_said, v_state, sqlerrm;
  end;
  return null;
end
$$;
comment on function fn_route_capture() is 'Trigger of routed tables, once a statement: emits the events of a route, or counts them in its dry run.';

---------------------------------------------------------------------------------------------- writing and switching

-- Whether a route may go live: its dry run has seen something since it says what it says, or it has been live so before.
create or replace function fn_route_is_tried(p_route_code text) returns boolean
language plpgsql stable security definer set search_path from current
as $$
begin
  return exists (
    select from event_route o
    where o.route_code = p_route_code and (o.was_live
      or exists (select from event_route_sample s where s.route_code = o.route_code and s.noted_at >= o.said_at)));
end
$$;
comment on function fn_route_is_tried(text) is 'Whether a route has run dry, or been live, since it says what it says. Internal.';

-- Routes as their rows, with whose they are, whether the gate for all of them is open, their trigger (enabled, disabled, missing),
-- the owner of its table, what he agreed to and what goes beyond that, whether its dry run has seen it as it is, how many faults they had within a day, and the last one. Read as jsonb, because a host's table may lack columns of ours.
create or replace function fn_route_list(p_route_code text default null) returns setof jsonb
language plpgsql stable security definer set search_path from current
as $$
begin
  return query
  select to_jsonb(r) || jsonb_build_object(
    'is_ours', o.route_code is not null, 'actor', o.actor, 'written_by', o.written_by,
    'gate_open', fn_gate_is_open('queue.route.enabled'),
    'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(to_jsonb(r))),
    'consent', t.consent, 'consent_no', o.consent_no, 'is_tried', fn_route_is_tried(r.route_code),
    'beyond', case when t.is_enabled is not null then to_jsonb(fn_route_beyond(to_jsonb(r), t.consent, o.consent_no)) end,
    'trigger', case
      when o.route_code is null then null
      when t.is_enabled then 'enabled'
      when t.is_enabled is not null then 'disabled'
      else 'missing' end,
    'faults', (select count(*) from event_route_fault f where f.route_code = r.route_code and f.noted_at > clock_timestamp() - interval '1 day'),
    'last_fault', (
      select jsonb_build_object('noted_at', f.noted_at, 'sqlstate', f.sqlstate, 'message', f.message, 'changes', f.changes, 'dry_run', f.dry_run)
      from event_route_fault f where f.route_code = r.route_code order by f.fault_id desc limit 1))
  from iu_sql_event_route r
  left join event_route o on o.route_code = r.route_code
  left join lateral (
    select x.is_enabled, x.consent from fn_route_triggers(r.route_code) x
    where x.is_right and o.route_code is not null order by x.is_enabled, x.trigger_name limit 1) t on true
  where p_route_code is null or r.route_code = p_route_code
  order by r.route_code;
end
$$;
comment on function fn_route_list(text) is 'All routes, or one: the row, is_ours, gate_open, trigger, owner, consent, beyond, is_tried, faults of the last day, last_fault.';

-- Makes a route's trigger with a consent to what p_route says, or puts that consent into the one that stands. Runs with the
-- caller's rights: that he may make it is his proof. Null, or why it could not be. Waits three seconds for the table at
-- most, because whoever comes later waits behind it. Called by fn_route_enable and fn_route_put.
create or replace function fn_route_agree(p_route jsonb, p_dry_run boolean, p_number int) returns text
language plpgsql volatile set search_path from current set lock_timeout = '3s'
as $$
declare
  v_code text := p_route ->> 'route_code';
  v_trigger record;
begin
  select t.is_enabled, t.trigger_name into v_trigger from fn_route_triggers(v_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
  execute format('create %s trigger %I after %s on %I.%I referencing %s for each statement execute function %I.fn_route_capture(%L, %L)',
    case when v_trigger.trigger_name is not null then 'or replace' else '' end, coalesce(v_trigger.trigger_name, 'reveille_route_' || v_code),
    p_route ->> 'sql_event', p_route ->> 'source_schema', p_route ->> 'source_table',
    case p_route ->> 'sql_event' when 'insert' then 'new table as route_new' when 'delete' then 'old table as route_old'
      else 'old table as route_old new table as route_new' end,
    current_schema(), v_code, fn_route_consent(p_route, p_dry_run, p_number));
  if not v_trigger.is_enabled then
    execute format('alter table %I.%I enable trigger %I', p_route ->> 'source_schema', p_route ->> 'source_table', v_trigger.trigger_name);
  end if;
  return null;
exception
  when lock_not_available then return 'table_busy';
  when duplicate_object then return 'trigger_name_taken';
end
$$;
comment on function fn_route_agree(jsonb, boolean, int) is 'Makes a route''s trigger with its caller''s consent: null, table_busy or trigger_name_taken. Internal.';

-- Writes a route for fn_route_put, checked in full: what is wrong raises 22023 and says what. A new one is disabled and in its
-- dry run; whether an existing one is enabled stays. While one is enabled it may not go beyond what its trigger says.
create or replace function fn_route_write(p_route jsonb, p_actor text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_known constant text[] := array['route_code', 'source_object_kind', 'source_schema', 'source_table', 'sql_event', 'target_event_domain',
    'target_event_type', 'idempotency_policy', 'fail_closed', 'payload_contract'];
  v_code text := p_route ->> 'route_code';
  v_contract jsonb := coalesce(p_route -> 'payload_contract', '{}');
  v_old jsonb;
  v_new jsonb;
  v_wrong text;
  v_columns text;
  v_lacks text[];
  v_consent jsonb;
  v_number int;
  v_beyond text[];
  v_aside constant text[] := array['fail_closed', 'target_event_stream', 'updated_at']; -- of no matter to what a dry run shows
begin
  if coalesce(btrim(p_actor), '') = '' or jsonb_typeof(p_route) is distinct from 'object' then
    raise exception 'fn_route_put needs a route as a JSON object, and an actor' using errcode = '22023';
  end if;
  select case
    when jsonb_typeof(p_route -> k) is null then k || ' is missing'
    when jsonb_typeof(p_route -> k) <> 'string' then k || ' must be text' end into v_wrong
  from unnest(array['route_code', 'source_table', 'sql_event', 'target_event_domain', 'target_event_type']) with ordinality as u (k, place)
  where jsonb_typeof(p_route -> k) is distinct from 'string'
  order by u.place limit 1;
  if v_wrong is null then
    select case
      when k = any (array['enabled', 'dry_run']) then k || ' is set by fn_route_enable and fn_route_disable'
      else quote_literal(k) || ' is not a key of a route; those are ' || array_to_string(v_known, ', ') end into v_wrong
    from jsonb_object_keys(p_route) k where k <> all (v_known) order by k limit 1;
  end if;
  v_wrong := case
    when v_wrong is not null then v_wrong
    when v_code !~ '^[a-z0-9][a-z0-9_.-]{0,47}$' then 'route_code must be lower case letters, digits, _, . and -, at most 48'
    when lower(p_route ->> 'sql_event') <> all (array['insert', 'update', 'delete']) then 'sql_event must be insert, update or delete'
    when coalesce(p_route ->> 'source_object_kind', 'table') <> 'table' then 'source_object_kind must be table'
    when coalesce(p_route ->> 'idempotency_policy', 'per_change') <> all (array['per_row', 'per_change', 'per_transaction'])
      then 'idempotency_policy must be per_row, per_change or per_transaction'
    when jsonb_typeof(coalesce(p_route -> 'fail_closed', 'false')) <> 'boolean' then 'fail_closed must be true or false'
    when jsonb_typeof(coalesce(p_route -> 'source_schema', '""')) <> 'string' then 'source_schema must be text'
    when jsonb_typeof(v_contract) <> 'object' then 'payload_contract must be an object'
    when jsonb_typeof(coalesce(v_contract -> 'columns', '[]')) <> 'array'
      or exists (select from jsonb_array_elements(coalesce(v_contract -> 'columns', '[]')) c where jsonb_typeof(c) <> 'string')
      then 'payload_contract.columns must be an array of names'
    when jsonb_array_length(coalesce(v_contract -> 'columns', '[]')) > 40 then 'payload_contract.columns names more than 40 columns: an event carries signal, not data'
    when coalesce(v_contract ->> 'when_changed', 'contract') <> all (array['contract', 'any']) then 'payload_contract.when_changed must be contract or any'
    when lower(p_route ->> 'sql_event') = 'update' and coalesce(v_contract ->> 'when_changed', 'contract') = 'contract'
      and jsonb_array_length(coalesce(v_contract -> 'columns', '[]')) = 0
      then 'payload_contract.columns is empty, so no update would change any of them: name columns, or say when_changed = any'
  end;
  if v_wrong is null then
    select 'payload_contract.' || k || case
      when k = any (array['subject_ref', 'canonical_address', 'correlation_id']) then ' must be a template such as {id}, at most 500 letters'
      else ' is unknown: there are columns, subject_ref, canonical_address, correlation_id and when_changed' end into v_wrong
    from jsonb_object_keys(v_contract) k
    where k <> all (array['columns', 'when_changed']) and (
      k <> all (array['subject_ref', 'canonical_address', 'correlation_id'])
      or jsonb_typeof(v_contract -> k) <> 'string' or v_contract ->> k !~ '^([^{}]|\{[^{}]+\}){1,250}$' or length(v_contract ->> k) > 500)
    order by k limit 1;
  end if;
  if v_wrong is not null then
    raise exception '%', v_wrong using errcode = '22023';
  end if;

  v_new := jsonb_build_object(
    'route_code', v_code, 'source_object_kind', 'table', 'source_schema', coalesce(nullif(p_route ->> 'source_schema', ''), current_schema()),
    'source_table', p_route ->> 'source_table', 'sql_event', lower(p_route ->> 'sql_event'), 'target_event_domain', p_route ->> 'target_event_domain',
    'target_event_type', p_route ->> 'target_event_type', 'idempotency_policy', coalesce(p_route ->> 'idempotency_policy', 'per_change'),
    'target_event_stream', (select r.event_stream from event_type_registry r
      where r.event_domain = p_route ->> 'target_event_domain' and r.event_type = p_route ->> 'target_event_type'),
    'fail_closed', coalesce(p_route -> 'fail_closed', 'false'), 'payload_contract', v_contract, 'updated_at', clock_timestamp());
  select f.what into v_wrong from fn_route_findings(v_new) f limit 1;
  if found then
    raise exception '%', v_wrong using errcode = '22023';
  end if;

  select to_jsonb(r) into v_old from iu_sql_event_route r where r.route_code = v_code for update;
  if not found then
    v_new := v_new || jsonb_build_object('enabled', false, 'dry_run', true, 'created_at', clock_timestamp());
  elsif not exists (select from event_route o where o.route_code = v_code) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', v_code, 'is_ours', false);
  elsif (v_old -> 'enabled' = 'true' or exists (select from fn_route_triggers(v_code)))
    and jsonb_build_array(v_old -> 'source_schema', v_old -> 'source_table', v_old -> 'sql_event')
      <> jsonb_build_array(v_new -> 'source_schema', v_new -> 'source_table', v_new -> 'sql_event')
  then
    return jsonb_build_object('refused', true, 'reason', 'route_enabled', 'route_code', v_code);
  end if;
  -- a host's table may have more columns, which keep their defaults, or lack some that we cannot do without
  v_lacks := array(
    select k from unnest(array['route_code', 'source_schema', 'source_table', 'sql_event', 'target_event_domain', 'target_event_type',
      'enabled', 'dry_run', 'fail_closed', 'idempotency_policy', 'payload_contract']) k
    where not exists (
      select from pg_attribute a
      join pg_class c on c.oid = a.attrelid and c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route'
      where a.attname = k and a.attnum > 0 and not a.attisdropped));
  if v_lacks <> '{}' then
    return jsonb_build_object('refused', true, 'reason', 'route_table_unfit', 'route_code', v_code, 'lacks', to_jsonb(v_lacks),
      'what', 'the host''s table iu_sql_event_route lacks ' || array_to_string(v_lacks, ', '));
  end if;
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into v_columns
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid and c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route'
  where a.attnum > 0 and not a.attisdropped and a.attname = any (array(select jsonb_object_keys(v_new)));
  v_number := (select o.consent_no from event_route o where o.route_code = v_code);
  if v_old -> 'enabled' = 'true' then
    select t.consent into v_consent from fn_route_triggers(v_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
    if found then
      v_number := v_number + (v_consent -> 'number' is not distinct from to_jsonb(v_number + 1))::int; -- fn_route_put has just asked for it
      v_beyond := fn_route_beyond(v_old || v_new, v_consent, v_number);
      if v_beyond <> '{}' then
        return jsonb_build_object('refused', true, 'reason', 'consent_missing', 'route_code', v_code, 'beyond', to_jsonb(v_beyond),
          'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(v_new)),
          'route', v_old || v_new, 'consent_no', v_number);
      end if;
    end if;
  end if;
  if v_old is null then
    execute format('insert into iu_sql_event_route (%1$s) select %1$s from jsonb_populate_record(null::iu_sql_event_route, $1)', v_columns) using v_new;
  else
    execute format('update iu_sql_event_route r set (%1$s) = (select %1$s from jsonb_populate_record(null::iu_sql_event_route, $1)) where r.route_code = $2', v_columns)
    using v_new, v_code;
  end if;
  insert into event_route as o (route_code, actor) values (v_code, p_actor)
  on conflict (route_code) do update set actor = excluded.actor, written_by = session_user, updated_at = clock_timestamp(), consent_no = v_number;
  if v_old is not null and (v_old - v_aside) is distinct from ((v_old || v_new) - v_aside) then
    update event_route o set said_at = clock_timestamp(), was_live = v_old -> 'enabled' = 'true' and v_old -> 'dry_run' = 'false' where o.route_code = v_code;
  end if;
  perform fn_route_prepare(v_code);
  return jsonb_build_object('refused', false, 'route_code', v_code, 'created', v_old is null,
    'changed', v_old is null or (v_old - 'updated_at') is distinct from (v_old || v_new) - 'updated_at');
end
$$;
comment on function fn_route_write(jsonb, text) is 'Writes a route: as fn_route_put, but refused consent_missing whoever asks. Internal.';

-- Writes a route. Runs with the caller's rights: one that is enabled goes beyond what the owner of its table agreed to only
-- if the caller is the owner, who agrees by writing it. Anybody else may make it narrower. Called by operators.
create or replace function fn_route_put(p_route jsonb, p_actor text) returns jsonb
language plpgsql volatile set search_path from current
as $$
declare
  v_answer jsonb;
  v_refused text;
begin
  -- before the row and the table, which fn_route_enable takes in the other order
  perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || (p_route ->> 'route_code'), 0));
  v_answer := fn_route_write(p_route, p_actor);
  if v_answer ->> 'reason' is distinct from 'consent_missing' then
    return v_answer;
  elsif not pg_has_role((v_answer ->> 'owner')::name, 'usage') then
    return v_answer - array['route', 'consent_no'];
  end if;
  v_refused := fn_route_agree(v_answer -> 'route', (v_answer -> 'route' ->> 'dry_run')::boolean, (v_answer ->> 'consent_no')::int + 1);
  if v_refused is not null then
    return jsonb_build_object('refused', true, 'reason', v_refused, 'route_code', p_route ->> 'route_code');
  end if;
  return fn_route_write(p_route, p_actor);
end
$$;
comment on function fn_route_put(jsonb, text) is 'Writes a route, disabled and in its dry run when new: {route_code, created, changed}. Refused not_owner for the host''s own, route_enabled when its source would change, consent_missing when an enabled one would do more than the table''s owner agreed to, table_busy, route_table_unfit when the host''s table lacks a column.';

-- What the row says of a route of ours, without touching its trigger; audited. Any operator may make it less: disabled, or
-- dry. To be switched on, or from the dry run to live, its trigger must hold a consent that nobody has used so far; fn_route_agree
-- makes such a one. Nor does it go live before its dry run has seen what it says now, unless that is asked for.
-- Called by fn_route_enable and fn_route_disable.
create or replace function fn_route_switch(
  p_route_code text, p_enabled boolean, p_dry_run boolean, p_actor text, p_reason text, p_without_dry_run boolean default false) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_route jsonb;
  v_number int;
  v_was text;
  v_is text;
  v_consent jsonb;
  v_beyond text[];
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'switching a route needs an actor and a reason' using errcode = '22023';
  end if;
  select to_jsonb(r), o.consent_no, case when not r.enabled then 'disabled' when r.dry_run then 'dry run' else 'live' end,
    case when not p_enabled then 'disabled' when coalesce(p_dry_run, r.dry_run) then 'dry run' else 'live' end
  into v_route, v_number, v_was, v_is
  from iu_sql_event_route r join event_route o on o.route_code = r.route_code
  where r.route_code = p_route_code for update of r;
  if not found then
    return jsonb_build_object('refused', true, 'route_code', p_route_code, 'is_ours', false, 'reason',
      case when exists (select from iu_sql_event_route r where r.route_code = p_route_code) then 'not_owner' else 'not_found' end);
  elsif p_enabled then
    if v_is = 'live' and v_was <> 'live' and not coalesce(p_without_dry_run, false) and not fn_route_is_tried(p_route_code) then
      return jsonb_build_object('refused', true, 'reason', 'dry_run_missing', 'route_code', p_route_code);
    end if;
    select t.consent into v_consent from fn_route_triggers(p_route_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
    if v_was = 'disabled' or v_was = 'dry run' and v_is = 'live' or v_consent -> 'number' = to_jsonb(v_number + 1) then
      v_number := v_number + 1;
    end if;
    v_beyond := fn_route_beyond(v_route || jsonb_build_object('dry_run', v_is = 'dry run'), v_consent, v_number);
    if v_beyond <> '{}' then
      return jsonb_build_object('refused', true, 'reason', 'consent_missing', 'route_code', p_route_code, 'beyond', to_jsonb(v_beyond),
        'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(v_route)));
    end if;
  else
    v_number := v_number + 1; -- a trigger that is left holds the consent of before
  end if;
  update iu_sql_event_route r set enabled = p_enabled, dry_run = v_is <> 'live' and coalesce(p_dry_run, r.dry_run) where r.route_code = p_route_code;
  update event_route o set consent_no = v_number, rows_consent = null, was_live = o.was_live or v_is = 'live' where o.route_code = p_route_code;
  if p_enabled then
    perform fn_route_prepare(p_route_code);
  end if;
  if v_was <> v_is then
    insert into dot_config_audit (key, old_value, new_value, actor, reason) values ('route.' || p_route_code, v_was, v_is, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'route_code', p_route_code, 'state', v_is, 'was', v_was);
end
$$;
comment on function fn_route_switch(text, boolean, boolean, text, text, boolean) is 'Sets enabled and dry_run of a route''s row: {state, was}. Refused not_found, not_owner for the host''s own, dry_run_missing, consent_missing when its trigger holds no new consent to that.';

-- Makes the route's trigger, and lets it work. Runs with the caller's rights: the owner of the table decides about its
-- triggers, and agrees to what the route says now. p_dry_run null leaves that as it is, and it begins as true. What makes an
-- enabled route do no more than before, any operator may.
create or replace function fn_route_enable(
  p_route_code text, p_actor text, p_reason text, p_dry_run boolean default null, p_without_dry_run boolean default false) returns jsonb
language plpgsql volatile set search_path from current set lock_timeout = '3s'
as $$
declare
  v_route jsonb;
  v_dry boolean;
  v_found record;
  v_refused text;
  v_answer jsonb;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_route_enable needs an actor and a reason' using errcode = '22023';
  end if;
  begin
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || p_route_code, 0));
  exception when lock_not_available then
    return jsonb_build_object('refused', true, 'reason', 'table_busy', 'route_code', p_route_code);
  end;
  v_route := (select l from fn_route_list(p_route_code) l);
  if v_route is null then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not (v_route ->> 'is_ours')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  end if;
  select f.finding, f.what into v_found from fn_route_findings(v_route) f limit 1;
  if found then
    return jsonb_build_object('refused', true, 'reason', v_found.finding, 'route_code', p_route_code, 'what', v_found.what);
  end if;
  v_dry := coalesce(p_dry_run, (v_route ->> 'dry_run')::boolean);
  if (v_route ->> 'enabled')::boolean and v_route ->> 'trigger' = 'enabled' and (v_dry or not (v_route ->> 'dry_run')::boolean)
    and fn_route_beyond(v_route || jsonb_build_object('dry_run', v_dry), v_route -> 'consent', (v_route ->> 'consent_no')::int) = '{}'
  then
    v_answer := fn_route_switch(p_route_code, true, v_dry, p_actor, p_reason);
  elsif not pg_has_role((v_route ->> 'owner')::name, 'usage') then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'owner', v_route ->> 'owner');
  elsif not v_dry and not coalesce(p_without_dry_run, false) and not (v_route ->> 'is_tried')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'dry_run_missing', 'route_code', p_route_code);
  else
    begin
      v_refused := fn_route_agree(v_route, v_dry, (v_route ->> 'consent_no')::int + 1);
      if v_refused is not null then
        return jsonb_build_object('refused', true, 'reason', v_refused, 'route_code', p_route_code);
      end if;
      v_answer := fn_route_switch(p_route_code, true, v_dry, p_actor, p_reason, p_without_dry_run);
      if (v_answer ->> 'refused')::boolean then
        raise exception using errcode = 'RV001'; -- takes the trigger back
      end if;
    exception when sqlstate 'RV001' then
      null;
    end;
  end if;
  if (v_answer ->> 'refused')::boolean then
    return v_answer;
  end if;
  return v_answer || (
    select jsonb_build_object('trigger', t.trigger_name, 'consent', t.consent, 'gate_open', fn_gate_is_open('queue.route.enabled'))
    from fn_route_triggers(p_route_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1);
end
$$;
comment on function fn_route_enable(text, text, text, boolean, boolean) is 'Makes a route''s trigger with the owner''s consent and enables it: {state, was, trigger, consent, gate_open}. Needs the table''s owner, unless it does no more than before: refused not_owner; dry_run_missing when it would go live and its dry run has seen nothing since the route says what it says; also not_found, table_busy, trigger_name_taken, or what fn_route_findings says.';

-- Stops a route, first by its row, which any operator may do at once; then its trigger goes, if the caller owns the table
-- and gets it within three seconds. Otherwise the trigger stays, does nothing, and fn_route_check tells of it. It stays, too, while
-- fn_route_enable or fn_route_put is at work: those take the table before the row, which is ours by now.
create or replace function fn_route_disable(p_route_code text, p_actor text, p_reason text) returns jsonb
language plpgsql volatile set search_path from current set lock_timeout = '3s'
as $$
declare
  v_answer jsonb := fn_route_switch(p_route_code, false, null, p_actor, p_reason);
  v_trigger record;
  v_left text;
begin
  if (v_answer ->> 'refused')::boolean then
    return v_answer;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || p_route_code, 0)) then
    return v_answer || '{"trigger_left": "table_busy"}';
  end if;
  begin
    for v_trigger in select t.* from fn_route_triggers(p_route_code) t loop
      execute format('drop trigger %I on %I.%I', v_trigger.trigger_name, v_trigger.table_schema, v_trigger.table_name);
    end loop;
  exception
    when lock_not_available or deadlock_detected then v_left := 'table_busy';
    when insufficient_privilege then v_left := 'not_owner';
  end;
  return v_answer || jsonb_build_object('trigger_left', v_left);
end
$$;
comment on function fn_route_disable(text, text, text) is 'Stops a route and removes its trigger: {state, was, trigger_left}; trigger_left says why the trigger could not go (not_owner, table_busy), null when it has.';

-- Forgets a route, its samples and what it has told, so that one of the same code would tell of every row again. Faults stay
-- until their time has come. A dry run counts what would go.
create or replace function fn_route_remove(p_route_code text, p_actor text, p_reason text, p_dry_run boolean default true) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_enabled boolean;
  v_samples bigint;
  v_keys bigint;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' or p_dry_run is null then
    raise exception 'fn_route_remove needs an actor, a reason, and whether it is a dry run' using errcode = '22023';
  end if;
  select r.enabled into v_enabled from iu_sql_event_route r where r.route_code = p_route_code for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not exists (select from event_route o where o.route_code = p_route_code) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  elsif v_enabled then
    return jsonb_build_object('refused', true, 'reason', 'route_enabled', 'route_code', p_route_code);
  elsif exists (select from fn_route_triggers(p_route_code)) then
    return jsonb_build_object('refused', true, 'reason', 'trigger_left_over', 'route_code', p_route_code);
  end if;
  if p_dry_run then
    v_samples := (select count(*) from event_route_sample s where s.route_code = p_route_code);
    v_keys := (select count(*) from event_route_key k where k.route_code = p_route_code);
  else
    delete from event_route_sample s where s.route_code = p_route_code;
    get diagnostics v_samples = row_count;
    delete from event_route_key k where k.route_code = p_route_code;
    get diagnostics v_keys = row_count;
    delete from event_route_count c where c.route_code = p_route_code;
    delete from event_route o where o.route_code = p_route_code;
    delete from iu_sql_event_route r where r.route_code = p_route_code;
    insert into dot_config_audit (key, old_value, new_value, actor, reason) values ('route.' || p_route_code, 'disabled', null, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'route_code', p_route_code, 'dry_run', p_dry_run, 'samples', v_samples, 'keys', v_keys,
    'faults_kept', (select count(*) from event_route_fault f where f.route_code = p_route_code));
end
$$;
comment on function fn_route_remove(text, text, text, boolean) is 'Removes a disabled route with its samples and keys, and keeps its faults: {dry_run, samples, keys, faults_kept}. Refused not_found, not_owner, route_enabled while it is enabled, trigger_left_over while its trigger stands.';

---------------------------------------------------------------------------------------------- looking

-- What the dry run of a route has counted, with the newest samples.
create or replace function fn_route_seen(p_route_code text) returns jsonb
language plpgsql stable security definer set search_path from current
as $$
begin
  return (
    select jsonb_build_object(
      'since', min(s.noted_at), 'statements', coalesce(sum(s.statements), 0), 'changes', coalesce(sum(s.changes), 0),
      'events', coalesce(sum(s.events), 0), 'duplicates', coalesce(sum(s.duplicates), 0), 'unfit', coalesce(sum(s.unfit), 0),
      'samples', coalesce((
        select jsonb_agg(jsonb_build_object('noted_at', n.noted_at, 'events', n.sample) order by n.sample_id desc)
        from (select x.* from event_route_sample x where x.route_code = p_route_code and x.sample is not null order by x.sample_id desc limit 5) n), '[]'))
    from event_route_sample s where s.route_code = p_route_code);
end
$$;
comment on function fn_route_seen(text) is 'What a route''s dry run has counted: {since, statements, changes, events, duplicates, unfit, samples}.';

-- Which of these keys a route has told of already.
create or replace function fn_route_told(p_route_code text, p_keys text[]) returns text[]
language plpgsql stable security definer set search_path from current
as $$
begin
  return array(select k.row_key from event_route_key k where k.route_code = p_route_code and k.row_key = any (p_keys));
end
$$;
comment on function fn_route_told(text, text[]) is 'Which of some keys a route has told of already. Called by fn_route_preview.';

-- The events that the last rows of the table (in the order of its primary key) would have made, what the dry run has counted,
-- and whether that was the route as it is now. Reads only, and with the caller's rights: nobody sees rows that he may not see anyway.
create or replace function fn_route_preview(p_route_code text, p_limit int default 20) returns jsonb
language plpgsql stable set search_path from current set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set extra_float_digits = 1
as $$
declare
  v_route jsonb := (select l from fn_route_list(p_route_code) l);
  v_relation oid;
  v_from text;
  v_found record;
  v_rows jsonb;
begin
  if p_limit is null or p_limit not between 1 and 10000 then
    raise exception 'fn_route_preview: p_limit must be from 1 to 10000' using errcode = '22023';
  elsif v_route is null then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not (v_route ->> 'is_ours')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  end if;
  select f.finding, f.what into v_found from fn_route_findings(v_route) f limit 1;
  if found then
    return jsonb_build_object('refused', true, 'reason', v_found.finding, 'route_code', p_route_code, 'what', v_found.what);
  end if;
  v_relation := fn_route_relation(v_route);
  select format('(select * from %I.%I t order by %s limit %s) n', v_route ->> 'source_schema', v_route ->> 'source_table',
    string_agg(format('t.%I desc', k), ', ' order by place), p_limit) into v_from
  from unnest(fn_route_key_columns(v_relation)) with ordinality as u (k, place);
  execute format('select coalesce(jsonb_agg(r.event), ''[]'') from (%s) r', fn_route_rows(v_route, v_relation, v_from)) into v_rows;
  return jsonb_build_object('refused', false, 'route_code', p_route_code,
    'event', format('%s.%s', v_route ->> 'target_event_domain', v_route ->> 'target_event_type'),
    'rows', coalesce((
      select jsonb_agg(r || jsonb_build_object('verdict', case
        when not coalesce(octet_length(r ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(r -> 'safe_payload'), false) then 'unfit'
        when v_route ->> 'idempotency_policy' = 'per_row' and r ->> 'row_key' = any (told.keys) then 'told already'
        else 'event' end))
      from jsonb_array_elements(v_rows) r
      cross join (select fn_route_told(p_route_code, array(select r ->> 'row_key' from jsonb_array_elements(v_rows) r)) as keys) told), '[]'),
    'dry_run', fn_route_seen(p_route_code), 'is_tried', v_route -> 'is_tried', 'live', (v_route ->> 'enabled')::boolean and not (v_route ->> 'dry_run')::boolean);
end
$$;
comment on function fn_route_preview(text, int) is 'What the last rows of a route''s table would have made, what its dry run has counted, and whether it may go live: {event, rows, dry_run, is_tried, live}. Reads only.';

-- What is wrong with routes of ours, and how to mend it. Called by `reveille health` and `reveille doctor`.
create or replace function fn_route_check(p_now timestamptz default null)
returns table (route_code text, severity text, finding text, what text, hint text)
language plpgsql stable security definer set search_path from current
set jit = off -- compiling it would take ten times as long as what it does
as $$
#variable_conflict use_column
begin
  return query
  select r.route_code, x.severity, x.finding, x.what, x.hint
  from (select l ->> 'route_code' as route_code, l as route, (l ->> 'enabled')::boolean as enabled
    from fn_route_list() l where (l ->> 'is_ours')::boolean) r
  cross join lateral (
    select 'error' as severity, f.finding, f.what,
      case f.finding when 'type_inactive' then 'register or activate the type in event_type_registry'
        else format('mend the table or the route''s file (reveille routes put FILE), or reveille routes disable %s', r.route_code) end as hint
    from fn_route_findings(r.route) f
    where r.enabled
    union all
    select 'error', 'trigger_missing', format('it is enabled, and there is no trigger for it on %I.%I: nothing becomes an event', r.route ->> 'source_schema', r.route ->> 'source_table'),
      format('reveille routes enable %s', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'missing' and fn_route_relation(r.route) is not null
    union all
    select 'error', 'trigger_disabled', format('its trigger on %I.%I is disabled: nothing becomes an event', r.route ->> 'source_schema', r.route ->> 'source_table'),
      format('reveille routes enable %s', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'disabled'
    union all
    select 'error', 'consent_missing', format('the owner of %I.%I has not agreed to: %s', r.route ->> 'source_schema', r.route ->> 'source_table',
        (select string_agg(b, ', ') from jsonb_array_elements_text(r.route -> 'beyond') b)),
      format('as %s: reveille routes enable %s; or make the route say less (reveille routes put FILE)', r.route ->> 'owner', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'enabled' and r.route -> 'beyond' <> '[]'
    union all
    select 'warning', 'trigger_left_over', format('%s, and its trigger still stands on %I.%I', case when r.enabled then 'its source is another table' else 'it is disabled' end, t.table_schema, t.table_name),
      format('as the owner of the table: drop trigger %I on %I.%I', t.trigger_name, t.table_schema, t.table_name)
    from fn_route_triggers(r.route_code) t
    where not r.enabled or not t.is_right
    union all
    select 'warning', 'faults', format('%s of its writes passed without their events within a day, last: %s (%s)', f.n, f.message, f.sqlstate),
      format('reveille routes show %s', r.route_code)
    from (
      select count(*) as n, (array_agg(e.message order by e.fault_id desc))[1] as message, (array_agg(e.sqlstate order by e.fault_id desc))[1] as sqlstate
      from event_route_fault e
      where e.route_code = r.route_code and not e.dry_run and e.noted_at > coalesce(p_now, clock_timestamp()) - interval '1 day') f
    where f.n > 0) x
  union all
  select '*', 'warning', 'gate_closed', format('the gate queue.route.enabled is closed, so %s enabled routes do nothing', c.n),
    'reveille gate open queue.route.enabled --reason TEXT'
  from (
    select count(*) as n from event_route o join iu_sql_event_route r on r.route_code = o.route_code where r.enabled) c
  where c.n > 0 and not fn_gate_is_open('queue.route.enabled')
  union all
  select convert_from(a.code, getdatabaseencoding()), 'warning', 'trigger_left_over',
    format('there is no such route, and a trigger for it stands on %I.%I', n.nspname, c.relname),
    format('as the owner of the table: drop trigger %I on %I.%I', t.tgname, n.nspname, c.relname)
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_route_capture' and p.pronamespace = quote_ident(current_schema())::regnamespace
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select substr(t.tgargs, 1, position('\x00'::bytea in t.tgargs) - 1) as code) a
  where not t.tgisinternal and t.tgparentid = 0 and t.tgnargs > 0
    and not exists (select from event_route o where convert_to(o.route_code, getdatabaseencoding()) = a.code)
  order by 1, 3;
end
$$;
comment on function fn_route_check(timestamptz) is 'Findings about routes: table_missing, table_unfit, key_missing, column_missing, column_denied, type_inactive, trigger_missing, trigger_disabled, consent_missing, trigger_left_over, faults, gate_closed.';

-- Routes of ours in numbers: events as far as fn_route_prune has added them up, faults of the last day up to 1,000. Called by `/metrics`.
create or replace function fn_route_counts(p_now timestamptz default null)
returns table (route_code text, events bigint, dry_run_events bigint, faults bigint)
language plpgsql stable security definer set search_path from current
as $$
#variable_conflict use_column
begin
  return query
  select o.route_code, o.events, o.dry_run_events, f.n
  from event_route o
  cross join lateral (
    select count(*) as n
    from (select x.noted_at, x.dry_run from event_route_fault x where x.route_code = o.route_code order by x.fault_id desc limit 1000) l
    where not l.dry_run and l.noted_at > coalesce(p_now, clock_timestamp()) - interval '1 day') f
  order by o.route_code
  limit 1000;
end
$$;
comment on function fn_route_counts(timestamptz) is 'Events emitted, events of dry runs, and faults of the last day, of each route.';

-- Adds up how many events routes have made. Keeps what routes note small: faults for queue.route.fault_seconds (30 days) and the newest 1,000 of a route, keys of
-- per_transaction for a day, and of samples the newest 20 of a route; the others are added up. One session at a time.
create or replace function fn_route_prune(p_limit int default 10000, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_keep interval := make_interval(secs => fn_config_number('queue.route.fault_seconds', 2592000)::float8);
  v_faults bigint := 0;
  v_keys bigint;
  v_samples bigint := 0;
  v_part bigint;
  v_code text;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_route_prune: p_limit must be at least 1' using errcode = '22023';
  elsif not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_route_prune', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'faults', 0, 'keys', 0, 'samples', 0, 'more', false);
  end if;
  with gone as (
    delete from event_route_count c returning c.route_code, c.is_dry, c.events)
  update event_route o
  set events = o.events + s.events, dry_run_events = o.dry_run_events + s.dry_run_events
  from (
    select g.route_code, coalesce(sum(g.events) filter (where not g.is_dry), 0) as events, coalesce(sum(g.events) filter (where g.is_dry), 0) as dry_run_events
    from gone g group by 1) s
  where o.route_code = s.route_code;
  perform fn_route_prepare(r.route_code)
  from event_route o join iu_sql_event_route r on r.route_code = o.route_code where r.enabled order by r.route_code;
  for v_code in
    select f.route_code from event_route_fault f union select s.route_code from event_route_sample s order by 1
  loop
    delete from event_route_fault f
    where f.fault_id = any (array(
      select o.fault_id from event_route_fault o
      where o.route_code = v_code and (o.noted_at < v_now - v_keep or o.fault_id <= (
        select n.fault_id from event_route_fault n where n.route_code = v_code order by n.fault_id desc offset 1000 limit 1))
      order by o.fault_id limit p_limit));
    get diagnostics v_part = row_count;
    v_faults := v_faults + v_part;
    with gone as (
      delete from event_route_sample s
      where s.sample_id = any (array(
        select o.sample_id from event_route_sample o
        where o.route_code = v_code and o.sample_id <= (
          select n.sample_id from event_route_sample n where n.route_code = v_code and n.statements = 1 order by n.sample_id desc offset 20 limit 1)
        order by o.sample_id limit p_limit))
      returning s.*),
    added as (
      insert into event_route_sample (route_code, noted_at, statements, changes, events, duplicates, unfit)
      select v_code, min(g.noted_at), sum(g.statements), sum(g.changes), sum(g.events), sum(g.duplicates), sum(g.unfit)
      from gone g having count(*) > 0)
    select count(*) into v_part from gone;
    v_samples := v_samples + v_part;
  end loop;
  delete from event_route_key k
  where k.ctid = any (array(
    select o.ctid from event_route_key o where o.tx_id is not null and o.noted_at < v_now - interval '1 day' limit p_limit));
  get diagnostics v_keys = row_count;
  return jsonb_build_object('refused', false, 'busy', false, 'faults', v_faults, 'keys', v_keys, 'samples', v_samples,
    'more', v_faults >= p_limit or v_keys >= p_limit or v_samples >= p_limit);
end
$$;
comment on function fn_route_prune(int, timestamptz) is 'Adds up events, removes old faults and keys, adds up old samples: {busy, faults, keys, samples, more}.';

do $$
declare
  v_function text;
  v_all text[] := array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader'];
begin
  foreach v_function in array array[
    'fn_route_key_columns(oid)', 'fn_route_shape(oid, text[])', 'fn_route_relation(jsonb)', 'fn_route_is_own(oid)', 'fn_route_denied(jsonb, oid)', 'fn_route_findings(jsonb)', 'fn_route_value(text, text, oid)',
    'fn_route_template(text, jsonb)', 'fn_route_rows(jsonb, oid, text, text)', 'fn_route_triggers(text)', 'fn_route_list(text)',
    'fn_route_consent(jsonb, boolean, int)', 'fn_route_said(text)', 'fn_route_beyond(jsonb, jsonb, int)',
    'fn_route_is_tried(text)', 'fn_route_seen(text)', 'fn_route_told(text, text[])', 'fn_route_preview(text, int)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator', 'reveille_reader']);
  end loop;
  -- whoever makes a trigger must be allowed to call its function; called in any other way it refuses
  foreach v_function in array array[
    'fn_route_capture()', 'fn_route_agree(jsonb, boolean, int)', 'fn_route_write(jsonb, text)', 'fn_route_put(jsonb, text)', 'fn_route_switch(text, boolean, boolean, text, text, boolean)', 'fn_route_enable(text, text, text, boolean, boolean)',
    'fn_route_disable(text, text, text)', 'fn_route_remove(text, text, text, boolean)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  execute format('revoke all on function %s from public', 'fn_route_emit(jsonb, jsonb, jsonb[])'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_route_prepare(text)'::regprocedure);
  execute format('revoke all on function %s from public', 'fn_route_check(timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_route_check(timestamptz)'::regprocedure), v_all);
  execute format('revoke all on function %s from public', 'fn_route_counts(timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_route_counts(timestamptz)'::regprocedure), v_all);
  execute format('revoke all on function %s from public', 'fn_route_prune(int, timestamptz)'::regprocedure);
  call pr_grant(format('execute on function %s', 'fn_route_prune(int, timestamptz)'::regprocedure), array['reveille_dispatcher', 'reveille_operator']);
  call pr_grant('select on table event_route, event_route_key, event_route_fault, event_route_sample, event_route_count, host_constraint', array['reveille_operator', 'reveille_reader']);
  if (select h.created from host_object h where h.object_name = 'iu_sql_event_route') then
    call pr_grant('select on table iu_sql_event_route', array['reveille_operator', 'reveille_reader']);
  end if;
end
$$;
