//! A file of ours in the server's directory, which belongs to the server's user.
//!
//! It is made before the directory is handed over, and from then on used by its handle: by its path that
//! user could lead root to any other file.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The server may read it, and write where it is given the handle.
#[derive(Debug)]
pub(super) struct OwnFile {
    path: PathBuf,
    file: File,
}

impl OwnFile {
    /// Makes an empty one.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let open = OpenOptions::new().read(true).append(true).create_new(true).open(&path);
        let readable = |file: File| file.set_permissions(Permissions::from_mode(0o644)).map(|()| file);
        match open.and_then(readable) {
            Ok(file) => Ok(Self { path, file }),
            Err(e) => Err(Error::io(path.display(), e)),
        }
    }

    /// Where the server finds it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub(super) fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.len())
    }

    /// Replaces all of its text.
    pub(super) fn replace(&self, text: &str) -> Result<()> {
        let written = self.file.set_len(0).and_then(|()| (&self.file).write_all(text.as_bytes()));
        written.map_err(|e| Error::io(self.path.display(), e))
    }

    /// Its text from there on; what cannot be read is missing.
    pub(super) fn text_from(&self, start: u64) -> String {
        let mut bytes = vec![0; usize::try_from(self.len().saturating_sub(start)).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, start).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    /// A handle that appends to it.
    pub(super) fn appender(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}
