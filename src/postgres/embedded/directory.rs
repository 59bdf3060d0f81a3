//! The one directory of a throw-away server, and how it disappears.
//!
//! `reveille-pg-<pid>-<random>/` holds `owner.lock`, `server.conf`, `server.log` and `data/`. Who holds
//! the lock owns it: the lock goes with its process however that ends, unlike a pid, which may pass to
//! another. Three things remove it: drop; the watcher, a shell that waits for the owner's end; the
//! sweep at the next start, for the case that the watcher was killed too.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use super::account::Account;
use super::file::OwnFile;
use super::{keeper, table};
use crate::error::{Error, Kind, Result};

const PREFIX: &str = "reveille-pg-";
const LOCK: &str = "owner.lock";
/// A directory without a lock file is being made, or its maker died within these few lines.
const UNLOCKED_GRACE: Duration = Duration::from_mins(1);

/// Waits until standard input ends, which it does with the owner; then stops the server and deletes.
const WATCHER: &str = r#"
trap '' HUP INT TERM
read -r line
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() {
  case "$(tr '\0' ' ' 2>/dev/null </proc/"$pid"/cmdline || ps -o args= -p "$pid" 2>/dev/null)" in
    *"$1"*) true ;;
    *) false ;;
  esac
}
if [ -n "$pid" ] && ours "$1"; then
  kill -QUIT "$pid"
  tries=0
  while ours "$1" && [ "$tries" -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  ours "$1" && kill -KILL "$pid"
fi
tries=0
while rm -rf "$1" 2>/dev/null; [ -e "$1" ] && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
"#;

/// The directory of a living owner.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The server's settings.
    pub(super) conf: OwnFile,
    /// The server's output.
    pub(super) log: OwnFile,
    _lock: File,
    watcher: Child,
}

impl Directory {
    /// Sweeps leftovers below `parent` (or the temporary directory), then makes a new one.
    pub(super) fn create(parent: Option<&Path>, account: &Account) -> Result<Self> {
        let parent = reachable_parent(parent, account)?;
        sweep(&parent, account);
        let random = uuid::Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("{PREFIX}{}-{}", process::id(), &random[..12]));
        let named = |e| Error::io(path.display(), e);
        DirBuilder::new().mode(0o700).create(&path).map_err(named)?;
        let lock = File::create_new(path.join(LOCK)).map_err(named)?;
        lock.try_lock().map_err(|e| named(e.into()))?;
        let (conf, log) =
            (OwnFile::create(path.join("server.conf"))?, OwnFile::create(path.join("server.log"))?);
        account.own(&path)?; // from here on, nothing below it is opened for writing by its path
        let watcher = watch(&path, account)?;
        Ok(Self { path, conf, log, _lock: lock, watcher })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        remove(&self.path);
        drop(self.watcher.stdin.take());
        if let Err(e) = self.watcher.wait() {
            tracing::warn!(error = %e, "the watcher of the throw-away server cannot be waited for");
        }
    }
}

/// The parent, free of symbolic links, if the server's user can enter it; `/tmp` if root's own
/// temporary directory is closed to that user.
fn reachable_parent(wanted: Option<&Path>, account: &Account) -> Result<PathBuf> {
    let parent = wanted.map_or_else(env::temp_dir, Path::to_path_buf);
    let candidates = [Some(parent.clone()), wanted.is_none().then(|| "/tmp".into())];
    candidates
        .into_iter()
        .flatten()
        .filter_map(|folder| folder.canonicalize().ok())
        .find(|folder| account.can_enter(folder))
        .ok_or_else(|| {
            let problem = format!("the server's user cannot enter the folder {}", parent.display());
            Error::new(Kind::Io, problem).hint("set TMPDIR to a folder open to all, such as /tmp")
        })
}

fn watch(path: &Path, account: &Account) -> Result<Child> {
    let mut command = account.command("sh");
    command.args(["-c", WATCHER, "reveille-pg-watcher"]).arg(path).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|e| Error::io("starting sh", e))
}

/// Removes what dead owners left. Failures are for the next start: this one does not depend on it.
fn sweep(parent: &Path, account: &Account) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let owned = metadata.uid() == account.uid() || metadata.uid() == account.own_uid;
        if ours && owned && metadata.is_dir() {
            sweep_one(&path, &metadata, account);
        }
    }
}

fn sweep_one(path: &Path, metadata: &Metadata, account: &Account) {
    let lock = path.join(LOCK);
    let lock = match lock.symlink_metadata() {
        Ok(file) if !file.is_file() => return remove(path), // not ours: whatever it leads to stays closed
        _ => OpenOptions::new().read(true).write(true).open(lock),
    };
    let lock = match lock {
        Ok(lock) => lock,
        Err(_) if metadata.modified().ok().and_then(|m| m.elapsed().ok()) < Some(UNLOCKED_GRACE) => return,
        Err(_) => return remove(path),
    };
    if lock.try_lock().is_ok() {
        tracing::info!(path = %path.display(), "removing the throw-away server of a dead process");
        stop_orphan(path, account);
        remove(path);
    }
}

/// Stops the server that still runs in this directory, as its own user, so that no other can be hit.
fn stop_orphan(path: &Path, account: &Account) {
    let Some(pid) = postmaster_line(path, 1).and_then(|line| line.parse().ok()) else { return };
    for name in ["QUIT", "KILL"] {
        if !table::names_path(pid, path)
            || !keeper::signal(&mut account.command("sh"), name, &pid.to_string())
        {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(6); // it gives its children 5 s
        while table::names_path(pid, path) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove(path: &Path) {
    free_shared_memory(path);
    let mut tries = 0;
    while let Err(e) = fs::remove_dir_all(path) {
        tries += 1;
        if !path.exists() {
            return; // somebody else did it
        }
        if tries == 50 {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove a throw-away server's directory");
            return;
        }
        thread::sleep(Duration::from_millis(20)); // a dying child may still be writing
    }
}

/// A killed postmaster leaves its 56-byte System V segment; `postmaster.pid` names it.
fn free_shared_memory(path: &Path) {
    let (Some(pid), Some(segment)) = (postmaster_line(path, 1), postmaster_line(path, 7)) else { return };
    let Some((key, id)) = segment.split_once(' ') else { return };
    let id = id.trim();
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let left = table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [k, i, _, _, cpid, _, "0", ..] if k == key && i == id && cpid == pid)
    });
    if left {
        drop(Command::new("ipcrm").args(["-m", id]).stderr(Stdio::null()).status());
    }
}

/// One line of `postmaster.pid`, counted from 1, without blanks around it.
pub(super) fn postmaster_line(path: &Path, number: usize) -> Option<String> {
    let text = fs::read_to_string(path.join("data/postmaster.pid")).ok()?;
    text.lines().nth(number - 1).map(|line| line.trim().to_owned())
}
