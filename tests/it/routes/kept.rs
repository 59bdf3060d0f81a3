//! The statement that a route keeps for its trigger: used as long as it fits, made anew when it does not.

use serde_json::{Value, json};

use super::stage::{Stage, route, with};

/// What is kept, and whether it fits the route and its table.
async fn kept(stage: &Stage) -> (Option<String>, bool) {
    let kept = "select o.rows_sql,
          coalesce(o.rows_for = to_jsonb(r) - array['created_at', 'updated_at']
            and o.rows_shape = fn_route_shape('entity_species'::regclass, o.rows_columns), false)
        from event_route o join iu_sql_event_route r on r.route_code = o.route_code";
    let row = stage.client.query_one(kept, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn the_kept_statement_is_the_one_that_the_trigger_would_make_and_follows_the_route() {
    let stage = Stage::new().await;
    for sql_event in ["insert", "delete", "update"] {
        stage.put(&route(sql_event)).await;
        let made = format!(
            "fn_route_rows(to_jsonb(r), 'entity_species'::regclass, '{} n', {}) from iu_sql_event_route r",
            if sql_event == "delete" { "route_old" } else { "route_new" },
            if sql_event == "update" { "'route_old n'" } else { "null" },
        );
        let made: String = stage.client.query_one(&format!("select {made}"), &[]).await.unwrap().get(0);
        assert_eq!(kept(&stage).await, (Some(made), true), "{sql_event}");
    }
    stage.enable(Some(false)).await;
    stage.run("insert into entity_species values ('cat', 'Cat', 'wild'); update entity_species set mode = 'tame'").await;
    stage.put(&with(route("update"), &json!({ "payload_contract": { "columns": ["mode"] } }))).await;
    assert!(kept(&stage).await.1, "a changed route has another statement at once");
    stage.run("update entity_species set mode = 'shy'").await;
    let payloads = "jsonb_agg(safe_payload order by id) from event_outbox";
    assert_eq!(
        stage.answer(payloads, &[]).await,
        json!([{ "code": "cat", "mode": "tame" }, { "mode": "shy" }])
    );
}

#[tokio::test]
async fn a_route_that_somebody_made_narrower_by_hand_is_obeyed_at_once() {
    let stage = Stage::live(&route("insert")).await;
    stage.run(r#"update iu_sql_event_route set payload_contract = '{"columns": ["mode"], "subject_ref": "a {code}"}'"#).await;
    assert!(!kept(&stage).await.1);
    stage.run("insert into entity_species values ('cat', 'Cat', 'wild')").await;
    assert_eq!(stage.answer("safe_payload from event_outbox", &[]).await, json!({ "mode": "wild" }));
    stage.answer("fn_route_prune()", &[]).await;
    assert!(kept(&stage).await.1, "the maintenance keeps the new one");
}

#[tokio::test]
async fn a_table_that_changes_under_a_route_is_read_as_it_is_now_and_none_of_its_owners_code_runs() {
    let stage =
        Stage::live(&with(route("insert"), &json!({ "payload_contract": { "columns": ["mode"] } }))).await;
    stage.run("create type mood as enum ('sad', 'glad');
        create function spring(mood) returns json language plpgsql as $$ begin raise exception 'reached as %', current_user; end $$;
        create cast (mood as json) with function spring(mood);
        alter table entity_species alter mode type mood using 'sad'").await;
    stage.run("insert into entity_species values ('cat', 'Cat', 'glad')").await;
    stage
        .run("alter table entity_species drop constraint entity_species_pkey, add primary key (name, code)")
        .await;
    stage.run("insert into entity_species values ('dog', 'Dog', 'sad')").await;
    assert_eq!(stage.faults().await, Vec::<String>::new());
    assert_eq!(stage.subjects().await, ["cat", "Dog/dog"], "the subject is the key, as it is now");
    assert!(!kept(&stage).await.1);
    stage.answer("fn_route_prune()", &[]).await;
    assert!(kept(&stage).await.1);
    stage.run("insert into entity_species values ('cow', 'Cow', 'sad')").await;
    let payloads = "jsonb_agg(safe_payload order by id) from event_outbox";
    let moods = [json!({ "mode": "glad" }), json!({ "mode": "sad" }), json!({ "mode": "sad" })];
    assert_eq!(stage.answer(payloads, &[]).await, Value::from(moods.to_vec()));

    // what cannot work leaves what was kept, which fits no more
    stage.run("alter table entity_species rename mode to manner").await;
    stage.answer("fn_route_prune()", &[]).await;
    stage.run("insert into entity_species values ('ewe', 'Ewe', 'sad')").await;
    assert_eq!(stage.faults().await, ["42703"]);
}

#[tokio::test]
async fn one_row_and_many_rows_are_told_alike() {
    for policy in ["per_change", "per_row", "per_transaction"] {
        let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": policy }))).await;
        let columns =
            "to_jsonb(e) - array['id', 'event_subject_ref', 'occurred_at', 'created_at', 'safe_payload']";
        stage.run("insert into entity_species values ('one', 'O', 'wild')").await;
        stage.run("insert into entity_species values ('two', 'O', 'wild'), ('three', 'O', 'wild')").await;
        let kinds = format!("count(distinct {columns}) from event_outbox e");
        let kinds: i64 = stage.client.query_one(&format!("select {kinds}"), &[]).await.unwrap().get(0);
        assert_eq!((stage.subjects().await.len(), kinds), (3, 1), "{policy}");

        // deleted and made again, alone and together; one without a subject each time
        stage.run("delete from entity_species").await;
        stage.run("insert into entity_species values ('one')").await;
        stage.run("insert into entity_species values ('two'), ('three')").await;
        let again = if policy == "per_row" { 3 } else { 6 };
        assert_eq!(stage.subjects().await.len(), again, "{policy}");
        // an outbox that allows no second one
        let once = "truncate event_outbox cascade; truncate event_route_key; delete from entity_species;
            create unique index once on event_outbox (event_subject_ref)";
        stage.run(once).await;
        for _ in 0..2 {
            stage.run("insert into entity_species values ('one'); delete from entity_species").await;
            stage
                .run("insert into entity_species values ('two'), ('three'); delete from entity_species")
                .await;
        }
        assert_eq!(stage.subjects().await.len(), 3, "{policy}");
        let faults = if policy == "per_row" { vec![] } else { vec!["23505", "23505"] };
        assert_eq!(stage.faults().await, faults, "{policy}");
    }
}
