//! The server and the way to it.

use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Patient, mend};
use crate::cli::{output, reveille};
use crate::support::{Folder, Pooler, Pooling, SOON, TestDb, lacking, own_server, quiet_options, wait_until};
use crate::wrong_clock::shim;

fn asks(url: &str, more: &[(&str, &str)]) -> Vec<serde_json::Value> {
    let (_, out, err) =
        output(reveille(&["doctor", "--json"]).env("DATABASE_URL", url).envs(more.iter().copied()));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    answer["findings"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_shares_sessions_is_seen_and_a_direct_address_mends_it() {
    let patient = Patient::new().await;
    let pooler = Pooler::to(patient.db.server().port(), Pooling::Sharing).await;
    let url = patient.db.url_through(pooler.port());
    let found = asks(&url, &[]);
    assert!(
        mend(&found, "pooler_in_the_way", &pooler.port().to_string()).contains("listen_url"),
        "{found:#?}"
    );
    mend(&found, "listen_deaf", "LISTEN");
    // the shared session still knows the statements of the first run, as poolers do: another one begins anew
    let pooler = Pooler::to(patient.db.server().port(), Pooling::Sharing).await;
    let url = patient.db.url_through(pooler.port());
    let found = asks(&url, &[("REVEILLE__DATABASE__LISTEN_URL", &patient.db.url())]);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_hears_nothing_or_refuses_to_listen_is_seen() {
    let patient = Patient::new().await;
    for (pooling, word) in
        [(Pooling::Deaf, "did not come through"), (Pooling::Forbidding, "LISTEN is refused")]
    {
        let pooler = Pooler::to(patient.db.server().port(), pooling).await;
        let found = asks(&patient.db.url_through(pooler.port()), &[]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(mend(&found, "listen_deaf", "LISTEN at").contains("listen_url"));
        assert!(found[0]["what"].as_str().unwrap().contains(word), "{found:#?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_seen_on_either_side() {
    let folder = Folder::open_to_all();
    let Some(shim) = shim(&folder) else { return lacking("there is no C compiler") };
    let patient = Patient::new().await;
    for (wrong_by, word) in [("60", "ahead of"), ("-60", "behind")] {
        let wrong = [("LD_PRELOAD", shim.to_str().unwrap()), ("CLOCK_WRONG_BY", wrong_by)];
        let found = asks(&patient.db.url(), &wrong);
        mend(&found, "clock_skew", "the clock of this machine");
        let what = found[0]["what"].as_str().unwrap();
        assert!(what.starts_with("it is 60.0 s") && what.contains(word), "{what}");
    }
}

#[tokio::test]
async fn whoever_holds_a_snapshot_is_named_by_process_and_statement_as_prepared_transaction_or_as_slot() {
    let server = Arc::new(own_server(quiet_options().set("wal_level", "logical")).await);
    let patient = Patient::of(TestDb::on(server).await).await;
    patient.run("select pg_create_logical_replication_slot('unread', 'test_decoding')").await;
    let holder = patient.db.client().await;
    holder.batch_execute("begin isolation level repeatable read; select 'long story'").await.unwrap();
    patient.run("begin; create table prepared (); prepare transaction 'left'").await;
    assert_eq!(patient.findings(&[]).len(), 1, "the others not before they are old");
    let slot = patient.sees("snapshot_held", "replication slot unread");
    let now = ["--older-than", "0s"];
    let found = patient.findings(&now);
    let process = found.iter().find(|one| one["subject"].as_str().unwrap().starts_with("process")).unwrap();
    assert!(process["what"].as_str().unwrap().contains("long story"), "{process}");
    let process = mend(&found, "snapshot_held", "process");
    let prepared = mend(&found, "snapshot_held", "prepared transaction left");
    assert_eq!(prepared, "finish it from its program; or: rollback prepared 'left'");
    for mend in [slot, process, prepared] {
        patient.run(mend.split("or: ").nth(1).unwrap()).await;
    }
    let found = patient.findings(&now);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_transaction_with_an_id_holds_snapshots_from_any_database() {
    let server = Arc::new(own_server(quiet_options()).await);
    let patient = Patient::of(TestDb::on(Arc::clone(&server)).await).await;
    let other = TestDb::empty_on(server).await;
    let (reader, writer) = (other.client().await, other.client().await);
    reader.batch_execute("begin isolation level repeatable read; select 'harmless there'").await.unwrap();
    writer.batch_execute("begin; create table left_open ()").await.unwrap();
    let prepare = "begin; create table prepared (); prepare transaction 'left'";
    other.client().await.batch_execute(prepare).await.unwrap();
    patient.is_healthy();
    let now = ["--older-than", "0s"];
    let place = format!("in database {}", other.name());
    let found = patient.findings(&now);
    assert_eq!(found.len(), 2, "{found:#?}");
    let process = found.iter().find(|one| one["subject"].as_str().unwrap().starts_with("process ")).unwrap();
    assert!(process["subject"].as_str().unwrap().ends_with(&place), "{process}");
    assert!(process["what"].as_str().unwrap().contains("left_open"), "{process}");
    let prepared = mend(&found, "snapshot_held", &format!("prepared transaction left {place}"));
    let (there, roll_back) = prepared.rsplit_once(": ").unwrap();
    assert!(there.ends_with("in that database"), "{prepared}");
    other.client().await.batch_execute(roll_back).await.unwrap();
    patient.run(mend(&found, "snapshot_held", "process ").split("or: ").nth(1).unwrap()).await;
    let found = patient.findings(&now);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn a_slot_whose_reader_lags_is_named_with_its_process() {
    let server = Arc::new(own_server(quiet_options().set("wal_level", "logical")).await);
    let folder = Folder::open_to_all();
    let program = server.binaries().folder.join("pg_recvlogical");
    if !program.exists() {
        return lacking("there is no pg_recvlogical");
    }
    let patient = Patient::of(TestDb::on(server).await).await;
    patient.run("select pg_create_logical_replication_slot('slow', 'test_decoding')").await;
    let mut reader = Command::new(program)
        .args(["--start", "--slot", "slow", "--no-loop", "--file"])
        .arg(folder.path().join("read"))
        .args(["--dbname", &patient.db.url()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the slot is read", SOON, async || {
        let sql = "select active_pid from pg_replication_slots where active";
        patient.client.query_opt(sql, &[]).await.unwrap().is_some()
    })
    .await;
    patient.is_healthy();
    let mend = patient.sees_with(&["--older-than", "0s"], "snapshot_held", "replication slot slow");
    reader.kill().unwrap();
    reader.wait().unwrap();
    wait_until("nobody reads the slot", SOON, async || {
        patient.client.batch_execute(mend.rsplit_once(": ").unwrap().1).await.is_ok()
    })
    .await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_bloated_table_is_named_and_vacuum_mends_it() {
    let patient = Patient::new().await;
    for (table, harm) in [
        ("job_order_pending", "insert into job_order_pending select n from generate_series(1, 12000) n; delete from job_order_pending"),
        // with three live rows for each dead one
        (
            "dot_config",
            "insert into dot_config select 'x.' || n, 'x' from generate_series(1, 60000) n;
             update dot_config set value = 'y' where key like 'x.1%' or key like 'x.2%'; delete from dot_config where key like 'x.5%'",
        ),
    ] {
        patient.run(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
        patient.run(harm).await;
        patient.run("select pg_stat_force_next_flush()").await;
        let mend = patient.sees("table_bloated", &format!("table {table}"));
        patient.run(mend.split(';').next().unwrap()).await;
        patient.is_healthy();
    }
}
