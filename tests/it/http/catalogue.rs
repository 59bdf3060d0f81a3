//! `docs/metrics.md` and `/metrics` agree, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::openmetrics::{Family, Scrape};
use super::sidecar::Sidecar;
use super::{Served, get};
use crate::support::{SOON, TestDb, wait_for};

/// A row of the catalogue.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    kind: String,
    unit: Option<String>,
    pub(super) labels: BTreeSet<String>,
    help: String,
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap()
}

/// The rows `| name | type | unit | labels | meaning |` of the document.
pub(super) fn catalogue() -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    for line in document().lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, unit, labels, help] = cells[..] else { panic!("five columns: {line}") };
        let entry = Entry {
            kind: kind.to_owned(),
            unit: (unit != "–").then(|| unit.to_owned()),
            labels: labels.split(", ").filter(|one| *one != "–").map(unquoted).collect(),
            help: help.to_owned(),
        };
        assert_eq!(entries.insert(unquoted(name), entry), None, "{name} is there twice");
    }
    entries
}

fn unquoted(text: &str) -> String {
    text.trim_matches('`').to_owned()
}

/// The families of a scrape as rows, under the names that one asks for.
fn as_entries(scrape: &Scrape) -> BTreeMap<String, Entry> {
    let entry = |family: &Family| Entry {
        kind: family.kind.clone(),
        unit: family.unit.clone(),
        labels: family.labels(),
        help: family.help.clone(),
    };
    let asked_for = |(name, family): (&String, &Family)| {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{name}{suffix}"), entry(family))
    };
    scrape.0.iter().map(asked_for).collect()
}

#[tokio::test]
async fn the_catalogue_lists_what_metrics_prints_and_nothing_else() {
    let database = TestDb::new().await;
    database.open_gates().await;
    let client = database.client().await;
    let register =
        "insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
                    values ('staging', 'record_approved', 'update', 'immediate', 'test')";
    client.execute(register, &[]).await.unwrap();
    client.execute("select fn_event_emit('staging', 'record_approved', 'letter:1')", &[]).await.unwrap();
    let flows = "create table cat (id int primary key);
        select fn_route_put('{\"route_code\": \"cat\", \"source_table\": \"cat\", \"sql_event\": \"insert\", \"target_event_domain\": \"staging\",
          \"target_event_type\": \"record_approved\"}', 'test');
        select fn_schedule_put('daily', 'a.a', 'test', p_every => '1 day'), fn_schedule_enable('daily', true, 'test', 'test')";
    client.batch_execute(flows).await.unwrap();
    let collector = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]; // of no interest without otlp
    let mut sidecar = Sidecar::start(&database.url(), &collector).await;

    let mut listed = catalogue();
    listed.retain(|name, _| cfg!(feature = "otlp") || !name.starts_with("reveille_spans_"));
    let printed = wait_for("every series has a value", SOON, async || {
        let printed = as_entries(&sidecar.scrape().await);
        listed.keys().all(|name| printed.contains_key(name)).then_some(printed)
    });
    let printed = printed.await;
    for (name, entry) in &printed {
        let row = listed.get(name).unwrap_or_else(|| panic!("docs/metrics.md lacks `{name}`: {entry:?}"));
        assert_eq!(row, entry, "docs/metrics.md on `{name}` (left) and /metrics (right)");
    }
    sidecar.stop().await;
}

#[test]
fn every_metric_that_the_document_mentions_is_in_its_catalogue() {
    let known = catalogue();
    let document = document();
    let words = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let suffixes = ["_bucket", "_sum", "_count", ""];
    let is_name =
        |word: &&str| word.starts_with("reveille_") || (word.starts_with("process_") && *word != "process_");
    for word in words.filter(is_name) {
        let is_known =
            suffixes.iter().any(|one| word.strip_suffix(one).is_some_and(|name| known.contains_key(name)));
        assert!(is_known, "{word}");
    }
}

#[tokio::test]
async fn the_format_is_openmetrics() {
    let face = Served::without_database().await;
    let answer = get(face.address, "/metrics").await;
    let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.headers["content-type"], expected);
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("os", std::env::consts::OS),
        ("arch", std::env::consts::ARCH),
    ];
    assert_eq!(Scrape::read(&answer.body).value("reveille_build_info", &build), Some(1.0));
    face.stop().await;
}
