//! Writing in a real Chromium.

use super::browser::Browser;
use super::stage::{HOSTILE, Stage, TOKEN};

#[tokio::test]
async fn a_dead_letter_is_decided_by_keyboard_alone_from_the_first_page_to_the_end() {
    let stage = Stage::with_token("plain words").await;
    let browser = Browser::start().await;
    browser.without_news().await;
    browser.open(&stage.url("/")).await;
    browser.tab_to("Sign in").await;
    browser.press("Enter").await;
    browser.sees("Who are you?").await;
    browser.tab_to("Your name").await;
    browser.types("ann").await;
    browser.tab_to("Token").await;
    browser.types(TOKEN).await;
    browser.press("Enter").await;
    browser.sees("Signed in as ann").await;
    browser.sees("Problems now").await;
    browser.tab_to("Dead letters").await;
    browser.press("Enter").await;
    browser.sees("Open, the oldest first").await;
    browser.tab_to(&stage.dead_letter).await;
    browser.press("Enter").await;
    browser.sees("What was decided").await;
    browser.tab_to("Decide…").await;
    browser.press("Enter").await;
    browser.sees("Nothing is changed yet").await;
    browser.tab_to("Decision").await;
    browser.letter('m').await;
    browser.tab_to("Why").await;
    browser.types(HOSTILE).await;
    browser.tab_to("Show what would happen").await;
    browser.press("Enter").await;
    browser.sees("Dry run: nothing is changed yet").await;
    browser.sees("investigating → manual_replay").await;
    let read = "select triage_status, triage_actor, triage_note from job_dead_letter";
    let row = stage.client.query_one(read, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "investigating", "so far only shown");
    browser.tab_to("Do it").await;
    browser.press("Enter").await;
    browser.sees("Done").await;
    let row = stage.client.query_one(read, &[]).await.unwrap();
    let row: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(row, ["manual_replay", "dashboard:ann", HOSTILE].map(str::to_owned));
    // what was typed is words, here and where it is kept
    browser.sees("<script>alert(1)</script>").await;
    browser.tab_to("To the page of it").await;
    browser.press("Enter").await;
    browser.sees("What was decided").await;
    browser.sees("<script>alert(1)</script>").await;
    browser.sees("dashboard:ann").await;
    assert!(browser.client.get_alert_text().await.is_err(), "a dialog");
    browser.tab_to("Sign out").await;
    browser.press("Enter").await;
    browser.sees("Reading only.").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn pages_of_the_desk_fit_every_screen_and_say_what_is_wrong_where_it_is() {
    let stage = Stage::with_token(HOSTILE).await;
    let browser = Browser::start().await;
    browser.open(&stage.url("/sign-in?then=/act/gate")).await;
    browser.tab_to("Your name").await;
    browser.types(HOSTILE.split(' ').next().unwrap()).await;
    browser.tab_to("Token").await;
    browser.types(TOKEN).await;
    browser.press("Enter").await;
    browser.sees("Open or close a gate").await;
    browser.tab_to("Gate").await;
    browser.types("queue.archive.enabeld").await;
    browser.tab_to("Why").await;
    browser.types(HOSTILE).await;
    browser.tab_to("Show what would happen").await;
    browser.press("Enter").await;
    browser.sees("did you mean queue.archive.enabled?").await;
    let marked = "const one = document.querySelector('[aria-invalid]');
        return [one.name, one.value, document.getElementById(one.getAttribute('aria-describedby')).innerText.includes('did you mean')]";
    assert_eq!(browser.run(marked).await, serde_json::json!(["key", "queue.archive.enabeld", true]));
    assert_eq!(
        browser.run("return document.querySelector('textarea').value.length").await,
        HOSTILE.chars().map(char::len_utf16).sum::<usize>()
    );
    let mut pages = vec!["/gates".to_owned(), "/sign-in".to_owned()];
    pages.extend(["pause", "resume", "triage", "replay", "gate"].map(|what| format!("/act/{what}")));
    pages.push(format!("/dead-letters/{}", stage.dead_letter));
    for (scheme, width) in [("light", 1400), ("dark", 1400), ("light", 320), ("dark", 360)] {
        browser.scheme(scheme).await;
        browser.width(width).await;
        for page in &pages {
            browser.open(&stage.url(page)).await;
            let wide = browser.run("return document.documentElement.scrollWidth").await.as_u64().unwrap();
            assert!(wide <= u64::from(width), "{page} at {width}: {wide}");
            let unlabelled = "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter((one) => !one.labels.length).length";
            assert_eq!(browser.run(unlabelled).await, 0, "{page}");
            let worst = browser.run(super::looks::CONTRAST).await;
            assert!(worst[0].as_f64().unwrap() >= 4.5, "{scheme} {page}: {worst}");
            let name = page.replace('/', "_").replace(&stage.dead_letter, "one");
            browser.shot(&format!("desk_{scheme}_{width}{name}")).await;
        }
    }
}
