//! `reveille routes` and `reveille doctor` as their users meet them.

use super::stage::{CODE, Stage};
use crate::commands::{json, words};
use crate::support::{Folder, TestDb};

const FILE: &str = r#"
route_code = "species.born"
source_table = "entity_species"
sql_event = "insert"
target_event_domain = "birth_registry"
target_event_type = "entity_born"
idempotency_policy = "per_row"

[payload_contract]
columns = ["code", "mode"]
subject_ref = "entity_species:{code}"
"#;

/// The path of a file with this text.
fn file(folder: &Folder, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_route_goes_from_its_file_over_the_dry_run_to_an_event_and_off_again() {
    let stage = Stage::new().await;
    let (db, folder) = (&stage.db, Folder::open_to_all());
    let path = file(&folder, "born.toml", FILE);
    assert_eq!(words(db, &["routes", "list"]).1, "no routes; `reveille routes put FILE` writes one\n");
    let (code, text, err) = words(db, &["routes", "put", &path]);
    assert_eq!(code, Some(0), "{err}");
    assert!(text.starts_with("species.born: written, disabled; `reveille routes preview"), "{text}");
    assert_eq!(words(db, &["routes", "put", &path]).1, "species.born: as it was\n");

    stage.run("insert into entity_species values ('cat', 'Cat', 'wild')").await;
    let (code, text, _) = words(db, &["routes", "preview", CODE]);
    assert_eq!(code, Some(0));
    assert!(text.contains("the last 1 rows would have made birth_registry.entity_born"), "{text}");
    assert!(
        text.contains("entity_species:cat") && text.contains(r#"{"code":"cat","mode":"wild"}"#),
        "{text}"
    );

    let (_, text, _) = words(db, &["routes", "enable", CODE, "--reason", "look"]);
    let agreed = "the table's owner agrees to birth_registry.entity_born with code, mode; subject entity_species:{code}\n";
    let told = "species.born: dry run (was disabled); it counts and emits nothing until --live\n";
    assert_eq!(text, format!("{told}{agreed}"));
    stage.run("insert into entity_species values ('dog', 'Dog', 'wild')").await;
    let (_, text, _) = words(db, &["routes", "preview", CODE]);
    assert!(
        text.contains("dry run: 1 events of 1 changes in 1 statements (0 told already, 0 may not travel)"),
        "{text}"
    );
    assert_eq!(stage.count("event_outbox").await, 0);

    let (_, text, _) = words(db, &["routes", "enable", CODE, "--live", "--reason", "right"]);
    assert_eq!(text, format!("species.born: live (was dry run)\n{agreed}"));
    stage.run("insert into entity_species values ('cow', 'Cow', 'tame')").await;
    assert_eq!(stage.subjects().await, ["entity_species:cow"]);
    let (_, table, _) = words(db, &["routes", "list"]);
    assert!(table.contains("insert on public.entity_species") && table.contains("live"), "{table}");
    let (code, shown, _) = json(db, &["routes", "show", CODE]);
    assert_eq!(
        (code, &shown["trigger"], &shown["actor"]),
        (Some(0), &"enabled".into(), &"user:operator".into())
    );

    let (_, text, _) = words(db, &["routes", "disable", CODE, "--reason", "enough"]);
    assert_eq!(text, "species.born: disabled (was live); its trigger is gone\n");
    let (code, answer, _) = json(db, &["routes", "disable", CODE, "--reason", "enough"]);
    assert_eq!((code, &answer["was"]), (Some(0), &"disabled".into()));
}

#[tokio::test]
async fn a_route_goes_live_after_a_dry_run_of_what_it_says_now_or_when_told_without() {
    let stage = Stage::new().await;
    let (db, folder) = (&stage.db, Folder::open_to_all());
    let put =
        |text: &str| assert_eq!(words(db, &["routes", "put", &file(&folder, "born.toml", text)]).0, Some(0));
    let live = ["routes", "enable", CODE, "--live", "--reason", "x"];
    let refused = || {
        let (code, _, err) = words(db, &live);
        assert!(code == Some(3) && err.contains("its dry run has seen no write since"), "{err}");
        assert!(err.contains("--without-dry-run"), "{err}");
        let (_, answer, _) = json(db, &live);
        assert_eq!(answer["reason"], "dry_run_missing");
        let (_, text, _) = words(db, &["routes", "preview", CODE]);
        assert!(text.contains("it has seen no write since the route says what it says now: `routes enable --live` is refused"), "{text}");
    };
    put(FILE);
    refused();
    assert_eq!(stage.count("pg_trigger where tgname like 'reveille_route%'").await, 0, "nothing was made");
    assert_eq!(words(db, &["routes", "enable", CODE, "--reason", "x"]).0, Some(0));
    refused();
    stage.run("insert into entity_species values ('cat', 'Cat', 'wild')").await;
    let (_, text, _) = words(db, &["routes", "preview", CODE]);
    assert!(text.contains("that was the route as it is now; `routes enable --live` lets it emit"), "{text}");
    put(&FILE.replace("\"mode\"", "\"name\""));
    refused();
    stage.run("insert into entity_species values ('dog', 'Dog', 'wild')").await;
    put(&format!("fail_closed = true\n{}", FILE.replace("\"mode\"", "\"name\"")));
    assert_eq!(words(db, &live).0, Some(0), "what it tells is what was seen");
    assert!(words(db, &["routes", "preview", CODE]).1.contains("\nit is live\n"));
    // what has been live so may be so again
    words(db, &["routes", "disable", CODE, "--reason", "x"]);
    stage.run("delete from event_route_sample").await;
    assert_eq!(words(db, &live).0, Some(0));
    words(db, &["routes", "disable", CODE, "--reason", "x"]);
    put(FILE);
    refused();
    assert_eq!(words(db, &[&live[..], &["--without-dry-run"]].concat()).0, Some(0));
    assert_eq!(words(db, &["routes", "enable", CODE, "--without-dry-run", "--reason", "x"]).0, Some(2));
}

#[tokio::test]
async fn mistakes_are_told_with_what_to_do() {
    let stage = Stage::new().await;
    let (db, folder) = (&stage.db, Folder::open_to_all());
    for (name, text, told) in [
        ("a.toml", "route_code = ", "not TOML"),
        ("a.json", "{", "not JSON"),
        ("b.toml", "route_code = \"a\"", "source_table is missing"),
        ("c.toml", &FILE.replace("\"mode\"", "\"password\""), "column password may not travel"),
        ("d.toml", &FILE.replace("insert", "upsert"), "sql_event must be insert, update or delete"),
    ] {
        let (code, _, err) = words(db, &["routes", "put", &file(&folder, name, text)]);
        assert!(code == Some(2) && err.contains(told), "{name}: {err}");
    }
    assert_eq!(words(db, &["routes", "put", "nowhere.toml"]).0, Some(2));
    assert_eq!(words(db, &["routes", "put", &file(&folder, "born.toml", FILE)]).0, Some(0));
    for command in ["show", "preview"] {
        let (code, _, err) = words(db, &["routes", command, "species.bron"]);
        assert!(code == Some(1) && err.contains("did you mean `species.born`?"), "{err}");
    }
    assert_eq!(words(db, &["routes", "enable", CODE]).0, Some(2), "a reason is asked for");
    stage.run("update event_type_registry set active = false where event_type = 'entity_born'").await;
    let (code, _, err) = words(db, &["routes", "enable", CODE, "--reason", "x"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("birth_registry.entity_born is not registered and active"), "{err}");
    let (code, answer, _) = json(db, &["routes", "enable", CODE, "--reason", "x"]);
    assert_eq!((code, &answer["reason"]), (Some(3), &"type_inactive".into()));
}

#[tokio::test]
async fn doctor_and_health_see_what_is_wrong_with_a_route_and_say_what_mends_it() {
    let stage = Stage::new().await;
    let (db, folder) = (&stage.db, Folder::open_to_all());
    words(db, &["routes", "put", &file(&folder, "born.toml", FILE)]);
    assert_eq!(
        words(db, &["routes", "enable", CODE, "--live", "--without-dry-run", "--reason", "x"]).0,
        Some(0)
    );
    let (code, text, _) = words(db, &["doctor"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("nothing is wrong with the schema, ") && text.contains(", routes, "), "{text}");
    assert_eq!(words(db, &["health"]).0, Some(0));

    stage.run(r#"drop trigger "reveille_route_species.born" on entity_species"#).await;
    let (code, text, _) = words(db, &["doctor"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("error: route species.born: it is enabled, and there is no trigger"), "{text}");
    assert!(text.contains("\n  mend: reveille routes enable species.born"), "{text}");
    let (code, text, _) = words(db, &["health"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("route species.born: it is enabled, and there is no trigger"), "{text}");
    assert_eq!(words(db, &["routes", "enable", CODE, "--reason", "mended"]).0, Some(0));
    assert_eq!(words(db, &["doctor"]).0, Some(0));

    stage.run("update iu_sql_event_route set enabled = false").await;
    let (code, text, _) = words(db, &["health"]);
    assert!(
        code == Some(0) && text.contains("route species.born: it is disabled, and its trigger still stands"),
        "{text}"
    );
    let (code, found, _) = json(db, &["doctor"]);
    assert_eq!((code, &found["findings"][0]["finding"]), (Some(1), &"trigger_left_over".into()), "{found}");
}

#[tokio::test]
async fn doctor_sees_the_trigger_on_event_outbox_disabled_or_gone() {
    let db = TestDb::new().await;
    let client = db.client().await;
    assert_eq!(words(&db, &["doctor"]).0, Some(0));
    for (harm, finding, mend) in [
        (
            "alter table event_outbox disable trigger reveille_event_arrival",
            "trigger_disabled",
            "alter table event_outbox enable",
        ),
        (
            "drop trigger reveille_event_arrival on event_outbox",
            "trigger_missing",
            "create trigger reveille_event_arrival",
        ),
    ] {
        client.batch_execute(harm).await.unwrap();
        let (code, found, _) = json(&db, &["doctor"]);
        let first = &found["findings"][0];
        assert_eq!((code, &first["finding"]), (Some(1), &finding.into()), "{found}");
        let (who, statement) = first["mend"].as_str().unwrap().split_once(": ").unwrap();
        assert!(who == "as the owner of the table" && statement.starts_with(mend), "{found}");
        client.batch_execute(statement).await.unwrap();
        assert_eq!(words(&db, &["doctor"]).0, Some(0), "and that mends it");
    }
}
