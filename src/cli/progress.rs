//! How far a long command has come: a bar with what is left on a terminal, a line now and then elsewhere, nothing beside JSON.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::{SignedDuration, Timestamp};

use super::output::{Output, duration};

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Between two turns of what only shows that it goes on.
const TURN: Duration = Duration::from_millis(100);

/// Told after each batch. On standard error, as the answer is on standard output. Dropping it takes the bar away.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// What is counted.
    unit: &'static str,
    began: Instant,
    /// When the next line is due; none where there is a bar, or nothing to be said.
    line_at: Option<Instant>,
    from: Option<u64>,
}

impl Progress {
    /// About `total` of what `unit` names.
    pub(super) fn new(out: Output, unit: &'static str, total: u64) -> Self {
        let template = "{bar:30} {percent:>3} %  {pos} of about {len}  {eta} left  {msg}";
        let (bar, draws) = drawn(out, Some(total), template);
        let began = Instant::now();
        let line_at = (!draws && !out.is_json()).then(|| began + BETWEEN_LINES);
        Self { bar, unit, began, line_at, from: None }
    }

    /// Something that takes its time and does not say how far it is: on a terminal `words`, and since when.
    pub(super) fn waiting(out: Output, words: &str) -> Self {
        let (bar, _) = drawn(out, None, "{spinner} {msg}  {elapsed}");
        bar.set_message(words.to_owned());
        Self { bar, unit: "", began: Instant::now(), line_at: None, from: None }
    }

    /// Waits for `work`, and shows meanwhile that it goes on.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut turn = tokio::time::interval(TURN);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = turn.tick() => self.bar.tick(),
            }
        }
    }

    /// So many are done, of about `total`; `words` say what came of them.
    pub(super) fn at(&mut self, done: u64, total: u64, words: &str) {
        let from = *self.from.get_or_insert_with(|| {
            self.bar.set_position(done);
            self.bar.reset_eta(); // what was done before tells nothing of how quick it is now
            done
        });
        let total = total.max(done);
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(words.to_owned());
        let now = Instant::now();
        if self.line_at.is_some_and(|at| at <= now) {
            self.line_at = Some(now + BETWEEN_LINES);
            let line = as_line(done, total, self.unit, left(from, done, total, self.began.elapsed()), words);
            // somebody who has closed standard error does not want to know
            let _ = writeln!(anstream::stderr().lock(), "{line}");
        }
    }
}

/// The whole of a span of time, when `done` lie between `from` and `at`, if they come as thick until `until`.
pub(super) fn about(done: u64, from: Timestamp, at: Timestamp, until: Timestamp) -> u64 {
    let span = |end: Timestamp| u64::try_from(end.duration_since(from).as_millis()).unwrap_or_default();
    let whole = u128::from(done) * u128::from(span(until)) / u128::from(span(at).max(1));
    u64::try_from(whole).unwrap_or(u64::MAX).max(done)
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar of this form, and whether anybody sees it.
fn drawn(out: Output, total: Option<u64>, template: &str) -> (ProgressBar, bool) {
    let draws = !out.is_json() && io::stderr().is_terminal();
    let target = if draws { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(total, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▌ "));
    }
    (bar, draws)
}

/// How long the rest takes, if it goes on as since the beginning.
fn left(from: u64, done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    let (new, rest) = (done.saturating_sub(from), total.saturating_sub(done));
    let ratio = u32::try_from(new).ok().filter(|new| *new > 0)?;
    let rest = u32::try_from(rest).ok()?;
    Some((elapsed / ratio).saturating_mul(rest))
}

fn as_line(done: u64, total: u64, unit: &str, left: Option<Duration>, words: &str) -> String {
    let left = left.and_then(|left| SignedDuration::try_from(left).ok());
    let left = left.map(|left| format!(", {} left", duration(left))).unwrap_or_default();
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    format!("{done} of about {total} {unit}{left}{words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_what_is_left_by_the_speed_since_it_began() {
        let left = left(1000, 3000, 7000, Duration::from_secs(10));
        assert_eq!(
            as_line(3000, 7000, "events", left, "12 made"),
            "3000 of about 7000 events, 20s left: 12 made"
        );
    }

    #[test]
    fn a_total_is_guessed_from_the_part_of_the_time_that_was_looked_at() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(about(500, at(0), at(10), at(40)), 2000);
        assert_eq!(about(500, at(0), at(10), at(5)), 500, "never less than there is");
        assert_eq!(about(0, at(0), at(0), at(5)), 0);
    }

    #[test]
    fn before_anything_is_done_nobody_knows_what_is_left() {
        assert_eq!(left(5, 5, 10, Duration::from_secs(1)), None);
        assert_eq!(as_line(5, 10, "events", None, ""), "5 of about 10 events");
    }
}
