//! What pages read: no more than they say, and no page says more than it has read.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::browser::Browser;
use super::stage::Stage;
use crate::http::client::get;
use crate::support::{SOON, connect, emit, wait_until};

/// A page with what its templates write for signs.
async fn page(stage: &Stage, path: &str) -> String {
    let answer = get(stage.address(), path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body.replace("&#38;", "&").replace("&amp;", "&")
}

/// The page behind this one.
fn next_of(body: &str) -> Option<String> {
    let (before, _) = body.split_once("\"><bdi>Next page")?;
    Some(before.rsplit_once("href=\"")?.1.to_owned())
}

#[tokio::test]
async fn many_who_look_cost_one_reading_and_nobody_costs_none() {
    let stage = Stage::set("words").await;
    stage.count_readings().await;
    let pages = (0..40).map(|_| get(stage.address(), "/"));
    let answers = futures::future::join_all(pages).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let readings = stage.readings().await;
    assert!((1..=3).contains(&readings), "{readings}");
    // who comes later is served by the same readings, one a second at most
    let begun = Instant::now();
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let (mut told, mut piece) = (String::new(), [0; 4096]);
        while !told.contains("event: at") {
            let read = timeout(SOON, stream.read(&mut piece)).await.unwrap().unwrap();
            told.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        streams.push(stream);
    }
    let more = stage.readings().await - readings;
    let most = i64::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!(more <= most, "{more} readings in {:?}", begun.elapsed());
    drop(streams);
    stage.nobody_reads().await;
}

#[tokio::test]
async fn a_page_that_takes_too_long_says_so_and_does_not_come_back_by_itself() {
    let stage = Stage::set("words").await;
    let other = connect(&stage.db.url()).await;
    other.batch_execute("begin; lock table job_queue in access exclusive mode").await.unwrap();
    let answer = get(stage.address(), "/jobs").await;
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("This took too long"), "{}", answer.body);
    assert!(answer.body.contains("data-live=\"\"") && !answer.body.contains("http-equiv"), "{}", answer.body);
    assert!(!answer.headers.contains_key("retry-after") && !answer.headers.contains_key("refresh"));
}

#[tokio::test]
async fn a_page_without_a_database_asks_again_more_and_more_seldom() {
    let stage = Stage::set("words").await;
    let name = stage.db.name();
    let other = connect(&stage.db.server().url("postgres")).await;
    other.batch_execute(&format!("alter database {name} with allow_connections false")).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    other.query(cut, &[&name]).await.unwrap();
    let browser = Browser::start().await;
    let quick = "window.pauses = []; const slow = window.setTimeout;
        window.setTimeout = (what, pause) => { window.pauses.push(pause); return slow(what, pause / 20); };";
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({ "source": quick })).await;
    browser.open(&stage.url("/jobs")).await;
    browser.sees("This page tries again by itself").await;
    let pauses = "return window.pauses.filter((pause) => pause >= 2000)";
    wait_until("it asks again and again", SOON, async || {
        browser.run(pauses).await.as_array().is_some_and(|pauses| pauses.len() > 5)
    })
    .await;
    let pauses = browser.run(pauses).await;
    let pauses: Vec<u64> =
        pauses.as_array().unwrap().iter().take(6).map(|pause| pause.as_u64().unwrap()).collect();
    assert_eq!(pauses, [2000, 4000, 8000, 16_000, 30_000, 30_000]);
    // without script the page itself comes back
    let body = get(stage.address(), "/jobs").await.body;
    assert!(body.contains("<noscript><meta http-equiv=\"refresh\""), "{body}");
    other.batch_execute(&format!("alter database {name} with allow_connections true")).await.unwrap();
}

#[tokio::test]
async fn silence_shows_on_a_page_that_nothing_else_changes() {
    let stage = Stage::set("first").await;
    stage.client.query_one("select pg_stat_force_next_flush()", &[]).await.unwrap();
    let browser = Browser::start().await;
    browser.open(&stage.url("/executors")).await;
    let row = "return [...document.querySelectorAll('#executors tbody tr')].map((row) => row.innerText).find((text) => text.includes('first'))";
    assert!(browser.run(row).await.as_str().unwrap().contains("beats"), "{}", stage.url("/executors"));
    browser.sees("Live, ").await;
    let told = "const shown = document.querySelector('#fresh span').textContent; return [shown, document.body.dataset.at]";
    let told = browser.run(told).await;
    assert_eq!(
        told[0],
        format!("Live, {} UTC", told[1].as_str().unwrap()),
        "when it was read, not when others were"
    );
    let silent = "update queue_heartbeat set last_beat_at = last_beat_at - interval '1 hour' where executor_name = 'first'";
    stage.client.batch_execute(silent).await.unwrap();
    wait_until("the page says `silent`", SOON, async || {
        browser.run(row).await.as_str().is_some_and(|row| row.contains("silent"))
    })
    .await;
}

#[tokio::test]
async fn a_paused_consumer_is_not_called_enabled_and_can_be_resumed() {
    let stage = Stage::with_token("words").await;
    let consumer = "/consumers/one_job_each";
    let act = |act: &str| format!("/act/{act}?scope=consumer&name=one_job_each");
    let body = page(&stage, consumer).await;
    assert!(body.contains(&act("pause")) && !body.contains(&act("resume")), "{body}");
    let pause = "select fn_pause('consumer', 'one_job_each', 'user:ann', 'it floods')";
    stage.client.batch_execute(pause).await.unwrap();
    let body = page(&stage, consumer).await;
    assert!(body.contains("paused by consumer") && body.contains("user:ann: it floods"), "{body}");
    assert!(body.contains(&act("resume")) && !body.contains(&act("pause")), "{body}");
    assert!(page(&stage, "/consumers").await.contains("paused by consumer"));
    // what stops its kind of job stops it, too, and its own pause is still what is offered
    let more = "select fn_resume('consumer', 'one_job_each', 'user:ann', 'it is calm'), fn_pause('job_kind', 'test.seen', 'user:bo', 'why')";
    stage.client.batch_execute(more).await.unwrap();
    let body = page(&stage, consumer).await;
    assert!(body.contains("paused by job kind") && body.contains(&act("pause")), "{body}");
}

#[tokio::test]
async fn a_problem_a_job_and_an_executor_lead_to_what_can_be_done() {
    let stage = Stage::with_token("words").await;
    assert!(page(&stage, "/").await.contains("<a href=\"/gates\"><bdi>Gates</bdi></a>"));
    let job = page(&stage, &format!("/jobs/{}", stage.job)).await;
    assert!(job.contains(&format!("href=\"/dead-letters/{}\"", stage.dead_letter)), "{job}");
    assert!(job.contains("/act/pause?scope=job_kind&name=test.seen"), "{job}");
    let executors = page(&stage, "/executors").await;
    assert!(executors.contains("/act/pause?scope=executor&name=idle-one"), "{executors}");
    let jobs = page(&stage, "/jobs?kind=test.seen&domain=iu").await;
    assert!(jobs.contains("/act/pause?scope=job_kind&name=test.seen"), "{jobs}");
    assert!(jobs.contains("/act/resume?scope=domain&name=iu"), "it is paused: {jobs}");
    assert!(!page(&stage, "/jobs").await.contains("/act/"), "nothing is named");
}

#[tokio::test]
async fn a_dry_run_looks_at_the_newest_events_and_a_failed_one_leaves_the_page() {
    let stage = Stage::set("words").await;
    assert!(page(&stage, "/consumers").await.contains("8 of 8 events"));
    emit(&stage.client, "iu", 20_000).await;
    assert!(page(&stage, "/consumers").await.contains("0 of 0 events"), "its own are behind the newest");
    let body = page(&stage, "/consumers/trying_out").await;
    assert!(body.contains("No event of its domain among those.") && body.contains("newest 20000"), "{body}");
    let fails = "create or replace function fn_route_consumer_dry_run(p_consumer_key text, p_since timestamptz default null, p_limit int default 1000)
        returns table (
          event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text,
          ordering_key text, idempotency_key text, event_type text, created_at timestamptz, recipient text)
        language plpgsql as $$ begin raise exception 'out of luck'; end $$";
    stage.client.batch_execute(fails).await.unwrap();
    let list = page(&stage, "/consumers").await;
    assert!(list.contains("/consumers/trying_out") && !list.contains("of 8 events"), "{list}");
    let one = page(&stage, "/consumers/trying_out").await;
    assert!(one.contains("out of luck") && one.contains("All columns"), "{one}");
}

#[tokio::test]
async fn behind_many_that_wait_the_first_page_does_not_say_that_nothing_is_done() {
    let stage = Stage::set("words").await;
    assert!(page(&stage, "/").await.contains("<bdi>Done</bdi>"));
    let many = "insert into job_queue (job_kind, actor, idempotency_key) select 'bulk.load', 'test', n::text from generate_series(1, 5001) n";
    stage.client.batch_execute(many).await.unwrap();
    wait_until("the first page is read again", SOON, async || {
        let body = page(&stage, "/").await;
        body.contains("Done and failed are not known: the newest 5000 jobs are all younger")
            && !body.contains("<bdi>Done</bdi>")
    })
    .await;
}

#[tokio::test]
async fn what_is_narrowed_goes_on_where_its_look_ended() {
    let stage = Stage::set("words").await;
    emit(&stage.client, "iu", 20_000).await;
    let first = page(&stage, "/events?domain=system").await;
    assert!(first.contains("No such events here.") && first.contains("then the next one goes on"), "{first}");
    let second = page(&stage, &next_of(&first).expect("a next page")).await;
    assert!(second.contains(&stage.event) && next_of(&second).is_none(), "{second}");

    let decide = "update job_dead_letter set triage_status = 'closed'";
    let many = "insert into job_dead_letter (job_id, job_kind, executor, reason_class, job, attempts)
        select gen_random_uuid(), 'bulk.load', 'DOT', 'permanent', '{}', '[]' from generate_series(1, 20000)";
    stage.client.batch_execute(&format!("{decide}; {many}")).await.unwrap();
    let first = page(&stage, "/dead-letters?show=decided").await;
    assert!(
        first.contains("No dead letters here.") && first.contains("20000 dead letters at most"),
        "{first}"
    );
    let second = page(&stage, &next_of(&first).expect("a next page")).await;
    assert!(second.contains(&stage.dead_letter) && next_of(&second).is_none(), "{second}");
}

#[tokio::test]
async fn what_no_database_holds_is_a_wrong_question() {
    let stage = Stage::set("words").await;
    let id = uuid::Uuid::nil();
    for path in [
        "/jobs?kind=a%00b".to_owned(),
        "/events?domain=%00".to_owned(),
        "/workflows?template=%00".to_owned(),
        "/consumers/a%00b".to_owned(),
        "/search?q=%00".to_owned(),
        format!("/events?before=-009999-01-03T00:00:00Z_{id}"),
        format!("/dead-letters?behind=-004713-01-01T00:00:00Z_{id}"),
    ] {
        let answer = get(stage.address(), &path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body.contains("That cannot be asked"), "{path}");
    }
    assert_eq!(
        get(stage.address(), &format!("/events?before=-004712-01-01T00:00:00Z_{id}")).await.status,
        200
    );
}

impl Stage {
    /// From now on the readings of the first page are counted, in the database.
    pub(super) async fn count_readings(&self) {
        let counted = "create sequence readings; alter function fn_gate_list() rename to gates_before;
            create function fn_gate_list()
            returns table (key text, value text, updated_at timestamptz, actor text, reason text, is_set boolean, lets_through text)
            language plpgsql as $$ begin perform nextval('readings'); return query select * from gates_before(); end $$";
        self.client.batch_execute(counted).await.unwrap();
    }

    async fn readings(&self) -> i64 {
        let count = "select case when is_called then last_value else 0 end from readings";
        self.client.query_one(count, &[]).await.unwrap().get(0)
    }

    /// Waits until three times have passed at which there would have been a reading.
    pub(super) async fn nobody_reads(&self) {
        let (mut seen, mut since) = (-1, Instant::now());
        wait_until("the board rests", SOON, async || {
            let now = self.readings().await;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(6)
        })
        .await;
    }
}
