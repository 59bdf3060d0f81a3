//! The trace of the transaction that writes goes with the events that a route makes of it.

use serde_json::json;

use super::stage::{Stage, route, with};
use crate::tracing::PARENT;

impl Stage {
    /// Writes in a transaction of this trace.
    async fn write(&self, trace: &str, statements: &str) {
        self.run(&format!("begin; set local reveille.traceparent = '{trace}'; {statements}; commit")).await;
    }

    /// The codes of the rows, by the trace of their events.
    async fn traces(&self) -> serde_json::Value {
        let sql = "select coalesce(jsonb_object_agg(safe_payload ->> 'code', safe_payload -> 'traceparent'), '{}') from event_outbox";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn events_of_routes_belong_to_the_trace_of_the_write_also_many_of_one_statement() {
    let stage = Stage::live(&route("insert")).await;
    stage.write(PARENT, "insert into entity_species values ('one', 'n', 'm')").await;
    stage.write(PARENT, "insert into entity_species values ('two', 'n', 'm'), ('three', 'n', 'm')").await;
    stage.write("", "insert into entity_species values ('none', 'n', 'm')").await;
    stage.write("nonsense", "insert into entity_species values ('wrong', 'n', 'm')").await;
    let expected = json!({"one": PARENT, "two": PARENT, "three": PARENT, "none": null, "wrong": null});
    assert_eq!(stage.traces().await, expected);
    let ignored: i64 = stage.client.query_one("select fn_traceparent_ignored()", &[]).await.unwrap().get(0);
    assert_eq!(ignored, 1);
}

#[tokio::test]
async fn a_payload_without_room_goes_without_its_trace_and_a_column_of_that_name_is_kept() {
    let stage = Stage::new().await;
    stage.run("alter table entity_species add traceparent text").await;
    let columns = json!({"columns": ["code", "mode", "traceparent"], "subject_ref": "entity_species:{code}"});
    stage.put(&with(route("insert"), &json!({ "payload_contract": columns }))).await;
    stage.enable(Some(false)).await;
    stage.write(PARENT, "insert into entity_species (code, traceparent) values ('own', 'its own')").await;
    assert_eq!(stage.traces().await, json!({"own": "its own"}));

    let stage = Stage::live(&route("insert")).await;
    let large =
        "insert into entity_species (code, mode) values ('large', repeat('x', 16300)), ('small', 'x')";
    stage.write(PARENT, large).await;
    assert_eq!(stage.traces().await, json!({"large": null, "small": PARENT}));
}
