//! What the database answers about routes, in words.

use serde_json::Value;

use crate::cli::context::Context;
use crate::error::{Error, Kind, Result};
use crate::model::refusal::{Answer, Refusal};

/// What a table's owner has agreed to.
pub(super) fn agreed(consent: &Value) -> String {
    let columns = consent["columns"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = columns.iter().filter_map(Value::as_str).collect();
    let columns = if names.is_empty() { "no columns".to_owned() } else { names.join(", ") };
    let subject = consent["subject_ref"].as_str().unwrap_or("its primary key");
    let closed = if consent["fail_closed"] == true { "; a write without its event is refused" } else { "" };
    let event = consent["event"].as_str().unwrap_or_default();
    format!("{event} with {columns}; subject {subject}{closed}")
}

/// A refusal in the words of routes, as an error that is one; with `--json` the answer stays as it is.
pub(super) fn understood(answer: Answer, context: &Context) -> Result<Answer> {
    let Answer::Refused(Refusal { reason, answer: said }) = &answer else { return Ok(answer) };
    if context.out.is_json() {
        return Ok(answer);
    }
    let code = said["route_code"].as_str().unwrap_or_default();
    let refused = |message: String| Error::new(Kind::Refused, message);
    Err(match (reason.as_str(), said["owner"].as_str(), said["what"].as_str()) {
        ("not_owner", Some(owner), _) => refused(format!(
            "{code}: its table belongs to the role {owner}, and only that may make triggers on it"
        ))
        .hint("connect as a role that is a member of both, the owner's and reveille_operator"),
        ("consent_missing", owner, _) => {
            let owner = owner.unwrap_or_default();
            let beyond = said["beyond"].as_array().map(Vec::as_slice).unwrap_or_default();
            let beyond: Vec<&str> = beyond.iter().filter_map(Value::as_str).collect();
            let beyond = beyond.join(", ");
            refused(format!("{code}: the owner of its table, the role {owner}, has not agreed to: {beyond}"))
                .hint("do the same as a role that is a member of both, the owner's and reveille_operator")
        }
        ("not_owner", ..) => refused(format!("{code} is a route of the host; it is left alone"))
            .hint("write one of your own under another code: `reveille routes put FILE`"),
        ("dry_run_missing", ..) => refused(format!(
            "{code}: its dry run has seen no write since the route says what it says now"
        ))
        .hint(format!(
            "`reveille routes enable {code} --reason …`, look at `reveille routes preview {code}` after some writes; \
             or say --without-dry-run"
        )),
        ("route_enabled", ..) => refused(format!("{code} is enabled")).hint(format!(
            "`reveille routes disable {code} --reason …` first; a route for another table is another route"
        )),
        ("trigger_left_over", ..) => refused(format!("{code}: its trigger still stands"))
            .hint(format!("as the owner of the table: `reveille routes disable {code} --reason …`")),
        ("table_busy", ..) => {
            refused(format!("{code}: its table was busy for three seconds; nothing was changed"))
                .hint("try again when no long transaction holds it")
        }
        ("trigger_name_taken", ..) => {
            refused(format!("{code}: another trigger of that name stands on the table"))
                .hint("that other trigger must go, or get another name")
        }
        (_, _, Some(what)) => {
            refused(format!("{code}: {what}")).hint("mend that, then try again; nothing was changed")
        }
        _ => return Ok(answer),
    })
}
