//! Files that are planned, then written: each appears whole, private ones never readable by
//! others for a moment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Error;

/// A file that will be written.
pub(super) struct Planned {
    pub(super) path: PathBuf,
    text: String,
    mode: u32,
}

impl Planned {
    pub(super) fn public(path: PathBuf, text: String) -> Planned {
        let mode = 0o644;
        Planned { path, text, mode }
    }

    /// Readable by its owner alone.
    pub(super) fn private(path: PathBuf, text: String) -> Planned {
        let mode = 0o600;
        Planned { path, text, mode }
    }

    /// Writes beside the place and renames, so that a crash leaves the old file or the new one.
    pub(super) fn write(&self) -> Result<(), Error> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let written = (|| {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(self.mode)
                .open(&beside)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        })();
        written.map_err(|source| Error::File {
            operation: "write",
            path: self.path.clone(),
            source,
        })
    }
}

/// An error that names every planned file that is there already.
pub(super) fn refuse_existing(planned: &[Planned]) -> Result<(), Error> {
    let there: Vec<PathBuf> = planned
        .iter()
        .map(|file| file.path.clone())
        .filter(|path| path.exists())
        .collect();
    if there.is_empty() {
        Ok(())
    } else {
        Err(Error::Exists(there))
    }
}

pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::File {
        operation: "make the folder",
        path: path.to_owned(),
        source,
    })
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            operation: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether both are one folder; folders that are not there yet are compared by name.
pub(super) fn same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
