//! Who may run work, and how their silence is seen.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{SOON, Sidecar, TestDb, open_gates, polling, wait_until};

const KINDS: [&str; 7] =
    ["DOT", "Agent", "Hermes", "Codex", "PG_worker", "external_worker", "future_Kestra_adapter"];

/// Whether the three places that name a kind of executor take it.
async fn accepted(client: &Client, kind: &str) -> [bool; 3] {
    let statements = [
        "insert into job_queue (job_kind, actor, idempotency_key, executor)
         values ('test', 'test', gen_random_uuid()::text, $1::text)",
        "insert into consumer_registry (consumer_key, event_domain, job_kind, executor)
         values (gen_random_uuid()::text, 'iu', 'test', $1::text)",
        "insert into queue_heartbeat (executor_name, executor_kind) values (gen_random_uuid()::text, $1::text)",
    ];
    let mut accepted = [false; 3];
    for (statement, accepted) in statements.into_iter().zip(&mut accepted) {
        *accepted = client.execute(statement, &[&kind]).await.is_ok();
    }
    accepted
}

/// The first row of a claim: refused and reason, or the kind of the job's executor.
async fn claim(client: &Client, name: &str) -> Option<(bool, String)> {
    let claim = "select refused, coalesce(reason, executor) from fn_job_claim($1)";
    client.query_opt(claim, &[&name]).await.unwrap().map(|row| (row.get(0), row.get(1)))
}

#[tokio::test]
async fn executor_boundary_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    for kind in KINDS {
        assert_eq!(accepted(&client, kind).await, [true; 3], "{kind}");
    }
    for kind in
        ["MOT", "mot", "future_MOT_executor", "pg_worker", "PG_WORKER", "agent", "human", "", " Agent"]
    {
        assert_eq!(accepted(&client, kind).await, [false; 3], "{kind:?}");
    }
    assert_eq!(claim(&client, "agent-1").await, Some((true, "executor_not_registered".into())));
    client.batch_execute("select fn_queue_heartbeat_register('agent-1', 'Agent')").await.unwrap();
    assert_eq!(claim(&client, "agent-1").await, Some((false, "Agent".into())));
    assert_eq!(claim(&client, "agent-1").await, None, "work of other kinds is not its own");
    let silence = "update queue_heartbeat set last_beat_at = now() - interval '1 day'";
    client.batch_execute(silence).await.unwrap();
    assert_eq!(claim(&client, "agent-1").await, Some((true, "executor_silent".into())));
}

#[tokio::test]
#[expect(non_snake_case, reason = "the invariant's name")]
async fn MOT_is_not_executor() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    for name in ["MOT", "mot", "Mot"] {
        let register = "select fn_queue_heartbeat_register($1, 'Agent')";
        assert!(client.execute(register, &[&name]).await.is_err(), "{name} does not register");
        let beat: Value =
            client.query_one("select fn_queue_heartbeat_tick($1)", &[&name]).await.unwrap().get(0);
        assert_eq!(beat["reason"], "executor_not_registered", "{name} does not beat");
        assert_eq!(
            claim(&client, name).await,
            Some((true, "executor_not_registered".into())),
            "{name} claims nothing"
        );
    }
    // nothing in the schema knows the word, but for the check that refuses it and a comment that says so
    let mentions = "
        select coalesce(array_agg(m order by m), '{}') from (
          select k.conname::text from pg_constraint k
          where k.connamespace = current_schema()::regnamespace and pg_get_constraintdef(k.oid) ~* '\\mmot\\M'
          union all
          select p.oid::regprocedure::text from pg_proc p
          where p.pronamespace = current_schema()::regnamespace and p.prokind <> 'a'
            and (p.proname ~* 'mot_step|execute' or pg_get_functiondef(p.oid) ~* '\\mmot\\M')
          union all
          select a.attrelid::regclass || '.' || a.attname from pg_attribute a
          join pg_class c on c.oid = a.attrelid
          where c.relnamespace = current_schema()::regnamespace and a.attname ~* '(^|_)mot(_|$)'
        ) x (m)";
    let mentions: Vec<String> = client.query_one(mentions, &[]).await.unwrap().get(0);
    assert_eq!(
        mentions,
        [
            "fn_legacy_workers()",
            "fn_mot_graph_errors(text,jsonb,jsonb,jsonb)",
            "queue_heartbeat_executor_name_check"
        ],
        "they keep it out"
    );
}

/// Beats of the executors of a kind of role.
async fn beats(client: &Client) -> i64 {
    let beats = "select coalesce(sum(beats_total), 0)::bigint from queue_heartbeat";
    client.query_one(beats, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn silent_gap_heartbeat_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let mut settings = polling(&database);
    settings.maintenance.heartbeat_interval = std::time::Duration::from_secs(1);
    settings.maintenance.executor_name = "dispatcher-1".into(); // a given name stays when its process has ended
    // all gates are closed and there is nothing to do
    let sidecar = Sidecar::start(settings);
    wait_until("its parts beat, idle and gated", SOON, async || beats(&client).await >= 6).await;
    let row =
        "select distinct executor_kind, expected_cadence_seconds, last_beat_status from queue_heartbeat";
    let row = client.query_one(row, &[]).await.unwrap();
    let (kind, cadence): (String, i32) = (row.get(0), row.get(1));
    assert_eq!((kind.as_str(), cadence), ("PG_worker", 1), "on a documented cadence");
    sidecar.stop().await;
    let silence = "update queue_heartbeat set last_beat_at = now() - interval '1 day'";
    client.batch_execute(silence).await.unwrap();
    let hint =
        "select string_agg(distinct status_hint, ' ') from v_queue_health where component = 'executor'";
    assert_eq!(client.query_one(hint, &[]).await.unwrap().get::<_, String>(0), "stale");
}
