//! Where the pieces of a large transaction wait for its commit.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

/// All large transactions in progress, one file each; the files go with the process, because the
/// server streams a transaction anew after a reconnect.
#[derive(Debug)]
pub struct Spools {
    folder: PathBuf,
    open: HashMap<u32, Spool>,
}

#[derive(Debug)]
struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    aborted: HashSet<u32>,
    ours: bool,
}

impl Spools {
    /// An empty spool folder; what an earlier process left there is removed.
    pub fn open(folder: &Path) -> io::Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        Ok(Spools {
            folder: folder.to_owned(),
            open: HashMap::new(),
        })
    }

    /// Forgets everything: the stream begins anew.
    pub fn clear(&mut self) {
        for (_, spool) in self.open.drain() {
            let _ = fs::remove_file(spool.path);
        }
    }

    fn spool(&mut self, xid: u32) -> io::Result<&mut Spool> {
        if !self.open.contains_key(&xid) {
            let path = self.folder.join(format!("{xid}.changes"));
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&path)?;
            let file = BufWriter::with_capacity(256 << 10, file);
            self.open.insert(
                xid,
                Spool {
                    path,
                    file,
                    aborted: HashSet::new(),
                    ours: false,
                },
            );
        }
        self.open
            .get_mut(&xid)
            .ok_or_else(|| io::Error::other("spool vanished"))
    }

    /// Marks a transaction as written by replay: its pieces are dropped at commit.
    pub fn mark_ours(&mut self, xid: u32) -> io::Result<()> {
        self.spool(xid)?.ours = true;
        Ok(())
    }

    /// Whether replay wrote that transaction.
    pub fn is_ours(&self, xid: u32) -> bool {
        self.open.get(&xid).is_some_and(|spool| spool.ours)
    }

    /// Adds one change that (sub)transaction `subxid` of `xid` made.
    pub fn add(&mut self, xid: u32, subxid: u32, change: &[u8]) -> io::Result<()> {
        let spool = self.spool(xid)?;
        if spool.ours {
            return Ok(());
        }
        let length = u32::try_from(change.len()).map_err(io::Error::other)?;
        spool.file.write_all(&subxid.to_be_bytes())?;
        spool.file.write_all(&length.to_be_bytes())?;
        spool.file.write_all(change)
    }

    /// Drops what `subxid` did, or the whole transaction.
    pub fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            if let Some(spool) = self.open.remove(&xid) {
                let _ = fs::remove_file(spool.path);
            }
        } else if let Some(spool) = self.open.get_mut(&xid) {
            spool.aborted.insert(subxid);
        }
    }

    /// The committed transaction's pieces; `None` if replay wrote it or nothing came.
    pub fn commit(&mut self, xid: u32) -> io::Result<Option<Pieces>> {
        let Some(spool) = self.open.remove(&xid) else {
            return Ok(None);
        };
        let mut file = spool
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        fs::remove_file(&spool.path)?;
        if spool.ours {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(Some(Pieces {
            file: BufReader::with_capacity(256 << 10, file),
            aborted: spool.aborted,
        }))
    }
}

/// The changes of one committed large transaction, in order, without the aborted ones.
#[derive(Debug)]
pub struct Pieces {
    file: BufReader<File>,
    aborted: HashSet<u32>,
}

impl Pieces {
    /// The next change.
    pub fn next_change(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut head = [0; 8];
            match self.file.read_exact(&mut head) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e),
            }
            let [a, b, c, d, e, f, g, h] = head;
            let subxid = u32::from_be_bytes([a, b, c, d]);
            let mut change = BytesMut::zeroed(u32::from_be_bytes([e, f, g, h]) as usize);
            self.file.read_exact(&mut change)?;
            if !self.aborted.contains(&subxid) {
                return Ok(Some(change.freeze()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborted_subtransactions_leave_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let mut spools = Spools::open(&folder.path().join("spool")).expect("open");
        for (xid, subxid, change) in [
            (5, 5, "a"),
            (5, 6, "b"),
            (9, 9, "x"),
            (5, 7, "c"),
            (5, 6, "d"),
        ] {
            spools.add(xid, subxid, change.as_bytes()).expect("add");
        }
        spools.abort(5, 6);
        spools.abort(9, 9);
        let mut pieces = spools.commit(5).expect("commit").expect("there");
        let mut all = Vec::new();
        while let Some(change) = pieces.next_change().expect("read") {
            all.push(change);
        }
        assert_eq!(all, [Bytes::from_static(b"a"), Bytes::from_static(b"c")]);
        assert!(spools.commit(9).expect("commit").is_none());
    }
}
