//! Rules of the database itself, whoever calls.

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use super::shop::Shop;

async fn claim_refusal(shop: &Shop, name: &str) -> (bool, String) {
    let row = shop.client.query_one("select refused, reason from fn_job_claim($1)", &[&name]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn an_executor_that_is_not_registered_is_refused() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    assert_eq!(claim_refusal(&shop, "nobody").await, (true, "executor_not_registered".to_owned()));
    assert_eq!(shop.job(id).await["status"], "queued");
}

#[tokio::test]
async fn an_executor_that_fell_silent_is_refused_until_it_beats() {
    let shop = Shop::open().await;
    shop.enqueue("any").await;
    let silent = "select fn_queue_heartbeat_register('quiet', 'PG_worker');
        update queue_heartbeat set last_beat_at = clock_timestamp() - interval '301 seconds'";
    shop.client.batch_execute(silent).await.unwrap();
    assert_eq!(claim_refusal(&shop, "quiet").await, (true, "executor_silent".to_owned()));
    shop.client.batch_execute("select fn_queue_heartbeat_tick('quiet')").await.unwrap();
    let refused: bool =
        shop.client.query_one("select refused from fn_job_claim('quiet')", &[]).await.unwrap().get(0);
    assert!(!refused);
}

#[tokio::test]
async fn a_name_that_another_role_owns_is_refused() {
    let shop = Shop::open().await;
    let role = format!("thief_{}", uuid::Uuid::new_v4().simple());
    let begin = format!(
        "select fn_queue_heartbeat_register('mine', 'PG_worker');
         create role {role}; grant execute on all functions in schema public to {role};
         set session authorization {role}"
    );
    shop.client.batch_execute(&begin).await.unwrap();
    assert_eq!(claim_refusal(&shop, "mine").await, (true, "not_owner".to_owned()));
    for sql in
        ["select fn_queue_heartbeat_tick('mine')", "select fn_queue_heartbeat_register('mine', 'PG_worker')"]
    {
        let answer = shop.value(sql, &[]).await;
        assert_eq!((&answer["refused"], &answer["reason"]), (&true.into(), &"not_owner".into()), "{sql}");
    }
    let end = format!("reset session authorization; drop owned by {role}; drop role {role}");
    shop.client.batch_execute(&end).await.unwrap();
}

#[tokio::test]
async fn closed_gates_refuse_by_name() {
    let shop = Shop::open().await;
    shop.set("queue.worker.enabled", "false").await;
    assert_eq!(claim_refusal(&shop, "any").await, (true, "worker_disabled".to_owned()));
    shop.set("queue.job_substrate.enabled", "false").await;
    assert_eq!(claim_refusal(&shop, "any").await, (true, "job_substrate_disabled".to_owned()));
    let answer = shop.value("select fn_job_enqueue('any', 'test')", &[]).await;
    assert_eq!(answer["reason"], "job_substrate_disabled");
}

const STATUSES: [&str; 9] = reveille::model::job::STATUSES;

/// The moves of the contract.
fn is_legal(from: &str, to: &str) -> bool {
    let to_of: &[&str] = match from {
        "queued" | "retry_waiting" => &["leased", "cancelled"],
        "leased" => &["in_progress", "queued", "succeeded", "failed", "cancelled"],
        "in_progress" => &["succeeded", "failed", "queued", "cancelled"],
        "failed" => &["retry_waiting", "dead_letter", "cleaned"],
        "dead_letter" => &["queued", "cleaned"],
        "succeeded" | "cancelled" => &["cleaned"],
        _ => &[],
    };
    from == to || to_of.contains(&to)
}

#[tokio::test]
async fn an_illegal_move_is_refused_also_for_the_tables_owner() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let become_ = "update job_queue set status = $2::text,
        lease_until = case when $2 in ('leased', 'in_progress') then clock_timestamp() end,
        finished_at = case when $2 in ('succeeded', 'failed', 'dead_letter', 'cancelled', 'cleaned') then clock_timestamp() end
        where job_id = $1";
    let become_ = shop.client.prepare(become_).await.unwrap();
    for from in STATUSES {
        for to in STATUSES {
            shop.client.batch_execute("set session_replication_role = replica").await.unwrap();
            shop.client.execute(&become_, &[&id, &from]).await.unwrap();
            shop.client.batch_execute("reset session_replication_role").await.unwrap();
            let moved = shop.client.execute(&become_, &[&id, &to]).await;
            match moved {
                Ok(_) => assert!(is_legal(from, to), "{from} → {to} was let through"),
                Err(error) => {
                    assert!(!is_legal(from, to), "{from} → {to} was refused: {error:?}");
                    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION));
                    assert!(error.as_db_error().unwrap().message().contains("illegal_transition"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_job_begins_as_queued_and_as_nothing_else() {
    let shop = Shop::open().await;
    for status in STATUSES {
        let insert =
            "insert into job_queue (job_kind, actor, idempotency_key, status, lease_until, finished_at)
            values ('any', 'test', $1::text, $1, case when $1 in ('leased', 'in_progress') then now() end,
              case when $1 in ('succeeded', 'failed', 'dead_letter', 'cancelled', 'cleaned') then now() end)";
        let inserted = shop.client.execute(insert, &[&status]).await;
        assert_eq!(inserted.is_ok(), status == "queued", "{status}: {inserted:?}");
    }
}

#[tokio::test]
async fn a_second_enqueue_of_the_same_kind_and_key_answers_the_first_job() {
    let shop = Shop::open().await;
    let sql = "select fn_job_enqueue($1, 'test', p_idempotency_key => $2)";
    let first = shop.value(sql, &[&"one", &"key"]).await;
    let second = shop.value(sql, &[&"one", &"key"]).await;
    assert_eq!((&first["created"], &second["created"]), (&true.into(), &false.into()));
    assert_eq!(first["job_id"], second["job_id"]);
    assert_eq!(shop.value(sql, &[&"two", &"key"]).await["created"], true);
    let fresh = "select fn_job_enqueue('one', 'test')";
    assert_ne!(shop.value(fresh, &[]).await["job_id"], shop.value(fresh, &[]).await["job_id"]);
}

#[tokio::test]
async fn two_enqueues_of_one_key_at_once_make_one_job() {
    let shop = Shop::open().await;
    let mut other = shop.db.client().await;
    let sql = "select fn_job_enqueue('one', 'test', p_idempotency_key => 'key')";
    let transaction = other.transaction().await.unwrap();
    let first: Value = transaction.query_one(sql, &[]).await.unwrap().get(0);
    let (second, ()) = tokio::join!(shop.value(sql, &[]), async { transaction.commit().await.unwrap() });
    assert_eq!((&first["created"], &second["created"]), (&true.into(), &false.into()));
    assert_eq!(first["job_id"], second["job_id"]);
}

#[tokio::test]
async fn denied_keys_are_refused_at_any_depth_and_words_in_values_are_not_keys() {
    let shop = Shop::open().await;
    let sql = "select fn_job_enqueue('any', 'test', $1)";
    let denied = [
        "body",
        "content",
        "raw",
        "vector",
        "embedding",
        "secret",
        "token",
        "password",
        "ssn",
        "personal_data",
    ];
    for key in denied {
        for payload in [
            json!({ key: 1 }),
            json!({ "a": { "b": [1, { "c": { key: null } }] } }),
            json!({ "a": 1, key.to_uppercase(): {} }),
            json!({ "list": [[{ key: [] }]] }),
        ] {
            let error = shop.client.query_one(sql, &[&payload]).await.unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{payload}");
        }
    }
    for payload in [
        json!({ "note": "the \"body\": of the matter", "tokens": 3, "body_ref": "doc:1", "x": ["password", "secret"] }),
        json!({ "note": "{\"body\": 1}" }),
        json!({}),
    ] {
        assert_eq!(shop.value(sql, &[&payload]).await["created"], true, "{payload}");
    }
    for no_object in [json!([]), json!("text"), json!(1), json!({ "long": "x".repeat(16_400) })] {
        let error = shop.client.query_one(sql, &[&no_object]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{no_object}");
    }
}

#[tokio::test]
async fn a_key_of_8_kb_keeps_its_meaning() {
    let shop = Shop::open().await;
    let sql = "select fn_job_enqueue('any', 'test', p_source_ref => $1, p_idempotency_key => $1)";
    let key = "ключ\"'☃".repeat(1000);
    let first = shop.value(sql, &[&key]).await;
    assert_eq!(first["created"], true);
    assert_eq!(shop.value(sql, &[&key]).await["job_id"], first["job_id"]);
    assert_eq!(shop.value(sql, &[&format!("{key}!")]).await["created"], true);
    let id = first["job_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(shop.job(id).await["source_ref"], key);
}

#[tokio::test]
async fn the_most_urgent_job_comes_first_and_a_scheduled_one_not_before_its_time() {
    let shop = Shop::open().await;
    let enqueue =
        "select fn_job_enqueue($1, 'test', p_priority => $2, p_scheduled_at => now() + $3::text::interval)";
    for (kind, priority, due) in [
        ("later", 0, "1 hour"),
        ("second", 5, "-1 minute"),
        ("third", 5, "0"),
        ("first", 1, "0"),
        ("last", 100, "0"),
    ] {
        shop.value(enqueue, &[&kind, &priority, &due]).await;
    }
    shop.client.batch_execute("select fn_queue_heartbeat_register('one', 'PG_worker')").await.unwrap();
    let claim = "select job_kind from fn_job_claim('one', 10) order by priority, scheduled_at, job_id";
    let rows = shop.client.query(claim, &[]).await.unwrap();
    let kinds: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(kinds, ["first", "second", "third", "last"]);
}
