//! What every answer of the dashboard carries, and who may ask.
//!
//! A browser that was lured to a foreign name which resolves to this machine (DNS rebinding) sends that name as `Host`.
//! Only addresses, `localhost` and the names of `[http] hosts` are answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Names under which this face is known.
#[derive(Debug, Clone)]
pub(in crate::http) struct Hosts(Arc<Vec<String>>);

impl Hosts {
    pub(in crate::http) fn new(names: &[String]) -> Self {
        Self(Arc::new(names.iter().map(|name| name.to_lowercase()).collect()))
    }

    /// Whether this name, whatever its port, was listed.
    pub(super) fn lists(&self, host: &str) -> bool {
        self.0.contains(&name_of(host).to_lowercase())
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (given.next().and_then(|host| host.to_str().ok()), given.next()) else {
            return false;
        };
        let name = name_of(host).to_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || bare.parse::<IpAddr>().is_ok() || self.0.contains(&name)
    }
}

/// A `Host` without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// Refuses foreign names.
pub(in crate::http) async fn known_host(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response {
    if hosts.knows(request.headers()) {
        return next.run(request).await;
    }
    let words =
        "this name is not known here: ask by address, or add the name to [http] hosts in config.toml\n";
    (StatusCode::MISDIRECTED_REQUEST, words).into_response()
}

/// Adds what keeps foreign script, frames and sniffing out.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_listed_names_are_known_and_nothing_else() {
        let hosts = Hosts::new(&["Reveille.example".to_owned()]);
        let knows = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            hosts.knows(&headers)
        };
        for host in [
            "localhost",
            "LOCALHOST:7045",
            "127.0.0.1:7045",
            "[::1]:7045",
            "[::1]",
            "10.0.0.7",
            "reveille.example:80",
        ] {
            assert!(knows(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:7045",
            "127.0.0.1.evil.example",
            "",
            ":7045",
            "evil.example:x",
        ] {
            assert!(!knows(host), "{host}");
        }
        assert!(!hosts.knows(&HeaderMap::new()));
    }
}
