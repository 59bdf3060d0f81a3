//! Consumers as files: read, compared, written, and never more than that.

use std::path::{Path, PathBuf};

use reveille::maintain::consumer_sync::{self as sync, Action, Options, Plan};
use reveille::model::consumer::Consumer;
use reveille::model::consumer_file::ConsumerFile;
use reveille::store::consumers::{self, Subject};
use serde_json::{Value, json};

use crate::commands::{json as command, words};
use crate::support::{Folder, Program, TestDb};

fn of_this_project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("consumers")
}

/// A folder of consumer files by name and text.
fn folder(files: &[(&str, &str)]) -> Folder {
    let folder = Folder::open_to_all();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const ONE: &str = "event_domain = \"staging\"\nevent_type = \"record_*\"\njob_kind = \"one.do\"\n";

async fn plan(db: &TestDb, folder: &Path, options: Options) -> Plan {
    let client = db.pool(1).get().await.unwrap();
    sync::plan(&client, &sync::read_folder(folder).unwrap(), options).await.unwrap()
}

/// Plans and applies.
async fn synchronise(db: &TestDb, folder: &Path, options: Options) -> Plan {
    let plan = plan(db, folder, options).await;
    let mut client = db.pool(1).get().await.unwrap();
    sync::apply(&mut client, &plan, Some("test"), options).await.unwrap();
    plan
}

fn actions(plan: &Plan) -> Vec<(&str, &Action)> {
    plan.entries.iter().map(|entry| (entry.consumer_key.as_str(), &entry.action)).collect()
}

async fn row(db: &TestDb, key: &str) -> Value {
    let client = db.pool(1).get().await.unwrap();
    Value::Object(consumers::show(&client, key).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named_and_what_to_do() {
    let db = TestDb::new().await;
    let ended = Program::start(&db.url(), &["consumers", "sync", "--dir", "nowhere"], &[]).ends().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("`nowhere`") && ended.err.contains("hint: name it with --dir"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn the_consumers_of_this_project_become_rows_and_a_second_sync_changes_nothing() {
    let db = TestDb::new().await;
    let plan = synchronise(&db, &of_this_project(), Options::default()).await;
    let expected = ["iu.auto_instantiate", "mark_cut.cleaned", "mark_cut.cut", "mark_cut.verify_cut"];
    let expected = expected.map(|key| (key, &Action::Add));
    assert_eq!(actions(&plan), expected);
    let cut = row(&db, "mark_cut.cut").await;
    assert_eq!(
        (&cut["job_kind"], &cut["enabled"], &cut["source"]),
        (&json!("cut.cut"), &json!(true), &json!("file"))
    );
    assert_eq!(row(&db, "mark_cut.cleaned").await["job_kind"], Value::Null);

    let embedded = sync::of_the_pilot().unwrap();
    let in_folder = sync::read_folder(&of_this_project()).unwrap();
    let consumers =
        |files: &[ConsumerFile]| files.iter().map(|file| file.consumer.clone()).collect::<Vec<_>>();
    assert_eq!(consumers(&embedded), consumers(&in_folder), "the demo brings the same consumers");
    let again = self::plan(&db, &of_this_project(), Options { prune: true, enabled_too: true }).await;
    assert!(!again.changes_anything(), "{again:?}");
}

#[tokio::test]
async fn sync_shows_the_difference_first_and_writes_only_when_told() {
    let db = TestDb::new().await;
    let folder = folder(&[("one.toml", ONE)]);
    let dir = folder.path().to_str().unwrap();
    let (code, out, _) = words(&db, &["consumers", "sync", "--dir", dir]);
    assert_eq!(code, Some(0));
    assert_eq!(out, "+ one: added\n1 to write; nothing was changed, --apply does it\n");
    assert_eq!(command(&db, &["consumers", "list"]).1, json!([]));

    let (code, out, _) = words(&db, &["consumers", "sync", "--dir", dir, "--apply"]);
    assert_eq!((code, out.as_str()), (Some(0), "+ one: added\n1 consumer written\n"));
    assert_eq!(row(&db, "one").await["actor"], "user:operator");

    std::fs::write(folder.path().join("one.toml"), format!("{ONE}priority = 7\ndelay = \"90m\"\n")).unwrap();
    let (_, out, _) = words(&db, &["consumers", "sync", "--dir", dir, "--apply"]);
    let expected = "~ one: changed\n    delay: \"00:00:00\" -> \"01:30:00\"\n    priority: 100 -> 7\n1 consumer written\n";
    assert_eq!(out, expected);
    let (_, document, _) = command(&db, &["consumers", "sync", "--dir", dir, "--apply"]);
    assert_eq!(document["applied"], false);
    assert_eq!(document["consumers"][0]["action"], "keep");
}

#[tokio::test]
async fn rows_that_others_wrote_are_never_touched() {
    let db = TestDb::new().await;
    let insert = "insert into consumer_registry (consumer_key, event_domain, job_kind) values
        ('one', 'kg', 'theirs'), ('other', 'kg', 'theirs')";
    db.client().await.batch_execute(insert).await.unwrap();
    let before = [row(&db, "one").await, row(&db, "other").await];

    let folder = folder(&[("one.toml", ONE), ("two.toml", ONE)]);
    let options = Options { prune: true, enabled_too: true };
    let plan = synchronise(&db, folder.path(), options).await;
    assert_eq!(
        actions(&plan),
        [("one", &Action::Foreign), ("other", &Action::Foreign), ("two", &Action::Add)]
    );
    assert_eq!([row(&db, "one").await, row(&db, "other").await], before);

    // a file that has no effect is bad news
    let (code, out, _) =
        words(&db, &["consumers", "sync", "--dir", folder.path().to_str().unwrap(), "--apply"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("one: a row of that name was written by somebody else"), "{out}");

    // nor does the database let a file's hand write or remove them
    let client = db.pool(1).get().await.unwrap();
    let columns = Consumer::new("one", "staging").columns();
    for answer in [
        consumers::put(&client, &columns, None, true).await.unwrap(),
        consumers::remove(&client, "other", None, "test").await.unwrap(),
    ] {
        assert!(format!("{answer:?}").contains("not_owner"), "{answer:?}");
    }
    assert_eq!([row(&db, "one").await, row(&db, "other").await], before);
}

#[tokio::test]
async fn sync_leaves_it_to_the_operator_whether_a_row_is_enabled() {
    let db = TestDb::new().await;
    let folder = folder(&[("one.toml", &format!("{ONE}enabled = true\n"))]);
    synchronise(&db, folder.path(), Options::default()).await;
    let (code, out, _) = words(&db, &["consumers", "disable", "one", "--reason", "too \"loud\""]);
    assert_eq!((code, out.as_str()), (Some(0), "one: disabled (was enabled)\n"));
    let switched = &row(&db, "one").await["switched"];
    assert_eq!((&switched["actor"], &switched["reason"]), (&json!("user:operator"), &json!("too \"loud\"")));

    std::fs::write(folder.path().join("one.toml"), format!("{ONE}enabled = true\npriority = 1\n")).unwrap();
    let plan = synchronise(&db, folder.path(), Options::default()).await;
    assert_eq!(plan.entries[0].enabled_stays, Some(false));
    let kept = row(&db, "one").await;
    assert_eq!((&kept["enabled"], &kept["priority"]), (&json!(false), &json!(1)));

    synchronise(&db, folder.path(), Options { enabled_too: true, ..Options::default() }).await;
    assert_eq!(row(&db, "one").await["enabled"], true);
    assert_eq!(words(&db, &["consumers", "enable", "one"]).1, "one: enabled (was so before)\n");
}

#[tokio::test]
async fn a_row_whose_file_is_gone_stays_until_pruned() {
    let db = TestDb::new().await;
    let folder = folder(&[("one.toml", ONE), ("two.toml", ONE)]);
    synchronise(&db, folder.path(), Options::default()).await;
    std::fs::remove_file(folder.path().join("two.toml")).unwrap();
    let plan = synchronise(&db, folder.path(), Options::default()).await;
    assert_eq!(actions(&plan), [("one", &Action::Keep), ("two", &Action::Orphan)]);
    row(&db, "two").await;

    let pruned = Options { prune: true, ..Options::default() };
    let plan = synchronise(&db, folder.path(), pruned).await;
    assert_eq!(actions(&plan), [("one", &Action::Keep), ("two", &Action::Remove)]);
    let (code, _, error) = command(&db, &["consumers", "show", "two"]);
    assert_eq!((code, &error["error"]["message"]), (Some(1), &json!("there is no consumer `two`")));

    // a folder that holds none is a slip of the hand, not a wish to remove them all
    std::fs::remove_file(folder.path().join("one.toml")).unwrap();
    let error = sync::read_folder(folder.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn what_only_the_database_can_judge_is_told_for_all_files_at_once_with_its_line() {
    let db = TestDb::new().await;
    let folder = folder(&[
        (
            "a.toml",
            "event_domain = \"staging\"\nevent_type = \"x\"\nterminal = true\nfilter = \"$.payload.x >\"\n",
        ),
        ("b.toml", "terminal = true\nevent_type = \"x\"\nevent_domain = \"stagin\"\n"),
        ("c.toml", &format!("{ONE}target_ref = \"{{payload.}}\"\nsource_ref = \"{{subject}}\"\n")),
        ("d.toml", &format!("{ONE}filter = \"$.payload.x\"\n")),
        ("e.toml", ONE),
    ]);
    let (code, _, err) =
        words(&db, &["consumers", "sync", "--apply", "--dir", folder.path().to_str().unwrap()]);
    assert_eq!(code, Some(2), "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines[0], "error: 4 problems in consumer files:");
    for (line, (place, part)) in lines[1..].iter().zip([
        ("a.toml:4", "filter: syntax error"),
        ("b.toml:3", "event_domain 'stagin' is not dispatched here"),
        ("c.toml:5", "source_ref has an unknown variable {subject}"),
        ("d.toml:4", "filter is not a predicate"),
    ]) {
        assert!(line.contains(place) && line.contains(part), "{line} should have {place} and {part}");
    }
    assert_eq!(command(&db, &["consumers", "list"]).1, json!([]));
}

#[tokio::test]
async fn a_preview_says_what_a_file_would_do_before_it_is_a_row() {
    let db = TestDb::new().await;
    let setup = "
        insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
        values ('staging', 'record_created', 'birth', 'delayed', 'test'), ('staging', 'record_gone', 'update', 'delayed', 'test');
        select fn_event_emit('staging', 'record_created', n::text, jsonb_build_object('source_bytes', n * 1000000))
        from generate_series(0, 3) n;";
    let client = db.client().await;
    client.batch_execute(setup).await.unwrap();
    client.batch_execute("select fn_event_emit('staging', 'record_gone', 'the newest')").await.unwrap();
    let readme = std::fs::read_to_string(of_this_project().join("README.md")).unwrap();
    let example = readme.split("Write `consumers/review.large_documents.toml`:").nth(1).unwrap();
    let example: String = example
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("    ") || line.is_empty())
        .collect::<Vec<_>>()
        .join("\n");
    let folder = folder(&[("review.large_documents.toml", &example)]);
    let file = folder.path().join("review.large_documents.toml");
    let file = file.to_str().unwrap();

    let (code, answer, _) = command(&db, &["consumers", "preview", file, "--since", "1h"]);
    assert_eq!(code, Some(0));
    assert_eq!(answer["consumer_key"], "review.large_documents");
    assert_eq!((&answer["events"], &answer["would_enqueue"]), (&json!(5), &json!(2)));
    assert_eq!(answer["reasons"], json!({ "filtered": 2, "match": 2, "other_type": 1 }));
    let (code, _, err) = words(&db, &["consumers", "preview", file, "--since", "200years"]);
    assert!(code == Some(2) && err.contains("too long ago"), "{err}");
    let (_, out, _) = words(&db, &["consumers", "preview", file]);
    assert!(
        out.starts_with("review.large_documents: 5 events, 2 jobs (2 filtered, 2 match, 1 other_type)\n"),
        "{out}"
    );
    assert_eq!(command(&db, &["consumers", "list"]).1, json!([]), "a preview writes nothing");

    synchronise(&db, folder.path(), Options::default()).await;
    let client = db.pool(1).get().await.unwrap();
    let subject = Subject::Stored("review.large_documents".to_owned());
    let stored = consumers::preview(&client, &subject, None, 1).await.unwrap();
    assert_eq!(
        stored.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>(),
        ["other_type"],
        "the newest"
    );
    let (code, _, error) = command(&db, &["consumers", "preview", "review.large_document"]);
    assert_eq!((code, &error["error"]["hint"]), (Some(1), &json!("did you mean `review.large_documents`?")));
}
