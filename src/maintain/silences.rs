//! Who does not beat any more, in words: what `fn_queue_stale_check` found.

use serde_json::Value;

use crate::model::refusal::Answer;

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Silences {
    /// Everybody who is silent now.
    pub silent: Vec<String>,
    /// Silences that this look announced.
    pub begun: u64,
    /// Ends of silences that it announced.
    pub ended: u64,
    /// Event types that nobody has registered, so that nothing could be emitted.
    pub missing_types: Vec<String>,
    /// Why an event could not be emitted.
    pub emit_error: Option<String>,
}

/// Says what changed since the last look.
#[derive(Debug, Default)]
pub(super) struct Teller {
    silent: Vec<String>,
    told_missing: bool,
}

impl Silences {
    /// Nothing while the heartbeats are gated.
    pub(super) fn of(answer: &Answer) -> Self {
        let Answer::Done(answer) = answer else { return Self::default() };
        let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        Self {
            silent: list("stale").iter().map(|stale| words(&stale["executor_name"])).collect(),
            begun: count("silent"),
            ended: count("recovered"),
            missing_types: list("missing_types").iter().map(words).collect(),
            emit_error: answer.get("emit_error").and_then(Value::as_str).map(str::to_owned),
        }
    }
}

impl Teller {
    pub(super) fn tell(&mut self, now: Silences) {
        for name in now.silent.iter().filter(|name| !self.silent.contains(name)) {
            tracing::warn!(executor = %name, hint = "`reveille health` shows since when", "{name} is silent");
        }
        for name in self.silent.iter().filter(|name| !now.silent.contains(name)) {
            tracing::info!(executor = %name, "{name} is not silent any more");
        }
        if !now.missing_types.is_empty() && !self.told_missing {
            self.told_missing = true;
            tracing::warn!(
                hint = "register them in event_type_registry, domain system, with active = true",
                "silences are not announced as events: nobody has registered {}",
                now.missing_types.join(", ")
            );
        }
        if let Some(error) = &now.emit_error {
            tracing::warn!("a silence could not be announced as an event: {error}");
        }
        self.silent = now.silent;
    }
}
