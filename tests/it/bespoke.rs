//! The host's one bespoke consumer, as a row of `consumer_registry`: the same effect as the direct call, and made once.

use std::path::Path;

use reveille::store::pilot_host;
use serde_json::{Value, json};

use crate::commands::words;
use crate::support::Outbox;

const TEMPLATE: &str = "7e3f8a52-0000-4000-8000-000000000001";
const UNMARKED: &str = "7e3f8a52-0000-4000-8000-000000000002";

/// A host with two collections, of which one is marked as a template, and open gates on both sides.
async fn host() -> Outbox {
    let outbox = Outbox::open().await;
    let client = outbox.db.pool(1).get().await.unwrap();
    pilot_host::install(&client).await.unwrap();
    let setup = format!(
        "insert into iu_core.iu_collection (collection_id, collection_key, title, is_template, created_by) values
           ('{TEMPLATE}', 'case-file', 'A case file', true, 'user:author'), ('{UNMARKED}', 'loose', 'Loose leaves', false, 'user:author');
         insert into iu_core.iu_collection_item (collection_id, item_no, piece_ref)
         select '{TEMPLATE}', n, 'piece:' || n from generate_series(1, 3) n;
         update dot_config set value = 'true' where key in ('iu_core.auto_instantiate_enabled', 'iu_core.composer_enabled')"
    );
    client.batch_execute(&setup).await.unwrap();
    outbox
}

/// Events by number: the same ids and payloads wherever they are written.
async fn emit(outbox: &Outbox, number: u32, payload: &Value) -> String {
    let id = format!("01981c5e-0000-7000-8000-{number:012}");
    let insert = "insert into event_outbox (id, event_domain, event_type, event_stream, delivery_lane, event_subject_table,
                    event_subject_ref, actor_ref, safe_payload)
                  values ($1::text::uuid, 'iu', 'template.instance_auto_composed', 'update', 'delayed', 'iu_core.iu_collection',
                    $2, 'user:clerk', $3)";
    let subject = payload["template_collection_id"].as_str().unwrap();
    outbox.client.execute(insert, &[&id, &subject, payload]).await.unwrap();
    id
}

fn asks(template: &str, suffix: &str, mode: &str, note: Option<&str>) -> Value {
    json!({"template_collection_id": template, "instance_key_suffix": suffix, "emit_mode": mode, "note": note})
}

/// The direct call, as whoever emitted the event made it before; its result code.
async fn call(outbox: &Outbox, id: &str) -> String {
    let call = "
        select fn_iu_auto_instantiate_from_event(
          p_event_id => e.id, p_event_type => 'iu.template.instance_auto_composed',
          p_template_collection_id => (e.safe_payload ->> 'template_collection_id')::uuid,
          p_instance_key_suffix => e.safe_payload ->> 'instance_key_suffix', p_emit_mode => e.safe_payload ->> 'emit_mode',
          p_actor => e.actor_ref, p_note => e.safe_payload ->> 'note') ->> 'result_code'
        from event_outbox e where e.id = $1::text::uuid";
    outbox.client.query_one(call, &[&id]).await.unwrap().get(0)
}

/// The consumer of this project, previewed and then enabled.
fn enable(outbox: &Outbox) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("consumers");
    let sync = ["consumers", "sync", "--apply", "--dir", folder.to_str().unwrap()];
    assert_eq!(words(&outbox.db, &sync).0, Some(0));
    let enable = ["consumers", "enable", "iu.auto_instantiate", "--reason", "the direct calls have ended"];
    assert_eq!(
        words(&outbox.db, &enable).1,
        "iu.auto_instantiate: enabled (was disabled)\n",
        "disabled until then"
    );
}

/// Outbox, consumer, job, handler.
async fn dispatch_and_work(outbox: &Outbox) {
    outbox.drain(100).await;
    let (code, _, err) =
        words(&outbox.db, &["work", "--once", "--executor-name", "desk-1", "--kind", "PG_worker"]);
    assert_eq!(code, Some(0), "{err}");
}

/// All rows that either way makes, without the ids that are drawn and the times.
async fn rows(outbox: &Outbox) -> Vec<String> {
    let all = "
        select format('collection %s: %s template %s note %s by %s', c.collection_key, c.title, c.is_template, c.note, c.created_by)
        from iu_core.iu_collection c
        union all
        select format('item %s of %s: %s', i.item_no, c.collection_key, i.piece_ref)
        from iu_core.iu_collection_item i join iu_core.iu_collection c using (collection_id)
        union all
        select format('log %s of %s: %s %s %s %s by %s', c.collection_key, l.template_collection_id, l.event_id, l.event_type,
          l.idempotency_key, l.emit_mode, l.triggered_by)
        from iu_auto_instantiate_event_log l join iu_core.iu_collection c on c.collection_id = l.instance_collection_id
        order by 1";
    outbox.client.query(all, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn phase_4_gate_the_consumer_row_makes_exactly_the_rows_of_the_direct_call_and_no_dead_letter() {
    let (direct, routed) = (host().await, host().await);
    enable(&routed);
    let payloads = [
        asks(TEMPLATE, "2026-001", "live", None),
        asks(TEMPLATE, "2026-002", "dry_run", Some("a rehearsal")),
        asks(TEMPLATE, "2026-003", "live", Some("in a hurry")),
    ];
    for (number, payload) in (1..).zip(&payloads) {
        let id = emit(&direct, number, payload).await;
        assert_eq!(call(&direct, &id).await, "ok");
        assert_eq!(emit(&routed, number, payload).await, id);
    }
    dispatch_and_work(&routed).await;
    let (before, after) = (rows(&direct).await, rows(&routed).await);
    assert_eq!(after, before);
    assert_eq!(after.iter().filter(|row| row.starts_with("log ")).count(), 3, "{after:#?}");
    let ends = "select count(*) from job_queue where status = 'succeeded' and job_kind = 'iu.auto_instantiate' and result_ref is not null";
    assert_eq!(routed.count(ends).await, 3);
    assert_eq!(routed.count("select count(*) from job_dead_letter").await, 0);
    assert_eq!(routed.count("select count(*) from dispatch_error").await, 0);
}

#[tokio::test]
async fn a_replay_either_way_is_told_as_one_and_makes_no_second_row() {
    let host = host().await;
    enable(&host);
    let id = emit(&host, 1, &asks(TEMPLATE, "2026-001", "live", None)).await;
    // somebody still calls directly, before and after the job
    assert_eq!(call(&host, &id).await, "ok");
    let made = rows(&host).await;
    dispatch_and_work(&host).await;
    assert_eq!(call(&host, &id).await, "idempotent_replay");
    assert_eq!(rows(&host).await, made);
    assert_eq!(
        host.count("select count(*) from job_queue where status = 'succeeded'").await,
        1,
        "a replay is a success"
    );
    // and the job again, under a key of its own
    let again = format!(
        "
        insert into job_queue (job_kind, executor, event_domain, idempotency_key, actor, causation_event_id)
        values ('iu.auto_instantiate', 'PG_worker', 'iu', 'again', 'test', '{id}')"
    );
    host.client.batch_execute(&again).await.unwrap();
    dispatch_and_work(&host).await;
    assert_eq!(rows(&host).await, made);
    assert_eq!(host.count("select count(*) from job_queue where status = 'succeeded'").await, 2);
    assert_eq!(host.count("select count(*) from job_dead_letter").await, 0);
    let answer = host.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(0), &json!(1)), "{answer}");
}

#[tokio::test]
async fn what_the_direct_call_refuses_makes_no_row_either_way_and_is_told() {
    let (direct, routed) = (host().await, host().await);
    enable(&routed);
    let nowhere = "7e3f8a52-0000-4000-8000-00000000dead";
    let refused = [
        (asks(UNMARKED, "1", "live", None), "template_not_marked"),
        (asks(nowhere, "1", "live", None), "template_collection_not_found"),
        (asks(TEMPLATE, "1", "maybe", None), "invalid_emit_mode"),
        (asks(TEMPLATE, " ", "live", None), "invalid_input"),
    ];
    for (number, (payload, code)) in (1..).zip(&refused) {
        let id = emit(&direct, number, payload).await;
        assert_eq!(&call(&direct, &id).await, code);
        emit(&routed, number, payload).await;
    }
    dispatch_and_work(&routed).await;
    assert_eq!(rows(&routed).await, rows(&direct).await);
    assert_eq!(rows(&routed).await.iter().filter(|row| row.starts_with("log ")).count(), 0);
    // an operator decides; nothing is silent
    let told = "select j.last_error from job_dead_letter d join job_queue j using (job_id) order by j.causation_event_id";
    let told: Vec<String> =
        routed.client.query(told, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(told.len(), refused.len(), "{told:?}");
    for (error, (_, code)) in told.iter().zip(&refused) {
        assert!(error.contains(&format!("refused: {code}")), "{error} should name {code}");
    }
}

#[tokio::test]
async fn a_closed_gate_of_the_host_is_waited_for() {
    let host = host().await;
    enable(&host);
    let close = async |key: &str, value: &str| {
        host.client
            .execute("update dot_config set value = $2 where key = $1", &[&key, &value])
            .await
            .unwrap();
    };
    close("iu_core.auto_instantiate_enabled", "false").await;
    let id = emit(&host, 1, &asks(TEMPLATE, "2026-001", "live", None)).await;
    assert_eq!(call(&host, &id).await, "live_gate_closed");
    close("iu_core.composer_enabled", "false").await;
    let rehearsal = emit(&host, 2, &asks(TEMPLATE, "2026-002", "dry_run", None)).await;
    assert_eq!(call(&host, &rehearsal).await, "composer_gate_closed");
    dispatch_and_work(&host).await;
    assert_eq!(host.count("select count(*) from job_queue where status = 'retry_waiting'").await, 2);
    assert_eq!(host.count("select count(*) from job_dead_letter").await, 0);
    close("iu_core.auto_instantiate_enabled", "true").await;
    close("iu_core.composer_enabled", "true").await;
    host.client.batch_execute("update job_queue set scheduled_at = clock_timestamp()").await.unwrap();
    dispatch_and_work(&host).await;
    assert_eq!(host.count("select count(*) from iu_auto_instantiate_event_log").await, 2);
}
