//! Stage two: every key, the range it must lie in, and the rules between keys.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::executor::ExecutorKind;

use super::problem::{Problem, Problems};
use super::read::{Checked, Fault, Reader, choice, count, duration, list, switch, text};
use super::settings::{LogFormat, LogLevel, Settings};
use super::telemetry;
use super::token::token;
use super::typed::{Typed, Value};

/// The settings, and the keys in the order of reading; or every problem, those found before included.
pub(super) fn check(typed: Typed, before: Vec<Problem>) -> Result<(Settings, Vec<&'static str>), Problems> {
    let mut read = Reader::new(typed, before);
    let mut settings = Settings::default();
    database(&mut read, &mut settings);
    dispatch(&mut read, &mut settings);
    listener(&mut read, &mut settings);
    sweep_and_maintenance(&mut read, &mut settings);
    worker(&mut read, &mut settings);
    faces(&mut read, &mut settings);
    telemetry::check(&mut read, &mut settings.telemetry);
    match read.finish() {
        Ok(keys) => Ok((settings, keys)),
        Err(problems) => Err(Problems(problems)),
    }
}

fn database(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.database;
    read.read("database.url", &mut it.url, address);
    read.read("database.listen_url", &mut it.listen_url, address);
    read.read("database.schema", &mut it.schema, schema);
    read.read("database.pool_size", &mut it.pool_size, count(2..=200));
    read.read("database.connect_timeout", &mut it.connect_timeout, duration(ms(100)..=minutes(5)));
    read.read("database.statement_timeout", &mut it.statement_timeout, duration(ms(100)..=hours(1)));
    read.read("database.tcp_user_timeout", &mut it.tcp_user_timeout, duration(Duration::ZERO..=minutes(10)));
    read.read("database.keepalive_idle", &mut it.keepalive_idle, duration(s(1)..=hours(2)));
    read.read("database.tls_root_cert", &mut it.tls_root_cert, existing_file);
}

fn dispatch(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.dispatch;
    read.read("dispatch.domains", &mut it.domains, list(domain));
    read.read("dispatch.listen", &mut it.listen, switch);
    read.read("dispatch.poll_interval", &mut it.poll_interval, poll_interval());
    read.read("dispatch.batch_size", &mut it.batch_size, count(1..=20_000));
    read.read("dispatch.concurrency", &mut it.concurrency, count(1..=100));
    read.read("dispatch.synchronous_commit", &mut it.synchronous_commit, switch);
    read.read("dispatch.awake_for", &mut it.awake_for, duration(Duration::ZERO..=minutes(1)));
    read.read("dispatch.look_interval", &mut it.look_interval, duration(ms(1)..=s(1)));
    read.read("dispatch.empty_looks_before_sleep", &mut it.empty_looks_before_sleep, count(1..=10_000));
    read.read("dispatch.stream_gap", &mut it.stream_gap, duration(Duration::ZERO..=s(1)));
    read.relate(
        ["dispatch.concurrency", "database.pool_size"],
        settings.dispatch.concurrency < settings.database.pool_size,
        "each dispatched domain holds a connection, and the poll needs one more: dispatch.concurrency must be less \
         than database.pool_size",
    );
}

fn listener(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.listener;
    read.read("listener.canary_interval", &mut it.canary_interval, duration(ms(100)..=minutes(10)));
    read.read("listener.canary_timeout", &mut it.canary_timeout, duration(ms(50)..=minutes(10)));
    read.read("listener.backoff_first", &mut it.backoff_first, duration(ms(1)..=minutes(1)));
    read.read("listener.backoff_cap", &mut it.backoff_cap, duration(ms(1)..=minutes(10)));
    read.relate(
        ["listener.canary_timeout", "listener.canary_interval"],
        it.canary_timeout < it.canary_interval,
        "listener.canary_timeout must be shorter than listener.canary_interval",
    );
    read.relate(
        ["listener.backoff_first", "listener.backoff_cap"],
        it.backoff_first <= it.backoff_cap,
        "listener.backoff_first must not exceed listener.backoff_cap",
    );
}

fn sweep_and_maintenance(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.sweep;
    read.read("sweep.interval", &mut it.interval, duration(s(1)..=hours(24)));
    read.read("sweep.margin", &mut it.margin, duration(Duration::ZERO..=hours(24)));
    let it = &mut settings.maintenance;
    read.read("maintenance.interval", &mut it.interval, duration(s(1)..=hours(1)));
    read.read("maintenance.reap_interval", &mut it.reap_interval, duration(s(1)..=hours(1)));
    read.read("maintenance.archive_interval", &mut it.archive_interval, duration(s(1)..=hours(1)));
    read.read("maintenance.audit_interval", &mut it.audit_interval, duration(s(1)..=hours(1)));
    read.read("maintenance.schedule_interval", &mut it.schedule_interval, duration(s(1)..=hours(1)));
    read.read("maintenance.keep_passes_for", &mut it.keep_passes_for, duration(minutes(1)..=hours(24 * 365)));
    read.read("maintenance.heartbeat_interval", &mut it.heartbeat_interval, duration(s(1)..=hours(1)));
    read.read("maintenance.executor_name", &mut it.executor_name, sidecar_name);
}

fn worker(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.worker;
    read.read("worker.executor_name", &mut it.executor_name, executor_name);
    read.read("worker.kind", &mut it.kind, executor_kind);
    read.read("worker.concurrency", &mut it.concurrency, count(1..=1000));
    read.read("worker.prefetch", &mut it.prefetch, count(0..=10_000));
    read.read("worker.batch_size", &mut it.batch_size, count(1..=10_000));
    read.read("worker.lease", &mut it.lease, lease);
    read.read("worker.poll_interval", &mut it.poll_interval, poll_interval());
    read.read("worker.time_limit", &mut it.time_limit, duration(ms(100)..=hours(24)));
    read.read("worker.job_kinds", &mut it.job_kinds, list(job_kind));
}

fn faces(read: &mut Reader, settings: &mut Settings) {
    let it = &mut settings.http;
    read.read("http.enabled", &mut it.enabled, switch);
    read.read("http.listen", &mut it.listen, |value| {
        let text = text(value)?;
        text.parse().map_err(|_| {
            Fault::rule(format!(
                "`{text}` is not an address and port such as \"127.0.0.1:7045\" or \"[::1]:7045\""
            ))
        })
    });
    read.read("http.hosts", &mut it.hosts, list(host_name));
    read.read("http.token", &mut it.token, token);
    read.read("http.token_file", &mut it.token_file, |value| text(value).map(PathBuf::from));
    read.relate(
        ["http.token", "http.token_file"],
        it.token.0.is_empty() || it.token_file.as_os_str().is_empty(),
        "http.token and http.token_file are both given: leave one of them empty",
    );
    read.read("http.behind_tls", &mut it.behind_tls, switch);
    read.read("shutdown.deadline", &mut settings.shutdown.deadline, duration(Duration::ZERO..=hours(1)));
    let it = &mut settings.log;
    read.read("log.format", &mut it.format, choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    read.read("log.level", &mut it.level, choice(&LEVELS));
}

const LEVELS: [(&str, LogLevel); 6] = [
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// The form alone is checked, and the value never shown: it may hold a password.
fn address(value: &Value) -> Checked<String> {
    let text = text(value)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("postgres" | "postgresql") => Ok(text),
        None if text.is_empty() || text.contains('=') => Ok(text),
        _ => Err(Fault::rule("must be an address such as postgres://user:password@host:5432/database")),
    }
}

fn schema(value: &Value) -> Checked<String> {
    let text = text(value)?;
    if text.is_empty() || text.len() > 63 || text.contains('\0') {
        return Err(Fault::rule("must be a schema name of 1 to 63 bytes"));
    }
    if text.starts_with("pg_") || text == "information_schema" {
        return Err(Fault::rule(format!("`{text}` belongs to Postgres itself")));
    }
    Ok(text)
}

fn existing_file(value: &Value) -> Checked<String> {
    let text = text(value)?;
    if text.is_empty() || Path::new(&text).is_file() {
        return Ok(text);
    }
    Err(Fault::rule(format!("there is no file `{text}`")))
}

/// The form alone is checked; which domains there are, the database knows.
fn domain(word: &str) -> Checked<()> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if word.starts_with(|first: char| first.is_ascii_lowercase())
        && word.len() <= 41
        && word.bytes().all(is_plain)
    {
        return Ok(());
    }
    Err(Fault::rule(format!(
        "`{word}` is not a domain: lower case letters, digits and underscores, at most 41"
    )))
}

/// The form that `queue_heartbeat` takes; empty stands for a name made up for each process.
fn executor_name(value: &Value) -> Checked<String> {
    name_within(value, 120)
}

/// The same, with room for what the names of its parts add: `-sweeper`.
fn sidecar_name(value: &Value) -> Checked<String> {
    name_within(value, 112)
}

fn name_within(value: &Value, longest: usize) -> Checked<String> {
    let name = text(value)?;
    if name.starts_with(char::is_whitespace) || name.chars().count() > longest {
        let rule = format!("must be a name of at most {longest} characters that begins with a visible one");
        return Err(Fault::rule(rule));
    }
    Ok(name)
}

fn executor_kind(value: &Value) -> Checked<ExecutorKind> {
    let word = text(value)?;
    word.parse().map_err(|_| Fault::not_one_of(&word, ExecutorKind::ALL.map(ExecutorKind::as_str)))
}

fn job_kind(word: &str) -> Checked<()> {
    if word.trim().is_empty() { Err(Fault::rule("a job kind is a name such as `cut.cut`")) } else { Ok(()) }
}

/// A name as a browser sends it, without scheme and port.
fn host_name(word: &str) -> Checked<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if !word.is_empty() && word.bytes().all(fits) {
        return Ok(());
    }
    Err(Fault::rule(format!("`{word}` is not a name such as \"reveille.example\", without scheme and port")))
}

/// Zero leaves the lease to the database's own key.
fn lease(value: &Value) -> Checked<Duration> {
    let parsed = duration(Duration::ZERO..=hours(24))(value)?;
    if parsed > Duration::ZERO && parsed < s(1) {
        return Err(Fault::rule("must be 0s (the database's own lease) or from 1s to 1day"));
    }
    Ok(parsed)
}

fn poll_interval() -> impl FnOnce(&Value) -> Checked<Duration> {
    let range: RangeInclusive<Duration> = ms(50)..=hours(1);
    duration(range)
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_mins(count)
}

const fn hours(count: u64) -> Duration {
    Duration::from_hours(count)
}
