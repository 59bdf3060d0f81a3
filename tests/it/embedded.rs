//! The throw-away server: starts anywhere, obeys, and leaves nothing behind.

mod binaries;
mod life;
#[cfg(target_os = "linux")] // where /proc shows who lives
mod remains;
