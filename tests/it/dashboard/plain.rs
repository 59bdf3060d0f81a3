//! What the dashboard answers to whoever asks without a browser.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stage::Stage;
use crate::http::Served;
use crate::http::client::{get, request};
use crate::support::{SOON, login, server_at};

#[tokio::test]
async fn every_answer_carries_the_policy_and_pages_are_not_kept() {
    let stage = Stage::set("words").await;
    let mut pages = stage.pages();
    pages.extend(["/jobs/no-id".to_owned(), "/search?q=x".to_owned(), "/stream?pulse=x".to_owned()]);
    for page in pages {
        let answer = get(stage.address(), &page).await;
        let policy = &answer.headers["content-security-policy"];
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.contains(part), "{page}: {policy}");
        }
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{page}");
        assert_eq!(answer.headers["referrer-policy"], "same-origin", "{page}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{page}");
        assert!(!answer.body.contains("unsafe-inline") && !answer.body.contains(" style="), "{page}");
    }
    // what is named by its content is kept for ever
    let page = get(stage.address(), "/").await.body;
    let (_, rest) = page.split_once("<script src=\"").unwrap();
    let script = get(stage.address(), rest.split('"').next().unwrap()).await;
    assert_eq!(script.headers["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(script.headers["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(get(stage.address(), "/assets/dashboard.000000000000.js").await.status, 404);
}

#[tokio::test]
async fn what_is_not_there_is_a_page_that_says_what_to_do() {
    let stage = Stage::set("words").await;
    let nobody = uuid::Uuid::new_v4();
    for path in [
        format!("/jobs/{nobody}"),
        format!("/events/{nobody}"),
        format!("/workflows/{nobody}"),
        format!("/dead-letters/{nobody}"),
        "/consumers/nobody".to_owned(),
        "/jobs/no-id".to_owned(),
        format!("/search?q={nobody}"),
    ] {
        let answer = get(stage.address(), &path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(
            answer.body.contains("What to do") && answer.body.contains("href=\"/\""),
            "{path}: {}",
            answer.body
        );
    }
    let found = get(stage.address(), &format!("/search?q=%20{}%20", stage.job)).await;
    assert_eq!(
        (found.status, found.headers["location"].as_str()),
        (303, format!("/jobs/{}", stage.job).as_str())
    );
    for path in ["/jobs?before=x", "/events?before=x", "/dead-letters?behind=1_2", "/workflows?before=x"] {
        let answer = get(stage.address(), path).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(request(stage.address(), method, "/", &[]).await.status, 405, "{method}");
    }
}

#[tokio::test]
async fn a_foreign_name_gets_nothing_but_probes_and_scrapers_do() {
    let stage = Stage::set("words").await;
    let ask = async |host: &str, path: &str| {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    };
    for path in ["/", "/jobs", "/stream", "/api/v1/health"] {
        let answer = ask("evil.example", path).await;
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("[http] hosts"), "{path}: {answer}");
        assert!(!answer.contains("words of the"), "{path}");
    }
    for host in ["127.0.0.1:7045", "localhost:7045", "[::1]"] {
        let answer = ask(host, "/jobs").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    assert!(ask("reveille.monitoring:7045", "/metrics").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn the_page_and_the_command_name_the_same_problems() {
    let stage = Stage::set("words").await;
    let page = get(stage.address(), "/").await.body;
    let client = stage.db.pool(1).get().await.unwrap();
    let components = reveille::store::standing::read(&client).await.unwrap();
    let ill: Vec<_> = components.iter().filter(|one| one.is_ill()).collect();
    assert!(ill.iter().any(|one| one.name == "idle-one"), "{ill:?}");
    assert!(page.contains(&format!("Problems now: {}", ill.len())), "{ill:?}");
    for one in ill {
        let sentence = reveille::store::standing::complaint(one);
        let begin: Vec<&str> = sentence.split(' ').take(3).collect();
        assert!(page.contains(&begin.join(" ")), "{sentence}");
    }
}

#[tokio::test]
async fn a_login_that_may_not_read_is_told_which_right_it_lacks() {
    let stage = Stage::set("words").await;
    let url = login(&stage.client, &stage.db.url(), &format!("blind_{}", stage.db.name()), "").await;
    let face = Served::start(server_at(&url), None, Duration::ZERO).await;
    let answer = get(face.address(), "/jobs").await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(answer.body.contains("grant reveille_reader"), "{}", answer.body);
    face.stop().await;
}

#[tokio::test]
async fn streams_are_bounded_and_end_when_the_sidecar_stops() {
    let stage = Stage::set("words").await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 64];
        let read = timeout(SOON, stream.read(&mut head)).await.unwrap().unwrap();
        assert!(head[..read].starts_with(b"HTTP/1.1 200 "));
        streams.push(stream);
    }
    assert_eq!(get(stage.address(), "/stream").await.status, 503, "the sixty-fifth");
    let page = get(stage.address(), "/jobs").await;
    assert_eq!(page.status, 200, "pages go on: {}", page.body);
    let took = stage.face.stop().await;
    assert!(took < Duration::from_millis(900), "{took:?}");
    for mut stream in streams {
        let mut rest = Vec::new();
        timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().ok();
    }
}

#[tokio::test]
async fn every_page_of_the_documentation_is_there_and_the_other_way_round() {
    let stage = Stage::set("words").await;
    let text = include_str!("../../../docs/dashboard.md");
    let told: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `/"))
        .flat_map(|row| row.split('|').next().unwrap().split('`'))
        .map(|word| word.trim().trim_start_matches('/'))
        .filter(|word| !word.is_empty() && !word.contains([' ', ',', '*']))
        .collect();
    let shown = stage.pages();
    let place = |page: &str| page.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    for page in &shown {
        assert_eq!(get(stage.address(), page).await.status, 200, "{page}");
        let is_told = page == "/" || told.iter().any(|word| place(word) == place(page));
        assert!(is_told, "docs/dashboard.md does not tell of {page}: {told:?}");
    }
    for word in told {
        assert!(shown.iter().any(|page| place(page) == place(word)), "there is no {word}");
    }
}

#[tokio::test]
async fn every_command_that_a_page_or_the_documentation_prints_is_one() {
    use clap::Parser as _;
    let stage = Stage::set("words").await;
    let mut lines: Vec<String> = Vec::new();
    for page in stage.pages() {
        let body = get(stage.address(), &page).await.body;
        let blocks = body.split("<pre").skip(1).map(|rest| rest.split("</pre>").next().unwrap().to_owned());
        let text = blocks
            .collect::<Vec<_>>()
            .join("\n")
            .replace("&#39;", "'")
            .replace("<bdi>", "\n")
            .replace("</bdi>", "\n");
        lines.extend(text.lines().filter(|line| line.starts_with("reveille ")).map(str::to_owned));
    }
    assert_eq!(lines.len(), 2, "those of the dead letter: {lines:?}");
    let docs = include_str!("../../../docs/dashboard.md");
    lines.extend(docs.lines().filter(|line| line.starts_with("reveille ")).map(str::to_owned));
    for line in lines {
        let words = shell_words::split(line.split('#').next().unwrap()).unwrap();
        let read = reveille::cli::Cli::try_parse_from(words);
        assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
    }
    // what is named in passing is a command, too
    let mut texts = vec![docs.to_owned()];
    for page in stage.pages() {
        texts.push(get(stage.address(), &page).await.body.replace("<bdi>", "`").replace("</bdi>", "`"));
    }
    let named = texts.iter().flat_map(|text| text.split('`')).filter(|words| words.starts_with("reveille "));
    for words in named {
        let mut command = <reveille::cli::Cli as clap::CommandFactory>::command();
        for word in words.split_whitespace().skip(1) {
            let Some(inner) = command.find_subcommand(word).cloned() else {
                assert!(!command.has_subcommands(), "{words}: {word}");
                break;
            };
            command = inner;
        }
    }
}
