//! The dashboard at `/`: pages for people, of what the commands read, kept new over one stream.
//!
//! A page is made of sections (`view.rs`); its reader stands in `pages/`, one file a subject. The first page is read by
//! one task for everybody (`board.rs`), the others by the request. What writes stands in `desk/`, behind a token.

mod assets;
mod board;
mod charts;
mod desk;
mod forms;
mod graph;
pub(super) mod guard;
mod pages;
mod stream;
mod view;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use tokio::time::timeout;

pub(super) use self::board::Board;
pub(super) use self::desk::Desk;
use self::view::{Block, Page, Problem, Section, Status, Viewer};
use crate::error::{Error, Kind, Result};
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::store::flow;

/// Longest that a page's statements may take; the server ends them then, also when the reader has gone away.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// Longest that a page may take, with its connection; shorter than the deadline of all answers.
const PAGE_WITHIN: Duration = Duration::from_secs(4);
/// Pages that are read at a time; others wait for their turn.
const READERS: usize = 2;

/// Reads pages.
#[derive(Debug)]
pub(super) struct Dashboard {
    server: Server,
    pool: Pool,
    board: Arc<Board>,
    /// What writes, when that is wanted.
    desk: Option<Arc<Desk>>,
}

/// A page on its way out; [`draw`] writes it for whoever asks.
#[derive(Clone)]
struct Drawn(Arc<Page>);

impl Dashboard {
    /// Opens nothing yet.
    pub(super) fn new(server: Server, board: Arc<Board>, desk: Option<Arc<Desk>>) -> Result<Self> {
        let session = Session { statement_timeout: READ_WITHIN, ..server.session() };
        let pool = server.pool("dashboard", READERS, &session)?;
        Ok(Self { server, pool, board, desk })
    }

    /// Its routes.
    pub(super) fn router(self) -> Router {
        let desk = self.desk.clone();
        let acts = desk.clone().map_or_else(Router::new, Desk::router);
        Router::new()
            .route("/", get(pages::overview::page))
            .route("/events", get(pages::events::list))
            .route("/events/{id}", get(pages::events::one))
            .route("/jobs", get(pages::jobs::list))
            .route("/jobs/{id}", get(pages::job::one))
            .route("/dead-letters", get(pages::dead_letters::list))
            .route("/dead-letters/{id}", get(pages::dead_letters::one))
            .route("/workflows", get(pages::workflows::list))
            .route("/workflows/{id}", get(pages::workflows::one))
            .route("/consumers", get(pages::consumers::list))
            .route("/consumers/{key}", get(pages::consumers::one))
            .route("/executors", get(pages::executors::list))
            .route("/gates", get(pages::gates::list))
            .route("/search", get(pages::search::find))
            .route("/stream", get(stream::stream))
            .route("/assets/{name}", get(assets::asset))
            .with_state(Arc::new(self))
            .merge(acts)
            .layer(middleware::from_fn_with_state(desk, draw))
            .layer(middleware::from_fn(guard::headers))
    }

    /// Whether something can be written here.
    fn writes(&self) -> bool {
        self.desk.is_some()
    }

    /// Links to acts, where there is somebody to carry them out.
    fn acts(&self, links: impl IntoIterator<Item = (String, &'static str)>) -> Vec<Block> {
        let link = |(to, text): (String, &str)| view::Link { to, text: text.to_owned() };
        if self.writes() { vec![Block::Acts(links.into_iter().map(link).collect())] } else { Vec::new() }
    }

    /// Answers the page that `read` makes, or one that says why there is none.
    async fn answer(&self, read: impl AsyncFnOnce(&Object) -> Result<Option<Page>>) -> Response {
        let work = async {
            let client = self.server.take(&self.pool).await?;
            // before the page, so that nothing falls between the two
            let page = async {
                let at = Timestamp::now();
                let pulse = flow::pulse(&client).await?;
                Ok(read(&client).await?.map(|page| Page { pulse: Some(pulse), at, ..page }))
            };
            let page = page.await;
            hand_back(client, page)
        };
        let late =
            || Error::new(Kind::Timeout, format!("{}: no answer in {PAGE_WITHIN:?}", self.server.describe()));
        match timeout(PAGE_WITHIN, work).await.unwrap_or_else(|_| Err(late())) {
            Ok(Some(page)) => write(StatusCode::OK, page),
            Ok(None) => missing(),
            Err(error) => trouble(&error),
        }
    }
}

/// A page as it goes out.
fn write(status: StatusCode, page: Page) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(Drawn(Arc::new(page)));
    response
}

/// Writes the page for whoever asks: all see the same, and a foot that says who they are here.
async fn draw(State(desk): State<Option<Arc<Desk>>>, request: Request, next: Next) -> Response {
    let who = desk.as_ref().and_then(|desk| desk.viewer(request.headers()));
    let here = request.uri().path_and_query().map(|here| here.as_str().to_owned()).unwrap_or_default();
    let mut response = if here.contains("%00") {
        trouble(&Error::usage("there is a zero byte in the address, which no text of a database holds"))
    } else {
        next.run(request).await
    };
    let Some(Drawn(page)) = response.extensions_mut().remove::<Drawn>() else { return response };
    let viewer = match who {
        Some((name, csrf)) => Viewer::SignedIn { name, csrf },
        None if desk.is_some() => {
            Viewer::Reader { sign_in: pages::query("/sign-in", &[("then", Some(&here))]) }
        }
        None => Viewer::NoDesk,
    };
    match (view::Whole { page: &page, viewer: &viewer }).render() {
        Ok(text) => {
            let headers = response.headers_mut();
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            *response.body_mut() = text.into();
            response
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the page could not be written: {error}\n"))
                .into_response()
        }
    }
}

/// There is nothing at this address.
pub(super) fn missing() -> Response {
    let words = "There is nothing here. What has ended is kept in the archive for a while and goes then; an id that was \
        typed may have lost a character. Look for an id with the field above, or begin at the overview.";
    let links = vec![view::Link { to: "/".to_owned(), text: "Overview".to_owned() }];
    let section =
        Section::new("missing", "What to do", vec![Block::Note(words.to_owned()), Block::Links(links)]);
    let page = Page { live: "", ..Page::new("Not found", "", vec![section]) };
    write(StatusCode::NOT_FOUND, page)
}

/// Why there is no page, and whether it comes back by itself.
pub(super) fn trouble(error: &Error) -> Response {
    let (status, title, live) = match error.kind() {
        // the server ended it: tried again by itself it would only cost that much again, and again
        _ if error.sqlstate() == Some("57014") => (StatusCode::SERVICE_UNAVAILABLE, "This took too long", ""),
        Kind::Denied => (StatusCode::FORBIDDEN, "This login may not read that", ""),
        Kind::Unreachable | Kind::Timeout | Kind::Transient => {
            (StatusCode::SERVICE_UNAVAILABLE, "The database does not answer", "retry")
        }
        Kind::Usage => (StatusCode::BAD_REQUEST, "That cannot be asked", ""),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "That went wrong", ""),
    };
    let mend = match error.kind() {
        Kind::Denied => Some("grant reveille_reader to the sidecar's login".to_owned()),
        _ => error.hint_text().map(str::to_owned),
    };
    let why = (live == "retry").then(|| "This page tries again by itself, more and more seldom.".to_owned());
    let what = crate::model::moment::printable(&error.to_string());
    let problem = Problem { status: Status::new("error", "bad"), what, why, mend, link: None };
    let section = Section::new("trouble", "What happened", vec![Block::Problems(vec![problem])]);
    let page = Page { live, ..Page::new(title, "", vec![section]) };
    let mut response = write(status, page);
    if live == "retry" {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}
