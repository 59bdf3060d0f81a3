//! The views as JSON.

use std::time::Duration;

use serde_json::Value;

use super::client::{get, request};
use super::{NOWHERE, Served};
use crate::support::{TestDb, server_at};

async fn read(face: &Served, path: &str) -> (u16, Value) {
    let answer = get(face.address, path).await;
    (
        answer.status,
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body)),
    )
}

#[tokio::test]
async fn every_view_of_the_contract_is_read_as_json() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let begin = "select fn_queue_heartbeat_register('one', 'PG_worker'), fn_job_enqueue('any', 'test'), fn_job_enqueue('any', 'test');
        select fn_job_claim('one', 1)";
    client.batch_execute(begin).await.unwrap();
    let face = Served::start(server_at(&db.url()), None, Duration::ZERO).await;
    let (status, views) = read(&face, "/api/v1").await;
    assert_eq!(status, 200);
    for path in views["views"].as_array().unwrap() {
        let (status, rows) = read(&face, path.as_str().unwrap()).await;
        assert!(status == 200 && rows.is_array(), "{path}: {status} {rows}");
    }
    let all = "select count(*) from pg_views where schemaname = current_schema()";
    let all: i64 = client.query_one(all, &[]).await.unwrap().get(0);
    assert_eq!(views["views"].as_array().unwrap().len(), usize::try_from(all).unwrap(), "one was forgotten");
    let (_, running) = read(&face, "/api/v1/in-progress").await;
    assert_eq!((&running[0]["lease_owner"], running.as_array().unwrap().len()), (&"one".into(), 1));
    let (_, health) = read(&face, "/api/v1/health?limit=1").await;
    assert_eq!(health.as_array().unwrap().len(), 1);
    face.stop().await;
}

#[tokio::test]
async fn what_cannot_be_answered_says_why_as_json() {
    let face = Served::start(server_at(NOWHERE), None, Duration::ZERO).await;
    for (path, status, kind) in [
        ("/api/v1/health", 503, "unreachable"),
        ("/api/v1/nothing", 404, "usage"),
        ("/api/v1/health?limit=0", 400, "usage"),
        ("/api/v1/health?limit=1001", 400, "usage"),
    ] {
        let (found, answer) = read(&face, path).await;
        assert_eq!((found, &answer["error"]["kind"]), (status, &kind.into()), "{path}: {answer}");
    }
    face.stop().await;
    let db = TestDb::new().await;
    let face = Served::start(server_at(&db.url()), None, Duration::ZERO).await;
    assert_eq!(read(&face, "/api/v1/nothing").await.0, 404);
    assert_eq!(read(&face, "/api/v1/v_queue_health").await.0, 404, "the names are ours, not SQL's");
    let posted = request(face.address, "POST", "/api/v1/health", &[]).await;
    assert_eq!(posted.status, 405, "{}", posted.body);
    face.stop().await;
}
