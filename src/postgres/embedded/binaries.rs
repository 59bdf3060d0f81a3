//! Where the server's programs are.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::Account;
use super::npm;
use crate::error::{Error, Kind, Result};
use crate::shutdown::Shutdown;

const OLDEST: u32 = 14;

/// A folder with `postgres` and `initdb` of a version we can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The folder.
    pub folder: PathBuf,
    /// The major version, such as 15.
    pub version: u32,
}

/// Where to look; the default reads the environment.
#[derive(Debug, Clone)]
pub struct Search {
    /// The only folder to look at (`REVEILLE_PG_BIN`).
    pub given: Option<PathBuf>,
    /// The folders of programs (`PATH`): asked for `pg_config`, then for the server itself, then `npm`.
    pub path: OsString,
    /// Folders where packages put servers; `*` stands for any part of one name.
    pub usual: Vec<String>,
    /// Where a fetched server is kept; `None` is the user's cache folder.
    pub cache: Option<PathBuf>,
}

impl Default for Search {
    fn default() -> Self {
        let usual = [
            "/usr/lib/postgresql/*/bin",
            "/usr/pgsql-*/bin",
            "/opt/homebrew/opt/postgresql*/bin",
            "/usr/local/opt/postgresql*/bin",
            "/Applications/Postgres.app/Contents/Versions/*/bin",
            "/usr/local/pgsql/bin",
        ];
        Self {
            given: env::var_os("REVEILLE_PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from),
            path: env::var_os("PATH").unwrap_or_default(),
            usual: usual.map(str::to_owned).to_vec(),
            cache: None,
        }
    }
}

impl Binaries {
    /// The path of one of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The programs of this folder, or what is wrong with it.
    pub(super) fn of(folder: &Path, account: &Account) -> Result<Self, String> {
        let shown = folder.display();
        // Debian and Homebrew put links into the PATH; initdb wants the server beside itself
        let server =
            folder.join("postgres").canonicalize().map_err(|_| format!("{shown} holds no `postgres`"))?;
        let real = server.parent().filter(|real| real.join("initdb").is_file());
        let folder = real.unwrap_or(folder).to_path_buf();
        if !folder.join("initdb").is_file() {
            return Err(format!("{shown} holds no `initdb`"));
        }
        if !account.can_enter(&folder) {
            return Err(format!("{shown} is closed to the user that the server runs as"));
        }
        match version(&server) {
            None => Err(format!("{} does not tell its version", server.display())),
            Some(version) if version < OLDEST => Err(format!("{shown} is version {version}")),
            Some(version) => Ok(Self { folder, version }),
        }
    }
}

impl Search {
    /// The first usable server in the order given, `pg_config`, PATH, usual places (newest first), npm.
    ///
    /// Waits on the programs it asks, and on a download if it comes to that. Errors: Usage when the given
    /// folder is unusable; Io when there is none, with a hint that says what to install.
    pub fn find(&self) -> Result<Binaries> {
        self.find_for(&Account::choose()?, &Shutdown::new())
    }

    pub(super) fn find_for(&self, account: &Account, shutdown: &Shutdown) -> Result<Binaries> {
        if let Some(folder) = &self.given {
            return Binaries::of(folder, account).map_err(|problem| {
                Error::usage(format!("REVEILLE_PG_BIN names no Postgres server: {problem}"))
                    .hint(format!("name a folder with `postgres` and `initdb`, version {OLDEST} or newer"))
            });
        }
        let mut problems = Vec::new();
        for folder in self.pg_config().into_iter().chain(self.folders()) {
            match Binaries::of(&folder, account) {
                Ok(found) => return Ok(found),
                Err(problem) if folder.join("postgres").exists() => problems.push(problem),
                Err(_) => {} // most folders of the PATH
            }
        }
        let (found, more): (Vec<_>, Vec<_>) =
            self.usual_folders().iter().map(|folder| Binaries::of(folder, account)).partition(Result::is_ok);
        if let Some(newest) = found.into_iter().flatten().max_by_key(|found| found.version) {
            return Ok(newest);
        }
        problems.extend(more.into_iter().filter_map(Result::err));
        match npm::fetch(self, account, shutdown) {
            Some(Ok(fetched)) => Ok(fetched),
            Some(Err(error)) => {
                problems.push(format!("and fetching one failed: {error}"));
                Err(none_found(&problems).because(error))
            }
            None => Err(none_found(&problems)),
        }
    }

    /// A program in the PATH.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.folders().map(|folder| folder.join(name)).find(|file| file.is_file())
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        env::split_paths(&self.path).filter(|folder| folder.is_absolute())
    }

    fn pg_config(&self) -> Option<PathBuf> {
        let output = Command::new(self.program("pg_config")?).arg("--bindir").stderr(Stdio::null()).output();
        let folder = String::from_utf8(output.ok()?.stdout).ok()?;
        Some(PathBuf::from(folder.trim()))
    }

    fn usual_folders(&self) -> Vec<PathBuf> {
        self.usual.iter().flat_map(|pattern| expand(pattern)).collect()
    }
}

/// The folders that a pattern with at most one `*` a name stands for.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        folders = match part.split_once('*') {
            None => folders.into_iter().map(|folder| folder.join(part)).collect(),
            Some((start, end)) => folders.iter().flat_map(|folder| matching(folder, start, end)).collect(),
        };
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

fn matching(folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(start) && name.ends_with(end)
        })
        .collect()
}

/// The major version: `postgres (PostgreSQL) 15.18 (Debian …)`, `… 19beta1`, `… 19devel`.
fn version(server: &Path) -> Option<u32> {
    let output =
        Command::new(server).arg("--version").current_dir("/").stderr(Stdio::null()).output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

fn major(answer: &str) -> Option<u32> {
    let number = answer.split("(PostgreSQL) ").nth(1)?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

fn none_found(problems: &[String]) -> Error {
    let mut message = format!("no Postgres server (version {OLDEST} or newer) is installed on this machine");
    for problem in problems {
        message.push_str("; ");
        message.push_str(problem);
    }
    Error::new(Kind::Io, message).hint(
        "install one (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql@17), or set REVEILLE_PG_BIN to the folder that holds `postgres` and `initdb`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_form_of_answer() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18.4\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("postgres (PostgreSQL) 19devel"), Some(19));
        assert_eq!(major("command not found"), None);
    }

    #[test]
    fn a_star_stands_for_part_of_one_name() {
        let here = env!("CARGO_MANIFEST_DIR");
        let found = expand(&format!("{here}/src/post*/embedded"));
        assert_eq!(found, [PathBuf::from(format!("{here}/src/postgres/embedded"))]);
        assert!(expand("/no/such/*/folder").is_empty());
    }
}
