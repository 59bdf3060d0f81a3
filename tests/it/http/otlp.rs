//! Spans as a collector gets them. Only with the feature `otlp`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::sidecar::Sidecar;
use crate::support::{Folder, Program, SOON, TestDb, wait_for, wait_until};
use crate::tracing::{PARENT, TRACE, emit, stage, value};

/// A collector on a port of its own; every request is answered with `status`.
struct Collector {
    endpoint: String,
    got: Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>,
    server: JoinHandle<()>,
}

impl Collector {
    async fn answering(status: StatusCode) -> Self {
        let got = Arc::<Mutex<Vec<_>>>::default();
        let keep = Arc::clone(&got);
        let take = async move |headers: HeaderMap, body: Bytes| {
            keep.lock().unwrap().push((headers, ExportTraceServiceRequest::decode(body).unwrap()));
            status
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/v1/traces", post(take));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, got, server }
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let scopes = got.iter().flat_map(|(_, request)| &request.resource_spans);
        scopes.flat_map(|of| &of.scope_spans).flat_map(|of| of.spans.clone()).collect()
    }

    async fn span(&self, name: &str) -> Span {
        wait_for(name, SOON, async || self.spans().into_iter().find(|span| span.name == name)).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read(attributes: &[KeyValue]) -> BTreeMap<String, Value> {
    let one = |attribute: &KeyValue| {
        let value = match attribute.value.clone().unwrap().value.unwrap() {
            Any::StringValue(text) => json!(text),
            Any::IntValue(number) => json!(number),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(one).collect()
}

/// The traceparent of what hangs on this span.
fn traceparent(span: &Span) -> Value {
    json!(format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
}

#[tokio::test]
async fn a_run_is_a_span_of_its_producers_trace_and_what_its_handler_does_hangs_on_it() {
    let (db, client) = stage().await;
    let handler = "
        create function handle_next(p_job jsonb) returns jsonb language plpgsql as $$ begin
          perform fn_event_emit('staging', 'read', p_job ->> 'traceparent');
          perform fn_job_enqueue('page.later', 'test');
          return null; end $$;
        insert into job_handler (job_kind, handler) values ('page.next', 'handle_next(jsonb)')";
    client.batch_execute(handler).await.unwrap();
    let collector = Collector::answering(StatusCode::OK).await;
    let folder = Folder::open_to_all();
    std::fs::write(folder.path().join("read.sh"), "cat > job.json; echo \"$TRACEPARENT\" > env\n").unwrap();
    let program = format!("sh -c 'cd {} && . ./read.sh'", folder.path().display());
    let export = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=pages%20and%20more"),
        ("OTEL_SERVICE_NAME", "pages"),
    ];
    let exec = [
        "work",
        "--exec",
        &program,
        "--job-kinds",
        "page.read",
        "--kind",
        "external_worker",
        "--executor-name",
        "x",
    ];
    let programs = [
        Program::run(&db.url(), &export),
        Program::start(&db.url(), &exec, &export),
        Program::start(&db.url(), &["work"], &export),
    ];
    let event = emit(&client, PARENT, json!({})).await;
    let pass = collector.span("dispatch staging").await;
    let read_span = collector.span("run page.read").await;
    let next = collector.span("run page.next").await;
    for program in programs {
        program.stops().await;
    }

    assert_eq!(read(&pass.attributes)["dispatch.events"], 1);
    assert!(pass.parent_span_id.is_empty() && hex(&pass.trace_id) != TRACE, "a pass is of many traces");
    let producer = "00f067aa0ba902b7";
    for span in [&read_span, &next] {
        assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, producer));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    }
    let said = read(&read_span.attributes);
    let job = value(&client, "select job_id from job_queue where job_kind = 'page.read'").await;
    assert_eq!((&said["job.id"], &said["job.kind"]), (&job, &json!("page.read")));
    assert_eq!((&said["executor"], &said["outcome"]), (&json!("x"), &json!("succeeded")));
    assert_eq!((&said["event.id"], &said["consumer.key"]), (&json!(event), &json!("reader")));

    let env = std::fs::read_to_string(folder.path().join("env")).unwrap();
    assert_eq!(json!(env.trim()), traceparent(&read_span), "the program gets the run's own span");
    let given: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("job.json")).unwrap()).unwrap();
    assert_eq!(given["traceparent"], traceparent(&read_span));
    let fact = "select jsonb_build_array(safe_payload -> 'traceparent', event_subject_ref) from event_outbox where event_type = 'read'";
    let own = traceparent(&next);
    assert_eq!(
        value(&client, fact).await,
        json!([own, own]),
        "what a SQL handler emits, and what it is told"
    );
    let later = "select traceparent from job_queue where job_kind = 'page.later'";
    assert_eq!(value(&client, later).await, own);
    let kept =
        "select jsonb_agg(distinct traceparent) from job_queue where job_kind in ('page.read', 'page.next')";
    assert_eq!(value(&client, kept).await, json!([PARENT]), "the jobs keep the trace that they came with");

    let got = collector.got.lock().unwrap();
    let (headers, request) = &got[0];
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["x-tenant"], "pages and more");
    let resource = read(&request.resource_spans[0].resource.clone().unwrap().attributes);
    assert_eq!(resource["service.name"], "pages");
}

#[tokio::test]
async fn a_failure_and_a_job_without_a_trace_have_their_span_and_an_unsampled_trace_has_none() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let begin = "
        create function fail(p_job jsonb) returns jsonb language plpgsql as $$ begin
          raise exception 'no ink' using errcode = '22000'; end $$;
        create function tell(p_job jsonb) returns jsonb language sql as $$
          select jsonb_build_object('result_ref', p_job ->> 'traceparent') $$;
        insert into job_handler (job_kind, handler) values ('page.fail', 'fail(jsonb)'), ('page.tell', 'tell(jsonb)');
        select fn_job_enqueue('page.fail', 'test'), fn_job_enqueue('page.tell', 'test', p_idempotency_key => 'root'),
          fn_job_enqueue('page.tell', 'test', '{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\"}', p_idempotency_key => 'unsampled')";
    client.batch_execute(begin).await.unwrap();
    let collector = Collector::answering(StatusCode::OK).await;
    let export = [("REVEILLE__TELEMETRY__ENDPOINT", collector.endpoint.as_str())];
    let ended = Program::start(&db.url(), &["work", "--once"], &export).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);

    let spans = collector.spans(); // all are there: the end waited for them
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["run page.fail", "run page.tell"]);
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let failed = of("run page.fail");
    assert_eq!(read(&failed.attributes)["outcome"], "failed_permanent");
    let status = failed.status.clone().unwrap();
    assert!(status.code == 2 && status.message.contains("no ink"), "{status:?}");
    let told =
        "select jsonb_object_agg(idempotency_key, result_ref) from job_queue where job_kind = 'page.tell'";
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert_eq!(
        value(&client, told).await,
        json!({"root": traceparent(of("run page.tell")), "unsampled": unsampled})
    );
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_neither_work_nor_the_stop() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let begin = "
        create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
        insert into job_handler (job_kind, handler) values ('page.none', 'nothing(jsonb)');
        select fn_job_enqueue('page.none', 'test') from generate_series(1, 3000)";
    client.batch_execute(begin).await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let export =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")];
    let since = Instant::now();
    let ended = Program::start(&db.url(), &["work", "--once"], &export).ends_within(SOON * 3).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("3000"), "{}", ended.out);
    assert!(ended.err.contains("3000 spans were not exported"), "{}", ended.err);
    assert!(since.elapsed() < Duration::from_mins(1), "the flush has a deadline of its own");
    let left = "select count(*) from job_queue where status <> 'succeeded'";
    assert_eq!(value(&client, left).await, 0);
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_and_said_once() {
    let (db, client) = stage().await;
    let collector = Collector::answering(StatusCode::BAD_REQUEST).await;
    let export = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str())];
    let mut sidecar = Sidecar::start(&db.url(), &export).await;
    for _ in 0..2 {
        let before = collector.spans().len();
        emit(&client, PARENT, json!({})).await;
        wait_until("the pass was sent", SOON, async || collector.spans().len() > before).await;
    }
    wait_until("both are counted", SOON, async || {
        let scrape = sidecar.scrape().await;
        scrape
            .value("reveille_spans_dropped_total", &[("reason", "rejected")])
            .is_some_and(|lost| lost >= 2.0)
    })
    .await;
    let (status, log) = sidecar.stop().await;
    assert!(status.success(), "{log}");
    assert_eq!(
        log.matches("spans cannot be exported: the collector answers 400 Bad Request").count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn standard_variables_that_do_not_fit_stop_no_command_and_are_said_by_those_that_would_export() {
    let db = TestDb::new().await;
    db.open_gates().await;
    for (endpoint, protocol) in [("http://localhost:4318", "grpc"), ("http://", "http/protobuf")] {
        let platform = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let ended = Program::start(&db.url(), &["health"], &platform).ends().await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{endpoint}");
        let ended = Program::start(&db.url(), &["work", "--once"], &platform).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert_eq!(ended.err.matches("no spans are exported").count(), 1, "{}", ended.err);
    }
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_what_was_made_meanwhile() {
    let (db, client) = stage().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut sidecar = Program::run(&db.url(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    emit(&client, PARENT, json!({})).await;
    sidecar.says(&["spans cannot be exported"]).await;
    let got = Arc::<Mutex<Vec<String>>>::default();
    let keep = Arc::clone(&got);
    let take = async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let spans = request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        keep.lock().unwrap().extend(spans.map(|span| span.name));
    };
    let listener = TcpListener::bind(endpoint.trim_start_matches("http://")).await.unwrap();
    let app = Router::new().route("/v1/traces", post(take));
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    sidecar.says(&["takes them again"]).await;
    assert!(got.lock().unwrap().iter().any(|name| name == "dispatch staging"), "{got:?}");
    sidecar.stops().await;
    server.abort();
}
