//! A test that this machine cannot run says so; none passes in silence.

use std::io::Write;

/// Tells on the real standard error that the running test is skipped, and why. (`eprintln!` would be kept back,
/// as all that passing tests print.)
pub(crate) fn skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main"); // with one thread its line is named already
    let line = format!("SKIPPED {}: {reason}\n", test.unwrap_or("this test"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// The same for something that a machine of continuous integration can have: with `CI` set its lack is a failure.
pub(crate) fn lacking(reason: &str) {
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "CI is set, so this must not be skipped: {reason}");
    skipped(reason);
}
