//! One trace from the producer's transaction to the last fact that follows from it.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::cli::{output, reveille};
use crate::support::{Folder, Program, SOON, TestDb, wait_until};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Types `staging.approved` and `staging.read`, ends of jobs as facts, and a consumer of approvals for `page.read`.
pub(crate) async fn stage() -> (TestDb, Client) {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let begin = "
        insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
          values ('staging', 'approved', 'update', 'immediate', 'a page is approved'), ('staging', 'read', 'update', 'immediate', 'a page is read'),
            ('dot', 'job_succeeded', 'task', 'delayed', 'a job ended');
        select fn_gate_set('job.page.read.emit_events', 'true', 'test', 'test');
        select fn_consumer_put(c, 'test'), fn_consumer_set_enabled(c ->> 'consumer_key', true, 'test', 'test')
        from (values
          ('{\"consumer_key\": \"reader\", \"event_domain\": \"staging\", \"event_type\": \"approved\", \"job_kind\": \"page.read\",
            \"executor\": \"external_worker\", \"source_ref\": \"{event_subject_ref}\"}'::jsonb),
          ('{\"consumer_key\": \"next\", \"event_domain\": \"dot\", \"event_type\": \"job_succeeded\", \"job_kind\": \"page.next\"}')) v (c)";
    client.batch_execute(begin).await.unwrap();
    (db, client)
}

/// Emits in a transaction of this trace.
pub(crate) async fn emit(client: &Client, trace: &str, payload: Value) -> Uuid {
    client.batch_execute(&format!("begin; set local reveille.traceparent = '{trace}'")).await.unwrap();
    let emit = "select fn_event_emit('staging', 'approved', 'page:7', $1)";
    let id = client.query_one(emit, &[&payload]).await.unwrap().get(0);
    client.batch_execute("commit").await.unwrap();
    id
}

pub(crate) async fn value(client: &Client, sql: &str) -> Value {
    client
        .query_one(&format!("select to_jsonb(({sql}))"), &[])
        .await
        .unwrap()
        .get::<_, Option<Value>>(0)
        .unwrap_or_default()
}

async fn ignored(client: &Client) -> Value {
    value(client, "select coalesce(pg_sequence_last_value('traceparent_ignored'), 0)").await
}

#[tokio::test]
async fn one_trace_goes_from_event_to_job_to_the_events_and_jobs_that_follow() {
    let (db, client) = stage().await;
    let handler = "
        create function handle_next(p_job jsonb) returns jsonb language plpgsql as $$ begin
          perform fn_event_emit('staging', 'read', p_job ->> 'traceparent');
          return null; end $$;
        insert into job_handler (job_kind, handler) values ('page.next', 'handle_next(jsonb)')";
    client.batch_execute(handler).await.unwrap();
    let folder = Folder::open_to_all();
    let program = folder.path().join("read.sh");
    std::fs::write(&program, "cat > job.json; echo \"$TRACEPARENT\" > env\n").unwrap();
    let program = format!("sh -c 'cd {} && . ./read.sh'", folder.path().display());
    let json = [("REVEILLE__LOG__FORMAT", "json")];
    let sidecar = Program::run(&db.url(), &json);
    let exec = ["work", "--exec", &program, "--job-kinds", "page.read", "--kind", "external_worker"];
    let mut first = Program::start(&db.url(), &exec, &json);
    let mut second = Program::start(&db.url(), &["work"], &json);
    let event = emit(&client, PARENT, json!({"pages": 3})).await;
    wait_until("the last fact is there", SOON, async || {
        value(&client, "select count(*) from event_outbox where event_type = 'read'").await == 1
    })
    .await;

    let events = "select jsonb_object_agg(event_type, safe_payload ->> 'traceparent') from event_outbox";
    assert_eq!(
        value(&client, events).await,
        json!({"approved": PARENT, "job_succeeded": PARENT, "read": PARENT})
    );
    let jobs = "select jsonb_object_agg(job_kind, traceparent) from job_queue";
    assert_eq!(value(&client, jobs).await, json!({"page.read": PARENT, "page.next": PARENT}));
    let subject = "select event_subject_ref from event_outbox where event_type = 'read'";
    assert_eq!(value(&client, subject).await, PARENT, "an SQL handler finds it in p_job");
    assert_eq!(std::fs::read_to_string(folder.path().join("env")).unwrap().trim(), PARENT);
    let given: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("job.json")).unwrap()).unwrap();
    assert_eq!(given["traceparent"], PARENT);

    let job = value(&client, "select job_id from job_queue where job_kind = 'page.read'").await;
    for (worker, kind) in [(&mut first, "page.read"), (&mut second, "page.next")] {
        let line: Value = serde_json::from_str(&worker.says(&[kind, "succeeded in"]).await).unwrap();
        assert_eq!(line["trace_id"], TRACE, "{line}");
        if kind == "page.read" {
            assert_eq!((&line["event.id"], &line["job.id"]), (&json!(event), &job), "{line}");
        }
    }
    for command in [
        ["events", "show", &event.to_string()],
        ["jobs", "show", job.as_str().unwrap()],
        ["jobs", "explain", job.as_str().unwrap()],
    ] {
        let (code, out, err) = output(reveille(&command).arg("--json").env("DATABASE_URL", db.url()));
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains(PARENT), "{command:?}: {out}");
    }
    for program in [sidecar, first, second] {
        program.stops().await;
    }
}

#[tokio::test]
async fn a_trace_that_cannot_be_read_is_counted_and_stops_nothing() {
    let (_db, client) = stage().await;
    let before = ignored(&client).await;
    assert_eq!(before, 0);
    for payload in [json!({"traceparent": "nonsense"}), json!({"traceparent": {"a": 1}})] {
        emit(&client, "", payload).await;
    }
    emit(&client, "00-XYZ", json!({})).await;
    let answer = value(&client, "fn_consumer_dispatch_batch('staging', 100)").await;
    assert_eq!(answer["jobs"], 3, "{answer}");
    assert_eq!(value(&client, "select count(*) from job_queue where traceparent is null").await, 3);
    assert_eq!(ignored(&client).await, 3, "two payloads and a setting");
    let counted = "fn_traceparent_ignored()";
    assert_eq!(value(&client, &format!("select {counted}")).await, 3, "what /metrics says");
    let said = "select safe_payload ->> 'traceparent' from event_outbox order by id limit 1";
    assert_eq!(value(&client, said).await, "nonsense", "what the producer wrote is left as it is");
}

#[tokio::test]
async fn what_is_a_trace_is_what_w3c_says() {
    let (_db, client) = stage().await;
    let zeros = ["0".repeat(32), "0".repeat(16)];
    for (text, is_one) in [
        (PARENT.to_owned(), true),
        (OTHER.to_owned(), true),
        (PARENT.to_uppercase().replace("00F0", "00f0"), false),
        (PARENT.replace(TRACE, &zeros[0]), false),
        (PARENT.replace("00f067aa0ba902b7", &zeros[1]), false),
        (PARENT.replacen("00", "ff", 1), false),
        (format!("{PARENT}-more"), false),
        (format!("{PARENT}\n"), false),
        (String::new(), false),
    ] {
        let found: Option<String> =
            client.query_one("select fn_traceparent($1)", &[&text]).await.unwrap().get(0);
        assert_eq!(found.is_some(), is_one, "{text:?}");
    }
    let none: Option<String> = client.query_one("select fn_traceparent(null)", &[]).await.unwrap().get(0);
    assert_eq!(none, None);
    assert_eq!(ignored(&client).await, 7, "null is no trace, and none that is wrong");
}

#[tokio::test]
async fn a_producer_of_jobs_says_it_in_the_payload_or_for_its_transaction() {
    let (_db, client) = stage().await;
    let enqueue = format!(
        "begin; set local reveille.traceparent = '{PARENT}';
         select fn_job_enqueue('a.a', 'test', p_idempotency_key => 'setting');
         select fn_job_enqueue('a.a', 'test', '{{\"traceparent\": \"{OTHER}\"}}', p_idempotency_key => 'payload');
         select fn_job_enqueue_many('[{{\"job_kind\": \"a.a\", \"actor\": \"test\", \"idempotency_key\": \"many\"}}]');
         commit;
         select fn_job_enqueue('a.a', 'test', p_idempotency_key => 'none');
         select fn_job_enqueue('a.a', 'test', '{{\"traceparent\": \"{OTHER}\"}}', p_idempotency_key => 'later');
         select fn_job_enqueue('a.a', 'test', p_idempotency_key => 'later', p_on_duplicate => 'replace')"
    );
    client.batch_execute(&enqueue).await.unwrap();
    let jobs = "select jsonb_object_agg(idempotency_key, traceparent) from job_queue";
    let expected = json!({"setting": PARENT, "payload": OTHER, "many": PARENT, "none": null, "later": null});
    assert_eq!(value(&client, jobs).await, expected);
}

#[tokio::test]
async fn every_step_of_a_workflow_belongs_to_the_trace_of_what_began_it() {
    let (_db, client) = stage().await;
    let begin = "
        create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
        insert into job_handler (job_kind, handler) values ('a.a', 'nothing(jsonb)');
        select fn_mot_template_put('{\"template_key\": \"t\", \"params\": {\"type\": \"object\"}, \"edges\": [{\"from\": \"a\", \"to\": \"b\"}],
          \"nodes\": [{\"key\": \"a\", \"job_kind\": \"a.a\"}, {\"key\": \"b\", \"job_kind\": \"a.a\"}]}', 'test');
        select fn_consumer_put('{\"consumer_key\": \"starter\", \"event_domain\": \"staging\", \"event_type\": \"read\",
          \"job_kind\": \"workflow:t\"}', 'test'), fn_consumer_set_enabled('starter', true, 'test', 'test')";
    client.batch_execute(begin).await.unwrap();
    let by_hand = format!(
        "begin; set local reveille.traceparent = '{OTHER}'; select fn_mot_graph_emit('t', '{{}}', 'by hand', 'test'); commit;
         begin; set local reveille.traceparent = '{PARENT}'; select fn_event_emit('staging', 'read', 'page:7'); commit"
    );
    client.batch_execute(&by_hand).await.unwrap();
    let answer = value(&client, "fn_consumer_dispatch_batch('staging', 100)").await;
    assert_eq!(answer["errors"], 0, "{answer}");
    let steps =
        "select jsonb_agg(traceparent order by traceparent) from job_queue where workflow_id is not null";
    assert_eq!(value(&client, steps).await, json!([OTHER, OTHER, PARENT, PARENT]));
}

#[tokio::test]
async fn each_recipient_and_a_careful_pass_carry_it_too() {
    let (_db, client) = stage().await;
    let begin = "
        insert into event_subscription (recipient_ref, event_domain, event_type) values ('user:a', 'staging', 'approved');
        select fn_consumer_put('{\"consumer_key\": \"tell\", \"event_domain\": \"staging\", \"event_type\": \"approved\", \"job_kind\": \"page.tell\",
          \"fan_out\": \"recipients\", \"target_ref\": \"{recipient}\"}', 'test'), fn_consumer_set_enabled('tell', true, 'test', 'test')";
    client.batch_execute(begin).await.unwrap();
    let id = emit(&client, PARENT, json!({})).await;
    let answer = value(&client, &format!("fn_consumer_dispatch('{id}')")).await;
    assert_eq!(answer["jobs"], 2, "{answer}");
    let jobs = "select jsonb_object_agg(job_kind, traceparent) from job_queue";
    assert_eq!(value(&client, jobs).await, json!({"page.read": PARENT, "page.tell": PARENT}));
}

#[tokio::test]
async fn a_payload_as_large_as_may_be_goes_without_its_trace_rather_than_not_at_all() {
    let (_db, client) = stage().await;
    let large = json!({"note": "x".repeat(16_300)});
    emit(&client, PARENT, large).await;
    assert_eq!(
        value(&client, "select count(*) from event_outbox where not safe_payload ? 'traceparent'").await,
        1
    );
}

#[tokio::test]
async fn a_job_that_waits_says_its_trace_as_one_that_runs_or_has_ended() {
    let (db, client) = stage().await;
    let waiting = format!(
        "begin; set local reveille.traceparent = '{PARENT}';
         select fn_job_enqueue('a.due', 'test'), fn_job_enqueue('a.later', 'test', p_scheduled_at => clock_timestamp() + interval '1 day'),
           fn_job_enqueue('a.turn', 'test', p_ordering_key => 'k'), fn_job_enqueue('a.turn', 'test', p_ordering_key => 'k');
         commit"
    );
    client.batch_execute(&waiting).await.unwrap();
    let jobs = value(&client, "select jsonb_agg(job_id) from job_queue").await;
    for job in jobs.as_array().unwrap() {
        for what in ["show", "explain"] {
            for more in [&[][..], &["--json"]] {
                let words = ["jobs", what, job.as_str().unwrap()];
                let (code, out, err) = output(reveille(&words).args(more).env("DATABASE_URL", db.url()));
                assert_eq!(code, Some(0), "{err}");
                assert!(out.contains(PARENT), "{words:?} {more:?}: {out}");
            }
        }
    }
}
