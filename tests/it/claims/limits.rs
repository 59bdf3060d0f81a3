//! Limits of kinds and keys, exact also under kills, without one hot row.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::stage::{Stage, claim};
use crate::support::heard;

async fn fill(stage: &Stage, kind: &str, count: i32) {
    let fill = "insert into job_queue (job_kind, actor, idempotency_key, source_ref)
        select $1::text, 'test', n::text, $1::text from generate_series(1, $2::int) n";
    stage.client.execute(fill, &[&kind, &count]).await.unwrap();
}

#[tokio::test]
async fn no_more_of_a_kind_run_than_its_limit_and_the_rest_of_the_claim_goes_to_others() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "3").await;
    fill(&stage, "limited", 10).await;
    fill(&stage, "free", 10).await;
    let jobs = stage.claim(10).await;
    let limited: Vec<_> = jobs.iter().filter(|job| job.name == "limited").collect();
    assert_eq!((jobs.len(), limited.len()), (10, 3));
    assert!(stage.names(10).await.iter().all(|name| name == "free"));
    let reason = "select reason from v_job_queue_backlog where job_kind = 'limited'";
    assert_eq!(stage.value(reason, &[]).await, "concurrency_limit: 3 of 3 run");
    stage.succeed(limited[0]).await;
    stage.value("select fn_job_release($1, $2)", &[&limited[1].id, &limited[1].token]).await;
    assert_eq!(stage.names(10).await, ["limited", "limited"]);
}

#[tokio::test]
async fn the_place_of_a_worker_that_was_killed_is_free_again_when_its_lease_was_reaped() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "1").await;
    stage.set("queue.lease_reaper.enabled", "true").await;
    stage.set("queue.lease_reaper.dry_run_only", "false").await;
    fill(&stage, "limited", 2).await;
    assert_eq!(stage.claim(5).await.len(), 1);
    stage
        .client
        .batch_execute("update job_queue set lease_until = clock_timestamp() where lease_until is not null")
        .await
        .unwrap();
    assert_eq!(stage.claim(5).await.len(), 0, "it may still run: nobody has said that it does not");
    assert_eq!(stage.value("select fn_job_lease_reaper()", &[]).await["found"], 1);
    assert_eq!(stage.claim(5).await.len(), 1);
}

#[tokio::test]
async fn a_limit_holds_exactly_while_many_workers_claim_and_some_are_cut_off() {
    let stage = std::sync::Arc::new(Stage::open().await);
    stage.set("job.limited.concurrency_limit", "4").await;
    fill(&stage, "limited", 200).await;
    let mut tasks = JoinSet::new();
    for worker in 0..6 {
        let stage = stage.clone();
        tasks.spawn(async move {
            let client = stage.db.client().await;
            let name = format!("worker-{worker}");
            client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
            let mut most = 0;
            for turn in 0..60 {
                // every seventh claim is cut off before its commit: nothing of it may stay
                let cut = turn % 7 == 6;
                if cut {
                    client.batch_execute("begin").await.unwrap();
                }
                let jobs = claim(&client, &name, 3).await;
                if cut {
                    client.batch_execute("rollback").await.unwrap();
                    continue;
                }
                let running = "select count(*) from job_queue where lease_until is not null";
                most = most.max(client.query_one(running, &[]).await.unwrap().get::<_, i64>(0));
                for job in jobs {
                    client.execute("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await.unwrap();
                }
            }
            most
        });
    }
    let mut most = 0;
    while let Some(seen) = tasks.join_next().await {
        most = most.max(seen.unwrap());
    }
    assert!((1..=4).contains(&most), "at most four at a time, {most} seen");
    assert!(
        stage.value("select count(*) from job_queue where status = 'succeeded'", &[]).await.as_i64().unwrap()
            > 50
    );
}

#[tokio::test]
async fn a_limit_is_walled_by_the_table_itself() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "2").await;
    fill(&stage, "limited", 3).await;
    assert_eq!(stage.claim(5).await.len(), 2);
    let slots =
        "select jsonb_agg(limit_slot order by limit_slot) from job_queue where lease_until is not null";
    assert_eq!(stage.value(slots, &[]).await, json!([1, 2]));
    let twice = "update job_queue set limit_slot = 1 where lease_until is not null";
    let error = stage.client.batch_execute(twice).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("job_queue_limit_idx"));
}

#[tokio::test]
async fn a_rate_counts_claims_in_any_window_of_its_length() {
    let stage = Stage::open().await;
    stage.set("job.rated.rate_limit", "3/60").await;
    fill(&stage, "rated", 10).await;
    assert_eq!(
        (stage.claim(2).await.len(), stage.claim(2).await.len(), stage.claim(2).await.len()),
        (2, 1, 0)
    );
    let reason = "select reason from v_job_queue_backlog";
    assert_eq!(stage.value(reason, &[]).await, "rate_limit: 3 begun of 3/60");
    // the first two are a minute ago, the third is not
    let first = "update job_rate set claimed_at = claimed_at - interval '61 seconds' where jobs = 2";
    stage.client.batch_execute(first).await.unwrap();
    assert_eq!(stage.claim(5).await.len(), 2);
}

#[tokio::test]
async fn a_claim_that_was_rolled_back_does_not_count_towards_the_rate() {
    let stage = Stage::open().await;
    stage.set("job.rated.rate_limit", "2/60").await;
    fill(&stage, "rated", 10).await;
    stage.client.batch_execute("begin").await.unwrap();
    assert_eq!(stage.claim(5).await.len(), 2);
    stage.client.batch_execute("rollback").await.unwrap();
    assert_eq!(stage.claim(5).await.len(), 2);
}

#[tokio::test]
async fn the_rate_of_a_key_puts_off_that_key_alone() {
    let stage = Stage::open().await;
    stage.set("job.mail.key_rate_limit", "1/60").await;
    stage.set("job.mail.key_concurrency_limit", "5").await;
    for (name, key) in [("anna 1", "anna"), ("anna 2", "anna"), ("bert 1", "bert")] {
        stage.job("mail", name, json!({"ordering_key": key})).await;
    }
    assert_eq!(stage.names(10).await, ["anna 1", "bert 1"]);
    let put_off = "select scheduled_at between clock_timestamp() + interval '55 seconds' and clock_timestamp() + interval '61 seconds'
        from job_queue where source_ref = 'anna 2'";
    assert_eq!(stage.value(put_off, &[]).await, true);
    assert_eq!(stage.names(10).await, [""; 0]);
}

#[tokio::test]
async fn a_limit_that_cannot_be_read_lets_nothing_pass_and_says_so() {
    let stage = Stage::open().await;
    fill(&stage, "limited", 3).await;
    stage
        .client
        .batch_execute("insert into dot_config (key, value) values ('job.limited.concurrency_limit', 'many')")
        .await
        .unwrap();
    assert_eq!(stage.claim(5).await.len(), 0);
    let reason = "select reason from v_job_queue_backlog";
    assert_eq!(stage.value(reason, &[]).await, "concurrency_limit: 0 of many run");
    for (key, value) in [
        ("queue.worker.enabled", "open"),
        ("job.a.rate_limit", "5 a minute"),
        ("job.a.concurrency_limit", "many"),
        ("job.a.key_rate_limit", "1/0/3"),
    ] {
        let error = stage
            .client
            .execute("select fn_gate_set($1, $2, 'test', 'test')", &[&key, &value])
            .await
            .unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains(key), "{error:?}");
    }
    stage.set("job.limited.concurrency_limit", "2").await;
    stage.set("job.limited.rate_limit", "100/60").await;
    assert_eq!(stage.claim(5).await.len(), 2);
}

#[tokio::test]
async fn sleepers_are_woken_when_a_limited_kind_has_room_again() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "1").await;
    stage.set("queue.notify.bridge_enabled", "true").await;
    fill(&stage, "limited", 2).await;
    let job = stage.claim(1).await.pop().unwrap();
    let channels = ["job_wake_pg_worker"];
    heard(&stage.db.url(), &channels, channels[0], async || {
        assert_eq!(stage.succeed(&job).await["refused"], false);
    })
    .await;
}

#[tokio::test]
async fn what_the_rate_of_one_key_puts_off_leaves_its_room_to_others() {
    let stage = Stage::open().await;
    stage.set("job.mail.key_rate_limit", "1/60").await;
    stage.set("job.mail.key_concurrency_limit", "100").await;
    for n in 0..10 {
        stage.job("mail", &format!("anna {n}"), json!({"ordering_key": "anna", "priority": 10})).await;
    }
    stage.job("mail", "bert", json!({"ordering_key": "bert", "priority": 10})).await;
    stage.job("plain", "plain", json!({})).await;
    assert_eq!(stage.names(3).await, ["anna 0", "bert", "plain"]);
}

#[tokio::test]
async fn a_key_gets_as_many_turns_at_once_as_its_limit_allows() {
    let stage = Stage::open().await;
    stage.set("job.step.key_concurrency_limit", "40").await;
    for n in 0..60 {
        stage.job("step", &format!("{n:02}"), json!({"ordering_key": "k"})).await;
    }
    let first = stage.names(100).await;
    assert_eq!((first.len(), first[39].as_str()), (40, "39"));
}

#[tokio::test]
async fn what_counts_for_no_rate_any_more_is_pruned() {
    let stage = Stage::open().await;
    stage.set("job.rated.rate_limit", "5/7200").await;
    let claims = "insert into job_rate values ('rated', clock_timestamp() - interval '1 hour', 1), ('rated', clock_timestamp() - interval '3 hours', 1)";
    stage.client.batch_execute(claims).await.unwrap();
    assert_eq!(stage.value("select fn_job_rate_prune()", &[]).await, 1);
    assert_eq!(stage.value("select count(*) from job_rate", &[]).await, 1, "one still counts");
}

/// What `fn_gate_set` answers when it is to take a key away.
async fn take_away(stage: &Stage, key: &str) -> Value {
    stage.value("select fn_gate_set($1, null, 'user:me', 'not needed any more')", &[&key]).await
}

#[tokio::test]
async fn a_limit_that_is_taken_away_limits_no_more_and_the_audit_says_who_took_it() {
    let stage = Stage::open().await;
    for (limit, value) in [("concurrency_limit", "1"), ("rate_limit", "1/3600")] {
        let kind = limit.split('_').next().unwrap();
        let key = format!("job.{kind}.{limit}");
        stage.set(&key, value).await;
        fill(&stage, kind, 3).await;
        assert_eq!(stage.claim(5).await.len(), 1, "{limit}");
        let taken = json!({"refused": false, "key": key, "old_value": value, "value": null, "removed": true});
        assert_eq!(take_away(&stage, &key).await, taken);
        assert_eq!(stage.claim(5).await.len(), 2, "{limit}");
        let audit = "select jsonb_agg(jsonb_build_array(old_value, new_value, actor) order by audit_id)
            from dot_config_audit where key = $1";
        let flips = json!([[null, value, "test"], [value, null, "user:me"]]);
        assert_eq!(stage.value(audit, &[&key]).await, flips);
        assert_eq!(
            take_away(&stage, &key).await,
            json!({"refused": true, "reason": "not_found", "key": key})
        );
        assert_eq!(stage.value(audit, &[&key]).await, flips, "nothing was there to be taken away");
    }
}

#[tokio::test]
async fn a_gate_that_is_taken_away_is_closed_and_everybody_hears_of_it() {
    let stage = Stage::open().await;
    fill(&stage, "any", 1).await;
    heard(&stage.db.url(), &["queue_control"], "queue_control", async || {
        take_away(&stage, "queue.worker.enabled").await;
    })
    .await;
    let keys = "select count(*) from dot_config where key = 'queue.worker.enabled'";
    assert_eq!(stage.value(keys, &[]).await, 0);
    assert_eq!(stage.refusal(None).await, "worker_disabled");
    stage.set("queue.worker.enabled", "true").await;
    assert_eq!(stage.claim(5).await.len(), 1);
}
