//! `/api/v1`: the views of the contract as JSON. Nothing here writes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use deadpool_postgres::Pool;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Kind, Result};
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::store::views::{self, VIEWS};

/// Longest that a view may take; its statement is ended by the server then, also when the client has gone away.
const READ_WITHIN: Duration = Duration::from_secs(3);
const MOST_ROWS: i64 = 1000;

/// Reads views, one at a time.
#[derive(Debug)]
pub(super) struct Api {
    server: Server,
    pool: Pool,
}

impl Api {
    /// Opens nothing yet.
    pub(super) fn new(server: Server) -> Result<Self> {
        let session = Session { statement_timeout: READ_WITHIN, ..server.session() };
        let pool = server.pool("api", 1, &session)?;
        Ok(Self { server, pool })
    }

    /// Its routes.
    pub(super) fn router(self) -> Router {
        Router::new().route("/", get(list)).route("/{view}", get(view)).with_state(Arc::new(self))
    }
}

#[derive(Debug, Deserialize)]
struct Asked {
    /// Most rows to answer: 1 to 1000.
    limit: Option<i64>,
}

async fn list() -> Response {
    let names: Vec<String> = VIEWS.iter().map(|(name, _)| format!("/api/v1/{name}")).collect();
    Json(json!({ "views": names })).into_response()
}

async fn view(State(api): State<Arc<Api>>, Path(name): Path<String>, Query(asked): Query<Asked>) -> Response {
    let limit = asked.limit.unwrap_or(100);
    if !(1..=MOST_ROWS).contains(&limit) {
        let words = format!("limit is 1 to {MOST_ROWS}, not {limit}");
        return complaint(StatusCode::BAD_REQUEST, "usage", &words);
    }
    let Some((_, view)) = VIEWS.iter().find(|(known, _)| *known == name) else {
        return complaint(StatusCode::NOT_FOUND, "usage", "no such view; /api/v1 lists them");
    };
    match read(&api, view, limit).await {
        Ok(rows) => Json(rows).into_response(),
        Err(error) => {
            let status = match error.kind() {
                Kind::Denied => StatusCode::FORBIDDEN,
                Kind::Unreachable | Kind::Timeout | Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            complaint(status, &format!("{:?}", error.kind()).to_lowercase(), &error.to_string())
        }
    }
}

async fn read(api: &Api, view: &str, limit: i64) -> Result<Vec<Value>> {
    let client = api.server.take(&api.pool).await?;
    let read = api.server.in_time(1, "reading a view", views::read(&client, view, limit)).await;
    hand_back(client, read)
}

fn complaint(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "kind": kind, "message": message } }))).into_response()
}
