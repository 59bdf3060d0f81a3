//! Roles: those that are missing, the one that looks.

use std::sync::Arc;

use super::{Patient, findings};
use crate::cli::{output, reveille};
use crate::support::{TestDb, login, own_server, quiet_options};

#[tokio::test]
async fn a_role_that_is_gone_is_named_and_comes_back_with_its_rights() {
    let server = Arc::new(own_server(quiet_options()).await);
    let patient = Patient::of(TestDb::on(server).await).await;
    patient.is_healthy();
    patient.run("alter role reveille_reader rename to somebody_else").await;
    patient.sees("grant_missing", "table job_queue");
    let mend = patient.sees("role_missing", "role reveille_reader");
    patient.mends(mend.strip_prefix("as a role that may create roles: ").unwrap()).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_reader_may_ask_and_is_told_what_he_may_not_see() {
    let server = Arc::new(own_server(quiet_options()).await);
    let patient = Patient::of(TestDb::on(server).await).await;
    let (client, url) = (&patient.client, patient.db.url());
    let asks = |url: &str| {
        let (code, out, err) = output(reveille(&["doctor", "--json"]).env("DATABASE_URL", url));
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        (code, answer["findings"].as_array().unwrap().clone())
    };
    let reader = login(client, &url, "reader", "in role reveille_reader").await;
    let (code, found) = asks(&reader);
    assert_eq!(code, Some(0), "{found:#?}");
    assert!(
        found.iter().all(|one| one["finding"] == "could_not_look" && one["severity"] == "info"),
        "{found:#?}"
    );
    let subjects: Vec<&str> = found.iter().map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["sessions of other roles"], "{found:#?}");
    patient.run(found[0]["mend"].as_str().unwrap()).await;
    let (code, found) = asks(&reader);
    assert_eq!((code, found.len()), (Some(0), 0), "{found:#?}");

    let nobody = login(client, &url, "nobody", "").await;
    let (code, found) = asks(&nobody);
    assert_eq!(code, Some(1));
    let mend = super::mend(&found, "role_without_rights", "role nobody");
    assert!(
        found.iter().any(|one| one["finding"] == "could_not_look" && one["subject"] == "gates"),
        "{found:#?}"
    );
    patient.run(mend.split(" (").next().unwrap()).await;
    let (code, found) = asks(&nobody);
    assert_eq!(code, Some(0), "{found:#?}");
    assert!(findings(&patient.db, &[]).is_empty());
}

#[tokio::test]
async fn a_check_that_fails_is_a_finding_and_stops_no_other() {
    let patient = Patient::new().await;
    patient.run("alter table job_dead_letter rename to away; alter table event_outbox disable trigger reveille_event_arrival").await;
    patient.sees("trigger_disabled", "on event_outbox");
    let found = patient.findings(&[]);
    let blind = found
        .iter()
        .find(|one| one["finding"] == "could_not_look" && one["subject"] == "poison jobs")
        .unwrap();
    assert_eq!(blind["severity"], "warning", "{blind}");
    assert!(blind["what"].as_str().unwrap().contains("job_dead_letter"), "{blind}");
}
