//! How many connections the programs hold, as `config.toml` tells operators who must set `max_connections`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio_postgres::Client;

use super::HANDLER;
use crate::http::client::get;
use crate::support::{Program, SOON, TestDb, flow, wait_until};

/// Our sessions by their names.
async fn sessions(client: &Client) -> BTreeMap<String, i64> {
    let sessions = "select substr(application_name, 10), count(*) from pg_stat_activity
        where datname = current_database() and application_name like 'reveille/%' group by 1";
    let rows = client.query(sessions, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_busy_sidecar_holds_its_pool_and_five_connections() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let settings = [
        ("REVEILLE__HTTP__ENABLED", "true"),
        ("REVEILLE__HTTP__LISTEN", "127.0.0.1:0"),
        ("REVEILLE__DATABASE__POOL_SIZE", "4"),
        ("REVEILLE__DISPATCH__CONCURRENCY", "3"),
    ];
    let mut sidecar = Program::run(&db.url(), &settings);
    let line = sidecar.says(&["http://"]).await;
    let address = line.split_once("http://").unwrap().1.split_once(": ").unwrap().0;
    let address: SocketAddr = address.parse().unwrap();
    sidecar.says(&["listening"]).await;
    assert_eq!(get(address, "/metrics").await.status, 200);
    let lock = db.client().await;
    lock.batch_execute("begin; lock table dispatch_pass in access exclusive mode").await.unwrap();
    client.batch_execute("notify queue_control").await.unwrap(); // every domain is looked at
    let all = [("audit", 1), ("chores", 1), ("dispatch", 4), ("http", 1), ("listener", 1), ("sweep", 1)];
    let all: BTreeMap<String, i64> = all.map(|(name, count)| (name.to_owned(), count)).into();
    wait_until("every connection is open", SOON, async || sessions(&client).await == all).await;
    drop(lock);
    sidecar.stops().await;
}

#[tokio::test]
async fn a_busy_worker_holds_its_concurrency_and_at_most_four_connections() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(HANDLER).await.unwrap();
    let lock = db.client().await;
    lock.batch_execute("begin; lock table handled in access exclusive mode").await.unwrap();
    let mut worker = Program::start(&db.url(), &["work"], &[("REVEILLE__WORKER__CONCURRENCY", "3")]);
    worker.says(&["listening"]).await;
    for number in 0..9 {
        let enqueue = "select fn_job_enqueue('test.seen', 'test', p_source_ref => $1)";
        client.execute(enqueue, &[&number.to_string()]).await.unwrap();
    }
    wait_until("it runs three jobs at a time", SOON, async || {
        sessions(&client).await.get("worker-jobs") == Some(&3)
    })
    .await;
    drop(lock);
    wait_until("all jobs are done, with few connections", SOON, async || {
        let open = sessions(&client).await;
        assert!(open.values().sum::<i64>() <= 3 + 4 && open["worker-jobs"] == 3, "{open:?}");
        let done = "select count(*) from job_queue where status = 'succeeded'";
        client.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == 9
    })
    .await;
    worker.stops().await;
}
