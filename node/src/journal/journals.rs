//! All journals of this node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use everywrite_conflict::{NodeId, Vector};
use parking_lot::Mutex;

use super::{Error, Journal, Options};

/// One journal per origin, each in a folder named by the origin's node id.
#[derive(Debug)]
pub struct Journals {
    dir: PathBuf,
    options: Options,
    open: Mutex<BTreeMap<NodeId, Journal>>,
}

impl Journals {
    /// Opens every journal in `dir`, and makes `dir` if it is not there. Blocks while the newest
    /// segment of each is read. `options` hold for each journal by itself.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(Error::io("make the folder", dir))?;
        let mut open = BTreeMap::new();
        let entries = std::fs::read_dir(dir).map_err(Error::io("list", dir))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("list", dir))?;
            let name = entry.file_name();
            if let Some(origin) = name.to_str().and_then(|name| name.parse().ok()) {
                let origin = NodeId(origin);
                open.insert(origin, Journal::open(&entry.path(), origin, options)?);
            }
        }
        Ok(Journals {
            dir: dir.to_owned(),
            options,
            open: Mutex::new(open),
        })
    }

    /// The journal of `origin`, if there is one.
    pub fn get(&self, origin: NodeId) -> Option<Journal> {
        self.open.lock().get(&origin).cloned()
    }

    /// The journal of `origin`; makes an empty one if there is none (a few file system calls).
    pub fn get_or_open(&self, origin: NodeId) -> Result<Journal, Error> {
        let mut open = self.open.lock();
        if let Some(journal) = open.get(&origin) {
            return Ok(journal.clone());
        }
        let dir = self.dir.join(origin.to_string());
        let journal = Journal::open(&dir, origin, self.options)?;
        open.insert(origin, journal.clone());
        Ok(journal)
    }

    /// Every journal, by origin.
    pub fn all(&self) -> Vec<Journal> {
        self.open.lock().values().cloned().collect()
    }

    /// How far each origin's transactions are durable here.
    pub fn holds(&self) -> Vector {
        let open = self.open.lock();
        open.iter()
            .map(|(id, journal)| (*id, journal.end()))
            .collect()
    }
}
