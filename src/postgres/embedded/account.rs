//! Whom the server runs as: Postgres refuses root, so root hands it to an unprivileged user.

use std::ffi::OsStr;
use std::io::PipeReader;
use std::os::unix::fs::{chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Kind, Result};

/// The user that owns the server's processes and files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    /// The user id of this process.
    pub(super) own_uid: u32,
    /// User and group to change to; `None` stays as we are.
    other: Option<(u32, u32)>,
    /// Whether `setpriv --pdeathsig` works here (util-linux, not busybox, not macOS).
    parent_death_signal: bool,
}

impl Account {
    /// Ourselves, or for root the user `postgres`, or else `nobody`.
    pub(super) fn choose() -> Result<Self> {
        let own_uid = id(&["-u"]).ok_or_else(|| Error::new(Kind::Io, "the program `id` does not answer"))?;
        let other = match own_uid {
            0 => Some(["postgres", "nobody"].into_iter().find_map(user).ok_or_else(no_user)?),
            _ => None,
        };
        Ok(Self { own_uid, other, parent_death_signal: setpriv_works() })
    }

    /// Owner of the server's files.
    pub(super) fn uid(&self) -> u32 {
        self.other.map_or(self.own_uid, |(uid, _)| uid)
    }

    /// A command that runs as this account, away from our terminal's signals and PG* variables.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.other {
            command.uid(uid).gid(gid); // std also clears the supplementary groups
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").process_group(0).stdin(Stdio::null());
        command
    }

    /// The same, and the kernel sends it `signal` when the thread that spawns it ends (Linux).
    pub(super) fn mortal_command(&self, signal: &str, program: &Path) -> Command {
        if !self.parent_death_signal {
            return self.command(program);
        }
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", signal]).arg(program);
        command
    }

    /// Makes the account the owner of `path`.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.other else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(|e| Error::io(format_args!("chown {}", path.display()), e))
    }

    /// Lets the account open the pipe by a name such as `/dev/stdin`, which on Linux asks for its owner.
    pub(super) fn own_pipe(&self, pipe: &PipeReader) -> std::io::Result<()> {
        match self.other {
            Some((uid, gid)) if cfg!(target_os = "linux") => fchown(pipe, Some(uid), Some(gid)),
            _ => Ok(()),
        }
    }

    /// Whether the account may enter this folder (`/root` is closed to others).
    pub(super) fn can_enter(&self, folder: &Path) -> bool {
        let mut command = self.command("sh");
        command.args(["-c", "cd \"$1\"", "sh"]).arg(folder).current_dir("/");
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

fn no_user() -> Error {
    Error::new(Kind::Io, "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`")
        .hint("run as another user, or create one: useradd --system postgres")
}

fn user(name: &str) -> Option<(u32, u32)> {
    Some((id(&["-u", name])?, id(&["-g", name])?))
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn setpriv_works() -> bool {
    cfg!(target_os = "linux")
        && Command::new("setpriv")
            .args(["--pdeathsig", "QUIT", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}
