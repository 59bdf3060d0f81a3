//! Every function is described, and safe to be called by anybody who may call it.

use std::collections::BTreeMap;

use crate::support::{TestDb, skipped};

/// Functions without a search path of their own, and why they need none. Those with a body in the SQL standard's
/// form are bound when they are made.
const UNPINNED: [(&str, &str); 3] = [
    (
        "fn_job_move_is_legal",
        "names no object; called for every move, a setting would cost more than it does",
    ),
    ("fn_job_moment", "names no object; called for every job"),
    ("fn_event_arrival_record", "names everything with its schema; every producer pays for it"),
];

#[tokio::test]
async fn every_function_is_described_pinned_and_closed() {
    let database = TestDb::new().await;
    let functions = "
        select p.oid::regprocedure::text, p.proname::text, p.prosecdef,
               p.prosqlbody is not null or coalesce(p.proconfig::text ~ 'search_path=\\S+, pg_temp\\\\?\"', false),
               obj_description(p.oid, 'pg_proc'),
               exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
        from pg_proc p where p.pronamespace = current_schema()::regnamespace order by 1";
    let mut complaints = Vec::new();
    for row in database.client().await.query(functions, &[]).await.unwrap() {
        let (signature, name): (String, String) = (row.get(0), row.get(1));
        let (definer, pinned, open): (bool, bool, bool) = (row.get(2), row.get(3), row.get(5));
        if !row.get::<_, Option<String>>(4).is_some_and(|comment| comment.ends_with('.')) {
            complaints.push(format!("{signature} has no comment that is a sentence"));
        }
        if pinned == UNPINNED.iter().any(|(unpinned, _)| *unpinned == name) {
            complaints.push(format!(
                "{signature}: search_path {}",
                if pinned { "is pinned, unlist it" } else { "is not pinned" }
            ));
        }
        if definer && open {
            complaints.push(format!("{signature} runs with its owner's rights and anybody may call it"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Says which phases are applied; whoever connects may ask.
const HISTORY: &str = "reveille_migration";

#[tokio::test]
async fn every_table_and_view_is_described_and_closed() {
    let database = TestDb::new().await;
    let relations = "
        select c.oid::regclass::text, obj_description(c.oid, 'pg_class') is not null,
               exists (select from aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
                       where a.grantee <> c.relowner
                         and (a.privilege_type <> 'SELECT' or (a.grantee = 0 and c.relname <> $1)))
        from pg_class c
        where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v', 'm') order by 1";
    let mut complaints = Vec::new();
    for row in database.client().await.query(relations, &[&HISTORY]).await.unwrap() {
        let (name, described, writable): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !described {
            complaints.push(format!("{name} has no comment"));
        }
        if writable {
            complaints.push(format!("{name}: others may write it, or anybody may read it"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What `plpgsql_check` says that is not so: an untyped `'{}'` becomes what it is assigned to.
const MISTAKEN: &str = "target type is different type than source type";

#[tokio::test]
async fn plpgsql_check_finds_nothing() {
    let database = TestDb::new().await;
    let client = database.client().await;
    if let Err(error) = client.batch_execute("create extension plpgsql_check").await {
        let why = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        return skipped(&why);
    }
    let check = "
        select p.proname::text, c.level, c.message, c.lineno, c.statement
        from pg_proc p
        join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
        left join pg_trigger t on t.tgfoid = p.oid and not t.tgisinternal
        -- no route stands in a fresh schema, and its trigger function fits any table
        cross join lateral plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid,
          case p.proname when 'fn_route_capture' then 'job_queue'::regclass else 0 end), newtable => $1,
          other_warnings => true, performance_warnings => false, extra_warnings => true) c
        where p.pronamespace = current_schema()::regnamespace and p.proname ~ '^(fn|pr)_'
          and (p.proname = 'fn_event_arrival_record') = ($1 is not null)";
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for newtable in [None, Some("inserted")] {
        for row in client.query(check, &[&newtable]).await.unwrap() {
            let (name, message): (String, String) = (row.get(0), row.get(2));
            if message == MISTAKEN {
                continue;
            }
            let level: String = row.get(1);
            let line: Option<i32> = row.get(3);
            found.entry(name).or_default().push(format!("{level} in line {line:?}: {message}"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// What a producer may put before `pg_catalog` in his own path: whoever reaches it raises an error.
const TRAPS: &str = "
    create schema trap;
    create function trap.spring(anyelement) returns boolean language plpgsql as
      $$ begin raise exception 'reached as %', current_user; end $$;
    create function trap.spring(anyelement, anyelement) returns boolean language plpgsql as
      $$ begin raise exception 'reached as %', current_user; end $$;
    create domain trap.text as pg_catalog.text check (trap.spring(value));
    create function trap.texts(pg_catalog.text, pg_catalog.text) returns boolean language plpgsql as
      $$ begin raise exception 'reached as %', current_user; end $$;
    create function trap.numbers(float8, float8) returns boolean language plpgsql as
      $$ begin raise exception 'reached as %', current_user; end $$;
    create operator trap.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = trap.texts);
    create operator trap.<= (leftarg = float8, rightarg = float8, function = trap.numbers);
    create function trap.textcat(pg_catalog.text, pg_catalog.text) returns pg_catalog.text language plpgsql as
      $$ begin raise exception 'reached as %', current_user; end $$;
    create table trap.event_arrival (tx_id xid8, event_domain pg_catalog.text, event_id uuid);";

#[tokio::test]
async fn the_path_of_a_producer_leads_the_arrivals_trigger_nowhere() {
    let database = TestDb::new().await;
    database.open_gates().await;
    let client = database.client().await;
    client.batch_execute(TRAPS).await.unwrap();
    let insert = "
        set search_path = trap, pg_catalog, public;
        insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
        values ('iu', 'changed', 'update', 'delayed'), ('tac', 'changed', 'update', 'delayed'),
               ('iu', 'changed', 'update', 'delayed')";
    client.batch_execute(insert).await.unwrap();
    let arrivals = client.query_one("select count(*) from public.event_arrival", &[]).await.unwrap();
    assert_eq!(arrivals.get::<_, i64>(0), 3);
    let sprung = client.batch_execute("select 'x' :: text").await.unwrap_err();
    assert!(sprung.as_db_error().unwrap().message().contains("reached as"), "the traps are set");
}
