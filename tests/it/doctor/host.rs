//! The host's own tables.

use super::Patient;

#[tokio::test]
async fn a_unique_index_on_the_outbox_that_swallows_repeats_is_named() {
    let patient = Patient::new().await;
    for harm in [
        "create unique index idx_event_outbox_idempotent on event_outbox (event_domain, event_type, event_subject_table, event_subject_ref)
           where delivery_lane = 'immediate'",
        "alter table event_outbox add constraint once unique (correlation_id)",
    ] {
        patient.run(harm).await;
        let mend = patient.sees("repeats_dropped", "on event_outbox");
        patient.run(mend.split("relies on it: ").nth(1).unwrap()).await;
        patient.is_healthy();
    }
    patient.run("create unique index harmless on event_outbox (event_domain, id)").await;
    patient.is_healthy();
}

#[tokio::test]
async fn readers_of_the_legacy_table_are_named_and_without_any_it_may_go() {
    let patient = Patient::new().await;
    patient.run("create table iu_notification_event (id int primary key)").await;
    let mend = patient.sees("legacy_unread", "table public.iu_notification_event");
    let drop = mend.split("then: ").nth(1).unwrap().to_owned();
    patient
        .run(
            "create view old_news as select * from iu_notification_event;
             create function old_count() returns bigint language plpgsql as $$ begin return (select count(*) from iu_notification_event); end $$;
             create table note (id int references iu_notification_event);
             select count(*) from iu_notification_event; select pg_stat_force_next_flush()",
        )
        .await;
    patient.run("select 1").await;
    patient.sees("legacy_read", "table public.iu_notification_event");
    let found = patient.findings(&[]);
    let what = found[0]["what"].as_str().unwrap();
    for reader in ["view old_news", "function old_count()", "foreign key of note", "reads of it since"] {
        assert!(what.contains(reader), "{what}");
    }
    patient.run("drop view old_news; drop function old_count(); drop table note").await;
    patient.run("select pg_stat_reset_single_table_counters('public.iu_notification_event'::regclass)").await;
    patient.sees("legacy_unread", "table public.iu_notification_event");
    patient.run(&drop).await;
    patient.is_healthy();
}
