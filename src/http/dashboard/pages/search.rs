//! `/search`: an id, and the page of what it belongs to.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::super::view::{Block, Page, Section};
use super::super::{Dashboard, missing};
use crate::store::events;

#[derive(Debug, Deserialize)]
pub(in super::super) struct Asked {
    #[serde(default)]
    q: String,
}

pub(in super::super) async fn find(
    State(dashboard): State<Arc<Dashboard>>,
    Query(asked): Query<Asked>,
) -> Response {
    let text = asked.q.trim();
    let Ok(id) = text.parse::<Uuid>() else {
        let words = "An id has 32 hexadecimal digits, such as 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10. Copy it from a log, from \
            `reveille jobs list`, or from a page here.";
        let section = Section::new(
            "search",
            "That is no id",
            vec![Block::Code(text.chars().take(200).collect()), Block::Note(words.to_owned())],
        );
        return dashboard.answer(async |_| Ok(Some(Page::new("Find an id", "", vec![section])))).await;
    };
    let mut found = None;
    let answer = dashboard
        .answer(async |client| {
            found = events::whose(client, id).await?;
            Ok(None)
        })
        .await;
    match found {
        Some(whose) => Redirect::to(&format!("/{whose}/{id}")).into_response(),
        None if answer.status().is_server_error() || answer.status().as_u16() == 403 => answer,
        None => missing(),
    }
}
