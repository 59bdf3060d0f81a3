//! A route does not feed itself.

use serde_json::json;

use super::stage::{Stage, route, with};

/// Each event makes another row of the table.
const FED: &str = "
    create function feed() returns trigger language plpgsql as
      $$ begin insert into entity_species (code) values (gen_random_uuid()); return null; end $$;
    create trigger feed after insert on event_outbox for each row execute function feed();";

#[tokio::test]
async fn no_table_that_the_migrations_make_can_have_a_route() {
    let stage = Stage::new().await;
    stage.run("select fn_job_archive_month(now())").await;
    let tables = "select relname::text from pg_class where relnamespace = current_schema()::regnamespace
        and relkind in ('r', 'p') and relname <> 'entity_species' order by 1";
    let tables = stage.client.query(tables, &[]).await.unwrap();
    assert!(tables.len() > 35, "the stage's own table alone is not Reveille's");
    for table in tables.iter().map(|row| row.get::<_, String>(0)) {
        let changes =
            json!({ "source_table": table, "payload_contract": { "columns": [], "subject_ref": "x" } });
        let told = stage.put_fails(&with(route("insert"), &changes)).await;
        assert_eq!(told, format!("public.{table} is a table of Reveille: a route on it would feed itself"));
    }
    stage.run("create schema host; create table host.job_queue (id int primary key)").await;
    let host = json!({ "source_schema": "host", "source_table": "job_queue", "payload_contract": {} });
    stage.put(&with(route("insert"), &host)).await;
}

#[tokio::test]
async fn events_that_lead_to_the_same_write_again_end_after_eight_with_a_fault_that_says_so() {
    let stage = Stage::live(&route("insert")).await;
    stage.run(FED).await;
    stage.run("insert into entity_species (code) values ('cat')").await;
    assert_eq!(stage.count("event_outbox").await, 8);
    assert_eq!(stage.count("entity_species").await, 9, "the write passed");
    assert_eq!(stage.faults().await, ["54001"]);
    let fault = stage.answer("to_jsonb(f) from event_route_fault f", &[]).await;
    let told = "its event leads to the same write again: more than 8 events of routes within one another";
    assert_eq!(fault["message"], told);

    stage.run("delete from entity_species").await;
    stage.put(&with(route("insert"), &json!({ "fail_closed": true }))).await;
    let error = stage.fails("insert into entity_species (code) values ('dog')").await;
    assert_eq!(
        error.message(),
        format!("route species.born refuses this insert of public.entity_species: {told}")
    );
    assert_eq!(stage.count("entity_species").await, 0);
}

#[tokio::test]
async fn a_cascade_of_the_hosts_own_may_be_deeper() {
    let stage = Stage::live(&route("insert")).await;
    stage
        .run(
            "create function grow() returns trigger language plpgsql as $$
               begin if new.code::int < 20 then insert into entity_species (code) values (new.code::int + 1); end if; return null; end $$;
             create trigger grow after insert on entity_species for each row execute function grow();
             insert into entity_species (code) values ('1')",
        )
        .await;
    assert_eq!(stage.count("event_outbox").await, 20);
    assert_eq!(stage.faults().await, Vec::<String>::new());
}
