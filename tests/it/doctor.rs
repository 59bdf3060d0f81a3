//! `reveille doctor`: each fault is planted for real, named with severity, reason and remedy, and gone when mended.

mod asked;
mod host;
mod life;
mod page;
mod past;
mod rights;
mod schema;
mod server;
mod wants;
mod work;

use std::sync::Arc;

use reveille::model::sorts;
use serde_json::Value;
use tokio_postgres::Client;

use crate::commands::{json, words};
use crate::support::{TestDb, own_server, quiet_options, steps};

/// A migrated database with open gates and a consumer, a handler and an executor that go together: nothing is wrong.
pub(crate) struct Patient {
    pub(crate) db: TestDb,
    pub(crate) client: Client,
}

const HEALTHY: &str = "
    create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
    insert into job_handler (job_kind, handler) values ('test.seen', 'nothing(jsonb)');
    insert into consumer_registry (consumer_key, event_domain, event_type, job_kind, actor, enabled)
    values ('seen', 'system', 'queue_dispatch_gap', 'test.seen', 'test', true);
    select fn_queue_heartbeat_register('hand', 'PG_worker');
    select fn_queue_heartbeat_tick('hand')";

impl Patient {
    pub(crate) async fn new() -> Self {
        Self::of(TestDb::new().await).await
    }

    pub(crate) async fn of(db: TestDb) -> Self {
        db.open_gates().await;
        let client = db.client().await;
        client.batch_execute(HEALTHY).await.unwrap();
        Self { db, client }
    }

    /// On a server of its own, where no other test has a transaction open.
    pub(crate) async fn alone() -> Self {
        Self::of(TestDb::on(Arc::new(own_server(quiet_options()).await)).await).await
    }

    /// Plants a fault.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}: {:?}", error.as_db_error());
        }
    }

    /// Everything that the doctor finds.
    pub(crate) fn findings(&self, arguments: &[&str]) -> Vec<Value> {
        findings(&self.db, arguments)
    }

    /// The mend of the one finding of that name about that subject, whose words are those of its sort.
    pub(crate) fn sees(&self, name: &str, subject: &str) -> String {
        self.sees_with(&[], name, subject)
    }

    pub(crate) fn sees_with(&self, arguments: &[&str], name: &str, subject: &str) -> String {
        mend(&self.findings(arguments), name, subject)
    }

    pub(crate) fn is_healthy(&self) {
        let found = self.findings(&[]);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(words(&self.db, &["doctor"]).0, Some(0));
    }

    /// Does what a mend says.
    pub(crate) async fn mends(&self, mend: &str) {
        let steps = steps(mend);
        assert!(!steps.is_empty(), "{mend}");
        for step in steps {
            let step = step.replace("TEXT", "mended");
            if let Some(command) = step.strip_prefix("reveille ") {
                let (code, out, err) = words(&self.db, &command.split_whitespace().collect::<Vec<_>>());
                assert_eq!(code, Some(0), "{step}: {out}{err}");
            } else {
                self.run(&step).await;
            }
        }
    }
}

/// Everything that the doctor finds, and the exit code that goes with it.
pub(crate) fn findings(db: &TestDb, arguments: &[&str]) -> Vec<Value> {
    let (code, answer, err) = json(db, &[&["doctor"], arguments].concat());
    let found = answer["findings"].as_array().unwrap_or_else(|| panic!("{answer} {err}")).clone();
    let is_wrong = found.iter().any(|one| one["severity"] != "info");
    assert_eq!(code, Some(i32::from(is_wrong)), "{found:?}");
    found
}

/// The mend of the finding of that name whose subject contains `subject`.
pub(crate) fn mend(found: &[Value], name: &str, subject: &str) -> String {
    let is_it = |one: &&Value| one["finding"] == name && one["subject"].as_str().unwrap().contains(subject);
    let one = found.iter().find(is_it).unwrap_or_else(|| panic!("no {name} about {subject}: {found:#?}"));
    let sort = sorts::named(name).unwrap_or_else(|| panic!("{name} is in no list"));
    assert!(sort.severity.split(" or ").any(|severity| one["severity"] == severity), "{one}");
    assert_eq!(one["why"], sort.why, "{one}");
    for words in ["what", "mend"] {
        assert!(!one[words].as_str().unwrap().is_empty(), "{one}");
    }
    one["mend"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_is_wrong_with_a_healthy_system() {
    let patient = Patient::new().await;
    patient.is_healthy();
    let (code, text, _) = words(&patient.db, &["doctor"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("nothing is wrong with the schema, poolers, LISTEN, clocks"), "{text}");
}

#[tokio::test]
async fn findings_of_severity_info_alone_are_no_bad_news() {
    let patient = Patient::new().await;
    patient.run("select fn_gate_set('queue.notify.bridge_enabled', 'false', 'test', 'x')").await;
    let (code, text, _) = words(&patient.db, &["doctor"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("info: gate queue.notify.bridge_enabled: it is closed"), "{text}");
    assert!(
        text.contains("[bridge_closed]\n  why:  ") && text.contains("\n  mend: reveille gate open"),
        "{text}"
    );
    let mend = patient.sees("bridge_closed", "gate queue.notify.bridge_enabled");
    patient.mends(&mend).await;
    patient.is_healthy();
}
