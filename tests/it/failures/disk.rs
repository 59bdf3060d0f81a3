//! No space left on the server.

use crate::support::{DOMAIN, Program, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

/// What a full disk looks like to a statement, on a disk that is not full.
const FULL: &str = r#"
    create sequence tries;
    create function disk_full() returns trigger language plpgsql as $$
    begin
      perform nextval('tries');
      raise exception 'could not extend file "base/16384/16400": No space left on device'
        using errcode = '53100', hint = 'Check free disk space.';
    end $$;
    create trigger disk_full before insert on job_queue execute function disk_full();"#;

#[tokio::test]
async fn a_full_disk_is_told_once_and_holds_only_what_it_hits() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(FULL).await.unwrap();
    let mut sidecar = Program::run(&db.url(), &[]);
    emit_each(&client, 3).await;
    let line = sidecar.says(&["ERROR", "No space left on device (SQLSTATE 53100); trying again"]).await;
    assert!(line.contains(&format!("dispatching {DOMAIN}: could not extend file")), "{line}");
    assert!(line.contains("(free disk space on the server; work goes on by itself afterwards)"), "{line}");
    wait_until("several tries have failed", SOON, async || {
        let tries = client.query_one("select last_value from tries", &[]).await.unwrap();
        tries.get::<_, i64>(0) >= 5
    })
    .await;
    client.batch_execute("drop trigger disk_full on job_queue").await.unwrap();
    let line = sidecar.says(&["INFO", "goes on, after "]).await;
    assert!(line.contains(&format!("domain {DOMAIN} goes on")), "{line}");
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("ERROR").len(), 1);
    sidecar.stops().await;
}
