//! The label values that the dashboard, the alert rules and the page on metrics ask for are those that the program prints: a
//! query for a value that is misspelt is empty for ever, and so is its alert.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::sidecar::Sidecar;
use crate::support::{SOON, TestDb, wait_for};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Every query that the documents have.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("monitoring/reveille-dashboard.json")).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&read("monitoring/reveille.rules.yml")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let groups = rules["groups"].as_array().unwrap().iter();
    let alerts = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let exprs = targets.chain(alerts).map(|one| one["expr"].as_str().unwrap().to_owned());
    let page = read("metrics.md");
    let block = page.split("```promql\n").nth(1).unwrap().split("```").next().unwrap();
    exprs.chain(block.lines().map(str::to_owned)).collect()
}

/// What a query selects by: metric, label, value; of a pattern each of its alternatives.
fn selected(query: &str) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for (place, _) in query.match_indices('{') {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let metric = query[..place].rsplit(|c| !is_word(c)).next().unwrap();
        let inner = query[place + 1..].split('}').next().unwrap();
        for matcher in inner.split(',').filter(|one| !one.trim().is_empty()) {
            let (label, rest) = matcher.trim().split_once(['=', '!']).unwrap();
            let value = rest.trim_start_matches(['=', '~']).trim_matches('"');
            all.extend(value.split('|').map(|one| (metric.to_owned(), label.to_owned(), one.to_owned())));
        }
    }
    all
}

#[test]
fn what_a_query_selects_by_is_read_with_each_alternative() {
    let found = selected(r#"max by (x) (a_b{c="d", e=~"f|g"}) > 0 or h{i!="j"}"#);
    let found: Vec<String> =
        found.iter().map(|(metric, label, value)| format!("{metric} {label} {value}")).collect();
    assert_eq!(found, ["a_b c d", "a_b e f", "a_b e g", "h i j"]);
}

#[tokio::test]
async fn every_label_value_that_a_panel_an_alert_or_the_page_names_is_one_that_the_program_prints() {
    let database = TestDb::new().await;
    let asked: Vec<_> =
        queries().iter().flat_map(|query| selected(query)).filter(|(metric, ..)| metric != "up").collect();
    assert!(asked.len() > 10, "{asked:?}");
    let mut sidecar = Sidecar::start(&database.url(), &[]).await;
    let metrics: BTreeSet<&str> = asked.iter().map(|(metric, ..)| metric.as_str()).collect();
    let scrape = wait_for("every series that is selected has a value", SOON, async || {
        let scrape = sidecar.scrape().await;
        metrics
            .iter()
            .all(|metric| scrape.0.contains_key(metric.trim_end_matches("_total")))
            .then_some(scrape)
    });
    let scrape = scrape.await;
    let mut known: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for sample in scrape.0.values().flat_map(|family| &family.samples) {
        for (label, value) in &sample.labels {
            known.entry((&sample.name, label)).or_default().insert(value);
        }
    }
    // a component without rows today is in the view's own text
    let view = "select pg_get_viewdef('v_queue_health'::regclass)";
    let view: String = database.client().await.query_one(view, &[]).await.unwrap().get(0);
    for (metric, label, value) in &asked {
        let printed = known.get(&(metric.as_str(), label.as_str()));
        let is_printed = printed.is_some_and(|values| values.contains(value.as_str()));
        let is_component = label == "component" && view.contains(&format!("'{value}'::text"));
        assert!(is_printed || is_component, "{metric}: no {label} is {value}, but {printed:?}");
    }
    sidecar.stop().await;
}
