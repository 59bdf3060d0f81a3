//! What `reveille doctor` has found: something that somebody must mend, and how.

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: a route's code, a trigger.
    pub subject: String,
    /// error: something does not work; warning: something is left over, or was lost.
    pub severity: String,
    /// A stable word, such as `trigger_missing`.
    pub finding: String,
    /// What is wrong, in a sentence.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// The command that mends it.
    pub mend: String,
}
