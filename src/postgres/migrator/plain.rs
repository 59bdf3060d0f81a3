//! The same steps as plain SQL, for those who run migrations with psql.

use super::history::{self, History};
use super::plan::{self, Action, Step};
use super::script::Script;
use super::{Migrator, VERSION};
use crate::error::Result;
use crate::postgres::quote;

/// Which way a script goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Forward.
    Up,
    /// Back.
    Down,
}

/// From where a script starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From what the database has now; reads its history and nothing else.
    AsFound,
    /// From nothing (up) or from everything (down); needs no database.
    Assumed,
}

impl Migrator {
    /// The steps as a script for `psql --set ON_ERROR_STOP=1 --file`. Executes nothing.
    ///
    /// Each phase is a transaction that begins by asking whether it is its turn, so a script that is run twice, or
    /// goes on after an error, stops by itself.
    pub async fn sql(&self, direction: Direction, to: Option<u32>, start: Start) -> Result<String> {
        let history = match start {
            Start::AsFound => {
                let client = self.client().await?;
                History::read(&client, self.server.schema()).await?
            }
            Start::Assumed => self.assumed(direction),
        };
        let steps = match direction {
            Direction::Up => plan::up(&self.phases, &history, to)?,
            Direction::Down => plan::down(&self.phases, &history, to)?,
        };
        let schema = self.server.schema();
        let mut text = format!(
            "-- reveille {VERSION}, schema {}, steps: {}. Run with: psql --set ON_ERROR_STOP=1 --file THIS\n",
            quote::identifier(schema).replace(['\n', '\r'], " "),
            steps.len(),
        );
        for index in 0..steps.len() {
            text.push_str(&self.transaction(&history, &steps, index));
        }
        Ok(text)
    }

    fn assumed(&self, direction: Direction) -> History {
        match direction {
            Direction::Up => History::default(),
            Direction::Down => {
                let applied = self.phases.iter().map(history::Entry::assumed).collect();
                History { has_schema: true, has_table: true, applied, ..History::default() }
            }
        }
    }

    fn transaction(&self, history: &History, steps: &[Step], index: usize) -> String {
        let step = &steps[index];
        let path = quote::search_path(self.server.schema());
        let mut text = format!("\nbegin;\nset local search_path to {path};\n");
        if index > 0 || history.has_table {
            text.push_str(&turn(step));
        }
        for script in self.around(history, steps, index) {
            text.push_str(&section(&script));
        }
        text.push_str("\ncommit;\n");
        text
    }
}

/// One file under its name. The server is given each file alone, psql all of them: the last statement needs its end.
fn section(script: &Script) -> String {
    let place = script.place.replace(['\n', '\r'], " ");
    let body = script.text.trim_end();
    let end = if body.is_empty() || body.ends_with(';') { "" } else { "\n;" };
    format!("\n-- {place}\n{body}{end}\n")
}

/// Raises unless the schema's last phase is the one this step follows.
fn turn(step: &Step) -> String {
    let (filter, expected) = match step.action {
        // the history may have gone on; the phase itself must be there
        Action::RefreshFunctions => (format!(" where number = {}", step.phase.number), step.phase.number),
        Action::Apply | Action::Undo => (String::new(), step.comes_after()),
    };
    quote::do_block(&format!(
        "  if (select coalesce(max(number), 0) from reveille_migration{filter}) <> {expected} then\n    \
         raise exception 'phase {} does not come next here; nothing was done';\n  end if;",
        step.phase.folder(),
    ))
}
