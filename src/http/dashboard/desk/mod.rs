//! The desk: what the dashboard writes. There is one only when `[http] token` is set.
//!
//! Every act takes two steps: a typed reason, for which its dry run is shown; and a confirmation, which carries it out once.
//! Browsers sign in (`sign_in.rs`) and send forms (`ask.rs`), each with the token of its session, from pages of ours alone;
//! programs send the token as `Authorization: Bearer` to the same addresses (`program.rs`).

mod act;
mod ask;
mod program;
mod sessions;
mod sign_in;
mod tell;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use deadpool_postgres::{Object, Pool};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::act::{Act, Order, Told};
use self::sessions::{IDLE, Sessions, Who, digest};
use super::guard::Hosts;
use super::view::{Block, Page, Problem, Section, Status};
use super::{PAGE_WITHIN, READ_WITHIN, write};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::model::moment::printable;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};

/// Most bytes of a form.
const LARGEST_FORM: usize = 16 * 1024;
/// Pause after the first wrong token in a row; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for the turn to have a token looked at.
const TURN_WITHIN: Duration = Duration::from_millis(2500);

/// Everything that writing needs.
#[derive(Debug)]
pub(super) struct Desk {
    token: [u8; 32],
    cookie: String,
    behind_tls: bool,
    hosts: Hosts,
    sessions: Sessions,
    /// One token is looked at at a time, so that guessing many at once is no quicker.
    turn: Semaphore,
    wrong: AtomicU32,
    server: Server,
    pool: Pool,
}

/// Why somebody may not.
enum Unknown {
    WrongToken,
    TooMany,
}

impl Desk {
    /// None without a token. Opens nothing yet.
    pub(super) fn new(settings: &config::Http, port: u16, server: &Server) -> Result<Option<Self>> {
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
            turn: Semaphore::new(1),
            wrong: AtomicU32::new(0),
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
        let (id, age) = id.map_or(("", 0), |id| (id, IDLE.as_secs()));
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

    /// Compares a token, one at a time; wrong ones take ever longer.
    async fn check(&self, token: &str) -> std::result::Result<(), Unknown> {
        let Ok(Ok(_turn)) = timeout(TURN_WITHIN, self.turn.acquire()).await else {
            return Err(Unknown::TooMany);
        };
        let given = digest(token);
        // every byte is looked at, wherever the first difference is
        let difference = given.iter().zip(self.token).fold(0, |all, (given, wanted)| all | (given ^ wanted));
        if std::hint::black_box(difference) == 0 {
            self.wrong.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let before = self.wrong.fetch_add(1, Ordering::Relaxed).min(8);
        tracing::warn!(http.wrong_tokens = before + 1, "[http] somebody gave a wrong token to the dashboard");
        tokio::time::sleep((FIRST_PAUSE * 2_u32.pow(before)).min(LONGEST_PAUSE)).await;
        Err(Unknown::WrongToken)
    }

    /// The field that names what is not there.
    async fn unknown(&self, act: &Act) -> Result<Option<ask::Fault>> {
        let work = async {
            let client = self.server.take(&self.pool).await?;
            let found = act.unknown(&client).await;
            hand_back(client, found)
        };
        let late =
            || Error::new(Kind::Timeout, format!("{}: no answer in {PAGE_WITHIN:?}", self.server.describe()));
        timeout(PAGE_WITHIN, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Carries an order out, or finds out what would come of it.
    async fn carry(&self, order: &Order, apply: bool) -> Result<Told> {
        let work = async {
            let mut client = self.server.take(&self.pool).await?;
            let told = order.carry(&mut client, apply).await;
            if told.end == "failed" {
                drop(Object::take(client)); // it may be in the middle of something
            }
            Ok::<Told, Error>(told)
        };
        let told = timeout(PAGE_WITHIN, work).await.unwrap_or_else(|_| Ok(Told::late(apply)))?;
        if apply {
            let (by, what) = (printable(&order.actor()), printable(&order.act.words()));
            tracing::info!(http.by = %by, http.end = told.end, "[http] {by}: {what}: {}", told.end);
        }
        Ok(told)
    }
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
