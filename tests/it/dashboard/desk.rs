//! Writing at the dashboard, without a browser: who may, what is refused, and that it happens once.

use serde_json::{Value, json};

use super::clerk::{Clerk, FORM, OURS, encoded, sign_in};
use super::stage::{HOSTILE, Stage, TOKEN};
use crate::http::Served;
use crate::http::client::{get, hang_up, request, send, send_from};
use crate::support::{SOON, login, server_at, wait_for, wait_until};

const GATE: &str = "queue.archive.enabled";

/// Headers of a form, and the token of a session in it.
type Foreign<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);

pub(super) async fn count(stage: &Stage, sql: &str) -> i64 {
    stage.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn without_a_token_there_is_no_route_that_writes_and_no_form() {
    let stage = Stage::set("words").await;
    let id = &stage.dead_letter;
    for path in ["/sign-in", "/sign-out", "/act/pause", "/act/gate", "/acts/x"] {
        for method in ["GET", "POST"] {
            let headers = [FORM, OURS, ("Authorization", "Bearer "), ("Content-Length", "0")];
            let answer = request(stage.address(), method, path, &headers).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
    for page in stage.pages() {
        let body = get(stage.address(), &page).await.body;
        let no = ["method=\"post\"", "/act/", "/sign-in", "csrf", "Sign in"];
        assert!(no.iter().all(|word| !body.contains(word)), "{page}");
        assert!(body.contains("Reading only; nothing on this page changes anything."), "{page}");
        assert_eq!(
            request(stage.address(), "POST", &page, &[("Content-Length", "0")]).await.status,
            405,
            "{page}"
        );
    }
    assert!(get(stage.address(), &format!("/dead-letters/{id}")).await.body.contains("reveille dlq triage"));
}

#[tokio::test]
async fn a_wrong_token_leads_nowhere_and_makes_its_address_wait_also_when_nobody_waits_for_the_answer() {
    let stage = Stage::with_token("words").await;
    for _ in 0..3 {
        // the same again tells nothing new, and makes nobody wait
        let answer = sign_in(stage.address(), "0123456789abcdef-tokem", "/").await;
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("That is not the token.") && !answer.headers.contains_key("set-cookie"));
        assert!(!answer.body.contains("-tokem"), "what was typed is not shown again");
    }
    let mut guesses = 0;
    let form = |token: &str| encoded(&[("name", "ann"), ("token", token)]);
    wait_until("not even the right token is looked at", SOON, async || {
        guesses += 1;
        let guess = form(&format!("0123456789abcdef-{guesses}"));
        hang_up(stage.address(), "/sign-in", &[FORM, OURS], &guess, async || ()).await;
        let answer = sign_in(stage.address(), TOKEN, "/").await;
        answer.status == 429 && ["1", "2", "3"].contains(&answer.headers["retry-after"].as_str())
    })
    .await;
    let answer = send_from("127.0.0.2", stage.address(), "/sign-in", &[FORM, OURS], &form(TOKEN)).await;
    assert_eq!(answer.status, 303, "nobody else waits: {}", answer.body);
    let answer = wait_for("its turn", SOON, async || {
        let answer = sign_in(stage.address(), TOKEN, "//evil.example").await;
        (answer.status != 429).then_some(answer)
    })
    .await;
    assert_eq!((answer.status, answer.headers["location"].as_str()), (303, "/"));
    let cookie = &answer.headers["set-cookie"];
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(TOKEN), "{cookie}");
    let face = Served::with_token(server_at(&stage.db.url()), TOKEN, true).await;
    let cookie = sign_in(face.address(), TOKEN, "/").await.headers["set-cookie"].clone();
    assert!(cookie.starts_with("__Host-reveille_") && cookie.ends_with("; Secure"), "{cookie}");
    face.stop().await;
}

#[tokio::test]
async fn forms_of_other_sites_change_nothing() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let other = Clerk::at(stage.address()).await;
    let (place, _) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    let changes = "select count(*) from dot_config_audit";
    let before = count(&stage, changes).await;
    let ours: &[(&str, &str)] = &[OURS, ("Sec-Fetch-Site", "same-origin")];
    let cases: [Foreign<'_>; 7] = [
        (ours, None),
        (ours, Some("")),
        (ours, Some(&other.csrf)),
        (&[], Some(&clerk.csrf)),
        (&[("Origin", "null")], Some(&clerk.csrf)),
        (&[("Origin", "http://evil.example")], Some(&clerk.csrf)),
        (&[OURS, ("Sec-Fetch-Site", "cross-site")], Some(&clerk.csrf)),
    ];
    for (headers, csrf) in cases {
        let csrf: Vec<(&str, &str)> = csrf.map(|csrf| ("csrf", csrf)).into_iter().collect();
        let asked = [csrf.as_slice(), &[("scope", "all"), ("reason", "why")]].concat();
        for (path, fields) in [("/act/pause", &asked), (place.as_str(), &csrf), ("/sign-out", &csrf)] {
            let answer = clerk.post_as(path, headers, fields).await;
            assert_eq!(answer.status, 403, "{path} {headers:?} {csrf:?}: {}", answer.body);
        }
    }
    let body = encoded(&[("name", "ann"), ("token", TOKEN)]);
    let foreign = [FORM, ("Origin", "http://evil.example")];
    assert_eq!(send(stage.address(), "POST", "/sign-in", &foreign, &body).await.status, 403);
    assert_eq!(count(&stage, changes).await, before);
    assert_eq!(count(&stage, "select count(*) from queue_pause where scope = 'all'").await, 0);
    // another session has neither its orders nor its form
    assert_eq!(other.get(&place).await.status, 404);
    assert!(clerk.confirm(&place).await.contains("Done"), "it is signed in still");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_shows_the_numbers_of_the_real_run() {
    let stage = Stage::with_token("words").await;
    for n in 0..12 {
        stage.emit(&format!("more {n}")).await;
    }
    let clerk = Clerk::at(stage.address()).await;
    let numbers = |page: &str| {
        let rows =
            page.split("data-label=\"").skip(1).map(|cell| cell.split("</td>").next().unwrap().to_owned());
        rows.collect::<Vec<_>>()
    };
    let all = "select count(*) from queue_pause";
    let before = count(&stage, all).await;
    let fields = [("scope", "domain"), ("name", crate::support::DOMAIN), ("reason", HOSTILE)];
    let (place, dry) = clerk.ask("pause", &fields).await;
    assert!(
        dry.contains("Dry run: domain system would be paused") && dry.contains("Jobs wait because"),
        "{dry}"
    );
    assert_eq!(count(&stage, all).await, before);
    let done = clerk.confirm(&place).await;
    assert!(done.contains("domain system is paused"), "{done}");
    assert_eq!(numbers(&dry), numbers(&done));
    assert!(numbers(&done).iter().any(|cell| cell.contains("paused")), "{done}");
    assert_eq!(count(&stage, all).await, before + 1);
    // what the functions say no to is an answer
    let (_, page) = clerk.ask("replay", &[("id", &stage.dead_letter), ("reason", "ticket")]).await;
    assert!(
        page.contains("Refused: replay disabled. Nothing was changed.") && page.contains("gate open"),
        "{page}"
    );
    assert!(!page.contains("Do it"));
    let (place, _) = clerk.ask("resume", &fields).await;
    assert!(clerk.confirm(&place).await.contains("domain system is no longer paused"));
    let (_, page) = clerk.ask("resume", &fields).await;
    assert!(page.contains("Refused: it is not paused."), "{page}");
    // the whole way of a replay
    for (what, fields) in [
        ("gate", vec![("key", "queue.dlq.replay_enabled"), ("to", "open")]),
        ("triage", vec![("id", stage.dead_letter.as_str()), ("status", "manual_replay")]),
        ("replay", vec![("id", stage.dead_letter.as_str())]),
    ] {
        let (place, page) =
            clerk.ask(what, &[fields.as_slice(), &[("reason", "ticket 4711")]].concat()).await;
        assert!(page.contains("Dry run: "), "{page}");
        let page = clerk.confirm(&place).await;
        assert!(page.contains("<h1><bdi>Done</bdi></h1>"), "{page}");
    }
    let source = "select authorization_source from job_dead_letter";
    let source: String = stage.client.query_one(source, &[]).await.unwrap().get(0);
    assert_eq!(source, "ticket 4711 (by dashboard:ann)");
}

#[tokio::test]
async fn a_confirmation_that_is_sent_twice_acts_once_and_the_history_says_who_and_why() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let (place, _) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", HOSTILE)]).await;
    let sent = futures::future::join_all((0..5).map(|_| clerk.post(&place, &[]))).await;
    for answer in sent {
        assert_eq!((answer.status, answer.headers["location"].as_str()), (303, place.as_str()));
    }
    let changes = "select count(*) from dot_config_audit where actor = 'dashboard:ann'";
    assert_eq!(count(&stage, changes).await, 1);
    assert!(clerk.get(&place).await.body.contains("it was open"));
    let page = clerk.get("/gates").await.body;
    assert!(
        page.contains("dashboard:ann")
            && page.contains("&#60;script&#62;alert(1)")
            && !page.contains("<script>alert"),
        "{page}"
    );
    assert!(page.contains("Open…"), "and it can be opened again");
}

#[tokio::test]
async fn a_reason_is_needed_and_what_was_typed_stays() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let long = "x".repeat(501);
    for reason in ["", "  \n ", long.as_str()] {
        let fields = [("scope", "job_kind"), ("name", "my.kind"), ("reason", reason)];
        let answer = clerk.post("/act/pause", &fields).await;
        assert_eq!(answer.status, 422);
        assert!(answer.body.contains("in 1 to 500 characters") && answer.body.contains("value=\"my.kind\""));
    }
    for (what, fields, words) in [
        ("pause", vec![("scope", "consumer"), ("name", "one_job_eahc")], "did you mean one_job_each?"),
        ("pause", vec![("scope", "world")], "Say what is meant"),
        ("triage", vec![("id", "x"), ("status", "closed")], "The id of a dead letter"),
        ("triage", vec![("id", "x"), ("status", "gone")], "It is one of open"),
        ("gate", vec![("key", GATE), ("to", "ajar")], "open or closed"),
    ] {
        let fields = [fields.as_slice(), &[("reason", "why")]].concat();
        let answer = clerk.post(&format!("/act/{what}"), &fields).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(answer.body.contains(words), "{words}: {}", answer.body);
    }
    assert_eq!(clerk.post("/act/drop", &[("reason", "why")]).await.status, 404);
    assert_eq!(clerk.post("/act/pause", &[("reason", &"x".repeat(20_000))]).await.status, 413);
}

#[tokio::test]
async fn who_signed_out_must_sign_in_again_and_comes_back_to_where_it_was() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let (place, _) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    assert_eq!(clerk.post("/sign-out", &[]).await.status, 303);
    let answer = clerk.post(&place, &[]).await;
    assert_eq!((answer.status, answer.headers["location"].as_str()), (303, "/sign-in"));
    assert_eq!(
        count(&stage, "select count(*) from dot_config_audit where actor like 'dashboard:%'").await,
        0
    );
    let answer = clerk.get(&format!("/act/gate?key={GATE}&to=open")).await;
    let to = "/sign-in?then=%2Fact%2Fgate%3Fkey%3Dqueue.archive.enabled%26to%3Dopen";
    assert_eq!((answer.status, answer.headers["location"].as_str()), (303, to));
    let page = get(stage.address(), to).await.body;
    assert!(
        page.contains("name=\"then\" value=\"/act/gate?key=queue.archive.enabled&#38;to=open\""),
        "{page}"
    );
}

#[tokio::test]
async fn a_login_without_the_right_is_told_which_grant_is_missing() {
    let stage = Stage::with_token("words").await;
    let name = format!("weak_{}", stage.db.name());
    let url = login(&stage.client, &stage.db.url(), &name, "in role reveille_reader").await;
    let face = Served::with_token(server_at(&url), TOKEN, false).await;
    let clerk = Clerk::at(face.address()).await;
    let (_, page) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    assert!(page.contains(&format!("grant reveille_operator to &#34;{name}&#34;")), "{page}");
    stage.client.batch_execute(&format!("grant reveille_operator to {name}")).await.unwrap();
    stage.client.batch_execute("delete from dead_letter_authority").await.unwrap();
    let fields = [("id", stage.dead_letter.as_str()), ("status", "closed"), ("reason", "why")];
    let (_, page) = clerk.ask("triage", &fields).await;
    assert!(page.contains("fn_dead_letter_authority_set(&#39;system&#39;"), "{page}");
    face.stop().await;
}

#[tokio::test]
async fn programs_bring_the_token_along_and_get_json() {
    let stage = Stage::with_token("words").await;
    let ask = async |token: &str, what: &str, body: Value| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let answer =
            send(stage.address(), "POST", &format!("/act/{what}"), &headers, &body.to_string()).await;
        assert_eq!(answer.headers["content-type"], "application/json", "{}", answer.body);
        (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap())
    };
    let mut body = json!({"key": GATE, "to": "closed", "reason": "nightly", "by": "cron"});
    let changes =
        "select count(*) from dot_config_audit where actor = 'dashboard:cron' and reason = 'nightly'";
    let (status, told) = ask(TOKEN, "gate", body.clone()).await;
    assert_eq!((status, &told["end"], count(&stage, changes).await), (200, &json!("would"), 0));
    body["apply"] = json!(true);
    let (status, told) = ask("wrong", "gate", body.clone()).await;
    assert_eq!((status, &told["error"]["kind"]), (401, &json!("denied")));
    assert_eq!(count(&stage, changes).await, 0);
    // for a moment after it no token from this address is looked at
    let (status, told) = wait_for("its turn", SOON, async || {
        let (status, told) = ask(TOKEN, "gate", body.clone()).await;
        (status != 429).then_some((status, told))
    })
    .await;
    assert_eq!((status, &told["end"], &told["answer"]["old_value"]), (200, &json!("done"), &json!("true")));
    assert_eq!(count(&stage, changes).await, 1);
    let refused = json!({"id": stage.dead_letter, "reason": "ticket", "by": "cron", "apply": true});
    let (status, told) = ask(TOKEN, "replay", refused).await;
    assert_eq!((status, &told["answer"]["reason"]), (409, &json!("replay_disabled")));
    for body in
        [json!({"key": GATE, "to": "open", "reason": "x"}), json!({"key": GATE, "too": "open"}), json!([])]
    {
        let (status, told) = ask(TOKEN, "gate", body).await;
        assert!(status == 422 && told["error"]["message"].is_string(), "{status} {told}");
    }
}
