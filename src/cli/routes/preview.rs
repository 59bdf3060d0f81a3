//! `reveille routes preview`: what a route would do, and what its dry run has counted.

use std::fmt::Write as _;

use serde_json::Value;

use super::{understood, unknown};
use crate::cli::context::{Context, Outcome};
use crate::cli::output::table;
use crate::error::Result;
use crate::store::routes;

pub(super) async fn run(code: &str, limit: i32, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    if routes::show(&client, code).await?.is_none() {
        return Err(unknown(code, &routes::list(&client).await?));
    }
    let answer = understood(routes::preview(&client, code, limit).await?, context)?;
    Outcome::of(answer, |result| context.out.answer(result, || as_text(code, result)))
}

fn as_text(code: &str, result: &Value) -> String {
    let none = Vec::new();
    let rows = result["rows"].as_array().unwrap_or(&none);
    let event = result["event"].as_str().unwrap_or_default();
    let mut text = match rows.len() {
        0 => format!("{code}: the table has no rows that you may see; each write would make {event}\n"),
        count => format!("{code}: the last {count} rows would have made {event}\n"),
    };
    let count = |name: &str| result["dry_run"][name].as_u64().unwrap_or_default();
    let _ = match count("statements") {
        0 => writeln!(text, "dry run: nothing counted so far"),
        statements => writeln!(
            text,
            "dry run: {} events of {} changes in {statements} statements ({} told already, {} may not travel)",
            count("events"),
            count("changes"),
            count("duplicates"),
            count("unfit")
        ),
    };
    let next = match (result["live"] == true, result["is_tried"] == true) {
        (true, _) => "it is live",
        (false, true) => "that was the route as it is now; `routes enable --live` lets it emit",
        (false, false) => {
            "it has seen no write since the route says what it says now: \
             `routes enable --live` is refused until then, unless you say --without-dry-run"
        }
    };
    let _ = writeln!(text, "{next}");
    if rows.is_empty() {
        return text.trim_end().to_owned();
    }
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        [text("verdict"), text("event_subject_ref"), row["safe_payload"].to_string()]
    };
    let _ = write!(text, "\n{}", table(&["verdict", "subject", "payload"], rows.iter().map(row)));
    text
}
