//! Jobs that any program runs: what it is given, what its end means, and what is told of a wrong one.

use reveille::work::{Exec, Handlers};
use serde_json::{Value, json};
use uuid::Uuid;

use super::shop::Shop;
use super::tools::Tools;
use crate::cli::{output, reveille};
use crate::support::{Program, SOON, wait_until};

#[tokio::test]
async fn a_program_gets_the_whole_job_on_its_input_and_its_names_in_the_environment() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = "cat > \"$DIR/job\"
        echo \"$REVEILLE_JOB_ID $REVEILLE_JOB_KIND $REVEILLE_LEASE_TOKEN\" > \"$DIR/names\"
        echo working; echo '{\"result_ref\": \"page:9\"}'; echo";
    let worker = shop.start(&shop.settings(), tools.handlers("image", lines)).await;
    let enqueue =
        "select fn_job_enqueue('image', 'test', p_safe_payload => '{\"width\": 80}', p_source_ref => 'a\"b')";
    let answer = shop.value(enqueue, &[]).await;
    let id: Uuid = answer["job_id"].as_str().unwrap().parse().unwrap();
    let row = shop.wait_for_status(id, "succeeded").await;
    assert_eq!(row["result_ref"], "page:9");
    let given = std::fs::read_to_string(tools.path("job")).unwrap();
    let given: serde_json::Map<String, Value> = serde_json::from_str(&given).unwrap();
    let same = ["job_id", "job_kind", "lease_token", "source_ref", "safe_payload", "priority", "actor"];
    for name in same {
        assert_eq!(given[name], row[name], "{name}");
    }
    let missing = ["lease_until", "scheduled_at", "created_at", "attempts", "max_attempts", "ordering_key"];
    assert!(missing.iter().all(|name| given.contains_key(*name)), "{given:?}");
    assert_eq!(tools.line("names").await, format!("{id} image {}", row["lease_token"]));
    worker.stop().await;
}

#[tokio::test]
async fn each_end_of_a_program_is_the_outcome_that_is_documented() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let cases = [
        ("exit 0", "succeeded", None),
        ("echo done; echo careful >&2", "succeeded", None),
        ("exit 1", "retry_waiting", Some("exit code 1")),
        ("echo busy >&2; exit 75", "retry_waiting", Some("busy (exit code 75)")),
        ("echo no such >&2; echo page >&2; echo >&2; exit 65", "dead_letter", Some("page (exit code 65)")),
        ("exit 64", "dead_letter", Some("exit code 64")),
        ("exit 78", "dead_letter", Some("exit code 78")),
        ("echo half >&2; kill -9 $$", "retry_waiting", Some("half (killed by signal 9)")),
        (r#"echo '{"outcome": "permanent", "error": "never"}'"#, "dead_letter", Some("never")),
        (r#"echo '{"outcome": "transient"}'; echo later >&2"#, "retry_waiting", Some("later")),
        (r#"echo '{"outcome": "permanent", "error": "\u0000"}'"#, "dead_letter", Some("\u{fffd}")),
        (
            r#"echo '{"outcome": "snoozed"}'"#,
            "retry_waiting",
            Some("unknown outcome `snoozed`: it is one of succeeded, snooze, transient, permanent"),
        ),
    ];
    let mut handlers = Handlers::new();
    for (number, (lines, ..)) in cases.iter().enumerate() {
        let program = tools.program(&format!("case{number}"), lines);
        handlers = handlers.on(format!("case{number}"), Exec::new(&program).unwrap());
    }
    let worker = shop.start(&shop.settings(), handlers).await;
    for (number, (lines, status, error)) in cases.iter().enumerate() {
        let id = shop.enqueue(&format!("case{number}")).await;
        let job = shop.wait_for_status(id, status).await;
        assert_eq!(job["last_error"].as_str(), *error, "{lines}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_result_that_the_database_cannot_hold_as_it_is_harms_nobody() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = r#"printf '{"result_ref": "a\\u0000b"}\n'"#;
    let worker = shop.start(&shop.settings(), tools.handlers("nul", lines)).await;
    let id = shop.enqueue("nul").await;
    assert_eq!(shop.wait_for_status(id, "succeeded").await["result_ref"], "a\u{fffd}b");
    worker.stop().await;
}

#[tokio::test]
async fn a_program_that_snoozes_is_due_again_when_it_says_and_spends_no_attempt() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = r#"echo '{"outcome": "snooze", "seconds": 3600}'"#;
    let worker = shop.start(&shop.settings(), tools.handlers("later", lines)).await;
    let id = shop.enqueue("later").await;
    wait_until("it has snoozed", SOON, async || worker.stats.counts().snoozed == 1).await;
    let job = shop.job(id).await;
    assert_eq!((&job["status"], &job["attempts"]), (&json!("queued"), &json!(0)));
    let far = "select scheduled_at > clock_timestamp() + interval '59 minutes' from job_queue";
    assert!(shop.client.query_one(far, &[]).await.unwrap().get::<_, bool>(0));
    worker.stop().await;
}

#[tokio::test]
async fn a_program_that_reads_nothing_does_not_fail_for_it() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let worker = shop.start(&shop.settings(), tools.handlers("deaf", "exec <&-; exit 0")).await;
    let large = json!({ "text": "x".repeat(16_000) });
    for _ in 0..5 {
        shop.value("select fn_job_enqueue('deaf', 'test', $1)", &[&large]).await;
    }
    wait_until("all have run", SOON, async || shop.count("succeeded").await == 5).await;
    assert_eq!(worker.stop().await.failed_transient, 0);
}

#[tokio::test]
async fn a_chatty_program_is_heard_to_its_end() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = "head -c 20000000 /dev/zero | tr '\\0' x
        yes complaint | head -n 200000 >&2
        echo; echo '{\"result_ref\": \"the end\"}'";
    let worker = shop.start(&shop.settings(), tools.handlers("chatty", lines)).await;
    let id = shop.enqueue("chatty").await;
    assert_eq!(shop.wait_for_status(id, "succeeded").await["result_ref"], "the end");
    worker.stop().await;
}

#[tokio::test]
async fn the_command_runs_a_program_for_the_kinds_that_it_names_as_any_kind_of_executor() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let program = tools.program("tool with spaces", "echo \"got $1\" >&2");
    let exec = format!("'{program}' \"one word\"");
    let mut ids: Vec<Uuid> = Vec::new();
    for kind in ["image", "sound", "other"] {
        let enqueue = "select fn_job_enqueue($1, 'test', p_executor => 'external_worker')";
        ids.push(shop.value(enqueue, &[&kind]).await["job_id"].as_str().unwrap().parse().unwrap());
    }
    let arguments =
        ["work", "--exec", &exec, "--job-kinds", "image,sound", "--kind", "external_worker", "--once"];
    let ended = Program::start(&shop.db.url(), &arguments, &[("RUST_LOG", "reveille=debug")]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let heard = ended.err.lines().find(|line| line.contains("got one word")).expect("its words are logged");
    assert!(heard.contains(&ids[0].to_string()) || heard.contains(&ids[1].to_string()), "{heard}");
    for (id, status) in ids.into_iter().zip(["succeeded", "succeeded", "queued"]) {
        assert_eq!(shop.job(id).await["status"], status);
    }
}

#[test]
fn a_wrong_exec_is_told_at_the_start_and_nothing_is_claimed() {
    let tools = Tools::new();
    std::fs::write(tools.path("text"), "x").unwrap();
    let text = tools.path("text").to_str().unwrap().to_owned();
    for (exec, kinds, words) in [
        ("true", None, "--job-kinds"),
        ("no-such-program-here --fast", Some("a"), "is not on the PATH"),
        ("./no/such/program", Some("a"), "does not exist"),
        (&text, Some("a"), "chmod +x"),
        ("cat | wc", Some("a"), "sh -c"),
        ("cat 'x", Some("a"), "a quote that is not closed"),
    ] {
        let kinds = kinds.map(|kinds| ["--job-kinds", kinds]).into_iter().flatten();
        let arguments: Vec<&str> = ["work", "--exec", exec].into_iter().chain(kinds).collect();
        let (code, _, err) = output(&mut reveille(&arguments));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(words), "{err}");
    }
}
