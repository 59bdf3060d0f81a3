//! `reveille routes put`: a file becomes a route.

use std::path::Path;

use serde_json::Value;

use super::understood;
use crate::cli::context::{Context, Outcome, actor};
use crate::error::{Error, Result};
use crate::store::routes;

pub(super) async fn run(file: &Path, who: Option<String>, context: &Context) -> Result<Outcome> {
    let route = read(file)?;
    let client = context.client().await?;
    let answer = match routes::put(&client, &route, actor(who).as_deref()).await {
        Err(error) if error.sqlstate() == Some("22023") => {
            let message = format!("{}: {error}", file.display());
            return Err(Error::usage(message)
                .because(error)
                .hint("docs/trigger-in.md says what stands in a route"));
        }
        answer => understood(answer?, context)?,
    };
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let code = result["route_code"].as_str().unwrap_or_default();
            match (result["created"] == true, result["changed"] == true) {
                (true, _) => format!(
                    "{code}: written, disabled; `reveille routes preview {code}` shows what it would do"
                ),
                (false, true) => format!("{code}: changed, also for what is enabled"),
                (false, false) => format!("{code}: as it was"),
            }
        })
    })
}

/// A file of JSON when its name says so, else of TOML.
fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::usage(format!("{} cannot be read: {error}", file.display())).because(error)
    })?;
    let unreadable = |form: &str, why: String| Error::usage(format!("{}: not {form}: {why}", file.display()));
    if file.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text)
            .map_err(|error| unreadable("JSON", error.to_string()).because(error));
    }
    toml::from_str(&text)
        .map_err(|error: toml::de::Error| unreadable("TOML", error.to_string()).because(error))
}
