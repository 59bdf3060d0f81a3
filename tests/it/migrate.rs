//! The migrator, with small phases of the tests' own: what it does, refuses, and leaves behind.

use futures::future::join_all;
use reveille::config::Database;
use reveille::error::Kind;
use reveille::postgres::Server;
use reveille::postgres::migrator::{Action, Direction, Migrator, PHASES, Phase, Report, Start, State};

use crate::support::{TestDb, database_at, server_at};

mod refusals;

const ONE: Phase = Phase {
    number: 1,
    name: "one",
    up: "create table first (id int primary key);\ncomment on table first is 'it''s first';",
    functions: "create or replace function answer() returns int language sql set search_path from current\n\
                as $$ select 41 $$;",
    down: "do $$ begin\n  if exists (select from first) then\n    raise exception 'first still has rows';\n  end if;\n\
           end $$;\ndrop function answer();\ndrop table first;",
};
const TWO: Phase = Phase {
    number: 2,
    name: "two",
    up: "create table second (id int references first);",
    functions: "",
    down: "drop table second;",
};
const BETTER_ONE: Phase = Phase {
    functions: "drop function if exists answer();\n\
                create function answer() returns bigint language sql as $$ select 42::bigint $$;",
    ..ONE
};

fn migrator(database: &TestDb, phases: &[Phase]) -> Migrator {
    Migrator::with_phases(server_at(&database.url()), phases.to_vec())
}

fn done(report: &Report) -> Vec<(u32, Action)> {
    report.steps.iter().map(|step| (step.phase.number, step.action)).collect()
}

/// Everything in the schema that has a name, and who may do what with it.
async fn catalog(database: &TestDb) -> Vec<String> {
    let names =
        "select n.nspname || '.' || relname || ' ' || relkind::text || ' ' || coalesce(relacl::text, '')
                   from pg_class c join pg_namespace n on n.oid = relnamespace
                  where nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
                 union all
                 select proname || ' ' || prosrc || ' ' || coalesce(proacl::text, '') from pg_proc p
                   join pg_namespace n on n.oid = pronamespace
                  where nspname not in ('pg_catalog', 'information_schema')
                 union all
                 select 'schema ' || nspname || ' ' || coalesce(nspacl::text, '') from pg_namespace
                  where nspname !~ '^pg_(toast_)?temp' order by 1";
    let rows = database.client().await.query(names, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn number(database: &TestDb, query: &str) -> i64 {
    database.client().await.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn phases_go_up_and_down_step_by_step_and_leave_nothing() {
    let database = TestDb::empty().await;
    let migrator = migrator(&database, &[ONE, TWO]);
    let before = catalog(&database).await;
    let report = migrator.up(Some(1), false).await.unwrap();
    assert_eq!((done(&report), report.from, report.to), (vec![(1, Action::Apply)], 0, 1));
    let at_one = catalog(&database).await;
    assert_eq!(done(&migrator.up(None, false).await.unwrap()), [(2, Action::Apply)]);
    assert!(migrator.up(None, false).await.unwrap().steps.is_empty());
    let client = database.client().await;
    migrator.check(&client).await.unwrap();

    assert_eq!(done(&migrator.down(None, false).await.unwrap()), [(2, Action::Undo)]);
    assert_eq!(catalog(&database).await, at_one);
    assert!(migrator.check(&client).await.unwrap_err().to_string().contains("is at phase 1"));
    migrator.up(None, false).await.unwrap();
    let report = migrator.down(Some(0), false).await.unwrap();
    assert_eq!((done(&report), report.to), (vec![(2, Action::Undo), (1, Action::Undo)], 0));
    assert_eq!(catalog(&database).await, before);
}

#[tokio::test]
async fn of_twenty_migrators_at_once_one_does_the_work_and_nobody_fails() {
    let slow = Phase { up: "create table second (); select pg_sleep(0.2);", ..TWO };
    for phases in [&[ONE, slow], PHASES] {
        let database = TestDb::empty().await;
        let runs = (0..20).map(|_| {
            let migrator = migrator(&database, phases);
            async move { migrator.up(None, false).await.unwrap().steps.len() }
        });
        let mut steps = join_all(runs).await;
        steps.sort_unstable();
        assert_eq!((steps[..19].iter().sum::<usize>(), steps[19]), (0, phases.len()));
        let rows = number(&database, "select count(*) from reveille_migration").await;
        assert_eq!(usize::try_from(rows).unwrap(), phases.len());
    }
}

#[tokio::test]
async fn any_schema_name_will_do_and_a_schema_of_ours_goes_with_us() {
    let database = TestDb::empty().await;
    let before = catalog(&database).await;
    for schema in ["Weird Name", "quo\"te'd", "back\\slash", "a$reveille$b", "ünï, cödé; drop"] {
        let settings = Database { schema: schema.to_owned(), ..database_at(&database.url()) };
        let server = Server::from_settings(&settings).unwrap();
        let migrator = Migrator::with_phases(server.clone(), vec![ONE, TWO]);
        migrator.up(None, false).await.unwrap();
        let client = server.client("test", &server.session()).await.unwrap();
        migrator.check(&client).await.unwrap();
        let row = client
            .query_one("select answer(), to_regclass('first')::oid::regclass::text", &[])
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (41, "first"), "{schema}");
        client.batch_execute("set search_path to pg_catalog").await.unwrap();
        migrator.check(&client).await.unwrap();
        migrator.down(Some(0), false).await.unwrap();
        assert_eq!(catalog(&database).await, before, "{schema}");
    }
}

#[tokio::test]
async fn a_schema_that_was_there_before_or_holds_more_stays() {
    let database = TestDb::empty().await;
    let client = database.client().await;
    client.batch_execute("create schema before").await.unwrap();
    for schema in ["before", "ours"] {
        let settings = Database { schema: schema.to_owned(), ..database_at(&database.url()) };
        let migrator = Migrator::with_phases(Server::from_settings(&settings).unwrap(), vec![ONE]);
        migrator.up(None, false).await.unwrap();
        client.batch_execute("create table if not exists ours.by_somebody_else ()").await.ok();
        migrator.down(Some(0), false).await.unwrap();
        let exists = format!("select count(*) from pg_namespace where nspname = '{schema}'");
        assert_eq!(number(&database, &exists).await, 1, "{schema}");
    }
}

#[tokio::test]
async fn a_dry_run_does_everything_and_leaves_nothing() {
    let database = TestDb::empty().await;
    let migrator = migrator(&database, &[ONE, TWO]);
    let before = catalog(&database).await;
    let report = migrator.up(None, true).await.unwrap();
    assert!(report.dry_run);
    assert_eq!(done(&report), [(1, Action::Apply), (2, Action::Apply)]);
    assert_eq!(catalog(&database).await, before);

    migrator.up(None, false).await.unwrap();
    let before = catalog(&database).await;
    let report = migrator.down(Some(0), true).await.unwrap();
    assert_eq!(done(&report), [(2, Action::Undo), (1, Action::Undo)]);
    assert_eq!(catalog(&database).await, before);

    database.client().await.batch_execute("insert into first values (1)").await.unwrap();
    assert_eq!(migrator.down(Some(0), true).await.unwrap_err().kind(), Kind::Refused);
}

#[tokio::test]
async fn functions_are_run_again_when_their_text_changes() {
    let database = TestDb::empty().await;
    migrator(&database, &[ONE]).up(None, false).await.unwrap();
    let better = migrator(&database, &[BETTER_ONE, TWO]);
    let client = database.client().await;
    assert!(
        migrator(&database, &[BETTER_ONE]).check(&client).await.unwrap_err().to_string().contains("001_one")
    );
    let states = async || better.status().await.unwrap().iter().map(|phase| phase.state).collect::<Vec<_>>();
    assert_eq!(states().await, [State::FunctionsChanged, State::Pending]);
    let report = better.up(None, false).await.unwrap();
    assert_eq!(done(&report), [(1, Action::RefreshFunctions), (2, Action::Apply)]);
    assert_eq!(number(&database, "select answer()").await, 42);
    assert_eq!(states().await, [State::Applied, State::Applied]);
}

#[tokio::test]
async fn the_printed_sql_does_the_same_and_stops_when_it_is_not_its_turn() {
    let (printed, migrated) = tokio::join!(TestDb::empty(), TestDb::empty());
    let of = |database| migrator(database, &[ONE, TWO]);
    of(&migrated).up(None, false).await.unwrap();
    let empty = catalog(&printed).await;
    let script = of(&printed).sql(Direction::Up, None, Start::AsFound).await.unwrap();
    assert_eq!(catalog(&printed).await, empty, "printing executes nothing");
    let assumed = of(&printed).sql(Direction::Up, None, Start::Assumed).await.unwrap();

    let client = printed.client().await;
    client.batch_execute(&script).await.unwrap();
    assert_eq!(catalog(&printed).await, catalog(&migrated).await);
    of(&printed).check(&client).await.unwrap();
    assert!(of(&printed).up(None, false).await.unwrap().steps.is_empty());

    let down = of(&printed).sql(Direction::Down, Some(0), Start::AsFound).await.unwrap();
    of(&printed).down(Some(1), false).await.unwrap();
    let error = client.batch_execute(&down).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("002_two does not come next here"));
    client.batch_execute("rollback").await.unwrap();
    of(&printed).up(None, false).await.unwrap();
    client.batch_execute(&down).await.unwrap();
    assert_eq!(catalog(&printed).await, empty);

    client.batch_execute(&assumed).await.unwrap();
    assert_eq!(catalog(&printed).await, catalog(&migrated).await);
}
