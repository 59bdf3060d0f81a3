//! A file system that is really full when it is full.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::skip::lacking;

/// A file system in memory of a few megabytes, open to all. Dropping it unmounts it.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount, which is told. What killed tests left is unmounted first.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let parent = std::env::temp_dir().canonicalize().unwrap();
        for entry in fs::read_dir(&parent).unwrap().filter_map(Result::ok) {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix("reveille-small-disk-").and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                drop(Self(entry.path()));
            }
        }
        let name = format!("reveille-small-disk-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let disk = Self(parent.join(name));
        fs::create_dir(disk.path()).unwrap();
        let options = format!("size={megabytes}m,mode=1777");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(disk.path());
        let mounted =
            mount.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|how| how.success());
        if !mounted {
            lacking("only root may mount the small disk that it needs");
        }
        mounted.then_some(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A folder on it that belongs to whoever owns `like`.
    pub(crate) fn folder_like(&self, name: &str, like: &Path) -> PathBuf {
        let (folder, owner) = (self.0.join(name), fs::metadata(like).unwrap());
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
        folder
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut filler = fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy"]).arg(&self.0).stderr(Stdio::null()).status().ok();
        fs::remove_dir(&self.0).ok();
    }
}
