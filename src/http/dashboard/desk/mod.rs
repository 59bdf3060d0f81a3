//! The desk: what the dashboard writes. There is one only when `[http] token` is set.
//!
//! Every act takes two steps: a typed reason, for which its dry run is shown; and a confirmation, which carries it out once.
//! Browsers sign in (`sign_in.rs`) and send forms (`ask.rs`), each with the token of its session, from pages of ours alone;
//! programs send the token as `Authorization: Bearer` to the same addresses (`program.rs`). One loop carries out what was
//! confirmed (`orders.rs`).

mod act;
mod ask;
mod carry;
mod guesses;
mod orders;
mod program;
mod sessions;
mod sign_in;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use deadpool_postgres::Pool;
use tokio::time::Instant;

use self::guesses::{Guesses, Unknown};
use self::orders::Orders;
use self::sessions::{Digest, LIFE, Sessions, Who, digest};
use super::guard::Hosts;
use super::view::{Block, Page, Problem, Section, Status};
use super::{PAGE_WITHIN, READ_WITHIN, write};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::http::connections::Peer;
use crate::model::moment::printable;
use crate::postgres::{Server, Session};

/// Most bytes of a form.
const LARGEST_FORM: usize = 16 * 1024;

/// Everything that writing needs.
#[derive(Debug)]
pub(in crate::http) struct Desk {
    token: Digest,
    cookie: String,
    behind_tls: bool,
    hosts: Hosts,
    sessions: Sessions,
    guesses: Guesses,
    orders: Orders,
    /// How long a dry run can be relied on.
    keep: Duration,
    server: Server,
    pool: Pool,
}

impl Desk {
    /// None without a token. A dry run older than `keep` is made anew before it is carried out. Opens nothing yet.
    pub(in crate::http) fn new(
        settings: &config::Http,
        port: u16,
        server: &Server,
        keep: Duration,
    ) -> Result<Option<Self>> {
        let token = settings.read_token()?;
        if token.0.is_empty() {
            return Ok(None);
        }
        if !settings.listen.ip().is_loopback() && !settings.behind_tls {
            tracing::warn!(
                "[http] listen: {} is open to others, and the dashboard's token travels there in clear text: let a proxy \
                 speak TLS, and set [http] behind_tls",
                settings.listen
            );
        }
        let session = Session { statement_timeout: READ_WITHIN, ..server.session() };
        // browsers keep one cookie for all ports of a name
        let prefix = if settings.behind_tls { "__Host-" } else { "" };
        Ok(Some(Self {
            token: digest(&token.0),
            cookie: format!("{prefix}reveille_{port}"),
            behind_tls: settings.behind_tls,
            hosts: Hosts::new(&settings.hosts),
            sessions: Sessions::default(),
            guesses: Guesses::default(),
            orders: Orders::new(),
            keep,
            pool: server.pool("desk", 1, &session)?,
            server: server.clone(),
        }))
    }

    /// Its routes.
    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/sign-in", get(sign_in::form).post(sign_in::enter))
            .route("/sign-out", post(sign_in::leave))
            .route("/act/{what}", get(ask::form).post(ask::order))
            .route("/acts/{id}", get(tell::one).post(tell::confirm))
            .layer(DefaultBodyLimit::max(LARGEST_FORM))
            .with_state(self)
    }

    /// Whose session the request belongs to.
    fn who(&self, headers: &HeaderMap) -> Option<Who> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, id) = pairs.find(|(name, _)| *name == self.cookie)?;
        self.sessions.find(id, Instant::now())
    }

    /// The name of whoever is signed in, and what the forms of that session carry.
    pub(super) fn viewer(&self, headers: &HeaderMap) -> Option<(String, String)> {
        self.who(headers).map(|who| (who.name, who.csrf))
    }

    /// The line that gives a browser its session, or takes it away.
    fn set_cookie(&self, id: Option<&str>) -> String {
        let secure = if self.behind_tls { "; Secure" } else { "" };
        let (id, age) = id.map_or(("", 0), |id| (id, LIFE.as_secs()));
        format!("{}={id}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}", self.cookie)
    }

    /// Whether a form was sent from a page of ours. Browsers say so; whoever does not is a program, and has the token.
    fn is_ours(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some((_, origin)) = text("origin").and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        let same_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin");
        same_site
            && (text("host").is_some_and(|host| host.eq_ignore_ascii_case(origin))
                || self.hosts.lists(origin))
    }

    /// Compares a token; a wrong one makes its address wait.
    fn check(&self, from: Peer, token: &str) -> std::result::Result<(), Unknown> {
        self.guesses.check(from.0, &digest(token), &self.token, Instant::now())
    }
}

/// By when a request must be through with the database; shorter than the deadline of all answers.
fn deadline() -> Instant {
    Instant::now() + PAGE_WITHIN
}

/// How an error of the database is answered.
fn status(error: &Error) -> StatusCode {
    match error.kind() {
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unreachable | Kind::Timeout | Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The same as a line above a form.
fn problem(error: &Error) -> Problem {
    Problem {
        status: Status::new("error", "bad"),
        what: printable(&error.to_string()),
        why: Some("Nothing was changed, and what you typed is still here.".to_owned()),
        mend: error.hint_text().map(printable),
        link: None,
    }
}

/// In whole seconds, as `Retry-After` counts.
fn seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + 1)
}

/// A page that says why not.
fn no(status: StatusCode, what: &str, mend: &str) -> Response {
    let problem = Problem {
        status: Status::new("refused", "bad"),
        what: what.to_owned(),
        why: None,
        mend: Some(mend.to_owned()),
        link: None,
    };
    let section = Section::new("refused", "What happened", vec![Block::Problems(vec![problem])]);
    write(status, Page { live: "", ..Page::new("That was not done", "", vec![section]) })
}

/// A form that another site sent, or an old page of ours.
fn foreign() -> Response {
    no(
        StatusCode::FORBIDDEN,
        "The form did not come from a page of this session. Nothing was changed.",
        "open the page anew and send it from there; behind a proxy, add your name to [http] hosts",
    )
}

/// Onwards; what was sent is not sent again by a reload.
fn onwards(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to.to_owned())]).into_response()
}

/// Whether the request is a program's, which brings the token along.
fn bearer(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}
