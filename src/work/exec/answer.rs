//! What a program's end means for its job: the exit code decides, its last line says the rest.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::group::Ended;
use super::tail::Tail;
use crate::work::handler::Outcome;

/// Exit codes that say that the same will not succeed later, by their names in sysexits.h: `EX_USAGE`, `EX_DATAERR`,
/// `EX_CONFIG`.
const PERMANENT: [i32; 3] = [64, 65, 78];
/// The longest snooze, ten years: the moment of its end must be one that the database can hold.
const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;

/// The outcome of a run.
pub(super) fn outcome(ended: Ended, out: &Tail, err: &Tail) -> Outcome {
    let with_words = |how: String| match err.last_words() {
        Some(words) => format!("{words} ({how})"),
        None => how,
    };
    match ended.status.code() {
        Some(0) => said(&answer(out), ended.was_told, err),
        Some(code) if PERMANENT.contains(&code) => {
            Outcome::Permanent(with_words(format!("exit code {code}")))
        }
        Some(code) => Outcome::Transient(with_words(format!("exit code {code}"))),
        None => {
            let signal = ended.status.signal().unwrap_or_default();
            Outcome::Transient(with_words(format!("killed by signal {signal}")))
        }
    }
}

/// The last line, if it is a JSON object.
fn answer(out: &Tail) -> Map<String, Value> {
    out.last_line().and_then(|line| serde_json::from_str(&line).ok()).unwrap_or_default()
}

/// What a program says that has ended with 0. Whatever is not understood is a failure: a wish must not go unheard.
fn said(answer: &Map<String, Value>, was_told: bool, err: &Tail) -> Outcome {
    let text = |name| match answer.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Outcome::Transient(format!("`{name}` must be a text, not {other}"))),
    };
    let error =
        || Ok(text("error")?.or_else(|| err.last_words()).unwrap_or_else(|| "no reason given".into()));
    let understood = || match (text("outcome")?.as_deref(), text("result_ref")?) {
        // many programs end with 0 when they are told to stop: that alone does not say that the work is done
        (None, None) if was_told => Ok(Outcome::Transient("it ended when it was told to stop".into())),
        (None | Some("succeeded"), result_ref) => Ok(Outcome::Succeeded { result_ref }),
        (Some("snooze"), _) => match answer.get("seconds").and_then(Value::as_f64) {
            Some(seconds @ 0.0..=LONGEST) => Ok(Outcome::Snoozed(Duration::from_secs_f64(seconds))),
            _ => Err(Outcome::Transient(format!("a snooze needs `seconds`, from 0 to {LONGEST}"))),
        },
        (Some("transient"), _) => Ok(Outcome::Transient(error()?)),
        (Some("permanent"), _) => Ok(Outcome::Permanent(error()?)),
        (Some(other), _) => Err(Outcome::Transient(format!(
            "unknown outcome `{other}`: it is one of succeeded, snooze, transient, permanent"
        ))),
    };
    understood().unwrap_or_else(|not_understood: Outcome| not_understood)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str, was_told: bool) -> Outcome {
        said(&serde_json::from_str(line).unwrap_or_default(), was_told, &Tail::default())
    }

    fn done(result_ref: Option<&str>) -> Outcome {
        Outcome::Succeeded { result_ref: result_ref.map(str::to_owned) }
    }

    #[test]
    fn words_that_are_no_answer_mean_nothing() {
        for line in ["", "done", "[1]", "7", r#"{"level": "info", "error": {"code": 1}}"#] {
            assert_eq!(of(line, false), done(None), "{line}");
        }
        assert_eq!(of(r#"{"result_ref": null}"#, false), done(None));
        assert_eq!(of(r#"{"result_ref": "page:1"}"#, false), done(Some("page:1")));
    }

    #[test]
    fn an_answer_that_is_not_understood_is_a_failure_and_no_success() {
        for line in [
            r#"{"outcome": "snoozed"}"#,
            r#"{"outcome": 1}"#,
            r#"{"result_ref": 5}"#,
            r#"{"outcome": "snooze"}"#,
            r#"{"outcome": "snooze", "seconds": -1}"#,
            r#"{"outcome": "snooze", "seconds": 1e300}"#,
            r#"{"outcome": "permanent", "error": ["x"]}"#,
        ] {
            assert!(matches!(of(line, false), Outcome::Transient(_)), "{line}");
        }
    }

    #[test]
    fn an_end_with_0_after_a_stop_is_a_success_only_when_it_says_so() {
        assert!(matches!(of("", true), Outcome::Transient(_)));
        assert_eq!(of(r#"{"outcome": "succeeded"}"#, true), done(None));
        assert_eq!(of(r#"{"result_ref": "page:1"}"#, true), done(Some("page:1")));
    }
}
