-- Functions of phase 009: templates, workflows and what frees their jobs.

-- What is wrong with a value by a schema, as texts that name the place. Of JSON schema the keywords that
-- fn_json_schema_unknown knows. Called when a workflow is emitted.
create or replace function fn_json_schema_errors(p_schema jsonb, p_value jsonb, p_at text default 'params') returns text[]
language plpgsql immutable set search_path from current
as $$
declare
  v_type text := p_schema ->> 'type';
  v_is text := jsonb_typeof(p_value);
  v_errors text[] := '{}';
  v_key text;
  v_item jsonb;
  v_n int := 0;
begin
  if v_type is not null and v_is <> (case v_type when 'integer' then 'number' else v_type end)
    or (case when v_type = 'integer' and v_is = 'number' then (p_value #>> '{}')::numeric % 1 <> 0 end)
  then
    return array[format('%s must be %s, not %s', p_at, v_type, left(p_value::text, 80))];
  end if;
  if p_schema ? 'enum' and not exists (select from jsonb_array_elements(p_schema -> 'enum') e where e = p_value) then
    v_errors := v_errors || format('%s must be one of %s', p_at, p_schema -> 'enum');
  end if;
  if (case when v_is = 'number' then
    (p_value #>> '{}')::numeric < (p_schema ->> 'minimum')::numeric or (p_value #>> '{}')::numeric > (p_schema ->> 'maximum')::numeric end)
  then
    v_errors := v_errors || format('%s must be %s', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minimum'), 'at most ' || (p_schema ->> 'maximum')));
  elsif v_is = 'string' then
    if length(p_value #>> '{}') < (p_schema ->> 'minLength')::int or length(p_value #>> '{}') > (p_schema ->> 'maxLength')::int then
      v_errors := v_errors || format('%s must have %s characters', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minLength'), 'at most ' || (p_schema ->> 'maxLength')));
    end if;
    if p_value #>> '{}' !~ (p_schema ->> 'pattern') then
      v_errors := v_errors || format('%s must match %s', p_at, p_schema ->> 'pattern');
    end if;
  elsif v_is = 'array' then
    if jsonb_array_length(p_value) < (p_schema ->> 'minItems')::int or jsonb_array_length(p_value) > (p_schema ->> 'maxItems')::int then
      v_errors := v_errors || format('%s must have %s items', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minItems'), 'at most ' || (p_schema ->> 'maxItems')));
    end if;
    if p_schema ? 'items' then
      for v_item in select e from jsonb_array_elements(p_value) e loop
        v_errors := v_errors || fn_json_schema_errors(p_schema -> 'items', v_item, format('%s[%s]', p_at, v_n));
        v_n := v_n + 1;
        exit when cardinality(v_errors) >= 20;
      end loop;
    end if;
  elsif v_is = 'object' then
    for v_key in select r from jsonb_array_elements_text(coalesce(p_schema -> 'required', '[]')) r where not p_value ? r loop
      v_errors := v_errors || format('%s.%s is missing', p_at, v_key);
    end loop;
    for v_key, v_item in select e.key, e.value from jsonb_each(p_value) e loop
      if p_schema -> 'properties' ? v_key then
        v_errors := v_errors || fn_json_schema_errors(p_schema -> 'properties' -> v_key, v_item, format('%s.%s', p_at, v_key));
      elsif p_schema -> 'additionalProperties' = 'false' then
        v_errors := v_errors || format('%s.%s is unknown', p_at, v_key);
      end if;
    end loop;
  end if;
  return v_errors;
end
$$;
comment on function fn_json_schema_errors(jsonb, jsonb, text) is 'What is wrong with a value by a schema; empty when nothing is.';

-- What in a schema is not understood, so that nobody relies on a keyword that does nothing. Called when a template is written.
create or replace function fn_json_schema_unknown(p_schema jsonb, p_at text default 'params') returns text[]
language plpgsql immutable set search_path from current
as $$
declare
  v_errors text[] := '{}';
  v_key text;
begin
  if jsonb_typeof(p_schema) is distinct from 'object' then
    return array[format('%s must be a schema, an object', p_at)];
  end if;
  select array_agg(format('%s: the keyword %s is not known', p_at, k)) into v_errors
  from jsonb_object_keys(p_schema) k
  where k <> all (array['type', 'properties', 'required', 'additionalProperties', 'items', 'enum', 'minimum', 'maximum', 'minLength',
    'maxLength', 'pattern', 'minItems', 'maxItems', 'description', 'title', 'default', 'examples']);
  v_errors := coalesce(v_errors, '{}');
  if p_schema ? 'type' and not coalesce(p_schema ->> 'type' = any (array['object', 'array', 'string', 'number', 'integer', 'boolean', 'null']), false) then
    v_errors := v_errors || format('%s: type %s is not known', p_at, p_schema -> 'type');
  end if;
  if p_schema ? 'pattern' then
    begin
      perform '' ~ (p_schema ->> 'pattern');
    exception when others then
      v_errors := v_errors || format('%s: pattern: %s', p_at, sqlerrm);
    end;
  end if;
  if jsonb_typeof(p_schema -> 'properties') = 'object' then
    for v_key in select k from jsonb_object_keys(p_schema -> 'properties') k loop
      v_errors := v_errors || fn_json_schema_unknown(p_schema -> 'properties' -> v_key, p_at || '.' || v_key);
    end loop;
  elsif p_schema ? 'properties' then
    v_errors := v_errors || format('%s: properties must be an object', p_at);
  end if;
  if p_schema ? 'items' then
    v_errors := v_errors || fn_json_schema_unknown(p_schema -> 'items', p_at || '[]');
  end if;
  v_errors := v_errors || array(
    select format('%s: %s must be %s, not %s', p_at, k.name, k.must_be, left((p_schema -> k.name)::text, 40))
    from (values
      ('required', 'array', 'an array'), ('enum', 'array', 'an array'), ('additionalProperties', 'boolean', 'true or false'),
      ('minimum', 'number', 'a number'), ('maximum', 'number', 'a number'),
      ('minLength', 'number', 'a whole number'), ('maxLength', 'number', 'a whole number'),
      ('minItems', 'number', 'a whole number'), ('maxItems', 'number', 'a whole number')) k (name, type, must_be)
    where p_schema ? k.name
      and (jsonb_typeof(p_schema -> k.name) <> k.type or k.must_be = 'a whole number' and p_schema ->> k.name !~ '^[0-9]{1,9}$'));
  v_errors := v_errors || array(
    select format('%s: a parameter named %s is denied: send references, not data', p_at, d.name)
    from (
      select k as name from jsonb_object_keys(case jsonb_typeof(p_schema -> 'properties') when 'object' then p_schema -> 'properties' else '{}' end) k
      union
      select r from jsonb_array_elements_text(case jsonb_typeof(p_schema -> 'required') when 'array' then p_schema -> 'required' else '[]' end) r) d
    where not fn_is_signal(jsonb_build_object(d.name, null)));
  return v_errors;
end
$$;
comment on function fn_json_schema_unknown(jsonb, text) is 'What a schema says that Reveille does not check; empty when nothing.';

-- Fills the placeholders of a value: {params.KEY}, {item}, {item.KEY}, {node}, {workflow_id}, {correlation_id}. A text that is one
-- placeholder becomes the value itself; within a text, its text. What a placeholder brings is not looked at again. What is
-- missing raises 22023 and names it.
create or replace function fn_mot_fill(p_value jsonb, p_context jsonb, p_params jsonb) returns jsonb
language plpgsql immutable strict set search_path from current
as $$
declare
  v_placeholder constant text := '\{([a-z_]+(?:\.[A-Za-z0-9_]+)*)\}';
  v_text text := p_value #>> '{}';
  v_names text[];
  v_found jsonb[];
  v_missing text;
begin
  if (v_text ~ v_placeholder) is not true then
    return p_value;
  elsif jsonb_typeof(p_value) = 'object' then
    return (select jsonb_object_agg(e.key, fn_mot_fill(e.value, p_context, p_params)) from jsonb_each(p_value) e);
  elsif jsonb_typeof(p_value) = 'array' then
    return (
      select jsonb_agg(fn_mot_fill(e.value, p_context, p_params) order by e.n)
      from jsonb_array_elements(p_value) with ordinality e (value, n));
  end if;
  v_names := array(select m[1] from regexp_matches(v_text, v_placeholder, 'g') m);
  v_found := array(
    select case split_part(n, '.', 1) when 'params' then p_params #> (string_to_array(n, '.'))[2:] else p_context #> string_to_array(n, '.') end
    from unnest(v_names) n);
  v_missing := (select u.name from unnest(v_names, v_found) u (name, value) where u.value is null limit 1);
  if v_missing is not null then
    raise exception 'the placeholder {%} stands for nothing here', v_missing using errcode = '22023';
  elsif v_text = '{' || v_names[1] || '}' then
    return v_found[1];
  end if;
  return to_jsonb((
    select string_agg(u.between || coalesce(u.value #>> '{}', ''), '' order by u.n)
    from unnest(regexp_split_to_array(v_text, v_placeholder), v_found) with ordinality u (between, value, n)));
end
$$;
comment on function fn_mot_fill(jsonb, jsonb, jsonb) is 'A value of a template with its placeholders filled. Internal.';

-- The names of the templates that are reached from a graph by its nodes of type graph, as KEY@VERSION and as KEY.
create or replace function fn_mot_reached(p_nodes jsonb) returns text[]
language plpgsql stable set search_path from current
as $$
declare
  v_reached text[];
  v_depth int;
begin
  with recursive reached (depth, template_key, version) as (
    select 1, t.template_key, t.version
    from jsonb_array_elements(p_nodes) n
    cross join lateral fn_mot_template_of(n ->> 'template') t
    where n ->> 'type' = 'graph'
    union -- each once at a depth: what holds a template often does not look into it as often
    select r.depth + 1, t.template_key, t.version
    from reached r
    join mot_template o on o.template_key = r.template_key and o.version = r.version
    cross join lateral jsonb_array_elements(o.nodes) n
    cross join lateral fn_mot_template_of(n ->> 'template') t
    where n ->> 'type' = 'graph' and r.depth <= 8
  )
  select max(r.depth), array_agg(distinct r.template_key || '@' || r.version) || array_agg(distinct r.template_key)
  into v_depth, v_reached
  from reached r where r.template_key is not null;
  if v_depth > 8 then
    raise exception 'graphs within graphs are deeper than 8' using errcode = '22023';
  end if;
  return coalesce(v_reached, '{}');
end
$$;
comment on function fn_mot_reached(jsonb) is 'Which templates a graph holds, at any depth. Internal.';

-- The template that a name means: KEY is its newest version, KEY@VERSION that one. All null when there is none.
create or replace function fn_mot_template_of(p_template_id text) returns mot_template
language sql stable set search_path from current
as $$
  select t.* from mot_template t
  where t.template_key = split_part(p_template_id, '@', 1)
    and (position('@' in p_template_id) = 0 or t.version::text = split_part(p_template_id, '@', 2))
  order by t.version desc limit 1
$$;
comment on function fn_mot_template_of(text) is 'The template of that name, KEY or KEY@VERSION.';

-- The advisory lock that stands for a template. Internal.
create or replace function fn_mot_template_lock(p_template_key text) returns bigint
language sql stable
return hashtextextended(current_schema() || '.mot_template:' || p_template_key, 0);
comment on function fn_mot_template_lock(text) is 'The advisory lock that stands for a template. Internal.';

-- What is wrong with the filter of an event node; null when nothing is. The same questions as of a consumer's filter.
create or replace function fn_gate_filter_problem(p_filter jsonpath) returns text
language plpgsql stable set search_path from current
as $$
begin
  if regexp_replace(p_filter::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
    return 'filter has a variable ($name); a filter has none, write the value itself';
  end if;
  perform jsonb_path_match_tz('{"event": {}, "payload": {}}', p_filter, '{}', false);
  return null;
exception
  when singleton_sql_json_item_required then
    return 'filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
  when others then
    return null; -- strict paths may fail on the empty sample and work on real events
end
$$;
comment on function fn_gate_filter_problem(jsonpath) is 'What is wrong with the filter of an event node, as a sentence; null when it is sound. Internal.';

-- What is wrong with a graph, as texts that say where; empty when nothing is. Called by fn_mot_template_put and by
-- `reveille workflows validate`.
create or replace function fn_mot_graph_errors(p_template_key text, p_nodes jsonb, p_edges jsonb, p_params jsonb default '{"type": "object"}') returns text[]
language plpgsql stable security definer set search_path from current
as $$
declare
  v_errors text[] := fn_json_schema_unknown(p_params);
  v_node jsonb;
  v_at text;
  v_known text[];
  v_lists jsonb; -- by node: what it goes through
  v_sorted text[];
  v_kinds text[] := fn_pause_names('job_kind') || array(select distinct k from queue_heartbeat h cross join unnest(h.wakes_for) k);
  v_inner mot_template;
begin
  if jsonb_typeof(p_nodes) is distinct from 'array' or jsonb_array_length(p_nodes) = 0 then
    return v_errors || 'nodes must be an array with at least one node'::text;
  elsif jsonb_typeof(p_edges) is distinct from 'array' then
    return v_errors || 'edges must be an array'::text;
  elsif jsonb_array_length(p_nodes) > 5000 then
    return v_errors || 'more than 5000 nodes'::text;
  end if;
  for v_node in select n from jsonb_array_elements(p_nodes) n loop
    v_at := format('node %s', coalesce(v_node ->> 'key', left(v_node::text, 60)));
    if jsonb_typeof(v_node) <> 'object' or coalesce(v_node ->> 'key', '') !~ '^[a-z][a-z0-9_]{0,59}$' then
      v_errors := v_errors || format('%s: key must be a letter, then up to 59 letters, digits or _, all small', v_at);
      continue;
    end if;
    v_known := array['key', 'type', 'description'] || case coalesce(v_node ->> 'type', 'job')
      when 'job' then array['job_kind', 'executor', 'event_domain', 'priority', 'max_attempts', 'source_ref', 'target_ref', 'payload_ref', 'ordering_key',
        'safe_payload', 'for_each', 'delay_seconds', 'backoff_strategy', 'backoff_seconds', 'backoff_cap_seconds', 'max_lease_losses',
        'time_limit_seconds']
      when 'approval' then array['expires_seconds']
      when 'event' then array['event_domain', 'event_type', 'filter', 'correlation_id', 'expires_seconds']
      when 'graph' then array['template', 'params', 'for_each'] end;
    if v_known is null then
      v_errors := v_errors || format('%s: type must be job, approval, event or graph', v_at);
      continue;
    end if;
    v_errors := v_errors || array(select format('%s: %s is not known', v_at, k) from jsonb_object_keys(v_node) k where k <> all (v_known));
    if v_node ? 'for_each' and (jsonb_typeof(v_node -> 'for_each') <> 'string' or v_node ->> 'for_each' !~ '^params\.[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$') then
      v_errors := v_errors || format('%s: for_each names a list among the parameters, as params.NAME', v_at);
    end if;
    v_errors := v_errors || array(
      select format('%s: %s is a number of at least %s, not %s', v_at, k.name, k.least, v_node -> k.name)
      from (values ('delay_seconds', 0), ('expires_seconds', 0), ('backoff_seconds', 0), ('backoff_cap_seconds', 0), ('max_lease_losses', 1),
        ('time_limit_seconds', 1)) k (name, least)
      where v_node ? k.name
        and (case jsonb_typeof(v_node -> k.name) when 'number' then (v_node ->> k.name)::numeric between k.least and 999999999 end) is not true)
      || array(
      select format('%s: %s is a text', v_at, k)
      from unnest(array['source_ref', 'target_ref', 'payload_ref', 'ordering_key', 'correlation_id']) k where jsonb_typeof(v_node -> k) <> 'string');
    case coalesce(v_node ->> 'type', 'job')
      when 'job' then
        if upper(v_node ->> 'executor') = 'MOT' then
          v_errors := v_errors || format('%s: MOT draws graphs and runs nothing; name the executor that does', v_at);
        elsif coalesce(v_node ->> 'executor', 'PG_worker') <> all (array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) then
          v_errors := v_errors || format('%s: the executor %s is not known', v_at, v_node ->> 'executor');
        end if;
        if coalesce(v_node ->> 'job_kind', '') !~ '^[A-Za-z][A-Za-z0-9_.:-]*$' then
          v_errors := v_errors || format('%s: job_kind is missing or no name of a kind', v_at);
        elsif v_node ->> 'job_kind' like 'workflow:%' then
          v_errors := v_errors || format('%s: a job of kind %s starts a workflow; a graph within a graph is a node of type graph', v_at, v_node ->> 'job_kind');
        elsif v_node ->> 'job_kind' <> all (v_kinds) then
          v_errors := v_errors || format('%s: nobody knows jobs of kind %s; register a handler (job_handler), a consumer or an executor for it first', v_at, v_node ->> 'job_kind');
        end if;
        if v_node ? 'event_domain' and not exists (select from event_type_registry r where r.event_domain = v_node ->> 'event_domain') then
          v_errors := v_errors || format('%s: the domain %s is not known', v_at, v_node -> 'event_domain');
        end if;
        v_errors := v_errors || array(select format('%s: backoff_strategy is constant, linear or exponential', v_at)
            where v_node ->> 'backoff_strategy' <> all (array['constant', 'linear', 'exponential']));
        begin
          perform (v_node ->> 'priority')::job_priority, (v_node ->> 'max_attempts')::job_limit;
          if v_node ? 'safe_payload' and (jsonb_typeof(v_node -> 'safe_payload') <> 'object' or not fn_is_signal(v_node -> 'safe_payload')) then
            v_errors := v_errors || format('%s: safe_payload must be an object of signals, without denied keys, at most 16 kB', v_at);
          end if;
        exception when others then
          v_errors := v_errors || format('%s: %s', v_at, sqlerrm);
        end;
      when 'event' then
        begin
          if fn_gate_filter_problem((v_node ->> 'filter')::jsonpath) is not null then
            v_errors := v_errors || format('%s: %s', v_at, fn_gate_filter_problem((v_node ->> 'filter')::jsonpath));
          end if;
          if not exists (select from event_type_registry r where r.event_domain = v_node ->> 'event_domain' and r.event_type = v_node ->> 'event_type' and r.active) then
            v_errors := v_errors || format('%s: the event %s.%s is not registered', v_at, v_node ->> 'event_domain', v_node ->> 'event_type');
          end if;
        exception when others then
          v_errors := v_errors || format('%s: filter: %s', v_at, sqlerrm);
        end;
      when 'graph' then
        v_inner := fn_mot_template_of(v_node ->> 'template');
        if v_inner.template_key is null then
          v_errors := v_errors || format('%s: there is no template %s', v_at, coalesce(v_node ->> 'template', '(none named)'));
        end if;
      else
    end case;
  end loop;
  v_errors := v_errors || array(
    select format('node %s stands twice', n ->> 'key') from jsonb_array_elements(p_nodes) n where jsonb_typeof(n) = 'object' group by n ->> 'key' having count(*) > 1);
  v_lists := (
    select coalesce(jsonb_object_agg(n ->> 'key', n -> 'for_each'), '{}') from jsonb_array_elements(p_nodes) n where n ->> 'key' is not null);
  v_errors := v_errors || array(
    select format('edge %s → %s: %s', e ->> 'from', e ->> 'to', w.wrong)
    from jsonb_array_elements(p_edges) e
    cross join lateral (
      select 'an edge has from, to, on, otherwise, each' as wrong
      where jsonb_typeof(e) <> 'object' or e - array['from', 'to', 'on', 'otherwise', 'each'] <> '{}'
      union all
      select format('there is no node %s', coalesce(x, '(none named)')) from unnest(array[e ->> 'from', e ->> 'to']) x where (v_lists ? x) is not true
      union all
      select 'on is success, failure or always, otherwise is fail, skip or continue'
      where coalesce(e ->> 'on', 'success') <> all (array['success', 'failure', 'always'])
        or coalesce(e ->> 'otherwise', 'fail') <> all (array['fail', 'skip', 'continue'])
      union all
      select 'each is true or false' where jsonb_typeof(e -> 'each') <> 'boolean'
      union all
      select 'each joins two nodes with the same for_each, item by item'
      where e -> 'each' = 'true' and (v_lists ->> (e ->> 'from') = v_lists ->> (e ->> 'to')) is not true) w);
  if exists (select from jsonb_array_elements(p_edges) e group by e ->> 'from', e ->> 'to' having count(*) > 1) then
    v_errors := v_errors || 'two edges join the same nodes'::text;
  end if;
  if cardinality(v_errors) = 0 then
    v_sorted := fn_mot_sorted(p_nodes, p_edges);
    if cardinality(v_sorted) < jsonb_array_length(p_nodes) then
      v_errors := v_errors || format('the edges go in a circle among %s', (
        select string_agg(k, ', ') from (
          select n ->> 'key' as k from jsonb_array_elements(p_nodes) n except all select k from unnest(v_sorted) k) u));
    end if;
    if p_template_key = any (fn_mot_reached(p_nodes)) then
      v_errors := v_errors || format('the graph holds itself, %s', p_template_key);
    end if;
  end if;
  return v_errors;
end
$$;
comment on function fn_mot_graph_errors(text, jsonb, jsonb, jsonb) is 'What is wrong with a graph; empty when it may be written.';

-- The keys of a graph''s nodes, each after those that it needs; those on a circle, or behind one, are left out.
create or replace function fn_mot_sorted(p_nodes jsonb, p_edges jsonb) returns text[]
language plpgsql immutable set search_path from current
as $$
declare
  v_keys text[] := array(select n.node ->> 'key' from jsonb_array_elements(p_nodes) with ordinality n (node, nth) order by n.nth);
  v_index jsonb := (select jsonb_object_agg(k, n) from unnest(v_keys) with ordinality u (k, n));
  v_out jsonb := (
    select jsonb_object_agg(f.key, f.follow)
    from (select e ->> 'from' as key, jsonb_agg(v_index -> (e ->> 'to')) as follow from jsonb_array_elements(p_edges) e group by 1) f);
  v_needs int[] := array(
    select coalesce(c.count, 0)::int
    from unnest(v_keys) with ordinality u (k, n)
    left join (select e ->> 'to' as key, count(*) as count from jsonb_array_elements(p_edges) e group by 1) c on c.key = u.k
    order by u.n);
  v_ready int[] := array(select n::int from unnest(v_needs) with ordinality u (needs, n) where u.needs = 0 order by n);
  v_sorted text[] := '{}';
  v_at int := 1;
  v_to int;
begin
  while v_at <= cardinality(v_ready) loop
    v_sorted := v_sorted || v_keys[v_ready[v_at]];
    for v_to in select f::int from jsonb_array_elements_text(coalesce(v_out -> v_keys[v_ready[v_at]], '[]')) f loop
      v_needs[v_to] := v_needs[v_to] - 1;
      if v_needs[v_to] = 0 then
        v_ready := v_ready || v_to;
      end if;
    end loop;
    v_at := v_at + 1;
  end loop;
  return v_sorted;
end
$$;
comment on function fn_mot_sorted(jsonb, jsonb) is 'The nodes of a graph in an order in which they can run. Internal.';

-- Writes a template: {template_key, description, params, nodes, edges}. Says what is wrong with it, all at once, and then
-- writes nothing. An unused newest version is replaced, a used one is followed by the next; the same text changes nothing.
-- With p_dry_run it is only checked. Called by `reveille workflows put` and `validate`.
create or replace function fn_mot_template_put(p_template jsonb, p_actor text, p_dry_run boolean default false) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_key text := p_template ->> 'template_key';
  v_params jsonb := coalesce(p_template -> 'params', '{"type": "object"}');
  v_nodes jsonb := p_template -> 'nodes';
  v_edges jsonb := coalesce(p_template -> 'edges', '[]');
  v_errors text[];
  v_last mot_template;
  v_version int;
begin
  if jsonb_typeof(p_template) is distinct from 'object' or coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_mot_template_put needs a template, an object, and an actor' using errcode = '22023';
  end if;
  v_errors := array(
    select format('%s is not known; a template has template_key, description, params, nodes, edges', k)
    from jsonb_object_keys(p_template) k where k <> all (array['template_key', 'description', 'params', 'nodes', 'edges']))
    || case when coalesce(v_key, '') !~ '^[a-z][a-z0-9_.-]{0,79}$'
      then array['template_key must be a small letter, then up to 79 small letters, digits or _ . -'] else '{}' end
    || fn_mot_graph_errors(v_key, v_nodes, v_edges, v_params);
  if cardinality(v_errors) > 0 then
    return jsonb_build_object('refused', true, 'reason', 'invalid_template', 'template_key', v_key, 'errors', to_jsonb(v_errors));
  end if;
  v_nodes := (
    select jsonb_agg(n.node order by s.nth)
    from unnest(fn_mot_sorted(v_nodes, v_edges)) with ordinality s (key, nth)
    join jsonb_array_elements(v_nodes) n (node) on n.node ->> 'key' = s.key);
  -- as whoever emits an unused version does, so that none is changed while its first workflow is made
  perform pg_advisory_xact_lock(fn_mot_template_lock(v_key));
  v_last := fn_mot_template_of(v_key);
  v_version := case when v_last.template_key is null then 1 else v_last.version + (v_last.used_at is not null)::int end;
  if v_last.nodes = v_nodes and v_last.edges = v_edges and v_last.params = v_params
    and v_last.description = coalesce(p_template ->> 'description', '')
  then
    return jsonb_build_object('refused', false, 'template_key', v_key, 'version', v_last.version, 'changed', false, 'dry_run', p_dry_run);
  end if;
  if not p_dry_run then
    insert into mot_template as t (template_key, version, description, params, nodes, edges, actor)
    values (v_key, v_version, coalesce(p_template ->> 'description', ''), v_params, v_nodes, v_edges, p_actor)
    on conflict (template_key, version) do update
    set description = excluded.description, params = excluded.params, nodes = excluded.nodes, edges = excluded.edges,
        actor = excluded.actor, written_by = excluded.written_by, created_at = excluded.created_at;
  end if;
  return jsonb_build_object('refused', false, 'template_key', v_key, 'version', v_version, 'changed', true, 'dry_run', p_dry_run);
end
$$;
comment on function fn_mot_template_put(jsonb, text, boolean) is 'Writes a template: {template_key, version, changed}. Refused invalid_template with all errors.';

-- A template that was used stays as it is: what a workflow was made from can be read for ever.
create or replace function fn_mot_template_refuse() returns trigger
language plpgsql set search_path from current
as $$
begin
  if old.used_at is not null and (tg_op = 'DELETE' or (old.nodes, old.edges, old.params, old.version, old.template_key)
    is distinct from (new.nodes, new.edges, new.params, new.version, new.template_key))
  then
    raise exception 'the template %@% was used and is never changed; write the next version', old.template_key, old.version
      using errcode = '55000';
  end if;
  return case when tg_op = 'DELETE' then old else new end;
end
$$;
comment on function fn_mot_template_refuse() is 'Trigger: refuses to change a template that was used.';
create or replace trigger mot_template_refuse before update or delete on mot_template
  for each row execute function fn_mot_template_refuse();

-- The steps of a graph: graphs within it unfolded, a node with for_each once an item. Steps are numbered on from p_from; `needs`
-- are pairs of numbers. Parameters are not in the steps but in `scopes`, one a graph, numbered on from p_scope: a list of
-- thousands would stand in thousands of steps. A list without items lets what its node waits for through to what
-- follows; where nothing stands before it, that is what the whole graph waits for: `is_open` says that what follows the
-- graph waits for it, too. What takes longer than p_until is refused. Called by fn_mot_graph_emit, and by itself for graphs within.
create or replace function fn_mot_expand(
  p_template mot_template, p_params jsonb, p_context jsonb, p_prefix text, p_depth int, p_from int, p_scope int, p_until timestamptz,
  out steps jsonb[], out needs jsonb[], out scopes jsonb[], out entries int[], out exits int[], out is_open boolean)
language plpgsql stable set search_path from current
as $$
declare
  v_node jsonb;
  v_edge jsonb;
  v_items jsonb;
  v_item jsonb;
  v_context jsonb;
  v_params jsonb;
  v_inner mot_template;
  v_place jsonb := (
    select jsonb_object_agg(n.node ->> 'key', n.nth) from jsonb_array_elements(p_template.nodes) with ordinality n (node, nth));
  v_outs jsonb[] := '{}';  -- by place of the node: the steps that end it, and the item of each
  v_from jsonb;
  v_one jsonb;
  v_through jsonb := '{}'; -- by node that lets something through: which steps
  v_opens text[] := '{}';  -- nodes that let through what the whole graph waits for
  v_before jsonb := (select coalesce(jsonb_object_agg(e.key, e.edges), '{}') from (
    select e ->> 'to' as key, jsonb_agg(e) as edges from jsonb_array_elements(p_template.edges) e group by 1) e);
  v_after jsonb := (select coalesce(jsonb_object_agg(e ->> 'from', true), '{}') from jsonb_array_elements(p_template.edges) e);
  v_in int[];
  v_in_item int[];
  v_out int[];
  v_out_item int[];
  v_part record;
  v_key text;
  v_step text;
  v_number int;
  v_lets_through boolean;
begin
  if p_depth > 8 then
    raise exception 'graphs within graphs are deeper than 8' using errcode = '22023';
  end if;
  steps := '{}';
  needs := '{}';
  scopes := array[p_params];
  entries := '{}';
  for v_node in select n from jsonb_array_elements(p_template.nodes) n loop
    v_key := v_node ->> 'key';
    v_items := case when v_node ? 'for_each' then jsonb_build_object('params', p_params) #> string_to_array(v_node ->> 'for_each', '.') else '[null]' end;
    if jsonb_typeof(v_items) is distinct from 'array' then
      raise exception 'node %: % is no list', v_key, v_node ->> 'for_each' using errcode = '22023';
    end if;
    if v_node ->> 'type' = 'graph' then
      v_inner := fn_mot_template_of(v_node ->> 'template');
    end if;
    v_in := '{}';
    v_in_item := '{}';
    v_out := '{}';
    v_out_item := '{}';
    v_number := 0;
    v_lets_through := jsonb_array_length(v_items) = 0;
    for v_item in select i.value from jsonb_array_elements(v_items) with ordinality i (value, n) order by i.n loop
      v_number := v_number + 1;
      v_context := p_context || jsonb_build_object('node', p_prefix || v_key)
        || case when v_node ? 'for_each' then jsonb_build_object('item', v_item) else '{}' end;
      v_step := p_prefix || v_key || case when v_node ? 'for_each' then format('[%s]', v_number) else '' end;
      if clock_timestamp() > p_until then
        raise exception 'it takes too long to unfold; make several workflows of it' using errcode = '22023';
      elsif v_node ->> 'type' = 'graph' then
        v_params := fn_mot_fill(coalesce(v_node -> 'params', '{}'), v_context, p_params);
        if cardinality(fn_json_schema_errors(v_inner.params, v_params)) > 0 then
          raise exception 'node %: %', v_key, array_to_string(fn_json_schema_errors(v_inner.params, v_params), '; ') using errcode = '22023';
        end if;
        select * into v_part from fn_mot_expand(v_inner, v_params, v_context, v_step || '/', p_depth + 1,
          p_from + cardinality(steps), p_scope + cardinality(scopes), p_until) e;
        -- one by one: an array that is joined with another is copied as a whole
        foreach v_one in array v_part.steps loop
          steps := steps || v_one;
        end loop;
        foreach v_one in array v_part.needs loop
          needs := needs || v_one;
        end loop;
        foreach v_one in array v_part.scopes loop
          scopes := scopes || v_one;
        end loop;
        v_in := v_in || v_part.entries;
        v_in_item := v_in_item || array_fill(v_number, array[cardinality(v_part.entries)]);
        v_out := v_out || v_part.exits;
        v_out_item := v_out_item || array_fill(v_number, array[cardinality(v_part.exits)]);
        v_lets_through := v_lets_through or v_part.is_open;
      else
        steps := steps || (v_node || jsonb_build_object('context', v_context, 'scope', p_scope + 1, 'step', v_step));
        v_in := v_in || (p_from + cardinality(steps));
        v_in_item := v_in_item || v_number;
        v_out := v_out || (p_from + cardinality(steps));
        v_out_item := v_out_item || v_number;
      end if;
      if p_from + cardinality(steps) > 20000 then
        raise exception 'more than 20000 steps' using errcode = '22023';
      end if;
    end loop;
    v_outs := v_outs || jsonb_build_array(v_out, v_out_item);
    if not v_before ? v_key or exists (select from jsonb_array_elements(v_before -> v_key) e where e ->> 'from' = any (v_opens)) then
      entries := entries || v_in;
      if v_lets_through then
        v_opens := v_opens || v_key;
      end if;
    end if;
    for v_edge in select e from jsonb_array_elements(coalesce(v_before -> v_key, '[]')) e loop
      v_from := v_outs[(v_place ->> (v_edge ->> 'from'))::int];
      for v_one in
        select jsonb_build_object('from', f.step, 'to', t.step) || (v_edge - array['from', 'to', 'each']) || f.mark
        from (
          select o.step::int as step, o.item::int as item, jsonb '{}' as mark
          from rows from (jsonb_array_elements_text(v_from -> 0), jsonb_array_elements_text(v_from -> 1)) o (step, item)
          union all
          select h::int, null, '{"through": true}' from jsonb_array_elements_text(v_through -> (v_edge ->> 'from')) h) f
        join unnest(v_in, v_in_item) t (step, item) on (v_edge -> 'each' = 'true' and f.item is not null) is not true or f.item = t.item
      loop
        needs := needs || v_one;
      end loop;
      if cardinality(needs) > 200000 then
        raise exception 'more than 200000 edges between steps' using errcode = '22023';
      end if;
      if v_lets_through then
        v_through := v_through || jsonb_build_object(v_key, coalesce(v_through -> v_key, '[]')
          || (v_from -> 0) || coalesce(v_through -> (v_edge ->> 'from'), '[]'));
      end if;
    end loop;
  end loop;
  exits := array(
    select distinct o::int
    from jsonb_array_elements(p_template.nodes) with ordinality n (node, nth)
    cross join jsonb_array_elements_text((v_outs[n.nth] -> 0) || coalesce(v_through -> (n.node ->> 'key'), '[]')) o
    where not v_after ? (n.node ->> 'key'));
  is_open := exists (select from unnest(v_opens) o where not v_after ? o);
  if p_depth = 0 and exists (select from unnest(needs) d where d ? 'through') then -- an edge of its own counts, or one of them
    needs := array(
      select distinct on ((d ->> 'to')::int, (d ->> 'from')::int) d - 'through'
      from unnest(needs) d order by (d ->> 'to')::int, (d ->> 'from')::int, d ? 'through');
  end if;
end
$$;
comment on function fn_mot_expand(mot_template, jsonb, jsonb, text, int, int, int, timestamptz)
  is 'The steps of a graph, what each needs, and the parameters of each graph in it. Internal.';

-- What a step has of its own instead of its kind's: null when nothing. Internal.
create or replace function fn_mot_policy(p_step jsonb) returns jsonb
language sql immutable
return case when p_step ?| array['backoff_strategy', 'backoff_seconds', 'backoff_cap_seconds', 'max_lease_losses', 'time_limit_seconds'] then
  jsonb_strip_nulls(jsonb_build_object(
    'backoff_strategy', p_step -> 'backoff_strategy', 'backoff_seconds', p_step -> 'backoff_seconds',
    'backoff_cap_seconds', p_step -> 'backoff_cap_seconds', 'max_lease_losses', p_step -> 'max_lease_losses',
    'time_limit_seconds', p_step -> 'time_limit_seconds')) end;
comment on function fn_mot_policy(jsonb) is 'The policy of a step''s own (job_queue.policy), null when it has none. Internal.';

-- The answer to parameters from which no workflow can be made. Internal.
create or replace function fn_mot_emit_refused(p_template mot_template, p_errors text[]) returns jsonb
language sql immutable
return jsonb_build_object('refused', true, 'reason', 'invalid_params', 'template', (p_template).template_key || '@' || (p_template).version,
  'errors', to_jsonb(p_errors));
comment on function fn_mot_emit_refused(mot_template, text[]) is 'The refusal invalid_params. Internal.';

-- Makes one workflow and all its jobs from a template, in the caller's transaction. A second call with the same template and
-- correlation answers the first workflow. With p_dry_run the steps and edges are shown and nothing is written. Called by
-- `reveille workflows emit`, by dispatch for consumers of workflow:TEMPLATE, and by any producer.
create or replace function fn_mot_graph_emit(
  p_template_id text,
  p_template_params jsonb default '{}',
  p_correlation_id text default null,
  p_actor text default null,
  p_dry_run boolean default false,
  p_causation_event_id uuid default null,
  p_consumer_key text default null
) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_template mot_template := fn_mot_template_of(p_template_id);
  v_params jsonb := coalesce(p_template_params, '{}');
  v_workflow_id uuid := fn_uuid_v7_nth(fn_uuid_v7(), 0); -- its jobs are numbered on from it: they are found by the key
  v_correlation text := coalesce(p_correlation_id, v_workflow_id::text);
  -- what its steps and gates are about: the event's, when an event began it; those that follow the event carry the same
  v_thread text := coalesce((select e.correlation_id::text from event_outbox e where e.id = p_causation_event_id), v_correlation);
  v_trace text := fn_traceparent_of((select e.safe_payload from event_outbox e where e.id = p_causation_event_id)); -- of all its steps
  v_now timestamptz := clock_timestamp();
  v_errors text[];
  v_unused text[]; -- names of which some version was never used
  v_known job_workflow;
  v_parts record;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_mot_graph_emit needs an actor: who wants this' using errcode = '22023';
  elsif not fn_gate_is_open('queue.job_substrate.enabled') and not p_dry_run then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  elsif v_template.template_key is null then
    return jsonb_build_object('refused', true, 'reason', 'unknown_template', 'template', p_template_id);
  end if;
  select w.* into v_known from job_workflow w where w.template_key = v_template.template_key and w.correlation_id = v_correlation;
  if found then
    return jsonb_build_object('refused', false, 'created', false, 'workflow_id', v_known.workflow_id, 'status', v_known.status,
      'jobs', v_known.jobs, 'same_params', v_known.params = v_params, 'dry_run', p_dry_run);
  end if;
  -- whoever changes an unused version of it, or of a graph within it, now ends first, or waits
  if not p_dry_run and (v_template.used_at is null or v_template.nodes @> '[{"type": "graph"}]') then
    v_unused := array(
      select distinct t.template_key from mot_template t
      where t.template_key = any (fn_mot_reached(v_template.nodes) || v_template.template_key) and t.used_at is null order by 1);
    if cardinality(v_unused) > 0 then
      perform pg_advisory_xact_lock_shared(fn_mot_template_lock(k)) from unnest(v_unused) k;
      v_template := fn_mot_template_of(p_template_id);
    end if;
  end if;
  v_errors := fn_json_schema_errors(v_template.params, v_params)
    || case when jsonb_typeof(v_params) <> 'object' then array['params must be an object']
      when not fn_is_signal(v_params) then array['params hold a denied key, or more than 16 kB: send references, not data'] else '{}' end;
  if cardinality(v_errors) > 0 then
    return fn_mot_emit_refused(v_template, v_errors);
  end if;
  begin
    select e.steps, e.needs, e.scopes into v_parts
    from fn_mot_expand(v_template, v_params, jsonb_build_object('workflow_id', v_workflow_id, 'correlation_id', v_correlation), '', 0, 0, 0,
      v_now + interval '10 seconds') e;
    if p_dry_run then
      return jsonb_build_object('refused', false, 'dry_run', true, 'created', false, 'template', v_template.template_key || '@' || v_template.version,
        'jobs', cardinality(v_parts.steps),
        'steps', (
          select coalesce(jsonb_agg(jsonb_build_object('step', s.step ->> 'step', 'job_kind', s.step ->> 'job_kind',
            'executor', coalesce(s.step ->> 'executor', 'PG_worker'), 'type', coalesce(s.step ->> 'type', 'job'),
            'source_ref', fn_mot_fill(s.step -> 'source_ref', s.step -> 'context', g.params),
            'safe_payload', fn_mot_fill(s.step -> 'safe_payload', s.step -> 'context', g.params)::signal, 'policy', fn_mot_policy(s.step),
            'needs', coalesce(d.needs, '[]')) order by s.n), '[]')
          from unnest(v_parts.steps) with ordinality s (step, n)
          join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
          left join (
            select (d ->> 'to')::int as step, jsonb_agg(f.step ->> 'step' order by f.n) as needs
            from unnest(v_parts.needs) d
            join unnest(v_parts.steps) with ordinality f (step, n) on f.n = (d ->> 'from')::int
            group by 1) d on d.step = s.n));
    end if;
    insert into job_workflow (
      workflow_id, template_key, template_version, params, correlation_id, actor, causation_event_id, consumer_key, jobs, status, outcome, finished_at)
    select v_workflow_id, v_template.template_key, v_template.version, v_params, v_correlation, p_actor, p_causation_event_id, p_consumer_key,
      cardinality(v_parts.steps), e.status, e.outcome, e.finished_at
    from (
      select 'active' as status, null::jsonb as outcome, null::timestamptz as finished_at where cardinality(v_parts.steps) > 0
      union all -- all its lists are empty: there is nothing to do, and that is done
      select 'succeeded', '{"succeeded": 0, "failed": 0, "skipped": 0, "cancelled": 0, "blocked": 0}', v_now where cardinality(v_parts.steps) = 0) e
    on conflict (template_key, correlation_id) do nothing;
    if not found then -- somebody was faster, and has committed
      select w.* into v_known from job_workflow w where w.template_key = v_template.template_key and w.correlation_id = v_correlation;
      return jsonb_build_object('refused', false, 'created', false, 'workflow_id', v_known.workflow_id, 'status', v_known.status, 'jobs', v_known.jobs,
        'same_params', v_known.params = v_params, 'dry_run', false);
    end if;
    insert into job_queue (
      job_id, job_kind, actor, executor, event_domain, safe_payload, source_ref, target_ref, payload_ref, idempotency_key, ordering_key, priority,
      scheduled_at, max_attempts, policy, workflow_id, blocked_by, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_workflow_id, s.n::int), coalesce(s.step ->> 'job_kind', 'workflow.' || (s.step ->> 'type')), p_actor,
      coalesce(s.step ->> 'executor', case when coalesce(s.step ->> 'type', 'job') = 'job' then 'PG_worker' else 'external_worker' end),
      s.step ->> 'event_domain', coalesce(fn_mot_fill(s.step -> 'safe_payload', s.step -> 'context', g.params), '{}'),
      fn_mot_fill(s.step -> 'source_ref', s.step -> 'context', g.params) #>> '{}', fn_mot_fill(s.step -> 'target_ref', s.step -> 'context', g.params) #>> '{}',
      fn_mot_fill(s.step -> 'payload_ref', s.step -> 'context', g.params) #>> '{}', fn_job_key(v_workflow_id || '/' || (s.step ->> 'step')),
      fn_mot_fill(s.step -> 'ordering_key', s.step -> 'context', g.params) #>> '{}', coalesce((s.step ->> 'priority')::int, 100),
      v_now + make_interval(secs => coalesce((s.step ->> 'delay_seconds')::double precision, 0)),
      coalesce((s.step ->> 'max_attempts')::int, fn_job_max_attempts(coalesce(s.step ->> 'job_kind', 'workflow'), s.step ->> 'event_domain')),
      fn_mot_policy(s.step), v_workflow_id,
      coalesce(b.needs, 0) + (coalesce(s.step ->> 'type', 'job') <> 'job')::int, p_causation_event_id, p_consumer_key, v_thread, v_trace
    from unnest(v_parts.steps) with ordinality s (step, n)
    join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
    left join (select (d ->> 'to')::int as step, count(*)::int as needs from unnest(v_parts.needs) d group by 1) b on b.step = s.n;
    insert into job_dependency (job_id, needs_job_id, on_outcome, otherwise)
    select fn_uuid_v7_nth(v_workflow_id, (d ->> 'to')::int), fn_uuid_v7_nth(v_workflow_id, (d ->> 'from')::int), coalesce(d ->> 'on', 'success'), coalesce(d ->> 'otherwise', 'fail')
    from unnest(v_parts.needs) d;
    insert into job_gate (job_id, workflow_id, kind, event_domain, event_type, filter, correlation_id, expires_at)
    select fn_uuid_v7_nth(v_workflow_id, s.n::int), v_workflow_id, s.step ->> 'type', s.step ->> 'event_domain', s.step ->> 'event_type', (s.step ->> 'filter')::jsonpath,
      nullif(coalesce(fn_mot_fill(s.step -> 'correlation_id', s.step -> 'context', g.params) #>> '{}', v_thread), '*'), v_now + make_interval(secs => (s.step ->> 'expires_seconds')::double precision)
    from unnest(v_parts.steps) with ordinality s (step, n)
    join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
    where s.step ->> 'type' in ('approval', 'event');
  -- what the parameters make of the template does not fit: a text too long, a date too far, a denied key
  exception when data_exception or check_violation or program_limit_exceeded then
    return fn_mot_emit_refused(v_template, array[sqlerrm]);
  end;
  if cardinality(v_unused) > 0 then
    update mot_template t set used_at = v_now
    where t.used_at is null and t.template_key || '@' || t.version = any (
      fn_mot_reached(v_template.nodes) || (v_template.template_key || '@' || v_template.version));
  end if;
  perform fn_job_wake(w.executor, w.kinds, w.jobs)
  from (
    select j.executor, array_agg(distinct j.job_kind::text) as kinds, count(*) as jobs
    from job_queue j
    where j.job_id between v_workflow_id and fn_uuid_v7_nth(v_workflow_id, -1) and j.workflow_id = v_workflow_id and j.blocked_by = 0 and j.scheduled_at <= clock_timestamp()
    group by 1) w;
  return jsonb_build_object('refused', false, 'created', true, 'workflow_id', v_workflow_id,
    'status', case cardinality(v_parts.steps) when 0 then 'succeeded' else 'active' end, 'jobs', cardinality(v_parts.steps),
    'template', v_template.template_key || '@' || v_template.version, 'dry_run', false);
end
$$;
comment on function fn_mot_graph_emit(text, jsonb, text, text, boolean, uuid, text)
  is 'Makes a workflow and its jobs: {created, workflow_id, status, jobs}. Refused job_substrate_disabled, unknown_template, invalid_params.';

-- What the end of jobs means for those that need them, and on until nothing more follows: who has all it needs is free, who
-- is not wanted any more is skipped, which is an end, too. p_outcome is success, failure, skipped or cancelled. Called by whatever
-- ends a job, in the same transaction, so that a job and what it frees are never seen apart. Rows are taken in the order
-- of their ids: two that free the same jobs wait, and do not lock each other out.
create or replace function fn_job_unblock(p_job_ids uuid[], p_outcome text) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_ended uuid[] := p_job_ids;
  v_all uuid[] := p_job_ids;
  v_outcome text := p_outcome;
  v_met uuid[];
  v_skipped uuid[];
  v_gates uuid[];
  v_now timestamptz := clock_timestamp(); -- one for all: who becomes free together waits in the order of the template
  v_moving uuid[]; -- workflows that go on, and need not be looked at
  v_turns text[];
  v_free record;
begin
  loop
    with changed as (
      update job_dependency d
      set state = case
        when d.on_outcome in ('always', v_outcome) or d.otherwise = 'continue' then 'met'
        when d.otherwise = 'skip' then 'skipped' else 'failed' end
      where d.needs_job_id = any (v_ended) and d.state is distinct from 'met'
      returning d.job_id, d.state
    )
    select array_agg(c.job_id) filter (where c.state = 'met'), array_agg(distinct c.job_id) filter (where c.state = 'skipped')
    into v_met, v_skipped from changed c;
    if v_skipped is not null then -- what is only freed is taken in this order by the UPDATE itself
      perform from job_queue j where j.job_id = any (v_met || v_skipped) order by j.job_id for update;
    end if;
    if v_met is not null then
      with freed as (
        update job_queue j
        set blocked_by = j.blocked_by - m.met, updated_at = clock_timestamp(),
            scheduled_at = case j.blocked_by when m.met then greatest(j.scheduled_at, v_now) else j.scheduled_at end -- it waits from now on
        from (select u.job_id, count(*)::int as met from unnest(v_met) u (job_id) group by u.job_id order by u.job_id) m
        where j.job_id = m.job_id and j.status = 'queued'
        returning j.job_id, j.executor, j.job_kind, j.blocked_by, j.scheduled_at, j.workflow_id
      )
      select array_agg(f.job_id) filter (where f.blocked_by = 1) as nearly,
        array_agg(f.workflow_id) filter (where f.blocked_by = 0) as moving,
        array_agg(f.executor::text || ' ' || f.job_kind) filter (where f.blocked_by = 0 and f.scheduled_at <= clock_timestamp()) as ready
      into v_free from freed f;
      v_moving := v_moving || v_free.moving;
      if v_free.ready is not null then
        perform fn_job_wake(r.executor, array_agg(r.job_kind), sum(r.n)::int)
        from (select split_part(e, ' ', 1) as executor, split_part(e, ' ', 2) as job_kind, count(*) as n from unnest(v_free.ready) e group by e) r
        group by r.executor;
      end if;
      if v_free.nearly is not null then
        v_gates := v_gates || array(select g.job_id from job_gate g where g.job_id = any (v_free.nearly) and g.event_id is not null);
      end if;
    end if;
    exit when v_skipped is null;
    with ended as (
      update job_queue j
      set status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(),
          cancel_reason = 'skipped: a step that it needs did not end as it wants'
      where j.job_id = any (v_skipped) and j.status in ('queued', 'retry_waiting') and j.workflow_id is not null
      returning j.job_id, case when j.ordering_slot > 0 then j.ordering_key end as turn
    )
    select array_agg(e.job_id), array_agg(distinct e.turn) filter (where e.turn is not null) into v_ended, v_turns from ended e;
    exit when v_ended is null;
    perform fn_job_promote(v_turns) where v_turns is not null;
    v_all := v_all || v_ended;
    v_outcome := 'skipped';
  end loop;
  perform fn_job_gate_pass(g, 'success', 'event') from unnest(v_gates) g;
  perform fn_job_workflow_settle(array(
    select fn_uuid_v7_nth(u, 0) from unnest(v_all) u except select unnest(v_moving) order by 1), p_job_ids);
end
$$;
comment on function fn_job_unblock(uuid[], text) is 'Frees or skips what needs jobs that have ended. Internal.';

-- Ends workflows of which nothing moves any more: no step runs, is free to run or waits for a decision. Two last steps that end at the same
-- time meet at the workflow''s row: the later one sees both, or, when its snapshot is older (REPEATABLE READ, SERIALIZABLE), gets 40001 and is
-- to be tried again. p_ended are the jobs whose end it is. Called when steps end, and by the refresh.
create or replace function fn_job_workflow_settle(p_workflow_ids uuid[], p_ended uuid[] default '{}') returns int
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_still uuid[] := case
    when current_setting('transaction_isolation') in ('repeatable read', 'serializable') then p_workflow_ids -- what looks free may have ended since
    else array(
      select w.workflow_id from unnest(p_workflow_ids) w (workflow_id)
      where not exists ( -- free and not begun: it will end later, and settle then
        select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.blocked_by = 0 and j.status in ('queued', 'retry_waiting'))) end;
  v_left uuid[] := array(select unnest(p_workflow_ids) except select unnest(v_still) order by 1);
  v_late uuid[] := '{}'; -- of those, what was free has been taken meanwhile
  v_over uuid[] := '{}'; -- ended well, and seen
  v_locked uuid[];
  v_ended int := 0;
begin
  -- all that there was has ended well, and is seen: nobody can end anything else of it, so that there is nothing to wait for
  if cardinality(v_still) > 0 then
    with over as (
      update job_workflow w
      set outcome = c.outcome, finished_at = clock_timestamp(), updated_at = clock_timestamp(),
          status = case when w.cancel_reason is null then 'succeeded' else 'cancelled' end
      from unnest(v_still) s (workflow_id)
      cross join lateral (
        select jsonb_build_object('succeeded', count(*) filter (where j.status <> 'cancelled'), 'failed', 0,
          'skipped', count(*) filter (where j.status = 'cancelled'), 'cancelled', 0, 'blocked', 0) as outcome
        from job_queue j
        where j.job_id between s.workflow_id and fn_uuid_v7_nth(s.workflow_id, -1) and j.workflow_id = s.workflow_id
        having bool_and(j.status in ('succeeded', 'cleaned') or j.status = 'cancelled' and coalesce(j.cancel_reason, '') like 'skipped: %')) c
      where w.workflow_id = s.workflow_id and (w.status = 'active') is true -- or it would be read by the index of the active ones
      returning w.workflow_id
    )
    select array_agg(o.workflow_id) into v_over from over o;
    v_over := coalesce(v_over, '{}');
    if cardinality(v_over) = cardinality(p_workflow_ids) then
      return cardinality(v_over);
    elsif cardinality(v_over) > 0 then
      v_still := array(select unnest(v_still) except select unnest(v_over) order by 1);
    end if;
  end if;
  if cardinality(v_left) > 0 then
    -- what is free may be claimed and ended before we have committed, by somebody who does not see our end: he waits for this lock.
    -- Whoever was faster than it is seen now. Jobs that were claimed in the transaction that ends them, or are cancelled without
    -- a claim, look free to another one of that kind: the two must not pass each other
    if exists (
      select from job_queue j
      where j.job_id = any (p_ended) and (j.status = 'cancelled' or j.picked_at is null or j.picked_at >= transaction_timestamp()))
    then
      perform from job_workflow w where w.workflow_id = any (v_left) and w.status = 'active' order by w.workflow_id for update;
    else
      perform from job_workflow w where w.workflow_id = any (v_left) and w.status = 'active' order by w.workflow_id for key share;
    end if;
    v_late := array(
      select w.workflow_id from unnest(v_left) w (workflow_id)
      where not exists (
        select from job_queue j
        where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id
          and j.blocked_by = 0 and j.status in ('queued', 'retry_waiting')));
  end if;
  if cardinality(v_still) + cardinality(v_late) = 0 then
    return cardinality(v_over);
  end if;
  v_locked := array(
    select w.workflow_id from job_workflow w
    where w.workflow_id = any (v_still) and w.status = 'active'
    order by w.workflow_id
    for update);
  -- several that came this way hold the weak lock already, and would wait for each other: this one stands beside it, and only one has it
  v_locked := v_locked || array(
    select w.workflow_id from job_workflow w
    where w.workflow_id = any (v_late) and w.status = 'active'
    order by w.workflow_id
    for no key update);
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- whoever left the workflow to us has only locked its row, which leaves no trace. What seems to move is looked at: if it
    -- has changed behind our snapshot, this is 40001. What is locked now ends behind us, and waits for the workflow
    perform from unnest(v_locked) l (workflow_id)
    cross join lateral (
      select from job_queue j
      where j.job_id between l.workflow_id and fn_uuid_v7_nth(l.workflow_id, -1) and j.workflow_id = l.workflow_id
        and (j.status in ('leased', 'in_progress', 'retry_waiting') or j.status = 'queued' and j.blocked_by = 0)
      limit 1
      for share skip locked) m;
  end if;
  -- a statement of its own: it sees what others have ended before they let go of the workflow
  update job_workflow w
  set outcome = c.outcome, finished_at = clock_timestamp(), updated_at = clock_timestamp(), status = case
    when w.cancel_reason is not null then 'cancelled'
    when c.bad = 0 then 'succeeded'
    when exists ( -- an end of the graph was reached
      select from job_queue j
      where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'succeeded'
        and not exists (select from job_dependency d where d.needs_job_id = j.job_id)) then 'partially_failed'
    else 'failed' end
  from unnest(v_locked) l (workflow_id)
  cross join lateral (
    select
      count(*) filter (where j.status in ('failed', 'dead_letter', 'queued')
        or j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %') as bad,
      count(*) filter (where j.status in ('leased', 'in_progress', 'retry_waiting') or j.status = 'queued' and (
        j.blocked_by = 0 or j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id))) as moving,
      jsonb_build_object(
        'succeeded', count(*) filter (where j.status in ('succeeded', 'cleaned')), 'failed', count(*) filter (where j.status in ('failed', 'dead_letter')),
        'skipped', count(*) filter (where j.status = 'cancelled' and j.cancel_reason like 'skipped: %'),
        'cancelled', count(*) filter (where j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %'),
        'blocked', count(*) filter (where j.status = 'queued')) as outcome
    from job_queue j
    where j.job_id between l.workflow_id and fn_uuid_v7_nth(l.workflow_id, -1) and j.workflow_id = l.workflow_id
    having count(*) > 0) c
  where w.workflow_id = l.workflow_id and c.moving = 0;
  get diagnostics v_ended = row_count;
  if v_ended < cardinality(v_locked) then
    -- a lock that has gone leaves no trace: an older snapshot must run into a change, or its end would be the last and not know it
    update job_workflow w set jobs = w.jobs where w.workflow_id = any (v_locked) and w.status = 'active';
  end if;
  return cardinality(v_over) + v_ended;
end
$$;
comment on function fn_job_workflow_settle(uuid[], uuid[]) is 'Ends those of the workflows in which nothing moves any more; answers how many. Internal.';

-- A gate lets its workflow go on, or stops it: the job of the gate ends, as if somebody had run it.
create or replace function fn_job_gate_pass(p_job_id uuid, p_outcome text, p_actor text, p_error text default null) returns boolean
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
begin
  update job_queue j
  set status = 'leased', blocked_by = 0, lease_owner = p_actor, lease_token = coalesce(j.lease_token, 0) + 1, lease_until = v_now + interval '1 minute',
      picked_at = v_now, started_at = v_now, updated_at = v_now
  where j.job_id = p_job_id and j.status = 'queued' and j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id)
  returning j.* into v_job;
  if not found then
    return false;
  end if;
  if p_outcome = 'failure' then
    perform fn_job_attempt_end(v_job, 'permanent', p_error);
  end if;
  update job_queue j
  set status = case p_outcome when 'success' then 'succeeded' else 'failed' end, lease_until = null, finished_at = v_now, last_error = p_error
  where j.job_id = p_job_id;
  perform fn_job_unblock(array[p_job_id], p_outcome);
  return true;
end
$$;
comment on function fn_job_gate_pass(uuid, text, text, text) is 'Ends the job of an open gate, well or badly; false when it is not open. Internal.';

-- What an approval is about: a hash of what the steps before it have given. Shown to whoever approves, and asked back.
create or replace function fn_job_effect_hash(p_job_id uuid) returns text
language sql stable security definer set search_path from current
as $$
  select encode(sha256(convert_to(coalesce(string_agg(concat_ws(E'\x1f', j.idempotency_key, j.status, j.result_ref, j.safe_payload::text, j.source_ref, j.target_ref, j.payload_ref), E'\x1e'
    order by j.idempotency_key), ''), 'UTF8')), 'hex')
  from job_dependency d
  join job_queue j on j.job_id = d.needs_job_id
  where d.job_id = p_job_id
$$;
comment on function fn_job_effect_hash(uuid) is 'SHA-256 over the needed jobs: refs, payload, status and result. Called by whoever approves.';

-- Approves what the steps before a gate have given, and lets the workflow go on. The hash is the one that the approver has seen.
-- Called by `reveille workflows approve`.
create or replace function fn_job_approve(p_job_id uuid, p_effect_hash text, p_actor text, p_expires_at timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue;
  v_gate job_gate;
  v_hash text;
  v_reason text;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_effect_hash), '') = '' then
    raise exception 'fn_job_approve needs an actor, and the hash of what is approved (fn_job_effect_hash)' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  select g.* into v_gate from job_gate g where g.job_id = p_job_id and g.kind = 'approval';
  v_hash := fn_job_effect_hash(p_job_id);
  v_reason := case
    when v_job.job_id is null or v_gate.job_id is null then 'not_found'
    when v_job.status <> 'queued' or v_job.blocked_by <> 1 then 'illegal_transition'
    when v_gate.expires_at < clock_timestamp() or p_expires_at < clock_timestamp() then 'approval_expired'
    when v_hash <> p_effect_hash then 'effect_changed' end;
  if v_reason is not null then
    return jsonb_build_object('refused', true, 'reason', v_reason, 'job_id', p_job_id, 'status', v_job.status, 'blocked_by', v_job.blocked_by, 'effect_hash', v_hash);
  end if;
  insert into job_approval (job_id, workflow_id, decision, effect_hash, actor, expires_at)
  values (p_job_id, v_job.workflow_id, 'approved', v_hash, p_actor, p_expires_at);
  update job_gate g set effect_hash = v_hash where g.job_id = p_job_id;
  perform fn_job_gate_pass(p_job_id, 'success', p_actor);
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'workflow_id', v_job.workflow_id, 'decision', 'approved', 'effect_hash', v_hash);
end
$$;
comment on function fn_job_approve(uuid, text, text, timestamptz)
  is 'Approves a waiting gate: {decision, effect_hash}. Refused not_found, illegal_transition, approval_expired or effect_changed.';

create or replace function fn_job_reject(p_job_id uuid, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_reject needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j join job_gate g on g.job_id = j.job_id and g.kind = 'approval' where j.job_id = p_job_id for update of j;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'job_id', p_job_id);
  elsif v_job.status <> 'queued' or v_job.blocked_by <> 1 then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status, 'blocked_by', v_job.blocked_by);
  end if;
  insert into job_approval (job_id, workflow_id, decision, effect_hash, actor, reason)
  values (p_job_id, v_job.workflow_id, 'rejected', fn_job_effect_hash(p_job_id), p_actor, p_reason);
  perform fn_job_gate_pass(p_job_id, 'failure', p_actor, format('rejected by %s: %s', p_actor, p_reason));
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'workflow_id', v_job.workflow_id, 'decision', 'rejected');
end
$$;
comment on function fn_job_reject(uuid, text, text) is 'Rejects a waiting gate, which fails. Refused not_found or illegal_transition.';

-- Whether an event is what a gate waits for: match, filtered, or what the filter raised. The pass of a domain asks this: a filter that
-- raises, however it came to be stored, must stop its own gate and nothing else.
create or replace function fn_job_gate_verdict(p_filter jsonpath, p_event event_outbox) returns text
language plpgsql stable set search_path from current
as $$
begin
  return case when coalesce(jsonb_path_match_tz(fn_event_document(p_event), p_filter, '{}', true), false) then 'match' else 'filtered' end;
exception when others then
  return 'filter: ' || sqlerrm;
end
$$;
comment on function fn_job_gate_verdict(jsonpath, event_outbox) is 'match, filtered, or the error of the filter. Internal.';

-- Locks the jobs of gates before their events are noted. Whoever ends the step before a gate looks for the event when that row is
-- his: so one of both sees the other. They are written, too: a lock that has gone leaves no trace for an older snapshot. After two seconds (lock_timeout of the caller) only those that are free are locked.
create or replace function fn_job_gate_lock(p_job_ids uuid[]) returns void
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
  perform from job_queue j where j.job_id = any (p_job_ids) order by j.job_id for update;
  update job_queue j set updated_at = clock_timestamp() where j.job_id = any (p_job_ids);
exception when lock_not_available or deadlock_detected then
  update job_queue j set updated_at = clock_timestamp()
  where j.job_id = any (array(select q.job_id from job_queue q where q.job_id = any (p_job_ids) order by q.job_id for update skip locked));
end
$$;
comment on function fn_job_gate_lock(uuid[]) is 'Locks the jobs of gates, as far as they are free. Internal.';

-- Facts that gates wait for. Called by dispatch with the events of a pass, where some gate waits at all. Of several events the
-- first opens; what a filter raised is noted with the gate's job, where `workflows show` has it. A transaction of somebody else's that
-- stays open must not hold up a domain: what cannot be had within two seconds the refresh passes, as the event is noted.
create or replace function fn_job_gate_events(p_event_ids uuid[]) returns int
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_hashjoin = off set enable_mergejoin = off set jit = off set lock_timeout = '2s'
as $$
declare
  v_found record;
  v_gates uuid[];
begin
  with looked as materialized ( -- the filter last, after all that is cheaper
    select g.job_id, e.id, e.created_at, case when g.filter is null then 'match' else fn_job_gate_verdict(g.filter, row(e.*)::event_outbox) end as verdict
    from event_outbox e
    join job_gate g on g.kind = 'event' and g.event_id is null and g.event_domain = e.event_domain and g.event_type = e.event_type
    join job_workflow w on w.workflow_id = g.workflow_id and w.status = 'active'
    where e.id = any (p_event_ids) and (g.correlation_id is null or g.correlation_id = e.correlation_id)
  ),
  first as (
    select distinct on (l.job_id) l.job_id, l.id, l.verdict
    from looked l
    where l.verdict <> 'filtered'
    order by l.job_id, l.verdict <> 'match', l.created_at, l.id
  )
  select array_agg(f.job_id order by f.job_id) filter (where f.verdict = 'match') as jobs,
    array_agg(f.id order by f.job_id) filter (where f.verdict = 'match') as events,
    array_agg(f.job_id) filter (where f.verdict <> 'match') as unfit, array_agg(f.verdict) filter (where f.verdict <> 'match') as errors
  into v_found from first f;
  if v_found.unfit is not null then
    update job_queue j set last_error = left(u.error, 8000), updated_at = clock_timestamp()
    from unnest(v_found.unfit, v_found.errors) u (job_id, error)
    where j.job_id = u.job_id and j.last_error is distinct from left(u.error, 8000) and j.job_id = any (array(
      select q.job_id from job_queue q where q.job_id = any (v_found.unfit) and q.status = 'queued' for update skip locked));
  end if;
  perform fn_job_gate_lock(v_found.jobs) where v_found.jobs is not null;
  with met as (
    update job_gate g set event_id = f.event_id
    from unnest(v_found.jobs, v_found.events) f (job_id, event_id)
    where g.job_id = f.job_id and g.event_id is null
    returning g.job_id
  )
  select array_agg(m.job_id order by m.job_id) into v_gates from met m;
  begin
    perform fn_job_gate_pass(g, 'success', 'event') from unnest(v_gates) g;
  exception when lock_not_available or deadlock_detected then
    null;
  end;
  return coalesce(cardinality(v_gates), 0);
end
$$;
comment on function fn_job_gate_events(uuid[]) is 'Notes the first fitting event of gates that wait for one, and opens them; answers how many. Internal.';

-- What stands against jobs of a kind that somebody is about to ask for, in words; null when nothing does. A warning and no more: what is
-- missing may come later, and a program may claim any kind without having said so. Called when consumers and schedules are
-- written or enabled, by their previews, and by `reveille doctor`.
create or replace function fn_job_kind_warning(p_job_kind text) returns text
language plpgsql stable security definer set search_path from current
as $$
begin
  if p_job_kind like 'workflow:%' then
    return (
      select format('there is no template %s: each such job becomes a dead letter until `reveille workflows put FILE` has written it', t.name)
      from (select substr(p_job_kind, 10) as name) t
      where (fn_mot_template_of(t.name)).template_key is null);
  elsif exists (select from job_handler h where h.job_kind = p_job_kind)
    or exists (select from job_subscription s where p_job_kind like s.job_kind_like and s.job_kind <> '*')
    or exists (select from consumer_registry c where c.job_kind = p_job_kind)
    or exists (select from queue_heartbeat h where p_job_kind = any (h.wakes_for))
    or exists (select from job_archive_bound b where b.job_kind = p_job_kind)
    or exists ( -- somebody has claimed one, of the newest jobs
      select from (select j.job_kind, j.lease_token from job_queue j order by j.job_id desc limit 10000) q
      where q.job_kind = p_job_kind and q.lease_token is not null)
  then
    return null;
  end if;
  return format('nobody says that he runs jobs of kind %s: no row of job_handler, no executor and no subscription names it; they wait until somebody claims them',
    p_job_kind);
end
$$;
comment on function fn_job_kind_warning(text) is 'What stands against jobs of a kind: no such template, or nobody who is known to run it; null when nothing does.';

-- Starts what one locked job of kind workflow:TEMPLATE asks for, and ends that job; answers whether a workflow began. Each parameter of
-- the template is taken from what has its name: the job's refs, its payload, or the columns of its event. Raises whatever
-- the making of the workflow raises.
create or replace function fn_mot_start_one(p_job_id uuid) returns boolean
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_job job_queue;
  v_event jsonb;
  v_known jsonb;
  v_template mot_template;
  v_answer jsonb;
begin
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  v_template := fn_mot_template_of(substr(v_job.job_kind, 10));
  select to_jsonb(e) - 'safe_payload' into v_event from event_outbox e where e.id = v_job.causation_event_id;
  v_known := jsonb_strip_nulls(coalesce(v_event, '{}') || jsonb_build_object('event_id', v_job.causation_event_id)) || v_job.safe_payload
    || jsonb_strip_nulls(jsonb_build_object('source_ref', v_job.source_ref, 'target_ref', v_job.target_ref, 'payload_ref', v_job.payload_ref));
  v_answer := fn_mot_graph_emit(substr(v_job.job_kind, 10), (
      select coalesce(jsonb_object_agg(k.key, k.value), '{}') from jsonb_each(v_known) k where v_template.params -> 'properties' ? k.key),
    v_job.idempotency_key, v_job.actor, false, v_job.causation_event_id, v_job.consumer_key);
  if v_answer ->> 'reason' = 'job_substrate_disabled' then
    return false; -- it waits for the gate
  elsif (v_answer ->> 'refused')::boolean then
    perform fn_mot_start_refused(p_job_id, format('%s: %s', v_answer ->> 'reason', coalesce(v_answer ->> 'errors', v_answer ->> 'template')));
    return false;
  end if;
  perform fn_mot_start_lease(p_job_id);
  update job_queue j
  set status = 'succeeded', lease_until = null, finished_at = clock_timestamp(), result_ref = 'workflow:' || (v_answer ->> 'workflow_id')
  where j.job_id = p_job_id;
  perform fn_job_make_room(v_job.ordering_key, null, v_job.executor, v_job.job_kind);
  return (v_answer ->> 'created')::boolean;
end
$$;
comment on function fn_mot_start_one(uuid) is 'Starts the workflow that a job asks for, and ends the job; whether one began. Internal.';

-- No executor claims these jobs: the lease says that they were seen to here.
create or replace function fn_mot_start_lease(p_job_id uuid) returns job_queue
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
begin
  update job_queue j
  set status = 'leased', lease_owner = 'workflow', lease_token = coalesce(j.lease_token, 0) + 1, lease_until = v_now + interval '1 minute',
      picked_at = v_now, started_at = v_now, updated_at = v_now
  where j.job_id = p_job_id
  returning j.* into v_job;
  return v_job;
end
$$;
comment on function fn_mot_start_lease(uuid) is 'Leases a job that asks for a workflow to whoever starts it. Internal.';

create or replace function fn_mot_start_refused(p_job_id uuid, p_why text) returns void
language plpgsql volatile set search_path from current
as $$
begin
  perform fn_job_fail(fn_mot_start_lease(p_job_id), 'permanent', p_why);
end
$$;
comment on function fn_mot_start_refused(uuid, text) is 'Makes a job whose workflow cannot be started a dead letter that says why. Internal.';

-- Starts the workflows that jobs of kind workflow:TEMPLATE ask for; such jobs are made by consumers, by schedules or by hand like any
-- others, and end here: well with the workflow's id as result, or as a dead letter that says why not. No executor
-- claims them. Called by whatever made them, in its transaction (dispatch, the audit's repair, a batch of a backfill), and by the refresh;
-- what cannot be made must stop none of these. One savepoint
-- holds all that follow each other and can be made, as more than 64 in a transaction cost everybody (trap 19): when one raises,
-- those before it are made anew, it becomes a dead letter, and those behind it are next. After 20 such, or five seconds, the rest waits for
-- the next call: whoever calls has a statement's time for all that he does.
create or replace function fn_mot_start(out started int, out more boolean) returns record
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_jobs uuid[] := array(
    select j.job_id
    from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x (executor)
    cross join lateral fn_job_lanes(x.executor) l
    join job_queue j on j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority
      and j.scheduled_at <= clock_timestamp()
    where l.job_kind like 'workflow:%'
      and not exists (select from queue_pause p where p.resumed_at is null and (p.scope, p.name) in (
        ('all', ''), ('job_kind', l.job_kind), ('domain', l.event_domain), ('consumer', l.consumer_key)))
    limit 1000
    for update of j skip locked);
  v_from int := 1;
  v_to int := cardinality(v_jobs);
  v_at int;
  v_part int;
  v_bad int := 0;
  v_until timestamptz := clock_timestamp() + interval '5 seconds';
begin
  started := 0;
  while v_from <= cardinality(v_jobs) and v_bad < 20 and clock_timestamp() < v_until loop
    begin
      v_at := v_from;
      v_part := 0;
      while v_at <= v_to loop
        v_part := v_part + fn_mot_start_one(v_jobs[v_at])::int;
        v_at := v_at + 1;
        exit when clock_timestamp() > v_until;
      end loop;
      started := started + v_part;
      v_from := v_at;
      v_to := cardinality(v_jobs);
    exception when others then
      if left(sqlstate, 2) in ('25', '40', '53', '57', '58') or sqlstate in ('55P03', 'XX001', 'XX002') then
        raise; -- no fault of the job's: the server's, or somebody else's lock
      elsif v_at > v_from then
        v_to := v_at - 1;
      else
        perform fn_mot_start_refused(v_jobs[v_from], format('not_started: %s (SQLSTATE %s)', sqlerrm, sqlstate));
        v_bad := v_bad + 1;
        v_from := v_from + 1;
        v_to := cardinality(v_jobs);
      end if;
    end;
  end loop;
  more := (v_from <= cardinality(v_jobs) or cardinality(v_jobs) = 1000) and fn_gate_is_open('queue.job_substrate.enabled');
end
$$;
comment on function fn_mot_start() is 'Starts what jobs of kind workflow:TEMPLATE ask for: {started, more}. Internal.';

-- Fails gates whose time is over, those that have been so for longest first; answers how many, and whether there are more. One whose event
-- is known passes instead: it came in time. Those that have ended otherwise are closed, so that the next call does not walk
-- over them. What somebody is just deciding about is left. Called by the refresh.
create or replace function fn_job_gate_expire(p_limit int, p_now timestamptz, out expired int, out more boolean) returns record
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_gates uuid[];
  v_gate record;
begin
  update job_gate g set closed_at = clock_timestamp()
  where g.job_id = any (array(
    select o.job_id from job_gate o
    join job_workflow w on w.workflow_id = o.workflow_id
    left join job_queue j on j.job_id = o.job_id
    where o.expires_at < p_now and o.closed_at is null and (w.status <> 'active' or j.status is distinct from 'queued')
    order by o.expires_at
    limit 10 * p_limit
    for update of o skip locked));
  v_gates := array(
    select g.job_id from job_gate g
    join job_queue j on j.job_id = g.job_id
    where g.expires_at < p_now and g.closed_at is null and j.status = 'queued' and j.blocked_by = 1
    order by g.expires_at
    limit p_limit
    for update of j skip locked);
  expired := 0;
  more := cardinality(v_gates) = p_limit;
  -- a statement of its own: it sees the event of whoever had the job before
  for v_gate in
    select g.job_id, g.kind, g.event_id from job_gate g where g.job_id = any (v_gates) order by g.workflow_id, g.job_id
  loop
    if v_gate.event_id is not null then
      perform fn_job_gate_pass(v_gate.job_id, 'success', 'event');
    else
      expired := expired + fn_job_gate_pass(v_gate.job_id, 'failure', 'refresh', case v_gate.kind
        when 'approval' then 'approval_expired: nobody has decided in time' else 'the event did not come in time' end)::int;
    end if;
  end loop;
end
$$;
comment on function fn_job_gate_expire(int, timestamptz) is 'Fails gates whose time is over: {expired, more}. Internal.';

-- Looks after one active workflow: what the end of a job should have freed is freed, counts that are wrong are
-- put right, and what does not move any more ends. All of this happens by itself when a job ends; here is what finds out if it
-- ever did not, and what a retry frees its steps by.
create or replace function fn_job_workflow_mend(p_workflow_id uuid) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_repaired int := 0;
  v_count int;
  v_job record;
begin
  update job_gate g set closed_at = null
  where g.workflow_id = p_workflow_id and g.closed_at is not null and exists (
    select from job_queue j where j.job_id = g.job_id and j.status = 'queued');
  for v_job in
    select j.job_id, case when j.status in ('succeeded', 'cleaned') then 'success' when j.status in ('failed', 'dead_letter') then 'failure'
      when j.cancel_reason like 'skipped: %' then 'skipped' else 'cancelled' end as outcome
    from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('succeeded', 'cleaned', 'failed', 'dead_letter', 'cancelled')
      and exists (select from job_dependency d where d.needs_job_id = j.job_id and d.state is null)
  loop
    perform fn_job_unblock(array[v_job.job_id], v_job.outcome);
    v_repaired := v_repaired + 1;
  end loop;
  with counted as (
    select j.job_id, (select count(*) from job_dependency d where d.job_id = j.job_id and d.state is distinct from 'met')
      + (select count(*) from job_gate g where g.job_id = j.job_id) as needs
    from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'queued' and (j.blocked_by > 0
      or exists (select from job_dependency d where d.job_id = j.job_id and d.state is distinct from 'met'))
  )
  update job_queue j
  set blocked_by = c.needs, updated_at = clock_timestamp(),
      scheduled_at = case c.needs when 0 then greatest(j.scheduled_at, clock_timestamp()) else j.scheduled_at end
  from counted c
  where c.job_id = j.job_id and j.status = 'queued' and j.blocked_by <> c.needs;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    v_repaired := v_repaired + v_count;
    perform fn_job_wake(j.executor, array_agg(distinct j.job_kind::text), count(*))
    from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'queued' and j.blocked_by = 0 and j.scheduled_at <= clock_timestamp()
    group by j.executor;
  end if;
  perform fn_job_gate_pass(g.job_id, 'success', 'event')
  from job_gate g join job_queue j on j.job_id = g.job_id
  where g.workflow_id = p_workflow_id and g.event_id is not null and j.status = 'queued' and j.blocked_by = 1;
  perform fn_job_workflow_settle(array[p_workflow_id]);
  update job_workflow w set updated_at = clock_timestamp() where w.workflow_id = p_workflow_id and w.status = 'active';
  return jsonb_build_object('repaired', v_repaired, 'finished', (not found)::int);
end
$$;
comment on function fn_job_workflow_mend(uuid) is 'Repairs and ends one active workflow: {repaired, finished}. Internal.';

-- Looks after workflows that are active, those longest not looked at first: what the end of a job should have
-- freed is freed, counts that are wrong are put right, and what does not move any more ends. All of this happens by itself
-- when a job ends; here is what finds out if it ever did not. Before that, what jobs ask for is started, and gates whose time is over
-- fail, ten times p_limit of them whatever their workflows. Called by the maintenance of `reveille run`, by `tick`, by operators.
create or replace function fn_job_workflow_refresh(p_limit int default 100, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_workflow uuid;
  v_answer jsonb;
  v_start record;
  v_checked int := 0;
  v_repaired int := 0;
  v_gates record;
  v_finished int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_workflow_refresh: p_limit must be at least 1' using errcode = '22023';
  end if;
  v_start := fn_mot_start();
  v_gates := fn_job_gate_expire(10 * least(p_limit, 1000), coalesce(p_now, clock_timestamp()));
  for v_workflow in -- taken by their age, looked after in the order in which whoever ends jobs of several locks them (trap 17)
    select w.workflow_id
    from (select a.workflow_id from job_workflow a where a.status = 'active' order by a.updated_at limit p_limit) w
    order by w.workflow_id
  loop
    v_answer := fn_job_workflow_mend(v_workflow);
    v_checked := v_checked + 1;
    v_repaired := v_repaired + (v_answer ->> 'repaired')::int;
    v_finished := v_finished + (v_answer ->> 'finished')::int;
  end loop;
  return jsonb_build_object('refused', false, 'started', v_start.started, 'checked', v_checked, 'repaired', v_repaired, 'expired', v_gates.expired, 'finished', v_finished,
    'more', v_gates.more or v_start.more);
end
$$;
comment on function fn_job_workflow_refresh(int, timestamptz) is 'Repairs and ends active workflows: {started, checked, repaired, expired, finished, more}; more waits to be started, or is over, when it says so.';

-- Stops a workflow: what waits ends at once, what runs is asked to end, and the workflow ends as every one does, when nothing of it moves any
-- more. p_if_ended_before: only while it rests as failed, since before that moment.
create or replace function fn_job_workflow_stop(p_workflow_id uuid, p_why text, p_if_ended_before timestamptz default null) returns jsonb
language plpgsql volatile set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_workflow job_workflow;
  v_asked int;
  v_ended record;
  v_keys text[];
begin
  -- jobs before the workflow, and those that run before those that wait: the order in which ends of jobs take them. All of them at once:
  -- nobody begins, ends or retries one until this is over. And once more: a retry that was waited for may have made some anew
  for v_round in 1 .. 2 loop
    perform from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
    order by j.status in ('queued', 'retry_waiting'), j.job_id
    for update;
  end loop;
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'workflow_id', p_workflow_id);
  elsif p_if_ended_before is not null and (v_workflow.status not in ('failed', 'partially_failed') or v_workflow.finished_at >= p_if_ended_before)
    or v_workflow.status = 'succeeded'
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'workflow_id', p_workflow_id, 'status', v_workflow.status);
  elsif v_workflow.status = 'cancelled' then
    return jsonb_build_object('refused', false, 'workflow_id', p_workflow_id, 'status', 'cancelled', 'cancelled', 0, 'requested', 0);
  end if;
  update job_queue j
  set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()), cancel_reason = coalesce(j.cancel_reason, p_why), updated_at = clock_timestamp()
  where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('leased', 'in_progress');
  get diagnostics v_asked = row_count;
  with ended as (
    update job_queue j
    set status = 'cancelled', finished_at = clock_timestamp(), cancel_requested_at = clock_timestamp(), cancel_reason = p_why, updated_at = clock_timestamp()
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('queued', 'retry_waiting')
    returning j.ordering_key, j.ordering_slot
  )
  select count(*) as jobs, array_agg(distinct e.ordering_key) filter (where e.ordering_slot > 0) as keys into v_ended from ended e;
  with gone as ( -- its dead letters are not replayed any more: whoever waits behind them goes on
    update job_queue j set ordering_slot = 0
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
      and j.status = 'dead_letter' and j.ordering_slot > 0
    returning j.ordering_key
  )
  select array_agg(g.ordering_key) into v_keys from gone g;
  v_keys := v_keys || v_ended.keys;
  if v_keys is not null then
    perform fn_job_promote(v_keys);
  end if;
  update job_workflow w
  set cancel_reason = p_why, status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp()
  where w.workflow_id = p_workflow_id;
  perform fn_job_workflow_settle(array[p_workflow_id]);
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id;
  perform pg_notify('queue_control', '') where v_asked > 0;
  return jsonb_build_object('refused', false, 'workflow_id', p_workflow_id, 'status', v_workflow.status, 'cancelled', v_ended.jobs, 'requested', v_asked);
end
$$;
comment on function fn_job_workflow_stop(uuid, text, timestamptz) is 'Cancels a workflow, as fn_job_workflow_cancel says. Internal.';

-- Ends a workflow that nobody wants any more: what waits ends at once, what runs is asked to end. Called by operators.
create or replace function fn_job_workflow_cancel(p_workflow_id uuid, p_actor text, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path from current
as $$
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_workflow_cancel needs an actor and a reason' using errcode = '22023';
  end if;
  return fn_job_workflow_stop(p_workflow_id, left(p_actor || ': ' || p_reason, 2000));
end
$$;
comment on function fn_job_workflow_cancel(uuid, text, text) is 'Cancels a workflow: {status, cancelled, requested}. Refused not_found or illegal_transition.';

-- Sets a workflow that failed going again, from the steps that failed: a dead letter is replayed (with the right to do so, and its gate),
-- a step that rests as failed, or that somebody cancelled, is tried anew, a gate asks again, and what was skipped on their account is made
-- anew. What succeeded is not run again. Dry run unless told otherwise. Called by operators.
create or replace function fn_job_workflow_retry(p_workflow_id uuid, p_actor text, p_reason text, p_dry_run boolean default true) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
  v_workflow job_workflow;
  v_failed uuid[];
  v_cancelled int; -- of the failed, as a retry takes them
  v_skipped uuid[];
  v_job record;
  v_answer jsonb;
  v_new uuid;
  v_last int; -- the number of the newest job
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_workflow_retry needs an actor and a reason' using errcode = '22023';
  end if;
  if not coalesce(p_dry_run, true) then
    -- letters, then jobs, as a replay locks them: whoever retries or cancels it at the same time comes before or after, not between
    perform from job_dead_letter d
    where d.job_id in (select j.job_id from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id) and d.replayed_at is null
    order by d.dead_letter_id
    for update;
    perform from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id order by j.status in ('queued', 'retry_waiting'), j.job_id for update;
  end if;
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'workflow_id', p_workflow_id);
  elsif v_workflow.status not in ('failed', 'partially_failed') and not (
    -- a dead letter may hold the ordering key of what is to go on: such a workflow ends by no other way
    v_workflow.status = 'active' and exists (
      select from job_queue j
      where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'dead_letter'))
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'workflow_id', p_workflow_id, 'status', v_workflow.status);
  end if;
  select coalesce(array_agg(j.job_id order by j.job_id), '{}'), count(*) filter (where j.status = 'cancelled') into v_failed, v_cancelled
  from job_queue j
  where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
    and (j.status in ('failed', 'dead_letter') or j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %');
  -- skipped because of them, directly or by way of others that were
  with recursive reached as (
    select d.job_id from job_dependency d where d.needs_job_id = any (v_failed) and d.state = 'skipped'
    union
    select d.job_id from reached r join job_dependency d on d.needs_job_id = r.job_id and d.state = 'skipped'
  )
  select coalesce(array_agg(r.job_id order by r.job_id), '{}') into v_skipped
  from reached r join job_queue j on j.job_id = r.job_id where j.status = 'cancelled';
  if coalesce(p_dry_run, true) then
    return jsonb_build_object('refused', false, 'dry_run', true, 'workflow_id', p_workflow_id, 'retried', cardinality(v_failed), 'were_cancelled', v_cancelled,
      'made_anew', cardinality(v_skipped) + (select count(*) from job_queue j where j.job_id = any (v_failed) and j.status <> 'dead_letter'));
  end if;
  for v_job in
    select j.*, d.dead_letter_id, exists (select from job_gate g where g.job_id = j.job_id) as is_gate
    from job_queue j
    left join job_dead_letter d on d.job_id = j.job_id and j.status = 'dead_letter' and d.replayed_at is null
    where j.job_id = any (v_failed)
    order by j.job_id
  loop
    if v_job.status = 'dead_letter' then
      v_answer := fn_job_dead_letter_triage(v_job.dead_letter_id, 'manual_replay', p_actor, p_reason);
      if not (v_answer ->> 'refused')::boolean then
        v_answer := fn_job_dead_letter_replay(v_job.dead_letter_id, format('workflow retry by %s: %s', p_actor, p_reason), false);
      end if;
      if (v_answer ->> 'refused')::boolean then
        raise exception '%', v_answer ->> 'reason' using errcode = 'RV001'; -- all or nothing
      end if;
    else
      v_skipped := v_skipped || v_job.job_id; -- failed rests, and cancelled is an end: a new job in its place
    end if;
  end loop;
  v_last := (
    select max(('x' || right(u.job_id::text, 8))::bit(32)::int)
    from (
      select j.job_id from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1)
      union all
      select a.job_id from job_archive a where a.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1)) u);
  foreach v_new in array v_skipped loop
    declare
      v_old uuid := v_new;
    begin
      v_last := v_last + 1;
      v_new := fn_uuid_v7_nth(p_workflow_id, v_last);
      insert into job_queue (
        job_id, job_kind, actor, executor, event_domain, safe_payload, source_ref, target_ref, payload_ref, idempotency_key, ordering_key, priority,
        max_attempts, policy, workflow_id, parent_job_id, blocked_by, causation_event_id, consumer_key, correlation_id, traceparent)
      select v_new, j.job_kind, p_actor, j.executor, j.event_domain, j.safe_payload, j.source_ref, j.target_ref, j.payload_ref,
        fn_job_key(regexp_replace(j.idempotency_key, '~\d+$', '') || '~' || (coalesce(substring(j.idempotency_key from '~(\d+)$')::int, 1) + 1)),
        j.ordering_key, j.priority, j.max_attempts, j.policy, j.workflow_id, v_old, 1, j.causation_event_id, j.consumer_key, j.correlation_id, j.traceparent
      from job_queue j where j.job_id = v_old;
      update job_queue j set workflow_id = null where j.job_id = v_old; -- its place is taken; parent_job_id leads back to it
      update job_dependency d set job_id = v_new, state = case when d.state = 'met' then d.state end where d.job_id = v_old;
      update job_dependency d set needs_job_id = v_new, state = case when d.state = 'met' then d.state end where d.needs_job_id = v_old;
      update job_gate g set job_id = v_new, expires_at = clock_timestamp() + (g.expires_at - g.created_at), created_at = clock_timestamp() where g.job_id = v_old;
    end;
  end loop;
  update job_workflow w set status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp() where w.workflow_id = p_workflow_id;
  perform fn_job_workflow_mend(p_workflow_id); -- counts what the new ones wait for, and frees them
  return jsonb_build_object('refused', false, 'dry_run', false, 'workflow_id', p_workflow_id, 'retried', cardinality(v_failed), 'were_cancelled', v_cancelled,
    'made_anew', cardinality(v_skipped));
exception when sqlstate 'RV001' then
  return jsonb_build_object('refused', true, 'reason', sqlerrm, 'workflow_id', p_workflow_id);
end
$$;
comment on function fn_job_workflow_retry(uuid, text, text, boolean)
  is 'Retries a failed workflow from its failed and cancelled steps: {dry_run, retried, were_cancelled, made_anew}. Refused not_found, illegal_transition, and as a replay is.';

-- What is kept of workflows, and how long. One that succeeded or was cancelled is kept as long as its steps are: when the archive has no
-- month left in which it could have ended, and none of its steps is anywhere any more, it goes, with its gates and with who
-- approved what. Edges go with the last of the two steps that they join: `show` draws them until then. One that failed is kept, its
-- steps too, until it is retried or cancelled; queue.retention.failed_workflow_days (no row, or 0: never) cancels it for good so
-- long after its end. At most p_limit workflows of each sort, and 50 times as many edges; `more` says that there are others.
-- What somebody has locked is left for the next time. Dry run unless told otherwise; null does as the gate
-- queue.archive.enabled says. Called by the archiver of `reveille run`, by `tick`, by operators. (Trap 17.)
create or replace function fn_job_workflow_retention(p_limit int default 100, p_dry_run boolean default true, p_now timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_days numeric := nullif(fn_config_number('queue.retention.failed_workflow_days', null), 0);
  v_before timestamptz := coalesce(p_now, clock_timestamp()) - make_interval(secs => (v_days * 86400)::double precision);
  v_kept_from timestamptz;
  v_failed uuid[];
  v_over uuid[];
  v_edges tid[];
  v_workflow uuid;
  v_cancelled int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_workflow_retention: p_limit must be at least 1' using errcode = '22023';
  elsif not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_failed := array(
    select w.workflow_id from job_workflow w
    where w.status in ('failed', 'partially_failed') and w.finished_at < v_before
    order by w.finished_at
    limit p_limit);
  if not v_dry then
    foreach v_workflow in array v_failed loop -- judged anew once its steps are locked
      v_cancelled := v_cancelled + (fn_job_workflow_stop(v_workflow, format('retention: nobody decided about it within %s days', v_days), v_before)
        ->> 'refused' = 'false')::int;
    end loop;
  end if;
  select to_timestamp(min(right(c.relname, 7)), 'YYYY_MM')::timestamp at time zone 'UTC' into v_kept_from
  from pg_class a
  join pg_inherits i on i.inhparent = a.oid
  join pg_class c on c.oid = i.inhrelid
  where a.relname = 'job_archive' and a.relnamespace = quote_ident(current_schema())::regnamespace and c.relname ~ '^job_archive_\d{4}_\d{2}$';
  if v_dry then
    v_over := array(
      select w.workflow_id from job_workflow w
      where w.status in ('succeeded', 'cancelled') and w.finished_at < v_kept_from
        and not exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id)
        and not exists (select from job_archive a where a.workflow_id = w.workflow_id)
      order by w.finished_at
      limit p_limit);
    v_edges := array(
      select d.ctid from job_dependency d
      where d.needs_job_id < fn_uuid_v7_floor(v_kept_from)
        and not exists (select from job_queue j where j.job_id in (d.needs_job_id, d.job_id))
        and not exists (select from job_archive a where a.job_id in (d.needs_job_id, d.job_id))
      order by d.needs_job_id, d.job_id
      limit p_limit * 50);
  else
    v_over := array(
      select w.workflow_id from job_workflow w
      where w.status in ('succeeded', 'cancelled') and w.finished_at < v_kept_from
        and not exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id)
        and not exists (select from job_archive a where a.workflow_id = w.workflow_id)
      order by w.finished_at
      limit p_limit
      for update of w skip locked);
    v_edges := array(
      select d.ctid from job_dependency d
      where d.needs_job_id < fn_uuid_v7_floor(v_kept_from)
        and not exists (select from job_queue j where j.job_id in (d.needs_job_id, d.job_id))
        and not exists (select from job_archive a where a.job_id in (d.needs_job_id, d.job_id))
      order by d.needs_job_id, d.job_id
      limit p_limit * 50
      for update of d skip locked);
    delete from job_dependency d where d.ctid = any (v_edges);
    delete from job_approval a where a.workflow_id = any (v_over);
    delete from job_gate g where g.workflow_id = any (v_over);
    delete from job_workflow w where w.workflow_id = any (v_over);
  end if;
  return jsonb_build_object('refused', false, 'dry_run', v_dry, 'kept_from', v_kept_from, 'failed', cardinality(v_failed), 'cancelled', v_cancelled,
    'found', cardinality(v_over), 'pruned', case when v_dry then 0 else cardinality(v_over) end, 'edges', cardinality(v_edges),
    'more', p_limit in (cardinality(v_failed), cardinality(v_over)) or cardinality(v_edges) = p_limit * 50);
end
$$;
comment on function fn_job_workflow_retention(int, boolean, timestamptz)
  is 'Removes workflows whose steps have left the archive, cancels those that failed long ago: {dry_run, kept_from, failed, cancelled, found, pruned, edges, more}. Refused archive_disabled.';

-- The steps of a workflow with their states and needs, also those that have left for the archive. Called by `reveille workflows show`.
create or replace function fn_job_workflow_steps(p_workflow_id uuid)
returns table (
  step text, job_id uuid, job_kind text, executor text, status text, gate text, blocked_by int, needs jsonb, lease_owner text, attempts int,
  scheduled_at timestamptz, started_at timestamptz, finished_at timestamptz, last_error text, cancel_reason text, result_ref text)
language sql stable security definer set search_path from current
begin atomic
  select
    substr(j.idempotency_key, 38), j.job_id, j.job_kind, j.executor, j.status, g.kind, j.blocked_by,
    coalesce((
      select jsonb_agg(jsonb_build_object('job_id', d.needs_job_id, 'on', d.on_outcome, 'otherwise', d.otherwise, 'state', d.state) order by d.needs_job_id)
      from job_dependency d where d.job_id = j.job_id), '[]'),
    j.lease_owner, j.attempts, j.scheduled_at, j.started_at, j.finished_at, j.last_error, j.cancel_reason, j.result_ref
  from (
    select q.idempotency_key, q.job_id, q.job_kind, q.executor, q.status, q.blocked_by, q.lease_owner, q.attempts, q.scheduled_at, q.started_at,
      q.finished_at, q.last_error, q.cancel_reason, q.result_ref
    from job_queue q where q.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and q.workflow_id = p_workflow_id
    union all
    select a.idempotency_key, a.job_id, a.job_kind, a.executor, a.status, a.blocked_by, a.lease_owner, a.attempts, a.scheduled_at, a.started_at,
      a.finished_at, a.last_error, a.cancel_reason, a.result_ref
    from job_archive a where a.workflow_id = p_workflow_id) j
  left join job_gate g on g.job_id = j.job_id
  order by j.job_id;
end;
comment on function fn_job_workflow_steps(uuid) is 'The steps of a workflow, in the order of its template.';

-- One row a workflow. Counts read the workflow''s own jobs along an index, never the whole table; what has ended tells from its own row.
create or replace view v_job_workflow_health as
select
  w.workflow_id, w.template_key || '@' || w.template_version as template, w.status, w.correlation_id, w.actor, w.jobs,
  coalesce(c.succeeded, (w.outcome ->> 'succeeded')::int, 0) as succeeded,
  coalesce(c.failed, (w.outcome ->> 'failed')::int, 0) as failed,
  coalesce(c.skipped, (w.outcome ->> 'skipped')::int, 0) as skipped,
  coalesce(c.cancelled, (w.outcome ->> 'cancelled')::int, 0) as cancelled,
  coalesce(c.blocked, (w.outcome ->> 'blocked')::int, 0) as blocked,
  coalesce(c.ready, 0) as ready, coalesce(c.running, 0) as running, coalesce(c.waiting_for, '{}') as waiting_for,
  w.created_at, w.finished_at, round(extract(epoch from coalesce(w.finished_at, clock_timestamp()) - w.created_at)::numeric, 3) as age_seconds,
  w.cancel_reason, w.causation_event_id, w.consumer_key
from job_workflow w
left join lateral (
  select
    count(*) filter (where j.status in ('succeeded', 'cleaned'))::int as succeeded,
    count(*) filter (where j.status in ('failed', 'dead_letter'))::int as failed,
    count(*) filter (where j.status = 'cancelled' and j.cancel_reason like 'skipped: %')::int as skipped,
    count(*) filter (where j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %')::int as cancelled,
    count(*) filter (where j.status = 'queued' and j.blocked_by > 0)::int as blocked,
    count(*) filter (where j.status in ('queued', 'retry_waiting') and j.blocked_by = 0)::int as ready,
    count(*) filter (where j.status in ('leased', 'in_progress'))::int as running,
    array_agg(g.kind || ' ' || substr(j.idempotency_key, 38) order by j.job_id) filter (where g.job_id is not null and j.status = 'queued' and j.blocked_by = 1) as waiting_for
  from job_queue j
  left join job_gate g on g.job_id = j.job_id
  where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id) c on w.outcome is null;
comment on view v_job_workflow_health is 'Workflows: how many of their jobs stand where, and which gates they wait for.';

do $$
declare
  v_function text;
begin
  foreach v_function in array array['fn_mot_template_put(jsonb, text, boolean)', 'fn_mot_graph_emit(text, jsonb, text, text, boolean, uuid, text)',
    'fn_job_workflow_cancel(uuid, text, text)', 'fn_job_workflow_retry(uuid, text, text, boolean)', 'fn_job_approve(uuid, text, text, timestamptz)',
    'fn_job_reject(uuid, text, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator']);
  end loop;
  call pr_grant(format('execute on function %s', 'fn_mot_graph_emit(text, jsonb, text, text, boolean, uuid, text)'::regprocedure), array['reveille_dispatcher']);
  foreach v_function in array array['fn_job_workflow_steps(uuid)', 'fn_job_effect_hash(uuid)', 'fn_mot_graph_errors(text, jsonb, jsonb, jsonb)',
    'fn_job_kind_warning(text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_operator', 'reveille_reader']);
  end loop;
  foreach v_function in array array['fn_job_workflow_refresh(int, timestamptz)', 'fn_job_workflow_retention(int, boolean, timestamptz)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure), array['reveille_dispatcher', 'reveille_operator']);
  end loop;
  foreach v_function in array array['fn_mot_start()', 'fn_mot_start_one(uuid)', 'fn_mot_start_lease(uuid)', 'fn_mot_start_refused(uuid, text)',
    'fn_mot_reached(jsonb)', 'fn_mot_policy(jsonb)', 'fn_mot_emit_refused(mot_template, text[])',
    'fn_mot_template_lock(text)', 'fn_mot_template_of(text)', 'fn_mot_sorted(jsonb, jsonb)', 'fn_mot_fill(jsonb, jsonb, jsonb)',
    'fn_mot_expand(mot_template, jsonb, jsonb, text, int, int, int, timestamptz)', 'fn_job_unblock(uuid[], text)', 'fn_job_workflow_settle(uuid[], uuid[])',
    'fn_job_workflow_mend(uuid)', 'fn_job_workflow_stop(uuid, text, timestamptz)',
    'fn_job_gate_pass(uuid, text, text, text)', 'fn_job_gate_events(uuid[])',
    'fn_job_gate_verdict(jsonpath, event_outbox)', 'fn_job_gate_lock(uuid[])', 'fn_job_gate_expire(int, timestamptz)', 'fn_gate_filter_problem(jsonpath)',
    'fn_mot_template_refuse()', 'fn_json_schema_errors(jsonb, jsonb, text)', 'fn_json_schema_unknown(jsonb, text)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
  end loop;
  call pr_grant('select on table mot_template, job_dependency, job_approval', array['reveille_operator', 'reveille_reader']);
  call pr_grant('select on v_job_workflow_health', array['reveille_reader', 'reveille_operator', 'reveille_dispatcher']);
end
$$;

---------------------------------------------------------------------------------------------- watching

-- The open gates of at most p_limit active workflows, and since when everything before them has ended. Reads active workflows
-- along their index and jobs by their ids, however large job_queue is. Called by fn_job_workflow_check and fn_job_workflow_counts.
create or replace function fn_job_gate_waiting(p_limit int default 10000)
returns table (workflow_id uuid, template text, job_id uuid, step text, kind text, waits_for text, since timestamptz)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
  return query
  select w.workflow_id, w.template_key || '@' || w.template_version, j.job_id, substr(j.idempotency_key, 38), g.kind,
    case g.kind when 'event' then g.event_domain || '.' || g.event_type else 'an approval' end, greatest(j.created_at, n.ended_at)
  from (select x.* from job_workflow x where x.status = 'active' order by x.updated_at limit p_limit) w
  join job_gate g on g.workflow_id = w.workflow_id and g.event_id is null
  join job_queue j on j.job_id = g.job_id and j.status = 'queued' and j.blocked_by = 1
  cross join lateral (
    select max(q.finished_at) as ended_at from job_dependency d join job_queue q on q.job_id = d.needs_job_id where d.job_id = j.job_id) n;
end
$$;
comment on function fn_job_gate_waiting(int) is 'Steps of active workflows that wait for an approval or an event, and since when. Internal.';

-- Workflows that somebody must look at, the longest waiting p_limit of each sort: gates that wait longer than
-- queue.workflow.approval_threshold_seconds or queue.workflow.event_threshold_seconds (a day), and failed ones whose jobs wait
-- for what failed. Called by `reveille health`.
create or replace function fn_job_workflow_check(p_limit int default 20, p_now timestamptz default null)
returns table (workflow_id uuid, severity text, finding text, what text, hint text, age_seconds numeric)
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_approval interval := make_interval(secs => fn_config_number('queue.workflow.approval_threshold_seconds', 86400)::float8);
  v_event interval := make_interval(secs => fn_config_number('queue.workflow.event_threshold_seconds', 86400)::float8);
begin
  return query
  select r.workflow_id, 'error', r.finding,
    r.what || case when r.place = p_limit and r.total > p_limit then format(' (and %s more like it)', r.total - p_limit) else '' end,
    r.hint, round(extract(epoch from v_now - r.since)::numeric, 3)
  from (
    select f.*, row_number() over (partition by f.finding order by f.since, f.workflow_id, f.what) as place, count(*) over (partition by f.finding) as total
    from (
      select g.workflow_id, g.kind || '_waiting' as finding, format('its step %s (%s) waits for %s', g.step, g.template, g.waits_for) as what, g.since,
        case g.kind
          when 'approval' then format('reveille workflows approve %1$s %2$s, or reveille workflows reject %1$s %2$s --reason TEXT', g.workflow_id, s.word)
          else format('reveille workflows show %1$s; if the event will not come, reveille workflows cancel %1$s --reason TEXT', g.workflow_id) end as hint
      from fn_job_gate_waiting() g
      cross join lateral (select case when g.step ~ '^[A-Za-z0-9_.:/@~-]+$' then g.step else quote_literal(g.step) end as word) s
      where g.since < v_now - case g.kind when 'approval' then v_approval else v_event end
      union all
      select w.workflow_id, 'failed_holding', format('%s has failed, and %s of its jobs wait for what failed', w.template_key || '@' || w.template_version, b.jobs),
        w.finished_at, format('reveille workflows retry %1$s --reason TEXT --apply, or reveille workflows cancel %1$s --reason TEXT', w.workflow_id)
      from (
        select x.* from job_workflow x
        where x.status in ('failed', 'partially_failed') and x.outcome ->> 'blocked' <> '0' order by x.finished_at limit 10000) w
      cross join lateral (
        select count(*) as jobs from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued' and j.blocked_by > 0) b
      where b.jobs > 0) f) r
  where r.place <= p_limit
  order by r.finding, r.place;
end
$$;
comment on function fn_job_workflow_check(int, timestamptz) is 'Findings about workflows, the oldest of each sort: approval_waiting, event_waiting, failed_holding.';

-- Workflows in numbers, each counted up to 10,000. Called by `/metrics`.
create or replace function fn_job_workflow_counts(p_now timestamptz default null) returns jsonb
language plpgsql stable security definer set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
begin
  return (
    select jsonb_build_object(
      'active', (select count(*) from (select from job_workflow w where w.status = 'active' limit 10000) a),
      'failed_holding', (
        select count(*)
        from (
          select from job_workflow w
          where w.status in ('failed', 'partially_failed') and w.outcome ->> 'blocked' <> '0'
            and exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued' and j.blocked_by > 0)
          limit 10000) f),
      'gates', jsonb_object_agg(k.kind, jsonb_build_object('waiting', coalesce(g.waiting, 0),
        'oldest_seconds', coalesce(greatest(0, round(extract(epoch from coalesce(p_now, clock_timestamp()) - g.since)::numeric, 3)), 0))))
    from unnest(array['approval', 'event']) k (kind)
    left join (select w.kind, count(*) as waiting, min(w.since) as since from fn_job_gate_waiting() w group by 1) g on g.kind = k.kind);
end
$$;
comment on function fn_job_workflow_counts(timestamptz) is 'Workflows in numbers: {active, failed_holding, gates: {approval, event: {waiting, oldest_seconds}}}.';

do $$
declare
  v_function text;
begin
  revoke all on function fn_job_gate_waiting(int) from public;
  foreach v_function in array array['fn_job_workflow_check(int, timestamptz)', 'fn_job_workflow_counts(timestamptz)'] loop
    execute format('revoke all on function %s from public', v_function::regprocedure);
    call pr_grant(format('execute on function %s', v_function::regprocedure),
      array['reveille_dispatcher', 'reveille_executor', 'reveille_operator', 'reveille_reader']);
  end loop;
end
$$;
