//! Who stops a route waits for nobody who is about to start it.

use serde_json::{Value, json};

use super::stage::{CODE, Stage, route};
use crate::support::{SOON, wait_until};

#[tokio::test]
async fn a_route_is_stopped_beside_somebody_who_enables_it_in_whatever_order() {
    let stage = Stage::live(&route("insert")).await;
    let (enables, stops) = (stage.db.client().await, stage.db.client().await);
    let stopping: i32 = stops.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    // as fn_route_enable goes: its own lock, the table, and then the row
    let begin = format!(
        "begin; select pg_advisory_xact_lock(hashtextextended(current_schema() || '.route.{CODE}', 0));
         lock table entity_species in share row exclusive mode"
    );
    enables.batch_execute(&begin).await.unwrap();
    let stop = tokio::spawn(async move {
        let row = stops.query_one("select fn_route_disable($1, 'test', 'a test')", &[&CODE]).await;
        row.map(|row| row.get::<_, Value>(0))
    });
    let waits = "select exists (select from pg_locks where pid = $1 and not granted)";
    wait_until("it has stopped the route, or waits for the table", SOON, async || {
        stop.is_finished() || stage.client.query_one(waits, &[&stopping]).await.unwrap().get(0)
    })
    .await;
    enables
        .batch_execute("select from iu_sql_event_route for update; commit")
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let stopped = stop.await.unwrap().unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(
        (&stopped["state"], &stopped["trigger_left"]),
        (&json!("disabled"), &json!("table_busy")),
        "{stopped}"
    );
    assert_eq!(stage.count("iu_sql_event_route where enabled").await, 0);
    assert_eq!(stage.findings().await, ["trigger_left_over"]);
    assert_eq!(stage.disable().await["trigger_left"], json!(null));
}
