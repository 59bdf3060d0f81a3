//! Programs for jobs: small shell scripts in a folder of the test.

use std::path::PathBuf;

use reveille::work::{Exec, Handlers};

use crate::support::{Folder, SOON, script, wait_for};

/// A folder with programs.
pub(super) struct Tools(Folder);

impl Tools {
    pub(super) fn new() -> Self {
        Self(Folder::open_to_all())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A shell script of these lines; `$DIR` is the folder.
    pub(super) fn program(&self, name: &str, lines: &str) -> String {
        script(&self.path(name), &format!("DIR='{}'\n{lines}", self.0.path().display()));
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(super) fn handlers(&self, kind: &str, lines: &str) -> Handlers {
        Handlers::new().on(kind, Exec::new(&self.program(kind, lines)).unwrap())
    }

    /// What a program has written into a file of the folder, once it is a whole line.
    pub(super) async fn line(&self, name: &str) -> String {
        wait_for(name, SOON, async || {
            std::fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'))
        })
        .await
        .trim()
        .to_owned()
    }
}
