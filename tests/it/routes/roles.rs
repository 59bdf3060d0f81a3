//! Who may write, enable, stop and look at routes.

use serde_json::Value;
use tokio_postgres::Client;

use super::stage::{CODE, Stage, route};
use crate::support::{SOON, connect, login, wait_until};

/// A login that is a member of these roles; it goes with [`go`].
pub(super) async fn member(stage: &Stage, roles: &str) -> (String, Client) {
    let name = format!("login_{}", uuid::Uuid::new_v4().simple());
    let url = login(&stage.client, &stage.db.url(), &name, &format!("in role {roles}")).await;
    (name, connect(&url).await)
}

pub(super) async fn go(stage: &Stage, names: &[String]) {
    for name in names {
        wait_until("the role can go", SOON, async || {
            let gone = format!("drop owned by {name} cascade; drop role {name}");
            stage.client.batch_execute(&gone).await.is_ok()
        })
        .await;
    }
}

pub(super) async fn answer(client: &Client, call: &str) -> Value {
    client
        .query_one(&format!("select {call}"), &[])
        .await
        .unwrap_or_else(|error| panic!("{call}: {error:?}"))
        .get(0)
}

/// The SQLSTATE of a call that fails.
async fn fails(client: &Client, statement: &str) -> String {
    let error = client.batch_execute(statement).await.expect_err(statement);
    error.code().unwrap().code().to_owned()
}

#[tokio::test]
async fn an_operator_writes_and_stops_routes_and_only_the_tables_owner_makes_triggers() {
    let stage = Stage::new().await;
    let (owner, owner_client) = member(&stage, "reveille_operator").await;
    let (operator, operator_client) = member(&stage, "reveille_operator").await;
    let (reader, reader_client) = member(&stage, "reveille_reader").await;
    stage.run(&format!("alter table entity_species owner to {owner}")).await;

    let put: Value = operator_client
        .query_one("select fn_route_put($1, 'test')", &[&route("insert")])
        .await
        .unwrap()
        .get(0);
    assert_eq!(put["created"], true, "{put}");
    let enable = format!("fn_route_enable('{CODE}', 'test', 'a test', false, true)");
    let refused = answer(&operator_client, &enable).await;
    assert_eq!(
        (&refused["reason"], &refused["owner"]),
        (&"not_owner".into(), &owner.clone().into()),
        "{refused}"
    );
    assert_eq!(stage.findings().await, Vec::<String>::new(), "and nothing is enabled");
    assert_eq!(fails(&reader_client, &format!("select {enable}")).await, "42501");
    assert_eq!(answer(&owner_client, &enable).await["state"], "live");
    owner_client.batch_execute("insert into entity_species values ('cat', 'Cat', 'wild')").await.unwrap();
    assert_eq!(stage.subjects().await, ["entity_species:cat"]);
    let actor = stage.client.query_one("select actor_ref from event_outbox", &[]).await.unwrap();
    assert_eq!(actor.get::<_, String>(0), owner, "whoever wrote");

    // a producer needs no right on anything of ours
    let (producer, producer_client) = member(&stage, "pg_monitor").await;
    owner_client.batch_execute(&format!("grant insert on entity_species to {producer}")).await.unwrap();
    producer_client.batch_execute("insert into entity_species values ('dog')").await.unwrap();
    assert_eq!(stage.count("event_outbox").await, 2);
    assert_eq!(fails(&producer_client, "select fn_route_list()").await, "42501");

    // previews show rows only to who may read them
    assert_eq!(fails(&operator_client, &format!("select fn_route_preview('{CODE}')")).await, "42501");
    owner_client.batch_execute(&format!("grant select on entity_species to {reader}")).await.unwrap();
    let preview = answer(&reader_client, &format!("fn_route_preview('{CODE}')")).await;
    assert_eq!(preview["rows"].as_array().unwrap().len(), 2, "{preview}");
    assert_eq!(
        fails(&reader_client, &format!("select fn_route_disable('{CODE}', 'test', 'a test')")).await,
        "42501"
    );

    let disabled = answer(&operator_client, &format!("fn_route_disable('{CODE}', 'test', 'a test')")).await;
    assert_eq!((&disabled["state"], &disabled["trigger_left"]), (&"disabled".into(), &"not_owner".into()));
    owner_client.batch_execute("insert into entity_species values ('cow')").await.unwrap();
    assert_eq!(stage.count("event_outbox").await, 2, "any operator stops it at once");
    assert_eq!(stage.findings().await, ["trigger_left_over"]);
    answer(&owner_client, &format!("fn_route_disable('{CODE}', 'test', 'a test')")).await;
    assert_eq!(stage.findings().await, Vec::<String>::new());
    drop((owner_client, operator_client, reader_client, producer_client));
    go(&stage, &[producer, reader, operator, owner]).await;
}

#[tokio::test]
async fn a_trigger_that_somebody_makes_by_hand_emits_nothing_for_a_route_of_another_table() {
    let stage = Stage::live(&route("insert")).await;
    stage
        .run(
            "create table mine (code text primary key, mode text);
        create trigger mine after insert on mine referencing new table as route_new for each statement
          execute function fn_route_capture('species.born');
        insert into mine values ('forged')",
        )
        .await;
    assert_eq!(stage.count("event_outbox").await, 0);
    assert_eq!(stage.findings().await, ["faults", "trigger_left_over"]);
}
