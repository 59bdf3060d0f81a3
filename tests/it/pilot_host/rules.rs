//! What must not happen to a document, and what must not happen twice.

use reveille::model::refusal::Answer;
use reveille::store::pilot_host;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{approve, cut, mark, sqlstate, standing, value, with_host};

#[tokio::test]
async fn every_step_done_twice_is_done_once() {
    let (_db, client) = with_host().await;
    let record = mark(&client, "# Letter\n\nDear reader,\n", "letter").await;
    assert_eq!(mark(&client, "# Letter\n\nDear reader,\n", "letter").await, record);
    approve(&client, record).await;
    approve(&client, record).await;
    cut(&client, record).await;
    cut(&client, record).await;
    for _ in 0..2 {
        let sql = format!("select fn_iu_job_cleanup('{{\"source_ref\": \"{record}\"}}')");
        assert_eq!(value::<Value>(&client, &sql).await["ok"], true);
    }
    approve(&client, record).await; // still what was decided
    let events: String =
        value(&client, "select string_agg(event_type, ' ' order by created_at) from event_outbox").await;
    assert_eq!(events, "record_created record_approved record_consumed record_cleaned");
    assert_eq!(value::<i64>(&client, "select count(*) from iu_core.iu_cut_run").await, 1);

    // another text under the same key is not the same document
    let sql = "select fn_iu_op_mark_file($1, 'a', p_idempotency_key => 'key')";
    client.query_one(sql, &[&"one"]).await.unwrap();
    let answer: Value = client.query_one(sql, &[&"two"]).await.unwrap().get(0);
    assert_eq!(answer["reason"], "idempotency_conflict");
}

#[tokio::test]
async fn many_who_mark_the_same_document_make_one_record() {
    let (db, client) = with_host().await;
    let pool = db.pool(8);
    let marks = (0..8).map(|_| async {
        let client = pool.get().await.unwrap();
        mark(&client, "the same", "doc").await
    });
    let records = futures::future::join_all(marks).await;
    assert!(records.iter().all(|record| *record == records[0]), "{records:?}");
    assert_eq!(value::<i64>(&client, "select count(*) from event_outbox").await, 1);
}

#[tokio::test]
async fn illegal_moves_of_a_record_raise_for_anybody() {
    let (_db, client) = with_host().await;
    let record = mark(&client, "text", "doc").await;
    let to = |status: &str| {
        format!("update iu_core.iu_staging_record set lifecycle_status = '{status}', approved_at = now(), approval_doc_id = 'x',
                 consumed_at = now() where staging_record_id = '{record}'")
    };
    for status in ["consumed", "cleaned", "pending", "nonsense"] {
        assert_eq!(sqlstate(&client, &to(status)).await, "23514", "pending_review -> {status}");
    }
    client.batch_execute(&to("approved")).await.unwrap();
    for status in ["pending_review", "cleaned"] {
        assert_eq!(sqlstate(&client, &to(status)).await, "23514", "approved -> {status}");
    }
    let vector = format!(
        "update iu_core.iu_staging_record set vector_excluded = false where staging_record_id = '{record}'"
    );
    assert_eq!(sqlstate(&client, &vector).await, "23514");
    let born = "insert into iu_core.iu_staging_record (staging_kind, lifecycle_status, owner_actor, source_ref, source_kind, source_hash,
        source_bytes, piece_count, manifest_digest, idempotency_key, approved_at, approval_doc_id)
        values ('mark_manifest', 'approved', 'x', 'x', 'x', 'x', 0, 0, 'x', 'x', now(), 'x')";
    assert_eq!(sqlstate(&client, born).await, "23514", "born approved");
}

#[tokio::test]
async fn nothing_is_cut_that_was_not_approved_as_it_is() {
    let (_db, client) = with_host().await;
    let refused = async |record: Uuid| -> String {
        let answer: Value = value(&client, &format!("select fn_iu_op_cut('{record}', true, 'x')")).await;
        assert_eq!(answer["refused"], true, "{answer}");
        // a worker that runs the same as a job gets an error, and the job is not counted as done
        let job = format!("select fn_iu_job_cut('{{\"source_ref\": \"{record}\"}}')");
        let closed = answer["reason"].as_str().unwrap().starts_with("gate_closed");
        assert_eq!(sqlstate(&client, &job).await, if closed { "55000" } else { "22023" });
        answer["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(Uuid::nil()).await, "not_found");

    let record = mark(&client, "text", "waiting").await;
    assert_eq!(refused(record).await, "G2_not_approved");
    let answer = pilot_host::verify_mark(&client, record, true, " ", "tester").await.unwrap();
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason == "approval_doc_missing"));
    pilot_host::verify_mark(&client, record, false, "", "tester").await.unwrap().done("REJECT").unwrap();
    assert_eq!(refused(record).await, "G2_not_approved");
    let answer = pilot_host::verify_mark(&client, record, true, "DOC", "tester").await.unwrap();
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason == "invalid_transition"));

    let record = mark(&client, "text", "tampered").await;
    approve(&client, record).await;
    let tamper = format!(
        "update iu_core.iu_staging_payload set payload_text = 'tExt' where staging_record_id = '{record}' and part_name = 'source'"
    );
    client.batch_execute(&tamper).await.unwrap();
    assert_eq!(refused(record).await, "G7_not_what_was_approved");

    let record = mark(&client, "text", "late").await;
    approve(&client, record).await;
    let late = format!(
        "update iu_core.iu_staging_record set expires_at = now() - interval '1 s' where staging_record_id = '{record}'"
    );
    client.batch_execute(&late).await.unwrap();
    assert_eq!(refused(record).await, "G4_expired");

    client
        .batch_execute(
            "delete from tac_birth_gate_config where config_key = 'iu_core.staging_writes_enabled'",
        )
        .await
        .unwrap();
    assert_eq!(refused(record).await, "gate_closed:iu_core.staging_writes_enabled");
    let answer = pilot_host::mark_file(&client, "text", "closed", "tester").await.unwrap();
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason.starts_with("gate_closed")));
}

#[tokio::test]
async fn a_dry_run_of_cut_and_of_clean_up_changes_nothing() {
    let (_db, client) = with_host().await;
    let record = mark(&client, "text", "doc").await;
    approve(&client, record).await;
    let answer: Value = value(&client, &format!("select fn_iu_op_cut('{record}')")).await;
    assert_eq!((&answer["ok"], &answer["applied"]), (&json!(true), &json!(false)));
    assert_eq!(standing(&client, record).await.lifecycle_status, "approved");

    cut(&client, record).await;
    let preview = pilot_host::cleanup_dry_run(&client, 0, "tester").await.unwrap();
    assert_eq!((&preview["clean"], &preview["applied"]), (&json!(1), &json!(false)));
    assert_eq!(pilot_host::cleanup_dry_run(&client, 15, "tester").await.unwrap()["clean"], 0);
    let kept = standing(&client, record).await;
    assert!(kept.lifecycle_status == "consumed" && kept.staged_bytes > 0, "{kept:?}");
}

#[tokio::test]
async fn a_document_that_was_not_verified_is_never_cleaned() {
    let (_db, client) = with_host().await;
    let record = mark(&client, "text", "doc").await;
    approve(&client, record).await;
    let _: Value = value(&client, &format!("select fn_iu_op_cut('{record}', true)")).await;
    let clean = "select fn_iu_staging_cleanup(0, true, 'tester')";
    assert_eq!(value::<Value>(&client, clean).await["clean"], 0);

    // pieces that are not the document are found, and the document stays
    client.batch_execute("update iu_core.iu_piece set body = 'tExt'").await.unwrap();
    let run = standing(&client, record).await.run_id.unwrap();
    let answer: Value = value(&client, &format!("select fn_iu_op_verify_cut('{run}')")).await;
    assert_eq!(answer["reason"], "cut_not_verified");
    assert_eq!(answer["axes"], json!({ "A": true, "B": false, "C": false }));
    assert_eq!(value::<Value>(&client, clean).await["clean"], 0);
    assert!(standing(&client, record).await.staged_bytes > 0);
}

#[tokio::test]
async fn clean_up_expires_what_nobody_decided_and_archives_what_was_long_clean() {
    let (_db, client) = with_host().await;
    let record = mark(&client, "text", "doc").await;
    client
        .batch_execute("update iu_core.iu_staging_record set expires_at = now() - interval '20 days'")
        .await
        .unwrap();
    let clean = "select fn_iu_staging_cleanup(15, true, 'tester')";
    assert_eq!(value::<Value>(&client, clean).await["expire"], 1);
    assert_eq!(standing(&client, record).await.lifecycle_status, "expired");
    assert_eq!(value::<Value>(&client, clean).await["clean"], 1);
    client
        .batch_execute("update iu_core.iu_staging_record set cleaned_at = now() - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(value::<Value>(&client, clean).await["archive"], 1);
    assert_eq!(value::<Value>(&client, clean).await["archive"], 0);
}

#[tokio::test]
async fn a_scheduled_sweep_expires_cleans_and_archives_and_behind_the_closed_gate_only_counts() {
    let (_db, client) = with_host().await;
    let kind = "select handler from job_handler where job_kind = 'staging_cleanup_sweep'";
    assert!(value::<String>(&client, kind).await.ends_with("fn_iu_job_cleanup_sweep(jsonb)"));
    let record = mark(&client, "text", "doc").await;
    let overdue = "update iu_core.iu_staging_record set expires_at = now() - interval '1 day'";
    client.batch_execute(overdue).await.unwrap();
    let gate = |value: &str| {
        format!(
            "update tac_birth_gate_config set config_value = '{value}' where config_key = 'iu_core.retention_enabled'"
        )
    };
    client.batch_execute(&gate("false")).await.unwrap();
    let sweep = "select fn_iu_job_cleanup_sweep('{\"job_id\": \"1\"}')";
    let counted: Value = value(&client, sweep).await;
    assert_eq!((&counted["applied"], &counted["expire"]), (&json!(false), &json!(1)), "{counted}");
    assert_eq!(standing(&client, record).await.lifecycle_status, "pending_review");

    client.batch_execute(&gate("true")).await.unwrap();
    for (pass, status) in [("expire", "expired"), ("clean", "cleaned")] {
        assert_eq!(value::<Value>(&client, sweep).await[pass], 1, "{pass}");
        assert_eq!(standing(&client, record).await.lifecycle_status, status);
    }
    let long_clean = "update iu_core.iu_staging_record set cleaned_at = now() - interval '16 days'";
    client.batch_execute(long_clean).await.unwrap();
    assert_eq!(value::<Value>(&client, sweep).await["archive"], 1);
}
