//! Consumer files: what is read, what is complained about, and that it arrives as it was written.

use reveille::model::consumer::Consumer;
use reveille::model::consumer_file::ConsumerFile;
use reveille::store::consumers;
use serde_json::Value;

use crate::support::TestDb;

#[test]
fn every_problem_of_a_file_is_told_at_once_with_line_rule_and_guess() {
    let text = "event_domian = \"staging\"\nevent_type = \"staging.x\"\npriority = 1.5\nexecutor = \"Agnet\"\n\
                event_stream = \"updat\"\ndelay = \"1 fortnight\"\nmax_attempts = 0\nenabled = \"yes\"\n\
                starts_at = \"tomorrow\"\njob_kind = \"a b\"\nconsumer_key = \"x\"\nfilter = 1\n";
    let problems = ConsumerFile::parse("Bad Name.toml", "Bad Name", text).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "Bad Name.toml: `Bad Name` cannot be a consumer's name",
        "toml:1: there is no key `event_domian`; did you mean `event_domain`?",
        "toml:3: priority must be a whole number from 0 to 32767",
        "toml:4: `Agnet` is not an executor kind",
        "toml:5: `updat` is not a stream",
        "toml:6: delay: `1 fortnight` is not a duration",
        "toml:7: max_attempts must be a whole number from 1",
        "toml:8: enabled must be true or false",
        "toml:9: starts_at must be a moment",
        "toml:10: job_kind is a name",
        "toml:11: consumer_key is the name of the file",
        "toml:12: filter must be text in quotes",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told} should have {expected}");
    }
    let guesses: Vec<&str> = problems.iter().filter_map(|problem| problem.guess.as_deref()).collect();
    assert_eq!(guesses, ["event_domain", "Agent", "update"]);
}

#[test]
fn a_consumer_makes_a_job_or_says_that_it_does_not() {
    let problem = |text: &str| ConsumerFile::parse("x.toml", "x", text).unwrap_err()[0].to_string();
    let wants = "event_domain = \"staging\"\nevent_type = \"staging.x\"\n";
    assert!(problem(&format!("{wants}terminal = true\n")).ends_with("did you mean `x`?"));
    let wants = "event_domain = \"staging\"\nevent_type = \"x\"\n";
    assert!(problem(wants).contains("job_kind is missing"));
    let both = format!("{wants}terminal = true\njob_kind = \"a.b\"\n");
    assert!(problem(&both).contains("x.toml:3: a terminal consumer makes no job"));
    assert!(problem(&format!("{wants}terminal = tru\n")).contains("x.toml:3: not TOML"));
}

#[tokio::test]
async fn the_defaults_of_a_file_are_the_defaults_of_the_table() {
    let db = TestDb::new().await;
    let client = db.pool(1).get().await.unwrap();
    client
        .batch_execute("insert into consumer_registry (consumer_key, event_domain) values ('bare', 'kg')")
        .await
        .unwrap();
    let stored = row(&client, "bare").await;
    let ours = Consumer::new("bare", "kg").columns();
    let ours = consumers::stored_form(&client, &ours).await.unwrap().unwrap();
    for (column, value) in ours {
        assert_eq!(stored[&column], value, "{column}");
    }
}

#[tokio::test]
async fn whatever_a_file_says_arrives_unchanged() {
    let db = TestDb::new().await;
    let mut it = Consumer::new("odd", "staging");
    it.event_type = "record_*".to_owned();
    it.job_kind = Some("odd.do".to_owned());
    it.filter = Some(
        "$.payload.\"sch lüssel\" like_regex \"^[it's]\\\\d\" && $.event.event_type != \"𝄞\"".to_owned(),
    );
    it.source_ref = Some("'; drop table consumer_registry; -- {event_subject_ref} ñ".to_owned());
    it.target_ref = Some("{payload.a b'c\"}".to_owned());
    it.ordering_key = Some("{payload.key}".to_owned());
    it.description = Some("zeile\nzwei \\ \"drei\" $1 %s".to_owned());
    it.starts_at = Some("2026-01-31T09:30:00.123456+02:00".parse().unwrap());
    it.delay = std::time::Duration::from_millis(1500);
    it.max_attempts = Some(3);
    let client = db.pool(1).get().await.unwrap();
    consumers::put(&client, &it.columns(), Some("me"), false).await.unwrap().done("put").unwrap();
    let stored = row(&client, "odd").await;
    for column in ["source_ref", "target_ref", "ordering_key", "description", "max_attempts"] {
        assert_eq!(stored[column], it.columns()[column], "{column}");
    }
    assert_eq!(stored["delay"], "00:00:01.5");
    assert_eq!(
        stored["starts_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap(),
        it.starts_at.unwrap()
    );
    let form = consumers::stored_form(&client, &it.columns()).await.unwrap().unwrap();
    assert_eq!(stored["filter"], form["filter"]);
}

async fn row(client: &deadpool_postgres::Object, key: &str) -> Value {
    Value::Object(consumers::show(client, key).await.unwrap().unwrap())
}
