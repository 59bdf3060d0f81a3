//! What travels is what the table's owner has agreed to, whoever writes and switches routes.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::roles::{answer, go, member};
use super::stage::{CODE, Stage, route, with};

/// A live route on a table of somebody else, the owner, and an operator who has no right on the table.
struct Two {
    stage: Stage,
    names: [String; 2],
    owner: Client,
    operator: Client,
}

impl Two {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let (owner, owner_client) = member(&stage, "reveille_operator").await;
        let (operator, operator_client) = member(&stage, "reveille_operator").await;
        stage
            .run(&format!(
                "alter table entity_species owner to {owner}; alter table entity_species add salary int"
            ))
            .await;
        stage.put(&with(route("insert"), &contract(&["code", "mode"]))).await;
        let two = Self { stage, names: [owner, operator], owner: owner_client, operator: operator_client };
        let live =
            answer(&two.owner, &format!("fn_route_enable('{CODE}', 'test', 'a test', false, true)")).await;
        assert_eq!(live["state"], "live", "{live}");
        two
    }

    async fn insert(&self, code: &str) -> Vec<Value> {
        let insert = format!(
            "insert into entity_species (code, name, mode, salary) values ('{code}', 'N', 'wild', 200)"
        );
        self.owner.batch_execute(&insert).await.unwrap();
        let payloads = self
            .stage
            .answer("coalesce(jsonb_agg(safe_payload order by id), '[]') from event_outbox", &[])
            .await;
        payloads.as_array().unwrap().clone()
    }

    async fn end(self) {
        drop((self.owner, self.operator));
        go(&self.stage, &self.names).await;
    }
}

fn contract(columns: &[&str]) -> Value {
    json!({ "payload_contract": { "columns": columns, "subject_ref": "entity_species:{code}" } })
}

async fn put(client: &Client, route: &Value) -> Value {
    client.query_one("select fn_route_put($1, 'test')", &[route]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_operator_makes_a_live_route_narrower_and_never_wider_than_the_tables_owner_agreed_to() {
    let two = Two::new().await;
    let live = route("insert");
    for (changes, beyond) in [
        (contract(&["code", "mode", "salary"]), "column salary"),
        (json!({ "fail_closed": true }), "fail_closed"),
        (json!({ "payload_contract": { "columns": ["code", "mode"] } }), "subject_ref from the primary key"),
        (json!({ "idempotency_policy": "per_row" }), "idempotency_policy per_row"),
        (
            json!({ "payload_contract": { "columns": ["code"], "subject_ref": "{code}", "when_changed": "any" } }),
            "when_changed any",
        ),
    ] {
        let wider = with(live.clone(), &changes);
        let refused = put(&two.operator, &wider).await;
        assert_eq!(
            (&refused["reason"], &refused["beyond"]),
            (&"consent_missing".into(), &json!([beyond])),
            "{refused}"
        );
        assert_eq!(refused["owner"], two.names[0].as_str(), "{refused}");
    }
    assert_eq!(two.insert("a").await, [json!({ "code": "a", "mode": "wild" })]);

    let narrower = json!({ "payload_contract": { "columns": ["mode"], "subject_ref": "s {code}", "correlation_id": "{mode}" } });
    assert_eq!(put(&two.operator, &with(live.clone(), &narrower)).await["changed"], true);
    assert_eq!(two.insert("b").await[1..], [json!({ "mode": "wild" })]);
    assert_eq!(put(&two.operator, &live).await["refused"], false, "back to what was agreed to");
    // the owner agrees by doing it
    assert_eq!(put(&two.owner, &with(live.clone(), &contract(&["code", "salary"]))).await["changed"], true);
    assert_eq!(two.insert("c").await[2..], [json!({ "code": "c", "salary": 200 })]);
    assert_eq!(put(&two.operator, &live).await["beyond"], json!(["column mode"]), "no longer agreed to");
    assert_eq!(two.stage.faults().await, Vec::<String>::new());
    two.end().await;
}

#[tokio::test]
async fn an_operator_makes_a_route_dry_or_stops_it_and_only_the_tables_owner_lets_it_go_on() {
    let two = Two::new().await;
    let enable = |dry: bool| format!("fn_route_enable('{CODE}', 'test', 'a test', {dry}, true)");
    let switch = |dry: bool| format!("fn_route_switch('{CODE}', true, {dry}, 'test', 'a test')");
    assert_eq!(answer(&two.operator, &enable(true)).await["state"], "dry run");
    assert_eq!(answer(&two.operator, &enable(true)).await["state"], "dry run", "as it was");
    assert_eq!(answer(&two.operator, &enable(false)).await["reason"], "not_owner");
    assert_eq!(answer(&two.operator, &switch(false)).await["reason"], "consent_missing");
    assert_eq!(two.insert("a").await, Vec::<Value>::new());
    assert_eq!(answer(&two.owner, &enable(false)).await["state"], "live");

    assert_eq!(
        answer(&two.operator, &format!("fn_route_disable('{CODE}', 'test', 'a test')")).await["trigger_left"],
        "not_owner"
    );
    for dry in [true, false] {
        assert_eq!(answer(&two.operator, &enable(dry)).await["reason"], "not_owner");
        assert_eq!(
            answer(&two.operator, &switch(dry)).await["reason"],
            "consent_missing",
            "though its trigger stands"
        );
    }
    // not even the row itself brings it back
    two.stage.run("update iu_sql_event_route set enabled = true").await;
    assert_eq!(two.insert("b").await, Vec::<Value>::new());
    assert_eq!(two.stage.faults().await, ["42501"]);
    assert_eq!(two.stage.findings().await, ["consent_missing", "faults"]);
    assert_eq!(answer(&two.owner, &enable(false)).await["state"], "live");
    assert_eq!(two.insert("c").await.len(), 1);
    two.end().await;
}

#[tokio::test]
async fn a_row_that_says_more_than_was_agreed_to_becomes_a_fault_and_refuses_no_write() {
    let two = Two::new().await;
    for (harm, mode) in [
        (
            "payload_contract = jsonb_set(payload_contract, '{columns}', '[\"salary\"]'), dry_run = true",
            "dry run",
        ),
        ("fail_closed = true", "live"),
    ] {
        two.stage.run(&format!("update iu_sql_event_route set {harm}")).await;
        assert_eq!(two.insert(mode).await, Vec::<Value>::new());
        two.stage.answer("fn_route_prune()", &[]).await;
        assert_eq!(
            two.insert(&format!("{mode} again")).await,
            Vec::<Value>::new(),
            "nor when it is prepared"
        );
    }
    assert_eq!(two.stage.faults().await, ["42501"; 4]);
    assert_eq!(two.stage.count("event_route_sample").await, 0, "nor does a sample hold it");
    let check =
        two.stage.answer("to_jsonb(f) from fn_route_check() f where finding = 'consent_missing'", &[]).await;
    let what = "the owner of public.entity_species has not agreed to: column salary, fail_closed";
    assert_eq!(check["what"], what);
    assert!(
        check["hint"].as_str().unwrap().starts_with(&format!("as {}: reveille routes enable", two.names[0])),
        "{check}"
    );
    two.end().await;
}

#[tokio::test]
async fn a_consent_that_is_none_lets_nothing_travel_and_breaks_nothing() {
    let stage = Stage::live(&route("insert")).await;
    for argument in ["", ", 'no JSON'", ", '[1]'", r#", '{"number": "x", "columns": 7}'"#] {
        stage
            .run(&format!(
                r#"create or replace trigger "reveille_route_species.born" after insert on entity_species
                referencing new table as route_new for each statement execute function fn_route_capture('species.born'{argument});
                insert into entity_species (code) values (gen_random_uuid())"#
            ))
            .await;
        assert_eq!(stage.findings().await, ["consent_missing", "faults"], "{argument}");
    }
    assert_eq!(stage.count("event_outbox").await, 0);
    assert_eq!(stage.enable(None).await["state"], "live");
    stage.run("insert into entity_species (code) values ('cat')").await;
    assert_eq!(stage.subjects().await, ["entity_species:cat"]);
}
