//! A file system of its own for tests that fill one.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A few mebibytes; gone with the value.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, and said so, where that cannot be mounted.
    pub(crate) fn mount(mebibytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mount = ["-t", "tmpfs", "-o", &size, "everywrite-test"];
        let mounted = Command::new("mount").args(mount).arg(dir.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!(
            "SKIPPED: a tmpfs cannot be mounted here (root is needed), so the disk cannot be filled"
        );
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it with a file, up to the last page; removing that makes room again.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        loop {
            match file.write_all(&[1; 4096]) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::StorageFull => return path,
                Err(err) => panic!("{err}"),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
