//! Who asks for a template that there is not, or for jobs that nobody runs, is told so and not refused.

use crate::commands::{json, words};
use crate::support::{Folder, TestDb};

const FILE: &str = r#"
event_domain = "system"
event_type   = "queue_dispatch_gap"
job_kind     = "workflow:nothere"
description  = "comes before its template"
"#;

const HANDLER: &str =
    "create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
    insert into job_handler (job_kind, handler) values ('report.make', 'nothing(jsonb)')";

const PUT: &str = r#"select fn_mot_template_put('{"template_key": "nothere", "nodes": [{"key": "a", "job_kind": "report.make"}]}', 'test')"#;

#[tokio::test]
async fn a_consumer_that_comes_before_its_template_is_written_and_everybody_says_what_is_missing() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let folder = Folder::open_to_all();
    let file = folder.path().join("early.toml");
    std::fs::write(&file, FILE).unwrap();
    let (file, dir) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    let says =
        |text: &str| text.contains("warning: there is no template nothere") && text.contains("workflows put");
    let (code, text, err) = words(&db, &["consumers", "preview", file]);
    assert!(code == Some(0) && says(&text), "{text}{err}");
    let (code, text, err) = words(&db, &["consumers", "sync", "--dir", dir, "--apply"]);
    assert!(code == Some(0) && says(&text) && text.contains("1 consumer written"), "{text}{err}");
    assert_eq!(words(&db, &["doctor"]).0, Some(0), "it is not enabled");
    let enable = ["consumers", "enable", "early", "--reason", "x"];
    let (code, text, _) = words(&db, &enable);
    assert!(code == Some(0) && says(&text), "{text}");
    let (code, found, _) = json(&db, &["doctor"]);
    let finding = &found["findings"][0];
    assert_eq!((code, &finding["finding"]), (Some(1), &"unknown_template".into()), "{found}");
    assert_eq!(finding["subject"], "consumer early");
    assert!(finding["mend"].as_str().unwrap().contains("reveille consumers disable early"), "{finding}");

    let client = db.client().await;
    client.batch_execute(HANDLER).await.unwrap();
    client.batch_execute(PUT).await.unwrap();
    assert_eq!(words(&db, &["doctor"]).0, Some(0));
    let (_, answer, _) = json(&db, &enable);
    assert!(answer.get("warning").is_none(), "{answer}");
}

#[tokio::test]
async fn a_schedule_of_jobs_that_nobody_runs_is_written_and_everybody_says_so() {
    let db = TestDb::new().await;
    let when = ["--every", "1h"];
    let says = |text: &str| text.contains("warning: nobody says that he runs jobs of kind report.make");
    for verb in ["preview", "put"] {
        let (code, text, err) =
            words(&db, &[&["schedules", verb, "hourly", "--kind", "report.make"], &when[..]].concat());
        assert!(code == Some(0) && says(&text), "{text}{err}");
        let workflow = ["schedules", verb, "flow", "--kind", "workflow:nothere"];
        let (_, text, _) = words(&db, &[&workflow, &when[..]].concat());
        assert!(text.contains("warning: there is no template nothere"), "{text}");
    }
    assert_eq!(words(&db, &["doctor"]).0, Some(0), "they are not enabled");
    let enable = ["schedules", "enable", "hourly", "--reason", "x"];
    assert!(says(&words(&db, &enable).1));
    words(&db, &["schedules", "enable", "flow", "--reason", "x"]);
    let (code, text, _) = words(&db, &["doctor"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("error: schedule flow: there is no template nothere"), "{text}");
    assert!(text.contains("warning: schedule hourly: nobody says"), "{text}");
    assert!(text.contains("reveille schedules disable hourly"), "{text}");

    let client = db.client().await;
    client.batch_execute(HANDLER).await.unwrap();
    client.batch_execute(PUT).await.unwrap();
    assert_eq!(words(&db, &["doctor"]).0, Some(0));
    assert!(!says(&words(&db, &enable).1));
}

#[tokio::test]
async fn jobs_that_somebody_has_claimed_without_saying_so_first_are_known() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let warning = async || {
        let row = client.query_one("select fn_job_kind_warning('report.make')", &[]).await.unwrap();
        row.get::<_, Option<String>>(0)
    };
    client.batch_execute("select fn_job_enqueue('report.make', 'test')").await.unwrap();
    assert!(warning().await.is_some(), "that it waits says nothing");
    let claim = "select fn_queue_heartbeat_register('one', 'PG_worker'); select fn_job_claim('one')";
    client.batch_execute(claim).await.unwrap();
    assert_eq!(warning().await, None);
}

#[tokio::test]
async fn that_a_consumer_asks_for_a_kind_makes_nobody_run_it_for_a_schedule() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let put = r#"select fn_consumer_put('{"consumer_key": "idle", "event_domain": "iu", "job_kind": "report.make"}', 't', 'sql')"#;
    client.batch_execute(put).await.unwrap();
    words(&db, &["schedules", "put", "hourly", "--kind", "report.make", "--every", "1h"]);
    words(&db, &["schedules", "enable", "hourly", "--reason", "x"]);
    let subjects = async || {
        let subjects =
            "select coalesce(string_agg(subject, ', ' order by subject), '') from fn_job_kind_check()";
        client.query_one(subjects, &[]).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(subjects().await, "schedule hourly", "its consumer is disabled");
    client.batch_execute("update consumer_registry set enabled = true, dry_run = true").await.unwrap();
    assert_eq!(subjects().await, "schedule hourly", "its consumer only counts");
    client.batch_execute("update consumer_registry set dry_run = false").await.unwrap();
    assert_eq!(subjects().await, "consumer idle, schedule hourly");
    client.batch_execute(HANDLER).await.unwrap();
    assert_eq!(subjects().await, "");
}
