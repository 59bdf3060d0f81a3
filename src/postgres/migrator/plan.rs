//! What has to be done, decided from the phases of this binary and the history of the schema. No input, no output.

use std::time::Duration;

use super::history::{Entry, History};
use super::phase::Phase;
use super::script::Script;
use super::{VERSION, history};
use crate::error::{Error, Kind, Result};

/// What is done to a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `up.sql`, then `functions.sql`.
    Apply,
    /// `functions.sql` again: its text has changed, or something that it makes is gone.
    RefreshFunctions,
    /// `down.sql`.
    Undo,
}

/// One transaction: one phase and what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The phase.
    pub phase: Phase,
    /// What is done to it.
    pub action: Action,
    /// How long it took; zero until it ran.
    pub took: Duration,
}

impl Step {
    fn new(phase: Phase, action: Action) -> Self {
        Self { phase, action, took: Duration::ZERO }
    }

    /// The files to run and the note to make.
    pub(super) fn scripts(&self) -> Vec<Script> {
        let phase = &self.phase;
        let file =
            |name: &str, text: &str| Script::new(format!("migrations/{}/{name}", phase.folder()), text);
        match self.action {
            Action::Apply => {
                vec![file("up.sql", phase.up), file("functions.sql", phase.functions), history::record(phase)]
            }
            Action::RefreshFunctions => {
                vec![file("functions.sql", phase.functions), history::record_functions(phase)]
            }
            Action::Undo => vec![file("down.sql", phase.down), history::forget(phase)],
        }
    }

    /// The phase that must be the schema's last before this step.
    pub(super) fn comes_after(&self) -> u32 {
        match self.action {
            Action::Apply => self.phase.number - 1,
            Action::RefreshFunctions | Action::Undo => self.phase.number,
        }
    }
}

/// Steps forward, up to phase `to` (default: all), in phase order.
pub(super) fn up(phases: &[Phase], history: &History, to: Option<u32>) -> Result<Vec<Step>> {
    let last = last_number(phases);
    let to = to.unwrap_or(last);
    if to > last {
        return Err(Error::usage(format!("there is no phase {to}: this reveille knows {last}")));
    }
    agree(phases, history)?;
    let step = |phase: &Phase| match history.of(phase) {
        None => Some(Step::new(*phase, Action::Apply)),
        Some(applied)
            if applied.functions_checksum != phase.functions_checksum()
                || history.missing_routine(phase).is_some()
                || history.is_changed(phase) =>
        {
            Some(Step::new(*phase, Action::RefreshFunctions))
        }
        Some(_) => None,
    };
    Ok(phases.iter().filter(|phase| phase.number <= to).filter_map(step).collect())
}

/// Steps back, down to phase `to` (default: the last one alone), newest first.
///
/// A changed `up.sql` does not stop this: going back is how one gets out of it.
pub(super) fn down(phases: &[Phase], history: &History, to: Option<u32>) -> Result<Vec<Step>> {
    let to = to.unwrap_or_else(|| history.at().saturating_sub(1));
    if let Some(newer) = too_new(phases, history) {
        return Err(newer);
    }
    let undone = phases.iter().rev().filter(|phase| phase.number > to && history.of(phase).is_some());
    Ok(undone.map(|phase| Step::new(*phase, Action::Undo)).collect())
}

/// Whether the schema is exactly what this binary needs; else what is wrong and which command mends it.
pub(super) fn check(phases: &[Phase], history: &History, schema: &str) -> Result<()> {
    let migrate = |message: String| Error::new(Kind::Schema, message).hint("run `reveille migrate up`");
    if history.applied.is_empty() {
        return Err(migrate(format!("Reveille is not installed in schema `{schema}`"))
            .hint("run `reveille migrate up`, or set [database] schema to where it is installed"));
    }
    let mut steps = up(phases, history, None)?;
    // what somebody has replaced by hand is named by `doctor`: it may be what keeps the work going
    steps.retain(|step| {
        history.of(&step.phase).is_none_or(|applied| {
            applied.functions_checksum != step.phase.functions_checksum()
                || history.missing_routine(&step.phase).is_some()
        })
    });
    let Some(step) = steps.first() else {
        return Ok(());
    };
    let (at, last) = (history.at(), last_number(phases));
    let missing = steps.iter().find_map(|step| history.missing_routine(&step.phase)).filter(|_| at == last);
    Err(migrate(if let Some(name) = missing {
        format!("{name} is missing from schema `{schema}`, where `reveille migrate up` had made it")
    } else if at < last {
        format!("schema `{schema}` is at phase {at}, and this reveille needs phase {last}")
    } else {
        format!(
            "the functions of phase {} in schema `{schema}` are not those of this reveille",
            step.phase.folder()
        )
    }))
}

pub(super) fn last_number(phases: &[Phase]) -> u32 {
    phases.last().map_or(0, |phase| phase.number)
}

/// What is applied must be a beginning of what we know, with the same text.
fn agree(phases: &[Phase], history: &History) -> Result<()> {
    if let Some(newer) = too_new(phases, history) {
        return Err(newer);
    }
    for (phase, place) in phases.iter().zip(1..=history.at()) {
        let Some(applied) = history.of(phase) else {
            return Err(Error::new(
                Kind::Schema,
                format!("phase {place} is missing from table reveille_migration"),
            )
            .hint(
                "restore the row from a backup, or go back with `reveille migrate down --to` and up again",
            ));
        };
        if applied.name != phase.name || applied.up_checksum != phase.up_checksum() {
            return Err(drifted(phase, applied));
        }
    }
    Ok(())
}

fn drifted(phase: &Phase, applied: &Entry) -> Error {
    let (folder, number) = (phase.folder(), phase.number);
    let before = number - 1;
    Error::new(
        Kind::Schema,
        format!(
            "migrations/{folder}/up.sql is not the text that was applied on {} by reveille {}",
            applied.applied_at.strftime("%F"),
            applied.binary_version,
        ),
    )
    .hint(format!(
        "an applied up.sql never changes: put the change into a new phase and restore this one; \
         or, where its rows may be lost, run `reveille migrate down --to {before}` and `reveille migrate up`"
    ))
}

/// A schema that a newer binary has written is left alone (reason `schema_too_new`).
fn too_new(phases: &[Phase], history: &History) -> Option<Error> {
    let last = last_number(phases);
    let newer = |applied: &&Entry| {
        applied.number > last
            || (is_newer(&applied.binary_version, VERSION)
                && phases.iter().any(|phase| {
                    phase.number == applied.number && phase.functions_checksum() != applied.functions_checksum
                }))
    };
    let applied = history.applied.iter().rev().find(newer)?;
    let message = format!(
        "schema_too_new: the schema has phase {:03}_{} of reveille {}; this is reveille {VERSION}, which knows {last} phases",
        applied.number, applied.name, applied.binary_version,
    );
    Some(
        Error::new(Kind::Schema, message)
            .hint(format!("install reveille {} or newer", applied.binary_version)),
    )
}

/// Compares `1.10.0` and `1.9.2` as versions; the part after `-` does not count.
fn is_newer(one: &str, other: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        let version = version.split('-').next().unwrap_or_default();
        version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
    };
    numbers(one) > numbers(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Phase = Phase { number: 1, name: "a", up: "up a", functions: "f a", down: "down a" };
    const B: Phase = Phase { number: 2, name: "b", up: "up b", functions: "f b", down: "down b" };

    fn having(phases: &[Phase]) -> History {
        let applied = phases.iter().map(Entry::assumed).collect();
        History { has_schema: true, has_table: true, applied, ..History::default() }
    }

    fn actions(steps: Result<Vec<Step>>) -> Vec<(u32, Action)> {
        steps.unwrap().iter().map(|step| (step.phase.number, step.action)).collect()
    }

    #[test]
    fn steps_go_in_phase_order_forward_and_newest_first_back() {
        let changed = Phase { functions: "f a, better", ..A };
        let forward = up(&[changed, B], &having(&[A]), None);
        assert_eq!(actions(forward), [(1, Action::RefreshFunctions), (2, Action::Apply)]);
        assert_eq!(actions(up(&[A, B], &History::default(), Some(1))), [(1, Action::Apply)]);
        assert_eq!(actions(down(&[A, B], &having(&[A, B]), None)), [(2, Action::Undo)]);
        let all = down(&[A, B], &having(&[A, B]), Some(0));
        assert_eq!(actions(all), [(2, Action::Undo), (1, Action::Undo)]);
        assert!(up(&[A, B], &History::default(), Some(3)).is_err());
    }

    #[test]
    fn functions_of_a_newer_version_are_not_put_back() {
        let mut history = having(&[A]);
        history.applied[0].functions_checksum = "newer".to_owned();
        history.applied[0].binary_version = "99.10.0".to_owned();
        assert!(up(&[A], &history, None).unwrap_err().to_string().contains("schema_too_new"));
        assert!(is_newer("0.10.0", "0.9.9") && !is_newer("0.1.0-rc1", "0.1.0"));
    }

    #[test]
    fn check_names_the_command_that_mends() {
        for history in [History::default(), having(&[A])] {
            let error = check(&[A, B], &history, "s").unwrap_err();
            assert_eq!(error.kind(), Kind::Schema);
            assert!(error.hint_text().unwrap().contains("reveille migrate up"), "{error}");
        }
        assert!(check(&[A, B], &having(&[A, B]), "s").is_ok());
        assert!(check(&[A], &having(&[A, B]), "s").unwrap_err().to_string().contains("schema_too_new"));
    }
}
