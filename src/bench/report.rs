//! What a bench has found.

use serde::Serialize;

use super::machine::Machine;
use crate::store::bench::Facts;

/// What one bench has found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its name.
    pub bench: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// On which server, with which settings.
    pub server: Facts,
    /// What was measured, the bare limits among it.
    pub figures: Vec<Figure>,
    /// What is asked for.
    pub goals: Vec<Goal>,
    /// What must hold at any speed.
    pub checks: Vec<Check>,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it says.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// On which side of the goal is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The goal or more.
    AtLeast,
    /// The goal or less.
    AtMost,
}

/// A figure with its goal.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// What is compared with what.
    pub name: String,
    /// How it is.
    pub measured: f64,
    /// How it should be.
    pub goal: f64,
    /// On which side.
    pub bound: Bound,
    /// Whether it is so.
    pub met: bool,
}

/// Something that must hold at any speed.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was counted.
    pub name: String,
    /// How many there had to be.
    pub expected: i64,
    /// How many there were.
    pub found: i64,
}

impl Report {
    /// An empty one.
    pub(super) fn new(bench: &'static str, server: Facts) -> Self {
        Self {
            bench,
            machine: Machine::read(),
            server,
            figures: Vec::new(),
            goals: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Whether everything was there exactly once. Says nothing about speed.
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(Check::holds)
    }

    pub(super) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    pub(super) fn at_least(&mut self, name: impl Into<String>, measured: f64, goal: f64) {
        let met = measured >= goal;
        self.goals.push(Goal { name: name.into(), measured, goal, bound: Bound::AtLeast, met });
    }

    pub(super) fn at_most(&mut self, name: impl Into<String>, measured: f64, goal: f64) {
        let met = measured <= goal;
        self.goals.push(Goal { name: name.into(), measured, goal, bound: Bound::AtMost, met });
    }

    pub(super) fn check(&mut self, name: impl Into<String>, expected: i64, found: i64) {
        self.checks.push(Check { name: name.into(), expected, found });
    }
}

impl Check {
    /// Whether it does.
    pub fn holds(&self) -> bool {
        self.expected == self.found
    }
}

/// The middle value; of an even number the mean of the two in the middle, of none zero.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
pub(super) fn number(count: i64) -> f64 {
    count as f64
}

/// `part` of `whole`; zero when there is no whole.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        let is = |values: &[f64], middle: f64| assert!((median(values) - middle).abs() < f64::EPSILON);
        is(&[], 0.0);
        is(&[3.0, 1.0, 2.0], 2.0);
        is(&[4.0, 1.0, 2.0, 3.0], 2.5);
    }
}
