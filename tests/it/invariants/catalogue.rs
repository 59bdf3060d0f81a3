//! The whole schema as the catalogue shows it, in one file that a reviewer can read.

use std::path::Path;

use crate::support::{TestDb, skipped};

/// What is compared, in the order in which it stands in the file.
const PARTS: [&str; 6] = [
    // tables: columns, constraints, indexes, triggers
    "select format(E'table %s%s\\n%s', c.oid::regclass,
       coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', ''),
       (select string_agg(x.line, E'\\n' order by x.part, x.n, x.line) from (
          select 1 as part, a.attnum as n, format('  %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
            case when a.attnotnull then ' not null' else '' end,
            case
              when a.attidentity = 'a' then ' generated always as identity'
              when a.attgenerated = 's' then ' generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored'
              else coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
            end) as line
          from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          union all
          select 2, 0, format('  %s %s', k.conname, pg_get_constraintdef(k.oid)) from pg_constraint k where k.conrelid = c.oid
          union all
          select 3, 0, '  ' || replace(pg_get_indexdef(i.indexrelid), 'public.', '') from pg_index i
          where i.indrelid = c.oid and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
          union all
          select 4, 0, '  ' || replace(pg_get_triggerdef(t.oid), 'public.', '') from pg_trigger t
          where t.tgrelid = c.oid and not t.tgisinternal
          union all
          select 5, s.objsubid, format('  -- %s: %s', coalesce((
              select a.attname from pg_attribute a where a.attrelid = c.oid and a.attnum = s.objsubid), 'table'), s.description)
          from pg_description s where s.objoid = c.oid and s.classoid = 'pg_class'::regclass
        ) x))
     from pg_class c where c.relkind in ('r', 'p') and c.relnamespace = current_schema()::regnamespace
     order by c.oid::regclass::text",
    "select format('sequence %s as %s start %s', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart)
     from pg_sequence s join pg_class c on c.oid = s.seqrelid
     where c.relnamespace = current_schema()::regnamespace order by 1",
    "select format(E'view %s\\n  -- %s\\n%s', c.oid::regclass, obj_description(c.oid, 'pg_class'), pg_get_viewdef(c.oid, 100))
     from pg_class c where c.relkind = 'v' and c.relnamespace = current_schema()::regnamespace order by c.oid::regclass::text",
    "select format(E'-- %s\\n%s', obj_description(p.oid, 'pg_proc'), replace(pg_get_functiondef(p.oid), 'public.', ''))
     from pg_proc p where p.prokind <> 'a' and p.pronamespace = current_schema()::regnamespace
     order by p.oid::regprocedure::text",
    "select format('grant %s on %s to %s', string_agg(g.privilege, ', ' order by g.privilege), g.object, g.grantee)
     from (
       select a.privilege_type as privilege, 'function ' || p.oid::regprocedure as object,
         case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee, p.proowner as owner, a.grantee as to
       from pg_proc p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
       where p.pronamespace = current_schema()::regnamespace
       union all
       select a.privilege_type, 'table ' || c.oid::regclass,
         case a.grantee when 0 then 'public' else a.grantee::regrole::text end, c.relowner, a.grantee
       from pg_class c cross join lateral aclexplode(c.relacl) a
       where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v')
     ) g
     where g.to <> g.owner
     group by g.object, g.grantee order by g.object, g.grantee",
    "select format('event type %s.%s %s %s %s', event_domain, event_type, event_stream, delivery_lane, default_severity)
     from event_type_registry order by 1",
];

#[tokio::test]
async fn the_schema_is_as_reviewed() {
    let database = TestDb::new().await;
    if database.server().binaries().version != 15 {
        return skipped("the golden file is of Postgres 15, others word some things otherwise");
    }
    let client = database.client().await;
    let mut text = String::new();
    for part in PARTS {
        for row in client.query(part, &[]).await.unwrap() {
            text.push_str(row.get::<_, String>(0).trim_end());
            text.push_str("\n\n");
        }
    }
    let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema.sql");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let first = golden.lines().zip(text.lines()).position(|(golden, now)| golden != now);
    assert!(
        golden == text,
        "tests/golden/schema.sql differs from line {}: UPDATE_GOLDEN=1 cargo test the_schema_is_as_reviewed writes it",
        first.unwrap_or(golden.lines().count().min(text.lines().count())) + 1
    );
}
