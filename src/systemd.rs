//! Tells systemd how the process stands. Does nothing where systemd did not start it (no `NOTIFY_SOCKET`).
//!
//! For a unit with `Type=notify` and, if wanted, `WatchdogSec=`. The app calls [`ready`] once it is ready,
//! [`alive`] every [`watchdog_interval`] while all its tasks run, and [`stopping`] at the first signal.

use std::time::Duration;

use sd_notify::NotifyState;

/// Start-up is done; `systemctl status` shows `status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// What `systemctl status` shows from now on.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(&one_line(status))]);
}

/// No more work is taken; `systemctl status` shows `status` until the end.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// The sign of life that the watchdog waits for.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often to call [`alive`]: half the time after which systemd restarts the process. None: no watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero())
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!("systemd could not be told through NOTIFY_SOCKET: {error}");
    }
}

/// A line break would begin another message to systemd.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
