//! What a tool answers: a line for the reader, and the whole as structured content.

use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind};
use crate::model::refusal::Refusal;

/// How a call ended.
#[derive(Debug)]
pub(super) enum Told {
    /// A look: the document is the command line's own, and written by others.
    Seen(String, Value),
    /// A tool to work did what it should.
    Done(String, Value),
    /// The database's rules said no.
    Refused(Refusal),
    /// It could not be done.
    Failed(Error),
    /// The arguments are not what the tool takes.
    Wrong(String),
}

impl Told {
    /// A look at something.
    pub(super) fn seen(words: impl Into<String>, document: &impl Serialize) -> Self {
        match serde_json::to_value(document) {
            Ok(document) => Self::Seen(words.into(), document),
            Err(error) => Self::Failed(
                Error::new(Kind::Database, format!("the answer as JSON: {error}")).because(error),
            ),
        }
    }

    /// As a result of the protocol. The document is also there as text: older clients show nothing else to the agent.
    pub(super) fn into_result(self) -> CallToolResult {
        let (is_error, words, document) = match self {
            Self::Seen(words, document) => (false, words, json!({ "untrusted_data": document })),
            Self::Done(words, document) => (false, words, document),
            Self::Refused(refusal) => {
                let hint = refusal.hint();
                let mut document = refusal.answer.clone();
                document["hint"] = hint.clone().into();
                let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                (true, format!("refused: {}{hint}", refusal.reason), document)
            }
            Self::Failed(error) => failed(&error),
            Self::Wrong(words) => {
                (true, words.clone(), json!({ "error": { "kind": "usage", "message": words } }))
            }
        };
        let content = vec![ContentBlock::text(words), ContentBlock::text(document.to_string())];
        let mut result =
            if is_error { CallToolResult::error(content) } else { CallToolResult::success(content) };
        result.structured_content = Some(document);
        result
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn failed(error: &Error) -> (bool, String, Value) {
    let hint = error.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
    let again = if error.is_retryable() { "; the same call may work later" } else { "" };
    let document = json!({ "error": {
        "kind": format!("{:?}", error.kind()).to_lowercase(),
        "message": error.to_string(),
        "hint": error.hint_text(),
        "sqlstate": error.sqlstate(),
        "try_again": error.is_retryable(),
    }});
    (true, format!("{error}{hint}{again}"), document)
}
