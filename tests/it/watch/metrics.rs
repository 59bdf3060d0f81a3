//! `/metrics` on workflows, routes and schedules.

use std::time::Duration;

use reveille::maintain::{Housekeeper, Pruned};

use super::stage::Stage;
use crate::http::Served;
use crate::support::server_at;

#[tokio::test]
async fn workflows_are_told_with_what_waits_and_since_when() {
    let stage = Stage::new().await;
    let face = Served::start(server_at(&stage.db.url()), None, Duration::ZERO).await;
    let told = async || {
        let scrape = face.scrape().await;
        assert_eq!(scrape.value("reveille_database_up", &[]), Some(1.0));
        let are = |state| scrape.value("reveille_workflows", &[("state", state)]);
        let waiting = |gate| scrape.value("reveille_workflow_gates_waiting", &[("gate", gate)]);
        let oldest = |gate| scrape.value("reveille_workflow_gate_oldest_seconds", &[("gate", gate)]);
        (
            [are("active"), are("failed_holding"), waiting("approval"), waiting("event")],
            [oldest("approval"), oldest("event")],
        )
    };
    assert_eq!(told().await, ([Some(0.0); 4], [Some(0.0); 2]));
    for (template, well) in [("letter", true), ("order", true), ("letter", false)] {
        stage.emit(template).await;
        stage.end_one(well).await;
    }
    stage
        .run("update job_queue set finished_at = finished_at - interval '2 hours' where status = 'succeeded'")
        .await;
    stage.run("update job_queue set created_at = created_at - interval '3 hours'").await;
    let (counts, oldest) = told().await;
    assert_eq!(counts, [2.0, 1.0, 1.0, 1.0].map(Some));
    assert!(oldest.iter().flatten().all(|age| (7200.0..7300.0).contains(age)), "{oldest:?}");
    stage.run("select fn_job_workflow_cancel(workflow_id, 'test', 'x') from job_workflow").await;
    assert_eq!(told().await, ([Some(0.0); 4], [Some(0.0); 2]), "what is drained reads 0");
    face.stop().await;
}

#[tokio::test]
async fn routes_are_told_with_their_events_dry_runs_and_faults() {
    let stage = Stage::new().await;
    stage.set("queue.route.enabled", "true").await;
    let begin = "create table paid (id int primary key);
        select fn_route_put('{\"route_code\": \"paid\", \"source_table\": \"paid\", \"sql_event\": \"insert\", \"target_event_domain\": \"iu\",
          \"target_event_type\": \"paid\"}', 'test');
        select fn_route_enable('paid', 'test', 'a test');
        insert into paid values (1), (2), (3);
        select fn_route_enable('paid', 'test', 'a test', false, true);
        insert into paid values (4), (5);
        begin; insert into paid values (6); rollback;
        insert into paid select 7 where false";
    for statement in begin.split(';') {
        stage.run(statement).await;
    }
    let settings = reveille::config::Maintenance::default();
    let housekeeper = Housekeeper::new(server_at(&stage.db.url()), stage.db.pool(1), &settings);
    let face = Served::start(server_at(&stage.db.url()), None, Duration::ZERO).await;
    let told = async || {
        let scrape = face.scrape().await;
        ["events_total", "dry_run_events_total", "faults"]
            .map(|what| scrape.value(&format!("reveille_route_{what}"), &[("route", "paid")]))
    };
    assert_eq!(told().await, [Some(0.0); 3], "nobody has added them up yet");
    for _ in 0..2 {
        housekeeper.run_once(&mut Pruned::default()).await.unwrap();
        assert_eq!(
            told().await,
            [2.0, 3.0, 0.0].map(Some),
            "what was rolled back is not counted, and nothing twice"
        );
    }
    assert_eq!(stage.value("select count(*) from event_route_count", &[]).await, 0);
    stage.run("update event_type_registry set active = false where event_type = 'paid'").await;
    stage.run("insert into paid values (8)").await;
    assert_eq!(told().await, [2.0, 3.0, 1.0].map(Some));
    face.stop().await;
}

#[tokio::test]
async fn schedules_are_told_with_their_ticks_their_lateness_and_the_next_tick() {
    let stage = Stage::new().await;
    let put = "select fn_schedule_put('hourly', 'a.a', 'test', p_every => '1 hour'), fn_schedule_enable('hourly', true, 'test', 'test');
        update job_schedule set ticks = 7, ticks_missed = 2, next_tick_at = now() + interval '1 hour'";
    stage.run(put).await;
    let face = Served::start(server_at(&stage.db.url()), None, Duration::ZERO).await;
    let told = async || {
        let scrape = face.scrape().await;
        ["ticks_total", "ticks_missed_total", "overdue_seconds", "next_tick_seconds"]
            .map(|what| scrape.value(&format!("reveille_schedule_{what}"), &[("schedule", "hourly")]))
    };
    let [ticks, missed, overdue, next] = told().await;
    assert_eq!([ticks, missed, overdue], [Some(7.0), Some(2.0), Some(0.0)]);
    assert!(next.unwrap() > 1.7e9);
    stage.run("update job_schedule set next_tick_at = now() - interval '10 minutes'").await;
    assert!((600.0..700.0).contains(&told().await[2].unwrap()));
    stage.run("update job_schedule set enabled = false").await;
    assert_eq!(told().await[2..], [Some(0.0), None], "it will not come");
    face.stop().await;
}
