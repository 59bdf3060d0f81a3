//! The dashboard in a real Chromium: its facts, its news, its manners. What it answers without a browser is in `plain`.

mod browser;
mod clerk;
mod desk;
mod keyboard;
mod looks;
mod orders;
mod plain;
mod reads;
mod stage;

use std::time::{Duration, Instant};

use fantoccini::Locator;
use serde_json::json;

use self::browser::Browser;
use self::stage::{HOSTILE, Stage};
use crate::support::{SOON, wait_until};

#[tokio::test]
async fn each_page_shows_its_facts_and_leads_to_the_others() {
    let stage = Stage::set("plain words").await;
    let browser = Browser::start().await;
    let facts: [(&str, &[&str]); 8] = [
        (
            "/",
            &[
                "Problems now",
                "idle-one has been silent",
                "paused",
                "Flow of the last hour",
                "system",
                "Wake-ups",
                "From event to job",
                "Executors and silences",
            ],
        ),
        ("/events", &["system.queue_worker_silent", "plain words"]),
        ("/jobs", &["test.seen", "dead letter", "retry waiting", "queued", "succeeded"]),
        ("/dead-letters", &["test.seen", "permanent", "investigating"]),
        ("/workflows", &["cut_pipeline@1", "3 of 6", "approval review"]),
        ("/consumers", &["one_job_each", "enabled", "trying_out", "dry run", "8 of 8 events"]),
        ("/executors", &["idle-one", "silent", "plain words"]),
        (
            "/gates",
            &["queue.archive.enabled", "open", "closed", "opened for a test", "domain", "plain words"],
        ),
    ];
    for (path, words) in facts {
        browser.open(&stage.url(path)).await;
        let text = browser.text().await;
        for word in words {
            assert!(text.contains(word), "{path} does not say `{word}`:\n{text}");
        }
    }
    browser.without_news().await; // what is clicked stays where it is
    // from a job to its event and back, by links alone
    browser.open(&stage.url(&format!("/jobs/{}", stage.job))).await;
    let text = browser.text().await;
    for word in ["How it stands, and why", "Timeline", "claimed", "permanent", "dead letter", "Payload"] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    browser
        .client
        .find(Locator::LinkText("The event that it was made from"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.sees("What became of it, and why").await;
    browser.sees("one_job_each").await;
    browser.open(&stage.url(&format!("/dead-letters/{}", stage.dead_letter))).await;
    browser.sees("investigating").await;
    browser.open(&stage.url("/consumers/trying_out")).await;
    browser.sees("What it would do").await;
    // the graph: every step is a link to its job, its standing a word
    browser.open(&stage.url(&format!("/workflows/{}", stage.workflow))).await;
    let steps = browser
        .run("return [...document.querySelectorAll('.graph a')].map((a) => a.getAttribute('aria-label'))")
        .await;
    let steps: Vec<&str> = steps.as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert_eq!(steps.len(), 6, "{steps:?}");
    assert!(steps.contains(&"mark: succeeded") && steps.contains(&"review: waits for approval"), "{steps:?}");
    browser.client.find(Locator::Css(".graph a")).await.unwrap().click().await.unwrap();
    browser.sees("Its workflow").await;
    // an id of anything is found
    for (id, words) in [
        (&stage.event, "Event system"),
        (&stage.workflow, "Workflow cut_pipeline"),
        (&stage.dead_letter, "Dead letter test.seen"),
    ] {
        let field = browser.client.find(Locator::Css("#q")).await.unwrap();
        field.send_keys(id).await.unwrap();
        browser.press("Enter").await;
        browser.sees(words).await;
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_happens_appears_without_a_reload() {
    let stage = Stage::set("first").await;
    let browser = Browser::start().await;
    browser.open(&stage.url("/")).await;
    browser.sees("Live, ").await;
    browser.run("window.stayed = true").await;
    stage
        .client
        .batch_execute("select fn_pause('consumer', 'one_job_each', 'user:ann', 'a new pause')")
        .await
        .unwrap();
    browser.sees("a new pause").await;
    assert_eq!(browser.run("return window.stayed").await, true, "the page was not loaded anew");
    // a list learns of it too, and whoever stands in it stays there
    browser.open(&stage.url("/events")).await;
    browser.sees("Live, ").await;
    browser.run("window.stayed = true; document.querySelector('td a').focus(); window.was = document.activeElement.href").await;
    stage.emit("the newest subject").await;
    browser.sees("the newest subject").await;
    assert_eq!(browser.run("return window.stayed && document.activeElement.href === window.was").await, true);
    // without anybody who looks nothing is read
    stage.count_readings().await;
    browser.open("about:blank").await;
    stage.nobody_reads().await;
}

#[tokio::test]
async fn ten_thousand_jobs_are_paged_by_keyboard_and_each_page_is_quick() {
    let stage = Stage::set("many").await;
    let many = "insert into job_queue (job_kind, actor, idempotency_key, source_ref)
        select 'bulk.load', 'test', n::text, 'row ' || n from generate_series(1, 10000) n";
    stage.client.batch_execute(&format!("{many}; analyze job_queue")).await.unwrap();
    let browser = Browser::start().await;
    browser.open(&stage.url("/jobs?kind=bulk.load")).await;
    let next = "const links = [...document.querySelectorAll('.links a')]; const next = links.find((a) => a.innerText.startsWith('Next'));
        if (next) next.focus(); return next ? next.href : null";
    let mut seen = std::collections::HashSet::new();
    let mut slowest = Duration::ZERO;
    for page in 0..8 {
        let rows = browser
            .run("return [...document.querySelectorAll('tbody td:first-child a')].map((a) => a.innerText)")
            .await;
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 50, "page {page}");
        assert!(rows.iter().all(|row| seen.insert(row.to_string())), "no row comes twice");
        let there = browser.run(next).await;
        let begun = Instant::now();
        browser.press("Enter").await;
        wait_until("the next page is there", SOON, async || {
            browser.run("return location.href").await == there
        })
        .await;
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    // the last page is as quick as the first: a page reads a part of an index
    let oldest =
        "select job_id::text, lag(source_ref) over (order by job_id) from job_queue where job_kind = 'bulk.load'
         order by job_id offset 60 limit 1";
    let row = stage.client.query_one(oldest, &[]).await.unwrap();
    let (place, before): (String, String) = (row.get(0), row.get(1));
    browser.open(&stage.url(&format!("/jobs?before={place}"))).await;
    browser.sees(&before).await;
    // a kind that nobody has is looked for in a bounded part, and said so
    browser.open(&stage.url("/jobs?kind=no.such.kind")).await;
    browser.sees("No such jobs here.").await;
}

#[tokio::test]
async fn hostile_words_in_every_field_are_only_words() {
    let stage = Stage::set(HOSTILE).await;
    let browser = Browser::start().await;
    for page in stage.pages() {
        browser.open(&stage.url(&page)).await;
        assert!(browser.client.get_alert_text().await.is_err(), "{page}: a dialog");
        assert_eq!(browser.complaints().await, Vec::<String>::new(), "{page}");
        let foreign = "return [...document.querySelectorAll('script, img, iframe, object, embed, a, form, [style]')]
            .filter((one) => one.hasAttribute('style') || one.matches('img, iframe, object, embed')
              || (one.matches('script') && !(one.src && new URL(one.src).origin === location.origin))
              || (one.matches('a') && !(one.getAttribute('href') === '' || /^[/#]/.test(one.getAttribute('href'))))
              || (one.matches('form') && !one.getAttribute('action').startsWith('/')))
            .map((one) => one.outerHTML)";
        assert_eq!(browser.run(foreign).await, json!([]), "{page}");
    }
    for page in [
        "/events".to_owned(),
        format!("/events/{}", stage.event),
        "/gates".to_owned(),
        format!("/jobs/{}", stage.job),
    ] {
        browser.open(&stage.url(&page)).await;
        browser.sees("<script>alert(1)</script>").await;
    }
    // words with a direction of their own do not turn their neighbours round
    let isolated = "return getComputedStyle(document.querySelector('td bdi')).unicodeBidi";
    assert_eq!(browser.run(isolated).await, "isolate");
    // also what comes over the stream, and what is typed
    browser.open(&stage.url("/")).await;
    browser.sees("Live, ").await;
    let pause = "select fn_pause('all', null, 'user:ann', $1)";
    stage.client.query_one(pause, &[&HOSTILE]).await.unwrap();
    browser.sees("everything, for").await;
    for path in [
        "/search?q=%3Cscript%3Ealert(1)%3C/script%3E",
        "/jobs?kind=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/consumers/%3Cscript%3E",
    ] {
        browser.open(&stage.url(path)).await;
        assert_eq!(browser.run("return document.scripts.length").await, 1, "{path}");
    }
    assert!(browser.client.get_alert_text().await.is_err(), "a dialog");
}

#[tokio::test]
async fn without_a_database_the_page_says_so_and_comes_back_by_itself() {
    let stage = Stage::set("words").await;
    let name = stage.db.name();
    let other = stage.db.server().url("postgres");
    let other = crate::support::connect(&other).await;
    let browser = Browser::start().await;
    browser.open(&stage.url("/")).await;
    browser.sees("Live, ").await;
    let closed = format!("alter database {name} with allow_connections false");
    other.batch_execute(&closed).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    other.query(cut, &[&name]).await.unwrap();
    browser.sees("The database does not answer; this is what was read last.").await;
    browser.open(&stage.url("/jobs")).await;
    browser.sees("This page tries again by itself").await;
    other.batch_execute(&format!("alter database {name} with allow_connections true")).await.unwrap();
    browser.sees("Newest first").await;
}
