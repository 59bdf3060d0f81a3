//! A folder that goes with its test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A scratch folder below the temporary directory; dropping it removes it with all it holds.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A folder into which every user may write.
    pub(crate) fn open_to_all() -> Self {
        let name = format!("reveille-test-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Makes a shell script of these lines that anybody may run.
pub(crate) fn script(path: &Path, lines: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = path.with_extension("text");
    fs::write(&text, format!("#!/bin/sh\n{lines}\n")).unwrap();
    copy_program(&text, path);
    fs::remove_file(text).unwrap();
}

/// Copies a file that is going to be run by anybody.
///
/// Another process does it: while this one has the file open for writing, a child that another test starts
/// just then inherits that, and running the file fails with "text file busy".
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let mut copy = Command::new("sh");
    copy.args(["-c", "cp \"$1\" \"$2\" && chmod 755 \"$2\"", "sh"]).args([from, to]);
    assert!(copy.status().unwrap().success());
}
