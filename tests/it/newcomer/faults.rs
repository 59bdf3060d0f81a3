//! A database with the pilot host, some letters, and ten faults.

use std::path::Path;
use std::sync::Arc;

use deadpool_postgres::Object;
use reveille::maintain::consumer_sync as sync;
use reveille::store::pilot_host;
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{TestDb, own_server, quiet_options};

/// What the newcomer is asked about.
pub(super) struct Planted {
    pub(super) db: TestDb,
    pub(super) client: Client,
    /// Waits, because there is no arrival of it and the gate is closed.
    pub(super) event: Uuid,
    /// Passed by the filter that never matches.
    pub(super) filtered: Uuid,
    /// Its workers go away.
    pub(super) poison: Uuid,
    /// Holds its ordering key.
    pub(super) holder: Uuid,
    /// Waits behind the holder.
    pub(super) behind: Uuid,
    /// The session whose transaction stays open.
    _open: Client,
}

async fn with_letters(db: &TestDb, client: &mut Object) -> Vec<Uuid> {
    pilot_host::install(&*client).await.unwrap();
    pilot_host::open_gates(&*client, 0).await.unwrap();
    db.open_gates().await;
    let files = sync::read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("consumers")).unwrap();
    let plan = sync::plan(&*client, &files, sync::Options::default()).await.unwrap();
    sync::apply(client, &plan, Some("tester"), sync::Options::default()).await.unwrap();
    let handlers = "
        create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
        insert into job_handler (job_kind, handler)
        select k, 'nothing(jsonb)' from unnest(array['letter.note', 'letter.send', 'report.render']) k";
    client.batch_execute(handlers).await.unwrap();
    let mut records = Vec::new();
    for n in 0..12 {
        let text = format!("# Letter {n}\n\nDear reader.\n");
        let answer = pilot_host::mark_file(&*client, &text, &format!("letters/{n}"), "tester").await.unwrap();
        let answer = answer.done("MARK").unwrap();
        records.push(answer["staging_record_id"].as_str().unwrap().parse().unwrap());
    }
    records
}

async fn id(client: &Client, sql: &str) -> Uuid {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// A job whose one worker went away, and two of one ordering key of which the first has failed for good.
async fn jobs(client: &Client) -> (Uuid, Uuid, Uuid) {
    let enqueue = |kind: &str, key: &str| {
        format!("select (fn_job_enqueue('{kind}', 'tester', p_ordering_key => {key}) ->> 'job_id')::uuid")
    };
    for gate in [
        "'queue.lease_reaper.enabled', 'true'",
        "'queue.lease_reaper.dry_run_only', 'false'",
        "'job.report.render.max_lease_losses', '1'",
    ] {
        run(client, &format!("select fn_gate_set({gate}, 'tester', 'from the beginning')")).await;
    }
    let poison = id(client, &enqueue("report.render", "null")).await;
    let holder = id(client, &enqueue("letter.send", "'letters/7'")).await;
    let behind = id(client, &enqueue("letter.send", "'letters/7'")).await;
    run(
        client,
        "select fn_queue_heartbeat_register('planter', 'PG_worker');
         select fn_job_claim('planter', 1, p_job_kinds => '{report.render}');
         update job_queue set lease_until = now() - interval '1 hour' where job_kind = 'report.render';
         select fn_job_lease_reaper();
         do $$ declare c record; begin
           select * into c from fn_job_claim('planter', 1, p_job_kinds => '{letter.send}');
           perform fn_job_fail_permanent(c.job_id, c.lease_token, 'the address is wrong');
         end $$;
         select fn_queue_heartbeat_unregister('planter')",
    )
    .await;
    (poison, holder, behind)
}

/// All ten, but the pooler: that one stands before whoever asks.
pub(super) async fn plant() -> Planted {
    // what it ends because it holds a snapshot must not be of another test
    let db = TestDb::on(Arc::new(own_server(quiet_options()).await)).await;
    let mut host = db.pool(1).get().await.unwrap();
    let records = with_letters(&db, &mut host).await;
    let client = db.client().await;
    // a consumer whose filter never matches
    let consumer = json!({"consumer_key": "letters.noted", "event_domain": "staging", "event_type": "record_created",
        "job_kind": "letter.note", "filter": "$.payload.collection == \"leters\"", "starts_at": "-infinity"});
    let put = "select fn_consumer_put($1::jsonb || '{\"enabled\": true}', 'tester', p_set_enabled => true)";
    client.execute(put, &[&consumer]).await.unwrap();
    run(&client, "select fn_consumer_dispatch_batch('staging', 100)").await;
    let filtered =
        id(&client, "select id from event_outbox where event_type = 'record_created' limit 1").await;
    // a poison job, a blocked key
    let (poison, holder, behind) = jobs(&client).await;
    for fault in [
        // an executor that is silent
        "select fn_queue_heartbeat_register('hermes-1', 'Hermes');
         update queue_heartbeat set last_beat_at = now() - interval '4 days' where executor_name = 'hermes-1'",
        // an event type that is not registered
        "delete from event_type_registry where (event_domain, event_type) = ('staging', 'record_cleaned')",
        // a function that somebody has replaced
        "do $$ begin execute replace(pg_get_functiondef('fn_gate_list()'::regprocedure), 'new jobs', 'old jobs'); end $$",
        // a disabled trigger
        "alter table event_outbox disable trigger reveille_event_arrival",
        // a closed gate
        "select fn_gate_set('queue.job_substrate.enabled', 'false', 'somebody', 'only for a moment')",
    ] {
        run(&client, fault).await;
    }
    let approved = pilot_host::verify_mark(&host, records[3], true, "DOC-3", "tester").await.unwrap();
    approved.done("APPROVE").unwrap();
    let event = id(&client, "select id from event_outbox where event_type = 'record_approved'").await;
    // a snapshot that is held
    let open = db.client().await;
    open.batch_execute("begin isolation level repeatable read; select 'went for lunch'").await.unwrap();
    Planted { db, client, event, filtered, poison, holder, behind, _open: open }
}
