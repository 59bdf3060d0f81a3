//! One request to a collector: HTTP/1.1, plain or TLS, a connection for each. The exporter makes one at a time, once a second
//! or when a batch is full.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use futures::future::{Either, select};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config;
use crate::error::{Error, Result, chain};

/// Where traces go below an endpoint.
const PATH: &str = "/v1/traces";
/// Most of an answer that is read.
const ANSWER: usize = 64 * 1024;
/// Most characters of it that are told.
const TOLD: usize = 200;

/// Where spans go.
pub(super) struct Collector {
    host: String,
    port: u16,
    authority: Authority,
    path: PathAndQuery,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    headers: HeaderMap,
    /// For all of a request.
    limit: Duration,
}

/// What a collector has taken, though maybe not all of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many of the spans it refused.
    pub(super) rejected: u64,
    /// What it said of that, if anything.
    pub(super) why: String,
}

/// Why a request did not do.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: String,
    /// Whether the same may do later.
    pub(super) may_pass: bool,
}

impl Failed {
    fn may_pass(why: impl Into<String>) -> Self {
        Self { why: why.into(), may_pass: true }
    }

    fn because(error: &dyn std::error::Error) -> Self {
        Self::may_pass(chain(error))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.path.path())
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("at", &self.to_string()).finish_non_exhaustive() // headers are secret
    }
}

impl Collector {
    /// The collector of these settings. Opens nothing.
    pub(super) fn new(settings: &config::Telemetry) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("[telemetry] endpoint {why}"))
                .hint("it is the address of a collector for OTLP over HTTP, such as http://localhost:4318")
        };
        let uri: Uri = settings.endpoint.parse().map_err(|_| wrong("is not an address"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let authority = uri.authority().cloned().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must hold no password: use [telemetry] headers"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let base = uri.path().trim_end_matches('/');
        let path = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let path = path.parse().map_err(|_| wrong("has a path that cannot be asked for"))?;
        let tls = if secure {
            let name = ServerName::try_from(host.clone()).map_err(|_| wrong("names no host"))?;
            Some((connector()?, name))
        } else {
            None
        };
        let headers = headers(&settings.headers)?;
        Ok(Self { host, port, authority, path, tls, headers, limit: settings.timeout })
    }

    /// Sends one message.
    pub(super) async fn post(&self, body: Bytes) -> Result<Taken, Failed> {
        timeout(self.limit, self.ask(body)).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(self.limit);
            Err(Failed::may_pass(format!("no answer within {limit}")))
        })
    }

    async fn ask(&self, body: Bytes) -> Result<Taken, Failed> {
        let at = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(at).await.map_err(|error| Failed::because(&error))?;
        match &self.tls {
            None => self.ask_through(stream, body).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await;
                self.ask_through(stream.map_err(|error| Failed::because(&error))?, body).await
            }
        }
    }

    async fn ask_through(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        body: Bytes,
    ) -> Result<Taken, Failed> {
        // hyper itself says only in which step it failed
        let failed = |error: hyper::Error| Failed::because(&error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let request = self.request(body)?;
        let ask = std::pin::pin!(async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            let said = to_bytes(Body::new(answer.into_body()), ANSWER).await.unwrap_or_default();
            judge(status, &said)
        });
        match select(ask, std::pin::pin!(connection)).await {
            Either::Left((answered, _)) => answered,
            Either::Right((_, ask)) => ask.await, // closed: what was said is there, or an error
        }
    }

    fn request(&self, body: Bytes) -> Result<Request<Body>, Failed> {
        let mut request = Request::post(self.path.as_str())
            .header(header::HOST, self.authority.as_str())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_LENGTH, body.len())
            .header(header::USER_AGENT, concat!("reveille/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Body::from(body))
            .map_err(|error| Failed { why: error.to_string(), may_pass: false })?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

/// What an answer means; the statuses after which to try again are the standard's.
fn judge(status: StatusCode, said: &[u8]) -> Result<Taken, Failed> {
    if status.is_success() {
        let answer = ExportTraceServiceResponse::decode(said).unwrap_or_default();
        let partly = answer.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partly.rejected_spans).unwrap_or_default();
        return Ok(Taken { rejected, why: beginning(partly.error_message.as_bytes()) });
    }
    let why = match beginning(said) {
        why if why.is_empty() => format!("the collector answers {status}"),
        why => format!("the collector answers {status}: {why}"),
    };
    Err(Failed { why, may_pass: matches!(status.as_u16(), 429 | 502 | 503 | 504) })
}

/// What can be read of an answer that somebody else wrote, in one line: plain text, JSON, or the text in a protobuf status.
fn beginning(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let plain = text.chars().map(|one| if one.is_control() || one == '\u{fffd}' { ' ' } else { one });
    let words = plain.collect::<String>();
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TOLD).collect()
}

fn connector() -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::usage(
            "this machine has no certificate authorities to check the collector against",
        )
        .hint("install the package ca-certificates, or set SSL_CERT_FILE to a PEM file"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::usage(format!("TLS cannot be set up: {error}")).because(error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// `key=value,key=value`, the values percent-encoded, as in `OTEL_EXPORTER_OTLP_HEADERS`. They are never shown.
fn headers(text: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (place, pair) in text.split(',').map(str::trim).enumerate().filter(|(_, pair)| !pair.is_empty()) {
        let read = || {
            let (name, value) = pair.split_once('=')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            let mut value = HeaderValue::from_bytes(&decoded(value.trim())).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        };
        let (name, value) = read().ok_or_else(|| {
            Error::usage(format!("[telemetry] headers: pair {} is not name=value", place + 1)).hint(
                "pairs are separated by commas, their values percent-encoded: authorization=Bearer%20TOKEN",
            )
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let pair = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        if let Some(code) = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            out.push(code);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn settings(endpoint: &str, headers: &str) -> config::Telemetry {
        let (endpoint, headers) = (endpoint.to_owned(), headers.to_owned());
        config::Telemetry { endpoint, headers, ..config::Telemetry::default() }
    }

    #[test]
    fn the_path_of_traces_is_added_to_an_endpoint_that_has_it_not() {
        for (endpoint, at) in [
            ("http://localhost:4318", "localhost:4318/v1/traces"),
            ("http://[::1]:4318/", "::1:4318/v1/traces"),
            ("http://it/otlp/", "it:80/otlp/v1/traces"),
            ("http://it/otlp/v1/traces", "it:80/otlp/v1/traces"),
        ] {
            assert_eq!(Collector::new(&settings(endpoint, "")).unwrap().to_string(), at);
        }
        for wrong in ["localhost:4318", "grpc://it:4317", "http://user:secret@it", "http://"] {
            let error = Collector::new(&settings(wrong, "")).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn headers_are_read_as_the_standard_writes_them_and_never_shown() {
        let found = headers("authorization=Bearer%20T%, x-tenant = a=b ,").unwrap();
        assert_eq!(found["authorization"], "Bearer T%");
        assert_eq!(found["x-tenant"], "a=b");
        let error = headers("a=b,secret").unwrap_err().to_string();
        assert!(error.contains("pair 2") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn only_what_the_standard_calls_passing_is_tried_again() {
        for (status, may_pass) in
            [(400, false), (401, false), (404, false), (429, true), (500, false), (503, true)]
        {
            let failed = judge(StatusCode::from_u16(status).unwrap(), b"").unwrap_err();
            assert_eq!(failed.may_pass, may_pass, "{status}");
        }
        assert_eq!(judge(StatusCode::OK, b"").unwrap(), Taken::default());
    }

    #[test]
    fn what_a_collector_says_of_a_refusal_is_told_in_a_line() {
        let said = format!("\u{8}\u{3}\u{12}missing\n tenant \u{1b}[31m{}", "x".repeat(500));
        let why = judge(StatusCode::UNAUTHORIZED, said.as_bytes()).unwrap_err().why;
        assert!(why.starts_with("the collector answers 401 Unauthorized: missing tenant [31mxx"), "{why}");
        assert!(why.len() < 300, "{why}");
        let partly = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".into() };
        let answer = ExportTraceServiceResponse { partial_success: Some(partly) }.encode_to_vec();
        let taken = judge(StatusCode::OK, &answer).unwrap();
        assert_eq!(taken, Taken { rejected: 2, why: "too old".into() });
    }
}
