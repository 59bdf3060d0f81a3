//! Which collection to begin with: few events, few failures, much that can be undone.

use reveille::store::pilot_host;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::commands::{json as command, words};
use crate::readme::follow;
use crate::support::{Outbox, TestDb};

/// So many facts of `staging` of a type, in a collection, so many days ago.
async fn facts(client: &Client, event_type: &str, collection: &str, count: i32, days: i32) {
    let insert = "
        insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload, created_at)
        select 'staging', $1, 'update', 'delayed', n::text, jsonb_build_object('collection', $2::text),
               clock_timestamp() - make_interval(days => $4)
        from generate_series(1, $3) n";
    client.execute(insert, &[&event_type, &collection, &count, &days]).await.unwrap();
}

/// The answer of the command.
fn ranked(db: &TestDb, more: &[&str]) -> Vec<Value> {
    let arguments = [&["consumers", "pilot"], more].concat();
    let (code, answer, error) = command(db, &arguments);
    assert_eq!(code, Some(0), "{error}");
    answer.as_array().unwrap().clone()
}

fn collections(ranked: &[Value]) -> Vec<&str> {
    ranked.iter().map(|one| one["collection"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_quiet_collection_whose_work_can_be_undone_comes_before_a_loud_one_that_fails() {
    let outbox = Outbox::open().await;
    outbox.consumer("cut", "staging", json!({"event_type": "approved", "job_kind": "cut.cut"})).await;
    outbox.consumer("mark", "staging", json!({"event_type": "made", "job_kind": "mark.draft"})).await;
    outbox.consumer("seen", "staging", json!({"event_type": "cleaned", "job_kind": null})).await;
    let client = &outbox.client;
    client.batch_execute("update consumer_registry set starts_at = '-infinity'").await.unwrap();
    facts(client, "approved", "laws", 40, 1).await;
    facts(client, "made", "governance", 6, 2).await;
    facts(client, "cleaned", "governance", 2, 2).await;
    facts(client, "approved", "notes", 20, 3).await;
    facts(client, "made", "single", 1, 1).await;
    facts(client, "made", "old", 9, 60).await;
    outbox.answer("fn_consumer_dispatch_batch('staging', 1000)").await;
    let fail = "
        select fn_gate_set('job.mark.draft.reversible', 'true', 'test', 'a draft is thrown away');
        update job_queue set error_count = 2
        where causation_event_id in (select id from event_outbox where safe_payload ->> 'collection' = 'laws');
        insert into dispatch_error (event_id, consumer_key, event_domain, sqlstate, message)
        select id, 'cut', 'staging', '22004', 'test' from event_outbox where safe_payload ->> 'collection' = 'notes' limit 1";
    client.batch_execute(fail).await.unwrap();

    let all = ranked(&outbox.db, &[]);
    assert_eq!(
        collections(&all),
        ["governance", "notes", "laws", "single"],
        "and what is older than 30 days is not looked at"
    );
    let best = &all[0];
    assert_eq!(
        (&best["events"], &best["jobs"], &best["failures_per_event"]),
        (&json!(8), &json!(6), &json!(0.0))
    );
    assert_eq!((&best["reversible"], &best["irreversible_kinds"]), (&json!(1.0), &json!([])));
    let laws = &all[2];
    assert_eq!((&laws["failed_attempts"], &laws["failures_per_event"]), (&json!(80), &json!(2.0)));
    assert_eq!((&laws["reversible"], &laws["irreversible_kinds"]), (&json!(0.0), &json!(["cut.cut"])));
    assert_eq!((&all[1]["dispatch_errors"], &all[1]["failures_per_event"]), (&json!(1), &json!(0.05)));
    assert_eq!(
        (&all[3]["enough"], &all[3]["place"]),
        (&json!(false), &json!(4)),
        "one event teaches nothing"
    );
    assert!(collections(&ranked(&outbox.db, &["--since", "90days"])).contains(&"old"));
    assert_eq!(collections(&ranked(&outbox.db, &["--limit", "1"])), ["governance"]);
    let (_, table, _) = words(&outbox.db, &["consumers", "pilot"]);
    assert!(
        table.contains("not reversible: cut.cut") && table.contains("too few events to learn from"),
        "{table}"
    );
    assert_eq!(outbox.count("select count(*) from job_queue").await, 76, "it only looked");
}

#[tokio::test]
async fn a_collection_is_what_the_payload_names_else_the_address_else_the_table_else_the_domain() {
    let outbox = Outbox::open().await;
    let insert = "
        insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, canonical_address, event_subject_table, safe_payload)
        values ('iu', 'x', 'update', 'delayed', 'law/45/2', 'pages', '{\"collection\": \"c\", \"shelf\": \"s\"}'),
               ('iu', 'x', 'update', 'delayed', 'law/45/2', 'pages', '{}'), ('iu', 'x', 'update', 'delayed', null, 'pages', '{}'),
               ('iu', 'x', 'update', 'delayed', null, null, '{}')";
    outbox.client.batch_execute(insert).await.unwrap();
    let pairs = |all: &[Value]| {
        let pair = |one: &Value| {
            [&one["collection"], &one["grouped_by"]].map(|word| word.as_str().unwrap().to_owned()).join(" ")
        };
        all.iter().map(pair).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&ranked(&outbox.db, &[])), ["c payload", "iu domain", "law address", "pages table"]);
    let shelves = pairs(&ranked(&outbox.db, &["--collection-key", "shelf"]));
    assert_eq!(shelves, ["iu domain", "law address", "pages table", "s payload"]);
    outbox
        .client
        .batch_execute("select fn_gate_set('queue.pilot.collection_key', 'shelf', 'test', 'test')")
        .await
        .unwrap();
    assert_eq!(pairs(&ranked(&outbox.db, &[])), shelves);
    assert!(ranked(&outbox.db, &[]).iter().all(|one| one["reversible"].is_null()), "nothing follows");
}

#[tokio::test]
async fn the_documents_of_the_pilot_host_belong_to_their_folders() {
    let db = TestDb::new().await;
    let client = db.pool(1).get().await.unwrap();
    pilot_host::install(&client).await.unwrap();
    pilot_host::open_gates(&client, 0).await.unwrap();
    for name in ["laws/45.md", "laws/46.md", "loose.md"] {
        pilot_host::mark_file(&client, "# A\n\ntext\n", name, "tester").await.unwrap().done("MARK").unwrap();
    }
    let all = ranked(&db, &[]);
    assert_eq!(collections(&all), ["iu_core.iu_staging_record", "laws"]);
    assert_eq!(all[1]["events"], 2);
}

#[tokio::test]
async fn a_dead_letter_counts_also_when_its_job_has_left_for_the_archive() {
    let outbox = Outbox::open().await;
    outbox.consumer("cut", "staging", json!({"job_kind": "cut.cut"})).await;
    outbox.client.batch_execute("update consumer_registry set starts_at = '-infinity'").await.unwrap();
    facts(&outbox.client, "approved", "laws", 1, 0).await;
    outbox.answer("fn_consumer_dispatch_batch('staging', 10)").await;
    let die = "
        select fn_queue_heartbeat_register('desk-1', 'PG_worker');
        with c as materialized (select job_id, lease_token from fn_job_claim('desk-1')) select fn_job_start(job_id, lease_token) from c;
        select fn_job_fail_permanent(job_id, lease_token, 'no') from job_queue;
        select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test');
        select fn_job_dead_letter_triage(dead_letter_id, 'discarded', session_user::text, 'test') from job_dead_letter;
        select fn_job_archive(10, false, p_now => clock_timestamp() + interval '1 day')";
    outbox.client.batch_execute(die).await.unwrap();
    let one = ranked(&outbox.db, &[]).remove(0);
    assert_eq!((&one["dead_letters"], &one["failed_attempts"]), (&json!(1), &json!(1)), "{one}");
}

#[tokio::test]
async fn a_reader_may_not_look_into_payloads_by_way_of_the_rank() {
    let outbox = Outbox::open().await;
    let may = "select has_function_privilege('reveille_reader', 'fn_consumer_pilot(timestamptz, int, text, timestamptz)', 'execute')";
    assert!(!outbox.client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
    let error = outbox.client.query("select * from fn_consumer_pilot(p_limit => 0)", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22023");
    let error = outbox
        .client
        .query("select fn_gate_set('job.cut.cut.reversible', 'yes', 'test', 'test')", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22023");
}

#[tokio::test]
async fn every_command_of_the_runbook_about_the_pilot_collection_is_accepted() {
    let db = TestDb::new().await;
    let client = db.pool(1).get().await.unwrap();
    pilot_host::install(&client).await.unwrap();
    let consumers = include_str!("../../consumers/mark_cut.cut.toml");
    let folder = crate::support::Folder::open_to_all();
    std::fs::write(folder.path().join("mark_cut.cut.toml"), consumers).unwrap();
    let page = include_str!("../../docs/runbooks/pilot-collection.md");
    assert!(page.lines().count() <= 80, "a runbook is short");
    follow(&db, &page.replace(" consumers/", &format!(" {}/", folder.path().display()))).await;
    let enabled = "select count(*) from consumer_registry where enabled and filter is not null";
    assert_eq!(client.query_one(enabled, &[]).await.unwrap().get::<_, i64>(0), 1);
}
