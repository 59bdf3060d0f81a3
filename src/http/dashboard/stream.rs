//! `/stream`: what changed, to whoever looks. It asks the database nothing; the board reads for everybody.
//!
//! Events: `section` (`{"id", "html"}`, the first page), `changed` (any other page may be out of date), `down` and `up`
//! (the database), `at` (when the first page was read last; of another page its own script knows that). A slow reader misses what was in between, never what is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Dashboard;
use super::board::{Read, Shown};

/// A sign of life while nothing changes.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// The pulse of the page that asks; the first page has none and gets its sections.
    pulse: Option<i64>,
}

/// What one reader has seen.
struct Seen {
    shown: watch::Receiver<Shown>,
    pulse: Option<i64>,
    sections: HashMap<&'static str, String>,
    is_down: bool,
    /// Its place among the streams, given back when it ends.
    _place: OwnedSemaphorePermit,
}

pub(super) async fn stream(State(dashboard): State<Arc<Dashboard>>, Query(asked): Query<Asked>) -> Response {
    let board = &dashboard.board;
    let Ok(place) = Arc::clone(&board.streams).try_acquire_owned() else {
        let words = "too many look at the same time: this page is not kept new, reload it\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "60")], words).into_response();
    };
    let seen = Seen {
        shown: board.watch(),
        pulse: asked.pulse,
        sections: HashMap::new(),
        is_down: false,
        _place: place,
    };
    Sse::new(events(seen)).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response()
}

fn events(seen: Seen) -> impl Stream<Item = Result<Event, Infallible>> {
    let next = async |mut seen: Seen| {
        seen.shown.changed().await.ok()?;
        let shown = seen.shown.borrow_and_update().clone();
        if shown.closed {
            return None;
        }
        let told = shown.read.map_or_else(Vec::new, |read| seen.tell(&read));
        Some((stream::iter(told), seen))
    };
    stream::unfold(seen, next).flatten().map(Ok)
}

impl Seen {
    fn tell(&mut self, read: &Read) -> Vec<Event> {
        let mut told = Vec::new();
        let sections = match &read.outcome {
            Ok(sections) => sections,
            Err(error) => {
                self.is_down = true;
                return vec![event("down", &json!(error.to_string()))];
            }
        };
        if std::mem::take(&mut self.is_down) {
            told.push(event("up", &json!(null)));
        }
        if self.pulse.is_some_and(|pulse| pulse != read.pulse) {
            self.pulse = Some(read.pulse);
            told.push(event("changed", &json!(null)));
        }
        if self.pulse.is_none() {
            for (id, html) in sections {
                if self.sections.get(id) != Some(html) {
                    self.sections.insert(id, html.clone());
                    told.push(event("section", &json!({ "id": id, "html": html })));
                }
            }
        }
        told.push(event("at", &json!(read.at.strftime("%H:%M:%S").to_string())));
        told
    }
}

fn event(name: &str, data: &serde_json::Value) -> Event {
    Event::default().event(name).data(data.to_string())
}
