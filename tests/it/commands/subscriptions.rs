//! `reveille executors subscribe` and `unsubscribe`, and who is told when nobody is subscribed.

use super::{json, words};
use crate::support::TestDb;

#[tokio::test]
async fn subscriptions_are_shown_with_the_executors_that_they_apply_to() {
    let db = TestDb::new().await;
    let register =
        "select fn_queue_heartbeat_register(n, 'Agent') from unnest(array['desk-1', 'desk-2', 'other']) n";
    db.client().await.batch_execute(register).await.unwrap();
    let subscribe = |arguments: &[&str]| {
        let (code, text, err) = words(&db, &[&["executors", "subscribe"], arguments].concat());
        assert_eq!(code, Some(0), "{err}");
        text
    };
    let text = subscribe(&["desk-*", "--kind", "image.*", "--domain", "iu", "--share", "2.5"]);
    assert_eq!(
        text,
        "desk-* may claim jobs of kind image.* and domain iu, and nothing beside its subscriptions\n"
    );
    subscribe(&["desk-1", "--priority-floor", "50", "--description", "the urgent ones"]);
    subscribe(&["gone-*"]);

    let (_, list, _) = json(&db, &["executors", "list"]);
    let of = |name: &str| {
        let found = list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        found["subscriptions"].as_array().unwrap().clone()
    };
    assert_eq!((of("desk-1").len(), of("desk-2").len(), of("other").len()), (2, 1, 0));
    assert_eq!(of("desk-2")[0]["share"], 2.5);
    let (_, text, _) = words(&db, &["executors", "list"]);
    assert!(text.contains("image.* of iu; all up to priority 50"), "{text}");
    assert!(text.contains("all of its kind"), "{text}");
    assert!(text.ends_with("subscriptions of gone-* apply to nobody who is registered\n"), "{text}");

    let (_, text, _) = words(&db, &["executors", "show", "desk-1"]);
    assert!(text.contains("executor_kind") && text.contains("the urgent ones"), "{text}");
    let (_, shown, _) = json(&db, &["executors", "show", "desk-*"]);
    assert_eq!(shown["subscriptions"][0]["job_kind"], "image.*");
    let (code, _, error) = json(&db, &["executors", "show", "desk1"]);
    assert_eq!((code, &error["error"]["hint"]), (Some(1), &"did you mean `desk-1`?".into()));

    let unsubscribe = ["executors", "unsubscribe", "desk-1", "--kind", "*"];
    assert_eq!(
        words(&db, &unsubscribe).1,
        "desk-1 has no subscription any more; it may claim everything of its kind\n"
    );
    let (code, _, err) = words(&db, &unsubscribe);
    assert_eq!(code, Some(3));
    assert!(err.contains("desk-1 has no such subscription"), "{err}");
    assert_eq!(words(&db, &["executors", "subscribe", "desk-1", "--share", "0"]).0, Some(2));
}

#[tokio::test]
async fn health_names_backlog_that_nobody_is_subscribed_to_and_exits_with_1() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let late = "select fn_queue_heartbeat_register('desk', 'Agent');
        insert into job_queue (job_kind, actor, executor, idempotency_key, scheduled_at)
        values ('mail.send', 'test', 'Agent', 'k', clock_timestamp() - interval '90 seconds')";
    client.batch_execute(late).await.unwrap();
    assert_eq!(words(&db, &["health"]).0, Some(0));
    words(&db, &["executors", "subscribe", "desk", "--kind", "image.*"]);
    let (code, text, _) = words(&db, &["health"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("mail.send jobs for Agent have waited for 1m 3"), "{text}");
    let (_, components, _) = json(&db, &["health"]);
    let one = components.as_array().unwrap().iter().find(|one| one["component"] == "unclaimed").unwrap();
    assert_eq!((&one["detail"]["reason"], &one["detail"]["due"]), (&"not_subscribed".into(), &1.into()));
    words(&db, &["executors", "subscribe", "desk", "--kind", "mail.*"]);
    assert_eq!(words(&db, &["health"]).0, Some(0));
}
