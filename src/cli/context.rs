//! What every command gets, and what it gives back.

use crate::config::Settings;
use crate::model::refusal::Refusal;

use super::output::Output;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// Checked settings.
    pub settings: Settings,
    /// Where answers go.
    pub out: Output,
}

/// How a command ended, when it did not end with an error.
#[derive(Debug)]
pub enum Outcome {
    /// It did what was asked. Exit code 0.
    Done,
    /// It answered, and the answer is bad news that has been printed. Exit code 1.
    Failed,
    /// The database's rules said no; printed by the caller. Exit code 3.
    Refused(Refusal),
}
