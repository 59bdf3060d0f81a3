//! The pilot host: a document from MARK to clean-up, and what must not happen to it on the way.

use std::path::Path;
use std::time::{Duration, Instant};

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

/// Texts that a divider could trip over.
fn awkward_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        "x",
        "\n",
        "\r",
        "\r\n",
        " ",
        "\n\n\n",
        "\t\n \r\n",
        "a\n",
        "\na",
        "\u{feff}# Title",
        "é",
        "𝄞",
        "𝄞\n\n𝄞\r\n\r\n𝄞",
        "one\rtwo\r\rthree",
        "#\n##\n###\n",
        "# a\n# b\n# c",
        "```\n# not a heading\n",
        "~~~\n\n~~~\n# heading\n\n---\n\ntext",
        "Title\n=====\n\nUnder\n-----\ntext",
        "\u{2028}\u{2029}\u{85}",
        "'; drop table x; -- $$ \\ \" %",
        "{\"body\": \"json\"}",
    ]
    .map(str::to_owned)
    .to_vec();
    // mixtures of what divides and what must not be divided, without a random seed that nobody can repeat
    let parts = [
        "\n",
        "\r\n",
        "\n\n",
        "# ",
        "## ",
        "word ",
        "𝄞é",
        "----",
        "```\n",
        " ",
        "1. ",
        "Chapter 2",
        "CHƯƠNG I",
        "\t",
    ];
    let mut state: u64 = 42;
    for length in [10, 100, 1000, 5000] {
        for _ in 0..5 {
            let mut text = String::new();
            for _ in 0..length {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(parts[usize::try_from(state >> 33).unwrap() % parts.len()]);
            }
            texts.push(text);
        }
    }
    texts
}

#[tokio::test]
async fn pieces_are_the_document_byte_for_byte_whatever_the_text() {
    let (_db, client) = with_host().await;
    for (number, text) in awkward_texts().iter().enumerate() {
        let record = mark(&client, text, &format!("text {number}")).await;
        approve(&client, record).await;
        let pieces = cut(&client, record).await;
        assert_eq!(pieces.concat(), text.as_bytes(), "{text:?}");
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "{text:?}");
        assert_eq!(usize::try_from(standing(&client, record).await.piece_count).unwrap(), pieces.len());
    }
}

#[tokio::test]
async fn five_megabytes_of_any_text_are_marked_and_cut_in_seconds_into_a_bounded_number_of_pieces() {
    const SIZE: usize = 5_000_000;
    let (_db, client) = with_host().await;
    client.batch_execute("set statement_timeout = '20s'").await.unwrap(); // a quadratic divider takes minutes
    for part in [
        "x",
        "\n",
        "\r\n",
        "# heading\n",
        "# a longer heading that is a line\n",
        "ab\n\n",
        "𝄞",
        "𝄞𝄞\n",
        "a line of text of some length that ends\n",
    ] {
        let text = part.repeat(SIZE / part.len());
        let begun = Instant::now();
        let record = mark(&client, &text, part).await;
        approve(&client, record).await;
        let pieces = cut(&client, record).await;
        assert!(pieces.concat() == text.as_bytes(), "{part:?}");
        assert!(pieces.len() <= 4100, "{part:?}: {} pieces", pieces.len());
        assert!(begun.elapsed() < Duration::from_secs(30), "{part:?} took {:?}", begun.elapsed());
    }
    let large = "x".repeat(pilot_host::LARGEST_DOCUMENT + 1);
    let answer = pilot_host::mark_file(&client, &large, "too large", "tester").await.unwrap();
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason == "payload_too_large"));
}

#[tokio::test]
async fn headings_and_paragraphs_decide_where_pieces_begin() {
    let (_db, client) = with_host().await;
    let long = "A paragraph that is long enough to stand alone. ".repeat(6);
    let text = format!(
        "Preface, short.\n\n# One #\n\n{long}\n\n{long}\n\n```sh\n# not a heading\n\nsame block\n```\n\n\
         Two\n---\n\n{long}\n\n### Deep\n\nshort\n\nalso short\n\nĐiều 45\n\n{long}\n\nChapter II. The end\n\n3.2 Numbers\n\n{long}\n",
        long = long.trim_end()
    );
    let record = mark(&client, &text, "doc").await;
    approve(&client, record).await;
    let bodies: Vec<String> =
        cut(&client, record).await.into_iter().map(|piece| String::from_utf8(piece).unwrap()).collect();
    let run = standing(&client, record).await.run_id.unwrap();
    let pieces = pilot_host::pieces(&client, run, 100).await.unwrap();
    let seen: Vec<(String, &str)> = pieces
        .iter()
        .zip(&bodies)
        .map(|(piece, body)| (piece.heading_path.join(" > "), body.get(..7).unwrap_or(body)))
        .collect();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(path, body)| (path.as_str(), *body)).collect();
    assert_eq!(
        seen,
        [
            ("", "Preface"),
            ("One", "# One #"),
            ("One", "A parag"),
            ("One", "```sh\n#"),
            ("One > Two", "Two\n---"),
            ("One > Two > Deep", "### Dee"),
            ("One > Two > Điều 45", "Điều"),
            ("One > Chapter II. The end", "Chapter"),
            ("One > Chapter II. The end > 3.2 Numbers", "3.2 Num"),
        ]
    );
}

#[tokio::test]
async fn given_pieces_are_checked_and_completed() {
    let (_db, client) = with_host().await;
    let given = async |pieces: Value| -> Value {
        let sql = "select fn_iu_op_mark_file('abé𝄞', 'doc', $1)";
        client.query_one(sql, &[&pieces]).await.unwrap().get(0)
    };
    for (pieces, problem) in [
        (json!([{ "byte_len": 2 }]), "the pieces hold 2 of 8 bytes"),
        (json!([]), "the pieces hold 0 of 8 bytes"),
        (json!([{ "byte_len": 9 }]), "piece 1 reaches beyond the text"),
        (json!([{ "byte_len": 3 }, { "byte_len": 5 }]), "piece 2 begins inside a character"),
        (
            json!([{ "byte_len": 2 }, { "byte_len": 6, "byte_start": 1 }]),
            "piece 2 begins at byte 1, expected 2",
        ),
        (json!([{ "byte_len": 8 }, { "byte_len": 0 }]), "piece 2 has no length"),
        (json!([{ "text": "abé𝄞" }]), "piece 1 has no length"),
        (json!([{ "byte_len": 8, "content_hash": "00" }]), "piece 1 is not what its hash says"),
    ] {
        let answer = given(pieces).await;
        assert_eq!((&answer["reason"], &answer["problem"]), (&json!("pieces_do_not_cover"), &json!(problem)));
    }
    let answer = given(json!([{ "byte_len": 2, "heading_path": ["A"] }, { "byte_len": 6 }])).await;
    approve(&client, id(&answer)).await;
    assert_eq!(cut(&client, id(&answer)).await, ["ab".as_bytes(), "é𝄞".as_bytes()]);
}

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
        value(&client, "select string_agg(event_type, ' ' order by id) from event_outbox").await;
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

#[tokio::test]
async fn one_cycle_runs_from_approval_to_clean_up_without_a_hand_on_cut() {
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
    approve(&client, record).await;
    let mut kinds = Vec::new();
    while let Some(kind) = step(&client).await {
        kinds.push(kind);
    }
    assert_eq!(kinds, ["cut.cut", "cut.verify_cut", "cut.cleanup"]);
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
        + (select count(*) from job_queue j where j::text like '%{marker}%')"
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
