//! The pilot host: a document from MARK to clean-up.

mod pieces;
mod rules;

use std::path::Path;

use deadpool_postgres::Object;
use reveille::maintain::consumer_sync as sync;
use reveille::model::refusal::Answer;
use reveille::store::consumers;
use reveille::store::pilot_host::{self, Standing};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::{output, reveille};
use crate::support::TestDb;

/// A database with the pilot host, its gates open, texts cleaned up at once.
async fn with_host() -> (TestDb, Object) {
    let db = TestDb::new().await;
    let client = db.pool(1).get().await.unwrap();
    pilot_host::install(&client).await.unwrap();
    pilot_host::open_gates(&client, 0).await.unwrap();
    (db, client)
}

fn id(answer: &Value) -> Uuid {
    answer["staging_record_id"].as_str().unwrap().parse().unwrap()
}

async fn mark(client: &Object, text: &str, reference: &str) -> Uuid {
    id(&pilot_host::mark_file(client, text, reference, "tester").await.unwrap().done("MARK").unwrap())
}

async fn approve(client: &Object, record: Uuid) {
    pilot_host::verify_mark(client, record, true, "DOC-1", "tester").await.unwrap().done("APPROVE").unwrap();
}

async fn standing(client: &Object, record: Uuid) -> Standing {
    pilot_host::standing(client, record).await.unwrap().unwrap()
}

/// The one value of a statement.
async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Object, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The SQLSTATE that a statement fails with.
async fn sqlstate(client: &Object, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().unwrap().code().to_owned()
}

/// CUT and VERIFY CUT by the operator's functions; the pieces in order.
async fn cut(client: &Object, record: Uuid) -> Vec<Vec<u8>> {
    let answer: Value = value(client, &format!("select fn_iu_op_cut('{record}', true, 'tester')")).await;
    assert_eq!(answer["ok"], true, "{answer}");
    let run = answer["run_id"].as_str().unwrap();
    let answer: Value = value(client, &format!("select fn_iu_op_verify_cut('{run}', 'tester')")).await;
    assert_eq!(answer["axes"], json!({ "A": true, "B": true, "C": true }), "{answer}");
    let sql = format!(
        "select convert_to(body, 'UTF8') from iu_core.iu_piece where run_id = '{run}' order by piece_no"
    );
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Dispatches what is there and runs one job as a worker would; its kind, or none.
async fn step(client: &Object) -> Option<String> {
    let pass: Value = value(client, "select fn_consumer_dispatch_batch('staging', 100)").await;
    assert_eq!((&pass["refused"], &pass["errors"]), (&json!(false), &json!(0)), "{pass}");
    let claim = "select job_id, lease_token, job_kind from fn_job_claim('pilot-worker', 1)";
    let job = client.query_one(claim, &[]).await.ok()?;
    let (job_id, token): (Uuid, i64) = (job.get("job_id"), job.get("lease_token"));
    client.query_one("select fn_job_start($1, $2)", &[&job_id, &token]).await.unwrap();
    let done: Value = client.query_one("select fn_job_run($1, $2)", &[&job_id, &token]).await.unwrap().get(0);
    assert_eq!(done["refused"], false, "{done}");
    Some(job.get("job_kind"))
}

/// What the view shows of the one record: its state, and which moments it has reached.
async fn shown(client: &Object) -> (String, String) {
    let shown = "select lifecycle_status, concat_ws(' ',
          case when approved_at >= created_at then 'approved' end, case when consumed_at >= approved_at then 'consumed' end,
          case when cleaned_at >= consumed_at then 'cleaned' end)
        from v_iu_staging_record";
    let row = client.query_one(shown, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// What `v_queue_health` says is ill, and how many jobs of the worker's kind are due.
async fn health(client: &Object) -> (Option<String>, i64) {
    let health =
        "select string_agg(component || ' ' || name, ', ') filter (where status_hint in ('stale', 'never')),
          (sum(value) filter (where (component, name) = ('backlog', 'PG_worker')))::bigint
        from v_queue_health";
    let row = client.query_one(health, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn phase_5_gate_one_cycle_runs_from_approval_to_clean_up_without_a_hand_on_cut() {
    let (db, mut client) = with_host().await;
    db.open_gates().await;
    let files = sync::read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("consumers")).unwrap();
    let plan = sync::plan(&client, &files, sync::Options::default()).await.unwrap();
    sync::apply(&mut client, &plan, Some("tester"), sync::Options::default()).await.unwrap();
    let register =
        "select fn_queue_heartbeat_register('pilot-worker', 'PG_worker', array['staging'], 60, 300, '{}')";
    client.query_one(register, &[]).await.unwrap();

    let marker = "unmistakable-sentence-of-the-document";
    let record = mark(&client, &format!("# Letter\n\n{marker}\n"), "letter").await;
    assert_eq!(step(&client).await, None, "nothing runs before the approval");
    let seen = |state: &str, reached: &str| (state.to_owned(), reached.to_owned());
    assert_eq!(shown(&client).await, seen("pending_review", ""));
    approve(&client, record).await;
    let mut kinds = Vec::new();
    let mut states = vec![shown(&client).await];
    while let Some(kind) = step(&client).await {
        kinds.push(kind);
        states.push(shown(&client).await);
        assert_eq!(health(&client).await.0, None, "nothing is ill on the way");
    }
    assert_eq!(kinds, ["cut.cut", "cut.verify_cut", "cut.cleanup"]);
    // every move is visible, in v_iu_staging_record and v_queue_health
    let all = [
        seen("approved", "approved"),
        seen("consumed", "approved consumed"),
        seen("consumed", "approved consumed"),
        seen("cleaned", "approved consumed cleaned"),
    ];
    assert_eq!(states, all);
    assert_eq!(health(&client).await, (None, 0));
    let end = standing(&client, record).await;
    assert_eq!(
        (end.lifecycle_status.as_str(), end.verdict.as_deref(), end.staged_bytes),
        ("cleaned", Some("verified"), 0)
    );

    // one story, told by one id, and not a word of the text in it
    let correlations = "select count(distinct correlation_id) from
        (select correlation_id from event_outbox union all select correlation_id from job_queue) c";
    assert_eq!(value::<i64>(&client, correlations).await, 1);
    let leaks = format!(
        "select (select count(*) from event_outbox e where e::text like '%{marker}%')
        + (select count(*) from job_queue j where j::text like '%{marker}%')
        + (select count(*) from v_iu_staging_record r where r::text like '%{marker}%')"
    );
    assert_eq!(value::<i64>(&client, &leaks).await, 0);
    // the terminal consumer wants the end of it, and makes no job
    let seen = consumers::Subject::Stored("mark_cut.cleaned".to_owned());
    let seen = consumers::preview(&client, &seen, None, 100).await.unwrap();
    assert_eq!(seen.iter().filter(|one| one.reason == "terminal").count(), 1);
    let results = "select count(*) from job_queue where status = 'succeeded' and result_ref is not null";
    assert_eq!(value::<i64>(&client, results).await, 3);
}

#[tokio::test]
async fn removing_the_host_leaves_nothing_behind_and_loses_nothing() {
    let db = TestDb::new().await;
    let client = db.pool(1).get().await.unwrap();
    let catalog = "select string_agg(x, e'\\n' order by x) from (
        select 'class ' || oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace
        union all select 'function ' || oid::regprocedure::text from pg_proc where pronamespace = 'public'::regnamespace
        union all select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_'
        union all select 'handler ' || job_kind from job_handler
        union all select 'type ' || event_domain || '.' || event_type from event_type_registry) c (x)";
    let before: String = value(&client, catalog).await;
    pilot_host::install(&client).await.unwrap();
    let twice = pilot_host::install(&client).await.unwrap_err();
    assert_eq!(twice.sqlstate(), Some("42P06"));
    let closed = pilot_host::mark_file(&client, "text", "doc", "tester").await.unwrap();
    assert!(matches!(closed, Answer::Refused(_)), "its gates begin closed");

    pilot_host::open_gates(&client, 15).await.unwrap();
    mark(&client, "text", "doc").await;
    assert_eq!(
        pilot_host::remove(&client).await.unwrap_err().sqlstate(),
        Some("55000"),
        "it holds a document"
    );
    client
        .batch_execute("truncate iu_core.iu_staging_record cascade; delete from event_outbox")
        .await
        .unwrap();
    pilot_host::remove(&client).await.unwrap();
    assert_eq!(value::<String>(&client, catalog).await, before);
}

#[tokio::test]
async fn the_host_lives_beside_reveille_in_any_schema() {
    let db = TestDb::empty().await;
    let schema = "Odd \"schema\"; é";
    let migrated = output(
        reveille(&["migrate", "up"]).env("DATABASE_URL", db.url()).env("REVEILLE__DATABASE__SCHEMA", schema),
    );
    assert_eq!(migrated.0, Some(0), "{migrated:?}");
    let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
    let client = db.pool(1).get().await.unwrap();
    client.batch_execute(&format!("set search_path to {quoted}")).await.unwrap();
    pilot_host::install(&client).await.unwrap();
    pilot_host::open_gates(&client, 0).await.unwrap();
    let record = mark(&client, "# A\n\ntext\n", "doc").await;
    approve(&client, record).await;

    // a worker's session may look elsewhere: the handler is named with its schema
    let handler: String = value(&client, "select handler from job_handler where job_kind = 'cut.cut'").await;
    client.batch_execute("set search_path to pg_temp").await.unwrap();
    let call = format!("select {}($1)", handler.trim_end_matches("(jsonb)"));
    let job = json!({ "source_ref": record, "lease_owner": "worker" });
    let answer: Value = client.query_one(&call, &[&job]).await.unwrap().get(0);
    assert_eq!(answer["lifecycle_status"], "consumed", "{answer}");
}
