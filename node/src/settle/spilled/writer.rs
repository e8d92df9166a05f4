//! Writes one file, in the order of its keys.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use everywrite_conflict::{Bounds, Entry, KeyHash};

use super::page::{self, PAGE, PAGES, RECORDS};
use super::{Asked, File};

/// What a file begins with.
const MAGIC: &[u8; 8] = b"EWSPILL\n";
/// The version of the format.
const VERSION: u32 = 1;

/// A file that is being written; removed if it is not [finished](Self::finish).
#[derive(Debug)]
pub(in crate::settle) struct Writer {
    path: PathBuf,
    out: Option<BufWriter<fs::File>>,
    level: u32,
    asked: Arc<Asked>,
    /// What is behind one filter.
    gathered: Vec<(KeyHash, Entry)>,
    firsts: Vec<u64>,
    bounds: Bounds,
    /// Pages written.
    pages: u64,
    last: Option<KeyHash>,
}

impl Writer {
    pub(super) fn new(path: PathBuf, level: u32, asked: Arc<Asked>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let mut writer = Writer {
            path,
            out: Some(BufWriter::with_capacity(64 << 10, file)),
            level,
            asked,
            gathered: Vec::with_capacity(PAGES * RECORDS),
            firsts: Vec::new(),
            bounds: Bounds::default(),
            pages: 0,
            last: None,
        };
        let mut head = [0; PAGE];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&level.to_le_bytes());
        writer.page(head)?;
        Ok(writer)
    }

    /// The next entry; keys have to come in their order, each once.
    pub(in crate::settle) fn push(&mut self, key: KeyHash, entry: Entry) -> io::Result<()> {
        debug_assert!(self.last < Some(key), "keys come in order");
        self.last = Some(key);
        self.bounds.add(&entry);
        self.gathered.push((key, entry));
        match self.gathered.len() == PAGES * RECORDS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.is_empty() {
            return Ok(());
        }
        self.page(page::filter(gathered.iter().map(|(key, _)| key)))?;
        for records in gathered.chunks(RECORDS) {
            let first = records.first().map_or(0, |(key, _)| (key.0 >> 64) as u64);
            self.firsts.push(first);
            self.page(page::records(records))?;
        }
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn page(&mut self, mut page: page::Page) -> io::Result<()> {
        page::seal(&mut page, self.pages);
        self.pages += 1;
        match &mut self.out {
            Some(out) => out.write_all(&page),
            None => Ok(()),
        }
    }

    /// All is written: from now on it can be read. `None`: there was nothing.
    pub(in crate::settle) fn finish(mut self) -> io::Result<Option<File>> {
        self.flush()?;
        if self.bounds.keys() == 0 {
            return Ok(None);
        }
        let Some(out) = self.out.take() else {
            return Ok(None);
        };
        let file = match out.into_inner() {
            Ok(file) => file,
            Err(err) => {
                let _ = fs::remove_file(&self.path);
                return Err(err.into_error());
            }
        };
        let (path, firsts) = (self.path.clone(), std::mem::take(&mut self.firsts));
        let (bounds, asked) = (std::mem::take(&mut self.bounds), Arc::clone(&self.asked));
        let bytes = self.pages * PAGE as u64;
        Ok(Some(File::new(
            path, file, self.level, firsts, bounds, bytes, asked,
        )))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.out.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
