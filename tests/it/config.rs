//! Settings: which source wins, what is said when they are wrong, and what `config.toml` claims.

mod token;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reveille::config::{self, Database, Flag, Origin, Problem, Settings, Sources};
use reveille::model::executor::ExecutorKind;

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

/// Settings of a file with this text, named `it.toml` in a folder of its own.
fn file(name: &str, text: &str) -> Sources {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("it.toml");
    std::fs::write(&path, text).unwrap();
    Sources { file: Some(path), ..Sources::default() }
}

fn problems(sources: &Sources) -> Vec<Problem> {
    sources.load().expect_err("these settings are wrong").0
}

fn problem<'a>(problems: &'a [Problem], key: &str) -> &'a Problem {
    let found = problems.iter().find(|problem| problem.key == key);
    found.unwrap_or_else(|| panic!("no problem of {key} among {problems:#?}"))
}

#[test]
fn config_toml_holds_every_setting_with_its_default_and_a_comment() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let document: toml::Table = toml::from_str(&text).unwrap();
    let written: BTreeSet<String> = document
        .iter()
        .flat_map(|(section, table)| {
            table.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        })
        .collect();
    let known: BTreeSet<String> = config::keys().into_iter().map(str::to_owned).collect();
    assert_eq!(written, known);

    let sources = Sources { file: Some(path), ..Sources::default() };
    assert_eq!(sources.load().unwrap(), Settings::default());

    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#')) {
        assert!(pair[0].starts_with("# "), "no comment above `{}`", pair[1]);
    }
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_binary_without_otlp_refuses_an_endpoint_and_leaves_the_variables_of_the_platform_alone() {
    let found = problems(&environment(&[("REVEILLE__TELEMETRY__ENDPOINT", "http://localhost:4318")]));
    let problem = problem(&found, "telemetry.endpoint");
    assert!(problem.rule.starts_with("this binary was built without otlp: build it with"), "{problem:?}");
    let platform = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "shop"),
    ];
    assert_eq!(environment(&platform).load().unwrap(), Settings::default());
}

#[cfg(feature = "otlp")]
#[test]
fn the_standard_variables_of_otlp_are_weaker_than_our_own_and_count_only_with_an_endpoint() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    let given = [
        endpoint,
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("REVEILLE__TELEMETRY__SERVICE_NAME", "own"),
    ];
    let settings = environment(&given).load().unwrap();
    assert_eq!(settings.telemetry.endpoint, endpoint.1);
    assert_eq!(settings.telemetry.service_name, "own");
    assert_eq!(settings.telemetry.timeout, Duration::from_millis(2500));
    assert!(!format!("{settings:?}").contains("secret"));
    for switched_off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(environment(&[endpoint, switched_off]).load().unwrap(), Settings::default());
    }
    assert_eq!(environment(&given[1..4]).load().unwrap(), Settings::default());
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    // a platform sets them for everybody: they stop no command, and what they cost is said
    let unfit = environment(&[endpoint, grpc]).load().unwrap().telemetry;
    assert_eq!(unfit.endpoint, "");
    let words = unfit.unfit.unwrap();
    assert!(words.starts_with("no spans are exported") && words.contains(grpc.0), "{words}");
    assert!(words.contains("http/protobuf"), "{words}");
    let own = ("REVEILLE__TELEMETRY__ENDPOINT", "http://localhost:4318");
    let left_out = environment(&[endpoint, grpc, own]).load().unwrap().telemetry;
    assert_eq!((left_out.endpoint.as_str(), left_out.is_of_platform), (own.1, false));
    assert!(left_out.unfit.unwrap().starts_with("left out"));
    let found = problems(&environment(&[("REVEILLE__TELEMETRY__PROTOCOL", "grpc")]));
    assert!(
        problem(&found, "telemetry.protocol").rule.contains("http/protobuf"),
        "our own key is to be right"
    );
}

#[test]
fn flags_win_over_environment_over_database_url_over_file_over_defaults() {
    let mut sources = file(
        "order",
        "[worker]\nkind = \"DOT\"\nconcurrency = 7\nbatch_size = 9\n[database]\nurl = \"postgres://file/a\"\n",
    );
    assert_eq!(sources.load().unwrap().database.url, "postgres://file/a");

    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    sources.environment = vec![
        set("REVEILLE__WORKER__KIND", "Agent"),
        set("REVEILLE__WORKER__CONCURRENCY", "8"),
        set("DATABASE_URL", "postgres://environment/a"),
        set("REVEILLE_PG_BIN", "not a setting"),
    ];
    let flag = Flag { name: "--kind", key: "worker.kind", value: "Codex".to_owned() };
    sources.flags = vec![flag];
    let settings = sources.load().unwrap();
    assert_eq!(settings.worker.kind, ExecutorKind::Codex);
    assert_eq!(settings.worker.concurrency, 8);
    assert_eq!(settings.worker.batch_size, 9);
    assert_eq!(settings.worker.time_limit, Duration::from_mins(5));
    assert_eq!(settings.database.url, "postgres://environment/a");

    sources.environment.push(set("REVEILLE__DATABASE__URL", "postgres://exact/a"));
    assert_eq!(sources.load().unwrap().database.url, "postgres://exact/a");
}

#[test]
fn every_problem_is_reported_at_once_with_its_place_rule_and_guess() {
    let mut sources = file(
        "problems",
        "colour = 1\n\
         [dispatch]\n\
         pol_interval = \"1s\"\n\
         poll_interval = \"2h\"\n\
         batch_size = \"many\"\n\
         domains = [\"Staging\"]\n\
         [listner]\n\
         canary_timeout = \"1s\"\n\
         [listener]\n\
         canary_timeout = \"20s\"\n\
         [http]\n\
         listen = \"localhost\"\n\
         [sweep]\n\
         margin = 60\n",
    );
    sources.environment = vec![
        ("REVEILLE__WORKER__KIND".to_owned(), "PG_wroker".to_owned()),
        ("REVEILLE__LOG__LEVEL".to_owned(), "loud".to_owned()),
    ];
    sources.flags = vec![Flag { name: "--lease", key: "worker.lease", value: "soon".to_owned() }];
    let all = problems(&sources);
    assert_eq!(all.len(), 12, "{all:#?}");

    let misspelt = problem(&all, "dispatch.pol_interval");
    assert_eq!(misspelt.guess.as_deref(), Some("dispatch.poll_interval"));
    assert!(matches!(&misspelt.origin, Some(Origin::File { path, line: 3 }) if path.ends_with("it.toml")));
    assert_eq!(problem(&all, "dispatch.poll_interval").rule, "must be from 50ms to 1h, not 2h");
    assert_eq!(
        problem(&all, "dispatch.batch_size").rule,
        "must be a whole number from 1 to 20000, not text in quotes"
    );
    assert!(problem(&all, "dispatch.domains").rule.contains("lower case"));
    assert_eq!(problem(&all, "listner.canary_timeout").guess.as_deref(), Some("listener.canary_timeout"));
    assert_eq!(
        problem(&all, "listener.canary_timeout").rule,
        "listener.canary_timeout must be shorter than listener.canary_interval"
    );
    assert!(problem(&all, "http.listen").rule.contains("127.0.0.1:7045"));
    assert!(problem(&all, "sweep.margin").rule.contains("unit"));
    assert_eq!(problem(&all, "worker.kind").guess.as_deref(), Some("PG_worker"));
    assert_eq!(
        problem(&all, "worker.kind").origin,
        Some(Origin::Environment("REVEILLE__WORKER__KIND".to_owned()))
    );
    assert!(problem(&all, "log.level").guess.is_none());
    assert_eq!(problem(&all, "worker.lease").origin, Some(Origin::Flag("--lease")));
}

#[test]
fn bounds_of_ranges_are_allowed_and_what_lies_beyond_is_not() {
    for (key, good, bad) in [
        ("DISPATCH__POLL_INTERVAL", ["50ms", "1h"], ["49ms", "3601s"]),
        ("DISPATCH__BATCH_SIZE", ["1", "20000"], ["0", "20001"]),
        ("DATABASE__POOL_SIZE", ["3", "200"], ["1", "201"]),
        ("DISPATCH__EMPTY_LOOKS_BEFORE_SLEEP", ["1", "10000"], ["-1", "99999999999999999999"]),
        ("WORKER__LEASE", ["0s", "1s"], ["1ms", "25h"]),
        ("DATABASE__SCHEMA", ["reveille", "Ünï \"quoted\""], ["", "pg_catalog"]),
        ("HTTP__ENABLED", ["true", "false"], ["yes", ""]),
        ("DISPATCH__DOMAINS", ["", "iu, of_a_host2"], ["iu,no where", "*"]),
        ("MAINTENANCE__EXECUTOR_NAME", ["", "db1 dispatcher"], [" db1", "\tdb1"]),
        ("HTTP__LISTEN", ["[::1]:0", "0.0.0.0:80"], ["7045", "127.0.0.1:70450"]),
    ] {
        let name = format!("REVEILLE__{key}");
        for value in good {
            let loaded = environment(&[(&name, value)]).load();
            assert!(loaded.is_ok(), "{name}={value}: {}", loaded.unwrap_err());
        }
        for value in bad {
            assert!(environment(&[(&name, value)]).load().is_err(), "{name}={value} was accepted");
        }
    }
}

#[test]
fn rules_between_settings_name_the_one_that_was_typed() {
    let all = problems(&environment(&[("REVEILLE__DATABASE__POOL_SIZE", "2")]));
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].key, "database.pool_size");
    assert_eq!(all[0].origin, Some(Origin::Environment("REVEILLE__DATABASE__POOL_SIZE".to_owned())));
}

#[test]
fn domains_cannot_take_the_connection_of_the_poll() {
    let size = |concurrency| {
        environment(&[
            ("REVEILLE__DATABASE__POOL_SIZE", "4"),
            ("REVEILLE__DISPATCH__CONCURRENCY", concurrency),
        ])
    };
    assert!(size("3").load().is_ok());
    let rule = &problems(&size("4"))[0].rule;
    assert!(rule.contains("must be less than database.pool_size"), "{rule}");
}

#[test]
fn a_named_file_that_is_missing_is_a_problem_and_a_missing_default_is_not() {
    let missing = PathBuf::from("/nowhere/at all.toml");
    let sources = Sources { default_file: Some(missing.clone()), ..Sources::default() };
    assert_eq!(sources.load().unwrap(), Settings::default());
    let all = problems(&Sources { file: Some(missing), ..Sources::default() });
    assert_eq!(all[0].key, "/nowhere/at all.toml");
    assert!(all[0].rule.contains("cannot be read"), "{}", all[0].rule);
}

#[test]
fn a_file_that_is_not_toml_says_on_which_line() {
    let all = problems(&file("syntax", "[database]\npool_size = 4\nurl = \"postgres://me:hush@host/db\n"));
    assert!(matches!(all[0].origin, Some(Origin::File { line: 3, .. })), "{all:#?}");
    assert!(!format!("{all:?}").contains("hush"));
}

#[test]
fn a_syntax_error_is_told_once_and_the_rest_of_the_file_is_still_checked() {
    let all = problems(&file("one", "[worker]\nkind = DOT\nconcurency = 3\n"));
    assert_eq!(all.len(), 2, "{all:#?}");
    assert_eq!(problem(&all, "worker.concurency").guess.as_deref(), Some("worker.concurrency"));
    let all = problems(&file("many", "a = \n b = [1\n[dispatch]\npoll_interval=\"1s\"\n"));
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(matches!(all[0].origin, Some(Origin::File { line: 1, .. })), "{all:#?}");
}

#[test]
fn passwords_are_never_printed() {
    let url = "postgres://me:hush@host/db";
    let shown = format!("{:?}", Database { url: url.into(), listen_url: url.into(), ..Database::default() });
    assert!(shown.contains("host/db") && !shown.contains("hush"), "{shown}");

    let wrong = [("DATABASE_URL", "mysql://me:hush@host"), ("REVEILLE__DATABASE__PASSWORD", "hush")];
    let sources = environment(&wrong);
    let all = sources.load().unwrap_err();
    assert!(!all.to_string().contains("hush"), "{all}");
    let flag = Flag { name: "--database-url", key: "database.url", value: url.to_owned() };
    assert!(!format!("{flag:?}").contains("hush"));
}
