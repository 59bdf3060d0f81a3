//! What `reveille doctor` has found: something that somebody must mend, and how.

use serde::{Deserialize, Serialize};

use super::sorts;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about: a route's code, a trigger.
    pub subject: String,
    /// error: something does not work; warning: it will not for long, or something was lost; info: worth knowing.
    pub severity: String,
    /// A stable word, such as `trigger_missing`; all of them stand in [`sorts::ALL`].
    pub finding: String,
    /// What is wrong, in a sentence.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// The command that mends it.
    pub mend: String,
}

/// What findings of one name have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// A stable word.
    pub name: &'static str,
    /// error, warning or info; where a finding may be one or the other, both, with `or` between.
    pub severity: &'static str,
    /// Why it matters.
    pub why: &'static str,
}

impl Sort {
    /// A finding of this sort; of two severities it has the first.
    pub fn found(
        &self,
        subject: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        Finding {
            subject: subject.into(),
            severity: self.severity.split(' ').next().unwrap_or_default().to_owned(),
            finding: self.name.to_owned(),
            what: what.into(),
            why: self.why.to_owned(),
            mend: mend.into(),
        }
    }
}

impl Finding {
    /// One whose name came from the database; that of this program's own schema has no name that is not in [`sorts::ALL`].
    pub fn named(name: &str, subject: String, what: String, mend: String) -> Self {
        let sort = sorts::named(name);
        debug_assert!(sort.is_some(), "{name} is in no list of findings");
        match sort {
            Some(sort) => sort.found(subject, what, mend),
            // a newer schema may know more than this binary
            None => Self {
                subject,
                severity: "warning".to_owned(),
                finding: name.to_owned(),
                what,
                why: String::new(),
                mend,
            },
        }
    }

    /// Whether somebody must do something.
    pub fn is_wrong(&self) -> bool {
        self.severity != "info"
    }
}
