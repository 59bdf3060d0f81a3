//! The dashboard and the alert rules of `docs/monitoring` ask for what `/metrics` prints, and for nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::catalogue::catalogue;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Names of metrics and labels in a query: whatever is no number, text, function or word of the language.
fn words(query: &str) -> BTreeSet<String> {
    const LANGUAGE: [&str; 25] = [
        "sum",
        "max",
        "min",
        "count",
        "rate",
        "increase",
        "absent",
        "by",
        "without",
        "or",
        "and",
        "on",
        "bool",
        "time",
        "vector",
        "unless",
        "histogram_quantile",
        "up",
        "job",
        "instance",
        "le",
        "max_over_time",
        "rate_interval",
        "__rate_interval",
        "offset",
    ];
    let mut text = String::new();
    for (place, part) in query.split('"').enumerate() {
        text.push_str(if place % 2 == 0 { part } else { " " }); // quoted texts are values
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let all = text
        .split(|c| !is_word(c))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
    all.filter(|word| !LANGUAGE.contains(word)).map(str::to_owned).collect()
}

/// Complains of what is no query, and of what one asks for that is not in the catalogue.
fn check(place: &str, query: &str) {
    // Grafana puts a duration in its place
    let said = query.replace("$__rate_interval", "5m");
    if let Err(error) = promql_parser::parser::parse(&said) {
        panic!("{place}: Prometheus does not take {query}: {error}");
    }
    let known = catalogue();
    let name = |word: &str| {
        let bare =
            ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word);
        [word, bare].into_iter().find(|one| known.contains_key(*one)).map(str::to_owned)
    };
    let words = words(query);
    let metrics: Vec<String> = words.iter().filter_map(|word| name(word)).collect();
    assert!(!metrics.is_empty() || query.contains("up{"), "{place}: no metric in {query}");
    let labels: BTreeSet<&String> = metrics.iter().flat_map(|metric| &known[metric].labels).collect();
    for word in words.iter().filter(|word| name(word).is_none()) {
        // units of a range: [15m]
        let is_range = word.len() == 1;
        assert!(
            is_range || labels.contains(word),
            "{place}: `{word}` is no metric, and no label of {metrics:?}: {query}"
        );
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("reveille-dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = 0;
    assert!(dashboard["schemaVersion"].as_i64() >= Some(36), "Grafana would have to migrate it");
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
    for panel in dashboard["panels"].as_array().unwrap() {
        let source = &panel["datasource"]["uid"];
        assert!(
            panel["type"] == "row" || source == "${datasource}",
            "a source that nobody asks for: {panel}"
        );
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "an id twice: {panel}");
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            check(title, target["expr"].as_str().unwrap());
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries}");
}

#[test]
fn every_alert_asks_for_metrics_that_there_are_and_says_what_to_do() {
    let rules: Value = serde_yaml_ng::from_str(&read("reveille.rules.yml")).unwrap();
    let mut names = BTreeSet::new();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name} twice");
        check(name, rule["expr"].as_str().unwrap());
        // Prometheus loads no file with a key that it does not know, or a duration that is none
        let known = ["alert", "annotations", "expr", "for", "labels"];
        assert!(keys(rule).iter().all(|key| known.contains(&key.as_str())), "{name}: {rule}");
        if let Some(length) = rule["for"].as_str() {
            assert!(promql_parser::util::parse_duration(length).is_ok(), "{name}: for {length}");
        }
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        for text in ["summary", "description"] {
            let words = rule["annotations"][text].as_str().unwrap();
            assert!(words.len() > 10, "{name}: {text}");
            assert_eq!(words.matches("{{ $").count(), words.matches(" }}").count(), "{name}: {words}");
        }
    }
    assert!(names.len() > 10, "{names:?}");
    let red =
        ["Silent", "DecisionsMissing", "Stuck", "Unclaimed", "DeadLetters", "ScheduleLate", "RouteFaults"];
    let missing: Vec<_> =
        red.iter().filter(|one| !names.contains(format!("Reveille{one}").as_str())).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "what is red in `reveille health` wakes somebody");
}
