-- Undoes phase 011. Refuses while a trigger of ours stands on a table, or rows would be lost.
do $$
declare
  v_table text;
begin
  select format('%I.%I', n.nspname, c.relname) into v_table
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_route_capture' and p.pronamespace = quote_ident(current_schema())::regnamespace
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  order by 1 limit 1;
  if found then
    raise exception 'a route''s trigger stands on %', v_table
      using errcode = '55000', hint = 'Disable the routes first (reveille routes disable CODE, as the owner of the table), then run the down step again.';
  end if;
  lock table event_route, event_route_key, event_route_fault;
  if exists (select from event_route) or exists (select from event_route_key) or exists (select from event_route_fault) then
    raise exception 'event_route, event_route_key and event_route_fault hold routes, or what they told, that would be lost'
      using errcode = '55000', hint = 'Remove the routes (reveille routes remove CODE --apply), export and empty event_route_fault, then run the down step again.';
  end if;
end
$$;

do $$
declare
  v_check host_constraint;
begin
  if (select h.created from host_object h where h.object_name = 'iu_sql_event_route') then
    if exists (select from iu_sql_event_route) then
      raise exception 'iu_sql_event_route holds routes that would be lost'
        using errcode = '55000', hint = 'Export and empty iu_sql_event_route first, then run the down step again.';
    end if;
    drop table iu_sql_event_route;
  else
    for v_check in select h.* from host_constraint h loop
      execute format('alter table %I drop constraint if exists %I', v_check.table_name, v_check.constraint_name);
      begin
        execute format('alter table %I add constraint %I %s', v_check.table_name, v_check.constraint_name, v_check.definition);
      exception when check_violation then
        raise exception '% holds rows that % would not allow as it was', v_check.table_name, v_check.constraint_name
          using errcode = '55000', hint = 'Remove those rows first, then run the down step again.';
      end;
    end loop;
  end if;
  delete from host_object where object_name = 'iu_sql_event_route';
end
$$;

drop function fn_route_prune(int, timestamptz);
drop function fn_route_counts(timestamptz);
drop function fn_route_check(timestamptz);
drop function fn_route_preview(text, int);
drop function fn_route_told(text, text[]);
drop function fn_route_seen(text);
drop function fn_route_remove(text, text, text, boolean);
drop function fn_route_disable(text, text, text);
drop function fn_route_enable(text, text, text, boolean, boolean);
drop function fn_route_switch(text, boolean, boolean, text, text, boolean);
drop function fn_route_put(jsonb, text);
drop function fn_route_write(jsonb, text);
drop function fn_route_agree(jsonb, boolean, int);
drop function fn_route_list(text);
drop function fn_route_is_tried(text);
drop function fn_route_capture();
drop function fn_route_emit(jsonb, jsonb, jsonb[]);
drop function fn_route_prepare(text);
drop function fn_route_rows(jsonb, oid, text, text);
drop function fn_route_key(text, jsonb);
drop function fn_route_template(text, jsonb);
drop function fn_route_value(text, text, oid);
drop function fn_route_triggers(text);
drop function fn_route_beyond(jsonb, jsonb, int);
drop function fn_route_said(text);
drop function fn_route_consent(jsonb, boolean, int);
drop function fn_route_findings(jsonb);
drop function fn_route_denied(jsonb, oid);
drop function fn_route_is_own(oid);
drop function fn_route_relation(jsonb);
drop function fn_route_shape(oid, text[]);
drop function fn_route_key_columns(oid);
drop table host_constraint;
drop table event_route_count;
drop table event_route_sample;
drop table event_route_fault;
drop table event_route_key;
drop table event_route;
