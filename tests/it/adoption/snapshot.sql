with relations as (
  select c.* from pg_class c where c.relnamespace = 'public'::regnamespace
)
select 'relation ' || relname || ': ' || relkind::text || ' owner ' || relowner::regrole || ' acl ' || coalesce(relacl::text, '')
       || ' options ' || coalesce(reloptions::text, '') || ' security ' || relrowsecurity
       || ' replica identity ' || relreplident::text || ' comment ' || coalesce(obj_description(oid, 'pg_class'), '')
  from relations
union all
select 'column ' || relname || ' : ' || attname || ' ' || format_type(atttypid, atttypmod) || ' not null ' || attnotnull
       || ' default ' || coalesce(pg_get_expr(adbin, adrelid), '') || ' identity ' || attidentity::text
       || ' statistics ' || coalesce(attstattarget, -1) || ' acl ' || coalesce(attacl::text, '')
       || ' comment ' || coalesce(col_description(attrelid, attnum), '')
  from pg_attribute
  join relations c on c.oid = attrelid and relkind in ('r', 'v')
  left join pg_attrdef on adrelid = attrelid and adnum = attnum
 where attnum > 0 and not attisdropped
union all
select 'constraint on ' || relname || ' : ' || conname || ' ' || pg_get_constraintdef(k.oid) || ' valid ' || convalidated
  from pg_constraint k
  join relations c on c.oid = conrelid
union all
select 'index on ' || c.relname || ' : ' || pg_get_indexdef(indexrelid) || ' valid ' || indisvalid
  from pg_index
  join relations c on c.oid = indrelid
union all
select 'trigger ' || tgname || ' on ' || relname || ': ' || pg_get_triggerdef(t.oid) || ' enabled ' || tgenabled::text
  from pg_trigger t
  join relations c on c.oid = tgrelid
union all
select 'rule ' || rulename || ' on ' || tablename || ': ' || definition from pg_rules where schemaname = 'public'
union all
select 'function ' || p.oid::regprocedure || ': ' || md5(pg_get_functiondef(p.oid)) || ' owner ' || proowner::regrole
       || ' acl ' || coalesce(proacl::text, '') || ' comment ' || coalesce(obj_description(p.oid, 'pg_proc'), '')
  from pg_proc p
 where p.pronamespace = 'public'::regnamespace and p.prokind in ('f', 'p')
union all
select 'type ' || typname || ': ' || typtype::text from pg_type where typnamespace = 'public'::regnamespace and typtype in ('e', 'd')
union all
select 'schema ' || nspname || ': ' || coalesce(nspacl::text, '') || ' ' || coalesce(obj_description(oid, 'pg_namespace'), '')
  from pg_namespace where nspname !~ '^pg_(toast_)?temp'
union all
select 'default grants : ' || defaclobjtype::text || ' ' || defaclacl::text from pg_default_acl
union all
select 'setting of the database : ' || setconfig::text from pg_db_role_setting
 where setdatabase = (select oid from pg_database where datname = current_database())
union all
select 'extension : ' || extname from pg_extension
