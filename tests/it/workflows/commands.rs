//! `reveille workflows`: from a file to the last step, in words.

use crate::commands::{json, words};
use crate::support::{Folder, TestDb};

const TEMPLATE: &str = r#"
template_key = "pipeline"
description  = "Two steps and a gate"

[params]
type     = "object"
required = ["document"]
[params.properties.document]
type = "string"

[[nodes]]
key        = "mark"
job_kind   = "a.a"
source_ref = "{params.document}"

[[nodes]]
key  = "review"
type = "approval"

[[nodes]]
key      = "cut"
job_kind = "a.a"

[[edges]]
from = "mark"
to   = "review"
[[edges]]
from = "review"
to   = "cut"
"#;

async fn open() -> (TestDb, Folder, String) {
    let db = TestDb::new().await;
    db.open_gates().await;
    let begin = "
        select fn_queue_heartbeat_register('one', 'PG_worker');
        create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
        insert into job_handler (job_kind, handler) values ('a.a', 'nothing(jsonb)')";
    db.client().await.batch_execute(begin).await.unwrap();
    let folder = Folder::open_to_all();
    let file = folder.path().join("pipeline.toml");
    std::fs::write(&file, TEMPLATE).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (db, folder, file)
}

/// Runs the one job that is free.
async fn run_one(db: &TestDb) {
    let run = "select fn_job_succeed(job_id, lease_token, 'done:1') from fn_job_claim('one')";
    db.client().await.query_one(run, &[]).await.unwrap();
}

#[tokio::test]
async fn a_stranger_writes_a_template_looks_emits_approves_and_sees_it_end() {
    let (db, _folder, file) = open().await;
    assert_eq!(words(&db, &["workflows", "validate", &file]).1, "sound; pipeline@1\n");
    assert_eq!(
        words(&db, &["workflows", "templates"]).1,
        "no templates; `reveille workflows put FILE` writes one\n"
    );
    assert_eq!(words(&db, &["workflows", "put", &file]).1, "pipeline@1 is written\n");
    assert_eq!(words(&db, &["workflows", "put", &file]).1, "pipeline@1 was there already\n");
    let emit = ["workflows", "emit", "pipeline", "--param", "document=doc:1", "--correlation-id", "doc:1"];
    let (_, dry, _) = words(&db, &[&emit[..], &["--dry-run"]].concat());
    assert!(dry.starts_with("dry run: pipeline@1 would have 3 steps") && dry.contains("doc:1"), "{dry}");
    let (code, made, _) = json(&db, &emit);
    assert_eq!((code, &made["created"]), (Some(0), &true.into()));
    let id = made["workflow_id"].as_str().unwrap();
    run_one(&db).await;

    let (_, graph, _) = words(&db, &["workflows", "show", id]);
    for line in ["✓ mark", "○ review", "waits for approval", "· cut", "← review"] {
        assert!(graph.contains(line), "{line}: {graph}");
    }
    let (_, list, _) = words(&db, &["workflows", "list", "--status", "active"]);
    assert!(
        list.contains("pipeline@1") && list.contains("1 of 3") && list.contains("approval review"),
        "{list}"
    );
    let (_, seen, _) = words(&db, &["workflows", "approve", id, "review"]);
    assert!(seen.contains("mark: succeeded done:1"), "{seen}");
    let hash = seen.trim_end().rsplit(' ').next().unwrap();
    let (code, _, err) = words(&db, &["workflows", "approve", id, "review", "--effect", "other"]);
    assert!(code == Some(3) && err.contains("effect_changed") && err.contains("look again"), "{err}");
    assert_eq!(words(&db, &["workflows", "approve", id, "review", "--effect", hash]).1, "review approved\n");
    run_one(&db).await;
    assert!(
        words(&db, &["workflows", "show", id]).1.starts_with("pipeline@1 doc:1: succeeded, 3 of 3 steps")
    );
    let (_, mermaid, _) = words(&db, &["workflows", "show", id, "--mermaid"]);
    assert!(mermaid.starts_with("flowchart TD\n") && mermaid.contains("s1 --> s2"), "{mermaid}");
}

#[tokio::test]
async fn what_is_wrong_is_said_all_at_once_and_what_to_do() {
    let (db, folder, file) = open().await;
    let bad = folder.path().join("bad.json");
    std::fs::write(&bad, r#"{"template_key": "bad", "nodes": [{"key": "x", "job_kind": "no"}, {"key": "y", "job_kind": "nor"}]}"#).unwrap();
    let (code, _, err) = words(&db, &["workflows", "validate", bad.to_str().unwrap()]);
    assert_eq!(code, Some(3));
    assert!(
        err.contains("invalid_template") && err.contains("node x: nobody") && err.contains("node y: nobody"),
        "{err}"
    );
    std::fs::write(&bad, "{").unwrap();
    let (code, _, err) = words(&db, &["workflows", "put", bad.to_str().unwrap()]);
    assert!(code == Some(2) && err.contains("bad.json") && err.contains("line 1"), "{err}");
    let (code, _, err) = words(&db, &["workflows", "emit", "nothing"]);
    assert!(
        code == Some(3) && err.contains("unknown_template") && err.contains("reveille workflows put"),
        "{err}"
    );
    words(&db, &["workflows", "put", &file]);
    let (code, _, err) = words(&db, &["workflows", "emit", "pipeline"]);
    assert!(code == Some(3) && err.contains("params.document is missing"), "{err}");
    let (code, _, err) = words(&db, &["workflows", "emit", "pipeline", "--param", "document"]);
    assert!(code == Some(2) && err.contains("--param NAME=VALUE"), "{err}");
    let nobody = "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10";
    let (code, _, err) = words(&db, &["workflows", "show", nobody]);
    assert!(code == Some(1) && err.contains("there is no workflow"), "{err}");
}

#[tokio::test]
async fn a_workflow_that_failed_is_retried_after_a_dry_run_and_one_not_wanted_is_cancelled() {
    let (db, _folder, file) = open().await;
    words(&db, &["workflows", "put", &file]);
    let (_, made, _) = json(&db, &["workflows", "emit", "pipeline", "--param", "document=doc:1"]);
    let id = made["workflow_id"].as_str().unwrap();
    let fail = "select fn_job_fail_permanent(job_id, lease_token, 'no such file') from fn_job_claim('one')";
    db.client().await.query_one(fail, &[]).await.unwrap();
    assert!(words(&db, &["workflows", "show", id]).1.contains("✗ mark"), "the step that failed is seen");
    let retry = ["workflows", "retry", id, "--reason", "it is there now"];
    assert!(words(&db, &retry).1.starts_with("dry run: 1 failed steps would be tried again"));
    let apply = [&retry[..], &["--apply"]].concat();
    let (code, _, err) = words(&db, &apply);
    assert!(code == Some(3) && err.contains("replay_disabled"), "{err}");
    words(&db, &["gate", "open", "queue.dlq.replay_enabled", "--reason", "test"]);
    assert!(words(&db, &apply).1.starts_with("1 failed steps are tried again"));
    let cancelled = words(&db, &["workflows", "cancel", id, "--reason", "not wanted"]).1;
    assert_eq!(cancelled, "3 waiting steps cancelled, 0 running ones asked\n");
}

#[tokio::test]
async fn who_emits_again_with_other_parameters_reads_that_nothing_of_them_is_in_it() {
    let (db, _folder, file) = open().await;
    words(&db, &["workflows", "put", &file]);
    let emit = |document: &'static str| {
        ["workflows", "emit", "pipeline", "--correlation-id", "same", "--param", document].map(str::to_owned)
    };
    let told = |arguments: [String; 7]| words(&db, &arguments.each_ref().map(String::as_str)).1;
    assert!(told(emit("document=doc:1")).contains("made, active"));
    let again = told(emit("document=doc:1"));
    assert!(again.contains("was there already") && !again.contains("parameters"), "{again}");
    let other = told(emit("document=doc:2"));
    assert!(other.contains("its parameters are others than these"), "{other}");
    assert!(other.contains("another --correlation-id"), "{other}");
}

#[tokio::test]
async fn nobody_is_offered_a_hash_for_what_does_not_wait_for_approval() {
    let (db, _folder, file) = open().await;
    words(&db, &["workflows", "put", &file]);
    let (_, made, _) = json(&db, &["workflows", "emit", "pipeline", "--param", "document=doc:1"]);
    let id = made["workflow_id"].as_str().unwrap();
    let refused = |arguments: &[&str], standing: &str| {
        let (code, out, err) = words(&db, arguments);
        assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains(standing) && err.contains(&format!("reveille workflows show {id}")), "{err}");
    };
    let (approve, reject) =
        (["workflows", "approve", id, "review"], ["workflows", "reject", id, "review", "--reason", "x"]);
    refused(&approve, "review does not wait for approval, it is blocked");
    refused(&reject, "review does not wait for approval, it is blocked");
    refused(
        &["workflows", "approve", id, "mark"],
        "mark does not wait for approval, it is no approval but a.a",
    );
    run_one(&db).await;
    let hash = words(&db, &approve).1.trim_end().rsplit(' ').next().unwrap().to_owned();
    words(&db, &[&approve[..], &["--effect", &hash]].concat());
    refused(&approve, "review does not wait for approval, it is succeeded");
    refused(&["workflows", "retry", id, "--reason", "x"], "the workflow is active, which does not allow it");
    run_one(&db).await;
    refused(&["workflows", "cancel", id, "--reason", "x"], "the workflow is succeeded");
    let nobody = "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10";
    let (code, _, err) = words(&db, &["workflows", "cancel", nobody, "--reason", "x"]);
    assert!(code == Some(3) && err.contains("there is no workflow with this id"), "{err}");
}
